//! Zones: their names, and when their clocks change.
//!
//! `chrono_tz` answers questions about one instant. A calendar asks for the spans between two changes, in which local
//! time and UTC differ by the same amount: inside a span, local times are instants by one subtraction.

use std::sync::OnceLock;

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::{TZ_VARIANTS, Tz};

use super::civil::DAY;
use super::error::ScheduleError;

/// From an instant on, clocks show UTC plus the offset, until the next span begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Seconds since 1970, UTC.
    pub begin: i64,
    /// Local minus UTC, seconds.
    pub offset: i64,
}

/// Before and after everything that is reckoned with.
pub const LONG_AGO: i64 = -(1 << 40);
pub const FAR_AWAY: i64 = 1 << 40;

/// The tables of `chrono_tz` end in 2099: from then on a zone keeps its last offset.
const TABLES_END: i64 = 4_102_444_800;

/// How far apart offsets are compared. Two changes are at least 6.9 days apart in every zone since 1970.
const STEP: i64 = 5 * DAY;

/// The spans of a zone from 1970 on, found at the first use and kept: some 0.3 ms and 4 KB for each zone that is used.
pub fn spans(zone: Tz) -> &'static [Span] {
    static SPANS: [OnceLock<Box<[Span]>>; TZ_VARIANTS.len()] = [const { OnceLock::new() }; TZ_VARIANTS.len()];
    SPANS[zone as usize].get_or_init(|| find_spans(zone))
}

fn find_spans(zone: Tz) -> Box<[Span]> {
    let mut from = -2 * DAY;
    let mut spans = vec![Span { begin: LONG_AGO, offset: offset(zone, from) }];
    while from < TABLES_END {
        let (mut same, mut other, before) = (from, from + STEP, offset(zone, from));
        let after = offset(zone, other);
        if after != before {
            while other - same > 1 {
                let middle = same + (other - same) / 2;
                if offset(zone, middle) == before { same = middle } else { other = middle }
            }
            spans.push(Span { begin: other, offset: after });
        }
        from += STEP;
    }
    spans.into_boxed_slice()
}

fn offset(zone: Tz, at: i64) -> i64 {
    let utc = DateTime::from_timestamp(at, 0).unwrap_or_default().naive_utc();
    zone.offset_from_utc_datetime(&utc).fix().local_minus_utc().into()
}

/// The span of an instant, by its place in the table.
pub fn span_of(spans: &[Span], at: i64) -> usize {
    spans.partition_point(|span| span.begin <= at).saturating_sub(1)
}

/// What a local time is in a zone, in seconds of UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// One instant.
    Once(i64),
    /// Skipped by the clocks: by the offset after the gap, an instant before it; by the one before, an instant after it.
    Skipped { before: i64, after: i64 },
    /// Shown twice.
    Repeated { before: i64, after: i64 },
}

/// What the clocks of the zone make of a local time.
pub fn read(zone: Tz, local: i64) -> Reading {
    let spans = spans(zone);
    // An offset is less than a day, and there is one change at most within two.
    let first = span_of(spans, local - DAY);
    let (this, next) = (spans[first], spans.get(first + 1));
    match next {
        Some(next) => {
            let (before, after) = (local - this.offset, local - next.offset);
            match (before < next.begin, after >= next.begin) {
                (true, true) => Reading::Repeated { before, after },
                (true, false) => Reading::Once(before),
                (false, true) => Reading::Once(after),
                (false, false) => Reading::Skipped { before: after, after: before },
            }
        }
        None => Reading::Once(local - this.offset),
    }
}

/// The zone of this name in the IANA database, such as `Europe/Berlin`.
///
/// # Errors
///
/// [`ScheduleError::UnknownZone`], whose text names the one that was probably meant.
///
/// ```
/// assert_eq!(punctual::zone("Europe/Berlin")?, chrono_tz::Europe::Berlin);
/// let error = punctual::zone("Europe/Berln").unwrap_err();
/// assert_eq!(error.to_string(), r#"no zone is named "Europe/Berln": did you mean "Europe/Berlin"?"#);
/// # Ok::<(), punctual::ScheduleError>(())
/// ```
pub fn zone(name: &str) -> Result<Tz, ScheduleError> {
    name.parse().map_err(|_| ScheduleError::UnknownZone { given: name.chars().take(64).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zone_has_a_cell_of_its_own() {
        assert!(TZ_VARIANTS.iter().enumerate().all(|(place, zone)| *zone as usize == place));
    }

    /// Fails if tables of a later release have changes that are too near to each other to be found.
    #[test]
    fn spans_know_the_offset_of_every_day_in_every_zone() {
        for zone in TZ_VARIANTS {
            let spans = spans(zone);
            assert!(spans.windows(2).all(|pair| pair[0].begin + 2 * DAY < pair[1].begin), "{zone}");
            assert!(spans.windows(2).all(|pair| pair[0].offset != pair[1].offset), "{zone}");
            let mut place = 0;
            for day in -1..48_000 {
                let at = day * DAY + 7_919 * (day % 11);
                while spans.get(place + 1).is_some_and(|next| next.begin <= at) {
                    place += 1;
                }
                assert_eq!(spans[place].offset, offset(zone, at), "{zone} {at}");
            }
            for span in &spans[1..] {
                assert_ne!(offset(zone, span.begin - 1), offset(zone, span.begin), "{zone}");
            }
        }
    }

    #[test]
    fn an_unknown_zone_says_which_was_meant() {
        for (given, meant) in [
            ("europe/berlin", Some("Europe/Berlin")),
            ("Berlin", Some("Europe/Berlin")),
            ("new york", Some("America/New_York")),
            ("Europe/Kyyiv", Some("Europe/Kyiv")),
            ("", None),
            ("somewhere else entirely", None),
            ("Ζürich", Some("Europe/Zurich")),
            ("UTCC", Some("UTC")),
            ("Middle/Earth", None),
        ] {
            let error = zone(given).unwrap_err();
            assert_eq!(error, ScheduleError::UnknownZone { given: given.to_owned() });
            let hint = meant.map(|name| format!(": did you mean \"{name}\"?")).unwrap_or_default();
            assert_eq!(error.to_string(), format!("no zone is named {given:?}{hint}"));
        }
        let long = "Ä".repeat(1_000_000);
        assert!(zone(&long).unwrap_err().to_string().len() < 1_000);
    }
}
