//! The libraries that stand between a process and its files: built when they are needed, by the machine's C compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

pub const CALLS: &str = include_str!("calls.c");
pub const POWER: &str = include_str!("power.c");

/// Builds it in this folder. `None` if there is no C compiler: then the test is skipped, and says so.
pub fn build(source: &str, folder: &Path) -> Option<PathBuf> {
    let (text, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&text, source).expect("the folder can be written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &text]).arg("-ldl").status();
    if built.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    println!("SKIPPED: there is no C compiler to build the faults with");
    None
}
