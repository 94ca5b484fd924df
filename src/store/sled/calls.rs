//! Which attempts have begun: a log that is written without waiting for the disk. So it is there when the process
//! died, and counts only on the same boot of the machine; a loss of power may have taken any part of it.
//!
//! ```text
//! <path>/calls   header | frame*
//! header  "punctual calls\n" | commit u64 LE: all calls of claims since then are in here | crc32 u32 LE
//!         of the boot's id and all that
//! frame   kind u8 (1 called, 2 taken back) | entries u32 LE | (seq u64 LE, attempt u32 LE)*
//!         | crc32 u32 LE of the crc before and all that
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::CallLog;
use super::state::Claim;
use crate::id::{Seq, SeqMap};
use crate::post::{Called, Claimed};
use crate::sabotage::{self, Switch};

/// A log that is longer is written anew with the open calls only.
const LONG: u64 = 8 << 20;

const LOG: &str = "calls";
const NEW_LOG: &str = "calls.new";
const MAGIC: &[u8] = b"punctual calls\n";
pub const CALLED: u8 = 1;
pub const TAKEN_BACK: u8 = 2;
/// What a frame has before its entries.
const FRAME_BYTES: usize = 5;
const ENTRY_BYTES: usize = 12;

/// The id of this boot of the machine, where there is one.
pub fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}

/// What is known of calls: by earlier processes, for claims that may still be open, and by this one.
#[derive(Debug)]
pub struct Calls {
    /// Calls of earlier processes; of every claim since the commit `complete_from` that has begun, if that is so.
    earlier: SeqMap<u32>,
    complete_from: Option<u64>,
    /// Earlier calls whose claims may be closed already.
    unchecked: Vec<Seq>,
    log: Arc<Log>,
}

/// What becomes of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// The post has ended.
    Settled(Seq),
    /// It can be claimed again, or is for this attempt.
    Moved { seq: Seq, claim: Option<u32> },
}

impl Calls {
    /// Takes over what earlier processes have left in this directory, and begins a log for claims of this commit and
    /// later ones.
    pub fn open(folder: &Path, boot: Option<&str>, commit: u64) -> io::Result<Self> {
        let found = boot.and_then(|boot| read(&fs::read(folder.join(LOG)).ok()?, boot));
        let complete_from = found.as_ref().map(|(from, _)| *from);
        let earlier = found.map(|(_, called)| called).unwrap_or_default();
        let mut unchecked: Vec<Seq> = earlier.keys().copied().collect();
        unchecked.sort_unstable();
        let writer = match boot {
            Some(boot) => Writer::create(folder, boot, complete_from.unwrap_or(commit), &earlier).ok(),
            None => None,
        };
        if writer.is_none() {
            // It would be taken for the log of this process.
            remove(&folder.join(LOG))?;
        }
        let book = Book { writer, is_stale: false, called: SeqMap::default() };
        let log = Arc::new(Log { folder: folder.to_owned(), book: Mutex::new(book) });
        Ok(Self { earlier, complete_from, unchecked, log })
    }

    /// The log, if there is one.
    pub fn log(&self) -> Option<Arc<dyn CallLog>> {
        let is_there = self.log.book().writer.is_some();
        is_there.then(|| Arc::clone(&self.log) as Arc<dyn CallLog>)
    }

    /// What is to be said of the claim of an earlier process.
    pub fn judge(&self, seq: Seq, Claim { attempt, commit }: Claim) -> Claimed {
        let is_complete = self.complete_from.is_some_and(|from| commit >= from);
        let called = match self.earlier.get(&seq) == Some(&attempt) {
            _ if !is_complete => Called::Unknown,
            true => Called::Yes,
            false => Called::No,
        };
        Claimed { attempt, called }
    }

    /// Takes in that claims were closed, which is durable.
    pub fn close(&mut self, closed: &[Closed]) {
        if closed.is_empty() {
            return;
        }
        let mut book = self.log.book();
        if self.earlier.is_empty() && book.called.is_empty() {
            return;
        }
        let mut taken_back = Vec::new();
        for closed in closed {
            match *closed {
                Closed::Settled(seq) => {
                    self.earlier.remove(&seq);
                    book.called.remove(&seq);
                }
                Closed::Moved { seq, claim } => {
                    for called in [&mut self.earlier, &mut book.called] {
                        // The same attempt that goes on elsewhere has still begun.
                        if let Some(attempt) = called.get(&seq).copied().filter(|attempt| claim != Some(*attempt)) {
                            called.remove(&seq);
                            taken_back.push((seq, attempt));
                        }
                    }
                }
            }
        }
        if !taken_back.is_empty() {
            self.log.write(&mut book, TAKEN_BACK, &taken_back);
        }
    }

    /// Some earlier calls to be looked at: their claims may have been closed before this process.
    pub fn take_unchecked(&mut self, most: usize) -> Vec<Seq> {
        self.unchecked.split_off(self.unchecked.len().saturating_sub(most))
    }

    /// Whether there is nothing to be looked at any more.
    pub fn is_checked(&self) -> bool {
        self.unchecked.is_empty()
    }

    /// The claim of an earlier call is closed.
    pub fn forget(&mut self, seq: Seq) {
        self.earlier.remove(&seq);
    }

    /// Writes a long log anew, with the open calls only. If that fails, the old one is as good.
    pub fn compact(&self, longest: u64) {
        let mut book = self.log.book();
        let Book { writer, called, .. } = &mut *book;
        let bytes_anew = (ENTRY_BYTES * (self.earlier.len() + called.len())) as u64;
        let Some(writer) = writer.as_mut().filter(|writer| writer.bytes > longest.max(2 * bytes_anew)) else {
            return;
        };
        let called: SeqMap<u32> =
            self.earlier.iter().chain(called.iter()).map(|(seq, attempt)| (*seq, *attempt)).collect();
        if let Ok(anew) = Writer::create(&self.log.folder, &writer.boot, writer.complete_from, &called) {
            *writer = anew;
        }
    }

    /// [`compact`](Self::compact), for a log that is too long to be kept.
    pub fn compact_if_long(&self) {
        self.compact(LONG);
    }
}

/// The log of this process, shared with its workers.
#[derive(Debug)]
struct Log {
    folder: PathBuf,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    /// Gone once writing failed, and the log with it.
    writer: Option<Writer>,
    /// Writing failed, and the log could not be taken away: it may lack calls that a later process would not know of.
    is_stale: bool,
    /// The last attempts that have begun, of posts whose claims may be open.
    called: SeqMap<u32>,
}

impl Log {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here stops half-way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, book: &mut Book, kind: u8, entries: &[(Seq, u32)]) {
        let Some(writer) = &mut book.writer else { return };
        if writer.write(kind, entries).is_err() {
            // Without a log every claim counts as called; with half of one some would not. One of the two will do.
            let is_empty = writer.file.set_len(0).is_ok();
            book.is_stale = remove(&self.folder.join(LOG)).is_err() && !is_empty;
            book.writer = None;
        }
    }
}

impl CallLog for Log {
    fn calling(&self, attempts: &[(Seq, u32)]) -> bool {
        let mut book = self.book();
        self.write(&mut book, CALLED, attempts);
        if book.writer.is_some() {
            book.called.extend(attempts.iter().copied());
        }
        book.is_stale = book.is_stale && remove(&self.folder.join(LOG)).is_err();
        !book.is_stale || sabotage::is(Switch::CallLogLies)
    }
}

/// A log that can be added to.
#[derive(Debug)]
struct Writer {
    file: File,
    boot: String,
    complete_from: u64,
    crc: u32,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Writer {
    /// A log with these calls in it, in the place of the one that is there.
    fn create(folder: &Path, boot: &str, complete_from: u64, called: &SeqMap<u32>) -> io::Result<Self> {
        let new = folder.join(NEW_LOG);
        let written = Self::begin(&new, boot, complete_from, called);
        let renamed = written.and_then(|writer| fs::rename(&new, folder.join(LOG)).map(|()| writer));
        if renamed.is_err() {
            // It is of no use; the next one takes its place if it stays.
            let _ = remove(&new);
        }
        renamed
    }

    fn begin(path: &Path, boot: &str, complete_from: u64, called: &SeqMap<u32>) -> io::Result<Self> {
        let mut file = File::create(path)?;
        let (header, crc) = header(complete_from, boot);
        file.write_all(&header)?;
        let (boot, bytes) = (boot.to_owned(), header.len() as u64);
        let mut writer = Self { file, boot, complete_from, crc, bytes, buffer: header };
        let called: Vec<(Seq, u32)> = called.iter().map(|(seq, attempt)| (*seq, *attempt)).collect();
        writer.write(CALLED, &called)?;
        Ok(writer)
    }

    fn write(&mut self, kind: u8, entries: &[(Seq, u32)]) -> io::Result<()> {
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.push(kind);
        buffer.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        for (seq, attempt) in entries {
            buffer.extend_from_slice(&seq.0.to_le_bytes());
            buffer.extend_from_slice(&attempt.to_le_bytes());
        }
        self.crc = crc(self.crc, &[buffer]);
        buffer.extend_from_slice(&self.crc.to_le_bytes());
        self.bytes += buffer.len() as u64;
        self.file.write_all(buffer)
    }
}

/// The header, and its checksum.
pub fn header(complete_from: u64, boot: &str) -> (Vec<u8>, u32) {
    let mut header = [MAGIC, &complete_from.to_le_bytes()].concat();
    let crc = crc(0, &[boot.as_bytes(), &header]);
    header.extend_from_slice(&crc.to_le_bytes());
    (header, crc)
}

pub fn crc(before: u32, pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&before.to_le_bytes());
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

/// What a log of this boot says, if it is one and whole: the commit from which it is complete, and the calls.
pub fn read(bytes: &[u8], boot: &str) -> Option<(u64, SeqMap<u32>)> {
    let complete_from = u64::from_le_bytes(*bytes.strip_prefix(MAGIC)?.first_chunk()?);
    let (header, mut last) = header(complete_from, boot);
    let mut rest = bytes.strip_prefix(&header[..])?;
    let mut called = SeqMap::default();
    while !rest.is_empty() {
        let count = u32::from_le_bytes(*rest.get(1..)?.first_chunk()?) as usize;
        let (frame, after) = rest.split_at_checked(count.checked_mul(ENTRY_BYTES)?.checked_add(FRAME_BYTES)?)?;
        last = crc(last, &[frame]);
        rest = after.strip_prefix(&last.to_le_bytes())?;
        for entry in frame.get(FRAME_BYTES..)?.chunks_exact(ENTRY_BYTES) {
            let seq = Seq(u64::from_le_bytes(*entry.first_chunk()?));
            let attempt = u32::from_le_bytes(*entry.last_chunk()?);
            match *frame.first()? {
                CALLED => drop(called.insert(seq, attempt)),
                // A later attempt has begun all the same.
                TAKEN_BACK if called.get(&seq) != Some(&attempt) => {}
                TAKEN_BACK => drop(called.remove(&seq)),
                _ => return None,
            }
        }
    }
    Some((complete_from, called))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Option<&str> = Some("this boot\n");

    fn called(calls: &Calls, seq: u64, attempt: u32, commit: u64) -> bool {
        calls.judge(Seq(seq), Claim { attempt, commit }).called != Called::No
    }

    /// A directory in which a process whose claims began with commit 5 has called posts 1 and 2, and died.
    fn left() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut calls = Calls::open(folder.path(), BOOT, 5).unwrap();
        let log = calls.log().unwrap();
        log.calling(&[(Seq(1), 1), (Seq(3), 1)]);
        log.calling(&[(Seq(2), 7)]);
        calls.close(&[Closed::Moved { seq: Seq(3), claim: None }, Closed::Moved { seq: Seq(2), claim: Some(7) }]);
        folder
    }

    #[test]
    fn a_boot_has_the_name_that_the_machine_gives_it() {
        let named = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        assert_eq!(boot(), named);
    }

    #[test]
    fn an_old_call_that_is_let_go_late_takes_no_later_one_with_it() {
        // The process died after it had closed the claims of its calls, and before it noted that in the log.
        let folder = left();
        let mut calls = Calls::open(folder.path(), BOOT, 5).unwrap();
        calls.log().unwrap().calling(&[(Seq(1), 2), (Seq(2), 8)]);
        calls.close(&[Closed::Moved { seq: Seq(1), claim: Some(2) }, Closed::Moved { seq: Seq(2), claim: Some(8) }]);
        drop(calls);
        let calls = Calls::open(folder.path(), BOOT, 9).unwrap();
        assert!(called(&calls, 1, 2, 5) && called(&calls, 2, 8, 5));
        assert!(!called(&calls, 1, 1, 5) && !called(&calls, 2, 7, 5));
    }

    #[test]
    fn what_was_called_is_told_from_what_was_not() {
        let folder = left();
        for opening in 0..3 {
            let calls = Calls::open(folder.path(), BOOT, 9 + opening).unwrap();
            assert!(called(&calls, 1, 1, 5) && called(&calls, 2, 7, 6));
            assert!(!called(&calls, 1, 2, 5) && !called(&calls, 2, 6, 5) && !called(&calls, 4, 1, 5));
            assert!(!called(&calls, 3, 1, 5), "it was taken back");
            assert!(called(&calls, 4, 1, 4), "claimed before the log began");
        }
    }

    #[test]
    fn another_boot_or_none_may_have_called_everything() {
        for boot in [Some("another boot\n"), None] {
            let folder = left();
            let calls = Calls::open(folder.path(), boot, 9).unwrap();
            assert!(called(&calls, 1, 1, 5) && called(&calls, 4, 1, 5) && called(&calls, 4, 1, 9));
            assert_eq!(calls.log().is_some(), boot.is_some());
            drop(calls);
            // What that process did not log is not held against this one's boot either.
            let calls = Calls::open(folder.path(), BOOT, 10).unwrap();
            assert!(called(&calls, 4, 1, 9));
        }
    }

    #[test]
    fn a_damaged_log_may_have_had_everything() {
        let folder = left();
        let path = folder.path().join(LOG);
        let whole = fs::read(&path).unwrap();
        assert!(read(&whole, BOOT.unwrap()).is_some());
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&flipped, BOOT.unwrap()), None, "bit {bit}");
        }
        // The frames have no, two, one and one entries.
        let starts = [0, 9, 9 + 33, 9 + 33 + 21].map(|start| start + header(5, BOOT.unwrap()).0.len());
        for frame in starts.windows(2) {
            let without_one = [&whole[..frame[0]], &whole[frame[1]..]].concat();
            assert_eq!(read(&without_one, BOOT.unwrap()), None, "a frame is missing");
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let calls = Calls::open(folder.path(), BOOT, 9).unwrap();
        assert!(called(&calls, 4, 1, 5));
        fs::remove_file(&path).unwrap();
        let calls = Calls::open(folder.path(), BOOT, 9).unwrap();
        assert!(called(&calls, 4, 1, 5));
    }

    #[test]
    fn a_log_is_written_anew_where_it_is_too_long_and_half_of_it_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut calls = Calls::open(folder.path(), BOOT, 9).unwrap();
        let len = || fs::metadata(folder.path().join(LOG)).unwrap().len();
        let log = calls.log().unwrap();
        for posts in [1..=50, 51..=100] {
            log.calling(&posts.map(|seq| (Seq(seq), 1)).collect::<Vec<_>>());
        }
        let before = len();
        calls.compact(0);
        assert_eq!(len(), before, "all of it is needed");
        let closed: Vec<_> = (1..=100).map(|seq| Closed::Moved { seq: Seq(seq), claim: None }).collect();
        calls.close(&closed);
        let before = len();
        calls.compact(before);
        assert_eq!(len(), before, "it may be as long as this");
        calls.compact(before - 1);
        assert!(len() < 200, "{} bytes of {before} are left", len());
    }

    #[test]
    fn nothing_is_called_while_a_log_can_neither_be_written_nor_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let calls = Calls::open(folder.path(), BOOT, 9).unwrap();
        let (log, path) = (calls.log().unwrap(), folder.path().join(LOG));
        // What cannot be written stands in for the log, and what cannot be removed like a file.
        calls.log.book().writer.as_mut().unwrap().file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(!log.calling(&[(Seq(1), 1)]));
        assert!(!log.calling(&[(Seq(1), 1)]));
        fs::remove_dir(&path).unwrap();
        assert!(log.calling(&[(Seq(1), 1)]), "without a log every claim counts as called");
    }

    #[test]
    fn a_log_that_cannot_be_written_leaves_everything_called() {
        let folder = left();
        let mut calls = Calls::open(folder.path(), BOOT, 9).unwrap();
        let log = calls.log().unwrap();
        log.calling(&[(Seq(8), 1)]);
        // A device that is always full stands in for the log.
        calls.log.book().writer.as_mut().unwrap().file = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        log.calling(&[(Seq(9), 1)]);
        log.calling(&[(Seq(10), 1)]);
        assert!(!called(&calls, 4, 1, 5), "what was known is known");
        calls.close(&[Closed::Settled(Seq(8))]);
        calls.compact(0);
        drop(calls);
        let calls = Calls::open(folder.path(), BOOT, 10).unwrap();
        assert!(called(&calls, 4, 1, 5) && called(&calls, 9, 1, 9));
    }

    #[test]
    fn a_log_that_cannot_be_made_leaves_everything_called() {
        let folder = left();
        fs::create_dir(folder.path().join(NEW_LOG)).unwrap();
        let calls = Calls::open(folder.path(), BOOT, 9).unwrap();
        assert!(calls.log().is_none());
        assert!(called(&calls, 1, 1, 5) && !called(&calls, 4, 1, 5));
        drop(calls);
        fs::remove_dir(folder.path().join(NEW_LOG)).unwrap();
        let calls = Calls::open(folder.path(), BOOT, 10).unwrap();
        assert!(called(&calls, 4, 1, 9));
    }

    #[test]
    fn a_long_log_is_written_anew_with_the_open_calls() {
        let folder = left();
        let mut calls = Calls::open(folder.path(), BOOT, 9).unwrap();
        let log = calls.log().unwrap();
        for seq in 100..2_000 {
            log.calling(&[(Seq(seq), 1)]);
            calls.close(&[Closed::Settled(Seq(seq - 50))]);
        }
        let len = || fs::metadata(folder.path().join(LOG)).unwrap().len();
        let before = len();
        calls.compact_if_long();
        assert_eq!(len(), before, "it is not long yet");
        calls.compact(4_000);
        assert!(len() < 1_000, "{} bytes", len());
        log.calling(&[(Seq(3_000), 2)]);
        drop(calls);
        let calls = Calls::open(folder.path(), BOOT, 10).unwrap();
        assert!(called(&calls, 1, 1, 5) && called(&calls, 2, 7, 5) && called(&calls, 3_000, 2, 9));
        assert!(called(&calls, 1_999, 1, 9) && !called(&calls, 1_900, 1, 9));
    }

    #[test]
    fn threads_may_call_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let calls = Calls::open(folder.path(), BOOT, 1).unwrap();
        let log = calls.log().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = &log;
                scope.spawn(move || (0..500).for_each(|i| assert!(log.calling(&[(Seq(thread * 1_000 + i), 1)]))));
            }
        });
        drop(calls);
        let calls = Calls::open(folder.path(), BOOT, 2).unwrap();
        assert!((0..4).all(|thread| (0..500).all(|i| called(&calls, thread * 1_000 + i, 1, 1))));
        assert!(!called(&calls, 600, 1, 1));
    }
}
