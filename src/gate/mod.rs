//! What a pool may do now: its rate limits, its breaker, and what the network said. Pure, but shared: the one piece of
//! state with several owners, because a limit holds for all shards of a pool, and an account for several pools.
//!
//! Locks are taken in one order: the gate's, then its accounts' by name. Most pools have nothing that limits them;
//! they take none.

mod account;
mod breaker;
mod counted;
mod keys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::marks::{self, Mark};
use crate::quota::{Quota, RateLimit, Scope};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::time::Timestamp;

use self::account::AccountState;
use self::breaker::Circuit;
use self::counted::Counted;
use self::keys::{key, scope_and_names};

pub use self::account::Account;
pub use self::breaker::{Breaker, Turned};

/// What holds for a pool.
#[derive(Clone, Default, Debug)]
pub struct Rules {
    /// For each profile of the pool. Posts without a profile know only the limits of the pool and its accounts.
    pub profile: Vec<RateLimit>,
    pub pool: Vec<RateLimit>,
    pub breaker: Option<Breaker>,
    pub accounts: Vec<Account>,
}

/// Whether one may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Go,
    /// Not before `until`, which is later than now; `scope` says who else waits.
    Wait {
        scope: Scope,
        until: Timestamp,
    },
}

/// The gate of one pool. Clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    pool: Box<str>,
    /// By name.
    accounts: Vec<Account>,
    /// Whether anything may have to wait or be counted.
    is_guarded: AtomicBool,
    /// Whether there is something to be remembered.
    is_changed: AtomicBool,
    state: Mutex<State>,
}

struct State {
    profile_limits: Vec<RateLimit>,
    pool_limits: Vec<RateLimit>,
    pool: Counted,
    profiles: FxHashMap<Box<str>, Counted>,
    /// Profiles with something to be remembered.
    changed: Vec<Box<str>>,
    circuit: Option<Circuit>,
    /// After so many entries the idle profiles are dropped.
    entries_to_sweep: usize,
}

impl Gate {
    /// The gate of the pool of this name. Of several accounts of one name, the first counts.
    pub fn new(pool: &str, rules: Rules) -> Self {
        let Rules { profile, pool: pool_limits, breaker, mut accounts } = rules;
        accounts.sort_by(|a, b| a.name().cmp(b.name()));
        accounts.dedup_by(|a, b| a.name() == b.name());
        let state = State {
            profile_limits: profile,
            pool_limits,
            pool: Counted::default(),
            profiles: FxHashMap::default(),
            changed: Vec::new(),
            circuit: breaker.map(Circuit::new),
            entries_to_sweep: 0,
        };
        Self(Arc::new(Shared {
            pool: pool.into(),
            is_guarded: AtomicBool::new(!state.is_free() || !accounts.is_empty()),
            accounts,
            is_changed: AtomicBool::new(false),
            state: Mutex::new(state),
        }))
    }

    /// Whether everything may enter and nothing is counted.
    pub fn is_open(&self) -> bool {
        !self.0.is_guarded.load(Ordering::Relaxed)
    }

    /// Whether one of this profile may start now. If so, it has been taken from every scope, and exactly one
    /// [`leave`](Self::leave) must follow.
    pub fn enter(&self, profile: &str, now: Timestamp) -> Entry {
        if self.is_open() {
            return Entry::Go;
        }
        let mut locked = self.lock();
        locked.sweep(now);
        let (until, scope) = locked.next(profile, now);
        if until > now {
            marks::reach(Mark::LimitReached);
            return Entry::Wait { scope, until };
        }
        if let Some(circuit) = &mut locked.state.circuit {
            circuit.enter(now);
        }
        locked.take(profile, now);
        Entry::Go
    }

    /// One that entered at `entered` has ended: whether the network did its work, or `None` if the broadcaster was not
    /// called. Then what it took is given back.
    pub fn leave(&self, profile: &str, entered: Timestamp, now: Timestamp, healthy: Option<bool>) -> Option<Turned> {
        if self.is_open() {
            return None;
        }
        let mut locked = self.lock();
        if healthy.is_none() {
            locked.give_back(profile, entered);
        }
        locked.state.circuit.as_mut()?.leave(entered, now, healthy)
    }

    /// The network said that this scope has to wait. Without a profile it is the pool, without an account too.
    pub fn throttle(&self, scope: Scope, profile: &str, until: Timestamp) {
        marks::reach(Mark::Throttled);
        let mut locked = self.lock();
        self.0.is_guarded.store(true, Ordering::Relaxed);
        self.0.is_changed.store(true, Ordering::Relaxed);
        match scope {
            Scope::Profile if !profile.is_empty() => {
                locked.state.change_profile(profile, |quota, _| quota.throttle(until));
            }
            Scope::Account if !locked.accounts.is_empty() => {
                locked.accounts.iter_mut().for_each(|account| account.counted.change().throttle(until));
            }
            _ => locked.state.pool.change().throttle(until),
        }
    }

    /// Counts in every scope an attempt of an earlier process that may have been made at `at`.
    pub fn count(&self, profile: &str, at: Timestamp) {
        if !self.is_open() {
            self.lock().take(profile, at);
        }
    }

    /// Replaces the limits of the pool, of each of its profiles, or of the account of this name, for all who share it.
    /// What was counted is kept as far as it covers them. False if there is no such account.
    pub fn set_limits(&self, scope: Scope, account: Option<&str>, limits: Vec<RateLimit>) -> bool {
        let mut locked = self.lock();
        // Opened again by a sweep, when nothing is left that counts.
        self.0.is_guarded.store(true, Ordering::Relaxed);
        match scope {
            Scope::Profile => locked.state.profile_limits = limits,
            Scope::Pool => locked.state.pool_limits = limits,
            Scope::Account => match locked.account(account) {
                Some(shared) => shared.limits = limits,
                None => return false,
            },
        }
        true
    }

    /// What is to be remembered under which key, of every scope whose counts changed since the last call; an empty
    /// value: nothing any more.
    pub fn changed(&self, now: Timestamp) -> Vec<(Bytes, Bytes)> {
        if !self.0.is_changed.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut locked = self.lock();
        self.0.is_changed.store(false, Ordering::Relaxed);
        let State { pool, profiles, changed, .. } = &mut *locked.state;
        let mut news = Vec::with_capacity(changed.len());
        for name in changed.drain(..) {
            let Some(counted) = profiles.get_mut(&name) else { continue };
            news.extend(counted.news(now).map(|value| (key(Scope::Profile, &[&self.0.pool, &name]), value)));
            if !counted.is_remembered {
                profiles.remove(&name);
            }
        }
        news.extend(pool.news(now).map(|value| (key(Scope::Pool, &[&self.0.pool]), value)));
        for (account, shared) in self.0.accounts.iter().zip(&mut locked.accounts) {
            news.extend(shared.counted.news(now).map(|value| (key(Scope::Account, &[account.name()]), value)));
        }
        news
    }

    /// Takes back what [`changed`](Self::changed) gave in an earlier process, before anything else is counted. True if
    /// the key is one of this gate's own. What cannot be read any more is dropped.
    pub fn restore(&self, key: &[u8], value: &[u8]) -> bool {
        let mut locked = self.lock();
        let counted = || Counted::restored(value);
        let Some((scope, names)) = scope_and_names(key) else { return false };
        match (scope, &names[..]) {
            (Scope::Profile, [pool, profile]) if **pool == *self.0.pool => {
                locked.state.profiles.insert((*profile).into(), counted());
            }
            (Scope::Pool, [pool]) if **pool == *self.0.pool => locked.state.pool = counted(),
            (Scope::Account, [name]) => {
                let Some(shared) = locked.account(Some(name)) else { return false };
                // Each gate that shares it is given the same, and the first may have counted more by now.
                if !std::mem::replace(&mut shared.is_restored, true) {
                    shared.counted = counted();
                }
            }
            _ => return false,
        }
        self.0.is_guarded.store(true, Ordering::Relaxed);
        true
    }

    /// Whether a key of what is remembered belongs to a gate at all.
    pub fn is_remembered_key(key: &[u8]) -> bool {
        keys::is_key(key)
    }

    fn lock(&self) -> Locked<'_> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { gate: &self.0, state, accounts: self.0.accounts.iter().map(Account::lock).collect() }
    }
}

/// A gate and all its accounts, for one who holds the locks.
struct Locked<'a> {
    gate: &'a Shared,
    state: MutexGuard<'a, State>,
    accounts: Vec<MutexGuard<'a, AccountState>>,
}

impl Locked<'_> {
    /// The first instant from `now` on at which all scopes allow a start, and the widest that does not before.
    fn next(&mut self, profile: &str, now: Timestamp) -> (Timestamp, Scope) {
        let State { profile_limits, pool_limits, pool, profiles, circuit, .. } = &mut *self.state;
        let profile = profiles.get(profile).map_or(now, |counted| counted.quota.next(profile_limits, now));
        let pool = pool.quota.next(pool_limits, now);
        let circuit = circuit.as_mut().map_or(now, |circuit| circuit.next(now));
        let accounts = self.accounts.iter().map(|account| account.counted.quota.next(&account.limits, now));
        let account = accounts.max().unwrap_or(now);
        let scopes = [(profile, Scope::Profile), (pool.max(circuit), Scope::Pool), (account, Scope::Account)];
        scopes.into_iter().max_by_key(|(until, _)| *until).unwrap_or((now, Scope::Profile))
    }

    fn take(&mut self, profile: &str, at: Timestamp) {
        let state = &mut *self.state;
        let is_of_profile = !profile.is_empty() && !state.profile_limits.is_empty();
        if is_of_profile {
            state.change_profile(profile, |quota, limits| quota.take(limits, at));
        }
        if !state.pool_limits.is_empty() {
            state.pool.change().take(&state.pool_limits, at);
        }
        for account in &mut self.accounts {
            let AccountState { limits, counted, .. } = &mut **account;
            if !limits.is_empty() {
                counted.change().take(limits, at);
            }
        }
        if is_of_profile || !self.state.pool_limits.is_empty() || !self.accounts.is_empty() {
            self.gate.is_changed.store(true, Ordering::Relaxed);
        }
    }

    fn account(&mut self, name: Option<&str>) -> Option<&mut AccountState> {
        let index = self.gate.accounts.iter().position(|account| Some(account.name()) == name)?;
        self.accounts.get_mut(index).map(|account| &mut **account)
    }

    fn give_back(&mut self, profile: &str, at: Timestamp) {
        if self.state.profiles.contains_key(profile) {
            self.state.change_profile(profile, |quota, _| quota.give_back(at));
        }
        self.state.pool.change().give_back(at);
        self.accounts.iter_mut().for_each(|account| account.counted.change().give_back(at));
        self.gate.is_changed.store(true, Ordering::Relaxed);
    }

    /// Now and then: drops the profiles that are idle, has the store forget what it need not know, and opens the gate
    /// if nothing is left.
    fn sweep(&mut self, now: Timestamp) {
        let state = &mut *self.state;
        if let Some(entries) = state.entries_to_sweep.checked_sub(1) {
            state.entries_to_sweep = entries;
            return;
        }
        let State { profiles, changed, .. } = state;
        let mut busy = 0;
        profiles.retain(|name, counted| {
            busy += usize::from(!counted.quota.is_idle(now));
            if counted.is_over(now) {
                changed.push(name.clone());
                counted.is_changed = true;
            }
            counted.is_changed || !counted.quota.is_idle(now)
        });
        let accounts = self.accounts.iter_mut().map(|account| &mut account.counted);
        let mut is_changed = !changed.is_empty();
        for counted in accounts.chain([&mut state.pool]) {
            counted.is_changed |= counted.is_over(now);
            is_changed |= counted.is_changed;
        }
        if is_changed {
            self.gate.is_changed.store(true, Ordering::Relaxed);
        }
        state.entries_to_sweep = 2 * busy + 64;
        let is_free = state.is_free() && state.pool.quota.is_idle(now) && self.accounts.is_empty();
        self.gate.is_guarded.store(!is_free, Ordering::Relaxed);
    }
}

impl State {
    /// Whether there are no rules and nothing is counted, except for the pool perhaps.
    fn is_free(&self) -> bool {
        let has_limits = !self.profile_limits.is_empty() || !self.pool_limits.is_empty();
        !has_limits && self.circuit.is_none() && self.profiles.is_empty()
    }

    fn change_profile(&mut self, name: &str, change: impl FnOnce(&mut Quota, &[RateLimit])) {
        let counted = match self.profiles.get_mut(name) {
            Some(counted) => counted,
            None => self.profiles.entry(name.into()).or_default(),
        };
        if !counted.is_changed {
            self.changed.push(name.into());
        }
        change(counted.change(), &self.profile_limits);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("pool", &self.0.pool).field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}
