//! The steps of a queue: what moves, made durable in one commit with what the queue is then.

use std::time::Duration;

use crate::engine::commands::Search;
use crate::engine::commits::{Then, Why};
use crate::engine::lifecycle::Phase;
use crate::engine::message::{NewPost, SchedulePromise, Wish};
use crate::engine::{Engine, Resident};
use crate::error::{Error, Result};
use crate::id::{Seq, State};
use crate::limits;
use crate::post::{Change, Doubt, Event, Found, Notes, Outcome, Record, Shelf, Verdict};
use crate::queue::{self, Name, Notice, Order, Queue, Refusal};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::QueueWish;

/// New posts of a queue on their way to the store.
#[derive(Debug)]
pub struct Enqueued {
    pub at: Option<usize>,
    pub posts: Vec<NewPost>,
    pub known: Vec<(usize, Seq)>,
    pub seqs: Vec<Seq>,
    pub promise: SchedulePromise,
}

/// A queue on its way to the store.
#[derive(Debug)]
pub struct Step {
    pub place: usize,
    pub profile: Box<str>,
    pub to: Box<Queue>,
    pub notice: Option<Notice>,
    pub promise: Option<Promise<()>>,
}

/// What is to be done in one commit.
struct Plan {
    /// What the queue is then.
    to: Queue,
    /// Posts that get another slot as their due, or wait again.
    moves: Vec<(Seq, Option<Timestamp>)>,
    /// Slots of posts that are not the queue's any more: nobody else gets them.
    held: Vec<(Seq, Timestamp)>,
    notice: Option<Notice>,
}

impl Engine {
    /// A queue that is not there yet: it begins with its slots.
    fn make(&mut self, place: usize, profile: &str, wish: QueueWish) {
        match wish {
            QueueWish::Order { order: Order::Slots(slots), key, promise } => {
                let mut to = Queue::new(*slots, self.now.wall);
                key.into_iter().for_each(|key| to.note_done(key));
                self.store_queue(place, profile, to, None, None, Some(promise));
            }
            wish => {
                let pool = self.settings.pools.get(place).map(|pool| pool.name.to_string()).unwrap_or_default();
                wish.refuse(Error::NoQueue { pool, profile: profile.to_owned() });
            }
        }
    }

    /// Lets time pass for a queue; if that changes nothing, carries out what is wished.
    pub(super) fn begin_step(&mut self, place: usize, profile: &str, wish: QueueWish) {
        let (now, lead) = (self.now.wall, self.prepare_lead(place));
        let Some(managed) = self.managed(place, profile) else { return };
        let Some(before) = managed.queue.clone() else { return self.make(place, profile, wish) };
        if !before.is_counted() && !matches!(wish, QueueWish::Counted) {
            return managed.wishes.push_front(wish);
        }
        let until = now.after(before.ahead(lead));
        managed.gone.retain(|post| before.has(*post));
        let (gone, mut taken) = (managed.gone.clone(), std::mem::take(&mut managed.taken));
        let mut to = before.clone();
        let mut left = to.leave(now);
        // One that has begun, or that has been put on a shelf, is not the queue's any more, and nobody else takes its slot.
        let mut held = Vec::new();
        for (post, due) in to.placed().to_vec() {
            let is_gone = gone.contains(&post) || !self.is_placed(post, due);
            let is_own = taken.due(post).is_none_or(|taken| taken == due);
            if is_gone && to.take(post).is_ok() && is_own {
                taken.insert(post, due);
                held.push((post, due));
            }
        }
        for post in gone {
            let _ = to.take(post);
        }
        left.extend(to.follow(now, until, &taken));
        let moves = changed(&before, &to, &left);
        let is_still =
            moves.is_empty() && left.is_empty() && to.len() == before.len() && !taken.is_passed_by(to.since());
        if !is_still || matches!(wish, QueueWish::Follow) {
            // What time has done is a step of its own, before the wish.
            let notice = to.notice(now, &taken, !left.is_empty());
            self.give_back(place, profile, taken);
            if !matches!(wish, QueueWish::Follow) {
                self.again(place, profile, wish);
            }
            // What is not worth a commit is not remembered in memory either: the queue is what is durable.
            if !is_still || notice.is_some() {
                self.carry_out(place, profile, Plan { to, moves, held, notice }, QueueWish::Follow);
            }
            return;
        }
        match self.grant(&mut to, &wish, now) {
            Ok(()) => {}
            Err(answer) => {
                self.give_back(place, profile, taken);
                return match wish {
                    // It has left the queue meanwhile, and is a post as any other.
                    QueueWish::Cancel { post, promise } => self.resume_mutation(post, Wish::Cancel, promise),
                    QueueWish::Release { post, due, promise } => {
                        self.resume_mutation(post, Wish::Reschedule(due), promise);
                    }
                    wish => wish.finish(answer),
                };
            }
        }
        if let QueueWish::Counted = &wish {
            self.counted(place, profile).into_iter().for_each(|(post, due)| _ = taken.insert(post, due));
        }
        if !matches!(wish, QueueWish::Enqueue { .. }) {
            to.place(until, &taken);
        }
        let notice = to.notice(now, &taken, false);
        self.give_back(place, profile, taken);
        match wish {
            QueueWish::Enqueue { at, posts, known, promise } => {
                let enqueued = Enqueued { at, posts, known, seqs: Vec::new(), promise };
                self.enqueue(place, profile, &before, to, enqueued);
            }
            wish => {
                let moves = changed(&before, &to, &[]);
                self.carry_out(place, profile, Plan { to, moves, held: Vec::new(), notice }, wish);
            }
        }
    }

    /// Carries a wish out on the order. If that cannot be, the answer: an error, or that it was done before.
    fn grant(&self, to: &mut Queue, wish: &QueueWish, now: Timestamp) -> Result<(), Result<()>> {
        let done = match wish {
            QueueWish::Order { key: Some(key), .. } if to.has_done(*key) => return Err(Ok(())),
            QueueWish::Order { order, key, .. } => {
                to.apply(order.clone(), now).map(|()| key.iter().for_each(|key| to.note_done(*key)))
            }
            QueueWish::Cancel { post, .. } | QueueWish::Release { post, .. } => {
                let too_late = Error::TooLate { id: self.id(*post), state: State::InFlight };
                return to.take(*post).map_err(|_| Err(too_late));
            }
            QueueWish::Counted => {
                to.set_counted();
                Ok(())
            }
            QueueWish::Enqueue { .. } | QueueWish::Follow => Ok(()),
        };
        done.map_err(|refusal| Err(self.refused(refusal)))
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::NotQueued(post) => Error::NotQueued { id: self.id(post) },
            Refusal::NoPosition { position, posts } => Error::NoPosition { position, posts },
            Refusal::Full => Error::QueueFull { max: limits::QUEUE_POSTS },
        }
    }

    /// Whether this post, which the queue has given this due, still has it and has not begun.
    fn is_placed(&self, post: Seq, due: Timestamp) -> bool {
        let Some(Resident { record, phase, .. }) = self.slot(post).and_then(|slot| self.posts.get(slot as usize))
        else {
            // It is looked for when it is to be moved.
            return true;
        };
        record.due == due
            && record.attempts == 0
            && record.doubt == Doubt::None
            && record.notes.receipts().is_empty()
            && record.home().shelf().is_none()
            && *phase != Phase::Leaving
    }

    /// Moves posts, and stores the queue, all in one commit; or first has a post looked for.
    fn carry_out(&mut self, place: usize, profile: &str, plan: Plan, wish: QueueWish) {
        let Plan { to, mut moves, held, notice } = plan;
        let own = match &wish {
            QueueWish::Cancel { post, .. } | QueueWish::Release { post, .. } => Some(*post),
            _ => None,
        };
        moves.retain(|(post, _)| Some(*post) != own);
        let touched: Vec<Seq> = moves.iter().map(|(post, _)| *post).chain(own).collect();
        if let Some(missing) = touched.iter().copied().find(|post| self.slot(*post).is_none()) {
            self.again(place, profile, wish);
            self.set_busy(place, profile);
            let search = Search::Queue { place, profile: profile.into(), post: missing };
            return self.search(self.id(missing).into(), search);
        }
        let mut taken_back = Vec::new();
        for post in &touched {
            let Some(slot) = self.slot(*post) else { continue };
            let Some(phase) = self.posts.get(slot as usize).map(|resident| resident.phase) else { continue };
            let is_free = phase.is_open() || self.withdraw(slot);
            if phase == Phase::InFlight && is_free {
                taken_back.push(slot);
            }
            if !is_free {
                // It goes out just now: it has left.
                taken_back.into_iter().for_each(|slot| self.proceed(slot));
                self.again(place, profile, wish);
                if let Some(managed) = self.managed(place, profile) {
                    managed.gone.push(*post);
                }
                return;
            }
        }
        // Whatever is wished from now on comes after this.
        self.set_busy(place, profile);
        let pool = self.settings.pools.get(place).map(|pool| pool.name.clone()).unwrap_or_default();
        self.commits.begin_unit();
        for (post, due) in held {
            let (key, value) = queue::fixed_note(Name { pool: &pool, profile }, post, Some(due));
            self.commits.add(Change::Remember { key, value }, None, 0);
        }
        for (post, due) in moves {
            self.place_post(post, due);
        }
        let promise = match wish {
            QueueWish::Order { promise, .. } => Some(promise),
            QueueWish::Cancel { post, promise } => {
                if let Some(slot) = self.slot(post) {
                    self.leave(slot, Outcome::Cancelled, None, Some(promise));
                }
                None
            }
            QueueWish::Release { post, due, promise } => {
                self.release_post(place, profile, post, due, promise);
                None
            }
            QueueWish::Counted => {
                for (post, due) in self.counted(place, profile) {
                    let (key, value) = queue::fixed_note(Name { pool: &pool, profile }, post, Some(due));
                    self.commits.add(Change::Remember { key, value }, None, 0);
                }
                None
            }
            QueueWish::Follow | QueueWish::Enqueue { .. } => None,
        };
        let before = self.managed(place, profile).and_then(|managed| managed.queue.clone());
        self.store_queue(place, profile, to, before.as_ref(), notice, promise);
        self.commits.end_unit();
    }

    /// Gives a post the slot that it takes as its due, or takes it back among those that wait.
    fn place_post(&mut self, post: Seq, due: Option<Timestamp>) {
        let Some(slot) = self.slot(post) else { return };
        let Some(mut to) = self.posts.get(slot as usize).map(|resident| resident.record.clone()) else { return };
        let id = self.id(post);
        let why = match due {
            Some(due) => {
                self.give_due(&mut to, due);
                Why::Changed { promise: None, event: Event::Rescheduled { id, due: due.to_datetime() } }
            }
            None => {
                self.discard_prepared(slot);
                to.notes.edit(|noted| noted.prepared = None);
                to.at = Shelf::Queued.place(self.now.wall, "");
                to.due = to.at.ceil_millis();
                to.at = to.due;
                Why::Quiet
            }
        };
        self.relocate(slot, to, why, None);
    }

    /// A post leaves its queue for a due of its own.
    fn release_post(&mut self, place: usize, profile: &str, post: Seq, due: Timestamp, promise: Promise<()>) {
        let Some(slot) = self.slot(post) else { return promise.fulfil(Err(Error::Closed)) };
        let Some(mut to) = self.posts.get(slot as usize).map(|resident| resident.record.clone()) else { return };
        to.revision += 1;
        self.give_due(&mut to, due);
        let event = Event::Rescheduled { id: self.id(post), due: due.to_datetime() };
        self.relocate(slot, to, Why::Changed { promise: Some(promise), event }, None);
        self.note_fixed(place, profile, post, Some(due));
    }

    fn store_queue(
        &mut self,
        place: usize,
        profile: &str,
        to: Queue,
        before: Option<&Queue>,
        notice: Option<Notice>,
        promise: Option<Promise<()>>,
    ) {
        let Some(pool) = self.settings.pools.get(place).map(|pool| pool.name.clone()) else { return };
        // No slot is asked for any more up to where it has been followed.
        let since = to.since();
        let passed =
            self.managed(place, profile).map(|managed| managed.taken.forget_through(since)).unwrap_or_default();
        for post in passed {
            let (key, value) = queue::fixed_note(Name { pool: &pool, profile }, post, None);
            self.commits.add(Change::Remember { key, value }, None, 0);
        }
        let notes = to.notes(Name { pool: &pool, profile }, before);
        for (key, value) in notes.into_iter().filter(|_| !sabotage::is(Switch::SlotTwice)) {
            let bytes = value.len();
            self.commits.add(Change::Remember { key, value }, None, bytes);
        }
        let step = Step { place, profile: profile.into(), to: Box::new(to), notice, promise };
        self.commits.note(Then::Queue(Box::new(step)));
        self.set_busy(place, profile);
    }

    /// A step is durable.
    pub(in crate::engine) fn queue_stored(&mut self, step: Step) {
        let Step { place, profile, to, notice, promise } = step;
        let is_counted = to.is_counted();
        if let Some(managed) = self.managed(place, &profile) {
            (managed.queue, managed.is_busy) = (Some(*to), false);
            if is_counted {
                managed.counting = None;
            }
        }
        if let Some(promise) = promise {
            promise.fulfil(Ok(()));
        }
        let pool = self.settings.pools.get(place).map(|pool| pool.name.to_string()).unwrap_or_default();
        match notice {
            Some(Notice::Empty) => self.emit(|| Event::QueueEmpty { pool, profile: profile.to_string() }),
            Some(Notice::Low { left, last }) => {
                let last = last.to_datetime();
                self.emit(|| Event::QueueLow { pool, profile: profile.to_string(), left, last });
            }
            None => {}
        }
        if !is_counted {
            self.count_taken(place);
        }
        self.turn_queue(place, &profile);
    }

    /// Stores new posts of a queue, together with it.
    fn enqueue(&mut self, place: usize, profile: &str, before: &Queue, mut to: Queue, mut enqueued: Enqueued) {
        let Enqueued { posts, known, .. } = &enqueued;
        let Some((pool, name)) = self.settings.pools.get(place).map(|pool| (pool.id, pool.name.clone())) else {
            return enqueued.promise.fulfil(Err(Error::Closed));
        };
        let shelf_at = Shelf::Queued.place(self.now.wall, "").ceil_millis();
        let (mut records, mut bytes, mut lead) = (Vec::new(), 0, Duration::ZERO);
        for (index, post) in posts.iter().enumerate() {
            if known.iter().any(|(known, _)| *known == index) {
                continue;
            }
            let (seq, body) = (self.next_seq, post.body.clone());
            self.next_seq = Seq(seq.0 + 1);
            bytes += body.len() + size_of::<Record>();
            lead = lead.max(body.lead().unwrap_or_default());
            let (notes, doubt) = (Notes::default(), Doubt::None);
            records.push(Record {
                seq,
                pool,
                at: shelf_at,
                due: shelf_at,
                attempts: 0,
                revision: 0,
                doubt,
                notes,
                body,
            });
        }
        enqueued.seqs = records.iter().map(|record| record.seq).collect();
        if let Err(refusal) = to.insert(enqueued.at, &enqueued.seqs, lead) {
            let error = self.refused(refusal);
            return enqueued.promise.fulfil(Err(error));
        }
        let now = self.now.wall;
        if let Some(managed) = self.managed(place, profile) {
            managed.is_busy = true;
            // It may not be low any more. If it is, that was said.
            to.notice(now, &managed.taken, false);
        }
        let notes = to.notes(Name { pool: &name, profile }, Some(before));
        let step = Step { place, profile: profile.into(), to: Box::new(to), notice: None, promise: None };
        let then = Then::Enqueued(Box::new((step, enqueued)));
        self.commits.add_new([Change::ScheduleNoted { records, notes }], then, bytes);
    }

    /// The store has answered to new posts of a queue.
    pub(in crate::engine) fn enqueued(&mut self, step: Step, enqueued: Enqueued, verdict: Verdict) {
        let Enqueued { at, posts, mut known, seqs, promise } = enqueued;
        let (place, profile) = (step.place, step.profile.clone());
        if let Some(managed) = self.managed(place, &profile) {
            managed.is_busy = false;
        }
        let fresh = (0..posts.len()).filter(|index| !known.iter().any(|(known, _)| known == index));
        let fresh: Vec<usize> = fresh.collect();
        match verdict {
            Verdict::Stored(kept) if kept == seqs => {
                known.extend(fresh.into_iter().zip(seqs.iter().copied()));
                known.sort_unstable();
                promise.fulfil(Ok(known.into_iter().map(|(_, seq)| self.id(seq)).collect()));
                for seq in seqs {
                    let (id, profile) = (self.id(seq), &profile);
                    self.emit(|| Event::Queued { id, profile: profile.to_string() });
                }
                return self.queue_stored(step);
            }
            // Some were scheduled before: the others follow.
            Verdict::Stored(kept) => {
                let before = fresh.into_iter().zip(kept).zip(seqs).filter(|((_, kept), own)| kept != own);
                known.extend(before.map(|(known, _)| known));
                self.again(place, &profile, QueueWish::Enqueue { at, posts, known, promise });
            }
            Verdict::Conflict { index, existing } => {
                let post = fresh.get(index).and_then(|index| posts.get(*index));
                let key = post.and_then(|post| post.body.key()).unwrap_or_default().to_owned();
                promise.fulfil(Err(Error::Conflict { key, existing: self.id(existing) }));
            }
            Verdict::Refused(error) => promise.fulfil(Err(Error::Store(error))),
        }
        self.turn_queue(place, &profile);
    }

    /// The store has looked for a post of a queue.
    pub(in crate::engine) fn queue_found(&mut self, place: usize, profile: &str, post: Seq, found: Option<Found>) {
        let is_here = self.slot(post).is_some();
        let is_left = match found {
            _ if is_here => false,
            Some(Found::Live(stored)) => {
                let (shelf, record) = (stored.record.home().shelf(), stored.record.clone());
                if shelf.is_none() {
                    self.take_up(place, stored);
                }
                // On another shelf it is not the queue's any more.
                let is_left = shelf.is_some_and(|shelf| shelf != Shelf::Queued);
                if !is_left && self.slot(post).is_none() {
                    self.admit(place, record, Phase::Armed);
                }
                is_left
            }
            Some(Found::Settled { .. }) | None => true,
        };
        if let Some(managed) = self.managed(place, profile) {
            managed.is_busy = false;
            if is_left {
                managed.gone.push(post);
            } else if !is_here {
                managed.borrowed.push(post);
            }
        }
        self.turn_queue(place, profile);
    }
}

/// Which posts get another due, or none, where a queue becomes another one and some have left with theirs.
fn changed(before: &Queue, to: &Queue, left: &[(Seq, Timestamp)]) -> Vec<(Seq, Option<Timestamp>)> {
    let now = left.iter().chain(to.placed()).copied();
    let placed = now.clone().filter(|(post, due)| before.placed_at(*post) != Some(*due));
    let placed = placed.map(|(post, due)| (post, Some(due)));
    let unplaced = before.placed().iter().filter(|(post, _)| !now.clone().any(|(placed, _)| placed == *post));
    placed.chain(unplaced.filter(|(post, _)| to.has(*post)).map(|(post, _)| (*post, None))).collect()
}
