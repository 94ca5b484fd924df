use super::*;
use crate::gate::Rules;
use crate::id::{PostId, Seq};
use crate::post::{Body, Doubt, Facts, Guarantee, Notes, Post, Priority, Stage, Task};
use crate::quota::RateLimit;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

const TIMEOUT: Duration = Duration::from_secs(10);

fn now(ms: i64) -> Now {
    let mono = Duration::from_millis(ms as u64);
    Now { wall: Timestamp::from_millis(ms), mono, machine: mono }
}

fn dated(seq: u64, at_ms: i64, deadline_ms: Option<i64>, post: &Post) -> Delivery {
    Delivery::new(Facts {
        claim: 1,
        last: None,
        id: PostId::new(1, Seq(seq)),
        slot: seq as u32,
        pool: "p".into(),
        task: Task::Broadcast,
        due: Timestamp::from_millis(at_ms),
        at: Timestamp::from_millis(at_ms),
        since: Timestamp::from_millis(at_ms),
        deadline: deadline_ms.map(Timestamp::from_millis),
        attempt: 1,
        is_allowed: true,
        doubt: Doubt::None,
        guarantee: Guarantee::AtLeastOnce,
        notes: Notes::default(),
        body: Body::encode(post),
        stage: Stage::default(),
    })
}

fn delivery(seq: u64, at_ms: i64, post: &Post) -> Delivery {
    dated(seq, at_ms, None, post)
}

fn plain(seq: u64, at_ms: i64) -> Delivery {
    delivery(seq, at_ms, &Post::new("p", ""))
}

fn of(profile: &str, seq: u64, at_ms: i64) -> Delivery {
    delivery(seq, at_ms, &Post::new("p", "").profile(profile))
}

fn open(concurrency: usize) -> Shard {
    Shard::new(concurrency, TIMEOUT, Gate::new("p", Rules::default()))
}

fn number(delivery: &Delivery) -> u64 {
    delivery.id().seq().0
}

fn start_all(shard: &mut Shard, now: Now) -> Vec<u64> {
    std::iter::from_fn(|| shard.poll_start(now)).map(|(_, d)| number(&d)).collect()
}

fn missed(shard: &mut Shard, now: Now) -> Vec<u64> {
    std::iter::from_fn(|| shard.poll_missed(now)).map(|d| number(&d)).collect()
}

fn returned(shard: &mut Shard, now: Now) -> Vec<(u64, i64)> {
    std::iter::from_fn(|| shard.poll_returned(now)).map(|(d, until)| (number(&d), until.millis())).collect()
}

fn recalled(shard: &mut Shard) -> Vec<u64> {
    let mut all: Vec<u64> = shard.recall_all().iter().map(number).collect();
    all.sort_unstable();
    all
}

#[test]
fn higher_priority_goes_first_then_earlier_due_then_earlier_arrival() {
    let mut shard = open(9);
    shard.push(plain(3, 10));
    shard.push(plain(2, 10));
    shard.push(plain(4, 5));
    shard.push(delivery(9, 20, &Post::new("p", "").priority(Priority::HIGH)));
    shard.push(delivery(1, 1, &Post::new("p", "").priority(Priority::LOW)));
    assert_eq!(start_all(&mut shard, now(100)), [9, 4, 2, 3, 1]);
}

#[test]
fn two_minutes_of_waiting_are_worth_the_step_from_low_to_high() {
    for (later, first) in [(119_999, 2), (120_000, 2), (120_001, 1)] {
        let mut shard = open(9);
        shard.push(delivery(1, 0, &Post::new("p", "").priority(Priority::LOW)));
        shard.push(delivery(2, later, &Post::new("p", "").priority(Priority::HIGH)));
        assert_eq!(start_all(&mut shard, now(300_000))[0], first, "{later} ms later");
    }
}

#[test]
fn a_profile_with_very_many_posts_holds_up_no_other_by_more_than_one() {
    let mut shard = open(usize::MAX);
    (0..100_000).for_each(|seq| shard.push(of("busy", seq, 0)));
    (0..10).for_each(|_| drop(shard.poll_start(now(1))));
    shard.push(of("quiet", 200_000, 1));
    shard.push(plain(200_001, 1));
    let order: Vec<u64> = (0..4).filter_map(|_| shard.poll_start(now(1))).map(|(_, d)| number(&d)).collect();
    assert_eq!(order, [200_000, 200_001, 10, 11]);
}

#[test]
fn no_more_run_than_the_concurrency_allows() {
    let mut shard = open(2);
    (0..5).for_each(|seq| shard.push(plain(seq, 0)));
    let (first, _) = shard.poll_start(now(1)).unwrap();
    assert_eq!(start_all(&mut shard, now(1)), [1]);
    let ended = shard.finish(first).unwrap();
    assert_eq!((number(&ended.delivery), ended.entered), (0, now(1).wall));
    assert_eq!(start_all(&mut shard, now(1)), [2]);
}

#[test]
fn a_delivery_waits_if_the_wall_clock_has_stepped_back_before_its_due() {
    let mut shard = open(9);
    shard.push(plain(1, 50));
    assert!(shard.poll_start(now(49)).is_none());
    assert_eq!(shard.poll_timeout().wall, Some(Timestamp::from_millis(50)));
    assert_eq!(start_all(&mut shard, now(50)), [1]);
}

#[test]
fn a_delivery_out_of_time_is_given_up_and_its_late_end_is_ignored() {
    let mut shard = open(1);
    shard.push(plain(1, 0));
    shard.push(plain(2, 0));
    let (token, _) = shard.poll_start(now(0)).unwrap();
    assert_eq!(shard.poll_timeout().mono, Some(TIMEOUT));
    assert!(shard.poll_expired(now(9_999)).is_none());
    assert_eq!(number(&shard.poll_expired(now(10_000)).unwrap().delivery), 1);
    assert_eq!(start_all(&mut shard, now(10_000)), [2], "its place is free");
    assert!(shard.finish(token).is_none(), "the place belongs to another by now");
    assert_eq!(shard.running(), 1);
}

#[test]
fn a_sign_of_life_begins_the_timeout_anew() {
    let mut shard = open(3);
    (1..=3).for_each(|seq| shard.push(plain(seq, 0)));
    let tokens: Vec<Token> = (0..3).map(|ms| shard.poll_start(now(ms)).unwrap().0).collect();
    assert_eq!(Token::from(<(usize, u64)>::from(tokens[1])), tokens[1]);
    assert!(shard.extend(tokens[0], now(9_000)));
    let expired = |shard: &mut Shard, ms| shard.poll_expired(now(ms)).map(|ended| number(&ended.delivery));
    assert_eq!(expired(&mut shard, 12_000), Some(2));
    assert!(!shard.extend(tokens[1], now(12_000)), "it was given up");
    assert_eq!(expired(&mut shard, 12_000), Some(3));
    assert_eq!(expired(&mut shard, 18_999), None);
    assert_eq!(shard.poll_timeout().mono, Some(Duration::from_secs(19)));
    assert_eq!(expired(&mut shard, 19_000), Some(1));
}

#[test]
fn what_was_withdrawn_never_starts_and_is_given_to_nobody() {
    let mut shard = open(9);
    let deliveries =
        [plain(1, 0), of("a", 2, 0), of("a", 3, 0), dated(4, 0, Some(5), &Post::new("p", "")), plain(5, 90)];
    deliveries.iter().for_each(|delivery| shard.push(delivery.clone()));
    deliveries.iter().for_each(|delivery| assert!(delivery.facts().stage.withdraw()));
    assert_eq!(missed(&mut shard, now(10)), []);
    assert_eq!(start_all(&mut shard, now(10)), []);
    assert_eq!(recalled(&mut shard), []);
}

#[test]
fn everything_that_waits_is_recalled_and_what_runs_is_not() {
    let mut shard = Shard::new(1, TIMEOUT, Gate::new("p", Rules::default()));
    (1..=2).for_each(|seq| shard.push(of("a", seq, 0)));
    shard.push(plain(3, 0));
    shard.push(plain(4, 500));
    let (token, _) = shard.poll_start(now(1)).unwrap();
    assert_eq!(recalled(&mut shard), [2, 3, 4]);
    assert_eq!(shard.started().map(number).collect::<Vec<_>>(), [1]);
    shard.finish(token).unwrap();
    assert_eq!(start_all(&mut shard, now(1_000)), []);
    assert_eq!(shard.poll_timeout(), Wake::default());
}

#[test]
fn one_that_waited_past_its_deadline_leaves_as_missed() {
    let mut shard = open(1);
    let post = Post::new("p", "");
    shard.push(plain(0, 0));
    shard.push(dated(1, 0, Some(100), &post));
    shard.push(dated(2, 0, Some(50), &post.clone().profile("a")));
    shard.push(dated(3, 0, Some(70), &post.profile("a")));
    let (token, _) = shard.poll_start(now(0)).unwrap();
    assert_eq!(missed(&mut shard, now(50)), [], "at its deadline it is not too late");
    assert_eq!(shard.poll_timeout().wall, Some(Timestamp::from_micros(50_001)));
    assert_eq!(missed(&mut shard, now(51)), [2]);
    assert_eq!(missed(&mut shard, now(101)), [3, 1]);
    shard.finish(token);
    assert_eq!(start_all(&mut shard, now(101)), []);
    assert_eq!(shard.poll_timeout(), Wake::default());
}

#[test]
fn a_started_one_is_not_missed_and_wakes_nobody() {
    let mut shard = open(2);
    shard.push(dated(1, 0, Some(50), &Post::new("p", "")));
    assert_eq!(start_all(&mut shard, now(0)), [1]);
    assert_eq!(shard.poll_timeout().wall, None);
    assert_eq!(missed(&mut shard, now(51)), []);
}

fn limited(profile: Option<(u32, u64)>, pool: Option<(u32, u64)>) -> Gate {
    let limits = |of: Option<(u32, u64)>| {
        of.map(|(max, ms)| RateLimit::rolling(max, Duration::from_millis(ms))).into_iter().collect()
    };
    Gate::new("p", Rules { profile: limits(profile), pool: limits(pool), ..Rules::default() })
}

#[test]
fn a_blocked_profile_is_set_aside_in_order_and_the_others_go_on() {
    let mut shard = Shard::new(9, TIMEOUT, limited(Some((1, 1_000)), None));
    (1..=3).for_each(|seq| shard.push(of("a", seq, 0)));
    shard.push(of("b", 4, 5));
    shard.push(plain(5, 6));
    shard.push(plain(6, 7));
    assert_eq!(start_all(&mut shard, now(10)), [1, 4, 5, 6]);
    assert_eq!(shard.poll_timeout().wall, Some(Timestamp::from_millis(1_010)));
    assert_eq!(returned(&mut shard, now(10)), []);
    assert_eq!(start_all(&mut shard, now(1_009)), []);
    shard.push(of("a", 7, 0));
    assert_eq!(start_all(&mut shard, now(1_010)), [2]);
    assert_eq!(start_all(&mut shard, now(2_010)), [3]);
    assert_eq!(start_all(&mut shard, now(3_010)), [7]);
}

#[test]
fn a_full_pool_stops_the_whole_shard_until_it_is_not() {
    let mut shard = Shard::new(9, TIMEOUT, limited(None, Some((2, 1_000))));
    (1..=4).for_each(|seq| shard.push(plain(seq, 0)));
    assert_eq!(start_all(&mut shard, now(0)), [1, 2]);
    assert_eq!(shard.poll_timeout().wall, Some(Timestamp::from_millis(1_000)));
    assert_eq!(start_all(&mut shard, now(999)), []);
    assert_eq!(start_all(&mut shard, now(1_000)), [3, 4]);
}

#[test]
fn what_is_blocked_for_long_goes_back_to_the_engine() {
    let mut shard = Shard::new(9, TIMEOUT, limited(Some((1, 60_000)), None));
    (1..=3).for_each(|seq| shard.push(of("a", seq, 0)));
    assert_eq!(start_all(&mut shard, now(0)), [1]);
    assert_eq!(returned(&mut shard, now(0)), [(2, 60_000), (3, 60_000)]);
    shard.push(of("a", 4, 0));
    assert_eq!(start_all(&mut shard, now(54_000)), []);
    assert_eq!(returned(&mut shard, now(54_000)), [(4, 60_000)]);
    shard.push(of("a", 5, 0));
    assert_eq!(start_all(&mut shard, now(55_000)), []);
    assert_eq!(returned(&mut shard, now(55_000)), [], "it is worth waiting for");
    assert_eq!(start_all(&mut shard, now(60_000)), [5]);

    let mut shard = Shard::new(9, TIMEOUT, limited(None, Some((1, 60_000))));
    shard.push(plain(1, 0));
    shard.push(of("a", 2, 1));
    shard.push(plain(3, 2));
    assert_eq!(start_all(&mut shard, now(10)), [1]);
    assert_eq!(returned(&mut shard, now(10)), [(2, 60_010), (3, 60_010)]);
    shard.push(of("a", 4, 1));
    assert_eq!(returned(&mut shard, now(20)), [(4, 60_010)]);
}

#[test]
fn a_change_of_the_limits_lets_everything_try_again() {
    let gate = limited(Some((1, 60_000)), Some((3, 60_000)));
    let mut shard = Shard::new(9, TIMEOUT, gate.clone());
    (1..=3).for_each(|seq| shard.push(of("a", seq, 0)));
    assert_eq!(start_all(&mut shard, now(0)), [1]);
    gate.set_limits(Scope::Profile, None, Vec::new());
    assert_eq!(start_all(&mut shard, now(1)), []);
    shard.look();
    assert_eq!(start_all(&mut shard, now(1)), [2, 3]);
    shard.push(plain(4, 0));
    assert_eq!(start_all(&mut shard, now(1)), []);
    gate.set_limits(Scope::Pool, None, Vec::new());
    shard.look();
    assert_eq!(start_all(&mut shard, now(1)), [4]);
}

#[test]
fn what_has_gone_leaves_no_memory_behind() {
    let mut shard = open(1);
    shard.push(plain(0, 0));
    let (token, _) = shard.poll_start(now(0)).unwrap();
    for seq in 1..50_000u64 {
        let profile = if seq % 2 == 0 { String::new() } else { seq.to_string() };
        shard.push(dated(seq, 0, Some(seq as i64), &Post::new("p", "").profile(profile)));
        assert_eq!(missed(&mut shard, now(seq as i64 + 1)), [seq]);
    }
    assert!(shard.waiting.size() < 20_000, "{}", shard.waiting.size());
    shard.finish(token);
    // Profiles that come and go, while one post always waits.
    let mut shard = open(usize::MAX);
    (0..2).for_each(|seq| shard.push(plain(seq, 0)));
    for seq in 2..300_000u64 {
        shard.push(dated(seq, 0, Some(1_000_000), &Post::new("p", "").profile(seq.to_string())));
        let (token, _) = shard.poll_start(now(1)).unwrap();
        shard.finish(token).unwrap();
    }
    assert!(shard.waiting.size() < 200_000, "{}", shard.waiting.size());
}

/// What happens to a shard.
#[derive(Clone, Debug)]
enum Op {
    /// Profile (0: none), priority, due in ms from now, deadline in ms from now.
    Push(u8, u8, i64, Option<i64>),
    Start(usize),
    Finish(usize),
    Extend(usize),
    Withdraw(u64),
    /// In ms; back, if negative.
    Pass(i64),
    Look,
}

fn op() -> impl Strategy<Value = Op> {
    let priority = prop::sample::select(vec![64u8, 128, 192]);
    let deadline = prop::option::weighted(0.2, 0i64..4_000);
    prop_oneof![
        12 => (0u8..5, priority, -9i64..9, deadline).prop_map(|(of, priority, due, by)| Op::Push(of, priority, due, by)),
        8 => (1usize..9).prop_map(Op::Start),
        6 => (0usize..9).prop_map(Op::Finish),
        1 => (0usize..9).prop_map(Op::Extend),
        2 => (0u64..60).prop_map(Op::Withdraw),
        4 => prop_oneof![4 => 0i64..3_000, 1 => -500i64..0].prop_map(Op::Pass),
        1 => Just(Op::Look),
    ]
}

/// Of a profile: what waits, the turns that each other has had since the first of it came first, and how many it may.
type Waits = (Vec<u64>, HashMap<String, usize>, usize);

proptest! {
    /// Whatever happens, everything pushed ends in exactly one way: it is started, missed, returned, recalled, or
    /// dropped because it was withdrawn. None starts early, none beyond the concurrency, no more of a profile or of
    /// all than the limits allow; and who looks when he is told to finds all of it done in the end.
    #[test]
    fn everything_pushed_ends_in_exactly_one_way(
        ops in prop::collection::vec(op(), 1..250), concurrency in 1usize..5, secs in prop::option::of(1u64..20), pool in prop::option::of(1u32..9),
        ends_by_recall: bool,
    ) {
        let profile_limit = secs.map(|secs| (2, secs * 1_000));
        let gate = limited(profile_limit, pool.map(|max| (max, 2_000)));
        let mut shard = Shard::new(concurrency, TIMEOUT, gate.clone());
        let (mut wall, mut mono) = (1_000_000i64, 0i64);
        let mut pushed: Vec<Delivery> = Vec::new();
        let mut ends: BTreeMap<u64, &str> = BTreeMap::new();
        let mut running: Vec<(Token, i64)> = Vec::new();
        fn end(ends: &mut BTreeMap<u64, &'static str>, delivery: &Delivery, how: &'static str) {
            assert_eq!(ends.insert(number(delivery), how), None, "{how} after another end");
        }
        macro_rules! turn {
            ($starts:expr) => {{
                let now = Now { wall: Timestamp::from_millis(wall), ..now(mono) };
                while let Some(ended) = shard.poll_expired(now) {
                    prop_assert!(running.iter().any(|(token, since)| *token == ended.token && mono - since >= 10_000));
                    running.retain(|(token, _)| *token != ended.token);
                }
                prop_assert!(running.iter().all(|(_, since)| mono - since < 10_000));
                while let Some(delivery) = shard.poll_missed(now) {
                    prop_assert!(delivery.facts().deadline.unwrap() < now.wall && !delivery.facts().stage.is_withdrawn());
                    end(&mut ends, &delivery, "missed");
                }
                let mut starts: usize = $starts;
                while starts > 0 {
                    starts -= 1;
                    let Some((token, delivery)) = shard.poll_start(now) else { break };
                    prop_assert!(delivery.facts().at <= now.wall && !delivery.facts().stage.is_withdrawn());
                    end(&mut ends, &delivery, "started");
                    running.push((token, mono));
                    prop_assert!(running.len() <= concurrency);
                    prop_assert!(shard.is_running(token));
                }
                while let Some((delivery, until)) = shard.poll_returned(now) {
                    prop_assert!(until > now.wall.after(limits::GIVE_BACK) && !delivery.facts().stage.is_withdrawn());
                    end(&mut ends, &delivery, "returned");
                }
            }};
        }
        for op in ops {
            match op {
                Op::Push(profile, priority, due, by) => {
                    let profile = if profile == 0 { String::new() } else { profile.to_string() };
                    let post = Post::new("p", "").profile(profile).priority(Priority::new(priority));
                    let delivery = dated(pushed.len() as u64, wall + due, by.map(|by| wall + due + by), &post);
                    // Some are handed over ahead; others were due when they were, and then the clock stepped back.
                    if due > 0 && pushed.len().is_multiple_of(2) {
                        shard.keep(delivery.clone());
                    } else {
                        shard.push(delivery.clone());
                    }
                    pushed.push(delivery);
                }
                Op::Start(most) => turn!(most),
                Op::Finish(index) if !running.is_empty() => {
                    let (token, _) = running.swap_remove(index % running.len());
                    prop_assert!(shard.finish(token).is_some() && shard.finish(token).is_none());
                }
                Op::Extend(index) if !running.is_empty() => {
                    let index = index % running.len();
                    prop_assert!(shard.extend(running[index].0, now(mono)));
                    running[index].1 = mono;
                }
                Op::Withdraw(seq) => {
                    if let Some(delivery) = pushed.get(seq as usize).filter(|delivery| !ends.contains_key(&number(delivery))) {
                        delivery.facts().stage.withdraw();
                    }
                }
                Op::Pass(ms) => {
                    wall += ms;
                    mono += ms.max(0);
                    turn!(0);
                }
                Op::Look => shard.look(),
                _ => {}
            }
            prop_assert_eq!(shard.running(), running.len());
        }
        if ends_by_recall {
            for delivery in shard.recall_all() {
                prop_assert!(!delivery.facts().stage.is_withdrawn());
                end(&mut ends, &delivery, "recalled");
            }
        }
        // From now on the shard is looked at when it says, and everything that runs ends at once.
        let mut turns = 0;
        loop {
            turn!(usize::MAX);
            for (token, _) in running.drain(..) {
                shard.finish(token).unwrap();
            }
            turn!(usize::MAX);
            if running.is_empty() {
                let Some(wake) = shard.poll_timeout().wall else { break };
                prop_assert!(wake.micros() > wall * 1_000, "it asks to be looked at again and again");
                mono += wake.ceil_millis().millis() - wall;
                wall = wake.ceil_millis().millis();
            }
            turns += 1;
            prop_assert!(turns < 10_000);
        }
        for delivery in &pushed {
            let has_ended = ends.contains_key(&number(delivery));
            prop_assert!(has_ended != delivery.facts().stage.is_withdrawn(), "{} {:?}", number(delivery), ends.get(&number(delivery)));
        }
    }

    /// Within one priority: between the arrival of a profile's only post and its start, no other profile has more than
    /// one turn; two, if the post's profile had one itself just before. And one profile's posts start as they came.
    #[test]
    fn no_profile_has_two_turns_while_another_waits_for_its_first(
        ops in prop::collection::vec((0u8..8, 0usize..6, -5i64..5), 1..400), gap in prop::option::of(1u64..40),
    ) {
        let gate = limited(gap.map(|ms| (1, ms)), None);
        let mut shard = Shard::new(usize::MAX, TIMEOUT, gate);
        let mut time = 1_000;
        let mut waiting: HashMap<String, Waits> = HashMap::new();
        let mut has_started: HashMap<String, bool> = HashMap::new();
        for (seq, (profile, starts, due)) in (0u64..).zip(ops) {
            let name = if profile == 0 { format!("single {seq}") } else { profile.to_string() };
            let post = Post::new("p", "").profile(if profile == 0 { "" } else { &name });
            shard.push(delivery(seq, time + due - 5, &post));
            let allowed = 1 + usize::from(has_started.contains_key(&name));
            waiting.entry(name).or_insert_with(|| (Vec::new(), HashMap::new(), allowed)).0.push(seq);
            for _ in 0..starts {
                let Some((_, delivery)) = shard.poll_start(now(time)) else { break };
                let number = number(&delivery);
                let name = if delivery.profile().is_empty() { format!("single {number}") } else { delivery.profile().to_owned() };
                has_started.insert(name.clone(), true);
                let (mine, ..) = waiting.get_mut(&name).unwrap();
                prop_assert_eq!(mine.remove(0), number, "out of order");
                if mine.is_empty() {
                    waiting.remove(&name);
                } else if let Some((_, since, allowed)) = waiting.get_mut(&name) {
                    since.clear();
                    *allowed = 2;
                }
                for (other, (_, since, allowed)) in waiting.iter_mut().filter(|(other, _)| **other != name) {
                    let turns = since.entry(name.clone()).or_default();
                    *turns += 1;
                    // With a limit the other may have been blocked.
                    prop_assert!(gap.is_some() || *turns <= *allowed, "{} before {}", name, other);
                }
            }
            time += 1 + due.abs();
        }
    }
}
