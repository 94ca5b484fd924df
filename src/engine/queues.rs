//! Queues of profiles: what the host does to them, and what becomes of their posts when slots come near. The rules are in
//! `queue/`; here they are made durable, one step after the other, each in one commit.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::id::{PostId, Seq, State};
use crate::limits;
use crate::post::{Change, Doubt, Event, Found, Notes, Outcome, QueueStatus, QueuedPost, Record, Shelf, Verdict};
use crate::queue::{self, Name, Notice, Order, Parts, Queue, Refusal, Taken};
use crate::reply::Promise;
use crate::sabotage::{self, Switch};
use crate::time::Timestamp;

use super::commands::Search;
use super::commits::{Then, Why};
use super::lifecycle::Phase;
use super::message::{NewPost, SchedulePromise, Wish};
use super::{Engine, Item, Resident};

/// A queue, and what waits to be done to it.
#[derive(Debug, Default)]
pub struct Managed {
    /// As it is durable; none while it is being made.
    pub(super) queue: Option<Queue>,
    pub(super) taken: Taken,
    pub(super) wishes: VecDeque<QueueWish>,
    /// Something of the first wish is with the store.
    is_busy: bool,
    /// When it is looked at next.
    wake: Option<Timestamp>,
    /// Posts that were looked for to be moved.
    borrowed: Vec<Seq>,
    /// Posts that are not its any more, as has been found; the next step takes all of them out.
    gone: Vec<Seq>,
    /// Posts of the profile that were there before the queue, and their dues as they are now, until they are remembered.
    pub(super) counting: Option<BTreeMap<Seq, Option<Timestamp>>>,
    /// Pieces of it that were remembered.
    parts: Parts,
}

/// What is to be done to a queue.
#[derive(Debug)]
pub enum QueueWish {
    /// The host wants it so; at most once with this key.
    Order { order: Order, key: Option<u64>, promise: Promise<()> },
    /// New posts, at this position or at the end. Some are known to have been scheduled before.
    Enqueue { at: Option<usize>, posts: Vec<NewPost>, known: Vec<(usize, Seq)>, promise: SchedulePromise },
    /// A post that waits is cancelled.
    Cancel { post: Seq, promise: Promise<()> },
    /// A post that waits gets a due of its own, and leaves the queue.
    Release { post: Seq, due: Timestamp, promise: Promise<()> },
    /// Time has passed, or other slots are taken.
    Follow,
    /// All posts of the profile that were there before the queue are known.
    Counted,
}

impl QueueWish {
    pub fn refuse(self, error: Error) {
        match self {
            Self::Order { promise, .. } | Self::Cancel { promise, .. } | Self::Release { promise, .. } => {
                promise.fulfil(Err(error));
            }
            Self::Enqueue { promise, .. } => promise.fulfil(Err(error)),
            Self::Follow | Self::Counted => {}
        }
    }

    /// Whether the host waits for it.
    fn is_hosts(&self) -> bool {
        !matches!(self, Self::Follow | Self::Counted)
    }

    fn finish(self, answer: Result<()>) {
        match (self, answer) {
            (Self::Order { promise, .. }, Ok(())) => promise.fulfil(Ok(())),
            (wish, Err(error)) => wish.refuse(error),
            (_, Ok(())) => {}
        }
    }
}

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

impl Engine {
    /// Takes in what is remembered of queues; false if it is something else.
    pub(super) fn remember_queue(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some((letter, name, number)) = queue::name(key) else { return false };
        let place = self.settings.pools.iter().position(|pool| &*pool.name == name.pool);
        if let Some(site) = place.and_then(|place| self.sites.get_mut(place)) {
            let managed = site.queues.entry(name.profile.into()).or_default();
            match queue::taken_due(value).filter(|_| letter == queue::TAKEN) {
                Some(due) => _ = managed.taken.insert(Seq(number), due),
                None => managed.parts.add(letter, number, Bytes::copy_from_slice(value)),
            }
        }
        true
    }

    /// Puts the queues together that were remembered, and goes on with them.
    pub(super) fn take_up_queues(&mut self) {
        for place in 0..self.sites.len() {
            let Some(site) = self.sites.get_mut(place) else { continue };
            for managed in site.queues.values_mut() {
                managed.queue = std::mem::take(&mut managed.parts).assemble();
            }
            site.queues.retain(|_, managed| managed.queue.is_some());
            let profiles: Vec<Box<str>> = site.queues.keys().cloned().collect();
            for profile in profiles {
                self.wish_queue(place, &profile, QueueWish::Follow);
            }
            self.count_taken(place);
        }
    }

    /// A post is not the queue's any more.
    pub(super) fn drop_queued(&mut self, place: usize, profile: &str, post: Seq) {
        if let Some(managed) = self.managed(place, profile) {
            managed.gone.push(post);
            self.wish_queue(place, profile, QueueWish::Follow);
        }
    }

    /// The host wants something of a queue.
    pub(super) fn order_queue(&mut self, place: usize, profile: &str, named: &[PostId], wish: QueueWish) {
        if let Some(foreign) = named.iter().find(|id| id.store() != self.settings.store) {
            return wish.refuse(Error::ForeignId { id: *foreign });
        }
        let makes = matches!(&wish, QueueWish::Order { order: Order::Slots(_), .. });
        let Some(site) = self.sites.get_mut(place) else { return wish.refuse(Error::Closed) };
        if !makes && !site.queues.contains_key(profile) {
            let pool = self.settings.pools.get(place).map(|pool| pool.name.to_string()).unwrap_or_default();
            return wish.refuse(Error::NoQueue { pool, profile: profile.to_owned() });
        }
        self.wish_queue(place, profile, wish);
    }

    pub(super) fn wish_queue(&mut self, place: usize, profile: &str, wish: QueueWish) {
        let Some(site) = self.sites.get_mut(place) else { return wish.refuse(Error::Closed) };
        let managed = site.queues.entry(profile.into()).or_default();
        // One look is as good as two.
        if !(matches!(wish, QueueWish::Follow) && matches!(managed.wishes.back(), Some(QueueWish::Follow))) {
            managed.wishes.push_back(wish);
        }
        self.turn_queue(place, profile);
    }

    /// What the host sees of a queue.
    pub(super) fn show_queue(&self, place: usize, profile: &str) -> Option<QueueStatus> {
        let managed = self.sites.get(place)?.queues.get(profile)?;
        let queue = managed.queue.as_ref()?;
        let mut dues = queue.dues(&managed.taken);
        let posts = queue
            .posts()
            .map(|post| QueuedPost { id: self.id(post), due: dues.next().map(|(_, due)| due.to_datetime()) });
        Some(QueueStatus {
            slots: queue.slots().clone(),
            is_paused: queue.is_paused(),
            warn_ahead: queue.warn_ahead(),
            posts: posts.collect(),
        })
    }

    /// The slot of a post that waits in a queue.
    pub(super) fn queued_due(&self, record: &Record) -> Option<Timestamp> {
        let place = self.places.get(record.pool)?;
        let managed = self.sites.get(place)?.queues.get(record.body.profile())?;
        let mut dues = managed.queue.as_ref()?.dues(&managed.taken);
        dues.find(|(post, _)| *post == record.seq).map(|(_, due)| due)
    }

    /// Looks at the queues whose time has come.
    pub(super) fn follow_queue(&mut self, place: usize, profile: &str) {
        if let Some(managed) = self.sites.get_mut(place).and_then(|site| site.queues.get_mut(profile)) {
            managed.wake = None;
            self.wish_queue(place, profile, QueueWish::Follow);
        }
    }

    pub(super) fn managed(&mut self, place: usize, profile: &str) -> Option<&mut Managed> {
        self.sites.get_mut(place)?.queues.get_mut(profile)
    }

    /// Does what is wished of a queue, one wish after the other, until something has to be waited for.
    pub(super) fn turn_queue(&mut self, place: usize, profile: &str) {
        if self.closing.is_some() || self.failed.is_some() {
            return;
        }
        while let Some(managed) = self.managed(place, profile)
            && !managed.is_busy
            && let Some(wish) = managed.wishes.pop_front()
        {
            self.begin_step(place, profile, wish);
            // A queue that has to be counted first waits with everything else.
            if self.managed(place, profile).is_some_and(|managed| managed.is_waiting()) {
                return;
            }
        }
        self.rest(place, profile);
    }

    /// Sees to it that an idle queue is looked at in time.
    fn rest(&mut self, place: usize, profile: &str) {
        let lead = self.prepare_lead(place);
        let Some(managed) = self.managed(place, profile) else { return };
        if !managed.is_busy {
            let borrowed = std::mem::take(&mut managed.borrowed);
            self.put_back(&borrowed);
        }
        let Some(managed) = self.managed(place, profile) else { return };
        let wake = managed.queue.as_ref().filter(|_| !managed.is_busy);
        let wake = wake.and_then(|queue| queue.wake_at(queue.ahead(lead), &managed.taken));
        let before = std::mem::replace(&mut managed.wake, wake);
        if wake == before {
            return;
        }
        before.map(|at| self.agenda.remove(&(at, Item::Queue(place, profile.into()))));
        wake.map(|at| self.agenda.insert((at, Item::Queue(place, profile.into()))));
    }

    /// Leaves posts to themselves that were looked for and have not been moved, and those that still wait to the store.
    fn put_back(&mut self, borrowed: &[Seq]) {
        for slot in borrowed.iter().filter_map(|post| self.slot(*post)).collect::<Vec<_>>() {
            let Some(Resident { phase: Phase::Armed, record, .. }) = self.posts.get(slot as usize) else { continue };
            match record.home().shelf() {
                Some(Shelf::Queued) => self.forget(slot),
                Some(_) => {}
                None => self.proceed(slot),
            }
        }
    }

    fn prepare_lead(&self, place: usize) -> Duration {
        let prepare = self.settings.pools.get(place).and_then(|pool| pool.prepare.as_ref());
        prepare.map(|prepare| prepare.lead).unwrap_or_default()
    }

    fn begin_step(&mut self, place: usize, profile: &str, wish: QueueWish) {
        let (now, lead) = (self.now.wall, self.prepare_lead(place));
        let Some(managed) = self.managed(place, profile) else { return };
        let Some(before) = managed.queue.clone() else {
            return match wish {
                QueueWish::Order { order: Order::Slots(slots), key, promise } => {
                    let mut to = Queue::new(*slots, now);
                    key.into_iter().for_each(|key| to.note_done(key));
                    self.store_queue(place, profile, to, None, None, Some(promise));
                }
                wish => {
                    let pool = self.settings.pools.get(place).map(|pool| pool.name.to_string()).unwrap_or_default();
                    wish.refuse(Error::NoQueue { pool, profile: profile.to_owned() });
                }
            };
        };
        if !before.is_counted() && !matches!(wish, QueueWish::Counted) {
            return managed.wishes.push_front(wish);
        }
        let until = now.after(before.ahead(lead));
        let mut to = before.clone();
        managed.gone.retain(|post| before.has(*post));
        let (gone, mut taken) = (managed.gone.clone(), std::mem::take(&mut managed.taken));
        // One that has begun, or that has been put on a shelf, is not the queue's any more, and nobody else takes its slot.
        let mut held = Vec::new();
        for (post, due) in before.placed() {
            let is_gone = gone.contains(post) || *due > now && !self.is_placed(*post, *due);
            if is_gone && to.take(*post).is_ok() && taken.due(*post).is_none() {
                taken.insert(*post, *due);
                held.push((*post, *due));
            }
        }
        for post in gone {
            let _ = to.take(post);
        }
        let left = to.follow(now, until, &taken);
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
                self.move_and_store(place, profile, to, &moves, &held, notice, QueueWish::Follow);
            }
            return;
        }
        match self.grant(&mut to, &wish, now) {
            Ok(()) => {}
            Err(answer) => {
                self.give_back(place, profile, taken);
                return match wish {
                    // It has left the queue meanwhile, and is a post as any other.
                    QueueWish::Cancel { post, promise } => {
                        self.seek_mutation(self.id(post).into(), Wish::Cancel, promise)
                    }
                    QueueWish::Release { post, due, promise } => {
                        self.seek_mutation(self.id(post).into(), Wish::Reschedule(due), promise);
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
                self.move_and_store(place, profile, to, &moves, &[], notice, wish);
            }
        }
    }

    fn give_back(&mut self, place: usize, profile: &str, taken: Taken) {
        if let Some(managed) = self.managed(place, profile) {
            managed.taken = taken;
        }
    }

    /// The wish has to wait for something, or is to be looked at anew.
    fn again(&mut self, place: usize, profile: &str, wish: QueueWish) {
        if let Some(managed) = self.managed(place, profile) {
            managed.wishes.push_front(wish);
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

    /// Moves posts, and stores the queue, all in one commit; or first has a post looked for. Slots that are held by posts
    /// which are not the queue's any more are noted.
    #[expect(clippy::too_many_arguments, reason = "one commit, and all of it is in it")]
    fn move_and_store(
        &mut self,
        place: usize,
        profile: &str,
        to: Queue,
        moves: &[(Seq, Option<Timestamp>)],
        held: &[(Seq, Timestamp)],
        notice: Option<Notice>,
        wish: QueueWish,
    ) {
        let own = match &wish {
            QueueWish::Cancel { post, .. } | QueueWish::Release { post, .. } => Some(*post),
            _ => None,
        };
        let moves: Vec<_> = moves.iter().filter(|(post, _)| Some(*post) != own).copied().collect();
        let touched: Vec<Seq> = moves.iter().map(|(post, _)| *post).chain(own).collect();
        if let Some(missing) = touched.iter().copied().find(|post| self.slot(*post).is_none()) {
            self.again(place, profile, wish);
            if let Some(managed) = self.managed(place, profile) {
                managed.is_busy = true;
            }
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
        if let Some(managed) = self.managed(place, profile) {
            managed.is_busy = true;
        }
        let pool = self.settings.pools.get(place).map(|pool| pool.name.clone()).unwrap_or_default();
        self.commits.begin_unit();
        for (post, due) in held {
            let (key, value) = queue::fixed_note(Name { pool: &pool, profile }, *post, Some(*due));
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
        if let Some(managed) = self.managed(place, profile) {
            managed.is_busy = true;
        }
    }

    /// A step is durable.
    pub(super) fn queue_stored(&mut self, step: Step) {
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
    pub(super) fn enqueued(&mut self, step: Step, enqueued: Enqueued, verdict: Verdict) {
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
    pub(super) fn queue_found(&mut self, place: usize, profile: &str, post: Seq, found: Option<Found>) {
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

    /// Whether a post is a queue's, waiting or placed.
    pub(super) fn is_queued(&self, record: &Record) -> bool {
        let site = self.places.get(record.pool).and_then(|place| self.sites.get(place));
        let managed =
            site.filter(|site| !site.queues.is_empty()).and_then(|site| site.queues.get(record.body.profile()));
        managed.and_then(|managed| managed.queue.as_ref()).is_some_and(|queue| queue.has(record.seq))
    }

    /// The host changes a post that waits in a queue; what is not the queue's business is given back.
    pub(super) fn change_queued(&mut self, record: &Record, wish: QueueWish) {
        match self.places.get(record.pool) {
            Some(place) => self.order_queue(place, record.body.profile(), &[], wish),
            None => wish.refuse(Error::Closed),
        }
    }

    /// Refuses whatever waits for queues.
    pub(super) fn refuse_queues(&mut self, error: &Error) {
        let queues = self.sites.iter_mut().flat_map(|site| site.queues.values_mut());
        for wish in queues.flat_map(|managed| managed.refusable()) {
            wish.refuse(error.clone());
        }
    }
}

impl Managed {
    /// Takes out what the host waits for.
    fn refusable(&mut self) -> Vec<QueueWish> {
        let (hosts, own): (Vec<_>, Vec<_>) = self.wishes.drain(..).partition(QueueWish::is_hosts);
        self.wishes.extend(own);
        hosts
    }

    /// Whether nothing can be done before posts have been counted.
    fn is_waiting(&self) -> bool {
        let counts = self.wishes.front().is_some_and(|wish| matches!(wish, QueueWish::Counted));
        self.queue.as_ref().is_some_and(|queue| !queue.is_counted()) && !counts
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
