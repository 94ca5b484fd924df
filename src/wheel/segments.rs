//! A vector that grows by whole segments: growing never moves what is already there, so no push is slow.

use std::ops::{Index, IndexMut};

/// Elements in segments of `1 << BITS`. They are never taken out; their owner reuses them.
#[derive(Debug)]
pub(super) struct Segments<E, const BITS: u32> {
    segments: Vec<Vec<E>>,
    len: u32,
}

impl<E, const BITS: u32> Segments<E, BITS> {
    const SIZE: u32 = 1 << BITS;
    const MASK: u32 = Self::SIZE - 1;

    pub(super) const fn new() -> Self {
        Self { segments: Vec::new(), len: 0 }
    }

    /// Appends an element and says where it is. Always inlined, so that the element goes from registers to its place:
    /// through memory on the way, each push would wait until the one before it is written.
    #[inline(always)]
    pub(super) fn push(&mut self, element: E) -> u32 {
        let index = self.len;
        if index & Self::MASK == 0 {
            // The first segment starts empty and doubles, so that a small wheel stays small.
            let capacity = if index == 0 { 0 } else { Self::SIZE as usize };
            self.segments.push(Vec::with_capacity(capacity));
        }
        if let Some(segment) = self.segments.last_mut() {
            segment.push(element);
            self.len += 1;
        }
        index
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&E> {
        count_touch();
        self.segments.get((index >> BITS) as usize)?.get((index & Self::MASK) as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut E> {
        count_touch();
        self.segments.get_mut((index >> BITS) as usize)?.get_mut((index & Self::MASK) as usize)
    }
}

/// For indices that `push` gave out.
impl<E, const BITS: u32> Index<u32> for Segments<E, BITS> {
    type Output = E;

    #[inline]
    fn index(&self, index: u32) -> &E {
        count_touch();
        &self.segments[(index >> BITS) as usize][(index & Self::MASK) as usize]
    }
}

impl<E, const BITS: u32> IndexMut<u32> for Segments<E, BITS> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut E {
        count_touch();
        &mut self.segments[(index >> BITS) as usize][(index & Self::MASK) as usize]
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread has touched an element: the work of a call, without a clock.
    pub(super) static TOUCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[inline]
fn count_touch() {
    #[cfg(test)]
    TOUCHES.set(TOUCHES.get() + 1);
}
