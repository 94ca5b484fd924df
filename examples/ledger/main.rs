//! Nothing is lost and nothing is repeated unnoticed, whenever the process is killed: one store, many lives, a network
//! of moods, and a judge who knows nothing of the engine.

#![forbid(unsafe_code)]

#[path = "mod.rs"]
mod ledger;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::{self, ScopedJoinHandle};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tempfile::TempDir;

use ledger::check::{RULES, Verdict};
use ledger::host::{LIFE, Life};
use ledger::run::Run;

/// Kills a host with its store again and again, and holds what it saw and was told against the rules.
///
/// Exit code 0: no rule was violated. 1: one was; the seed is printed.
#[derive(Parser)]
#[command(name = "ledger")]
struct Args {
    /// How often the host is killed
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Begin a new store after so many kills, and let each tenth one live ten times as long [default: one for all]
    #[arg(long)]
    renew: Option<u32>,
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

/// One store of so many lives ten times as long.
const GROWS: u32 = 10;

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
        "cargo run --release --example ledger -- --kills {} --seed {seed} --mode {}{}",
        args.kills,
        args.mode.name(),
        args.renew.map_or_else(String::new, |renew| format!(" --renew {renew}")),
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

/// Lets hosts live on one store after another, and adds up what became of it.
fn go(args: &Args, run: Run) -> Result<Verdict, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new(run.kills.into()) };
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} kills").map_err(|error| error.to_string())?;
    bar.set_style(style);
    let host = &|life: &Life| {
        let mut command = Command::new(&own);
        command.env(LIFE, serde_json::to_string(life).expect("a life is plain data"));
        command
    };
    let (mut sum, mut done) = (Verdict::default(), 0);
    thread::scope(|scope| {
        // While one store's last host finishes, others are killed already.
        let mut last: Option<ScopedJoinHandle<Result<Verdict, String>>> = None;
        for store in 0u32.. {
            let folder = Folder::of(args, store)?;
            let renew =
                args.renew.map_or(u32::MAX, |renew| if store % GROWS == GROWS - 1 { renew * GROWS } else { renew });
            let kills = renew.max(1).min(run.kills - done);
            let run = Run { kills, seed: run.seed.wrapping_add(store.into()), ..run };
            let told = move |error| format!("store {store}: {error}");
            run.kill(folder.path(), host, |kills| bar.set_position((done + kills).into())).map_err(told)?;
            done += kills;
            let finish = scope.spawn(move || run.finish(folder.path(), host).map_err(told));
            if let Some(last) = last.replace(finish) {
                sum.add(joined(last)?);
            }
            if done == args.kills || !sum.is_clean() {
                break;
            }
        }
        last.map_or(Ok(()), |last| joined(last).map(|verdict| sum.add(verdict)))
    })?;
    bar.finish_and_clear();
    Ok(sum)
}

fn joined(finish: ScopedJoinHandle<'_, Result<Verdict, String>>) -> Result<Verdict, String> {
    finish.join().unwrap_or_else(|_| Err("the judge fell over".to_owned()))
}

/// Where a store and its journal are.
enum Folder {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    fn of(args: &Args, store: u32) -> Result<Self, String> {
        match &args.keep {
            Some(keep) => {
                let path = keep.join(store.to_string());
                std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                Ok(Self::Kept(path))
            }
            None => tempfile::tempdir().map(Self::Temporary).map_err(|error| error.to_string()),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
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
