//! The world: whose turn it is next, when the clocks step, when the process dies.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::catch_up::CatchUp;
use crate::gate::Breaker;
use crate::pool::{Pool, PrepareAhead};
use crate::post::Guarantee;
use crate::quota::RateLimit;
use crate::reply::Reply;
use crate::retry::RetryPolicy;
use crate::scheduler::{Builder, Scheduler};
use crate::store::MemoryStore;
use crate::time::{Now, Timestamp, Wake};

use super::dice::Dice;
use super::host::{self, Host, pool_name};
use super::network::{Moods, Network};
use super::oracle::{ANSWERED, Rules, TIME, TIMEOUT};
use super::plan::{Draw, Plan};
use super::process::Process;
use super::scene::Scene;
use super::{Broken, Report};

/// 2030-03-17T17:46:40Z.
const START: i64 = 1_900_000_000_000;
/// Retries and doubts of the last posts take their time.
const PATIENCE: Duration = Duration::from_secs(400 * 86_400);
/// Steps in which all must be over, however patient one is: an engine that asks its store for ever comes to no end.
const HEALING: u64 = 50_000_000;
/// Steps that may pass without the time passing: more of them is a loop.
const STEPS_AT_ONCE: u64 = 5_000;
/// No step passes more time than this.
const LONGEST: Duration = Duration::from_secs(3_600);
/// The wall clock is never further behind than this.
const BACK: Duration = Duration::from_secs(2 * 86_400);
/// A process is young for so many steps.
const YOUNG: u64 = 100;
/// Steps between two looks whether all is over.
const LOOK: u32 = 500;
/// Commands and events that wait, at most.
const QUEUE: usize = 64;
/// Turns of all parts of a process before time passes, at most; and in the end, when nothing depends on how slow they are.
const ROUNDS: u32 = 8;
const LAST_ROUNDS: u32 = 1_000;

/// How often what happens, in hundred-thousandths of a step.
#[derive(Default)]
struct Rates {
    kill: u64,
    stop: u64,
    fail: u64,
    stall: u64,
    forward: u64,
    back: u64,
    suspend: u64,
    /// Of a thousand kills.
    power: u64,
    stick: u64,
}

/// What a pool is like, in every process.
#[derive(Clone)]
struct Ground {
    shards: usize,
    concurrency: usize,
    attempts: u32,
    guarantee: Guarantee,
    limit: Option<(u32, Duration)>,
    profile_limit: Option<(u32, Duration)>,
    breaker: Option<u32>,
    prepares: bool,
    catch_up: CatchUp,
    /// Whether that misses what is late.
    misses: bool,
}

pub struct World {
    plan: Plan,
    scene: Scene,
    /// The world's own: whose turn it is.
    dice: Dice,
    /// Of the clocks, and of the process and its store.
    clocks: Dice,
    trouble: Dice,
    store: MemoryStore,
    memory: usize,
    grounds: Vec<Ground>,
    process: Option<Process>,
    processes: u32,
    stalled_until: Duration,
    /// In which step the process is stopped because its store has failed.
    gives_up_at: u64,
    next_wish: Duration,
    /// Mean time between two wishes of the host, in milliseconds.
    pace: u64,
    rates: Rates,
    host: Host,
    /// So many times as often the wall clock steps back while a process is young.
    restless: u64,
    /// Steps of the process.
    age: u64,
    /// When a process died last that has not left behind what it was about to call: the power failed, or the call log was
    /// stuck, now and then.
    forgot_at: Option<Duration>,
    forgets: bool,
    /// Nothing goes wrong any more.
    is_healing: bool,
    step: u64,
    /// When time has passed for the last time, and the step then.
    moved: (Duration, u64),
}

impl World {
    pub fn new(plan: &Plan) -> Self {
        let mut draw = Draw::new(plan.seed);
        let rates = Rates {
            kill: draw.rate(plan, "kills", 2_000),
            stop: draw.rate(plan, "shutdowns", 300),
            fail: draw.rate(plan, "failing commits", 500),
            stall: draw.rate(plan, "stalls", 2_000),
            forward: draw.rate(plan, "steps forward", 2_000),
            back: draw.rate(plan, "steps back", 2_000),
            suspend: draw.rate(plan, "suspends", 500),
            ..Rates::default()
        };
        let moods = Moods::draw(plan, &mut draw);
        let now = Now { wall: Timestamp::from_millis(START), mono: Duration::ZERO, machine: Duration::ZERO };
        let scene = Scene::new(now, moods, Dice::new(plan.seed, 2));
        let pools = 1 + draw.rate(plan, "several pools", 2) as usize;
        let grounds: Vec<_> = (0..pools).map(|_| Ground::draw(plan, &mut draw)).collect();
        // What a clock shows after a step, or after a process that did not live to note it, is another story.
        let is_steady = rates.forward + rates.back + rates.suspend + rates.kill + rates.fail == 0;
        let rules = |ground: &Ground| Rules {
            misses: ground.misses,
            limit: ground.limit.filter(|_| is_steady).map(|(most, window)| (most as usize, window)),
            ..Rules::default()
        };
        scene.look().oracle.pools = grounds.iter().map(rules).collect();
        let host = Host::new(plan, &mut draw, scene.clone(), pools);
        let mut world = Self {
            // Sometimes so little that most posts do not fit.
            memory: if draw.rate(plan, "little memory", 1) > 0 { pools << 16 } else { 64 << 20 },
            pace: 10_u64.pow(draw.number(3, 6) as u32),
            plan: plan.clone(),
            scene,
            dice: Dice::new(plan.seed, 3),
            clocks: Dice::new(plan.seed, 4),
            trouble: Dice::new(plan.seed, 5),
            store: MemoryStore::with_identity(plan.seed),
            grounds,
            process: None,
            processes: 0,
            stalled_until: Duration::ZERO,
            gives_up_at: u64::MAX,
            next_wish: Duration::ZERO,
            rates,
            host,
            restless: 1,
            age: 0,
            forgot_at: None,
            forgets: false,
            is_healing: false,
            step: 0,
            moved: (Duration::ZERO, 0),
        };
        world.draw_more(plan, &mut draw);
        world
    }

    /// What was thought of later is drawn last: kept worlds stay what they were.
    fn draw_more(&mut self, plan: &Plan, draw: &mut Draw) {
        self.scene.look().moods.late = draw.rate(plan, "late answers", 100);
        let power = draw.rate(plan, "power cuts", 1_000);
        // Of a clock that has stepped back when the power fails nothing is promised.
        self.rates.power = if self.rates.back == 0 { power } else { 0 };
        self.rates.stick = draw.rate(plan, "stuck call logs", 500);
        self.forgets = self.rates.stick > 0;
        self.host.others = draw.rate(plan, "other content for keys", 500);
        self.host.large = draw.rate(plan, "large batches", 300);
        self.restless = if draw.rate(plan, "restless starts", 1) > 0 { 20 } else { 1 };
        self.host.queues = draw.rate(plan, "queues", 300);
        self.host.orders = if self.host.queues > 0 { draw.rate(plan, "orders of queues", 300) } else { 0 };
        self.host.series = draw.rate(plan, "series", 50);
        self.host.campaigns = draw.rate(plan, "campaigns", 500);
        self.host.bursts = draw.rate(plan, "bursts of changes", 500);
    }

    pub fn run(mut self) -> Report {
        while self.mono() < self.plan.time && !self.is_broken() {
            self.step();
        }
        if !self.is_broken() {
            self.heal();
        }
        let (seed, time, steps) = (self.plan.seed, self.mono(), self.step);
        drop(self.process.take());
        let mut state = self.scene.look();
        state.oracle.check_limits();
        state.oracle.check_occurrences();
        let oracle = std::mem::take(&mut state.oracle);
        Report {
            seed,
            time,
            steps,
            posts: oracle.acknowledgements(),
            calls: oracle.calls,
            faults: std::mem::take(&mut state.faults),
            digest: oracle.digest() ^ steps,
            checks: oracle.checks,
            broken: oracle.broken,
        }
    }

    fn mono(&self) -> Duration {
        self.scene.time().mono
    }

    fn is_broken(&self) -> bool {
        self.scene.look().oracle.broken.is_some()
    }

    fn breaks(&self, promise: &'static str, how: &str) {
        let step = self.step;
        self.scene.look().oracle.broken.get_or_insert(Broken { promise, how: how.to_owned(), step });
    }

    fn fault(&self, fault: &'static str) {
        self.scene.look().fault(fault);
    }

    /// One thing happens.
    fn step(&mut self) {
        self.step += 1;
        if self.mono() > self.moved.0 {
            self.moved = (self.mono(), self.step);
        } else if self.step > self.moved.1 + STEPS_AT_ONCE {
            self.breaks(TIME, "nothing more happens, but something is always to be done");
        }
        self.tell_time();
        if self.process.is_none() {
            return self.start();
        }
        self.age += 1;
        self.step_clocks();
        self.tell_time();
        if self.rates.stick > 0 && self.trouble.below(100_000) < self.rates.stick {
            let is_stuck = self.trouble.falls(300);
            if is_stuck {
                self.fault("the call log is stuck");
            }
            self.store.stick_log(is_stuck);
        }
        if self.trouble.below(100_000) < self.rates.kill {
            self.fault("a process is killed");
            return self.kill();
        }
        if self.trouble.below(100_000) < self.rates.stop {
            self.fault("a process is shut down");
            let grace = self.trouble.millis(20_000);
            if let Some(process) = &self.process {
                drop(process.scheduler.shutdown(grace));
            }
        }
        if self.trouble.below(100_000) < self.rates.stall {
            self.fault("the store stalls");
            self.stalled_until = self.mono() + self.trouble.millis(20_000);
        }
        if self.mono() >= self.next_wish {
            if let Some(process) = &self.process {
                self.host.wish(&process.scheduler);
            }
            // The other changes of a burst come at once.
            let pause = if self.host.burst.is_some() { Duration::ZERO } else { self.dice.millis(2 * self.pace) };
            self.next_wish = self.mono() + pause;
        }
        // The threads of a process come to their turns in any order, and not always.
        let parts = self.process.as_ref().map_or(0, Process::parts);
        let part = self.dice.below(parts + 3);
        match part {
            _ if part < parts => drop(self.turn(part)),
            _ if part == parts && self.serves() => self.serve(),
            _ => self.pass_time(),
        }
        self.host.take_replies(self.process.as_ref().map(|process| &process.scheduler));
        if self.step >= self.gives_up_at || self.process.as_ref().is_some_and(|process| process.has_ended) {
            self.kill();
        }
    }

    /// The oracle sees the clocks.
    fn tell_time(&self) {
        let mut state = self.scene.look();
        (state.oracle.step, state.oracle.now) = (self.step, state.now);
        let now = state.now.wall;
        state.oracle.settings.pass(now);
    }

    fn step_clocks(&mut self) {
        let far = 10_u64.pow(self.clocks.below(9) as u32);
        let by = self.clocks.millis(far);
        if self.clocks.below(100_000) < self.rates.forward {
            self.fault("the wall clock steps forward");
            self.scene.pass(by, Duration::ZERO);
        }
        let restless = if self.age < YOUNG { self.restless } else { 1 };
        if self.clocks.below(100_000) < self.rates.back * restless {
            let furthest = Timestamp::from_millis(START).after(self.mono()).before(BACK);
            let back = self.scene.time().wall.before(by);
            if back > furthest {
                self.fault("the wall clock steps back");
                let mut state = self.scene.look();
                state.now.wall = back;
                state.oracle.has_gone_back = true;
            }
        }
        if self.clocks.below(100_000) < self.rates.suspend {
            self.fault("the machine is suspended");
            self.scene.pass(by, Duration::ZERO);
            self.turn(0);
        }
    }

    fn turn(&mut self, part: u64) -> bool {
        self.process.as_mut().is_none_or(|process| process.turn(part))
    }

    fn serves(&self) -> bool {
        self.mono() >= self.stalled_until && self.process.as_ref().is_some_and(Process::is_asking)
    }

    fn serve(&mut self) {
        let fails = (self.trouble.below(100_000) < self.rates.fail).then(|| self.trouble.falls(500));
        if let Some(process) = &mut self.process {
            process.serve(fails);
        }
        if fails.is_some() {
            // A scheduler whose store has failed does nothing more; its host opens it anew, some time.
            self.fault("a commit fails");
            self.gives_up_at = self.gives_up_at.min(self.step + self.trouble.below(5_000));
        }
    }

    /// The process dies; another one is started after a while.
    fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        let kept = self.trouble.below(3) as usize;
        process.die(&mut self.store, kept);
        self.scene.look().oracle.was_noted(&self.store.called());
        let is_power_off = self.rates.power > 0 && self.trouble.falls(self.rates.power);
        if is_power_off {
            self.fault("the power fails");
            self.store.lose_calls();
        }
        if self.forgets || is_power_off {
            self.forgot_at = Some(self.mono());
        }
        let away = self.trouble.any_size(6);
        let away = self.trouble.millis(away);
        self.scene.pass(away, away);
        (self.stalled_until, self.gives_up_at) = (Duration::ZERO, u64::MAX);
        // Its answers are not waited for any more.
        self.host.take_replies(None);
    }

    fn start(&mut self) {
        self.processes += 1;
        self.age = 0;
        if let Some(at) = self.forgot_at {
            self.scene.look().oracle.forgets_calls(at);
        }
        // Another process sees what is durable, through a clone of its own.
        let builder = self.builder(self.store.clone());
        match Process::start(builder, self.scene.clone()) {
            Ok(process) => self.process = Some(process),
            Err(error) => self.breaks("the store opens", &error.to_string()),
        }
    }

    fn builder(&self, store: MemoryStore) -> Builder {
        // However far the clock steps, nothing is forgotten.
        let ever = Duration::from_secs(36_500 * 86_400);
        let builder = Scheduler::builder().store(store).clock(self.scene.clone()).memory(self.memory);
        let builder = builder.retention(ever).dead_letter_retention(ever).queues(QUEUE, QUEUE).zones("");
        let network = Network { scene: self.scene.clone(), process: self.processes };
        self.grounds
            .iter()
            .enumerate()
            .fold(builder, |builder, (pool, ground)| builder.pool(ground.pool(&pool_name(pool), network.clone())))
    }

    /// Lets time pass until something happens, or a little less.
    fn pass_time(&mut self) {
        // A thread sleeps when it has nothing to do; now and then the machine has no time for it.
        if self.dice.falls(950) {
            let parts = self.process.as_ref().map_or(0, Process::parts);
            for _ in 0..if self.is_healing { LAST_ROUNDS } else { ROUNDS } {
                let mut is_idle = (0..parts).map(|part| self.turn(part)).fold(true, |all, idle| all & idle);
                // Nor on how slow the store is.
                while self.is_healing && self.serves() {
                    self.serve();
                    is_idle = false;
                }
                if is_idle {
                    break;
                }
            }
        }
        let Some(process) = &mut self.process else { return };
        let now = self.scene.time();
        let Wake { wall, mono } = process.wake();
        let to_wall = wall.map(|at| at.since(now.wall));
        let mono = [mono, Some(self.next_wish)].into_iter().flatten().min();
        let to_mono = mono.map(|at| at.saturating_sub(now.mono));
        let mut left = [to_wall, to_mono, Some(LONGEST)].into_iter().flatten().min().unwrap_or(LONGEST);
        if process.is_asking() {
            // The store is not slower than this, unless it stalls.
            let stalled = self.stalled_until.saturating_sub(now.mono);
            left = left.min(stalled.max(Duration::from_millis(5)));
        }
        if self.dice.falls(100) {
            left = left.mul_f64(self.dice.below(1_500) as f64 / 1_000.0);
        }
        self.scene.pass(left, left);
    }

    /// Nothing goes wrong any more, and the host wants nothing but that all is done: everything comes to its end.
    fn heal(&mut self) {
        self.is_healing = true;
        self.rates = Rates::default();
        self.store.stick_log(false);
        self.scene.look().moods = Moods::healed();
        self.stalled_until = Duration::ZERO;
        self.next_wish = Duration::MAX;
        // Limits that are not judged would only let years of occurrences wait that a clock has stepped over.
        if self.scene.look().oracle.pools.iter().all(|rules| rules.limit.is_none()) {
            self.grounds.iter_mut().for_each(|ground| (ground.limit, ground.profile_limit) = (None, None));
        }
        // Whatever this process has got itself into.
        self.kill();
        let (end, last) = (self.mono() + PATIENCE, self.step + HEALING);
        while self.mono() < end && self.step < last && !self.is_broken() && !self.is_over() {
            // Not before its last wishes are answered: a store that always has something to do lets no time pass.
            if let Some(process) = self.process.as_ref().filter(|_| !self.host.is_waiting()) {
                self.host.heal(&process.scheduler);
            }
            (0..LOOK).for_each(|_| self.step());
        }
        if !self.is_broken() && !self.is_over() {
            self.breaks("all is over in the end", "something is left that is not decided");
        }
        let posts = self.scene.look().oracle.posts();
        let mut states = BTreeMap::new();
        for post in 0..posts {
            let Some(id) = self.scene.look().oracle.id(post) else { continue };
            let status = self.ask_at_the_end(|scheduler| scheduler.get(id)).flatten();
            states.extend(status.as_ref().map(|status| (id, status.state())));
            self.scene.look().oracle.said(post, status.as_ref(), true);
        }
        for campaign in 0..if self.host.campaigns > 0 { host::CAMPAIGNS } else { 0 } {
            let name = host::campaign_name(campaign);
            let status = self.ask_at_the_end(|scheduler| scheduler.campaign(&name).status()).flatten();
            self.scene.look().oracle.campaign_said(&name, status.as_ref(), &states);
        }
    }

    /// Whether nothing is left that is not decided.
    fn is_over(&mut self) -> bool {
        let pools = self.grounds.len();
        let is_over = self.host.is_over();
        is_over && self.process.as_mut().is_some_and(|process| matches!(process.live(pools), Ok(0)))
    }

    fn ask_at_the_end<T>(&mut self, ask: impl FnOnce(&Scheduler) -> Reply<T>) -> Option<T> {
        let process = self.process.as_mut()?;
        let mut reply = ask(&process.scheduler);
        for _ in 0..1_000 {
            process.turn(0);
            process.serve(None);
            match host::answer(&mut reply) {
                Some(Ok(answer)) => return Some(answer),
                Some(Err(error)) => {
                    self.breaks(ANSWERED, &error.to_string());
                    return None;
                }
                None => {}
            }
        }
        self.breaks(ANSWERED, "not within a thousand turns");
        None
    }
}

impl Ground {
    fn draw(plan: &Plan, draw: &mut Draw) -> Self {
        let limit = |draw: &mut Draw| {
            let most = draw.rate(plan, "limits", 20) as u32;
            (most > 0).then(|| (most, Duration::from_secs(draw.number(1, 600))))
        };
        let policy = draw.rate(plan, "catching up", 3);
        let catch_up = match policy {
            0 => CatchUp::at_once(),
            1 => CatchUp::at_once().spread_over(Duration::from_secs(600)),
            2 => CatchUp::at_once().min_gap(Duration::from_secs(1)),
            _ => CatchUp::at_once().miss_after(Duration::from_secs(3_600)),
        };
        let breaker = draw.rate(plan, "breakers", 10) as u32;
        Self {
            shards: 1 + draw.rate(plan, "several shards", 3) as usize,
            concurrency: draw.number(4, 12) as usize,
            attempts: draw.number(1, 6) as u32,
            guarantee: if draw.number(0, 1) == 0 { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce },
            limit: limit(draw),
            profile_limit: limit(draw),
            breaker: (breaker > 0).then_some(breaker),
            prepares: draw.rate(plan, "preparing", 1) > 0,
            catch_up,
            misses: policy == 3,
        }
    }

    fn pool(&self, name: &str, network: Network) -> Pool {
        let mut pool = Pool::new(name, network)
            .shards(self.shards)
            .concurrency(self.concurrency)
            .threads(1)
            .timeout(TIMEOUT)
            .guarantee(self.guarantee)
            .catch_up(self.catch_up)
            .retry(RetryPolicy::exponential(Duration::from_secs(10)).max_attempts(self.attempts));
        if let Some((most, window)) = self.limit {
            pool = pool.limit(RateLimit::rolling(most, window));
        }
        if let Some((most, window)) = self.profile_limit {
            pool = pool.limit_profiles(RateLimit::rolling(most, window));
        }
        if let Some(failures) = self.breaker {
            pool = pool.breaker(Breaker::new(failures));
        }
        if self.prepares {
            pool = pool.prepare_ahead(PrepareAhead::by(Duration::from_secs(600)));
        }
        pool
    }
}
