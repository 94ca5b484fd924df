//! The loop that owns the store: carries out what the engine asks of it, in order.

use std::{io, thread};

use crate::engine::{Answer, Request, Sought};
use crate::error::StoreError;
use crate::inbox::{Inbox, Slot};
use crate::store::Store;

/// Starts the loop on a thread of its own. It ends, and closes the store, when nobody is left to ask.
pub fn start(
    store: Box<dyn Store>,
    requests: Inbox<Request>,
    answers: Slot<Answer>,
) -> io::Result<thread::JoinHandle<Result<(), StoreError>>> {
    thread::Builder::new().name("punctual committer".to_owned()).spawn(move || run(store, &requests, &answers))
}

/// The loop itself.
pub fn run(mut store: Box<dyn Store>, requests: &Inbox<Request>, answers: &Slot<Answer>) -> Result<(), StoreError> {
    while let Some(request) = requests.wait() {
        answers.put_waiting(carry_out(&mut *store, request));
    }
    store.close()
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
