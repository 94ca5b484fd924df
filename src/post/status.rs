//! What a host can read of a post.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{PostId, Seq, State};

use super::{Doubt, Outcome, Receipt, Record};

/// What is known of a post at this moment. `Debug` never shows the payload.
#[derive(Clone)]
pub struct Status {
    pub(crate) id: PostId,
    pub(crate) pool: Arc<str>,
    pub(crate) record: Record,
    pub(crate) state: State,
    pub(crate) outcome: Option<Outcome>,
}

impl Status {
    /// The post's id.
    pub fn id(&self) -> PostId {
        self.id
    }

    /// The pool it goes to.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The profile it belongs to; empty if it has none.
    pub fn profile(&self) -> &str {
        self.record.body.profile()
    }

    /// The host's own name for it.
    pub fn key(&self) -> Option<&str> {
        self.record.body.key()
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.record.body.payload()
    }

    /// The instant at which it is promised, to the millisecond.
    pub fn due(&self) -> DateTime<Utc> {
        self.record.due.to_datetime()
    }

    /// The instant of its next attempt: its due before the first, later after a failure; `None` if none is planned. A
    /// rate limit, a pause, a post before it or its pool's catching up may make it later.
    pub fn next_attempt(&self) -> Option<DateTime<Utc>> {
        let is_planned = matches!(self.state, State::Scheduled | State::InFlight | State::InDoubt);
        let is_planned = is_planned && self.record.home().shelf().is_none();
        is_planned.then(|| self.record.ready_at().to_datetime())
    }

    /// How many parts it has; 1 if it is no thread.
    pub fn parts(&self) -> usize {
        self.record.body.parts()
    }

    /// The payload of one part; empty if there is none of this number.
    pub fn part(&self, part: usize) -> &[u8] {
        self.record.body.part(part)
    }

    /// The receipts of a thread's parts that were published before the one that is next, in order.
    pub fn receipts(&self) -> &[Receipt] {
        self.record.notes.receipts()
    }

    /// What went wrong last, if something did.
    pub fn reason(&self) -> Option<&str> {
        self.record.notes.reason()
    }

    /// Whether an earlier attempt may have published it already.
    pub fn may_be_sent(&self) -> bool {
        self.record.doubt != Doubt::None
    }

    /// How many attempts have ended.
    pub fn attempts(&self) -> u32 {
        self.record.attempts
    }

    /// How often the host has changed it: its due or its payload.
    pub fn revision(&self) -> u32 {
        self.record.revision
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// What finally came of it, once [`state`](Self::state) is final.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status")
            .field("id", &self.id)
            .field("pool", &self.pool)
            .field("profile", &self.profile())
            .field("key", &self.key())
            .field("due", &self.due())
            .field("state", &self.state)
            .field("attempts", &self.attempts())
            .field("outcome", &self.outcome)
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// How a host names a post: by its [`PostId`], or by the key that the host gave it (`&str` or `String`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PostRef {
    pub(crate) name: Name,
    pub(crate) revision: Option<u32>,
}

/// The two ways of naming a post.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Name {
    Id(PostId),
    Key(String),
}

impl PostRef {
    /// Only if the post has this [`revision`](Status::revision): a change that was decided upon what the post was then
    /// is refused if it is another by now ([`Error::Changed`](crate::Error::Changed)).
    ///
    /// ```
    /// use punctual::PostRef;
    ///
    /// let post = PostRef::from("campaign-17/post-3").at_revision(2);
    /// ```
    #[must_use]
    pub fn at_revision(mut self, revision: u32) -> Self {
        self.revision = Some(revision);
        self
    }

    /// Its number, unless it is named by key.
    pub(crate) fn seq(&self) -> Option<Seq> {
        match &self.name {
            Name::Id(id) => Some(id.seq()),
            Name::Key(_) => None,
        }
    }
}

impl From<Name> for PostRef {
    fn from(name: Name) -> Self {
        Self { name, revision: None }
    }
}

impl From<PostId> for PostRef {
    fn from(id: PostId) -> Self {
        Name::Id(id).into()
    }
}

impl From<&str> for PostRef {
    fn from(key: &str) -> Self {
        Name::Key(key.to_owned()).into()
    }
}

impl From<&String> for PostRef {
    fn from(key: &String) -> Self {
        Name::Key(key.clone()).into()
    }
}

impl From<String> for PostRef {
    fn from(key: String) -> Self {
        Name::Key(key).into()
    }
}

impl fmt::Display for PostRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Id(id) => id.fmt(f),
            Name::Key(key) => write!(f, "with key {key:?}"),
        }
    }
}
