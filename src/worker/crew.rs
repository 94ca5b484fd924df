//! The threads of one pool: they call the broadcaster, and its runtime carries on with what has to wait.
//!
//! A caller's thread polls each delivery once, where it stands; most of the work of a broadcaster that does not
//! wait is done there. What is not ready moves to the pool's runtime. A broadcaster that blocks its caller's
//! thread holds up nobody: the others take what waits, and when half of them are blocked as many are added.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, Sender};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use crate::clock::{Clock, machine_time};
use crate::limits;
use crate::pool::DynBroadcaster;
use crate::sabotage::{self, Switch};

use super::call::{Call, Callers};

/// How often the threads are looked at while something waits for one. One that is in the same call when it is looked
/// at again is blocked.
const BEAT: Duration = Duration::from_millis(10);

/// The threads of one pool.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    calls: Sender<Call>,
    /// Says when the scheduler is shutting down.
    stopping: watch::Sender<bool>,
    runtime: Arc<Carrier>,
    /// Threads to begin with, and at most.
    few: usize,
    most: usize,
    callers: Mutex<Vec<Arc<Caller>>>,
    looked: AtomicU64,
}

/// What is known of one caller's thread: the beat in which its present call began; zero if there is none.
type Caller = AtomicU64;

struct Shared {
    name: Arc<str>,
    broadcaster: Arc<dyn DynBroadcaster>,
    clock: Arc<dyn Clock>,
    calls: Receiver<Call>,
    /// Rises whenever the crew is looked at: time enough to tell short calls from long ones.
    beat: AtomicU64,
}

/// The runtime that carries on with what has to wait. It goes down with the last thread that may still be inside a
/// broadcaster: whoever wants a timer of a runtime that is gone panics.
#[derive(Debug)]
struct Carrier(Option<Runtime>);

impl Carrier {
    fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("pool", &self.name).finish_non_exhaustive()
    }
}

impl Crew {
    /// A crew of so many threads for this pool, at work; more of them while they are blocked.
    #[expect(clippy::disallowed_methods, reason = "the shards' concurrency bounds it")]
    pub fn start(
        name: &Arc<str>,
        broadcaster: &Arc<dyn DynBroadcaster>,
        threads: usize,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(thread_name(name))
            .enable_all()
            .build()?;
        let (sender, receiver) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            name: Arc::clone(name),
            broadcaster: Arc::clone(broadcaster),
            clock,
            calls: receiver,
            beat: AtomicU64::new(1),
        });
        let crew = Self {
            shared,
            calls: sender,
            stopping: watch::channel(false).0,
            runtime: Arc::new(Carrier(Some(runtime))),
            few: threads,
            most: limits::CALLERS.max(threads),
            callers: Mutex::default(),
            looked: AtomicU64::new(0),
        };
        crew.add_threads(threads)?;
        Ok(crew)
    }

    fn add_threads(&self, threads: usize) -> io::Result<()> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..threads.min(self.most.saturating_sub(callers.len())) {
            let (shared, runtime, caller) =
                (Arc::clone(&self.shared), Arc::clone(&self.runtime), Arc::<Caller>::default());
            callers.push(Arc::clone(&caller));
            let name = thread_name(&shared.name);
            thread::Builder::new().name(name).spawn(move || shared.run(&runtime, &caller)).map(drop).inspect_err(
                |_| {
                    callers.pop();
                },
            )?;
        }
        Ok(())
    }
}

impl Callers for Crew {
    fn call(&self, call: Call) {
        // The receiver is in `shared`, so it is there as long as the crew is.
        let _ = self.calls.send(call);
    }

    fn waiting(&self) -> usize {
        self.calls.len()
    }

    /// Adds threads if half of those that are there are blocked while something waits.
    fn look(&self) -> Option<Duration> {
        if self.calls.is_empty() {
            return None;
        }
        let (now, looked) = (machine_time().as_millis() as u64, self.looked.load(Ordering::Relaxed));
        if now.saturating_sub(looked) < BEAT.as_millis() as u64 {
            return Some(BEAT);
        }
        self.looked.store(now, Ordering::Relaxed);
        let beat = self.shared.beat.fetch_add(1, Ordering::Relaxed);
        let blocked = {
            let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
            let is_blocked = |since: u64| since > 0 && since < beat;
            let blocked = callers.iter().filter(|caller| is_blocked(caller.load(Ordering::Relaxed))).count();
            if blocked * 2 < callers.len() { 0 } else { blocked }
        };
        if blocked > 0 {
            // Without further threads the calls wait for the blocked ones, which is all that is left.
            let _ = self.add_threads(blocked.max(self.few));
        }
        Some(BEAT)
    }

    fn stop(&self) {
        self.stopping.send_replace(true);
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}

impl Shared {
    fn run(&self, runtime: &Carrier, caller: &Caller) {
        let Some(runtime) = runtime.handle() else { return };
        // What the broadcaster spawns, sleeps and connects belongs to the runtime, not to this thread.
        let _context = runtime.enter();
        while let Ok(call) = self.calls.recv() {
            caller.store(self.beat.load(Ordering::Relaxed), Ordering::Relaxed);
            // Even what a broadcaster leaves behind may panic when it is dropped.
            let made = catch_unwind(AssertUnwindSafe(|| call.make(&self.broadcaster, &self.clock, runtime)));
            if made.is_err() && sabotage::is(Switch::PanicKillsPool) {
                return;
            }
            caller.store(0, Ordering::Relaxed);
        }
    }
}

/// Threads cannot have a NUL in their names; pools can.
fn thread_name(pool: &str) -> String {
    format!("punctual {}", pool.replace('\0', "?"))
}
