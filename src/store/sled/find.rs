//! What is known of one post, by number or by key.

use crate::error::StoreError;
use crate::id::{PoolId, Seq};
use crate::post::{Body, Found, Record, Stored};

use super::codec::{self, Kind};
use super::core::Core;
use super::index::Location;
use super::run::RunReader;
use super::state::{self, Settled};

impl Core {
    pub fn find(&mut self, seq: Seq) -> Result<Option<Found>, StoreError> {
        self.poll()?;
        let Some((mut record, generation)) = self.last_version(seq)? else { return Ok(None) };
        let day = state::day(record.at);
        let state = self.day_state(day)?;
        if state.is_settled(seq) {
            let settled = self.settled(seq, day)?;
            let Settled { attempts, now, outcome } =
                settled.ok_or_else(|| self.disk.damaged(format!("what became of post {} is missing", seq.0)))?;
            record.attempts = attempts;
            return Ok((now >= self.forget_before).then_some(Found::Settled { record, outcome, at: now }));
        }
        if state.is_dead(seq, generation) {
            // Its later version went with a day that is forgotten.
            return Ok(None);
        }
        let claimed = state.claim(seq).map(|claim| self.calls.judge(seq, claim));
        Ok(Some(Found::Live(Stored { record, claimed })))
    }

    pub fn find_key(&mut self, key: &str) -> Result<Option<Found>, StoreError> {
        self.poll()?;
        let hash = Body::key_hash(key);
        let mut candidates: Vec<Seq> = self.tables().flat_map(|table| table.with_key(hash)).collect();
        candidates.extend(self.key_catalog.find(&self.disk, &self.keys, hash)?);
        // The last one may have taken the key over from one that is forgotten.
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        candidates.dedup();
        for seq in candidates {
            if let Some(found) = self.find(seq)?.filter(|found| found.record().body.key() == Some(key)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The last version of a post, with the generation that holds it.
    fn last_version(&mut self, seq: Seq) -> Result<Option<(Record, u32)>, StoreError> {
        let held = self.tables().find_map(|table| Some((table.get(seq)?.clone(), table.generation)));
        if held.is_some() {
            return Ok(held);
        }
        let Some(location) = self.index.get(&self.disk, seq)? else { return Ok(None) };
        let Location { day, generation, block } = location;
        let Some(held) = self.catalog.get(day, generation) else { return Ok(None) };
        let group = held.groups.iter().find(|group| (group.first..group.end).contains(&block));
        let Some((pool, end)) = group.map(|group| (PoolId(group.pool), group.end)) else {
            return Err(self.disk.damaged(format!("the index leads post {} to a wrong block", seq.0)));
        };
        let run = self.run(day, Kind::Posts, generation)?;
        let mut reader = RunReader::new(run, block, end);
        while let Some(at) = reader.advance(&self.disk)?.filter(|_| reader.block() == block) {
            if at.seq == seq {
                let content = reader.content(&self.disk)?;
                let record = codec::read_record(&mut codec::Reader::new(&content), pool, at.at, seq, None);
                let record = record.ok_or_else(|| reader.damaged(&self.disk))?;
                return Ok(Some((record, generation)));
            }
        }
        Err(reader.damaged(&self.disk))
    }

    /// How a post of this day ended.
    fn settled(&mut self, seq: Seq, day: u32) -> Result<Option<Settled>, StoreError> {
        let marked = self.tables().find_map(|table| table.marks.get(&seq)?.what.as_settled());
        if marked.is_some() {
            return Ok(marked);
        }
        for (generation, blocks) in self.state_runs(day).into_iter().rev() {
            let run = self.run(day, Kind::States, generation)?;
            let settled = state::find_settled(&self.disk, run, blocks, seq)?;
            if settled.is_some() {
                return Ok(settled);
            }
        }
        Ok(None)
    }
}
