//! Posts whose due has passed, on one thread with a store in memory: missed, spread, at a distance from each other, and more
//! of them than memory holds.

use super::tests::Rig;
use super::*;
use crate::catch_up::CatchUp;
use crate::id::{PostId, State};
use crate::post::{BroadcastError, Change, Ending, Post, Receipt};

const SECOND: u64 = 1_000;
/// More posts than these fit in the memory of a [`Rig`] by far.
const BACKLOG: i64 = 400;

fn big() -> Post {
    Post::new("p", vec![0; 60_000])
}

/// Lets so many seconds pass, in which everything that is handed over is published: what went when, in milliseconds since
/// the start of that.
fn sent_within(rig: &mut Rig, seconds: u64) -> Vec<(i64, PostId, Timestamp)> {
    let (start, mut sent) = (rig.now.wall, Vec::new());
    for _ in 0..seconds * 2 {
        rig.delivered.reverse();
        while !rig.delivered.is_empty() {
            let delivery = rig.call();
            sent.push((rig.now.wall.millis() - start.millis(), delivery.id(), delivery.facts().due));
            rig.answer(&delivery, Ok("u"));
        }
        rig.pass(SECOND / 2);
        rig.work();
    }
    sent
}

fn over(window: u64) -> CatchUp {
    CatchUp::at_once().spread_over(Duration::from_secs(window))
}

fn lateness(sent: &[(i64, PostId, Timestamp)], start: Timestamp, id: PostId) -> i64 {
    let (at, _, due) = sent.iter().find(|(_, other, _)| *other == id).expect("it was never sent");
    start.millis() + at - due.millis()
}

#[test]
fn a_post_that_would_be_later_than_it_allows_is_missed_and_never_sent() {
    let mut rig = Rig::new();
    let post = Post::new("p", "x").expires_after(Duration::from_secs(30));
    let id = rig.stored(10_000, &post);
    let in_time = rig.stored(40_000, &post);
    let mut rig = rig.restart(60 * SECOND, |_| {});
    rig.work();
    assert_eq!(rig.status(id).unwrap().outcome(), Some(&Outcome::Missed { by: Duration::from_secs(20) }));
    let delivery = rig.call();
    assert_eq!(delivery.id(), in_time);
    // No retry either.
    rig.answer(&delivery, Err(BroadcastError::transient("503").retry_after(Duration::from_secs(600))));
    assert!(matches!(rig.status(in_time).unwrap().outcome(), Some(Outcome::Missed { .. })));
}

#[test]
fn what_is_late_is_spread_evenly_and_in_order_also_where_memory_holds_a_small_part_of_it() {
    // A few an hour, a burst at the end, and a whole eight o'clock.
    let dues = [|number| 9_000 * number, |number: i64| 9_000 * number.min(40), |_| 0];
    for (due, posts) in dues.into_iter().zip([BACKLOG, BACKLOG + 5, BACKLOG + 9]) {
        let mut rig = Rig::new();
        for number in 0..posts {
            rig.stored(100_000 + due(number), &big());
        }
        let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = over(600));
        assert!(rig.engine.posts.len() < 100, "a test of nothing");
        let sent = sent_within(&mut rig, 720);
        assert!(sent.len() as i64 == posts && sent.is_sorted_by_key(|(_, id, due)| (*due, *id)));
        for (number, (at, ..)) in sent.iter().enumerate() {
            let even = 600_000 * number as i64 / posts;
            assert!((at - even).abs() < 1_600, "number {number} of {posts} after {at} ms");
        }
    }
}

#[test]
fn what_is_on_time_does_not_wait_for_what_is_spread() {
    let mut rig = Rig::new();
    (0..BACKLOG).for_each(|number| _ = rig.stored(100_000 + 9_000 * number, &big()));
    let on_time: Vec<_> = (0..20).map(|number| rig.stored(3_706_000 + 30_000 * number, &big())).collect();
    let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = over(600));
    let start = rig.now.wall;
    let sent = sent_within(&mut rig, 720);
    let late: Vec<_> = on_time.iter().map(|id| lateness(&sent, start, *id)).collect();
    assert!(late.iter().all(|late| (0..=1_000).contains(late)) && sent.len() == 420, "{late:?}");
}

#[test]
fn what_becomes_due_while_a_backlog_is_loaded_goes_out_as_soon_as_it_is_there() {
    let mut rig = Rig::new();
    (0..BACKLOG).for_each(|number| _ = rig.stored(100_000 + 9_000 * number, &big()));
    let on_time = rig.stored(3_706_000, &Post::new("p", "x"));
    let Rig { store, mut now, .. } = rig;
    now.wall = now.wall.after(Duration::from_secs(3_701));
    let mut rig = Rig::waiting(store, now, "", |pool| pool.catch_up = over(600));
    // The store takes its time.
    let mut seconds = 0;
    while rig.answer_one() {
        rig.pass(100);
        seconds += 1;
    }
    assert!(seconds > 100, "a test of nothing");
    let is_there = rig.delivered.iter().any(|delivery| delivery.id() == on_time);
    assert!(is_there, "it waits for its turn in the window");
}

#[test]
fn a_spike_that_memory_does_not_hold_is_not_spread_for_the_time_that_loading_takes() {
    let mut rig = Rig::with(|pool| pool.catch_up = over(600));
    (0..BACKLOG).for_each(|_| _ = rig.stored(120_000, &big()));
    let (start, mut sent) = (rig.now.wall, 0);
    while sent < BACKLOG {
        rig.pass(50);
        rig.answer_one();
        while !rig.delivered.is_empty() {
            let delivery = rig.call();
            rig.end(&delivery, Ending::Answered(Ok(Receipt::new("u"))));
            sent += 1;
        }
        assert!(rig.now.wall < start.after(Duration::from_secs(240)), "{sent} of {BACKLOG} after two minutes");
    }
}

#[test]
fn what_a_clock_that_steps_forward_makes_late_is_spread_also_where_memory_holds_a_small_part_of_it() {
    let mut rig = Rig::with(|pool| pool.catch_up = over(600));
    (0..BACKLOG).for_each(|number| _ = rig.stored(100_000 + 9_000 * number, &big()));
    rig.now.wall = rig.now.wall.after(Duration::from_secs(3_701));
    rig.turn();
    rig.work();
    assert!(rig.engine.posts.len() < 100, "a test of nothing");
    let sent = sent_within(&mut rig, 720);
    let halfway = sent.iter().filter(|(at, ..)| *at < 300_000).count() as i64;
    assert!(sent.len() as i64 == BACKLOG && (halfway - BACKLOG / 2).abs() < 10, "{halfway} of {}", sent.len());
}

#[test]
fn a_place_outlives_the_process() {
    let mut rig = Rig::new();
    (0..BACKLOG).for_each(|number| _ = rig.stored(100_000 + 9_000 * number, &big()));
    let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = over(600));
    let before = sent_within(&mut rig, 200).len();
    let mut rig = rig.restart(100 * SECOND, |pool| pool.catch_up = over(600));
    let sent = sent_within(&mut rig, 720);
    assert_eq!(before + sent.len(), 400);
    // Those whose places had come meanwhile are spread over ten minutes of their own, the others keep theirs.
    let minutes: Vec<_> = (0..12).map(|minute| sent.iter().filter(|(at, ..)| at / 60_000 == minute).count()).collect();
    assert!(minutes[..5].iter().all(|posts| (44..=50).contains(posts)), "{minutes:?}");
    assert!(minutes[5..10].iter().all(|posts| (5..=10).contains(posts)), "{minutes:?}");
}

#[test]
fn places_keep_their_distance_after_a_restart() {
    let policy = over(600).min_gap(Duration::from_secs(60));
    let mut rig = Rig::new();
    (0..BACKLOG).for_each(|number| _ = rig.stored(100_000 + 9_000 * number, &big().profile(format!("{number}"))));
    let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = policy);
    rig.pass(SECOND);
    rig.work();
    let mut rig = rig.restart(60 * SECOND, |pool| pool.catch_up = policy);
    // Each of them is on time twenty seconds after one of its profile has gone.
    let start = rig.now.wall;
    for number in [300, 320, 340] {
        let place = 600_000 * number / BACKLOG - 61_000;
        rig.stored(place + 20_000, &Post::new("p", "x").profile(format!("{number}")));
    }
    let sent = sent_within(&mut rig, 720);
    let own: Vec<_> =
        sent.iter().filter(|(.., due)| *due > start).map(|sent| lateness(&[*sent], start, sent.1)).collect();
    assert!(own.len() == 3 && own.iter().all(|late| (36_000..=45_000).contains(late)), "{own:?}");
}

#[test]
fn order_is_kept_where_memory_holds_a_small_part_of_what_is_late() {
    let mut rig = Rig::new();
    let mut own = Vec::new();
    for number in 0..BACKLOG {
        let due = 100_000 + 9_000 * number;
        if number % 20 == 0 {
            own.push(rig.stored(due, &big().profile("a").in_order()));
        } else {
            rig.stored(due, &big());
        }
    }
    own.push(rig.stored(3_731_000, &big().profile("a").in_order()));
    let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = over(600));
    let sent = sent_within(&mut rig, 900);
    let seen: Vec<_> = sent.iter().map(|(_, id, _)| *id).filter(|id| own.contains(id)).collect();
    assert_eq!((seen, sent.len()), (own, 401));
}

#[test]
fn what_memory_holds_waits_there_for_its_place() {
    let mut rig = Rig::new();
    (0..8).for_each(|number| _ = rig.stored(100_000 + 9_000 * number, &big()));
    let Rig { store, mut now, .. } = rig;
    now.wall = now.wall.after(Duration::from_secs(3_701));
    let mut rig = Rig::waiting(store, now, "", |pool| pool.catch_up = over(600));
    loop {
        let is_moved = |change: &Change| matches!(change, Change::Move { .. });
        assert!(!rig.commits().iter().any(|changes| changes.iter().any(is_moved)), "a commit for nothing");
        if !rig.answer_one() {
            break;
        }
    }
    assert_eq!(sent_within(&mut rig, 620).len(), 8);
}

#[test]
fn a_clock_that_steps_back_while_a_backlog_is_loaded_delays_none_of_it() {
    let mut rig = Rig::new();
    (0..BACKLOG).for_each(|number| _ = rig.stored(100_000 + 10 * number, &big()));
    let Rig { store, mut now, .. } = rig;
    now.wall = now.wall.after(Duration::from_secs(7_200));
    let mut rig = Rig::waiting(store, now, "", |pool| pool.catch_up = over(600));
    // Half of it has its places.
    while rig.delivered.is_empty() {
        assert!(rig.answer_one());
    }
    (0..100).for_each(|_| assert!(rig.answer_one()));
    rig.delivered.clear();
    rig.now.wall = rig.now.wall.before(Duration::from_secs(3_600));
    rig.pass(1);
    rig.work();
    let sent = sent_within(&mut rig, 720).len();
    assert!((150..350).contains(&sent), "{sent}");
}

#[test]
fn what_would_be_missed_before_its_place_is_missed_in_time() {
    let mut rig = Rig::new();
    let posts = (0..BACKLOG).map(|_| rig.stored(3_600_000, &big().expires_after(Duration::from_secs(300))));
    let posts: Vec<_> = posts.collect();
    let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = over(600));
    let on_time = rig.stored(30_000, &big());
    let start = rig.now.wall;
    let sent = sent_within(&mut rig, 205);
    let missed = posts.iter().filter(|id| rig.status(**id).unwrap().state() == State::Missed).count();
    assert!(missed > 200 && sent.len() + missed == 401, "{} {missed}", sent.len());
    assert!((0..=1_000).contains(&lateness(&sent, start, on_time)), "held up by what is not sent");
}

#[test]
fn a_second_attempt_has_its_turn_where_profiles_keep_their_distance_and_memory_is_full() {
    let mut rig = Rig::new();
    for number in 0..BACKLOG {
        let profile = if number < 2 { 0 } else { number % 7 + 1 };
        rig.stored(100_000 + 9_000 * number, &big().profile(format!("{profile}")));
    }
    let policy = CatchUp::at_once().min_gap(Duration::from_secs(20));
    let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = policy);
    rig.delivered.sort_by_key(|delivery| std::cmp::Reverse(delivery.id()));
    let fails = rig.call();
    rig.answer(&fails, Err(BroadcastError::transient("503")));
    let sent = sent_within(&mut rig, 100);
    assert!(sent.iter().any(|(_, id, _)| *id == fails.id()), "pushed back again and again");
}

#[test]
fn what_becomes_late_in_the_same_window_is_spread_over_the_rest_of_it() {
    let mut rig = Rig::new();
    (0..BACKLOG).for_each(|number| _ = rig.stored(100_000 + 9_000 * number, &big()));
    (0..BACKLOG).for_each(|number| _ = rig.stored(3_800_000 + 10 * number, &big()));
    let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = over(600));
    let first = sent_within(&mut rig, 60).len();
    drop(rig.ask(|promise| Command::Pause { place: 0, paused: true, promise }));
    rig.delivered.clear();
    let none = sent_within(&mut rig, 60).len();
    drop(rig.ask(|promise| Command::Pause { place: 0, paused: false, promise }));
    rig.work();
    let sent = sent_within(&mut rig, 720);
    assert_eq!((none, first + sent.len()), (0, 800));
    let minutes: Vec<_> = (0..12).map(|minute| sent.iter().filter(|(at, ..)| at / 60_000 == minute).count()).collect();
    assert!(minutes[..8].iter().all(|posts| (60..=120).contains(posts)), "{minutes:?}");
}

#[test]
fn what_has_begun_or_is_over_is_not_spread() {
    let mut rig = Rig::new();
    let begun = rig.stored(0, &Post::new("p", "x"));
    let fails = rig.call();
    rig.answer(&fails, Err(BroadcastError::transient("503").retry_after(Duration::from_secs(100))));
    let thread = rig.stored(0, &Post::new("p", "1").then("2"));
    let first = rig.call();
    rig.answer(&first, Ok("1"));
    let throttled = rig.call();
    rig.answer(&throttled, Err(BroadcastError::throttled("429").retry_after(Duration::from_secs(100))));
    (0..20).for_each(|number| _ = rig.stored(1_000 + number, &Post::new("p", "x")));
    let over = rig.stored(50_000, &Post::new("p", "x").expires_after(Duration::from_secs(60)));
    let mut rig = rig.restart(3_600 * SECOND, |pool| pool.catch_up = over_an_hour());
    assert_eq!(rig.status(over).unwrap().state(), State::Missed);
    let at_once: Vec<_> = rig.delivered.iter().map(Delivery::id).collect();
    assert!(at_once.contains(&begun) && at_once.contains(&thread) && at_once.len() == 3, "{at_once:?}");
}

fn over_an_hour() -> CatchUp {
    over(3_600)
}

#[test]
fn what_was_claimed_before_the_process_died_is_spread_too() {
    let mut rig = Rig::new();
    (0..10).for_each(|_| _ = rig.stored(60_000, &Post::new("p", "x")));
    rig.pass(58_500);
    rig.work();
    let mut rig = rig.restart(3_600 * SECOND, |pool| pool.catch_up = over(600));
    assert_eq!(rig.delivered.len(), 1);
    assert_eq!(sent_within(&mut rig, 610).len(), 10);
}

#[test]
fn a_post_is_missed_when_its_deadline_has_passed_and_not_when_its_place_comes() {
    let mut rig = Rig::with(|pool| pool.catch_up = CatchUp::at_once().min_gap(Duration::from_secs(60)));
    let post = Post::new("p", "x").profile("a").expires_after(Duration::from_secs(90));
    // On time, whatever it may wait for.
    let start = rig.now.wall;
    let on_time = rig.stored(30_000, &post);
    let sent = sent_within(&mut rig, 40);
    assert!((0..=500).contains(&lateness(&sent, start, on_time)));
    let four: Vec<_> = (0..4).map(|_| rig.stored(60_000, &post)).collect();
    let mut rig = rig.restart(62 * SECOND, |pool| {
        pool.catch_up = CatchUp::at_once().min_gap(Duration::from_secs(60));
    });
    let states = |rig: &mut Rig| four.iter().map(|id| rig.status(*id).unwrap().state()).collect::<Vec<_>>();
    // There are places for two of them before they are over.
    assert_eq!(sent_within(&mut rig, 80).len(), 2);
    assert!(!states(&mut rig).contains(&State::Missed));
    sent_within(&mut rig, 12);
    assert_eq!(states(&mut rig).iter().filter(|state| **state == State::Missed).count(), 2);
}

#[test]
fn a_new_post_of_a_profile_that_catches_up_keeps_its_distance_too() {
    let mut rig = Rig::new();
    let (own, other) = (Post::new("p", "x").profile("a"), Post::new("p", "x").profile("b"));
    (0..2).for_each(|_| _ = rig.stored(1_000, &own));
    let policy = CatchUp::at_once().min_gap(Duration::from_secs(60));
    let mut rig = rig.restart(3_600 * SECOND, |pool| pool.catch_up = policy);
    let start = rig.now.wall;
    let (new, free) = (rig.stored(10, &own), rig.stored(10, &other));
    let sent = sent_within(&mut rig, 200);
    assert!((119_000..=121_000).contains(&lateness(&sent, start, new)), "{}", lateness(&sent, start, new));
    assert!((0..=500).contains(&lateness(&sent, start, free)));
}

#[test]
fn a_clock_that_steps_back_makes_no_window_longer() {
    let mut rig = Rig::with(|pool| pool.catch_up = over(10));
    let late = |rig: &mut Rig| {
        drop(rig.ask(|promise| Command::Pause { place: 0, paused: true, promise }));
        rig.stored(1_000, &Post::new("p", "x"));
        rig.stored(1_000, &Post::new("p", "x"));
        rig.pass(5 * SECOND);
        drop(rig.ask(|promise| Command::Pause { place: 0, paused: false, promise }));
        rig.work();
        sent_within(rig, 15).len()
    };
    assert_eq!(late(&mut rig), 2);
    rig.now.wall = rig.now.wall.before(Duration::from_secs(600));
    rig.pass(SECOND);
    rig.work();
    assert_eq!(late(&mut rig), 2);
}

#[test]
fn profiles_keep_their_distance_and_hold_nobody_up_also_where_memory_holds_a_small_part_of_them() {
    let gap = 20_000;
    for window in [0, 300] {
        let mut rig = Rig::new();
        for number in 0..BACKLOG {
            rig.stored(100_000 + 9_000 * number, &big().profile(format!("{}", number % 8)));
        }
        let on_time = rig.stored(3_761_000, &big().profile("other"));
        let policy = over(window).min_gap(Duration::from_millis(gap as u64));
        let mut rig = rig.restart(3_701 * SECOND, |pool| pool.catch_up = policy);
        let start = rig.now.wall;
        let sent = sent_within(&mut rig, 1_200);
        assert_eq!(sent.len(), 401);
        assert!((0..=1_000).contains(&lateness(&sent, start, on_time)), "{}", lateness(&sent, start, on_time));
        for profile in 0..8 {
            let is_own = |due: &Timestamp| (due.millis() - 1_900_000_100_000) / 9_000 % 8 == profile;
            let own: Vec<_> = sent.iter().filter(|(_, id, due)| *id != on_time && is_own(due)).collect();
            assert!(own.windows(2).all(|pair| pair[1].0 - pair[0].0 >= gap && pair[0].2 < pair[1].2), "{own:?}");
        }
    }
}

#[test]
fn what_was_called_once_is_not_missed_as_late() {
    let later = |error: BroadcastError| error.retry_after(Duration::from_secs(90));
    for answer in [Some(BroadcastError::throttled("429")), Some(BroadcastError::transient("503")), None] {
        let is_called = answer.is_some();
        let mut rig = Rig::with(|pool| pool.catch_up = CatchUp::at_once().miss_after(Duration::from_secs(60)));
        let id = rig.stored(0, &Post::new("p", "x"));
        if let Some(error) = answer {
            let delivery = rig.call();
            rig.answer(&delivery, Err(later(error)));
        } else {
            drop(rig.ask(|promise| Command::Pause { place: 0, paused: true, promise }));
            rig.work();
        }
        rig.pass(90 * SECOND);
        rig.work();
        drop(rig.ask(|promise| Command::Pause { place: 0, paused: false, promise }));
        rig.work();
        rig.pass(SECOND);
        rig.work();
        let expected = if is_called { State::InFlight } else { State::Missed };
        assert_eq!(rig.status(id).unwrap().state(), expected);
    }
}

#[test]
fn after_downtime_a_pool_misses_spreads_and_keeps_distances_as_its_policy_says() {
    let policy = CatchUp::at_once().miss_after(Duration::from_secs(3_600));
    let mut rig = Rig::new();
    let old = rig.stored(10_000, &Post::new("p", "old"));
    let fresh = rig.stored(4_000_000, &Post::new("p", "fresh"));
    let mut rig = rig.restart(5_000 * SECOND, |pool| pool.catch_up = policy);
    assert!(matches!(rig.status(old).unwrap().outcome(), Some(Outcome::Missed { .. })));
    assert_eq!(rig.call().id(), fresh);

    let policy = CatchUp::at_once().spread_over(Duration::from_secs(600));
    let mut rig = Rig::new();
    for n in 0..10 {
        rig.stored(10_000 + n, &Post::new("p", "x"));
    }
    let mut rig = rig.restart(5_000 * SECOND, |pool| pool.catch_up = policy);
    let mut seen = Vec::new();
    for _ in 0..600 {
        rig.pass(SECOND);
        rig.work();
        seen.push(rig.delivered.len());
    }
    assert_eq!(seen.last(), Some(&10));
    for (second, count) in seen.iter().enumerate() {
        let due = second as f64 / 60.0;
        assert!((*count as f64 - due).abs() <= 1.1, "{count} after {second} s");
    }

    let policy = CatchUp::at_once().min_gap(Duration::from_secs(60));
    let mut rig = Rig::new();
    let ids: Vec<_> = (0..4).map(|n| rig.stored(10_000 + n, &Post::new("p", "x").profile("a"))).collect();
    let other = rig.stored(10_000, &Post::new("p", "x").profile("b"));
    let mut rig = rig.restart(5_000 * SECOND, |pool| pool.catch_up = policy);
    let mut seen = Vec::new();
    for second in 0..300 {
        rig.work();
        seen.extend(rig.delivered.drain(..).map(|delivery| (second, delivery.id())));
        rig.pass(SECOND);
    }
    let own: Vec<_> = seen.iter().filter(|(_, id)| *id != other).collect();
    assert_eq!(own.iter().map(|(_, id)| *id).collect::<Vec<_>>(), ids);
    assert!(own.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 60), "{own:?}");
    assert_eq!(seen.iter().find(|(_, id)| *id == other).unwrap().0, 0);
}
