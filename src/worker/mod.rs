//! The loop that owns one shard of a pool: takes deliveries, starts what may start, reports what came of it.

mod call;
mod crew;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::Receiver;
use rustc_hash::FxHasher;

pub use call::{Call, Callers};
use call::{GivenUp, Port, Said, StopOnDrop, Word};
pub use crew::Crew;

use crate::clock::{Bell, Clock, Next};
use crate::engine::{Attempt, Report};
use crate::error::Error;
use crate::gate::Gate;
use crate::id::{Seq, State};
use crate::inbox::{Inbox, Slot, Take};
use crate::marks::{self, Mark};
use crate::post::{BroadcastError, Delivery, Ending, Task};
use crate::shard::{Ended, Shard, Token};
use crate::store::CallLog;
use crate::time::{Now, Timestamp, Wake};

/// What a worker is told.
#[derive(Debug)]
pub enum Order {
    Deliver(Vec<Delivery>),
    /// Limits have changed.
    Look,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Worker {
    /// The pool's place in the scheduler's list.
    pub place: usize,
    /// The shard's number, across all pools.
    pub number: usize,
    pub shard: Shard,
    /// What the pool may do; the shard asks it too.
    pub gate: Gate,
    pub concurrency: usize,
    pub timeout: Duration,
    /// Where it is noted which broadcasters are about to be called.
    pub log: Option<Arc<dyn CallLog>>,
    pub orders: Inbox<Order>,
    pub reports: Slot<Report>,
    pub bell: Bell,
    pub callers: Arc<dyn Callers>,
}

/// Most calls that are reported at once, so that the first of a spike do not wait for the last.
const REPORT: usize = 2_048;
/// Most calls that are noted and started at once.
const START: usize = 1_024;
/// With so many calls waiting for its threads the crew has enough to do for a while.
const PLENTY: usize = 64;

impl Worker {
    /// Starts the loop on a thread of its own. It ends when nobody is left to give orders.
    pub fn start(self, clock: Arc<dyn Clock>) -> io::Result<thread::JoinHandle<()>> {
        clock.attach(self.bell.clone());
        let (bell, mut desk) = (self.bell.clone(), Desk::new(self));
        let run = move || while desk.turn(&*clock).go_on(&*clock, &bell) {};
        thread::Builder::new().name("punctual shard".to_owned()).spawn(run)
    }
}

/// The loop's state.
#[derive(Debug)]
pub struct Desk {
    worker: Worker,
    port: Arc<Port>,
    said: Receiver<Said>,
    /// Deliveries, and orders to look anew, that it has taken.
    taken: u64,
    /// Until when all that waits was said to be blocked.
    blocked: Option<Timestamp>,
    /// Calls that go on in the runtime, by the index of their token.
    waiting: HashMap<usize, (Token, Timestamp, StopOnDrop), BuildHasherDefault<FxHasher>>,
    starting: Vec<(Token, Delivery)>,
}

impl Desk {
    pub fn new(worker: Worker) -> Self {
        let (port, said) = Port::new(&worker.bell, &*worker.callers);
        let (waiting, starting) = (HashMap::default(), Vec::new());
        Self { worker, port: Arc::new(port), said, taken: 0, blocked: None, waiting, starting }
    }

    /// Takes what has arrived, starts what may start, reports what came of it.
    pub fn turn(&mut self, clock: &dyn Clock) -> Next {
        let (place, shard) = (self.worker.place, self.worker.number);
        let mut report = Report { place, shard, ..Report::default() };
        let before = self.taken;
        if self.take_orders(clock) {
            // Nobody wants to know any more; what has not been called yet shall not be.
            for delivery in self.worker.shard.started() {
                delivery.facts().stage.withdraw();
            }
            // Each of them knows its way back to here.
            self.port.given_up().clear();
            return Next::End;
        }
        let now = clock.now();
        let more = self.take_answers(now, &mut report);
        self.give_up(now, &mut report);
        self.give_back(now, &mut report);
        let started_all = self.start_calls(now);
        // Nothing is under way, and what waits does so for the time: the engine need not wait for it.
        let is_resting = self.worker.shard.started().next().is_none();
        let until = self.worker.shard.poll_timeout().wall.filter(|_| is_resting);
        if std::mem::replace(&mut self.blocked, until) != until || self.taken > before || !report.is_empty() {
            (report.blocked_until, report.taken) = (until, self.taken);
        }
        let has_answers = !report.ended.is_empty();
        if !report.is_empty() {
            self.worker.reports.put_waiting(report);
        }
        if more || !started_all {
            return Next::Again;
        }
        let look = self.worker.callers.look().map(|after| now.mono + after);
        if has_answers && self.worker.callers.waiting() >= PLENTY {
            return Next::Yield;
        }
        Next::Wait(self.worker.shard.poll_timeout().or(Wake { wall: None, mono: look }))
    }

    /// When something happens by itself.
    #[cfg(any(test, feature = "test-util"))]
    pub fn poll_timeout(&self) -> Wake {
        self.worker.shard.poll_timeout()
    }

    /// True if nobody is left to give orders.
    fn take_orders(&mut self, clock: &dyn Clock) -> bool {
        loop {
            match self.worker.orders.take() {
                Take::Message(Order::Deliver(deliveries)) => {
                    self.taken += deliveries.len() as u64;
                    let now = clock.now().wall;
                    for delivery in deliveries {
                        if delivery.facts().at > now {
                            self.worker.shard.keep(delivery);
                        } else {
                            self.worker.shard.push(delivery);
                        }
                    }
                }
                Take::Message(Order::Look) => {
                    self.taken += 1;
                    self.worker.shard.look();
                }
                Take::Empty => return false,
                Take::Deserted => return true,
            }
        }
    }

    /// True if there is more than one report takes.
    fn take_answers(&mut self, now: Now, report: &mut Report) -> bool {
        for _ in 0..REPORT {
            let Ok(said) = self.said.try_recv() else { return false };
            match said {
                Said::Ended { token, started, word } => {
                    if self.waiting.get(&token.index()).is_some_and(|(waiting, ..)| *waiting == token) {
                        self.waiting.remove(&token.index());
                    }
                    self.ended(now, token, started, word, report);
                }
                Said::Waits { token, started, stop } => {
                    if self.worker.shard.is_running(token) {
                        self.waiting.insert(token.index(), (token, started, stop));
                    } else if let Some(given_up) = self.port.given_up().get_mut(&token.serial()) {
                        given_up.stop = Some(stop);
                    }
                }
                Said::TooEarly { token, delivery } => {
                    marks::reach(Mark::CalledTooEarly);
                    if let Some(ended) = self.worker.shard.finish(token) {
                        self.leave_gate(now, &ended, None, report);
                        self.worker.shard.push(delivery);
                    }
                }
                Said::Withdrawn { token } => {
                    marks::reach(Mark::CalledWithdrawn);
                    if let Some(ended) = self.worker.shard.finish(token) {
                        self.leave_gate(now, &ended, None, report);
                    }
                }
                Said::Beat { token, progress } => {
                    self.worker.shard.extend(token, now);
                    let delivery = self.worker.shard.delivery(token);
                    report.progress.extend(delivery.cloned().zip(progress));
                }
                Said::Checkpoint { token, bytes, promise } => match self.worker.shard.delivery(token) {
                    Some(delivery) => report.checkpoints.push((delivery.clone(), bytes, promise)),
                    None => {
                        marks::reach(Mark::CheckpointTooLate);
                        let id = self.port.given_up().get(&token.serial()).map(|given_up| given_up.delivery.id());
                        let late = id.map(|id| Error::TooLate { id, state: State::InDoubt });
                        promise.fulfil(Err(late.unwrap_or(Error::Closed)));
                    }
                },
            }
        }
        !self.said.is_empty()
    }

    /// A call has ended, in time or after it was given up.
    fn ended(&mut self, now: Now, token: Token, started: Timestamp, word: Word, report: &mut Report) {
        let Some(ended) = self.worker.shard.finish(token) else {
            if let Some(GivenUp { delivery, .. }) = self.port.given_up().remove(&token.serial())
                && let Word::Attempt { called, ending } = word
            {
                report.late.push(Attempt { delivery, started: Some(started), called, ending });
            }
            return;
        };
        match word {
            Word::Attempt { called, ending } => {
                let health = ending.is_healthy().filter(|_| called);
                self.leave_gate(now, &ended, health, report);
                if let Ending::Answered(Err(error)) | Ending::Unreconciled(error) = &ending
                    && let Some((scope, until)) = error.throttles(now.wall)
                {
                    self.worker.gate.throttle(scope, ended.delivery.profile(), until);
                }
                let started = (!matches!(ending, Ending::TooLate)).then_some(started);
                report.ended.push(Attempt { delivery: ended.delivery, started, called, ending });
            }
            Word::Prepared(result) => report.prepared.push((ended.delivery, result)),
            Word::Discarded => {}
        }
    }

    /// An attempt is over: what it took of the pool's limits is given back if the broadcaster was not called.
    fn leave_gate(&self, now: Now, ended: &Ended, health: Option<bool>, report: &mut Report) {
        // Where nothing is counted, it need not be known for whom.
        if !self.worker.gate.is_open() {
            let turned = self.worker.gate.leave(ended.delivery.profile(), ended.entered, now.wall, health);
            report.turned.extend(turned);
        }
    }

    /// Gives up what is out of time: its place is free. What has waited in vain for a thread has not been called: it is
    /// given back. What was called to publish goes on, and may still be answered.
    fn give_up(&mut self, now: Now, report: &mut Report) {
        while let Some(ended) = self.worker.shard.poll_expired(now) {
            let Ended { token, ref delivery, .. } = ended;
            let waiting = self.waiting.remove(&token.index());
            let (started, stop) = waiting.map(|(_, started, stop)| (started, stop)).unzip();
            let after = self.worker.timeout;
            let was_asked = delivery.facts().stage.is_asked();
            if delivery.facts().stage.withdraw() || delivery.facts().stage.is_withdrawn() {
                self.leave_gate(now, &ended, None, report);
                if was_asked {
                    // It was only asked about an earlier attempt: it is asked again later.
                    marks::reach(Mark::GivenUpAsking);
                    let error = BroadcastError::transient(format!("no answer about it within {after:?}"));
                    let (delivery, ending) = (ended.delivery, Ending::Unreconciled(error));
                    report.ended.push(Attempt { delivery, started: None, called: false, ending });
                } else {
                    marks::reach(Mark::GivenUpUncalled);
                    report.returned.push((ended.delivery, now.wall));
                }
                continue;
            }
            if delivery.facts().task != Task::Broadcast {
                if delivery.facts().task == Task::Prepare {
                    let late = BroadcastError::transient(format!("not prepared within {after:?}"));
                    report.prepared.push((ended.delivery, Err(late)));
                }
                continue;
            }
            self.leave_gate(now, &ended, Some(false), report);
            self.keep_given_up(token, GivenUp { delivery: ended.delivery.clone(), stop });
            marks::reach(Mark::GivenUp);
            let ending = Ending::TimedOut { after };
            report.ended.push(Attempt { delivery: ended.delivery, started, called: true, ending });
        }
    }

    /// Keeps a call that was given up, as many as may be in flight: the oldest that can be is stopped.
    fn keep_given_up(&self, token: Token, given_up: GivenUp) {
        let mut kept = self.port.given_up();
        kept.insert(token.serial(), given_up);
        if kept.len() > self.worker.concurrency {
            let oldest = kept.iter().find_map(|(serial, oldest)| oldest.stop.is_some().then_some(*serial));
            if let Some(serial) = oldest {
                marks::reach(Mark::GivenUpStopped);
                kept.remove(&serial);
            }
        }
    }

    /// Gives back what must not start any more, or not soon.
    fn give_back(&mut self, now: Now, report: &mut Report) {
        while let Some(delivery) = self.worker.shard.poll_missed(now) {
            if delivery.facts().stage.withdraw() {
                marks::reach(Mark::MissedInShard);
                report.ended.push(Attempt { delivery, started: None, called: false, ending: Ending::TooLate });
            }
        }
        while let Some((delivery, until)) = self.worker.shard.poll_returned(now) {
            if delivery.facts().stage.withdraw() {
                report.returned.push((delivery, until));
            }
        }
    }

    /// Starts what may start, so many at once; false if there may be more.
    fn start_calls(&mut self, now: Now) -> bool {
        while self.starting.len() < START
            && let Some(start) = self.worker.shard.poll_start(now)
        {
            self.starting.push(start);
        }
        let is_all = self.starting.len() < START;
        if let Some(log) = &self.worker.log {
            let attempts = self.starting.iter().map(|(_, delivery)| (delivery.id().seq(), delivery.facts().claim));
            let attempts: Vec<(Seq, u32)> = attempts.collect();
            if !attempts.is_empty() && !log.calling(&attempts) {
                // They are not called, and given back when their time is out.
                marks::reach(Mark::CallUnnoted);
                self.starting.retain(|(_, delivery)| !delivery.facts().stage.withdraw());
            }
        }
        for (token, delivery) in self.starting.drain(..) {
            self.worker.callers.call(Call { token, delivery, port: Arc::clone(&self.port) });
        }
        is_all
    }
}
