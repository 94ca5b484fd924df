//! What came of a delivery, and what is made of it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::limits;
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// What a network called the post it published: a URL, a remote id. Kept with the outcome.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Receipt(Option<Box<str>>);

impl Receipt {
    /// A receipt that says this. It is stored with the post; what is longer than 4,096 bytes is cut.
    pub fn new(text: impl Into<String>) -> Self {
        let text = cut(text.into());
        Self((!text.is_empty()).then(|| text.into_boxed_str()))
    }

    /// What it says; empty if the broadcaster had nothing to say.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }
}

/// What is stored of a broadcaster's words.
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(limits::TEXT_BYTES));
    text
}

/// What finally came of a post.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Outcome {
    /// Its broadcaster said that it is published.
    Delivered(Receipt),
    /// A dead letter: refused for good, or the last attempt failed.
    Failed {
        /// What the broadcaster said last.
        reason: String,
    },
    /// Its due passed by more than it allows.
    Missed {
        /// By how much.
        by: Duration,
    },
    /// Taken back by the host.
    Cancelled,
}

/// Why a broadcaster did not publish. Any error becomes a transient one with `?`.
///
/// ```
/// use punctual::BroadcastError;
///
/// fn status(code: u16) -> Result<(), BroadcastError> {
///     match code {
///         200 => Ok(()),
///         400..=499 => Err(BroadcastError::permanent(format!("refused with {code}"))),
///         _ => Err(BroadcastError::transient(format!("failed with {code}"))),
///     }
/// }
/// # assert!(status(404).is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BroadcastError {
    failure: Failure,
    reason: String,
}

/// What kind of failure it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failure {
    /// May go better next time.
    Transient,
    /// Will never go better.
    Permanent,
}

impl BroadcastError {
    /// The post was not published, and another attempt may go better: it is tried again by the pool's
    /// [`RetryPolicy`].
    pub fn transient(reason: impl fmt::Display) -> Self {
        Self { failure: Failure::Transient, reason: reason.to_string() }
    }

    /// The post was not published and never will be: it becomes a dead letter at once.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self { failure: Failure::Permanent, reason: reason.to_string() }
    }

    /// Whether another attempt may go better.
    pub fn is_transient(&self) -> bool {
        self.failure == Failure::Transient
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Debug for BroadcastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.failure, self.reason)
    }
}

impl fmt::Display for BroadcastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

// No `std::error::Error` for `BroadcastError` itself: this conversion would overlap.
impl<E: StdError> From<E> for BroadcastError {
    fn from(error: E) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason.push_str(": ");
            reason.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { failure: Failure::Transient, reason }
    }
}

/// How one attempt ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The broadcaster answered.
    Answered(Result<Receipt, BroadcastError>),
    /// No answer within the pool's timeout: whether the post was published is not known.
    TimedOut { after: Duration },
    /// The broadcaster panicked: whether the post was published is not known.
    Panicked { message: String },
}

/// What follows from an attempt's ending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Settle(Outcome),
    Retry { at: Timestamp, reason: String, maybe_sent: bool },
}

impl Ending {
    /// The one place that decides what is made of an attempt: attempt number `attempt` of the post with this
    /// seed ended so at `now`.
    pub fn step(self, now: Timestamp, seed: u128, attempt: u32, policy: &RetryPolicy) -> Step {
        let (reason, transient, maybe_sent) = match self {
            Self::Answered(Ok(receipt)) => return Step::Settle(Outcome::Delivered(receipt)),
            Self::Answered(Err(error)) => (cut(error.reason), error.failure == Failure::Transient, false),
            Self::TimedOut { after } => (format!("no answer within {after:?}"), true, true),
            Self::Panicked { message } => (cut(format!("the broadcaster panicked: {message}")), true, true),
        };
        match policy.delay(seed, attempt).filter(|_| transient) {
            Some(delay) => Step::Retry { at: now.after(delay).ceil_millis(), reason, maybe_sent },
            None => Step::Settle(Outcome::Failed { reason }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    #[test]
    fn a_receipt_settles_whatever_the_policy_says() {
        let ending = Ending::Answered(Ok(Receipt::new("url")));
        assert_eq!(ending.step(NOW, 1, 9, &RetryPolicy::none()), Step::Settle(Outcome::Delivered(Receipt::new("url"))));
    }

    #[test]
    fn a_transient_failure_is_retried_after_now_until_attempts_are_used_up() {
        let policy = RetryPolicy::exponential(Duration::from_secs(1)).max_attempts(2);
        let ending = || Ending::Answered(Err(BroadcastError::transient("503")));
        match ending().step(NOW, 1, 1, &policy) {
            Step::Retry { at, maybe_sent: false, .. } => assert!(at > NOW),
            other => panic!("{other:?}"),
        }
        assert_eq!(ending().step(NOW, 1, 2, &policy), Step::Settle(Outcome::Failed { reason: "503".into() }));
    }

    #[test]
    fn a_permanent_failure_is_a_dead_letter_at_once() {
        let ending = Ending::Answered(Err(BroadcastError::permanent("gone")));
        assert_eq!(
            ending.step(NOW, 1, 1, &RetryPolicy::default()),
            Step::Settle(Outcome::Failed { reason: "gone".into() })
        );
    }

    #[test]
    fn what_a_broadcaster_says_is_cut_between_two_characters() {
        let long = "é".repeat(5_000);
        assert!(Receipt::new(&*long).as_str().len() <= limits::TEXT_BYTES);
        let ending = Ending::Answered(Err(BroadcastError::permanent(format!("x{long}"))));
        match ending.step(NOW, 1, 1, &RetryPolicy::none()) {
            Step::Settle(Outcome::Failed { reason }) => assert_eq!(reason.len(), limits::TEXT_BYTES - 1),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_timeout_and_a_panic_may_have_published() {
        for ending in [Ending::TimedOut { after: Duration::from_secs(1) }, Ending::Panicked { message: "x".into() }] {
            assert!(matches!(ending.step(NOW, 1, 1, &RetryPolicy::default()), Step::Retry { maybe_sent: true, .. }));
        }
    }

    #[test]
    fn an_error_with_its_causes_becomes_transient() {
        let io = std::io::Error::other("broken pipe");
        let error: BroadcastError = io.into();
        assert!(error.is_transient());
        assert_eq!(error.reason(), "broken pipe");
    }
}
