//! What the benches share: contestants that take turns within one run, so that a noisy machine is noisy for all of
//! them, and a table of medians and ratios at the end.
//!
//! With `PUNCTUAL_BENCH=short` in the environment every bench runs in a minute or so: to see that it works, not to
//! quote it.
#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod child;
pub mod goals;
pub mod host;
pub mod late;
pub mod machine;

use std::cell::RefCell;
use std::time::Duration;

use criterion::{Criterion, Throughput};

/// Whether this run is only to show that the bench works.
pub fn is_short() -> bool {
    std::env::var("PUNCTUAL_BENCH").is_ok_and(|value| value == "short")
}

/// Something that can be measured: how long so many operations took.
pub type Measure<'a> = Box<dyn FnMut() -> (Duration, usize) + 'a>;

/// Rows of measurements; the contestant that is named first in a row is what the others are compared with.
pub struct Contest {
    criterion: Criterion,
    rounds: usize,
    rows: Vec<(String, Vec<(String, f64)>)>,
}

impl Contest {
    /// So many rounds, in each of which every contestant has a turn; fewer in a short run.
    pub fn new(rounds: usize) -> Self {
        let criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(1))
            .measurement_time(Duration::from_millis(1))
            .configure_from_args();
        Self { criterion, rounds: if is_short() { 1 } else { rounds }, rows: Vec::new() }
    }

    /// Measures one row, unless it is filtered out on the command line.
    pub fn row(&mut self, name: &str, contestants: Vec<(&str, Measure<'_>)>) {
        let (names, measures): (Vec<&str>, Vec<Measure<'_>>) = contestants.into_iter().unzip();
        let (measures, seconds) = (RefCell::new(measures), RefCell::new(vec![Vec::new(); names.len()]));
        let mut group = self.criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for (place, contestant) in names.iter().enumerate() {
            let mut turn = 0;
            group.bench_function(*contestant, |bencher| {
                // All rounds are run when the first figure is wanted. One round measures many operations; criterion
                // is told what one of them took.
                bencher.iter_custom(|iterations| {
                    let mut seconds = seconds.borrow_mut();
                    if seconds[0].is_empty() {
                        for _ in 0..self.rounds {
                            for (measure, seconds) in measures.borrow_mut().iter_mut().zip(&mut *seconds) {
                                let (elapsed, operations) = measure();
                                seconds.push(elapsed.as_secs_f64() / operations as f64);
                            }
                        }
                    }
                    turn += 1;
                    Duration::from_secs_f64(seconds[place][turn % self.rounds] * iterations as f64)
                });
            });
        }
        group.finish();
        let seconds = seconds.into_inner();
        if seconds.iter().all(|seconds| !seconds.is_empty()) {
            let names = names.into_iter().map(str::to_owned);
            self.rows.push((name.to_owned(), names.zip(seconds.into_iter().map(median)).collect()));
        }
    }

    /// Seconds that one operation takes in this row, median; `None` if the row was filtered out.
    pub fn seconds(&self, row: &str, contestant: &str) -> Option<f64> {
        let (_, figures) = self.rows.iter().find(|(name, _)| name == row)?;
        figures.iter().find(|(name, _)| name == contestant).map(|(_, seconds)| *seconds)
    }

    /// Prints all rows: nanoseconds of one operation, and how many times the first one's each of the others takes.
    pub fn print(&self) {
        println!("\n{} rounds; ns per operation, median, and how many times the first one's", self.rounds);
        for (name, figures) in &self.rows {
            let first = figures.first().map_or(f64::NAN, |(_, seconds)| *seconds);
            println!("{name}");
            for (contestant, seconds) in figures {
                println!("    {contestant:32} {:12.1} {:8.2}x", seconds * 1e9, seconds / first);
            }
        }
    }
}

/// The median of these figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The first number among the arguments.
pub fn argument() -> Option<usize> {
    std::env::args().skip(1).find_map(|argument| argument.parse().ok())
}

/// Even numbers without a pattern, the same in every run.
pub fn scattered(number: usize) -> u64 {
    let mixed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 20
}
