//! What was promised, and whether it is kept. Knows nothing of the engine.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use crate::id::{PostId, Seq, State};
use crate::post::{CampaignStatus, Delivery, Guarantee, Status};
use crate::time::{Now, Timestamp};

use super::Broken;
use super::series::{Settings, setting_of};

/// Never before the due, by the wall clock at the call.
pub const EARLY: &str = "never early";
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
const CONTENT: &str = "what was changed holds";
/// Changes are made in the order in which they were asked for.
const IN_TURN: &str = "changes are made in turn";
/// What asks for order goes out in order, and never beside another.
const ORDER: &str = "order is kept";
/// The parts of a thread go out one after the other, with the receipts of those before.
const THREADS: &str = "threads are in order";
/// After a deadline nobody is called.
const DEADLINE: &str = "deadlines are kept";
/// Nobody is called for what is paused or held.
const PAUSED: &str = "paused is paused";
/// No window of a limit has more calls than it allows.
const LIMIT: &str = "limits are kept";
/// An attempt gets what the one before had kept.
const CHECKPOINT: &str = "checkpoints are handed over";
/// What was prepared for other content is not handed over.
const PREPARED: &str = "what is prepared fits";
/// A broadcaster that panics ends its own call alone.
pub const PANIC: &str = "a panic ends its own call alone";
/// Every attempt at a post has the same idempotency key, and no other post has it.
const NETWORK_KEYS: &str = "one post, one idempotency key";
/// A queued post goes out at a slot, and no other one of its queue does.
const SLOTS: &str = "one slot, one post";
/// What is said of a campaign is what happened to its posts.
const COUNTS: &str = "campaigns are counted";
/// Questions are answered.
pub const ANSWERED: &str = "questions are answered";
/// Not more than a process that does nothing but turn in circles.
pub const TIME: &str = "time passes";

/// A call that takes so long without a sign of life is given up.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// A post that comes in shortly before its due may find later ones on their way already.
const KNOWN: Duration = Duration::from_secs(10);

/// Slots are on whole minutes.
const SLOT_MICROS: i64 = 60_000_000;

/// What a payload says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    pub post: usize,
    pub part: usize,
    pub revision: u32,
}

impl Content {
    const BYTES: usize = 16;

    pub fn write(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend_from_slice(&(self.post as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.part as u32).to_le_bytes());
        bytes.extend_from_slice(&self.revision.to_le_bytes());
        bytes
    }

    /// What a payload says that was written by [`write`](Self::write); a post that does not exist if it was not.
    pub fn read(payload: &[u8]) -> Self {
        let number = |from: usize| payload.get(from..from + 4).and_then(|bytes| bytes.first_chunk().copied());
        let number = |from| number(from).map_or(u32::MAX, u32::from_le_bytes);
        Self { post: number(0) as usize, part: number(8) as usize, revision: number(12) }
    }
}

/// What the host hands in.
#[derive(Clone, Debug)]
pub struct Given {
    pub pool: usize,
    pub profile: String,
    pub key: Option<String>,
    pub due: Timestamp,
    /// It has no due, and takes a slot of its profile's queue.
    pub queued: bool,
    /// Sent at once if it comes late.
    pub or_now: bool,
    pub guarantee: Guarantee,
    pub in_order: bool,
    pub parts: usize,
    /// Useless so long after its due.
    pub grace: Option<Duration>,
    pub campaign: Option<String>,
}

/// What was asked for and not answered, and what was answered last: one of these holds.
#[derive(Clone, Debug)]
struct Said<T> {
    open: Vec<T>,
    held: T,
}

impl<T: Copy + PartialEq> Said<T> {
    fn new(held: T) -> Self {
        Self { open: Vec::new(), held }
    }

    fn ask(&mut self, value: T) {
        self.open.push(value);
    }

    /// It was done. What was asked for before it does not hold any more: wishes are carried out in their order. False if they
    /// were not.
    fn done(&mut self, value: T) -> bool {
        let place = self.open.iter().position(|open| *open == value);
        if let Some(place) = place {
            self.open.drain(..=place);
        }
        self.held = value;
        place.is_some()
    }

    fn iter(&self) -> impl Iterator<Item = T> {
        self.open.iter().copied().chain([self.held])
    }
}

/// A call that has not ended.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u64,
    process: u32,
    since: Duration,
}

/// What is known of one post.
#[derive(Debug)]
struct Known {
    given: Given,
    id: Option<PostId>,
    acknowledged_at: Now,
    due: Said<Timestamp>,
    /// Of each part, which revision of it is to be sent.
    revisions: Vec<Said<u32>>,
    checkpoint: Said<Option<[u8; 8]>>,
    is_cancelled: bool,
    /// Its campaign was cancelled before it was ever called.
    is_called_off: bool,
    /// The host took it back or gave it up, or tried to.
    may_be_dropped: bool,
    /// The host had it sent although it might have been published.
    is_repeated: bool,
    /// Its broadcaster was called, or may have been.
    was_called: bool,
    /// How often each part was published.
    published: Vec<u32>,
    /// The idempotency key of each part.
    network_keys: Vec<Option<String>>,
    under_way: Option<Call>,
    /// When its shard began to count the time of its last call.
    entered_at: Duration,
}

impl Known {
    /// Whether the host has published it at some other due than it was given.
    fn was_hurried(&self) -> bool {
        self.due.iter().any(|due| due == Timestamp::MIN)
    }

    /// What an account of it begins with.
    fn story(&self) -> String {
        let Self { id, acknowledged_at, due, was_called, under_way, .. } = self;
        format!("{id:?}, acknowledged at {acknowledged_at:?}, {due:?}, called: {was_called}, under way: {under_way:?}")
    }

    fn is_published(&self) -> bool {
        self.published.iter().all(|times| *times > 0)
    }
}

/// A pool, as far as the host has a say in it.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub paused: Stop,
    pub held: BTreeMap<String, Stop>,
    /// What is late after a downtime may be missed.
    pub misses: bool,
    /// So many calls in each window.
    pub limit: Option<(usize, Duration)>,
    /// When its callers were told to call.
    pub entered: Vec<Timestamp>,
}

/// Whether something stands still. While a wish to change that is under way, nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stop {
    #[default]
    Unsure,
    Stopped,
}

/// All that was promised.
#[derive(Debug, Default)]
pub struct Oracle {
    posts: Vec<Known>,
    keys: BTreeMap<String, PostId>,
    /// What has which idempotency key.
    named: BTreeMap<String, (usize, usize)>,
    /// Which queued post was called for which slot.
    slots: BTreeMap<(usize, String, Timestamp), usize>,
    /// The wall clock has been set back: it shows slots again that have been taken.
    pub has_gone_back: bool,
    pub pools: Vec<Rules>,
    pub settings: Settings,
    cancelled_campaigns: BTreeSet<String>,
    pub calls: u64,
    pub checks: BTreeMap<&'static str, u64>,
    pub broken: Option<Broken>,
    pub step: u64,
    pub now: Now,
}

impl Oracle {
    /// Notes that a promise was looked at; and if it was not kept, how.
    pub fn check(&mut self, promise: &'static str, is_kept: bool, how: impl FnOnce() -> String) {
        *self.checks.entry(promise).or_default() += 1;
        if !is_kept && self.broken.is_none() {
            self.broken = Some(Broken { promise, how: how(), step: self.step });
        }
    }

    /// The host hands in a post; its number.
    pub fn hand_in(&mut self, given: Given) -> usize {
        self.posts.push(Known {
            id: None,
            acknowledged_at: Now::default(),
            due: Said::new(given.due),
            revisions: vec![Said::new(0); given.parts],
            checkpoint: Said::new(None),
            is_cancelled: false,
            is_called_off: given.campaign.as_ref().is_some_and(|name| self.cancelled_campaigns.contains(name)),
            may_be_dropped: false,
            is_repeated: false,
            was_called: false,
            published: vec![0; given.parts],
            network_keys: vec![None; given.parts],
            under_way: None,
            entered_at: Duration::ZERO,
            given,
        });
        self.posts.len() - 1
    }

    pub fn given(&self, post: usize) -> Option<&Given> {
        self.posts.get(post).map(|known| &known.given)
    }

    pub fn id(&self, post: usize) -> Option<PostId> {
        self.posts.get(post).and_then(|known| known.id)
    }

    pub fn acknowledged(&mut self, post: usize, id: PostId) {
        let now = self.now;
        let Some(known) = self.posts.get_mut(post) else { return };
        if known.id.is_none() {
            known.acknowledged_at = now;
        }
        let before = *known.id.get_or_insert(id);
        let key = known.given.key.clone();
        self.check(KEYS, before == id, || format!("post {post} was {before} and is {id}"));
        if let Some(key) = key {
            let before = *self.keys.entry(key.clone()).or_insert(id);
            self.check(KEYS, before == id, || format!("{key} was {before} and is {id}"));
        }
    }

    /// The host asks for another due; for now, if it is the first instant of all.
    pub fn ask_due(&mut self, post: usize, due: Timestamp) {
        // From now on it may have a due of its own.
        self.posts[post].given.queued = false;
        self.posts[post].due.ask(due);
    }

    /// Whatever waits in queues may be published at once.
    pub fn release_queues(&mut self) {
        self.posts.iter_mut().for_each(|known| known.given.queued = false);
    }

    pub fn moved(&mut self, post: usize, due: Timestamp) {
        let is_in_turn = self.posts[post].due.done(due);
        self.check(IN_TURN, is_in_turn, || format!("post {post} is moved to {due:?} after what was asked for later"));
    }

    /// The host asks for other content; which revision it is.
    pub fn ask_edit(&mut self, post: usize, part: usize) -> u32 {
        let said = &mut self.posts[post].revisions[part];
        let revision = said.iter().max().unwrap_or(0) + 1;
        said.ask(revision);
        revision
    }

    pub fn edited(&mut self, post: usize, part: usize, revision: u32) {
        let is_in_turn = self.posts[post].revisions[part].done(revision);
        let how = || format!("part {part} of post {post} has revision {revision} after a later one");
        self.check(IN_TURN, is_in_turn, how);
    }

    pub fn ask_checkpoint(&mut self, post: usize) -> [u8; 8] {
        let bytes = self.calls.to_le_bytes();
        if let Some(known) = self.posts.get_mut(post) {
            known.checkpoint.ask(Some(bytes));
        }
        bytes
    }

    pub fn checkpointed(&mut self, post: usize, bytes: [u8; 8]) {
        if let Some(known) = self.posts.get_mut(post) {
            known.checkpoint.done(Some(bytes));
        }
    }

    pub fn cancelled(&mut self, post: usize) {
        self.posts[post].is_cancelled = true;
    }

    /// The host wants nothing more of a campaign to be sent.
    pub fn ask_cancel_campaign(&mut self, name: &str) {
        let own = self.posts.iter_mut().filter(|known| known.given.campaign.as_deref() == Some(name));
        own.for_each(|known| known.may_be_dropped = true);
    }

    /// Nothing of it is sent any more, but what its broadcaster was called for.
    pub fn campaign_cancelled(&mut self, name: &str) {
        self.cancelled_campaigns.insert(name.to_owned());
        let own = self.posts.iter_mut().filter(|known| known.given.campaign.as_deref() == Some(name));
        own.for_each(|known| known.is_called_off |= !known.was_called);
    }

    /// What the engine says of a campaign at the end, when all of it is over.
    pub fn campaign_said(&mut self, name: &str, status: Option<&CampaignStatus>, states: &BTreeMap<PostId, State>) {
        let own = self.posts.iter().filter(|known| known.given.campaign.as_deref() == Some(name));
        let (handed_in, ids) = own.fold((0, BTreeSet::new()), |(handed_in, mut ids), known| {
            ids.extend(known.id);
            (handed_in + 1, ids)
        });
        let count = |wanted| ids.iter().filter(|id| states.get(id) == Some(&wanted)).count() as u64;
        let known = [count(State::Delivered), count(State::Failed), count(State::Missed), count(State::Cancelled)];
        let acknowledged = ids.len() as u64;
        let Some(status) = status else {
            return self.check(COUNTS, acknowledged == 0, || format!("{name} is not known"));
        };
        let said = [status.delivered, status.failed, status.missed, status.cancelled];
        let is_all = status.left == 0 && said.iter().sum::<u64>() == status.scheduled;
        // Whether the others were scheduled the host has not been told.
        let is_number = (acknowledged..=handed_in).contains(&status.scheduled);
        let is_true = said.iter().zip(known).all(|(said, known)| *said >= known);
        self.check(COUNTS, is_all && is_number && is_true, || format!("{name}: {status:?}, {known:?} of {handed_in}"));
    }

    /// The host wants it dropped, or sent again whatever happened to it.
    pub fn ask_resolution(&mut self, post: usize, is_dropped: bool, is_repeated: bool) {
        if let Some(known) = self.posts.get_mut(post) {
            known.may_be_dropped |= is_dropped;
            known.is_repeated |= is_repeated;
        }
    }

    /// A process had it on its way to the broadcaster when it died.
    pub fn was_on_its_way(&mut self, post: usize) {
        if let Some(known) = self.posts.get_mut(post) {
            known.was_called = true;
        }
    }

    /// A process died. Whether what it had noted was called then, the next one cannot know: it may use up its attempts.
    pub fn was_noted(&mut self, noted: &HashSet<Seq>) {
        let is_noted = |known: &&mut Known| known.id.is_some_and(|id| noted.contains(&id.seq()));
        self.posts.iter_mut().filter(is_noted).for_each(|known| known.was_called = true);
    }

    /// A process died then and left nothing behind of its calls, and another one starts: of what was due nobody knows whether
    /// it was called.
    pub fn forgets_calls(&mut self, died_at: Duration) {
        let now = self.now.wall;
        let is_due = |known: &Known| known.was_hurried() || known.due.iter().any(|due| due <= now);
        let before = self.posts.iter_mut().filter(|known| known.acknowledged_at.mono <= died_at && is_due(known));
        before.for_each(|known| known.was_called = true);
    }

    /// A call that the gate let in then is about to be made.
    pub fn enters(&mut self, post: usize, at: Now) {
        if let Some(known) = self.posts.get_mut(post) {
            known.entered_at = at.mono;
        }
    }

    /// It was made.
    pub fn entered(&mut self, pool: usize, at: Now) {
        if let Some(rules) = self.pools.get_mut(pool) {
            rules.entered.push(at.wall);
        }
    }

    /// The broadcaster is called to publish; the number of the call.
    pub fn call(&mut self, content: &Content, delivery: &Delivery, process: u32, now: Timestamp) -> u64 {
        self.calls += 1;
        if let Some(setting) = setting_of(content.post) {
            self.call_occurrence(setting, delivery, now);
            return self.calls;
        }
        self.judge(content, delivery, process, now);
        if let Some(known) = self.posts.get_mut(content.post) {
            known.was_called = true;
            known.under_way = Some(Call { number: self.calls, process, since: known.entered_at });
        }
        self.calls
    }

    fn judge(&mut self, content: &Content, delivery: &Delivery, process: u32, now: Timestamp) {
        let Content { post, part, revision } = *content;
        let Some(known) = self.posts.get(post).filter(|known| part < known.given.parts) else {
            return self.check(CONTENT, false, || format!("{content:?} was never handed in"));
        };
        let due = delivery.facts().due;
        let first = known.due.iter().min().unwrap_or(Timestamp::MAX);
        let last = known.due.iter().max().unwrap_or(Timestamp::MIN);
        let is_due = known.was_hurried() || known.due.iter().any(|known| known == due);
        let is_revision = known.revisions[part].iter().any(|known| known == revision);
        let is_fit = delivery.prepared().is_none_or(|prepared| prepared == delivery.payload());
        let kept = delivery.checkpointed().and_then(|bytes| bytes.first_chunk().copied());
        let is_kept = part > 0 || known.given.parts > 1 || known.checkpoint.iter().any(|known| known == kept);
        let is_after = known.published[..part].iter().all(|times| *times > 0) && delivery.receipts().len() == part;
        let own = delivery.receipts().iter().enumerate();
        let is_after = is_after && own.into_iter().all(|(part, receipt)| receipt.as_str() == format!("{post}/{part}"));
        let in_time = part > 0 || known.was_hurried() || known.given.grace.is_none_or(|grace| now <= last.after(grace));
        let is_cancelled = known.is_cancelled || known.is_called_off && !known.is_repeated;
        let published = known.published[part];
        let is_alone = !self.is_under_way(known, process);
        let is_allowed = published == 0 || known.given.guarantee == Guarantee::AtLeastOnce || known.is_repeated;
        let (pool, profile) = (known.given.pool, known.given.profile.clone());
        // It has no due of its own, and never had.
        let known_queued = known.given.queued && known.due.open.is_empty() && known.due.held == Timestamp::MIN;
        let stops = self.pools.get(pool).map(|rules| (rules.paused, rules.held.get(&profile).copied()));
        let is_stopped = stops.is_some_and(|(paused, held)| paused == Stop::Stopped || held == Some(Stop::Stopped));
        let before = self.out_of_order(post, process);
        let named = delivery.idempotency_key();
        let first_named = *self.named.entry(named.clone()).or_insert((post, part));
        let key = self.posts[post].network_keys[part].get_or_insert_with(|| named.clone());
        let is_named = *key == named && first_named == (post, part);

        self.check(EARLY, now >= first && now >= due, || format!("post {post} at {now:?}, due {first:?} or {due:?}"));
        if known_queued {
            self.judge_slot(post, pool, profile.clone(), due);
        }
        self.check(CONTENT, is_due, || format!("post {post} has {due:?}, which it does not have any more"));
        self.check(CONTENT, is_revision, || format!("post {post} has an old revision {revision} of part {part}"));
        self.check(CANCELLED, !is_cancelled, || format!("post {post}"));
        self.check(ALONE, is_alone, || format!("post {post}"));
        self.check(UNMARKED, published == 0 || delivery.is_redelivery(), || format!("post {post}, part {part}"));
        self.check(TWICE, is_allowed, || format!("post {post} was published {published} times"));
        self.check(DEADLINE, in_time, || format!("post {post} at {now:?}"));
        self.check(PAUSED, !is_stopped, || format!("post {post} of {profile:?} in pool {pool}"));
        let story = before.map(|before| self.posts[before].story());
        self.check(ORDER, before.is_none(), || format!("post {post}, due {due:?}, at {now:?} before {story:?}"));
        self.check(CHECKPOINT, is_kept, || format!("post {post} got {kept:?}"));
        self.check(NETWORK_KEYS, is_named, || format!("post {post}, part {part} has {named}"));
        self.check(PREPARED, is_fit, || format!("post {post}, revision {revision}"));
        if delivery.parts() > 1 {
            self.check(THREADS, is_after, || format!("post {post}, part {part}"));
        }
    }

    /// A queued post is called for this slot.
    fn judge_slot(&mut self, post: usize, pool: usize, profile: String, due: Timestamp) {
        let first = *self.slots.entry((pool, profile, due)).or_insert(post);
        let is_one = first == post || self.has_gone_back;
        self.check(SLOTS, is_one, || format!("post {post} has the slot {due:?} of post {first}"));
        self.check(SLOTS, due.micros() % SLOT_MICROS == 0, || format!("post {post} has {due:?}, which is no slot"));
    }

    /// Whether a call of this process is under way and not given up.
    fn is_under_way(&self, known: &Known, process: u32) -> bool {
        known.under_way.is_some_and(|call| call.process == process && self.now.mono < call.since + TIMEOUT)
    }

    /// Another post of the same profile that must go out before this one, or is on its way at the same time.
    fn out_of_order(&self, post: usize, process: u32) -> Option<usize> {
        let Given { pool, profile, in_order: true, .. } = &self.posts[post].given else { return None };
        let earliest = self.posts[post].due.iter().min()?;
        if profile.is_empty() {
            return None;
        }
        let misses = self.pools.get(*pool).is_some_and(|rules| rules.misses);
        self.posts.iter().position(|other| {
            let is_like = other.given.in_order && other.given.pool == *pool && other.given.profile == *profile;
            let is_beside = self.is_under_way(other, process);
            // Whether it ended without a call nobody but the engine knows where it may be missed or dropped.
            let Now { wall, mono, .. } = other.acknowledged_at;
            let is_known = other.id.is_some() && self.now.mono >= mono + KNOWN && wall.after(KNOWN) <= earliest;
            let waits = is_known && !other.was_called && !other.is_cancelled && !other.may_be_dropped;
            let is_sure = other.given.grace.is_none() && !misses && other.due.open.is_empty() && !other.was_hurried();
            let is_before = other.due.held < earliest && self.posts[post].due.open.is_empty();
            is_like && (is_beside || waits && is_sure && is_before && !self.posts[post].was_hurried())
        })
    }

    pub fn published(&mut self, content: &Content) {
        let Some(known) = self.posts.get_mut(content.post) else { return };
        known.published[content.part] += 1;
        let times = known.published[content.part];
        let is_allowed = times == 1 || known.given.guarantee == Guarantee::AtLeastOnce || known.is_repeated;
        self.check(TWICE, is_allowed, || format!("post {} is published {times} times", content.post));
    }

    pub fn is_published(&self, content: &Content) -> bool {
        self.posts.get(content.post).is_some_and(|known| known.published[content.part] > 0)
    }

    /// The call has ended.
    pub fn ended(&mut self, post: usize, call: u64) {
        if let Some(known) = self.posts.get_mut(post) {
            known.under_way.take_if(|under_way| under_way.number == call);
        }
    }

    /// What the engine says of a post when it has been asked.
    pub fn said(&mut self, post: usize, status: Option<&Status>, at_the_end: bool) {
        let known = &self.posts[post];
        let (is_acknowledged, is_published) = (known.id.is_some(), known.is_published());
        self.check(LOST, !is_acknowledged || status.is_some(), || format!("post {post} is not known"));
        let Some(status) = status else { return };
        let (known, state) = (&self.posts[post], status.state());
        let is_true = match state {
            State::Delivered => is_published,
            State::Missed => !known.is_cancelled,
            State::Cancelled => true,
            State::Held | State::Queued | State::InDoubt | State::Failed | State::InFlight | State::Scheduled => {
                !known.is_cancelled
            }
        };
        self.check(TRUE, is_true, || format!("post {post} is {state}, published: {is_published}"));
        if at_the_end {
            self.check(LOST, state.is_final(), || format!("post {post} is {state} in the end"));
        }
    }

    /// At the end: no window of a limit had too many calls.
    pub fn check_limits(&mut self) {
        for pool in 0..self.pools.len() {
            let Some((most, window)) = self.pools[pool].limit else { continue };
            let entered = self.pools[pool].entered.clone();
            for (first, after) in entered.iter().zip(entered.iter().skip(most)) {
                let is_kept = after.since(*first) >= window;
                self.check(LIMIT, is_kept, || format!("pool {pool}: more than {most} from {first:?} to {after:?}"));
            }
        }
    }

    pub fn posts(&self) -> usize {
        self.posts.len()
    }

    pub fn acknowledgements(&self) -> u64 {
        self.posts.iter().filter(|known| known.id.is_some()).count() as u64
    }

    pub fn digest(&self) -> u64 {
        let one = |known: &Known| {
            let published = known.published.iter().fold(0, |sum: u64, times| sum << 3 | u64::from(*times));
            published << 2 | u64::from(known.is_cancelled) << 1 | u64::from(known.was_called)
        };
        let occurrences = self.settings.occurrences() as u64;
        self.posts
            .iter()
            .fold(occurrences, |digest: u64, known| (digest ^ one(known)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}
