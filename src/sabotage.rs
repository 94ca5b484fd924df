//! Planted faults, to see that the tests find them: `.ci/sabotage` plants one after the other. They are there only where the
//! crate is built with `--cfg sabotage`; elsewhere nothing is left of them. A process has the one that is named by
//! `PUNCTUAL_SABOTAGE`.

/// Faults, and the words by which they are planted.
macro_rules! switches {
    ($($(#[doc = $what:literal])* $switch:ident = $word:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Switch {
            $($(#[doc = $what])* $switch,)*
        }

        #[cfg(sabotage)]
        impl Switch {
            fn named(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$switch),)*
                    _ => None,
                }
            }
        }
    };
}

switches! {
    /// A post goes out a millisecond before its due.
    OneMsEarly = "one-ms-early",
    /// Time that reaches a bucket of the wheel has not reached it.
    BucketEdge = "bucket-edge",
    /// What spreading a bucket hands down to the levels below is lost.
    DropCarry = "drop-carry",
    /// The engine goes by the monotonic clock, whatever the wall clock does.
    MonoDue = "mono-due",
    /// A post that was late is sent when it was to be, although the clock has stepped back to before its due.
    SpreadEarly = "spread-early",
    /// A post is acknowledged when its commit is asked for.
    AckBeforeCommit = "ack-before-commit",
    /// A post is handed over while its claim is on the way to the store.
    ClaimAfterDispatch = "claim-after-dispatch",
    /// Claims are not written.
    ClaimNotDurable = "claim-not-durable",
    /// A commit that failed counts as one that is durable.
    FailedCommitCounts = "failed-commit-counts",
    /// What an earlier process may have published counts as not published.
    ForgetDoubt = "forget-doubt",
    /// An unclear answer of a network counts as a failure.
    UnknownIsFailed = "unknown-is-failed",
    /// An unclear answer of a network counts as a success.
    UnknownIsPublished = "unknown-is-published",
    /// A cancellation that comes while the claim is on its way is confirmed and forgotten.
    DropCancel = "drop-cancel",
    /// Posts in order go out although one before them may have been left to the store.
    NoCutOff = "no-cut-off",
    /// One that was handed over before the clock stepped back goes before a post in order that came since.
    NoGoingBefore = "no-going-before",
    /// A word about a call that was given up is taken for one about the call that has its place now.
    StaleToken = "stale-token",
    /// The second attempt has another idempotency key than the first.
    NewKey = "new-key",
    /// A broadcaster that panics takes its thread with it.
    PanicKillsPool = "panic-kills-pool",
    /// A commit is not made durable.
    NoSync = "no-sync",
    /// What sled makes when a store is made is not made durable.
    NoSyncAtCreation = "no-sync-at-creation",
    /// A snapshot that sled did not finish is left to it.
    KeepHalfSnapshot = "keep-half-snapshot",
    /// The first block of a commit is written first, as if the others were there.
    FirstBlockFirst = "first-block-first",
    /// It is not looked whether sled has lost the last commits.
    NoWitness = "no-witness",
    /// A block with a wrong checksum is a good one.
    AnyCrc = "any-crc",
    /// The last entry of a block is not read.
    LoseLastRecord = "lose-last-record",
    /// Outcomes that are read back from the journal are counted twice.
    OutcomesTwice = "outcomes-twice",
    /// A call that could not be noted is made, and the log without it stays.
    CallLogLies = "call-log-lies",
    /// That a queue has given slots away is not remembered.
    SlotTwice = "slot-twice",
    /// That occurrences of a series are planned is not remembered with them.
    PlanTwice = "plan-twice",
    /// How many posts of a campaign have ended is not remembered.
    UncountedEnds = "uncounted-ends",
    /// What ended is forgotten when half of its time is over.
    ForgetEarly = "forget-early",
    /// Days are forgotten while some of what is in them waits to be sorted.
    ForgetUnsorted = "forget-unsorted",
}

/// Whether this fault is planted.
#[cfg(sabotage)]
pub fn is(switch: Switch) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Switch>> = std::sync::OnceLock::new();
    let named = || Switch::named(&std::env::var("PUNCTUAL_SABOTAGE").ok()?);
    *PLANTED.get_or_init(named) == Some(switch)
}

/// No fault is planted.
#[cfg(not(sabotage))]
pub const fn is(_: Switch) -> bool {
    false
}
