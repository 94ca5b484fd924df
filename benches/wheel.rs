//! The timing wheel beside what a user would pick instead, and beside a floor, from 10,000 entries to 1,000,000;
//! ten million with `PUNCTUAL_ENTRIES=10000000`. A name on the command line picks rows or tables.
//!
//! A contestant is left out where it would only cost time: `hierarchical_hash_wheel_timer` never gives back what was
//! cancelled (some 760 bytes an entry after ten re-times each), and it and `priority-queue` take minutes and
//! gigabytes for ten million entries; so both do without that, and without 10 N re-times of a million. A `BTreeMap` of
//! ten million takes a microsecond and more for each change, so it is only filled and emptied. Only the wheel can stop
//! in the middle, so only its longest advance is of interest.
//!
//! The floor promises nothing: a `Vec` of records of the wheel's 28 bytes, pushed, written at random, read in order.

mod common;

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hint::black_box;
use std::process::Command;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use common::{Contest, Measure, is_short, scattered};
use hierarchical_hash_wheel_timer::wheels::Skip;
use hierarchical_hash_wheel_timer::wheels::cancellable::{CancellableTimerEntry, QuadWheelWithOverflow};
use priority_queue::PriorityQueue;
use punctual::wheel::{Handle, Wheel};
use slab::Slab;
use tokio::runtime::{EnterGuard, Runtime};
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// What the engine takes from the wheel in one go.
const BUDGET: usize = 4_096;

/// A queue of timers in milliseconds from its start.
trait Timers {
    type Handle: Copy;
    /// Whether it hands out in the order of ticks.
    const IN_ORDER: bool = true;

    fn new() -> Self;
    fn insert(&mut self, at: u64, item: u32) -> Self::Handle;
    fn cancel(&mut self, handle: Self::Handle);
    fn retime(&mut self, handle: &mut Self::Handle, at: u64);
    /// It is this late now; what this costs is not the contestant's fault.
    fn set_clock(&mut self, _now: u64) {}
    /// Hands out all that is due at the time to which the clock was set.
    fn expire(&mut self, now: u64, out: &mut Vec<(u64, u32)>);
}

impl Timers for Wheel<u32> {
    type Handle = Handle;

    fn new() -> Self {
        Self::new(0)
    }

    fn insert(&mut self, at: u64, item: u32) -> Handle {
        self.insert(at, item)
    }

    fn cancel(&mut self, handle: Handle) {
        black_box(self.cancel(handle));
    }

    fn retime(&mut self, handle: &mut Handle, at: u64) {
        black_box(self.retime(*handle, at));
    }

    fn expire(&mut self, now: u64, out: &mut Vec<(u64, u32)>) {
        while !self.advance(now, BUDGET, out) {}
    }
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
});

/// Driven as kindly as possible: a paused clock, no task around it, its runtime entered once.
struct Tokio {
    queue: DelayQueue<u32>,
    start: tokio::time::Instant,
    _entered: EnterGuard<'static>,
}

impl Timers for Tokio {
    type Handle = Key;

    fn new() -> Self {
        let _entered = RUNTIME.enter();
        Self { queue: DelayQueue::new(), start: tokio::time::Instant::now(), _entered }
    }

    fn insert(&mut self, at: u64, item: u32) -> Key {
        self.queue.insert_at(item, self.start + Duration::from_millis(at))
    }

    fn cancel(&mut self, handle: Key) {
        black_box(self.queue.remove(&handle));
    }

    fn retime(&mut self, handle: &mut Key, at: u64) {
        self.queue.reset_at(handle, self.start + Duration::from_millis(at));
    }

    fn set_clock(&mut self, now: u64) {
        let ahead = self.start + Duration::from_millis(now) - tokio::time::Instant::now();
        RUNTIME.block_on(tokio::time::advance(ahead));
    }

    fn expire(&mut self, _now: u64, out: &mut Vec<(u64, u32)>) {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(expired)) = self.queue.poll_expired(&mut context) {
            let at = (expired.deadline() - self.start).as_millis() as u64;
            out.push((at, expired.into_inner()));
        }
    }
}

/// `hierarchical_hash_wheel_timer`, the kind that can cancel.
struct HashWheel {
    wheel: QuadWheelWithOverflow<HashEntry>,
    now: u64,
}

#[derive(Debug)]
struct HashEntry(u32);

impl CancellableTimerEntry for HashEntry {
    type Id = u32;

    fn id(&self) -> &u32 {
        &self.0
    }
}

impl Timers for HashWheel {
    type Handle = u32;

    fn new() -> Self {
        Self { wheel: QuadWheelWithOverflow::new(), now: 0 }
    }

    fn insert(&mut self, at: u64, item: u32) -> u32 {
        let delay = Duration::from_millis(at - self.now);
        self.wheel.insert_ref_with_delay(Rc::new(HashEntry(item)), delay).expect("it is not due yet");
        item
    }

    fn cancel(&mut self, handle: u32) {
        self.wheel.cancel(&handle).expect("it is there");
    }

    fn retime(&mut self, handle: &mut u32, at: u64) {
        self.cancel(*handle);
        self.insert(at, *handle);
    }

    fn expire(&mut self, now: u64, out: &mut Vec<(u64, u32)>) {
        while self.now < now {
            let skipped = match self.wheel.can_skip() {
                Skip::None => 0,
                Skip::Millis(ticks) => u64::from(ticks).min(now - self.now - 1),
                Skip::Empty => now - self.now - 1,
            };
            self.wheel.skip(skipped as u32);
            self.now += skipped + 1;
            out.extend(self.wheel.tick().iter().map(|entry| (self.now, entry.0)));
        }
    }
}

/// `priority-queue`: a heap that knows where each item is.
struct IndexedHeap {
    queue: PriorityQueue<u32, Reverse<u64>>,
}

impl Timers for IndexedHeap {
    type Handle = u32;

    fn new() -> Self {
        Self { queue: PriorityQueue::new() }
    }

    fn insert(&mut self, at: u64, item: u32) -> u32 {
        self.queue.push(item, Reverse(at));
        item
    }

    fn cancel(&mut self, handle: u32) {
        self.queue.remove(&handle);
    }

    fn retime(&mut self, handle: &mut u32, at: u64) {
        self.queue.change_priority(handle, Reverse(at));
    }

    fn expire(&mut self, now: u64, out: &mut Vec<(u64, u32)>) {
        while let Some((item, Reverse(at))) = self.queue.pop_if(|_, at| at.0 <= now) {
            out.push((at, item));
        }
    }
}

/// A `BinaryHeap`; what is cancelled stays in it until it comes up, or until more than half of it is dead.
struct LazyHeap {
    heap: BinaryHeap<Reverse<(u64, LazyHandle)>>,
    /// The number of the entry's arrival, and the item.
    entries: Slab<(u32, u32)>,
    arrivals: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LazyHandle {
    arrival: u32,
    place: u32,
}

impl LazyHeap {
    fn tidy(&mut self) {
        if self.heap.len() > 2 * self.entries.len() + 1_024 {
            let Self { heap, entries, .. } = self;
            heap.retain(|Reverse((_, handle))| is_live(entries, *handle));
        }
    }
}

fn is_live(entries: &Slab<(u32, u32)>, handle: LazyHandle) -> bool {
    entries.get(handle.place as usize).is_some_and(|(arrival, _)| *arrival == handle.arrival)
}

impl Timers for LazyHeap {
    type Handle = LazyHandle;

    fn new() -> Self {
        Self { heap: BinaryHeap::new(), entries: Slab::new(), arrivals: 0 }
    }

    fn insert(&mut self, at: u64, item: u32) -> LazyHandle {
        let arrival = self.arrivals;
        self.arrivals = arrival.wrapping_add(1);
        let handle = LazyHandle { arrival, place: self.entries.insert((arrival, item)) as u32 };
        self.heap.push(Reverse((at, handle)));
        handle
    }

    fn cancel(&mut self, handle: LazyHandle) {
        if is_live(&self.entries, handle) {
            self.entries.remove(handle.place as usize);
            self.tidy();
        }
    }

    fn retime(&mut self, handle: &mut LazyHandle, at: u64) {
        if is_live(&self.entries, *handle) {
            let (_, item) = self.entries.remove(handle.place as usize);
            *handle = self.insert(at, item);
            self.tidy();
        }
    }

    fn expire(&mut self, now: u64, out: &mut Vec<(u64, u32)>) {
        while let Some(first) = self.heap.peek_mut().filter(|first| first.0.0 <= now) {
            let Reverse((at, handle)) = std::collections::binary_heap::PeekMut::pop(first);
            if is_live(&self.entries, handle) {
                out.push((at, self.entries.remove(handle.place as usize).1));
            }
        }
    }
}

/// A `BTreeMap` by tick and arrival.
struct Tree {
    items: BTreeMap<(u64, u64), u32>,
    arrivals: u64,
}

impl Timers for Tree {
    type Handle = (u64, u64);

    fn new() -> Self {
        Self { items: BTreeMap::new(), arrivals: 0 }
    }

    fn insert(&mut self, at: u64, item: u32) -> (u64, u64) {
        self.arrivals += 1;
        self.items.insert((at, self.arrivals), item);
        (at, self.arrivals)
    }

    fn cancel(&mut self, handle: (u64, u64)) {
        self.items.remove(&handle);
    }

    fn retime(&mut self, handle: &mut (u64, u64), at: u64) {
        if let Some(item) = self.items.remove(handle) {
            *handle = self.insert(at, item);
        }
    }

    fn expire(&mut self, now: u64, out: &mut Vec<(u64, u32)>) {
        while let Some(first) = self.items.first_entry().filter(|first| first.key().0 <= now) {
            let ((at, _), item) = first.remove_entry();
            out.push((at, item));
        }
    }
}

/// What the memory alone costs: records of a tick, an item and as many bytes as the wheel has for one entry.
struct Floor {
    records: Vec<[u32; 7]>,
}

impl Timers for Floor {
    type Handle = usize;
    const IN_ORDER: bool = false;

    fn new() -> Self {
        Self { records: Vec::new() }
    }

    fn insert(&mut self, at: u64, item: u32) -> usize {
        self.records.push([at as u32, item, 1, 1, 1, 1, 1]);
        self.records.len() - 1
    }

    fn cancel(&mut self, handle: usize) {
        self.records[handle][0] = 0;
    }

    fn retime(&mut self, handle: &mut usize, at: u64) {
        self.records[*handle][0] = at as u32;
    }

    fn expire(&mut self, _now: u64, out: &mut Vec<(u64, u32)>) {
        out.extend(self.records.drain(..).filter(|record| record[0] != 0).map(|[at, item, ..]| (u64::from(at), item)));
    }
}

/// When the entries fire.
#[derive(Clone, Copy)]
enum Dues {
    /// Spread over an hour.
    Hour,
    /// All at once, in an hour.
    OneTick,
    /// Over a day, two of three at the full hour.
    Mix,
}

impl Dues {
    fn of(self, number: usize) -> u64 {
        let random = scattered(number);
        match self {
            Self::Hour => 1 + random % HOUR,
            Self::OneTick => HOUR,
            Self::Mix if random.is_multiple_of(3) => 1 + (random >> 8) % DAY,
            Self::Mix => (1 + (random >> 8) % 24) * HOUR,
        }
    }

    fn last(self) -> u64 {
        if matches!(self, Self::Mix) { DAY } else { HOUR }
    }
}

#[derive(Clone, Copy)]
enum Workload {
    Insert,
    Expire(Dues),
    CancelHalf,
    CancelAll,
    /// What is left after half was cancelled expires.
    ExpireHalf,
    /// So many times for each entry.
    Retime(usize),
    /// Each entry that fires in the course of an hour is set again, up to an hour ahead.
    Reinsert,
    /// Ten entries an hour away, and nothing before.
    IdleJump,
}

const WORKLOADS: [(&str, Workload); 11] = [
    ("insert", Workload::Insert),
    ("expire, an hour", Workload::Expire(Dues::Hour)),
    ("expire, one tick", Workload::Expire(Dues::OneTick)),
    ("expire, a day's full hours", Workload::Expire(Dues::Mix)),
    ("cancel half", Workload::CancelHalf),
    ("cancel all", Workload::CancelAll),
    ("expire after cancelling half", Workload::ExpireHalf),
    ("re-time", Workload::Retime(1)),
    ("re-time ten times", Workload::Retime(10)),
    ("fire and insert again", Workload::Reinsert),
    ("one jump over an idle hour to ten entries", Workload::IdleJump),
];

impl Workload {
    fn is_run_with(self, entries: usize) -> bool {
        match self {
            // Enough is enough: the other rows show how it grows.
            Self::Expire(Dues::Mix) | Self::CancelHalf | Self::ExpireHalf | Self::Retime(10) => entries <= 1_000_000,
            Self::IdleJump => entries <= 10_000,
            _ => true,
        }
    }
}

/// What all contestants of a row must fire: how many, and which.
type Agreed = Cell<Option<(usize, u64)>>;

fn agree<Q: Timers>(agreed: &Agreed, fired: &[(u64, u32)]) {
    assert!(!Q::IN_ORDER || fired.is_sorted_by_key(|(tick, _)| *tick), "out of order");
    let digest = fired.iter().map(|&(tick, item)| scattered(tick as usize ^ (item as usize) << 32));
    let fired = (fired.len(), digest.fold(0, u64::wrapping_add));
    assert_eq!(agreed.replace(Some(fired)).unwrap_or(fired), fired, "not what the others fired");
}

fn filled<Q: Timers>(entries: usize, dues: Dues) -> (Q, Vec<Q::Handle>) {
    let mut timers = Q::new();
    let handles = (0..entries).map(|item| timers.insert(dues.of(item), item as u32)).collect();
    (timers, handles)
}

fn shuffle<H>(handles: &mut [H]) {
    for last in (1..handles.len()).rev() {
        handles.swap(last, scattered(last) as usize % (last + 1));
    }
}

/// Room for what fires, its memory touched before.
fn room(entries: usize) -> Vec<(u64, u32)> {
    let mut out = vec![(1, 1); entries];
    black_box(&mut out).clear();
    out
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// How long the workload took, and how many operations it is.
fn run<Q: Timers>(workload: Workload, entries: usize, agreed: &Agreed) -> (Duration, usize) {
    match workload {
        Workload::Insert => {
            let dues: Vec<u64> = (0..entries).map(|item| Dues::Hour.of(item)).collect();
            let (mut timers, mut item) = (Q::new(), 0);
            let insert = |at: &u64| {
                black_box(timers.insert(*at, item));
                item += 1;
            };
            (timed(|| dues.iter().for_each(insert)), entries)
        }
        Workload::Expire(dues) => {
            let (timers, _) = filled::<Q>(entries, dues);
            let (elapsed, fired) = expire_all(timers, dues.last(), entries, agreed);
            assert_eq!(fired, entries);
            (elapsed, entries)
        }
        Workload::CancelHalf | Workload::CancelAll | Workload::ExpireHalf => {
            let (mut timers, mut handles) = filled::<Q>(entries, Dues::Hour);
            shuffle(&mut handles);
            let cancelled = if matches!(workload, Workload::CancelAll) { entries } else { entries / 2 };
            let elapsed = timed(|| handles[..cancelled].iter().for_each(|handle| timers.cancel(*handle)));
            let (expiry, fired) = expire_all(timers, HOUR, entries, agreed);
            assert_eq!(fired, entries - cancelled);
            if matches!(workload, Workload::ExpireHalf) { (expiry, fired) } else { (elapsed, cancelled) }
        }
        Workload::Retime(times) => {
            let (mut timers, mut handles) = filled::<Q>(entries, Dues::Hour);
            let elapsed = timed(|| churn(&mut timers, &mut handles, times));
            assert_eq!(expire_all(timers, HOUR, entries, agreed).1, entries);
            (elapsed, times * entries)
        }
        Workload::Reinsert => {
            let (mut timers, _) = filled::<Q>(entries, Dues::Hour);
            let (mut out, mut all) = (room(entries), room(3 * entries));
            let elapsed = timed(|| {
                for now in (SECOND..=HOUR).step_by(SECOND as usize) {
                    timers.set_clock(now);
                    timers.expire(now, &mut out);
                    all.extend_from_slice(&out);
                    for (tick, item) in out.drain(..) {
                        timers.insert(now + Dues::Hour.of(item as usize + tick as usize), item);
                    }
                }
            });
            agree::<Q>(agreed, &all);
            (elapsed, all.len())
        }
        Workload::IdleJump => {
            let (mut timers, mut out, mut elapsed) = (Q::new(), room(10), Duration::ZERO);
            let jumps = 200;
            for now in (1..=jumps).map(|hour| hour * HOUR) {
                for item in 0..10 {
                    timers.insert(now, item);
                }
                timers.set_clock(now);
                elapsed += timed(|| timers.expire(now, &mut out));
                assert_eq!(out.drain(..).len(), 10);
            }
            (elapsed, jumps as usize)
        }
    }
}

/// How long it takes until all has fired, and how many that are.
fn expire_all<Q: Timers>(mut timers: Q, last: u64, entries: usize, agreed: &Agreed) -> (Duration, usize) {
    let mut out = room(entries);
    timers.set_clock(last);
    let elapsed = timed(|| timers.expire(last, &mut out));
    agree::<Q>(agreed, &out);
    (elapsed, out.len())
}

/// Moves an entry at random, so many times for each that there is.
fn churn<Q: Timers>(timers: &mut Q, handles: &mut [Q::Handle], times: usize) {
    for number in 0..times * handles.len() {
        let any = scattered(number) as usize % handles.len();
        let at = Dues::Hour.of(number + 2 * handles.len());
        timers.retime(&mut handles[any], at);
    }
}

struct Contestant {
    name: &'static str,
    run: fn(Workload, usize, &Agreed) -> (Duration, usize),
    resident: fn(usize, usize) -> [f64; 2],
}

impl Contestant {
    const fn of<Q: Timers>(name: &'static str) -> Self {
        Self { name, run: run::<Q>, resident: resident::<Q> }
    }

    fn takes_part(&self, workload: Workload, entries: usize) -> bool {
        let grows = matches!(self.name, HASH_WHEEL | INDEXED_HEAP);
        match workload {
            Workload::Reinsert | Workload::IdleJump if self.name == FLOOR => false,
            Workload::Retime(10) => entries < 1_000_000 || !grows,
            Workload::CancelAll | Workload::Retime(_) | Workload::Reinsert if self.name == TREE => entries <= 1_000_000,
            _ => entries <= 1_000_000 || !grows,
        }
    }

    fn is_measured_resident(&self, entries: usize) -> bool {
        self.takes_part(Workload::Retime(churns(entries)), entries)
    }
}

const HASH_WHEEL: &str = "hierarchical_hash_wheel_timer";
const INDEXED_HEAP: &str = "priority-queue";
const TREE: &str = "BTreeMap";
const FLOOR: &str = "floor: Vec of 28-byte records";
const CONTESTANTS: [Contestant; 7] = [
    Contestant::of::<Wheel<u32>>("wheel"),
    Contestant::of::<Tokio>("tokio_util DelayQueue"),
    Contestant::of::<HashWheel>(HASH_WHEEL),
    Contestant::of::<IndexedHeap>(INDEXED_HEAP),
    Contestant::of::<LazyHeap>("BinaryHeap, lazy deletion"),
    Contestant::of::<Tree>(TREE),
    Contestant::of::<Floor>(FLOOR),
];

/// Bytes of this process that are in memory.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

/// Bytes of an entry without its handle: just set, and after ten re-times of each.
fn resident<Q: Timers>(entries: usize, times: usize) -> [f64; 2] {
    let before = resident_bytes() as f64 + (entries * size_of::<Q::Handle>()) as f64;
    let (mut timers, mut handles) = (Q::new(), Vec::with_capacity(entries));
    handles.extend((0..entries).map(|item| timers.insert(Dues::Hour.of(item), item as u32)));
    let fresh = resident_bytes() as f64;
    churn(&mut timers, &mut handles, times);
    [fresh, resident_bytes() as f64].map(|bytes| (bytes - before) / entries as f64)
}

/// In the environment of a process that only measures what a contestant keeps in memory: its name.
const MEASURED: &str = "PUNCTUAL_RESIDENT";

/// One process for each contestant, so that none inherits another's free memory; what is freed goes back at once.
fn print_resident(entries: usize) {
    println!("\nresident bytes per entry, {entries} entries: fresh, and after {} re-times each", churns(entries));
    for Contestant { name, .. } in CONTESTANTS.iter().filter(|contestant| contestant.is_measured_resident(entries)) {
        let child = Command::new(std::env::current_exe().expect("a program"))
            .envs([(MEASURED, *name), (ENTRIES, &entries.to_string()), ("MALLOC_MMAP_THRESHOLD_", "131072")])
            .output()
            .expect("a process");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        println!("    {name:32} {}", String::from_utf8_lossy(&child.stdout).trim_end());
    }
}

/// Longest calls, in nanoseconds.
#[derive(Default)]
struct Pauses {
    /// By the number of the call, the shortest it took in any round: what is left is the call's own.
    calls: Vec<u32>,
    /// The longest of all, with whatever else the machine did meanwhile.
    worst: u32,
}

impl Pauses {
    fn time<R>(&mut self, number: usize, call: impl FnOnce() -> R) -> R {
        let started = Instant::now();
        let result = call();
        let nanos = started.elapsed().as_nanos() as u32;
        self.worst = self.worst.max(nanos);
        match self.calls.get_mut(number) {
            Some(shortest) => *shortest = nanos.min(*shortest),
            None => self.calls.push(nanos),
        }
        result
    }
}

/// Drives the wheel as the engine does: it wakes when told to, and takes what is due in pieces.
fn print_pauses(entries: usize, rounds: usize) {
    println!("\nlongest call in microseconds, {entries} entries, {rounds} rounds: its own time, and with disturbances");
    for (name, dues) in [("an hour", Dues::Hour), ("one tick", Dues::OneTick), ("a day's full hours", Dues::Mix)] {
        let [mut advances, mut wakes] = [Pauses::default(), Pauses::default()];
        let mut out = room(BUDGET);
        for _ in 0..rounds {
            let (mut wheel, _) = filled::<Wheel<u32>>(entries, dues);
            let (mut number, mut fired) = (0, 0);
            while let Some(wake) = wakes.time(number, || wheel.next_wake()) {
                advances.time(number, || wheel.advance(wake, BUDGET, &mut out));
                fired += out.drain(..).len();
                number += 1;
            }
            assert_eq!(fired, entries);
        }
        for (call, Pauses { calls, worst }) in [("advance", advances), ("next_wake", wakes)] {
            let own = calls.into_iter().max().unwrap_or(0);
            println!("    {name:20} {call:11} {:9.1} {:9.1}", f64::from(own) / 1e3, f64::from(worst) / 1e3);
        }
    }
}

/// In the environment: how many entries, instead of the usual numbers.
const ENTRIES: &str = "PUNCTUAL_ENTRIES";

fn main() {
    let given = std::env::var(ENTRIES).ok().and_then(|entries| entries.parse().ok());
    if let Ok(measured) = std::env::var(MEASURED) {
        let contestant = CONTESTANTS.iter().find(|contestant| contestant.name == measured).expect("a contestant");
        let entries = given.expect("a number of entries");
        let [fresh, churned] = (contestant.resident)(entries, churns(entries));
        println!("{fresh:9.1} {churned:9.1}");
        return;
    }
    let sizes = match given {
        Some(entries) => vec![entries],
        None if is_short() => vec![10_000],
        None => vec![10_000, 100_000, 1_000_000],
    };
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let rounds = if largest > 1_000_000 { 3 } else { 5 };
    let mut contest = Contest::new(rounds);
    for &entries in &sizes {
        for (name, workload) in WORKLOADS.into_iter().filter(|(_, workload)| workload.is_run_with(entries)) {
            let agreed = Agreed::default();
            let taking_part = CONTESTANTS.iter().filter(|contestant| contestant.takes_part(workload, entries));
            let measure = |Contestant { name, run, .. }: &Contestant| -> (&str, Measure<'_>) {
                let agreed = &agreed;
                let run = *run;
                (name, Box::new(move || run(workload, entries, agreed)))
            };
            let row = match workload {
                Workload::IdleJump => name.to_owned(),
                _ => format!("{name}, {entries} entries"),
            };
            contest.row(&row, taking_part.map(measure).collect());
        }
    }
    contest.print();
    if is_picked("resident bytes") {
        print_resident(largest);
    }
    if is_picked("longest call") {
        print_pauses(largest, rounds);
    }
}

/// Whether the command line names this table, or nothing.
fn is_picked(table: &str) -> bool {
    let mut names = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    names.peek().is_none() || names.any(|name| table.contains(&name))
}

/// Re-times of each entry.
fn churns(entries: usize) -> usize {
    if entries > 1_000_000 { 1 } else { 10 }
}
