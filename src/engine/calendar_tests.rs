//! Series and campaigns where the process dies at any step: they are as before or as after, never between.

use super::tests::{Rig, given};
use super::*;
use crate::catch_up::CatchUp;
use crate::id::{PostId, State};
use crate::post::{Body, BroadcastError, Ending, Guarantee, Misfire, Post, Receipt, Resolution};
use crate::reply::Reply;
use crate::retry::RetryPolicy;
use std::sync::Arc;

/// The rig begins at 2030-03-17T17:46:40Z.
const SLOTS: &str = "slots UTC Mon-Sun 18:00,19:00,20:00,21:00";

fn new(text: &str) -> NewPost {
    NewPost { pool: 0, due: Timestamp::MIN, body: Body::encode(&Post::new("p", text).profile("a")), late: None }
}

fn series(rig: &mut Rig, wish: impl FnOnce(Promise<()>) -> SeriesWish) {
    let (promise, reply) = Promise::new();
    rig.engine.handle_command(rig.now, Command::Series { key: "s".to_owned(), wish: wish(promise) });
    rig.turn();
    rig.work();
    assert!(given(reply).unwrap().is_ok());
}

/// Makes a series of a post like this one.
fn set(rig: &mut Rig, post: &Post) {
    let schedule = Box::new(SLOTS.parse().unwrap());
    let post = Box::new(NewPost { body: Body::encode(post), ..new("") });
    series(rig, |promise| SeriesWish::Set { schedule, misfire: Misfire::All, post, promise });
}

fn end(rig: &mut Rig) {
    series(rig, |promise| SeriesWish::End { promise });
}

#[test]
fn a_thread_that_has_begun_goes_on_when_its_series_ends() {
    let mut rig = Rig::new();
    set(&mut rig, &Post::new("p", "1").then("2"));
    rig.pass(800_000);
    rig.work();
    let first = rig.call();
    drop(rig.ask(|promise| Command::Pause { place: 0, paused: true, promise }));
    rig.work();
    rig.answer(&first, Ok("1"));
    end(&mut rig);
    rig.pass(60_000);
    rig.work();
    assert!(rig.delivered.is_empty() && rig.early.is_empty(), "its pool is paused");
    drop(rig.ask(|promise| Command::Pause { place: 0, paused: false, promise }));
    rig.work();
    assert_eq!(rig.call().receipts(), [Receipt::new("1")]);
}

#[test]
fn an_occurrence_that_has_begun_goes_on_when_its_series_ends() {
    type Begin = fn(&mut Rig, &Delivery);
    let begun: [(&str, u64, Begin); 3] = [
        ("in doubt", 10_000, |rig, first| {
            rig.end(first, Ending::TimedOut { after: Duration::from_secs(60) });
            rig.work();
        }),
        ("failed", 10_000, |rig, first| rig.answer(first, Err(BroadcastError::transient("503")))),
        ("failed, and left to the store until it is tried again", 3_600_000, |rig, first| {
            let later = Duration::from_secs(3_600);
            rig.answer(first, Err(BroadcastError::transient("503").retry_after(later)));
        }),
    ];
    for (what, wait, begin) in begun {
        let mut rig = Rig::new();
        set(&mut rig, &Post::new("p", "x"));
        rig.pass(800_000);
        rig.work();
        let first = rig.call();
        begin(&mut rig, &first);
        end(&mut rig);
        assert!(rig.delivered.is_empty(), "{what}");
        rig.pass(wait);
        rig.work();
        assert_eq!(rig.delivered.iter().map(Delivery::id).collect::<Vec<_>>(), [first.id()], "{what}");
    }
}

#[test]
fn an_occurrence_that_the_network_did_not_take_is_called_off_with_its_series() {
    let mut rig = Rig::new();
    set(&mut rig, &Post::new("p", "x"));
    rig.pass(800_000);
    rig.work();
    let first = rig.call();
    rig.answer(&first, Err(BroadcastError::throttled("429").retry_after(Duration::from_secs(30))));
    end(&mut rig);
    assert_eq!(rig.status(first.id()).unwrap().state(), State::Cancelled);
    rig.pass(30_000);
    rig.work();
    assert!(rig.delivered.is_empty());
}

#[test]
fn an_occurrence_in_doubt_that_the_host_wants_sent_again_goes_on_when_its_series_ends() {
    let mut rig = Rig::with(|pool| pool.guarantee = Guarantee::AtMostOnce);
    set(&mut rig, &Post::new("p", "x"));
    rig.pass(800_000);
    rig.work();
    let first = rig.call();
    rig.end(&first, Ending::TimedOut { after: Duration::from_secs(60) });
    rig.work();
    rig.pass(10_000);
    rig.work();
    if let Some(asked) = rig.delivered.pop() {
        rig.end(&asked, Ending::Unreconciled(BroadcastError::permanent("cannot be asked")));
        rig.work();
    }
    drop(rig.ask(|promise| Command::Pause { place: 0, paused: true, promise }));
    rig.wished(first.id(), Wish::Resolve(Resolution::SendAgain)).unwrap();
    end(&mut rig);
    drop(rig.ask(|promise| Command::Pause { place: 0, paused: false, promise }));
    rig.work();
    assert_eq!(rig.call().id(), first.id());
}

#[test]
fn an_occurrence_on_a_shelf_is_a_post_as_any_other_there_when_its_series_ends() {
    let mut rig = Rig::new();
    let held = |rig: &mut Rig, reason: Option<&str>| {
        let reason = reason.map(str::to_owned);
        drop(rig.ask(|promise| Command::Hold { place: 0, profile: "a".to_owned(), reason, promise }));
        rig.work();
    };
    set(&mut rig, &Post::new("p", "x").profile("a"));
    held(&mut rig, Some("expelled"));
    rig.pass(800_000);
    rig.work();
    let held_back = rig.shelf(Shelf::Held);
    assert_eq!(held_back.len(), 1);
    end(&mut rig);
    assert_eq!(rig.shelf(Shelf::Held), held_back);
    held(&mut rig, None);
    assert_eq!(rig.call().id(), held_back[0]);
}

#[test]
fn a_series_whose_next_occurrence_the_host_has_cancelled_ends_as_any_other() {
    for is_ended in [true, false] {
        let mut rig = Rig::with(preparing_long_ahead);
        set(&mut rig, &Post::new("p", "x"));
        rig.pass(60_000);
        rig.work();
        let planned = PostId::new(rig.engine.settings.store, Seq(1));
        assert_eq!(rig.status(planned).unwrap().state(), State::Scheduled);
        let cancelled = rig.cancel(planned);
        rig.work();
        assert!(given(cancelled).unwrap().is_ok());
        if is_ended {
            end(&mut rig);
        } else {
            set(&mut rig, &Post::new("p", "y"));
        }
        assert_eq!(rig.status(planned).unwrap().state(), State::Cancelled);
    }
}

/// Its occurrences are planned two hours before they are due.
fn preparing_long_ahead(pool: &mut PoolSettings) {
    let (lead, retry) = (Duration::from_secs(7_200), RetryPolicy::exponential(Duration::from_secs(5)));
    pool.prepare = Some(PrepareSettings { shard: 1, lead, retry, or_fail: false });
}

#[test]
fn a_series_ends_once_and_is_not_said_to_have_ended_when_it_is_changed() {
    let mut rig = Rig::new();
    let ended = |rig: &Rig| rig.events.iter().filter(|event| matches!(event, Event::SeriesEnded { .. })).count();
    for _ in 0..3 {
        set(&mut rig, &Post::new("p", "x"));
    }
    assert_eq!(ended(&rig), 0);
    end(&mut rig);
    assert_eq!(ended(&rig), 1);
}

#[test]
fn an_occurrence_is_planned_as_long_ahead_as_its_own_pool_prepares() {
    for (pool, ahead) in [(0, 3_600), (1, 60)] {
        let mut rig = Rig::of_two(|pool| {
            let retry = RetryPolicy::exponential(Duration::from_secs(5));
            let lead = Duration::from_secs(3_600);
            let settings = PrepareSettings { shard: pool.first_shard, lead, retry, or_fail: false };
            pool.prepare = (&*pool.name == "p").then_some(settings);
        });
        let schedule = Box::new("cron UTC 0 0 * * *".parse().unwrap());
        let post = Box::new(NewPost { pool, body: Body::encode(&Post::new("p", "x")), ..new("") });
        series(&mut rig, |promise| SeriesWish::Set { schedule, misfire: Misfire::All, post, promise });
        let next = |rig: &mut Rig| {
            let reply = rig.ask(|promise| Command::ShowSeries { key: "s".to_owned(), promise });
            given(reply).unwrap().unwrap().unwrap()
        };
        let due = next(&mut rig).next().unwrap();
        while next(&mut rig).planned() == 0 {
            rig.pass(30_000);
            rig.work();
        }
        let before = (due - rig.now.wall.to_datetime()).num_seconds();
        assert!((ahead - 60..ahead + 120).contains(&before), "planned {before} s ahead, not {ahead}");
    }
}

#[test]
fn the_next_occurrence_is_shown_whether_it_is_planned_or_not() {
    let mut rig = Rig::new();
    set(&mut rig, &Post::new("p", "x"));
    let slot = rig.now.wall.millis() + 800_000;
    let mut seen = [0; 3];
    for _ in 0..300 {
        rig.pass(20_000);
        rig.work();
        let reply = rig.ask(|promise| Command::ShowSeries { key: "s".to_owned(), promise });
        let status = given(reply).unwrap().unwrap().unwrap();
        // Slots are an hour apart.
        let hours = (rig.now.wall.millis() - slot).div_euclid(3_600_000) + 1;
        let next = Timestamp::from_millis(slot + hours * 3_600_000);
        assert_eq!(status.next(), Some(next.to_datetime()), "at {}", rig.now.wall.to_datetime());
        seen[hours as usize] = status.planned();
    }
    assert_eq!(seen, [1, 2, 2], "each is planned a minute before it");
}

#[test]
fn a_late_occurrence_that_was_left_to_the_store_is_called_off_with_its_series() {
    let mut rig = Rig::new();
    set(&mut rig, &Post::new("p", "x"));
    rig.pass(735_000);
    rig.work();
    for _ in 0..17 {
        rig.stored(1_000, &Post::new("p", vec![0; 60_000]));
    }
    rig.pass(30_000);
    rig.work();
    let occurrence = Seq(18);
    assert!(rig.engine.slot(occurrence).is_none(), "it was not left to the store: a test of nothing");
    rig.pass(60_000);
    rig.work();
    end(&mut rig);
    let status = rig.status(PostId::new(rig.engine.settings.store, occurrence)).unwrap();
    assert_eq!((status.state(), status.payload().to_vec()), (State::Cancelled, b"x".to_vec()));
}

#[test]
fn a_late_occurrence_that_waits_for_its_place_is_called_off_with_its_series() {
    let mut rig = Rig::new();
    set(&mut rig, &Post::new("p", "x"));
    rig.pass(745_000);
    rig.work();
    // Two hundred that memory does not hold are late before it, and as many after it.
    for number in 0..400 {
        rig.stored(35_000 + 100 * number, &Post::new("p", vec![0; 60_000]));
    }
    let mut rig = rig.restart(100_000, |pool| {
        pool.catch_up = CatchUp::at_once().spread_over(Duration::from_secs(3 * 3_600));
    });
    let occurrence = PostId::new(rig.engine.settings.store, Seq(1));
    // An hour later the next one is planned.
    for _ in 0..3_700 {
        rig.pass(1_000);
        rig.work();
        while !rig.delivered.is_empty() {
            let delivery = rig.call();
            rig.answer(&delivery, Ok("u"));
        }
    }
    assert_eq!(rig.status(occurrence).unwrap().payload().to_vec(), b"x");
    end(&mut rig);
    assert_eq!(rig.status(occurrence).unwrap().state(), State::Cancelled);
}

#[test]
fn of_late_occurrences_that_wait_the_last_thousand_are_called_off_with_their_series() {
    let mut rig = Rig::new();
    drop(rig.ask(|promise| Command::Pause { place: 0, paused: true, promise }));
    let schedule = Box::new("cron UTC * * * * *".parse().unwrap());
    let post = Box::new(NewPost { body: Body::encode(&Post::new("p", "x")), ..new("") });
    series(&mut rig, |promise| SeriesWish::Set { schedule, misfire: Misfire::All, post, promise });
    for _ in 0..1_100 {
        rig.pass(60_000);
        rig.work();
    }
    let planned = rig.engine.next_seq.0 - 1;
    end(&mut rig);
    let states: Vec<_> = (1..=planned)
        .map(|seq| rig.status(PostId::new(rig.engine.settings.store, Seq(seq))).unwrap().state() == State::Cancelled)
        .collect();
    let first = states.iter().position(|is_cancelled| *is_cancelled).unwrap();
    assert!(states[first..].iter().all(|is_cancelled| *is_cancelled));
    assert!((1_000..1_005).contains(&(states.len() - first)) && first > 90, "{first} of {}", states.len());
}

#[test]
fn an_occurrence_is_planned_once_wherever_the_process_dies() {
    for steps in 0..40 {
        let mut rig = Rig::new();
        set(&mut rig, &Post::new("p", "x").profile("a"));
        // The process dies after so many answers of the store, and again after the same number.
        let mut sent = Vec::new();
        let mut left = steps;
        for _ in 0..4 * 180 {
            rig.pass(20_000);
            while rig.answer_one() {
                left -= 1;
                if left == 0 {
                    left = steps;
                    rig = rig.restart(1, |_| {});
                }
            }
            while !rig.delivered.is_empty() {
                let delivery = rig.call();
                sent.push(delivery.due());
                rig.end(&delivery, Ending::Answered(Ok(Receipt::default())));
                rig.work();
            }
        }
        let from = Timestamp::from_millis(1_900_000_000_000).to_datetime();
        let all: crate::schedule::Schedule = SLOTS.parse().unwrap();
        let expected: Vec<_> = all.after(from).take_while(|due| *due <= rig.now.wall.to_datetime()).collect();
        sent.sort();
        assert_eq!(sent, expected, "dies every {steps} steps");
        assert!(expected.len() > 2);
        if steps == 0 {
            assert!(left <= 0);
        }
    }
}

/// Posts of the campaign "c", each due so many milliseconds from now.
fn campaign(rig: &mut Rig, ahead: impl Iterator<Item = i64>, keys: bool) -> Reply<Vec<PostId>> {
    let post = |(n, ahead): (usize, i64)| {
        let mut post = Post { campaign: Some("c".to_owned()), ..Post::new("p", "x") };
        post.key = keys.then(|| format!("k{n}"));
        let due = Timestamp::from_millis(rig.now.wall.millis() + ahead);
        NewPost { pool: 0, due, body: Body::encode(&post), late: None }
    };
    let posts = ahead.enumerate().map(post).collect();
    let (promise, reply) = Promise::new();
    let weight = Weight::add(&Arc::default(), 0, 0).unwrap();
    let promise = SchedulePromise::All(promise);
    let command = Command::Schedule { posts, campaign: Some("c".into()), promise, _weight: weight };
    rig.engine.handle_command(rig.now, command);
    rig.turn();
    reply
}

/// A rig whose broadcaster is being called for the one post of the campaign.
fn one_of_a_campaign() -> (Rig, PostId, Delivery) {
    let mut rig = Rig::new();
    let reply = campaign(&mut rig, [1_000].into_iter(), false);
    rig.work();
    let id = given(reply).unwrap().unwrap()[0];
    rig.pass(1_000);
    rig.work();
    let delivery = rig.call();
    (rig, id, delivery)
}

fn shown(rig: &mut Rig) -> Option<crate::CampaignStatus> {
    given(rig.ask(|promise| Command::ShowCampaign { name: "c".to_owned(), promise })).unwrap().unwrap()
}

#[test]
fn a_campaign_counts_every_post_once_wherever_the_process_dies() {
    for steps in 0..30 {
        let mut rig = Rig::new();
        let schedule = |rig: &mut Rig, count| campaign(rig, std::iter::repeat_n(10_000, count), true);
        let mut died = false;
        let mut left = steps;
        let mut work = |rig: &mut Rig| {
            while rig.answer_one() {
                left -= 1;
                if left == 0 {
                    died = true;
                    let store = rig.store.clone();
                    *rig = Rig::on(store, rig.now, |_| {});
                }
            }
        };
        drop(schedule(&mut rig, 3));
        work(&mut rig);
        // The host does not know whether that was done, and does it again with more.
        drop(schedule(&mut rig, 7));
        work(&mut rig);
        drop(schedule(&mut rig, 7));
        work(&mut rig);
        let cancelled = rig.status_by_key("k6").map(|status| status.id());
        cancelled.map(|id| rig.cancel(id));
        work(&mut rig);
        for _ in 0..200 {
            rig.pass(1_000);
            work(&mut rig);
            while !rig.delivered.is_empty() {
                let delivery = rig.call();
                rig.end(&delivery, Ending::Answered(Ok(Receipt::default())));
                work(&mut rig);
            }
        }
        let status = shown(&mut rig).unwrap();
        assert_eq!((status.scheduled, status.left), (7, 0), "dies at step {steps}: {status:?}");
        assert_eq!(status.delivered + status.cancelled, 7, "dies at step {steps}: {status:?}");
        assert!(died || steps == 0 || steps > 10, "a test of nothing: {steps}");
    }
}

#[test]
fn a_cancelled_campaign_sends_nothing_more_also_after_a_crash() {
    let mut rig = Rig::new();
    let reply = campaign(&mut rig, (0..200).map(|n| 1_000 * n), false);
    rig.work();
    let ids = given(reply).unwrap().unwrap();
    rig.pass(1_000);
    rig.work();
    let delivery = rig.call();
    let waits = rig.ask(|promise| Command::Outcome { post: ids[3].into(), promise });
    rig.stored(0, &Post::new("p", "x"));
    let other = rig.call();
    let cancel = rig.ask(|promise| Command::CancelCampaign { name: "c".to_owned(), promise });
    rig.work();
    assert!(given(cancel).unwrap().is_ok());
    assert_eq!(given(waits).map(Result::unwrap), Some(Outcome::Cancelled));
    rig.delivered.retain(|delivery| !delivery.facts().stage.is_withdrawn());
    assert!(rig.delivered.is_empty());
    let told = shown(&mut rig).unwrap();
    assert_eq!((told.delivered, told.cancelled, told.left), (0, 199, 1), "one is being called");
    assert_eq!(told.last_due, Some(rig.now.wall.after(Duration::from_secs(198)).to_datetime()));
    rig.answer(&other, Ok("1"));
    rig.end(&delivery, Ending::Answered(Ok(Receipt::default())));
    rig.work();
    let told = shown(&mut rig).unwrap();
    assert_eq!((told.delivered, told.cancelled, told.left, told.is_cancelled), (1, 199, 0, true));
    // One that has not been met is cancelled for whoever asks.
    assert_eq!(rig.status(ids[199]).unwrap().state(), State::Cancelled);
    let mut rig = rig.restart(5_000, |_| {});
    for _ in 0..300 {
        rig.pass(1_000);
        rig.work();
    }
    assert_eq!(rig.delivered.len(), 0);
    let told = shown(&mut rig).unwrap();
    assert_eq!((told.scheduled, told.delivered, told.cancelled, told.left), (200, 1, 199, 0));
}

#[test]
fn what_a_cancelled_campaign_may_have_published_is_not_sent_again() {
    let (mut rig, id, _) = one_of_a_campaign();
    drop(rig.ask(|promise| Command::CancelCampaign { name: "c".to_owned(), promise }));
    rig.work();
    let mut rig = rig.restart(60_000, |_| {});
    rig.pass(60_000);
    rig.work();
    assert_eq!((rig.delivered.len(), rig.shelf(Shelf::InDoubt)), (0, vec![id]));
    assert_eq!(shown(&mut rig).map(|status| (status.cancelled, status.left)), Some((0, 1)));
    // The host may have it sent all the same.
    let again = rig.wish(id, Wish::Resolve(Resolution::SendAgain));
    rig.work();
    assert!(given(again).unwrap().is_ok());
    let delivery = rig.call();
    rig.answer(&delivery, Ok("1"));
    assert_eq!(shown(&mut rig).map(|status| (status.delivered, status.left)), Some((1, 0)));
}

#[test]
fn a_post_in_doubt_that_waits_in_its_shard_is_held_when_its_campaign_is_cancelled() {
    let (mut rig, id, hangs) = one_of_a_campaign();
    rig.end(&hangs, Ending::TimedOut { after: Duration::from_secs(30) });
    rig.work();
    rig.pass(10_000);
    rig.work();
    let again = rig.delivered.pop().unwrap();
    assert!(again.is_redelivery());
    drop(rig.ask(|promise| Command::CancelCampaign { name: "c".to_owned(), promise }));
    rig.work();
    assert!(!again.facts().stage.call(), "it was not taken back");
    assert_eq!(rig.shelf(Shelf::InDoubt), [id]);
}

#[test]
fn what_is_shown_of_a_cancelled_campaign_counts_its_own_posts_and_those_that_are_still_out() {
    let mut rig = Rig::with(|pool| pool.guarantee = Guarantee::AtMostOnce);
    let reply = campaign(&mut rig, [0, 0, 1, 50_000, 500_000].into_iter(), false);
    rig.work();
    let ids = given(reply).unwrap().unwrap();
    let others = [0, 0].map(|due| rig.stored(due, &Post { campaign: Some("d".to_owned()), ..Post::new("p", "x") }));
    let alone = rig.stored(40_000, &Post::new("p", "x"));
    rig.pass(1);
    rig.work();
    // The first is on the shelf of those in doubt, the second waits to be asked about, the third is being called; as are two
    // of another campaign.
    let mut calls: Vec<_> = std::mem::take(&mut rig.delivered);
    calls.sort_by_key(Delivery::id);
    assert_eq!(calls.iter().map(Delivery::id).collect::<Vec<_>>(), [ids[0], ids[1], ids[2], others[0], others[1]]);
    calls.iter().for_each(|delivery| assert!(delivery.facts().stage.call()));
    rig.end(&calls[0], Ending::TimedOut { after: Duration::from_secs(1) });
    rig.work();
    rig.pass(10_000);
    rig.work();
    let asked = rig.call();
    rig.end(&asked, Ending::Unreconciled(BroadcastError::permanent("nobody knows")));
    rig.work();
    assert_eq!(rig.shelf(Shelf::InDoubt), [ids[0]]);
    // It is on its way there while the campaign is cancelled.
    rig.end(&calls[1], Ending::TimedOut { after: Duration::from_secs(1) });
    let told = |rig: &mut Rig| shown(rig).map(|told| (told.cancelled, told.left, told.is_cancelled)).unwrap();
    assert_eq!(told(&mut rig), (0, 5, false));
    let reply = rig.ask(|promise| Command::CancelCampaign { name: "c".to_owned(), promise });
    assert_eq!(told(&mut rig), (2, 3, true));
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    assert_eq!(told(&mut rig), (2, 3, true));
    let mut held = rig.shelf(Shelf::InDoubt);
    held.sort();
    assert_eq!(held, ids[..2]);
    assert_eq!(rig.status(alone).unwrap().state(), State::Scheduled, "it belongs to none");
    assert_eq!(rig.status(others[0]).unwrap().state(), State::InFlight);
}

#[test]
fn a_campaign_that_nobody_cancelled_goes_on_after_a_restart() {
    let (mut rig, _, delivery) = one_of_a_campaign();
    rig.answer(&delivery, Ok("1"));
    let more = campaign(&mut rig, [60_000].into_iter(), false);
    rig.work();
    let id = given(more).unwrap().unwrap()[0];
    let mut rig = rig.restart(60_000, |_| {});
    assert_eq!(rig.call().id(), id);
    assert_eq!(shown(&mut rig).map(|told| (told.delivered, told.left, told.is_cancelled)), Some((1, 1, false)));
}

#[test]
fn a_campaign_is_known_for_as_long_as_its_last_post() {
    let mut rig = Rig::new();
    drop(campaign(&mut rig, [1_000].into_iter(), false));
    rig.work();
    rig.pass(1_000);
    rig.work();
    let delivery = rig.call();
    rig.answer(&delivery, Err(BroadcastError::permanent("gone")));
    rig.engine.forget_campaigns();
    // Its dead letter is sent again three days later, and no housekeeping comes between.
    rig.now.wall = rig.now.wall.after(Duration::from_secs(3 * 86_400));
    drop(rig.ask(|promise| Command::RequeueAll { place: 0, promise }));
    rig.work();
    let delivery = rig.call();
    rig.answer(&delivery, Ok("1"));
    for (hours, is_known) in [(0, true), (23, true), (2, false)] {
        rig.now.wall = rig.now.wall.after(Duration::from_secs(hours * 3_600));
        rig.turn();
        rig.engine.forget_campaigns();
        assert_eq!(shown(&mut rig).is_some(), is_known, "{hours} hours later");
    }
}

#[test]
fn local_times_are_derived_again_when_the_zone_data_is_another_one() {
    let now = Now { wall: Timestamp::from_millis(1_900_000_000_000), mono: Duration::ZERO, machine: Duration::ZERO };
    let mut rig = Rig::with_zones(Default::default(), now, "one", |_| {});
    let store = rig.store.clone();
    let local: crate::schedule::LocalTime = "local 2030-03-20T12:00 Europe/Berlin".parse().unwrap();
    let said = Post::new("p", "x").at_local(local);
    // Under that data it meant an hour earlier; a due of its own meant what it says.
    let hour_before = Timestamp::due(local.instant().unwrap()).millis() - 3_600_000 - now.wall.millis();
    let moved = rig.stored(hour_before, &said);
    let fixed = rig.stored(hour_before, &Post::new("p", "x"));
    let rescheduled = rig.stored(hour_before, &said);
    let due = Timestamp::from_millis(now.wall.millis() + 5_000);
    assert!(rig.wished(rescheduled, Wish::Reschedule(due)).is_ok());
    let reopen = |zones| Rig::with_zones(store.clone(), now, zones, |_| {});
    for (zones, hours) in [("one", -1), ("two", 0), ("two", 0)] {
        let mut rig = reopen(zones);
        let of = |rig: &mut Rig, id| rig.status(id).unwrap().due();
        assert_eq!(of(&mut rig, moved), local.instant().unwrap() + chrono::TimeDelta::hours(hours), "{zones}");
        assert_eq!(of(&mut rig, fixed), local.instant().unwrap() - chrono::TimeDelta::hours(1));
        assert_eq!(of(&mut rig, rescheduled), due.to_datetime());
    }
}

#[test]
fn local_times_of_all_pools_are_derived_again_once() {
    let local: crate::schedule::LocalTime = "local 2030-03-20T12:00 Europe/Berlin".parse().unwrap();
    let (start, meant) = (Timestamp::from_millis(1_900_000_000_000), Timestamp::due(local.instant().unwrap()));
    let now = |before: u64| Now {
        wall: meant.before(Duration::from_secs(before)),
        mono: Duration::ZERO,
        machine: Duration::ZERO,
    };
    let open = |store, zones, now| {
        let mut rig = Rig::waiting_with(store, now, zones, &["p", "q"], |_| {});
        let asked = rig.asked.iter().filter(|asked| matches!(asked, Request::List { .. })).count();
        rig.work();
        (rig, asked)
    };
    assert!(now(0).wall > start);
    let (mut rig, asked) = open(Default::default(), "one", now(7_230));
    assert_eq!(asked, 0, "nothing is known of it");
    // Under that data it meant an hour earlier. One of them has been tried by then, and keeps its due.
    let said = |pool: &str| Post::new(pool, "x").at_local(local);
    let hour_before = 7_230_000 - 3_600_000;
    let tried = rig.stored(0, &said("p"));
    let fails = rig.call();
    rig.answer(&fails, Err(BroadcastError::transient("503").retry_after(Duration::from_secs(7_200))));
    // With this one the zone data has nothing to do.
    let steady: crate::schedule::LocalTime = "local 2030-03-20T12:00 UTC".parse().unwrap();
    (0..20).for_each(|_| _ = rig.stored(7_230_000 + 3_600_000, &Post::new("p", "x").at_local(steady)));
    let ids: Vec<_> =
        ["p", "q"].iter().flat_map(|pool| [*pool; 20]).map(|pool| rig.stored(hour_before, &said(pool))).collect();
    let store = rig.store.clone();
    drop(rig);
    for (near, zones, lists) in [(7_000, "one", 0), (7_000, "two", 2), (7_000, "two", 0), (3_630, "two", 0)] {
        let (mut rig, asked) = open(store.clone(), zones, now(near));
        assert_eq!(asked, lists, "{zones}");
        let hours = if zones == "one" { 1 } else { 0 };
        let expected = local.instant().unwrap() - chrono::TimeDelta::hours(hours);
        assert!(ids.iter().all(|id| rig.status(*id).unwrap().due() == expected), "{zones}");
        assert!(rig.status(tried).unwrap().due() < expected);
        assert!(rig.engine.posts.len() < 3, "what is far is left to the store: {}", rig.engine.posts.len());
        assert!(rig.asked.is_empty());
    }
}

#[test]
fn local_times_that_are_near_are_derived_again_too() {
    let local: crate::schedule::LocalTime = "local 2030-03-20T12:00 Europe/Berlin".parse().unwrap();
    let meant = Timestamp::due(local.instant().unwrap());
    let now = |before: u64| Now {
        wall: meant.before(Duration::from_secs(before)),
        mono: Duration::ZERO,
        machine: Duration::ZERO,
    };
    for names in [&["p"][..], &["p", "q"]] {
        let open = |store, zones, before| {
            let mut rig = Rig::waiting_with(store, now(before), zones, names, |_| {});
            let asked = rig.asked.iter().filter(|asked| matches!(asked, Request::List { .. })).count();
            rig.work();
            (rig, asked)
        };
        let (mut rig, _) = open(Default::default(), "one", 7_230);
        let stored = |name: &&str| rig.stored(7_230_000 - 3_600_000, &Post::new(*name, "x").at_local(local));
        let ids: Vec<_> = names.iter().map(stored).collect();
        let (mut rig, asked) = open(rig.store.clone(), "two", 3_630);
        assert!(ids.iter().all(|id| rig.status(*id).unwrap().due() == meant.to_datetime()));
        assert_eq!((asked, open(rig.store.clone(), "two", 3_630).1), (names.len(), 0));
    }
}
