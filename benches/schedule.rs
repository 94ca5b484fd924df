//! How many posts are stored durably in a second: by one caller that waits for each answer, by many callers at once, in
//! batches.
//!
//! Beside it, in the same run and with the same posts: the floor, a file to which the same bytes are appended, with a
//! checksum and one fdatasync for each batch; and one key for each post in the database that the store uses itself.
//! Where many callers wait, theirs is written by one thread that takes whatever waits into one commit.

mod common;

use std::cell::{Cell, RefCell};
use std::convert::identity;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Instant;

use common::goals::{Goal, Goals};
use common::host::{self, Engine, POOL, Row};
use common::late::Late;
use common::machine::{self, Usage};
use common::{Contest, Measure};
use punctual::{Pool, Post};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

const PUNCTUAL: &str = "punctual";
const TWO: &str = "punctual, two batches under way";
const FLOOR: &str = "floor: append and fdatasync";
const NAIVE: &str = "one key per post on sled";

/// Makes posts durable, one commit at a time.
trait Commit: Send {
    fn commit(&mut self, rows: &[Row]);
}

/// The floor.
struct Append {
    file: File,
    buffer: Vec<u8>,
}

impl Append {
    fn open(folder: &Path) -> Self {
        let file = OpenOptions::new().create_new(true).append(true).open(folder.join("log")).expect("a new file");
        Self { file, buffer: Vec::new() }
    }
}

impl Commit for Append {
    fn commit(&mut self, rows: &[Row]) {
        self.buffer.clear();
        for row in rows {
            self.buffer.extend_from_slice(&row.key());
            row.put(&mut self.buffer);
        }
        let checksum = crc32fast::hash(&self.buffer);
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        self.file.write_all(&self.buffer).expect("room on the disk");
        self.file.sync_data().expect("a disk that syncs");
    }
}

/// What is written first by whoever takes sled for this; with the sync that its flush leaves out.
struct OneKeyPerPost {
    db: sled::Db,
    log: File,
}

impl OneKeyPerPost {
    fn open(folder: &Path) -> Self {
        let db = sled::Config::default().path(folder).cache_capacity(64 << 20).open().expect("a new database");
        let log = OpenOptions::new().write(true).open(folder.join("db")).expect("its log");
        Self { db, log }
    }
}

impl Commit for OneKeyPerPost {
    fn commit(&mut self, rows: &[Row]) {
        let mut batch = sled::Batch::default();
        for row in rows {
            let mut value = Vec::with_capacity(160);
            row.put(&mut value);
            batch.insert(&row.key(), value);
        }
        self.db.apply_batch(batch).expect("room on the disk");
        self.db.flush().expect("room on the disk");
        self.log.sync_data().expect("a disk that syncs");
    }
}

/// A thread that commits whatever waits, and then answers all who wait for that.
#[derive(Clone)]
struct Gathering(mpsc::Sender<(Row, oneshot::Sender<()>)>);

impl Gathering {
    fn start(mut commit: impl Commit + 'static) -> Self {
        let (sender, mut receiver) = mpsc::channel(16_384);
        thread::spawn(move || {
            let (mut waiting, mut rows, mut answers) = (Vec::new(), Vec::new(), Vec::new());
            while receiver.blocking_recv_many(&mut waiting, 16_384) > 0 {
                for (row, answer) in waiting.drain(..) {
                    rows.push(row);
                    answers.push(answer);
                }
                commit.commit(&rows);
                rows.clear();
                answers.drain(..).for_each(|answer: oneshot::Sender<()>| answer.send(()).expect("the caller waits"));
            }
        });
        Self(sender)
    }

    async fn schedule(self, row: Row) {
        let (sender, receiver) = oneshot::channel();
        assert!(self.0.send((row, sender)).await.is_ok(), "the thread runs");
        receiver.await.expect("the thread runs");
    }
}

/// The posts still to be made, and what the contestants have used up.
#[derive(Default)]
struct Bench {
    next: Cell<usize>,
    used: RefCell<Vec<(String, &'static str, usize, Usage)>>,
}

impl Bench {
    /// Posts that no contestant has had, due within 30 days.
    fn rows(&self, posts: usize) -> Vec<Row> {
        let first = self.next.get();
        self.next.set(first + posts);
        (first..first + posts).map(|number| Row::new(number, host::in_30_days(number))).collect()
    }

    /// Measures how long so many posts take, made before; and what it costs until all that follows is done too.
    fn measure<'a, T: 'a>(
        &'a self,
        row: &str,
        name: &'static str,
        posts: usize,
        make: impl Fn(Row) -> T + 'a,
        mut store: impl FnMut(Vec<T>) + 'a,
    ) -> (&'static str, Measure<'a>) {
        let row = row.to_owned();
        let measure = move || {
            let made = self.rows(posts).into_iter().map(&make).collect();
            machine::quiet();
            let (before, started) = (Usage::now(), Instant::now());
            store(made);
            let elapsed = started.elapsed();
            machine::quiet();
            let used = Usage::now() - before;
            let mut all = self.used.borrow_mut();
            match all.iter_mut().find(|(other, who, ..)| *other == row && *who == name) {
                Some((_, _, sum, sum_used)) => {
                    *sum += posts;
                    *sum_used += used;
                }
                None => all.push((row.clone(), name, posts, used)),
            }
            (elapsed, posts)
        };
        (name, Box::new(measure))
    }

    fn print(&self) {
        println!("\nuntil the background threads were done too      processor time  written, of one post");
        for (row, name, posts, used) in &*self.used.borrow() {
            let (micros, bytes) = (used.cpu.as_secs_f64() * 1e6 / *posts as f64, used.written / *posts as u64);
            println!("{row:20} {name:32} {micros:8.2} µs {bytes:8} B");
        }
    }
}

fn batches(batch: usize) -> String {
    format!("batches of {batch}")
}

fn callers(callers: usize) -> String {
    if callers == 1 { "one caller".to_owned() } else { format!("{callers} callers") }
}

fn in_batches(contest: &mut Contest, bench: &Bench, batch: usize) {
    let (row, short) = (batches(batch), common::is_short());
    let posts = if short { 10_000 } else { (1_000 * batch).min(500_000) };
    let few = posts.min(100_000);
    let (append, naive) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (mut append, mut naive) = (Append::open(append.path()), OneKeyPerPost::open(naive.path()));
    let engine = Engine::start([Pool::new(POOL, Late::default().broadcaster())]);
    let scheduler = &engine.scheduler;
    let one_by_one = move |mut posts: Vec<Post>| {
        while !posts.is_empty() {
            let batch = posts.split_off(posts.len().saturating_sub(batch));
            let stored = batch.len();
            assert_eq!(scheduler.schedule_all(batch).wait().expect("posts are taken").len(), stored);
        }
    };
    let two = move |mut posts: Vec<Post>| {
        let mut under_way = None;
        while !posts.is_empty() {
            let batch = posts.split_off(posts.len().saturating_sub(batch));
            if let Some(reply) = under_way.replace(scheduler.schedule_all(batch)) {
                reply.wait().expect("posts are taken");
            }
        }
        under_way.map(|reply| reply.wait().expect("posts are taken"));
    };
    contest.row(
        &row,
        vec![
            bench.measure(&row, PUNCTUAL, posts, Row::post, one_by_one),
            bench.measure(&row, TWO, posts, Row::post, two),
            bench.measure(&row, FLOOR, posts, identity, |rows| rows.chunks(batch).for_each(|rows| append.commit(rows))),
            bench.measure(&row, NAIVE, few, identity, |rows| rows.chunks(batch).for_each(|rows| naive.commit(rows))),
        ],
    );
    engine.stop();
}

fn one_by_one(contest: &mut Contest, bench: &Bench) {
    let (row, posts) = (callers(1), if common::is_short() { 200 } else { 2_000 });
    let (append, naive) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (mut append, mut naive) = (Append::open(append.path()), OneKeyPerPost::open(naive.path()));
    let engine = Engine::start([Pool::new(POOL, Late::default().broadcaster())]);
    let punctual = |posts: Vec<Post>| {
        for post in posts {
            engine.scheduler.schedule(post).wait().expect("posts are taken");
        }
    };
    contest.row(
        &row,
        vec![
            bench.measure(&row, PUNCTUAL, posts, Row::post, punctual),
            bench.measure(&row, FLOOR, posts, identity, |rows| rows.chunks(1).for_each(|row| append.commit(row))),
            bench.measure(&row, NAIVE, posts, identity, |rows| rows.chunks(1).for_each(|row| naive.commit(row))),
        ],
    );
    engine.stop();
}

/// So many tasks, each of which stores one post after the other.
fn in_tasks<T, F>(runtime: &Runtime, callers: usize, mut posts: Vec<T>, store: impl Fn(T) -> F + Clone + Send + 'static)
where
    T: Send + 'static,
    F: Future<Output = ()> + Send,
{
    let share = posts.len() / callers;
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (mine, store) = (posts.split_off(posts.len() - share), store.clone());
            runtime.spawn(async move {
                for post in mine {
                    store(post).await;
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("all posts are taken");
        }
    });
    assert!(posts.is_empty());
}

fn at_once(contest: &mut Contest, bench: &Bench, many: usize, each: usize) {
    let (row, posts) = (callers(many), many * if common::is_short() { 10 } else { each });
    let runtime = Runtime::new().expect("a runtime");
    let (append, naive) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (append, naive) =
        (Gathering::start(Append::open(append.path())), Gathering::start(OneKeyPerPost::open(naive.path())));
    let engine = Engine::start([Pool::new(POOL, Late::default().broadcaster())]);
    let gathered = |gathering: &Gathering, rows| {
        let gathering = gathering.clone();
        in_tasks(&runtime, many, rows, move |row| gathering.clone().schedule(row));
    };
    let punctual = |posts| {
        let scheduler = engine.scheduler.clone();
        in_tasks(&runtime, many, posts, move |post| {
            let reply = scheduler.schedule(post);
            async { reply.await.map(drop).expect("posts are taken") }
        });
    };
    contest.row(
        &row,
        vec![
            bench.measure(&row, PUNCTUAL, posts, Row::post, punctual),
            bench.measure(&row, FLOOR, posts, identity, |rows| gathered(&append, rows)),
            bench.measure(&row, NAIVE, posts, identity, |rows| gathered(&naive, rows)),
        ],
    );
    engine.stop();
}

fn main() {
    let (mut contest, bench) = (Contest::new(5), Bench::default());
    one_by_one(&mut contest, &bench);
    at_once(&mut contest, &bench, 64, 500);
    at_once(&mut contest, &bench, 1_024, 100);
    for batch in [100, 1_000, 10_000] {
        in_batches(&mut contest, &bench, batch);
    }
    contest.print();
    bench.print();

    let mut goals = Goals::default();
    let times = |row: &str, other, than| Some(contest.seconds(row, other)? / contest.seconds(row, than)?);
    if let Some(times) = times(&callers(1), PUNCTUAL, FLOOR) {
        goals.add("one caller: times the floor's commit", times, Goal::AtMost(2.0));
    }
    if let Some(share) = times(&batches(1_000), FLOOR, PUNCTUAL) {
        goals.add("batches of 1000: share of the floor's rate", share, Goal::AtLeast(0.15));
    }
    if let Some(times) = times(&batches(1_000), NAIVE, PUNCTUAL) {
        goals.add("batches of 1000: times the rate of one key per post", times, Goal::AtLeast(5.0));
    }
    goals.print();
}
