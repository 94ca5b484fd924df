//! Dues that were said as local times, when the zone data is another one than they were derived by.

use bytes::Bytes;

use crate::limits;
use crate::post::{Change, Cursor, Event, Stored};
use crate::time::Timestamp;

use super::Engine;
use super::commits::Why;
use super::lifecycle::Phase;
use super::shelves::Listing;

/// The release of the zone data is remembered under this.
const ZONES: &[u8] = b"Z";

/// Whether this is what is remembered of the zone data.
pub fn is_key(key: &[u8]) -> bool {
    key == ZONES
}

impl Engine {
    /// Takes in by which zone data dues were derived; false if it is something else.
    pub(super) fn remember_zones(&mut self, key: &[u8], value: &[u8]) -> bool {
        if key == ZONES && value != self.settings.zones.as_bytes() {
            self.rezoning = self.sites.len();
        }
        key == ZONES
    }

    /// Has local times derived again if the zone data is another one, and remembers it.
    pub(super) fn check_zones(&mut self, is_known: bool) {
        let until = Timestamp::from_millis(limits::DUE_MAX_MILLIS);
        if self.rezoning > 0 {
            for place in 0..self.sites.len() {
                self.list(place, Cursor::START, until, Listing::Rezone { place, until });
            }
        } else if !is_known {
            self.note_zones();
        }
    }

    fn note_zones(&mut self) {
        let (key, value) = (Bytes::from_static(ZONES), Bytes::from_static(self.settings.zones.as_bytes()));
        self.commits.add(Change::Remember { key, value }, None, 0);
    }

    /// Some posts of a pool; derives their dues again.
    pub(super) fn rezone_page(&mut self, place: usize, posts: Vec<Stored>, is_last: bool) {
        for stored in posts.into_iter().filter(|stored| stored.record.body.local().is_some()) {
            let slot = self.take_up(place, stored);
            self.rezone(slot);
            // If it stays where it was, the window decides whether it is kept.
            let is_far = |window: &super::window::Window, record| !window.has(record);
            if let Some(post) = self.posts.get(slot as usize)
                && post.phase == Phase::Armed
                && self.sites.get(place).is_some_and(|site| is_far(&site.window, &post.record))
            {
                self.forget(slot);
            }
        }
        if !is_last {
            return;
        }
        let id = self.settings.pools.get(place).map(|pool| pool.id);
        let own = self.posts.iter().filter(|(_, post)| Some(post.record.pool) == id);
        let own: Vec<u32> = own.map(|(slot, _)| slot as u32).collect();
        own.into_iter().for_each(|slot| self.rezone(slot));
        self.rezoning = self.rezoning.saturating_sub(1);
        if self.rezoning == 0 {
            self.note_zones();
        }
    }

    /// Gives a post the due that its local time means now, if it has not been called for.
    fn rezone(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let is_waiting = matches!(post.phase, Phase::Armed | Phase::Preparing | Phase::Claimed);
        let Some(local) = post.record.body.local().filter(|_| is_waiting && post.record.attempts == 0) else { return };
        let Ok(due) = local.instant().map(Timestamp::due) else { return };
        if due == post.record.due {
            return;
        }
        let mut to = post.record.clone();
        let id = self.id(to.seq);
        self.give_due(&mut to, due);
        self.fix(&to, Some(due));
        let event = Event::Rescheduled { id, due: due.to_datetime() };
        self.relocate(slot, to, Why::Changed { promise: None, event }, None);
    }
}
