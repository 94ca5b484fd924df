//! What the host says, checked and turned into a post that can be stored. Pure; runs on the host's thread.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::limits;
use crate::post::{Body, Post};
use crate::time::Timestamp;

use super::message::NewPost;

/// Checks the post against these pools and this limit at `now`.
pub fn plan(post: &Post, pools: &[impl AsRef<str>], max_payload: usize, now: Timestamp) -> Result<NewPost> {
    let Some(pool) = pools.iter().position(|pool| pool.as_ref() == post.pool) else {
        return Err(Error::UnknownPool { pool: post.pool.clone() });
    };
    let parts = post.parts.len() + 1;
    if parts > limits::PARTS {
        return Err(Error::TooManyParts { parts, max: limits::PARTS });
    }
    if let Some(bytes) =
        std::iter::once(&post.payload).chain(&post.parts).map(Bytes::len).find(|len| *len > max_payload)
    {
        return Err(Error::PayloadTooLarge { bytes, max: max_payload });
    }
    let bytes = post.payload.len() + post.parts.iter().map(Bytes::len).sum::<usize>();
    if bytes > limits::THREAD_BYTES.max(max_payload) {
        return Err(Error::PayloadTooLarge { bytes, max: limits::THREAD_BYTES.max(max_payload) });
    }
    let names = [("profile", Some(post.profile.as_str()), 0), ("key", post.key.as_deref(), 1)];
    for (what, name, min) in names {
        let Some(bytes) = name.map(str::len) else { continue };
        if bytes < min || bytes > limits::NAME_BYTES {
            return Err(Error::InvalidName { what, bytes, max: limits::NAME_BYTES });
        }
    }
    let due = match post.local {
        Some(local) => Some(local.instant()?),
        None => post.due,
    };
    let (due, late) = match due.map(|due| plan_due(due, post.or_now, now)) {
        Some(Ok(due)) => (due, None),
        // With a key it may be scheduled already: the store knows.
        Some(Err(late @ Error::DuePast { .. })) if post.key.is_some() => (now, Some(late)),
        Some(Err(error)) => return Err(error),
        None => (now.ceil_millis(), None),
    };
    Ok(NewPost { pool, due, body: Body::encode(post), late })
}

/// The due as it is kept: rounded up to a millisecond, and now if it has just passed.
pub fn plan_due(due: DateTime<Utc>, or_now: bool, now: Timestamp) -> Result<Timestamp> {
    let kept = Timestamp::due(due);
    if due.timestamp_millis() < limits::DUE_MIN_MILLIS || kept.millis() > limits::DUE_MAX_MILLIS {
        return Err(Error::DueOutOfRange { due });
    }
    let by = now.since(kept);
    if by > limits::PAST_TOLERANCE && !or_now {
        return Err(Error::DuePast { due, by });
    }
    Ok(if by.is_zero() { kept } else { now.ceil_millis() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const POOLS: [&str; 2] = ["a", "b"];

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn noon() -> Timestamp {
        Timestamp::from_datetime(at("2030-01-07T12:00:00.000001Z"))
    }

    #[test]
    fn bad_posts_are_refused_with_what_is_wrong() {
        let post = || Post::new("b", "x");
        let refused = |post: Post| plan(&post, &POOLS, 8, noon()).unwrap_err();
        assert!(matches!(refused(Post::new("c", "x")), Error::UnknownPool { pool } if pool == "c"));
        assert!(matches!(refused(Post::new("b", "123456789")), Error::PayloadTooLarge { bytes: 9, max: 8 }));
        assert!(matches!(refused(post().key("")), Error::InvalidName { what: "key", bytes: 0, .. }));
        assert!(matches!(refused(post().profile("x".repeat(256))), Error::InvalidName { what: "profile", .. }));
        assert!(
            matches!(refused(post().at(at("2030-01-07T11:58:59Z"))), Error::DuePast { by, .. } if by > Duration::from_secs(60))
        );
        assert!(matches!(refused(post().at(at("1969-12-31T23:59:59.9995Z")).or_now()), Error::DueOutOfRange { .. }));
        assert!(matches!(refused(post().at(DateTime::<Utc>::MAX_UTC)), Error::DueOutOfRange { .. }));
    }

    #[test]
    fn what_is_as_large_as_it_may_be_is_taken_and_nothing_larger() {
        let thread = |parts: usize, bytes: usize| {
            let first = Post::new("b", vec![0; bytes]);
            plan(&(1..parts).fold(first, |post, _| post.then(vec![0; bytes])), &POOLS, 1 << 20, noon()).map(drop)
        };
        assert!(thread(limits::PARTS, 1).is_ok() && thread(1, 1 << 20).is_ok() && thread(4, 1 << 20).is_ok());
        assert!(matches!(thread(limits::PARTS + 1, 1), Err(Error::TooManyParts { parts: 1_025, max: 1_024 })));
        assert!(matches!(thread(1, (1 << 20) + 1), Err(Error::PayloadTooLarge { max: 1_048_576, .. })));
        let whole = thread(128, (limits::THREAD_BYTES >> 7) + 1);
        assert!(
            matches!(whole, Err(Error::PayloadTooLarge { bytes, max }) if (bytes, max) == ((4 << 20) + 128, 4 << 20))
        );
        let name = |bytes: usize| Post::new("b", "x").profile("x".repeat(bytes)).key("x".repeat(bytes));
        assert!(plan(&name(255), &POOLS, 8, noon()).is_ok());
        let late = |text| plan_due(at(text), false, noon().ceil_millis());
        assert!(late("2030-01-07T11:59:00.001Z").is_ok());
        assert!(matches!(late("2030-01-07T11:59:00Z"), Err(Error::DuePast { .. })));
    }

    #[test]
    fn the_whole_range_is_taken() {
        let kept = |text| plan_due(at(text), true, Timestamp::from_millis(0)).unwrap().to_datetime();
        for text in ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"] {
            assert_eq!(kept(text), at(text));
        }
    }

    #[test]
    fn a_due_less_than_a_minute_ago_is_now_and_an_older_one_only_on_request() {
        let now = noon().ceil_millis();
        assert_eq!(plan_due(at("2030-01-07T11:59:01Z"), false, noon()).unwrap(), now);
        assert_eq!(plan_due(at("2020-01-07T11:59:01Z"), true, noon()).unwrap(), now);
        assert_eq!(plan(&Post::new("a", ""), &POOLS, 8, noon()).unwrap().due, now);
    }

    proptest! {
        #[test]
        fn a_planned_due_is_never_before_what_was_said(
            said in 0i64..253_402_300_799_999_000, nanos in 0i64..1_000, now in 0i64..253_402_300_799_999_000,
        ) {
            let said = DateTime::UNIX_EPOCH + chrono::TimeDelta::microseconds(said) + chrono::TimeDelta::nanoseconds(nanos);
            if let Ok(due) = plan_due(said, true, Timestamp::from_micros(now)) {
                prop_assert!(due.to_datetime() >= said);
                prop_assert_eq!(due.micros() % 1_000, 0);
            }
        }
    }
}
