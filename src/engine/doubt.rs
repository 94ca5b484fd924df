//! Posts of which it is not known whether they were published.

use crate::marks::{self, Mark};
use crate::post::{Delivery, Doubt, Ending, Event, Outcome, Receipt, Resolution, Shelf};

use super::commits::Why;
use super::lifecycle::Phase;
use super::message::Attempt;
use super::{Engine, Resident};

impl Engine {
    /// An earlier process may have called the broadcaster for this post: keeps that, before anything else is done.
    pub(super) fn doubt(&mut self, place: usize, slot: u32, claim: u32) {
        let Some(Resident { record, .. }) = self.posts.get(slot as usize) else { return };
        marks::reach(if record.doubt == Doubt::Open { Mark::DoubtedAgain } else { Mark::Doubted });
        let mut to = record.clone();
        to.attempts = to.attempts.max(claim.saturating_sub(to.notes.calls()));
        to.doubt = Doubt::Open;
        to.at = to.at.max(to.due);
        to.notes.edit(|noted| noted.reason = Some("the process ended during the call".to_owned()));
        if let Some(pool) = self.settings.pools.get(place) {
            pool.gate.count(record.body.profile(), self.born);
        }
        self.relocate(slot, to, Why::Quiet, None);
        self.keep_counts(place);
    }

    /// A broadcaster has answered whose delivery had been given up: if the doubt that it left is still open, this
    /// settles it. Returns what has to be looked for in the store.
    pub(super) fn handle_late(&mut self, attempt: Attempt) -> Option<Attempt> {
        match self.slot(attempt.delivery.id().seq()) {
            Some(slot) => {
                self.settle_late(slot, &attempt.delivery, attempt.ending);
                None
            }
            None => Some(attempt),
        }
    }

    /// Settles the doubt about a resident post by what a late answer says.
    pub(super) fn settle_late(&mut self, slot: u32, delivery: &Delivery, ending: Ending) {
        let Some(Resident { record, phase, .. }) = self.posts.get(slot as usize) else { return };
        let (facts, id) = (delivery.facts(), delivery.id());
        let is_same_part = facts.part() == record.notes.receipts().len();
        match ending {
            // Published is published, wherever the post is by now.
            Ending::Answered(Ok(receipt)) if is_same_part && *phase != Phase::Leaving => {
                marks::reach(Mark::LateSuccess);
                let (seq, was_open) = (record.seq, record.doubt != Doubt::None);
                let is_last = facts.part() + 1 >= record.body.parts() && !record.body.in_order();
                let is_called = *phase == Phase::InFlight && !self.withdraw(slot);
                if was_open {
                    self.emit(|| Event::Resolved { id });
                }
                if is_called && !is_last && self.closing.is_none() {
                    // It is being called again: whatever comes after it waits for the end of that.
                    marks::reach(Mark::LateSuccessWaits);
                    self.late_receipts.insert(seq, (facts.part(), receipt));
                } else {
                    self.delivered(slot, receipt, None);
                }
            }
            // Not published: what it left in doubt is not so any more, if nothing else was.
            Ending::Answered(Err(error))
                if is_same_part
                    && !error.is_unknown()
                    && record.doubt == Doubt::Open
                    && facts.doubt() == Doubt::None
                    && record.attempts == facts.attempt
                    && phase.is_open() =>
            {
                marks::reach(Mark::LateFailure);
                let mut to = record.clone();
                to.doubt = Doubt::None;
                if Shelf::of(to.at).is_some() {
                    to.at = self.now.wall.ceil_millis().max(to.due);
                }
                self.emit(|| Event::Resolved { id });
                self.relocate(slot, to, Why::Quiet, None);
            }
            _ => {}
        }
    }

    /// What a late answer has said of the part that this post is at.
    pub(super) fn take_late_receipt(&mut self, slot: u32) -> Option<Receipt> {
        let record = &self.posts.get(slot as usize)?.record;
        let (part, receipt) = self.late_receipts.remove(&record.seq)?;
        (part == record.notes.receipts().len()).then_some(receipt)
    }

    /// Nothing follows any more: what late answers have said is settled at once.
    pub(super) fn settle_late_receipts(&mut self) {
        let posts: Vec<_> = self.late_receipts.keys().copied().collect();
        for slot in posts.into_iter().filter_map(|post| self.slot(post)).collect::<Vec<_>>() {
            if let Some(receipt) = self.take_late_receipt(slot) {
                self.delivered(slot, receipt, None);
            }
        }
    }

    /// The host says what is true of a post in doubt, or what is to be done with a dead letter.
    pub(super) fn resolve(&mut self, slot: u32, resolution: Resolution, promise: crate::reply::Promise<()>) {
        let Some(Resident { record, .. }) = self.posts.get(slot as usize) else { return };
        let id = self.id(record.seq);
        let reason = record.notes.reason().unwrap_or_default().to_owned();
        let is_dead = Shelf::of(record.at) == Some(Shelf::Dead);
        match resolution {
            Resolution::Sent(receipt) => {
                marks::reach(Mark::SentByHost);
                self.sent(slot, receipt, promise);
            }
            Resolution::SendAgain => {
                let why = Why::Changed { promise: Some(promise), event: Event::Resolved { id } };
                self.send_again(slot, Some(why));
            }
            Resolution::Drop if is_dead => self.leave(slot, Outcome::Failed { reason }, None, Some(promise)),
            Resolution::Drop => self.leave(slot, Outcome::Cancelled, None, Some(promise)),
        }
    }

    /// The host says that it was published: it has left, or its next part follows.
    fn sent(&mut self, slot: u32, receipt: Receipt, promise: crate::reply::Promise<()>) {
        let Some(Resident { record, .. }) = self.posts.get(slot as usize) else { return };
        if record.notes.receipts().len() + 1 >= record.body.parts() {
            return self.leave(slot, Outcome::Delivered(receipt), None, Some(promise));
        }
        let id = self.id(record.seq);
        let to = self.with_receipt(record, receipt);
        let why = Why::Changed { promise: Some(promise), event: Event::Resolved { id } };
        self.relocate(slot, to, why, None);
    }
}
