//! How late is one post on an idle engine? Beside it the floor: a thread that sleeps to each instant in the same way
//! and does nothing else. `cargo bench --bench lateness -- [posts]`

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use hdrhistogram::Histogram;
use punctual::{Delivery, Pool, Post, Receipt, Scheduler, SledStore};

fn main() -> punctual::Result<()> {
    let posts: i32 = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(500);
    // Instants that fall on no beat of the operating system.
    let gaps = (0..posts).map(|n| Duration::from_micros(20_000 + u64::from(n.unsigned_abs()) * 137 % 9_000));

    let mut floor = Vec::new();
    for gap in gaps.clone() {
        let at = Instant::now() + gap;
        thread::sleep((gap).saturating_sub(Duration::from_micros(70)));
        while Instant::now() < at {
            std::hint::spin_loop();
        }
        floor.push(at.elapsed().as_micros() as i64);
    }

    let late: Arc<Mutex<Vec<i64>>> = Arc::default();
    let seen = Arc::clone(&late);
    let broadcaster = move |delivery: Delivery| {
        let late = (Utc::now() - delivery.due()).num_microseconds().unwrap_or(i64::MAX);
        seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(late);
        async { Ok(Receipt::default()) }
    };
    let folder = tempfile::tempdir().map_err(|source| punctual::Error::Thread { source: Arc::new(source) })?;
    let store = SledStore::open(folder.path())?;
    let scheduler = Scheduler::builder().store(store).pool(Pool::new("p", broadcaster)).start()?;
    let mut due: DateTime<Utc> = Utc::now() + Duration::from_secs(3);
    let mut last = None;
    for gap in gaps {
        last = Some(scheduler.schedule(Post::new("p", "x").at(due)).wait()?);
        due += gap;
    }
    if let Some(last) = last {
        scheduler.outcome(last).wait()?;
    }
    scheduler.shutdown(Duration::from_secs(1)).wait()?;

    show("floor", &floor);
    let late = late.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    show("punctual", &late);
    println!("early: {}", late.iter().filter(|late| **late < 0).count());
    Ok(())
}

fn show(name: &str, micros: &[i64]) {
    let mut histogram: Histogram<u64> = Histogram::new(3).expect("3 digits are allowed");
    for late in micros {
        histogram.saturating_record(u64::try_from(*late).unwrap_or(0));
    }
    let at = |percentile: f64| histogram.value_at_percentile(percentile);
    println!("{name}: {} posts, p50 {} µs, p99 {} µs, max {} µs", micros.len(), at(50.0), at(99.0), histogram.max());
}
