//! The vocabulary: what the host hands in, what the store keeps, what the broadcaster gets, what came of it.

mod body;
mod campaign;
mod change;
mod delivery;
mod doubt;
mod event;
mod notes;
mod outcome;
mod queued;
mod series;
mod shelf;
mod status;

pub use body::Body;
pub use campaign::CampaignStatus;
pub use change::{Called, Change, Claimed, Cursor, Found, Home, Page, Record, Stored, Verdict};
pub use delivery::{Delivery, Prepared};
pub(crate) use delivery::{Facts, Line, Stage, Task, Wire};
pub use doubt::{Doubt, Guarantee, Reconciled, Resolution};
pub use event::Event;
pub use notes::{Noted, Notes, Ready};
pub use outcome::{BroadcastError, Ending, Outcome, Receipt, Step, Terms};
pub(crate) use outcome::{Failure, cut};
pub use queued::{QueueStatus, QueuedPost};
pub use series::{Misfire, SeriesStatus};
pub use shelf::Shelf;
pub(crate) use status::Name;
pub use status::{PostRef, Status};

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeZone, Utc};

use crate::retry::RetryPolicy;
use crate::schedule::LocalTime;

/// Which of the posts that are due goes first, within one pool.
///
/// A post that waits gains 64 points a minute, the step from [`LOW`](Self::LOW) to [`NORMAL`](Self::NORMAL) and from
/// `NORMAL` to [`HIGH`](Self::HIGH): a `LOW` post that has waited two minutes longer goes before a `HIGH` one. Within one
/// priority the profiles take turns, then the earlier due goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Priority(u8);

impl Priority {
    /// Goes last.
    pub const LOW: Self = Self(64);
    /// The default.
    pub const NORMAL: Self = Self(128);
    /// Goes first.
    pub const HIGH: Self = Self(192);

    /// Any of 256 priorities; a larger number goes first. `NORMAL` is 128.
    pub const fn new(priority: u8) -> Self {
        Self(priority)
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// What the host schedules: a payload, the pool it goes to, and when.
///
/// A post is due now unless [`at`](Self::at) says otherwise.
///
/// ```
/// use punctual::{Post, Priority};
///
/// let eight = "2030-01-07T08:00:00Z".parse::<chrono::DateTime<chrono::Utc>>()?;
/// let post = Post::new("mastodon", "Good morning")
///     .at(eight)
///     .profile("@bakery@example.social")
///     .key("campaign-17/post-3")
///     .priority(Priority::HIGH);
/// # Ok::<(), chrono::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "a post does nothing until it is scheduled"]
pub struct Post {
    pub(crate) pool: String,
    pub(crate) payload: Bytes,
    pub(crate) due: Option<DateTime<Utc>>,
    pub(crate) or_now: bool,
    pub(crate) profile: String,
    pub(crate) key: Option<String>,
    pub(crate) priority: Priority,
    pub(crate) in_order: bool,
    /// What follows the payload, if the post is a thread.
    pub(crate) parts: Vec<Bytes>,
    pub(crate) expires_after: Option<Duration>,
    pub(crate) not_later_than: Option<DateTime<Utc>>,
    pub(crate) guarantee: Option<Guarantee>,
    pub(crate) lead: Option<Duration>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) local: Option<LocalTime>,
    pub(crate) campaign: Option<String>,
}

impl Post {
    /// A post for the pool of this name, due now. The payload is yours: the engine stores it and hands it to
    /// the broadcaster as it is, and never prints it.
    pub fn new(pool: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            pool: pool.into(),
            payload: Bytes::from(payload.into()),
            due: None,
            or_now: false,
            profile: String::new(),
            key: None,
            priority: Priority::NORMAL,
            in_order: false,
            parts: Vec::new(),
            expires_after: None,
            not_later_than: None,
            guarantee: None,
            lead: None,
            retry: None,
            local: None,
            campaign: None,
        }
    }

    /// Makes the post a thread, or a longer one: this part follows when the one before it is published, and gets the
    /// receipts of all before it. The parts go out in order; one that fails stops the rest, and a restart or
    /// [`Scheduler::resolve`](crate::Scheduler::resolve) goes on with the part that is next. At most 1,024
    /// parts, each within the limit of a payload, and 4 MiB together: the whole post is written anew with each receipt.
    ///
    /// ```
    /// use punctual::Post;
    ///
    /// let thread = Post::new("mastodon", "1/3 …").then("2/3 …").then("3/3 …");
    /// ```
    pub fn then(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.parts.push(Bytes::from(payload.into()));
        self
    }

    /// Useless later than so long after its due: it is [`Outcome::Missed`] then, and never sent. Give it seconds at least: a
    /// post that is milliseconds late is late. The limit moves along
    /// when the post gets another due. Not for parts of a thread that has begun.
    pub fn expires_after(mut self, grace: Duration) -> Self {
        self.expires_after = Some(grace);
        self
    }

    /// Useless after this instant, whatever its due is: [`Outcome::Missed`] then, and never sent.
    pub fn not_later_than<Z: TimeZone>(mut self, instant: DateTime<Z>) -> Self {
        self.not_later_than = Some(instant.to_utc());
        self
    }

    /// What is to be done when it is not known whether this post was published. Default: what its pool says.
    pub fn guarantee(mut self, guarantee: Guarantee) -> Self {
        self.guarantee = Some(guarantee);
        self
    }

    /// When this post is tried again. Default: what its pool says.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// How long before its due this post is prepared; zero for not at all. Default: what its pool says. Without effect
    /// in a pool that does not prepare.
    pub fn prepare_ahead(mut self, lead: Duration) -> Self {
        self.lead = Some(lead);
        self
    }

    /// Due at this instant, given in any zone. It is kept to the millisecond, rounded up, so that the post is
    /// never early. An instant less than a minute ago is taken as now; one longer ago is refused
    /// ([`Error::DuePast`](crate::Error::DuePast)), unless [`or_now`](Self::or_now) is called; so is one
    /// outside the years 1970 to 9999 (UTC).
    pub fn at<Z: TimeZone>(mut self, due: DateTime<Z>) -> Self {
        (self.due, self.local) = (Some(due.to_utc()), None);
        self
    }

    /// Due at this local time. What was said is kept: the instant is derived from it, and derived again when the store is
    /// opened with other zone data. The rules of [`at`](Self::at) hold for the instant; a local time that its
    /// [`Disambiguation`](crate::Disambiguation) rejects is refused ([`Error::Schedule`](crate::Error::Schedule)).
    ///
    /// ```
    /// use punctual::{LocalTime, Post, zone};
    ///
    /// let time = "2027-03-28T08:00:00".parse()?;
    /// let post = Post::new("mastodon", "Good morning").at_local(LocalTime::new(time, zone("Europe/Berlin")?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn at_local(mut self, due: LocalTime) -> Self {
        (self.due, self.local) = (None, Some(due));
        self
    }

    /// If the due is long past already, send at once instead of refusing.
    pub fn or_now(mut self) -> Self {
        self.or_now = true;
        self
    }

    /// The account on a network that the post is published for: the unit of order and fairness. At most 255
    /// bytes. Default: none; such posts are spread over the pool's shards.
    pub fn profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = profile.into();
        self
    }

    /// A name of your own for this post, 1 to 255 bytes, unique within the store. Scheduling the same key and
    /// content again returns the same id; other content is refused
    /// ([`Error::Conflict`](crate::Error::Conflict)). So a host that lost the answer can simply ask again.
    /// A key is remembered as long as its post is, also if that was cancelled: until the retention after its
    /// outcome.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Goes before posts of lower priority that are due and still wait in the pool.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Goes out after every post of the same profile that asks for order too and has an earlier due, and never beside
    /// one: a post that waits for its next attempt holds up those behind it until it is published, dead, missed, in
    /// doubt or cancelled. Without a profile this has no effect.
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post")
            .field("pool", &self.pool)
            .field("profile", &self.profile)
            .field("key", &self.key)
            .field("due", &self.due)
            .field("priority", &self.priority)
            .field("in_order", &self.in_order)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}
