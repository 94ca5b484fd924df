//! Every decoder of the store, given bytes that nobody wrote: it refuses them, or what it reads comes back when it is
//! written. For the tests and for fuzzing.

// A broken rule is a panic here.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;

use crate::id::{PoolId, Seq, SeqMap};
use crate::time::Timestamp;

use super::catalog::{self, DayTable, Table};
use super::codec::{self, Kind, Reader};
use super::files::{self, Witness};
use super::memtable::Tallies;
use super::run::{Block, Piece, Shape};
use super::state::{self, StateEntry};
use super::{calls, journal, remembered, run};

pub const KINDS: [Kind; 7] =
    [Kind::Journal, Kind::Posts, Kind::States, Kind::Index, Kind::Keys, Kind::Meta, Kind::Remembered];

/// What reads bytes from disk.
pub const DECODERS: [fn(&Bytes); 10] =
    [sealed, record, outcome, commit, block, state_entry, table, remembered_entry, call_log, files];

/// A block is what was sealed, and any one byte of it that is another makes it a damaged one.
fn sealed(bytes: &Bytes) {
    let _ = change_block(Unstructured::new(bytes));
}

fn change_block(mut input: Unstructured<'_>) -> Result<()> {
    let kind = *input.choose(&KINDS)?;
    let (other, at, by): (usize, usize, u8) = input.arbitrary()?;
    let key: [u8; 13] = input.arbitrary()?;
    let key = &key[..other % 14];
    let payload = input.take_rest();
    let _ = codec::unseal(kind, key, payload);
    let mut block = codec::seal(kind, key, payload);
    assert_eq!(codec::unseal(kind, key, &block), Some(payload));
    let other = KINDS[other % KINDS.len()];
    assert_eq!(codec::unseal(other, key, &block).is_some(), other == kind, "the place of another");
    let at = at % block.len();
    block[at] ^= by;
    assert_eq!(codec::unseal(kind, key, &block).is_some(), by == 0, "byte {at} is another");
    Ok(())
}

fn record(bytes: &Bytes) {
    let mut reader = Reader::new(bytes);
    let Some(at) = reader.i64() else { return };
    let read = |reader: &mut Reader<'_>| {
        codec::read_record(reader, PoolId(7), Timestamp::from_micros(at), Seq(at as u64), None)
    };
    let Some(record) = read(&mut reader) else { return };
    assert!(reader.is_at_end());
    let mut out = Vec::new();
    codec::put_head(&mut out, &record);
    out.extend_from_slice(record.body.as_bytes());
    assert_eq!(read(&mut Reader::new(&out.into())), Some(record));
}

fn outcome(bytes: &Bytes) {
    let Some(outcome) = codec::read_outcome(&mut Reader::new(bytes)) else { return };
    let mut out = Vec::new();
    codec::put_outcome(&mut out, &outcome);
    assert_eq!(codec::read_outcome(&mut Reader::new(&out.into())), Some(outcome));
}

fn commit(bytes: &Bytes) {
    let Some(commit) = journal::read_commit(bytes) else { return };
    assert_eq!(journal::read_commit(&bytes.slice(..bytes.len() - 1)), None, "half of a commit is none");
    assert_eq!(journal::read_commit(&commit.encode().into()), Some(commit));
}

fn block(bytes: &Bytes) {
    let Some(Block { first, shape, payload, start }) = Block::parse(bytes.clone()) else { return };
    let Shape::Entries { count } = shape else { return };
    let (mut position, mut last) = (start, first);
    for _ in 0..count {
        let Some(Piece { at, start, len }) = Piece::read(&payload, position, last) else { break };
        assert!(position < start && start + len <= payload.len());
        (position, last) = (start + len, at);
    }
}

fn state_entry(bytes: &Bytes) {
    let Some(entry) = state::read_entry(bytes) else { return };
    let mut out = Vec::new();
    match &entry {
        StateEntry::Moved => state::put_moved(&mut out),
        StateEntry::Marked(what) => state::put_mark(&mut out, what),
    }
    assert_eq!(state::read_entry(&out.into()), Some(entry));
}

fn table(bytes: &Bytes) {
    let Some(table) = Table::decode(3, bytes) else { return };
    let _ = table.days.values().map(DayTable::blocks).max();
    let _ = catalog::count(std::slice::from_ref(&table), &mut Tallies::default());
    assert_eq!(Table::decode(3, &table.encode().into()), Some(table));
}

fn remembered_entry(bytes: &Bytes) {
    let Some((key, value)) = remembered::read_entry(bytes) else { return };
    let mut out = Vec::new();
    codec::put_bytes(&mut out, &key);
    out.extend_from_slice(&value);
    assert_eq!(remembered::read_entry(&out.into()), Some((key, value)));
}

/// A call log says what was written into it; with a byte that is another it says nothing.
fn call_log(bytes: &Bytes) {
    let _ = calls::read(bytes, "boot");
    let _ = change_log(&mut Unstructured::new(bytes));
}

fn change_log(input: &mut Unstructured<'_>) -> Result<()> {
    let (from, at, by): (u64, usize, u8) = input.arbitrary()?;
    let (mut log, mut last) = calls::header(from, "boot");
    let mut called = SeqMap::default();
    while !input.is_empty() {
        let is_call = input.arbitrary()?;
        let count = input.int_in_range(0..=5u32)?;
        let mut frame = vec![if is_call { calls::CALLED } else { calls::TAKEN_BACK }];
        frame.extend_from_slice(&count.to_le_bytes());
        for _ in 0..count {
            // Few of each, so that calls are taken back.
            let (seq, attempt) = (Seq(input.int_in_range(0..=9)?), input.int_in_range(0..=3u32)?);
            frame.extend_from_slice(&seq.0.to_le_bytes());
            frame.extend_from_slice(&attempt.to_le_bytes());
            if is_call {
                called.insert(seq, attempt);
            } else if called.get(&seq) == Some(&attempt) {
                called.remove(&seq);
            }
        }
        last = calls::crc(last, &[&frame]);
        log.extend_from_slice(&frame);
        log.extend_from_slice(&last.to_le_bytes());
    }
    assert_eq!(calls::read(&log, "boot"), Some((from, called)));
    assert_eq!(calls::read(&log, "another boot"), None);
    let at = at % log.len();
    log[at] ^= by;
    assert_eq!(calls::read(&log, "boot").is_some(), by == 0, "byte {at} is another");
    Ok(())
}

/// The files beside the database, and the keys and names within it.
fn files(bytes: &Bytes) {
    if let Ok(identity) = files::parse_marker(Path::new(""), bytes) {
        assert_eq!(files::marker(identity).as_bytes(), bytes, "it says it in another way");
    }
    let _ = Witness::parse(bytes);
    let _ = run::generation(bytes);
    let name = std::str::from_utf8(bytes).ok();
    let generation = name.and_then(journal::generation);
    if let Some(generation) = generation {
        assert_eq!(journal::generation(&journal::tree_name(generation)), Some(generation));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::StoreError;

    /// Whether the directory of this marker is left alone.
    fn is_refused(marker: &[u8]) -> bool {
        matches!(
            files::parse_marker(Path::new(""), marker),
            Err(StoreError::NotAStore { .. } | StoreError::Damaged { .. } | StoreError::Version { .. })
        )
    }

    #[test]
    fn every_bit_and_every_cut_of_the_marker_is_noticed() {
        let whole = files::marker(0x9f3c_2a71_b0de_4c55);
        assert!(!is_refused(whole.as_bytes()));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(is_refused(&flipped), "bit {bit}");
        }
        (0..whole.len()).for_each(|len| assert!(is_refused(&whole.as_bytes()[..len]), "cut to {len}"));
    }

    #[test]
    fn a_witness_with_any_bit_flipped_or_cut_anywhere_is_never_ahead() {
        let slot =
            |commit: u64| [&commit.to_le_bytes()[..], &crc32fast::hash(&commit.to_le_bytes()).to_le_bytes()].concat();
        let whole = [slot(1_000), slot(999)].concat();
        assert_eq!(Witness::parse(&whole), 1_000);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Witness::parse(&flipped), if bit < 12 * 8 { 999 } else { 1_000 }, "bit {bit}");
        }
        for len in 0..whole.len() {
            assert_eq!(Witness::parse(&whole[..len]), if len < 12 { 0 } else { 1_000 }, "cut to {len}");
        }
    }
}
