//! Series: posts that are due again and again. Each occurrence is a post of its own, planned a little ahead in the commit
//! that remembers it, so none is planned twice or left out, whatever is killed in between.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::Error;
use crate::id::Seq;
use crate::limits;
use crate::post::{Body, Change, Doubt, Event, Found, Misfire, Notes, Outcome, Record, SeriesStatus, Verdict};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};
use crate::schedule::Schedule;
use crate::time::Timestamp;

use super::commands::Search;
use super::commits::{Planned, Then};
use super::lifecycle::Phase;
use super::message::{NewPost, SchedulePromise};
use super::{Engine, Item, Resident};

/// What is remembered of a series begins with this, and its key follows.
pub const SERIES: u8 = b'R';
const VERSION: u8 = 1;

/// A series as it is kept.
///
/// ```text
/// version u8 | misfire u8 | cursor i64 µs | count u64 | planned u32, (post u64, due i64 µs)* | pool length u8, pool
/// | schedule length u32, schedule as text | body
/// ```
#[derive(Clone, Debug)]
pub struct Series {
    schedule: Schedule,
    misfire: Misfire,
    pool: Box<str>,
    body: Body,
    /// Occurrences up to this have been planned, or passed before there was the series.
    cursor: Timestamp,
    /// How many have been planned.
    count: u64,
    /// The latest of them, of those that had not ended.
    planned: Vec<(Seq, Timestamp)>,
}

/// A series, and what waits to be done to it.
#[derive(Debug, Default)]
pub struct Managed {
    /// As it is durable; none while it is being made.
    series: Option<Series>,
    wishes: VecDeque<SeriesWish>,
    is_busy: bool,
    wake: Option<Timestamp>,
    /// Occurrences that were looked for to be called off.
    borrowed: Vec<Seq>,
}

/// What is to be done to a series.
#[derive(Debug)]
pub enum SeriesWish {
    Set { schedule: Box<Schedule>, misfire: Misfire, post: Box<NewPost>, promise: Promise<()> },
    End { promise: Promise<()> },
    Follow,
}

impl SeriesWish {
    pub fn refuse(self, error: Error) {
        match self {
            Self::Set { promise, .. } | Self::End { promise } => promise.fulfil(Err(error)),
            Self::Follow => {}
        }
    }
}

/// A series on its way to the store.
#[derive(Debug)]
pub struct Step {
    pub key: Box<str>,
    /// None: it ends.
    pub to: Option<Box<Series>>,
    pub promise: Option<Promise<()>>,
}

impl Series {
    fn encode(&self) -> Bytes {
        let text = self.schedule.to_string();
        let mut out = BytesMut::with_capacity(64 + text.len() + self.body.len());
        out.put_u8(VERSION);
        out.put_u8(match self.misfire {
            Misfire::All => 0,
            Misfire::Latest => 1,
            Misfire::Skip => 2,
        });
        out.put_i64_le(self.cursor.micros());
        out.put_u64_le(self.count);
        out.put_u32_le(self.planned.len() as u32);
        for (post, due) in &self.planned {
            out.put_u64_le(post.0);
            out.put_i64_le(due.micros());
        }
        // Names have at most 255 bytes.
        out.put_u8(self.pool.len() as u8);
        out.put_slice(self.pool.as_bytes());
        out.put_u32_le(text.len() as u32);
        out.put_slice(text.as_bytes());
        out.put_slice(self.body.as_bytes());
        out.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let misfire = match bytes.try_get_u8().ok()? {
            0 => Misfire::All,
            1 => Misfire::Latest,
            2 => Misfire::Skip,
            _ => return None,
        };
        let (cursor, count) = (Timestamp::from_micros(bytes.try_get_i64_le().ok()?), bytes.try_get_u64_le().ok()?);
        let mut planned = Vec::new();
        for _ in 0..bytes.try_get_u32_le().ok()? {
            let post = Seq(bytes.try_get_u64_le().ok()?);
            planned.push((post, Timestamp::from_micros(bytes.try_get_i64_le().ok()?)));
        }
        let pool_len = usize::from(bytes.try_get_u8().ok()?);
        let pool = take_text(&mut bytes, pool_len)?;
        let text_len = bytes.try_get_u32_le().ok()? as usize;
        let schedule = take_text(&mut bytes, text_len)?.parse().ok()?;
        Some(Self { schedule, misfire, pool: pool.into(), body: Body::decode(bytes)?, cursor, count, planned })
    }

    fn next(&self) -> Option<Timestamp> {
        self.schedule.next_after(self.cursor.to_datetime()).map(Timestamp::due)
    }

    /// Moves on to the last occurrence by `until`, or as far as one commit goes; those that are to be planned.
    fn follow(&mut self, now: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let mut dues = Vec::new();
        match self.misfire {
            Misfire::All => {}
            Misfire::Latest => {
                let latest = self.schedule.previous_before(now.after(Duration::from_millis(1)).to_datetime());
                if let Some(latest) = latest.map(Timestamp::due).filter(|latest| *latest > self.cursor) {
                    dues.push(latest);
                    self.cursor = latest;
                }
            }
            Misfire::Skip => self.cursor = self.cursor.max(now.before(limits::PAST_TOLERANCE)),
        }
        let next = self.schedule.after(self.cursor.to_datetime()).map(Timestamp::due);
        dues.extend(next.take_while(|due| *due <= until).take(limits::SERIES_POSTS));
        self.cursor = dues.last().copied().unwrap_or(self.cursor);
        dues
    }
}

fn take_text(bytes: &mut Bytes, len: usize) -> Option<String> {
    let text = (len <= bytes.len()).then(|| bytes.split_to(len))?;
    Some(std::str::from_utf8(&text).ok()?.to_owned())
}

fn key_of(series: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + series.len());
    key.put_u8(SERIES);
    key.put_slice(series.as_bytes());
    key.freeze()
}

impl Engine {
    /// Takes in what is remembered of a series; false if it is something else. What belongs to pools that are gone is
    /// left alone.
    pub(super) fn remember_series(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some(key) = key.strip_prefix(&[SERIES]).and_then(|key| std::str::from_utf8(key).ok()) else { return false };
        let series = Series::decode(Bytes::copy_from_slice(value));
        if let Some(series) = series.filter(|series| self.settings.pools.iter().any(|pool| *pool.name == *series.pool))
        {
            let managed = self.series.entry(key.into()).or_default();
            managed.series = Some(series);
            self.agenda.insert((Timestamp::MIN, Item::Series(key.into())));
        }
        true
    }

    /// What the host sees of a series.
    pub(super) fn show_series(&self, key: &str) -> Option<SeriesStatus> {
        let series = self.series.get(key)?.series.as_ref()?;
        Some(SeriesStatus {
            schedule: series.schedule.clone(),
            pool: series.pool.to_string(),
            next: series
                .planned
                .iter()
                .map(|(_, due)| *due)
                .find(|due| *due > self.now.wall)
                .or(series.next())
                .map(Timestamp::to_datetime),
            planned: series.count,
        })
    }

    /// The keys of all series, in their order.
    pub(super) fn all_series(&self) -> Vec<String> {
        let series = self.series.iter().filter(|(_, managed)| managed.series.is_some());
        series.map(|(key, _)| key.to_string()).collect()
    }

    /// Something is wished of a series.
    pub(super) fn wish_series(&mut self, key: &str, wish: SeriesWish) {
        if matches!(wish, SeriesWish::Set { .. }) || self.series.contains_key(key) {
            self.series.entry(key.into()).or_default().wishes.push_back(wish);
            self.turn_series(key);
        } else {
            wish.refuse(Error::NoSeries { key: key.to_owned() });
        }
    }

    /// Its time has come.
    pub(super) fn follow_series(&mut self, key: &str) {
        if let Some(managed) = self.series.get_mut(key) {
            managed.wake = None;
            self.wish_series(key, SeriesWish::Follow);
        }
    }

    fn turn_series(&mut self, key: &str) {
        if self.closing.is_some() || self.failed.is_some() {
            return;
        }
        while let Some(managed) = self.series.get_mut(key)
            && !managed.is_busy
            && let Some(wish) = managed.wishes.pop_front()
        {
            self.begin_series(key, wish);
        }
        let Some(managed) = self.series.get(key).filter(|managed| !managed.is_busy) else { return };
        let Some(series) = &managed.series else { return drop(self.series.remove(key)) };
        let wake = match series.next() {
            Some(next) => next.before(self.series_ahead(series)),
            // It ends when the last one is due.
            None => {
                let last = series.planned.iter().map(|(_, due)| *due).max();
                last.map_or(Timestamp::MIN, |due| due.after(Duration::from_millis(1)))
            }
        };
        self.wake_series(key, Some(wake));
    }

    fn wake_series(&mut self, key: &str, wake: Option<Timestamp>) {
        let Some(managed) = self.series.get_mut(key) else { return };
        let before = std::mem::replace(&mut managed.wake, wake);
        if before != wake {
            before.map(|at| self.agenda.remove(&(at, Item::Series(key.into()))));
            wake.map(|at| self.agenda.insert((at, Item::Series(key.into()))));
        }
    }

    /// How long before its due an occurrence is planned.
    fn series_ahead(&self, series: &Series) -> Duration {
        let pool = self.settings.pools.iter().find(|pool| *pool.name == *series.pool);
        let lead = pool.and_then(|pool| pool.prepare.as_ref()).map(|prepare| prepare.lead);
        limits::PLACE_AHEAD + series.body.lead().or(lead).unwrap_or_default()
    }

    fn begin_series(&mut self, key: &str, wish: SeriesWish) {
        let now = self.now.wall;
        let Some(managed) = self.series.get(key) else { return };
        let before = managed.series.clone();
        // What is planned and not in memory is looked for, before it is called off.
        let from = match wish {
            SeriesWish::Follow => Timestamp::MAX,
            SeriesWish::Set { .. } => now,
            SeriesWish::End { .. } => Timestamp::MIN,
        };
        let planned = before.iter().flat_map(|series| &series.planned).filter(|(_, due)| *due > from);
        let missing = planned.map(|(post, _)| *post).find(|post| self.slot(*post).is_none());
        if let Some(post) = missing {
            if let Some(managed) = self.series.get_mut(key) {
                managed.is_busy = true;
                managed.wishes.push_front(wish);
            }
            return self.search(self.id(post).into(), Search::Series { key: key.into(), post });
        }
        match (wish, before) {
            (SeriesWish::Follow, Some(mut series)) => {
                let until = now.after(self.series_ahead(&series));
                let dues = series.follow(now, until);
                if !dues.is_empty() {
                    return self.plan_occurrences(key, series, &dues);
                }
                if series.next().is_none() && series.planned.iter().all(|(_, due)| *due <= now) {
                    self.store_series(key, None, None);
                } else if let Some(managed) = self.series.get_mut(key) {
                    managed.series = Some(series);
                }
            }
            (SeriesWish::Follow, None) => {}
            (SeriesWish::Set { schedule, misfire, post, promise }, before) => {
                let Some(pool) = self.settings.pools.get(post.pool) else { return promise.fulfil(Err(Error::Closed)) };
                let (pool, body, count) =
                    (pool.name.as_ref().into(), post.body.as_occurrence(), before.as_ref().map_or(0, |old| old.count));
                self.commits.begin_unit();
                let planned = self.call_off(key, before.as_ref(), from);
                let series = Series { schedule: *schedule, misfire, pool, body, cursor: now, count, planned };
                self.store_series(key, Some(series), Some(promise));
                self.commits.end_unit();
            }
            (SeriesWish::End { promise }, Some(before)) => {
                self.commits.begin_unit();
                self.call_off(key, Some(&before), from);
                self.store_series(key, None, Some(promise));
                self.commits.end_unit();
            }
            (SeriesWish::End { promise }, None) => promise.fulfil(Err(Error::NoSeries { key: key.to_owned() })),
        }
    }

    /// The store has looked for an occurrence.
    pub(super) fn occurrence_found(&mut self, key: &str, post: Seq, found: Option<Found>) {
        let place = found.as_ref().and_then(|found| self.places.get(found.record().pool));
        let is_planned = match (self.slot(post), found, place) {
            (Some(_), _, _) => true,
            // On a shelf it is a post as any other there: held, failed or in doubt.
            (None, Some(Found::Live(stored)), Some(place)) if stored.record.home().shelf().is_none() => {
                if stored.claimed.is_some() {
                    self.take_up(place, stored);
                } else {
                    // It goes on when it is known whether it is called off.
                    self.admit(place, stored.record, Phase::Armed);
                    if let Some(managed) = self.series.get_mut(key) {
                        managed.borrowed.push(post);
                    }
                }
                self.slot(post).is_some()
            }
            _ => false,
        };
        if let Some(managed) = self.series.get_mut(key) {
            managed.is_busy = false;
            if let Some(series) = managed.series.as_mut().filter(|_| !is_planned) {
                series.planned.retain(|(planned, _)| *planned != post);
            }
        }
        self.turn_series(key);
    }

    /// Calls off the occurrences after this that are planned and not claimed; the others.
    fn call_off(&mut self, key: &str, before: Option<&Series>, from: Timestamp) -> Vec<(Seq, Timestamp)> {
        let planned = before.map(|series| series.planned.clone()).unwrap_or_default();
        let (planned, mut kept): (Vec<_>, Vec<_>) = planned.into_iter().partition(|(_, due)| *due > from);
        for (post, due) in planned {
            let slot = self.slot(post);
            let is_free = |slot: &u32| {
                self.posts.get(*slot as usize).is_some_and(|Resident { phase, record, .. }| {
                    let is_begun = record.attempts > 0 || !record.notes.receipts().is_empty();
                    !is_begun
                        && record.doubt == Doubt::None
                        && matches!(phase, Phase::Armed | Phase::Preparing | Phase::Moving)
                })
            };
            match slot.filter(is_free) {
                Some(slot) => self.leave(slot, Outcome::Cancelled, None, None),
                None => kept.push((post, due)),
            }
        }
        let borrowed = self.series.get_mut(key).map(|managed| std::mem::take(&mut managed.borrowed));
        for post in borrowed.into_iter().flatten() {
            let is_left = |slot: &u32| self.posts.get(*slot as usize).is_some_and(|post| post.phase == Phase::Armed);
            if let Some(slot) = self.slot(post).filter(is_left) {
                self.proceed(slot);
            }
        }
        kept
    }

    fn store_series(&mut self, key: &str, to: Option<Series>, promise: Option<Promise<()>>) {
        let value = to.as_ref().map(Series::encode).unwrap_or_default();
        let bytes = value.len();
        self.commits.add(Change::Remember { key: key_of(key), value }, None, bytes);
        let step = Step { key: key.into(), to: to.map(Box::new), promise };
        self.commits.note(Then::Series(Box::new(step)));
        if let Some(managed) = self.series.get_mut(key) {
            managed.is_busy = true;
        }
    }

    /// Stores these occurrences, together with what is remembered of the series.
    fn plan_occurrences(&mut self, key: &str, mut series: Series, dues: &[Timestamp]) {
        let place = self.settings.pools.iter().position(|pool| *pool.name == *series.pool);
        let Some((place, pool)) = place.and_then(|place| Some((place, self.settings.pools.get(place)?.id))) else {
            return;
        };
        let now = self.now.wall;
        let kept: Vec<Timestamp> = series.planned.iter().map(|(_, due)| *due).collect();
        // What is late and neither in memory nor to be loaded yet has ended, or is on a shelf.
        let loaded = self.sites.get(place).map_or(Timestamp::MIN, |site| site.window.cursor().at);
        series.planned.retain(|(post, due)| *due > now.min(loaded) || self.slot(*post).is_some());
        let mut planned = Vec::new();
        // An occurrence that was claimed before the series was changed is not planned again.
        for due in dues.iter().copied().filter(|due| !kept.contains(due)) {
            let seq = self.next_seq;
            self.next_seq = Seq(seq.0 + 1);
            let (notes, doubt, body) = (Notes::default(), Doubt::None, series.body.clone());
            let at = self.settings.pools.get(place).map_or(due, |pool| pool.begin(&body, due, &notes, now));
            let record = Record { seq, pool, at, due, attempts: 0, revision: 0, doubt, notes, body };
            series.planned.push((seq, due));
            series.count += 1;
            let claimed = self.claims_along(&record);
            planned.push(Planned { record, claimed });
        }
        // Of what is late the last ones are enough; what is still to come is known whole.
        let mut old = series.planned.iter().filter(|(_, due)| *due <= now).count().saturating_sub(limits::SERIES_POSTS);
        series.planned.retain(|(_, due)| {
            let is_old = *due <= now && old > 0;
            old -= usize::from(is_old);
            !is_old
        });
        let claims = planned.iter().filter(|post| post.claimed);
        let claims: Vec<Change> = claims.map(|post| Change::Claim { home: post.record.home(), attempt: 1 }).collect();
        let fixed: Vec<Change> = planned.iter().filter_map(|post| self.fixed_note(&post.record)).collect();
        let records: Vec<Record> = planned.iter().map(|post| post.record.clone()).collect();
        let bytes = records.iter().map(|record| record.body.len() + size_of::<Record>()).sum();
        let mut notes = vec![(key_of(key), series.encode())];
        if sabotage::is(Switch::PlanTwice) {
            notes.clear();
        }
        let step = Step { key: key.into(), to: Some(Box::new(series)), promise: None };
        let changes = fixed.into_iter().chain([Change::ScheduleNoted { records, notes }]).chain(claims);
        self.commits.add_new(changes, Then::Occurrences(Box::new((step, planned))), bytes);
        if let Some(managed) = self.series.get_mut(key) {
            managed.is_busy = true;
        }
    }

    /// The store has answered to occurrences.
    pub(super) fn occurrences_stored(&mut self, step: Step, planned: Vec<Planned>, verdict: Verdict) {
        let is_stored = matches!(verdict, Verdict::Stored(_));
        let (unheard, _) = Promise::new();
        self.scheduled(planned, Vec::new(), verdict, None, SchedulePromise::All(unheard));
        if is_stored {
            return self.series_stored(step);
        }
        // The disk is full: again, a little later.
        let again = self.now.wall.after(limits::THROTTLE);
        if let Some(managed) = self.series.get_mut(&step.key) {
            managed.is_busy = false;
            self.wake_series(&step.key, Some(again));
        }
    }

    /// A step of a series is durable.
    pub(super) fn series_stored(&mut self, step: Step) {
        let Step { key, to, promise } = step;
        let Some(managed) = self.series.get_mut(&key) else { return };
        managed.is_busy = false;
        let had_ended = managed.series.is_some() && to.is_none();
        managed.series = to.map(|series| *series);
        if let Some(promise) = promise {
            promise.fulfil(Ok(()));
        }
        if had_ended {
            self.emit(|| Event::SeriesEnded { key: key.to_string() });
        }
        self.turn_series(&key);
    }

    /// Refuses whatever waits for series.
    pub(super) fn refuse_series(&mut self, error: &Error) {
        for managed in self.series.values_mut() {
            let is_own = |wish: &SeriesWish| matches!(wish, SeriesWish::Follow);
            let (own, hosts): (Vec<_>, Vec<_>) = managed.wishes.drain(..).partition(is_own);
            managed.wishes.extend(own);
            hosts.into_iter().for_each(|wish| wish.refuse(error.clone()));
        }
    }
}
