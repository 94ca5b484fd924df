//! What everybody in a world sees: the time, the network, and the account of what was promised.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::clock::{Bell, Clock, source::Source};
use crate::time::{Now, Timestamp, Wake};

use super::dice::Dice;
use super::network::Moods;
use super::oracle::Oracle;

/// Shared by the world and what it plays. It is never held while the engine is at work.
#[derive(Clone)]
pub struct Scene(Arc<Mutex<State>>);

pub struct State {
    pub now: Now,
    pub moods: Moods,
    /// The network's own.
    pub dice: Dice,
    pub oracle: Oracle,
    pub faults: BTreeMap<&'static str, u64>,
    sleepers: BTreeMap<(Duration, u64), Waker>,
    sleeps: u64,
}

impl State {
    pub fn fault(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }
}

impl Scene {
    pub fn new(now: Now, moods: Moods, dice: Dice) -> Self {
        let (oracle, faults, sleepers) = (Oracle::default(), BTreeMap::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(State { now, moods, dice, oracle, faults, sleepers, sleeps: 0 })))
    }

    pub fn look(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn time(&self) -> Now {
        self.look().now
    }

    /// Lets the clocks go on, and wakes those whose time has come.
    pub fn pass(&self, wall: Duration, mono: Duration) {
        let woken = {
            let mut state = self.look();
            state.now.wall = state.now.wall.after(wall);
            state.now.mono += mono;
            state.now.machine = state.now.mono;
            let now = state.now.mono;
            let later = state.sleepers.split_off(&(now, u64::MAX));
            std::mem::replace(&mut state.sleepers, later)
        };
        woken.into_values().for_each(Waker::wake);
    }

    /// When the next of those who sleep wakes, by the monotonic clock.
    pub fn next_waking(&self) -> Option<Duration> {
        self.look().sleepers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Nobody who sleeps is there any more.
    pub fn forget_sleepers(&self) {
        let gone = std::mem::take(&mut self.look().sleepers);
        drop(gone);
    }

    /// Sleeps in virtual time.
    pub async fn sleep(&self, time: Duration) {
        let end = self.time().mono + time;
        poll_fn(|context| {
            let mut state = self.look();
            if state.now.mono >= end {
                return Poll::Ready(());
            }
            state.sleeps += 1;
            let serial = state.sleeps;
            state.sleepers.insert((end, serial), context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Clock for Scene {}

impl Source for Scene {
    fn now(&self) -> Now {
        self.time()
    }

    fn wall(&self) -> Timestamp {
        self.time().wall
    }

    /// Time passes when the world says so.
    fn wait(&self, _until: Wake, _bell: &Bell) {}
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scene")
    }
}
