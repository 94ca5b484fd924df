//! The rings of buckets: which bucket a tick belongs to, and which bucket is next.

use super::queue::{CHUNK, Hint, Pool, Queue, Ticks};

/// A level tells ticks apart by this many bits.
const BITS: u32 = 12;
pub(super) const BUCKETS: usize = 1 << BITS;
/// Enough for every bit of a tick.
pub(super) const LEVELS: usize = u64::BITS.div_ceil(BITS) as usize;

/// One cell of one level. On level 0 it is one tick, on each next level as long as the whole level below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bucket {
    pub(super) level: usize,
    pub(super) digit: usize,
}

impl Bucket {
    /// Where a tick belongs at a time: on the level of the highest digit in which they differ. So all ticks of a
    /// level come before those of the levels above, and a tick's bucket depends on nothing but the time.
    #[inline]
    pub(super) fn of(tick: u64, now: u64) -> Self {
        let level = (((tick ^ now) | 1).ilog2() / BITS) as usize;
        Self { level, digit: (tick >> (BITS * level as u32)) as usize % BUCKETS }
    }

    fn shift(self) -> u32 {
        BITS * self.level as u32
    }

    /// The first tick of the bucket, seen from a time for which it is the bucket of its ticks.
    #[inline]
    pub(super) fn start(self, now: u64) -> u64 {
        let above = now >> self.shift() >> BITS << BITS;
        (above | self.digit as u64) << self.shift()
    }

    /// From its first tick to its last.
    pub(super) fn span(self) -> u64 {
        (1 << self.shift()) - 1
    }

    /// Whether the low bits in a hint tell the ticks of this bucket apart.
    pub(super) fn fits_hint(self) -> bool {
        self.shift() <= u32::BITS
    }

    /// The tick of which a hint in this bucket has the low bits; only if they [fit](Self::fits_hint).
    #[inline]
    pub(super) fn tick(self, low: u32, start: u64) -> u64 {
        start | (u64::from(low) & self.span())
    }

    /// Whether all ticks that differ from one of this bucket in no other than these bits are of this bucket.
    pub(super) fn holds_all(self, differ: u32) -> bool {
        u64::from(differ) <= self.span()
    }
}

/// Which buckets of a level hold hints.
#[derive(Clone, Copy, Debug)]
struct Occupied {
    words: [u64; BUCKETS / 64],
    /// Which words are not zero.
    summary: u64,
}

impl Occupied {
    #[inline]
    fn set(&mut self, digit: usize) {
        self.words[digit / 64] |= 1 << (digit % 64);
        self.summary |= 1 << (digit / 64);
    }

    fn clear(&mut self, digit: usize) {
        self.words[digit / 64] &= !(1 << (digit % 64));
        if self.words[digit / 64] == 0 {
            self.summary &= !(1 << (digit / 64));
        }
    }

    /// The first one from `digit` on.
    fn next(&self, digit: usize) -> Option<usize> {
        let word = digit / 64;
        let here = self.words.get(word)? & (u64::MAX << (digit % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let beyond = self.summary & (u64::MAX << word << 1);
        let word = (beyond != 0).then(|| beyond.trailing_zeros() as usize)?;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }
}

#[derive(Debug)]
struct Level {
    /// None before the first hint.
    queues: Vec<Queue>,
    occupied: Occupied,
}

#[derive(Debug)]
pub(super) struct Levels {
    levels: [Level; LEVELS],
    pool: Pool,
}

impl Levels {
    pub(super) fn new() -> Self {
        let level = |_| Level { queues: Vec::new(), occupied: Occupied { words: [0; BUCKETS / 64], summary: 0 } };
        Self { levels: std::array::from_fn(level), pool: Pool::new() }
    }

    /// Hints in all buckets, those [set aside](Self::set_aside) included.
    pub(super) fn hints(&self) -> usize {
        self.pool.len()
    }

    pub(super) fn len(&self, bucket: Bucket) -> usize {
        self.levels[bucket.level].queues.get(bucket.digit).map_or(0, Queue::len)
    }

    /// Always inlined, as [`Pool::push`] is.
    #[inline(always)]
    pub(super) fn push(&mut self, bucket: Bucket, hint: Hint) {
        let Self { levels, pool } = self;
        pool.push(levels[bucket.level].queue(bucket.digit), hint);
    }

    /// The hints of the first chunk of the bucket.
    #[inline]
    pub(super) fn front(&self, bucket: Bucket) -> &[Hint] {
        self.levels[bucket.level].queues.get(bucket.digit).map_or(&[], |queue| self.pool.front(queue))
    }

    /// The ticks of the first chunk of the bucket, if it is a full one.
    pub(super) fn front_ticks(&self, bucket: Bucket) -> Option<Ticks> {
        self.pool.front_ticks(self.levels[bucket.level].queues.get(bucket.digit)?)
    }

    /// Drops so many hints off the first chunk of the bucket, at most all.
    pub(super) fn skip(&mut self, bucket: Bucket, hints: usize) {
        let Self { levels, pool } = self;
        let level = &mut levels[bucket.level];
        if let Some(queue) = level.queues.get_mut(bucket.digit) {
            pool.skip(queue, hints);
            if queue.is_empty() {
                level.occupied.clear(bucket.digit);
            }
        }
    }

    /// Takes at most `limit` hints off the first chunk of the bucket.
    pub(super) fn take(&mut self, bucket: Bucket, limit: usize, out: &mut Vec<Hint>) {
        let front = self.front(bucket);
        let taken = limit.min(front.len());
        out.extend_from_slice(&front[..taken]);
        self.skip(bucket, taken);
    }

    /// Takes all hints of the bucket.
    pub(super) fn take_all(&mut self, bucket: Bucket, out: &mut Vec<Hint>) {
        while self.len(bucket) > 0 {
            self.take(bucket, CHUNK, out);
        }
    }

    /// Moves the first chunk of a bucket to the end of another as it is.
    pub(super) fn relink(&mut self, from: Bucket, to: Bucket) {
        let mut source = self.detach(from);
        let Self { levels, pool } = self;
        pool.relink(&mut source, levels[to.level].queue(to.digit));
        self.prepend(from, source);
    }

    /// Takes the queue of the bucket away from it.
    pub(super) fn detach(&mut self, bucket: Bucket) -> Queue {
        let level = &mut self.levels[bucket.level];
        level.occupied.clear(bucket.digit);
        level.queues.get_mut(bucket.digit).map_or(Queue::EMPTY, |queue| std::mem::replace(queue, Queue::EMPTY))
    }

    /// Puts hints before those of the bucket.
    pub(super) fn prepend(&mut self, bucket: Bucket, mut front: Queue) {
        if !front.is_empty() {
            let Self { levels, pool } = self;
            let queue = levels[bucket.level].queue(bucket.digit);
            pool.append(&mut front, *queue);
            *queue = front;
        }
    }

    pub(super) fn push_all(&mut self, bucket: Bucket, hints: &[Hint]) {
        if !hints.is_empty() {
            let Self { levels, pool } = self;
            pool.push_all(levels[bucket.level].queue(bucket.digit), hints);
        }
    }

    /// Adds hints to a queue that is no bucket's.
    pub(super) fn set_aside(&mut self, queue: &mut Queue, hints: &[Hint]) {
        self.pool.push_all(queue, hints);
    }

    /// Moves all hints of the levels below that of the bucket into it, before its own. Those of one tick stay in
    /// order: they were together, or those of the lower level are the older ones.
    pub(super) fn gather(&mut self, into: Bucket, mut gathered: Queue) {
        for level in 0..into.level {
            let mut digit = 0;
            while let Some(bucket) = self.next_on(level, digit) {
                let queue = self.detach(bucket);
                self.pool.append(&mut gathered, queue);
                digit = bucket.digit + 1;
            }
        }
        self.prepend(into, gathered);
    }

    /// The first occupied bucket of a level from a digit on.
    #[inline]
    pub(super) fn next_on(&self, level: usize, digit: usize) -> Option<Bucket> {
        self.levels[level].occupied.next(digit).map(|digit| Bucket { level, digit })
    }

    /// The first occupied bucket above level 0: nothing above level 0 fires before it starts.
    pub(super) fn next_coarse(&self) -> Option<Bucket> {
        (1..LEVELS).find_map(|level| self.next_on(level, 0))
    }
}

impl Level {
    /// The queue of a bucket that is about to get a hint.
    #[inline]
    fn queue(&mut self, digit: usize) -> &mut Queue {
        if self.queues.is_empty() {
            self.queues.resize(BUCKETS, Queue::EMPTY);
        }
        self.occupied.set(digit);
        &mut self.queues[digit]
    }
}
