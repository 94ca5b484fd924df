//! What the network and the host have seen of each post, in one byte.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::script::{Fate, Part, Script};

/// Scheduling it was confirmed.
pub const STORED: u8 = 1;
/// Its broadcaster was called.
pub const CALLED: u8 = 2;
/// The network has published it.
pub const SENT: u8 = 4;
/// The host's change was confirmed.
pub const CHANGED: u8 = 8;
/// The engine said what came of it.
pub const ENDED: u8 = 16;
/// The network has said that a call did not publish it, and keeps to that.
pub const DENIED: u8 = 32;

/// Made at its full size, so that it does not grow.
pub struct Ledger {
    posts: Vec<AtomicU8>,
    /// Posts of which the engine said what came of them, by outcome.
    pub ended: [AtomicU64; 4],
    pub faults: Faults,
}

/// What must be none.
#[derive(Default)]
pub struct Faults {
    pub early: AtomicU64,
    pub twice: AtomicU64,
    /// Sent although it was cancelled, missed, or refused, or with an old payload.
    pub against_the_change: AtomicU64,
    /// Not sent, without a reason.
    pub lost: AtomicU64,
    /// What the engine said of it is not what happened.
    pub misreported: AtomicU64,
}

impl Faults {
    pub fn rows(&self) -> [(&'static str, u64); 5] {
        let of = |faults: &AtomicU64| faults.load(Relaxed);
        [
            ("early", of(&self.early)),
            ("sent twice", of(&self.twice)),
            ("sent against a change", of(&self.against_the_change)),
            ("lost", of(&self.lost)),
            ("misreported", of(&self.misreported)),
        ]
    }

    pub fn count(&self) -> u64 {
        self.rows().iter().map(|(_, faults)| faults).sum()
    }
}

/// Counts a fault; the first ones are shown.
pub fn fault(faults: &AtomicU64, part: &Part, what: fmt::Arguments<'_>) {
    if faults.fetch_add(1, Relaxed) < 5 {
        eprintln!("post {} ({:?}, {}, due {}): {what}", part.number, part.fate, part.pool, part.due);
    }
}

impl Ledger {
    pub fn new(posts: u64) -> Self {
        let posts = (0..posts).map(|_| AtomicU8::new(0)).collect();
        Self { posts, ended: Default::default(), faults: Faults::default() }
    }

    /// How many posts there is room for.
    pub fn len(&self) -> u64 {
        self.posts.len() as u64
    }

    /// Adds a mark, and says what was there before. A post that was never scheduled has every mark.
    pub fn mark(&self, number: u64, mark: u8) -> u8 {
        self.posts.get(number as usize).map_or(u8::MAX, |post| post.fetch_or(mark, SeqCst))
    }

    pub fn has(&self, number: u64, mark: u8) -> bool {
        self.posts.get(number as usize).is_some_and(|post| post.load(SeqCst) & mark == mark)
    }

    pub fn all_ended(&self) -> u64 {
        self.ended.iter().map(|ended| ended.load(Relaxed)).sum()
    }

    /// Judges the posts up to `end` when all is over, and says how many of them are still to come.
    pub fn judge(&self, script: &Script, end: u64) -> u64 {
        let mut to_come = 0;
        for number in 0..end {
            let part = script.part(number);
            let [is_sent, is_called, is_changed, is_ended, is_stored] =
                [SENT, CALLED, CHANGED, ENDED, STORED].map(|mark| self.has(number, mark));
            let is_far = part.fate == Fate::Far || part.fate == Fate::FarCancelled && !is_changed;
            to_come += u64::from(is_far);
            let is_void = match part.fate {
                Fate::Refused | Fate::Missed | Fate::Far => true,
                Fate::Cancelled | Fate::FarCancelled => is_changed,
                _ => false,
            };
            if !is_stored {
                fault(&self.faults.lost, &part, format_args!("was not stored"));
            } else if is_sent && is_void || is_called && is_void && part.fate != Fate::Refused {
                fault(&self.faults.against_the_change, &part, format_args!("was sent all the same"));
            } else if !is_sent && !is_void && !is_far {
                fault(&self.faults.lost, &part, format_args!("was not sent"));
            }
            // Of what is cancelled or missed the engine names only its own number.
            let is_named = is_sent || part.fate == Fate::Refused;
            if is_stored && is_named != is_ended {
                fault(&self.faults.misreported, &part, format_args!("sent: {is_sent}, said to be: {is_ended}"));
            }
        }
        to_come
    }
}
