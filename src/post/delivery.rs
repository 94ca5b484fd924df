//! What a broadcaster gets.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::PostId;
use crate::time::Timestamp;

use super::Body;

/// One hand-over of a post to its broadcaster. Cheap to clone; `Debug` never shows the payload.
#[derive(Clone)]
pub struct Delivery {
    pub(crate) id: PostId,
    /// Where the engine keeps the post.
    pub(crate) slot: u32,
    pub(crate) pool: Arc<str>,
    pub(crate) due: Timestamp,
    pub(crate) at: Timestamp,
    pub(crate) attempt: u32,
    pub(crate) maybe_sent: bool,
    pub(crate) body: Body,
}

impl Delivery {
    /// The post's id.
    pub fn id(&self) -> PostId {
        self.id
    }

    /// The pool it was scheduled for.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The profile it belongs to; empty if it has none.
    pub fn profile(&self) -> &str {
        self.body.profile()
    }

    /// The host's own name for it.
    pub fn key(&self) -> Option<&str> {
        self.body.key()
    }

    /// The payload as it was scheduled.
    pub fn payload(&self) -> &[u8] {
        self.body.payload()
    }

    /// The instant at which it was promised; the same in every attempt.
    pub fn due(&self) -> DateTime<Utc> {
        self.due.to_datetime()
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether an earlier attempt may have published the post already: the process died, the pool's timeout
    /// passed or the broadcaster panicked before an outcome was known. If the network can be asked, ask it.
    pub fn is_redelivery(&self) -> bool {
        self.maybe_sent
    }

    /// A text of 32 hexadecimal digits for networks that take an idempotency key: the same in every attempt
    /// and after every restart, different for every post of every store.
    pub fn idempotency_key(&self) -> String {
        self.id.to_string()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id)
            .field("pool", &self.pool)
            .field("profile", &self.profile())
            .field("due", &self.due())
            .field("attempt", &self.attempt)
            .field("is_redelivery", &self.maybe_sent)
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}
