//! Imports point downward: the ranks of ARCHITECTURE.md, as a law.

use std::fs;
use std::path::{Path, PathBuf};

/// A room may import rooms of lower rank, and within itself. `lib` may import everything.
const RANKS: &[(&str, u8)] = &[
    ("time", 0),
    ("id", 0),
    ("limits", 0),
    ("marks", 0),
    ("sabotage", 0),
    ("sync", 0),
    ("schedule", 0),
    ("wheel", 1),
    ("retry", 1),
    ("catch_up", 1),
    ("error", 1),
    ("quota", 2),
    ("queue", 2),
    ("reply", 2),
    ("post", 3),
    ("gate", 3),
    ("clock", 4),
    ("engine", 4),
    ("shard", 4),
    ("pool", 4),
    ("store", 4),
    ("inbox", 5),
    ("worker", 6),
    ("committer", 6),
    ("sim", 9),
    ("driver", 7),
    ("scheduler", 8),
    ("interleavings", 8),
    ("fuzz", 10),
    ("guide", 10),
];

fn rank(room: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The rooms that a line of code names after `crate::`.
fn imports(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or("");
    let mut rooms = Vec::new();
    for after in code.split("crate::").skip(1) {
        let group = after.strip_prefix('{').map(|group| group.split('}').next().unwrap_or(group));
        let names: Vec<&str> = group.map_or_else(|| vec![after], |group| group.split(',').collect());
        for name in names {
            let room: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !room.is_empty() && room.chars().next().is_some_and(char::is_lowercase) {
                rooms.push(room);
            }
        }
    }
    rooms
}

#[test]
fn imports_point_downward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let room = first.strip_suffix(".rs").unwrap_or(first);
        if room == "lib" {
            continue;
        }
        // Unit tests may use whatever they like.
        let is_conformance = relative.components().any(|part| part.as_os_str() == "conformance");
        if relative.ends_with("tests.rs") || relative.ends_with("reference.rs") || is_conformance {
            continue;
        }
        let own = rank(room).unwrap_or_else(|| panic!("{room} has no rank: give it one here and in ARCHITECTURE.md"));
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            if line.trim() == "#[cfg(test)]" && !relative.ends_with("mod.rs") {
                break;
            }
            for import in imports(line).into_iter().filter(|import| import != room) {
                let other = rank(&import).unwrap_or_else(|| panic!("{}: {import} has no rank", relative.display()));
                seen += 1;
                if other >= own {
                    wrong.push(format!(
                        "src/{}:{}: {room} (rank {own}) imports {import} (rank {other})",
                        relative.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} imports found: does the scan still work?");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_imports_in_every_form() {
    assert_eq!(imports("use crate::post::{Change, Home};"), ["post"]);
    assert_eq!(imports("use crate::{committer, limits};"), ["committer", "limits"]);
    assert_eq!(imports("    let x = crate::time::Timestamp::MIN; // crate::store"), ["time"]);
    assert_eq!(imports("use crate::Post;"), [] as [&str; 0]);
}
