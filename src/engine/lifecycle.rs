//! The state table: what may happen to a post in memory, and where it leads.

use crate::id::State;

/// Where a resident post is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Waits for the moment at which it is prepared or claimed, or for what holds it up.
    Armed,
    /// Handed over to be prepared.
    Preparing,
    /// Its claim is on the way to the store.
    Claiming,
    /// Its claim is durable; waits in the wheel until it is nearly due.
    Claimed,
    /// Handed over to its shard.
    InFlight,
    /// Its new home is on the way to the store: it was changed, or will be tried again.
    Moving,
    /// The same, and the next attempt is claimed with it.
    MovingOn,
    /// Its outcome is on the way to the store.
    Leaving,
}

/// What happens to a resident post.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Happening {
    /// The moment to prepare it has come.
    PrepareDue,
    /// It is prepared, or could not be.
    PrepareEnded,
    /// The moment to write its claim has come.
    ClaimDue,
    /// Its claim is durable.
    ClaimStored,
    /// It is nearly due.
    HandedOver,
    /// It was taken back from its shard before the broadcaster was called.
    Withdrawn,
    /// Its claim is taken back.
    Released,
    /// It gets another home.
    Moved,
    /// It gets another home, where its next attempt is claimed.
    MovedOn,
    /// Its last new home is durable.
    MoveStored,
    /// It gets an outcome.
    Left,
}

impl Phase {
    #[cfg(test)]
    pub const ALL: [Self; 8] = [
        Self::Armed,
        Self::Preparing,
        Self::Claiming,
        Self::Claimed,
        Self::InFlight,
        Self::Moving,
        Self::MovingOn,
        Self::Leaving,
    ];

    /// The phase after this happening; `None` if it cannot happen in this phase and must change nothing.
    pub const fn next(self, happening: Happening) -> Option<Self> {
        use Happening::{
            ClaimDue, ClaimStored, HandedOver, Left, MoveStored, Moved, MovedOn, PrepareDue, PrepareEnded, Released,
            Withdrawn,
        };
        use Phase::{Armed, Claimed, Claiming, InFlight, Leaving, Moving, MovingOn, Preparing};
        Some(match (self, happening) {
            (Armed, PrepareDue) => Preparing,
            (Preparing, PrepareEnded) => Armed,
            (Armed, ClaimDue) => Claiming,
            (Claiming, ClaimStored) => Claimed,
            (Claimed, HandedOver) => InFlight,
            (InFlight, Withdrawn) => Claimed,
            (Claimed, Released) => Armed,
            (Leaving, _) => return None,
            (_, Moved) => Moving,
            (InFlight, MovedOn) => MovingOn,
            (Moving, MoveStored) => Armed,
            (MovingOn, MoveStored) => Claimed,
            (_, Left) => Leaving,
            _ => return None,
        })
    }

    /// Whether the host may still take the post back or change it without asking whether it has been called.
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::InFlight | Self::Leaving)
    }

    /// Whether something is under way that will end by itself.
    pub const fn is_busy(self) -> bool {
        !matches!(self, Self::Armed | Self::Claimed)
    }

    /// What the host is told.
    pub const fn state(self) -> State {
        if self.is_open() { State::Scheduled } else { State::InFlight }
    }
}

#[cfg(test)]
mod tests {
    use super::Happening::*;
    use super::Phase::*;
    use super::*;

    const HAPPENINGS: [Happening; 11] = [
        PrepareDue,
        PrepareEnded,
        ClaimDue,
        ClaimStored,
        HandedOver,
        Withdrawn,
        Released,
        Moved,
        MovedOn,
        MoveStored,
        Left,
    ];

    /// All steps that there are.
    fn steps() -> impl Iterator<Item = (Phase, Happening, Phase)> {
        let pairs = Phase::ALL.into_iter().flat_map(|phase| HAPPENINGS.map(|happening| (phase, happening)));
        pairs.filter_map(|(phase, happening)| Some((phase, happening, phase.next(happening)?)))
    }

    #[test]
    fn the_only_way_into_flight_is_through_a_durable_claim() {
        for (phase, happening, next) in steps() {
            if next == InFlight {
                assert_eq!((phase, happening), (Claimed, HandedOver));
            }
            if next == Claimed {
                let ways = [(Claiming, ClaimStored), (InFlight, Withdrawn), (MovingOn, MoveStored)];
                assert!(ways.contains(&(phase, happening)), "{phase:?} {happening:?}");
            }
        }
    }

    #[test]
    fn a_post_that_leaves_never_comes_back() {
        assert!(steps().all(|(phase, ..)| phase != Leaving));
    }

    #[test]
    fn every_phase_can_be_reached_and_left() {
        for to in Phase::ALL.into_iter().filter(|phase| *phase != Armed) {
            assert!(steps().any(|(from, _, next)| from != to && next == to), "{to:?}");
        }
        for from in Phase::ALL.into_iter().filter(|phase| *phase != Leaving) {
            assert_eq!(from.next(Left), Some(Leaving));
        }
    }

    #[test]
    fn nothing_stays_busy_for_ever() {
        for phase in Phase::ALL.into_iter().filter(|phase| phase.is_busy() && *phase != Leaving) {
            let quiet = |phase: Phase| HAPPENINGS.iter().filter_map(move |happening| phase.next(*happening));
            assert!(
                quiet(phase).any(|next| !next.is_busy()) || quiet(phase).flat_map(quiet).any(|next| !next.is_busy())
            );
        }
    }

    #[test]
    fn the_host_can_change_a_post_unless_it_is_called_or_leaves() {
        for phase in Phase::ALL {
            assert_eq!(phase.is_open(), phase.state() == State::Scheduled, "{phase:?}");
            assert_eq!(phase.is_open(), !matches!(phase, InFlight | Leaving));
        }
    }
}
