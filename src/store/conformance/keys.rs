//! What is scheduled under a key.

use bytes::Bytes;

use crate::post::{Body, Change, Post, Record, Verdict};
use crate::store::sled::Sizes;

use super::bed::{Bed, DAY, NOON, NOW, WEEK, delivered, live, tiny};

promises! {
    a_key_answers_with_the_post_that_has_it
    a_key_with_other_content_refuses_its_whole_unit
    what_is_noted_with_new_posts_is_kept_only_if_all_of_them_are_new
    keys_count_within_a_commit_and_within_a_unit
    a_keyed_post_that_is_written_anew_keeps_its_key
    a_forgotten_key_is_free
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
