//! What the broadcasters saw: which post they were called for, when and how often. The result is judged by this alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::plan::{Plan, Planned};

/// While the engine shuts down it may still send what falls due.
const CLOSING: i64 = 1_000;
const NANOS_PER_MILLI: i64 = 1_000_000;
const NEVER: i64 = i64::MAX;

/// One line for each post, written by many threads at a time.
pub struct Ledger {
    plan: Arc<Plan>,
    calls: Vec<Call>,
    sent: Vec<AtomicU64>,
    running: AtomicI64,
    missing: AtomicU64,
    complete: Notify,
}

struct Call {
    count: AtomicU32,
    first_nanos: AtomicI64,
}

/// What is wrong with the calls. All zero is right.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// Due in the lived window and never called.
    pub lost: u64,
    /// Called more than once.
    pub repeated: u64,
    /// Called before due.
    pub early: u64,
    /// Called though due after the engine was shut down.
    pub after_the_end: u64,
}

impl Faults {
    pub fn none(&self) -> bool {
        self.lost + self.repeated + self.early + self.after_the_end == 0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, repeated, early, after_the_end } = self;
        write!(f, "{lost} lost, {repeated} repeated, {early} early, {after_the_end} sent after the end")
    }
}

impl Ledger {
    pub fn new(plan: Arc<Plan>) -> Self {
        let blank = || Call { count: AtomicU32::new(0), first_nanos: AtomicI64::new(NEVER) };
        Self {
            calls: plan.posts.iter().map(|_| blank()).collect(),
            sent: plan.pools.iter().map(|_| AtomicU64::new(0)).collect(),
            running: AtomicI64::new(0),
            missing: AtomicU64::new(plan.lived().count() as u64),
            complete: Notify::new(),
            plan,
        }
    }

    /// A broadcaster was called for the post of this number; answers what was planned for it.
    pub fn begin(&self, number: usize, at: i64) -> Option<Planned> {
        let (call, post) = (self.calls.get(number)?, *self.plan.posts.get(number)?);
        call.first_nanos.fetch_min(at, Relaxed);
        self.running.fetch_add(1, Relaxed);
        if call.count.fetch_add(1, Relaxed) == 0 && self.plan.window.contains(&post.due) {
            if let Some(sent) = self.sent.get(usize::from(post.pool)) {
                sent.fetch_add(1, Relaxed);
            }
            if self.missing.fetch_sub(1, Relaxed) == 1 {
                self.complete.notify_one();
            }
        }
        Some(post)
    }

    /// It is done.
    pub fn end(&self) {
        self.running.fetch_sub(1, Relaxed);
    }

    /// Waits until a broadcaster has been called for each post of the lived window.
    pub async fn complete(&self) {
        self.complete.notified().await;
    }

    /// Posts of the lived window sent so far, for each pool.
    pub fn sent(&self) -> impl Iterator<Item = u64> {
        self.sent.iter().map(|sent| sent.load(Relaxed))
    }

    /// Posts of the lived window not sent yet.
    pub fn missing(&self) -> u64 {
        self.missing.load(Relaxed)
    }

    /// Broadcasters at work.
    pub fn running(&self) -> i64 {
        self.running.load(Relaxed)
    }

    /// The posts of the lived window, each with its lateness in nanoseconds if it was sent.
    pub fn lateness(&self) -> impl Iterator<Item = (&Planned, Option<i64>)> {
        self.plan.lived().map(|(number, post)| {
            let first = self.calls.get(number).map_or(NEVER, |call| call.first_nanos.load(Relaxed));
            (post, (first != NEVER).then(|| first - post.due * NANOS_PER_MILLI))
        })
    }

    /// Judges all posts, those beyond the lived window too; the engine was shut down at `closed` (ms).
    pub fn faults(&self, closed: i64) -> Faults {
        let mut faults = Faults::default();
        for (post, call) in self.plan.posts.iter().zip(&self.calls) {
            let count = call.count.load(Relaxed);
            let called = count > 0;
            faults.lost += u64::from(!called && self.plan.window.contains(&post.due));
            faults.repeated += u64::from(count > 1);
            faults.early += u64::from(called && call.first_nanos.load(Relaxed) < post.due * NANOS_PER_MILLI);
            faults.after_the_end += u64::from(called && post.due > closed + CLOSING);
        }
        faults
    }
}

/// The wall clock in nanoseconds since 1970: what the posts were promised by.
#[allow(clippy::disallowed_methods, reason = "a witness reads a clock of its own, not the engine's")]
pub fn wall_nanos() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX)
}

/// The wall clock in milliseconds since 1970.
pub fn wall_millis() -> i64 {
    wall_nanos() / NANOS_PER_MILLI
}
