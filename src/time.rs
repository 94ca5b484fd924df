//! Instants: microseconds since 1970-01-01T00:00:00Z, as `i64`.

use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};

/// An instant of the wall clock, in microseconds since the Unix epoch (leap seconds not counted, as in
/// POSIX time). Internal: the public API speaks `chrono`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Before every due.
    pub const MIN: Self = Self(i64::MIN);
    /// After every due.
    pub const MAX: Self = Self(i64::MAX);

    /// The instant `micros` microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The instant `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the epoch, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// The first whole millisecond that is not before `at`: a due is never rounded to something earlier.
    pub fn due(at: DateTime<Utc>) -> Self {
        let millis = at.timestamp_millis();
        let rest = at.timestamp_subsec_nanos() % 1_000_000;
        Self::from_millis(millis + i64::from(rest > 0))
    }

    /// The instant of `at`, rounded down to a microsecond.
    pub fn from_datetime(at: DateTime<Utc>) -> Self {
        Self(at.timestamp_micros())
    }

    /// As `chrono` says it. Instants outside chrono's range become its nearest bound.
    pub fn to_datetime(self) -> DateTime<Utc> {
        Utc.timestamp_micros(self.0).single().unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This instant plus `by`.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// This instant minus `by`.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    /// This instant rounded up to a whole millisecond.
    pub fn ceil_millis(self) -> Self {
        Self::from_millis(self.0.div_euclid(1_000) + i64::from(self.0.rem_euclid(1_000) > 0))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What a clock shows: the wall clock, by which due is judged, and the monotonic clock, on which waiting is
/// done. They are read together and never mixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since some fixed moment; never steps.
    pub mono: Duration,
    /// The monotonic time of the machine, also where the others are moved by hand: for watching over the disk.
    pub machine: Duration,
}

/// When a machine wants to be called next, on either clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wake {
    /// At this instant of the wall clock.
    pub wall: Option<Timestamp>,
    /// At this reading of the monotonic clock.
    pub mono: Option<Duration>,
}

impl Wake {
    /// Whichever of the two comes first, on each clock.
    pub fn or(self, other: Self) -> Self {
        fn first<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            }
        }
        Self { wall: first(self.wall, other.wall), mono: first(self.mono, other.mono) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_is_never_rounded_to_something_earlier() {
        for nanos in [0, 1, 999, 1_000, 999_999, 1_000_000, 1_000_001, 999_999_999] {
            for secs in [-1, 0, 1_795_244_400] {
                let said = Utc.timestamp_opt(secs, nanos).unwrap();
                let due = Timestamp::due(said).to_datetime();
                assert!(due >= said, "{said} became {due}");
                assert!(due - said < chrono::TimeDelta::milliseconds(1), "{said} became {due}");
            }
        }
    }

    #[test]
    fn instants_that_chrono_does_not_know_become_its_first_or_last() {
        assert_eq!(Timestamp::MIN.to_datetime(), DateTime::<Utc>::MIN_UTC);
        assert_eq!(Timestamp::from_micros(i64::MAX).to_datetime(), DateTime::<Utc>::MAX_UTC);
    }

    #[test]
    fn millis_round_down_before_the_epoch_too() {
        assert_eq!(Timestamp::from_micros(-1).millis(), -1);
        assert_eq!(Timestamp::from_micros(-1).ceil_millis(), Timestamp::from_millis(0));
        assert_eq!(Timestamp::from_micros(1).ceil_millis(), Timestamp::from_millis(1));
    }
}
