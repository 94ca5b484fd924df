use super::*;
use crate::post::{Body, BroadcastError, Ending, Post, PostRef, Receipt, Verdict};
use crate::reply::Reply;
use crate::store::MemoryStore;
use crate::store::backend::Backend;

const START: i64 = 1_900_000_000_000;
const STALL: Duration = Duration::from_secs(10);

/// An engine on one thread, whose store works only when it is told to.
struct Rig {
    engine: Engine,
    store: MemoryStore,
    now: Now,
    /// Effects that wait for the store.
    asked: VecDeque<Effect>,
    delivered: Vec<Delivery>,
    events: Vec<Event>,
    stopped: bool,
}

impl Rig {
    fn new() -> Self {
        let mut store = MemoryStore::default();
        let id = store.pools(&["p".to_owned()]).unwrap()[0];
        let retry = RetryPolicy::exponential(Duration::from_secs(10));
        let settings = Settings {
            store: store.identity(),
            next_seq: store.next_seq(),
            last_commit_at: store.last_commit_at(),
            pools: vec![PoolSettings { id, name: "p".into(), first_shard: 0, shards: 1, retry }],
            horizon: Duration::from_secs(60),
            claim_ahead: Duration::from_secs(2),
            memory: 1 << 20,
            stall_after: STALL,
            retention: Duration::from_secs(86_400),
        };
        let now = Now { wall: Timestamp::from_millis(START), mono: Duration::ZERO, machine: Duration::ZERO };
        let mut engine = Engine::new(settings, now);
        engine.watch(true);
        let (asked, delivered, events) = (VecDeque::new(), Vec::new(), Vec::new());
        let mut rig = Self { engine, store, now, asked, delivered, events, stopped: false };
        rig.turn();
        rig.work();
        rig
    }

    fn turn(&mut self) {
        self.engine.handle_timeout(self.now);
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Deliver { deliveries, .. } => self.delivered.extend(deliveries),
                Effect::Emit(event) => self.events.push(event),
                Effect::RecallAll { .. } => {
                    let report = Report { recalled_all: true, ..Report::default() };
                    self.engine.handle_report(self.now, report);
                }
                Effect::Recall { id, .. } => {
                    let report = Report { kept: vec![id], ..Report::default() };
                    self.engine.handle_report(self.now, report);
                }
                Effect::Stop { .. } => self.stopped = true,
                asked => self.asked.push_back(asked),
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now.mono += Duration::from_millis(millis);
        self.now.machine = self.now.mono;
        self.now.wall = self.now.wall.after(Duration::from_millis(millis));
        self.turn();
    }

    /// The store answers one request; false if there is none.
    fn answer_one(&mut self) -> bool {
        let Some(effect) = self.asked.pop_front() else { return false };
        let answer = match effect {
            Effect::Commit { now, changes } => Answer::Committed(self.store.commit(now, changes)),
            Effect::Load { place, pool, after, until, max_bytes } => {
                Answer::Loaded { place, page: self.store.load(pool, after, until, max_bytes) }
            }
            Effect::Find { token, sought: Sought::Seq(seq) } => Answer::Found { token, found: self.store.find(seq) },
            Effect::Find { token, sought: Sought::Key(key) } => {
                Answer::Found { token, found: self.store.find_key(&key) }
            }
            Effect::Tidy { now, retention } => Answer::Tidied(self.store.tidy(now, retention)),
            other => panic!("not for the store: {other:?}"),
        };
        self.engine.handle_answer(self.now, answer);
        self.turn();
        true
    }

    fn work(&mut self) {
        while self.answer_one() {}
    }

    /// The changes of the commits that wait for the store.
    fn commits(&self) -> Vec<&[Change]> {
        fn changes(effect: &Effect) -> Option<&[Change]> {
            match effect {
                Effect::Commit { changes, .. } => Some(changes),
                _ => None,
            }
        }
        self.asked.iter().filter_map(changes).collect()
    }

    fn schedule(&mut self, ahead_millis: i64) -> Reply<PostId> {
        let (promise, reply) = Promise::new();
        let due = Timestamp::from_millis(self.now.wall.millis() + ahead_millis);
        let posts = vec![NewPost { pool: 0, due, body: Body::encode(&Post::new("p", "x")), late: None }];
        let weight = Weight::add(&Arc::default(), 0, 0).unwrap();
        let command = Command::Schedule { posts, promise: SchedulePromise::One(promise), _weight: weight };
        self.engine.handle_command(self.now, command);
        self.turn();
        reply
    }

    fn cancel(&mut self, id: PostId) -> Reply<()> {
        let (promise, reply) = Promise::new();
        self.engine.handle_command(self.now, Command::Cancel { post: PostRef::Id(id), promise });
        self.turn();
        reply
    }

    fn end(&mut self, delivery: &Delivery, ending: Ending) {
        let attempt = Attempt { id: delivery.id(), slot: delivery.facts().slot, started: Some(self.now.wall), ending };
        self.engine.handle_report(self.now, Report { ended: vec![attempt], ..Report::default() });
        self.turn();
    }
}

fn given<T>(reply: Reply<T>) -> Option<crate::Result<T>> {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};
    match std::pin::pin!(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

#[test]
fn schedule_is_answered_only_after_the_commit() {
    let mut rig = Rig::new();
    let reply = rig.schedule(30_000);
    rig.pass(1_000);
    assert!(matches!(rig.commits()[..], [[Change::Schedule(_)]]));
    rig.work();
    assert!(given(reply).unwrap().is_ok());
}

#[test]
fn nothing_is_handed_over_before_its_claim_is_durable() {
    let mut rig = Rig::new();
    drop(rig.schedule(30_000));
    rig.work();
    rig.pass(28_000);
    assert!(matches!(rig.commits()[..], [[Change::Claim { attempt: 1, .. }]]));
    rig.pass(5_000);
    assert!(rig.delivered.is_empty(), "the claim is not durable yet");
    rig.work();
    assert_eq!(rig.delivered.len(), 1);
}

#[test]
fn at_the_due_a_claimed_post_needs_no_store() {
    let mut rig = Rig::new();
    drop(rig.schedule(30_000));
    rig.work();
    rig.pass(28_000);
    rig.work();
    rig.pass(1_999);
    assert!(rig.delivered.is_empty());
    assert_eq!(rig.engine.poll_timeout().wall, Some(Timestamp::from_millis(START + 30_000)), "it wakes exactly then");
    rig.pass(1);
    assert_eq!((rig.delivered.len(), rig.commits().len()), (1, 0));
}

#[test]
fn a_post_for_now_is_claimed_in_the_commit_that_stores_it() {
    let mut rig = Rig::new();
    drop(rig.schedule(0));
    assert!(rig.answer_one());
    assert_eq!((rig.delivered.len(), rig.commits().len()), (1, 0));
}

#[test]
fn a_stalled_commit_refuses_posts_and_claims_nothing_more_until_it_is_back() {
    let mut rig = Rig::new();
    let claimed = rig.schedule(12_000);
    let waits = rig.schedule(20_000);
    rig.work();
    assert!(given(claimed).unwrap().is_ok() && given(waits).unwrap().is_ok());
    rig.pass(10_000);
    rig.work();
    let pending = rig.schedule(60_000);
    rig.pass(STALL.as_millis() as u64 - 1);
    assert_eq!(rig.delivered.len(), 1, "what was claimed goes out");
    let late = rig.schedule(60_000);
    rig.pass(1);
    assert!(matches!(given(pending), Some(Err(Error::StoreStalled { .. }))));
    assert!(matches!(given(late), Some(Err(Error::StoreStalled { .. }))));
    let refused = rig.schedule(60_000);
    assert!(matches!(given(refused), Some(Err(Error::StoreStalled { .. }))));
    rig.pass(100_000);
    assert_eq!(rig.delivered.len(), 1, "nothing that was not claimed");
    assert!(rig.commits().len() <= 2);

    rig.work();
    assert!(rig.events.contains(&Event::StoreResumed));
    assert_eq!(rig.delivered.len(), 4, "late, but not lost; the posts on their way were stored");
    let fine = rig.schedule(60_000);
    rig.work();
    assert!(given(fine).unwrap().is_ok());
}

#[test]
fn a_store_that_fails_ends_everything_with_a_reason() {
    let mut rig = Rig::new();
    let claimed = rig.schedule(1_000);
    rig.work();
    assert!(given(claimed).unwrap().is_ok());
    let pending = rig.schedule(60_000);
    rig.asked.clear();
    rig.engine.handle_answer(rig.now, Answer::Committed(Err(StoreError::Poisoned)));
    rig.pass(10_000);
    assert!(matches!(given(pending), Some(Err(Error::Store(_)))));
    let refused = rig.schedule(60_000);
    assert!(matches!(given(refused), Some(Err(Error::Store(_)))));
    assert!(rig.delivered.is_empty() && rig.asked.is_empty(), "its outcome could not be recorded");
    assert!(matches!(rig.events.last(), Some(Event::StoreFailed { .. })));
    let (promise, _) = Promise::new();
    rig.engine.handle_command(rig.now, Command::Shutdown { grace: STALL, promise });
    rig.turn();
    assert!(rig.stopped);
}

#[test]
fn a_cancel_never_says_ok_for_a_post_that_is_delivered() {
    let mut rig = Rig::new();
    let reply = rig.schedule(0);
    rig.work();
    let id = given(reply).unwrap().unwrap();
    let delivery = rig.delivered.pop().unwrap();
    let late = rig.cancel(id);
    assert!(matches!(given(late), Some(Err(Error::TooLate { .. }))));
    rig.end(&delivery, Ending::Answered(Err(BroadcastError::transient("503"))));
    // Between the attempts it can be taken back, also while its new home is on the way to the store.
    let cancelled = rig.cancel(id);
    rig.work();
    assert!(given(cancelled).unwrap().is_ok());
    rig.pass(60_000);
    rig.work();
    assert!(rig.delivered.is_empty());
    assert!(rig.engine.posts.is_empty() && rig.engine.by_seq.is_empty() && rig.engine.wheel.is_empty());
}

#[test]
fn an_ending_that_comes_twice_or_late_changes_nothing() {
    let mut rig = Rig::new();
    drop(rig.schedule(0));
    rig.work();
    let delivery = rig.delivered.pop().unwrap();
    rig.end(&delivery, Ending::TimedOut { after: STALL });
    rig.end(&delivery, Ending::Answered(Ok(Receipt::default())));
    rig.work();
    rig.pass(10_000);
    rig.work();
    let again = rig.delivered.pop().unwrap();
    assert!(again.is_redelivery());
    rig.end(&again, Ending::Answered(Ok(Receipt::default())));
    rig.end(&again, Ending::Answered(Ok(Receipt::default())));
    rig.work();
    let settled = rig.events.iter().filter(|event| matches!(event, Event::Settled { .. })).count();
    assert_eq!((settled, rig.engine.posts.len()), (1, 0));
}

#[test]
fn a_refused_unit_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let reply = rig.schedule(0);
    rig.asked.clear();
    let refused = Verdict::Conflict { index: 0, existing: Seq(77) };
    rig.engine.handle_answer(rig.now, Answer::Committed(Ok(vec![refused])));
    rig.pass(10_000);
    rig.work();
    assert!(matches!(given(reply), Some(Err(Error::Conflict { existing, .. })) if existing.seq() == Seq(77)));
    assert!(rig.delivered.is_empty() && rig.engine.posts.is_empty());
}

#[test]
fn a_claim_left_to_the_store_by_a_full_memory_is_taken_back() {
    let mut rig = Rig::new();
    rig.engine.windows[0].bytes = 1 << 19;
    drop(rig.schedule(0));
    rig.engine.windows[0].bytes = 1 << 20;
    rig.work();
    rig.engine.windows[0].bytes = 0;
    rig.pass(1);
    rig.work();
    assert_eq!(rig.delivered.len(), 1);
    assert_eq!(rig.delivered[0].attempt(), 1);
}
