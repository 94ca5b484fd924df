//! From armed to in flight: a post is claimed, and when that is durable it is handed to its shard; or it is taken back.

use std::sync::Arc;
use std::time::Duration;

use crate::id::PostId;
use crate::limits;
use crate::marks::{self, Mark};
use crate::post::{Change, Delivery, Doubt, Facts, Stage, Task};
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::commits::Then;
use super::lifecycle::Happening;
use super::{Engine, Phase, Resident};

impl Engine {
    pub(super) fn claim(&mut self, slot: u32) {
        if !self.step(slot, Happening::ClaimDue) {
            return;
        }
        if sabotage::is(Switch::ClaimNotDurable) {
            return self.commits.note(Then::Claimed { slot });
        }
        if let Some(post) = self.posts.get(slot as usize) {
            let claim = Change::Claim { home: post.record.home(), attempt: post.record.next_claim() };
            self.commits.add(claim, Some(Then::Claimed { slot }), 0);
        }
        if sabotage::is(Switch::ClaimAfterDispatch) && self.step(slot, Happening::ClaimStored) {
            self.proceed(slot);
        }
    }

    pub(super) fn hand_over(&mut self, slot: u32) {
        if !self.step(slot, Happening::HandedOver) {
            return;
        }
        self.go_first(slot);
        if let Some(delivery) = self.take_ready(slot).or_else(|| self.deliver(slot, Task::Broadcast))
            && let Some((place, _)) = self.posts.get(slot as usize).and_then(|post| self.pool(post.record.pool))
            && let Some(post) = self.posts.get_mut(slot as usize)
        {
            let shard = self.settings.shard(place, &post.record);
            post.delivery = Some(delivery.clone());
            if let Some(outgoing) = self.outgoing.get_mut(shard) {
                outgoing.push(delivery);
            }
        }
    }

    /// Makes the delivery of a claimed post ahead of its due.
    pub(super) fn make_ready(&mut self, slot: u32) {
        let ready = self.deliver(slot, Task::Broadcast);
        if let Some(post) = self.posts.get_mut(slot as usize) {
            post.ready = ready;
        }
    }

    /// The delivery that was made ahead of the due, if it is as it would be now.
    fn take_ready(&mut self, slot: u32) -> Option<Delivery> {
        let post = self.posts.get_mut(slot as usize)?;
        let ready = post.ready.take()?;
        let facts = ready.facts();
        let is_good = facts.notes.prepared().is_none_or(|prepared| prepared.valid_until >= self.now.wall);
        let is_same = facts.at == post.ready_at && is_good;
        if !is_same {
            marks::reach(Mark::ReadyOutdated);
        }
        is_same.then_some(ready)
    }

    /// A delivery of this post.
    pub(super) fn deliver(&self, slot: u32, task: Task) -> Option<Delivery> {
        let Resident { record, ready_at, prepare, .. } = self.posts.get(slot as usize)?;
        let (_, pool) = self.pool(record.pool)?;
        let deadline = pool.deadline(record);
        let is_early = sabotage::is(Switch::OneMsEarly);
        let ready_at = if is_early { ready_at.before(Duration::from_millis(1)) } else { *ready_at };
        let mut notes = record.notes.clone();
        if notes.prepared().is_some_and(|ready| ready.valid_until < self.now.wall) && task == Task::Broadcast {
            notes.edit(|noted| noted.prepared = None);
        }
        // What may be published already is not missed before it has been asked about.
        let is_open = record.doubt == Doubt::Open;
        Some(Delivery::new(Facts {
            id: PostId::new(self.settings.store, record.seq),
            slot,
            pool: Arc::clone(&pool.name),
            task,
            due: record.due,
            at: if task == Task::Broadcast { ready_at } else { Timestamp::MIN },
            since: record.ready_at(),
            deadline: deadline.filter(|_| !is_open && task == Task::Broadcast),
            last: deadline,
            attempt: if task == Task::Broadcast { record.attempts + 1 } else { prepare.tries() },
            claim: record.next_claim(),
            is_allowed: record.attempts < pool.retry(record).attempts(),
            doubt: record.doubt,
            guarantee: record.body.guarantee().unwrap_or(pool.guarantee),
            notes,
            body: record.body.clone(),
            stage: Stage::default(),
        }))
    }

    /// Takes back what was handed over, if the broadcaster has not been called.
    pub(super) fn withdraw(&mut self, slot: u32) -> bool {
        let Some(post) = self.posts.get_mut(slot as usize).filter(|post| post.phase == Phase::InFlight) else {
            return false;
        };
        if post.delivery.take_if(|delivery| delivery.facts().stage.withdraw()).is_none() {
            return false;
        }
        marks::reach(Mark::Withdrawn);
        self.step(slot, Happening::Withdrawn)
    }

    /// Takes a claim back: the attempt was not made, and waits.
    pub(super) fn unclaim(&mut self, slot: u32) {
        if !self.step(slot, Happening::Released) {
            return;
        }
        if let Some(post) = self.posts.get_mut(slot as usize) {
            post.ready = None;
        }
        self.stand_back(slot);
        if let Some(post) = self.posts.get(slot as usize) {
            self.commits.add(Change::Release { home: post.record.home() }, None, 0);
        }
        self.proceed(slot);
    }

    /// Leaves a post to the store, at the end of a shutdown's intake.
    pub(super) fn release(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        if post.phase == Phase::Claimed {
            marks::reach(Mark::ClaimReleasedAtClose);
            let home = post.record.home();
            self.commits.add(Change::Release { home }, None, 0);
        }
        self.forget(slot);
    }

    /// When a claimed post is handed to its shard: a little ahead, but for one that another may have to go before.
    pub(super) fn hand_over_at(post: &Resident) -> Timestamp {
        if post.in_order { post.ready_at } else { post.ready_at.before(limits::HAND_OVER_AHEAD) }
    }
}
