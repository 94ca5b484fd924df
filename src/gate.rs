//! What a pool may do now: its rate limits, its breaker, and what the network said. Pure, but shared: the one piece of
//! state with several owners, because a limit holds for all shards of a pool, and an account for several pools.
//!
//! Locks are taken in one order: the gate's, then its accounts' by name. Most pools have nothing that limits them;
//! they take none.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::marks::{self, Mark};
use crate::quota::{Quota, RateLimit, Scope};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::time::Timestamp;

/// An account on a network that several pools publish through: they share its limits, and wait together when the
/// network throttles it.
///
/// Give clones of one account to the pools; two accounts of one name are a mistake.
///
/// ```
/// use punctual::{Account, RateLimit};
/// use std::time::Duration;
///
/// let app = Account::new("our-app").limit(RateLimit::rolling(200, Duration::from_secs(3_600)));
/// let (for_posts, for_stories) = (app.clone(), app);
/// ```
#[derive(Clone)]
pub struct Account(Arc<SharedAccount>);

struct SharedAccount {
    name: Box<str>,
    state: Mutex<AccountState>,
}

#[derive(Default)]
struct AccountState {
    limits: Vec<RateLimit>,
    counted: Counted,
    is_restored: bool,
}

impl Account {
    /// An account without limits. Its counts are remembered under this name, 1 to 255 bytes.
    pub fn new(name: impl Into<String>) -> Self {
        Self(Arc::new(SharedAccount { name: name.into().into_boxed_str(), state: Mutex::default() }))
    }

    /// One more limit, for all clones of this account.
    #[must_use]
    pub fn limit(self, limit: RateLimit) -> Self {
        self.lock().limits.push(limit);
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn limits(&self) -> Vec<RateLimit> {
        self.lock().limits.clone()
    }

    /// Whether both are the same account, not only of the same name.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, AccountState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("name", &self.name()).field("limits", &self.limits()).finish()
    }
}

/// When a pool stops by itself, and how it finds out that the network is back: after so many failures in a row (a
/// timeout, a panic, a transient or unknown error) its posts wait, without using up attempts. After a pause one post
/// goes out as a probe. If it is answered, the pool goes on; if not, it waits twice as long.
///
/// ```
/// use punctual::Breaker;
/// use std::time::Duration;
///
/// let breaker = Breaker::new(20).pause(Duration::from_secs(10)).max_pause(Duration::from_secs(300));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    failures: u32,
    pause: Duration,
    max_pause: Duration,
}

impl Breaker {
    /// Opens after this many failures in a row; zero counts as one. The first probe comes after 30 s, and the pauses
    /// grow up to 10 minutes, unless changed.
    pub const fn new(failures: u32) -> Self {
        let failures = if failures == 0 { 1 } else { failures };
        Self { failures, pause: Duration::from_secs(30), max_pause: Duration::from_secs(600) }
    }

    /// How long until the first probe. Default: 30 s.
    #[must_use]
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// The longest pause that doubling leads to. Default: 10 minutes.
    #[must_use]
    pub const fn max_pause(mut self, pause: Duration) -> Self {
        self.max_pause = pause;
        self
    }
}

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

/// What the breaker did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turned {
    Opened { probe_at: Timestamp },
    Closed,
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

/// What was counted for one scope, and whether the store knows.
#[derive(Default)]
struct Counted {
    quota: Quota,
    is_changed: bool,
    is_remembered: bool,
}

impl Counted {
    fn change(&mut self) -> &mut Quota {
        self.is_changed = true;
        &mut self.quota
    }

    /// What is to be remembered now, if that is news; nothing if it can be forgotten.
    fn news(&mut self, now: Timestamp) -> Option<Bytes> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let was_remembered = std::mem::replace(&mut self.is_remembered, !self.quota.is_idle(now));
        match self.is_remembered {
            true => Some(self.quota.encode().into()),
            false => was_remembered.then(Bytes::new),
        }
    }

    /// Whether the store is to forget it, and has not been told.
    fn is_over(&self, now: Timestamp) -> bool {
        self.is_remembered && !self.is_changed && self.quota.is_idle(now)
    }
}

/// A breaker at work.
struct Circuit {
    breaker: Breaker,
    phase: Phase,
}

enum Phase {
    Closed {
        failures: u32,
    },
    Open {
        pause: Duration,
        probe_at: Timestamp,
    },
    /// One that entered at this instant is the probe.
    Probing {
        pause: Duration,
        probe_at: Timestamp,
        entered: Timestamp,
    },
}

/// How often is looked whether a probe has ended.
const PROBING: Duration = Duration::from_secs(1);

impl Circuit {
    fn next(&mut self, now: Timestamp) -> Timestamp {
        match &mut self.phase {
            Phase::Closed { .. } => now,
            Phase::Open { pause, probe_at } => {
                // The clock may have stepped back.
                *probe_at = (*probe_at).min(now.after(*pause));
                now.max(*probe_at)
            }
            Phase::Probing { .. } => now.after(PROBING),
        }
    }

    fn enter(&mut self, now: Timestamp) {
        if let Phase::Open { pause, probe_at } = self.phase {
            self.phase = Phase::Probing { pause, probe_at, entered: now };
        }
    }

    fn leave(&mut self, left: Timestamp, now: Timestamp, healthy: Option<bool>) -> Option<Turned> {
        let Breaker { failures: limit, pause: first, max_pause } = self.breaker;
        match (&mut self.phase, healthy) {
            (Phase::Closed { failures }, Some(true)) => {
                *failures = 0;
                None
            }
            (Phase::Closed { failures }, Some(false)) => {
                *failures += 1;
                (*failures >= limit).then(|| self.open(first, now))
            }
            (Phase::Probing { pause, probe_at, entered }, health) if *entered == left => match health {
                Some(true) => {
                    marks::reach(Mark::BreakerClosed);
                    self.phase = Phase::Closed { failures: 0 };
                    Some(Turned::Closed)
                }
                Some(false) => {
                    marks::reach(Mark::ProbeFailed);
                    let longer = pause.saturating_mul(2).min(max_pause).max(first);
                    Some(self.open(longer, now))
                }
                None => {
                    self.phase = Phase::Open { pause: *pause, probe_at: *probe_at };
                    None
                }
            },
            // It entered before the breaker opened, which says nothing of the network now.
            _ => None,
        }
    }

    fn open(&mut self, pause: Duration, now: Timestamp) -> Turned {
        marks::reach(Mark::BreakerOpened);
        let probe_at = now.after(pause);
        self.phase = Phase::Open { pause, probe_at };
        Turned::Opened { probe_at }
    }
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
            circuit: breaker.map(|breaker| Circuit { breaker, phase: Phase::Closed { failures: 0 } }),
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
        let counted =
            || Counted { quota: Quota::decode(value).unwrap_or_default(), is_changed: false, is_remembered: true };
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
        key.first() == Some(&KEY)
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

const KEY: u8 = b'L';

/// The first byte of every key, the scope, and each name with its length (u16 LE) before it.
fn key(scope: Scope, names: &[&str]) -> Bytes {
    let mut key = vec![KEY, scope_byte(scope)];
    for name in names {
        let name = &name.as_bytes()[..name.len().min(u16::MAX.into())];
        key.extend_from_slice(&(name.len() as u16).to_le_bytes());
        key.extend_from_slice(name);
    }
    key.into()
}

/// What [`key`] was made of.
fn scope_and_names(key: &[u8]) -> Option<(Scope, Vec<&str>)> {
    let (head, mut rest) = key.split_first_chunk::<2>()?;
    let scopes = [Scope::Profile, Scope::Pool, Scope::Account];
    let scope = scopes.into_iter().find(|scope| *head == [KEY, scope_byte(*scope)])?;
    let mut names = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk() {
        let (name, after) = after.split_at_checked(u16::from_le_bytes(*len).into())?;
        names.push(std::str::from_utf8(name).ok()?);
        rest = after;
    }
    rest.is_empty().then_some((scope, names))
}

fn scope_byte(scope: Scope) -> u8 {
    match scope {
        Scope::Profile => 0,
        Scope::Pool => 1,
        Scope::Account => 2,
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("pool", &self.0.pool).field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn rolling(max: u32, secs: u64) -> Vec<RateLimit> {
        vec![RateLimit::rolling(max, Duration::from_secs(secs))]
    }

    fn wait(scope: Scope, ms: i64) -> Entry {
        Entry::Wait { scope, until: at(ms) }
    }

    /// A later process: gates of these rules that were given all that was remembered.
    fn restarted(pool: &str, rules: Rules, remembered: &BTreeMap<Bytes, Bytes>) -> Gate {
        let gate = Gate::new(pool, rules);
        remembered.iter().for_each(|(key, value)| {
            gate.restore(key, value);
        });
        gate
    }

    fn remember(remembered: &mut BTreeMap<Bytes, Bytes>, changed: Vec<(Bytes, Bytes)>) {
        for (key, value) in changed {
            assert!(Gate::is_remembered_key(&key));
            if value.is_empty() {
                remembered.remove(&key)
            } else {
                remembered.insert(key, value)
            };
        }
    }

    #[test]
    fn a_gate_without_rules_lets_everything_through_and_remembers_nothing() {
        let gate = Gate::new("p", Rules::default());
        assert!(gate.is_open());
        assert_eq!(gate.enter("a", at(0)), Entry::Go);
        gate.count("a", at(0));
        assert_eq!(gate.leave("a", at(0), at(1), Some(false)), None);
        assert_eq!(gate.changed(at(1)), []);
    }

    #[test]
    fn one_scope_that_is_full_takes_from_none() {
        let account = Account::new("app").limit(RateLimit::rolling(3, 10 * SECOND));
        let rules = Rules { profile: rolling(1, 5), pool: rolling(2, 7), accounts: vec![account], ..Rules::default() };
        let gate = Gate::new("p", rules);
        assert_eq!(gate.enter("a", at(0)), Entry::Go);
        assert_eq!(gate.enter("a", at(0)), wait(Scope::Profile, 5_000));
        assert_eq!(gate.enter("", at(0)), Entry::Go);
        assert_eq!(gate.enter("b", at(0)), wait(Scope::Pool, 7_000));
        assert_eq!(gate.enter("b", at(7_000)), Entry::Go);
        assert_eq!(gate.enter("c", at(7_000)), wait(Scope::Account, 10_000));
        assert_eq!(gate.enter("c", at(10_000)), Entry::Go);
    }

    #[test]
    fn every_account_of_a_pool_has_limits_of_its_own() {
        let account = |name: &str, most| Account::new(name).limit(RateLimit::rolling(most, 10 * SECOND));
        let accounts = vec![account("a", 3), account("b", 1), account("b", 9)];
        let gate = Gate::new("p", Rules { accounts, ..Rules::default() });
        assert_eq!(gate.enter("", at(0)), Entry::Go);
        assert_eq!(gate.enter("", at(0)), wait(Scope::Account, 10_000), "of two of one name the first counts");
        assert!(gate.set_limits(Scope::Account, Some("b"), Vec::new()));
        assert_eq!([gate.enter("", at(1)), gate.enter("", at(2))], [Entry::Go, Entry::Go]);
        assert_eq!(gate.enter("", at(3)), wait(Scope::Account, 10_000));
    }

    #[test]
    fn what_each_scope_has_counted_is_remembered_also_where_it_is_the_only_one() {
        let account = Account::new("app").limit(RateLimit::rolling(1, 10 * SECOND));
        let rules = [
            Rules { profile: rolling(1, 10), ..Rules::default() },
            Rules { pool: rolling(1, 10), ..Rules::default() },
            Rules { accounts: vec![account], ..Rules::default() },
        ];
        for (rules, scope) in rules.into_iter().zip([Scope::Profile, Scope::Pool, Scope::Account]) {
            let gate = Gate::new("p", rules);
            assert_eq!(gate.enter("a", at(0)), Entry::Go);
            assert_eq!(gate.enter("a", at(1)), wait(scope, 10_000));
            assert_eq!(gate.changed(at(2)).len(), 1, "{scope:?}");
            assert_eq!(gate.changed(at(3)), [], "once");
        }
    }

    #[test]
    fn a_start_that_was_not_made_is_given_back_to_every_scope() {
        let account = Account::new("app").limit(RateLimit::rolling(1, SECOND));
        let rules = Rules { profile: rolling(1, 1), pool: rolling(1, 1), accounts: vec![account], ..Rules::default() };
        let gate = Gate::new("p", rules);
        assert_eq!(gate.enter("a", at(0)), Entry::Go);
        assert_eq!(gate.leave("a", at(0), at(1), None), None);
        assert_eq!(gate.enter("a", at(2)), Entry::Go);
        gate.leave("a", at(2), at(3), Some(true));
        assert!(matches!(gate.enter("a", at(4)), Entry::Wait { .. }));
    }

    #[test]
    fn what_the_network_throttles_waits_in_its_scope_and_the_gate_opens_again() {
        let gate = Gate::new("p", Rules::default());
        gate.throttle(Scope::Profile, "a", at(1_000));
        assert_eq!(gate.enter("a", at(0)), wait(Scope::Profile, 1_000));
        assert_eq!(gate.enter("b", at(0)), Entry::Go);
        gate.throttle(Scope::Profile, "", at(500));
        gate.throttle(Scope::Account, "b", at(700));
        assert_eq!(gate.enter("b", at(0)), wait(Scope::Pool, 700));
        let mut remembered = BTreeMap::new();
        remember(&mut remembered, gate.changed(at(10)));
        assert_eq!(remembered.len(), 2);
        for ms in 2_000..2_200 {
            assert_eq!(gate.enter("a", at(ms)), Entry::Go);
            remember(&mut remembered, gate.changed(at(ms)));
        }
        assert!(gate.is_open());
        assert_eq!(remembered, BTreeMap::new(), "what is over is forgotten");
    }

    #[test]
    fn an_account_waits_as_a_whole() {
        let account = Account::new("app");
        let rules = || Rules { accounts: vec![account.clone()], ..Rules::default() };
        let (first, second) = (Gate::new("first", rules()), Gate::new("second", rules()));
        first.throttle(Scope::Account, "a", at(1_000));
        assert_eq!(second.enter("b", at(0)), wait(Scope::Account, 1_000));
        assert!(second.set_limits(Scope::Account, Some("app"), rolling(1, 1)));
        assert!(!second.set_limits(Scope::Account, Some("other"), Vec::new()));
        assert!(!second.set_limits(Scope::Account, None, Vec::new()));
        assert_eq!(first.enter("", at(1_000)), Entry::Go);
        assert_eq!(second.enter("", at(1_000)), wait(Scope::Account, 2_000));
        let [(key, _)] = &first.changed(at(1_000))[..] else { panic!("one key") };
        assert_eq!(second.changed(at(1_000)), [], "it is the same one");
        assert!(second.restore(key, b"?") && !second.restore(&super::key(Scope::Account, &["other"]), b""));
    }

    #[test]
    fn an_account_that_is_restored_through_one_gate_is_not_restored_again_through_another() {
        let rules = |account: &Account| Rules { accounts: vec![account.clone()], ..Rules::default() };
        let limit = RateLimit::rolling(3, SECOND);
        let before = Gate::new("first", rules(&Account::new("app").limit(limit.clone())));
        assert_eq!(before.enter("", at(0)), Entry::Go);
        let remembered = before.changed(at(0)).into_iter().collect();
        let account = Account::new("app").limit(limit);
        let first = restarted("first", rules(&account), &remembered);
        first.count("", at(0));
        let second = restarted("second", rules(&account), &remembered);
        assert_eq!(second.enter("", at(1)), Entry::Go);
        assert_eq!(second.enter("", at(1)), wait(Scope::Account, 1_000));
    }

    #[test]
    fn a_key_belongs_to_one_gate_alone() {
        let gate = Gate::new("p", Rules { profile: rolling(1, 60), pool: rolling(9, 60), ..Rules::default() });
        gate.enter("a", at(0));
        let (twin, other) = (Gate::new("p", Rules::default()), Gate::new("pa", Rules::default()));
        for (key, value) in gate.changed(at(1)) {
            assert!(Gate::is_remembered_key(&key) && twin.restore(&key, &value) && !other.restore(&key, &value));
        }
        assert!(!gate.restore(b"", b"") && !gate.restore(b"L", b"") && !gate.restore(b"L\x01\x05\x00p", b""));
        assert!(!Gate::is_remembered_key(b"") && !Gate::is_remembered_key(b"M"));
    }

    #[test]
    fn profiles_that_are_idle_take_no_memory() {
        let gate = Gate::new("p", Rules { profile: rolling(1, 1), ..Rules::default() });
        let mut remembered = BTreeMap::new();
        for ms in 0..100_000 {
            assert_eq!(gate.enter(&ms.to_string(), at(ms)), Entry::Go);
            if ms % 10 == 0 {
                remember(&mut remembered, gate.changed(at(ms)));
            }
        }
        assert!(gate.0.state.lock().unwrap().profiles.len() < 5_000);
        assert!(remembered.len() < 5_000);
    }

    fn breaker() -> Gate {
        let breaker = Breaker::new(2).pause(10 * SECOND).max_pause(15 * SECOND);
        Gate::new("p", Rules { breaker: Some(breaker), ..Rules::default() })
    }

    /// One that enters and ends at once.
    fn pass(gate: &Gate, ms: i64, healthy: bool) -> Option<Turned> {
        assert_eq!(gate.enter("a", at(ms)), Entry::Go);
        gate.leave("a", at(ms), at(ms), Some(healthy))
    }

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_closes_after_a_healthy_probe() {
        let gate = breaker();
        for (ms, healthy) in [(0, false), (1, true), (2, false)] {
            assert_eq!(pass(&gate, ms, healthy), None);
        }
        assert_eq!(pass(&gate, 1_000, false), Some(Turned::Opened { probe_at: at(11_000) }));
        assert_eq!(gate.enter("", at(1_000)), wait(Scope::Pool, 11_000));
        assert_eq!(gate.enter("a", at(11_000)), Entry::Go);
        assert_eq!(gate.enter("b", at(11_000)), wait(Scope::Pool, 12_000), "one probe only");
        // One from before the breaker opened tells nothing.
        assert_eq!(gate.leave("b", at(999), at(11_500), Some(true)), None);
        assert_eq!(gate.leave("b", at(999), at(11_500), Some(false)), None);
        let reopened = gate.leave("a", at(11_000), at(12_000), Some(false));
        assert_eq!(reopened, Some(Turned::Opened { probe_at: at(27_000) }), "twice as long, but not over the longest");
        assert_eq!(pass(&gate, 27_000, true), Some(Turned::Closed));
        assert_eq!(pass(&gate, 27_001, false), None);
        assert_eq!(pass(&gate, 27_002, false), Some(Turned::Opened { probe_at: at(37_002) }), "as short as at first");
    }

    #[test]
    fn a_probe_that_was_not_made_leaves_its_place_to_another() {
        let gate = breaker();
        pass(&gate, 0, false);
        pass(&gate, 0, false);
        assert_eq!(gate.enter("a", at(10_000)), Entry::Go);
        assert_eq!(gate.leave("a", at(10_000), at(10_001), None), None);
        assert_eq!(pass(&gate, 10_002, true), Some(Turned::Closed));
    }

    #[test]
    fn an_open_breaker_does_not_outlast_its_pause_when_the_clock_steps_back() {
        let gate = breaker();
        pass(&gate, 1_000_000, false);
        pass(&gate, 1_000_000, false);
        assert_eq!(gate.enter("a", at(0)), wait(Scope::Pool, 10_000));
        assert_eq!(gate.enter("a", at(10_000)), Entry::Go);
    }

    /// What happens to the gates of two pools that share an account.
    #[derive(Clone, Debug)]
    enum Op {
        Enter(usize, u8),
        /// The one that entered so many ago leaves, called or not.
        Leave(usize, bool),
        Wait(i64),
        Throttle(usize, Scope, u8, i64),
        Remember(usize),
        Restart,
        /// The process dies: what entered since was remembered or is counted.
        Crash,
    }

    fn op() -> impl Strategy<Value = Op> {
        let scope = prop::sample::select(vec![Scope::Profile, Scope::Pool, Scope::Account]);
        prop_oneof![
            20 => (0usize..2, 0u8..4).prop_map(|(gate, profile)| Op::Enter(gate, profile)),
            6 => (0usize..9, any::<bool>()).prop_map(|(index, called)| Op::Leave(index, called)),
            6 => (0i64..4_000).prop_map(Op::Wait),
            1 => (0usize..2, scope, 0u8..4, 0i64..5_000).prop_map(|(g, s, p, t)| Op::Throttle(g, s, p, t)),
            2 => (0usize..2).prop_map(Op::Remember),
            1 => Just(Op::Restart),
            1 => Just(Op::Crash),
        ]
    }

    /// A start that counts.
    #[derive(Clone, Debug)]
    struct Start {
        gate: usize,
        profile: String,
        at: Timestamp,
        is_running: bool,
    }

    proptest! {
        /// Whatever two pools with a common account do: no limit of any scope is exceeded, over restarts and crashes
        /// too, and whoever waits until he is told may enter then.
        #[test]
        fn no_scope_is_ever_exceeded_and_nobody_waits_for_ever(
            ops in prop::collection::vec(op(), 1..150), max in (1usize..4, 2usize..6, 3usize..9), secs in (1u64..6, 1u64..6, 1u64..6),
        ) {
            let build = |remembered: &BTreeMap<Bytes, Bytes>| {
                let account = Account::new("app").limit(RateLimit::rolling(max.2 as u32, SECOND * secs.2 as u32));
                [0, 1].map(|gate| {
                    let rules = Rules {
                        profile: rolling(max.0 as u32, secs.0),
                        pool: rolling(max.1 as u32, secs.1),
                        breaker: None,
                        accounts: vec![account.clone()],
                    };
                    restarted(["first", "second"][gate], rules, remembered)
                })
            };
            let name = |profile: u8| if profile == 0 { String::new() } else { profile.to_string() };
            let mut remembered = BTreeMap::new();
            let mut gates = build(&remembered);
            let (mut now, mut starts, mut since) = (at(1_000_000), Vec::<Start>::new(), 0);
            for op in ops {
                match op {
                    Op::Enter(gate, profile) => {
                        let profile = name(profile);
                        if let Entry::Wait { until, .. } = gates[gate].enter(&profile, now) {
                            prop_assert!(until > now);
                            now = until;
                            prop_assert_eq!(gates[gate].enter(&profile, now), Entry::Go);
                        }
                        let counts = |secs: u64, is_in: &dyn Fn(&Start) -> bool| {
                            starts.iter().filter(|start| start.at.after(SECOND * secs as u32) > now && is_in(start)).count()
                        };
                        let in_pool = counts(secs.1, &|start| start.gate == gate);
                        let in_profile = counts(secs.0, &|start| start.gate == gate && start.profile == profile);
                        prop_assert!(profile.is_empty() || in_profile < max.0);
                        prop_assert!(in_pool < max.1);
                        prop_assert!(counts(secs.2, &|_| true) < max.2);
                        starts.push(Start { gate, profile, at: now, is_running: true });
                    }
                    Op::Leave(index, called) => {
                        let Some(index) = starts.len().checked_sub(index + 1).filter(|index| starts[*index].is_running) else { continue };
                        let Start { gate, profile, at, is_running } = &mut starts[index];
                        *is_running = false;
                        gates[*gate].leave(profile, *at, now, called.then_some(true));
                        if !called {
                            starts.remove(index);
                            since = since.min(starts.len());
                        }
                    }
                    Op::Wait(ms) => now = now.after(Duration::from_millis(ms as u64)),
                    Op::Throttle(gate, scope, profile, ms) => {
                        let until = now.after(Duration::from_millis(ms as u64));
                        gates[gate].throttle(scope, &name(profile), until);
                        let told = gates[gate].enter(&name(profile), now);
                        prop_assert_eq!(matches!(told, Entry::Wait { until: told, .. } if told >= until), ms > 0 || told != Entry::Go);
                        if told == Entry::Go {
                            gates[gate].leave(&name(profile), now, now, None);
                        }
                    }
                    Op::Remember(gate) => remember(&mut remembered, gates[gate].changed(now)),
                    Op::Restart => {
                        gates.iter().for_each(|gate| remember(&mut remembered, gate.changed(now)));
                        (gates, since) = (build(&remembered), starts.len());
                        starts.iter_mut().for_each(|start| start.is_running = false);
                    }
                    Op::Crash => {
                        gates = build(&remembered);
                        for start in &mut starts[since..] {
                            gates[start.gate].count(&start.profile, start.at);
                        }
                        starts.iter_mut().for_each(|start| start.is_running = false);
                    }
                }
            }
        }

        /// A breaker never stops a pool for good.
        #[test]
        fn a_breaker_always_asks_again(ops in prop::collection::vec((0u8..4, 0i64..20_000), 1..100)) {
            let gate = breaker();
            let (mut now, mut running) = (at(0), Vec::new());
            for (op, ms) in ops {
                match op {
                    0 => now = now.after(Duration::from_millis(ms as u64)),
                    1 if !running.is_empty() => {
                        let entered = running.swap_remove(ms as usize % running.len());
                        gate.leave("", entered, now, [None, Some(true), Some(false)][ms as usize % 3]);
                    }
                    _ => match gate.enter("", now) {
                        Entry::Go => running.push(now),
                        Entry::Wait { until, .. } => prop_assert!(until > now && until <= now.after(15 * SECOND)),
                    },
                }
            }
            for entered in running {
                gate.leave("", entered, now, Some(false));
            }
            let until = match gate.enter("", now) { Entry::Go => now, Entry::Wait { until, .. } => until };
            prop_assert_eq!(if until > now { gate.enter("", until) } else { Entry::Go }, Entry::Go);
        }
    }
}
