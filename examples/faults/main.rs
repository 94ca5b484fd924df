//! Everything that can be done to a process and its files, and what becomes of the promises.
//!
//! ```text
//! cargo run --release --example faults -- calls
//! cargo run --release --example faults -- power --cuts 1000 --images 5
//! cargo run --release --example faults -- damage
//! cargo run --release --example faults -- full --times 200
//! ```
//!
//! How often a process is killed with `kill -9` is what the example `ledger` is for.

#![forbid(unsafe_code)]

#[path = "mod.rs"]
mod faults;

use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use faults::calls::{Fault, Lab};
use faults::damage::Sample;
use faults::full;
use faults::host::{Job, Work};
use faults::ledger::host::Life;
use faults::power::Cuts;
use faults::shim;

/// Does something to processes and their files again and again, and holds what they did against the rules.
///
/// Exit code 0: no rule was violated. 1: one was, and it is said what repeats it.
#[derive(Parser)]
#[command(name = "faults")]
struct Args {
    #[command(subcommand)]
    fault: What,
    /// Of everything that is left to chance, but for time itself
    #[arg(long, default_value_t = 1, global = true)]
    seed: u64,
}

#[derive(Subcommand)]
enum What {
    /// Each call for a file fails, once and from then on
    Calls {
        /// What the process does meanwhile [default: everything]
        #[arg(long, value_enum)]
        work: Vec<Work>,
        /// What becomes of the call [default: everything]
        #[arg(long, value_enum)]
        fault: Vec<Fault>,
        /// Only every so many-th run
        #[arg(long, default_value_t = 1)]
        every: usize,
        /// Only this call
        #[arg(long)]
        at: Option<u64>,
        /// And every later one
        #[arg(long)]
        ever: bool,
    },
    /// The power fails, and of what was not synced any part survives
    Power {
        #[arg(long, default_value_t = 60)]
        cuts: u32,
        /// Images that are judged of each cut
        #[arg(long, default_value_t = 5)]
        images: u32,
    },
    /// Bytes and pages of a store's files are changed, and the files cut
    Damage {
        /// Only every so many-th byte
        #[arg(long, default_value_t = 1)]
        every: usize,
        /// Posts in the store
        #[arg(long, default_value_t = 40)]
        posts: usize,
    },
    /// The disk is full for a while, and then there is room again
    Full {
        #[arg(long, default_value_t = 5)]
        times: u32,
    },
}

const WORKS: [Work; 8] =
    [Work::Create, Work::Open, Work::Schedule, Work::Spike, Work::Claim, Work::Purge, Work::Close, Work::Recover];

fn main() -> ExitCode {
    if let Some(life) = Life::given() {
        life.live();
        return ExitCode::SUCCESS;
    }
    if let Some(job) = Job::given() {
        job.go();
    }
    let Args { fault, seed } = Args::parse();
    let own = std::env::current_exe().expect("a program knows itself");
    let host = || Command::new(&own);
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let build = |source| shim::build(source, folder.path());
    match fault {
        What::Calls { work, fault, every, at, ever } => {
            let Some(shim) = build(shim::CALLS) else { return ExitCode::FAILURE };
            let lab = Lab::new(folder.path(), &shim, &host, seed);
            let work = if work.is_empty() { WORKS.to_vec() } else { work };
            let fault = if fault.is_empty() { Fault::value_variants().to_vec() } else { fault };
            let tally = match at {
                Some(at) => lab.one(work[0], fault[0], at, ever),
                None => lab.run(&work, &fault, every, |done, of| tick(done as u64, of as u64)),
            };
            end(&tally, &tally.broken)
        }
        What::Power { cuts, images } => {
            let Some(shim) = build(shim::POWER) else { return ExitCode::FAILURE };
            let tally = Cuts { cuts, images, seed }.go(folder.path(), &shim, host, |cut| tick(cut.into(), cuts.into()));
            end(&tally, &tally.broken)
        }
        What::Damage { every, posts } => {
            let sample = Sample::new(&folder.path().join("sample"), posts);
            let tally = sample.run(every, |done, of| tick(done as u64, of as u64));
            end(&tally, &tally.broken)
        }
        What::Full { times } => {
            let tally = full::fill(folder.path(), times, seed, host, |time| tick(time.into(), times.into()));
            end(&tally, &tally.broken)
        }
    }
}

/// Says now and then how far it is.
fn tick(done: u64, of: u64) {
    if done.is_multiple_of(200) {
        eprintln!("{done} of {of}");
    }
}

fn end(tally: &impl Serialize, broken: &[String]) -> ExitCode {
    println!("{}", serde_json::to_string(tally).expect("a tally is plain data"));
    broken.iter().for_each(|what| eprintln!("{what}"));
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
