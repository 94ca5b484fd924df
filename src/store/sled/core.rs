//! The open store: commits, generations that grow and are handed to the sorter, and what is forgotten.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::sled::Tree;
use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::error::StoreError;
use crate::id::{PoolId, Seq};
use crate::post::{Change, Found, Home, Record, Stored, Verdict};
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::Sizes;
use super::calls::{Calls, Closed};
use super::catalog::{Catalog, Meta};
use super::codec::Kind;
use super::disk::Disk;
use super::files::{Folder, Witness};
use super::index::Index;
use super::journal::{CommitWriter, Entry, Journal};
use super::keys::{KeyCatalog, Keys};
use super::load::Bookmark;
use super::memtable::{Frozen, Memtable, Tallies};
use super::remembered::{Remembered, Span};
use super::run::{Run, RunReader};
use super::sorter::{self, Done, Job, Sorter};
use super::state::{self, DayState, Days};

/// Generations that the sorter may have; with more, commits wait too.
const FROZEN: usize = 2;
/// So many commits after its last large one a spike is over.
pub const CALM: u32 = 32;
/// Generations that are put off while a spike lasts.
const PUT_OFF: usize = 3;
/// Days on shelves that are forgotten at once, at most.
const DAYS_AT_ONCE: usize = 1_000;
/// Calls of earlier processes that are looked at in one go.
const CALLS_AT_ONCE: usize = 200;

/// Everything that an open store consists of. Fields are dropped in this order: the sorter before the database,
/// the lock last.
#[derive(Debug)]
pub struct Core {
    pub(super) sorter: Sorter,
    pub(super) journal: Journal,
    /// The trees that were read, by day and part; all far days have one tree.
    pub(super) trees: FxHashMap<(u32, u16), Tree>,
    pub(super) meta: Meta,
    pub(super) index: Index,
    pub(super) keys: Keys,
    pub(super) remembered: Remembered,
    /// The runs of what is remembered; they stay until the sorter is told of others.
    pub(super) spans: Vec<Span>,
    pub(super) calls: Calls,
    pub(super) disk: Arc<Disk>,
    pub(super) witness: Witness,
    pub(super) sizes: Sizes,
    pub(super) catalog: Catalog,
    pub(super) key_catalog: KeyCatalog,
    pub(super) current: Memtable,
    /// Generations that are being sorted, or wait for it; oldest first.
    pub(super) frozen: VecDeque<Arc<Frozen>>,
    /// How many of these the sorter has not got yet.
    pub(super) put_off: usize,
    /// Commits since the last one of a spike.
    pub(super) calm: u32,
    pub(super) tallies: Tallies,
    pub(super) days: Days,
    /// Claims of this commit and later ones are this process's own.
    pub(super) own_from: u64,
    /// One for each pool, and one for what the pool has on shelves.
    pub(super) bookmarks: FxHashMap<(PoolId, bool), Bookmark>,
    pub(super) pools: Vec<String>,
    pub(super) commit: u64,
    pub(super) next_seq: Seq,
    /// When an earlier process committed last.
    pub(super) last_commit_at: Timestamp,
    /// What ended before this is forgotten.
    pub(super) forget_before: Timestamp,
    /// Locked as long as the store is open.
    pub(super) _folder: Folder,
}

impl Core {
    pub fn pools(&mut self, names: &[String]) -> Result<Vec<PoolId>, StoreError> {
        let known = self.pools.len();
        let mut ids = Vec::with_capacity(names.len());
        for name in names {
            let place = self.pools.iter().position(|pool| pool == name).unwrap_or(self.pools.len());
            let id = PoolId(place as u16);
            if place == self.pools.len() {
                self.meta.add_pool(&self.disk, id, name)?;
                self.pools.push(name.clone());
            }
            ids.push(id);
        }
        if self.pools.len() > known {
            // Of a commit that was not finished any part may survive: never a post of a pool without its name.
            self.disk.make_durable()?;
        }
        Ok(ids)
    }

    pub fn orphan(&self, bound: &[PoolId]) -> Option<String> {
        let orphan = self.tallies.pools().into_iter().find(|pool| !bound.contains(pool))?;
        self.pools.get(usize::from(orphan.0)).cloned()
    }

    pub fn commit(&mut self, now: Timestamp, changes: Vec<Change>) -> Result<Vec<Verdict>, StoreError> {
        self.poll()?;
        let mut commit = CommitWriter::new(now);
        let mut verdicts = Vec::new();
        let mut full = None;
        let mut closed = Vec::new();
        let is_spike =
            changes.iter().filter(|change| matches!(change, Change::Settle { .. })).nth(self.sizes.spike).is_some();
        for change in changes {
            match change {
                Change::Schedule(records) => {
                    verdicts.push(self.receive(now, records, None, &mut full, &mut commit)?);
                }
                Change::ScheduleNoted { records, notes } => {
                    verdicts.push(self.receive(now, records, Some(notes), &mut full, &mut commit)?);
                }
                Change::Claim { home, attempt } => {
                    if let Some(day) = self.live_day(home)? {
                        day.forget_claim(home.seq);
                        commit.claim(home, attempt);
                        self.apply(now, Entry::Claim { home, attempt });
                    }
                }
                Change::Release { home } => {
                    if let Some(day) = self.live_day(home)? {
                        day.forget_claim(home.seq);
                        commit.release(home);
                        closed.push(Closed::Moved { seq: home.seq, claim: None });
                        self.apply(now, Entry::Release { home });
                    }
                }
                Change::Move { from, to, claim } => {
                    let generation = self.current.generation;
                    let is_replaced = self.current.posts.contains_key(&from.seq);
                    if let Some(day) = self.live_day(from)? {
                        day.forget_claim(from.seq);
                        if !is_replaced {
                            day.leave(from.seq, generation);
                        }
                        commit.shift(from, &to);
                        closed.push(Closed::Moved { seq: from.seq, claim });
                        let home = to.home();
                        self.apply(now, Entry::Move { from, to: *to });
                        if let Some(attempt) = claim {
                            commit.claim(home, attempt);
                            self.apply(now, Entry::Claim { home, attempt });
                        }
                    }
                }
                Change::Settle { home, attempts, outcome } => {
                    if let Some(day) = self.live_day(home)? {
                        day.settle(home.seq);
                        commit.settle(home, attempts, &outcome);
                        closed.push(Closed::Settled(home.seq));
                        self.apply(now, Entry::Settle { home, attempts, outcome });
                    }
                }
                Change::Remember { key, value } => self.remember(now, key, value, &mut commit),
            }
        }
        self.commit += 1;
        self.journal.write(&self.disk, self.commit, commit, self.next_seq)?;
        let noted = self.witness.note(self.commit);
        noted.map_err(|error| self.disk.io_error("write the witness of", error))?;
        self.calls.close(&closed);
        self.current.ends_with(self.commit, now, self.next_seq);
        if self.current.bytes >= self.sizes.generation_bytes || self.current.marks.len() >= self.sizes.generation_marks
        {
            self.rotate()?;
        }
        self.calm = if is_spike { 0 } else { self.calm.saturating_add(1) };
        self.sort_all_but(if self.calm < CALM { PUT_OFF } else { 0 });
        Ok(verdicts)
    }

    fn remember(&mut self, now: Timestamp, key: Bytes, value: Bytes, commit: &mut CommitWriter) {
        commit.remember(&key, &value);
        self.apply(now, Entry::Remember { key, value });
    }

    fn apply(&mut self, now: Timestamp, entry: Entry) {
        self.tallies.apply(now, &entry);
        self.current.apply(now, entry);
    }

    /// Why no new posts can be taken, if they cannot.
    fn full(&self) -> Result<Option<StoreError>, StoreError> {
        let (free, reserve) = (self.disk.free()?, self.disk.reserve.load(Ordering::Relaxed));
        Ok((free < reserve).then(|| StoreError::Full { path: self.disk.path().to_owned(), free, reserve }))
    }

    /// Takes new posts in, unless the disk is full; `full` is what was found out about that in this commit.
    fn receive(
        &mut self,
        now: Timestamp,
        records: Vec<Record>,
        notes: Option<Vec<(Bytes, Bytes)>>,
        full: &mut Option<Option<StoreError>>,
        commit: &mut CommitWriter,
    ) -> Result<Verdict, StoreError> {
        if full.is_none() {
            *full = Some(self.full()?);
        }
        match full {
            Some(Some(error)) => Ok(self.refuse(&records, error.clone())),
            _ => self.schedule(now, records, notes, commit),
        }
    }

    fn refuse(&mut self, records: &[Record], error: StoreError) -> Verdict {
        self.use_numbers(records);
        Verdict::Refused(error)
    }

    fn use_numbers(&mut self, records: &[Record]) {
        let last = records.iter().map(|record| record.seq.0).max();
        self.next_seq = last.map_or(self.next_seq, |last| self.next_seq.max(Seq(last + 1)));
    }

    fn schedule(
        &mut self,
        now: Timestamp,
        records: Vec<Record>,
        notes: Option<Vec<(Bytes, Bytes)>>,
        commit: &mut CommitWriter,
    ) -> Result<Verdict, StoreError> {
        self.use_numbers(&records);
        let mut seqs = Vec::with_capacity(records.len());
        let mut unit = FxHashMap::<&str, (Seq, u64)>::default();
        for (index, record) in records.iter().enumerate() {
            let Some(key) = record.body.key() else {
                seqs.push(record.seq);
                continue;
            };
            let print = record.body.fingerprint();
            let known = match unit.get(key) {
                Some(known) => Some(*known),
                None => self.find_key(key)?.map(|found| (found.record().seq, found.record().body.fingerprint())),
            };
            match known {
                Some((existing, other)) if other != print => return Ok(Verdict::Conflict { index, existing }),
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
                return Ok(Verdict::Stored(seqs));
            }
            notes.into_iter().for_each(|(key, value)| self.remember(now, key, value, commit));
        }
        for (record, seq) in records.into_iter().zip(&seqs) {
            if record.seq == *seq {
                commit.post(&record);
                self.apply(now, Entry::Post(record));
            }
        }
        Ok(Verdict::Stored(seqs))
    }

    /// The tables in memory, newest first.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Memtable> {
        [&self.current].into_iter().chain(self.frozen.iter().rev().map(|frozen| &frozen.table))
    }

    /// The state of the day of this home, if a live post is there.
    fn live_day(&mut self, home: Home) -> Result<Option<&mut DayState>, StoreError> {
        let day = state::day(home.at);
        let is_known = match self.tables().find_map(|table| table.get(home.seq)) {
            Some(record) => record.home() == home,
            None => {
                self.tables().last().is_none_or(|oldest| home.seq < oldest.first_seq)
                    && self.tallies.is_live(home.pool, day)
            }
        };
        if !is_known {
            return Ok(None);
        }
        let state = self.day_state(day)?;
        Ok((!state.is_settled(home.seq)).then_some(state))
    }

    /// The state of this day; put together if it is not at hand.
    pub(super) fn day_state(&mut self, day: u32) -> Result<&mut DayState, StoreError> {
        if self.days.get(day).is_none() {
            let state = self.gather_day(day)?;
            self.days.insert(day, state);
        }
        self.days.get_mut(day).ok_or(StoreError::Poisoned)
    }

    fn gather_day(&mut self, day: u32) -> Result<DayState, StoreError> {
        let mut state = DayState::default();
        for (generation, blocks) in self.state_runs(day) {
            let run = self.run(day, Kind::States, generation)?;
            let mut reader = RunReader::new(run, 0, blocks);
            while let Some(at) = reader.advance(&self.disk)? {
                let entry = state::read_entry(&reader.content(&self.disk)?);
                let entry = entry.ok_or_else(|| reader.damaged(&self.disk))?;
                state.take_in(at.seq, generation, &entry, self.own_from);
            }
        }
        for table in self.frozen.iter().map(|frozen| &frozen.table).chain([&self.current]) {
            table.tell(day, self.own_from, &mut state);
        }
        Ok(state)
    }

    /// Generations with a state run for this day, oldest first, and the blocks of these.
    pub(super) fn state_runs(&self, day: u32) -> Vec<(u32, u32)> {
        let held = self.catalog.of_day(day).filter(|(_, held)| held.states > 0);
        held.map(|(generation, held)| (generation, held.states)).collect()
    }

    /// A run of a sorted generation.
    pub(super) fn run(&mut self, day: u32, kind: Kind, generation: u32) -> Result<Run, StoreError> {
        let part = self.catalog.get(day, generation).map_or(0, |held| held.part);
        let place = if part == 0 { (0, 0) } else { (day, part) };
        if let Some(tree) = self.trees.get(&place) {
            return Ok(Run { tree: tree.clone(), kind, day, generation });
        }
        let tree = self.disk.tree(&sorter::day_tree(day, part))?;
        self.trees.insert(place, tree.clone());
        Ok(Run { tree, kind, day, generation })
    }

    /// Freezes the current generation and begins the next one.
    fn rotate(&mut self) -> Result<(), StoreError> {
        while self.frozen.len() - self.put_off >= FROZEN {
            self.wait()?;
        }
        let next = self.current.generation + 1;
        self.journal = Journal::open(&self.disk, next, self.sizes.block_bytes)?;
        let following = self.current.following();
        let table = std::mem::replace(&mut self.current, following);
        self.freeze(table);
        Ok(())
    }

    pub(super) fn freeze(&mut self, table: Memtable) {
        self.frozen.push_back(Arc::new(Frozen::new(table)));
        self.put_off += 1;
    }

    /// Gives the sorter all that is frozen, but for so many that came last.
    pub(super) fn sort_all_but(&mut self, put_off: usize) {
        while self.put_off > put_off {
            let next = self.frozen.len() - self.put_off;
            self.put_off -= 1;
            if let Some(frozen) = self.frozen.get(next) {
                self.sorter.ask(Job::Sort(Arc::clone(frozen)));
            }
        }
    }

    /// Takes in what the sorter has done.
    pub(super) fn poll(&mut self) -> Result<(), StoreError> {
        while let Some(done) = self.sorter.poll() {
            self.take_in(done?);
        }
        Ok(())
    }

    /// Waits for the sorter's next job.
    fn wait(&mut self) -> Result<(), StoreError> {
        let done = self.sorter.wait().unwrap_or(Err(StoreError::Poisoned))?;
        self.take_in(done);
        Ok(())
    }

    fn take_in(&mut self, done: Done) {
        match done {
            Done::Sorted(table, spans) => {
                if let Some(frozen) = self.frozen.pop_front() {
                    self.sorter.ask(Job::Discard(frozen, spans.clone()));
                }
                self.spans = spans;
                self.key_catalog.add(table.generation, table.key_blocks, table.keys);
                self.catalog.add(table);
            }
            Done::Forgotten => {}
        }
    }

    pub fn remembered(&mut self) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.poll()?;
        let tables = self.frozen.iter().map(|frozen| &frozen.table).chain([&self.current]);
        self.remembered.read(&self.disk, &self.spans, tables.map(|table| &table.remembered))
    }

    pub fn tidy(&mut self, now: Timestamp, retention: Duration) -> Result<bool, StoreError> {
        self.poll()?;
        self.check_calls()?;
        let retention = if sabotage::is(Switch::ForgetEarly) { retention / 2 } else { retention };
        self.forget_before = self.forget_before.max(now.before(retention));
        Ok(self.forget()? || !self.calls.is_checked())
    }

    /// Lets go of some calls of earlier processes whose claims are closed.
    fn check_calls(&mut self) -> Result<(), StoreError> {
        if !self.calls.is_checked() {
            for seq in self.calls.take_unchecked(CALLS_AT_ONCE) {
                if !matches!(self.find(seq)?, Some(Found::Live(Stored { claimed: Some(_), .. }))) {
                    self.calls.forget(seq);
                }
            }
        }
        self.calls.compact_if_long();
        Ok(())
    }

    /// Has a day forgotten, or many small ones, or brought to where it can be. True if there is more to do right away.
    fn forget(&mut self) -> Result<bool, StoreError> {
        // A day is forgotten with all that it is in: nothing of it may wait to be sorted.
        if !sabotage::is(Switch::ForgetUnsorted) {
            self.sort_all_but(0);
        }
        // The sorter takes its time, and commits may come; there is no hurry to forget.
        if self.sorter.pending > 0 {
            return Ok(false);
        }
        let over: Vec<u32> = self.tallies.over(self.forget_before).take(DAYS_AT_ONCE).collect();
        // What is to be forgotten must have been sorted: a day is dropped as a whole, a journal never in part.
        let mut sorted = over.iter().copied().filter(|day| !self.current.days.contains(day));
        let Some(first) = sorted.next() else {
            if !over.is_empty() {
                self.rotate()?;
                self.sort_all_but(0);
            }
            return Ok(false);
        };
        let mut days = vec![first];
        let mut blocks = self.catalog.blocks(first);
        for day in sorted.take_while(|_| state::is_shelved(first)).filter(|day| state::is_shelved(*day)) {
            blocks += self.catalog.blocks(day);
            if blocks > self.sizes.part_blocks {
                break;
            }
            days.push(day);
        }
        let mut forgotten = Vec::with_capacity(days.len());
        for day in days {
            self.tallies.forget(day);
            self.days.remove(day);
            self.trees.retain(|(other, part), _| *other != day || *part == 0);
            forgotten.extend(self.catalog.forget(day).map(|through| (day, through)));
        }
        if !forgotten.is_empty() {
            self.catalog.remove_gone().into_iter().for_each(|generation| self.key_catalog.remove(generation));
            self.meta.forget_days(&self.disk, &forgotten)?;
            self.disk.make_durable()?;
            self.sorter.ask(Job::Forget(forgotten.into_iter().map(|(day, _)| day).collect()));
        }
        Ok(self.sorter.pending == 0)
    }
}
