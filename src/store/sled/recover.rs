//! Opening: the guards before sled, sled itself, and everything that is in memory rebuilt and checked.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::error::StoreError;
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::calls::{self, Calls};
use super::catalog::{self, Catalog, Meta, Sorted, Table, Through};
use super::core::{CALM, Core};
use super::disk::{self, Disk};
use super::files::Folder;
use super::index::Index;
use super::journal::{self, Commit, Entry, Journal};
use super::keys::{KeyCatalog, Keys};
use super::memtable::{Memtable, Tallies};
use super::remembered::Remembered;
use super::sorter::{Job, Parts, Sorter};
use super::state::Days;
use super::{RESERVE_BYTES, Sizes};

const CACHE_BYTES: u64 = 64 << 20;
/// sled's own background flush, which also drives its garbage collection.
const FLUSH_EVERY_MS: u64 = 500;
/// How often, and how far apart, a database is tried that is still held.
const OPEN_TRIES: u32 = 2_000;
const OPEN_PAUSE: Duration = Duration::from_millis(2);

/// Opens the store; the store and its identity.
pub fn open(path: &Path, sizes: Sizes) -> Result<(Core, u64), StoreError> {
    let folder = Folder::enter(path)?;
    folder.prepare()?;
    let is_crowded = folder.is_crowded();
    let is_full = |error: &::sled::Error| {
        matches!(disk::from_sled(path, "open", error.clone(), RESERVE_BYTES), StoreError::Full { .. })
    };
    let db = match open_sled(&folder) {
        // Room was kept for this: sled writes when it opens, and says all kinds of things if it cannot.
        Err(error) if (is_crowded || is_full(&error)) && folder.drop_ballast() => {
            // What it could write only half of it would take for damage.
            folder.prepare()?;
            open_sled(&folder)
        }
        opened => opened,
    };
    let db = db.map_err(|error| match disk::from_sled(path, "open", error, RESERVE_BYTES) {
        StoreError::Damaged { .. } if is_crowded => {
            let free = fs4::available_space(path).unwrap_or(0);
            StoreError::Full { path: path.to_owned(), free, reserve: RESERVE_BYTES }
        }
        error => error,
    })?;
    let kept = db.clone();
    let opened = take_over(path, folder, db, sizes);
    if opened.is_err() {
        // Where reading fails for good, sled does not come back from being closed: nobody is to wait for that.
        let _ = thread::Builder::new().name("punctual closing".to_owned()).spawn(move || drop(kept));
    }
    opened
}

/// What is ours, once sled is open.
fn take_over(path: &Path, folder: Folder, db: ::sled::Db, sizes: Sizes) -> Result<(Core, u64), StoreError> {
    let log = OpenOptions::new().read(true).write(true).open(folder.log());
    let log = log.map_err(|error| disk::from_io(path, "open the log of", error, RESERVE_BYTES))?;
    folder.make_durable()?;
    folder.take_ballast();
    let disk = Arc::new(Disk::new(db, log, path.to_owned()));
    let identity = folder.identity();
    Ok((rebuild(folder, disk, sizes)?, identity))
}

/// Opens the database. One that this process has just closed may be held a moment longer by threads of sled's.
fn open_sled(folder: &Folder) -> Result<::sled::Db, ::sled::Error> {
    let config = ::sled::Config::default().path(folder.sled());
    let config = config.cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
    for _ in 0..OPEN_TRIES {
        match config.open() {
            Err(::sled::Error::Io(error)) if is_held(&error.to_string()) => {
                thread::park_timeout(OPEN_PAUSE);
            }
            other => return other,
        }
    }
    config.open()
}

/// Whether sled's error says that somebody else has the lock; it has no other way to say so.
fn is_held(error: &str) -> bool {
    error.contains("could not acquire lock") && error.contains("WouldBlock")
}

fn rebuild(folder: Folder, disk: Arc<Disk>, sizes: Sizes) -> Result<Core, StoreError> {
    let meta = Meta::open(&disk)?;
    let Sorted { through, tables, forgotten, remembered: spans } = meta.sorted(&disk)?;
    let mut tallies = Tallies::default();
    if !catalog::count(&tables, &mut tallies) {
        return Err(disk.damaged("more posts ended than were stored"));
    }
    let parts = Parts::find(&disk, &tables);
    let half_forgotten = half_forgotten(&disk, &meta, &parts, &tables, forgotten)?;
    let has_remains = tables.iter().any(|table| table.days.is_empty());
    let (catalog, key_catalog) = catalogs(tables);

    let mut unsorted = replay(&disk, through, sizes, &mut tallies)?;
    // The last generation goes on: how many there are must not depend on how often a process began.
    let (current, journal) = match unsorted.pop_back() {
        Some(last) => last,
        None => {
            let generation = through.generation + 1;
            (Memtable::starting(generation, through), Journal::open(&disk, generation, sizes.block_bytes)?)
        }
    };
    let own_from = current.commit + 1;
    let mut witness = folder.witness()?;
    let witnessed = witness.last().map_err(|error| disk.io_error("read the witness of", error))?;
    if current.commit < witnessed && !sabotage::is(Switch::NoWitness) {
        return Err(disk.damaged(format!("commit {witnessed} was made, but {} is the last one found", current.commit)));
    }

    let remembered = Remembered::open(&disk)?;
    remembered.clean(&disk, &spans, through.generation)?;
    let calls = Calls::open(disk.path(), calls::boot().as_deref(), own_from);
    let calls = calls.map_err(|error| disk.io_error("begin the call log of", error))?;

    let mut sorter = Sorter::start(Arc::clone(&disk), sizes, parts)?;
    if !half_forgotten.is_empty() || has_remains {
        sorter.ask(Job::Forget(half_forgotten));
    }
    let mut core = Core {
        sorter,
        journal,
        trees: Default::default(),
        index: Index::open(&disk)?,
        keys: Keys::open(&disk)?,
        remembered,
        spans,
        calls,
        witness,
        sizes,
        catalog,
        key_catalog,
        frozen: VecDeque::new(),
        put_off: 0,
        calm: CALM,
        tallies,
        days: Days::default(),
        own_from,
        bookmarks: Default::default(),
        pools: meta.pools(&disk)?,
        commit: current.commit,
        next_seq: current.next_seq,
        last_commit_at: current.latest,
        forget_before: Timestamp::MIN,
        _folder: folder,
        meta,
        disk,
        current,
    };
    unsorted.into_iter().for_each(|(table, _)| core.freeze(table));
    core.sort_all_but(0);
    Ok(core)
}

/// Days that are noted as forgotten and still on disk. Notes that are needed no more are removed.
fn half_forgotten(
    disk: &Disk,
    meta: &Meta,
    parts: &Parts,
    tables: &[Table],
    forgotten: BTreeMap<u32, u32>,
) -> Result<Vec<u32>, StoreError> {
    let present = catalog::days(tables);
    let oldest = tables.first().map_or(u32::MAX, |table| table.generation);
    let (mut half, mut done) = (Vec::new(), Vec::new());
    for (day, through) in forgotten {
        if !present.contains(&day) && parts.holds(disk, day)? {
            half.push(day);
        } else if through < oldest {
            done.push(day);
        }
    }
    meta.remove_forgotten(disk, done)?;
    Ok(half)
}

fn catalogs(tables: Vec<Table>) -> (Catalog, KeyCatalog) {
    let (mut catalog, mut keys) = (Catalog::default(), KeyCatalog::default());
    for table in tables.into_iter().filter(|table| !table.days.is_empty()) {
        keys.add(table.generation, table.key_blocks, table.keys);
        catalog.add(table);
    }
    (catalog, keys)
}

/// Reads the journals of all generations that are not sorted, oldest first.
fn replay(
    disk: &Disk,
    through: Through,
    sizes: Sizes,
    tallies: &mut Tallies,
) -> Result<VecDeque<(Memtable, Journal)>, StoreError> {
    let mut generations: Vec<u32> = disk.tree_names().iter().filter_map(|name| journal::generation(name)).collect();
    generations.sort_unstable();
    let mut unsorted = VecDeque::new();
    let mut last = through;
    for generation in generations {
        if generation <= through.generation {
            disk.drop_tree(&journal::tree_name(generation))?;
            continue;
        }
        if generation != last.generation + 1 {
            return Err(disk.damaged(format!("the journal of generation {} is missing", last.generation + 1)));
        }
        let mut table = Memtable::starting(generation, last);
        let mut journal = Journal::open(disk, generation, sizes.block_bytes)?;
        journal.replay(disk, last.commit + 1, |number, Commit { now, entries, next_seq }| {
            for entry in entries {
                tallies.apply(now, &entry);
                if matches!(entry, Entry::Settle { .. }) && sabotage::is(Switch::OutcomesTwice) {
                    tallies.apply(now, &entry);
                }
                table.apply(now, entry);
            }
            table.ends_with(number, now, next_seq);
        })?;
        last = table.through();
        unsorted.push_back((table, journal));
    }
    Ok(unsorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_still_held_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), Sizes::default()).unwrap());
        let database = folder.path().join("sled");
        let config = || ::sled::Config::default().path(&database);
        let held = config().open().unwrap();
        let Err(::sled::Error::Io(error)) = config().open() else { panic!("opened twice") };
        assert!(is_held(&error.to_string()), "{error}");
        thread::scope(|scope| {
            let opener = scope.spawn(|| open(folder.path(), Sizes::default()).map(drop));
            thread::park_timeout(50 * OPEN_PAUSE);
            assert!(!opener.is_finished(), "it has not waited");
            drop(held);
            opener.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_is_not_held_by_another_is_not_waited_for() {
        for error in ["could not acquire lock on \"db\": PermissionDenied", "WouldBlock", "no such file"] {
            assert!(!is_held(error), "{error}");
        }
    }
}
