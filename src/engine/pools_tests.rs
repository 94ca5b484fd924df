//! Several pools and profiles: what is done to one of them leaves the others alone.

use super::tests::{Rig, given};
use super::*;
use crate::error::Error;
use crate::gate::{Account, Gate, Rules};
use crate::id::{PostId, State};
use crate::post::{Body, Post};
use crate::quota::{RateLimit, Scope};

const SECOND: u64 = 1_000;

fn pause(rig: &mut Rig, place: usize, paused: bool) {
    drop(rig.ask(|promise| Command::Pause { place, paused, promise }));
    rig.work();
}

fn hold(rig: &mut Rig, place: usize, reason: Option<&str>) {
    let reason = reason.map(str::to_owned);
    drop(rig.ask(|promise| Command::Hold { place, profile: "a".to_owned(), reason, promise }));
    rig.work();
}

fn handed_over(rig: &mut Rig) -> Vec<PostId> {
    let mut ids: Vec<_> = rig.delivered.iter().filter(|it| it.facts().stage.is_waiting()).map(Delivery::id).collect();
    ids.sort();
    ids
}

/// Posts of two profiles and two pools that wait in their shards.
fn four(rig: &mut Rig) -> [PostId; 4] {
    let pairs = [("p", "a"), ("p", "b"), ("q", "a"), ("q", "b")];
    let four = pairs.map(|(pool, profile)| rig.stored(1_000, &Post::new(pool, "x").profile(profile)));
    rig.pass(SECOND);
    rig.work();
    assert_eq!(handed_over(rig), four);
    four
}

#[test]
fn a_pool_that_is_paused_takes_back_its_own_posts_alone() {
    let mut rig = Rig::of_two(|_| {});
    let four = four(&mut rig);
    pause(&mut rig, 0, true);
    assert_eq!(handed_over(&mut rig), four[2..]);
    pause(&mut rig, 0, false);
    assert_eq!(handed_over(&mut rig), four);
}

#[test]
fn a_slot_is_not_taken_by_a_post_of_another_pool() {
    let mut rig = Rig::of_two(|_| {});
    // In 800 seconds, and an hour after that.
    let slots = "slots UTC Mon-Sun 18:00,19:00,20:00";
    let slots = || Box::new(slots.parse().unwrap());
    let due = |rig: &Rig| {
        let slots: crate::schedule::PostingSlots = *slots();
        let next = slots.after(rig.now.wall.to_datetime()).next().unwrap();
        Timestamp::due(next).millis() - rig.now.wall.millis()
    };
    let ahead = due(&rig);
    rig.pass(ahead as u64 - 30 * SECOND);
    rig.work();
    // Both are in memory when the queue is made.
    rig.stored(30_000, &Post::new("q", "x").profile("a"));
    let mut queue = |wish| {
        let command = Command::Queue { place: 0, profile: "a".to_owned(), named: Vec::new(), wish, _weight: None };
        rig.engine.handle_command(rig.now, command);
        rig.turn();
        rig.work();
    };
    let (promise, _made) = Promise::new();
    queue(QueueWish::Order { order: crate::queue::Order::Slots(slots()), key: None, promise });
    let (promise, reply) = Promise::new();
    let post =
        NewPost { pool: 0, due: Timestamp::MIN, body: Body::encode(&Post::new("p", "y").profile("a")), late: None };
    queue(QueueWish::Enqueue {
        at: None,
        posts: vec![post],
        known: Vec::new(),
        promise: SchedulePromise::All(promise),
    });
    let id = given(reply).unwrap().unwrap()[0];
    rig.pass(30 * SECOND);
    rig.work();
    assert!(handed_over(&mut rig).contains(&id), "{:?}", rig.status(id));
}

#[test]
fn a_pool_whose_memory_is_short_leaves_its_own_posts_alone_to_the_store() {
    let mut rig = Rig::of_two(|_| {});
    let big = |pool| Post::new(pool, vec![0; 60_000]);
    let others: Vec<_> = (0..10).map(|number| rig.stored(50_000 + number, &big("q"))).collect();
    let own: Vec<_> = (0..40).map(|number| rig.stored(50_000 + number, &big("p"))).collect();
    let mut sent = Vec::new();
    for _ in 0..60 {
        rig.pass(SECOND);
        rig.work();
        while !rig.delivered.is_empty() {
            let delivery = rig.call();
            sent.push(delivery.id());
            rig.answer(&delivery, Ok("u"));
        }
    }
    assert!(others.iter().chain(&own).all(|id| sent.contains(id)), "{} of 50", sent.len());
}

#[test]
fn a_profile_that_is_held_is_held_in_its_pool_alone() {
    let mut rig = Rig::of_two(|_| {});
    let four = four(&mut rig);
    hold(&mut rig, 0, Some("expelled"));
    assert_eq!(handed_over(&mut rig), four[1..]);
    assert_eq!(four.map(|id| rig.status(id).unwrap().state() == State::Held), [true, false, false, false]);
    for (place, held) in [(0, 1), (1, 0)] {
        let reply = rig.ask(|promise| Command::Held { place, promise });
        assert_eq!(given(reply).unwrap().unwrap().len(), held);
    }
    // It is held by the process after this one too.
    let Rig { store, now, .. } = rig;
    let mut rig = Rig::waiting_with(store, now, "", &["p", "q"], |_| {});
    rig.work();
    let reply = rig.ask(|promise| Command::Held { place: 0, promise });
    assert_eq!(given(reply).unwrap().unwrap(), [("a".to_owned(), "expelled".to_owned())]);
    hold(&mut rig, 0, None);
    let reply = rig.ask(|promise| Command::Held { place: 0, promise });
    assert!(given(reply).unwrap().unwrap().is_empty());
    assert!(handed_over(&mut rig).contains(&four[0]));
}

#[test]
fn a_pool_waits_for_the_counting_of_another_where_they_share_accounts() {
    for flags in 0..16 {
        let [is_limited, is_other_limited, own, other] = [1, 2, 4, 8].map(|flag| flags & flag > 0);
        let mut rig = Rig::of_two(|_| {});
        let id = rig.stored(10_000, &Post::new("p", "x"));
        rig.stored(20_000, &Post::new("q", "x"));
        let Rig { store, mut now, .. } = rig;
        now.wall = now.wall.after(Duration::from_secs(60));
        let mut rig = Rig::waiting_with(store, now, "", &["p", "q"], |pool| {
            let is_first = &*pool.name == "p";
            pool.is_limited = if is_first { is_limited } else { is_other_limited };
            pool.has_accounts = if is_first { own } else { other };
        });
        // The first pool's posts are there, the other's are not.
        assert!(matches!(rig.asked.pop_back(), Some(Request::Load { place: 1, .. })));
        rig.work();
        let expected = if is_limited && own && other { vec![] } else { vec![id] };
        assert_eq!(handed_over(&mut rig), expected, "{is_limited} {is_other_limited} {own} {other}");
    }
}

#[test]
fn a_limit_is_changed_for_the_pool_that_is_named_or_for_all_that_know_the_account() {
    let rules = |name: &str| {
        let app = Account::new("app").limit(RateLimit::rolling(9, Duration::from_secs(60)));
        let pool = vec![RateLimit::rolling(1, Duration::from_secs(60))];
        Rules { pool, accounts: (name == "q").then_some(app).into_iter().collect(), ..Rules::default() }
    };
    let mut rig = Rig::of_two(|pool| {
        pool.gate = Gate::new(&pool.name, rules(&pool.name));
        pool.is_limited = true;
    });
    let limit = |rig: &mut Rig, place, account: Option<&str>| {
        let (account, limits) = (account.map(str::to_owned), vec![RateLimit::rolling(2, Duration::from_secs(60))]);
        let scope = if account.is_some() { Scope::Account } else { Scope::Pool };
        let (promise, reply) = Promise::new();
        rig.engine.handle_command(rig.now, Command::Limit { place, scope, account, limits, promise });
        rig.engine.handle_timeout(rig.now);
        let looks = std::iter::from_fn(|| rig.engine.poll_effect()).filter_map(|effect| match effect {
            Effect::Look { shards } => Some((shards.start, shards.end)),
            _ => None,
        });
        (looks.collect::<Vec<_>>(), given(reply))
    };
    assert!(matches!(limit(&mut rig, Some(0), None), (looks, Some(Ok(()))) if looks == [(0, 1)]));
    assert!(matches!(limit(&mut rig, Some(1), None), (looks, Some(Ok(()))) if looks == [(1, 2)]));
    assert!(matches!(limit(&mut rig, None, Some("app")), (looks, Some(Ok(()))) if looks == [(1, 2)]));
    let (looks, answer) = limit(&mut rig, None, Some("other"));
    assert!(looks.is_empty() && matches!(answer, Some(Err(Error::UnknownAccount { .. }))));
}

#[test]
fn posts_that_were_given_back_are_looked_at_anew_when_the_limit_of_their_pool_changes() {
    let mut rig = Rig::of_two(|pool| {
        let pool_limit = vec![RateLimit::rolling(1, Duration::from_secs(600))];
        pool.gate = Gate::new(&pool.name, Rules { pool: pool_limit, ..Rules::default() });
        pool.is_limited = true;
    });
    let four = four(&mut rig);
    let until = rig.now.wall.after(Duration::from_secs(600));
    let returned: Vec<_> = rig.delivered.drain(..).map(|delivery| (delivery, until)).collect();
    assert!(returned.iter().all(|(delivery, _)| delivery.facts().stage.withdraw()));
    rig.report(Report { returned, ..Report::default() });
    rig.work();
    rig.pass(10 * SECOND);
    rig.work();
    assert!(handed_over(&mut rig).is_empty());
    let limits = vec![RateLimit::rolling(2, Duration::from_secs(600))];
    drop(rig.ask(|promise| Command::Limit { place: Some(1), scope: Scope::Pool, account: None, limits, promise }));
    rig.work();
    assert_eq!(handed_over(&mut rig), four[2..]);
}
