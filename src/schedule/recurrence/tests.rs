//! Recurrences against the RFC's own examples, and what is promised beyond it.

// How long it takes is a promise, too.
#![allow(clippy::disallowed_methods)]

use chrono::{Datelike, NaiveDate, TimeDelta, Timelike};

use super::*;

const NEW_YORK: Tz = chrono_tz::America::New_York;

fn basic(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%S").unwrap()
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn instants(recurrence: &Recurrence) -> impl Iterator<Item = DateTime<Utc>> + '_ {
    recurrence.after(DateTime::UNIX_EPOCH - TimeDelta::seconds(1))
}

/// Days as `199709 02 04 10-12`: a year and month, and days of it.
fn days(text: &str) -> Vec<NaiveDate> {
    let (mut days, mut month) = (vec![], (0, 0));
    for word in text.split_whitespace() {
        if word.len() == 6 {
            month = (word[..4].parse().unwrap(), word[4..].parse().unwrap());
            continue;
        }
        let (from, to) = word.split_once('-').unwrap_or((word, word));
        for day in from.parse().unwrap()..=to.parse().unwrap() {
            days.push(NaiveDate::from_ymd_opt(month.0, month.1, day).unwrap());
        }
    }
    days
}

#[test]
fn the_examples_of_rfc_5545_come_out_as_it_says() {
    // Start (9:00 if nothing else is said), rule, days; with a dot at the end if it goes on.
    for (start, rule, expected) in [
        ("19970902", "FREQ=DAILY;COUNT=10", "199709 02-11"),
        ("19970902", "FREQ=DAILY;UNTIL=19971224T000000Z", "199709 02-30 199710 01-31 199711 01-30 199712 01-23"),
        ("19970902", "FREQ=DAILY;INTERVAL=2", "199709 02 04 06 08 10 12 14 16 18 20 22 24 26 28 30 199710 02 04 ."),
        ("19970902", "FREQ=DAILY;INTERVAL=10;COUNT=5", "199709 02 12 22 199710 02 12"),
        (
            "19980101",
            "FREQ=YEARLY;UNTIL=20000131T140000Z;BYMONTH=1;BYDAY=SU,MO,TU,WE,TH,FR,SA",
            "199801 01-31 199901 01-31 200001 01-31",
        ),
        ("19980101", "FREQ=DAILY;UNTIL=20000131T140000Z;BYMONTH=1", "199801 01-31 199901 01-31 200001 01-31"),
        ("19970902", "FREQ=WEEKLY;COUNT=10", "199709 02 09 16 23 30 199710 07 14 21 28 199711 04"),
        (
            "19970902",
            "FREQ=WEEKLY;UNTIL=19971224T000000Z",
            "199709 02 09 16 23 30 199710 07 14 21 28 199711 04 11 18 25 199712 02 09 16 23",
        ),
        (
            "19970902",
            "FREQ=WEEKLY;INTERVAL=2;WKST=SU",
            "199709 02 16 30 199710 14 28 199711 11 25 199712 09 23 199801 06 20 199802 03 17 .",
        ),
        (
            "19970902",
            "FREQ=WEEKLY;UNTIL=19971007T000000Z;WKST=SU;BYDAY=TU,TH",
            "199709 02 04 09 11 16 18 23 25 30 199710 02",
        ),
        ("19970902", "FREQ=WEEKLY;COUNT=10;WKST=SU;BYDAY=TU,TH", "199709 02 04 09 11 16 18 23 25 30 199710 02"),
        (
            "19970901",
            "FREQ=WEEKLY;INTERVAL=2;UNTIL=19971224T000000Z;WKST=SU;BYDAY=MO,WE,FR",
            "199709 01 03 05 15 17 19 29 199710 01 03 13 15 17 27 29 31 199711 10 12 14 24 26 28 199712 08 10 12 22",
        ),
        ("19970902", "FREQ=WEEKLY;INTERVAL=2;COUNT=8;WKST=SU;BYDAY=TU,TH", "199709 02 04 16 18 30 199710 02 14 16"),
        (
            "19970905",
            "FREQ=MONTHLY;COUNT=10;BYDAY=1FR",
            "199709 05 199710 03 199711 07 199712 05 199801 02 199802 06 199803 06 199804 03 199805 01 199806 05",
        ),
        ("19970905", "FREQ=MONTHLY;UNTIL=19971224T000000Z;BYDAY=1FR", "199709 05 199710 03 199711 07 199712 05"),
        (
            "19970907",
            "FREQ=MONTHLY;INTERVAL=2;COUNT=10;BYDAY=1SU,-1SU",
            "199709 07 28 199711 02 30 199801 04 25 199803 01 29 199805 03 31",
        ),
        ("19970922", "FREQ=MONTHLY;COUNT=6;BYDAY=-2MO", "199709 22 199710 20 199711 17 199712 22 199801 19 199802 16"),
        ("19970928", "FREQ=MONTHLY;BYMONTHDAY=-3", "199709 28 199710 29 199711 28 199712 29 199801 29 199802 26 ."),
        (
            "19970902",
            "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=2,15",
            "199709 02 15 199710 02 15 199711 02 15 199712 02 15 199801 02 15",
        ),
        (
            "19970930",
            "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=1,-1",
            "199709 30 199710 01 31 199711 01 30 199712 01 31 199801 01 31 199802 01",
        ),
        ("19970910", "FREQ=MONTHLY;INTERVAL=18;COUNT=10;BYMONTHDAY=10,11,12,13,14,15", "199709 10-15 199903 10-13"),
        (
            "19970902",
            "FREQ=MONTHLY;INTERVAL=2;BYDAY=TU",
            "199709 02 09 16 23 30 199711 04 11 18 25 199801 06 13 20 27 199803 03 10 17 24 31 .",
        ),
        (
            "19970610",
            "FREQ=YEARLY;COUNT=10;BYMONTH=6,7",
            "199706 10 199707 10 199806 10 199807 10 199906 10 199907 10 200006 10 200007 10 200106 10 200107 10",
        ),
        (
            "19970310",
            "FREQ=YEARLY;INTERVAL=2;COUNT=10;BYMONTH=1,2,3",
            "199703 10 199901 10 199902 10 199903 10 200101 10 200102 10 200103 10 200301 10 200302 10 200303 10",
        ),
        (
            "19970101",
            "FREQ=YEARLY;INTERVAL=3;COUNT=10;BYYEARDAY=1,100,200",
            "199701 01 199704 10 199707 19 200001 01 200004 09 200007 18 200301 01 200304 10 200307 19 200601 01",
        ),
        ("19970519", "FREQ=YEARLY;BYDAY=20MO", "199705 19 199805 18 199905 17 ."),
        ("19970512", "FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO", "199705 12 199805 11 199905 17 ."),
        ("19970313", "FREQ=YEARLY;BYMONTH=3;BYDAY=TH", "199703 13 20 27 199803 05 12 19 26 199903 04 11 18 25 ."),
        (
            "19970605",
            "FREQ=YEARLY;BYDAY=TH;BYMONTH=6,7,8",
            "199706 05 12 19 26 199707 03 10 17 24 31 199708 07 14 21 28 \
             199806 04 11 18 25 199807 02 09 16 23 30 199808 06 13 20 27 .",
        ),
        (
            "19970902",
            "FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13\nEXDATE;TZID=America/New_York:19970902T090000",
            "199802 13 199803 13 199811 13 199908 13 200010 13 .",
        ),
        (
            "19970913",
            "FREQ=MONTHLY;BYDAY=SA;BYMONTHDAY=7,8,9,10,11,12,13",
            "199709 13 199710 11 199711 08 199712 13 199801 10 199802 07 199803 07 199804 11 199805 09 199806 13 .",
        ),
        (
            "19961105",
            "FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8",
            "199611 05 200011 07 200411 02 .",
        ),
        ("19970904", "FREQ=MONTHLY;COUNT=3;BYDAY=TU,WE,TH;BYSETPOS=3", "199709 04 199710 07 199711 06"),
        (
            "19970929",
            "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2",
            "199709 29 199710 30 199711 27 199712 30 199801 29 199802 26 199803 30 .",
        ),
        ("19970805", "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO", "199708 05 10 19 24"),
        ("19970805", "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU", "199708 05 17 19 31"),
        ("20070115", "FREQ=MONTHLY;BYMONTHDAY=15,30;COUNT=5", "200701 15 30 200702 15 200703 15 30"),
    ] {
        let nine = basic(&format!("{start}T090000"));
        let recurrence = Recurrence::parse(rule, nine, NEW_YORK).unwrap();
        let (expected, goes_on) = expected.strip_suffix(" .").map_or((expected, false), |days| (days, true));
        let expected = days(expected);
        let mut local = instants(&recurrence).map(|at| at.with_timezone(&NEW_YORK).naive_local());
        let found: Vec<_> = local.by_ref().take(expected.len()).collect();
        assert!(found.iter().all(|time| time.time() == nine.time()), "{rule}");
        assert_eq!(found.iter().map(NaiveDateTime::date).collect::<Vec<_>>(), expected, "{rule}");
        assert_eq!(local.next().is_some(), goes_on, "{rule}");
    }
}

#[test]
fn the_examples_of_rfc_5545_within_a_day_come_out_as_it_says() {
    let every_20_minutes = || (9..=16).flat_map(|hour| [0, 20, 40].map(|minute| format!("{hour:02}:{minute:02}")));
    for (rule, expected, goes_on) in [
        // The RFC has 17:00 in UTC, and means it as local time (erratum 3883).
        ("FREQ=HOURLY;INTERVAL=3;UNTIL=19970902T210000Z", "09:00 12:00 15:00".to_owned(), false),
        ("FREQ=HOURLY;INTERVAL=3;UNTIL=19970902T170000Z", "09:00 12:00".to_owned(), false),
        ("FREQ=HOURLY;INTERVAL=3;UNTIL=19970902T170000", "09:00 12:00 15:00".to_owned(), false),
        ("FREQ=MINUTELY;INTERVAL=15;COUNT=6", "09:00 09:15 09:30 09:45 10:00 10:15".to_owned(), false),
        ("FREQ=MINUTELY;INTERVAL=90;COUNT=4", "09:00 10:30 12:00 13:30".to_owned(), false),
        (
            "FREQ=DAILY;BYHOUR=9,10,11,12,13,14,15,16;BYMINUTE=0,20,40",
            every_20_minutes().chain(every_20_minutes()).collect::<Vec<_>>().join(" "),
            true,
        ),
        (
            "FREQ=MINUTELY;INTERVAL=20;BYHOUR=9,10,11,12,13,14,15,16",
            every_20_minutes().chain(every_20_minutes()).collect::<Vec<_>>().join(" "),
            true,
        ),
    ] {
        let recurrence = Recurrence::parse(rule, basic("19970902T090000"), NEW_YORK).unwrap();
        let mut local = instants(&recurrence).map(|at| at.with_timezone(&NEW_YORK).format("%H:%M").to_string());
        let found: Vec<_> = local.by_ref().take(expected.split(' ').count()).collect();
        assert_eq!(found.join(" "), expected, "{rule}");
        assert_eq!(local.next().is_some(), goes_on, "{rule}");
    }
}

#[test]
fn eight_o_clock_stays_eight_o_clock_when_the_clocks_change() {
    let text = "DTSTART;TZID=Europe/Berlin:20260327T080000\r\nRRULE:FREQ=DAILY;COUNT=4\r\n";
    let recurrence: Recurrence = text.parse().unwrap();
    let hours: Vec<_> = instants(&recurrence).map(|at| at.hour()).collect();
    assert_eq!(hours, [7, 7, 6, 6]);
}

#[test]
fn an_occurrence_in_a_gap_comes_later_and_one_in_a_fold_at_the_first() {
    let dues = |rule: &str, start: &str| {
        let recurrence = Recurrence::parse(rule, basic(start), chrono_tz::Europe::Berlin).unwrap();
        instants(&recurrence).map(|at| at.format("%dT%H:%M").to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(dues("FREQ=DAILY;COUNT=3", "20260328T023000"), "28T01:30 29T01:30 30T00:30");
    assert_eq!(dues("FREQ=DAILY;COUNT=3", "20261024T023000"), "24T00:30 25T00:30 26T01:30");
    // 02:30 becomes 03:30, which is there anyway: five local times, four instants.
    assert_eq!(dues("FREQ=HOURLY;COUNT=5", "20260329T003000"), "28T23:30 29T00:30 29T01:30 29T02:30");
    // 02:15 and 02:45 become 03:15 and 03:45: between the others, not after them.
    assert_eq!(
        dues("FREQ=MINUTELY;INTERVAL=10;BYMINUTE=10,20;BYHOUR=1,2,3;COUNT=6", "20260329T010000"),
        "29T00:10 29T00:20 29T01:10 29T01:20"
    );
    // The second 02:30 of the day is nobody's.
    assert_eq!(dues("FREQ=HOURLY;COUNT=3", "20261025T013000"), "24T23:30 25T00:30 25T02:30");
}

#[test]
fn dates_are_left_out_and_come_besides() {
    let text = "DTSTART;TZID=Europe/Berlin:20260105T080000\n\
                RRULE:FREQ=DAILY;COUNT=6\n\
                EXDATE;TZID=Europe/Berlin:20260106T080000,\n 20260107T080000\n\
                EXDATE:20260108T070000Z\n\
                EXDATE;VALUE=DATE:20260109\n\
                RDATE;TZID=America/New_York:20260109T040000\n\
                RDATE;TZID=Europe/Berlin:20260101T120000,20260106T080000";
    let recurrence: Recurrence = text.parse().unwrap();
    let found: Vec<_> = instants(&recurrence).map(|at| at.format("%dT%H").to_string()).collect();
    assert_eq!(found, ["01T11", "05T07", "09T09", "10T07"]);
    assert_eq!(recurrence.to_string().parse(), Ok(recurrence.clone()));
    // Lower case is as good.
    assert_eq!(
        text.to_lowercase()
            .replace("europe/berlin", "Europe/Berlin")
            .replace("america/new_york", "America/New_York")
            .parse(),
        Ok(recurrence)
    );
}

#[test]
fn an_unsynchronised_start_is_left_out() {
    let recurrence = Recurrence::parse("FREQ=WEEKLY;BYDAY=MO;COUNT=1", basic("20260101T080000"), Tz::UTC).unwrap();
    assert_eq!(instants(&recurrence).collect::<Vec<_>>(), [utc("2026-01-05T08:00:00Z")]);
}

#[test]
fn until_may_be_an_instant_a_local_time_or_a_whole_day_and_is_included() {
    for (until, count) in [
        ("20260108T070000Z", 4),
        ("20260108T065959Z", 3),
        ("20260108T080000", 4),
        ("20260108T075959", 3),
        ("20260108", 4),
        ("20260107", 3),
    ] {
        let rule = format!("FREQ=DAILY;UNTIL={until}");
        let recurrence = Recurrence::parse(&rule, basic("20260105T080000"), chrono_tz::Europe::Berlin).unwrap();
        assert_eq!(instants(&recurrence).count(), count, "{rule}");
    }
    // Within a gap: 02:30 becomes 03:30, after the end, but 03:00 is before it.
    let recurrence = Recurrence::parse(
        "FREQ=MINUTELY;INTERVAL=30;UNTIL=20260329T011500Z",
        basic("20260329T010000"),
        chrono_tz::Europe::Berlin,
    );
    let found: Vec<_> = instants(&recurrence.unwrap()).map(|at| at.format("%H:%M").to_string()).collect();
    assert_eq!(found, ["00:00", "00:30", "01:00"]);
}

#[test]
fn a_rule_that_never_comes_is_found_out() {
    let begun = std::time::Instant::now();
    for rule in [
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=31",
        "FREQ=DAILY;BYMONTH=4;BYMONTHDAY=31",
        "FREQ=MONTHLY;INTERVAL=12;BYMONTHDAY=30;BYMONTH=3",
        "FREQ=YEARLY;BYWEEKNO=20;BYMONTH=1;BYDAY=MO",
        "FREQ=YEARLY;BYYEARDAY=60;BYMONTHDAY=2",
        "FREQ=YEARLY;INTERVAL=4;BYMONTH=2;BYMONTHDAY=29",
        "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=6",
        "FREQ=HOURLY;INTERVAL=24;BYHOUR=9",
        "FREQ=MINUTELY;INTERVAL=1440;BYHOUR=9",
        "FREQ=SECONDLY;INTERVAL=60;BYSECOND=5",
        "FREQ=SECONDLY;INTERVAL=45;BYMINUTE=10;BYSECOND=1",
        "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=SECONDLY;INTERVAL=4294967291;BYMONTH=2;BYMONTHDAY=30;BYDAY=MO",
        "FREQ=HOURLY;BYMINUTE=0,30;BYSETPOS=3",
        "FREQ=MINUTELY;INTERVAL=7;BYYEARDAY=366;BYMONTH=3",
        "FREQ=DAILY;COUNT=1\nEXDATE:20250105T080000",
    ] {
        let found = Recurrence::parse(rule, basic("20250105T080000"), Tz::UTC);
        assert!(matches!(found, Err(ScheduleError::NeverFires { .. })), "{rule}: {found:?}");
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    // February 29 was a Monday in 2016 and will be in 2044: not never.
    let leap = Recurrence::parse("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO", basic("20250105T080000"), Tz::UTC);
    assert_eq!(instants(&leap.unwrap()).next(), Some(utc("2044-02-29T08:00:00Z")));
}

#[test]
fn what_the_rfc_does_not_allow_is_refused_with_what_would_be() {
    for (rule, error) in [
        ("FREQ=DAILY;COUNT=0", "COUNT is 0, but must be from 1 to 1000000"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL is 0, but must be from 1 to 4294967295"),
        ("FREQ=DAILY;BYMONTH=13", "BYMONTH is 13, but must be from 1 to 12"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "BYMONTHDAY is 0, but must be from -31 to 31 and not 0"),
        (
            "FREQ=DAILY;COUNT=2;UNTIL=20260101T000000Z",
            "COUNT is not allowed with UNTIL (RFC 5545, 3.3.10): give one of them",
        ),
        (
            "FREQ=WEEKLY;BYDAY=1MO",
            "a number in BYDAY is not allowed with WEEKLY (RFC 5545, 3.3.10): leave the number out, or use MONTHLY",
        ),
        (
            "FREQ=DAILY;UNTIL=20250104",
            "UNTIL=20250104 is before the start 2025-01-05 08:00:00 in UTC: the recurrence would be empty",
        ),
        (
            "FREQ=DAILY;BYEASTER=1",
            "cannot read \"FREQ=DAILY;BYEASTER=1\" as a recurrence: at byte 11 a part that RFC 5545 does not know",
        ),
    ] {
        let refused = Recurrence::parse(rule, basic("20250105T080000"), Tz::UTC);
        assert_eq!(refused.unwrap_err().to_string(), error);
    }
    for rule in [
        "FREQ=MONTHLY;BYWEEKNO=3",
        "FREQ=WEEKLY;BYMONTHDAY=3",
        "FREQ=MONTHLY;BYYEARDAY=3",
        "FREQ=MONTHLY;BYSETPOS=3",
        "FREQ=YEARLY;BYWEEKNO=3;BYDAY=1MO",
    ] {
        let refused = Recurrence::parse(rule, basic("20250105T080000"), Tz::UTC);
        assert!(matches!(refused, Err(ScheduleError::NotAllowed { .. })), "{rule}: {refused:?}");
    }
}

#[test]
fn a_text_that_cannot_be_read_says_where() {
    for (text, at) in [
        ("", 0),
        ("FREQ=DAILY", 0),
        ("DTSTART:20260105T080000\nRRULE:FREQ=DAILY", 0),
        ("DTSTART:20260105T080000Z\nRRULE:FREQ=FORTNIGHTLY", 36),
        ("DTSTART:20260230T080000Z\nRRULE:FREQ=DAILY", 8),
        ("DTSTART;VALUE=DATE:20260105\nRRULE:FREQ=DAILY", 19),
        ("DTSTART:20260105T080000Z\nRRULE:FREQ=DAILY;INTERVAL=two", 51),
        ("DTSTART:20260105T080000Z\nRRULE:FREQ=DAILY;BYDAY=MO,XX", 51),
        ("DTSTART:20260105T080000Z\nRRULE:FREQ=DAILY\nRRULE:FREQ=DAILY", 42),
        ("DTSTART:20260105T080000Z\nEXRULE:FREQ=DAILY", 25),
        ("DTSTART:20260105T080000Z\nRRULE:FREQ=DAILY;FREQ=DAILY", 42),
        ("DTSTART:20260105T080000Z\nRRULE:FREQ=DAILY;DAILY", 42),
        ("DTSTART:20260105T080000Z\nRRULE:;FREQ=DAILY", 31),
        ("DTSTART:20260105X080000Z\nRRULE:FREQ=DAILY", 8),
        ("DTSTART;TZID=UTC:20260105X080000\nRRULE:FREQ=DAILY", 17),
        ("DTSTART:20260105T080000X\nRRULE:FREQ=DAILY", 8),
        ("DTSTART;SIZE=DATE:20260105T080000Z\nRRULE:FREQ=DAILY", 8),
        ("DTSTART:20260105T080000Z\nRRULE:FREQ=DAILY\nRDATE;VALUE=PERIOD:20260106T080000Z", 48),
        ("DTSTART:20260105T080000Z\nRRULE:FREQ=DAILY\nRDATE;VALUE=DATE:20260106", 59),
    ] {
        match text.parse::<Recurrence>() {
            Err(ScheduleError::Text { at: found, expected, .. }) => assert_eq!(found, at, "{text}: {expected}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn what_there_can_be_only_once_says_so() {
    let (start, rule) = ("DTSTART:20260105T080000Z", "RRULE:FREQ=DAILY;");
    assert!(format!("{start}\n{rule}").parse::<Recurrence>().is_ok(), "a semicolon at the end is often seen");
    for text in [format!("{start}\n{start}\n{rule}"), format!("{start}\n{rule}\n{rule}")] {
        let refused = text.parse::<Recurrence>().unwrap_err().to_string();
        assert!(refused.ends_with("a line that there can be only once"), "{refused}");
    }
    assert!(Recurrence::parse(&format!("{start}\n{rule}"), basic("20260105T080000"), Tz::UTC).is_err());
}

#[test]
fn a_rule_ends_with_its_last_day_or_its_last_second_and_no_later() {
    for (start, until, expected) in [
        ("20250105T080000", "20250105T080000", 1),
        ("20250105T080000", "20250105T080000Z", 1),
        ("20250105T080000", "20250106T075959", 1),
        ("20250105T235959", "20250105", 1),
        ("20250105T000000", "20250105", 1),
        ("20250105T000000", "20250106", 2),
    ] {
        let rule = format!("FREQ=DAILY;UNTIL={until}");
        let recurrence = Recurrence::parse(&rule, basic(start), Tz::UTC).unwrap();
        assert_eq!(recurrence.after(utc("2025-01-01T00:00:00Z")).count(), expected, "{start} {rule}");
    }
    for (start, until) in [
        ("20250105T080000", "20250105T075959"),
        ("20250105T080000", "20250105T075959Z"),
        ("20250105T000000", "20250104"),
    ] {
        let refused = Recurrence::parse(&format!("FREQ=DAILY;UNTIL={until}"), basic(start), Tz::UTC);
        assert!(matches!(refused, Err(ScheduleError::UntilBeforeStart { .. })), "{start} {until}: {refused:?}");
    }
}

#[test]
fn what_is_said_twice_counts_once() {
    let once = Recurrence::parse("FREQ=HOURLY;BYHOUR=8;BYDAY=MO;BYMONTH=1", basic("20250101T000000"), Tz::UTC).unwrap();
    let twice = "FREQ=HOURLY;BYHOUR=8,8;BYDAY=MO,MO;BYMONTH=1,1";
    let twice = Recurrence::parse(twice, basic("20250101T000000"), Tz::UTC).unwrap();
    assert!(instants(&twice).take(30).eq(instants(&once).take(30)));
    let first = Recurrence::parse("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=1,1", basic("20250101T000000"), Tz::UTC).unwrap();
    let days: Vec<u32> = instants(&first).take(3).map(|at| at.day()).collect();
    assert_eq!(days, [6, 3, 3]);
}

#[test]
fn the_leap_second_is_the_one_before_and_no_other_is() {
    let rule = RecurrenceRule::new(Frequency::Minutely).by_second([15, 60]);
    let recurrence = Recurrence::new(rule, basic("20260105T080000"), Tz::UTC).unwrap();
    let seconds: Vec<u32> = recurrence.after(utc("2026-01-05T08:00:00Z")).take(3).map(|at| at.second()).collect();
    assert_eq!(seconds, [15, 59, 15]);
}

#[test]
fn seeking_far_ahead_costs_no_walk_from_the_start() {
    let rules =
        ["SECONDLY", "MINUTELY;INTERVAL=7", "HOURLY;BYMINUTE=1,2", "DAILY", "WEEKLY;INTERVAL=3", "MONTHLY", "YEARLY"];
    let far = utc("9998-06-01T00:00:00Z");
    let begun = std::time::Instant::now();
    for rule in rules {
        let recurrence = Recurrence::parse(&format!("FREQ={rule}"), basic("19700101T000000"), NEW_YORK).unwrap();
        let next = recurrence.next_after(far).unwrap();
        assert!(next - far < TimeDelta::days(366), "{rule}");
        assert!(recurrence.previous_before(next).unwrap() <= far, "{rule}");
    }
    assert!(begun.elapsed().as_millis() < 1_000, "{:?}", begun.elapsed());
}

#[test]
fn a_count_of_a_million_ends_where_it_should() {
    let recurrence = Recurrence::parse("FREQ=MINUTELY;COUNT=1000000", basic("20260101T000000"), Tz::UTC).unwrap();
    let last = recurrence.previous_before(utc("9999-01-01T00:00:00Z")).unwrap();
    assert_eq!(last, utc("2026-01-01T00:00:00Z") + TimeDelta::minutes(999_999));
    assert_eq!(recurrence.next_after(last), None);
}
