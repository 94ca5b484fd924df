//! The judge: replays the journal of a run and holds it against the rules. It knows nothing of the engine but its words.

use std::collections::{BTreeMap, HashMap, HashSet};

use punctual::{PostId, State};
use serde::Serialize;

use super::draft::Draft;
use super::host::End;
use super::journal::{Answer, Call, Called, Entry, Part, Wish};

/// The rules, and what each forbids.
pub const RULES: [(&str, &str); 16] = [
    ("lost", "an acknowledged post that is not delivered, failed with a reason, missed, cancelled or held in doubt"),
    ("unsent", "a post that is delivered, but has a part that the network never published"),
    ("twice", "at most once: a part that the network published twice"),
    ("doubtful", "at most once: a call after one of which it is not known that it did not publish"),
    ("unmarked", "at least once: such a call that does not say that it is a possible repeat"),
    ("key", "a call with another idempotency key than those before it, or with that of another part"),
    ("parts", "a call for a part before the part before it was published"),
    ("overtaken", "in order: a call for a post after one for a post with a later due"),
    ("beside", "in order: a call while another one of the same profile is under way"),
    ("early", "a call before its due"),
    ("due", "a call for a due that the post did not have then"),
    ("payload", "a call with a payload that the post did not have then"),
    ("cancelled", "a call for a post whose cancelling was confirmed, or a cancelled post that nobody cancelled"),
    ("prepared", "a call with something that was not made ready for this post and payload"),
    ("checkpoint", "a call that does not know the last checkpoint that was kept"),
    ("identity", "a key with two posts, or a post with two keys"),
];

/// The result.
#[derive(Default, Debug, Serialize)]
pub struct Verdict {
    pub acked: u64,
    pub calls: u64,
    pub sent: u64,
    /// Calls after one that may have published the part already.
    pub repeats: u64,
    pub repeats_marked: u64,
    /// Parts that the network published more than once.
    pub sent_again: u64,
    pub delivered: u64,
    pub failed: u64,
    pub missed: u64,
    pub cancelled: u64,
    pub in_doubt: u64,
    pub violations: BTreeMap<&'static str, u64>,
    /// The first ones, in words.
    #[serde(skip)]
    pub examples: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.violations.values().all(|count| *count == 0)
    }

    /// Adds what another store's hosts did.
    pub fn add(&mut self, other: Self) {
        let Self { acked, calls, sent, repeats, repeats_marked, sent_again, .. } = other;
        let Self { delivered, failed, missed, cancelled, in_doubt, violations, examples, .. } = other;
        self.acked += acked;
        self.calls += calls;
        self.sent += sent;
        self.repeats += repeats;
        self.repeats_marked += repeats_marked;
        self.sent_again += sent_again;
        self.delivered += delivered;
        self.failed += failed;
        self.missed += missed;
        self.cancelled += cancelled;
        self.in_doubt += in_doubt;
        for (rule, count) in violations {
            *self.violations.entry(rule).or_default() += count;
        }
        self.examples.extend(examples);
    }

    fn violated(&mut self, rule: &'static str, what: impl FnOnce() -> String) {
        let count = self.violations.entry(rule).or_default();
        *count += 1;
        if *count <= 3 {
            self.examples.push(format!("{rule}: {}", what()));
        }
    }

    fn check(&mut self, holds: bool, rule: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.violated(rule, what);
        }
    }
}

/// Judges a run by its journal, which is read twice, and by what is known of the posts in the end.
pub fn judge<I: Iterator<Item = Entry>>(
    read: impl Fn() -> I,
    ends: &HashMap<PostId, End>,
    at_most_once: bool,
) -> Verdict {
    let mut judge = Judge { at_most_once, ..Judge::default() };
    judge.verdict.violations = RULES.iter().map(|(rule, _)| (*rule, 0)).collect();
    read().for_each(|entry| judge.learn(entry));
    read().enumerate().for_each(|(index, entry)| judge.replay(index, entry));
    judge.close(ends);
    judge.verdict
}

#[derive(Default)]
struct Judge {
    at_most_once: bool,
    verdict: Verdict,
    posts: HashMap<PostId, Post>,
    parts: HashMap<Part, Story>,
    /// Who has which idempotency key, and which host's key.
    keys: HashMap<String, Part>,
    names: HashMap<String, PostId>,
    prepared: HashSet<String>,
    lines: HashMap<String, Line>,
}

/// What is known of a post.
#[derive(Default)]
struct Post {
    /// When it was acknowledged first, and as what.
    ack: Option<(i64, Draft)>,
    /// The host has asked for another due at some time.
    is_moved: bool,
    wishes: Wishes,
}

/// What the host has asked of a post so far.
#[derive(Default)]
struct Wishes {
    cancel: bool,
    is_cancelled: bool,
    /// It was to be published now: its due is what the engine says.
    is_any_due: bool,
    /// The dues that the post may have: from when it was wanted to when that was confirmed, if it had passed by then.
    dues: Vec<(i64, i64)>,
    /// The versions that its parts' payloads may have, if any was edited.
    versions: HashMap<usize, Vec<u64>>,
}

/// What is known of a part.
#[derive(Default)]
struct Story {
    calls: Vec<Told>,
    sent: u32,
    key: Option<String>,
    /// Checkpoints in the order in which they were asked for, and how many are outdated by one that was kept.
    keeps: Vec<Call>,
    outdated: usize,
    is_kept: bool,
}

/// A call of a part.
struct Told {
    call: Call,
    index: usize,
    /// When it is out of time.
    until: i64,
    /// The place in the journal where it ended, and how.
    ended: Option<(usize, Answer)>,
    /// The network was asked later, and nothing had been published.
    is_cleared: bool,
}

impl Told {
    /// It may have published the part.
    fn is_open(&self) -> bool {
        !self.is_cleared && !matches!(self.ended, Some((_, Answer::NotPublished)))
    }

    /// It had been given up when another was called at that place of the journal: it was out of time, or was answered
    /// only after that.
    fn was_given_up(&self, (index, at): (usize, i64)) -> bool {
        self.index < index && (self.until <= at || self.ended.is_some_and(|(ended, _)| ended > index))
    }
}

/// The posts of one profile that go in order.
#[derive(Default)]
struct Line {
    running: Vec<Called>,
    /// The first call of each post that was not moved, and when it was made, by its due.
    first: BTreeMap<(i64, PostId), (usize, i64)>,
}

impl Judge {
    /// The first reading: what will be known of each post.
    fn learn(&mut self, entry: Entry) {
        match entry {
            Entry::Ack { id, at, draft } => {
                if let Some(key) = &draft.key {
                    let other = *self.names.entry(key.clone()).or_insert(id);
                    self.verdict.check(other == id, "identity", || format!("{key} is {other} and {id}"));
                }
                let post = self.posts.entry(id).or_default();
                let (_, first) = post.ack.get_or_insert_with(|| (at, draft.clone()));
                let is_same = first.version == draft.version;
                self.verdict.check(is_same, "identity", || format!("{id} is {:?} and {:?}", first.key, draft.key));
            }
            Entry::Wish { id, wish: Wish::Move(_) | Wish::Now } => self.posts.entry(id).or_default().is_moved = true,
            _ => {}
        }
    }

    /// The second reading: each entry by what went before it.
    fn replay(&mut self, index: usize, entry: Entry) {
        match entry {
            Entry::Born { .. } => self.lines.values_mut().for_each(|line| line.running.clear()),
            Entry::Ask(_) | Entry::Ack { .. } | Entry::Dropped { .. } => {}
            Entry::Wish { id, wish } => self.wish(id, wish, None),
            Entry::Granted { id, wish, at } => self.wish(id, wish, Some(at)),
            Entry::Prepared { bytes } => drop(self.prepared.insert(bytes)),
            Entry::Call(called) => self.call(index, called),
            Entry::Keep { call, of } => self.parts.entry(of).or_default().keeps.push(call),
            Entry::Kept { call, of } => {
                let story = self.parts.entry(of).or_default();
                if let Some(place) = story.keeps.iter().position(|kept| *kept == call) {
                    (story.outdated, story.is_kept) = (story.outdated.max(place), true);
                }
            }
            Entry::Sent { of, .. } => {
                self.verdict.sent += 1;
                let story = self.parts.entry(of).or_default();
                story.sent += 1;
                self.verdict.sent_again += u64::from(story.sent == 2);
                let is_once = story.sent < 2 || !self.at_most_once;
                self.verdict.check(is_once, "twice", || format!("{of:?}"));
            }
            Entry::Ended { call, of, answer } => {
                let story = self.parts.entry(of).or_default();
                if let Some(told) = story.calls.iter_mut().find(|told| told.call == call) {
                    told.ended = Some((index, answer));
                }
                // What a late answer says is published needs no repeat: one that is under way holds up nobody.
                let is_over = |called: &Called| called.call == call || answer == Answer::Published && called.of == of;
                self.lines.values_mut().for_each(|line| line.running.retain(|called| !is_over(called)));
            }
            Entry::Reconciled { of, answer: Answer::NotPublished } => {
                self.parts.entry(of).or_default().calls.iter_mut().for_each(|told| told.is_cleared = true);
            }
            Entry::Reconciled { .. } => {}
        }
    }

    /// A change is asked for, or has been confirmed at this time.
    fn wish(&mut self, id: PostId, wish: Wish, granted: Option<i64>) {
        let post = self.posts.entry(id).or_default();
        let Post { ack, wishes, .. } = post;
        match wish {
            Wish::Cancel => {
                wishes.cancel = true;
                wishes.is_cancelled |= granted.is_some();
            }
            Wish::Now => wishes.is_any_due = true,
            Wish::Move(due) => {
                if wishes.dues.is_empty() {
                    wishes.dues.extend(ack.as_ref().map(|(at, draft)| span(draft.due, *at)));
                }
                match granted {
                    Some(at) => wishes.dues = vec![span(due, at)],
                    None => wishes.dues.push(span(due, i64::MAX)),
                }
            }
            Wish::Edit(part, version) => {
                let versions = wishes.versions.entry(part).or_default();
                if versions.is_empty() {
                    versions.extend(ack.as_ref().map(|(_, draft)| draft.version));
                }
                match granted {
                    Some(_) => *versions = vec![version],
                    None => versions.push(version),
                }
            }
        }
    }

    /// A broadcaster is called.
    fn call(&mut self, index: usize, called: Called) {
        let Self { at_most_once, verdict, .. } = self;
        let (of, id) = (called.of, called.of.id);
        let say = || format!("{called:?}");
        verdict.calls += 1;

        let before = of.part.checked_sub(1).map(|part| Part { id, part });
        let is_next = before.is_none_or(|before| self.parts.get(&before).is_some_and(|story| story.sent > 0));
        verdict.check(is_next, "parts", say);

        let post = self.posts.entry(id).or_default();
        verdict.check(called.at >= called.due, "early", say);
        verdict.check(!post.wishes.is_cancelled, "cancelled", say);
        if let Some((at, draft)) = &post.ack {
            let wishes = &post.wishes;
            let acked = [span(draft.due, *at)];
            let dues = if wishes.dues.is_empty() { &acked[..] } else { &wishes.dues };
            let is_due = dues.iter().any(|(from, to)| (*from..=*to).contains(&called.due));
            verdict.check(is_due || wishes.is_any_due, "due", || format!("{called:?} of {dues:?}"));
            let first = [draft.version];
            let versions = wishes.versions.get(&of.part).map_or(&first[..], Vec::as_slice);
            let is_said = versions.contains(&called.version);
            verdict.check(is_said, "payload", || format!("{called:?} of {versions:?}"));
        }
        if let Some(bytes) = &called.prepared {
            let is_own = *bytes == format!("{id}/{}", called.version) && self.prepared.contains(bytes);
            verdict.check(is_own, "prepared", say);
        }

        let story = self.parts.entry(of).or_default();
        let is_own = *self.keys.entry(called.key.clone()).or_insert(of) == of;
        let is_same = story.key.get_or_insert_with(|| called.key.clone()) == &called.key;
        verdict.check(is_own && is_same, "key", say);
        let place = called.checkpoint.map(|kept| story.keeps.iter().position(|asked| *asked == kept));
        let is_latest = match place {
            Some(place) => place.is_some_and(|place| place >= story.outdated),
            None => !story.is_kept,
        };
        verdict.check(is_latest, "checkpoint", || format!("{called:?} of {:?}", story.keeps));
        if story.calls.iter().any(Told::is_open) {
            verdict.repeats += 1;
            verdict.repeats_marked += u64::from(called.redelivery);
            verdict.check(!*at_most_once, "doubtful", say);
            verdict.check(*at_most_once || called.redelivery, "unmarked", say);
        }
        verdict.check(!(*at_most_once && called.redelivery), "doubtful", say);
        let until = called.at + called.timeout;
        story.calls.push(Told { call: called.call, index, until, ended: None, is_cleared: false });

        if let Some(name) = &called.line {
            let line = self.lines.entry(name.clone()).or_default();
            // One that is nearly out of time may have been given up already.
            line.running.retain(|other| other.at + other.timeout / 2 > called.at);
            verdict.check(line.running.is_empty(), "beside", || format!("{called:?} and {:?}", line.running));
            line.running.push(called.clone());
            if !post.is_moved {
                let acked = post.ack.as_ref().map_or(i64::MAX, |(at, _)| *at);
                let later = line.first.range((called.due + 1, PostId::from_u128(0))..);
                // Before its due nothing is handed over: what was known by then had to be waited for.
                let mut later = later.filter(|((due, other), _)| acked < *due && *other != id);
                // Nobody waits for what is held in doubt, or given up; a late answer may let it go on.
                let is_excused = |at| {
                    let told = |part| self.parts.get(&Part { id, part }).map_or(&[][..], |story| &story.calls);
                    (0..=of.part).flat_map(told).any(|told| told.was_given_up(at))
                };
                let overtaker = later.find(|(_, at)| !is_excused(**at));
                verdict.check(overtaker.is_none(), "overtaken", || format!("{called:?} by {overtaker:?}"));
                line.first.entry((called.due, id)).or_insert((index, called.at));
            }
        }
    }

    /// All is over.
    fn close(&mut self, ends: &HashMap<PostId, End>) {
        let Self { verdict, .. } = self;
        for (id, post) in &self.posts {
            let Some((_, draft)) = &post.ack else { continue };
            verdict.acked += 1;
            let Some(end) = ends.get(id).filter(|end| end.is_over()) else {
                verdict.violated("lost", || format!("{id} is {:?}: {draft:?}", ends.get(id)));
                continue;
            };
            let say = || format!("{id} is {end:?}: {draft:?}");
            let is_cancelled = end.state == State::Cancelled;
            verdict.check(!post.wishes.is_cancelled || is_cancelled, "cancelled", say);
            match end.state {
                State::Delivered => {
                    verdict.delivered += 1;
                    let is_sent = |part| self.parts.get(&Part { id: *id, part }).is_some_and(|story| story.sent > 0);
                    verdict.check((0..draft.parts).all(is_sent), "unsent", say);
                }
                State::Failed => {
                    verdict.failed += 1;
                    verdict.check(!end.reason.is_empty(), "lost", say);
                }
                State::Missed => {
                    verdict.missed += 1;
                    verdict.check(draft.expires.is_some(), "lost", say);
                }
                State::Cancelled => {
                    verdict.cancelled += 1;
                    verdict.check(post.wishes.cancel, "cancelled", say);
                }
                _ => verdict.in_doubt += 1,
            }
        }
    }
}

/// A due as the engine keeps it, in whole milliseconds, or up to `passed` if it had passed.
fn span(due: i64, passed: i64) -> (i64, i64) {
    let up = |micros: i64| micros.div_euclid(1_000) * 1_000 + if micros.rem_euclid(1_000) > 0 { 1_000 } else { 0 };
    (up(due), if passed > up(due) { passed.saturating_add(1_000) } else { up(due) })
}
