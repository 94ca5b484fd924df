//! How a queue is remembered: a head, and its order in parts, so that a change writes only what it changes.
//!
//! ```text
//! key    letter u8 | pool length u8, pool | of a part: number i64 BE; of a taken due: post u64 BE | profile
//! head   version u8 | flags u8 (1 paused, 2 warned, 4 counted) | start i64 | since i64 µs | warn ahead u64 µs | lead u64 µs
//!        | placed count u32, (post u64, due i64 µs)* | keys count u32, u64* | slots, as text
//! part   posts whose place, counted from the start, has this number when divided by 64: u64*
//! taken  due i64 µs
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::id::Seq;
use crate::time::Timestamp;

use super::Queue;

/// The letters of what is remembered of queues.
pub const HEAD: u8 = b'Q';
pub const PART: u8 = b'q';
pub const TAKEN: u8 = b'F';
/// All of them.
pub const NAMED: [u8; 3] = [HEAD, PART, TAKEN];

const VERSION: u8 = 1;
const PAUSED: u8 = 1;
const WARNED: u8 = 2;
const COUNTED: u8 = 4;
/// Posts in one part.
const PART_POSTS: i64 = 64;

/// The pool and the profile of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    pub pool: &'a str,
    pub profile: &'a str,
}

impl Name<'_> {
    fn key(self, letter: u8, number: Option<u64>) -> Bytes {
        let mut key = BytesMut::with_capacity(10 + self.pool.len() + self.profile.len());
        key.put_u8(letter);
        // Names have at most 255 bytes.
        key.put_u8(self.pool.len() as u8);
        key.put_slice(self.pool.as_bytes());
        if let Some(number) = number {
            key.put_u64(number);
        }
        key.put_slice(self.profile.as_bytes());
        key.freeze()
    }
}

/// What this key names: its letter, the queue, and the number of a part or post.
pub fn name(key: &[u8]) -> Option<(u8, Name<'_>, u64)> {
    let (letter, rest) = key.split_first().filter(|(letter, _)| NAMED.contains(letter))?;
    let (len, rest) = rest.split_first()?;
    let (pool, mut rest) = rest.split_at_checked(usize::from(*len))?;
    let mut number = 0;
    if *letter != HEAD {
        let (digits, profile) = rest.split_first_chunk()?;
        (number, rest) = (u64::from_be_bytes(*digits), profile);
    }
    let name = Name { pool: std::str::from_utf8(pool).ok()?, profile: std::str::from_utf8(rest).ok()? };
    Some((*letter, name, number))
}

/// What is remembered of a post with a due of its own, or that it has none any more.
pub fn fixed_note(name: Name<'_>, post: Seq, due: Option<Timestamp>) -> (Bytes, Bytes) {
    let due = due.map(|due| Bytes::copy_from_slice(&due.micros().to_le_bytes()));
    (name.key(TAKEN, Some(post.0)), due.unwrap_or_default())
}

impl Queue {
    /// What has to be remembered of it, where `before` is: everything of a new one.
    pub fn notes(&self, name: Name<'_>, before: Option<&Self>) -> Vec<(Bytes, Bytes)> {
        let mut notes = Vec::new();
        let head = self.encode_head();
        if before.is_none_or(|before| before.encode_head() != head) {
            notes.push((name.key(HEAD, None), head));
        }
        let (parts, old) = (self.parts(), before.map(Self::parts).unwrap_or_default());
        let gone = old.keys().filter(|number| !parts.contains_key(number)).map(|number| (*number, Bytes::new()));
        let changed = parts.iter().filter(|(number, part)| old.get(number) != Some(part));
        let changed = changed.map(|(number, part)| (*number, part.clone()));
        let number = |number: i64| Some(number.cast_unsigned() ^ 1 << 63);
        notes.extend(gone.chain(changed).map(|(at, part)| (name.key(PART, number(at)), part)));
        notes
    }

    fn encode_head(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        let flags = [(self.is_paused, PAUSED), (self.is_warned, WARNED), (self.is_counted, COUNTED)];
        out.put_u8(flags.iter().map(|(is_set, flag)| u8::from(*is_set) * flag).sum());
        out.put_i64_le(self.start);
        out.put_i64_le(self.since.micros());
        out.put_u64_le(self.warn_ahead.as_micros() as u64);
        out.put_u64_le(self.lead.as_micros() as u64);
        out.put_u32_le(self.placed.len() as u32);
        for (post, due) in &self.placed {
            out.put_u64_le(post.0);
            out.put_i64_le(due.micros());
        }
        out.put_u32_le(self.done.len() as u32);
        self.done.iter().for_each(|key| out.put_u64_le(*key));
        out.put_slice(self.text.as_bytes());
        out.freeze()
    }

    fn parts(&self) -> BTreeMap<i64, Bytes> {
        let mut parts = BTreeMap::<i64, BytesMut>::new();
        for (place, post) in (self.start..).zip(&self.order) {
            parts.entry(place.div_euclid(PART_POSTS)).or_default().put_u64_le(post.0);
        }
        parts.into_iter().map(|(number, part)| (number, part.freeze())).collect()
    }
}

/// What was remembered of one queue, as it is found piece by piece.
#[derive(Debug, Default)]
pub struct Parts {
    head: Bytes,
    parts: BTreeMap<u64, Bytes>,
}

impl Parts {
    /// Takes in a piece with this letter and number.
    pub fn add(&mut self, letter: u8, number: u64, value: Bytes) {
        if letter == HEAD {
            self.head = value;
        } else {
            self.parts.insert(number, value);
        }
    }

    /// The queue; `None` if this is none.
    pub fn assemble(self) -> Option<Queue> {
        let mut head = self.head;
        let mut order = std::collections::VecDeque::new();
        for mut part in self.parts.into_values() {
            while let Ok(post) = part.try_get_u64_le() {
                order.push_back(Seq(post));
            }
        }
        if head.try_get_u8().ok()? != VERSION {
            return None;
        }
        let flags = head.try_get_u8().ok()?;
        let (start, since) = (head.try_get_i64_le().ok()?, Timestamp::from_micros(head.try_get_i64_le().ok()?));
        let warn_ahead = Duration::from_micros(head.try_get_u64_le().ok()?);
        let lead = Duration::from_micros(head.try_get_u64_le().ok()?);
        let mut placed = Vec::new();
        for _ in 0..head.try_get_u32_le().ok()? {
            let post = Seq(head.try_get_u64_le().ok()?);
            placed.push((post, Timestamp::from_micros(head.try_get_i64_le().ok()?)));
        }
        let mut done = std::collections::VecDeque::new();
        for _ in 0..head.try_get_u32_le().ok()? {
            done.push_back(head.try_get_u64_le().ok()?);
        }
        let text = std::str::from_utf8(&head).ok()?;
        let (slots, text) = (Arc::new(text.parse().ok()?), text.into());
        let (is_paused, is_warned, is_counted) = (flags & PAUSED != 0, flags & WARNED != 0, flags & COUNTED != 0);
        Some(Queue {
            slots,
            text,
            is_paused,
            warn_ahead,
            is_warned,
            order,
            placed,
            start,
            since,
            lead,
            is_counted,
            done,
        })
    }
}

/// The due of a taken slot, as it was remembered.
pub fn taken_due(value: &[u8]) -> Option<Timestamp> {
    value.first_chunk().map(|micros| Timestamp::from_micros(i64::from_le_bytes(*micros)))
}
