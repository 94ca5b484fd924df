//! The pools of a run, and how they are opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use punctual::{Builder, Guarantee, Pool, PrepareAhead, RateLimit, RetryPolicy, Scheduler, SledStore};

use super::journal::Journal;
use super::network::Network;

/// One of the pools.
pub struct Shape {
    pub name: &'static str,
    concurrency: usize,
    shards: usize,
    /// In milliseconds.
    pub timeout: u64,
}

pub const POOLS: [Shape; 5] = [
    Shape { name: "wide", concurrency: 64, shards: 2, timeout: 1_000 },
    Shape { name: "narrow", concurrency: 3, shards: 1, timeout: 150 },
    Shape { name: "hasty", concurrency: 16, shards: 1, timeout: 60 },
    Shape { name: "limited", concurrency: 16, shards: 2, timeout: 150 },
    Shape { name: "uploads", concurrency: 16, shards: 1, timeout: 150 },
];

/// Bytes to keep free on the disk, as a store does by itself.
pub const RESERVE: u64 = 64 << 20;

/// What the pool named "limited" may publish.
pub const LIMIT: (u32, Duration) = (80, Duration::from_secs(1));

/// Opens the run's store with all pools. `chaos` seeds the network's moods; without it nothing goes wrong.
pub fn open(
    folder: &Path,
    guarantee: Guarantee,
    journal: &Arc<Journal>,
    chaos: Option<u64>,
) -> punctual::Result<Scheduler> {
    open_with(folder, guarantee, journal, chaos, RESERVE, |builder| builder)
}

/// As `open`, with other settings.
pub fn open_with(
    folder: &Path,
    guarantee: Guarantee,
    journal: &Arc<Journal>,
    chaos: Option<u64>,
    reserve: u64,
    set: impl FnOnce(Builder) -> Builder,
) -> punctual::Result<Scheduler> {
    let mut builder = set(Scheduler::builder()).store(SledStore::open(folder.join("store"))?.reserve(reserve));
    for shape in &POOLS {
        let timeout = Duration::from_millis(shape.timeout);
        let retry = RetryPolicy::exponential(Duration::from_millis(20)).max_delay(Duration::from_millis(200));
        let mut pool = Pool::new(shape.name, Network::new(journal, timeout, chaos))
            .concurrency(shape.concurrency)
            .shards(shape.shards)
            .threads(1)
            .timeout(timeout)
            .retry(retry)
            .guarantee(guarantee);
        if shape.name == "limited" {
            pool = pool.limit(RateLimit::rolling(LIMIT.0, LIMIT.1)).limit_profiles(RateLimit::rolling(40, LIMIT.1));
        }
        if shape.name == "uploads" {
            let retry = RetryPolicy::exponential(Duration::from_millis(50));
            let ahead = PrepareAhead::by(Duration::from_secs(1)).concurrency(8).threads(1).timeout(timeout);
            pool = pool.prepare_ahead(ahead.retry(retry));
        }
        builder = builder.pool(pool);
    }
    builder.start()
}
