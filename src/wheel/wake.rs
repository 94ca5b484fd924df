//! When the next entry fires.

use super::Wheel;
use super::queue::Hint;

/// The minimum of a bucket with more hints than this is not searched for.
const SMALL: usize = 4_096;
/// Hints that one search looks at before it settles for a bound.
const SEARCH: usize = 4_096;

/// What a search came to.
enum Found {
    /// The smallest tick of all entries.
    Tick(u64),
    /// No entry fires before this tick.
    NotBefore(u64),
}

impl<T: Copy> Wheel<T> {
    /// The tick at which the next entry fires; `now()` if one is already due, `None` if there is none.
    ///
    /// It is never too late, and exact but for two cases, in which it may be earlier, though after `now()`: the
    /// next entry is in a bucket of more than 4,096 hints whose time has not come (the answer is when that bucket
    /// starts: time to spread it), or more than some thousand stale hints were found before it. While an advance
    /// is unfinished the answer may be `now()`.
    pub fn next_wake(&mut self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let tick = match self.earliest {
            Some(tick) => tick,
            None => match self.search()? {
                Found::Tick(tick) => *self.earliest.insert(tick),
                Found::NotBefore(bound) => bound,
            },
        };
        Some(tick.max(self.now))
    }

    /// Looks where the next entry can be, in the order of ticks, and clears away the wrong hints before it.
    fn search(&mut self) -> Option<Found> {
        let mut seen = 0;
        while let Some((tick, ticket)) = self.late.first() {
            let truth = self.slab.tick(ticket);
            if truth == Some(tick) {
                return Some(Found::Tick(tick));
            }
            if seen > SEARCH {
                return Some(Found::NotBefore(self.now));
            }
            seen += 1;
            self.late.pop();
            if let Some(tick) = truth {
                self.place(ticket, tick);
            }
        }
        if self.spreading.is_some() {
            return Some(Found::NotBefore(self.now));
        }
        let run = self.search_run();
        let bucket = self.search_ticks(&mut seen);
        match (run, bucket) {
            (Some(run), Some(Found::Tick(tick))) => Some(Found::Tick(run.min(tick))),
            (Some(run), Some(Found::NotBefore(bound))) if bound < run => Some(Found::NotBefore(bound)),
            (Some(run), _) => Some(Found::Tick(run)),
            (None, Some(found)) => Some(found),
            (None, None) => self.search_buckets(seen),
        }
    }

    fn search_run(&mut self) -> Option<u64> {
        while let Some((tick, ticket)) = self.run.front() {
            let truth = self.slab.tick(ticket);
            if truth == Some(tick) {
                return Some(tick);
            }
            self.run.skip(1);
            if let Some(tick) = truth {
                self.place(ticket, tick);
            }
        }
        None
    }

    /// Level 0, where all entries of a bucket have its tick.
    fn search_ticks(&mut self, seen: &mut usize) -> Option<Found> {
        while let Some(bucket) = self.levels.next_on(0, 0) {
            let tick = bucket.start(self.now);
            if *seen > SEARCH {
                return Some(Found::NotBefore(tick));
            }
            self.stop_sweep_of(bucket);
            let front = self.levels.front(bucket);
            let wrong = front.iter().take_while(|hint| self.slab.tick(hint.ticket) != Some(tick)).count();
            if wrong < front.len() {
                return Some(Found::Tick(tick));
            }
            *seen += wrong;
            let mut hints = std::mem::take(&mut self.buffer);
            self.levels.take(bucket, wrong, &mut hints);
            for Hint { ticket, .. } in hints.drain(..) {
                if let Some(tick) = self.slab.tick(ticket) {
                    self.place(ticket, tick);
                }
            }
            self.buffer = hints;
        }
        None
    }

    /// The levels above, where all entries of a bucket come before those of the next.
    fn search_buckets(&mut self, mut seen: usize) -> Option<Found> {
        while let Some(bucket) = self.levels.next_coarse() {
            self.stop_sweep_of(bucket);
            let len = self.levels.len(bucket);
            if len > SMALL || seen > SEARCH {
                return Some(Found::NotBefore(bucket.start(self.now)));
            }
            seen += len;
            let mut hints = std::mem::take(&mut self.buffer);
            self.levels.take_all(bucket, &mut hints);
            self.winnow(bucket, &mut hints);
            let first = hints.iter().filter_map(|hint| self.slab.tick(hint.ticket)).min();
            self.levels.push_all(bucket, &hints);
            hints.clear();
            self.buffer = hints;
            if let Some(tick) = first {
                return Some(Found::Tick(tick));
            }
        }
        None
    }
}
