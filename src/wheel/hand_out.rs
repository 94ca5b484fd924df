//! Moving time on, and handing out what became due on the way, in bounded pieces.

use crate::sabotage::{self, Switch};

use super::Wheel;
use super::levels::Bucket;
use super::queue::{CHUNK, Hint};
use super::run;
use super::slab::{Fate, Slab, Ticket};

/// Hints that one call looks at, unless its budget of entries is larger.
const WORK: usize = 4_096;
/// Hints of a bucket that is sorted; a larger one is spread.
const SORTED: usize = 16_384;
/// What opening a bucket or moving a chunk costs, in hints.
const OVERHEAD: usize = 8;

/// What one call may still do.
struct Allowance {
    entries: usize,
    hints: usize,
}

impl Allowance {
    fn spend(&mut self, hints: usize) {
        self.hints = self.hints.saturating_sub(hints);
    }
}

/// What comes next on the way to a tick.
enum Step {
    /// The run, as long as its ticks are not after this one.
    Run(u64),
    /// A bucket of level 0, which is this one tick.
    Tick(Bucket, u64),
    Late,
    /// Time reaches a bucket of a higher level, which starts at this tick.
    Open(Bucket, u64),
    /// Nothing more.
    Arrived,
}

/// What came of reading hints.
struct Surfaced {
    /// How many were read.
    hints: usize,
    /// The tick of the last one.
    now: Option<u64>,
    /// The entry of the last one, if it has moved to a later tick: that may come before what follows.
    moved: Option<(Ticket, u64)>,
}

impl Surfaced {
    #[inline]
    fn of<T: Copy>(
        hints: impl Iterator<Item = (u64, Ticket)>,
        slab: &mut Slab<T>,
        left: &mut Allowance,
        out: &mut Vec<(u64, T)>,
    ) -> Self {
        let mut surfaced = Self { hints: 0, now: None, moved: None };
        let before = out.len();
        for (tick, ticket) in hints.take(left.entries.min(left.hints)) {
            surfaced.hints += 1;
            surfaced.now = Some(tick);
            match slab.surface(ticket, tick) {
                Fate::Due(tick, item) => out.push((tick, item)),
                Fate::Gone => {}
                Fate::Later(tick) => {
                    surfaced.moved = Some((ticket, tick));
                    break;
                }
            }
        }
        left.entries -= out.len() - before;
        left.spend(surfaced.hints);
        surfaced
    }
}

impl<T: Copy> Wheel<T> {
    /// Moves time to `now` and appends up to `budget` of the entries that are due by then, in the order of their
    /// ticks; those of one tick in the order in which they came, if they were never re-timed. `true` once all
    /// are handed out and `now()` is `now`; else call again, as the work of one call is bounded also where
    /// nothing is handed out. An earlier `now` counts as `now()`. A budget of zero never gets past a due entry.
    pub fn advance(&mut self, now: u64, budget: usize, out: &mut Vec<(u64, T)>) -> bool {
        let target = now.max(self.now);
        if self.earliest.is_some_and(|tick| tick <= target) {
            self.earliest = None;
        }
        let mut left = Allowance { entries: budget, hints: budget.max(WORK) };
        while left.hints > 0 {
            if let Some(bucket) = self.spreading {
                self.spread(bucket, &mut left);
                continue;
            }
            match self.next_step(target) {
                Step::Arrived => {
                    self.now = target;
                    return true;
                }
                Step::Open(bucket, start) => {
                    self.now = start;
                    self.open(bucket, &mut left);
                }
                _ if left.entries == 0 => return false,
                Step::Run(until) => self.hand_out_run(until, &mut left, out),
                Step::Tick(bucket, tick) => self.hand_out_tick(bucket, tick, &mut left, out),
                Step::Late => self.hand_out_late(&mut left, out),
            }
        }
        false
    }

    /// Of one tick, the run comes first and what was late comes last: so they are in the order in which they came.
    fn next_step(&self, target: u64) -> Step {
        let late = self.late.first().map(|(tick, _)| tick);
        let tick = self.levels.next_on(0, 0).map(|bucket| (bucket, bucket.start(self.now)));
        let run = self.run.front().map(|(tick, _)| tick);
        let until = [late, tick.map(|(_, tick)| tick)].into_iter().flatten().fold(target, u64::min);
        match (run, tick) {
            (Some(run), _) if run <= until => Step::Run(until),
            (_, Some((bucket, tick))) if tick <= until => Step::Tick(bucket, tick),
            _ if late.is_some() => Step::Late,
            (None, None) => match self.levels.next_coarse().map(|bucket| (bucket, bucket.start(self.now))) {
                Some((_, start)) if start == target && sabotage::is(Switch::BucketEdge) => Step::Arrived,
                Some((bucket, start)) if start <= target => Step::Open(bucket, start),
                _ => Step::Arrived,
            },
            _ => Step::Arrived,
        }
    }

    fn hand_out_run(&mut self, until: u64, left: &mut Allowance, out: &mut Vec<(u64, T)>) {
        let hints = self.run.iter().take_while(|(tick, _)| *tick <= until);
        let surfaced = Surfaced::of(hints, &mut self.slab, left, out);
        self.run.skip(surfaced.hints);
        self.now = surfaced.now.unwrap_or(self.now);
        self.replace(surfaced);
    }

    fn hand_out_tick(&mut self, bucket: Bucket, tick: u64, left: &mut Allowance, out: &mut Vec<(u64, T)>) {
        self.now = tick;
        self.stop_sweep_of(bucket);
        while left.entries > 0 && left.hints > 0 && self.levels.len(bucket) > 0 {
            let hints = self.levels.front(bucket).iter().map(|hint| (tick, hint.ticket));
            let surfaced = Surfaced::of(hints, &mut self.slab, left, out);
            self.levels.skip(bucket, surfaced.hints);
            self.replace(surfaced);
        }
    }

    fn hand_out_late(&mut self, left: &mut Allowance, out: &mut Vec<(u64, T)>) {
        let surfaced = Surfaced::of(self.late.pop().into_iter(), &mut self.slab, left, out);
        self.replace(surfaced);
    }

    fn replace(&mut self, surfaced: Surfaced) {
        if let Some((ticket, tick)) = surfaced.moved {
            self.place(ticket, tick);
        }
    }

    /// Time is at the start of the bucket, which is to be spread: over the levels below, or if it is a small one of
    /// the run's level, into the run.
    fn open(&mut self, bucket: Bucket, left: &mut Allowance) {
        self.stop_sweep_of(bucket);
        left.spend(OVERHEAD);
        let small = bucket.level == run::LEVEL && self.levels.len(bucket) <= SORTED;
        self.run.open(self.now, if small { SORTED } else { 0 });
        self.spreading = Some(bucket);
    }

    /// Goes on with that. What comes for the bucket in the meantime may find the run full, and then follows it on
    /// level 0: so those of one tick stay in order.
    fn spread(&mut self, bucket: Bucket, left: &mut Allowance) {
        self.stop_sweep_of(bucket);
        let mut hints = std::mem::take(&mut self.buffer);
        while left.hints > 0 && self.levels.len(bucket) > 0 {
            if !self.run.is_open()
                && bucket.fits_hint()
                && let Some(ticks) = self.levels.front_ticks(bucket)
            {
                let place = Bucket::of(bucket.tick(ticks.low, self.now), self.now);
                if place.holds_all(ticks.differ) {
                    self.levels.relink(bucket, place);
                    left.spend(OVERHEAD);
                    continue;
                }
            }
            self.levels.take(bucket, CHUNK, &mut hints);
            left.spend(hints.len());
            if bucket.level == run::LEVEL {
                self.winnow(bucket, &mut hints);
            }
            if !self.run.load(&hints) {
                hints.iter().for_each(|hint| self.spread_hint(bucket, *hint));
            }
            hints.clear();
        }
        self.buffer = hints;
        if self.levels.len(bucket) == 0 {
            self.spreading = None;
            self.run.close();
        }
    }

    fn spread_hint(&mut self, bucket: Bucket, hint: Hint) {
        if sabotage::is(Switch::DropCarry) {
        } else if bucket.fits_hint() {
            let tick = bucket.tick(hint.low, self.now);
            self.levels.push(Bucket::of(tick, self.now), hint);
        } else if let Some(tick) = self.slab.tick(hint.ticket) {
            // Only the slab knows the tick, and it may be one that is not of this bucket any more.
            let place = Bucket::of(tick, self.now);
            if tick >= self.now && place.level < bucket.level {
                self.levels.push(place, Hint::new(hint.ticket, tick));
            } else {
                self.place(hint.ticket, tick);
            }
        }
    }
}
