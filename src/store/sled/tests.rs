//! What only the store on disk has to get right: damage, crashes, full disks, foreign directories.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::post::{Body, Outcome, Post, Receipt, Record, Stored};

const DAY: i64 = 86_400_000;
const NOON: i64 = 20_000 * DAY + DAY / 2;
const NOW: Timestamp = Timestamp::from_millis(NOON);

/// Sizes with which a few posts pass through every stage, and sizes with which nothing is sorted.
const TINY: Sizes =
    Sizes { generation_bytes: 2_000, generation_marks: 10, block_bytes: 300, own_days: 2, part_blocks: 10 };
const UNSORTED: Sizes = Sizes { generation_bytes: usize::MAX, generation_marks: usize::MAX, ..TINY };

fn open(path: &Path, sizes: Sizes) -> Result<SledStore, StoreError> {
    let mut store = SledStore::open_sized(path, sizes)?;
    store.pools(&["one".to_owned()])?;
    Ok(store)
}

fn record(seq: u64, millis: i64) -> Record {
    let at = Timestamp::from_millis(millis);
    let mut post = Post::new("one", vec![seq as u8; 60]);
    post.key = seq.is_multiple_of(3).then(|| format!("key {seq}"));
    let body = Body::encode(&post);
    Record { seq: Seq(seq), pool: PoolId(0), at, due: at, attempts: 0, revision: 0, maybe_sent: false, body }
}

fn schedule(store: &mut SledStore, records: &[Record]) -> Result<(), StoreError> {
    for records in records.chunks(5) {
        store.commit(NOW, vec![Change::Schedule(records.to_vec())])?;
    }
    Ok(())
}

fn settle(store: &mut SledStore, record: &Record) -> Result<(), StoreError> {
    let outcome = Outcome::Delivered(Receipt::new("https://example.org"));
    store.commit(NOW, vec![Change::Settle { home: record.home(), attempts: 1, outcome }]).map(drop)
}

fn load(store: &mut SledStore) -> Result<Vec<Stored>, StoreError> {
    let page = store.load(PoolId(0), Cursor::START, Timestamp::MAX, usize::MAX)?;
    Ok(page.posts)
}

/// Everything that the store says of the first posts.
fn all(path: &Path, sizes: Sizes, posts: u64) -> Result<String, StoreError> {
    let mut store = open(path, sizes)?;
    let mut said = format!("{:?}", load(&mut store)?);
    for seq in 0..=posts {
        said += &format!("{:?}{:?}", store.find(Seq(seq))?, store.find_key(&format!("key {seq}"))?);
    }
    store.close()?;
    Ok(said)
}

fn raw(path: &Path) -> ::sled::Db {
    loop {
        match ::sled::Config::default().path(path.join("sled")).open() {
            Ok(db) => return db,
            Err(error) => assert!(error.to_string().contains("lock"), "{error}"),
        }
    }
}

/// A closed store with posts over a few days, some of them settled, claimed and moved, all of it sorted but the
/// last generation.
fn sample(posts: u64, sizes: Sizes) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), sizes).unwrap();
    let records: Vec<Record> = (1..=posts).map(|seq| record(seq, NOON + seq as i64 % 4 * DAY)).collect();
    schedule(&mut store, &records).unwrap();
    for record in records.iter().step_by(3) {
        settle(&mut store, record).unwrap();
    }
    for from in records.iter().skip(1).step_by(5) {
        let at = Timestamp::from_millis(NOON + 5 * DAY);
        let to = Box::new(Record { at, revision: 1, ..from.clone() });
        let home = from.home();
        store.commit(NOW, vec![Change::Claim { home, attempt: 1 }, Change::Move { from: home, to }]).unwrap();
    }
    store.commit(NOW, vec![Change::Claim { home: records[2].home(), attempt: 1 }]).unwrap();
    store.close().unwrap();
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_file_is_no_directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "text").unwrap();
    assert!(matches!(SledStore::open(&path), Err(StoreError::NotADirectory { .. })));
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["letter.txt", "format"] {
        let path = folder.path().join(name);
        fs::write(&path, "dear reader").unwrap();
        assert!(matches!(SledStore::open(folder.path()), Err(StoreError::NotAStore { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_store_is_made_with_all_directories_above_it() {
    let folder = tempfile::tempdir().unwrap();
    drop(SledStore::open(folder.path().join("a/b/c")).unwrap());
    assert!(folder.path().join("a/b/c/format").exists());
}

#[test]
fn a_half_made_store_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lock"), "").unwrap();
    fs::write(folder.path().join("format.new"), "punct").unwrap();
    drop(SledStore::open(folder.path()).unwrap());
}

#[test]
fn another_version_is_named_and_not_touched() {
    let folder = sample(5, TINY);
    let marker = folder.path().join("format");
    let text = fs::read_to_string(&marker).unwrap().replace("version 1", "version 7");
    fs::write(&marker, &text).unwrap();
    let error = SledStore::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Version { found: 7, supported: 1, .. }), "{error}");
    fs::write(&marker, text.replace("version 7", "version 1").replace("identity ", "identity 0")).unwrap();
    assert!(matches!(SledStore::open(folder.path()), Err(StoreError::Damaged { .. })));
}

#[test]
fn one_at_a_time_has_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = SledStore::open(folder.path()).unwrap();
    assert!(matches!(SledStore::open(folder.path()), Err(StoreError::Locked { .. })));
    first.close().unwrap();
    assert!(matches!(first.find(Seq(1)), Err(StoreError::Poisoned)), "a closed store is closed");
    SledStore::open(folder.path()).unwrap();
}

#[test]
fn an_unfinished_snapshot_is_no_obstacle() {
    let folder = sample(50, TINY);
    let before = all(folder.path(), TINY, 50).unwrap();
    fs::write(folder.path().join("sled/snap.00000000FFFFFFFF.generating"), "").unwrap();
    assert_eq!(all(folder.path(), TINY, 50).unwrap(), before);
}

#[test]
fn torn_settings_are_no_obstacle() {
    let folder = sample(50, TINY);
    let before = all(folder.path(), TINY, 50).unwrap();
    let conf = folder.path().join("sled/conf");
    let whole = fs::read(&conf).unwrap();
    for torn in [vec![0; whole.len()], whole[..whole.len() / 2].to_vec(), Vec::new()] {
        fs::write(&conf, torn).unwrap();
        assert_eq!(all(folder.path(), TINY, 50).unwrap(), before);
        assert_eq!(fs::read(&conf).unwrap(), whole);
    }
}

#[cfg(unix)]
#[test]
fn a_commit_is_not_done_before_the_log_is_synced() {
    let folder = tempfile::tempdir().unwrap();
    let db = ::sled::Config::default().path(folder.path()).open().unwrap();
    // A device that cannot be synced stands in for the log.
    let log = fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let disk = disk::Disk::new(db, log, PathBuf::from("store"));
    let mut journal = journal::Journal::open(&disk, 1, 300).unwrap();
    let written = journal.write(&disk, 1, journal::CommitWriter::new(NOW), Seq(1));
    assert!(matches!(written, Err(StoreError::Io { doing: "sync", .. })), "{written:?}");
}

#[test]
fn a_database_that_lost_its_tail_is_noticed() {
    for sizes in [TINY, UNSORTED] {
        let folder = sample(30, sizes);
        let earlier = tempfile::tempdir().unwrap();
        copy(&folder.path().join("sled"), earlier.path());
        let mut store = open(folder.path(), sizes).unwrap();
        schedule(&mut store, &[record(31, NOON)]).unwrap();
        store.close().unwrap();
        fs::remove_dir_all(folder.path().join("sled")).unwrap();
        copy(earlier.path(), &folder.path().join("sled"));
        assert!(matches!(SledStore::open_sized(folder.path(), sizes), Err(StoreError::Damaged { .. })));
        fs::remove_dir_all(folder.path().join("sled")).unwrap();
        assert!(matches!(SledStore::open_sized(folder.path(), sizes), Err(StoreError::Damaged { .. })));
    }
}

#[test]
fn a_lost_witness_is_no_obstacle() {
    let folder = sample(30, TINY);
    let before = all(folder.path(), TINY, 30).unwrap();
    fs::write(folder.path().join("witness"), [7; 24]).unwrap();
    assert_eq!(all(folder.path(), TINY, 30).unwrap(), before);
    fs::remove_file(folder.path().join("witness")).unwrap();
    assert_eq!(all(folder.path(), TINY, 30).unwrap(), before);
}

/// Does something to every block of the store, one at a time; each time the store says so, or says what it said
/// before.
fn tamper(sizes: Sizes, change: impl Fn(&::sled::Tree, &[u8], &[u8]), may_be_missed: impl Fn(&str) -> bool) {
    let posts = 40;
    let folder = sample(posts, sizes);
    let before = all(folder.path(), UNSORTED, posts).unwrap();
    let db = raw(folder.path());
    let mut blocks = Vec::new();
    for name in db.tree_names() {
        let tree = db.open_tree(&name).unwrap();
        blocks
            .extend(tree.iter().map(|item| (name.clone(), item.unwrap())).filter(|(_, (_, block))| !block.is_empty()));
    }
    drop(db);
    let (mut noticed, mut harmless) = (0, 0);
    // Every block of the small trees, a part of the large ones.
    for (name, (key, block)) in blocks.iter().step_by(1 + blocks.len() / 60) {
        let db = raw(folder.path());
        let tree = db.open_tree(name).unwrap();
        change(&tree, key, block);
        drop((tree, db));
        let name = String::from_utf8_lossy(name);
        match all(folder.path(), UNSORTED, posts) {
            Err(StoreError::Damaged { .. }) => noticed += 1,
            Err(other) => panic!("{name} {key:02x?}: {other}"),
            Ok(said) if may_be_missed(&name) || said == before => harmless += 1,
            Ok(_) => panic!("{name} {key:02x?} was changed and nobody noticed"),
        }
        let db = raw(folder.path());
        db.open_tree(name.as_bytes()).unwrap().insert(key, block).unwrap();
        drop(db);
    }
    assert_eq!(all(folder.path(), UNSORTED, posts).unwrap(), before);
    assert!(noticed > 10 * harmless, "{noticed} noticed, {harmless} harmless");
}

#[test]
fn a_flipped_bit_is_noticed_in_every_block() {
    tamper(
        TINY,
        |tree, key, block| {
            let mut flipped = block.to_vec();
            let at = key.iter().map(|byte| usize::from(*byte)).sum::<usize>() * 31 % block.len();
            flipped[at] ^= 4;
            tree.insert(key, flipped).unwrap();
        },
        |_| false,
    );
}

#[test]
fn a_missing_block_is_noticed() {
    // Without a block of the index posts are not found by number; they are loaded all the same.
    tamper(TINY, |tree, key, _| drop(tree.remove(key).unwrap()), |name| name == "index");
}

#[test]
fn a_store_that_failed_stays_shut() {
    let folder = sample(30, TINY);
    let db = raw(folder.path());
    let name = db.tree_names().into_iter().find(|name| name.starts_with(b"d")).unwrap();
    let tree = db.open_tree(name).unwrap();
    let (key, _) = tree.first().unwrap().unwrap();
    tree.insert(key, b"nonsense").unwrap();
    drop((tree, db));
    let mut store = open(folder.path(), TINY).unwrap();
    assert!(matches!(load(&mut store), Err(StoreError::Damaged { .. })));
    assert!(matches!(load(&mut store), Err(StoreError::Poisoned)));
    assert!(matches!(store.commit(NOW, Vec::new()), Err(StoreError::Poisoned)));
}

/// Has everything sorted.
fn sort(path: &Path) {
    let mut store = open(path, Sizes { generation_marks: 0, ..UNSORTED }).unwrap();
    store.commit(NOW, Vec::new()).unwrap();
    wait_for_sorter(&mut store);
}

fn wait_for_sorter(store: &mut SledStore) {
    while !store.is_idle() {}
}

#[test]
fn sorting_that_was_cut_off_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), UNSORTED).unwrap();
    let records: Vec<Record> = (1..=60).map(|seq| record(seq, NOON + seq as i64 % 4 * DAY)).collect();
    schedule(&mut store, &records).unwrap();
    records.iter().step_by(4).for_each(|record| settle(&mut store, record).unwrap());
    store.close().unwrap();
    let before = all(folder.path(), UNSORTED, 60).unwrap();

    // What a sorter may leave: places without blocks, blocks of runs and keys, whole blocks of the index.
    let scratch = tempfile::tempdir().unwrap();
    copy(folder.path(), scratch.path());
    sort(scratch.path());
    let (done, db) = (raw(scratch.path()), raw(folder.path()));
    let mut left = 0;
    for name in done.tree_names().into_iter().filter(|name| !name.starts_with(b"_") && **name != *b"meta") {
        let tree = db.open_tree(&name).unwrap();
        if name.starts_with(b"j") {
            continue;
        }
        for (i, item) in done.open_tree(&name).unwrap().iter().enumerate() {
            let (key, block) = item.unwrap();
            let is_place = i % 3 == 1 && *name != *b"index";
            tree.insert(key, if is_place { ::sled::IVec::default() } else { block }).unwrap();
            left += 1;
        }
    }
    drop((done, db));
    assert!(left > 20, "{left} blocks");
    assert_eq!(all(folder.path(), UNSORTED, 60).unwrap(), before);
    sort(folder.path());
    assert_eq!(all(folder.path(), UNSORTED, 60).unwrap(), before);
}

#[test]
fn a_journal_that_is_sorted_already_is_dropped() {
    let folder = sample(60, UNSORTED);
    let before = all(folder.path(), UNSORTED, 60).unwrap();
    let db = raw(folder.path());
    let journal: Vec<_> = db.open_tree("j1").unwrap().iter().map(Result::unwrap).collect();
    drop(db);
    // The claim of the sample keeps the generation from going on, so it is sorted as soon as the store is open.
    let mut store = open(folder.path(), TINY).unwrap();
    wait_for_sorter(&mut store);
    drop(store);
    let db = raw(folder.path());
    assert!(!db.tree_names().contains(&"j1".into()), "sorting drops the journal");
    let tree = db.open_tree("j1").unwrap();
    journal.into_iter().for_each(|(key, block)| drop(tree.insert(key, block).unwrap()));
    drop((tree, db));
    assert_eq!(all(folder.path(), UNSORTED, 60).unwrap(), before);
    assert!(!raw(folder.path()).tree_names().contains(&"j1".into()));
}

#[test]
fn a_hundred_days_take_few_trees() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = Sizes { own_days: 8, ..TINY };
    let mut store = open(folder.path(), sizes).unwrap();
    let records: Vec<Record> = (1..=300).map(|seq| record(seq, NOON + seq as i64 * 7 % 100 * DAY)).collect();
    schedule(&mut store, &records).unwrap();
    let posts: Vec<Record> = load(&mut store).unwrap().into_iter().map(|stored| stored.record).collect();
    let mut sorted = records.clone();
    sorted.sort_by_key(Record::home);
    assert_eq!(posts, sorted);
    for record in &records {
        settle(&mut store, record).unwrap();
    }
    let disk = &store.core.as_ref().unwrap().disk;
    let days: std::collections::BTreeSet<String> = disk
        .tree_names()
        .iter()
        .filter(|name| name.starts_with('d'))
        .map(|name| name.split('-').next().unwrap_or_default().to_owned())
        .collect();
    assert!(days.len() <= 8, "{days:?}");
    while store.core.as_ref().unwrap().tallies.over(Timestamp::MAX).is_some() {
        store.tidy(NOW.after(Duration::from_secs(1)), Duration::ZERO).unwrap();
    }
    drop(store);
    // What was not cleared away when the store was closed is cleared away when it is opened.
    let mut store = open(folder.path(), sizes).unwrap();
    wait_for_sorter(&mut store);
    assert!(load(&mut store).unwrap().is_empty());
    drop(store);
    let db = raw(folder.path());
    let days: Vec<_> = db.tree_names().into_iter().filter(|name| name.starts_with(b"d")).collect();
    assert!(days.is_empty(), "{days:?} are still there");
    assert_eq!(db.open_tree("far").unwrap().len(), 0);
    assert_eq!(db.open_tree("index").unwrap().len(), 0);
    assert_eq!(db.open_tree("keys").unwrap().len(), 0);
}

#[test]
fn a_full_disk_refuses_new_posts_and_takes_outcomes() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), TINY).unwrap();
    let [first, second] = [record(1, NOON), record(2, NOON)];
    schedule(&mut store, std::slice::from_ref(&first)).unwrap();
    let mut store = store.reserve(u64::MAX);
    let changes = vec![
        Change::Schedule(vec![second.clone()]),
        Change::Settle { home: first.home(), attempts: 1, outcome: Outcome::Cancelled },
    ];
    let verdicts = store.commit(NOW, changes).unwrap();
    assert!(matches!(&verdicts[..], [Verdict::Refused(StoreError::Full { reserve: u64::MAX, .. })]), "{verdicts:?}");
    assert!(matches!(store.find(Seq(1)), Ok(Some(Found::Settled { .. }))));
    assert!(matches!(store.find(Seq(2)), Ok(None)));
    assert!(store.next_seq() > Seq(2));
    let mut store = store.reserve(0);
    schedule(&mut store, &[record(3, NOON)]).unwrap();
}

#[test]
fn what_a_store_prints_is_its_path_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    assert_eq!(format!("{store:?}"), format!("SledStore {{ path: {:?}, .. }}", folder.path()));
}
