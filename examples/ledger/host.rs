//! The process that is killed: a host that schedules and changes posts as fast as it is told to.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use punctual::{Error, Guarantee, Outcome, PostId, PostRef, Reply, Scheduler, State, Status};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::draft::{Draft, payload};
use super::journal::{self, Entry, Journal, Wish, micros};
use super::{network, pools};

/// Posts that a process schedules in a second.
const RATE: f64 = 300.0;
/// How much of the journal a process reads when it starts, to know what went before.
const TAIL: u64 = 64 << 10;
/// By this variable a process knows that it is such a host.
pub const LIFE: &str = "PUNCTUAL_LEDGER";

/// What a process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Life {
    pub folder: PathBuf,
    pub seed: u64,
    pub round: u32,
    pub at_most_once: bool,
    /// It is not killed, and finishes everything.
    pub is_last: bool,
}

impl Life {
    /// What this process was told, if it is such a host.
    pub fn given() -> Option<Self> {
        let text = std::env::var(LIFE).ok()?;
        Some(serde_json::from_str(&text).expect("the parent wrote it"))
    }

    pub fn guarantee(&self) -> Guarantee {
        if self.at_most_once { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce }
    }

    /// Lives it, until the kill or the end.
    pub fn live(&self) {
        be_quiet_about_the_network();
        let journal = Arc::new(Journal::open(&self.folder.join("journal"), self.round).expect("the journal opens"));
        let chaos = (!self.is_last).then_some(self.seed);
        let scheduler = pools::open(&self.folder, self.guarantee(), &journal, chaos).expect("the store opens");
        let mut host = Host {
            random: StdRng::seed_from_u64(self.seed ^ (u64::from(self.round) << 40)),
            known: Vec::new(),
            version: u64::from(self.round) << 20,
            scheduler,
            journal,
        };
        host.take_up();
        if self.is_last {
            host.finish(&self.folder.join("journal"));
        } else {
            host.work();
        }
    }
}

/// Simulated panics say nothing; others do.
fn be_quiet_about_the_network() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(network::PANIC) {
            loud(panic);
        }
    }));
}

struct Host {
    scheduler: Scheduler,
    journal: Arc<Journal>,
    random: StdRng,
    /// Posts that may still be changed.
    known: Vec<(PostId, Draft)>,
    /// Of the last payload that was made.
    version: u64,
}

impl Host {
    /// Goes on where the process before was killed: asks again for what it got no answer about.
    fn take_up(&mut self) {
        let mut open: Vec<Draft> = Vec::new();
        for entry in self.journal.tail(TAIL) {
            match entry {
                Entry::Ask(draft) => open.push(draft),
                Entry::Ack { id, draft, .. } => {
                    open.retain(|asked| asked.key != draft.key);
                    self.known.push((id, draft));
                }
                _ => {}
            }
        }
        self.schedule(open);
    }

    /// Schedules and changes posts without end.
    fn work(&mut self) {
        let (start, mut posts) = (Instant::now(), 0u32);
        loop {
            let (place, now) = (self.journal.end(), micros());
            let count = self.random.random_range(1..=8);
            let mut drafts: Vec<Draft> = (0..count)
                .map(|_| {
                    self.version += 1;
                    Draft::any(&mut self.random, now, place, self.version)
                })
                .collect();
            posts += count;
            // Now and then a host asks twice.
            let twice: Vec<Draft> =
                drafts.iter().filter(|draft| draft.key.is_some() && draft.version % 8 == 0).cloned().collect();
            drafts.extend(twice);
            self.schedule(drafts);
            for _ in 0..self.random.random_range(0..3) {
                self.wish();
            }
            sleep(Duration::from_secs_f64(f64::from(posts) / RATE).saturating_sub(start.elapsed()));
        }
    }

    fn schedule(&mut self, drafts: Vec<Draft>) {
        for draft in drafts.iter().filter(|draft| draft.key.is_some()) {
            self.journal.write(&Entry::Ask(draft.clone()));
        }
        let replies: Vec<(Draft, Reply<PostId>)> = drafts
            .into_iter()
            .map(|draft| {
                let reply = self.scheduler.schedule(draft.post());
                (draft, reply)
            })
            .collect();
        for (draft, reply) in replies {
            let id = reply.wait().expect("a good post is stored");
            self.journal.write(&Entry::Ack { id, at: micros(), draft: draft.clone() });
            self.known.push((id, draft));
        }
    }

    /// Asks for some change of some post.
    fn wish(&mut self) {
        let recent = self.known.len().saturating_sub(200);
        self.known.drain(..recent);
        if self.known.is_empty() {
            return;
        }
        let (id, draft) = &self.known[self.random.random_range(0..self.known.len())];
        let (id, parts, place) = (*id, draft.parts, draft.place);
        let name = draft.key.clone().filter(|_| self.random.random_bool(0.5)).map_or(id.into(), PostRef::from);
        let wish = match self.random.random_range(0..10) {
            0..3 => Wish::Cancel,
            3..6 => Wish::Move(micros() + self.random.random_range(0..1_500_000)),
            6 => Wish::Now,
            _ => {
                self.version += 1;
                Wish::Edit(self.random.random_range(0..parts), self.version)
            }
        };
        self.journal.write(&Entry::Wish { id, wish });
        let reply = match wish {
            Wish::Cancel => self.scheduler.cancel(name),
            Wish::Move(due) => {
                let due = DateTime::<Utc>::from_timestamp_micros(due).unwrap_or_default();
                self.scheduler.reschedule(name, due)
            }
            Wish::Now => self.scheduler.publish_now(name),
            Wish::Edit(part, version) => self.scheduler.edit_part(name, part, payload(place, version)),
        };
        match reply.wait() {
            Ok(()) => self.journal.write(&Entry::Granted { id, wish, at: micros() }),
            Err(Error::TooLate { .. }) => {}
            Err(error) => panic!("{wish:?} of {id}: {error}"),
        }
    }

    /// Waits until everything is over, and shuts down.
    fn finish(&self, path: &Path) {
        let mut events = self.scheduler.events();
        let mut open = acked(path);
        loop {
            let ends = ends(&self.scheduler, &open).expect("posts can be looked up");
            open.retain(|id| ends.get(id).is_some_and(|end| !end.is_over()));
            if open.is_empty() {
                break;
            }
            events.wait().expect("what is not over brings an event");
        }
        self.scheduler.shutdown(Duration::from_secs(10)).wait().expect("a clean shutdown");
    }
}

/// What is known of a post in the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    pub state: State,
    pub reason: String,
    /// Listed as in doubt, for the host to resolve.
    pub is_held: bool,
}

impl End {
    pub fn is_over(&self) -> bool {
        self.state.is_final() || self.is_held
    }
}

/// What is known of these posts now; nothing of those that are lost.
pub fn ends(scheduler: &Scheduler, ids: &[PostId]) -> punctual::Result<HashMap<PostId, End>> {
    let mut ends = HashMap::new();
    // A few at a time: what the hosts commit waits behind them.
    for ids in ids.chunks(50) {
        let replies: Vec<_> = ids.iter().map(|id| scheduler.get(*id)).collect();
        for reply in replies {
            let Some(status) = reply.wait()? else { continue };
            let reason = match status.outcome() {
                Some(Outcome::Failed { reason }) => reason.clone(),
                _ => status.reason().unwrap_or_default().to_owned(),
            };
            ends.insert(status.id(), End { state: status.state(), reason, is_held: false });
        }
    }
    if ends.values().any(|end| end.state == State::InDoubt) {
        for pool in &pools::POOLS {
            let mut page: Vec<Status> = Vec::new();
            loop {
                page = scheduler.in_doubt(pool.name, page.last()).wait()?;
                if page.is_empty() {
                    break;
                }
                for status in &page {
                    ends.entry(status.id()).and_modify(|end| end.is_held = end.state == State::InDoubt);
                }
            }
        }
    }
    Ok(ends)
}

/// What the host was told is stored.
pub fn acked(path: &Path) -> Vec<PostId> {
    let ids = journal::read(path).expect("the journal can be read").filter_map(|entry| match entry {
        Entry::Ack { id, .. } => Some(id),
        _ => None,
    });
    let mut ids: Vec<PostId> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
