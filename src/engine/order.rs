//! Order within a profile: posts that ask for it wait until no earlier one is left.

use crate::marks::{self, Mark};
use crate::post::Cursor;
use crate::sabotage::{self, Switch};

use super::commits::Why;
use super::site::{Line, Site};
use super::{Engine, Resident};

impl Engine {
    /// The line in which this post stands, if it asks for order.
    fn line<'a>(sites: &'a mut [Site], place: Option<usize>, post: &Resident) -> Option<&'a mut Line> {
        let site = sites.get_mut(place.filter(|_| post.in_order)?)?;
        site.lines.get_mut(post.record.body.profile())
    }

    /// Puts a post in order into its profile's line. One behind it that was handed over before the clock stepped back is
    /// taken back, if it has not been called.
    pub(super) fn line_up(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize).filter(|post| post.in_order) else { return };
        let site = self.places.get(post.record.pool).and_then(|place| self.sites.get_mut(place));
        let Some(site) = site else { return };
        let line = site.lines.entry(post.record.body.profile().into()).or_default();
        line.posts.insert((post.record.due, post.record.seq), slot);
        let is_first = line.posts.first_key_value().is_some_and(|(_, first)| *first == slot);
        let is_first = is_first && !sabotage::is(Switch::NoGoingBefore);
        let behind = line.going.filter(|going| is_first && *going != post.record.seq);
        if let Some(behind) = behind.and_then(|seq| self.slot(seq))
            && self.withdraw(behind)
        {
            marks::reach(Mark::GoesBefore);
            self.unclaim(behind);
        }
    }

    /// Takes it out of the line; the next one may go.
    pub(super) fn stand_out(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let place = self.places.get(post.record.pool);
        let Some(line) = Self::line(&mut self.sites, place, post) else { return };
        line.posts.remove(&(post.record.due, post.record.seq));
        line.going.take_if(|going| *going == post.record.seq);
        match line.posts.first_key_value() {
            Some(((_, seq), next)) => self.woken.push((*next, *seq)),
            None => {
                if let Some(site) = place.and_then(|place| self.sites.get_mut(place)) {
                    site.lines.remove(post.record.body.profile());
                }
            }
        }
    }

    /// Whether it is in memory although the window was drawn back behind it, and asks for order: what has to go before it may
    /// have been left to the store.
    pub(super) fn is_cut_off(&self, slot: u32) -> bool {
        let Some(post) = self.posts.get(slot as usize).filter(|post| post.in_order) else { return false };
        let site = self.places.get(post.record.pool).and_then(|place| self.sites.get(place));
        site.is_some_and(|site| !site.window.has(&post.record)) && !sabotage::is(Switch::NoCutOff)
    }

    /// Whether it asks for order and is in memory before all that has to go before it: it was to be prepared long before its
    /// due, up to which the window has not come, as after a suspend.
    pub(super) fn is_ahead(&self, slot: u32) -> bool {
        let Some(post) = self.posts.get(slot as usize).filter(|post| post.in_order) else { return false };
        let site = self.places.get(post.record.pool).and_then(|place| self.sites.get(place));
        let is_ahead = site.is_some_and(|site| site.window.cursor() < Cursor::through(post.record.due));
        is_ahead && !sabotage::is(Switch::NoCutOff)
    }

    /// It goes to its due, and comes again with what is due there.
    pub(super) fn go_to_due(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let mut to = post.record.clone();
        to.at = to.due;
        self.relocate(slot, to, Why::Quiet, None);
    }

    /// Whether nothing before it in its line is left, and nothing else of it is in flight.
    pub(super) fn is_first(&self, slot: u32) -> bool {
        let Some(post) = self.posts.get(slot as usize) else { return false };
        let Some(site) = self.places.get(post.record.pool).and_then(|place| self.sites.get(place)) else {
            return true;
        };
        if site.lines.is_empty() || !post.in_order {
            return true;
        }
        if self.is_cut_off(slot) {
            return false;
        }
        let Some(line) = site.lines.get(post.record.body.profile()) else { return true };
        let first = line.posts.first_key_value().map(|((_, seq), _)| *seq);
        first == Some(post.record.seq) && line.going.is_none_or(|going| going == post.record.seq)
    }

    /// It is taken back: another may go before it.
    pub(super) fn stand_back(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let place = self.places.get(post.record.pool);
        if let Some(line) = Self::line(&mut self.sites, place, post)
            && line.going.take_if(|going| *going == post.record.seq).is_some()
            && let Some(((_, seq), first)) = line.posts.first_key_value()
        {
            self.woken.push((*first, *seq));
        }
    }

    /// It is handed over: the others wait.
    pub(super) fn go_first(&mut self, slot: u32) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let place = self.places.get(post.record.pool);
        if let Some(line) = Self::line(&mut self.sites, place, post) {
            line.going = Some(post.record.seq);
        }
    }
}
