//! What only the store on disk has to get right: damage, crashes, full disks, foreign directories.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::codec::Kind;
use super::*;
use crate::post::{Body, Called, Claimed, Doubt, Noted, Notes, Outcome, Post, Receipt, Record, Shelf, Stored};

const DAY: i64 = 86_400_000;
const NOON: i64 = 20_000 * DAY + DAY / 2;
const NOW: Timestamp = Timestamp::from_millis(NOON);

/// Sizes with which a few posts pass through every stage, and sizes with which nothing is sorted.
const TINY: Sizes =
    Sizes { generation_bytes: 2_000, generation_marks: 10, block_bytes: 300, own_days: 2, part_blocks: 10, spike: 4 };
const UNSORTED: Sizes = Sizes { generation_bytes: usize::MAX, generation_marks: usize::MAX, ..TINY };

fn open(path: &Path, sizes: Sizes) -> Result<SledStore, StoreError> {
    let mut store = SledStore::open_sized(path, sizes)?;
    store.pools(&["one".to_owned()])?;
    Ok(store)
}

pub(super) fn record(seq: u64, millis: i64) -> Record {
    let at = Timestamp::from_millis(millis);
    let mut post = Post::new("one", vec![seq as u8; 60]);
    post.key = seq.is_multiple_of(3).then(|| format!("key {seq}"));
    let body = Body::encode(&post);
    Record {
        seq: Seq(seq),
        pool: PoolId(0),
        at,
        due: at,
        attempts: 0,
        revision: 0,
        doubt: Doubt::None,
        notes: Notes::default(),
        body,
    }
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
    let mut said = format!("{:?}{:?}", load(&mut store)?, store.remembered()?);
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

#[test]
fn the_outcomes_of_a_spike_are_sorted_after_it_and_are_known_all_the_while() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), TINY).unwrap();
    let records: Vec<Record> = (1..=120).map(|seq| record(seq, NOON)).collect();
    schedule(&mut store, &records).unwrap();
    let outcome = || Outcome::Delivered(Receipt::new("https://example.org"));
    for records in records.chunks(12).take(9) {
        let settle = |record: &Record| Change::Settle { home: record.home(), attempts: 1, outcome: outcome() };
        store.commit(NOW, records.iter().map(settle).collect()).unwrap();
        assert!(store.core.as_ref().unwrap().frozen.len() <= 5, "memory is bounded");
        assert!(!store.is_idle(), "nothing more was put off");
    }
    let is_settled = |store: &mut SledStore, seq| matches!(store.find(Seq(seq)), Ok(Some(Found::Settled { .. })));
    assert!((1..=108).all(|seq| is_settled(&mut store, seq)));
    assert_eq!(load(&mut store).unwrap().len(), 12);
    // As a process that dies now leaves it.
    drop(store);
    let mut store = open(folder.path(), TINY).unwrap();
    assert!((1..=108).all(|seq| is_settled(&mut store, seq)));
    assert_eq!(load(&mut store).unwrap().len(), 12);

    let settle = |record: &Record| Change::Settle { home: record.home(), attempts: 1, outcome: outcome() };
    for _ in 0..2 {
        store.commit(NOW, records[108..].iter().map(settle).collect()).unwrap();
    }
    for number in 200..200 + u64::from(core::CALM) {
        assert!(!store.is_idle(), "the spike is not over yet");
        schedule(&mut store, &[record(number, NOON)]).unwrap();
    }
    assert_eq!(store.core.as_ref().unwrap().put_off, 0, "the spike is over");
}

#[test]
fn a_day_is_forgotten_with_all_of_it_that_waits_to_be_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), TINY).unwrap();
    let records: Vec<Record> = (1..=36).map(|seq| record(seq, NOON)).collect();
    schedule(&mut store, &records).unwrap();
    for records in records.chunks(12) {
        let outcome = || Outcome::Delivered(Receipt::default());
        let settle = |record: &Record| Change::Settle { home: record.home(), attempts: 1, outcome: outcome() };
        store.commit(NOW, records.iter().map(settle).collect()).unwrap();
    }
    let core = store.core.as_ref().unwrap();
    assert!(core.put_off > 0 && core.current.days.is_empty(), "all outcomes wait to be sorted");
    let (later, retention) = (Timestamp::from_millis(NOON + 9 * DAY), Duration::from_secs(1));
    while store.core.as_mut().unwrap().sorter.pending > 0 {
        store.core.as_mut().unwrap().poll().unwrap();
    }
    store.tidy(later, retention).unwrap();
    // As processes that die now, and when they have sorted what was left, leave it.
    drop(store);
    let mut store = open(folder.path(), TINY).unwrap();
    while !store.is_idle() {}
    drop(store);
    let mut store = open(folder.path(), TINY).unwrap();
    while store.find(Seq(1)).unwrap().is_some() || !store.is_idle() {
        store.tidy(later, retention).unwrap();
    }
    assert_eq!(load(&mut store).unwrap().len(), 0);
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
        let notes = Notes::from(Noted { checkpoint: Some(vec![9; 40].into()), ..Noted::default() });
        let to = Box::new(Record { at, revision: 1, notes, ..from.clone() });
        let home = from.home();
        let remember = |key: u64, len| Change::Remember { key: vec![key as u8; 30].into(), value: vec![7; len].into() };
        let changes = vec![
            Change::Claim { home, attempt: 1 },
            Change::Move { from: home, to, claim: None },
            remember(from.seq.0, 90),
            remember(200, from.seq.0 as usize),
        ];
        store.commit(NOW, changes).unwrap();
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
    let text = fs::read_to_string(&marker).unwrap().replace(&format!("version {}", files::FORMAT), "version 77");
    fs::write(&marker, &text).unwrap();
    let error = SledStore::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Version { found: 77, supported: files::FORMAT, .. }), "{error}");
    fs::write(
        &marker,
        text.replace("version 77", &format!("version {}", files::FORMAT)).replace("identity ", "identity 0"),
    )
    .unwrap();
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

fn empty_disk() -> (TempDir, disk::Disk) {
    let folder = tempfile::tempdir().unwrap();
    let db = ::sled::Config::default().path(folder.path()).open().unwrap();
    let log = fs::OpenOptions::new().write(true).open(folder.path().join("db")).unwrap();
    (folder, disk::Disk::new(db, log, PathBuf::from("store")))
}

#[test]
fn posts_whose_keys_have_the_same_hash_are_all_found() {
    let (_folder, disk) = empty_disk();
    let keys = keys::Keys::open(&disk).unwrap();
    let of = |hash: u64, seqs: std::ops::Range<u64>| seqs.map(move |seq| (hash, Seq(seq)));
    let hashes: Vec<_> = of(5, 0..3).chain(of(7, 3..90)).chain(of(9, 90..92)).collect();
    let blocks = keys.write(&disk, 1, &hashes, 300).unwrap();
    assert!(blocks > 4, "{blocks} blocks: a test of nothing");
    let mut catalog = keys::KeyCatalog::default();
    catalog.add(1, blocks, hashes.len() as u64);
    for (hash, posts) in [(5, 0..3), (7, 3..90), (9, 90..92), (6, 0..0)] {
        let mut found = catalog.find(&disk, &keys, hash).unwrap();
        found.sort_unstable();
        assert_eq!(found, posts.map(Seq).collect::<Vec<_>>());
    }
}

#[test]
fn the_first_block_of_a_commit_is_written_last() {
    let (_folder, disk) = empty_disk();
    let mut journal = journal::Journal::open(&disk, 1, 300).unwrap();
    let mut events = disk.tree(&journal::tree_name(1)).unwrap().watch_prefix([]);
    let mut commit = journal::CommitWriter::new(NOW);
    (1..20).for_each(|seq| commit.post(&record(seq, NOON)));
    journal.write(&disk, 1, commit, Seq(20)).unwrap();
    let mut written = Vec::new();
    while let Ok(event) = events.next_timeout(std::time::Duration::ZERO) {
        if let ::sled::Event::Insert { key, value } = event
            && !value.is_empty()
        {
            written.push(key);
        }
    }
    assert!(written.len() > 3, "{} blocks: a test of nothing", written.len());
    assert!(written.is_sorted_by(|one, next| one > next), "{written:?}");
    assert_eq!(written.last().unwrap(), &0u64.to_be_bytes());
}

#[test]
fn a_commit_without_its_first_block_was_never_made() {
    let (_folder, disk) = empty_disk();
    let long = |seqs: std::ops::Range<u64>| {
        let mut commit = journal::CommitWriter::new(NOW);
        seqs.for_each(|seq| commit.post(&record(seq, NOON)));
        commit
    };
    let replay = || {
        let mut journal = journal::Journal::open(&disk, 1, 300).unwrap();
        let mut found = Vec::new();
        journal.replay(&disk, 1, |number, commit| found.push((number, commit.entries.len()))).map(|()| (journal, found))
    };
    let mut journal = journal::Journal::open(&disk, 1, 300).unwrap();
    journal.write(&disk, 1, long(1..20), Seq(20)).unwrap();
    let tree = disk.tree(&journal::tree_name(1)).unwrap();
    let first = tree.iter().filter(|item| !item.as_ref().unwrap().1.is_empty()).count() as u64;
    journal.write(&disk, 2, long(20..40), Seq(40)).unwrap();
    // The blocks of a commit are written from the last to the first.
    disk.make_place(&tree, &first.to_be_bytes()).unwrap();
    disk.make_place(&tree, &(first + 1).to_be_bytes()).unwrap();
    let (mut journal, found) = replay().unwrap();
    assert_eq!(found, [(1, 19)]);
    journal.write(&disk, 2, long(20..21), Seq(21)).unwrap();
    assert_eq!(replay().unwrap().1, [(1, 19), (2, 1)]);
    journal.write(&disk, 3, long(21..41), Seq(41)).unwrap();
    assert_eq!(replay().unwrap().1, [(1, 19), (2, 1), (3, 20)]);
    let is_damaged = || matches!(replay().map(drop), Err(StoreError::Damaged { .. }));
    let is_noticed_without = |number: u64| {
        let block = tree.get(number.to_be_bytes()).unwrap().unwrap();
        assert!(!block.is_empty(), "a test of nothing");
        disk.make_place(&tree, &number.to_be_bytes()).unwrap();
        let is_noticed = is_damaged();
        tree.insert(number.to_be_bytes(), block).unwrap();
        is_noticed
    };
    let blocks = tree.iter().filter(|item| !item.as_ref().unwrap().1.is_empty()).count() as u64;
    assert!(is_noticed_without(first + 2), "it has its first block, and lacks another");
    assert!(is_noticed_without(blocks - 1), "it has its first block, and lacks its last");
    assert!(is_noticed_without(first - 1), "an earlier commit lacks a block");
    // The second of two blocks of a commit that cannot come next.
    let stray = [&4u64.to_le_bytes()[..], &1u32.to_le_bytes(), &2u32.to_le_bytes(), b"rest"].concat();
    disk.put(&tree, Kind::Journal, &(blocks + 1).to_be_bytes(), &stray).unwrap();
    assert_eq!(replay().unwrap().1.len(), 3, "a commit that was not finished");
    let stray = [&5u64.to_le_bytes()[..], &stray[8..]].concat();
    disk.put(&tree, Kind::Journal, &(blocks + 1).to_be_bytes(), &stray).unwrap();
    assert!(is_damaged(), "a commit is missing before it");
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
    // What the sorter still does would change the blocks; what is in the journal stays there.
    let mut store = open(folder.path(), UNSORTED).unwrap();
    wait_for_sorter(&mut store);
    let records: Vec<Record> = (posts + 1..=posts + 10).map(|seq| record(seq, NOON + DAY)).collect();
    schedule(&mut store, &records).unwrap();
    store.commit(NOW, vec![Change::Remember { key: "key".into(), value: "value".into() }]).unwrap();
    store.close().unwrap();
    let posts = posts + 10;
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
fn every_bit_and_every_cut_of_a_block_of_every_kind_is_noticed() {
    let folder = sample(40, TINY);
    wait_for_sorter(&mut open(folder.path(), UNSORTED).unwrap());
    let db = raw(folder.path());
    let (mut kinds, mut blocks_seen) = (Vec::new(), 0);
    for name in db.tree_names().into_iter().map(|name| String::from_utf8(name.to_vec()).unwrap()) {
        let blocks: Vec<_> = db.open_tree(&name).unwrap().iter().map(Result::unwrap).collect();
        let blocks = || blocks.iter().filter(|(_, block)| !block.is_empty());
        for (key, block) in blocks() {
            let kind = match name.as_str() {
                "index" => Kind::Index,
                "keys" => Kind::Keys,
                "meta" => Kind::Meta,
                "remembered" => Kind::Remembered,
                _ if journal::generation(&name).is_some() => Kind::Journal,
                _ => hostile::KINDS.into_iter().find(|kind| *kind as u8 == key[4]).unwrap(),
            };
            let is_whole = |kind, key: &[u8], block: &[u8]| codec::unseal(kind, key, block).is_some();
            assert!(is_whole(kind, key, block), "{name} {key:02x?}");
            let mut flipped = block.to_vec();
            for bit in 0..block.len() * 8 {
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_whole(kind, key, &flipped), "{name} {key:02x?}, bit {bit}");
                flipped[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..block.len() {
                assert!(!is_whole(kind, key, &block[..len]), "{name} {key:02x?}, cut to {len}");
            }
            for other in hostile::KINDS.into_iter().filter(|other| *other != kind) {
                assert!(!is_whole(other, key, block), "{name} {key:02x?} as {other:?}");
            }
            for (other, _) in blocks().filter(|(other, _)| other != key) {
                assert!(!is_whole(kind, other, block), "{name} {key:02x?} in the place of {other:02x?}");
            }
            kinds.extend((!kinds.contains(&kind)).then_some(kind));
            blocks_seen += 1;
        }
    }
    assert_eq!(kinds.len(), hostile::KINDS.len(), "{kinds:?}");
    assert!(blocks_seen > 40, "{blocks_seen} blocks");
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
fn sort_closed(path: &Path) {
    sort(&mut open(path, UNSORTED).unwrap());
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
    sort_closed(scratch.path());
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
    sort_closed(folder.path());
    assert_eq!(all(folder.path(), UNSORTED, 60).unwrap(), before);
}

#[test]
fn a_journal_that_is_sorted_already_is_dropped() {
    let folder = sample(60, UNSORTED);
    let before = all(folder.path(), UNSORTED, 60).unwrap();
    let db = raw(folder.path());
    let journal: Vec<_> = db.open_tree("j1").unwrap().iter().map(Result::unwrap).collect();
    drop(db);
    sort_closed(folder.path());
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
    while store.core.as_ref().unwrap().tallies.over(Timestamp::MAX).next().is_some() {
        store.tidy(NOW.after(Duration::from_secs(1)), Duration::ZERO).unwrap();
    }
    drop(store);
    // What was not cleared away when the store was closed is cleared away when it is opened.
    let mut store = open(folder.path(), sizes).unwrap();
    wait_for_sorter(&mut store);
    assert!(load(&mut store).unwrap().is_empty());
    drop(store);
    // That they are forgotten need not be known any more.
    drop(open(folder.path(), sizes).unwrap());
    let db = raw(folder.path());
    let days: Vec<_> = db.tree_names().into_iter().filter(|name| name.starts_with(b"d")).collect();
    assert!(days.is_empty(), "{days:?} are still there");
    assert_eq!(db.open_tree("far").unwrap().len(), 0);
    assert_eq!(db.open_tree("index").unwrap().len(), 0);
    assert_eq!(db.open_tree("keys").unwrap().len(), 0);
    let meta: Vec<u8> = db.open_tree("meta").unwrap().iter().keys().map(|key| key.unwrap()[0]).collect();
    assert!(!meta.contains(&b'g') && !meta.contains(&b'x'), "tables, or notes of forgotten days: {meta:?}");
}

#[test]
fn a_database_that_panics_is_damaged_and_it_is_said_with_what_words() {
    let texts: [fn() -> String; 3] = [|| panic!("gone"), || panic!("gone at {}", 7), || std::panic::panic_any(7)];
    for (text, said) in texts.into_iter().zip(["gone", "gone at 7", "without a reason"]) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path(), TINY).unwrap();
        let error = store.with(|_| Ok(text())).unwrap_err();
        let expected = format!("the database failed: {said}");
        assert!(matches!(&error, StoreError::Damaged { what, .. } if *what == expected), "{error}");
        assert!(store.commit(NOW, Vec::new()).is_err(), "it is not gone on with");
    }
}

#[test]
fn days_in_several_trees_are_forgotten_whole_by_a_later_process_too() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = Sizes { own_days: 2, part_blocks: 2, ..TINY };
    let mut store = open(folder.path(), sizes).unwrap();
    let records: Vec<Record> = (1..=200).map(|seq| record(seq, NOON + seq as i64 % 3 * DAY)).collect();
    schedule(&mut store, &records).unwrap();
    wait_for_sorter(&mut store);
    drop(store);
    let trees = || raw(folder.path()).tree_names().into_iter().filter(|name| name.starts_with(b"d")).count();
    assert!(trees() > 6, "{} trees: a test of nothing", trees());
    let mut store = open(folder.path(), sizes).unwrap();
    for record in &records {
        settle(&mut store, record).unwrap();
    }
    wait_for_sorter(&mut store);
    drop(store);
    // What ended before the store was opened is forgotten in its time.
    let mut store = open(folder.path(), sizes).unwrap();
    let minute = Duration::from_secs(60);
    for _ in 0..9 {
        store.tidy(NOW.after(minute), minute).unwrap();
        wait_for_sorter(&mut store);
    }
    assert!(matches!(store.find(Seq(1)).unwrap(), Some(Found::Settled { .. })), "its retention is not over");
    while store.core.as_ref().unwrap().tallies.over(Timestamp::MAX).next().is_some() {
        store.tidy(NOW.after(minute + Duration::from_micros(1)), minute).unwrap();
    }
    wait_for_sorter(&mut store);
    assert!(store.find(Seq(1)).unwrap().is_none());
    drop(store);
    drop(open(folder.path(), sizes).unwrap());
    assert_eq!((trees(), raw(folder.path()).open_tree("far").unwrap().len()), (0, 0));
}

#[test]
fn each_store_has_an_identity_of_its_own() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let identities = folders.each_ref().map(|folder| open(folder.path(), TINY).unwrap().identity());
    assert_ne!(identities[0], identities[1]);
}

fn move_to(record: &Record, at: Timestamp) -> (Change, Record) {
    let to = Record { at, ..record.clone() };
    (Change::Move { from: record.home(), to: Box::new(to.clone()), claim: None }, to)
}

/// The number of posts in the range, read in pages as the engine does.
fn count(store: &mut SledStore, (mut after, until): (Cursor, Timestamp), max_bytes: usize) -> usize {
    let mut posts = 0;
    while after < Cursor::through(until) {
        let page = store.load(PoolId(0), after, until, max_bytes).unwrap();
        (after, posts) = (page.through, posts + page.posts.len());
    }
    posts
}

#[expect(clippy::disallowed_methods, reason = "how long it really takes")]
fn timed<T>(what: &str, most_millis: u128, run: impl FnOnce() -> T) -> T {
    let begin = std::time::Instant::now();
    let done = run();
    let millis = begin.elapsed().as_millis();
    println!("{what}: {millis} ms");
    assert!(millis < most_millis, "{what}: {millis} ms");
    done
}

#[test]
fn full_shelves_are_read_quickly_and_slow_nothing_down() {
    // Ten times as many take as long for each.
    let (held, dead) = (2_000, 10_000);
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), Sizes::default()).unwrap();
    let mut seq = 0;
    let mut some = |store: &mut SledStore, count: u64| {
        let records: Vec<Record> = (seq + 1..=seq + count).map(|seq| record(seq, NOON + seq as i64 % DAY)).collect();
        seq += count;
        for records in records.chunks(1_000) {
            store.commit(NOW, vec![Change::Schedule(records.to_vec())]).unwrap();
        }
        records
    };
    let shelve = |store: &mut SledStore, records: &[Record], place: &dyn Fn(usize) -> Timestamp| {
        let moves: Vec<(Change, Record)> =
            records.iter().enumerate().map(|(i, record)| move_to(record, place(i))).collect();
        let (changes, moved): (Vec<Change>, Vec<Record>) = moves.into_iter().unzip();
        changes.chunks(1_000).for_each(|changes| drop(store.commit(NOW, changes.to_vec()).unwrap()));
        moved
    };
    let profile = |i: usize| format!("profile {i}");
    let due = (Cursor::START, Timestamp::from_millis(NOON + 2 * DAY));

    let kept = some(&mut store, 3_000);
    sort(&mut store);
    timed("due posts, shelves empty", 5_000, || assert_eq!(count(&mut store, due, 20_000), kept.len()));
    let records = some(&mut store, held);
    let on_held = shelve(&mut store, &records, &|i| Shelf::Held.place(NOW, &profile(i)));
    let records = some(&mut store, dead);
    let day = Duration::from_secs(86_400);
    let on_dead = shelve(&mut store, &records, &|i| Shelf::Dead.place(NOW.after(day * (i as u32 % 500)), ""));
    for round in 0..2 {
        timed("due posts, shelves full", 5_000, || assert_eq!(count(&mut store, due, 20_000), kept.len()));
        timed("all held", 20_000, || {
            assert_eq!(count(&mut store, Shelf::Held.range(), 20_000), on_held.len());
        });
        timed("one held profile of each 20", 20_000, || {
            for i in (0..held as usize).step_by(20) {
                assert_eq!(count(&mut store, Shelf::range_of(&profile(i)), 20_000), 1, "profile {i}");
            }
        });
        timed("all dead", 20_000, || assert_eq!(count(&mut store, Shelf::Dead.range(), 20_000), on_dead.len()));
        timed("some found by number", 5_000, || {
            for record in on_held.iter().chain(&on_dead).step_by(40) {
                assert!(matches!(store.find(record.seq), Ok(Some(Found::Live(_)))));
            }
        });
        if round == 0 {
            timed("sorting", 60_000, || sort(&mut store));
        }
    }
    drop(store);
    let mut store = timed("opening", 20_000, || open(folder.path(), Sizes::default()).unwrap());
    // They come back, are settled, and all of it is forgotten.
    let back = timed("coming back from the held", 20_000, || {
        shelve(&mut store, &on_held, &|i| Timestamp::from_millis(NOON + DAY + i as i64))
    });
    assert_eq!(count(&mut store, Shelf::Held.range(), 20_000), 0);
    let settles = back.iter().map(|record| Change::Settle {
        home: record.home(),
        attempts: 1,
        outcome: Outcome::Delivered(Receipt::default()),
    });
    store.commit(NOW, settles.collect()).unwrap();
    let days = |store: &SledStore| store.core.as_ref().unwrap().tallies.over(Timestamp::MAX).count();
    let before = days(&store);
    timed("forgetting", 60_000, || {
        while days(&store) > 0 {
            store.tidy(NOW.after(Duration::from_secs(1)), Duration::ZERO).unwrap();
        }
        wait_for_sorter(&mut store);
    });
    println!("{before} days forgotten");
    assert!(back.iter().step_by(50).all(|record| matches!(store.find(record.seq), Ok(None))) || before == 0);
    assert_eq!(count(&mut store, Shelf::Dead.range(), 20_000), on_dead.len());
    drop(store);
    let far = raw(folder.path()).open_tree("far").unwrap();
    let first_held = state::day(Shelf::Held.range().1) - 30_000;
    assert!(far.range(first_held.to_be_bytes()..).next().is_none(), "nothing of the held is left");
}

/// Has everything sorted that is in the store.
fn sort(store: &mut SledStore) {
    let core = store.core.as_mut().unwrap();
    let marks = std::mem::replace(&mut core.sizes.generation_marks, 0);
    store.commit(NOW, Vec::new()).unwrap();
    wait_for_sorter(store);
    store.core.as_mut().unwrap().sizes.generation_marks = marks;
}

/// A store whose process died with the first half of the claims of 20 posts called.
fn died_in_mid_flight() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), TINY).unwrap();
    let records: Vec<Record> = (1..=20).map(|seq| record(seq, NOON + seq as i64 % 4 * DAY)).collect();
    schedule(&mut store, &records).unwrap();
    let claims = records.iter().map(|record| Change::Claim { home: record.home(), attempt: 1 });
    store.commit(NOW, claims.collect()).unwrap();
    let attempts: Vec<(Seq, u32)> = (1..=10).map(|seq| (Seq(seq), 1)).collect();
    store.call_log().unwrap().calling(&attempts);
    folder
}

/// How many claims an earlier process left, and how many of them may have begun.
fn claims(path: &Path) -> (usize, usize) {
    let posts = load(&mut open(path, TINY).unwrap()).unwrap();
    let claims: Vec<Claimed> = posts.into_iter().filter_map(|stored| stored.claimed).collect();
    (claims.len(), claims.iter().filter(|claim| claim.called != Called::No).count())
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_died_leaves_in_doubt_what_it_called() {
    let folder = died_in_mid_flight();
    for _ in 0..3 {
        assert_eq!(claims(folder.path()), (20, 10));
    }
}

#[test]
fn how_often_a_process_died_does_not_show_in_the_number_of_generations() {
    let folder = tempfile::tempdir().unwrap();
    let claim = |seq: u64| Change::Claim { home: record(seq, NOON).home(), attempt: 1 };
    for process in 1..=30 {
        let mut store = open(folder.path(), UNSORTED).unwrap();
        let claimed = |store: &mut SledStore| -> Vec<Seq> {
            let posts = load(store).unwrap().into_iter();
            posts.filter(|stored| stored.claimed.is_some()).map(|stored| stored.record.seq).collect()
        };
        let earlier: Vec<Seq> = (1..process).map(Seq).collect();
        assert_eq!(claimed(&mut store), earlier);
        schedule(&mut store, &[record(process, NOON)]).unwrap();
        // Its own post, and one that an earlier process had claimed.
        store.commit(NOW, vec![claim(process), claim(process / 2 + 1)]).unwrap();
        store.core.as_mut().unwrap().days.remove(state::day(record(1, NOON).at));
        let left: Vec<Seq> = earlier.into_iter().filter(|seq| seq.0 != process / 2 + 1).collect();
        assert_eq!(claimed(&mut store), left, "what it claims itself is nobody's else");
        assert_eq!(store.core.as_ref().unwrap().current.generation, 1);
    }
    let before = all(folder.path(), UNSORTED, 31).unwrap();
    sort_closed(folder.path());
    assert_eq!(all(folder.path(), UNSORTED, 31).unwrap(), before);
}

#[test]
fn after_another_boot_every_claim_is_in_doubt() {
    let folder = died_in_mid_flight();
    drop(calls::Calls::open(folder.path(), Some("another boot"), 1).unwrap());
    for _ in 0..3 {
        assert_eq!(claims(folder.path()), (20, 20));
    }
}

#[test]
fn with_a_damaged_call_log_every_claim_is_in_doubt() {
    let whole = fs::read(died_in_mid_flight().path().join("calls")).unwrap();
    for at in [0, 20, whole.len() / 2, whole.len() - 1] {
        let folder = died_in_mid_flight();
        let path = folder.path().join("calls");
        let mut log = fs::read(&path).unwrap();
        log[at] ^= 1;
        fs::write(path, log).unwrap();
        assert_eq!(claims(folder.path()), (20, 20), "byte {at}");
        assert_eq!(claims(folder.path()), (20, 20), "and stays so");
    }
    let folder = died_in_mid_flight();
    fs::remove_file(folder.path().join("calls")).unwrap();
    assert_eq!(claims(folder.path()), (20, 20));
}

#[cfg(target_os = "linux")]
#[test]
fn calls_of_claims_that_are_closed_are_let_go_in_time() {
    let folder = died_in_mid_flight();
    let mut store = open(folder.path(), TINY).unwrap();
    let attempts: Vec<(Seq, u32)> = (100..900).map(|seq| (Seq(seq), 1)).collect();
    store.call_log().unwrap().calling(&attempts);
    drop(store);
    let mut store = open(folder.path(), TINY).unwrap();
    let known = |store: &SledStore| format!("{:?}", store.core.as_ref().unwrap().calls).matches("Seq").count();
    assert!(known(&store) > 810);
    while store.tidy(NOW, Duration::MAX).unwrap() {}
    assert_eq!(known(&store), 10);
    drop(store);
    assert_eq!(claims(folder.path()), (20, 10));
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
