//! The threads of one pool: they call the broadcaster, and its runtime carries on with what has to wait.
//!
//! A caller's thread polls each delivery once, where it stands; most of the work of a broadcaster that does not
//! wait is done there. What is not ready moves to the pool's runtime. A broadcaster that blocks its caller's
//! thread holds up nobody: the others take what waits, and when half of them are blocked as many are added. They end
//! when they have not been needed for more than an hour.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
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
/// How often the threads that were added look how many are busy, and after how many looks those end that were not needed:
/// after 65 minutes, since those that every hour needs are to be there when it strikes.
const GLANCE: Duration = Duration::from_secs(1);
const GLANCES: u32 = 3_900;

/// The threads of one pool.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    calls: Sender<Call>,
    /// Says when the scheduler is shutting down.
    stopping: watch::Sender<bool>,
    runtime: Arc<Carrier>,
    looked: AtomicU64,
}

/// What is known of one caller's thread: the beat in which its present call began; zero if there is none.
type Caller = AtomicU64;

/// The threads that are there.
struct Roster {
    callers: Vec<Arc<Caller>>,
    /// So many have looked around since it was judged last how many are needed, and saw so many busy at most.
    glances: u32,
    busiest: usize,
    /// So many are needed, as was judged last.
    needed: usize,
}

impl Roster {
    const fn new() -> Self {
        Self { callers: Vec::new(), glances: 0, busiest: 0, needed: usize::MAX }
    }

    fn busy(&self) -> usize {
        self.callers.iter().filter(|caller| caller.load(Ordering::Relaxed) > 0).count()
    }

    /// Somebody looks around; now and then it is judged how many are needed.
    fn glance(&mut self, few: usize) {
        (self.glances, self.busiest) = (self.glances + 1, self.busiest.max(self.busy()));
        if self.glances >= GLANCES {
            // Between two looks more may have been busy.
            self.needed = few.max(2 * self.busiest);
            (self.glances, self.busiest) = (0, 0);
        }
    }

    /// How many are in a call that has begun before this beat, if that is half of them at least; else none.
    fn blocked(&self, beat: u64) -> usize {
        let is_blocked = |since: u64| since > 0 && since < beat;
        let blocked = self.callers.iter().filter(|caller| is_blocked(caller.load(Ordering::Relaxed))).count();
        if blocked * 2 < self.callers.len() { 0 } else { blocked }
    }

    /// More are needed than are there.
    fn judge_anew(&mut self) {
        (self.glances, self.busiest, self.needed) = (0, 0, usize::MAX);
    }

    /// Whether some may end.
    fn is_crowded(&self) -> bool {
        self.callers.len() > self.needed.max(2 * self.busy())
    }
}

struct Shared {
    name: Arc<str>,
    broadcaster: Arc<dyn DynBroadcaster>,
    clock: Arc<dyn Clock>,
    calls: Receiver<Call>,
    /// Rises whenever the crew is looked at: time enough to tell short calls from long ones.
    beat: AtomicU64,
    /// Threads to begin with, and at most.
    few: usize,
    most: usize,
    roster: Mutex<Roster>,
    /// How often it is looked how many are busy, and when that was done last, in microseconds.
    glance: Duration,
    glanced: AtomicU64,
    /// Some threads may end.
    is_crowded: AtomicBool,
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
    pub fn start(
        name: &Arc<str>,
        broadcaster: &Arc<dyn DynBroadcaster>,
        threads: usize,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        Self::glancing(GLANCE, name, broadcaster, threads, clock)
    }

    #[expect(clippy::disallowed_methods, reason = "the shards' concurrency bounds it")]
    fn glancing(
        glance: Duration,
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
            few: threads,
            most: limits::CALLERS.max(threads),
            roster: Mutex::new(Roster::new()),
            glance,
            glanced: AtomicU64::new(0),
            is_crowded: AtomicBool::new(false),
        });
        let crew = Self {
            shared,
            calls: sender,
            stopping: watch::channel(false).0,
            runtime: Arc::new(Carrier(Some(runtime))),
            looked: AtomicU64::new(0),
        };
        crew.add_threads(threads)?;
        Ok(crew)
    }

    fn add_threads(&self, threads: usize) -> io::Result<()> {
        let mut roster = self.shared.roster();
        roster.judge_anew();
        for _ in 0..threads.min(self.shared.most.saturating_sub(roster.callers.len())) {
            let (shared, runtime) = (Arc::clone(&self.shared), Arc::clone(&self.runtime));
            let (caller, is_added) = (Arc::<Caller>::default(), roster.callers.len() >= shared.few);
            roster.callers.push(Arc::clone(&caller));
            let name = thread_name(&shared.name);
            let run = move || shared.run(&runtime, &caller, is_added);
            thread::Builder::new().name(name).spawn(run).map(drop).inspect_err(|_| _ = roster.callers.pop())?;
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
        let blocked = self.shared.roster().blocked(beat);
        if blocked > 0 {
            // Without further threads the calls wait for the blocked ones, which is all that is left.
            let _ = self.add_threads(blocked.max(self.shared.few));
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
    fn run(&self, runtime: &Carrier, caller: &Arc<Caller>, is_added: bool) {
        let Some(runtime) = runtime.handle() else { return };
        // What the broadcaster spawns, sleeps and connects belongs to the runtime, not to this thread.
        let _context = runtime.enter();
        while !is_added || !self.may_end(caller) {
            let call = match is_added {
                true => self.calls.recv_timeout(self.glance),
                false => self.calls.recv().map_err(RecvTimeoutError::from),
            };
            let call = match call {
                Ok(call) => call,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            caller.store(self.beat.load(Ordering::Relaxed), Ordering::Relaxed);
            // Even what a broadcaster leaves behind may panic when it is dropped.
            let made = catch_unwind(AssertUnwindSafe(|| call.make(&self.broadcaster, &self.clock, runtime)));
            if made.is_err() && sabotage::is(Switch::PanicKillsPool) {
                return;
            }
            caller.store(0, Ordering::Relaxed);
        }
    }

    /// Whether this thread, which was added and is idle, ends: more are there than are needed.
    fn may_end(&self, caller: &Arc<Caller>) -> bool {
        let (now, glanced) = (machine_time().as_micros() as u64, self.glanced.load(Ordering::Relaxed));
        let is_time = Duration::from_micros(now.saturating_sub(glanced)) >= self.glance;
        if is_time && self.glanced.compare_exchange(glanced, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let mut roster = self.roster();
            roster.glance(self.few);
            self.is_crowded.store(roster.is_crowded(), Ordering::Relaxed);
        }
        if !self.is_crowded.load(Ordering::Relaxed) || !self.calls.is_empty() {
            return false;
        }
        let mut roster = self.roster();
        let is_crowded = roster.is_crowded();
        if is_crowded {
            roster.callers.retain(|other| !Arc::ptr_eq(other, caller));
        }
        self.is_crowded.store(is_crowded, Ordering::Relaxed);
        is_crowded
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        // Nothing in here stops half-way.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads cannot have a NUL in their names; pools can.
fn thread_name(pool: &str) -> String {
    format!("punctual {}", pool.replace('\0', "?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Bell, SystemClock};
    use crate::post::{Delivery, Post, Receipt};
    use crate::shard::model::dated;
    use crate::worker::call::{Port, Said};

    const FEW: usize = 2;

    #[test]
    fn those_are_needed_that_were_busy_within_the_hour_and_as_many_again() {
        let mut roster = Roster { callers: (0..40).map(|_| Arc::default()).collect(), ..Roster::new() };
        assert!(!roster.is_crowded(), "nobody has looked yet");
        for (busiest, needed) in [(0, FEW), (1, 2), (5, 10), (19, 38), (20, 40), (40, 80)] {
            // They are busy for a moment.
            for glance in 0..GLANCES {
                let since = u64::from(glance == 30);
                roster.callers.iter().take(busiest).for_each(|caller| caller.store(since, Ordering::Relaxed));
                roster.glance(FEW);
            }
            assert_eq!((roster.needed, roster.is_crowded()), (needed, needed < 40), "{busiest} busy");
        }
        // What was judged does not count where many are busy now, nor where more had to be added.
        (0..GLANCES).for_each(|_| roster.glance(FEW));
        assert!(roster.is_crowded());
        roster.callers.iter().take(20).for_each(|caller| caller.store(1, Ordering::Relaxed));
        assert!(!roster.is_crowded());
        roster.callers.iter().for_each(|caller| caller.store(0, Ordering::Relaxed));
        roster.judge_anew();
        assert!(!roster.is_crowded());
    }

    #[test]
    fn those_are_blocked_that_are_in_an_earlier_call_and_only_half_of_all_count() {
        for (calls, blocked) in [
            (&[0, 0, 0, 0][..], 0),
            (&[4, 4, 0, 0], 2),
            (&[4, 0, 0, 0], 0),
            (&[4, 0, 0], 0),
            (&[4, 0], 1),
            (&[5, 5, 4, 4], 2),
            (&[6, 5, 5, 5], 0),
            (&[1, 2, 3, 4, 5], 4),
        ] {
            let callers = calls.iter().map(|since| Arc::new(AtomicU64::new(*since))).collect();
            assert_eq!(Roster { callers, ..Roster::new() }.blocked(5), blocked, "{calls:?}");
        }
    }

    #[test]
    fn threads_have_their_pool_s_name() {
        assert_eq!(thread_name("a\0b"), "punctual a?b");
    }

    #[test]
    fn threads_that_are_added_where_others_are_blocked_end_when_they_are_not_needed_any_more() {
        let (begins, begun) = crossbeam_channel::bounded(100);
        let (opens, opened) = crossbeam_channel::bounded::<()>(0);
        let broadcaster = move |_: Delivery| {
            let _ = (begins.send(()), opened.recv());
            async { Ok(Receipt::default()) }
        };
        let broadcaster: Arc<dyn DynBroadcaster> = Arc::new(broadcaster);
        let glance = Duration::from_micros(20);
        let crew = Crew::glancing(glance, &"p".into(), &broadcaster, FEW, Arc::new(SystemClock::default())).unwrap();
        let (port, said) = Port::new(&Bell::default(), &crew);
        let port = Arc::new(port);
        let call = |seq| {
            let delivery = dated(seq, 0, None, &Post::new("p", "x"));
            crew.call(Call { token: (seq as usize, seq).into(), delivery, port: Arc::clone(&port) });
        };
        (0..20).for_each(call);
        let mut calls = 0;
        while calls < FEW {
            calls += begun.try_iter().count();
            thread::yield_now();
        }
        assert_eq!(crew.waiting(), 20 - FEW);
        // At the first look it is not known yet whether they are blocked.
        while crew.shared.beat.load(Ordering::Relaxed) == 1 {
            assert_eq!(crew.look(), Some(BEAT));
        }
        assert_eq!(crew.shared.roster().callers.len(), FEW);
        while calls < 20 {
            crew.look();
            calls += begun.try_iter().count();
            thread::yield_now();
        }
        assert!(crew.shared.roster().callers.len() >= 20);
        drop(opens);
        assert!((0..20).all(|_| matches!(said.recv(), Ok(Said::Ended { .. }))));
        // Each thread has a share in it, and so has the crew.
        let began = machine_time();
        while Arc::strong_count(&crew.shared) > 1 + FEW {
            assert!(machine_time() - began < Duration::from_secs(120), "they are still there");
            thread::yield_now();
        }
        assert_eq!(crew.shared.roster().callers.len(), FEW);
        (20..40).for_each(call);
        assert!((20..40).all(|_| matches!(said.recv(), Ok(Said::Ended { .. }))));
    }
}
