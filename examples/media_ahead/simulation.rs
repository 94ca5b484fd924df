//! Simulated time: broadcasters wait on a clock that stands still until everything that can happen has happened.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use punctual::ManualClock;
use tokio::sync::oneshot;

/// How long the machine may take for what takes no simulated time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A clock, and those who wait on it.
pub struct Simulation {
    pub clock: ManualClock,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Who waits until when, by a number of its own.
    sleepers: BinaryHeap<Reverse<(DateTime<Utc>, usize)>>,
    wakers: Vec<Option<oneshot::Sender<()>>>,
    desks: Vec<Desk>,
}

/// Work of one kind: so much of it, in so many places.
struct Desk {
    jobs: usize,
    places: usize,
    begun: usize,
    done: usize,
}

impl State {
    /// Nothing more happens until time passes: every place has work that waits on the clock, or there is none left.
    fn is_still(&self) -> bool {
        let running: usize = self.desks.iter().map(|desk| desk.begun - desk.done).sum();
        let is_full = |desk: &Desk| desk.begun == desk.jobs.min(desk.done + desk.places);
        self.sleepers.len() == running && self.desks.iter().all(is_full)
    }
}

impl Simulation {
    pub fn at(now: DateTime<Utc>) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { clock: ManualClock::at(now), state, changed })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A desk with so many places, and nothing to do yet. Answers its number.
    pub fn open(&self, places: usize) -> usize {
        let mut state = self.state();
        state.desks.push(Desk { jobs: 0, places, begun: 0, done: 0 });
        state.desks.len() - 1
    }

    /// So many jobs will be due at this desk when the clock is turned next.
    pub fn expect(&self, desk: usize, jobs: usize) {
        self.state().desks[desk].jobs = jobs;
    }

    /// A job of this desk begins.
    pub fn begin(&self, desk: usize) -> DateTime<Utc> {
        self.state().desks[desk].begun += 1;
        self.changed.notify_all();
        self.clock.now()
    }

    /// It is done.
    pub fn end(&self, desk: usize) -> DateTime<Utc> {
        self.state().desks[desk].done += 1;
        self.changed.notify_all();
        self.clock.now()
    }

    /// Lets this much simulated time pass.
    pub async fn pass(&self, by: Duration) {
        let (sender, woken) = oneshot::channel();
        {
            let mut state = self.state();
            let number = state.wakers.len();
            state.wakers.push(Some(sender));
            state.sleepers.push(Reverse((self.clock.now() + by, number)));
        }
        self.changed.notify_all();
        // An error means that the simulation is over.
        drop(woken.await);
    }

    /// Turns the clock to this instant, and from there on as long as anybody waits on it.
    pub fn run(&self, from: DateTime<Utc>) -> Result<(), String> {
        let mut next = Some(from);
        while let Some(at) = next {
            self.clock.advance((at - self.clock.now()).to_std().unwrap_or_default());
            let mut state = self.state();
            while state.sleepers.peek().is_some_and(|Reverse((until, _))| *until <= at) {
                if let Some(Reverse((_, number))) = state.sleepers.pop()
                    && let Some(waker) = state.wakers[number].take()
                {
                    // Who is not there any more need not be woken.
                    let _ = waker.send(());
                }
            }
            let still = self.changed.wait_timeout_while(state, PATIENCE, |state| !state.is_still());
            let (state, waited) = still.unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() {
                return Err(format!("at {at} something neither ends nor waits"));
            }
            next = state.sleepers.peek().map(|Reverse((until, _))| *until);
        }
        Ok(())
    }
}
