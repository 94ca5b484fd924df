//! The plain API does what it says.

mod common;

use common::{START, World, at, millis, secs};
use punctual::{
    Account, BroadcastError, CatchUp, Error, Event, ManualClock, MemoryStore, Outcome, Pool, Post, PostId,
    PrepareAhead, Priority, Receipt, RetryPolicy, Scheduler, State,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn post(payload: &str) -> Post {
    Post::new("p", payload)
}

#[test]
fn a_post_is_sent_at_its_due_and_not_a_millisecond_before() {
    let world = World::new();
    let due = at("2030-01-07T08:00:00Z");
    let id = world.scheduler.schedule(post("sharp").at(due)).wait().unwrap();
    world.pass(secs(3_600) - millis(1));
    assert!(world.outbox.calls().is_empty());
    assert_eq!(world.scheduler.get(id).wait().unwrap().unwrap().state(), State::Scheduled);
    world.pass(millis(1));
    assert_eq!(world.outbox.payloads(), ["sharp"]);
    assert_eq!(world.scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("sent sharp")));
    let status = world.scheduler.get(id).wait().unwrap().unwrap();
    assert_eq!((status.state(), status.attempts(), status.due()), (State::Delivered, 1, due));
}

#[test]
fn a_post_without_due_is_sent_at_once() {
    let world = World::new();
    let id = world.scheduler.schedule(post("now")).wait().unwrap();
    assert!(matches!(world.scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)));
}

#[test]
fn a_sub_millisecond_due_is_never_early() {
    let world = World::new();
    let due = at("2030-01-07T07:00:01.000000001Z");
    world.scheduler.schedule(post("a").at(due)).wait().unwrap();
    world.pass(secs(1));
    assert!(world.outbox.calls().is_empty());
    world.pass(millis(1));
    assert!(world.outbox.calls()[0].called >= due);
}

#[test]
fn many_posts_are_stored_all_or_none() {
    let world = World::new();
    let ids = world
        .scheduler
        .schedule_all((0..5_000).map(|n| post(&n.to_string()).at(at(START) + secs(1 + n % 90))))
        .wait()
        .unwrap();
    assert_eq!(ids.len(), 5_000);
    let bad = vec![post("x"), Post::new("q", "y")];
    assert!(matches!(world.scheduler.schedule_all(bad).wait(), Err(Error::UnknownPool { .. })));
    for _ in 0..91 {
        world.pass(secs(1));
    }
    let calls = world.outbox.calls();
    assert_eq!(calls.len(), 5_000);
    for call in &calls {
        assert_eq!(call.called, call.due, "post {}", call.payload);
    }
    let mut sent: Vec<PostId> = calls.iter().map(|call| call.id).collect();
    sent.sort();
    assert_eq!(sent, ids, "ids come in the order of the posts");
    assert_eq!(world.scheduler.schedule_all([]).wait().unwrap(), []);
}

#[test]
fn the_same_key_and_content_is_the_same_post_and_other_content_a_conflict() {
    let world = World::new();
    let due = at("2030-01-07T08:00:00Z");
    let original = post("a").at(due).key("k");
    let id = world.scheduler.schedule(original.clone()).wait().unwrap();
    assert_eq!(world.scheduler.schedule(original.clone()).wait().unwrap(), id);
    let conflict = world.scheduler.schedule(post("b").at(due).key("k")).wait().unwrap_err();
    assert!(matches!(&conflict, Error::Conflict { key, existing } if key == "k" && *existing == id), "{conflict}");
    let unit = vec![post("new").at(due), post("c").key("k")];
    assert!(matches!(world.scheduler.schedule_all(unit).wait(), Err(Error::Conflict { .. })));

    world.scheduler.reschedule("k", due + secs(60)).wait().unwrap();
    assert_eq!(world.scheduler.schedule(original).wait().unwrap(), id, "also after it was re-timed");
    assert_eq!(world.scheduler.get("k").wait().unwrap().unwrap().due(), due + secs(60));
    world.scheduler.cancel("k").wait().unwrap();
    world.pass(secs(7_200));
    assert!(world.outbox.calls().is_empty(), "nothing of the refused unit was stored");
}

#[test]
fn a_host_that_lost_the_answer_asks_again_with_the_key_even_long_after_the_due() {
    let world = World::new();
    let original = post("a").at(at(START) + secs(5)).key("k");
    let id = world.scheduler.schedule(original.clone()).wait().unwrap();
    let fresh = post("fresh").at(at(START) + secs(9_000)).key("fresh");
    world.pass(secs(5));
    world.pass(secs(3_600));
    assert_eq!(world.scheduler.schedule(original.clone()).wait().unwrap(), id);
    let unit = vec![fresh.clone(), original.clone(), post("c").at(at(START) + secs(9_000))];
    let ids = world.scheduler.schedule_all(unit).wait().unwrap();
    assert_eq!((ids.len(), ids[1]), (3, id));
    assert_eq!(world.scheduler.schedule(fresh).wait().unwrap(), ids[0]);
    let other = world.scheduler.schedule(post("b").at(at(START) + secs(5)).key("k")).wait();
    assert!(matches!(other, Err(Error::Conflict { .. })));
    let new = world.scheduler.schedule_all([post("d"), post("e").at(at(START)).key("new")]).wait();
    assert!(matches!(new, Err(Error::DuePast { .. })));
    world.pass(secs(9_000));
    assert_eq!(world.outbox.calls().len(), 3);
}

#[test]
fn a_cancelled_post_is_never_sent_wherever_it_is() {
    let world = World::new();
    let soon = world.scheduler.schedule(post("soon").at(at(START) + secs(1))).wait().unwrap();
    let near = world.scheduler.schedule(post("near").at(at(START) + secs(30))).wait().unwrap();
    let far = world.scheduler.schedule(post("far").at(at(START) + secs(86_400 * 40))).wait().unwrap();
    for id in [soon, near, far] {
        world.scheduler.cancel(id).wait().unwrap();
        assert_eq!(world.scheduler.outcome(id).wait().unwrap(), Outcome::Cancelled);
        assert!(matches!(world.scheduler.cancel(id).wait(), Err(Error::TooLate { state: State::Cancelled, .. })));
    }
    world.pass(secs(86_400 * 41));
    assert!(world.outbox.calls().is_empty());
}

#[test]
fn a_rescheduled_post_is_sent_once_at_its_last_due() {
    let world = World::new();
    let base = at(START);
    let id = world.scheduler.schedule(post("a").at(base + secs(600))).wait().unwrap();
    for due in [300, 90_000, 30, 600, 5, 3_600, 1, 20] {
        world.scheduler.reschedule(id, base + secs(due)).wait().unwrap();
    }
    let status = world.scheduler.get(id).wait().unwrap().unwrap();
    assert_eq!((status.due(), status.revision()), (base + secs(20), 8));
    world.pass(secs(19));
    assert!(world.outbox.calls().is_empty());
    world.pass(secs(1));
    world.pass(secs(200_000));
    assert_eq!(world.outbox.payloads(), ["a"]);
}

#[test]
fn a_failed_post_is_tried_again_and_then_is_a_dead_letter() {
    let world = World::new();
    for _ in 0..3 {
        world.outbox.answer("a", Err(BroadcastError::transient("503")));
    }
    world.outbox.answer("b", Err(BroadcastError::permanent("gone")));
    world.outbox.answer("c", Err(BroadcastError::transient("503")));
    let ids = world.scheduler.schedule_all(["a", "b", "c"].map(post)).wait().unwrap();
    for _ in 0..40 {
        world.pass(secs(1));
    }
    let outcomes: Vec<_> = ids.iter().map(|id| world.scheduler.outcome(*id).wait().unwrap()).collect();
    assert_eq!(outcomes[0], Outcome::Failed { reason: "503".into() });
    assert_eq!(outcomes[1], Outcome::Failed { reason: "gone".into() });
    assert_eq!(outcomes[2], Outcome::Delivered(Receipt::new("sent c")));
    let calls = world.outbox.calls();
    let of = |name: &str| calls.iter().filter(|call| call.payload == name).cloned().collect::<Vec<_>>();
    assert_eq!(of("a").iter().map(|call| call.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(of("b").len(), 1);
    assert!(of("a").windows(2).all(|pair| pair[1].called - pair[0].called >= chrono::TimeDelta::seconds(5)));
    assert!(calls.iter().all(|call| !call.redelivery), "a failure that was answered is no possible repeat");
    assert!(of("c").iter().all(|call| call.idempotency_key == ids[2].to_string() && call.due == at(START)));
}

#[test]
fn changes_by_key_and_by_id_are_made_in_the_order_in_which_they_were_asked_for() {
    let world = World::new();
    let base = at(START);
    let id = world.scheduler.schedule(post("a").at(base + secs(5_000)).key("k")).wait().unwrap();
    for round in 0..100 {
        let first = world.scheduler.reschedule("k", base + secs(1_000));
        let second = world.scheduler.reschedule(id, base + secs(2_000 + round));
        let status = world.scheduler.get(id);
        assert!(first.wait().is_ok() && second.wait().is_ok());
        assert_eq!(status.wait().unwrap().unwrap().due(), base + secs(2_000 + round));
    }
}

#[test]
fn every_call_is_answered_also_while_the_scheduler_shuts_down() {
    for _ in 0..20 {
        let world = World::new();
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let scheduler = world.scheduler.clone();
                std::thread::spawn(move || while scheduler.get("nothing").wait().is_ok() {})
            })
            .collect();
        world.scheduler.shutdown(secs(1)).wait().unwrap();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    }
}

#[test]
fn any_name_of_a_pool_will_do() {
    let pool = Pool::new("a\0b", |_| async { Ok(Receipt::default()) });
    let scheduler = Scheduler::builder().store(MemoryStore::default()).pool(pool).start().unwrap();
    let id = scheduler.schedule(Post::new("a\0b", "x")).wait().unwrap();
    assert!(matches!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)));
}

#[test]
fn names_are_as_long_as_is_allowed_and_not_empty() {
    let broadcaster = |_| async { Ok(Receipt::default()) };
    let start = |pool: &str, account: &str| {
        let pool = Pool::new(pool, broadcaster).account(&Account::new(account));
        Scheduler::builder().store(MemoryStore::default()).pool(pool).start().map(drop)
    };
    let name = |bytes: usize| "n".repeat(bytes);
    start(&name(255), &name(255)).unwrap();
    for bytes in [0, 256] {
        let of_pool = start(&name(bytes), "app");
        assert!(
            matches!(of_pool, Err(Error::InvalidName { what: "name of a pool", bytes: b, max: 255 }) if b == bytes)
        );
        let of_account = start("p", &name(bytes));
        assert!(
            matches!(of_account, Err(Error::InvalidName { what: "name of an account", bytes: b, max: 255 }) if b == bytes)
        );
    }
}

#[test]
fn what_is_shown_of_a_post_is_what_it_was_told() {
    let world = World::new();
    let due = at(START) + secs(60);
    let thread = post("one").then("two").then("three").profile("shop").key("k 1").at(due);
    let id = world.scheduler.schedule(thread).wait().unwrap();
    let status = world.scheduler.get(id).wait().unwrap().unwrap();
    assert_eq!((status.id(), status.pool(), status.profile(), status.key()), (id, "p", "shop", Some("k 1")));
    assert_eq!((status.parts(), status.part(1), status.payload()), (3, &b"two"[..], &b"onetwothree"[..]));
    assert_eq!((status.due(), status.next_attempt(), status.state()), (due, Some(due), State::Scheduled));
    let plain = world.scheduler.schedule(post("x").at(due)).wait().unwrap();
    let status = world.scheduler.get(plain).wait().unwrap().unwrap();
    assert_eq!((status.key(), status.profile(), status.parts(), status.part(1)), (None, "", 1, &b""[..]));
    // Nothing is planned for what waits for the host, nor for what is over.
    world.scheduler.hold_profile("p", "shop", "on holiday").wait().unwrap();
    world.pass(secs(60));
    for (id, state) in [(id, State::Held), (plain, State::Delivered)] {
        let status = world.scheduler.get(id).wait().unwrap().unwrap();
        assert_eq!((status.state(), status.next_attempt()), (state, None));
    }
    let unknown = world.scheduler.cancel("k 2").wait().unwrap_err().to_string();
    assert!(unknown.contains("with key \"k 2\""), "{unknown}");
    let over = world.scheduler.cancel(plain).wait().unwrap_err().to_string();
    assert!(over.contains(&plain.to_string()), "{over}");
}

#[test]
fn a_pool_runs_as_many_at_once_as_it_may_however_many_shards_it_has() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, gate) = tokio::sync::watch::channel(false);
    let (now, seen) = (running.clone(), most.clone());
    let broadcaster = move |_| {
        let (now, seen, mut gate) = (now.clone(), seen.clone(), gate.clone());
        async move {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _ = gate.wait_for(|open| *open).await;
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Receipt::default())
        }
    };
    let pool = Pool::new("p", broadcaster).concurrency(5).shards(3);
    let scheduler = Scheduler::builder().store(MemoryStore::default()).pool(pool).start().unwrap();
    scheduler.schedule_all((0..300).map(|n| post("x").profile(format!("{n}")))).wait().unwrap();
    while running.load(Ordering::SeqCst) < 5 {
        std::thread::yield_now();
    }
    open.send(true).unwrap();
    scheduler.settle().wait().unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 5);
}

#[test]
fn a_listener_that_falls_behind_is_told_how_much_it_missed() {
    let world = World::new();
    let mut events = world.scheduler.events();
    assert_eq!(events.missed(), 0);
    // Two rounds of more events than are kept.
    for round in 1..=2 {
        for _ in 0..7 {
            world.scheduler.schedule_all((0..10_000).map(|_| post("x").at(at(START) + secs(9_000)))).wait().unwrap();
        }
        world.scheduler.settle().wait().unwrap();
        let seen = (0..65_536).filter(|_| matches!(events.wait(), Some(Event::Scheduled { .. }))).count();
        assert_eq!((seen, events.missed()), (65_536, round * (70_000 - 65_536)));
    }
}

#[test]
fn many_posts_at_once_are_as_many_and_as_long_as_is_allowed() {
    let world = World::with(|pool| pool, |builder| builder.max_payload(16 << 20));
    let due = at(START) + secs(9_000);
    let plain = |posts: usize| world.scheduler.schedule_all((0..posts).map(|_| post("").at(due))).wait();
    assert!(matches!(plain(100_001), Err(Error::BatchTooLarge { posts: 100_001, max_posts: 100_000, .. })));
    assert_eq!(plain(100_000).unwrap().len(), 100_000);
    assert_eq!(plain(0).unwrap(), []);
    let long = |bytes: usize| Post::new("p", vec![0; bytes]).at(due);
    let longest = |last: Vec<Post>| world.scheduler.schedule_all((0..3).map(|_| long(16 << 20)).chain(last)).wait();
    let (most, more) = (vec![long(15 << 20), long(1 << 20)], vec![long(16 << 20), long(1)]);
    assert!(
        matches!(longest(more), Err(Error::BatchTooLarge { posts: 5, bytes, max_bytes, .. }) if bytes == max_bytes + 1)
    );
    assert_eq!(longest(most).unwrap().len(), 5);
}

#[test]
fn what_is_changed_is_as_long_as_is_allowed() {
    let world = World::with(|pool| pool, |builder| builder.max_payload(100));
    let id = world.scheduler.schedule(post("x").at(at(START) + secs(60))).wait().unwrap();
    let refused = world.scheduler.edit(id, vec![b'y'; 101]).wait();
    assert!(matches!(refused, Err(Error::PayloadTooLarge { bytes: 101, max: 100 })));
    world.scheduler.edit(id, vec![b'y'; 100]).wait().unwrap();
    assert_eq!(world.scheduler.get(id).wait().unwrap().unwrap().payload(), [b'y'; 100]);
    let name = |bytes: usize| "n".repeat(bytes);
    let slots = || "slots UTC Mon-Sun 08:00".parse::<punctual::PostingSlots>().unwrap();
    let schedule = || "cron UTC 0 8 * * *".parse::<punctual::Schedule>().unwrap();
    let wish = |bytes: usize| {
        let hold = world.scheduler.hold_profile("p", &name(bytes), "why").wait();
        let queue = world.scheduler.queue("p", &name(bytes)).set_slots(slots()).wait();
        let series = world.scheduler.series(&name(bytes)).set(schedule(), post("x"), punctual::Misfire::Skip).wait();
        [hold, queue, series]
    };
    assert!(wish(255).into_iter().all(|answer| answer.is_ok()));
    let refused = |answer: punctual::Result<()>| matches!(answer, Err(Error::InvalidName { bytes: 256, max: 255, .. }));
    assert!(wish(256).into_iter().all(refused));
}

#[test]
fn everyone_who_waits_for_an_outcome_is_told() {
    let world = World::new();
    let id = world.scheduler.schedule(post("a").at(at(START) + secs(5))).wait().unwrap();
    let replies = [(); 3].map(|()| world.scheduler.outcome(id));
    drop(world.scheduler.outcome(id));
    world.pass(secs(5));
    for reply in replies {
        assert!(matches!(reply.wait().unwrap(), Outcome::Delivered(_)));
    }
}

#[test]
fn events_tell_what_happened_in_order() {
    let world = World::new();
    let mut events = world.scheduler.events();
    world.outbox.answer("a", Err(BroadcastError::transient("503")));
    let id = world.scheduler.schedule(post("a").at(at(START) + secs(5))).wait().unwrap();
    world.scheduler.reschedule(id, at(START) + secs(6)).wait().unwrap();
    world.pass(secs(6));
    world.pass(secs(10));
    let due = at(START) + secs(6);
    assert_eq!(events.wait(), Some(Event::Scheduled { id, due: at(START) + secs(5) }));
    assert_eq!(events.wait(), Some(Event::Rescheduled { id, due }));
    assert!(matches!(events.wait(), Some(Event::Retrying { attempt: 1, reason, .. }) if reason == "503"));
    match events.wait() {
        Some(Event::Settled { id: settled, outcome: Outcome::Delivered(_), attempts: 2, lateness: Some(late) }) => {
            assert_eq!(settled, id);
            assert!(late >= secs(5) && late <= secs(10), "{late:?} since the promise");
        }
        other => panic!("{other:?}"),
    }
    world.scheduler.shutdown(secs(1)).wait().unwrap();
    assert_eq!(events.wait(), None);
}

#[test]
fn priority_goes_first_among_what_is_due() {
    let world = World::with(|pool| pool.concurrency(1).threads(1), |builder| builder);
    let due = at(START) + secs(10);
    let posts = [("low", Priority::LOW), ("normal", Priority::NORMAL), ("high", Priority::HIGH)];
    world.scheduler.schedule_all(posts.map(|(name, priority)| post(name).at(due).priority(priority))).wait().unwrap();
    world.pass(secs(10));
    assert_eq!(world.outbox.payloads(), ["high", "normal", "low"]);
}

#[test]
fn posts_in_order_of_one_profile_never_overlap() {
    let clock = ManualClock::at(at(START));
    let flying: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = flying.clone();
    let broadcaster = move |delivery: punctual::Delivery| {
        let flying = seen.clone();
        async move {
            let profile = delivery.profile().to_owned();
            {
                let mut flying = flying.lock().unwrap();
                assert!(!flying.contains(&profile), "two of {profile} at once");
                flying.push(profile.clone());
            }
            tokio::task::yield_now().await;
            flying.lock().unwrap().retain(|other| *other != profile);
            Ok(Receipt::default())
        }
    };
    let pool = Pool::new("p", broadcaster).concurrency(64).shards(3).retry(RetryPolicy::none());
    let scheduler = Scheduler::builder().store(MemoryStore::default()).clock(clock.clone()).pool(pool).start().unwrap();
    let posts = (0..2_000).map(|n| post("x").profile(format!("@{}", n % 7)).in_order());
    let ids = scheduler.schedule_all(posts).wait().unwrap();
    for id in ids {
        assert!(matches!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)));
    }
}

#[test]
fn bad_settings_are_refused_by_name() {
    let broadcaster = |_| async { Ok(Receipt::default()) };
    let start = |pools: Vec<Pool>| {
        pools.into_iter().fold(Scheduler::builder().store(MemoryStore::default()), punctual::Builder::pool).start()
    };
    assert!(matches!(start(vec![]), Err(Error::NoPools)));
    assert!(matches!(Scheduler::builder().pool(Pool::new("p", broadcaster)).start(), Err(Error::NoStore)));
    let twice = start(vec![Pool::new("p", broadcaster), Pool::new("p", broadcaster)]);
    assert!(matches!(twice, Err(Error::DuplicatePool { pool }) if pool == "p"));
    assert!(matches!(start(vec![Pool::new("", broadcaster)]), Err(Error::InvalidName { .. })));
    // One account may be that of several pools; two of one name are a mistake.
    let (one, other) = (Account::new("app"), Account::new("app"));
    let with = |name: &str, account| Pool::new(name, broadcaster).account(account);
    assert!(start(vec![with("p", &one), with("q", &one)]).is_ok());
    let never = Account::new("app").limit(punctual::RateLimit::rolling(0, secs(1)));
    assert!(matches!(start(vec![with("p", &never)]), Err(Error::InvalidSetting { .. })));
    let two = start(vec![with("p", &one), with("q", &other)]);
    assert!(matches!(two, Err(Error::DuplicateAccount { account }) if account == "app"));
    type Change = fn(Pool) -> Pool;
    const DAY: Duration = Duration::from_secs(86_400);
    fn prepare(pool: Pool, change: fn(PrepareAhead) -> PrepareAhead) -> Pool {
        pool.prepare_ahead(change(PrepareAhead::by(secs(600))))
    }
    let builder = || Scheduler::builder().store(MemoryStore::default()).pool(Pool::new("p", broadcaster));
    type Setting = fn(punctual::Builder) -> punctual::Builder;
    let bad: [(&str, Setting); 9] = [
        ("horizon (ms)", |builder| builder.horizon(millis(9_999))),
        ("horizon (ms)", |builder| builder.horizon(DAY * 7 + millis(1))),
        ("claim_ahead (ms)", |builder| builder.claim_ahead(millis(5_001))),
        ("memory (bytes)", |builder| builder.memory((64 << 10) - 1)),
        ("max_payload (bytes)", |builder| builder.max_payload(0)),
        ("max_payload (bytes)", |builder| builder.max_payload((16 << 20) + 1)),
        ("stall_after (ms)", |builder| builder.stall_after(millis(99))),
        ("stall_after (ms)", |builder| builder.stall_after(millis(600_001))),
        ("memory (bytes)", |builder| {
            builder.pool(Pool::new("q", |_| async { Ok(Receipt::default()) })).memory(100_000)
        }),
    ];
    for (name, change) in bad {
        match change(builder()).start() {
            Err(Error::InvalidSetting { of, setting, .. }) => {
                assert_eq!((of.as_str(), setting), ("the scheduler", name))
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let least =
        builder().horizon(secs(10)).claim_ahead(secs(0)).memory(64 << 10).max_payload(1).stall_after(millis(100));
    assert!(least.start().is_ok());
    let most = builder().horizon(DAY * 7).claim_ahead(secs(5)).memory(usize::MAX).max_payload(16 << 20);
    assert!(most.stall_after(secs(600)).start().is_ok());
    // What is just outside of each range, and then the ends of all of them.
    let bad: Vec<(&str, Change)> = vec![
        ("concurrency", |pool| pool.concurrency(0)),
        ("concurrency", |pool| pool.concurrency((1 << 20) + 1)),
        ("shards", |pool| pool.shards(0)),
        ("shards", |pool| pool.concurrency(2).shards(3)),
        ("shards", |pool| pool.concurrency(1_000).shards(65)),
        ("threads", |pool| pool.threads(0)),
        ("threads", |pool| pool.threads(257)),
        ("timeout (ms)", |pool| pool.timeout(millis(0))),
        ("timeout (ms)", |pool| pool.timeout(DAY + millis(1))),
        ("spread_over", |pool| pool.catch_up(CatchUp::at_once().spread_over(DAY * 366 + millis(1)))),
        ("min_gap", |pool| pool.catch_up(CatchUp::at_once().min_gap(DAY * 366 + millis(1)))),
        ("miss_after", |pool| pool.catch_up(CatchUp::at_once().miss_after(DAY * 366 + millis(1)))),
        ("prepare_ahead: lead (ms)", |pool| pool.prepare_ahead(PrepareAhead::by(millis(999)))),
        ("prepare_ahead: lead (ms)", |pool| pool.prepare_ahead(PrepareAhead::by(DAY * 30 + millis(1)))),
        ("prepare_ahead: concurrency", |pool| prepare(pool, |ahead| ahead.concurrency(0))),
        ("prepare_ahead: threads", |pool| prepare(pool, |ahead| ahead.threads(0))),
        ("prepare_ahead: timeout (ms)", |pool| prepare(pool, |ahead| ahead.timeout(millis(0)))),
        ("prepare_ahead: timeout (ms)", |pool| prepare(pool, |ahead| ahead.timeout(DAY + millis(1)))),
    ];
    let widest = CatchUp::at_once().spread_over(DAY * 366).min_gap(DAY * 366).miss_after(DAY * 366);
    let ahead = PrepareAhead::by(DAY * 30).timeout(DAY);
    let pool = Pool::new("p", broadcaster).concurrency(1 << 20).shards(64).timeout(DAY).catch_up(widest);
    assert!(start(vec![pool.prepare_ahead(ahead)]).is_ok());
    let ahead = PrepareAhead::by(secs(1)).concurrency(1).threads(1).timeout(millis(1));
    let pool = Pool::new("p", broadcaster).concurrency(1).shards(1).threads(1).timeout(millis(1));
    assert!(start(vec![pool.prepare_ahead(ahead)]).is_ok());
    for (name, change) in bad {
        match start(vec![change(Pool::new("p", broadcaster))]) {
            Err(Error::InvalidSetting { of, setting, .. }) => assert_eq!((of.as_str(), setting), ("pool \"p\"", name)),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn an_unknown_or_foreign_post_is_said_to_be_so() {
    let world = World::new();
    let id = world.scheduler.schedule(post("a").at(at(START) + secs(60))).wait().unwrap();
    let foreign = PostId::from_u128(id.as_u128() ^ 1 << 100);
    let unknown = PostId::from_u128(id.as_u128() + 1_000);
    assert!(matches!(world.scheduler.cancel(foreign).wait(), Err(Error::ForeignId { id }) if id == foreign));
    assert!(matches!(world.scheduler.get(foreign).wait(), Err(Error::ForeignId { .. })));
    assert!(matches!(world.scheduler.cancel(unknown).wait(), Err(Error::NotFound { .. })));
    assert!(matches!(world.scheduler.outcome("no such key").wait(), Err(Error::NotFound { .. })));
    assert!(world.scheduler.get(unknown).wait().unwrap().is_none());
    assert!(world.scheduler.get("no such key").wait().unwrap().is_none());
}

#[test]
fn a_pool_left_out_although_the_store_has_posts_for_it_is_refused() {
    let world = World::new();
    world.scheduler.schedule(post("a").at(at(START) + secs(600))).wait().unwrap();
    world.scheduler.shutdown(secs(1)).wait().unwrap();
    let other = Pool::new("q", |_| async { Ok(Receipt::default()) });
    let started = Scheduler::builder().store(world.store.clone()).clock(world.clock.clone()).pool(other).start();
    assert!(matches!(started, Err(Error::MissingPool { pool }) if pool == "p"));
}

#[tokio::test]
async fn replies_are_awaited_by_async_hosts() {
    let world = World::new();
    let id = world.scheduler.schedule(post("a")).await.unwrap();
    assert!(matches!(world.scheduler.outcome(id).await.unwrap(), Outcome::Delivered(_)));
    assert!(world.scheduler.get(id).wait().unwrap().is_some(), "waiting works inside a runtime too");
    world.scheduler.shutdown(secs(1)).await.unwrap();
    assert!(matches!(world.scheduler.schedule(post("b")).await, Err(Error::Closed)));
}
