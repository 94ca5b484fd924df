use proptest::prelude::*;

use super::model::{Op, Pair, play, scattered};
use super::*;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

fn ops(len: usize) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec((0..100u8, any::<u64>(), any::<u64>()), 1..len)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_model_does_within_seconds(ops in ops(2_000), start in 0..DAY) {
        play(5 * SECOND, start, ops, false);
    }

    #[test]
    fn does_what_the_model_does_within_an_hour(ops in ops(2_000), start in 0..DAY) {
        play(HOUR, start, ops, false);
    }

    #[test]
    fn does_what_the_model_does_within_weeks(ops in ops(2_000), start in any::<u64>()) {
        play(20 * DAY, start, ops, false);
    }

    #[test]
    fn does_what_the_model_does_beyond_32_bits(ops in ops(2_000), start in any::<u64>()) {
        play(100 * DAY, start, ops, false);
    }

    #[test]
    fn does_what_the_model_does_over_all_ticks(ops in ops(2_000), start in any::<u64>()) {
        play(u64::MAX / 2, start, ops, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Buckets so large that spreading and handing out stop in the middle, and changes come in between.
    #[test]
    fn does_what_the_model_does_in_bulk(ops in ops(250), start in any::<u64>(), horizon in 5 * SECOND..100 * DAY) {
        play(horizon, start, ops, true);
    }
}

#[test]
fn a_giant_tick_is_handed_out_in_pieces_and_in_order() {
    let mut wheel = Wheel::new(0);
    let count = 300_000;
    for item in 0..count {
        wheel.insert(8 * HOUR, item);
    }
    let mut out = Vec::new();
    while !wheel.advance(8 * HOUR - 1, 1_000, &mut out) {}
    assert_eq!((out.len(), wheel.next_wake()), (0, Some(8 * HOUR)));
    let mut calls = 0;
    loop {
        let before = out.len();
        let done = wheel.advance(9 * HOUR, 1_000, &mut out);
        assert!(out.len() - before <= 1_000);
        calls += 1;
        if done {
            break;
        }
    }
    assert!(calls < 1_000, "{calls} calls");
    assert!(out.iter().map(|(_, item)| *item).eq(0..count));
    assert!(wheel.is_empty());
}

/// Spreads a bucket while more comes for its ticks, and its entries are moved and cancelled.
fn interrupt(count: u64, at: u64, within: u64, budget: usize) {
    let mut pair = Pair::new(5 * DAY + 17);
    let first = pair.wheel.now() + at;
    for number in 0..count {
        pair.insert(first + scattered(number) % within);
    }
    let (mut interruptions, mut number) = (0, 0);
    while !pair.advance(first + 2 * within, budget) {
        if pair.wheel.spreading.is_none() {
            continue;
        }
        interruptions += 1;
        for _ in 0..700 {
            number += 1;
            let tick = first + scattered(number) % within;
            match number % 16 {
                0 => pair.cancel(scattered(number) << 1),
                1 => pair.retime(scattered(number) << 1, tick),
                2 if number % 37 == 0 => pair.nudge(scattered(number) << 1, 1),
                3 if number % 5_000 == 3 => pair.churn(2 * within, number, number),
                _ => pair.insert(tick),
            }
        }
        pair.small = false;
        pair.check();
    }
    assert!(interruptions > 0);
    pair.run_dry();
}

#[test]
fn what_comes_for_a_bucket_while_it_is_spread_takes_its_turn() {
    // Into the run, until that is full.
    interrupt(16_000, 10 * SECOND, 900, 100);
    interrupt(16_000, 10 * SECOND, 2_500, 5_000);
    // Over the ticks, with few and with whole chunks of each.
    interrupt(40_000, 10 * SECOND, 900, 100);
    interrupt(60_000, 10 * SECOND, 3, 9_000);
    // Over levels.
    interrupt(60_000, 20 * HOUR, HOUR, 100);
    interrupt(60_000, 1_000 * DAY, 20 * DAY, 300);
}

/// Reaches a bucket in the middle of its sweep.
fn reach_while_swept(count: u64, ahead: u64, level: usize, advances: u64, reach: fn(&mut Pair)) {
    let mut pair = Pair::new(5 * DAY);
    let at = pair.wheel.now() + ahead;
    for number in 0..count {
        pair.insert(at + number % 2);
    }
    for _ in 0..advances {
        assert!(!pair.advance(at + 1, 100));
    }
    pair.small = count < 4_000;
    let within = |sweep: &Sweep| matches!(sweep, Sweep::Within { bucket, .. } if bucket.level == level);
    for _ in 0..5 * count {
        pair.insert(at + 400 * DAY);
        pair.cancel(1);
        if within(&pair.wheel.sweep) {
            break;
        }
    }
    assert!(within(&pair.wheel.sweep));
    reach(&mut pair);
    assert!(!within(&pair.wheel.sweep));
    pair.insert(at + 1);
    while !pair.advance(at + 2, 1_000) {}
    pair.run_dry();
}

#[test]
fn a_bucket_whose_sweep_is_cut_short_loses_nothing() {
    let ways: [fn(&mut Pair); 3] = [
        |pair| pair.check(),
        |pair| assert!(!pair.advance(pair.wheel.now() + 3 * HOUR, 1)),
        |pair| pair.wheel.rewind(pair.wheel.now() - 1),
    ];
    for reach in ways {
        reach_while_swept(1_000, 7, 0, 0, reach);
        reach_while_swept(1_000, 5 * SECOND, 1, 0, reach);
        reach_while_swept(1_000, 2 * HOUR, 2, 0, reach);
    }
    // One that is being spread, too.
    reach_while_swept(700_000, 5 * SECOND, 1, 1, ways[1]);
    reach_while_swept(700_000, 5 * SECOND, 1, 1, ways[2]);
}

#[test]
fn a_year_is_one_jump() {
    let mut pair = Pair::new(1_700_000_000_000);
    for hours in [1, 300, 8_000, 9_000] {
        pair.insert(1_700_000_000_000 + hours * HOUR);
    }
    assert!(pair.advance(1_700_000_000_000 + 365 * DAY, 100));
    assert_eq!(pair.wheel.len(), 1);
    pair.run_dry();
}

#[test]
fn the_first_and_the_last_tick_fire_when_they_should() {
    let mut pair = Pair::new(0);
    for tick in [u64::MAX, 0, u64::MAX - 1, 1, u64::MAX / 2, 1 << 32, u64::MAX] {
        pair.insert(tick);
        pair.check();
    }
    assert!(pair.advance(1 << 31, 10));
    assert_eq!(pair.wheel.len(), 5);
    assert!(pair.advance(u64::MAX - 1, 10));
    assert_eq!(pair.wheel.len(), 2);
    assert!(pair.advance(u64::MAX, 10));
    pair.insert(u64::MAX);
    pair.check();
    pair.wheel.rewind(0);
    pair.check();
    pair.run_dry();
    assert_eq!(pair.wheel.now(), u64::MAX);
}

#[test]
fn a_stale_handle_reaches_nobody() {
    let mut wheel = Wheel::new(0);
    let fired = wheel.insert(1, 'a');
    assert!(wheel.advance(1, 1, &mut Vec::new()));
    let successor = wheel.insert(2, 'b');
    assert_eq!((wheel.cancel(fired), wheel.retime(fired, 9)), (None, false));
    assert!(wheel.retime(successor, 5) && wheel.retime(successor, 3));
    assert_eq!(wheel.next_wake(), Some(3));
    assert_eq!((wheel.cancel(successor), wheel.cancel(successor)), (Some('b'), None));
    assert_eq!((wheel.len(), wheel.next_wake()), (0, None));
}

#[test]
fn very_many_stale_hints_before_the_next_entry_never_make_its_wake_too_late() {
    // Of the bucket whose time it is something comes later, or earlier, or nothing.
    for (other, wakes) in [(None, 2), (Some(5_000), 2), (Some(4_200), 1)] {
        let mut wheel = Wheel::new(0);
        // So many far ones that nobody clears stale hints away.
        (0..20_000).for_each(|item| _ = wheel.insert(1_000_000_000 + item, ()));
        other.into_iter().for_each(|at| _ = wheel.insert(at, ()));
        assert!(wheel.advance(4_096, 1, &mut Vec::new()));
        let stale: Vec<_> = (0..10_000).map(|_| wheel.insert(4_300, ())).collect();
        stale.into_iter().for_each(|handle| assert!(wheel.cancel(handle).is_some()));
        wheel.insert(4_310, ());
        let next = other.unwrap_or(4_310).min(4_310);
        // With one it would be a test of nothing where stale ones come before it.
        for _ in 1..wakes {
            let wake = wheel.next_wake().unwrap();
            assert!(wake < next, "{other:?}: {wake}");
            while !wheel.advance(wake, 1, &mut Vec::new()) {}
        }
        let mut out = Vec::new();
        assert_eq!(wheel.next_wake(), Some(next), "{other:?}");
        while !wheel.advance(next, 1, &mut out) {}
        assert_eq!(out, [(next, ())]);
    }
}

#[test]
fn a_budget_of_zero_hands_out_nothing() {
    let mut wheel = Wheel::new(0);
    wheel.insert(5, ());
    let mut out = Vec::new();
    assert!(wheel.advance(4, 0, &mut out));
    assert!(!wheel.advance(5, 0, &mut out));
    assert!(out.is_empty());
    assert!(wheel.advance(5, 1, &mut out));
    assert_eq!(out, [(5, ())]);
}

#[test]
fn hints_stay_few_whatever_is_churned() {
    let mut wheel = Wheel::new(0);
    let count = 20_000;
    let handles: Vec<_> = (0..count).map(|item| wheel.insert(scattered(item) % HOUR, item)).collect();
    for change in 0..10 * count {
        let handle = handles[(scattered(change) % count) as usize];
        assert!(wheel.retime(handle, scattered(change + 1) % HOUR));
        assert!(wheel.hints() < 9 * wheel.len() / 4 + 2_048, "{} hints", wheel.hints());
    }
    for handle in handles {
        wheel.cancel(handle);
    }
    assert_eq!(wheel.len(), 0);
    for late in [0, 1] {
        wheel.advance(wheel.now() + 1, 1, &mut Vec::new());
        for item in 0..100_000 {
            // In front of time, at one tick, and then with no time passing at all.
            let handle = wheel.insert(wheel.now() + 1 - late, item);
            assert_eq!(wheel.cancel(handle), Some(item));
        }
        assert!(wheel.hints() < 4_096, "{} hints", wheel.hints());
    }
}

/// Makes a call and notes how much of the wheel it touches.
fn noted<R>(longest: &mut usize, call: impl FnOnce() -> R) -> R {
    let before = segments::TOUCHES.get();
    let result = call();
    *longest = (segments::TOUCHES.get() - before).max(*longest);
    result
}

/// Makes a change to one of many entries, the one of this number.
type Change = fn(&mut Wheel<u32>, Handle, u64) -> bool;

#[test]
fn no_call_goes_through_all_there_is() {
    const COUNT: u32 = 60_000;
    let start = 5 * DAY;
    let placed: [fn(u64) -> u64; 5] = [
        |_| 2 * HOUR,
        |number| number % HOUR,
        |number| number % 900,
        |number| HOUR + number % 3,
        |number| number % DAY,
    ];
    let changed: [Change; 5] = [
        |_, _, _| true,
        |wheel, handle, number| number % 1_000 == 0 || wheel.cancel(handle).is_some(),
        |wheel, handle, _| wheel.retime(handle, 5 * DAY + 3 * HOUR),
        |wheel, handle, number| wheel.retime(handle, 5 * DAY + 3 * HOUR + number % 900),
        |wheel, handle, number| wheel.retime(handle, 5 * DAY + 1 + number % 2),
    ];
    let (mut longest, mut out) = (0, Vec::new());
    for (place, change) in placed.iter().flat_map(|place| changed.iter().map(move |change| (place, change))) {
        for jump in [None, Some(start + 2 * DAY)] {
            let mut wheel = Wheel::new(start);
            let mut handles = Vec::new();
            for item in 0..COUNT {
                let at = start + 7 + place(scattered(item.into()));
                handles.push(noted(&mut longest, || wheel.insert(at, item)));
            }
            for (handle, number) in handles.into_iter().zip(0..) {
                assert!(noted(&mut longest, || change(&mut wheel, handle, number)));
            }
            while let Some(wake) = noted(&mut longest, || wheel.next_wake()) {
                noted(&mut longest, || wheel.advance(jump.unwrap_or(wake), 1_000, &mut out));
                out.clear();
            }
        }
    }
    // A few touches for each of some thousand hints.
    assert!(longest < 2 * COUNT as usize / 3, "{longest} touches");
}

#[test]
fn an_entry_takes_28_bytes() {
    assert_eq!(size_of::<Hint>(), 12);
    assert_eq!(Slab::<u32>::SLOT_BYTES, 16);
    assert_eq!((size_of::<Handle>(), size_of::<Option<Handle>>()), (8, 8));
}
