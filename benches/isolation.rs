//! Does a pool that is stuck delay another one? A light pool alone, and the same beside a heavy one of which every
//! delivery takes a minute and whose queue is full from its due on. They take turns; compared is the light pool's p99.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::goals::{Goal, Goals};
use common::host::{self, Engine};
use common::late::{self, Late};
use common::{is_short, median};
use punctual::{Delivery, Pool, Post, Receipt};

const ROUNDS: usize = 7;
const HEAVY_POSTS: usize = 20_000;
const HEAVY_CONCURRENCY: usize = 1_000;
/// All light posts come within this time, while nothing of the heavy pool ends.
const SPAN: Duration = Duration::from_secs(8);
const LIGHT_PER_SECOND: u64 = 500;

/// The light pool's lateness, in microseconds.
fn run(has_heavy: bool, span: Duration) -> Vec<i64> {
    let posts = span.as_secs() * LIGHT_PER_SECOND;
    let (late, in_flight) = (Late::with_room(posts as usize), Arc::new(AtomicUsize::new(0)));
    let entered = Arc::clone(&in_flight);
    let heavy = move |_: Delivery| {
        entered.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(Receipt::default())
        }
    };
    let heavy = Pool::new("heavy", heavy).concurrency(HEAVY_CONCURRENCY).timeout(Duration::from_secs(3_600));
    let engine = Engine::start([Pool::new("light", late.broadcaster()), heavy]);
    let start = host::ahead(Duration::from_secs(3));
    if has_heavy {
        let posts = (0..HEAVY_POSTS).map(|number| Post::new("heavy", number.to_le_bytes()).at(start));
        engine.scheduler.schedule_all(posts).wait().expect("posts are taken");
    }
    // The first second belongs to the heavy pool: its spike is over, and its queue is full.
    let light = (0..posts).map(|number| {
        let micros = 1_000_000 + number * 1_000_000 / LIGHT_PER_SECOND;
        Post::new("light", number.to_le_bytes()).at(start + Duration::from_micros(micros))
    });
    engine.scheduler.schedule_all(light).wait().expect("posts are taken");
    let late = late.take(posts as usize);
    let expected = if has_heavy { HEAVY_CONCURRENCY } else { 0 };
    assert_eq!(in_flight.load(Ordering::Relaxed), expected, "of the heavy pool in flight");
    assert_eq!(late::early(&late), 0, "early");
    engine.stop();
    late
}

fn main() {
    let (rounds, span) = if is_short() { (1, Duration::from_secs(1)) } else { (ROUNDS, SPAN) };
    let (mut ratios, mut rows) = (Vec::new(), [Vec::new(), Vec::new()]);
    println!("{:>5} {:>16} {:>16} {:>6}", "round", "alone p99 (µs)", "beside p99", "ratio");
    for round in 1..=rounds {
        let runs = [false, true].map(|has_heavy| run(has_heavy, span));
        let [alone, beside] = runs.each_ref().map(|late| late::histogram(late).value_at_quantile(0.99) as f64);
        println!("{round:>5} {alone:16} {beside:16} {:6.2}", beside / alone);
        ratios.push(beside / alone);
        rows.iter_mut().zip(runs).for_each(|(all, late)| all.extend(late));
    }
    late::print_heading("the light pool");
    late::print("alone", &rows[0]);
    late::print("beside the heavy one", &rows[1]);
    let mut goals = Goals::default();
    goals.add("p99 beside a heavy pool, times alone, median of the rounds", median(ratios), Goal::AtMost(1.2));
    goals.print();
}
