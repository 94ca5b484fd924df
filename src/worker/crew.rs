//! The threads of one pool: they call the broadcaster, and its runtime carries on with what has to wait.
//!
//! A caller's thread polls each delivery once, where it stands; most of the work of a broadcaster that does not
//! wait is done there. What is not ready moves to the pool's runtime. A broadcaster that blocks its caller's
//! thread holds up nobody: the others take what waits, and when half of them are blocked as many are added.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{io, thread};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::clock::{Bell, Clock, machine_time};
use crate::error::Error;
use crate::id::PostId;
use crate::limits;
use crate::pool::{Call as Calling, DynBroadcaster};
use crate::post::{
    BroadcastError, Delivery, Doubt, Ending, Guarantee, Line, Prepared, Receipt, Reconciled, Task, Wire,
};
use crate::reply::Promise;
use crate::shard::Token;
use crate::time::Timestamp;

/// How often the threads are looked at while something waits for one. One that is in the same call when it is looked
/// at again is blocked.
const BEAT: Duration = Duration::from_millis(10);
/// How often it is looked whether a call that was told to stop has stopped.
const STOP_TRIES: u32 = 1_000;

/// A delivery to be called.
#[derive(Debug)]
pub struct Call {
    pub token: Token,
    pub delivery: Delivery,
    /// Where to say what came of it.
    pub port: Arc<Port>,
}

/// What is said of a call.
#[derive(Debug)]
pub enum Said {
    /// The wall clock had stepped back before the due when it was about to be called.
    TooEarly { token: Token, delivery: Delivery },
    /// It was taken back before it was called.
    Withdrawn { token: Token },
    /// It goes on in the runtime and can be stopped.
    Waits { token: Token, started: Timestamp, abort: AbortHandle },
    /// It has ended.
    Ended { token: Token, started: Timestamp, word: Word },
    /// It is alive, and has got so far.
    Beat { token: Token, progress: Option<String> },
    /// It wants this to be kept.
    Checkpoint { token: Token, bytes: Bytes, promise: Promise<()> },
}

/// How a call ended.
#[derive(Debug)]
pub enum Word {
    /// A post was to be published; whether the broadcaster was called for that.
    Attempt {
        called: bool,
        ending: Ending,
    },
    Prepared(Result<Prepared, BroadcastError>),
    Discarded,
}

/// A call that may still be answered.
#[derive(Debug)]
pub struct GivenUp {
    pub delivery: Delivery,
    /// How it can be stopped; not as long as it blocks its thread.
    pub abort: Option<AbortHandle>,
}

/// The way back to a worker. Besides a few words for each delivery that its shard has running it holds a bounded number.
#[derive(Debug)]
pub struct Port {
    /// Calls that took too long and go on all the same, by the serial of their token; the oldest first.
    given_up: Mutex<BTreeMap<u64, GivenUp>>,
    sender: Sender<Said>,
    bell: Bell,
    stopping: watch::Receiver<bool>,
}

impl Port {
    #[expect(clippy::disallowed_methods, reason = "the shard's concurrency bounds it")]
    pub fn new(bell: &Bell, crew: &Crew) -> (Self, Receiver<Said>) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let stopping = crew.stopping.subscribe();
        (Self { given_up: Mutex::default(), sender, bell: bell.clone(), stopping }, receiver)
    }

    /// Calls that took too long and go on all the same.
    pub fn given_up(&self) -> MutexGuard<'_, BTreeMap<u64, GivenUp>> {
        // Nothing in here stops half-way.
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, said: Said) {
        // If the worker has ended, nobody wants to know any more; what is dropped answers for itself.
        if self.sender.send(said).is_ok() {
            self.bell.ring();
        }
    }
}

impl Wire for Port {
    fn beat(&self, token: (usize, u64), progress: Option<String>) {
        // One beat more or less: it does not matter where so many are on their way.
        if self.sender.len() < limits::WORDS {
            self.say(Said::Beat { token: token.into(), progress });
        }
    }

    fn checkpoint(&self, token: (usize, u64), bytes: Bytes, promise: Promise<()>) {
        if self.sender.len() < limits::WORDS {
            self.say(Said::Checkpoint { token: token.into(), bytes, promise });
        } else {
            promise.fulfil(Err(Error::Overloaded));
        }
    }

    fn stop_given_up(&self, id: PostId) -> bool {
        let given_up = self.given_up();
        let mut own = given_up.values().filter(|given_up| given_up.delivery.id() == id);
        own.all(|given_up| {
            given_up.abort.as_ref().is_some_and(|abort| {
                abort.abort();
                abort.is_finished()
            })
        })
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }
}

/// The threads of one pool.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    calls: Sender<Call>,
    /// Says when the scheduler is shutting down.
    stopping: watch::Sender<bool>,
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
            runtime: Some(runtime),
            few: threads,
            most: limits::CALLERS.max(threads),
            callers: Mutex::default(),
            looked: AtomicU64::new(0),
        };
        crew.add_threads(threads)?;
        Ok(crew)
    }

    /// Tells the broadcasters that the scheduler is shutting down.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Has a delivery called.
    pub fn call(&self, call: Call) {
        // The receiver is in `shared`, so it is there as long as the crew is.
        let _ = self.calls.send(call);
    }

    /// How many calls wait for a thread.
    pub fn waiting(&self) -> usize {
        self.calls.len()
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
        let facts = delivery.facts();
        if started < facts.at {
            return port.say(Said::TooEarly { token, delivery });
        }
        let is_asked = facts.task == Task::Broadcast && facts.doubt == Doubt::Open;
        if !(if is_asked { facts.stage.ask() } else { facts.stage.call() }) {
            return port.say(Said::Withdrawn { token });
        }
        if facts.deadline.is_some_and(|deadline| started > deadline) {
            let word = Word::Attempt { called: false, ending: Ending::TooLate };
            return port.say(Said::Ended { token, started, word });
        }
        let line = Line { wire: Arc::clone(&port) as Arc<dyn Wire>, token: token.into() };
        delivery.call(line, started);
        let mut work = match catch_unwind(AssertUnwindSafe(|| Work::begin(&self.broadcaster, &delivery, &self.clock))) {
            Ok(work) => work,
            Err(panic) => return port.say(Said::Ended { token, started, word: panicked(&delivery, &*panic) }),
        };
        // The first poll is made here, with a waker that wakes nobody: if it is not ready, the runtime polls
        // again at once with a real one.
        match work.poll(&delivery, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(word) => port.say(Said::Ended { token, started, word }),
            Poll::Pending => {
                let back = Arc::clone(&port);
                let task = runtime.spawn(async move {
                    let word = poll_fn(|context| work.poll(&delivery, context)).await;
                    back.say(Said::Ended { token, started, word });
                });
                port.say(Said::Waits { token, started, abort: task.abort_handle() });
            }
        }
    }
}

/// A broadcaster's call under way.
enum Work {
    Broadcast(Calling<Result<Receipt, BroadcastError>>),
    /// First the broadcaster is asked about an earlier attempt.
    Reconcile(Calling<Word>),
    Prepare(Calling<Result<Prepared, BroadcastError>>),
    Discard(Calling<()>),
}

impl Work {
    fn begin(broadcaster: &Arc<dyn DynBroadcaster>, delivery: &Delivery, clock: &Arc<dyn Clock>) -> Self {
        let (own, given) = (Arc::clone(broadcaster), delivery.clone());
        match delivery.facts().task {
            Task::Broadcast if delivery.facts().doubt == Doubt::Open => {
                Self::Reconcile(Box::pin(reconcile_first(own, given, Arc::clone(clock))))
            }
            Task::Broadcast => Self::Broadcast(own.broadcast(given)),
            Task::Prepare => Self::Prepare(own.prepare(given)),
            Task::Discard => Self::Discard(own.discard(given)),
        }
    }

    /// Goes on with it; it ends even if it panics.
    fn poll(&mut self, delivery: &Delivery, context: &mut Context<'_>) -> Poll<Word> {
        let called = |ending| Word::Attempt { called: true, ending };
        let polled = catch_unwind(AssertUnwindSafe(|| match self {
            Self::Broadcast(call) => call.as_mut().poll(context).map(|answer| called(Ending::Answered(answer))),
            Self::Reconcile(call) => call.as_mut().poll(context),
            Self::Prepare(call) => call.as_mut().poll(context).map(Word::Prepared),
            Self::Discard(call) => call.as_mut().poll(context).map(|()| Word::Discarded),
        }));
        polled.unwrap_or_else(|panic| Poll::Ready(panicked(delivery, &*panic)))
    }
}

/// Asks what came of an earlier attempt, and publishes the post if it may be.
async fn reconcile_first(broadcaster: Arc<dyn DynBroadcaster>, delivery: Delivery, clock: Arc<dyn Clock>) -> Word {
    let facts = delivery.facts();
    let uncalled = |ending| Word::Attempt { called: false, ending };
    let later = |reason| uncalled(Ending::Unreconciled(BroadcastError::transient(reason)));
    let found = match Arc::clone(&broadcaster).reconcile(delivery.clone()).await {
        Ok(found) => found,
        Err(error) => return uncalled(Ending::Unreconciled(error)),
    };
    let is_late = || facts.last.is_some_and(|last| clock.wall() > last);
    match found {
        Reconciled::NotSent => {
            // It is not there yet: what was given up and still goes on must not publish it afterwards.
            if !stop_given_up(&delivery).await {
                return later("an earlier call is still under way");
            }
            if !facts.is_allowed {
                return uncalled(Ending::Reconciled(Reconciled::NotSent));
            }
            facts.stage.clear_doubt();
            if is_late() {
                return uncalled(Ending::TooLate);
            }
        }
        Reconciled::Unknown if facts.is_allowed && facts.guarantee == Guarantee::AtLeastOnce && !is_late() => {}
        found => return uncalled(Ending::Reconciled(found)),
    }
    // The question may have taken so long that it was given up, and another attempt is on its way.
    if !facts.stage.call() {
        return later("taken back");
    }
    Word::Attempt { called: true, ending: Ending::Answered(broadcaster.broadcast(delivery).await) }
}

/// Stops calls for this post that were given up; false if one goes on.
async fn stop_given_up(delivery: &Delivery) -> bool {
    let Some(line) = delivery.line() else { return true };
    for _ in 0..STOP_TRIES {
        if line.wire.stop_given_up(delivery.id()) {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// Threads cannot have a NUL in their names; pools can.
fn thread_name(pool: &str) -> String {
    format!("punctual {}", pool.replace('\0', "?"))
}

/// What is said of a call that panicked.
fn panicked(delivery: &Delivery, panic: &(dyn Any + Send)) -> Word {
    let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
    let message = message.unwrap_or_else(|| "without a message".to_owned());
    match delivery.facts().task {
        Task::Broadcast if delivery.facts().stage.withdraw() => {
            let error = BroadcastError::transient(format!("the broadcaster panicked: {message}"));
            Word::Attempt { called: false, ending: Ending::Unreconciled(error) }
        }
        Task::Broadcast => Word::Attempt { called: true, ending: Ending::Panicked { message } },
        Task::Prepare => Word::Prepared(Err(BroadcastError::transient(format!("the broadcaster panicked: {message}")))),
        Task::Discard => Word::Discarded,
    }
}
