//! What holds posts up: a paused pool, a held profile, and at the start the counting of earlier attempts.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;
use crate::gate::Gate;
use crate::marks::{self, Mark};
use crate::post::{Change, Event, Record, Shelf};
use crate::quota::{RateLimit, Scope};
use crate::reply::Promise;

use super::commits::Then;
use super::lifecycle::Phase;
use super::message::Effect;
use super::shelves::Listing;
use super::site::Hold;
use super::{Engine, PoolSettings, Resident};

/// What is remembered of pools and profiles begins with these; what gates remember has letters of its own.
const PAUSED: u8 = b'P';
const HELD: u8 = b'H';
/// What is remembered of a profile that is being released: no reason begins so.
const RELEASING: &[u8] = b"\0";

/// The key under which this is remembered.
fn key(what: u8, pool: &str, profile: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(2 + pool.len() + profile.len());
    key.put_u8(what);
    // Names have at most 255 bytes.
    key.put_u8(pool.len() as u8);
    key.put_slice(pool.as_bytes());
    key.put_slice(profile.as_bytes());
    key.freeze()
}

/// What this is about, if [`key`] made it.
fn read_key(key: &[u8]) -> Option<(u8, &str, &str)> {
    let (what, rest) = key.split_first()?;
    let (len, rest) = rest.split_first()?;
    let (pool, profile) = rest.split_at_checked(usize::from(*len))?;
    Some((*what, std::str::from_utf8(pool).ok()?, std::str::from_utf8(profile).ok()?))
}

impl Engine {
    /// Takes in what an earlier process wanted to be remembered. What belongs to pools that are gone is left alone.
    pub(super) fn remember(&mut self, key: &[u8], value: &[u8]) {
        if Gate::is_remembered_key(key) {
            for pool in &self.settings.pools {
                pool.gate.restore(key, value);
            }
            return;
        }
        let is_taken = self.remember_queue(key, value)
            || self.remember_series(key, value)
            || self.remember_campaign(key, value)
            || self.remember_zones(key, value);
        if is_taken {
            return;
        }
        let Some((what, pool, profile)) = read_key(key) else { return };
        let place = self.settings.pools.iter().position(|known| &*known.name == pool);
        let Some(site) = place.and_then(|place| self.sites.get_mut(place)) else { return };
        match what {
            PAUSED => site.is_paused = true,
            // An earlier process has not finished with releasing it.
            HELD if value == RELEASING => {
                marks::reach(Mark::ReleaseGoesOn);
                site.held.insert(profile.into(), Hold::Releasing(Vec::new()));
                if let Some(place) = place {
                    self.commits.note(Then::Shelved { place, profile: profile.to_owned() });
                }
            }
            HELD => drop(site.held.insert(profile.into(), Hold::Held(String::from_utf8_lossy(value).into_owned()))),
            _ => {}
        }
    }

    /// Whether this claimed post must not be handed over now.
    pub(super) fn is_held_up(&self, slot: u32) -> bool {
        let Some(Resident { record, .. }) = self.posts.get(slot as usize) else { return false };
        let Some((place, _)) = self.pool(record.pool) else { return true };
        let Some(site) = self.sites.get(place) else { return true };
        site.is_paused
            || (!site.held.is_empty() && site.held.contains_key(record.body.profile()))
            || self.is_counting(place)
    }

    /// Attempts that earlier processes may have made are counted when they are loaded: until then nothing goes out
    /// where that matters. Pools that share accounts wait for each other.
    fn is_counting(&self, place: usize) -> bool {
        let (Some(pool), Some(site)) = (self.settings.pools.get(place), self.sites.get(place)) else { return false };
        let shares = |other: &PoolSettings| pool.has_accounts && other.has_accounts;
        let mut others = self.settings.pools.iter().zip(&self.sites);
        pool.is_limited
            && (!site.is_counted || (pool.has_accounts && others.any(|(pool, site)| shares(pool) && !site.is_counted)))
    }

    /// Lets a post wait whose time has come but that is held up; false if it is not.
    pub(super) fn hold_up(&mut self, slot: u32) -> bool {
        let Some(Resident { record, .. }) = self.posts.get(slot as usize) else { return false };
        let Some((place, _)) = self.pool(record.pool) else { return true };
        let is_counting = self.is_counting(place);
        let Some(site) = self.sites.get_mut(place) else { return true };
        let hold = if site.held.is_empty() { None } else { site.held.get(record.body.profile()) };
        if let Some(Hold::Held(reason)) = hold {
            let reason = reason.clone();
            self.shelve(slot, Shelf::Held, reason, None);
            return true;
        }
        if is_counting {
            marks::reach(Mark::CountedFirst);
        }
        if hold.is_some() || site.is_paused || is_counting {
            site.waiting.push((slot, record.seq));
            return true;
        }
        false
    }

    /// Lets those go on that had to wait, in the order of their dues.
    pub(super) fn go_on(&mut self, place: usize) {
        if self.is_counting(place) {
            return;
        }
        let Some(site) = self.sites.get_mut(place).filter(|site| !site.is_paused) else { return };
        let mut waiting = std::mem::take(&mut site.waiting);
        let due = |slot: u32| self.posts.get(slot as usize).map(|post| post.record.ready_at());
        waiting.sort_by_key(|(slot, seq)| (due(*slot), *seq));
        self.woken.append(&mut waiting);
    }

    /// Pauses a pool, or lets it go on.
    pub(super) fn pause(&mut self, place: usize, paused: bool, promise: Promise<()>) {
        let (Some(pool), Some(site)) = (self.settings.pools.get(place), self.sites.get_mut(place)) else {
            return promise.fulfil(Err(Error::Closed));
        };
        site.is_paused = paused;
        site.awake_since = self.now.wall;
        let (pool, name) = (pool.id, pool.name.to_string());
        let value = if paused { Bytes::from_static(b"1") } else { Bytes::new() };
        let event =
            if paused { Event::PoolPaused { pool: name.clone() } } else { Event::PoolResumed { pool: name.clone() } };
        let then = Then::Noted { promise: Some(promise), event: Some(event) };
        self.commits.add(Change::Remember { key: key(PAUSED, &name, ""), value }, Some(then), 0);
        if paused {
            self.take_back(|post| post.record.pool == pool);
        } else {
            self.go_on(place);
        }
    }

    /// Holds a profile: what becomes due of it is put on a shelf. Nothing happens if it is held already.
    pub(super) fn hold(&mut self, place: usize, profile: &str, reason: String, promise: Option<Promise<()>>) {
        let (Some(pool), Some(site)) = (self.settings.pools.get(place), self.sites.get_mut(place)) else { return };
        if matches!(site.held.get(profile), Some(Hold::Held(_))) {
            // The note may be on its way still: the answer comes after it.
            if promise.is_some() {
                self.commits.note(Then::Noted { promise, event: None });
            }
            return;
        }
        let before = site.held.insert(profile.into(), Hold::Held(reason.clone()));
        if let Some(Hold::Releasing(promises)) = before {
            marks::reach(Mark::HeldWhileReleasing);
            promises.into_iter().for_each(|promise| promise.fulfil(Ok(())));
        }
        let (id, name) = (pool.id, pool.name.to_string());
        let value = if reason.is_empty() { Bytes::from_static(b" ") } else { Bytes::from(reason.clone()) };
        let event = Event::ProfileHeld { pool: name.clone(), profile: profile.to_owned(), reason };
        let then = Then::Noted { promise, event: Some(event) };
        self.commits.add(Change::Remember { key: key(HELD, &name, profile), value }, Some(then), 0);
        self.take_back(|post| post.record.pool == id && post.record.body.profile() == profile);
        self.go_on(place);
    }

    /// Lets a held profile go on: first all of its posts are taken from the shelf, then they go out by due. That is
    /// remembered, so that a crash in between strands none of them.
    pub(super) fn release_profile(&mut self, place: usize, profile: &str, promise: Promise<()>) {
        let (Some(pool), Some(site)) = (self.settings.pools.get(place), self.sites.get_mut(place)) else {
            return promise.fulfil(Err(Error::Closed));
        };
        let Some(hold) = site.held.get_mut(profile) else { return promise.fulfil(Ok(())) };
        if let Hold::Releasing(promises) = hold {
            return promises.push(promise);
        }
        *hold = Hold::Releasing(vec![promise]);
        let (key, value) = (key(HELD, &pool.name, profile), Bytes::from_static(RELEASING));
        let then = Then::Shelved { place, profile: profile.to_owned() };
        self.commits.add(Change::Remember { key, value }, Some(then), 0);
    }

    /// Everything that was put on the shelf of a profile is there: it is taken back.
    pub(super) fn empty_shelf(&mut self, place: usize, profile: String) {
        let (after, until) = Shelf::range_of(&profile);
        self.list(place, after, until, Listing::Release { place, profile, until, found: false });
    }

    /// All that were found are on their way back. It is looked again until none is found: others may have come to the shelf while
    /// it was read, and what is just being changed there comes back when that is durable.
    pub(super) fn finish_release(&mut self, place: usize, profile: String, found: bool) {
        let Some(pool) = self.settings.pools.get(place).filter(|_| self.is_releasing(place, &profile)) else { return };
        let is_there = |post: &Resident| {
            let record = &post.record;
            let is_own = record.pool == pool.id && record.body.profile() == profile;
            is_own && record.home().shelf() == Some(Shelf::Held)
        };
        if found || self.posts.iter().any(|(_, post)| is_there(post)) {
            return self.commits.note(Then::Shelved { place, profile });
        }
        let change = Change::Remember { key: key(HELD, &pool.name, &profile), value: Bytes::new() };
        self.commits.add(change, Some(Then::Released { place, profile }), 0);
    }

    /// All of them are back.
    pub(super) fn released(&mut self, place: usize, profile: String) {
        if !self.is_releasing(place, &profile) {
            return;
        }
        let (Some(pool), Some(site)) = (self.settings.pools.get(place), self.sites.get_mut(place)) else { return };
        let (id, name) = (pool.id, pool.name.to_string());
        if let Some(Hold::Releasing(promises)) = site.held.remove(&*profile) {
            promises.into_iter().for_each(|promise| promise.fulfil(Ok(())));
        }
        // What was to be prepared meanwhile can be now.
        for (slot, post) in &mut self.posts {
            let is_own = post.record.pool == id && post.record.body.profile() == profile;
            if is_own && post.phase == Phase::Armed && post.prepare.is_wanted() {
                if let Some(timer) = post.timer.take() {
                    self.wheel.cancel(timer);
                }
                self.woken.push((slot as u32, post.record.seq));
            }
        }
        self.emit(|| Event::ProfileReleased { pool: name, profile });
        self.go_on(place);
    }

    /// The profiles of a pool that are held, and why.
    pub(super) fn held(&self, place: usize) -> Vec<(String, String)> {
        let holds = self.sites.get(place).into_iter().flat_map(|site| &site.held);
        let held = holds.filter_map(|(profile, hold)| match hold {
            Hold::Held(reason) => Some((profile.to_string(), reason.clone())),
            Hold::Releasing(_) => None,
        });
        let mut held: Vec<_> = held.collect();
        held.sort_unstable();
        held
    }

    fn is_releasing(&self, place: usize, profile: &str) -> bool {
        let site = self.sites.get(place);
        site.is_some_and(|site| matches!(site.held.get(profile), Some(Hold::Releasing(_))))
    }

    /// Whether a post that was just put on the shelf of its profile has to come back, because the profile is held no more.
    pub(super) fn comes_back(&self, record: &Record) -> bool {
        let Some(site) = self.places.get(record.pool).and_then(|place| self.sites.get(place)) else { return false };
        let is_held = matches!(site.held.get(record.body.profile()), Some(Hold::Held(_)));
        record.home().shelf() == Some(Shelf::Held) && !is_held
    }

    /// Takes posts back that are claimed or wait in their shard: they are held up from now on.
    fn take_back(&mut self, which: impl Fn(&Resident) -> bool) {
        let is_out = |post: &Resident| matches!(post.phase, Phase::Claimed | Phase::InFlight) && which(post);
        let out: Vec<u32> = self.posts.iter().filter(|(_, post)| is_out(post)).map(|(slot, _)| slot as u32).collect();
        for slot in out {
            let is_claimed = self.posts.get(slot as usize).is_some_and(|post| post.phase == Phase::Claimed);
            if is_claimed || self.withdraw(slot) {
                self.unclaim(slot);
            }
        }
    }

    /// Lets other rate limits hold from now on.
    pub(super) fn limit(
        &mut self,
        place: Option<usize>,
        scope: Scope,
        account: Option<&str>,
        limits: &[RateLimit],
        promise: Promise<()>,
    ) {
        let mut is_known = false;
        for (at, pool) in self.settings.pools.iter_mut().enumerate() {
            if place.is_none_or(|place| place == at) && pool.gate.set_limits(scope, account, limits.to_vec()) {
                (is_known, pool.is_limited) = (true, true);
                let shards = pool.first_shard..pool.first_shard + pool.shards;
                for (given, blocked) in self.given.get_mut(shards.clone()).into_iter().flatten() {
                    (*given, *blocked) = (*given + 1, None);
                }
                self.effects.push_back(Effect::Look { shards });
                let id = pool.id;
                for (slot, post) in &mut self.posts {
                    if post.is_returned && post.phase == Phase::Armed && post.record.pool == id {
                        (post.ready_at, post.is_returned) = (post.record.ready_at(), false);
                        if let Some(timer) = post.timer.take() {
                            self.wheel.cancel(timer);
                        }
                        self.woken.push((slot as u32, post.record.seq));
                    }
                }
            }
        }
        let unknown = || Error::UnknownAccount { account: account.unwrap_or_default().to_owned() };
        promise.fulfil(if is_known { Ok(()) } else { Err(unknown()) });
    }

    /// Has what a pool's gate has counted kept.
    pub(super) fn keep_counts(&mut self, place: usize) {
        let Some(pool) = self.settings.pools.get(place) else { return };
        for (key, value) in pool.gate.changed(self.now.wall) {
            self.commits.add(Change::Remember { key, value }, None, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_understood_again() {
        for (pool, profile) in [("p", ""), ("p", "q"), ("", "pq"), ("x".repeat(255).as_str(), "ä")] {
            assert_eq!(read_key(&key(HELD, pool, profile)), Some((HELD, pool, profile)));
        }
        assert_eq!(read_key(b""), None);
        assert_eq!(read_key(&[HELD, 9, b'x']), None);
    }
}
