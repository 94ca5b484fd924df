//! What the store knows besides posts.

use std::collections::BTreeMap;

use crate::post::{Change, Post};
use crate::store::sled::Sizes;
use crate::time::Timestamp;

use super::bed::{Bed, NOON, NOW, WEEK, delivered, tiny};

promises! {
    what_is_remembered_comes_back_as_it_was_last
    what_is_remembered_counts_with_its_commit
    pools_keep_their_numbers_and_orphans_are_named
    numbers_are_never_used_again
    the_last_commit_is_remembered
    the_identity_stays
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
