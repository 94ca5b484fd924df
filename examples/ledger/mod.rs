//! A host with its journal, and the judge of what it did: shared by this example, `faults` and the tests that do something to
//! a process.
#![allow(dead_code)]

pub mod check;
pub mod draft;
pub mod host;
pub mod journal;
pub mod network;
pub mod pools;
pub mod run;
