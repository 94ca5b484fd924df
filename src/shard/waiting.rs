//! What waits, and who is next: classes of one priority, in each a round in which every profile has one turn.
//!
//! A profile with posts in a class has a lane there: they wait in it one behind the other, and only the first stands
//! in the class's queue. When it has been started, the next one stands in the queue of the next round. A post without
//! a profile has no lane. A lane can be blocked; then it stands in no queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;

use priority_queue::PriorityQueue;
use rustc_hash::{FxBuildHasher, FxHashMap};
use slab::Slab;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::queue::Queue;
use crate::id::Seq;
use crate::post::{Delivery, Priority};
use crate::time::Timestamp;

/// What a point of priority is worth in waiting time: 64 of them, the step between two named priorities, are a minute.
const POINT_MICROS: i64 = 60_000_000 / 64;

/// So many lanes are kept without a post in them before any is dropped.
const IDLE_LANES: usize = 65_536;

/// Room for so many posts is kept when nothing waits.
const KEPT: usize = 16_384;

/// So many entries are kept whose post has gone before any is dropped.
const GONE: usize = 1_024;

/// So many are let in when their due has come, each time that one may start.
const LET_IN: usize = 4_096;

const NONE: u32 = u32::MAX;

#[derive(Default)]
pub struct Waiting {
    posts: Slab<Post>,
    /// What is not due yet: handed over ahead, or the wall clock has stepped back since. By the instant, as they came.
    early: BTreeMap<Timestamp, VecDeque<Delivery>>,
    classes: Vec<Class>,
    lanes: Slab<Lane>,
    /// By a hash of the profile and the priority: should two profiles have the same, they share their turns.
    by_profile: FxHashMap<u64, u32>,
    idle: usize,
    /// The earliest to be unblocked first.
    blocked: PriorityQueue<u32, Reverse<Timestamp>, FxBuildHasher>,
    /// Blocked lanes to be looked at by [`poll_returned`](Self::poll_returned).
    returning: Vec<u32>,
    /// Deadlines of posts, some of which may have gone.
    deadlines: BinaryHeap<Reverse<(Timestamp, Seq, u32)>>,
    /// How many posts have a deadline.
    dated: usize,
    /// How many posts without a lane have gone, but still stand in a queue.
    gone: usize,
}

/// One post, and its neighbours in its lane.
#[derive(Debug)]
struct Post {
    delivery: Option<Delivery>,
    lane: u32,
    before: u32,
    behind: u32,
}

/// The posts of one priority.
#[derive(Debug)]
struct Class {
    priority: Priority,
    /// The number of the round, from 1.
    round: u64,
    queue: Queue<Entry>,
    /// Those who had their turn in this round.
    next: Queue<Entry>,
    /// Whoever comes has to wait for the next round: it has been forgotten who had a turn in this one.
    is_closed: bool,
}

/// A place in a queue: earlier due first, then earlier number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Entry {
    at: Timestamp,
    seq: Seq,
    who: Who,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Who {
    Post(u32),
    Lane(u32),
}

/// The posts of one profile and one priority, as they came.
#[derive(Debug)]
struct Lane {
    key: u64,
    class: usize,
    first: u32,
    last: u32,
    /// The last round in which it had a turn.
    round: u64,
    stands: Stands,
    is_returning: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stands {
    /// Nothing waits in it.
    Idle,
    Queued,
    Blocked(Timestamp),
}

/// Who is next; it has left its queue, and must be started, put back, blocked or taken out.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    class: usize,
    entry: Entry,
}

impl Head {
    /// Whether it is of a profile.
    pub fn has_profile(self) -> bool {
        matches!(self.entry.who, Who::Lane(_))
    }
}

impl Waiting {
    pub fn push(&mut self, delivery: Delivery) {
        let facts = delivery.facts();
        let (at, seq, deadline, priority) = (facts.since, facts.id.seq(), facts.deadline, facts.body.priority());
        let class = self.class(priority);
        let profile = facts.body.profile();
        let lane = if profile.is_empty() { NONE } else { self.lane(profile, priority, class) };
        let post = self.posts.insert(Post { delivery: Some(delivery), lane, before: NONE, behind: NONE }) as u32;
        if let Some(deadline) = deadline {
            self.dated += 1;
            self.deadlines.push(Reverse((deadline, seq, post)));
        }
        let Some(to) = self.lanes.get_mut(lane as usize) else {
            if let Some(class) = self.classes.get_mut(class) {
                class.push(Entry { at, seq, who: Who::Post(post) }, 0);
            }
            return;
        };
        let last = std::mem::replace(&mut to.last, post);
        match self.posts.get_mut(last as usize) {
            Some(before) => before.behind = post,
            None => to.first = post,
        }
        if let Some(post) = self.posts.get_mut(post as usize) {
            post.before = last;
        }
        match to.stands {
            Stands::Idle => {
                self.idle -= 1;
                self.queue_lane(lane);
            }
            Stands::Queued | Stands::Blocked(_) => {}
        }
    }

    /// The next one, if one waits that is not blocked.
    pub fn next(&mut self) -> Option<Head> {
        let heads = self.classes.iter().enumerate().filter_map(|(class, of)| Some((of.rank()?, class)));
        let (_, class) = heads.min()?;
        let entry = self.classes.get_mut(class)?.pop()?;
        Some(Head { class, entry })
    }

    /// The delivery of the head, if it has not gone.
    pub fn get(&self, head: Head) -> Option<&Delivery> {
        self.posts.get(self.post(head)? as usize)?.delivery.as_ref()
    }

    fn post(&self, head: Head) -> Option<u32> {
        match head.entry.who {
            Who::Post(post) => Some(post),
            Who::Lane(lane) => self.lanes.get(lane as usize).map(|lane| lane.first),
        }
    }

    /// It has had its turn.
    pub fn start(&mut self, head: Head) -> Option<Delivery> {
        if let (Who::Lane(lane), Some(class)) = (head.entry.who, self.classes.get(head.class))
            && let Some(lane) = self.lanes.get_mut(lane as usize)
        {
            lane.round = class.round;
        }
        self.take_out(head)
    }

    /// It does not wait any more, and the next of its lane has the turn. Nothing if it has gone already.
    pub fn take_out(&mut self, head: Head) -> Option<Delivery> {
        let delivery = self.leave(head);
        self.trim_all();
        delivery
    }

    /// One that has to leave because nobody may start. Who had a turn in this round is not forgotten: they come back.
    pub fn take_back(&mut self) -> Option<Delivery> {
        loop {
            let mut places = self.classes.iter_mut().enumerate();
            let head = places.find_map(|(class, of)| {
                let entry = of.queue.pop().or_else(|| of.next.pop())?;
                Some(Head { class, entry })
            })?;
            if let Some(delivery) = self.leave(head).filter(|delivery| !delivery.facts().stage.is_withdrawn()) {
                return Some(delivery);
            }
        }
    }

    fn leave(&mut self, head: Head) -> Option<Delivery> {
        let delivery = self.remove(self.post(head)?);
        match head.entry.who {
            Who::Post(post) => {
                self.posts.try_remove(post as usize);
                self.gone -= 1;
            }
            Who::Lane(lane) => self.queue_lane(lane),
        }
        delivery
    }

    /// It stays the next one.
    pub fn put_back(&mut self, head: Head) {
        if let Some(class) = self.classes.get_mut(head.class) {
            class.queue.push(head.entry);
        }
    }

    /// The lane of the head waits until then.
    pub fn block(&mut self, head: Head, until: Timestamp) {
        let Who::Lane(index) = head.entry.who else { return };
        let Some(lane) = self.lanes.get_mut(index as usize) else { return };
        lane.stands = Stands::Blocked(until);
        self.blocked.push(index, Reverse(until));
        if !std::mem::replace(&mut lane.is_returning, true) {
            self.returning.push(index);
        }
    }

    /// It is not due by the wall clock as it is now.
    pub fn set_early(&mut self, head: Head) {
        if let Some(delivery) = self.take_out(head) {
            self.keep(delivery);
        }
    }

    /// Keeps one that is not due yet.
    pub fn keep(&mut self, delivery: Delivery) {
        self.early.entry(delivery.facts().at).or_default().push_back(delivery);
    }

    /// Lets in what waited for a time that has come; of what has become due so many at a time, so that a spike does not
    /// hold up its own first posts.
    pub fn wake(&mut self, now: Timestamp) {
        for _ in 0..LET_IN {
            let Some(mut due) = self.early.first_entry().filter(|early| *early.key() <= now) else { break };
            let delivery = due.get_mut().pop_front();
            if due.get().is_empty() {
                due.remove();
            }
            delivery.into_iter().for_each(|delivery| self.push(delivery));
        }
        while self.blocked.peek().is_some_and(|(_, Reverse(until))| *until <= now) {
            if let Some((lane, _)) = self.blocked.pop() {
                self.queue_lane(lane);
            }
        }
        self.trim_deadlines();
    }

    /// Lets in all that is blocked.
    pub fn unblock(&mut self) {
        while let Some((lane, _)) = self.blocked.pop() {
            self.queue_lane(lane);
        }
    }

    /// One whose deadline has passed; it leaves.
    pub fn poll_missed(&mut self, now: Timestamp) -> Option<Delivery> {
        self.trim_deadlines();
        while let Some(Reverse((_, _, post))) = self.deadlines.peek().filter(|Reverse((at, ..))| *at < now).copied() {
            self.deadlines.pop();
            let delivery = self.remove(post);
            self.trim_deadlines();
            self.trim_gone();
            self.trim_all();
            if let Some(delivery) = delivery.filter(|delivery| !delivery.facts().stage.is_withdrawn()) {
                return Some(delivery);
            }
        }
        None
    }

    /// One whose profile is blocked until later than `soon`; it leaves.
    pub fn poll_returned(&mut self, soon: Timestamp) -> Option<(Delivery, Timestamp)> {
        while let Some(&index) = self.returning.last() {
            let lane = self.lanes.get_mut(index as usize).filter(|lane| lane.is_returning);
            let Some(Lane { first, stands: Stands::Blocked(until), .. }) = lane
                .as_deref()
                .filter(|lane| lane.first != NONE && matches!(lane.stands, Stands::Blocked(until) if until > soon))
            else {
                if let Some(lane) = lane {
                    lane.is_returning = false;
                    if lane.first == NONE && self.blocked.remove(&index).is_some() {
                        self.queue_lane(index);
                    }
                }
                self.returning.pop();
                continue;
            };
            let (first, until) = (*first, *until);
            let delivery = self.remove(first);
            self.trim_all();
            if let Some(delivery) = delivery.filter(|delivery| !delivery.facts().stage.is_withdrawn()) {
                return Some((delivery, until));
            }
        }
        None
    }

    /// When to look again.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let early = self.early.first_key_value().map(|(at, _)| *at);
        let unblocked = self.blocked.peek().map(|(_, Reverse(until))| *until);
        // A deadline is the last instant that is not too late.
        let missed =
            self.deadlines.peek().map(|Reverse((at, ..))| Timestamp::from_micros(at.micros().saturating_add(1)));
        [early, unblocked, missed].into_iter().flatten().min()
    }

    /// How many are not due yet.
    fn early(&self) -> usize {
        self.early.values().map(VecDeque::len).sum()
    }

    /// Everything leaves.
    #[cfg(any(test, feature = "test-util"))]
    pub fn drain(&mut self) -> impl Iterator<Item = Delivery> {
        let Self { posts, early, .. } = std::mem::take(self);
        posts.into_iter().filter_map(|(_, post)| post.delivery).chain(early.into_values().flatten())
    }

    /// Takes a post from where it stands: from its lane, or, without one, leaving its place to be cleared later.
    fn remove(&mut self, index: u32) -> Option<Delivery> {
        let post = self.posts.get_mut(index as usize)?;
        let delivery = post.delivery.take()?;
        self.dated -= usize::from(delivery.facts().deadline.is_some());
        let Some(lane) = self.lanes.get_mut(post.lane as usize) else {
            self.gone += 1;
            return Some(delivery);
        };
        let (before, behind) = (post.before, post.behind);
        self.posts.try_remove(index as usize);
        match self.posts.get_mut(before as usize) {
            Some(post) => post.behind = behind,
            None => lane.first = behind,
        }
        match self.posts.get_mut(behind as usize) {
            Some(post) => post.before = before,
            None => lane.last = before,
        }
        Some(delivery)
    }

    /// Lets the first of a lane that stands nowhere wait for its turn, if there is one.
    fn queue_lane(&mut self, index: u32) {
        let Some(lane) = self.lanes.get_mut(index as usize) else { return };
        let first = self.posts.get(lane.first as usize).and_then(|post| post.delivery.as_ref());
        let Some((delivery, class)) = first.zip(self.classes.get_mut(lane.class)) else {
            lane.stands = Stands::Idle;
            self.idle += 1;
            return self.trim_lanes();
        };
        lane.stands = Stands::Queued;
        class.push(Entry { at: delivery.facts().since, seq: delivery.id().seq(), who: Who::Lane(index) }, lane.round);
    }

    fn class(&mut self, priority: Priority) -> usize {
        self.classes.iter().position(|class| class.priority == priority).unwrap_or_else(|| {
            self.classes.push(Class {
                priority,
                round: 1,
                queue: Queue::default(),
                next: Queue::default(),
                is_closed: false,
            });
            self.classes.len() - 1
        })
    }

    fn lane(&mut self, profile: &str, priority: Priority, class: usize) -> u32 {
        let key = xxh3_64_with_seed(profile.as_bytes(), priority.get().into());
        *self.by_profile.entry(key).or_insert_with(|| {
            self.idle += 1;
            let lane =
                Lane { key, class, first: NONE, last: NONE, round: 0, stands: Stands::Idle, is_returning: false };
            self.lanes.insert(lane) as u32
        })
    }

    /// Forgets lanes that are idle, if they are too many.
    fn trim_lanes(&mut self) {
        let busy = self.lanes.len() - self.idle;
        if self.idle <= IDLE_LANES + 4 * busy {
            return;
        }
        self.lanes.retain(|_, lane| lane.stands != Stands::Idle);
        self.by_profile = self.lanes.iter().map(|(index, lane)| (lane.key, index as u32)).collect();
        self.classes.iter_mut().for_each(|class| class.is_closed = true);
        self.idle = 0;
    }

    /// When nothing waits, there is nobody to be fair to, and no need for the memory of a spike.
    fn trim_all(&mut self) {
        if !self.posts.is_empty() {
            return;
        }
        if self.posts.capacity().max(self.lanes.capacity()) > KEPT {
            let early = std::mem::take(&mut self.early);
            *self = Self { early, ..Self::default() };
            return;
        }
        for class in &mut self.classes {
            class.queue.retain(|_| false);
            class.next.retain(|_| false);
            class.is_closed = false;
        }
        self.lanes.clear();
        self.by_profile.clear();
        self.blocked.clear();
        self.returning.clear();
        self.deadlines.clear();
        (self.idle, self.gone) = (0, 0);
    }

    fn trim_deadlines(&mut self) {
        let is_waiting = |posts: &Slab<Post>, &Reverse((at, seq, post)): &Reverse<(Timestamp, Seq, u32)>| {
            let delivery = posts.get(post as usize).and_then(|post| post.delivery.as_ref());
            delivery.is_some_and(|delivery| delivery.id().seq() == seq && delivery.facts().deadline == Some(at))
        };
        if self.deadlines.len() > 2 * self.dated + GONE {
            self.deadlines.retain(|deadline| is_waiting(&self.posts, deadline));
        }
        while self.deadlines.peek().is_some_and(|deadline| !is_waiting(&self.posts, deadline)) {
            self.deadlines.pop();
        }
    }

    fn trim_gone(&mut self) {
        if self.gone <= GONE + self.posts.len() / 2 {
            return;
        }
        self.gone = 0;
        let posts = &mut self.posts;
        let mut keep = |entry: &Entry| match entry.who {
            Who::Post(index) if posts.get(index as usize).is_none_or(|post| post.delivery.is_none()) => {
                posts.try_remove(index as usize);
                false
            }
            _ => true,
        };
        for class in &mut self.classes {
            class.queue.retain(&mut keep);
            class.next.retain(&mut keep);
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (posts, early) = (self.posts.len() - self.gone, self.early());
        f.debug_struct("Waiting").field("posts", &posts).field("early", &early).finish_non_exhaustive()
    }
}

impl Class {
    /// Smaller goes first: since the wait of all grows alike, only their dues and priorities make the difference.
    fn rank(&self) -> Option<(i64, Reverse<Priority>)> {
        let head = self.queue.peek().or_else(|| self.next.peek())?;
        let worth = i64::from(self.priority.get()) * POINT_MICROS;
        Some((head.at.micros().saturating_sub(worth), Reverse(self.priority)))
    }

    /// Somebody who had the last turn in this round.
    fn push(&mut self, entry: Entry, round: u64) {
        let queue = if self.is_closed || round == self.round { &mut self.next } else { &mut self.queue };
        queue.push(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        if self.queue.is_empty() {
            std::mem::swap(&mut self.queue, &mut self.next);
            self.round += 1;
            self.is_closed = false;
        }
        self.queue.pop()
    }
}

#[cfg(all(test, not(interleave = "loom")))]
impl Waiting {
    /// How many things are kept.
    pub fn size(&self) -> usize {
        let queued: usize = self.classes.iter().map(|class| class.queue.len() + class.next.len()).sum();
        let lanes = self.lanes.len() + self.by_profile.len() + self.blocked.len() + self.returning.len();
        self.posts.len() + self.early() + queued + lanes + self.deadlines.len()
    }
}
