//! Delivery semantics, promise by promise, on one thread with a store in memory.

use super::tests::{Rig, given};
use super::*;
use crate::error::{Error, Result};
use crate::id::{PostId, State};
use crate::post::{BroadcastError, Ending, Guarantee, Post, Prepared, Receipt, Reconciled, Resolution, Shelf, Task};
use crate::retry::RetryPolicy;
use proptest::prelude::*;

const SECOND: u64 = 1_000;

fn at_most_once() -> Post {
    Post::new("p", "x").guarantee(Guarantee::AtMostOnce)
}

fn attempt(delivery: &Delivery, called: bool, ending: Ending) -> Attempt {
    Attempt { delivery: delivery.clone(), started: None, called, ending }
}

fn ended(rig: &mut Rig, delivery: &Delivery, called: bool, ending: Ending) {
    rig.report(Report { ended: vec![attempt(delivery, called, ending)], ..Report::default() });
    rig.work();
}

fn timeout() -> Ending {
    Ending::TimedOut { after: Duration::from_secs(60) }
}

// --- doubt ---

#[test]
fn a_claim_whose_due_had_not_come_is_unsent_after_a_crash() {
    let mut rig = Rig::new();
    rig.stored(1_500, &at_most_once());
    let mut rig = rig.restart(100, |_| {});
    rig.pass(1_400);
    let delivery = rig.call();
    assert!(!delivery.is_redelivery() && delivery.attempt() == 1);
}

#[test]
fn after_a_power_loss_a_claim_is_in_doubt_if_its_due_may_have_come() {
    // How much later the next process begins, by its own clock, and whether the post may have been published.
    for (after, is_in_doubt) in [(100, false), (1_499, false), (1_500, true), (60_000, true), (-1, true)] {
        let mut rig = Rig::new();
        let id = rig.stored(1_500, &at_most_once());
        assert_eq!(rig.engine.posts.iter().next().unwrap().1.phase, Phase::Claimed, "a test of nothing");
        rig.store.lose_calls();
        let now = Now { wall: Timestamp::from_millis(rig.now.wall.millis() + after), ..rig.now };
        let mut rig = Rig::on(rig.store.clone(), now, |_| {});
        let state = rig.status(id).unwrap().state();
        rig.pass(120 * SECOND);
        rig.work();
        assert_eq!(rig.delivered.pop().unwrap().is_redelivery(), is_in_doubt, "{after} ms later: {state:?}");
    }
}

#[test]
fn what_was_handed_over_but_not_called_is_unsent_after_a_crash() {
    let mut rig = Rig::new();
    rig.stored(0, &at_most_once());
    assert_eq!(rig.delivered.len(), 1);
    let mut rig = rig.restart(SECOND, |_| {});
    let delivery = rig.call();
    assert!(!delivery.is_redelivery());
    assert_eq!(delivery.facts().doubt(), Doubt::None);
}

#[test]
fn what_was_called_is_in_doubt_after_a_crash_and_after_the_next_one_too() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &at_most_once());
    let key = rig.call().idempotency_key();
    for _ in 0..3 {
        rig = rig.restart(SECOND, |_| {});
        let delivery = rig.delivered.last().unwrap();
        assert_eq!((delivery.facts().doubt(), delivery.facts().guarantee), (Doubt::Open, Guarantee::AtMostOnce));
        assert_eq!(delivery.idempotency_key(), key);
        assert_eq!(rig.status(id).unwrap().state(), State::InFlight);
    }
}

#[test]
fn at_most_once_is_held_in_doubt_and_resolved_by_the_host() {
    for resolution in [Resolution::Sent(Receipt::new("u")), Resolution::SendAgain, Resolution::Drop] {
        let mut rig = Rig::new();
        let id = rig.stored(0, &at_most_once());
        let delivery = rig.call();
        rig.end(&delivery, timeout());
        rig.work();
        assert_eq!(rig.status(id).unwrap().state(), State::InDoubt);
        assert!(matches!(rig.wished(id, Wish::Cancel), Err(Error::TooLate { state: State::InDoubt, .. })));
        rig.pass(10 * SECOND);
        rig.work();
        let asked = rig.call();
        ended(&mut rig, &asked, false, Ending::Reconciled(Reconciled::Unknown));
        assert!(rig.events.iter().any(|event| matches!(event, Event::InDoubt { .. })));
        assert_eq!(rig.shelf(Shelf::InDoubt), [id]);
        assert_eq!(rig.status(id).unwrap().state(), State::InDoubt);
        let mut rig = rig.restart(3_600 * SECOND, |_| {});
        assert!(rig.delivered.is_empty(), "it is held");
        rig.wished(id, Wish::Resolve(resolution.clone())).unwrap();
        assert_eq!(rig.shelf(Shelf::InDoubt), []);
        match resolution {
            Resolution::SendAgain => {
                let again = rig.call();
                assert!(again.is_redelivery() && again.facts().doubt() == Doubt::Accepted);
                rig.answer(&again, Ok("v"));
                assert_eq!(rig.status(id).unwrap().outcome(), Some(&Outcome::Delivered(Receipt::new("v"))));
            }
            Resolution::Sent(receipt) => {
                assert_eq!(rig.status(id).unwrap().outcome(), Some(&Outcome::Delivered(receipt)));
            }
            Resolution::Drop => assert_eq!(rig.status(id).unwrap().outcome(), Some(&Outcome::Cancelled)),
        }
        let over = rig.wished(id, Wish::Resolve(Resolution::Drop));
        assert!(matches!(over, Err(Error::NotInDoubt { .. })));
    }
}

#[test]
fn what_may_be_published_is_asked_about_before_it_is_missed() {
    let mut rig = Rig::new();
    rig.stored(1_000, &at_most_once().expires_after(Duration::from_secs(5)));
    rig.pass(SECOND);
    rig.work();
    let hangs = rig.call();
    assert_eq!(hangs.facts().deadline, Some(hangs.facts().due.after(Duration::from_secs(5))));
    rig.end(&hangs, timeout());
    rig.work();
    rig.pass(60 * SECOND);
    rig.work();
    let asked = rig.call();
    assert_eq!((asked.facts().deadline, asked.facts().doubt()), (None, Doubt::Open));
    assert_eq!(asked.facts().last, hangs.facts().deadline);
}

#[test]
fn dead_letters_that_are_dropped_stay_failed_and_old_ones_are_given_up_however_many_they_are() {
    let mut rig = Rig::new();
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(rig.stored(0, &Post::new("p", vec![0; 60_000])));
        let delivery = rig.call();
        rig.answer(&delivery, Err(BroadcastError::permanent("400")));
    }
    rig.wished(ids[0], Wish::Resolve(Resolution::Drop)).unwrap();
    let failed = Outcome::Failed { reason: "400".to_owned() };
    assert_eq!(rig.status(ids[0]).unwrap().outcome(), Some(&failed));
    for days in [29, 2] {
        for _ in 0..days {
            rig.pass(86_400 * SECOND);
            rig.work();
        }
        let is_left = days == 29;
        assert_eq!(rig.shelf(Shelf::Dead).is_empty(), !is_left, "after {days} days");
    }
    for id in &ids {
        let is_end = |event: &&Event| matches!(event, Event::Settled { id: of, .. } if of == id);
        assert_eq!(rig.events.iter().filter(is_end).count(), 1, "it is said once");
    }
    // For a day their outcomes are known.
    assert!(ids[1..].iter().all(|id| rig.status(*id).unwrap().outcome() == Some(&failed)));
}

#[test]
fn of_a_dead_letter_that_was_published_after_all_that_is_said_too() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "x"));
    let delivery = rig.call();
    rig.answer(&delivery, Err(BroadcastError::permanent("400")));
    rig.wished(id, Wish::Resolve(Resolution::Sent(Receipt::new("u")))).unwrap();
    let outcome = |event: &Event| match event {
        Event::Settled { outcome, .. } => Some(outcome.clone()),
        _ => None,
    };
    let said: Vec<_> = rig.events.iter().filter_map(outcome).collect();
    let failed = Outcome::Failed { reason: "400".to_owned() };
    assert_eq!(said, [failed, Outcome::Delivered(Receipt::new("u"))]);
}

#[test]
fn the_broadcaster_may_know_what_came_of_it() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &at_most_once());
    rig.call();
    let mut rig = rig.restart(SECOND, |_| {});
    let asked = rig.call();
    ended(&mut rig, &asked, false, Ending::Reconciled(Reconciled::Sent(Receipt::new("u"))));
    assert_eq!(rig.status(id).unwrap().outcome(), Some(&Outcome::Delivered(Receipt::new("u"))));

    // It is not there: the broadcaster was called in the same attempt, and failed for certain.
    let mut rig = Rig::new();
    let id = rig.stored(0, &at_most_once());
    rig.call();
    let mut rig = rig.restart(SECOND, |_| {});
    let asked = rig.call();
    asked.facts().stage.clear_doubt();
    rig.answer(&asked, Err(BroadcastError::transient("503")));
    assert_eq!(rig.status(id).unwrap().state(), State::Scheduled);
    rig.pass(60 * SECOND);
    rig.work();
    assert!(!rig.call().is_redelivery());
}

#[test]
fn a_network_that_cannot_be_asked_is_asked_again_without_end_and_without_attempts() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &at_most_once());
    let called = rig.call();
    rig.end(&called, timeout());
    rig.work();
    for _ in 0..20 {
        rig.pass(4_000 * SECOND);
        rig.work();
        let asked = rig.call();
        ended(&mut rig, &asked, false, Ending::Unreconciled(BroadcastError::transient("down")));
    }
    let status = rig.status(id).unwrap();
    assert_eq!((status.attempts(), status.state()), (1, State::InDoubt));
}

#[test]
fn a_late_answer_settles_the_doubt_wherever_the_post_is_by_then() {
    for held in [false, true] {
        for published in [true, false] {
            let mut rig = Rig::new();
            let id = rig.stored(0, &at_most_once());
            let hangs = rig.call();
            rig.end(&hangs, timeout());
            rig.work();
            if held {
                rig.pass(10 * SECOND);
                rig.work();
                let asked = rig.call();
                ended(&mut rig, &asked, false, Ending::Reconciled(Reconciled::Unknown));
                assert_eq!(rig.shelf(Shelf::InDoubt), [id]);
            }
            let answer = if published { Ok(Receipt::new("u")) } else { Err(BroadcastError::transient("503")) };
            let late = attempt(&hangs, true, Ending::Answered(answer));
            rig.report(Report { late: vec![late], ..Report::default() });
            rig.work();
            let status = rig.status(id).unwrap();
            if published {
                assert_eq!(status.outcome(), Some(&Outcome::Delivered(Receipt::new("u"))), "held: {held}");
            } else {
                assert!(!status.may_be_sent(), "held: {held}");
                rig.pass(60 * SECOND);
                rig.work();
                assert!(!rig.call().is_redelivery());
            }
        }
    }
}

#[test]
fn a_checkpoint_survives_a_crash_and_leaves_the_claim_as_it_is() {
    let mut rig = Rig::new();
    rig.stored(0, &at_most_once());
    let delivery = rig.call();
    let (promise, reply) = Promise::new();
    rig.report(Report { checkpoints: vec![(delivery.clone(), "id 1".into(), promise)], ..Report::default() });
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    let (promise, reply) = Promise::new();
    rig.report(Report { checkpoints: vec![(delivery, "id 2".into(), promise)], ..Report::default() });
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    let mut rig = rig.restart(SECOND, |_| {});
    let asked = rig.call();
    assert_eq!((asked.checkpointed(), asked.facts().doubt()), (Some(&b"id 2"[..]), Doubt::Open));
}

// --- changes against firing ---

#[test]
fn ten_to_five_past_and_back_fires_once() {
    let mut rig = Rig::new();
    let id = rig.stored(10_000, &Post::new("p", "x"));
    for minutes in [5, 0] {
        let due = Timestamp::from_millis(1_900_000_010_000 + minutes * 60_000);
        rig.wished(id, Wish::Reschedule(due)).unwrap();
    }
    rig.pass(600 * SECOND);
    rig.work();
    let delivery = rig.call();
    rig.answer(&delivery, Ok("u"));
    rig.pass(600 * SECOND);
    rig.work();
    assert!(rig.delivered.is_empty());
    assert_eq!(rig.status(id).unwrap().revision(), 2);
}

#[test]
fn an_edit_changes_what_is_sent_and_nothing_else() {
    let mut rig = Rig::new();
    let id = rig.stored(10_000, &Post::new("p", "before").key("k"));
    rig.wished(id, Wish::Edit { part: 0, payload: "after".into() }).unwrap();
    let missing = rig.wished(id, Wish::Edit { part: 1, payload: "x".into() });
    assert!(matches!(missing, Err(Error::NoSuchPart { part: 1, parts: 1, .. })));
    rig.pass(9_999);
    rig.work();
    assert!(rig.delivered.is_empty());
    rig.pass(1);
    assert_eq!(rig.call().payload(), b"after");
    let late = rig.wished(id, Wish::Edit { part: 0, payload: "x".into() });
    assert!(matches!(late, Err(Error::TooLate { state: State::InFlight, .. })));
}

#[test]
fn what_waits_in_its_shard_can_still_be_changed_and_then_is_not_called() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "before"));
    let waits = rig.delivered.pop().unwrap();
    rig.wished(id, Wish::Edit { part: 0, payload: "after".into() }).unwrap();
    assert!(!waits.facts().stage.call(), "it was taken back");
    let delivery = rig.call();
    assert_eq!(delivery.payload(), b"after");
    rig.answer(&delivery, Ok("u"));
    assert!(rig.delivered.is_empty());
}

#[test]
fn publish_now_goes_out_now_and_once() {
    let mut rig = Rig::new();
    let near = rig.stored(1_000, &Post::new("p", "near"));
    let far = rig.stored(3_600_000, &Post::new("p", "far"));
    for id in [near, far] {
        rig.wished(id, Wish::PublishNow).unwrap();
        let delivery = rig.call();
        assert_eq!(delivery.id(), id);
        let late = rig.wished(id, Wish::PublishNow);
        assert!(matches!(late, Err(Error::TooLate { state: State::InFlight, .. })));
        rig.answer(&delivery, Ok("u"));
        let late = rig.wished(id, Wish::PublishNow);
        assert!(matches!(late, Err(Error::TooLate { state: State::Delivered, .. })));
    }
    rig.pass(7_200 * SECOND);
    rig.work();
    assert!(rig.delivered.is_empty());
}

#[test]
fn a_change_that_was_decided_upon_another_revision_is_refused() {
    let mut rig = Rig::new();
    let id = rig.stored(10_000, &Post::new("p", "x"));
    rig.wished(id, Wish::PublishNow).unwrap();
    let post = crate::PostRef::from(id).at_revision(0);
    let reply = rig.ask(|promise| Command::Change { post, wish: Wish::Cancel, promise });
    assert!(matches!(given(reply).unwrap(), Err(Error::Changed { expected: 0, revision: 1, .. })));
}

proptest! {
    /// Whatever is asked for in whatever moment: a cancel that says Ok is never followed by a call, and a post that
    /// nobody cancelled is called exactly once.
    #[test]
    fn a_cancel_and_a_call_never_both_win(
        ops in proptest::collection::vec((0u8..5, 0u64..1_500), 1..25), ahead in 0i64..4_000, work: bool,
    ) {
        let mut rig = Rig::new();
        let id = rig.stored(ahead, &Post::new("p", "x"));
        let (mut cancelled, mut calls) = (Vec::<Reply<()>>::new(), 0);
        for (op, millis) in ops {
            match op {
                0 => cancelled.push(rig.wish(id, Wish::Cancel)),
                1 => drop(rig.wish(id, Wish::Edit { part: 0, payload: "y".into() })),
                2 => {
                    let due = rig.now.wall.after(Duration::from_millis(millis)).ceil_millis();
                    drop(rig.wish(id, Wish::Reschedule(due)));
                }
                _ => rig.pass(millis),
            }
            if work { rig.work() } else { rig.answer_one(); }
            for delivery in std::mem::take(&mut rig.delivered) {
                if delivery.facts().stage.call() {
                    calls += 1;
                    rig.end(&delivery, Ending::Answered(Ok(Receipt::default())));
                }
            }
        }
        for _ in 0..4 {
            rig.work();
            rig.pass(5_000);
            rig.work();
            for delivery in std::mem::take(&mut rig.delivered) {
                if delivery.facts().stage.call() {
                    calls += 1;
                    rig.end(&delivery, Ending::Answered(Ok(Receipt::default())));
                }
            }
        }
        let is_cancelled = cancelled.into_iter().any(|reply| matches!(given(reply), Some(Ok(()))));
        prop_assert_eq!(calls, u32::from(!is_cancelled));
        prop_assert!(rig.engine.posts.is_empty() && rig.engine.wheel.is_empty());
    }
}

use crate::reply::Reply;

// --- retries, throttles, deadlines ---

#[test]
fn a_dead_letter_is_listed_with_its_reason_and_sent_again_when_the_host_says_so() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "x").key("k"));
    let outcome = rig.ask(|promise| Command::Outcome { post: id.into(), promise });
    let delivery = rig.call();
    rig.answer(&delivery, Err(BroadcastError::permanent("gone")));
    let failed = Outcome::Failed { reason: "gone".into() };
    assert_eq!(given(outcome).unwrap().unwrap(), failed);
    let mut rig = rig.restart(3_600 * SECOND, |_| {});
    assert_eq!(rig.shelf(Shelf::Dead), [id]);
    let status = rig.status(id).unwrap();
    assert_eq!((status.state(), status.reason(), status.attempts()), (State::Failed, Some("gone"), 1));
    assert_eq!(status.outcome(), Some(&failed));
    assert!(matches!(rig.wished(id, Wish::Cancel), Err(Error::TooLate { state: State::Failed, .. })));
    rig.wished(id, Wish::Edit { part: 0, payload: "better".into() }).unwrap();
    assert_eq!(rig.status(id).unwrap().state(), State::Failed);
    rig.wished(id, Wish::Resolve(Resolution::SendAgain)).unwrap();
    let again = rig.call();
    assert_eq!((again.payload(), again.attempt(), again.is_redelivery()), (&b"better"[..], 1, false));
    rig.answer(&again, Ok("u"));
    assert_eq!(rig.shelf(Shelf::Dead), []);
}

#[test]
fn all_dead_letters_are_requeued_at_once_and_old_ones_are_given_up() {
    let mut rig = Rig::new();
    rig.engine.settings.memory = 1 << 30;
    // More than one page of the store.
    let posts = 3 * limits::LIST_BYTES / 2 / 60_000;
    for _ in 0..posts {
        rig.stored(0, &Post::new("p", vec![0; 60_000]));
        let delivery = rig.call();
        rig.answer(&delivery, Err(BroadcastError::permanent("gone")));
        rig.pass(1);
    }
    let reply = rig.ask(|promise| Command::RequeueAll { place: 0, promise });
    rig.work();
    assert_eq!(given(reply).unwrap().unwrap(), posts as u64);
    rig.work();
    assert_eq!((rig.delivered.len(), rig.shelf(Shelf::Dead).len()), (posts, 0));
    let ids: Vec<_> = rig.delivered.iter().map(Delivery::id).collect();
    for delivery in std::mem::take(&mut rig.delivered) {
        rig.answer(&delivery, Err(BroadcastError::permanent("gone again")));
    }
    for _ in 0..31 {
        rig.pass(86_400 * SECOND);
        rig.work();
    }
    assert_eq!(rig.shelf(Shelf::Dead), []);
    assert_eq!(rig.status(ids[0]).map(|status| status.state()), Some(State::Failed));
}

#[test]
fn throttled_waits_as_long_as_was_said_and_counts_no_attempt() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "x").profile("a"));
    for _ in 0..10 {
        let delivery = rig.call();
        assert_eq!(delivery.attempt(), 1);
        rig.answer(&delivery, Err(BroadcastError::throttled("429").retry_after(Duration::from_secs(90))));
        assert!(matches!(rig.events.last(), Some(Event::Retrying { .. })));
        rig.pass(89_999);
        rig.work();
        assert!(rig.delivered.is_empty());
        rig.pass(1);
        rig.work();
    }
    assert_eq!(rig.status(id).unwrap().attempts(), 0);
    assert!(rig.events.iter().any(|event| matches!(event, Event::Throttled { profile, .. } if profile == "a")));
}

#[test]
fn what_was_handed_over_again_after_a_throttled_call_is_not_in_doubt_until_it_is_called() {
    for is_called in [false, true] {
        let mut rig = Rig::new();
        let id = rig.stored(0, &at_most_once());
        let delivery = rig.call();
        rig.answer(&delivery, Err(BroadcastError::throttled("429").retry_after(Duration::from_secs(90))));
        rig.pass(90 * SECOND);
        rig.work();
        if is_called {
            rig.call();
        }
        let mut rig = rig.restart(SECOND, |_| {});
        let again = rig.delivered.pop().unwrap();
        assert_eq!((again.id(), again.is_redelivery()), (id, is_called));
    }
}

#[test]
fn a_profile_without_authorisation_is_held_with_one_event_until_it_is_released() {
    let mut rig = Rig::new();
    let post = |profile: &str| Post::new("p", "x").profile(profile);
    let first = rig.stored(0, &post("a"));
    let second = rig.stored(1, &post("a"));
    rig.pass(1);
    let (b, a) = (rig.call(), rig.call());
    for delivery in [a, b] {
        rig.answer(&delivery, Err(BroadcastError::unauthorized("token")));
    }
    let held = rig.events.iter().filter(|event| matches!(event, Event::ProfileHeld { .. })).count();
    assert_eq!(held, 1);
    let third = rig.stored(5_000, &post("a"));
    let other = rig.stored(5_000, &post("b"));
    let mut rig = rig.restart(100, |_| {});
    rig.pass(60 * SECOND);
    rig.work();
    let delivered: Vec<_> = rig.delivered.drain(..).map(|delivery| delivery.id()).collect();
    assert_eq!(delivered, [other], "the others wait");
    for id in [first, second, third] {
        let status = rig.status(id).unwrap();
        assert_eq!((status.state(), status.attempts()), (State::Held, 0));
    }
    assert!(rig.engine.posts.len() <= 1, "what is held takes no memory");
    let release = |promise| Command::Hold { place: 0, profile: "a".into(), reason: None, promise };
    let reply = rig.ask(release);
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    rig.work();
    let delivered: Vec<_> = rig.delivered.iter().map(|delivery| delivery.id()).collect();
    assert_eq!(delivered, [first, second, third], "in the order of their dues");
}

#[test]
fn a_paused_pool_sends_nothing_also_after_a_restart_and_goes_on_when_told() {
    let mut rig = Rig::new();
    let ids: Vec<_> = (0..5).map(|n| rig.stored(1_000 + 1_000 * n, &Post::new("p", "x"))).collect();
    let reply = rig.ask(|promise| Command::Pause { place: 0, paused: true, promise });
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    rig.pass(3 * SECOND);
    rig.work();
    let mut rig = rig.restart(3 * SECOND, |_| {});
    assert!(rig.delivered.is_empty());
    let reply = rig.ask(|promise| Command::Pause { place: 0, paused: false, promise });
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    rig.pass(0);
    rig.work();
    let delivered: Vec<_> = rig.delivered.iter().map(|delivery| delivery.id()).collect();
    assert_eq!(delivered, ids);
    assert!(rig.delivered.iter().all(|delivery| !delivery.is_redelivery()));
}

#[test]
fn what_follows_on_a_late_answer_waits_for_the_end_of_the_call_after_it() {
    let thread = Post::new("p", "1").then("2");
    let ordered = Post::new("p", "1").profile("a").in_order();
    for posts in [vec![thread], vec![ordered.clone(), ordered]] {
        let mut rig = Rig::new();
        let first = posts.iter().map(|post| rig.stored(0, post)).collect::<Vec<_>>()[0];
        let hangs = rig.call();
        rig.end(&hangs, timeout());
        rig.work();
        rig.pass(10 * SECOND);
        rig.work();
        let again = rig.call();
        assert_eq!((again.id(), again.is_redelivery()), (first, true));
        let late = attempt(&hangs, true, Ending::Answered(Ok(Receipt::new("late"))));
        rig.report(Report { late: vec![late], ..Report::default() });
        rig.work();
        assert!(rig.delivered.is_empty(), "beside the call that is under way");
        // However that ends, it is published.
        rig.answer(&again, Err(BroadcastError::permanent("duplicate")));
        let next = rig.call();
        assert!(next.id() != first || next.receipts() == [Receipt::new("late")]);
        rig.answer(&next, Ok("2"));
        assert!(matches!(rig.status(first).unwrap().outcome(), Some(Outcome::Delivered(_))));
    }
}

#[test]
fn what_a_late_answer_has_said_outlives_a_shutdown_during_the_call_after_it() {
    for is_closing in [false, true] {
        let mut rig = Rig::new();
        rig.stored(0, &Post::new("p", "1").then("2"));
        let hangs = rig.call();
        rig.end(&hangs, timeout());
        rig.work();
        rig.pass(10 * SECOND);
        rig.work();
        drop(rig.call());
        let late = attempt(&hangs, true, Ending::Answered(Ok(Receipt::new("late"))));
        let late = Report { late: vec![late], ..Report::default() };
        let close = |rig: &mut Rig| {
            let grace = Duration::from_secs(10);
            drop(rig.ask(|promise| Command::Shutdown { grace, promise }));
        };
        if is_closing {
            close(&mut rig);
            rig.report(late);
        } else {
            rig.report(late);
            close(&mut rig);
        }
        rig.work();
        let mut rig = rig.restart(SECOND, |_| {});
        let next = rig.call();
        let seen = (next.part(), next.receipts(), next.is_redelivery());
        assert_eq!(seen, (1, &[Receipt::new("late")][..], false), "{is_closing}");
    }
}

// --- order and threads ---

#[test]
fn posts_in_order_go_one_at_a_time_and_wait_for_the_retry_of_the_one_before() {
    let mut rig = Rig::new();
    let post = || Post::new("p", "x").profile("a").in_order();
    let first = rig.stored(1_000, &post());
    let second = rig.stored(1_000, &post());
    let third = rig.stored(500, &post());
    let other = rig.stored(1_000, &Post::new("p", "x").profile("a"));
    rig.pass(1_500);
    rig.work();
    let mut ids: Vec<_> = rig.delivered.iter().map(Delivery::id).collect();
    ids.sort();
    assert_eq!(ids, [third, other], "the earliest, and what does not ask for order");
    rig.delivered.retain(|delivery| delivery.id() == third);
    let delivery = rig.call();
    rig.answer(&delivery, Ok("u"));
    let delivery = rig.call();
    assert_eq!(delivery.id(), first);
    rig.answer(&delivery, Err(BroadcastError::transient("503").retry_after(Duration::from_secs(3_600))));
    assert!(rig.delivered.is_empty());
    // Also after a restart.
    let mut rig = rig.restart(SECOND, |_| {});
    rig.delivered.clear();
    rig.pass(3_000 * SECOND);
    rig.work();
    assert!(rig.delivered.is_empty(), "{:?}", rig.delivered);
    rig.pass(600 * SECOND);
    rig.work();
    let delivery = rig.call();
    assert_eq!((delivery.id(), delivery.attempt()), (first, 2));
    rig.answer(&delivery, Err(BroadcastError::permanent("gone")));
    assert_eq!(rig.call().id(), second);
}

proptest! {
    /// Whatever the broadcaster answers and whenever the process dies: when a post in order is called, none before it in
    /// its profile is left, and none of the profile is in flight; and all come to an end.
    #[test]
    fn order_is_kept_over_failures_and_restarts(
        dues in proptest::collection::vec((0i64..20_000, 0usize..2), 2..12),
        answers in proptest::collection::vec((0u8..6, 0u64..15_000), 1..60),
    ) {
        let mut rig = Rig::new();
        let mut left = std::collections::BTreeMap::new();
        for (due, profile) in dues {
            let id = rig.stored(due, &Post::new("p", "x").profile(["a", "b"][profile]).in_order());
            left.insert((profile, due, id), ());
        }
        let mut flying: Vec<Delivery> = Vec::new();
        for step in 0..2_000 {
            if left.is_empty() {
                break;
            }
            for delivery in std::mem::take(&mut rig.delivered) {
                prop_assert!(delivery.facts().stage.call());
                let own = |id: PostId| left.keys().find(|(.., other)| *other == id).copied();
                let (profile, ..) = own(delivery.id()).unwrap();
                let first = left.keys().find(|(other, ..)| *other == profile).unwrap();
                prop_assert_eq!(first.2, delivery.id(), "an earlier one is left");
                prop_assert!(flying.iter().all(|other| own(other.id()).is_none_or(|(other, ..)| other != profile)));
                if let Some(log) = &rig.log {
                    log.calling(&[(delivery.id().seq(), delivery.facts().claim)]);
                }
                flying.push(delivery);
            }
            // After what was drawn everything goes well.
            let (answer, pause) = answers.get(step).copied().unwrap_or((0, 15_000));
            let ending = |answer| match answer {
                1 => Ending::Answered(Err(BroadcastError::transient("503").retry_after(Duration::from_secs(20)))),
                2 => Ending::Answered(Err(BroadcastError::throttled("429").retry_after(Duration::from_secs(9)))),
                3 => Ending::Answered(Err(BroadcastError::permanent("gone"))),
                4 => timeout(),
                _ => Ending::Answered(Ok(Receipt::default())),
            };
            if answer == 5 {
                flying.clear();
                rig = rig.restart(pause, |_| {});
                continue;
            }
            if let Some(delivery) = flying.pop() {
                rig.end(&delivery, ending(answer));
                rig.work();
                let id = delivery.id();
                let is_over = rig.status(id).is_some_and(|status| status.state().is_final());
                left.retain(|(.., other), ()| *other != id || !is_over);
            }
            rig.pass(pause);
            rig.work();
        }
        prop_assert!(left.is_empty(), "{:?} are left", left);
    }
}

#[test]
fn a_thread_goes_out_part_by_part_with_the_receipts_and_a_restart_goes_on_at_the_right_part() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "1").then("2").then("3"));
    let delivery = rig.call();
    assert_eq!((delivery.payload(), delivery.part(), delivery.parts()), (&b"1"[..], 0, 3));
    let key = delivery.idempotency_key();
    rig.answer(&delivery, Ok("r1"));
    let mut rig = rig.restart(SECOND, |_| {});
    let delivery = rig.call();
    assert_eq!((delivery.payload(), delivery.part(), delivery.attempt()), (&b"2"[..], 1, 1));
    assert_eq!(delivery.receipts(), [Receipt::new("r1")]);
    assert_ne!(delivery.idempotency_key(), key);
    // A part that fails stops the rest.
    rig.answer(&delivery, Err(BroadcastError::permanent("too long")));
    assert!(rig.delivered.is_empty());
    assert_eq!(rig.status(id).unwrap().receipts(), [Receipt::new("r1")]);
    rig.wished(id, Wish::Edit { part: 1, payload: "2b".into() }).unwrap();
    let done = rig.wished(id, Wish::Edit { part: 0, payload: "1b".into() });
    assert!(matches!(done, Err(Error::TooLate { .. })));
    rig.wished(id, Wish::Resolve(Resolution::SendAgain)).unwrap();
    let delivery = rig.call();
    assert_eq!((delivery.payload(), delivery.part()), (&b"2b"[..], 1));
    rig.answer(&delivery, Ok("r2"));
    let delivery = rig.call();
    assert_eq!((delivery.payload(), delivery.receipts().len()), (&b"3"[..], 2));
    rig.answer(&delivery, Ok("r3"));
    assert_eq!(rig.status(id).unwrap().outcome(), Some(&Outcome::Delivered(Receipt::new("r3"))));
    assert!(rig.delivered.is_empty());
}

// --- preparing ---

fn preparing(pool: &mut PoolSettings) {
    let retry = RetryPolicy::exponential(Duration::from_secs(10)).max_attempts(u32::MAX);
    pool.prepare = Some(PrepareSettings { shard: 1, lead: Duration::from_secs(600), retry, or_fail: false });
}

fn prepared(rig: &mut Rig, delivery: &Delivery, result: Result<Prepared, BroadcastError>) {
    rig.report(Report { prepared: vec![(delivery.clone(), result)], ..Report::default() });
    rig.work();
}

#[test]
fn a_post_is_prepared_ahead_kept_durably_and_sent_at_its_due() {
    let mut rig = Rig::with(preparing);
    let id = rig.stored(3_600_000, &Post::new("p", "x"));
    rig.pass(2_999_999);
    rig.work();
    assert!(rig.delivered.is_empty());
    rig.pass(1);
    rig.work();
    let preparing_now = rig.call();
    assert_eq!((preparing_now.facts().task, preparing_now.id()), (Task::Prepare, id));
    prepared(&mut rig, &preparing_now, Ok(Prepared::new("media 1")));
    assert!(rig.events.iter().any(|event| matches!(event, Event::Prepared { .. })));
    let mut rig = rig.restart(SECOND, preparing);
    rig.pass(598_999);
    rig.work();
    assert!(rig.delivered.is_empty());
    rig.pass(1);
    rig.work();
    let delivery = rig.call();
    assert_eq!((delivery.facts().task, delivery.prepared()), (Task::Broadcast, Some(&b"media 1"[..])));
    assert_eq!(delivery.attempt(), 1);
    rig.answer(&delivery, Ok("u"));
    assert!(rig.delivered.is_empty(), "nothing to discard");
}

#[test]
fn a_post_in_order_is_not_overtaken_by_a_later_one_that_is_prepared_longer_ahead() {
    let mut rig = Rig::with(preparing);
    let post = |lead| Post::new("p", "x").profile("a").in_order().prepare_ahead(Duration::from_secs(lead));
    let [first, second] = [(700_000, 600), (1_200_000, 1_100)].map(|(due, lead)| rig.stored(due, &post(lead)));
    rig.pass(100_000);
    rig.work();
    let deliveries = std::mem::take(&mut rig.delivered);
    assert_eq!(deliveries.len(), 2);
    for delivery in deliveries.into_iter().filter(|delivery| delivery.id() == first) {
        prepared(&mut rig, &delivery, Ok(Prepared::new("media")));
    }
    assert!(rig.engine.slot(first.seq()).is_none(), "it was not left to the store: a test of nothing");
    // The machine sleeps until both are late, while the store is asked for what comes before the first one.
    rig.pass(300_000);
    rig.pass(2_000_000);
    let mut order = Vec::new();
    for _ in 0..1_000 {
        rig.answer_one();
        for delivery in std::mem::take(&mut rig.delivered) {
            order.push(delivery.id());
            delivery.facts().stage.call();
            rig.end(&delivery, Ending::Answered(Ok(Receipt::default())));
        }
        rig.pass(1);
    }
    assert_eq!(order, [first, second]);
}

#[test]
fn what_was_prepared_and_has_expired_meanwhile_is_not_handed_over() {
    for wait in [10, 100] {
        let mut rig = Rig::with(preparing);
        rig.stored(60_000, &Post::new("p", "x"));
        let delivery = rig.delivered.pop().unwrap();
        assert_eq!(delivery.facts().task, Task::Prepare);
        let until = rig.now.wall.after(Duration::from_secs(120)).to_datetime();
        prepared(&mut rig, &delivery, Ok(Prepared::new("media").valid_until(until)));
        drop(rig.ask(|promise| Command::Pause { place: 0, paused: true, promise }));
        rig.pass(60 * SECOND);
        rig.work();
        rig.pass(wait * SECOND);
        rig.work();
        drop(rig.ask(|promise| Command::Pause { place: 0, paused: false, promise }));
        rig.work();
        // It may be made anew first.
        if let Some(delivery) = rig.delivered.pop_if(|delivery| delivery.facts().task == Task::Prepare) {
            prepared(&mut rig, &delivery, Err(BroadcastError::permanent("404")));
        }
        assert_eq!(rig.call().prepared().is_some(), wait == 10, "{wait} s");
    }
}

#[test]
fn preparing_that_fails_is_tried_again_until_the_due_and_then_the_post_goes_out_as_it_is() {
    let mut rig = Rig::with(preparing);
    rig.stored(60_000, &Post::new("p", "x"));
    let mut tries = 0;
    for _ in 0..62 {
        while let Some(delivery) = rig.delivered.pop_if(|delivery| delivery.facts().task == Task::Prepare) {
            tries += 1;
            prepared(&mut rig, &delivery, Err(BroadcastError::transient("503")));
        }
        rig.pass(SECOND);
        rig.work();
    }
    let delivery = rig.call();
    assert_eq!((delivery.prepared(), delivery.attempt()), (None, 1));
    assert!((2..6).contains(&tries), "{tries}");

    let mut rig = Rig::with(|pool| {
        preparing(pool);
        pool.prepare.as_mut().unwrap().or_fail = true;
    });
    let id = rig.stored(60_000, &Post::new("p", "x"));
    let delivery = rig.call();
    prepared(&mut rig, &delivery, Err(BroadcastError::permanent("no such file")));
    assert_eq!((rig.shelf(Shelf::Dead), rig.status(id).unwrap().attempts()), (vec![id], 0));
}

#[test]
fn more_than_can_be_kept_of_what_was_prepared_is_refused() {
    for (bytes, is_kept) in [(limits::CHECKPOINT_BYTES, true), (limits::CHECKPOINT_BYTES + 1, false)] {
        let mut rig = Rig::with(preparing);
        rig.stored(60_000, &Post::new("p", "x"));
        let delivery = rig.call();
        prepared(&mut rig, &delivery, Ok(Prepared::new(vec![0; bytes])));
        let is_refused = rig.events.iter().any(|event| matches!(event, Event::PrepareFailed { again: None, .. }));
        rig.pass(60 * SECOND);
        rig.work();
        assert_eq!((rig.call().prepared().map(<[u8]>::len), is_refused), (is_kept.then_some(bytes), !is_kept));
    }
}

#[test]
fn what_expires_before_it_can_be_sent_is_prepared_again() {
    let mut rig = Rig::with(preparing);
    rig.stored(600_000, &Post::new("p", "x"));
    let valid =
        |rig: &Rig, secs| Prepared::new("m").valid_until(rig.now.wall.after(Duration::from_secs(secs)).to_datetime());
    let delivery = rig.call();
    let short = valid(&rig, 200);
    prepared(&mut rig, &delivery, Ok(short));
    rig.pass(449_000);
    rig.work();
    assert!(rig.delivered.is_empty());
    rig.pass(1_000);
    rig.work();
    let again = rig.call();
    assert_eq!(again.facts().task, Task::Prepare);
    let long = valid(&rig, 200);
    prepared(&mut rig, &again, Ok(long));
    rig.pass(150_000);
    rig.work();
    let delivery = rig.call();
    assert_eq!((delivery.facts().task, delivery.prepared()), (Task::Broadcast, Some(&b"m"[..])));
    // The next attempt comes after it has expired.
    rig.answer(&delivery, Err(BroadcastError::transient("503").retry_after(Duration::from_secs(300))));
    rig.pass(300_000);
    rig.work();
    let again = rig.call();
    assert_eq!(again.facts().task, Task::Prepare);
    // Something that is never valid is not asked for without end.
    let never = Prepared::new("m").valid_until(rig.now.wall.before(Duration::from_secs(1)).to_datetime());
    prepared(&mut rig, &again, Ok(never));
    rig.pass(1);
    rig.work();
    let delivery = rig.call();
    assert_eq!((delivery.facts().task, delivery.prepared(), delivery.attempt()), (Task::Broadcast, None, 2));
}

#[test]
fn a_cancelled_or_edited_post_has_what_was_prepared_discarded() {
    let mut rig = Rig::with(preparing);
    let post = Post::new("p", "x");
    let (cancelled, edited) = (rig.stored(60_000, &post), rig.stored(60_000, &post));
    for _ in 0..2 {
        let delivery = rig.call();
        prepared(&mut rig, &delivery, Ok(Prepared::new("media")));
    }
    rig.wished(cancelled, Wish::Cancel).unwrap();
    let discard = rig.call();
    assert_eq!(
        (discard.facts().task, discard.id(), discard.prepared()),
        (Task::Discard, cancelled, Some(&b"media"[..]))
    );
    rig.wished(edited, Wish::Edit { part: 0, payload: "y".into() }).unwrap();
    let tasks: Vec<_> = rig.delivered.drain(..).map(|delivery| delivery.facts().task).collect();
    assert_eq!(tasks, [Task::Discard, Task::Prepare]);
    // What is cancelled while it is being prepared is discarded when that ends.
    let id = rig.stored(60_000, &post);
    let delivery = rig.call();
    rig.wished(id, Wish::Cancel).unwrap();
    assert!(rig.delivered.is_empty());
    prepared(&mut rig, &delivery, Ok(Prepared::new("late")));
    assert_eq!(rig.call().prepared(), Some(&b"late"[..]));
}

// --- leaving ---

#[test]
fn a_shutdown_takes_back_what_was_not_called_and_leaves_no_doubt() {
    let mut rig = Rig::new();
    let waits = rig.stored(0, &at_most_once());
    let called = rig.stored(0, &at_most_once());
    assert_eq!(rig.delivered.last().map(Delivery::id), Some(called));
    let flying = rig.call();
    let reply = rig.ask(|promise| Command::Shutdown { grace: Duration::from_secs(10), promise });
    drop(reply);
    rig.work();
    assert!(!rig.stopped);
    rig.answer(&flying, Ok("u"));
    assert!(rig.stopped);
    let mut rig = rig.restart(SECOND, |_| {});
    let delivery = rig.call();
    assert_eq!((delivery.id(), delivery.is_redelivery()), (waits, false));
    assert_eq!(rig.status(called).unwrap().state(), State::Delivered);
}
