//! First-in-first-out queues of hints, kept in chunks out of one recycled pool.

use super::segments::Segments;
use super::slab::Ticket;

/// Hints in one chunk.
pub(super) const CHUNK: usize = 64;
/// Chunks are allocated so many at a time, as a power of two.
const SEGMENT: u32 = 9;
/// No chunk: the end of a queue or of the list of free ones.
const NONE: u32 = u32::MAX;

/// Says that an entry may fire at a tick. The slab knows whether it is so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    pub(super) ticket: Ticket,
    /// The low 32 bits of the tick.
    pub(super) low: u32,
}

impl Hint {
    const BLANK: Self = Self { ticket: Ticket::BLANK, low: 0 };

    #[inline]
    pub(super) fn new(ticket: Ticket, tick: u64) -> Self {
        Self { ticket, low: tick as u32 }
    }
}

/// What the ticks of a chunk have in common, so that it can move as a whole without being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    /// The low bits of one of them.
    pub(super) low: u32,
    /// The bits in which any of them differs from that.
    pub(super) differ: u32,
}

/// A chunk but for its hints. These are kept apart: headers are touched far more often, and stay in the cache.
#[derive(Debug)]
struct Header {
    next: u32,
    /// The hints still in the queue are those from `start` to `end`; there is always one.
    start: u16,
    end: u16,
    ticks: Ticks,
}

/// A queue; its hints are in the pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
    len: u32,
}

impl Queue {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The chunks of all queues. Empty ones are kept for reuse.
#[derive(Debug)]
pub(super) struct Pool {
    headers: Segments<Header, SEGMENT>,
    hints: Segments<[Hint; CHUNK], SEGMENT>,
    free: u32,
    len: usize,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self { headers: Segments::new(), hints: Segments::new(), free: NONE, len: 0 }
    }

    /// Hints in all queues.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Always inlined for the reason that [`Segments::push`] is.
    #[inline(always)]
    pub(super) fn push(&mut self, queue: &mut Queue, hint: Hint) {
        let tail = self.tail(queue, hint.low);
        let header = &mut self.headers[tail];
        self.hints[tail][usize::from(header.end)] = hint;
        header.end += 1;
        header.ticks.differ |= header.ticks.low ^ hint.low;
        queue.len += 1;
        self.len += 1;
    }

    /// The same for many.
    pub(super) fn push_all(&mut self, queue: &mut Queue, mut hints: &[Hint]) {
        while let Some(first) = hints.first() {
            let tail = self.tail(queue, first.low);
            let header = &mut self.headers[tail];
            let end = usize::from(header.end);
            let (fitting, rest) = hints.split_at(hints.len().min(CHUNK - end));
            self.hints[tail][end..end + fitting.len()].copy_from_slice(fitting);
            header.end += fitting.len() as u16;
            header.ticks.differ |= fitting.iter().fold(0, |differ, hint| differ | (header.ticks.low ^ hint.low));
            queue.len += fitting.len() as u32;
            self.len += fitting.len();
            hints = rest;
        }
    }

    /// The last chunk of the queue if it has room, else a new one, for a first hint with these low bits.
    #[inline]
    fn tail(&mut self, queue: &mut Queue, low: u32) -> u32 {
        match self.headers.get(queue.tail) {
            Some(header) if usize::from(header.end) < CHUNK => queue.tail,
            _ => self.extend(queue, low),
        }
    }

    /// The hints of the first chunk, empty only if the queue is.
    #[inline]
    pub(super) fn front(&self, queue: &Queue) -> &[Hint] {
        match self.headers.get(queue.head) {
            Some(header) => &self.hints[queue.head][usize::from(header.start)..usize::from(header.end)],
            None => &[],
        }
    }

    /// The ticks of the first chunk, if it is a full one.
    pub(super) fn front_ticks(&self, queue: &Queue) -> Option<Ticks> {
        let header = self.headers.get(queue.head)?;
        (usize::from(header.end - header.start) == CHUNK).then_some(header.ticks)
    }

    /// Drops so many hints off the first chunk, at most all.
    pub(super) fn skip(&mut self, queue: &mut Queue, hints: usize) {
        let Some(header) = self.headers.get_mut(queue.head) else { return };
        let skipped = hints.min(usize::from(header.end - header.start));
        header.start += skipped as u16;
        queue.len -= skipped as u32;
        self.len -= skipped;
        if header.start == header.end {
            let emptied = self.unlink(queue);
            self.headers[emptied].next = std::mem::replace(&mut self.free, emptied);
        }
    }

    /// Moves the first chunk of one queue to the end of another as it is.
    pub(super) fn relink(&mut self, from: &mut Queue, to: &mut Queue) {
        if let Some(Header { start, end, .. }) = self.headers.get(from.head) {
            let len = u32::from(end - start);
            let chunk = self.unlink(from);
            from.len -= len;
            self.append(to, Queue { head: chunk, tail: chunk, len });
        }
    }

    /// Puts the hints of `back` behind those of `queue`.
    pub(super) fn append(&mut self, queue: &mut Queue, back: Queue) {
        if !back.is_empty() {
            self.link(queue, back);
        }
    }

    /// Likewise, for a `back` that has a chunk.
    fn link(&mut self, queue: &mut Queue, back: Queue) {
        match self.headers.get_mut(queue.tail) {
            Some(tail) => tail.next = back.head,
            None => queue.head = back.head,
        }
        queue.tail = back.tail;
        queue.len += back.len;
    }

    /// Takes the first chunk out of the queue.
    fn unlink(&mut self, queue: &mut Queue) -> u32 {
        let head = queue.head;
        queue.head = std::mem::replace(&mut self.headers[head].next, NONE);
        if queue.head == NONE {
            queue.tail = NONE;
        }
        head
    }

    /// Adds an empty chunk at the end of the queue, for a first hint with these low bits.
    #[cold]
    fn extend(&mut self, queue: &mut Queue, low: u32) -> u32 {
        let fresh = Header { next: NONE, start: 0, end: 0, ticks: Ticks { low, differ: 0 } };
        let chunk = match self.headers.get_mut(self.free) {
            Some(header) => std::mem::replace(&mut self.free, std::mem::replace(header, fresh).next),
            None => {
                self.hints.push([Hint::BLANK; CHUNK]);
                self.headers.push(fresh)
            }
        };
        self.link(queue, Queue { head: chunk, tail: chunk, len: 0 });
        chunk
    }
}
