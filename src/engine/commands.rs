//! What the host asks for: scheduling, taking back, re-timing, looking up.

use crate::error::{Error, Result, StoreError};
use crate::id::{PostId, Seq, State};
use crate::marks::{self, Mark};
use crate::post::{Called, Change, Doubt, Found, Name, Notes, Outcome, PostRef, Record, Shelf, Status, Stored};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};
use crate::time::Now;

use super::campaigns;
use super::changes::{Mutation, Turn};
use super::commits::{Planned, Then};
use super::lifecycle::Phase;
use super::message::{Attempt, Command, Effect, NewPost, Request, SchedulePromise, Sought};
use super::{Closing, Engine, Resident};

/// Why the store was asked for a post.
#[derive(Debug)]
pub enum Search {
    Mutate(PostRef, Mutation),
    Get(Promise<Option<Status>>),
    Outcome(PostRef, Promise<Outcome>),
    /// A queue has to move it.
    Queue {
        place: usize,
        profile: Box<str>,
        post: Seq,
    },
    /// A series has to take it back.
    Series {
        key: Box<str>,
        post: Seq,
    },
    /// A broadcaster has answered whose delivery had been given up.
    Late(Attempt),
    /// Whoever wanted to know it has been refused.
    Forgotten,
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
    campaign: Option<Box<str>>,
    promise: SchedulePromise,
}

impl Search {
    pub fn refuse(self, error: &Error) {
        match self {
            Self::Mutate(_, mutation) => mutation.refuse(error.clone()),
            Self::Get(promise) => promise.fulfil(Err(error.clone())),
            Self::Outcome(_, promise) => promise.fulfil(Err(error.clone())),
            Self::Schedule { unit, .. } => unit.promise.fulfil(Err(error.clone())),
            Self::Queue { .. } | Self::Series { .. } | Self::Late(_) | Self::Forgotten => {}
        }
    }

    /// Whether the host waits for it.
    fn is_hosts(&self) -> bool {
        matches!(self, Self::Mutate(..) | Self::Get(_) | Self::Outcome(..) | Self::Schedule { .. })
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
        if let Some(error) = refusal {
            return match command {
                Command::Shutdown { grace, promise } => self.begin_close(grace, promise),
                command => command.refuse(error),
            };
        }
        match command {
            Command::Schedule { posts, campaign, promise, .. } => {
                self.schedule(Unit { posts, known: Vec::new(), campaign, promise });
            }
            Command::ShowCampaign { name, promise } => promise.fulfil(Ok(self.show_campaign(&name))),
            Command::CancelCampaign { name, promise } => self.cancel_campaign(&name, promise),
            Command::Change { post, wish, promise } => self.seek_mutation(post, wish, promise),
            Command::Get { post, promise } => self.get(post, promise),
            Command::Outcome { post, promise } => self.await_outcome(post, promise),
            Command::List { place, shelf, after, promise } => self.show(place, shelf, after, promise),
            Command::RequeueAll { place, promise } => self.requeue_all(place, promise),
            Command::Pause { place, paused, promise } => self.pause(place, paused, promise),
            Command::Hold { place, profile, reason: Some(reason), promise } => {
                self.hold(place, &profile, reason, Some(promise));
            }
            Command::Hold { place, profile, reason: None, promise } => self.release_profile(place, &profile, promise),
            Command::Held { place, promise } => promise.fulfil(Ok(self.held(place))),
            Command::IsPaused { place, promise } => {
                promise.fulfil(Ok(self.sites.get(place).is_some_and(|site| site.is_paused)));
            }
            Command::Limit { place, scope, account, limits, promise } => {
                self.limit(place, scope, account.as_deref(), &limits, promise);
            }
            Command::Queue { place, profile, named, wish, .. } => self.order_queue(place, &profile, &named, wish),
            Command::ShowQueue { place, profile, promise } => promise.fulfil(Ok(self.show_queue(place, &profile))),
            Command::Series { key, wish } => self.wish_series(&key, wish),
            Command::ShowSeries { key, promise } => promise.fulfil(Ok(self.show_series(&key))),
            Command::AllSeries { promise } => promise.fulfil(Ok(self.all_series())),
            Command::Settle { promise } => self.settling.push(promise),
            Command::Shutdown { grace, promise } => self.begin_close(grace, promise),
        }
    }

    /// What is answered while the store does not answer.
    fn stall(&self) -> Option<Error> {
        let since = self.store_watch.working_since().filter(|_| self.stalled)?;
        Some(Error::StoreStalled { stalled: self.now.machine.saturating_sub(since) })
    }

    fn schedule(&mut self, unit: Unit) {
        let is_known = |index: usize| unit.known.iter().any(|(known, _)| *known == index);
        let late = (0..unit.posts.len())
            .find(|index| unit.posts.get(*index).is_some_and(|post| post.late.is_some()) && !is_known(*index));
        if let Some(index) = late {
            let key = unit.posts.get(index).and_then(|post| post.body.key()).unwrap_or_default().to_owned();
            return self.search(PostRef::from(key), Search::Schedule { unit, index });
        }
        let Unit { posts, known, campaign, mut promise } = unit;
        if let Some(name) = campaign.as_deref().filter(|name| self.is_cancelled(name)) {
            return promise.fulfil(Err(Error::CampaignCancelled { name: name.to_owned() }));
        }
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
            let (notes, doubt) = (Notes::default(), Doubt::None);
            let (at, pool) = (pool.begin(&body, due, &notes, self.now.wall), pool.id);
            let record = Record { seq, pool, at, due, attempts: 0, revision: 0, doubt, notes, body };
            // A post that is nearly due is claimed in the commit that stores it.
            let claimed = self.claims_along(&record);
            planned.push(Planned { record, claimed });
        }
        if sabotage::is(Switch::AckBeforeCommit) && known.is_empty() {
            let ids = planned.iter().map(|post| self.id(post.record.seq)).collect();
            std::mem::replace(&mut promise, SchedulePromise::All(Promise::new().0)).fulfil(Ok(ids));
        }
        let claims = planned.iter().filter(|post| post.claimed);
        let claims: Vec<Change> = claims.map(|post| Change::Claim { home: post.record.home(), attempt: 1 }).collect();
        let records: Vec<Record> = planned.iter().map(|post| post.record.clone()).collect();
        let fixed: Vec<Change> = planned.iter().filter_map(|post| self.fixed_note(&post.record)).collect();
        let schedule = match campaign.as_deref().and_then(|name| campaigns::unit_note(name, &records)) {
            Some(note) => Change::ScheduleNoted { records, notes: vec![note] },
            None => Change::Schedule(records),
        };
        let changes = fixed.into_iter().chain([schedule]).chain(claims);
        self.commits.add_new(changes, Then::Scheduled { posts: planned, known, campaign, promise }, bytes);
    }

    /// Some posts of a unit were scheduled before, and none has been kept: the others follow without them.
    pub(super) fn schedule_rest(
        &mut self,
        posts: Vec<Planned>,
        kept: &[Seq],
        mut known: Vec<(usize, Seq)>,
        campaign: Option<Box<str>>,
        promise: SchedulePromise,
    ) {
        let count = posts.len() + known.len();
        let fresh: Vec<usize> = (0..count).filter(|index| !known.iter().any(|(at, _)| at == index)).collect();
        let repeats = fresh.iter().zip(&posts).zip(kept).filter(|((_, post), kept)| post.record.seq != **kept);
        known.extend(repeats.map(|((index, _), kept)| (*index, *kept)));
        // What is known is left out, whatever stands in its place.
        let mut unit: Vec<Option<NewPost>> = vec![None; count];
        for (index, Planned { record, .. }) in fresh.into_iter().zip(posts) {
            if let (Some(place), Some(post)) = (self.places.get(record.pool), unit.get_mut(index)) {
                *post = Some(NewPost { pool: place, due: record.due, body: record.body, late: None });
            }
        }
        let Some(any) = unit.iter().flatten().next().cloned() else { return promise.fulfil(Err(Error::Closed)) };
        let unit = unit.into_iter().map(|post| post.unwrap_or_else(|| any.clone())).collect();
        self.schedule(Unit { posts: unit, known, campaign, promise });
    }

    /// The store has looked for the key of a post whose due is long past.
    fn schedule_late(&mut self, mut unit: Unit, index: usize, found: Option<&Found>) {
        let Some(post) = unit.posts.get_mut(index) else { return };
        match found.map(Found::record) {
            Some(record) if record.body.fingerprint() == post.body.fingerprint() => {
                marks::reach(Mark::KeyKnownLate);
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

    /// Whether a new post is claimed as it is stored. It is not if its pool has no memory for it, or if something has to
    /// be seen to before.
    pub(super) fn claims_along(&self, record: &Record) -> bool {
        let is_free = |place: usize| {
            self.sites
                .get(place)
                .is_some_and(|site| site.window.bytes < self.settings.memory && !site.is_paused && site.held.is_empty())
        };
        // What is late is spread first, if its pool does so.
        record.due.after(self.settings.claim_ahead) >= self.now.wall
            && record.due <= self.now.wall.after(self.settings.claim_ahead)
            && !record.is_unprepared()
            && !record.body.in_order()
            && self.pool(record.pool).is_some_and(|(place, pool)| is_free(place) && !pool.catch_up.has_gap())
    }

    pub(super) fn search(&mut self, post: PostRef, search: Search) {
        if let Search::Mutate(post, mutation) = &search {
            self.sought_changes.begin(post.seq(), mutation.turn);
        }
        let sought = match post.name {
            Name::Id(id) => Sought::Seq(id.seq()),
            Name::Key(key) => Sought::Key(key),
        };
        let token = self.searches.insert(search);
        self.effects.push_back(Effect::Ask(Request::Find { token, sought }));
    }

    fn end_search(&mut self, search: &Search) {
        if let Search::Mutate(post, mutation) = search {
            self.sought_changes.end(post.seq(), mutation.turn);
        }
    }

    /// Answers everyone for whom the store is looking for something, and everyone who waits until nothing is to be done.
    pub(super) fn refuse_searches(&mut self, error: &Error) {
        let hosts = self.searches.iter_mut().map(|(_, search)| search).filter(|search| search.is_hosts());
        // Their answers may come all the same: nobody else gets their places until then.
        let hosts: Vec<Search> = hosts.map(|search| std::mem::replace(search, Search::Forgotten)).collect();
        for search in hosts {
            self.end_search(&search);
            search.refuse(error);
        }
        self.settling.drain(..).for_each(|promise| promise.fulfil(Err(error.clone())));
    }

    /// The store has looked.
    pub(super) fn handle_found(&mut self, token: usize, found: Result<Option<Found>, StoreError>) {
        let Some(search) = self.searches.try_remove(token) else { return };
        self.end_search(&search);
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                search.refuse(&Error::Store(error.clone()));
                return self.fail(error);
            }
        };
        let seq = found.as_ref().map(|found| found.record().seq);
        let slot = seq.and_then(|seq| self.slot(seq));
        if let (Search::Mutate(_, mutation), Some(seq)) = (&search, seq)
            && mutation.turn == Turn::Last
            && self.sought_changes.has_waiting(seq)
        {
            // What was asked for earlier comes first; what was asked for later comes behind both.
            let Search::Mutate(_, mutation) = search else { return };
            let post = PostRef::from(self.id(seq));
            return self.search(post.clone(), Search::Mutate(post, Mutation { turn: Turn::Next, ..mutation }));
        }
        match (search, slot, found) {
            (Search::Queue { place, profile, post }, _, found) => self.queue_found(place, &profile, post, found),
            (Search::Series { key, post }, _, found) => self.occurrence_found(&key, post, found),
            (Search::Schedule { unit, index }, _, found) => self.schedule_late(unit, index, found.as_ref()),
            (Search::Mutate(post, mutation), None, None) => {
                mutation.refuse(Error::NotFound { post: post.to_string() });
            }
            (Search::Mutate(_, mutation), Some(slot), _) => self.mutate(slot, mutation),
            (Search::Mutate(_, mutation), None, Some(Found::Live(stored))) => self.mutate_stored(stored, mutation),
            (Search::Mutate(_, mutation), None, Some(Found::Settled { record, outcome, .. })) => {
                mutation.come_too_late(self.id(record.seq), state_of(&outcome));
            }
            (Search::Late(attempt), Some(slot), _) => self.settle_late(slot, &attempt.delivery, attempt.ending),
            (Search::Late(attempt), None, Some(Found::Live(stored))) => {
                marks::reach(Mark::LateUnresident);
                if let Some((place, _)) = self.pool(stored.record.pool) {
                    let slot = self.admit(place, stored.record, Phase::Armed);
                    self.settle_late(slot, &attempt.delivery, attempt.ending);
                    if self.posts.get(slot as usize).is_some_and(|post| post.phase == Phase::Armed) {
                        self.forget(slot);
                    }
                }
            }
            (Search::Late(_), None, _) => marks::reach(Mark::LateGone),
            (Search::Forgotten, ..) => {}
            (Search::Get(promise), Some(slot), _) => promise.fulfil(Ok(self.status(slot))),
            (Search::Get(promise), None, found) => promise.fulfil(Ok(found.map(|found| self.status_of(found)))),
            (Search::Outcome(post, promise), None, None) => {
                promise.fulfil(Err(Error::NotFound { post: post.to_string() }));
            }
            (Search::Outcome(_, promise), None, Some(Found::Settled { outcome, .. })) => promise.fulfil(Ok(outcome)),
            (Search::Outcome(_, promise), None, Some(Found::Live(stored))) if is_dead(&stored.record) => {
                promise.fulfil(Ok(failed(&stored.record)));
            }
            (Search::Outcome(_, promise), _, Some(found)) => self.wait(found.record().seq, promise),
            (Search::Outcome(_, promise), Some(_), None) => promise.fulfil(Err(Error::Closed)),
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
        let state = self.state(*phase, record);
        let outcome = is_dead(record).then(|| failed(record));
        Some(self.status_with(record.clone(), state, outcome))
    }

    pub(super) fn status_of(&self, found: Found) -> Status {
        match found {
            Found::Live(Stored { record, claimed }) => {
                let is_in_doubt = claimed.is_some_and(|claim| claim.called != Called::No);
                let state = if is_in_doubt { State::InDoubt } else { self.state(Phase::Armed, &record) };
                let outcome = is_dead(&record).then(|| failed(&record));
                self.status_with(record, state, outcome)
            }
            Found::Settled { record, outcome, .. } => {
                let state = state_of(&outcome);
                self.status_with(record, state, Some(outcome))
            }
        }
    }

    fn status_with(&self, mut record: Record, state: State, outcome: Option<Outcome>) -> Status {
        let (mut state, mut outcome) = (state, outcome);
        if matches!(state, State::Scheduled | State::Held) && self.is_called_off(&record) {
            (state, outcome) = (State::Cancelled, Some(Outcome::Cancelled));
        }
        if state == State::Queued {
            record.due = self.queued_due(&record).unwrap_or(record.due);
        }
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
        let deadline = self.now.mono.saturating_add(grace);
        self.closing = Some(Closing { deadline, promise: Some(promise), stopped: false });
        self.effects.push_back(Effect::Stopping);
        // What has not been called is taken back; what has may finish.
        let flying = self.posts.iter().filter(|(_, post)| post.phase == Phase::InFlight);
        let flying: Vec<u32> = flying.map(|(slot, _)| slot as u32).collect();
        for slot in flying {
            self.withdraw(slot);
        }
        self.settle_late_receipts();
        let waits = |phase: Phase| matches!(phase, Phase::Armed | Phase::Preparing | Phase::Claimed);
        let waiting = self.posts.iter().filter(|(_, post)| waits(post.phase));
        let waiting: Vec<u32> = waiting.map(|(slot, _)| slot as u32).collect();
        for slot in waiting {
            self.release(slot);
        }
        self.refuse_queues(&Error::Closed);
        self.refuse_series(&Error::Closed);
        for listing in self.listings.drain() {
            listing.refuse(&Error::Closed);
        }
        for promise in self.settling.drain(..) {
            promise.fulfil(Err(Error::Closed));
        }
    }
}

/// Whether this is a dead letter.
fn is_dead(record: &Record) -> bool {
    record.home().shelf() == Some(Shelf::Dead)
}

/// What came of a dead letter.
fn failed(record: &Record) -> Outcome {
    Outcome::Failed { reason: record.notes.reason().unwrap_or_default().to_owned() }
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
