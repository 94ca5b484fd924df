//! Queues where the process dies, the store is slow or the clock steps at any step: as before or as after, never between.

use super::QueueWish;
use crate::engine::tests::{Rig, given};
use crate::engine::*;
use crate::error::Error;
use crate::id::{PostId, State};
use crate::post::{Body, BroadcastError, Ending, Post, PostRef, Receipt};
use crate::queue::{self, Order};
use crate::reply::Reply;
use crate::store::backend::Backend;

/// The rig begins at 2030-03-17T17:46:40Z.
const SLOTS: &str = "slots UTC Mon-Sun 18:00,19:00,20:00,21:00";

fn new(text: &str) -> NewPost {
    NewPost { pool: 0, due: Timestamp::MIN, body: Body::encode(&Post::new("p", text).profile("a")), late: None }
}

fn queue(rig: &mut Rig, wish: QueueWish) {
    let command = Command::Queue { place: 0, profile: "a".to_owned(), named: Vec::new(), wish, _weight: None };
    rig.engine.handle_command(rig.now, command);
    rig.turn();
}

fn order(rig: &mut Rig, order: Order) -> Reply<()> {
    let (promise, reply) = Promise::new();
    queue(rig, QueueWish::Order { order, key: None, promise });
    reply
}

fn push(rig: &mut Rig, texts: &[&str]) -> Reply<Vec<PostId>> {
    let (promise, reply) = Promise::new();
    let posts = texts.iter().map(|text| new(text)).collect();
    queue(rig, QueueWish::Enqueue { at: None, posts, known: Vec::new(), promise: SchedulePromise::All(promise) });
    reply
}

fn listed(rig: &mut Rig) -> (bool, Vec<(Seq, Option<Timestamp>)>) {
    let reply = rig.ask(|promise| Command::ShowQueue { place: 0, profile: "a".to_owned(), promise });
    let status = given(reply).unwrap().unwrap().unwrap();
    let posts = status.posts().iter().map(|post| (post.id.seq(), post.due.map(Timestamp::due)));
    (status.is_paused(), posts.collect())
}

/// A rig with a queue of these posts.
fn queued(texts: &[&str]) -> (Rig, Vec<PostId>) {
    let mut rig = Rig::new();
    drop(order(&mut rig, Order::Slots(Box::new(SLOTS.parse().unwrap()))));
    rig.work();
    let reply = push(&mut rig, texts);
    rig.work();
    (rig, given(reply).unwrap().unwrap())
}

#[test]
fn a_queue_whose_process_dies_is_as_before_the_change_or_as_after_it() {
    type Change = fn(&mut Rig, &[PostId]) -> bool;
    let changes: [(&str, Change); 7] = [
        ("push", |rig, _| given(push(rig, &["x", "y"])).is_some()),
        ("move", |rig, ids| given(order(rig, Order::Move { post: ids[3].seq(), to: 0 })).is_some()),
        ("swap", |rig, ids| given(order(rig, Order::Swap(ids[0].seq(), ids[2].seq()))).is_some()),
        ("shuffle", |rig, _| given(order(rig, Order::Shuffle(3))).is_some()),
        ("slots", |rig, _| {
            given(order(rig, Order::Slots(Box::new("slots UTC Mon-Sun 18:00,22:30".parse().unwrap())))).is_some()
        }),
        ("pause", |rig, _| given(order(rig, Order::Pause(true))).is_some()),
        ("cancel", |rig, ids| given(rig.cancel(ids[1])).is_some()),
    ];
    // Far from the first slot, and when the first post is placed already.
    for ahead in [0, 760_000] {
        for (name, change) in changes {
            let run = |steps: usize| {
                let (mut rig, ids) = queued(&["a", "b", "c", "d"]);
                rig.pass(ahead);
                rig.work();
                let before = listed(&mut rig);
                change(&mut rig, &ids);
                for _ in 0..steps {
                    rig.answer_one();
                }
                (rig.restart(10, |_| {}), before)
            };
            let (mut last, before) = run(99);
            let after = listed(&mut last);
            let mut seen = [false; 2];
            for steps in 0..12 {
                let (mut rig, _) = run(steps);
                let now = listed(&mut rig);
                assert!(now == before || now == after, "{name} after {steps} steps: {now:?}\n{before:?}\n{after:?}");
                seen = [seen[0] || now == before, seen[1] || now == after];
                // Whatever it is, each post goes out at its slot, in this order.
                let expected: Vec<_> = now.1.iter().filter_map(|(post, due)| Some((*post, (*due)?))).collect();
                let mut sent = Vec::new();
                for _ in 0..6 * 3_600 / 20 {
                    rig.pass(20_000);
                    rig.work();
                    while !rig.delivered.is_empty() {
                        let delivery = rig.call();
                        sent.push((delivery.id().seq(), delivery.facts().due));
                        rig.end(&delivery, Ending::Answered(Ok(Receipt::default())));
                        rig.work();
                    }
                }
                let end = rig.now.wall;
                assert_eq!(sent, expected.into_iter().filter(|(_, due)| *due <= end).collect::<Vec<_>>(), "{name}");
            }
            assert_eq!(seen, [true, true], "{name}: a test of nothing");
        }
    }
}

#[test]
fn a_placed_post_that_is_being_called_does_not_stop_its_queue_when_the_clock_steps_back() {
    let (mut rig, _) = queued(&["a", "b"]);
    rig.pass(799_950);
    rig.work();
    // Something of the queue is with the store while the slot comes.
    drop(order(&mut rig, Order::WarnAhead(Duration::from_secs(1))));
    rig.pass(51);
    rig.call();
    rig.now.wall = rig.now.wall.before(Duration::from_secs(300));
    rig.work();
    let reply = order(&mut rig, Order::WarnAhead(Duration::from_secs(2)));
    rig.work();
    assert!(given(reply).unwrap().is_ok());
}

#[test]
fn a_placed_post_that_has_begun_keeps_its_due_when_the_clock_steps_back() {
    let endings = [
        Ending::Answered(Err(BroadcastError::transient("503"))),
        Ending::TimedOut { after: Duration::from_secs(60) },
        Ending::Answered(Err(BroadcastError::permanent("400"))),
    ];
    // The clock steps back after the slot, or the worker's shows the slot before that of the engine.
    for (ending, steps_back) in endings.into_iter().flat_map(|ending| [(ending.clone(), true), (ending, false)]) {
        let (mut rig, ids) = queued(&["a", "b"]);
        let slot = rig.now.wall.after(Duration::from_secs(800));
        let first = if steps_back {
            rig.pass(800_000);
            rig.work();
            let first = rig.call();
            rig.now.wall = slot.before(Duration::from_secs(300));
            rig.turn();
            first
        } else {
            rig.pass(799_950);
            rig.work();
            let first = rig.early.pop().unwrap();
            assert!(first.facts().stage.call());
            first
        };
        rig.end(&first, ending.clone());
        rig.work();
        drop(order(&mut rig, Order::Move { post: ids[1].seq(), to: 0 }));
        rig.work();
        assert_eq!(rig.status(ids[0]).unwrap().due(), slot.to_datetime(), "{ending:?}");
        let next = slot.after(Duration::from_secs(3_600));
        assert_eq!(listed(&mut rig).1, [(ids[1].seq(), Some(next))], "{ending:?}: its slot is taken");
    }
}

#[test]
fn placed_posts_that_were_published_do_not_stop_their_queue_when_the_clock_steps_back() {
    let mut rig = Rig::new();
    let slots = |text: &str| Order::Slots(Box::new(text.parse().unwrap()));
    drop(order(&mut rig, slots("slots UTC Mon-Sun 18:00,18:01")));
    rig.work();
    // They are to be prepared long before their slots, so two of them are placed long before.
    let post = |text: &str| Post::new("p", text).profile("a").prepare_ahead(Duration::from_secs(600));
    let posts = ["a", "b", "c", "d", "e", "f"];
    let posts = posts.map(|text| NewPost { body: Body::encode(&post(text)), ..new(text) }).into();
    let (promise, reply) = Promise::new();
    queue(&mut rig, QueueWish::Enqueue { at: None, posts, known: Vec::new(), promise: SchedulePromise::All(promise) });
    rig.work();
    let ids = given(reply).unwrap().unwrap();
    rig.pass(799_000);
    rig.work();
    // The process dies when the two are published, while the queue looks for another one.
    drop(order(&mut rig, slots("slots UTC Mon-Sun 18:00,18:01,18:02,18:03,18:04,18:05")));
    rig.asked.retain(|request| !matches!(request, Request::Find { .. }));
    rig.pass(62_000);
    let published = |rig: &Rig| ids[..2].iter().all(|id| rig.engine.slot(id.seq()).is_none());
    while !published(&rig) {
        while !rig.delivered.is_empty() {
            let delivery = rig.call();
            rig.end(&delivery, Ending::Answered(Ok(Receipt::new("1"))));
        }
        assert!(rig.answer_one());
    }
    rig.now.wall = rig.now.wall.before(Duration::from_secs(3_600));
    let (store, now) = (rig.store.clone(), rig.now);
    let mut rig = Rig::on(store, now, |_| {});
    assert_eq!(listed(&mut rig).1.iter().map(|(post, _)| post.0).collect::<Vec<_>>(), [3, 4, 5, 6]);
}

#[test]
fn a_placed_post_that_is_being_called_does_not_stop_its_queue_when_its_slot_is_taken() {
    let (mut rig, _) = queued(&["a", "b"]);
    rig.pass(799_950);
    rig.work();
    drop(rig.schedule_post(50, &Post::new("p", "f").profile("a")));
    // The worker's clock shows the due already, the engine's does not.
    let delivery = rig.early.pop().unwrap();
    assert!(delivery.facts().stage.call());
    rig.work();
    let reply = order(&mut rig, Order::WarnAhead(Duration::from_secs(2)));
    rig.work();
    assert!(given(reply).unwrap().is_ok());
}

#[test]
fn a_placed_post_whose_slot_came_while_the_store_was_busy_keeps_it() {
    let (mut rig, ids) = queued(&["a", "b"]);
    drop(order(&mut rig, Order::Slots(Box::new("slots UTC Mon-Sun 18:00,18:02,18:04".parse().unwrap()))));
    rig.work();
    rig.pass(799_000);
    rig.work();
    // Another post takes the slot, and that is known when it is too late.
    drop(rig.schedule_post(1_000, &Post::new("p", "f").profile("a")));
    drop(order(&mut rig, Order::WarnAhead(Duration::from_secs(2))));
    rig.pass(2_000);
    let delivery = rig.call();
    rig.end(&delivery, Ending::Answered(Err(BroadcastError::transient("503"))));
    rig.work();
    let due = |rig: &mut Rig, id| Timestamp::due(rig.status(id).unwrap().due());
    assert_eq!((delivery.id(), due(&mut rig, ids[0])), (ids[0], delivery.facts().due));
    assert_eq!(due(&mut rig, ids[1]), delivery.facts().due.after(Duration::from_secs(120)));
}

#[test]
fn a_placed_post_that_is_cancelled_and_replaced_is_gone_wherever_the_process_dies() {
    for steps in 0..8 {
        let (mut rig, ids) = queued(&["a", "b", "c"]);
        rig.pass(760_000);
        rig.work();
        let reply = rig.cancel(ids[0]);
        drop(rig.schedule_post(40_000, &Post::new("p", "f").profile("a")));
        for _ in 0..steps {
            rig.answer_one();
        }
        let is_told = given(reply).is_some();
        let shown = listed(&mut rig).1.len();
        let mut rig = rig.restart(1, |_| {});
        rig.work();
        let left = listed(&mut rig).1.len();
        assert!(!is_told || (shown, left) == (2, 2), "after {steps} steps: {shown}, then {left}");
        let is_cancelled = rig.status(ids[0]).unwrap().state() == State::Cancelled;
        assert_eq!(is_cancelled, left == 2, "after {steps} steps");
    }
}

#[test]
fn a_slot_is_taken_by_what_has_it_when_a_new_queue_has_counted_all_posts() {
    // The fixed post moves to another slot, or leaves, after so many answers of the store.
    for (answers, moves) in (0..8).flat_map(|answers| [(answers, true), (answers, false)]) {
        let mut rig = Rig::new();
        let reply = rig.schedule_post(800_000, &Post::new("p", "f").profile("a"));
        rig.work();
        let fixed = given(reply).unwrap().unwrap();
        drop(order(&mut rig, Order::Slots(Box::new(SLOTS.parse().unwrap()))));
        let reply = push(&mut rig, &["x"]);
        for _ in 0..answers {
            rig.answer_one();
        }
        let later = Timestamp::from_millis(rig.now.wall.millis() + 4_400_000);
        let change = rig.wish(fixed, if moves { Wish::Reschedule(later) } else { Wish::Cancel });
        rig.work();
        assert!(given(change).unwrap().is_ok());
        given(reply).unwrap().unwrap();
        // 18:00 is free again.
        let due = Timestamp::from_millis(rig.now.wall.millis() + 800_000);
        assert_eq!(listed(&mut rig).1[0].1, Some(due), "{moves} after {answers}");
        let (store, now) = (rig.store.clone(), rig.now);
        let mut rig = Rig::on(store, now, |_| {});
        assert_eq!(listed(&mut rig).1[0].1, Some(due), "{moves} after {answers}, another process");
    }
}

#[test]
fn whoever_waits_for_a_queue_is_told_that_the_store_stalls() {
    let (mut rig, _) = queued(&["a"]);
    let replies = [push(&mut rig, &["b"]), push(&mut rig, &["c"])];
    for _ in 0..20 {
        rig.pass(1_000);
    }
    for reply in replies {
        assert!(matches!(given(reply).unwrap(), Err(Error::StoreStalled { .. })));
    }
}

#[test]
fn changes_to_a_post_that_leaves_its_queue_are_made_in_the_order_in_which_they_were_asked_for() {
    // Far ahead, and so near that it is in memory afterwards.
    let cases = [50_000_000, 30_000].into_iter().flat_map(|ahead| (0..32_u32).map(move |by_key| (ahead, by_key)));
    for (ahead, by_key) in cases {
        for answers in 0..64 {
            let mut rig = Rig::new();
            drop(order(&mut rig, Order::Slots(Box::new(SLOTS.parse().unwrap()))));
            rig.work();
            let (promise, reply) = Promise::new();
            let post = Post::new("p", "x").profile("a").key("k");
            let posts = vec![NewPost { body: Body::encode(&post), ..new("x") }];
            let promise = SchedulePromise::All(promise);
            queue(&mut rig, QueueWish::Enqueue { at: None, posts, known: Vec::new(), promise });
            rig.work();
            let id = given(reply).unwrap().unwrap()[0];
            let dues = [1, 2, 3, 4].map(|n| rig.now.wall.after(Duration::from_millis(ahead + n)));
            let mut replies = Vec::new();
            for (n, due) in dues.into_iter().enumerate() {
                let post = if by_key & 1 << n > 0 { PostRef::from("k") } else { id.into() };
                replies.push(rig.ask(|promise| Command::Change { post, wish: Wish::Reschedule(due), promise }));
                // The store has answered as often as that before the next one, in base four.
                for _ in 0..answers >> (2 * n) & 3 {
                    rig.answer_one();
                }
                // The queue has something else to do in between.
                if n == 0 && by_key & 16 > 0 {
                    drop(order(&mut rig, Order::Pause(true)));
                }
            }
            rig.work();
            assert!(replies.into_iter().all(|reply| given(reply).unwrap().is_ok()));
            assert_eq!(
                rig.status(id).unwrap().due(),
                dues[3].to_datetime(),
                "by key {by_key:b}, {answers} answers, {ahead} ms"
            );
        }
    }
}

#[test]
fn what_was_noted_of_slots_that_have_passed_is_forgotten() {
    let (mut rig, _) = queued(&["a", "b"]);
    let notes = |rig: &mut Rig| {
        let notes = rig.store.remembered().unwrap();
        notes.iter().filter(|(key, _)| queue::name(key).is_some_and(|(letter, ..)| letter == queue::TAKEN)).count()
    };
    // At 18:00, and at 20:00.
    rig.stored(800_000, &Post::new("p", "f").profile("a"));
    rig.stored(8_000_000, &Post::new("p", "g").profile("a"));
    assert_eq!(notes(&mut rig), 2);
    // Just after 19:00, where the first of the queue leaves.
    for _ in 0..4_500 {
        rig.pass(1_000);
        rig.work();
    }
    assert_eq!((listed(&mut rig).1.len(), notes(&mut rig)), (1, 1));
}
