//! The engine in a world of faults: random workloads, clocks that step, commits that fail or stall, a network that
//! fails, hangs and loses answers, processes that die; every promise is checked after every step.
//!
//! ```text
//! cargo run --release --features test-util --example simulate -- --seed 1 --hours 1000
//! cargo run --release --features test-util --example simulate -- --seed 1 --seeds 5000 --hours 4
//! ```
//!
//! A seed is a whole world, and the same seed is the same run. `--hours` is the virtual time of each; afterwards the
//! world is healed, and every post must come to its end. A world that breaks a promise is shrunk: faults and kinds of
//! wishes that it does not take are left out (`--without`).

use std::collections::BTreeMap;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use punctual::sim::{self, CLASSES, Plan, Report};
use serde_json::json;

/// Lets the engine run in worlds of faults.
#[derive(Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, beginning with the first.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Virtual hours of each seed.
    #[arg(long, default_value_t = 4.0)]
    hours: f64,
    /// How many worlds run beside each other, each on one thread; as many as the machine has processors.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Every so many seeds one runs twice, and must come to the same.
    #[arg(long, default_value_t = 100)]
    twice: u64,
    /// What to leave out of the worlds, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(CLASSES))]
    without: Vec<String>,
    /// Fails if a branch that is seldom taken was never reached, and says which.
    #[arg(long)]
    marks: bool,
    /// A world that breaks a promise is told as it is, not shrunk.
    #[arg(long)]
    as_is: bool,
    /// Prints one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Options { seed: first, seeds, hours, jobs, twice, without, marks, as_is, json } = Options::parse();
    let without = without.into_iter().collect();
    let plan = Plan { seed: first, time: Duration::from_secs_f64(hours * 3_600.0), without };
    let started = Instant::now();
    let jobs = jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let reports = run_all(&plan, seeds, jobs, twice);
    let run = reports.len() as u64;
    let mut all = Report { seed: first, ..Report::default() };
    for (seed, report) in reports {
        match report {
            Some(report) => all.add(report),
            None => {
                eprintln!("seed {seed} came to something else the second time");
                return ExitCode::FAILURE;
            }
        }
    }
    let plan = Plan { seed: all.seed, ..plan };
    let smaller = |broken| {
        eprintln!("seed {}: {broken}; looking for a smaller world", plan.seed);
        sim::shrink(&plan, broken)
    };
    let again = all.broken.as_ref().map(|broken| again(&if as_is { plan.clone() } else { smaller(broken) }));
    print(&all, run, again.as_deref(), started.elapsed(), json);
    let unreached: Vec<_> = sim::reached().into_iter().filter(|(_, times)| marks && *times == 0).collect();
    unreached.iter().for_each(|(what, _)| eprintln!("never reached: {what}"));
    if all.broken.is_some() || !unreached.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The report of each seed, in their order, until one breaks a promise; none of a seed that comes to something else when
/// it runs a second time.
fn run_all(plan: &Plan, seeds: u64, jobs: usize, twice: u64) -> BTreeMap<u64, Option<Report>> {
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let job = || {
        let mut reports = BTreeMap::new();
        while !is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds {
                break;
            }
            let plan = Plan { seed: plan.seed + number, ..plan.clone() };
            let report = sim::run(&plan);
            let differs = twice > 0 && number.is_multiple_of(twice) && sim::run(&plan).digest != report.digest;
            if differs || report.broken.is_some() {
                is_over.store(true, Ordering::Relaxed);
            }
            reports.insert(plan.seed, (!differs).then_some(report));
        }
        reports
    };
    thread::scope(|scope| {
        let jobs: Vec<_> = (0..jobs).map(|_| scope.spawn(job)).collect();
        jobs.into_iter().flat_map(|job| job.join().expect("a job does not panic")).collect()
    })
}

/// The command that runs one plan.
fn again(Plan { seed, time, without }: &Plan) -> String {
    let (hours, without) = (time.as_secs_f64() / 3_600.0, without.iter().cloned().collect::<Vec<_>>().join(","));
    let without = if without.is_empty() { without } else { format!(" --without '{without}'") };
    format!("cargo run --release --features test-util --example simulate -- --seed {seed} --hours {hours}{without}")
}

fn print(all: &Report, seeds: u64, again: Option<&str>, took: Duration, as_json: bool) {
    let simulated = all.time.as_secs_f64() / 3_600.0;
    if as_json {
        let broken = all.broken.as_ref().map(|broken| json!({ "what": broken.to_string(), "again": again }));
        let figures = json!({
            "seeds": seeds, "hours": simulated, "seconds": took.as_secs_f64(), "steps": all.steps, "posts": all.posts,
            "calls": all.calls, "faults": all.faults, "checks": all.checks,
            "marks": sim::reached().into_iter().collect::<BTreeMap<_, _>>(), "broken": broken,
        });
        return println!("{figures}");
    }
    println!("{seeds} worlds, {simulated:.0} hours in {:.1} s, {} steps", took.as_secs_f64(), all.steps);
    println!("{} posts acknowledged, {} calls", all.posts, all.calls);
    println!("\nfaults");
    all.faults.iter().for_each(|(fault, times)| println!("  {times:>12}  {fault}"));
    println!("\npromises, and how often they were checked");
    all.checks.iter().for_each(|(promise, times)| println!("  {times:>12}  {promise}"));
    println!("\nbranches that are seldom taken, and how often they were reached");
    sim::reached().iter().for_each(|(what, times)| println!("  {times:>12}  {what}"));
    match &all.broken {
        None => println!("\nnone broken"),
        Some(broken) => println!("\nBROKEN, seed {}: {broken}\nagain: {}", all.seed, again.unwrap_or_default()),
    }
}
