//! A bad day for three networks: one is down for two minutes, one throttles, fails, refuses and hangs, one is well.
//!
//! `cargo run --release --example bad_day [-- --scale 20] [--json]` lives the day twice in one run, first with all three
//! networks well, then with their troubles, and checks that every post ends in the right state, that no limit is broken,
//! and that the healthy pool does not notice. `--scale 20` makes all times twenty times shorter.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Parser;
use hdrhistogram::Histogram;
use punctual::{
    Breaker, BroadcastError, Broadcaster, Delivery, MemoryStore, Outcome, Pool, Post, PostId, RateLimit, Receipt,
    Reconciled, RetryPolicy, Scheduler,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[derive(Parser)]
struct Args {
    /// All times are divided by this.
    #[arg(long, default_value_t = 1)]
    scale: u32,
    /// Posts for each network.
    #[arg(long, default_value_t = 3_000)]
    posts: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long)]
    json: bool,
}

/// What a network does when it sees a post for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Accepts,
    Throttles,
    Fails,
    Refuses,
    Hangs,
}

/// 20 % 429 with Retry-After, 5 % 5xx, 1 % permanent, 0.5 % hangs.
fn mood(draw: u32) -> Mood {
    match draw {
        0..200 => Mood::Throttles,
        200..250 => Mood::Fails,
        250..260 => Mood::Refuses,
        260..265 => Mood::Hangs,
        _ => Mood::Accepts,
    }
}

const PROFILES: usize = 100;
/// Starts for each profile and minute.
const LIMIT: u32 = 30;

/// A simulated network, and its own account of the day.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    down: Option<(DateTime<Utc>, DateTime<Utc>)>,
    scale: u32,
    moods: HashMap<String, Mood>,
    calls: HashMap<PostId, u32>,
    accepted: HashMap<PostId, u32>,
    starts: HashMap<String, Vec<DateTime<Utc>>>,
    late_micros: Vec<u64>,
}

impl Broadcaster for Network {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        let now = Utc::now();
        let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
        let (mood, is_first, is_down, retry_after) = {
            let mut seen = self.0.lock().map_err(|_| BroadcastError::permanent("poisoned"))?;
            seen.starts.entry(delivery.profile().to_owned()).or_default().push(now);
            let calls = seen.calls.entry(delivery.id()).or_default();
            *calls += 1;
            let is_first = *calls == 1;
            if is_first {
                let late = (now - delivery.due()).num_microseconds().unwrap_or(0);
                seen.late_micros.push(late.max(0) as u64);
            }
            let is_down = seen.down.is_some_and(|(from, to)| now >= from && now < to);
            let mood = seen.moods.get(&payload).copied().unwrap_or(Mood::Accepts);
            (mood, is_first, is_down, Duration::from_secs(20) / seen.scale)
        };
        tokio::time::sleep(Duration::from_millis(5)).await;
        match mood {
            _ if is_down => return Err(BroadcastError::transient("503")),
            Mood::Throttles if is_first => return Err(BroadcastError::throttled("429").retry_after(retry_after)),
            Mood::Fails if is_first => return Err(BroadcastError::transient("502")),
            Mood::Refuses => return Err(BroadcastError::permanent("422")),
            Mood::Hangs if is_first => std::future::pending().await,
            _ => {}
        }
        let mut seen = self.0.lock().map_err(|_| BroadcastError::unknown("poisoned"))?;
        *seen.accepted.entry(delivery.id()).or_default() += 1;
        Ok(Receipt::new(payload))
    }

    async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
        let seen = self.0.lock().map_err(|_| BroadcastError::transient("poisoned"))?;
        let is_there = seen.accepted.contains_key(&delivery.id());
        Ok(if is_there { Reconciled::Sent(Receipt::new("found")) } else { Reconciled::NotSent })
    }
}

/// What came of one day.
#[derive(Default)]
struct Day {
    posts: usize,
    wrong: usize,
    twice: usize,
    over_limit: usize,
    healthy_p99_micros: u64,
}

fn live(args: &Args, is_bad: bool) -> Result<Day, Box<dyn Error>> {
    let names = ["down", "bad", "well"];
    let secs = |secs: u64| Duration::from_secs(secs) / args.scale;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let (mut networks, mut builder) = (Vec::new(), Scheduler::builder().store(MemoryStore::default()));
    for name in &names {
        let network = Network::default();
        let retry = RetryPolicy::exponential(secs(4)).max_delay(secs(20)).max_attempts(60);
        let mut pool = Pool::new(*name, network.clone()).timeout(secs(30)).concurrency(200).retry(retry);
        if *name != "well" {
            pool = pool
                .limit_profiles(RateLimit::rolling(LIMIT, secs(60)))
                .breaker(Breaker::new(20).pause(secs(5)).max_pause(secs(20)));
        }
        builder = builder.pool(pool);
        networks.push(network);
    }
    let scheduler = builder.start()?;
    let start = Utc::now() + Duration::from_secs(1);
    let mut ids = Vec::new();
    for (name, network) in names.iter().zip(&networks) {
        let mut seen = network.0.lock().map_err(|_| "poisoned")?;
        seen.scale = args.scale;
        seen.down = (is_bad && *name == "down").then(|| (start + secs(20), start + secs(140)));
        let mut posts = Vec::with_capacity(args.posts);
        for n in 0..args.posts {
            let payload = format!("{name} {n}");
            let mood = if !is_bad || *name == "well" { Mood::Accepts } else { mood(rng.random_range(0..1_000)) };
            seen.moods.insert(payload.clone(), mood);
            let due = start + secs(170) * n as u32 / args.posts as u32;
            posts.push(Post::new(*name, payload).profile(format!("{}", n % PROFILES)).at(due));
        }
        drop(seen);
        ids.push(scheduler.schedule_all(posts).wait()?);
    }

    let mut day = Day::default();
    for ((name, network), ids) in names.iter().zip(&networks).zip(&ids) {
        for (n, id) in ids.iter().enumerate() {
            let outcome = scheduler.outcome(*id).wait()?;
            let seen = network.0.lock().map_err(|_| "poisoned")?;
            let accepted = seen.accepted.get(id).copied().unwrap_or(0);
            let is_refused = seen.moods.get(&format!("{name} {n}")) == Some(&Mood::Refuses);
            day.posts += 1;
            day.twice += usize::from(accepted > 1);
            day.wrong += usize::from(match outcome {
                Outcome::Delivered(_) => accepted == 0 || is_refused,
                Outcome::Failed { .. } => !is_refused,
                _ => true,
            });
        }
        let seen = network.0.lock().map_err(|_| "poisoned")?;
        if *name == "well" {
            let mut lateness = Histogram::<u64>::new(3)?;
            seen.late_micros.iter().try_for_each(|late| lateness.record(*late))?;
            day.healthy_p99_micros = lateness.value_at_quantile(0.99);
        } else {
            // In no span of a minute does a profile start more than its limit. The engine counts the moment of its
            // decision, the network that of the call, a little later: give the span those few milliseconds.
            let span = secs(60) - Duration::from_millis(50).min(secs(6));
            for starts in seen.starts.values() {
                let over = |pair: &[DateTime<Utc>]| (pair[LIMIT as usize] - pair[0]).to_std().is_ok_and(|by| by < span);
                day.over_limit += starts.windows(LIMIT as usize + 1).filter(|pair| over(pair)).count();
            }
        }
    }
    scheduler.shutdown(Duration::from_secs(5)).wait()?;
    Ok(day)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let good = live(&args, false)?;
    let bad = live(&args, true)?;
    let ratio = bad.healthy_p99_micros as f64 / good.healthy_p99_micros.max(1) as f64;
    if args.json {
        let report = serde_json::json!({
            "posts": bad.posts,
            "wrong_state": bad.wrong,
            "accepted_twice": bad.twice,
            "over_limit": bad.over_limit,
            "healthy_p99_ms_on_a_good_day": good.healthy_p99_micros as f64 / 1e3,
            "healthy_p99_ms_on_a_bad_day": bad.healthy_p99_micros as f64 / 1e3,
            "healthy_p99_ratio": ratio,
        });
        println!("{report}");
    } else {
        println!("posts                          {:>9}", bad.posts);
        println!("in a wrong state               {:>9}", bad.wrong);
        println!("accepted twice                 {:>9}", bad.twice);
        println!("spans over the limit           {:>9}", bad.over_limit);
        let [good, bad] = [&good, &bad].map(|day| day.healthy_p99_micros as f64 / 1e3);
        println!("p99 of the healthy pool on a good day {good:>9.3} ms");
        println!("                         on a bad day {bad:>9.3} ms ({ratio:.2} times)");
    }
    if bad.wrong + bad.twice + bad.over_limit > 0 {
        return Err("a promise was broken".into());
    }
    Ok(())
}
