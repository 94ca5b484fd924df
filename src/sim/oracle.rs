//! What was promised, and whether it is kept. Knows nothing of the engine.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::State;
use crate::post::Guarantee;
use crate::time::Timestamp;

use super::Broken;

/// Never before the due, by the wall clock at the call.
const EARLY: &str = "never early";
/// A post that may be sent at most once is published at most once.
const TWICE: &str = "at most once";
/// Whoever is called again for what may have been published is told so.
const UNMARKED: &str = "no repeat without a mark";
/// After a cancellation was acknowledged nobody is called.
const CANCELLED: &str = "cancelled is cancelled";
/// One call for a post at a time, unless the one before was given up.
const ALONE: &str = "one call at a time";
/// What was acknowledged has its outcome in the end.
const LOST: &str = "never lost";
/// What is said of a post is what happened to it.
const TRUE: &str = "outcomes are true";
/// One key names one post.
const KEYS: &str = "one key, one post";
/// What is called is what was said last.
const CONTENT: &str = "what was edited is sent";

/// What is known of one post.
#[derive(Debug)]
struct Known {
    guarantee: Guarantee,
    is_acknowledged: bool,
    /// The dues that may hold: the acknowledged one, and those whose acknowledgement is still missing.
    dues: BTreeSet<Timestamp>,
    is_cancelled: bool,
    published: u32,
    /// The process in which its call is under way.
    under_way: Option<u32>,
}

/// All that was promised.
#[derive(Debug, Default)]
pub struct Oracle {
    posts: Vec<Known>,
    keys: BTreeMap<String, u128>,
    pub calls: u64,
    pub checks: BTreeMap<&'static str, u64>,
    pub broken: Option<Broken>,
    pub step: u64,
}

impl Oracle {
    /// Notes that a promise was looked at; and if it was not kept, how.
    fn check(&mut self, promise: &'static str, is_kept: bool, how: impl FnOnce() -> String) {
        *self.checks.entry(promise).or_default() += 1;
        if !is_kept && self.broken.is_none() {
            self.broken = Some(Broken { promise, how: how(), step: self.step });
        }
    }

    /// The host hands in a post; its number.
    pub fn hand_in(&mut self, due: Timestamp, guarantee: Guarantee) -> usize {
        self.posts.push(Known {
            guarantee,
            is_acknowledged: false,
            dues: [due].into(),
            is_cancelled: false,
            published: 0,
            under_way: None,
        });
        self.posts.len() - 1
    }

    pub fn acknowledged(&mut self, post: usize, key: Option<String>, id: u128) {
        if let Some(known) = self.posts.get_mut(post) {
            known.is_acknowledged = true;
        }
        if let Some(key) = key {
            let before = *self.keys.entry(key.clone()).or_insert(id);
            self.check(KEYS, before == id, || format!("{key} was {before:032x} and is {id:032x}"));
        }
    }

    /// The host asks for another due.
    pub fn ask_due(&mut self, post: usize, due: Timestamp) {
        self.posts[post].dues.insert(due);
    }

    /// It was done: no other due holds any more, but for those that were asked for since.
    pub fn moved(&mut self, post: usize, due: Timestamp, since: &[Timestamp]) {
        self.posts[post].dues = since.iter().copied().chain([due]).collect();
    }

    pub fn cancelled(&mut self, post: usize) {
        self.posts[post].is_cancelled = true;
    }

    /// The broadcaster is called to publish.
    pub fn call(&mut self, post: usize, process: u32, now: Timestamp, due: Timestamp, is_marked: bool) {
        self.calls += 1;
        let Some(known) = self.posts.get(post) else {
            return self.check(CONTENT, false, || format!("{post} was never handed in"));
        };
        let first = known.dues.first().copied().unwrap_or(Timestamp::MAX);
        let (dues, is_cancelled) = (known.dues.clone(), known.is_cancelled);
        let (published, guarantee, under_way) = (known.published, known.guarantee, known.under_way);
        self.check(EARLY, now >= first, || format!("post {post} at {now:?}, due {first:?}"));
        self.check(CONTENT, dues.contains(&due), || format!("post {post} has {due:?}, not one of {dues:?}"));
        self.check(CANCELLED, !is_cancelled, || format!("post {post}"));
        self.check(ALONE, under_way != Some(process), || format!("post {post}"));
        self.check(UNMARKED, published == 0 || is_marked, || format!("post {post} was published {published} times"));
        let is_allowed = published == 0 || guarantee == Guarantee::AtLeastOnce;
        self.check(TWICE, is_allowed, || format!("post {post} was published {published} times"));
        self.posts[post].under_way = Some(process);
    }

    pub fn published(&mut self, post: usize) {
        self.posts[post].published += 1;
    }

    pub fn is_published(&self, post: usize) -> bool {
        self.posts.get(post).is_some_and(|known| known.published > 0)
    }

    /// The call has ended, or was given up.
    pub fn ended(&mut self, post: usize) {
        self.posts[post].under_way = None;
    }

    /// What the engine says of a post when it has been asked; at the end nothing may be under way.
    pub fn said(&mut self, post: usize, state: Option<State>, at_the_end: bool) {
        let Known { is_acknowledged, is_cancelled, published, .. } = self.posts[post];
        self.check(LOST, !is_acknowledged || state.is_some(), || format!("post {post} is not known"));
        let Some(state) = state else { return };
        let is_true = match state {
            State::Delivered => published > 0,
            State::Cancelled | State::Missed => true,
            _ => !is_cancelled,
        };
        self.check(TRUE, is_true, || format!("post {post} is {state}, was published {published} times"));
        if at_the_end {
            let has_ended = state.is_final() || state == State::InDoubt;
            self.check(LOST, has_ended, || format!("post {post} is {state} in the end"));
        }
    }

    pub fn posts(&self) -> usize {
        self.posts.len()
    }

    pub fn acknowledgements(&self) -> u64 {
        self.posts.iter().filter(|known| known.is_acknowledged).count() as u64
    }

    pub fn digest(&self) -> u64 {
        let one = |known: &Known| u64::from(known.published) << 2 | u64::from(known.is_cancelled) << 1;
        self.posts.iter().fold(0, |digest: u64, known| (digest ^ one(known)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}
