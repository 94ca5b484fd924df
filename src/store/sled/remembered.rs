//! What is remembered beside the posts. Each generation adds a run of what changed in it, and takes in the runs
//! before it that are not much larger, so there are few of them.
//!
//! ```text
//! tree remembered; runs of day 0 (run.rs), of the generations that are noted in `meta`; sorted by key
//! entry  key length varint, key | value, empty if it was forgotten
//! ```

use std::collections::BTreeMap;
use std::iter::Peekable;

use ::sled::{Batch, Tree};
use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::error::StoreError;
use crate::post::Cursor;

use super::codec::{self, Kind, Reader};
use super::disk::Disk;
use super::run::{self, Run, RunReader, RunWriter};

/// The run of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub generation: u32,
    pub blocks: u32,
}

/// The tree `remembered`.
#[derive(Clone, Debug)]
pub struct Remembered {
    tree: Tree,
}

type Source<'a> = Peekable<Box<dyn Iterator<Item = Result<(Bytes, Bytes), StoreError>> + 'a>>;

impl Remembered {
    pub fn open(disk: &Disk) -> Result<Self, StoreError> {
        Ok(Self { tree: disk.tree("remembered")? })
    }

    /// Everything that these runs and, after them, these changes come down to.
    pub fn read<'a>(
        &self,
        disk: &Disk,
        spans: &[Span],
        changes: impl IntoIterator<Item = &'a FxHashMap<Bytes, Bytes>>,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut all = BTreeMap::new();
        for span in spans {
            for entry in self.entries(disk, *span) {
                let (key, value) = entry?;
                // Copied, so that they do not keep their blocks in memory.
                all.insert(Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
            }
        }
        let changes = changes.into_iter().flatten();
        all.extend(changes.map(|(key, value)| (key.clone(), value.clone())));
        all.retain(|_, value| !value.is_empty());
        Ok(all.into_iter().collect())
    }

    /// Writes what a generation changed; the runs that there are then, in the order in which they were written.
    pub fn write(
        &self,
        disk: &Disk,
        generation: u32,
        changed: &FxHashMap<Bytes, Bytes>,
        spans: &[Span],
        block_bytes: usize,
    ) -> Result<Vec<Span>, StoreError> {
        let bytes: usize = changed.iter().map(|(key, value)| key.len() + value.len()).sum();
        let mut size = (bytes / block_bytes + 1) as u64;
        let mut kept = spans;
        while let Some((last, before)) = kept.split_last().filter(|(last, _)| u64::from(last.blocks) <= 2 * size) {
            size += u64::from(last.blocks);
            kept = before;
        }
        let mut latest: Vec<_> = changed.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        latest.sort_unstable();
        let latest: Source<'_> = boxed(latest.into_iter().map(Ok)).peekable();
        let merged = spans.get(kept.len()..).unwrap_or_default();
        let mut sources: Vec<Source<'_>> =
            merged.iter().map(|span| boxed(self.entries(disk, *span)).peekable()).collect();
        sources.push(latest);

        let mut writer = RunWriter::new(disk, self.run(generation), block_bytes);
        let mut head = Vec::new();
        while let Some((key, value)) = next(&mut sources)? {
            // Nothing older is left that could come back.
            if value.is_empty() && kept.is_empty() {
                continue;
            }
            head.clear();
            codec::put_bytes(&mut head, &key);
            writer.push(Cursor::START, &head, &value)?;
        }
        let mut spans = kept.to_vec();
        spans.extend(Some(Span { generation, blocks: writer.finish()? }).filter(|span| span.blocks > 0));
        Ok(spans)
    }

    /// Removes runs that are not among these, up to this generation's.
    pub fn clean(&self, disk: &Disk, spans: &[Span], through: u32) -> Result<(), StoreError> {
        let mut from = 0;
        loop {
            let next = self.tree.range(self.run(from).key(0)..).keys().next().transpose();
            let Some(key) = next.map_err(|error| disk.error("read", error))? else { return Ok(()) };
            let generation = run::generation(&key).ok_or_else(|| disk.damaged("a key of what is remembered"))?;
            if generation > through {
                return Ok(());
            }
            let run = self.run(generation);
            while !spans.iter().any(|span| span.generation == generation) {
                let mut batch = Batch::default();
                let keys = self.tree.range(run.key(0)..=run.key(u32::MAX)).keys().take(1_000);
                let mut count = 0;
                for key in keys {
                    batch.remove(key.map_err(|error| disk.error("read", error))?);
                    count += 1;
                }
                if count == 0 {
                    break;
                }
                disk.apply(&self.tree, batch)?;
            }
            let Some(following) = generation.checked_add(1) else { return Ok(()) };
            from = following;
        }
    }

    fn run(&self, generation: u32) -> Run {
        Run { tree: self.tree.clone(), kind: Kind::Remembered, day: 0, generation }
    }

    fn entries<'a>(
        &self,
        disk: &'a Disk,
        span: Span,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> + use<'a> {
        let mut reader = RunReader::new(self.run(span.generation), 0, span.blocks);
        std::iter::from_fn(move || {
            let entry = reader.advance(disk).and_then(|at| at.map(|_| reader.content(disk)).transpose());
            let content = entry.transpose()?;
            Some(content.and_then(|content| read_entry(&content).ok_or_else(|| reader.damaged(disk))))
        })
    }
}

fn boxed<'a>(
    entries: impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> + 'a,
) -> Box<dyn Iterator<Item = Result<(Bytes, Bytes), StoreError>> + 'a> {
    Box::new(entries)
}

pub fn read_entry(content: &Bytes) -> Option<(Bytes, Bytes)> {
    let mut reader = Reader::new(content);
    Some((reader.bytes()?, reader.rest()?))
}

/// The first key of all, with its value in the last of the sources that have it.
fn next(sources: &mut [Source<'_>]) -> Result<Option<(Bytes, Bytes)>, StoreError> {
    let heads = sources.iter_mut().filter_map(|source| source.peek()?.as_ref().ok().map(|(key, _)| key.clone()));
    let first = heads.min();
    let mut found = None;
    for source in sources {
        let is_wanted =
            |head: &Result<(Bytes, Bytes), _>| head.as_ref().map_or(true, |(key, _)| Some(key) == first.as_ref());
        if let Some(entry) = source.next_if(is_wanted) {
            found = Some(entry?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_are_merged_where_the_last_is_not_twice_as_large_and_what_is_forgotten_takes_none() {
        let (_folder, disk) = Disk::scratch();
        let remembered = Remembered::open(&disk).unwrap();
        let changed = |key: u8, bytes: usize| FxHashMap::from_iter([(vec![key].into(), vec![7; bytes - 1].into())]);
        let write = |generation, changed: &FxHashMap<Bytes, Bytes>, spans: &[Span]| {
            let spans = remembered.write(&disk, generation, changed, spans, 300).unwrap();
            let generations: Vec<_> = spans.iter().map(|span| span.generation).collect();
            (spans, generations)
        };
        let (first, generations) = write(1, &changed(1, 3_000), &[]);
        assert_eq!((generations, first[0].blocks), (vec![1], 12));
        // 4 times 300 bytes and a rest are 5 blocks: 12 are more than twice as many; 5 times 300 are 6, and 12 are not.
        assert_eq!(write(2, &changed(2, 1_499), &first).1, [1, 2]);
        assert_eq!(write(3, &changed(2, 1_500), &first).1, [3]);
        let forgotten = FxHashMap::from_iter([(vec![1].into(), Bytes::new())]);
        assert_eq!(write(4, &forgotten, &[]).1, []);
        // All that no run is for goes, but what is being written may not be one yet.
        remembered.clean(&disk, &first, 2).unwrap();
        let left = remembered.tree.iter().keys().map(|key| run::generation(&key.unwrap()).unwrap());
        assert_eq!(left.collect::<std::collections::BTreeSet<_>>(), [1, 3].into());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn runs_come_down_to_the_latest_values_and_stay_few(
            generations in proptest::collection::vec(proptest::collection::vec((0u8..30, 0usize..200), 0..20), 1..20),
        ) {
            let (_folder, disk) = Disk::scratch();
            let remembered = Remembered::open(&disk).unwrap();
            let (mut model, mut spans) = (BTreeMap::new(), Vec::new());
            for (generation, changes) in (1..).zip(generations) {
                let changed = changes.into_iter().map(|(key, len)| {
                    (Bytes::from(vec![key; usize::from(key) * 20]), Bytes::from(vec![generation as u8; len]))
                });
                let changed: FxHashMap<Bytes, Bytes> = changed.collect();
                model.extend(changed.clone());
                model.retain(|_, value| !value.is_empty());
                let whole: Vec<_> = model.clone().into_iter().collect();
                prop_assert_eq!(&remembered.read(&disk, &spans, [&changed]).unwrap(), &whole);
                spans = remembered.write(&disk, generation, &changed, &spans, 300).unwrap();
                remembered.clean(&disk, &spans, generation).unwrap();
                prop_assert_eq!(&remembered.read(&disk, &spans, []).unwrap(), &whole);
                prop_assert!(spans.len() < 8, "{} runs", spans.len());
                let blocks: u64 = spans.iter().map(|span| u64::from(span.blocks)).sum();
                prop_assert!(remembered.tree.len() as u64 == blocks);
            }
        }
    }
}
