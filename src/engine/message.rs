//! The messages at the engine's border.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, Result, StoreError};
use crate::id::{PoolId, PostId, Seq};
use crate::post::{Body, Change, Cursor, Delivery, Ending, Event, Found, Outcome, Page, PostRef, Status, Verdict};
use crate::reply::Promise;
use crate::time::Timestamp;

/// A post that has been checked: what is left to do is to give it a number and store it.
#[derive(Clone, Debug)]
pub struct NewPost {
    /// The pool's place in the scheduler's list.
    pub pool: usize,
    pub due: Timestamp,
    pub body: Body,
    /// Its due is long past, and it was not asked to go out all the same: it is refused with this, unless its key
    /// says that it was scheduled before.
    pub late: Option<Error>,
}

/// What the host wants.
#[derive(Debug)]
pub enum Command {
    Schedule { posts: Vec<NewPost>, promise: SchedulePromise, _weight: Weight },
    Cancel { post: PostRef, promise: Promise<()> },
    Reschedule { post: PostRef, due: Timestamp, promise: Promise<()> },
    Get { post: PostRef, promise: Promise<Option<Status>> },
    Outcome { post: PostRef, promise: Promise<Outcome> },
    Settle { promise: Promise<()> },
    Shutdown { grace: Duration, promise: Promise<()> },
}

/// What a command holds in memory while it waits to be taken: added to a common sum until it is dropped.
#[derive(Debug)]
pub struct Weight {
    sum: Arc<AtomicUsize>,
    bytes: usize,
}

impl Weight {
    /// Adds so many bytes; `None` if that would be more than the limit.
    pub fn add(sum: &Arc<AtomicUsize>, bytes: usize, limit: usize) -> Option<Self> {
        let weight = Self { sum: Arc::clone(sum), bytes };
        (sum.fetch_add(bytes, Ordering::Relaxed) + bytes <= limit).then_some(weight)
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// To whom the ids are given.
#[derive(Debug)]
pub enum SchedulePromise {
    One(Promise<PostId>),
    All(Promise<Vec<PostId>>),
}

impl SchedulePromise {
    pub fn fulfil(self, answer: Result<Vec<PostId>>) {
        match self {
            Self::One(promise) => {
                // A unit of one post is answered with one id.
                promise.fulfil(answer.and_then(|ids| ids.first().copied().ok_or(Error::Closed)));
            }
            Self::All(promise) => promise.fulfil(answer),
        }
    }
}

/// How the store is asked for one post.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sought {
    Seq(Seq),
    Key(String),
}

/// What the engine wants done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Commit these changes; answered by [`Answer::Committed`], in the order of the commits.
    Commit { now: Timestamp, changes: Vec<Change> },
    /// Answered by [`Answer::Loaded`].
    Load { place: usize, pool: PoolId, after: Cursor, until: Timestamp, max_bytes: usize },
    /// Answered by [`Answer::Found`].
    Find { token: usize, sought: Sought },
    /// Answered by [`Answer::Tidied`].
    Tidy { now: Timestamp, retention: Duration },
    /// Hand these over to their shard.
    Deliver { shard: usize, deliveries: Vec<Delivery> },
    /// Ask the shard for a delivery back; answered in a [`Report`].
    Recall { shard: usize, id: PostId },
    /// Ask the shard for everything that has not been started; answered in a [`Report`].
    RecallAll { shard: usize },
    /// Tell the listeners.
    Emit(Event),
    /// Everything is done, or the grace is over and the store hangs: end, and then say so.
    Stop { promise: Option<Promise<()>>, hangs: bool },
}

/// What the committer answers. Answers come in the order of the requests.
#[derive(Debug)]
pub enum Answer {
    Committed(Result<Vec<Verdict>, StoreError>),
    Loaded { place: usize, page: Result<Page, StoreError> },
    Found { token: usize, found: Result<Option<Found>, StoreError> },
    Tidied(Result<bool, StoreError>),
}

/// One delivery that ended.
#[derive(Debug)]
pub struct Attempt {
    pub id: PostId,
    pub slot: u32,
    /// When the broadcaster was called; `None` if it is not known.
    pub started: Option<Timestamp>,
    pub ending: Ending,
}

/// What a worker has to say.
#[derive(Debug, Default)]
pub struct Report {
    /// Deliveries that ended.
    pub ended: Vec<Attempt>,
    /// Given back, not started.
    pub recalled: Vec<(PostId, u32)>,
    /// Asked back, but started already.
    pub kept: Vec<PostId>,
    /// Whether this answers [`Effect::RecallAll`].
    pub recalled_all: bool,
}

impl Report {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.recalled.is_empty() && self.kept.is_empty() && !self.recalled_all
    }
}
