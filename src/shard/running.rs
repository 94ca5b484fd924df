//! What has been started and has not ended: a list in the order of the last sign of life, which is the order in which
//! time runs out.

use std::time::Duration;

use slab::Slab;

use crate::post::Delivery;
use crate::sabotage::{self, Switch};
use crate::time::{Now, Timestamp};

/// Names one started delivery. A token outlives its delivery harmlessly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    index: usize,
    serial: u64,
}

impl Token {
    /// A small number that no other running delivery of the shard has.
    pub fn index(self) -> usize {
        self.index
    }

    /// Rises with each delivery that the shard starts.
    pub fn serial(self) -> u64 {
        self.serial
    }
}

impl From<(usize, u64)> for Token {
    fn from((index, serial): (usize, u64)) -> Self {
        Self { index, serial }
    }
}

impl From<Token> for (usize, u64) {
    fn from(token: Token) -> Self {
        (token.index, token.serial)
    }
}

/// A delivery that ended, or was given up.
#[derive(Clone, Debug)]
pub struct Ended {
    pub token: Token,
    pub delivery: Delivery,
    /// The wall clock at its start: what its gate was told.
    pub entered: Timestamp,
}

#[derive(Debug)]
struct Place {
    serial: u64,
    delivery: Delivery,
    entered: Timestamp,
    expires: Duration,
    older: usize,
    newer: usize,
}

const NONE: usize = usize::MAX;

#[derive(Debug)]
pub struct Running {
    timeout: Duration,
    places: Slab<Place>,
    oldest: usize,
    newest: usize,
    serial: u64,
}

impl Running {
    /// Each may go on for this long without a sign of life.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, places: Slab::new(), oldest: NONE, newest: NONE, serial: 0 }
    }

    pub fn start(&mut self, now: Now, delivery: Delivery) -> Token {
        self.serial += 1;
        let index = self.places.insert(Place {
            serial: self.serial,
            delivery,
            entered: now.wall,
            expires: now.mono.saturating_add(self.timeout),
            older: NONE,
            newer: NONE,
        });
        self.append(index);
        Token { index, serial: self.serial }
    }

    pub fn finish(&mut self, token: Token) -> Option<Ended> {
        if !self.contains(token) {
            return None;
        }
        self.detach(token.index);
        let Place { delivery, entered, .. } = self.places.try_remove(token.index)?;
        Some(Ended { token, delivery, entered })
    }

    pub fn extend(&mut self, token: Token, now: Now) -> bool {
        if !self.contains(token) {
            return false;
        }
        self.detach(token.index);
        if let Some(place) = self.places.get_mut(token.index) {
            place.expires = now.mono.saturating_add(self.timeout);
        }
        self.append(token.index);
        true
    }

    pub fn poll_expired(&mut self, now: Now) -> Option<Ended> {
        let Place { serial, .. } = self.places.get(self.oldest).filter(|place| place.expires <= now.mono)?;
        self.finish(Token { index: self.oldest, serial: *serial })
    }

    /// When the next one is out of time.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.places.get(self.oldest).map(|place| place.expires)
    }

    pub fn contains(&self, token: Token) -> bool {
        let is_any = sabotage::is(Switch::StaleToken);
        self.places.get(token.index).is_some_and(|place| is_any || place.serial == token.serial)
    }

    pub fn get(&self, token: Token) -> Option<&Delivery> {
        self.places.get(token.index).filter(|place| place.serial == token.serial).map(|place| &place.delivery)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.places.iter().map(|(_, place)| &place.delivery)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    fn append(&mut self, index: usize) {
        match self.places.get_mut(self.newest) {
            Some(newest) => newest.newer = index,
            None => self.oldest = index,
        }
        if let Some(place) = self.places.get_mut(index) {
            (place.older, place.newer) = (self.newest, NONE);
        }
        self.newest = index;
    }

    fn detach(&mut self, index: usize) {
        let Some(&Place { older, newer, .. }) = self.places.get(index) else { return };
        match self.places.get_mut(older) {
            Some(place) => place.newer = newer,
            None => self.oldest = newer,
        }
        match self.places.get_mut(newer) {
            Some(place) => place.older = older,
            None => self.newest = older,
        }
    }
}
