//! The built-in day: when posts are due, for which networks, and how long those take to publish.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, LogNormal};
use serde::Deserialize;

use crate::Failure;
use crate::plan::{Planned, Timeline};

/// A weekday of a service that sends 800,000 posts on an average day.
pub const WEEKDAY_POSTS: u64 = 896_000;

const REAL_DAY: &str = include_str!("realday.json");
const SEED: u64 = 800;
const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;
const MINUTE: i64 = 60_000;
/// 2026-01-14T12:00:00Z, a Wednesday in winter: it decides how far the zones are from UTC.
const WEDNESDAY: i64 = 1_768_392_000;
/// How many standard deviations the 95th percentile lies above the median.
const P95: f64 = 1.644_853_6;

/// The figures of `realday.json` that are used here.
#[derive(Deserialize)]
struct RealDay {
    minute_of_hour_share: BTreeMap<i64, f64>,
    share_now_fraction: f64,
    local_hour_share: Vec<f64>,
    zones: BTreeMap<String, f64>,
    networks: BTreeMap<String, NetworkFigures>,
    channels: ChannelFigures,
}

/// Shares of the kinds of posts; median and 95th percentile of the seconds that each step takes.
#[derive(Deserialize)]
struct NetworkFigures {
    share: f64,
    text: f64,
    image: f64,
    video: f64,
    prep_text: Option<[f64; 2]>,
    prep_image: Option<[f64; 2]>,
    prep_video: Option<[f64; 2]>,
    publish: [f64; 2],
}

#[derive(Deserialize)]
struct ChannelFigures {
    posts_per_active_channel_per_day_mean: f64,
}

/// Draws posts as they are on a real weekday.
pub struct Model {
    dues: Dues,
    networks: Networks,
}

impl Model {
    /// The model of `realday.json`.
    pub fn new() -> Result<Self, Failure> {
        let figures: RealDay = serde_json::from_str(REAL_DAY).map_err(unusable)?;
        Ok(Self { dues: Dues::new(&figures)?, networks: Networks::new(figures)? })
    }

    /// A whole weekday; the same one for the same number of posts.
    pub fn day(self, posts: usize) -> Timeline {
        let mut random = random();
        let planned = (0..posts).map(|_| {
            let due = self.dues.draw(&mut random);
            let (pool, network) = self.networks.draw(&mut random);
            let channels = (posts as f64 * network.channels_per_post).ceil() as u32;
            let profile = random.random_range(0..channels.max(1));
            Planned { due, pool, profile, handling: network.handling(&mut random) }
        });
        Timeline { posts: planned.collect(), pools: self.networks.names, clock: Some("%H:%M:%S") }
    }

    /// The networks alone, for dues and profiles from elsewhere.
    pub fn networks(self) -> Networks {
        self.networks
    }
}

/// The random numbers of a run: the same in each.
pub fn random() -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(SEED)
}

/// When posts are due: most on round minutes of people's own clocks, some whenever "share now" was pressed.
struct Dues {
    now_fraction: f64,
    minutes: Vec<i64>,
    minute: WeightedIndex<f64>,
    local_hour: WeightedIndex<f64>,
    offsets: Vec<i64>,
    zone: WeightedIndex<f64>,
}

impl Dues {
    fn new(figures: &RealDay) -> Result<Self, Failure> {
        Ok(Self {
            now_fraction: figures.share_now_fraction,
            minutes: figures.minute_of_hour_share.keys().copied().collect(),
            minute: weighted(figures.minute_of_hour_share.values().copied())?,
            local_hour: weighted(figures.local_hour_share.iter().copied())?,
            offsets: figures.zones.keys().map(|name| utc_offset(name)).collect::<Result<_, _>>()?,
            zone: weighted(figures.zones.values().copied())?,
        })
    }

    /// Milliseconds since midnight UTC.
    fn draw(&self, random: &mut Xoshiro256PlusPlus) -> i64 {
        if random.random_bool(self.now_fraction) {
            return random.random_range(0..DAY);
        }
        let hour = self.local_hour.sample(random) as i64;
        let minute = self.minutes.get(self.minute.sample(random)).copied().unwrap_or(0);
        let offset = self.offsets.get(self.zone.sample(random)).copied().unwrap_or(0);
        (hour * HOUR + minute * MINUTE - offset).rem_euclid(DAY)
    }
}

fn utc_offset(zone: &str) -> Result<i64, Failure> {
    let zone: Tz = zone.parse().map_err(unusable)?;
    let wednesday = DateTime::from_timestamp(WEDNESDAY, 0).unwrap_or_default().naive_utc();
    Ok(i64::from(zone.offset_from_utc_datetime(&wednesday).fix().local_minus_utc()) * 1_000)
}

/// The networks, the largest first.
pub struct Networks {
    pub names: Vec<String>,
    all: Vec<Network>,
    which: WeightedIndex<f64>,
}

impl Networks {
    fn new(figures: RealDay) -> Result<Self, Failure> {
        let mut by_share: Vec<_> = figures.networks.into_iter().collect();
        by_share.sort_by(|(_, a), (_, b)| b.share.total_cmp(&a.share));
        let a_day = figures.channels.posts_per_active_channel_per_day_mean;
        Ok(Self {
            which: weighted(by_share.iter().map(|(_, figures)| figures.share))?,
            all: by_share.iter().map(|(_, figures)| Network::new(figures, a_day)).collect::<Result<_, _>>()?,
            names: by_share.into_iter().map(|(name, _)| name).collect(),
        })
    }

    /// A post's network, with its place in `names`.
    pub fn draw(&self, random: &mut Xoshiro256PlusPlus) -> (u8, &Network) {
        let place = self.which.sample(random);
        // There are as many networks as weights, and about a dozen.
        (place as u8, &self.all[place])
    }
}

/// How long one network takes.
pub struct Network {
    channels_per_post: f64,
    kind: WeightedIndex<f64>,
    /// For text, image and video; `None` takes no time.
    prepare: [Option<LogNormal<f64>>; 3],
    publish: Option<LogNormal<f64>>,
}

impl Network {
    fn new(figures: &NetworkFigures, posts_per_channel: f64) -> Result<Self, Failure> {
        let seconds = |percentiles: Option<[f64; 2]>| percentiles.map_or(Ok(None), log_normal);
        let NetworkFigures { prep_text, prep_image, prep_video, .. } = *figures;
        Ok(Self {
            channels_per_post: figures.share / posts_per_channel,
            kind: weighted([figures.text, figures.image, figures.video])?,
            prepare: [seconds(prep_text)?, seconds(prep_image)?, seconds(prep_video)?],
            publish: seconds(Some(figures.publish))?,
        })
    }

    /// The time to prepare and publish one post of a random kind.
    pub fn handling(&self, random: &mut Xoshiro256PlusPlus) -> Duration {
        let prepare = self.prepare.get(self.kind.sample(random)).copied().flatten();
        let steps = [prepare, self.publish].into_iter().flatten();
        steps.map(|step| Duration::from_secs_f64(step.sample(random).min(3_600.0))).sum()
    }
}

/// The log-normal distribution with this median and 95th percentile.
fn log_normal([p50, p95]: [f64; 2]) -> Result<Option<LogNormal<f64>>, Failure> {
    if p50 == 0.0 {
        return Ok(None);
    }
    LogNormal::new(p50.ln(), (p95 / p50).ln() / P95).map(Some).map_err(unusable)
}

fn weighted(weights: impl IntoIterator<Item = f64>) -> Result<WeightedIndex<f64>, Failure> {
    WeightedIndex::new(weights).map_err(unusable)
}

fn unusable(error: impl std::fmt::Display) -> Failure {
    Failure::Run(format!("realday.json cannot be used: {error}"))
}
