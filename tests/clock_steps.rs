//! The wall clock may step; nothing is early by it, nothing is sent twice, nothing is forgotten.

mod common;

use chrono::TimeDelta;
use common::{START, World, at, secs};
use proptest::prelude::*;
use punctual::{Event, Post};

fn post(payload: &str) -> Post {
    Post::new("p", payload)
}

#[test]
fn a_step_forward_sends_what_became_due() {
    let world = World::new();
    let mut events = world.scheduler.events();
    world.scheduler.schedule(post("a").at(at(START) + secs(3_600))).wait().unwrap();
    world.clock.step(TimeDelta::hours(1));
    world.scheduler.settle().wait().unwrap();
    assert_eq!(world.outbox.payloads(), ["a"]);
    assert!(matches!(events.wait(), Some(Event::Scheduled { .. })));
    assert_eq!(events.wait(), Some(Event::ClockStepped { by_micros: 3_600_000_000 }));
}

#[test]
fn a_step_back_sends_nothing_twice_and_nothing_early() {
    let world = World::new();
    let base = at(START);
    world.scheduler.schedule(post("sent").at(base + secs(10))).wait().unwrap();
    world.scheduler.schedule(post("next").at(base + secs(20))).wait().unwrap();
    world.pass(secs(19));
    world.clock.step(TimeDelta::seconds(-15));
    world.scheduler.schedule(post("between").at(base + secs(12))).wait().unwrap();
    world.pass(secs(7));
    assert_eq!(world.outbox.payloads(), ["sent"], "it is {} now", world.clock.now());
    world.pass(secs(1));
    world.pass(secs(8));
    assert_eq!(world.outbox.payloads(), ["sent", "between", "next"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the clock does: every post is sent once, and never while the clock shows less than its due.
    #[test]
    fn whatever_the_clock_does_each_post_is_sent_once_and_never_early(
        dues in proptest::collection::vec(0u64..200_000, 1..40),
        moves in proptest::collection::vec((0u64..20_000, -30_000i64..30_000, 0u8..4), 1..30),
    ) {
        let world = World::new();
        let mut dues = dues.into_iter();
        let mut sent = 0;
        for (pass, step, schedule) in moves {
            for due in dues.by_ref().take(schedule.into()) {
                let due = world.clock.now() + TimeDelta::milliseconds(due as i64);
                world.scheduler.schedule(post(&sent.to_string()).at(due)).wait().unwrap();
                sent += 1;
            }
            world.pass(std::time::Duration::from_millis(pass));
            world.clock.step(TimeDelta::milliseconds(step));
            world.scheduler.settle().wait().unwrap();
        }
        world.clock.step(TimeDelta::days(1));
        world.scheduler.settle().wait().unwrap();
        let calls = world.outbox.calls();
        prop_assert!(calls.iter().all(|call| call.called >= call.due));
        let mut payloads: Vec<usize> = calls.iter().map(|call| call.payload.parse().unwrap()).collect();
        payloads.sort_unstable();
        prop_assert_eq!(payloads, (0..sent).collect::<Vec<_>>());
    }
}
