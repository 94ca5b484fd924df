//! One process: a scheduler as the host has it, whose loops turn when the world says so.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::clock::{Clock, Next};
use crate::committer::{self, Committer};
use crate::driver::Driver;
use crate::engine::{Answer, Request};
use crate::error::{Error, Result, StoreError};
use crate::inbox::Take;
use crate::limits;
use crate::pool::{DynBroadcaster, Pool};
use crate::post::Task;
use crate::scheduler::{Builder, Loops, Scheduler};
use crate::store::MemoryStore;
use crate::store::backend::Backend;
use crate::time::{Now, Timestamp, Wake};
use crate::worker::{Call, Callers, Desk};

use super::oracle::{Content, PANIC};
use super::scene::Scene;

/// Turns after which tasks of a runtime that are awake have done what they can.
const POLLS: u32 = 6;

pub struct Process {
    pub scheduler: Scheduler,
    scene: Scene,
    driver: Driver,
    desks: Vec<Desk>,
    committer: Committer,
    crews: Vec<Arc<Crew>>,
    runtime: Runtime,
    pub has_ended: bool,
    /// Answers of the store that the driver has not taken: where there is no room for another one the store waits.
    untaken: usize,
    /// A commit has failed: nothing is carried out after it.
    is_poisoned: bool,
}

/// Those who make the calls of a pool, when the world lets them.
struct Crew {
    pool: usize,
    broadcaster: Arc<dyn DynBroadcaster>,
    scene: Scene,
    /// With the instants at which the gate let them in.
    calls: Mutex<VecDeque<(Now, Call)>>,
    stopping: watch::Sender<bool>,
}

impl Crew {
    fn calls(&self) -> MutexGuard<'_, VecDeque<(Now, Call)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Crew")
    }
}

impl Callers for Crew {
    fn call(&self, call: Call) {
        let entered = self.scene.time();
        self.calls().push_back((entered, call));
    }

    fn waiting(&self) -> usize {
        self.calls().len()
    }

    fn look(&self) -> Option<Duration> {
        None
    }

    fn stop(&self) {
        self.stopping.send_replace(true);
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}

impl Process {
    /// The process starts on what the earlier ones have left.
    pub fn start(builder: Builder, scene: Scene) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|source| Error::Thread { source: Arc::new(source) })?;
        let mut crews = Vec::new();
        let mut names: Vec<Arc<str>> = Vec::new();
        let crew = |of: &Pool, _threads| {
            // The one that prepares comes after the one that publishes.
            if names.last() != Some(&of.name) {
                names.push(Arc::clone(&of.name));
            }
            let (pool, broadcaster, scene) = (names.len() - 1, Arc::clone(&of.broadcaster), scene.clone());
            let stopping = watch::channel(false).0;
            let crew = Arc::new(Crew { pool, broadcaster, scene, calls: Mutex::default(), stopping });
            crews.push(Arc::clone(&crew));
            Ok::<_, io::Error>(crew as Arc<dyn Callers>)
        };
        let (scheduler, Loops { driver, workers, committer }) = builder.assemble(crew)?;
        let desks = workers.into_iter().map(Desk::new).collect();
        Ok(Self {
            scheduler,
            scene,
            driver,
            desks,
            committer,
            crews,
            runtime,
            has_ended: false,
            untaken: 0,
            is_poisoned: false,
        })
    }

    /// How many parts of it can have a turn.
    pub fn parts(&self) -> u64 {
        2 + (self.desks.len() + self.crews.len()) as u64
    }

    /// One part of it has a turn; true if nothing is left for it to do at once.
    pub fn turn(&mut self, part: u64) -> bool {
        let (part, desks) = (part as usize, self.desks.len());
        match part {
            0 => self.drive(),
            1 => {
                self.poll();
                true
            }
            _ if part < 2 + desks => {
                let Some(desk) = self.desks.get_mut(part - 2) else { return true };
                matches!(desk.turn(&self.scene), Next::Wait(_) | Next::End)
            }
            _ => self.call(part - 2 - desks),
        }
    }

    fn drive(&mut self) -> bool {
        if self.has_ended {
            return true;
        }
        self.untaken = 0;
        match self.driver.turn(&self.scene) {
            Next::Wait(_) => !self.driver.bell.nap(Duration::ZERO),
            Next::End => {
                self.has_ended = true;
                let (promise, _) = self.driver.end.take().unwrap_or_default();
                if let Some(promise) = promise {
                    promise.fulfil(Ok(()));
                }
                true
            }
            Next::Again | Next::Yield => false,
        }
    }

    /// A caller takes what waits for it, one call at a time.
    fn call(&mut self, crew: usize) -> bool {
        let Some(crew) = self.crews.get(crew).cloned() else { return true };
        let call = crew.calls().pop_front();
        if let Some((entered, call)) = call {
            let clock: Arc<dyn Clock> = Arc::new(self.scene.clone());
            let _context = self.runtime.enter();
            let before = {
                let oracle = &mut self.scene.look().oracle;
                oracle.enters(Content::read(call.delivery.payload()).post, entered);
                oracle.calls
            };
            let made = AssertUnwindSafe(|| call.make(&crew.broadcaster, &clock, self.runtime.handle()));
            let is_made = catch_unwind(made).is_ok();
            let oracle = &mut self.scene.look().oracle;
            oracle.check(PANIC, is_made, || format!("pool {}", crew.pool));
            if oracle.calls > before {
                oracle.entered(crew.pool, entered);
            }
        }
        crew.waiting() == 0
    }

    /// The tasks of the broadcasters go on.
    fn poll(&self) {
        if self.runtime.metrics().num_alive_tasks() == 0 {
            return;
        }
        self.runtime.block_on(async {
            for _ in 0..POLLS {
                tokio::task::yield_now().await;
            }
        });
    }

    /// The store carries out one request. Of a commit that fails it is given whether it was durable all the same. False
    /// if there is nothing to do.
    pub fn serve(&mut self, fails: Option<bool>) -> bool {
        let Committer { store, requests, answers } = &mut self.committer;
        let Take::Message(request) = requests.take() else { return false };
        if self.is_poisoned {
            return true;
        }
        let answer = match (request, fails) {
            (Request::Commit { now, changes }, Some(is_durable)) => {
                if is_durable {
                    let _ = store.commit(now, changes);
                }
                self.is_poisoned = true;
                Answer::Committed(Err(StoreError::Poisoned))
            }
            (request, _) => committer::carry_out(&mut **store, request),
        };
        answers.put_waiting(answer);
        self.untaken += 1;
        true
    }

    pub fn is_asking(&self) -> bool {
        !self.committer.requests.is_empty() && self.untaken < limits::ANSWERS
    }

    /// The process dies. Of the commits that were asked for, the first so many are durable all the same.
    pub fn die(self, store: &mut MemoryStore, kept: usize) {
        for crew in &self.crews {
            let calls = crew.calls();
            let published =
                calls.iter().map(|(_, call)| call).filter(|call| call.delivery.facts().task == Task::Broadcast);
            let posts: Vec<usize> = published.map(|call| Content::read(call.delivery.payload()).post).collect();
            let mut state = self.scene.look();
            posts.into_iter().for_each(|post| state.oracle.was_on_its_way(post));
        }
        let mut kept = if self.is_poisoned { 0 } else { kept };
        while let Take::Message(request) = self.committer.requests.take() {
            if let Request::Commit { now, changes } = request
                && kept > 0
            {
                let _ = store.commit(now, changes);
                kept -= 1;
            }
        }
        let scene = self.scene.clone();
        drop(self);
        scene.forget_sleepers();
    }

    /// When something happens by itself.
    pub fn wake(&mut self) -> Wake {
        let slept = Wake { wall: None, mono: self.scene.next_waking() };
        let desks = self.desks.iter().map(Desk::poll_timeout);
        desks.fold(self.driver.engine.poll_timeout().or(slept), Wake::or)
    }

    /// Posts that something will still happen to.
    pub fn live(&mut self, pools: usize) -> Result<usize> {
        let store = &mut self.committer.store;
        let ids = (0..pools).map(|pool| crate::id::PoolId(pool as u16));
        let pages = ids.map(|id| store.load(id, crate::post::Cursor::START, Timestamp::MAX, usize::MAX));
        let pages = pages.collect::<std::result::Result<Vec<_>, _>>().map_err(Error::Store)?;
        Ok(pages.iter().map(|page| page.posts.len()).sum())
    }
}
