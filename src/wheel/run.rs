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
    /// How many more are taken up.
    room: usize,
    /// The first tick of the bucket.
    start: u64,
    /// What is sorted into; empty between calls.
    sorted: Vec<Hint>,
}

impl Run {
    pub(super) const fn new() -> Self {
        Self { hints: Vec::new(), next: 0, room: 0, start: 0, sorted: Vec::new() }
    }

    /// Begins anew, with the bucket that starts at a tick and room for so many of its hints.
    pub(super) fn open(&mut self, start: u64, room: usize) {
        self.hints.clear();
        (self.next, self.room, self.start) = (0, room, start);
    }

    pub(super) fn is_open(&self) -> bool {
        self.room > 0
    }

    /// Takes up hints. `false` if there is not enough room: from then on it takes none.
    pub(super) fn load(&mut self, hints: &[Hint]) -> bool {
        let fits = hints.len() <= self.room;
        if fits {
            self.hints.extend_from_slice(hints);
        }
        self.room = self.room.saturating_sub(hints.len());
        fits
    }

    /// Makes what was taken up ready to be read. Hints of one tick stay in order.
    pub(super) fn close(&mut self) {
        self.room = 0;
        let number = |hint: &Hint| hint.low as usize % BUCKETS;
        if self.hints.len() < FEW {
            self.hints.sort_by_key(number);
            return;
        }
        let mut ends = [0_u32; BUCKETS];
        self.hints.iter().for_each(|hint| ends[number(hint)] += 1);
        ends.iter_mut().fold(0, |end, count| {
            *count += end;
            *count
        });
        self.sorted.extend_from_slice(&self.hints);
        for hint in self.hints.drain(..).rev() {
            let place = &mut ends[number(&hint)];
            *place -= 1;
            self.sorted[*place as usize] = hint;
        }
        std::mem::swap(&mut self.hints, &mut self.sorted);
    }

    /// The hints not yet read.
    pub(super) fn rest(&self) -> &[Hint] {
        self.hints.get(self.next..).unwrap_or_default()
    }

    /// Likewise, as ticks and tickets.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Ticket)> {
        let bucket = Bucket { level: LEVEL, digit: 0 };
        self.rest().iter().map(move |hint| (bucket.tick(hint.low, self.start), hint.ticket))
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
