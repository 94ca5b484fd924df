//! Every bound, in one place.

use std::time::Duration;

/// Longest payload of a post, in bytes, unless the builder says otherwise.
pub const PAYLOAD_BYTES: usize = 64 << 10;
/// The most that the builder accepts as the longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Longest key, profile or pool name, in bytes.
pub const NAME_BYTES: usize = 255;
/// Longest receipt or reason that is stored, in bytes; longer ones are cut.
pub const TEXT_BYTES: usize = 4_096;
/// Longest checkpoint, and longest result of preparing, in bytes.
pub const CHECKPOINT_BYTES: usize = 64 << 10;
/// Most bytes of all parts of a thread together.
pub const THREAD_BYTES: usize = 4 << 20;
/// Most parts of a thread.
pub const PARTS: usize = 1_024;
/// The longest that a broadcaster can put off the next attempt.
pub const RETRY_AHEAD: Duration = Duration::from_secs(7 * 86_400);
/// The longest that posts may be caught up over.
pub const CATCH_UP: Duration = Duration::from_secs(366 * 86_400);
/// How long is waited where neither the network nor the retry policy says.
pub const THROTTLE: Duration = Duration::from_secs(10);
/// Posts are handed to their shards so long before they are due: then nothing but the broadcaster's thread has to be
/// woken at the due.
pub const HAND_OVER_AHEAD: Duration = Duration::from_millis(100);
/// What is blocked for longer than this goes back to the engine, which takes its claim back.
pub const GIVE_BACK: Duration = Duration::from_secs(5);
/// The least that is waited after a throttle, whatever was said: calls that count no attempt must not spin.
pub const THROTTLE_LEAST: Duration = Duration::from_millis(100);
/// Most posts in one answer that lists posts.
pub const LIST_POSTS: usize = 1_000;
/// Most posts in one `schedule_all`.
pub const BATCH_POSTS: usize = 100_000;
/// Most bytes of payload in one `schedule_all`.
pub const BATCH_BYTES: usize = 64 << 20;
/// A due this long ago is still taken, as due now.
pub const PAST_TOLERANCE: Duration = Duration::from_secs(60);
/// First instant that can be due: 1970-01-01T00:00:00Z, in milliseconds.
pub const DUE_MIN_MILLIS: i64 = 0;
/// Last instant that can be due: 9999-12-31T23:59:59.999Z, in milliseconds.
pub const DUE_MAX_MILLIS: i64 = 253_402_300_799_999;
/// Posts of a queue are given a due so long before their slot.
pub const PLACE_AHEAD: Duration = Duration::from_secs(60);
/// Posts of a queue that are given their slots in one step.
pub const PLACE_POSTS: usize = 256;
/// Most posts in one queue.
pub const QUEUE_POSTS: usize = 100_000;
/// The latest changes of a queue that were made under a key, and are not made again under it.
pub const QUEUE_KEYS: usize = 64;
/// Occurrences of a series that are planned in one commit.
pub const SERIES_POSTS: usize = 1_000;
/// Commands waiting for the driver.
pub const COMMANDS: usize = 16_384;
/// Bytes of posts in commands that wait for the driver.
pub const COMMANDS_BYTES: usize = 192 << 20;
/// Commands that the driver takes in one turn.
pub const COMMANDS_PER_TURN: usize = 4_096;
/// How long deliveries in flight may go on when the last handle is dropped without a shutdown.
pub const GRACE: Duration = Duration::from_secs(10);
/// Requests that the committer has not taken.
pub const REQUESTS: usize = SEARCHES + LISTINGS + COMMANDS_PER_TURN + 3 * POOLS + COMMITS_IN_FLIGHT + 2;
/// Answers and reports that the driver has not taken.
pub const ANSWERS: usize = 256;
/// Heartbeats and checkpoints that a worker has not taken.
pub const WORDS: usize = 16_384;
/// Orders that a worker has not taken.
pub const ORDERS: usize = 16;
/// Look-ups in the store under way; above it the driver takes no more commands.
pub const SEARCHES: usize = 4_096;
/// Shelves being listed; above it the driver takes no more commands.
pub const LISTINGS: usize = 1_024;
/// Bytes of posts that wait for their commit; above it the driver takes no more commands.
pub const UNCOMMITTED_BYTES: usize = 64 << 20;
/// Changes in one commit.
pub const COMMIT_CHANGES: usize = 32_768;
/// Bytes of posts in one commit, before it is closed for further ones.
pub const COMMIT_BYTES: usize = 8 << 20;
/// Commits handed to the committer and not yet answered.
pub const COMMITS_IN_FLIGHT: usize = 2;
/// Bytes that one page of a load brings.
pub const PAGE_BYTES: usize = 8 << 20;
/// Bytes that one page of a list brings.
pub const LIST_BYTES: usize = 2 << 20;
/// Events that a slow listener may lag behind.
pub const EVENTS: usize = 65_536;
/// Pools of one scheduler.
pub const POOLS: usize = 1_024;
/// Shards of one pool.
pub const SHARDS: usize = 64;
/// Threads of one pool.
pub const THREADS: usize = 256;
/// Threads of one pool that call its broadcaster, where it blocks them.
pub const CALLERS: usize = 1_024;
/// Deliveries of one pool that run at the same time.
pub const CONCURRENCY: usize = 1 << 20;

const _: () = assert!(PAYLOAD_BYTES <= PAYLOAD_BYTES_MAX);
const _: () = assert!(PAYLOAD_BYTES_MAX <= BATCH_BYTES);
const _: () = assert!(2 * BATCH_BYTES <= COMMANDS_BYTES);
const _: () = assert!(POOLS <= u16::MAX as usize);
const _: () = assert!(NAME_BYTES <= u8::MAX as usize);
