//! What a broadcaster gets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use chrono::{DateTime, Utc};

use crate::id::PostId;
use crate::time::Timestamp;

use super::Body;

/// One hand-over of a post to its broadcaster. Cheap to clone; `Debug` never shows the payload.
#[derive(Clone)]
pub struct Delivery(Arc<Facts>);

/// What there is to know of a delivery; shared, so that queues move a pointer.
pub(crate) struct Facts {
    pub id: PostId,
    /// Where the engine keeps the post.
    pub slot: u32,
    pub pool: Arc<str>,
    pub due: Timestamp,
    /// When this attempt was to be made; not before, by any clock.
    pub at: Timestamp,
    pub attempt: u32,
    pub maybe_sent: bool,
    pub body: Body,
    pub stage: Stage,
}

/// Whether the broadcaster has been called. Called or withdrawn, never both: whoever comes first decides.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU8);

const WAITING: u8 = 0;
const CALLED: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Stage {
    /// The broadcaster is about to be called; false if the delivery has been withdrawn.
    pub fn call(&self) -> bool {
        self.0.compare_exchange(WAITING, CALLED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The broadcaster shall not be called any more; false if it has been.
    pub fn withdraw(&self) -> bool {
        self.0.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Delivery {
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.0
    }

    /// The post's id.
    pub fn id(&self) -> PostId {
        self.0.id
    }

    /// The pool it was scheduled for.
    pub fn pool(&self) -> &str {
        &self.0.pool
    }

    /// The profile it belongs to; empty if it has none.
    pub fn profile(&self) -> &str {
        self.0.body.profile()
    }

    /// The host's own name for it.
    pub fn key(&self) -> Option<&str> {
        self.0.body.key()
    }

    /// The payload as it was scheduled.
    pub fn payload(&self) -> &[u8] {
        self.0.body.payload()
    }

    /// The instant at which it was promised; the same in every attempt.
    pub fn due(&self) -> DateTime<Utc> {
        self.0.due.to_datetime()
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Whether an earlier attempt may have published the post already: the process died after the post had been
    /// handed over to its pool, or the pool's timeout passed, or the broadcaster panicked, before an outcome was
    /// known. If the network can be asked, ask it.
    pub fn is_redelivery(&self) -> bool {
        self.0.maybe_sent
    }

    /// A text of 32 hexadecimal digits for networks that take an idempotency key: the same in every attempt
    /// and after every restart, different for every post of every store.
    pub fn idempotency_key(&self) -> String {
        self.0.id.to_string()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.0.id)
            .field("pool", &self.0.pool)
            .field("profile", &self.profile())
            .field("due", &self.due())
            .field("attempt", &self.0.attempt)
            .field("is_redelivery", &self.0.maybe_sent)
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Stage;

    #[test]
    fn a_delivery_is_called_or_withdrawn_and_never_both() {
        let (called, withdrawn) = (Stage::default(), Stage::default());
        assert!(called.call() && !called.withdraw() && !called.call());
        assert!(withdrawn.withdraw() && !withdrawn.call());
    }
}
