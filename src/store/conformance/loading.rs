//! How posts are found, and loaded in order.

use crate::id::Seq;
use crate::post::{Cursor, Page, Post, Record, Stored};
use crate::store::sled::Sizes;
use crate::time::Timestamp;

use super::bed::{Bed, DAY, NEVER, NOON, NOW, WEEK, live, tiny};

promises! {
    a_post_is_found_as_it_was_scheduled
    posts_are_loaded_in_the_order_of_their_instants_and_numbers
    pages_are_as_long_as_asked_and_go_on_where_they_ended
    loading_goes_on_after_a_long_post
    a_page_ends_at_until_and_begins_after_the_cursor
    large_bodies_come_back
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
