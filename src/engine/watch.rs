//! Whether the store still answers.

use std::time::Duration;

/// What the store has been asked and has not answered: it answers in order, one answer for each request.
#[derive(Debug, Default)]
pub struct Watch {
    open: usize,
    since: Option<Duration>,
}

impl Watch {
    /// The store is asked something.
    pub fn asked(&mut self, now: Duration) {
        self.open += 1;
        self.since.get_or_insert(now);
    }

    /// It has answered. The next request has it for itself only from now on.
    pub fn answered(&mut self, now: Duration) {
        self.open = self.open.saturating_sub(1);
        self.since = (self.open > 0).then_some(now);
    }

    /// Since when the store has been working on the oldest request.
    pub fn working_since(&self) -> Option<Duration> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_late_only_from_when_the_store_could_begin_with_it() {
        let at = Duration::from_secs;
        let mut watch = Watch::default();
        assert_eq!(watch.working_since(), None);
        watch.asked(at(1));
        watch.asked(at(2));
        assert_eq!(watch.working_since(), Some(at(1)));
        watch.answered(at(5));
        assert_eq!(watch.working_since(), Some(at(5)));
        watch.answered(at(6));
        assert_eq!(watch.working_since(), None);
    }
}
