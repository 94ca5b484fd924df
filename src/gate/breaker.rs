//! The breaker: a pool whose network fails waits, and asks again by a probe.

use std::time::Duration;

use crate::marks::{self, Mark};
use crate::time::Timestamp;

/// When a pool stops by itself, and how it finds out that the network is back: after so many failures in a row (a
/// timeout, a panic, a transient or unknown error) its posts wait, without using up attempts. After a pause one post
/// goes out as a probe. If it is answered, the pool goes on; if not, it waits twice as long.
///
/// ```
/// use punctual::Breaker;
/// use std::time::Duration;
///
/// let breaker = Breaker::new(20).pause(Duration::from_secs(10)).max_pause(Duration::from_secs(300));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    failures: u32,
    pause: Duration,
    max_pause: Duration,
}

impl Breaker {
    /// Opens after this many failures in a row; zero counts as one. The first probe comes after 30 s, and the pauses
    /// grow up to 10 minutes, unless changed.
    pub const fn new(failures: u32) -> Self {
        let failures = if failures == 0 { 1 } else { failures };
        Self { failures, pause: Duration::from_secs(30), max_pause: Duration::from_secs(600) }
    }

    /// How long until the first probe. Default: 30 s.
    #[must_use]
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// The longest pause that doubling leads to. Default: 10 minutes.
    #[must_use]
    pub const fn max_pause(mut self, pause: Duration) -> Self {
        self.max_pause = pause;
        self
    }
}

/// What the breaker did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turned {
    Opened { probe_at: Timestamp },
    Closed,
}

/// A breaker at work.
pub struct Circuit {
    breaker: Breaker,
    phase: Phase,
}

enum Phase {
    Closed {
        failures: u32,
    },
    Open {
        pause: Duration,
        probe_at: Timestamp,
    },
    /// One that entered at this instant is the probe.
    Probing {
        pause: Duration,
        probe_at: Timestamp,
        entered: Timestamp,
    },
}

/// How often is looked whether a probe has ended.
const PROBING: Duration = Duration::from_secs(1);

impl Circuit {
    pub fn new(breaker: Breaker) -> Self {
        Self { breaker, phase: Phase::Closed { failures: 0 } }
    }

    pub fn next(&mut self, now: Timestamp) -> Timestamp {
        match &mut self.phase {
            Phase::Closed { .. } => now,
            Phase::Open { pause, probe_at } => {
                // The clock may have stepped back.
                *probe_at = (*probe_at).min(now.after(*pause));
                now.max(*probe_at)
            }
            Phase::Probing { .. } => now.after(PROBING),
        }
    }

    pub fn enter(&mut self, now: Timestamp) {
        if let Phase::Open { pause, probe_at } = self.phase {
            self.phase = Phase::Probing { pause, probe_at, entered: now };
        }
    }

    pub fn leave(&mut self, left: Timestamp, now: Timestamp, healthy: Option<bool>) -> Option<Turned> {
        let Breaker { failures: limit, pause: first, max_pause } = self.breaker;
        match (&mut self.phase, healthy) {
            (Phase::Closed { failures }, Some(true)) => {
                *failures = 0;
                None
            }
            (Phase::Closed { failures }, Some(false)) => {
                *failures += 1;
                (*failures >= limit).then(|| self.open(first, now))
            }
            (Phase::Probing { pause, probe_at, entered }, health) if *entered == left => match health {
                Some(true) => {
                    marks::reach(Mark::BreakerClosed);
                    self.phase = Phase::Closed { failures: 0 };
                    Some(Turned::Closed)
                }
                Some(false) => {
                    marks::reach(Mark::ProbeFailed);
                    let longer = pause.saturating_mul(2).min(max_pause).max(first);
                    Some(self.open(longer, now))
                }
                None => {
                    self.phase = Phase::Open { pause: *pause, probe_at: *probe_at };
                    None
                }
            },
            // It entered before the breaker opened, which says nothing of the network now.
            _ => None,
        }
    }

    fn open(&mut self, pause: Duration, now: Timestamp) -> Turned {
        marks::reach(Mark::BreakerOpened);
        let probe_at = now.after(pause);
        self.phase = Phase::Open { pause, probe_at };
        Turned::Opened { probe_at }
    }
}
