//! What was acknowledged survives: restarts, in-flight posts, downtime. (Real processes and real files are killed
//! in `tests/kill.rs`.)

mod common;

use common::{START, World, at, millis, secs};
use punctual::{BroadcastError, ManualClock, MemoryStore, Outcome, Pool, Post, Receipt, Scheduler, State};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

fn post(payload: &str) -> Post {
    Post::new("p", payload)
}

fn same(pool: Pool) -> Pool {
    pool
}

/// A pool whose deliveries end when the gate is open.
fn gated(open: &Arc<AtomicBool>) -> Pool {
    let open = Arc::clone(open);
    Pool::new("p", move |_| {
        let open = Arc::clone(&open);
        async move {
            while !open.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
            Ok(Receipt::default())
        }
    })
}

impl World {
    /// As after a crash: nothing is shut down, another engine starts on the same store. Time stands still for
    /// the first one from now on.
    fn crash_and_restart(self) -> World {
        let World { clock, store, scheduler, .. } = self;
        std::mem::forget(scheduler);
        World::on(store, ManualClock::at(clock.now()), same, |builder| builder)
    }

    fn shut_down_and_restart(self, after: std::time::Duration) -> World {
        self.scheduler.shutdown(secs(5)).wait().unwrap();
        self.clock.advance(after);
        World::on(self.store.clone(), self.clock.clone(), same, |builder| builder)
    }
}

#[test]
fn posts_keep_their_due_over_a_restart_and_what_fell_due_meanwhile_goes_out_at_once() {
    let world = World::new();
    let base = at(START);
    for (name, due) in [("later", 7_200), ("meanwhile", 600), ("day after", 90_000)] {
        world.scheduler.schedule(post(name).at(base + secs(due))).wait().unwrap();
    }
    let world = world.shut_down_and_restart(secs(3_600));
    world.pass(secs(0));
    assert_eq!(world.outbox.payloads(), ["meanwhile"]);
    assert!(!world.outbox.calls()[0].redelivery, "it was never in flight");
    world.pass(secs(3_600) - millis(1));
    assert_eq!(world.outbox.calls().len(), 1);
    world.pass(millis(1));
    world.pass(secs(90_000));
    assert_eq!(world.outbox.payloads(), ["meanwhile", "later", "day after"]);
    let calls = world.outbox.calls();
    assert!(calls[1..].iter().all(|call| call.called >= call.due));
}

#[test]
fn what_was_in_flight_at_a_crash_comes_again_and_says_so_with_the_same_key() {
    let clock = ManualClock::at(at(START));
    let store = MemoryStore::default();
    let first: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = first.clone();
    let hangs = move |delivery: punctual::Delivery| {
        seen.lock().unwrap().push(delivery.idempotency_key());
        std::future::pending::<Result<Receipt, BroadcastError>>()
    };
    let pool = Pool::new("p", hangs);
    let scheduler = Scheduler::builder().store(store.clone()).clock(clock.clone()).pool(pool).start().unwrap();
    let flying = scheduler.schedule(post("flying").at(at(START) + secs(5))).wait().unwrap();
    scheduler.schedule(post("waiting").at(at(START) + secs(9))).wait().unwrap();
    clock.advance(secs(5));
    while first.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    std::mem::forget(scheduler);

    let world = World::on(store, ManualClock::at(clock.now() + secs(10)), same, |builder| builder);
    world.pass(secs(0));
    let calls = world.outbox.calls();
    let again = calls.iter().find(|call| call.payload == "flying").unwrap();
    assert!(again.redelivery);
    assert_eq!((again.attempt, again.id), (2, flying));
    assert_eq!(vec![again.idempotency_key.clone()], *first.lock().unwrap());
    assert_eq!(calls.iter().filter(|call| call.payload == "waiting").count(), 1);
}

#[test]
fn a_claim_whose_due_had_not_come_at_the_crash_is_no_possible_repeat() {
    let world = World::new();
    world.scheduler.schedule(post("a").at(at(START) + secs(10))).wait().unwrap();
    world.pass(secs(9));
    let world = world.crash_and_restart();
    world.pass(secs(1));
    let calls = world.outbox.calls();
    assert_eq!((calls.len(), calls[0].attempt, calls[0].redelivery), (1, 1, false));
}

#[test]
fn a_claimed_post_that_nobody_was_called_for_is_no_possible_repeat_whatever_the_clock_did() {
    for step in [-60, 0, 60] {
        let world = World::new();
        world.scheduler.schedule(post("a").at(at(START) + secs(10))).wait().unwrap();
        world.pass(secs(9));
        let clock = ManualClock::at(world.clock.now() + chrono::TimeDelta::seconds(step));
        let store = world.store.clone();
        std::mem::forget(world);
        let world = World::on(store, clock, same, |builder| builder);
        world.pass(secs(61));
        let calls = world.outbox.calls();
        assert_eq!((calls.len(), calls[0].redelivery), (1, false), "stepped by {step} s");
    }
}

#[test]
fn outcomes_and_keys_are_known_after_a_restart() {
    let world = World::new();
    let done = world.scheduler.schedule(post("done").key("k")).wait().unwrap();
    world.pass(secs(0));
    let world = world.crash_and_restart();
    assert_eq!(world.scheduler.outcome(done).wait().unwrap(), Outcome::Delivered(Receipt::new("sent done")));
    assert_eq!(world.scheduler.schedule(post("done").key("k")).wait().unwrap(), done);
    assert_eq!(world.scheduler.get("k").wait().unwrap().unwrap().state(), State::Delivered);
    world.pass(secs(3_600));
    assert!(world.outbox.calls().is_empty(), "a finished post is not sent again");
}

#[test]
fn a_retry_that_waits_survives_a_restart_with_its_attempts() {
    let world = World::new();
    world.outbox.answer("a", Err(BroadcastError::transient("503")));
    world.scheduler.schedule(post("a")).wait().unwrap();
    world.pass(secs(0));
    let world = world.crash_and_restart();
    world.pass(secs(3));
    assert!(world.outbox.calls().is_empty());
    world.pass(secs(10));
    let calls = world.outbox.calls();
    assert_eq!((calls.len(), calls[0].attempt, calls[0].redelivery), (1, 2, false));
    assert_eq!(calls[0].due, at(START), "the promise is still the first due");
}

#[test]
fn a_clean_shutdown_leaves_no_possible_repeats() {
    let open = Arc::new(AtomicBool::new(false));
    let clock = ManualClock::at(at(START));
    let store = MemoryStore::default();
    let pool = gated(&open).concurrency(2);
    let scheduler = Scheduler::builder().store(store.clone()).clock(clock.clone()).pool(pool).start().unwrap();
    let mut ids = scheduler.schedule_all((0..10).map(|n| post(&n.to_string()))).wait().unwrap();
    ids.extend(scheduler.schedule_all((0..10).map(|n| post(&n.to_string()).at(at(START) + secs(1)))).wait().unwrap());
    let closed = scheduler.shutdown(secs(3_600));
    open.store(true, Ordering::Release);
    closed.wait().unwrap();

    let world = World::on(store, clock, same, |builder| builder);
    world.pass(secs(0));
    world.pass(secs(1));
    assert!(world.outbox.calls().iter().all(|call| !call.redelivery && call.attempt == 1));
    for id in ids {
        assert!(matches!(world.scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)));
    }
}

#[test]
fn a_clean_shutdown_before_the_repeat_keeps_the_doubt() {
    let (store, clock) = (MemoryStore::default(), ManualClock::at(at(START)));
    let called = Arc::new(AtomicBool::new(false));
    let calls = called.clone();
    let hangs = move |_| {
        calls.store(true, Ordering::Release);
        std::future::pending::<Result<Receipt, BroadcastError>>()
    };
    let builder = Scheduler::builder().store(store.clone()).clock(clock).pool(Pool::new("p", hangs));
    let scheduler = builder.start().unwrap();
    let id = scheduler.schedule(post("a")).wait().unwrap();
    while !called.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    std::mem::forget(scheduler);
    let later = ManualClock::at(at(START) + secs(100));

    // The second process knows that the post may have been sent; its only worker is busy, so it does not get to it.
    let open = Arc::new(AtomicBool::new(false));
    let pool = gated(&open).concurrency(1);
    let builder = Scheduler::builder().store(store.clone()).clock(later.clone()).pool(pool);
    let scheduler = builder.start().unwrap();
    let busy = scheduler.schedule(post("busy").priority(punctual::Priority::HIGH)).wait().unwrap();
    let closed = scheduler.shutdown(secs(3_600));
    open.store(true, Ordering::Release);
    closed.wait().unwrap();

    let world = World::on(store, later, same, |builder| builder);
    world.pass(secs(0));
    let calls = world.outbox.calls();
    assert!(calls.iter().filter(|call| call.id == id).all(|call| call.redelivery), "{calls:?}");
    assert!(calls.iter().all(|call| call.id != busy || !call.redelivery));
}

#[test]
fn nothing_is_lost_when_the_grace_runs_out() {
    let clock = ManualClock::at(at(START));
    let store = MemoryStore::default();
    // No timeout frees a place for a fourth one.
    let pool = Pool::new("p", |_| std::future::pending::<Result<Receipt, BroadcastError>>());
    let pool = pool.concurrency(3).timeout(secs(86_400));
    let scheduler = Scheduler::builder().store(store.clone()).clock(clock.clone()).pool(pool).start().unwrap();
    scheduler.schedule_all((0..10).map(|n| post(&n.to_string()))).wait().unwrap();
    let closed = scheduler.shutdown(secs(30));
    let closing = std::thread::spawn(move || closed.wait());
    for _ in 0..100 {
        clock.advance(secs(30));
        let patience = std::time::Instant::now() + secs(1);
        while !closing.is_finished() && std::time::Instant::now() < patience {
            std::thread::yield_now();
        }
    }
    closing.join().unwrap().unwrap();

    let world = World::on(store, clock, same, |builder| builder);
    world.pass(secs(0));
    let calls = world.outbox.calls();
    assert_eq!(calls.len(), 10);
    assert!(calls.iter().filter(|call| call.redelivery).count() <= 3, "only what was in flight may be a repeat");
}
