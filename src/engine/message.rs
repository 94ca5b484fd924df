//! The messages at the engine's border.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result, StoreError};
use crate::gate::Turned;
use crate::id::{PoolId, PostId, Seq};
use crate::post::{
    Body, BroadcastError, CampaignStatus, Change, Cursor, Delivery, Ending, Event, Found, Outcome, Page, PostRef,
    Prepared, QueueStatus, Resolution, SeriesStatus, Shelf, Status, Verdict,
};
use crate::quota::{RateLimit, Scope};
use crate::reply::Promise;
use crate::time::Timestamp;

use super::queues::QueueWish;
use super::series::SeriesWish;

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
    Schedule {
        posts: Vec<NewPost>,
        /// The campaign that all of them belong to.
        campaign: Option<Box<str>>,
        promise: SchedulePromise,
        _weight: Weight,
    },
    Change {
        post: PostRef,
        wish: Wish,
        promise: Promise<()>,
    },
    Get {
        post: PostRef,
        promise: Promise<Option<Status>>,
    },
    Outcome {
        post: PostRef,
        promise: Promise<Outcome>,
    },
    /// Posts on a shelf of this pool, after this place on it.
    List {
        place: usize,
        shelf: Shelf,
        after: Option<Cursor>,
        promise: Promise<Vec<Status>>,
    },
    /// All dead letters of the pool are to be sent again.
    RequeueAll {
        place: usize,
        promise: Promise<u64>,
    },
    /// The pool is to be paused, or to go on.
    Pause {
        place: usize,
        paused: bool,
        promise: Promise<()>,
    },
    /// The profile is to be held for this reason, or to be released.
    Hold {
        place: usize,
        profile: String,
        reason: Option<String>,
        promise: Promise<()>,
    },
    /// Which profiles of the pool are held, and why.
    Held {
        place: usize,
        promise: Promise<Vec<(String, String)>>,
    },
    /// Whether the pool is paused.
    IsPaused {
        place: usize,
        promise: Promise<bool>,
    },
    /// Other rate limits are to hold from now on, for a pool, its profiles, or an account.
    Limit {
        place: Option<usize>,
        scope: Scope,
        account: Option<String>,
        limits: Vec<RateLimit>,
        promise: Promise<()>,
    },
    /// Something is to be done to the queue of a profile.
    Queue {
        place: usize,
        profile: String,
        /// Posts that it names.
        named: Vec<PostId>,
        wish: QueueWish,
        _weight: Option<Weight>,
    },
    /// What is in the queue of a profile.
    ShowQueue {
        place: usize,
        profile: String,
        promise: Promise<Option<QueueStatus>>,
    },
    /// Something is to be done to a series.
    Series {
        key: String,
        wish: SeriesWish,
    },
    /// What is known of a series.
    ShowSeries {
        key: String,
        promise: Promise<Option<SeriesStatus>>,
    },
    /// The keys of all series.
    AllSeries {
        promise: Promise<Vec<String>>,
    },
    /// How far a campaign has got.
    ShowCampaign {
        name: String,
        promise: Promise<Option<CampaignStatus>>,
    },
    /// Whatever of a campaign has not been sent is not to be.
    CancelCampaign {
        name: String,
        promise: Promise<()>,
    },
    Settle {
        promise: Promise<()>,
    },
    Shutdown {
        grace: Duration,
        promise: Promise<()>,
    },
}

impl Command {
    /// Answers that it is not done. A shutdown is never refused.
    pub fn refuse(self, error: Error) {
        match self {
            Self::Schedule { promise, .. } => promise.fulfil(Err(error)),
            Self::Get { promise, .. } => promise.fulfil(Err(error)),
            Self::Outcome { promise, .. } => promise.fulfil(Err(error)),
            Self::List { promise, .. } => promise.fulfil(Err(error)),
            Self::RequeueAll { promise, .. } => promise.fulfil(Err(error)),
            Self::Held { promise, .. } => promise.fulfil(Err(error)),
            Self::IsPaused { promise, .. } => promise.fulfil(Err(error)),
            Self::Queue { wish, .. } => wish.refuse(error),
            Self::ShowQueue { promise, .. } => promise.fulfil(Err(error)),
            Self::Series { wish, .. } => wish.refuse(error),
            Self::ShowCampaign { promise, .. } => promise.fulfil(Err(error)),
            Self::CancelCampaign { promise, .. } => promise.fulfil(Err(error)),
            Self::ShowSeries { promise, .. } => promise.fulfil(Err(error)),
            Self::AllSeries { promise } => promise.fulfil(Err(error)),
            Self::Change { promise, .. }
            | Self::Pause { promise, .. }
            | Self::Hold { promise, .. }
            | Self::Limit { promise, .. }
            | Self::Settle { promise }
            | Self::Shutdown { promise, .. } => promise.fulfil(Err(error)),
        }
    }
}

/// How the host wants a post to be changed.
#[derive(Clone, Debug)]
pub enum Wish {
    Cancel,
    Reschedule(Timestamp),
    Edit { part: usize, payload: Bytes },
    PublishNow,
    Resolve(Resolution),
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
    /// Some posts were said more than once: where each is in the unit.
    Repeated(Promise<Vec<PostId>>, Vec<usize>),
}

impl SchedulePromise {
    pub fn fulfil(self, answer: Result<Vec<PostId>>) {
        match self {
            Self::One(promise) => {
                // A unit of one post is answered with one id.
                promise.fulfil(answer.and_then(|ids| ids.first().copied().ok_or(Error::Closed)));
            }
            Self::All(promise) => promise.fulfil(answer),
            Self::Repeated(promise, places) => {
                let of = |ids: Vec<PostId>| places.iter().filter_map(|place| ids.get(*place).copied()).collect();
                promise.fulfil(answer.map(of));
            }
        }
    }

    /// Leaves out posts that are said again, with the same key and content, and answers with the id of the first.
    pub fn unique(promise: Promise<Vec<PostId>>, posts: Vec<NewPost>) -> (Self, Vec<NewPost>) {
        let (mut first, mut unit, mut places) = (HashMap::new(), Vec::with_capacity(posts.len()), Vec::new());
        for post in posts {
            let name = post.body.key().map(|key| (key.to_owned(), post.body.fingerprint()));
            let before = name.as_ref().and_then(|name| first.get(name).copied());
            let place = before.unwrap_or(unit.len());
            places.push(place);
            if before.is_none() {
                name.map(|name| first.insert(name, place));
                unit.push(post);
            }
        }
        if unit.len() == places.len() { (Self::All(promise), unit) } else { (Self::Repeated(promise, places), unit) }
    }
}

/// How the store is asked for one post.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sought {
    Seq(Seq),
    Key(String),
}

/// What the store is asked for.
#[derive(Debug)]
pub enum Request {
    /// Answered by [`Answer::Committed`].
    Commit { now: Timestamp, changes: Vec<Change> },
    /// Answered by [`Answer::Loaded`].
    Load { place: usize, pool: PoolId, after: Cursor, until: Timestamp, max_bytes: usize },
    /// Answered by [`Answer::Listed`].
    List { token: usize, pool: PoolId, after: Cursor, until: Timestamp, max_bytes: usize },
    /// Answered by [`Answer::Found`].
    Find { token: usize, sought: Sought },
    /// Answered by [`Answer::Tidied`].
    Tidy { now: Timestamp, retention: Duration },
}

/// What the engine wants done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Ask the store; requests are answered in their order.
    Ask(Request),
    /// Hand these over to their shard.
    Deliver { shard: usize, deliveries: Vec<Delivery> },
    /// Have these shards look anew at what was blocked: limits have changed.
    Look { shards: Range<usize> },
    /// Tell all broadcasters that the scheduler is shutting down.
    Stopping,
    /// Tell the listeners.
    Emit(Event),
    /// Everything is done, or the grace is over and the store hangs: end, and then say so.
    Stop { promise: Option<Promise<()>>, hangs: bool },
}

/// What the committer answers.
#[derive(Debug)]
pub enum Answer {
    Committed(Result<Vec<Verdict>, StoreError>),
    Loaded { place: usize, page: Result<Page, StoreError> },
    Listed { token: usize, page: Result<Page, StoreError> },
    Found { token: usize, found: Result<Option<Found>, StoreError> },
    Tidied(Result<bool, StoreError>),
}

/// One delivery that ended.
#[derive(Debug)]
pub struct Attempt {
    pub delivery: Delivery,
    /// When the broadcaster was called; `None` if it was not, or if that is not known.
    pub started: Option<Timestamp>,
    /// Whether it was called to publish.
    pub called: bool,
    pub ending: Ending,
}

/// What a worker has to say.
#[derive(Debug, Default)]
pub struct Report {
    /// The place of the worker's pool in the scheduler's list.
    pub place: usize,
    /// The worker's shard.
    pub shard: usize,
    /// Nothing of the shard is under way, and all that waits in it is blocked until then.
    pub blocked_until: Option<Timestamp>,
    /// How many deliveries, and orders to look anew, the worker had taken when it said so.
    pub taken: u64,
    /// Deliveries that ended.
    pub ended: Vec<Attempt>,
    /// What broadcasters said whose deliveries had been given up.
    pub late: Vec<Attempt>,
    /// What came of preparing.
    pub prepared: Vec<(Delivery, Result<Prepared, BroadcastError>)>,
    /// Given back, not started; not to be handed over again before this.
    pub returned: Vec<(Delivery, Timestamp)>,
    /// How far deliveries have got.
    pub progress: Vec<(Delivery, String)>,
    /// What deliveries want to be kept.
    pub checkpoints: Vec<(Delivery, Bytes, Promise<()>)>,
    /// What the pool's breaker did.
    pub turned: Vec<Turned>,
}

impl Report {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty()
            && self.late.is_empty()
            && self.prepared.is_empty()
            && self.returned.is_empty()
            && self.progress.is_empty()
            && self.checkpoints.is_empty()
            && self.turned.is_empty()
            && self.blocked_until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_taken_is_bounded_and_counts_no_more_when_it_is_gone() {
        let sum = Arc::new(AtomicUsize::new(0));
        let first = Weight::add(&sum, 6, 10).unwrap();
        assert!(Weight::add(&sum, 5, 10).is_none());
        let second = Weight::add(&sum, 4, 10).unwrap();
        drop(first);
        assert!(Weight::add(&sum, 6, 10).is_some());
        drop(second);
        assert_eq!(sum.load(Ordering::Relaxed), 0);
    }
}
