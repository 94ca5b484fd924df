//! The threads of one pool: they call the broadcaster, and its runtime carries on with what has to wait.
//!
//! A caller's thread polls each delivery once, where it stands; most of the work of a broadcaster that does not
//! wait is done there. What is not ready moves to the pool's runtime. A broadcaster that blocks its caller's
//! thread holds up nobody: the others take what waits, and when half of them are blocked as many are added.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, Sender};
use tokio::runtime::{Handle, Runtime};
use tokio::task::AbortHandle;

use crate::clock::{Bell, Clock, machine_time};
use crate::limits;
use crate::pool::{BroadcastFuture, DynBroadcaster, Pool};
use crate::post::{Delivery, Ending};
use crate::shard::Token;
use crate::time::Timestamp;

/// How often the threads are looked at while something waits for one. One that is in the same call when it is looked
/// at again is blocked.
const BEAT: Duration = Duration::from_millis(10);

/// A delivery to be called.
#[derive(Debug)]
pub struct Call {
    pub token: Token,
    pub delivery: Delivery,
    /// Where to say what came of it.
    pub port: Port,
}

/// What is said of a call.
#[derive(Debug)]
pub enum Said {
    /// The wall clock had stepped back before the due when it was about to be called.
    TooEarly { token: Token, delivery: Delivery },
    /// It goes on in the runtime and can be stopped.
    Waits { token: Token, started: Timestamp, abort: AbortHandle },
    /// It has ended.
    Ended { token: Token, started: Timestamp, ending: Ending },
}

/// The way back to a worker. Never fuller than the worker's shard has deliveries running.
#[derive(Clone, Debug)]
pub struct Port {
    sender: Sender<Said>,
    bell: Bell,
}

impl Port {
    #[expect(clippy::disallowed_methods, reason = "the shard's concurrency bounds it")]
    pub fn new(bell: &Bell) -> (Self, Receiver<Said>) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        (Self { sender, bell: bell.clone() }, receiver)
    }

    fn say(&self, said: Said) {
        // If the worker has ended, nobody wants to know any more.
        if self.sender.send(said).is_ok() {
            self.bell.ring();
        }
    }
}

/// The threads of one pool.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    calls: Sender<Call>,
    runtime: Option<Runtime>,
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

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("pool", &self.name).finish_non_exhaustive()
    }
}

impl Crew {
    /// The crew of this pool, at work.
    #[expect(clippy::disallowed_methods, reason = "the shards' concurrency bounds it")]
    pub fn start(pool: &Pool, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(pool.threads)
            .thread_name(thread_name(&pool.name))
            .enable_all()
            .build()?;
        let (sender, receiver) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            name: Arc::clone(&pool.name),
            broadcaster: Arc::clone(&pool.broadcaster),
            clock,
            calls: receiver,
            beat: AtomicU64::new(1),
        });
        let crew = Self {
            shared,
            calls: sender,
            runtime: Some(runtime),
            few: pool.threads,
            most: pool.concurrency.min(limits::CALLERS).max(pool.threads),
            callers: Mutex::default(),
            looked: AtomicU64::new(0),
        };
        crew.add_threads(pool.threads)?;
        Ok(crew)
    }

    /// Has a delivery called.
    pub fn call(&self, call: Call) {
        // The receiver is in `shared`, so it is there as long as the crew is.
        let _ = self.calls.send(call);
    }

    /// Adds threads if half of those that are there are blocked while something waits. Returns after how long to
    /// look again, if anything does.
    pub fn look(&self) -> Option<Duration> {
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

    fn add_threads(&self, threads: usize) -> io::Result<()> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..threads.min(self.most.saturating_sub(callers.len())) {
            let (shared, handle, caller) =
                (Arc::clone(&self.shared), runtime.handle().clone(), Arc::<Caller>::default());
            callers.push(Arc::clone(&caller));
            let name = thread_name(&shared.name);
            thread::Builder::new().name(name).spawn(move || shared.run(&handle, &caller)).map(drop).inspect_err(
                |_| {
                    callers.pop();
                },
            )?;
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // Threads inside a broadcaster that blocks cannot be stopped; they end with it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn run(&self, runtime: &Handle, caller: &Caller) {
        // What the broadcaster spawns, sleeps and connects belongs to the runtime, not to this thread.
        let _context = runtime.enter();
        while let Ok(call) = self.calls.recv() {
            caller.store(self.beat.load(Ordering::Relaxed), Ordering::Relaxed);
            // Even what a broadcaster leaves behind may panic when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| self.call(call, runtime)));
            caller.store(0, Ordering::Relaxed);
        }
    }

    fn call(&self, Call { token, delivery, port }: Call, runtime: &Handle) {
        let started = self.clock.wall();
        if started < delivery.facts().at {
            return port.say(Said::TooEarly { token, delivery });
        }
        if !delivery.facts().stage.call() {
            return;
        }
        let broadcaster = Arc::clone(&self.broadcaster);
        let mut attempt = match catch_unwind(AssertUnwindSafe(|| broadcaster.call(delivery))) {
            Ok(future) => Attempt(future),
            Err(panic) => return port.say(Said::Ended { token, started, ending: panicked(&*panic) }),
        };
        // The first poll is made here, with a waker that wakes nobody: if it is not ready, the runtime polls
        // again at once with a real one.
        match pin!(&mut attempt).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ending) => port.say(Said::Ended { token, started, ending }),
            Poll::Pending => {
                let back = port.clone();
                let task =
                    runtime.spawn(async move { back.say(Said::Ended { token, started, ending: attempt.await }) });
                port.say(Said::Waits { token, started, abort: task.abort_handle() });
            }
        }
    }
}

/// A broadcaster's call that ends even if it panics.
struct Attempt(BroadcastFuture);

impl Future for Attempt {
    type Output = Ending;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ending> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(answer) => answer.map(Ending::Answered),
            Err(panic) => Poll::Ready(panicked(&*panic)),
        }
    }
}

/// Threads cannot have a NUL in their names; pools can.
fn thread_name(pool: &str) -> String {
    format!("punctual {}", pool.replace('\0', "?"))
}

fn panicked(panic: &(dyn Any + Send)) -> Ending {
    let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
    Ending::Panicked { message: message.unwrap_or_else(|| "without a message".to_owned()) }
}
