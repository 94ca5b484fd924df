//! The host's code that publishes one post.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::post::{BroadcastError, Delivery, Receipt};

/// Publishes one post. Implement it with a plain `async fn`, or give a pool a closure.
///
/// The engine calls it at the post's due, never before, and takes its answer as the outcome. An error is
/// transient unless it says otherwise, so `?` means "try again". A panic or a timeout ends that delivery
/// alone. After a crash, a timeout or a panic the same post may come again:
/// [`Delivery::is_redelivery`] says so and [`Delivery::idempotency_key`] stays the same.
///
/// Futures run on the pool's own threads, within a tokio runtime of the pool's own.
///
/// ```
/// use punctual::{BroadcastError, Broadcaster, Delivery, Receipt};
///
/// struct Mastodon { server: String }
///
/// impl Broadcaster for Mastodon {
///     async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
///         let text = std::str::from_utf8(delivery.payload())?;
///         // … POST text to self.server with delivery.idempotency_key() …
///         Ok(Receipt::new(format!("{}/{}", self.server, text.len())))
///     }
/// }
/// ```
pub trait Broadcaster: Send + Sync + 'static {
    /// Publishes the post of this delivery, or says why not.
    fn broadcast(&self, delivery: Delivery) -> impl Future<Output = Result<Receipt, BroadcastError>> + Send;
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

/// A broadcaster's call under way.
pub type BroadcastFuture = Pin<Box<dyn Future<Output = Result<Receipt, BroadcastError>> + Send>>;

/// The same as [`Broadcaster`], for a pool that does not know its type.
pub trait DynBroadcaster: Send + Sync {
    fn call(self: Arc<Self>, delivery: Delivery) -> BroadcastFuture;
}

impl<B: Broadcaster> DynBroadcaster for B {
    fn call(self: Arc<Self>, delivery: Delivery) -> BroadcastFuture {
        Box::pin(async move { self.broadcast(delivery).await })
    }
}
