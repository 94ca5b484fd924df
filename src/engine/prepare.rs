//! Preparing posts ahead of their due.

use std::time::Duration;

use crate::error::Error;
use crate::limits;
use crate::marks::{self, Mark};
use crate::post::{BroadcastError, Delivery, Event, Failure, Notes, Outcome, Prepared, Ready, Record, Shelf, Task};
use crate::time::Timestamp;

use super::commits::Why;
use super::lifecycle::{Happening, Phase};
use super::{Engine, PoolSettings, Resident};

/// What is prepared anew when the post is due has to last for so long, or it is not worth it.
const LASTS: Duration = Duration::from_secs(1);

/// How a resident post stands with being prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prepare {
    /// It is to be done at this instant, or after `tries` failures later.
    At { at: Timestamp, tries: u32 },
    /// Nothing is to be done, or nothing can be.
    Over,
}

impl Prepare {
    /// As the record says.
    pub fn of(record: &Record) -> Self {
        if record.is_unprepared() { Self::At { at: record.at, tries: 0 } } else { Self::Over }
    }

    /// Whether it is to be done still.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::At { .. })
    }

    /// The number of the next try, from 1.
    pub fn tries(self) -> u32 {
        match self {
            Self::At { tries, .. } => tries + 1,
            Self::Over => 1,
        }
    }
}

impl PoolSettings {
    /// Where a post with this due begins: when it is to be prepared, or at its due.
    pub(super) fn begin(&self, body: &crate::post::Body, due: Timestamp, notes: &Notes, now: Timestamp) -> Timestamp {
        let Some(prepare) = &self.prepare else { return due };
        let lead = body.lead().unwrap_or(prepare.lead);
        let is_ready = notes.prepared().is_some_and(|ready| ready.valid_until >= due);
        if lead.is_zero() || is_ready || due <= now { due } else { due.before(lead).max(now.ceil_millis()).min(due) }
    }
}

impl Engine {
    /// When this armed post is to be prepared, if it is.
    pub(super) fn prepares_at(&self, post: &Resident) -> Option<Timestamp> {
        let (_, pool) = self.pool(post.record.pool)?;
        pool.prepare.as_ref()?;
        match post.prepare {
            Prepare::At { at, .. } => Some(at),
            // What was prepared has expired, or will have by then: again, if it is time to claim the post.
            Prepare::Over => {
                let ready = post.record.notes.prepared()?;
                let is_near = post.ready_at.before(self.settings.claim_ahead) <= self.now.wall;
                let is_over = ready.valid_until < post.ready_at.max(self.now.wall);
                (is_near && is_over).then_some(self.now.wall)
            }
        }
    }

    pub(super) fn prepare(&mut self, slot: u32) {
        let Some(place) = self.posts.get(slot as usize).and_then(|post| self.pool(post.record.pool)).map(|(at, _)| at)
        else {
            return;
        };
        let is_held = self.posts.get(slot as usize).is_some_and(|post| {
            self.sites.get(place).is_some_and(|site| site.held.contains_key(post.record.body.profile()))
        });
        let claim_at = self.posts.get(slot as usize).map(|post| post.ready_at.before(self.settings.claim_ahead));
        let Some(claim_at) = claim_at else { return };
        if is_held {
            // Its uploads would be refused as its posts are: its turn comes when it is released, if that is in time.
            return if claim_at > self.now.wall {
                self.wait_until(slot, claim_at)
            } else {
                self.give_up_preparing(slot)
            };
        }
        let Some(shard) = self.settings.pools.get(place).and_then(|pool| pool.prepare.as_ref()).map(|own| own.shard)
        else {
            return;
        };
        if !self.step(slot, Happening::PrepareDue) {
            return;
        }
        let delivery = self.deliver(slot, Task::Prepare);
        if let (Some(delivery), Some(post)) = (delivery, self.posts.get_mut(slot as usize)) {
            post.delivery = Some(delivery.clone());
            if let Some(outgoing) = self.outgoing.get_mut(shard) {
                outgoing.push(delivery);
            }
            if claim_at > self.now.wall {
                self.wait_until(slot, claim_at);
            }
        }
    }

    /// A post is nearly due and not prepared yet: if that has not even begun, it goes out by the ordinary way. What is
    /// being prepared is waited for, as long as the post allows.
    pub(super) fn is_due_unprepared(&mut self, slot: u32) {
        let Some(post) = self.posts.get_mut(slot as usize) else { return };
        if post.delivery.take_if(|delivery| delivery.facts().stage.withdraw()).is_some() {
            marks::reach(Mark::UnpreparedAtDue);
            return self.not_prepared(slot, 1, BroadcastError::permanent("others were prepared until it was due"));
        }
        let deadline = self.posts.get(slot as usize).and_then(|post| self.deadline(post));
        match deadline.map(|deadline| deadline.after(Duration::from_millis(1))) {
            Some(over) if over <= self.now.wall => self.miss(slot, self.now.wall),
            Some(over) => self.wait_until(slot, over),
            None => {}
        }
    }

    /// What came of preparing.
    pub(super) fn handle_prepared(&mut self, delivery: Delivery, result: Result<Prepared, BroadcastError>) {
        let slot = delivery.facts().slot;
        let is_awaited = |post: &&mut Resident| {
            post.phase == Phase::Preparing && post.delivery.as_ref().is_some_and(|awaited| awaited.is(&delivery))
        };
        let Some(post) = self.posts.get_mut(slot as usize).filter(is_awaited) else {
            // The post was changed or has left meanwhile: nobody needs it.
            marks::reach(Mark::PreparedForNobody);
            if let Ok(prepared) = result {
                let mut notes = Notes::default();
                let at = self.now.wall;
                notes.edit(|noted| noted.prepared = Some(Ready { bytes: prepared.bytes, valid_until: at, at }));
                self.discard_notes(&delivery, notes);
            }
            return;
        };
        post.delivery = None;
        let (record, tries) = (post.record.clone(), post.prepare.tries());
        match result {
            Ok(prepared) if prepared.bytes.len() > limits::CHECKPOINT_BYTES => {
                let (bytes, max) = (prepared.bytes.len(), limits::CHECKPOINT_BYTES);
                self.not_prepared(slot, tries, BroadcastError::permanent(Error::CheckpointTooLarge { bytes, max }));
            }
            Ok(prepared) => self.prepared(slot, record, &prepared),
            Err(error) => self.not_prepared(slot, tries, error),
        }
    }

    fn prepared(&mut self, slot: u32, mut to: Record, prepared: &Prepared) {
        let now = self.now.wall;
        let valid_until = prepared.until(now);
        to.notes.edit(|noted| {
            noted.prepared = Some(Ready { bytes: prepared.bytes.clone(), valid_until, at: now });
        });
        if !to.is_unprepared() && valid_until < to.ready_at().max(now).after(LASTS) {
            // It does not last even until it could be sent: there is no use in asking again.
            marks::reach(Mark::PreparedTooShort);
            self.step(slot, Happening::PrepareEnded);
            return self.give_up_preparing(slot);
        }
        if to.is_unprepared() {
            // If it expires before the due it is prepared once more, so late that it then lasts.
            let again = to.due.before(valid_until.since(now) / 4 * 3).ceil_millis();
            to.at = if valid_until < to.due && again > now && again < to.due { again } else { to.due };
        }
        self.relocate(slot, to, Why::Prepared, None);
    }

    fn not_prepared(&mut self, slot: u32, tries: u32, error: BroadcastError) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let Some((place, pool)) = self.pool(post.record.pool) else { return };
        let Some(settings) = &pool.prepare else { return };
        let (id, profile) = (self.id(post.record.seq), post.record.body.profile().to_owned());
        let reason = crate::post::cut(error.reason.clone());
        let delay = settings.retry.delay(id.as_u128(), tries);
        let again = match error.failure {
            Failure::Permanent | Failure::Unauthorized => None,
            _ => error.again(self.now.wall).or(delay.map(|delay| self.now.wall.after(delay).ceil_millis())),
        };
        let again = again.filter(|again| *again < post.record.due);
        let (or_fail, is_unauthorized) = (settings.or_fail, error.failure == Failure::Unauthorized);
        self.step(slot, Happening::PrepareEnded);
        let event = Event::PrepareFailed { id, reason: reason.clone(), again: again.map(Timestamp::to_datetime) };
        self.emit(|| event);
        if is_unauthorized {
            self.hold(place, &profile, reason.clone(), None);
        }
        match again {
            Some(at) => {
                if let Some(post) = self.posts.get_mut(slot as usize) {
                    post.prepare = Prepare::At { at, tries };
                }
                self.proceed(slot);
            }
            None if or_fail && !is_unauthorized => self.shelve(slot, Shelf::Dead, reason, None),
            None => self.give_up_preparing(slot),
        }
    }

    /// It goes out by the ordinary way.
    fn give_up_preparing(&mut self, slot: u32) {
        if let Some(post) = self.posts.get_mut(slot as usize) {
            post.prepare = Prepare::Over;
        }
        // What has expired is not handed over, and not asked for again.
        self.edit_notes(slot, |noted| drop(noted.prepared.take()));
        self.proceed(slot);
    }

    /// A prepared post leaves with this outcome: if it was not sent, what was prepared is cleared away.
    pub(super) fn discard(&mut self, slot: u32, outcome: &Outcome) {
        let Some(post) = self.posts.get(slot as usize).filter(|_| !matches!(outcome, Outcome::Delivered(_))) else {
            return;
        };
        if post.record.notes.prepared().is_some() {
            self.discard_prepared(slot);
        }
    }

    /// What was prepared of this post is not needed any more.
    pub(super) fn discard_prepared(&mut self, slot: u32) {
        if let Some(delivery) = self.deliver(slot, Task::Discard) {
            self.push_discard(delivery);
        }
    }

    fn discard_notes(&mut self, of: &Delivery, notes: Notes) {
        let facts = of.facts();
        let delivery = Delivery::new(crate::post::Facts {
            id: facts.id,
            slot: facts.slot,
            pool: facts.pool.clone(),
            task: Task::Discard,
            due: facts.due,
            at: Timestamp::MIN,
            since: facts.since,
            deadline: None,
            last: None,
            attempt: 1,
            claim: 0,
            is_allowed: true,
            doubt: facts.doubt,
            guarantee: facts.guarantee,
            notes,
            body: facts.body.clone(),
            stage: crate::post::Stage::default(),
        });
        self.push_discard(delivery);
    }

    fn push_discard(&mut self, delivery: Delivery) {
        let pool = self.settings.pools.iter().find(|pool| *pool.name == *delivery.pool());
        let shard = pool.and_then(|pool| pool.prepare.as_ref()).map(|prepare| prepare.shard);
        if let Some(outgoing) = shard.and_then(|shard| self.outgoing.get_mut(shard))
            && self.closing.is_none()
        {
            outgoing.push(delivery);
        }
    }
}
