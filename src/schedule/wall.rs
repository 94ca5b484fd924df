//! From the local times of a rule to instants.
//!
//! A rule is a set of local times. Inside a span of its zone each is one instant, in the same order. Only at the edges
//! of a span some local times are not there, are there twice, or are moved: at most three pieces of local time make up
//! the instants of a span, and what comes next is the least of what comes next in each.

use chrono_tz::Tz;

use super::civil::{DAY, FIRST, LAST};
use super::zone::{FAR_AWAY, LONG_AGO, Span, span_of, spans};

/// A set of times in whole seconds: local ones, or instants.
pub trait Times {
    /// The first of them from `from` on and before `until`; nothing after that is looked at.
    fn first(&self, from: i64, until: i64) -> Option<i64>;

    /// The last of them that is not after `until`.
    fn last(&self, until: i64) -> Option<i64> {
        // Those for which something follows in time are all before those for which nothing does.
        let found = |from| self.first(from, until.saturating_add(1));
        let (mut back, mut best) = (DAY, None);
        while best.is_none() {
            let from = until.saturating_sub(back);
            best = found(from);
            if from < FIRST - 2 * DAY {
                break;
            }
            back *= 4;
        }
        let (mut best, mut none) = (best?, until.saturating_add(1));
        while none - best > 1 {
            let middle = best + (none - best) / 2;
            match found(middle) {
                Some(later) => best = later,
                None => none = middle,
            }
        }
        Some(best)
    }
}

/// What becomes of local times that the clocks skip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gap {
    /// Later, by the length of the gap.
    Forward,
    /// Earlier, by the length of the gap.
    Back,
    /// Left out.
    Skip,
}

/// What becomes of local times that the clocks show twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    First,
    Second,
    Both,
    /// Left out.
    Skip,
}

/// How the local times of a rule become instants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wall {
    pub zone: Tz,
    pub gap: Gap,
    pub fold: Fold,
}

/// Local times from `from` to before `until`, which all are their instant plus `offset`.
#[derive(Clone, Copy)]
struct Piece {
    from: i64,
    until: i64,
    offset: i64,
}

/// The instants of local times.
#[derive(Clone, Copy, Debug)]
pub struct Instants<'a, T> {
    wall: Wall,
    times: &'a T,
}

impl<T: Times> Times for Instants<'_, T> {
    fn first(&self, from: i64, until: i64) -> Option<i64> {
        let Self { wall, times } = self;
        let spans = spans(wall.zone);
        let (from, until) = (from.max(FIRST), until.min(LAST + 1));
        for place in span_of(spans, from)..spans.len() {
            let earliest = from.max(spans[place].begin);
            if earliest >= until {
                return None;
            }
            let mut best: Option<i64> = None;
            for piece in wall.pieces(spans, place).into_iter().flatten() {
                let (from, until) = (earliest + piece.offset, until + piece.offset);
                let (from, until) = (from.max(piece.from), until.min(piece.until));
                if from < until
                    && let Some(found) = times.first(from, until)
                {
                    let at = found - piece.offset;
                    best = Some(best.map_or(at, |best| best.min(at)));
                }
            }
            if best.is_some() {
                return best;
            }
        }
        None
    }
}

impl Wall {
    /// The instants of these local times: years 1970 to 9999, each once, in order.
    pub fn instants<T: Times>(self, times: &T) -> Instants<'_, T> {
        Instants { wall: self, times }
    }

    /// Which local times make up the instants of this span.
    fn pieces(&self, spans: &[Span], place: usize) -> [Option<Piece>; 3] {
        let Span { begin, offset } = spans[place];
        let end = end(spans, place);
        let before = if place == 0 { offset } else { spans[place - 1].offset };
        let after = spans.get(place + 1).map_or(offset, |next| next.offset);
        let (mut from, mut until) = (begin + offset, end + offset);
        if before > offset && !matches!(self.fold, Fold::Second | Fold::Both) {
            from = begin + before;
        }
        if after < offset && !matches!(self.fold, Fold::First | Fold::Both) {
            until = end + after;
        }
        let moved_on = before < offset && self.gap == Gap::Forward;
        let moved_back = after > offset && self.gap == Gap::Back;
        [
            Some(Piece { from, until, offset }),
            moved_on.then_some(Piece { from: begin + before, until: begin + offset, offset: before }),
            moved_back.then_some(Piece { from: end + offset, until: end + after, offset: after }),
        ]
    }
}

/// The instant at which the next span begins.
fn end(spans: &[Span], place: usize) -> i64 {
    spans.get(place + 1).map_or(FAR_AWAY, |next| next.begin)
}

const _: () = assert!(LONG_AGO < FIRST && LAST < FAR_AWAY);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::zone::{Reading, read};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    impl Times for BTreeSet<i64> {
        fn first(&self, from: i64, until: i64) -> Option<i64> {
            self.range(from..until).next().copied()
        }
    }

    /// One local time after the other, by the book.
    fn by_the_book(wall: Wall, times: &BTreeSet<i64>) -> Vec<i64> {
        let instants = times.iter().flat_map(|local| match read(wall.zone, *local) {
            Reading::Once(at) => vec![at],
            Reading::Skipped { before, after } => match wall.gap {
                Gap::Forward => vec![after],
                Gap::Back => vec![before],
                Gap::Skip => vec![],
            },
            Reading::Repeated { before, after } => match wall.fold {
                Fold::First => vec![before],
                Fold::Second => vec![after],
                Fold::Both => vec![before, after],
                Fold::Skip => vec![],
            },
        });
        instants.collect::<BTreeSet<_>>().into_iter().filter(|at| (FIRST..=LAST).contains(at)).collect()
    }

    fn any_zone() -> impl Strategy<Value = Tz> {
        use chrono_tz::{Africa::Casablanca, America::New_York, Asia::Kolkata, Australia::Lord_Howe};
        use chrono_tz::{Antarctica::Troll, Europe::Berlin, Pacific::Apia, Pacific::Kwajalein};
        proptest::sample::select(vec![
            Berlin,
            New_York,
            Lord_Howe,
            Apia,
            Casablanca,
            Troll,
            Kwajalein,
            Kolkata,
            Tz::UTC,
        ])
    }

    proptest! {
        #[test]
        fn walking_on_and_back_finds_what_the_book_says(
            zone in any_zone(),
            gap in proptest::sample::select(vec![Gap::Forward, Gap::Back, Gap::Skip]),
            fold in proptest::sample::select(vec![Fold::First, Fold::Second, Fold::Both, Fold::Skip]),
            place: prop::sample::Index,
            near in prop::collection::vec(-200_000i64..200_000, 1..60),
            far in prop::collection::vec(-100_000i64..LAST, 0..4),
        ) {
            let spans = spans(zone);
            let span = spans[place.index(spans.len())];
            let change = span.begin.max(0) + span.offset;
            let times: BTreeSet<i64> = near.iter().map(|near| change + near / 600 * 600).chain(far).collect();
            let wall = Wall { zone, gap, fold };
            let book = by_the_book(wall, &times);
            let mut on = vec![];
            while let Some(next) = wall.instants(&times).first(on.last().map_or(i64::MIN / 2, |last| last + 1), i64::MAX) {
                on.push(next);
            }
            prop_assert_eq!(&on, &book);
            let mut back = vec![];
            while let Some(next) = wall.instants(&times).last(back.last().map_or(i64::MAX / 2, |last| last - 1)) {
                back.push(next);
            }
            back.reverse();
            prop_assert_eq!(&back, &book);
        }
    }
}
