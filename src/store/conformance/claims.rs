//! What is claimed, and what had begun when a process ended.

use crate::post::{Called, Change, Notes, Record};
use crate::store::sled::Sizes;
use crate::time::Timestamp;

use super::bed::{Bed, DAY, NOON, NOW, WEEK, called, checkpoint, claimed, delivered, live, moved, noted, tiny};

promises! {
    a_claim_may_be_made_with_a_move
    attempts_that_had_begun_are_told_from_those_that_had_not
    a_claim_that_is_taken_back_takes_its_call_with_it
    claims_are_reported_to_later_processes_only
    a_claim_does_not_move_along
    a_released_claim_is_no_claim
    a_claim_is_of_this_process_from_its_first_commit_on
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

fn a_claim_is_of_this_process_from_its_first_commit_on(bed: &mut Bed) {
    let records: Vec<Record> = (0..60).map(|i| bed.plain(NOON + i * DAY)).collect();
    bed.schedule(&records);
    for (round, record) in records.iter().take(3).enumerate() {
        bed.reopen();
        bed.claim(std::slice::from_ref(record), 1, 0);
        // So many days that what is known of the first ones has to be read again.
        for _ in 0..2 {
            assert_eq!(bed.find(record.seq), live(record), "it is not in doubt");
            let claims = bed.all(0, 1 << 20).into_iter().filter(|stored| stored.claimed.is_some());
            assert_eq!(claims.count(), round, "those of earlier processes");
        }
    }
    bed.reopen();
    assert!(records[..3].iter().all(|record| bed.find(record.seq) == claimed(record, 1)));
}
