//! What is on its way to the store: changes gathered into commits, and what follows when they are durable.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits;
use crate::post::{Change, Outcome, Record};
use crate::reply::Promise;

use super::message::SchedulePromise;

/// What follows when a change is durable.
#[derive(Debug)]
pub enum Then {
    Scheduled { posts: Vec<Planned>, promise: SchedulePromise },
    Claimed { slot: u32 },
    Moved { slot: u32, why: Why },
    Left { slot: u32, outcome: Outcome, lateness: Option<Duration>, promise: Option<Promise<()>> },
}

/// A new post on its way to the store.
#[derive(Clone, Debug)]
pub struct Planned {
    pub record: Record,
    /// Whether the commit that stores it claims it too.
    pub claimed: bool,
}

/// Why a post moved.
#[derive(Debug)]
pub enum Why {
    Rescheduled(Promise<()>),
    Retry { attempt: u32, reason: String },
}

/// A commit that is being gathered.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<Change>,
    then: Vec<Then>,
    bytes: usize,
}

/// A commit that the store works on.
#[derive(Debug)]
struct Sent {
    since: Duration,
    then: Vec<Then>,
    bytes: usize,
}

/// Commits, in order.
#[derive(Debug, Default)]
pub struct Commits {
    open: VecDeque<Batch>,
    sent: VecDeque<Sent>,
    bytes: usize,
}

impl Commits {
    /// Adds changes that go into one commit together. `bytes` is what they hold in memory, roughly.
    pub fn add(&mut self, changes: impl IntoIterator<Item = Change>, then: Option<Then>, bytes: usize) {
        let full = |batch: &Batch| batch.bytes >= limits::COMMIT_BYTES || batch.changes.len() >= limits::COMMIT_CHANGES;
        if self.open.back().is_none_or(full) {
            self.open.push_back(Batch::default());
        }
        if let Some(batch) = self.open.back_mut() {
            batch.changes.extend(changes);
            batch.then.extend(then);
            batch.bytes += bytes;
            self.bytes += bytes;
        }
    }

    /// The next commit to hand to the store, if it has not got enough to do.
    pub fn send(&mut self, now: Duration) -> Option<Vec<Change>> {
        if self.sent.len() >= limits::COMMITS_IN_FLIGHT {
            return None;
        }
        let Batch { changes, then, bytes } = self.open.pop_front()?;
        self.sent.push_back(Sent { since: now, then, bytes });
        Some(changes)
    }

    /// The oldest commit sent has come back: what follows from it. The next one has had the store for itself
    /// only from now on.
    pub fn received(&mut self, now: Duration) -> Vec<Then> {
        let Some(sent) = self.sent.pop_front() else { return Vec::new() };
        self.bytes -= sent.bytes;
        if let Some(next) = self.sent.front_mut() {
            next.since = now;
        }
        sent.then
    }

    /// Since when the store has been working on the oldest commit.
    pub fn working_since(&self) -> Option<Duration> {
        self.sent.front().map(|sent| sent.since)
    }

    /// Whether nothing is gathered or sent.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.sent.is_empty()
    }

    /// Whether new posts have to wait before they are taken in.
    pub fn is_full(&self) -> bool {
        self.bytes >= limits::UNCOMMITTED_BYTES
    }

    /// Everything that was to follow, in order.
    pub fn pending(&mut self) -> impl Iterator<Item = &mut Vec<Then>> {
        self.sent.iter_mut().map(|sent| &mut sent.then).chain(self.open.iter_mut().map(|batch| &mut batch.then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PoolId, Seq};
    use crate::post::Home;
    use crate::time::Timestamp;

    fn change(seq: u64) -> Change {
        Change::Release { home: Home { pool: PoolId(0), at: Timestamp::MIN, seq: Seq(seq) } }
    }

    #[test]
    fn commits_are_bounded_and_keep_the_order_of_changes() {
        let mut commits = Commits::default();
        let all: Vec<_> = (0..3 * limits::COMMIT_CHANGES as u64 + 5).map(change).collect();
        for change in &all {
            commits.add([change.clone()], None, 1);
        }
        let mut seen = Vec::new();
        while !commits.is_empty() {
            while let Some(changes) = commits.send(Duration::ZERO) {
                assert!(changes.len() <= limits::COMMIT_CHANGES);
                seen.extend(changes);
            }
            assert!(commits.sent.len() <= limits::COMMITS_IN_FLIGHT);
            commits.received(Duration::ZERO);
        }
        assert_eq!(seen, all);
        assert_eq!(commits.bytes, 0);
    }
}
