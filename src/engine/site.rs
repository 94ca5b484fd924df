//! What there is of one pool: its window, and what holds its posts up.

use std::collections::{BTreeMap, HashMap};

use rustc_hash::FxBuildHasher;

use crate::catch_up::Gaps;
use crate::id::Seq;
use crate::reply::Promise;
use crate::time::Timestamp;

use super::PoolSettings;
use super::late::Spread;
use super::queues::Managed;
use super::window::Window;

/// One pool, as it is at the moment.
#[derive(Debug)]
pub struct Site {
    pub window: Window,
    pub is_paused: bool,
    /// Whether all attempts that earlier processes may have made have been counted.
    pub is_counted: bool,
    /// Profiles that are held, or are just being released.
    pub held: HashMap<Box<str>, Hold, FxBuildHasher>,
    /// Posts whose time has come but that have to wait: the pool is paused, or earlier attempts are being counted.
    pub waiting: Vec<(u32, Seq)>,
    /// Posts that are late, and are to be spread.
    pub late: Vec<(u32, Seq)>,
    pub spread: Spread,
    /// What is due later than this has been held up by no downtime, pause or jump of the clock.
    pub awake_since: Timestamp,
    pub gaps: Gaps,
    pub lines: HashMap<Box<str>, Line, FxBuildHasher>,
    pub queues: HashMap<Box<str>, Managed, FxBuildHasher>,
    /// Whether its posts are being listed for queues that are new.
    pub is_listing_taken: bool,
}

/// Why a profile's posts wait.
#[derive(Debug)]
pub enum Hold {
    /// It is held, for this reason: what becomes due is put on a shelf.
    Held(String),
    /// It is being released: its posts are being taken from the shelf, and those that become due wait for them.
    Releasing(Vec<Promise<()>>),
}

impl Hold {
    /// Those who wait for the release.
    pub fn take_promises(&mut self) -> Vec<Promise<()>> {
        match self {
            Self::Held(_) => Vec::new(),
            Self::Releasing(promises) => std::mem::take(promises),
        }
    }
}

/// The posts of one profile that go out in order.
#[derive(Debug, Default)]
pub struct Line {
    /// By due, then by number: where they are.
    pub posts: BTreeMap<(Timestamp, Seq), u32>,
    /// The one that is in flight.
    pub going: Option<Seq>,
}

impl Site {
    /// The site of this pool from now on, after a process that committed something last at this time.
    pub fn new(pool: &PoolSettings, last_commit_at: Timestamp, now: Timestamp) -> Self {
        Self {
            window: Window::default(),
            is_paused: false,
            is_counted: false,
            held: HashMap::default(),
            waiting: Vec::new(),
            late: Vec::new(),
            spread: Spread::default(),
            awake_since: now,
            gaps: Gaps::new(&pool.catch_up, last_commit_at),
            lines: HashMap::default(),
            queues: HashMap::default(),
            is_listing_taken: false,
        }
    }
}
