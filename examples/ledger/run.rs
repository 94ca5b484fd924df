//! The process that kills: lets hosts live for a short time, the last one to the end, and has it all judged.

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

/// How long a host lives, in milliseconds.
const LIVES: std::ops::RangeInclusive<u64> = 20..=400;

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
        let Self { kills, seed, at_most_once } = self;
        let life = |round| Life { folder: folder.to_owned(), seed, round, at_most_once, is_last: round == kills };
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..kills {
            let mut child = host(&life(round)).spawn().map_err(|error| format!("a host cannot be started: {error}"))?;
            sleep(Duration::from_millis(random.random_range(LIVES)));
            let ended = child.try_wait().map_err(|error| error.to_string())?;
            child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
            if let Some(status) = ended {
                return Err(format!("host {round} ended by itself: {status}"));
            }
            killed(round + 1);
        }
        let status = host(&life(kills)).status().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("the last host could not finish: {status}"));
        }
        self.judge(folder)
    }

    /// Opens the store once more and judges what it and the journal say.
    fn judge(self, folder: &Path) -> Result<Verdict, String> {
        let path = folder.join("journal");
        let guarantee = if self.at_most_once { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce };
        let journal = Arc::new(Journal::open(&path, self.kills + 1).map_err(|error| error.to_string())?);
        let scheduler = pools::open(folder, guarantee, &journal, None).map_err(|error| error.to_string())?;
        let ends = ends(&scheduler, &acked(&path));
        scheduler.shutdown(Duration::from_secs(10)).wait().map_err(|error| error.to_string())?;
        let read = || journal::read(&path).expect("the journal can be read");
        Ok(judge(read, &ends, self.at_most_once))
    }
}
