//! Nothing acknowledged is lost, nothing is early and nothing is repeated unnoticed when the process is killed at
//! any moment, or the power fails: real processes, a real store, `kill -9`.
//!
//! The child schedules as fast as it can and writes what happens into two files, each line with one appending
//! write: an acknowledgement after `schedule` said Ok, and a call before its broadcaster does anything else. Both
//! files survive the kill, and lie outside of what loses its power. The parent kills it again and again, lets the last child finish what is left, and
//! judges by the files alone.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

fn command(folder: &Path, round: u32) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]).stdout(Stdio::null());
    command.env(FOLDER, folder).env(ROUND, round.to_string());
    command
}

/// Lets the child run for a random time below `most`, and kills it.
#[expect(clippy::disallowed_methods, reason = "real time passes until the kill")]
fn run_and_kill(command: &mut Command, most: Duration, random: &mut StdRng) {
    let mut child = command.spawn().unwrap();
    std::thread::sleep(random.random_range(Duration::ZERO..most));
    assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nothing_acknowledged_is_lost_early_or_repeated_unnoticed_in_50_kills() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(4);
    for round in 0..ROUNDS {
        // Half of them early, while the store opens; the others under load.
        let most = if round % 2 == 0 { 40 } else { 500 };
        run_and_kill(&mut command(folder.path(), round), Duration::from_millis(most), &mut random);
    }
    judge(folder.path(), 1_000);
}

#[test]
fn nothing_acknowledged_is_lost_early_or_repeated_unnoticed_in_15_power_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let (shim, kept) = (folder.path().join("shim.so"), folder.path().join("kept"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/shim.c");
    let compiler =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&shim, &source]).arg("-ldl").status();
    if !compiler.is_ok_and(|status| status.success()) {
        println!("SKIPPED: there is no C compiler to build the power cut with");
        return;
    }
    let store = folder.path().join("store");
    let mut random = StdRng::seed_from_u64(5);
    for round in 0..15 {
        let mut child = command(folder.path(), round);
        child.env("LD_PRELOAD", &shim).env("POWER_LIVE", &store).env("POWER_KEPT", &kept);
        run_and_kill(&mut child, Duration::from_millis(400), &mut random);
        // The power is back: there is what the disk has kept.
        std::fs::remove_dir_all(&store).or_else(absent_is_fine).unwrap();
        copy(&kept, &store);
    }
    judge(folder.path(), 200);
}

fn absent_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn copy(from: &Path, to: &Path) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    std::fs::create_dir_all(to).unwrap();
    for entry in entries {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if to.extension().is_none_or(|extension| extension != "fresh") {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Lets the last child finish what is left, and judges by what all of them wrote.
fn judge(folder: &Path, at_least: usize) {
    assert!(command(folder, ROUNDS).status().unwrap().success(), "the last child could not finish");
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
    let lost = acknowledged.iter().filter(|id| !calls.contains_key(id)).count();
    let mut repeats = 0;
    for (id, calls) in &calls {
        for pair in calls.windows(2) {
            repeats += 1;
            let ((before, first, _), (after, second, repeat)) = (pair[0], pair[1]);
            // Called in one process and again in a later one: it was in flight at a kill between the two.
            assert!(repeat && after > before && second > first, "an unnoticed repeat of {id}: {calls:?}");
        }
    }
    assert_eq!(lost, 0, "of {} acknowledged posts", acknowledged.len());
    assert!(acknowledged.len() > at_least, "only {} posts were acknowledged: a test of nothing", acknowledged.len());
    println!("{} acknowledged, {} called, {repeats} repeats, all marked", acknowledged.len(), calls.len());
}
