//! The weekly times at which a profile posts.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc, Weekday};
use chrono_tz::Tz;

use super::civil::{
    DAY, WEEKDAYS, checked_seconds, instant_of, local_of, number_of, second_after, second_before, weekday,
};
use super::error::ScheduleError;
use super::local::Disambiguation;
use super::text::{Clock, Local, Source};
use super::wall::{Instants, Times};
use super::zone::zone;

const WEEK: i64 = 7 * DAY;

/// Posting slots: weekly local times in a zone, without some dates, and with some local times besides.
///
/// Their instants rise strictly: slots that fall on one instant, because the clocks skip one of them, are one. What is
/// done with slots that the clocks skip or show twice can be chosen; [`Disambiguation::Reject`] leaves them out on that
/// day. Years 1970 to 9999.
///
/// As text: `slots Europe/Berlin Mon-Fri 08:00,17:30; Sat 10:00; skip 2026-12-25; extra 2026-12-24T10:00; later`. The
/// last word is the disambiguation, left out if it is `compatible`.
///
/// ```
/// use chrono::{NaiveTime, Weekday::*};
/// use punctual::PostingSlots;
///
/// let eight = NaiveTime::from_hms_opt(8, 0, 0).ok_or("no such time")?;
/// let slots = PostingSlots::new(chrono_tz::Europe::Berlin).on([Mon, Tue, Wed, Thu, Fri], [eight]).build()?;
/// let saturday = "2026-03-28T12:00:00Z".parse()?;
/// let monday = slots.next_after(saturday).ok_or("none")?;
/// assert_eq!(monday.to_rfc3339(), "2026-03-30T06:00:00+00:00"); // it is summer now
/// assert_eq!(slots.to_string(), "slots Europe/Berlin Mon-Fri 08:00");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PostingSlots {
    zone: Tz,
    disambiguation: Disambiguation,
    /// Seconds since Monday 00:00; ascending, as all of these.
    weekly: Vec<i64>,
    /// Days since 1970.
    skipped: Vec<i64>,
    /// Local times in seconds since 1970.
    extra: Vec<i64>,
}

/// Slots that are being put together: see [`PostingSlots::new`].
#[derive(Clone, Debug)]
#[must_use = "slots are made by `build`"]
pub struct SlotsBuilder {
    zone: Tz,
    disambiguation: Disambiguation,
    weekly: Vec<(Weekday, NaiveTime)>,
    skipped: Vec<NaiveDate>,
    extra: Vec<NaiveDateTime>,
}

impl SlotsBuilder {
    /// Adds each of these times on each of these days.
    pub fn on(
        mut self,
        days: impl IntoIterator<Item = Weekday>,
        times: impl IntoIterator<Item = NaiveTime> + Clone,
    ) -> Self {
        for day in days {
            self.weekly.extend(times.clone().into_iter().map(|time| (day, time)));
        }
        self
    }

    /// Takes the weekly slots of this date away, such as those of a holiday. Extra ones stay.
    pub fn skip(mut self, date: NaiveDate) -> Self {
        self.skipped.push(date);
        self
    }

    /// Adds one slot at this local time.
    pub fn extra(mut self, time: NaiveDateTime) -> Self {
        self.extra.push(time);
        self
    }

    /// What is done with slots that the clocks skip or show twice. Default: [`Disambiguation::Compatible`].
    pub fn disambiguation(mut self, disambiguation: Disambiguation) -> Self {
        self.disambiguation = disambiguation;
        self
    }

    /// The slots.
    ///
    /// # Errors
    ///
    /// [`NoSlots`](ScheduleError::NoSlots), [`NotWholeSecond`](ScheduleError::NotWholeSecond), and
    /// [`OutOfRange`](ScheduleError::OutOfRange) for dates outside the years 1970 to 9999.
    pub fn build(self) -> Result<PostingSlots, ScheduleError> {
        if self.weekly.is_empty() && self.extra.is_empty() {
            return Err(ScheduleError::NoSlots);
        }
        let some_day = local_of(0).date();
        let weekly = self.weekly.into_iter().map(|(day, time)| {
            let of_day = checked_seconds(some_day.and_time(time))?;
            Ok(number_of(day) * DAY + of_day)
        });
        let skipped = self.skipped.into_iter().map(|date| Ok(checked_seconds(date.and_time(NaiveTime::MIN))? / DAY));
        let extra = self.extra.into_iter().map(checked_seconds);
        Ok(PostingSlots {
            zone: self.zone,
            disambiguation: self.disambiguation,
            weekly: ascending(weekly)?,
            skipped: ascending(skipped)?,
            extra: ascending(extra)?,
        })
    }
}

fn ascending(values: impl Iterator<Item = Result<i64, ScheduleError>>) -> Result<Vec<i64>, ScheduleError> {
    let mut values = values.collect::<Result<Vec<_>, _>>()?;
    values.sort_unstable();
    values.dedup();
    Ok(values)
}

impl PostingSlots {
    /// Slots in this zone: say which, and [`build`](SlotsBuilder::build) them.
    #[expect(clippy::new_ret_no_self, reason = "there are no slots without a slot")]
    pub fn new(zone: Tz) -> SlotsBuilder {
        let disambiguation = Disambiguation::default();
        SlotsBuilder { zone, disambiguation, weekly: Vec::new(), skipped: Vec::new(), extra: Vec::new() }
    }

    /// The zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first slot after this instant, if there is one: only extra slots come to an end before the year 9999.
    pub fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.instants().first(second_after(instant), i64::MAX).map(instant_of)
    }

    /// The last slot before this instant, back to 1970.
    pub fn previous_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.instants().last(second_before(instant)).map(instant_of)
    }

    /// All slots after this instant, in order. Each costs the same, however far away.
    pub fn after(&self, instant: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(instant), |last| self.next_after(*last))
    }

    fn instants(&self) -> Instants<'_, Self> {
        self.disambiguation.wall(self.zone).instants(self)
    }

    fn first_weekly(&self, from: i64, until: i64) -> Option<i64> {
        let (mut day, mut time) = (from.div_euclid(DAY), from.rem_euclid(DAY));
        let first = self.weekly.first()?;
        while day * DAY < until {
            let of_week = weekday(day) * DAY;
            let next = self.weekly.partition_point(|slot| *slot < of_week + time);
            let found = day * DAY - of_week + self.weekly.get(next).unwrap_or(&(first + WEEK));
            let found_day = found.div_euclid(DAY);
            if self.skipped.binary_search(&found_day).is_err() {
                return Some(found);
            }
            (day, time) = (found_day + 1, 0);
        }
        None
    }
}

impl Times for PostingSlots {
    fn first(&self, from: i64, until: i64) -> Option<i64> {
        let extra = self.extra.get(self.extra.partition_point(|extra| *extra < from)).copied();
        let next = self.first_weekly(from, until).into_iter().chain(extra).min();
        next.filter(|next| *next < until)
    }
}

impl fmt::Display for PostingSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slots {}", self.zone.name())?;
        let times = |day: i64| {
            let of_day = move |slot: &&i64| **slot / DAY == day;
            self.weekly.iter().filter(of_day).map(|slot| slot % DAY).collect::<Vec<_>>()
        };
        let week: Vec<Vec<i64>> = (0..7).map(times).collect();
        let mut separator = " ";
        for (day, times) in week.iter().enumerate() {
            // Days with the same times are said with the first of them.
            if times.is_empty() || week[..day].contains(times) {
                continue;
            }
            write!(f, "{separator}{} ", Days(&week, times))?;
            for (place, time) in times.iter().enumerate() {
                write!(f, "{}{}", if place == 0 { "" } else { "," }, Clock(local_of(*time).time()))?;
            }
            separator = "; ";
        }
        for day in &self.skipped {
            write!(f, "{separator}skip {}", local_of(day * DAY).date())?;
            separator = "; ";
        }
        for extra in &self.extra {
            write!(f, "{separator}extra {}", Local(local_of(*extra)))?;
            separator = "; ";
        }
        if self.disambiguation != Disambiguation::Compatible {
            write!(f, "; {}", self.disambiguation)?;
        }
        Ok(())
    }
}

/// The days of a week that have these times, as `Mon-Wed,Sat`.
struct Days<'a>(&'a [Vec<i64>], &'a [i64]);

impl fmt::Display for Days<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |day: usize| self.0.get(day).is_some_and(|times| times == self.1);
        let mut separator = "";
        for (day, (weekday, _)) in WEEKDAYS.iter().enumerate() {
            match (day > 0 && has(day - 1), has(day), has(day + 1)) {
                // In the middle of a range.
                (true, true, true) | (_, false, _) => {}
                (true, true, false) => write!(f, "-{weekday}")?,
                (false, true, _) => {
                    write!(f, "{separator}{weekday}")?;
                    separator = ",";
                }
            }
        }
        Ok(())
    }
}

impl FromStr for PostingSlots {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let source = Source { what: "posting slots", text };
        let (name, rest) = source.word(source.after_keyword("slots")?, "a zone")?;
        let mut slots = Self::new(zone(name)?);
        for part in rest.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (word, rest) = source.word(part, "a slot")?;
            let rest = rest.trim();
            slots = match word.to_ascii_lowercase().as_str() {
                "skip" => slots.skip(source.date(rest)?),
                "extra" => slots.extra(source.local(rest)?),
                name if rest.is_empty() && Disambiguation::named(name).is_some() => {
                    slots.disambiguation(Disambiguation::named(name).unwrap_or_default())
                }
                _ => {
                    let mut days = Vec::new();
                    for range in word.split(',') {
                        days.extend(source.weekdays(range)?);
                    }
                    let times: Result<Vec<_>, _> = rest.split(',').map(|time| source.time(time.trim())).collect();
                    slots.on(days, times?)
                }
            };
        }
        slots.build()
    }
}
