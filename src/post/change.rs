//! What passes between the engine and the store: what is kept of a post, what changes, what is found.

use crate::error::StoreError;
use crate::id::{PoolId, Seq};
use crate::time::Timestamp;

use bytes::Bytes;

use super::{Body, Doubt, Notes, Outcome};

/// Where the store keeps a live post: by pool, by the instant of its next attempt, by number. Homes of one
/// pool sort by `(at, seq)`, the order in which posts are loaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Home {
    pub pool: PoolId,
    pub at: Timestamp,
    pub seq: Seq,
}

/// What the store keeps of a post. The body never changes; the rest is a small head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub seq: Seq,
    pub pool: PoolId,
    /// When something is to be done next; whole milliseconds. Before `due`: it is to be prepared. Equal to `due`
    /// before the first attempt, later after it or if it was late and has a place of its own. On a
    /// [`Shelf`](super::Shelf): nothing happens by itself.
    pub at: Timestamp,
    /// When the post is promised; whole milliseconds.
    pub due: Timestamp,
    /// Attempts that have ended.
    pub attempts: u32,
    /// Rises with each change that the host makes.
    pub revision: u32,
    pub doubt: Doubt,
    pub notes: Notes,
    pub body: Body,
}

impl Record {
    pub fn home(&self) -> Home {
        Home { pool: self.pool, at: self.at, seq: self.seq }
    }

    /// When the next attempt is made. Its home may be earlier: while it is to be prepared, or to keep its place.
    pub fn ready_at(&self) -> Timestamp {
        self.at.max(self.due).max(self.notes.not_before().unwrap_or(Timestamp::MIN))
    }

    /// The number of the claim that comes next: no two calls of a post have the same.
    pub fn next_claim(&self) -> u32 {
        self.notes.calls().saturating_add(self.attempts).saturating_add(1)
    }

    /// Whether it has never been called, and goes at an instant later than its due.
    pub fn is_placed(&self) -> bool {
        self.at > self.due && self.next_claim() == 1
    }

    /// Whether it waits to be prepared.
    pub fn is_unprepared(&self) -> bool {
        self.at < self.due
    }
}

/// One step in a post's stored life. Changes are applied in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// New posts, all or none. If a post's key is taken by a post of the same fingerprint, that post's number
    /// is answered and the new record is not kept; a key with another fingerprint refuses the whole unit.
    Schedule(Vec<Record>),
    /// As `Schedule`, with what is remembered together with them. Nothing is kept, of posts and notes, unless all of the
    /// posts are new.
    ScheduleNoted { records: Vec<Record>, notes: Vec<(Bytes, Bytes)> },
    /// The attempt with this number ([`Record::next_claim`]) of the post at `home` is about to be made.
    Claim { home: Home, attempt: u32 },
    /// The claim is taken back: the attempt was not made.
    Release { home: Home },
    /// The post moves from `from` to `to.home()`, which may be the same, with its new head, notes and body. A claim
    /// does not move along; `claim` is the number of the attempt that is claimed at the new home, if one is.
    Move { from: Home, to: Box<Record>, claim: Option<u32> },
    /// The post at `home` leaves for good, after `attempts` attempts.
    Settle { home: Home, attempts: u32, outcome: Outcome },
    /// Something to remember that belongs to no post: a pool that is paused, a profile that is held, what a rate
    /// limit has counted. Replaces what was remembered under this key; an empty value forgets it.
    Remember { key: Bytes, value: Bytes },
}

/// The store's answer to one [`Change::Schedule`] or [`Change::ScheduleNoted`], in the order of the commit.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Kept. For each post: its own number, or that of the post that has its key already.
    Stored(Vec<Seq>),
    /// Refused: the key of post number `index` of the unit belongs to `existing`, which has other content.
    Conflict { index: usize, existing: Seq },
    /// Refused: the store cannot take new posts ([`StoreError::Full`]).
    Refused(StoreError),
}

/// A position in the order of a pool's homes: everything at or before it has been passed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cursor {
    pub at: Timestamp,
    pub seq: Seq,
}

impl Cursor {
    /// Before the first home.
    pub const START: Self = Self { at: Timestamp::MIN, seq: Seq(0) };

    /// After every home at or before `at`.
    pub const fn through(at: Timestamp) -> Self {
        Self { at, seq: Seq(u64::MAX) }
    }

    /// The position of this home.
    pub const fn of(home: Home) -> Self {
        Self { at: home.at, seq: home.seq }
    }

    /// The last position before this home.
    pub const fn just_before(home: Home) -> Self {
        if home.seq.0 > 0 {
            Self { at: home.at, seq: Seq(home.seq.0 - 1) }
        } else {
            Self { at: Timestamp::from_micros(home.at.micros().saturating_sub(1)), seq: Seq(u64::MAX) }
        }
    }
}

/// A live post as loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    pub record: Record,
    /// The claim of an *earlier* process that it neither settled nor released. Claims of this process are not
    /// reported: the engine knows them.
    pub claimed: Option<Claimed>,
}

/// What an earlier process left of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claimed {
    /// Its number.
    pub attempt: u32,
    pub called: Called,
}

/// Whether the attempt had begun.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Called {
    /// It had.
    Yes,
    /// It certainly had not.
    No,
    /// There is no call log, or it cannot be relied on.
    Unknown,
}

/// Some of a pool's live posts, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    pub posts: Vec<Stored>,
    /// Every live post of the pool after the asked cursor and up to this one is in the page.
    pub through: Cursor,
}

/// What the store knows of one post.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    Live(Stored),
    /// The record as it was when it left, and what came of it. `record.attempts` counts all attempts.
    Settled {
        record: Record,
        outcome: Outcome,
        at: Timestamp,
    },
}

impl Found {
    pub fn record(&self) -> &Record {
        match self {
            Self::Live(stored) => &stored.record,
            Self::Settled { record, .. } => record,
        }
    }
}
