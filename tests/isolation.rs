//! A broadcaster that panics, hangs, blocks or is busy harms its own delivery alone.

mod common;

use common::{START, at, millis, secs};
use punctual::{
    BroadcastError, Delivery, Error, ManualClock, MemoryStore, Outcome, Pool, Post, Receipt, RetryPolicy, Scheduler,
    State,
};
use std::sync::{Arc, Condvar, Mutex};

/// Holds threads up until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn block(&self) {
        let (open, changed) = &*self.0;
        let guard = open.lock().unwrap();
        drop(changed.wait_while(guard, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

fn scheduler(clock: &ManualClock, pools: Vec<Pool>) -> Scheduler {
    let builder = Scheduler::builder().store(MemoryStore::default()).clock(clock.clone());
    pools.into_iter().fold(builder, punctual::Builder::pool).start().unwrap()
}

#[test]
fn a_panic_ends_its_own_delivery_alone() {
    let clock = ManualClock::at(at(START));
    let broadcaster = |delivery: Delivery| {
        assert!(delivery.payload() != b"early", "no luck");
        async move {
            tokio::task::yield_now().await;
            assert!(delivery.payload() != b"late", "no luck either");
            Ok(Receipt::default())
        }
    };
    let pool = Pool::new("p", broadcaster).retry(RetryPolicy::none());
    let scheduler = scheduler(&clock, vec![pool]);
    for (payload, message) in [("early", "no luck"), ("late", "no luck either")] {
        let bad = scheduler.schedule(Post::new("p", payload)).wait().unwrap();
        match scheduler.outcome(bad).wait().unwrap() {
            Outcome::Failed { reason } => assert!(reason.ends_with(message), "{reason}"),
            other => panic!("{other:?}"),
        }
        let good = scheduler.schedule(Post::new("p", "good")).wait().unwrap();
        assert!(matches!(scheduler.outcome(good).wait().unwrap(), Outcome::Delivered(_)));
    }
}

#[test]
fn broadcasters_that_block_their_threads_hold_up_no_other_delivery() {
    let clock = ManualClock::at(at(START));
    let gate = Gate::default();
    let held = gate.clone();
    let broadcaster = move |delivery: Delivery| {
        if delivery.payload() == b"blocks" {
            held.block();
        }
        async { Ok(Receipt::default()) }
    };
    let scheduler = scheduler(&clock, vec![Pool::new("p", broadcaster).threads(1).concurrency(16)]);
    let blocked = scheduler.schedule_all((0..10).map(|_| Post::new("p", "blocks"))).wait().unwrap();
    let good = scheduler.schedule_all((0..50).map(|_| Post::new("p", "good"))).wait().unwrap();
    for id in good {
        assert!(matches!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)));
    }
    gate.open();
    for id in blocked {
        assert!(matches!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)));
    }
}

#[test]
fn broadcasters_that_block_for_a_moment_run_beside_each_other() {
    let clock = ManualClock::at(at(START));
    let (gate, waiting) = (Gate::default(), Arc::new(Mutex::new(0)));
    let (held, count) = (gate.clone(), waiting.clone());
    let broadcaster = move |_| {
        *count.lock().unwrap() += 1;
        if *count.lock().unwrap() == 64 {
            held.open();
        }
        held.block();
        async { Ok(Receipt::default()) }
    };
    // Nobody goes on before all are blocked at the same time.
    let scheduler = scheduler(&clock, vec![Pool::new("p", broadcaster).concurrency(64)]);
    for id in scheduler.schedule_all((0..64).map(|_| Post::new("p", "x"))).wait().unwrap() {
        assert!(matches!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)));
    }
}

#[test]
fn a_pool_that_is_stuck_does_not_delay_another_nor_its_own_cancels() {
    let clock = ManualClock::at(at(START));
    let stuck = Pool::new("stuck", |_| std::future::pending::<Result<Receipt, BroadcastError>>())
        .concurrency(2)
        .timeout(secs(3_600));
    let light = Pool::new("light", |_| async { Ok(Receipt::default()) });
    let scheduler = scheduler(&clock, vec![stuck, light]);
    let heavy = scheduler.schedule_all((0..100).map(|_| Post::new("stuck", "x"))).wait().unwrap();
    let light = scheduler.schedule(Post::new("light", "y")).wait().unwrap();
    assert!(matches!(scheduler.outcome(light).wait().unwrap(), Outcome::Delivered(_)));

    // What waits in the stuck pool can be taken back; what has been started cannot.
    let (mut cancelled, mut late) = (0, 0);
    for id in heavy {
        match scheduler.cancel(id).wait() {
            Ok(()) => cancelled += 1,
            Err(Error::TooLate { state: State::InFlight, .. }) => late += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((cancelled, late), (98, 2));
}

#[test]
fn a_hanging_delivery_is_given_up_after_the_timeout_and_its_place_is_free() {
    let clock = ManualClock::at(at(START));
    let calls: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let seen = calls.clone();
    let broadcaster = move |delivery: Delivery| {
        let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
        seen.lock().unwrap().push((payload.clone(), delivery.is_redelivery()));
        async move {
            if payload == "hangs" && !delivery.is_redelivery() {
                std::future::pending::<()>().await;
            }
            Ok(Receipt::default())
        }
    };
    let retry = RetryPolicy::exponential(secs(1));
    let pool = Pool::new("p", broadcaster).concurrency(1).timeout(secs(30)).retry(retry);
    let scheduler = scheduler(&clock, vec![pool]);
    let hangs = scheduler.schedule(Post::new("p", "hangs")).wait().unwrap();
    while calls.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    let waits = scheduler.schedule(Post::new("p", "waits")).wait().unwrap();
    clock.advance(secs(30) - millis(1));
    assert_eq!(calls.lock().unwrap().len(), 1, "one at a time");
    clock.advance(millis(1));
    assert!(matches!(scheduler.outcome(waits).wait().unwrap(), Outcome::Delivered(_)));
    clock.advance(secs(1));
    assert!(matches!(scheduler.outcome(hangs).wait().unwrap(), Outcome::Delivered(_)));
    assert_eq!(calls.lock().unwrap().last().unwrap(), &("hangs".to_owned(), true), "it may be a repeat, and says so");
}
