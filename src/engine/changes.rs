//! Changes to posts that the host asks for: each wins against the firing of the post or loses, and the answer says
//! which.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::error::{Error, Result};
use crate::id::{PostId, Seq, State};
use crate::marks::{self, Mark};
use crate::post::{Doubt, Event, Name, Outcome, PostRef, Record, Shelf, Stored};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};

use super::commands::Search;
use super::commits::Why;
use super::lifecycle::Phase;
use super::message::Wish;
use super::queues::QueueWish;
use super::{Engine, Resident};

/// A change to a post that the host waits for.
#[derive(Debug)]
pub struct Mutation {
    pub wish: Wish,
    /// The revision that the post must have.
    pub expected: Option<u32>,
    pub turn: Turn,
    pub promise: Promise<()>,
}

/// When it is the turn of a change whose post the store is looking for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It has waited for the queue of its post, which the post has left: whatever else is being looked for was asked for
    /// later.
    First,
    /// It was found while one waited whose turn is first: behind that one.
    Next,
    /// As it was asked for.
    Last,
}

/// Changes whose posts the store is looking for. What comes after one must not overtake it.
#[derive(Debug, Default)]
pub struct SoughtChanges {
    /// How many of them there are for which post; without a number: for posts that are named by key.
    posts: BTreeMap<Option<Seq>, u32>,
    /// How many of them come before others.
    waiting: BTreeMap<Option<Seq>, u32>,
}

impl SoughtChanges {
    pub fn begin(&mut self, post: Option<Seq>, turn: Turn) {
        *self.posts.entry(post).or_default() += 1;
        if turn != Turn::Last {
            *self.waiting.entry(post).or_default() += 1;
        }
    }

    pub fn end(&mut self, post: Option<Seq>, turn: Turn) {
        let one_less = |counts: &mut BTreeMap<_, u32>| {
            if let Entry::Occupied(mut count) = counts.entry(post) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        };
        one_less(&mut self.posts);
        if turn != Turn::Last {
            one_less(&mut self.waiting);
        }
    }

    /// Whether one of them may be for this post.
    fn may_change(&self, post: Seq) -> bool {
        [None, Some(post)].iter().any(|sought| self.posts.contains_key(sought))
    }

    /// Whether one of them is for this post and comes before others.
    pub fn has_waiting(&self, post: Seq) -> bool {
        self.waiting.contains_key(&Some(post))
    }
}

impl Mutation {
    pub fn refuse(self, error: Error) {
        self.promise.fulfil(Err(error));
    }

    /// Refuses it, because the post is in this state.
    pub fn come_too_late(self, id: PostId, state: State) {
        let error = match self.wish {
            Wish::Resolve(_) => Error::NotInDoubt { id, state },
            _ => Error::TooLate { id, state },
        };
        self.refuse(error);
    }
}

impl Engine {
    /// Finds the post in memory, or has the store look for it.
    pub(super) fn seek_mutation(&mut self, post: PostRef, wish: Wish, promise: Promise<()>) {
        let mutation = Mutation { wish, expected: post.revision, turn: Turn::Last, promise };
        match self.resident(&post) {
            Err(error) => mutation.refuse(error),
            Ok(Some(slot)) => self.mutate(slot, mutation),
            Ok(None) => self.search(post.clone(), Search::Mutate(post, mutation)),
        }
    }

    /// The post has left its queue while a change waited for that.
    pub(super) fn resume_mutation(&mut self, post: Seq, wish: Wish, promise: Promise<()>) {
        let mutation = Mutation { wish, expected: None, turn: Turn::First, promise };
        match self.slot(post).filter(|_| !self.sought_changes.has_waiting(post)) {
            Some(slot) => self.mutate(slot, mutation),
            None => {
                let post = PostRef::from(self.id(post));
                self.search(post.clone(), Search::Mutate(post, mutation));
            }
        }
    }

    /// Where the post is in memory. One that is named by key is always looked for in the store first, and so is one to which
    /// a change may be under way that way: what comes after it must not overtake it.
    pub(super) fn resident(&self, post: &PostRef) -> Result<Option<u32>> {
        match &post.name {
            Name::Id(id) if id.store() != self.settings.store => Err(Error::ForeignId { id: *id }),
            Name::Id(id) if self.sought_changes.may_change(id.seq()) => Ok(None),
            Name::Id(id) => Ok(self.slot(id.seq())),
            Name::Key(_) => Ok(None),
        }
    }

    /// A post that is not in memory: it is taken up for as long as the change takes.
    pub(super) fn mutate_stored(&mut self, stored: Stored, mutation: Mutation) {
        let Some((place, _)) = self.pool(stored.record.pool) else {
            return mutation.refuse(Error::NotFound { post: self.id(stored.record.seq).to_string() });
        };
        let is_shelved = stored.record.home().shelf().is_some();
        if is_shelved {
            marks::reach(Mark::ChangedOnShelf);
        }
        let slot =
            if is_shelved { self.admit(place, stored.record, Phase::Armed) } else { self.take_up(place, stored) };
        self.mutate(slot, mutation);
        // If it was refused, the post stays where it was.
        if is_shelved && self.posts.get(slot as usize).is_some_and(|post| post.phase == Phase::Armed) {
            self.forget(slot);
        }
    }

    pub(super) fn mutate(&mut self, slot: u32, mutation: Mutation) {
        let Some(Resident { record, phase, .. }) = self.posts.get(slot as usize) else { return };
        let (id, state) = (self.id(record.seq), self.state(*phase, record));
        if let Some(expected) = mutation.expected.filter(|expected| *expected != record.revision) {
            return mutation.refuse(Error::Changed { id, expected, revision: record.revision });
        }
        let Mutation { wish, turn, promise, .. } = mutation;
        let is_plain = record.doubt == Doubt::None && record.attempts == 0;
        let is_moved = matches!(wish, Wish::Cancel | Wish::Reschedule(_) | Wish::PublishNow);
        // Also where the post has left its queue, and earlier changes still wait for that.
        let is_behind = turn != Turn::First && self.waits_for_queue(record);
        if is_moved && (is_behind || is_plain && self.is_queued(record)) {
            let (post, record) = (record.seq, record.clone());
            let wish = match wish {
                Wish::Cancel => QueueWish::Cancel { post, promise },
                Wish::Reschedule(due) => QueueWish::Release { post, due, promise },
                Wish::PublishNow => QueueWish::Release { post, due: self.now.wall.ceil_millis(), promise },
                wish => return self.change(slot, wish, promise),
            };
            return self.change_queued(&record, wish);
        }
        if let Wish::Resolve(resolution) = wish {
            let is_open = record.doubt == Doubt::Open;
            return match state {
                State::InDoubt | State::Failed => self.resolve(slot, resolution, promise),
                // It waits to be asked about.
                State::InFlight if is_open && self.withdraw(slot) => self.resolve(slot, resolution, promise),
                _ => promise.fulfil(Err(Error::NotInDoubt { id, state })),
            };
        }
        let is_possible = match (&wish, state) {
            (_, State::InDoubt | State::Delivered | State::Missed | State::Cancelled) => false,
            // It may have been published: that cannot be taken back.
            (Wish::Cancel, _) if record.doubt == Doubt::Open => false,
            (Wish::Edit { .. }, State::Failed) => true,
            (_, State::Failed) => false,
            (Wish::PublishNow, State::Held) => false,
            _ => phase.is_open() || self.withdraw(slot),
        };
        if !is_possible {
            marks::reach(Mark::TooLate);
            return promise.fulfil(Err(Error::TooLate { id, state }));
        }
        let is_claiming = || self.posts.get(slot as usize).is_some_and(|post| post.phase == Phase::Claiming);
        if sabotage::is(Switch::DropCancel) && matches!(wish, Wish::Cancel) && is_claiming() {
            return promise.fulfil(Ok(()));
        }
        self.change(slot, wish, promise);
    }

    /// Carries out what is possible.
    fn change(&mut self, slot: u32, wish: Wish, promise: Promise<()>) {
        let Some(Resident { record, .. }) = self.posts.get(slot as usize) else { return };
        let (id, mut to) = (self.id(record.seq), record.clone());
        to.revision += 1;
        let now = self.now.wall;
        let event = match wish {
            Wish::Cancel | Wish::Resolve(_) => return self.leave(slot, Outcome::Cancelled, None, Some(promise)),
            Wish::Reschedule(due) => {
                to.body = to.body.without_local();
                self.give_due(&mut to, due);
                self.fix(&to, Some(due));
                Event::Rescheduled { id, due: due.to_datetime() }
            }
            Wish::PublishNow => {
                to.body = to.body.without_local();
                let due = now.ceil_millis();
                self.give_due(&mut to, due);
                to.at = due;
                self.fix(&to, Some(due));
                Event::Rescheduled { id, due: due.to_datetime() }
            }
            Wish::Edit { part, .. } if part >= to.body.parts() => {
                let parts = to.body.parts();
                self.proceed(slot);
                return promise.fulfil(Err(Error::NoSuchPart { id, part, parts }));
            }
            Wish::Edit { part, .. } if part < to.notes.receipts().len() => {
                self.proceed(slot);
                return promise.fulfil(Err(Error::TooLate { id, state: State::Delivered }));
            }
            Wish::Edit { part, payload } => {
                to.body = to.body.with_part(part, &payload);
                if to.notes.prepared().is_some() {
                    self.discard_prepared(slot);
                    to.notes.edit(|noted| noted.prepared = None);
                }
                if Shelf::of(to.at).is_none() && to.attempts == 0 && to.at == to.due {
                    to.at = self.begin(&to, to.due);
                }
                Event::Edited { id }
            }
        };
        self.relocate(slot, to, Why::Changed { promise: Some(promise), event }, None);
    }

    /// Gives a record another due.
    pub(super) fn give_due(&mut self, to: &mut Record, due: crate::time::Timestamp) {
        to.due = due;
        let is_expired = to.notes.prepared().is_some_and(|ready| ready.valid_until < due);
        if is_expired {
            if let Some(slot) = self.slot(to.seq) {
                self.discard_prepared(slot);
            }
            to.notes.edit(|noted| noted.prepared = None);
        }
        to.notes.edit(|noted| noted.not_before = None);
        to.at = self.begin(to, due);
    }

    /// Where a post with this due begins its way.
    fn begin(&self, record: &Record, due: crate::time::Timestamp) -> crate::time::Timestamp {
        self.pool(record.pool).map_or(due, |(_, pool)| pool.begin(&record.body, due, &record.notes, self.now.wall))
    }

    /// What the host is told of a post in memory.
    pub(super) fn state(&self, phase: Phase, record: &Record) -> State {
        match (phase.state(), Shelf::of(record.at)) {
            (_, Some(Shelf::Queued)) => State::Queued,
            (_, Some(Shelf::Dead)) => State::Failed,
            (_, Some(Shelf::InDoubt)) => State::InDoubt,
            (_, Some(Shelf::Held)) => State::Held,
            (State::Scheduled, None) if record.doubt == Doubt::Open => State::InDoubt,
            // It is with its shard already, and waits there for its due.
            (State::InFlight, None)
                if phase == Phase::InFlight && record.doubt != Doubt::Open && record.ready_at() > self.now.wall =>
            {
                State::Scheduled
            }
            (state, None) => state,
        }
    }
}
