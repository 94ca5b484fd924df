//! The local times of a rule: which days it may come on, and at which times of these.
//!
//! Nothing is listed from the start on. A day is asked whether the rule may come on it, and periods in which it cannot
//! come are passed over: years, months and weeks between two intervals, months that BYMONTH leaves out. So a search
//! costs the same wherever it begins. It ends after 400 years, when the calendar has repeated, or as many as the interval
//! and 400 years take to meet again.

use crate::schedule::civil::{CYCLE, DAY, Date, LAST, first_of_month, is_leap, number_of, weekday};
use crate::schedule::wall::Times;

use super::rule::{By, Frequency, NthDay, RecurrenceRule};

/// A rule and its start, ready to be searched.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Plan {
    days: Days,
    clock: Clock,
    positions: Vec<i64>,
    /// Local times of the first and the last moment at which it may come.
    start: i64,
    end: i64,
    /// Days after which everything repeats.
    cycle: i64,
}

/// On which days.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Days {
    period: Frequency,
    /// The interval in periods, and the number of the period of the start.
    interval: i64,
    origin: i64,
    /// A bit for each month; 0 if all.
    months: u16,
    month_days: Vec<i64>,
    year_days: Vec<i64>,
    weeks: Vec<i64>,
    /// A bit for each weekday.
    weekdays: u8,
    /// The nth, and a weekday. In the month, or else in the year.
    numbered: Vec<(i64, i64)>,
    in_month: bool,
    /// The weekday with which weeks begin.
    week_start: i64,
}

/// At which times of a day.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Clock {
    /// At these seconds of it.
    Times(Vec<i64>),
    /// Every so many hours, minutes or seconds.
    Units(Units),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Units {
    /// The length of one, in seconds.
    unit: i64,
    interval: i64,
    /// The unit of the start, counted from 1970.
    origin: i64,
    /// A bit for each that is allowed; of minutes and seconds only if the unit is not longer.
    hours: u64,
    minutes: u64,
    seconds: u64,
    /// The seconds within a unit.
    offsets: Vec<i64>,
}

impl Plan {
    /// `None` if the times of day contradict each other, so that the rule never comes.
    pub fn new(rule: &RecurrenceRule, start: i64, end: i64) -> Option<Self> {
        use Frequency::{Daily, Hourly, Minutely, Monthly, Secondly, Weekly, Yearly};
        let (unit, in_400_years) = match rule.frequency {
            Secondly => (1, CYCLE * DAY),
            Minutely => (60, CYCLE * DAY / 60),
            Hourly => (3_600, CYCLE * DAY / 3_600),
            Daily => (DAY, CYCLE),
            Weekly => (DAY, CYCLE / 7),
            Monthly => (DAY, 4_800),
            Yearly => (DAY, 400),
        };
        let interval = i64::from(rule.interval);
        let cycle = CYCLE.saturating_mul(interval / gcd(interval, in_400_years));
        let of_day = start.rem_euclid(DAY);
        // What the rule does not say is as at the start (RFC 5545, 3.3.10).
        let or_start = |part, at_start| match rule.by(part) {
            [] => vec![at_start],
            values => values.to_vec(),
        };
        let (hours, minutes, seconds) = (
            or_start(By::Hour, of_day / 3_600),
            or_start(By::Minute, of_day / 60 % 60),
            or_start(By::Second, of_day % 60),
        );
        let mut positions = rule.by(By::SetPos).to_vec();
        let clock = if unit == DAY {
            Clock::Times(sums(&hours, 3_600, &sums(&minutes, 60, &seconds)))
        } else {
            let offsets = match unit {
                3_600 => sums(&minutes, 60, &seconds),
                60 => seconds,
                _ => vec![0],
            };
            // Every unit has the same set, so it is known now what is at a position of it.
            let chosen = choose(&std::mem::take(&mut positions), offsets.len());
            let offsets =
                chosen.map_or(offsets.clone(), |places| places.into_iter().map(|place| offsets[place]).collect());
            let mask = |part| if rule.by(part).is_empty() { u64::MAX } else { bits(rule.by(part)) };
            let units = Units {
                unit,
                interval,
                origin: start.div_euclid(unit),
                hours: mask(By::Hour),
                minutes: if unit <= 60 { mask(By::Minute) } else { u64::MAX },
                seconds: if unit == 1 { mask(By::Second) } else { u64::MAX },
                offsets,
            };
            if !units.can_come() {
                return None;
            }
            Clock::Units(units)
        };
        Some(Self {
            days: Days::new(rule, start.div_euclid(DAY)),
            clock,
            positions,
            start,
            end: end.min(LAST + DAY),
            cycle,
        })
    }

    /// Ends after so many occurrences.
    pub fn limit(&mut self, count: u32) {
        let (mut left, mut from) = (i64::from(count), self.start);
        loop {
            // All of a period at once if its set has to be made anyway.
            let found = match self.clock {
                Clock::Times(ref times) if !self.positions.is_empty() => self.chosen(times, from, self.end),
                _ => self.first(from, i64::MAX).into_iter().collect(),
            };
            let Some(last) = found.last() else { return };
            if let Some(end) = found.get((left - 1) as usize) {
                self.end = *end;
                return;
            }
            left -= found.len() as i64;
            from = last + 1;
        }
    }

    /// The last day that has to be looked at from this one on, to find what is not after `end`.
    fn last_day(&self, from: i64, end: i64) -> i64 {
        end.div_euclid(DAY).min(from.saturating_add(self.cycle))
    }

    /// Of the first period that has any from this time on: its chosen times from then on.
    fn chosen(&self, times: &[i64], from: i64, end: i64) -> Vec<i64> {
        let mut day = from.div_euclid(DAY);
        let last = self.last_day(day, end);
        let (mut days, mut found) = (Vec::new(), Vec::new());
        while day <= last {
            let date = Date::of(day);
            if let Some(next) = self.days.pass_over(day, date) {
                day = next;
                continue;
            }
            let (begin, end) = self.days.period_of(day, date);
            days.clear();
            days.extend((begin..end).filter(|day| self.days.has(*day, Date::of(*day))));
            let places = choose(&self.positions, days.len() * times.len()).unwrap_or_default();
            found.extend(places.into_iter().map(|place| days[place / times.len()] * DAY + times[place % times.len()]));
            found.retain(|time| (from..=self.end).contains(time));
            if !found.is_empty() {
                break;
            }
            day = end;
        }
        found
    }

    fn first_of_day(&self, times: &[i64], from: i64, end: i64) -> Option<i64> {
        let mut day = from.div_euclid(DAY);
        let last = self.last_day(day, end);
        loop {
            day = self.days.next(day, last)?;
            if let Some(time) = times.iter().map(|time| day * DAY + time).find(|time| *time >= from) {
                return Some(time);
            }
            day += 1;
        }
    }

    fn first_of_units(&self, units: &Units, from: i64, end: i64) -> Option<i64> {
        let last = self.last_day(from.div_euclid(DAY), end);
        let mut at = from;
        // The day of which it is known that the rule may come on it.
        let mut known = None;
        loop {
            let begin = units.aligned(at);
            let (day, of_day) = (begin.div_euclid(DAY), begin.rem_euclid(DAY));
            if known != Some(day) {
                let next = self.days.next(day, last)?;
                if next != day {
                    at = next * DAY;
                    continue;
                }
                known = Some(day);
            }
            let allowed = units.next_allowed(of_day);
            if allowed != of_day {
                at = day * DAY + allowed;
                continue;
            }
            if let Some(time) = units.offsets.iter().map(|offset| begin + offset).find(|time| *time >= from) {
                return Some(time);
            }
            at = begin + units.unit;
        }
    }
}

impl Times for Plan {
    fn first(&self, from: i64, until: i64) -> Option<i64> {
        let (from, end) = (from.max(self.start), self.end.min(until - 1));
        let found = match &self.clock {
            Clock::Units(units) => self.first_of_units(units, from, end),
            Clock::Times(times) if self.positions.is_empty() => self.first_of_day(times, from, end),
            Clock::Times(times) => self.chosen(times, from, end).first().copied(),
        };
        found.filter(|time| *time <= end)
    }
}

impl Units {
    /// The begin of the unit of this time, or of the next that the interval reaches.
    fn aligned(&self, at: i64) -> i64 {
        let past = (at.div_euclid(self.unit) - self.origin).rem_euclid(self.interval);
        let unit = at.div_euclid(self.unit) + if past == 0 { 0 } else { self.interval - past };
        unit * self.unit
    }

    /// The first unit from this second of the day on that is not left out: the length of the day if there is none.
    fn next_allowed(&self, mut at: i64) -> i64 {
        while at < DAY {
            let (hour, minute, second) = (at / 3_600, at / 60 % 60, at % 60);
            if self.hours >> hour & 1 == 0 {
                at = (hour + 1) * 3_600;
            } else if self.minutes >> minute & 1 == 0 {
                at = hour * 3_600 + (minute + 1) * 60;
            } else if self.seconds >> second & 1 == 0 {
                at += 1;
            } else {
                return at;
            }
        }
        DAY
    }

    /// Whether the interval ever reaches a unit that is not left out. On the days that it passes, it reaches those that
    /// are a multiple of its greatest common divisor with a day from its start.
    fn can_come(&self) -> bool {
        let step = gcd(self.interval, DAY / self.unit) * self.unit;
        let mut at = (self.origin * self.unit).rem_euclid(step);
        while at < DAY {
            let allowed = self.next_allowed(at);
            if allowed == at {
                return !self.offsets.is_empty();
            }
            at += (allowed - at + step - 1) / step * step;
        }
        false
    }
}

impl Days {
    fn new(rule: &RecurrenceRule, start: i64) -> Self {
        use Frequency::{Daily, Monthly, Weekly, Yearly};
        let date = Date::of(start);
        let by = |part| rule.by(part).to_vec();
        let mut days = Self {
            period: rule.frequency.max(Daily),
            // Of hours, minutes and seconds, `Units` takes care.
            interval: if rule.frequency >= Daily { rule.interval.into() } else { 1 },
            origin: 0,
            months: bits(rule.by(By::Month)) as u16,
            month_days: by(By::MonthDay),
            year_days: by(By::YearDay),
            weeks: by(By::WeekNo),
            weekdays: bits(&rule.days.iter().filter(|day| day.nth == 0).map(NthDay::number).collect::<Vec<_>>()) as u8,
            numbered: rule.days.iter().filter(|day| day.nth != 0).map(|day| (day.nth, day.number())).collect(),
            in_month: rule.frequency == Monthly || !rule.by(By::Month).is_empty(),
            week_start: number_of(rule.week_start),
        };
        // What the rule does not say is as at the start (RFC 5545, 3.3.10).
        let says_day = !rule.days.is_empty() || !days.month_days.is_empty() || !days.year_days.is_empty();
        match rule.frequency {
            Yearly | Weekly if !says_day && (rule.frequency == Weekly || !days.weeks.is_empty()) => {
                days.weekdays = 1 << weekday(start);
            }
            Yearly | Monthly if !says_day => {
                days.month_days = vec![date.day];
                if rule.frequency == Yearly && days.months == 0 {
                    days.months = 1 << date.month;
                }
            }
            _ => {}
        }
        days.origin = days.period_number(start, date);
        days
    }

    /// Periods are counted, so that intervals are multiples.
    fn period_number(&self, day: i64, date: Date) -> i64 {
        match self.period {
            Frequency::Yearly => date.year,
            Frequency::Monthly => date.year * 12 + date.month - 1,
            // Day −3 was a Monday.
            Frequency::Weekly => (day + 3 - self.week_start).div_euclid(7),
            _ => day,
        }
    }

    fn first_day_of(&self, period: i64) -> i64 {
        match self.period {
            Frequency::Yearly => first_of_month(period, 1),
            Frequency::Monthly => first_of_month(0, period + 1),
            Frequency::Weekly => period * 7 - 3 + self.week_start,
            _ => period,
        }
    }

    /// The first day of the period of this day, and of the next.
    fn period_of(&self, day: i64, date: Date) -> (i64, i64) {
        let number = self.period_number(day, date);
        (self.first_day_of(number), self.first_day_of(number + 1))
    }

    /// The next day to look at, if there is none in this period or month.
    fn pass_over(&self, day: i64, date: Date) -> Option<i64> {
        if self.interval > 1 {
            let number = self.period_number(day, date);
            let past = (number - self.origin).rem_euclid(self.interval);
            if past != 0 {
                return Some(self.first_day_of(number + self.interval - past));
            }
        }
        let left_out = self.months != 0 && self.months >> date.month & 1 == 0;
        left_out.then(|| first_of_month(date.year, date.month + 1))
    }

    /// The first day from this one to the last on which the rule may come.
    fn next(&self, mut day: i64, last: i64) -> Option<i64> {
        while day <= last {
            let date = Date::of(day);
            match self.pass_over(day, date) {
                Some(next) => day = next,
                None if self.has(day, date) => return Some(day),
                None => day += 1,
            }
        }
        None
    }

    /// Whether the rule may come on this day, its interval aside.
    fn has(&self, day: i64, date: Date) -> bool {
        (self.months == 0 || self.months >> date.month & 1 == 1)
            && (self.month_days.is_empty() || counted(&self.month_days, date.day, date.days_in_month()))
            && (self.year_days.is_empty() || counted(&self.year_days, date.day_of_year(), days_in_year(date.year)))
            && (self.weeks.is_empty() || self.has_week_of(day))
            && ((self.weekdays == 0 && self.numbered.is_empty()) || self.has_weekday_of(day, date))
    }

    fn has_weekday_of(&self, day: i64, date: Date) -> bool {
        let weekday = weekday(day);
        let (place, length) = if self.in_month {
            (date.day, date.days_in_month())
        } else {
            (date.day_of_year(), days_in_year(date.year))
        };
        let is_nth = |nth: i64| if nth > 0 { (place - 1) / 7 + 1 == nth } else { (length - place) / 7 + 1 == -nth };
        self.weekdays >> weekday & 1 == 1 || self.numbered.iter().any(|(nth, on)| *on == weekday && is_nth(*nth))
    }

    /// A week belongs to the year in which its fourth day is; that day also tells its number (RFC 5545, BYWEEKNO).
    fn has_week_of(&self, day: i64) -> bool {
        let fourth = day - (weekday(day) - self.week_start).rem_euclid(7) + 3;
        let date = Date::of(fourth);
        let before = date.day_of_year() - 1;
        let weeks = (days_in_year(date.year) - 1 - before % 7) / 7 + 1;
        counted(&self.weeks, before / 7 + 1, weeks)
    }
}

impl NthDay {
    fn number(&self) -> i64 {
        number_of(self.day)
    }
}

/// Whether a place is among these, which count from the end if they are negative.
fn counted(values: &[i64], place: i64, length: i64) -> bool {
    values.iter().any(|value| *value == place || *value == place - length - 1)
}

/// Which places of so many are at these positions; `None` if no positions are given.
fn choose(positions: &[i64], length: usize) -> Option<Vec<usize>> {
    let place = |position: &i64| {
        let place = if *position > 0 { position - 1 } else { length as i64 + position };
        usize::try_from(place).ok().filter(|place| *place < length)
    };
    let mut places: Vec<usize> = positions.iter().filter_map(place).collect();
    places.sort_unstable();
    places.dedup();
    (!positions.is_empty()).then_some(places)
}

/// Each of the one times its unit plus each of the other. Ascending, if both are and the unit is long enough.
fn sums(values: &[i64], unit: i64, others: &[i64]) -> Vec<i64> {
    values.iter().flat_map(|value| others.iter().map(move |other| value * unit + other)).collect()
}

fn bits(values: &[i64]) -> u64 {
    values.iter().fold(0, |bits, value| bits | 1 << value)
}

fn days_in_year(year: i64) -> i64 {
    365 + i64::from(is_leap(year))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
