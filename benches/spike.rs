//! So many posts on one second, for a broadcaster that does nothing: how soon after it is the last outcome durable? Beside
//! it the same calls without wheel and store, the table that one writes by hand in SQLite, and job libraries.
//!
//! ```text
//! cargo bench --bench spike                              # 100,000 posts
//! PUNCTUAL_POSTS=1000000 cargo bench --bench spike       # so many; several numbers: 100000,1000000
//! PUNCTUAL_PEERS=no cargo bench --bench spike            # without the packages in benches/peers
//! PUNCTUAL_ROUNDS=1 cargo bench --bench spike            # one turn for each instead of three
//! ```
//!
//! Every contestant runs in a process of its own, one after the other, so that memory is its own, too.

mod common;
#[path = "peers/witness.rs"]
mod witness;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::Receiver;
use punctual::{BroadcastError, Delivery, Pool, Post, Receipt, Scheduler, SledStore, State};
use tokio::runtime::{Builder, Runtime};

use common::{Contest, Measure, is_short, median};
use witness::{Directory, Figures, Witness, argument, payload};

const POSTS: &str = "100000";
const POSTS_SHORT: &str = "20000";
const ROUNDS: usize = 3;
/// Threads of a pool, if nothing is said.
const THREADS: usize = 2;
/// More posts than this are not prepared at once: the floor is no faster for more of them.
const FLOOR_POSTS: usize = 1_000_000;
/// More posts than this take the job libraries too long.
const LIBRARY_POSTS: usize = 10_000;
/// Posts in one call while they are stored.
const STORE: usize = 20_000;

/// A contestant of this program: its name, and what runs it with so many posts.
type Own = (&'static str, fn(usize));
/// One of those in `benches/peers`: its name, its folder, and the most posts it gets.
type Peer = (&'static str, &'static str, usize);

const OWN: [Own; 6] = [
    ("punctual", |posts| punctual(posts, |pool| pool)),
    ("punctual, wide", |posts| punctual(posts, |pool| pool.concurrency(1 << 16))),
    ("bare dispatch", bare_dispatch),
    ("bare calls", bare_calls),
    ("bare tasks", bare_tasks),
    ("sleeping tasks", sleeping_tasks),
];
const PEERS: [Peer; 3] = [
    ("by-hand SQLite", "by_hand_sqlite", usize::MAX),
    ("apalis-sqlite", "apalis_sqlite", LIBRARY_POSTS),
    ("effectum", "effectum", LIBRARY_POSTS),
];

fn main() {
    if let Ok(name) = env::var("PUNCTUAL_CONTESTANT") {
        let (_, run) = OWN.iter().find(|(own, _)| *own == name).expect("a contestant of this program");
        return run(argument("--posts").expect("how many posts"));
    }
    let peers =
        if is_short() || env::var("PUNCTUAL_PEERS").is_ok_and(|value| value == "no") { &[][..] } else { &PEERS };
    peers.iter().for_each(|(_, folder, _)| build(folder));
    let counts = env::var("PUNCTUAL_POSTS").unwrap_or(if is_short() { POSTS_SHORT } else { POSTS }.to_owned());
    for posts in counts.split(',').map(|count| count.parse().expect("a number of posts")) {
        contest(posts, peers);
    }
}

/// All take their turns with so many posts, or as many as they bear.
fn contest(posts: usize, peers: &[Peer]) {
    let reached = RefCell::new(BTreeMap::<String, Vec<Figures>>::new());
    let measure = |name: &str, mut command: Command, posts: usize| -> Measure<'_> {
        command.arg("--posts").arg(posts.to_string()).stderr(Stdio::inherit());
        let (name, reached) = (name.to_owned(), &reached);
        Box::new(move || {
            let figures = run(&mut command);
            assert_eq!(figures.posts, posts, "{name}");
            assert!(figures.early == 0 || !name.starts_with("punctual"), "{name}: {} early", figures.early);
            let elapsed = Duration::from_secs_f64(figures.seconds_from_due_to_last_durable);
            reached.borrow_mut().entry(name.clone()).or_default().push(figures);
            (elapsed, posts)
        })
    };
    let own = OWN.iter().map(|(name, _)| {
        let mut command = Command::new(env::current_exe().expect("this program has a path"));
        command.env("PUNCTUAL_CONTESTANT", name);
        (*name, measure(name, command, if name.starts_with("bare") { posts.min(FLOOR_POSTS) } else { posts }))
    });
    let peers = peers
        .iter()
        .map(|(name, folder, most)| (*name, measure(name, Command::new(program(folder)), posts.min(*most))));
    let rounds = env::var("PUNCTUAL_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let mut contest = Contest::new(rounds);
    contest.row(&format!("{posts} posts on one second"), own.chain(peers).collect());
    contest.print();
    print(&reached.into_inner());
}

/// Runs one contestant and reads the figures that it prints last.
fn run(command: &mut Command) -> Figures {
    let output = command.output().expect("the contestant starts");
    assert!(output.status.success(), "{command:?} failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().last().unwrap_or_default();
    println!("{figures}");
    serde_json::from_str(figures).expect("the contestant prints its figures")
}

fn build(folder: &str) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(folder).join("Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(target());
    assert!(cargo.status().is_ok_and(|status| status.success()), "{folder} cannot be built");
}

fn program(folder: &str) -> PathBuf {
    target().join("release").join(format!("peer-{}", folder.replace('_', "-")))
}

/// The target directory: this program is in its `release/deps`.
fn target() -> PathBuf {
    let own = env::current_exe().expect("this program has a path");
    own.ancestors().nth(3).expect("it was built by cargo").to_owned()
}

fn print(reached: &BTreeMap<String, Vec<Figures>>) {
    let of =
        |name: &str, figure: fn(&Figures) -> f64| median(reached.get(name).into_iter().flatten().map(figure).collect());
    let (ours, floor) = (of("punctual", |f| f.per_second), of("bare dispatch", |f| f.per_second));
    println!(
        "\n{:16} {:>9} {:>10} {:>21} {:>8} {:>8} {:>7} {:>8} {:>8} {:>8} {:>6} {:>6} {:>10}",
        "",
        "posts",
        "posts/s",
        "least and most",
        "ours is",
        "of bare",
        "s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "early",
        "MB",
        "stored/s"
    );
    let names = OWN.iter().map(|(name, _)| *name).chain(PEERS.iter().map(|(name, ..)| *name));
    for (name, figures) in names.filter_map(|name| Some((name, reached.get(name)?))) {
        let per_s = |figures: &Figures| figures.per_second;
        let (least, most) =
            (figures.iter().map(per_s).fold(f64::MAX, f64::min), figures.iter().map(per_s).fold(0.0, f64::max));
        println!(
            "{name:16} {:>9} {:>10.0} {least:>10.0} {most:>10.0} {:>7.2}x {:>7.0}% {:>7.3} {:>8.1} {:>8.1} {:>8.1} {:>6.0} {:>6.0} {:>10.0}",
            figures[0].posts,
            of(name, per_s),
            ours / of(name, per_s),
            of(name, per_s) / floor * 100.0,
            of(name, |f| f.seconds_from_due_to_last_durable),
            of(name, |f| f.p50_ms),
            of(name, |f| f.p99_ms),
            of(name, |f| f.max_ms),
            of(name, |f| f.early as f64),
            of(name, |f| f.resident_mb),
            of(name, |f| f.scheduled_per_s.unwrap_or(f64::NAN)),
        );
    }
}

/// The engine on a durable store, with one pool.
fn punctual(posts: usize, settings: fn(Pool) -> Pool) {
    let witness = Witness::new(posts, 80_000);
    let directory = Directory::new("punctual");
    let seen = Arc::clone(&witness);
    let broadcaster = move |delivery: Delivery| {
        seen.call(delivery.payload());
        async { Ok(Receipt::default()) }
    };
    let store = SledStore::open(&directory.0).expect("a store");
    let pool = settings(Pool::new("spike", broadcaster));
    let scheduler = Scheduler::builder().store(store).pool(pool).start().expect("a scheduler");
    let due = chrono::DateTime::<chrono::Utc>::from(witness.due());
    let mut some = Vec::new();
    let mut under_way = None;
    for first in (0..posts).step_by(STORE) {
        let post = |number| Post::new("spike", payload(number)).at(due);
        let reply = scheduler.schedule_all((first..posts.min(first + STORE)).map(post));
        if let Some(reply) = under_way.replace(reply) {
            some.push(reply.wait().expect("posts are stored")[0]);
        }
    }
    some.push(under_way.expect("there are posts").wait().expect("posts are stored")[0]);
    witness.stored();

    witness.wait_called();
    // Answers when every outcome is durable.
    scheduler.settle().wait().expect("all is recorded");
    witness.finish("punctual");
    for id in some {
        let status = scheduler.get(id).wait().expect("an answer").expect("it is remembered");
        assert_eq!(status.state(), State::Delivered);
    }
    scheduler.shutdown(Duration::from_secs(1)).wait().expect("a clean end");
}

/// What the crate hands over: as large as a [`Delivery`], and as what it points to.
#[derive(Clone)]
struct Prepared {
    facts: Arc<Facts>,
}

struct Facts {
    payload: String,
    _others: [u64; 22],
}

const _: () = assert!(size_of::<Prepared>() == size_of::<Delivery>());

type Answer = Result<Receipt, BroadcastError>;
type Call = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// As the crate calls a broadcaster whose type it does not know.
trait Broadcast: Send + Sync {
    fn broadcast(self: Arc<Self>, prepared: Prepared) -> Call;
}

impl Broadcast for Witness {
    fn broadcast(self: Arc<Self>, prepared: Prepared) -> Call {
        Box::pin(async move {
            self.call(prepared.facts.payload.as_bytes());
            Ok(Receipt::default())
        })
    }
}

/// Posts that are ready to be handed over, and who is to be called.
struct Floor {
    witness: Arc<Witness>,
    broadcaster: Arc<dyn Broadcast>,
    prepared: Vec<Prepared>,
    runtime: Runtime,
}

impl Floor {
    fn new(posts: usize) -> Self {
        let witness = Witness::new(posts, 1_000_000);
        let facts = |number| Facts { payload: payload(number), _others: [0; 22] };
        let prepared = |number| Prepared { facts: Arc::new(facts(number)) };
        Self {
            broadcaster: Arc::clone(&witness) as Arc<dyn Broadcast>,
            witness,
            prepared: (0..posts).map(prepared).collect(),
            runtime: Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().expect("a runtime"),
        }
    }

    /// As many threads as a pool has call what comes from the due on, and poll each call where they stand.
    fn callers(&self, calls: &Receiver<Prepared>, answer: impl Fn(Answer) + Clone + Send + 'static) {
        for _ in 0..THREADS {
            let (witness, broadcaster) = (Arc::clone(&self.witness), Arc::clone(&self.broadcaster));
            let (calls, answer, handle) = (calls.clone(), answer.clone(), self.runtime.handle().clone());
            thread::spawn(move || {
                let _context = handle.enter();
                witness.sleep();
                for prepared in calls {
                    let mut call = Arc::clone(&broadcaster).broadcast(prepared);
                    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        Poll::Ready(given) => answer(given),
                        Poll::Pending => unreachable!("it has nothing to wait for"),
                    }
                }
            });
        }
    }
}

/// From the due on one thread hands everything to the callers and takes their answers, as a pool does.
fn bare_dispatch(posts: usize) {
    let mut floor = Floor::new(posts);
    let (calls, taken) = crossbeam_channel::unbounded();
    let (answers, given) = crossbeam_channel::unbounded();
    floor.callers(&taken, move |answer| drop(answers.send(answer)));
    floor.witness.sleep();
    floor.prepared.drain(..).for_each(|prepared| drop(calls.send(prepared)));
    assert!(given.iter().take(posts).all(|answer: Answer| answer.is_ok()));
    floor.witness.finish("bare dispatch");
}

/// Everything lies ready for the callers, and nobody wants to know what came of it.
fn bare_calls(posts: usize) {
    let mut floor = Floor::new(posts);
    let (calls, taken) = crossbeam_channel::unbounded();
    floor.prepared.drain(..).for_each(|prepared| drop(calls.send(prepared)));
    floor.callers(&taken, drop);
    floor.witness.wait_called();
    floor.witness.finish("bare calls");
}

/// From the due on each call becomes a task of the runtime.
fn bare_tasks(posts: usize) {
    let mut floor = Floor::new(posts);
    floor.witness.sleep();
    for prepared in floor.prepared.drain(..) {
        drop(floor.runtime.spawn(Arc::clone(&floor.broadcaster).broadcast(prepared)));
    }
    floor.witness.wait_called();
    floor.witness.finish("bare tasks");
}

/// A task for each post that sleeps until its due; not durable.
fn sleeping_tasks(posts: usize) {
    let witness = Witness::new(posts, 300_000);
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().expect("a runtime");
    let left = witness.due().duration_since(SystemTime::now()).unwrap_or_default();
    let due = tokio::time::Instant::now() + left;
    for number in 0..posts {
        let (witness, payload) = (Arc::clone(&witness), payload(number));
        runtime.spawn(async move {
            tokio::time::sleep_until(due).await;
            witness.call(payload.as_bytes());
        });
    }
    witness.stored();
    witness.wait_called();
    witness.finish("sleeping tasks");
}
