use super::*;
use crate::catch_up::CatchUp;
use crate::committer;
use crate::error::Error;
use crate::gate::{Gate, Rules};
use crate::id::PostId;
use crate::post::{Body, BroadcastError, Change, Ending, Guarantee, Post, PostRef, Receipt, Shelf, Verdict};
use crate::reply::Reply;
use crate::retry::RetryPolicy;
use crate::store::backend::Backend;
use crate::store::{CallLog, MemoryStore};
use std::sync::Arc;

const START: i64 = 1_900_000_000_000;
const STALL: Duration = Duration::from_secs(10);

/// An engine on one thread, whose store works only when it is told to.
pub(super) struct Rig {
    pub engine: Engine,
    pub store: MemoryStore,
    pub log: Option<Arc<dyn CallLog>>,
    pub now: Now,
    /// What the store is asked for.
    pub asked: VecDeque<Request>,
    /// Handed over ahead of the due.
    pub early: Vec<Delivery>,
    /// Handed over and due.
    pub delivered: Vec<Delivery>,
    pub events: Vec<Event>,
    pub stopped: bool,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A rig whose pool is set up so.
    pub fn with(change: impl FnOnce(&mut PoolSettings)) -> Self {
        let now = Now { wall: Timestamp::from_millis(START), mono: Duration::ZERO, machine: Duration::ZERO };
        Self::on(MemoryStore::default(), now, change)
    }

    /// A rig with two pools.
    pub fn of_two(change: impl FnMut(&mut PoolSettings)) -> Self {
        let now = Now { wall: Timestamp::from_millis(START), mono: Duration::ZERO, machine: Duration::ZERO };
        let mut rig = Self::waiting_with(MemoryStore::default(), now, "", &["p", "q"], change);
        rig.work();
        rig
    }

    /// A rig on a store that an earlier one has left.
    pub fn on(store: MemoryStore, now: Now, change: impl FnOnce(&mut PoolSettings)) -> Self {
        Self::with_zones(store, now, "", change)
    }

    /// The same, with this release of the zone data.
    pub fn with_zones(
        store: MemoryStore,
        now: Now,
        zones: &'static str,
        change: impl FnOnce(&mut PoolSettings),
    ) -> Self {
        let mut rig = Self::waiting(store, now, zones, change);
        rig.work();
        rig
    }

    /// The same, and the store has answered nothing yet.
    pub fn waiting(store: MemoryStore, now: Now, zones: &'static str, change: impl FnOnce(&mut PoolSettings)) -> Self {
        let mut change = Some(change);
        Self::waiting_with(store, now, zones, &["p"], |pool| {
            change.take().into_iter().for_each(|change| change(pool));
        })
    }

    /// The same, with pools of these names.
    pub fn waiting_with(
        mut store: MemoryStore,
        now: Now,
        zones: &'static str,
        names: &[&str],
        mut change: impl FnMut(&mut PoolSettings),
    ) -> Self {
        let ids = store.pools(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let pool = |(shard, (name, id)): (usize, (&&str, PoolId))| {
            let mut pool = PoolSettings {
                id,
                name: (*name).into(),
                first_shard: shard,
                shards: 1,
                retry: RetryPolicy::exponential(Duration::from_secs(10)),
                guarantee: Guarantee::AtLeastOnce,
                catch_up: CatchUp::at_once(),
                gate: Gate::new(name, Rules::default()),
                is_limited: false,
                has_accounts: false,
                prepare: None,
            };
            change(&mut pool);
            pool
        };
        let pools = names.iter().zip(ids).enumerate().map(pool).collect();
        let settings = Settings {
            store: store.identity(),
            next_seq: store.next_seq(),
            last_commit_at: store.last_commit_at(),
            remembered: store.remembered().unwrap(),
            pools,
            horizon: Duration::from_secs(60),
            claim_ahead: Duration::from_secs(2),
            memory: 1 << 20,
            stall_after: STALL,
            retention: Duration::from_secs(86_400),
            zones,
            dead_letter_retention: Duration::from_secs(30 * 86_400),
        };
        let log = store.call_log();
        let mut engine = Engine::new(settings, now);
        engine.watch(true);
        let (asked, early, delivered, events) = (VecDeque::new(), Vec::new(), Vec::new(), Vec::new());
        let mut rig = Self { engine, store, log, now, asked, early, delivered, events, stopped: false };
        rig.turn();
        rig
    }

    /// The process dies at once, and another one starts so much later.
    pub fn restart(self, after_millis: u64, change: impl FnOnce(&mut PoolSettings)) -> Self {
        let mut now = self.now;
        now.wall = now.wall.after(Duration::from_millis(after_millis));
        Self::on(self.store.clone(), now, change)
    }

    pub fn turn(&mut self) {
        self.engine.handle_timeout(self.now);
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Deliver { deliveries, .. } => self.early.extend(deliveries),
                Effect::Emit(event) => self.events.push(event),
                Effect::Look { .. } | Effect::Stopping => {}
                Effect::Stop { .. } => self.stopped = true,
                Effect::Ask(request) => self.asked.push_back(request),
            }
        }
        let now = self.now.wall;
        let due = self.early.extract_if(.., |delivery| delivery.facts().at <= now);
        self.delivered.extend(due.filter(|delivery| !delivery.facts().stage.is_withdrawn()));
    }

    pub fn pass(&mut self, millis: u64) {
        self.now.mono += Duration::from_millis(millis);
        self.now.machine = self.now.mono;
        self.now.wall = self.now.wall.after(Duration::from_millis(millis));
        self.turn();
    }

    /// The store answers one request; false if there is none.
    pub fn answer_one(&mut self) -> bool {
        let Some(request) = self.asked.pop_front() else { return false };
        let answer = committer::carry_out(&mut self.store, request);
        self.engine.handle_answer(self.now, answer);
        self.turn();
        true
    }

    /// The store answers all that it is asked, which must come to an end.
    pub fn work(&mut self) {
        let answers = (0..10_000).take_while(|_| self.answer_one()).count();
        assert!(answers < 10_000, "the store is asked for ever");
    }

    /// The changes of the commits that wait for the store.
    pub fn commits(&self) -> Vec<&[Change]> {
        fn changes(request: &Request) -> Option<&[Change]> {
            match request {
                Request::Commit { changes, .. } => Some(changes),
                _ => None,
            }
        }
        self.asked.iter().filter_map(changes).collect()
    }

    pub fn schedule(&mut self, ahead_millis: i64) -> Reply<PostId> {
        self.schedule_post(ahead_millis, &Post::new("p", "x"))
    }

    pub fn schedule_post(&mut self, ahead_millis: i64, post: &Post) -> Reply<PostId> {
        let (promise, reply) = Promise::new();
        let due = Timestamp::from_millis(self.now.wall.millis() + ahead_millis);
        let pool = self.engine.settings.pools.iter().position(|pool| *pool.name == *post.pool).unwrap_or(0);
        let posts = vec![NewPost { pool, due, body: Body::encode(post), late: None }];
        let weight = Weight::add(&Arc::default(), 0, 0).unwrap();
        let command =
            Command::Schedule { posts, campaign: None, promise: SchedulePromise::One(promise), _weight: weight };
        self.engine.handle_command(self.now, command);
        self.turn();
        reply
    }

    /// Schedules and stores a post; its id.
    pub fn stored(&mut self, ahead_millis: i64, post: &Post) -> PostId {
        let reply = self.schedule_post(ahead_millis, post);
        self.work();
        given(reply).unwrap().unwrap()
    }

    pub fn ask<T>(&mut self, command: impl FnOnce(Promise<T>) -> Command) -> Reply<T> {
        let (promise, reply) = Promise::new();
        self.engine.handle_command(self.now, command(promise));
        self.turn();
        reply
    }

    pub fn wish(&mut self, id: PostId, wish: Wish) -> Reply<()> {
        self.ask(|promise| Command::Change { post: PostRef::from(id), wish, promise })
    }

    /// The same, and the store has done its part.
    pub fn wished(&mut self, id: PostId, wish: Wish) -> crate::Result<()> {
        let reply = self.wish(id, wish);
        self.work();
        given(reply).unwrap()
    }

    pub fn status(&mut self, id: PostId) -> Option<crate::Status> {
        let reply = self.ask(|promise| Command::Get { post: id.into(), promise });
        self.work();
        given(reply).unwrap().unwrap()
    }

    pub fn status_by_key(&mut self, key: &str) -> Option<crate::Status> {
        let reply = self.ask(|promise| Command::Get { post: key.into(), promise });
        self.work();
        given(reply).unwrap().unwrap()
    }

    pub fn shelf(&mut self, shelf: Shelf) -> Vec<PostId> {
        let reply = self.ask(|promise| Command::List { place: 0, shelf, after: None, promise });
        self.work();
        given(reply).unwrap().unwrap().iter().map(crate::Status::id).collect()
    }

    pub fn cancel(&mut self, id: PostId) -> Reply<()> {
        self.wish(id, Wish::Cancel)
    }

    /// The broadcaster is called for what was handed over last.
    pub fn call(&mut self) -> Delivery {
        let delivery = self.delivered.pop().expect("nothing was handed over");
        if let Some(log) = &self.log {
            log.calling(&[(delivery.id().seq(), delivery.facts().claim)]);
        }
        assert!(delivery.facts().at <= self.now.wall, "too early");
        assert!(delivery.facts().stage.call(), "it was taken back");
        delivery
    }

    pub fn report(&mut self, report: Report) {
        self.engine.handle_report(self.now, report);
        self.turn();
    }

    pub fn end(&mut self, delivery: &Delivery, ending: Ending) {
        let attempt = Attempt { delivery: delivery.clone(), started: Some(self.now.wall), called: true, ending };
        self.report(Report { ended: vec![attempt], ..Report::default() });
    }

    pub fn answer(&mut self, delivery: &Delivery, answer: crate::Result<&str, BroadcastError>) {
        self.end(delivery, Ending::Answered(answer.map(Receipt::new)));
        self.work();
    }
}

pub(super) fn given<T>(reply: Reply<T>) -> Option<crate::Result<T>> {
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
fn who_wakes_the_engine_only_when_it_says_so_misses_nothing_and_seldom_wakes_it() {
    for (ahead, back) in [(500, 0), (30_000, 0), (59_000, 0), (3_600_000, 0), (30_000, 3_600), (60_000, 60)] {
        let mut rig = Rig::new();
        rig.now.wall = rig.now.wall.before(Duration::from_secs(back));
        rig.turn();
        let due = Timestamp::from_millis(rig.now.wall.millis() + ahead);
        rig.stored(ahead, &Post::new("p", "x"));
        let mut wakings = 0;
        while rig.early.is_empty() && rig.delivered.is_empty() {
            let Wake { wall, mono } = rig.engine.poll_timeout();
            let mono = mono.map(|at| at.saturating_sub(rig.now.mono));
            let next = wall.map(|at| at.since(rig.now.wall)).into_iter().chain(mono).min().expect("it sleeps for ever");
            rig.pass(u64::try_from(next.as_millis()).unwrap() + 1);
            rig.work();
            wakings += 1;
            assert!(rig.now.wall < due, "{ahead}, {back}: {} ms late", rig.now.wall.since(due).as_millis());
            assert!(wakings < 1_000, "{ahead}, {back}: woken for ever");
        }
    }
}

#[test]
fn a_profile_has_one_shard_of_its_pool_and_all_of_them_have_work() {
    for (first, shards) in [(0, 1), (3, 1), (3, 4)] {
        let mut rig = Rig::with(|pool| (pool.first_shard, pool.shards) = (first, shards));
        for number in 0..200 {
            let profile = if number < 100 { format!("profile {}", number % 25) } else { String::new() };
            rig.stored(30_000, &Post::new("p", "x").profile(profile));
        }
        let Engine { settings, posts, .. } = &rig.engine;
        let mut of: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (_, Resident { record, .. }) in posts {
            of.entry(record.body.profile()).or_default().insert(settings.shard(0, record));
        }
        let all: BTreeSet<usize> = (first..first + shards).collect();
        assert_eq!(of.remove(""), Some(all.clone()), "those without a profile are spread");
        assert!(of.len() == 25 && of.values().all(|shards| shards.len() == 1));
        assert_eq!(of.into_values().flatten().collect::<BTreeSet<_>>(), all);
    }
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
fn a_claimed_post_is_with_its_shard_a_moment_ahead_and_needs_no_store_at_its_due() {
    let mut rig = Rig::new();
    drop(rig.schedule(30_000));
    rig.work();
    rig.pass(28_000);
    rig.work();
    let ahead = limits::HAND_OVER_AHEAD.as_millis() as u64;
    rig.pass(1_999 - ahead);
    assert!(rig.early.is_empty());
    let handed_over = Timestamp::from_millis(START + 30_000 - ahead as i64);
    assert_eq!(rig.engine.poll_timeout().wall, Some(handed_over), "it wakes exactly then");
    rig.pass(1);
    assert_eq!((rig.early.len(), rig.commits().len()), (1, 0));
    rig.pass(ahead - 1);
    assert!(rig.delivered.is_empty());
    rig.pass(1);
    assert_eq!((rig.delivered.len(), rig.commits().len()), (1, 0));
}

#[test]
fn what_is_with_its_shard_ahead_of_its_due_can_still_be_changed_and_cancelled() {
    let mut rig = Rig::new();
    let [moved, cancelled] = [0; 2].map(|_| rig.stored(30_000, &Post::new("p", "x")));
    rig.pass(28_000);
    rig.work();
    rig.pass(1_990);
    assert_eq!(rig.early.len(), 2);
    assert_eq!(rig.status(moved).unwrap().state(), crate::State::Scheduled);
    assert!(rig.wished(cancelled, Wish::Cancel).is_ok());
    let later = Timestamp::from_millis(START + 40_000);
    assert!(rig.wished(moved, Wish::Reschedule(later)).is_ok());
    rig.pass(5_000);
    rig.work();
    assert!(rig.delivered.is_empty());
    rig.pass(5_010);
    rig.work();
    rig.pass(10);
    let delivered: Vec<PostId> = rig.delivered.iter().map(Delivery::id).collect();
    assert_eq!(delivered, [moved]);
}

#[test]
fn a_post_in_order_is_handed_over_at_its_due_because_an_earlier_one_may_come() {
    let mut rig = Rig::new();
    let post = Post::new("p", "x").profile("a").in_order();
    rig.stored(30_000, &post);
    rig.pass(28_000);
    rig.work();
    rig.pass(1_999);
    assert!(rig.early.is_empty());
    let earlier = rig.stored(0, &post);
    rig.pass(1);
    let handed_over: Vec<PostId> = rig.delivered.iter().map(Delivery::id).collect();
    assert_eq!(handed_over, [earlier]);
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
fn a_store_that_hangs_while_it_is_asked_keeps_nobody_waiting() {
    let mut rig = Rig::new();
    let id = rig.stored(50_000_000, &Post::new("p", "x"));
    let get = rig.ask(|promise| Command::Get { post: id.into(), promise });
    let cancel = rig.cancel(id);
    let settle = rig.ask(|promise| Command::Settle { promise });
    rig.pass(STALL.as_millis() as u64 - 1);
    rig.pass(1);
    assert!(matches!(given(get), Some(Err(Error::StoreStalled { .. }))));
    assert!(matches!(given(cancel), Some(Err(Error::StoreStalled { .. }))));
    assert!(matches!(given(settle), Some(Err(Error::StoreStalled { .. }))));
    // The answers that come after all belong to nobody, and what was refused is not done.
    rig.work();
    assert_eq!(rig.status(id).unwrap().state(), crate::id::State::Scheduled);
    // Nor does it stand in the way of later ones.
    rig.wished(id, Wish::Reschedule(rig.now.wall.after(Duration::from_secs(20)))).unwrap();
    let here = rig.wish(id, Wish::Cancel);
    assert!(matches!(rig.asked.front(), Some(Request::Commit { .. })), "it is in memory");
    rig.work();
    assert!(matches!(given(here), Some(Ok(()))));
    drop(rig.ask(|promise| Command::Get { post: id.into(), promise }));
    drop(rig.ask(|promise| Command::Shutdown { grace: Duration::ZERO, promise }));
    assert!(!rig.stopped, "the store has still to answer");
    rig.pass(STALL.as_millis() as u64);
    assert!(rig.stopped);
}

#[test]
fn a_change_whose_commit_fails_is_not_confirmed() {
    let mut rig = Rig::new();
    let id = rig.stored(30_000, &Post::new("p", "x"));
    let wishes = [Wish::Cancel, Wish::PublishNow, Wish::Edit { part: 0, payload: "y".into() }];
    let replies = wishes.map(|wish| rig.wish(id, wish));
    assert!(matches!(rig.asked.front(), Some(Request::Commit { .. })));
    rig.engine.handle_answer(rig.now, Answer::Committed(Err(StoreError::Poisoned)));
    rig.turn();
    assert!(replies.into_iter().all(|reply| matches!(given(reply), Some(Err(_)))));
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
    let delivery = rig.call();
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
    let delivery = rig.call();
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
    rig.engine.sites[0].window.bytes = 1 << 19;
    drop(rig.schedule(0));
    rig.engine.sites[0].window.bytes = 1 << 20;
    rig.work();
    rig.engine.sites[0].window.bytes = 0;
    rig.pass(1);
    rig.work();
    assert_eq!(rig.delivered.len(), 1);
    assert_eq!(rig.delivered[0].attempt(), 1);
}
