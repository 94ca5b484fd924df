//! Who broadcasts, how wide and how stubbornly. Pools share nothing: one stuck network cannot delay another.

mod broadcaster;
mod prepare;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use broadcaster::{Broadcaster, Call, DynBroadcaster};
pub use prepare::PrepareAhead;

use crate::catch_up::CatchUp;
use crate::error::{Error, Result};
use crate::gate::{Account, Breaker};
use crate::limits;
use crate::post::Guarantee;
use crate::quota::RateLimit;
use crate::retry::RetryPolicy;

/// The dedicated workers of one network or kind of post: threads, limits and ready queues of its own.
///
/// ```
/// use punctual::{Pool, Receipt, RetryPolicy};
/// use std::time::Duration;
///
/// let pool = Pool::new("mastodon", |delivery: punctual::Delivery| async move {
///         // … call the network …
///         Ok(Receipt::new(format!("https://example.social/{}", delivery.id())))
///     })
///     .concurrency(500)
///     .timeout(Duration::from_secs(30))
///     .retry(RetryPolicy::exponential(Duration::from_secs(5)));
/// ```
#[must_use = "a pool does nothing until the builder gets it"]
pub struct Pool {
    pub(crate) name: Arc<str>,
    pub(crate) broadcaster: Arc<dyn DynBroadcaster>,
    pub(crate) concurrency: usize,
    pub(crate) shards: usize,
    pub(crate) threads: usize,
    pub(crate) timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) guarantee: Guarantee,
    pub(crate) catch_up: CatchUp,
    pub(crate) limits: Vec<RateLimit>,
    pub(crate) profile_limits: Vec<RateLimit>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) prepare: Option<PrepareAhead>,
}

impl Pool {
    /// A pool of this name (1 to 255 bytes) for this broadcaster.
    ///
    /// The name is what posts say, and what the store keeps: a pool that is renamed leaves its posts behind.
    pub fn new(name: impl Into<String>, broadcaster: impl Broadcaster) -> Self {
        let name: String = name.into();
        Self {
            name: name.into(),
            broadcaster: Arc::new(broadcaster),
            concurrency: 256,
            shards: 1,
            threads: 2,
            timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
            guarantee: Guarantee::AtLeastOnce,
            catch_up: CatchUp::at_once(),
            limits: Vec::new(),
            profile_limits: Vec::new(),
            accounts: Vec::new(),
            breaker: None,
            prepare: None,
        }
    }

    /// How many deliveries may be in flight at once, 1 to 1,048,576. Default: 256. A spike goes out within its
    /// minute if this is at least its posts × the time one takes ÷ 60 s.
    pub fn concurrency(mut self, deliveries: usize) -> Self {
        self.concurrency = deliveries;
        self
    }

    /// How many shards the pool has, 1 to 64, each with a thread of its own that decides what goes next; at
    /// most as many as the concurrency. A profile always maps to the same shard, and priorities hold within a
    /// shard. One shard decides upon some hundred thousand deliveries a second. Default: 1.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// How many threads call the broadcaster, and how many run its futures once they have had to wait, 1 to
    /// 256 each. Default: 2. A broadcaster that blocks the thread it is called on gets another thread beside
    /// it, up to the pool's concurrency.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How long a delivery may take, 1 ms to a day. After it the delivery is given up and its place is free; whether the
    /// post was published is in doubt. Its future goes on, up to as many as the concurrency: an answer that comes late still
    /// settles the doubt. [`Delivery::heartbeat`](crate::Delivery::heartbeat) begins the time anew. Default: 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// When failed posts are tried again. Default: [`RetryPolicy::default`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// What is done with posts of which nobody knows whether they were published. Default:
    /// [`Guarantee::AtLeastOnce`]: they are sent again, marked as possible repeats.
    pub fn guarantee(mut self, guarantee: Guarantee) -> Self {
        self.guarantee = guarantee;
        self
    }

    /// What is done with posts whose due passed while they could not be sent. Default: [`CatchUp::at_once`].
    pub fn catch_up(mut self, policy: CatchUp) -> Self {
        self.catch_up = policy;
        self
    }

    /// Limits how often the pool broadcasts; call it once for each window. Posts wait, and no attempt is counted. What was
    /// counted survives a restart.
    ///
    /// ```
    /// # use punctual::{Pool, RateLimit, Receipt};
    /// # use std::time::Duration;
    /// # let broadcaster = |_| async { Ok(Receipt::default()) };
    /// let pool = Pool::new("threads", broadcaster)
    ///     .limit(RateLimit::rolling(10_000, Duration::from_secs(86_400)))
    ///     .limit_profiles(RateLimit::rolling(50, Duration::from_secs(3_600)))
    ///     .limit_profiles(RateLimit::rolling(250, Duration::from_secs(86_400)));
    /// ```
    pub fn limit(mut self, limit: RateLimit) -> Self {
        self.limits.push(limit);
        self
    }

    /// Limits how often the pool broadcasts for each profile; call it once for each window. Posts without a profile are
    /// not limited by it.
    pub fn limit_profiles(mut self, limit: RateLimit) -> Self {
        self.profile_limits.push(limit);
        self
    }

    /// The pool publishes through this account, beside other pools that say so: they share its limits.
    pub fn account(mut self, account: &Account) -> Self {
        self.accounts.push(account.clone());
        self
    }

    /// Stops the pool for a while when its network is down. Default: never.
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Prepares posts ahead of their due. Default: not at all.
    pub fn prepare_ahead(mut self, prepare: PrepareAhead) -> Self {
        self.prepare = Some(prepare);
        self
    }

    /// How much of the concurrency is this shard's: it is shared out evenly, and the first take what is left over.
    pub(crate) fn share(&self, shard: usize) -> usize {
        self.concurrency / self.shards + usize::from(shard < self.concurrency % self.shards)
    }

    /// Refuses settings outside their ranges.
    pub(crate) fn check(&self) -> Result<()> {
        let name = self.name.len();
        if name == 0 || name > limits::NAME_BYTES {
            return Err(Error::InvalidName { what: "name of a pool", bytes: name, max: limits::NAME_BYTES });
        }
        let millis = |d: Duration| d.as_millis();
        let settings = [
            ("concurrency", self.concurrency as u128, 1, limits::CONCURRENCY as u128),
            ("shards", self.shards as u128, 1, limits::SHARDS.min(self.concurrency) as u128),
            ("threads", self.threads as u128, 1, limits::THREADS as u128),
            ("timeout (ms)", millis(self.timeout), 1, millis(Duration::from_secs(86_400))),
        ];
        let of = format!("pool {:?}", self.name);
        let catch_up = self.catch_up.durations().map(|(setting, d)| (setting, millis(d), 0, millis(limits::CATCH_UP)));
        let prepare = self.prepare.iter().flat_map(PrepareAhead::ranges);
        for (setting, value, min, max) in settings.into_iter().chain(catch_up).chain(prepare) {
            if value < min || value > max {
                return Err(Error::InvalidSetting { of, setting, value, min, max });
            }
        }
        let accounts = self.accounts.iter().flat_map(Account::limits);
        for limit in self.limits.iter().chain(&self.profile_limits).cloned().chain(accounts) {
            limit.check(&of)?;
        }
        for name in self.accounts.iter().map(|account| account.name().len()) {
            if name == 0 || name > limits::NAME_BYTES {
                return Err(Error::InvalidName { what: "name of an account", bytes: name, max: limits::NAME_BYTES });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name)
            .field("concurrency", &self.concurrency)
            .field("shards", &self.shards)
            .field("threads", &self.threads)
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::post::Receipt;

    #[test]
    fn shards_share_the_concurrency_evenly() {
        for (concurrency, shares) in [(3, [1, 1, 1]), (4, [2, 1, 1]), (5, [2, 2, 1]), (300, [100; 3])] {
            let pool = Pool::new("p", |_| async { Ok(Receipt::default()) }).concurrency(concurrency).shards(3);
            assert_eq!([0, 1, 2].map(|shard| pool.share(shard)), shares);
        }
    }
}
