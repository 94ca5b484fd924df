//! Tests against a reference that walks day by day and counts one by one, and with rules of any kind.

// How long it takes is a promise, too.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use chrono::{Datelike, NaiveDate, TimeDelta, Timelike, Weekday};
use proptest::prelude::*;

use super::rule::By;
use super::*;
use crate::schedule::Schedule;

fn instants(recurrence: &Recurrence) -> impl Iterator<Item = DateTime<Utc>> + '_ {
    recurrence.after(DateTime::UNIX_EPOCH - TimeDelta::seconds(1))
}

/// The nth place of a day among those of its weekday, from the begin and from the end, counted one by one.
fn places(date: NaiveDate, days: impl Iterator<Item = NaiveDate>) -> (i64, i64) {
    let same: Vec<_> = days.filter(|day| day.weekday() == date.weekday()).collect();
    let place = same.iter().position(|day| *day == date).unwrap() as i64;
    (place + 1, place - same.len() as i64)
}

fn whole(date: NaiveDate, month: bool) -> impl Iterator<Item = NaiveDate> {
    let first = if month { date.with_day(1).unwrap() } else { date.with_ordinal(1).unwrap() };
    first.iter_days().take_while(move |day| day.year() == date.year() && (!month || day.month() == date.month()))
}

/// The number of a week and how many its year has, by looking at its fourth day.
fn week(date: NaiveDate, begins: Weekday) -> (i64, i64) {
    let first = date.week(begins).first_day();
    let fourth = first + TimeDelta::days(3);
    let all = whole(fourth, false).filter(|day| day.weekday() == fourth.weekday());
    let all: Vec<_> = all.collect();
    (all.iter().position(|day| *day == fourth).unwrap() as i64 + 1, all.len() as i64)
}

/// Whether a rule may come on this day, its interval aside.
fn fits_day(rule: &RecurrenceRule, start: NaiveDateTime, date: NaiveDate) -> bool {
    use Frequency::{Monthly, Weekly, Yearly};
    let by = |part| rule.by(part);
    let either = |part, place: i64, length: i64| by(part).contains(&place) || by(part).contains(&(place - length - 1));
    let year_length = if date.leap_year() { 366 } else { 365 };
    let month_length = || whole(date, true).count() as i64;
    let in_month = rule.frequency == Monthly || !by(By::Month).is_empty();
    let named = || {
        let (forth, back) = places(date, whole(date, in_month));
        let is_named = |day: &NthDay| day.nth == 0 || day.nth == forth || day.nth == back;
        rule.days.iter().any(|day| day.day == date.weekday() && is_named(day))
    };
    let in_week = || {
        let (number, weeks) = week(date, rule.week_start);
        either(By::WeekNo, number, weeks)
    };
    let says_day = !rule.days.is_empty() || !by(By::MonthDay).is_empty() || !by(By::YearDay).is_empty();
    let as_start = match rule.frequency {
        _ if says_day => true,
        Weekly => date.weekday() == start.weekday(),
        Yearly if !by(By::WeekNo).is_empty() => date.weekday() == start.weekday(),
        Yearly => date.day() == start.day() && (!by(By::Month).is_empty() || date.month() == start.month()),
        Monthly => date.day() == start.day(),
        _ => true,
    };
    as_start
        && (by(By::Month).is_empty() || by(By::Month).contains(&date.month().into()))
        && (by(By::MonthDay).is_empty() || either(By::MonthDay, date.day().into(), month_length()))
        && (by(By::YearDay).is_empty() || either(By::YearDay, date.ordinal().into(), year_length))
        && (by(By::WeekNo).is_empty() || in_week())
        && (rule.days.is_empty() || named())
}

fn fits_time(rule: &RecurrenceRule, start: NaiveDateTime, time: NaiveDateTime) -> bool {
    use Frequency::{Daily, Hourly, Minutely, Monthly, Secondly, Weekly, Yearly};
    let at = |part, value: u32, from_start: u32, expands: bool| match rule.by(part) {
        [] => !expands || value == from_start,
        values => values.contains(&i64::from(value)),
    };
    let date = time.date();
    let units =
        |length: i64| time.and_utc().timestamp().div_euclid(length) - start.and_utc().timestamp().div_euclid(length);
    let periods = match rule.frequency {
        Yearly => i64::from(date.year() - start.year()),
        Monthly => i64::from((date.year() - start.year()) * 12) + i64::from(date.month()) - i64::from(start.month()),
        Weekly => (date.week(rule.week_start).first_day() - start.date().week(rule.week_start).first_day()).num_weeks(),
        Daily => (date - start.date()).num_days(),
        Hourly => units(3_600),
        Minutely => units(60),
        Secondly => units(1),
    };
    periods % i64::from(rule.interval) == 0
        && at(By::Hour, time.hour(), start.hour(), rule.frequency >= Daily)
        && at(By::Minute, time.minute(), start.minute(), rule.frequency >= Hourly)
        && at(By::Second, time.second(), start.second(), rule.frequency >= Minutely)
}

/// The period of a time, as something that is the same for all of it.
fn period(rule: &RecurrenceRule, time: NaiveDateTime) -> NaiveDateTime {
    use Frequency::{Daily, Hourly, Minutely, Monthly, Secondly, Weekly, Yearly};
    let date = time.date();
    match rule.frequency {
        Yearly => date.with_ordinal(1).unwrap().into(),
        Monthly => date.with_day(1).unwrap().into(),
        Weekly => date.week(rule.week_start).first_day().into(),
        Daily => date.into(),
        Hourly => date.and_hms_opt(time.hour(), 0, 0).unwrap(),
        Minutely => date.and_hms_opt(time.hour(), time.minute(), 0).unwrap(),
        Secondly => time,
    }
}

/// The local times of a rule, by trying every one of a grid.
fn reference(rule: &RecurrenceRule, start: NaiveDateTime, step: i64, steps: i64) -> Vec<NaiveDateTime> {
    // From the begin of the start's period on, for what is at which position of it.
    let first = period(rule, start);
    let mut periods: BTreeMap<NaiveDateTime, Vec<NaiveDateTime>> = BTreeMap::new();
    let mut day = (NaiveDate::MIN, false);
    for number in 0..steps {
        let time = first + TimeDelta::seconds(number * step);
        if day.0 != time.date() {
            day = (time.date(), fits_day(rule, start, time.date()));
        }
        if day.1 && fits_time(rule, start, time) {
            periods.entry(period(rule, time)).or_default().push(time);
        }
    }
    let end = first + TimeDelta::seconds(steps * step);
    let mut found = vec![];
    for (_, times) in periods {
        let chosen = |place: usize| {
            let positions = rule.by(By::SetPos);
            positions.is_empty()
                || positions.contains(&(place as i64 + 1))
                || positions.contains(&(place as i64 - times.len() as i64))
        };
        let times = times.iter().enumerate().filter(|(place, time)| chosen(*place) && **time >= start);
        found.extend(times.map(|(_, time)| *time));
    }
    // The last period may be cut.
    found.retain(|time| period(rule, *time) < period(rule, end));
    found.retain(|time| match rule.until {
        None => true,
        Some(Until::Instant(until)) => time.and_utc() <= until,
        Some(Until::Local(until)) => *time <= until,
        Some(Until::Date(until)) => time.date() <= until,
    });
    found.truncate(rule.count.map_or(usize::MAX, |count| count as usize));
    found
}

fn list(values: impl Strategy<Value = i64>, weight: u32) -> impl Strategy<Value = Vec<i64>> {
    prop_oneof![
        10 => Just(vec![]),
        weight => prop::collection::vec(values, 1..4),
    ]
}

fn signed(max: i64) -> impl Strategy<Value = i64> {
    (1..=max, any::<bool>()).prop_map(|(value, negative)| if negative { -value } else { value })
}

fn any_until() -> impl Strategy<Value = Until> {
    let kinds: [fn(i64) -> Until; 3] =
        [|at| Until::Instant(instant_of(at)), |at| Until::Local(local_of(at)), |at| Until::Date(local_of(at).date())];
    (prop::sample::select(kinds.to_vec()), 0..LAST).prop_map(|(kind, at)| kind(at))
}

prop_compose! {
    /// Rules of all kinds; some are not allowed, or never come.
    pub(in crate::schedule) fn any_rule()(
        frequency in 0usize..7,
        interval in prop_oneof![Just(1u32), 1u32..5, 1u32..200],
        count in prop::option::of(1u32..30),
        days in prop::collection::vec((prop_oneof![Just(0i64), signed(5), signed(53)], 0u8..7), 0..4),
        months in list(1..=12i64, 4),
        (month_days, year_days, weeks) in (list(signed(31), 4), list(signed(366), 3), list(signed(53), 4)),
        (hours, minutes, seconds) in (list(0..24i64, 4), list(0..60i64, 4), list(0..60i64, 3)),
        positions in list(signed(4), 3),
        week_start in 0u8..7,
        until in prop::option::weighted(0.2, any_until()),
    ) -> RecurrenceRule {
        let day = |day: u8| Weekday::try_from(day).unwrap();
        let mut rule = RecurrenceRule::new(Frequency::ALL[frequency].0)
            .interval(interval)
            .by_day(days.into_iter().map(|(nth, number)| (nth, day(number))))
            .by_month(months)
            .by_month_day(month_days)
            .by_year_day(year_days)
            .by_week_number(weeks)
            .by_hour(hours)
            .by_minute(minutes)
            .by_second(seconds)
            .by_set_position(positions)
            .week_start(day(week_start));
        match until {
            Some(until) => rule.until(until),
            None => {
                rule.count = count;
                rule
            }
        }
    }
}

/// Takes what is not allowed out of a rule.
fn allowed(mut rule: RecurrenceRule) -> RecurrenceRule {
    use Frequency::{Daily, Monthly, Weekly, Yearly};
    if rule.frequency < Monthly || !rule.by(By::WeekNo).is_empty() {
        rule.days.iter_mut().for_each(|day| day.nth = 0);
        let days = std::mem::take(&mut rule.days);
        rule = rule.by_day(days.into_iter().map(|day| day.day));
    }
    if rule.frequency != Yearly {
        rule = rule.by_week_number([]);
    }
    if rule.frequency == Weekly {
        rule = rule.by_month_day([]);
    }
    if [Daily, Weekly, Monthly].contains(&rule.frequency) {
        rule = rule.by_year_day([]);
    }
    if rule.check().is_err() {
        rule = rule.by_set_position([]);
    }
    rule.check().unwrap();
    rule
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_day_by_day_finds_the_same(rule in any_rule(), start in 0i64..200_000, ends in 0.0..2.0) {
        let rule = allowed(rule);
        // A grid on which all its times lie: for rules of seconds a short one.
        let (step, steps, start) = match rule.frequency {
            Frequency::Secondly => (1, 30_000, local_of(start * 10_000)),
            Frequency::Minutely | Frequency::Hourly => (60, 20_000, local_of(start * 10_000 / 60 * 60)),
            _ => (86_400, 1_500, local_of(start * 86_400 / 10)),
        };
        let rule = match step {
            86_400 => rule.by_hour([]).by_minute([]).by_second([]),
            60 => rule.by_second([]),
            _ => rule,
        };
        prop_assume!(rule.check().is_ok());
        let start = if step == 86_400 { start.date().and_hms_opt(0, 0, 0).unwrap() } else { start };
        // An end within what is looked at, or after it.
        let end = start + TimeDelta::seconds((ends * (step * steps) as f64) as i64);
        let rule = match rule.until {
            None => rule,
            Some(Until::Instant(_)) => rule.until(Until::Instant(end.and_utc())),
            Some(Until::Local(_)) => rule.until(Until::Local(end)),
            Some(Until::Date(_)) => rule.until(Until::Date(end.date())),
        };
        let expected = reference(&rule, start, step, steps);
        let end = match expected.last() {
            Some(last) => *last,
            None => start,
        };
        let found = match Recurrence::new(rule.clone(), start, Tz::UTC) {
            Ok(recurrence) => instants(&recurrence).map(|at| at.naive_utc()).take_while(|at| *at <= end).collect(),
            Err(ScheduleError::NeverFires { .. }) => vec![],
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        prop_assert_eq!(found, expected, "{} from {}", rule, start);
    }

    #[test]
    fn no_rule_takes_long_whatever_it_says(
        rule in any_rule(), interval in prop_oneof![1u32..100, Just(86_399), any::<u32>()],
        start in 0i64..LAST, zone in prop::sample::select(chrono_tz::TZ_VARIANTS.to_vec()), from in 0i64..LAST,
    ) {
        let begun = std::time::Instant::now();
        if let Ok(recurrence) = Recurrence::new(rule.clone().interval(interval), local_of(start), zone) {
            let schedule = Schedule::from(recurrence.clone());
            prop_assert_eq!(schedule.to_string().parse(), Ok(schedule));
            let mut last = instant_of(from);
            for at in recurrence.after(last).take(5) {
                prop_assert!(at > last);
                prop_assert_eq!(recurrence.next_after(at - TimeDelta::nanoseconds(1)), Some(at));
                last = at;
            }
            if let Some(before) = recurrence.previous_before(last) {
                prop_assert!(before < last);
                prop_assert!(recurrence.next_after(before).is_none_or(|next| next >= last));
            }
        }
        // Far more than it takes without optimisation.
        prop_assert!(begun.elapsed().as_secs() < 20, "{:?} {}", begun.elapsed(), rule);
    }
}
