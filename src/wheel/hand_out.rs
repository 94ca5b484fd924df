//! Moving time on, and handing out what became due on the way, in bounded pieces.

use super::Wheel;
use super::levels::Bucket;
use super::queue::{CHUNK, Hint};
use super::run;
use super::slab::Fate;

/// Hints that one call looks at, beyond one for each entry that it may hand out.
const WORK: usize = 8_192;
/// Hints of a bucket that is sorted as one piece; a larger one is spread.
const SORTED: usize = 8_192;
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
        let mut left = Allowance { entries: budget, hints: budget.saturating_add(WORK) };
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
                Some((bucket, start)) if start <= target => Step::Open(bucket, start),
                _ => Step::Arrived,
            },
            _ => Step::Arrived,
        }
    }

    fn hand_out_run(&mut self, until: u64, left: &mut Allowance, out: &mut Vec<(u64, T)>) {
        let mut moved = None;
        let (mut read, before) = (0, out.len());
        for (tick, ticket) in self.run.iter().take(left.entries.min(left.hints)).take_while(|(tick, _)| *tick <= until)
        {
            self.now = tick;
            read += 1;
            match self.slab.surface(ticket, tick) {
                Fate::Due(tick, item) => out.push((tick, item)),
                Fate::Gone => {}
                Fate::Later(tick) => {
                    // It may be placed before the rest of the run.
                    moved = Some((ticket, tick));
                    break;
                }
            }
        }
        self.run.skip(read);
        left.spend(read);
        left.entries -= out.len() - before;
        if let Some((ticket, tick)) = moved {
            self.place(ticket, tick);
        }
    }

    fn hand_out_tick(&mut self, bucket: Bucket, tick: u64, left: &mut Allowance, out: &mut Vec<(u64, T)>) {
        self.now = tick;
        self.stop_sweep_of(bucket);
        let mut hints = std::mem::take(&mut self.buffer);
        while left.entries > 0 && left.hints > 0 && self.levels.len(bucket) > 0 {
            self.levels.take(bucket, left.entries.min(left.hints), &mut hints);
            left.spend(hints.len());
            for Hint { ticket, .. } in hints.drain(..) {
                match self.slab.surface(ticket, tick) {
                    Fate::Due(tick, item) => {
                        out.push((tick, item));
                        left.entries -= 1;
                    }
                    Fate::Later(tick) => self.place(ticket, tick),
                    Fate::Gone => {}
                }
            }
        }
        self.buffer = hints;
    }

    fn hand_out_late(&mut self, left: &mut Allowance, out: &mut Vec<(u64, T)>) {
        let Some((tick, ticket)) = self.late.pop() else { return };
        left.hints -= 1;
        match self.slab.surface(ticket, tick) {
            Fate::Due(tick, item) => {
                out.push((tick, item));
                left.entries -= 1;
            }
            Fate::Later(tick) => self.place(ticket, tick),
            Fate::Gone => {}
        }
    }

    /// Time is at the start of the bucket: a small one of level 1 becomes the run, any other is to be spread.
    fn open(&mut self, bucket: Bucket, left: &mut Allowance) {
        self.stop_sweep_of(bucket);
        left.spend(OVERHEAD);
        if bucket.level > run::LEVEL || self.levels.len(bucket) > SORTED {
            self.spreading = Some(bucket);
            return;
        }
        left.spend(self.levels.len(bucket));
        let mut hints = std::mem::take(&mut self.buffer);
        self.levels.take_all(bucket, &mut hints);
        self.winnow(bucket, &mut hints);
        self.run.load(self.now, &mut hints);
        self.buffer = hints;
    }

    /// Moves hints of the bucket, at whose start time is, to the levels below.
    fn spread(&mut self, bucket: Bucket, left: &mut Allowance) {
        self.stop_sweep_of(bucket);
        let mut hints = std::mem::take(&mut self.buffer);
        while left.hints > 0 && self.levels.len(bucket) > 0 {
            if bucket.fits_hint() {
                let place_of = |hint: &Hint| Bucket::of(bucket.tick_of(*hint, self.now), self.now);
                let front = self.levels.front(bucket);
                if let Some(place) = front.first().map(place_of)
                    && front.len() == CHUNK
                    && front.iter().all(|hint| place_of(hint) == place)
                {
                    self.levels.relink(bucket, place);
                    left.spend(OVERHEAD);
                    continue;
                }
            }
            self.levels.take(bucket, CHUNK, &mut hints);
            left.spend(hints.len());
            for hint in hints.drain(..) {
                if bucket.fits_hint() {
                    let tick = bucket.tick_of(hint, self.now);
                    self.levels.push(Bucket::of(tick, self.now), hint);
                } else if let Some(tick) = self.slab.tick(hint.ticket) {
                    self.spread_far(bucket, Hint::new(hint.ticket, tick), tick);
                }
            }
        }
        self.buffer = hints;
        if self.levels.len(bucket) == 0 {
            self.spreading = None;
        }
    }

    /// Moves a hint of a bucket so long that only the slab knows the tick.
    fn spread_far(&mut self, bucket: Bucket, hint: Hint, tick: u64) {
        let place = Bucket::of(tick, self.now);
        if tick >= self.now && place.level < bucket.level {
            self.levels.push(place, hint);
        } else {
            self.place(hint.ticket, tick);
        }
    }
}
