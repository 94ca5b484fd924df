//! What the system says about this process. Linux only.

use std::fs;
use std::ops::{AddAssign, Sub};
use std::thread;
use std::time::Duration;

/// What this process has used up so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Time of its threads on a processor, to 10 ms.
    pub cpu: Duration,
    /// Bytes given to the disk.
    pub written: u64,
}

impl Usage {
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").expect("Linux has it");
        // The name before the bracket may have spaces in it.
        let (_, stat) = stat.rsplit_once(')').expect("the name is in brackets");
        let ticks = stat.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>();
        Self { cpu: Duration::from_millis(ticks * 10), written: figure("io", "write_bytes:") }
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { cpu: self.cpu - before.cpu, written: self.written - before.written }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.cpu += more.cpu;
        self.written += more.written;
    }
}

/// Bytes of this process that are in memory now.
pub fn resident() -> f64 {
    figure("status", "VmRSS:") as f64 * 1024.0
}

fn figure(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/{file}")).expect("Linux has it");
    let figure = text.lines().find_map(|line| line.strip_prefix(name)).expect("it has this line");
    figure.split_whitespace().next().and_then(|figure| figure.parse().ok()).expect("it is a number")
}

/// Waits until the background threads of this process have done what was left to do.
pub fn quiet() {
    const LOOKS: usize = 240;
    const LOOK: Duration = Duration::from_millis(250);
    let mut before = Usage::now().cpu;
    for _ in 0..LOOKS {
        thread::sleep(LOOK);
        let cpu = Usage::now().cpu;
        if cpu - before <= Duration::from_millis(10) {
            return;
        }
        before = cpu;
    }
}
