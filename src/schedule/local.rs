//! A local time in a zone, and the instant that it is.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

use super::civil::{FIRST, LAST, instant_of, seconds_of, without_leap_second};
use super::error::ScheduleError;
use super::text::{Local, Source};
use super::wall::{Fold, Gap, Wall};
use super::zone::{self, Reading};

/// What becomes of a local time that the clocks skip (a gap, in spring) or show twice (a fold, in autumn). The words are
/// those of ECMAScript's `Temporal`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Disambiguation {
    /// In a gap later by its length, 02:30 becoming 03:30; in a fold the first of the two. This is what RFC 5545 says
    /// (3.3.5), and what calendars do.
    #[default]
    Compatible,
    /// In a gap earlier by its length, 02:30 becoming 01:30; in a fold the first of the two.
    Earlier,
    /// In a gap later by its length, 02:30 becoming 03:30; in a fold the second of the two.
    Later,
    /// Neither: a local time is an error, and a slot is left out on that day.
    Reject,
}

impl Disambiguation {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Compatible, "compatible"),
        (Self::Earlier, "earlier"),
        (Self::Later, "later"),
        (Self::Reject, "reject"),
    ];

    pub(super) fn wall(self, zone: Tz) -> Wall {
        let (gap, fold) = match self {
            Self::Compatible => (Gap::Forward, Fold::First),
            Self::Earlier => (Gap::Back, Fold::First),
            Self::Later => (Gap::Forward, Fold::Second),
            Self::Reject => (Gap::Skip, Fold::Skip),
        };
        Wall { zone, gap, fold }
    }

    /// By its name, if it is one.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(this, _)| *this)
    }
}

/// As text: `compatible`, `earlier`, `later`, `reject`.
impl fmt::Display for Disambiguation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(this, _)| this == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Disambiguation {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let refused =
            || ScheduleError::text("disambiguation", text, text, "compatible, earlier, later or reject is expected");
        Self::named(text).ok_or_else(refused)
    }
}

/// A local time in a zone. It is kept as it was said, so that it stays right when the rules of the zone change; which
/// [`instant`](Self::instant) it is, is derived.
///
/// As text: `local 2026-03-29T02:30 Europe/Berlin compatible`; the last word may be left out.
///
/// ```
/// use punctual::{Disambiguation, LocalTime};
///
/// let skipped: LocalTime = "local 2026-03-29T02:30 Europe/Berlin".parse()?;
/// assert_eq!(skipped.instant()?.to_string(), "2026-03-29 01:30:00 UTC"); // 03:30 there
/// assert!(skipped.disambiguation(Disambiguation::Reject).instant().is_err());
/// # Ok::<(), punctual::ScheduleError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LocalTime {
    time: NaiveDateTime,
    zone: Tz,
    disambiguation: Disambiguation,
}

impl LocalTime {
    /// This time in this zone, [`Disambiguation::Compatible`]. A leap second becomes the second before it.
    pub fn new(time: NaiveDateTime, zone: Tz) -> Self {
        Self { time: without_leap_second(time), zone, disambiguation: Disambiguation::default() }
    }

    /// What is done if the clocks skip this time or show it twice.
    #[must_use]
    pub fn disambiguation(mut self, disambiguation: Disambiguation) -> Self {
        self.disambiguation = disambiguation;
        self
    }

    /// The time on the clocks of the zone.
    pub fn time(&self) -> NaiveDateTime {
        self.time
    }

    /// The zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// When this is, by the zone's rules in this build (`chrono_tz::IANA_TZDB_VERSION`). Those end in 2099: later, a zone
    /// has no summer time.
    ///
    /// # Errors
    ///
    /// [`Skipped`](ScheduleError::Skipped) and [`Repeated`](ScheduleError::Repeated) with [`Disambiguation::Reject`], and
    /// [`OutOfRange`](ScheduleError::OutOfRange) for instants outside the years 1970 to 9999.
    pub fn instant(&self) -> Result<DateTime<Utc>, ScheduleError> {
        let out_of_range = || ScheduleError::OutOfRange { given: self.time };
        let local = seconds_of(self.time);
        // Some margin, so that a zone's offset is right also at the edges.
        if !(FIRST - 86_400 * 2..=LAST + 86_400 * 2).contains(&local) {
            return Err(out_of_range());
        }
        let (zone, at) =
            (self.zone.name(), |seconds| instant_of(seconds) + TimeDelta::nanoseconds(self.time.nanosecond().into()));
        use Disambiguation::{Compatible, Earlier, Later, Reject};
        let instant = match (zone::read(self.zone, local), self.disambiguation) {
            (Reading::Once(instant), _) => instant,
            (Reading::Skipped { after, .. }, Compatible | Later) => after,
            (Reading::Skipped { before, .. }, Earlier) => before,
            (Reading::Repeated { before, .. }, Compatible | Earlier) => before,
            (Reading::Repeated { after, .. }, Later) => after,
            (Reading::Skipped { before, after }, Reject) => {
                return Err(ScheduleError::Skipped { local: self.time, zone, before: at(before), after: at(after) });
            }
            (Reading::Repeated { before, after }, Reject) => {
                return Err(ScheduleError::Repeated { local: self.time, zone, before: at(before), after: at(after) });
            }
        };
        if (FIRST..=LAST).contains(&instant) { Ok(at(instant)) } else { Err(out_of_range()) }
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local {} {} {}", Local(self.time), self.zone.name(), self.disambiguation)
    }
}

impl FromStr for LocalTime {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let source = Source { what: "a local time", text };
        let (time, rest) = source.word(source.after_keyword("local")?, "a local time")?;
        let (name, rest) = source.word(rest, "a zone")?;
        let local = Self::new(source.local(time)?, zone::zone(name)?);
        let rest = rest.trim();
        if rest.is_empty() {
            return Ok(local);
        }
        let named = Disambiguation::named(rest);
        let named = named.ok_or_else(|| source.error(rest, "compatible, earlier, later or reject is expected"))?;
        Ok(local.disambiguation(named))
    }
}
