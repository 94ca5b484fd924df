//! What the next instant of a schedule costs, and a batch that is spread over a window.
//!
//! Beside it the floor: one question to the tables of the zone, which every schedule in local time has to ask at least.
//! The instants asked for are scattered over 1990 to 2050, so that no answer is that of the question before.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeZone, Utc};
use common::goals::{Goal, Goals};
use common::{Contest, Measure, scattered};
use punctual::{Pacing, Schedule};

const FLOOR: &str = "floor: one offset of the zone";
const SLOTS: &str = "slots: 10 a week";
const RULES: [(&str, &str); 8] = [
    (SLOTS, "slots Europe/Berlin Mon-Fri 08:00,17:30"),
    (
        "slots: 40 a week, 100 days skipped",
        "slots America/New_York Mon-Fri 07:00,08:00,09:00,12:00,15:00,18:00,20:00; Sat 10:00,14:00,16:00,18:00,20:00",
    ),
    ("rrule: daily", "rrule DTSTART;TZID=Europe/Berlin:19800101T080000\nRRULE:FREQ=DAILY"),
    ("rrule: weekly, three days", "rrule DTSTART;TZID=Europe/Berlin:19800101T080000\nRRULE:FREQ=WEEKLY;BYDAY=MO,WE,FR"),
    (
        "rrule: last Friday of the month",
        "rrule DTSTART;TZID=Europe/Berlin:19800101T080000\nRRULE:FREQ=MONTHLY;BYDAY=-1FR",
    ),
    ("rrule: yearly", "rrule DTSTART;TZID=Europe/Berlin:19800101T080000\nRRULE:FREQ=YEARLY"),
    (
        "rrule: every 7 minutes of working hours",
        "rrule DTSTART;TZID=Europe/Berlin:19800101T080000\nRRULE:FREQ=MINUTELY;INTERVAL=7;BYHOUR=8,9,10,11,12,13,14,15,16;BYDAY=MO,TU,WE,TH,FR",
    ),
    ("cron: 0 8 * * 1-5", "cron Europe/Berlin 0 8 * * 1-5"),
];
const POSTS: usize = 600_000;

/// Somewhere from 1990 to 2050.
fn instant(number: usize) -> DateTime<Utc> {
    let at = 631_152_000 + (scattered(number) % 1_893_456_000) as i64;
    DateTime::from_timestamp(at, 0).expect("in range")
}

/// Asks so many times.
fn ask<'a, T: 'a>(instants: &'a [DateTime<Utc>], question: impl Fn(DateTime<Utc>) -> T + 'a) -> Measure<'a> {
    Box::new(move || {
        let begun = Instant::now();
        for at in instants {
            black_box(question(*at));
        }
        (begun.elapsed(), instants.len())
    })
}

fn spread<'a>(pacing: Pacing, profiles: &'a [String]) -> Measure<'a> {
    Box::new(move || {
        let begun = Instant::now();
        let dues = pacing.assign(profiles.iter().map(String::as_str)).expect("they fit");
        assert_eq!(dues.len(), POSTS);
        (begun.elapsed(), POSTS)
    })
}

fn main() {
    let mut contest = Contest::new(9);
    let instants: Vec<_> = (0..if common::is_short() { 10_000 } else { 300_000 }).map(instant).collect();
    let zone = chrono_tz::Europe::Berlin;
    let mut schedules: Vec<(&str, Schedule)> = Vec::new();
    for (name, text) in RULES {
        let mut text = text.to_owned();
        if name.contains("skipped") {
            for day in 0..100 {
                text += &format!("; skip {}", instant(day).date_naive());
            }
        }
        schedules.push((name, text.parse().expect(name)));
    }
    let floor = ask(&instants, |at| zone.offset_from_utc_datetime(&at.naive_utc()));
    let mut next = vec![(FLOOR, floor)];
    for (name, schedule) in &schedules {
        next.push((*name, ask(&instants, |at| schedule.next_after(at))));
    }
    contest.row("next", next);
    let floor = ask(&instants, |at| zone.offset_from_utc_datetime(&at.naive_utc()));
    let mut before = vec![(FLOOR, floor)];
    for (name, schedule) in &schedules {
        before.push((*name, ask(&instants[..instants.len() / 10], |at| schedule.previous_before(at))));
    }
    contest.row("previous", before);

    let profiles: Vec<String> = (0..POSTS).map(|post| format!("@profile-{}", scattered(post) % 50_000)).collect();
    let pacing = Pacing::new(instant(0), Duration::from_secs(3 * 3_600));
    contest.row(
        "600,000 posts of 50,000 profiles, each",
        vec![
            (FLOOR, ask(&instants, |at| zone.offset_from_utc_datetime(&at.naive_utc()))),
            ("evenly", spread(pacing, &profiles)),
            ("jitter and a minimum gap", spread(pacing.jitter(7).min_gap(Duration::from_secs(60)), &profiles)),
        ],
    );
    contest.print();

    let mut goals = Goals::default();
    if let Some(seconds) = contest.seconds("next", SLOTS) {
        goals.add("next slot, µs", seconds * 1e6, Goal::AtMost(1.0));
    }
    if let Some(seconds) = contest.seconds("600,000 posts of 50,000 profiles, each", "jitter and a minimum gap") {
        goals.add("600,000 posts spread, s", seconds * POSTS as f64, Goal::AtMost(0.5));
    }
    goals.print();
}
