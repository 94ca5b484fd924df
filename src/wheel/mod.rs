//! A hierarchical timing wheel: what fires when. Pure: it is told the time and never reads it.
//!
//! The entries are in a slab, which alone knows the truth about them. Buckets hold *hints*: "this entry may fire at
//! that tick". To cancel an entry is to free its slot; to move it to a later tick is to write the tick; only a
//! move to an earlier one takes a new hint. A hint that surfaces and is wrong is dropped, or placed again where the
//! entry went. Sequential chunks of hints, rather than lists through the slots, are what makes ten million
//! entries as fast as ten thousand.
//!
//! Six levels of 4,096 buckets cover every 64-bit tick. When time reaches a bucket, a small one is sorted into the
//! *run*, which is read in order, and a large one is spread over the levels below, whole chunks at a time where
//! they stay together. What comes for the current bucket afterwards is merged from level 0.
//!
//! **Bounds.** No call looks at more than some thousand hints, or as many as the entries it hands out: spreading a
//! bucket, sweeping stale hints and handing out stop, and go on with the next call. None sorts more than 16,384.
//! [`Wheel::rewind`] is the one exception. An entry takes 16 bytes (with a payload of four) and 12.3 per hint. A hint for each entry is all there is unless
//! entries move; stale hints are swept while new ones come, which keeps them to about one more for each entry, and
//! a thousand. Memory is kept for reuse. A wheel holds fewer than 2³² entries.

mod hand_out;
mod late;
mod levels;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod model;
mod queue;
mod run;
mod segments;
mod slab;
mod sweep;
#[cfg(test)]
mod tests;
mod wake;

use late::Late;
use levels::{Bucket, Levels};
use queue::{Hint, Queue};
use run::Run;
pub use slab::Handle;
use slab::{Retimed, Slab, Ticket};
use sweep::Sweep;

/// Entries of type `T`, each to be handed out at its tick.
#[derive(Debug)]
pub struct Wheel<T> {
    slab: Slab<T>,
    levels: Levels,
    run: Run,
    late: Late,
    now: u64,
    /// The bucket that is being spread over the levels below. Until that is done, what comes for it is put
    /// behind what it holds: so those of one tick stay in order.
    spreading: Option<Bucket>,
    sweep: Sweep,
    /// The smallest tick of all entries, when known.
    earliest: Option<u64>,
    /// Hints on their way from one place to another; empty between calls.
    buffer: Vec<Hint>,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel at a time.
    pub fn new(now: u64) -> Self {
        Self {
            slab: Slab::new(),
            levels: Levels::new(),
            run: Run::new(),
            late: Late::new(),
            now,
            spreading: None,
            sweep: Sweep::Resting,
            earliest: None,
            buffer: Vec::new(),
        }
    }

    /// The time up to which entries have been handed out.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether no entry waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets an entry to fire at a tick, which may be any. One that is not after `now()` fires with the next advance.
    pub fn insert(&mut self, at: u64, item: T) -> Handle {
        let ticket = self.slab.insert(at, item);
        self.place(ticket, at);
        if let Some(earliest) = &mut self.earliest {
            *earliest = at.min(*earliest);
        }
        self.tidy();
        ticket.handle()
    }

    /// Takes an entry out before it fires. `None` if it has fired or was cancelled.
    pub fn cancel(&mut self, handle: Handle) -> Option<T> {
        let (tick, item) = self.slab.remove(handle)?;
        if self.earliest == Some(tick) {
            self.earliest = None;
        }
        Some(item)
    }

    /// Moves an entry to another tick; its handle stays valid. `false` if it has fired or was cancelled.
    pub fn retime(&mut self, handle: Handle, at: u64) -> bool {
        let Some(Retimed { from, ticket }) = self.slab.retime(handle, at) else { return false };
        self.earliest = match self.earliest {
            Some(earliest) if at <= earliest => Some(at),
            Some(earliest) if from == earliest => None,
            earliest => earliest,
        };
        if let Some(ticket) = ticket {
            self.place(ticket, at);
            self.tidy();
        }
        true
    }

    /// The clock was set back: time becomes `now`, and all entries keep their ticks. A time that is not earlier
    /// changes nothing. The one call that may take long: it depends on what was about to fire.
    pub fn rewind(&mut self, now: u64) {
        if now >= self.now {
            return;
        }
        self.stop_sweep();
        self.spreading = None;
        // All that was placed by the digits below the highest one that changes goes back to where that digit puts it.
        let back = Bucket::of(self.now, now);
        if back.level > 0 {
            let mut unread = Queue::EMPTY;
            self.levels.set_aside(&mut unread, self.run.rest());
            self.run.open(now, 0);
            self.levels.gather(back, unread);
        }
        self.now = now;
        for (tick, ticket) in self.late.split_after(now) {
            self.place(ticket, tick);
        }
    }

    /// Puts a hint where its tick belongs.
    #[inline]
    fn place(&mut self, ticket: Ticket, tick: u64) {
        if tick <= self.now {
            self.late.push(tick, ticket);
            return;
        }
        let belongs = Bucket::of(tick, self.now);
        let bucket = match self.spreading {
            Some(spreading) if belongs.level < spreading.level => spreading,
            _ => belongs,
        };
        self.levels.push(bucket, Hint::new(ticket, tick));
    }

    /// Of the hints taken from a bucket, leaves those that tell the truth and belong there. The others that lead to
    /// an entry are placed where it went.
    fn winnow(&mut self, bucket: Bucket, hints: &mut Vec<Hint>) {
        let (start, span) = (bucket.start(self.now), bucket.span());
        let strays = self.slab.verify(hints, |tick| tick.wrapping_sub(start) > span);
        if strays > 0 {
            hints.retain(|hint| match self.slab.tick(hint.ticket) {
                Some(tick) if tick.wrapping_sub(start) > span => {
                    self.place(hint.ticket, tick);
                    false
                }
                _ => true,
            });
        }
    }
}
