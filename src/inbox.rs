//! The bounded way into a loop.

use crossbeam_channel::{Receiver, Sender, TryIter, bounded};

use crate::clock::Bell;

/// A loop's end: messages wait here until the loop takes them.
#[derive(Debug)]
pub struct Inbox<T>(Receiver<T>);

/// Everyone else's end. Putting a message in rings the loop's bell.
#[derive(Debug)]
pub struct Slot<T> {
    /// There until the slot is dropped.
    sender: Option<Sender<T>>,
    bell: Bell,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: self.bell.clone() }
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
    (Slot { sender: Some(sender), bell: bell.clone() }, Inbox(receiver))
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
        use crossbeam_channel::TrySendError::{Disconnected, Full};
        let Some(sender) = &self.sender else { return Err(Refused::Closed(message)) };
        sender.try_send(message).map_err(|error| match error {
            Full(message) => Refused::Full(message),
            Disconnected(message) => Refused::Closed(message),
        })?;
        self.bell.ring();
        Ok(())
    }

    /// Puts a message in, waiting for room. Only for writers that the loop never waits for itself. If the loop
    /// has ended, nobody needs the message any more.
    pub fn put_waiting(&self, message: T) {
        if self.sender.as_ref().is_some_and(|sender| sender.send(message).is_ok()) {
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
        use crossbeam_channel::TryRecvError::{Disconnected, Empty};
        match self.0.try_recv() {
            Ok(message) => Take::Message(message),
            Err(Empty) => Take::Empty,
            Err(Disconnected) => Take::Deserted,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The messages that are there now.
    pub fn drain(&self) -> TryIter<'_, T> {
        self.0.try_iter()
    }

    /// The next message, waiting for one; `None` if nobody is left to write one.
    pub fn wait(&self) -> Option<T> {
        self.0.recv().ok()
    }
}
