//! The loop that owns the engine: takes what arrives, lets time pass, carries out the effects, sleeps.

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::broadcast;

use crate::clock::{Bell, Clock, Next};
use crate::engine::{Answer, Command, Effect, Engine, Report, Request};
use crate::error::{Error, StoreError};
use crate::inbox::{Inbox, Refused, Slot, Take};
use crate::limits;
use crate::post::{Delivery, Event};
use crate::reply::Promise;
use crate::worker::{Callers, Order};

/// What a driver is made of.
#[derive(Debug)]
pub struct Driver {
    pub engine: Engine,
    pub bell: Bell,
    pub commands: Inbox<Command>,
    pub answers: Inbox<Answer>,
    pub reports: Inbox<Report>,
    pub store: Slot<Request>,
    pub desks: Vec<DeskEnd>,
    pub crews: Vec<Arc<dyn Callers>>,
    pub events: broadcast::Sender<Event>,
    /// Who waits for the end, once it has come, and whether the store hangs.
    pub end: Option<(Option<Promise<()>>, bool)>,
}

/// The threads of the other loops.
#[derive(Debug)]
pub struct Threads {
    pub workers: Vec<thread::JoinHandle<()>>,
    pub committer: thread::JoinHandle<Result<(), StoreError>>,
}

/// The driver's end of one worker.
#[derive(Debug)]
pub struct DeskEnd {
    pub orders: Slot<Order>,
    /// Orders that found the worker's inbox full.
    pub backlog: Vec<Order>,
}

impl Driver {
    /// Starts the loop on a thread of its own. At its end it waits for the others.
    pub fn start(mut self, clock: Arc<dyn Clock>, threads: Threads) -> io::Result<thread::JoinHandle<()>> {
        clock.attach(self.bell.clone());
        thread::Builder::new().name("punctual driver".to_owned()).spawn(move || {
            while self.turn(&*clock).go_on(&*clock, &self.bell) {}
            self.stop(threads);
        })
    }

    /// Takes what has arrived, lets time pass, carries out the effects.
    pub fn turn(&mut self, clock: &dyn Clock) -> Next {
        // First what has arrived, then the time: what was said before the clock moved is judged after.
        let commands = self.take_commands();
        let answers: Vec<_> = self.answers.drain().collect();
        let reports: Vec<_> = self.reports.drain().collect();
        let now = clock.now();
        self.engine.watch(self.events.receiver_count() > 0);
        answers.into_iter().for_each(|answer| self.engine.handle_answer(now, answer));
        reports.into_iter().for_each(|report| self.engine.handle_report(now, report));
        commands.into_iter().for_each(|command| self.engine.handle_command(now, command));
        self.engine.handle_timeout(now);
        while let Some(effect) = self.engine.poll_effect() {
            self.carry_out(effect);
            if self.end.is_some() {
                return Next::End;
            }
        }
        let waiting = self.desks.iter_mut().map(DeskEnd::pass_on).fold(false, |any, full| any | full);
        if self.engine.takes_commands() && !self.commands.is_empty() {
            Next::Again
        } else if waiting {
            Next::Yield
        } else {
            Next::Wait(self.engine.poll_timeout())
        }
    }

    fn take_commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        while self.engine.takes_commands() && commands.len() < limits::COMMANDS_PER_TURN {
            match self.commands.take() {
                Take::Message(command) => commands.push(command),
                Take::Empty => break,
                Take::Deserted => {
                    // No handle is left: finish what is under way, then end.
                    if !self.engine.is_closing() {
                        let (promise, _) = Promise::new();
                        commands.push(Command::Shutdown { grace: limits::GRACE, promise });
                    }
                    break;
                }
            }
        }
        commands
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            // The engine never has more requests under way than the committer's inbox holds.
            Effect::Ask(request) => self.store.put_waiting(request),
            Effect::Deliver { shard, deliveries } => self.order(shard, Order::Deliver(deliveries)),
            Effect::Look { shards } => shards.for_each(|shard| self.order(shard, Order::Look)),
            Effect::Stopping => self.crews.iter().for_each(|crew| crew.stop()),
            Effect::Emit(event) => {
                // An error means that nobody listens.
                let _ = self.events.send(event);
            }
            Effect::Stop { promise, hangs } => self.end = Some((promise, hangs)),
        }
    }

    fn order(&mut self, shard: usize, order: Order) {
        if let Some(desk) = self.desks.get_mut(shard) {
            desk.backlog.push(order);
        }
    }

    /// Ends all loops, the store last, and says so. A store that hangs is left to itself.
    fn stop(self, threads: Threads) {
        let Self { commands, answers, reports, store, desks, crews, end, .. } = self;
        let (promise, hangs) = end.unwrap_or_default();
        // Nobody reads these any more; a loop that waits for room in them goes on.
        drop((answers, reports));
        drop(desks);
        for worker in threads.workers {
            let _ = worker.join();
        }
        drop(crews);
        drop(store);
        let closed = if hangs {
            Err(Error::StoreStalled { stalled: Duration::ZERO })
        } else {
            threads.committer.join().unwrap_or(Err(StoreError::Poisoned)).map_err(Error::Store)
        };
        drop(commands);
        if let Some(promise) = promise {
            promise.fulfil(closed);
        }
    }
}

impl DeskEnd {
    /// Passes on what has gathered; true if the worker's inbox is full.
    fn pass_on(&mut self) -> bool {
        let mut orders = std::mem::take(&mut self.backlog).into_iter();
        while let Some(order) = orders.next() {
            match self.orders.put(order) {
                Ok(()) => {}
                Err(Refused::Full(order)) => {
                    self.backlog = std::iter::once(order).chain(orders).collect();
                    self.join_deliveries();
                    return true;
                }
                Err(Refused::Closed(_)) => return false,
            }
        }
        false
    }

    /// Makes one order of deliveries that wait in a row.
    fn join_deliveries(&mut self) {
        let mut joined: Vec<Order> = Vec::new();
        for order in self.backlog.drain(..) {
            match (joined.last_mut(), order) {
                (Some(Order::Deliver(before)), Order::Deliver(more)) => before.extend::<Vec<Delivery>>(more),
                (_, order) => joined.push(order),
            }
        }
        self.backlog = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::inbox;
    use crate::post::Post;
    use crate::shard::model::{dated, number};

    #[test]
    fn what_waits_for_a_full_inbox_is_joined_and_passed_on_in_order() {
        let deliver = |seqs: std::ops::Range<u64>| {
            Order::Deliver(seqs.map(|seq| dated(seq, 0, None, &Post::new("p", "x"))).collect())
        };
        let (orders, desk) = inbox(2, &Bell::default());
        let backlog = vec![deliver(0..1), Order::Look, deliver(1..3), deliver(3..4), Order::Look, deliver(4..5)];
        let mut end = DeskEnd { orders, backlog };
        assert!(end.pass_on());
        assert_eq!(end.backlog.len(), 3, "those in a row are one");
        let mut taken = Vec::new();
        while !taken.ends_with(&[vec![4]]) {
            while let Take::Message(order) = desk.take() {
                taken.push(match order {
                    Order::Deliver(deliveries) => deliveries.iter().map(number).collect(),
                    Order::Look => Vec::new(),
                });
            }
            let is_full = end.pass_on();
            assert_eq!(is_full, !end.backlog.is_empty());
        }
        assert_eq!(taken, [vec![0], vec![], vec![1, 2, 3], vec![], vec![4]]);
    }
}
