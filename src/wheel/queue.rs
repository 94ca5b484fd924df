//! First-in-first-out queues of hints, kept in chunks out of one recycled pool.

use super::segments::Segments;
use super::slab::Ticket;

/// Hints in one chunk: with its header, 764 bytes.
pub(super) const CHUNK: usize = 63;
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

#[derive(Debug)]
struct Chunk {
    next: u32,
    /// The hints still in the queue are those from `start` to `end`; there is always one.
    start: u16,
    end: u16,
    hints: [Hint; CHUNK],
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
    chunks: Segments<Chunk, 9>,
    free: u32,
    hints: usize,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self { chunks: Segments::new(), free: NONE, hints: 0 }
    }

    /// Hints in all queues.
    pub(super) fn hints(&self) -> usize {
        self.hints
    }

    #[inline]
    pub(super) fn push(&mut self, queue: &mut Queue, hint: Hint) {
        let tail = match self.chunks.get(queue.tail) {
            Some(chunk) if usize::from(chunk.end) < CHUNK => queue.tail,
            _ => self.extend(queue),
        };
        let chunk = &mut self.chunks[tail];
        chunk.hints[usize::from(chunk.end)] = hint;
        chunk.end += 1;
        queue.len += 1;
        self.hints += 1;
    }

    pub(super) fn push_all(&mut self, queue: &mut Queue, mut hints: &[Hint]) {
        while let Some((first, rest)) = hints.split_first() {
            self.push(queue, *first);
            let chunk = &mut self.chunks[queue.tail];
            let end = usize::from(chunk.end);
            let (now, later) = rest.split_at(rest.len().min(CHUNK - end));
            chunk.hints[end..end + now.len()].copy_from_slice(now);
            chunk.end += now.len() as u16;
            queue.len += now.len() as u32;
            self.hints += now.len();
            hints = later;
        }
    }

    /// The hints of the first chunk, empty only if the queue is.
    #[inline]
    pub(super) fn front(&self, queue: &Queue) -> &[Hint] {
        match self.chunks.get(queue.head) {
            Some(chunk) => &chunk.hints[usize::from(chunk.start)..usize::from(chunk.end)],
            None => &[],
        }
    }

    /// Takes at most `limit` hints off the first chunk.
    pub(super) fn take(&mut self, queue: &mut Queue, limit: usize, out: &mut Vec<Hint>) {
        let Some(chunk) = self.chunks.get_mut(queue.head) else { return };
        let start = usize::from(chunk.start);
        let taken = limit.min(usize::from(chunk.end) - start);
        out.extend_from_slice(&chunk.hints[start..start + taken]);
        chunk.start += taken as u16;
        queue.len -= taken as u32;
        self.hints -= taken;
        if chunk.start == chunk.end {
            let emptied = queue.head;
            self.unlink(queue);
            self.chunks[emptied].next = std::mem::replace(&mut self.free, emptied);
        }
    }

    /// Moves the first chunk of one queue to the end of another as it is.
    pub(super) fn relink(&mut self, from: &mut Queue, to: &mut Queue) {
        let moved = self.front(from).len() as u32;
        if moved > 0 {
            let chunk = self.unlink(from);
            from.len -= moved;
            self.append(to, Queue { head: chunk, tail: chunk, len: moved });
        }
    }

    /// Puts the hints of `back` behind those of `queue`.
    pub(super) fn append(&mut self, queue: &mut Queue, back: Queue) {
        if back.is_empty() {
            return;
        }
        match self.chunks.get_mut(queue.tail) {
            Some(tail) => tail.next = back.head,
            None => queue.head = back.head,
        }
        queue.tail = back.tail;
        queue.len += back.len;
    }

    /// Takes the first chunk out of the queue.
    fn unlink(&mut self, queue: &mut Queue) -> u32 {
        let head = queue.head;
        queue.head = std::mem::replace(&mut self.chunks[head].next, NONE);
        if queue.head == NONE {
            queue.tail = NONE;
        }
        head
    }

    /// Adds an empty chunk at the end of the queue, to be filled at once.
    #[cold]
    fn extend(&mut self, queue: &mut Queue) -> u32 {
        let fresh = match self.chunks.get_mut(self.free) {
            Some(chunk) => {
                (chunk.start, chunk.end) = (0, 0);
                let index = self.free;
                self.free = std::mem::replace(&mut chunk.next, NONE);
                index
            }
            None => self.chunks.push(Chunk { next: NONE, start: 0, end: 0, hints: [Hint::BLANK; CHUNK] }),
        };
        match self.chunks.get_mut(queue.tail) {
            Some(tail) => tail.next = fresh,
            None => queue.head = fresh,
        }
        queue.tail = fresh;
        fresh
    }
}
