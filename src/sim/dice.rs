//! Chance, out of a seed. Each part of the world has dice of its own, so that leaving something out changes as little
//! of the rest as possible.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

#[derive(Clone, Debug)]
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub fn new(seed: u64, part: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ part))
    }

    /// A number below this one; zero if there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.random_range(0..end) }
    }

    /// True so many times in a thousand.
    pub fn falls(&mut self, thousandths: u64) -> bool {
        self.below(1_000) < thousandths
    }

    pub fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }

    /// Of any order of magnitude up to this power of ten.
    pub fn any_size(&mut self, power: u32) -> u64 {
        let most = 10_u64.pow(self.below(u64::from(power) + 1) as u32);
        self.below(most) + 1
    }
}
