//! Rate limits of one scope, and what was counted for them. Pure.
//!
//! A window remembers its starts in runs: neighbours in time that are over together, when the last of them is. So a
//! count can only be too high, and is never higher than the limit by more than a run, one part in [`RUNS`] of it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{LocalResult, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::{GapInfo, Tz};

use crate::error::{Error, Result};
use crate::time::Timestamp;

/// What a rate limit or a network's "too many" is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scope {
    /// One profile in one pool.
    Profile,
    /// The pool: the host's app on that network.
    Pool,
    /// Everything that shares the pool's account.
    Account,
}

/// How many calls of a broadcaster may start in a window of time, by the wall clock. What would be too many waits, and
/// goes out as soon as it may.
///
/// Several limits can stand beside each other; a call starts when all allow it. What was counted survives a restart
/// and, as far as it covers the new window, a change of the limits. A limit is never exceeded; where it allows more
/// than 32 starts, up to one in 32 of them may be held back a little longer than necessary. A network may count when
/// a call arrives and not when it starts: leave it a margin.
///
/// ```
/// use chrono::NaiveTime;
/// use punctual::RateLimit;
/// use std::time::Duration;
///
/// let limits = [
///     // 50 in any 24 hours, of these 10 in any hour, and 30 s apart.
///     RateLimit::rolling(50, Duration::from_secs(24 * 3_600)),
///     RateLimit::rolling(10, Duration::from_secs(3_600)),
///     RateLimit::spacing(Duration::from_secs(30)),
///     // 100 a day; the day begins at midnight in Los Angeles.
///     RateLimit::daily(100, chrono_tz::America::Los_Angeles, NaiveTime::MIN),
/// ];
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct RateLimit {
    max: u32,
    window: Window,
}

/// For how long a start counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Window {
    Rolling(Duration),
    Daily { zone: Tz, at: NaiveTime },
}

/// The longest window.
const WINDOW_MAX: Duration = Duration::from_secs(31 * 86_400);

impl RateLimit {
    /// At most `max` starts, 1 or more, in any span of this length: 1 ms to 31 days. A start that is exactly one window
    /// old does not count any more.
    pub fn rolling(max: u32, window: Duration) -> Self {
        // Instants are whole microseconds; never shorter than was said.
        let micros = window.as_nanos().div_ceil(1_000);
        let window = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        Self { max, window: Window::Rolling(window) }
    }

    /// At most `max` starts, 1 or more, from one reset to the next, which comes each day at this local time in this
    /// zone. Where the clocks skip that time, the reset is at the end of what they skip; where they show it twice, it
    /// is at the first.
    pub fn daily(max: u32, zone: Tz, at: NaiveTime) -> Self {
        Self { max, window: Window::Daily { zone, at } }
    }

    /// At least `gap` between two starts: 1 ms to 31 days. The same as one start in any span of this length.
    pub fn spacing(gap: Duration) -> Self {
        Self::rolling(1, gap)
    }

    /// Whether the limit of this pool, profile or account is within its ranges.
    pub(crate) fn check(&self, of: &str) -> Result<()> {
        let refuse =
            |setting, value, min, max| Err(Error::InvalidSetting { of: of.to_owned(), setting, value, min, max });
        if self.max == 0 {
            return refuse("rate limit (starts)", 0, 1, u128::from(u32::MAX));
        }
        match self.window {
            Window::Rolling(window) if window < Duration::from_millis(1) || window > WINDOW_MAX => {
                refuse("rate limit (µs)", window.as_micros(), 1_000, WINDOW_MAX.as_micros())
            }
            _ => Ok(()),
        }
    }
}

impl Window {
    /// The first instant at which a start made at `at` does not count any more.
    fn over(&self, at: Timestamp) -> Timestamp {
        match self {
            Self::Rolling(window) => at.after(*window),
            Self::Daily { zone, at: time } => reset_after(*zone, *time, at),
        }
    }
}

/// Years 1 to 9999: far beyond every due, and well within chrono's calendar.
const CALENDAR: (Timestamp, Timestamp) =
    (Timestamp::from_millis(-62_135_596_800_000), Timestamp::from_millis(253_402_300_799_999));

/// The first instant after `after` at which it is this time in this zone.
fn reset_after(zone: Tz, time: NaiveTime, after: Timestamp) -> Timestamp {
    let day = after.clamp(CALENDAR.0, CALENDAR.1).to_datetime().with_timezone(&zone).date_naive();
    // The day before, because its reset may have been put off past midnight.
    let days = (-1..=2).filter_map(|days| day.checked_add_signed(TimeDelta::days(days)));
    days.filter_map(|day| instant(zone, day.and_time(time))).find(|reset| *reset > after).unwrap_or(Timestamp::MAX)
}

/// When the clocks of the zone show this first, or skip it.
fn instant(zone: Tz, local: NaiveDateTime) -> Option<Timestamp> {
    let at = match zone.from_local_datetime(&local) {
        LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at,
        LocalResult::None => GapInfo::new(&local, &zone)?.end?,
    };
    Some(Timestamp::from_datetime(at.to_utc()))
}

/// Most runs of one window.
const RUNS: usize = 32;

/// What was counted for one scope. Limits come with each call, so that they can change at any time.
#[derive(Clone, Default, Debug)]
pub struct Quota {
    throttled: Option<Timestamp>,
    counts: Vec<Count>,
}

/// What was counted for one window.
#[derive(Clone, Debug)]
struct Count {
    window: Window,
    /// By their last start.
    runs: VecDeque<Run>,
    /// When nothing of it counts any more.
    until: Timestamp,
    /// Starts up to here may not be in it any more, or never were.
    forgotten: Timestamp,
}

/// Starts that count as long as the last of them does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    last: Timestamp,
    starts: u32,
}

impl Quota {
    /// The earliest instant from `now` on at which one may start, if nothing else happens before.
    pub fn next(&self, limits: &[RateLimit], now: Timestamp) -> Timestamp {
        let free = limits.iter().filter_map(|limit| self.count(&limit.window)?.full_until(limit));
        free.chain(self.throttled).fold(now, Timestamp::max)
    }

    /// One starts at `at`.
    pub fn take(&mut self, limits: &[RateLimit], at: Timestamp) {
        if limits.is_empty() {
            return;
        }
        self.adapt(limits, at);
        for count in &mut self.counts {
            let max = limits.iter().filter(|limit| limit.window == count.window).map(|limit| limit.max).min();
            count.add(max.unwrap_or(1), at);
        }
    }

    /// The start that was taken at `at` did not happen.
    pub fn give_back(&mut self, at: Timestamp) {
        self.counts.iter_mut().for_each(|count| count.remove(at));
    }

    /// Nothing starts before `until`.
    pub fn throttle(&mut self, until: Timestamp) {
        self.throttled = self.throttled.max(Some(until));
    }

    /// Whether there is nothing worth remembering.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.throttled.is_none_or(|until| until <= now) && self.counts.iter().all(|count| count.until <= now)
    }

    /// What is known for this window: its own count, or the one that remembers most. Every count holds the last of all
    /// starts, as far back as it goes, so that one also holds what the others do.
    fn count(&self, window: &Window) -> Option<&Count> {
        let own = self.counts.iter().find(|count| count.window == *window);
        own.or_else(|| self.counts.iter().max_by_key(|count| count.starts()))
    }

    /// Makes the counts those of the limits.
    fn adapt(&mut self, limits: &[RateLimit], now: Timestamp) {
        let is_wanted = |count: &Count| limits.iter().any(|limit| limit.window == count.window);
        let is_there = |limit: &RateLimit| self.counts.iter().any(|count| count.window == limit.window);
        if limits.iter().all(is_there) && self.counts.iter().all(is_wanted) {
            return;
        }
        let mut counts: Vec<Count> = Vec::with_capacity(limits.len());
        for RateLimit { window, .. } in limits {
            if counts.iter().all(|count| count.window != *window) {
                counts.push(match self.count(window) {
                    Some(known) => Count::new(*window, known.runs.clone(), known.forgotten),
                    None => {
                        Count::new(*window, VecDeque::new(), Timestamp::from_micros(now.micros().saturating_sub(1)))
                    }
                });
            }
        }
        self.counts = counts;
    }

    /// For [`decode`](Self::decode), in a later process perhaps. At most 600 bytes for each window.
    ///
    /// ```text
    /// version u8 = 1 | throttled until i64 µs LE, or i64::MIN | (window, runs u8, first last start i64 µs LE,
    /// (starts varint, µs to the next last start varint)*)*
    /// window   1, length u64 µs LE | 2, length of name u8, name of zone, second of day u32 LE, nanosecond u32 LE
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.throttled.unwrap_or(Timestamp::MIN).micros().to_le_bytes());
        for count in self.counts.iter().filter(|count| !count.runs.is_empty()) {
            count.encode(&mut out);
        }
        out
    }

    /// Reads what [`encode`](Self::encode) gave; `None` if it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.byte()? != VERSION {
            return None;
        }
        let throttled = Some(input.instant()?).filter(|until| *until > Timestamp::MIN);
        let mut counts = Vec::new();
        while !input.0.is_empty() {
            counts.push(Count::decode(&mut input)?);
        }
        Some(Self { throttled, counts })
    }
}

impl Count {
    fn new(window: Window, runs: VecDeque<Run>, forgotten: Timestamp) -> Self {
        let mut count = Self { window, runs, until: Timestamp::MIN, forgotten };
        count.set_until();
        count
    }

    fn set_until(&mut self) {
        self.until = self.runs.back().map_or(Timestamp::MIN, |run| self.window.over(run.last));
    }

    fn starts(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.starts)).sum()
    }

    /// When fewer than the limit's starts count, if ever they were as many. The count may be that of another window.
    fn full_until(&self, limit: &RateLimit) -> Option<Timestamp> {
        let mut starts = 0;
        let run = self.runs.iter().rev().find(|run| {
            starts += u64::from(run.starts);
            starts >= u64::from(limit.max)
        })?;
        Some(limit.window.over(run.last))
    }

    fn add(&mut self, max: u32, at: Timestamp) {
        if at >= self.until {
            self.forget(self.runs.len());
        }
        // Where it belongs by its time: the clock may have stepped back.
        let mut next = self.runs.partition_point(|run| run.last <= at);
        let is_newest = next == self.runs.len();
        let joins = |run: &Run| match self.window {
            Window::Rolling(_) => run.starts < max.div_ceil(RUNS as u32) || run.last == at,
            Window::Daily { .. } => at < if is_newest { self.until } else { self.window.over(run.last) },
        };
        if let Some(run) = next.checked_sub(1).and_then(|before| self.runs.get(before)).copied().filter(joins) {
            next -= 1;
            self.runs.remove(next);
            self.runs.insert(next, Run { last: at, starts: run.starts.saturating_add(1) });
        } else {
            if self.runs.len() >= RUNS {
                next -= self.make_room(at).min(next);
            }
            self.runs.insert(next, Run { last: at, starts: 1 });
        }
        if is_newest {
            self.set_until();
        }
    }

    /// Makes room for one more run, and says how many before `at` are gone.
    fn make_room(&mut self, at: Timestamp) -> usize {
        let over = self.runs.iter().take_while(|run| self.window.over(run.last) <= at).count();
        self.forget(over);
        if over > 0 {
            return over;
        }
        let starts = |(_, pair): &(usize, (&Run, &Run))| u64::from(pair.0.starts) + u64::from(pair.1.starts);
        let Some((first, (a, b))) = self.runs.iter().zip(self.runs.iter().skip(1)).enumerate().min_by_key(starts)
        else {
            return 0;
        };
        let (both, is_before) = (Run { last: b.last, starts: a.starts.saturating_add(b.starts) }, a.last <= at);
        self.runs.remove(first);
        if let Some(run) = self.runs.get_mut(first) {
            *run = both;
        }
        usize::from(is_before)
    }

    fn forget(&mut self, runs: usize) {
        self.forgotten = self.runs.drain(..runs).map(|run| run.last).fold(self.forgotten, Timestamp::max);
    }

    /// Takes one off from the first run that can hold a start of `at`. If it was another that held it, what is left
    /// counts for longer than it must.
    fn remove(&mut self, at: Timestamp) {
        let index = self.runs.partition_point(|run| run.last < at);
        let Some(run) = self.runs.get_mut(index).filter(|_| at > self.forgotten) else { return };
        run.starts -= 1;
        if run.starts == 0 {
            self.runs.remove(index);
            self.set_until();
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self.window {
            Window::Rolling(window) => {
                out.push(ROLLING);
                out.extend_from_slice(&u64::try_from(window.as_micros()).unwrap_or(u64::MAX).to_le_bytes());
            }
            Window::Daily { zone, at } => {
                // No zone has a name of more than 255 bytes.
                out.extend_from_slice(&[DAILY, zone.name().len() as u8]);
                out.extend_from_slice(zone.name().as_bytes());
                out.extend_from_slice(&at.num_seconds_from_midnight().to_le_bytes());
                out.extend_from_slice(&at.nanosecond().to_le_bytes());
            }
        }
        out.push(self.runs.len() as u8);
        let mut before = None;
        for run in &self.runs {
            let at = run.last.micros();
            match before.replace(at) {
                None => out.extend_from_slice(&at.to_le_bytes()),
                Some(before) => put_varint(out, at.wrapping_sub(before) as u64),
            }
            put_varint(out, run.starts.into());
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        let window = match input.byte()? {
            ROLLING => Window::Rolling(Duration::from_micros(u64::from_le_bytes(input.array()?))),
            DAILY => {
                let len = input.byte()?;
                let zone = std::str::from_utf8(input.take(len.into())?).ok()?.parse().ok()?;
                let (second, nano) = (u32::from_le_bytes(input.array()?), u32::from_le_bytes(input.array()?));
                Window::Daily { zone, at: NaiveTime::from_num_seconds_from_midnight_opt(second, nano)? }
            }
            _ => return None,
        };
        let len = usize::from(input.byte()?);
        let mut runs = VecDeque::with_capacity(len);
        while runs.len() < len {
            let last = match runs.back() {
                None => input.instant()?,
                Some(Run { last, .. }) => Timestamp::from_micros(last.micros().checked_add_unsigned(input.varint()?)?),
            };
            let starts = u32::try_from(input.varint()?).ok().filter(|starts| *starts > 0)?;
            runs.push_back(Run { last, starts });
        }
        (1..=RUNS).contains(&len).then(|| Self::new(window, runs, Timestamp::MIN))
    }
}

const VERSION: u8 = 1;
const ROLLING: u8 = 1;
const DAILY: u8 = 2;

/// Seven bits a byte, the lowest first; all bytes but the last have the eighth (LEB128).
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Encoded bytes that have not been read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn instant(&mut self) -> Option<Timestamp> {
        self.array().map(|bytes| Timestamp::from_micros(i64::from_le_bytes(bytes)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
