//! Nothing acknowledged is lost, nothing is early and nothing is repeated unnoticed, whatever is done to the process and its
//! files: real processes, a real store. Each test is the short form of what the examples `ledger` and `faults` do for hours.

#[path = "../examples/faults/mod.rs"]
mod faults;

use std::process::{Command, Stdio};

use faults::calls::{Fault, Lab};
use faults::full;
use faults::host::{Job, Work};
use faults::ledger::host::{LIFE, Life};
use faults::ledger::run::Run;
use faults::power::Cuts;
use faults::shim;

/// The process to which it is done; it does nothing when the tests are run.
#[test]
fn host() {
    if let Some(life) = Life::given() {
        life.live();
    }
    if let Some(job) = Job::given() {
        job.go();
    }
}

fn command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["host", "--exact", "--nocapture"]).stdout(Stdio::null());
    command
}

/// Kills hosts, half of them while they open the store, and has judged what they did.
fn kill(seed: u64, at_most_once: bool) {
    let folder = tempfile::tempdir().unwrap();
    let host = |life: &Life| {
        let mut command = command();
        command.env(LIFE, serde_json::to_string(life).unwrap());
        command
    };
    let verdict = Run { kills: 120, seed, at_most_once }.go(folder.path(), host, |_| {}).unwrap();
    assert!(verdict.is_clean(), "seed {seed}: {:#?}", verdict.examples);
    assert!(verdict.acked > 100 && verdict.calls > 100, "a test of nothing: {verdict:?}");
    assert_eq!(verdict.repeats, if at_most_once { 0 } else { verdict.repeats_marked });
    println!("{verdict:?}");
}

#[test]
fn at_most_once_nothing_is_published_twice_in_120_kills() {
    kill(1, true);
}

#[test]
fn at_least_once_nothing_is_lost_or_repeated_unnoticed_in_120_kills() {
    kill(2, false);
}

#[test]
fn nothing_acknowledged_is_lost_in_15_power_cuts_whatever_pages_survive() {
    let folder = tempfile::tempdir().unwrap();
    let Some(shim) = shim::build(shim::POWER, folder.path()) else { return };
    let tally = Cuts { cuts: 15, images: 2, seed: 5 }.go(folder.path(), &shim, command, |_| {});
    assert!(tally.broken.is_empty(), "{:#?}", tally.broken);
    assert!(tally.torn > 5 && tally.acknowledged > 100, "a test of nothing: {tally:?}");
    println!("{tally:?}");
}

#[test]
fn a_call_for_a_file_that_fails_is_a_typed_error_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(shim) = shim::build(shim::CALLS, folder.path()) else { return };
    let lab = Lab::new(folder.path(), &shim, &command, 1);
    let faults = [Fault::Eio, Fault::Enospc, Fault::Short, Fault::Exit];
    let tally = lab.run(&[Work::Claim], &faults, 23, |_, _| {});
    assert!(tally.broken.is_empty(), "{:#?}", tally.broken);
    assert!(tally.refused > 3 && tally.done > 3, "a test of nothing: {tally:?}");
    println!("{tally:?}");
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tally = full::fill(folder.path(), 2, 1, command, |_| {});
    assert!(tally.broken.is_empty(), "{:#?}", tally.broken);
    assert!(tally.full > 0 && tally.acknowledged > 10, "a test of nothing: {tally:?}");
    println!("{tally:?}");
}
