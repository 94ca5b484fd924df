//! Queues, series and campaigns beside everything else that happens: posts with dues of their own, held profiles, dead
//! letters, wishes that are not waited for, restarts, clocks that were wrong for a moment.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::{Outbox, START, World, at, secs};
use punctual::{
    BroadcastError, Broadcaster, CatchUp, Delivery, Error, ManualClock, MemoryStore, Misfire, Pool, Post, PostId,
    PostingSlots, PrepareAhead, Prepared, Queue, Receipt, Schedule, Scheduler, State,
};

/// The start is at 7:00.
const HOURLY: &str = "slots UTC Mon-Sun 08:00,09:00,10:00,11:00,12:00,13:00,14:00";
const HALF_PAST: u64 = 30 * 60;

fn slots(text: &str) -> PostingSlots {
    text.parse().unwrap()
}

fn post(text: &str) -> Post {
    Post::new("p", text).profile("a")
}

fn today(time: &str) -> DateTime<Utc> {
    at(&format!("2030-01-07T{time}Z"))
}

fn queue(scheduler: &Scheduler) -> Queue {
    let queue = scheduler.queue("p", "a");
    queue.set_slots(slots(HOURLY)).wait().unwrap();
    queue
}

fn push(queue: &Queue, texts: &[&str]) -> Vec<PostId> {
    queue.push_all(texts.iter().map(|text| post(text))).wait().unwrap()
}

fn order(queue: &Queue) -> Vec<PostId> {
    queue.status().wait().unwrap().unwrap().posts().iter().map(|post| post.id).collect()
}

/// Lets time pass in steps of twenty seconds.
fn pass(scheduler: &Scheduler, clock: &ManualClock, time: u64) {
    for _ in 0..time / 20 {
        clock.advance(secs(20));
        scheduler.settle().wait().unwrap();
    }
}

fn sent(outbox: &Outbox) -> Vec<(String, String)> {
    let at = |at: DateTime<Utc>| at.format("%H:%M:%S").to_string();
    outbox.calls().into_iter().map(|call| (call.payload, at(call.called))).collect()
}

fn expected(calls: &[(&str, &str)]) -> Vec<(String, String)> {
    calls.iter().map(|(text, time)| (text.to_string(), time.to_string())).collect()
}

#[test]
fn a_slot_that_a_post_with_a_due_of_its_own_had_is_nobody_elses_afterwards() {
    // The post goes out, or is cancelled when its pool is paused and its slot has passed; with a restart in between, or not.
    for (is_cancelled, restarts) in [(false, false), (false, true), (true, false)] {
        let (store, clock) = (MemoryStore::default(), ManualClock::at(at(START)));
        let start = || World::on(store.clone(), clock.clone(), |pool| pool, |builder| builder);
        let mut world = start();
        let queue_of = |world: &World| world.scheduler.queue("p", "a");
        queue(&world.scheduler);
        let news = world.scheduler.schedule(post("news").at(today("08:00:00"))).wait().unwrap();
        push(&queue_of(&world), &["queued"]);
        pass(&world.scheduler, &clock, 50 * 60);
        if is_cancelled {
            world.scheduler.pause("p").wait().unwrap();
        }
        if restarts {
            world.scheduler.shutdown(secs(1)).wait().unwrap();
            clock.advance(secs(10 * 60));
            world = start();
        }
        pass(&world.scheduler, &clock, 15 * 60);
        if is_cancelled {
            world.scheduler.cancel(news).wait().unwrap();
            world.scheduler.resume("p").wait().unwrap();
        }
        pass(&world.scheduler, &clock, 20 * 60);
        let news: &[&str] = if is_cancelled { &[] } else { &["news"] };
        assert_eq!(world.outbox.payloads(), news, "cancelled: {is_cancelled}, restart: {restarts}");
        assert_eq!(order(&queue_of(&world)).len(), 1);
    }
}

#[test]
fn wishes_that_are_not_waited_for_are_granted_one_after_the_other() {
    let world = World::new();
    let queue = queue(&world.scheduler);
    let ids = push(&queue, &["a", "b", "c", "d"]);
    let replies = [
        queue.warn_ahead(secs(1)),
        world.scheduler.reschedule(ids[1], today("20:00:00")),
        world.scheduler.reschedule(ids[2], today("21:00:00")),
    ];
    replies.into_iter().for_each(|reply| reply.wait().unwrap());
    pass(&world.scheduler, &world.clock, 15 * 3_600);
    let all = [("a", "08:00:00"), ("d", "09:00:00"), ("b", "20:00:00"), ("c", "21:00:00")];
    assert_eq!(sent(&world.outbox), expected(&all));

    let ids = push(&queue, &["1", "2", "3", "4", "5", "6"]);
    let replies: Vec<_> = ids.iter().map(|id| world.scheduler.publish_now(*id)).collect();
    replies.into_iter().for_each(|reply| reply.wait().unwrap());
    world.scheduler.settle().wait().unwrap();
    assert_eq!((world.outbox.calls().len(), order(&queue).len()), (10, 0));
}

#[test]
fn a_placed_post_that_is_taken_back_or_given_its_own_slot_has_left_the_queue_when_that_is_answered() {
    let world = World::new();
    let queue = queue(&world.scheduler);
    let ids = push(&queue, &["a", "b", "c"]);
    pass(&world.scheduler, &world.clock, 59 * 60 + 20);
    queue.remove(ids[0]).wait().unwrap();
    assert_eq!(order(&queue), ids[1..]);
    world.scheduler.settle().wait().unwrap();
    world.scheduler.reschedule(ids[1], today("08:00:00")).wait().unwrap();
    assert_eq!(order(&queue), ids[2..]);
    pass(&world.scheduler, &world.clock, 2 * 3_600);
    assert_eq!(sent(&world.outbox), expected(&[("b", "08:00:00"), ("c", "09:00:00")]));
}

#[test]
fn a_key_that_is_said_twice_at_once_names_one_post() {
    let world = World::new();
    let queue = queue(&world.scheduler);
    let keyed = |text: &str| post(text).key(text);
    let check = |ids: Vec<PostId>| {
        assert_eq!((ids.len(), ids[0]), (3, ids[1]));
        ids.iter().for_each(|id| assert!(world.scheduler.get(*id).wait().unwrap().is_some(), "{id}"));
    };
    check(queue.push_all([keyed("x"), keyed("x"), keyed("y")]).wait().unwrap());
    assert_eq!(order(&queue).len(), 2);
    let campaign = world.scheduler.campaign("c");
    let due = |text: &str| keyed(text).at(today("12:00:00"));
    check(campaign.schedule_all([due("1"), due("1"), due("2")]).wait().unwrap());
    assert_eq!(campaign.status().wait().unwrap().unwrap().scheduled, 2);
}

#[test]
fn a_queue_of_a_held_profile_loses_nothing_and_gives_no_slot_twice() {
    let world = World::new();
    let queue = queue(&world.scheduler);
    let ids = push(&queue, &["a", "b", "c", "d"]);
    world.scheduler.hold_profile("p", "a", "its token has expired").wait().unwrap();
    pass(&world.scheduler, &world.clock, 59 * 60 + 40);
    world.clock.advance(secs(19));
    world.scheduler.settle().wait().unwrap();
    assert_eq!(world.scheduler.get(ids[0]).wait().unwrap().unwrap().state(), State::Held);
    // It has its slot still, but it is not the queue's to be moved.
    assert!(matches!(queue.swap(ids[0], ids[1]).wait(), Err(Error::NotQueued { id }) if id == ids[0]));
    queue.swap(ids[1], ids[2]).wait().unwrap();
    assert_eq!(order(&queue), [ids[2], ids[1], ids[3]]);
    pass(&world.scheduler, &world.clock, 120);
    world.scheduler.release_profile("p", "a").wait().unwrap();
    pass(&world.scheduler, &world.clock, 4 * 3_600);
    let dues: Vec<_> = world.outbox.calls().into_iter().map(|call| (call.payload, call.due)).collect();
    let slots = ["08:00:00", "09:00:00", "10:00:00", "11:00:00"].map(today);
    assert_eq!(dues, ["a", "c", "b", "d"].map(str::to_owned).into_iter().zip(slots).collect::<Vec<_>>());
}

/// Prepares its posts, or cannot.
#[derive(Clone)]
struct Preparing(Outbox, bool);

impl Broadcaster for Preparing {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        self.0.broadcast(delivery).await
    }

    async fn prepare(&self, _: Delivery) -> Result<Prepared, BroadcastError> {
        if self.1 { Ok(Prepared::new("ready")) } else { Err(BroadcastError::permanent("not of this format")) }
    }
}

fn preparing(can: bool, ahead: PrepareAhead) -> (Scheduler, ManualClock, Outbox) {
    let clock = ManualClock::at(at(START));
    let outbox = Outbox::new(&clock);
    let pool = Pool::new("p", Preparing(outbox.clone(), can)).prepare_ahead(ahead);
    let builder = Scheduler::builder().store(MemoryStore::default()).clock(clock.clone()).pool(pool);
    (builder.start().unwrap(), clock, outbox)
}

#[test]
fn a_placed_post_that_dies_while_it_is_prepared_is_a_dead_letter_and_stays_one() {
    let (scheduler, clock, _) = preparing(false, PrepareAhead::by(secs(1_800)).or_fail());
    let queue = queue(&scheduler);
    let ids = push(&queue, &["a", "b", "c"]);
    pass(&scheduler, &clock, HALF_PAST + 40);
    let dead = || scheduler.dead_letters("p", None).wait().unwrap().iter().map(|post| post.id()).collect::<Vec<_>>();
    assert_eq!(dead(), ids[..1]);
    assert!(matches!(queue.swap(ids[0], ids[1]).wait(), Err(Error::NotQueued { id }) if id == ids[0]));
    queue.swap(ids[1], ids[2]).wait().unwrap();
    assert_eq!((dead(), order(&queue)), (ids[..1].to_vec(), vec![ids[2], ids[1]]));
}

#[test]
fn what_a_series_has_planned_and_prepared_is_taken_back_when_it_is_changed_or_ended() {
    let prepared = || {
        let (scheduler, clock, outbox) = preparing(true, PrepareAhead::by(secs(600)));
        let series = scheduler.series("s");
        series.set(slots(HOURLY), Post::new("p", "old"), Misfire::All).wait().unwrap();
        pass(&scheduler, &clock, 53 * 60);
        (scheduler, clock, outbox, series)
    };
    let (scheduler, clock, outbox, series) = prepared();
    series.end().wait().unwrap();
    pass(&scheduler, &clock, 1_800);
    assert_eq!(sent(&outbox), []);
    let (scheduler, clock, outbox, series) = prepared();
    series.set(slots("slots UTC Mon-Sun 08:05"), Post::new("p", "new"), Misfire::All).wait().unwrap();
    pass(&scheduler, &clock, 1_800);
    assert_eq!(sent(&outbox), expected(&[("new", "08:05:00")]));

    // Nothing of it is in memory: the process has just begun.
    let (store, clock) = (MemoryStore::default(), ManualClock::at(at(START)));
    let start = || World::on(store.clone(), clock.clone(), |pool| pool, |builder| builder);
    let world = start();
    world.scheduler.series("s").set(slots(HOURLY), Post::new("p", "x"), Misfire::All).wait().unwrap();
    pass(&world.scheduler, &clock, 59 * 60 + 20);
    world.scheduler.shutdown(secs(1)).wait().unwrap();
    let world = start();
    world.scheduler.series("s").end().wait().unwrap();
    pass(&world.scheduler, &clock, 1_800);
    assert_eq!(sent(&world.outbox), []);
}

#[test]
fn a_series_whose_last_occurrence_comes_before_one_that_was_kept_ends() {
    let world = World::new();
    let series = world.scheduler.series("s");
    series.set(today("07:00:30"), Post::new("p", "a"), Misfire::All).wait().unwrap();
    world.scheduler.settle().wait().unwrap();
    world.pass(secs(29));
    let half_past = today("07:00:29") + TimeDelta::milliseconds(500);
    series.set(half_past, Post::new("p", "b"), Misfire::All).wait().unwrap();
    world.pass(Duration::from_millis(700));
    world.pass(secs(2));
    assert_eq!(world.outbox.payloads(), ["b", "a"]);
    assert_eq!(series.status().wait().unwrap(), None);
}

#[test]
fn late_occurrences_are_spread_as_other_late_posts_are() {
    let (store, clock) = (MemoryStore::default(), ManualClock::at(at(START)));
    let spread = |pool: Pool| pool.catch_up(CatchUp::at_once().spread_over(secs(600)));
    let start = || World::on(store.clone(), clock.clone(), spread, |builder| builder);
    let world = start();
    world.scheduler.series("s").set(Schedule::from(slots(HOURLY)), Post::new("p", "x"), Misfire::All).wait().unwrap();
    world.scheduler.shutdown(secs(1)).wait().unwrap();
    clock.advance(secs(5 * 3_600 + 600));
    let world = start();
    pass(&world.scheduler, &clock, 900);
    let mut times: Vec<_> = sent(&world.outbox).into_iter().map(|(_, time)| time).collect();
    times.dedup();
    assert!(times.len() > 3, "{times:?}");
}

#[test]
fn a_campaign_has_a_name_as_long_as_is_allowed() {
    let world = World::new();
    let name = |bytes: usize| "c".repeat(bytes);
    for bytes in [0, 256] {
        let refused = world.scheduler.campaign(&name(bytes)).schedule_all([Post::new("p", "x")]).wait();
        assert!(matches!(refused, Err(Error::InvalidName { what: "campaign", bytes: b, max: 255 }) if b == bytes));
    }
    let longest = world.scheduler.campaign(&name(255));
    longest.schedule_all([Post::new("p", "x")]).wait().unwrap();
    assert_eq!((longest.name(), longest.status().wait().unwrap().unwrap().scheduled), (&*name(255), 1));
}

#[test]
fn a_cancelled_campaign_sends_nothing_however_much_later() {
    let world = World::new();
    let moved = world.scheduler.campaign("moved");
    let ids = moved.schedule_all([Post::new("p", "moved").at(today("08:00:00"))]).wait().unwrap();
    world.scheduler.reschedule(ids[0], today("08:00:00") + TimeDelta::days(3)).wait().unwrap();
    let held = world.scheduler.campaign("held");
    held.schedule_all([post("held").at(today("08:00:00"))]).wait().unwrap();
    world.scheduler.hold_profile("p", "a", "its token has expired").wait().unwrap();
    pass(&world.scheduler, &world.clock, 2 * 3_600);
    moved.cancel().wait().unwrap();
    held.cancel().wait().unwrap();
    for _ in 0..5 * 24 * 4 {
        world.pass(secs(900));
    }
    world.scheduler.release_profile("p", "a").wait().unwrap();
    pass(&world.scheduler, &world.clock, 600);
    assert_eq!(sent(&world.outbox), []);
}

#[test]
fn the_dead_letters_of_a_campaign_count_when_they_are_sent_again_days_later() {
    let (clock, is_up) = (ManualClock::at(at(START)), Arc::new(AtomicBool::new(false)));
    let up = Arc::clone(&is_up);
    let broadcaster = move |_: Delivery| {
        let is_up = up.load(Ordering::Relaxed);
        async move { if is_up { Ok(Receipt::default()) } else { Err(BroadcastError::permanent("gone")) } }
    };
    let builder = Scheduler::builder().store(MemoryStore::default()).clock(clock.clone());
    let scheduler = builder.pool(Pool::new("p", broadcaster)).start().unwrap();
    let campaign = scheduler.campaign("c");
    campaign.schedule_all(["x", "y"].map(|text| Post::new("p", text).at(today("08:00:00")))).wait().unwrap();
    let live_through = |hours: u32| {
        for _ in 0..hours * 4 {
            clock.advance(secs(900));
            scheduler.settle().wait().unwrap();
        }
    };
    live_through(3 * 24);
    let counts = || {
        let status = campaign.status().wait().unwrap().unwrap();
        [status.scheduled, status.delivered, status.failed, status.left]
    };
    assert_eq!(counts(), [2, 0, 2, 0]);
    is_up.store(true, Ordering::Relaxed);
    scheduler.requeue_dead_letters("p").wait().unwrap();
    // It is known for a day after the last of them.
    live_through(20);
    assert_eq!(counts(), [2, 2, 0, 0]);
    live_through(10);
    assert!(campaign.status().wait().unwrap().is_none());
}

#[test]
fn a_clock_that_was_wrong_for_a_moment_does_not_stop_a_queue() {
    let world = World::new();
    let queue = queue(&world.scheduler);
    world.clock.step(TimeDelta::days(3_650));
    world.scheduler.settle().wait().unwrap();
    push(&queue, &["a"]);
    world.clock.step(TimeDelta::days(-3_650));
    world.scheduler.settle().wait().unwrap();
    queue.set_slots(slots(HOURLY)).wait().unwrap();
    pass(&world.scheduler, &world.clock, 3_700);
    assert_eq!(sent(&world.outbox), expected(&[("a", "08:00:00")]));
}
