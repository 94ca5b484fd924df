//! The store's directory: what is ours in it, and what has to be right before sled may open its part.
//!
//! ```text
//! format   "punctual store\nversion 3\nidentity {16 hex digits}\ncrc {8 hex digits}\n"
//! lock     held while the store is open
//! witness  two slots of 12 bytes: commit u64 LE | crc32 u32 LE
//! ballast  room that is given back when the disk is full, so that sled can open
//! sled/    sled's own
//! ```

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::sabotage::{self, Switch};

use super::disk;

/// The version of the format that is written and read.
pub const FORMAT: u32 = 3;
/// A log up to this size is read whole before sled opens it.
const READ_WHOLE: u64 = 256 << 20;
/// sled's segments, and the pages at both ends of each that are read of a longer log.
const SEGMENT_BYTES: u64 = 512 << 10;
const PAGE_BYTES: u64 = 4 << 10;
const BALLAST_BYTES: u64 = 4 << 20;

const MARKER: &str = "format";
const NEW_MARKER: &str = "format.new";
const LOCK: &str = "lock";
const LOG: &str = "db";
const CONF: &str = "conf";
/// What a directory may hold and still become a store.
const HARMLESS: [&str; 3] = [LOCK, NEW_MARKER, "lost+found"];

/// A store's directory, locked.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    identity: u64,
    /// Locked as long as it is open.
    _lock: File,
}

impl Folder {
    /// Makes the directory a store's if it is empty, and locks it.
    pub fn enter(path: &Path) -> Result<Self, StoreError> {
        let fail = |doing| move |error| disk::from_io(path, doing, error, super::RESERVE_BYTES);
        if path.exists() && !path.is_dir() {
            return Err(StoreError::NotADirectory { path: path.to_owned() });
        }
        fs::create_dir_all(path).map_err(fail("create the directory of"))?;
        let mut marker = read_marker(path)?;
        if marker.is_none() && holds_foreign_files(path).map_err(fail("list"))? {
            return Err(StoreError::NotAStore { path: path.to_owned() });
        }
        let mut options = OpenOptions::new();
        let lock = options.read(true).write(true).create(true).truncate(false).open(path.join(LOCK));
        let lock = lock.map_err(fail("open the lock of"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(fail("lock")(error)),
        }
        if marker.is_none() {
            // Another process may have made it in the meantime.
            marker = read_marker(path)?;
        }
        let identity = match marker {
            Some(identity) => identity,
            None => create_marker(path).map_err(fail("create"))?,
        };
        fs::create_dir_all(path.join("sled")).map_err(fail("create a directory of"))?;
        Ok(Self { path: path.to_owned(), identity, _lock: lock })
    }

    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// The directory that is sled's.
    pub fn sled(&self) -> PathBuf {
        self.path.join("sled")
    }

    pub fn log(&self) -> PathBuf {
        self.sled().join(LOG)
    }

    /// Brings sled's files into a state in which sled opens them, or fails as it should.
    pub fn prepare(&self) -> Result<(), StoreError> {
        let fail = |doing| move |error| disk::from_io(&self.path, doing, error, super::RESERVE_BYTES);
        check_readable(|| File::open(self.log())).map_err(fail("read"))?;
        remove_unfinished_snapshots(&self.sled()).map_err(fail("remove an unfinished snapshot of"))?;
        reset_torn_conf(&self.sled()).map_err(fail("repair the settings of"))
    }

    /// Makes what sled has created survive the loss of power.
    pub fn make_durable(&self) -> Result<(), StoreError> {
        if sabotage::is(Switch::NoSyncAtCreation) {
            return Ok(());
        }
        let sync = || {
            File::open(self.sled().join(CONF))?.sync_all()?;
            File::open(self.log())?.sync_all()?;
            sync_directory(&self.sled())?;
            sync_directory(&self.path)?;
            self.path.canonicalize()?.parent().map_or(Ok(()), sync_directory)
        };
        sync().map_err(|error| disk::from_io(&self.path, "sync", error, super::RESERVE_BYTES))
    }

    /// Whether the disk has so little room that sled may fail to open.
    pub fn is_crowded(&self) -> bool {
        fs4::available_space(&self.path).is_ok_and(|free| free < BALLAST_BYTES)
    }

    /// Gives the ballast back. True if there was some.
    pub fn drop_ballast(&self) -> bool {
        fs::remove_file(self.path.join("ballast")).is_ok()
    }

    /// Takes up ballast, if it is missing and the disk has room for it beside the reserve.
    pub fn take_ballast(&self) {
        let path = self.path.join("ballast");
        let there = fs::metadata(&path).is_ok_and(|ballast| ballast.len() == BALLAST_BYTES);
        let room = fs4::available_space(&self.path).is_ok_and(|free| free > super::RESERVE_BYTES + BALLAST_BYTES);
        if !there && room && fs::write(&path, vec![0x5a; BALLAST_BYTES as usize]).is_err() {
            // Half of it is of no use, and without it the store works as well.
            let _ = fs::remove_file(&path);
        }
    }

    pub fn witness(&self) -> Result<Witness, StoreError> {
        let fail = |error| disk::from_io(&self.path, "open the witness of", error, super::RESERVE_BYTES);
        Witness::open(&self.path.join("witness")).map_err(fail)
    }
}

fn holds_foreign_files(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if !HARMLESS.iter().any(|harmless| name == OsStr::new(harmless)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The store's identity, if the directory is a store.
fn read_marker(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::read(path.join(MARKER)) {
        Ok(bytes) => parse_marker(path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk::from_io(path, "read the marker of", error, 0)),
    }
}

/// The identity of the store whose marker has these bytes.
pub fn parse_marker(path: &Path, bytes: &[u8]) -> Result<u64, StoreError> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    if lines.next() != Some("punctual store") {
        return Err(StoreError::NotAStore { path: path.to_owned() });
    }
    let damaged = || StoreError::Damaged { path: path.to_owned(), what: "its file `format` is unreadable".to_owned() };
    let version: u32 = lines.next().and_then(|line| line.strip_prefix("version ")?.parse().ok()).ok_or_else(damaged)?;
    if version != FORMAT {
        return Err(StoreError::Version { path: path.to_owned(), found: version, supported: FORMAT });
    }
    let identity = lines.next().and_then(|line| u64::from_str_radix(line.strip_prefix("identity ")?, 16).ok());
    identity.filter(|identity| text == marker(*identity)).ok_or_else(damaged)
}

pub fn marker(identity: u64) -> String {
    let text = format!("punctual store\nversion {FORMAT}\nidentity {identity:016x}\n");
    format!("{text}crc {:08x}\n", crc32fast::hash(text.as_bytes()))
}

fn create_marker(path: &Path) -> io::Result<u64> {
    let identity = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let new = path.join(NEW_MARKER);
    let mut file = File::create(&new)?;
    file.write_all(marker(identity).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path.join(MARKER))?;
    sync_directory(path)?;
    Ok(identity)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    // Elsewhere directories cannot be opened, and need not be.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Reads the log as far as needed to notice a disk that does not give it back: sled would take the unreadable
/// for the end, and cut the rest off.
fn check_readable<R: Read + Seek>(open: impl FnOnce() -> io::Result<R>) -> io::Result<()> {
    let mut log = match open() {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let len = log.seek(SeekFrom::End(0))?;
    let mut buffer = vec![0; 1 << 20];
    if len <= READ_WHOLE {
        log.seek(SeekFrom::Start(0))?;
        while log.read(&mut buffer)? > 0 {}
        return Ok(());
    }
    buffer.truncate(PAGE_BYTES as usize);
    for segment in (0..len).step_by(SEGMENT_BYTES as usize) {
        let last = (segment + SEGMENT_BYTES).min(len).saturating_sub(PAGE_BYTES);
        for page in [segment, last.max(segment)] {
            log.seek(SeekFrom::Start(page))?;
            log.read_exact(&mut buffer[..PAGE_BYTES.min(len - page) as usize])?;
        }
    }
    Ok(())
}

/// sled takes a snapshot that it did not finish for its newest one.
fn remove_unfinished_snapshots(sled: &Path) -> io::Result<()> {
    for entry in fs::read_dir(sled)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") && !sabotage::is(Switch::KeepHalfSnapshot) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled never syncs its settings. It writes them anew if they are empty, and fails if they are torn.
fn reset_torn_conf(sled: &Path) -> io::Result<()> {
    let path = sled.join(CONF);
    let conf = match fs::read(&path) {
        Ok(conf) => conf,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let is_whole = conf.split_last_chunk::<4>().is_some_and(|(text, crc)| crc32fast::hash(text).to_le_bytes() == *crc);
    if is_whole { Ok(()) } else { File::create(&path).map(drop) }
}

/// Remembers the last commit outside of sled, to notice if sled has lost it. It survives the death of the process,
/// and need not survive more: it is never ahead of the log.
#[derive(Debug)]
pub struct Witness {
    file: File,
}

impl Witness {
    const SLOT_BYTES: u64 = 12;

    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file })
    }

    /// The last commit that was noted; 0 if there is none.
    pub fn last(&mut self) -> io::Result<u64> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&mut self.file).take(2 * Self::SLOT_BYTES).read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    /// The last commit that these slots say; 0 if there is none.
    pub fn parse(bytes: &[u8]) -> u64 {
        let slots = bytes.chunks_exact(Self::SLOT_BYTES as usize);
        let commits = slots.filter_map(|slot| {
            let (commit, crc) = slot.split_first_chunk::<8>()?;
            (crc32fast::hash(commit).to_le_bytes() == *crc).then_some(u64::from_le_bytes(*commit))
        });
        commits.max().unwrap_or(0)
    }

    /// Notes a commit that is durable.
    pub fn note(&mut self, commit: u64) -> io::Result<()> {
        let commit_bytes = commit.to_le_bytes();
        let mut slot = commit_bytes.to_vec();
        slot.extend_from_slice(&crc32fast::hash(&commit_bytes).to_le_bytes());
        self.file.seek(SeekFrom::Start(commit % 2 * Self::SLOT_BYTES))?;
        self.file.write_all(&slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of this length whose byte at `bad` cannot be read.
    struct BadDisk {
        len: u64,
        bad: u64,
        at: u64,
    }

    impl Read for BadDisk {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let end = self.len.min(self.at + buffer.len() as u64);
            if (self.at..end).contains(&self.bad) {
                return Err(io::Error::from_raw_os_error(5));
            }
            let read = end - self.at;
            self.at = end;
            Ok(read as usize)
        }
    }

    impl Seek for BadDisk {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.at = match to {
                SeekFrom::Start(at) => at,
                SeekFrom::End(by) => self.len.saturating_add_signed(by),
                SeekFrom::Current(by) => self.at.saturating_add_signed(by),
            };
            Ok(self.at)
        }
    }

    #[test]
    fn an_unreadable_log_is_noticed_before_sled_sees_it() {
        let check = |len, bad| check_readable(|| Ok(BadDisk { len, bad, at: 0 }));
        for bad in [0, 1, 700_000, (1 << 20) - 1] {
            assert!(check(1 << 20, bad).is_err(), "byte {bad} of a short log");
        }
        let len = READ_WHOLE + SEGMENT_BYTES / 2;
        for bad in [0, SEGMENT_BYTES - 1, SEGMENT_BYTES, READ_WHOLE, len - 1] {
            assert!(check(len, bad).is_err(), "byte {bad} of a long log");
        }
        assert!(check(1 << 20, u64::MAX).is_ok());
        assert!(check(len, u64::MAX).is_ok());
        assert!(check(3 << 20, 5 << 19).is_err(), "not only what is read first");
        let len = READ_WHOLE + PAGE_BYTES / 2;
        assert!(check(len, u64::MAX).is_ok(), "a segment shorter than a page");
        assert!(check(len, len - 1).is_err());
        assert!(check(0, u64::MAX).is_ok());
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_fine_and_one_that_cannot_be_opened_is_not() {
        let open = |kind: io::ErrorKind| check_readable(|| Err::<File, _>(kind.into()));
        assert!(open(io::ErrorKind::NotFound).is_ok());
        assert!(open(io::ErrorKind::PermissionDenied).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_missing() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(MARKER)).unwrap();
        let refused = Folder::enter(folder.path()).unwrap_err();
        assert!(matches!(refused, StoreError::Io { doing: "read the marker of", .. }), "{refused}");

        let folder = tempfile::tempdir().unwrap();
        let store = Folder::enter(folder.path()).unwrap();
        store.prepare().unwrap();
        fs::create_dir(store.sled().join(CONF)).unwrap();
        let refused = store.prepare().unwrap_err();
        assert!(matches!(refused, StoreError::Io { doing: "repair the settings of", .. }), "{refused}");
    }

    #[test]
    fn ballast_is_taken_whole_and_once_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::enter(folder.path()).unwrap();
        let path = folder.path().join("ballast");
        assert!(!store.is_crowded(), "the test needs room");
        store.take_ballast();
        let ballast = fs::read(&path).unwrap();
        assert_eq!(ballast.len() as u64, BALLAST_BYTES);
        // A process that was killed has left half of it.
        fs::write(&path, &ballast[1..]).unwrap();
        store.take_ballast();
        assert_eq!(fs::read(&path).unwrap(), ballast);
        let other = vec![1; ballast.len()];
        fs::write(&path, &other).unwrap();
        store.take_ballast();
        assert!(fs::read(&path).unwrap() == other, "what is there stays");
        assert!(store.drop_ballast());
        assert!(!path.exists());
        assert!(!store.drop_ballast(), "there is no more");
    }

    #[test]
    fn the_witness_keeps_the_last_commit_whatever_half_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("witness");
        let mut witness = Witness::open(&path).unwrap();
        assert_eq!(witness.last().unwrap(), 0);
        for commit in 1..6 {
            witness.note(commit).unwrap();
            assert_eq!(Witness::open(&path).unwrap().last().unwrap(), commit);
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes[13] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Witness::open(&path).unwrap().last().unwrap(), 4);
    }
}
