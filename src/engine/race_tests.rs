use super::message::Wish;
use super::tests::{Rig, given};
use super::*;
use crate::catch_up::CatchUp;
use crate::gate::{Gate, Rules};
use crate::id::{PostId, State};
use crate::post::{BroadcastError, Ending, Guarantee, Post, PostRef, Prepared, Receipt, Reconciled, Shelf, Task};
use crate::quota::RateLimit;
use crate::retry::RetryPolicy;

fn attempt(delivery: &Delivery, called: bool, ending: Ending) -> Attempt {
    Attempt { delivery: delivery.clone(), started: None, called, ending }
}
fn ended(rig: &mut Rig, delivery: &Delivery, called: bool, ending: Ending) {
    rig.report(Report { ended: vec![attempt(delivery, called, ending)], ..Report::default() });
    rig.work();
}
fn late(rig: &mut Rig, delivery: &Delivery, ending: Ending) {
    rig.report(Report { late: vec![attempt(delivery, true, ending)], ..Report::default() });
}
fn timeout() -> Ending {
    Ending::TimedOut { after: Duration::from_secs(60) }
}
fn amo() -> Post {
    Post::new("p", "x").guarantee(Guarantee::AtMostOnce)
}
fn hold(rig: &mut Rig, reason: Option<&str>) -> crate::reply::Reply<()> {
    let reason = reason.map(str::to_owned);
    rig.ask(|promise| Command::Hold { place: 0, profile: "a".into(), reason, promise })
}

/// The next process. If the release had not become durable, it is asked for again.
fn released_after_a_crash(rig: Rig) -> Rig {
    let mut rig = rig.restart(1_000, |_| {});
    let reply = hold(&mut rig, None);
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    rig.pass(1);
    rig.work();
    rig
}

#[test]
fn a_crash_during_a_release_strands_no_post() {
    for steps in 0..8 {
        let mut rig = Rig::new();
        drop(hold(&mut rig, Some("x")));
        rig.work();
        let id = rig.stored(0, &Post::new("p", "x").profile("a"));
        assert_eq!(rig.status(id).unwrap().state(), State::Held);
        drop(hold(&mut rig, None));
        for _ in 0..steps {
            rig.answer_one();
        }
        let mut rig = released_after_a_crash(rig);
        assert_eq!(rig.delivered.len(), 1, "{steps} steps: {:?}", rig.status(id).unwrap().state());
    }
}

#[test]
fn a_post_that_is_changed_on_its_shelf_during_a_release_is_not_stranded_by_a_crash() {
    // By itself, and beside another.
    for (posts, before, after) in (0..192).map(|case| (1 + case % 2, case / 2 / 12, case / 2 % 12)) {
        let mut rig = Rig::new();
        drop(hold(&mut rig, Some("x")));
        rig.work();
        let ids: Vec<_> = (0..posts).map(|_| rig.stored(0, &Post::new("p", "x").profile("a"))).collect();
        drop(hold(&mut rig, None));
        (0..before).for_each(|_| _ = rig.answer_one());
        drop(rig.wish(ids[0], Wish::Edit { part: 0, payload: "y".into() }));
        (0..after).for_each(|_| _ = rig.answer_one());
        let mut rig = released_after_a_crash(rig);
        let states: Vec<_> = ids.iter().map(|id| rig.status(*id).unwrap().state()).collect();
        assert_eq!(rig.delivered.len(), posts, "{before} steps, then {after}: {states:?}");
    }
}

#[test]
fn a_release_that_another_hold_has_ended_does_not_end_the_next_one() {
    for (before, between, after) in (0..120).map(|case| (case / 40, 3 + case / 8 % 5, 4 + case % 8)) {
        let mut rig = Rig::new();
        rig.engine.settings.memory = 1 << 30;
        let id = rig.stored(10_000, &Post::new("p", "z").profile("a"));
        drop(hold(&mut rig, Some("x")));
        rig.work();
        // Several pages of the shelf, and one that comes to it where the first page was.
        let big = vec![Post::new("p", vec![0; 60_000]).profile("a"); 110];
        big.iter().for_each(|post| drop(rig.schedule_post(0, post)));
        rig.work();
        drop(hold(&mut rig, None));
        (0..before).for_each(|_| _ = rig.answer_one());
        drop(hold(&mut rig, Some("y")));
        rig.pass(10_000);
        (0..between).for_each(|_| _ = rig.answer_one());
        drop(hold(&mut rig, None));
        (0..after).for_each(|_| _ = rig.answer_one());
        let mut rig = released_after_a_crash(rig);
        assert_ne!(rig.status(id).unwrap().state(), State::Held, "{before}, {between}, {after} steps");
    }
}

#[test]
fn a_release_that_has_begun_is_finished_by_the_next_process() {
    let mut rig = Rig::new();
    drop(hold(&mut rig, Some("x")));
    rig.work();
    rig.stored(0, &Post::new("p", "x").profile("a"));
    drop(hold(&mut rig, None));
    rig.answer_one();
    let mut rig = rig.restart(1_000, |_| {});
    rig.pass(1);
    rig.work();
    assert_eq!(rig.delivered.len(), 1);
    let reply = rig.ask(|promise| Command::Held { place: 0, promise });
    assert!(given(reply).unwrap().unwrap().is_empty());
}

#[test]
fn what_was_held_is_late_when_it_is_released() {
    let mut rig = Rig::with(|pool| pool.catch_up = CatchUp::at_once().spread_over(Duration::from_secs(600)));
    drop(hold(&mut rig, Some("x")));
    (0..10).for_each(|_| _ = rig.stored(1_000, &Post::new("p", "x").profile("a")));
    rig.pass(60_000);
    rig.work();
    assert_eq!(rig.shelf(Shelf::Held).len(), 10);
    drop(hold(&mut rig, None));
    for _ in 0..5 {
        rig.work();
        rig.pass(1_000);
    }
    rig.work();
    assert_eq!(rig.delivered.len(), 1, "the others have their places later");
}

#[test]
fn a_post_on_its_way_to_the_shelf_comes_back_when_its_profile_is_released() {
    let mut rig = Rig::new();
    let id = rig.stored(10_000, &Post::new("p", "x").profile("a"));
    drop(hold(&mut rig, Some("x")));
    rig.work();
    // two commits of others are under way
    drop(rig.schedule(60_000));
    drop(rig.schedule(60_000));
    rig.pass(8_001); // becomes due: shelved, its commit waits
    let reply = hold(&mut rig, None);
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    rig.pass(3_600_000);
    rig.work();
    let state = rig.status(id).unwrap().state();
    assert!(rig.delivered.iter().any(|d| d.id() == id), "stuck: {state:?}");
}

#[test]
fn a_late_error_changes_nothing_about_a_post_on_its_way_to_a_shelf() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &amo());
    let hangs = rig.call();
    rig.end(&hangs, timeout());
    rig.work();
    rig.pass(10_000);
    rig.work();
    let asked = rig.call();
    rig.report(Report {
        ended: vec![attempt(&asked, false, Ending::Reconciled(Reconciled::Unknown))],
        ..Report::default()
    });
    // the move to the shelf is on its way
    late(&mut rig, &hangs, Ending::Answered(Err(BroadcastError::unknown("reset"))));
    assert!(rig.engine.slot(id.seq()).is_some(), "forgotten while its move is under way");
}

#[test]
fn a_late_receipt_counts_also_when_the_doubt_had_been_settled_otherwise() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &amo());
    let hangs = rig.call();
    rig.end(&hangs, timeout());
    rig.work();
    rig.pass(10_000);
    rig.work();
    let asked = rig.call();
    asked.facts().stage.clear_doubt();
    rig.answer(&asked, Err(BroadcastError::transient("503")));
    let resolved = |rig: &Rig| rig.events.iter().filter(|event| matches!(event, Event::Resolved { .. })).count();
    let before = resolved(&rig);
    late(&mut rig, &hangs, Ending::Answered(Ok(Receipt::new("u"))));
    rig.work();
    assert_eq!(resolved(&rig), before, "it was not in doubt any more");
    let outcome = rig.status(id).unwrap().outcome().cloned();
    rig.pass(60_000);
    rig.work();
    assert_eq!(rig.delivered.len(), 0, "sent again although its receipt came: {outcome:?}");
}

#[test]
fn a_late_receipt_counts_also_when_the_shard_has_just_given_the_post_back() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "1").then("2"));
    let hangs = rig.call();
    rig.end(&hangs, timeout());
    rig.work();
    rig.pass(10_000);
    rig.work();
    let again = rig.delivered.pop().unwrap();
    // The shard takes it back, and before that is heard the call that had been given up is answered.
    assert!(again.facts().stage.withdraw());
    late(&mut rig, &hangs, Ending::Answered(Ok(Receipt::new("late"))));
    rig.work();
    let returned = vec![(again, rig.now.wall.after(Duration::from_secs(60)))];
    rig.report(Report { returned, ..Report::default() });
    rig.work();
    rig.pass(120_000);
    rig.work();
    let next = rig.call();
    assert_eq!((next.id(), next.payload(), next.receipts()), (id, &b"2"[..], &[Receipt::new("late")][..]));
}

#[test]
fn a_late_answer_is_about_the_part_that_was_called() {
    let answers = [Ok(Receipt::new("late")), Err(BroadcastError::permanent("400"))];
    for answer in answers {
        let mut rig = Rig::new();
        let id = rig.stored(0, &Post::new("p", "1").then("2"));
        let first = rig.call();
        rig.end(&first, timeout());
        rig.work();
        rig.pass(10_000);
        rig.work();
        let again = rig.call();
        rig.answer(&again, Ok("1"));
        let second = rig.call();
        assert_eq!((second.part(), second.attempt()), (1, 1));
        rig.end(&second, timeout());
        rig.work();
        // The first part is published long since; whether the second is, nobody knows.
        late(&mut rig, &first, Ending::Answered(answer));
        rig.work();
        let status = rig.status(id).unwrap();
        assert!(status.may_be_sent() && status.outcome().is_none());
        rig.pass(10_000);
        rig.work();
        let second = rig.call();
        assert_eq!((second.part(), second.receipts(), second.is_redelivery()), (1, &[Receipt::new("1")][..], true));
    }
}

#[test]
fn a_late_error_that_tells_nothing_settles_nothing() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "x"));
    let hangs = rig.call();
    rig.end(&hangs, timeout());
    rig.work();
    late(&mut rig, &hangs, Ending::Answered(Err(BroadcastError::unknown("reset"))));
    rig.work();
    assert!(rig.status(id).unwrap().may_be_sent());
    rig.pass(10_000);
    rig.work();
    assert!(rig.call().is_redelivery());
}

#[test]
fn a_late_receipt_counts_at_once_while_the_post_waits_for_its_next_attempt_and_where_nothing_comes_after() {
    // It waits for its next attempt.
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "1").then("2"));
    let hangs = rig.call();
    rig.end(&hangs, timeout());
    rig.work();
    late(&mut rig, &hangs, Ending::Answered(Ok(Receipt::new("late"))));
    rig.work();
    let next = rig.call();
    assert_eq!((next.id(), next.part(), next.receipts()), (id, 1, &[Receipt::new("late")][..]));
    assert_eq!(rig.events.iter().filter(|event| matches!(event, Event::Resolved { .. })).count(), 1);
    // It is being called again, and has no other part.
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "x"));
    let hangs = rig.call();
    rig.end(&hangs, timeout());
    rig.work();
    rig.pass(10_000);
    rig.work();
    rig.call();
    late(&mut rig, &hangs, Ending::Answered(Ok(Receipt::new("late"))));
    rig.work();
    assert_eq!(rig.status(id).unwrap().state(), State::Delivered);
}

#[test]
fn no_two_calls_of_a_post_have_the_same_number_and_what_the_host_does_counts_as_a_change() {
    let mut rig = Rig::new();
    let id = rig.stored(0, &Post::new("p", "1").then("2"));
    let mut claims = Vec::new();
    let mut call = |rig: &mut Rig, answer| {
        let delivery = rig.call();
        claims.push(delivery.facts().claim);
        rig.answer(&delivery, answer);
        rig.pass(120_000);
        rig.work();
    };
    call(&mut rig, Err(BroadcastError::throttled("429").retry_after(Duration::from_secs(60))));
    call(&mut rig, Err(BroadcastError::throttled("429").retry_after(Duration::from_secs(60))));
    call(&mut rig, Err(BroadcastError::transient("503")));
    call(&mut rig, Err(BroadcastError::permanent("400")));
    let before = rig.status(id).unwrap().revision();
    rig.wished(id, Wish::Resolve(crate::post::Resolution::SendAgain)).unwrap();
    assert_eq!(rig.status(id).unwrap().revision(), before + 1);
    call(&mut rig, Ok("1"));
    call(&mut rig, Err(BroadcastError::throttled("429").retry_after(Duration::from_secs(60))));
    call(&mut rig, Ok("2"));
    assert!(claims.windows(2).all(|pair| pair[0] < pair[1]), "{claims:?}");
    assert_eq!(rig.status(id).unwrap().state(), State::Delivered);
}

#[test]
fn a_limited_pool_waits_for_the_counting_at_the_start_and_for_no_later_load() {
    let mut rig = Rig::with(|pool| {
        pool.gate =
            Gate::new("p", Rules { pool: vec![RateLimit::rolling(1000, Duration::from_secs(1))], ..Rules::default() });
        pool.is_limited = true;
    });
    rig.stored(16_000, &Post::new("p", "x"));
    rig.pass(14_500);
    rig.work();
    // claimed by now
    rig.pass(1_499);
    while rig.asked.iter().all(|e| !matches!(e, Request::Load { .. })) && rig.now.wall.millis() < 1_900_000_015_999 {
        rig.work();
        rig.pass(1);
    }
    rig.pass(10);
    assert_eq!(rig.delivered.len(), 1, "held up by a load");
}

#[test]
fn checkpoints_are_taken_out_of_the_memory_account_again() {
    let mut rig = Rig::new();
    rig.stored(50_000, &Post::new("p", vec![0; 60_000]));
    let before = rig.engine.sites[0].window.bytes;
    for _ in 0..3 {
        rig.stored(0, &amo());
        let delivery = rig.call();
        let (promise, _reply) = Promise::new();
        rig.report(Report {
            checkpoints: vec![(delivery.clone(), vec![0; 15_000].into(), promise)],
            ..Report::default()
        });
        rig.work();
        rig.answer(&delivery, Ok("u"));
    }
    assert_eq!(rig.engine.sites[0].window.bytes, before);
}

fn preparing(pool: &mut PoolSettings) {
    pool.prepare = Some(PrepareSettings {
        shard: 1,
        lead: Duration::from_secs(30),
        retry: RetryPolicy::exponential(Duration::from_secs(5)),
        or_fail: false,
    });
}
fn prepared(rig: &mut Rig, delivery: &Delivery, result: std::result::Result<Prepared, BroadcastError>) {
    rig.report(Report { prepared: vec![(delivery.clone(), result)], ..Report::default() });
    rig.work();
}

#[test]
fn what_was_prepared_is_taken_out_of_the_memory_account_again() {
    let mut rig = Rig::with(preparing);
    rig.stored(40_000, &Post::new("p", "x"));
    rig.pass(10_000);
    rig.work();
    let d = rig.call();
    prepared(&mut rig, &d, Ok(Prepared::new(vec![0; 9_000]).valid_for(Duration::from_secs(12))));
    for _ in 0..40 {
        rig.pass(1_000);
        rig.work();
        while let Some(d) = rig.delivered.pop() {
            d.facts().stage.call();
            match d.facts().task {
                Task::Prepare => prepared(&mut rig, &d, Err(BroadcastError::permanent("no"))),
                Task::Broadcast => rig.answer(&d, Ok("u")),
                Task::Discard => {}
            }
        }
    }
    assert_eq!(rig.engine.posts.len(), 0);
    assert_eq!(rig.engine.sites[0].window.bytes, 0);
}

#[test]
fn the_next_part_does_not_get_what_was_prepared_for_the_first() {
    let mut rig = Rig::with(preparing);
    rig.stored(40_000, &Post::new("p", "one").then("two"));
    rig.pass(10_000);
    rig.work();
    let d = rig.call();
    assert_eq!(d.payload(), b"one");
    prepared(&mut rig, &d, Ok(Prepared::new("media of one")));
    rig.pass(30_000);
    rig.work();
    let one = rig.call();
    rig.answer(&one, Ok("u"));
    let two = rig.call();
    assert_eq!(two.payload(), b"two");
    assert_eq!(two.prepared(), None);
}

#[test]
fn a_doubt_that_cannot_be_settled_is_not_asked_about_in_a_loop() {
    let mut rig = Rig::new();
    rig.stored(0, &amo());
    let mut d = rig.call();
    let mut at_once = 0;
    for _ in 0..30 {
        ended(&mut rig, &d, true, Ending::Panicked { message: "reconcile".into() });
        rig.pass(1);
        rig.work();
        if rig.delivered.is_empty() {
            rig.pass(1_000_000);
            rig.work();
        } else {
            at_once += 1;
        }
        d = rig.call();
    }
    assert!(at_once < 3, "{at_once} at once, attempt {}", d.attempt());
}

#[test]
fn of_two_deadlines_the_earlier_one_holds() {
    let due = Timestamp::from_millis(1_900_000_000_000);
    let body = crate::post::Body::encode(
        &Post::new("p", "x")
            .expires_after(Duration::from_secs(3_600))
            .not_later_than(due.after(Duration::from_secs(5)).to_datetime()),
    );
    assert_eq!(body.deadline(due), Some(due.after(Duration::from_secs(5))));
}

#[test]
fn listings_are_bounded() {
    let mut rig = Rig::new();
    let mut replies = Vec::new();
    while rig.engine.takes_commands() && replies.len() < 40_000 {
        replies.push(rig.ask(|promise| Command::List { place: 0, shelf: Shelf::Dead, after: None, promise }));
    }
    assert!(rig.asked.len() <= limits::REQUESTS, "{} requests of at most {}", rig.asked.len(), limits::REQUESTS);
}

#[test]
fn late_posts_in_order_are_spread_too() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.stored(10_000, &Post::new("p", "x").profile("a").in_order());
    }
    let mut rig =
        rig.restart(3_600_000, |pool| pool.catch_up = CatchUp::at_once().spread_over(Duration::from_secs(600)));
    let mut sent = 0;
    for _ in 0..10 {
        while let Some(d) = rig.delivered.pop() {
            d.facts().stage.call();
            rig.answer(&d, Ok("u"));
            sent += 1;
        }
    }
    assert!(sent < 3, "{sent} of 5 at once");
}

#[test]
fn a_post_that_was_held_when_it_was_to_be_prepared_is_prepared_after_the_release() {
    let mut rig = Rig::with(preparing);
    rig.stored(40_000, &Post::new("p", "x").profile("a"));
    drop(hold(&mut rig, Some("x")));
    rig.work();
    rig.pass(10_000);
    rig.work();
    drop(hold(&mut rig, None));
    rig.work();
    rig.pass(10_000);
    rig.work();
    assert_eq!(rig.delivered.len(), 1, "never prepared");
}

#[test]
fn a_post_that_waits_to_be_prepared_is_not_late_for_it() {
    let mut rig = Rig::with(preparing);
    rig.stored(40_000, &Post::new("p", "x"));
    rig.pass(10_000);
    rig.work();
    let waits = rig.delivered.pop().unwrap(); // stands in the queue behind other uploads
    assert!(waits.facts().stage.is_waiting());
    rig.pass(60_000);
    rig.work();
    assert!(!rig.delivered.is_empty(), "30 s late and not sent");
}
#[test]
fn a_question_that_is_not_authorised_holds_the_profile() {
    let mut rig = Rig::new();
    rig.stored(0, &amo().profile("a"));
    let d = rig.call();
    rig.end(&d, timeout());
    rig.work();
    rig.pass(10_000);
    rig.work();
    let d = rig.call();
    ended(&mut rig, &d, false, Ending::Unreconciled(BroadcastError::unauthorized("401")));
    assert!(rig.engine.sites[0].held.contains_key("a"));
}

/// A rig whose pool spreads what is late, and a post that waits for that.
fn spreading() -> (Rig, PostId) {
    let mut rig = Rig::with(|pool| pool.catch_up = CatchUp::at_once().spread_over(Duration::from_secs(10)));
    let reply = rig.ask(|promise| Command::Pause { place: 0, paused: true, promise });
    rig.work();
    drop(reply);
    let id = rig.stored(1_000, &Post::new("p", "x"));
    rig.pass(10_000);
    rig.work();
    while rig.asked.iter().all(|request| !matches!(request, Request::Load { .. })) {
        rig.work();
        rig.pass(100);
    }
    let _r = rig.ask(|promise| Command::Pause { place: 0, paused: false, promise });
    assert_eq!(rig.engine.sites[0].late.len(), 1);
    (rig, id)
}

#[test]
fn a_late_post_that_is_given_another_due_keeps_to_it() {
    let (mut rig, id) = spreading();
    let due = Timestamp::from_millis(rig.now.wall.millis() + 30_000);
    let reply = rig.wish(id, Wish::Reschedule(due));
    rig.work();
    assert!(given(reply).unwrap().is_ok());
    for _ in 0..12 {
        rig.pass(1_000);
        rig.work();
    }
    assert!(rig.delivered.is_empty(), "went out early");
}

#[test]
fn a_release_keeps_the_order_of_due_over_all_pages() {
    let mut rig = Rig::new();
    rig.engine.settings.memory = 1 << 30;
    drop(hold(&mut rig, Some("x")));
    rig.work();
    let b = rig.stored(2_000, &Post::new("p", vec![0; 60_000]).profile("a").in_order());
    for _ in 0..400 {
        rig.stored(1_900, &Post::new("p", vec![0; 60_000]).profile("a"));
    }
    let a = rig.stored(1_000, &Post::new("p", "a").profile("a").in_order());
    rig.pass(3_000);
    rig.work();
    assert_eq!(rig.status(a).unwrap().state(), State::Held);
    drop(hold(&mut rig, None));
    rig.work();
    let order: Vec<_> = rig.delivered.iter().map(|d| d.id()).filter(|id| *id == a || *id == b).collect();
    assert_eq!(order.first(), Some(&a), "the later one went first, of {}", rig.delivered.len());
}

#[test]
fn what_was_called_is_in_doubt_whatever_the_clock_does_afterwards() {
    let mut rig = Rig::new();
    rig.stored(10_000, &amo());
    rig.pass(8_000);
    rig.work();
    rig.pass(2_000);
    rig.call();
    rig.now.wall = rig.now.wall.before(Duration::from_millis(1_000));
    let mut rig = rig.restart(500, |_| {});
    rig.pass(600);
    rig.work();
    let d = rig.call();
    assert_eq!(d.facts().doubt(), Doubt::Open, "a silent repeat");
}

#[test]
fn what_is_spread_is_not_early_when_the_clock_steps_back() {
    let (mut rig, _) = spreading();
    rig.now.wall = rig.now.wall.before(Duration::from_secs(60));
    for _ in 0..30 {
        rig.pass(1_000);
        rig.work();
    }
    assert!(rig.delivered.is_empty(), "went out early");
    (0..30).for_each(|_| {
        rig.pass(1_000);
        rig.work();
    });
    assert_eq!(rig.delivered.len(), 1);
}

#[test]
fn a_post_in_order_that_was_left_to_the_store_is_not_overtaken() {
    let mut rig = Rig::new();
    let [first, second] =
        [1_000, 1_500].map(|due| rig.stored(due, &Post::new("p", due.to_string()).profile("a").in_order()));
    for _ in 0..30 {
        rig.stored(1_900, &Post::new("p", vec![0; 60_000]));
    }
    rig.pass(1_000);
    rig.work();
    let delivery = rig.call();
    assert_eq!(delivery.id(), first);
    rig.answer(&delivery, Err(BroadcastError::transient("503")));
    rig.work();
    assert!(rig.engine.slot(first.seq()).is_none(), "it was not left to the store: a test of nothing");
    let mut order = Vec::new();
    for _ in 0..600 {
        rig.pass(100);
        rig.work();
        for delivery in std::mem::take(&mut rig.delivered) {
            order.push(delivery.id());
            delivery.facts().stage.call();
            rig.answer(&delivery, Ok("sent"));
            rig.work();
        }
    }
    let place = |id| order.iter().position(|other| *other == id);
    assert!(place(first).is_some() && place(first) < place(second), "{:?} {:?}", place(first), place(second));
}

#[test]
fn a_post_in_order_whose_claim_stands_is_not_sent_before_what_is_not_in_memory_yet() {
    let mut rig = Rig::new();
    let post = || Post::new("p", "x").profile("a").in_order();
    let later = rig.stored(10_000, &post());
    rig.pass(8_500);
    rig.work();
    let first = rig.stored(1_000, &post());
    let now = Now { wall: rig.now.wall.before(Duration::from_secs(3_600)), ..rig.now };
    let mut rig = Rig::on(rig.store.clone(), now, |_| {});
    // A change that is refused takes the later one into memory, claimed as it is.
    let stale = PostRef::from(later).at_revision(7);
    let reply = rig.ask(|promise| Command::Change { post: stale, wish: Wish::Cancel, promise });
    rig.work();
    assert!(given(reply).unwrap().is_err());
    assert_eq!(rig.engine.posts.iter().next().map(|(_, post)| post.phase), Some(Phase::Claimed), "a test of nothing");
    // The machine was suspended over both dues.
    rig.now.wall = rig.now.wall.after(Duration::from_secs(7_200));
    rig.turn();
    let mut sent = Vec::new();
    for _ in 0..4 {
        while !rig.delivered.is_empty() {
            let delivery = rig.call();
            sent.push(delivery.id());
            rig.answer(&delivery, Ok("u"));
        }
        rig.work();
        rig.pass(1);
    }
    assert_eq!(sent, [first, later]);
}

#[test]
fn a_post_in_order_that_comes_after_the_clock_stepped_back_is_not_overtaken_by_one_handed_over_before() {
    let mut rig = Rig::new();
    let in_order = || Post::new("p", "x").profile("a").in_order();
    let later = rig.stored(1_000, &in_order());
    rig.pass(1_000);
    rig.work();
    let early = rig.delivered.pop().unwrap();
    assert_eq!(early.id(), later);
    rig.now.wall = rig.now.wall.before(Duration::from_secs(60));
    let sooner = rig.stored(500, &in_order());
    assert!(!early.facts().stage.call(), "it was not taken back");
    for id in [sooner, later] {
        (0..700).for_each(|_| {
            rig.pass(100);
            rig.work();
        });
        let delivery = rig.call();
        assert_eq!(delivery.id(), id);
        rig.answer(&delivery, Ok("sent"));
        rig.work();
    }
}

#[test]
fn changes_are_made_in_the_order_in_which_they_were_asked_for_wherever_the_post_is_meanwhile() {
    let far = 50_000_000;
    for first in ["k", "its id"] {
        for answers in 0..4 {
            let mut rig = Rig::new();
            let id = rig.stored(far, &Post::new("p", "x").key("k"));
            let post = if first == "k" { PostRef::from("k") } else { id.into() };
            let dues = [1, 2, 3].map(|n| rig.now.wall.after(Duration::from_millis(far as u64 + n)));
            let wish = Wish::Reschedule(dues[0]);
            let first = rig.ask(|promise| Command::Change { post, wish, promise });
            let second = rig.wish(id, Wish::Reschedule(dues[1]));
            // The store has found the post for the first, and not yet for the second.
            for _ in 0..answers {
                rig.answer_one();
            }
            let third = rig.wish(id, Wish::Reschedule(dues[2]));
            let status = rig.ask(|promise| Command::Get { post: id.into(), promise });
            rig.work();
            assert!([first, second, third].into_iter().all(|reply| given(reply).unwrap().is_ok()));
            let due = given(status).unwrap().unwrap().unwrap().due();
            assert_eq!([due, rig.status(id).unwrap().due()], [dues[2].to_datetime(); 2], "after {answers} answers");
        }
    }
}
