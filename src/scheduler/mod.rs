//! The host's handle.

mod builder;
mod campaign;
mod events;
mod queue;
mod series;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeZone, Utc};

pub use builder::Builder;
#[cfg(any(test, feature = "test-util"))]
pub(crate) use builder::Loops;
pub use campaign::Campaign;
pub use events::Events;
pub use queue::Queue;
pub use series::Series;

use crate::clock::Clock;
use crate::engine::{Command, NewPost, SchedulePromise, Weight, Wish, plan, plan_due};
use crate::error::{Error, Result};
use crate::id::PostId;
use crate::inbox::{Refused, Slot};
use crate::limits;
use crate::post::{Cursor, Outcome, Post, PostRef, Resolution, Shelf, Status, cut};
use crate::quota::{RateLimit, Scope};
use crate::reply::{Promise, Reply};

/// The handle to a running engine. Clone it freely; all clones speak to the same one.
///
/// Every call sends its command at once and gives a [`Reply`], to be awaited or waited for. When the last handle
/// is dropped the engine stops taking commands, lets what is in flight finish for up to ten seconds, and ends in
/// the background; call [`shutdown`](Self::shutdown) to wait for that.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    commands: Slot<Command>,
    clock: Arc<dyn Clock>,
    pools: Vec<Arc<str>>,
    max_payload: usize,
    /// Bytes of posts that the driver has not taken.
    waiting: Arc<AtomicUsize>,
    events: tokio::sync::broadcast::WeakSender<crate::post::Event>,
}

impl Scheduler {
    /// What a scheduler is made of: a store and at least one pool.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Stores the post, to be sent at its due. `Ok` means that it is durable: whatever happens to this process
    /// or this machine's power, the post will be delivered, fail with a reason, be missed, be cancelled, or be
    /// reported in doubt.
    ///
    /// Concurrent calls share one durable commit.
    ///
    /// # Errors
    /// [`Error::UnknownPool`], [`Error::PayloadTooLarge`], [`Error::InvalidName`], [`Error::DuePast`],
    /// [`Error::DueOutOfRange`] for what is wrong with the post; [`Error::Conflict`] if its key belongs to
    /// another one; [`Error::Overloaded`], [`Error::Closed`], [`Error::StoreStalled`], [`Error::Store`] for the
    /// scheduler's own troubles. Only after `StoreStalled`, `Store` and `Closed` may the post be stored all the
    /// same: schedule it again with the same key.
    pub fn schedule(&self, post: Post) -> Reply<PostId> {
        let planned = match self.plan(&post) {
            Ok(planned) => planned,
            Err(error) => return Reply::given(Err(error)),
        };
        self.send_posts(vec![planned], SchedulePromise::One)
    }

    /// Stores many posts in one durable commit: all, or none if any of them is refused. At most 100,000 posts
    /// and 64 MiB of payload at once. The ids come in the order of the posts.
    ///
    /// ```
    /// # use punctual::{MemoryStore, Pool, Post, Receipt, Scheduler};
    /// # let broadcaster = |_| async { Ok(Receipt::default()) };
    /// # let scheduler = Scheduler::builder().store(MemoryStore::default()).pool(Pool::new("p", broadcaster)).start()?;
    /// let posts = (0..1_000).map(|n| Post::new("p", format!("number {n}")));
    /// assert_eq!(scheduler.schedule_all(posts).wait()?.len(), 1_000);
    /// # Ok::<(), punctual::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`schedule`](Self::schedule), for the first post that is refused; [`Error::BatchTooLarge`].
    pub fn schedule_all(&self, posts: impl IntoIterator<Item = Post>) -> Reply<Vec<PostId>> {
        match self.plan_all(posts) {
            Ok(posts) if posts.is_empty() => Reply::given(Ok(Vec::new())),
            Ok(posts) => self.send_posts(posts, SchedulePromise::All),
            Err(error) => Reply::given(Err(error)),
        }
    }

    fn send_posts<T>(&self, posts: Vec<NewPost>, to: fn(Promise<T>) -> SchedulePromise) -> Reply<T> {
        let bytes = posts.iter().map(|post| post.body.len()).sum();
        match Weight::add(&self.shared.waiting, bytes, limits::COMMANDS_BYTES) {
            Some(weight) => {
                self.send(|promise| Command::Schedule { posts, campaign: None, promise: to(promise), _weight: weight })
            }
            None => Reply::given(Err(Error::Overloaded)),
        }
    }

    fn plan(&self, post: &Post) -> Result<NewPost> {
        plan(post, &self.shared.pools, self.shared.max_payload, self.shared.clock.wall())
    }

    fn plan_all(&self, posts: impl IntoIterator<Item = Post>) -> Result<Vec<NewPost>> {
        let (mut planned, mut bytes) = (Vec::new(), 0);
        for post in posts {
            bytes += post.payload.len() + post.parts.iter().map(Bytes::len).sum::<usize>();
            planned.push(self.plan(&post)?);
            if planned.len() > limits::BATCH_POSTS || bytes > limits::BATCH_BYTES {
                let (max_posts, max_bytes) = (limits::BATCH_POSTS, limits::BATCH_BYTES);
                return Err(Error::BatchTooLarge { posts: planned.len(), bytes, max_posts, max_bytes });
            }
        }
        Ok(planned)
    }

    /// Takes a post back, by its id or by the host's own key. `Ok` means that it will not be sent, durably.
    ///
    /// # Errors
    /// [`Error::TooLate`] if it is in flight or finished, [`Error::NotFound`], [`Error::ForeignId`], and the
    /// scheduler's own troubles.
    pub fn cancel(&self, post: impl Into<PostRef>) -> Reply<()> {
        self.change(post.into(), Wish::Cancel)
    }

    fn change(&self, post: PostRef, wish: Wish) -> Reply<()> {
        self.send(|promise| Command::Change { post, wish, promise })
    }

    /// Gives a post another due, by the rules of [`Post::at`]. A post that waits for its next attempt is tried
    /// at the new due.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel), and [`Error::DuePast`] and [`Error::DueOutOfRange`].
    pub fn reschedule<Z: TimeZone>(&self, post: impl Into<PostRef>, due: DateTime<Z>) -> Reply<()> {
        match plan_due(due.with_timezone(&Utc), false, self.shared.clock.wall()) {
            Ok(due) => self.change(post.into(), Wish::Reschedule(due)),
            Err(error) => Reply::given(Err(error)),
        }
    }

    /// Gives a post another payload. Its due stays, and so do its key and its place. If it had been prepared it is prepared
    /// again. A dead letter can be edited too, before it is sent again.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel), and [`Error::PayloadTooLarge`].
    pub fn edit(&self, post: impl Into<PostRef>, payload: impl Into<Vec<u8>>) -> Reply<()> {
        self.edit_part(post, 0, payload)
    }

    /// Gives one part of a thread, counted from 0, another payload.
    ///
    /// # Errors
    /// As [`edit`](Self::edit), and [`Error::NoSuchPart`]; [`Error::TooLate`] if that part is published.
    pub fn edit_part(&self, post: impl Into<PostRef>, part: usize, payload: impl Into<Vec<u8>>) -> Reply<()> {
        let payload = Bytes::from(payload.into());
        let (bytes, max) = (payload.len(), self.shared.max_payload);
        if bytes > max {
            return Reply::given(Err(Error::PayloadTooLarge { bytes, max }));
        }
        self.change(post.into(), Wish::Edit { part, payload })
    }

    /// Sends a post now instead of at its due. The engine's claim decides: it goes out once, however close its due is.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub fn publish_now(&self, post: impl Into<PostRef>) -> Reply<()> {
        self.change(post.into(), Wish::PublishNow)
    }

    /// Says what is true of a post that is in doubt ([`State::InDoubt`](crate::State::InDoubt)), or what is to be done with a
    /// dead letter ([`State::Failed`](crate::State::Failed)): it was sent, it is to be sent again, it is to be dropped.
    ///
    /// # Errors
    /// [`Error::NotInDoubt`] if it is neither; [`Error::NotFound`], [`Error::ForeignId`] and the scheduler's own troubles.
    pub fn resolve(&self, post: impl Into<PostRef>, resolution: Resolution) -> Reply<()> {
        self.change(post.into(), Wish::Resolve(resolution))
    }

    /// The posts of a pool that are held because nobody knows whether they were published; the oldest doubt first, at most
    /// 1,000. Give the last one of them to see what follows.
    ///
    /// # Errors
    /// [`Error::UnknownPool`] and the scheduler's own troubles.
    pub fn in_doubt(&self, pool: &str, after: Option<&Status>) -> Reply<Vec<Status>> {
        self.list(pool, Shelf::InDoubt, after)
    }

    /// The dead letters of a pool; the oldest first, at most 1,000. Give the last one of them to see what follows.
    ///
    /// # Errors
    /// [`Error::UnknownPool`] and the scheduler's own troubles.
    pub fn dead_letters(&self, pool: &str, after: Option<&Status>) -> Reply<Vec<Status>> {
        self.list(pool, Shelf::Dead, after)
    }

    fn list(&self, pool: &str, shelf: Shelf, after: Option<&Status>) -> Reply<Vec<Status>> {
        let after = after.map(|status| Cursor::of(status.record.home()));
        self.send_to(pool, |place, promise| Command::List { place, shelf, after, promise })
    }

    /// Sends all dead letters of a pool again, and says how many. For single ones, see [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// [`Error::UnknownPool`] and the scheduler's own troubles.
    pub fn requeue_dead_letters(&self, pool: &str) -> Reply<u64> {
        self.send_to(pool, |place, promise| Command::RequeueAll { place, promise })
    }

    /// Pauses a pool: nothing of it is sent until [`resume`](Self::resume), also after a restart. What is in flight finishes.
    ///
    /// # Errors
    /// [`Error::UnknownPool`] and the scheduler's own troubles.
    pub fn pause(&self, pool: &str) -> Reply<()> {
        self.send_to(pool, |place, promise| Command::Pause { place, paused: true, promise })
    }

    /// Lets a paused pool go on. What became due meanwhile goes out as its [`CatchUp`](crate::CatchUp) policy says.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self, pool: &str) -> Reply<()> {
        self.send_to(pool, |place, promise| Command::Pause { place, paused: false, promise })
    }

    /// Holds a profile of a pool for this reason (at most 4,096 bytes are kept): its posts wait, also after a restart, until it is released. A
    /// broadcaster that answers [`BroadcastError::unauthorized`](crate::BroadcastError::unauthorized) does the same.
    /// Posts without a profile are held together, by the profile `""`.
    ///
    /// # Errors
    /// [`Error::UnknownPool`], [`Error::InvalidName`] and the scheduler's own troubles.
    pub fn hold_profile(&self, pool: &str, profile: &str, reason: &str) -> Reply<()> {
        if profile.len() > limits::NAME_BYTES {
            let (bytes, max) = (profile.len(), limits::NAME_BYTES);
            return Reply::given(Err(Error::InvalidName { what: "profile", bytes, max }));
        }
        let (profile, reason) = (profile.to_owned(), Some(cut(reason.to_owned())));
        self.send_to(pool, |place, promise| Command::Hold { place, profile, reason, promise })
    }

    /// The profiles of a pool that are held, and why.
    ///
    /// # Errors
    /// [`Error::UnknownPool`] and the scheduler's own troubles.
    pub fn held_profiles(&self, pool: &str) -> Reply<Vec<(String, String)>> {
        self.send_to(pool, |place, promise| Command::Held { place, promise })
    }

    /// Whether a pool is paused.
    ///
    /// # Errors
    /// [`Error::UnknownPool`] and the scheduler's own troubles.
    pub fn is_paused(&self, pool: &str) -> Reply<bool> {
        self.send_to(pool, |place, promise| Command::IsPaused { place, promise })
    }

    /// Releases a held profile. What became due meanwhile goes out as the pool's [`CatchUp`](crate::CatchUp) policy says.
    ///
    /// # Errors
    /// As [`hold_profile`](Self::hold_profile).
    pub fn release_profile(&self, pool: &str, profile: &str) -> Reply<()> {
        let profile = profile.to_owned();
        self.send_to(pool, |place, promise| Command::Hold { place, profile, reason: None, promise })
    }

    /// Lets other rate limits hold for a pool from now on, until the scheduler ends. What was counted is kept.
    ///
    /// # Errors
    /// [`Error::UnknownPool`], [`Error::InvalidSetting`] and the scheduler's own troubles.
    pub fn set_limits(&self, pool: &str, limits: impl IntoIterator<Item = RateLimit>) -> Reply<()> {
        self.limit(Some(pool), Scope::Pool, None, limits.into_iter().collect())
    }

    /// As [`set_limits`](Self::set_limits), for each profile of a pool.
    ///
    /// # Errors
    /// As [`set_limits`](Self::set_limits).
    pub fn set_profile_limits(&self, pool: &str, limits: impl IntoIterator<Item = RateLimit>) -> Reply<()> {
        self.limit(Some(pool), Scope::Profile, None, limits.into_iter().collect())
    }

    /// As [`set_limits`](Self::set_limits), for an account that pools share.
    ///
    /// # Errors
    /// [`Error::UnknownAccount`], [`Error::InvalidSetting`] and the scheduler's own troubles.
    pub fn set_account_limits(&self, account: &str, limits: impl IntoIterator<Item = RateLimit>) -> Reply<()> {
        self.limit(None, Scope::Account, Some(account.to_owned()), limits.into_iter().collect())
    }

    fn limit(&self, pool: Option<&str>, scope: Scope, account: Option<String>, limits: Vec<RateLimit>) -> Reply<()> {
        let of = pool.or(account.as_deref()).unwrap_or_default();
        if let Some(error) = limits.iter().find_map(|limit| limit.check(of).err()) {
            return Reply::given(Err(error));
        }
        let place = match pool.map(|pool| self.place(pool)).transpose() {
            Ok(place) => place,
            Err(error) => return Reply::given(Err(error)),
        };
        self.send(|promise| Command::Limit { place, scope, account, limits, promise })
    }

    /// Where a pool is in the scheduler's list.
    fn place(&self, pool: &str) -> Result<usize> {
        let place = self.shared.pools.iter().position(|known| **known == *pool);
        place.ok_or_else(|| Error::UnknownPool { pool: pool.to_owned() })
    }

    fn send_to<T>(&self, pool: &str, command: impl FnOnce(usize, Promise<T>) -> Command) -> Reply<T> {
        match self.place(pool) {
            Ok(place) => self.send(|promise| command(place, promise)),
            Err(error) => Reply::given(Err(error)),
        }
    }

    /// What is known of a post; `None` if there is none, or if it was finished longer ago than the retention.
    ///
    /// # Errors
    /// [`Error::ForeignId`] and the scheduler's own troubles.
    pub fn get(&self, post: impl Into<PostRef>) -> Reply<Option<Status>> {
        let post = post.into();
        self.send(|promise| Command::Get { post, promise })
    }

    /// What finally comes of a post: answers when that is durable.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::ForeignId`], and the scheduler's own troubles; [`Error::Closed`] if the
    /// scheduler ends before the post does.
    pub fn outcome(&self, post: impl Into<PostRef>) -> Reply<Outcome> {
        let post = post.into();
        self.send(|promise| Command::Outcome { post, promise })
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        Events::new(self.shared.events.upgrade().map(|sender| sender.subscribe()))
    }

    /// Answers when nothing is due, queued, in flight or on the way to the store: for tests with a
    /// [`ManualClock`](crate::ManualClock). With a broadcaster that never answers, that takes until its timeout.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::StoreStalled`] and [`Error::Store`].
    pub fn settle(&self) -> Reply<()> {
        self.send(|promise| Command::Settle { promise })
    }

    /// Stops taking commands, lets what is in flight finish for up to `grace` of the scheduler's clock, writes
    /// everything out and closes the store. Nothing is lost if the grace runs out: what is still in flight then
    /// is in doubt for the next start. Broadcasters are told ([`Delivery::stopping`](crate::Delivery::stopping)).
    ///
    /// # Errors
    /// [`Error::Closed`] if it is shut down already, [`Error::Store`] if the store fails while closing.
    pub fn shutdown(&self, grace: Duration) -> Reply<()> {
        // The one command that is never refused because others wait.
        let (promise, reply) = Promise::new();
        self.shared.commands.put_waiting(Command::Shutdown { grace, promise });
        reply
    }

    fn send<T>(&self, command: impl FnOnce(Promise<T>) -> Command) -> Reply<T> {
        let (promise, reply) = Promise::new();
        match self.shared.commands.put(command(promise)) {
            Ok(()) => reply,
            Err(Refused::Full(_)) => Reply::given(Err(Error::Overloaded)),
            Err(Refused::Closed(_)) => Reply::given(Err(Error::Closed)),
        }
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("pools", &self.shared.pools).finish_non_exhaustive()
    }
}
