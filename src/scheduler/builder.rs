//! From settings to a running engine: everything is checked, then the store is asked, then the loops start.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::RecvTimeoutError;
use tokio::sync::broadcast;

use super::{Scheduler, Shared};
use crate::clock::{Bell, Clock, SystemClock};
use crate::committer::Committer;
use crate::driver::{DeskEnd, Driver, Threads};
use crate::engine::{Engine, PoolSettings, PrepareSettings, Settings};
use crate::error::{Error, Result, StoreError};
use crate::gate::{Gate, Rules};
use crate::id::PoolId;
use crate::inbox::inbox;
use crate::limits;
use crate::pool::{Pool, PrepareAhead};
use crate::shard::Shard;
use crate::store::{CallLog, Store};
use crate::worker::{Callers, Crew, Worker};

/// The loops of a scheduler, not yet started.
pub(crate) struct Loops {
    pub driver: Driver,
    pub workers: Vec<Worker>,
    pub committer: Committer,
}

/// Sets a [`Scheduler`] up. A store and at least one pool are needed; the rest has defaults.
#[must_use = "nothing runs until `start` is called"]
pub struct Builder {
    store: Option<Box<dyn Store>>,
    clock: Arc<dyn Clock>,
    pools: Vec<Pool>,
    horizon: Duration,
    claim_ahead: Duration,
    memory: usize,
    max_payload: usize,
    retention: Duration,
    dead_letter_retention: Duration,
    zones: &'static str,
    stall_after: Duration,
    /// Commands that wait for the driver, and events that wait for slow listeners, at most.
    commands: usize,
    events: usize,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            store: None,
            clock: Arc::new(SystemClock::default()),
            pools: Vec::new(),
            horizon: Duration::from_secs(60),
            claim_ahead: Duration::from_secs(2),
            memory: 512 << 20,
            max_payload: limits::PAYLOAD_BYTES,
            retention: Duration::from_secs(86_400),
            dead_letter_retention: Duration::from_secs(30 * 86_400),
            zones: chrono_tz::IANA_TZDB_VERSION,
            stall_after: Duration::from_secs(10),
            commands: limits::COMMANDS,
            events: limits::EVENTS,
        }
    }

    /// Where posts are kept.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Where the time comes from. Default: the machine ([`SystemClock`]).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Adds a pool; call it once for each. At most 1,024.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.pools.push(pool);
        self
    }

    /// How far ahead posts are loaded into memory, 10 s to 7 days. Default: one minute. A longer horizon bridges
    /// longer troubles of the disk and takes more memory.
    pub fn horizon(mut self, horizon: Duration) -> Self {
        self.horizon = horizon;
        self
    }

    /// How long before its due a post is claimed, 0 to 5 s. Default: 2 s. The claim is what keeps a post from
    /// being repeated unnoticed; written ahead, it costs no time at the due.
    pub fn claim_ahead(mut self, ahead: Duration) -> Self {
        self.claim_ahead = ahead;
        self
    }

    /// How many bytes of posts may be in memory, shared evenly by the pools; at least 64 KiB for each. Default:
    /// 512 MiB. Three quarters of it are filled ahead of time; what does not fit waits in the store and follows as memory
    /// becomes free.
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// The longest payload in bytes, up to 16 MiB. Default: 64 KiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// How long finished posts, their keys and outcomes are remembered, at least. Default: one day. They are
    /// forgotten by whole days (UTC) of dues, once everything of that day is finished.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// How long dead letters are kept to be looked at and sent again. Default: 30 days. After it they are finished
    /// posts like others, remembered for the [`retention`](Self::retention).
    pub fn dead_letter_retention(mut self, retention: Duration) -> Self {
        self.dead_letter_retention = retention;
        self
    }

    /// After how long a store that has not answered stalls the scheduler, 100 ms to 10 minutes. Default: 10 s.
    pub fn stall_after(mut self, after: Duration) -> Self {
        self.stall_after = after;
        self
    }

    /// The release of the zone data; none, if it is not to be remembered.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn zones(mut self, zones: &'static str) -> Self {
        self.zones = zones;
        self
    }

    /// Lets so few commands and events wait.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn queues(mut self, commands: usize, events: usize) -> Self {
        (self.commands, self.events) = (commands, events);
        self
    }

    /// Checks everything, opens what the store holds and starts.
    ///
    /// Posts that fell due while nobody ran go out as their pool's [`CatchUp`](crate::CatchUp) policy says. Posts whose
    /// broadcaster was being called when the last process died are in doubt: the broadcaster is asked about them, and then
    /// their [`Guarantee`](crate::Guarantee) decides.
    ///
    /// # Errors
    /// [`Error::NoPools`], [`Error::DuplicatePool`], [`Error::InvalidName`] and [`Error::InvalidSetting`] for the
    /// settings; [`Error::MissingPool`] if the store holds posts for a pool that was not given;
    /// [`Error::Store`] if the store cannot be used; [`Error::StoreStalled`] if it does not answer within
    /// [`stall_after`](Self::stall_after); [`Error::Thread`]. [`Error::NoStore`] if there is none.
    pub fn start(self) -> Result<Scheduler> {
        let clock = Arc::clone(&self.clock);
        let crew = |pool: &Pool, threads| {
            let crew = Crew::start(&pool.name, &pool.broadcaster, threads, Arc::clone(&clock));
            crew.map(|crew| Arc::new(crew) as Arc<dyn Callers>)
        };
        let (scheduler, Loops { driver, workers, committer }) = self.assemble(crew)?;
        let workers = workers.into_iter().map(|worker| worker.start(Arc::clone(&clock)));
        let workers = workers.collect::<io::Result<_>>().map_err(cannot_start)?;
        let threads = Threads { workers, committer: committer.start().map_err(cannot_start)? };
        driver.start(clock, threads).map_err(cannot_start)?;
        Ok(scheduler)
    }

    /// Checks everything, opens what the store holds and puts the loops together, with these to call the
    /// broadcasters.
    pub(crate) fn assemble(
        self,
        mut crew: impl FnMut(&Pool, usize) -> io::Result<Arc<dyn Callers>>,
    ) -> Result<(Scheduler, Loops)> {
        self.check()?;
        let Self { store, clock, pools, .. } = self;
        let store = store.ok_or(Error::NoStore)?;
        let names: Vec<String> = pools.iter().map(|pool| pool.name.to_string()).collect();
        let (mut store, ids) = ask_within(self.stall_after, store, move |store| store.pools(&names))?;
        if let Some(pool) = store.orphan(&ids)? {
            return Err(Error::MissingPool { pool });
        }

        let mut first_shard = 0;
        let mut engine_pools = Vec::with_capacity(pools.len());
        for (pool, id) in pools.iter().zip(ids) {
            let settings = pool_settings(pool, id, first_shard);
            first_shard += pool.shards + usize::from(settings.prepare.is_some());
            engine_pools.push(settings);
        }
        let settings = Settings {
            store: store.identity(),
            next_seq: store.next_seq(),
            last_commit_at: store.last_commit_at(),
            remembered: store.remembered().map_err(Error::Store)?,
            pools: engine_pools.clone(),
            horizon: self.horizon,
            claim_ahead: self.claim_ahead,
            memory: self.memory / pools.len().max(1),
            stall_after: self.stall_after,
            retention: self.retention,
            zones: self.zones,
            dead_letter_retention: self.dead_letter_retention,
        };
        let log = store.call_log();
        let engine = Engine::new(settings, clock.now());

        let bell = Bell::default();
        let (commands_in, commands) = inbox(self.commands, &bell);
        let (answers_in, answers) = inbox(limits::ANSWERS, &bell);
        let (reports_in, reports) = inbox(limits::ANSWERS, &bell);
        let (requests_in, requests) = inbox(limits::REQUESTS, &Bell::default());
        let (events, _) = broadcast::channel(self.events);

        let mut crews = Vec::with_capacity(pools.len());
        let mut workers = Vec::with_capacity(first_shard);
        let mut desks = Vec::with_capacity(first_shard);
        for (place, (pool, settings)) in pools.iter().zip(&engine_pools).enumerate() {
            let mut add = |concurrency, timeout, gate: Gate, log: Option<Arc<dyn CallLog>>, callers| {
                let (bell, number) = (Bell::default(), workers.len());
                let (orders_in, orders) = inbox(limits::ORDERS, &bell);
                let shard = Shard::new(concurrency, timeout, gate.clone());
                let reports = reports_in.clone();
                workers.push(Worker {
                    place,
                    number,
                    shard,
                    gate,
                    concurrency,
                    timeout,
                    log,
                    orders,
                    reports,
                    bell,
                    callers,
                });
                desks.push(DeskEnd { orders: orders_in, backlog: Vec::new() });
            };
            let callers = crew(pool, pool.threads).map_err(cannot_start)?;
            for index in 0..pool.shards {
                add(pool.share(index), pool.timeout, settings.gate.clone(), log.clone(), Arc::clone(&callers));
            }
            crews.push(callers);
            if let Some(own) = &pool.prepare {
                let callers = crew(pool, own.threads).map_err(cannot_start)?;
                // What is prepared may be prepared again: nobody needs to know that it was called.
                add(own.concurrency, own.timeout, Gate::new(&pool.name, Rules::default()), None, Arc::clone(&callers));
                crews.push(callers);
            }
        }
        drop(reports_in);
        let committer = Committer { store, requests, answers: answers_in };
        let (store, weak_events) = (requests_in, events.downgrade());
        let driver = Driver { engine, bell, commands, answers, reports, store, desks, crews, events, end: None };

        let pools = pools.iter().map(|pool| Arc::clone(&pool.name)).collect();
        let shared = Shared {
            commands: commands_in,
            clock,
            pools,
            max_payload: self.max_payload,
            waiting: Arc::default(),
            events: weak_events,
        };
        Ok((Scheduler { shared: Arc::new(shared) }, Loops { driver, workers, committer }))
    }

    fn check(&self) -> Result<()> {
        if self.store.is_none() {
            return Err(Error::NoStore);
        }
        if self.pools.is_empty() {
            return Err(Error::NoPools);
        }
        let (mut names, mut accounts) = (HashSet::new(), HashMap::new());
        for pool in &self.pools {
            pool.check()?;
            for account in &pool.accounts {
                let same = accounts.entry(account.name().to_owned()).or_insert(account);
                if !same.is(account) {
                    return Err(Error::DuplicateAccount { account: account.name().to_owned() });
                }
            }
            if !names.insert(&pool.name) {
                return Err(Error::DuplicatePool { pool: pool.name.to_string() });
            }
        }
        let millis = |d: Duration| d.as_millis();
        let settings = [
            ("pool (count)", self.pools.len() as u128, 1, limits::POOLS as u128),
            ("horizon (ms)", millis(self.horizon), 10_000, millis(Duration::from_secs(7 * 86_400))),
            ("claim_ahead (ms)", millis(self.claim_ahead), 0, 5_000),
            ("memory (bytes)", self.memory as u128, (self.pools.len() << 16) as u128, usize::MAX as u128),
            ("max_payload (bytes)", self.max_payload as u128, 1, limits::PAYLOAD_BYTES_MAX as u128),
            ("stall_after (ms)", millis(self.stall_after), 100, 600_000),
        ];
        for (setting, value, min, max) in settings {
            if value < min || value > max {
                return Err(Error::InvalidSetting { of: "the scheduler".to_owned(), setting, value, min, max });
            }
        }
        Ok(())
    }
}

/// A pool as the engine sees it, whose shards are numbered from this one.
fn pool_settings(pool: &Pool, id: PoolId, first_shard: usize) -> PoolSettings {
    let rules = Rules {
        profile: pool.profile_limits.clone(),
        pool: pool.limits.clone(),
        breaker: pool.breaker,
        accounts: pool.accounts.clone(),
    };
    let prepare = |own: PrepareAhead| PrepareSettings {
        shard: first_shard + pool.shards,
        lead: own.lead,
        retry: own.retry,
        or_fail: own.or_fail,
    };
    PoolSettings {
        id,
        name: Arc::clone(&pool.name),
        first_shard,
        shards: pool.shards,
        retry: pool.retry,
        guarantee: pool.guarantee,
        catch_up: pool.catch_up,
        gate: Gate::new(&pool.name, rules),
        is_limited: !(pool.limits.is_empty() && pool.profile_limits.is_empty() && pool.accounts.is_empty()),
        has_accounts: !pool.accounts.is_empty(),
        prepare: pool.prepare.map(prepare),
    }
}

/// What the store answers. One that hangs keeps nobody waiting: it is left to a thread.
fn ask_within<S: Send + 'static, T: Send + 'static>(
    patience: Duration,
    mut store: S,
    ask: impl FnOnce(&mut S) -> Result<T, StoreError> + Send + 'static,
) -> Result<(S, T)> {
    let (answers, answer) = crossbeam_channel::bounded(1);
    let ask = move || {
        // If nobody waits any more, the store is closed here.
        let _ = match ask(&mut store) {
            Ok(answer) => answers.send(Ok((store, answer))),
            Err(error) => answers.send(Err(Error::Store(error))),
        };
    };
    thread::Builder::new().name("punctual opening".to_owned()).spawn(ask).map_err(cannot_start)?;
    match answer.recv_timeout(patience) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) => Err(Error::StoreStalled { stalled: patience }),
        Err(RecvTimeoutError::Disconnected) => Err(Error::Store(StoreError::Poisoned)),
    }
}

fn cannot_start(error: io::Error) -> Error {
    Error::Thread { source: Arc::new(error) }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("pools", &self.pools)
            .field("horizon", &self.horizon)
            .field("claim_ahead", &self.claim_ahead)
            .field("memory", &self.memory)
            .field("max_payload", &self.max_payload)
            .field("retention", &self.retention)
            .field("dead_letter_retention", &self.dead_letter_retention)
            .field("stall_after", &self.stall_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Account;
    use crate::post::Receipt;
    use crate::quota::RateLimit;

    #[test]
    fn the_engine_knows_which_pools_are_limited_and_which_prepare() {
        let pool = || Pool::new("p", |_| async { Ok(Receipt::default()) }).shards(3);
        let limit = || RateLimit::spacing(Duration::from_secs(1));
        let shown = |pool: Pool| {
            let settings = pool_settings(&pool, PoolId(7), 5);
            assert_eq!((settings.id, settings.first_shard, settings.shards), (PoolId(7), 5, 3));
            (settings.is_limited, settings.has_accounts, settings.prepare.map(|own| own.shard))
        };
        assert_eq!(shown(pool()), (false, false, None));
        assert_eq!(shown(pool().limit(limit())), (true, false, None));
        assert_eq!(shown(pool().limit_profiles(limit())), (true, false, None));
        assert_eq!(shown(pool().account(&Account::new("app"))), (true, true, None));
        assert_eq!(shown(pool().prepare_ahead(PrepareAhead::by(Duration::from_secs(60)))), (false, false, Some(8)));
    }

    #[test]
    fn a_store_that_hangs_while_it_is_opened_keeps_nobody_waiting() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hanging = ask_within(Duration::from_millis(10), held, |held| Ok(held.recv()));
        assert!(matches!(hanging, Err(Error::StoreStalled { .. })));
        drop(release);
        assert!(matches!(ask_within(Duration::MAX, 1, |store| Ok(*store + 1)), Ok((1, 2))));
        let failing = ask_within(Duration::MAX, (), |()| Err::<(), _>(StoreError::Poisoned));
        assert!(matches!(failing, Err(Error::Store(StoreError::Poisoned))));
    }
}
