//! The host: schedules the posts of the script one by one and in batches, and changes its mind about some.

use std::error::Error as StdError;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use punctual::{Error, Event, Events, Outcome, PostId, Reply, Scheduler};

use super::clock::Clock;
use super::ledger::{CHANGED, ENDED, Ledger, STORED, fault};
use super::script::{CHANGED_AFTER, Fate, Part, Script};

const TURN: Duration = Duration::from_millis(10);
/// So many calls may be unanswered before no more are made.
const UNDER_WAY: usize = 20_000;

pub type Result<T> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

/// A call that was made and is to be answered.
enum Asked {
    One(u64, Reply<PostId>),
    Many(Range<u64>, Reply<Vec<PostId>>),
    Change(u64, Reply<()>),
}

/// How many calls were refused because too many waited.
#[derive(Default)]
pub struct Answered {
    pub overloaded: u64,
    pub changed: u64,
    pub too_late: u64,
}

pub struct Host {
    pub script: Script,
    pub scheduler: Scheduler,
    pub clock: Clock,
    pub ledger: Arc<Ledger>,
}

impl Host {
    /// Schedules all posts until `end` of the clock; says how many there were.
    pub fn live(self, end: DateTime<Utc>) -> Result<(u64, Answered)> {
        let (asked, to_answer) = sync_channel(UNDER_WAY);
        let Self { script, scheduler, clock, ledger } = self;
        let answering = thread::spawn({
            let (script, scheduler, ledger) = (script.clone(), scheduler.clone(), Arc::clone(&ledger));
            move || answer(&script, &scheduler, &ledger, to_answer)
        });
        let (mut scheduled, mut changed, mut turn) = (0, 0, 0_u64);
        let last = script.reached(end);
        // A send fails only if the other end has failed: its error is the one to tell.
        while changed < last {
            let now = clock.now();
            let reached = script.reached(now).min(last);
            turn += 1;
            if ask(&script, &scheduler, scheduled..reached, turn.is_multiple_of(4), &asked).is_none() {
                break;
            }
            scheduled = reached;
            let to_change = script.reached(now - CHANGED_AFTER * script.speed).min(scheduled);
            while changed < to_change && ledger.has(changed, STORED) {
                let part = script.part(changed);
                if part.fate.is_changed() && asked.send(change(&scheduler, &part)).is_err() {
                    break;
                }
                changed += 1;
            }
            if answering.is_finished() {
                break;
            }
            thread::sleep(TURN);
        }
        drop(asked);
        let answered = answering.join().map_err(|_| "the answering thread panicked")??;
        Ok((scheduled, answered))
    }
}

fn ask(
    script: &Script,
    scheduler: &Scheduler,
    numbers: Range<u64>,
    is_single: bool,
    asked: &SyncSender<Asked>,
) -> Option<()> {
    if is_single {
        for number in numbers {
            asked.send(Asked::One(number, scheduler.schedule(script.part(number).post()))).ok()?;
        }
    } else if !numbers.is_empty() {
        let reply = scheduler.schedule_all(numbers.clone().map(|number| script.part(number).post()));
        asked.send(Asked::Many(numbers, reply)).ok()?;
    }
    Some(())
}

fn change(scheduler: &Scheduler, part: &Part) -> Asked {
    let key = part.key();
    let reply = match part.fate {
        Fate::Later | Fate::Sooner => scheduler.reschedule(key, part.moved),
        Fate::Edited => scheduler.edit(key, part.payload(true)),
        Fate::Now => scheduler.publish_now(key),
        Fate::Repeated => return Asked::One(part.number, scheduler.schedule(part.post())),
        _ => scheduler.cancel(key),
    };
    Asked::Change(part.number, reply)
}

/// Waits for the answers, in the order of the calls.
fn answer(script: &Script, scheduler: &Scheduler, ledger: &Ledger, asked: Receiver<Asked>) -> Result<Answered> {
    let mut answered = Answered::default();
    for asked in asked {
        let (numbers, mut answer) = match asked {
            Asked::One(number, reply) => (number..number + 1, reply.wait().map(drop)),
            Asked::Many(numbers, reply) => (numbers, reply.wait().map(drop)),
            Asked::Change(number, reply) => {
                match reply.wait() {
                    Ok(()) => {
                        ledger.mark(number, CHANGED);
                        answered.changed += 1;
                    }
                    Err(Error::TooLate { .. }) => answered.too_late += 1,
                    Err(Error::Overloaded) => answered.overloaded += 1,
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
        };
        while let Err(Error::Overloaded) = answer {
            answered.overloaded += 1;
            thread::sleep(TURN);
            answer = scheduler.schedule_all(numbers.clone().map(|number| script.part(number).post())).wait().map(drop);
        }
        answer?;
        for number in numbers {
            ledger.mark(number, STORED);
        }
    }
    Ok(answered)
}

/// Writes down what the engine says of the posts, until it ends; how many of its words were missed.
pub fn listen(script: &Script, ledger: &Ledger, mut events: Events) -> u64 {
    while let Some(event) = events.wait() {
        let Event::Settled { outcome, .. } = event else { continue };
        let (place, number) = match &outcome {
            Outcome::Delivered(receipt) => (0, Some(receipt.as_str())),
            Outcome::Failed { reason } => (1, Some(reason.as_str())),
            Outcome::Missed { .. } => (2, None),
            _ => (3, None),
        };
        ledger.ended[place].fetch_add(1, Relaxed);
        let Some(number) = number else { continue };
        let number = number.parse().unwrap_or(u64::MAX);
        if ledger.mark(number, ENDED) & ENDED != 0 {
            // Whatever the number is, the ledger knows no such post.
            let part = script.part(number.min(ledger.len()));
            fault(&ledger.faults.misreported, &part, format_args!("ended twice, or was never scheduled: {outcome:?}"));
        }
    }
    events.missed()
}
