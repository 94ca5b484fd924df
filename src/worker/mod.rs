//! The loop that owns one shard of a pool: takes deliveries, starts what may start, reports what came of it.

mod crew;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::Receiver;
use rustc_hash::FxHasher;
use tokio::task::AbortHandle;

pub use crew::Crew;
use crew::{Call, Port, Said};

use crate::clock::{Bell, Clock};
use crate::engine::{Attempt, Report};
use crate::id::PostId;
use crate::inbox::{Inbox, Slot, Take};
use crate::post::{Delivery, Ending};
use crate::shard::{Ended, Shard, Token};
use crate::time::{Now, Timestamp, Wake};

/// What a worker is told.
#[derive(Debug)]
pub enum Order {
    Deliver(Vec<Delivery>),
    Recall(PostId),
    RecallAll,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Worker {
    pub shard: Shard,
    pub timeout: Duration,
    pub orders: Inbox<Order>,
    pub reports: Slot<Report>,
    pub bell: Bell,
    pub crew: Arc<Crew>,
}

/// Most calls that are reported at once, so that the first of a spike do not wait for the last.
const REPORT: usize = 2_048;

impl Worker {
    /// Starts the loop on a thread of its own. It ends when nobody is left to give orders.
    pub fn start(self, clock: Arc<dyn Clock>) -> io::Result<thread::JoinHandle<()>> {
        clock.attach(self.bell.clone());
        let (port, said) = Port::new(&self.bell);
        let desk = Desk { worker: self, port, said, waiting: HashMap::default() };
        thread::Builder::new().name("punctual shard".to_owned()).spawn(move || desk.run(&*clock))
    }
}

/// The loop's state.
struct Desk {
    worker: Worker,
    port: Port,
    said: Receiver<Said>,
    /// Calls that go on in the runtime, by the index of their token.
    waiting: HashMap<usize, (Token, Timestamp, AbortHandle), BuildHasherDefault<FxHasher>>,
}

impl Desk {
    fn run(mut self, clock: &dyn Clock) {
        loop {
            let mut report = Report::default();
            if self.take_orders(&mut report) {
                // Nobody wants to know any more; what has not been called yet shall not be.
                for delivery in self.worker.shard.started() {
                    delivery.facts().stage.withdraw();
                }
                return;
            }
            let more = self.take_answers(&mut report);
            let now = clock.now();
            self.give_up(now, &mut report);
            self.start_calls(now);
            if !report.is_empty() {
                self.worker.reports.put_waiting(report);
            }
            if !more {
                let look = self.worker.crew.look().map(|after| now.mono + after);
                let until = self.worker.shard.poll_timeout().or(Wake { wall: None, mono: look });
                clock.wait(until, &self.worker.bell);
            }
        }
    }

    /// True if nobody is left to give orders.
    fn take_orders(&mut self, report: &mut Report) -> bool {
        loop {
            match self.worker.orders.take() {
                Take::Message(Order::Deliver(deliveries)) => {
                    deliveries.into_iter().for_each(|delivery| self.worker.shard.push(delivery));
                }
                Take::Message(Order::Recall(id)) => match self.worker.shard.recall(id) {
                    Some(slot) => report.recalled.push((id, slot)),
                    None => report.kept.push(id),
                },
                Take::Message(Order::RecallAll) => {
                    report.recalled.extend(self.worker.shard.recall_all());
                    report.recalled_all = true;
                }
                Take::Empty => return false,
                Take::Deserted => return true,
            }
        }
    }

    /// True if there is more than one report takes.
    fn take_answers(&mut self, report: &mut Report) -> bool {
        for said in self.said.try_iter().take(REPORT) {
            match said {
                Said::Ended { token, started, ending } => {
                    if self.waiting.get(&token.index()).is_some_and(|(waiting, ..)| *waiting == token) {
                        self.waiting.remove(&token.index());
                    }
                    if let Some(Ended { delivery, .. }) = self.worker.shard.finish(token) {
                        let (id, slot) = (delivery.id(), delivery.facts().slot);
                        report.ended.push(Attempt { id, slot, started: Some(started), ending });
                    }
                }
                Said::Waits { token, started, abort } => {
                    if self.worker.shard.is_running(token) {
                        self.waiting.insert(token.index(), (token, started, abort));
                    } else {
                        abort.abort();
                    }
                }
                Said::TooEarly { token, delivery } => {
                    if self.worker.shard.finish(token).is_some() {
                        self.worker.shard.push(delivery);
                    }
                }
            }
        }
        !self.said.is_empty()
    }

    /// Gives up what is out of time. Its future is dropped, its place is free. What has waited in vain for a thread
    /// has not been called: it is given back.
    fn give_up(&mut self, now: Now, report: &mut Report) {
        while let Some(Ended { token, delivery }) = self.worker.shard.poll_expired(now) {
            let (id, slot) = (delivery.id(), delivery.facts().slot);
            if delivery.facts().stage.withdraw() {
                report.recalled.push((id, slot));
                continue;
            }
            let started = self.waiting.remove(&token.index()).map(|(_, started, abort)| {
                abort.abort();
                started
            });
            let ending = Ending::TimedOut { after: self.worker.timeout };
            report.ended.push(Attempt { id, slot, started, ending });
        }
    }

    fn start_calls(&mut self, now: Now) {
        while let Some((token, delivery)) = self.worker.shard.poll_start(now) {
            self.worker.crew.call(Call { token, delivery, port: self.port.clone() });
        }
    }
}
