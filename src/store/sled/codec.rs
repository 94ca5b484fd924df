//! Bytes on disk: blocks sealed with a checksum, integers of variable length, and how records and outcomes are
//! written with them.
//!
//! ```text
//! block    crc32 u32 LE over (kind, key, all that follows) | version u8 | payload; at most 6,000 bytes
//! varint   7 bits a byte, lowest first, high bit set on all but the last
//! record   due - at zigzag | attempts varint | revision varint | flags u8 (1: open doubt, 2: accepted doubt, 4: notes)
//!          | if it has notes: their length varint, notes | body
//! outcome  0 receipt | 1 reason | 2 seconds varint, nanos varint | 3; texts have their length before them
//! ```

use std::time::Duration;

use bytes::Bytes;

use crate::id::{PoolId, Seq};
use crate::post::{Body, Doubt, Notes, Outcome, Receipt, Record};
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

/// Longest value that is given to sled: longer ones could end up in files that it never syncs.
pub const BLOCK_BYTES: usize = 6_000;
/// What a sealed block has before its payload.
pub const SEAL_BYTES: usize = 5;
/// Version of all that is in blocks.
const VERSION: u8 = 2;

const OPEN_DOUBT: u8 = 1;
const ACCEPTED_DOUBT: u8 = 2;
const HAS_NOTES: u8 = 4;

/// What a block belongs to. Part of its checksum, as its key is: a block in the wrong place is a damaged one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Journal = 1,
    Posts = 2,
    States = 3,
    Index = 4,
    Keys = 5,
    Meta = 6,
    Remembered = 7,
}

/// The block that holds this payload under this key.
pub fn seal(kind: Kind, key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(SEAL_BYTES + payload.len());
    block.extend_from_slice(&[0; 4]);
    block.push(VERSION);
    block.extend_from_slice(payload);
    let crc = checksum(kind, key, &block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
    block
}

/// The payload of a block, if the block is as it was sealed.
pub fn unseal<'a>(kind: Kind, key: &[u8], block: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, rest) = block.split_first_chunk::<4>()?;
    let (version, payload) = rest.split_first()?;
    let is_right = checksum(kind, key, rest) == u32::from_le_bytes(*crc) || sabotage::is(Switch::AnyCrc);
    (is_right && *version == VERSION).then_some(payload)
}

fn checksum(kind: Kind, key: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind as u8, key.len() as u8]);
    hasher.update(key);
    hasher.update(rest);
    hasher.finalize()
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63) as u64);
}

pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Bytes, with their length before them.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// `to` as its distance from `from`; any two instants have one.
pub fn put_step(out: &mut Vec<u8>, from: Timestamp, to: Timestamp) {
    put_zigzag(out, to.micros().wrapping_sub(from.micros()));
}

/// `to` as its distance from `from`.
pub fn put_seq_step(out: &mut Vec<u8>, from: Seq, to: Seq) {
    put_zigzag(out, to.0.wrapping_sub(from.0) as i64);
}

/// Reads what the functions above wrote; `None` where the bytes do not say such a thing.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// Starts at this byte.
    pub fn starting(bytes: &'a Bytes, at: usize) -> Self {
        Self { bytes, at }
    }

    /// How far it has read.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*array)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (i, byte) in self.bytes.get(self.at..)?.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.at += i + 1;
                return Some(value);
            }
        }
        None
    }

    pub fn zigzag(&mut self) -> Option<i64> {
        self.varint().map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A varint that fits.
    pub fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        self.varint().and_then(|value| T::try_from(value).ok())
    }

    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    /// What [`put_bytes`] wrote, shared with what is read from.
    pub fn bytes(&mut self) -> Option<Bytes> {
        let len = self.number()?;
        self.take(len)
    }

    /// This many bytes, shared with what is read from.
    pub fn take(&mut self, len: usize) -> Option<Bytes> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Some(taken)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.take(self.bytes.len().checked_sub(self.at)?)
    }

    pub fn skip(&mut self, len: usize) -> Option<()> {
        self.at = self.at.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        Some(())
    }

    pub fn step(&mut self, from: Timestamp) -> Option<Timestamp> {
        self.zigzag().map(|step| Timestamp::from_micros(from.micros().wrapping_add(step)))
    }

    pub fn seq_step(&mut self, from: Seq) -> Option<Seq> {
        self.zigzag().map(|step| Seq(from.0.wrapping_add(step as u64)))
    }
}

/// Everything of a record but its home and the bytes of its body, which come right after.
pub fn put_head(out: &mut Vec<u8>, record: &Record) {
    put_step(out, record.at, record.due);
    put_varint(out, record.attempts.into());
    put_varint(out, record.revision.into());
    let doubt = match record.doubt {
        Doubt::None => 0,
        Doubt::Open => OPEN_DOUBT,
        Doubt::Accepted => ACCEPTED_DOUBT,
    };
    if record.notes.is_empty() {
        out.push(doubt);
        return;
    }
    out.push(doubt | HAS_NOTES);
    put_bytes(out, &record.notes.encode());
}

/// Reads a head and the body after it: `len` bytes, or all that are left.
pub fn read_record(
    reader: &mut Reader<'_>,
    pool: PoolId,
    at: Timestamp,
    seq: Seq,
    len: Option<usize>,
) -> Option<Record> {
    let due = reader.step(at)?;
    let attempts = reader.number()?;
    let revision = reader.number()?;
    let flags = reader.u8()?;
    let doubt = match flags & !HAS_NOTES {
        0 => Doubt::None,
        OPEN_DOUBT => Doubt::Open,
        ACCEPTED_DOUBT => Doubt::Accepted,
        _ => return None,
    };
    let notes = if flags & HAS_NOTES == 0 { Notes::default() } else { Notes::decode(&reader.bytes()?)? };
    let body = match len {
        Some(len) => reader.take(len)?,
        None => reader.rest()?,
    };
    Some(Record { seq, pool, at, due, attempts, revision, doubt, notes, body: Body::decode(body)? })
}

pub fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Delivered(receipt) => {
            out.push(0);
            put_text(out, receipt.as_str());
        }
        Outcome::Failed { reason } => {
            out.push(1);
            put_text(out, reason);
        }
        Outcome::Missed { by } => {
            out.push(2);
            put_varint(out, by.as_secs());
            put_varint(out, by.subsec_nanos().into());
        }
        Outcome::Cancelled => out.push(3),
    }
}

pub fn read_outcome(reader: &mut Reader<'_>) -> Option<Outcome> {
    Some(match reader.u8()? {
        0 => Outcome::Delivered(Receipt::new(reader.text()?)),
        1 => Outcome::Failed { reason: reader.text()? },
        2 => {
            let (secs, nanos) = (reader.varint()?, reader.number()?);
            Outcome::Missed { by: Duration::from_secs(secs).checked_add(Duration::from_nanos(nanos))? }
        }
        3 => Outcome::Cancelled,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_flipped_bit_and_every_wrong_place_is_noticed() {
        let block = seal(Kind::Posts, b"key", b"some payload of a block");
        assert_eq!(unseal(Kind::Posts, b"key", &block), Some(&b"some payload of a block"[..]));
        assert_eq!(unseal(Kind::States, b"key", &block), None);
        assert_eq!(unseal(Kind::Posts, b"kez", &block), None);
        for bit in 0..block.len() * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(Kind::Posts, b"key", &flipped), None, "bit {bit}");
        }
        for len in 0..block.len() {
            assert_eq!(unseal(Kind::Posts, b"key", &block[..len]), None, "cut to {len}");
        }
    }

    #[test]
    fn nothing_is_read_or_passed_over_that_is_not_there() {
        let bytes = Bytes::from_static(b"abc");
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.skip(2), reader.position()), (Some(()), 2));
        assert_eq!((reader.skip(2), reader.skip(usize::MAX)), (None, None));
        assert_eq!(reader.skip(1), Some(()));
        assert!(reader.is_at_end());
    }

    proptest! {
        #[test]
        fn numbers_come_back(varint: u64, zigzag: i64, from: i64, to: i64, text: String) {
            let mut out = Vec::new();
            put_varint(&mut out, varint);
            put_zigzag(&mut out, zigzag);
            put_step(&mut out, Timestamp::from_micros(from), Timestamp::from_micros(to));
            put_text(&mut out, &text);
            let bytes = Bytes::from(out);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Some(varint));
            prop_assert_eq!(reader.zigzag(), Some(zigzag));
            prop_assert_eq!(reader.step(Timestamp::from_micros(from)), Some(Timestamp::from_micros(to)));
            prop_assert_eq!(reader.text(), Some(text));
            prop_assert!(reader.is_at_end());
            prop_assert_eq!(reader.u8(), None);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = read_outcome(&mut Reader::new(&bytes));
            let _ = read_record(&mut Reader::new(&bytes), PoolId(0), Timestamp::MIN, Seq(1), None);
        }
    }
}
