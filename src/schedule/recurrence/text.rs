//! Recurrences as iCalendar text.

use std::fmt;
use std::str::FromStr;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use chrono_tz::Tz;

use crate::schedule::civil::{DAY, WEEKDAYS, checked_seconds, day_of, local_of};
use crate::schedule::error::ScheduleError;
use crate::schedule::local::LocalTime;
use crate::schedule::text::Source;
use crate::schedule::zone::zone;

use super::rule::{By, Frequency, NthDay, RecurrenceRule, Until};
use super::{Recurrence, Stamp};

/// A DATE or DATE-TIME of iCalendar.
#[derive(Clone, Copy)]
enum Value {
    Date(NaiveDate),
    Local(NaiveDateTime),
    Utc(NaiveDateTime),
}

fn value(source: Source<'_>, text: &str) -> Result<Value, ScheduleError> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
        digits.parse::<u32>().ok()
    };
    let date = || NaiveDate::from_ymd_opt(i32::try_from(number(0, 4)?).ok()?, number(4, 6)?, number(6, 8)?);
    // Second 60 is second 59 (RFC 5545, 3.3.12).
    let second = || number(13, 15).map(|second| if second == 60 { 59 } else { second });
    let time = || NaiveTime::from_hms_opt(number(9, 11)?, number(11, 13)?, second()?);
    let separated = || matches!(text.as_bytes().get(8), Some(b'T' | b't'));
    let read = || match (text.len(), text.as_bytes().get(15)) {
        (8, _) => Some(Value::Date(date()?)),
        (15, _) if separated() => Some(Value::Local(date()?.and_time(time()?))),
        (16, Some(b'Z' | b'z')) if separated() => Some(Value::Utc(date()?.and_time(time()?))),
        _ => None,
    };
    read().ok_or_else(|| source.error(text, "a date and time of the calendar is expected, such as 20261224T080000"))
}

fn rule(source: Source<'_>, text: &str) -> Result<RecurrenceRule, ScheduleError> {
    let parts = || text.split(';').map(str::trim);
    let named =
        |part: &str, name: &str| part.split_once('=').is_some_and(|(given, _)| given.eq_ignore_ascii_case(name));
    let frequency = parts().find(|part| named(part, "FREQ"));
    let (_, frequency) =
        frequency.and_then(|part| part.split_once('=')).ok_or_else(|| source.error(text, "FREQ is missing"))?;
    let known = Frequency::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(frequency));
    let expected = "SECONDLY, MINUTELY, HOURLY, DAILY, WEEKLY, MONTHLY or YEARLY is expected";
    let (frequency, _) = known.ok_or_else(|| source.error(frequency, expected))?;
    let mut rule = RecurrenceRule::new(*frequency);
    let mut seen: Vec<&str> = Vec::new();
    for part in parts() {
        let Some((name, given)) = part.split_once('=') else {
            // A semicolon at the end is often seen.
            if part.is_empty() && !seen.is_empty() {
                continue;
            }
            return Err(source.error(part, "a part such as INTERVAL=2 is expected"));
        };
        if seen.iter().any(|seen| seen.eq_ignore_ascii_case(name)) {
            return Err(source.error(part, "a part that was there already"));
        }
        seen.push(name);
        let positive = |text: &str| {
            let number = text.parse::<u32>();
            number.map_err(|_| source.error(text, "a number from 1 to 4294967295 is expected"))
        };
        rule = match name.to_ascii_uppercase().as_str() {
            "FREQ" => rule,
            "INTERVAL" => rule.interval(positive(given)?),
            "COUNT" => rule.count(positive(given)?),
            "UNTIL" => rule.until(match value(source, given)? {
                Value::Utc(at) => Until::Instant(at.and_utc()),
                Value::Local(at) => Until::Local(at),
                Value::Date(date) => Until::Date(date),
            }),
            "WKST" => match nth_day(source, given)? {
                NthDay { nth: 0, day } => rule.week_start(day),
                _ => return Err(source.error(given, "a weekday such as SU is expected")),
            },
            "BYDAY" => {
                let days: Result<Vec<_>, _> = given.split(',').map(|day| nth_day(source, day)).collect();
                rule.by_day(days?)
            }
            name => {
                let Some((part, ..)) = By::ALL.into_iter().find(|(_, known, ..)| *known == name) else {
                    return Err(source.error(part, "a part that RFC 5545 does not know"));
                };
                let number = |text: &str| {
                    let number = text.trim().parse::<i64>();
                    number.map_err(|_| source.error(text, "a number is expected"))
                };
                let numbers: Result<Vec<_>, _> = given.split(',').map(number).collect();
                if part == By::Second { rule.by_second(numbers?) } else { rule.with(part, numbers?) }
            }
        };
    }
    rule.check()?;
    Ok(rule)
}

fn nth_day(source: Source<'_>, text: &str) -> Result<NthDay, ScheduleError> {
    let text = text.trim();
    let (nth, name) = text.split_at_checked(text.len().saturating_sub(2)).unwrap_or((text, ""));
    let day = WEEKDAYS.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
    let nth = if nth.is_empty() { Some(0) } else { nth.parse().ok().filter(|nth| *nth != 0) };
    match (day, nth) {
        (Some((day, _)), Some(nth)) => Ok(NthDay { nth, day: *day }),
        _ => Err(source.error(text, "a weekday such as MO or -1FR is expected")),
    }
}

/// The lines of a text, put together where they are folded (RFC 5545, 3.1).
fn unfold(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    text.replace("\n ", "").replace("\n\t", "")
}

/// A line such as `EXDATE;TZID=Europe/Berlin:20261225T080000`.
struct Line<'a> {
    name: &'a str,
    zone: Option<Tz>,
    value: &'a str,
}

fn line<'a>(source: Source<'a>, line: &'a str) -> Result<Line<'a>, ScheduleError> {
    let Some((head, value)) = line.split_once(':') else {
        return Err(source.error(line, "a line such as RRULE:FREQ=DAILY is expected"));
    };
    let mut words = head.split(';');
    let mut read = Line { name: words.next().unwrap_or_default().trim(), zone: None, value: value.trim() };
    for word in words {
        match word.split_once('=') {
            Some((key, name)) if key.eq_ignore_ascii_case("TZID") => read.zone = Some(zone(name.trim_matches('"'))?),
            Some((key, kind)) if key.eq_ignore_ascii_case("VALUE") && !kind.eq_ignore_ascii_case("PERIOD") => {}
            _ => return Err(source.error(word, "TZID=…, VALUE=DATE or VALUE=DATE-TIME is expected")),
        }
    }
    Ok(read)
}

/// A rule and its dates, from a start that is given beside it or in it.
fn read(text: &str, given: Option<(NaiveDateTime, Tz)>) -> Result<Recurrence, ScheduleError> {
    let text = unfold(text);
    let source = Source { what: "a recurrence", text: &text };
    let (mut start, mut found, mut dates) = (given, None, Vec::new());
    let body = match source.word(&text, "a rule")? {
        (word, rest) if word.eq_ignore_ascii_case("rrule") => rest,
        _ => &text,
    };
    for text in body.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if text.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("FREQ=")) && found.is_none() {
            found = Some(rule(source, text)?);
            continue;
        }
        let line = line(source, text)?;
        match line.name.to_ascii_uppercase().as_str() {
            "RRULE" if found.is_none() => found = Some(rule(source, line.value)?),
            "DTSTART" if start.is_none() => {
                start = Some(match (value(source, line.value)?, line.zone) {
                    (Value::Utc(time), None) => (time, Tz::UTC),
                    (Value::Local(time), Some(zone)) => (time, zone),
                    (Value::Date(_), _) => return Err(source.error(line.value, "a time is missing: such as T080000")),
                    _ => return Err(source.error(text, "a TZID or a Z at the end is expected")),
                });
            }
            "EXDATE" | "RDATE" => dates.push(line),
            "RRULE" | "DTSTART" => return Err(source.error(text, "a line that there can be only once")),
            _ => return Err(source.error(text, "DTSTART, RRULE, EXDATE or RDATE is expected")),
        }
    }
    let rule = found.ok_or_else(|| source.error(body, "RRULE is missing"))?;
    let (start, zone) = start.ok_or_else(|| source.error(body, "DTSTART is missing"))?;
    let (mut excluded, mut included) = (Vec::new(), Vec::new());
    for line in dates {
        let excludes = line.name.eq_ignore_ascii_case("EXDATE");
        for text in line.value.split(',').map(str::trim) {
            let stamp = match (value(source, text)?, line.zone.filter(|of_line| *of_line != zone)) {
                (Value::Local(time), None) => Stamp::Local(checked_seconds(time)?),
                (Value::Local(time), Some(other)) => Stamp::Instant(LocalTime::new(time, other).instant()?.timestamp()),
                (Value::Utc(time), _) => Stamp::Instant(checked_seconds(time)?),
                (Value::Date(date), _) if excludes => Stamp::Day(day_of(date)),
                _ => return Err(source.error(text, "a time is missing: such as T080000")),
            };
            if excludes { excluded.push(stamp) } else { included.push(stamp) }
        }
    }
    Recurrence::with_dates(rule, start, zone, excluded, included)
}

impl FromStr for RecurrenceRule {
    type Err = ScheduleError;

    /// Reads `FREQ=…` or `RRULE:FREQ=…`.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let prefixed = text.get(..6).is_some_and(|head| head.eq_ignore_ascii_case("RRULE:"));
        let body = text.get(6..).filter(|_| prefixed).unwrap_or(text);
        rule(Source { what: "a recurrence rule", text }, body)
    }
}

impl Recurrence {
    /// Reads a rule, `FREQ=…` or `RRULE:FREQ=…`, for this start; lines with EXDATE and RDATE may follow.
    ///
    /// # Errors
    ///
    /// [`Text`](ScheduleError::Text) if it cannot be read, and as for [`new`](Self::new).
    pub fn parse(text: &str, start: NaiveDateTime, zone: Tz) -> Result<Self, ScheduleError> {
        read(text, Some((start, zone)))
    }
}

impl FromStr for Recurrence {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        read(text, None)
    }
}

impl fmt::Display for Recurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let basic = |time: i64| local_of(time).format("%Y%m%dT%H%M%S");
        let zone = self.0.zone.name();
        write!(f, "rrule DTSTART;TZID={zone}:{}\nRRULE:{}", basic(self.0.start), self.0.rule)?;
        for (name, stamps) in [("EXDATE", &self.0.excluded), ("RDATE", &self.0.included)] {
            let mut last = None;
            for stamp in stamps {
                // They are sorted by kind: a line for each.
                if last.replace(std::mem::discriminant(stamp)) == Some(std::mem::discriminant(stamp)) {
                    f.write_str(",")?;
                } else {
                    match stamp {
                        Stamp::Local(_) => write!(f, "\n{name};TZID={zone}:")?,
                        Stamp::Instant(_) => write!(f, "\n{name}:")?,
                        Stamp::Day(_) => write!(f, "\n{name};VALUE=DATE:")?,
                    }
                }
                match stamp {
                    Stamp::Local(time) => write!(f, "{}", basic(*time))?,
                    Stamp::Instant(time) => write!(f, "{}Z", basic(*time))?,
                    Stamp::Day(day) => write!(f, "{}", local_of(day * DAY).format("%Y%m%d"))?,
                }
            }
        }
        Ok(())
    }
}
