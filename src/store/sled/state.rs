//! What became of posts after they were written: marks, their runs, and what they say of one day.
//!
//! ```text
//! entry  at 0, seq | tag u8: 0 moved | 1 released | 2, attempt varint, commit varint: claimed
//!                          | 3, now i64, attempts varint, outcome: settled
//! ```

use bytes::Bytes;
use roaring::RoaringTreemap;
use rustc_hash::FxHashMap;

use crate::error::StoreError;
use crate::id::{PoolId, Seq, SeqMap};
use crate::post::{Cursor, Home, Outcome, Shelf};
use crate::time::Timestamp;

use super::codec::{self, Reader};
use super::disk::Disk;
use super::run::{Run, RunReader};

const MICROS_OF_DAY: i64 = 86_400_000_000;

/// The day, counted from 1970, in which this instant lies; the first and the last one take what lies outside.
pub fn day(at: Timestamp) -> u32 {
    u32::try_from(at.micros().div_euclid(MICROS_OF_DAY).max(0)).unwrap_or(u32::MAX)
}

/// Whether this day lies on a shelf. Such days are many, with few posts each.
pub fn is_shelved(day: u32) -> bool {
    let end = (i64::from(day) + 1).saturating_mul(MICROS_OF_DAY);
    Shelf::of(Timestamp::from_micros(end - 1)).is_some()
}

/// The last thing that happened to a post at its home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    pub day: u32,
    pub pool: PoolId,
    pub what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    Released,
    Claimed { attempt: u32, commit: u64 },
    Settled { attempts: u32, now: Timestamp, outcome: Option<Box<Outcome>> },
}

impl Mark {
    pub fn new(home: Home, what: What) -> Self {
        Self { day: day(home.at), pool: home.pool, what }
    }
}

/// A claim of an earlier process, and the commit that made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub attempt: u32,
    pub commit: u64,
}

/// How a post ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    pub attempts: u32,
    pub now: Timestamp,
    pub outcome: Outcome,
}

impl What {
    /// A plain delivery, by far the most frequent outcome, takes no memory of its own.
    pub fn settled(attempts: u32, now: Timestamp, outcome: Outcome) -> Self {
        let plain = outcome == Outcome::Delivered(crate::post::Receipt::default());
        Self::Settled { attempts, now, outcome: (!plain).then(|| Box::new(outcome)) }
    }

    /// When the post ended, if it did.
    pub fn settled_at(&self) -> Option<Timestamp> {
        match self {
            Self::Settled { now, .. } => Some(*now),
            _ => None,
        }
    }

    pub fn as_settled(&self) -> Option<Settled> {
        match self {
            Self::Settled { attempts, now, outcome } => {
                let outcome = outcome.as_deref().cloned();
                let outcome = outcome.unwrap_or(Outcome::Delivered(crate::post::Receipt::default()));
                Some(Settled { attempts: *attempts, now: *now, outcome })
            }
            _ => None,
        }
    }
}

/// An entry of a state run. The post left its home for one of the same generation, or something happened there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateEntry {
    Moved,
    Marked(What),
}

/// Where an entry of this post is in a state run.
pub fn position(seq: Seq) -> Cursor {
    Cursor { at: Timestamp::from_micros(0), seq }
}

pub fn put_moved(out: &mut Vec<u8>) {
    out.push(0);
}

pub fn put_mark(out: &mut Vec<u8>, what: &What) {
    match what {
        What::Released => out.push(1),
        What::Claimed { attempt, commit } => {
            out.push(2);
            codec::put_varint(out, (*attempt).into());
            codec::put_varint(out, *commit);
        }
        What::Settled { attempts, now, outcome } => {
            out.push(3);
            out.extend_from_slice(&now.micros().to_le_bytes());
            codec::put_varint(out, (*attempts).into());
            match outcome {
                Some(outcome) => codec::put_outcome(out, outcome),
                None => codec::put_outcome(out, &Outcome::Delivered(crate::post::Receipt::default())),
            }
        }
    }
}

pub fn read_entry(content: &Bytes) -> Option<StateEntry> {
    let mut reader = Reader::new(content);
    Some(match reader.u8()? {
        0 => StateEntry::Moved,
        1 => StateEntry::Marked(What::Released),
        2 => StateEntry::Marked(What::Claimed { attempt: reader.number()?, commit: reader.varint()? }),
        3 => {
            let (now, attempts) = (Timestamp::from_micros(reader.i64()?), reader.number()?);
            StateEntry::Marked(What::settled(attempts, now, codec::read_outcome(&mut reader)?))
        }
        _ => return None,
    })
}

/// How the post ended, if the run says so.
pub fn find_settled(disk: &Disk, run: Run, blocks: u32, seq: Seq) -> Result<Option<Settled>, StoreError> {
    let wanted = position(seq);
    // Entries of one post may begin in the block before the one that begins with the post.
    let before = position(Seq(seq.0.saturating_sub(1)));
    let mut reader = RunReader::after(disk, run, 0, blocks, before)?;
    while let Some(at) = reader.advance(disk)? {
        if at > wanted {
            break;
        }
        if at == wanted {
            let entry = read_entry(&reader.content(disk)?).ok_or_else(|| reader.damaged(disk))?;
            if let StateEntry::Marked(what @ What::Settled { .. }) = entry {
                return Ok(what.as_settled());
            }
        }
    }
    Ok(None)
}

/// What has become of the posts whose homes lie in one day.
#[derive(Clone, Debug, Default)]
pub struct DayState {
    settled: RoaringTreemap,
    /// Posts that left, with the last generation into which they did: what older ones hold of them is void.
    moved: SeqMap<u32>,
    /// Claims of earlier processes.
    claims: SeqMap<Claim>,
}

impl DayState {
    /// Whether what this generation holds of the post is void.
    pub fn is_dead(&self, seq: Seq, generation: u32) -> bool {
        self.settled.contains(seq.0)
            || (!self.moved.is_empty() && self.moved.get(&seq).is_some_and(|moved| *moved > generation))
    }

    pub fn is_settled(&self, seq: Seq) -> bool {
        self.settled.contains(seq.0)
    }

    /// The claim of an earlier process.
    pub fn claim(&self, seq: Seq) -> Option<Claim> {
        self.claims.get(&seq).copied()
    }

    pub fn settle(&mut self, seq: Seq) {
        self.settled.insert(seq.0);
        self.forget_claim(seq);
    }

    /// The post left its home, for one that this generation holds.
    pub fn leave(&mut self, seq: Seq, generation: u32) {
        self.moved.insert(seq, generation);
        self.forget_claim(seq);
    }

    pub fn forget_claim(&mut self, seq: Seq) {
        if !self.claims.is_empty() {
            self.claims.remove(&seq);
        }
    }

    /// Takes in an entry of this generation; generations come in order. Claims of commits from `own_from` on are
    /// this process's own.
    pub fn take_in(&mut self, seq: Seq, generation: u32, entry: &StateEntry, own_from: u64) {
        match entry {
            StateEntry::Moved => self.leave(seq, generation),
            StateEntry::Marked(what) => self.take_mark(seq, what, own_from),
        }
    }

    pub fn take_mark(&mut self, seq: Seq, what: &What, own_from: u64) {
        match what {
            What::Claimed { attempt, commit } if *commit < own_from => {
                self.claims.insert(seq, Claim { attempt: *attempt, commit: *commit });
            }
            What::Claimed { .. } | What::Released => self.forget_claim(seq),
            What::Settled { .. } => self.settle(seq),
        }
    }
}

/// The days that were needed lately.
#[derive(Debug, Default)]
pub struct Days {
    due: Recent,
    /// Of their own, so that a look at a shelf does not cost the others their place.
    shelved: Recent,
}

impl Days {
    /// The state of this day, if it is here.
    pub fn get_mut(&mut self, day: u32) -> Option<&mut DayState> {
        let recent = self.recent(day);
        recent.uses += 1;
        let (state, used) = recent.days.get_mut(&day)?;
        *used = recent.uses;
        Some(state)
    }

    pub fn get(&self, day: u32) -> Option<&DayState> {
        let recent = if is_shelved(day) { &self.shelved } else { &self.due };
        recent.days.get(&day).map(|(state, _)| state)
    }

    /// Keeps a day; the one that was not needed for longest may have to go.
    pub fn insert(&mut self, day: u32, state: DayState) {
        let Recent { days, uses } = self.recent(day);
        if days.len() >= Recent::KEPT {
            let oldest = days.iter().min_by_key(|(_, (_, used))| *used).map(|(day, _)| *day);
            oldest.and_then(|day| days.remove(&day));
        }
        *uses += 1;
        days.insert(day, (state, *uses));
    }

    pub fn remove(&mut self, day: u32) {
        self.recent(day).days.remove(&day);
    }

    fn recent(&mut self, day: u32) -> &mut Recent {
        if is_shelved(day) { &mut self.shelved } else { &mut self.due }
    }
}

#[derive(Debug, Default)]
struct Recent {
    days: FxHashMap<u32, (DayState, u64)>,
    uses: u64,
}

impl Recent {
    const KEPT: usize = 40;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_reaches_onto_a_shelf_lies_there_and_no_day_of_dues_does() {
        let (after, _) = Shelf::Queued.range();
        let first = day(Timestamp::from_micros(after.at.micros() + 1));
        assert!(is_shelved(first) && is_shelved(first + 1) && !is_shelved(first - 1));
        assert!(!is_shelved(day(Timestamp::from_millis(crate::limits::DUE_MAX_MILLIS))) && !is_shelved(0));
        assert!(is_shelved(day(Shelf::Held.place(Timestamp::MIN, "shop"))));
    }

    #[test]
    fn only_what_has_ended_ended_at_some_time() {
        let now = Timestamp::from_millis(5);
        let settled = What::settled(1, now, Outcome::Cancelled);
        assert_eq!((settled.settled_at(), What::Released.settled_at()), (Some(now), None));
        assert_eq!(settled.as_settled().map(|settled| settled.outcome), Some(Outcome::Cancelled));
    }

    #[test]
    fn days_that_were_needed_lately_are_kept() {
        let mut days = Days::default();
        let kept = |days: &Days| (0..200).filter(|day| days.get(*day).is_some()).collect::<Vec<_>>();
        (0..Recent::KEPT as u32).for_each(|day| days.insert(day, DayState::default()));
        assert_eq!(kept(&days).len(), Recent::KEPT);
        assert!(days.get_mut(0).is_some());
        days.insert(100, DayState::default());
        days.insert(101, DayState::default());
        let expected: Vec<u32> = [0].into_iter().chain(3..Recent::KEPT as u32).chain([100, 101]).collect();
        assert_eq!(kept(&days), expected, "1 and 2 were not needed for longest");
        days.remove(100);
        assert!(days.get(100).is_none());
    }
}
