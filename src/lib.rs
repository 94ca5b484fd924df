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
//! 2. **Never lost.** After [`Scheduler::schedule`] said `Ok`, the post is delivered, fails with a reason, is
//!    cancelled or is delivered again as a possible repeat, whatever is killed in between, power included.
//! 3. **Never silently twice.** A claim is durable before each hand-over. A post that was in flight when the
//!    process died is delivered again with [`Delivery::is_redelivery`] set and the same
//!    [`Delivery::idempotency_key`]; no other is.
//! 4. **On time.** Claims are written ahead of the due, payloads are in memory: between the due and the
//!    broadcaster there is no disk.
//! 5. **Bounded.** Memory follows the [`horizon`](Builder::horizon) and the [`memory`](Builder::memory) given,
//!    not the number of posts scheduled. Every queue has a limit, and full is an answer
//!    ([`Error::Overloaded`]).
//!
//! # It is not
//!
//! - a distributed queue: one process at a time uses a store;
//! - exactly-once publishing: no engine can promise that across a network that may have published and not
//!   answered. It tells you which deliveries are possible repeats, and there are no others;
//! - a cron daemon: posts have one due each.
//!
//! # When
//!
//! [`Post::at`] takes an instant in any zone. Without it a post is due now. One that is due within the
//! [`claim_ahead`](Builder::claim_ahead) is claimed in the commit that stores it and handed over right after.
//!
//! # Who
//!
//! Each [`Pool`] has threads, a tokio runtime, a concurrency, a timeout and a retry policy of its own; one stuck
//! network cannot delay another. What is due waits in the pool's ready queue: highest [`Priority`] first, then
//! earliest due. Posts of one profile that ask for it ([`Post::in_order`]) go out one at a time.
//!
//! # When it goes wrong
//!
//! - A broadcaster's error is transient unless it says otherwise: it is tried again by the pool's
//!   [`RetryPolicy`], and after the last attempt the post is a dead letter ([`Outcome::Failed`]).
//! - A panic or a timeout may have published: the next attempt is marked as a possible repeat.
//! - The wall clock may step. Forward, what became due goes out; back, nothing is sent early or twice.
//! - A store that does not answer for [`stall_after`](Builder::stall_after) refuses new posts
//!   ([`Error::StoreStalled`]) and claims nothing more until it does.
//! - A store that fails is not used again; everything acknowledged is there when it is opened anew.
//!   [`StoreError`] lists what can be wrong with one.
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
mod gate;
mod id;
mod inbox;
mod limits;
mod pool;
mod post;
mod quota;
mod reply;
mod retry;
mod scheduler;
mod shard;
mod store;
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
    BroadcastError, Delivery, Event, Guarantee, Outcome, Post, PostRef, Prepared, Priority, Receipt, Reconciled,
    Resolution, Status,
};
pub use quota::{RateLimit, Scope};
pub use reply::Reply;
pub use retry::RetryPolicy;
pub use scheduler::{Builder, Events, Scheduler};
pub use store::{MemoryStore, SledStore, Store};
