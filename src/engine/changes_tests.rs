//! What can be changed of a post, wherever it is on its way.

use super::message::Wish;
use super::tests::{Rig, given};
use super::*;
use crate::error::{Error, Result};
use crate::id::{PostId, State};
use crate::post::{BroadcastError, Ending, Guarantee, Post, Prepared, Receipt, Reconciled, Resolution, Task};
use crate::retry::RetryPolicy;

fn at_most_once() -> Post {
    Post::new("p", "x").profile("a").guarantee(Guarantee::AtMostOnce)
}

fn ended(rig: &mut Rig, delivery: &Delivery, called: bool, ending: Ending) {
    let attempt = Attempt { delivery: delivery.clone(), started: None, called, ending };
    rig.report(Report { ended: vec![attempt], ..Report::default() });
    rig.work();
}

fn hold(rig: &mut Rig) {
    drop(rig.ask(|promise| Command::Hold { place: 0, profile: "a".into(), reason: Some("x".into()), promise }));
    rig.work();
}

/// A post whose broadcaster was called and has not answered in time, until it is asked about.
fn timed_out(rig: &mut Rig) -> PostId {
    let id = rig.stored(0, &at_most_once());
    let delivery = rig.call();
    ended(rig, &delivery, true, Ending::TimedOut { after: Duration::from_secs(60) });
    id
}

/// The same, and it has been handed over to be asked about.
fn about_to_be_asked(rig: &mut Rig) -> PostId {
    let id = timed_out(rig);
    rig.pass(10_000);
    rig.work();
    assert_eq!(rig.delivered.len(), 1);
    id
}

fn answered(rig: &mut Rig, answer: Result<&str, BroadcastError>) -> PostId {
    let id = rig.stored(0, &at_most_once());
    let delivery = rig.call();
    rig.answer(&delivery, answer);
    id
}

type Come = fn(&mut Rig) -> PostId;
const FREE: &[&str] = &["cancel", "reschedule", "edit", "publish now"];

/// Where a post can be, how it comes there, and what can be changed then.
const PLACES: [(&str, State, &[&str], Come); 14] = [
    ("in the store", State::Scheduled, FREE, |rig| rig.stored(3_600_000, &at_most_once())),
    ("in memory", State::Scheduled, FREE, |rig| rig.stored(30_000, &at_most_once())),
    ("in its shard, before its due", State::Scheduled, FREE, |rig| {
        let id = rig.stored(1_000, &at_most_once());
        rig.pass(950);
        id
    }),
    ("in its shard, due", State::InFlight, FREE, |rig| rig.stored(0, &at_most_once())),
    ("called", State::InFlight, &[], |rig| {
        let id = rig.stored(0, &at_most_once());
        rig.call();
        id
    }),
    ("waits for its next attempt", State::Scheduled, FREE, |rig| answered(rig, Err(BroadcastError::transient("503")))),
    ("in doubt", State::InDoubt, &["resolve"], timed_out),
    // It may have been published, so it is not cancelled; what is done if it was not can be changed.
    ("in doubt, in its shard", State::InFlight, &["reschedule", "edit", "publish now", "resolve"], about_to_be_asked),
    ("in doubt, on its shelf", State::InDoubt, &["resolve"], |rig| {
        let id = about_to_be_asked(rig);
        let asked = rig.call();
        ended(rig, &asked, false, Ending::Reconciled(Reconciled::Unknown));
        id
    }),
    ("dead letter", State::Failed, &["edit", "resolve"], |rig| answered(rig, Err(BroadcastError::permanent("400")))),
    ("held", State::Held, &["cancel", "reschedule", "edit"], |rig| {
        hold(rig);
        rig.stored(0, &at_most_once())
    }),
    ("in a queue", State::Queued, FREE, |rig| {
        let slots = Box::new("slots UTC Mon-Sun 18:00,19:00".parse().unwrap());
        let queue = |rig: &mut Rig, wish| {
            let (profile, named) = ("a".to_owned(), Vec::new());
            rig.engine.handle_command(rig.now, Command::Queue { place: 0, profile, named, wish, _weight: None });
            rig.turn();
            rig.work();
        };
        let (promise, _) = Promise::new();
        queue(rig, QueueWish::Order { order: crate::queue::Order::Slots(slots), key: None, promise });
        let body = crate::post::Body::encode(&at_most_once());
        let posts = vec![NewPost { pool: 0, due: Timestamp::MIN, body, late: None }];
        let (promise, reply) = Promise::new();
        queue(rig, QueueWish::Enqueue { at: None, posts, known: Vec::new(), promise: SchedulePromise::One(promise) });
        given(reply).unwrap().unwrap()
    }),
    ("delivered", State::Delivered, &[], |rig| answered(rig, Ok("u"))),
    ("cancelled", State::Cancelled, &[], |rig| {
        let id = rig.stored(30_000, &at_most_once());
        rig.wished(id, Wish::Cancel).unwrap();
        id
    }),
];

fn wish(what: &str, later: Timestamp) -> Wish {
    match what {
        "cancel" => Wish::Cancel,
        "reschedule" => Wish::Reschedule(later),
        "edit" => Wish::Edit { part: 0, payload: "y".into() },
        "publish now" => Wish::PublishNow,
        _ => Wish::Resolve(Resolution::Sent(Receipt::new("v"))),
    }
}

#[test]
fn a_change_is_made_where_it_is_possible_and_refused_with_the_state_where_it_is_not() {
    for (place, state, possible, come) in PLACES {
        for what in ["cancel", "reschedule", "edit", "publish now", "resolve"] {
            let mut rig = Rig::new();
            let id = come(&mut rig);
            let before = rig.status(id).unwrap();
            assert_eq!(before.state(), state, "{place}");
            let (now, later) = (rig.now.wall, rig.now.wall.after(Duration::from_secs(7_200)));
            let answer = rig.wished(id, wish(what, later));
            let after = rig.status(id).unwrap();
            let is_done = match what {
                "cancel" => after.state() == State::Cancelled,
                "reschedule" => after.due() == later.to_datetime(),
                "edit" => after.payload() == b"y" && after.due() == before.due(),
                "publish now" => after.due() == now.to_datetime(),
                _ => after.outcome() == Some(&Outcome::Delivered(Receipt::new("v"))),
            };
            let is_counted = after.revision() > before.revision() || ["cancel", "resolve"].contains(&what);
            match answer {
                Ok(()) => assert!(is_done && is_counted && possible.contains(&what), "{place}, {what}: {after:?}"),
                Err(Error::TooLate { id: of, state: said } | Error::NotInDoubt { id: of, state: said }) => {
                    assert!(!possible.contains(&what), "{place}, {what}");
                    assert_eq!((of, said), (id, state), "{place}, {what}");
                    assert_eq!(format!("{before:?}"), format!("{after:?}"), "{place}, {what}: nothing is changed");
                }
                Err(other) => panic!("{place}, {what}: {other}"),
            }
        }
    }
}

#[test]
fn what_was_called_is_in_doubt_also_where_the_clock_has_stepped_back_so_far_that_it_is_not_in_memory() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &at_most_once());
    rig.call();
    let waits = rig.stored(1_000, &at_most_once());
    let now = Now { wall: rig.now.wall.before(Duration::from_secs(7_200)), ..rig.now };
    let mut rig = Rig::on(rig.store.clone(), now, |_| {});
    assert_eq!([id, waits].map(|id| rig.status(id).unwrap().state()), [State::InDoubt, State::Scheduled]);
    assert!(matches!(rig.wished(id, Wish::Cancel), Err(Error::TooLate { .. })));
}

#[test]
fn what_was_prepared_goes_with_a_new_due_as_long_as_it_lasts() {
    for (later, lasts) in [(-10_000, true), (90_000, true), (100_000, true), (100_001, false)] {
        let mut rig = Rig::with(|pool| {
            let retry = RetryPolicy::exponential(Duration::from_secs(10));
            pool.prepare = Some(PrepareSettings { shard: 1, lead: Duration::from_secs(600), retry, or_fail: false });
        });
        let id = rig.stored(60_000, &Post::new("p", "x"));
        let delivery = rig.call();
        let due = |millis| Timestamp::from_millis(rig.now.wall.millis() + 60_000 + millis);
        let (until, due) = (due(100_000).to_datetime(), due(later));
        let ready = vec![(delivery, Ok(Prepared::new("m").valid_until(until)))];
        rig.report(Report { prepared: ready, ..Report::default() });
        rig.work();
        rig.wished(id, Wish::Reschedule(due)).unwrap();
        let tasks: Vec<_> = rig.delivered.drain(..).map(|delivery| delivery.facts().task).collect();
        let expected = if lasts { vec![] } else { vec![Task::Discard, Task::Prepare] };
        assert_eq!(tasks, expected, "{later}");
    }
}

#[test]
fn an_edit_lets_nothing_go_before_the_network_takes_it_again() {
    let mut rig = Rig::new();
    let wait = Duration::from_secs(300);
    let id = answered(&mut rig, Err(BroadcastError::throttled("429").retry_after(wait)));
    rig.wished(id, Wish::Edit { part: 0, payload: "y".into() }).unwrap();
    rig.pass(299_999);
    rig.work();
    assert!(rig.delivered.is_empty());
    rig.pass(1);
    rig.work();
    assert_eq!(rig.call().payload(), b"y");
}

#[test]
fn those_who_wait_no_longer_for_an_outcome_are_forgotten() {
    let mut rig = Rig::new();
    let id = rig.stored(30_000, &Post::new("p", "x"));
    let mut wait = || rig.ask(|promise| Command::Outcome { post: id.into(), promise });
    (0..100).for_each(|_| drop(wait()));
    let waits = wait();
    assert_eq!(rig.engine.waiters.values().map(Vec::len).sum::<usize>(), 1);
    rig.wished(id, Wish::Cancel).unwrap();
    assert_eq!(given(waits).unwrap().unwrap(), Outcome::Cancelled);
}
