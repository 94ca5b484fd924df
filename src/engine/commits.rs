//! What is on its way to the store: changes gathered into commits, and what follows when they are durable.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::Seq;
use crate::limits;
use crate::post::{Change, Event, Outcome, Receipt, Record, Shelf};
use crate::reply::Promise;

use super::campaigns::{Tallies, Tally};
use super::message::SchedulePromise;
use super::queues::{Enqueued, Step};
use super::series;

/// What follows when a change is durable.
#[derive(Debug)]
pub enum Then {
    Scheduled {
        posts: Vec<Planned>,
        known: Vec<(usize, Seq)>,
        campaign: Option<Box<str>>,
        promise: SchedulePromise,
    },
    /// A queue is as it was to become.
    Queue(Box<Step>),
    /// So it is, and new posts are in it.
    Enqueued(Box<(Step, Enqueued)>),
    /// A series is as it was to become.
    Series(Box<series::Step>),
    /// So it is, and these occurrences are planned.
    Occurrences(Box<(series::Step, Vec<Planned>)>),
    Claimed {
        slot: u32,
    },
    Moved {
        slot: u32,
        why: Why,
    },
    /// What belongs to no post, or changes nothing about it in memory: a promise is given.
    Noted {
        promise: Option<Promise<()>>,
        event: Option<Event>,
    },
    /// The posts of a profile that is being released can be looked for: all that were put on the shelf are there.
    Shelved {
        place: usize,
        profile: String,
    },
    /// All of them are back.
    Released {
        place: usize,
        profile: String,
    },
    Left {
        slot: u32,
        outcome: Outcome,
        lateness: Option<Duration>,
        promise: Option<Promise<()>>,
    },
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
    /// The host has changed it.
    Changed {
        promise: Option<Promise<()>>,
        event: Event,
    },
    Retry {
        attempt: u32,
        reason: String,
    },
    Part {
        part: usize,
        receipt: Receipt,
    },
    /// It is put on this shelf.
    Shelved {
        shelf: Shelf,
        reason: String,
        lateness: Option<Duration>,
    },
    Prepared,
    /// It comes back from a shelf, or a doubt about it is kept.
    Quiet,
}

/// A commit that is being gathered.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<Change>,
    then: Vec<Then>,
    /// Posts of campaigns that come to an end with it.
    tallies: Tallies,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes >= limits::COMMIT_BYTES || self.changes.len() >= limits::COMMIT_CHANGES
    }

    /// The last of these that is not full.
    fn last(line: &mut VecDeque<Self>, is_unit: bool) -> &mut Self {
        if line.back().is_none_or(|batch| batch.is_full() && !is_unit) {
            // Behind one that is full comes another one that will be.
            let (changes, then) = line.back().map_or((0, 0), |full| (full.changes.len(), full.then.len()));
            let (changes, then) = (Vec::with_capacity(changes), Vec::with_capacity(then));
            line.push_back(Self { changes, then, ..Self::default() });
        }
        let last = line.len() - 1;
        &mut line[last]
    }

    fn add(&mut self, changes: impl IntoIterator<Item = Change>, then: impl IntoIterator<Item = Then>, bytes: usize) {
        self.changes.extend(changes);
        self.then.extend(then);
        self.bytes += bytes;
    }
}

/// A commit that the store works on.
#[derive(Debug)]
struct Sent {
    then: Vec<Then>,
    bytes: usize,
}

/// Commits, in order. New posts wait in a line of their own, so that a bulk of them does not delay the claims and
/// outcomes of others; changes to a post come after it was stored, so they never overtake it.
#[derive(Debug, Default)]
pub struct Commits {
    new: VecDeque<Batch>,
    changes: VecDeque<Batch>,
    /// Whether changes belong together at the moment.
    is_unit: bool,
    /// Whether the last commit sent brought new posts.
    new_was_last: bool,
    sent: VecDeque<Sent>,
    bytes: usize,
}

impl Commits {
    /// Adds a unit of new posts, and their claims, to one commit. `bytes` is what they hold in memory, roughly.
    pub fn add_new(&mut self, changes: impl IntoIterator<Item = Change>, then: Then, bytes: usize) {
        self.bytes += bytes;
        Batch::last(&mut self.new, false).add(changes, Some(then), bytes);
    }

    /// Adds a change to a post that is stored.
    pub fn add(&mut self, change: Change, then: Option<Then>, bytes: usize) {
        self.bytes += bytes;
        Batch::last(&mut self.changes, self.is_unit).add([change], then, bytes);
    }

    /// With the change that was added last a post of this campaign ends, or goes on.
    pub fn tally(&mut self, campaign: &str, count: impl FnOnce(&mut Tally)) {
        let batch = Batch::last(&mut self.changes, true);
        count(batch.tallies.entry(campaign.into()).or_default());
    }

    /// Changes from now on go into one commit.
    pub fn begin_unit(&mut self) {
        Batch::last(&mut self.changes, false);
        self.is_unit = true;
    }

    /// The last of them is there.
    pub fn end_unit(&mut self) {
        self.is_unit = false;
    }

    /// This follows when everything before it is durable.
    pub fn note(&mut self, then: Then) {
        Batch::last(&mut self.changes, self.is_unit).add([], Some(then), 0);
    }

    /// The next commit to hand to the store, if it has not got enough to do.
    pub fn send(&mut self) -> Option<(Vec<Change>, Tallies)> {
        if self.sent.len() >= limits::COMMITS_IN_FLIGHT {
            return None;
        }
        let Batch { changes, then, tallies, bytes } = self.next()?;
        self.sent.push_back(Sent { then, bytes });
        Some((changes, tallies))
    }

    /// Both lines in one commit if they are short, else the one whose turn it is.
    fn next(&mut self) -> Option<Batch> {
        let (Some(new), Some(changes)) = (self.new.front(), self.changes.front()) else {
            return self.changes.pop_front().or_else(|| self.new.pop_front());
        };
        let is_short = new.bytes + changes.bytes <= limits::COMMIT_BYTES
            && new.changes.len() + changes.changes.len() <= limits::COMMIT_CHANGES;
        if is_short {
            let (mut both, new) = (self.changes.pop_front()?, self.new.pop_front()?);
            both.add(new.changes, new.then, new.bytes);
            return Some(both);
        }
        self.new_was_last = !self.new_was_last;
        if self.new_was_last { self.new.pop_front() } else { self.changes.pop_front() }
    }

    /// The oldest commit sent has come back: what follows from it.
    pub fn received(&mut self) -> Vec<Then> {
        let Some(sent) = self.sent.pop_front() else { return Vec::new() };
        self.bytes -= sent.bytes;
        sent.then
    }

    /// Whether nothing is gathered or sent.
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.changes.is_empty() && self.sent.is_empty()
    }

    /// Whether new posts have to wait before they are taken in.
    pub fn is_full(&self) -> bool {
        self.bytes >= limits::UNCOMMITTED_BYTES
    }

    /// Everything that was to follow, in order.
    pub fn pending(&mut self) -> impl Iterator<Item = &mut Vec<Then>> {
        let open = self.changes.iter_mut().chain(&mut self.new).map(|batch| &mut batch.then);
        self.sent.iter_mut().map(|sent| &mut sent.then).chain(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PoolId;
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
            commits.add(change.clone(), None, 1);
        }
        let mut seen = Vec::new();
        while !commits.is_empty() {
            while let Some((changes, _)) = commits.send() {
                assert!(changes.len() <= limits::COMMIT_CHANGES);
                seen.extend(changes);
            }
            assert!(commits.sent.len() <= limits::COMMITS_IN_FLIGHT);
            commits.received();
        }
        assert_eq!(seen, all);
        assert_eq!(commits.bytes, 0);
    }

    #[test]
    fn new_posts_and_changes_go_together_where_both_fit_and_take_turns_where_not() {
        let (most, bytes) = (limits::COMMIT_CHANGES as u64, limits::COMMIT_BYTES);
        let cases = [
            (most / 2, most / 2, 1, true),
            (most / 2, most / 2 + 1, 1, false),
            (most - 1, 1, 1, true),
            (1, 1, bytes / 2, true),
            (1, 1, bytes / 2 + 1, false),
            (2, 1, bytes / 2, false),
        ];
        for (new, changed, bytes, together) in cases {
            let mut commits = Commits::default();
            for turn in 0..2 {
                let units = (0..new).map(|seq| change(1_000_000 * turn + seq));
                let then = Then::Noted { promise: None, event: None };
                commits.add_new(units, then, bytes * new as usize);
                (0..changed).for_each(|seq| commits.add(change(seq + most * 4), None, bytes));
                let first = commits.send().map(|(changes, _)| changes.len() as u64);
                let expected = if together { new + changed } else { new };
                assert_eq!(first, Some(expected), "{new} new, {changed} changed, {bytes} bytes each");
                let second = commits.send().map(|(changes, _)| changes.len() as u64);
                assert_eq!(second, (!together).then_some(changed));
                (0..2).for_each(|_| drop(commits.received()));
                // What comes alone goes alone, and does not use up a turn.
                commits.add(change(7), None, 1);
                assert_eq!(commits.send().map(|(changes, _)| changes.len()), Some(1));
                drop(commits.received());
                if !together {
                    break;
                }
            }
            assert!(commits.is_empty() && !commits.is_full());
        }
        let mut commits = Commits::default();
        // Both lines have more than fits: neither waits for the other.
        (0..3 * most).for_each(|seq| commits.add(change(seq), None, 1));
        (0..3).for_each(|turn| {
            let then = Then::Noted { promise: None, event: None };
            commits.add_new((0..most).map(|seq| change(most * (10 + turn) + seq)), then, 1);
        });
        let is_new = |changes: &[Change]| {
            changes.iter().any(|change| matches!(change, Change::Release { home } if home.seq.0 >= 10 * most))
        };
        let mut turns = Vec::new();
        while let Some((changes, _)) = commits.send() {
            turns.push(is_new(&changes));
            commits.received();
        }
        assert_eq!(turns, [true, false, true, false, true, false]);
        commits.add(change(0), None, limits::UNCOMMITTED_BYTES - 1);
        assert!(!commits.is_full());
        commits.add(change(0), None, 1);
        assert!(commits.is_full());
    }

    #[test]
    fn what_belongs_together_is_in_one_commit_however_full_it_is() {
        for before in [0, 1, limits::COMMIT_CHANGES - 1, limits::COMMIT_CHANGES, limits::COMMIT_CHANGES + 1] {
            let mut commits = Commits::default();
            (0..before as u64).for_each(|seq| commits.add(change(seq), None, 1));
            let unit: Vec<_> = (100_000..100_010).map(change).collect();
            commits.begin_unit();
            unit.iter().for_each(|change| commits.add(change.clone(), None, limits::COMMIT_BYTES));
            commits.end_unit();
            commits.add(change(7), None, 1);
            let mut sent = Vec::new();
            while let Some((changes, _)) = commits.send() {
                sent.push(changes);
                commits.received();
            }
            assert!(sent.iter().any(|changes| changes.ends_with(&unit)), "{before} before: {}", sent.len());
            assert_eq!(sent.last().map(Vec::len), Some(1), "what follows is in another one");
        }
    }

    #[test]
    fn what_ends_with_a_commit_is_counted_with_it() {
        let mut commits = Commits::default();
        for seq in 0..2 * limits::COMMIT_CHANGES as u64 {
            commits.add(change(seq), None, 1);
            commits.tally("c", |tally| tally.delivered += 1);
        }
        while let Some((changes, tallies)) = commits.send() {
            assert_eq!(tallies["c"].delivered, changes.len() as i64);
            commits.received();
        }
        assert!(commits.is_empty());
    }
}
