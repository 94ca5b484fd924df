//! Which slots of a queue are taken by posts of its profile that have a due of their own.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::engine::shelves::Listing;
use crate::id::Seq;
use crate::limits;
use crate::post::{Change, Cursor, Record, Stored};
use crate::queue::{self, Name};
use crate::time::Timestamp;

use super::{Managed, QueueWish};

impl Engine {
    /// A post was given a due by the host, or has none any more: a slot may be taken, or free again.
    pub(in crate::engine) fn fix(&mut self, record: &Record, due: Option<Timestamp>) {
        let Some(place) = self.places.get(record.pool) else { return };
        let profile = record.body.profile();
        let is_queued = self.sites.get(place).is_some_and(|site| site.queues.contains_key(profile));
        if is_queued {
            let profile = profile.to_owned();
            let was_placed = |managed: &mut Managed| {
                managed.queue.as_ref().is_some_and(|queue| queue.placed_at(record.seq).is_some())
            };
            if self.managed(place, &profile).is_some_and(was_placed) {
                self.drop_queued(place, &profile, record.seq);
            }
            self.note_fixed(place, &profile, record.seq, due);
        }
    }

    /// Notes in the commit under way which slot a post takes, if there is a queue.
    pub(in crate::engine) fn note_fixed(&mut self, place: usize, profile: &str, post: Seq, due: Option<Timestamp>) {
        let Some(pool) = self.settings.pools.get(place).map(|pool| pool.name.clone()) else { return };
        let now = self.now.wall;
        let Some(managed) = self.managed(place, profile) else { return };
        if let Some(counting) = &mut managed.counting {
            counting.insert(post, due);
        }
        let is_new = match due {
            Some(due) => managed.taken.insert(post, due),
            // A slot that has passed is not free again.
            None if managed.taken.due(post).is_some_and(|due| due <= now) => true,
            None => managed.taken.remove(post).is_some(),
        };
        let is_kept = due.is_none() && managed.taken.due(post).is_some();
        if is_kept {
            return self.wish_queue(place, profile, QueueWish::Follow);
        }
        if is_new {
            let (key, value) = queue::fixed_note(Name { pool: &pool, profile }, post, due);
            self.commits.add(Change::Remember { key, value }, None, 0);
            self.wish_queue(place, profile, QueueWish::Follow);
        }
    }

    /// What is remembered of a new post in the commit that stores it, if its profile has a queue.
    pub(in crate::engine) fn fixed_note(&self, record: &Record) -> Option<Change> {
        let place = self.places.get(record.pool)?;
        let (site, pool) = (self.sites.get(place)?, self.settings.pools.get(place)?);
        if site.queues.is_empty() || !site.queues.contains_key(record.body.profile()) {
            return None;
        }
        let name = Name { pool: &pool.name, profile: record.body.profile() };
        let (key, value) = queue::fixed_note(name, record.seq, Some(record.due));
        Some(Change::Remember { key, value })
    }

    /// A new post is stored, or was not kept: its slot is taken, or not.
    pub(in crate::engine) fn fixed(&mut self, record: &Record, is_kept: bool) {
        let Some(place) = self.places.get(record.pool) else { return };
        if self.sites.get(place).is_none_or(|site| site.queues.is_empty()) {
            return;
        }
        let profile = record.body.profile().to_owned();
        let Some(managed) = self.managed(place, &profile) else { return };
        managed.taken.insert(record.seq, record.due);
        if is_kept {
            managed.counting.iter_mut().for_each(|counting| _ = counting.insert(record.seq, Some(record.due)));
            self.wish_queue(place, &profile, QueueWish::Follow);
        } else {
            self.note_fixed(place, &profile, record.seq, None);
        }
    }

    /// Looks for posts that were scheduled before their profiles had queues.
    pub(in crate::engine) fn count_taken(&mut self, place: usize) {
        let Some(site) = self.sites.get_mut(place).filter(|site| !site.is_listing_taken) else { return };
        for managed in site.queues.values_mut() {
            if managed.counting.is_none() && managed.queue.as_ref().is_some_and(|queue| !queue.is_counted()) {
                managed.counting = Some(BTreeMap::new());
                site.is_listing_taken = true;
            }
        }
        if site.is_listing_taken {
            let from = Cursor::through(self.now.wall.before(limits::PLACE_AHEAD));
            let until = Timestamp::from_millis(limits::DUE_MAX_MILLIS);
            self.list(place, from, until, Listing::Count { place, until });
        }
    }

    /// A page of a pool's posts, or the last of them.
    pub(in crate::engine) fn count_page(&mut self, place: usize, posts: Vec<Stored>, is_last: bool) {
        let Some(site) = self.sites.get_mut(place) else { return };
        let mut count = |record: &Record| {
            let counting = site.queues.get_mut(record.body.profile()).and_then(|managed| managed.counting.as_mut());
            // What has changed since is known better.
            counting.into_iter().for_each(|counting| _ = counting.entry(record.seq).or_insert(Some(record.due)));
        };
        posts.iter().for_each(|stored| count(&stored.record));
        if !is_last {
            return;
        }
        let id = self.settings.pools.get(place).map(|pool| pool.id);
        let residents = self.posts.iter().map(|(_, resident)| &resident.record);
        residents.filter(|record| Some(record.pool) == id && record.home().shelf().is_none()).for_each(count);
        site.is_listing_taken = false;
        let counted = site.queues.iter().filter(|(_, managed)| managed.counting.is_some());
        let profiles: Vec<Box<str>> = counted.map(|(profile, _)| profile.clone()).collect();
        for profile in profiles {
            if let Some(managed) = self.managed(place, &profile) {
                managed.wishes.push_front(QueueWish::Counted);
                self.turn_queue(place, &profile);
            }
        }
        self.count_taken(place);
    }

    /// Posts that were there before the queue, and their dues.
    pub(super) fn counted(&mut self, place: usize, profile: &str) -> Vec<(Seq, Timestamp)> {
        let counting = self.managed(place, profile).and_then(|managed| managed.counting.as_ref());
        counting.into_iter().flatten().filter_map(|(post, due)| Some((*post, (*due)?))).collect()
    }
}
