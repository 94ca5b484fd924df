//! The process that kills: lets hosts live for a short time, the last one to the end, and has it all judged.

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use punctual::Guarantee;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::check::{Verdict, judge};
use super::host::{Life, acked, ends};
use super::journal::{self, Journal};
use super::pools;

/// How long a host lives, in milliseconds, and how many of a hundred do: half of them die while they open the store.
const LIVES: [(u32, RangeInclusive<u64>); 3] = [(50, 0..=20), (40, 20..=80), (10, 80..=400)];

/// What is to be done.
#[derive(Clone, Copy)]
pub struct Run {
    pub kills: u32,
    pub seed: u64,
    pub at_most_once: bool,
}

impl Run {
    /// Does it in this folder. `host` makes the command that starts a host with such a life; `killed` hears of each kill.
    pub fn go(self, folder: &Path, host: impl Fn(&Life) -> Command, killed: impl Fn(u32)) -> Result<Verdict, String> {
        self.kill(folder, &host, killed)?;
        self.finish(folder, host)
    }

    /// Lets one host after another live, and kills it.
    pub fn kill(self, folder: &Path, host: impl Fn(&Life) -> Command, killed: impl Fn(u32)) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(self.seed);
        for round in 0..self.kills {
            let mut child = self.host(folder, round, &host).spawn().map_err(|error| format!("no host: {error}"))?;
            sleep(life_span(&mut random));
            let ended = child.try_wait().map_err(|error| error.to_string())?;
            child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
            if let Some(status) = ended {
                return Err(format!("host {round} ended by itself: {status}"));
            }
            killed(round + 1);
        }
        Ok(())
    }

    /// Lets the last one live to the end, and has all of it judged.
    pub fn finish(self, folder: &Path, host: impl Fn(&Life) -> Command) -> Result<Verdict, String> {
        let status = self.host(folder, self.kills, &host).status().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("the last host could not finish: {status}"));
        }
        self.judge(folder)
    }

    fn host(self, folder: &Path, round: u32, host: impl Fn(&Life) -> Command) -> Command {
        let Self { kills, seed, at_most_once } = self;
        host(&Life { folder: folder.to_owned(), seed, round, at_most_once, is_last: round == kills })
    }

    /// Opens the store once more and judges what it and the journal say.
    fn judge(self, folder: &Path) -> Result<Verdict, String> {
        let path = folder.join("journal");
        let guarantee = if self.at_most_once { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce };
        let journal = Arc::new(Journal::open(&path, self.kills + 1).map_err(|error| error.to_string())?);
        let scheduler = pools::open(folder, guarantee, &journal, None).map_err(|error| error.to_string())?;
        let ends = ends(&scheduler, &acked(&path)).map_err(|error| error.to_string())?;
        scheduler.shutdown(Duration::from_secs(10)).wait().map_err(|error| error.to_string())?;
        let read = || journal::read(&path).expect("the journal can be read");
        Ok(judge(read, &ends, self.at_most_once))
    }
}

fn life_span(random: &mut StdRng) -> Duration {
    let mut chance = random.random_range(0..100);
    for (of_a_hundred, span) in LIVES {
        if chance < of_a_hundred {
            return Duration::from_micros(random.random_range(span.start() * 1_000..=span.end() * 1_000));
        }
        chance -= of_a_hundred;
    }
    Duration::ZERO
}
