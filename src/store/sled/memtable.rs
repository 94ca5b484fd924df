//! What the journals hold, in memory: one table for each generation that has not been sorted yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use crate::id::{PoolId, Seq};
use crate::post::{Body, Cursor, Home, Record};
use crate::time::Timestamp;

use super::catalog::Through;
use super::journal::Entry;
use super::state::{Mark, What, day};

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
    pub posts: FxHashMap<Seq, Record>,
    /// The last thing that happened to a post at its present home.
    pub marks: FxHashMap<Seq, Mark>,
    /// Homes in older generations that posts left for one in this one.
    pub moved: FxHashMap<Seq, Home>,
    /// Posts by the hash of their key, the last one of each.
    pub keys: FxHashMap<u64, Seq>,
    /// Posts whose place in `keys` was taken by another.
    pub more_keys: Vec<(u64, Seq)>,
    /// Homes of the posts, and some that they have left again; the first ones are in order.
    places: Vec<Place>,
    ordered: usize,
    /// The days that are touched.
    pub days: BTreeSet<u32>,
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

    /// Whether a claim is open in it, as far as it knows.
    pub fn has_claims(&self) -> bool {
        self.marks.values().any(|mark| matches!(mark.what, What::Claimed { .. }))
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

    /// Records a change.
    pub fn apply(&mut self, now: Timestamp, entry: Entry) {
        match entry {
            Entry::Post(record) => self.put(record),
            Entry::Claim { home, attempt } => self.mark(home, What::Claimed { attempt }),
            Entry::Release { home } => self.mark(home, What::Released),
            Entry::Settle { home, attempts, outcome } => self.mark(home, What::settled(attempts, now, outcome)),
            Entry::Move { from, to } => {
                // A version of this generation is replaced, and its home vanishes with it.
                if !self.posts.contains_key(&from.seq) {
                    self.days.insert(day(from.at));
                    self.moved.insert(from.seq, from);
                }
                self.marks.remove(&from.seq);
                self.put(to);
            }
        }
    }

    fn put(&mut self, record: Record) {
        let place = Place::new(record.home());
        if !self.days.contains(&place.day) {
            self.days.insert(place.day);
        }
        if self.ordered == self.places.len() && self.places.last().is_none_or(|last| *last < place) {
            self.ordered += 1;
        }
        self.places.push(place);
        self.bytes += POST_BYTES + record.body.len();
        if let Some(key) = record.body.key() {
            let hash = Body::key_hash(key);
            if let Some(other) = self.keys.insert(hash, record.seq).filter(|other| *other != record.seq) {
                self.more_keys.push((hash, other));
            }
        }
        self.posts.insert(record.seq, record);
    }

    fn mark(&mut self, home: Home, what: What) {
        let mark = Mark::new(home, what);
        let day = mark.day;
        if self.marks.insert(home.seq, mark).is_none() && !self.days.contains(&day) {
            self.days.insert(day);
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
    /// The last time at which a post of the day ended or left.
    ended: BTreeMap<u32, Timestamp>,
}

impl Tallies {
    pub fn apply(&mut self, now: Timestamp, entry: &Entry) {
        match entry {
            Entry::Post(record) => self.add(record.pool, day(record.at), 1),
            Entry::Claim { .. } | Entry::Release { .. } => {}
            Entry::Settle { home, .. } => self.end(*home, now),
            Entry::Move { from, to } => {
                self.end(*from, now);
                self.add(to.pool, day(to.at), 1);
            }
        }
    }

    pub fn add(&mut self, pool: PoolId, day: u32, posts: u64) {
        if posts > 0 {
            *self.live.entry((pool, day)).or_default() += posts;
        }
    }

    fn end(&mut self, home: Home, now: Timestamp) {
        let day = day(home.at);
        self.subtract(home.pool, day, 1);
        self.ended_at(day, now);
    }

    /// False if there were not as many.
    pub fn subtract(&mut self, pool: PoolId, day: u32, posts: u64) -> bool {
        let Some(live) = self.live.get_mut(&(pool, day)) else { return posts == 0 };
        let enough = *live >= posts;
        *live = live.saturating_sub(posts);
        if *live == 0 {
            self.live.remove(&(pool, day));
        }
        enough
    }

    pub fn ended_at(&mut self, day: u32, now: Timestamp) {
        let ended = self.ended.entry(day).or_insert(now);
        *ended = now.max(*ended);
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

    /// A day without live posts in which nothing ended since `before`.
    pub fn over(&self, before: Timestamp) -> Option<u32> {
        let mut over = self.ended.iter().filter(|(_, ended)| **ended < before).map(|(day, _)| *day).peekable();
        over.peek()?;
        let live: BTreeSet<u32> = self.live.keys().map(|(_, day)| *day).collect();
        over.find(|day| !live.contains(day))
    }

    pub fn forget(&mut self, day: u32) {
        self.ended.remove(&day);
    }
}
