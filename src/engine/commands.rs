//! What the host asks for: scheduling, taking back, re-timing, looking up.

use crate::error::{Error, Result, StoreError};
use crate::id::{PostId, Seq, State};
use crate::post::{Change, Found, Outcome, PostRef, Record, Status, Stored};
use crate::reply::Promise;
use crate::time::{Now, Timestamp};

use super::commits::{Planned, Then, Why};
use super::lifecycle::{Happening, Phase};
use super::message::{Command, Effect, NewPost, Report, SchedulePromise, Sought};
use super::{Closing, Engine, Resident};

/// A change to a post that the host waits for.
#[derive(Debug)]
pub enum Mutation {
    Cancel(Promise<()>),
    Reschedule(Timestamp, Promise<()>),
}

impl Mutation {
    pub fn refuse(self, error: Error) {
        match self {
            Self::Cancel(promise) | Self::Reschedule(_, promise) => promise.fulfil(Err(error)),
        }
    }
}

/// Why the store was asked for a post.
#[derive(Debug)]
pub enum Search {
    Mutate(PostRef, Mutation),
    Get(Promise<Option<Status>>),
    Outcome(PostRef, Promise<Outcome>),
    /// A post whose due is long past may have been scheduled before, with the key it has.
    Schedule {
        unit: Unit,
        index: usize,
    },
}

/// Posts to be scheduled together, and which of them are known to have been scheduled before.
#[derive(Debug)]
pub struct Unit {
    posts: Vec<NewPost>,
    known: Vec<(usize, Seq)>,
    promise: SchedulePromise,
}

impl Search {
    pub fn refuse(self, error: &Error) {
        match self {
            Self::Mutate(_, mutation) => mutation.refuse(error.clone()),
            Self::Get(promise) => promise.fulfil(Err(error.clone())),
            Self::Outcome(_, promise) => promise.fulfil(Err(error.clone())),
            Self::Schedule { unit, .. } => unit.promise.fulfil(Err(error.clone())),
        }
    }
}

impl Engine {
    /// The host wants something.
    pub fn handle_command(&mut self, now: Now, command: Command) {
        self.observe(now);
        let refusal = match (&self.failed, &self.closing) {
            (Some(error), _) => Some(Error::Store(error.clone())),
            (None, Some(_)) => Some(Error::Closed),
            (None, None) => self.stall(),
        };
        match (command, refusal) {
            (Command::Shutdown { grace, promise }, _) => self.begin_close(grace, promise),
            (Command::Schedule { promise, .. }, Some(error)) => promise.fulfil(Err(error)),
            (Command::Cancel { promise, .. } | Command::Reschedule { promise, .. }, Some(error)) => {
                promise.fulfil(Err(error));
            }
            (Command::Get { promise, .. }, Some(error)) => promise.fulfil(Err(error)),
            (Command::Outcome { promise, .. }, Some(error)) => promise.fulfil(Err(error)),
            (Command::Settle { promise }, Some(error)) => promise.fulfil(Err(error)),
            (Command::Schedule { posts, promise, .. }, None) => {
                self.schedule(Unit { posts, known: Vec::new(), promise })
            }
            (Command::Cancel { post, promise }, None) => self.seek_mutation(post, Mutation::Cancel(promise)),
            (Command::Reschedule { post, due, promise }, None) => {
                self.seek_mutation(post, Mutation::Reschedule(due, promise));
            }
            (Command::Get { post, promise }, None) => self.get(post, promise),
            (Command::Outcome { post, promise }, None) => self.await_outcome(post, promise),
            (Command::Settle { promise }, None) => self.settling.push(promise),
        }
    }

    /// What is answered while the store does not answer.
    fn stall(&self) -> Option<Error> {
        let since = self.commits.working_since().filter(|_| self.stalled)?;
        Some(Error::StoreStalled { stalled: self.now.machine.saturating_sub(since) })
    }

    fn schedule(&mut self, unit: Unit) {
        let is_known = |index: usize| unit.known.iter().any(|(known, _)| *known == index);
        let late = (0..unit.posts.len())
            .find(|index| unit.posts.get(*index).is_some_and(|post| post.late.is_some()) && !is_known(*index));
        if let Some(index) = late {
            let key = unit.posts.get(index).and_then(|post| post.body.key()).unwrap_or_default().to_owned();
            return self.search(PostRef::Key(key), Search::Schedule { unit, index });
        }
        let Unit { posts, known, promise } = unit;
        let mut bytes = 0;
        let mut planned = Vec::with_capacity(posts.len());
        for (index, NewPost { pool, due, body, .. }) in posts.into_iter().enumerate() {
            if known.iter().any(|(known, _)| *known == index) {
                continue;
            }
            let Some(pool) = self.settings.pools.get(pool) else { continue };
            bytes += body.len() + size_of::<Record>();
            let seq = self.next_seq;
            self.next_seq = Seq(seq.0 + 1);
            let (at, pool) = (due, pool.id);
            let record = Record { seq, pool, at, due, attempts: 0, revision: 0, maybe_sent: false, body };
            // A post that is nearly due is claimed in the commit that stores it.
            let claimed = self.claims_along(&record);
            planned.push(Planned { record, claimed });
        }
        let claims = planned.iter().filter(|post| post.claimed);
        let claims: Vec<Change> = claims.map(|post| Change::Claim { home: post.record.home(), attempt: 1 }).collect();
        let records = planned.iter().map(|post| post.record.clone()).collect();
        let changes = std::iter::once(Change::Schedule(records)).chain(claims);
        self.commits.add_new(changes, Then::Scheduled { posts: planned, known, promise }, bytes);
    }

    /// The store has looked for the key of a post whose due is long past.
    fn schedule_late(&mut self, mut unit: Unit, index: usize, found: Option<&Found>) {
        let Some(post) = unit.posts.get_mut(index) else { return };
        match found.map(Found::record) {
            Some(record) if record.body.fingerprint() == post.body.fingerprint() => {
                unit.known.push((index, record.seq));
                self.schedule(unit);
            }
            Some(record) => {
                let (key, existing) = (post.body.key().unwrap_or_default().to_owned(), self.id(record.seq));
                unit.promise.fulfil(Err(Error::Conflict { key, existing }));
            }
            None => {
                let late = post.late.take().unwrap_or(Error::Closed);
                unit.promise.fulfil(Err(late));
            }
        }
    }

    /// Whether a new post is claimed as it is stored. It is not if its pool has no memory for it.
    fn claims_along(&self, record: &Record) -> bool {
        let has_room = |place: usize| self.windows.get(place).is_some_and(|w| w.bytes < self.settings.memory);
        record.at <= self.now.wall.after(self.settings.claim_ahead)
            && self.pool(record.pool).is_some_and(|(place, _)| has_room(place))
    }

    /// Finds the post in memory, or has the store look for it.
    fn seek_mutation(&mut self, post: PostRef, mutation: Mutation) {
        match self.resident(&post) {
            Err(error) => mutation.refuse(error),
            Ok(Some(slot)) => self.mutate(slot, mutation),
            Ok(None) => self.search(post.clone(), Search::Mutate(post, mutation)),
        }
    }

    /// Where the post is in memory. One that is named by key is always looked for in the store first.
    fn resident(&self, post: &PostRef) -> Result<Option<u32>> {
        match post {
            PostRef::Id(id) if id.store() != self.settings.store => Err(Error::ForeignId { id: *id }),
            // A change by key is looked for in the store: what comes after it must not overtake it.
            PostRef::Id(_) if self.keyed_changes > 0 => Ok(None),
            PostRef::Id(id) => Ok(self.slot(id.seq())),
            PostRef::Key(_) => Ok(None),
        }
    }

    fn search(&mut self, post: PostRef, search: Search) {
        let sought = match post {
            PostRef::Id(id) => Sought::Seq(id.seq()),
            PostRef::Key(key) => Sought::Key(key),
        };
        if matches!(search, Search::Mutate(PostRef::Key(_), _)) {
            self.keyed_changes += 1;
        }
        let token = self.searches.insert(search);
        self.effects.push_back(Effect::Find { token, sought });
    }

    /// The store has looked.
    pub(super) fn handle_found(&mut self, token: usize, found: Result<Option<Found>, StoreError>) {
        let Some(search) = self.searches.try_remove(token) else { return };
        if matches!(search, Search::Mutate(PostRef::Key(_), _)) {
            self.keyed_changes -= 1;
        }
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                search.refuse(&Error::Store(error.clone()));
                return self.fail(error);
            }
        };
        let slot = found.as_ref().and_then(|found| self.slot(found.record().seq));
        match (search, slot, found) {
            (Search::Schedule { unit, index }, _, found) => self.schedule_late(unit, index, found.as_ref()),
            (Search::Mutate(post, mutation), None, None) => {
                mutation.refuse(Error::NotFound { post: post.to_string() });
            }
            (Search::Mutate(_, mutation), Some(slot), _) => self.mutate(slot, mutation),
            (Search::Mutate(_, mutation), None, Some(Found::Live(stored))) => self.mutate_stored(stored, mutation),
            (Search::Mutate(_, mutation), None, Some(Found::Settled { record, outcome, .. })) => {
                mutation.refuse(Error::TooLate { id: self.id(record.seq), state: state_of(&outcome) });
            }
            (Search::Get(promise), Some(slot), _) => promise.fulfil(Ok(self.status(slot))),
            (Search::Get(promise), None, found) => promise.fulfil(Ok(found.map(|found| self.status_of(found)))),
            (Search::Outcome(post, promise), None, None) => {
                promise.fulfil(Err(Error::NotFound { post: post.to_string() }));
            }
            (Search::Outcome(_, promise), None, Some(Found::Settled { outcome, .. })) => promise.fulfil(Ok(outcome)),
            (Search::Outcome(_, promise), _, Some(found)) => self.wait(found.record().seq, promise),
            (Search::Outcome(_, promise), Some(_), None) => promise.fulfil(Err(Error::Closed)),
        }
    }

    /// A post beyond the window: it is taken into memory for as long as the change takes.
    fn mutate_stored(&mut self, stored: Stored, mutation: Mutation) {
        let Some((place, _)) = self.pool(stored.record.pool) else {
            return mutation.refuse(Error::NotFound { post: self.id(stored.record.seq).to_string() });
        };
        let slot = self.take_up(place, stored);
        self.mutate(slot, mutation);
    }

    fn mutate(&mut self, slot: u32, mutation: Mutation) {
        let Some(Resident { record, phase, .. }) = self.posts.get(slot as usize) else { return };
        let id = self.id(record.seq);
        match phase {
            phase if phase.is_open() => match mutation {
                Mutation::Cancel(promise) => self.leave(slot, Outcome::Cancelled, None, Some(promise)),
                Mutation::Reschedule(due, promise) => {
                    let mut to = record.clone();
                    (to.at, to.due, to.revision) = (due, due, to.revision + 1);
                    self.relocate(slot, to, Why::Rescheduled(promise));
                }
            },
            // It may still wait in its shard: only the shard knows.
            Phase::InFlight => {
                if let Some((place, _)) = self.pool(record.pool) {
                    let shard = self.settings.shard(place, record);
                    self.effects.push_back(Effect::Recall { shard, id });
                    self.recalls.entry(id).or_default().push(mutation);
                }
            }
            _ => mutation.refuse(Error::TooLate { id, state: phase.state() }),
        }
    }

    /// Shards have answered a recall.
    pub(super) fn handle_recalls(&mut self, report: &mut Report) {
        for (id, slot) in report.recalled.drain(..) {
            self.step(slot, Happening::Recalled);
            for mutation in self.recalls.remove(&id).into_iter().flatten() {
                self.mutate(slot, mutation);
            }
            self.proceed(slot);
        }
        for id in report.kept.drain(..) {
            for mutation in self.recalls.remove(&id).into_iter().flatten() {
                mutation.refuse(Error::TooLate { id, state: State::InFlight });
            }
        }
    }

    fn get(&mut self, post: PostRef, promise: Promise<Option<Status>>) {
        match self.resident(&post) {
            Err(error) => promise.fulfil(Err(error)),
            Ok(Some(slot)) => promise.fulfil(Ok(self.status(slot))),
            Ok(None) => self.search(post, Search::Get(promise)),
        }
    }

    fn await_outcome(&mut self, post: PostRef, promise: Promise<Outcome>) {
        match self.resident(&post) {
            Err(error) => promise.fulfil(Err(error)),
            Ok(Some(slot)) => {
                if let Some(seq) = self.posts.get(slot as usize).map(|post| post.record.seq) {
                    self.wait(seq, promise);
                }
            }
            Ok(None) => self.search(post.clone(), Search::Outcome(post, promise)),
        }
    }

    /// Waits for the outcome of this post. Those who gave up waiting are forgotten.
    fn wait(&mut self, seq: Seq, promise: Promise<Outcome>) {
        let waiters = self.waiters.entry(seq).or_default();
        waiters.retain(|waiter| !waiter.is_forgotten());
        waiters.push(promise);
    }

    fn status(&self, slot: u32) -> Option<Status> {
        let Resident { record, phase, .. } = self.posts.get(slot as usize)?;
        Some(self.status_with(record.clone(), phase.state(), None))
    }

    fn status_of(&self, found: Found) -> Status {
        match found {
            Found::Live(Stored { record, claimed }) => {
                let state = if claimed.is_some() { State::InDoubt } else { State::Scheduled };
                self.status_with(record, state, None)
            }
            Found::Settled { record, outcome, .. } => {
                let state = state_of(&outcome);
                self.status_with(record, state, Some(outcome))
            }
        }
    }

    fn status_with(&self, record: Record, state: State, outcome: Option<Outcome>) -> Status {
        let pool = self.pool(record.pool).map(|(_, pool)| pool.name.clone()).unwrap_or_default();
        Status { id: self.id(record.seq), pool, record, state, outcome }
    }

    pub(super) fn id(&self, seq: Seq) -> PostId {
        PostId::new(self.settings.store, seq)
    }

    fn begin_close(&mut self, grace: std::time::Duration, promise: Promise<()>) {
        if self.closing.is_some() {
            return promise.fulfil(Err(Error::Closed));
        }
        let shards = self.outgoing.len();
        self.closing = Some(Closing {
            deadline: self.now.mono.saturating_add(grace),
            promise: Some(promise),
            recalling: shards,
            stopped: false,
        });
        self.effects.extend((0..shards).map(|shard| Effect::RecallAll { shard }));
        let waiting: Vec<u32> = self
            .posts
            .iter()
            .filter(|(_, post)| matches!(post.phase, Phase::Armed | Phase::Claimed))
            .map(|(slot, _)| slot as u32)
            .collect();
        for slot in waiting {
            self.release(slot);
        }
        for promise in self.settling.drain(..) {
            promise.fulfil(Err(Error::Closed));
        }
    }
}

/// The final state that an outcome means.
pub fn state_of(outcome: &Outcome) -> State {
    match outcome {
        Outcome::Delivered(_) => State::Delivered,
        Outcome::Failed { .. } => State::Failed,
        Outcome::Missed { .. } => State::Missed,
        Outcome::Cancelled => State::Cancelled,
    }
}
