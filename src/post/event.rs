//! What a host can watch.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::id::PostId;

use crate::quota::Scope;

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
    /// A post was put into its profile's queue.
    Queued {
        /// Which.
        id: PostId,
        /// The profile.
        profile: String,
    },
    /// The slot of the last post of a queue has come: nothing waits in it any more.
    QueueEmpty {
        /// The pool.
        pool: String,
        /// The profile.
        profile: String,
    },
    /// The slot of the last post of a queue is nearer than it should be ([`Queue::warn_ahead`](crate::Queue::warn_ahead)).
    QueueLow {
        /// The pool.
        pool: String,
        /// The profile.
        profile: String,
        /// How many posts wait.
        left: usize,
        /// The slot of the last one.
        last: DateTime<Utc>,
    },
    /// A series has come to its end, or the host has ended it.
    SeriesEnded {
        /// Its key.
        key: String,
    },
    /// A post was given another due; one that waited in a queue, its slot.
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
    /// The host gave a post another payload.
    Edited {
        /// Which.
        id: PostId,
    },
    /// A broadcaster has said how far it has got.
    Progress {
        /// Which.
        id: PostId,
        /// The attempt under way, from 1.
        attempt: u32,
        /// What it said.
        text: String,
    },
    /// A part of a thread was published; the next one follows.
    PartDelivered {
        /// Which thread.
        id: PostId,
        /// The part, from 0.
        part: usize,
        /// What the network calls it.
        receipt: String,
    },
    /// A post has been made ready ahead of its due.
    Prepared {
        /// Which.
        id: PostId,
    },
    /// A post could not be made ready.
    PrepareFailed {
        /// Which.
        id: PostId,
        /// What the broadcaster said.
        reason: String,
        /// When it is tried again; `None`: it goes out as it is.
        again: Option<DateTime<Utc>>,
    },
    /// Nobody knows whether a post was published, and its guarantee is at most once: it is held until the host says
    /// what is true ([`Scheduler::resolve`](crate::Scheduler::resolve)).
    InDoubt {
        /// Which.
        id: PostId,
        /// What left it in doubt.
        reason: String,
    },
    /// The broadcaster or the host said what became of a post that was in doubt: to be sent again, or see the
    /// following [`Settled`](Self::Settled).
    Resolved {
        /// Which.
        id: PostId,
    },
    /// A network said that there is too much; what is in this scope waits.
    Throttled {
        /// The pool.
        pool: String,
        /// The profile, if that is the scope.
        profile: String,
        /// What waits.
        scope: Scope,
        /// Until when.
        until: DateTime<Utc>,
    },
    /// A profile is held: its posts wait until the host releases it.
    ProfileHeld {
        /// The pool.
        pool: String,
        /// The profile.
        profile: String,
        /// Why.
        reason: String,
    },
    /// A held profile was released; what waited goes out.
    ProfileReleased {
        /// The pool.
        pool: String,
        /// The profile.
        profile: String,
    },
    /// A pool is paused: its posts wait.
    PoolPaused {
        /// The pool.
        pool: String,
    },
    /// A paused pool goes on.
    PoolResumed {
        /// The pool.
        pool: String,
    },
    /// So many attempts of a pool failed one after the other that it stops for a while: its breaker opened.
    BreakerOpened {
        /// The pool.
        pool: String,
        /// When one attempt is made to see whether the network is back.
        probe_at: DateTime<Utc>,
    },
    /// The network is back: the breaker closed.
    BreakerClosed {
        /// The pool.
        pool: String,
    },
    /// A post is finished, or it has failed and is a dead letter now. It is said once; again only of one that was sent
    /// again, or was found to be published after all.
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
    /// The store has not answered for this long: nothing more is claimed until it does.
    StoreStalled {
        /// How long.
        stalled: Duration,
    },
    /// The store has answered again.
    StoreResumed,
    /// The store failed for good; nothing more is sent. Open it anew.
    StoreFailed {
        /// Why.
        reason: String,
    },
}
