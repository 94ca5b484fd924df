//! Each call for a file fails, one after the other: the answer is right or a typed error, and when the trouble is over,
//! the next process finds everything that was acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use clap::ValueEnum;
use serde::Serialize;

use super::host::{Ended, Job, Ran, Work, run};

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ValueEnum)]
pub enum Fault {
    Eio,
    Enospc,
    Edquot,
    Emfile,
    Eintr,
    Short,
    /// The process dies before the call.
    Exit,
    /// It dies with half of it written.
    Torn,
}

impl Fault {
    fn kind(self) -> &'static str {
        match self {
            Self::Eio => "5",
            Self::Enospc => "28",
            Self::Edquot => "122",
            Self::Emfile => "24",
            Self::Eintr => "4",
            Self::Short => "short",
            Self::Exit => "exit",
            Self::Torn => "torn",
        }
    }

    fn is_death(self) -> bool {
        matches!(self, Self::Exit | Self::Torn)
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub work: Work,
    pub fault: Fault,
    /// Which call it is, from 1; 0 is none.
    pub at: u64,
    /// And every later one.
    pub ever: bool,
}

/// What came of many runs.
#[derive(Default, Debug, Serialize)]
pub struct Tally {
    pub runs: u64,
    /// The process ended before that call.
    pub unreached: u64,
    /// Everything was done all the same.
    pub done: u64,
    pub refused: u64,
    pub killed: u64,
    /// sled panicked, and the crate made an error of it.
    pub panicked_in_sled: u64,
    /// A later process said that the store is damaged; by the call that had failed.
    pub damaged_after: BTreeMap<String, u64>,
    /// What must not be, with what repeats it.
    pub broken: Vec<String>,
}

/// The stores on which it is done, and what it is done with.
pub struct Lab<'a> {
    shim: &'a Path,
    host: &'a (dyn Fn() -> Command + Sync),
    folder: &'a Path,
    seed: u64,
}

impl<'a> Lab<'a> {
    /// Makes a store that was closed, and one whose process died.
    pub fn new(folder: &'a Path, shim: &'a Path, host: &'a (dyn Fn() -> Command + Sync), seed: u64) -> Self {
        let lab = Self { shim, host, folder, seed };
        let (closed, died) = (folder.join("closed"), folder.join("died"));
        fs::create_dir_all(&closed).expect("the folder can be written");
        for (folder, work, round) in [(&closed, Work::Close, 0), (&died, Work::Die, 1)] {
            if work == Work::Die {
                copy(&closed, &died);
            }
            let ran = run(work, lab.job(folder, work, round).command(host()), folder);
            assert_eq!(ran.ended, Ended::Done, "{}", ran.said);
        }
        lab
    }

    fn job(&self, folder: &Path, work: Work, round: u32) -> Job {
        Job { work, folder: folder.to_owned(), round, seed: self.seed, at_most_once: false }
    }

    fn first(&self, case: Case, folder: &Path) -> Ran {
        match case.work {
            Work::Create => fs::create_dir_all(folder).expect("the folder can be written"),
            Work::Recover => copy(&self.folder.join("died"), folder),
            _ => copy(&self.folder.join("closed"), folder),
        }
        let mut command = self.job(folder, case.work, 2).command((self.host)());
        command.env("LD_PRELOAD", self.shim).env("FAULT_FOLDER", folder.join("store"));
        command.env("FAULT_KIND", case.fault.kind()).env("FAULT_AT", case.at.to_string());
        command.env("FAULT_LOG", folder.join("fault"));
        if case.ever {
            command.env("FAULT_EVER", "1");
        }
        run(case.work, command, folder)
    }

    /// How many calls there are to which it can happen.
    pub fn calls(&self, work: Work, fault: Fault) -> u64 {
        let folder = self.folder.join(format!("count {work:?} {fault:?}"));
        let ran = self.first(Case { work, fault, at: 0, ever: false }, &folder);
        assert_eq!(ran.ended, Ended::Done, "{work:?}: {}", ran.said);
        let log = fs::read_to_string(folder.join("fault")).unwrap_or_default();
        fs::remove_dir_all(&folder).expect("it can be removed");
        log.trim().strip_prefix("calls ").and_then(|calls| calls.parse().ok()).expect("the shim counts the calls")
    }

    /// Does it once, and judges it.
    pub fn try_one(&self, case: Case, number: usize, tally: &Mutex<Tally>) {
        let folder = self.folder.join(number.to_string());
        let first = self.first(case, &folder);
        let log = fs::read_to_string(folder.join("fault")).unwrap_or_default();
        let call = log.split(' ').next().filter(|name| *name != "calls").map(str::to_owned);
        let last = run(Work::Finish, self.job(&folder, Work::Finish, 3).command((self.host)()), &folder);
        let mut wrong = Vec::new();
        let is_right = match first.ended {
            Ended::Done | Ended::Refused | Ended::Damaged => true,
            Ended::Killed => case.fault.is_death(),
            Ended::Broken | Ended::Hung | Ended::Fell => false,
        };
        if !is_right || first.own_panics().next().is_some() {
            wrong.push(format!("{:?}: {}", first.ended, first.said));
        }
        // Nothing fails any more: all is there, or it is said that it is damaged.
        if !matches!(last.ended, Ended::Done | Ended::Damaged) || last.own_panics().next().is_some() {
            wrong.push(format!("then {:?}: {}", last.ended, last.said));
        }
        let mut tally = tally.lock().expect("nobody panics with it");
        tally.runs += 1;
        tally.unreached += u64::from(call.is_none());
        tally.done += u64::from(first.ended == Ended::Done);
        tally.refused += u64::from(matches!(first.ended, Ended::Refused | Ended::Damaged));
        tally.killed += u64::from(first.ended == Ended::Killed);
        tally.panicked_in_sled += u64::from(first.has_panicked_in_sled());
        let call = call.unwrap_or_default();
        if last.ended == Ended::Damaged {
            let what = last.said.lines().last().unwrap_or_default();
            let what = what.split("is damaged: ").nth(1).unwrap_or(what);
            let ever = if case.ever { " ever" } else { "" };
            *tally.damaged_after.entry(format!("{:?}{ever} {call}: {what}", case.fault)).or_default() += 1;
        }
        tally.broken.extend(wrong.into_iter().map(|what| format!("{case:?} ({call}): {what}")));
        drop(tally);
        fs::remove_dir_all(&folder).expect("it can be removed");
    }

    /// Does it once.
    pub fn one(&self, work: Work, fault: Fault, at: u64, ever: bool) -> Tally {
        let tally = Mutex::new(Tally::default());
        self.try_one(Case { work, fault, at, ever }, 0, &tally);
        tally.into_inner().expect("nobody panics with it")
    }

    /// Does all of it, or every so many-th of it, in two lanes.
    pub fn run(&self, works: &[Work], faults: &[Fault], every: usize, each: impl Fn(usize, usize) + Sync) -> Tally {
        let mut cases = Vec::new();
        for work in works {
            for fault in faults {
                let calls = self.calls(*work, *fault);
                let ever: &[bool] = if fault.is_death() { &[false] } else { &[false, true] };
                let all = ever.iter().flat_map(|ever| (1..=calls).map(move |at| (at, *ever)));
                cases.extend(all.map(|(at, ever)| Case { work: *work, fault: *fault, at, ever }));
            }
        }
        let cases: Vec<Case> = cases.into_iter().step_by(every).collect();
        let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some((number, case)) =
                        Some(next.fetch_add(1, Relaxed)).and_then(|n| Some((n, *cases.get(n)?)))
                    {
                        self.try_one(case, number, &tally);
                        each(number, cases.len());
                    }
                });
            }
        });
        tally.into_inner().expect("nobody panics with it")
    }
}

/// A store and its journal as they are. The ballast is of no interest, and large.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be written");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let path: PathBuf = entry.expect("the folder can be read").path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else if name != "ballast" {
            fs::copy(&path, to.join(name)).expect("it can be copied");
        }
    }
}
