//! What may be broadcast now. Pure: one worker's part of a pool, without clock, thread or future.

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::Duration;

use priority_queue::PriorityQueue;
use rustc_hash::FxHasher;
use slab::Slab;

use crate::id::{PostId, Seq};
use crate::post::{Delivery, Priority};
use crate::time::{Now, Timestamp, Wake};

/// Deliveries that wait, highest rank first, removable by post.
type Queue = PriorityQueue<Waiting, Rank, BuildHasherDefault<FxHasher>>;

/// Who goes first: higher priority, then earlier due, then earlier arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank(Priority, Reverse<Timestamp>, Reverse<Seq>);

/// A delivery, found by its post alone.
#[derive(Debug)]
struct Waiting(Delivery);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.0.facts().id == other.0.facts().id
    }
}

impl Eq for Waiting {}

impl Hash for Waiting {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.facts().id.hash(state);
    }
}

impl Borrow<PostId> for Waiting {
    fn borrow(&self) -> &PostId {
        &self.0.facts().id
    }
}

/// The deliveries of one profile that asks for order.
#[derive(Debug, Default)]
struct Lane {
    /// Whether one of them is in flight.
    busy: bool,
    /// Those that had to step back while it was.
    behind: Queue,
}

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
}

/// A delivery that was started and has not ended. Running deliveries form a list in the order of their start,
/// which is the order of their deadlines.
#[derive(Debug)]
struct Running {
    serial: u64,
    delivery: Delivery,
    deadline: Duration,
    lane: Option<Box<str>>,
    older: usize,
    newer: usize,
}

const NONE: usize = usize::MAX;

/// A delivery that ended, or was given up.
#[derive(Clone, Debug)]
pub struct Ended {
    pub token: Token,
    pub delivery: Delivery,
}

/// One worker's part of a pool.
#[derive(Debug)]
pub struct Shard {
    concurrency: usize,
    timeout: Duration,
    ready: Queue,
    /// Handed over as due, but the wall clock has stepped back since.
    early: BTreeMap<(Timestamp, Seq), Delivery>,
    lanes: HashMap<Box<str>, Lane, BuildHasherDefault<FxHasher>>,
    running: Slab<Running>,
    oldest: usize,
    newest: usize,
    serial: u64,
}

impl Shard {
    /// A shard that lets so many deliveries run at once, each for so long.
    pub fn new(concurrency: usize, timeout: Duration) -> Self {
        Self {
            concurrency,
            timeout,
            ready: Queue::default(),
            early: BTreeMap::new(),
            lanes: HashMap::default(),
            running: Slab::new(),
            oldest: NONE,
            newest: NONE,
            serial: 0,
        }
    }

    /// Takes a delivery whose due has come.
    pub fn push(&mut self, delivery: Delivery) {
        let rank = rank(&delivery);
        self.ready.push(Waiting(delivery), rank);
    }

    /// The next delivery to start at `now`, if one may.
    pub fn poll_start(&mut self, now: Now) -> Option<(Token, Delivery)> {
        while let Some((&(at, seq), _)) = self.early.first_key_value().filter(|((at, _), _)| *at <= now.wall) {
            if let Some(delivery) = self.early.remove(&(at, seq)) {
                self.push(delivery);
            }
        }
        while self.running.len() < self.concurrency {
            let (Waiting(delivery), rank) = self.ready.pop()?;
            if delivery.facts().at > now.wall {
                self.early.insert((delivery.facts().at, delivery.id().seq()), delivery);
                continue;
            }
            let lane = delivery.facts().body.in_order().then(|| Box::<str>::from(delivery.profile()));
            if let Some(profile) = &lane {
                let lane = self.lanes.entry(profile.clone()).or_default();
                if lane.busy {
                    lane.behind.push(Waiting(delivery), rank);
                    continue;
                }
                lane.busy = true;
            }
            return Some((self.start(now, &delivery, lane), delivery));
        }
        None
    }

    fn start(&mut self, now: Now, delivery: &Delivery, lane: Option<Box<str>>) -> Token {
        self.serial += 1;
        let index = self.running.insert(Running {
            serial: self.serial,
            delivery: delivery.clone(),
            deadline: now.mono.saturating_add(self.timeout),
            lane,
            older: self.newest,
            newer: NONE,
        });
        match self.running.get_mut(self.newest) {
            Some(before) => before.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
        Token { index, serial: self.serial }
    }

    /// The delivery of this token has ended. `None` if it had been given up before.
    pub fn finish(&mut self, token: Token) -> Option<Ended> {
        self.running.get(token.index).filter(|running| running.serial == token.serial)?;
        let running = self.running.remove(token.index);
        match self.running.get_mut(running.older) {
            Some(older) => older.newer = running.newer,
            None => self.oldest = running.newer,
        }
        match self.running.get_mut(running.newer) {
            Some(newer) => newer.older = running.older,
            None => self.newest = running.older,
        }
        if let Some(profile) = running.lane {
            if let Some(lane) = self.lanes.get_mut(&profile) {
                lane.busy = false;
            }
            self.next_in_lane(&profile);
        }
        Some(Ended { token, delivery: running.delivery })
    }

    /// Lets the first of those behind step forward, if the lane is free.
    fn next_in_lane(&mut self, profile: &str) {
        let Some(lane) = self.lanes.get_mut(profile).filter(|lane| !lane.busy) else { return };
        match lane.behind.pop() {
            Some((waiting, rank)) => {
                self.ready.push(waiting, rank);
            }
            None => {
                self.lanes.remove(profile);
            }
        }
    }

    /// Takes back a delivery that has not been started, and says where the engine keeps it; `None` if it has.
    pub fn recall(&mut self, id: PostId) -> Option<u32> {
        let waiting = match self.ready.remove(&id) {
            Some((Waiting(delivery), _)) => Some(delivery),
            None => self.early.extract_if(.., |_, delivery| delivery.id() == id).next().map(|(_, delivery)| delivery),
        };
        match waiting {
            Some(delivery) => {
                if delivery.facts().body.in_order() {
                    // It may have been the one that the others behind it waited for.
                    self.next_in_lane(delivery.profile());
                }
                Some(delivery.facts().slot)
            }
            None => self
                .lanes
                .values_mut()
                .find_map(|lane| lane.behind.remove(&id))
                .map(|(waiting, _)| waiting.0.facts().slot),
        }
    }

    /// Takes back everything that has not been started.
    pub fn recall_all(&mut self) -> Vec<(PostId, u32)> {
        let queues = std::iter::once(&mut self.ready).chain(self.lanes.values_mut().map(|lane| &mut lane.behind));
        let mut recalled = Vec::new();
        for queue in queues {
            recalled.extend(queue.drain().map(|(Waiting(delivery), _)| (delivery.id(), delivery.facts().slot)));
        }
        recalled.extend(
            std::mem::take(&mut self.early).into_values().map(|delivery| (delivery.id(), delivery.facts().slot)),
        );
        recalled
    }

    /// The oldest delivery whose time is up at `now`; it is given up. Call again until `None`.
    pub fn poll_expired(&mut self, now: Now) -> Option<Ended> {
        let running = self.running.get(self.oldest).filter(|running| running.deadline <= now.mono)?;
        self.finish(Token { index: self.oldest, serial: running.serial })
    }

    /// When to look at the shard again if nothing else happens.
    pub fn poll_timeout(&self) -> Wake {
        Wake {
            wall: self.early.first_key_value().map(|((at, _), _)| *at),
            mono: self.running.get(self.oldest).map(|running| running.deadline),
        }
    }

    /// What has been started and has not ended.
    pub fn started(&self) -> impl Iterator<Item = &Delivery> {
        self.running.iter().map(|(_, running)| &running.delivery)
    }

    /// Whether this delivery has not ended.
    pub fn is_running(&self, token: Token) -> bool {
        self.running.get(token.index).is_some_and(|running| running.serial == token.serial)
    }

    /// How many deliveries are running.
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

fn rank(delivery: &Delivery) -> Rank {
    Rank(delivery.facts().body.priority(), Reverse(delivery.facts().at), Reverse(delivery.id().seq()))
}
