//! The engine in a world of faults: random workloads, clocks that step, commits that fail or stall, a network that
//! fails, hangs and loses answers, processes that die; every promise is checked after every step.
//!
//! ```text
//! cargo run --release --features test-util --example simulate -- --seed 1 --hours 1000
//! cargo run --release --features test-util --example simulate -- --seed 1 --seeds 5000 --hours 4
//! ```
//!
//! A seed is a whole world, and the same seed is the same run. `--hours` is the virtual time of each; afterwards the
//! world is healed, and every post must come to its end.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use punctual::sim::{self, Report};
use serde_json::json;

/// Lets the engine run in worlds of faults.
#[derive(Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Virtual hours of each seed.
    #[arg(long, default_value_t = 4.0)]
    hours: f64,
    /// Every so many seeds one runs twice, and must come to the same.
    #[arg(long, default_value_t = 100)]
    twice: u64,
    /// Prints one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Options { seed, seeds, hours, twice, json } = Options::parse();
    let (time, started) = (Duration::from_secs_f64(hours * 3_600.0), Instant::now());
    let mut all = Report { seed, ..Report::default() };
    let mut run = 0;
    for seed in (seed..).take(seeds as usize) {
        let report = sim::run(seed, time);
        let differs = twice > 0 && run % twice == 0 && sim::run(seed, time).digest != report.digest;
        run += 1;
        if differs {
            eprintln!("seed {seed} came to something else the second time");
            return ExitCode::FAILURE;
        }
        all.add(report);
        if all.broken.is_some() {
            break;
        }
    }
    print(&all, run, hours, started.elapsed(), json);
    if all.broken.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print(all: &Report, seeds: u64, hours: f64, took: Duration, as_json: bool) {
    let simulated = all.time.as_secs_f64() / 3_600.0;
    let replay =
        format!("cargo run --release --features test-util --example simulate -- --seed {} --hours {hours}", all.seed);
    if as_json {
        let broken = all.broken.as_ref().map(|broken| json!({ "what": broken.to_string(), "replay": replay }));
        let figures = json!({
            "seeds": seeds, "hours": simulated, "seconds": took.as_secs_f64(), "steps": all.steps, "posts": all.posts,
            "calls": all.calls, "faults": all.faults, "checks": all.checks, "broken": broken,
        });
        return println!("{figures}");
    }
    println!("{seeds} worlds, {simulated:.0} hours in {:.1} s, {} steps", took.as_secs_f64(), all.steps);
    println!("{} posts acknowledged, {} calls", all.posts, all.calls);
    println!("\nfaults");
    all.faults.iter().for_each(|(fault, times)| println!("  {times:>12}  {fault}"));
    println!("\npromises, and how often they were checked");
    all.checks.iter().for_each(|(promise, times)| println!("  {times:>12}  {promise}"));
    match &all.broken {
        None => println!("\nnone broken"),
        Some(broken) => println!("\nBROKEN: {broken}\nagain: {replay}"),
    }
}
