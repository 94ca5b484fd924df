use super::codec::{HEAD, name as read_name};
use super::*;
use proptest::prelude::*;

const NAME: Name<'_> = Name { pool: "p", profile: "shop" };
const AHEAD: Duration = Duration::from_secs(3_600);
const SLOTS: [&str; 4] = [
    "slots Europe/Berlin Mon-Fri 08:00,17:30",
    "slots Australia/Lord_Howe Mon-Sun 01:45,02:00,02:15,02:30",
    "slots UTC Sat 10:00; extra 2030-01-08T11:45; skip 2030-01-12",
    "slots UTC extra 2030-01-08T11:45; extra 2030-01-09T11:45",
];

/// What happens to a queue.
#[derive(Clone, Debug)]
enum Op {
    Insert(Option<usize>, usize),
    Move(usize, usize),
    Swap(usize, usize),
    Shuffle(u64),
    Take(usize),
    Slots(usize),
    Pause(bool),
    Warn(Option<u64>),
    Pass(u64),
    Fix(usize),
    Free,
    Done(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (proptest::option::of(0..90usize), 1..70usize).prop_map(|(at, posts)| Op::Insert(at, posts)),
        2 => (0..90usize, 0..90usize).prop_map(|(post, to)| Op::Move(post, to)),
        1 => (0..90usize, 0..90usize).prop_map(|(one, other)| Op::Swap(one, other)),
        1 => any::<u64>().prop_map(Op::Shuffle),
        1 => (0..90usize).prop_map(Op::Take),
        1 => (0..SLOTS.len()).prop_map(Op::Slots),
        1 => any::<bool>().prop_map(Op::Pause),
        1 => proptest::option::of(1..4_000_000u64).prop_map(Op::Warn),
        3 => (0..200_000u64).prop_map(Op::Pass),
        1 => (0..9usize).prop_map(Op::Fix),
        1 => Just(Op::Free),
        1 => any::<u64>().prop_map(Op::Done),
    ]
}

/// A queue, and what it must be.
struct Bed {
    queue: Queue,
    order: Vec<Seq>,
    taken: Taken,
    now: Timestamp,
    next: u64,
    kept: BTreeMap<bytes::Bytes, bytes::Bytes>,
    left: Vec<(Seq, Timestamp)>,
}

impl Bed {
    fn new() -> Self {
        let now = Timestamp::from_datetime("2030-01-07T07:00:00Z".parse().unwrap());
        let queue = Queue::new(SLOTS[0].parse().unwrap(), now);
        let kept = queue.notes(NAME, None).into_iter().collect();
        let (taken, left) = (Taken::default(), Vec::new());
        Self { queue, order: Vec::new(), taken, now, next: 0, kept, left }
    }

    fn post(&self, at: usize) -> Seq {
        if self.order.is_empty() { Seq(u64::MAX) } else { self.order[at % self.order.len()] }
    }

    fn apply(&mut self, op: Op) {
        let before = self.queue.clone();
        let len = self.order.len();
        match op {
            Op::Insert(at, posts) => {
                let fresh: Vec<_> = (self.next..).map(Seq).take(posts).collect();
                self.next += posts as u64;
                let placed = self.queue.placed().len();
                match self.queue.insert(at, &fresh, Duration::ZERO) {
                    Ok(()) => {
                        let at = at.unwrap_or(len).max(placed);
                        self.order.splice(at..at, fresh);
                    }
                    Err(refusal) => {
                        assert_eq!(refusal, Refusal::NoPosition { position: at.unwrap(), posts: len });
                        assert!(at.unwrap() > len);
                    }
                }
            }
            Op::Move(post, to) => {
                let post = self.post(post);
                match self.queue.apply(Order::Move { post, to }, self.now) {
                    Ok(()) => {
                        let at = self.order.iter().position(|queued| *queued == post).unwrap();
                        self.order.remove(at);
                        self.order.insert(to, post);
                    }
                    Err(_) => assert!(to >= len),
                }
            }
            Op::Swap(one, other) => {
                let (one, other) = (self.post(one), self.post(other));
                if self.queue.apply(Order::Swap(one, other), self.now).is_ok() {
                    let at = |post| self.order.iter().position(|queued| *queued == post).unwrap();
                    let (one, other) = (at(one), at(other));
                    self.order.swap(one, other);
                }
            }
            Op::Shuffle(seed) => {
                self.queue.apply(Order::Shuffle(seed), self.now).unwrap();
                let shuffled: Vec<_> = self.queue.posts().collect();
                let mut again = before.clone();
                again.apply(Order::Shuffle(seed), self.now).unwrap();
                assert_eq!(again.order, self.queue.order, "the same seed, the same order");
                let sorted = |posts: &[Seq]| posts.iter().copied().collect::<BTreeSet<_>>();
                assert_eq!(sorted(&shuffled), sorted(&self.order));
                self.order = shuffled;
            }
            Op::Take(post) => {
                let post = self.post(post);
                assert_eq!(self.queue.take(post).is_ok(), len > 0);
                self.order.retain(|queued| *queued != post);
            }
            Op::Slots(slots) => {
                let slots = SLOTS[slots].parse().unwrap();
                self.queue.apply(Order::Slots(Box::new(slots)), self.now).unwrap();
            }
            Op::Pause(paused) => self.queue.apply(Order::Pause(paused), self.now).unwrap(),
            Op::Warn(secs) => {
                self.queue.apply(Order::WarnAhead(Duration::from_secs(secs.unwrap_or(0))), self.now).unwrap();
            }
            Op::Pass(secs) => {
                self.now = self.now.after(Duration::from_secs(secs));
                let due: Vec<_> = self.queue.dues(&self.taken).take_while(|(_, due)| *due <= self.now).collect();
                let mut left = self.queue.follow(self.now, self.now.after(AHEAD), &self.taken);
                while left.len() < due.len() {
                    let more = self.queue.follow(self.now, self.now.after(AHEAD), &self.taken);
                    assert!(!more.is_empty());
                    left.extend(more);
                }
                assert_eq!(left, due, "those whose slot has come leave, no others");
                if left.len() < limits::PLACE_POSTS {
                    assert!(self.queue.since >= self.now, "no slot of the past is given to those that come now");
                }
                self.order.drain(..left.len());
                self.notice(!left.is_empty());
                self.left.extend(left);
            }
            Op::Fix(nth) => {
                let slots = self.queue.slots().clone();
                if let Some(due) = slots.after(self.now.to_datetime()).nth(nth) {
                    self.taken.insert(Seq(1_000_000 + nth as u64), Timestamp::due(due));
                }
            }
            Op::Free => {
                let post = self.taken.posts.keys().next().copied();
                post.map(|post| self.taken.remove(post));
            }
            Op::Done(key) => {
                self.queue.note_done(key);
                assert!(self.queue.has_done(key));
            }
        }
        self.queue.place(self.now.after(AHEAD), &self.taken);
        self.check(&before);
    }

    /// It is said once that the queue runs low, and once that it is empty.
    fn notice(&mut self, has_left: bool) {
        let last = self.queue.dues(&self.taken).last().map(|(_, due)| due);
        let ahead = self.queue.warn_ahead;
        let is_low = last.is_some_and(|last| last <= self.now.after(ahead)) && !ahead.is_zero();
        let low = last.filter(|_| is_low && !self.queue.is_warned);
        let expected = match self.order.len() {
            0 => has_left.then_some(Notice::Empty),
            left => low.map(|last| Notice::Low { left, last }),
        };
        assert_eq!(self.queue.notice(self.now, &self.taken, has_left), expected);
        assert_eq!(self.queue.notice(self.now, &self.taken, false), None, "said once");
    }

    fn check(&mut self, before: &Queue) {
        let order: Vec<_> = self.queue.posts().collect();
        assert_eq!(order, self.order);
        assert_eq!(self.queue.len(), order.len());
        let dues: Vec<_> = self.queue.dues(&self.taken).collect();
        // Each slot holds one post, in their order; none that is taken.
        assert!(dues.is_sorted_by(|(_, one), (_, next)| one < next));
        assert!(dues.iter().map(|(post, _)| post).eq(order.iter().take(dues.len())));
        assert!(dues.iter().all(|(_, due)| *due > self.queue.since && !self.taken.has(*due)));
        for (_, due) in dues.iter().take(50) {
            let just_before = due.before(Duration::from_secs(1)).to_datetime();
            assert_eq!(self.queue.slots().next_after(just_before), Some(due.to_datetime()), "a slot and nothing else");
        }
        assert_eq!(dues.is_empty(), order.is_empty() || self.queue.is_paused || self.queue.slots_end(&self.taken));
        // No slot between now and the last one is left out.
        let near = dues.iter().copied().take_while(|(_, due)| *due <= self.now.after(AHEAD));
        let placed: Vec<_> = near.take(limits::PLACE_POSTS).collect();
        assert_eq!(self.queue.placed(), placed);
        let mut again = self.queue.clone();
        again.place(self.now.after(AHEAD), &self.taken);
        assert_eq!(again, self.queue, "placing is idempotent");
        if let Some(wake) = self.queue.wake_at(AHEAD, &self.taken) {
            let next = dues.get(placed.len()).map(|(_, due)| due.before(AHEAD));
            let is_watched = !self.queue.warn_ahead.is_zero() && !self.queue.is_warned;
            let warns = dues.last().filter(|_| is_watched).map(|(_, due)| due.before(self.queue.warn_ahead));
            assert_eq!(Some(wake), placed.first().map(|(_, due)| *due).into_iter().chain(next).chain(warns).min());
        }
        // What is remembered, piece by piece, comes down to the same queue.
        for (key, value) in self.queue.notes(NAME, Some(before)) {
            assert!(value.len() <= 2_000 || read_name(&key).unwrap().0 == HEAD, "{} bytes", value.len());
            if value.is_empty() {
                self.kept.remove(&key)
            } else {
                self.kept.insert(key, value)
            };
        }
        let mut parts = Parts::default();
        for (key, value) in &self.kept {
            let (letter, name, number) = read_name(key).unwrap();
            assert_eq!((name.pool, name.profile), (NAME.pool, NAME.profile));
            parts.add(letter, number, value.clone());
        }
        assert_eq!(parts.assemble().as_ref(), Some(&self.queue));
    }
}

impl Queue {
    fn slots_end(&self, taken: &Taken) -> bool {
        !self.slots.after(self.since.to_datetime()).any(|slot| !taken.has(Timestamp::due(slot)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_keeps_its_order_takes_each_slot_once_and_is_remembered(
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut bed = Bed::new();
        ops.into_iter().for_each(|op| bed.apply(op));
        let mut seen = BTreeSet::new();
        prop_assert!(bed.left.iter().all(|(post, _)| seen.insert(*post)), "no post leaves twice");
    }

    #[test]
    fn other_pieces_are_no_queue(head: Vec<u8>, part: Vec<u8>, key: Vec<u8>) {
        let mut parts = Parts::default();
        parts.add(HEAD, 0, head.into());
        parts.add(b'q', 7, part.into());
        prop_assert_eq!(parts.assemble(), None);
        let _ = read_name(&key);
        let _ = taken_due(&key);
    }
}

#[test]
fn a_post_whose_slot_has_come_leaves_with_it_also_where_the_slot_was_taken_meanwhile() {
    let mut bed = Bed::new();
    let posts = [0, 1, 2].map(Seq);
    bed.queue.apply(Order::Slots(Box::new("slots UTC Mon-Sun 08:00,09:00,10:00".parse().unwrap())), bed.now).unwrap();
    bed.queue.insert(None, &posts, Duration::ZERO).unwrap();
    bed.queue.place(bed.now.after(AHEAD), &bed.taken);
    let [(_, slot)] = bed.queue.placed() else { panic!("a test of nothing") };
    let slot = *slot;
    bed.taken.insert(Seq(9), slot);
    // 8:30, and 9:00 was free.
    let now = slot.after(Duration::from_secs(1_800));
    assert_eq!(bed.queue.follow(now, now.after(AHEAD), &bed.taken), [(posts[0], slot)]);
    assert_eq!(bed.queue.placed(), [(posts[1], slot.after(AHEAD))]);
    // Those that had no slot yet when theirs came do not get one that another post has.
    bed.taken.insert(Seq(10), slot.after(AHEAD));
    bed.queue.place(now, &bed.taken);
    let now = slot.after(3 * AHEAD);
    assert_eq!(bed.queue.follow(now, now.after(AHEAD), &bed.taken), [(posts[1], slot.after(2 * AHEAD))]);
}

#[test]
fn more_than_go_in_one_step_leave_in_several_and_no_slot_is_left_out() {
    let mut bed = Bed::new();
    let hours: Vec<String> = (0..96).map(|slot| format!("{:02}:{:02}", slot / 4, slot % 4 * 15)).collect();
    let slots = format!("slots UTC Mon-Sun {}", hours.join(","));
    bed.queue.apply(Order::Slots(Box::new(slots.parse().unwrap())), bed.now).unwrap();
    let posts: Vec<_> = (0..600).map(Seq).collect();
    bed.queue.insert(None, &posts, Duration::ZERO).unwrap();
    let now = bed.now.after(Duration::from_secs(10 * 86_400));
    let all: Vec<_> = bed.queue.dues(&bed.taken).collect();
    let steps: Vec<_> = (0..4).map(|_| bed.queue.follow(now, now, &bed.taken)).collect();
    assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [limits::PLACE_POSTS, limits::PLACE_POSTS, 88, 0]);
    assert_eq!((steps.concat(), bed.queue.since), (all, now));
}

#[test]
fn a_change_at_an_end_of_a_long_queue_writes_one_part() {
    let mut bed = Bed::new();
    bed.queue.insert(None, &(0..10_000).map(Seq).collect::<Vec<_>>(), Duration::ZERO).unwrap();
    let before = bed.queue.clone();
    bed.queue.insert(None, &[Seq(10_000)], Duration::ZERO).unwrap();
    assert_eq!(bed.queue.notes(NAME, Some(&before)).len(), 1);
    let before = bed.queue.clone();
    bed.queue.insert(Some(0), &[Seq(10_001)], Duration::ZERO).unwrap();
    assert_eq!(bed.queue.notes(NAME, Some(&before)).len(), 2);
    let before = bed.queue.clone();
    bed.queue.apply(Order::Slots(Box::new(SLOTS[1].parse().unwrap())), bed.now).unwrap();
    assert_eq!(bed.queue.notes(NAME, Some(&before)).len(), 1);
    // Those that leave at the front move no part either.
    let before = bed.queue.clone();
    let (slot, all) = (bed.queue.dues(&bed.taken).next().unwrap().1, bed.queue.len());
    bed.queue.follow(slot, slot, &bed.taken);
    assert_eq!((bed.queue.notes(NAME, Some(&before)).len(), bed.queue.len()), (2, all - 1));
}

#[test]
fn a_queue_takes_as_many_posts_as_it_may_hold_and_no_more() {
    let mut bed = Bed::new();
    let posts: Vec<_> = (0..limits::QUEUE_POSTS as u64).map(Seq).collect();
    let (last, most) = posts.split_last().unwrap();
    bed.queue.insert(None, most, Duration::ZERO).unwrap();
    let more = [*last, Seq(u64::MAX)];
    assert_eq!(bed.queue.insert(None, &more, Duration::ZERO), Err(Refusal::Full));
    bed.queue.insert(None, &more[..1], Duration::ZERO).unwrap();
    assert_eq!(bed.queue.insert(None, &more[1..], Duration::ZERO), Err(Refusal::Full));
    assert!(bed.queue.posts().eq(posts));
}

#[test]
fn what_is_taken_is_forgotten_once_it_has_passed() {
    let at = Timestamp::from_millis;
    let mut taken = Taken::default();
    taken.insert(Seq(1), at(5));
    taken.insert(Seq(2), at(9));
    assert!(!taken.is_passed_by(at(4)) && taken.is_passed_by(at(5)));
    assert_eq!(taken.forget_through(at(5)), [Seq(1)]);
    assert!(!taken.is_passed_by(at(8)) && taken.is_passed_by(at(10)));
}

#[test]
fn every_order_is_as_likely_after_a_shuffle() {
    let now = Timestamp::from_millis(0);
    let mut orders = BTreeMap::<Vec<u64>, u32>::new();
    for seed in 0..2_400 {
        let mut queue = Queue::new(SLOTS[0].parse().unwrap(), now);
        queue.insert(None, &[1, 2, 3, 4].map(Seq), Duration::ZERO).unwrap();
        queue.apply(Order::Shuffle(seed), now).unwrap();
        *orders.entry(queue.posts().map(|post| post.0).collect()).or_default() += 1;
    }
    assert_eq!(orders.len(), 24, "all orders of four");
    assert!(orders.values().all(|times| (60..=140).contains(times)), "{orders:?}");
}

#[test]
fn the_last_keys_are_known() {
    let mut bed = Bed::new();
    let keys = limits::QUEUE_KEYS as u64;
    (0..=keys).for_each(|key| bed.queue.note_done(key));
    assert!((1..=keys).all(|key| bed.queue.has_done(key)));
    assert_eq!((bed.queue.has_done(0), bed.queue.done.len()), (false, limits::QUEUE_KEYS));
}

#[test]
fn what_is_taken_out_is_placed_no_more_and_the_others_are() {
    let mut bed = Bed::new();
    let slots = "slots UTC Mon-Sun 07:10,07:20,07:30".parse().unwrap();
    bed.queue.apply(Order::Slots(Box::new(slots)), bed.now).unwrap();
    bed.queue.insert(None, &[0, 1, 2].map(Seq), Duration::ZERO).unwrap();
    bed.queue.place(bed.now.after(AHEAD), &bed.taken);
    let placed = bed.queue.placed().to_vec();
    bed.queue.take(Seq(1)).unwrap();
    assert_eq!((bed.queue.placed(), bed.queue.len()), (&[placed[0], placed[2]][..], 2));
}
