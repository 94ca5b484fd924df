//! What can be done to a process and its files, and a judge for each case: shared by this example and the tests.
#![allow(dead_code)]

#[path = "../ledger/mod.rs"]
pub mod ledger;

pub mod calls;
pub mod damage;
pub mod full;
pub mod host;
pub mod power;
pub mod shim;
