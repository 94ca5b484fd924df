//! Delivery semantics through the public API, with real workers under a manual clock. (Rule by rule they are tested in
//! `src/engine/delivery_tests.rs`.)

mod common;

use common::{START, at, secs};
use proptest::prelude::*;
use punctual::{
    Breaker, BroadcastError, Broadcaster, Delivery, Error, Event, Guarantee, ManualClock, MemoryStore, Outcome, Pool,
    Post, PrepareAhead, Prepared, RateLimit, Receipt, Reconciled, RetryPolicy, Scheduler, State,
};
use std::collections::{HashMap, VecDeque};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

/// Looks whether it is ready, without waiting.
fn poll_immediate<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What a broadcaster does when it is called.
enum Act {
    Answer(Result<Receipt, BroadcastError>),
    /// Keeps this, says that it did, and then waits until the gate opens.
    Checkpoint(&'static str),
    /// Waits until the gate opens, and answers then.
    Wait,
    /// Waits until the scheduler is shutting down.
    UntilStopping,
    /// Says that it is alive, and how far it has got, whenever the gate moves; answers when it opens.
    Beat(Option<&'static str>),
}

/// A broadcaster that does what it is told, and remembers what it was asked.
#[derive(Clone)]
struct Script {
    acts: Arc<Mutex<VecDeque<Act>>>,
    reconciled: Arc<Mutex<Vec<Option<Vec<u8>>>>>,
    truth: Arc<Mutex<Reconciled>>,
    calls: watch::Sender<usize>,
    gate: watch::Sender<u32>,
}

/// The gate is open from here on.
const OPEN: u32 = 1_000;

impl Script {
    fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        Self {
            acts: Arc::new(Mutex::new(acts.into_iter().collect())),
            reconciled: Arc::default(),
            truth: Arc::new(Mutex::new(Reconciled::Unknown)),
            calls: watch::channel(0).0,
            gate: watch::channel(0).0,
        }
    }

    /// Waits until the broadcaster has been called so often, and got to where it waits.
    fn called(&self, times: usize) {
        let mut calls = self.calls.subscribe();
        pollster::block_on(calls.wait_for(|calls| *calls >= times)).unwrap();
    }

    fn open(&self) {
        self.gate.send_replace(OPEN);
    }

    /// It is asked about an earlier attempt; which question it is.
    fn ask(&self, delivery: &Delivery) -> usize {
        let mut asked = self.reconciled.lock().unwrap();
        asked.push(delivery.checkpointed().map(<[u8]>::to_vec));
        asked.len()
    }

    /// Waits until it has been asked about something.
    fn asked(&self) {
        while self.reconciled.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
    }
}

impl Broadcaster for Script {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Answer(Ok(Receipt::new("u"))));
        let mut gate = self.gate.subscribe();
        match act {
            Act::Answer(answer) => {
                self.calls.send_modify(|calls| *calls += 1);
                return answer;
            }
            Act::Checkpoint(handle) => {
                delivery.checkpoint(handle).await.map_err(BroadcastError::transient)?;
                self.calls.send_modify(|calls| *calls += 1);
            }
            Act::UntilStopping => {
                assert!(!delivery.is_stopping());
                let mut stopping = pin!(delivery.stopping());
                assert!(poll_immediate(stopping.as_mut()).is_pending());
                self.calls.send_modify(|calls| *calls += 1);
                stopping.await;
                assert!(delivery.is_stopping());
                return Err(BroadcastError::transient("told to stop"));
            }
            Act::Beat(text) => {
                while *gate.borrow_and_update() < OPEN {
                    text.map_or_else(|| delivery.heartbeat(), |text| delivery.progress(text));
                    self.calls.send_modify(|calls| *calls += 1);
                    let _ = gate.changed().await;
                }
            }
            Act::Wait => self.calls.send_modify(|calls| *calls += 1),
        }
        let _ = gate.wait_for(|gate| *gate >= OPEN).await;
        Ok(Receipt::new("late"))
    }

    async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
        self.ask(&delivery);
        Ok(self.truth.lock().unwrap().clone())
    }
}

fn pool(script: &Script) -> Pool {
    Pool::new("p", script.clone()).timeout(secs(60)).retry(RetryPolicy::exponential(secs(10)))
}

fn start(store: &MemoryStore, clock: &ManualClock, pool: Pool) -> Scheduler {
    Scheduler::builder().store(store.clone()).clock(clock.clone()).pool(pool).start().unwrap()
}

fn fresh(pool: Pool) -> (Scheduler, ManualClock, MemoryStore) {
    let (clock, store) = (ManualClock::at(at(START)), MemoryStore::default());
    (start(&store, &clock, pool), clock, store)
}

fn at_most_once() -> Post {
    Post::new("p", "x").guarantee(Guarantee::AtMostOnce)
}

#[test]
fn after_a_crash_the_network_is_asked_with_the_checkpoint_and_believed() {
    let script = Script::new([Act::Checkpoint("publish id 7")]);
    let (scheduler, clock, store) = fresh(pool(&script));
    let id = scheduler.schedule(at_most_once()).wait().unwrap();
    script.called(1);
    std::mem::forget(scheduler);

    *script.truth.lock().unwrap() = Reconciled::Sent(Receipt::new("found"));
    let scheduler = start(&store, &ManualClock::at(clock.now() + secs(1)), pool(&script));
    assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("found")));
    assert_eq!(*script.reconciled.lock().unwrap(), [Some(b"publish id 7".to_vec())]);
    assert_eq!(*script.calls.borrow(), 1, "it is not sent again");
}

#[test]
fn a_hung_call_frees_its_place_and_its_late_answer_is_used() {
    let script = Script::new([Act::Wait]);
    let (scheduler, clock, _) = fresh(pool(&script).concurrency(1));
    let id = scheduler.schedule(at_most_once()).wait().unwrap();
    script.called(1);
    clock.advance(secs(60));
    let next = scheduler.schedule(Post::new("p", "next")).wait().unwrap();
    assert!(matches!(scheduler.outcome(next).wait().unwrap(), Outcome::Delivered(_)), "the place is free");
    scheduler.settle().wait().unwrap();
    assert_eq!(scheduler.get(id).wait().unwrap().unwrap().state(), State::InDoubt);
    script.open();
    assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("late")));
}

#[test]
fn late_answers_of_several_calls_are_told_apart() {
    let script = Script::new([Act::Wait, Act::Wait]);
    let (scheduler, clock, _) = fresh(pool(&script).concurrency(4));
    let ids = scheduler.schedule_all([at_most_once(), at_most_once()]).wait().unwrap();
    script.called(2);
    clock.advance(secs(60));
    scheduler.settle().wait().unwrap();
    for id in &ids {
        assert_eq!(scheduler.get(*id).wait().unwrap().unwrap().state(), State::InDoubt);
    }
    script.open();
    for id in ids {
        assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("late")));
    }
}

#[test]
fn a_question_that_panics_is_asked_again_and_is_no_attempt() {
    #[derive(Clone)]
    struct Clumsy(Script);
    impl Broadcaster for Clumsy {
        async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
            self.0.broadcast(delivery).await
        }

        async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
            assert!(self.0.ask(&delivery) > 1, "the first question goes wrong");
            Ok(Reconciled::NotSent)
        }
    }
    let script = Script::new([Act::Answer(Err(BroadcastError::unknown("connection lost")))]);
    let retry = RetryPolicy::exponential(secs(10)).max_attempts(2);
    let (scheduler, clock, _) = fresh(Pool::new("p", Clumsy(script.clone())).retry(retry));
    let id = scheduler.schedule(at_most_once()).wait().unwrap();
    scheduler.settle().wait().unwrap();
    clock.advance(secs(10));
    scheduler.settle().wait().unwrap();
    let status = scheduler.get(id).wait().unwrap().unwrap();
    assert_eq!((status.state(), status.attempts(), script.reconciled.lock().unwrap().len()), (State::InDoubt, 1, 1));
    clock.advance(secs(20));
    assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("u")));
    assert_eq!((*script.calls.borrow(), script.reconciled.lock().unwrap().len()), (2, 2));
}

#[test]
fn a_question_that_was_given_up_never_goes_on_to_publish() {
    /// Its first call may have published; its first question hangs until the gate opens, the next is answered at once.
    #[derive(Clone)]
    struct Slow(Script);
    impl Broadcaster for Slow {
        async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
            self.0.broadcast(delivery).await
        }
        async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
            let mut gate = self.0.gate.subscribe();
            if self.0.ask(&delivery) == 1 {
                let _ = gate.wait_for(|gate| *gate >= OPEN).await;
                self.0.gate.send_modify(|gate| *gate += 1);
            }
            Ok(Reconciled::NotSent)
        }
    }
    let script = Script::new([Act::Answer(Err(BroadcastError::unknown("connection lost")))]);
    let pool = Pool::new("p", Slow(script.clone())).timeout(secs(60)).retry(RetryPolicy::exponential(secs(10)));
    let (scheduler, clock, _) = fresh(pool);
    let id = scheduler.schedule(at_most_once()).wait().unwrap();
    scheduler.settle().wait().unwrap();
    clock.advance(secs(10));
    script.asked();
    clock.advance(secs(60));
    scheduler.settle().wait().unwrap();
    let status = scheduler.get(id).wait().unwrap().unwrap();
    assert_eq!((status.state(), status.attempts()), (State::InDoubt, 1), "a question is no attempt");
    clock.advance(secs(20));
    assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("u")));
    script.open();
    scheduler.shutdown(secs(5)).wait().unwrap();
    assert_eq!(*script.calls.borrow(), 2, "the one in doubt, and the one that was allowed");
}

#[test]
fn a_call_that_was_given_up_is_stopped_before_its_post_and_no_other_is_sent_again() {
    /// The first call of each post hangs until the gate opens. One of them was not sent, as the network says.
    #[derive(Clone)]
    struct Network(Script, Arc<Mutex<Vec<String>>>);
    impl Broadcaster for Network {
        async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
            let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
            let is_first = delivery.attempt() == 1;
            self.0.calls.send_modify(|calls| *calls += 1);
            if is_first {
                let _ = self.0.gate.subscribe().wait_for(|gate| *gate >= OPEN).await;
            }
            self.1.lock().unwrap().push(format!("{payload} {}", delivery.attempt()));
            Ok(Receipt::new(if is_first { "late" } else { "again" }))
        }

        async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
            Ok(if delivery.payload() == b"lost" { Reconciled::NotSent } else { Reconciled::Unknown })
        }
    }
    let (script, published) = (Script::new([]), Arc::default());
    let pool = Pool::new("p", Network(script.clone(), Arc::clone(&published)));
    let (scheduler, clock, _) = fresh(pool.timeout(secs(60)).retry(RetryPolicy::exponential(secs(10))));
    let post = |text: &str| Post::new("p", text).guarantee(Guarantee::AtMostOnce);
    let ids = scheduler.schedule_all([post("lost"), post("slow")]).wait().unwrap();
    script.called(2);
    clock.advance(secs(60));
    scheduler.settle().wait().unwrap();
    clock.advance(secs(10));
    assert_eq!(scheduler.outcome(ids[0]).wait().unwrap(), Outcome::Delivered(Receipt::new("again")));
    script.open();
    assert_eq!(scheduler.outcome(ids[1]).wait().unwrap(), Outcome::Delivered(Receipt::new("late")));
    scheduler.shutdown(secs(5)).wait().unwrap();
    assert_eq!(*published.lock().unwrap(), ["lost 2", "slow 1"], "the first call of the one that was lost has stopped");
}

#[test]
fn a_post_is_sent_until_its_last_instant_and_not_after_it_however_long_it_is_asked_about() {
    /// Nobody knows of the first call; the question about it is answered when the gate opens.
    #[derive(Clone)]
    struct Slow(Script);
    impl Broadcaster for Slow {
        async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
            self.0.broadcast(delivery).await
        }

        async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
            self.0.ask(&delivery);
            let _ = self.0.gate.subscribe().wait_for(|gate| *gate >= OPEN).await;
            Ok(Reconciled::NotSent)
        }
    }
    for (late, is_sent) in [(0, true), (1, false)] {
        let script = Script::new([Act::Answer(Err(BroadcastError::unknown("connection lost")))]);
        let pool = Pool::new("p", Slow(script.clone())).timeout(secs(600)).retry(RetryPolicy::exponential(secs(10)));
        let (scheduler, clock, _) = fresh(pool);
        let id = scheduler.schedule(at_most_once().expires_after(secs(40))).wait().unwrap();
        scheduler.settle().wait().unwrap();
        clock.advance(secs(10));
        script.asked();
        clock.advance(secs(30) + Duration::from_millis(late));
        script.open();
        let outcome = scheduler.outcome(id).wait().unwrap();
        assert_eq!(matches!(outcome, Outcome::Delivered(_)), is_sent, "{late} ms late: {outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Missed { .. }), !is_sent);
        assert_eq!(*script.calls.borrow(), 1 + usize::from(is_sent));
    }
}

#[test]
fn who_says_that_it_is_alive_is_not_given_up() {
    let script = Script::new([Act::Beat(Some("half"))]);
    let (scheduler, clock, _) = fresh(pool(&script));
    let mut events = scheduler.events();
    let id = scheduler.schedule(Post::new("p", "x")).wait().unwrap();
    for beat in 1..=5 {
        script.called(beat);
        loop {
            match events.wait().unwrap() {
                Event::Progress { id: of, attempt: 1, text } if of == id && text == "half" => break,
                Event::Scheduled { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        clock.advance(secs(59));
        script.gate.send_modify(|gate| *gate += 1);
    }
    script.open();
    assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("late")));
}

#[test]
fn a_heartbeat_alone_keeps_a_delivery_alive() {
    let script = Script::new([Act::Beat(None)]);
    let (scheduler, clock, _) = fresh(pool(&script));
    let id = scheduler.schedule(Post::new("p", "x")).wait().unwrap();
    for beat in 0..5 {
        script.called(2 * beat + 1);
        clock.advance(secs(59));
        // Another call has come and gone: it has been looked at who is out of time.
        let other = scheduler.schedule(Post::new("p", "y")).wait().unwrap();
        assert!(matches!(scheduler.outcome(other).wait().unwrap(), Outcome::Delivered(_)));
        script.gate.send_modify(|gate| *gate += 1);
    }
    script.called(11);
    script.open();
    assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("late")));
    assert_eq!(scheduler.get(id).wait().unwrap().unwrap().attempts(), 1);
}

#[test]
fn a_broadcaster_is_told_what_the_post_said_and_keeps_as_much_as_is_allowed() {
    let (said, heard) = std::sync::mpsc::channel();
    let broadcaster = move |delivery: Delivery| {
        let said = said.clone();
        async move {
            let kept = delivery.checkpoint(vec![7; 65_536]).await;
            let (key, profile) = (delivery.key().map(str::to_owned), delivery.profile().to_owned());
            let about = (delivery.pool().to_owned(), profile, key, delivery.payload().to_vec(), delivery.due());
            let refused = delivery.checkpoint(vec![7; 65_537]).await;
            said.send((about, kept, refused)).map_err(BroadcastError::permanent)?;
            Ok(Receipt::default())
        }
    };
    let (scheduler, clock, _) = fresh(Pool::new("p", broadcaster));
    let due = clock.now() + secs(5);
    scheduler.schedule(Post::new("p", "text").profile("shop").key("post 7").at(due)).wait().unwrap();
    scheduler.schedule(Post::new("p", "other").at(due + secs(1))).wait().unwrap();
    clock.advance(secs(5));
    let (about, kept, refused) = heard.recv().unwrap();
    let name = str::to_owned;
    assert_eq!(about, (name("p"), name("shop"), Some(name("post 7")), b"text".to_vec(), due));
    assert!(kept.is_ok());
    assert!(matches!(refused, Err(Error::CheckpointTooLarge { bytes: 65_537, max: 65_536 })));
    clock.advance(secs(1));
    let ((_, profile, key, payload, _), ..) = heard.recv().unwrap();
    assert_eq!((profile, key, payload), (name(""), None, b"other".to_vec()));
}

#[test]
fn a_shutdown_tells_broadcasters_to_stop() {
    let script = Script::new([Act::UntilStopping]);
    let (scheduler, clock, store) = fresh(pool(&script));
    let id = scheduler.schedule(Post::new("p", "x")).wait().unwrap();
    script.called(1);
    scheduler.shutdown(secs(3_600)).wait().unwrap();
    let scheduler = start(&store, &clock, pool(&script));
    let status = scheduler.get(id).wait().unwrap().unwrap();
    assert_eq!((status.state(), status.attempts()), (State::Scheduled, 1));
    assert!(!status.may_be_sent());
}

#[test]
fn a_breaker_opens_waits_probes_and_closes() {
    let down = || Act::Answer(Err(BroadcastError::transient("503")));
    let script = Script::new((0..4).map(|_| down()));
    let breaker = Breaker::new(3).pause(secs(30));
    let (scheduler, clock, _) = fresh(pool(&script).concurrency(1).retry(RetryPolicy::none()).breaker(breaker));
    let mut events = scheduler.events();
    let posts = (0..6).map(|n| Post::new("p", n.to_string()));
    let ids = scheduler.schedule_all(posts).wait().unwrap();
    scheduler.settle().wait().unwrap();
    assert_eq!(*script.calls.borrow(), 3, "then it opened");
    clock.advance(secs(29));
    scheduler.settle().wait().unwrap();
    assert_eq!(*script.calls.borrow(), 3);
    clock.advance(secs(1));
    scheduler.settle().wait().unwrap();
    assert_eq!(*script.calls.borrow(), 4, "one probe, which failed");
    clock.advance(secs(59));
    scheduler.settle().wait().unwrap();
    assert_eq!(*script.calls.borrow(), 4, "twice the pause");
    clock.advance(secs(2));
    scheduler.settle().wait().unwrap();
    clock.advance(secs(2));
    scheduler.settle().wait().unwrap();
    for id in &ids[4..] {
        assert!(matches!(scheduler.outcome(*id).wait().unwrap(), Outcome::Delivered(_)));
    }
    scheduler.shutdown(secs(1)).wait().unwrap();
    let seen: Vec<_> = std::iter::from_fn(|| events.wait()).collect();
    assert_eq!(seen.iter().filter(|event| matches!(event, Event::BreakerOpened { .. })).count(), 2);
    assert_eq!(seen.iter().filter(|event| matches!(event, Event::BreakerClosed { .. })).count(), 1);
}

/// Prepares by a script, and answers with what was prepared.
#[derive(Clone)]
struct Uploads(Script);

impl Broadcaster for Uploads {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        Ok(Receipt::new(String::from_utf8_lossy(delivery.prepared().unwrap_or(b"nothing"))))
    }

    async fn prepare(&self, delivery: Delivery) -> Result<Prepared, BroadcastError> {
        self.0.broadcast(delivery).await.map(|_| Prepared::new("media"))
    }
}

#[test]
fn uploads_never_take_the_place_of_publishing() {
    let script = Script::new([Act::Wait]);
    let prepare = PrepareAhead::by(secs(600)).concurrency(1);
    let (scheduler, clock, _) = fresh(Pool::new("p", Uploads(script.clone())).concurrency(1).prepare_ahead(prepare));
    let uploaded = scheduler.schedule(Post::new("p", "x").at(clock.now() + secs(60))).wait().unwrap();
    script.called(1);
    let plain = scheduler.schedule(Post::new("p", "x")).wait().unwrap();
    assert_eq!(scheduler.outcome(plain).wait().unwrap(), Outcome::Delivered(Receipt::new("nothing")));
    script.open();
    while scheduler.get(uploaded).wait().unwrap().unwrap().next_attempt() != Some(clock.now() + secs(60)) {}
    scheduler.settle().wait().unwrap();
    clock.advance(secs(60));
    assert_eq!(scheduler.outcome(uploaded).wait().unwrap(), Outcome::Delivered(Receipt::new("media")));
}

#[test]
fn an_upload_that_hangs_is_given_up_and_made_again_before_the_due() {
    let script = Script::new([Act::Wait]);
    let prepare = PrepareAhead::by(secs(600)).timeout(secs(60)).retry(RetryPolicy::exponential(secs(10)));
    let (scheduler, clock, _) = fresh(Pool::new("p", Uploads(script.clone())).prepare_ahead(prepare));
    let id = scheduler.schedule(Post::new("p", "x").at(clock.now() + secs(300))).wait().unwrap();
    script.called(1);
    clock.advance(secs(60));
    scheduler.settle().wait().unwrap();
    clock.advance(secs(20));
    script.called(2);
    scheduler.settle().wait().unwrap();
    clock.advance(secs(220));
    assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("media")));
}

#[test]
fn pools_beside_one_that_prepares_have_their_own_broadcasters() {
    #[derive(Clone)]
    struct Named(&'static str);
    impl Broadcaster for Named {
        async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
            let prepared = String::from_utf8_lossy(delivery.prepared().unwrap_or(b"nothing")).into_owned();
            Ok(Receipt::new(format!("{} with {prepared}", self.0)))
        }

        async fn prepare(&self, _: Delivery) -> Result<Prepared, BroadcastError> {
            Ok(Prepared::new(format!("media of {}", self.0)))
        }
    }
    let clock = ManualClock::at(at(START));
    let pool = |name: &'static str| Pool::new(name, Named(name)).concurrency(8).shards(2);
    let ahead = || PrepareAhead::by(secs(600));
    let pools = [pool("a").prepare_ahead(ahead()), pool("b"), pool("c").prepare_ahead(ahead()), pool("d")];
    let builder = Scheduler::builder().store(MemoryStore::default()).clock(clock.clone());
    let scheduler = pools.into_iter().fold(builder, punctual::Builder::pool).start().unwrap();
    for (name, media) in [("a", "media of a"), ("b", "nothing"), ("c", "media of c"), ("d", "nothing")] {
        let posts = (0..9).map(|n| Post::new(name, "x").profile(format!("{n}")).at(clock.now() + secs(60)));
        let ids = scheduler.schedule_all(posts).wait().unwrap();
        scheduler.settle().wait().unwrap();
        clock.advance(secs(60));
        for id in ids {
            let expected = Outcome::Delivered(Receipt::new(format!("{name} with {media}")));
            assert_eq!(scheduler.outcome(id).wait().unwrap(), expected);
        }
    }
}

#[test]
fn what_is_asked_of_unknown_pools_accounts_and_posts_is_refused_with_a_reason() {
    let (scheduler, ..) = fresh(pool(&Script::new([])));
    assert!(matches!(scheduler.pause("q").wait(), Err(Error::UnknownPool { pool }) if pool == "q"));
    assert!(matches!(scheduler.dead_letters("q", None).wait(), Err(Error::UnknownPool { .. })));
    assert!(matches!(scheduler.hold_profile("q", "a", "").wait(), Err(Error::UnknownPool { .. })));
    let limits = [RateLimit::rolling(0, secs(1))];
    assert!(matches!(scheduler.set_limits("p", limits).wait(), Err(Error::InvalidSetting { .. })));
    assert!(matches!(scheduler.set_account_limits("x", []).wait(), Err(Error::UnknownAccount { .. })));
    assert!(matches!(scheduler.publish_now("nobody").wait(), Err(Error::NotFound { .. })));
    let thread = (0..2_000).fold(Post::new("p", "x"), |post, _| post.then("y"));
    assert!(matches!(scheduler.schedule(thread).wait(), Err(Error::TooManyParts { parts: 2_001, .. })));
}

/// Remembers when each profile was called.
#[derive(Clone, Default)]
struct Starts(Arc<Mutex<HashMap<String, Vec<DateTime<Utc>>>>>);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is scheduled and whenever the process dies: in no span of the window's length are there more calls than
    /// the limit, for a profile and for the pool; everything goes out in the end, and no attempt is used up by waiting.
    #[test]
    fn limits_hold_in_every_window_also_over_restarts(
        posts in proptest::collection::vec((0u64..120, 0u8..3), 10..40),
        crashes in proptest::collection::vec(5u64..90, 1..4),
        per_profile in 1u32..5, per_pool in 3u32..9,
    ) {
        let window = secs(60);
        let (starts, store) = (Starts::default(), MemoryStore::default());
        let mut clock = ManualClock::at(at(START));
        let open = |clock: &ManualClock| {
            let (seen, now) = (starts.clone(), clock.clone());
            let broadcaster = move |delivery: Delivery| {
                let profile = delivery.profile().to_owned();
                seen.0.lock().unwrap().entry(profile).or_default().push(now.now());
                let attempt = delivery.attempt();
                async move { Ok(Receipt::new(attempt.to_string())) }
            };
            let pool = Pool::new("p", broadcaster)
                .concurrency(4)
                .limit_profiles(RateLimit::rolling(per_profile, window))
                .limit(RateLimit::rolling(per_pool, window));
            start(&store, clock, pool)
        };
        let mut scheduler = open(&clock);
        let base = at(START);
        let posts = posts.iter().map(|(due, profile)| Post::new("p", "x").profile(profile.to_string()).at(base + secs(*due)));
        let ids = scheduler.schedule_all(posts).wait().unwrap();
        let pass = |scheduler: &Scheduler, clock: &ManualClock, seconds: u64| {
            scheduler.settle().wait().unwrap();
            for _ in 0..seconds.div_ceil(2) {
                clock.advance(secs(2));
                scheduler.settle().wait().unwrap();
            }
        };
        for crash in crashes {
            pass(&scheduler, &clock, crash);
            // The process dies: time stands still for the first one from now on.
            let later = ManualClock::at(clock.now() + secs(1));
            std::mem::forget(std::mem::replace(&mut scheduler, open(&later)));
            clock = later;
        }
        for _ in 0..60 {
            pass(&scheduler, &clock, 60);
            let is_over = |id| scheduler.get(id).wait().unwrap().unwrap().state().is_final();
            if ids.iter().all(|id| is_over(*id)) {
                break;
            }
        }
        for id in ids {
            prop_assert_eq!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(Receipt::new("1")));
        }
        let starts = starts.0.lock().unwrap();
        let mut all: Vec<_> = starts.values().flatten().copied().collect();
        all.sort();
        for (max, starts) in starts.values().map(|starts| (per_profile, starts)).chain([(per_pool, &all)]) {
            for span in starts.windows(max as usize + 1) {
                prop_assert!(span[max as usize] - span[0] >= chrono::TimeDelta::seconds(60), "{:?}", span);
            }
        }
    }
}

#[test]
fn a_post_is_not_sent_early_when_the_clock_steps_back_while_the_network_is_asked() {
    #[derive(Clone)]
    struct Network {
        clock: ManualClock,
        early: Arc<AtomicU32>,
        calls: Arc<AtomicU32>,
        asked: Arc<AtomicU32>,
    }

    impl Broadcaster for Network {
        async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
            self.early.fetch_add(u32::from(self.clock.now() < delivery.due()), Ordering::SeqCst);
            match self.calls.fetch_add(1, Ordering::SeqCst) {
                0 => Err(BroadcastError::unknown("504")),
                _ => Ok(Receipt::default()),
            }
        }

        async fn reconcile(&self, _: Delivery) -> Result<Reconciled, BroadcastError> {
            if self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
                self.clock.step(TimeDelta::hours(-1));
            }
            Ok(Reconciled::NotSent)
        }
    }

    let clock = ManualClock::at("2030-01-07T07:59:59Z".parse().unwrap());
    let (early, calls, asked) = Default::default();
    let network = Network { clock: clock.clone(), early, calls, asked };
    let scheduler = Scheduler::builder()
        .store(MemoryStore::default())
        .clock(clock.clone())
        .pool(Pool::new("p", network.clone()))
        .start()
        .unwrap();
    let due: DateTime<Utc> = "2030-01-07T08:00:00Z".parse().unwrap();
    let id = scheduler.schedule(Post::new("p", "x").at(due)).wait().unwrap();
    for _ in 0..200 {
        clock.advance(Duration::from_secs(60));
        scheduler.settle().wait().unwrap();
    }
    assert!(matches!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)));
    assert_eq!(network.early.load(Ordering::SeqCst), 0);
    assert!(network.asked.load(Ordering::SeqCst) > 0 && network.calls.load(Ordering::SeqCst) == 2);
}
