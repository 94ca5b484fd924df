//! What is done when it is not known whether a post was published.

use super::Receipt;

/// What is to be done with a post that may have been published or not, and nobody can tell: the process died during
/// the call, the call timed out, the connection was lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Guarantee {
    /// Nothing: it is held as [`State::InDoubt`](crate::State::InDoubt) until the host says what is true
    /// ([`Scheduler::resolve`](crate::Scheduler::resolve)). It is never published twice.
    AtMostOnce,
    /// It is sent again, marked as a possible repeat ([`Delivery::is_redelivery`](crate::Delivery::is_redelivery)),
    /// with the same [`idempotency key`](crate::Delivery::idempotency_key).
    AtLeastOnce,
}

/// What a broadcaster found out about an earlier attempt.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reconciled {
    /// It published the post; this is what the network calls it.
    Sent(Receipt),
    /// It did not, and never will.
    NotSent,
    /// The network cannot tell. The post's [`Guarantee`] decides.
    Unknown,
}

/// What the host decides about a post that is in doubt, or a dead letter.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Resolution {
    /// It was published: it counts as delivered.
    Sent(Receipt),
    /// Send it again, now. If it was in doubt, it is marked as a possible repeat.
    SendAgain,
    /// Do not send it: it counts as cancelled if it was in doubt, and stays failed if it is a dead letter, which is
    /// not listed any more.
    Drop,
}

/// Whether an earlier attempt may have published the post (or its present part) without its outcome being known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Doubt {
    #[default]
    None,
    /// It may have. Before it is sent again the broadcaster is asked, and then the post's guarantee decides.
    Open,
    /// It may have, and the host said that it is to be sent again all the same.
    Accepted,
}
