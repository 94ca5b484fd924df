//! Memory follows the horizon and the budget, not the number of posts scheduled; and what does not fit is sent all
//! the same.

mod common;

use common::{START, World, at, millis, secs};
use proptest::prelude::*;
use punctual::Post;

#[test]
fn a_spike_far_larger_than_the_memory_is_sent_whole_and_once() {
    let world = World::with(|pool| pool.concurrency(8), |builder| builder.memory(64 << 10));
    let due = at(START) + secs(20);
    let posts = (0..3_000).map(|n| Post::new("p", format!("{n:0100}")).at(due));
    world.scheduler.schedule_all(posts).wait().unwrap();
    world.pass(secs(19));
    assert!(world.outbox.calls().is_empty());
    world.pass(secs(1));
    let mut payloads: Vec<usize> = world.outbox.payloads().iter().map(|payload| payload.parse().unwrap()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, (0..3_000).collect::<Vec<_>>());
}

#[test]
fn a_near_post_is_on_time_although_farther_ones_have_filled_the_memory() {
    let world = World::with(|pool| pool, |builder| builder.memory(64 << 10));
    let far = (0..2_000).map(|n| Post::new("p", format!("{n:0100}")).at(at(START) + secs(40)));
    world.scheduler.schedule_all(far).wait().unwrap();
    world.pass(secs(1));
    world.scheduler.schedule(Post::new("p", "near").at(at(START) + secs(3))).wait().unwrap();
    world.pass(secs(2));
    assert_eq!(world.outbox.payloads(), ["near"]);
    world.pass(secs(37));
    assert_eq!(world.outbox.calls().len(), 2_001);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// With hardly any memory: cancels, re-timings and dues all over the place, each post is sent once and never
    /// early, or was cancelled.
    #[test]
    fn with_hardly_any_memory_each_post_is_sent_once_or_cancelled(
        ops in proptest::collection::vec((0u8..5, 0u64..150_000, 0usize..1_000), 20..400),
    ) {
        let world = World::with(|pool| pool.concurrency(4), |builder| builder.memory(64 << 10));
        let (mut ids, mut cancelled) = (Vec::new(), Vec::new());
        for (op, time, which) in ops {
            let due = world.clock.now() + millis(time);
            match op {
                0..=1 => {
                    let (first, count) = (ids.len(), which % 40 + 1);
                    let posts = (first..first + count).map(|n| Post::new("p", format!("{n:0200}")).at(due));
                    ids.extend(world.scheduler.schedule_all(posts).wait().unwrap());
                }
                2 if !ids.is_empty() => {
                    if world.scheduler.cancel(ids[which % ids.len()]).wait().is_ok() {
                        cancelled.push(which % ids.len());
                    }
                }
                3 if !ids.is_empty() => {
                    let _ = world.scheduler.reschedule(ids[which % ids.len()], due).wait();
                }
                _ => world.pass(millis(time / 10)),
            }
        }
        for _ in 0..40 {
            world.pass(secs(4));
        }
        let calls = world.outbox.calls();
        prop_assert!(calls.iter().all(|call| call.called >= call.due));
        let mut ended: Vec<usize> = calls.iter().map(|call| call.payload.parse().unwrap()).collect();
        ended.extend(&cancelled);
        ended.sort_unstable();
        prop_assert_eq!(ended, (0..ids.len()).collect::<Vec<_>>());
    }
}
