//! Recurrences of RFC 5545: a rule, its start, and dates that are left out or come besides.

mod expand;
mod rule;
mod text;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use self::reference::any_rule;

use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::Tz;

pub use self::rule::{Frequency, NthDay, RecurrenceRule, Until};

use self::expand::Plan;
use super::civil::{DAY, LAST, checked_seconds, day_of, instant_of, local_of, second_after, second_before, seconds_of};
use super::error::ScheduleError;
use super::local::{Disambiguation, LocalTime};
use super::wall::Times;

/// A recurrence: an RRULE of RFC 5545 with its start in a zone, and dates that are left out (EXDATE) or come besides
/// (RDATE).
///
/// It is reckoned in local time: 08:00 stays 08:00 when the clocks change. A local time that they skip comes later by the
/// length of the gap, one that they show twice comes at the first (RFC 5545, 3.3.5 and 3.3.10;
/// [`Disambiguation::Compatible`]). Instants that coincide by this are one; they always rise strictly. Years 1970 to
/// 9999, whole seconds.
///
/// **The start.** It comes only if the rule yields it. A start that does not is, says the RFC, undefined (3.8.5.3: it
/// "SHOULD be synchronized with the recurrence rule"); python-dateutil and most calendars leave it out, and so it is
/// here. Date and time that the rule does not name are those of the start.
///
/// **Leniently read.** UNTIL may be a local time, or a date of which the whole day is included. An EXDATE may be a date:
/// the whole day is left out. EXDATE and RDATE may be in UTC or another zone: then they are instants.
///
/// As text: `rrule`, and the lines of iCalendar: `DTSTART;TZID=Europe/Berlin:20260105T080000`, `RRULE:FREQ=DAILY`,
/// `EXDATE;TZID=…`, `RDATE;TZID=…`. The word may be left out; folded lines, CRLF and lower case are read.
///
/// ```
/// use punctual::Recurrence;
///
/// let start = "2026-10-23T08:00:00".parse()?;
/// let daily = Recurrence::parse("FREQ=DAILY;COUNT=4", start, chrono_tz::Europe::Berlin)?;
/// let dues: Vec<_> = daily.after("2026-10-01T00:00:00Z".parse()?).map(|due| due.to_rfc3339()).collect();
/// assert_eq!(dues[1..3], ["2026-10-24T06:00:00+00:00", "2026-10-25T07:00:00+00:00"]); // winter begins
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Recurrence(Arc<Dated>);

/// A rule with its dates, checked.
#[derive(PartialEq, Eq, Hash, Debug)]
struct Dated {
    rule: RecurrenceRule,
    /// Local time, seconds.
    start: i64,
    zone: Tz,
    excluded: Vec<Stamp>,
    included: Vec<Stamp>,
    plan: Plan,
    /// The last instant of the rule, if it is given so.
    until: i64,
    /// The instants that come besides.
    besides: Vec<i64>,
}

/// What an EXDATE or RDATE says. Seconds, or days.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Stamp {
    Local(i64),
    Instant(i64),
    Day(i64),
}

impl Recurrence {
    /// This rule from this local time in this zone on.
    ///
    /// # Errors
    ///
    /// [`InvalidValue`](ScheduleError::InvalidValue) and [`NotAllowed`](ScheduleError::NotAllowed) for rules that the RFC
    /// does not allow, [`UntilBeforeStart`](ScheduleError::UntilBeforeStart), [`NeverFires`](ScheduleError::NeverFires),
    /// [`NotWholeSecond`](ScheduleError::NotWholeSecond) and [`OutOfRange`](ScheduleError::OutOfRange) for the start.
    pub fn new(rule: RecurrenceRule, start: NaiveDateTime, zone: Tz) -> Result<Self, ScheduleError> {
        Self::with_dates(rule, start, zone, Vec::new(), Vec::new())
    }

    /// Leaves these local times out. Those that it does not have anyway are not an error.
    ///
    /// # Errors
    ///
    /// [`NeverFires`](ScheduleError::NeverFires) if nothing is left, and as for [`new`](Self::new).
    pub fn exclude(self, times: impl IntoIterator<Item = NaiveDateTime>) -> Result<Self, ScheduleError> {
        let mut excluded = self.0.excluded.clone();
        for time in times {
            excluded.push(Stamp::Local(checked_seconds(time)?));
        }
        Self::with_dates(self.0.rule.clone(), self.start(), self.0.zone, excluded, self.0.included.clone())
    }

    /// Adds these local times, unless they are excluded.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn include(self, times: impl IntoIterator<Item = NaiveDateTime>) -> Result<Self, ScheduleError> {
        let mut included = self.0.included.clone();
        for time in times {
            included.push(Stamp::Local(checked_seconds(time)?));
        }
        Self::with_dates(self.0.rule.clone(), self.start(), self.0.zone, self.0.excluded.clone(), included)
    }

    fn with_dates(
        rule: RecurrenceRule,
        start: NaiveDateTime,
        zone: Tz,
        mut excluded: Vec<Stamp>,
        mut included: Vec<Stamp>,
    ) -> Result<Self, ScheduleError> {
        rule.check()?;
        let start = checked_seconds(start)?;
        let first_instant = LocalTime::new(local_of(start), zone).instant()?;
        let (end, until, is_before) = match rule.until {
            None => (LAST + DAY, LAST, false),
            Some(Until::Instant(until)) => {
                (until.timestamp().saturating_add(2 * DAY), until.timestamp(), until < first_instant)
            }
            Some(Until::Local(until)) => {
                let until = seconds_of(until);
                (until, LAST, until < start)
            }
            Some(Until::Date(date)) => {
                let end = (day_of(date) + 1) * DAY - 1;
                (end, LAST, end < start)
            }
        };
        if let Some(until) = rule.until.filter(|_| is_before) {
            let (until, start) = (until.to_string(), local_of(start));
            return Err(ScheduleError::UntilBeforeStart { until, start, zone: zone.name() });
        }
        let never = || ScheduleError::NeverFires { rule: rule.to_string() };
        let mut plan = Plan::new(&rule, start, end).ok_or_else(never)?;
        // Also before its dates: a rule that contradicts itself is a mistake, whatever comes besides.
        plan.first(start, i64::MAX).ok_or_else(never)?;
        if let Some(count) = rule.count {
            plan.limit(count);
        }
        for dates in [&mut excluded, &mut included] {
            dates.sort_unstable();
            dates.dedup();
        }
        let mut this = Dated { rule, start, zone, excluded, included, plan, until, besides: Vec::new() };
        this.besides = this.instants_besides()?;
        if Dues(&this).first(i64::MIN / 2, i64::MAX).is_none() {
            return Err(ScheduleError::NeverFires { rule: this.rule.to_string() });
        }
        Ok(Self(Arc::new(this)))
    }

    /// The rule.
    pub fn rule(&self) -> &RecurrenceRule {
        &self.0.rule
    }

    /// Its start, local time.
    pub fn start(&self) -> NaiveDateTime {
        local_of(self.0.start)
    }

    /// The zone.
    pub fn zone(&self) -> Tz {
        self.0.zone
    }

    /// The first instant after this one.
    pub fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        Dues(&self.0).first(second_after(instant), i64::MAX).map(instant_of)
    }

    /// The last instant before this one.
    pub fn previous_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        Dues(&self.0).last(second_before(instant)).map(instant_of)
    }

    /// All instants after this one, in order.
    pub fn after(&self, instant: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(instant), |last| self.next_after(*last))
    }
}

impl Dated {
    fn instants_besides(&self) -> Result<Vec<i64>, ScheduleError> {
        let mut instants = Vec::with_capacity(self.included.len());
        for stamp in &self.included {
            let instant = match *stamp {
                Stamp::Local(time) if self.excludes(time) => continue,
                Stamp::Local(time) | Stamp::Day(time) => {
                    LocalTime::new(local_of(time), self.zone).instant()?.timestamp()
                }
                Stamp::Instant(instant) => instant,
            };
            if !self.is_excluded(Stamp::Instant(instant)) {
                instants.push(instant);
            }
        }
        instants.sort_unstable();
        instants.dedup();
        Ok(instants)
    }

    fn is_excluded(&self, stamp: Stamp) -> bool {
        self.excluded.binary_search(&stamp).is_ok()
    }

    fn excludes(&self, local: i64) -> bool {
        self.is_excluded(Stamp::Local(local)) || self.is_excluded(Stamp::Day(local.div_euclid(DAY)))
    }
}

/// The local times of the rule that are not left out.
impl Times for Dated {
    fn first(&self, mut from: i64, until: i64) -> Option<i64> {
        loop {
            let time = self.plan.first(from, until)?;
            if !self.excludes(time) {
                return Some(time);
            }
            let rest_of_day = self.is_excluded(Stamp::Day(time.div_euclid(DAY)));
            from = if rest_of_day { (time.div_euclid(DAY) + 1) * DAY } else { time + 1 };
        }
    }
}

/// The instants of a recurrence.
struct Dues<'a>(&'a Dated);

impl Times for Dues<'_> {
    fn first(&self, mut from: i64, until: i64) -> Option<i64> {
        let Self(this) = self;
        let besides = this.besides.get(this.besides.partition_point(|at| *at < from)).copied();
        let instants = Disambiguation::Compatible.wall(this.zone).instants(*this);
        let ruled = loop {
            match instants.first(from, until.min(this.until.saturating_add(1))) {
                Some(at) if this.is_excluded(Stamp::Instant(at)) => from = at + 1,
                ruled => break ruled,
            }
        };
        ruled.into_iter().chain(besides).min().filter(|at| *at < until)
    }
}
