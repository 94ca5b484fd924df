//! The store in memory: the same promises, except that it dies with the process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::backend::Backend;
use super::{CallLog, Store};
use crate::error::StoreError;
use crate::id::{PoolId, Seq};
use crate::post::{Called, Change, Claimed, Cursor, Found, Home, Outcome, Page, Record, Stored, Verdict};
use crate::time::Timestamp;

/// The store in memory, for tests and for posts that need not outlive the process.
///
/// Clones share what they hold: start a scheduler on a clone, drop it, start another one on the next clone, and
/// it finds what the first one left, as after a restart.
#[derive(Default, Debug)]
pub struct MemoryStore {
    data: Arc<Mutex<Data>>,
    /// Whether an engine has started on this clone.
    opened: bool,
    /// The latest commit when it did.
    last_commit_at: Option<Timestamp>,
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self { data: Arc::clone(&self.data), opened: false, last_commit_at: None }
    }
}

#[derive(Debug, Default)]
struct Data {
    identity: Option<u64>,
    pools: Vec<String>,
    live: BTreeMap<Home, Record>,
    homes: HashMap<Seq, Home>,
    /// The attempt claimed, and by which opening.
    claims: HashMap<Home, (u32, u64)>,
    /// The last attempt of a post that has begun, as long as its claim is open.
    called: HashMap<Seq, u32>,
    remembered: BTreeMap<Bytes, Bytes>,
    settled: HashMap<Seq, (Record, Outcome, Timestamp)>,
    keys: HashMap<String, Seq>,
    next_seq: u64,
    commit_at: Option<Timestamp>,
    openings: u64,
    /// Which calls had begun is not known of the claims up to this opening.
    #[cfg(any(test, feature = "test-util"))]
    unknown_through: u64,
    /// Calls cannot be noted.
    #[cfg(any(test, feature = "test-util"))]
    is_log_stuck: bool,
}

impl MemoryStore {
    /// A new store that is known by this number, the same in every run.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn with_identity(identity: u64) -> Self {
        let store = Self::default();
        store.data().identity = Some(identity);
        store
    }

    /// The power fails: nothing is known any more of which calls had begun.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn lose_calls(&self) {
        let mut data = self.data();
        data.unknown_through = data.openings;
    }

    /// Whether calls cannot be noted from now on.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn stick_log(&self, is_stuck: bool) {
        self.data().is_log_stuck = is_stuck;
    }

    /// Posts of which it is noted that a call of theirs was about to begin.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn called(&self) -> HashSet<Seq> {
        self.data().called.keys().copied().collect()
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        // Nothing in here stops half-way.
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    fn stored(&self, record: &Record) -> Stored {
        let claim = self.claims.get(&record.home()).filter(|(_, opening)| *opening < self.openings);
        let is_called = |attempt| self.called.get(&record.seq) == Some(&attempt);
        let called = |attempt, opening| match is_called(attempt) {
            _ if self.is_unknown(opening) => Called::Unknown,
            true => Called::Yes,
            false => Called::No,
        };
        let claimed = claim.map(|(attempt, opening)| Claimed { attempt: *attempt, called: called(*attempt, *opening) });
        Stored { record: record.clone(), claimed }
    }

    #[cfg(any(test, feature = "test-util"))]
    fn is_unknown(&self, opening: u64) -> bool {
        opening <= self.unknown_through
    }

    /// Whether nobody knows which calls of claims of this opening had begun: here that is not lost.
    #[cfg(not(any(test, feature = "test-util")))]
    fn is_unknown(&self, _: u64) -> bool {
        false
    }

    fn find(&self, seq: Seq) -> Option<Found> {
        if let Some(record) = self.homes.get(&seq).and_then(|home| self.live.get(home)) {
            return Some(Found::Live(self.stored(record)));
        }
        let (record, outcome, at) = self.settled.get(&seq)?;
        Some(Found::Settled { record: record.clone(), outcome: outcome.clone(), at: *at })
    }

    fn schedule(&mut self, records: Vec<Record>, notes: Option<Vec<(Bytes, Bytes)>>) -> Verdict {
        let mut seqs = Vec::with_capacity(records.len());
        let mut unit = HashMap::<&str, (Seq, u64)>::new();
        for (index, record) in records.iter().enumerate() {
            self.next_seq = self.next_seq.max(record.seq.0);
            let Some(key) = record.body.key() else {
                seqs.push(record.seq);
                continue;
            };
            let print = record.body.fingerprint();
            let stored = || {
                let found = self.keys.get(key).and_then(|seq| self.find(*seq))?;
                Some((found.record().seq, found.record().body.fingerprint()))
            };
            match unit.get(key).copied().or_else(stored) {
                Some((existing, other)) if other != print => {
                    let last = records.iter().map(|record| record.seq.0).max();
                    self.next_seq = self.next_seq.max(last.unwrap_or(0));
                    return Verdict::Conflict { index, existing };
                }
                Some((existing, _)) => seqs.push(existing),
                None => {
                    unit.insert(key, (record.seq, print));
                    seqs.push(record.seq);
                }
            }
        }
        drop(unit);
        if let Some(notes) = notes {
            if records.iter().zip(&seqs).any(|(record, seq)| record.seq != *seq) {
                return Verdict::Stored(seqs);
            }
            notes.into_iter().for_each(|(key, value)| self.remember(key, value));
        }
        for (record, seq) in records.into_iter().zip(&seqs) {
            if record.seq == *seq {
                if let Some(key) = record.body.key() {
                    self.keys.insert(key.to_owned(), *seq);
                }
                self.put(record);
            }
        }
        Verdict::Stored(seqs)
    }

    fn put(&mut self, record: Record) {
        self.homes.insert(record.seq, record.home());
        self.live.insert(record.home(), record);
    }

    fn take(&mut self, home: Home) -> Option<Record> {
        let record = self.live.remove(&home)?;
        self.homes.remove(&home.seq);
        self.claims.remove(&home);
        Some(record)
    }

    fn remember(&mut self, key: Bytes, value: Bytes) {
        if value.is_empty() {
            self.remembered.remove(&key);
        } else {
            self.remembered.insert(key, value);
        }
    }

    fn apply(&mut self, now: Timestamp, change: Change) -> Option<Verdict> {
        match change {
            Change::Schedule(records) => return Some(self.schedule(records, None)),
            Change::ScheduleNoted { records, notes } => return Some(self.schedule(records, Some(notes))),
            Change::Claim { home, attempt } if self.live.contains_key(&home) => {
                self.claims.insert(home, (attempt, self.openings));
            }
            Change::Claim { .. } => {}
            Change::Release { home } if self.live.contains_key(&home) => {
                self.claims.remove(&home);
                self.called.remove(&home.seq);
            }
            Change::Release { .. } => {}
            Change::Move { from, to, claim } => {
                if self.take(from).is_some() {
                    // The same attempt that goes on elsewhere has still begun.
                    if self.called.get(&from.seq).copied() != claim {
                        self.called.remove(&from.seq);
                    }
                    if let Some(attempt) = claim {
                        self.claims.insert(to.home(), (attempt, self.openings));
                    }
                    self.put(*to);
                }
            }
            Change::Remember { key, value } => self.remember(key, value),
            Change::Settle { home, attempts, outcome } => {
                if let Some(mut record) = self.take(home) {
                    self.called.remove(&home.seq);
                    record.attempts = attempts;
                    self.settled.insert(home.seq, (record, outcome, now));
                }
            }
        }
        None
    }
}

impl Store for MemoryStore {}

/// What of a [`MemoryStore`] is shared.
#[derive(Debug)]
struct Shared(Arc<Mutex<Data>>);

impl CallLog for Shared {
    fn calling(&self, attempts: &[(Seq, u32)]) -> bool {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(any(test, feature = "test-util"))]
        if data.is_log_stuck {
            return false;
        }
        data.called.extend(attempts.iter().copied());
        true
    }
}

impl Backend for MemoryStore {
    fn pools(&mut self, names: &[String]) -> Result<Vec<PoolId>, StoreError> {
        let (opened, mut data) = (self.opened, self.data());
        data.openings += u64::from(!opened);
        let mut ids = Vec::with_capacity(names.len());
        for name in names {
            let known = data.pools.iter().position(|pool| pool == name);
            ids.push(PoolId(known.unwrap_or(data.pools.len()) as u16));
            if known.is_none() {
                data.pools.push(name.clone());
            }
        }
        let commit_at = data.commit_at;
        drop(data);
        if !opened {
            (self.opened, self.last_commit_at) = (true, commit_at);
        }
        Ok(ids)
    }

    fn orphan(&mut self, bound: &[PoolId]) -> Result<Option<String>, StoreError> {
        let data = self.data();
        let pools: HashSet<PoolId> = data.live.keys().map(|home| home.pool).collect();
        let orphan = pools.into_iter().filter(|pool| !bound.contains(pool)).min_by_key(|pool| pool.0);
        Ok(orphan.and_then(|pool| data.pools.get(usize::from(pool.0)).cloned()))
    }

    fn identity(&self) -> u64 {
        let mut data = self.data();
        // Where there is no randomness, the address will do: it tells the stores of one process apart.
        let address = Arc::as_ptr(&self.data) as usize as u64;
        *data.identity.get_or_insert_with(|| getrandom::u64().unwrap_or(address))
    }

    fn next_seq(&self) -> Seq {
        Seq(self.data().next_seq + 1)
    }

    fn last_commit_at(&self) -> Timestamp {
        let at = if self.opened { self.last_commit_at } else { self.data().commit_at };
        at.unwrap_or(Timestamp::MIN)
    }

    fn commit(&mut self, now: Timestamp, changes: Vec<Change>) -> Result<Vec<Verdict>, StoreError> {
        let mut data = self.data();
        data.commit_at = data.commit_at.max(Some(now));
        Ok(changes.into_iter().filter_map(|change| data.apply(now, change)).collect())
    }

    fn load(&mut self, pool: PoolId, after: Cursor, until: Timestamp, max_bytes: usize) -> Result<Page, StoreError> {
        let end = Cursor::through(until);
        let mut page = Page { posts: Vec::new(), through: end.max(after) };
        if after >= end {
            return Ok(page);
        }
        let data = self.data();
        let [from, to] = [after, end].map(|Cursor { at, seq }| Home { pool, at, seq });
        let mut bytes = 0;
        for (home, record) in data.live.range(from..=to).filter(|(home, _)| **home != from) {
            page.posts.push(data.stored(record));
            bytes += record.body.len() + record.notes.len();
            if bytes >= max_bytes {
                page.through = Cursor::of(*home);
                break;
            }
        }
        Ok(page)
    }

    fn find(&mut self, seq: Seq) -> Result<Option<Found>, StoreError> {
        Ok(self.data().find(seq))
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Found>, StoreError> {
        let data = self.data();
        Ok(data.keys.get(key).and_then(|seq| data.find(*seq)))
    }

    fn remembered(&mut self) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        Ok(self.data().remembered.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn call_log(&mut self) -> Option<Arc<dyn CallLog>> {
        Some(Arc::new(Shared(Arc::clone(&self.data))))
    }

    fn tidy(&mut self, now: Timestamp, retention: Duration) -> Result<bool, StoreError> {
        let before = now.before(retention);
        let mut data = self.data();
        let Data { settled, keys, .. } = &mut *data;
        settled.retain(|seq, (record, _, at)| {
            let kept = *at >= before;
            if let Some(key) = record.body.key().filter(|key| !kept && keys.get(*key) == Some(seq)) {
                keys.remove(key);
            }
            kept
        });
        Ok(false)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
