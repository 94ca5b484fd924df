//! Which generations have been sorted, what they hold of each day, and what has been forgotten.
//!
//! ```text
//! tree meta
//!   t                          commit u64 | generation u32 | now i64 | next seq u64 | tables u32
//!                              | runs of what is remembered: (generation u32, blocks u32)*:
//!                              everything up to here is sorted, into so many tables and these runs
//!   g, generation BE, part BE  length u32 of the table | part of the table
//!   x, day BE                  generation u32: what it and older ones held of the day is forgotten
//!   p, pool BE                 name
//! ```

use std::collections::{BTreeMap, BTreeSet};

use ::sled::{Batch, Tree};
use bytes::{Bytes, BytesMut};

use crate::error::StoreError;
use crate::id::{PoolId, Seq};
use crate::time::Timestamp;

use super::codec::{self, Kind, Reader, SEAL_BYTES};
use super::disk::Disk;
use super::memtable::Tallies;
use super::remembered::Span;

/// What a run of posts holds of one pool, and how many of the pool's posts ended or left in this generation.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Group {
    pub pool: u16,
    pub first: u32,
    pub end: u32,
    pub posts: u64,
    pub gone: u64,
}

/// What a generation holds of one day.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DayTable {
    /// The part of the day in which it is; 0 if it is among the far days.
    pub part: u16,
    /// Blocks of its state run.
    pub states: u32,
    /// When a post last ended or left.
    pub ended: Option<Timestamp>,
    pub groups: Vec<Group>,
}

impl DayTable {
    /// Blocks of both runs.
    pub fn blocks(&self) -> u64 {
        self.groups.iter().map(|group| u64::from(group.end - group.first)).sum::<u64>() + u64::from(self.states)
    }
}

/// What a generation holds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Table {
    pub generation: u32,
    /// Blocks of keys, and keys in them.
    pub key_blocks: u32,
    pub keys: u64,
    /// The blocks of the index in which it has entries; needed only to forget them.
    pub index: Vec<u64>,
    pub days: BTreeMap<u32, DayTable>,
}

impl Table {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let numbers = [self.key_blocks.into(), self.keys, self.index.len() as u64];
        numbers.into_iter().for_each(|number| codec::put_varint(&mut out, number));
        let mut last = 0;
        for block in &self.index {
            codec::put_varint(&mut out, block.wrapping_sub(last));
            last = *block;
        }
        codec::put_varint(&mut out, self.days.len() as u64);
        for (day, DayTable { part, states, ended, groups }) in &self.days {
            codec::put_varint(&mut out, (*day).into());
            codec::put_varint(&mut out, (*part).into());
            out.push(ended.is_some().into());
            codec::put_varint(&mut out, (*states).into());
            codec::put_zigzag(&mut out, ended.map_or(0, Timestamp::micros));
            codec::put_varint(&mut out, groups.len() as u64);
            for Group { pool, first, end, posts, gone } in groups {
                for number in [u64::from(*pool), u64::from(*first), u64::from(*end), *posts, *gone] {
                    codec::put_varint(&mut out, number);
                }
            }
        }
        out
    }

    pub fn decode(generation: u32, bytes: &Bytes) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (key_blocks, keys) = (reader.number::<u32>()?, reader.varint()?);
        // Memory is taken for so many.
        if keys > u64::from(key_blocks) * (codec::BLOCK_BYTES / 16) as u64 {
            return None;
        }
        let mut index = Vec::new();
        for _ in 0..reader.varint()? {
            let last = index.last().copied().unwrap_or(0_u64);
            index.push(last.wrapping_add(reader.varint()?));
        }
        let mut days = BTreeMap::new();
        for _ in 0..reader.varint()? {
            let day = reader.number()?;
            let (part, has_ended) = (reader.number()?, reader.u8()? != 0);
            let (states, ended) = (reader.number()?, reader.zigzag()?);
            let ended = has_ended.then_some(Timestamp::from_micros(ended));
            let mut groups = Vec::new();
            for _ in 0..reader.varint()? {
                let (pool, first, end) = (reader.number()?, reader.number()?, reader.number()?);
                let (posts, gone) = (reader.varint()?, reader.varint()?);
                groups.push(Some(Group { pool, first, end, posts, gone }).filter(|group| group.first <= group.end)?);
            }
            days.insert(day, DayTable { part, states, ended, groups });
        }
        reader.is_at_end().then_some(Self { generation, key_blocks, keys, index, days })
    }
}

/// Everything up to this commit, the last one of this generation, is sorted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Through {
    pub commit: u64,
    pub generation: u32,
    pub now: Timestamp,
    pub next_seq: Seq,
}

impl Through {
    /// Nothing has been sorted.
    pub const NOTHING: Self = Self { commit: 0, generation: 0, now: Timestamp::MIN, next_seq: Seq(1) };

    fn seal(&self, tables: u32, remembered: &[Span]) -> Vec<u8> {
        let Self { commit, generation, now, next_seq } = self;
        let mut payload = commit.to_le_bytes().to_vec();
        payload.extend_from_slice(&generation.to_le_bytes());
        payload.extend_from_slice(&now.micros().to_le_bytes());
        payload.extend_from_slice(&next_seq.0.to_le_bytes());
        payload.extend_from_slice(&tables.to_le_bytes());
        for Span { generation, blocks } in remembered {
            payload.extend_from_slice(&generation.to_le_bytes());
            payload.extend_from_slice(&blocks.to_le_bytes());
        }
        codec::seal(Kind::Meta, b"t", &payload)
    }
}

/// The tree `meta`.
#[derive(Clone, Debug)]
pub struct Meta {
    tree: Tree,
}

/// What is sorted.
#[derive(Debug)]
pub struct Sorted {
    pub through: Through,
    /// What each generation holds.
    pub tables: Vec<Table>,
    /// Up to which generation each of these days is forgotten.
    pub forgotten: BTreeMap<u32, u32>,
    /// The runs of what is remembered.
    pub remembered: Vec<Span>,
}

impl Meta {
    pub fn open(disk: &Disk) -> Result<Self, StoreError> {
        Ok(Self { tree: disk.tree("meta")? })
    }

    /// Up to where everything is sorted, the number of tables, and the runs of what is remembered.
    fn through(&self, disk: &Disk) -> Result<(Through, u32, Vec<Span>), StoreError> {
        let Some(payload) = disk.get(&self.tree, Kind::Meta, b"t")? else {
            return Ok((Through::NOTHING, 0, Vec::new()));
        };
        let mut reader = Reader::new(&payload);
        let parts = (reader.u64(), reader.u32(), reader.i64(), reader.u64(), reader.u32());
        let (Some(commit), Some(generation), Some(now), Some(next_seq), Some(tables)) = parts else {
            return Err(disk.damaged("the record of what is sorted"));
        };
        let through = Through { commit, generation, now: Timestamp::from_micros(now), next_seq: Seq(next_seq) };
        let mut remembered = Vec::new();
        while let (Some(generation), Some(blocks)) = (reader.u32(), reader.u32()) {
            remembered.push(Span { generation, blocks });
        }
        Ok((through, tables, remembered))
    }

    /// The runs of what is remembered.
    pub fn remembered(&self, disk: &Disk) -> Result<Vec<Span>, StoreError> {
        self.through(disk).map(|(_, _, remembered)| remembered)
    }

    /// Makes a generation a sorted one, in one step.
    pub fn add(
        &self,
        disk: &Disk,
        table: &Table,
        through: Through,
        remembered: &[Span],
        block_bytes: usize,
    ) -> Result<(), StoreError> {
        let (_, tables, _) = self.through(disk)?;
        let mut batch = Batch::default();
        let bytes = table.encode();
        for (part, piece) in bytes.chunks(block_bytes - SEAL_BYTES - 4).enumerate() {
            let payload = [&(bytes.len() as u32).to_le_bytes()[..], piece].concat();
            let key = table_key(table.generation, part as u16);
            batch.insert(&key, codec::seal(Kind::Meta, &key, &payload));
        }
        batch.insert(b"t", through.seal(tables + 1, remembered));
        disk.apply(&self.tree, batch)
    }

    /// Everything that is sorted; checked to be all.
    pub fn sorted(&self, disk: &Disk) -> Result<Sorted, StoreError> {
        let (through, expected, remembered) = self.through(disk)?;
        let (tables, forgotten) = self.tables(disk)?;
        let is_new = tables.last().is_some_and(|last| last.generation > through.generation);
        if is_new || tables.len() as u64 != u64::from(expected) {
            return Err(disk.damaged(format!("{} generations are sorted, but {expected} should be", tables.len())));
        }
        Ok(Sorted { through, tables, forgotten, remembered })
    }

    /// All tables, with what is forgotten left out of them; the forgotten days.
    pub fn tables(&self, disk: &Disk) -> Result<(Vec<Table>, BTreeMap<u32, u32>), StoreError> {
        let mut forgotten = BTreeMap::new();
        for item in disk.range(&self.tree, Kind::Meta, b"x".to_vec()..b"y".to_vec()) {
            let (key, payload) = item?;
            let day = key.get(1..).and_then(|day| day.try_into().ok()).map(u32::from_be_bytes);
            let (Some(day), Some(generation)) = (day, Reader::new(&payload).u32()) else {
                return Err(disk.damaged("the record of a forgotten day"));
            };
            forgotten.insert(day, generation);
        }
        let mut parts = BTreeMap::<u32, (usize, BytesMut)>::new();
        for item in disk.range(&self.tree, Kind::Meta, b"g".to_vec()..b"h".to_vec()) {
            let (key, payload) = item?;
            let generation = key.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            let mut reader = Reader::new(&payload);
            let (Some(generation), Some(len), Some(piece)) = (generation, reader.u32(), reader.rest()) else {
                return Err(disk.damaged("the table of a generation"));
            };
            let (whole, bytes) = parts.entry(generation).or_default();
            *whole = len as usize;
            bytes.extend_from_slice(&piece);
        }
        let mut tables = Vec::with_capacity(parts.len());
        for (generation, (len, bytes)) in parts {
            let table = Table::decode(generation, &bytes.freeze()).filter(|table| table.encode().len() == len);
            let mut table = table.ok_or_else(|| disk.damaged(format!("the table of generation {generation}")))?;
            table.days.retain(|day, _| forgotten.get(day).is_none_or(|through| *through < generation));
            tables.push(table);
        }
        Ok((tables, forgotten))
    }

    /// Notes that of each of these days everything up to a generation is forgotten.
    pub fn forget_days(&self, disk: &Disk, days: &[(u32, u32)]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (day, through) in days {
            let key = day_key(*day);
            batch.insert(&key, codec::seal(Kind::Meta, &key, &through.to_le_bytes()));
        }
        disk.apply(&self.tree, batch)
    }

    /// Removes what is kept about a generation of which nothing is left.
    pub fn remove_table(&self, disk: &Disk, generation: u32) -> Result<(), StoreError> {
        let (through, tables, remembered) = self.through(disk)?;
        let mut batch = Batch::default();
        batch.insert(b"t", through.seal(tables.saturating_sub(1), &remembered));
        for item in disk.range(&self.tree, Kind::Meta, table_key(generation, 0).to_vec()..) {
            let (key, _) = item?;
            if key.get(..5) != table_key(generation, 0).get(..5) {
                break;
            }
            batch.remove(key);
        }
        disk.apply(&self.tree, batch)
    }

    /// Removes the note that a day is forgotten: no generation is left that held something of it.
    pub fn remove_forgotten(&self, disk: &Disk, days: Vec<u32>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        days.into_iter().for_each(|day| batch.remove(&day_key(day)));
        disk.apply(&self.tree, batch)
    }

    pub fn pools(&self, disk: &Disk) -> Result<Vec<String>, StoreError> {
        let mut pools = Vec::new();
        for item in disk.range(&self.tree, Kind::Meta, b"p".to_vec()..b"q".to_vec()) {
            let (key, payload) = item?;
            let name = String::from_utf8(payload.to_vec()).ok();
            let name = name.filter(|_| *key == pool_key(pools.len() as u16));
            pools.push(name.ok_or_else(|| disk.damaged("the names of the pools"))?);
        }
        Ok(pools)
    }

    pub fn add_pool(&self, disk: &Disk, id: PoolId, name: &str) -> Result<(), StoreError> {
        let key = pool_key(id.0);
        let mut batch = Batch::default();
        batch.insert(&key, codec::seal(Kind::Meta, &key, name.as_bytes()));
        disk.apply(&self.tree, batch)
    }
}

fn table_key(generation: u32, part: u16) -> [u8; 7] {
    let [a, b, c, d] = generation.to_be_bytes();
    let [e, f] = part.to_be_bytes();
    [b'g', a, b, c, d, e, f]
}

fn day_key(day: u32) -> [u8; 5] {
    let [a, b, c, d] = day.to_be_bytes();
    [b'x', a, b, c, d]
}

fn pool_key(pool: u16) -> [u8; 3] {
    let [a, b] = pool.to_be_bytes();
    [b'p', a, b]
}

/// The sorted generations, by day.
#[derive(Debug, Default)]
pub struct Catalog {
    days: BTreeMap<u32, BTreeMap<u32, DayTable>>,
    /// How many days each generation has.
    spans: BTreeMap<u32, usize>,
}

impl Catalog {
    /// Takes in a table, without counting what is in it.
    pub fn add(&mut self, table: Table) {
        self.spans.insert(table.generation, table.days.len());
        for (day, held) in table.days {
            self.days.entry(day).or_default().insert(table.generation, held);
        }
    }

    /// What generations hold of this day, oldest first.
    pub fn of_day(&self, day: u32) -> impl DoubleEndedIterator<Item = (u32, &DayTable)> {
        self.days.get(&day).into_iter().flatten().map(|(generation, held)| (*generation, held))
    }

    pub fn get(&self, day: u32, generation: u32) -> Option<&DayTable> {
        self.days.get(&day)?.get(&generation)
    }

    /// Blocks of all runs of this day.
    pub fn blocks(&self, day: u32) -> u64 {
        self.of_day(day).map(|(_, held)| held.blocks()).sum()
    }

    /// Forgets a day: the last generation that held something of it.
    pub fn forget(&mut self, day: u32) -> Option<u32> {
        let generations = self.days.remove(&day)?;
        for generation in generations.keys() {
            if let Some(days) = self.spans.get_mut(generation) {
                *days -= 1;
            }
        }
        generations.into_keys().next_back()
    }

    /// Lets go of the generations of which nothing is left.
    pub fn remove_gone(&mut self) -> Vec<u32> {
        self.spans.extract_if(.., |_, days| *days == 0).map(|(generation, _)| generation).collect()
    }
}

/// Counts what the tables hold: first all that came, then all that went. False if more went than came.
pub fn count(tables: &[Table], tallies: &mut Tallies) -> bool {
    let groups = || {
        let days = tables.iter().flat_map(|table| &table.days);
        days.flat_map(|(day, held)| held.groups.iter().map(move |group| (*day, group)))
    };
    groups().for_each(|(day, group)| tallies.add(PoolId(group.pool), day, group.posts));
    for (day, held) in tables.iter().flat_map(|table| &table.days) {
        held.ended.into_iter().for_each(|ended| tallies.ended_at(*day, ended));
    }
    groups().all(|(day, group)| tallies.subtract(PoolId(group.pool), day, group.gone))
}

/// The days of which generations hold something.
pub fn days(tables: &[Table]) -> BTreeSet<u32> {
    tables.iter().flat_map(|table| table.days.keys().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_cannot_be_true_is_refused() {
        let group = Group { pool: 1, first: 2, end: 9, posts: 300, gone: 4 };
        let held = DayTable { part: 1, states: 3, ended: None, groups: vec![group.clone()] };
        let table = Table { generation: 3, key_blocks: 4, keys: 500, index: vec![9], days: [(20_000, held)].into() };
        let is_read = |table: &Table| Table::decode(3, &table.encode().into()).as_ref() == Some(table);
        assert!(is_read(&table));
        let mut backwards = table.clone();
        backwards.days.values_mut().for_each(|held| held.groups = vec![Group { end: 1, ..group.clone() }]);
        assert!(!is_read(&backwards), "blocks that end before they begin");
        let most = 4 * codec::BLOCK_BYTES as u64 / 16;
        assert!(is_read(&Table { keys: most, ..table.clone() }));
        assert!(!is_read(&Table { keys: most + 1, ..table }), "more keys than the blocks can hold");
    }

    #[test]
    fn the_blocks_of_a_day_are_those_of_all_generations_and_runs() {
        let group = |first, end| Group { pool: 1, first, end, posts: 300, gone: 4 };
        let held = |states, groups| DayTable { part: 1, states, ended: None, groups };
        let days = [(7, held(3, vec![group(0, 2), group(2, 9)])), (8, held(1, Vec::new()))].into();
        let mut catalog = Catalog::default();
        catalog.add(Table { generation: 1, days, ..Table::default() });
        catalog.add(Table { generation: 2, days: [(7, held(0, vec![group(5, 6)]))].into(), ..Table::default() });
        assert_eq!([6, 7, 8].map(|day| catalog.blocks(day)), [0, 9 + 3 + 1, 1]);
    }

    #[test]
    fn a_generation_is_gone_with_the_last_of_its_days() {
        let mut catalog = Catalog::default();
        for (generation, days) in [(1, vec![7]), (2, vec![7, 8]), (3, vec![8])] {
            let days = days.into_iter().map(|day| (day, DayTable::default())).collect();
            catalog.add(Table { generation, days, ..Table::default() });
        }
        assert_eq!((catalog.forget(6), catalog.remove_gone()), (None, vec![]));
        assert_eq!((catalog.forget(7), catalog.remove_gone()), (Some(2), vec![1]));
        assert_eq!((catalog.forget(8), catalog.remove_gone()), (Some(3), vec![2, 3]));
        assert_eq!(catalog.remove_gone(), vec![]);
    }

    #[test]
    fn a_large_table_lies_in_full_blocks_and_none_is_larger() {
        let (_folder, disk) = Disk::scratch();
        let meta = Meta::open(&disk).unwrap();
        let days = (0..300).map(|day| (20_000 + day, DayTable { part: 1, ..DayTable::default() })).collect();
        let table = Table { generation: 1, days, ..Table::default() };
        let through = Through { commit: 1, generation: 1, now: Timestamp::MIN, next_seq: Seq(1) };
        meta.add(&disk, &table, through, &[], 300).unwrap();
        let blocks: Vec<_> =
            meta.tree.scan_prefix(&table_key(1, 0)[..5]).values().map(|block| block.unwrap().len()).collect();
        let (last, full) = blocks.split_last().unwrap();
        assert!(full.len() > 5 && full.iter().all(|len| *len == 300) && *last <= 300, "{blocks:?}");
        assert_eq!(meta.sorted(&disk).unwrap().tables, [table]);
    }
}
