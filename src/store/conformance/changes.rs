//! What becomes of a post.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::post::{Change, Cursor, Doubt, Found, Noted, Notes, Outcome, Post, Ready, Receipt, Record, Shelf};
use crate::store::sled::Sizes;
use crate::time::Timestamp;

use super::bed::{Bed, DAY, NEVER, NOON, NOW, WEEK, checkpoint, claimed, delivered, live, moved, noted, tiny};

promises! {
    a_settled_post_is_not_loaded_but_found_with_its_outcome
    all_outcomes_come_back
    a_moved_post_is_loaded_at_its_new_home_only
    a_post_may_move_to_and_fro
    a_post_may_move_to_where_it_is
    notes_and_doubts_come_back
    posts_on_a_shelf_are_loaded_from_there_and_come_back
    changes_of_posts_that_are_not_there_are_ignored
    changes_are_applied_in_order
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
