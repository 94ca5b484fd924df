//! What every contestant of the spike shares: the posts, all due on one second, the note of each call, and the figures.
//! Included by `benches/spike.rs` and by each peer, which is a package of its own.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A text of usual length.
const TEXT: &str = "Our doors open at nine, and the first loaves are out of the oven already. This week: rye with \
    caraway, a spelt loaf that keeps for days, and the plum cake you asked for all summer. Come by before noon, or \
    order until six and pick it up on your way. #bread";
/// Hexadecimal digits of a post's number, at the start of its payload.
const DIGITS: usize = 8;
const UNCALLED: i32 = i32::MIN;
/// How long the posts may take to be called and recorded.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a contestant reached.
#[derive(Serialize, Deserialize)]
pub struct Figures {
    pub peer: String,
    pub posts: usize,
    /// Nothing, where nothing is stored.
    pub scheduled_per_s: Option<f64>,
    pub seconds_from_due_to_last_durable: f64,
    pub per_second: f64,
    pub early: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub resident_mb: f64,
}

/// Sees every call of one contestant.
pub struct Witness {
    due: SystemTime,
    began: Instant,
    scheduled_per_s: OnceLock<f64>,
    /// How late each post was called, in microseconds.
    late: Vec<AtomicI32>,
    repeated: AtomicU64,
}

impl Witness {
    /// All posts are due on the next whole second after they can have been stored, at so many a second.
    pub fn new(posts: usize, stored_per_s: usize) -> Arc<Self> {
        let ready = SystemTime::now() + Duration::from_secs_f64(3.0 + posts as f64 / stored_per_s as f64);
        let since_1970 = ready.duration_since(UNIX_EPOCH).unwrap_or_default();
        Arc::new(Self {
            due: UNIX_EPOCH + Duration::from_secs(since_1970.as_secs() + 1),
            began: Instant::now(),
            scheduled_per_s: OnceLock::new(),
            late: (0..posts).map(|_| AtomicI32::new(UNCALLED)).collect(),
            repeated: AtomicU64::new(0),
        })
    }

    pub fn due(&self) -> SystemTime {
        self.due
    }

    pub fn posts(&self) -> usize {
        self.late.len()
    }

    /// All posts are stored.
    pub fn stored(&self) {
        let per_s = self.posts() as f64 / self.began.elapsed().as_secs_f64();
        assert!(SystemTime::now() < self.due, "only {per_s:.0} posts were stored in a second");
        self.scheduled_per_s.get_or_init(|| per_s);
    }

    /// Sleeps until the due.
    pub fn sleep(&self) {
        while let Ok(left) = self.due.duration_since(SystemTime::now()) {
            thread::sleep(left);
        }
    }

    /// The broadcaster was called with this payload.
    pub fn call(&self, payload: &[u8]) {
        let number = std::str::from_utf8(&payload[..DIGITS]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let late = match SystemTime::now().duration_since(self.due) {
            Ok(late) => late.as_micros() as i32,
            Err(early) => -1 - early.duration().as_micros() as i32,
        };
        let slot = number.and_then(|number| self.late.get(number)).expect("the number of a post");
        if slot.swap(late, Relaxed) != UNCALLED {
            self.repeated.fetch_add(1, Relaxed);
        }
    }

    /// Waits until all posts have been called. Looks at each once, so that nothing has to be counted meanwhile.
    pub fn wait_called(&self) {
        self.sleep();
        for (number, late) in self.late.iter().enumerate() {
            while late.load(Relaxed) == UNCALLED {
                assert!(self.due.elapsed().unwrap_or_default() < PATIENCE, "post {number} was never called");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// All is recorded durably: prints the figures.
    pub fn finish(&self, peer: &str) {
        let seconds = self.due.elapsed().unwrap_or_default().as_secs_f64();
        let resident_mb = peak_memory_mb();
        assert_eq!(self.repeated.load(Relaxed), 0, "called twice");
        let mut late: Vec<i32> = self.late.iter().map(|late| late.load(Relaxed)).collect();
        late.sort_unstable();
        assert_ne!(late[0], UNCALLED, "never called");
        let ms = |share: f64| f64::from(late[((late.len() - 1) as f64 * share) as usize]) / 1e3;
        let figures = Figures {
            peer: peer.to_owned(),
            posts: late.len(),
            scheduled_per_s: self.scheduled_per_s.get().map(|per_s| per_s.round()),
            seconds_from_due_to_last_durable: seconds,
            per_second: (late.len() as f64 / seconds).round(),
            early: late.iter().filter(|late| **late < 0).count(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            max_ms: ms(1.0),
            resident_mb,
        };
        println!("{}", serde_json::to_string(&figures).expect("figures are plain"));
    }
}

/// The payload of the post of this number.
pub fn payload(number: usize) -> String {
    format!("{number:0DIGITS$x} {TEXT}")
}

/// The value that follows this word on the command line.
pub fn argument(name: &str) -> Option<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.replace('_', "").parse().expect("a number"))
}

/// An empty directory on disk, gone when the value is dropped.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(peer: &str) -> Self {
        let path = std::env::temp_dir().join(format!("spike-{peer}-{}", std::process::id()));
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The most memory that this process has held at once.
fn peak_memory_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().map_or(f64::NAN, |kibibytes: f64| kibibytes / 1024.0)
}
