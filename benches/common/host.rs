//! A host as it is in the benches: posts like real ones, and an engine on a store of its own.

use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, Utc};
use punctual::{Builder, Pool, Post, PostId, Reply, Scheduler, SledStore};
use tempfile::TempDir;

use super::scattered;

/// The pool that all posts go to, where there is only one.
pub const POOL: &str = "network";
/// How many posts a host hands over at once if nothing speaks for another number.
pub const BATCH: usize = 10_000;

const TEXT: &str = "Our doors open at nine, and the first loaves are out of the oven: rye with caraway, spelt, and plum \
                    cake. #bakery";

/// What there is to say of one post: a text of 120 bytes, for one of 10,000 profiles.
pub struct Row {
    pub number: usize,
    pub due: DateTime<Utc>,
    pub profile: String,
    pub text: Vec<u8>,
}

impl Row {
    pub fn new(number: usize, due: DateTime<Utc>) -> Self {
        let profile = format!("profile-{}", scattered(number) % 10_000);
        let mut text = TEXT.as_bytes().to_vec();
        text.extend_from_slice(&(number as u64).to_le_bytes());
        Self { number, due, profile, text }
    }

    pub fn post(self) -> Post {
        Post::new(POOL, self.text).profile(self.profile).at(self.due)
    }

    /// What sorts rows by their due.
    pub fn key(&self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.due.timestamp_micros().to_be_bytes());
        key[8..].copy_from_slice(&(self.number as u64).to_be_bytes());
        key
    }

    /// Writes everything but the key; about as many bytes as the engine's own encoding has.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(self.profile.len() as u8);
        out.extend_from_slice(self.profile.as_bytes());
        out.extend_from_slice(&(self.text.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.text);
    }
}

/// Any instant within 30 days, but none of the next two hours.
pub fn in_30_days(number: usize) -> DateTime<Utc> {
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    Utc::now() + hours(2) + Duration::from_millis(scattered(number) % hours(30 * 24 - 2).as_millis() as u64)
}

/// The next whole millisecond that is at least so far ahead: dues are whole milliseconds.
pub fn ahead(by: Duration) -> DateTime<Utc> {
    let millis = (Utc::now() + by).timestamp_millis() + 1;
    DateTime::from_timestamp_millis(millis).expect("a due of these years")
}

/// A scheduler, and its store in a directory that goes with it.
pub struct Engine {
    pub scheduler: Scheduler,
    folder: TempDir,
}

impl Engine {
    /// With these pools and everything else as it is by default.
    pub fn start(pools: impl IntoIterator<Item = Pool>) -> Self {
        Self::start_with(pools, |builder| builder)
    }

    pub fn start_with(pools: impl IntoIterator<Item = Pool>, set: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let store = SledStore::open(folder.path()).expect("a new store");
        let builder = pools.into_iter().fold(Scheduler::builder().store(store), Builder::pool);
        Self { scheduler: set(builder).start().expect("an engine"), folder }
    }

    /// Ends without waiting for what is in flight.
    pub fn stop(self) {
        self.scheduler.shutdown(Duration::ZERO).wait().expect("a clean end");
        self.folder.close().expect("the store is closed");
    }
}

/// Schedules posts in batches, one being stored while the next is made; the ids of the first and the last one.
pub fn schedule(scheduler: &Scheduler, numbers: Range<usize>, due: impl Fn(usize) -> DateTime<Utc>) -> [PostId; 2] {
    let (mut under_way, mut ends, mut stored) = (None, None, 0);
    let mut receive = |reply: Reply<Vec<PostId>>| {
        let ids = reply.wait().expect("posts are taken");
        let [first, _] = ends.unwrap_or([ids[0]; 2]);
        ends = Some([first, ids[ids.len() - 1]]);
        stored += ids.len();
    };
    for first in numbers.clone().step_by(BATCH) {
        let batch = (first..numbers.end.min(first + BATCH)).map(|number| Row::new(number, due(number)).post());
        under_way.replace(scheduler.schedule_all(batch)).into_iter().for_each(&mut receive);
    }
    under_way.into_iter().for_each(&mut receive);
    assert_eq!(stored, numbers.len());
    ends.expect("there are posts")
}
