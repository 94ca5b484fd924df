//! The engine in a world of faults: one thread, one seed, virtual time.
//!
//! The scheduler with all its loops, the broadcaster's calls and the store's contract are the real ones. Whose turn it is, the
//! clocks, the disk's moods, the `network` and the `host` are played by the `world`. An `oracle`, a plain account of what
//! was promised and what happened, is asked at every call and every answer. The same plan gives the same run, step by
//! step; one that breaks a promise is shrunk to what it takes.

mod dice;
mod host;
mod network;
mod oracle;
mod plan;
mod process;
mod scene;
mod series;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use crate::marks::reached;
pub use plan::{CLASSES, Plan};

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

/// Lets a world run for its time, then heals it and waits until every post has ended.
pub fn run(plan: &Plan) -> Report {
    world::World::new(plan).run()
}

/// A plan with less in it that breaks the same promise: classes are left out one after the other, and time is cut.
pub fn shrink(plan: &Plan, broken: &Broken) -> Plan {
    let breaks = |plan: &Plan| run(plan).broken.is_some_and(|other| other.promise == broken.promise);
    let mut small = plan.clone();
    let mut is_smaller = true;
    while is_smaller {
        is_smaller = false;
        for class in CLASSES.iter().filter(|class| !plan.without.contains(**class)) {
            let mut less = small.clone();
            if less.without.insert((*class).to_owned()) && breaks(&less) {
                (small, is_smaller) = (less, true);
            }
        }
        while small.time > Duration::from_secs(1) {
            let less = Plan { time: small.time / 2, ..small.clone() };
            if !breaks(&less) {
                break;
            }
            (small, is_smaller) = (less, true);
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans that broke a promise once: seed, seconds, what is left out.
    const KEPT: &str = include_str!("kept.txt");

    fn plan(seed: u64) -> Plan {
        Plan { seed, time: Duration::from_secs(3_600), without: Default::default() }
    }

    #[test]
    fn every_promise_holds_in_a_few_worlds() {
        for seed in 0..20 {
            assert_eq!(run(&plan(seed)).broken, None, "seed {seed}");
        }
    }

    #[test]
    fn every_promise_holds_where_one_was_broken_once() {
        for line in KEPT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (seed, seconds) = (word().parse().unwrap(), word().parse().unwrap());
            let without = word().split(", ").filter(|class| !class.is_empty()).map(str::to_owned).collect();
            let plan = Plan { seed, time: Duration::from_secs_f64(seconds), without };
            assert_eq!(run(&plan).broken, None, "{line}");
        }
    }

    #[test]
    fn one_plan_is_one_run() {
        for seed in 0..10 {
            let [one, other] = [0; 2].map(|_| run(&plan(seed)));
            assert_eq!((one.digest, one.steps, one.calls), (other.digest, other.steps, other.calls), "seed {seed}");
        }
    }
}
