//! The world: who does what next, when the clocks step, when the process dies.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::engine::{Command, NewPost, SchedulePromise, Weight, Wish};
use crate::error::{Error, Result};
use crate::id::{PoolId, PostId};
use crate::post::{Body, Cursor, Guarantee, Post, Status};
use crate::reply::{Promise, Reply};
use crate::store::MemoryStore;
use crate::store::backend::Backend;
use crate::time::{Now, Timestamp, Wake};

use super::network::Moods;
use super::oracle::Oracle;
use super::process::{Around, POOL, Process};
use super::{Broken, Report};

/// 2030-03-17T17:46:40Z.
const START: i64 = 1_900_000_000_000;
/// Retries and doubts of the last posts take their time.
const PATIENCE: Duration = Duration::from_secs(40 * 86_400);
/// Steps that may pass without the time passing: more of them is a loop.
const STEPS_AT_ONCE: u64 = 100_000;

/// No step passes more time than this.
const LONGEST: Duration = Duration::from_secs(3_600);
/// The wall clock is never further behind than this.
const BACK: Duration = Duration::from_secs(2 * 86_400);
/// Steps between two looks whether all is over.
const LOOK: u32 = 500;

/// What the host waits for.
enum Open {
    Scheduled { post: usize, key: Option<String>, reply: Reply<PostId> },
    Moved { post: usize, due: Timestamp, reply: Reply<()> },
    Cancelled { post: usize, reply: Reply<()> },
    Asked { post: usize, reply: Reply<Option<Status>> },
}

/// How often what happens, in hundred-thousandths of a step; which of them there are at all is drawn for each world.
#[derive(Default)]
struct Rates {
    crash: u32,
    stop: u32,
    fail: u32,
    stall: u32,
    forward: u32,
    back: u32,
    suspend: u32,
    /// Mean time between two wishes of the host, in milliseconds.
    wishes: u64,
    /// How far ahead dues are, at most, in milliseconds.
    ahead: u64,
}

impl Rates {
    fn draw(rng: &mut Xoshiro256PlusPlus) -> Self {
        let mut rate = |most: u32| if rng.random_bool(0.5) { rng.random_range(1..=most) } else { 0 };
        let mut rates = Self {
            crash: rate(2_000),
            stop: rate(300),
            fail: rate(500),
            stall: rate(2_000),
            forward: rate(2_000),
            back: rate(2_000),
            suspend: rate(500),
            ..Self::default()
        };
        rates.wishes = 10_u64.pow(rng.random_range(3..=6));
        rates.ahead = 10_u64.pow(rng.random_range(2..=7));
        rates
    }
}

pub struct World {
    rng: Xoshiro256PlusPlus,
    now: Now,
    store: MemoryStore,
    memory: usize,
    process: Option<Process>,
    processes: u32,
    starts_at: Duration,
    stalled_until: Duration,
    next_wish: Duration,
    rates: Rates,
    network: Moods,
    oracle: Oracle,
    ids: Vec<Option<PostId>>,
    open: Vec<Open>,
    report: Report,
}

fn given<T>(reply: &mut Reply<T>) -> Option<Result<T>> {
    match Pin::new(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let (rates, network) = (Rates::draw(&mut rng), Moods::draw(&mut rng));
        Self {
            now: Now { wall: Timestamp::from_millis(START), mono: Duration::ZERO, machine: Duration::ZERO },
            store: MemoryStore::with_identity(seed),
            // Sometimes so little that most posts do not fit.
            memory: if rng.random_bool(0.3) { 1 << 12 } else { 1 << 22 },
            process: None,
            processes: 0,
            starts_at: Duration::ZERO,
            stalled_until: Duration::ZERO,
            next_wish: Duration::ZERO,
            rates,
            network,
            oracle: Oracle::default(),
            ids: Vec::new(),
            open: Vec::new(),
            report: Report { seed, ..Report::default() },
            rng,
        }
    }

    pub fn run(mut self, time: Duration) -> Report {
        let mut before = (Duration::ZERO, 0);
        while self.now.mono < time && self.oracle.broken.is_none() {
            self.step();
            if self.now.mono > before.0 {
                before = (self.now.mono, self.oracle.step);
            } else if self.oracle.step > before.1 + STEPS_AT_ONCE {
                self.breaks("time passes", "nothing more happens, but something is always to be done");
            }
        }
        if self.oracle.broken.is_none() {
            self.heal();
        }
        let Self { mut report, oracle, now, .. } = self;
        report.time = now.mono;
        report.steps = oracle.step;
        (report.posts, report.calls) = (oracle.acknowledgements(), oracle.calls);
        report.digest = oracle.digest() ^ oracle.step;
        (report.checks, report.broken) = (oracle.checks, oracle.broken);
        report
    }

    fn breaks(&mut self, promise: &'static str, how: &str) {
        self.oracle.broken.get_or_insert(Broken { promise, how: how.to_owned(), step: self.oracle.step });
    }

    fn fault(&mut self, fault: &'static str) {
        *self.report.faults.entry(fault).or_default() += 1;
    }

    fn happens(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.random_range(0..100_000) < rate
    }

    fn pass(&mut self, wall: Duration, mono: Duration) {
        self.now.wall = self.now.wall.after(wall);
        self.now.mono += mono;
        self.now.machine = self.now.mono;
    }

    /// One thing happens.
    fn step(&mut self) {
        self.oracle.step += 1;
        if self.process.is_none() {
            self.pass_until_start();
            return;
        }
        self.step_clocks();
        if self.happens(self.rates.crash) {
            self.fault("the process is killed");
            return self.crash();
        }
        if self.happens(self.rates.stop) {
            self.fault("the process is shut down");
            let (promise, _) = Promise::new();
            let grace = Duration::from_millis(self.rng.random_range(0..20_000));
            self.command(Command::Shutdown { grace, promise });
        }
        if self.happens(self.rates.stall) {
            self.fault("the store stalls");
            self.stalled_until = self.now.mono + Duration::from_millis(self.rng.random_range(0..20_000));
        }
        if self.now.mono >= self.next_wish {
            self.next_wish = self.now.mono + Duration::from_millis(self.rng.random_range(0..2 * self.rates.wishes));
            self.wish();
        }
        // The threads of a process come to their turns in any order, and not always.
        match self.rng.random_range(0..4) {
            0 => self.turn(),
            1 => self.work(),
            2 if self.is_asking() => self.serve(),
            _ => self.pass_time(),
        }
        self.take_replies();
        if self.process.as_ref().is_some_and(|process| process.has_ended) {
            self.crash();
        }
    }

    fn step_clocks(&mut self) {
        let far = Duration::from_millis(10_u64.pow(self.rng.random_range(0..=8)));
        let by = far.mul_f64(self.rng.random_range(0.0..1.0));
        if self.happens(self.rates.forward) {
            self.fault("the wall clock steps forward");
            self.now.wall = self.now.wall.after(by);
        }
        let furthest = Timestamp::from_millis(START).after(self.now.mono).before(BACK);
        if self.happens(self.rates.back) && self.now.wall.before(by) > furthest {
            self.fault("the wall clock steps back");
            self.now.wall = self.now.wall.before(by);
        }
        if self.happens(self.rates.suspend) {
            self.fault("the machine is suspended");
            self.pass(by, Duration::ZERO);
            self.turn();
        }
    }

    fn is_asking(&self) -> bool {
        self.now.mono >= self.stalled_until && self.process.as_ref().is_some_and(Process::is_asking)
    }

    fn turn(&mut self) {
        if let Some(process) = &mut self.process {
            process.turn(self.now);
        }
    }

    fn work(&mut self) {
        let Self { process: Some(process), report, now, rng, network, oracle, .. } = self else { return };
        let mut faults = |fault| *report.faults.entry(fault).or_default() += 1;
        process.work(&mut Around { now: *now, rng, network, oracle, faults: &mut faults });
    }

    fn serve(&mut self) {
        let fails = self.happens(self.rates.fail);
        if fails {
            self.fault("a commit fails");
        }
        if let Some(process) = &mut self.process {
            process.serve(self.now, &mut self.store, fails);
        }
        if fails {
            self.crash();
        }
    }

    fn crash(&mut self) {
        let Some(process) = self.process.take() else { return };
        let kept = if self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(0..3) };
        process.die(&mut self.store, kept, &mut self.oracle);
        self.open.clear();
        let down = 10_u64.pow(self.rng.random_range(0..=7));
        self.starts_at = self.now.mono + Duration::from_millis(self.rng.random_range(0..down));
        self.stalled_until = Duration::ZERO;
    }

    fn pass_until_start(&mut self) {
        let left = self.starts_at.saturating_sub(self.now.mono);
        self.pass(left, left);
        self.processes += 1;
        // Another process sees what is durable, through a clone of its own.
        self.store = self.store.clone();
        match Process::start(self.processes, &mut self.store, self.memory, self.now) {
            Ok(process) => self.process = Some(process),
            Err(error) => self.breaks("the store opens", &error.to_string()),
        }
    }

    /// Lets time pass until something happens, or a little less.
    fn pass_time(&mut self) {
        // A thread sleeps when it has nothing to do; now and then the machine has no time for it.
        if self.rng.random_bool(0.95) {
            self.turn();
            self.work();
            self.turn();
        }
        let Some(process) = &mut self.process else { return };
        let Wake { wall, mono } = process.wake();
        let to_wall = wall.map(|at| at.since(self.now.wall));
        let mono = [mono, Some(self.next_wish)].into_iter().flatten().min();
        let to_mono = mono.map(|at| at.saturating_sub(self.now.mono));
        let mut left = [to_wall, to_mono, Some(LONGEST)].into_iter().flatten().min().unwrap_or(LONGEST);
        if process.is_asking() {
            // The store is not slower than this, unless it stalls.
            let stalled = self.stalled_until.saturating_sub(self.now.mono);
            left = left.min(stalled.max(Duration::from_millis(5)));
        }
        if self.rng.random_bool(0.1) {
            left = left.mul_f64(self.rng.random_range(0.0..1.5));
        }
        self.pass(left, left);
    }

    fn command(&mut self, command: Command) {
        if let Some(process) = &mut self.process {
            process.command(self.now, command);
        }
    }

    fn wish(&mut self) {
        if !self.process.as_ref().is_some_and(Process::takes_commands) {
            return;
        }
        let known: Option<(usize, PostId)> = (self.oracle.posts() > 0)
            .then(|| self.rng.random_range(self.oracle.posts().saturating_sub(50)..self.oracle.posts()))
            .and_then(|post| Some((post, self.ids[post]?)));
        match (self.rng.random_range(0..10), known) {
            (0, Some((post, id))) => {
                let (promise, reply) = Promise::new();
                self.command(Command::Change { post: id.into(), wish: Wish::Cancel, promise });
                self.open.push(Open::Cancelled { post, reply });
            }
            (1, Some((post, id))) => {
                let due = self.due();
                self.oracle.ask_due(post, due);
                let (promise, reply) = Promise::new();
                self.command(Command::Change { post: id.into(), wish: Wish::Reschedule(due), promise });
                self.open.push(Open::Moved { post, due, reply });
            }
            (2, Some((post, id))) => self.ask(post, id),
            _ => self.schedule(),
        }
    }

    fn due(&mut self) -> Timestamp {
        let ahead = Duration::from_millis(self.rng.random_range(0..self.rates.ahead));
        // Many are due on the full minute.
        let due = self.now.wall.after(ahead).ceil_millis();
        let minute = 60_000;
        if self.rng.random_bool(0.3) { Timestamp::from_millis((due.millis() / minute + 1) * minute) } else { due }
    }

    fn schedule(&mut self) {
        let guarantee = if self.rng.random_bool(0.5) { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce };
        let due = self.due();
        let number = self.oracle.hand_in(due, guarantee);
        self.ids.push(None);
        let mut post = Post::new(POOL, (number as u64).to_le_bytes()).guarantee(guarantee).at(due.to_datetime());
        let key = self.rng.random_bool(0.2).then(|| format!("k{number}"));
        post = key.iter().fold(post, |post, key| post.key(key));
        if self.rng.random_bool(0.6) {
            post = post.profile(format!("profile {}", self.rng.random_range(0..3)));
            post = if self.rng.random_bool(0.3) { post.in_order() } else { post };
        }
        if self.rng.random_bool(0.1) {
            post = post.expires_after(Duration::from_millis(self.rng.random_range(0..600_000)));
        }
        let (promise, reply) = Promise::new();
        let Some(weight) = Weight::add(&Arc::default(), 0, 0) else { return };
        let posts = vec![NewPost { pool: 0, due, body: Body::encode(&post), late: None }];
        self.command(Command::Schedule { posts, promise: SchedulePromise::One(promise), _weight: weight });
        self.open.push(Open::Scheduled { post: number, key, reply });
    }

    fn ask(&mut self, post: usize, id: PostId) {
        let (promise, reply) = Promise::new();
        self.command(Command::Get { post: id.into(), promise });
        self.open.push(Open::Asked { post, reply });
    }

    fn take_replies(&mut self) {
        let mut waiting = Vec::with_capacity(self.open.len());
        let mut open = std::mem::take(&mut self.open).into_iter();
        while let Some(mut next) = open.next() {
            match &mut next {
                Open::Scheduled { post, key, reply } => match given(reply) {
                    Some(Ok(id)) => {
                        self.ids[*post] = Some(id);
                        self.oracle.acknowledged(*post, key.take(), id.as_u128());
                    }
                    Some(Err(_)) => {}
                    None => waiting.push(next),
                },
                Open::Moved { post, due, reply } => match given(reply) {
                    Some(Ok(())) => {
                        let later = |open: &Open| match open {
                            Open::Moved { post: other, due, .. } if *other == *post => Some(*due),
                            _ => None,
                        };
                        let since: Vec<_> = open.as_slice().iter().filter_map(later).collect();
                        self.oracle.moved(*post, *due, &since);
                    }
                    Some(Err(_)) => {}
                    None => waiting.push(next),
                },
                Open::Cancelled { post, reply } => match given(reply) {
                    Some(Ok(())) => self.oracle.cancelled(*post),
                    Some(Err(_)) => {}
                    None => waiting.push(next),
                },
                Open::Asked { post, reply } => match given(reply) {
                    Some(Ok(status)) => self.oracle.said(*post, status.map(|status| status.state()), false),
                    Some(Err(Error::Closed | Error::StoreStalled { .. })) => {}
                    Some(Err(error)) => self.breaks("questions are answered", &error.to_string()),
                    None => waiting.push(next),
                },
            }
        }
        self.open = waiting;
    }

    /// Nothing goes wrong any more, and nobody wants anything: everything comes to its end.
    fn heal(&mut self) {
        self.rates = Rates { wishes: 1, ahead: 1, ..Rates::default() };
        self.network = Moods::healed();
        self.stalled_until = Duration::ZERO;
        self.next_wish = Duration::MAX;
        let end = self.now.mono + PATIENCE;
        while self.now.mono < end && self.oracle.broken.is_none() && !self.is_over() {
            (0..LOOK).for_each(|_| self.step());
        }
        for post in 0..self.oracle.posts() {
            if let Some(id) = self.ids[post] {
                self.ask_at_the_end(post, id);
            }
        }
    }

    /// Whether nothing is left that something will happen to by itself.
    fn is_over(&mut self) -> bool {
        let live = self.store.load(PoolId(0), Cursor::START, Timestamp::MAX, usize::MAX);
        self.process.is_some()
            && live.is_ok_and(|page| page.posts.iter().all(|post| post.record.home().shelf().is_some()))
    }

    fn ask_at_the_end(&mut self, post: usize, id: PostId) {
        let (promise, mut reply) = Promise::new();
        self.command(Command::Get { post: id.into(), promise });
        for _ in 0..1_000 {
            self.turn();
            self.serve();
            if let Some(answer) = given(&mut reply) {
                match answer {
                    Ok(status) => self.oracle.said(post, status.map(|status| status.state()), true),
                    Err(error) => self.breaks("questions are answered", &error.to_string()),
                }
                return;
            }
        }
        self.breaks("questions are answered", "not within a thousand turns");
    }
}
