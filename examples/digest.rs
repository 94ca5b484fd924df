//! The weekly digest: 600,000 letters spread over three hours, as one campaign. The letters are really stored on disk; the
//! three hours are lived through on a clock that is moved by hand, so they take a minute.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clap::Parser;
use punctual::{Delivery, ManualClock, Pacing, Pool, Post, Receipt, Scheduler, SledStore};

const WINDOW: Duration = Duration::from_secs(3 * 3_600);
const STEP: Duration = Duration::from_secs(10);
const POOL: &str = "mail";
/// Letters in one call.
const CALL: usize = 100_000;

/// Sends a digest, spread over three hours.
#[derive(Parser)]
#[command(name = "digest")]
struct Args {
    /// Letters
    #[arg(long, default_value_t = 600_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    letters: u32,
    /// Few letters
    #[arg(long)]
    short: bool,
    /// Cancel the campaign after so many minutes
    #[arg(long, value_name = "MINUTES")]
    cancel_after: Option<u64>,
    /// Print nothing but one line of JSON
    #[arg(long)]
    json: bool,
}

/// What the broadcaster saw.
struct Seen {
    sent: Vec<AtomicBool>,
    twice: AtomicU64,
    early: AtomicU64,
    /// Milliseconds.
    latest: AtomicI64,
}

impl Seen {
    fn new(letters: usize) -> Self {
        let sent = (0..letters).map(|_| AtomicBool::new(false)).collect();
        Self { sent, twice: AtomicU64::new(0), early: AtomicU64::new(0), latest: AtomicI64::new(0) }
    }

    fn see(&self, letter: &Delivery, now: DateTime<Utc>) {
        let number = std::str::from_utf8(letter.payload()).ok().and_then(|text| text.parse::<usize>().ok());
        let is_new =
            number.and_then(|number| self.sent.get(number)).is_some_and(|sent| !sent.swap(true, Ordering::Relaxed));
        self.twice.fetch_add(u64::from(!is_new), Ordering::Relaxed);
        let late = (now - letter.due()).num_milliseconds();
        self.early.fetch_add(u64::from(late < 0), Ordering::Relaxed);
        self.latest.fetch_max(late, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.sent.iter().filter(|sent| sent.load(Ordering::Relaxed)).count() as u64
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    let letters = if args.short { 30_000 } else { args.letters as usize };
    let say = |text: String| {
        if !args.json {
            println!("{text}");
        }
    };
    let clock = ManualClock::at("2027-01-04T06:00:00Z".parse()?);
    let seen: &'static Seen = Box::leak(Box::new(Seen::new(letters)));
    let now = clock.clone();
    let broadcaster = move |letter: Delivery| {
        seen.see(&letter, now.now());
        async { Ok(Receipt::default()) }
    };
    let folder = tempfile::tempdir()?;
    let store = SledStore::open(folder.path())?;
    let scheduler =
        Scheduler::builder().store(store).clock(clock.clone()).pool(Pool::new(POOL, broadcaster)).start()?;
    let campaign = scheduler.campaign("digest of week 1");
    let start: DateTime<Utc> = "2027-01-04T07:00:00Z".parse()?;

    let began = Instant::now();
    let mut dues = Pacing::new(start, WINDOW).jitter(1).dues(letters)?;
    for first in (0..letters).step_by(CALL) {
        let call = (first..letters.min(first + CALL)).zip(&mut dues);
        campaign.schedule_all(call.map(|(number, due)| Post::new(POOL, number.to_string()).at(due))).wait()?;
    }
    let scheduled = began.elapsed().as_secs_f64();
    say(format!("{letters} letters paced over three hours and durably scheduled in {scheduled:.2} s"));

    let began = Instant::now();
    clock.advance((start - clock.now()).to_std()?);
    let steps = WINDOW.as_secs() / STEP.as_secs();
    let mut sent = 0;
    // The most and the fewest letters of any ten minutes.
    let (mut most, mut fewest, mut before) = (0, u64::MAX, 0);
    for step in 1..=steps {
        clock.advance(STEP);
        let passed = step * STEP.as_secs();
        scheduler.settle().wait()?;
        if args.cancel_after.is_some_and(|minutes| passed == minutes * 60) {
            campaign.cancel().wait()?;
            say(format!("cancelled after {} minutes", args.cancel_after.unwrap_or_default()));
        }
        if passed.is_multiple_of(600) {
            sent = seen.count();
            (most, fewest, before) = (most.max(sent - before), fewest.min(sent - before), sent);
            let status = campaign.status().wait()?.ok_or("the campaign is there")?;
            let end = status.last_due.map(|end| end.format("%H:%M").to_string()).unwrap_or_default();
            if passed.is_multiple_of(1_800) {
                let at = clock.now().format("%H:%M");
                say(format!("{at}  {:>7} delivered, {:>7} left, expected end {end}", status.delivered, status.left));
            }
        }
    }
    let lived = began.elapsed().as_secs_f64();
    let status = campaign.status().wait()?.ok_or("the campaign is there")?;
    scheduler.shutdown(Duration::from_secs(5)).wait()?;

    let (twice, early) = (seen.twice.load(Ordering::Relaxed), seen.early.load(Ordering::Relaxed));
    let latest = seen.latest.load(Ordering::Relaxed);
    let is_complete =
        status.delivered == sent && status.delivered + status.cancelled == letters as u64 && status.left == 0;
    let is_even = args.cancel_after.is_some() || most - fewest <= most / 10;
    let is_good = is_complete && is_even && twice == 0 && early == 0 && latest <= STEP.as_millis() as i64;
    if args.json {
        let json = serde_json::json!({
            "letters": letters, "schedule_s": scheduled, "delivered": status.delivered, "cancelled": status.cancelled,
            "twice": twice, "early": early, "latest_ms": latest, "most_in_10_minutes": most, "fewest_in_10_minutes": fewest,
            "wall_s": lived,
        });
        println!("{json}");
    } else {
        println!(
            "{sent} sent, {} cancelled, {twice} twice, {early} early; {fewest} to {most} in each ten minutes; lived through \
             in {lived:.1} s",
            status.cancelled
        );
        println!("{}", if is_good { "every letter in its place" } else { "NOT as it should be" });
    }
    Ok(is_good)
}
