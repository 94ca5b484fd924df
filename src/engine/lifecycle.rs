//! The state table: what may happen to a post in memory, and where it leads.

use crate::id::State;

/// Where a resident post is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Waits in the wheel for the moment at which its claim is written.
    Armed,
    /// Its claim is on the way to the store.
    Claiming,
    /// Its claim is durable; waits in the wheel for its due.
    Claimed,
    /// Handed over to its shard.
    InFlight,
    /// Its new home is on the way to the store: it was re-timed, or will be tried again.
    Moving,
    /// Its outcome is on the way to the store.
    Leaving,
}

/// What happens to a resident post.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Happening {
    /// The moment to write its claim has come.
    ClaimDue,
    /// Its claim is durable.
    ClaimStored,
    /// Its due has come.
    HandedOver,
    /// Its shard gave it back unstarted.
    Recalled,
    /// It gets another home.
    Moved,
    /// Its last new home is durable.
    MoveStored,
    /// It gets an outcome.
    Left,
}

impl Phase {
    #[cfg(test)]
    pub const ALL: [Self; 6] =
        [Self::Armed, Self::Claiming, Self::Claimed, Self::InFlight, Self::Moving, Self::Leaving];

    /// The phase after this happening; `None` if it cannot happen in this phase and must change nothing.
    pub const fn next(self, happening: Happening) -> Option<Self> {
        use Happening::{ClaimDue, ClaimStored, HandedOver, Left, MoveStored, Moved, Recalled};
        use Phase::{Armed, Claimed, Claiming, InFlight, Leaving, Moving};
        Some(match (self, happening) {
            (Armed, ClaimDue) => Claiming,
            (Claiming, ClaimStored) => Claimed,
            (Claimed, HandedOver) => InFlight,
            (InFlight, Recalled) => Claimed,
            (Armed | Claiming | Claimed | InFlight | Moving, Moved) => Moving,
            (Moving, MoveStored) => Armed,
            (Armed | Claiming | Claimed | InFlight | Moving, Left) => Leaving,
            _ => return None,
        })
    }

    /// Whether the host may still take the post back or give it another due without asking its shard.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Armed | Self::Claiming | Self::Claimed | Self::Moving)
    }

    /// Whether something is under way that will end by itself.
    pub const fn is_busy(self) -> bool {
        !matches!(self, Self::Armed | Self::Claimed)
    }

    /// What the host is told.
    pub const fn state(self) -> State {
        match self {
            Self::InFlight | Self::Leaving => State::InFlight,
            Self::Armed | Self::Claiming | Self::Claimed | Self::Moving => State::Scheduled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Happening::*;
    use super::Phase::*;
    use super::*;

    const HAPPENINGS: [Happening; 7] = [ClaimDue, ClaimStored, HandedOver, Recalled, Moved, MoveStored, Left];

    #[test]
    fn the_only_way_into_flight_is_through_a_durable_claim() {
        for phase in Phase::ALL {
            for happening in HAPPENINGS {
                if phase.next(happening) == Some(InFlight) {
                    assert_eq!((phase, happening), (Claimed, HandedOver));
                }
                if phase.next(happening) == Some(Claimed) {
                    assert!(matches!((phase, happening), (Claiming, ClaimStored) | (InFlight, Recalled)));
                }
            }
        }
    }

    #[test]
    fn a_post_that_leaves_never_comes_back() {
        assert!(HAPPENINGS.iter().all(|happening| Leaving.next(*happening).is_none()));
    }

    #[test]
    fn every_phase_can_be_reached_and_left() {
        for to in Phase::ALL.into_iter().filter(|phase| *phase != Armed) {
            assert!(Phase::ALL.iter().any(|from| HAPPENINGS.iter().any(|h| from.next(*h) == Some(to))), "{to:?}");
        }
        for from in Phase::ALL.into_iter().filter(|phase| *phase != Leaving) {
            assert_eq!(from.next(Left), Some(Leaving));
        }
    }

    #[test]
    fn the_host_can_change_a_post_until_it_is_handed_over() {
        for phase in Phase::ALL {
            assert_eq!(phase.is_open(), phase.state() == State::Scheduled, "{phase:?}");
        }
    }
}
