//! What a host can watch.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::id::PostId;

use super::Outcome;

/// Something that happened. Whatever an event reports of a post is durable already.
#[derive(Clone, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// A post was stored.
    Scheduled {
        /// Which.
        id: PostId,
        /// When it is promised.
        due: DateTime<Utc>,
    },
    /// A post was given another due.
    Rescheduled {
        /// Which.
        id: PostId,
        /// When it is promised now.
        due: DateTime<Utc>,
    },
    /// An attempt failed and another will be made.
    Retrying {
        /// Which.
        id: PostId,
        /// The number of the attempt that failed, from 1.
        attempt: u32,
        /// When the next one is made.
        at: DateTime<Utc>,
        /// What the broadcaster said.
        reason: String,
    },
    /// A post is finished.
    Settled {
        /// Which.
        id: PostId,
        /// What came of it.
        outcome: Outcome,
        /// How many attempts were made.
        attempts: u32,
        /// From its due to the call of the broadcaster in the last attempt; `None` if it was never called.
        lateness: Option<Duration>,
    },
    /// The wall clock stepped against the monotonic one by this many microseconds, forward or back.
    ClockStepped {
        /// Positive: forward.
        by_micros: i64,
    },
    /// A commit has not come back for this long: nothing more is claimed until it does.
    StoreStalled {
        /// How long.
        stalled: Duration,
    },
    /// The stalled commit came back.
    StoreResumed,
    /// The store failed for good; nothing more is sent. Open it anew.
    StoreFailed {
        /// Why.
        reason: String,
    },
}
