//! What of a pool is in memory: everything up to a cursor, within a budget of bytes.
//!
//! Every live post of the pool at or before the cursor is resident. Loading moves the cursor forward, until the
//! horizon is reached or three quarters of the budget are used. A new post before the cursor is taken in at once. When
//! seven eighths are used, the window gives up its farther half; when all is used, the cursor is drawn back to just
//! before the new post. What was given up comes again by loading, which skips what is resident.

use std::time::Duration;

use crate::error::StoreError;
use crate::id::Seq;
use crate::limits;
use crate::marks::{self, Mark};
use crate::post::{Called, Claimed, Cursor, Page, Record, Stored};
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::late::Placing;
use super::lifecycle::Phase;
use super::message::{Effect, Request};
use super::site::Site;
use super::{Engine, Resident};

/// One pool's window.
#[derive(Debug)]
pub struct Window {
    cursor: Cursor,
    /// A load is under way; the cursor must not end up behind this.
    loading: Option<Cursor>,
    /// Bytes of this pool in memory.
    pub bytes: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { cursor: Cursor::START, loading: None, bytes: 0 }
    }
}

impl Window {
    /// Whether everything due by `now` has been loaded.
    pub fn is_passed(&self, now: Timestamp) -> bool {
        self.loading.is_none() && self.cursor >= Cursor::through(now)
    }

    /// Up to where everything is in memory.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Whether the window has passed this post.
    pub fn has(&self, record: &Record) -> bool {
        Cursor::of(record.home()) <= self.cursor
    }

    /// Whether as much is in memory as is loaded ahead; the rest is for what comes meanwhile.
    pub fn is_filled(&self, memory: usize) -> bool {
        self.bytes >= memory / 4 * 3
    }

    /// Whether what comes meanwhile has taken half of its part.
    fn is_crowded(&self, memory: usize) -> bool {
        self.bytes >= memory / 8 * 7
    }

    /// Leaves what lies behind this to the store.
    fn draw_back(&mut self, to: Cursor) {
        self.cursor = self.cursor.min(to);
        self.loading = self.loading.map(|bound| bound.min(to));
    }

    /// Whether the window has fallen behind and may be loaded further.
    fn is_behind(&self, wanted: Timestamp, memory: usize) -> bool {
        self.loading.is_none() && !self.is_filled(memory) && self.cursor < Cursor::through(wanted)
    }
}

impl Engine {
    /// Loads further, where a window has fallen behind and has room.
    pub(super) fn load_windows(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let (horizon, memory) = (self.settings.horizon, self.settings.memory);
        let (until, wanted) = (self.now.wall.after(horizon), self.now.wall.after(horizon * 3 / 4));
        let windows = self.sites.iter_mut().map(|site| &mut site.window);
        for (place, (window, pool)) in windows.zip(&self.settings.pools).enumerate() {
            if window.is_behind(wanted, memory) {
                window.loading = Some(Cursor::through(Timestamp::MAX));
                let max_bytes = limits::PAGE_BYTES.min(memory / 16);
                let load = Request::Load { place, pool: pool.id, after: window.cursor, until, max_bytes };
                self.effects.push_back(Effect::Ask(load));
            }
        }
    }

    /// When the next window falls behind. One whose memory is full is loaded further when something leaves.
    pub(super) fn next_load(&self) -> Option<Timestamp> {
        let lead = self.settings.horizon * 3 / 4;
        let windows = self.sites.iter().map(|site| &site.window);
        let idle = windows.filter(|window| window.is_behind(Timestamp::MAX, self.settings.memory));
        // A millisecond more, so that the window has really fallen behind by then.
        let next = idle.map(|window| window.cursor.at.before(lead).after(Duration::from_millis(1))).min();
        next.filter(|_| self.closing.is_none())
    }

    pub(super) fn handle_page(&mut self, place: usize, page: Result<Page, StoreError>) {
        let Page { posts, through } = match page {
            Ok(page) => page,
            Err(error) => return self.fail(error),
        };
        if let Some(site) = self.sites.get_mut(place) {
            let bound = site.window.loading.take().unwrap_or(through);
            site.window.cursor = through.min(bound);
        }
        if self.closing.is_some() {
            return;
        }
        for stored in posts {
            if self.by_seq.contains_key(&stored.record.seq) {
                marks::reach(Mark::PageKnown);
            } else {
                self.take_up(place, stored);
            }
        }
        // Attempts that earlier processes may have made have been counted now, or more than memory takes are left.
        if let Some(site) = self.sites.get_mut(place).filter(|site| !site.is_counted) {
            let is_filled = site.window.is_filled(self.settings.memory);
            site.is_counted = is_filled || site.window.cursor >= Cursor::through(self.born);
        }
        (0..self.sites.len()).for_each(|place| self.go_on(place));
    }

    /// Takes a loaded post into memory, and finds out what an earlier process did with it.
    pub(super) fn take_up(&mut self, place: usize, stored: Stored) -> u32 {
        let Stored { record, claimed } = stored;
        let (phase, doubt) = match claimed {
            None => (Phase::Armed, None),
            // The broadcaster had not been called. If the due comes still, the claim stands.
            Some(Claimed { attempt, called: Called::No })
                if attempt == record.next_claim() && record.ready_at() > self.now.wall =>
            {
                marks::reach(Mark::ClaimStands);
                (Phase::Claimed, None)
            }
            Some(Claimed { called: Called::No, .. }) => {
                marks::reach(Mark::ClaimVoid);
                (Phase::Armed, None)
            }
            // Its due had not come when the earlier process had ended: it was not handed over. Not so if the clock
            // showed less at our start than that process had seen.
            Some(Claimed { attempt, called: Called::Unknown })
                if attempt == record.next_claim()
                    && record.ready_at() > self.born
                    && self.born >= self.settings.last_commit_at =>
            {
                marks::reach(Mark::ClaimStandsUnknown);
                (Phase::Claimed, None)
            }
            Some(Claimed { .. }) if sabotage::is(Switch::ForgetDoubt) => (Phase::Armed, None),
            Some(Claimed { attempt, .. }) => (Phase::Armed, Some(attempt)),
        };
        let is_behind = self.is_behind_backlog(place, record.ready_at());
        let slot = self.admit(place, record, phase);
        if let Some(post) = self.posts.get_mut(slot as usize).filter(|_| is_behind) {
            post.placing = Placing::Behind;
        }
        match doubt {
            Some(attempt) => self.doubt(place, slot, attempt),
            None => self.proceed(slot),
        }
        slot
    }

    /// A post is durable at its new home: keeps it in memory if the window has passed it, and leaves it to the
    /// store otherwise. True if it is kept.
    pub(super) fn keeps(&mut self, place: usize, record: &Record) -> bool {
        if self.closing.is_some() {
            return false;
        }
        let (memory, at) = (self.settings.memory, Cursor::of(record.home()));
        let Some(Site { window, .. }) = self.sites.get(place) else { return false };
        if at <= window.cursor && window.is_crowded(memory) {
            while self.shorten_window(place) {}
        }
        let Some(Site { window, .. }) = self.sites.get_mut(place) else { return false };
        if at <= window.cursor && window.bytes >= memory {
            marks::reach(Mark::DrawnBack);
            window.draw_back(Cursor::just_before(record.home()));
        }
        at <= window.cursor
    }

    /// Gives up the farther half of a window, as far as nothing has been claimed in it; false if it is used too
    /// little for that, or too short.
    fn shorten_window(&mut self, place: usize) -> bool {
        let (Some(Site { window, .. }), Some(pool)) = (self.sites.get_mut(place), self.settings.pools.get(place))
        else {
            return false;
        };
        let ahead = window.cursor.at.since(self.now.wall) / 2;
        if ahead <= self.settings.claim_ahead || !window.is_crowded(self.settings.memory) {
            return false;
        }
        let nearer = Cursor::through(self.now.wall.after(ahead));
        marks::reach(Mark::Shortened);
        window.draw_back(nearer);
        let id = pool.id;
        let far = |post: &Resident| {
            post.phase == Phase::Armed && post.record.pool == id && Cursor::of(post.record.home()) > nearer
        };
        let far: Vec<u32> = self.posts.iter().filter(|(_, post)| far(post)).map(|(slot, _)| slot as u32).collect();
        far.into_iter().for_each(|slot| self.forget(slot));
        true
    }

    /// Where a post of this number is in memory.
    pub(super) fn slot(&self, seq: Seq) -> Option<u32> {
        self.by_seq.get(&seq).copied()
    }
}
