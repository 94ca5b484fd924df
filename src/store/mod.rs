//! Where posts live: the trait that the committer speaks, and the stores that keep it.

mod memory;
mod sled;

#[cfg(test)]
mod conformance;

pub(crate) use self::backend::CallLog;
pub use self::memory::MemoryStore;
pub use self::sled::SledStore;
#[cfg(any(test, feature = "test-util"))]
pub(crate) use self::sled::hostile;

/// A place that keeps posts durably: [`SledStore`] on disk, [`MemoryStore`] for tests.
///
/// The trait is sealed: its methods are the engine's own.
pub trait Store: backend::Backend {}

/// The store's own methods, hidden from hosts. Everything here is called by one thread, the committer.
pub(crate) mod backend {
    use std::fmt;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use crate::error::StoreError;
    use crate::id::{PoolId, Seq};
    use crate::post::{Change, Cursor, Found, Page, Verdict};
    use crate::time::Timestamp;

    /// Which attempts have begun: written without waiting for the disk, so it outlives the process but not the machine's
    /// power.
    pub trait CallLog: Send + Sync + fmt::Debug {
        /// These attempts are about to be made. Every one of them is claimed; called by any thread. False if they must not
        /// be: that they were could not be noted, and a later process would take them for not made.
        fn calling(&self, attempts: &[(Seq, u32)]) -> bool;
    }

    /// Contract:
    /// - `commit` is atomic and durable when it returns `Ok` (power loss included), and its effects are seen by
    ///   every later call. Changes are applied in order. After `Err` the store answers `Poisoned` to everything.
    /// - What a `Schedule` unit is refused for (`Conflict`, `Full`) changes nothing of it and leaves the other
    ///   changes of the commit untouched.
    /// - A `Claim`, `Release`, `Move` or `Settle` whose home holds no live post is ignored. (It happens only for
    ///   posts of a unit that was refused in the same commit.)
    /// - A claim is reported to later processes with what the call log says of it: see [`Claimed`](crate::post::Claimed).
    /// - A settled post can be found, by number and by key, until its retention is over; its key then is free.
    pub trait Backend: Send + 'static {
        /// Makes the pools of these names known and returns their numbers, in the same order.
        fn pools(&mut self, names: &[String]) -> Result<Vec<PoolId>, StoreError>;

        /// The name of a pool that is known, has live posts and is not among `bound`, if there is one.
        fn orphan(&mut self, bound: &[PoolId]) -> Result<Option<String>, StoreError>;

        /// 64 random bits given to the store when it was made.
        fn identity(&self) -> u64;

        /// The first number never used, nor promised to a process before.
        fn next_seq(&self) -> Seq;

        /// The latest `now` of any commit before this process; `Timestamp::MIN` for a new store.
        fn last_commit_at(&self) -> Timestamp;

        /// Applies the changes; one verdict for each `Schedule`, in order. `now` is kept as the time of the
        /// outcomes.
        fn commit(&mut self, now: Timestamp, changes: Vec<Change>) -> Result<Vec<Verdict>, StoreError>;

        /// Live posts of the pool after `after` and at or before `until`, in order of `(at, seq)`: all of them,
        /// or the first ones, until about `max_bytes` of bodies and notes are in the page (always at least one post if
        /// there is one). `through` is `Cursor::through(until)` when all are in.
        fn load(&mut self, pool: PoolId, after: Cursor, until: Timestamp, max_bytes: usize)
        -> Result<Page, StoreError>;

        /// What is known of the post with this number.
        fn find(&mut self, seq: Seq) -> Result<Option<Found>, StoreError>;

        /// What is known of the post with this key.
        fn find_key(&mut self, key: &str) -> Result<Option<Found>, StoreError>;

        /// All that is remembered, by key; nothing that was forgotten. Called once, after opening.
        fn remembered(&mut self) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

        /// Where the attempts that have begun are written, if there is such a place. Called once, after opening.
        fn call_log(&mut self) -> Option<Arc<dyn CallLog>>;

        /// Does a bounded piece of housekeeping: forgets posts that were settled longer than `retention` ago.
        /// Called now and then, when nothing else waits. True if there is more to do right away.
        fn tidy(&mut self, now: Timestamp, retention: Duration) -> Result<bool, StoreError>;

        /// Writes everything out and closes; nothing is called afterwards.
        fn close(&mut self) -> Result<(), StoreError>;
    }
}
