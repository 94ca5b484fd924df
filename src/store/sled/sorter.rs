//! The thread behind the committer: sorts generations into the days in which posts are due, and clears away what
//! has been forgotten. Whatever it does can be done again from the start until the last step makes it count.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::StoreError;
use crate::id::{PoolId, Seq};

use super::catalog::{DayTable, Group, Meta, Table};
use super::codec::{self, Kind};
use super::disk::Disk;
use super::index::{Index, Location};
use super::journal;
use super::keys::Keys;
use super::memtable::{Frozen, Memtable};
use super::remembered::{Remembered, Span};
use super::run::{Run, RunWriter};
use super::state::{self, What};
use super::{Sizes, panic_text};

/// The tree of all days that have none of their own.
const FAR: &str = "far";

/// The tree in which this part of a day is; part 0 is among the far days.
pub fn day_tree(day: u32, part: u16) -> String {
    if part == 0 { FAR.to_owned() } else { format!("d{day}-{part}") }
}

/// The trees that days have of their own. A day gets another one when its last one is large: sled takes a dropped
/// tree into memory as a whole.
#[derive(Debug, Default)]
pub struct Parts {
    /// The last part of each day, and the blocks in it.
    days: BTreeMap<u32, (u16, u64)>,
}

impl Parts {
    /// The parts that are on disk.
    pub fn find(disk: &Disk, tables: &[Table]) -> Self {
        let mut days = BTreeMap::<u32, (u16, u64)>::new();
        for name in disk.tree_names() {
            let place = name.strip_prefix('d').and_then(|place| place.split_once('-'));
            if let Some((Ok(day), Ok(part))) = place.map(|(day, part)| (day.parse::<u32>(), part.parse::<u16>())) {
                let (last, _) = days.entry(day).or_default();
                *last = part.max(*last);
            }
        }
        let mut parts = Self { days };
        tables.iter().flat_map(|table| &table.days).for_each(|(day, held)| parts.count(*day, held));
        parts
    }

    /// Whether something of a day is on disk.
    pub fn holds(&self, disk: &Disk, day: u32) -> Result<bool, StoreError> {
        let is_far = || disk.tree(FAR).map(|far| far.scan_prefix(day.to_be_bytes()).next().is_some());
        Ok(self.days.contains_key(&day) || is_far()?)
    }

    /// The part for what comes next.
    fn choose(&mut self, day: u32, sizes: &Sizes) -> u16 {
        let has_room = self.days.len() < sizes.own_days;
        match self.days.get_mut(&day) {
            Some((part, blocks)) if *blocks >= sizes.part_blocks && *part < u16::MAX => {
                (*part, *blocks) = (*part + 1, 0);
                *part
            }
            Some((part, _)) => *part,
            // Those on a shelf are too many, and too small.
            None if has_room && !state::is_shelved(day) => {
                self.days.insert(day, (1, 0));
                1
            }
            None => 0,
        }
    }

    fn count(&mut self, day: u32, held: &DayTable) {
        if let Some((_, blocks)) = self.days.get_mut(&day).filter(|(last, _)| *last == held.part) {
            *blocks += held.blocks();
        }
    }
}

/// What the sorter is asked for; done in order.
#[derive(Debug)]
pub enum Job {
    Sort(Arc<Frozen>),
    Forget(Vec<u32>),
    /// To free what a generation had in memory takes its time too, and so does removing what was remembered before, in
    /// other runs than these. Nothing comes back from this.
    Discard(Arc<Frozen>, Vec<Span>),
}

/// What the sorter has done.
#[derive(Debug)]
pub enum Done {
    /// The table, and the runs of what is remembered.
    Sorted(Table, Vec<Span>),
    Forgotten,
}

/// The other end of the thread.
#[derive(Debug)]
pub struct Sorter {
    jobs: Option<Sender<Job>>,
    done: Receiver<Result<Done, StoreError>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Jobs that have not come back.
    pub pending: usize,
}

impl Sorter {
    #[expect(clippy::disallowed_methods, reason = "never more than the frozen generations and the days to forget")]
    pub fn start(disk: Arc<Disk>, sizes: Sizes, parts: Parts) -> Result<Self, StoreError> {
        let (meta, index, keys) = (Meta::open(&disk)?, Index::open(&disk)?, Keys::open(&disk)?);
        let remembered = Remembered::open(&disk)?;
        let bench = Bench { disk, meta, index, keys, remembered, parts, sizes };
        let (jobs, todo) = unbounded();
        let (report, done) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), bench.disk.path().to_owned());
        let thread = thread::Builder::new().name("punctual sorter".to_owned());
        let thread = thread.spawn(move || work(bench, &todo, &report, &stopped));
        let thread = thread.map_err(|error| super::disk::from_io(&path, "start a thread for", error, 0))?;
        Ok(Self { jobs: Some(jobs), done, stop, thread: Some(thread), pending: 0 })
    }

    pub fn ask(&mut self, job: Job) {
        let comes_back = !matches!(job, Job::Discard(..));
        // If the thread is gone, its last report says why.
        if self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) {
            self.pending += usize::from(comes_back);
        }
    }

    /// What has been done, if something has.
    pub fn poll(&mut self) -> Option<Result<Done, StoreError>> {
        let done = self.done.try_recv().ok()?;
        // Only an error comes back from a job that is not waited for.
        self.pending = self.pending.saturating_sub(1);
        Some(done)
    }

    /// Waits for the next job that is done; `None` if there is none to wait for.
    pub fn wait(&mut self) -> Option<Result<Done, StoreError>> {
        if self.pending == 0 {
            return None;
        }
        self.pending -= 1;
        Some(self.done.recv().unwrap_or(Err(StoreError::Poisoned)))
    }
}

impl Drop for Sorter {
    fn drop(&mut self) {
        // What has not been begun is begun again when the store is opened.
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(mut bench: Bench, todo: &Receiver<Job>, report: &Sender<Result<Done, StoreError>>, stop: &AtomicBool) {
    while let Ok(job) = todo.recv() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let done = catch_unwind(AssertUnwindSafe(|| match job {
            Job::Sort(frozen) => bench.sort(&frozen).map(|(table, spans)| Some(Done::Sorted(table, spans))),
            Job::Forget(days) => bench.forget(&days).map(|()| Some(Done::Forgotten)),
            Job::Discard(frozen, spans) => {
                let Memtable { remembered, generation, .. } = &frozen.table;
                let cleaned = if remembered.is_empty() {
                    Ok(())
                } else {
                    bench.remembered.clean(&bench.disk, &spans, *generation)
                };
                cleaned.map(|()| None)
            }
        }));
        let done = done.unwrap_or_else(|panic| Err(bench.disk.damaged(panic_text(&*panic))));
        let failed = done.is_err();
        if done.transpose().is_some_and(|done| report.send(done).is_err()) || failed {
            return;
        }
    }
}

/// All that the thread works with.
#[derive(Debug)]
struct Bench {
    disk: Arc<Disk>,
    meta: Meta,
    index: Index,
    keys: Keys,
    remembered: Remembered,
    parts: Parts,
    sizes: Sizes,
}

impl Bench {
    fn sort(&mut self, frozen: &Frozen) -> Result<(Table, Vec<Span>), StoreError> {
        let held = &frozen.table;
        let mut table = Table { generation: held.generation, ..Table::default() };
        let mut located = Vec::with_capacity(held.posts.len());
        self.write_posts(frozen, &mut table, &mut located)?;
        self.write_states(frozen, &mut table)?;
        table.days.iter().for_each(|(day, held)| self.parts.count(*day, held));
        located.sort_unstable_by_key(|(seq, _)| *seq);
        table.index = self.index.set(&self.disk, &located)?;

        let mut hashes: Vec<(u64, Seq)> = held.keys.iter().map(|(hash, seq)| (*hash, *seq)).collect();
        hashes.extend(&held.more_keys);
        hashes.sort_unstable();
        table.keys = hashes.len() as u64;
        table.key_blocks = self.keys.write(&self.disk, held.generation, &hashes, self.sizes.block_bytes)?;

        let (generation, block_bytes) = (held.generation, self.sizes.block_bytes);
        let mut spans = self.meta.remembered(&self.disk)?;
        if !held.remembered.is_empty() {
            spans = self.remembered.write(&self.disk, generation, &held.remembered, &spans, block_bytes)?;
        }

        self.disk.make_durable()?;
        self.meta.add(&self.disk, &table, held.through(), &spans, block_bytes)?;
        self.disk.make_durable()?;
        self.disk.drop_tree(&journal::tree_name(generation))?;
        table.index = Vec::new();
        Ok((table, spans))
    }

    /// The run of a day, in this part of it.
    fn run(&self, day: u32, part: u16, kind: Kind, generation: u32) -> Result<Run, StoreError> {
        Ok(Run { tree: self.disk.tree(&day_tree(day, part))?, kind, day, generation })
    }

    fn write_posts(
        &mut self,
        frozen: &Frozen,
        table: &mut Table,
        located: &mut Vec<(Seq, Location)>,
    ) -> Result<(), StoreError> {
        let generation = table.generation;
        let mut head = Vec::new();
        let places: Vec<_> =
            frozen.places().iter().filter(|place| frozen.table.at_home(place.home()).is_some()).collect();
        for places in places.chunk_by(|a, b| a.day == b.day) {
            let Some(day) = places.first().map(|place| place.day) else { continue };
            let part = self.parts.choose(day, &self.sizes);
            let run = self.run(day, part, Kind::Posts, generation)?;
            let mut writer = RunWriter::new(&self.disk, run, self.sizes.block_bytes);
            let mut groups = Vec::new();
            for places in places.chunk_by(|a, b| a.pool == b.pool) {
                let first = writer.end_group()?;
                for place in places {
                    let Some(record) = frozen.table.at_home(place.home()) else { continue };
                    head.clear();
                    codec::put_head(&mut head, record);
                    let block = writer.push(place.cursor(), &head, record.body.as_bytes())?;
                    located.push((record.seq, Location { day, generation, block }));
                }
                let pool = places.first().map_or(0, |place| place.pool.0);
                groups.push(Group { pool, first, end: writer.end_group()?, posts: places.len() as u64, gone: 0 });
            }
            writer.finish()?;
            table.days.insert(day, DayTable { part, groups, ..DayTable::default() });
        }
        Ok(())
    }

    fn write_states(&mut self, frozen: &Frozen, table: &mut Table) -> Result<(), StoreError> {
        let held = &frozen.table;
        let moved = held.moved.values().map(|from| (state::day(from.at), from.seq, from.pool, None));
        let marks = held.marks.iter().map(|(seq, mark)| (mark.day, *seq, mark.pool, Some(&mark.what)));
        let mut entries: Vec<(u32, Seq, PoolId, Option<&What>)> = moved.chain(marks).collect();
        // That a post moved comes before what happened at its new home.
        entries.sort_unstable_by_key(|(day, seq, _, what)| (*day, *seq, what.is_some()));
        let mut content = Vec::new();
        for entries in entries.chunk_by(|a, b| a.0 == b.0) {
            let Some((day, ..)) = entries.first().copied() else { continue };
            let part = table.days.get(&day).map_or_else(|| self.parts.choose(day, &self.sizes), |held| held.part);
            let run = self.run(day, part, Kind::States, held.generation)?;
            let mut writer = RunWriter::new(&self.disk, run, self.sizes.block_bytes);
            let mut gone = BTreeMap::<PoolId, u64>::new();
            let mut ended = None;
            for (_, seq, pool, what) in entries {
                content.clear();
                let left_at = match what {
                    None => {
                        state::put_moved(&mut content);
                        Some(held.latest)
                    }
                    Some(what) => {
                        state::put_mark(&mut content, what);
                        what.settled_at()
                    }
                };
                writer.push(state::position(*seq), &content, &[])?;
                if left_at.is_some() {
                    *gone.entry(*pool).or_default() += 1;
                    ended = ended.max(left_at);
                }
            }
            let day = table.days.entry(day).or_insert_with(|| DayTable { part, ..DayTable::default() });
            day.states = writer.finish()?;
            day.ended = ended;
            for (pool, gone) in gone {
                match day.groups.iter_mut().find(|group| group.pool == pool.0) {
                    Some(group) => group.gone = gone,
                    None => day.groups.push(Group { pool: pool.0, gone, ..Group::default() }),
                }
            }
        }
        Ok(())
    }

    /// Clears away days that are noted as forgotten, and all generations of which nothing is left.
    fn forget(&mut self, days: &[u32]) -> Result<(), StoreError> {
        let far = self.disk.tree(FAR)?;
        for day in days {
            let (last, _) = self.parts.days.remove(day).unwrap_or_default();
            for part in 1..=last {
                self.disk.drop_tree(&day_tree(*day, part))?;
                self.disk.collect(&far)?;
            }
            self.clear_far(&far, *day)?;
        }
        let (tables, _) = self.meta.tables(&self.disk)?;
        let present: BTreeSet<(u32, u32)> =
            tables.iter().flat_map(|table| table.days.keys().map(|day| (*day, table.generation))).collect();
        let gone: Vec<Table> = tables.into_iter().filter(|table| table.days.is_empty()).collect();
        for table in &gone {
            for numbers in table.index.chunks(1_000) {
                self.index.clean(&self.disk, numbers, |day, generation| present.contains(&(day, generation)))?;
            }
            self.keys.remove(&self.disk, table.generation)?;
            self.meta.remove_table(&self.disk, table.generation)?;
        }
        self.disk.make_durable()
    }

    fn clear_far(&self, far: &::sled::Tree, day: u32) -> Result<(), StoreError> {
        loop {
            let mut batch = ::sled::Batch::default();
            let mut count = 0;
            for key in far.scan_prefix(day.to_be_bytes()).keys().take(1_000) {
                batch.remove(key.map_err(|error| self.disk.error("read", error))?);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.disk.apply(far, batch)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::{Group, Through};
    use super::super::journal::Entry;
    use super::super::tests::record;
    use super::*;
    use crate::post::Shelf;
    use crate::time::Timestamp;

    /// A generation of one post.
    fn frozen(generation: u32, seq: u64) -> Arc<Frozen> {
        let (commit, now, next_seq) = (u64::from(generation), Timestamp::from_millis(0), Seq(seq + 1));
        let mut table = Memtable::starting(generation, Through { commit, generation, now, next_seq: Seq(seq) });
        table.apply(now, Entry::Post(record(seq, 1)));
        table.ends_with(commit, now, next_seq);
        Arc::new(Frozen::new(table))
    }

    #[test]
    fn nothing_is_sorted_after_a_generation_that_could_not_be() {
        let (_folder, disk) = Disk::scratch();
        let disk = Arc::new(disk);
        // The block of the index in which the second of three generations has its post cannot be read.
        disk.tree("index").unwrap().insert(1_u64.to_be_bytes(), &b"damaged"[..]).unwrap();
        let mut sorter = Sorter::start(Arc::clone(&disk), Sizes::default(), Parts::default()).unwrap();
        [(1, 1), (2, 500), (3, 1_000)].into_iter().for_each(|(at, seq)| sorter.ask(Job::Sort(frozen(at, seq))));
        assert!(matches!(sorter.wait(), Some(Ok(Done::Sorted(table, _))) if table.generation == 1));
        assert!(sorter.wait().unwrap().is_err());
        assert!(sorter.wait().unwrap().is_err(), "what the journal of the second one has would be passed over");
        let sorted = Meta::open(&disk).unwrap().sorted(&disk).unwrap();
        assert_eq!((sorted.through.generation, sorted.tables.len()), (1, 1));
    }

    #[test]
    fn a_day_gets_another_tree_when_its_last_one_is_large_and_only_few_days_have_their_own() {
        let sizes = Sizes { own_days: 2, part_blocks: 3, ..Sizes::default() };
        let mut parts = Parts::default();
        let held = |part: u16, blocks: u32| {
            let group = Group { pool: 0, first: 0, end: blocks - 1, posts: 1, gone: 0 };
            DayTable { part, states: 1, ended: None, groups: vec![group] }
        };
        assert_eq!((parts.choose(8, &sizes), parts.choose(8, &sizes)), (1, 1));
        parts.count(8, &held(1, 2));
        assert_eq!(parts.choose(8, &sizes), 1);
        parts.count(8, &held(1, 2));
        assert_eq!((parts.choose(8, &sizes), parts.choose(8, &sizes)), (2, 2));
        // What is in the first one does not count for the second.
        parts.count(8, &held(1, 9));
        assert_eq!(parts.choose(8, &sizes), 2);
        let shelved = state::day(Shelf::Dead.place(Timestamp::MIN, ""));
        assert_eq!((parts.choose(shelved, &sizes), parts.choose(9, &sizes), parts.choose(10, &sizes)), (0, 1, 0));
        // There are no numbers for more.
        parts.days.insert(8, (u16::MAX - 1, 3));
        assert_eq!(parts.choose(8, &sizes), u16::MAX);
        parts.count(8, &held(u16::MAX, 9));
        assert_eq!(parts.choose(8, &sizes), u16::MAX);
    }
}
