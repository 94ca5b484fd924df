//! The names of posts, pools and states.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::str::FromStr;

/// The name of one scheduled post, unique across stores: 64 bits that name the store, 64 bits that count.
///
/// It is written as 32 hexadecimal digits. Ids of one store sort in the order in which the posts were
/// scheduled. Keep the id to cancel, re-time or look up the post later, or give the post a key of your own
/// ([`Post::key`](crate::Post::key)).
///
/// ```
/// let id: punctual::PostId = "9f3c2a71b0de4c550000000000000007".parse()?;
/// assert_eq!(id.to_string(), "9f3c2a71b0de4c550000000000000007");
/// # Ok::<(), punctual::ParseIdError>(())
/// ```
///
/// With the feature `serde` it is serialised as that text.
///
/// ```
/// # #[cfg(feature = "serde")] {
/// let id: punctual::PostId = serde_json::from_str("\"9f3c2a71b0de4c550000000000000007\"").unwrap();
/// assert_eq!(serde_json::to_string(&id).unwrap(), "\"9f3c2a71b0de4c550000000000000007\"");
/// assert!(serde_json::from_str::<punctual::PostId>("\"12\"").is_err());
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostId {
    store: u64,
    seq: Seq,
}

impl PostId {
    pub(crate) const fn new(store: u64, seq: Seq) -> Self {
        Self { store, seq }
    }

    pub(crate) const fn store(self) -> u64 {
        self.store
    }

    pub(crate) const fn seq(self) -> Seq {
        self.seq
    }

    /// The id as one number, for hosts that keep it in a column of their own.
    pub const fn as_u128(self) -> u128 {
        (self.store as u128) << 64 | self.seq.0 as u128
    }

    /// The id that [`as_u128`](Self::as_u128) gave.
    pub const fn from_u128(id: u128) -> Self {
        Self { store: (id >> 64) as u64, seq: Seq(id as u64) }
    }
}

impl fmt::Display for PostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.store, self.seq.0)
    }
}

impl fmt::Debug for PostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostId({self})")
    }
}

/// The text is not the id of a post: 32 hexadecimal digits are expected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{given:?} is not a post id: expected 32 hexadecimal digits")]
pub struct ParseIdError {
    given: String,
}

impl FromStr for PostId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(id) if digits => Ok(Self::from_u128(id)),
            _ => Err(ParseIdError { given: text.chars().take(64).collect() }),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for PostId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for PostId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A post's number within its store, given in the order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Seq(pub u64);

/// Things by their post's number.
pub type SeqMap<V> = HashMap<Seq, V, BuildHasherDefault<SeqHasher>>;

/// Hashes numbers so that neighbours lie beside each other in a table: what arrived together is mostly due together,
/// and so one cache line after another is touched instead of one for each post.
#[derive(Clone, Default, Debug)]
pub struct SeqHasher(u64);

impl Hasher for SeqHasher {
    fn write_u64(&mut self, number: u64) {
        // Blocks of 64 are scattered over the table; within one each number has its own place. The highest bits,
        // by which a table tells entries of one place apart, are mixed from all.
        let mix = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let block = mix(number >> 6);
        let place = (block >> 32 ^ block) << 6 | number & 63;
        self.0 = mix(number) & 0x7F << 57 | place & !(0x7F << 57);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte)));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A pool's number within its store; the store remembers which name it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolId(pub u16);

/// Where a post is in its life. The table of what leads where is in ARCHITECTURE.md.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum State {
    /// Stored, waits for its due or for its next attempt.
    Scheduled,
    /// Stored, waits in its profile's queue for a slot.
    Queued,
    /// Handed over to its pool; its outcome is not durable yet.
    InFlight,
    /// Due, but its profile is held: it waits until the host releases the profile.
    Held,
    /// Nobody knows whether it was published. It waits for its next attempt, which begins by asking the network; or, if that
    /// could not tell and its guarantee is at most once, until the host says what is true.
    InDoubt,
    /// Its broadcaster said that it is published. Final.
    Delivered,
    /// A dead letter: refused for good, or all attempts used up. Final, unless the host has it sent again.
    Failed,
    /// Its due passed by more than it allows. Final.
    Missed,
    /// Taken back by the host. Final.
    Cancelled,
}

impl State {
    /// Whether nothing more will happen to the post by itself.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Missed | Self::Cancelled)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::InFlight => "in flight",
            Self::Held => "held",
            Self::InDoubt => "in doubt",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Missed => "missed",
            Self::Cancelled => "cancelled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_id_survives_its_text_and_other_texts_are_refused() {
        let id = PostId::new(u64::MAX - 1, Seq(42));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(PostId::from_u128(id.as_u128()), id);
        for bad in ["", "12", "+f3c2a71b0de4c550000000000000007", &"f".repeat(33), "zz3c2a71b0de4c550000000000000007"] {
            assert!(bad.parse::<PostId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_state_is_said_in_words() {
        use State::*;
        let words =
            [Scheduled, Queued, InFlight, Held, InDoubt, Delivered, Failed, Missed, Cancelled].map(|s| s.to_string());
        let expected = "scheduled,queued,in flight,held,in doubt,delivered,failed,missed,cancelled";
        assert_eq!(words.join(","), expected);
    }

    #[test]
    fn numbers_are_spread_whatever_their_distance_and_neighbours_stay_together() {
        let hash = |number: u64| {
            let mut hasher = SeqHasher::default();
            hasher.write_u64(number);
            hasher.finish()
        };
        let is_next = |number| number % 64 == 63 || hash(number + 1) % 4_096 == hash(number) % 4_096 + 1;
        assert!((0..10_000).all(is_next));
        let told_apart: HashSet<u64> = (0..4_096).map(|number| hash(number) >> 57).collect();
        assert_eq!(told_apart.len(), 128, "the highest bits are of use");
        for distance in [1, 2, 3, 64, 480, 1_024, 1 << 20, 1 << 40] {
            // As a table of 8,192 places with groups of 16 sees them, half full.
            let mut groups = vec![0; 512];
            (0..4_096).for_each(|number| groups[(hash(number * distance) % 8_192 / 16) as usize] += 1);
            let most = groups.into_iter().max();
            assert!(most <= Some(160), "{most:?} of 4,096 in one group of 512, {distance} apart");
        }
    }
}
