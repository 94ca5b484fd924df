//! How the engine is set up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::catch_up::CatchUp;
use crate::gate::Gate;
use crate::id::{PoolId, Seq};
use crate::post::{Guarantee, Record};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// How the engine is set up; checked by the builder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's identity.
    pub store: u64,
    /// The first number to give to a post.
    pub next_seq: Seq,
    /// The latest time at which an earlier process committed anything.
    pub last_commit_at: Timestamp,
    /// What the store remembers besides posts.
    pub remembered: Vec<(Bytes, Bytes)>,
    pub pools: Vec<PoolSettings>,
    /// How far ahead posts are loaded.
    pub horizon: Duration,
    /// How long before its due a post is claimed.
    pub claim_ahead: Duration,
    /// Bytes that each pool's posts may take in memory.
    pub memory: usize,
    /// A commit that takes longer than this stalls the scheduler.
    pub stall_after: Duration,
    /// How long finished posts are remembered.
    pub retention: Duration,
    /// Which release of the zone data local times are derived by.
    pub zones: &'static str,
    /// How long dead letters are kept.
    pub dead_letter_retention: Duration,
}

/// A pool as the engine sees it.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    pub id: PoolId,
    pub name: Arc<str>,
    /// Its shards are numbered from here, across all pools.
    pub first_shard: usize,
    pub shards: usize,
    pub retry: RetryPolicy,
    pub guarantee: Guarantee,
    pub catch_up: CatchUp,
    /// What it may do now; its shards ask it too.
    pub gate: Gate,
    /// Whether the gate counts anything.
    pub is_limited: bool,
    /// Whether it shares an account with others.
    pub has_accounts: bool,
    pub prepare: Option<PrepareSettings>,
}

/// How a pool prepares its posts.
#[derive(Clone, Debug)]
pub struct PrepareSettings {
    /// The shard that prepares.
    pub shard: usize,
    pub lead: Duration,
    pub retry: RetryPolicy,
    /// What cannot be prepared is a dead letter.
    pub or_fail: bool,
}

/// Where a pool is in the settings, by its number in the store.
#[derive(Debug)]
pub struct Places(Vec<Option<usize>>);

impl Places {
    pub(super) fn of(pools: &[PoolSettings]) -> Self {
        let numbers = pools.iter().map(|pool| usize::from(pool.id.0) + 1).max().unwrap_or(0);
        let mut places = vec![None; numbers];
        for (place, pool) in pools.iter().enumerate() {
            if let Some(at) = places.get_mut(usize::from(pool.id.0)) {
                *at = Some(place);
            }
        }
        Self(places)
    }

    pub(super) fn get(&self, pool: PoolId) -> Option<usize> {
        self.0.get(usize::from(pool.0)).copied().flatten()
    }
}

impl PoolSettings {
    /// When this post is tried again.
    pub(super) fn retry(&self, record: &Record) -> RetryPolicy {
        record.body.retry().unwrap_or(self.retry)
    }

    /// The last instant at which this post may be sent. A thread that has begun goes on.
    pub(super) fn deadline(&self, record: &Record) -> Option<Timestamp> {
        self.deadline_if(record, record.attempts > 0 || record.notes.calls() > 0)
    }

    /// The same, if it was called before, or was not: only its first call can be too late for its pool.
    pub(super) fn deadline_if(&self, record: &Record, was_called: bool) -> Option<Timestamp> {
        if !record.notes.receipts().is_empty() {
            return None;
        }
        let own = record.body.deadline(record.due);
        let misfire = self.catch_up.deadline(record.due).filter(|_| !was_called);
        own.into_iter().chain(misfire).min()
    }
}

impl Settings {
    /// A profile always maps to the same shard; posts without one are spread.
    pub(super) fn shard(&self, place: usize, record: &Record) -> usize {
        let Some(pool) = self.pools.get(place) else { return 0 };
        let number = match record.body.profile() {
            _ if pool.shards == 1 => 0,
            "" => record.seq.0,
            profile => xxhash_rust::xxh3::xxh3_64(profile.as_bytes()),
        };
        pool.first_shard + (number % pool.shards as u64) as usize
    }
}
