//! What is done with each post. All of it follows from the post's number, so that nobody has to remember it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use punctual::{Post, Priority};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub const QUICK: &str = "quick";
pub const SLOW: &str = "slow";
pub const LIMITED: &str = "limited";
pub const BLOCKING: &str = "blocking";

/// The host has at least so long to change its mind.
const LEAST_AHEAD: Duration = Duration::from_secs(2);
/// So long after it was scheduled a post is changed.
pub const CHANGED_AFTER: Duration = Duration::from_secs(1);
const PROFILES: u32 = 1_000;
const PAYLOAD_BYTES: usize = 120;

/// What happens to a post, beside that it is sent at its due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Nothing,
    InOrder,
    /// The first attempt fails.
    Fails,
    Throttled,
    /// The network never takes it.
    Refused,
    /// The network publishes it, and the answer is lost.
    AnswerLost,
    /// The network does not publish it, and nobody is told.
    RequestLost,
    /// The first attempt takes longer than the timeout.
    Hangs,
    Cancelled,
    /// The host gives it a later due.
    Later,
    /// The host gives it an earlier due.
    Sooner,
    Edited,
    /// The host publishes it before its due.
    Now,
    /// The host schedules it a second time, by its key.
    Repeated,
    /// It is of no use any more before it is due.
    Missed,
    /// Its due is a month ahead.
    Far,
    FarCancelled,
}

impl Fate {
    fn draw(draw: u32) -> Self {
        match draw {
            0..20 => Self::InOrder,
            20..40 => Self::Fails,
            40..45 => Self::Refused,
            45..48 => Self::AnswerLost,
            48..51 => Self::RequestLost,
            51..52 => Self::Hangs,
            52..72 => Self::Cancelled,
            72..82 => Self::Later,
            82..92 => Self::Sooner,
            92..107 => Self::Edited,
            107..112 => Self::Now,
            112..117 => Self::Repeated,
            117..120 => Self::Missed,
            120..122 => Self::Far,
            122..125 => Self::FarCancelled,
            125..130 => Self::Throttled,
            _ => Self::Nothing,
        }
    }

    /// Whether the host does something about it after it was scheduled.
    pub fn is_changed(self) -> bool {
        use Fate::{Cancelled, Edited, FarCancelled, Later, Now, Repeated, Sooner};
        matches!(self, Cancelled | FarCancelled | Later | Sooner | Edited | Now | Repeated)
    }

    /// Whether it goes out at the due it was scheduled for, so that its lateness says something.
    pub fn is_punctual(self) -> bool {
        use Fate::{InOrder, Later, Now, Sooner};
        !matches!(self, Later | Sooner | Now | InOrder)
    }
}

/// What there is to know of one post.
pub struct Part {
    pub number: u64,
    pub fate: Fate,
    pub pool: &'static str,
    profile: u32,
    pub due: DateTime<Utc>,
    /// Where the host moves it, if it does.
    pub moved: DateTime<Utc>,
    has_key: bool,
}

/// A steady stream of posts.
#[derive(Clone)]
pub struct Script {
    pub start: DateTime<Utc>,
    /// Posts in a second of the machine.
    pub rate: u64,
    /// How fast the clock goes.
    pub speed: u32,
    /// Dues are at most so far ahead, but for those a month ahead.
    pub longest: Duration,
}

impl Script {
    /// The first post that is to be scheduled later than this.
    pub fn reached(&self, now: DateTime<Utc>) -> u64 {
        let micros = (now - self.start).num_microseconds().unwrap_or(0).max(0) as u64 / u64::from(self.speed);
        (u128::from(micros) * u128::from(self.rate) / 1_000_000) as u64
    }

    pub fn part(&self, number: u64) -> Part {
        let mut random = StdRng::seed_from_u64(number);
        let fate = Fate::draw(random.random_range(0..1_000));
        let pool = match random.random_range(0..100) {
            // A throttle holds up others: not where lateness is watched.
            _ if fate == Fate::Throttled => LIMITED,
            0..60 => QUICK,
            60..80 => SLOW,
            80..95 => LIMITED,
            _ => BLOCKING,
        };
        let profile = random.random_range(0..PROFILES);
        let longest = match random.random_range(0..100) {
            0..70 => self.longest / 10,
            70..95 => self.longest / 2,
            _ => self.longest,
        };
        let mut ahead =
            |longest: Duration| Duration::from_millis(random.random_range(0..=longest.as_millis() as u64)) * self.speed;
        let scheduled =
            self.start + TimeDelta::microseconds((number * 1_000_000 / self.rate) as i64) * self.speed as i32;
        let month =
            if matches!(fate, Fate::Far | Fate::FarCancelled) { TimeDelta::days(30) } else { TimeDelta::zero() };
        let soon = scheduled + LEAST_AHEAD * self.speed;
        let due = whole_millis(soon + ahead(longest) + month);
        let moved = match fate {
            Fate::Later => whole_millis(due + LEAST_AHEAD * self.speed),
            Fate::Sooner => whole_millis(soon + (due - soon) / 2),
            _ => due,
        };
        let has_key = number.is_multiple_of(4) || fate.is_changed() || fate == Fate::Far;
        Part { number, fate, pool, profile, due, moved, has_key }
    }
}

/// Dues are whole milliseconds, rounded up.
fn whole_millis(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at.timestamp_millis() + 1).unwrap_or(at)
}

impl Part {
    pub fn key(&self) -> String {
        format!("post-{}", self.number)
    }

    pub fn post(&self) -> Post {
        let priority = if self.number.is_multiple_of(50) { Priority::HIGH } else { Priority::NORMAL };
        let post = Post::new(self.pool, self.payload(false)).at(self.due).priority(priority);
        let post = post.profile(format!("profile-{}", self.profile));
        let post = if self.has_key { post.key(self.key()) } else { post };
        match self.fate {
            Fate::InOrder => post.in_order(),
            Fate::Missed => post.not_later_than(self.due - TimeDelta::milliseconds(1)),
            _ => post,
        }
    }

    /// What is to be published: its number, and whether it is the edited form.
    pub fn payload(&self, is_edited: bool) -> Vec<u8> {
        let mut payload = vec![b'.'; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&self.number.to_le_bytes());
        payload[8] = u8::from(is_edited);
        payload
    }

    /// The number in a payload, and whether it is the edited form.
    pub fn read(payload: &[u8]) -> Option<(u64, bool)> {
        let (number, rest) = payload.split_first_chunk::<8>()?;
        Some((u64::from_le_bytes(*number), *rest.first()? == 1))
    }

    /// It may be sent from then on, if the host's change was or was not confirmed.
    pub fn earliest(&self, is_changed: bool) -> DateTime<Utc> {
        match self.fate {
            Fate::Later if is_changed => self.moved,
            // While the answer is on its way both are right.
            Fate::Sooner => self.moved,
            Fate::Now => DateTime::<Utc>::MIN_UTC,
            _ => self.due,
        }
    }
}
