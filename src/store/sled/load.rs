//! Loading: the runs and tables that hold posts of a pool and day, merged in order, without what is void.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use rustc_hash::FxHashMap;

use crate::error::StoreError;
use crate::id::PoolId;
use crate::post::{Cursor, Page, Record, Stored};
use crate::time::Timestamp;

use super::codec::{self, Kind, Reader};
use super::core::Core;
use super::disk::Disk;
use super::memtable::{self, Memtable, Place};
use super::run::RunReader;
use super::state;

/// Where a load ended, so that the next one need not search.
#[derive(Debug)]
pub struct Bookmark {
    day: u32,
    cursor: Cursor,
    /// The next block of each generation.
    blocks: FxHashMap<u32, u32>,
    /// How many posts its page brought.
    posts: usize,
}

/// Something that holds posts of the pool and day, in order.
enum Source<'a> {
    Run(RunReader),
    Table { table: &'a Memtable, places: &'a [Place] },
}

impl Source<'_> {
    fn generation(&self) -> u32 {
        match self {
            Self::Run(reader) => reader.generation(),
            Self::Table { table, .. } => table.generation,
        }
    }

    /// Goes on to the next post after `after`; where that is.
    fn advance(&mut self, disk: &Disk, after: Cursor) -> Result<Option<Cursor>, StoreError> {
        match self {
            Self::Run(reader) => loop {
                match reader.advance(disk)? {
                    Some(at) if at <= after => {}
                    other => return Ok(other),
                }
            },
            Self::Table { places, .. } => {
                *places = places.get(1..).unwrap_or_default();
                Ok(places.first().map(Place::cursor))
            }
        }
    }

    /// The post at which the source stands; `None` if the table has it elsewhere by now.
    fn record(&self, disk: &Disk, pool: PoolId, at: Cursor) -> Result<Option<Record>, StoreError> {
        match self {
            Self::Run(reader) => {
                let content = reader.content(disk)?;
                let record = codec::read_record(&mut Reader::new(&content), pool, at.at, at.seq, None);
                record.map(Some).ok_or_else(|| reader.damaged(disk))
            }
            Self::Table { table, places } => Ok(places.first().and_then(|place| table.at_home(place.home())).cloned()),
        }
    }
}

impl Core {
    pub fn load(
        &mut self,
        pool: PoolId,
        after: Cursor,
        until: Timestamp,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        self.poll()?;
        let end = Cursor::through(until);
        let mut page = Page { posts: Vec::new(), through: end.max(after) };
        if after >= end {
            return Ok(page);
        }
        self.current.order();
        let days: Vec<u32> = self.tallies.days(pool, state::day(after.at), state::day(until)).collect();
        let mut bytes = 0;
        for day in days {
            if let Some(through) = self.load_day(pool, day, (after, end), max_bytes, &mut bytes, &mut page)? {
                page.through = through;
                break;
            }
        }
        Ok(page)
    }

    /// Adds posts of one day; where it had to stop, if the page is full.
    fn load_day(
        &mut self,
        pool: PoolId,
        day: u32,
        (after, end): (Cursor, Cursor),
        max_bytes: usize,
        bytes: &mut usize,
        page: &mut Page,
    ) -> Result<Option<Cursor>, StoreError> {
        self.day_state(day)?;
        let before = self.bookmarks.get(&(pool, state::is_shelved(day))).filter(|mark| mark.cursor == after);
        let expected = before.map_or(0, |mark| mark.posts);
        let readers = self.readers(pool, day, after)?;
        let (disk, Some(state)) = (&*self.disk, self.days.get(day)) else { return Err(StoreError::Poisoned) };
        let tables = self.frozen.iter().map(|frozen| (&frozen.table, frozen.places()));
        let tables = tables.chain([(&self.current, self.current.places())]);
        let tables = tables.map(|(table, places)| (table, memtable::after(places, pool, day, after)));

        let mut sources: Vec<Source<'_>> = readers.into_iter().map(Source::Run).collect();
        let mut heap = BinaryHeap::with_capacity(sources.len() + 3);
        for (number, source) in sources.iter_mut().enumerate() {
            heap.extend(source.advance(disk, after)?.map(|at| Reverse((at, number))));
        }
        for (table, places) in tables {
            heap.extend(places.first().map(|first| Reverse((first.cursor(), sources.len()))));
            sources.push(Source::Table { table, places });
        }

        page.posts.reserve(expected);
        let mut through = None;
        while let Some(mut top) = heap.peek_mut() {
            let Reverse((at, number)) = *top;
            let Some(source) = sources.get_mut(number).filter(|_| at <= end && through.is_none()) else { break };
            if !state.is_dead(at.seq, source.generation())
                && let Some(record) = source.record(disk, pool, at)?
            {
                *bytes += record.body.len() + record.notes.len();
                let claimed = state.claim(at.seq).map(|claim| self.calls.judge(at.seq, claim));
                page.posts.push(Stored { claimed, record });
                through = (*bytes >= max_bytes).then_some(at);
            }
            match source.advance(disk, after)? {
                Some(next) => top.0.0 = next,
                None => drop(PeekMut::pop(top)),
            }
        }
        let blocks = sources.iter().filter_map(|source| match source {
            Source::Run(reader) => Some((reader.generation(), reader.block())),
            Source::Table { .. } => None,
        });
        let (cursor, posts) = (through.unwrap_or(end), page.posts.len());
        let bookmark = Bookmark { day, cursor, blocks: blocks.collect(), posts };
        self.bookmarks.insert((pool, state::is_shelved(day)), bookmark);
        Ok(through)
    }

    /// Readers of all runs with posts of the pool and day, each before the first post after the cursor or a few
    /// posts earlier.
    fn readers(&mut self, pool: PoolId, day: u32, after: Cursor) -> Result<Vec<RunReader>, StoreError> {
        let groups = self.catalog.of_day(day).filter_map(|(generation, held)| {
            let group = held.groups.iter().find(|group| group.pool == pool.0 && group.posts > 0)?;
            Some((generation, group.first, group.end))
        });
        let groups: Vec<_> = groups.collect();
        let bookmark = self.bookmarks.remove(&(pool, state::is_shelved(day)));
        let bookmark = bookmark.filter(|mark| mark.day == day && mark.cursor == after);
        let mut readers = Vec::with_capacity(groups.len());
        for (generation, first, end) in groups {
            let run = self.run(day, Kind::Posts, generation)?;
            let known = bookmark.as_ref().and_then(|mark| mark.blocks.get(&generation).copied());
            readers.push(match known {
                Some(block) => RunReader::new(run, block, end),
                None => RunReader::after(&self.disk, run, first, end, after)?,
            });
        }
        Ok(readers)
    }
}
