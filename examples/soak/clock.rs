//! The clock of the machine, or one that goes faster, so that days pass in minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use punctual::{Builder, ManualClock};

#[derive(Clone)]
pub enum Clock {
    Machine,
    Fast(ManualClock),
}

impl Clock {
    pub fn new(speed: u32) -> Self {
        if speed == 1 { Self::Machine } else { Self::Fast(ManualClock::at(Utc::now())) }
    }

    pub fn now(&self) -> DateTime<Utc> {
        match self {
            Self::Machine => Utc::now(),
            Self::Fast(clock) => clock.now(),
        }
    }

    pub fn of(&self, builder: Builder) -> Builder {
        match self {
            Self::Machine => builder,
            Self::Fast(clock) => builder.clock(clock.clone()),
        }
    }

    /// Turns the hands of a fast clock until it is told to stop.
    pub fn run(&self, speed: u32, is_over: &Arc<AtomicBool>) -> Option<JoinHandle<()>> {
        let Self::Fast(clock) = self.clone() else { return None };
        let is_over = Arc::clone(is_over);
        let (start, mut shown) = (Instant::now(), Duration::ZERO);
        Some(thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
                let now = start.elapsed() * speed;
                clock.advance(now - shown);
                shown = now;
            }
        }))
    }
}
