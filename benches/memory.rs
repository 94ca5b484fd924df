//! How many bytes of memory does a post take: beyond the horizon, within it, in flight? Each in a process of its own,
//! by what is resident before and after. Beside it the floors: the same bytes in a `BTreeMap`, and a tokio task that
//! holds them and waits, with a timeout. `cargo bench --bench memory -- [posts]`

mod common;

use std::collections::BTreeMap;
use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use common::child::{self, Child};
use common::host::{self, Engine, POOL, Row};
use common::{is_short, machine};
use punctual::{Builder, Delivery, Pool, Receipt};
use tokio::runtime::Runtime;

/// Posts that were there before, so that everything has been used once.
const BEFORE: usize = 10_000;
const HOUR: Duration = Duration::from_secs(3_600);
/// The engine's limit of deliveries in flight.
const MOST_IN_FLIGHT: usize = 1 << 20;

fn main() {
    let task = child::task();
    let task: Option<Vec<&str>> = task.as_ref().map(|task| task.iter().map(String::as_str).collect());
    let number = |posts: &str| posts.parse::<usize>().expect("a number");
    match task.as_deref() {
        Some(["beyond", posts]) => stored(number(posts), host::in_30_days, |builder| builder),
        Some(["within", posts]) => {
            let due = |number| Utc::now() + HOUR + Duration::from_micros(common::scattered(number) % 3_000_000_000);
            stored(number(posts), due, |builder| builder.horizon(3 * HOUR).memory(8 << 30));
        }
        Some(["flight", posts]) => in_flight(number(posts)),
        Some(["map", posts]) => in_map(number(posts)),
        Some(["tasks", posts]) => in_tasks(number(posts)),
        Some(task) => panic!("no such task: {task:?}"),
        None => judge(),
    }
}

/// Says how many bytes more are resident after this.
fn grown(by: impl FnOnce()) {
    machine::quiet();
    let before = machine::resident();
    by();
    machine::quiet();
    child::say([machine::resident() - before]);
}

fn stored(posts: usize, due: impl Fn(usize) -> DateTime<Utc>, set: impl FnOnce(Builder) -> Builder) {
    let pool = Pool::new(POOL, |_: Delivery| async { Ok(Receipt::default()) });
    let engine = Engine::start_with([pool], set);
    host::schedule(&engine.scheduler, 0..BEFORE, &due);
    grown(|| {
        host::schedule(&engine.scheduler, BEFORE..BEFORE + posts, &due);
    });
    engine.stop();
}

fn in_flight(posts: usize) {
    let called = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&called);
    let broadcaster = move |_: Delivery| {
        calls.fetch_add(1, Ordering::Relaxed);
        future::pending()
    };
    let pool = Pool::new(POOL, broadcaster).concurrency(MOST_IN_FLIGHT).timeout(24 * HOUR);
    let engine = Engine::start_with([pool], |builder| builder.memory(8 << 30));
    let wait = |posts| {
        while called.load(Ordering::Relaxed) < posts {
            thread::sleep(Duration::from_millis(10));
        }
    };
    host::schedule(&engine.scheduler, 0..BEFORE, |_| Utc::now());
    wait(BEFORE);
    grown(|| {
        host::schedule(&engine.scheduler, BEFORE..BEFORE + posts, |_| Utc::now());
        wait(BEFORE + posts);
    });
    engine.stop();
}

fn encoded(number: usize) -> ([u8; 16], Box<[u8]>) {
    let row = Row::new(number, host::in_30_days(number));
    let mut bytes = Vec::new();
    row.put(&mut bytes);
    (row.key(), bytes.into_boxed_slice())
}

fn in_map(posts: usize) {
    let mut map = BTreeMap::new();
    grown(|| map.extend((0..posts).map(encoded)));
    assert_eq!(map.len(), posts);
}

fn in_tasks(posts: usize) {
    let runtime = Runtime::new().expect("a runtime");
    let held = Arc::new(AtomicUsize::new(0));
    grown(|| {
        for number in 0..posts {
            let (post, held) = (encoded(number), Arc::clone(&held));
            let waits = async move {
                held.fetch_add(1, Ordering::Relaxed);
                future::pending::<()>().await;
                drop(post);
            };
            runtime.spawn(async { tokio::time::timeout(24 * HOUR, waits).await });
        }
    });
    assert_eq!(held.load(Ordering::Relaxed), posts);
}

fn judge() {
    let posts = common::argument().unwrap_or(if is_short() { 20_000 } else { 1_000_000 });
    let grown = |task: &str, posts: usize| {
        let mut child = Child::start(&[task, &posts.to_string()]);
        let [bytes]: [f64; 1] = child.hear();
        child.end();
        bytes
    };
    let mib = f64::from(1 << 20);
    let print = |name: &str, bytes: f64, posts: usize, floor: Option<f64>| {
        let each = bytes / posts as f64;
        let times = floor.map_or_else(String::new, |floor| format!("{:8.2}x", bytes / floor));
        println!("{name:56} {:8.1} {each:14.1}{times}", bytes / mib);
    };
    let flying = posts.min(MOST_IN_FLIGHT - BEFORE);
    let (map, tasks) = (grown("map", posts), grown("tasks", flying));
    let (few, many) = (grown("beyond", posts), grown("beyond", 4 * posts));
    let (within, flight) = (grown("within", posts), grown("flight", flying));
    println!("{:56} {:>8} {:>14}", format!("{posts} posts, {flying} in flight"), "MiB", "bytes each");
    print("floor: the same bytes in a BTreeMap", map, posts, None);
    print("scheduled beyond the horizon", few, posts, Some(map));
    print("four times as many beyond the horizon", many, 4 * posts, Some(4.0 * map));
    print("each of those that came on top", many - few, 3 * posts, Some(3.0 * map));
    print("within the horizon, with what the store takes", within, posts, Some(map));
    print("within the horizon, beside what the store takes", within - few, posts, Some(map));
    print("floor: a tokio task that holds it and waits", tasks, flying, None);
    print("in flight", flight, flying, Some(tasks));
}
