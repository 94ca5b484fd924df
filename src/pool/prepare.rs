//! How a pool prepares its posts ahead of their due.

use std::time::Duration;

use crate::limits;
use crate::retry::RetryPolicy;

/// How a pool makes posts ready ahead of their due, by [`Broadcaster::prepare`](crate::Broadcaster::prepare). It has
/// threads and a concurrency of its own: uploads never take the place of publishing.
///
/// ```
/// use punctual::PrepareAhead;
/// use std::time::Duration;
///
/// let uploads = PrepareAhead::by(Duration::from_secs(600)).concurrency(32);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PrepareAhead {
    pub(crate) lead: Duration,
    pub(crate) concurrency: usize,
    pub(crate) threads: usize,
    pub(crate) timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) or_fail: bool,
}

impl PrepareAhead {
    /// Posts are prepared so long before their due, 1 s to 30 days, unless they say otherwise
    /// ([`Post::prepare_ahead`](crate::Post::prepare_ahead)); those that come later than that, at once. Choose it
    /// longer than an upload takes, and shorter than the network keeps it.
    pub const fn by(lead: Duration) -> Self {
        Self {
            lead,
            concurrency: 64,
            threads: 2,
            timeout: Duration::from_secs(600),
            retry: RetryPolicy::exponential(Duration::from_secs(10)).max_attempts(u32::MAX),
            or_fail: false,
        }
    }

    /// How many posts are prepared at once, 1 to 1,048,576. Default: 64.
    #[must_use]
    pub const fn concurrency(mut self, posts: usize) -> Self {
        self.concurrency = posts;
        self
    }

    /// How many threads it has, as [`Pool::threads`](crate::Pool::threads). Default: 2.
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How long preparing may take, 1 ms to a day. Then it counts as failed. A post that is still being prepared at
    /// its due waits for it. Default: 10 minutes.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// When a post that could not be prepared is prepared again; never later than its due. Default: after 10, 20, 40 …
    /// seconds, without a limit.
    #[must_use]
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// A post that could not be prepared becomes a dead letter. Default: it goes out by the ordinary way, with nothing in
    /// [`Delivery::prepared`](crate::Delivery::prepared).
    #[must_use]
    pub const fn or_fail(mut self) -> Self {
        self.or_fail = true;
        self
    }

    /// Its settings with their ranges.
    pub(super) fn ranges(&self) -> [(&'static str, u128, u128, u128); 4] {
        let millis = |d: Duration| d.as_millis();
        [
            ("prepare_ahead: lead (ms)", millis(self.lead), 1_000, millis(Duration::from_secs(30 * 86_400))),
            ("prepare_ahead: concurrency", self.concurrency as u128, 1, limits::CONCURRENCY as u128),
            ("prepare_ahead: threads", self.threads as u128, 1, limits::THREADS as u128),
            ("prepare_ahead: timeout (ms)", millis(self.timeout), 1, millis(Duration::from_secs(86_400))),
        ]
    }
}
