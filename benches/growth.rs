//! Does a post cost more when many others are scheduled? A fixed set of posts is scheduled, dispatched and recorded on
//! top of a hundred thousand, a million or ten million that are due later. The stores take turns.
//! `cargo bench --bench growth -- [most posts]`

mod common;

use std::time::{Duration, Instant};

use common::goals::{Goal, Goals};
use common::host::{self, Engine, POOL, Row};
use common::late::Late;
use common::machine::{self, Usage};
use common::{is_short, median};
use punctual::Pool;

const FEWEST: usize = 100_000;
const ROUNDS: usize = 5;
const BATCH: usize = 1_000;
/// Long enough that all are stored and claimed when they are due.
const AHEAD: Duration = Duration::from_secs(5);
const STEPS: [&str; 4] = ["schedule", "dispatch", "record", "processor"];

/// An engine in whose store so many posts are due later.
struct Filled {
    engine: Engine,
    late: Late,
    posts: usize,
    /// Microseconds of one post, of each step, of each round.
    costs: [Vec<f64>; STEPS.len()],
}

impl Filled {
    fn new(posts: usize) -> Self {
        let late = Late::default();
        let engine = Engine::start([Pool::new(POOL, late.broadcaster())]);
        host::schedule(&engine.scheduler, 0..posts, host::in_30_days);
        Self { engine, late, posts, costs: Default::default() }
    }

    /// Schedules a set on one instant, in batches, and lives through it.
    fn round(&mut self, set: usize) {
        let due = host::ahead(AHEAD);
        let batches: Vec<Vec<_>> = (0..set)
            .step_by(BATCH)
            .map(|first| (first..first + BATCH).map(|number| Row::new(number, due).post()).collect())
            .collect();
        machine::quiet();
        let (before, started) = (Usage::now(), Instant::now());
        for batch in batches {
            self.engine.scheduler.schedule_all(batch).wait().expect("posts are taken");
        }
        let scheduled = started.elapsed();
        let late = self.late.take(set);
        self.engine.scheduler.settle().wait().expect("all is recorded");
        let recorded = (chrono::Utc::now() - due).num_microseconds().expect("a short time");
        machine::quiet();
        let processor = (Usage::now() - before).cpu;
        assert!(late.iter().all(|late| *late >= 0), "early");
        let dispatched = late.iter().max().copied().expect("there are posts");
        let all = [scheduled.as_micros() as f64, dispatched as f64, recorded as f64, processor.as_micros() as f64];
        self.costs.iter_mut().zip(all).for_each(|(costs, micros)| costs.push(micros / set as f64));
    }
}

fn main() {
    let most = common::argument().unwrap_or(if is_short() { FEWEST } else { 1_000_000 });
    let (set, rounds) = if is_short() { (5_000, 1) } else { (50_000, ROUNDS) };
    let fewest = if is_short() { most / 10 } else { FEWEST };
    let sizes = std::iter::successors(Some(fewest), |posts| Some(posts * 10)).take_while(|posts| *posts <= most);
    let mut all: Vec<Filled> = sizes.map(Filled::new).collect();
    for _ in 0..rounds {
        all.iter_mut().for_each(|filled| filled.round(set));
    }
    println!("µs of each of {set} posts; how many times that with the fewest others");
    println!("{:>12} {}", "others", STEPS.map(|step| format!("{step:>18}")).join(""));
    let mut goals = Goals::default();
    let mut first = None;
    for Filled { engine, posts, costs, .. } in all {
        engine.stop();
        let costs = costs.map(median);
        let least = *first.get_or_insert(costs);
        let times: Vec<f64> = costs.iter().zip(least).map(|(cost, least)| cost / least).collect();
        let cells = costs.iter().zip(&times).map(|(cost, times)| format!("{cost:10.3} {times:6.2}x"));
        println!("{posts:>12} {}", cells.collect::<String>());
        if posts == most {
            let steps = STEPS.iter().zip(times);
            steps
                .for_each(|(step, times)| goals.add(format!("{step}: growth up to {posts}"), times, Goal::AtMost(1.5)));
        }
    }
    goals.print();
}
