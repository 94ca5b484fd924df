//! Dates and times as whole numbers, because rules count: days and seconds since 1970-01-01T00:00:00, in local time or
//! in UTC. Proleptic Gregorian calendar, no leap seconds.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Utc, Weekday};

use super::error::ScheduleError;

pub const DAY: i64 = 86_400;
/// The first instant that is reckoned with, in seconds: the start of 1970.
pub const FIRST: i64 = 0;
/// The last: the end of the year 9999.
pub const LAST: i64 = 253_402_300_799;
/// Days after which the calendar repeats, weekdays included: 400 years.
pub const CYCLE: i64 = 146_097;

/// A date, and where it is in its month and year.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Date {
    pub year: i64,
    /// From 1.
    pub month: i64,
    /// From 1.
    pub day: i64,
}

impl Date {
    /// The date of this day (Howard Hinnant, *chrono-Compatible Low-Level Date Algorithms*, `civil_from_days`).
    pub fn of(day: i64) -> Self {
        let z = day + 719_468;
        let era = z.div_euclid(CYCLE);
        let of_era = z.rem_euclid(CYCLE);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months count from March here, so that the leap day is the last of the year.
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { year, month, day: of_year - (153 * from_march + 2) / 5 + 1 }
    }

    /// From 1.
    pub fn day_of_year(self) -> i64 {
        const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let before = BEFORE.get((self.month - 1) as usize).copied().unwrap_or_default();
        before + i64::from(self.month > 2 && is_leap(self.year)) + self.day
    }

    pub fn days_in_month(self) -> i64 {
        match self.month {
            2 => 28 + i64::from(is_leap(self.year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

pub fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// The first day of a month, which may be any number: month 13 is the January after.
pub fn first_of_month(year: i64, month: i64) -> i64 {
    let (year, month) = (year + (month - 1).div_euclid(12), (month - 1).rem_euclid(12) + 1);
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * from_march + 2) / 5;
    era * CYCLE + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// 0 is Monday.
pub fn weekday(day: i64) -> i64 {
    (day + 3).rem_euclid(7)
}

/// 0 is Monday.
pub fn number_of(weekday: Weekday) -> i64 {
    i64::from(weekday.num_days_from_monday())
}

/// In iCalendar's short form and in chrono's order.
pub const WEEKDAYS: [(Weekday, &str); 7] = [
    (Weekday::Mon, "MO"),
    (Weekday::Tue, "TU"),
    (Weekday::Wed, "WE"),
    (Weekday::Thu, "TH"),
    (Weekday::Fri, "FR"),
    (Weekday::Sat, "SA"),
    (Weekday::Sun, "SU"),
];

/// The day of a date.
pub fn day_of(date: NaiveDate) -> i64 {
    seconds_of(date.and_time(NaiveTime::MIN)).div_euclid(DAY)
}

/// Seconds of a local time, rounded down.
pub fn seconds_of(local: NaiveDateTime) -> i64 {
    local.and_utc().timestamp()
}

/// A local time of so many seconds. Only for what is in range.
pub fn local_of(seconds: i64) -> NaiveDateTime {
    instant_of(seconds).naive_utc()
}

/// An instant of so many seconds. Only for what is in range.
pub fn instant_of(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}

/// The first whole second after an instant.
pub fn second_after(at: DateTime<Utc>) -> i64 {
    at.timestamp().saturating_add(1)
}

/// The last whole second before an instant.
pub fn second_before(at: DateTime<Utc>) -> i64 {
    at.timestamp() - i64::from(at.timestamp_subsec_nanos() == 0)
}

/// Second 60 becomes second 59, as RFC 5545 has it (3.3.12): no clock here shows leap seconds.
pub fn without_leap_second(local: NaiveDateTime) -> NaiveDateTime {
    local.with_nanosecond(local.nanosecond() % 1_000_000_000).unwrap_or(local)
}

/// Seconds of a local time that a rule may name: whole, and in range in every zone that has it at all.
pub fn checked_seconds(local: NaiveDateTime) -> Result<i64, ScheduleError> {
    let local = without_leap_second(local);
    if local.nanosecond() != 0 {
        return Err(ScheduleError::NotWholeSecond { given: local });
    }
    let seconds = seconds_of(local);
    if !(FIRST..=LAST).contains(&seconds) {
        return Err(ScheduleError::OutOfRange { given: local });
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Datelike;

    #[test]
    fn every_date_to_9999_is_chronos() {
        let mut date = NaiveDate::from_ymd_opt(1969, 1, 1).unwrap();
        let mut day = day_of(date);
        while date.year() < 10_000 {
            let ours = Date::of(day);
            assert_eq!((ours.year, ours.month, ours.day), (date.year().into(), date.month().into(), date.day().into()));
            assert_eq!(ours.day_of_year(), i64::from(date.ordinal()));
            assert_eq!(weekday(day), number_of(date.weekday()));
            if date.day() == 1 {
                assert_eq!(first_of_month(ours.year, ours.month), day);
                assert_eq!(first_of_month(ours.year, ours.month + 1) - day, ours.days_in_month());
            }
            (date, day) = (date.succ_opt().unwrap(), day + 1);
        }
        assert_eq!(first_of_month(2025, 26), first_of_month(2027, 2));
        assert_eq!(instant_of(LAST).to_rfc3339(), "9999-12-31T23:59:59+00:00");
    }

    #[test]
    fn whole_seconds_after_and_before_an_instant_are_strictly_so() {
        let at = |nanos| DateTime::from_timestamp(10, nanos).unwrap();
        assert_eq!((second_after(at(0)), second_after(at(1))), (11, 11));
        assert_eq!((second_before(at(0)), second_before(at(1))), (9, 10));
    }
}
