//! What can be wrong with a schedule, said with the value and what would be right.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use strsim::levenshtein;

/// Why a schedule was refused. Nothing that was refused exists: a value of a schedule's type is always valid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// No zone of the IANA database has this name. Names are case-sensitive.
    /// The text of the error names the one that was probably meant.
    #[error(
        "no zone is named {given:?}{}",
        most_like(given).map(|name| format!(": did you mean {name:?}?")).unwrap_or_default()
    )]
    UnknownZone {
        /// The name that was given, its first 64 characters.
        given: String,
    },
    /// The clocks of the zone skip this local time, and the schedule rejects such times.
    #[error(
        "the clocks in {zone} skip {local}: choose {before} or {after} (Earlier, Later), or let Compatible take the later"
    )]
    Skipped {
        /// The local time.
        local: NaiveDateTime,
        /// The zone's name.
        zone: &'static str,
        /// What it is by the offset after the gap: an instant before the gap.
        before: DateTime<Utc>,
        /// What it is by the offset before the gap: an instant after the gap.
        after: DateTime<Utc>,
    },
    /// The clocks of the zone show this local time twice, and the schedule rejects such times.
    #[error(
        "the clocks in {zone} show {local} twice: choose {before} or {after} (Earlier, Later), or let Compatible take the earlier"
    )]
    Repeated {
        /// The local time.
        local: NaiveDateTime,
        /// The zone's name.
        zone: &'static str,
        /// The first time.
        before: DateTime<Utc>,
        /// The second time.
        after: DateTime<Utc>,
    },
    /// An instant or a local time outside the years that are reckoned with.
    #[error("{given} is out of range: 1970-01-01T00:00:00Z to 9999-12-31T23:59:59Z")]
    OutOfRange {
        /// What was given.
        given: NaiveDateTime,
    },
    /// The time has a fraction of a second, where only whole seconds are possible.
    #[error("{given} has a fraction of a second: slots and recurrences are whole seconds")]
    NotWholeSecond {
        /// What was given.
        given: NaiveDateTime,
    },
    /// Posting slots without a slot.
    #[error("posting slots need at least one slot: give weekly times with `on`, or a local time with `extra`")]
    NoSlots,
    /// A number outside its range.
    #[error("{part} is {given}, but must be from {min} to {max}{}", if *min < 0 { " and not 0" } else { "" })]
    InvalidValue {
        /// The part of the rule, by its name in RFC 5545.
        part: &'static str,
        /// What was given.
        given: i64,
        /// The smallest value allowed.
        min: i64,
        /// The largest value allowed.
        max: i64,
    },
    /// A part of a recurrence that RFC 5545 forbids here.
    #[error("{part} is not allowed with {with} (RFC 5545, 3.3.10): {instead}")]
    NotAllowed {
        /// The part that is not allowed.
        part: &'static str,
        /// Beside what it is not allowed.
        with: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// A recurrence ends before it starts.
    #[error("UNTIL={until} is before the start {start} in {zone}: the recurrence would be empty")]
    UntilBeforeStart {
        /// The end, as text.
        until: String,
        /// The start, local time.
        start: NaiveDateTime,
        /// The zone's name.
        zone: &'static str,
    },
    /// A rule without any instant from its start to the end of the year 9999.
    #[error("{rule} never comes: no date and time fulfils all its parts, or all of them are excluded")]
    NeverFires {
        /// The rule.
        rule: String,
    },
    /// A text that cannot be read.
    #[error("cannot read {text:?} as {what}: at byte {at} {expected}")]
    Text {
        /// What it should have been.
        what: &'static str,
        /// The text, its first 200 characters.
        text: String,
        /// Where reading ended: bytes from the start of the text.
        at: usize,
        /// What was expected there.
        expected: String,
    },
    /// A window is empty or ends before it begins.
    #[error("the window from {from} to {until} is empty: it must be at least a millisecond long")]
    EmptyWindow {
        /// Its begin.
        from: NaiveDateTime,
        /// Its end.
        until: NaiveDateTime,
    },
    /// More posts of one profile than its minimum gaps leave room for.
    #[error(
        "{posts} posts of {profile:?} that are {gap:?} apart do not fit into {window:?}: \
         make the window longer than {needed:?}, or take {most} posts, or a smaller gap"
    )]
    WindowTooShort {
        /// The profile; empty if it is all posts.
        profile: String,
        /// How many posts it has.
        posts: usize,
        /// The least time between two of them.
        gap: Duration,
        /// The length of the window.
        window: Duration,
        /// The gaps of all its posts together: the window has to be longer.
        needed: Duration,
        /// How many of its posts would fit.
        most: usize,
    },
    /// A profile with a minimum gap has posts in the local times of two zones, whose windows may overlap.
    #[error(
        "{profile:?} has posts in {first} and in {second}: with a minimum gap, all posts of a profile are in one zone"
    )]
    TwoZones {
        /// The profile.
        profile: String,
        /// The zone of its first post.
        first: &'static str,
        /// The other zone.
        second: &'static str,
    },
}

impl ScheduleError {
    /// `text` could not be read from `rest` on, a slice of it.
    pub(super) fn text(what: &'static str, text: &str, rest: &str, expected: impl Into<String>) -> Self {
        let at = (rest.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
        Self::Text { what, text: text.chars().take(200).collect(), at, expected: expected.into() }
    }
}

/// The zone whose name, or whose place, differs least from what was given: in a third of its letters at most.
fn most_like(given: &str) -> Option<&'static str> {
    let given = given.trim().to_ascii_lowercase().replace(' ', "_");
    let likeness = |zone: &Tz| {
        let name = zone.name().to_ascii_lowercase();
        let place = name.rsplit('/').next().unwrap_or(&name);
        // A place by itself says less than the whole name.
        levenshtein(&given, &name).min(1 + levenshtein(&given, place))
    };
    let (edits, name) = TZ_VARIANTS.iter().map(|zone| (likeness(zone), zone.name())).min()?;
    (edits <= 1 + given.chars().count() / 3).then_some(name)
}
