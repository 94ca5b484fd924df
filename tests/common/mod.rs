//! What the tests of the promises share: a clock moved by hand, and a broadcaster that remembers.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use punctual::{
    BroadcastError, Broadcaster, Builder, Delivery, ManualClock, MemoryStore, Pool, PostId, Receipt, RetryPolicy,
    Scheduler,
};

pub const START: &str = "2030-01-07T07:00:00Z";

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One call of a broadcaster, as it saw it.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: PostId,
    pub payload: String,
    pub due: DateTime<Utc>,
    pub called: DateTime<Utc>,
    pub attempt: u32,
    pub redelivery: bool,
    pub idempotency_key: String,
}

/// A broadcaster that remembers what it was called with, and answers as it is told.
#[derive(Clone)]
pub struct Outbox {
    clock: ManualClock,
    calls: Arc<Mutex<Vec<Call>>>,
    answers: Arc<Mutex<HashMap<String, Vec<Answer>>>>,
}

type Answer = Result<Receipt, BroadcastError>;

impl Outbox {
    pub fn new(clock: &ManualClock) -> Self {
        Self { clock: clock.clone(), calls: Arc::default(), answers: Arc::default() }
    }

    /// The next call for this payload gets this answer; without one it gets a receipt.
    pub fn answer(&self, payload: &str, answer: Answer) {
        self.answers.lock().unwrap().entry(payload.to_owned()).or_default().insert(0, answer);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub fn payloads(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.payload).collect()
    }
}

impl Broadcaster for Outbox {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
        self.calls.lock().unwrap().push(Call {
            id: delivery.id(),
            payload: payload.clone(),
            due: delivery.due(),
            called: self.clock.now(),
            attempt: delivery.attempt(),
            redelivery: delivery.is_redelivery(),
            idempotency_key: delivery.idempotency_key(),
        });
        let answer = self.answers.lock().unwrap().get_mut(&payload).and_then(Vec::pop);
        answer.unwrap_or_else(|| Ok(Receipt::new(format!("sent {payload}"))))
    }
}

/// A scheduler in memory at [`START`], with one pool named "p".
pub struct World {
    pub clock: ManualClock,
    pub store: MemoryStore,
    pub outbox: Outbox,
    pub scheduler: Scheduler,
}

impl World {
    pub fn new() -> Self {
        Self::with(|pool| pool, |builder| builder)
    }

    pub fn with(pool: impl FnOnce(Pool) -> Pool, builder: impl FnOnce(Builder) -> Builder) -> Self {
        let clock = ManualClock::at(at(START));
        Self::on(MemoryStore::default(), clock, pool, builder)
    }

    pub fn on(
        store: MemoryStore,
        clock: ManualClock,
        pool: impl FnOnce(Pool) -> Pool,
        builder: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let outbox = Outbox::new(&clock);
        let retry = RetryPolicy::exponential(secs(10)).max_attempts(3);
        let pool = pool(Pool::new("p", outbox.clone()).retry(retry));
        let builder = builder(Scheduler::builder().store(store.clone()).clock(clock.clone()).pool(pool));
        let scheduler = builder.start().unwrap();
        Self { clock, store, outbox, scheduler }
    }

    /// Lets time pass in steps and waits after each until everything that is due has been done.
    pub fn pass(&self, by: Duration) {
        self.clock.advance(by);
        self.scheduler.settle().wait().unwrap();
    }
}
