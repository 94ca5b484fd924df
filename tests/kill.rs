//! Nothing acknowledged is lost, nothing is early and nothing is repeated unnoticed when the process is killed at
//! any moment: a real process, a real store, `kill -9`.
//!
//! The child schedules as fast as it can and writes what happens into two files, each line with one appending
//! write: an acknowledgement after `schedule` said Ok, and a call before its broadcaster does anything else. Both
//! files survive the kill. The parent kills it again and again, lets the last child finish what is left, and
//! judges by the files alone.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use punctual::{Delivery, Outcome, Pool, Post, PostId, Receipt, Scheduler, SledStore};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ROUNDS: u32 = 50;
const FOLDER: &str = "PUNCTUAL_KILL_FOLDER";
const ROUND: &str = "PUNCTUAL_KILL_ROUND";

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

#[expect(clippy::disallowed_methods, reason = "the machine's clock judges the engine's")]
fn wall() -> DateTime<Utc> {
    Utc::now()
}

#[expect(clippy::disallowed_methods, reason = "how the parent speaks to its child")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The process that is killed; it does nothing when the tests are run.
#[test]
fn child() {
    let (Some(folder), Some(round)) = (variable(FOLDER), variable(ROUND)) else { return };
    let (folder, round): (PathBuf, u32) = (folder.into(), round.parse().unwrap());
    let calls = Arc::new(append(&folder.join("calls")));
    let broadcaster = move |delivery: Delivery| {
        let called = wall();
        let (id, attempt, due) = (delivery.id(), delivery.attempt(), micros(delivery.due()));
        let repeat = u8::from(delivery.is_redelivery());
        let line = format!("{round} {id} {attempt} {repeat} {due} {} .\n", micros(called));
        (&*calls).write_all(line.as_bytes()).unwrap();
        async move {
            if id.as_u128() % 3 == 0 {
                tokio::time::sleep(Duration::from_millis((id.as_u128() % 40) as u64)).await;
            }
            Ok(Receipt::default())
        }
    };
    let store = SledStore::open(folder.join("store")).unwrap();
    let scheduler = Scheduler::builder().store(store).pool(Pool::new("p", broadcaster)).start().unwrap();
    let acknowledged = append(&folder.join("acks"));
    if round == ROUNDS {
        finish(&scheduler, &folder);
        return;
    }
    let mut random = StdRng::seed_from_u64(round.into());
    loop {
        let posts: Vec<Post> = (0..random.random_range(1..40))
            .map(|_| {
                let ahead = Duration::from_millis(random.random_range(0..1_500));
                Post::new("p", vec![7; random.random_range(0..600)]).at(wall() + ahead)
            })
            .collect();
        let ids = scheduler.schedule_all(posts).wait().unwrap();
        let lines: String = ids.iter().map(|id| format!("{id} .\n")).collect();
        (&acknowledged).write_all(lines.as_bytes()).unwrap();
    }
}

/// The last child: everything acknowledged comes to its end, then a clean shutdown.
fn finish(scheduler: &Scheduler, folder: &Path) {
    for id in acks(folder) {
        assert!(matches!(scheduler.outcome(id).wait().unwrap(), Outcome::Delivered(_)), "{id}");
    }
    scheduler.shutdown(Duration::from_secs(10)).wait().unwrap();
}

/// Whole lines only: a kill may cut the last one.
fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| line.ends_with(" .")).map(str::to_owned).collect()
}

fn acks(folder: &Path) -> Vec<PostId> {
    lines(&folder.join("acks")).iter().map(|line| line[..32].parse().unwrap()).collect()
}

fn spawn(folder: &Path, round: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "real time passes until the kill")]
fn nothing_acknowledged_is_lost_early_or_repeated_unnoticed_in_50_kills() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut random = StdRng::seed_from_u64(4);
    for round in 0..ROUNDS {
        let mut child = spawn(folder, round);
        // Half of them early, while the store opens; the others under load.
        let most = if round % 2 == 0 { 40_000 } else { 500_000 };
        std::thread::sleep(Duration::from_micros(random.random_range(0..most)));
        assert!(child.try_wait().unwrap().is_none(), "the child of round {round} ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(spawn(folder, ROUNDS).wait().unwrap().success(), "the last child could not finish");

    let mut calls: HashMap<PostId, Vec<(u32, u32, bool)>> = HashMap::new();
    for line in lines(&folder.join("calls")) {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let (round, id, attempt): (u32, PostId, u32) =
            (word().parse().unwrap(), word().parse().unwrap(), word().parse().unwrap());
        let (repeat, due, called) = (word() == "1", word().parse::<i64>().unwrap(), word().parse::<i64>().unwrap());
        assert!(called >= due, "early: {line}");
        calls.entry(id).or_default().push((round, attempt, repeat));
    }
    let acknowledged = acks(folder);
    let (mut repeats, mut lost) = (0, 0);
    for id in &acknowledged {
        lost += u32::from(!calls.contains_key(id));
    }
    for (id, calls) in &calls {
        for pair in calls.windows(2) {
            repeats += 1;
            let ((before, first, _), (after, second, repeat)) = (pair[0], pair[1]);
            // Called in one process and again in a later one: it was in flight at a kill between the two.
            assert!(repeat && after > before && second > first, "an unnoticed repeat of {id}: {calls:?}");
        }
    }
    assert_eq!(lost, 0, "of {} acknowledged posts", acknowledged.len());
    assert!(acknowledged.len() > 1_000, "only {} posts were acknowledged: a test of nothing", acknowledged.len());
    println!("{} acknowledged, {} called, {repeats} repeats, all marked", acknowledged.len(), calls.len());
}
