//! What the loops answer: deliveries that ended, commits that are durable.

use std::time::Duration;

use crate::error::{Error, StoreError};
use crate::gate::Turned;
use crate::id::{PostId, Seq, State};
use crate::limits;
use crate::marks::{self, Mark};
use crate::post::{Change, Delivery, Doubt, Ending, Event, Outcome, Receipt, Record, Shelf, Step, Terms, Verdict};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};
use crate::time::{Now, Timestamp};

use super::campaigns::Tally;
use super::commands::Search;
use super::commits::{Planned, Then, Why};
use super::lifecycle::{Happening, Phase};
use super::message::{Answer, Attempt, Report, SchedulePromise};
use super::{Engine, PoolSettings, TIDY_EVERY, Tidy};

impl Engine {
    /// A worker has something to say.
    pub fn handle_report(&mut self, now: Now, report: Report) {
        self.observe(now);
        if self.failed.is_some() {
            for (_, _, promise) in report.checkpoints {
                promise.fulfil(Err(Error::Closed));
            }
            return;
        }
        if let Some((_, blocked)) = self.given.get_mut(report.shard).filter(|(given, _)| *given == report.taken) {
            *blocked = report.blocked_until;
        }
        // Before the outcomes: what was counted is durable no later than they are.
        self.keep_counts(report.place);
        for (delivery, bytes, promise) in report.checkpoints {
            self.checkpoint(&delivery, bytes, promise);
        }
        for (delivery, text) in report.progress {
            let (id, attempt) = (delivery.id(), delivery.attempt());
            self.emit(|| Event::Progress { id, attempt, text });
        }
        for attempt in report.ended {
            self.handle_attempt(now, attempt);
        }
        for (delivery, result) in report.prepared {
            self.handle_prepared(delivery, result);
        }
        for (delivery, until) in report.returned {
            self.handle_returned(&delivery, until);
        }
        for attempt in report.late {
            if let Some(attempt) = self.handle_late(attempt) {
                let id = attempt.delivery.id();
                self.search(id.into(), Search::Late(attempt));
            }
        }
        for turned in report.turned {
            let Some(pool) = self.settings.pools.get(report.place).map(|pool| pool.name.to_string()) else { continue };
            self.emit(|| match turned {
                Turned::Opened { probe_at } => Event::BreakerOpened { pool, probe_at: probe_at.to_datetime() },
                Turned::Closed => Event::BreakerClosed { pool },
            });
        }
    }

    /// The post that this delivery, which is in flight, belongs to.
    fn flying(&mut self, delivery: &Delivery) -> Option<u32> {
        let slot = delivery.facts().slot;
        let post = self.posts.get(slot as usize).filter(|post| post.phase == Phase::InFlight)?;
        post.delivery.as_ref().is_some_and(|flying| flying.is(delivery)).then_some(slot)
    }

    /// A shard gives back what it cannot start soon: its claim is taken back, and it waits.
    fn handle_returned(&mut self, delivery: &Delivery, until: Timestamp) {
        let Some(slot) = self.flying(delivery) else { return };
        marks::reach(Mark::Returned);
        self.step(slot, Happening::Withdrawn);
        if let Some(post) = self.posts.get_mut(slot as usize) {
            post.delivery = None;
            // It is there again in time to be ranked among those that the shard has kept.
            let again = until.before(limits::GIVE_BACK).ceil_millis();
            (post.ready_at, post.is_returned) = (post.ready_at.max(again), true);
        }
        // The shard may have given it back before a late answer came for which it seemed to be called.
        if let Some(receipt) = self.take_late_receipt(slot) {
            return self.delivered(slot, receipt, None);
        }
        if self.closing.is_some() { self.release(slot) } else { self.unclaim(slot) }
    }

    /// What a delivery wants to be kept is kept with its post, and its claim with it.
    fn checkpoint(&mut self, delivery: &Delivery, bytes: bytes::Bytes, promise: Promise<()>) {
        let id = delivery.id();
        let is_own = |slot: &u32| {
            let of = |post: &super::Resident| post.delivery.as_ref().is_some_and(|awaited| awaited.is(delivery));
            self.posts.get(*slot as usize).is_some_and(of)
        };
        let Some(slot) = Some(delivery.facts().slot).filter(is_own) else {
            return promise.fulfil(Err(Error::TooLate { id, state: State::InDoubt }));
        };
        let len = bytes.len();
        self.edit_notes(slot, |noted| noted.checkpoint = Some(bytes));
        let Some(post) = self.posts.get(slot as usize) else { return };
        let from = post.record.home();
        let claim = (post.phase == Phase::InFlight).then_some(post.record.next_claim());
        let change = Change::Move { from, to: Box::new(post.record.clone()), claim };
        self.commits.add(change, Some(Then::Noted { promise: Some(promise), event: None }), len);
    }

    fn handle_attempt(&mut self, now: Now, Attempt { delivery, started, called, ending }: Attempt) {
        let Some(slot) = self.flying(&delivery) else { return };
        let late = self.take_late_receipt(slot);
        let Some(post) = self.posts.get_mut(slot as usize) else { return };
        post.delivery = None;
        let ending = late.map_or(ending, |receipt| Ending::Answered(Ok(receipt)));
        // Most attempts go well, and then there is nothing to decide.
        if called && let Ending::Answered(Ok(receipt)) = ending {
            post.record.attempts += 1;
            let lateness = started.map(|started| started.since(post.record.due));
            return self.delivered(slot, receipt, lateness);
        }
        let record = post.record.clone();
        let Some((place, pool)) = self.pool(record.pool) else { return };
        let terms = self.terms(now, pool, &record, &delivery, called);
        let (lateness, attempt) = (started.map(|started| started.since(record.due)), terms.attempt);
        if let Ending::Answered(Err(error)) | Ending::Unreconciled(error) = &ending
            && let Some((scope, until)) = error.throttles(now.wall)
        {
            let (pool, profile) = (pool.name.to_string(), record.body.profile().to_owned());
            self.emit(|| Event::Throttled { pool, profile, scope, until: until.to_datetime() });
        }
        let step = ending.step(&terms);
        let counts = called && !matches!(step, Step::Retry { counts: false, .. } | Step::Held { .. });
        let mut to = record;
        to.attempts += u32::from(counts);
        if called && !counts {
            to.notes.edit(|noted| noted.calls += 1);
        }
        to.doubt = terms.doubt;
        if let Some(post) = self.posts.get_mut(slot as usize) {
            post.record = to.clone();
        }
        match step {
            Step::Delivered(receipt) => self.delivered(slot, receipt, lateness),
            Step::Missed { by } => self.leave(slot, Outcome::Missed { by }, None, None),
            Step::Dead { reason } => self.shelve(slot, Shelf::Dead, reason, lateness),
            Step::InDoubt { reason } => self.shelve(slot, Shelf::InDoubt, reason, None),
            Step::Held { reason } => {
                let profile = to.body.profile().to_owned();
                self.hold(place, &profile, reason.clone(), None);
                self.shelve(slot, Shelf::Held, reason, None);
            }
            Step::Retry { at, reason, doubt, .. } => {
                to.doubt = doubt;
                if to.body.in_order() {
                    // It keeps its place: those behind it wait.
                    to.at = to.at.max(to.due);
                    to.notes.edit(|noted| noted.not_before = Some(at));
                } else {
                    to.at = at;
                }
                to.notes.edit(|noted| noted.reason = Some(reason.clone()));
                self.relocate(slot, to, Why::Retry { attempt, reason }, None);
            }
        }
    }

    /// By what an attempt at this post is judged.
    fn terms(&self, now: Now, pool: &PoolSettings, record: &Record, delivery: &Delivery, called: bool) -> Terms {
        Terms {
            now: now.wall,
            seed: self.id(record.seq).as_u128(),
            attempt: record.attempts + 1,
            retry: pool.retry(record),
            guarantee: delivery.facts().guarantee,
            due: record.due,
            deadline: if called { pool.deadline_if(record, true) } else { pool.deadline(record) },
            doubt: delivery.facts().doubt(),
            before: record.notes.reason().unwrap_or("its outcome is not known").to_owned(),
        }
    }

    /// Published: the post leaves, or its next part follows.
    pub(super) fn delivered(&mut self, slot: u32, receipt: Receipt, lateness: Option<Duration>) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let part = post.record.notes.receipts().len();
        if part + 1 >= usize::from(post.parts) {
            return self.leave(slot, Outcome::Delivered(receipt), lateness, None);
        }
        let is_flying = post.phase == Phase::InFlight;
        let to = self.with_receipt(&post.record, receipt.clone());
        // The next part is claimed at once, unless it has to wait.
        let claim = (is_flying && self.closing.is_none() && !self.is_held_up(slot)).then_some(to.next_claim());
        marks::reach(if claim.is_some() { Mark::PartClaimed } else { Mark::PartHeldUp });
        self.relocate(slot, to, Why::Part { part, receipt }, claim);
    }

    /// The record of a thread whose next part is published.
    pub(super) fn with_receipt(&self, record: &Record, receipt: Receipt) -> Record {
        let mut to = record.clone();
        let calls = to.next_claim();
        (to.attempts, to.doubt) = (0, Doubt::None);
        to.notes.edit(|noted| {
            noted.receipts.push(receipt);
            noted.calls = calls;
            (noted.checkpoint, noted.prepared, noted.reason, noted.not_before) = (None, None, None, None);
        });
        if Shelf::of(to.at).is_some() || !to.body.in_order() {
            to.at = self.now.wall.ceil_millis().max(to.due);
        }
        to
    }

    /// The post gets an outcome and leaves as soon as that is durable.
    pub(super) fn leave(
        &mut self,
        slot: u32,
        outcome: Outcome,
        lateness: Option<Duration>,
        promise: Option<Promise<()>>,
    ) {
        if !self.step(slot, Happening::Left) {
            return;
        }
        if let Some(post) = self.posts.get_mut(slot as usize) {
            if let Some(delivery) = post.delivery.take() {
                delivery.facts().stage.withdraw();
            }
            let settle =
                Change::Settle { home: post.record.home(), attempts: post.record.attempts, outcome: outcome.clone() };
            let shelf = post.record.home().shelf();
            let ends = |tally: &mut Tally| tally.end(&outcome, shelf);
            let then = Then::Left { slot, outcome: outcome.clone(), lateness, promise };
            self.commits.add(settle, Some(then), 0);
            if let Some(campaign) = post.record.body.campaign() {
                self.commits.tally(campaign, ends);
            }
        }
    }

    /// The post gets another home, or another content; `claim` is the attempt that is claimed there.
    pub(super) fn relocate(&mut self, slot: u32, to: Record, why: Why, claim: Option<u32>) {
        if !self.step(slot, if claim.is_some() { Happening::MovedOn } else { Happening::Moved }) {
            return;
        }
        let Some(post) = self.posts.get_mut(slot as usize) else { return };
        if let Some(delivery) = post.delivery.take() {
            delivery.facts().stage.withdraw();
        }
        post.moves += 1;
        let (from, bytes) = (post.record.home(), to.body.len() + to.notes.len());
        self.commits.add(
            Change::Move { from, to: Box::new(to.clone()), claim },
            Some(Then::Moved { slot, why }),
            bytes,
        );
        self.tally_move(from, &to);
        self.replace(slot, to);
    }

    /// The committer has answered.
    pub fn handle_answer(&mut self, now: Now, answer: Answer) {
        self.observe(now);
        self.store_watch.answered(now.machine);
        if self.failed.is_some() {
            return;
        }
        if self.stalled {
            marks::reach(Mark::Resumed);
            self.stalled = false;
            self.emit(|| Event::StoreResumed);
        }
        match answer {
            Answer::Committed(Ok(verdicts)) => self.handle_committed(verdicts),
            Answer::Committed(Err(_)) if sabotage::is(Switch::FailedCommitCounts) => {
                self.handle_committed(Vec::new());
            }
            Answer::Committed(Err(error)) | Answer::Tidied(Err(error)) => self.fail(error),
            Answer::Loaded { place, page } => self.handle_page(place, page),
            Answer::Listed { token, page } => self.handle_listed(token, page),
            Answer::Found { token, found } => self.handle_found(token, found),
            Answer::Tidied(Ok(more)) => {
                self.tidy = Tidy::At(if more { self.now.mono } else { self.now.mono + TIDY_EVERY });
            }
        }
    }

    fn handle_committed(&mut self, verdicts: Vec<Verdict>) {
        let mut verdicts = verdicts.into_iter();
        for then in self.commits.received() {
            match then {
                Then::Scheduled { posts, known, campaign, promise } => match verdicts.next() {
                    Some(verdict) => self.scheduled(posts, known, verdict, campaign, promise),
                    None => return self.fail(StoreError::Poisoned),
                },
                Then::Queue(step) => self.queue_stored(*step),
                Then::Enqueued(enqueued) => match verdicts.next() {
                    Some(verdict) => self.enqueued(enqueued.0, enqueued.1, verdict),
                    None => return self.fail(StoreError::Poisoned),
                },
                Then::Series(step) => self.series_stored(*step),
                Then::Occurrences(step) => match verdicts.next() {
                    Some(verdict) => self.occurrences_stored(step.0, step.1, verdict),
                    None => return self.fail(StoreError::Poisoned),
                },
                Then::Claimed { slot } => {
                    if self.step(slot, Happening::ClaimStored) {
                        self.proceed(slot);
                    } else {
                        marks::reach(Mark::ClaimOvertaken);
                    }
                }
                Then::Moved { slot, why } => self.moved(slot, why),
                Then::Noted { promise, event } => {
                    if let Some(promise) = promise {
                        promise.fulfil(Ok(()));
                    }
                    if let Some(event) = event {
                        self.emit(|| event);
                    }
                }
                Then::Shelved { place, profile } => self.empty_shelf(place, profile),
                Then::Released { place, profile } => self.released(place, profile),
                Then::Left { slot, outcome, lateness, promise } => self.left(slot, outcome, lateness, promise),
            }
        }
    }

    pub(super) fn scheduled(
        &mut self,
        posts: Vec<Planned>,
        mut known: Vec<(usize, Seq)>,
        verdict: Verdict,
        campaign: Option<Box<str>>,
        promise: SchedulePromise,
    ) {
        let seqs = match verdict {
            Verdict::Stored(seqs) => seqs,
            Verdict::Conflict { index, existing } => {
                marks::reach(Mark::KeyConflict);
                let key = posts.get(index).and_then(|post| post.record.body.key()).unwrap_or_default().to_owned();
                return promise.fulfil(Err(Error::Conflict { key, existing: self.id(existing) }));
            }
            Verdict::Refused(error) => return promise.fulfil(Err(Error::Store(error))),
        };
        if let Some(name) = campaign {
            if posts.iter().zip(&seqs).any(|(post, kept)| post.record.seq != *kept) {
                return self.schedule_rest(posts, &seqs, known, Some(name), promise);
            }
            self.campaign_grew(&name, &posts);
        }
        let mut ids: Vec<_> = seqs.iter().map(|seq| self.id(*seq)).collect();
        known.sort_unstable();
        for (index, seq) in known {
            ids.insert(index.min(ids.len()), self.id(seq));
        }
        promise.fulfil(Ok(ids));
        for (Planned { record, claimed }, kept) in posts.into_iter().zip(seqs) {
            self.fixed(&record, record.seq == kept);
            if record.seq != kept {
                marks::reach(Mark::KeyKnown);
                continue;
            }
            let (id, due) = (self.id(record.seq), record.due);
            self.emit(|| Event::Scheduled { id, due: due.to_datetime() });
            let Some((place, _)) = self.pool(record.pool) else { continue };
            if self.keeps(place, &record) {
                let slot = self.admit(place, record, if claimed { Phase::Claimed } else { Phase::Armed });
                self.proceed(slot);
            } else if claimed {
                marks::reach(Mark::ClaimNotKept);
                self.commits.add(Change::Release { home: record.home() }, None, 0);
            }
        }
    }

    fn moved(&mut self, slot: u32, why: Why) {
        let Some(post) = self.posts.get_mut(slot as usize) else { return };
        post.moves = post.moves.saturating_sub(1);
        let is_last = post.moves == 0;
        let record = post.record.clone();
        self.tell_moved(&record, why);
        if !is_last || !self.step(slot, Happening::MoveStored) {
            return;
        }
        if self.comes_back(&record)
            && let Some(place) = self.places.get(record.pool)
        {
            marks::reach(Mark::BackFromShelf);
            self.forget(slot);
            return self.unshelve(place, record);
        }
        let is_claimed = self.posts.get(slot as usize).is_some_and(|post| post.phase == Phase::Claimed);
        match self.pool(record.pool).map(|(place, _)| place) {
            Some(place) if record.home().shelf().is_none() && self.keeps(place, &record) => self.proceed(slot),
            _ if is_claimed => self.release(slot),
            _ => self.forget(slot),
        }
    }

    /// Tells everyone who waits for it that a post has moved.
    fn tell_moved(&mut self, record: &Record, why: Why) {
        let id: PostId = self.id(record.seq);
        match why {
            Why::Changed { promise, event } => {
                if let Some(promise) = promise {
                    promise.fulfil(Ok(()));
                }
                self.emit(|| event);
            }
            Why::Retry { attempt, reason } => {
                self.emit(|| Event::Retrying { id, attempt, at: record.ready_at().to_datetime(), reason });
            }
            Why::Part { part, receipt } => {
                self.emit(|| Event::PartDelivered { id, part, receipt: receipt.as_str().to_owned() });
            }
            Why::Prepared => self.emit(|| Event::Prepared { id }),
            Why::Shelved { shelf: Shelf::InDoubt, reason, .. } => self.emit(|| Event::InDoubt { id, reason }),
            Why::Shelved { shelf: Shelf::Dead, reason, lateness } => {
                let (outcome, attempts) = (Outcome::Failed { reason }, record.attempts);
                for waiter in self.waiters.remove(&record.seq).into_iter().flatten() {
                    waiter.fulfil(Ok(outcome.clone()));
                }
                self.emit(|| Event::Settled { id, outcome, attempts, lateness });
            }
            Why::Shelved { shelf: Shelf::Held | Shelf::Queued, .. } | Why::Quiet => {}
        }
    }

    fn left(&mut self, slot: u32, outcome: Outcome, lateness: Option<Duration>, promise: Option<Promise<()>>) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let (seq, attempts) = (post.record.seq, post.record.attempts);
        let (id, record) = (self.id(seq), post.record.clone());
        self.discard(slot, &outcome);
        self.forget(slot);
        self.fix(&record, None);
        if let Some(promise) = promise {
            promise.fulfil(Ok(()));
        }
        for waiter in self.waiters.remove(&seq).into_iter().flatten() {
            waiter.fulfil(Ok(outcome.clone()));
        }
        // Of a dead letter that was said when it failed.
        let was_told = record.home().shelf() == Some(Shelf::Dead) && matches!(outcome, Outcome::Failed { .. });
        if !was_told {
            self.emit(|| Event::Settled { id, outcome, attempts, lateness });
        }
    }
}
