//! A simulated network of moods: it refuses, accepts and says nothing, hangs and falls over, and writes down the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use punctual::{BroadcastError, Broadcaster, Delivery, Prepared, Receipt, Reconciled};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::draft::told;
use super::journal::{Answer, Call, Called, Entry, Journal, Part, micros};

/// How much of the journal the network looks through when it is asked what became of a post.
const MEMORY: u64 = 2 << 20;
/// By this a simulated panic is known.
pub const PANIC: &str = "the network client fell over";

static CALLS: AtomicU64 = AtomicU64::new(0);

/// One pool's way to the network.
pub struct Network {
    journal: Arc<Journal>,
    timeout: Duration,
    chaos: Option<u64>,
}

/// What will become of a call.
#[derive(Clone, Copy)]
enum Mood {
    Fine,
    /// It does not publish, and says so.
    Refuses,
    /// It says nothing: the connection is lost.
    Loses,
    /// It is slower than the timeout.
    Hangs,
    /// Its client panics.
    Panics,
}

impl Network {
    pub fn new(journal: &Arc<Journal>, timeout: Duration, chaos: Option<u64>) -> Self {
        Self { journal: Arc::clone(journal), timeout, chaos }
    }

    /// A mood, and the chance for what else is to be decided.
    fn mood(&self, call: u64) -> (Mood, StdRng) {
        let mut random = StdRng::seed_from_u64(self.chaos.unwrap_or(0) ^ (u64::from(self.journal.round) << 32) ^ call);
        let mood = match random.random_range(0..100) {
            _ if self.chaos.is_none() => Mood::Fine,
            0..70 => Mood::Fine,
            70..85 => Mood::Refuses,
            85..92 => Mood::Loses,
            92..97 => Mood::Hangs,
            _ => Mood::Panics,
        };
        (mood, random)
    }

    async fn answers(&self, random: &mut StdRng) {
        let most = if self.chaos.is_none() { 2 } else { 12 };
        let millis = random.random_range(0..most);
        // A few answer at once, as a local socket does.
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
    }

    async fn hangs(&self, random: &mut StdRng) {
        sleep(self.timeout.mul_f64(random.random_range(1.1..2.5))).await;
    }

    fn sent(&self, call: Call, of: Part) -> Receipt {
        self.journal.write(&Entry::Sent { call, of });
        Receipt::new(format!("{}/{}", of.id, of.part))
    }

    /// Publishes it or not, for good.
    fn decides(&self, accepts: bool, call: Call, of: Part) {
        self.journal.write(&if accepts { Entry::Sent { call, of } } else { Entry::Dropped { call, of } });
    }

    fn ended(&self, call: Call, of: Part, answer: Answer) {
        self.journal.write(&Entry::Ended { call, of, answer });
    }

    /// Whether any call has published this part: what the journal says.
    fn truth(&self, of: Part, payload: &[u8]) -> Answer {
        let story = told(payload).and_then(|(place, _)| self.journal.since(place, MEMORY));
        let Some(story) = story else { return Answer::Unknown };
        let mut open: Vec<Call> = Vec::new();
        for entry in story {
            match entry {
                Entry::Sent { of: sent, .. } if sent == of => return Answer::Published,
                Entry::Call(called) if called.of == of && called.call.0 == self.journal.round => open.push(called.call),
                Entry::Dropped { call, .. } => open.retain(|other| *other != call),
                _ => {}
            }
        }
        // A call that is still under way may publish it yet.
        if open.is_empty() { Answer::NotPublished } else { Answer::Unknown }
    }
}

fn part(delivery: &Delivery) -> Part {
    Part { id: delivery.id(), part: delivery.part() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What was made ready for this post with this payload.
pub fn prepared(delivery: &Delivery) -> String {
    format!("{}/{}", delivery.id(), told(delivery.payload()).map_or(0, |(_, version)| version))
}

impl Broadcaster for Network {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        let at = micros();
        let call = (self.journal.round, CALLS.fetch_add(1, Relaxed));
        let of = part(&delivery);
        let in_order = delivery.profile().starts_with("line-");
        self.journal.write(&Entry::Call(Called {
            call,
            of,
            attempt: delivery.attempt(),
            redelivery: delivery.is_redelivery(),
            key: delivery.idempotency_key(),
            due: delivery.due().timestamp_micros(),
            at,
            line: in_order.then(|| format!("{}/{}", delivery.pool(), delivery.profile())),
            timeout: i64::try_from(self.timeout.as_micros()).unwrap_or(i64::MAX),
            version: told(delivery.payload()).map_or(0, |(_, version)| version),
            prepared: delivery.prepared().map(text),
            checkpoint: delivery.checkpointed().and_then(|bytes| serde_json::from_slice(bytes).ok()),
        }));
        let (mood, mut random) = self.mood(call.1);
        self.answers(&mut random).await;
        if random.random_bool(0.1) {
            self.journal.write(&Entry::Keep { call, of });
            let bytes = serde_json::to_vec(&call).unwrap_or_default();
            // It may come too late, and then it is not kept.
            if delivery.checkpoint(bytes).await.is_ok() {
                self.journal.write(&Entry::Kept { call, of });
            }
        }
        let accepts = random.random_bool(0.5);
        match mood {
            Mood::Fine => {
                let receipt = self.sent(call, of);
                self.ended(call, of, Answer::Published);
                Ok(receipt)
            }
            Mood::Refuses => {
                self.decides(false, call, of);
                self.ended(call, of, Answer::NotPublished);
                Err(match random.random_range(0..10) {
                    0..6 => BroadcastError::transient("503"),
                    6..8 => BroadcastError::throttled("429").retry_after(Duration::from_millis(50)),
                    8 => BroadcastError::snooze(delivery.due() + Duration::from_millis(100), "not yet"),
                    _ => BroadcastError::permanent("400"),
                })
            }
            Mood::Loses => {
                self.decides(accepts, call, of);
                self.ended(call, of, Answer::Unknown);
                Err(BroadcastError::unknown("the connection was lost"))
            }
            Mood::Hangs => {
                let late = random.random_bool(0.5);
                if late {
                    self.hangs(&mut random).await;
                }
                self.decides(accepts, call, of);
                if !late {
                    self.hangs(&mut random).await;
                }
                self.ended(call, of, if accepts { Answer::Published } else { Answer::NotPublished });
                if accepts { Ok(Receipt::new("late")) } else { Err(BroadcastError::transient("504")) }
            }
            Mood::Panics => {
                self.decides(accepts, call, of);
                self.ended(call, of, Answer::Unknown);
                panic!("{PANIC}");
            }
        }
    }

    async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
        let of = part(&delivery);
        let (mood, mut random) = self.mood(CALLS.fetch_add(1, Relaxed));
        self.answers(&mut random).await;
        let answer = match mood {
            Mood::Fine | Mood::Hangs => self.truth(of, delivery.payload()),
            Mood::Refuses => {
                return Err(BroadcastError::transient("it cannot be asked now").retry_after(Duration::from_millis(100)));
            }
            Mood::Loses => Answer::Unknown,
            Mood::Panics => panic!("{PANIC}"),
        };
        self.journal.write(&Entry::Reconciled { of, answer });
        if matches!(mood, Mood::Hangs) {
            self.hangs(&mut random).await;
        }
        Ok(match answer {
            Answer::Published => Reconciled::Sent(Receipt::new(format!("{}/{}", of.id, of.part))),
            Answer::NotPublished => Reconciled::NotSent,
            Answer::Unknown => Reconciled::Unknown,
        })
    }

    async fn prepare(&self, delivery: Delivery) -> Result<Prepared, BroadcastError> {
        let (mood, mut random) = self.mood(CALLS.fetch_add(1, Relaxed));
        self.answers(&mut random).await;
        match mood {
            Mood::Fine => {
                let bytes = prepared(&delivery);
                self.journal.write(&Entry::Prepared { bytes: bytes.clone() });
                let ready = Prepared::new(bytes);
                // Some of it does not last until the due.
                let lasts = Duration::from_millis(random.random_range(200..2_000));
                Ok(if random.random_bool(0.2) { ready.valid_for(lasts) } else { ready })
            }
            Mood::Refuses | Mood::Loses => Err(BroadcastError::transient("the upload failed")),
            Mood::Hangs => {
                self.hangs(&mut random).await;
                Err(BroadcastError::transient("the upload took too long"))
            }
            Mood::Panics => panic!("{PANIC}"),
        }
    }
}
