//! A profile's queue: each post takes the next free slot, and every change is there at once or not at all.

mod common;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use chrono::{DateTime, Utc};
use common::{Outbox, START, World, at, millis, secs};
use punctual::{
    Error, Event, ManualClock, MemoryStore, Outcome, Pool, Post, PostId, PostRef, PostingSlots, Queue, Scheduler,
    SledStore, State,
};

/// Monday 7:00 UTC is the start; slots at 8:00 and 17:30 in Berlin are at 7:00 and 16:30 UTC in winter.
const SLOTS: &str = "slots Europe/Berlin Mon-Fri 08:00,17:30";

fn slots(text: &str) -> PostingSlots {
    text.parse().unwrap()
}

fn post(text: &str) -> Post {
    Post::new("p", text)
}

fn queue(world: &World) -> Queue {
    let queue = world.scheduler.queue("p", "shop");
    queue.set_slots(slots(SLOTS)).wait().unwrap();
    queue
}

fn push(queue: &Queue, texts: &[&str]) -> Vec<PostId> {
    queue.push_all(texts.iter().map(|text| post(text))).wait().unwrap()
}

fn listed(queue: &Queue) -> Vec<(PostId, Option<DateTime<Utc>>)> {
    queue.status().wait().unwrap().unwrap().posts().iter().map(|post| (post.id, post.due)).collect()
}

fn order(queue: &Queue) -> Vec<PostId> {
    listed(queue).into_iter().map(|(id, _)| id).collect()
}

/// Lets time pass up to this instant; it stops at every quarter of an hour, where slots are.
fn until(world: &World, text: &str) {
    let target = at(text);
    while world.clock.now() < target {
        let now = world.clock.now();
        let quarter = 900_000 - now.timestamp_millis().rem_euclid(900_000);
        world.pass((target - now).to_std().unwrap().min(millis(quarter as u64)));
    }
}

fn sent(outbox: &Outbox) -> Vec<(String, DateTime<Utc>)> {
    outbox.calls().into_iter().map(|call| (call.payload, call.called)).collect()
}

#[test]
fn each_post_takes_the_next_slot_and_goes_out_then() {
    let world = World::new();
    let queue = queue(&world);
    let ids = push(&queue, &["one", "two", "three"]);
    let slots = [at("2030-01-07T16:30:00Z"), at("2030-01-08T07:00:00Z"), at("2030-01-08T16:30:00Z")];
    assert_eq!(listed(&queue), ids.iter().copied().zip(slots.map(Some)).collect::<Vec<_>>());
    let status = world.scheduler.get(ids[1]).wait().unwrap().unwrap();
    assert_eq!((status.state(), status.due(), status.profile()), (State::Queued, slots[1], "shop"));
    until(&world, "2030-01-07T16:29:59.999Z");
    assert_eq!(sent(&world.outbox), []);
    until(&world, "2030-01-08T16:30:00Z");
    let expected = ["one", "two", "three"].map(str::to_owned).into_iter().zip(slots).collect::<Vec<_>>();
    assert_eq!(sent(&world.outbox), expected);
    assert_eq!(listed(&queue), []);
    for call in world.outbox.calls() {
        assert_eq!(call.due, call.called);
    }
}

#[test]
fn a_post_with_a_due_of_its_own_takes_the_slot_that_it_hits_before_and_after_the_queue_is_made() {
    let world = World::new();
    let fixed = |text: &str, due: &str| post(text).profile("shop").at(at(due));
    world.scheduler.schedule(fixed("before", "2030-01-08T07:00:00Z")).wait().unwrap();
    world.scheduler.schedule(post("other").profile("mill").at(at("2030-01-07T16:30:00Z"))).wait().unwrap();
    let queue = queue(&world);
    let ids = push(&queue, &["one", "two"]);
    let dues = |queue: &Queue| listed(queue).into_iter().map(|(_, due)| due.unwrap().to_rfc3339()).collect::<Vec<_>>();
    assert_eq!(dues(&queue), ["2030-01-07T16:30:00+00:00", "2030-01-08T16:30:00+00:00"]);
    let after = world.scheduler.schedule(fixed("after", "2030-01-07T16:30:00Z")).wait().unwrap();
    assert_eq!(dues(&queue), ["2030-01-08T16:30:00+00:00", "2030-01-09T07:00:00+00:00"]);
    world.scheduler.reschedule(after, at("2030-01-07T12:00:00Z")).wait().unwrap();
    assert_eq!(dues(&queue), ["2030-01-07T16:30:00+00:00", "2030-01-08T16:30:00+00:00"]);
    world.scheduler.reschedule(after, at("2030-01-08T16:30:00Z")).wait().unwrap();
    assert_eq!(dues(&queue), ["2030-01-07T16:30:00+00:00", "2030-01-09T07:00:00+00:00"]);
    world.scheduler.cancel(after).wait().unwrap();
    assert_eq!(dues(&queue), ["2030-01-07T16:30:00+00:00", "2030-01-08T16:30:00+00:00"]);
    // A post that leaves the queue for a due of its own takes the slot that it hits too.
    world.scheduler.reschedule(ids[0], at("2030-01-08T16:30:00Z")).wait().unwrap();
    assert_eq!(order(&queue), [ids[1]]);
    assert_eq!(dues(&queue), ["2030-01-07T16:30:00+00:00"]);
    assert_eq!(world.scheduler.get(ids[0]).wait().unwrap().unwrap().state(), State::Scheduled);
}

#[test]
fn a_slot_that_is_taken_in_one_pool_is_free_in_another() {
    let (clock, store) = (ManualClock::at(at(START)), MemoryStore::default());
    let outbox = Outbox::new(&clock);
    let builder = Scheduler::builder().store(store).clock(clock.clone());
    let builder = ["p", "q"].into_iter().fold(builder, |builder, pool| builder.pool(Pool::new(pool, outbox.clone())));
    let scheduler = builder.start().unwrap();
    let slot = at("2030-01-07T16:30:00Z");
    let post = |pool: &str, text: &str| Post::new(pool, text).profile("shop");
    // One is in memory when the queue is made, one comes later.
    scheduler.schedule(post("q", "before").at(slot)).wait().unwrap();
    clock.step(slot - at(START) - chrono::TimeDelta::seconds(100));
    scheduler.settle().wait().unwrap();
    let queue = scheduler.queue("p", "shop");
    queue.set_slots(slots(SLOTS)).wait().unwrap();
    scheduler.schedule(post("q", "after").at(slot)).wait().unwrap();
    let id = queue.push(self::post("one")).wait().unwrap();
    assert_eq!(listed(&queue), [(id, Some(slot))]);
}

#[test]
fn a_fixed_post_that_hits_the_slot_of_a_placed_one_sends_it_back() {
    let world = World::new();
    let queue = queue(&world);
    let ids = push(&queue, &["one", "two"]);
    until(&world, "2030-01-07T16:29:30Z");
    assert_eq!(world.scheduler.get(ids[0]).wait().unwrap().unwrap().state(), State::Scheduled);
    world.scheduler.schedule(post("fixed").profile("shop").at(at("2030-01-07T16:30:00Z"))).wait().unwrap();
    assert_eq!(world.scheduler.get(ids[0]).wait().unwrap().unwrap().state(), State::Queued);
    until(&world, "2030-01-08T16:30:00Z");
    assert_eq!(world.outbox.payloads(), ["fixed", "one", "two"]);
}

#[test]
fn posts_are_moved_swapped_shuffled_and_taken_out() {
    let world = World::new();
    let queue = queue(&world);
    let ids = push(&queue, &["a", "b", "c", "d", "e"]);
    let [a, b, c, d, e] = ids[..] else { panic!("{ids:?}") };
    let slots: Vec<_> = listed(&queue).into_iter().map(|(_, due)| due).collect();
    queue.move_to(e, 0).wait().unwrap();
    assert_eq!(order(&queue), [e, a, b, c, d]);
    queue.move_to(e, 3).wait().unwrap();
    assert_eq!(order(&queue), [a, b, c, e, d]);
    queue.swap(a, d).wait().unwrap();
    assert_eq!(order(&queue), [d, b, c, e, a]);
    let front = queue.push_front(post("f")).wait().unwrap();
    let third = queue.insert(2, post("g")).wait().unwrap();
    assert_eq!(order(&queue), [front, d, third, b, c, e, a]);
    queue.remove(front).wait().unwrap();
    world.scheduler.cancel(third).wait().unwrap();
    assert_eq!(listed(&queue), [d, b, c, e, a].into_iter().zip(slots).collect::<Vec<_>>());
    assert_eq!(world.scheduler.outcome(third).wait().unwrap(), Outcome::Cancelled);
    queue.shuffle(7).wait().unwrap();
    let shuffled = order(&queue);
    assert_ne!(shuffled, [d, b, c, e, a]);
    let mut sorted = shuffled.clone();
    sorted.sort();
    assert_eq!(sorted, [a, b, c, d, e]);
    until(&world, "2030-01-09T16:30:00Z");
    let sent: Vec<_> = world.outbox.calls().into_iter().map(|call| call.id).collect();
    assert_eq!(sent, shuffled);
}

#[test]
fn a_change_wins_against_the_slot_until_the_broadcaster_is_called() {
    let world = World::new();
    let queue = queue(&world);
    let ids = push(&queue, &["a", "b", "c"]);
    until(&world, "2030-01-07T16:29:59.950Z");
    queue.move_to(ids[2], 0).wait().unwrap();
    world.pass(secs(1));
    assert_eq!(world.outbox.payloads(), ["c"]);
    until(&world, "2030-01-08T06:59:59.950Z");
    queue.pause().wait().unwrap();
    until(&world, "2030-01-09T12:00:00Z");
    assert_eq!(world.outbox.payloads(), ["c"]);
    assert_eq!(listed(&queue), [(ids[0], None), (ids[1], None)]);
    queue.resume().wait().unwrap();
    assert_eq!(listed(&queue)[0], (ids[0], Some(at("2030-01-09T16:30:00Z"))));
    until(&world, "2030-01-09T16:29:59.950Z");
    world.scheduler.cancel(ids[0]).wait().unwrap();
    world.scheduler.settle().wait().unwrap();
    // The slot is free again, and the next post takes it.
    world.pass(secs(1));
    assert_eq!(world.outbox.payloads(), ["c", "b"]);
    assert_eq!(world.outbox.calls()[1].due, at("2030-01-09T16:30:00Z"));
}

#[test]
fn other_slots_retime_the_whole_queue_at_once() {
    let world = World::new();
    let queue = queue(&world);
    let ids = push(&queue, &["a", "b"]);
    until(&world, "2030-01-07T16:29:30Z");
    queue.set_slots(slots("slots America/New_York Sat 10:00; extra 2030-01-07T11:45")).wait().unwrap();
    let dues = [at("2030-01-07T16:45:00Z"), at("2030-01-12T15:00:00Z")];
    assert_eq!(listed(&queue), ids.iter().copied().zip(dues.map(Some)).collect::<Vec<_>>());
    // Once more is the same.
    queue.set_slots(slots("slots America/New_York Sat 10:00; extra 2030-01-07T11:45")).wait().unwrap();
    assert_eq!(listed(&queue), ids.iter().copied().zip(dues.map(Some)).collect::<Vec<_>>());
    until(&world, "2030-01-12T15:00:00Z");
    assert_eq!(sent(&world.outbox), [("a".to_owned(), dues[0]), ("b".to_owned(), dues[1])]);
}

#[test]
fn it_is_said_when_a_queue_runs_low_and_when_it_is_empty() {
    let world = World::new();
    let queue = queue(&world);
    let mut events = world.scheduler.events();
    queue.warn_ahead(secs(86_400)).wait().unwrap();
    push(&queue, &["a", "b", "c", "d"]);
    let mut told = |world: &World| {
        world.scheduler.settle().wait().unwrap();
        let mut told = Vec::new();
        while let Poll::Ready(Some(event)) = pin!(events.next()).poll(&mut Context::from_waker(Waker::noop())) {
            match event {
                Event::QueueLow { left, last, .. } => told.push(format!("{left} until {last}")),
                Event::QueueEmpty { profile, .. } => told.push(format!("{profile} empty")),
                _ => {}
            }
        }
        told
    };
    assert_eq!(told(&world), [""; 0]);
    until(&world, "2030-01-08T06:59:59.999Z");
    assert_eq!(told(&world), [""; 0]);
    until(&world, "2030-01-08T07:00:30Z");
    assert_eq!(told(&world), ["2 until 2030-01-09 07:00:00 UTC"]);
    until(&world, "2030-01-08T16:30:00Z");
    push(&queue, &["e", "f"]);
    assert_eq!(told(&world), [""; 0]);
    until(&world, "2030-01-10T12:00:00Z");
    assert_eq!(told(&world), ["2 until 2030-01-10 07:00:00 UTC", "shop empty"]);
    assert_eq!(world.outbox.payloads(), ["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn what_is_shown_of_a_queue_is_what_it_was_told() {
    let world = World::new();
    let queue = queue(&world);
    let shown = || {
        let status = queue.status().wait().unwrap().unwrap();
        (status.slots().clone(), status.is_paused(), status.warn_ahead())
    };
    assert_eq!(shown(), (slots(SLOTS), false, secs(0)));
    queue.pause().wait().unwrap();
    queue.warn_ahead(secs(7_200)).wait().unwrap();
    assert_eq!(shown(), (slots(SLOTS), true, secs(7_200)));
    let other = "slots Europe/Berlin Sat 09:00";
    queue.set_slots(slots(other)).wait().unwrap();
    queue.resume().wait().unwrap();
    assert_eq!(shown(), (slots(other), false, secs(7_200)));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let world = World::new();
    let none = world.scheduler.queue("p", "mill");
    assert!(matches!(none.push(post("x")).wait(), Err(Error::NoQueue { profile, .. }) if profile == "mill"));
    assert!(matches!(none.pause().wait(), Err(Error::NoQueue { .. })));
    assert_eq!(none.status().wait().unwrap(), None);
    assert!(matches!(world.scheduler.queue("q", "shop").shuffle(1).wait(), Err(Error::UnknownPool { .. })));
    assert!(matches!(
        world.scheduler.queue("p", "").set_slots(slots(SLOTS)).wait(),
        Err(Error::InvalidName { what: "profile", .. })
    ));
    let queue = queue(&world);
    let ids = push(&queue, &["a", "b"]);
    let before = queue.status().wait().unwrap();
    let stranger = world.scheduler.schedule(post("x").profile("shop").at(at("2030-02-01T00:00:00Z"))).wait().unwrap();
    assert!(matches!(queue.move_to(stranger, 0).wait(), Err(Error::NotQueued { id }) if id == stranger));
    assert!(matches!(queue.swap(ids[0], stranger).wait(), Err(Error::NotQueued { .. })));
    assert!(matches!(queue.move_to(ids[0], 2).wait(), Err(Error::NoPosition { position: 2, posts: 2 })));
    assert!(matches!(queue.insert(3, post("x")).wait(), Err(Error::NoPosition { position: 3, posts: 2 })));
    assert!(matches!(queue.push(post("x").at(at(START))).wait(), Err(Error::NotForQueue { .. })));
    assert!(matches!(queue.push(Post::new("q", "x")).wait(), Err(Error::NotForQueue { .. })));
    assert!(matches!(queue.push(post("x").profile("mill")).wait(), Err(Error::NotForQueue { .. })));
    let foreign = World::new().scheduler.schedule(post("x")).wait().unwrap();
    assert!(matches!(queue.move_to(foreign, 0).wait(), Err(Error::ForeignId { .. })));
    assert!(matches!(queue.push_all(vec![post("x"); 100_001]).wait(), Err(Error::BatchTooLarge { .. })));
    assert!(matches!(
        world.scheduler.resolve(ids[0], punctual::Resolution::Drop).wait(),
        Err(Error::NotInDoubt { state: State::Queued, .. })
    ));
    assert_eq!(queue.status().wait().unwrap(), before);
}

#[test]
fn what_was_done_under_a_key_is_not_done_again() {
    let world = World::new();
    let queue = queue(&world);
    let ids = push(&queue, &["a", "b"]);
    for _ in 0..3 {
        queue.clone().once("swap 1").swap(ids[0], ids[1]).wait().unwrap();
        assert_eq!(order(&queue), [ids[1], ids[0]]);
    }
    let known = queue.push(post("c").key("c")).wait().unwrap();
    let again = queue.push_all([post("d"), post("c").key("c"), post("e")]).wait().unwrap();
    assert_eq!(again[1], known);
    assert_eq!(order(&queue), [ids[1], ids[0], known, again[0], again[2]]);
    assert!(matches!(
        queue.push_all([post("x"), post("other").key("c")]).wait(),
        Err(Error::Conflict { key, existing }) if key == "c" && existing == known
    ));
    assert_eq!(order(&queue).len(), 5);
}

#[test]
fn a_queued_post_can_be_edited_and_named_by_its_key() {
    let world = World::new();
    let queue = queue(&world);
    let id = queue.push(post("a").key("k")).wait().unwrap();
    world.scheduler.edit("k", "edited").wait().unwrap();
    let status = world.scheduler.get("k").wait().unwrap().unwrap();
    assert_eq!((status.id(), status.payload(), status.revision()), (id, &b"edited"[..], 1));
    let stale = PostRef::from(id).at_revision(0);
    assert!(matches!(world.scheduler.cancel(stale).wait(), Err(Error::Changed { .. })));
    world.scheduler.publish_now(id).wait().unwrap();
    world.scheduler.settle().wait().unwrap();
    assert_eq!(world.outbox.payloads(), ["edited"]);
    assert_eq!(order(&queue), []);
}

#[test]
fn after_downtime_slots_that_passed_are_late_and_the_rest_is_as_it_was() {
    let (store, clock) = (MemoryStore::default(), ManualClock::at(at(START)));
    let start = || World::on(store.clone(), clock.clone(), |pool| pool, |builder| builder);
    let world = start();
    let ids = push(&queue(&world), &["a", "b", "c", "d"]);
    until(&world, "2030-01-07T16:29:30Z");
    world.scheduler.shutdown(secs(1)).wait().unwrap();
    clock.advance(secs(86_400));
    let world = start();
    world.scheduler.settle().wait().unwrap();
    let dues: Vec<_> = world.outbox.calls().into_iter().map(|call| (call.payload, call.due.to_rfc3339())).collect();
    let late = [("a", "2030-01-07T16:30:00+00:00"), ("b", "2030-01-08T07:00:00+00:00")];
    assert_eq!(dues, late.map(|(text, due)| (text.to_owned(), due.to_owned())));
    let queue = world.scheduler.queue("p", "shop");
    assert_eq!(listed(&queue)[0], (ids[2], Some(at("2030-01-08T16:30:00Z"))));
    until(&world, "2030-01-09T07:00:00Z");
    assert_eq!(world.outbox.payloads(), ["a", "b", "c", "d"]);
}

#[test]
fn a_queue_on_disk_is_the_same_after_every_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(at(START));
    let outbox = Outbox::new(&clock);
    let start = || {
        let store = SledStore::open(folder.path()).unwrap();
        let pool = punctual::Pool::new("p", outbox.clone());
        punctual::Scheduler::builder().store(store).clock(clock.clone()).pool(pool).start().unwrap()
    };
    let mut scheduler = start();
    scheduler.queue("p", "shop").set_slots(slots(SLOTS)).wait().unwrap();
    scheduler.schedule(post("fixed").profile("shop").at(at("2030-01-09T07:00:00Z"))).wait().unwrap();
    for round in 0..13u64 {
        let queue = scheduler.queue("p", "shop");
        let ids = queue.push_all((0..30).map(|n| post(&format!("{round} {n}")))).wait().unwrap();
        match round % 5 {
            0 => queue.shuffle(round).wait().unwrap(),
            1 => queue.move_to(ids[3], 0).wait().unwrap(),
            2 => queue.remove(ids[4]).wait().unwrap(),
            3 => drop(queue.push_front(post("front")).wait().unwrap()),
            _ => {
                queue.pause().wait().unwrap();
                queue.resume().wait().unwrap();
            }
        }
        let before = listed(&queue);
        let taken = Some(at("2030-01-09T07:00:00Z"));
        assert!(before.len() >= 30 && before.iter().all(|(_, due)| *due != taken), "the fixed post has its slot");
        scheduler.shutdown(secs(1)).wait().unwrap();
        clock.advance(secs(40 * 60));
        scheduler = start();
        scheduler.settle().wait().unwrap();
        assert_eq!(listed(&scheduler.queue("p", "shop")), before, "round {round}");
    }
}
