//! Frees sled from a deadlock of its own.
//!
//! When the end of its log is free, sled has a thread of its pool cut the file, and waits for that, with a lock held, when it
//! next needs a segment there (`SegmentAccountant::bump_tip`, 0.34.7). By then all threads of the pool may wait for that
//! lock, and the pool gets another thread only when something new is asked of it while many jobs wait. So a thread of
//! ours asks for something when a call has not come back for long.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::sled::Db;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// A call that lasts for one to two of these is taken for stuck.
const LOOK: Duration = Duration::from_secs(1);
/// So many jobs make the pool grow: it does when more than 7 wait.
const JOBS: usize = 9;

#[derive(Debug, Default)]
struct Calls {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// Watches the calls that write.
#[derive(Debug)]
pub struct Nudge {
    calls: Arc<Calls>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Nudge {
    /// Watches over this database. Without a thread for that it goes on unwatched.
    pub fn start(db: Db) -> Self {
        let (calls, (stop, stopped)) = (Arc::new(Calls::default()), bounded(0));
        let watched = Arc::clone(&calls);
        let watch = move || {
            let mut before = 0;
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let (begun, ended) = (watched.begun.load(Ordering::Relaxed), watched.ended.load(Ordering::Relaxed));
                if begun != ended && ended == before {
                    nudge(&db);
                }
                before = ended;
            }
        };
        let thread = thread::Builder::new().name("punctual nudge".to_owned()).spawn(watch).ok();
        Self { calls, stop: Some(stop), thread }
    }

    /// A call that may get stuck.
    pub fn watch<T>(&self, call: impl FnOnce() -> T) -> T {
        self.calls.begun.fetch_add(1, Ordering::Relaxed);
        let result = call();
        self.calls.ended.fetch_add(1, Ordering::Relaxed);
        result
    }
}

/// Gives the pool jobs, and does not wait for them.
fn nudge(db: &Db) {
    for _ in 0..JOBS {
        let flush = pin!(db.flush_async());
        let _ = flush.poll(&mut Context::from_waker(Waker::noop()));
    }
}

impl Drop for Nudge {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
