//! What a wheel must do, told simply, and both kept in step: for the tests and for fuzzing.

use std::collections::BTreeMap;

use super::{Handle, Wheel};

/// What the wheel must do, told simply.
#[derive(Default, Debug)]
pub struct Model {
    entries: Vec<Entry>,
    /// By tick and arrival: the number of the entry.
    waiting: BTreeMap<(u64, u64), usize>,
    arrivals: u64,
}

#[derive(Debug)]
struct Entry {
    handle: Handle,
    key: (u64, u64),
    retimed: bool,
    live: bool,
}

impl Model {
    fn insert(&mut self, tick: u64, handle: Handle) {
        let key = self.key(tick);
        self.waiting.insert(key, self.entries.len());
        self.entries.push(Entry { handle, key, retimed: false, live: true });
    }

    fn key(&mut self, tick: u64) -> (u64, u64) {
        self.arrivals += 1;
        (tick, self.arrivals)
    }

    fn remove(&mut self, id: usize) {
        self.waiting.remove(&self.entries[id].key);
        self.entries[id].live = false;
    }

    fn retime(&mut self, id: usize, tick: u64) {
        let key = self.key(tick);
        self.waiting.remove(&self.entries[id].key);
        self.waiting.insert(key, id);
        self.entries[id].key = key;
        self.entries[id].retimed = true;
    }

    fn first(&self) -> Option<u64> {
        self.waiting.keys().next().map(|key| key.0)
    }

    /// Whether an entry that was never re-timed has an older one of the same kind before it at its tick.
    fn overtakes(&self, id: usize) -> bool {
        let key = self.entries[id].key;
        let older = self.waiting.range((key.0, 0)..key);
        !self.entries[id].retimed && older.map(|(_, id)| &self.entries[*id]).any(|entry| !entry.retimed)
    }
}

/// The wheel and the model, always in step.
#[derive(Debug)]
pub struct Pair {
    pub wheel: Wheel<u32>,
    model: Model,
    /// All has been small, so `next_wake` must be exact.
    pub small: bool,
}

impl Pair {
    pub fn new(now: u64) -> Self {
        Self { wheel: Wheel::new(now), model: Model::default(), small: true }
    }

    pub fn insert(&mut self, tick: u64) {
        let handle = self.wheel.insert(tick, self.model.entries.len() as u32);
        self.model.insert(tick, handle);
    }

    pub fn cancel(&mut self, pick: u64) {
        let Some(id) = self.pick(pick) else { return };
        let expected = self.model.entries[id].live.then_some(id as u32);
        assert_eq!(self.wheel.cancel(self.model.entries[id].handle), expected);
        self.model.remove(id);
    }

    pub fn retime(&mut self, pick: u64, tick: u64) {
        let Some(id) = self.pick(pick) else { return };
        let live = self.model.entries[id].live;
        assert_eq!(self.wheel.retime(self.model.entries[id].handle, tick), live);
        if live {
            self.model.retime(id, tick);
        }
    }

    /// Moves an entry a little back.
    pub fn nudge(&mut self, pick: u64, by: u64) {
        if let Some(id) = self.pick(pick) {
            self.retime(pick, self.model.entries[id].key.0.saturating_sub(by));
        }
    }

    /// Leaves so many stale hints that a sweep goes on during what follows.
    pub fn churn(&mut self, horizon: u64, seed: u64, kind: u64) {
        let now = self.wheel.now();
        for number in 0..2_000 {
            let random = scattered(seed.wrapping_add(number));
            match kind % 3 {
                0 => {
                    self.insert(tick(now, horizon, random));
                    self.cancel(1);
                }
                1 => self.retime(random >> 7, tick(now, horizon, random)),
                _ => {
                    self.retime(random | 1, now.saturating_add(random % 40));
                    self.nudge(random | 1, 1 + random % 7);
                }
            }
        }
    }

    /// An entry, dead or alive; rather a recent one.
    fn pick(&self, pick: u64) -> Option<usize> {
        let len = self.model.entries.len() as u64;
        let back = if pick.is_multiple_of(2) { (pick >> 1) % len.max(1) } else { (pick >> 1) % len.clamp(1, 64) };
        (len > 0).then(|| (len - 1 - back) as usize)
    }

    pub fn advance(&mut self, now: u64, budget: usize) -> bool {
        let before = self.wheel.now();
        let target = now.max(before);
        let mut out = Vec::new();
        let done = self.wheel.advance(now, budget, &mut out);
        assert!(out.len() <= budget);
        for (tick, id) in out {
            assert!(tick <= self.wheel.now() && tick <= target, "early");
            assert_eq!(Some(tick), self.model.first(), "out of order");
            assert_eq!(self.model.entries[id as usize].key.0, tick);
            assert!(self.model.entries[id as usize].live, "twice");
            assert!(!self.model.overtakes(id as usize), "overtook one of its tick");
            self.model.remove(id as usize);
        }
        assert!((before..=target).contains(&self.wheel.now()));
        if done {
            assert_eq!(self.wheel.now(), target);
            assert!(self.model.first().is_none_or(|tick| tick > target), "kept back");
        }
        done
    }

    pub fn check(&mut self) {
        assert_eq!(self.wheel.len(), self.model.waiting.len());
        assert_eq!(self.wheel.is_empty(), self.model.waiting.is_empty());
        let first = self.model.first().map(|tick| tick.max(self.wheel.now()));
        let wake = self.wheel.next_wake();
        if self.small && self.wheel.spreading.is_none() {
            assert_eq!(wake, first);
        } else {
            assert_eq!(wake.is_some(), first.is_some());
            assert!(wake <= first && wake.is_none_or(|tick| tick >= self.wheel.now()));
        }
    }

    /// Wakes when told to, until nothing is left: what a driver does.
    pub fn run_dry(&mut self) {
        let mut idle = 0;
        while let Some(wake) = self.wheel.next_wake() {
            let before = (self.wheel.len(), self.wheel.now());
            self.advance(wake, 1_000);
            idle = if before == (self.wheel.len(), self.wheel.now()) { idle + 1 } else { 0 };
            assert!(idle < 1_000, "gets nowhere");
        }
        assert!(self.model.waiting.is_empty(), "lost");
    }
}

/// One change; the numbers are read as each needs them.
pub type Op = (u8, u64, u64);

/// A tick up to `horizon` ahead; some of them shared, some near, some past.
fn tick(now: u64, horizon: u64, number: u64) -> u64 {
    let ahead = (number >> 3) % horizon;
    match number % 8 {
        0 | 1 => now.saturating_add(ahead % 50),
        2 => now.saturating_sub(ahead % 50),
        3 | 4 => now.saturating_add(ahead - ahead % (horizon / 8).max(1)),
        _ => now.saturating_add(ahead),
    }
}

/// Whether this operation is thousands of changes.
pub fn is_large(op: u8) -> bool {
    (94..98).contains(&op)
}

/// Makes these changes at the wheel and at the model, and compares them at every step.
pub fn play(horizon: u64, start: u64, ops: impl IntoIterator<Item = Op>, bulk: bool) {
    let mut pair = Pair::new(start);
    for (op, a, b) in ops {
        let now = pair.wheel.now();
        match op {
            0..35 => pair.insert(tick(now, horizon, a)),
            35..50 => pair.cancel(a),
            50..60 => pair.retime(b, tick(now, horizon, a)),
            60..70 => pair.nudge(b, a % 5),
            70..85 => {
                let to = now.saturating_add((a >> 8) % (horizon >> (a % 24)).max(1));
                pair.advance(to, (b % 12) as usize + 1);
            }
            85..90 => {
                let to = now.saturating_add((a >> 8) % (horizon / 2));
                while !pair.advance(to, 7 + (b % 5_000) as usize) {}
            }
            90..94 => {
                let back = now.saturating_sub((a >> 8) % (horizon >> (a % 32)).max(1));
                pair.wheel.rewind(back);
                assert_eq!(pair.wheel.now(), back);
            }
            94..96 if bulk => {
                pair.small = false;
                let at = now.saturating_add((a >> 8) % horizon);
                for number in 0..2_000 + b % 30_000 {
                    pair.insert(at.saturating_add(if a.is_multiple_of(3) {
                        0
                    } else {
                        number.wrapping_mul(b | 1) % 900
                    }));
                }
            }
            96..98 => pair.churn(horizon, a, b),
            _ => pair.check(),
        }
    }
    pair.check();
    pair.run_dry();
}

/// Even numbers without a pattern.
pub fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 16
}
