//! Marks on branches that are seldom taken: the simulation counts how often each was reached, and says which never was.
//! Where the crate is built without its tests nothing is left of them.

#[cfg(any(test, feature = "test-util"))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Branches, and the words for what happens there.
macro_rules! marks {
    ($($mark:ident = $what:literal,)*) => {
        #[derive(Clone, Copy, Debug)]
        pub enum Mark {
            $($mark,)*
        }

        #[cfg(any(test, feature = "test-util"))]
        const WORDS: &[&str] = &[$($what,)*];
    };
}

marks! {
    // The engine: claims.
    ClaimOvertaken = "a post was changed while its claim was on the way",
    ClaimReleasedAtDue = "a claim is taken back because something else holds the post up",
    ClaimReleasedAtClose = "a claim is taken back at a shutdown",
    ClaimNotKept = "a new post was claimed, and memory has no room for it",
    ClaimStands = "a claim of an earlier process that had not called stands",
    ClaimStandsUnknown = "a claim stands although nobody knows which calls had begun: its due had not come",
    ClaimVoid = "a claim of an earlier process that had not called is void",
    ReadyOutdated = "a delivery that was made ahead is not as it would be now",
    // Time.
    Rewound = "the wheel goes back with the wall clock",
    MissedAhead = "a post that had to step back is missed before its turn",
    SpreadAfterStep = "a post that was late is not late any more when it gets its place",
    LeftToItsPlace = "a late post has a place that is far, and memory is needed for others",
    SpreadInPart = "posts are spread while memory has no room for all that are late",
    GoesBefore = "a post in order is taken back from its shard for one that has to go before it",
    // The window.
    DrawnBack = "the window is drawn back before a post",
    Shortened = "the window gives up its farther half",
    CutOff = "a post in order is left to the store, after those before it",
    PageKnown = "a post is loaded that is in memory already",
    // Doubt.
    Doubted = "a post is in doubt after a crash",
    DoubtedAgain = "a post that is in doubt is in doubt after another crash",
    LateSuccess = "a broadcaster says after its time that it has published",
    LateSuccessWaits = "what follows on a late answer waits for the end of the call after it",
    LateFailure = "a broadcaster says after its time that it has not published",
    LateUnresident = "a late answer is about a post that is not in memory",
    LateGone = "a late answer is about a post that is gone",
    SentByHost = "the host says that a post in doubt was published",
    // Changes.
    Withdrawn = "a change wins against a delivery that waits in its shard",
    TooLate = "a change comes after the call",
    ChangedOnShelf = "a post is changed on its shelf",
    CheckpointTooLate = "a checkpoint comes from a call that was given up",
    KeyKnown = "a post with a key is scheduled once more",
    KeyConflict = "a key comes with another content",
    KeyKnownLate = "a post whose due is long past is known by its key",
    // What holds posts up.
    Returned = "a shard gives back what is blocked for long",
    CountedFirst = "a post waits until the attempts of earlier processes are counted",
    HeldWhileReleasing = "a profile is held while it is being released",
    ReleaseGoesOn = "a process goes on with a release that another has begun",
    BackFromShelf = "a post comes to the shelf of a profile that is not held any more",
    PartClaimed = "the next part of a thread is claimed with the receipt of the one before",
    PartHeldUp = "the next part of a thread has to wait",
    // The store.
    Stalled = "the store stalls",
    Resumed = "the store goes on after a stall",
    Failed = "the store fails",
    LeftFlying = "a shutdown leaves a call behind",
    // Preparing.
    UnpreparedAtDue = "a post is due before its preparing has begun",
    PreparedForNobody = "something is prepared of a post that was changed or has left",
    PreparedTooShort = "what was prepared does not last until it can be sent",
    // The worker.
    CalledTooEarly = "the clock has stepped back to before the due when the broadcaster is to be called",
    CalledWithdrawn = "a delivery is taken back after it was started",
    CallUnnoted = "a call that cannot be noted is not made",
    MissedInShard = "a deadline passes while a post waits in its shard",
    MissedAtCall = "a deadline passes just before the call",
    GivenUp = "a call is given up",
    GivenUpStopped = "so many calls were given up that the oldest is stopped",
    GivenUpAsking = "a question about an earlier attempt takes too long",
    GivenUpUncalled = "a delivery waits in vain for a thread",
    AskedSent = "the network says that an attempt in doubt has published",
    AskedNotSent = "the network says that an attempt in doubt has not published",
    AskedUnknown = "the network does not know what became of an attempt in doubt",
    AskedInVain = "the network does not answer what became of an attempt in doubt",
    AskedTooLate = "a post may not be published any more when the network has said that it was not",
    AskedSteppedBack = "the clock has stepped back to before the due when the network has answered",
    AskedWithdrawn = "a delivery is taken back while the network is asked",
    // The gate.
    Throttled = "the network throttles a pool",
    BreakerOpened = "a breaker opens",
    ProbeFailed = "a probe fails",
    BreakerClosed = "a breaker closes",
    LimitReached = "a limit is reached",
}

#[cfg(any(test, feature = "test-util"))]
static REACHED: [AtomicU64; WORDS.len()] = [const { AtomicU64::new(0) }; WORDS.len()];

/// This branch was taken.
#[cfg(any(test, feature = "test-util"))]
pub fn reach(mark: Mark) {
    REACHED[mark as usize].fetch_add(1, Ordering::Relaxed);
}

/// This branch was taken.
#[cfg(not(any(test, feature = "test-util")))]
pub const fn reach(_: Mark) {}

/// How often each branch was taken in this process.
#[cfg(any(test, feature = "test-util"))]
pub fn reached() -> Vec<(&'static str, u64)> {
    WORDS.iter().zip(&REACHED).map(|(what, times)| (*what, times.load(Ordering::Relaxed))).collect()
}
