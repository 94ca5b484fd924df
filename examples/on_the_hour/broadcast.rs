//! The broadcasters: they note that they were called, then take as long as the network would.

use std::sync::Arc;

use punctual::{BroadcastError, Broadcaster, Delivery, Receipt};

use crate::ledger::{Ledger, wall_nanos};

const TEXT: &str = "Our doors open at nine, and the first loaves are out of the oven already. This week: rye with \
    caraway, a spelt loaf that keeps for days, and the plum cake you asked for all summer. Come by before noon, or \
    order until six and pick it up tomorrow on your way to work. #bakery #bread #goodmorning https://example.com/m";

/// One network.
pub struct Network {
    pub ledger: Arc<Ledger>,
}

impl Broadcaster for Network {
    async fn broadcast(&self, delivery: Delivery) -> Result<Receipt, BroadcastError> {
        let called = wall_nanos();
        let post = number(delivery.payload()).and_then(|number| self.ledger.begin(number, called));
        let post = post.ok_or_else(|| BroadcastError::permanent("not a post of this run"))?;
        if !post.handling.is_zero() {
            tokio::time::sleep(post.handling).await;
        }
        self.ledger.end();
        Ok(Receipt::default())
    }
}

/// The post's number, and a text of usual length.
pub fn payload(number: usize) -> Vec<u8> {
    [&(number as u64).to_le_bytes(), TEXT.as_bytes()].concat()
}

fn number(payload: &[u8]) -> Option<usize> {
    payload.first_chunk().and_then(|bytes| usize::try_from(u64::from_le_bytes(*bytes)).ok())
}
