//! Where live posts are put that nothing happens to by themselves.

use crate::time::Timestamp;

use super::{Cursor, Home};

/// A range of homes beyond every due. Loading never gets there; posts come back when the host says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shelf {
    /// Posts that wait in a queue for a slot, in the order in which they came.
    Queued,
    /// Dead letters, in the order of their failure.
    Dead,
    /// Posts of which it is not known whether they were published, in the order in which that turned out.
    InDoubt,
    /// Posts that became due while their profile was held, one profile beside the other.
    Held,
}

/// The first shelf; the year 9999 lies far before it.
const QUEUED: i64 = 1 << 59;
const DEAD: i64 = 1 << 60;
const IN_DOUBT: i64 = 1 << 61;
const HELD: i64 = 1 << 62;
/// The room of one profile on the shelf of the held.
const PROFILE: i64 = 1 << 20;

impl Shelf {
    /// The shelf that this instant lies on, if it is on one.
    pub const fn of(at: Timestamp) -> Option<Self> {
        match at.micros() {
            HELD.. => Some(Self::Held),
            IN_DOUBT.. => Some(Self::InDoubt),
            DEAD.. => Some(Self::Dead),
            QUEUED.. => Some(Self::Queued),
            _ => None,
        }
    }

    /// Where a post of this profile is put at `now`.
    pub fn place(self, now: Timestamp, profile: &str) -> Timestamp {
        let since = now.micros().clamp(0, QUEUED - 1);
        match self {
            Self::Queued => Timestamp::from_micros(QUEUED + since),
            Self::Dead => Timestamp::from_micros(DEAD + since),
            Self::InDoubt => Timestamp::from_micros(IN_DOUBT + since),
            Self::Held => Timestamp::from_micros(HELD + i64::from(hash(profile)) * PROFILE),
        }
    }

    /// Before its first home, and its last instant.
    pub const fn range(self) -> (Cursor, Timestamp) {
        let (from, to) = match self {
            Self::Queued => (QUEUED, DEAD - 1),
            Self::Dead => (DEAD, IN_DOUBT - 1),
            Self::InDoubt => (IN_DOUBT, HELD - 1),
            Self::Held => (HELD, i64::MAX),
        };
        (Cursor::through(Timestamp::from_micros(from - 1)), Timestamp::from_micros(to))
    }

    /// The range in which posts of this held profile are, maybe beside others.
    pub fn range_of(profile: &str) -> (Cursor, Timestamp) {
        let at = Self::Held.place(Timestamp::MIN, profile);
        (Cursor::through(Timestamp::from_micros(at.micros() - 1)), at)
    }
}

impl Home {
    /// The shelf on which it lies, if it is on one.
    pub const fn shelf(self) -> Option<Shelf> {
        Shelf::of(self.at)
    }
}

fn hash(profile: &str) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(profile.as_bytes()) >> 33) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_place_is_in_the_range_of_its_shelf_and_no_due_is(now: i64, profile: String) {
            let now = Timestamp::from_micros(now);
            for shelf in [Shelf::Queued, Shelf::Dead, Shelf::InDoubt, Shelf::Held] {
                let at = shelf.place(now, &profile);
                let (after, until) = shelf.range();
                prop_assert_eq!(Shelf::of(at), Some(shelf));
                prop_assert!(Cursor::through(at) > after && at <= until);
                prop_assert!(at.micros() >= 0 && at.millis() > limits::DUE_MAX_MILLIS);
            }
            let (after, until) = Shelf::range_of(&profile);
            let at = Shelf::Held.place(now, &profile);
            let first = Cursor { at, seq: crate::id::Seq(0) };
            prop_assert!(first > after && at <= until);
        }
    }

    #[test]
    fn no_due_is_on_a_shelf() {
        assert_eq!(Shelf::of(Timestamp::from_millis(limits::DUE_MAX_MILLIS)), None);
        assert_eq!(Shelf::of(Timestamp::MIN), None);
    }
}
