//! The loop that owns the store: carries out what the engine asks of it, in order.

use std::{io, thread};

use crate::engine::{Answer, Request, Sought};
use crate::error::StoreError;
use crate::inbox::{Inbox, Slot};
use crate::store::Store;

/// What a committer is made of.
pub struct Committer {
    pub store: Box<dyn Store>,
    pub requests: Inbox<Request>,
    pub answers: Slot<Answer>,
}

impl Committer {
    /// Starts the loop on a thread of its own.
    pub fn start(self) -> io::Result<thread::JoinHandle<Result<(), StoreError>>> {
        thread::Builder::new().name("punctual committer".to_owned()).spawn(move || self.run())
    }

    /// The loop. It ends, and closes the store, when nobody is left to ask.
    pub fn run(mut self) -> Result<(), StoreError> {
        while let Some(request) = self.requests.wait() {
            self.answers.put_waiting(carry_out(&mut *self.store, request));
        }
        self.store.close()
    }
}

/// Does what the engine asks of the store.
pub fn carry_out(store: &mut dyn Store, request: Request) -> Answer {
    match request {
        Request::Commit { now, changes } => Answer::Committed(store.commit(now, changes)),
        Request::Load { place, pool, after, until, max_bytes } => {
            Answer::Loaded { place, page: store.load(pool, after, until, max_bytes) }
        }
        Request::List { token, pool, after, until, max_bytes } => {
            Answer::Listed { token, page: store.load(pool, after, until, max_bytes) }
        }
        Request::Find { token, sought: Sought::Seq(seq) } => Answer::Found { token, found: store.find(seq) },
        Request::Find { token, sought: Sought::Key(key) } => Answer::Found { token, found: store.find_key(&key) },
        Request::Tidy { now, retention } => Answer::Tidied(store.tidy(now, retention)),
    }
}
