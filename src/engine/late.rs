//! Posts whose due has passed: missed, spread, or at a distance from each other.

use std::time::Duration;

use crate::catch_up::spread;
use crate::id::Seq;
use crate::marks::{self, Mark};
use crate::post::{Doubt, Outcome};
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::{Engine, Resident};

/// A first attempt that would be later than this is late: nobody could make it in time.
const LATE: Duration = Duration::from_secs(1);

/// How far a post has got with being given a place among those of its profile and what is late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placing {
    Open,
    /// It is late, and waits to be spread.
    Waits,
    Done,
}

/// The window over which late posts are spread.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spread {
    began: Timestamp,
    until: Timestamp,
    /// Those up to this due have their places, all of them before `from`.
    through: Option<Timestamp>,
    from: Timestamp,
}

impl Engine {
    /// Finds the place of a post that is to be claimed among those of its profile, and of what is late; false if it has to
    /// wait for it.
    pub(super) fn place(&mut self, slot: u32) -> bool {
        let (now, ahead) = (self.now.wall, self.settings.claim_ahead);
        let Some(post) = self.posts.get_mut(slot as usize) else { return false };
        match post.placing {
            Placing::Open => post.placing = Placing::Done,
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
        if is_late && !pool.catch_up.spread().is_zero() {
            post.placing = Placing::Waits;
            site.late.push((slot, post.record.seq));
            return false;
        }
        let at = if is_late { post.ready_at.max(now) } else { post.ready_at };
        let placed = site.gaps.place(post.record.body.profile(), at, is_late, now);
        if placed > now {
            post.ready_at = post.ready_at.max(placed);
        }
        if placed.before(ahead) > now {
            self.wait_until(slot, placed.before(ahead));
            return false;
        }
        true
    }

    /// Spreads what is late, once all of it is there or no more fits.
    pub(super) fn catch_up(&mut self) {
        for place in 0..self.sites.len() {
            let (Some(pool), Some(site)) = (self.settings.pools.get(place), self.sites.get_mut(place)) else { return };
            let is_full = site.window.is_filled(self.settings.memory);
            if site.late.is_empty() || !(is_full || site.window.is_passed(self.now.wall.before(LATE))) {
                continue;
            }
            let (now, window) = (self.now.wall, pool.catch_up.spread());
            // A window that is over, or that a clock which has stepped back since has made longer.
            if site.spread.until <= now || site.spread.until > now.after(window) {
                site.spread = Spread { began: now, until: now.after(window), from: now, through: None };
            }
            let cursor = site.window.cursor();
            let late = std::mem::take(&mut site.late);
            if is_full {
                marks::reach(Mark::SpreadInPart);
            }
            self.spread(place, &late, is_full.then_some(cursor.at));
        }
    }

    /// Spreads these over what is left; if more will follow, whose dues come after `through`, they get their share only, and
    /// the others come behind them.
    fn spread(&mut self, place: usize, late: &[(u32, Seq)], through: Option<Timestamp>) {
        let now = self.now.wall;
        let Some(Spread { began, until, from, through: done }) = self.sites.get(place).map(|site| site.spread) else {
            return;
        };
        let from = from.max(now);
        // One that was changed meanwhile finds its place anew.
        let waits = |post: &Resident, seq: Seq| post.record.seq == seq && post.placing == Placing::Waits;
        let mut order: Vec<_> = late
            .iter()
            .filter_map(|(slot, number)| {
                let post = self.posts.get(*slot as usize).filter(|post| waits(post, *number))?;
                Some((post.record.ready_at(), *number, *slot))
            })
            .collect();
        order.sort_unstable();
        let first = done.or(order.first().map(|(due, ..)| *due)).unwrap_or(began);
        let through = through.filter(|through| *through < began);
        let end = through.map_or(until, |through| {
            let (part, whole) = (through.since(first).as_millis(), began.since(first).as_millis().max(1));
            let share = until.since(from).as_millis() * part / whole;
            from.after(Duration::from_millis(u64::try_from(share).unwrap_or(u64::MAX)))
        });
        if let Some(site) = self.sites.get_mut(place).filter(|_| through.is_some()) {
            (site.spread.from, site.spread.through) = (end, through);
        }
        let posts = order.len();
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
            self.proceed(slot);
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
