//! How posts are delivered, and what a host can choose: one page for each question.
//!
//! Every page says what the problem is, what the engine does about it, what to choose when, and where it ends. The
//! examples run: on a [`ManualClock`](crate::ManualClock) and a [`MemoryStore`](crate::MemoryStore), as a host's own
//! tests would. All names in them are from this crate, unless their path says otherwise.
//!
//! | page | answers |
//! |---|---|
//! | [`doubt`] | Was it published or not? What happens when nobody knows? |
//! | [`changes`] | Can a post be changed a millisecond before its due? |
//! | [`retries`] | What do a broadcaster's answers lead to? Where do posts end that cannot be sent? |
//! | [`calendar`] | When is a post due: local times, weekly slots, recurrences, cron; how are many spread? |
//! | [`deadlines`] | When is a post too late, and what happens after downtime? |
//! | [`limits`] | How often may a profile, a pool, an account publish? |
//! | [`order`] | How do posts of one profile, and the parts of a thread, stay in order? |
//! | [`fairness`] | Who goes first when many posts are due? |
//! | [`breaker`] | What if a whole network is down? |
//! | [`prepare`] | How are uploads done before the due? |
//! | [`queues`] | How do posts take the next free slot of their profile, in an order that changes? |
//! | [`series`] | How is a post sent again and again, and how are many sent as one? |
//! | [`long_work`] | What about broadcasts that take minutes, and a shutdown meanwhile? |

#[doc = include_str!("breaker.md")]
pub mod breaker {}
#[doc = include_str!("calendar.md")]
pub mod calendar {}
#[doc = include_str!("changes.md")]
pub mod changes {}
#[doc = include_str!("deadlines.md")]
pub mod deadlines {}
#[doc = include_str!("doubt.md")]
pub mod doubt {}
#[doc = include_str!("fairness.md")]
pub mod fairness {}
#[doc = include_str!("limits.md")]
pub mod limits {}
#[doc = include_str!("long_work.md")]
pub mod long_work {}
#[doc = include_str!("order.md")]
pub mod order {}
#[doc = include_str!("prepare.md")]
pub mod prepare {}
#[doc = include_str!("queues.md")]
pub mod queues {}
#[doc = include_str!("retries.md")]
pub mod retries {}
#[doc = include_str!("series.md")]
pub mod series {}
