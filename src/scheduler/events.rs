//! The stream of events.

use std::fmt;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::post::Event;

/// What happens, live. A listener that falls behind by more than 65,536 events misses the oldest and is told how
/// many: events are for watching, [`Scheduler::get`](crate::Scheduler::get) is the truth.
pub struct Events {
    receiver: Option<Receiver<Event>>,
    missed: u64,
}

impl Events {
    pub(super) fn new(receiver: Option<Receiver<Event>>) -> Self {
        Self { receiver, missed: 0 }
    }

    /// The next event; `None` when the scheduler has ended.
    pub async fn next(&mut self) -> Option<Event> {
        let receiver = self.receiver.as_mut()?;
        loop {
            match receiver.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(missed)) => self.missed += missed,
                Err(RecvError::Closed) => {
                    self.receiver = None;
                    return None;
                }
            }
        }
    }

    /// As [`next`](Self::next), for blocking code.
    pub fn wait(&mut self) -> Option<Event> {
        pollster::block_on(self.next())
    }

    /// How many events this listener has missed because it fell behind.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("missed", &self.missed).finish_non_exhaustive()
    }
}
