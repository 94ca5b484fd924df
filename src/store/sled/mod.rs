//! The store on disk: a log-structured merge of its own, kept as checksummed blocks in one sled database.
//!
//! Posts go through three places. A commit is written to the **journal** of the current generation and kept in
//! its **memtable**. A generation that has grown large is frozen, and a new one begins; the **sorter** writes the
//! frozen one into **runs**, one for each day in which posts are due, and drops its journal. A day is dropped as a
//! whole when everything in it ended long enough ago. So sled, which slows down with many small keys, sees few and
//! large ones, and purging costs nothing.
//!
//! What happens to a post after it was written does not touch its block: a mark says it, kept in the same three
//! places. Of each post every generation holds at most one version; a mark says with which generation a version
//! became void, or that the post has ended.
//!
//! ```text
//! <path>/        see files.rs: marker, lock, witness, ballast
//! <path>/sled/   one database, with the trees
//!   j{generation}      journal of a generation that is not sorted yet    journal.rs
//!   d{day}-{part}, far runs of posts and of marks, by day                run.rs, state.rs
//!   index              where a post was written last, by number          index.rs
//!   keys               which posts may have a key, by its hash           keys.rs
//!   meta               what is sorted, what is forgotten, pools          catalog.rs
//! ```
//!
//! All values in sled are sealed blocks of at most 6,000 bytes (codec.rs).
//!
//! A generation becomes a sorted one by a single atomic write in `meta`, after its blocks are durable. A crash
//! before leaves its journal, and sorting starts over and writes the same blocks again; a crash after leaves a
//! journal that is dropped when the store is opened. A day is forgotten the same way: the note in `meta` counts,
//! the rest is cleared away after it.

mod calls;
mod catalog;
mod codec;
mod core;
mod disk;
mod files;
mod find;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod hostile;
mod index;
mod journal;
mod keys;
mod load;
mod memtable;
mod recover;
mod remembered;
mod run;
mod sorter;
mod state;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use self::core::Core;
use super::backend::Backend;
use super::{CallLog, Store};
use crate::error::StoreError;
use crate::id::{PoolId, Seq};
use crate::post::{Change, Cursor, Found, Page, Verdict};
use crate::time::Timestamp;

/// Free bytes below which no new posts are taken, unless the host says otherwise.
const RESERVE_BYTES: u64 = 64 << 20;

/// How large things may grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Bytes of posts in one generation.
    pub generation_bytes: usize,
    /// Posts in one generation to which something happened.
    pub generation_marks: usize,
    /// Bytes of a block, checksum included.
    pub block_bytes: usize,
    /// Days that have trees of their own.
    pub own_days: usize,
    /// Blocks of a day in one tree, about.
    pub part_blocks: u64,
    /// A commit with more outcomes is one of a spike: what can wait is sorted when the spike is over.
    pub spike: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        // A little less than what makes the table of marks double its memory.
        Self {
            generation_bytes: 32 << 20,
            generation_marks: 440_000,
            block_bytes: codec::BLOCK_BYTES,
            own_days: 64,
            part_blocks: 5_000,
            spike: 1_024,
        }
    }
}

/// The store on disk, in a directory of its own: posts survive the death of the process and the loss of power.
///
/// One scheduler at a time can have it open.
pub struct SledStore {
    path: PathBuf,
    identity: u64,
    /// Gone once the store is closed or has failed.
    core: Option<Box<Core>>,
    next_seq: Seq,
    last_commit_at: Timestamp,
}

impl SledStore {
    /// Opens the store in this directory, or makes one if the directory is empty or missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_sized(path.as_ref(), Sizes::default())
    }

    /// Free bytes to keep on the disk for what becomes of the posts: with less than this, new posts are refused
    /// ([`StoreError::Full`]) and everything else goes on. Default: 64 MiB.
    #[must_use]
    pub fn reserve(self, bytes: u64) -> Self {
        if let Some(core) = &self.core {
            core.disk.reserve.store(bytes, Ordering::Relaxed);
        }
        self
    }

    pub(super) fn open_sized(path: &Path, sizes: Sizes) -> Result<Self, StoreError> {
        let opened = catch_unwind(AssertUnwindSafe(|| recover::open(path, sizes)));
        let (core, identity) = opened
            .unwrap_or_else(|panic| Err(StoreError::Damaged { path: path.to_owned(), what: panic_text(&*panic) }))?;
        let (next_seq, last_commit_at) = (core.next_seq, core.last_commit_at);
        Ok(Self { path: path.to_owned(), identity, core: Some(Box::new(core)), next_seq, last_commit_at })
    }

    /// Whether the sorter has nothing to do.
    #[cfg(test)]
    pub(super) fn is_idle(&mut self) -> bool {
        self.with(|core| core.poll().map(|()| core.sorter.pending + core.put_off == 0)).unwrap()
    }

    /// Lets the core do something. After an error it is not used again.
    fn with<T>(&mut self, call: impl FnOnce(&mut Core) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let core = self.core.as_mut().ok_or(StoreError::Poisoned)?;
        let result = catch_unwind(AssertUnwindSafe(|| call(core)));
        let result = result
            .unwrap_or_else(|panic| Err(StoreError::Damaged { path: self.path.clone(), what: panic_text(&*panic) }));
        if result.is_err() {
            self.shut();
        }
        result
    }

    fn shut(&mut self) {
        let core = self.core.take();
        // Closing a database that failed may fail once more.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(core)));
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.shut();
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store for SledStore {}

impl Backend for SledStore {
    fn pools(&mut self, names: &[String]) -> Result<Vec<PoolId>, StoreError> {
        self.with(|core| core.pools(names))
    }

    fn orphan(&mut self, bound: &[PoolId]) -> Result<Option<String>, StoreError> {
        self.with(|core| Ok(core.orphan(bound)))
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn next_seq(&self) -> Seq {
        self.core.as_ref().map_or(self.next_seq, |core| core.next_seq)
    }

    fn last_commit_at(&self) -> Timestamp {
        self.last_commit_at
    }

    fn commit(&mut self, now: Timestamp, changes: Vec<Change>) -> Result<Vec<Verdict>, StoreError> {
        self.with(|core| core.commit(now, changes))
    }

    fn load(&mut self, pool: PoolId, after: Cursor, until: Timestamp, max_bytes: usize) -> Result<Page, StoreError> {
        self.with(|core| core.load(pool, after, until, max_bytes))
    }

    fn find(&mut self, seq: Seq) -> Result<Option<Found>, StoreError> {
        self.with(|core| core.find(seq))
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Found>, StoreError> {
        self.with(|core| core.find_key(key))
    }

    fn remembered(&mut self) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.with(Core::remembered)
    }

    fn call_log(&mut self) -> Option<Arc<dyn CallLog>> {
        self.core.as_ref()?.calls.log()
    }

    fn tidy(&mut self, now: Timestamp, retention: Duration) -> Result<bool, StoreError> {
        self.with(|core| core.tidy(now, retention))
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let closed = self.with(|core| core.disk.make_durable());
        self.shut();
        closed
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the database failed: {}", text.unwrap_or_else(|| "without a reason".to_owned()))
}
