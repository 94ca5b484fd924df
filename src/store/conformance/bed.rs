//! A store that can be closed and opened again, and what its tests say in short.

use std::time::Duration;

use bytes::Bytes;

use crate::id::{PoolId, Seq};
use crate::post::{
    Body, Called, Change, Claimed, Cursor, Doubt, Found, Noted, Notes, Outcome, Page, Post, Receipt, Record, Stored,
    Verdict,
};
use crate::store::sled::Sizes;
use crate::store::{MemoryStore, SledStore, Store};
use crate::time::Timestamp;

pub const DAY: i64 = 86_400_000;
pub const NOON: i64 = 20_000 * DAY + DAY / 2;
pub const NOW: Timestamp = Timestamp::from_millis(NOON);
pub const NEVER: Timestamp = Timestamp::MAX;
pub const WEEK: Duration = Duration::from_secs(7 * 86_400);

pub enum Place {
    Memory(MemoryStore),
    Sled(tempfile::TempDir, Sizes),
}

impl Place {
    pub fn open(&self) -> Open {
        match self {
            Self::Memory(store) => Open::Memory(store.clone()),
            Self::Sled(folder, sizes) => Open::Sled(SledStore::open_sized(folder.path(), *sizes).unwrap()),
        }
    }
}

pub enum Open {
    Memory(MemoryStore),
    Sled(SledStore),
}

impl Open {
    pub fn store(&mut self) -> &mut dyn Store {
        match self {
            Self::Memory(store) => store,
            Self::Sled(store) => store,
        }
    }

    /// Whether nothing goes on behind.
    pub fn is_idle(&mut self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Sled(store) => store.is_idle(),
        }
    }
}

/// A store that can be closed and opened again, with two pools.
pub struct Bed {
    place: Place,
    open: Option<Open>,
    pub pools: Vec<PoolId>,
    openings: u32,
    next: u64,
}

impl Bed {
    pub fn memory() -> Self {
        Self::new(Place::Memory(MemoryStore::default()))
    }

    pub fn sled(sizes: Sizes) -> Self {
        Self::new(Place::Sled(tempfile::tempdir().unwrap(), sizes))
    }

    pub fn new(place: Place) -> Self {
        let mut bed = Self { place, open: None, pools: Vec::new(), openings: 0, next: 0 };
        bed.reopen();
        bed
    }

    pub fn store(&mut self) -> &mut dyn Store {
        self.open.as_mut().unwrap().store()
    }

    pub fn reopen(&mut self) {
        self.open = None;
        self.open = Some(self.place.open());
        // They keep their numbers, in whatever order they are named.
        self.openings += 1;
        let (mut names, is_turned) = (["one".to_owned(), "two".to_owned()], self.openings.is_multiple_of(2));
        if is_turned {
            names.reverse();
        }
        self.pools = self.store().pools(&names).unwrap();
        if is_turned {
            self.pools.reverse();
        }
        self.next = self.next.max(self.store().next_seq().0);
    }

    pub fn record(&mut self, pool: usize, millis: i64, post: &Post) -> Record {
        self.next += 1;
        let at = Timestamp::from_millis(millis);
        let (seq, pool, body) = (Seq(self.next - 1), self.pools[pool], Body::encode(post));
        Record { seq, pool, at, due: at, attempts: 0, revision: 0, doubt: Doubt::None, notes: Notes::default(), body }
    }

    pub fn plain(&mut self, millis: i64) -> Record {
        self.record(0, millis, &Post::new("one", format!("at {millis}")))
    }

    pub fn keyed(&mut self, key: &str, text: &str) -> Record {
        self.record(0, NOON, &Post::new("one", text).key(key))
    }

    pub fn commit(&mut self, changes: Vec<Change>) -> Vec<Verdict> {
        self.store().commit(NOW, changes).unwrap()
    }

    /// Schedules them, each as a unit of its own.
    pub fn schedule(&mut self, records: &[Record]) {
        let verdicts = self.commit(records.iter().map(|record| Change::Schedule(vec![record.clone()])).collect());
        let own = records.iter().map(|record| Verdict::Stored(vec![record.seq]));
        assert_eq!(
            verdicts.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>(),
            own.map(|v| format!("{v:?}")).collect::<Vec<_>>()
        );
    }

    /// Claims these attempts of the posts; those of the later ones begin.
    pub fn claim(&mut self, records: &[Record], attempt: u32, called: usize) {
        self.commit(records.iter().map(|record| Change::Claim { home: record.home(), attempt }).collect());
        let attempts: Vec<(Seq, u32)> = records.iter().map(|record| (record.seq, attempt)).collect();
        self.calling(&attempts[records.len() - called..]);
    }

    pub fn calling(&mut self, attempts: &[(Seq, u32)]) {
        self.store().call_log().unwrap().calling(attempts);
    }

    pub fn remember(&mut self, key: &str, value: &str) {
        self.commit(vec![Change::Remember { key: key.to_owned().into(), value: value.to_owned().into() }]);
    }

    pub fn remembered(&mut self) -> Vec<(String, String)> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        self.store().remembered().unwrap().into_iter().map(|(key, value)| (text(key), text(value))).collect()
    }

    pub fn settle(&mut self, record: &Record, attempts: u32, outcome: Outcome) {
        self.commit(vec![Change::Settle { home: record.home(), attempts, outcome }]);
    }

    pub fn page(&mut self, after: Cursor, until: Timestamp, max_bytes: usize) -> Page {
        let pool = self.pools[0];
        self.store().load(pool, after, until, max_bytes).unwrap()
    }

    /// All live posts of a pool, by pages of this size.
    pub fn all(&mut self, pool: usize, max_bytes: usize) -> Vec<Stored> {
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

    pub fn records(&mut self) -> Vec<Record> {
        self.all(0, 1 << 20).into_iter().map(|stored| stored.record).collect()
    }

    pub fn find(&mut self, seq: Seq) -> Option<Found> {
        self.store().find(seq).unwrap()
    }

    pub fn tidy(&mut self, now: Timestamp, retention: Duration) {
        loop {
            let was_idle = self.open.as_mut().unwrap().is_idle();
            if !self.store().tidy(now, retention).unwrap() && was_idle && self.open.as_mut().unwrap().is_idle() {
                return;
            }
        }
    }
}

pub fn live(record: &Record) -> Option<Found> {
    Some(Found::Live(Stored { record: record.clone(), claimed: None }))
}

pub fn claimed(record: &Record, attempt: u32) -> Option<Found> {
    Some(Found::Live(Stored { record: record.clone(), claimed: Some(Claimed { attempt, called: Called::No }) }))
}

pub fn called(record: &Record, attempt: u32) -> Option<Found> {
    Some(Found::Live(Stored { record: record.clone(), claimed: Some(Claimed { attempt, called: Called::Yes }) }))
}

pub fn delivered() -> Outcome {
    Outcome::Delivered(Receipt::default())
}

pub fn moved(record: &Record, millis: i64) -> (Change, Record) {
    let at = Timestamp::from_millis(millis);
    let to = Record { at, attempts: record.attempts + 1, ..record.clone() };
    (Change::Move { from: record.home(), to: Box::new(to.clone()), claim: None }, to)
}

/// A move to where the post is already.
pub fn noted(record: &Record, notes: Notes, claim: Option<u32>) -> (Change, Record) {
    let to = Record { notes, ..record.clone() };
    (Change::Move { from: record.home(), to: Box::new(to.clone()), claim }, to)
}

/// Notes with a checkpoint of this many bytes.
pub fn checkpoint(len: usize) -> Notes {
    let bytes: Vec<u8> = (0..len).map(|i| (i * i / 5 + i + len) as u8).collect();
    Notes::from(Noted { checkpoint: Some(bytes.into()), ..Noted::default() })
}

/// Sizes with which a few posts pass through every stage.
pub fn tiny() -> Sizes {
    Sizes { generation_bytes: 1_500, generation_marks: 4, block_bytes: 300, own_days: 2, part_blocks: 3, spike: 1 }
}
