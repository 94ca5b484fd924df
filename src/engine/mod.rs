//! The life of a post. Pure: time and messages come in, effects go out; no clock, thread, file or chance.
//!
//! Drive it so: call any `handle_*` with a time that its clock shows now, then [`Engine::handle_timeout`], then
//! carry out every [`Engine::poll_effect`] in order until there is none, then come back when something arrives
//! or when [`Engine::poll_timeout`] says. Answers to the effects come back through `handle_answer` and
//! `handle_report`.
//!
//! Posts are in memory from the moment at which the window is loaded up to them ([`window`]) until their
//! outcome is durable. Whatever the engine wants to be durable is gathered in [`commits`]; what follows happens
//! when the store has answered.

mod commands;
mod commits;
mod lifecycle;
mod message;
mod plan;
mod settle;
mod window;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHasher;
use slab::Slab;

use crate::error::{Error, StoreError};
use crate::id::{PoolId, PostId, Seq};
use crate::limits;
use crate::post::{Change, Delivery, Event, Facts, Outcome, Record, Stage};
use crate::reply::Promise;
use crate::retry::RetryPolicy;
use crate::time::{Now, Timestamp, Wake};
use crate::wheel::{Handle, Wheel};

use commands::{Mutation, Search};
use commits::{Commits, Then};
use lifecycle::{Happening, Phase};
pub use message::{Answer, Attempt, Command, Effect, NewPost, Report, SchedulePromise, Sought, Weight};
pub use plan::{plan, plan_due};
use window::Window;

type Map<K, V> = HashMap<K, V, BuildHasherDefault<FxHasher>>;

/// How the engine is set up; checked by the builder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's identity.
    pub store: u64,
    /// The first number to give to a post.
    pub next_seq: Seq,
    /// The latest time at which an earlier process committed anything.
    pub last_commit_at: Timestamp,
    pub pools: Vec<PoolSettings>,
    /// How far ahead posts are loaded.
    pub horizon: Duration,
    /// How long before its due a post is claimed.
    pub claim_ahead: Duration,
    /// Bytes that each pool's posts may take in memory.
    pub memory: usize,
    /// A commit that takes longer than this stalls the scheduler.
    pub stall_after: Duration,
    /// How long finished posts are remembered.
    pub retention: Duration,
}

/// A pool as the engine sees it.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    pub id: PoolId,
    pub name: Arc<str>,
    /// Its shards are numbered from here, across all pools.
    pub first_shard: usize,
    pub shards: usize,
    pub retry: RetryPolicy,
}

/// A wall clock that moves this much more or less than the monotonic one has stepped.
const STEP: Duration = Duration::from_millis(50);
/// Entries taken from the wheel in one go.
const CHUNK: usize = 4_096;
/// Entries taken from the wheel in one turn; the rest waits for the next turn, so that nothing else starves.
const TURN: usize = 4 * CHUNK;
/// Housekeeping is asked for this often.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// A store that is never idle is given housekeeping all the same after so long.
const TIDY_AT_LAST: Duration = Duration::from_secs(300);

/// A post in memory.
#[derive(Debug)]
struct Resident {
    record: Record,
    phase: Phase,
    timer: Option<Handle>,
    /// Moves on the way to the store.
    moves: u32,
}

/// The life of all posts.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    /// Where a pool is in the settings, by its number in the store.
    places: Map<PoolId, usize>,
    posts: Slab<Resident>,
    by_seq: Map<Seq, u32>,
    wheel: Wheel<u32>,
    windows: Vec<Window>,
    commits: Commits,
    searches: Slab<Search>,
    /// How many of them are changes to posts that are named by key.
    keyed_changes: usize,
    recalls: Map<PostId, Vec<Mutation>>,
    waiters: Map<Seq, Vec<Promise<Outcome>>>,
    outgoing: Vec<Vec<Delivery>>,
    effects: VecDeque<Effect>,
    next_seq: Seq,
    /// The wall clock when this engine was made: every earlier process had ended by then.
    born: Timestamp,
    now: Now,
    /// Whether anyone listens to events.
    watched: bool,
    /// More entries of the wheel are due than one turn takes.
    overflowing: bool,
    tidy: Tidy,
    stalled: bool,
    failed: Option<StoreError>,
    settling: Vec<Promise<()>>,
    closing: Option<Closing>,
}

/// When housekeeping is due.
#[derive(Debug)]
enum Tidy {
    At(Duration),
    Asked,
}

/// A shutdown under way.
#[derive(Debug)]
struct Closing {
    deadline: Duration,
    promise: Option<Promise<()>>,
    /// Shards that have not yet given back what they have not started.
    recalling: usize,
    stopped: bool,
}

impl Engine {
    /// An engine at this time, whose store holds what it holds.
    pub fn new(settings: Settings, now: Now) -> Self {
        let shards = settings.pools.iter().map(|pool| pool.shards).sum();
        Self {
            places: settings.pools.iter().enumerate().map(|(place, pool)| (pool.id, place)).collect(),
            posts: Slab::new(),
            by_seq: Map::default(),
            wheel: Wheel::new(tick(now.wall)),
            windows: settings.pools.iter().map(|_| Window::default()).collect(),
            commits: Commits::default(),
            searches: Slab::new(),
            keyed_changes: 0,
            recalls: Map::default(),
            waiters: Map::default(),
            outgoing: (0..shards).map(|_| Vec::new()).collect(),
            effects: VecDeque::new(),
            next_seq: settings.next_seq,
            born: now.wall,
            now,
            watched: false,
            overflowing: false,
            tidy: Tidy::At(now.mono + TIDY_EVERY),
            stalled: false,
            failed: None,
            settling: Vec::new(),
            closing: None,
            settings,
        }
    }

    /// Whether events are worth making.
    pub fn watch(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Whether the engine takes commands now. If not, they wait where they are: too many posts are on the way
    /// to the store.
    pub fn takes_commands(&self) -> bool {
        let is_loaded = self.commits.is_full() || self.searches.len() >= limits::SEARCHES;
        // Where they are only refused, there is no reason to let them wait.
        !is_loaded || self.stalled || self.failed.is_some() || self.closing.is_some()
    }

    /// Whether a shutdown is under way.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Lets time pass: everything that is due by `now` happens.
    pub fn handle_timeout(&mut self, now: Now) {
        self.observe(now);
        if self.failed.is_none() {
            self.turn_wheel();
            self.load_windows();
            self.watch_store();
        }
        self.close();
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        // Deliveries first: whatever is asked of a shard is asked after them.
        if let Some(shard) = self.outgoing.iter().position(|deliveries| !deliveries.is_empty()) {
            let deliveries = std::mem::take(self.outgoing.get_mut(shard)?);
            return Some(Effect::Deliver { shard, deliveries });
        }
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        if self.failed.is_none()
            && let Some(changes) = self.commits.send(self.now.machine)
        {
            return Some(Effect::Commit { now: self.now.wall, changes });
        }
        self.settle_quiet();
        None
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) if nothing else happens.
    pub fn poll_timeout(&mut self) -> Wake {
        if self.failed.is_some() {
            return Wake::default();
        }
        let deadline = self.closing.as_ref().map(|closing| closing.deadline).filter(|at| *at > self.now.mono);
        let now = self.overflowing.then_some(self.now.wall);
        let timers = Wake {
            wall: now.or_else(|| self.wheel.next_wake().map(instant)),
            mono: match (&self.tidy, &self.closing) {
                (_, Some(_)) => deadline,
                (Tidy::At(at), None) if self.commits.is_empty() => Some(*at),
                (_, None) => None,
            },
        };
        let stall = self.commits.working_since().filter(|_| !self.stalled).map(|since| {
            let stalled = self.now.machine.saturating_sub(since);
            self.now.mono + self.settings.stall_after.saturating_sub(stalled)
        });
        timers.or(Wake { wall: self.next_load(), mono: stall })
    }

    /// Takes notice of the time, and of a wall clock that has stepped. Forward, what became due is due; back,
    /// the wheel goes back with it: what has been handed over stays handed over, what has not waits again.
    fn observe(&mut self, now: Now) {
        let passed = micros(now.mono) - micros(self.now.mono);
        let by = now.wall.micros().saturating_sub(self.now.wall.micros()).saturating_sub(passed);
        if by.unsigned_abs() > STEP.as_micros() as u64 {
            self.emit(|| Event::ClockStepped { by_micros: by });
        }
        if tick(now.wall) < self.wheel.now() {
            self.wheel.rewind(tick(now.wall));
        }
        self.now = now;
    }

    /// Claims what comes close to its due, hands over what is due.
    fn turn_wheel(&mut self) {
        let mut surfaced = Vec::new();
        let (mut taken, mut done) = (0, false);
        while !done && taken < TURN {
            done = self.wheel.advance(tick(self.now.wall), CHUNK, &mut surfaced);
            taken += surfaced.len();
            for (_, slot) in surfaced.drain(..) {
                if let Some(post) = self.posts.get_mut(slot as usize) {
                    post.timer = None;
                    self.proceed(slot);
                }
            }
        }
        self.overflowing = !done;
    }

    /// Does what is next for an armed or claimed post: now, or through the wheel when it is time.
    fn proceed(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        if self.closing.is_some() {
            return self.release(slot);
        }
        let wake = match post.phase {
            Phase::Armed => post.record.at.before(self.settings.claim_ahead),
            Phase::Claimed => post.record.at,
            _ => return,
        };
        if wake > self.now.wall {
            let timer = self.wheel.insert(tick(wake.ceil_millis()), slot);
            if let Some(post) = self.posts.get_mut(slot as usize) {
                post.timer = Some(timer);
            }
        } else if post.phase == Phase::Armed {
            self.claim(slot);
        } else {
            self.hand_over(slot);
        }
    }

    fn claim(&mut self, slot: u32) {
        if !self.step(slot, Happening::ClaimDue) {
            return;
        }
        if let Some(post) = self.posts.get(slot as usize) {
            let claim = Change::Claim { home: post.record.home(), attempt: post.record.attempts + 1 };
            self.commits.add(claim, Some(Then::Claimed { slot }), 0);
        }
    }

    fn hand_over(&mut self, slot: u32) {
        if !self.step(slot, Happening::HandedOver) {
            return;
        }
        let Some(Resident { record, .. }) = self.posts.get(slot as usize) else { return };
        let Some((place, pool)) = self.pool(record.pool) else { return };
        let delivery = Delivery::new(Facts {
            id: PostId::new(self.settings.store, record.seq),
            slot,
            pool: Arc::clone(&pool.name),
            due: record.due,
            at: record.at,
            attempt: record.attempts + 1,
            maybe_sent: record.maybe_sent,
            body: record.body.clone(),
            stage: Stage::default(),
        });
        let shard = self.settings.shard(place, record);
        if let Some(outgoing) = self.outgoing.get_mut(shard) {
            outgoing.push(delivery);
        }
    }

    /// Takes a claim back, at the end of a shutdown's intake: the attempt was not made.
    fn release(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        // One that may have been sent before stays in doubt: its claim is all that says so.
        if post.phase == Phase::Claimed && !post.record.maybe_sent {
            let home = post.record.home();
            self.commits.add(Change::Release { home }, None, 0);
        }
        self.forget(slot);
    }

    /// Moves a post along the state table; false if that cannot happen to it.
    fn step(&mut self, slot: u32, happening: Happening) -> bool {
        let Some(post) = self.posts.get_mut(slot as usize) else { return false };
        match post.phase.next(happening) {
            Some(phase) => {
                post.phase = phase;
                if let Some(timer) = post.timer.take() {
                    self.wheel.cancel(timer);
                }
                true
            }
            None => false,
        }
    }

    /// Takes a post into memory.
    fn admit(&mut self, place: usize, record: Record, phase: Phase) -> u32 {
        if let Some(window) = self.windows.get_mut(place) {
            window.bytes += weight(&record);
        }
        let seq = record.seq;
        let slot = self.posts.insert(Resident { record, phase, timer: None, moves: 0 }) as u32;
        self.by_seq.insert(seq, slot);
        slot
    }

    /// Drops a post from memory; the store has it, or has its outcome.
    fn forget(&mut self, slot: u32) {
        let Some(post) = self.posts.try_remove(slot as usize) else { return };
        if let Some(timer) = post.timer {
            self.wheel.cancel(timer);
        }
        self.by_seq.remove(&post.record.seq);
        let window = self.places.get(&post.record.pool).and_then(|place| self.windows.get_mut(*place));
        if let Some(window) = window {
            window.bytes = window.bytes.saturating_sub(weight(&post.record));
        }
    }

    /// A pool and its place in the settings.
    fn pool(&self, id: PoolId) -> Option<(usize, &PoolSettings)> {
        let place = *self.places.get(&id)?;
        Some((place, self.settings.pools.get(place)?))
    }

    fn emit(&mut self, event: impl FnOnce() -> Event) {
        if self.watched {
            self.effects.push_back(Effect::Emit(event()));
        }
    }

    /// Notices a commit that does not come back, and asks for housekeeping when there is time for it.
    fn watch_store(&mut self) {
        let working = self.commits.working_since().map(|since| self.now.machine.saturating_sub(since));
        if let Some(stalled) = working.filter(|stalled| !self.stalled && *stalled >= self.settings.stall_after) {
            self.stalled = true;
            self.emit(|| Event::StoreStalled { stalled });
            self.refuse_pending(&Error::StoreStalled { stalled });
        }
        if let Tidy::At(at) = self.tidy
            && self.now.mono >= if self.commits.is_empty() { at } else { at + TIDY_AT_LAST }
            && self.closing.is_none()
        {
            self.tidy = Tidy::Asked;
            let retention = self.settings.retention;
            self.effects.push_back(Effect::Tidy { now: self.now.wall, retention });
        }
    }

    /// Answers everyone who waits for a commit.
    fn refuse_pending(&mut self, error: &Error) {
        for then in self.commits.pending().flatten() {
            match then {
                Then::Scheduled { promise, .. } => {
                    // The post itself stays on its way; only the answer is given early.
                    let (unheard, _) = Promise::new();
                    std::mem::replace(promise, SchedulePromise::One(unheard)).fulfil(Err(error.clone()));
                }
                Then::Left { promise, .. } => {
                    if let Some(promise) = promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Moved { why: commits::Why::Rescheduled(promise), .. } => {
                    let (unheard, _) = Promise::new();
                    std::mem::replace(promise, unheard).fulfil(Err(error.clone()));
                }
                Then::Moved { .. } | Then::Claimed { .. } => {}
            }
        }
    }

    /// The store is lost: nothing more is sent, everyone who waits is told.
    fn fail(&mut self, error: StoreError) {
        if self.failed.is_some() {
            return;
        }
        self.emit(|| Event::StoreFailed { reason: error.to_string() });
        let told = Error::Store(error.clone());
        self.failed = Some(error);
        self.outgoing.iter_mut().for_each(Vec::clear);
        self.effects.extend((0..self.outgoing.len()).map(|shard| Effect::RecallAll { shard }));
        self.refuse_pending(&told);
        self.commits = Commits::default();
        for search in self.searches.drain() {
            search.refuse(&told);
        }
        for mutation in self.recalls.drain().flat_map(|(_, mutations)| mutations) {
            mutation.refuse(told.clone());
        }
        for waiter in self.waiters.drain().flat_map(|(_, waiters)| waiters) {
            waiter.fulfil(Err(told.clone()));
        }
        for promise in self.settling.drain(..) {
            promise.fulfil(Err(told.clone()));
        }
    }

    /// Answers those who wait for quiet, if it is: nothing is due, queued, in flight or on the way to the store.
    fn settle_quiet(&mut self) {
        if self.settling.is_empty() || !self.is_quiet() {
            return;
        }
        for promise in self.settling.drain(..) {
            promise.fulfil(Ok(()));
        }
    }

    fn is_quiet(&mut self) -> bool {
        self.commits.is_empty()
            && self.searches.is_empty()
            && self.windows.iter().all(|window| window.is_passed(self.now.wall))
            && self.wheel.next_wake().is_none_or(|at| instant(at) > self.now.wall)
            && !self.posts.iter().any(|(_, post)| post.phase.is_busy())
    }

    /// Moves a shutdown forward.
    fn close(&mut self) {
        let Some(closing) = self.closing.as_mut().filter(|closing| !closing.stopped) else { return };
        let flying = self.posts.iter().any(|(_, post)| post.phase == Phase::InFlight);
        let hangs = self.stalled && self.now.mono >= closing.deadline;
        let flushed = self.commits.is_empty() || self.failed.is_some() || hangs;
        let waited = self.now.mono >= closing.deadline || self.failed.is_some();
        let recalled = closing.recalling == 0 || self.failed.is_some();
        // Past the deadline what is in flight is left behind: its claim is durable, the next start knows it.
        if flushed && recalled && (waited || !flying) {
            closing.stopped = true;
            let promise = closing.promise.take();
            self.effects.push_back(Effect::Stop { promise, hangs });
        }
    }
}

impl Settings {
    /// A profile always maps to the same shard; posts without one are spread.
    fn shard(&self, place: usize, record: &Record) -> usize {
        let Some(pool) = self.pools.get(place) else { return 0 };
        let number = match record.body.profile() {
            _ if pool.shards == 1 => 0,
            "" => record.seq.0,
            profile => xxhash_rust::xxh3::xxh3_64(profile.as_bytes()),
        };
        pool.first_shard + (number % pool.shards as u64) as usize
    }
}

/// What a resident post takes in memory beside its body: slot, timer, number, queue entries.
const RESIDENT_BYTES: usize = 320;

fn weight(record: &Record) -> usize {
    record.body.len() + RESIDENT_BYTES
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The wheel counts milliseconds. An instant is reached when its tick is: dues are whole milliseconds.
fn tick(at: Timestamp) -> u64 {
    u64::try_from(at.millis()).unwrap_or(0)
}

fn instant(tick: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(tick).unwrap_or(i64::MAX))
}
