//! What became known of a post on its way, kept with it: most posts have none of it.
//!
//! ```text
//! (tag u8, length u32 LE, value)*
//! 1 checkpoint | 2 prepared: valid until i64 µs, when i64 µs, bytes | 3 receipt of a part | 4 reason
//! 5 not before, i64 µs | 6 calls u32
//! ```

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::time::Timestamp;

use super::Receipt;

const CHECKPOINT: u8 = 1;
const PREPARED: u8 = 2;
const RECEIPT: u8 = 3;
const REASON: u8 = 4;
const NOT_BEFORE: u8 = 5;
const CALLS: u8 = 6;

/// What is known of a post beside its head and body. Nothing, mostly, and then it costs nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Notes(Option<Arc<Noted>>);

/// What there is to note.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Noted {
    /// What the broadcaster wanted to remember in mid-flight.
    pub checkpoint: Option<Bytes>,
    /// What was made ready ahead of the due.
    pub prepared: Option<Ready>,
    /// The receipts of the parts that are published.
    pub receipts: Vec<Receipt>,
    /// What was said last: of a failure, a doubt.
    pub reason: Option<String>,
    /// The next attempt is not made before this, although its home is earlier: posts in order keep their place.
    pub not_before: Option<Timestamp>,
    /// Calls that the attempts of the record do not count: of earlier parts, throttled ones, those before the host had
    /// it sent again.
    pub calls: u32,
}

/// What a broadcaster has made ready.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ready {
    pub bytes: Bytes,
    pub valid_until: Timestamp,
    /// When it was made.
    pub at: Timestamp,
}

impl Notes {
    /// What is noted.
    pub fn get(&self) -> Option<&Noted> {
        self.0.as_deref()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Changes them. Others that share them do not see it.
    pub fn edit(&mut self, change: impl FnOnce(&mut Noted)) {
        let mut noted = self.0.take().unwrap_or_default();
        change(Arc::make_mut(&mut noted));
        self.0 = (*noted != Noted::default()).then_some(noted);
    }

    pub fn checkpoint(&self) -> Option<&Bytes> {
        self.get()?.checkpoint.as_ref()
    }

    pub fn prepared(&self) -> Option<&Ready> {
        self.get()?.prepared.as_ref()
    }

    pub fn receipts(&self) -> &[Receipt] {
        self.get().map_or(&[], |noted| &noted.receipts)
    }

    pub fn reason(&self) -> Option<&str> {
        self.get()?.reason.as_deref()
    }

    pub fn not_before(&self) -> Option<Timestamp> {
        self.get()?.not_before
    }

    pub fn calls(&self) -> u32 {
        self.get().map_or(0, |noted| noted.calls)
    }

    /// Bytes that they take.
    pub fn len(&self) -> usize {
        let Some(noted) = self.get() else { return 0 };
        let prepared = noted.prepared.as_ref().map_or(0, |ready| ready.bytes.len());
        let receipts: usize = noted.receipts.iter().map(|receipt| receipt.as_str().len() + 24).sum();
        noted.checkpoint.as_ref().map_or(0, Bytes::len)
            + prepared
            + receipts
            + noted.reason.as_ref().map_or(0, String::len)
    }

    /// Their encoding; empty if there are none.
    pub fn encode(&self) -> Bytes {
        let Some(noted) = self.get() else { return Bytes::new() };
        let mut out = BytesMut::with_capacity(self.len() + 32);
        let mut put = |tag: u8, pieces: &[&[u8]]| {
            out.put_u8(tag);
            out.put_u32_le(pieces.iter().map(|piece| piece.len()).sum::<usize>() as u32);
            pieces.iter().for_each(|piece| out.put_slice(piece));
        };
        if let Some(bytes) = &noted.checkpoint {
            put(CHECKPOINT, &[bytes]);
        }
        if let Some(Ready { bytes, valid_until, at }) = &noted.prepared {
            put(PREPARED, &[&valid_until.micros().to_le_bytes(), &at.micros().to_le_bytes(), bytes]);
        }
        for receipt in &noted.receipts {
            put(RECEIPT, &[receipt.as_str().as_bytes()]);
        }
        if let Some(reason) = &noted.reason {
            put(REASON, &[reason.as_bytes()]);
        }
        if let Some(at) = noted.not_before {
            put(NOT_BEFORE, &[&at.micros().to_le_bytes()]);
        }
        if noted.calls > 0 {
            put(CALLS, &[&noted.calls.to_le_bytes()]);
        }
        out.freeze()
    }

    /// Reads what [`encode`](Self::encode) gave; `None` if it is something else.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let (mut noted, mut at) = (Noted::default(), 0);
        while at < bytes.len() {
            let tag = *bytes.get(at)?;
            let len = u32::from_le_bytes(*bytes.get(at + 1..)?.first_chunk()?) as usize;
            let end = (at + 5).checked_add(len).filter(|end| *end <= bytes.len())?;
            let value = bytes.slice(at + 5..end);
            let instant = |at: usize| {
                let micros = value.get(at..)?.first_chunk().map(|bytes| i64::from_le_bytes(*bytes))?;
                Some(Timestamp::from_micros(micros))
            };
            match tag {
                CHECKPOINT => noted.checkpoint = Some(value),
                PREPARED => {
                    let (valid_until, at) = (instant(0)?, instant(8)?);
                    noted.prepared = Some(Ready { bytes: value.slice(16..), valid_until, at });
                }
                RECEIPT => noted.receipts.push(Receipt::new(std::str::from_utf8(&value).ok()?)),
                REASON => noted.reason = Some(std::str::from_utf8(&value).ok()?.to_owned()),
                NOT_BEFORE => noted.not_before = Some(instant(0)?),
                CALLS => noted.calls = u32::from_le_bytes(*value.first_chunk()?),
                _ => return None,
            }
            at = end;
        }
        Some(Self((noted != Noted::default()).then(|| Arc::new(noted))))
    }
}

impl From<Noted> for Notes {
    fn from(noted: Noted) -> Self {
        Self((noted != Noted::default()).then(|| Arc::new(noted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instant() -> impl Strategy<Value = Timestamp> {
        any::<i64>().prop_map(Timestamp::from_micros)
    }

    prop_compose! {
        fn noted()(
            checkpoint in proptest::option::of(any::<Vec<u8>>()),
            prepared in proptest::option::of((any::<Vec<u8>>(), instant(), instant())),
            receipts in proptest::collection::vec(".{0,9}", 0..3),
            reason in proptest::option::of(".{0,9}"),
            not_before in proptest::option::of(instant()),
            calls: u32,
        ) -> Noted {
            Noted {
                checkpoint: checkpoint.map(Bytes::from),
                prepared: prepared.map(|(bytes, valid_until, at)| Ready { bytes: bytes.into(), valid_until, at }),
                receipts: receipts.into_iter().map(Receipt::new).collect(),
                reason,
                not_before,
                calls,
            }
        }
    }

    proptest! {
        #[test]
        fn notes_come_back(noted in noted()) {
            let notes = Notes::from(noted.clone());
            prop_assert_eq!(Notes::decode(&notes.encode()), Some(notes.clone()));
            prop_assert_eq!(notes.is_empty(), noted == Noted::default());
            prop_assert_eq!(notes.is_empty(), notes.encode().is_empty());
        }

        #[test]
        fn all_that_is_long_in_notes_is_counted(noted in noted()) {
            let receipts = noted.receipts.len();
            let (checkpoint, prepared) = (usize::from(noted.checkpoint.is_some()), usize::from(noted.prepared.is_some()));
            let parts = checkpoint + prepared + receipts + usize::from(noted.reason.is_some());
            let notes = Notes::from(Noted { not_before: None, calls: 0, ..noted });
            // Each part has a head in the encoding, what is prepared two instants; a receipt takes its own memory.
            prop_assert_eq!(notes.len() + 5 * parts + 16 * prepared, notes.encode().len() + 24 * receipts);
        }

        #[test]
        fn what_is_changed_back_is_nothing(calls in 1u32..) {
            let mut notes = Notes::default();
            prop_assert!(notes.is_empty());
            notes.edit(|noted| noted.calls = calls);
            prop_assert!(!notes.is_empty());
            notes.edit(|noted| noted.calls = 0);
            prop_assert!(notes.is_empty());
        }

        #[test]
        fn arbitrary_bytes_are_notes_or_refused(bytes: Vec<u8>) {
            let _ = Notes::decode(&Bytes::from(bytes));
        }
    }
}
