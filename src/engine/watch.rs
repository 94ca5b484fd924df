//! Whether the store still answers, and what is said where it does not; its housekeeping.

use std::time::Duration;

use crate::error::{Error, StoreError};
use crate::marks::{self, Mark};
use crate::post::Event;
use crate::reply::Promise;

use super::Engine;
use super::commits::{Commits, Then, Why};
use super::message::{Effect, Request, SchedulePromise};
use super::site::Hold;

/// Housekeeping is asked for this often.
pub const TIDY_EVERY: Duration = Duration::from_secs(30);
/// A store that is never idle is given housekeeping all the same after so long.
const TIDY_AT_LAST: Duration = Duration::from_secs(300);

/// What the store has been asked and has not answered: it answers in order, one answer for each request.
#[derive(Debug, Default)]
pub struct Watch {
    open: usize,
    since: Option<Duration>,
}

impl Watch {
    /// The store is asked something.
    pub fn asked(&mut self, now: Duration) {
        self.open += 1;
        self.since.get_or_insert(now);
    }

    /// It has answered. The next request has it for itself only from now on.
    pub fn answered(&mut self, now: Duration) {
        self.open = self.open.saturating_sub(1);
        self.since = (self.open > 0).then_some(now);
    }

    /// Since when the store has been working on the oldest request.
    pub fn working_since(&self) -> Option<Duration> {
        self.since
    }
}

/// When housekeeping is due.
#[derive(Debug)]
pub enum Tidy {
    At(Duration),
    Asked,
}

impl Engine {
    /// Notices a store that does not answer, and asks for housekeeping when there is time for it.
    pub(super) fn watch_store(&mut self) {
        let working = self.store_watch.working_since().map(|since| self.now.machine.saturating_sub(since));
        if let Some(stalled) = working.filter(|stalled| !self.stalled && *stalled >= self.settings.stall_after) {
            marks::reach(Mark::Stalled);
            self.stalled = true;
            self.emit(|| Event::StoreStalled { stalled });
            self.refuse_pending(&Error::StoreStalled { stalled });
            self.refuse_searches(&Error::StoreStalled { stalled });
        }
        if let Tidy::At(at) = self.tidy
            && self.now.mono >= if self.commits.is_empty() { at } else { at + TIDY_AT_LAST }
            && self.closing.is_none()
        {
            self.tidy = Tidy::Asked;
            let retention = self.settings.retention;
            self.effects.push_back(Effect::Ask(Request::Tidy { now: self.now.wall, retention }));
            self.bury_old();
        }
    }

    /// Answers everyone who waits for a commit.
    fn refuse_pending(&mut self, error: &Error) {
        self.refuse_queues(error);
        self.refuse_series(error);
        for then in self.commits.pending().flatten() {
            match then {
                Then::Scheduled { promise, .. } => {
                    // The post itself stays on its way; only the answer is given early.
                    let (unheard, _) = Promise::new();
                    std::mem::replace(promise, SchedulePromise::One(unheard)).fulfil(Err(error.clone()));
                }
                Then::Series(step) => {
                    if let Some(promise) = step.promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Queue(step) => {
                    if let Some(promise) = step.promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Enqueued(enqueued) => {
                    let (unheard, _) = Promise::new();
                    std::mem::replace(&mut enqueued.1.promise, SchedulePromise::One(unheard))
                        .fulfil(Err(error.clone()));
                }
                Then::Left { promise, .. } => {
                    if let Some(promise) = promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Moved { why: Why::Changed { promise, .. }, .. } | Then::Noted { promise, .. } => {
                    if let Some(promise) = promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Moved { .. }
                | Then::Claimed { .. }
                | Then::Occurrences(_)
                | Then::Shelved { .. }
                | Then::Released { .. } => {}
            }
        }
    }

    /// The store is lost: nothing more is sent, everyone who waits is told.
    pub(super) fn fail(&mut self, error: StoreError) {
        if self.failed.is_some() {
            return;
        }
        self.emit(|| Event::StoreFailed { reason: error.to_string() });
        marks::reach(Mark::Failed);
        let told = Error::Store(error.clone());
        self.failed = Some(error);
        self.outgoing.iter_mut().for_each(Vec::clear);
        for delivery in self.posts.iter_mut().filter_map(|(_, post)| post.delivery.take()) {
            delivery.facts().stage.withdraw();
        }
        self.refuse_pending(&told);
        self.commits = Commits::default();
        for search in self.searches.drain() {
            search.refuse(&told);
        }
        for listing in self.listings.drain() {
            listing.refuse(&told);
        }
        self.refuse_queues(&told);
        self.refuse_series(&told);
        let holds = self.sites.iter_mut().flat_map(|site| site.held.values_mut());
        for promise in holds.flat_map(Hold::take_promises) {
            promise.fulfil(Err(told.clone()));
        }
        for waiter in self.waiters.drain().flat_map(|(_, waiters)| waiters) {
            waiter.fulfil(Err(told.clone()));
        }
        for promise in self.settling.drain(..) {
            promise.fulfil(Err(told.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_late_only_from_when_the_store_could_begin_with_it() {
        let at = Duration::from_secs;
        let mut watch = Watch::default();
        assert_eq!(watch.working_since(), None);
        watch.asked(at(1));
        watch.asked(at(2));
        assert_eq!(watch.working_since(), Some(at(1)));
        watch.answered(at(5));
        assert_eq!(watch.working_since(), Some(at(5)));
        watch.answered(at(6));
        assert_eq!(watch.working_since(), None);
    }
}
