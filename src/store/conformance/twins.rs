//! Both stores beside each other, under random operations.

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use crate::id::Seq;
use crate::post::{Change, Cursor, Found, Notes, Outcome, Post, Receipt, Record, Shelf};
use crate::store::sled::Sizes;
use crate::time::Timestamp;

use super::bed::{Bed, NEVER, NOON, NOW, WEEK, checkpoint, delivered, moved, noted};

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
