//! A mixed load for hours: does anything break, and does anything drift?
//!
//! `cargo run --release --example soak -- --minutes 120 [--rate 2000] [--speed 1] [--dir PATH] [--json]` schedules a steady
//! stream of posts, singly and in batches, of which some are cancelled, moved, edited, sent at once, refused, throttled,
//! lost on the way or a month ahead, and looks at lateness, memory, the store's files, open files and threads each minute.
//! At the end every post is accounted for, and the last quarter of the run is compared with the second. With `--speed 100`
//! the clock goes a hundred times as fast, so that days pass and are forgotten.

#![forbid(unsafe_code)]

mod clock;
mod host;
mod ledger;
#[path = "../common/machine.rs"]
mod machine;
mod network;
mod script;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use clap::Parser;
use hdrhistogram::Histogram;
use punctual::{Pool, RateLimit, RetryPolicy, Scheduler, SledStore, State};

use clock::Clock;
use host::{Answered, Host, Result};
use ledger::Ledger;
use network::{Network, TIMEOUT};
use script::{BLOCKING, Fate, LIMITED, QUICK, SLOW, Script};
use watch::{Look, SHORTEST};

/// A mixed load for hours. Exit code 1: a promise was broken, or something drifts.
#[derive(Parser)]
struct Args {
    /// How long the whole run takes
    #[arg(long, value_parser = minutes)]
    minutes: Duration,
    /// Posts in a second
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// How many times as fast as the machine's the engine's clock goes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    speed: u32,
    /// Print nothing but one line of JSON
    #[arg(long)]
    json: bool,
    /// Keep the store in this new or empty directory [default: a temporary one]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

fn minutes(text: &str) -> std::result::Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "a number of minutes is wanted".to_owned())?;
    if (0.5..=10_000.0).contains(&minutes) {
        Ok(Duration::from_secs_f64(minutes * 60.0))
    } else {
        Err("between 0.5 and 10000 minutes".to_owned())
    }
}

/// The longest that a post waits for its due, but for those a month ahead.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// What the last posts need for their retries and doubts.
const LAST_TRIES: Duration = Duration::from_secs(10);
/// After it what has not come to its end never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks, unless the run is short.
const STRETCH: Duration = Duration::from_secs(60);
/// The longest lateness that is told from longer ones.
const LATEST: Duration = Duration::from_secs(3_600);
/// Posts a month ahead that are looked up at the end.
const LOOKED_UP: usize = 10_000;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

fn pools(network: &Network, rate: u64) -> [Pool; 4] {
    let time = |secs: u64| Duration::from_secs(secs) * network.script.speed;
    let retry = RetryPolicy::exponential(time(1)).max_delay(time(2));
    let pool = |name| Pool::new(name, network.clone()).timeout(TIMEOUT * network.script.speed).retry(retry);
    // A little more than comes: each limit holds up some posts, and lets all through in the end.
    let limited = (rate * 15 / 100 * 5 / 4).max(2) as u32;
    let of_profile = (limited / 5).max(2);
    [
        pool(QUICK).shards(2),
        pool(SLOW).concurrency(2_000),
        pool(LIMITED)
            .limit(RateLimit::rolling(limited, time(1)))
            .limit_profiles(RateLimit::rolling(of_profile, time(60))),
        pool(BLOCKING).concurrency(64).threads(4),
    ]
}

/// Answers whether all promises were kept and nothing drifts.
fn run(args: &Args) -> Result<bool> {
    let temporary = args.dir.is_none().then(tempfile::tempdir).transpose()?;
    let folder = temporary.as_ref().map(|dir| dir.path().to_owned()).or(args.dir.clone()).unwrap_or_default();
    let clock = Clock::new(args.speed);
    let longest = LONGEST.min(args.minutes / 6);
    let feeding = args.minutes.saturating_sub(longest + LAST_TRIES);
    let script = Script { start: clock.now(), rate: args.rate, speed: args.speed, longest };
    let end = script.start + TimeDelta::from_std(feeding * args.speed)?;

    let ledger = Arc::new(Ledger::new(script.reached(end)));
    let late = Arc::new(Mutex::new(Histogram::new_with_bounds(1, LATEST.as_micros() as u64, 3)?));
    let network = Network { script: script.clone(), clock: clock.clone(), ledger: Arc::clone(&ledger), late };
    let hour = Duration::from_secs(3_600);
    let builder = Scheduler::builder()
        .store(SledStore::open(&folder)?)
        .horizon(Duration::from_secs(30) * args.speed)
        .claim_ahead((Duration::from_secs(2) * args.speed).min(Duration::from_secs(5)))
        .memory(128 << 20)
        .retention(hour)
        .dead_letter_retention(hour);
    let scheduler = pools(&network, args.rate).into_iter().fold(clock.of(builder), punctual::Builder::pool).start()?;

    let is_over = Arc::new(AtomicBool::new(false));
    let ticking = clock.run(args.speed, &is_over);
    let listening = thread::spawn({
        let (script, ledger, events) = (script.clone(), Arc::clone(&ledger), scheduler.events());
        move || host::listen(&script, &ledger, events)
    });
    let host = Host {
        script: script.clone(),
        scheduler: scheduler.clone(),
        clock: clock.clone(),
        ledger: Arc::clone(&ledger),
    };
    let living = thread::spawn(move || host.live(end));

    let (started, stretch) = (Instant::now(), STRETCH.min(args.minutes / 12));
    let mut looks = Vec::new();
    if !args.json {
        Look::print_heading();
    }
    while started.elapsed() < args.minutes && !(living.is_finished() && looks.is_empty()) {
        thread::sleep(stretch.min(args.minutes.saturating_sub(started.elapsed())));
        let look = Look::take(started, ledger.all_ended(), &network.late, &folder)?;
        if !args.json {
            look.print();
        }
        looks.push(look);
    }
    // Of what is scheduled last some lie idle: only while posts flow steadily does drift say something.
    looks.retain(|look| look.minutes * 60.0 <= feeding.as_secs_f64());
    let (scheduled, answered) = living.join().map_err(|_| "the host panicked")??;

    let far = (0..scheduled).filter(|number| is_to_come(&script, &ledger, *number)).count() as u64;
    let waiting = Instant::now();
    while ledger.all_ended() < scheduled - far && waiting.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    let forgotten = forgotten(&script, &ledger, &scheduler, scheduled)?;
    scheduler.shutdown(Duration::from_secs(5) * args.speed).wait()?;
    drop(scheduler);
    let missed_events = listening.join().map_err(|_| "the listener panicked")?;
    is_over.store(true, Ordering::Relaxed);
    ticking.map(thread::JoinHandle::join);

    let to_come = ledger.judge(&script, scheduled);
    let days = (clock.now() - script.start).as_seconds_f64() / 86_400.0;
    let drift = if args.minutes < SHORTEST { Vec::new() } else { watch::drift(&looks, days) };
    let unaccounted = scheduled.abs_diff(ledger.all_ended() + to_come);
    let faults = ledger.faults.count() + forgotten + unaccounted;
    let result = Outcome { scheduled, to_come, days, forgotten, unaccounted, missed_events, answered };
    if args.json {
        println!("{}", result.json(&ledger, &looks, &drift));
    } else {
        result.print(&ledger, &drift);
    }
    Ok(faults == 0 && drift.iter().all(watch::Drift::is_flat))
}

/// Whether its due is a month ahead, and it was not taken back.
fn is_to_come(script: &Script, ledger: &Ledger, number: u64) -> bool {
    match script.part(number).fate {
        Fate::Far => true,
        Fate::FarCancelled => !ledger.has(number, ledger::CHANGED),
        _ => false,
    }
}

/// How many of the posts a month ahead the scheduler does not know any more.
fn forgotten(script: &Script, ledger: &Ledger, scheduler: &Scheduler, end: u64) -> Result<u64> {
    let mut forgotten = 0;
    for number in (0..end).filter(|number| is_to_come(script, ledger, *number)).take(LOOKED_UP) {
        let part = script.part(number);
        let status = scheduler.get(part.key()).wait()?;
        let is_there = status.is_some_and(|status| status.state() == State::Scheduled && status.due() == part.due);
        forgotten += u64::from(!is_there);
    }
    Ok(forgotten)
}

/// What came of the run.
struct Outcome {
    scheduled: u64,
    to_come: u64,
    days: f64,
    forgotten: u64,
    unaccounted: u64,
    missed_events: u64,
    answered: Answered,
}

impl Outcome {
    fn json(&self, ledger: &Ledger, looks: &[Look], drift: &[watch::Drift]) -> serde_json::Value {
        let [delivered, failed, missed, cancelled] = self.ended(ledger);
        let faults: serde_json::Map<_, _> =
            ledger.faults.rows().into_iter().map(|(what, faults)| (what.replace(' ', "_"), faults.into())).collect();
        serde_json::json!({
            "posts": self.scheduled,
            "delivered": delivered,
            "failed": failed,
            "missed": missed,
            "cancelled": cancelled,
            "to_come": self.to_come,
            "days": self.days,
            "changes": self.answered.changed,
            "changes_too_late": self.answered.too_late,
            "overloaded": self.answered.overloaded,
            "missed_events": self.missed_events,
            "faults": faults,
            "forgotten": self.forgotten,
            "unaccounted": self.unaccounted,
            "looks": looks,
            "drift": drift,
        })
    }

    fn ended(&self, ledger: &Ledger) -> [u64; 4] {
        std::array::from_fn(|place| ledger.ended[place].load(Ordering::Relaxed))
    }

    fn print(&self, ledger: &Ledger, drift: &[watch::Drift]) {
        let [delivered, failed, missed, cancelled] = self.ended(ledger);
        println!();
        let rows = [
            ("posts", self.scheduled),
            ("delivered", delivered),
            ("refused by the network", failed),
            ("missed, as they were to be", missed),
            ("cancelled", cancelled),
            ("a month ahead", self.to_come),
            ("changes", self.answered.changed),
            ("changes that came too late", self.answered.too_late),
            ("calls refused as too many", self.answered.overloaded),
        ];
        let faults = [("forgotten", self.forgotten), ("unaccounted for", self.unaccounted)];
        for (what, count) in rows.into_iter().chain(ledger.faults.rows()).chain(faults) {
            println!("{what:32} {count:12}");
        }
        println!("{:32} {:12.2}", "days of its clock", self.days);
        if drift.is_empty() {
            println!("too short to speak of drift");
            return;
        }
        println!("\n{:52} {:>10} {:>10} {:>10}", "drift", "2nd quarter", "last", "at most");
        for row in drift {
            let verdict = if row.is_flat() { "" } else { "   drifts" };
            println!("{:52} {:11.3} {:10.3} {:10.3}{verdict}", row.what, row.second, row.last, row.at_most);
        }
    }
}
