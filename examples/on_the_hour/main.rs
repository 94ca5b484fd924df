//! Posts go out on the hour: a day of posts goes into a durable store, then its busiest minute is lived through in
//! real time, and the broadcasters' own notes say how late each post was.

#![forbid(unsafe_code)]

mod broadcast;
mod input;
mod ledger;
#[path = "../common/machine.rs"]
mod machine;
mod model;
mod plan;
mod plot;
mod report;
mod screen;

use std::fmt::{self, Display};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use indicatif::HumanCount;
use punctual::{Pool, Post, RetryPolicy, Scheduler, SledStore};
use tempfile::TempDir;

use broadcast::Network;
use ledger::{Ledger, wall_millis, wall_nanos};
use model::{Model, WEEKDAY_POSTS};
use plan::{Plan, Planned, Stretch, Timeline, utc};
use report::{Measured, Report};
use screen::Screen;

const SHORT_POSTS: u64 = 20_000;
const MOST_POSTS: u64 = 20_000_000;
const BATCH: usize = 20_000;
/// How long after the lived window its posts are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Half of what the engine takes if nothing is said: the example keeps a plan and a ledger of all posts beside it.
const MEMORY: usize = 256 << 20;
/// What a broadcaster may take beyond its longest handling.
const SPARE: Duration = Duration::from_secs(30);
const MOST_CONCURRENT: usize = 1 << 20;

/// Schedules a day of posts into a durable store and lives through its busiest minute in real time.
///
/// Exit code 0: every post due went out once and none early. 1: not so. 2: the arguments or files are wrong.
#[derive(Parser)]
#[command(name = "on_the_hour")]
struct Args {
    /// Posts of the day; with --input the first rows of the file
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MOST_POSTS))]
    posts: Option<u64>,
    /// Replay the times of this file: .csv or .csv.gz with the columns utc,account_no or utc_epoch_ms,story_no
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Instead of a day, put N posts on one instant, for a broadcaster that does nothing
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_POSTS))]
    #[arg(conflicts_with_all = ["posts", "input", "short"])]
    spike: Option<u64>,
    /// A few seconds around the busiest instant, broadcasters of one second at most, and a small day
    #[arg(long)]
    short: bool,
    /// Draw how late the posts went out
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print nothing but one line of JSON
    #[arg(long)]
    json: bool,
    /// Keep the store in this new or empty directory [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Why there is no result.
enum Failure {
    /// The arguments or files are wrong.
    Input(String),
    /// It went wrong on the way.
    Run(String),
}

impl Failure {
    fn input(error: impl Display) -> Self {
        Self::Input(error.to_string())
    }

    fn run(error: impl Display) -> Self {
        Self::Run(error.to_string())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Input(what) | Self::Run(what)) = self;
        f.write_str(what)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("on_the_hour: {failure}");
            ExitCode::from(if matches!(failure, Failure::Input(_)) { 2 } else { 1 })
        }
    }
}

/// Answers whether every post due went out once and none early.
async fn run(args: &Args) -> Result<bool, Failure> {
    let screen = Screen::new(args.json);
    screen.say(&introduction(args));
    if let Some(path) = &args.plot {
        // Better now than after minutes.
        fs::File::create(path).map_err(|error| Failure::Input(format!("{}: {error}", path.display())))?;
    }
    let timeline = timeline(args)?;
    let stretch = match (args.spike, args.short) {
        (Some(_), _) => Stretch::INSTANT,
        (None, true) => Stretch::SHORT,
        (None, false) => Stretch::WHOLE,
    };
    let directory = Directory::new(args.store.as_deref())?;
    let store = SledStore::open(directory.path()).map_err(Failure::input)?;

    let plan = Arc::new(Plan::new(timeline, &stretch, wall_millis()));
    let ledger = Arc::new(Ledger::new(Arc::clone(&plan)));
    let scheduler = start(store, &plan, &ledger)?;
    screen.say(&what_comes(&plan));
    let schedule_per_s = store_all(&scheduler, &plan, &screen).await?;
    let ended = tokio::select! {
        ended = live_through(&scheduler, &plan, &ledger) => ended?,
        never = screen.follow(&plan, &ledger) => match never {},
    };

    let faults = ledger.faults(ended.closed);
    let measured = Measured {
        schedule_per_s,
        drain_s: (ended.recorded - plan.busiest) as f64 / 1e3,
        rss_mb: machine::peak_memory().unwrap_or(0) as f64 / 1e6,
        store_mb: machine::size_of(directory.path()).map_err(Failure::run)? as f64 / 1e6,
    };
    let report = Report::new(&plan, &ledger, faults, measured);
    screen.say(&format!("\n{report}"));
    if args.json {
        writeln!(io::stdout(), "{}", report.json().map_err(Failure::run)?).map_err(Failure::run)?;
    }
    if let Some(path) = &args.plot {
        plot::draw(path, report.all(), &plan.when()).map_err(Failure::run)?;
        screen.say(&format!("Chart    {}", path.display()));
    }
    if !faults.none() {
        eprintln!("on_the_hour: the check failed: {faults}");
    }
    Ok(faults.none())
}

fn introduction(args: &Args) -> String {
    let count = |posts: u64| HumanCount(posts).to_string();
    match (args.spike, &args.input) {
        (Some(posts), _) => format!(
            "{} posts, all due at the same instant, go into a durable store; then it is measured how soon after it\n\
             each has been handed to its broadcaster, and how soon all that is recorded durably.",
            count(posts)
        ),
        (None, Some(path)) => format!(
            "The posts of {}\ngo into a durable store, moved in time so that their busiest minute is about to come; \
             then that minute\nis lived through in real time, to see how late each post goes out.",
            path.display()
        ),
        (None, None) => format!(
            "A day of {} posts, shaped like a real one, goes into a durable store, moved in time so that its\n\
             busiest minute is about to come; then that minute is lived through in real time, to see how late\n\
             each post goes out. {}.",
            count(posts_of_the_day(args)),
            if args.short { "This takes some ten seconds" } else { "This takes two to three minutes" }
        ),
    }
}

fn posts_of_the_day(args: &Args) -> u64 {
    args.posts.unwrap_or(if args.short { SHORT_POSTS } else { WEEKDAY_POSTS })
}

fn timeline(args: &Args) -> Result<Timeline, Failure> {
    let model = Model::new()?;
    let limit = args.posts.unwrap_or(MOST_POSTS) as usize;
    match (args.spike, &args.input) {
        (Some(posts), _) => Ok(spike(posts as u32)),
        (None, Some(path)) => input::read(path, limit, model.networks()),
        (None, None) => Ok(model.day(posts_of_the_day(args) as usize)),
    }
}

/// So many posts at once, of a broadcaster that does nothing.
fn spike(posts: u32) -> Timeline {
    let post = |profile| Planned { due: 0, pool: 0, profile, handling: Duration::ZERO };
    Timeline { posts: (0..posts).map(post).collect(), pools: vec!["spike".to_owned()], clock: None }
}

fn start(store: SledStore, plan: &Plan, ledger: &Arc<Ledger>) -> Result<Scheduler, Failure> {
    let mut builder = Scheduler::builder().store(store).memory(MEMORY);
    for (name, posts) in plan.pools.iter().zip(plan.lived_by_pool()) {
        // Wide enough even if all of them were at work at once.
        let concurrency = (2 * posts as usize).clamp(100, MOST_CONCURRENT);
        let pool = Pool::new(name.as_str(), Network { ledger: Arc::clone(ledger) })
            .concurrency(concurrency)
            .threads(1)
            .timeout(plan.longest_handling + SPARE)
            .retry(RetryPolicy::none());
        builder = builder.pool(pool);
    }
    builder.start().map_err(Failure::run)
}

/// Schedules all posts in batches, one being stored while the next is made; answers posts a second.
async fn store_all(scheduler: &Scheduler, plan: &Plan, screen: &Screen) -> Result<f64, Failure> {
    let (bar, began) = (screen.storing(plan.posts.len()), wall_nanos());
    let mut under_way = None;
    let mut stored = 0;
    for (batch, first) in plan.posts.chunks(BATCH).zip((0..).step_by(BATCH)) {
        let posts: Vec<_> = batch.iter().zip(first..).map(|(planned, number)| post(plan, planned, number)).collect();
        if let Some(reply) = under_way.replace(scheduler.schedule_all(posts)) {
            stored += reply.await.map_err(Failure::run)?.len();
            bar.set_position(stored as u64);
        }
        in_time(plan, stored)?;
    }
    if let Some(reply) = under_way {
        stored += reply.await.map_err(Failure::run)?.len();
    }
    in_time(plan, stored)?;
    let seconds = (wall_nanos() - began) as f64 / 1e9;
    let count = HumanCount(stored as u64);
    screen.say(&format!("All {count} posts were stored in {seconds:.2} s, each on disk before the answer."));
    Ok(stored as f64 / seconds.max(1e-9))
}

fn post(plan: &Plan, planned: &Planned, number: usize) -> Post {
    let pool = plan.pool(planned.pool);
    Post::new(pool, broadcast::payload(number)).at(utc(planned.due)).profile(format!("{pool}/{}", planned.profile))
}

fn in_time(plan: &Plan, stored: usize) -> Result<(), Failure> {
    if wall_millis() <= plan.ready_by {
        return Ok(());
    }
    Err(Failure::Run(format!(
        "only {} of {} posts were stored when the busiest minute was about to begin: this disk or machine is too slow \
         for so many, try fewer",
        HumanCount(stored as u64),
        HumanCount(plan.posts.len() as u64)
    )))
}

fn what_comes(plan: &Plan) -> String {
    let lived = HumanCount(plan.lived().count() as u64);
    let at_once = HumanCount(plan.most_at_once() as u64);
    let clock = utc(plan.busiest).format("%H:%M:%S UTC");
    let Some(busiest) = plan.source_time(plan.busiest) else {
        return format!("They are due at {clock}.");
    };
    format!(
        "Its {busiest} comes at {clock}. {lived} posts are {}, up to {at_once} at one instant.\n\
         Broadcasters prepare and publish in one go, as long as the networks take (log-normal, cut at {} s).",
        plan.when(),
        plan.longest_handling.as_secs()
    )
}

/// When the engine was told to stop, and when it had recorded everything (ms since 1970).
struct Ended {
    closed: i64,
    recorded: i64,
}

/// Waits for the lived window to pass and its posts to be sent, then for the broadcasters to finish.
async fn live_through(scheduler: &Scheduler, plan: &Plan, ledger: &Ledger) -> Result<Ended, Failure> {
    while let Ok(left @ 1..) = u64::try_from(plan.window.end - wall_millis()) {
        tokio::time::sleep(Duration::from_millis(left)).await;
    }
    // A post that never comes is found in the ledger.
    let _ = tokio::time::timeout(PATIENCE, ledger.complete()).await;
    let closed = wall_millis();
    scheduler.shutdown(plan.longest_handling + SPARE).await.map_err(Failure::run)?;
    Ok(Ended { closed, recorded: wall_millis() })
}

/// Where the store is.
enum Directory {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Directory {
    fn new(kept: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = kept else {
            return tempfile::Builder::new()
                .prefix("on_the_hour-")
                .tempdir()
                .map(Self::Temporary)
                .map_err(Failure::run);
        };
        // Posts of an earlier run would go out among those of this one.
        if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::Input(format!("{}: the directory is not empty", path.display())));
        }
        Ok(Self::Kept(path.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(directory) => directory.path(),
        }
    }
}
