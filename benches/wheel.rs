//! The timing wheel beside `tokio_util`'s `DelayQueue`, a million entries at a time; the ratios are printed last.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use punctual::wheel;
use tokio::runtime::Runtime;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

const ENTRIES: usize = 1_000_000;
const HOUR: u64 = 3_600_000;
const SECOND: u64 = 1_000;

/// A queue of timers in milliseconds from its start.
trait Timers {
    type Handle;

    fn new() -> Self;
    fn insert(&mut self, at: u64, item: u32) -> Self::Handle;
    fn cancel(&mut self, handle: &Self::Handle);
    fn retime(&mut self, handle: &Self::Handle, at: u64);
    fn expire(&mut self, until: u64, out: &mut Vec<(u64, u32)>);
}

impl Timers for wheel::Wheel<u32> {
    type Handle = wheel::Handle;

    fn new() -> Self {
        Self::new(0)
    }

    fn insert(&mut self, at: u64, item: u32) -> Self::Handle {
        self.insert(at, item)
    }

    fn cancel(&mut self, handle: &Self::Handle) {
        black_box(self.cancel(*handle));
    }

    fn retime(&mut self, handle: &Self::Handle, at: u64) {
        black_box(self.retime(*handle, at));
    }

    fn expire(&mut self, until: u64, out: &mut Vec<(u64, u32)>) {
        while !self.advance(until, 4_096, out) {}
    }
}

/// Driven as kindly as possible: a paused clock, given instants, no task around it.
struct Tokio {
    queue: DelayQueue<u32>,
    start: tokio::time::Instant,
    runtime: Runtime,
}

impl Timers for Tokio {
    type Handle = Key;

    fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let _entered = runtime.enter();
        let (queue, start) = (DelayQueue::new(), tokio::time::Instant::now());
        drop(_entered);
        Self { queue, start, runtime }
    }

    fn insert(&mut self, at: u64, item: u32) -> Key {
        let _entered = self.runtime.enter();
        self.queue.insert_at(item, self.start + Duration::from_millis(at))
    }

    fn cancel(&mut self, handle: &Key) {
        black_box(self.queue.remove(handle));
    }

    fn retime(&mut self, handle: &Key, at: u64) {
        let _entered = self.runtime.enter();
        self.queue.reset_at(handle, self.start + Duration::from_millis(at));
    }

    fn expire(&mut self, until: u64, out: &mut Vec<(u64, u32)>) {
        let until = self.start + Duration::from_millis(until);
        self.runtime.block_on(async { tokio::time::advance(until - tokio::time::Instant::now()).await });
        let _entered = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(expired)) = self.queue.poll_expired(&mut context) {
            let at = (expired.deadline() - self.start).as_millis() as u64;
            out.push((at, expired.into_inner()));
        }
    }
}

/// Even numbers without a pattern.
fn scattered(number: usize) -> u64 {
    let mixed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 20
}

fn in_an_hour(number: usize) -> u64 {
    1 + scattered(number) % HOUR
}

/// A full queue and its handles in random order.
fn filled<Q: Timers>(at: impl Fn(usize) -> u64) -> (Q, Vec<Q::Handle>) {
    let mut timers = Q::new();
    let mut handles: Vec<_> = (0..ENTRIES).map(|item| timers.insert(at(item), item as u32)).collect();
    for last in (1..handles.len()).rev() {
        handles.swap(last, scattered(last + ENTRIES) as usize % (last + 1));
    }
    (timers, handles)
}

fn touched() -> Vec<(u64, u32)> {
    let mut out = vec![(1, 1); 2 * ENTRIES];
    black_box(&mut out).clear();
    out
}

fn insert<Q: Timers>() -> (Duration, usize) {
    let mut timers = Q::new();
    let mut handles = Vec::with_capacity(ENTRIES);
    let started = Instant::now();
    handles.extend((0..ENTRIES).map(|item| timers.insert(in_an_hour(item), item as u32)));
    (started.elapsed(), ENTRIES)
}

fn expire<Q: Timers>(at: impl Fn(usize) -> u64) -> (Duration, usize) {
    let (mut timers, _) = filled::<Q>(at);
    let mut out = touched();
    let started = Instant::now();
    timers.expire(HOUR, &mut out);
    let elapsed = started.elapsed();
    assert!(out.len() == ENTRIES && out.is_sorted_by_key(|(tick, _)| *tick));
    (elapsed, ENTRIES)
}

fn cancel<Q: Timers>(share: usize) -> (Duration, usize) {
    let (mut timers, handles) = filled::<Q>(in_an_hour);
    let started = Instant::now();
    handles[..ENTRIES / share].iter().for_each(|handle| timers.cancel(handle));
    (started.elapsed(), ENTRIES / share)
}

fn retime<Q: Timers>() -> (Duration, usize) {
    let (mut timers, handles) = filled::<Q>(in_an_hour);
    let started = Instant::now();
    for (number, handle) in handles.iter().enumerate() {
        timers.retime(handle, in_an_hour(number + 2 * ENTRIES));
    }
    (started.elapsed(), ENTRIES)
}

/// Each entry that fires in the course of an hour is set again, up to an hour ahead.
fn reinsert<Q: Timers>() -> (Duration, usize) {
    let (mut timers, _) = filled::<Q>(in_an_hour);
    let (mut out, mut fired) = (touched(), 0);
    let started = Instant::now();
    for now in (SECOND..=HOUR).step_by(SECOND as usize) {
        timers.expire(now, &mut out);
        for (_, item) in out.drain(..) {
            fired += 1;
            timers.insert(now + in_an_hour(fired), item);
        }
    }
    (started.elapsed(), fired)
}

type Measure = fn() -> (Duration, usize);

fn measures<Q: Timers>() -> [(&'static str, Measure); 7] {
    [
        ("insert", insert::<Q>),
        ("expire an hour", || expire::<Q>(in_an_hour)),
        ("expire one tick", || expire::<Q>(|_| HOUR)),
        ("cancel half", || cancel::<Q>(2)),
        ("cancel all", || cancel::<Q>(1)),
        ("re-time", retime::<Q>),
        ("fire and insert again", reinsert::<Q>),
    ]
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_millis(1))
        .configure_from_args();
    let mut nanos: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let contestants = [("wheel", measures::<wheel::Wheel<u32>>()), ("DelayQueue", measures::<Tokio>())];
    for number in 0..contestants[0].1.len() {
        for (contestant, measures) in &contestants {
            let (name, measure) = measures[number];
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Elements(1));
            group.bench_function(*contestant, |bencher| {
                // One run measures many operations; criterion is told what one of them took.
                bencher.iter_custom(|iterations| {
                    let (elapsed, operations) = measure();
                    let each = elapsed.as_secs_f64() / operations as f64;
                    nanos.entry((name, contestant)).or_default().push(each * 1e9);
                    Duration::from_secs_f64(each * iterations as f64)
                });
            });
        }
    }
    println!("{:22} {:>8} {:>12} {:>7}", "ns per entry, median", "wheel", "DelayQueue", "ratio");
    for (name, _) in contestants[0].1 {
        let median = |contestant| {
            let mut samples = nanos.get(&(name, contestant)).cloned().unwrap_or_default();
            samples.sort_by(f64::total_cmp);
            samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let (ours, theirs) = (median("wheel"), median("DelayQueue"));
        println!("{name:22} {ours:8.1} {theirs:12.1} {:6.1}x", theirs / ours);
    }
}
