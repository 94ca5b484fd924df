//! Simulated networks, which check each call against the script and write it into the ledger.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use punctual::{BroadcastError, Broadcaster, Delivery, Receipt, Reconciled};

use super::clock::Clock;
use super::ledger::{CALLED, CHANGED, DENIED, Ledger, SENT, fault};
use super::script::{BLOCKING, Fate, LIMITED, Part, SLOW, Script};

/// After it a call is given up.
pub const TIMEOUT: Duration = Duration::from_secs(3);
const LONGER_THAN_THE_TIMEOUT: Duration = Duration::from_millis(3_500);
/// How long a network that throttles wants to be left alone.
const THROTTLED: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Network {
    pub script: Script,
    pub clock: Clock,
    pub ledger: Arc<Ledger>,
    /// How late posts were called whose pool has no limits, in microseconds of the machine.
    pub late: Arc<Mutex<Histogram<u64>>>,
}

impl Network {
    fn part(&self, delivery: &Delivery) -> Result<(Part, bool), BroadcastError> {
        let read = Part::read(delivery.payload());
        let (number, is_edited) = read.ok_or_else(|| BroadcastError::permanent("no post of the script"))?;
        Ok((self.script.part(number), is_edited))
    }

    /// Whether this is the first call for the post.
    fn called(&self, part: &Part, is_edited: bool) -> bool {
        let now = self.clock.now();
        let before = self.ledger.mark(part.number, CALLED);
        let [is_called, is_sent, is_changed] = [CALLED, SENT, CHANGED].map(|mark| before & mark != 0);
        let faults = &self.ledger.faults;
        let earliest = part.earliest(is_changed);
        if now < earliest {
            fault(&faults.early, part, format_args!("called at {now}, not before {earliest}"));
        }
        if is_sent {
            fault(&faults.twice, part, format_args!("called although it was sent"));
        }
        match part.fate {
            Fate::Cancelled if is_changed => {
                fault(&faults.against_the_change, part, format_args!("called although it was cancelled"));
            }
            Fate::Edited if is_changed && !is_edited => {
                fault(&faults.against_the_change, part, format_args!("called with its old payload"));
            }
            _ => {}
        }
        if !is_called && part.pool != LIMITED && part.fate.is_punctual() {
            let late = (now - part.due).num_microseconds().unwrap_or(i64::MAX).max(0) as u64;
            let mut lateness = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            lateness.saturating_record(late / u64::from(self.script.speed));
        }
        !is_called
    }

    fn publish(&self, part: &Part) -> Receipt {
        if self.ledger.mark(part.number, SENT) & SENT != 0 {
            fault(&self.ledger.faults.twice, part, format_args!("published twice"));
        }
        Receipt::new(part.number.to_string())
    }
}

impl Broadcaster for Network {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        let (part, is_edited) = self.part(&delivery)?;
        let is_first = self.called(&part, is_edited);
        match part.pool {
            BLOCKING => thread::sleep(Duration::from_millis(2)),
            SLOW => tokio::time::sleep(Duration::from_millis(20 + part.number % 480)).await,
            _ => {}
        }
        match part.fate {
            Fate::Refused => return Err(BroadcastError::permanent(part.number)),
            _ if !is_first => {}
            Fate::Fails => return Err(BroadcastError::transient("502")),
            Fate::Throttled => {
                return Err(BroadcastError::throttled("429").retry_after(THROTTLED * self.script.speed));
            }
            Fate::AnswerLost => {
                self.publish(&part);
                return Err(BroadcastError::unknown("no answer"));
            }
            Fate::RequestLost => return Err(BroadcastError::unknown("no connection")),
            Fate::Hangs => {
                tokio::time::sleep(LONGER_THAN_THE_TIMEOUT).await;
                if self.ledger.has(part.number, DENIED) {
                    return Err(BroadcastError::transient("too late"));
                }
            }
            _ => {}
        }
        Ok(self.publish(&part))
    }

    async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
        let (part, _) = self.part(&delivery)?;
        let before = self.ledger.mark(part.number, DENIED);
        let receipt = || Receipt::new(part.number.to_string());
        Ok(if before & SENT != 0 { Reconciled::Sent(receipt()) } else { Reconciled::NotSent })
    }
}
