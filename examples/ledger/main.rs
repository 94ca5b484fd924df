//! Nothing is lost and nothing is repeated unnoticed, whenever the process is killed: one store, many lives, a network
//! of moods, and a judge who knows nothing of the engine.

#![forbid(unsafe_code)]

mod check;
mod draft;
mod host;
mod journal;
mod network;
mod pools;
mod run;

use std::fmt::Write;
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use check::{RULES, Verdict};
use host::{LIFE, Life};
use run::Run;

/// Kills a host with its store again and again, and holds what it saw and was told against the rules.
///
/// Exit code 0: no rule was violated. 1: one was; the seed is printed.
#[derive(Parser)]
#[command(name = "ledger")]
struct Args {
    /// How often the host is killed
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Of everything that is left to chance, but for time itself [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// What is done with posts of which nobody knows whether they were published
    #[arg(long, value_enum, default_value_t = Mode::AtLeastOnce)]
    mode: Mode,
    /// Print nothing but one line of JSON
    #[arg(long)]
    json: bool,
    /// Keep the journal and the store in this new directory [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    keep: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    AtMostOnce,
    AtLeastOnce,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AtMostOnce => "at-most-once",
            Self::AtLeastOnce => "at-least-once",
        }
    }
}

fn main() -> ExitCode {
    if let Some(life) = Life::given() {
        life.live();
        return ExitCode::SUCCESS;
    }
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let run = Run { kills: args.kills, seed, at_most_once: args.mode == Mode::AtMostOnce };
    let again = format!(
        "cargo run --release --example ledger -- --kills {} --seed {seed} --mode {}",
        args.kills,
        args.mode.name()
    );
    match go(&args, run) {
        Ok(verdict) => {
            if args.json {
                println!("{}", json(&args, seed, &verdict));
            } else {
                println!("{}", report(&args, seed, &verdict));
            }
            if verdict.is_clean() {
                return ExitCode::SUCCESS;
            }
            verdict.examples.iter().for_each(|example| eprintln!("{example}"));
        }
        Err(error) => eprintln!("ledger: {error}"),
    }
    eprintln!("again: {again}");
    ExitCode::FAILURE
}

fn go(args: &Args, run: Run) -> Result<Verdict, String> {
    let temporary = tempfile::tempdir().map_err(|error| error.to_string())?;
    let folder = args.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new(run.kills.into()) };
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} kills").map_err(|error| error.to_string())?;
    bar.set_style(style);
    let host = |life: &Life| {
        let mut command = Command::new(&own);
        command.env(LIFE, serde_json::to_string(life).expect("a life is plain data"));
        command
    };
    let verdict = run.go(folder, host, |kills| bar.set_position(kills.into()));
    bar.finish_and_clear();
    verdict
}

fn json(args: &Args, seed: u64, verdict: &Verdict) -> serde_json::Value {
    let mut json = json!(verdict);
    json["kills"] = args.kills.into();
    json["seed"] = seed.into();
    json["mode"] = args.mode.name().into();
    json
}

fn report(args: &Args, seed: u64, verdict: &Verdict) -> String {
    let Verdict { acked, delivered, failed, missed, cancelled, in_doubt, .. } = verdict;
    let Verdict { calls, sent, repeats, repeats_marked, sent_again, .. } = verdict;
    let mut text = format!(
        "{} kills, {}, seed {seed}\n\n\
         {acked:>9} posts acknowledged: {delivered} delivered, {failed} failed, {missed} missed, {cancelled} cancelled, {in_doubt} held in doubt\n\
         {calls:>9} calls of a broadcaster\n\
         {sent:>9} times published by the network, {sent_again} parts more than once\n\
         {repeats:>9} calls after one that may have published, {repeats_marked} of them marked\n\nviolations:\n",
        args.kills,
        args.mode.name(),
    );
    for (rule, what) in RULES {
        let count = verdict.violations.get(rule).copied().unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{count:>9} {rule}: {what}");
    }
    text
}
