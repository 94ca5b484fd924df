//! What the host said of a post, encoded once when it is handed in and copied nowhere after. Only an edit makes
//! another one.
//!
//! ```text
//! flags u8 (1: in order, 2: has a key, 4: has terms, 8: one of a series) | priority u8
//! | fingerprint u64 LE | key length u8, key | profile length u8, profile | if it has terms: their length u16 LE, terms | payload
//! terms    (tag u8, value)*; what most posts do without
//!          1 expires after, i64 µs | 2 not later than, i64 µs | 3 guarantee, u8 | 4 lead of preparing, i64 µs
//!          5 retry: base, longest, age i64 µs, attempts u32 | 6 parts: count u16, length of each u32
//!          7 campaign: length u8, name | 8 local time: length u8, text
//! ```

use std::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::retry::RetryPolicy;
use crate::schedule::LocalTime;
use crate::time::Timestamp;

use super::{Guarantee, Post, Priority};

const IN_ORDER: u8 = 1;
const HAS_KEY: u8 = 2;
const HAS_TERMS: u8 = 4;
const OCCURRENCE: u8 = 8;
const KEY_AT: usize = 10;

const EXPIRES_AFTER: u8 = 1;
const NOT_LATER_THAN: u8 = 2;
const GUARANTEE: u8 = 3;
const LEAD: u8 = 4;
const RETRY: u8 = 5;
const PARTS: u8 = 6;
const CAMPAIGN: u8 = 7;
const LOCAL: u8 = 8;

/// An encoded body. Every `Body` is well formed: it was encoded here or checked by [`Body::decode`].
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Bytes);

impl Body {
    /// Encodes the post. Its key and profile have at most 255 bytes each, and it has at most 1,024 parts (checked by
    /// the caller); what is longer would be cut.
    pub fn encode(post: &Post) -> Self {
        let key = post.key.as_deref().unwrap_or("").as_bytes();
        let profile = post.profile.as_bytes();
        let (key, profile) = (&key[..key.len().min(255)], &profile[..profile.len().min(255)]);
        let lengths: Vec<usize> = std::iter::once(&post.payload).chain(&post.parts).map(Bytes::len).collect();
        let payload = std::iter::once(&post.payload).chain(&post.parts);
        let flags = u8::from(post.in_order) * IN_ORDER + u8::from(post.key.is_some()) * HAS_KEY;
        let terms = terms(post, &lengths);
        Self::assemble(flags, post.priority, fingerprint(post), key, profile, &terms, payload.map(|part| &part[..]))
    }

    fn assemble<'a>(
        flags: u8,
        priority: Priority,
        fingerprint: u64,
        key: &[u8],
        profile: &[u8],
        terms: &[u8],
        payload: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Self {
        let payload_len: usize = payload.clone().map(<[u8]>::len).sum();
        let mut bytes = BytesMut::with_capacity(KEY_AT + 4 + key.len() + profile.len() + terms.len() + payload_len);
        bytes.put_u8(flags & !HAS_TERMS | if terms.is_empty() { 0 } else { HAS_TERMS });
        bytes.put_u8(priority.get());
        bytes.put_u64_le(fingerprint);
        bytes.put_u8(key.len() as u8);
        bytes.put_slice(key);
        bytes.put_u8(profile.len() as u8);
        bytes.put_slice(profile);
        if !terms.is_empty() {
            bytes.put_u16_le(terms.len() as u16);
            bytes.put_slice(terms);
        }
        payload.for_each(|part| bytes.put_slice(part));
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
        let mut payload_at = profile_at + 1 + profile_len;
        if bytes[0] & HAS_TERMS != 0 {
            let len = usize::from(u16::from_le_bytes(*bytes.get(payload_at..)?.first_chunk()?));
            let terms = bytes.get(payload_at + 2..payload_at + 2 + len)?;
            payload_at += 2 + len;
            let mut rest = Terms(terms);
            let parts = rest.by_ref().filter(|(tag, _)| *tag == PARTS).last().map_or(0, |(_, lengths)| sum(lengths));
            if !rest.0.is_empty() || parts > bytes.len() - payload_at {
                return None;
            }
            for (_, value) in Terms(terms).filter(|(tag, _)| matches!(*tag, CAMPAIGN | LOCAL)) {
                std::str::from_utf8(value.get(1..)?).ok()?;
            }
        }
        Some(Self(bytes))
    }

    /// The same post with another payload for one of its parts. The fingerprint stays: it tells what was first said.
    pub fn with_part(&self, part: usize, payload: &[u8]) -> Self {
        let parts: Vec<&[u8]> = (0..self.parts()).map(|at| if at == part { payload } else { self.part(at) }).collect();
        let mut terms = Vec::with_capacity(self.terms().len());
        for (tag, value) in Terms(self.terms()).filter(|(tag, _)| *tag != PARTS) {
            terms.push(tag);
            terms.extend_from_slice(value);
        }
        put_parts(&mut terms, &parts.iter().map(|part| part.len()).collect::<Vec<_>>());
        let (key, profile) = (self.key().unwrap_or("").as_bytes(), self.profile().as_bytes());
        Self::assemble(self.0[0], self.priority(), self.fingerprint(), key, profile, &terms, parts.into_iter())
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

    /// The same post, as one of a series.
    pub fn as_occurrence(&self) -> Self {
        let mut bytes = BytesMut::from(&self.0[..]);
        bytes[0] |= OCCURRENCE;
        Self(bytes.freeze())
    }

    /// Whether it is one of a series.
    pub fn is_occurrence(&self) -> bool {
        self.0[0] & OCCURRENCE != 0
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

    /// All that is to be published, one part after the other.
    pub fn payload(&self) -> &[u8] {
        &self.0[self.payload_at()..]
    }

    /// How many parts are published one after the other; one, if the post is no thread.
    pub fn parts(&self) -> usize {
        self.term(PARTS).map_or(1, |lengths| lengths.len() / 4)
    }

    /// One of the parts; empty if there is none of this number.
    pub fn part(&self, part: usize) -> &[u8] {
        let Some(lengths) = self.term(PARTS) else { return if part == 0 { self.payload() } else { &[] } };
        let before = sum(lengths.get(..part * 4).unwrap_or(lengths));
        let len = lengths.get(part * 4..).map_or(0, |rest| sum(&rest[..rest.len().min(4)]));
        self.payload().get(before..before + len).unwrap_or_default()
    }

    /// The last instant at which a post with this due may be sent.
    pub fn deadline(&self, due: Timestamp) -> Option<Timestamp> {
        let after = self.term_micros(EXPIRES_AFTER).map(|micros| due.after(duration(micros)));
        let not_later = self.term_micros(NOT_LATER_THAN).map(Timestamp::from_micros);
        after.into_iter().chain(not_later).min()
    }

    /// What is to be done when it is not known whether it was published, if the post does not leave it to its pool.
    pub fn guarantee(&self) -> Option<Guarantee> {
        self.term(GUARANTEE).map(|value| if value == [0] { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce })
    }

    /// How long before its due the post is prepared, if it does not leave it to its pool.
    pub fn lead(&self) -> Option<Duration> {
        self.term_micros(LEAD).map(duration)
    }

    /// When it is tried again, if it does not leave it to its pool.
    pub fn retry(&self) -> Option<RetryPolicy> {
        let value = self.term(RETRY)?;
        let micros = |at: usize| value.get(at..)?.first_chunk().map(|bytes| duration(i64::from_le_bytes(*bytes)));
        let attempts = u32::from_le_bytes(*value.get(24..)?.first_chunk()?);
        let policy = RetryPolicy::exponential(micros(0)?).max_delay(micros(8)?).max_age(micros(16)?);
        Some(policy.max_attempts(attempts))
    }

    /// The campaign it belongs to.
    pub fn campaign(&self) -> Option<&str> {
        self.term(CAMPAIGN).and_then(|value| value.get(1..)).map(text)
    }

    /// The local time at which the host said that it is due, if it said one.
    pub fn local(&self) -> Option<LocalTime> {
        self.term(LOCAL).and_then(|value| text(value.get(1..)?).parse().ok())
    }

    /// The same post, due at an instant and not at a local time.
    pub fn without_local(&self) -> Self {
        if self.term(LOCAL).is_none() {
            return self.clone();
        }
        let mut terms = Vec::with_capacity(self.terms().len());
        for (tag, value) in Terms(self.terms()).filter(|(tag, _)| !matches!(*tag, LOCAL | PARTS)) {
            terms.push(tag);
            terms.extend_from_slice(value);
        }
        let parts: Vec<&[u8]> = (0..self.parts()).map(|at| self.part(at)).collect();
        put_parts(&mut terms, &parts.iter().map(|part| part.len()).collect::<Vec<_>>());
        let (key, profile) = (self.key().unwrap_or("").as_bytes(), self.profile().as_bytes());
        Self::assemble(self.0[0], self.priority(), self.fingerprint(), key, profile, &terms, parts.into_iter())
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

    fn terms_at(&self) -> usize {
        KEY_AT + 2 + self.key_len() + self.profile_len()
    }

    fn terms(&self) -> &[u8] {
        if self.0[0] & HAS_TERMS == 0 {
            return &[];
        }
        &self.0[self.terms_at() + 2..self.payload_at()]
    }

    fn payload_at(&self) -> usize {
        let at = self.terms_at();
        if self.0[0] & HAS_TERMS == 0 {
            at
        } else {
            at + 2 + usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
        }
    }

    fn term(&self, wanted: u8) -> Option<&[u8]> {
        Terms(self.terms()).find(|(tag, _)| *tag == wanted).map(|(_, value)| value)
    }

    fn term_micros(&self, wanted: u8) -> Option<i64> {
        self.term(wanted).and_then(|value| value.first_chunk()).map(|bytes| i64::from_le_bytes(*bytes))
    }
}

/// The terms of a post, one after the other; stops at what is not one. The count of the parts is left out.
struct Terms<'a>(&'a [u8]);

impl<'a> Iterator for Terms<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (tag, mut rest) = self.0.split_first()?;
        let len = match *tag {
            EXPIRES_AFTER | NOT_LATER_THAN | LEAD => 8,
            GUARANTEE => 1,
            RETRY => 28,
            // Its length is a part of the value.
            CAMPAIGN | LOCAL => 1 + usize::from(*rest.first()?),
            PARTS => {
                let (count, lengths) = rest.split_first_chunk()?;
                rest = lengths;
                4 * usize::from(u16::from_le_bytes(*count))
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((*tag, value))
    }
}

fn sum(lengths: &[u8]) -> usize {
    lengths.chunks_exact(4).map(|len| u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize).sum()
}

fn terms(post: &Post, lengths: &[usize]) -> Vec<u8> {
    let mut terms = Vec::new();
    let mut put_micros = |tag: u8, value: Option<i64>| {
        if let Some(value) = value {
            terms.push(tag);
            terms.extend_from_slice(&value.to_le_bytes());
        }
    };
    put_micros(EXPIRES_AFTER, post.expires_after.map(micros));
    put_micros(NOT_LATER_THAN, post.not_later_than.map(|at| Timestamp::from_datetime(at).micros()));
    put_micros(LEAD, post.lead.map(micros));
    if let Some(guarantee) = post.guarantee {
        terms.extend_from_slice(&[GUARANTEE, u8::from(guarantee == Guarantee::AtLeastOnce)]);
    }
    if let Some(policy) = post.retry {
        terms.push(RETRY);
        for value in policy.durations() {
            terms.extend_from_slice(&micros(value).to_le_bytes());
        }
        terms.extend_from_slice(&policy.attempts().to_le_bytes());
    }
    let texts = [(CAMPAIGN, post.campaign.as_deref().map(str::to_owned)), (LOCAL, post.local.map(|at| at.to_string()))];
    for (tag, text) in texts {
        if let Some(text) = text {
            // Both have at most 255 bytes: names of campaigns and zones are short.
            terms.extend_from_slice(&[tag, text.len() as u8]);
            terms.extend_from_slice(text.as_bytes());
        }
    }
    put_parts(&mut terms, lengths);
    terms
}

fn put_parts(terms: &mut Vec<u8>, lengths: &[usize]) {
    if lengths.len() > 1 {
        terms.push(PARTS);
        terms.extend_from_slice(&(lengths.len() as u16).to_le_bytes());
        lengths.iter().for_each(|len| terms.extend_from_slice(&(*len as u32).to_le_bytes()));
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn text(bytes: &[u8]) -> &str {
    // Checked when the body was made; an empty string is only the compiler's fallback.
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Covers every field, each with its length before it, so that no two different posts run together.
fn fingerprint(post: &Post) -> u64 {
    let mut hash = Xxh3::new();
    let names = [post.pool.as_bytes(), post.profile.as_bytes(), post.key.as_deref().unwrap_or("").as_bytes()];
    for field in names.into_iter().chain(std::iter::once(&post.payload).chain(&post.parts).map(|part| &part[..])) {
        hash.update(&(field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.update(&[post.priority.get(), u8::from(post.in_order), u8::from(post.or_now), u8::from(post.due.is_some())]);
    if let Some(due) = post.due {
        hash.update(&due.timestamp().to_le_bytes());
        hash.update(&due.timestamp_subsec_nanos().to_le_bytes());
    }
    let lengths: Vec<usize> = post.parts.iter().map(Bytes::len).collect();
    hash.update(&terms(post, &lengths));
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

    fn some<S: Strategy>(of: S) -> impl Strategy<Value = Option<S::Value>> {
        proptest::option::of(of)
    }

    proptest! {
        #[test]
        fn a_body_says_what_the_post_said(
            payload: Vec<u8>, profile in ".{0,60}", key in some(".{1,60}"), priority: u8, in_order: bool,
            parts in proptest::collection::vec(any::<Vec<u8>>(), 0..4), expires in some(0u64..1 << 40),
            lead in some(0u64..1 << 40), at_most_once in some(any::<bool>()), attempts in some(1u32..9),
            edited in any::<Vec<u8>>(), edit_at in 0usize..4, campaign in some(".{0,60}"), is_local: bool,
        ) {
            let mut post = Post::new("p", payload.clone()).profile(profile.clone()).priority(Priority::new(priority));
            post.key = key.clone();
            post.in_order = in_order;
            post.parts = parts.iter().cloned().map(Bytes::from).collect();
            post.expires_after = expires.map(Duration::from_micros);
            post.lead = lead.map(Duration::from_micros);
            post.guarantee = at_most_once.map(|is| if is { Guarantee::AtMostOnce } else { Guarantee::AtLeastOnce });
            let policy = |n: u32| RetryPolicy::exponential(Duration::from_millis(7)).max_age(Duration::from_secs(n.into())).max_attempts(n);
            post.retry = attempts.map(policy);
            post.campaign = campaign.clone();
            post.local = is_local.then(|| "local 2026-03-29T02:30 Europe/Berlin later".parse().unwrap());
            let body = Body::decode(Body::encode(&post).as_bytes().clone()).unwrap();
            let whole: Vec<Vec<u8>> = std::iter::once(payload.clone()).chain(parts.clone()).collect();
            prop_assert_eq!(body.payload(), &whole.concat()[..]);
            prop_assert_eq!(body.parts(), whole.len());
            for (at, part) in whole.iter().enumerate() {
                prop_assert_eq!(body.part(at), &part[..]);
            }
            prop_assert_eq!(body.profile(), &profile);
            prop_assert_eq!(body.key(), key.as_deref());
            prop_assert_eq!(body.priority().get(), priority);
            prop_assert_eq!(body.in_order(), in_order && !profile.is_empty());
            prop_assert_eq!(body.fingerprint(), fingerprint(&post));
            let due = Timestamp::from_millis(5);
            prop_assert_eq!(body.deadline(due), expires.map(|micros| due.after(Duration::from_micros(micros))));
            prop_assert_eq!(body.lead(), post.lead);
            prop_assert_eq!(body.guarantee(), post.guarantee);
            prop_assert_eq!(body.retry(), attempts.map(policy));
            prop_assert_eq!((body.campaign(), body.local()), (campaign.as_deref(), post.local));
            let fixed = Body::decode(body.without_local().as_bytes().clone()).unwrap();
            prop_assert_eq!((fixed.local(), fixed.campaign(), fixed.payload()), (None, body.campaign(), body.payload()));
            prop_assert_eq!((fixed.retry(), fixed.parts(), fixed.part(1)), (body.retry(), body.parts(), body.part(1)));

            let other = Body::decode(body.with_part(edit_at, &edited).as_bytes().clone()).unwrap();
            for (at, part) in whole.iter().enumerate() {
                prop_assert_eq!(other.part(at), if at == edit_at { &edited[..] } else { &part[..] });
            }
            prop_assert_eq!((other.fingerprint(), other.lead(), other.key()), (body.fingerprint(), body.lead(), body.key()));
        }

        #[test]
        fn arbitrary_bytes_are_a_body_or_refused(bytes: Vec<u8>) {
            if let Some(body) = Body::decode(Bytes::from(bytes)) {
                let _ = (body.key(), body.profile(), body.payload(), body.fingerprint(), body.in_order());
                let _ = (body.parts(), body.part(0), body.part(7), body.retry(), body.deadline(Timestamp::MIN));
            }
        }
    }

    #[test]
    fn the_longest_names_survive_and_what_is_not_there_takes_no_room() {
        let long = "é".repeat(127) + "x";
        let post = Post { campaign: Some(long.clone()), ..Post::new("p", "x").key(&long[..]).profile(&long[..]) };
        let body = Body::decode(Body::encode(&post).as_bytes().clone()).unwrap();
        assert_eq!((body.key(), body.profile(), body.campaign()), (Some(&long[..]), &long[..], Some(&long[..])));
        assert_eq!(Body::encode(&Post::new("p", "x")).len(), KEY_AT + 3, "two lengths and a byte");
    }

    #[test]
    fn parts_longer_than_the_payload_and_what_follows_the_terms_are_refused() {
        let with = |terms: &[u8]| {
            let body = Body::assemble(0, Priority::NORMAL, 0, b"", b"", terms, std::iter::once(&b"12345"[..]));
            Body::decode(body.as_bytes().clone()).is_some()
        };
        let parts = |last: u8| [PARTS, 2, 0, 2, 0, 0, 0, last, 0, 0, 0];
        assert!(with(&parts(3)));
        assert!(!with(&parts(4)));
        assert!(!with(&parts(200)));
        assert!(with(&[GUARANTEE, 0]) && !with(&[GUARANTEE]) && !with(&[GUARANTEE, 0, 99]));
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
            Post::new("p", "a").then(""),
            Post::new("p", "a").expires_after(Duration::from_secs(1)),
            Post::new("p", "a").not_later_than(at("2030-01-01T00:00:00Z")),
            Post::new("p", "a").guarantee(Guarantee::AtMostOnce),
            Post::new("p", "a").retry(RetryPolicy::none()),
            Post::new("p", "a").prepare_ahead(Duration::from_secs(1)),
            Post::new("p", "a").at_local("local 2030-01-01T00:00 UTC".parse().unwrap()),
        ];
        let mut prints: Vec<_> = posts.iter().map(fingerprint).collect();
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), posts.len());
    }
}
