//! The bench once more, as a process of its own: to be killed, or to have its memory measured.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Lines};
use std::process::{self, ChildStdout, Command, Stdio};
use std::str::FromStr;

const MARK: &str = "child";

/// A process that says lines. It is killed, if it still runs, when this is dropped.
pub struct Child {
    process: process::Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this very program with this to do.
    pub fn start(task: &[&str]) -> Self {
        let program = std::env::current_exe().expect("a bench knows its own program");
        let mut command = Command::new(program);
        let mut process = command.arg(MARK).args(task).stdout(Stdio::piped()).spawn().expect("a process");
        let lines = BufReader::new(process.stdout.take().expect("it was piped")).lines();
        Self { process, lines }
    }

    /// Waits for the next line.
    pub fn hear<T: FromStr, const N: usize>(&mut self) -> [T; N] {
        let line = self.lines.next().expect("the child ended early").expect("lines are text");
        let words: Vec<T> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        words.try_into().unwrap_or_else(|_| panic!("{N} words of another kind were expected: {line}"))
    }

    /// Waits until it has ended by itself, and so cleared its files away.
    pub fn end(mut self) {
        let status = self.process.wait().expect("a process");
        assert!(status.success(), "the child failed: {status}");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SIGKILL, at once: nothing is closed or written out.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What this process is to do, if it is a child.
pub fn task() -> Option<Vec<String>> {
    let mut arguments = std::env::args().skip(1);
    (arguments.next()? == MARK).then(|| arguments.collect())
}

/// Says one line to the parent.
pub fn say<T: Display, const N: usize>(words: [T; N]) {
    println!("{}", words.map(|word| word.to_string()).join(" "));
}
