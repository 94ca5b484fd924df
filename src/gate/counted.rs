//! What is counted for one scope, and what of it the store is told.

use bytes::Bytes;

use crate::quota::Quota;
use crate::time::Timestamp;

/// What was counted for one scope, and whether the store knows.
#[derive(Default)]
pub struct Counted {
    pub quota: Quota,
    pub is_changed: bool,
    pub is_remembered: bool,
}

impl Counted {
    /// What an earlier process has remembered. What cannot be read any more is dropped.
    pub fn restored(value: &[u8]) -> Self {
        Self { quota: Quota::decode(value).unwrap_or_default(), is_changed: false, is_remembered: true }
    }

    pub fn change(&mut self) -> &mut Quota {
        self.is_changed = true;
        &mut self.quota
    }

    /// What is to be remembered now, if that is news; nothing if it can be forgotten.
    pub fn news(&mut self, now: Timestamp) -> Option<Bytes> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let was_remembered = std::mem::replace(&mut self.is_remembered, !self.quota.is_idle(now));
        match self.is_remembered {
            true => Some(self.quota.encode().into()),
            false => was_remembered.then(Bytes::new),
        }
    }

    /// Whether the store is to forget it, and has not been told.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.is_remembered && !self.is_changed && self.quota.is_idle(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::RateLimit;
    use std::time::Duration;

    #[test]
    fn the_store_is_to_forget_what_it_remembers_that_is_idle_and_that_it_was_not_told_about() {
        let (early, late) = (Timestamp::from_millis(0), Timestamp::from_millis(10_000));
        let mut counted = Counted::default();
        assert!(!counted.is_over(late), "the store does not know it");
        counted.change().take(&[RateLimit::spacing(Duration::from_secs(5))], early);
        assert!(!counted.is_over(late));
        assert!(counted.news(early).is_some_and(|value| !value.is_empty()));
        assert!(!counted.is_over(early), "it counts");
        assert!(counted.is_over(late));
        counted.change();
        assert!(!counted.is_over(late), "there is news anyway");
        assert_eq!((counted.news(late), counted.is_over(late)), (Some(Bytes::new()), false));
        assert_eq!(counted.news(late), None);
    }
}
