//! Queues of profiles: what the host does to them, and what becomes of their posts when slots come near. The rules are in
//! `queue/`; here they are made durable, one step after the other, each in one commit.

mod step;
mod taken;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::id::{PostId, Seq};
use crate::post::{QueueStatus, QueuedPost, Record, Shelf};
use crate::queue::{self, Order, Parts, Queue, Taken};
use crate::reply::Promise;
use crate::time::Timestamp;

use super::lifecycle::Phase;
use super::message::{NewPost, SchedulePromise};
use super::{Engine, Item, Resident};

pub use step::{Enqueued, Step};

/// A queue, and what waits to be done to it.
#[derive(Debug, Default)]
pub struct Managed {
    /// As it is durable; none while it is being made.
    pub(super) queue: Option<Queue>,
    pub(super) taken: Taken,
    pub(super) wishes: VecDeque<QueueWish>,
    /// Something of the first wish is with the store.
    is_busy: bool,
    /// A wish is being looked at. What it leads to may wish something too: that waits for its turn.
    is_turning: bool,
    /// When it is looked at next.
    wake: Option<Timestamp>,
    /// Posts that were looked for to be moved.
    borrowed: Vec<Seq>,
    /// Posts that are not its any more, as has been found; the next step takes all of them out.
    gone: Vec<Seq>,
    /// Posts of the profile that were there before the queue, and their dues as they are now, until they are remembered.
    pub(super) counting: Option<BTreeMap<Seq, Option<Timestamp>>>,
    /// Pieces of it that were remembered.
    parts: Parts,
}

/// What is to be done to a queue.
#[derive(Debug)]
pub enum QueueWish {
    /// The host wants it so; at most once with this key.
    Order { order: Order, key: Option<u64>, promise: Promise<()> },
    /// New posts, at this position or at the end. Some are known to have been scheduled before.
    Enqueue { at: Option<usize>, posts: Vec<NewPost>, known: Vec<(usize, Seq)>, promise: SchedulePromise },
    /// A post that waits is cancelled.
    Cancel { post: Seq, promise: Promise<()> },
    /// A post that waits gets a due of its own, and leaves the queue.
    Release { post: Seq, due: Timestamp, promise: Promise<()> },
    /// Time has passed, or other slots are taken.
    Follow,
    /// All posts of the profile that were there before the queue are known.
    Counted,
}

impl QueueWish {
    pub fn refuse(self, error: Error) {
        match self {
            Self::Order { promise, .. } | Self::Cancel { promise, .. } | Self::Release { promise, .. } => {
                promise.fulfil(Err(error));
            }
            Self::Enqueue { promise, .. } => promise.fulfil(Err(error)),
            Self::Follow | Self::Counted => {}
        }
    }

    /// Whether it takes this post out of the queue.
    fn moves(&self, seq: Seq) -> bool {
        matches!(self, Self::Cancel { post, .. } | Self::Release { post, .. } if *post == seq)
    }

    /// Whether the host waits for it.
    fn is_hosts(&self) -> bool {
        !matches!(self, Self::Follow | Self::Counted)
    }

    fn finish(self, answer: Result<()>) {
        match (self, answer) {
            (Self::Order { promise, .. }, Ok(())) => promise.fulfil(Ok(())),
            (wish, Err(error)) => wish.refuse(error),
            (_, Ok(())) => {}
        }
    }
}

impl Engine {
    /// Takes in what is remembered of queues; false if it is something else.
    pub(super) fn remember_queue(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some((letter, name, number)) = queue::name(key) else { return false };
        let place = self.settings.pools.iter().position(|pool| &*pool.name == name.pool);
        if let Some(site) = place.and_then(|place| self.sites.get_mut(place)) {
            let managed = site.queues.entry(name.profile.into()).or_default();
            match queue::taken_due(value).filter(|_| letter == queue::TAKEN) {
                Some(due) => _ = managed.taken.insert(Seq(number), due),
                None => managed.parts.add(letter, number, Bytes::copy_from_slice(value)),
            }
        }
        true
    }

    /// Puts the queues together that were remembered, and goes on with them.
    pub(super) fn take_up_queues(&mut self) {
        for place in 0..self.sites.len() {
            let Some(site) = self.sites.get_mut(place) else { continue };
            for managed in site.queues.values_mut() {
                managed.queue = std::mem::take(&mut managed.parts).assemble();
            }
            site.queues.retain(|_, managed| managed.queue.is_some());
            let profiles: Vec<Box<str>> = site.queues.keys().cloned().collect();
            for profile in profiles {
                self.wish_queue(place, &profile, QueueWish::Follow);
            }
            self.count_taken(place);
        }
    }

    /// A post is not the queue's any more.
    pub(super) fn drop_queued(&mut self, place: usize, profile: &str, post: Seq) {
        if let Some(managed) = self.managed(place, profile) {
            managed.gone.push(post);
            self.wish_queue(place, profile, QueueWish::Follow);
        }
    }

    /// The host wants something of a queue.
    pub(super) fn order_queue(&mut self, place: usize, profile: &str, named: &[PostId], wish: QueueWish) {
        if let Some(foreign) = named.iter().find(|id| id.store() != self.settings.store) {
            return wish.refuse(Error::ForeignId { id: *foreign });
        }
        let makes = matches!(&wish, QueueWish::Order { order: Order::Slots(_), .. });
        let Some(site) = self.sites.get_mut(place) else { return wish.refuse(Error::Closed) };
        if !makes && !site.queues.contains_key(profile) {
            let pool = self.settings.pools.get(place).map(|pool| pool.name.to_string()).unwrap_or_default();
            return wish.refuse(Error::NoQueue { pool, profile: profile.to_owned() });
        }
        self.wish_queue(place, profile, wish);
    }

    pub(super) fn wish_queue(&mut self, place: usize, profile: &str, wish: QueueWish) {
        let Some(site) = self.sites.get_mut(place) else { return wish.refuse(Error::Closed) };
        let managed = site.queues.entry(profile.into()).or_default();
        // One look is as good as two.
        if !(matches!(wish, QueueWish::Follow) && matches!(managed.wishes.back(), Some(QueueWish::Follow))) {
            managed.wishes.push_back(wish);
        }
        self.turn_queue(place, profile);
    }

    /// What the host sees of a queue.
    pub(super) fn show_queue(&self, place: usize, profile: &str) -> Option<QueueStatus> {
        let managed = self.sites.get(place)?.queues.get(profile)?;
        let queue = managed.queue.as_ref()?;
        let mut dues = queue.dues(&managed.taken);
        let posts = queue
            .posts()
            .map(|post| QueuedPost { id: self.id(post), due: dues.next().map(|(_, due)| due.to_datetime()) });
        Some(QueueStatus {
            slots: queue.slots().clone(),
            is_paused: queue.is_paused(),
            warn_ahead: queue.warn_ahead(),
            posts: posts.collect(),
        })
    }

    /// The slot of a post that waits in a queue.
    pub(super) fn queued_due(&self, record: &Record) -> Option<Timestamp> {
        let place = self.places.get(record.pool)?;
        let managed = self.sites.get(place)?.queues.get(record.body.profile())?;
        let mut dues = managed.queue.as_ref()?.dues(&managed.taken);
        dues.find(|(post, _)| *post == record.seq).map(|(_, due)| due)
    }

    /// Looks at the queues whose time has come.
    pub(super) fn follow_queue(&mut self, place: usize, profile: &str) {
        if let Some(managed) = self.sites.get_mut(place).and_then(|site| site.queues.get_mut(profile)) {
            managed.wake = None;
            self.wish_queue(place, profile, QueueWish::Follow);
        }
    }

    pub(super) fn managed(&mut self, place: usize, profile: &str) -> Option<&mut Managed> {
        self.sites.get_mut(place)?.queues.get_mut(profile)
    }

    /// Does what is wished of a queue, one wish after the other, until something has to be waited for.
    pub(super) fn turn_queue(&mut self, place: usize, profile: &str) {
        if self.closing.is_some() || self.failed.is_some() {
            return;
        }
        let Some(managed) = self.managed(place, profile).filter(|managed| !managed.is_turning) else { return };
        managed.is_turning = true;
        // A queue that has to be counted first waits with everything else.
        let mut is_waiting = false;
        while !is_waiting
            && let Some(managed) = self.managed(place, profile)
            && !managed.is_busy
            && let Some(wish) = managed.wishes.pop_front()
        {
            self.begin_step(place, profile, wish);
            is_waiting = self.managed(place, profile).is_some_and(|managed| managed.is_waiting());
        }
        if let Some(managed) = self.managed(place, profile) {
            managed.is_turning = false;
        }
        if !is_waiting {
            self.rest(place, profile);
        }
    }

    /// Sees to it that an idle queue is looked at in time.
    fn rest(&mut self, place: usize, profile: &str) {
        let lead = self.prepare_lead(place);
        let Some(managed) = self.managed(place, profile) else { return };
        if !managed.is_busy {
            let borrowed = std::mem::take(&mut managed.borrowed);
            self.put_back(&borrowed);
        }
        let Some(managed) = self.managed(place, profile) else { return };
        let wake = managed.queue.as_ref().filter(|_| !managed.is_busy);
        let wake = wake.and_then(|queue| queue.wake_at(queue.ahead(lead), &managed.taken));
        let before = std::mem::replace(&mut managed.wake, wake);
        if wake == before {
            return;
        }
        before.map(|at| self.agenda.remove(&(at, Item::Queue(place, profile.into()))));
        wake.map(|at| self.agenda.insert((at, Item::Queue(place, profile.into()))));
    }

    /// Leaves posts to themselves that were looked for and have not been moved, and those that still wait to the store.
    fn put_back(&mut self, borrowed: &[Seq]) {
        for slot in borrowed.iter().filter_map(|post| self.slot(*post)).collect::<Vec<_>>() {
            let Some(Resident { phase: Phase::Armed, record, .. }) = self.posts.get(slot as usize) else { continue };
            match record.home().shelf() {
                Some(Shelf::Queued) => self.forget(slot),
                Some(_) => {}
                None => self.proceed(slot),
            }
        }
    }

    fn prepare_lead(&self, place: usize) -> Duration {
        let prepare = self.settings.pools.get(place).and_then(|pool| pool.prepare.as_ref());
        prepare.map(|prepare| prepare.lead).unwrap_or_default()
    }

    fn give_back(&mut self, place: usize, profile: &str, taken: Taken) {
        if let Some(managed) = self.managed(place, profile) {
            managed.taken = taken;
        }
    }

    /// Something of it is with the store: what else is wished waits.
    fn set_busy(&mut self, place: usize, profile: &str) {
        if let Some(managed) = self.managed(place, profile) {
            managed.is_busy = true;
        }
    }

    /// The wish has to wait for something, or is to be looked at anew.
    fn again(&mut self, place: usize, profile: &str, wish: QueueWish) {
        if let Some(managed) = self.managed(place, profile) {
            managed.wishes.push_front(wish);
        }
    }

    /// Whether a post is a queue's, waiting or placed.
    pub(super) fn is_queued(&self, record: &Record) -> bool {
        let site = self.places.get(record.pool).and_then(|place| self.sites.get(place));
        let managed =
            site.filter(|site| !site.queues.is_empty()).and_then(|site| site.queues.get(record.body.profile()));
        managed.and_then(|managed| managed.queue.as_ref()).is_some_and(|queue| queue.has(record.seq))
    }

    /// Whether changes to a post wait for its queue.
    pub(super) fn waits_for_queue(&self, record: &Record) -> bool {
        let site = self.places.get(record.pool).and_then(|place| self.sites.get(place));
        let managed =
            site.filter(|site| !site.queues.is_empty()).and_then(|site| site.queues.get(record.body.profile()));
        managed.is_some_and(|managed| managed.wishes.iter().any(|wish| wish.moves(record.seq)))
    }

    /// The host changes a post that waits in a queue; what is not the queue's business is given back.
    pub(super) fn change_queued(&mut self, record: &Record, wish: QueueWish) {
        match self.places.get(record.pool) {
            Some(place) => self.order_queue(place, record.body.profile(), &[], wish),
            None => wish.refuse(Error::Closed),
        }
    }

    /// Refuses whatever waits for queues.
    pub(super) fn refuse_queues(&mut self, error: &Error) {
        let queues = self.sites.iter_mut().flat_map(|site| site.queues.values_mut());
        for wish in queues.flat_map(|managed| managed.refusable()) {
            wish.refuse(error.clone());
        }
    }
}

impl Managed {
    /// Takes out what the host waits for.
    fn refusable(&mut self) -> Vec<QueueWish> {
        let (hosts, own): (Vec<_>, Vec<_>) = self.wishes.drain(..).partition(QueueWish::is_hosts);
        self.wishes.extend(own);
        hosts
    }

    /// Whether nothing can be done before posts have been counted.
    fn is_waiting(&self) -> bool {
        let counts = self.wishes.front().is_some_and(|wish| matches!(wish, QueueWish::Counted));
        self.queue.as_ref().is_some_and(|queue| !queue.is_counted()) && !counts
    }
}
