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
mod claims;
mod closing;
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
mod settings;
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
use std::time::Duration;

use slab::Slab;

use crate::error::StoreError;
use crate::id::{PoolId, Seq, SeqMap};
use crate::limits;
use crate::marks::{self, Mark};
use crate::post::{Delivery, Doubt, Event, Noted, Outcome, Receipt, Record, Shelf};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};
use crate::time::{Now, Timestamp, Wake};
use crate::wheel::{Handle, Wheel};

use changes::SoughtChanges;
use closing::Closing;
use commands::Search;
use commits::Commits;
use lifecycle::{Happening, Phase};
pub use message::{Answer, Attempt, Command, Effect, NewPost, Report, Request, SchedulePromise, Sought, Weight, Wish};
pub use plan::{plan, plan_due};
pub use queues::QueueWish;
pub use series::SeriesWish;
use settings::Places;
pub use settings::{PoolSettings, PrepareSettings, Settings};
use shelves::Listing;
use site::Site;
use watch::{TIDY_EVERY, Tidy, Watch};

/// A wall clock that moves this much more or less than the monotonic one has stepped.
const STEP: Duration = Duration::from_millis(50);
/// Entries taken from the wheel in one go.
const CHUNK: usize = 4_096;
/// Entries taken from the wheel in one turn; the rest waits for the next turn, so that nothing else starves.
const TURN: usize = 4 * CHUNK;

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

    /// The shard gets this many things: what it said of being blocked does not hold any more.
    fn give(&mut self, shard: usize, things: usize) {
        if let Some((given, blocked)) = self.given.get_mut(shard) {
            (*given, *blocked) = (*given + things as u64, None);
        }
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
