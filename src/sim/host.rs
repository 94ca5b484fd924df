//! The host: what it wants of the scheduler, and what it makes of the answers.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use chrono::{NaiveTime, Weekday};

use crate::error::{Error, Result, StoreError};
use crate::id::PostId;
use crate::post::{Guarantee, Post, PostRef, Priority, QueueStatus, Receipt, Resolution, Status};
use crate::quota::RateLimit;
use crate::reply::Reply;
use crate::schedule::PostingSlots;
use crate::scheduler::{Events, Scheduler};
use crate::time::Timestamp;

use super::dice::Dice;
use super::oracle::{ANSWERED, Content, Given, Stop};
use super::plan::{Draw, Plan};
use super::scene::Scene;
use super::series::{self, Asked, Healing};

/// Profiles of each pool.
const PROFILES: u64 = 3;
/// So many campaigns are there.
pub const CAMPAIGNS: u64 = 4;
/// Posts that wishes are about: the last ones.
const RECENT: usize = 50;

/// What the host may want, in its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Schedule,
    Batch,
    Again,
    Cancel,
    Reschedule,
    Edit,
    PublishNow,
    Ask,
    Pause,
    Hold,
    Resolve,
    Limits,
    Listen,
}

const WISHES: &[(&str, Wish, u64)] = &[
    ("batches", Wish::Batch, 3),
    ("keys again", Wish::Again, 3),
    ("cancellations", Wish::Cancel, 5),
    ("other dues", Wish::Reschedule, 5),
    ("edits", Wish::Edit, 5),
    ("publishing now", Wish::PublishNow, 3),
    ("questions", Wish::Ask, 5),
    ("pauses", Wish::Pause, 2),
    ("holds", Wish::Hold, 2),
    ("resolutions", Wish::Resolve, 3),
    ("other limits", Wish::Limits, 1),
    ("listeners", Wish::Listen, 1),
];

/// What it waits for.
pub enum Open {
    Scheduled { posts: Vec<usize>, reply: Reply<Vec<PostId>> },
    Changed { post: usize, change: Change, reply: Reply<()> },
    Asked { post: usize, reply: Reply<Option<Status>> },
    Stopped { pool: usize, profile: Option<String>, serial: u64, reply: Reply<()> },
    Listed { is_dead: bool, reply: Reply<Vec<Status>> },
    Done(Reply<()>),
    Requeued(Reply<u64>),
    Released { id: PostId, reply: Reply<()> },
    Lined { pool: usize, profile: String, reply: Reply<Option<QueueStatus>> },
    Series(Asked),
    CampaignCancelled { name: String, reply: Reply<()> },
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    Cancelled,
    Due(Timestamp),
    Edited { part: usize, revision: u32 },
    Resolved,
}

/// What its posts are like, in thousandths of them.
#[derive(Debug)]
struct Shapes {
    profiled: u64,
    ordered: u64,
    threaded: u64,
    dated: u64,
    ranked: u64,
    once: u64,
}

pub struct Host {
    pub scene: Scene,
    pub dice: Dice,
    wishes: Vec<(Wish, u64)>,
    shapes: Shapes,
    pub pools: usize,
    /// How far ahead dues are, at most, in milliseconds.
    ahead: u64,
    /// How often it puts posts into queues, and how often it changes their order, in thousandths of its wishes.
    pub queues: u64,
    pub orders: u64,
    /// Queued posts that are being published at once.
    released: BTreeSet<PostId>,
    /// How often it wishes something of series, in thousandths of its wishes.
    pub series: u64,
    pub healing: [Healing; series::SERIES],
    /// Of a thousand batches, how many belong to a campaign.
    pub campaigns: u64,
    /// How often it changes a post several times in a row, in thousandths of its changes.
    pub bursts: u64,
    /// The post that it is changing so, and how often still.
    pub burst: Option<(usize, PostId, u64)>,
    pub open: Vec<Open>,
    /// Wishes that something stand still, or go on.
    stops: u64,
    listener: Option<Events>,
    /// Of a thousand posts that are handed in again: with another content.
    pub others: u64,
    /// Of a thousand batches: large ones.
    pub large: u64,
    /// It decides about everything that is not decided.
    is_healing: bool,
}

pub fn campaign_name(campaign: u64) -> String {
    format!("campaign {campaign}")
}

/// Slots in every so many minutes of every day.
pub fn slots(every: u64) -> PostingSlots {
    let minutes = (0..24 * 60).step_by(every as usize);
    let times = minutes.filter_map(|minute| NaiveTime::from_num_seconds_from_midnight_opt(minute * 60, 0));
    let days = [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];
    PostingSlots::new(chrono_tz::UTC).on(days, times).build().unwrap_or_else(|_| unreachable!("there are slots"))
}

pub fn pool_name(pool: usize) -> String {
    format!("pool {pool}")
}

/// The answer to a call, if it has come.
pub fn answer<T>(reply: &mut Reply<T>) -> Option<Result<T>> {
    match Pin::new(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

impl Host {
    pub fn new(plan: &Plan, draw: &mut Draw, scene: Scene, pools: usize) -> Self {
        let wishes = WISHES.iter().map(|(class, wish, most)| (*wish, draw.rate(plan, class, *most)));
        let wishes = wishes.chain([(Wish::Schedule, 20)]).filter(|(_, weight)| *weight > 0).collect();
        let shapes = Shapes {
            profiled: draw.rate(plan, "profiles", 1_000),
            ordered: draw.rate(plan, "order", 600),
            threaded: draw.rate(plan, "threads", 300),
            dated: draw.rate(plan, "deadlines", 300),
            ranked: draw.rate(plan, "priorities", 500),
            once: draw.rate(plan, "at most once", 1_000),
        };
        let ahead = 10_u64.pow(draw.number(2, 7) as u32);
        let dice = Dice::new(plan.seed, 1);
        Self {
            scene,
            dice,
            wishes,
            shapes,
            pools,
            ahead,
            queues: 0,
            orders: 0,
            released: BTreeSet::new(),
            series: 0,
            campaigns: 0,
            bursts: 0,
            burst: None,
            healing: [Healing::default(); series::SERIES],
            open: Vec::new(),
            stops: 0,
            listener: None,
            others: 0,
            large: 0,
            is_healing: false,
        }
    }

    pub fn wish(&mut self, scheduler: &Scheduler) {
        if let Some((post, id, left)) = self.burst.take() {
            let wish = [Wish::Reschedule, Wish::Edit, Wish::Ask][self.dice.below(3) as usize];
            self.burst = (left > 1).then(|| (post, id, left - 1));
            return self.change(scheduler, wish, post, id);
        }
        if self.queues > 0 && self.dice.falls(self.queues) {
            return self.enqueue(scheduler);
        }
        if self.orders > 0 && self.dice.falls(self.orders) {
            return self.reorder(scheduler);
        }
        if self.series > 0 && self.dice.falls(self.series) {
            return self.wish_series(scheduler);
        }
        let all = self.wishes.iter().map(|(_, weight)| weight).sum();
        let mut fallen = self.dice.below(all);
        let wish = self.wishes.iter().find(|(_, weight)| {
            let is_it = fallen < *weight;
            fallen = fallen.saturating_sub(*weight);
            is_it
        });
        let Some((wish, _)) = wish.copied() else { return };
        let pool = self.dice.below(self.pools as u64) as usize;
        match wish {
            Wish::Schedule => self.schedule(scheduler, 1),
            Wish::Batch => {
                let mut posts = 1 + self.dice.below(20) as usize;
                if self.large > 0 && self.dice.falls(self.large) {
                    posts *= 8;
                }
                self.schedule(scheduler, posts);
            }
            Wish::Again => self.schedule_again(scheduler),
            Wish::Cancel | Wish::Reschedule | Wish::Edit | Wish::PublishNow | Wish::Ask => {
                if let Some((post, id)) = self.recent() {
                    if self.bursts > 0 && self.dice.falls(self.bursts) {
                        self.burst = Some((post, id, 1 + self.dice.below(6)));
                    }
                    self.change(scheduler, wish, post, id);
                }
            }
            Wish::Pause => {
                let is_paused = self.dice.falls(500);
                self.pause(scheduler, pool, is_paused);
            }
            Wish::Hold => {
                let profile = self.profile();
                let is_held = self.dice.falls(500);
                self.hold(scheduler, pool, profile, is_held);
            }
            Wish::Resolve => self.list(scheduler, pool),
            Wish::Limits => {
                let limit = RateLimit::rolling(1 + self.dice.below(50) as u32, Duration::from_secs(60));
                // They are checked in worlds where they stay what they are.
                self.scene.look().oracle.pools[pool].limit = None;
                self.open.push(Open::Done(scheduler.set_limits(&pool_name(pool), [limit])));
            }
            Wish::Listen => self.listener = self.listener.take().xor(Some(scheduler.events())),
        }
    }

    fn recent(&mut self) -> Option<(usize, PostId)> {
        let state = self.scene.look();
        let posts = state.oracle.posts();
        let post = posts.saturating_sub(1 + self.dice.below(RECENT.min(posts) as u64) as usize);
        Some((post, state.oracle.id(post)?))
    }

    pub fn profile(&mut self) -> String {
        format!("profile {}", self.dice.below(PROFILES))
    }

    fn due(&mut self) -> Timestamp {
        let ahead = self.dice.millis(self.ahead);
        let due = self.scene.time().wall.after(ahead).ceil_millis();
        let minute = 60_000;
        // Many are due on the full minute.
        if self.dice.falls(300) { Timestamp::from_millis((due.millis() / minute + 1) * minute) } else { due }
    }

    fn draw(&mut self) -> Given {
        let posts = self.scene.look().oracle.posts();
        let Shapes { profiled, ordered, threaded, dated, once, .. } = self.shapes;
        let parts = if self.dice.falls(threaded) { 2 + self.dice.below(3) as usize } else { 1 };
        let profile = if self.dice.falls(profiled) { self.profile() } else { String::new() };
        Given {
            pool: self.dice.below(self.pools as u64) as usize,
            in_order: !profile.is_empty() && self.dice.falls(ordered),
            profile,
            key: self.dice.falls(200).then(|| format!("key {posts}")),
            due: self.due(),
            queued: false,
            // Where keys are played with, some are refused if they come late, unless they are known.
            or_now: self.others == 0 || posts.is_multiple_of(2),
            guarantee: if self.dice.falls(once) { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce },
            parts,
            grace: self.dice.falls(dated).then(|| self.dice.millis(600_000)),
            campaign: None,
        }
    }

    /// The post that was handed in under this number, as it was then.
    fn post(given: &Given, post: usize, priority: Option<Priority>) -> Post {
        let content = |part| Content { post, part, revision: 0 }.write();
        let mut built =
            Post::new(pool_name(given.pool), content(0)).guarantee(given.guarantee).profile(given.profile.clone());
        built = (1..given.parts).fold(built, |built, part| built.then(content(part)));
        built = given.key.iter().fold(built, |built, key| built.key(key));
        built = given.grace.iter().fold(built, |built, grace| built.expires_after(*grace));
        built = priority.iter().fold(built, |built, priority| built.priority(*priority));
        built = if given.queued { built } else { built.at(given.due.to_datetime()) };
        built = if given.or_now { built.or_now() } else { built };
        if given.in_order { built.in_order() } else { built }
    }

    fn schedule(&mut self, scheduler: &Scheduler, posts: usize) {
        let (mut numbers, mut built) = (Vec::new(), Vec::new());
        let campaign = self.campaign();
        if let Some(name) = campaign.as_ref().filter(|_| self.dice.falls(50)) {
            return self.cancel_campaign(scheduler, name);
        }
        for _ in 0..posts {
            let given = Given { campaign: campaign.clone(), ..self.draw() };
            // A post with a key is handed in again as it was.
            let is_ranked = self.dice.falls(self.shapes.ranked) && given.key.is_none();
            let priority = is_ranked.then(|| Priority::new(self.dice.below(256) as u8));
            let number = self.scene.look().oracle.hand_in(given.clone());
            built.push(Self::post(&given, number, priority));
            numbers.push(number);
        }
        self.hand_in(scheduler, campaign, numbers, built);
    }

    fn hand_in(&mut self, scheduler: &Scheduler, campaign: Option<String>, posts: Vec<usize>, built: Vec<Post>) {
        let reply = match campaign {
            Some(name) => scheduler.campaign(&name).schedule_all(built),
            None => scheduler.schedule_all(built),
        };
        self.open.push(Open::Scheduled { posts, reply });
    }

    /// The campaign of a batch, if it belongs to one.
    fn campaign(&mut self) -> Option<String> {
        (self.campaigns > 0 && self.dice.falls(self.campaigns)).then(|| campaign_name(self.dice.below(CAMPAIGNS)))
    }

    fn cancel_campaign(&mut self, scheduler: &Scheduler, name: &str) {
        self.scene.look().oracle.ask_cancel_campaign(name);
        let reply = scheduler.campaign(name).cancel();
        self.open.push(Open::CampaignCancelled { name: name.to_owned(), reply });
    }

    /// The host has forgotten whether it did.
    fn schedule_again(&mut self, scheduler: &Scheduler) {
        let posts = self.scene.look().oracle.posts();
        let post = posts.saturating_sub(1 + self.dice.below(RECENT as u64) as usize);
        let given = self.scene.look().oracle.given(post).cloned();
        if let Some(given) = given.filter(|given| given.key.is_some()) {
            // If it is the first to arrive, and late, it is due now.
            self.scene.look().oracle.ask_due(post, Timestamp::MIN);
            let again = if self.others > 0 && self.dice.falls(self.others) {
                self.another(&given, post)
            } else {
                Self::post(&given, post, None)
            };
            self.hand_in(scheduler, given.campaign, vec![post], vec![again]);
        }
    }

    /// The same post with another content: it is not to be taken if the first one was.
    fn another(&mut self, given: &Given, post: usize) -> Post {
        let revision = self.scene.look().oracle.ask_edit(post, 0);
        let payload = Content { post, part: 0, revision }.write().into();
        Post { payload, ..Self::post(given, post, None) }
    }

    fn change(&mut self, scheduler: &Scheduler, wish: Wish, post: usize, id: PostId) {
        let key = self.scene.look().oracle.given(post).and_then(|given| given.key.clone());
        let key = key.filter(|_| self.bursts > 0 && self.dice.falls(500));
        let name = key.map_or(PostRef::from(id), PostRef::from);
        let (change, reply) = match wish {
            Wish::Cancel => {
                self.scene.look().oracle.ask_resolution(post, true, false);
                (Change::Cancelled, scheduler.cancel(name))
            }
            Wish::Reschedule => {
                let due = self.due();
                self.scene.look().oracle.ask_due(post, due);
                (Change::Due(due), scheduler.reschedule(name, due.to_datetime()))
            }
            Wish::PublishNow => {
                self.scene.look().oracle.ask_due(post, Timestamp::MIN);
                (Change::Due(Timestamp::MIN), scheduler.publish_now(name))
            }
            Wish::Edit => {
                let parts = self.scene.look().oracle.given(post).map_or(1, |given| given.parts);
                let part = self.dice.below(parts as u64) as usize;
                let revision = self.scene.look().oracle.ask_edit(post, part);
                let payload = Content { post, part, revision }.write();
                (Change::Edited { part, revision }, scheduler.edit_part(name, part, payload))
            }
            _ => return self.open.push(Open::Asked { post, reply: scheduler.get(name) }),
        };
        self.open.push(Open::Changed { post, change, reply });
    }

    /// Puts posts into a profile's queue, or gives it other slots.
    fn enqueue(&mut self, scheduler: &Scheduler) {
        let pool = self.dice.below(self.pools as u64) as usize;
        let profile = self.profile();
        let queue = scheduler.queue(&pool_name(pool), &profile);
        if self.dice.falls(200) {
            let every = 1 + self.dice.below(3);
            return self.open.push(Open::Done(queue.set_slots(slots(every))));
        }
        let count = 1 + self.dice.below(4);
        let mut numbers = Vec::new();
        let mut built = Vec::new();
        for _ in 0..count {
            let given = Given { pool, profile: profile.clone(), due: Timestamp::MIN, queued: true, ..self.draw() };
            let number = self.scene.look().oracle.hand_in(given.clone());
            built.push(Self::post(&given, number, None));
            numbers.push(number);
        }
        self.open.push(Open::Scheduled { posts: numbers, reply: queue.push_all(built) });
    }

    /// Changes the order of a queue, or lets it stand still.
    fn reorder(&mut self, scheduler: &Scheduler) {
        let pool = self.dice.below(self.pools as u64) as usize;
        let (one, other) = (self.recent(), self.recent());
        let profile = self.profile();
        let mut queue = scheduler.queue(&pool_name(pool), &profile);
        let own = |post: Option<(usize, PostId)>| {
            let state = self.scene.look();
            let given = post.and_then(|(post, _)| state.oracle.given(post).cloned());
            given.filter(|given| given.queued).map(|given| (given.pool, given.profile))
        };
        if let Some((pool, profile)) = own(one) {
            queue = scheduler.queue(&pool_name(pool), &profile);
        }
        let ids = one.zip(other).map(|((_, one), (_, other))| (one, other));
        let reply = match (self.dice.below(6), ids) {
            (0, Some((one, other))) => queue.swap(one, other),
            (1 | 2, Some((one, _))) => queue.move_to(one, self.dice.below(4) as usize),
            (3, _) => queue.shuffle(self.dice.below(1_000)),
            (4, _) => queue.pause(),
            (_, _) => queue.resume(),
        };
        self.open.push(Open::Done(reply));
    }

    /// Asks what is in a queue.
    fn line(&mut self, scheduler: &Scheduler, pool: usize, profile: String) {
        let is_same =
            |open: &Open| matches!(open, Open::Lined { pool: p, profile: q, .. } if (p, q) == (&pool, &profile));
        if self.open.iter().any(is_same) {
            return;
        }
        let reply = scheduler.queue(&pool_name(pool), &profile).status();
        self.open.push(Open::Lined { pool, profile, reply });
    }

    fn pause(&mut self, scheduler: &Scheduler, pool: usize, is_paused: bool) {
        self.scene.look().oracle.pools[pool].paused = Stop::Unsure;
        let name = pool_name(pool);
        let reply = if is_paused { scheduler.pause(&name) } else { scheduler.resume(&name) };
        self.stop(pool, None, is_paused, reply);
    }

    fn hold(&mut self, scheduler: &Scheduler, pool: usize, profile: String, is_held: bool) {
        self.scene.look().oracle.pools[pool].held.insert(profile.clone(), Stop::Unsure);
        let name = pool_name(pool);
        let reply = match is_held {
            true => scheduler.hold_profile(&name, &profile, "for a while"),
            false => scheduler.release_profile(&name, &profile),
        };
        self.stop(pool, Some(profile), is_held, reply);
    }

    /// Something is to stand still, or to go on. Only the latest wish counts.
    fn stop(&mut self, pool: usize, profile: Option<String>, is_stopped: bool, reply: Reply<()>) {
        self.stops += 1;
        let is_same =
            |open: &Open| matches!(open, Open::Stopped { pool: p, profile: q, .. } if *p == pool && *q == profile);
        for open in self.open.iter_mut().filter(|open| is_same(open)) {
            if let Open::Stopped { serial, .. } = open {
                *serial = 0;
            }
        }
        let serial = if is_stopped { self.stops } else { 0 };
        self.open.push(Open::Stopped { pool, profile, serial, reply });
    }

    fn list(&mut self, scheduler: &Scheduler, pool: usize) {
        let (name, is_dead) = (pool_name(pool), self.dice.falls(500));
        if is_dead && self.dice.falls(300) {
            return self.open.push(Open::Requeued(scheduler.requeue_dead_letters(&name)));
        }
        let reply = if is_dead { scheduler.dead_letters(&name, None) } else { scheduler.in_doubt(&name, None) };
        self.open.push(Open::Listed { is_dead, reply });
    }

    /// Decides about posts that nothing happens to by themselves.
    fn resolve(&mut self, scheduler: &Scheduler, listed: &[Status], is_dead: bool, most: usize) {
        for status in listed.iter().take(most) {
            let part = status.receipts().len().min(status.parts().saturating_sub(1));
            let content = Content::read(status.part(part));
            if let Some(setting) = series::setting_of(content.post) {
                self.scene.look().oracle.decide_occurrence(setting, Timestamp::due(status.due()));
            }
            let is_published = self.scene.look().oracle.is_published(&content);
            let resolution = match self.dice.below(3) {
                0 if is_published && !is_dead => Resolution::Sent(Receipt::new(format!("{}/{part}", content.post))),
                1 => Resolution::Drop,
                _ => Resolution::SendAgain,
            };
            let (is_dropped, is_again) = (resolution == Resolution::Drop, resolution == Resolution::SendAgain);
            self.scene.look().oracle.ask_resolution(content.post, is_dropped, is_again);
            let reply = scheduler.resolve(status.id(), resolution);
            self.open.push(Open::Changed { post: content.post, change: Change::Resolved, reply });
        }
    }

    /// Takes the answers that have come.
    pub fn take_replies(&mut self, scheduler: Option<&Scheduler>) {
        // What is said of a post was true before what is answered beside it.
        let (asked, others): (Vec<_>, Vec<_>) =
            self.open.drain(..).partition(|open| matches!(open, Open::Asked { .. }));
        let mut still_open = Vec::with_capacity(asked.len() + others.len());
        for mut open in asked.into_iter().chain(others) {
            if !self.take_reply(&mut open, scheduler) {
                still_open.push(open);
            }
        }
        still_open.append(&mut self.open);
        self.open = still_open;
    }

    /// True if it has come.
    fn take_reply(&mut self, open: &mut Open, scheduler: Option<&Scheduler>) -> bool {
        match open {
            Open::Scheduled { posts, reply } => match answer(reply) {
                Some(Ok(ids)) => {
                    let oracle = &mut self.scene.look().oracle;
                    posts.iter().zip(ids).for_each(|(post, id)| oracle.acknowledged(*post, id));
                }
                Some(Err(_)) => {}
                None => return false,
            },
            Open::Changed { post, change, reply } => match answer(reply) {
                Some(Ok(())) => {
                    let oracle = &mut self.scene.look().oracle;
                    match *change {
                        Change::Cancelled => oracle.cancelled(*post),
                        Change::Due(due) => oracle.moved(*post, due),
                        Change::Edited { part, revision } => oracle.edited(*post, part, revision),
                        Change::Resolved => {}
                    }
                }
                Some(Err(_)) => {}
                None => return false,
            },
            Open::Asked { post, reply } => match answer(reply) {
                Some(Ok(status)) => self.scene.look().oracle.said(*post, status.as_ref(), false),
                Some(Err(Error::Closed | Error::Overloaded | Error::StoreStalled { .. })) => {}
                Some(Err(Error::Store(StoreError::Poisoned))) => {}
                Some(Err(error)) => self.scene.look().oracle.check(ANSWERED, false, || error.to_string()),
                None => return false,
            },
            Open::Stopped { pool, profile, serial, reply } => match answer(reply) {
                Some(Ok(())) if *serial > 0 => {
                    let rules = &mut self.scene.look().oracle.pools[*pool];
                    match profile {
                        Some(profile) => drop(rules.held.insert(profile.clone(), Stop::Stopped)),
                        None => rules.paused = Stop::Stopped,
                    }
                }
                Some(_) => {}
                None => return false,
            },
            Open::Listed { is_dead, reply } => match answer(reply) {
                Some(Ok(listed)) => {
                    let most = if self.is_healing { usize::MAX } else { self.dice.below(4) as usize };
                    if let Some(scheduler) = scheduler {
                        self.resolve(scheduler, &listed, *is_dead, most);
                    }
                }
                Some(Err(_)) => {}
                None => return false,
            },
            Open::Lined { pool, profile, reply } => match answer(reply) {
                Some(Ok(Some(status))) if self.is_healing => {
                    if let Some(scheduler) = scheduler.filter(|_| !status.posts().is_empty()) {
                        for id in status.posts().iter().map(|post| post.id) {
                            if self.released.insert(id) {
                                self.open.push(Open::Released { id, reply: scheduler.publish_now(id) });
                            }
                        }
                        self.line(scheduler, *pool, profile.clone());
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) if self.is_healing && scheduler.is_some() => {
                    if let Some(scheduler) = scheduler {
                        self.line(scheduler, *pool, profile.clone());
                    }
                }
                Some(Err(_)) => {}
                None => return false,
            },
            Open::Released { id, reply } => match answer(reply) {
                Some(_) => _ = self.released.remove(id),
                None => return false,
            },
            Open::CampaignCancelled { name, reply } => match answer(reply) {
                Some(Ok(())) => self.scene.look().oracle.campaign_cancelled(name),
                Some(Err(_)) => {}
                None => return false,
            },
            Open::Series(asked) => return self.take_series(asked),
            Open::Done(reply) => return answer(reply).is_some(),
            Open::Requeued(reply) => return answer(reply).is_some(),
        }
        true
    }

    /// Whether something it wished for has not been answered.
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether nothing more comes of itself.
    pub fn is_over(&self) -> bool {
        self.series == 0 || self.healing.iter().all(|series| *series == Healing::Over)
    }

    /// Everything that stands still is to go on, and what is not decided is decided.
    pub fn heal(&mut self, scheduler: &Scheduler) {
        if !std::mem::replace(&mut self.is_healing, true) {
            self.healing = Default::default();
        }
        if self.series > 0 {
            self.heal_series(scheduler);
        }
        self.scene.look().oracle.release_queues();
        for pool in 0..self.pools {
            self.pause(scheduler, pool, false);
            for profile in 0..PROFILES {
                self.hold(scheduler, pool, format!("profile {profile}"), false);
                if self.queues > 0 {
                    self.line(scheduler, pool, format!("profile {profile}"));
                }
            }
            self.hold(scheduler, pool, String::new(), false);
            for is_dead in [false, true] {
                let name = pool_name(pool);
                let reply = if is_dead { scheduler.dead_letters(&name, None) } else { scheduler.in_doubt(&name, None) };
                self.open.push(Open::Listed { is_dead, reply });
            }
        }
    }
}
