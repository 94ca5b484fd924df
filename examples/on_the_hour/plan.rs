//! What is scheduled, and when: a timeline moved in time so that its busiest minute is about to come.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, Utc};

const MINUTE: i64 = 60_000;
/// Loading must be over this long before the first post of the lived window is due.
const SETTLED_BEFORE: i64 = 3_000;
/// Time to load: something for a slow start, and the posts at a rate that most disks exceed several times.
const LOADING_BASE: i64 = 2_000;
const LOADING_POSTS_PER_MS: i64 = 100;

/// One post. Times are in milliseconds since 1970.
#[derive(Clone, Copy)]
pub struct Planned {
    pub due: i64,
    pub pool: u8,
    pub profile: u32,
    /// How long its broadcaster takes.
    pub handling: Duration,
}

/// Posts as a source tells them, at the source's own time.
pub struct Timeline {
    pub posts: Vec<Planned>,
    pub pools: Vec<String>,
    /// How to write the source's time; `None` where it means nothing.
    pub clock: Option<&'static str>,
}

/// How much of the timeline is lived through around the start of its busiest minute, and what is cut.
pub struct Stretch {
    pub before: Duration,
    pub after: Duration,
    pub longest_handling: Duration,
}

impl Stretch {
    /// The last seconds of the minute before, and the whole busiest minute.
    pub const WHOLE: Self = Self::new(10_000, 60_000, 60_000);
    /// A few seconds of it.
    pub const SHORT: Self = Self::new(1_000, 3_000, 1_000);
    /// One instant.
    pub const INSTANT: Self = Self::new(0, 1, 0);

    const fn new(before: u64, after: u64, longest_handling: u64) -> Self {
        Self {
            before: Duration::from_millis(before),
            after: Duration::from_millis(after),
            longest_handling: Duration::from_millis(longest_handling),
        }
    }
}

/// The timeline in real time. A post's number is its place in `posts`.
pub struct Plan {
    pub posts: Vec<Planned>,
    pub pools: Vec<String>,
    /// When the busiest minute begins.
    pub busiest: i64,
    /// Posts due in here are lived through and judged.
    pub window: Range<i64>,
    /// When all posts must be stored.
    pub ready_by: i64,
    pub longest_handling: Duration,
    clock: Option<&'static str>,
    shift: i64,
}

impl Plan {
    /// Moves the timeline so that its busiest minute begins as soon as the posts can be stored; what comes
    /// before the lived window is repeated behind the end, so that every due lies ahead.
    pub fn new(timeline: Timeline, stretch: &Stretch, now: i64) -> Self {
        let Timeline { mut posts, pools, clock } = timeline;
        let minutes = || posts.iter().map(|post| post.due.div_euclid(MINUTE));
        let origin = busiest(minutes()) * MINUTE;
        let span = (minutes().max().unwrap_or(0) - minutes().min().unwrap_or(0) + 1) * MINUTE;

        let (before, after) = (millis(stretch.before), millis(stretch.after));
        let loading = LOADING_BASE + i64::try_from(posts.len()).unwrap_or(i64::MAX) / LOADING_POSTS_PER_MS;
        // A whole second: the posts that share an instant share one that people can read.
        let busiest = (now + loading + SETTLED_BEFORE + before + 999) / 1_000 * 1_000;
        let (window, shift) = (busiest - before..busiest + after, busiest - origin);
        for post in &mut posts {
            post.due += shift;
            if post.due < window.start {
                post.due += span;
            }
            post.handling = post.handling.min(stretch.longest_handling);
        }
        let (ready_by, longest_handling) = (window.start - SETTLED_BEFORE, stretch.longest_handling);
        Self { posts, pools, busiest, window, ready_by, longest_handling, clock, shift }
    }

    /// The posts of the lived window with their numbers.
    pub fn lived(&self) -> impl Iterator<Item = (usize, &Planned)> {
        self.posts.iter().enumerate().filter(|(_, post)| self.window.contains(&post.due))
    }

    /// How many posts of the lived window each pool has.
    pub fn lived_by_pool(&self) -> Vec<u64> {
        let mut counts = vec![0; self.pools.len()];
        for (_, post) in self.lived() {
            if let Some(count) = counts.get_mut(usize::from(post.pool)) {
                *count += 1;
            }
        }
        counts
    }

    /// The most posts that share one instant of the lived window.
    pub fn most_at_once(&self) -> usize {
        let mut counts = HashMap::new();
        for (_, post) in self.lived() {
            *counts.entry(post.due).or_insert(0) += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// The pool's name.
    pub fn pool(&self, pool: u8) -> &str {
        self.pools.get(usize::from(pool)).map_or("", String::as_str)
    }

    /// Which minute of the source the due lies in, written as the instant from which it is lived through;
    /// `None` if the source has no time of its own.
    pub fn minute(&self, due: i64) -> Option<String> {
        let from = (due - self.shift).div_euclid(MINUTE) * MINUTE;
        self.source_time(from.max(self.window.start - self.shift) + self.shift)
    }

    /// When the posts of the lived window are due.
    pub fn when(&self) -> String {
        match (self.source_time(self.window.start), self.source_time(self.window.end)) {
            (Some(from), Some(to)) => format!("due from {from} to {to}"),
            _ => "due at one instant".to_owned(),
        }
    }

    /// The source's time at this instant.
    pub fn source_time(&self, at: i64) -> Option<String> {
        self.clock.map(|clock| utc(at - self.shift).format(clock).to_string())
    }
}

/// The instant that many milliseconds after 1970.
pub fn utc(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

/// The minute that occurs most often, the first of several.
fn busiest(minutes: impl Iterator<Item = i64>) -> i64 {
    let mut counts = HashMap::new();
    for minute in minutes {
        *counts.entry(minute).or_insert(0u64) += 1;
    }
    counts.into_iter().max_by_key(|&(minute, count)| (count, -minute)).map_or(0, |(minute, _)| minute)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
