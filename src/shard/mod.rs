//! What may be broadcast now. Pure: one worker's part of a pool, without clock, thread or future.
//!
//! Among what waits, the priority decides, and waiting makes up for it; among posts of one priority the profiles take
//! turns ([`waiting`]). What the pool's [`Gate`] holds back is set aside with its profile, or stops the shard.

#[cfg(any(test, feature = "test-util"))]
pub(crate) mod model;
mod queue;
mod running;
// What loom brings along leaves the type of an empty list in them open.
#[cfg(all(test, not(interleave = "loom")))]
mod tests;
mod waiting;

use std::time::Duration;

use running::Running;
pub use running::{Ended, Token};
use waiting::Waiting;

use crate::gate::{Entry, Gate};
use crate::limits;
use crate::post::Delivery;
use crate::quota::Scope;
use crate::time::{Now, Timestamp, Wake};

/// One worker's part of a pool.
#[derive(Debug)]
pub struct Shard {
    concurrency: usize,
    gate: Gate,
    waiting: Waiting,
    running: Running,
    /// Until when the gate lets nobody in.
    shut_until: Option<Timestamp>,
}

impl Shard {
    /// A shard that lets so many deliveries run at once, each for so long without a sign of life.
    pub fn new(concurrency: usize, timeout: Duration, gate: Gate) -> Self {
        Self { concurrency, gate, waiting: Waiting::default(), running: Running::new(timeout), shut_until: None }
    }

    /// Takes a delivery whose due has come.
    pub fn push(&mut self, delivery: Delivery) {
        self.waiting.push(delivery);
    }

    /// Takes a delivery ahead of its due, to start it then.
    pub fn keep(&mut self, delivery: Delivery) {
        self.waiting.keep(delivery);
    }

    /// The next delivery to start at `now`, if one may. The gate has let it in.
    pub fn poll_start(&mut self, now: Now) -> Option<(Token, Delivery)> {
        self.waiting.wake(now.wall);
        self.shut_until = self.shut_until.filter(|until| *until > now.wall);
        while self.shut_until.is_none() && self.running.len() < self.concurrency {
            let head = self.waiting.next()?;
            let Some(delivery) = self.waiting.get(head) else {
                self.waiting.take_out(head);
                continue;
            };
            if delivery.facts().stage.is_withdrawn() {
                self.waiting.take_out(head);
                continue;
            }
            if delivery.facts().at > now.wall {
                self.waiting.set_early(head);
                continue;
            }
            let entry = if self.gate.is_open() { Entry::Go } else { self.gate.enter(delivery.profile(), now.wall) };
            match entry {
                Entry::Go => {
                    let delivery = self.waiting.start(head)?;
                    return Some((self.running.start(now, delivery.clone()), delivery));
                }
                Entry::Wait { scope: Scope::Profile, until } if head.has_profile() => self.waiting.block(head, until),
                Entry::Wait { until, .. } => {
                    self.waiting.put_back(head);
                    self.shut_until = Some(until);
                }
            }
        }
        None
    }

    /// One that waited until its deadline passed; it leaves the shard. Call again until `None`.
    pub fn poll_missed(&mut self, now: Now) -> Option<Delivery> {
        self.waiting.poll_missed(now.wall)
    }

    /// One that is held back for so long that the engine should have it; it leaves the shard, with the instant until
    /// when. Call again until `None`.
    pub fn poll_returned(&mut self, now: Now) -> Option<(Delivery, Timestamp)> {
        let soon = now.wall.after(limits::GIVE_BACK);
        if let Some(until) = self.shut_until.filter(|until| *until > soon)
            && let Some(delivery) = self.waiting.take_back()
        {
            return Some((delivery, until));
        }
        self.waiting.poll_returned(soon)
    }

    /// The delivery of this token has ended. `None` if it had been given up before.
    pub fn finish(&mut self, token: Token) -> Option<Ended> {
        self.running.finish(token)
    }

    /// A sign of life: the timeout of this delivery begins anew. False if it is not running.
    pub fn extend(&mut self, token: Token, now: Now) -> bool {
        self.running.extend(token, now)
    }

    /// The delivery that has been out of time for longest at `now`; it is given up. Call again until `None`.
    pub fn poll_expired(&mut self, now: Now) -> Option<Ended> {
        self.running.poll_expired(now)
    }

    /// Takes back everything that has not been started and is still wanted.
    #[cfg(any(test, feature = "test-util"))]
    pub fn recall_all(&mut self) -> Vec<Delivery> {
        self.waiting.drain().filter(|delivery| !delivery.facts().stage.is_withdrawn()).collect()
    }

    /// When to look at the shard again if nothing else happens.
    pub fn poll_timeout(&self) -> Wake {
        let wall = [self.waiting.poll_timeout(), self.shut_until].into_iter().flatten().min();
        Wake { wall, mono: self.running.poll_timeout() }
    }

    /// What has been started and has not ended.
    pub fn started(&self) -> impl Iterator<Item = &Delivery> {
        self.running.iter()
    }

    /// The delivery of this token, if it has not ended.
    pub fn delivery(&self, token: Token) -> Option<&Delivery> {
        self.running.get(token)
    }

    /// Whether this delivery has not ended.
    pub fn is_running(&self, token: Token) -> bool {
        self.running.contains(token)
    }

    /// The limits were changed: everything that is held back is to be tried again.
    pub fn look(&mut self) {
        self.shut_until = None;
        self.waiting.unblock();
    }

    /// How many deliveries are running.
    #[cfg(any(test, feature = "test-util"))]
    pub fn running(&self) -> usize {
        self.running.len()
    }
}
