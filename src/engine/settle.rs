//! What the loops answer: deliveries that ended, commits that are durable.

use std::time::Duration;

use crate::error::{Error, StoreError};
use crate::id::Seq;
use crate::post::{Change, Event, Outcome, Record, Step, Verdict};
use crate::reply::Promise;
use crate::time::Now;

use super::commits::{Planned, Then, Why};
use super::lifecycle::{Happening, Phase};
use super::message::{Answer, Attempt, Report, SchedulePromise};
use super::{Engine, TIDY_EVERY, Tidy};

impl Engine {
    /// A worker has something to say.
    pub fn handle_report(&mut self, now: Now, mut report: Report) {
        self.observe(now);
        if self.failed.is_some() {
            return;
        }
        for attempt in report.ended.drain(..) {
            self.handle_attempt(now, attempt);
        }
        self.handle_recalls(&mut report);
        if let Some(closing) = self.closing.as_mut().filter(|_| report.recalled_all) {
            closing.recalling = closing.recalling.saturating_sub(1);
        }
    }

    fn handle_attempt(&mut self, now: Now, Attempt { id, slot, started, ending }: Attempt) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        if post.record.seq != id.seq() || post.phase != Phase::InFlight {
            return;
        }
        let mut record = post.record.clone();
        record.attempts += 1;
        let Some((_, pool)) = self.pool(record.pool) else { return };
        match ending.step(now.wall, id.as_u128(), record.attempts, &pool.retry) {
            Step::Settle(outcome) => {
                let lateness = started.map(|started| started.since(record.due));
                if let Some(post) = self.posts.get_mut(slot as usize) {
                    post.record.attempts = record.attempts;
                }
                self.leave(slot, outcome, lateness, None);
            }
            Step::Retry { at, reason, maybe_sent } => {
                record.at = at;
                record.maybe_sent |= maybe_sent;
                let attempt = record.attempts;
                self.relocate(slot, record, Why::Retry { attempt, reason });
            }
        }
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
        if let Some(post) = self.posts.get(slot as usize) {
            let settle =
                Change::Settle { home: post.record.home(), attempts: post.record.attempts, outcome: outcome.clone() };
            self.commits.add(settle, Some(Then::Left { slot, outcome, lateness, promise }), 0);
        }
    }

    /// The post gets another home.
    pub(super) fn relocate(&mut self, slot: u32, to: Record, why: Why) {
        if !self.step(slot, Happening::Moved) {
            return;
        }
        if let Some(post) = self.posts.get_mut(slot as usize) {
            let from = post.record.home();
            post.record = to.clone();
            post.moves += 1;
            let bytes = to.body.len();
            self.commits.add(Change::Move { from, to: Box::new(to) }, Some(Then::Moved { slot, why }), bytes);
        }
    }

    /// The committer has answered.
    pub fn handle_answer(&mut self, now: Now, answer: Answer) {
        self.observe(now);
        if self.failed.is_some() {
            return;
        }
        match answer {
            Answer::Committed(Ok(verdicts)) => self.handle_committed(now, verdicts),
            Answer::Committed(Err(error)) | Answer::Tidied(Err(error)) => self.fail(error),
            Answer::Loaded { place, page } => self.handle_page(place, page),
            Answer::Found { token, found } => self.handle_found(token, found),
            Answer::Tidied(Ok(more)) => {
                self.tidy = Tidy::At(if more { self.now.mono } else { self.now.mono + TIDY_EVERY });
            }
        }
    }

    fn handle_committed(&mut self, now: Now, verdicts: Vec<Verdict>) {
        if self.stalled {
            self.stalled = false;
            self.emit(|| Event::StoreResumed);
        }
        let mut verdicts = verdicts.into_iter();
        for then in self.commits.received(now.machine) {
            match then {
                Then::Scheduled { posts, known, promise } => match verdicts.next() {
                    Some(verdict) => self.scheduled(posts, known, verdict, promise),
                    None => return self.fail(StoreError::Poisoned),
                },
                Then::Claimed { slot } => {
                    if self.step(slot, Happening::ClaimStored) {
                        self.proceed(slot);
                    }
                }
                Then::Moved { slot, why } => self.moved(slot, why),
                Then::Left { slot, outcome, lateness, promise } => self.left(slot, outcome, lateness, promise),
            }
        }
    }

    fn scheduled(
        &mut self,
        posts: Vec<Planned>,
        mut known: Vec<(usize, Seq)>,
        verdict: Verdict,
        promise: SchedulePromise,
    ) {
        let seqs = match verdict {
            Verdict::Stored(seqs) => seqs,
            Verdict::Conflict { index, existing } => {
                let key = posts.get(index).and_then(|post| post.record.body.key()).unwrap_or_default().to_owned();
                return promise.fulfil(Err(Error::Conflict { key, existing: self.id(existing) }));
            }
            Verdict::Refused(error) => return promise.fulfil(Err(Error::Store(error))),
        };
        let mut ids: Vec<_> = seqs.iter().map(|seq| self.id(*seq)).collect();
        known.sort_unstable();
        for (index, seq) in known {
            ids.insert(index.min(ids.len()), self.id(seq));
        }
        promise.fulfil(Ok(ids));
        for (Planned { record, claimed }, kept) in posts.into_iter().zip(seqs) {
            if record.seq != kept {
                continue;
            }
            let (id, due) = (self.id(record.seq), record.due);
            self.emit(|| Event::Scheduled { id, due: due.to_datetime() });
            let Some((place, _)) = self.pool(record.pool) else { continue };
            if self.keeps(place, &record) {
                let slot = self.admit(place, record, if claimed { Phase::Claimed } else { Phase::Armed });
                self.proceed(slot);
            } else if claimed {
                self.commits.add(Change::Release { home: record.home() }, None, 0);
            }
        }
    }

    fn moved(&mut self, slot: u32, why: Why) {
        let Some(post) = self.posts.get_mut(slot as usize) else { return };
        post.moves = post.moves.saturating_sub(1);
        let is_last = post.moves == 0;
        let record = post.record.clone();
        let id = self.id(record.seq);
        match why {
            Why::Rescheduled(promise) => {
                promise.fulfil(Ok(()));
                self.emit(|| Event::Rescheduled { id, due: record.due.to_datetime() });
            }
            Why::Retry { attempt, reason } => {
                self.emit(|| Event::Retrying { id, attempt, at: record.at.to_datetime(), reason });
            }
        }
        if !is_last || !self.step(slot, Happening::MoveStored) {
            return;
        }
        match self.pool(record.pool).map(|(place, _)| place) {
            Some(place) if self.keeps(place, &record) => self.proceed(slot),
            _ => self.forget(slot),
        }
    }

    fn left(&mut self, slot: u32, outcome: Outcome, lateness: Option<Duration>, promise: Option<Promise<()>>) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let (seq, attempts) = (post.record.seq, post.record.attempts);
        let id = self.id(seq);
        self.forget(slot);
        if let Some(promise) = promise {
            promise.fulfil(Ok(()));
        }
        for waiter in self.waiters.remove(&seq).into_iter().flatten() {
            waiter.fulfil(Ok(outcome.clone()));
        }
        self.emit(|| Event::Settled { id, outcome, attempts, lateness });
    }
}
