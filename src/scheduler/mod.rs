//! The host's handle.

mod builder;
mod events;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};

pub use builder::Builder;
pub use events::Events;

use crate::clock::Clock;
use crate::engine::{Command, NewPost, SchedulePromise, Weight, plan, plan_due};
use crate::error::{Error, Result};
use crate::id::PostId;
use crate::inbox::{Refused, Slot};
use crate::limits;
use crate::post::{Outcome, Post, PostRef, Status};
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
    /// or this machine's power, the post will be delivered, fail with a reason, be cancelled, or be reported as
    /// a possible repeat.
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
            Some(weight) => self.send(|promise| Command::Schedule { posts, promise: to(promise), _weight: weight }),
            None => Reply::given(Err(Error::Overloaded)),
        }
    }

    fn plan(&self, post: &Post) -> Result<NewPost> {
        plan(post, &self.shared.pools, self.shared.max_payload, self.shared.clock.wall())
    }

    fn plan_all(&self, posts: impl IntoIterator<Item = Post>) -> Result<Vec<NewPost>> {
        let (mut planned, mut bytes) = (Vec::new(), 0);
        for post in posts {
            bytes += post.payload.len();
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
        let post = post.into();
        self.send(|promise| Command::Cancel { post, promise })
    }

    /// Gives a post another due, by the rules of [`Post::at`]. A post that waits for its next attempt is tried
    /// at the new due.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel), and [`Error::DuePast`] and [`Error::DueOutOfRange`].
    pub fn reschedule<Z: TimeZone>(&self, post: impl Into<PostRef>, due: DateTime<Z>) -> Reply<()> {
        let post = post.into();
        match plan_due(due.with_timezone(&Utc), false, self.shared.clock.wall()) {
            Ok(due) => self.send(|promise| Command::Reschedule { post, due, promise }),
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
    /// [`Error::Closed`] and [`Error::Store`].
    pub fn settle(&self) -> Reply<()> {
        self.send(|promise| Command::Settle { promise })
    }

    /// Stops taking commands, lets what is in flight finish for up to `grace` of the scheduler's clock, writes
    /// everything out and closes the store. Nothing is lost if the grace runs out: what is still in flight then
    /// is delivered again by the next start, as a possible repeat.
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
