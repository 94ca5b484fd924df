//! What can go wrong, said with the values that matter and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::id::PostId;
use crate::schedule::ScheduleError;

/// Short for a result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused. Whatever was refused changed nothing, except where a variant says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The post names a pool that the scheduler was not given.
    #[error("no pool is named {pool:?}: give it to the builder, or correct the post's pool")]
    UnknownPool {
        /// The name in the post.
        pool: String,
    },
    /// The builder was given no store.
    #[error("a scheduler needs a store: call `Builder::store`")]
    NoStore,
    /// A thread could not be started.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The builder was given no pool at all.
    #[error("a scheduler needs at least one pool: call `Builder::pool`")]
    NoPools,
    /// Two pools have one name.
    #[error("two pools are named {pool:?}: each needs a name of its own")]
    DuplicatePool {
        /// The name.
        pool: String,
    },
    /// Two accounts have one name.
    #[error("two accounts are named {account:?}: give clones of one account to the pools that share it")]
    DuplicateAccount {
        /// The name.
        account: String,
    },
    /// A setting has a value outside its range.
    #[error("{setting} of {of} is {value}, but must be from {min} to {max}")]
    InvalidSetting {
        /// What the setting belongs to: a pool by its name, or the scheduler.
        of: String,
        /// The setting, by the name of its method.
        setting: &'static str,
        /// What was given.
        value: u128,
        /// The smallest value allowed.
        min: u128,
        /// The largest value allowed.
        max: u128,
    },
    /// The store still holds posts for a pool that the builder was not given.
    #[error(
        "the store holds posts for the pool {pool:?}, which is not configured: add it \
         (to give its posts up, let its broadcaster answer `BroadcastError::permanent`)"
    )]
    MissingPool {
        /// The pool's name.
        pool: String,
    },
    /// The payload is longer than the scheduler takes.
    #[error(
        "the payload has {bytes} bytes, the limit is {max}: store it elsewhere and schedule a reference, or raise `Builder::max_payload`"
    )]
    PayloadTooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A key, a profile or a pool's name is too long or empty.
    #[error("the {what} has {bytes} bytes, but must have from 1 to {max}")]
    InvalidName {
        /// Which of them.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The due is more than a minute ago.
    #[error("due {due} is {by:?} ago: correct it, or call `Post::or_now` to send late posts at once")]
    DuePast {
        /// The due that was asked for.
        due: DateTime<Utc>,
        /// How long ago that is.
        by: Duration,
    },
    /// The due lies outside the years 1970 to 9999.
    #[error("due {due} is out of range: 1970-01-01T00:00:00Z to 9999-12-31T23:59:59.999Z")]
    DueOutOfRange {
        /// The due that was asked for.
        due: DateTime<Utc>,
    },
    /// The profile has no queue.
    #[error("the profile {profile:?} has no queue in the pool {pool:?}: give it slots first (`Queue::set_slots`)")]
    NoQueue {
        /// The pool.
        pool: String,
        /// The profile.
        profile: String,
    },
    /// The post does not wait in this queue.
    #[error("post {id} does not wait in this queue: see where it is with `Scheduler::get`")]
    NotQueued {
        /// Which.
        id: PostId,
    },
    /// The queue has no such position.
    #[error("there is no position {position} in a queue of {posts} posts: positions count from 0")]
    NoPosition {
        /// The position asked for.
        position: usize,
        /// How many posts wait.
        posts: usize,
    },
    /// The queue takes no more posts.
    #[error("a queue takes at most {max} posts: schedule this one with a due, or later")]
    QueueFull {
        /// The limit.
        max: usize,
    },
    /// A post for a queue must not have a due, and must belong to the queue's pool and profile.
    #[error("the post does not fit the queue of {profile:?} in {pool:?}: its {what}; leave that out")]
    NotForQueue {
        /// The queue's pool.
        pool: String,
        /// The queue's profile.
        profile: String,
        /// What does not fit.
        what: &'static str,
    },
    /// There is no series with this key.
    #[error("there is no series {key:?}: it was never set, or has come to its end")]
    NoSeries {
        /// The key.
        key: String,
    },
    /// A series cannot be made of this.
    #[error("the series {key:?} cannot be set: its {what}")]
    NotForSeries {
        /// The series' key.
        key: String,
        /// What does not fit, and what would.
        what: &'static str,
    },
    /// A local time, or another rule of the calendar, cannot be kept.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The campaign was cancelled: it takes no more posts.
    #[error("the campaign {name:?} was cancelled and takes no more posts: begin one with another name")]
    CampaignCancelled {
        /// Its name.
        name: String,
    },
    /// There is no campaign of this name.
    #[error("there is no campaign {name:?}: it got no posts, or ended longer ago than the retention")]
    NoCampaign {
        /// The name.
        name: String,
    },
    /// Too many posts, or too many bytes, in one call.
    #[error(
        "{posts} posts with {bytes} bytes are too many for one call: at most {max_posts} posts and {max_bytes} bytes"
    )]
    BatchTooLarge {
        /// Posts in the call.
        posts: usize,
        /// Bytes of payload in the call.
        bytes: usize,
        /// Most posts.
        max_posts: usize,
        /// Most bytes.
        max_bytes: usize,
    },
    /// Another post was scheduled with the same key and other content.
    #[error("the key {key:?} belongs to post {existing}, which has other content: use another key")]
    Conflict {
        /// The key.
        key: String,
        /// The post that has it.
        existing: PostId,
    },
    /// There is no such post, or it was finished so long ago that it has been forgotten.
    #[error("no post {post} is known: it was never scheduled here, or was forgotten after its retention")]
    NotFound {
        /// The id or key that was asked for.
        post: String,
    },
    /// The id belongs to another store.
    #[error("post {id} belongs to another store: ids are valid for the store that gave them")]
    ForeignId {
        /// The id.
        id: PostId,
    },
    /// The host asked for a change of another revision: the post was changed meanwhile.
    #[error("post {id} has revision {revision}, not {expected}: look at it again before changing it")]
    Changed {
        /// The post.
        id: PostId,
        /// The revision that was asked for.
        expected: u32,
        /// The revision that it has.
        revision: u32,
    },
    /// There is nothing to decide: the post is neither in doubt nor a dead letter.
    #[error("post {id} is {state}: only a post in doubt or a dead letter can be resolved")]
    NotInDoubt {
        /// The post.
        id: PostId,
        /// What it is instead.
        state: crate::id::State,
    },
    /// The thread has no part of this number.
    #[error("post {id} has {parts} parts: there is no part {part}, they are counted from 0")]
    NoSuchPart {
        /// The post.
        id: PostId,
        /// The part that was asked for.
        part: usize,
        /// How many there are.
        parts: usize,
    },
    /// The thread has too many parts.
    #[error("the thread has {parts} parts, the limit is {max}: make two of it")]
    TooManyParts {
        /// How many it has.
        parts: usize,
        /// The limit.
        max: usize,
    },
    /// No account of this name is shared by the scheduler's pools.
    #[error("no account is named {account:?}: give it to a pool with `Pool::account`")]
    UnknownAccount {
        /// The name.
        account: String,
    },
    /// A checkpoint is too long.
    #[error("the checkpoint has {bytes} bytes, the limit is {max}: keep a handle, and the rest elsewhere")]
    CheckpointTooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The post cannot be changed any more.
    #[error("post {id} is {state}: it cannot be changed any more")]
    TooLate {
        /// The post.
        id: PostId,
        /// What it is instead.
        state: crate::id::State,
    },
    /// More work waits than the scheduler's limits allow. Try again later, or schedule in batches.
    #[error(
        "the scheduler has more work waiting than it takes: try again later, or schedule in batches with `schedule_all`"
    )]
    Overloaded,
    /// The scheduler has been shut down.
    #[error("the scheduler is shut down")]
    Closed,
    /// The store has not answered for too long; posts already claimed still go out, nothing more is claimed.
    /// Whether a post of this call was stored is not known: with a key, schedule it again to find out.
    #[error("the store has not answered for {stalled:?}: check its disk; with a key it is safe to schedule again")]
    StoreStalled {
        /// How long it has been silent.
        stalled: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is wrong with a store. After [`Io`](Self::Io), [`Damaged`](Self::Damaged) or [`Poisoned`](Self::Poisoned)
/// the store is not used again by this process: what was acknowledged is on disk, open it anew.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The path is not a directory.
    #[error("{path:?} is not a directory: a store needs a directory of its own")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Another process, or another part of this one, has the store open.
    #[error("the store {path:?} is in use: one scheduler at a time can open it")]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory holds something that is not a store.
    #[error("{path:?} holds files that are not a store of punctual: choose an empty directory")]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// The store was written in a format that this version does not read.
    #[error(
        "the store {path:?} has format {found}, this version reads format {supported}: use the version that wrote it"
    )]
    Version {
        /// The store's directory.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The format that this version reads and writes.
        supported: u32,
    },
    /// The store's files are damaged: restore them from a backup.
    #[error("the store {path:?} is damaged: {what}; restore it from a backup")]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The disk is full. Posts are refused; what is stored goes out and is recorded in the reserve.
    #[error("no space left for the store {path:?}: {free} bytes are free, {reserve} are kept in reserve")]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// Free bytes on its disk.
        free: u64,
        /// Bytes that are kept for recording outcomes.
        reserve: u64,
    },
    /// The operating system reported an error.
    #[error("cannot {doing} the store {path:?}: {source}")]
    Io {
        /// The store's directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// An earlier error made the store unusable.
    #[error("the store failed earlier and is not used again: open it anew")]
    Poisoned,
}
