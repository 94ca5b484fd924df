//! Where each post was written last, by its number.
//!
//! ```text
//! tree index; key: seq / 480 u64 BE
//! block  480 entries: day u32 | generation u32, 0 for none | block u32
//! ```

use ::sled::Tree;

use crate::error::StoreError;
use crate::id::Seq;

use super::codec::{Kind, Reader};
use super::disk::{Blocks, Disk};

/// Numbers in one block.
const SPAN: u64 = 480;
const ENTRY_BYTES: usize = 12;

/// A block of a run of posts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    pub day: u32,
    pub generation: u32,
    pub block: u32,
}

/// The tree `index`.
#[derive(Clone, Debug)]
pub struct Index {
    tree: Tree,
}

impl Index {
    pub fn open(disk: &Disk) -> Result<Self, StoreError> {
        Ok(Self { tree: disk.tree("index")? })
    }

    /// Where the post was written last, if it ever was.
    pub fn get(&self, disk: &Disk, seq: Seq) -> Result<Option<Location>, StoreError> {
        let number = seq.0 / SPAN;
        let Some(block) = disk.get(&self.tree, Kind::Index, &number.to_be_bytes())? else { return Ok(None) };
        let mut reader = Reader::starting(&block, (seq.0 % SPAN) as usize * ENTRY_BYTES);
        match (reader.u32(), reader.u32(), reader.u32()) {
            (Some(_), Some(0), Some(_)) => Ok(None),
            (Some(day), Some(generation), Some(block)) => Ok(Some(Location { day, generation, block })),
            _ => Err(disk.damaged(format!("block {number} of the index is too short"))),
        }
    }

    /// Takes in the locations of these posts, sorted by their numbers; the blocks that were touched.
    pub fn set(&self, disk: &Disk, located: &[(Seq, Location)]) -> Result<Vec<u64>, StoreError> {
        let mut blocks = Blocks::new(disk, self.tree.clone(), Kind::Index);
        let mut touched = Vec::new();
        for group in located.chunk_by(|(a, _), (b, _)| a.0 / SPAN == b.0 / SPAN) {
            let Some((first, _)) = group.first() else { continue };
            let number = first.0 / SPAN;
            let mut payload = match disk.get(&self.tree, Kind::Index, &number.to_be_bytes())? {
                Some(payload) => payload.to_vec(),
                None => Vec::new(),
            };
            payload.resize(SPAN as usize * ENTRY_BYTES, 0);
            for (seq, Location { day, generation, block }) in group {
                let at = (seq.0 % SPAN) as usize * ENTRY_BYTES;
                payload[at..at + 4].copy_from_slice(&day.to_le_bytes());
                payload[at + 4..at + 8].copy_from_slice(&generation.to_le_bytes());
                payload[at + 8..at + 12].copy_from_slice(&block.to_le_bytes());
            }
            blocks.put(&number.to_be_bytes(), &payload)?;
            touched.push(number);
        }
        blocks.write()?;
        Ok(touched)
    }

    /// Removes those of these blocks in which no entry is present any more.
    pub fn clean(&self, disk: &Disk, numbers: &[u64], is_present: impl Fn(u32, u32) -> bool) -> Result<(), StoreError> {
        let mut batch = ::sled::Batch::default();
        for number in numbers {
            let Some(block) = disk.get(&self.tree, Kind::Index, &number.to_be_bytes())? else { continue };
            let mut reader = Reader::new(&block);
            let mut used = false;
            while let (Some(day), Some(generation), Some(_)) = (reader.u32(), reader.u32(), reader.u32()) {
                used |= generation > 0 && is_present(day, generation);
            }
            if !used {
                batch.remove(&number.to_be_bytes());
            }
        }
        disk.apply(&self.tree, batch)
    }
}
