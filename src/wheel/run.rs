//! The bucket whose time it is, sorted by tick and read in order.

use super::levels::{BUCKETS, Bucket};
use super::queue::Hint;
use super::slab::Ticket;

/// The run holds a bucket of this level: each of its ticks has a number below [`BUCKETS`].
pub(super) const LEVEL: usize = 1;
/// Fewer hints than this are sorted by comparing them.
const FEW: usize = 128;

#[derive(Debug)]
pub(super) struct Run {
    hints: Vec<Hint>,
    /// The first one not yet read.
    next: usize,
    /// The first tick of the bucket.
    start: u64,
}

impl Run {
    pub(super) const fn new() -> Self {
        Self { hints: Vec::new(), next: 0, start: 0 }
    }

    /// Takes up the hints of the bucket that starts at a tick, and leaves none. Those of one tick stay in order.
    pub(super) fn load(&mut self, start: u64, hints: &mut Vec<Hint>) {
        (self.next, self.start) = (0, start);
        let number = |hint: &Hint| hint.low as usize % BUCKETS;
        if hints.len() < FEW {
            hints.sort_by_key(number);
            std::mem::swap(&mut self.hints, hints);
        } else {
            let mut ends = [0; BUCKETS];
            hints.iter().for_each(|hint| ends[number(hint)] += 1);
            ends.iter_mut().fold(0, |end, count| {
                *count += end;
                *count
            });
            self.hints.clone_from(hints);
            for hint in hints.iter().rev() {
                let place = &mut ends[number(hint)];
                *place -= 1;
                self.hints[*place] = *hint;
            }
        }
        hints.clear();
    }

    /// The hints not yet read.
    pub(super) fn rest(&self) -> &[Hint] {
        self.hints.get(self.next..).unwrap_or_default()
    }

    /// Likewise, as ticks and tickets.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Ticket)> {
        let bucket = Bucket { level: LEVEL, digit: 0 };
        self.rest().iter().map(move |hint| (bucket.tick_of(*hint, self.start), hint.ticket))
    }

    #[inline]
    pub(super) fn front(&self) -> Option<(u64, Ticket)> {
        self.iter().next()
    }

    /// Passes over hints as read.
    #[inline]
    pub(super) fn skip(&mut self, hints: usize) {
        self.next = self.next.saturating_add(hints).min(self.hints.len());
    }
}
