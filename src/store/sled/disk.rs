//! sled, with what it lacks: a flush that survives power loss, values that are checked, errors that are ours.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::sled::{Batch, Db, IVec, Tree};
use bytes::Bytes;

use crate::error::StoreError;
use crate::sabotage::{self, Switch};

use super::codec::{self, Kind, SEAL_BYTES};

/// Most bytes of new blocks that are gathered before they are written.
const GATHERED_BYTES: usize = 1 << 20;

/// Most bytes that sled may have to write to its log before it is waited until they are in its file.
///
/// sled (0.34.7) writes each full segment of its log, 512 KiB, in a thread of a pool of seven, and each of them takes the
/// lock of the segments at its end. Whoever needs a new segment just where the file was cut waits for the job that cuts
/// it, with that lock held (`SegmentAccountant::bump_tip`); with seven writers under way that job would never get a
/// thread. So there must never be that many.
const UNFLUSHED_BYTES: usize = 1 << 20;
/// A block that replaces another has sled write so many times its size, about: from time to time it writes a whole leaf anew.
const REPLACED: usize = 3;

/// Accesses after which the memory of a dropped tree is free, as measured.
const ACCESSES: u32 = 4_000;

/// The open database.
#[derive(Debug)]
pub struct Disk {
    db: Db,
    /// Bytes that sled has to write since it was last flushed. Held while something is written.
    unflushed: Mutex<usize>,
    /// Our own handle of sled's log: sled itself never makes it durable on time.
    log: File,
    path: PathBuf,
    /// Free bytes below which no new posts are taken.
    pub reserve: AtomicU64,
}

impl Disk {
    pub fn new(db: Db, log: File, path: PathBuf) -> Self {
        Self { db, unflushed: Mutex::new(0), log, path, reserve: AtomicU64::new(super::RESERVE_BYTES) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes everything written so far survive the loss of power.
    pub fn make_durable(&self) -> Result<(), StoreError> {
        self.flush(&mut self.unflushed())?;
        if sabotage::is(Switch::NoSync) {
            return Ok(());
        }
        self.log.sync_data().map_err(|error| self.io_error("sync", error))
    }

    fn unflushed(&self) -> MutexGuard<'_, usize> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all that was written is in sled's file.
    fn flush(&self, unflushed: &mut usize) -> Result<(), StoreError> {
        *unflushed = 0;
        self.db.flush().map(drop).map_err(|error| self.error("flush", error))
    }

    pub fn tree(&self, name: &str) -> Result<Tree, StoreError> {
        self.db.open_tree(name).map_err(|error| self.error("open a tree of", error))
    }

    pub fn drop_tree(&self, name: &str) -> Result<(), StoreError> {
        self.db.drop_tree(name).map(drop).map_err(|error| self.error("drop a tree of", error))
    }

    /// Lets sled free what it has given up. A tree that was dropped stays in memory until later accesses, each of
    /// which frees a little of it, and that of a day can be large.
    pub fn collect(&self, tree: &Tree) -> Result<(), StoreError> {
        (0..ACCESSES).try_for_each(|_| tree.contains_key(b"").map(drop)).map_err(|error| self.error("read", error))
    }

    /// The names of all trees, sled's own one left out.
    pub fn tree_names(&self) -> Vec<String> {
        let names = self.db.tree_names().into_iter();
        names.filter_map(|name| String::from_utf8(name.to_vec()).ok()).filter(|name| !name.starts_with("__")).collect()
    }

    /// Changes a few things, all or nothing.
    pub fn apply(&self, tree: &Tree, batch: Batch) -> Result<(), StoreError> {
        tree.apply_batch(batch).map_err(|error| self.error("write to", error))
    }

    /// Puts nothing under this key, so that its block finds a place.
    ///
    /// sled writes a leaf anew when it splits, after some 9 keys put in order, and only what is new otherwise. With
    /// all keys put first the leaves split while they are small, and each block is written once instead of three
    /// times.
    pub fn make_place(&self, tree: &Tree, key: &[u8]) -> Result<(), StoreError> {
        self.insert(tree, key.into(), Vec::new(), 1)
    }

    /// Writes one block, all or nothing, where nothing but a place is.
    pub fn put(&self, tree: &Tree, kind: Kind, key: &[u8], payload: &[u8]) -> Result<(), StoreError> {
        self.insert(tree, key.into(), codec::seal(kind, key, payload), 1)
    }

    fn insert(&self, tree: &Tree, key: IVec, block: Vec<u8>, times: usize) -> Result<(), StoreError> {
        let mut unflushed = self.unflushed();
        *unflushed += (key.len() + block.len()) * times;
        tree.insert(key, block).map_err(|error| self.error("write to", error))?;
        if *unflushed >= UNFLUSHED_BYTES { self.flush(&mut unflushed) } else { Ok(()) }
    }

    /// The payload under this key, checked.
    pub fn get(&self, tree: &Tree, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let block = tree.get(key).map_err(|error| self.error("read", error))?;
        block.map(|block| self.open_block(kind, key, block)).transpose()
    }

    /// All payloads whose keys lie in the range, checked, in order. A place without a block has an empty one.
    pub fn range(
        &self,
        tree: &Tree,
        kind: Kind,
        range: impl std::ops::RangeBounds<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<(IVec, Bytes), StoreError>> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        tree.range::<Vec<u8>, _>(range).map(move |item| {
            let (key, block) = item.map_err(|error| self.error("read", error))?;
            let payload = if block.is_empty() { Bytes::new() } else { self.open_block(kind, &key, block)? };
            Ok((key, payload))
        })
    }

    /// The payload shares the block's memory.
    fn open_block(&self, kind: Kind, key: &[u8], block: IVec) -> Result<Bytes, StoreError> {
        if codec::unseal(kind, key, &block).is_none() {
            return Err(self.damaged(format!("the {kind:?} block {key:02x?} has a wrong checksum")));
        }
        Ok(Bytes::from_owner(block).slice(codec::SEAL_BYTES..))
    }

    pub fn damaged(&self, what: impl Display) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what: what.to_string() }
    }

    pub fn error(&self, doing: &'static str, error: ::sled::Error) -> StoreError {
        from_sled(&self.path, doing, error, self.reserve.load(Ordering::Relaxed))
    }

    pub fn io_error(&self, doing: &'static str, error: io::Error) -> StoreError {
        from_io(&self.path, doing, error, self.reserve.load(Ordering::Relaxed))
    }

    /// Bytes free on the disk.
    pub fn free(&self) -> Result<u64, StoreError> {
        fs4::available_space(&self.path).map_err(|error| self.io_error("ask for the free space of", error))
    }
}

pub fn from_sled(path: &Path, doing: &'static str, error: ::sled::Error, reserve: u64) -> StoreError {
    match error {
        ::sled::Error::Io(error) => from_io(path, doing, error, reserve),
        other => StoreError::Damaged { path: path.to_owned(), what: other.to_string() },
    }
}

pub fn from_io(path: &Path, doing: &'static str, error: io::Error, reserve: u64) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge | io::ErrorKind::QuotaExceeded => {
            let free = fs4::available_space(&path).unwrap_or(0);
            StoreError::Full { path, free, reserve }
        }
        _ => StoreError::Io { path, doing, source: Arc::new(error) },
    }
}

/// Writes blocks to one tree, many at a time.
#[derive(Debug)]
pub struct Blocks<'a> {
    disk: &'a Disk,
    tree: Tree,
    kind: Kind,
    /// Blocks are new, and count only later: their keys may be there without them.
    fresh: bool,
    blocks: Vec<(IVec, Vec<u8>)>,
    bytes: usize,
}

impl<'a> Blocks<'a> {
    /// A writer of blocks that may replace others.
    pub fn new(disk: &'a Disk, tree: Tree, kind: Kind) -> Self {
        Self { disk, tree, kind, fresh: false, blocks: Vec::new(), bytes: 0 }
    }

    /// A writer of new blocks, in the order of their keys.
    pub fn fresh(disk: &'a Disk, tree: Tree, kind: Kind) -> Self {
        Self { fresh: true, ..Self::new(disk, tree, kind) }
    }

    /// Adds a block; what was added before may be written now.
    pub fn put(&mut self, key: &[u8], payload: &[u8]) -> Result<(), StoreError> {
        self.bytes += SEAL_BYTES + payload.len();
        self.blocks.push((key.into(), codec::seal(self.kind, key, payload)));
        if self.bytes >= GATHERED_BYTES { self.write() } else { Ok(()) }
    }

    /// Writes what was added.
    pub fn write(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        if self.fresh {
            self.blocks.iter().try_for_each(|(key, _)| self.disk.make_place(&self.tree, key))?;
        }
        let times = if self.fresh { 1 } else { REPLACED };
        self.blocks.drain(..).try_for_each(|(key, block)| self.disk.insert(&self.tree, key, block, times))
    }
}

#[cfg(test)]
impl Disk {
    /// One for tests, which is gone with its folder.
    pub fn scratch() -> (tempfile::TempDir, Self) {
        let folder = tempfile::tempdir().unwrap();
        let db = ::sled::Config::default().path(folder.path()).open().unwrap();
        let log = File::options().write(true).open(folder.path().join("db")).unwrap();
        let disk = Self::new(db, log, folder.path().to_owned());
        (folder, disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sled_never_has_more_to_write_than_it_may() {
        let (_folder, disk) = Disk::scratch();
        let tree = disk.tree("t").unwrap();
        let unflushed = || *disk.unflushed();
        disk.put(&tree, Kind::Index, b"key", &[7; 1_000]).unwrap();
        let one = 3 + SEAL_BYTES + 1_000;
        assert_eq!(unflushed(), one);
        let mut blocks = Blocks::new(&disk, tree.clone(), Kind::Index);
        blocks.put(b"key", &[8; 1_000]).unwrap();
        assert_eq!(unflushed(), one, "it gathers them first");
        blocks.write().unwrap();
        assert_eq!(unflushed(), one + REPLACED * one);
        disk.put(&tree, Kind::Index, b"large", &[9; UNFLUSHED_BYTES]).unwrap();
        assert_eq!(unflushed(), 0, "it has been waited for");
        disk.put(&tree, Kind::Index, b"key", &[7; 1_000]).unwrap();
        disk.make_durable().unwrap();
        assert_eq!(unflushed(), 0);
    }

    #[test]
    fn blocks_are_gathered_until_they_are_many() {
        let (_folder, disk) = Disk::scratch();
        let tree = disk.tree("t").unwrap();
        let mut blocks = Blocks::fresh(&disk, tree.clone(), Kind::Index);
        let payload = [7; 100_000];
        let most = GATHERED_BYTES.div_ceil(SEAL_BYTES + payload.len());
        for number in 1..=2 * most {
            blocks.put(&number.to_be_bytes(), &payload).unwrap();
            assert_eq!(tree.len(), number / most * most, "after {number}");
        }
    }

    #[test]
    fn a_full_disk_is_said_to_be_one_whoever_bounds_it() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::FileTooLarge, io::ErrorKind::QuotaExceeded] {
            let error = from_sled(Path::new("/"), "write to", ::sled::Error::Io(kind.into()), 7);
            assert!(matches!(error, StoreError::Full { reserve: 7, .. }), "{error}");
        }
        let error = from_io(Path::new("/"), "read", io::ErrorKind::PermissionDenied.into(), 7);
        assert!(matches!(error, StoreError::Io { doing: "read", .. }), "{error}");
    }
}
