//! Time enters here and nowhere else: the one file that reads the clocks of the machine.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, TimeDelta, Utc};

use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, Thread};
use crate::time::{Now, Timestamp, Wake};

/// Where the time comes from: [`SystemClock`] in production, [`ManualClock`] in a host's tests.
///
/// The trait is sealed: its methods are the engine's own.
pub trait Clock: source::Source {}

pub(crate) mod source {
    use super::{Bell, Now, Wake};
    use crate::time::Timestamp;

    pub trait Source: Send + Sync + 'static {
        /// Both clocks, read together.
        fn now(&self) -> Now;

        /// The wall clock alone.
        fn wall(&self) -> Timestamp {
            self.now().wall
        }

        /// Returns when either clock reaches what is asked, or when the bell rings; or earlier.
        fn wait(&self, until: Wake, bell: &Bell);

        /// Rings this bell whenever the clock is moved by hand.
        fn attach(&self, bell: Bell) {
            drop(bell);
        }
    }
}

/// How long a wait may go on without looking at the wall clock: it may have stepped.
const LOOK: Duration = Duration::from_millis(100);
/// The end of a wait that is spent spinning: the operating system wakes a thread about this much late.
const SPIN: Duration = Duration::from_micros(70);

/// The clocks of the machine.
#[derive(Clone, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: instant() }
    }
}

impl Clock for SystemClock {}

impl source::Source for SystemClock {
    fn now(&self) -> Now {
        read_together(|| self.wall(), || self.start.elapsed())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall(&self) -> Timestamp {
        timestamp(SystemTime::now())
    }

    fn wait(&self, until: Wake, bell: &Bell) {
        let now = self.now();
        let wall = until.wall.map(|at| at.since(now.wall));
        let mono = until.mono.map(|at| at.saturating_sub(now.mono));
        let Some(left) = (Wake { wall: None, mono: wall }).or(Wake { wall: None, mono }).mono else {
            bell.nap(Duration::MAX);
            return;
        };
        let (end, spin) = if left > LOOK { (now.mono + LOOK, Duration::ZERO) } else { (now.mono + left, SPIN) };
        // A nap may end early without a ring.
        loop {
            let left = end.saturating_sub(self.start.elapsed());
            if left <= spin {
                break;
            }
            if bell.nap(left - spin) {
                return;
            }
        }
        while self.start.elapsed() < end && !bell.has_rung() {
            std::hint::spin_loop();
        }
    }
}

/// Reads both clocks. A thread that is suspended between the two readings would see a step that never was: then they are
/// read again, up to four times in all.
fn read_together(mut wall: impl FnMut() -> Timestamp, mut mono: impl FnMut() -> Duration) -> Now {
    let mut tries = 0;
    loop {
        let before = mono();
        let (wall, mono) = (wall(), mono());
        tries += 1;
        if mono - before < Duration::from_millis(1) || tries == 4 {
            return Now { wall, mono, machine: mono };
        }
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(match time.duration_since(UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => -micros(before.duration()),
    })
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn instant() -> Instant {
    Instant::now()
}

/// Time since the first call, on the monotonic clock of the machine, whatever clock the scheduler was given:
/// for watching over threads, which run in the machine's time.
pub(crate) fn machine_time() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(instant).elapsed()
}

/// A clock that stands still until a test moves it. Clones show the same time.
///
/// ```
/// use punctual::{ManualClock, MemoryStore, Outcome, Pool, Post, Receipt, Scheduler};
/// use std::time::Duration;
///
/// let clock = ManualClock::at("2030-01-07T07:59:00Z".parse()?);
/// let broadcaster = |_| async { Ok(Receipt::default()) };
/// let scheduler = Scheduler::builder()
///     .store(MemoryStore::default())
///     .clock(clock.clone())
///     .pool(Pool::new("p", broadcaster))
///     .start()?;
/// let eight = "2030-01-07T08:00:00Z".parse::<chrono::DateTime<chrono::Utc>>()?;
/// let id = scheduler.schedule(Post::new("p", "sharp").at(eight)).wait()?;
///
/// clock.advance(Duration::from_secs(60));
/// assert!(matches!(scheduler.outcome(id).wait()?, Outcome::Delivered(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ManualClock {
    hands: Arc<Mutex<Hands>>,
}

struct Hands {
    wall: Timestamp,
    mono: Duration,
    bells: Vec<Bell>,
}

impl ManualClock {
    /// A clock that shows this instant.
    pub fn at(now: DateTime<Utc>) -> Self {
        let hands = Hands { wall: Timestamp::from_datetime(now), mono: Duration::ZERO, bells: Vec::new() };
        Self { hands: Arc::new(Mutex::new(hands)) }
    }

    /// The instant it shows.
    pub fn now(&self) -> DateTime<Utc> {
        self.lock().wall.to_datetime()
    }

    /// Lets this much time pass. What becomes due is sent by the scheduler's own threads: await the outcome,
    /// or [`Scheduler::settle`](crate::Scheduler::settle).
    pub fn advance(&self, by: Duration) {
        self.turn(|hands| {
            hands.wall = hands.wall.after(by);
            hands.mono = hands.mono.saturating_add(by);
        });
    }

    /// Steps the wall clock, forward or back, while no time passes: what an administrator or NTP does.
    pub fn step(&self, by: TimeDelta) {
        let micros = by.num_microseconds().unwrap_or(if by > TimeDelta::zero() { i64::MAX } else { i64::MIN });
        self.turn(|hands| hands.wall = Timestamp::from_micros(hands.wall.micros().saturating_add(micros)));
    }

    fn turn(&self, turn: impl FnOnce(&mut Hands)) {
        let mut hands = self.lock();
        turn(&mut hands);
        hands.bells.iter().for_each(Bell::ring);
    }

    fn lock(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({})", self.now())
    }
}

impl Clock for ManualClock {}

impl source::Source for ManualClock {
    fn now(&self) -> Now {
        let hands = self.lock();
        Now { wall: hands.wall, mono: hands.mono, machine: machine_time() }
    }

    fn wait(&self, until: Wake, bell: &Bell) {
        let now = source::Source::now(self);
        let reached = until.wall.is_some_and(|at| at <= now.wall) || until.mono.is_some_and(|at| at <= now.mono);
        if !reached {
            bell.nap(LOOK);
        }
    }

    fn attach(&self, bell: Bell) {
        self.lock().bells.push(bell);
    }
}

/// What a loop does after a turn.
#[derive(Debug)]
pub(crate) enum Next {
    /// There is more to do.
    Again,
    /// There is nothing to do at once, but there will be in a moment.
    Yield,
    /// There is nothing to do before this.
    Wait(Wake),
    /// The loop is over.
    End,
}

impl Next {
    /// Does it; false if the loop is over.
    pub fn go_on(self, clock: &dyn Clock, bell: &Bell) -> bool {
        match self {
            Self::Again => {}
            Self::Yield => thread::yield_now(),
            Self::Wait(until) => clock.wait(until, bell),
            Self::End => return false,
        }
        true
    }
}

/// Wakes one thread. A ring while the thread is awake ends its next nap at once, so none is missed.
#[derive(Clone, Default)]
pub struct Bell(Arc<BellState>);

#[derive(Default)]
struct BellState {
    rung: AtomicBool,
    sleeper: OnceLock<Thread>,
}

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        if !self.0.rung.swap(true, Ordering::AcqRel)
            && let Some(sleeper) = self.0.sleeper.get()
        {
            sleeper.unpark();
        }
    }

    /// Whether it has rung since the last nap.
    pub fn has_rung(&self) -> bool {
        self.0.rung.load(Ordering::Acquire)
    }

    /// Sleeps until the bell rings, or for so long, or a little less; true if it rang. Only one thread, always
    /// the same, may nap at one bell.
    pub fn nap(&self, at_most: Duration) -> bool {
        self.0.sleeper.get_or_init(thread::current);
        if self.0.rung.swap(false, Ordering::AcqRel) {
            return true;
        }
        if at_most == Duration::MAX {
            thread::park();
        } else if !at_most.is_zero() {
            thread::park_timeout(at_most);
        }
        self.0.rung.swap(false, Ordering::AcqRel)
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("rung", &self.has_rung()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::source::Source;
    use super::*;

    #[test]
    fn a_wait_never_ends_early_by_itself_and_ends_within_a_millisecond_mostly() {
        let clock = SystemClock::default();
        let bell = Bell::default();
        let mut waits = 0;
        let mut late: Vec<Duration> = (0..50)
            .map(|i| {
                let at = clock.wall().after(Duration::from_micros(1_500 + 37 * i));
                while clock.wall() < at {
                    clock.wait(Wake { wall: Some(at), mono: None }, &bell);
                    waits += 1;
                }
                clock.wall().since(at)
            })
            .collect();
        late.sort_unstable();
        assert!(waits < 150, "{waits} waits for 50 instants");
        assert!(late[late.len() / 2] < Duration::from_millis(1), "half of the waits were {:?} late", late[25]);
    }

    #[test]
    fn a_long_wait_looks_at_the_wall_clock_every_100_milliseconds() {
        let clock = SystemClock::default();
        let before = clock.now();
        clock.wait(Wake { wall: Some(before.wall.after(Duration::from_secs(3_600))), mono: None }, &Bell::default());
        let waited = clock.now().mono - before.mono;
        assert!(waited < Duration::from_secs(30), "a step would have been noticed after {waited:?}");
    }

    #[test]
    fn clocks_between_whose_readings_the_thread_stood_still_are_read_again() {
        // What the monotonic clock shows at each reading, and how often the wall clock is read.
        for (readings, reads) in [
            (&[5_000, 5_999][..], 1),
            (&[5_000, 6_000, 7_000, 7_001], 2),
            (&[0, 5_000, 5_000, 9_000, 9_000, 10_000, 10_000, 10_100], 4),
            (&[0, 5_000, 5_000, 9_000, 9_000, 10_000, 10_000, 90_000], 4),
        ] {
            let (mut monos, mut walls) = (readings.iter().map(|micros| Duration::from_micros(*micros)), 0);
            let wall = || {
                walls += 1;
                Timestamp::from_micros(walls)
            };
            let now = read_together(wall, || monos.next().unwrap());
            assert_eq!(
                (now.wall, Some(&(now.mono.as_micros() as u64))),
                (Timestamp::from_micros(reads), readings.last())
            );
            assert_eq!(monos.next(), None);
        }
    }

    #[test]
    fn a_wall_clock_that_shows_a_time_before_1970_is_read() {
        let second = Duration::from_secs(1);
        assert_eq!(timestamp(UNIX_EPOCH - second), Timestamp::from_millis(-1_000));
        assert_eq!(timestamp(UNIX_EPOCH + second), Timestamp::from_millis(1_000));
    }

    #[test]
    fn nobody_naps_until_what_a_clock_set_by_hand_shows_already() {
        let clock = ManualClock::at(DateTime::UNIX_EPOCH);
        let (now, later) = (Source::now(&clock), Duration::from_secs(1));
        for until in [
            Wake { wall: Some(now.wall), mono: Some(now.mono + later) },
            Wake { wall: Some(now.wall.after(later)), mono: Some(now.mono) },
        ] {
            let bell = Bell::default();
            clock.wait(until, &bell);
            assert!(bell.0.sleeper.get().is_none(), "{until:?}");
        }
    }

    #[test]
    fn a_ring_before_the_nap_is_not_missed() {
        let bell = Bell::default();
        bell.ring();
        assert!(bell.has_rung());
        assert!(bell.nap(Duration::MAX));
        assert!(!bell.has_rung() && !bell.nap(Duration::ZERO));
    }

    #[test]
    fn a_ring_from_another_thread_ends_a_nap() {
        let bell = Bell::default();
        let ringer = bell.clone();
        let thread = thread::spawn(move || ringer.ring());
        while !bell.nap(Duration::MAX) {}
        thread.join().unwrap();
    }

    #[test]
    fn a_step_moves_the_wall_clock_alone() {
        let clock = ManualClock::at(DateTime::UNIX_EPOCH);
        clock.advance(Duration::from_secs(5));
        clock.step(TimeDelta::seconds(-2));
        let now = Source::now(&clock);
        assert_eq!((now.wall, now.mono), (Timestamp::from_millis(3_000), Duration::from_secs(5)));
    }

    #[test]
    fn the_longest_steps_lead_to_the_ends_of_time() {
        for (by, end) in [(TimeDelta::MAX, i64::MAX), (TimeDelta::MIN, i64::MIN)] {
            let clock = ManualClock::at(DateTime::UNIX_EPOCH);
            clock.step(by);
            assert_eq!(Source::now(&clock).wall, Timestamp::from_micros(end));
        }
    }
}
