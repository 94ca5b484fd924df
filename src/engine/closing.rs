//! How it comes to rest: those who wait until nothing is due, and a shutdown.

use std::time::Duration;

use crate::marks::{self, Mark};
use crate::post::Delivery;
use crate::reply::Promise;

use super::lifecycle::Phase;
use super::message::Effect;
use super::{Engine, Resident, instant};

/// A shutdown under way.
#[derive(Debug)]
pub struct Closing {
    pub deadline: Duration,
    pub promise: Option<Promise<()>>,
    pub stopped: bool,
}

impl Engine {
    /// Answers those who wait for quiet, if it is: nothing is due, queued, in flight or on the way to the store.
    pub(super) fn settle_quiet(&mut self) {
        if self.settling.is_empty() || !self.is_quiet() {
            return;
        }
        for promise in self.settling.drain(..) {
            promise.fulfil(Ok(()));
        }
    }

    fn is_quiet(&mut self) -> bool {
        self.commits.is_empty()
            && self.searches.is_empty()
            && self.listings.is_empty()
            && self.woken.is_empty()
            && self.agenda.first().is_none_or(|(at, _)| *at > self.now.wall)
            && self.sites.iter().all(|site| site.window.is_passed(self.now.wall) && site.late.is_empty())
            && self.wheel.next_wake().is_none_or(|at| instant(at) > self.now.wall)
            && !self.posts.iter().any(|(_, post)| post.phase.is_busy() && !self.is_blocked(post))
    }

    /// Whether this post waits in its shard for something that comes with time.
    fn is_blocked(&self, post: &Resident) -> bool {
        let is_waiting = |delivery: &Delivery| delivery.facts().stage.is_waiting();
        let Some((place, _)) = self.pool(post.record.pool).filter(|_| post.delivery.as_ref().is_some_and(is_waiting))
        else {
            return false;
        };
        let shard = self.settings.shard(place, &post.record);
        let until = self.given.get(shard).and_then(|(_, until)| *until);
        post.phase == Phase::InFlight && until.is_some_and(|until| until > self.now.wall)
    }

    /// Moves a shutdown forward.
    pub(super) fn close(&mut self) {
        let Some(closing) = self.closing.as_mut().filter(|closing| !closing.stopped) else { return };
        let flying = self.posts.iter().any(|(_, post)| post.phase == Phase::InFlight);
        let hangs = self.stalled && self.now.mono >= closing.deadline;
        let is_idle = self.commits.is_empty() && self.store_watch.working_since().is_none();
        let flushed = is_idle || self.failed.is_some() || hangs;
        let waited = self.now.mono >= closing.deadline || self.failed.is_some();
        // Past the deadline what is in flight is left behind: its claim is durable, the next start knows it.
        if flushed && (waited || !flying) {
            if flying {
                marks::reach(Mark::LeftFlying);
            }
            closing.stopped = true;
            let promise = closing.promise.take();
            self.effects.push_back(Effect::Stop { promise, hangs });
        }
    }
}
