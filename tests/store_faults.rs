//! A store that cannot be used says why, and a store that is damaged gives right data or a typed error, never less in
//! silence.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use punctual::{ManualClock, Pool, Post, PostId, Receipt, Scheduler, SledStore, StoreError};

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

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to)
        } else {
            {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
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
fn flipped_bytes_and_cut_files_are_noticed_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let ids = filled(&whole, 300);
    let mut all = Vec::new();
    files(&whole, &mut all);
    let (mut tried, mut noticed) = (0, 0);
    for file in all.iter().filter(|file| !file.ends_with("ballast") && !file.ends_with("lock")) {
        let bytes = fs::read(file).unwrap();
        let relative = file.strip_prefix(&whole).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let mut changes: Vec<Vec<u8>> = Vec::new();
        for at in (0..used).step_by((used / 12).max(1)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            changes.push(flipped);
        }
        changes.extend([used / 3, used * 2 / 3, used.saturating_sub(1)].map(|len| bytes[..len].to_vec()));
        for change in changes {
            let damaged = folder.path().join(format!("damaged{tried}"));
            copy(&whole, &damaged);
            fs::write(damaged.join(relative), change).unwrap();
            noticed += usize::from(!is_whole(&damaged, &ids));
            tried += 1;
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
    println!("{tried} damages, {noticed} noticed, the others harmless");
    assert!(tried > 40 && noticed > 5, "{noticed} of {tried}: a test of nothing");
}
