//! The cells that several threads share, in every order in which their steps can come.
//!
//! With loom all orders with at most two preemptions, and what weakly ordered memory may show (more with
//! `LOOM_MAX_PREEMPTIONS`):
//! `RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/rustc-with-loom cargo test --lib interleavings`.
//! With shuttle 100,000 orders drawn by chance (more with `PUNCTUAL_SCHEDULES`):
//! `RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/rustc-with-shuttle cargo test --release --lib interleavings`, ten million in some minutes.
//!
//! The channels of crossbeam and the answers of tokio take no part in it: in place of the first stands
//! `sync/model/channel.rs`; an answer is one step.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::Bell;
use crate::committer::Committer;
use crate::engine::{Answer, Request, Sought};
use crate::error::{Error, Result};
use crate::gate::{Entry, Gate, Rules};
use crate::id::Seq;
use crate::inbox::{Refused, Take, inbox};
use crate::post::Stage;
use crate::quota::{RateLimit, Scope};
use crate::reply::{Promise, Reply};
use crate::store::MemoryStore;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::thread::spawn;
use crate::time::Timestamp;

#[cfg(interleave = "loom")]
fn check(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(2));
    model.max_branches = 10_000;
    model.check(run);
}

#[cfg(interleave = "shuttle")]
#[allow(clippy::disallowed_methods, reason = "how long this goes on is no setting of the crate")]
fn check(run: impl Fn() + Send + Sync + 'static) {
    let schedules = std::env::var("PUNCTUAL_SCHEDULES").ok().and_then(|schedules| schedules.parse().ok());
    let schedules: usize = schedules.unwrap_or(100_000);
    let run = Arc::new(run);
    let again = Arc::clone(&run);
    shuttle::check_random(move || run(), schedules / 2);
    shuttle::check_pct(move || again(), schedules / 2, 3);
}

/// What a reply says now.
fn answer<T>(reply: Reply<T>) -> Option<Result<T>> {
    match pin!(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

#[test]
fn a_delivery_is_called_or_withdrawn_and_never_both() {
    check(|| {
        let stage = Arc::new(Stage::default());
        let said = Arc::new(AtomicU8::new(0));
        let caller = spawn({
            let (stage, said) = (Arc::clone(&stage), Arc::clone(&said));
            move || {
                stage.ask();
                said.store(1, Ordering::Relaxed);
                stage.call()
            }
        });
        let other = spawn({
            let stage = Arc::clone(&stage);
            move || stage.withdraw()
        });
        let is_withdrawn = stage.withdraw();
        let is_refused = !is_withdrawn && !stage.is_withdrawn();
        assert!(!is_refused || said.load(Ordering::Relaxed) == 1, "what came before the call is not seen");
        let decided = [caller.join().unwrap(), other.join().unwrap(), is_withdrawn];
        assert_eq!(decided.into_iter().filter(|is_decided| *is_decided).count(), 1, "{decided:?}");
    });
}

#[test]
fn no_ring_is_lost() {
    check(|| {
        let bell = Bell::default();
        let words = Arc::new([AtomicU8::new(0), AtomicU8::new(0)]);
        let ringers = [0, 1].map(|place| {
            let (bell, words) = (bell.clone(), Arc::clone(&words));
            spawn(move || {
                words[place].store(1, Ordering::Relaxed);
                bell.ring();
            })
        });
        // On a thread of its own: loom's `unpark` also wakes one that waits for the end of another.
        let sleeper = spawn(move || {
            while words.iter().any(|word| word.load(Ordering::Relaxed) == 0) {
                bell.nap(Duration::MAX);
            }
        });
        sleeper.join().unwrap();
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}

#[test]
fn a_ring_shows_what_was_written_before_it() {
    check(|| {
        let bell = Bell::default();
        let word = Arc::new(AtomicU8::new(0));
        let ringer = spawn({
            let (bell, word) = (bell.clone(), Arc::clone(&word));
            move || {
                word.store(1, Ordering::Relaxed);
                bell.ring();
            }
        });
        let sleeper = spawn(move || {
            while !bell.nap(Duration::MAX) {}
            assert_eq!(word.load(Ordering::Relaxed), 1);
        });
        sleeper.join().unwrap();
        ringer.join().unwrap();
    });
}

// loom's `unpark` also wakes a thread that waits for a lock.
#[cfg(interleave = "shuttle")]
#[test]
fn a_loop_gets_every_message_and_notices_that_nobody_is_left() {
    check(|| {
        let bell = Bell::default();
        let (slot, inbox) = inbox(1, &bell);
        let writers = [slot.clone(), slot].map(|slot| spawn(move || slot.put_waiting(1)));
        let mut messages = 0;
        loop {
            match inbox.take() {
                Take::Message(message) => messages += message,
                Take::Empty => drop(bell.nap(Duration::MAX)),
                Take::Deserted => break,
            }
        }
        assert_eq!(messages, 2);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

#[test]
fn nothing_is_left_in_an_inbox_whose_loop_has_ended_and_no_writer_waits_for_it() {
    check(|| {
        let (slot, inbox) = inbox(1, &Bell::default());
        let message = Arc::new(());
        let waiting = spawn({
            let (slot, message) = (slot.clone(), Arc::clone(&message));
            move || {
                slot.put_waiting(Arc::clone(&message));
                slot.put_waiting(message);
                slot
            }
        });
        let other = spawn({
            let message = Arc::clone(&message);
            move || {
                let _ = slot.put(message);
                slot
            }
        });
        drop(inbox);
        let _slots = (waiting.join().unwrap(), other.join().unwrap());
        assert_eq!(Arc::strong_count(&message), 1, "a message is still in the channel");
    });
}

#[test]
fn every_call_is_answered_by_the_loop_or_by_its_end() {
    check(|| {
        let bell = Bell::default();
        let (slot, inbox) = inbox::<Promise<u8>>(1, &bell);
        let callers = [slot.clone(), slot].map(|slot| {
            spawn(move || {
                let (promise, reply) = Promise::new();
                let is_put = match slot.put(promise) {
                    Ok(()) => true,
                    Err(Refused::Full(_) | Refused::Closed(_)) => false,
                };
                (is_put, reply, slot)
            })
        });
        let is_taken = match inbox.take() {
            Take::Message(promise) => {
                promise.fulfil(Ok(7));
                true
            }
            _ => false,
        };
        drop(inbox);
        // Only when all are done: a message of one may be dropped by the other.
        let callers = callers.map(|caller| caller.join().unwrap());
        let answers = callers.map(|(is_put, reply, slot)| (is_put, answer(reply), slot));
        for (is_put, answer, _) in &answers {
            match answer {
                Some(Ok(7)) => assert!(is_put),
                Some(Err(Error::Closed)) => {}
                other => panic!("{other:?}"),
            }
        }
        let taken = answers.iter().filter(|(_, answer, _)| matches!(answer, Some(Ok(_)))).count();
        assert_eq!(taken, usize::from(is_taken));
    });
}

#[test]
fn a_limit_holds_for_all_who_share_a_gate_and_a_throttle_is_seen() {
    check(|| {
        let now = Timestamp::from_millis(1_000);
        let limit = RateLimit::rolling(1, Duration::from_secs(1));
        let gate = Gate::new("pool", Rules { pool: vec![limit], ..Rules::default() });
        let other = spawn({
            let gate = gate.clone();
            move || gate.enter("", now) == Entry::Go
        });
        let entered = [gate.enter("", now) == Entry::Go, other.join().unwrap()];
        assert_eq!(entered.into_iter().filter(|is_in| *is_in).count(), 1);

        let open = Gate::new("open", Rules::default());
        let throttling = spawn({
            let open = open.clone();
            move || open.throttle(Scope::Pool, "", now.after(Duration::from_secs(1)))
        });
        open.enter("", now);
        throttling.join().unwrap();
        assert_ne!(open.enter("", now), Entry::Go);
    });
}

/// The driver's order of ending, with the real committer and a stand-in for a worker.
#[test]
fn shutdown_ends_every_loop_whatever_is_on_the_way() {
    check(|| {
        let bell = Bell::default();
        let (requests, to_commit) = inbox(2, &Bell::default());
        let (answers_in, answers) = inbox::<Answer>(1, &bell);
        let (orders, to_do) = inbox::<u8>(1, &Bell::default());
        let (reports_in, reports) = inbox::<u8>(1, &bell);
        let store = Box::new(MemoryStore::default());
        let committer = spawn(move || Committer { store, requests: to_commit, answers: answers_in }.run());
        let worker = spawn(move || {
            while let Some(order) = to_do.wait() {
                reports_in.put_waiting(order);
                reports_in.put_waiting(order);
            }
        });
        for number in [1, 2] {
            requests.put_waiting(Request::Find { token: number as usize, sought: Sought::Seq(Seq(number)) });
        }
        let _ = orders.put(1);
        drop((answers, reports));
        drop(orders);
        worker.join().unwrap();
        drop(requests);
        assert!(committer.join().unwrap().is_ok());
    });
}
