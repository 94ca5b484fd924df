//! What a broadcaster gets.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::id::PostId;
use crate::limits;
use crate::reply::{Promise, Reply};
use crate::sabotage::{self, Switch};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::time::Timestamp;

use super::{Body, Doubt, Guarantee, Notes, Ready, Receipt};

/// One hand-over of a post to its broadcaster. Cheap to clone; `Debug` never shows the payload.
#[derive(Clone)]
pub struct Delivery(Arc<Shared>);

/// What all clones of a delivery share, so that queues move a pointer.
struct Shared {
    facts: Facts,
    call: OnceLock<Called>,
}

/// The call of a broadcaster for a delivery.
struct Called {
    line: Line,
    /// What was prepared had expired.
    is_stale: bool,
}

/// What there is to know of a delivery.
pub(crate) struct Facts {
    pub id: PostId,
    /// Where the engine keeps the post.
    pub slot: u32,
    pub pool: Arc<str>,
    pub task: Task,
    pub due: Timestamp,
    /// When this attempt was to be made; not before, by any clock.
    pub at: Timestamp,
    /// Since when it has been waiting for this attempt: by this it is ranked.
    pub since: Timestamp,
    /// The broadcaster is not called after this.
    pub deadline: Option<Timestamp>,
    /// It is not published after this, also if an earlier attempt has to be asked about first.
    pub last: Option<Timestamp>,
    pub attempt: u32,
    /// The number of its claim.
    pub claim: u32,
    /// Whether the retry policy allows that this attempt is made. If not, only the doubt is to be settled.
    pub is_allowed: bool,
    pub doubt: Doubt,
    pub guarantee: Guarantee,
    pub notes: Notes,
    pub body: Body,
    pub stage: Stage,
}

/// What the broadcaster is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    /// Publish it; if an earlier attempt is in doubt, find out about that first.
    Broadcast,
    /// Make it ready.
    Prepare,
    /// Clear away what was made ready.
    Discard,
}

/// How far a delivery has got. Called to publish or withdrawn, never both: whoever comes first decides.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    state: AtomicU8,
    /// The broadcaster said that no earlier attempt published the post.
    is_cleared: AtomicBool,
}

const WAITING: u8 = 0;
const ASKED: u8 = 1;
const CALLED: u8 = 2;
const WITHDRAWN: u8 = 3;

impl Stage {
    /// The broadcaster is about to be asked about an earlier attempt; false if the delivery has been withdrawn.
    pub fn ask(&self) -> bool {
        self.step(WAITING, ASKED)
    }

    /// The broadcaster is about to be called; false if the delivery has been withdrawn.
    pub fn call(&self) -> bool {
        self.step(WAITING, CALLED) || self.step(ASKED, CALLED)
    }

    /// The broadcaster shall not be called any more; false if it has been.
    pub fn withdraw(&self) -> bool {
        self.step(WAITING, WITHDRAWN) || self.step(ASKED, WITHDRAWN)
    }

    pub fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }

    pub fn is_asked(&self) -> bool {
        self.state.load(Ordering::Acquire) == ASKED
    }

    pub fn is_withdrawn(&self) -> bool {
        self.state.load(Ordering::Acquire) == WITHDRAWN
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// No earlier attempt published the post.
    pub fn clear_doubt(&self) {
        self.is_cleared.store(true, Ordering::Release);
    }
}

impl Facts {
    /// What is in doubt about earlier attempts, as far as it is known by now.
    pub fn doubt(&self) -> Doubt {
        if self.stage.is_cleared.load(Ordering::Acquire) { Doubt::None } else { self.doubt }
    }

    /// The part that is to be published: those before it have their receipts.
    pub fn part(&self) -> usize {
        self.notes.receipts().len()
    }
}

/// How a delivery speaks to the worker that runs it.
#[derive(Clone)]
pub(crate) struct Line {
    pub wire: Arc<dyn Wire>,
    /// What the worker calls it.
    pub token: (usize, u64),
}

/// The worker's end.
pub(crate) trait Wire: Send + Sync {
    /// The broadcaster is alive, and has got so far.
    fn beat(&self, token: (usize, u64), progress: Option<String>);
    /// It wants this to be kept.
    fn checkpoint(&self, token: (usize, u64), bytes: Bytes, promise: Promise<()>);
    /// Stops calls for this post that were given up; false if one could not be stopped.
    fn stop_given_up(&self, id: PostId) -> bool;
    /// Says when the scheduler is shutting down.
    fn stopping(&self) -> tokio::sync::watch::Receiver<bool>;
}

impl Delivery {
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(Shared { facts, call: OnceLock::new() }))
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// It is called at `now`, and has a way back to its worker from then on. That happens once.
    pub(crate) fn call(&self, line: Line, now: Timestamp) {
        let is_over = |ready: &Ready| ready.valid_until < now;
        let is_stale = self.facts().task != Task::Discard && self.facts().notes.prepared().is_some_and(is_over);
        let _ = self.0.call.set(Called { line, is_stale });
    }

    /// The way back to its worker, once it has been called.
    pub(crate) fn line(&self) -> Option<&Line> {
        self.0.call.get().map(|call| &call.line)
    }

    /// Whether both are the same hand-over.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The post's id.
    pub fn id(&self) -> PostId {
        self.facts().id
    }

    /// The pool it was scheduled for.
    pub fn pool(&self) -> &str {
        &self.facts().pool
    }

    /// The profile it belongs to; empty if it has none.
    pub fn profile(&self) -> &str {
        self.facts().body.profile()
    }

    /// The host's own name for it.
    pub fn key(&self) -> Option<&str> {
        self.facts().body.key()
    }

    /// What is to be published: the payload as it was scheduled or edited last; of a thread, that of this
    /// [`part`](Self::part).
    pub fn payload(&self) -> &[u8] {
        self.facts().body.part(self.part())
    }

    /// Which part of a thread this is, from 0. A post that is no thread has one part.
    pub fn part(&self) -> usize {
        self.facts().part()
    }

    /// How many parts the thread has; 1 if it is none.
    pub fn parts(&self) -> usize {
        self.facts().body.parts()
    }

    /// The receipts of the parts before this one, in order: the last one is what this part answers to.
    pub fn receipts(&self) -> &[Receipt] {
        self.facts().notes.receipts()
    }

    /// The instant at which it was promised; the same in every attempt.
    pub fn due(&self) -> DateTime<Utc> {
        self.facts().due.to_datetime()
    }

    /// The number of this attempt, from 1. In a thread each part counts its own.
    pub fn attempt(&self) -> u32 {
        self.facts().attempt
    }

    /// Whether an earlier attempt may have published the post already: the process died during the call, the
    /// timeout passed, the connection was lost, or the broadcaster panicked. Never true for a post whose guarantee
    /// is at most once, unless the host said that it is to be sent again.
    pub fn is_redelivery(&self) -> bool {
        self.facts().doubt() != Doubt::None
    }

    /// A text for networks that take an idempotency key: the same in every attempt and after every restart,
    /// different for every post of every store, and every part of a thread. It is the id's 32 hexadecimal digits,
    /// and for a part after the first a hyphen and its number.
    pub fn idempotency_key(&self) -> String {
        match self.part() {
            _ if sabotage::is(Switch::NewKey) && self.attempt() == 2 => "another".to_owned(),
            0 => self.facts().id.to_string(),
            part => format!("{}-{part}", self.facts().id),
        }
    }

    /// What the last [`checkpoint`](Self::checkpoint) of an earlier attempt kept.
    pub fn checkpointed(&self) -> Option<&[u8]> {
        self.facts().notes.checkpoint().map(|bytes| &bytes[..])
    }

    /// What [`Broadcaster::prepare`](crate::Broadcaster::prepare) made ready for this post, if it is still valid at the call. Of a
    /// thread the first part is prepared.
    pub fn prepared(&self) -> Option<&[u8]> {
        self.facts()
            .notes
            .prepared()
            .filter(|_| !self.0.call.get().is_some_and(|call| call.is_stale))
            .map(|ready| &ready.bytes[..])
    }

    /// Keeps these bytes durably with the post, in mid-flight: the id of an upload or a publish that is under way, by
    /// which the network can be asked later. They replace what was kept before, and the next attempt and
    /// [`Broadcaster::reconcile`](crate::Broadcaster::reconcile) find them in [`checkpointed`](Self::checkpointed),
    /// whatever happens to this process. At most 65,536 bytes.
    ///
    /// # Errors
    /// [`Error::CheckpointTooLarge`]; [`Error::Overloaded`] if many thousands are on their way; [`Error::TooLate`](crate::Error::TooLate) if this delivery has been given up;
    /// [`Error::Closed`] and [`Error::Store`].
    pub fn checkpoint(&self, bytes: impl Into<Vec<u8>>) -> Reply<()> {
        let bytes: Vec<u8> = bytes.into();
        if bytes.len() > limits::CHECKPOINT_BYTES {
            let error = Error::CheckpointTooLarge { bytes: bytes.len(), max: limits::CHECKPOINT_BYTES };
            return Reply::given(Err(error));
        }
        let (promise, reply) = Promise::new();
        match self.line() {
            Some(Line { wire, token }) => wire.checkpoint(*token, bytes.into(), promise),
            None => promise.fulfil(Err(Error::Closed)),
        }
        reply
    }

    /// Says that this delivery is alive: its timeout begins anew.
    pub fn heartbeat(&self) {
        if let Some(Line { wire, token }) = self.line() {
            wire.beat(*token, None);
        }
    }

    /// Says how far this delivery has got, for those who listen ([`Event::Progress`](crate::Event::Progress)). Its
    /// timeout begins anew. What is longer than 4,096 bytes is cut.
    pub fn progress(&self, text: impl Into<String>) {
        if let Some(Line { wire, token }) = self.line() {
            wire.beat(*token, Some(super::outcome::cut(text.into())));
        }
    }

    /// Whether the scheduler is shutting down: finish soon, or stop where it is safe.
    pub fn is_stopping(&self) -> bool {
        self.line().is_some_and(|line| *line.wire.stopping().borrow())
    }

    /// Waits until the scheduler is shutting down; for a `select!` beside long work.
    pub async fn stopping(&self) {
        match self.line().map(|line| line.wire.stopping()) {
            // An error means that the scheduler is gone.
            Some(mut stopping) => drop(stopping.wait_for(|is_stopping| *is_stopping).await),
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.facts().id)
            .field("pool", &self.facts().pool)
            .field("profile", &self.profile())
            .field("due", &self.due())
            .field("part", &self.part())
            .field("attempt", &self.facts().attempt)
            .field("is_redelivery", &self.is_redelivery())
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// What a broadcaster has made ready ahead of the due, and how long it stays good.
///
/// ```
/// use punctual::Prepared;
/// use std::time::Duration;
///
/// let media = Prepared::new("media-4711").valid_for(Duration::from_secs(86_400));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    pub(crate) bytes: Bytes,
    pub(crate) validity: Validity,
}

/// How long something stays good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Validity {
    Always,
    For(std::time::Duration),
    Until(Timestamp),
}

impl Prepared {
    /// What the delivery gets at its due: a media id, the id of a container. At most 65,536 bytes. Good for ever,
    /// unless said otherwise.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: Bytes::from(bytes.into()), validity: Validity::Always }
    }

    /// Good until this instant. If that comes before the post is sent, the post is prepared again.
    #[must_use]
    pub fn valid_until<Z: chrono::TimeZone>(mut self, until: DateTime<Z>) -> Self {
        self.validity = Validity::Until(Timestamp::from_datetime(until.to_utc()));
        self
    }

    /// Good for so long from now.
    #[must_use]
    pub fn valid_for(mut self, duration: std::time::Duration) -> Self {
        self.validity = Validity::For(duration);
        self
    }

    /// The last instant at which it is good, if it was made at `now`.
    pub(crate) fn until(&self, now: Timestamp) -> Timestamp {
        match self.validity {
            Validity::Always => Timestamp::MAX,
            Validity::For(duration) => now.after(duration),
            Validity::Until(at) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Noted, Post};
    use super::*;

    /// A worker that does not listen.
    struct Deaf;

    impl Wire for Deaf {
        fn beat(&self, _: (usize, u64), _: Option<String>) {}

        fn checkpoint(&self, _: (usize, u64), _: Bytes, _: Promise<()>) {}

        fn stop_given_up(&self, _: PostId) -> bool {
            true
        }

        fn stopping(&self) -> tokio::sync::watch::Receiver<bool> {
            tokio::sync::watch::channel(false).1
        }
    }

    #[test]
    fn what_was_prepared_is_there_until_it_has_expired_at_the_call_and_always_where_it_is_cleared_away() {
        let until = Timestamp::from_millis(7_000);
        let ready = Ready { bytes: Bytes::from_static(b"media"), valid_until: until, at: Timestamp::MIN };
        for task in [Task::Broadcast, Task::Discard] {
            for (wait, is_good) in [(0, true), (1, false), (1_000_000, false)] {
                let delivery = Delivery::new(Facts {
                    id: PostId::from_u128(1),
                    slot: 0,
                    pool: "p".into(),
                    task,
                    due: until,
                    at: until,
                    since: until,
                    deadline: None,
                    last: None,
                    attempt: 1,
                    claim: 1,
                    is_allowed: true,
                    doubt: Doubt::None,
                    guarantee: Guarantee::AtLeastOnce,
                    notes: Notes::from(Noted { prepared: Some(ready.clone()), ..Noted::default() }),
                    body: Body::encode(&Post::new("p", "x")),
                    stage: Stage::default(),
                });
                assert!(delivery.prepared().is_some());
                let line = Line { wire: Arc::new(Deaf), token: (0, 0) };
                delivery.call(line, Timestamp::from_micros(until.micros() + wait));
                assert_eq!(delivery.prepared().is_some(), is_good || task == Task::Discard, "{task:?} after {wait} µs");
            }
        }
    }

    #[test]
    fn a_delivery_is_called_or_withdrawn_and_never_both() {
        for is_asked in [false, true] {
            let (called, withdrawn) = (Stage::default(), Stage::default());
            if is_asked {
                assert!(called.ask() && !called.ask() && withdrawn.ask() && withdrawn.is_asked());
            }
            assert!(called.call() && !called.withdraw() && !called.call() && !called.ask());
            assert!(withdrawn.withdraw() && !withdrawn.call() && !withdrawn.ask() && withdrawn.is_withdrawn());
        }
    }
}
