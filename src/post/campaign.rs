//! What a host can read of a campaign.

use chrono::{DateTime, Utc};

/// How far a campaign has got. Every post is counted once: `scheduled` is the sum of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CampaignStatus {
    /// Whether it was cancelled.
    pub is_cancelled: bool,
    /// Posts that were scheduled.
    pub scheduled: u64,
    /// Those that are delivered.
    pub delivered: u64,
    /// Those that failed: dead letters, until they are sent again.
    pub failed: u64,
    /// Those that were missed.
    pub missed: u64,
    /// Those that were cancelled, one by one or with the campaign.
    pub cancelled: u64,
    /// Those of which nothing is settled yet.
    pub left: u64,
    /// The last due of any of them, as they were scheduled: when the campaign is expected to end.
    pub last_due: Option<DateTime<Utc>>,
}
