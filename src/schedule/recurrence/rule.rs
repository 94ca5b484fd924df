//! A recurrence rule as data: RFC 5545's RRULE, with what the RFC allows.

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc, Weekday};

use crate::schedule::civil::{WEEKDAYS, checked_seconds, instant_of, local_of, number_of, seconds_of};
use crate::schedule::error::ScheduleError;

/// How often a rule begins anew: RFC 5545's FREQ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "they are words")]
pub enum Frequency {
    Secondly,
    Minutely,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Frequency {
    pub(super) const ALL: [(Self, &'static str); 7] = [
        (Self::Secondly, "SECONDLY"),
        (Self::Minutely, "MINUTELY"),
        (Self::Hourly, "HOURLY"),
        (Self::Daily, "DAILY"),
        (Self::Weekly, "WEEKLY"),
        (Self::Monthly, "MONTHLY"),
        (Self::Yearly, "YEARLY"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(this, _)| *this == self).map_or("", |(_, name)| name)
    }
}

/// A weekday of BYDAY: every one, or the nth of the month or year, from its end if n is negative.
///
/// ```
/// use chrono::Weekday::{Fri, Mon};
/// use punctual::NthDay;
///
/// assert_eq!(NthDay::from((-1, Fri)).to_string(), "-1FR");
/// assert_eq!(NthDay::from(Mon).to_string(), "MO");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NthDay {
    /// 0 for every one.
    pub(super) nth: i64,
    pub(super) day: Weekday,
}

impl From<Weekday> for NthDay {
    fn from(day: Weekday) -> Self {
        Self { nth: 0, day }
    }
}

impl From<(i64, Weekday)> for NthDay {
    fn from((nth, day): (i64, Weekday)) -> Self {
        Self { nth, day }
    }
}

impl fmt::Display for NthDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nth != 0 {
            write!(f, "{}", self.nth)?;
        }
        f.write_str(WEEKDAYS[number_of(self.day) as usize].1)
    }
}

/// Where a rule ends: RFC 5545's UNTIL. What falls on it is still part of the recurrence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Until {
    /// An instant; the form that the RFC wants for rules in a zone.
    Instant(DateTime<Utc>),
    /// A local time in the rule's zone. Not allowed by the RFC beside a zone, and often seen.
    Local(NaiveDateTime),
    /// A date in the rule's zone: all of that day. Not allowed by the RFC beside a time, and often seen.
    Date(NaiveDate),
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instant(at) => write!(f, "{}", at.format("%Y%m%dT%H%M%SZ")),
            Self::Local(time) => write!(f, "{}", time.format("%Y%m%dT%H%M%S")),
            Self::Date(date) => write!(f, "{}", date.format("%Y%m%d")),
        }
    }
}

/// The parts that are lists of numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    Second,
    Minute,
    Hour,
    MonthDay,
    YearDay,
    WeekNo,
    Month,
    SetPos,
}

impl By {
    /// In this order, with their names and ranges. Where values may be negative, they count from the end, and 0 is none.
    pub const ALL: [(Self, &'static str, i64, i64); 8] = [
        (Self::Second, "BYSECOND", 0, 59),
        (Self::Minute, "BYMINUTE", 0, 59),
        (Self::Hour, "BYHOUR", 0, 23),
        (Self::MonthDay, "BYMONTHDAY", -31, 31),
        (Self::YearDay, "BYYEARDAY", -366, 366),
        (Self::WeekNo, "BYWEEKNO", -53, 53),
        (Self::Month, "BYMONTH", 1, 12),
        (Self::SetPos, "BYSETPOS", -366, 366),
    ];
}

/// The most occurrences that COUNT may ask for: a post every minute for almost two years.
const COUNT_MAX: u32 = 1_000_000;

/// A recurrence rule: RFC 5545's RRULE (3.3.10). Without a start it is only a pattern; a
/// [`Recurrence`](crate::Recurrence) is made of both, and checks it.
///
/// Lists that are left empty, or not given, limit nothing. As text it is an RRULE; the parts are in a fixed order, and
/// lists ascend.
///
/// ```
/// use chrono::Weekday::Fri;
/// use punctual::{Frequency, RecurrenceRule};
///
/// let rule = RecurrenceRule::new(Frequency::Monthly).interval(2).by_day([(-1, Fri)]).count(6);
/// assert_eq!(rule.to_string(), "FREQ=MONTHLY;COUNT=6;INTERVAL=2;BYDAY=-1FR");
/// assert_eq!("freq=monthly;interval=2;count=6;byday=-1fr".parse(), Ok(rule));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RecurrenceRule {
    pub(super) frequency: Frequency,
    pub(super) interval: u32,
    pub(super) count: Option<u32>,
    pub(super) until: Option<Until>,
    pub(super) days: Vec<NthDay>,
    pub(super) week_start: Weekday,
    /// In the order of [`By`].
    by: [Vec<i64>; 8],
}

impl RecurrenceRule {
    /// Every second, minute, hour … without end.
    pub fn new(frequency: Frequency) -> Self {
        Self {
            frequency,
            interval: 1,
            count: None,
            until: None,
            days: Vec::new(),
            week_start: Weekday::Mon,
            by: Default::default(),
        }
    }

    /// INTERVAL: every so many of them, 1 or more. Default: 1.
    #[must_use]
    pub fn interval(mut self, interval: u32) -> Self {
        self.interval = interval;
        self
    }

    /// COUNT: ends after so many occurrences, 1 to 1,000,000. Excluded ones count, additional ones do not.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    /// UNTIL: the last instant at which it may come. A fraction of a second is dropped.
    #[must_use]
    pub fn until(mut self, until: Until) -> Self {
        self.until = Some(match until {
            Until::Instant(at) => Until::Instant(instant_of(at.timestamp())),
            Until::Local(time) => Until::Local(local_of(seconds_of(time))),
            Until::Date(date) => Until::Date(date),
        });
        self
    }

    /// BYDAY: on these weekdays; or, if the rule is monthly or yearly, on the nth of the month or year.
    #[must_use]
    pub fn by_day<D: Into<NthDay>>(mut self, days: impl IntoIterator<Item = D>) -> Self {
        self.days = days.into_iter().map(Into::into).collect();
        self.days.sort_unstable_by_key(|day| (day.nth, number_of(day.day)));
        self.days.dedup();
        self
    }

    /// BYMONTHDAY: 1 to 31, or −1 to −31 from the end of the month.
    #[must_use]
    pub fn by_month_day(self, days: impl IntoIterator<Item = i64>) -> Self {
        self.with(By::MonthDay, days)
    }

    /// BYMONTH: 1 to 12.
    #[must_use]
    pub fn by_month(self, months: impl IntoIterator<Item = i64>) -> Self {
        self.with(By::Month, months)
    }

    /// BYYEARDAY: 1 to 366, or −1 to −366 from the end of the year.
    #[must_use]
    pub fn by_year_day(self, days: impl IntoIterator<Item = i64>) -> Self {
        self.with(By::YearDay, days)
    }

    /// BYWEEKNO: 1 to 53, or −1 to −53 from the end of the year. Week 1 is the first with four days in the year.
    #[must_use]
    pub fn by_week_number(self, weeks: impl IntoIterator<Item = i64>) -> Self {
        self.with(By::WeekNo, weeks)
    }

    /// BYHOUR: 0 to 23.
    #[must_use]
    pub fn by_hour(self, hours: impl IntoIterator<Item = i64>) -> Self {
        self.with(By::Hour, hours)
    }

    /// BYMINUTE: 0 to 59.
    #[must_use]
    pub fn by_minute(self, minutes: impl IntoIterator<Item = i64>) -> Self {
        self.with(By::Minute, minutes)
    }

    /// BYSECOND: 0 to 60. The leap second, 60, is taken as 59 (RFC 5545, 3.3.12).
    #[must_use]
    pub fn by_second(self, seconds: impl IntoIterator<Item = i64>) -> Self {
        self.with(By::Second, seconds.into_iter().map(|second| if second == 60 { 59 } else { second }))
    }

    /// BYSETPOS: of all times within one year, month, week … only the nth, or the nth from the end: 1 to 366, −1 to −366.
    #[must_use]
    pub fn by_set_position(self, positions: impl IntoIterator<Item = i64>) -> Self {
        self.with(By::SetPos, positions)
    }

    /// WKST: the day on which weeks begin. Default: Monday.
    #[must_use]
    pub fn week_start(mut self, day: Weekday) -> Self {
        self.week_start = day;
        self
    }

    pub(super) fn with(mut self, part: By, values: impl IntoIterator<Item = i64>) -> Self {
        let list = &mut self.by[part as usize];
        *list = values.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        self
    }

    pub(super) fn by(&self, part: By) -> &[i64] {
        &self.by[part as usize]
    }

    /// Whether all values are in range and the parts may stand beside each other.
    pub(super) fn check(&self) -> Result<(), ScheduleError> {
        let in_range = |part, given: i64, min: i64, max: i64| {
            let fits = (min..=max).contains(&given) && (min >= 0 || given != 0);
            if fits { Ok(()) } else { Err(ScheduleError::InvalidValue { part, given, min, max }) }
        };
        in_range("INTERVAL", self.interval.into(), 1, u32::MAX.into())?;
        let until = self.until.map(|until| match until {
            Until::Instant(at) => at.naive_utc(),
            Until::Local(time) => time,
            Until::Date(date) => date.into(),
        });
        until.map(checked_seconds).transpose()?;
        if let Some(count) = self.count {
            in_range("COUNT", count.into(), 1, COUNT_MAX.into())?;
        }
        for (part, name, min, max) in By::ALL {
            self.by(part).iter().try_for_each(|value| in_range(name, *value, min, max))?;
        }
        for day in self.days.iter().filter(|day| day.nth != 0) {
            in_range("BYDAY", day.nth, -53, 53)?;
        }

        use Frequency::{Daily, Monthly, Weekly, Yearly};
        let frequency = self.frequency;
        let numbered = self.days.iter().any(|day| day.nth != 0);
        let has = |part| !self.by(part).is_empty();
        let nothing_to_choose =
            self.days.is_empty() && By::ALL.iter().all(|(part, ..)| *part == By::SetPos || !has(*part));
        let rules = [
            (self.count.is_some() && self.until.is_some(), "COUNT", "UNTIL", "give one of them"),
            (
                numbered && frequency < Monthly,
                "a number in BYDAY",
                frequency.name(),
                "leave the number out, or use MONTHLY",
            ),
            (numbered && has(By::WeekNo), "a number in BYDAY", "BYWEEKNO", "leave the number out"),
            (has(By::WeekNo) && frequency != Yearly, "BYWEEKNO", frequency.name(), "use YEARLY"),
            (has(By::MonthDay) && frequency == Weekly, "BYMONTHDAY", "WEEKLY", "use DAILY, with BYDAY"),
            (
                has(By::YearDay) && [Daily, Weekly, Monthly].contains(&frequency),
                "BYYEARDAY",
                frequency.name(),
                "use YEARLY",
            ),
            (has(By::SetPos) && nothing_to_choose, "BYSETPOS", "no other part", "say with BYDAY, BYMONTHDAY … of what"),
        ];
        match rules.into_iter().find(|(broken, ..)| *broken) {
            Some((_, part, with, instead)) => Err(ScheduleError::NotAllowed { part, with, instead }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RecurrenceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FREQ={}", self.frequency.name())?;
        if let Some(until) = self.until {
            write!(f, ";UNTIL={until}")?;
        }
        if let Some(count) = self.count {
            write!(f, ";COUNT={count}")?;
        }
        if self.interval != 1 {
            write!(f, ";INTERVAL={}", self.interval)?;
        }
        list(f, "BYDAY", &self.days)?;
        for (part, name, ..) in By::ALL {
            list(f, name, self.by(part))?;
        }
        if self.week_start != Weekday::Mon {
            write!(f, ";WKST={}", NthDay::from(self.week_start))?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, name: &str, values: &[impl fmt::Display]) -> fmt::Result {
    for (place, value) in values.iter().enumerate() {
        match place {
            0 => write!(f, ";{name}={value}")?,
            _ => write!(f, ",{value}")?,
        }
    }
    Ok(())
}
