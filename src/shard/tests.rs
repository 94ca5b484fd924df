use super::model::{Op, Pair, TIMEOUT, dated, limited, now, number, take_turns};
use super::*;
use crate::gate::Rules;
use crate::post::{Post, Priority};
use proptest::prelude::*;

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
    shard.push(plain(8, 20));
    assert_eq!(start_all(&mut shard, now(1_009)), [8], "others go on while it is set aside");
    shard.push(of("a", 7, 0));
    assert_eq!(start_all(&mut shard, now(1_010)), [2]);
    assert_eq!(start_all(&mut shard, now(2_010)), [3]);
    assert_eq!(start_all(&mut shard, now(3_010)), [7]);
}

#[test]
fn a_turn_counts_in_its_own_round_only() {
    let mut shard = open(1);
    // As long as anything waits it is known who had a turn.
    shard.push(delivery(9, 9, &Post::new("p", "").priority(Priority::LOW)));
    let mut start = |of: &[Delivery]| {
        of.iter().for_each(|delivery| shard.push(delivery.clone()));
        let (token, delivery) = shard.poll_start(now(10)).unwrap();
        shard.finish(token);
        number(&delivery)
    };
    assert_eq!(start(&[of("a", 1, 0), of("a", 2, 0), of("b", 3, 1)]), 1);
    assert_eq!([start(&[]), start(&[])], [3, 2], "in the second round it is a's turn again");
    assert_eq!(start(&[of("b", 4, 2), of("c", 5, 3)]), 4, "b had its turn in the first");
    assert_eq!(start(&[]), 5);
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
fn what_stays_among_very_many_that_have_gone_stays_in_its_order() {
    let mut shard = open(usize::MAX);
    let stays = |seq: &u64| seq.is_multiple_of(6);
    for seq in 0..6_000u64 {
        let deadline = (!stays(&seq)).then_some(seq as i64 + 10);
        shard.push(dated(seq, seq as i64, deadline, &Post::new("p", "")));
    }
    let gone = missed(&mut shard, now(20_000));
    assert!(gone.into_iter().eq((0..6_000).filter(|seq| !stays(seq))));
    assert!(start_all(&mut shard, now(20_000)).into_iter().eq((0..6_000).filter(stays)));
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

proptest! {
    /// Whatever happens, everything pushed ends in exactly one way: it is started, missed, returned, recalled, or
    /// dropped because it was withdrawn. None starts early, none beyond the concurrency, no more of a profile or of
    /// all than the limits allow; and who looks when he is told to finds all of it done in the end.
    #[test]
    fn everything_pushed_ends_in_exactly_one_way(
        ops in prop::collection::vec(op(), 1..250), concurrency in 1usize..5, secs in prop::option::of(1u64..20), pool in prop::option::of(1u32..9),
        ends_by_recall: bool,
    ) {
        let mut pair = Pair::new(concurrency, secs.map(|secs| (2, secs * 1_000)), pool.map(|max| (max, 2_000)));
        ops.into_iter().for_each(|op| pair.step(op));
        if ends_by_recall {
            pair.recall();
        }
        pair.run_dry();
    }

    /// Within one priority: between the arrival of a profile's only post and its start, no other profile has more than
    /// one turn; two, if the post's profile had one itself just before. And one profile's posts start as they came.
    #[test]
    fn no_profile_has_two_turns_while_another_waits_for_its_first(
        pushes in prop::collection::vec((0u8..8, 0usize..6, -5i64..5), 1..400), gap in prop::option::of(1u64..40),
    ) {
        take_turns(gap, pushes);
    }
}
