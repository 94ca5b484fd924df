//! A high-precision post scheduling engine to embed: posts go out exactly when they were promised.
//!
//! A service that publishes for its customers (social posts, newsletters, notifications) links this crate, hands
//! in posts with a due time, and `punctual` calls the service's broadcaster for each at that moment: durably, on
//! time, once. There is no server, no broker and no polling: a timing wheel, a durable store on the local disk,
//! and a pool of dedicated workers for each network.
//!
//! ```no_run
#![doc = include_str!("../examples/hello.rs")]
//! ```
//!
//! # Six words
//!
//! | word | meaning |
//! |---|---|
//! | [`Post`] | what the host schedules: a payload, the pool it goes to, the profile it belongs to, when |
//! | due | the instant at which it is promised |
//! | [`Pool`] | the dedicated workers of one network or kind of post |
//! | [`Broadcaster`] | the host's code that publishes one post; closures will do |
//! | [`Delivery`] | one hand-over of a post to its broadcaster |
//! | [`Outcome`] | what finally came of the post |
//!
//! # What is promised
//!
//! 1. **Never early**, by the wall clock that the engine reads. A due is kept to the millisecond, rounded up.
//! 2. **Never lost.** After [`Scheduler::schedule`] said `Ok`, the post is delivered, fails with a reason, is missed by
//!    a deadline of yours, is cancelled, or is in doubt and says so, whatever is killed in between, power included.
//! 3. **Never silently twice.** A claim is durable before each hand-over, so the engine knows which posts may have been
//!    published without an answer: no others are [in doubt](guide::doubt). Your broadcaster can ask the network about
//!    them. What stays unknown is sent again with [`Delivery::is_redelivery`] set and the same
//!    [`Delivery::idempotency_key`], or, if you choose [`Guarantee::AtMostOnce`], held for you to decide.
//! 4. **What you change holds.** A confirmed cancel, edit or reschedule is durable and wins against the due, however
//!    close that is; what comes too late is told so.
//! 5. **On time.** Claims are written ahead of the due, payloads are in memory: between the due and the
//!    broadcaster there is no disk.
//! 6. **Bounded.** Memory follows the [`horizon`](Builder::horizon) and the [`memory`](Builder::memory) given,
//!    not the number of posts scheduled. Every queue has a limit, and full is an answer
//!    ([`Error::Overloaded`]).
//!
//! # It is not
//!
//! - a distributed queue: one process at a time uses a store;
//! - exactly-once publishing: no engine can promise that across a network that may have published and not
//!   answered. It tells you which posts these are, and you choose between a possible repeat and a question;
//! - a job queue: what it calls is the broadcaster of a network, and its tries, limits and doubts are about publishing.
//!
//! # When
//!
//! [`Post::at`] takes an instant in any zone. Without it a post is due now. One that is due within the
//! [`claim_ahead`](Builder::claim_ahead) is claimed in the commit that stores it and handed over right after.
//! [`Post::expires_after`] and [`Post::not_later_than`] say when it is of no use any more; [`CatchUp`] says what is done
//! with posts that fell due while nobody could send them.
//!
//! People say it otherwise: [`Post::at_local`] takes a local time in a zone and keeps it as it was said. A [`Queue`] lets a
//! profile's posts take its weekly [`PostingSlots`], in an order that changes. A [`Series`] is a post that is due again and
//! again, by a [`Schedule`]: slots, a [`Recurrence`] of RFC 5545, [`Cron`]. A [`Campaign`] is counted and cancelled as one,
//! and [`Pacing`] spreads it over hours. All of these rules are pure, and can be asked for what comes without a scheduler.
//!
//! # Who
//!
//! Each [`Pool`] has threads, a tokio runtime, a concurrency, a timeout, a retry policy and limits of its own; one stuck
//! network cannot delay another. What is due waits in the pool's ready queue: by [`Priority`], which rises with waiting;
//! then profile by profile in turns, so that one with many posts does not hold up one with few; then the earliest due.
//! Posts of one profile that ask for it ([`Post::in_order`]) go out strictly one after the other, also when one of them
//! has to be tried again.
//!
//! # When it goes wrong
//!
//! - A broadcaster's answer says what is done: see [`BroadcastError`]. An error that comes by `?` is an unknown outcome,
//!   as a panic, a timeout and a crash are: the post is in doubt, and is asked about before it is sent again. What was
//!   certainly not published is [`transient`](BroadcastError::transient) and tried again by the [`RetryPolicy`].
//! - After the last attempt, or one that is refused for good, the post is a dead letter ([`Outcome::Failed`]): listed by
//!   [`Scheduler::dead_letters`], to be edited, sent again or dropped.
//! - The wall clock may step. Forward, what became due goes out; back, nothing is sent early or twice.
//! - A store that does not answer for [`stall_after`](Builder::stall_after) refuses new posts
//!   ([`Error::StoreStalled`]) and claims nothing more until it does.
//! - A store that fails is not used again; everything acknowledged is there when it is opened anew.
//!   [`StoreError`] lists what can be wrong with one.
//!
//! # The guide
//!
//! | page | about |
//! |---|---|
//! | [`doubt`](guide::doubt) | unknown outcomes: guarantees, asking the network, checkpoints, idempotency keys |
//! | [`changes`](guide::changes) | cancel, reschedule, edit, publish now; revisions |
//! | [`retries`](guide::retries) | what a broadcaster can answer, retry policies, dead letters, held profiles |
//! | [`deadlines`](guide::deadlines) | deadlines of posts, catching up after downtime, timeouts |
//! | [`limits`](guide::limits) | rate limits of profiles, pools and accounts; throttles |
//! | [`order`](guide::order) | posts in order, threads |
//! | [`fairness`](guide::fairness) | turns between profiles, priorities that age |
//! | [`breaker`](guide::breaker) | networks that are down, pausing a pool |
//! | [`prepare`](guide::prepare) | uploads ahead of the due |
//! | [`queues`](guide::queues) | posting slots, queues of profiles |
//! | [`series`](guide::series) | series, campaigns |
//! | [`long_work`](guide::long_work) | heartbeats, progress, shutting down, late outcomes |
//!
//! # Testing your code
//!
//! Give the builder a [`ManualClock`] and a [`MemoryStore`]: time then moves when the test says so, and
//! [`Scheduler::settle`] waits until everything that is due has been done. No test needs to sleep.
//!
//! # Watching
//!
//! [`Scheduler::events`] streams what happens, [`Scheduler::get`] tells what is known of a post, and
//! [`Scheduler::outcome`] waits for its end.
//!
//! # Crate features
//!
//! - `serde`: `Serialize` and `Deserialize` for ids, outcomes and events.
//! - `test-util`: the crate's own simulation and fuzz targets; no part of the API.
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::dbg_macro,
    clippy::todo,
    clippy::unimplemented,
    clippy::disallowed_methods
)]

mod catch_up;
mod clock;
mod committer;
mod driver;
mod engine;
mod error;
// Not a part of the API: public for the targets in `fuzz/` alone.
#[cfg(any(test, feature = "test-util"))]
#[doc(hidden)]
pub mod fuzz;
mod gate;
pub mod guide;
mod id;
mod inbox;
#[cfg(all(test, any(interleave = "loom", interleave = "shuttle")))]
mod interleavings;
mod limits;
mod marks;
mod pool;
mod post;
mod queue;
mod quota;
mod reply;
mod retry;
mod sabotage;
mod schedule;
mod scheduler;
mod shard;
// Not a part of the API: public for the example `simulate` alone.
#[cfg(any(test, feature = "test-util"))]
#[doc(hidden)]
pub mod sim;
mod store;
mod sync;
mod time;
// Not a part of the API: public for the benches alone.
#[doc(hidden)]
pub mod wheel;
mod worker;

pub use catch_up::CatchUp;
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, Result, StoreError};
pub use gate::{Account, Breaker};
pub use id::{ParseIdError, PostId, State};
pub use pool::{Broadcaster, Pool, PrepareAhead};
pub use post::{
    BroadcastError, CampaignStatus, Delivery, Event, Guarantee, Misfire, Outcome, Post, PostRef, Prepared, Priority,
    QueueStatus, QueuedPost, Receipt, Reconciled, Resolution, SeriesStatus, Status,
};
pub use quota::{RateLimit, Scope};
pub use reply::Reply;
pub use retry::RetryPolicy;
pub use schedule::{
    Cron, Disambiguation, Frequency, LocalPacing, LocalTime, NthDay, Pacing, PostingSlots, Recurrence, RecurrenceRule,
    Schedule, ScheduleError, SlotsBuilder, Until, humanise, zone,
};
pub use scheduler::{Builder, Campaign, Events, Queue, Scheduler, Series};
pub use store::{MemoryStore, SledStore, Store};
