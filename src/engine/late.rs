//! Posts whose due has passed: missed, spread, or at a distance from each other.

use std::time::Duration;

use crate::catch_up::spread;
use crate::id::Seq;
use crate::marks::{self, Mark};
use crate::post::{Doubt, Outcome};
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::commits::Why;
use super::shelves::Listing;
use super::site::Site;
use super::{Engine, Resident};

/// A first attempt that would be later than this is late: nobody could make it in time.
const LATE: Duration = Duration::from_secs(1);

/// How far a post has got with being given a place among those of its profile and what is late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placing {
    Open,
    /// It became due while the backlog before it was being loaded: it is not a part of that.
    Behind,
    /// It is late, and waits to be spread.
    Waits,
    Done,
}

/// The window over which late posts are spread.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spread {
    until: Timestamp,
    /// Those that have been spread have their places before this.
    from: Timestamp,
    rest: Rest,
}

/// How many late posts wait for their places, where memory has no room for all of them.
#[derive(Clone, Copy, Default, Debug)]
enum Rest {
    #[default]
    Unknown,
    /// So many have been listed that are not in memory.
    Counting(usize),
    Counted(usize),
}

impl Engine {
    /// Finds the place of a post that is to be claimed among those of its profile, and of what is late; false if it has to
    /// wait for it.
    pub(super) fn place(&mut self, slot: u32) -> bool {
        let (now, ahead) = (self.now.wall, self.settings.claim_ahead);
        let Some(post) = self.posts.get_mut(slot as usize) else { return false };
        let is_behind = post.placing == Placing::Behind;
        match post.placing {
            Placing::Open | Placing::Behind => post.placing = Placing::Done,
            Placing::Waits => return false,
            Placing::Done => return true,
        }
        let Some(place) = self.places.get(post.record.pool) else { return false };
        let (Some(pool), Some(site)) = (self.settings.pools.get(place), self.sites.get_mut(place)) else {
            return false;
        };
        let is_late = post.record.attempts == 0
            && post.record.notes.receipts().is_empty()
            && post.ready_at.after(LATE) < now
            && pool.deadline(&post.record).is_none_or(|deadline| deadline >= now);
        if is_late && !is_behind && !pool.catch_up.spread().is_zero() {
            post.placing = Placing::Waits;
            site.late.push((slot, post.record.seq));
            return false;
        }
        let profile = post.record.body.profile();
        if post.record.is_placed() && !is_late {
            site.gaps.keep(profile, post.ready_at, now);
            return true;
        }
        let at = if is_late { post.ready_at.max(now) } else { post.ready_at };
        let placed = site.gaps.place(profile, at, is_late, now);
        if placed > now {
            post.ready_at = post.ready_at.max(placed);
        }
        if placed.before(ahead) > now {
            let is_full = site.window.is_filled(self.settings.memory);
            if !(is_full && self.go_to_place(slot)) {
                self.proceed(slot);
            }
            return false;
        }
        true
    }

    /// It has a place that is far, and others wait for memory: the store keeps it until then, or until it is missed. Not where
    /// others have to know of it, as those behind a post in order and series, nor one whose record cannot tell that it has
    /// a place.
    fn go_to_place(&mut self, slot: u32) -> bool {
        let Some(post) = self.posts.get(slot as usize) else { return false };
        let over = self.deadline(post).map(|deadline| deadline.after(Duration::from_millis(1)));
        let at = over.map_or(post.ready_at, |over| over.min(post.ready_at)).ceil_millis();
        let may_go = !post.in_order && !post.record.body.is_occurrence() && post.record.next_claim() == 1;
        if !may_go || at.before(self.settings.claim_ahead) <= self.now.wall {
            return false;
        }
        marks::reach(Mark::LeftToItsPlace);
        let mut to = post.record.clone();
        to.at = at;
        self.relocate(slot, to, Why::Quiet, None);
        true
    }

    /// Whether a post that is being loaded became due while nothing but loading what is before it has held it up, as in a spike
    /// that memory does not hold.
    pub(super) fn is_behind_backlog(&self, place: usize, ready_at: Timestamp) -> bool {
        self.sites.get(place).is_some_and(|site| ready_at > site.awake_since)
    }

    /// Spreads what is late, once all of it is there, or no more fits and it is known how much is left.
    pub(super) fn catch_up(&mut self) {
        for place in 0..self.sites.len() {
            let (Some(pool), Some(site)) = (self.settings.pools.get(place), self.sites.get_mut(place)) else { return };
            let (now, window) = (self.now.wall, pool.catch_up.spread());
            let is_full = site.window.is_filled(self.settings.memory);
            let is_all_there = site.window.is_passed(now.before(LATE));
            match site.spread.rest {
                Rest::Counting(_) => continue,
                Rest::Unknown if is_full && !is_all_there && !site.late.is_empty() => {
                    marks::reach(Mark::SpreadInPart);
                    site.spread.rest = Rest::Counting(0);
                    let after = site.window.cursor();
                    self.list(place, after, now, Listing::Late { place, until: now });
                    continue;
                }
                Rest::Unknown | Rest::Counted(_) if is_all_there => {}
                Rest::Counted(_) if is_full => {}
                Rest::Unknown | Rest::Counted(_) => continue,
            }
            if !site.late.is_empty() {
                // A window that is over, or that a clock which has stepped back since has made longer.
                if site.spread.until <= now || site.spread.until > now.after(window) {
                    site.spread = Spread { until: now.after(window), from: now, ..site.spread };
                }
                self.spread(place, !is_all_there);
            }
            if let Some(site) = self.sites.get_mut(place).filter(|_| is_all_there) {
                (site.spread.rest, site.spread.from) = (Rest::Unknown, Timestamp::MIN);
            }
        }
    }

    /// So many more late posts have been listed that are not in memory.
    pub(super) fn count_late(&mut self, place: usize, posts: usize, is_last: bool) {
        let Some(Site { spread, late, .. }) = self.sites.get_mut(place) else { return };
        let listed = if let Rest::Counting(before) = spread.rest { before } else { 0 } + posts;
        spread.rest = if is_last { Rest::Counted(listed + late.len()) } else { Rest::Counting(listed) };
    }

    /// Spreads those that are there over what is left of the window; if more will follow, they get their share of it.
    fn spread(&mut self, place: usize, is_part: bool) {
        let now = self.now.wall;
        let Some(Site { spread: plan, late, window, .. }) = self.sites.get_mut(place) else { return };
        let is_full = window.is_filled(self.settings.memory);
        // One that was changed meanwhile finds its place anew.
        let waits = |post: &Resident, seq: Seq| post.record.seq == seq && post.placing == Placing::Waits;
        let mut order: Vec<_> = std::mem::take(late)
            .into_iter()
            .filter_map(|(slot, number)| {
                let post = self.posts.get(slot as usize).filter(|post| waits(post, number))?;
                Some((post.record.ready_at(), number, slot))
            })
            .collect();
        order.sort_unstable();
        let posts = order.len();
        let (from, mut end) = (plan.from.max(now), plan.until);
        if let Rest::Counted(rest) = &mut plan.rest
            && is_part
        {
            end = spread(from, end, posts, posts.max(*rest));
            *rest = rest.saturating_sub(posts);
            plan.from = end;
        }
        for (index, (_, _, slot)) in order.into_iter().enumerate() {
            let (Some(post), Some(site)) = (self.posts.get_mut(slot as usize), self.sites.get_mut(place)) else {
                continue;
            };
            let at = spread(from, end, index, posts);
            post.placing = Placing::Done;
            let at = site.gaps.place(post.record.body.profile(), at, true, now).ceil_millis();
            // It was late when it was put here; the clock may have stepped back since.
            if at < post.record.ready_at() {
                marks::reach(Mark::SpreadAfterStep);
            }
            let is_early = sabotage::is(Switch::SpreadEarly);
            post.ready_at = if is_early { at } else { at.max(post.record.ready_at()) };
            if !(is_full && self.go_to_place(slot)) {
                self.proceed(slot);
            }
        }
    }

    /// The last instant at which this post may be sent. What may be published already is not missed: the broadcaster is
    /// asked first.
    pub(super) fn deadline(&self, post: &Resident) -> Option<Timestamp> {
        let (_, pool) = self.pool(post.record.pool)?;
        pool.deadline(&post.record).filter(|_| post.record.doubt != Doubt::Open)
    }

    /// Lets a post go that would be later than it allows, at this instant.
    pub(super) fn miss(&mut self, slot: u32, at: Timestamp) {
        let deadline = self.posts.get(slot as usize).and_then(|post| self.deadline(post));
        let by = deadline.map_or(Duration::ZERO, |deadline| at.since(deadline));
        self.leave(slot, Outcome::Missed { by }, None, None);
    }
}
