//! The journal: every commit as it came, one after another; what the current generation is rebuilt from.
//!
//! ```text
//! tree   j{generation}; key: block u64 BE, from 0 without gaps; the last ones without a block, or of a commit that
//!        was not finished: its blocks are written from the last to the first
//! block  commit u64 | part u32, parts u32 | part of the commit's entries
//! commit now i64 | entries | 0, next seq varint
//! entry  tag u8 | what the tag says; instants and numbers are steps from the entry before
//!        a remembered value: key length varint, key | value length varint, value
//! ```

use ::sled::Tree;
use bytes::{Bytes, BytesMut};

use crate::error::StoreError;
use crate::id::{PoolId, Seq};
use crate::post::{Home, Outcome, Receipt, Record};
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::codec::{self, Kind, Reader, SEAL_BYTES};
use super::disk::Disk;

const HEADER_BYTES: usize = 16;
/// Keys that have a place before they have a block: as many as a leaf of sled's can hold, so that blocks never
/// come into a leaf that is going to split.
const PLACES_AHEAD: u64 = 17;

const END: u8 = 0;
const POOL: u8 = 1;
const POST: u8 = 2;
const CLAIM_FIRST: u8 = 3;
const CLAIM: u8 = 4;
const RELEASE: u8 = 5;
const MOVE: u8 = 6;
const DELIVERED_FIRST: u8 = 7;
const SETTLE: u8 = 8;
const REMEMBER: u8 = 9;

pub fn tree_name(generation: u32) -> String {
    format!("j{generation}")
}

/// The generation whose journal has this name.
pub fn generation(tree_name: &str) -> Option<u32> {
    tree_name.strip_prefix('j')?.parse().ok()
}

/// One change that was made: what a `Change` comes down to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    Post(Record),
    Claim { home: Home, attempt: u32 },
    Release { home: Home },
    Move { from: Home, to: Record },
    Settle { home: Home, attempts: u32, outcome: Outcome },
    Remember { key: Bytes, value: Bytes },
}

/// One commit, as read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    pub now: Timestamp,
    pub entries: Vec<Entry>,
    pub next_seq: Seq,
}

#[cfg(any(test, feature = "test-util"))]
impl Commit {
    /// As it is written.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = CommitWriter::new(self.now);
        for entry in &self.entries {
            match entry {
                Entry::Post(record) => writer.post(record),
                Entry::Claim { home, attempt } => writer.claim(*home, *attempt),
                Entry::Release { home } => writer.release(*home),
                Entry::Move { from, to } => writer.shift(*from, to),
                Entry::Settle { home, attempts, outcome } => writer.settle(*home, *attempts, outcome),
                Entry::Remember { key, value } => writer.remember(key, value),
            }
        }
        writer.finish(self.next_seq)
    }
}

/// A commit that is being written.
#[derive(Debug)]
pub struct CommitWriter {
    bytes: Vec<u8>,
    pool: PoolId,
    at: Timestamp,
    seq: Seq,
}

impl CommitWriter {
    pub fn new(now: Timestamp) -> Self {
        let mut bytes = Vec::with_capacity(8 << 10);
        bytes.extend_from_slice(&now.micros().to_le_bytes());
        Self { bytes, pool: PoolId(0), at: now, seq: Seq(0) }
    }

    pub fn post(&mut self, record: &Record) {
        self.put(POST, record.home());
        self.put_record(record);
    }

    pub fn claim(&mut self, home: Home, attempt: u32) {
        if attempt == 1 {
            return self.put(CLAIM_FIRST, home);
        }
        self.put(CLAIM, home);
        codec::put_varint(&mut self.bytes, attempt.into());
    }

    pub fn release(&mut self, home: Home) {
        self.put(RELEASE, home);
    }

    pub fn shift(&mut self, from: Home, to: &Record) {
        self.put(MOVE, from);
        codec::put_varint(&mut self.bytes, to.pool.0.into());
        codec::put_step(&mut self.bytes, from.at, to.at);
        codec::put_seq_step(&mut self.bytes, from.seq, to.seq);
        self.put_record(to);
    }

    pub fn settle(&mut self, home: Home, attempts: u32, outcome: &Outcome) {
        if attempts == 1 && *outcome == Outcome::Delivered(Receipt::default()) {
            return self.put(DELIVERED_FIRST, home);
        }
        self.put(SETTLE, home);
        codec::put_varint(&mut self.bytes, attempts.into());
        codec::put_outcome(&mut self.bytes, outcome);
    }

    pub fn remember(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.push(REMEMBER);
        codec::put_bytes(&mut self.bytes, key);
        codec::put_bytes(&mut self.bytes, value);
    }

    fn put(&mut self, tag: u8, home: Home) {
        if self.pool != home.pool {
            self.bytes.push(POOL);
            codec::put_varint(&mut self.bytes, home.pool.0.into());
        }
        self.bytes.push(tag);
        codec::put_step(&mut self.bytes, self.at, home.at);
        codec::put_seq_step(&mut self.bytes, self.seq, home.seq);
        (self.pool, self.at, self.seq) = (home.pool, home.at, home.seq);
    }

    fn put_record(&mut self, record: &Record) {
        codec::put_varint(&mut self.bytes, record.body.len() as u64);
        codec::put_head(&mut self.bytes, record);
        self.bytes.extend_from_slice(record.body.as_bytes());
    }

    /// Everything said.
    pub fn finish(mut self, next_seq: Seq) -> Vec<u8> {
        self.bytes.push(END);
        codec::put_varint(&mut self.bytes, next_seq.0);
        self.bytes
    }
}

pub fn read_commit(bytes: &Bytes) -> Option<Commit> {
    let mut reader = Reader::new(bytes);
    let now = Timestamp::from_micros(reader.i64()?);
    let mut last = Home { pool: PoolId(0), at: now, seq: Seq(0) };
    let mut entries = Vec::new();
    loop {
        let tag = reader.u8()?;
        match tag {
            END => {
                let next_seq = Seq(reader.varint()?);
                return reader.is_at_end().then_some(Commit { now, entries, next_seq });
            }
            POOL => {
                last.pool = PoolId(reader.number()?);
                continue;
            }
            REMEMBER => {
                // Copied, so that they do not keep the whole commit in memory.
                let mut bytes = || reader.bytes().map(|bytes| Bytes::copy_from_slice(&bytes));
                entries.push(Entry::Remember { key: bytes()?, value: bytes()? });
                continue;
            }
            _ => {}
        }
        let home = Home { pool: last.pool, at: reader.step(last.at)?, seq: reader.seq_step(last.seq)? };
        last = home;
        entries.push(match tag {
            POST => Entry::Post(read_record(&mut reader, home)?),
            CLAIM_FIRST => Entry::Claim { home, attempt: 1 },
            CLAIM => Entry::Claim { home, attempt: reader.number()? },
            RELEASE => Entry::Release { home },
            MOVE => {
                let pool = PoolId(reader.number()?);
                let to = Home { pool, at: reader.step(home.at)?, seq: reader.seq_step(home.seq)? };
                Entry::Move { from: home, to: read_record(&mut reader, to)? }
            }
            DELIVERED_FIRST => Entry::Settle { home, attempts: 1, outcome: Outcome::Delivered(Receipt::default()) },
            SETTLE => Entry::Settle { home, attempts: reader.number()?, outcome: codec::read_outcome(&mut reader)? },
            _ => return None,
        });
    }
}

fn read_record(reader: &mut Reader<'_>, home: Home) -> Option<Record> {
    let len = reader.number()?;
    codec::read_record(reader, home.pool, home.at, home.seq, Some(len))
}

/// The journal of one generation.
#[derive(Debug)]
pub struct Journal {
    tree: Tree,
    next_block: u64,
    /// Keys before this one have a place, with a block or without.
    places: u64,
    block_bytes: usize,
}

impl Journal {
    pub fn open(disk: &Disk, generation: u32, block_bytes: usize) -> Result<Self, StoreError> {
        Ok(Self { tree: disk.tree(&tree_name(generation))?, next_block: 0, places: 0, block_bytes })
    }

    /// Writes a commit, all or nothing, and makes it durable.
    pub fn write(&mut self, disk: &Disk, number: u64, commit: CommitWriter, next_seq: Seq) -> Result<(), StoreError> {
        let bytes = commit.finish(next_seq);
        let room = self.block_bytes - SEAL_BYTES - HEADER_BYTES;
        let parts = bytes.len().div_ceil(room) as u32;
        let wanted = self.next_block + u64::from(parts) + PLACES_AHEAD;
        if self.places < wanted {
            // Many at once, so that most commits write to sled's log but once.
            for place in self.places..wanted + PLACES_AHEAD {
                disk.make_place(&self.tree, &place.to_be_bytes())?;
            }
            self.places = wanted + PLACES_AHEAD;
        }
        let mut payload = Vec::with_capacity(self.block_bytes);
        // The first block comes last: with it the commit is there.
        let mut pieces = bytes.chunks(room).enumerate();
        let is_first = sabotage::is(Switch::FirstBlockFirst);
        while let Some((part, piece)) = if is_first { pieces.next() } else { pieces.next_back() } {
            payload.clear();
            payload.extend_from_slice(&number.to_le_bytes());
            payload.extend_from_slice(&(part as u32).to_le_bytes());
            payload.extend_from_slice(&parts.to_le_bytes());
            payload.extend_from_slice(piece);
            disk.put(&self.tree, Kind::Journal, &(self.next_block + part as u64).to_be_bytes(), &payload)?;
        }
        self.next_block += u64::from(parts);
        disk.make_durable()
    }

    /// Reads all commits, the first of which must have this number, and goes on after the last. Of one that was not
    /// finished the last blocks may be there: they are taken away.
    pub fn replay(&mut self, disk: &Disk, first: u64, mut each: impl FnMut(u64, Commit)) -> Result<(), StoreError> {
        let mut number = first;
        let mut gathered = BytesMut::new();
        let mut next_part = 0;
        let mut unfinished = Vec::new();
        for item in disk.range(&self.tree, Kind::Journal, ..) {
            let (key, payload) = item?;
            self.places += 1;
            if payload.is_empty() {
                continue;
            }
            let block = self.next_block;
            let damaged = || disk.damaged(format!("block {block} of commit {number} in the journal is wrong"));
            let mut reader = Reader::new(&payload);
            let header = (reader.u64(), reader.u32(), reader.u32(), reader.rest());
            let (Some(commit), Some(part), Some(parts), Some(piece)) = header else { return Err(damaged()) };
            if *key != block.to_be_bytes() {
                if commit != number || *key != (block + u64::from(part)).to_be_bytes() {
                    return Err(disk.damaged(format!("block {block} is missing in the journal")));
                }
                unfinished.push(key);
                continue;
            }
            if (commit, part) != (number, next_part) {
                return Err(damaged());
            }
            self.next_block += 1;
            next_part += 1;
            gathered.extend_from_slice(&piece);
            if next_part == parts {
                let commit = read_commit(&gathered.split().freeze()).ok_or_else(damaged)?;
                each(number, commit);
                (number, next_part) = (number + 1, 0);
            }
        }
        if next_part > 0 {
            return Err(disk.damaged(format!("commit {number} in the journal is not complete")));
        }
        unfinished.into_iter().try_for_each(|key| disk.make_place(&self.tree, &key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::post::{Body, Doubt, Noted, Notes, Post};
    use proptest::prelude::*;
    use std::time::Duration;

    fn home() -> impl Strategy<Value = Home> {
        (0u16..3, any::<i64>(), any::<u64>()).prop_map(|(pool, at, seq)| Home {
            pool: PoolId(pool),
            at: Timestamp::from_micros(at),
            seq: Seq(seq),
        })
    }

    fn record() -> impl Strategy<Value = Record> {
        (home(), any::<(i64, u32, u32, u8)>(), any::<Vec<u8>>(), proptest::option::of(any::<Vec<u8>>())).prop_map(
            |(home, (due, attempts, revision, doubt), payload, checkpoint)| Record {
                seq: home.seq,
                pool: home.pool,
                at: home.at,
                due: Timestamp::from_micros(due),
                attempts,
                revision,
                doubt: [Doubt::None, Doubt::Open, Doubt::Accepted][usize::from(doubt % 3)],
                notes: Notes::from(Noted { checkpoint: checkpoint.map(Bytes::from), ..Noted::default() }),
                body: Body::encode(&Post::new("p", payload)),
            },
        )
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            ".{0,9}".prop_map(|receipt| Outcome::Delivered(Receipt::new(receipt))),
            ".{0,9}".prop_map(|reason| Outcome::Failed { reason }),
            (0u64..u64::MAX >> 1).prop_map(|nanos| Outcome::Missed { by: Duration::from_nanos(nanos) }),
            Just(Outcome::Cancelled),
        ]
    }

    fn entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            record().prop_map(Entry::Post),
            (home(), any::<u32>()).prop_map(|(home, attempt)| Entry::Claim { home, attempt }),
            home().prop_map(|home| Entry::Release { home }),
            (home(), record()).prop_map(|(from, to)| Entry::Move { from, to }),
            (home(), 0u32..3, outcome()).prop_map(|(home, attempts, outcome)| Entry::Settle {
                home,
                attempts,
                outcome
            }),
            (any::<Vec<u8>>(), any::<Vec<u8>>())
                .prop_map(|(key, value)| Entry::Remember { key: key.into(), value: value.into() }),
        ]
    }

    proptest! {
        #[test]
        fn a_commit_comes_back(now: i64, next_seq: u64, entries in proptest::collection::vec(entry(), 0..20)) {
            let commit = Commit { now: Timestamp::from_micros(now), entries, next_seq: Seq(next_seq) };
            let bytes = Bytes::from(commit.encode());
            prop_assert_eq!(read_commit(&bytes), Some(commit));
            for len in 0..bytes.len() {
                prop_assert_eq!(read_commit(&bytes.slice(..len)), None);
            }
            let longer = [&bytes[..], b"x"].concat().into();
            prop_assert_eq!(read_commit(&longer), None);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read(bytes: Vec<u8>) {
            let _ = read_commit(&Bytes::from(bytes));
        }
    }

    #[test]
    fn the_outcomes_of_a_spike_take_a_few_bytes_each() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let homes = (0..1_000).map(|i| Home { pool: PoolId(3), at: now, seq: Seq(7_000 + i * 3) });
        let entries: Vec<_> = homes
            .map(|home| Entry::Settle { home, attempts: 1, outcome: Outcome::Delivered(Receipt::default()) })
            .collect();
        let bytes = Commit { now, entries, next_seq: Seq(9) }.encode();
        assert!(bytes.len() < 3_100, "{} bytes", bytes.len());
    }
}
