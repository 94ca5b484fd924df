//! The part of a post that never changes, encoded once when the host hands it in and copied nowhere after.
//!
//! ```text
//! flags u8 (1: in order, 2: has a key) | priority u8 | fingerprint u64 LE
//! | key length u8, key | profile length u8, profile | payload
//! ```

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Post, Priority};

const IN_ORDER: u8 = 1;
const HAS_KEY: u8 = 2;
const KEY_AT: usize = 10;

/// An encoded body. Every `Body` is well formed: it was encoded here or checked by [`Body::decode`].
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Bytes);

impl Body {
    /// Encodes the post. Its key and profile have at most 255 bytes each (checked by the caller); longer ones
    /// would be cut.
    pub fn encode(post: &Post) -> Self {
        let key = post.key.as_deref().unwrap_or("").as_bytes();
        let profile = post.profile.as_bytes();
        let (key, profile) = (&key[..key.len().min(255)], &profile[..profile.len().min(255)]);
        let flags = u8::from(post.in_order) * IN_ORDER + u8::from(post.key.is_some()) * HAS_KEY;
        let mut bytes = BytesMut::with_capacity(KEY_AT + 2 + key.len() + profile.len() + post.payload.len());
        bytes.put_u8(flags);
        bytes.put_u8(post.priority.get());
        bytes.put_u64_le(fingerprint(post));
        bytes.put_u8(key.len() as u8);
        bytes.put_slice(key);
        bytes.put_u8(profile.len() as u8);
        bytes.put_slice(profile);
        bytes.put_slice(&post.payload);
        Self(bytes.freeze())
    }

    /// Reads bytes that [`as_bytes`](Self::as_bytes) gave; `None` if they are not a body.
    pub fn decode(bytes: Bytes) -> Option<Self> {
        let key_len = usize::from(*bytes.get(KEY_AT)?);
        let key = bytes.get(KEY_AT + 1..KEY_AT + 1 + key_len)?;
        let profile_at = KEY_AT + 1 + key_len;
        let profile_len = usize::from(*bytes.get(profile_at)?);
        let profile = bytes.get(profile_at + 1..profile_at + 1 + profile_len)?;
        std::str::from_utf8(key).ok()?;
        std::str::from_utf8(profile).ok()?;
        Some(Self(bytes))
    }

    /// The encoding.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Length of the encoding.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the post asks for order within its profile; without a profile there is none.
    pub fn in_order(&self) -> bool {
        self.0[0] & IN_ORDER != 0 && !self.profile().is_empty()
    }

    /// The post's priority.
    pub fn priority(&self) -> Priority {
        Priority::new(self.0[1])
    }

    /// A hash of everything the host said, the due as it said it included.
    pub fn fingerprint(&self) -> u64 {
        self.0[2..KEY_AT].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// The host's own name for the post.
    pub fn key(&self) -> Option<&str> {
        let end = KEY_AT + 1 + self.key_len();
        (self.0[0] & HAS_KEY != 0).then(|| text(&self.0[KEY_AT + 1..end]))
    }

    /// The profile, or nothing.
    pub fn profile(&self) -> &str {
        let at = KEY_AT + 2 + self.key_len();
        text(&self.0[at..at + self.profile_len()])
    }

    /// The payload, sharing this body's buffer.
    pub fn payload(&self) -> &[u8] {
        &self.0[KEY_AT + 2 + self.key_len() + self.profile_len()..]
    }

    /// The hash by which a host's key is found in the store.
    pub fn key_hash(key: &str) -> u64 {
        xxh3_64(key.as_bytes())
    }

    fn key_len(&self) -> usize {
        usize::from(self.0[KEY_AT])
    }

    fn profile_len(&self) -> usize {
        usize::from(self.0[KEY_AT + 1 + self.key_len()])
    }
}

fn text(bytes: &[u8]) -> &str {
    // Checked when the body was made; an empty string is only the compiler's fallback.
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Covers every field, each with its length before it, so that no two different posts run together.
fn fingerprint(post: &Post) -> u64 {
    let mut hash = Xxh3::new();
    for field in
        [post.pool.as_bytes(), post.profile.as_bytes(), post.key.as_deref().unwrap_or("").as_bytes(), &post.payload]
    {
        hash.update(&(field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.update(&[post.priority.get(), u8::from(post.in_order), u8::from(post.or_now), u8::from(post.due.is_some())]);
    if let Some(due) = post.due {
        hash.update(&due.timestamp().to_le_bytes());
        hash.update(&due.timestamp_subsec_nanos().to_le_bytes());
    }
    hash.digest()
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_body_says_what_the_post_said(
            payload: Vec<u8>, profile in ".{0,60}", key in proptest::option::of(".{1,60}"), priority: u8, in_order: bool,
        ) {
            let mut post = Post::new("p", payload.clone()).profile(profile.clone()).priority(Priority::new(priority));
            post.key = key.clone();
            post.in_order = in_order;
            let body = Body::decode(Body::encode(&post).as_bytes().clone()).unwrap();
            prop_assert_eq!(body.payload(), &payload[..]);
            prop_assert_eq!(body.profile(), &profile);
            prop_assert_eq!(body.key(), key.as_deref());
            prop_assert_eq!(body.priority().get(), priority);
            prop_assert_eq!(body.in_order(), in_order && !profile.is_empty());
            prop_assert_eq!(body.fingerprint(), fingerprint(&post));
        }

        #[test]
        fn arbitrary_bytes_are_a_body_or_refused(bytes: Vec<u8>) {
            if let Some(body) = Body::decode(Bytes::from(bytes)) {
                let _ = (body.key(), body.profile(), body.payload(), body.fingerprint(), body.in_order());
            }
        }
    }

    #[test]
    fn other_content_has_another_fingerprint() {
        let at = |s: &str| s.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        let posts = [
            Post::new("p", "a"),
            Post::new("p", "b"),
            Post::new("q", "a"),
            Post::new("pa", ""),
            Post::new("p", "a").profile("x"),
            Post::new("p", "a").key("x"),
            Post::new("p", "a").in_order(),
            Post::new("p", "a").or_now(),
            Post::new("p", "a").priority(Priority::HIGH),
            Post::new("p", "a").at(at("2030-01-01T00:00:00Z")),
            Post::new("p", "a").at(at("2030-01-01T00:00:00.000000001Z")),
        ];
        let mut prints: Vec<_> = posts.iter().map(fingerprint).collect();
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), posts.len());
    }
}
