//! What the journals hold, in memory: one table for each generation that has not been sorted yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::id::{PoolId, Seq, SeqMap};
use crate::post::{Body, Cursor, Home, Record};
use crate::time::Timestamp;

use super::catalog::Through;
use super::journal::Entry;
use super::state::{self, DayState, Mark, What, day};

/// What a post takes in memory besides its body, about.
const POST_BYTES: usize = 160;

/// A home, with the day in which it lies: the order of runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub day: u32,
    pub pool: PoolId,
    pub at: Timestamp,
    pub seq: Seq,
}

impl Place {
    fn new(home: Home) -> Self {
        Self { day: day(home.at), pool: home.pool, at: home.at, seq: home.seq }
    }

    pub fn cursor(&self) -> Cursor {
        Cursor { at: self.at, seq: self.seq }
    }

    pub fn home(&self) -> Home {
        Home { pool: self.pool, at: self.at, seq: self.seq }
    }
}

/// The part of ordered places that belongs to one pool and day and lies after the cursor.
pub fn after(places: &[Place], pool: PoolId, day: u32, cursor: Cursor) -> &[Place] {
    let start = places.partition_point(|place| (place.day, place.pool, place.cursor()) <= (day, pool, cursor));
    let rest = places.get(start..).unwrap_or_default();
    let len = rest.partition_point(|place| (place.day, place.pool) == (day, pool));
    rest.get(..len).unwrap_or_default()
}

/// One generation.
#[derive(Debug, Default)]
pub struct Memtable {
    pub generation: u32,
    /// Posts before this one were there when the generation began.
    pub first_seq: Seq,
    /// The last version of each post that came or moved while this was the current generation.
    pub posts: SeqMap<Record>,
    /// The last thing that happened to a post at its present home.
    pub marks: SeqMap<Mark>,
    /// Homes in older generations that posts left for one in this one.
    pub moved: SeqMap<Home>,
    /// Posts by the hash of their key, the last one of each.
    pub keys: FxHashMap<u64, Seq>,
    /// Posts whose place in `keys` was taken by another.
    pub more_keys: Vec<(u64, Seq)>,
    /// Homes of the posts, and some that they have left again; the first ones are in order.
    places: Vec<Place>,
    ordered: usize,
    /// The days that are touched.
    pub days: BTreeSet<u32>,
    /// Posts that were marked or left on a shelf, by day: a look at each of many days must not go through all marks.
    shelved: BTreeMap<u32, Vec<Seq>>,
    /// What was remembered, the last value of each key.
    pub remembered: FxHashMap<Bytes, Bytes>,
    pub bytes: usize,
    /// The last commit, in it or before it, and the number after all that were used up to then.
    pub commit: u64,
    pub next_seq: Seq,
    /// The latest time of any commit.
    pub latest: Timestamp,
}

impl Memtable {
    /// A table that comes after all this.
    pub fn starting(generation: u32, Through { commit, now, next_seq, .. }: Through) -> Self {
        Self { generation, first_seq: next_seq, commit, next_seq, latest: now, ..Self::default() }
    }

    /// What its last commit was.
    pub fn ends_with(&mut self, commit: u64, now: Timestamp, next_seq: Seq) {
        (self.commit, self.next_seq, self.latest) = (commit, next_seq, self.latest.max(now));
    }

    /// Up to where everything is sorted once this table is.
    pub fn through(&self) -> Through {
        Through { commit: self.commit, generation: self.generation, now: self.latest, next_seq: self.next_seq }
    }

    /// A table like this one, with room for as much.
    pub fn following(&self) -> Self {
        let mut table = Self::starting(self.generation + 1, self.through());
        table.posts.reserve(self.posts.len());
        table.marks.reserve(self.marks.len());
        table
    }

    /// The version that it holds of this post.
    pub fn get(&self, seq: Seq) -> Option<&Record> {
        // An older post is here only if it moved, which few do.
        let is_here = seq >= self.first_seq || (!self.moved.is_empty() && self.moved.contains_key(&seq));
        if is_here { self.posts.get(&seq) } else { None }
    }

    /// What it holds of this post, if it is what was last known when the table was current.
    pub fn at_home(&self, home: Home) -> Option<&Record> {
        self.get(home.seq).filter(|record| record.home() == home)
    }

    /// Records a change of the commit after the last one.
    pub fn apply(&mut self, now: Timestamp, entry: Entry) {
        match entry {
            Entry::Post(record) => self.put(record),
            Entry::Claim { home, attempt } => self.mark(home, What::Claimed { attempt, commit: self.commit + 1 }),
            Entry::Release { home } => self.mark(home, What::Released),
            Entry::Settle { home, attempts, outcome } => self.mark(home, What::settled(attempts, now, outcome)),
            Entry::Move { from, to } => {
                // A version of this generation is replaced, and its home vanishes with it.
                if !self.posts.contains_key(&from.seq) {
                    self.touch(day(from.at), from.seq);
                    self.moved.insert(from.seq, from);
                }
                self.marks.remove(&from.seq);
                self.put(to);
            }
            Entry::Remember { key, value } => {
                // Counted each time: the journal grows as well.
                self.bytes += POST_BYTES + key.len() + value.len();
                self.remembered.insert(key, value);
            }
        }
    }

    fn put(&mut self, record: Record) {
        let place = Place::new(record.home());
        self.days.insert(place.day);
        self.bytes += POST_BYTES + record.notes.len() + record.body.len();
        if let Some(key) = record.body.key() {
            let hash = Body::key_hash(key);
            if let Some(other) = self.keys.insert(hash, record.seq).filter(|other| *other != record.seq) {
                self.more_keys.push((hash, other));
            }
        }
        if self.posts.insert(record.seq, record).is_some_and(|before| before.home() == place.home()) {
            return;
        }
        if self.ordered == self.places.len() && self.places.last().is_none_or(|last| *last < place) {
            self.ordered += 1;
        }
        self.places.push(place);
    }

    fn mark(&mut self, home: Home, what: What) {
        let mark = Mark::new(home, what);
        let day = mark.day;
        if self.marks.insert(home.seq, mark).is_none() {
            self.touch(day, home.seq);
        }
    }

    fn touch(&mut self, day: u32, seq: Seq) {
        self.days.insert(day);
        if state::is_shelved(day) {
            self.shelved.entry(day).or_default().push(seq);
        }
    }

    /// Tells what became of posts at homes in this day.
    pub fn tell(&self, day: u32, own_from: u64, state: &mut DayState) {
        if !self.days.contains(&day) {
            return;
        }
        if state::is_shelved(day) {
            for seq in self.shelved.get(&day).into_iter().flatten() {
                self.tell_of(*seq, self.moved.get(seq), self.marks.get(seq), day, own_from, state);
            }
            return;
        }
        for (seq, from) in &self.moved {
            self.tell_of(*seq, Some(from), None, day, own_from, state);
        }
        for (seq, mark) in &self.marks {
            self.tell_of(*seq, None, Some(mark), day, own_from, state);
        }
    }

    fn tell_of(
        &self,
        seq: Seq,
        moved: Option<&Home>,
        mark: Option<&Mark>,
        day: u32,
        own_from: u64,
        state: &mut DayState,
    ) {
        if moved.is_some_and(|from| state::day(from.at) == day) {
            state.leave(seq, self.generation);
        }
        if let Some(mark) = mark.filter(|mark| mark.day == day) {
            state.take_mark(seq, &mark.what, own_from);
        }
    }

    /// Posts whose key may be one with this hash.
    pub fn with_key(&self, hash: u64) -> impl Iterator<Item = Seq> {
        let more = self.more_keys.iter().filter(move |(other, _)| *other == hash).map(|(_, seq)| *seq);
        self.keys.get(&hash).copied().into_iter().chain(more)
    }

    /// Brings all places in order.
    pub fn order(&mut self) {
        if self.ordered < self.places.len() {
            // Stable sorting is quick where most is in order already.
            self.places.sort();
            self.places.dedup();
            self.ordered = self.places.len();
        }
    }

    /// All places; in order only after [`order`](Self::order).
    pub fn places(&self) -> &[Place] {
        &self.places
    }
}

/// A generation that takes nothing more and waits to be sorted.
#[derive(Debug)]
pub struct Frozen {
    pub table: Memtable,
    places: OnceLock<Vec<Place>>,
}

impl Frozen {
    pub fn new(table: Memtable) -> Self {
        Self { table, places: OnceLock::new() }
    }

    /// All places, in order. Whoever comes first sorts them.
    pub fn places(&self) -> &[Place] {
        self.places.get_or_init(|| {
            let mut places = self.table.places.clone();
            places.sort();
            places.dedup();
            places
        })
    }
}

/// How many live posts there are, and when posts last ended.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Live posts by pool and day; none of them is zero.
    live: BTreeMap<(PoolId, u32), u64>,
    /// How many pools have live posts in a day; none of them is zero.
    pools: FxHashMap<u32, u32>,
    /// The last time at which a post of the day ended or left.
    ended: FxHashMap<u32, Timestamp>,
    /// Of these, the days without live posts.
    over: BTreeSet<(Timestamp, u32)>,
}

impl Tallies {
    pub fn apply(&mut self, now: Timestamp, entry: &Entry) {
        match entry {
            Entry::Post(record) => self.add(record.pool, day(record.at), 1),
            Entry::Claim { .. } | Entry::Release { .. } | Entry::Remember { .. } => {}
            Entry::Settle { home, .. } => self.end(*home, now),
            Entry::Move { from, to } => {
                // In this order a day is not over in between.
                self.add(to.pool, day(to.at), 1);
                self.end(*from, now);
            }
        }
    }

    pub fn add(&mut self, pool: PoolId, day: u32, posts: u64) {
        if posts == 0 {
            return;
        }
        let live = self.live.entry((pool, day)).or_default();
        *live = live.saturating_add(posts);
        if *live > posts {
            return;
        }
        let pools = self.pools.entry(day).or_default();
        *pools += 1;
        if let Some(ended) = self.ended.get(&day).filter(|_| *pools == 1) {
            self.over.remove(&(*ended, day));
        }
    }

    fn end(&mut self, home: Home, now: Timestamp) {
        let day = day(home.at);
        self.ended_at(day, now);
        self.subtract(home.pool, day, 1);
    }

    /// False if there were not as many.
    pub fn subtract(&mut self, pool: PoolId, day: u32, posts: u64) -> bool {
        let Some(live) = self.live.get_mut(&(pool, day)) else { return posts == 0 };
        let enough = *live >= posts;
        *live = live.saturating_sub(posts);
        if *live == 0 {
            self.live.remove(&(pool, day));
            self.leave(day);
        }
        enough
    }

    /// A pool has no live posts in this day any more.
    fn leave(&mut self, day: u32) {
        if let Some(pools) = self.pools.get_mut(&day) {
            *pools -= 1;
            if *pools == 0 {
                self.pools.remove(&day);
                self.over.extend(self.ended.get(&day).map(|ended| (*ended, day)));
            }
        }
    }

    pub fn ended_at(&mut self, day: u32, now: Timestamp) {
        let ended = self.ended.entry(day).or_insert(now);
        let before = std::mem::replace(ended, now.max(*ended));
        let latest = *ended;
        if !self.pools.contains_key(&day) {
            self.over.remove(&(before, day));
            self.over.insert((latest, day));
        }
    }

    /// Days from this one to that one with live posts of the pool.
    pub fn days(&self, pool: PoolId, from: u32, to: u32) -> impl Iterator<Item = u32> {
        let (from, to) = (from.min(to), to);
        self.live.range((pool, from)..=(pool, to)).map(|((_, day), _)| *day)
    }

    /// Whether the pool has live posts in this day.
    pub fn is_live(&self, pool: PoolId, day: u32) -> bool {
        self.live.contains_key(&(pool, day))
    }

    /// Pools with live posts.
    pub fn pools(&self) -> BTreeSet<PoolId> {
        self.live.keys().map(|(pool, _)| *pool).collect()
    }

    /// Days without live posts in which nothing ended since `before`.
    pub fn over(&self, before: Timestamp) -> impl Iterator<Item = u32> {
        self.over.range(..(before, 0)).map(|(_, day)| *day)
    }

    pub fn forget(&mut self, day: u32) {
        if let Some(ended) = self.ended.remove(&day) {
            self.over.remove(&(ended, day));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests;
    use super::*;
    use crate::post::Post;

    fn record(seq: u64, millis: i64, key: &str) -> Record {
        Record { body: Body::encode(&Post::new("p", "x").key(key)), ..tests::record(seq, millis) }
    }

    #[test]
    fn every_post_that_had_a_key_is_found_by_it_once() {
        let (mut table, hash) = (Memtable::default(), Body::key_hash("k"));
        let first = record(1, 5, "k");
        table.apply(Timestamp::MIN, Entry::Post(first.clone()));
        table.apply(Timestamp::MIN, Entry::Move { from: first.home(), to: record(1, 9, "k") });
        table.apply(Timestamp::MIN, Entry::Post(record(2, 5, "other")));
        assert_eq!(table.with_key(hash).collect::<Vec<_>>(), [Seq(1)]);
        table.apply(Timestamp::MIN, Entry::Post(record(3, 5, "k")));
        let mut found: Vec<_> = table.with_key(hash).collect();
        found.sort_unstable();
        assert_eq!(found, [Seq(1), Seq(3)]);
    }

    #[test]
    fn all_that_posts_and_what_is_remembered_take_is_counted() {
        let mut table = Memtable::default();
        let mut post = record(1, 5, "k");
        post.notes.edit(|noted| noted.reason = Some("seven b".to_owned()));
        let body = post.body.len();
        table.apply(Timestamp::MIN, Entry::Post(post));
        assert_eq!(table.bytes, POST_BYTES + 7 + body);
        table.apply(Timestamp::MIN, Entry::Remember { key: "ab".into(), value: "cde".into() });
        assert_eq!(table.bytes, 2 * POST_BYTES + 7 + body + 5);
    }

    #[test]
    fn what_came_in_order_is_known_to_be_in_order() {
        let mut table = Memtable::default();
        for (seq, due, ordered) in [(0, 1, 1), (1, 1, 2), (2, 5, 3), (3, 4, 3), (4, 9, 3)] {
            table.apply(Timestamp::MIN, Entry::Post(record(seq, due, "")));
            assert_eq!(table.ordered, ordered, "number {seq}");
        }
        table.order();
        assert_eq!(table.ordered, 5);
    }

    #[test]
    fn places_are_in_order_whatever_the_order_in_which_posts_came() {
        for dues in [vec![1, 2, 3, 4], vec![4, 3, 2, 1], vec![1, 3, 2, 4], vec![2, 2, 1, 1]] {
            let mut table = Memtable::default();
            for (seq, due) in (0..).zip(&dues) {
                table.apply(Timestamp::MIN, Entry::Post(record(seq, *due, "")));
            }
            let moved = record(0, 7, "");
            table.apply(Timestamp::MIN, Entry::Move { from: record(0, dues[0], "").home(), to: moved.clone() });
            // To where it is already: that is no other place.
            table.apply(Timestamp::MIN, Entry::Move { from: moved.home(), to: moved });
            table.order();
            assert!(table.places().is_sorted_by(|one, next| one < next), "{dues:?}");
            assert_eq!(table.places().len(), dues.len() + 1);
        }
    }

    #[test]
    fn more_that_went_than_came_is_noticed() {
        let mut tallies = Tallies::default();
        assert!(tallies.subtract(PoolId(0), 1, 0));
        assert!(!tallies.subtract(PoolId(0), 1, 1));
        tallies.add(PoolId(0), 1, 3);
        assert!(tallies.subtract(PoolId(0), 1, 2) && tallies.is_live(PoolId(0), 1));
        assert!(tallies.subtract(PoolId(0), 1, 1) && !tallies.is_live(PoolId(0), 1));
        assert!(!tallies.subtract(PoolId(0), 1, 1));
    }
}
