//! How often and how far apart a failed post is tried again.

use std::time::Duration;

/// When a post whose attempt failed is tried again: exponential steps with jitter, up to a number of
/// attempts. After the last one the post is a dead letter ([`Outcome::Failed`](crate::Outcome::Failed)).
///
/// The wait before attempt *n* + 1 is drawn evenly from the upper half of `base × 2ⁿ⁻¹`, capped at
/// [`max_delay`](Self::max_delay). The draw is seeded by the post's id and the attempt, so it is the same
/// in every run ("equal jitter", AWS Architecture Blog, *Exponential Backoff And Jitter*, 2015).
///
/// ```
/// use punctual::RetryPolicy;
/// use std::time::Duration;
///
/// let policy = RetryPolicy::exponential(Duration::from_secs(10)).max_attempts(3);
/// let first = policy.delay(42, 1).expect("a second attempt is allowed");
/// assert!(first >= Duration::from_secs(5) && first <= Duration::from_secs(10));
/// assert_eq!(policy.delay(42, 3), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    base: Duration,
    max_delay: Duration,
    max_age: Duration,
    max_attempts: u32,
}

/// An age that no post reaches.
const NO_LIMIT: Duration = Duration::from_micros(i64::MAX as u64);

impl RetryPolicy {
    /// No retry: the first failure is final.
    pub const fn none() -> Self {
        Self { base: Duration::ZERO, max_delay: Duration::ZERO, max_age: NO_LIMIT, max_attempts: 1 }
    }

    /// Waits of about `base`, twice `base`, four times `base` …; 5 attempts in all and at most one hour
    /// between two, unless changed.
    pub const fn exponential(base: Duration) -> Self {
        Self { base, max_delay: Duration::from_secs(3_600), max_age: NO_LIMIT, max_attempts: 5 }
    }

    /// The longest wait between two attempts. Default: one hour.
    #[must_use]
    pub const fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// No attempt is made later than this after the due: a failure whose next attempt would be is final. Default:
    /// no limit.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// The number of attempts in all, the first included; zero counts as one. Default: 5.
    #[must_use]
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// How long after its due a post may still be tried again.
    pub(crate) const fn age(&self) -> Duration {
        self.max_age
    }

    /// Base, longest wait and age.
    pub(crate) const fn durations(&self) -> [Duration; 3] {
        [self.base, self.max_delay, self.max_age]
    }

    pub(crate) const fn attempts(&self) -> u32 {
        self.max_attempts
    }

    /// The wait after failed attempt number `attempt` (from 1) of the post with this seed, or `None` if it
    /// was the last. Pure: the same arguments always give the same wait.
    pub fn delay(&self, seed: u128, attempt: u32) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.base.checked_mul(factor).unwrap_or(Duration::MAX).min(self.max_delay);
        let half = u64::try_from(full.as_micros() / 2).unwrap_or(u64::MAX);
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&seed.to_le_bytes());
        bytes[16..].copy_from_slice(&attempt.to_le_bytes());
        let draw = xxhash_rust::xxh3::xxh3_64(&bytes);
        let jitter = (u128::from(half) * u128::from(draw)) >> 64;
        Some(full - Duration::from_micros(u64::try_from(jitter).unwrap_or(0)))
    }
}

impl Default for RetryPolicy {
    /// 5 attempts, about 10, 20, 40 and 80 seconds apart.
    fn default() -> Self {
        Self::exponential(Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_lies_in_the_upper_half_of_its_step_and_never_changes(
            seed: u128, attempt in 1u32..80, base_ms in 0u64..100_000, cap_ms in 0u64..10_000_000,
        ) {
            let cap = Duration::from_millis(cap_ms);
            let policy = RetryPolicy::exponential(Duration::from_millis(base_ms)).max_delay(cap).max_attempts(60);
            let delay = policy.delay(seed, attempt);
            prop_assert_eq!(delay, policy.delay(seed, attempt));
            prop_assert_eq!(delay.is_none(), attempt >= 60);
            if let Some(delay) = delay {
                let step = Duration::from_millis(base_ms).checked_mul(2u32.saturating_pow(attempt - 1)).unwrap_or(Duration::MAX).min(cap);
                prop_assert!(delay <= step && delay >= step / 2, "{:?} of {:?}", delay, step);
            }
        }
    }

    #[test]
    fn jitter_spreads_posts_that_failed_together() {
        let policy = RetryPolicy::default();
        let mut delays: Vec<_> = (0..1_000).map(|id| policy.delay(id, 1).unwrap().as_millis()).collect();
        delays.sort_unstable();
        delays.dedup();
        assert!(delays.len() > 850, "only {} different delays", delays.len());
    }
}
