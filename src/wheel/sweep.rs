//! Dropping hints that lead to nothing, a little with each one added, so that they never outnumber the rest by much.

use super::Wheel;
use super::late::Key;
use super::levels::{Bucket, LEVELS};
use super::queue::Queue;

/// A sweep begins when there are more than two hints for each entry, and this many.
const SLACK: usize = 1_024;
/// Hints that one step looks at.
const STEP: usize = 64;

/// How far the sweep is. It goes from the top level down, as hints do: none gets past it unseen.
#[derive(Debug)]
pub(super) enum Sweep {
    Resting,
    /// Goes on with the first occupied bucket of a level from a digit on.
    From {
        level: usize,
        digit: usize,
    },
    /// In the middle of a bucket: what is kept of it so far.
    Within {
        bucket: Bucket,
        kept: Queue,
    },
    /// At last, those that were late: goes on behind a key.
    Late(Option<Key>),
}

impl<T: Copy> Wheel<T> {
    /// Hints in buckets and late ones.
    pub(super) fn hints(&self) -> usize {
        self.levels.hints() + self.late.len()
    }

    /// To be called with each change that adds a hint. Those that only make one stale take no memory.
    #[inline]
    pub(super) fn tidy(&mut self) {
        if !matches!(self.sweep, Sweep::Resting) {
            self.sweep_step();
        } else if self.hints() > 2 * self.slab.len() + SLACK {
            self.sweep = Sweep::From { level: LEVELS - 1, digit: 0 };
        }
    }

    /// Gives a bucket back what the sweep has set aside of it. To be called before anything else is taken from it.
    #[inline]
    pub(super) fn stop_sweep_of(&mut self, bucket: Bucket) {
        if matches!(self.sweep, Sweep::Within { bucket: swept, .. } if swept == bucket) {
            self.stop_sweep();
        }
    }

    /// Likewise for whichever bucket it is.
    pub(super) fn stop_sweep(&mut self) {
        if let Sweep::Within { bucket, kept } = self.sweep {
            self.levels.prepend(bucket, kept);
            self.sweep = Sweep::From { level: bucket.level, digit: bucket.digit + 1 };
        }
    }

    #[cold]
    fn sweep_step(&mut self) {
        // Passing over an empty level counts for something too.
        let mut left = STEP;
        while left > 0 {
            left = left.saturating_sub(match self.sweep {
                Sweep::Resting => return,
                Sweep::From { level, digit } => {
                    self.sweep = match (self.levels.next_on(level, digit), level.checked_sub(1)) {
                        (Some(bucket), _) => Sweep::Within { bucket, kept: Queue::EMPTY },
                        (None, Some(level)) => Sweep::From { level, digit: 0 },
                        (None, None) => Sweep::Late(None),
                    };
                    4
                }
                Sweep::Within { bucket, kept } => self.sweep_bucket(bucket, kept, left),
                Sweep::Late(key) => {
                    self.sweep_late(key);
                    4
                }
            });
        }
    }

    /// Looks at up to `limit` hints of the bucket; how many it were.
    fn sweep_bucket(&mut self, bucket: Bucket, mut kept: Queue, limit: usize) -> usize {
        let mut hints = std::mem::take(&mut self.buffer);
        self.levels.take(bucket, limit, &mut hints);
        let seen = hints.len();
        self.winnow(bucket, &mut hints);
        self.levels.set_aside(&mut kept, &hints);
        hints.clear();
        self.buffer = hints;
        self.sweep = Sweep::Within { bucket, kept };
        if self.levels.len(bucket) == 0 {
            self.stop_sweep();
        }
        seen
    }

    fn sweep_late(&mut self, key: Option<Key>) {
        let Some((key, ticket)) = self.late.after(key) else {
            self.sweep = Sweep::Resting;
            return;
        };
        self.sweep = Sweep::Late(Some(key));
        match self.slab.tick(ticket) {
            Some(tick) if tick == key.0 => {}
            Some(tick) => {
                self.late.remove(key);
                self.place(ticket, tick);
            }
            None => self.late.remove(key),
        }
    }
}
