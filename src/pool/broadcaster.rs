//! The host's code that publishes one post.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::post::{BroadcastError, Delivery, Prepared, Receipt, Reconciled};

/// Publishes one post. Implement it with a plain `async fn`, or give a pool a closure.
///
/// The engine calls it at the post's due, never before, and takes its answer as the outcome. What it answers
/// besides a receipt says how the post goes on: see [`BroadcastError`]. A panic, a timeout and an error that came by `?`
/// leave in doubt whether the post was published; so does a crash of the process during the call. Before such a post is sent
/// again, [`reconcile`](Self::reconcile) is asked.
///
/// Futures run on the pool's own threads, within a tokio runtime of the pool's own.
///
/// ```
/// use punctual::{BroadcastError, Broadcaster, Delivery, Receipt, Reconciled};
///
/// struct Mastodon { server: String }
///
/// impl Broadcaster for Mastodon {
///     async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
///         let text = std::str::from_utf8(delivery.payload()).map_err(BroadcastError::permanent)?;
///         // … POST text to self.server with delivery.idempotency_key() …
///         Ok(Receipt::new(format!("{}/{}", self.server, text.len())))
///     }
///
///     async fn reconcile(&self, delivery: Delivery) -> Result<Reconciled, BroadcastError> {
///         // … ask self.server for the post with delivery.idempotency_key() …
/// #       let _ = delivery;
///         Ok(Reconciled::Unknown)
///     }
/// }
/// ```
pub trait Broadcaster: Send + Sync + 'static {
    /// Publishes the post of this delivery, or says why not.
    fn broadcast(&self, delivery: Delivery) -> impl Future<Output = Result<Receipt, BroadcastError>> + Send;

    /// Finds out whether an earlier attempt published the post: is it in the account's timeline, does the container that
    /// [`Delivery::checkpointed`] names say that it is published? It is asked in the pool, within its concurrency and
    /// timeout, before a post that is in doubt is sent again. An error means that the network cannot be asked now: it is
    /// asked again later, and no attempt is counted.
    ///
    /// Default: `Unknown`, and then the post's [`Guarantee`](crate::Guarantee) decides.
    fn reconcile(&self, delivery: Delivery) -> impl Future<Output = Result<Reconciled, BroadcastError>> + Send {
        let _ = delivery;
        async { Ok(Reconciled::Unknown) }
    }

    /// Makes ready what takes long, so that only the short publishing call is left at the due: uploads media, makes a
    /// container. Called ahead of the due in pools that [prepare](crate::Pool::prepare_ahead), with threads and a concurrency
    /// of its own. What it gives is kept durably and handed over in [`Delivery::prepared`]. It may be called again for the same
    /// post: after a crash, when its result has expired, or when the post was edited.
    fn prepare(&self, delivery: Delivery) -> impl Future<Output = Result<Prepared, BroadcastError>> + Send {
        let _ = delivery;
        async { Err(BroadcastError::permanent("this broadcaster prepares nothing")) }
    }

    /// A post that had been prepared will not be sent, or not with what was prepared ([`Delivery::prepared`]): clear it
    /// away. Told once, as well as it can be: not after a crash.
    fn discard(&self, delivery: Delivery) -> impl Future<Output = ()> + Send {
        let _ = delivery;
        async {}
    }
}

impl<F, Fut> Broadcaster for F
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Receipt, BroadcastError>> + Send,
{
    fn broadcast(&self, delivery: Delivery) -> impl Future<Output = Result<Receipt, BroadcastError>> + Send {
        self(delivery)
    }
}

/// A call of the broadcaster's under way.
pub type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The same as [`Broadcaster`], for a pool that does not know its type.
pub trait DynBroadcaster: Send + Sync {
    fn broadcast(self: Arc<Self>, delivery: Delivery) -> Call<Result<Receipt, BroadcastError>>;
    fn reconcile(self: Arc<Self>, delivery: Delivery) -> Call<Result<Reconciled, BroadcastError>>;
    fn prepare(self: Arc<Self>, delivery: Delivery) -> Call<Result<Prepared, BroadcastError>>;
    fn discard(self: Arc<Self>, delivery: Delivery) -> Call<()>;
}

impl<B: Broadcaster> DynBroadcaster for B {
    fn broadcast(self: Arc<Self>, delivery: Delivery) -> Call<Result<Receipt, BroadcastError>> {
        Box::pin(async move { Broadcaster::broadcast(&*self, delivery).await })
    }

    fn reconcile(self: Arc<Self>, delivery: Delivery) -> Call<Result<Reconciled, BroadcastError>> {
        Box::pin(async move { Broadcaster::reconcile(&*self, delivery).await })
    }

    fn prepare(self: Arc<Self>, delivery: Delivery) -> Call<Result<Prepared, BroadcastError>> {
        Box::pin(async move { Broadcaster::prepare(&*self, delivery).await })
    }

    fn discard(self: Arc<Self>, delivery: Delivery) -> Call<()> {
        Box::pin(async move { Broadcaster::discard(&*self, delivery).await })
    }
}
