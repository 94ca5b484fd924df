//! The calendar: rules that yield the dues of posts. Pure.
//!
//! Rules are sets of local times ([`wall::Times`]); a [`wall::Wall`] makes instants of them. Inside, times are whole
//! seconds ([`civil`]); `chrono` is spoken at the edge.

mod civil;
mod cron;
mod error;
mod local;
mod pacing;
mod recurrence;
#[cfg(feature = "serde")]
mod serialized;
mod slots;
mod text;
mod wall;
mod zone;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};

pub use self::cron::Cron;
pub use self::error::ScheduleError;
pub use self::local::{Disambiguation, LocalTime};
pub use self::pacing::{LocalPacing, Pacing, humanise};
pub use self::recurrence::{Frequency, NthDay, Recurrence, RecurrenceRule, Until};
pub use self::slots::{PostingSlots, SlotsBuilder};
pub use self::zone::zone;

use self::civil::{FIRST, LAST};
use self::text::Source;

/// When a post is due, or the posts of a series are: a rule that yields instants. Years 1970 to 9999.
///
/// Its text is stable, begins with a word that tells which rule it is, and is read back by [`FromStr`].
///
/// ```
/// use punctual::Schedule;
///
/// let schedule: Schedule = "slots Europe/Berlin Mon-Fri 08:00,17:30".parse()?;
/// let friday = "2026-03-27T12:00:00Z".parse()?;
/// let next: Vec<_> = schedule.after(friday).take(2).map(|due| due.to_rfc3339()).collect();
/// assert_eq!(next, ["2026-03-27T16:30:00+00:00", "2026-03-30T06:00:00+00:00"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Schedule {
    /// One instant. As text: `once 2026-03-29T01:30:00Z`.
    Once(DateTime<Utc>),
    /// One local time.
    Local(LocalTime),
    /// Weekly local times.
    Slots(PostingSlots),
    /// A rule of RFC 5545.
    Recurrence(Recurrence),
    /// A cron expression.
    Cron(Cron),
}

impl Schedule {
    /// The first instant of the schedule that is after this one. A local time that the clocks skip or show twice and
    /// that rejects this never comes.
    pub fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Once(at) => Some(*at).filter(|at| *at > instant),
            Self::Local(local) => local.instant().ok().filter(|at| *at > instant),
            Self::Slots(slots) => slots.next_after(instant),
            Self::Recurrence(recurrence) => recurrence.next_after(instant),
            Self::Cron(cron) => cron.next_after(instant),
        }
    }

    /// The last instant of the schedule that is before this one.
    pub fn previous_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Once(at) => Some(*at).filter(|at| *at < instant),
            Self::Local(local) => local.instant().ok().filter(|at| *at < instant),
            Self::Slots(slots) => slots.previous_before(instant),
            Self::Recurrence(recurrence) => recurrence.previous_before(instant),
            Self::Cron(cron) => cron.previous_before(instant),
        }
    }

    /// All instants of the schedule after this one, in order and each once, to the end of the year 9999.
    pub fn after(&self, instant: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(instant), |last| self.next_after(*last))
    }
}

impl From<DateTime<Utc>> for Schedule {
    fn from(at: DateTime<Utc>) -> Self {
        Self::Once(at)
    }
}

impl From<LocalTime> for Schedule {
    fn from(local: LocalTime) -> Self {
        Self::Local(local)
    }
}

impl From<PostingSlots> for Schedule {
    fn from(slots: PostingSlots) -> Self {
        Self::Slots(slots)
    }
}

impl From<Recurrence> for Schedule {
    fn from(recurrence: Recurrence) -> Self {
        Self::Recurrence(recurrence)
    }
}

impl From<Cron> for Schedule {
    fn from(cron: Cron) -> Self {
        Self::Cron(cron)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once(at) => write!(f, "once {}", at.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Self::Local(local) => local.fmt(f),
            Self::Slots(slots) => slots.fmt(f),
            Self::Recurrence(recurrence) => recurrence.fmt(f),
            Self::Cron(cron) => cron.fmt(f),
        }
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let source = Source { what: "a schedule", text };
        let expected = "once, local, slots, rrule or cron";
        let (word, rest) = source.word(text, expected)?;
        match word.to_ascii_lowercase().as_str() {
            "once" => {
                let at = rest.trim();
                let refused = |_| source.error(at, "an instant is expected, such as 2026-03-29T01:30:00Z");
                let at: DateTime<Utc> = at.parse().map_err(refused)?;
                if !(FIRST..=LAST).contains(&at.timestamp()) {
                    return Err(ScheduleError::OutOfRange { given: at.naive_utc() });
                }
                Ok(Self::Once(at))
            }
            "local" => text.parse().map(Self::Local),
            "slots" => text.parse().map(Self::Slots),
            "rrule" => text.parse().map(Self::Recurrence),
            "cron" => text.parse().map(Self::Cron),
            _ => Err(source.error(word, format!("{expected} is expected"))),
        }
    }
}
