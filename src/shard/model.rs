//! What a shard must do, told simply: for the tests and for fuzzing.

// A broken rule is a panic here.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{Shard, Token};
use crate::gate::{Gate, Rules};
use crate::id::{PostId, Seq};
use crate::limits;
use crate::post::{Body, Delivery, Doubt, Facts, Guarantee, Notes, Post, Priority, Stage, Task};
use crate::quota::RateLimit;
use crate::time::{Now, Timestamp};

pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Both clocks show this.
pub fn now(ms: i64) -> Now {
    let mono = Duration::from_millis(ms as u64);
    Now { wall: Timestamp::from_millis(ms), mono, machine: mono }
}

/// A delivery of this post.
pub fn dated(seq: u64, at_ms: i64, deadline_ms: Option<i64>, post: &Post) -> Delivery {
    Delivery::new(Facts {
        claim: 1,
        last: None,
        id: PostId::new(1, Seq(seq)),
        slot: seq as u32,
        pool: "p".into(),
        task: Task::Broadcast,
        due: Timestamp::from_millis(at_ms),
        at: Timestamp::from_millis(at_ms),
        since: Timestamp::from_millis(at_ms),
        deadline: deadline_ms.map(Timestamp::from_millis),
        attempt: 1,
        is_allowed: true,
        doubt: Doubt::None,
        guarantee: Guarantee::AtLeastOnce,
        notes: Notes::default(),
        body: Body::encode(post),
        stage: Stage::default(),
    })
}

pub fn number(delivery: &Delivery) -> u64 {
    delivery.id().seq().0
}

/// A gate with limits for a profile and for the pool: so many in so many ms.
pub fn limited(profile: Option<(u32, u64)>, pool: Option<(u32, u64)>) -> Gate {
    let limits = |of: Option<(u32, u64)>| {
        of.map(|(max, ms)| RateLimit::rolling(max, Duration::from_millis(ms))).into_iter().collect()
    };
    Gate::new("p", Rules { profile: limits(profile), pool: limits(pool), ..Rules::default() })
}

/// What happens to a shard.
#[derive(Clone, Debug)]
pub enum Op {
    /// Profile (0: none), priority, due in ms from now, deadline in ms from the due.
    Push(u8, u8, i64, Option<i64>),
    Start(usize),
    Finish(usize),
    Extend(usize),
    Withdraw(u64),
    /// In ms; back, if negative.
    Pass(i64),
    Look,
}

/// A shard, and what became of everything that was pushed.
#[derive(Debug)]
pub struct Pair {
    shard: Shard,
    concurrency: usize,
    /// So many in so many ms, of a profile and of all.
    limits: [Option<(u32, u64)>; 2],
    /// When they started since the wall clock stepped back, by profile, and of all.
    started: [BTreeMap<String, Vec<i64>>; 2],
    wall: i64,
    mono: i64,
    pushed: Vec<Delivery>,
    ends: BTreeMap<u64, &'static str>,
    running: Vec<(Token, i64)>,
}

impl Pair {
    /// With limits for a profile and for all: so many in so many ms.
    pub fn new(concurrency: usize, profile: Option<(u32, u64)>, all: Option<(u32, u64)>) -> Self {
        Self {
            shard: Shard::new(concurrency, TIMEOUT, limited(profile, all)),
            concurrency,
            limits: [profile, all],
            started: Default::default(),
            wall: 1_000_000,
            mono: 0,
            pushed: Vec::new(),
            ends: BTreeMap::new(),
            running: Vec::new(),
        }
    }

    fn end(&mut self, delivery: &Delivery, how: &'static str) {
        assert!(!delivery.facts().stage.is_withdrawn(), "{how} and withdrawn");
        assert_eq!(self.ends.insert(number(delivery), how), None, "{how} after another end");
    }

    /// Takes from the shard what it gives, with at most so many starts.
    fn turn(&mut self, starts: usize) {
        let now = Now { wall: Timestamp::from_millis(self.wall), ..now(self.mono) };
        while let Some(ended) = self.shard.poll_expired(now) {
            let is_over = |(token, since): &(Token, i64)| *token == ended.token && self.mono - since >= 10_000;
            assert!(self.running.iter().any(is_over), "given up too soon");
            self.running.retain(|(token, _)| *token != ended.token);
        }
        assert!(self.running.iter().all(|(_, since)| self.mono - since < 10_000), "not given up");
        while let Some(delivery) = self.shard.poll_missed(now) {
            assert!(delivery.facts().deadline.unwrap() < now.wall, "missed before its deadline");
            self.end(&delivery, "missed");
        }
        for _ in 0..starts {
            let Some((token, delivery)) = self.shard.poll_start(now) else { break };
            assert!(delivery.facts().at <= now.wall, "early");
            self.end(&delivery, "started");
            let [of_profile, of_all] = &mut self.started;
            of_all.entry(String::new()).or_default().push(self.wall);
            // A post without a profile has none to be limited by.
            if !delivery.profile().is_empty() {
                of_profile.entry(delivery.profile().to_owned()).or_default().push(self.wall);
            }
            self.running.push((token, self.mono));
            assert!(self.running.len() <= self.concurrency);
            assert!(self.shard.is_running(token));
        }
        while let Some((delivery, until)) = self.shard.poll_returned(now) {
            assert!(until > now.wall.after(limits::GIVE_BACK), "it was worth waiting for");
            self.end(&delivery, "returned");
        }
    }

    pub fn step(&mut self, op: Op) {
        match op {
            Op::Push(profile, priority, due, by) => {
                let profile = if profile == 0 { String::new() } else { profile.to_string() };
                let post = Post::new("p", "").profile(profile).priority(Priority::new(priority));
                let at = self.wall + due;
                let delivery = dated(self.pushed.len() as u64, at, by.map(|by| at + by), &post);
                // Some are handed over ahead; others were due when they were, and then the clock stepped back.
                if due > 0 && self.pushed.len().is_multiple_of(2) {
                    self.shard.keep(delivery.clone());
                } else {
                    self.shard.push(delivery.clone());
                }
                self.pushed.push(delivery);
            }
            Op::Start(most) => self.turn(most),
            Op::Finish(index) if !self.running.is_empty() => {
                let (token, _) = self.running.swap_remove(index % self.running.len());
                assert!(self.shard.finish(token).is_some() && self.shard.finish(token).is_none());
            }
            Op::Extend(index) if !self.running.is_empty() => {
                let index = index % self.running.len();
                let (token, since) = &mut self.running[index];
                assert!(self.shard.extend(*token, now(self.mono)));
                *since = self.mono;
            }
            Op::Withdraw(seq) => {
                if let Some(delivery) = self.pushed.get(seq as usize).filter(|_| !self.ends.contains_key(&seq)) {
                    delivery.facts().stage.withdraw();
                }
            }
            Op::Pass(ms) => {
                if ms < 0 {
                    self.keeps_limits();
                }
                self.wall += ms;
                self.mono += ms.max(0);
                self.turn(0);
            }
            Op::Look => self.shard.look(),
            Op::Finish(_) | Op::Extend(_) => {}
        }
        assert_eq!(self.shard.running(), self.running.len());
    }

    /// Everything that waits leaves.
    pub fn recall(&mut self) {
        for delivery in self.shard.recall_all() {
            self.end(&delivery, "recalled");
        }
    }

    /// From now on the shard is looked at when it says, and everything that runs ends at once: in the end each has had
    /// one end.
    pub fn run_dry(mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "gets nowhere");
            self.turn(usize::MAX);
            for (token, _) in std::mem::take(&mut self.running) {
                self.shard.finish(token).unwrap();
            }
            self.turn(usize::MAX);
            if self.running.is_empty() {
                let Some(wake) = self.shard.poll_timeout().wall else { break };
                assert!(wake.micros() > self.wall * 1_000, "it asks to be looked at again and again");
                let wake = wake.ceil_millis().millis();
                self.mono += wake - self.wall;
                self.wall = wake;
            }
        }
        for delivery in &self.pushed {
            let end = self.ends.get(&number(delivery));
            assert!(end.is_some() != delivery.facts().stage.is_withdrawn(), "{} {end:?}", number(delivery));
        }
        self.keeps_limits();
    }

    /// No more have started than the limits allow, since the wall clock stepped back: what had left a window before
    /// that is not counted again.
    fn keeps_limits(&mut self) {
        for (limit, started) in self.limits.into_iter().zip(&mut self.started) {
            for times in std::mem::take(started).into_values() {
                let Some((max, ms)) = limit else { continue };
                let spans = times.iter().zip(times.iter().skip(max as usize));
                spans.for_each(|(first, next)| assert!(next - first >= ms as i64, "{max} in {ms} ms, and one more"));
            }
        }
    }
}

/// Of a profile: what waits, the turns that each other has had since the first of it came first, and how many it may.
type Waits = (Vec<u64>, HashMap<String, usize>, usize);

/// Pushes posts of one priority, each of a profile (0: none), with so many starts after it, and due so many ms after or
/// before the last. No profile has two turns while another waits for its first; with a `gap` in ms between the starts
/// of a profile it may, but the posts of one profile still start as they came.
pub fn take_turns(gap: Option<u64>, pushes: impl IntoIterator<Item = (u8, usize, i64)>) {
    let mut shard = Shard::new(usize::MAX, TIMEOUT, limited(gap.map(|ms| (1, ms)), None));
    let mut time = 1_000;
    let mut waiting: HashMap<String, Waits> = HashMap::new();
    let mut has_started: HashMap<String, bool> = HashMap::new();
    for (seq, (profile, starts, due)) in (0u64..).zip(pushes) {
        let name = if profile == 0 { format!("single {seq}") } else { profile.to_string() };
        let post = Post::new("p", "").profile(if profile == 0 { "" } else { &name });
        shard.push(dated(seq, time + due - 5, None, &post));
        let allowed = 1 + usize::from(has_started.contains_key(&name));
        waiting.entry(name).or_insert_with(|| (Vec::new(), HashMap::new(), allowed)).0.push(seq);
        for _ in 0..starts {
            let Some((_, delivery)) = shard.poll_start(now(time)) else { break };
            let number = number(&delivery);
            let profile = delivery.profile();
            let name = if profile.is_empty() { format!("single {number}") } else { profile.to_owned() };
            has_started.insert(name.clone(), true);
            let (mine, ..) = waiting.get_mut(&name).unwrap();
            assert_eq!(mine.remove(0), number, "out of order");
            if mine.is_empty() {
                waiting.remove(&name);
            } else if let Some((_, since, allowed)) = waiting.get_mut(&name) {
                since.clear();
                *allowed = 2;
            }
            for (other, (_, since, allowed)) in waiting.iter_mut().filter(|(other, _)| **other != name) {
                let turns = since.entry(name.clone()).or_default();
                *turns += 1;
                // With a limit the other may have been blocked.
                assert!(gap.is_some() || *turns <= *allowed, "{name} before {other}");
            }
        }
        time += 1 + due.abs();
    }
}
