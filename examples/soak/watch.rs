//! What is watched while posts go out, and whether it drifts.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::machine;

/// What there is to see at the end of one stretch of the run.
#[derive(Clone, Serialize)]
pub struct Look {
    pub minutes: f64,
    /// Posts that have come to their end so far.
    pub ended: u64,
    /// Whose lateness this stretch knows.
    pub watched: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub memory_mb: f64,
    pub store_mb: f64,
    pub open_files: usize,
    pub threads: usize,
}

impl Look {
    pub fn take(since: Instant, ended: u64, late: &Mutex<Histogram<u64>>, folder: &Path) -> io::Result<Self> {
        let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = |micros: u64| micros as f64 / 1e3;
        let look = Self {
            minutes: since.elapsed().as_secs_f64() / 60.0,
            ended,
            watched: late.len(),
            p50_ms: millis(late.value_at_quantile(0.5)),
            p99_ms: millis(late.value_at_quantile(0.99)),
            max_ms: millis(late.max()),
            memory_mb: machine::memory().unwrap_or(0) as f64 / 1e6,
            store_mb: machine::size_of(folder)? as f64 / 1e6,
            open_files: machine::open_files().unwrap_or(0),
            threads: machine::threads().unwrap_or(0),
        };
        late.reset();
        Ok(look)
    }

    pub fn print_heading() {
        println!("minute      ended   p50 ms   p99 ms   max ms   memory MB   store MB   files   threads");
    }

    pub fn print(&self) {
        println!(
            "{:6.1} {:10} {:8.3} {:8.3} {:8.1} {:11.1} {:10.1} {:7} {:9}",
            self.minutes,
            self.ended,
            self.p50_ms,
            self.p99_ms,
            self.max_ms,
            self.memory_mb,
            self.store_mb,
            self.open_files,
            self.threads
        );
    }
}

/// Below it a run has hardly more than its warming up, and nothing is said of drift.
pub const SHORTEST: Duration = Duration::from_secs(10 * 60);

/// One figure in the second and the last quarter of a run, and how much it may be in the last.
#[derive(Serialize)]
pub struct Drift {
    pub what: &'static str,
    pub second: f64,
    pub last: f64,
    pub at_most: f64,
}

impl Drift {
    /// `more` times as much, and so much on top.
    fn new(what: &'static str, [second, last]: [f64; 2], more: f64, on_top: f64) -> Self {
        Self { what, second, last, at_most: second * more + on_top }
    }

    pub fn is_flat(&self) -> bool {
        self.last <= self.at_most
    }
}

/// From then on as many days are forgotten as are begun.
const DAYS: f64 = 4.0;
/// Memory of a post that the store remembers: sled's table of its pages.
const REMEMBERED_BYTES: f64 = 12.0;

/// Compares the last quarter with the second. If whole days have been lived, the store has forgotten some, and its files
/// and the memory are to be flat; within a day it remembers every post, and what a post takes is to be flat.
pub fn drift(looks: &[Look], days: f64) -> Vec<Drift> {
    let quarter = looks.len() / 4;
    if quarter == 0 {
        return Vec::new();
    }
    let quarters = [&looks[quarter - 1..2 * quarter], &looks[looks.len() - quarter - 1..]];
    let most = |of: fn(&Look) -> f64| quarters.map(|looks| looks.iter().skip(1).map(of).fold(0.0, f64::max));
    let median = |of: fn(&Look) -> f64| {
        quarters.map(|looks| {
            let mut figures: Vec<f64> = looks.iter().skip(1).map(of).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        })
    };
    let per_post = quarters.map(|looks| {
        let (first, last) = (&looks[0], &looks[looks.len() - 1]);
        (last.store_mb - first.store_mb) * 1e6 / (last.ended - first.ended).max(1) as f64
    });
    let (store, remembered) = if days < DAYS {
        let ended = quarters.map(|looks| looks[looks.len() - 1].ended as f64);
        let store = Drift::new("bytes of the store's files for each finished post", per_post, 1.25, 16.0);
        (store, (ended[1] - ended[0]) * REMEMBERED_BYTES / 1e6)
    } else {
        (Drift::new("the store's files, MB", most(|look| look.store_mb), 1.25, 16.0), 0.0)
    };
    vec![
        Drift::new("p99 of the lateness, ms (median of the stretches)", median(|look| look.p99_ms), 1.5, 0.5),
        Drift::new("memory, MB", most(|look| look.memory_mb), 1.1, 16.0 + remembered),
        store,
        Drift::new("open files", most(|look| look.open_files as f64), 1.0, 8.0),
        Drift::new("threads", most(|look| look.threads as f64), 1.0, 8.0),
    ]
}
