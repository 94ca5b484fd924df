//! One answer, for hosts that await and hosts that wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// The answer to a call. The call is under way already; `.await` the reply in async code, or
/// [`wait`](Self::wait) for it in blocking code. Dropping it does not take the call back.
///
/// ```
/// # use punctual::{MemoryStore, Pool, Post, Receipt, Scheduler};
/// # let broadcaster = |_| async { Ok(Receipt::default()) };
/// # let scheduler = Scheduler::builder().store(MemoryStore::default()).pool(Pool::new("p", broadcaster)).start()?;
/// let id = scheduler.schedule(Post::new("p", "from a thread")).wait()?;
/// # Ok::<(), punctual::Error>(())
/// ```
#[must_use = "the answer says whether the call succeeded"]
pub struct Reply<T>(Answer<T>);

enum Answer<T> {
    Given(Option<Result<T>>),
    Awaited(oneshot::Receiver<Result<T>>),
}

impl<T> Reply<T> {
    pub(crate) fn given(answer: Result<T>) -> Self {
        Self(Answer::Given(Some(answer)))
    }

    /// Blocks the calling thread until the answer is there. In async code `.await` the reply instead.
    ///
    /// # Errors
    /// Those of the call itself, and [`Error::Closed`] if the scheduler ended before it could answer.
    pub fn wait(self) -> Result<T> {
        pollster::block_on(self)
    }
}

impl<T> Unpin for Reply<T> {}

impl<T> Future for Reply<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        match &mut self.0 {
            Answer::Given(answer) => Poll::Ready(answer.take().unwrap_or(Err(Error::Closed))),
            Answer::Awaited(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or(Err(Error::Closed)))
            }
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// The other end of a [`Reply`]. Dropping it answers [`Error::Closed`].
pub(crate) struct Promise<T>(oneshot::Sender<Result<T>>);

impl<T> Promise<T> {
    /// A promise and the reply that it will give.
    pub(crate) fn new() -> (Self, Reply<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), Reply(Answer::Awaited(receiver)))
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.0.is_closed()
    }

    /// Gives the answer. Nobody may be listening any more; that is fine.
    pub(crate) fn fulfil(self, answer: Result<T>) {
        let _ = self.0.send(answer);
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Promise")
    }
}
