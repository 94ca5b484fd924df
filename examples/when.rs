//! When does it come? Prints the next instants of a schedule, one on a line: in UTC, and as the clocks of the zone show it.
//!
//! ```text
//! when --rrule 'FREQ=DAILY' --start 2026-03-28T02:30 --zone Europe/Berlin --count 3
//! when --cron '0 8 * * 1-5' --zone Europe/Berlin --after 2026-03-27T12:00:00Z
//! when --slots 'Mon-Fri 08:00,17:30; skip 2026-12-25' --zone America/New_York
//! when --local 2026-03-29T02:30 --zone Europe/Berlin --gap-fold earlier
//! when --batch < cases
//! ```
//!
//! What is wrong is said on stderr, and the exit code is 2. With `--batch` each line of stdin is a case: an instant in
//! seconds since 1970, how many instants after it (before it, if negative), and the text of a schedule in which a line
//! break is a `|`, separated by tabs. Each is answered with a line: the seconds, or `error` and why.

use std::io::{self, BufRead, BufWriter, Write};
use std::process::ExitCode;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use clap::{ArgGroup, Parser};
use punctual::{Cron, Disambiguation, LocalTime, PostingSlots, Recurrence, Schedule, zone};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(about = "Prints the next instants of a schedule")]
#[command(group(ArgGroup::new("schedule").required(true).args(["rrule", "cron", "slots", "local", "batch"])))]
struct Options {
    /// A rule of RFC 5545 (with --start and --zone), or the iCalendar lines DTSTART, RRULE, EXDATE and RDATE
    #[arg(long)]
    rrule: Option<String>,
    /// Five fields
    #[arg(long)]
    cron: Option<String>,
    /// Weekly times, such as "Mon-Fri 08:00,17:30; Sat 10:00"
    #[arg(long)]
    slots: Option<String>,
    /// A local time
    #[arg(long)]
    local: Option<String>,
    /// Cases on stdin
    #[arg(long)]
    batch: bool,
    /// Where the recurrence starts, local time
    #[arg(long)]
    start: Option<String>,
    /// A local time that is left out; as often as needed
    #[arg(long)]
    exdate: Vec<String>,
    /// A local time that comes besides; as often as needed
    #[arg(long)]
    rdate: Vec<String>,
    /// The zone, such as Europe/Berlin
    #[arg(long)]
    zone: Option<String>,
    /// What becomes of local times and slots that the clocks skip or show twice: compatible, earlier, later or reject
    #[arg(long, default_value = "compatible")]
    gap_fold: String,
    /// Only what comes after this instant
    #[arg(long)]
    after: Option<DateTime<Utc>>,
    /// How many
    #[arg(long, default_value_t = 10)]
    count: usize,
}

impl Options {
    fn zone(&self) -> Result<Tz> {
        Ok(zone(self.zone.as_deref().ok_or("--zone is missing")?)?)
    }

    /// The schedule, its zone, and the instant after which its instants are shown.
    fn schedule(&self) -> Result<(Schedule, Tz, DateTime<Utc>)> {
        let now = self.after.unwrap_or_else(Utc::now);
        let gap_fold: Disambiguation = self.gap_fold.parse()?;
        if let Some(text) = &self.rrule {
            let recurrence = match &self.start {
                Some(start) => Recurrence::parse(text, local(start)?, self.zone()?)?,
                None => text.parse()?,
            };
            let times = |texts: &[String]| texts.iter().map(|text| local(text)).collect::<Result<Vec<_>>>();
            let recurrence = recurrence.exclude(times(&self.exdate)?)?.include(times(&self.rdate)?)?;
            let begin = DateTime::UNIX_EPOCH - TimeDelta::seconds(1);
            let zone = recurrence.zone();
            return Ok((recurrence.into(), zone, self.after.unwrap_or(begin)));
        }
        let zone = self.zone()?;
        let schedule = if let Some(text) = &self.cron {
            Cron::new(text, zone)?.into()
        } else if let Some(text) = &self.slots {
            format!("slots {zone} {text}; {gap_fold}").parse::<PostingSlots>()?.into()
        } else {
            let time = LocalTime::new(local(self.local.as_deref().unwrap_or_default())?, zone).disambiguation(gap_fold);
            // Whether it can be, not only whether it is still to come.
            let instant = time.instant()?;
            return Ok((time.into(), zone, self.after.unwrap_or(instant - TimeDelta::seconds(1))));
        };
        Ok((schedule, zone, now))
    }
}

fn local(text: &str) -> Result<NaiveDateTime> {
    match format!("local {text} UTC").parse::<LocalTime>() {
        Ok(local) => Ok(local.time()),
        Err(_) => Err(format!("{text:?} is not a local time: such as 2026-03-29T02:30").into()),
    }
}

fn show(options: &Options) -> Result<()> {
    let (schedule, zone, after) = options.schedule()?;
    let mut out = BufWriter::new(io::stdout().lock());
    for at in schedule.after(after).take(options.count) {
        let utc = at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        writeln!(out, "{utc} {}", at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, false))?;
    }
    Ok(out.flush()?)
}

/// The answer to a case of the batch.
fn answer(case: &str) -> Result<String> {
    let mut fields = case.splitn(3, '\t');
    let mut field = || fields.next().ok_or("three fields are expected");
    let (from, count, text): (i64, i64, _) = (field()?.parse()?, field()?.parse()?, field()?.replace('|', "\n"));
    let schedule: Schedule = text.parse()?;
    if let Schedule::Local(local) = &schedule {
        return Ok(local.instant()?.timestamp().to_string());
    }
    let from = DateTime::from_timestamp(from, 0).ok_or("an instant is expected")?;
    let wanted = usize::try_from(count.unsigned_abs())?;
    let found: Vec<String> = if count < 0 {
        let before = std::iter::successors(schedule.previous_before(from), |at| schedule.previous_before(*at));
        before.take(wanted).map(|at| at.timestamp().to_string()).collect()
    } else {
        schedule.after(from).take(wanted).map(|at| at.timestamp().to_string()).collect()
    };
    Ok(found.join(" "))
}

fn batch() -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for case in io::stdin().lock().lines() {
        match answer(&case?) {
            Ok(instants) => writeln!(out, "{instants}")?,
            Err(error) => writeln!(out, "error {}", error.to_string().replace('\n', " "))?,
        }
    }
    Ok(out.flush()?)
}

fn main() -> ExitCode {
    let options = Options::parse();
    match if options.batch { batch() } else { show(&options) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
