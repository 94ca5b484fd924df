//! How the played network answers.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::post::{BroadcastError, Ending, Receipt};

/// What a call comes to, decided when it is made.
#[derive(Debug)]
pub struct Fate {
    pub publishes: bool,
    /// What is answered, and how long after; nothing if it hangs for ever.
    pub answer: Option<(Duration, Ending)>,
    pub fault: Option<&'static str>,
}

/// How often what happens, in thousandths.
#[derive(Debug)]
pub struct Moods {
    pub failing: u32,
    pub refusing: u32,
    pub losing: u32,
    pub panicking: u32,
    pub hanging: u32,
    /// Longest answer, in milliseconds.
    pub slowest: u64,
}

impl Moods {
    /// A world in which each of these is there or not.
    pub fn draw(rng: &mut Xoshiro256PlusPlus) -> Self {
        let mut mood = |most: u32| if rng.random_bool(0.5) { rng.random_range(1..=most) } else { 0 };
        Self {
            failing: mood(300),
            refusing: mood(50),
            losing: mood(200),
            panicking: mood(50),
            hanging: mood(100),
            slowest: u64::from(mood(20_000)).max(1),
        }
    }

    pub fn healed() -> Self {
        Self { failing: 0, refusing: 0, losing: 0, panicking: 0, hanging: 0, slowest: 1 }
    }

    pub fn fate(&self, rng: &mut Xoshiro256PlusPlus) -> Fate {
        let after = Duration::from_millis(rng.random_range(0..=self.slowest));
        let mut dice = rng.random_range(0..1_000);
        let mut falls = |share: u32| {
            let is_hit = dice < share;
            dice = dice.saturating_sub(share) + if is_hit { 1_000 } else { 0 };
            is_hit
        };
        let maybe = rng.random_bool(0.5);
        let failed = |error| Some((after, Ending::Answered(Err(error))));
        if falls(self.failing) {
            let answer = failed(BroadcastError::transient("503"));
            return Fate { publishes: false, answer, fault: Some("the network fails") };
        }
        if falls(self.refusing) {
            let answer = failed(BroadcastError::permanent("400"));
            return Fate { publishes: false, answer, fault: Some("the network refuses") };
        }
        if falls(self.losing) {
            let answer = failed(BroadcastError::unknown("504"));
            return Fate { publishes: maybe, answer, fault: Some("the answer is lost") };
        }
        if falls(self.panicking) {
            let answer = Some((after, Ending::Panicked { message: "at the disco".to_owned() }));
            return Fate { publishes: maybe, answer, fault: Some("the broadcaster panics") };
        }
        if falls(self.hanging) {
            return Fate { publishes: maybe, answer: None, fault: Some("the broadcaster hangs") };
        }
        Fate { publishes: true, answer: Some((after, Ending::Answered(Ok(Receipt::new("u"))))), fault: None }
    }
}
