//! The engine in a world of faults: one thread, one seed, virtual time.
//!
//! The engine, the shards and the store's contract are the real ones; the threads around them, the clocks, the disk's
//! moods, the network and the host are played by the `world`. An `oracle`, a plain account of what was promised and
//! what happened, is asked after every step. The same seed gives the same run, step by step.

mod network;
mod oracle;
mod process;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What the run is made of, and repeated by.
    pub seed: u64,
    /// Virtual time that passed.
    pub time: Duration,
    /// Things that happened.
    pub steps: u64,
    /// Posts whose scheduling was acknowledged, and calls of the broadcaster.
    pub posts: u64,
    pub calls: u64,
    /// Faults, by class.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each promise was checked.
    pub checks: BTreeMap<&'static str, u64>,
    /// A number that any difference between two runs changes.
    pub digest: u64,
    /// The promise that was broken first, if one was.
    pub broken: Option<Broken>,
}

/// A promise that was not kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    pub promise: &'static str,
    pub how: String,
    /// In which step.
    pub step: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}: {}", self.step, self.promise, self.how)
    }
}

impl Report {
    /// Adds another run to this one.
    pub fn add(&mut self, other: Self) {
        self.time += other.time;
        self.steps += other.steps;
        self.posts += other.posts;
        self.calls += other.calls;
        other.faults.into_iter().for_each(|(fault, times)| *self.faults.entry(fault).or_default() += times);
        other.checks.into_iter().for_each(|(check, times)| *self.checks.entry(check).or_default() += times);
        self.digest = self.digest.rotate_left(1) ^ other.digest;
        if self.broken.is_none() {
            (self.broken, self.seed) = (other.broken, other.seed);
        }
    }
}

/// Lets the world of this seed run for so much virtual time, then heals it and waits until every post has ended.
pub fn run(seed: u64, time: Duration) -> Report {
    world::World::new(seed).run(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(3_600);

    #[test]
    fn every_promise_holds_in_a_few_worlds() {
        for seed in 0..30 {
            let report = run(seed, TIME);
            assert_eq!(report.broken, None, "seed {seed}");
        }
    }

    #[test]
    fn one_seed_is_one_run() {
        let runs = [0; 2].map(|_| (0..10).map(|seed| run(seed, TIME)).map(|run| (run.digest, run.steps, run.calls)));
        let [one, other] = runs.map(Iterator::collect::<Vec<_>>);
        assert_eq!(one, other);
    }
}
