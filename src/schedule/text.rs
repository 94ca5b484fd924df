//! Words that the texts of all schedules share: dates, times, weekdays.

use std::fmt;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime, Timelike, Weekday};

use super::civil::without_leap_second;
use super::error::ScheduleError;

/// A time of day as `08:00`, with seconds only if there are any.
pub struct Clock(pub NaiveTime);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())?;
        if self.0.second() != 0 || self.0.nanosecond() != 0 {
            write!(f, "{}", self.0.format(":%S%.f"))?;
        }
        Ok(())
    }
}

/// A local time as `2026-03-29T02:30`.
pub struct Local(pub NaiveDateTime);

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{}", self.0.date(), Clock(self.0.time()))
    }
}

/// What is being read, of which its parts are slices: so an error can say where it stopped.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// What it should be.
    pub what: &'static str,
    pub text: &'a str,
}

impl<'a> Source<'a> {
    /// Refuses the text at `rest`.
    pub fn error(&self, rest: &str, expected: impl Into<String>) -> ScheduleError {
        ScheduleError::text(self.what, self.text, rest, expected)
    }

    /// The next word and what follows it. Fails at the end, where `expected` is missing.
    pub fn word(&self, rest: &'a str, expected: &str) -> Result<(&'a str, &'a str), ScheduleError> {
        let rest = rest.trim_start();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.error(rest, format!("{expected} is missing")));
        }
        Ok(rest.split_at(end))
    }

    /// After the word that every text begins with.
    pub fn after_keyword(&self, keyword: &str) -> Result<&'a str, ScheduleError> {
        let (word, rest) = self.word(self.text, keyword)?;
        if !word.eq_ignore_ascii_case(keyword) {
            return Err(self.error(word, format!("it must begin with `{keyword}`")));
        }
        Ok(rest)
    }

    pub fn date(&self, text: &str) -> Result<NaiveDate, ScheduleError> {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d");
        date.map_err(|_| self.error(text, "a date of the calendar is expected, such as 2026-12-25"))
    }

    pub fn time(&self, text: &str) -> Result<NaiveTime, ScheduleError> {
        let time = NaiveTime::parse_from_str(text, "%H:%M").or_else(|_| NaiveTime::parse_from_str(text, "%H:%M:%S%.f"));
        time.map_err(|_| self.error(text, "a time from 00:00 to 23:59 is expected, such as 08:00 or 08:00:30"))
    }

    pub fn local(&self, text: &str) -> Result<NaiveDateTime, ScheduleError> {
        let Some((date, time)) = text.split_once(['T', 't']) else {
            return Err(self.error(text, "a local time is expected, such as 2026-03-29T02:30"));
        };
        Ok(without_leap_second(self.date(date)?.and_time(self.time(time)?)))
    }

    /// A day, or from one to another: `Mon-Fri`, `sat`.
    pub fn weekdays(&self, text: &str) -> Result<impl Iterator<Item = Weekday> + use<>, ScheduleError> {
        let day = |text: &str| {
            text.parse::<Weekday>().map_err(|_| self.error(text, "a weekday is expected, such as Mon or Mon-Fri"))
        };
        let (from, to) = match text.split_once('-') {
            Some((from, to)) => (day(from)?, day(to)?),
            None => (day(text)?, day(text)?),
        };
        let days = 1 + from.days_until(to);
        Ok(std::iter::successors(Some(from), |day| Some(day.succ())).take(days as usize))
    }
}

trait DaysUntil {
    /// Days from this one to the next `to`.
    fn days_until(self, to: Weekday) -> u32;
}

impl DaysUntil for Weekday {
    fn days_until(self, to: Weekday) -> u32 {
        (7 + to.num_days_from_monday() - self.num_days_from_monday()) % 7
    }
}
