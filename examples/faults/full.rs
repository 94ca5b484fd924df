//! The disk is full for a while, and then there is room again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::host::{Ended, Job, Ran, Work, run};

#[derive(Default, Debug, Serialize)]
pub struct Tally {
    pub runs: u32,
    /// The disk was full before everything was scheduled.
    pub full: u32,
    /// While it was full the store opened, and everything went out.
    pub opened_full: u32,
    /// Somebody else had taken the last byte, those of the reserve too: by its ballast the store opened all the same.
    pub opened_taken: u32,
    /// Posts that had been acknowledged.
    pub acknowledged: u64,
    pub broken: Vec<String>,
}

/// Fills the disk so many times. Who may mount has disks of its own; who may not, files that cannot grow.
pub fn fill(folder: &Path, times: u32, seed: u64, host: impl Fn() -> Command, each: impl Fn(u32)) -> Tally {
    let mut random = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for time in 0..times {
        let own = folder.join(time.to_string());
        let store = own.join("store");
        fs::create_dir_all(&store).expect("the folder can be written");
        // Every other host keeps a reserve: for it the disk is larger, and has room for the ballast.
        let seed = seed + u64::from(time);
        let kib = if seed % 2 == 1 { random.random_range(66_000..74_000) } else { random.random_range(700..6_000) };
        let disk = Disk::mount(&store, kib);
        let job = |work, round| Job { work, folder: own.clone(), round, seed, at_most_once: false };
        let lives = |work, round, is_full: bool| -> Ran {
            let command = if is_full { disk.limit(kib, &host()) } else { host() };
            run(work, job(work, round).command(command), &own)
        };
        let first = lives(Work::Flood, 0, true);
        let taken = if store.join("ballast").exists() { disk.take_rest() } else { None };
        let looked = taken.map(|rest| {
            let looked = lives(Work::Open, 1, true);
            fs::remove_file(rest).expect("it can be removed");
            looked
        });
        let meanwhile = lives(Work::Finish, 1, true);
        disk.grow();
        let last = lives(Work::Finish, 2, false);

        tally.runs += 1;
        tally.full += u32::from(first.ended == Ended::Refused);
        tally.opened_full += u32::from(meanwhile.ended == Ended::Done);
        let acknowledged = last.said.lines().find_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
        tally.acknowledged += acknowledged.unwrap_or(0u64);
        let typed = [Ended::Done, Ended::Refused];
        tally.opened_taken += u32::from(looked.is_some());
        let looked = looked.iter().map(|looked| ("taken by others", looked, &typed[..1]));
        let others =
            [("filling", &first, &typed[..]), ("full", &meanwhile, &typed[..]), ("room again", &last, &typed[..1])];
        for (what, ran, may) in others.into_iter().chain(looked) {
            if !may.contains(&ran.ended) || ran.own_panics().next().is_some() {
                tally.broken.push(format!("time {time}, {kib} KiB, {what}: {:?}: {}", ran.ended, ran.said));
            }
        }
        drop(disk);
        fs::remove_dir_all(&own).expect("it can be removed");
        each(time);
    }
    tally
}

/// A disk of limited size.
enum Disk<'a> {
    Mounted(&'a Path),
    Limited,
}

impl<'a> Disk<'a> {
    fn mount(path: &'a Path, kib: u32) -> Self {
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        if mounted.is_ok_and(|out| out.status.success()) { Self::Mounted(path) } else { Self::Limited }
    }

    /// How a process is started so that it feels the limit.
    fn limit(&self, kib: u32, host: &Command) -> Command {
        let mut command = Command::new("sh");
        let limit = match self {
            Self::Mounted(_) => "unlimited".to_owned(),
            // In blocks of half a KiB.
            Self::Limited => (kib * 2).to_string(),
        };
        command.args(["-c", "trap '' XFSZ; ulimit -f $0; exec \"$@\"", &limit]).arg(host.get_program());
        command.args(host.get_args());
        command
    }

    /// Somebody else takes all that is left, if others can: the file to remove again.
    fn take_rest(&self) -> Option<PathBuf> {
        let Self::Mounted(path) = self else { return None };
        let rest = path.join("rest");
        let mut file = File::create(&rest).expect("a file can be made");
        for piece in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![1; piece]).is_ok() {}
        }
        Some(rest)
    }

    fn grow(&self) {
        if let Self::Mounted(path) = self {
            let grown = Command::new("mount").args(["-o", "remount,size=512m"]).arg(path).status();
            assert!(grown.is_ok_and(|status| status.success()), "the disk does not grow");
        }
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        if let Self::Mounted(path) = self {
            let _ = Command::new("umount").arg(path).status();
        }
    }
}
