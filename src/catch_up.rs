//! What is done with posts whose due passed while nobody could send them: the misfire policy. Pure.

use std::collections::HashMap;
use std::time::Duration;

use rustc_hash::FxBuildHasher;

use crate::time::Timestamp;

/// What a pool does with posts that it could not send at their due: after downtime, a pause, a held profile, or when
/// the wall clock jumped forward. It sends them in the order of their dues, at once unless told otherwise.
///
/// ```
/// use punctual::CatchUp;
/// use std::time::Duration;
///
/// let policy = CatchUp::at_once()
///     .spread_over(Duration::from_secs(600))
///     .min_gap(Duration::from_secs(300))
///     .miss_after(Duration::from_secs(3 * 3_600));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CatchUp {
    spread: Duration,
    gap: Duration,
    miss_after: Option<Duration>,
}

impl CatchUp {
    /// Sends what is late at once.
    pub const fn at_once() -> Self {
        Self { spread: Duration::ZERO, gap: Duration::ZERO, miss_after: None }
    }

    /// Spreads what is late evenly over so long, in the order of the dues. What becomes due meanwhile is on time.
    #[must_use]
    pub const fn spread_over(mut self, window: Duration) -> Self {
        self.spread = window;
        self
    }

    /// Leaves at least so long between two posts of one profile while it catches up, also before those of its posts
    /// that become due meanwhile; so no account floods its network after an outage. Posts without a profile have none.
    #[must_use]
    pub const fn min_gap(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    /// Posts that are later than this before their broadcaster is called for the first time are not sent any more: they are
    /// [`Missed`](crate::Outcome::Missed). Give it seconds at least: a post that is milliseconds late is late.
    #[must_use]
    pub const fn miss_after(mut self, lateness: Duration) -> Self {
        self.miss_after = Some(lateness);
        self
    }

    /// Over how long what is late is spread.
    pub(crate) const fn spread(&self) -> Duration {
        self.spread
    }

    /// Whether profiles keep a distance between their posts.
    pub(crate) fn has_gap(&self) -> bool {
        !self.gap.is_zero()
    }

    /// The last instant at which a post with this due may be attempted for the first time.
    pub(crate) fn deadline(&self, due: Timestamp) -> Option<Timestamp> {
        self.miss_after.map(|lateness| due.after(lateness))
    }

    /// What the settings are, for checking them.
    pub(crate) fn durations(&self) -> [(&'static str, Duration); 3] {
        [("spread_over", self.spread), ("min_gap", self.gap), ("miss_after", self.miss_after.unwrap_or_default())]
    }
}

/// When the profiles of one pool may go next while they catch up.
#[derive(Debug)]
pub struct Gaps {
    gap: Duration,
    /// Nobody goes before this: what an earlier process sent last is not known better.
    floor: Timestamp,
    next: HashMap<Box<str>, Timestamp, FxBuildHasher>,
    /// When the map is cleared of what is over.
    prune_at: usize,
}

impl Gaps {
    /// Gaps by this policy, in a process that follows one that was alive at `last_alive`.
    pub fn new(policy: &CatchUp, last_alive: Timestamp) -> Self {
        let floor = if policy.gap.is_zero() { Timestamp::MIN } else { last_alive.after(policy.gap) };
        Self { gap: policy.gap, floor, next: HashMap::default(), prune_at: 1_024 }
    }

    /// When a post of this profile goes that would go at `at`; is asked in the order in which they go. `late`: its due
    /// had passed before it could be sent.
    pub fn place(&mut self, profile: &str, at: Timestamp, late: bool, now: Timestamp) -> Timestamp {
        if self.gap.is_zero() || profile.is_empty() {
            return at;
        }
        let next = self.next.get(profile).copied().filter(|next| *next > now.min(at));
        let floor = if late { next.unwrap_or(self.floor) } else { next.unwrap_or(Timestamp::MIN) };
        let placed = at.max(floor);
        if late || next.is_some() {
            self.keep(profile, placed, now);
        }
        placed
    }

    /// A post of this profile goes at `placed`: the next one keeps its distance.
    pub fn keep(&mut self, profile: &str, placed: Timestamp, now: Timestamp) {
        if self.gap.is_zero() || profile.is_empty() {
            return;
        }
        if self.next.len() >= self.prune_at {
            self.next.retain(|_, next| *next > now);
            self.prune_at = 1_024.max(self.next.len() * 2);
        }
        let after = placed.after(self.gap);
        self.next.entry(profile.into()).and_modify(|next| *next = after.max(*next)).or_insert(after);
    }
}

/// Spreads `posts` evenly over what is left of a window: when number `index` goes.
pub fn spread(now: Timestamp, end: Timestamp, index: usize, posts: usize) -> Timestamp {
    let left = end.since(now).as_micros();
    let at = left * index as u128 / posts.max(1) as u128;
    now.after(Duration::from_micros(u64::try_from(at).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn while_it_catches_up_a_profile_keeps_its_gap_and_its_order(
            dues in proptest::collection::vec(0i64..600_000, 1..50), gap in 1u64..120_000, last_alive in 0i64..600_000,
        ) {
            let now = Timestamp::from_millis(300_000);
            let gap = Duration::from_millis(gap);
            let mut gaps = Gaps::new(&CatchUp::at_once().min_gap(gap), Timestamp::from_millis(last_alive.min(300_000)));
            let mut dues: Vec<_> = dues.into_iter().map(Timestamp::from_millis).collect();
            dues.sort();
            let any_late = dues[0] < now;
            let placed: Vec<_> =
                dues.iter().map(|due| gaps.place("p", (*due).max(now), *due < now, now)).collect();
            for (pair, due) in placed.windows(2).zip(&dues) {
                prop_assert!(pair[0] <= pair[1]);
                if *due < now {
                    prop_assert!(pair[1].since(pair[0]) >= gap);
                }
            }
            for (placed, due) in placed.iter().zip(&dues) {
                prop_assert!(placed >= due);
                prop_assert!(any_late || placed == due, "who is on time is left alone");
            }
        }

        #[test]
        fn what_is_spread_stays_in_its_window_and_in_order(posts in 1usize..1_000, window in 0i64..10_000_000) {
            let (now, end) = (Timestamp::from_micros(7), Timestamp::from_micros(7 + window));
            let at: Vec<_> = (0..posts).map(|index| spread(now, end, index, posts)).collect();
            prop_assert!(at.is_sorted());
            prop_assert_eq!(at[0], now);
            prop_assert!(*at.last().unwrap() <= end);
            for pair in at.windows(2) {
                let step = pair[1].since(pair[0]).as_micros() as i64;
                prop_assert!((step - window / posts as i64).abs() <= 1);
            }
        }
    }

    #[test]
    fn who_goes_at_a_place_of_old_lets_those_keep_theirs_that_come_after_it() {
        let mut gaps = Gaps::new(&CatchUp::at_once().min_gap(Duration::from_secs(60)), Timestamp::MIN);
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        gaps.keep("a", at(10), at(0));
        assert_eq!(gaps.place("a", at(20), false, at(0)), at(70));
        gaps.keep("a", at(10), at(0));
        assert_eq!(gaps.place("a", at(80), false, at(0)), at(130));
        gaps.keep("", at(10), at(0));
        assert_eq!(gaps.place("", at(20), false, at(0)), at(20));
    }

    #[test]
    fn who_has_no_profile_does_not_wait_for_what_an_earlier_process_has_sent() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let mut gaps = Gaps::new(&CatchUp::at_once().min_gap(Duration::from_secs(60)), at(0));
        assert_eq!(gaps.place("", at(20), true, at(20)), at(20));
        assert_eq!(gaps.place("a", at(20), true, at(20)), at(60));
    }

    #[test]
    fn profiles_that_have_gone_long_ago_are_forgotten_and_no_others() {
        let gap = Duration::from_secs(60);
        let mut gaps = Gaps::new(&CatchUp::at_once().min_gap(gap), Timestamp::MIN);
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let all = |gaps: &mut Gaps, second: i64, posts: i64| {
            (0..posts).for_each(|number| _ = gaps.place(&format!("{second} {number}"), at(second), true, at(second)));
        };
        all(&mut gaps, 0, 1_000);
        all(&mut gaps, 30, 1_000);
        assert_eq!(gaps.next.len(), 2_000, "none of them is over");
        // Those of the first instant are over when as many as that have come since.
        assert_eq!(gaps.prune_at, 2 * 1_024, "it is looked again when there are twice as many");
        all(&mut gaps, 60, 1_049);
        assert_eq!(gaps.next.len(), 2_049);
        assert_eq!(gaps.place("30 7", at(60), true, at(60)), at(90));
        all(&mut gaps, 200, 10_000);
        assert!(gaps.next.len() <= 10_000 + 1_049, "{}", gaps.next.len());
    }

    #[test]
    fn profiles_do_not_wait_for_each_other() {
        let mut gaps = Gaps::new(&CatchUp::at_once().min_gap(Duration::from_secs(60)), Timestamp::MIN);
        let now = Timestamp::from_millis(0);
        assert_eq!(gaps.place("a", now, true, now), now);
        assert_eq!(gaps.place("b", now, true, now), now);
        assert_eq!(gaps.place("a", now, true, now), now.after(Duration::from_secs(60)));
        assert_eq!(gaps.place("", now, true, now), now);
        assert_eq!(gaps.place("", now, true, now), now);
    }
}
