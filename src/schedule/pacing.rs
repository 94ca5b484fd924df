//! Many posts over a window of time, and dues that are not on the dot.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;

use super::civil::{FIRST, LAST, instant_of, local_of};
use super::error::ScheduleError;
use super::local::LocalTime;

/// Spreads a batch of posts over a window, from an instant to before another. Dues are whole milliseconds.
///
/// All posts together are spread evenly, and so are those of each profile by themselves: a profile with ten posts has
/// one in each tenth of the window. Between two posts of a profile there is at least the minimum gap. With jitter each
/// post is put at random into what room this leaves it; the draw is seeded, so the same batch always has the same dues.
///
/// ```
/// use punctual::Pacing;
/// use std::time::Duration;
///
/// let pacing = Pacing::new("2026-03-27T08:00:00Z".parse()?, Duration::from_secs(3_600));
/// let dues = pacing.dues(4)?.map(|due| due.format("%H:%M").to_string());
/// assert!(dues.eq(["08:00", "08:15", "08:30", "08:45"]));
/// let dues = pacing.min_gap(Duration::from_secs(1_800)).assign(["@paper", "@bakery", "@paper"])?;
/// assert_eq!(dues[2] - dues[0], chrono::TimeDelta::minutes(30));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pacing {
    /// Milliseconds since 1970.
    from: i64,
    window: Duration,
    gap: Duration,
    jitter: Option<u64>,
}

impl Pacing {
    /// From this instant, rounded up to a millisecond, for so long. Evenly, and without a minimum gap.
    pub fn new(from: DateTime<Utc>, window: Duration) -> Self {
        let from = from.timestamp_millis() + i64::from(!from.timestamp_subsec_nanos().is_multiple_of(1_000_000));
        Self { from, window, gap: Duration::ZERO, jitter: None }
    }

    /// At random within what room the window and the gaps leave, instead of evenly.
    #[must_use]
    pub fn jitter(mut self, seed: u64) -> Self {
        self.jitter = Some(seed);
        self
    }

    /// Between two posts of one profile, rounded up to a millisecond. Default: none.
    #[must_use]
    pub fn min_gap(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    /// The dues of so many posts of one profile, ascending.
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign).
    pub fn dues(&self, posts: usize) -> Result<impl Iterator<Item = DateTime<Utc>> + use<>, ScheduleError> {
        let comb = self.comb("", posts)?;
        Ok((0..posts).map(move |place| comb.due(place, 0.0, place)))
    }

    /// The dues of these posts, given by their profiles: in the order in which they are given.
    ///
    /// # Errors
    ///
    /// [`WindowTooShort`](ScheduleError::WindowTooShort) if a profile has more posts than fit with the minimum gap,
    /// [`EmptyWindow`](ScheduleError::EmptyWindow), and [`OutOfRange`](ScheduleError::OutOfRange) for windows outside
    /// the years 1970 to 9999.
    pub fn assign<'a>(&self, profiles: impl IntoIterator<Item = &'a str>) -> Result<Vec<DateTime<Utc>>, ScheduleError> {
        let batch = Batch::new(profiles.into_iter().map(|profile| ((), profile)));
        let combs = batch.groups.iter().map(|group| self.comb(group.profile, group.posts));
        Ok(batch.dues(&combs.collect::<Result<Vec<_>, _>>()?))
    }

    /// How the posts of one profile lie in the window.
    fn comb(&self, profile: &str, posts: usize) -> Result<Comb, ScheduleError> {
        let window = i64::try_from(self.window.as_millis()).unwrap_or(i64::MAX);
        let gap = i64::try_from(self.gap.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        let until = self.from.saturating_add(window);
        for end in [self.from, until] {
            if !(FIRST * 1_000..=LAST * 1_000 + 1_000).contains(&end) {
                return Err(ScheduleError::OutOfRange {
                    given: DateTime::from_timestamp_millis(end).map_or(local_of(LAST), |at| at.naive_utc()),
                });
            }
        }
        if window == 0 {
            let instant = local_of(self.from.div_euclid(1_000));
            return Err(ScheduleError::EmptyWindow { from: instant, until: instant });
        }
        let between = i64::try_from(posts).unwrap_or(i64::MAX).saturating_sub(1);
        let needed = gap.saturating_mul(between);
        if needed >= window {
            return Err(ScheduleError::WindowTooShort {
                profile: profile.to_owned(),
                posts,
                gap: self.gap,
                window: self.window,
                needed: Duration::from_millis(needed.unsigned_abs()),
                most: usize::try_from((window - 1) / gap + 1).unwrap_or(usize::MAX),
            });
        }
        Ok(Comb { from: self.from, window, gap, posts, jitter: self.jitter })
    }
}

/// Spreads a batch of posts over the same local times of each receiver: from one to before another of a date, by the
/// clocks of his zone. In each zone it is as [`Pacing`].
///
/// ```
/// use chrono::{NaiveDate, NaiveTime};
/// use chrono_tz::{America::New_York, Europe::Berlin};
/// use punctual::LocalPacing;
///
/// let date = NaiveDate::from_ymd_opt(2026, 3, 27).ok_or("no such date")?;
/// let [eight, nine] = [8, 9].map(|hour| NaiveTime::from_hms_opt(hour, 0, 0).unwrap_or_default());
/// let pacing = LocalPacing::new(date, eight, nine);
/// let dues = pacing.assign([(Berlin, "anna"), (New_York, "bob"), (Berlin, "carl")])?;
/// assert_eq!(dues[1].to_rfc3339(), "2026-03-27T12:00:00+00:00");
/// assert_eq!(dues[2].to_rfc3339(), "2026-03-27T07:30:00+00:00");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalPacing {
    date: NaiveDate,
    from: NaiveTime,
    until: NaiveTime,
    gap: Duration,
    jitter: Option<u64>,
}

impl LocalPacing {
    /// From one local time to before another of this date. Evenly, and without a minimum gap.
    pub fn new(date: NaiveDate, from: NaiveTime, until: NaiveTime) -> Self {
        Self { date, from, until, gap: Duration::ZERO, jitter: None }
    }

    /// As [`Pacing::jitter`].
    #[must_use]
    pub fn jitter(mut self, seed: u64) -> Self {
        self.jitter = Some(seed);
        self
    }

    /// As [`Pacing::min_gap`]. All posts of a profile have to be in one zone then.
    #[must_use]
    pub fn min_gap(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    /// What it is in this zone.
    ///
    /// # Errors
    ///
    /// [`EmptyWindow`](ScheduleError::EmptyWindow) if it does not end after it begins, which may also be because the
    /// clocks skip it, and [`OutOfRange`](ScheduleError::OutOfRange).
    pub fn in_zone(&self, zone: Tz) -> Result<Pacing, ScheduleError> {
        let (from, until) = (self.date.and_time(self.from), self.date.and_time(self.until));
        let begin = LocalTime::new(from, zone).instant()?;
        let window = (LocalTime::new(until, zone).instant()? - begin).to_std().unwrap_or_default();
        if window.as_millis() == 0 {
            return Err(ScheduleError::EmptyWindow { from, until });
        }
        let pacing = Pacing::new(begin, window).min_gap(self.gap);
        Ok(Pacing { jitter: self.jitter, ..pacing })
    }

    /// The dues of these posts, given by the zones of their receivers and their profiles: in the order in which they are
    /// given.
    ///
    /// # Errors
    ///
    /// As for [`in_zone`](Self::in_zone) and [`Pacing::assign`], and [`TwoZones`](ScheduleError::TwoZones) if there is a
    /// minimum gap and a profile has posts in two zones.
    pub fn assign<'a>(
        &self,
        posts: impl IntoIterator<Item = (Tz, &'a str)>,
    ) -> Result<Vec<DateTime<Utc>>, ScheduleError> {
        let batch = Batch::new(posts);
        if !self.gap.is_zero() {
            batch.one_zone_each()?;
        }
        let mut known: HashMap<Tz, Pacing> = HashMap::new();
        let mut combs = Vec::with_capacity(batch.groups.len());
        for group in &batch.groups {
            let pacing = match known.get(&group.part) {
                Some(pacing) => *pacing,
                None => *known.entry(group.part).or_insert(self.in_zone(group.part)?),
            };
            combs.push(pacing.comb(group.profile, group.posts)?);
        }
        Ok(batch.dues(&combs))
    }
}

/// Posts of one profile, in milliseconds.
struct Comb {
    from: i64,
    window: i64,
    gap: i64,
    posts: usize,
    jitter: Option<u64>,
}

impl Comb {
    /// The due of the post at this place, if the profile is at this phase among those with as many posts: 0 to 1.
    /// `number` is the post's in the whole batch.
    ///
    /// The posts are `step` apart, which is the window divided by their number, or the gap if this is more. What is left
    /// of the window after the last is room for the phase, and what is left of a step after the gap for jitter.
    fn due(&self, place: usize, phase: f64, number: usize) -> DateTime<Utc> {
        let (window, posts) = (self.window as f64, self.posts as f64);
        let step = (window / posts).max(self.gap as f64);
        let room = window - step * (posts - 1.0);
        let offset = match self.jitter {
            None => phase * room,
            Some(seed) => {
                let free = (step - self.gap as f64).min(room);
                phase * (room - free) + free * unit(mix(seed.wrapping_add(number as u64)))
            }
        };
        // Rounding may be off by one: never beyond the window, and never nearer than the gap.
        let last = self.window - 1 - self.gap * (self.posts - 1 - place) as i64;
        let due = ((step * place as f64 + offset).floor() as i64).min(last);
        DateTime::from_timestamp_millis(self.from + due).unwrap_or_default()
    }
}

/// Posts by their profile, and by the part of the batch they belong to.
struct Batch<'a, P> {
    groups: Vec<Group<'a, P>>,
    /// Of each post: its group, and its place in it.
    posts: Vec<(usize, usize)>,
}

struct Group<'a, P> {
    part: P,
    profile: &'a str,
    posts: usize,
}

impl<'a, P: Copy + Eq + std::hash::Hash> Batch<'a, P> {
    fn new(posts: impl IntoIterator<Item = (P, &'a str)>) -> Self {
        let mut batch = Self { groups: Vec::new(), posts: Vec::new() };
        let mut known: HashMap<(P, &str), usize> = HashMap::new();
        for (part, profile) in posts {
            let group = *known.entry((part, profile)).or_insert_with(|| {
                batch.groups.push(Group { part, profile, posts: 0 });
                batch.groups.len() - 1
            });
            batch.posts.push((group, batch.groups[group].posts));
            batch.groups[group].posts += 1;
        }
        batch
    }

    /// Profiles with as many posts, in the same part, take turns: they are at phases that are evenly apart.
    fn dues(&self, combs: &[Comb]) -> Vec<DateTime<Utc>> {
        let mut alike: HashMap<(P, usize), (usize, usize)> = HashMap::new();
        for group in &self.groups {
            alike.entry((group.part, group.posts)).or_default().0 += 1;
        }
        let mut phase = |group: &Group<'_, P>| {
            let (all, seen) = alike.entry((group.part, group.posts)).or_default();
            *seen += 1;
            (*seen - 1) as f64 / (*all).max(1) as f64
        };
        let phases: Vec<f64> = self.groups.iter().map(&mut phase).collect();
        let due =
            |(number, (group, place)): (usize, &(usize, usize))| combs[*group].due(*place, phases[*group], number);
        self.posts.iter().enumerate().map(due).collect()
    }
}

impl Batch<'_, Tz> {
    fn one_zone_each(&self) -> Result<(), ScheduleError> {
        let mut zones: HashMap<&str, Tz> = HashMap::new();
        for group in &self.groups {
            let first = *zones.entry(group.profile).or_insert(group.part);
            if first != group.part {
                let profile = group.profile.to_owned();
                return Err(ScheduleError::TwoZones { profile, first: first.name(), second: group.part.name() });
            }
        }
        Ok(())
    }
}

/// A due that is not on the dot: at most `within` earlier or later, a whole millisecond. The same due, `within` and seed
/// always give the same: this will not change between versions. Use the post's number or a hash of its key as the seed.
///
/// All milliseconds within are equally likely. If there is none, it is the next one after the due.
///
/// ```
/// use punctual::humanise;
/// use std::time::Duration;
///
/// let eight = "2026-03-27T08:00:00Z".parse()?;
/// let due = humanise(eight, Duration::from_secs(180), 42);
/// assert_eq!(due.to_rfc3339(), "2026-03-27T08:01:26.964+00:00");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn humanise(due: DateTime<Utc>, within: Duration, seed: u64) -> DateTime<Utc> {
    let nanos =
        |at: DateTime<Utc>| i128::from(at.timestamp()) * 1_000_000_000 + i128::from(at.timestamp_subsec_nanos());
    let (due, within) = (nanos(due), within.as_nanos() as i128);
    let range = (i128::from(FIRST) * 1_000, i128::from(LAST) * 1_000 + 999);
    let millis = |nanos: i128| -(-nanos).div_euclid(1_000_000);
    // The first and the last whole millisecond within.
    let (first, last) = (millis(due - within).max(range.0), (due + within).div_euclid(1_000_000).min(range.1));
    let chosen = if first > last {
        millis(due).clamp(range.0, range.1)
    } else {
        // The high part of a product: as even as a remainder, and cheaper.
        first + (((last - first + 1) * i128::from(mix(seed))) >> 64)
    };
    i64::try_from(chosen).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_else(|| instant_of(FIRST))
}

/// One step of SplitMix64 from this state (Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators*, 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// From 0 to before 1.
fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(millis).unwrap()
    }

    fn time(hour: u32, minute: u32) -> NaiveTime {
        NaiveTime::from_hms_opt(hour, minute, 0).unwrap()
    }

    proptest! {
        #[test]
        fn dues_lie_in_the_window_and_those_of_a_profile_are_apart_and_in_order(
            from in 0i64..4_000_000_000_000,
            window in 1u64..10_000_000,
            gap in prop_oneof![Just(0u64), 1u64..100_000],
            jitter: Option<u64>,
            profiles in prop::collection::vec(0u8..6, 0..60),
        ) {
            let mut pacing = Pacing::new(at(from), Duration::from_millis(window)).min_gap(Duration::from_millis(gap));
            pacing.jitter = jitter;
            let names: Vec<String> = profiles.iter().map(u8::to_string).collect();
            let most = (0..6).map(|profile| profiles.iter().filter(|other| **other == profile).count()).max().unwrap_or(0);
            let fits = most == 0 || gap * (most as u64 - 1) < window;
            match pacing.assign(names.iter().map(String::as_str)) {
                Ok(dues) => {
                    prop_assert!(fits);
                    for profile in 0..6 {
                        let own = dues.iter().zip(&profiles).filter(|(_, other)| **other == profile).map(|(due, _)| *due);
                        let own: Vec<_> = own.collect();
                        prop_assert!(own.windows(2).all(|pair| pair[1] - pair[0] >= TimeDelta::milliseconds(gap as i64)));
                    }
                    let end = at(from + window as i64);
                    prop_assert!(dues.iter().all(|due| *due >= at(from) && *due < end && due.timestamp_subsec_nanos() % 1_000_000 == 0));
                    prop_assert_eq!(pacing.assign(names.iter().map(String::as_str)), Ok(dues));
                }
                Err(ScheduleError::WindowTooShort { posts, most, needed, .. }) => {
                    prop_assert!(!fits);
                    // What it says is right.
                    prop_assert!(pacing.dues(posts).is_err() && pacing.dues(most + 1).is_err() && pacing.dues(most).is_ok());
                    let longer = Pacing { window: needed + Duration::from_millis(1), ..pacing };
                    prop_assert!(longer.dues(posts).is_ok());
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }

        #[test]
        fn a_humanised_due_is_within_its_bounds_a_whole_millisecond_and_always_the_same(
            due in 0i64..LAST,
            nanos in 0u32..1_000_000_000,
            within in prop_oneof![0u64..5_000_000, 0u64..10_000_000_000_000],
            seed: u64,
        ) {
            let due = DateTime::from_timestamp(due, nanos).unwrap();
            let within = Duration::from_nanos(within);
            let moved = humanise(due, within, seed);
            prop_assert_eq!(moved, humanise(due, within, seed));
            prop_assert_eq!(moved.timestamp_subsec_nanos() % 1_000_000, 0);
            let off = (moved - due).abs().to_std().unwrap();
            prop_assert!(off <= within.max(Duration::from_millis(1)), "{} {}", due, moved);
        }
    }

    #[test]
    fn a_due_is_humanised_today_as_it_was_in_the_first_version() {
        let eight = at(1_774_598_400_000);
        let moved = |seed| (humanise(eight, Duration::from_secs(3_600), seed) - eight).num_milliseconds();
        assert_eq!([0, 1, 2, u64::MAX].map(moved), [2_759_838, 479_243, 656_566, 2_836_389]);
        // The first numbers of SplitMix64 from state 0, as in its reference implementation.
        assert_eq!([mix(0), mix(0x9e37_79b9_7f4a_7c15)], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn humanised_dues_are_spread_over_all_that_is_allowed() {
        let mut seen = [0; 21];
        for seed in 0..21_000 {
            let moved = humanise(at(1_000_000), Duration::from_millis(10), seed);
            seen[usize::try_from(moved.timestamp_millis() - 999_990).unwrap()] += 1;
        }
        assert!(seen.iter().all(|times| (850..1_150).contains(times)), "{seen:?}");
        assert_eq!(humanise(DateTime::<Utc>::MAX_UTC, Duration::MAX, 7).timestamp() / 1_000_000_000_000, 0);
    }

    #[test]
    fn a_humanised_due_is_the_only_millisecond_within_if_there_is_one_and_never_leaves_the_calendar() {
        let due = DateTime::from_timestamp(1, 300_000).unwrap();
        assert_eq!(humanise(due, Duration::from_micros(400), 3), at(1_000));
        assert_eq!(humanise(due, Duration::from_micros(200), 3), at(1_001));
        let (first, last) = (at(FIRST * 1_000), at(LAST * 1_000 + 999));
        for end in [first, last] {
            let moved = (0..200).map(|seed| humanise(end, Duration::from_millis(3), seed)).collect::<BTreeSet<_>>();
            let allowed = (-3..=3).map(|off| end + TimeDelta::milliseconds(off));
            assert!(moved.into_iter().eq(allowed.filter(|at| (first..=last).contains(at))));
        }
    }

    #[test]
    fn a_window_may_end_with_the_year_9999_and_begins_after_what_is_less_than_a_millisecond() {
        let end = LAST * 1_000 + 1_000;
        let pacing = |window| Pacing::new(at(end - 5), Duration::from_millis(window)).dues(1).map(|mut due| due.next());
        assert_eq!(pacing(5), Ok(Some(at(end - 5))));
        assert!(matches!(pacing(6), Err(ScheduleError::OutOfRange { .. })));
        assert!(Pacing::new(at(-1), Duration::from_millis(9)).dues(1).is_err());
        let from = DateTime::from_timestamp(1, 1).unwrap();
        assert_eq!(Pacing::new(from, Duration::from_millis(1)).dues(1).unwrap().next(), Some(at(1_001)));
    }

    #[test]
    fn where_numbers_are_too_large_for_fractions_dues_stay_in_the_window_and_apart() {
        let gap = 1 << 46;
        let window = 2 * gap + 1;
        let pacing = Pacing::new(at(0), Duration::from_millis(window)).min_gap(Duration::from_millis(gap));
        let names: Vec<String> = (0..200).map(|profile| format!("@{profile}")).collect();
        let dues = pacing.assign(names.iter().flat_map(|name| [name.as_str(); 3])).unwrap();
        for own in dues.chunks(3) {
            assert!(own.iter().map(DateTime::timestamp_millis).eq([0, gap as i64, 2 * gap as i64]), "{own:?}");
        }
    }

    #[test]
    fn with_jitter_profiles_that_take_turns_have_what_room_the_others_leave() {
        let mut seen = [[0; 10]; 2];
        for seed in 0..5_000 {
            let pacing = Pacing::new(at(0), Duration::from_secs(1)).min_gap(Duration::from_millis(300)).jitter(seed);
            for (number, due) in pacing.assign(["a", "b", "a", "b"]).unwrap().into_iter().enumerate() {
                // The steps are 500 apart, of which 200 are free; the second profile is half of the other 300 later.
                let off = due.timestamp_millis() - 500 * (number / 2) as i64 - 150 * (number % 2) as i64;
                seen[number % 2][usize::try_from(off / 20).unwrap()] += 1;
            }
        }
        assert!(seen.iter().flatten().all(|times| (800..1_200).contains(times)), "{seen:?}");
    }

    #[test]
    fn jitter_uses_all_that_the_gap_leaves_of_a_step() {
        for (gap, free) in [(0, 500), (300, 200)] {
            let mut seen = [0; 10];
            for seed in 0..10_000 {
                let pacing =
                    Pacing::new(at(0), Duration::from_secs(1)).min_gap(Duration::from_millis(gap)).jitter(seed);
                for (place, due) in pacing.dues(2).unwrap().enumerate() {
                    let off = due.timestamp_millis() - 500 * place as i64;
                    seen[usize::try_from(off * 10 / free).unwrap()] += 1;
                }
            }
            assert!(seen.iter().all(|times| (1_700..2_300).contains(times)), "{gap}: {seen:?}");
        }
    }

    #[test]
    fn all_posts_together_are_spread_evenly() {
        let pacing = Pacing::new(at(0), Duration::from_secs(100));
        let names: Vec<String> = (0..10).map(|profile| format!("@{profile}")).collect();
        let mut dues = pacing.assign((0..10).flat_map(|_| names.iter().map(String::as_str))).unwrap();
        dues.sort_unstable();
        assert!(dues.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::seconds(1)), "{dues:?}");
        // Profiles with few and with many posts.
        let mixed = ["a"; 50].into_iter().chain(names.iter().map(String::as_str)).chain(["b"; 40]);
        let dues = pacing.assign(mixed).unwrap();
        for tenth in 0..10 {
            let inside = dues.iter().filter(|due| due.timestamp() / 10 == tenth).count();
            assert!((9..=11).contains(&inside), "{inside} in tenth {tenth}");
        }
    }

    #[test]
    fn each_receiver_has_the_window_of_his_own_clocks() {
        use chrono_tz::{America::New_York, Asia::Tokyo, Europe::Berlin};
        let date = NaiveDate::from_ymd_opt(2026, 3, 29).unwrap();
        let posts = [(Berlin, "a"), (New_York, "b"), (Tokyo, "c"), (Berlin, "a"), (Berlin, "d")];
        let pacing = LocalPacing::new(date, time(8, 0), time(9, 0));
        let dues = pacing.assign(posts).unwrap();
        let shown: Vec<_> = dues.iter().map(|due| due.format("%dT%H:%M").to_string()).collect();
        assert_eq!(shown, ["29T06:00", "29T12:00", "28T23:00", "29T06:30", "29T06:00"]);
        // The hour that the clocks skip is none.
        let skipped = LocalPacing::new(date, time(2, 0), time(3, 0)).in_zone(Berlin);
        assert!(matches!(skipped, Err(ScheduleError::EmptyWindow { .. })));
        let apart = pacing.min_gap(Duration::from_secs(60));
        assert!(apart.assign([(Berlin, "a"), (Tokyo, "b"), (Berlin, "a")]).is_ok());
        let twice = apart.assign([(Berlin, "a"), (Tokyo, "a")]);
        assert!(matches!(twice, Err(ScheduleError::TwoZones { .. })));
    }

    #[test]
    fn a_window_that_is_too_short_says_what_would_be_right() {
        let pacing = Pacing::new(at(0), Duration::from_secs(60)).min_gap(Duration::from_secs(20));
        assert_eq!(pacing.dues(3).unwrap().count(), 3);
        assert_eq!(
            pacing.assign(["@paper"; 4]).unwrap_err().to_string(),
            "4 posts of \"@paper\" that are 20s apart do not fit into 60s: \
             make the window longer than 60s, or take 3 posts, or a smaller gap"
        );
        assert_eq!(
            Pacing::new(at(0), Duration::ZERO)
                .dues(1)
                .err()
                .map(|error| matches!(error, ScheduleError::EmptyWindow { .. })),
            Some(true)
        );
        assert!(Pacing::new(at(0), Duration::MAX).dues(1).is_err());
    }
}
