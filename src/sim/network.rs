//! The network, and the broadcaster that publishes on it.

use std::panic::resume_unwind;
use std::time::Duration;

use crate::pool::Broadcaster;
use crate::post::{BroadcastError, Delivery, Prepared, Receipt, Reconciled};
use crate::quota::Scope;

use super::oracle::{Content, TIMEOUT};
use super::plan::{Draw, Plan};
use super::scene::Scene;

/// How often what happens, in thousandths of the calls.
#[derive(Clone, Debug)]
pub struct Moods {
    failing: u64,
    refusing: u64,
    losing: u64,
    throttling: u64,
    expelling: u64,
    panicking: u64,
    hanging: u64,
    beating: u64,
    /// Longest answer, in milliseconds.
    slowest: u64,
    /// Answers that come after the call was given up.
    pub late: u64,
}

impl Moods {
    pub fn draw(plan: &Plan, draw: &mut Draw) -> Self {
        Self {
            failing: draw.rate(plan, "failing answers", 300),
            refusing: draw.rate(plan, "refusals", 50),
            losing: draw.rate(plan, "lost answers", 200),
            throttling: draw.rate(plan, "throttling", 50),
            expelling: draw.rate(plan, "expelled profiles", 10),
            panicking: draw.rate(plan, "panics", 50),
            hanging: draw.rate(plan, "hanging calls", 100),
            beating: draw.rate(plan, "heartbeats and checkpoints", 300),
            slowest: draw.rate(plan, "slow answers", 20_000),
            late: 0,
        }
    }

    pub fn healed() -> Self {
        Self {
            failing: 0,
            refusing: 0,
            losing: 0,
            throttling: 0,
            expelling: 0,
            panicking: 0,
            hanging: 0,
            beating: 0,
            slowest: 1,
            late: 0,
        }
    }
}

/// What a call comes to, decided when it is made.
enum Fate {
    Answers(Result<(), BroadcastError>),
    Panics,
    Hangs,
}

/// Publishes for one process.
#[derive(Clone, Debug)]
pub struct Network {
    pub scene: Scene,
    pub process: u32,
}

/// A call is under way until this is dropped.
struct UnderWay<'a> {
    network: &'a Network,
    post: usize,
    call: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.network.scene.look().oracle.ended(self.post, self.call);
    }
}

impl Network {
    /// The fate of a call, whether it publishes although it does not say so, and how long it takes.
    fn fate(&self) -> (Fate, bool, Duration) {
        let mut state = self.scene.look();
        let Moods { failing, refusing, losing, throttling, expelling, panicking, hanging, slowest, late, .. } =
            state.moods;
        let (mut fallen, publishes) = (state.dice.below(1_000), state.dice.falls(500));
        let mut after = if state.dice.falls(300) { Duration::ZERO } else { state.dice.millis(slowest + 1) };
        if late > 0 && state.dice.falls(late) {
            state.fault("an answer is late");
            after += TIMEOUT + state.dice.millis(60_000);
        }
        let retry = Duration::from_secs(1 + state.dice.below(60));
        let answers = [
            (failing, "the network fails", Fate::Answers(Err(BroadcastError::transient("503")))),
            (refusing, "the network refuses", Fate::Answers(Err(BroadcastError::permanent("400")))),
            (losing, "an answer is lost", Fate::Answers(Err(BroadcastError::unknown("504")))),
            (
                throttling,
                "the network throttles",
                Fate::Answers(Err(BroadcastError::throttled("429").retry_after(retry).scope(Scope::Pool))),
            ),
            (expelling, "a profile is expelled", Fate::Answers(Err(BroadcastError::unauthorized("401")))),
            (panicking, "a broadcaster panics", Fate::Panics),
            (hanging, "a broadcaster hangs", Fate::Hangs),
        ];
        for (share, fault, fate) in answers {
            if fallen < share {
                state.fault(fault);
                let is_unknown = matches!(&fate, Fate::Answers(Err(error)) if error.is_unknown());
                let may_publish = is_unknown || !matches!(fate, Fate::Answers(_));
                return (fate, publishes && may_publish, after);
            }
            fallen -= share;
        }
        (Fate::Answers(Ok(())), true, after)
    }
}

impl Broadcaster for Network {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        let content = Content::read(delivery.payload());
        let now = self.scene.time();
        let call = self.scene.look().oracle.call(&content, &delivery, self.process, now.wall);
        let _under_way = UnderWay { network: self, post: content.post, call };
        let (fate, publishes, after) = self.fate();
        let (beats, is_first) = {
            let mut state = self.scene.look();
            let beating = state.moods.beating;
            (state.dice.falls(beating), state.dice.falls(500))
        };
        let publish = || {
            if publishes {
                self.scene.look().oracle.published(&content);
            }
        };
        // The request may arrive at once, or late.
        if is_first {
            publish();
        }
        if beats {
            delivery.heartbeat();
            let bytes = self.scene.look().oracle.ask_checkpoint(content.post);
            if delivery.checkpoint(bytes).await.is_ok() {
                self.scene.look().oracle.checkpointed(content.post, bytes);
            }
        }
        if !after.is_zero() {
            self.scene.sleep(after).await;
        }
        if beats && after >= TIMEOUT {
            // Nobody waits for it any more.
            let _ = delivery.checkpoint(Vec::new()).await;
        }
        if !is_first {
            publish();
        }
        match fate {
            Fate::Answers(answer) => answer.map(|()| Receipt::new(format!("{}/{}", content.post, content.part))),
            Fate::Hangs => std::future::pending().await,
            // Without the hook that prints it.
            Fate::Panics => resume_unwind(Box::new("at the disco")),
        }
    }

    async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
        let (content, after) = (Content::read(delivery.payload()), self.fate().2);
        if !after.is_zero() {
            self.scene.sleep(after).await;
        }
        let mut state = self.scene.look();
        let is_published = state.oracle.is_published(&content);
        let receipt = Receipt::new(format!("{}/{}", content.post, content.part));
        match state.dice.below(4) {
            0 if state.moods.failing > 0 => Err(BroadcastError::transient("503")),
            1 if state.moods.losing > 0 => Ok(Reconciled::Unknown),
            _ if is_published => Ok(Reconciled::Sent(receipt)),
            _ => Ok(Reconciled::NotSent),
        }
    }

    async fn prepare(&self, delivery: Delivery) -> Result<Prepared, BroadcastError> {
        let (fate, _, after) = self.fate();
        if !after.is_zero() {
            self.scene.sleep(after).await;
        }
        match fate {
            Fate::Answers(answer) => answer.map(|()| {
                let mut state = self.scene.look();
                let prepared = Prepared::new(delivery.payload());
                if state.dice.falls(200) { prepared.valid_for(state.dice.millis(600_000)) } else { prepared }
            }),
            Fate::Hangs => std::future::pending().await,
            Fate::Panics => resume_unwind(Box::new("at the disco")),
        }
    }
}
