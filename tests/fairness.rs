//! Who goes first when not all can go: by due, by turns, by priority that ages; also after a pause, after downtime, and
//! behind a rate limit.

mod common;

use common::{START, at, secs};
use punctual::{Broadcaster, Delivery, ManualClock, MemoryStore, Pool, Post, Priority, RateLimit, Receipt, Scheduler};
use std::sync::{Arc, Mutex};

/// What was sent, in order.
type Log = Arc<Mutex<Vec<String>>>;

fn logging(log: &Log) -> impl Broadcaster + use<> {
    let log = log.clone();
    move |delivery: Delivery| {
        log.lock().unwrap().push(String::from_utf8_lossy(delivery.payload()).into_owned());
        async { Ok(Receipt::default()) }
    }
}

fn start(store: &MemoryStore, clock: &ManualClock, pool: Pool) -> Scheduler {
    Scheduler::builder().store(store.clone()).clock(clock.clone()).pool(pool).start().unwrap()
}

fn fresh(pool: impl FnOnce(Pool) -> Pool) -> (Scheduler, ManualClock, Log) {
    let (clock, log) = (ManualClock::at(at(START)), Log::default());
    let scheduler = start(&MemoryStore::default(), &clock, pool(Pool::new("p", logging(&log)).concurrency(1)));
    (scheduler, clock, log)
}

/// Lets time pass, and waits after each step until everything that is due has been done.
fn pass(scheduler: &Scheduler, clock: &ManualClock, steps: u32, step: std::time::Duration) {
    for _ in 0..steps {
        clock.advance(step);
        scheduler.settle().wait().unwrap();
    }
}

#[test]
fn after_a_pause_posts_go_out_by_due_and_priorities_have_aged() {
    let (scheduler, clock, log) = fresh(|pool| pool);
    let post = |text: &str, due| Post::new("p", text).at(at(START) + secs(due));
    let posts = [
        post("late", 3_600),
        post("early", 1_800),
        post("high", 1_700).priority(Priority::HIGH),
        post("low", 60).priority(Priority::LOW),
    ];
    scheduler.schedule_all(posts).wait().unwrap();
    scheduler.pause("p").wait().unwrap();
    pass(&scheduler, &clock, 8, secs(900));
    assert!(log.lock().unwrap().is_empty());
    scheduler.resume("p").wait().unwrap();
    scheduler.settle().wait().unwrap();
    assert_eq!(*log.lock().unwrap(), ["low", "high", "early", "late"]);
}

#[test]
fn after_downtime_posts_go_out_by_due() {
    let (clock, log, store) = (ManualClock::at(at(START)), Log::default(), MemoryStore::default());
    let pool = || Pool::new("p", logging(&log)).concurrency(1);
    let scheduler = start(&store, &clock, pool());
    let dues = [3_600, 1_800, 2_400];
    let posts = dues.map(|due| Post::new("p", due.to_string()).at(at(START) + secs(due)));
    scheduler.schedule_all(posts).wait().unwrap();
    scheduler.shutdown(secs(1)).wait().unwrap();
    clock.advance(secs(7_200));
    let scheduler = start(&store, &clock, pool());
    scheduler.settle().wait().unwrap();
    assert_eq!(*log.lock().unwrap(), ["1800", "2400", "3600"]);
}

#[test]
fn a_low_post_gets_its_turn_behind_high_ones_when_it_has_waited_two_minutes_longer() {
    for gap in [4, 10, 40] {
        let (scheduler, clock, log) = fresh(|pool| pool.limit(RateLimit::spacing(secs(gap))));
        // Two urgent posts come for each that may go.
        let begin = at(START) + secs(gap);
        let high = |n: u64| Post::new("p", "high").priority(Priority::HIGH).at(begin + secs(n * gap) / 2);
        let low = Post::new("p", "low").priority(Priority::LOW).at(begin);
        scheduler.schedule_all((0..100).map(high).chain([low])).wait().unwrap();
        pass(&scheduler, &clock, 180, secs(gap) / 2);
        let place = log.lock().unwrap().iter().position(|text| text == "low").unwrap() as u64;
        // The urgent post that is next then was due two minutes after the low one: so many were due before it.
        let due_before = 120 * 2 / gap;
        assert!(place.abs_diff(due_before) <= 3, "gap {gap}: place {place}, {due_before} due before");
    }
}

#[test]
fn behind_a_limit_a_profile_with_one_post_waits_for_one_turn_only() {
    for gap in [1, 10, 3_600] {
        let (scheduler, clock, log) = fresh(|pool| pool.limit(RateLimit::spacing(secs(gap))));
        let due = at(START) + secs(10);
        let agency = (0..20).map(|_| Post::new("p", "agency").profile("agency").at(due));
        scheduler.schedule_all(agency.chain([Post::new("p", "bakery").profile("bakery").at(due)])).wait().unwrap();
        pass(&scheduler, &clock, 40, secs(gap.max(10)));
        let place = log.lock().unwrap().iter().position(|text| text == "bakery");
        assert!(place.is_some_and(|place| place <= 1), "gap {gap}: {place:?}");
    }
}
