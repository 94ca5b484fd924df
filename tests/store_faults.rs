//! A store that cannot be used says why, and a store that is damaged gives right data or a typed error, never less in
//! silence.

#[path = "../examples/faults/mod.rs"]
mod faults;

use std::fs;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use faults::damage::Sample;
use punctual::{ManualClock, Pool, Post, PostId, Receipt, Scheduler, SledStore, StoreError};

/// Of so many bytes one is damaged: all of them by `cargo run --release --example faults -- damage`.
const EVERY: usize = 397;

fn far() -> DateTime<Utc> {
    "2040-01-01T00:00:00Z".parse().unwrap()
}

fn scheduler(path: &Path) -> Result<Scheduler, punctual::Error> {
    let clock = ManualClock::at("2030-01-07T07:00:00Z".parse().unwrap());
    let pool = Pool::new("p", |_| async { Ok(Receipt::default()) });
    Scheduler::builder().store(SledStore::open(path)?).clock(clock).pool(pool).start()
}

/// A store with these posts in it, closed.
fn filled(path: &Path, posts: usize) -> Vec<PostId> {
    let scheduler = scheduler(path).unwrap();
    let posts = (0..posts).map(|n| Post::new("p", n.to_string().repeat(40)).at(far()).key(format!("k{n}")));
    let ids = scheduler.schedule_all(posts).wait().unwrap();
    scheduler.shutdown(Duration::from_secs(5)).wait().unwrap();
    ids
}

/// True if everything is there, false if the store said that something is wrong.
fn is_whole(path: &Path, ids: &[PostId]) -> bool {
    let Ok(scheduler) = scheduler(path) else { return false };
    for (n, id) in ids.iter().enumerate() {
        match scheduler.get(*id).wait() {
            Ok(Some(status)) => {
                assert_eq!(status.payload(), n.to_string().repeat(40).as_bytes(), "wrong data of post {n}");
                assert_eq!(status.due(), far());
            }
            Ok(None) => panic!("post {n} is gone, and nobody says so"),
            Err(_) => return false,
        }
    }
    scheduler.shutdown(Duration::from_secs(5)).wait().is_ok()
}

#[test]
fn a_path_that_is_no_store_is_said_to_be_so_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(matches!(SledStore::open(&file), Err(StoreError::NotADirectory { path }) if path == file));
    assert!(matches!(SledStore::open(folder.path()), Err(StoreError::NotAStore { path }) if path == folder.path()));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_store_is_open_once_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = SledStore::open(folder.path()).unwrap();
    assert!(matches!(SledStore::open(folder.path()), Err(StoreError::Locked { path }) if path == folder.path()));
    drop(first);
    assert!(SledStore::open(folder.path()).is_ok());
}

#[test]
fn a_store_of_another_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 1);
    let marker = folder.path().join("format");
    let text = fs::read_to_string(&marker).unwrap();
    for other in [2, 4] {
        fs::write(&marker, text.replace("version 3", &format!("version {other}"))).unwrap();
        match SledStore::open(folder.path()) {
            Err(StoreError::Version { found, supported: 3, .. }) => assert_eq!(found, other),
            opened => panic!("{opened:?}"),
        }
    }
    fs::write(&marker, text).unwrap();
    assert!(SledStore::open(folder.path()).is_ok());
}

#[test]
fn an_unfinished_snapshot_and_a_torn_conf_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let ids = filled(folder.path(), 50);
    let sled = folder.path().join("sled");
    for half in ["", "half of a snapshot"] {
        fs::write(sled.join("snap.00000000000FFFFF.generating"), half).unwrap();
        assert!(is_whole(folder.path(), &ids));
    }
    let conf = fs::read(sled.join("conf")).unwrap();
    fs::write(sled.join("conf"), &conf[..conf.len() / 2]).unwrap();
    assert!(is_whole(folder.path(), &ids));
    fs::write(sled.join("conf"), vec![0; conf.len()]).unwrap();
    assert!(is_whole(folder.path(), &ids));
}

#[test]
fn what_is_damaged_gives_right_data_or_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), 40);
    let tally = sample.run(EVERY, |_, _| {});
    assert!(tally.broken.is_empty(), "{:#?}", tally.broken);
    assert!(tally.noticed > 50 && tally.harmless > 5, "a test of nothing: {tally:?}");
    println!("{tally:?}");
}
