//! What a world is made of.

use std::collections::BTreeSet;
use std::time::Duration;

use super::dice::Dice;

/// A world to be: the same plan gives the same run, step by step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What everything is drawn from.
    pub seed: u64,
    /// Virtual time before the world is healed.
    pub time: Duration,
    /// What is left out: some of [`CLASSES`].
    pub without: BTreeSet<String>,
}

/// What a world may have in it, and can do without: faults, the host's wishes, and what its pools and posts are like.
pub const CLASSES: &[&str] = &[
    "kills",
    "shutdowns",
    "failing commits",
    "stalls",
    "steps forward",
    "steps back",
    "suspends",
    "failing answers",
    "refusals",
    "lost answers",
    "throttling",
    "expelled profiles",
    "panics",
    "hanging calls",
    "heartbeats and checkpoints",
    "slow answers",
    "batches",
    "keys again",
    "cancellations",
    "other dues",
    "edits",
    "publishing now",
    "questions",
    "pauses",
    "holds",
    "resolutions",
    "other limits",
    "listeners",
    "profiles",
    "order",
    "threads",
    "deadlines",
    "priorities",
    "at most once",
    "several pools",
    "several shards",
    "preparing",
    "limits",
    "breakers",
    "catching up",
    "little memory",
    "late answers",
    "power cuts",
    "stuck call logs",
    "other content for keys",
    "large batches",
    "restless starts",
    "queues",
    "orders of queues",
    "series",
    "campaigns",
    "bursts of changes",
];

/// Draws what a world has.
#[derive(Debug)]
pub struct Draw(Dice);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(Dice::new(seed, 0))
    }

    /// Between 1 and `most`, or zero: half of the worlds do without it.
    pub fn rate(&mut self, plan: &Plan, class: &'static str, most: u64) -> u64 {
        debug_assert!(CLASSES.contains(&class), "{class}");
        let (is_there, rate) = (self.0.falls(500), 1 + self.0.below(most));
        if is_there && !plan.without.contains(class) { rate } else { 0 }
    }

    /// A number that every world has.
    pub fn number(&mut self, least: u64, most: u64) -> u64 {
        least + self.0.below(most - least + 1)
    }
}
