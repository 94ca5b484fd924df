//! Runs: sorted entries packed into blocks, one run for each day and generation, in groups that begin with a
//! block of their own.
//!
//! ```text
//! key    day u32 BE | kind u8 | generation u32 BE | block u32 BE
//! block  0 u8 | first at i64, seq u64 | count u16 | entries: at step, seq step zigzag, length varint, content
//!     or 1 u8 | at i64, seq u64 | part u32, parts u32 | part of the content of one long entry
//! ```

use ::sled::Tree;
use bytes::{Bytes, BytesMut};

use crate::error::StoreError;
use crate::id::Seq;
use crate::post::Cursor;
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::codec::{self, Kind, Reader};
use super::disk::{Blocks, Disk};

const HEADER_BYTES: usize = 1 + 16;
/// More than an entry has before its content.
const ENTRY_BYTES: usize = 10 + 10 + 5;

/// Where a run is.
#[derive(Clone, Debug)]
pub struct Run {
    pub tree: Tree,
    pub kind: Kind,
    pub day: u32,
    pub generation: u32,
}

impl Run {
    pub fn key(&self, block: u32) -> [u8; 13] {
        key(self.day, self.kind, self.generation, block)
    }

    fn block(&self, disk: &Disk, number: u32) -> Result<Block, StoreError> {
        let payload = disk.get(&self.tree, self.kind, &self.key(number))?;
        payload.and_then(Block::parse).ok_or_else(|| self.damaged(disk, number))
    }

    fn damaged(&self, disk: &Disk, block: u32) -> StoreError {
        let Self { kind, day, generation, .. } = self;
        disk.damaged(format!("block {block} of {kind:?} of day {day}, generation {generation}, is missing or wrong"))
    }

    /// The first block of `first..end` that can hold an entry after `after`.
    fn locate(&self, disk: &Disk, first: u32, end: u32, after: Cursor) -> Result<u32, StoreError> {
        let (mut low, mut high) = (first, end);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.block(disk, middle)?.first <= after {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        // The block before may end after `after`, unless it is of one entry.
        if low == first {
            return Ok(low);
        }
        match self.block(disk, low - 1)?.shape {
            Shape::Entries { .. } => Ok(low - 1),
            Shape::Part { .. } => Ok(low),
        }
    }
}

/// The generation of the run that has a block under this key.
pub fn generation(key: &[u8]) -> Option<u32> {
    key.get(5..9)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn key(day: u32, kind: Kind, generation: u32, block: u32) -> [u8; 13] {
    let mut key = [0; 13];
    key[..4].copy_from_slice(&day.to_be_bytes());
    key[4] = kind as u8;
    key[5..9].copy_from_slice(&generation.to_be_bytes());
    key[9..].copy_from_slice(&block.to_be_bytes());
    key
}

#[derive(Clone, Debug)]
pub enum Shape {
    Entries { count: u16 },
    Part { part: u32, parts: u32 },
}

#[derive(Clone, Debug)]
pub struct Block {
    pub first: Cursor,
    pub shape: Shape,
    pub payload: Bytes,
    /// Where the entries, or the part, begin.
    pub start: usize,
}

impl Block {
    pub fn parse(payload: Bytes) -> Option<Self> {
        let mut reader = Reader::new(&payload);
        let shape = reader.u8()?;
        let first = Cursor { at: Timestamp::from_micros(reader.i64()?), seq: Seq(reader.u64()?) };
        let shape = match shape {
            0 => Shape::Entries { count: reader.u16()? },
            1 => Shape::Part { part: reader.u32()?, parts: reader.u32()? },
            _ => return None,
        };
        let start = reader.position();
        Some(Self { first, shape, payload, start })
    }
}

/// An entry within a block, and where its content is.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub at: Cursor,
    pub start: usize,
    pub len: usize,
}

impl Piece {
    /// The one that begins here; `last` is where the one before it is.
    pub fn read(payload: &Bytes, position: usize, last: Cursor) -> Option<Self> {
        let mut reader = Reader::starting(payload, position);
        let at = Cursor { at: reader.step(last.at)?, seq: reader.seq_step(last.seq)? };
        let len = reader.number()?;
        let start = reader.position();
        reader.skip(len)?;
        Some(Self { at, start, len })
    }
}

/// Writes one run.
#[derive(Debug)]
pub struct RunWriter<'a> {
    day: u32,
    kind: Kind,
    generation: u32,
    block_bytes: usize,
    blocks: Blocks<'a>,
    payload: Vec<u8>,
    count: u16,
    last: Cursor,
    next: u32,
}

impl<'a> RunWriter<'a> {
    pub fn new(disk: &'a Disk, run: Run, block_bytes: usize) -> Self {
        let Run { tree, kind, day, generation } = run;
        let blocks = Blocks::fresh(disk, tree, kind);
        let payload = Vec::with_capacity(block_bytes);
        Self { day, kind, generation, block_bytes, blocks, payload, count: 0, last: Cursor::START, next: 0 }
    }

    /// Adds an entry, whose content is given in two pieces; the number of the block in which it begins.
    pub fn push(&mut self, at: Cursor, head: &[u8], body: &[u8]) -> Result<u32, StoreError> {
        let len = head.len() + body.len();
        let room = self.block_bytes - codec::SEAL_BYTES - HEADER_BYTES - 2;
        if ENTRY_BYTES + len > room {
            return self.push_long(at, [head, body].concat());
        }
        if self.count > 0 && self.payload.len() + ENTRY_BYTES + len > room + HEADER_BYTES + 2 || self.count == u16::MAX
        {
            self.end_group()?;
        }
        if self.count == 0 {
            self.put_header(0, at);
            self.payload.extend_from_slice(&[0; 2]);
            self.last = at;
        }
        codec::put_step(&mut self.payload, self.last.at, at.at);
        codec::put_seq_step(&mut self.payload, self.last.seq, at.seq);
        codec::put_varint(&mut self.payload, len as u64);
        self.payload.extend_from_slice(head);
        self.payload.extend_from_slice(body);
        self.count += 1;
        self.last = at;
        Ok(self.next)
    }

    fn push_long(&mut self, at: Cursor, content: Vec<u8>) -> Result<u32, StoreError> {
        self.end_group()?;
        let first = self.next;
        let room = self.block_bytes - codec::SEAL_BYTES - HEADER_BYTES - 8;
        let parts = content.len().div_ceil(room) as u32;
        for (part, piece) in content.chunks(room).enumerate() {
            self.put_header(1, at);
            self.payload.extend_from_slice(&(part as u32).to_le_bytes());
            self.payload.extend_from_slice(&parts.to_le_bytes());
            self.payload.extend_from_slice(piece);
            self.emit()?;
        }
        Ok(first)
    }

    fn put_header(&mut self, shape: u8, first: Cursor) {
        self.payload.push(shape);
        self.payload.extend_from_slice(&first.at.micros().to_le_bytes());
        self.payload.extend_from_slice(&first.seq.0.to_le_bytes());
    }

    fn emit(&mut self) -> Result<(), StoreError> {
        self.blocks.put(&key(self.day, self.kind, self.generation, self.next), &self.payload)?;
        self.payload.clear();
        self.count = 0;
        self.next += 1;
        Ok(())
    }

    /// The next entry begins a new block; the number of blocks so far.
    pub fn end_group(&mut self) -> Result<u32, StoreError> {
        if self.count > 0 {
            self.payload[HEADER_BYTES..HEADER_BYTES + 2].copy_from_slice(&self.count.to_le_bytes());
            self.emit()?;
        }
        Ok(self.next)
    }

    /// Writes what is left; the number of blocks of the run.
    pub fn finish(mut self) -> Result<u32, StoreError> {
        let blocks = self.end_group()?;
        self.blocks.write()?;
        Ok(blocks)
    }
}

/// The content of an entry: a piece of a block, or whole blocks.
#[derive(Clone, Debug)]
enum Content {
    Inside { start: usize, len: usize },
    Blocks { first: u32, parts: u32 },
}

/// Reads entries one after another.
#[derive(Debug)]
pub struct RunReader {
    run: Run,
    /// The next block to read, and the end of the group.
    next: u32,
    end: u32,
    payload: Bytes,
    position: usize,
    left: u16,
    last: Cursor,
    content: Content,
}

impl RunReader {
    /// A reader that stands before block `next` of a group that ends before `end`.
    pub fn new(run: Run, next: u32, end: u32) -> Self {
        // Nothing has been read: reading goes on where it begins.
        let content = Content::Blocks { first: next, parts: 0 };
        Self { run, next, end, payload: Bytes::new(), position: 0, left: 0, last: Cursor::START, content }
    }

    /// A reader of the group `first..end` that stands before the first block that can hold an entry after `after`.
    pub fn after(disk: &Disk, run: Run, first: u32, end: u32, after: Cursor) -> Result<Self, StoreError> {
        let next = run.locate(disk, first, end, after)?;
        Ok(Self::new(run, next, end))
    }

    pub fn generation(&self) -> u32 {
        self.run.generation
    }

    /// The block of the entry that was read last; reading can go on from there.
    pub fn block(&self) -> u32 {
        match self.content {
            Content::Inside { .. } => self.next.saturating_sub(1),
            Content::Blocks { first, .. } => first,
        }
    }

    /// Reads on: where the next entry is, or `None` at the end of the group.
    pub fn advance(&mut self, disk: &Disk) -> Result<Option<Cursor>, StoreError> {
        while self.left == 0 {
            if self.next >= self.end {
                return Ok(None);
            }
            let number = self.next;
            let Block { first, shape, payload, start } = self.run.block(disk, number)?;
            match shape {
                Shape::Entries { count } => {
                    let count = count - u16::from(sabotage::is(Switch::LoseLastRecord));
                    (self.payload, self.position, self.left, self.last) = (payload, start, count, first);
                    self.next += 1;
                }
                Shape::Part { part: 0, parts } if parts > 0 && parts <= self.end - number => {
                    self.next += parts;
                    self.content = Content::Blocks { first: number, parts };
                    return Ok(Some(first));
                }
                Shape::Part { .. } => return Err(self.run.damaged(disk, number)),
            }
        }
        self.left -= 1;
        match self.read_entry() {
            Some(at) => Ok(Some(at)),
            None => Err(self.run.damaged(disk, self.next - 1)),
        }
    }

    fn read_entry(&mut self) -> Option<Cursor> {
        let Piece { at, start, len } = Piece::read(&self.payload, self.position, self.last)?;
        (self.position, self.last, self.content) = (start + len, at, Content::Inside { start, len });
        Some(at)
    }

    /// The content of the entry that was read last.
    pub fn content(&self, disk: &Disk) -> Result<Bytes, StoreError> {
        let (first, parts) = match self.content {
            Content::Inside { start, len } => return Ok(self.payload.slice(start..start + len)),
            Content::Blocks { first, parts } => (first, parts),
        };
        let mut content = BytesMut::new();
        for wanted in 0..parts {
            let block = self.run.block(disk, first + wanted)?;
            match block.shape {
                Shape::Part { part, parts: of } if (part, of) == (wanted, parts) => {
                    content.extend_from_slice(block.payload.get(block.start..).unwrap_or_default());
                }
                _ => return Err(self.run.damaged(disk, first + wanted)),
            }
        }
        Ok(content.freeze())
    }

    pub fn damaged(&self, disk: &Disk) -> StoreError {
        self.run.damaged(disk, self.block())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK_BYTES: usize = 300;
    /// The longest content that lies beside others, by how much it and the header take.
    const LONGEST: usize = BLOCK_BYTES - codec::SEAL_BYTES - HEADER_BYTES - 2 - ENTRY_BYTES;

    fn run(disk: &Disk) -> Run {
        Run { tree: disk.tree("far").unwrap(), kind: Kind::Posts, day: 7, generation: 3 }
    }

    fn at(number: usize) -> Cursor {
        Cursor { at: Timestamp::from_micros(number as i64 * 1_000_000_007), seq: Seq((number as u64).reverse_bits()) }
    }

    fn content(number: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| (number + i * i / 7) as u8).collect()
    }

    /// Everything of a group that is read after a cursor.
    fn read(disk: &Disk, first: u32, end: u32, after: Cursor) -> Result<Vec<(Cursor, Bytes)>, StoreError> {
        let mut reader = RunReader::after(disk, run(disk), first, end, after)?;
        let mut seen = Vec::new();
        while let Some(at) = reader.advance(disk)? {
            seen.push((at, reader.content(disk)?));
        }
        Ok(seen)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_run_comes_back_in_blocks_that_are_full_and_not_too_long(
            lens in proptest::collection::vec(
                prop_oneof![6 => 0usize..40, 3 => 0..2 * BLOCK_BYTES, 1 => LONGEST - 1..=LONGEST + 1, 1 => 0..9 * BLOCK_BYTES],
                1..60,
            ),
            from in 0usize..60,
        ) {
            let (_folder, disk) = Disk::scratch();
            let mut writer = RunWriter::new(&disk, run(&disk), BLOCK_BYTES);
            let entries: Vec<_> = lens.iter().enumerate().map(|(i, len)| (at(i), Bytes::from(content(i, *len)))).collect();
            for (i, (at, content)) in entries.iter().enumerate() {
                let (head, body) = content.split_at(i % (content.len() + 1));
                writer.push(*at, head, body).unwrap();
            }
            let end = writer.finish().unwrap();
            prop_assert_eq!(&read(&disk, 0, end, Cursor::START).unwrap(), &entries);
            // From the middle: nothing that comes after is left out, and no more is read again than the entries of a block.
            let from = from.min(entries.len() - 1);
            let late = read(&disk, 0, end, entries[from].0).unwrap();
            prop_assert!(late.ends_with(&entries[from + 1..]));
            let again = &late[..late.len() - (entries.len() - from - 1)];
            let bytes: usize = again.iter().map(|(_, content)| content.len()).sum();
            prop_assert!(again.len() <= 1 || bytes <= BLOCK_BYTES, "{} entries of {bytes} bytes are read again", again.len());
            // No block is too long, and no two neighbours would go in one.
            let blocks: Vec<Block> = (0..end).map(|number| run(&disk).block(&disk, number).unwrap()).collect();
            prop_assert!(blocks.iter().all(|block| block.payload.len() + codec::SEAL_BYTES <= BLOCK_BYTES));
            for pair in blocks.windows(2) {
                let both: usize = pair.iter().map(|block| block.payload.len() - HEADER_BYTES - 2).sum();
                if pair.iter().all(|block| matches!(block.shape, Shape::Entries { .. })) {
                    let room = BLOCK_BYTES - codec::SEAL_BYTES - HEADER_BYTES - 2;
                    prop_assert!(both + ENTRY_BYTES > room, "{both} bytes in two blocks");
                }
                if let (Shape::Part { part, parts }, Shape::Part { part: next, .. }) = (&pair[0].shape, &pair[1].shape) {
                    let is_full = pair[0].payload.len() + codec::SEAL_BYTES == BLOCK_BYTES;
                    prop_assert!(*next == 0 || is_full, "part {part} of {parts} has room");
                }
            }
        }
    }

    #[test]
    fn a_block_that_says_it_has_more_entries_than_it_has_is_named() {
        let (_folder, disk) = Disk::scratch();
        let mut payload = vec![0];
        payload.extend_from_slice(&at(1).at.micros().to_le_bytes());
        payload.extend_from_slice(&at(1).seq.0.to_le_bytes());
        payload.extend_from_slice(&2_u16.to_le_bytes());
        // One entry without content, where the block says that it begins.
        payload.extend_from_slice(&[0, 0, 0]);
        let mut blocks = Blocks::new(&disk, run(&disk).tree, Kind::Posts);
        blocks.put(&run(&disk).key(4), &payload).unwrap();
        blocks.write().unwrap();
        let mut reader = RunReader::after(&disk, run(&disk), 4, 5, Cursor::START).unwrap();
        assert_eq!(reader.advance(&disk).unwrap(), Some(at(1)));
        let error = reader.advance(&disk).unwrap_err().to_string();
        assert!(error.contains("block 4 of Posts of day 7, generation 3"), "{error}");
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let (_folder, disk) = Disk::scratch();
        let put = |number: u32, part: u32, parts: u32| {
            let mut payload = vec![1];
            payload.extend_from_slice(&at(1).at.micros().to_le_bytes());
            payload.extend_from_slice(&at(1).seq.0.to_le_bytes());
            payload.extend_from_slice(&part.to_le_bytes());
            payload.extend_from_slice(&parts.to_le_bytes());
            payload.push(number as u8);
            let mut blocks = Blocks::new(&disk, run(&disk).tree, Kind::Posts);
            blocks.put(&run(&disk).key(number), &payload).unwrap();
            blocks.write().unwrap();
        };
        let read = |end: u32| read(&disk, 4, end, Cursor::START);
        (0..3).for_each(|part| put(4 + part, part, 3));
        assert_eq!(read(7).unwrap(), [(at(1), Bytes::from_static(&[4, 5, 6]))]);
        for (part, parts) in [(2, 3), (1, 4), (0, 3)] {
            put(5, part, parts);
            let error = read(7).unwrap_err().to_string();
            assert!(error.contains("block 5 of Posts of day 7, generation 3"), "{error}");
        }
        put(5, 1, 3);
        assert!(read(6).is_err(), "the last part belongs to another group");
        put(4, 0, 0);
        assert!(read(7).is_err(), "no parts at all");
    }
}
