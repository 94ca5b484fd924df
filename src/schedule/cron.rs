//! Cron expressions, in a zone.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::civil::{CYCLE, DAY, Date, first_of_month, instant_of, second_after, second_before, weekday};
use super::error::ScheduleError;
use super::text::Source;
use super::wall::{Fold, Gap, Instants, Times, Wall};
use super::zone::zone;

/// A cron expression of five fields in a zone: minute, hour, day of month, month, day of week.
///
/// Fields are as in POSIX's `crontab`, with the usual additions: `*`, numbers, ranges `1-5`, lists `1,3-5`, steps `*/15`
/// and `8-18/2`; names of months and weekdays, `JAN`, `mon`; 0 and 7 are Sunday; `@hourly`, `@daily`, `@midnight`,
/// `@weekly`, `@monthly`, `@yearly`, `@annually`.
///
/// **Day of month and day of week.** If both are given, it comes on days that fulfil one *or* the other (POSIX). If one
/// begins with `*`, it comes on days that fulfil both (`*/2 * MON`, as in Vixie's cron).
///
/// **When clocks change.** A job at fixed times, whose hour is not `*` or `*/n`, comes once for each: one that the clocks
/// skip later by the length of the gap, one that they show twice at the first. A job whose hour is `*` or `*/n` is about
/// time that passes: it leaves out what the clocks skip, and comes in both passes of what they show twice.
///
/// As text: `cron Europe/Berlin 0 8 * * 1-5`, in numbers.
///
/// ```
/// use punctual::Cron;
///
/// let cron = Cron::new("*/30 8-9 * * MON-FRI", chrono_tz::Europe::Berlin)?;
/// let due = cron.next_after("2026-03-27T09:00:00Z".parse()?).ok_or("none")?;
/// assert_eq!(due.to_rfc3339(), "2026-03-30T06:00:00+00:00");
/// assert_eq!(cron.to_string(), "cron Europe/Berlin */30 8-9 * * 1-5");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cron {
    zone: Tz,
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

/// What a field allows: a bit for each value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Field {
    bits: u64,
    /// `*` or `*/n`.
    star: bool,
}

/// The name, the range and the names of the values of a field.
struct Kind {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const MINUTE: Kind = Kind { name: "minute", min: 0, max: 59, names: &[] };
const HOUR: Kind = Kind { name: "hour", min: 0, max: 23, names: &[] };
const DAY_OF_MONTH: Kind = Kind { name: "day of month", min: 1, max: 31, names: &[] };
const MONTH: Kind = Kind { name: "month", min: 1, max: 12, names: &MONTHS };
const DAY_OF_WEEK: Kind = Kind { name: "day of week", min: 0, max: 7, names: &DAYS };

const MACROS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

impl Cron {
    /// This expression in this zone.
    ///
    /// # Errors
    ///
    /// [`Text`](ScheduleError::Text), and [`NeverFires`](ScheduleError::NeverFires) for days such as February 30.
    pub fn new(expression: &str, zone: Tz) -> Result<Self, ScheduleError> {
        Self::read(Source { what: "a cron expression", text: expression }, expression, zone)
    }

    fn read(source: Source<'_>, expression: &str, zone: Tz) -> Result<Self, ScheduleError> {
        let known = MACROS.iter().find(|(name, _)| name.eq_ignore_ascii_case(expression.trim()));
        if let Some((_, meaning)) = known {
            return Self::new(meaning, zone);
        }
        if expression.trim_start().starts_with('@') {
            return Err(
                source.error(expression.trim_start(), "@hourly, @daily, @weekly, @monthly or @yearly is expected")
            );
        }
        let mut rest = expression;
        let mut next = |kind: &Kind| {
            let (word, after) = source.word(rest, kind.name)?;
            rest = after;
            Field::read(source, word, kind)
        };
        let (minute, hour, day, month) = (next(&MINUTE)?, next(&HOUR)?, next(&DAY_OF_MONTH)?, next(&MONTH)?);
        let weekday = next(&DAY_OF_WEEK)?;
        if !rest.trim().is_empty() {
            return Err(source.error(rest.trim_start(), "nothing more is expected: minute, hour, day, month, weekday"));
        }
        // Sunday has two numbers.
        let weekday = Field { bits: (weekday.bits | weekday.bits >> 7) & 0x7f, ..weekday };
        let cron = Self { zone, minute, hour, day, month, weekday };
        if cron.first(0, i64::MAX).is_none() {
            return Err(ScheduleError::NeverFires { rule: expression.trim().to_owned() });
        }
        Ok(cron)
    }

    /// The zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first instant after this one.
    pub fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.instants().first(second_after(instant), i64::MAX).map(instant_of)
    }

    /// The last instant before this one.
    pub fn previous_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.instants().last(second_before(instant)).map(instant_of)
    }

    /// All instants after this one, in order.
    pub fn after(&self, instant: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(instant), |last| self.next_after(*last))
    }

    fn instants(&self) -> Instants<'_, Self> {
        let (gap, fold) = if self.hour.star { (Gap::Skip, Fold::Both) } else { (Gap::Forward, Fold::First) };
        Wall { zone: self.zone, gap, fold }.instants(self)
    }

    fn is_on(&self, day: i64, date: Date) -> bool {
        // Cron's week begins on Sunday.
        let (of_month, of_week) = (self.day.has(date.day), self.weekday.has((weekday(day) + 1) % 7));
        if self.day.star || self.weekday.star { of_month && of_week } else { of_month || of_week }
    }

    /// The first minute of a day from this one on, counted from midnight.
    fn minute_from(&self, from: i64) -> Option<i64> {
        let (hour, minute) = (from / 60, from % 60);
        if self.hour.has(hour)
            && let Some(minute) = self.minute.next(minute)
        {
            return Some(hour * 60 + minute);
        }
        Some(self.hour.next(hour + 1)? * 60 + self.minute.next(0)?)
    }
}

impl Times for Cron {
    fn first(&self, from: i64, until: i64) -> Option<i64> {
        // Whole minutes.
        let from = (from + 59).div_euclid(60);
        let (mut day, mut minute) = (from.div_euclid(DAY / 60), from.rem_euclid(DAY / 60));
        // After 400 years the calendar repeats.
        let last = (day + CYCLE).min(until / DAY);
        while day <= last {
            let date = Date::of(day);
            if !self.month.has(date.month) {
                (day, minute) = (first_of_month(date.year, date.month + 1), 0);
                continue;
            }
            if self.is_on(day, date)
                && let Some(minute) = self.minute_from(minute)
            {
                return Some(day * DAY + minute * 60).filter(|next| *next < until);
            }
            (day, minute) = (day + 1, 0);
        }
        None
    }
}

impl Field {
    fn has(self, value: i64) -> bool {
        self.bits >> value & 1 == 1
    }

    /// The first value allowed that is not less.
    fn next(self, value: i64) -> Option<i64> {
        let rest = self.bits.checked_shr(u32::try_from(value).ok()?)?;
        (rest != 0).then(|| value + i64::from(rest.trailing_zeros()))
    }

    fn read(source: Source<'_>, word: &str, kind: &Kind) -> Result<Self, ScheduleError> {
        let Kind { name, min, max, .. } = *kind;
        let mut bits = 0;
        for item in word.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (item, None),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (min, max),
                Some((from, to)) => (value(source, from, kind)?, value(source, to, kind)?),
                None if step.is_some() => {
                    return Err(source.error(item, "a step needs a range before it, such as */15 or 8-18/2"));
                }
                None => (value(source, range, kind)?, value(source, range, kind)?),
            };
            if from > to {
                return Err(source.error(range, format!("a range of the {name} must ascend: write two, with a comma")));
            }
            let step = match step.map(str::parse::<u32>) {
                None => 1,
                Some(Ok(step)) if (1..=max).contains(&step) => step,
                _ => return Err(source.error(item, format!("a step of the {name} from 1 to {max} is expected"))),
            };
            bits |= (from..=to).step_by(step as usize).fold(0, |bits, value| bits | 1 << value);
        }
        Ok(Self { bits, star: word.starts_with('*') && !word.contains(',') })
    }

    /// As it is written in text.
    fn shown(self, kind: &'static Kind) -> Shown {
        Shown(self, kind)
    }
}

fn value(source: Source<'_>, text: &str, kind: &Kind) -> Result<u32, ScheduleError> {
    let Kind { name, min, max, names } = *kind;
    if let Some(place) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(place as u32 + min);
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (min..=max).contains(number));
    number.ok_or_else(|| source.error(text, format!("a {name} from {min} to {max} is expected")))
}

struct Shown(Field, &'static Kind);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(field, Kind { min, max, .. }) = *self;
        // Sunday is 0.
        let (min, max) = (i64::from(*min), i64::from(if *max == DAY_OF_WEEK.max { 6 } else { *max }));
        if field.star {
            return match field.next(min + 1) {
                Some(second) if second == min + 1 => f.write_str("*"),
                Some(second) => write!(f, "*/{}", second - min),
                None => write!(f, "*/{}", max - min + 1),
            };
        }
        let (mut from, mut separator) = (field.next(min), "");
        while let Some(first) = from {
            let mut last = first;
            while last < max && field.has(last + 1) {
                last += 1;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
            from = field.next(last + 1);
        }
        Ok(())
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minute, hour) = (self.minute.shown(&MINUTE), self.hour.shown(&HOUR));
        let (day, month) = (self.day.shown(&DAY_OF_MONTH), self.month.shown(&MONTH));
        write!(f, "cron {} {minute} {hour} {day} {month} {}", self.zone.name(), self.weekday.shown(&DAY_OF_WEEK))
    }
}

impl FromStr for Cron {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let source = Source { what: "a cron expression", text };
        let (name, rest) = source.word(source.after_keyword("cron")?, "a zone")?;
        Self::read(source, rest, zone(name)?)
    }
}
