//! Posts that nothing happens to by themselves: dead letters, posts in doubt, posts of held profiles. They are in the
//! store alone; here they are put there, listed, and taken back.

use std::time::Duration;

use crate::error::{Error, StoreError};
use crate::limits;
use crate::post::{Cursor, Doubt, Found, Outcome, Page, Record, Shelf, Status, Stored};
use crate::reply::Promise;
use crate::time::Timestamp;

use super::commits::Why;
use super::lifecycle::Phase;
use super::message::{Effect, Request};
use super::{Engine, TIDY_EVERY};

/// Why posts are listed.
#[derive(Debug)]
pub enum Listing {
    /// The host wants to see them.
    Show { promise: Promise<Vec<Status>>, place: usize, until: Timestamp },
    /// Their profile was released; whether any was there.
    Release { place: usize, profile: String, until: Timestamp, found: bool },
    /// The host wants all of them sent again; so many have been.
    Requeue { place: usize, until: Timestamp, requeued: u64, promise: Promise<u64> },
    /// Profiles have got queues: which slots are taken is looked for.
    Count { place: usize, until: Timestamp },
    /// The zone data is another one: dues that were said as local times are derived again.
    Rezone { place: usize, until: Timestamp },
    /// They are late and more than memory holds: how many there are is counted.
    Late { place: usize, until: Timestamp },
    /// They are old, and are given up.
    Bury { place: usize, until: Timestamp },
}

impl Listing {
    pub fn refuse(self, error: &Error) {
        match self {
            Self::Show { promise, .. } => promise.fulfil(Err(error.clone())),
            Self::Requeue { promise, .. } => promise.fulfil(Err(error.clone())),
            Self::Release { .. } | Self::Count { .. } | Self::Rezone { .. } | Self::Late { .. } | Self::Bury { .. } => {
            }
        }
    }
}

impl Engine {
    /// Puts a post on a shelf.
    pub(super) fn shelve(&mut self, slot: u32, shelf: Shelf, reason: String, lateness: Option<Duration>) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let mut to = post.record.clone();
        to.at = shelf.place(self.now.wall, to.body.profile());
        to.notes.edit(|noted| noted.reason = Some(reason.clone()));
        self.relocate(slot, to, Why::Shelved { shelf, reason, lateness }, None);
    }

    /// Asks the store for posts on a shelf.
    pub(super) fn list(&mut self, place: usize, after: Cursor, until: Timestamp, listing: Listing) {
        let Some(pool) = self.settings.pools.get(place).map(|pool| pool.id) else {
            return listing.refuse(&Error::Closed);
        };
        let token = self.listings.insert(listing);
        let max_bytes = limits::LIST_BYTES;
        self.effects.push_back(Effect::Ask(Request::List { token, pool, after, until, max_bytes }));
    }

    /// The host wants to see a shelf.
    pub(super) fn show(&mut self, place: usize, shelf: Shelf, after: Option<Cursor>, promise: Promise<Vec<Status>>) {
        let (start, until) = shelf.range();
        self.list(place, after.unwrap_or(start).max(start), until, Listing::Show { promise, place, until });
    }

    /// The store has listed posts.
    pub(super) fn handle_listed(&mut self, token: usize, page: Result<Page, StoreError>) {
        let Some(listing) = self.listings.try_remove(token) else { return };
        let Page { posts, through } = match page {
            Ok(page) => page,
            Err(error) => {
                listing.refuse(&Error::Store(error.clone()));
                return self.fail(error);
            }
        };
        if self.closing.is_some() {
            return listing.refuse(&Error::Closed);
        }
        // What is in memory is being taken from the shelf, or changed there.
        let posts = posts.into_iter().filter(|stored| !self.by_seq.contains_key(&stored.record.seq));
        let posts: Vec<Stored> = posts.collect();
        match listing {
            // All that was found is in memory, and there may be more.
            Listing::Show { promise, place, until } if posts.is_empty() && through < Cursor::through(until) => {
                self.list(place, through, until, Listing::Show { promise, place, until });
            }
            Listing::Show { promise, .. } => {
                let shown = posts.into_iter().take(limits::LIST_POSTS);
                promise.fulfil(Ok(shown.map(|stored| self.status_of(Found::Live(stored))).collect()));
            }
            Listing::Release { place, profile, until, found } => {
                let mut own: Vec<_> =
                    posts.into_iter().filter(|stored| stored.record.body.profile() == profile).collect();
                let found = found || !own.is_empty();
                own.sort_by_key(|stored| (stored.record.due, stored.record.seq));
                own.into_iter().for_each(|stored| self.unshelve(place, stored.record));
                if through < Cursor::through(until) {
                    self.list(place, through, until, Listing::Release { place, profile, until, found });
                } else {
                    self.finish_release(place, profile, found);
                }
            }
            Listing::Requeue { place, until, requeued, promise } => {
                let requeued = requeued + posts.len() as u64;
                for stored in posts {
                    let slot = self.admit(place, stored.record, Phase::Armed);
                    self.send_again(slot, None);
                }
                if through < Cursor::through(until) {
                    self.list(place, through, until, Listing::Requeue { place, until, requeued, promise });
                } else {
                    promise.fulfil(Ok(requeued));
                }
            }
            Listing::Count { place, until } => {
                let is_last = through >= Cursor::through(until);
                if !is_last {
                    self.list(place, through, until, Listing::Count { place, until });
                }
                self.count_page(place, posts, is_last);
            }
            Listing::Rezone { place, until } => {
                let is_last = through >= Cursor::through(until);
                self.rezone_page(place, posts, is_last);
                if !is_last {
                    self.list(place, through, until, Listing::Rezone { place, until });
                }
            }
            Listing::Late { place, until } => {
                let is_last = through >= Cursor::through(until);
                self.count_late(place, posts.len(), is_last);
                if !is_last {
                    self.list(place, through, until, Listing::Late { place, until });
                }
            }
            Listing::Bury { place, until } => {
                for Stored { record, .. } in posts {
                    let reason = record.notes.reason().unwrap_or_default().to_owned();
                    let slot = self.admit(place, record, Phase::Armed);
                    self.leave(slot, Outcome::Failed { reason }, None, None);
                }
                if through < Cursor::through(until) {
                    self.list(place, through, until, Listing::Bury { place, until });
                }
            }
        }
    }

    /// Takes a post of a released profile back to where it was.
    pub(super) fn unshelve(&mut self, place: usize, record: Record) {
        let mut to = record.clone();
        let ready = to.notes.not_before();
        to.at = to.due;
        if to.attempts > 0 && !to.body.in_order() && ready.is_none() {
            to.at = to.due.max(self.now.wall.ceil_millis());
        }
        let slot = self.admit(place, record, Phase::Armed);
        self.relocate(slot, to, Why::Quiet, None);
    }

    /// Sends a dead letter, or a post in doubt, again.
    pub(super) fn send_again(&mut self, slot: u32, why: Option<Why>) {
        let Some(post) = self.posts.get(slot as usize) else { return };
        let mut to = post.record.clone();
        let calls = to.next_claim() - 1;
        (to.at, to.attempts, to.revision) = (self.now.wall.ceil_millis().max(to.due), 0, to.revision + 1);
        to.doubt = if to.doubt == Doubt::None { Doubt::None } else { Doubt::Accepted };
        to.notes.edit(|noted| (noted.reason, noted.not_before, noted.calls) = (None, None, calls));
        self.relocate(slot, to, why.unwrap_or(Why::Quiet), None);
    }

    /// The host wants all dead letters of a pool sent again.
    pub(super) fn requeue_all(&mut self, place: usize, promise: Promise<u64>) {
        // What dies from now on is not sent again by this.
        let ((after, _), until) = (Shelf::Dead.range(), Shelf::Dead.place(self.now.wall, ""));
        self.list(place, after, until, Listing::Requeue { place, until, requeued: 0, promise });
    }

    /// Gives up dead letters that are too old.
    pub(super) fn bury_old(&mut self) {
        if self.now.mono < self.bury_at {
            return;
        }
        self.forget_campaigns();
        self.bury_at = self.now.mono + 20 * TIDY_EVERY;
        let until = Shelf::Dead.place(self.now.wall.before(self.settings.dead_letter_retention), "");
        for place in 0..self.settings.pools.len() {
            self.list(place, Shelf::Dead.range().0, until, Listing::Bury { place, until });
        }
    }
}
