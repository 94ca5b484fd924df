//! What is forgotten after its retention, and what is not.

use std::time::Duration;

use crate::post::{Post, Record};
use crate::store::sled::Sizes;

use super::bed::{Bed, DAY, NOON, NOW, WEEK, delivered, live, moved, tiny};

promises! {
    settled_posts_are_forgotten_after_their_retention
    forgetting_leaves_other_days_alone
    a_post_that_left_a_forgotten_day_stays
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
