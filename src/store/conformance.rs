//! What every store promises, put to the test for each of them.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::sled::Sizes;
use super::{MemoryStore, SledStore, Store};
use crate::id::{PoolId, Seq};
use crate::post::{
    Body, Called, Change, Claimed, Cursor, Doubt, Found, Noted, Notes, Outcome, Page, Post, Ready, Receipt, Record,
    Shelf, Stored, Verdict,
};
use crate::time::Timestamp;

const DAY: i64 = 86_400_000;
const NOON: i64 = 20_000 * DAY + DAY / 2;
const NOW: Timestamp = Timestamp::from_millis(NOON);
const NEVER: Timestamp = Timestamp::MAX;
const WEEK: Duration = Duration::from_secs(7 * 86_400);

enum Place {
    Memory(MemoryStore),
    Sled(tempfile::TempDir, Sizes),
}

impl Place {
    fn open(&self) -> Open {
        match self {
            Self::Memory(store) => Open::Memory(store.clone()),
            Self::Sled(folder, sizes) => Open::Sled(SledStore::open_sized(folder.path(), *sizes).unwrap()),
        }
    }
}

enum Open {
    Memory(MemoryStore),
    Sled(SledStore),
}

impl Open {
    fn store(&mut self) -> &mut dyn Store {
        match self {
            Self::Memory(store) => store,
            Self::Sled(store) => store,
        }
    }

    /// Whether nothing goes on behind.
    fn is_idle(&mut self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Sled(store) => store.is_idle(),
        }
    }
}

/// A store that can be closed and opened again, with two pools.
struct Bed {
    place: Place,
    open: Option<Open>,
    pools: Vec<PoolId>,
    next: u64,
}

impl Bed {
    fn memory() -> Self {
        Self::new(Place::Memory(MemoryStore::default()))
    }

    fn sled(sizes: Sizes) -> Self {
        Self::new(Place::Sled(tempfile::tempdir().unwrap(), sizes))
    }

    fn new(place: Place) -> Self {
        let mut bed = Self { place, open: None, pools: Vec::new(), next: 0 };
        bed.reopen();
        bed
    }

    fn store(&mut self) -> &mut dyn Store {
        self.open.as_mut().unwrap().store()
    }

    fn reopen(&mut self) {
        self.open = None;
        self.open = Some(self.place.open());
        self.pools = self.store().pools(&["one".to_owned(), "two".to_owned()]).unwrap();
        self.next = self.next.max(self.store().next_seq().0);
    }

    fn record(&mut self, pool: usize, millis: i64, post: &Post) -> Record {
        self.next += 1;
        let at = Timestamp::from_millis(millis);
        let (seq, pool, body) = (Seq(self.next - 1), self.pools[pool], Body::encode(post));
        Record { seq, pool, at, due: at, attempts: 0, revision: 0, doubt: Doubt::None, notes: Notes::default(), body }
    }

    fn plain(&mut self, millis: i64) -> Record {
        self.record(0, millis, &Post::new("one", format!("at {millis}")))
    }

    fn keyed(&mut self, key: &str, text: &str) -> Record {
        self.record(0, NOON, &Post::new("one", text).key(key))
    }

    fn commit(&mut self, changes: Vec<Change>) -> Vec<Verdict> {
        self.store().commit(NOW, changes).unwrap()
    }

    /// Schedules them, each as a unit of its own.
    fn schedule(&mut self, records: &[Record]) {
        let verdicts = self.commit(records.iter().map(|record| Change::Schedule(vec![record.clone()])).collect());
        let own = records.iter().map(|record| Verdict::Stored(vec![record.seq]));
        assert_eq!(
            verdicts.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>(),
            own.map(|v| format!("{v:?}")).collect::<Vec<_>>()
        );
    }

    /// Claims these attempts of the posts; those of the later ones begin.
    fn claim(&mut self, records: &[Record], attempt: u32, called: usize) {
        self.commit(records.iter().map(|record| Change::Claim { home: record.home(), attempt }).collect());
        let attempts: Vec<(Seq, u32)> = records.iter().map(|record| (record.seq, attempt)).collect();
        self.calling(&attempts[records.len() - called..]);
    }

    fn calling(&mut self, attempts: &[(Seq, u32)]) {
        self.store().call_log().unwrap().calling(attempts);
    }

    fn remember(&mut self, key: &str, value: &str) {
        self.commit(vec![Change::Remember { key: key.to_owned().into(), value: value.to_owned().into() }]);
    }

    fn remembered(&mut self) -> Vec<(String, String)> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        self.store().remembered().unwrap().into_iter().map(|(key, value)| (text(key), text(value))).collect()
    }

    fn settle(&mut self, record: &Record, attempts: u32, outcome: Outcome) {
        self.commit(vec![Change::Settle { home: record.home(), attempts, outcome }]);
    }

    fn page(&mut self, after: Cursor, until: Timestamp, max_bytes: usize) -> Page {
        let pool = self.pools[0];
        self.store().load(pool, after, until, max_bytes).unwrap()
    }

    /// All live posts of a pool, by pages of this size.
    fn all(&mut self, pool: usize, max_bytes: usize) -> Vec<Stored> {
        let pool = self.pools[pool];
        let (mut posts, mut cursor) = (Vec::new(), Cursor::START);
        while cursor < Cursor::through(NEVER) {
            let page = self.store().load(pool, cursor, NEVER, max_bytes).unwrap();
            assert!(page.through > cursor, "loading goes on");
            assert!(page.through == Cursor::through(NEVER) || !page.posts.is_empty());
            cursor = page.through;
            posts.extend(page.posts);
        }
        posts
    }

    fn records(&mut self) -> Vec<Record> {
        self.all(0, 1 << 20).into_iter().map(|stored| stored.record).collect()
    }

    fn find(&mut self, seq: Seq) -> Option<Found> {
        self.store().find(seq).unwrap()
    }

    fn tidy(&mut self, now: Timestamp, retention: Duration) {
        loop {
            let was_idle = self.open.as_mut().unwrap().is_idle();
            if !self.store().tidy(now, retention).unwrap() && was_idle && self.open.as_mut().unwrap().is_idle() {
                return;
            }
        }
    }
}

fn live(record: &Record) -> Option<Found> {
    Some(Found::Live(Stored { record: record.clone(), claimed: None }))
}

fn claimed(record: &Record, attempt: u32) -> Option<Found> {
    Some(Found::Live(Stored { record: record.clone(), claimed: Some(Claimed { attempt, called: Called::No }) }))
}

fn called(record: &Record, attempt: u32) -> Option<Found> {
    Some(Found::Live(Stored { record: record.clone(), claimed: Some(Claimed { attempt, called: Called::Yes }) }))
}

fn delivered() -> Outcome {
    Outcome::Delivered(Receipt::default())
}

fn moved(record: &Record, millis: i64) -> (Change, Record) {
    let at = Timestamp::from_millis(millis);
    let to = Record { at, attempts: record.attempts + 1, ..record.clone() };
    (Change::Move { from: record.home(), to: Box::new(to.clone()), claim: None }, to)
}

/// A move to where the post is already.
fn noted(record: &Record, notes: Notes, claim: Option<u32>) -> (Change, Record) {
    let to = Record { notes, ..record.clone() };
    (Change::Move { from: record.home(), to: Box::new(to.clone()), claim }, to)
}

/// Notes with a checkpoint of this many bytes.
fn checkpoint(len: usize) -> Notes {
    let bytes: Vec<u8> = (0..len).map(|i| (i * i / 5 + i + len) as u8).collect();
    Notes::from(Noted { checkpoint: Some(bytes.into()), ..Noted::default() })
}

macro_rules! promises {
    ($($name:ident)*) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&mut super::Bed::memory()); })*
        }
        mod sled {
            $(#[test] fn $name() { super::$name(&mut super::Bed::sled(super::Sizes::default())); })*
        }
        mod sled_with_tiny_generations {
            $(#[test] fn $name() { super::$name(&mut super::Bed::sled(super::tiny())); })*
        }
    };
}

/// Sizes with which a few posts pass through every stage.
fn tiny() -> Sizes {
    Sizes { generation_bytes: 1_500, generation_marks: 4, block_bytes: 300, own_days: 2, part_blocks: 3, spike: 1 }
}

promises! {
    a_post_is_found_as_it_was_scheduled
    posts_are_loaded_in_the_order_of_their_instants_and_numbers
    pages_are_as_long_as_asked_and_go_on_where_they_ended
    loading_goes_on_after_a_long_post
    a_page_ends_at_until_and_begins_after_the_cursor
    a_key_answers_with_the_post_that_has_it
    a_key_with_other_content_refuses_its_whole_unit
    what_is_noted_with_new_posts_is_kept_only_if_all_of_them_are_new
    keys_count_within_a_commit_and_within_a_unit
    a_settled_post_is_not_loaded_but_found_with_its_outcome
    all_outcomes_come_back
    a_moved_post_is_loaded_at_its_new_home_only
    a_post_may_move_to_and_fro
    a_post_may_move_to_where_it_is
    a_claim_may_be_made_with_a_move
    a_keyed_post_that_is_written_anew_keeps_its_key
    notes_and_doubts_come_back
    posts_on_a_shelf_are_loaded_from_there_and_come_back
    what_is_remembered_comes_back_as_it_was_last
    what_is_remembered_counts_with_its_commit
    attempts_that_had_begun_are_told_from_those_that_had_not
    a_claim_that_is_taken_back_takes_its_call_with_it
    claims_are_reported_to_later_processes_only
    a_claim_does_not_move_along
    a_released_claim_is_no_claim
    changes_of_posts_that_are_not_there_are_ignored
    changes_are_applied_in_order
    settled_posts_are_forgotten_after_their_retention
    forgetting_leaves_other_days_alone
    a_post_that_left_a_forgotten_day_stays
    a_forgotten_key_is_free
    large_bodies_come_back
    pools_keep_their_numbers_and_orphans_are_named
    numbers_are_never_used_again
    the_last_commit_is_remembered
    the_identity_stays
}

fn a_post_is_found_as_it_was_scheduled(bed: &mut Bed) {
    let post = Post::new("one", "hello").profile("me").key("k").in_order().priority(crate::Priority::HIGH);
    let mut record = bed.record(1, NOON, &post);
    (record.due, record.attempts, record.revision) = (Timestamp::from_millis(5), 3, 9);
    bed.schedule(std::slice::from_ref(&record));
    for _ in 0..3 {
        assert_eq!(bed.find(record.seq), live(&record));
        assert_eq!(bed.store().find_key("k").unwrap(), live(&record));
        assert_eq!(bed.find(Seq(record.seq.0 + 1)), None);
        assert_eq!(bed.store().find_key("l").unwrap(), None);
        bed.reopen();
    }
}

fn posts_are_loaded_in_the_order_of_their_instants_and_numbers(bed: &mut Bed) {
    let millis: Vec<i64> = (0..120).map(|i| NOON + (i * 37 % 50) * 1_000 + (i % 5) * DAY).collect();
    let mut records: Vec<Record> = millis.into_iter().map(|at| bed.plain(at)).collect();
    for chunk in records.chunks(7) {
        bed.schedule(chunk);
    }
    let other = bed.record(1, NOON, &Post::new("two", "other"));
    bed.schedule(std::slice::from_ref(&other));
    records.sort_by_key(Record::home);
    for _ in 0..3 {
        assert_eq!(bed.records(), records);
        assert_eq!(bed.all(1, 1), [Stored { record: other.clone(), claimed: None }]);
        bed.reopen();
    }
}

fn pages_are_as_long_as_asked_and_go_on_where_they_ended(bed: &mut Bed) {
    let records: Vec<Record> = (0..60).map(|i| bed.plain(NOON + i / 3 * DAY / 4)).collect();
    bed.schedule(&records);
    for max_bytes in [0, 1, 100, 333, 1 << 20] {
        let found: Vec<Record> = bed.all(0, max_bytes).into_iter().map(|stored| stored.record).collect();
        assert_eq!(found, records, "pages of {max_bytes}");
    }
    let len = records[0].body.len();
    let page = bed.page(Cursor::START, NEVER, len * 2);
    assert_eq!(page.posts.len(), 2);
    assert_eq!(page.through, Cursor::of(records[1].home()));
    // Whatever comes in between, the next page has it if it lies ahead.
    let (behind, ahead) = (bed.plain(NOON - 1), bed.plain(NOON));
    bed.schedule(&[behind, ahead.clone()]);
    let next = bed.page(page.through, NEVER, len * 2);
    assert_eq!(next.posts.iter().map(|stored| &stored.record).collect::<Vec<_>>(), [&records[2], &ahead]);
}

fn loading_goes_on_after_a_long_post(bed: &mut Bed) {
    let long = bed.record(0, NOON, &Post::new("one", vec![1; 20_000]));
    bed.schedule(std::slice::from_ref(&long));
    // Waits until it is sorted.
    bed.tidy(NOW, WEEK);
    let later: Vec<Record> = (1..9).map(|i| bed.plain(NOON + i * 1_000)).collect();
    bed.schedule(&later);
    for i in 0..9 {
        // Nothing of the long post's run is left to be loaded, again and again.
        let page = bed.page(Cursor::through(Timestamp::from_millis(NOON + i)), NEVER, 1 << 20);
        assert_eq!(page.posts.len(), later.len());
        let mut cursor = Cursor::through(Timestamp::from_millis(NOON + i));
        for until in 1..9 {
            let page = bed.page(cursor, Timestamp::from_millis(NOON + until * 1_000), 1 << 20);
            assert_eq!(page.posts.len(), 1);
            cursor = page.through;
        }
    }
}

fn a_page_ends_at_until_and_begins_after_the_cursor(bed: &mut Bed) {
    let records: Vec<Record> = [NOON, NOON + 1, NOON + 1, NOON + 2, NOON + DAY].map(|at| bed.plain(at)).to_vec();
    bed.schedule(&records);
    let until = Timestamp::from_millis(NOON + 1);
    let page = bed.page(Cursor::of(records[1].home()), until, 1 << 20);
    assert_eq!(page.through, Cursor::through(until));
    assert_eq!(page.posts.into_iter().map(|stored| stored.record).collect::<Vec<_>>(), [records[2].clone()]);
    let cursor = Cursor::just_before(records[1].home());
    assert_eq!(bed.page(cursor, until, 1 << 20).posts.len(), 2);
    assert_eq!(bed.page(Cursor::through(until), NEVER, 1 << 20).posts.len(), 2);
    let nothing = bed.page(Cursor::through(until), until, 1 << 20);
    assert_eq!(nothing, Page { posts: vec![], through: Cursor::through(until) });
    let backwards = bed.page(Cursor::through(NOW), Timestamp::from_millis(0), 1);
    assert_eq!(backwards, Page { posts: vec![], through: Cursor::through(NOW) });
}

fn a_key_answers_with_the_post_that_has_it(bed: &mut Bed) {
    let first = bed.keyed("k", "a");
    bed.schedule(std::slice::from_ref(&first));
    for _ in 0..3 {
        let again = bed.keyed("k", "a");
        let fresh = bed.keyed(&format!("k{}", again.seq.0), "b");
        let verdicts = bed.commit(vec![Change::Schedule(vec![again.clone(), fresh.clone()])]);
        assert!(matches!(&verdicts[..], [Verdict::Stored(seqs)] if *seqs == [first.seq, fresh.seq]), "{verdicts:?}");
        assert_eq!(bed.find(again.seq), None);
        assert_eq!(bed.find(fresh.seq), live(&fresh));
        bed.reopen();
    }
    bed.settle(&first, 1, delivered());
    let again = bed.keyed("k", "a");
    let verdicts = bed.commit(vec![Change::Schedule(vec![again])]);
    assert!(matches!(&verdicts[..], [Verdict::Stored(seqs)] if *seqs == [first.seq]), "a settled post keeps its key");
}

fn what_is_noted_with_new_posts_is_kept_only_if_all_of_them_are_new(bed: &mut Bed) {
    let note = |value: &str| ("note".to_owned(), value.to_owned());
    let noted = |records: Vec<Record>, value: &str| {
        let notes = vec![(Bytes::from_static(b"note"), Bytes::from(value.to_owned()))];
        vec![Change::ScheduleNoted { records, notes }]
    };
    let first = bed.keyed("k", "a");
    let records = vec![first.clone(), bed.plain(NOON)];
    bed.commit(noted(records, "one"));
    bed.reopen();
    assert_eq!(bed.remembered(), [note("one")]);
    for other in ["a", "b"] {
        let (again, fresh) = (bed.keyed("k", other), bed.plain(NOON));
        let verdicts = bed.commit(noted(vec![fresh.clone(), again], "two"));
        match &verdicts[..] {
            [Verdict::Stored(seqs)] => assert_eq!((&seqs[..], other), (&[fresh.seq, first.seq][..], "a")),
            [Verdict::Conflict { index: 1, existing }] => assert_eq!((*existing, other), (first.seq, "b")),
            _ => panic!("{verdicts:?}"),
        }
        assert_eq!(bed.find(fresh.seq), None);
        bed.reopen();
        assert_eq!(bed.remembered(), [note("one")]);
    }
    let (fresh, long) = (bed.plain(NOON), "long".repeat(50_000));
    bed.commit(noted(vec![fresh.clone()], &long));
    for _ in 0..2 {
        bed.reopen();
        assert_eq!(bed.find(fresh.seq), live(&fresh));
        assert_eq!(bed.remembered(), [note(&long)]);
    }
}

fn a_key_with_other_content_refuses_its_whole_unit(bed: &mut Bed) {
    let first = bed.keyed("k", "a");
    bed.schedule(std::slice::from_ref(&first));
    for _ in 0..2 {
        let (before, other, alone) = (bed.plain(NOON), bed.keyed("k", "b"), bed.plain(NOON));
        let verdicts = bed.commit(vec![
            Change::Schedule(vec![before.clone(), other.clone()]),
            Change::Claim { home: before.home(), attempt: 1 },
            Change::Schedule(vec![alone.clone()]),
        ]);
        let Verdict::Conflict { index: 1, existing } = verdicts[0] else { panic!("{verdicts:?}") };
        assert_eq!(existing, first.seq);
        assert_eq!(bed.find(before.seq), None);
        assert_eq!(bed.find(other.seq), None);
        assert_eq!(bed.find(alone.seq), live(&alone));
        bed.reopen();
    }
    assert_eq!(bed.records().len(), 3);
}

fn keys_count_within_a_commit_and_within_a_unit(bed: &mut Bed) {
    let same = [bed.keyed("k", "a"), bed.keyed("k", "a"), bed.keyed("k", "a")];
    let other = bed.keyed("k", "b");
    let [first, second, third] = same.clone();
    let verdicts = bed.commit(vec![
        Change::Schedule(vec![first, second]),
        Change::Schedule(vec![other]),
        Change::Schedule(vec![third]),
    ]);
    let seq = same[0].seq;
    assert!(matches!(&verdicts[0], Verdict::Stored(seqs) if *seqs == [seq, seq]), "{verdicts:?}");
    assert!(matches!(&verdicts[1], Verdict::Conflict { index: 0, existing } if *existing == seq), "{verdicts:?}");
    assert!(matches!(&verdicts[2], Verdict::Stored(seqs) if *seqs == [seq]), "{verdicts:?}");
    assert_eq!(bed.records(), [same[0].clone()]);
}

fn a_settled_post_is_not_loaded_but_found_with_its_outcome(bed: &mut Bed) {
    let records: Vec<Record> = (0..30).map(|i| bed.plain(NOON + i % 3 * DAY)).collect();
    bed.schedule(&records);
    let outcome = Outcome::Delivered(Receipt::new("https://example.org/1"));
    for (i, record) in records.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
        bed.settle(record, i as u32, outcome.clone());
    }
    for _ in 0..3 {
        assert_eq!(bed.records().len(), 15);
        for (i, record) in records.iter().enumerate() {
            if i % 2 == 0 {
                let record = Record { attempts: i as u32, ..record.clone() };
                assert_eq!(bed.find(record.seq), Some(Found::Settled { record, outcome: outcome.clone(), at: NOW }));
            } else {
                assert_eq!(bed.find(record.seq), live(record));
            }
        }
        bed.reopen();
    }
}

fn all_outcomes_come_back(bed: &mut Bed) {
    let outcomes = [
        delivered(),
        Outcome::Delivered(Receipt::new("r".repeat(20_000))),
        Outcome::Failed { reason: "no".to_owned() },
        Outcome::Missed { by: Duration::new(3, 7) },
        Outcome::Cancelled,
    ];
    let records = outcomes.clone().map(|_| bed.plain(NOON));
    bed.schedule(&records);
    for (record, outcome) in records.iter().zip(&outcomes) {
        bed.settle(record, 2, outcome.clone());
    }
    for _ in 0..3 {
        for (record, outcome) in records.iter().zip(&outcomes) {
            let record = Record { attempts: 2, ..record.clone() };
            let found = Found::Settled { record: record.clone(), outcome: outcome.clone(), at: NOW };
            assert_eq!(bed.find(record.seq), Some(found));
        }
        bed.reopen();
    }
}

fn a_moved_post_is_loaded_at_its_new_home_only(bed: &mut Bed) {
    let records: Vec<Record> = (0..20).map(|i| bed.plain(NOON + i)).collect();
    bed.schedule(&records);
    let mut homes = BTreeMap::new();
    for (i, record) in records.iter().enumerate() {
        let to = match i % 4 {
            0 => NOON + 5,
            1 => NOON + DAY,
            2 => NOON - DAY,
            _ => record.at.millis(),
        };
        let (change, record) = moved(record, to);
        bed.commit(vec![change]);
        homes.insert(record.home(), record);
    }
    for _ in 0..3 {
        assert_eq!(bed.records(), homes.values().cloned().collect::<Vec<_>>());
        for record in homes.values() {
            assert_eq!(bed.find(record.seq), live(record));
        }
        bed.reopen();
    }
}

fn a_post_may_move_to_and_fro(bed: &mut Bed) {
    let mut record = bed.plain(NOON);
    bed.schedule(std::slice::from_ref(&record));
    for round in 0..12 {
        let (change, there) = moved(&record, if round % 2 == 0 { NOON + round % 3 * DAY + 1 } else { NOON });
        bed.commit(vec![change]);
        let filler: Vec<Record> = (0..10).map(|_| bed.record(1, NOON, &Post::new("two", "filler"))).collect();
        bed.schedule(&filler);
        if round % 3 == 0 {
            bed.reopen();
        }
        assert_eq!(bed.records(), std::slice::from_ref(&there));
        assert_eq!(bed.find(there.seq), live(&there));
        record = there;
    }
    bed.settle(&record, 12, delivered());
    assert_eq!(bed.records(), []);
    bed.reopen();
    assert_eq!(bed.records(), []);
}

fn a_post_may_move_to_where_it_is(bed: &mut Bed) {
    let [mut record, other] = [bed.plain(NOON), bed.plain(NOON)];
    bed.schedule(&[record.clone(), other.clone()]);
    for round in 0..30 {
        let (change, there) = noted(&record, checkpoint(round * 17), None);
        bed.commit(vec![change.clone()]);
        if round % 4 == 0 {
            bed.commit(vec![change]);
        }
        if round % 3 == 0 {
            let filler: Vec<Record> = (0..5).map(|_| bed.record(1, NOON, &Post::new("two", "filler"))).collect();
            bed.schedule(&filler);
        }
        if round % 7 == 0 {
            bed.reopen();
        }
        assert_eq!(bed.records(), [there.clone(), other.clone()]);
        assert_eq!(bed.find(there.seq), live(&there));
        let page = bed.page(Cursor::of(there.home()), NEVER, 1);
        assert_eq!(page.posts.iter().map(|stored| &stored.record).collect::<Vec<_>>(), [&other]);
        record = there;
    }
    bed.settle(&record, 1, delivered());
    for _ in 0..2 {
        assert_eq!(bed.records(), std::slice::from_ref(&other));
        bed.reopen();
    }
    bed.settle(&other, 1, delivered());
    bed.tidy(NOW.after(WEEK * 2), WEEK);
    assert_eq!((bed.find(record.seq), bed.records()), (None, vec![]));
}

fn a_claim_may_be_made_with_a_move(bed: &mut Bed) {
    let records: Vec<Record> = (0..12).map(|i| bed.plain(NOON + i % 2 * DAY)).collect();
    bed.schedule(&records);
    bed.claim(&records, 1, 6);
    let mut now = Vec::new();
    for (i, record) in records.iter().enumerate() {
        let claim = [None, Some(1), Some(2)][i % 3];
        let (mut change, mut to) = noted(record, checkpoint(i), claim);
        if i % 4 == 0 {
            to.at = Timestamp::from_millis(NOON + 2 * DAY);
            change = Change::Move { from: record.home(), to: Box::new(to.clone()), claim };
        }
        bed.commit(vec![change]);
        assert_eq!(bed.find(to.seq), live(&to), "the engine knows its own claims");
        now.push((i, to, claim));
    }
    for _ in 0..3 {
        bed.reopen();
        for (i, record, claim) in &now {
            let found = match claim {
                // The attempt that had begun goes on.
                Some(1) if *i >= 6 => called(record, 1),
                Some(attempt) => claimed(record, *attempt),
                None => live(record),
            };
            assert_eq!(bed.find(record.seq), found, "{i}");
        }
        let found = bed.all(0, 60).into_iter().filter(|stored| stored.claimed.is_some()).count();
        assert_eq!(found, 8);
    }
}

fn a_keyed_post_that_is_written_anew_keeps_its_key(bed: &mut Bed) {
    let mut record = bed.keyed("k", "a");
    bed.schedule(std::slice::from_ref(&record));
    for round in 0..20 {
        let body = Body::encode(&Post::new("one", format!("edit {round}")).key("k"));
        let to = Record { body, revision: round, ..record.clone() };
        bed.commit(vec![Change::Move { from: record.home(), to: Box::new(to.clone()), claim: None }]);
        let filler: Vec<Record> = (0..3).map(|_| bed.record(1, NOON + DAY, &Post::new("two", "filler"))).collect();
        bed.schedule(&filler);
        filler.iter().for_each(|filler| bed.settle(filler, 1, delivered()));
        if round % 5 == 0 {
            bed.tidy(NOW.after(WEEK * 2), WEEK);
            bed.reopen();
        }
        assert_eq!(bed.store().find_key("k").unwrap(), live(&to));
        record = to;
    }
}

fn notes_and_doubts_come_back(bed: &mut Bed) {
    let receipts = |count| (0..count).map(|i| Receipt::new(format!("{i}").repeat(700))).collect();
    let prepared = Ready { bytes: vec![7; 60_000].into(), valid_until: NEVER, at: NOW };
    let everything = Noted {
        checkpoint: checkpoint(60_000).checkpoint().cloned(),
        prepared: Some(prepared),
        receipts: receipts(1_024),
        reason: Some("no".to_owned()),
        not_before: Some(NOW),
        calls: 7,
    };
    let few = Noted { receipts: receipts(2), ..Noted::default() };
    let mut records: Vec<Record> = Vec::new();
    for (i, notes) in [Notes::default(), few.into(), checkpoint(0), checkpoint(5_900), everything.into(), checkpoint(9)]
        .into_iter()
        .enumerate()
    {
        let doubt = [Doubt::None, Doubt::Open, Doubt::Accepted][i % 3];
        let record = bed.plain(NOON + i as i64);
        records.push(Record { notes, doubt, ..record });
    }
    bed.schedule(&records);
    for _ in 0..3 {
        for max_bytes in [1, 100_000] {
            let found: Vec<Record> = bed.all(0, max_bytes).into_iter().map(|stored| stored.record).collect();
            assert!(found == records, "pages of {max_bytes}");
        }
        assert!(records.iter().all(|record| bed.find(record.seq) == live(record)));
        bed.reopen();
    }
    for record in &mut records {
        let notes = if record.notes.is_empty() { checkpoint(100) } else { Notes::default() };
        let (change, there) = noted(record, notes, None);
        bed.commit(vec![change]);
        *record = there;
    }
    for record in &records {
        bed.settle(record, 0, delivered());
    }
    for _ in 0..2 {
        for record in &records {
            let found = Found::Settled { record: record.clone(), outcome: delivered(), at: NOW };
            assert!(bed.find(record.seq) == Some(found), "the notes of a post that ended are kept");
        }
        bed.reopen();
    }
}

fn posts_on_a_shelf_are_loaded_from_there_and_come_back(bed: &mut Bed) {
    let records: Vec<Record> = (0..60).map(|i| bed.plain(NOON + i % 3 * DAY)).collect();
    bed.schedule(&records);
    let (mut shelved, mut others) = (BTreeMap::new(), Vec::new());
    for (i, record) in records.iter().enumerate() {
        let shelf = match i % 4 {
            0 => Shelf::Dead,
            1 => Shelf::InDoubt,
            2 => Shelf::Held,
            _ => {
                others.push(record.clone());
                continue;
            }
        };
        let at = shelf.place(NOW.after(Duration::from_secs(3_600 * i as u64)), &format!("profile {}", i % 5));
        let to = Record { at, ..record.clone() };
        bed.commit(vec![Change::Move { from: record.home(), to: Box::new(to.clone()), claim: None }]);
        shelved.insert(to.home(), (shelf, i % 5, to));
    }
    others.sort_by_key(Record::home);
    let range = |bed: &mut Bed, (after, until): (Cursor, Timestamp), max_bytes| {
        let (mut found, mut cursor) = (Vec::new(), after);
        while cursor < Cursor::through(until) {
            let page = bed.page(cursor, until, max_bytes);
            cursor = page.through;
            found.extend(page.posts.into_iter().map(|stored| stored.record));
        }
        found
    };
    let on = |shelved: &BTreeMap<_, (Shelf, usize, Record)>, wanted: Shelf, profile: Option<usize>| {
        let wanted = shelved.values().filter(|(shelf, of, _)| *shelf == wanted && profile.is_none_or(|p| p == *of));
        wanted.map(|(_, _, record)| record.clone()).collect::<Vec<_>>()
    };
    for round in 0..4 {
        assert_eq!(range(bed, (Cursor::START, Timestamp::from_millis(NOON + 9 * DAY)), 40), others);
        for shelf in [Shelf::Dead, Shelf::InDoubt, Shelf::Held] {
            assert_eq!(range(bed, shelf.range(), 30), on(&shelved, shelf, None), "{shelf:?}");
        }
        for profile in 0..5 {
            let held = range(bed, Shelf::range_of(&format!("profile {profile}")), 1);
            assert_eq!(held, on(&shelved, Shelf::Held, Some(profile)));
        }
        assert!(shelved.values().all(|(_, _, record)| bed.find(record.seq) == live(record)));
        // Some go back.
        for home in shelved.keys().copied().skip(round).step_by(4).collect::<Vec<_>>() {
            let (_, _, record) = shelved.remove(&home).unwrap();
            let (change, there) = moved(&record, NOON + DAY + round as i64);
            bed.commit(vec![change]);
            others.push(there);
        }
        others.sort_by_key(Record::home);
        if round % 2 == 0 {
            bed.reopen();
        }
    }
    for record in &others {
        bed.settle(record, 1, delivered());
    }
    bed.tidy(NOW.after(WEEK * 2), WEEK);
    for _ in 0..2 {
        assert_eq!(bed.records(), shelved.values().map(|(_, _, record)| record.clone()).collect::<Vec<_>>());
        assert!(others.iter().all(|record| bed.find(record.seq).is_none()));
        bed.reopen();
    }
}

fn what_is_remembered_comes_back_as_it_was_last(bed: &mut Bed) {
    assert_eq!(bed.remembered(), []);
    let mut model = BTreeMap::new();
    for round in 0..120 {
        let (key, value) = (format!("key {}", round * 7 % 23), format!("{round}").repeat(round % 11 * 30));
        let (key, value) = if round % 29 == 0 { (key.repeat(90), value.repeat(5)) } else { (key, value) };
        bed.remember(&key, &value);
        if value.is_empty() {
            model.remove(&key);
        } else {
            model.insert(key, value);
        }
        if round % 17 == 0 {
            bed.reopen();
        }
        if round % 5 == 0 {
            assert_eq!(bed.remembered(), model.clone().into_iter().collect::<Vec<_>>(), "round {round}");
        }
    }
    for key in model.into_keys() {
        bed.remember(&key, "");
    }
    for _ in 0..2 {
        assert_eq!(bed.remembered(), []);
        bed.reopen();
    }
}

fn what_is_remembered_counts_with_its_commit(bed: &mut Bed) {
    let [first, second] = [bed.keyed("k", "a"), bed.keyed("k", "b")];
    let remember = |value: &'static str| Change::Remember { key: "key".into(), value: value.into() };
    bed.commit(vec![remember("one"), Change::Schedule(vec![first.clone()]), remember("two"), remember("three")]);
    assert_eq!(bed.remembered(), [("key".to_owned(), "three".to_owned())]);
    bed.commit(vec![remember("four"), Change::Schedule(vec![second])]);
    bed.reopen();
    assert_eq!(bed.remembered(), [("key".to_owned(), "four".to_owned())], "a unit that is refused takes nothing along");
    assert_eq!(bed.records(), [first]);
}

fn attempts_that_had_begun_are_told_from_those_that_had_not(bed: &mut Bed) {
    let records: Vec<Record> = (0..30).map(|i| bed.plain(NOON + i % 3 * DAY)).collect();
    bed.schedule(&records);
    bed.claim(&records[..10], 1, 5);
    bed.reopen();
    // The first process is long gone, and its claims are still open.
    bed.claim(&records[10..20], 2, 5);
    bed.reopen();
    bed.claim(&records[20..], 3, 5);
    bed.settle(&records[29], 3, delivered());
    for round in 0..3 {
        bed.reopen();
        for (i, record) in records[..29].iter().enumerate() {
            let attempt = i as u32 / 10 + 1;
            let found = if i % 10 < 5 { claimed(record, attempt) } else { called(record, attempt) };
            assert_eq!(bed.find(record.seq), found, "post {i}, round {round}");
        }
        let called =
            bed.all(0, 99).into_iter().filter(|stored| stored.claimed.is_some_and(|claim| claim.called != Called::No));
        assert_eq!(called.count(), 14);
        bed.tidy(NOW, WEEK);
    }
    // What was called is claimed anew, and is not called this time.
    bed.claim(&records[..10], 2, 0);
    bed.reopen();
    assert!(records[..10].iter().all(|record| bed.find(record.seq) == claimed(record, 2)));
}

fn a_claim_that_is_taken_back_takes_its_call_with_it(bed: &mut Bed) {
    let records: Vec<Record> = (0..6).map(|i| bed.plain(NOON + i % 2 * DAY)).collect();
    bed.schedule(&records);
    for reopened in [false, true] {
        bed.claim(&records, 1, 6);
        if reopened {
            bed.reopen();
        }
        for (i, record) in records.iter().enumerate() {
            bed.commit(vec![match i % 2 {
                0 => Change::Release { home: record.home() },
                _ => noted(record, Notes::default(), None).0,
            }]);
        }
        bed.claim(&records, 1, 0);
        bed.reopen();
        for record in &records {
            assert_eq!(bed.find(record.seq), claimed(record, 1), "reopened: {reopened}");
        }
        bed.commit(records.iter().map(|record| Change::Release { home: record.home() }).collect());
    }
}

fn claims_are_reported_to_later_processes_only(bed: &mut Bed) {
    let records: Vec<Record> = (0..10).map(|i| bed.plain(NOON + i % 2 * DAY)).collect();
    bed.schedule(&records);
    let claim = |record: &Record, attempt| Change::Claim { home: record.home(), attempt };
    bed.commit(records.iter().take(6).map(|record| claim(record, 1)).collect());
    assert!(bed.all(0, 1 << 20).iter().all(|stored| stored.claimed.is_none()));
    assert_eq!(bed.find(records[0].seq), live(&records[0]));
    bed.reopen();
    let reported = |bed: &mut Bed| {
        let mut seqs: Vec<u64> =
            bed.all(0, 50).iter().filter(|s| s.claimed.is_some()).map(|s| s.record.seq.0).collect();
        seqs.sort_unstable();
        seqs
    };
    let seqs = |range: std::ops::Range<usize>| records[range].iter().map(|record| record.seq.0).collect::<Vec<_>>();
    assert_eq!(reported(bed), seqs(0..6));
    assert_eq!(bed.find(records[5].seq), claimed(&records[5], 1));
    assert_eq!(bed.find(records[6].seq), live(&records[6]));
    // A new claim takes the place of the old one, and is not reported to the process that made it.
    bed.commit(vec![claim(&records[0], 2), claim(&records[7], 1)]);
    bed.settle(&records[5], 1, delivered());
    assert_eq!(reported(bed), seqs(1..5));
    bed.reopen();
    assert_eq!(bed.find(records[0].seq), claimed(&records[0], 2));
    assert_eq!(bed.find(records[7].seq), claimed(&records[7], 1));
}

fn a_claim_does_not_move_along(bed: &mut Bed) {
    for to in [NOON + 1, NOON + DAY, NOON] {
        let record = bed.plain(NOON);
        bed.schedule(std::slice::from_ref(&record));
        bed.commit(vec![Change::Claim { home: record.home(), attempt: 1 }]);
        bed.reopen();
        assert_eq!(bed.find(record.seq), claimed(&record, 1));
        let (change, there) = moved(&record, to);
        bed.commit(vec![change]);
        assert_eq!(bed.find(record.seq), live(&there));
        bed.reopen();
        assert_eq!(bed.find(record.seq), live(&there));
        bed.commit(vec![Change::Claim { home: there.home(), attempt: 2 }]);
        bed.reopen();
        assert_eq!(bed.find(record.seq), claimed(&there, 2));
    }
}

fn a_released_claim_is_no_claim(bed: &mut Bed) {
    let [first, second] = [bed.plain(NOON), bed.plain(NOON)];
    bed.schedule(&[first.clone(), second.clone()]);
    for record in [&first, &second] {
        bed.commit(vec![Change::Claim { home: record.home(), attempt: 1 }]);
    }
    bed.commit(vec![Change::Release { home: first.home() }]);
    bed.reopen();
    assert_eq!(bed.find(first.seq), live(&first));
    assert_eq!(bed.find(second.seq), claimed(&second, 1));
    bed.commit(vec![Change::Release { home: second.home() }]);
    assert_eq!(bed.find(second.seq), live(&second));
    bed.reopen();
    assert_eq!(bed.find(second.seq), live(&second));
}

fn changes_of_posts_that_are_not_there_are_ignored(bed: &mut Bed) {
    let [first, never] = [bed.plain(NOON), bed.plain(NOON)];
    bed.schedule(std::slice::from_ref(&first));
    let anything = |record: &Record, outcome| {
        let home = record.home();
        let to = Box::new(Record { at: Timestamp::from_millis(NOON + 9), ..record.clone() });
        vec![
            Change::Claim { home, attempt: 1 },
            Change::Release { home },
            Change::Move { from: home, to, claim: Some(3) },
            Change::Settle { home, attempts: 7, outcome },
        ]
    };
    for _ in 0..3 {
        bed.commit(anything(&never, delivered()));
        assert_eq!(bed.find(never.seq), None);
        assert_eq!(bed.records(), std::slice::from_ref(&first));
        bed.reopen();
    }
    bed.settle(&first, 1, delivered());
    let record = Record { attempts: 1, ..first.clone() };
    for _ in 0..3 {
        bed.commit(anything(&first, Outcome::Cancelled));
        let found = Found::Settled { record: record.clone(), outcome: delivered(), at: NOW };
        assert_eq!(bed.find(first.seq), Some(found));
        assert_eq!(bed.records(), []);
        bed.reopen();
    }
}

fn changes_are_applied_in_order(bed: &mut Bed) {
    let [first, second] = [bed.plain(NOON), bed.plain(NOON)];
    let (change, there) = moved(&first, NOON + DAY);
    bed.commit(vec![
        Change::Schedule(vec![first.clone()]),
        Change::Claim { home: first.home(), attempt: 1 },
        Change::Release { home: first.home() },
        change,
        Change::Claim { home: there.home(), attempt: 2 },
        Change::Settle { home: second.home(), attempts: 1, outcome: delivered() },
        Change::Schedule(vec![second.clone()]),
        Change::Claim { home: second.home(), attempt: 1 },
        Change::Settle { home: second.home(), attempts: 1, outcome: Outcome::Cancelled },
    ]);
    for _ in 0..2 {
        bed.reopen();
        assert_eq!(bed.find(first.seq), claimed(&there, 2));
        let record = Record { attempts: 1, ..second.clone() };
        assert_eq!(bed.find(second.seq), Some(Found::Settled { record, outcome: Outcome::Cancelled, at: NOW }));
    }
}

fn settled_posts_are_forgotten_after_their_retention(bed: &mut Bed) {
    let records: Vec<Record> = (0..40).map(|i| bed.plain(NOON + i)).collect();
    bed.schedule(&records);
    for record in &records {
        bed.settle(record, 1, delivered());
    }
    bed.tidy(NOW.after(WEEK), WEEK);
    assert!(bed.find(records[0].seq).is_some(), "its retention is not over");
    bed.tidy(NOW.after(WEEK + Duration::from_millis(1)), WEEK);
    for _ in 0..3 {
        assert!(records.iter().all(|record| bed.find(record.seq).is_none()));
        assert_eq!(bed.records(), []);
        bed.reopen();
    }
    let next = bed.plain(NOON);
    bed.schedule(std::slice::from_ref(&next));
    bed.reopen();
    assert_eq!(bed.records(), [next]);
}

fn forgetting_leaves_other_days_alone(bed: &mut Bed) {
    let records: Vec<Record> = (0..60).map(|i| bed.plain(NOON + i % 6 * DAY)).collect();
    bed.schedule(&records);
    let (gone, left): (Vec<&Record>, Vec<&Record>) =
        records.iter().partition(|record| record.at.millis() / DAY % 2 == NOON / DAY % 2);
    for record in &gone {
        bed.settle(record, 1, delivered());
    }
    bed.tidy(NOW.after(WEEK * 2), WEEK);
    for _ in 0..3 {
        assert!(gone.iter().all(|record| bed.find(record.seq).is_none()));
        assert!(left.iter().all(|record| bed.find(record.seq) == live(record)));
        assert_eq!(bed.records().len(), left.len());
        bed.reopen();
    }
}

fn a_post_that_left_a_forgotten_day_stays(bed: &mut Bed) {
    let records: Vec<Record> =
        (0..12).map(|i| bed.record(0, NOON + i, &Post::new("one", "x").key(format!("k{i}")))).collect();
    bed.schedule(&records);
    let (change, there) = moved(&records[0], NOON + 300 * DAY);
    bed.commit(vec![change]);
    for record in &records[1..] {
        bed.settle(record, 1, delivered());
    }
    bed.tidy(NOW.after(WEEK * 2), WEEK);
    for _ in 0..3 {
        assert_eq!(bed.records(), std::slice::from_ref(&there));
        assert_eq!(bed.find(there.seq), live(&there));
        assert_eq!(bed.store().find_key("k0").unwrap(), live(&there));
        assert_eq!(bed.store().find_key("k1").unwrap(), None);
        bed.reopen();
    }
}

fn a_forgotten_key_is_free(bed: &mut Bed) {
    let first = bed.keyed("k", "a");
    bed.schedule(std::slice::from_ref(&first));
    bed.settle(&first, 1, delivered());
    bed.tidy(NOW.after(WEEK * 2), WEEK);
    let second = bed.keyed("k", "b");
    bed.schedule(std::slice::from_ref(&second));
    for _ in 0..2 {
        assert_eq!(bed.store().find_key("k").unwrap(), live(&second));
        bed.reopen();
    }
}

fn large_bodies_come_back(bed: &mut Bed) {
    let sizes = [0, 1, 5_900, 6_000, 70 << 10, 1 << 20, 3];
    let noise = |len: usize| -> Vec<u8> { (0..len).map(|i| (i * i / 7 + i) as u8).collect() };
    let records: Vec<Record> =
        sizes.iter().map(|len| bed.record(0, NOON + *len as i64, &Post::new("one", noise(*len)))).collect();
    bed.schedule(&records);
    let mut sorted = records.clone();
    sorted.sort_by_key(Record::home);
    for _ in 0..3 {
        for max_bytes in [1, 100_000, 4 << 20] {
            let found: Vec<Record> = bed.all(0, max_bytes).into_iter().map(|stored| stored.record).collect();
            assert!(found == sorted, "pages of {max_bytes}");
        }
        for record in &records {
            assert!(bed.find(record.seq) == live(record), "{} bytes", record.body.len());
        }
        bed.reopen();
    }
}

fn pools_keep_their_numbers_and_orphans_are_named(bed: &mut Bed) {
    let pools = bed.pools.clone();
    assert_ne!(pools[0], pools[1]);
    let record = bed.record(1, NOON, &Post::new("two", "x"));
    bed.schedule(std::slice::from_ref(&record));
    for _ in 0..2 {
        assert_eq!(bed.store().orphan(&pools).unwrap(), None);
        assert_eq!(bed.store().orphan(&pools[..1]).unwrap(), Some("two".to_owned()));
        assert_eq!(bed.store().orphan(&pools[1..]).unwrap(), None);
        bed.reopen();
        let ids = bed.store().pools(&["two".to_owned(), "three".to_owned(), "one".to_owned()]).unwrap();
        assert_eq!((ids[0], ids[2]), (pools[1], pools[0]));
        assert!(!pools.contains(&ids[1]));
    }
    bed.settle(&record, 1, delivered());
    assert_eq!(bed.store().orphan(&pools[..1]).unwrap(), None);
}

fn numbers_are_never_used_again(bed: &mut Bed) {
    let mut high = bed.store().next_seq();
    let first = bed.keyed("k", "a");
    bed.schedule(std::slice::from_ref(&first));
    for round in 0..4 {
        let refused = vec![bed.keyed("k", "b"), bed.plain(NOON)];
        bed.commit(vec![Change::Schedule(refused.clone())]);
        bed.reopen();
        assert!(bed.store().next_seq() > refused[1].seq, "round {round}");
        assert!(bed.store().next_seq() > high);
        high = bed.store().next_seq();
    }
    bed.settle(&first, 1, delivered());
    bed.tidy(NOW.after(WEEK * 2), WEEK);
    bed.reopen();
    assert!(bed.store().next_seq() >= high);
}

fn the_last_commit_is_remembered(bed: &mut Bed) {
    assert_eq!(bed.store().last_commit_at(), Timestamp::MIN);
    let latest = NOW.after(WEEK);
    for now in [NOW, latest, NOW] {
        let record = bed.plain(NOON);
        bed.store().commit(now, vec![Change::Schedule(vec![record])]).unwrap();
        assert_eq!(bed.store().last_commit_at(), Timestamp::MIN, "commits of this process do not count");
    }
    bed.reopen();
    assert_eq!(bed.store().last_commit_at(), latest);
}

fn the_identity_stays(bed: &mut Bed) {
    let identity = bed.store().identity();
    bed.reopen();
    assert_eq!(bed.store().identity(), identity);
    assert_ne!(Bed::memory().store().identity(), identity);
}

#[derive(Clone, Debug)]
enum Op {
    /// Posts: pool, hours from noon, key, content; what is noted with them.
    Schedule(Vec<(usize, i64, Option<u8>, u8)>, Option<u8>),
    Claim(usize),
    Release(usize),
    Move(usize, i64),
    /// To a shelf: post, which one, number of the profile.
    Shelve(usize, u8, u8),
    /// To the same home: post, length of the checkpoint, whether an attempt is claimed, and which.
    Note(usize, usize, Option<bool>),
    Settle(usize, u8),
    /// The attempts claimed begin, if they are.
    Call(usize),
    /// Number of the key, length of the value.
    Remember(u8, usize),
    /// Ends the commit.
    Commit,
    Reopen,
    Tidy(u32),
    Page(usize, i64, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let post = (0..2usize, -60i64..60, proptest::option::weighted(0.3, 0..6u8), 0..4u8);
    prop_oneof![
        4 => (proptest::collection::vec(post, 1..6), proptest::option::of(0..4u8))
            .prop_map(|(posts, note)| Op::Schedule(posts, note)),
        3 => any::<usize>().prop_map(Op::Claim),
        1 => any::<usize>().prop_map(Op::Release),
        3 => (any::<usize>(), -60i64..60).prop_map(|(post, hours)| Op::Move(post, hours)),
        1 => (any::<usize>(), 0..3u8, 0..5u8).prop_map(|(post, shelf, profile)| Op::Shelve(post, shelf, profile)),
        2 => (any::<usize>(), 0..400usize, proptest::option::of(any::<bool>()))
            .prop_map(|(post, len, claim)| Op::Note(post, len, claim)),
        2 => any::<usize>().prop_map(Op::Call),
        1 => (0..9u8, 0..300usize).prop_map(|(key, len)| Op::Remember(key, len)),
        4 => (any::<usize>(), 0..4u8).prop_map(|(post, outcome)| Op::Settle(post, outcome)),
        4 => Just(Op::Commit),
        1 => Just(Op::Reopen),
        1 => (0..400u32).prop_map(Op::Tidy),
        2 => (0..2usize, -70i64..70, 1..2_000usize).prop_map(|(pool, hours, bytes)| Op::Page(pool, hours, bytes)),
    ]
}

/// The two stores do the same, whatever is asked of them.
struct Twins {
    memory: Bed,
    sled: Bed,
    changes: Vec<Change>,
    /// The last record of every post, live or not.
    records: Vec<Record>,
    /// Posts that have ended, or will with this commit.
    ended: HashSet<Seq>,
    now: Timestamp,
    cursor: Cursor,
}

impl Twins {
    fn both<T>(&mut self, mut ask: impl FnMut(&mut Bed) -> T) -> (T, T) {
        (ask(&mut self.memory), ask(&mut self.sled))
    }

    fn apply(&mut self, op: Op) {
        let hour = |hours: i64| NOON + hours * 3_600_000;
        let pick = |records: &[Record], post: usize| (!records.is_empty()).then(|| post % records.len());
        match op {
            Op::Schedule(posts, note) => {
                let mut unit = Vec::new();
                for (pool, hours, key, content) in posts {
                    let mut post = Post::new("p", vec![content; usize::from(content) * 97]);
                    post.key = key.map(|key| format!("key {key}"));
                    let record = self.memory.record(pool, hour(hours), &post);
                    self.records.push(record.clone());
                    unit.push(record);
                }
                self.changes.push(match note {
                    Some(note) => {
                        let (key, value) = (vec![note; 2].into(), unit[0].seq.0.to_le_bytes().to_vec().into());
                        Change::ScheduleNoted { records: unit, notes: vec![(key, value)] }
                    }
                    None => Change::Schedule(unit),
                });
            }
            Op::Claim(post) => {
                if let Some(i) = pick(&self.records, post) {
                    let attempt = self.records[i].attempts + 1;
                    self.changes.push(Change::Claim { home: self.records[i].home(), attempt });
                }
            }
            Op::Release(post) => {
                if let Some(i) = pick(&self.records, post) {
                    self.changes.push(Change::Release { home: self.records[i].home() });
                }
            }
            Op::Move(post, hours) => {
                if let Some(i) = pick(&self.records, post).filter(|i| !self.ended.contains(&self.records[*i].seq)) {
                    let (change, to) = moved(&self.records[i], hour(hours));
                    self.changes.push(change);
                    self.records[i] = to;
                }
            }
            Op::Shelve(post, shelf, profile) => {
                if let Some(i) = pick(&self.records, post).filter(|i| !self.ended.contains(&self.records[*i].seq)) {
                    let shelf = [Shelf::Dead, Shelf::InDoubt, Shelf::Held][usize::from(shelf)];
                    let to = Record { at: shelf.place(self.now, &profile.to_string()), ..self.records[i].clone() };
                    let from = self.records[i].home();
                    self.changes.push(Change::Move { from, to: Box::new(to.clone()), claim: None });
                    self.records[i] = to;
                }
            }
            Op::Note(post, len, claim) => {
                if let Some(i) = pick(&self.records, post).filter(|i| !self.ended.contains(&self.records[*i].seq)) {
                    let claim = claim.map(|same| self.records[i].attempts + 1 + u32::from(!same));
                    let notes = if len < 50 { Notes::default() } else { checkpoint(len) };
                    let (change, to) = noted(&self.records[i], notes, claim);
                    self.changes.push(change);
                    self.records[i] = to;
                }
            }
            Op::Call(post) => {
                if let Some(i) = pick(&self.records, post) {
                    let record = self.records[i].clone();
                    let attempt = record.attempts + 1;
                    let change = Change::Claim { home: record.home(), attempt };
                    if !self.ended.contains(&record.seq) {
                        self.changes.push(change);
                        self.commit();
                        if matches!(self.memory.find(record.seq), Some(Found::Live(_))) {
                            self.both(|bed| bed.calling(&[(record.seq, attempt)]));
                        }
                    }
                }
            }
            Op::Remember(key, len) => {
                let (key, value) = (vec![key; usize::from(key) * 40 + 1].into(), vec![key; len / 3 * 2].into());
                self.changes.push(Change::Remember { key, value });
            }
            Op::Settle(post, outcome) => {
                if let Some(i) = pick(&self.records, post) {
                    let outcome = match outcome {
                        0 => Outcome::Delivered(Receipt::new("r".repeat(post % 700))),
                        1 => Outcome::Failed { reason: "no".to_owned() },
                        2 => Outcome::Cancelled,
                        _ => delivered(),
                    };
                    let home = self.records[i].home();
                    self.ended.insert(home.seq);
                    self.changes.push(Change::Settle { home, attempts: 1, outcome });
                }
            }
            Op::Commit => self.commit(),
            Op::Reopen => {
                self.commit();
                self.both(Bed::reopen);
                let now = self.now;
                self.both(|bed| bed.tidy(now, WEEK));
                self.compare();
            }
            Op::Tidy(hours) => {
                self.commit();
                self.now = self.now.after(Duration::from_secs(3_600 * u64::from(hours)));
                let now = self.now;
                self.both(|bed| bed.tidy(now, WEEK));
                self.take_stock();
            }
            Op::Page(pool, hours, bytes) => {
                // Where the last one ended, as often as not.
                let after =
                    if bytes % 2 == 0 { Cursor::through(Timestamp::from_millis(hour(hours))) } else { self.cursor };
                let (a, b) = self.both(|bed| {
                    let pool = bed.pools[pool];
                    bed.store().load(pool, after, NEVER, bytes).unwrap()
                });
                assert_eq!(a, b);
                self.cursor = a.through;
            }
        }
    }

    fn commit(&mut self) {
        let (now, changes) = (self.now, std::mem::take(&mut self.changes));
        self.now = self.now.after(Duration::from_millis(1));
        let (a, b) = self.both(|bed| format!("{:?}", bed.store().commit(now, changes.clone()).unwrap()));
        assert_eq!(a, b);
        self.take_stock();
    }

    /// From here on the posts are where the model has them; those that were refused or forgotten are never named.
    fn take_stock(&mut self) {
        for record in std::mem::take(&mut self.records) {
            let found = self.memory.find(record.seq);
            if record.seq.0 % 4 == 0 {
                assert_eq!(self.sled.find(record.seq), found);
            }
            self.records.extend(found.map(|found| found.record().clone()));
        }
    }

    fn compare(&mut self) {
        for pool in 0..2 {
            let (a, b) = self.both(|bed| bed.all(pool, 700));
            assert_eq!(a, b);
        }
        let seqs: Vec<Seq> = self.records.iter().map(|record| record.seq).collect();
        for seq in seqs {
            let (a, b) = self.both(|bed| bed.find(seq));
            assert_eq!(a, b, "post {seq:?}");
        }
        for key in 0..6 {
            let (a, b) = self.both(|bed| bed.store().find_key(&format!("key {key}")).unwrap());
            assert_eq!(a, b, "key {key}");
        }
        let (a, b) = self.both(|bed| bed.store().next_seq());
        assert_eq!(a, b);
        let (a, b) = self.both(|bed| bed.store().remembered().unwrap());
        assert_eq!(a, b);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_do_the_same_whatever_is_asked(
        ops in proptest::collection::vec(op(), 1..150), posts in 1usize..4_000, marks in 1usize..20, own_days in 0usize..4,
    ) {
        let sizes = Sizes { generation_bytes: posts, generation_marks: marks, block_bytes: 300, own_days, part_blocks: 4, spike: marks % 3 };
        let mut twins = Twins {
            memory: Bed::memory(),
            sled: Bed::sled(sizes),
            changes: Vec::new(),
            records: Vec::new(),
            ended: HashSet::new(),
            now: NOW,
            cursor: Cursor::START,
        };
        for op in ops {
            twins.apply(op);
        }
        twins.apply(Op::Reopen);
    }
}
