//! The host's handle to a profile's queue.

use std::time::Duration;

use crate::engine::{Command, NewPost, QueueWish, SchedulePromise, Weight};
use crate::error::{Error, Result};
use crate::id::PostId;
use crate::limits;
use crate::post::{Post, QueueStatus};
use crate::queue::Order;
use crate::reply::{Promise, Reply};
use crate::schedule::PostingSlots;

use super::Scheduler;

/// The queue of one profile: posts without a due of their own, each of which takes the profile's next free posting slot.
///
/// A queue is made by [`set_slots`](Self::set_slots). Every change is durable and atomic when it is answered: after a
/// crash the queue is as it was before it or after it. Posts that are scheduled for the profile with a due of their own
/// take the slot that they hit.
///
/// A minute before its slot (and the time that it is prepared ahead) a post is placed: from then on it is scheduled for it.
/// It can still be moved, swapped and taken back until its broadcaster is called; but new posts come behind it.
///
/// ```
/// # use punctual::{MemoryStore, Pool, Receipt, Scheduler};
/// use punctual::{Post, PostingSlots};
///
/// # let broadcaster = |_| async { Ok(Receipt::default()) };
/// # let scheduler = Scheduler::builder().store(MemoryStore::default()).pool(Pool::new("photos", broadcaster)).start()?;
/// let queue = scheduler.queue("photos", "shop-17");
/// queue.set_slots("slots Europe/Berlin Mon-Fri 08:00,17:30".parse::<PostingSlots>()?).wait()?;
/// let first = queue.push(Post::new("photos", "bread")).wait()?;
/// let second = queue.push(Post::new("photos", "rolls")).wait()?;
/// queue.move_to(second, 0).wait()?;
/// let posts = queue.status().wait()?.unwrap();
/// assert_eq!(posts.posts()[0].id, second);
/// assert!(posts.posts()[0].due < posts.posts()[1].due);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    scheduler: Scheduler,
    pool: String,
    profile: String,
    key: Option<u64>,
}

impl Scheduler {
    /// The queue of a profile.
    pub fn queue(&self, pool: &str, profile: &str) -> Queue {
        Queue { scheduler: self.clone(), pool: pool.to_owned(), profile: profile.to_owned(), key: None }
    }
}

impl Queue {
    /// What is done by this handle is done once: the same change under the same key (`"request-17"`) is answered and not
    /// made again. The latest 64 keys of a queue are remembered. For posts, give them a key of their own
    /// ([`Post::key`]).
    #[must_use]
    pub fn once(mut self, key: &str) -> Self {
        self.key = Some(xxhash_rust::xxh3::xxh3_64(key.as_bytes()));
        self
    }

    /// Lets the queue's posts take these slots, from now on; makes the queue if there is none. All posts that wait get
    /// their new slots at once.
    ///
    /// # Errors
    /// [`Error::UnknownPool`], [`Error::InvalidName`] for a profile that is empty or too long, and the scheduler's own
    /// troubles.
    pub fn set_slots(&self, slots: PostingSlots) -> Reply<()> {
        let bytes = self.profile.len();
        if bytes == 0 || bytes > limits::NAME_BYTES {
            return Reply::given(Err(Error::InvalidName { what: "profile", bytes, max: limits::NAME_BYTES }));
        }
        self.order(&[], Order::Slots(Box::new(slots)))
    }

    /// Puts a post at the end: it takes the first slot that is free after all others. A post whose key is known is not
    /// put in again: its id is answered.
    ///
    /// # Errors
    /// As [`Scheduler::schedule`]; [`Error::NoQueue`], [`Error::QueueFull`], and [`Error::NotForQueue`] for a post that
    /// has a due, or another pool or profile.
    pub fn push(&self, post: Post) -> Reply<PostId> {
        self.put(None, [post], one)
    }

    /// Puts a post at the front: before all others but those that are placed.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_front(&self, post: Post) -> Reply<PostId> {
        self.insert(0, post)
    }

    /// Puts a post at this position, counted from 0; behind those that are placed.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`Error::NoPosition`].
    pub fn insert(&self, position: usize, post: Post) -> Reply<PostId> {
        self.put(Some(position), [post], one)
    }

    /// Puts many posts at the end, in this order; all or none.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`Error::BatchTooLarge`].
    pub fn push_all(&self, posts: impl IntoIterator<Item = Post>) -> Reply<Vec<PostId>> {
        self.put(None, posts, SchedulePromise::unique)
    }

    /// Moves a post to this position, counted from 0. Those between its old and its new one move up or down.
    ///
    /// # Errors
    /// [`Error::NoQueue`], [`Error::NotQueued`], [`Error::NoPosition`], [`Error::ForeignId`] and the scheduler's own
    /// troubles.
    pub fn move_to(&self, post: PostId, position: usize) -> Reply<()> {
        self.order(&[post], Order::Move { post: post.seq(), to: position })
    }

    /// Lets two posts change places.
    ///
    /// # Errors
    /// As [`move_to`](Self::move_to).
    pub fn swap(&self, one: PostId, other: PostId) -> Reply<()> {
        self.order(&[one, other], Order::Swap(one.seq(), other.seq()))
    }

    /// Brings the posts into an order by chance. The same seed brings the same posts from the same order into the same
    /// order.
    ///
    /// # Errors
    /// [`Error::NoQueue`] and the scheduler's own troubles.
    pub fn shuffle(&self, seed: u64) -> Reply<()> {
        self.order(&[], Order::Shuffle(seed))
    }

    /// Takes a post back; the same as [`Scheduler::cancel`]. Those behind it move up. To let a post leave the queue for a
    /// due of its own, [reschedule](Scheduler::reschedule) it.
    ///
    /// # Errors
    /// As [`Scheduler::cancel`].
    pub fn remove(&self, post: PostId) -> Reply<()> {
        self.scheduler.cancel(post)
    }

    /// Pauses the queue: slots pass, and no post takes one, until [`resume`](Self::resume), also after a restart. Posts of
    /// the profile with a due of their own go out.
    ///
    /// # Errors
    /// [`Error::NoQueue`] and the scheduler's own troubles.
    pub fn pause(&self) -> Reply<()> {
        self.order(&[], Order::Pause(true))
    }

    /// Lets a paused queue go on: its first post takes the next slot.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self) -> Reply<()> {
        self.order(&[], Order::Pause(false))
    }

    /// Has it said by [`Event::QueueLow`](crate::Event::QueueLow) when the last post's slot is nearer than this; zero:
    /// never, and so it is at first. That a queue has become empty is always said
    /// ([`Event::QueueEmpty`](crate::Event::QueueEmpty)).
    ///
    /// # Errors
    /// [`Error::NoQueue`] and the scheduler's own troubles.
    pub fn warn_ahead(&self, ahead: Duration) -> Reply<()> {
        self.order(&[], Order::WarnAhead(ahead))
    }

    /// The queue's posts and their slots; `None` if the profile has no queue.
    ///
    /// # Errors
    /// [`Error::UnknownPool`] and the scheduler's own troubles.
    pub fn status(&self) -> Reply<Option<QueueStatus>> {
        let profile = self.profile.clone();
        self.scheduler.send_to(&self.pool, |place, promise| Command::ShowQueue { place, profile, promise })
    }

    fn order(&self, named: &[PostId], order: Order) -> Reply<()> {
        let (profile, key, named) = (self.profile.clone(), self.key, named.to_vec());
        self.scheduler.send_to(&self.pool, |place, promise| {
            let wish = QueueWish::Order { order, key, promise };
            Command::Queue { place, profile, named, wish, _weight: None }
        })
    }

    fn put<T>(&self, at: Option<usize>, posts: impl IntoIterator<Item = Post>, to: Promising<T>) -> Reply<T> {
        let posts = posts.into_iter().map(|post| self.own(post)).collect::<Result<Vec<Post>>>();
        let posts = match posts.and_then(|posts| self.scheduler.plan_all(posts)) {
            Ok(posts) => posts,
            Err(error) => return Reply::given(Err(error)),
        };
        let bytes = posts.iter().map(|post: &NewPost| post.body.len()).sum();
        let Some(weight) = Weight::add(&self.scheduler.shared.waiting, bytes, limits::COMMANDS_BYTES) else {
            return Reply::given(Err(Error::Overloaded));
        };
        let profile = self.profile.clone();
        self.scheduler.send_to(&self.pool, |place, promise| {
            let (promise, posts) = to(promise, posts);
            let wish = QueueWish::Enqueue { at, posts, known: Vec::new(), promise };
            Command::Queue { place, profile, named: Vec::new(), wish, _weight: Some(weight) }
        })
    }

    /// The post as one of this queue.
    fn own(&self, mut post: Post) -> Result<Post> {
        let what = if post.due.is_some() {
            Some("due is its own")
        } else if post.pool != self.pool {
            Some("pool is another one")
        } else if !post.profile.is_empty() && post.profile != self.profile {
            Some("profile is another one")
        } else {
            None
        };
        match what {
            Some(what) => Err(Error::NotForQueue { pool: self.pool.clone(), profile: self.profile.clone(), what }),
            None => {
                post.profile.clone_from(&self.profile);
                Ok(post)
            }
        }
    }
}

/// How it is answered, and which posts are left to be scheduled.
type Promising<T> = fn(Promise<T>, Vec<NewPost>) -> (SchedulePromise, Vec<NewPost>);

fn one(promise: Promise<PostId>, posts: Vec<NewPost>) -> (SchedulePromise, Vec<NewPost>) {
    (SchedulePromise::One(promise), posts)
}
