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

mod campaigns;
mod changes;
mod commands;
mod commits;
mod doubt;
mod holds;
mod late;
mod lifecycle;
mod message;
mod order;
mod plan;
mod prepare;
mod queues;
mod series;
mod settle;
mod shelves;
mod site;
mod watch;
mod window;
mod zones;

#[cfg(test)]
mod calendar_tests;
#[cfg(test)]
mod changes_tests;
#[cfg(test)]
mod delivery_tests;
#[cfg(test)]
mod late_tests;
#[cfg(test)]
mod pools_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

use crate::catch_up::CatchUp;
use crate::error::{Error, StoreError};
use crate::gate::Gate;
use crate::id::{PoolId, PostId, Seq, SeqMap};
use crate::limits;
use crate::marks::{self, Mark};
use crate::post::{
    Change, Delivery, Doubt, Event, Facts, Guarantee, Noted, Outcome, Receipt, Record, Shelf, Stage, Task,
};
use crate::reply::Promise;
use crate::retry::RetryPolicy;
use crate::sabotage::{self, Switch};
use crate::time::{Now, Timestamp, Wake};
use crate::wheel::{Handle, Wheel};

use changes::SoughtChanges;
use commands::Search;
use commits::{Commits, Then};
use lifecycle::{Happening, Phase};
pub use message::{Answer, Attempt, Command, Effect, NewPost, Report, Request, SchedulePromise, Sought, Weight, Wish};
pub use plan::{plan, plan_due};
pub use queues::QueueWish;
pub use series::SeriesWish;
use shelves::Listing;
use site::{Hold, Site};
use watch::Watch;

/// How the engine is set up; checked by the builder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's identity.
    pub store: u64,
    /// The first number to give to a post.
    pub next_seq: Seq,
    /// The latest time at which an earlier process committed anything.
    pub last_commit_at: Timestamp,
    /// What the store remembers besides posts.
    pub remembered: Vec<(Bytes, Bytes)>,
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
    /// Which release of the zone data local times are derived by.
    pub zones: &'static str,
    /// How long dead letters are kept.
    pub dead_letter_retention: Duration,
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
    pub guarantee: Guarantee,
    pub catch_up: CatchUp,
    /// What it may do now; its shards ask it too.
    pub gate: Gate,
    /// Whether the gate counts anything.
    pub is_limited: bool,
    /// Whether it shares an account with others.
    pub has_accounts: bool,
    pub prepare: Option<PrepareSettings>,
}

/// How a pool prepares its posts.
#[derive(Clone, Debug)]
pub struct PrepareSettings {
    /// The shard that prepares.
    pub shard: usize,
    pub lead: Duration,
    pub retry: RetryPolicy,
    /// What cannot be prepared is a dead letter.
    pub or_fail: bool,
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
    /// When the next attempt is made: as the record says, or later.
    ready_at: Timestamp,
    /// Whether it has been seen to that it keeps its distance while its pool catches up.
    placing: late::Placing,
    prepare: prepare::Prepare,
    /// Whether it goes in order with others of its profile.
    in_order: bool,
    /// How many parts it has; kept here as well because the body is far away.
    parts: u16,
    /// Made when it was claimed, so that at its due there is little left to do.
    ready: Option<Delivery>,
    /// What was handed over and has not ended.
    delivery: Option<Delivery>,
    /// Its shard gave it back because of a limit.
    is_returned: bool,
}

/// The life of all posts.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    places: Places,
    posts: Slab<Resident>,
    by_seq: SeqMap<u32>,
    wheel: Wheel<u32>,
    /// What there is of each pool, by its place.
    sites: Vec<Site>,
    series: BTreeMap<Box<str>, series::Managed>,
    campaigns: campaigns::Campaigns,
    /// Pools whose local times are still to be derived again.
    rezoning: usize,
    /// What else has to be looked at, and when.
    agenda: BTreeSet<(Timestamp, Item)>,
    /// Posts, by slot and number, that are to be looked at anew.
    woken: Vec<(u32, Seq)>,
    commits: Commits,
    /// Whether the store answers.
    store_watch: Watch,
    searches: Slab<Search>,
    /// Those of them that are changes.
    sought_changes: SoughtChanges,
    listings: Slab<Listing>,
    waiters: SeqMap<Vec<Promise<Outcome>>>,
    /// Parts that were published, as late answers have said of posts that are being called again for them: that call has to
    /// end before the next one is made.
    late_receipts: SeqMap<(usize, Receipt)>,
    outgoing: Vec<Vec<Delivery>>,
    /// How much each shard was given, and until when all that waits in it is blocked, as it said since.
    given: Vec<(u64, Option<Timestamp>)>,
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
    /// When old dead letters are looked for.
    bury_at: Duration,
    stalled: bool,
    failed: Option<StoreError>,
    settling: Vec<Promise<()>>,
    closing: Option<Closing>,
}

/// What has a time of its own beside posts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Item {
    /// The queue of a profile, by the place of its pool.
    Queue(usize, Box<str>),
    /// The series of this key.
    Series(Box<str>),
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
    stopped: bool,
}

impl Engine {
    /// An engine at this time, whose store holds what it holds.
    pub fn new(settings: Settings, now: Now) -> Self {
        let preparing = |pool: &PoolSettings| pool.prepare.as_ref().map_or(0, |prepare| prepare.shard + 1);
        let last = |pool: &PoolSettings| (pool.first_shard + pool.shards).max(preparing(pool));
        let shards = settings.pools.iter().map(last).max().unwrap_or(0);
        let mut engine = Self {
            places: Places::of(&settings.pools),
            posts: Slab::new(),
            by_seq: SeqMap::default(),
            wheel: Wheel::new(tick(now.wall)),
            sites: settings.pools.iter().map(|pool| Site::new(pool, settings.last_commit_at, now.wall)).collect(),
            series: BTreeMap::new(),
            campaigns: campaigns::Campaigns::default(),
            rezoning: 0,
            agenda: BTreeSet::new(),
            woken: Vec::new(),
            commits: Commits::default(),
            store_watch: Watch::default(),
            searches: Slab::new(),
            sought_changes: SoughtChanges::default(),
            listings: Slab::new(),
            waiters: SeqMap::default(),
            late_receipts: SeqMap::default(),
            outgoing: (0..shards).map(|_| Vec::new()).collect(),
            given: vec![(0, None); shards],
            effects: VecDeque::new(),
            next_seq: settings.next_seq,
            born: now.wall,
            now,
            watched: false,
            overflowing: false,
            tidy: Tidy::At(now.mono + TIDY_EVERY),
            bury_at: now.mono + TIDY_EVERY,
            stalled: false,
            failed: None,
            settling: Vec::new(),
            closing: None,
            settings,
        };
        let mut knows_zones = engine.settings.zones.is_empty();
        for (key, value) in std::mem::take(&mut engine.settings.remembered) {
            knows_zones |= zones::is_key(&key);
            engine.remember(&key, &value);
        }
        engine.take_up_queues();
        engine.check_zones(knows_zones);
        engine
    }

    /// Whether events are worth making.
    pub fn watch(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Whether the engine takes commands now. If not, they wait where they are: too many posts are on the way
    /// to the store.
    pub fn takes_commands(&self) -> bool {
        let is_loaded = self.commits.is_full()
            || self.searches.len() >= limits::SEARCHES
            || self.listings.len() >= limits::LISTINGS;
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
            self.follow_agenda();
            self.wake();
            self.turn_wheel();
            self.load_windows();
            self.catch_up();
            self.wake();
            self.watch_store();
        }
        self.close();
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.next_effect();
        if let Some(Effect::Ask(_)) = &effect {
            self.store_watch.asked(self.now.machine);
        }
        effect
    }

    fn next_effect(&mut self) -> Option<Effect> {
        // Deliveries first: whatever is asked of a shard is asked after them.
        if let Some(shard) = self.outgoing.iter().position(|deliveries| !deliveries.is_empty()) {
            let deliveries = std::mem::take(self.outgoing.get_mut(shard)?);
            self.give(shard, deliveries.len());
            return Some(Effect::Deliver { shard, deliveries });
        }
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        if self.failed.is_none()
            && let Some((mut changes, tallies)) = self.commits.send()
        {
            changes.extend(self.campaigns.count(tallies));
            return Some(Effect::Ask(Request::Commit { now: self.now.wall, changes }));
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
        let now = (self.overflowing || !self.woken.is_empty()).then_some(self.now.wall);
        let timers = Wake {
            wall: now.or_else(|| {
                let agenda = self.agenda.first().map(|(at, _)| *at);
                self.wheel.next_wake().map(instant).into_iter().chain(agenda).min()
            }),
            mono: match (&self.tidy, &self.closing) {
                (_, Some(_)) => deadline,
                (Tidy::At(at), None) if self.commits.is_empty() => Some(*at),
                (_, None) => None,
            },
        };
        let stall = self.store_watch.working_since().filter(|_| !self.stalled).map(|since| {
            let stalled = self.now.machine.saturating_sub(since);
            self.now.mono + self.settings.stall_after.saturating_sub(stalled)
        });
        timers.or(Wake { wall: self.next_load(), mono: stall })
    }

    /// Takes notice of the time, and of a wall clock that has stepped. Forward, what became due is due; back,
    /// the wheel goes back with it: what has been handed over stays handed over, what has not waits again.
    fn observe(&mut self, mut now: Now) {
        if sabotage::is(Switch::MonoDue) {
            now.wall = self.now.wall.after(now.mono.saturating_sub(self.now.mono));
        }
        let passed = micros(now.mono) - micros(self.now.mono);
        let by = now.wall.micros().saturating_sub(self.now.wall.micros()).saturating_sub(passed);
        if by.unsigned_abs() > STEP.as_micros() as u64 {
            self.emit(|| Event::ClockStepped { by_micros: by });
        }
        if by > STEP.as_micros() as i64 {
            self.sites.iter_mut().for_each(|site| site.awake_since = now.wall);
        }
        if tick(now.wall) < self.wheel.now() {
            marks::reach(Mark::Rewound);
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

    /// Looks at what has a time of its own.
    fn follow_agenda(&mut self) {
        if self.closing.is_some() {
            return self.agenda.clear();
        }
        // What comes in meanwhile waits for the next turn.
        let later = self.agenda.split_off(&(self.now.wall.after(Duration::from_micros(1)), Item::Queue(0, "".into())));
        for (_, item) in std::mem::replace(&mut self.agenda, later) {
            match item {
                Item::Queue(place, profile) => self.follow_queue(place, &profile),
                Item::Series(key) => self.follow_series(&key),
            }
        }
    }

    /// Looks anew at posts whose obstacle is gone.
    fn wake(&mut self) {
        for (slot, seq) in std::mem::take(&mut self.woken) {
            let waits = |post: &Resident| post.record.seq == seq && post.phase == Phase::Armed && post.timer.is_none();
            if self.posts.get(slot as usize).is_some_and(waits) {
                self.proceed(slot);
            }
        }
    }

    /// Does what is next for an armed or claimed post: now, or through the wheel when it is time.
    fn proceed(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        if self.closing.is_some() {
            return self.release(slot);
        }
        if matches!(post.phase, Phase::Armed | Phase::Claimed) && self.is_called_off(&post.record) {
            match post.record.doubt {
                Doubt::None => return self.leave(slot, Outcome::Cancelled, None, None),
                // It may have been published: it is not sent again, and the host has to say what is true.
                Doubt::Open => {
                    let reason = post.record.notes.reason().unwrap_or_default().to_owned();
                    return self.shelve(slot, Shelf::InDoubt, reason, None);
                }
                // The host wants it to be sent.
                Doubt::Accepted => {}
            }
        }
        match post.phase {
            Phase::Armed => self.arm(slot),
            Phase::Claimed if Self::hand_over_at(post) > self.now.wall => {
                self.wait_until(slot, Self::hand_over_at(post));
                self.make_ready(slot);
            }
            Phase::Claimed if self.is_held_up(slot) || !self.is_first(slot) => {
                marks::reach(Mark::ClaimReleasedAtDue);
                self.unclaim(slot);
            }
            Phase::Claimed => self.hand_over(slot),
            Phase::Preparing => self.is_due_unprepared(slot),
            _ => {}
        }
    }

    /// When a claimed post is handed to its shard: a little ahead, but for one that another may have to go before.
    fn hand_over_at(post: &Resident) -> Timestamp {
        if post.in_order { post.ready_at } else { post.ready_at.before(limits::HAND_OVER_AHEAD) }
    }

    /// Prepares, claims or holds up an armed post, when it is time.
    fn arm(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        if let Some(at) = self.prepares_at(post) {
            if at > self.now.wall {
                self.wait_until(slot, at)
            } else {
                self.prepare(slot)
            }
            return;
        }
        let (claim_at, now) = (post.ready_at.before(self.settings.claim_ahead), self.now.wall);
        if claim_at > now {
            // One that had to step back may be too late before its turn comes.
            let deadline = self.deadline(post).filter(|deadline| *deadline < claim_at);
            match deadline.map(|deadline| deadline.after(Duration::from_millis(1))) {
                Some(over) if over <= now => {
                    marks::reach(Mark::MissedAhead);
                    self.miss(slot, now);
                }
                over => self.wait_until(slot, over.unwrap_or(claim_at)),
            }
        } else if self.is_cut_off(slot) {
            // It comes again, after those before it.
            marks::reach(Mark::CutOff);
            self.forget(slot);
        } else if self.is_ahead(slot) {
            self.go_to_due(slot);
        } else if !self.hold_up(slot) && self.place(slot) && self.is_first(slot) {
            let at = self.posts.get(slot as usize).map_or(now, |post| post.ready_at.max(now));
            let is_over = |post: &Resident| self.deadline(post).is_some_and(|deadline| deadline < at);
            if self.posts.get(slot as usize).is_some_and(is_over) { self.miss(slot, at) } else { self.claim(slot) }
        }
    }

    fn wait_until(&mut self, slot: u32, at: Timestamp) {
        let timer = self.wheel.insert(tick(at.ceil_millis()), slot);
        if let Some(post) = self.posts.get_mut(slot as usize)
            && let Some(before) = post.timer.replace(timer)
        {
            self.wheel.cancel(before);
        }
    }

    fn claim(&mut self, slot: u32) {
        if !self.step(slot, Happening::ClaimDue) {
            return;
        }
        if sabotage::is(Switch::ClaimNotDurable) {
            return self.commits.note(Then::Claimed { slot });
        }
        if let Some(post) = self.posts.get(slot as usize) {
            let claim = Change::Claim { home: post.record.home(), attempt: post.record.next_claim() };
            self.commits.add(claim, Some(Then::Claimed { slot }), 0);
        }
        if sabotage::is(Switch::ClaimAfterDispatch) && self.step(slot, Happening::ClaimStored) {
            self.proceed(slot);
        }
    }

    fn hand_over(&mut self, slot: u32) {
        if !self.step(slot, Happening::HandedOver) {
            return;
        }
        self.go_first(slot);
        if let Some(delivery) = self.take_ready(slot).or_else(|| self.deliver(slot, Task::Broadcast))
            && let Some((place, _)) = self.posts.get(slot as usize).and_then(|post| self.pool(post.record.pool))
            && let Some(post) = self.posts.get_mut(slot as usize)
        {
            let shard = self.settings.shard(place, &post.record);
            post.delivery = Some(delivery.clone());
            if let Some(outgoing) = self.outgoing.get_mut(shard) {
                outgoing.push(delivery);
            }
        }
    }

    /// Makes the delivery of a claimed post ahead of its due.
    fn make_ready(&mut self, slot: u32) {
        let ready = self.deliver(slot, Task::Broadcast);
        if let Some(post) = self.posts.get_mut(slot as usize) {
            post.ready = ready;
        }
    }

    /// The delivery that was made ahead of the due, if it is as it would be now.
    fn take_ready(&mut self, slot: u32) -> Option<Delivery> {
        let post = self.posts.get_mut(slot as usize)?;
        let ready = post.ready.take()?;
        let facts = ready.facts();
        let is_good = facts.notes.prepared().is_none_or(|prepared| prepared.valid_until >= self.now.wall);
        let is_same = facts.at == post.ready_at && is_good;
        if !is_same {
            marks::reach(Mark::ReadyOutdated);
        }
        is_same.then_some(ready)
    }

    /// A delivery of this post.
    fn deliver(&self, slot: u32, task: Task) -> Option<Delivery> {
        let Resident { record, ready_at, prepare, .. } = self.posts.get(slot as usize)?;
        let (_, pool) = self.pool(record.pool)?;
        let deadline = pool.deadline(record);
        let is_early = sabotage::is(Switch::OneMsEarly);
        let ready_at = if is_early { ready_at.before(Duration::from_millis(1)) } else { *ready_at };
        let mut notes = record.notes.clone();
        if notes.prepared().is_some_and(|ready| ready.valid_until < self.now.wall) && task == Task::Broadcast {
            notes.edit(|noted| noted.prepared = None);
        }
        // What may be published already is not missed before it has been asked about.
        let is_open = record.doubt == Doubt::Open;
        Some(Delivery::new(Facts {
            id: PostId::new(self.settings.store, record.seq),
            slot,
            pool: Arc::clone(&pool.name),
            task,
            due: record.due,
            at: if task == Task::Broadcast { ready_at } else { Timestamp::MIN },
            since: record.ready_at(),
            deadline: deadline.filter(|_| !is_open && task == Task::Broadcast),
            last: deadline,
            attempt: if task == Task::Broadcast { record.attempts + 1 } else { prepare.tries() },
            claim: record.next_claim(),
            is_allowed: record.attempts < pool.retry(record).attempts(),
            doubt: record.doubt,
            guarantee: record.body.guarantee().unwrap_or(pool.guarantee),
            notes,
            body: record.body.clone(),
            stage: Stage::default(),
        }))
    }

    /// Takes back what was handed over, if the broadcaster has not been called.
    fn withdraw(&mut self, slot: u32) -> bool {
        let Some(post) = self.posts.get_mut(slot as usize).filter(|post| post.phase == Phase::InFlight) else {
            return false;
        };
        if post.delivery.take_if(|delivery| delivery.facts().stage.withdraw()).is_none() {
            return false;
        }
        marks::reach(Mark::Withdrawn);
        self.step(slot, Happening::Withdrawn)
    }

    /// Takes a claim back: the attempt was not made, and waits.
    fn unclaim(&mut self, slot: u32) {
        if !self.step(slot, Happening::Released) {
            return;
        }
        if let Some(post) = self.posts.get_mut(slot as usize) {
            post.ready = None;
        }
        self.stand_back(slot);
        if let Some(post) = self.posts.get(slot as usize) {
            self.commits.add(Change::Release { home: post.record.home() }, None, 0);
        }
        self.proceed(slot);
    }

    /// Leaves a post to the store, at the end of a shutdown's intake.
    fn release(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        if post.phase == Phase::Claimed {
            marks::reach(Mark::ClaimReleasedAtClose);
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
        if let Some(site) = self.sites.get_mut(place) {
            site.window.bytes += weight(&record);
        }
        let (seq, ready_at) = (record.seq, record.ready_at());
        let prepare = prepare::Prepare::of(&record);
        let post = Resident {
            in_order: record.body.in_order(),
            parts: record.body.parts() as u16,
            ready: None,
            record,
            phase,
            timer: None,
            moves: 0,
            ready_at,
            placing: late::Placing::Open,
            prepare,
            delivery: None,
            is_returned: false,
        };
        let slot = self.posts.insert(post) as u32;
        self.by_seq.insert(seq, slot);
        self.line_up(slot);
        slot
    }

    /// Gives a resident post another record.
    fn replace(&mut self, slot: u32, record: Record) {
        self.stand_out(slot);
        let Some(post) = self.posts.get_mut(slot as usize) else { return };
        let (before, after) = (weight(&post.record), weight(&record));
        post.prepare = prepare::Prepare::of(&record);
        (post.ready_at, post.placing, post.is_returned) = (record.ready_at(), late::Placing::Open, false);
        (post.in_order, post.parts, post.ready) = (record.body.in_order(), record.body.parts() as u16, None);
        post.record = record;
        let place = self.places.get(post.record.pool);
        if let Some(site) = place.and_then(|place| self.sites.get_mut(place)) {
            site.window.bytes = (site.window.bytes + after).saturating_sub(before);
        }
        self.line_up(slot);
    }

    /// Changes what is noted of a resident post.
    fn edit_notes(&mut self, slot: u32, change: impl FnOnce(&mut Noted)) {
        let Some(post) = self.posts.get_mut(slot as usize) else { return };
        let before = weight(&post.record);
        post.ready = None;
        post.record.notes.edit(change);
        let after = weight(&post.record);
        let place = self.places.get(post.record.pool);
        if let Some(site) = place.and_then(|place| self.sites.get_mut(place)) {
            site.window.bytes = (site.window.bytes + after).saturating_sub(before);
        }
    }

    /// Drops a post from memory; the store has it, or has its outcome.
    fn forget(&mut self, slot: u32) {
        self.stand_out(slot);
        let Some(post) = self.posts.try_remove(slot as usize) else { return };
        if let Some(timer) = post.timer {
            self.wheel.cancel(timer);
        }
        self.by_seq.remove(&post.record.seq);
        self.late_receipts.remove(&post.record.seq);
        let site = self.places.get(post.record.pool).and_then(|place| self.sites.get_mut(place));
        if let Some(site) = site {
            site.window.bytes = site.window.bytes.saturating_sub(weight(&post.record));
        }
    }

    /// A pool and its place in the settings.
    fn pool(&self, id: PoolId) -> Option<(usize, &PoolSettings)> {
        let place = self.places.get(id)?;
        Some((place, self.settings.pools.get(place)?))
    }

    fn emit(&mut self, event: impl FnOnce() -> Event) {
        if self.watched {
            self.effects.push_back(Effect::Emit(event()));
        }
    }

    /// Notices a store that does not answer, and asks for housekeeping when there is time for it.
    fn watch_store(&mut self) {
        let working = self.store_watch.working_since().map(|since| self.now.machine.saturating_sub(since));
        if let Some(stalled) = working.filter(|stalled| !self.stalled && *stalled >= self.settings.stall_after) {
            marks::reach(Mark::Stalled);
            self.stalled = true;
            self.emit(|| Event::StoreStalled { stalled });
            self.refuse_pending(&Error::StoreStalled { stalled });
            self.refuse_searches(&Error::StoreStalled { stalled });
        }
        if let Tidy::At(at) = self.tidy
            && self.now.mono >= if self.commits.is_empty() { at } else { at + TIDY_AT_LAST }
            && self.closing.is_none()
        {
            self.tidy = Tidy::Asked;
            let retention = self.settings.retention;
            self.effects.push_back(Effect::Ask(Request::Tidy { now: self.now.wall, retention }));
            self.bury_old();
        }
    }

    /// Answers everyone who waits for a commit.
    fn refuse_pending(&mut self, error: &Error) {
        self.refuse_queues(error);
        self.refuse_series(error);
        for then in self.commits.pending().flatten() {
            match then {
                Then::Scheduled { promise, .. } => {
                    // The post itself stays on its way; only the answer is given early.
                    let (unheard, _) = Promise::new();
                    std::mem::replace(promise, SchedulePromise::One(unheard)).fulfil(Err(error.clone()));
                }
                Then::Series(step) => {
                    if let Some(promise) = step.promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Queue(step) => {
                    if let Some(promise) = step.promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Enqueued(enqueued) => {
                    let (unheard, _) = Promise::new();
                    std::mem::replace(&mut enqueued.1.promise, SchedulePromise::One(unheard))
                        .fulfil(Err(error.clone()));
                }
                Then::Left { promise, .. } => {
                    if let Some(promise) = promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Moved { why: commits::Why::Changed { promise, .. }, .. } | Then::Noted { promise, .. } => {
                    if let Some(promise) = promise.take() {
                        promise.fulfil(Err(error.clone()));
                    }
                }
                Then::Moved { .. }
                | Then::Claimed { .. }
                | Then::Occurrences(_)
                | Then::Shelved { .. }
                | Then::Released { .. } => {}
            }
        }
    }

    /// The store is lost: nothing more is sent, everyone who waits is told.
    fn fail(&mut self, error: StoreError) {
        if self.failed.is_some() {
            return;
        }
        self.emit(|| Event::StoreFailed { reason: error.to_string() });
        marks::reach(Mark::Failed);
        let told = Error::Store(error.clone());
        self.failed = Some(error);
        self.outgoing.iter_mut().for_each(Vec::clear);
        for delivery in self.posts.iter_mut().filter_map(|(_, post)| post.delivery.take()) {
            delivery.facts().stage.withdraw();
        }
        self.refuse_pending(&told);
        self.commits = Commits::default();
        for search in self.searches.drain() {
            search.refuse(&told);
        }
        for listing in self.listings.drain() {
            listing.refuse(&told);
        }
        self.refuse_queues(&told);
        self.refuse_series(&told);
        let holds = self.sites.iter_mut().flat_map(|site| site.held.values_mut());
        for promise in holds.flat_map(Hold::take_promises) {
            promise.fulfil(Err(told.clone()));
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
            && self.listings.is_empty()
            && self.woken.is_empty()
            && self.agenda.first().is_none_or(|(at, _)| *at > self.now.wall)
            && self.sites.iter().all(|site| site.window.is_passed(self.now.wall) && site.late.is_empty())
            && self.wheel.next_wake().is_none_or(|at| instant(at) > self.now.wall)
            && !self.posts.iter().any(|(_, post)| post.phase.is_busy() && !self.is_blocked(post))
    }

    /// Whether this post waits in its shard for something that comes with time.
    fn is_blocked(&self, post: &Resident) -> bool {
        let is_waiting = |delivery: &Delivery| delivery.facts().stage.is_waiting();
        let Some((place, _)) = self.pool(post.record.pool).filter(|_| post.delivery.as_ref().is_some_and(is_waiting))
        else {
            return false;
        };
        let shard = self.settings.shard(place, &post.record);
        let until = self.given.get(shard).and_then(|(_, until)| *until);
        post.phase == Phase::InFlight && until.is_some_and(|until| until > self.now.wall)
    }

    /// The shard gets this many things: what it said of being blocked does not hold any more.
    fn give(&mut self, shard: usize, things: usize) {
        if let Some((given, blocked)) = self.given.get_mut(shard) {
            (*given, *blocked) = (*given + things as u64, None);
        }
    }

    /// Moves a shutdown forward.
    fn close(&mut self) {
        let Some(closing) = self.closing.as_mut().filter(|closing| !closing.stopped) else { return };
        let flying = self.posts.iter().any(|(_, post)| post.phase == Phase::InFlight);
        let hangs = self.stalled && self.now.mono >= closing.deadline;
        let is_idle = self.commits.is_empty() && self.store_watch.working_since().is_none();
        let flushed = is_idle || self.failed.is_some() || hangs;
        let waited = self.now.mono >= closing.deadline || self.failed.is_some();
        // Past the deadline what is in flight is left behind: its claim is durable, the next start knows it.
        if flushed && (waited || !flying) {
            if flying {
                marks::reach(Mark::LeftFlying);
            }
            closing.stopped = true;
            let promise = closing.promise.take();
            self.effects.push_back(Effect::Stop { promise, hangs });
        }
    }
}

/// Where a pool is in the settings, by its number in the store.
#[derive(Debug)]
struct Places(Vec<Option<usize>>);

impl Places {
    fn of(pools: &[PoolSettings]) -> Self {
        let numbers = pools.iter().map(|pool| usize::from(pool.id.0) + 1).max().unwrap_or(0);
        let mut places = vec![None; numbers];
        for (place, pool) in pools.iter().enumerate() {
            if let Some(at) = places.get_mut(usize::from(pool.id.0)) {
                *at = Some(place);
            }
        }
        Self(places)
    }

    fn get(&self, pool: PoolId) -> Option<usize> {
        self.0.get(usize::from(pool.0)).copied().flatten()
    }
}

impl PoolSettings {
    /// When this post is tried again.
    fn retry(&self, record: &Record) -> RetryPolicy {
        record.body.retry().unwrap_or(self.retry)
    }

    /// The last instant at which this post may be sent. A thread that has begun goes on.
    fn deadline(&self, record: &Record) -> Option<Timestamp> {
        self.deadline_if(record, record.attempts > 0 || record.notes.calls() > 0)
    }

    /// The same, if it was called before, or was not: only its first call can be too late for its pool.
    fn deadline_if(&self, record: &Record, was_called: bool) -> Option<Timestamp> {
        if !record.notes.receipts().is_empty() {
            return None;
        }
        let own = record.body.deadline(record.due);
        let misfire = self.catch_up.deadline(record.due).filter(|_| !was_called);
        own.into_iter().chain(misfire).min()
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
    record.body.len() + record.notes.len() + RESIDENT_BYTES
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
