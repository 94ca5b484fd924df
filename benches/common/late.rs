//! How late posts are, as their broadcaster sees it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use hdrhistogram::Histogram;
use punctual::{Broadcaster, Delivery, Receipt};

/// How late each of many was, in microseconds; less than nothing for what was early.
#[derive(Clone, Default)]
pub struct Late(Arc<Mutex<Vec<i64>>>);

impl Late {
    pub fn with_room(for_so_many: usize) -> Self {
        Self(Arc::new(Mutex::new(Vec::with_capacity(for_so_many))))
    }

    /// Something with this due happens now.
    pub fn note(&self, due: DateTime<Utc>) {
        let late = (Utc::now() - due).num_microseconds().unwrap_or(i64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }

    /// A broadcaster that notes that it was called, and does nothing else.
    pub fn broadcaster(&self) -> impl Broadcaster + use<> {
        let late = self.clone();
        move |delivery: Delivery| {
            late.note(delivery.due());
            async { Ok(Receipt::default()) }
        }
    }

    /// Waits until so many have been noted, and takes their figures.
    pub fn take(&self, posts: usize) -> Vec<i64> {
        loop {
            let mut late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if late.len() >= posts {
                assert_eq!(late.len(), posts, "more were called than scheduled");
                return std::mem::take(&mut *late);
            }
            drop(late);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What is early counts as not late; it is counted by itself.
pub fn histogram(late: &[i64]) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("3 digits are allowed");
    // Not `saturating_record`: that one never makes the histogram longer than the 2 ms it begins with.
    late.iter().for_each(|late| histogram.record(u64::try_from(*late).unwrap_or(0)).expect("it grows"));
    histogram
}

pub fn early(late: &[i64]) -> usize {
    late.iter().filter(|late| **late < 0).count()
}

pub fn print_heading(what: &str) {
    println!("\n{:36} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6}", what, "posts", "p50 (µs)", "p99", "p99.9", "max", "early");
}

pub fn print(who: &str, late: &[i64]) {
    let figures = histogram(late);
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| figures.value_at_quantile(quantile));
    let (posts, max, early) = (late.len(), figures.max(), early(late));
    println!("{who:36} {posts:8} {p50:8} {p99:8} {p999:8} {max:8} {early:6}");
}
