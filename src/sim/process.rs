//! One process: the engine, its shard, and what the threads around them do, step by step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::catch_up::CatchUp;
use crate::committer;
use crate::engine::{Answer, Attempt, Command, Effect, Engine, PoolSettings, Report, Request, Settings};
use crate::error::StoreError;
use crate::gate::{Gate, Rules};
use crate::id::PoolId;
use crate::post::{BroadcastError, Delivery, Doubt, Ending, Guarantee, Receipt, Reconciled, Task};
use crate::retry::RetryPolicy;
use crate::shard::{Ended, Shard, Token};
use crate::store::backend::Backend;
use crate::store::{CallLog, MemoryStore};
use crate::time::{Now, Timestamp, Wake};

use super::network::Moods;
use super::oracle::Oracle;

const CONCURRENCY: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(30);
const GIVEN_UP: usize = CONCURRENCY;
pub const POOL: &str = "p";

/// A call of the broadcaster that has not been answered.
#[derive(Debug)]
struct Call {
    token: Token,
    delivery: Delivery,
    started: Timestamp,
    /// When it is answered, by the monotonic clock, and what; nothing if never.
    answer: Option<(Duration, Ending)>,
    is_given_up: bool,
}

#[derive(Debug)]
pub struct Process {
    /// Which one it is, from 1.
    number: u32,
    engine: Engine,
    shard: Shard,
    gate: Gate,
    log: Option<Arc<dyn CallLog>>,
    /// What the committer has not done yet.
    requests: VecDeque<Request>,
    /// Deliveries, and orders to look anew, that the shard has got.
    taken: u64,
    blocked: Option<Timestamp>,
    told: u64,
    calls: Vec<Call>,
    pub has_ended: bool,
}

/// What the rest of the world looks like from a process.
pub struct Around<'a> {
    pub now: Now,
    pub rng: &'a mut Xoshiro256PlusPlus,
    pub network: &'a Moods,
    pub oracle: &'a mut Oracle,
    pub faults: &'a mut dyn FnMut(&'static str),
}

/// Posts carry their number as payload.
fn number(delivery: &Delivery) -> usize {
    delivery.payload().first_chunk().map_or(usize::MAX, |bytes| u64::from_le_bytes(*bytes) as usize)
}

impl Process {
    /// The process starts on what the earlier ones have left.
    pub fn start(number: u32, store: &mut MemoryStore, memory: usize, now: Now) -> Result<Self, StoreError> {
        let id = store.pools(&[POOL.to_owned()])?.first().copied().unwrap_or(PoolId(0));
        let gate = Gate::new(POOL, Rules::default());
        let pool = PoolSettings {
            id,
            name: POOL.into(),
            first_shard: 0,
            shards: 1,
            retry: RetryPolicy::exponential(Duration::from_secs(10)),
            guarantee: Guarantee::AtLeastOnce,
            catch_up: CatchUp::at_once(),
            gate: gate.clone(),
            is_limited: false,
            has_accounts: false,
            prepare: None,
        };
        let settings = Settings {
            store: store.identity(),
            next_seq: store.next_seq(),
            last_commit_at: store.last_commit_at(),
            remembered: store.remembered()?,
            pools: vec![pool],
            horizon: Duration::from_secs(60),
            claim_ahead: Duration::from_secs(2),
            memory,
            stall_after: Duration::from_secs(10),
            retention: Duration::from_secs(400 * 86_400),
            dead_letter_retention: Duration::from_secs(400 * 86_400),
        };
        let log = store.call_log();
        let (engine, shard) = (Engine::new(settings, now), Shard::new(CONCURRENCY, TIMEOUT, gate.clone()));
        Ok(Self {
            number,
            engine,
            shard,
            gate,
            log,
            requests: VecDeque::new(),
            taken: 0,
            blocked: None,
            told: 0,
            calls: Vec::new(),
            has_ended: false,
        })
    }

    pub fn command(&mut self, now: Now, command: Command) {
        self.engine.handle_command(now, command);
    }

    pub fn takes_commands(&self) -> bool {
        self.engine.takes_commands()
    }

    /// The driver's turn.
    pub fn turn(&mut self, now: Now) {
        self.engine.handle_timeout(now);
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Deliver { deliveries, .. } => {
                    self.taken += deliveries.len() as u64;
                    for delivery in deliveries {
                        if delivery.facts().at > now.wall {
                            self.shard.keep(delivery);
                        } else {
                            self.shard.push(delivery);
                        }
                    }
                }
                Effect::Look { .. } => {
                    self.taken += 1;
                    self.shard.look();
                }
                Effect::Stop { promise, .. } => {
                    if let Some(promise) = promise {
                        promise.fulfil(Ok(()));
                    }
                    self.has_ended = true;
                }
                Effect::Stopping | Effect::Emit(_) => {}
                Effect::Ask(request) => self.requests.push_back(request),
            }
        }
    }

    /// Whether the store has something to do.
    pub fn is_asking(&self) -> bool {
        !self.requests.is_empty()
    }

    /// The store carries out one request; what is committed may not be known to be.
    pub fn serve(&mut self, now: Now, store: &mut MemoryStore, fails: bool) {
        let Some(request) = self.requests.pop_front() else { return };
        let answer = match request {
            Request::Commit { .. } if fails => Answer::Committed(Err(StoreError::Poisoned)),
            request => committer::carry_out(store, request),
        };
        self.engine.handle_answer(now, answer);
    }

    /// The process dies. Of the commits that were asked for, the first so many are durable all the same.
    pub fn die(self, store: &mut MemoryStore, kept: usize, oracle: &mut Oracle) {
        let commits = self.requests.into_iter().filter_map(|request| match request {
            Request::Commit { now, changes } => Some((now, changes)),
            _ => None,
        });
        for (now, changes) in commits.take(kept) {
            let _ = store.commit(now, changes);
        }
        self.calls.iter().for_each(|call| oracle.ended(number(&call.delivery)));
    }

    /// What the worker and its crew do in one turn.
    pub fn work(&mut self, around: &mut Around<'_>) {
        let mut report = Report::default();
        self.take_answers(around, &mut report);
        self.give_up(around, &mut report);
        self.give_back(around.now, &mut report);
        self.start_calls(around, &mut report);
        let is_resting = self.shard.started().next().is_none();
        let until = self.shard.poll_timeout().wall.filter(|_| is_resting);
        if std::mem::replace(&mut self.blocked, until) != until || self.taken > self.told || !report.is_empty() {
            (report.blocked_until, report.taken) = (until, self.taken);
        }
        self.told = self.taken;
        if !report.is_empty() {
            self.engine.handle_report(around.now, report);
        }
    }

    fn take_answers(&mut self, around: &mut Around<'_>, report: &mut Report) {
        let now = around.now;
        let is_answered = |call: &mut Call| call.answer.as_ref().is_some_and(|(at, _)| *at <= now.mono);
        for call in self.calls.extract_if(.., is_answered) {
            let Call { token, delivery, started, answer, is_given_up } = call;
            let Some((_, ending)) = answer else { continue };
            let attempt = Attempt { delivery, started: Some(started), called: true, ending };
            if is_given_up {
                report.late.push(attempt);
            } else if let Some(ended) = self.shard.finish(token) {
                around.oracle.ended(number(&ended.delivery));
                let health = attempt.ending.is_healthy();
                self.gate.leave(ended.delivery.profile(), ended.entered, now.wall, health);
                report.ended.push(attempt);
            }
        }
    }

    fn give_up(&mut self, around: &mut Around<'_>, report: &mut Report) {
        while let Some(Ended { token, delivery, .. }) = self.shard.poll_expired(around.now) {
            around.oracle.ended(number(&delivery));
            let call = self.calls.iter_mut().find(|call| call.token == token && !call.is_given_up);
            let started = call.map(|call| {
                call.is_given_up = true;
                call.started
            });
            let ending = Ending::TimedOut { after: TIMEOUT };
            report.ended.push(Attempt { delivery, started, called: true, ending });
        }
        // As many as may be in flight are kept; the oldest is stopped first.
        while self.calls.iter().filter(|call| call.is_given_up).count() > GIVEN_UP {
            if let Some(oldest) = self.calls.iter().position(|call| call.is_given_up) {
                self.calls.remove(oldest);
            }
        }
    }

    fn give_back(&mut self, now: Now, report: &mut Report) {
        while let Some(delivery) = self.shard.poll_missed(now) {
            if delivery.facts().stage.withdraw() {
                report.ended.push(Attempt { delivery, started: None, called: false, ending: Ending::TooLate });
            }
        }
        while let Some((delivery, until)) = self.shard.poll_returned(now) {
            if delivery.facts().stage.withdraw() {
                report.returned.push((delivery, until));
            }
        }
    }

    fn start_calls(&mut self, around: &mut Around<'_>, report: &mut Report) {
        let mut starting = Vec::new();
        while let Some(start) = self.shard.poll_start(around.now) {
            starting.push(start);
        }
        let attempts: Vec<_> = starting.iter().map(|(_, to)| (to.id().seq(), to.facts().claim)).collect();
        if let Some(log) = self.log.as_ref().filter(|_| !attempts.is_empty()) {
            log.calling(&attempts);
        }
        for (token, delivery) in starting {
            if let Some(ending) = self.call(around, token, &delivery)
                && let Some(ended) = self.shard.finish(token)
            {
                self.gate.leave(ended.delivery.profile(), ended.entered, around.now.wall, None);
                report.ended.push(Attempt { delivery, started: Some(around.now.wall), called: false, ending });
            }
        }
    }

    /// The broadcaster is called, or asked about an earlier attempt; how it ended if it was not called.
    fn call(&mut self, around: &mut Around<'_>, token: Token, delivery: &Delivery) -> Option<Ending> {
        let (now, facts, post) = (around.now, delivery.facts(), number(delivery));
        let is_asked = facts.task == Task::Broadcast && facts.doubt == Doubt::Open;
        if !(if is_asked { facts.stage.ask() } else { facts.stage.call() }) {
            self.shard.finish(token);
            return None;
        }
        if facts.deadline.is_some_and(|deadline| now.wall > deadline) {
            return Some(Ending::TooLate);
        }
        if is_asked {
            let is_late = facts.last.is_some_and(|last| now.wall > last);
            let found = match around.rng.random_range(0..4) {
                0 => return Some(Ending::Unreconciled(BroadcastError::transient("503"))),
                1 => Reconciled::Unknown,
                _ if around.oracle.is_published(post) => Reconciled::Sent(Receipt::new("u")),
                _ => Reconciled::NotSent,
            };
            match found {
                Reconciled::NotSent => {
                    self.calls.retain(|call| !call.is_given_up || call.delivery.id() != delivery.id());
                    if !facts.is_allowed {
                        return Some(Ending::Reconciled(Reconciled::NotSent));
                    }
                    facts.stage.clear_doubt();
                    if is_late {
                        return Some(Ending::TooLate);
                    }
                }
                Reconciled::Unknown if facts.is_allowed && facts.guarantee == Guarantee::AtLeastOnce && !is_late => {}
                found => return Some(Ending::Reconciled(found)),
            }
            if !facts.stage.call() {
                return Some(Ending::Unreconciled(BroadcastError::transient("taken back")));
            }
        }
        around.oracle.call(post, self.number, now.wall, facts.due, delivery.is_redelivery());
        let fate = around.network.fate(around.rng);
        if fate.publishes {
            around.oracle.published(post);
        }
        if let Some(fault) = fate.fault {
            (around.faults)(fault);
        }
        let answer = fate.answer.map(|(after, ending)| (now.mono + after, ending));
        self.calls.push(Call { token, delivery: delivery.clone(), started: now.wall, answer, is_given_up: false });
        None
    }

    /// When something happens by itself.
    pub fn wake(&mut self) -> Wake {
        let answers = self.calls.iter().filter_map(|call| call.answer.as_ref().map(|(at, _)| *at));
        let answered = Wake { wall: None, mono: answers.min() };
        self.engine.poll_timeout().or(self.shard.poll_timeout()).or(answered)
    }
}
