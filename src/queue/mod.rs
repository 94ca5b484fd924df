//! A profile's queue: which posts wait, in which order, and which slots they take. Pure.
//!
//! Posts have no due while they wait: the first one takes the first free slot after the moment up to which the queue has
//! been followed, the second one the next free slot, and so on. So other slots, or another order, change one thing and
//! not every post. Only those whose slot is near are given it as their due: they are *placed*.

mod codec;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use codec::{Name, Parts, TAKEN, fixed_note, name, taken_due};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::Seq;
use crate::limits;
use crate::schedule::PostingSlots;
use crate::time::Timestamp;

/// A queue as it is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Queue {
    slots: Arc<PostingSlots>,
    /// They as text, as they are remembered.
    text: Arc<str>,
    is_paused: bool,
    /// Posts are warned of when the last one's slot is nearer than this; zero: never.
    warn_ahead: Duration,
    /// Whether that was said since it came nearer.
    is_warned: bool,
    order: VecDeque<Seq>,
    /// The first of them, which have a due already.
    placed: Vec<(Seq, Timestamp)>,
    /// How many places the front has moved: back by what left, forward by what came.
    start: i64,
    /// Slots up to this have passed.
    since: Timestamp,
    /// How long before its slot any of its posts is prepared at most.
    lead: Duration,
    /// Whether posts of the profile that were scheduled before there was a queue are known.
    is_counted: bool,
    /// Hashes of the latest keys under which something was done.
    done: VecDeque<u64>,
}

/// What is to be done to a queue.
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    /// Its posts take other slots.
    Slots(Box<PostingSlots>),
    Pause(bool),
    /// It is to be said when the last post's slot is nearer than this; zero: never.
    WarnAhead(Duration),
    Move {
        post: Seq,
        to: usize,
    },
    Swap(Seq, Seq),
    Shuffle(u64),
}

/// Why something cannot be done to a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    NotQueued(Seq),
    /// There is no such position: it has so many posts.
    NoPosition {
        position: usize,
        posts: usize,
    },
    Full,
}

/// What a queue has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The last post's slot has come.
    Empty,
    /// So many posts are left, the last one's slot is this.
    Low { left: usize, last: Timestamp },
}

impl Queue {
    /// An empty queue, from now on.
    pub fn new(slots: PostingSlots, now: Timestamp) -> Self {
        Self {
            text: slots.to_string().into(),
            slots: Arc::new(slots),
            is_paused: false,
            warn_ahead: Duration::ZERO,
            is_warned: false,
            order: VecDeque::new(),
            placed: Vec::new(),
            start: 0,
            since: now,
            lead: Duration::ZERO,
            is_counted: false,
            done: VecDeque::new(),
        }
    }

    pub fn slots(&self) -> &PostingSlots {
        &self.slots
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub fn warn_ahead(&self) -> Duration {
        self.warn_ahead
    }

    pub fn is_counted(&self) -> bool {
        self.is_counted
    }

    pub fn set_counted(&mut self) {
        self.is_counted = true;
    }

    /// Slots up to this have passed.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn has(&self, post: Seq) -> bool {
        self.order.contains(&post)
    }

    /// The posts that have a due already, in order.
    pub fn placed(&self) -> &[(Seq, Timestamp)] {
        &self.placed
    }

    pub fn placed_at(&self, post: Seq) -> Option<Timestamp> {
        self.placed.iter().find(|(placed, _)| *placed == post).map(|(_, due)| *due)
    }

    /// Whether something was done under this key lately.
    pub fn has_done(&self, key: u64) -> bool {
        self.done.contains(&key)
    }

    pub fn note_done(&mut self, key: u64) {
        if self.done.len() >= limits::QUEUE_KEYS {
            self.done.pop_front();
        }
        self.done.push_back(key);
    }

    /// Every post and its slot, in order; ends where the slots do. Nothing has a slot while the queue is paused.
    pub fn dues<'a>(&'a self, taken: &'a Taken) -> impl Iterator<Item = (Seq, Timestamp)> + 'a {
        let slots = self.slots.after(self.since.to_datetime()).map(Timestamp::due);
        let free = slots.filter(|slot| !taken.has(*slot));
        let order = self.order.iter().take(if self.is_paused { 0 } else { usize::MAX });
        order.copied().zip(free)
    }

    /// All posts, in order.
    pub fn posts(&self) -> impl Iterator<Item = Seq> + '_ {
        self.order.iter().copied()
    }

    /// Lets time pass. Posts whose slot has come leave; they are returned with it, and it is their due. Those whose slot
    /// comes by `until` are placed. No more new ones than go in one step: it wants to be followed again at once if there are more.
    pub fn follow(&mut self, now: Timestamp, until: Timestamp, taken: &Taken) -> Vec<(Seq, Timestamp)> {
        // Those that were placed may be out already: their slots are theirs, whoever else has taken them since.
        let mut left = self.leave(now);
        self.place(until.max(now), taken);
        let late = self.leave(now);
        // As many as go in one step: more of them may follow.
        if late.len() < limits::PLACE_POSTS {
            self.since = self.since.max(now);
        }
        left.extend(late);
        left
    }

    /// Those leave that were placed and whose slot has come; they are returned with it.
    pub fn leave(&mut self, now: Timestamp) -> Vec<(Seq, Timestamp)> {
        let gone = self.placed.iter().take_while(|(_, due)| *due <= now).count();
        let left: Vec<_> = self.placed.drain(..gone).collect();
        self.order.drain(..gone);
        self.start += gone as i64;
        if let Some((_, due)) = left.last() {
            self.since = *due;
        }
        left
    }

    /// Places those whose slot comes by `until`, and no others; the first ones, if they are too many for one step.
    pub fn place(&mut self, until: Timestamp, taken: &Taken) {
        let near = self.dues(taken).take_while(|(_, due)| *due <= until);
        self.placed = near.take(limits::PLACE_POSTS).collect();
    }

    /// What there is to say at `now`.
    pub fn notice(&mut self, now: Timestamp, taken: &Taken, has_left: bool) -> Option<Notice> {
        if self.order.is_empty() {
            self.is_warned = true;
            return has_left.then_some(Notice::Empty);
        }
        if self.warn_ahead.is_zero() || self.is_paused {
            return None;
        }
        let last = self.dues(taken).last().map(|(_, due)| due)?;
        let is_low = last <= now.after(self.warn_ahead);
        let is_new = is_low && !self.is_warned;
        self.is_warned = is_low;
        is_new.then_some(Notice::Low { left: self.order.len(), last })
    }

    /// When it wants to be followed next, where posts are placed so long ahead.
    pub fn wake_at(&self, ahead: Duration, taken: &Taken) -> Option<Timestamp> {
        let leaves = self.placed.first().map(|(_, due)| *due);
        let places = self.dues(taken).nth(self.placed.len()).map(|(_, due)| due.before(ahead));
        let is_watched = !self.warn_ahead.is_zero() && !self.is_warned;
        let warns = is_watched.then(|| self.dues(taken).last()).flatten();
        let warns = warns.map(|(_, due)| due.before(self.warn_ahead));
        [leaves, places, warns].into_iter().flatten().min()
    }

    /// How long before their slot posts are placed.
    pub fn ahead(&self, pool: Duration) -> Duration {
        limits::PLACE_AHEAD + self.lead.max(pool)
    }

    /// Puts posts in, at this position or at the end, but behind those that are placed.
    pub fn insert(&mut self, at: Option<usize>, posts: &[Seq], lead: Duration) -> Result<(), Refusal> {
        let len = self.order.len();
        let at = at.unwrap_or(len);
        if at > len {
            return Err(Refusal::NoPosition { position: at, posts: len });
        }
        if len + posts.len() > limits::QUEUE_POSTS {
            return Err(Refusal::Full);
        }
        self.lead = self.lead.max(lead);
        let at = at.max(self.placed.len());
        if at == 0 {
            self.start -= posts.len() as i64;
        }
        let behind = self.order.split_off(at);
        self.order.extend(posts.iter().copied().chain(behind));
        Ok(())
    }

    /// Takes a post out.
    pub fn take(&mut self, post: Seq) -> Result<(), Refusal> {
        let at = self.position(post)?;
        self.order.remove(at);
        self.placed.retain(|(placed, _)| *placed != post);
        Ok(())
    }

    /// Does this at `now`, up to which it has been followed.
    pub fn apply(&mut self, order: Order, now: Timestamp) -> Result<(), Refusal> {
        match order {
            // From now on, also where a clock that was wrong for a moment had shown much later slots.
            Order::Slots(slots) => {
                self.text = slots.to_string().into();
                (self.slots, self.since) = (Arc::new(*slots), now);
            }
            Order::Pause(paused) => (self.is_paused, self.since) = (paused, now),
            Order::WarnAhead(ahead) => (self.warn_ahead, self.is_warned) = (ahead, false),
            Order::Move { post, to } => {
                let at = self.position(post)?;
                let posts = self.order.len();
                if to >= posts {
                    return Err(Refusal::NoPosition { position: to, posts });
                }
                self.order.remove(at);
                self.order.insert(to, post);
            }
            Order::Swap(one, other) => {
                let (one, other) = (self.position(one)?, self.position(other)?);
                self.order.swap(one, other);
            }
            Order::Shuffle(seed) => {
                // Fisher and Yates; each draw depends on the seed and its number alone, so every version shuffles alike.
                for last in (1..self.order.len()).rev() {
                    let draw = xxh3_64_with_seed(&(last as u64).to_le_bytes(), seed);
                    self.order.swap(last, (draw % (last as u64 + 1)) as usize);
                }
            }
        }
        Ok(())
    }

    fn position(&self, post: Seq) -> Result<usize, Refusal> {
        self.order.iter().position(|queued| *queued == post).ok_or(Refusal::NotQueued(post))
    }
}

/// Posts of the profile that have a due of their own: a slot that one of them hits is taken.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Taken {
    dues: BTreeSet<(Timestamp, Seq)>,
    posts: BTreeMap<Seq, Timestamp>,
}

impl Taken {
    /// The post has this due now; true if it had another one, or none.
    pub fn insert(&mut self, post: Seq, due: Timestamp) -> bool {
        let before = self.posts.insert(post, due);
        if let Some(before) = before {
            self.dues.remove(&(before, post));
        }
        self.dues.insert((due, post));
        before != Some(due)
    }

    /// The post has no due any more; its due, if it was known.
    pub fn remove(&mut self, post: Seq) -> Option<Timestamp> {
        let due = self.posts.remove(&post)?;
        self.dues.remove(&(due, post));
        Some(due)
    }

    /// Forgets what lies at or before this: no slot there will be asked for. What was there.
    pub fn forget_through(&mut self, since: Timestamp) -> Vec<Seq> {
        let later = self.dues.split_off(&(since, Seq(u64::MAX)));
        let gone: Vec<Seq> = std::mem::replace(&mut self.dues, later).into_iter().map(|(_, post)| post).collect();
        gone.iter().for_each(|post| _ = self.posts.remove(post));
        gone
    }

    /// Whether something lies at or before this.
    pub fn is_passed_by(&self, since: Timestamp) -> bool {
        self.dues.first().is_some_and(|(due, _)| *due <= since)
    }

    /// The due of this post, if it is known.
    pub fn due(&self, post: Seq) -> Option<Timestamp> {
        self.posts.get(&post).copied()
    }

    fn has(&self, slot: Timestamp) -> bool {
        self.dues.range((slot, Seq(0))..=(slot, Seq(u64::MAX))).next().is_some()
    }
}
