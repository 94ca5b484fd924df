use super::*;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn utc(text: &str) -> Timestamp {
    Timestamp::from_datetime(text.parse().unwrap())
}

/// Starts as many as may, and says how many.
fn fill(quota: &mut Quota, limits: &[RateLimit], now: Timestamp) -> usize {
    std::iter::from_fn(|| (quota.next(limits, now) == now).then(|| quota.take(limits, now))).count()
}

#[test]
fn a_rolling_limit_allows_its_number_and_the_next_when_the_first_is_a_window_old() {
    let limits = [RateLimit::rolling(2, HOUR)];
    let mut quota = Quota::default();
    quota.take(&limits, at(0));
    quota.take(&limits, at(10));
    assert_eq!(quota.next(&limits, at(20)), at(3_600_000));
    quota.take(&limits, at(3_600_000));
    assert_eq!(quota.next(&limits, at(3_600_000)), at(3_600_010));
}

#[test]
fn a_small_limit_is_as_exact_beside_a_large_one() {
    let limits = [RateLimit::rolling(1_000_000, 24 * HOUR), RateLimit::rolling(2, HOUR)];
    let mut quota = Quota::default();
    quota.take(&limits, at(0));
    quota.take(&limits, at(10));
    assert_eq!(quota.next(&limits, at(20)), at(3_600_000));
}

#[test]
fn what_is_not_limited_any_more_is_not_counted() {
    let limits = [1, 2, 3].map(|hours| RateLimit::rolling(9, hours * HOUR));
    let mut quota = Quota::default();
    quota.take(&limits, at(0));
    for rest in [&limits[..2], &limits[..1]] {
        quota.take(rest, at(7_200_000));
        let windows: Vec<_> = quota.counts.iter().map(|count| count.window).collect();
        assert_eq!(windows, rest.iter().map(|limit| limit.window).collect::<Vec<_>>());
    }
}

#[test]
fn a_limit_that_joins_others_is_counted_from_then_on() {
    let limits = [1, 2, 3].map(|hours| RateLimit::rolling(9, hours * HOUR));
    let mut quota = Quota::default();
    quota.take(&limits[..2], at(0));
    quota.take(&limits, at(1));
    assert_eq!(quota.counts.iter().map(|count| count.window).collect::<Vec<_>>(), limits.map(|limit| limit.window));
}

#[test]
fn starts_of_one_day_are_one_run() {
    let limits = [RateLimit::daily(9, Tz::UTC, NaiveTime::MIN)];
    let mut quota = Quota::default();
    for hour in [9, 11, 10, 12, 30] {
        quota.take(&limits, at(hour * 3_600_000));
    }
    let runs: Vec<_> = quota.counts[0].runs.iter().map(|run| (run.last, run.starts)).collect();
    assert_eq!(runs, [(at(30 * 3_600_000), 1)], "what was of yesterday is forgotten");
    // The clock has stepped back to yesterday.
    for hour in [9, 8, 31] {
        quota.take(&limits, at(hour * 3_600_000));
    }
    let runs: Vec<_> = quota.counts[0].runs.iter().map(|run| (run.last.millis() / 3_600_000, run.starts)).collect();
    assert_eq!(runs, [(8, 1), (9, 1), (31, 2)]);
}

#[test]
fn spacing_is_exact() {
    let limits = [RateLimit::spacing(Duration::from_millis(7))];
    let mut quota = Quota::default();
    quota.take(&limits, at(1));
    assert_eq!(quota.next(&limits, at(1)), at(8));
    assert_eq!(quota.next(&limits, at(9)), at(9));
}

#[test]
fn a_daily_limit_begins_anew_at_its_local_time() {
    let limits = [RateLimit::daily(3, chrono_tz::America::Los_Angeles, NaiveTime::MIN)];
    let mut quota = Quota::default();
    assert_eq!(fill(&mut quota, &limits, utc("2026-07-01T06:59:59.999Z")), 3);
    let midnight = utc("2026-07-01T07:00:00Z");
    assert_eq!(quota.next(&limits, utc("2026-07-01T06:59:59.999Z")), midnight);
    assert_eq!(fill(&mut quota, &limits, midnight), 3);
    assert_eq!(quota.next(&limits, utc("2026-07-01T12:00:00Z")), utc("2026-07-02T07:00:00Z"));
}

#[test]
fn a_reset_that_the_clocks_skip_comes_at_the_end_of_the_gap_and_one_shown_twice_comes_first() {
    let half_past = |hour| NaiveTime::from_hms_opt(hour, 30, 0).unwrap();
    let berlin = chrono_tz::Europe::Berlin;
    // 02:00 becomes 03:00 on 29 March 2026, and 03:00 becomes 02:00 on 25 October.
    let spring = reset_after(berlin, half_past(2), utc("2026-03-28T12:00:00Z"));
    assert_eq!(spring, utc("2026-03-29T01:00:00Z"));
    assert_eq!(reset_after(berlin, half_past(2), spring), utc("2026-03-30T00:30:00Z"));
    let autumn = reset_after(berlin, half_past(2), utc("2026-10-24T12:00:00Z"));
    assert_eq!(autumn, utc("2026-10-25T00:30:00Z"));
    assert_eq!(reset_after(berlin, half_past(2), autumn), utc("2026-10-26T01:30:00Z"));
    // A gap across midnight: Beirut has no 00:00 on 29 March 2026.
    let beirut = reset_after(chrono_tz::Asia::Beirut, NaiveTime::MIN, utc("2026-03-28T12:00:00Z"));
    assert_eq!(beirut, utc("2026-03-28T22:00:00Z"));
    // A day that never was: 30 December 2011 in Samoa.
    let apia = reset_after(chrono_tz::Pacific::Apia, half_past(8), utc("2011-12-30T00:00:00Z"));
    assert_eq!(apia, utc("2011-12-30T10:00:00Z"));
}

#[test]
fn a_start_that_did_not_happen_is_given_back_once_and_only_while_it_counts() {
    let limits = [RateLimit::rolling(2, HOUR), RateLimit::daily(9, Tz::UTC, NaiveTime::MIN)];
    let mut quota = Quota::default();
    quota.take(&limits, at(0));
    quota.take(&limits, at(5));
    quota.give_back(at(5));
    assert_eq!(fill(&mut quota, &limits, at(6)), 1);
    assert_eq!(quota.next(&limits, at(7)), at(3_600_000), "it was not the first that was given back");
    // The first two are over and forgotten: giving one of them back again frees nothing.
    assert_eq!(fill(&mut quota, &limits, at(3_600_006)), 2);
    quota.give_back(at(5));
    assert_eq!(fill(&mut quota, &limits, at(3_600_006)), 0);
}

#[test]
fn what_the_network_said_holds_until_the_latest_of_it() {
    let mut quota = Quota::default();
    quota.throttle(at(50));
    quota.throttle(at(20));
    assert_eq!(quota.next(&[], at(0)), at(50));
    assert!(!quota.is_idle(at(49)));
    assert!(quota.is_idle(at(50)));
    assert_eq!(Quota::decode(&quota.encode()).unwrap().next(&[], at(0)), at(50));
}

#[test]
fn a_saturated_limit_gives_nearly_all_that_it_allows() {
    for max in [1, 7, 32, 33, 63, 64, 100, 1_000, 4_321] {
        for (step, window) in [(1, HOUR), (997, HOUR), (60_000, HOUR), (1, Duration::from_millis(100))] {
            let limits = [RateLimit::rolling(max, window)];
            let (mut quota, mut now, mut starts) = (Quota::default(), at(0), 0u64);
            let (micros, end) = (window.as_micros() as u64, at(0).after(window * 10));
            // Somebody asks for a start every so often, with some jitter, ten windows long.
            let asks = (micros / u64::from(max) / 3).clamp(1, step * 1_000);
            for draw in 0u64.. {
                now = quota.next(&limits, now);
                if now >= end {
                    break;
                }
                quota.take(&limits, now);
                starts += 1;
                now = now.after(Duration::from_micros(1 + draw.wrapping_mul(0x9E37_79B9_7F4A_7C15) % asks));
            }
            let allowed = 10 * u64::from(max);
            assert!(starts <= allowed, "{starts} of {allowed}");
            assert!(starts * 100 >= allowed * 95, "{starts} of {allowed}: max {max}, step {step}, {window:?}");
        }
    }
}

#[test]
fn an_idle_quota_has_nothing_to_remember() {
    let limits = [RateLimit::rolling(5, HOUR)];
    let mut quota = Quota::default();
    assert!(quota.is_idle(at(0)));
    quota.take(&limits, at(0));
    assert!(!quota.is_idle(at(3_599_999)));
    assert!(quota.is_idle(at(3_600_000)));
}

#[test]
fn limits_outside_their_ranges_are_refused_by_name() {
    let second = Duration::from_secs(1);
    for wrong in [
        RateLimit::rolling(0, second),
        RateLimit::daily(0, Tz::UTC, NaiveTime::MIN),
        RateLimit::rolling(1, Duration::from_micros(999)),
        RateLimit::spacing(Duration::ZERO),
        RateLimit::spacing(WINDOW_MAX + Duration::from_nanos(1)),
        RateLimit::rolling(1, Duration::MAX),
    ] {
        let error = wrong.check("pool \"p\"").unwrap_err();
        assert!(error.to_string().contains("pool \"p\""), "{error}");
    }
    for right in [RateLimit::rolling(u32::MAX, WINDOW_MAX), RateLimit::spacing(Duration::from_millis(1))] {
        right.check("p").unwrap();
    }
}

#[test]
fn a_full_encoding_stays_small() {
    let limits = [RateLimit::rolling(u32::MAX, WINDOW_MAX)];
    let mut quota = Quota::default();
    for day in 0..2_000 {
        quota.take(&limits, at(day * 86_400_000 / 60));
        if let Some(run) = quota.counts[0].runs.back_mut() {
            run.starts = u32::MAX / 16;
        }
    }
    assert_eq!(quota.counts[0].runs.len(), RUNS);
    assert!(quota.encode().len() < 600, "{}", quota.encode().len());
}

#[test]
fn starts_of_a_large_limit_are_counted_in_runs_of_a_part_of_it() {
    let limits = [RateLimit::rolling(10 * RUNS as u32, HOUR)];
    let mut quota = Quota::default();
    (0..10 * RUNS as i64).for_each(|second| quota.take(&limits, at(second * 1_000)));
    let runs: Vec<_> = quota.counts[0].runs.iter().map(|run| (run.last.millis() / 1_000, run.starts)).collect();
    assert_eq!(runs, (1..=RUNS as i64).map(|run| (10 * run - 1, 10)).collect::<Vec<_>>());
}

/// The largest limit, and what is counted for it: as many runs as there may be, one in each second, with so many starts.
fn with_all_runs(starts: impl Fn(i64) -> u32) -> ([RateLimit; 1], Quota) {
    let limits = [RateLimit::rolling(u32::MAX, WINDOW_MAX)];
    let mut quota = Quota::default();
    for second in 0..RUNS as i64 {
        quota.take(&limits, at(second * 1_000));
        quota.counts[0].runs.back_mut().unwrap().starts = starts(second);
    }
    (limits, quota)
}

/// A run with so many starts is full: what comes next does not join it.
const FULL: u32 = u32::MAX.div_ceil(RUNS as u32);

#[test]
fn those_become_one_that_have_the_fewest_starts_together() {
    let (limits, mut quota) = with_all_runs(|second| match second {
        4 => FULL,
        5 => 3 * FULL,
        10 | 11 => FULL + FULL / 10 * 9,
        _ => 8 * FULL,
    });
    quota.take(&limits, at(40_000));
    let seconds: Vec<_> = quota.counts[0].runs.iter().map(|run| run.last.millis() / 1_000).collect();
    assert!(!seconds.contains(&10) && seconds.contains(&4) && seconds.contains(&11), "{seconds:?}");
}

#[test]
fn where_runs_are_too_many_the_two_smallest_become_one() {
    let (limits, mut quota) = with_all_runs(|second| FULL + if second == 4 || second == 5 { 0 } else { 2 });
    quota.take(&limits, at(40_000));
    let runs: Vec<_> = quota.counts[0].runs.iter().map(|run| (run.last.millis() / 1_000, run.starts)).collect();
    assert_eq!((runs.len(), runs[3..5].to_vec(), runs[RUNS - 1]), (RUNS, vec![(3, FULL + 2), (5, 2 * FULL)], (40, 1)));
    // One before all others, where one of them has to go: it stays the first.
    quota.take(&limits, at(-5_000));
    assert_eq!(quota.counts[0].runs.front(), Some(&Run { last: at(-5_000), starts: 1 }));
    assert!(quota.counts[0].runs.iter().is_sorted_by_key(|run| run.last));
}

#[test]
fn a_run_without_starts_is_no_quota() {
    let limits = [RateLimit::rolling(5, HOUR)];
    let mut quota = Quota::default();
    quota.take(&limits, at(0));
    let mut bytes = quota.encode();
    assert_eq!((bytes.last(), Quota::decode(&bytes).is_some()), (Some(&1), true));
    *bytes.last_mut().unwrap() = 0;
    assert!(Quota::decode(&bytes).is_none());
}

fn limit() -> impl Strategy<Value = RateLimit> {
    let zones = [Tz::UTC, chrono_tz::America::Los_Angeles, chrono_tz::Pacific::Apia];
    prop_oneof![
        // Windows that repeat, so that a change of the limits keeps some.
        6 => (1u32..80, prop::sample::select(vec![1u64, 3, 50, 400]))
            .prop_map(|(max, secs)| RateLimit::rolling(max, Duration::from_secs(secs))),
        1 => (1u64..30).prop_map(|secs| RateLimit::spacing(Duration::from_secs(secs))),
        2 => (1u32..80, prop::sample::select(zones.to_vec()))
            .prop_map(|(max, zone)| RateLimit::daily(max, zone, NaiveTime::MIN)),
    ]
}

/// Something that happens to a quota.
#[derive(Clone, Debug)]
enum Op {
    /// After so many µs as many starts are asked for.
    Start(i64, usize),
    /// The same, and the last is given back.
    StartAndGiveBack(i64, usize),
    /// One is counted, whether allowed or not, so long ago.
    Count(i64),
    Throttle(i64),
    Restart,
    Change(Vec<RateLimit>),
}

fn op(back: i64) -> impl Strategy<Value = Op> {
    let gap = prop_oneof![0i64..2_000_000, 0i64..60_000_000, -back..=0];
    prop_oneof![
        12 => (gap.clone(), 0usize..30).prop_map(|(gap, starts)| Op::Start(gap, starts)),
        3 => (gap, 1usize..5).prop_map(|(gap, starts)| Op::StartAndGiveBack(gap, starts)),
        1 => (0i64..90_000_000).prop_map(Op::Count),
        1 => (0i64..9_000_000).prop_map(Op::Throttle),
        2 => Just(Op::Restart),
        1 => prop::collection::vec(limit(), 1..4).prop_map(Op::Change),
    ]
}

/// Every start that happened, and what a quota may have forgotten of them.
#[derive(Default)]
struct Model {
    starts: Vec<Timestamp>,
    /// The highest reading of the clock: what was over then is over for good.
    latest: i64,
    /// What lay before this was in no window when the limits changed.
    known_from: i64,
}

impl Model {
    fn counting(&self, limit: &RateLimit, now: Timestamp) -> usize {
        let counts = |start: Timestamp| {
            let over = limit.window.over(start);
            over > now && over.micros() > self.latest && start.micros() > self.known_from
        };
        self.starts.iter().filter(|start| counts(**start)).count()
    }
}

proptest! {
    /// Whatever happens, no start is allowed while the limit's number of starts counts, by an exact list of all.
    #[test]
    fn no_limit_is_ever_exceeded(
        limits in prop::collection::vec(limit(), 1..4),
        ops in prop::collection::vec(prop_oneof![9 => op(0), 1 => op(40_000_000)], 1..60),
        begin in prop_oneof![Just(1_795_244_400_000_000i64), Just(1_325_239_000_000_000), Just(-5_000_000)],
    ) {
        let (mut quota, mut limits, mut now) = (Quota::default(), limits, Timestamp::from_micros(begin));
        let mut model = Model { latest: i64::MIN, known_from: i64::MIN, ..Model::default() };
        for op in ops {
            match op {
                Op::Start(gap, starts) | Op::StartAndGiveBack(gap, starts) => {
                    now = Timestamp::from_micros(now.micros() + gap);
                    let mut taken = 0;
                    for _ in 0..starts {
                        let next = quota.next(&limits, now);
                        prop_assert!(next >= now);
                        prop_assert_eq!(quota.next(&limits, next), next, "waits again");
                        if next > now {
                            break;
                        }
                        for limit in &limits {
                            prop_assert!(model.counting(limit, now) < limit.max as usize, "{:?}", limit);
                        }
                        quota.take(&limits, now);
                        model.starts.push(now);
                        model.latest = model.latest.max(now.micros());
                        taken += 1;
                    }
                    if taken > 0 && matches!(op, Op::StartAndGiveBack(..)) {
                        quota.give_back(now);
                        model.starts.pop();
                    }
                }
                Op::Count(ago) => {
                    let at = Timestamp::from_micros(now.micros() - ago);
                    quota.take(&limits, at);
                    model.starts.push(at);
                    model.latest = model.latest.max(at.micros());
                }
                Op::Throttle(ahead) => {
                    let until = Timestamp::from_micros(now.micros() + ahead);
                    quota.throttle(until);
                    prop_assert!(quota.next(&limits, now) >= until);
                }
                Op::Restart => {
                    prop_assert!(quota.encode().len() < 600 * limits.len() + 9);
                    quota = Quota::decode(&quota.encode()).unwrap();
                }
                Op::Change(to) => {
                    // The longest window that there was at any time since covers what the others hold.
                    let over = |at| limits.iter().map(|limit| limit.window.over(at)).max().unwrap();
                    let until = now.micros().max(model.latest);
                    let gone = model.starts.iter().filter(|start| over(**start).micros() <= until);
                    model.known_from = gone.map(|start| start.micros()).fold(model.known_from, i64::max);
                    limits = to;
                }
            }
            let has_own = |limit: &RateLimit| quota.counts.iter().any(|count| count.window == limit.window);
            if quota.is_idle(now) && limits.iter().all(has_own) {
                prop_assert_eq!(quota.next(&limits, now), now, "it could be forgotten");
            }
        }
    }

    /// Up to 32 starts are kept one by one: then nothing waits that need not.
    #[test]
    fn small_limits_are_exact(
        max in 1u32..=32, ops in prop::collection::vec((0i64..9_000_000, 0usize..20), 1..80), decode: bool,
    ) {
        let limit = RateLimit::rolling(max, Duration::from_secs(10));
        let limits = [limit.clone()];
        let (mut quota, mut now) = (Quota::default(), 0);
        let mut model = Model { latest: i64::MIN, known_from: i64::MIN, ..Model::default() };
        for (gap, starts) in ops {
            now += gap;
            for _ in 0..starts {
                let now = Timestamp::from_micros(now);
                let is_allowed = model.counting(&limit, now) < max as usize;
                prop_assert_eq!(quota.next(&limits, now) == now, is_allowed);
                if is_allowed {
                    quota.take(&limits, now);
                    model.starts.push(now);
                }
            }
            if decode {
                quota = Quota::decode(&quota.encode()).unwrap();
            }
        }
    }

    #[test]
    fn no_instant_and_no_limit_is_too_far(
        ops in prop::collection::vec((any::<i64>(), 0u8..4), 1..60), micros: u64, nanos: u32, max: u32,
    ) {
        let limits = [
            RateLimit::rolling(max, Duration::new(micros, nanos % 1_000_000_000)),
            RateLimit::daily(max, chrono_tz::Asia::Beirut, NaiveTime::from_num_seconds_from_midnight_opt(86_399, 1_999_999_999).unwrap()),
        ];
        let mut quota = Quota::default();
        for (at, op) in ops {
            let at = Timestamp::from_micros(at);
            match op {
                0 => prop_assert!(quota.next(&limits, at) >= at),
                1 => quota.take(&limits, at),
                2 => quota.give_back(at),
                _ => quota.throttle(at),
            }
            let _ = quota.is_idle(at);
            prop_assert!(Quota::decode(&quota.encode()).is_some());
        }
    }

    #[test]
    fn arbitrary_bytes_are_a_quota_or_refused(mut bytes: Vec<u8>, tail in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = Quota::decode(&bytes);
        bytes.splice(0..0, Quota::default().encode());
        bytes.push(ROLLING);
        bytes.extend(tail);
        if let Some(quota) = Quota::decode(&bytes) {
            let _ = quota.next(&[RateLimit::rolling(1, HOUR)], at(0));
        }
    }
}
