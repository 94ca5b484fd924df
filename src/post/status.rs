//! What a host can read of a post.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{PostId, State};

use super::{Outcome, Record};

/// What is known of a post at this moment. `Debug` never shows the payload.
#[derive(Clone)]
pub struct Status {
    pub(crate) id: PostId,
    pub(crate) pool: Arc<str>,
    pub(crate) record: Record,
    pub(crate) state: State,
    pub(crate) outcome: Option<Outcome>,
}

impl Status {
    /// The post's id.
    pub fn id(&self) -> PostId {
        self.id
    }

    /// The pool it goes to.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The profile it belongs to; empty if it has none.
    pub fn profile(&self) -> &str {
        self.record.body.profile()
    }

    /// The host's own name for it.
    pub fn key(&self) -> Option<&str> {
        self.record.body.key()
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.record.body.payload()
    }

    /// The instant at which it is promised, to the millisecond.
    pub fn due(&self) -> DateTime<Utc> {
        self.record.due.to_datetime()
    }

    /// The instant of its next attempt: its due before the first, later after a failure.
    pub fn next_attempt(&self) -> DateTime<Utc> {
        self.record.at.to_datetime()
    }

    /// How many attempts have ended.
    pub fn attempts(&self) -> u32 {
        self.record.attempts
    }

    /// How often its due has been changed.
    pub fn revision(&self) -> u32 {
        self.record.revision
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// What finally came of it, once [`state`](Self::state) is final.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status")
            .field("id", &self.id)
            .field("pool", &self.pool)
            .field("profile", &self.profile())
            .field("key", &self.key())
            .field("due", &self.due())
            .field("state", &self.state)
            .field("attempts", &self.attempts())
            .field("outcome", &self.outcome)
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// How a host names a post: by its [`PostId`], or by the key that the host gave it (`&str` or `String`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum PostRef {
    /// By id.
    Id(PostId),
    /// By the host's own key.
    Key(String),
}

impl From<PostId> for PostRef {
    fn from(id: PostId) -> Self {
        Self::Id(id)
    }
}

impl From<&str> for PostRef {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<&String> for PostRef {
    fn from(key: &String) -> Self {
        Self::Key(key.clone())
    }
}

impl From<String> for PostRef {
    fn from(key: String) -> Self {
        Self::Key(key)
    }
}

impl fmt::Display for PostRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Key(key) => write!(f, "with key {key:?}"),
        }
    }
}
