//! Campaigns: posts that are sent together, counted together, and cancelled together. How many there are is remembered with
//! each unit that is scheduled, how many have ended with each commit in which they end: so both are exact after a crash.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::Error;
use crate::id::Seq;
use crate::post::{CampaignStatus, Change, Doubt, Home, Outcome, Record, Shelf};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::commits::{Planned, Then};
use super::lifecycle::Phase;
use super::{Engine, Resident};

/// What is remembered of a campaign, and of a unit of its posts, begins with these.
const HEAD: u8 = b'C';
const UNIT: u8 = b'c';
const CANCELLED: u8 = 1;

/// How many posts of a campaign have ended, and how; dead letters have failed, until they are sent again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    pub delivered: i64,
    pub failed: i64,
    pub missed: i64,
    pub cancelled: i64,
    /// Not ended: held because nobody knows whether they were published.
    pub doubtful: i64,
}

/// How many of each campaign end with a commit.
pub type Tallies = BTreeMap<Box<str>, Tally>;

impl Tally {
    /// A post ends so; or a dead letter does, which had failed.
    pub fn end(&mut self, outcome: &Outcome, shelf: Option<Shelf>) {
        self.shelve(shelf, -1);
        *match outcome {
            Outcome::Delivered(_) => &mut self.delivered,
            Outcome::Failed { .. } => &mut self.failed,
            Outcome::Missed { .. } => &mut self.missed,
            Outcome::Cancelled => &mut self.cancelled,
        } += 1;
    }

    /// Something on this shelf is there, or not any more.
    fn shelve(&mut self, shelf: Option<Shelf>, count: i64) {
        match shelf {
            Some(Shelf::Dead) => self.failed += count,
            Some(Shelf::InDoubt) => self.doubtful += count,
            Some(Shelf::Queued | Shelf::Held) | None => {}
        }
    }

    fn add(&mut self, more: Self) {
        self.delivered += more.delivered;
        self.failed += more.failed;
        self.missed += more.missed;
        self.cancelled += more.cancelled;
        self.doubtful += more.doubtful;
    }

    fn sum(self) -> i64 {
        self.delivered + self.failed + self.missed + self.cancelled
    }
}

/// A campaign.
#[derive(Clone, PartialEq, Debug)]
struct Campaign {
    is_cancelled: bool,
    scheduled: i64,
    /// The last due of any post, as it was scheduled.
    last_due: Timestamp,
    tally: Tally,
    /// Its units, by their first posts.
    units: Vec<Seq>,
    /// Since when nothing is left of it, as far as this process knows.
    over_since: Option<Timestamp>,
}

impl Default for Campaign {
    fn default() -> Self {
        let (units, last_due, tally) = (Vec::new(), Timestamp::MIN, Tally::default());
        Self { is_cancelled: false, scheduled: 0, last_due, tally, units, over_since: None }
    }
}

/// All campaigns, by name.
#[derive(Debug, Default)]
pub struct Campaigns {
    all: BTreeMap<Box<str>, Campaign>,
    cancelled: usize,
}

impl Campaigns {
    /// Takes in what ends with a commit that is about to be made; what is to be remembered with it.
    pub fn count(&mut self, tallies: Tallies) -> Vec<Change> {
        let count = |(name, tally): (Box<str>, Tally)| {
            let campaign = self.all.get_mut(&name)?;
            campaign.tally.add(tally);
            if campaign.left() > 0 {
                campaign.over_since = None;
            }
            Some(campaign.note(&name))
        };
        let notes = tallies.into_iter().filter_map(count).collect();
        if sabotage::is(Switch::UncountedEnds) { Vec::new() } else { notes }
    }
}

impl Campaign {
    fn note(&self, name: &str) -> Change {
        let mut value = BytesMut::with_capacity(41);
        value.put_u8(u8::from(self.is_cancelled) * CANCELLED);
        let Tally { delivered, failed, missed, cancelled, doubtful } = self.tally;
        [delivered, failed, missed, cancelled, doubtful].iter().for_each(|count| value.put_i64_le(*count));
        Change::Remember { key: key(HEAD, name, None), value: value.freeze() }
    }

    fn left(&self) -> i64 {
        self.scheduled - self.tally.sum()
    }
}

fn key(letter: u8, name: &str, first: Option<Seq>) -> Bytes {
    let mut key = BytesMut::with_capacity(10 + name.len());
    key.put_u8(letter);
    // Names have at most 255 bytes.
    key.put_u8(name.len() as u8);
    key.put_slice(name.as_bytes());
    if let Some(first) = first {
        key.put_u64(first.0);
    }
    key.freeze()
}

/// What is remembered with a unit of posts of this campaign.
pub fn unit_note(name: &str, records: &[Record]) -> Option<(Bytes, Bytes)> {
    let first = records.first()?.seq;
    let last_due = records.iter().map(|record| record.due).max()?;
    let mut value = BytesMut::with_capacity(12);
    value.put_u32_le(records.len() as u32);
    value.put_i64_le(last_due.micros());
    Some((key(UNIT, name, Some(first)), value.freeze()))
}

impl Engine {
    /// Takes in what is remembered of a campaign; false if it is something else.
    pub(super) fn remember_campaign(&mut self, key: &[u8], mut value: &[u8]) -> bool {
        let Some((letter, rest)) = key.split_first().filter(|(letter, _)| matches!(**letter, HEAD | UNIT)) else {
            return false;
        };
        let Some((len, rest)) = rest.split_first() else { return true };
        let Some((name, mut first)) = rest.split_at_checked(usize::from(*len)) else { return true };
        let Ok(name) = std::str::from_utf8(name) else { return true };
        let campaign = self.campaigns.all.entry(name.into()).or_default();
        if *letter == HEAD {
            campaign.is_cancelled = value.try_get_u8().unwrap_or(0) & CANCELLED != 0;
            let mut count = || value.try_get_i64_le().unwrap_or(0);
            campaign.tally =
                Tally { delivered: count(), failed: count(), missed: count(), cancelled: count(), doubtful: count() };
            self.campaigns.cancelled += usize::from(campaign.is_cancelled);
        } else {
            campaign.units.push(Seq(first.try_get_u64().unwrap_or(0)));
            campaign.scheduled += i64::from(value.try_get_u32_le().unwrap_or(0));
            let due = value.try_get_i64_le().map_or(Timestamp::MIN, Timestamp::from_micros);
            campaign.last_due = campaign.last_due.max(due);
        }
        true
    }

    /// Whether nothing more of this campaign is to be sent.
    pub(super) fn is_cancelled(&self, name: &str) -> bool {
        self.campaigns.all.get(name).is_some_and(|campaign| campaign.is_cancelled)
    }

    /// Whether this post belongs to a campaign that was cancelled.
    pub(super) fn is_called_off(&self, record: &Record) -> bool {
        self.campaigns.cancelled > 0 && record.body.campaign().is_some_and(|name| self.is_cancelled(name))
    }

    /// What the host sees of a campaign.
    pub(super) fn show_campaign(&self, name: &str) -> Option<CampaignStatus> {
        let campaign = self.campaigns.all.get(name)?;
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let Tally { delivered, failed, missed, cancelled, doubtful } = campaign.tally;
        // Those that have not been met yet are not sent either.
        let called_off = if campaign.is_cancelled { campaign.left() - doubtful - self.going(name) } else { 0 };
        Some(CampaignStatus {
            is_cancelled: campaign.is_cancelled,
            scheduled: count(campaign.scheduled),
            delivered: count(delivered),
            failed: count(failed),
            missed: count(missed),
            cancelled: count(cancelled + called_off),
            left: count(campaign.left() - called_off),
            last_due: (campaign.last_due > Timestamp::MIN).then(|| campaign.last_due.to_datetime()),
        })
    }

    /// How many posts of a campaign cannot be taken back any more, and have not ended.
    fn going(&self, name: &str) -> i64 {
        let is_going = |post: &Resident| {
            let is_out = post.phase == Phase::InFlight || post.record.doubt != Doubt::None;
            let is_out = is_out && post.record.home().shelf() != Some(Shelf::InDoubt) && post.phase != Phase::Leaving;
            is_out && post.record.body.campaign() == Some(name)
        };
        self.posts.iter().filter(|(_, post)| is_going(post)).count() as i64
    }

    /// New posts of a campaign are stored.
    pub(super) fn campaign_grew(&mut self, name: &str, posts: &[Planned]) {
        let Some(first) = posts.first() else { return };
        let campaign = self.campaigns.all.entry(name.into()).or_default();
        campaign.units.push(first.record.seq);
        campaign.scheduled += posts.len() as i64;
        let last = posts.iter().map(|post| post.record.due).max();
        campaign.last_due = campaign.last_due.max(last.unwrap_or(Timestamp::MIN));
        campaign.over_since = None;
    }

    /// The host wants nothing more of a campaign to be sent. What its broadcaster has been called for ends as it may.
    pub(super) fn cancel_campaign(&mut self, name: &str, promise: Promise<()>) {
        let Some(campaign) = self.campaigns.all.get_mut(name) else {
            return promise.fulfil(Err(Error::NoCampaign { name: name.to_owned() }));
        };
        self.campaigns.cancelled += usize::from(!campaign.is_cancelled);
        campaign.is_cancelled = true;
        // The note is made when the commit is: after whatever ends in those before it.
        self.commits.note(Then::Noted { promise: Some(promise), event: None });
        self.commits.tally(name, |_| {});
        let is_own =
            |post: &Resident| post.record.body.campaign() == Some(name) && post.record.doubt != Doubt::Accepted;
        let own: Vec<u32> = self.posts.iter().filter(|(_, post)| is_own(post)).map(|(slot, _)| slot as u32).collect();
        for slot in own {
            let Some(Resident { phase, record, .. }) = self.posts.get(slot as usize) else { continue };
            let (phase, doubt) = (*phase, record.doubt);
            let is_free = phase.is_open() || self.withdraw(slot);
            match doubt {
                Doubt::None if is_free => self.leave(slot, Outcome::Cancelled, None, None),
                // What is in doubt is held. Where it is being moved that comes when it has been.
                Doubt::Open if is_free => self.proceed(slot),
                _ => {}
            }
        }
    }

    /// A post goes from one home to another: to the dead letters, or back.
    pub(super) fn tally_move(&mut self, from: Home, to: &Record) {
        let (before, after) = (from.shelf(), to.home().shelf());
        if before != after
            && let Some(name) = to.body.campaign()
        {
            self.commits.tally(name, |tally| {
                tally.shelve(before, -1);
                tally.shelve(after, 1);
            });
        }
    }

    /// Forgets campaigns of which nothing has been left for as long as finished posts are remembered.
    pub(super) fn forget_campaigns(&mut self) {
        let (now, retention) = (self.now.wall, self.settings.retention);
        // Dead letters may be sent again as long as they are kept.
        let of_dead = retention.max(self.settings.dead_letter_retention);
        for campaign in self.campaigns.all.values_mut() {
            let is_over = campaign.left() <= 0;
            campaign.over_since = if is_over { campaign.over_since.or(Some(now)) } else { None };
        }
        let is_old = |campaign: &Campaign| {
            let kept = if campaign.tally.failed > 0 { of_dead } else { retention };
            campaign.over_since.is_some_and(|since| since.after(kept) <= now)
        };
        let old: Vec<Box<str>> =
            self.campaigns.all.iter().filter(|(_, campaign)| is_old(campaign)).map(|(name, _)| name.clone()).collect();
        for name in old {
            let Some(campaign) = self.campaigns.all.remove(&name) else { continue };
            self.campaigns.cancelled -= usize::from(campaign.is_cancelled);
            let units = campaign.units.iter().map(|first| key(UNIT, &name, Some(*first)));
            for key in units.chain([key(HEAD, &name, None)]) {
                self.commits.add(Change::Remember { key, value: Bytes::new() }, None, 0);
            }
        }
    }
}
