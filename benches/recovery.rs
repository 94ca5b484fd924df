//! How soon is the first post delivered after a kill, with a million or ten million live posts in the store?
//!
//! A child process stores them and is killed with SIGKILL right after the last answer, while the store still sorts what
//! came last. Another one opens what it left, and is killed too; a third one opens that. Beside it the floor: sled
//! alone, opening a copy of the same files. The files are in the system's cache, as after a crash of the process.
//! `cargo bench --bench recovery -- [posts]`

mod common;

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};
use std::{fs, thread};

use chrono::TimeDelta;
use common::child::{self, Child};
use common::goals::{Goal, Goals};
use common::host::{self, POOL, Row};
use common::{is_short, machine};
use punctual::{Delivery, Pool, PostId, Receipt, Scheduler, SledStore};

const ROUNDS: usize = 3;
/// More posts than this are stored once only.
const MANY: usize = 1_000_000;
/// The process that had stored the last post before the kill is gone when it is due.
const SOON: Duration = Duration::from_millis(1_500);
/// Posts that are looked up, to see that they are there.
const SAMPLES: u128 = 100;
const MIB: f64 = (1 << 20) as f64;

fn main() {
    let task = child::task();
    let task: Option<Vec<&str>> = task.as_ref().map(|task| task.iter().map(String::as_str).collect());
    match task.as_deref() {
        Some(["fill", folder, posts]) => fill(folder.as_ref(), posts.parse().expect("a number")),
        Some(["open", folder, ends @ ..]) => open(folder.as_ref(), ends),
        Some(["floor", folder]) => {
            let started = Instant::now();
            let database = sled::Config::default().path(folder).cache_capacity(64 << 20).open().expect("a database");
            child::say([started.elapsed().as_secs_f64(), machine::resident() / MIB]);
            drop(database);
        }
        Some(task) => panic!("no such task: {task:?}"),
        None => judge(),
    }
}

/// Stores so many posts and is killed.
fn fill(folder: &Path, posts: usize) {
    let store = SledStore::open(folder).expect("a new store");
    let scheduler = start(store, mpsc::channel().0);
    // From a minute ahead on: the next start has some to load.
    let ends = host::schedule(&scheduler, 0..posts, |number| host::in_30_days(number) - TimeDelta::minutes(119));
    schedule_one(&scheduler);
    child::say(ends);
    thread::park();
}

/// Opens what is left, says how long that took, and is killed.
fn open(folder: &Path, ends: &[&str]) {
    let (called, calls) = mpsc::channel();
    let started = Instant::now();
    let store = SledStore::open(folder).expect("what a kill has left");
    let opened = started.elapsed();
    let scheduler = start(store, called);
    let running = started.elapsed();
    let delivered = calls.recv().expect("one post is due") - started;
    child::say([opened, running, delivered].map(|time| time.as_secs_f64()));
    child::say([machine::resident() / MIB]);

    let ends: Vec<u128> = ends.iter().map(|id| id.parse::<PostId>().expect("an id").as_u128()).collect();
    for sample in 0..SAMPLES {
        let id = PostId::from_u128(ends[0] + (ends[1] - ends[0]) * sample / SAMPLES);
        assert!(scheduler.get(id).wait().expect("an answer").is_some(), "{id} is lost");
    }
    schedule_one(&scheduler);
    child::say(["ready"]);
    thread::park();
}

fn start(store: SledStore, called: Sender<Instant>) -> Scheduler {
    let broadcaster = move |_: Delivery| {
        // Only the first call is waited for.
        let _ = called.send(Instant::now());
        async { Ok(Receipt::default()) }
    };
    Scheduler::builder().store(store).pool(Pool::new(POOL, broadcaster)).start().expect("an engine")
}

/// The post that the next process delivers at once.
fn schedule_one(scheduler: &Scheduler) {
    scheduler.schedule(Row::new(0, host::ahead(SOON)).post()).wait().expect("the post is taken");
}

/// Seconds until the store was open, the scheduler had started and the first post was delivered; MiB in memory then.
fn reopen(folder: &str, ends: &[PostId; 2]) -> [f64; 4] {
    thread::sleep(SOON);
    let [first, last] = ends.map(|id| id.to_string());
    let mut child = Child::start(&["open", folder, &first, &last]);
    let [opened, running, delivered] = child.hear();
    let [resident] = child.hear();
    let [_]: [String; 1] = child.hear();
    [opened, running, delivered, resident]
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").map(|entry| entry.expect("a directory")) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("room on the disk");
        }
    }
}

fn judge() {
    let sizes = match common::argument() {
        Some(posts) => vec![posts],
        None if is_short() => vec![20_000],
        None => vec![1_000_000, 10_000_000],
    };
    let mut goals = Goals::default();
    println!("{:>10} {:24} {:>8} {:>8} {:>8} {:>9}", "posts", "seconds until", "open", "started", "first", "resident");
    for posts in sizes {
        let mut rows = [(); 3].map(|()| [(); 4].map(|()| Vec::new()));
        for _ in 0..if is_short() || posts > MANY { 1 } else { ROUNDS } {
            let folder = tempfile::tempdir().expect("a directory");
            let (store, floor) = (folder.path().join("store"), folder.path().join("floor"));
            let [store, floor] = [store, floor].map(|path| path.into_os_string().into_string().expect("a plain path"));
            let mut child = Child::start(&["fill", &store, &posts.to_string()]);
            let ends = child.hear();
            drop(child);
            copy(Path::new(&store).join("sled").as_ref(), floor.as_ref());
            let [alone, resident] = Child::start(&["floor", &floor]).hear();
            let runs = [reopen(&store, &ends), reopen(&store, &ends), [alone, alone, alone, resident]];
            for (row, run) in rows.iter_mut().zip(runs) {
                row.iter_mut().zip(run).for_each(|(figures, figure)| figures.push(figure));
            }
        }
        let rows = rows.map(|row| row.map(common::median));
        for (name, [opened, running, first, resident]) in
            ["after a kill while storing", "after another kill", "floor: sled alone"].into_iter().zip(rows)
        {
            println!("{posts:>10} {name:24} {opened:8.3} {running:8.3} {first:8.3} {resident:5.0} MiB");
        }
        let [[_, _, first, resident], _, [floor, ..]] = rows;
        println!("{:>10} first delivery: {:.2} times what sled takes to open", "", first / floor);
        goals.add(format!("{posts} live posts: seconds to the first delivery"), first, Goal::AtMost(2.0));
        goals.add(format!("{posts} live posts: MiB resident then"), resident, Goal::AtMost(300.0));
    }
    goals.print();
}
