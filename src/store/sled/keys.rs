//! Which posts may have a key: sorted hashes for each generation, and in memory a filter before them.
//!
//! ```text
//! tree keys; key: generation u32 BE | first hash u64 BE | block u32 BE
//! block  entries, sorted: hash u64 | seq u64
//! ```

use std::collections::BTreeMap;

use ::sled::Tree;

use crate::error::StoreError;
use crate::id::Seq;

use super::codec::{Kind, Reader, SEAL_BYTES};
use super::disk::{Blocks, Disk};

/// The tree `keys`.
#[derive(Clone, Debug)]
pub struct Keys {
    tree: Tree,
}

impl Keys {
    pub fn open(disk: &Disk) -> Result<Self, StoreError> {
        Ok(Self { tree: disk.tree("keys")? })
    }

    /// Writes the sorted hashes of a generation; the number of blocks.
    pub fn write(
        &self,
        disk: &Disk,
        generation: u32,
        hashes: &[(u64, Seq)],
        block_bytes: usize,
    ) -> Result<u32, StoreError> {
        let mut blocks = Blocks::fresh(disk, self.tree.clone(), Kind::Keys);
        let mut count = 0;
        let mut payload = Vec::with_capacity(block_bytes);
        for chunk in hashes.chunks((block_bytes - SEAL_BYTES) / 16) {
            payload.clear();
            for (hash, seq) in chunk {
                payload.extend_from_slice(&hash.to_le_bytes());
                payload.extend_from_slice(&seq.0.to_le_bytes());
            }
            let first = chunk.first().map_or(0, |(hash, _)| *hash);
            blocks.put(&block_key(generation, first, count), &payload)?;
            count += 1;
        }
        blocks.write()?;
        Ok(count)
    }

    /// Removes what a generation has.
    pub fn remove(&self, disk: &Disk, generation: u32) -> Result<(), StoreError> {
        let mut batch = ::sled::Batch::default();
        for item in disk.range(&self.tree, Kind::Keys, generation_range(generation)) {
            batch.remove(item?.0);
        }
        disk.apply(&self.tree, batch)
    }

    /// Posts of the generation whose keys have this hash.
    fn find(&self, disk: &Disk, generation: u32, hash: u64) -> Result<Vec<Seq>, StoreError> {
        let mut found = Vec::new();
        let range = block_key(generation, 0, 0).to_vec()..=block_key(generation, hash, u32::MAX).to_vec();
        for item in disk.range(&self.tree, Kind::Keys, range).rev() {
            let (_, block) = item?;
            let mut reader = Reader::new(&block);
            let mut first = None;
            while let (Some(other), Some(seq)) = (reader.u64(), reader.u64()) {
                first = first.or(Some(other));
                if other == hash {
                    found.push(Seq(seq));
                }
            }
            // Only a block that begins with the hash may have more of it before.
            if first != Some(hash) {
                break;
            }
        }
        Ok(found)
    }

    /// The filter for all hashes of a generation.
    fn filter(&self, disk: &Disk, generation: u32, expected: &Held) -> Result<Filter, StoreError> {
        let mut filter = Filter::new(expected.keys);
        let (mut blocks, mut keys) = (0, 0);
        for item in disk.range(&self.tree, Kind::Keys, generation_range(generation)) {
            let (_, block) = item?;
            let mut reader = Reader::new(&block);
            while let (Some(hash), Some(_)) = (reader.u64(), reader.u64()) {
                filter.insert(hash);
                keys += 1;
            }
            blocks += 1;
        }
        if (blocks, keys) != (expected.blocks, expected.keys) {
            return Err(disk.damaged(format!("keys of generation {generation} are missing")));
        }
        Ok(filter)
    }
}

fn block_key(generation: u32, first: u64, block: u32) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&generation.to_be_bytes());
    key[4..12].copy_from_slice(&first.to_be_bytes());
    key[12..].copy_from_slice(&block.to_be_bytes());
    key
}

fn generation_range(generation: u32) -> std::ops::RangeInclusive<Vec<u8>> {
    block_key(generation, 0, 0).to_vec()..=block_key(generation, u64::MAX, u32::MAX).to_vec()
}

#[derive(Debug)]
struct Held {
    blocks: u32,
    keys: u64,
    /// Made when the first key is looked for.
    filter: Option<Filter>,
}

/// The generations that have keys.
#[derive(Debug, Default)]
pub struct KeyCatalog {
    held: BTreeMap<u32, Held>,
}

impl KeyCatalog {
    pub fn add(&mut self, generation: u32, blocks: u32, keys: u64) {
        if keys > 0 {
            self.held.insert(generation, Held { blocks, keys, filter: None });
        }
    }

    pub fn remove(&mut self, generation: u32) {
        self.held.remove(&generation);
    }

    /// Posts that may have a key with this hash.
    pub fn find(&mut self, disk: &Disk, keys: &Keys, hash: u64) -> Result<Vec<Seq>, StoreError> {
        let mut found = Vec::new();
        for (generation, held) in self.held.iter_mut().rev() {
            if held.filter.is_none() {
                held.filter = Some(keys.filter(disk, *generation, held)?);
            }
            if held.filter.as_ref().is_none_or(|filter| filter.may_contain(hash)) {
                found.extend(keys.find(disk, *generation, hash)?);
            }
        }
        Ok(found)
    }
}

/// Says of a hash that it was not inserted, or that it may have been: a Bloom filter whose bits for one hash lie
/// in one cache line.
#[derive(Debug)]
struct Filter {
    lines: Vec<[u64; 8]>,
}

impl Filter {
    const BITS_PER_KEY: u64 = 16;
    const PROBES: u32 = 6;

    fn new(keys: u64) -> Self {
        Self { lines: vec![[0; 8]; (keys * Self::BITS_PER_KEY).div_ceil(512).max(1) as usize] }
    }

    fn line(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.lines.len() as u128) >> 64) as usize
    }

    fn bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
        (0..Self::PROBES).map(move |probe| {
            let bit = hash >> (probe * 9) & 511;
            ((bit >> 6) as usize, 1 << (bit & 63))
        })
    }

    fn insert(&mut self, hash: u64) {
        let line = self.line(hash);
        Self::bits(hash).for_each(|(word, bit)| self.lines[line][word] |= bit);
    }

    fn may_contain(&self, hash: u64) -> bool {
        let line = self.lines[self.line(hash)];
        Self::bits(hash).all(|(word, bit)| line[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::post::Body;

    #[test]
    fn a_filter_knows_what_it_holds_and_seldom_errs() {
        let hash = |i: u32| Body::key_hash(&format!("campaign/{i}"));
        let mut filter = Filter::new(10_000);
        (0..10_000).for_each(|i| filter.insert(hash(i)));
        assert!((0..10_000).all(|i| filter.may_contain(hash(i))));
        let wrong = (10_000..110_000).filter(|i| filter.may_contain(hash(*i))).count();
        assert!(wrong < 500, "{wrong} of 100,000");
    }
}
