//! What came of a delivery, and what is made of it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeZone};

use crate::limits;
use crate::quota::Scope;
use crate::retry::RetryPolicy;
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::{Doubt, Guarantee, Reconciled};

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
    /// A dead letter: refused for good, or the last attempt failed. The host can have it sent again.
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

/// Why a broadcaster did not say that it has published. What it says decides what is made of the attempt.
///
/// Any error becomes an [`unknown`](Self::unknown) one with `?`: it may have come before the network took the post
/// or after. Say [`transient`](Self::transient) where the post was certainly not published.
///
/// ```
/// use punctual::BroadcastError;
/// use std::time::Duration;
///
/// fn status(code: u16, retry_after: u64) -> Result<(), BroadcastError> {
///     match code {
///         200 => Ok(()),
///         401 => Err(BroadcastError::unauthorized("the token has expired")),
///         429 => Err(BroadcastError::throttled("too many").retry_after(Duration::from_secs(retry_after))),
///         400..=499 => Err(BroadcastError::permanent(format!("refused with {code}"))),
///         504 => Err(BroadcastError::unknown("the gateway got no answer")),
///         _ => Err(BroadcastError::transient(format!("failed with {code}"))),
///     }
/// }
/// # assert!(status(404, 0).is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BroadcastError {
    pub(crate) failure: Failure,
    pub(crate) reason: String,
    pub(crate) retry: Option<Again>,
}

/// What kind of failure it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// Not published; may go better next time.
    Transient,
    /// Not published; will never go better.
    Permanent,
    /// Maybe published.
    Unknown,
    /// Not published: too much was sent in this scope.
    Throttled(Scope),
    /// Not published: the network does not accept the profile's credentials.
    Unauthorized,
    /// Not published: the broadcaster wants to be asked later.
    Snoozed,
}

/// When the broadcaster wants to be asked again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Again {
    After(Duration),
    At(Timestamp),
}

impl Again {
    /// As an instant; not before `now`, not longer ahead than is reasonable.
    fn from(self, now: Timestamp) -> Timestamp {
        let at = match self {
            Self::After(delay) => now.after(delay),
            Self::At(at) => at,
        };
        at.clamp(now, now.after(limits::RETRY_AHEAD)).ceil_millis()
    }
}

impl BroadcastError {
    fn new(failure: Failure, reason: impl fmt::Display) -> Self {
        Self { failure, reason: reason.to_string(), retry: None }
    }

    /// The post was not published, and another attempt may go better: it is tried again by the
    /// [`RetryPolicy`], or when [`retry_after`](Self::retry_after) says.
    pub fn transient(reason: impl fmt::Display) -> Self {
        Self::new(Failure::Transient, reason)
    }

    /// The post was not published and never will be: it becomes a dead letter at once.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self::new(Failure::Permanent, reason)
    }

    /// The post may have been published: the connection was lost, or a gateway gave up. As after a crash,
    /// [`Broadcaster::reconcile`](crate::Broadcaster::reconcile) is asked, and then the post's
    /// [`Guarantee`](crate::Guarantee) decides.
    pub fn unknown(reason: impl fmt::Display) -> Self {
        Self::new(Failure::Unknown, reason)
    }

    /// The post was not published because too many were. No attempt is counted, and not only this post waits: so do
    /// all posts of its profile, or of what [`scope`](Self::scope) says. Say until when with
    /// [`retry_after`](Self::retry_after) or [`retry_at`](Self::retry_at); else it is 10 seconds.
    pub fn throttled(reason: impl fmt::Display) -> Self {
        Self::new(Failure::Throttled(Scope::Profile), reason)
    }

    /// The post was not published because the network does not accept the profile's credentials any more. No attempt
    /// is counted; the profile is held, with one event, and all its posts wait until the host releases it
    /// ([`Scheduler::release_profile`](crate::Scheduler::release_profile)).
    pub fn unauthorized(reason: impl fmt::Display) -> Self {
        Self::new(Failure::Unauthorized, reason)
    }

    /// The post was not published, and is to be tried again at this instant. No attempt is counted.
    pub fn snooze<Z: TimeZone>(until: DateTime<Z>, reason: impl fmt::Display) -> Self {
        Self::new(Failure::Snoozed, reason).retry_at(until)
    }

    /// How long to wait before the next attempt, as a network's `Retry-After` says (RFC 9110, section 10.2.3). At
    /// most 7 days; what is longer is cut.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry = Some(Again::After(delay));
        self
    }

    /// When the next attempt may be made. An instant in the past means now (after a throttle, in 100 ms); at
    /// most 7 days ahead.
    #[must_use]
    pub fn retry_at<Z: TimeZone>(mut self, at: DateTime<Z>) -> Self {
        self.retry = Some(Again::At(Timestamp::due(at.to_utc())));
        self
    }

    /// What waits when the network says that there is too much: the profile, the whole pool, or everything that
    /// shares the pool's account. Without effect on other errors.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        if let Failure::Throttled(throttled) = &mut self.failure {
            *throttled = scope;
        }
        self
    }

    /// When the broadcaster wants to be asked again, if it said so.
    pub(crate) fn again(&self, now: Timestamp) -> Option<Timestamp> {
        self.retry.map(|again| again.from(now))
    }

    /// What is to wait until when, if the network said that there is too much.
    pub(crate) fn throttles(&self, now: Timestamp) -> Option<(Scope, Timestamp)> {
        let Failure::Throttled(scope) = self.failure else { return None };
        let at = self.again(now).unwrap_or_else(|| now.after(limits::THROTTLE).ceil_millis());
        Some((scope, at.max(now.after(limits::THROTTLE_LEAST).ceil_millis())))
    }

    /// Whether another attempt may go better, and the post was certainly not published.
    pub fn is_transient(&self) -> bool {
        self.failure == Failure::Transient
    }

    /// Whether the post may have been published.
    pub fn is_unknown(&self) -> bool {
        self.failure == Failure::Unknown
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
        Self { failure: Failure::Unknown, reason, retry: None }
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
    /// It was not called: the broadcaster was asked about an earlier attempt, and the post must not be sent again.
    Reconciled(Reconciled),
    /// It was not called: the broadcaster was asked about an earlier attempt, and could not find out now.
    Unreconciled(BroadcastError),
    /// It was not called: it would have been later than the post allows.
    TooLate,
}

impl Ending {
    /// Whether the network, as far as it can be told, did its work; `None` if that was not tried.
    pub fn is_healthy(&self) -> Option<bool> {
        match self {
            Self::Answered(Err(error)) => Some(!matches!(error.failure, Failure::Transient | Failure::Unknown)),
            Self::Answered(Ok(_)) => Some(true),
            Self::TimedOut { .. } | Self::Panicked { .. } => Some(false),
            Self::Unreconciled(error) => Some(error.failure == Failure::Permanent),
            Self::Reconciled(_) | Self::TooLate => None,
        }
    }
}

/// What is known of a post when one of its attempts ends.
#[derive(Clone, Debug)]
pub struct Terms {
    pub now: Timestamp,
    /// For the jitter.
    pub seed: u128,
    /// The attempt that ended, from 1.
    pub attempt: u32,
    pub retry: RetryPolicy,
    pub guarantee: Guarantee,
    pub due: Timestamp,
    /// The last instant at which it may be sent.
    pub deadline: Option<Timestamp>,
    pub doubt: Doubt,
    /// What was said of the earlier attempt that left the doubt.
    pub before: String,
}

/// What follows from an attempt's ending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Published: the post, or a part of it.
    Delivered(Receipt),
    /// Not published, and it must not be any more.
    Missed { by: Duration },
    /// Not published, and not tried again by itself.
    Dead { reason: String },
    /// Maybe published, and not tried again by itself.
    InDoubt { reason: String },
    /// Another attempt is to be made; whether this one counts, and what is in doubt then.
    Retry { at: Timestamp, reason: String, counts: bool, doubt: Doubt },
    /// The profile is held; its posts wait.
    Held { reason: String },
}

impl Ending {
    /// The one place that decides what is made of an attempt.
    pub fn step(self, terms: &Terms) -> Step {
        let Terms { now, attempt, doubt, .. } = *terms;
        match self {
            Self::Answered(Ok(receipt)) | Self::Reconciled(Reconciled::Sent(receipt)) => Step::Delivered(receipt),
            Self::Answered(Err(BroadcastError { failure, reason, retry })) => {
                let reason = cut(reason);
                let again = retry.map(|again| again.from(now));
                match failure {
                    Failure::Permanent => Step::Dead { reason },
                    Failure::Unauthorized => Step::Held { reason },
                    Failure::Unknown if sabotage::is(Switch::UnknownIsFailed) => terms.retry(reason),
                    Failure::Unknown if sabotage::is(Switch::UnknownIsPublished) => Step::Delivered(Receipt::default()),
                    Failure::Unknown => terms.doubtful(reason, again),
                    Failure::Transient => match again.filter(|_| terms.retry.delay(0, attempt).is_some()) {
                        Some(at) => terms.retry_at(at, reason, true),
                        None => terms.retry(reason),
                    },
                    Failure::Throttled(_) | Failure::Snoozed => {
                        let at = again.unwrap_or_else(|| now.after(limits::THROTTLE).ceil_millis());
                        let is_throttled = matches!(failure, Failure::Throttled(_));
                        let least = if is_throttled { limits::THROTTLE_LEAST } else { Duration::ZERO };
                        let at = at.max(now.after(least).ceil_millis());
                        terms.retry_at(at, reason, false)
                    }
                }
            }
            Self::TimedOut { after } => terms.doubtful(format!("no answer within {after:?}"), None),
            Self::Panicked { message } => terms.doubtful(cut(format!("the broadcaster panicked: {message}")), None),
            Self::Reconciled(Reconciled::NotSent) => Step::Dead { reason: terms.before.clone() },
            Self::Reconciled(Reconciled::Unknown) if terms.guarantee == Guarantee::AtMostOnce => {
                Step::InDoubt { reason: terms.before.clone() }
            }
            Self::Reconciled(Reconciled::Unknown) => {
                Step::Dead { reason: cut(format!("it may have been published: {}", terms.before)) }
            }
            Self::Unreconciled(error) if error.failure == Failure::Permanent => {
                Self::Reconciled(Reconciled::Unknown).step(terms)
            }
            Self::Unreconciled(error) if error.failure == Failure::Unauthorized => {
                Step::Held { reason: cut(error.reason) }
            }
            Self::Unreconciled(error) => {
                let delay = || terms.retry.delay(terms.seed, attempt).unwrap_or(limits::THROTTLE);
                let at = error.again(now).unwrap_or_else(|| now.after(delay()).ceil_millis());
                Step::Retry { at, reason: cut(error.reason), counts: false, doubt }
            }
            // What may have been published is not missed.
            Self::TooLate if doubt == Doubt::Open => Step::InDoubt { reason: terms.before.clone() },
            Self::TooLate => Step::Missed { by: now.since(terms.deadline.unwrap_or(now)) },
        }
    }
}

impl Terms {
    /// Not published, as far as this attempt goes: again by the policy, or never.
    fn retry(&self, reason: String) -> Step {
        match self.retry.delay(self.seed, self.attempt) {
            Some(delay) => self.retry_at(self.now.after(delay).ceil_millis(), reason, true),
            None => Step::Dead { reason },
        }
    }

    fn retry_at(&self, at: Timestamp, reason: String, counts: bool) -> Step {
        if self.deadline.is_some_and(|deadline| at > deadline) {
            let by = self.deadline.map_or(Duration::ZERO, |deadline| at.since(deadline));
            return Step::Missed { by };
        }
        if at.since(self.due) > self.retry.age() {
            return Step::Dead { reason };
        }
        // This attempt did not publish; an earlier doubt that the host accepted is settled with it no more than before.
        Step::Retry { at, reason, counts, doubt: self.doubt }
    }

    /// Maybe published: the broadcaster is asked before the next attempt; if there is none, at once.
    fn doubtful(&self, reason: String, again: Option<Timestamp>) -> Step {
        let at_last = if self.doubt == Doubt::Open { limits::THROTTLE } else { Duration::ZERO };
        let delay = self.retry.delay(self.seed, self.attempt).unwrap_or(at_last);
        let at = again.unwrap_or_else(|| self.now.after(delay).ceil_millis());
        Step::Retry { at, reason, counts: true, doubt: Doubt::Open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn terms() -> Terms {
        Terms {
            now: NOW,
            seed: 1,
            attempt: 1,
            retry: RetryPolicy::exponential(Duration::from_secs(1)).max_attempts(2),
            guarantee: Guarantee::AtLeastOnce,
            due: NOW,
            deadline: None,
            doubt: Doubt::None,
            before: "timed out".to_owned(),
        }
    }

    fn failed(error: BroadcastError) -> Ending {
        Ending::Answered(Err(error))
    }

    #[test]
    fn a_receipt_settles_whatever_the_terms_say() {
        let terms = Terms { attempt: 9, deadline: Some(Timestamp::MIN), ..terms() };
        for ending in [Ending::Answered(Ok(Receipt::new("u"))), Ending::Reconciled(Reconciled::Sent(Receipt::new("u")))]
        {
            assert_eq!(ending.step(&terms), Step::Delivered(Receipt::new("u")));
        }
    }

    #[test]
    fn a_transient_failure_is_retried_after_now_until_attempts_are_used_up() {
        match failed(BroadcastError::transient("503")).step(&terms()) {
            Step::Retry { at, counts: true, doubt: Doubt::None, .. } => assert!(at > NOW),
            other => panic!("{other:?}"),
        }
        let last = Terms { attempt: 2, ..terms() };
        assert_eq!(failed(BroadcastError::transient("503")).step(&last), Step::Dead { reason: "503".into() });
        let again = BroadcastError::transient("503").retry_after(Duration::from_secs(7));
        assert_eq!(failed(again.clone()).step(&last), Step::Dead { reason: "503".into() });
        assert!(
            matches!(failed(again).step(&terms()), Step::Retry { at, .. } if at == NOW.after(Duration::from_secs(7)))
        );
    }

    #[test]
    fn no_attempt_is_made_past_the_age_or_the_deadline() {
        let wait = || failed(BroadcastError::transient("503").retry_after(Duration::from_secs(7)));
        let retry = terms().retry.max_age(Duration::from_secs(6));
        assert_eq!(wait().step(&Terms { retry, ..terms() }), Step::Dead { reason: "503".into() });
        let deadline = Some(NOW.after(Duration::from_secs(5)));
        let missed = wait().step(&Terms { deadline, ..terms() });
        assert_eq!(missed, Step::Missed { by: Duration::from_secs(2) });
        assert_eq!(
            Ending::TooLate.step(&Terms { deadline: Some(NOW), ..terms() }),
            Step::Missed { by: Duration::ZERO }
        );
    }

    #[test]
    fn the_last_instant_of_the_age_and_of_the_deadline_counts() {
        let wait = || failed(BroadcastError::transient("503").retry_after(Duration::from_secs(7)));
        let at = NOW.after(Duration::from_secs(7));
        let retry = terms().retry.max_age(Duration::from_secs(7));
        let last = wait().step(&Terms { retry, deadline: Some(at), ..terms() });
        assert!(matches!(last, Step::Retry { at: next, .. } if next == at));
    }

    #[test]
    fn who_could_not_be_asked_is_asked_when_the_network_says_so() {
        let error = BroadcastError::transient("down").retry_after(Duration::from_secs(40));
        let expected = NOW.after(Duration::from_secs(40));
        for attempt in [1, 99] {
            let step = Ending::Unreconciled(error.clone()).step(&Terms { attempt, doubt: Doubt::Open, ..terms() });
            assert!(matches!(step, Step::Retry { at, counts: false, doubt: Doubt::Open, .. } if at == expected));
        }
    }

    #[test]
    fn what_is_throttled_waits_as_long_as_was_said_and_for_a_while_at_least() {
        let (pool, error) = (Scope::Pool, || BroadcastError::throttled("429"));
        let after = |millis| NOW.after(Duration::from_millis(millis));
        assert_eq!(error().throttles(NOW), Some((Scope::Profile, NOW.after(limits::THROTTLE))));
        let said = error().retry_after(Duration::from_secs(90)).scope(pool);
        assert_eq!(said.throttles(NOW), Some((pool, after(90_000))));
        let past = error().retry_at(Timestamp::MIN.to_datetime());
        assert_eq!(past.throttles(NOW), Some((Scope::Profile, NOW.after(limits::THROTTLE_LEAST))));
        assert_eq!(BroadcastError::transient("503").retry_after(Duration::from_secs(90)).throttles(NOW), None);
    }

    #[test]
    fn only_what_the_network_did_not_do_speaks_against_it() {
        let answered = |error: BroadcastError| Ending::Answered(Err(error)).is_healthy();
        let asked = |error: BroadcastError| Ending::Unreconciled(error).is_healthy();
        assert_eq!(Ending::Answered(Ok(Receipt::default())).is_healthy(), Some(true));
        for said in [BroadcastError::permanent("p"), BroadcastError::throttled("t"), BroadcastError::unauthorized("a")]
        {
            assert_eq!(answered(said), Some(true));
        }
        for failed in [BroadcastError::transient("503"), BroadcastError::unknown("lost")] {
            assert_eq!((answered(failed.clone()), asked(failed)), (Some(false), Some(false)));
        }
        assert_eq!(asked(BroadcastError::permanent("p")), Some(true));
        assert_eq!(Ending::TimedOut { after: Duration::ZERO }.is_healthy(), Some(false));
        assert_eq!((Ending::TooLate.is_healthy(), Ending::Reconciled(Reconciled::NotSent).is_healthy()), (None, None));
    }

    #[test]
    fn an_error_says_what_it_is_and_why() {
        let kinds = [BroadcastError::transient("x"), BroadcastError::unknown("x"), BroadcastError::permanent("x")];
        assert_eq!(
            kinds.each_ref().map(|e| (e.is_transient(), e.is_unknown())),
            [(true, false), (false, true), (false, false)]
        );
        assert!(kinds.iter().all(|error| error.to_string() == "x" && error.reason() == "x"));
    }

    #[test]
    fn a_permanent_failure_is_a_dead_letter_at_once() {
        assert_eq!(failed(BroadcastError::permanent("gone")).step(&terms()), Step::Dead { reason: "gone".into() });
    }

    #[test]
    fn throttled_and_snoozed_count_no_attempt_and_wait_as_long_as_was_said() {
        let until = NOW.after(Duration::from_secs(90));
        let last = Terms { attempt: 99, ..terms() };
        for error in [
            BroadcastError::throttled("429").retry_after(Duration::from_secs(90)),
            BroadcastError::throttled("429").retry_at(until.to_datetime()),
            BroadcastError::snooze(until.to_datetime(), "later"),
        ] {
            assert!(matches!(failed(error).step(&last), Step::Retry { at, counts: false, .. } if at == until));
        }
        let without = failed(BroadcastError::throttled("429")).step(&last);
        assert!(matches!(without, Step::Retry { at, counts: false, .. } if at > NOW));
        let past = BroadcastError::throttled("429").retry_at(Timestamp::from_millis(1).to_datetime());
        let least = NOW.after(limits::THROTTLE_LEAST);
        assert!(matches!(failed(past).step(&last), Step::Retry { at, .. } if at == least));
        let far = BroadcastError::throttled("429").retry_after(Duration::MAX);
        assert!(matches!(failed(far).step(&last), Step::Retry { at, .. } if at == NOW.after(limits::RETRY_AHEAD)));
    }

    #[test]
    fn what_a_broadcaster_says_is_cut_between_two_characters() {
        let long = "é".repeat(5_000);
        assert!(Receipt::new(&*long).as_str().len() <= limits::TEXT_BYTES);
        match failed(BroadcastError::permanent(format!("x{long}"))).step(&terms()) {
            Step::Dead { reason } => assert_eq!(reason.len(), limits::TEXT_BYTES - 1),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_with_its_causes_becomes_one_of_unknown_outcome() {
        let io = std::io::Error::other("broken pipe");
        let error: BroadcastError = io.into();
        assert!(error.is_unknown() && !error.is_transient());
        assert_eq!(error.reason(), "broken pipe");
    }

    fn ending() -> impl Strategy<Value = Ending> {
        let error = prop_oneof![
            Just(BroadcastError::transient("t")),
            Just(BroadcastError::permanent("p")),
            Just(BroadcastError::unknown("u")),
            Just(BroadcastError::throttled("r").retry_after(Duration::from_secs(3))),
            Just(BroadcastError::unauthorized("a")),
            Just(BroadcastError::snooze(Timestamp::from_millis(9_000).to_datetime(), "s")),
        ];
        prop_oneof![
            Just(Ending::Answered(Ok(Receipt::default()))),
            error.prop_map(|error| Ending::Answered(Err(error))),
            Just(Ending::TimedOut { after: Duration::from_secs(1) }),
            Just(Ending::Panicked { message: "x".into() }),
            Just(Ending::Reconciled(Reconciled::Sent(Receipt::default()))),
            Just(Ending::Reconciled(Reconciled::NotSent)),
            Just(Ending::Reconciled(Reconciled::Unknown)),
            Just(Ending::Unreconciled(BroadcastError::transient("down"))),
            Just(Ending::TooLate),
        ]
    }

    proptest! {
        /// Whatever an attempt that may have published says, the next one knows that it may be a repeat, or there is
        /// no next one; and an attempt that surely did not publish never makes a doubt.
        #[test]
        fn a_doubt_is_never_dropped_and_never_made_up(
            ending in ending(), attempt in 1u32..4, at_most_once: bool, doubtful: bool,
        ) {
            let guarantee = if at_most_once { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce };
            let doubt = if doubtful { Doubt::Open } else { Doubt::None };
            let terms = Terms { attempt, guarantee, doubt, ..terms() };
            let is_unclear = matches!(ending, Ending::TimedOut { .. } | Ending::Panicked { .. })
                || matches!(&ending, Ending::Answered(Err(error)) if error.is_unknown());
            match ending.step(&terms) {
                Step::Retry { at, doubt: then, .. } => {
                    prop_assert!(at >= NOW);
                    prop_assert_eq!(then == Doubt::Open, is_unclear || doubtful);
                }
                Step::InDoubt { .. } => prop_assert!(doubtful || at_most_once),
                Step::Missed { .. } => prop_assert!(!doubtful),
                _ => prop_assert!(!is_unclear),
            }
        }
    }
}
