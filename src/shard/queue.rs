//! A queue, smallest first, that costs next to nothing while things arrive in order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

#[derive(Debug)]
pub struct Queue<T> {
    /// Sorted. Takes what fits at one of its ends.
    line: VecDeque<T>,
    rest: BinaryHeap<Reverse<T>>,
}

impl<T: Ord> Default for Queue<T> {
    fn default() -> Self {
        Self { line: VecDeque::new(), rest: BinaryHeap::new() }
    }
}

impl<T: Ord> Queue<T> {
    pub fn push(&mut self, item: T) {
        if self.line.back().is_none_or(|back| *back <= item) {
            self.line.push_back(item);
        } else if self.line.front().is_some_and(|front| item <= *front) {
            self.line.push_front(item);
        } else {
            self.rest.push(Reverse(item));
        }
    }

    pub fn peek(&self) -> Option<&T> {
        match (self.line.front(), self.rest.peek()) {
            (Some(front), Some(Reverse(top))) => Some(front.min(top)),
            (front, top) => front.or(top.map(|Reverse(top)| top)),
        }
    }

    pub fn pop(&mut self) -> Option<T> {
        match (self.line.front(), self.rest.peek()) {
            (Some(front), Some(Reverse(top))) if top < front => self.rest.pop(),
            (None, Some(_)) => self.rest.pop(),
            _ => return self.line.pop_front(),
        }
        .map(|Reverse(top)| top)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.line.retain(&mut keep);
        self.rest.retain(|Reverse(item)| keep(item));
    }

    pub fn len(&self) -> usize {
        self.line.len() + self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_left_when_the_last_of_the_line_have_gone_comes_too() {
        let mut queue = Queue::default();
        [1, 5, 3].into_iter().for_each(|item| queue.push(item));
        queue.retain(|item| *item < 4);
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(1), Some(3), None]);
    }

    proptest! {
        #[test]
        fn a_queue_gives_the_smallest_first(ops in prop::collection::vec(0u8..60, 0..200), bound in 1u8..50) {
            let (mut queue, mut model) = (Queue::default(), Vec::new());
            for op in ops {
                match op {
                    item @ ..50 => {
                        queue.push(item);
                        model.push(item);
                        model.sort_unstable_by(|a, b| b.cmp(a));
                    }
                    58.. => {
                        queue.retain(|item| *item < bound);
                        model.retain(|item| *item < bound);
                    }
                    _ => prop_assert_eq!(queue.pop(), model.pop()),
                }
                prop_assert_eq!(queue.peek(), model.last());
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
