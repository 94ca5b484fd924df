//! Real timestamps from a CSV file, plain or gzipped.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use chrono::NaiveDateTime;
use flate2::read::MultiGzDecoder;

use crate::Failure;
use crate::model::{self, Networks};
use crate::plan::{Planned, Timeline};

const SECONDS: &str = "%Y-%m-%d %H:%M:%S";
/// 2100-01-01T00:00:00Z: what is later is a mistake in the file.
const LATEST: i64 = 4_102_444_800_000;

/// Reads at most `limit` rows. A row gives a due and a profile; networks are drawn by the model's shares.
pub fn read(path: &Path, limit: usize, networks: Networks) -> Result<Timeline, Failure> {
    let in_file = |what: &dyn Display| Failure::Input(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|error| in_file(&error))?;
    let zipped = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let bytes: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut rows = csv::Reader::from_reader(bytes);
    let columns = Columns::find(rows.headers().map_err(|error| in_file(&error))?).map_err(|what| in_file(&what))?;

    let mut random = model::random();
    let mut profiles = HashMap::new();
    let mut posts = Vec::new();
    for row in rows.records().take(limit) {
        let row = row.map_err(|error| in_file(&error))?;
        let (due, profile) = columns.read(&row).map_err(|what| {
            let line = row.position().map_or(0, csv::Position::line);
            in_file(&format_args!("line {line}: {what}"))
        })?;
        let next = profiles.len() as u32;
        let profile = *profiles.entry(profile.to_owned()).or_insert(next);
        let (pool, network) = networks.draw(&mut random);
        posts.push(Planned { due, pool, profile, handling: network.handling(&mut random) });
    }
    if posts.is_empty() {
        return Err(in_file(&"there is no row below the header"));
    }
    Ok(Timeline { posts, pools: networks.names, clock: Some("%Y-%m-%d %H:%M:%S") })
}

/// Where a file keeps what is needed.
struct Columns {
    due: usize,
    due_in_millis: bool,
    profile: usize,
}

impl Columns {
    fn find(header: &csv::StringRecord) -> Result<Self, String> {
        let find = |names: [&str; 2]| header.iter().position(|column| names.contains(&column));
        let (due, profile) = (find(["utc", "utc_epoch_ms"]), find(["account_no", "story_no"]));
        let (Some(due), Some(profile)) = (due, profile) else {
            let found = header.iter().collect::<Vec<_>>().join(",");
            return Err(format!(
                "the header is {found:?}, but needs a column utc (like 2020-07-25 06:31:02) or utc_epoch_ms \
                 and a column account_no or story_no"
            ));
        };
        Ok(Self { due, due_in_millis: header.get(due) == Some("utc_epoch_ms"), profile })
    }

    fn read<'r>(&self, row: &'r csv::StringRecord) -> Result<(i64, &'r str), String> {
        let text = row.get(self.due).unwrap_or_default();
        let due = if self.due_in_millis {
            text.parse().map_err(|_| format!("{text:?} is not a number of milliseconds since 1970"))?
        } else {
            let time = NaiveDateTime::parse_from_str(text, SECONDS);
            time.map_err(|_| format!("{text:?} is not a time like 2020-07-25 06:31:02"))?.and_utc().timestamp_millis()
        };
        if !(0..LATEST).contains(&due) {
            return Err(format!("{text:?} lies outside the years 1970 to 2099"));
        }
        Ok((due, row.get(self.profile).unwrap_or_default()))
    }
}
