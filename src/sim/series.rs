//! Series in a world: what the host wants of them, and what was promised.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Error;
use crate::id::PostId;
use crate::post::{Delivery, Misfire, Post, SeriesStatus};
use crate::reply::Reply;
use crate::scheduler::Scheduler;
use crate::time::Timestamp;

use super::host::{Host, Open, answer, pool_name, slots};
use super::oracle::{Content, EARLY, Oracle};

/// Each occurrence of a series is one post, and none is left out.
const OCCURRENCES: &str = "each occurrence once";
/// What is planned and not claimed is called off with its series; this long before its due it is claimed.
const CLAIMED: Duration = Duration::from_secs(10);
/// So many series are there.
pub const SERIES: usize = 2;
/// Payloads of series have numbers from this one on: those of their settings.
const FIRST: usize = 1 << 30;
const MINUTE: i64 = 60_000_000;

/// A wish of the host's that a series be so.
#[derive(Debug)]
pub struct Setting {
    series: usize,
    every_minutes: u64,
    /// Whether none of its occurrences may be left out. When a series ends, those that are late and wait are called off.
    wants_all: bool,
    /// What the wall clock showed while this was asked for.
    begun: Span,
    /// The latest time that the clock had shown when it had ended.
    over_at: Option<Timestamp>,
    /// Everything before this is planned, if nothing has ended it.
    planned_until: Timestamp,
    /// Which post is which occurrence; none if the host has dropped it.
    posts: BTreeMap<Timestamp, Option<PostId>>,
}

/// A wish of the host's that what a series was end, whether another setting takes its place or nothing does.
#[derive(Debug)]
struct End {
    series: usize,
    /// Settings before this one are to end.
    before: usize,
    /// What the wall clock showed while this was asked for.
    begun: Span,
}

/// What the wall clock showed at least and at most, until something was answered.
#[derive(Clone, Copy, Debug)]
struct Span {
    low: Timestamp,
    high: Timestamp,
    is_answered: bool,
}

impl Span {
    fn new(now: Timestamp) -> Self {
        Self { low: now, high: now, is_answered: false }
    }

    fn pass(&mut self, now: Timestamp) {
        if !self.is_answered {
            (self.low, self.high) = (self.low.min(now), self.high.max(now));
        }
    }

    /// It was answered.
    fn end(&mut self, now: Timestamp) {
        self.pass(now);
        self.is_answered = true;
    }
}

/// All settings that were ever wished.
#[derive(Debug)]
pub struct Settings {
    all: Vec<Setting>,
    ends: Vec<End>,
    /// The latest time that the wall clock has shown: what it showed by mistake may have been claimed.
    latest: Timestamp,
}

/// The setting whose post this is, by the number in its payload.
pub fn setting_of(post: usize) -> Option<usize> {
    post.checked_sub(FIRST).filter(|setting| *setting < FIRST)
}

impl Default for Settings {
    fn default() -> Self {
        Self { all: Vec::new(), ends: Vec::new(), latest: Timestamp::MIN }
    }
}

impl Settings {
    /// The wall clock shows this.
    pub fn pass(&mut self, now: Timestamp) {
        self.latest = self.latest.max(now);
        self.all.iter_mut().for_each(|setting| setting.begun.pass(now));
        self.ends.iter_mut().for_each(|end| end.begun.pass(now));
    }

    /// Whatever the series is, it is to end.
    fn ask_end(&mut self, series: usize, now: Timestamp) {
        self.ends.push(End { series, before: self.all.len(), begun: Span::new(now) });
    }

    /// Settings before this one have ended: it has taken their place, or nothing has.
    fn has_ended(&mut self, series: usize, before: usize, now: Timestamp) {
        let ends = self.ends.iter_mut().filter(|end| end.series == series && end.before <= before);
        ends.for_each(|end| end.begun.end(now));
        let earlier = self.all.iter_mut().take(before).filter(|setting| setting.series == series);
        earlier.for_each(|setting| _ = setting.over_at.get_or_insert(self.latest));
    }

    /// What the clock showed while this setting was to end: the first time, and also later, when what of it is planned
    /// ahead is called off by a clock that has stepped back since.
    fn ends_of(&self, number: usize) -> impl Iterator<Item = Span> {
        let series = self.all.get(number).map(|setting| setting.series);
        let ends = self.ends.iter().filter(move |end| Some(end.series) == series && end.before > number);
        ends.map(|end| end.begun)
    }

    /// What is late of a series may be called off.
    fn needs_not_all(&mut self, series: usize) {
        self.all.iter_mut().filter(|setting| setting.series == series).for_each(|setting| setting.wants_all = false);
    }

    /// The setting that holds now, if one does for sure.
    fn holding(&self, series: usize) -> Option<usize> {
        let last = self.all.iter().rposition(|setting| setting.series == series)?;
        let is_answered = self.all.get(last)?.begun.is_answered;
        (is_answered && self.ends_of(last).next().is_none()).then_some(last)
    }

    /// The occurrences of a setting before this that nobody was called for.
    fn missing(&self, number: usize, before: Timestamp) -> Vec<Timestamp> {
        let Some(own) = self.all.get(number) else { return Vec::new() };
        let ended = self.ends_of(number).map(|ended| ended.low).min().unwrap_or(Timestamp::MAX);
        // What was claimed before the series was changed is not planned again.
        let earlier = || self.all.iter().take(number).filter(|setting| setting.series == own.series);
        let missing = own.missing(before.min(ended)).into_iter();
        missing.filter(|due| !earlier().any(|setting| setting.posts.contains_key(due))).collect()
    }

    /// How many occurrences have been met.
    pub fn occurrences(&self) -> usize {
        self.all.iter().map(|setting| setting.posts.len()).sum()
    }
}

impl Setting {
    /// The occurrences before this that nobody was called for.
    fn missing(&self, before: Timestamp) -> Vec<Timestamp> {
        let until = self.planned_until.min(before);
        let every = self.every_minutes as i64 * MINUTE;
        let first = (self.begun.high.micros().div_euclid(every) + 1) * every;
        let dues = (first..until.micros()).step_by(every as usize).map(Timestamp::from_micros);
        let is_checked = self.wants_all && self.begun.is_answered;
        dues.filter(|due| is_checked && !self.posts.contains_key(due)).collect()
    }
}

impl Oracle {
    /// The host decides about an occurrence: it need not be called for any more.
    pub fn decide_occurrence(&mut self, setting: usize, due: Timestamp) {
        if let Some(known) = self.settings.all.get_mut(setting) {
            known.posts.entry(due).or_insert(None);
        }
    }

    /// The broadcaster is called for an occurrence.
    pub fn call_occurrence(&mut self, setting: usize, delivery: &Delivery, now: Timestamp) {
        let (due, id) = (delivery.facts().due, delivery.id());
        let Some(known) = self.settings.all.get_mut(setting) else {
            return self.check(OCCURRENCES, false, || format!("setting {setting} was never wished"));
        };
        let first = *known.posts.entry(due).or_insert(Some(id));
        let is_one = first.is_none_or(|first| first == id);
        let is_on = due.micros() % (known.every_minutes as i64 * MINUTE) == 0;
        let over = known.over_at.map(|over| over.after(CLAIMED));
        let is_over = over.is_some_and(|over| due > over);
        self.check(EARLY, now >= due, || format!("setting {setting} at {now:?}, due {due:?}"));
        self.check(OCCURRENCES, is_one, || format!("setting {setting}, {due:?}: {first:?} and {id}"));
        self.check(OCCURRENCES, is_on, || format!("setting {setting} has {due:?}, which is no occurrence"));
        self.check(OCCURRENCES, !is_over, || format!("setting {setting} has {due:?}, but was over at {over:?}"));
    }

    /// At the end: no occurrence was left out.
    pub fn check_occurrences(&mut self) {
        for number in 0..self.settings.all.len() {
            let missing = self.settings.missing(number, Timestamp::MAX);
            self.check(OCCURRENCES, missing.is_empty(), || format!("setting {number} has left out {missing:?}"));
        }
    }
}

/// What the host has asked of a series.
pub enum Asked {
    Set {
        setting: usize,
        reply: Reply<()>,
    },
    /// All settings before this one are to end.
    End {
        series: usize,
        before: usize,
        reply: Reply<()>,
    },
    Status {
        series: usize,
        holding: Option<usize>,
        reply: Reply<Option<SeriesStatus>>,
    },
}

/// How far a series is in the end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Healing {
    #[default]
    Behind,
    /// All that has passed is planned.
    CaughtUp,
    Over,
}

impl Host {
    /// Makes a series, changes it, ends it, or asks about it.
    pub fn wish_series(&mut self, scheduler: &Scheduler) {
        let series = self.dice.below(SERIES as u64) as usize;
        match self.dice.below(16) {
            0..3 => self.set_series(scheduler, series),
            3 => {
                self.scene.look().oracle.settings.needs_not_all(series);
                self.end_series(scheduler, series);
            }
            _ => self.show_series(scheduler, series),
        }
    }

    fn set_series(&mut self, scheduler: &Scheduler, series: usize) {
        let every_minutes = [10, 15, 30, 60][self.dice.below(4) as usize];
        let misfire = [Misfire::All, Misfire::All, Misfire::Latest, Misfire::Skip][self.dice.below(4) as usize];
        let profile = self.profile();
        let pool = series % self.pools;
        let misses = self.scene.look().oracle.pools[pool].misses;
        let now = self.scene.time().wall;
        let setting = {
            let settings = &mut self.scene.look().oracle.settings;
            settings.ask_end(series, now);
            settings.all.push(Setting {
                series,
                every_minutes,
                wants_all: misfire == Misfire::All && !misses,
                begun: Span::new(now),
                over_at: None,
                planned_until: Timestamp::MIN,
                posts: BTreeMap::new(),
            });
            settings.all.len() - 1
        };
        let content = Content { post: FIRST + setting, part: 0, revision: 0 };
        let post = Post::new(pool_name(pool), content.write()).profile(profile);
        let reply = scheduler.series(&key(series)).set(slots(every_minutes), post, misfire);
        self.open.push(Open::Series(Asked::Set { setting, reply }));
    }

    fn end_series(&mut self, scheduler: &Scheduler, series: usize) {
        let now = self.scene.time().wall;
        let before = {
            let settings = &mut self.scene.look().oracle.settings;
            settings.ask_end(series, now);
            settings.all.len()
        };
        let reply = scheduler.series(&key(series)).end();
        self.open.push(Open::Series(Asked::End { series, before, reply }));
    }

    fn show_series(&mut self, scheduler: &Scheduler, series: usize) {
        let holding = self.scene.look().oracle.settings.holding(series);
        let reply = scheduler.series(&key(series)).status();
        self.open.push(Open::Series(Asked::Status { series, holding, reply }));
    }

    /// True if the answer has come.
    pub fn take_series(&mut self, asked: &mut Asked) -> bool {
        let mut state = self.scene.look();
        let now = state.now.wall;
        let settings = &mut state.oracle.settings;
        match asked {
            Asked::Set { setting, reply } => match answer(reply) {
                Some(Ok(())) => {
                    let series = settings.all[*setting].series;
                    settings.all[*setting].begun.end(now);
                    settings.has_ended(series, *setting, now);
                }
                Some(Err(_)) => {}
                None => return false,
            },
            Asked::End { series, before, reply } => match answer(reply) {
                Some(Ok(()) | Err(Error::NoSeries { .. })) => {
                    settings.has_ended(*series, *before, now);
                    self.healing[*series] = Healing::Over;
                }
                Some(Err(_)) => {}
                None => return false,
            },
            Asked::Status { series, holding, reply } => match answer(reply) {
                Some(Ok(status)) => {
                    let next = status.as_ref().and_then(SeriesStatus::next).map(Timestamp::due);
                    if let Some((setting, next)) = holding.and_then(|holding| settings.all.get_mut(holding)).zip(next) {
                        setting.planned_until = setting.planned_until.max(next);
                    }
                    self.healing[*series] = match next {
                        None => Healing::Over,
                        Some(next) if next > now => Healing::CaughtUp,
                        Some(_) => Healing::Behind,
                    };
                }
                Some(Err(_)) => {}
                None => return false,
            },
        }
        true
    }

    /// Whether all occurrences of a series were called that had to be.
    fn is_served(&self, series: usize) -> bool {
        let state = self.scene.look();
        let settings = &state.oracle.settings;
        let mut own = (0..settings.all.len()).filter(|number| settings.all[*number].series == series);
        own.all(|number| settings.missing(number, state.now.wall).is_empty())
    }

    /// Lets all series end, when all that has passed is planned and called.
    pub fn heal_series(&mut self, scheduler: &Scheduler) {
        for series in 0..SERIES {
            match self.healing[series] {
                Healing::Behind => self.show_series(scheduler, series),
                Healing::CaughtUp if self.is_served(series) => self.end_series(scheduler, series),
                Healing::CaughtUp => {}
                Healing::Over => {}
            }
        }
    }
}

fn key(series: usize) -> String {
    format!("series {series}")
}
