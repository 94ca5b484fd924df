//! What a host can read of a queue.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::id::PostId;
use crate::schedule::PostingSlots;

/// A profile's queue at this moment.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueStatus {
    pub(crate) slots: PostingSlots,
    pub(crate) is_paused: bool,
    pub(crate) warn_ahead: Duration,
    pub(crate) posts: Vec<QueuedPost>,
}

/// A post in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueuedPost {
    /// Which.
    pub id: PostId,
    /// The slot that it will take if nothing changes; `None` while the queue is paused, and where its slots end.
    pub due: Option<DateTime<Utc>>,
}

impl QueueStatus {
    /// The slots that its posts take.
    pub fn slots(&self) -> &PostingSlots {
        &self.slots
    }

    /// Whether it is paused: slots pass, and no post takes one.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// It is said when the last post's slot is nearer than this; zero: never.
    pub fn warn_ahead(&self) -> Duration {
        self.warn_ahead
    }

    /// The posts that wait, in their order. Their positions count from 0.
    pub fn posts(&self) -> &[QueuedPost] {
        &self.posts
    }
}
