//! The bounded way into a loop.

use std::sync::Arc;

use crate::clock::Bell;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Receiver, Sender, TryIter, bounded};

/// A loop's end: messages wait here until the loop takes them. What is left when it is dropped is dropped too, so that
/// nobody waits for an answer that cannot come.
#[derive(Debug)]
pub struct Inbox<T> {
    receiver: Receiver<T>,
    closed: Arc<AtomicBool>,
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        self.receiver.try_iter().for_each(drop);
    }
}

/// Everyone else's end. Putting a message in rings the loop's bell.
#[derive(Debug)]
pub struct Slot<T> {
    /// There until the slot is dropped.
    sender: Option<Sender<T>>,
    /// For messages that arrive while the loop ends.
    stranded: Receiver<T>,
    closed: Arc<AtomicBool>,
    bell: Bell,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        let (stranded, closed) = (self.stranded.clone(), Arc::clone(&self.closed));
        Self { sender: self.sender.clone(), stranded, closed, bell: self.bell.clone() }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        // A loop that sleeps has to notice that nobody is left to write to it: first leave, then ring.
        self.sender = None;
        self.bell.ring();
    }
}

/// An inbox for at most `capacity` messages, whose loop sleeps at `bell`.
pub fn inbox<T>(capacity: usize, bell: &Bell) -> (Slot<T>, Inbox<T>) {
    let (sender, receiver) = bounded(capacity);
    let closed = Arc::new(AtomicBool::new(false));
    let stranded = receiver.clone();
    let slot = Slot { sender: Some(sender), stranded, closed: Arc::clone(&closed), bell: bell.clone() };
    (slot, Inbox { receiver, closed })
}

/// Why a message was not taken; it is given back.
#[derive(Debug)]
pub enum Refused<T> {
    /// The inbox is full.
    Full(T),
    /// The loop has ended.
    Closed(T),
}

impl<T> Slot<T> {
    /// Puts a message in, or gives it back at once.
    pub fn put(&self, message: T) -> Result<(), Refused<T>> {
        use crate::sync::channel::TrySendError::{Disconnected, Full};
        let Some(sender) = self.sender.as_ref().filter(|_| !self.closed.load(Ordering::SeqCst)) else {
            return Err(Refused::Closed(message));
        };
        sender.try_send(message).map_err(|error| match error {
            Full(message) => Refused::Full(message),
            Disconnected(message) => Refused::Closed(message),
        })?;
        self.sent();
        Ok(())
    }

    /// Puts a message in, waiting for room. Only for writers that the loop never waits for itself. If the loop
    /// has ended, the message is dropped.
    pub fn put_waiting(&self, message: T) {
        let Some(sender) = self.sender.as_ref().filter(|_| !self.closed.load(Ordering::SeqCst)) else { return };
        if sender.send(message).is_ok() {
            self.sent();
        }
    }

    /// Either the loop's end sees what was sent, or this sees that the loop has ended.
    fn sent(&self) {
        if self.closed.load(Ordering::SeqCst) {
            self.stranded.try_iter().for_each(drop);
        } else {
            self.bell.ring();
        }
    }
}

/// What an inbox has to give.
#[derive(Debug)]
pub enum Take<T> {
    /// The next message.
    Message(T),
    /// Nothing now.
    Empty,
    /// Nothing now nor ever: nobody is left to write.
    Deserted,
}

impl<T> Inbox<T> {
    /// The next message, without waiting.
    pub fn take(&self) -> Take<T> {
        use crate::sync::channel::TryRecvError::{Disconnected, Empty};
        match self.receiver.try_recv() {
            Ok(message) => Take::Message(message),
            Err(Empty) => Take::Empty,
            Err(Disconnected) => Take::Deserted,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// The messages that are there now.
    pub fn drain(&self) -> TryIter<'_, T> {
        self.receiver.try_iter()
    }

    /// The next message, waiting for one; `None` if nobody is left to write one.
    pub fn wait(&self) -> Option<T> {
        self.receiver.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_gives_the_message_back_and_a_closed_one_too() {
        let (slot, inbox) = inbox(1, &Bell::default());
        assert!(slot.put(1).is_ok());
        assert!(matches!(slot.put(2), Err(Refused::Full(2))));
        assert!(matches!(inbox.take(), Take::Message(1)));
        drop(inbox);
        assert!(matches!(slot.put(3), Err(Refused::Closed(3))));
    }

    #[test]
    fn nothing_is_left_behind_in_an_inbox_whose_loop_has_ended() {
        for _ in 0..200 {
            let (slot, inbox) = inbox(1_000, &Bell::default());
            let message = Arc::new(());
            let writer = {
                let message = Arc::clone(&message);
                std::thread::spawn(move || {
                    while slot.put(Arc::clone(&message)).is_ok() {}
                    slot
                })
            };
            drop(inbox);
            let _slot = writer.join().unwrap();
            assert_eq!(Arc::strong_count(&message), 1, "a message is still in the channel");
        }
    }

    #[test]
    fn an_inbox_without_writers_is_deserted_once_it_is_empty() {
        let (slot, inbox) = inbox(2, &Bell::default());
        assert!(slot.put(1).is_ok());
        drop(slot);
        assert!(matches!(inbox.take(), Take::Message(1)));
        assert!(matches!(inbox.take(), Take::Deserted));
        assert_eq!(inbox.wait(), None);
    }
}
