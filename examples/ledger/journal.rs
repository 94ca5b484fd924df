//! The one file to which all processes of a run write: what the host asked for and was told, what the network saw.
//!
//! Each entry is one line of JSON, appended with one write, so that it survives the kill of its process.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use punctual::PostId;
use serde::{Deserialize, Serialize};

use super::draft::Draft;

/// One broadcast call: the number of its process, and its own within that.
pub type Call = (u32, u64);

/// A part of a post.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Part {
    #[serde(with = "text")]
    pub id: PostId,
    pub part: usize,
}

/// What a broadcaster saw when it was called.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Called {
    pub call: Call,
    #[serde(flatten)]
    pub of: Part,
    pub attempt: u32,
    pub redelivery: bool,
    /// The idempotency key.
    pub key: String,
    pub due: i64,
    pub at: i64,
    /// The pool and profile, if the post goes in order.
    pub line: Option<String>,
    /// The pool's timeout, in microseconds.
    pub timeout: i64,
    /// Of the payload handed over.
    pub version: u64,
    pub prepared: Option<String>,
    pub checkpoint: Option<Call>,
}

/// A change that the host asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Wish {
    Cancel,
    /// To this due.
    Move(i64),
    Now,
    /// This part gets the payload of this version.
    Edit(usize, u64),
}

/// What a broadcaster told the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    Published,
    NotPublished,
    Unknown,
}

/// One line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A process has started. What the one before it had under way is gone.
    Born { round: u32 },
    /// The host is about to schedule a post with a key.
    Ask(Draft),
    /// The host was told that the post is stored.
    Ack {
        #[serde(with = "text")]
        id: PostId,
        at: i64,
        draft: Draft,
    },
    /// The host is about to ask for a change.
    Wish {
        #[serde(with = "text")]
        id: PostId,
        wish: Wish,
    },
    /// It was told that the change is made.
    Granted {
        #[serde(with = "text")]
        id: PostId,
        wish: Wish,
        at: i64,
    },
    /// A post was made ready.
    Prepared { bytes: String },
    /// A broadcaster was called.
    Call(Called),
    /// It is about to ask for a checkpoint, which is the call's own name.
    Keep { call: Call, of: Part },
    /// It was told that the checkpoint is kept.
    Kept { call: Call, of: Part },
    /// The network has published the part.
    Sent { call: Call, of: Part },
    /// The network will never publish it because of this call.
    Dropped { call: Call, of: Part },
    /// The broadcaster is about to answer, or to panic.
    Ended { call: Call, of: Part, answer: Answer },
    /// It is about to answer what came of all calls before.
    Reconciled { of: Part, answer: Answer },
}

/// A post's id as text, whatever features the crate has.
mod text {
    use punctual::PostId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(id: &PostId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PostId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The end of the journal that one process writes.
pub struct Journal {
    file: File,
    pub round: u32,
}

impl Journal {
    pub fn open(path: &Path, round: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        // The line before may have been cut by the kill.
        (&file).write_all(b"\n")?;
        let journal = Self { file, round };
        journal.write(&Entry::Born { round });
        Ok(journal)
    }

    /// # Panics
    /// If it cannot: without its journal a run proves nothing.
    pub fn write(&self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("an entry is plain data");
        line.push(b'\n');
        (&self.file).write_all(&line).expect("the journal can be written");
    }

    /// Where its next line will be, or one soon after it.
    pub fn end(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// What was written since this place, which is a line's beginning; `None` if that is too long ago.
    pub fn since(&self, place: u64, at_most: u64) -> Option<Vec<Entry>> {
        let len = self.end().checked_sub(place).filter(|len| *len <= at_most)?;
        Some(entries(&self.read(place, len)?[..]).collect())
    }

    /// Its last entries, so many bytes of them.
    pub fn tail(&self, bytes: u64) -> Vec<Entry> {
        let end = self.end();
        let read = self.read(end.saturating_sub(bytes), bytes.min(end));
        read.map_or_else(Vec::new, |bytes| entries(&bytes[..]).collect())
    }

    fn read(&self, place: u64, len: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.file.read_exact_at(&mut bytes, place).ok()?;
        Some(bytes)
    }
}

/// All entries of a finished run, in the order in which they were written.
pub fn read(path: &Path) -> io::Result<impl Iterator<Item = Entry> + use<>> {
    Ok(entries(BufReader::new(File::open(path)?)))
}

/// Whole lines only: a kill may cut one.
fn entries(lines: impl BufRead) -> impl Iterator<Item = Entry> {
    lines.split(b'\n').map_while(Result::ok).filter_map(|line| serde_json::from_slice(&line).ok())
}

/// The wall clock in microseconds since 1970: a witness reads it for itself.
pub fn micros() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}
