//! The entries themselves: their true tick, their payload, and who may still speak of them.

use std::num::NonZeroU32;

use super::queue::Hint;
use super::segments::Segments;

/// No slot: the end of the list of free ones.
const NONE: u32 = u32::MAX;
/// A stamp is a generation above a revision of this many bits.
const REVISION_MASK: u32 = 0xF;
const GENERATION: u32 = REVISION_MASK + 1;

/// Names an entry for as long as it is in the wheel. After that it names nothing, even when its place in memory
/// is used again (up to 2²⁷ times).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle {
    index: u32,
    /// The stamp with all revision bits set: the same for every revision, and never zero.
    generation: NonZeroU32,
}

/// Names one revision of an entry: what a hint carries. Only the latest ticket of an entry is honoured.
///
/// The revision wraps. An old ticket is then honoured too, which is harmless: the slot is the truth about the
/// tick, so a hint too many finds the entry gone or not due yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    index: u32,
    stamp: u32,
}

impl Ticket {
    /// Fills unused room in a chunk of hints. Its stamp is that of no entry.
    pub(super) const BLANK: Self = Self { index: NONE, stamp: 0 };

    pub(super) fn handle(self) -> Handle {
        Handle { index: self.index, generation: NonZeroU32::MIN | self.stamp | REVISION_MASK }
    }
}

/// 16 bytes with a payload of four.
#[derive(Debug)]
struct Slot<T> {
    /// When it fires; in a free slot, the next free one.
    tick: u64,
    /// An odd generation is an entry, an even one a free slot.
    stamp: u32,
    item: T,
}

/// What a ticket that surfaced turned out to be.
pub(super) enum Fate<T> {
    /// The entry fires. It is out of the slab.
    Due(u64, T),
    /// The entry was re-timed: it fires at this tick.
    Later(u64),
    /// Nothing: the entry is gone or has a newer ticket.
    Gone,
}

/// What re-timing an entry came to.
pub(super) struct Retimed {
    /// The tick it had.
    pub(super) from: u64,
    /// The new ticket to place when it moved to an earlier tick. Moved to a later one, it keeps its ticket, which
    /// surfaces early and is then placed again.
    pub(super) ticket: Option<Ticket>,
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Segments<Slot<T>, 14>,
    free: u32,
    live: usize,
}

impl<T: Copy> Slab<T> {
    #[cfg(test)]
    pub(super) const SLOT_BYTES: usize = size_of::<Slot<T>>();

    pub(super) const fn new() -> Self {
        Self { slots: Segments::new(), free: NONE, live: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    #[inline]
    pub(super) fn insert(&mut self, tick: u64, item: T) -> Ticket {
        self.live += 1;
        let index = self.free;
        if let Some(slot) = self.slots.get_mut(index) {
            self.free = slot.tick as u32;
            slot.stamp = slot.stamp.wrapping_add(GENERATION);
            slot.tick = tick;
            slot.item = item;
            return Ticket { index, stamp: slot.stamp };
        }
        let stamp = GENERATION;
        Ticket { index: self.slots.push(Slot { tick, stamp, item }), stamp }
    }

    /// Takes the entry out: its tick and payload.
    #[inline]
    pub(super) fn remove(&mut self, handle: Handle) -> Option<(u64, T)> {
        let slot = self.slots.get_mut(handle.index)?;
        if slot.stamp | REVISION_MASK != handle.generation.get() {
            return None;
        }
        let entry = (slot.tick, slot.item);
        slot.release(&mut self.free, handle.index);
        self.live -= 1;
        Some(entry)
    }

    #[inline]
    pub(super) fn retime(&mut self, handle: Handle, at: u64) -> Option<Retimed> {
        let slot = self.slots.get_mut(handle.index)?;
        if slot.stamp | REVISION_MASK != handle.generation.get() {
            return None;
        }
        let from = std::mem::replace(&mut slot.tick, at);
        if at >= from {
            return Some(Retimed { from, ticket: None });
        }
        slot.stamp = (slot.stamp & !REVISION_MASK) | (slot.stamp.wrapping_add(1) & REVISION_MASK);
        Some(Retimed { from, ticket: Some(Ticket { index: handle.index, stamp: slot.stamp }) })
    }

    /// The true tick of the entry, if the ticket is its latest.
    #[inline]
    pub(super) fn tick(&self, ticket: Ticket) -> Option<u64> {
        let (latest, tick) = self.look(ticket);
        latest.then_some(tick)
    }

    /// Leaves the hints with the latest ticket of their entry and tells them its tick; of how many the tick is a
    /// stray one. There is no branch on what the slots hold: it would be a coin toss where many hints are stale,
    /// and each wrong guess would wait for memory.
    pub(super) fn verify(&self, hints: &mut Vec<Hint>, is_stray: impl Fn(u64) -> bool) -> usize {
        let (mut kept, mut strays) = (0, 0);
        for next in 0..hints.len() {
            let ticket = hints[next].ticket;
            let (latest, tick) = self.look(ticket);
            hints[kept] = Hint::new(ticket, tick);
            kept += usize::from(latest);
            strays += usize::from(latest & is_stray(tick));
        }
        hints.truncate(kept);
        strays
    }

    /// Whether the ticket is the latest of its entry, and the tick in its slot.
    #[inline]
    fn look(&self, ticket: Ticket) -> (bool, u64) {
        self.slots.get(ticket.index).map_or((false, 0), |slot| (slot.stamp == ticket.stamp, slot.tick))
    }

    /// Takes the entry out if it is due at `now`.
    #[inline]
    pub(super) fn surface(&mut self, ticket: Ticket, now: u64) -> Fate<T> {
        let Some(slot) = self.slots.get_mut(ticket.index).filter(|slot| slot.stamp == ticket.stamp) else {
            return Fate::Gone;
        };
        if slot.tick > now {
            return Fate::Later(slot.tick);
        }
        let due = Fate::Due(slot.tick, slot.item);
        slot.release(&mut self.free, ticket.index);
        self.live -= 1;
        due
    }
}

impl<T> Slot<T> {
    #[inline]
    fn release(&mut self, free: &mut u32, index: u32) {
        self.stamp = (self.stamp & !REVISION_MASK).wrapping_add(GENERATION);
        self.tick = u64::from(*free);
        *free = index;
    }
}
