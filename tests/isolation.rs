//! A broadcaster that panics, hangs, blocks or is busy harms its own delivery alone.

mod common;

use common::{START, at, millis, secs};
use punctual::{
    BroadcastError, Delivery, Error, ManualClock, MemoryStore, Outcome, Pool, Post, Receipt, RetryPolicy, Scheduler,
    State,
};
use std::future::Future;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

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
    let (said, heard) = mpsc::channel();
    let stuck = move |_| {
        said.send(()).unwrap();
        std::future::pending::<Result<Receipt, BroadcastError>>()
    };
    let stuck = Pool::new("stuck", stuck).concurrency(2).timeout(secs(3_600));
    let light = Pool::new("light", |_| async { Ok(Receipt::default()) });
    let scheduler = scheduler(&clock, vec![stuck, light]);
    let heavy = scheduler.schedule_all((0..100).map(|_| Post::new("stuck", "x"))).wait().unwrap();
    let light = scheduler.schedule(Post::new("light", "y")).wait().unwrap();
    assert!(matches!(scheduler.outcome(light).wait().unwrap(), Outcome::Delivered(_)));

    // What waits in the stuck pool can be taken back; what has been started cannot.
    assert_eq!([heard.recv(), heard.recv()], [Ok(()); 2]);
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

#[test]
fn a_call_that_blocked_beyond_its_time_leaves_the_call_in_its_place_alone() {
    for goes_on in [true, false] {
        let clock = ManualClock::at(at(START));
        let gate = Gate::default();
        let (held, (said, heard), (finish, end)) = (gate.clone(), mpsc::channel(), tokio::sync::watch::channel(false));
        let broadcaster = move |delivery: Delivery| {
            let (said, mut end) = (said.clone(), end.clone());
            let blocks = delivery.payload() == b"blocks" && !delivery.is_redelivery();
            if blocks {
                said.send("blocks").unwrap();
                held.block();
            }
            async move {
                said.send("waits").unwrap();
                match (blocks, goes_on) {
                    (true, true) => std::future::pending().await,
                    (true, false) => return Err(BroadcastError::unknown("after all")),
                    _ => end.wait_for(|end| *end).await.unwrap(),
                };
                said.send("ends").unwrap();
                Ok(Receipt::default())
            }
        };
        let scheduler = scheduler(&clock, vec![Pool::new("p", broadcaster).concurrency(1).timeout(secs(30))]);
        let next = || heard.recv_timeout(Duration::from_secs(10));
        scheduler.schedule(Post::new("p", "blocks")).wait().unwrap();
        assert_eq!(next(), Ok("blocks"));
        let waits = scheduler.schedule(Post::new("p", "waits")).wait().unwrap();
        clock.advance(secs(30));
        assert_eq!(next(), Ok("waits"), "the place of what was given up is free");
        gate.open();
        assert_eq!(next(), Ok("waits"), "what was given up goes on");
        finish.send(true).unwrap();
        assert_eq!(next(), Ok("ends"));
        assert!(matches!(scheduler.outcome(waits).wait().unwrap(), Outcome::Delivered(_)));
    }
}

#[test]
fn a_broadcaster_that_outlives_its_scheduler_still_has_its_timers() {
    let clock = ManualClock::at(at(START));
    let gate = Gate::default();
    let (held, (said, heard)) = (gate.clone(), mpsc::channel());
    let broadcaster = move |_: Delivery| {
        said.send("called").unwrap();
        held.block();
        // In a runtime that is gone, this panics.
        let mut timer = Box::pin(tokio::time::sleep(millis(1)));
        let _ = timer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        said.send("waits").unwrap();
        async move {
            timer.await;
            Ok(Receipt::default())
        }
    };
    let scheduler = scheduler(&clock, vec![Pool::new("p", broadcaster).threads(1)]);
    scheduler.schedule(Post::new("p", "blocks")).wait().unwrap();
    assert_eq!(heard.recv(), Ok("called"));
    scheduler.shutdown(millis(0)).wait().unwrap();
    gate.open();
    assert_eq!(heard.recv(), Ok("waits"));
}

#[test]
fn what_waits_is_stopped_with_its_scheduler_although_another_call_blocks() {
    let clock = ManualClock::at(at(START));
    let gate = Gate::default();
    let (held, (said, heard), (alive, dropped)) = (gate.clone(), mpsc::channel(), mpsc::channel::<()>());
    let alive = Mutex::new(Some(alive));
    let broadcaster = move |delivery: Delivery| {
        let alive = (delivery.payload() == b"waits").then(|| alive.lock().unwrap().take());
        said.send(()).unwrap();
        if alive.is_none() {
            held.block();
        }
        async move {
            let _alive = alive;
            std::future::pending().await
        }
    };
    let scheduler = scheduler(&clock, vec![Pool::new("p", broadcaster).threads(2)]);
    scheduler.schedule_all(["blocks", "waits"].map(|what| Post::new("p", what))).wait().unwrap();
    assert_eq!([heard.recv(), heard.recv()], [Ok(()); 2]);
    scheduler.shutdown(millis(0)).wait().unwrap();
    assert_eq!(dropped.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
    gate.open();
}

#[test]
fn a_scheduler_that_nobody_holds_any_more_ends() {
    let (alive, dropped) = mpsc::channel::<()>();
    let broadcaster = move |_: Delivery| {
        let _alive = &alive;
        async { Ok::<_, BroadcastError>(Receipt::default()) }
    };
    let pool = Pool::new("p", broadcaster);
    let scheduler = Scheduler::builder().store(MemoryStore::default()).pool(pool).start().unwrap();
    let other = scheduler.clone();
    other.schedule(Post::new("p", "far ahead").at(at(START) + chrono::TimeDelta::days(30_000))).wait().unwrap();
    drop(scheduler);
    assert_eq!(dropped.try_recv(), Err(TryRecvError::Empty));
    drop(other);
    assert_eq!(dropped.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
}
