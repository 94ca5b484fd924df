//! The process to which it is done: a host that does one piece of work and tells how it ended.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use clap::ValueEnum;
use punctual::{Builder, Error, Guarantee, ManualClock, PostId, Result, Scheduler, StoreError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::ledger::check::judge;
use super::ledger::draft::{Draft, payload};
use super::ledger::host::{End, acked, ends};
use super::ledger::journal::{self, Entry, Journal, Wish, micros};
use super::ledger::pools;

/// By this variable a process knows that it is such a host.
pub const JOB: &str = "PUNCTUAL_FAULTS";
/// A process that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 5 });
/// So does one that fills a disk, or waits until all that is left has ended, its retries included.
const LONG_PATIENCE: Duration = Duration::from_secs(60);
const HOUR: i64 = 3_600_000_000;
const POOL: &str = "wide";
/// Changes that are asked for at once.
const AT_ONCE: usize = 4_096;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
pub enum Work {
    /// Makes a store, with a few posts in it.
    Create,
    /// Looks every post up.
    Open,
    /// Schedules many posts, some at a time.
    Schedule,
    /// Publishes 400 posts that are due at once.
    Spike,
    /// Publishes posts whose claims are written ahead, and changes some meanwhile.
    Claim,
    /// Forgets what was published days ago.
    Purge,
    /// Shuts down while posts are being published.
    Close,
    /// Takes over what another process left, and publishes all of it.
    Recover,
    /// Dies while posts are being published.
    Die,
    /// Schedules and publishes until the disk is full.
    Flood,
    /// As `Recover`, and judges all that ever happened to the store.
    Finish,
}

/// What a process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub work: Work,
    /// Where its store and journal are.
    pub folder: PathBuf,
    /// The number of the process among those that write to this journal.
    pub round: u32,
    pub seed: u64,
    pub at_most_once: bool,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Everything was done.
    Done,
    /// A call returned a typed error.
    Refused,
    /// A call said that the store is damaged.
    Damaged,
    /// A promise was broken.
    Broken,
    /// It was killed, as it was to be.
    Killed,
    /// It was killed because it did nothing any more.
    Hung,
    /// Any other way: a panic of its own.
    Fell,
}

impl Ended {
    const CODES: [(Self, i32); 5] =
        [(Self::Done, 0), (Self::Killed, 9), (Self::Refused, 10), (Self::Damaged, 11), (Self::Broken, 12)];

    fn of(status: ExitStatus) -> Self {
        let code = status.code();
        Self::CODES.iter().find(|(_, known)| Some(*known) == code).map_or(Self::Fell, |(ended, _)| *ended)
    }

    fn exit(self) -> ! {
        let code = Self::CODES.iter().find(|(ended, _)| *ended == self).map_or(1, |(_, code)| *code);
        std::process::exit(code)
    }
}

/// What became of a process.
pub struct Ran {
    pub ended: Ended,
    /// What it printed: errors, panics, what was broken.
    pub said: String,
}

impl Ran {
    /// Panics outside of sled: the crate answers those inside with errors.
    pub fn own_panics(&self) -> impl Iterator<Item = &str> {
        self.said.lines().filter(|line| line.starts_with("panic ") && !line.contains("/sled-"))
    }

    pub fn has_panicked_in_sled(&self) -> bool {
        self.said.lines().any(|line| line.starts_with("panic ") && line.contains("/sled-"))
    }
}

impl Work {
    fn patience(self) -> Duration {
        if matches!(self, Self::Flood | Self::Finish) { LONG_PATIENCE } else { PATIENCE }
    }
}

/// Lets a process run to its end.
pub fn run(work: Work, mut command: Command, folder: &Path) -> Ran {
    let path = folder.join("said");
    let said = std::fs::File::create(&path).expect("the folder can be written");
    let error = said.try_clone().expect("a file has two ends");
    let started = Instant::now();
    let mut child = command.stdout(said).stderr(error).stdin(Stdio::null()).spawn().expect("a host starts");
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break Some(status);
        }
        if started.elapsed() > work.patience() {
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let ended = status.map_or(Ended::Hung, Ended::of);
    let mut stacks = String::new();
    if ended == Ended::Hung {
        // Where it hangs, if the machine can tell.
        let pid = child.id().to_string();
        let gdb = Command::new("gdb").args(["-p", &pid, "-batch", "-ex", "thread apply all bt 25"]).output();
        stacks = gdb.map_or_else(|error| error.to_string(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
        child.kill().and_then(|()| child.wait()).expect("a child can be killed");
    }
    let said = std::fs::read(&path).unwrap_or_default();
    Ran { ended, said: String::from_utf8_lossy(&said).into_owned() + &stacks }
}

impl Job {
    /// What this process was told, if it is such a host.
    pub fn given() -> Option<Self> {
        let text = std::env::var(JOB).ok()?;
        Some(serde_json::from_str(&text).expect("the parent wrote it"))
    }

    /// The command that does it, made of one that starts this program as a host.
    pub fn command(&self, mut host: Command) -> Command {
        host.env(JOB, serde_json::to_string(self).expect("a job is plain data"));
        host
    }

    /// Does it, and ends the process.
    pub fn go(&self) -> ! {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current().name().unwrap_or("?").to_owned();
            let text = panic.payload_as_str().unwrap_or_default().replace('\n', " ");
            println!("panic at {place} in {thread}: {text}");
        }));
        let ended = match self.work() {
            Ok(ended) => ended,
            Err(error) => {
                println!("{error}");
                if is_damage(&error) { Ended::Damaged } else { Ended::Refused }
            }
        };
        ended.exit()
    }

    fn work(&self) -> Result<Ended> {
        // Days that are over can be forgotten, and the clock is led to the next time that this is done.
        let clock = ManualClock::at(wall() - TimeDelta::days(4));
        let set = |builder: Builder| {
            let builder = builder.stall_after(Duration::from_secs(1));
            if self.work == Work::Purge { builder.retention(Duration::ZERO).clock(clock.clone()) } else { builder }
        };
        let journal = Arc::new(Journal::open(&self.journal(), self.round).expect("the journal opens"));
        let guarantee = if self.at_most_once { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce };
        // A disk is filled to the last byte, or to the reserve.
        let reserve = if self.work == Work::Flood { self.seed % 2 * pools::RESERVE } else { pools::RESERVE };
        let scheduler = pools::open_with(&self.folder, guarantee, &journal, None, reserve, set)?;
        let random = StdRng::seed_from_u64(self.seed ^ (u64::from(self.round) << 40));
        let mut host = Host { scheduler, journal, random, version: u64::from(self.round) << 20 };
        let done = host.work(self, &clock);
        let closed = host.scheduler.shutdown(Duration::from_millis(500)).wait();
        let ended = done?;
        closed.map(|()| ended)
    }

    fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }
}

fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Store(StoreError::Damaged { .. }))
}

fn wall() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros()).unwrap_or_default()
}

struct Host {
    scheduler: Scheduler,
    journal: Arc<Journal>,
    random: StdRng,
    version: u64,
}

impl Host {
    fn work(&mut self, job: &Job, clock: &ManualClock) -> Result<Ended> {
        match job.work {
            Work::Create => self.schedule(5, HOUR).map(drop)?,
            Work::Open => {
                for id in acked(&job.journal()) {
                    if self.scheduler.get(id).wait()?.is_none() {
                        println!("{id} is gone");
                        return Ok(Ended::Broken);
                    }
                }
            }
            Work::Schedule => {
                for _ in 0..10 {
                    let posts = self.random.random_range(1..40);
                    self.schedule(posts, HOUR)?;
                }
            }
            Work::Spike => {
                let ids = self.schedule(400, 0)?;
                self.wait(ids)?;
            }
            Work::Claim => self.claim()?,
            Work::Purge => self.purge(clock)?,
            Work::Close => {
                self.schedule(20, HOUR)?;
                self.schedule(10, 0)?;
            }
            Work::Recover => {
                let ids = acked(&job.journal());
                self.publish_now(&ids)?;
                self.wait(ids)?;
            }
            Work::Die => {
                self.schedule(20, HOUR)?;
                self.schedule(30, 20_000)?;
                std::thread::sleep(Duration::from_millis(20));
                Ended::Done.exit();
            }
            Work::Flood => {
                // Until it is refused.
                for _ in 0..200 {
                    self.schedule(400, HOUR)?;
                    self.schedule(20, 0)?;
                }
            }
            Work::Finish => return self.finish(job),
        }
        Ok(Ended::Done)
    }

    /// Schedules some posts, due so many microseconds from now.
    fn schedule(&mut self, posts: u32, ahead: i64) -> Result<Vec<PostId>> {
        let (place, now) = (self.journal.end(), micros());
        let drafts = (0..posts).map(|_| {
            self.version += 1;
            let draft = Draft::any(&mut self.random, now, place, self.version);
            Draft { due: now + ahead, pool: POOL.to_owned(), ..draft }
        });
        let replies: Vec<_> = drafts.map(|draft| (self.scheduler.schedule(draft.post()), draft)).collect();
        let (mut ids, mut failed) = (Vec::new(), None);
        for (reply, draft) in replies {
            match reply.wait() {
                Ok(id) => {
                    self.journal.write(&Entry::Ack { id, at: micros(), draft });
                    ids.push(id);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(ids), Err)
    }

    fn wait(&self, ids: Vec<PostId>) -> Result<()> {
        let replies: Vec<_> = ids.into_iter().map(|id| self.scheduler.outcome(id)).collect();
        replies.into_iter().try_for_each(|reply| reply.wait().map(drop))
    }

    fn claim(&mut self) -> Result<()> {
        let mut ids = self.schedule(20, 60_000)?;
        self.wish(ids[0], Wish::Cancel)?;
        self.wish(ids[1], Wish::Move(micros() + 20_000))?;
        self.version += 1;
        self.wish(ids[2], Wish::Edit(0, self.version))?;
        ids.extend(self.schedule(5, 0)?);
        self.wait(ids)
    }

    fn wish(&mut self, id: PostId, wish: Wish) -> Result<()> {
        self.journal.write(&Entry::Wish { id, wish });
        let reply = match wish {
            Wish::Cancel => self.scheduler.cancel(id),
            Wish::Move(due) => self.scheduler.reschedule(id, DateTime::from_timestamp_micros(due).unwrap_or_default()),
            Wish::Now => self.scheduler.publish_now(id),
            Wish::Edit(part, version) => self.scheduler.edit_part(id, part, payload(self.journal.end(), version)),
        };
        self.granted(id, wish, reply.wait())
    }

    fn granted(&self, id: PostId, wish: Wish, answer: Result<()>) -> Result<()> {
        match answer {
            Ok(()) => self.journal.write(&Entry::Granted { id, wish, at: micros() }),
            Err(Error::TooLate { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What is to be forgotten is not in the journal: the judge would ask for it. What is there must outlive it.
    fn purge(&mut self, clock: &ManualClock) -> Result<()> {
        self.schedule(10, HOUR)?;
        let (now, day) = (clock.now(), Duration::from_secs(86_400));
        let posts = (0..40).map(|_| punctual::Post::new(POOL, payload(0, 0)).at(now));
        let old = self.scheduler.schedule_all(posts).wait()?;
        clock.advance(Duration::from_secs(1));
        self.wait(old)?;
        clock.advance(day * 2);
        // It is sorted, then forgotten, then cleared away.
        for _ in 0..8 {
            clock.advance(Duration::from_secs(31));
            self.scheduler.settle().wait()?;
            self.schedule(2, HOUR)?;
        }
        Ok(())
    }

    fn publish_now(&self, ids: &[PostId]) -> Result<()> {
        let known = ends(&self.scheduler, ids)?;
        let open: Vec<_> = ids.iter().copied().filter(|id| known.get(id).is_some_and(|end| !end.is_over())).collect();
        // Not more at once than a scheduler takes.
        open.chunks(AT_ONCE).try_for_each(|some| {
            let asked: Vec<_> = some
                .iter()
                .map(|id| {
                    self.journal.write(&Entry::Wish { id: *id, wish: Wish::Now });
                    (*id, self.scheduler.publish_now(*id))
                })
                .collect();
            asked.into_iter().try_for_each(|(id, reply)| self.granted(id, Wish::Now, reply.wait()))
        })
    }

    fn finish(&self, job: &Job) -> Result<Ended> {
        let mut events = self.scheduler.events();
        let ids = acked(&job.journal());
        self.publish_now(&ids)?;
        let mut all: HashMap<PostId, End> = ends(&self.scheduler, &ids)?;
        let mut open: Vec<PostId> = ids;
        loop {
            open.retain(|id| all.get(id).is_some_and(|end| !end.is_over()));
            let Some(first) = open.first() else { break };
            println!("{} are open, the first of them {first}: {:?}", open.len(), all.get(first));
            events.wait().ok_or(Error::Closed)?;
            all.extend(ends(&self.scheduler, &open)?);
        }
        let read = || journal::read(&job.journal()).expect("the journal can be read");
        let verdict = judge(read, &all, job.at_most_once);
        verdict.examples.iter().for_each(|example| println!("{example}"));
        println!("acknowledged {}", verdict.acked);
        Ok(if verdict.is_clean() { Ended::Done } else { Ended::Broken })
    }
}
