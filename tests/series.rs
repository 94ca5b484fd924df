//! A series: each occurrence is planned once and only once, whatever happens in between.

mod common;

use chrono::{DateTime, TimeDelta, Utc};
use common::{Outbox, START, World, at, secs};
use proptest::prelude::*;
use punctual::{Error, Event, ManualClock, MemoryStore, Misfire, Post, Schedule, SledStore, State};

/// 8:00 in Berlin is 7:00 UTC in winter, and the start is a Monday at 7:00 UTC.
const DAILY: &str = "slots Europe/Berlin Mon-Sun 08:00";

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap()
}

fn post(text: &str) -> Post {
    Post::new("p", text)
}

/// The dues of all calls. Of posts that are due together, or late, any may be called first.
fn dues(outbox: &Outbox) -> Vec<DateTime<Utc>> {
    let mut dues: Vec<_> = outbox.calls().into_iter().map(|call| call.due).collect();
    dues.sort_unstable();
    dues
}

fn expected(text: &str, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    schedule(text).after(from).take_while(|due| *due <= to).collect()
}

/// Lets hours pass, one at a time.
fn hours(world: &World, hours: u32) {
    (0..hours).for_each(|_| world.pass(secs(3_600)));
}

#[test]
fn each_occurrence_is_a_post_of_its_own_sent_at_its_due() {
    let world = World::new();
    let series = world.scheduler.series("daily");
    series.set(schedule(DAILY), post("news").profile("shop"), Misfire::All).wait().unwrap();
    hours(&world, 72);
    let calls = world.outbox.calls();
    assert_eq!(dues(&world.outbox), expected(DAILY, at(START), world.clock.now()));
    assert!(calls.iter().all(|call| call.called == call.due && call.payload == "news"));
    assert_ne!(calls[0].id, calls[1].id);
    assert_eq!(world.scheduler.get(calls[2].id).wait().unwrap().unwrap().state(), State::Delivered);
    let status = series.status().wait().unwrap().unwrap();
    assert_eq!((status.planned(), status.next()), (3, Some(at("2030-01-11T07:00:00Z"))));
    assert_eq!((status.schedule(), status.pool()), (&schedule(DAILY), "p"));
    assert_eq!(world.scheduler.all_series().wait().unwrap(), ["daily"]);
}

#[test]
fn a_series_that_is_changed_or_ended_keeps_what_is_claimed_and_nothing_else() {
    let world = World::new();
    let series = world.scheduler.series("daily");
    series.set(schedule(DAILY), post("old"), Misfire::All).wait().unwrap();
    // Planned, and not claimed: the changed one takes its place.
    world.pass(secs(86_400 - 30));
    assert_eq!(series.status().wait().unwrap().unwrap().planned(), 1);
    series.set(schedule(DAILY), post("new"), Misfire::All).wait().unwrap();
    world.pass(secs(30));
    assert_eq!(world.outbox.payloads(), ["new"]);
    // Claimed two seconds ahead: it goes out as it is, and once.
    world.pass(secs(86_400 - 60));
    world.pass(secs(59));
    series.set(schedule(DAILY), post("newer"), Misfire::All).wait().unwrap();
    world.pass(secs(1));
    hours(&world, 24);
    assert_eq!(world.outbox.payloads(), ["new", "new", "newer"]);
    world.pass(secs(86_400 - 30));
    series.end().wait().unwrap();
    hours(&world, 48);
    assert_eq!(world.outbox.payloads(), ["new", "new", "newer"]);
    assert_eq!(series.status().wait().unwrap(), None);
    assert!(matches!(series.end().wait(), Err(Error::NoSeries { key }) if key == "daily"));
}

#[test]
fn what_passed_during_downtime_is_planned_as_the_series_says() {
    for (misfire, late) in [(Misfire::All, 3), (Misfire::Latest, 1), (Misfire::Skip, 0)] {
        let (store, clock) = (MemoryStore::default(), ManualClock::at(at(START)));
        let start = || World::on(store.clone(), clock.clone(), |pool| pool, |builder| builder);
        let world = start();
        world.scheduler.series("daily").set(schedule(DAILY), post("x"), misfire).wait().unwrap();
        world.scheduler.shutdown(secs(1)).wait().unwrap();
        clock.advance(secs(3 * 86_400 + 3_600));
        let world = start();
        world.scheduler.settle().wait().unwrap();
        let all = expected(DAILY, at(START), clock.now());
        assert_eq!(all.len(), 3);
        assert_eq!(dues(&world.outbox), all[3 - late..], "{misfire:?}");
        hours(&world, 24);
        assert_eq!(world.outbox.calls().len(), late + 1, "{misfire:?}");
    }
}

#[test]
fn what_a_wrong_clock_has_planned_ends_with_its_series_and_is_not_sent_twice() {
    for ends in [true, false] {
        let world = World::new();
        let series = world.scheduler.series("hourly");
        let hourly = (0..24).map(|hour| format!("{hour:02}:00")).collect::<Vec<_>>().join(",");
        let hourly = format!("slots UTC Mon-Sun {hourly}");
        world.scheduler.pause("p").wait().unwrap();
        series.set(schedule(&hourly), post("old"), Misfire::All).wait().unwrap();
        world.clock.step(TimeDelta::days(1));
        world.scheduler.settle().wait().unwrap();
        assert_eq!(series.status().wait().unwrap().unwrap().planned(), 24, "a test of nothing");
        series.set(schedule(&hourly), post("middle"), Misfire::All).wait().unwrap();
        world.clock.step(TimeDelta::days(-1));
        world.scheduler.settle().wait().unwrap();
        if ends {
            series.end().wait().unwrap();
        } else {
            series.set(schedule(&hourly), post("new"), Misfire::All).wait().unwrap();
        }
        world.scheduler.resume("p").wait().unwrap();
        hours(&world, 26);
        let sent = if ends { Vec::new() } else { expected(&hourly, at(START), world.clock.now()) };
        assert_eq!(dues(&world.outbox), sent);
        assert!(world.outbox.payloads().iter().all(|payload| payload == "new"));
    }
}

#[test]
fn a_series_that_is_planned_far_ahead_ends_as_a_whole() {
    let world = World::new();
    let series = world.scheduler.series("often");
    let post = post("x").prepare_ahead(secs(86_400));
    let every_minute: Schedule = "cron UTC * * * * *".parse().unwrap();
    series.set(every_minute, post, Misfire::All).wait().unwrap();
    world.scheduler.settle().wait().unwrap();
    assert_eq!(series.status().wait().unwrap().unwrap().planned(), 24 * 60 + 1);
    series.end().wait().unwrap();
    hours(&world, 25);
    assert_eq!(world.outbox.payloads(), Vec::<String>::new());
}

#[test]
fn a_series_that_comes_to_its_end_says_so() {
    let world = World::new();
    let mut events = world.scheduler.events();
    let series = world.scheduler.series("once");
    series.set(at("2030-01-07T08:00:00Z"), post("x"), Misfire::All).wait().unwrap();
    hours(&world, 2);
    assert_eq!(dues(&world.outbox), [at("2030-01-07T08:00:00Z")]);
    assert_eq!(series.status().wait().unwrap(), None);
    let ended = std::iter::from_fn(|| events.wait()).find(|event| matches!(event, Event::SeriesEnded { .. }));
    assert_eq!(ended, Some(Event::SeriesEnded { key: "once".to_owned() }));
}

#[test]
fn what_is_no_series_is_refused() {
    let world = World::new();
    let set = |key: &str, schedule: Schedule, post: Post| {
        world.scheduler.series(key).set(schedule, post, Misfire::All).wait()
    };
    assert!(matches!(set("s", schedule(DAILY), Post::new("q", "x")), Err(Error::UnknownPool { .. })));
    assert!(matches!(set("s", schedule(DAILY), post("x").at(at(START))), Err(Error::NotForSeries { .. })));
    assert!(matches!(set("s", schedule(DAILY), post("x").key("k")), Err(Error::NotForSeries { .. })));
    assert!(matches!(set("s", at("2029-01-01T00:00:00Z").into(), post("x")), Err(Error::NotForSeries { .. })));
    assert!(matches!(set("", schedule(DAILY), post("x")), Err(Error::InvalidName { what: "series", .. })));
    assert!(matches!(set(&"s".repeat(256), schedule(DAILY), post("x")), Err(Error::InvalidName { .. })));
    assert_eq!(world.scheduler.all_series().wait().unwrap(), [""; 0]);
    hours(&world, 48);
    assert_eq!(world.outbox.calls().len(), 0);
}

#[test]
fn a_series_on_disk_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(at(START));
    let outbox = Outbox::new(&clock);
    let start = || {
        let store = SledStore::open(folder.path()).unwrap();
        let pool = punctual::Pool::new("p", outbox.clone());
        punctual::Scheduler::builder().store(store).clock(clock.clone()).pool(pool).start().unwrap()
    };
    let scheduler = start();
    scheduler.series("daily").set(schedule(DAILY), post(&"x".repeat(60_000)), Misfire::All).wait().unwrap();
    scheduler.shutdown(secs(1)).wait().unwrap();
    for _ in 0..60 {
        let scheduler = start();
        scheduler.settle().wait().unwrap();
        clock.advance(secs(5_407));
        scheduler.settle().wait().unwrap();
        scheduler.shutdown(secs(1)).wait().unwrap();
    }
    assert_eq!(dues(&outbox), expected(DAILY, at(START), clock.now()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However long it runs and stands still, and wherever it is stopped without a word.
    #[test]
    fn no_occurrence_comes_twice_or_is_left_out(steps in proptest::collection::vec((0..5u8, 1..40_000u64), 1..40)) {
        const SLOTS: &str = "slots Europe/Berlin Mon-Sun 02:30,08:00,08:01,17:30";
        let (store, clock) = (MemoryStore::default(), ManualClock::at(at("2030-03-29T12:00:00Z")));
        let from = clock.now();
        let start = || World::on(store.clone(), clock.clone(), |pool| pool, |builder| builder);
        let mut world = start();
        world.scheduler.series("s").set(schedule(SLOTS), post("x"), Misfire::All).wait().unwrap();
        let mut sent = Vec::new();
        for (what, secs) in steps {
            match what {
                0 => {
                    sent.extend(world.outbox.calls());
                    world.scheduler.shutdown(common::secs(1)).wait().unwrap();
                    drop(world);
                    clock.advance(common::secs(secs));
                    world = start();
                    world.scheduler.settle().wait().unwrap();
                }
                // Time steps back: what has been planned is not planned again.
                1 => {
                    clock.step(-chrono::TimeDelta::seconds((secs % 120) as i64));
                    world.scheduler.settle().wait().unwrap();
                }
                _ => world.pass(common::secs(secs)),
            }
        }
        world.pass(common::secs(600));
        world.scheduler.settle().wait().unwrap();
        sent.extend(world.outbox.calls());
        let mut dues: Vec<_> = sent.iter().map(|call| call.due).collect();
        dues.sort();
        prop_assert_eq!(dues, expected(SLOTS, from, clock.now()));
        prop_assert!(sent.iter().all(|call| call.called >= call.due));
    }
}
