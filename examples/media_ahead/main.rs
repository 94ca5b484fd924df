//! Media are uploaded ahead: one post in twenty carries media that take up to two minutes to upload. Uploaded at the
//! due, they make their posts late; prepared ahead of it, they do not.
//!
//! Both ways are lived through in simulated time, so it takes seconds.

#![forbid(unsafe_code)]

mod plot;
mod simulation;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use punctual::{
    BroadcastError, Broadcaster, Delivery, MemoryStore, Outcome, Pool, Post, PrepareAhead, Prepared, Receipt, Scheduler,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use simulation::Simulation;

/// How many posts are published at once: a pool's default.
const PLACES: usize = 256;
/// How many uploads are made at once.
const UPLOADS: usize = 64;
/// How long before its due a post is prepared.
const LEAD: Duration = Duration::from_secs(15 * 60);
/// One post in twenty carries media.
const MEDIA: f64 = 0.05;
/// How long the network may take for anything.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);
const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// Shows what it is worth to upload media ahead of the due.
#[derive(Parser)]
#[command(name = "media_ahead")]
struct Args {
    /// Posts that are due at 8:00
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(20..=100_000))]
    posts: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Few posts
    #[arg(long)]
    short: bool,
    /// Draw when the posts were published
    #[arg(long, value_name = "FILE.svg")]
    chart: Option<PathBuf>,
    /// Print nothing but one line of JSON
    #[arg(long)]
    json: bool,
}

/// How long the network takes for a post.
#[derive(Clone, Copy)]
struct Plan {
    upload: Option<Duration>,
    publish: Duration,
}

impl Plan {
    /// Uploads take 10 to 120 seconds, publishing takes 0.2 to 2.
    fn any(random: &mut StdRng) -> Self {
        let upload = random.random_bool(MEDIA).then(|| millis(random.random_range(10.0..120.0)));
        Self { upload, publish: millis(random.random_range(0.2..2.0)) }
    }
}

fn millis(seconds: f64) -> Duration {
    Duration::from_millis((seconds * 1_000.0) as u64)
}

/// One call of the broadcaster: from when to when.
#[derive(Clone, Copy)]
pub struct Published {
    started: DateTime<Utc>,
    accepted: DateTime<Utc>,
}

/// The network, in simulated time.
struct Network {
    simulation: Arc<Simulation>,
    plans: Arc<Vec<Plan>>,
    /// Its desks for uploads and for posts.
    uploads: usize,
    posts: usize,
    published: Arc<Mutex<Vec<Published>>>,
}

impl Network {
    fn plan(&self, delivery: &Delivery) -> Result<Plan, BroadcastError> {
        let number = std::str::from_utf8(delivery.payload())?.parse::<usize>()?;
        self.plans.get(number).copied().ok_or_else(|| BroadcastError::permanent("not a post of this run"))
    }
}

impl Broadcaster for Network {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        let plan = self.plan(&delivery)?;
        let started = self.simulation.begin(self.posts);
        if let Some(upload) = plan.upload.filter(|_| delivery.prepared().is_none()) {
            self.simulation.pass(upload).await;
        }
        self.simulation.pass(plan.publish).await;
        let accepted = self.simulation.clock.now();
        self.published.lock().unwrap_or_else(PoisonError::into_inner).push(Published { started, accepted });
        self.simulation.end(self.posts);
        Ok(Receipt::default())
    }

    async fn prepare(&self, delivery: Delivery) -> Result<Prepared, BroadcastError> {
        let plan = self.plan(&delivery)?;
        self.simulation.begin(self.uploads);
        self.simulation.pass(plan.upload.unwrap_or_default()).await;
        self.simulation.end(self.uploads);
        Ok(Prepared::new(format!("media of {}", delivery.id())))
    }
}

/// Lives through the posts of one 8:00; answers when each was published.
fn live(plans: &Arc<Vec<Plan>>, due: DateTime<Utc>, is_ahead: bool) -> Result<Vec<Published>, String> {
    let simulation = Simulation::at(due - TimeDelta::hours(1));
    let media = plans.iter().filter(|plan| plan.upload.is_some()).count();
    let published = Arc::new(Mutex::new(Vec::new()));
    let network = Network {
        simulation: Arc::clone(&simulation),
        plans: Arc::clone(plans),
        uploads: simulation.open(UPLOADS),
        posts: simulation.open(PLACES),
        published: Arc::clone(&published),
    };
    let (uploads, posts) = (network.uploads, network.posts);
    let mut pool = Pool::new("network", network).concurrency(PLACES).timeout(TIMEOUT);
    if is_ahead {
        pool = pool.prepare_ahead(PrepareAhead::by(LEAD).concurrency(UPLOADS).timeout(TIMEOUT));
    }
    let clock = simulation.clock.clone();
    let scheduler = Scheduler::builder().store(MemoryStore::default()).clock(clock).pool(pool).start().map_err(said)?;
    let all = plans.iter().enumerate().map(|(number, plan)| {
        let post = Post::new("network", number.to_string()).at(due);
        // What has no media needs no preparing.
        if plan.upload.is_some() { post } else { post.prepare_ahead(Duration::ZERO) }
    });
    let ids = scheduler.schedule_all(all).wait().map_err(said)?;

    if is_ahead {
        simulation.expect(uploads, media);
        simulation.run(due - LEAD)?;
        scheduler.settle().wait().map_err(said)?;
    }
    simulation.expect(posts, plans.len());
    simulation.run(due)?;
    for id in ids {
        let outcome = scheduler.outcome(id).wait().map_err(said)?;
        if !matches!(outcome, Outcome::Delivered(_)) {
            return Err(format!("post {id}: {outcome:?}"));
        }
    }
    scheduler.shutdown(Duration::ZERO).wait().map_err(said)?;
    let published = std::mem::take(&mut *published.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(published)
}

fn said(error: punctual::Error) -> String {
    error.to_string()
}

/// What came of one way.
pub struct Run {
    /// From due to publication, sorted, in milliseconds.
    pub after_due: Vec<i64>,
    /// From the call of the broadcaster to publication, sorted, in milliseconds.
    pub call: Vec<i64>,
}

impl Run {
    fn new(published: &[Published], due: DateTime<Utc>) -> Self {
        let sorted = |from: &dyn Fn(&Published) -> DateTime<Utc>| {
            let mut millis: Vec<i64> =
                published.iter().map(|one| (one.accepted - from(one)).num_milliseconds()).collect();
            millis.sort_unstable();
            millis
        };
        Self { after_due: sorted(&|_| due), call: sorted(&|one| one.started) }
    }

    pub fn within_minute_percent(&self) -> f64 {
        let within = self.after_due.partition_point(|millis| *millis < MINUTE.num_milliseconds());
        (within as f64 * 10_000.0 / self.after_due.len().max(1) as f64).round() / 100.0
    }
}

/// The smallest value that so many percent do not exceed.
fn percentile(sorted: &[i64], percent: usize) -> i64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("media_ahead: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let due: DateTime<Utc> = "2030-01-07T08:00:00Z".parse().map_err(|error| format!("{error}"))?;
    let count = if args.short { 400 } else { args.posts };
    let mut random = StdRng::seed_from_u64(args.seed);
    let plans: Arc<Vec<Plan>> = Arc::new((0..count).map(|_| Plan::any(&mut random)).collect());
    let without = Run::new(&live(&plans, due, false)?, due);
    let with = Run::new(&live(&plans, due, true)?, due);
    if let Some(path) = &args.chart {
        plot::draw(path, &without, &with).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if args.json {
        let json = serde_json::json!({
            "within_minute_percent_without": without.within_minute_percent(),
            "within_minute_percent_with": with.within_minute_percent(),
            "start_to_accept_p95_ms_without": percentile(&without.call, 95),
            "start_to_accept_p95_ms_with": percentile(&with.call, 95),
        });
        println!("{json}");
    } else {
        print(&plans, &without, &with);
    }
    Ok(())
}

fn print(plans: &[Plan], without: &Run, with: &Run) {
    let uploads: Vec<Duration> = plans.iter().filter_map(|plan| plan.upload).collect();
    let longest = uploads.iter().max().map_or(0.0, Duration::as_secs_f64);
    println!(
        "{} posts due at 8:00, {} of them with media that take up to {longest:.0} s to upload; {PLACES} published at once\n",
        plans.len(),
        uploads.len(),
    );
    println!("{:34}{:>16}{:>16}", "", "uploaded at due", "uploaded ahead");
    let row = |name: &str, value: &dyn Fn(&Run) -> String| {
        println!("{name:34}{:>16}{:>16}", value(without), value(with));
    };
    row("published within their minute", &|run| format!("{} %", run.within_minute_percent()));
    let seconds = |millis: i64| format!("{:.1} s", millis as f64 / 1_000.0);
    for percent in [50, 95, 99, 100] {
        row(&format!("due to publication, p{percent}"), &|run| seconds(percentile(&run.after_due, percent)));
    }
    for percent in [50, 95, 99, 100] {
        row(&format!("call to publication, p{percent}"), &|run| seconds(percentile(&run.call, percent)));
    }
}
