//! What a host can read of a series, and chooses for it.

use chrono::{DateTime, Utc};

use crate::schedule::Schedule;

/// What is done with occurrences of a series that passed while nothing could be planned: while no scheduler ran, or when the
/// wall clock jumped forward. What is planned late is late as other posts are: see [`CatchUp`](crate::CatchUp) and
/// [`Post::expires_after`](crate::Post::expires_after).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Misfire {
    /// All of them are planned.
    #[default]
    All,
    /// Only the latest of them is planned.
    Latest,
    /// None of them, if it is more than a minute late.
    Skip,
}

/// A series at this moment.
#[derive(Clone, PartialEq, Debug)]
pub struct SeriesStatus {
    pub(crate) schedule: Schedule,
    pub(crate) pool: String,
    pub(crate) next: Option<DateTime<Utc>>,
    pub(crate) planned: u64,
}

impl SeriesStatus {
    /// When its posts are due.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The pool that its posts go to.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The due of its next post; `None` if there is none any more.
    pub fn next(&self) -> Option<DateTime<Utc>> {
        self.next
    }

    /// How many posts have been planned so far. They are planned a minute ahead, and as long as they are prepared ahead.
    pub fn planned(&self) -> u64 {
        self.planned
    }
}
