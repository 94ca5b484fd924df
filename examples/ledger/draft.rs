//! The posts of a run, of every kind.

use std::time::Duration;

use chrono::{DateTime, Utc};
use punctual::{Post, Priority};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::pools::POOLS;

/// What the host wants to schedule: the same draft always makes the same post.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Draft {
    pub pool: String,
    pub profile: String,
    pub key: Option<String>,
    pub due: i64,
    pub in_order: bool,
    pub parts: usize,
    /// How long after its due it is still of use, in milliseconds.
    pub expires: Option<u64>,
    pub priority: u8,
    /// Where the journal ended before it was scheduled: its story is told behind that.
    pub place: u64,
    pub version: u64,
}

impl Draft {
    /// Any post, due from now to three seconds ahead.
    pub fn any(random: &mut StdRng, now: i64, place: u64, version: u64) -> Self {
        let pool = POOLS[random.random_range(0..POOLS.len())].name;
        let in_order = random.random_bool(0.2);
        let ahead = if random.random_bool(0.4) { 50_000 } else { 3_000_000 };
        Self {
            pool: pool.to_owned(),
            profile: format!("{}{}", if in_order { "line-" } else { "" }, random.random_range(0..3)),
            key: random.random_bool(0.3).then(|| format!("key-{version}")),
            due: now + random.random_range(0..ahead),
            in_order,
            // What is prepared is prepared for one payload.
            parts: if pool != "uploads" && random.random_bool(0.15) { random.random_range(2..=4) } else { 1 },
            expires: random.random_bool(0.05).then(|| random.random_range(100..2_000)),
            priority: random.random_range(100..160),
            place,
            version,
        }
    }

    pub fn post(&self) -> Post {
        let due = DateTime::<Utc>::from_timestamp_micros(self.due).unwrap_or_default();
        let mut post = Post::new(&self.pool, payload(self.place, self.version))
            .at(due)
            .profile(&self.profile)
            .priority(Priority::new(self.priority));
        for _ in 1..self.parts {
            post = post.then(payload(self.place, self.version));
        }
        if self.in_order {
            post = post.in_order();
        }
        if let Some(key) = &self.key {
            post = post.key(key);
        }
        if let Some(expires) = self.expires {
            post = post.expires_after(Duration::from_millis(expires));
        }
        post
    }
}

/// What is published; `place` and `version` as in the draft.
pub fn payload(place: u64, version: u64) -> String {
    format!("{place} {version} {}", "plum cake ".repeat(1 + (version % 20) as usize))
}

/// The place and the version that a payload tells.
pub fn told(payload: &[u8]) -> Option<(u64, u64)> {
    let mut words = std::str::from_utf8(payload).ok()?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}
