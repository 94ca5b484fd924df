//! The power fails: of what was not synced any part is there, by pages, and each such image is a store like others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::calls::copy;
use super::host::{Ended, Job, Work, run};
use super::ledger::host::{LIFE, Life};

const PAGE: usize = 4_096;
/// After so many cuts a new store is begun.
const RENEW: u32 = 10;
/// How many of the pages that were not synced are there all the same.
const SURVIVE: [f64; 5] = [0.0, 0.1, 0.5, 0.9, 1.0];

/// What is to be done.
#[derive(Clone, Copy)]
pub struct Cuts {
    pub cuts: u32,
    /// Images that are made and judged of each.
    pub images: u32,
    pub seed: u64,
}

#[derive(Default, Debug, Serialize)]
pub struct Tally {
    pub cuts: u32,
    pub images: u32,
    /// Images in which something that was not synced was lost.
    pub torn: u32,
    /// Posts that had been acknowledged, over all images.
    pub acknowledged: u64,
    pub broken: Vec<String>,
}

impl Cuts {
    /// Does it in this folder. `host` starts this program as a host.
    pub fn go(self, folder: &Path, shim: &Path, host: impl Fn() -> Command, each: impl Fn(u32)) -> Tally {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut tally = Tally::default();
        let mut own = PathBuf::new();
        for cut in 0..self.cuts {
            if cut % RENEW == 0 {
                let _ = fs::remove_dir_all(&own);
                own = folder.join(format!("store {cut}"));
                fs::create_dir_all(&own).expect("the folder can be written");
                // On a busy machine the first cut comes before the host has begun to write.
                fs::write(own.join("journal"), "").expect("the folder can be written");
            }
            let (live, kept, boot) = (own.join("store"), own.join("kept"), own.join("boot"));
            let at_most_once = cut / RENEW % 2 == 1;
            let seed = self.seed + u64::from(cut);
            let life = Life { folder: own.clone(), seed, round: cut % RENEW, at_most_once, is_last: false };
            fs::write(&boot, format!("boot {cut}")).expect("the folder can be written");
            let mut child = host();
            child.env(LIFE, serde_json::to_string(&life).expect("a life is plain data"));
            child.env("LD_PRELOAD", shim).env("POWER_LIVE", &live).env("POWER_KEPT", &kept).env("POWER_BOOT", &boot);
            let mut child = child.stdout(Stdio::null()).spawn().expect("a host starts");
            sleep(Duration::from_millis(random.random_range(5..300)));
            let ended = child.try_wait().expect("a child can be waited for");
            child.kill().and_then(|()| child.wait()).expect("a child can be killed");
            tally.broken.extend(ended.map(|status| format!("cut {cut}: the host ended by itself: {status}")));

            for number in 0..self.images {
                let image = own.join("image");
                fs::create_dir_all(&image).expect("the folder can be written");
                fs::copy(own.join("journal"), image.join("journal")).expect("the journal is there");
                let store = image.join("store");
                tally.torn += u32::from(survive(&live, &kept, &store, &mut random));
                if number + 1 == self.images {
                    // The last one is what the next process finds.
                    fs::remove_dir_all(&live).or_else(absent_is_fine).expect("it can be removed");
                    fs::remove_dir_all(&kept).or_else(absent_is_fine).expect("it can be removed");
                    for to in [&live, &kept] {
                        copy(&store, to);
                    }
                }
                let job = Job { work: Work::Finish, folder: image.clone(), round: 1_000, seed, at_most_once };
                fs::write(&boot, format!("boot {cut} {number}")).expect("the folder can be written");
                let mut command = job.command(host());
                command.env("LD_PRELOAD", shim).env("POWER_BOOT", &boot);
                let ran = run(Work::Finish, command, &image);
                let acknowledged = ran.said.lines().find_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
                tally.acknowledged += acknowledged.unwrap_or(0u64);
                if ran.ended != Ended::Done || ran.own_panics().next().is_some() {
                    tally.broken.push(format!("cut {cut}, image {number}: {:?}: {}", ran.ended, ran.said));
                    return tally;
                }
                tally.images += 1;
                fs::remove_dir_all(&image).expect("it can be removed");
            }
            tally.cuts += 1;
            each(cut);
        }
        tally
    }
}

fn absent_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Makes a store of what was synced and of some of the pages that were not. True if anything is missing.
fn survive(live: &Path, kept: &Path, to: &Path, random: &mut StdRng) -> bool {
    fs::create_dir_all(to).expect("the folder can be written");
    let mut names: Vec<_> = [live, kept]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .collect::<Result<_, _>>()
        .expect("the folder can be read");
    names.sort_by_key(fs::DirEntry::file_name);
    names.dedup_by_key(|entry| entry.file_name());
    let mut is_torn = false;
    for entry in names {
        let name = entry.file_name();
        let (live, kept, to) = (live.join(&name), kept.join(&name), to.join(&name));
        if live.is_dir() || kept.is_dir() {
            is_torn |= survive(&live, &kept, &to, random);
            continue;
        }
        if name == "ballast" || to.extension().is_some_and(|extension| extension == "fresh" || extension == "unnamed") {
            continue;
        }
        let unnamed = fs::read(kept.with_added_extension("unnamed")).ok();
        if unnamed.is_some() && random.random_bool(0.5) {
            // What was written is on the disk, and the name is not.
            is_torn = true;
            continue;
        }
        let (written, synced) = (fs::read(&live).ok(), fs::read(&kept).ok().or(unnamed));
        let bytes = match (written, synced) {
            (Some(written), Some(synced)) => mix(&written, &synced, random),
            // The name itself may have reached the disk, or not.
            (Some(written), None) if random.random_bool(0.5) => mix(&written, &[], random),
            (_, synced) => synced.map(|bytes| (bytes, false)).unwrap_or_default(),
        };
        is_torn |= bytes.1;
        if live.exists() || kept.exists() {
            let is_absent = !kept.exists() && bytes.0.is_empty();
            if !is_absent {
                fs::write(&to, bytes.0).expect("the folder can be written");
            }
        }
    }
    is_torn
}

/// A file of these pages; whether any that was written is missing.
fn mix(written: &[u8], synced: &[u8], random: &mut StdRng) -> (Vec<u8>, bool) {
    let len = match written.len().cmp(&synced.len()) {
        std::cmp::Ordering::Greater if random.random_bool(0.5) => random.random_range(synced.len()..=written.len()),
        std::cmp::Ordering::Less if random.random_bool(0.5) => synced.len(),
        _ => written.len(),
    };
    let share = SURVIVE[random.random_range(0..SURVIVE.len())];
    let mut bytes = synced.to_vec();
    bytes.resize(len, 0);
    for (page, new) in bytes.chunks_mut(PAGE).zip(written.chunks(PAGE)) {
        let len = page.len().min(new.len());
        if page[..len] != new[..len] && random.random_bool(share) {
            page[..len].copy_from_slice(&new[..len]);
        }
    }
    let is_torn = bytes != written;
    (bytes, is_torn)
}
