//! The entries that were already due when they were set, by tick and then in the order in which they came.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::slab::Ticket;

/// A tick, and the number of the arrival.
pub(super) type Key = (u64, u64);

#[derive(Debug)]
pub(super) struct Late {
    tickets: BTreeMap<Key, Ticket>,
    arrivals: u64,
}

impl Late {
    pub(super) const fn new() -> Self {
        Self { tickets: BTreeMap::new(), arrivals: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    pub(super) fn push(&mut self, tick: u64, ticket: Ticket) {
        self.tickets.insert((tick, self.arrivals), ticket);
        self.arrivals += 1;
    }

    #[inline]
    pub(super) fn first(&self) -> Option<(u64, Ticket)> {
        self.tickets.first_key_value().map(|(&(tick, _), &ticket)| (tick, ticket))
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Ticket)> {
        self.tickets.pop_first().map(|((tick, _), ticket)| (tick, ticket))
    }

    /// The first one after a key, or of all.
    pub(super) fn after(&self, key: Option<Key>) -> Option<(Key, Ticket)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.tickets.range((from, Bound::Unbounded)).next().map(|(&key, &ticket)| (key, ticket))
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.tickets.remove(&key);
    }

    /// Takes all with a tick later than this one, in order.
    pub(super) fn split_after(&mut self, tick: u64) -> impl Iterator<Item = (u64, Ticket)> + use<> {
        let later = match tick.checked_add(1) {
            Some(next) => self.tickets.split_off(&(next, 0)),
            None => BTreeMap::new(),
        };
        later.into_iter().map(|((tick, _), ticket)| (tick, ticket))
    }
}
