//! One call of a broadcaster: what is looked at before it, how it goes on, and the way back to the worker.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::clock::{Bell, Clock};
use crate::error::Error;
use crate::id::PostId;
use crate::limits;
use crate::marks::{self, Mark};
use crate::pool::{Call as Calling, DynBroadcaster};
use crate::post::{
    BroadcastError, Delivery, Doubt, Ending, Guarantee, Line, Prepared, Receipt, Reconciled, Task, Wire,
};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};
use crate::shard::Token;
use crate::time::Timestamp;

/// How often it is looked whether a call that was told to stop has stopped.
const STOP_TRIES: u32 = 1_000;

/// Those who make the calls of a pool.
pub trait Callers: fmt::Debug + Send + Sync {
    /// Has a delivery called.
    fn call(&self, call: Call);

    /// How many calls wait for a thread.
    fn waiting(&self) -> usize;

    /// Sees to it that calls that wait are made although others block their threads. After how long to look again, if any
    /// wait.
    fn look(&self) -> Option<Duration>;

    /// Tells the broadcasters that the scheduler is shutting down.
    fn stop(&self);

    /// Says when it is.
    fn stopping(&self) -> watch::Receiver<bool>;
}

/// A delivery to be called.
#[derive(Debug)]
pub struct Call {
    pub token: Token,
    pub delivery: Delivery,
    /// Where to say what came of it.
    pub port: Arc<Port>,
}

impl Call {
    /// Calls the broadcaster, and says what came of it. What has to wait goes on in the runtime.
    pub fn make(self, broadcaster: &Arc<dyn DynBroadcaster>, clock: &Arc<dyn Clock>, runtime: &Handle) {
        let Self { token, delivery, port } = self;
        let started = clock.wall();
        let facts = delivery.facts();
        if started < facts.at {
            return port.say(Said::TooEarly { token, delivery });
        }
        let is_asked = facts.task == Task::Broadcast && facts.doubt == Doubt::Open;
        if !(if is_asked { facts.stage.ask() } else { facts.stage.call() }) {
            return port.say(Said::Withdrawn { token });
        }
        if facts.deadline.is_some_and(|deadline| started > deadline) {
            marks::reach(Mark::MissedAtCall);
            let word = Word::Attempt { called: false, ending: Ending::TooLate };
            return port.say(Said::Ended { token, started, word });
        }
        let line = Line { wire: Arc::clone(&port) as Arc<dyn Wire>, token: token.into() };
        delivery.call(line, started);
        let mut work = match catch_unwind(AssertUnwindSafe(|| Work::begin(broadcaster, &delivery, clock))) {
            Ok(work) => work,
            Err(panic) => return port.say(Said::Ended { token, started, word: panicked(&delivery, panic) }),
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
                port.say(Said::Waits { token, started, stop: StopOnDrop(task.abort_handle()) });
            }
        }
    }
}

/// What is said of a call.
#[derive(Debug)]
pub enum Said {
    /// The wall clock had stepped back before the due when it was about to be called.
    TooEarly { token: Token, delivery: Delivery },
    /// It was taken back before it was called.
    Withdrawn { token: Token },
    /// It goes on in the runtime and can be stopped.
    Waits { token: Token, started: Timestamp, stop: StopOnDrop },
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
    pub stop: Option<StopOnDrop>,
}

/// Stops what goes on in the runtime as soon as nobody holds this any more.
#[derive(Debug)]
pub struct StopOnDrop(AbortHandle);

impl StopOnDrop {
    /// True if it has stopped; else it is going to.
    fn stop(&self) -> bool {
        self.0.abort();
        self.0.is_finished()
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
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
    pub fn new(bell: &Bell, callers: &dyn Callers) -> (Self, Receiver<Said>) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let (given_up, stopping) = (Mutex::default(), callers.stopping());
        (Self { given_up, sender, bell: bell.clone(), stopping }, receiver)
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
        own.all(|given_up| given_up.stop.as_ref().is_some_and(StopOnDrop::stop))
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
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
        polled.unwrap_or_else(|panic| Poll::Ready(panicked(delivery, panic)))
    }
}

/// Asks what came of an earlier attempt, and publishes the post if it may be.
async fn reconcile_first(broadcaster: Arc<dyn DynBroadcaster>, delivery: Delivery, clock: Arc<dyn Clock>) -> Word {
    let facts = delivery.facts();
    let uncalled = |ending| Word::Attempt { called: false, ending };
    let later = |reason| uncalled(Ending::Unreconciled(BroadcastError::transient(reason)));
    let found = match Arc::clone(&broadcaster).reconcile(delivery.clone()).await {
        Ok(found) => found,
        Err(error) => {
            marks::reach(Mark::AskedInVain);
            return uncalled(Ending::Unreconciled(error));
        }
    };
    marks::reach(match found {
        Reconciled::Sent(_) => Mark::AskedSent,
        Reconciled::NotSent => Mark::AskedNotSent,
        Reconciled::Unknown => Mark::AskedUnknown,
    });
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
                marks::reach(Mark::AskedTooLate);
                return uncalled(Ending::TooLate);
            }
        }
        Reconciled::Unknown if facts.is_allowed && facts.guarantee == Guarantee::AtLeastOnce && !is_late() => {}
        found => return uncalled(Ending::Reconciled(found)),
    }
    // The clock may have stepped back while the question was under way.
    if clock.wall() < facts.at {
        marks::reach(Mark::AskedSteppedBack);
        return later("the clock has stepped back to before its due");
    }
    // The question may have taken so long that it was given up, and another attempt is on its way.
    if !facts.stage.call() {
        marks::reach(Mark::AskedWithdrawn);
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

/// What is said of a call that panicked.
fn panicked(delivery: &Delivery, panic: Box<dyn Any + Send>) -> Word {
    if sabotage::is(Switch::PanicKillsPool) {
        std::panic::resume_unwind(Box::new("nobody catches it"));
    }
    let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
    let message = message.unwrap_or_else(|| "without a message".to_owned());
    // What it panicked with may panic in its turn when it is dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::post::Post;
    use crate::shard::model::dated;
    use crate::worker::tests::Hands;
    use std::future::Ready;
    use std::panic::panic_any;
    use std::pin::Pin;

    fn port() -> (Arc<Port>, Receiver<Said>) {
        let (port, said) = Port::new(&Bell::default(), &Hands::new());
        (Arc::new(port), said)
    }

    /// Makes a call of a post that is due at 5 s and has to begin by this instant, at 10 s.
    fn make<F>(deadline_ms: i64, broadcaster: impl Fn(Delivery) -> F + Send + Sync + 'static) -> Word
    where
        F: Future<Output = Result<Receipt, BroadcastError>> + Send + 'static,
    {
        let (port, said) = port();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp::from_millis(10_000).to_datetime()));
        let broadcaster: Arc<dyn DynBroadcaster> = Arc::new(broadcaster);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let delivery = dated(1, 5_000, Some(deadline_ms), &Post::new("p", "x"));
        Call { token: (0, 1).into(), delivery, port }.make(&broadcaster, &clock, runtime.handle());
        match said.try_recv() {
            Ok(Said::Ended { word, .. }) => word,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_call_is_made_at_its_last_instant_and_not_after_it() {
        for (deadline_ms, may_be) in [(10_001, true), (10_000, true), (9_999, false), (6_000, false)] {
            let Word::Attempt { called, ending } = make(deadline_ms, |_| async { Ok(Receipt::default()) }) else {
                panic!("another word");
            };
            assert_eq!((called, matches!(ending, Ending::TooLate)), (may_be, !may_be), "by {deadline_ms}");
        }
    }

    #[test]
    fn a_panic_whose_message_panics_again_is_a_panic() {
        struct Rude;
        impl Drop for Rude {
            fn drop(&mut self) {
                panic_any(Self);
            }
        }
        let word = make(10_000, |_| -> Ready<_> { panic_any(Rude) });
        let Word::Attempt { called: true, ending: Ending::Panicked { message } } = word else { panic!("{word:?}") };
        assert_eq!(message, "without a message");
    }

    #[test]
    fn words_that_nobody_takes_are_bounded() {
        let (port, said) = port();
        (0..=limits::WORDS).for_each(|_| port.beat((0, 1), None));
        assert_eq!(said.len(), limits::WORDS);
        let checkpoint = || {
            let (promise, mut reply) = Promise::new();
            port.checkpoint((0, 1), Bytes::new(), promise);
            Pin::new(&mut reply).poll(&mut Context::from_waker(Waker::noop()))
        };
        assert!(matches!(checkpoint(), Poll::Ready(Err(Error::Overloaded))));
        assert_eq!(said.len(), limits::WORDS);
        said.recv().unwrap();
        assert!(checkpoint().is_pending());
        assert_eq!(said.len(), limits::WORDS);
    }
}
