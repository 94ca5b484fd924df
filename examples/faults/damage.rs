//! The files of a store are damaged: it gives right data or says that something is wrong, never less in silence.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use punctual::{ManualClock, Pool, Post, PostId, Receipt, Scheduler, SledStore, State};
use serde::Serialize;

use super::calls::copy;

const PAGE: usize = 4_096;
const NOON: &str = "2030-01-07T12:00:00Z";
const FAR: &str = "2040-01-01T00:00:00Z";

#[derive(Default, Debug, Serialize)]
pub struct Tally {
    pub damages: u64,
    pub noticed: u64,
    pub harmless: u64,
    /// What was lost or wrong in silence, and where.
    pub broken: Vec<String>,
}

/// A store with these posts in it, the first ones of them delivered; closed.
pub struct Sample {
    folder: PathBuf,
    ids: Vec<PostId>,
}

const DELIVERED: usize = 15;

fn scheduler(path: &Path) -> Result<(Scheduler, ManualClock), punctual::Error> {
    let clock = ManualClock::at(NOON.parse().expect("it is an instant"));
    let pool = Pool::new("p", |_| async { Ok(Receipt::default()) }).threads(1);
    Ok((Scheduler::builder().store(SledStore::open(path)?).clock(clock.clone()).pool(pool).start()?, clock))
}

fn payload(n: usize) -> Vec<u8> {
    n.to_string().repeat(30).into_bytes()
}

impl Sample {
    pub fn new(folder: &Path, posts: usize) -> Self {
        let (scheduler, clock) = scheduler(folder).expect("a new store opens");
        let due =
            |n| if n < DELIVERED { NOON } else { FAR }.parse::<chrono::DateTime<chrono::Utc>>().expect("an instant");
        let posts = (0..posts).map(|n| Post::new("p", payload(n)).at(due(n)).key(format!("k{n}")));
        let ids = scheduler.schedule_all(posts).wait().expect("they are stored");
        clock.advance(Duration::from_secs(1));
        scheduler.settle().wait().expect("they are sent");
        scheduler.shutdown(Duration::from_secs(5)).wait().expect("it closes");
        Self { folder: folder.to_owned(), ids }
    }

    /// True if all is there, false if it is said that something is wrong; what is wrong in silence is the error.
    pub fn is_whole(&self, path: &Path) -> Result<bool, String> {
        let Ok((scheduler, _)) = scheduler(path) else { return Ok(false) };
        let replies: Vec<_> = self.ids.iter().map(|id| scheduler.get(*id)).collect();
        for (n, reply) in replies.into_iter().enumerate() {
            match reply.wait() {
                Ok(Some(status)) => {
                    let state = if n < DELIVERED { State::Delivered } else { State::Scheduled };
                    if status.payload() != payload(n) || status.state() != state {
                        return Err(format!("post {n} is {:?}, or has other data", status.state()));
                    }
                }
                Ok(None) => return Err(format!("post {n} is gone")),
                Err(_) => return Ok(false),
            }
        }
        Ok(scheduler.shutdown(Duration::from_secs(5)).wait().is_ok())
    }

    /// Every damage: each so many-th byte changed in two ways, the file cut there, and pages that are zeroed, or another's.
    fn damages(&self, every: usize) -> Vec<(PathBuf, Damage)> {
        let mut all = Vec::new();
        for file in files(&self.folder) {
            let bytes = fs::read(&file).expect("it can be read");
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let mut add = |damage| all.push((file.clone(), damage));
            for at in (0..used).step_by(every) {
                add(Damage::Flip(at, 0x10));
                add(Damage::Flip(at, 0xff));
                add(Damage::Cut(at));
            }
            let pages = used.div_ceil(PAGE);
            for page in 0..pages {
                add(Damage::Zero(page));
                add(Damage::Double(page, (page + 1) % pages));
                add(Damage::Swap(page, (page + 1) % pages));
            }
        }
        all
    }

    /// Does all of it to copies of this store, in two lanes.
    pub fn run(&self, every: usize, each: impl Fn(usize, usize) + Sync) -> Tally {
        let scratch = tempfile::tempdir().expect("there is room for a folder");
        let damages = self.damages(every);
        let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some((number, (file, damage))) =
                        Some(next.fetch_add(1, Relaxed)).and_then(|n| Some((n, damages.get(n)?)))
                    {
                        let folder = scratch.path().join(number.to_string());
                        copy(&self.folder, &folder);
                        let relative = file.strip_prefix(&self.folder).expect("it is of this store");
                        let bytes = damage.of(fs::read(file).expect("it can be read"));
                        fs::write(folder.join(relative), bytes).expect("it can be written");
                        let answer = self.is_whole(&folder);
                        fs::remove_dir_all(&folder).expect("it can be removed");
                        let mut tally = tally.lock().expect("nobody panics with it");
                        tally.damages += 1;
                        match answer {
                            Ok(true) => tally.harmless += 1,
                            Ok(false) => tally.noticed += 1,
                            Err(what) => tally.broken.push(format!("{} {damage:?}: {what}", relative.display())),
                        }
                        drop(tally);
                        each(number, damages.len());
                    }
                });
            }
        });
        tally.into_inner().expect("nobody panics with it")
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Zero(usize),
    /// This page is there once more, in the place of that one.
    Double(usize, usize),
    Swap(usize, usize),
}

impl Damage {
    fn of(self, mut bytes: Vec<u8>) -> Vec<u8> {
        if !matches!(self, Self::Flip(..) | Self::Cut(_)) {
            bytes.resize(bytes.len().next_multiple_of(PAGE).max(PAGE), 0);
        }
        let len = bytes.len();
        let page = |page: usize| page * PAGE..((page + 1) * PAGE).min(len);
        match self {
            Self::Flip(at, by) => bytes[at] ^= by,
            Self::Cut(at) => bytes.truncate(at),
            Self::Zero(at) => bytes[page(at)].fill(0),
            Self::Double(from, to) => bytes.copy_within(page(from), to * PAGE),
            Self::Swap(one, other) => {
                let kept = bytes[page(other)].to_vec();
                bytes.copy_within(page(one), other * PAGE);
                bytes[page(one)].copy_from_slice(&kept);
            }
        }
        bytes
    }
}

/// All files that say something.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if !path.ends_with("ballast") && !path.ends_with("lock") {
            all.push(path);
        }
    }
    all
}
