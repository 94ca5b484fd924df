//! The result: a table for people, one line of JSON for programs.

use std::collections::BTreeMap;
use std::fmt;

use indicatif::HumanCount;
use serde::Serialize;

use crate::ledger::{Faults, Ledger};
use crate::plan::Plan;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// Of Buffer's posts, this many percent went out within so many seconds (published in 2021).
const PUBLISHED: [(u32, i64); 3] = [(90, 31), (95, 43), (98, 60)];

/// What was measured beside the posts themselves.
#[derive(Clone, Copy)]
pub struct Measured {
    pub schedule_per_s: f64,
    /// From the busiest instant until the last post was durably recorded.
    pub drain_s: f64,
    pub rss_mb: f64,
    pub store_mb: f64,
}

pub struct Report {
    posts: usize,
    minutes: Vec<Line>,
    pools: Vec<Line>,
    all: Line,
    faults: Faults,
    measured: Measured,
}

impl Report {
    pub fn new(plan: &Plan, ledger: &Ledger, faults: Faults, measured: Measured) -> Self {
        let mut minutes = BTreeMap::new();
        let mut pools: Vec<_> = plan.pools.iter().map(Line::new).collect();
        let mut all = Line::new("all");
        for (post, lateness) in ledger.lateness() {
            all.add(lateness);
            if let Some(pool) = pools.get_mut(usize::from(post.pool)) {
                pool.add(lateness);
            }
            if let Some(minute) = plan.minute(post.due) {
                minutes.entry(minute).or_insert_with_key(|minute| Line::new(format!("from {minute}"))).add(lateness);
            }
        }
        pools.retain(|pool| pool.due > 0);
        let mut minutes: Vec<_> = minutes.into_values().collect();
        for line in minutes.iter_mut().chain(&mut pools).chain([&mut all]) {
            line.lateness.sort_unstable();
        }
        Self { posts: plan.posts.len(), minutes, pools, all, faults, measured }
    }

    /// All posts of the lived window.
    pub fn all(&self) -> &Line {
        &self.all
    }

    pub fn json(&self) -> Result<String, serde_json::Error> {
        let Self { all, faults, measured, .. } = self;
        let ms = |share| rounded(all.quantile_ms(share));
        serde_json::to_string(&Json {
            posts: self.posts,
            sent: all.sent(),
            lost: faults.lost,
            repeated: faults.repeated,
            early: faults.early,
            within_minute_percent: rounded(all.percent_within(60)),
            late_90s: all.late_90s(),
            lateness_ms: JsonLateness { p50: ms(0.5), p99: ms(0.99), p999: ms(0.999), max: ms(1.0) },
            schedule_per_s: measured.schedule_per_s.round(),
            drain_s: rounded(measured.drain_s),
            drain_per_s: (all.sent() as f64 / measured.drain_s.max(0.001)).round(),
            rss_mb: rounded(measured.rss_mb),
            store_mb: rounded(measured.store_mb),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all, faults, measured, .. } = self;
        writeln!(f, "{:>57}{:>10}{:>44}", "within the", ">= 90 s", "lateness")?;
        write!(f, "{:24}{:>11}{:>11}{:>11}{:>10}", "", "due", "sent", "minute", "late")?;
        writeln!(f, "{:>11}{:>11}{:>11}{:>11}", "p50", "p99", "p99.9", "max")?;
        for line in &self.minutes {
            writeln!(f, "{line}")?;
        }
        if !self.minutes.is_empty() {
            writeln!(f)?;
        }
        for line in &self.pools {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\n{all}\n")?;

        let published = PUBLISHED.map(|(percent, seconds)| format!("{percent} % within {seconds} s"));
        let here = PUBLISHED.map(|(_, seconds)| format!("{:.2} % within {seconds} s", all.percent_within(seconds)));
        writeln!(f, "To beat  {} (Buffer, 2021)", published.join(", "))?;
        writeln!(f, "Here     {}", here.join(", "))?;
        write!(f, "Engine   {} posts a second stored, ", HumanCount(measured.schedule_per_s as u64))?;
        if self.minutes.is_empty() {
            write!(f, "all recorded {:.2} s after they were due, ", measured.drain_s)?;
        }
        writeln!(f, "{:.0} MB of memory at most, {:.0} MB on disk", measured.rss_mb, measured.store_mb)?;
        let verdict = if faults.none() { "PASS" } else { "FAIL" };
        write!(f, "{verdict}     by what the broadcasters saw: {faults}")
    }
}

/// Posts that belong together.
pub struct Line {
    label: String,
    due: usize,
    /// Of those that were sent, in nanoseconds, in ascending order.
    lateness: Vec<i64>,
}

impl Line {
    fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), due: 0, lateness: Vec::new() }
    }

    fn add(&mut self, lateness: Option<i64>) {
        self.due += 1;
        self.lateness.extend(lateness);
    }

    pub fn sent(&self) -> usize {
        self.lateness.len()
    }

    /// How many were sent less than so many nanoseconds, or just as many, after their due.
    pub fn sent_within(&self, nanos: i64) -> usize {
        self.lateness.partition_point(|lateness| *lateness <= nanos)
    }

    /// The lateness that this share of the posts sent does not exceed.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let rank = (share * self.lateness.len() as f64).ceil() as usize;
        self.lateness.get(rank.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / 1e6)
    }

    /// Of the posts due; one that was not sent is not within.
    fn percent_within(&self, seconds: i64) -> f64 {
        100.0 * self.sent_within(seconds * NANOS_PER_SECOND) as f64 / self.due.max(1) as f64
    }

    fn late_90s(&self) -> usize {
        self.sent() - self.lateness.partition_point(|lateness| *lateness < 90 * NANOS_PER_SECOND)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: usize| HumanCount(count as u64).to_string();
        write!(f, "{:24}{:>11}{:>11}", self.label, count(self.due), count(self.sent()))?;
        write!(f, "{:>9.2} %{:>10}", self.percent_within(60), count(self.late_90s()))?;
        [0.5, 0.99, 0.999, 1.0].iter().try_for_each(|share| write!(f, "{:>11}", duration(self.quantile_ms(*share))))
    }
}

/// A lateness with as many digits as matter.
pub fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

#[derive(Serialize)]
struct Json {
    posts: usize,
    sent: usize,
    lost: u64,
    repeated: u64,
    early: u64,
    within_minute_percent: f64,
    late_90s: usize,
    lateness_ms: JsonLateness,
    schedule_per_s: f64,
    drain_s: f64,
    drain_per_s: f64,
    rss_mb: f64,
    store_mb: f64,
}

#[derive(Serialize)]
struct JsonLateness {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// To three digits, downwards: what is not quite 100 % is not shown as 100 %.
fn rounded(value: f64) -> f64 {
    (value * 1e3).floor() / 1e3
}
