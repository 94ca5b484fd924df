//! The promises of schedules, by name. Days on which clocks change are real ones.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Utc, Weekday};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;
use crate::schedule::civil::{LAST, instant_of};

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn local(text: &str) -> NaiveDateTime {
    Source { what: "", text }.local(text).unwrap()
}

/// The next instants, as `03-29T01:00Z`.
fn next(schedule: &str, after: &str, count: usize) -> Vec<String> {
    let schedule: Schedule = schedule.parse().unwrap_or_else(|error| panic!("{error}"));
    schedule.after(utc(after)).take(count).map(|at| at.format("%m-%dT%H:%MZ").to_string()).collect()
}

/// What a local time becomes with each disambiguation.
fn four(time: &str, zone: Tz) -> [String; 4] {
    use Disambiguation::{Compatible, Earlier, Later, Reject};
    [Compatible, Earlier, Later, Reject].map(|disambiguation| {
        match LocalTime::new(local(time), zone).disambiguation(disambiguation).instant() {
            Ok(at) => at.format("%dT%H:%M").to_string(),
            Err(ScheduleError::Skipped { before, after, .. }) => {
                format!("skipped {} {}", before.format("%H:%M"), after.format("%H:%M"))
            }
            Err(ScheduleError::Repeated { before, after, .. }) => {
                format!("repeated {} {}", before.format("%H:%M"), after.format("%H:%M"))
            }
            Err(error) => panic!("{error}"),
        }
    })
}

#[test]
fn a_local_time_in_a_gap_or_fold_becomes_what_its_disambiguation_says() {
    use chrono_tz::{Africa::Casablanca, America::New_York, Antarctica::Troll};
    use chrono_tz::{Australia::Lord_Howe, Europe::Berlin, Pacific::Apia};
    for (time, zone, expected) in [
        ("2026-03-29T02:30", Berlin, ["29T01:30", "29T00:30", "29T01:30", "skipped 00:30 01:30"]),
        ("2026-10-25T02:30", Berlin, ["25T00:30", "25T00:30", "25T01:30", "repeated 00:30 01:30"]),
        ("2026-03-08T02:00", New_York, ["08T07:00", "08T06:00", "08T07:00", "skipped 06:00 07:00"]),
        ("2026-11-01T01:59", New_York, ["01T05:59", "01T05:59", "01T06:59", "repeated 05:59 06:59"]),
        // Half an hour.
        ("2026-10-04T02:15", Lord_Howe, ["03T15:45", "03T15:15", "03T15:45", "skipped 15:15 15:45"]),
        ("2026-04-05T01:45", Lord_Howe, ["04T14:45", "04T14:45", "04T15:15", "repeated 14:45 15:15"]),
        // A whole day.
        ("2011-12-30T12:00", Apia, ["30T22:00", "29T22:00", "30T22:00", "skipped 22:00 22:00"]),
        // Back for Ramadan, and on again after it.
        ("2026-02-15T02:30", Casablanca, ["15T01:30", "15T01:30", "15T02:30", "repeated 01:30 02:30"]),
        ("2026-03-22T02:30", Casablanca, ["22T02:30", "22T01:30", "22T02:30", "skipped 01:30 02:30"]),
        // Two hours.
        ("2026-03-29T01:30", Troll, ["29T01:30", "28T23:30", "29T01:30", "skipped 23:30 01:30"]),
        ("2026-10-25T01:30", Troll, ["24T23:30", "24T23:30", "25T01:30", "repeated 23:30 01:30"]),
    ] {
        assert_eq!(four(time, zone), expected, "{time} {zone}");
    }
}

#[test]
fn the_edges_of_gaps_and_folds_belong_to_the_side_that_shows_them() {
    let berlin = chrono_tz::Europe::Berlin;
    assert_eq!(four("2026-03-29T01:59", berlin), ["29T00:59"; 4]);
    assert_eq!(four("2026-03-29T03:00", berlin), ["29T01:00"; 4]);
    assert_eq!(four("2026-10-25T01:59", berlin), ["24T23:59"; 4]);
    assert_eq!(four("2026-10-25T03:00", berlin), ["25T02:00"; 4]);
}

#[test]
fn a_rejected_local_time_says_what_could_be_chosen() {
    let time = LocalTime::new(local("2026-03-29T02:30:00.5"), chrono_tz::Europe::Berlin);
    let error = time.disambiguation(Disambiguation::Reject).instant().unwrap_err().to_string();
    assert_eq!(
        error,
        "the clocks in Europe/Berlin skip 2026-03-29 02:30:00.500: choose 2026-03-29 00:30:00.500 UTC or \
         2026-03-29 01:30:00.500 UTC (Earlier, Later), or let Compatible take the later"
    );
}

#[test]
fn local_times_outside_1970_to_9999_are_refused() {
    for (time, fits) in [
        (local("1970-01-01T05:30"), true),
        (local("1970-01-01T05:29"), false),
        (local("9999-12-31T23:59"), true),
        (NaiveDate::from_ymd_opt(10_000, 1, 1).unwrap().and_hms_opt(5, 29, 59).unwrap(), true),
        (NaiveDate::from_ymd_opt(10_000, 1, 1).unwrap().and_hms_opt(5, 30, 0).unwrap(), false),
        (NaiveDateTime::MIN, false),
        (NaiveDateTime::MAX, false),
    ] {
        let instant = LocalTime::new(time, chrono_tz::Asia::Kolkata).instant();
        assert_eq!(instant.is_ok(), fits, "{time}");
        assert!(fits || matches!(instant, Err(ScheduleError::OutOfRange { .. })));
    }
}

#[test]
fn a_slot_that_the_clocks_skip_comes_later_that_day_and_in_time_the_next_week() {
    let slots = "slots Europe/Berlin Sun 02:30";
    assert_eq!(next(slots, "2026-03-20T00:00:00Z", 3), ["03-22T01:30Z", "03-29T01:30Z", "04-05T00:30Z"]);
    let rejecting = "slots Europe/Berlin Sun 02:30; reject";
    assert_eq!(next(rejecting, "2026-03-20T00:00:00Z", 2), ["03-22T01:30Z", "04-05T00:30Z"]);
    let earlier = "slots Europe/Berlin Sun 02:30; earlier";
    assert_eq!(next(earlier, "2026-03-28T00:00:00Z", 2), ["03-29T00:30Z", "04-05T00:30Z"]);
}

#[test]
fn a_slot_that_the_clocks_show_twice_is_taken_once() {
    let slots = "slots America/New_York Sun 01:30,02:30";
    assert_eq!(next(slots, "2026-11-01T00:00:00Z", 3), ["11-01T05:30Z", "11-01T07:30Z", "11-08T06:30Z"]);
    let later = "slots America/New_York Sun 01:30,02:30; later";
    assert_eq!(next(later, "2026-11-01T00:00:00Z", 3), ["11-01T06:30Z", "11-01T07:30Z", "11-08T06:30Z"]);
    let rejecting = "slots America/New_York Sun 01:30,02:30; reject";
    assert_eq!(next(rejecting, "2026-11-01T00:00:00Z", 2), ["11-01T07:30Z", "11-08T06:30Z"]);
}

#[test]
fn slots_that_fall_on_one_instant_are_one_and_none_comes_out_of_order() {
    // 02:30 and 02:45 become 03:30 and 03:45.
    let slots = "slots Europe/Berlin Sun 02:30,02:45,03:15,03:30";
    assert_eq!(next(slots, "2026-03-28T00:00:00Z", 3), ["03-29T01:15Z", "03-29T01:30Z", "03-29T01:45Z"]);
    // The day that Samoa left out is spent on the day after.
    let apia = "slots Pacific/Apia Thu-Sat 10:00";
    assert_eq!(next(apia, "2011-12-29T00:00:00Z", 3), ["12-29T20:00Z", "12-30T20:00Z", "01-04T20:00Z"]);
}

#[test]
fn skipped_dates_take_weekly_slots_away_and_extra_ones_stay() {
    let slots = "slots Europe/Berlin Mon-Sun 08:00; skip 2026-12-25; skip 2026-12-26; extra 2026-12-25T10:00";
    assert_eq!(next(slots, "2026-12-24T00:00:00Z", 3), ["12-24T07:00Z", "12-25T09:00Z", "12-27T07:00Z"]);
    let only_extra: Schedule = "slots UTC extra 2026-12-24T10:00".parse().unwrap();
    assert_eq!(only_extra.after(utc("2026-01-01T00:00:00Z")).count(), 1);
    assert_eq!(only_extra.next_after(utc("2026-12-24T10:00:00Z")), None);
    assert_eq!(only_extra.previous_before(utc("2026-12-24T10:00:00Z")), None);
    assert!(only_extra.previous_before(utc("2026-12-24T10:00:00.000000001Z")).is_some());
}

#[test]
fn slots_without_a_slot_cannot_be_made() {
    assert_eq!(PostingSlots::new(Tz::UTC).build(), Err(ScheduleError::NoSlots));
    assert_eq!("slots UTC skip 2026-12-25".parse::<PostingSlots>(), Err(ScheduleError::NoSlots));
    let fraction = NaiveTime::from_hms_milli_opt(8, 0, 0, 1).unwrap();
    let refused = PostingSlots::new(Tz::UTC).on([Weekday::Mon], [fraction]).build();
    assert!(matches!(refused, Err(ScheduleError::NotWholeSecond { .. })));
    let early = PostingSlots::new(Tz::UTC).extra(local("1969-12-31T23:59")).build();
    assert!(matches!(early, Err(ScheduleError::OutOfRange { .. })));
}

#[test]
fn slots_end_with_the_year_9999_and_begin_with_1970() {
    let slots: Schedule = "slots Pacific/Apia Mon-Sun 12:00".parse().unwrap();
    assert_eq!(slots.after(utc("9999-12-30T00:00:00Z")).count(), 2);
    assert_eq!(slots.next_after(DateTime::<Utc>::MAX_UTC), None);
    assert_eq!(slots.previous_before(DateTime::<Utc>::MIN_UTC), None);
    assert_eq!(slots.next_after(DateTime::<Utc>::MIN_UTC), Some(utc("1970-01-01T23:00:00Z")));
    assert_eq!(slots.previous_before(DateTime::<Utc>::MAX_UTC), Some(utc("9999-12-31T23:00:00Z")));
}

#[test]
fn a_text_that_cannot_be_read_says_where_and_what_was_expected() {
    for (text, at, expected) in [
        ("", 0, "once, local"),
        ("weekly Mon", 0, "once, local"),
        ("once tomorrow", 5, "an instant"),
        ("local 2026-02-30T10:00 UTC", 6, "a date of the calendar"),
        ("local 2026-02-20T24:00 UTC", 17, "a time from 00:00"),
        ("local 2026-02-20 UTC", 6, "a local time is expected"),
        ("local 2026-02-20T10:00", 22, "a zone is missing"),
        ("local 2026-02-20T10:00 UTC sooner", 27, "compatible, earlier"),
        ("slots UTC Mon-Fri", 17, "a time from 00:00"),
        ("slots UTC Mon-Fry 08:00", 14, "a weekday"),
        ("slots UTC Mon 08:00; skip Christmas", 26, "a date of the calendar"),
    ] {
        match text.parse::<Schedule>() {
            Err(ScheduleError::Text { at: found, expected: said, .. }) => {
                assert_eq!(found, at, "{text}: {said}");
                assert!(said.starts_with(expected), "{text}: {said}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!("slots Europe/Berln Mon 8:00".parse::<Schedule>().unwrap_err().to_string().contains("Europe/Berlin"));
}

#[test]
fn cron_comes_on_days_that_fulfil_one_or_the_other_unless_one_is_a_star() {
    let cron = |fields: &str, count| next(&format!("cron UTC {fields}"), "2026-01-01T00:00:00Z", count).join(" ");
    // The 13th, and Fridays.
    assert_eq!(cron("0 8 13 * 5", 4), "01-02T08:00Z 01-09T08:00Z 01-13T08:00Z 01-16T08:00Z");
    assert_eq!(cron("0 8 * * FRI", 2), "01-02T08:00Z 01-09T08:00Z");
    assert_eq!(cron("0 8 13 * *", 2), "01-13T08:00Z 02-13T08:00Z");
    // Mondays with an odd number.
    assert_eq!(cron("0 8 */2 * Mon", 3), "01-05T08:00Z 01-19T08:00Z 02-09T08:00Z");
    assert_eq!(cron("0 0 * * 7", 2), cron("@weekly", 2));
    assert_eq!(cron("5-59/25 */12 1 jan-mar/2 *", 4), "01-01T00:05Z 01-01T00:30Z 01-01T00:55Z 01-01T12:05Z");
}

#[test]
fn cron_at_fixed_times_comes_once_when_the_clocks_change_and_every_hour_is_every_hour() {
    let berlin = |fields: &str, after, count| next(&format!("cron Europe/Berlin {fields}"), after, count).join(" ");
    assert_eq!(berlin("30 2 * * *", "2026-03-28T12:00:00Z", 2), "03-29T01:30Z 03-30T00:30Z");
    assert_eq!(berlin("30 2 * * *", "2026-10-24T12:00:00Z", 2), "10-25T00:30Z 10-26T01:30Z");
    assert_eq!(berlin("30 * * * *", "2026-03-29T00:00:00Z", 2), "03-29T00:30Z 03-29T01:30Z");
    assert_eq!(berlin("30 * * * *", "2026-10-24T23:00:00Z", 4), "10-24T23:30Z 10-25T00:30Z 10-25T01:30Z 10-25T02:30Z");
    assert_eq!(berlin("0 */2 * * *", "2026-10-24T23:00:00Z", 3), "10-25T00:00Z 10-25T01:00Z 10-25T03:00Z");
    // The hours that Samoa left out are left out.
    assert_eq!(
        next("cron Pacific/Apia 0 * * * *", "2011-12-30T08:30:00Z", 3).join(" "),
        "12-30T09:00Z 12-30T10:00Z 12-30T11:00Z"
    );
    // Half an hour twice on Lord Howe.
    assert_eq!(
        next("cron Australia/Lord_Howe */30 * * * *", "2026-04-04T14:15:00Z", 3).join(" "),
        "04-04T14:30Z 04-04T15:00Z 04-04T15:30Z"
    );
}

#[test]
fn the_last_second_of_the_year_9999_is_the_last_there_is() {
    let last = instant_of(LAST);
    for text in [
        "slots UTC Mon-Sun 23:59:59",
        "rrule DTSTART:20260101T235959Z\nRRULE:FREQ=DAILY",
        "rrule DTSTART:20260101T000000Z\nRRULE:FREQ=SECONDLY",
    ] {
        let schedule: Schedule = text.parse().unwrap();
        let found = [
            schedule.next_after(last - TimeDelta::seconds(1)),
            schedule.next_after(last),
            schedule.previous_before(DateTime::<Utc>::MAX_UTC),
        ];
        assert_eq!(found, [Some(last), None, Some(last)], "{text}");
    }
}

#[test]
fn a_single_instant_is_after_what_is_before_it_and_before_what_is_after_it() {
    for text in ["once 2026-03-27T08:00:00Z", "local 2026-03-27T09:00 Europe/Berlin"] {
        let (schedule, at): (Schedule, _) = (text.parse().unwrap(), utc("2026-03-27T08:00:00Z"));
        let second = TimeDelta::seconds(1);
        assert_eq!([at - second, at, at + second].map(|from| schedule.next_after(from)), [Some(at), None, None]);
        assert_eq!([at - second, at, at + second].map(|from| schedule.previous_before(from)), [None, None, Some(at)]);
    }
}

#[test]
fn a_cron_expression_is_shown_as_one_would_write_it() {
    for (given, shown) in [
        ("*/1 8 * * 1-5", "* 8 * * 1-5"),
        ("0,0 8,9,8-10 */31 1,2,4 7", "0 8-10 */31 1-2,4 0"),
        ("*/15 0-23 31 12 */7", "*/15 0-23 31 12 */7"),
        ("@daily", "0 0 * * *"),
    ] {
        assert_eq!(Cron::new(given, Tz::UTC).unwrap().to_string(), format!("cron UTC {shown}"));
    }
}

#[test]
fn slots_are_shown_as_one_would_write_them() {
    for (given, shown) in [
        ("mon 08:00; Tue,Wed,Sat 08:00", "Mon-Wed,Sat 08:00"),
        ("Sun,Mon 17:30:15,08:00; Fri 09:00", "Mon,Sun 08:00,17:30:15; Fri 09:00"),
        (
            "Mon-Sun 08:00; skip 2026-12-25; extra 2026-12-26T09:00; earlier",
            "Mon-Sun 08:00; skip 2026-12-25; extra 2026-12-26T09:00; earlier",
        ),
    ] {
        let slots: PostingSlots = format!("slots UTC {given}").parse().unwrap();
        assert_eq!(slots.to_string(), format!("slots UTC {shown}"));
    }
}

#[test]
fn what_a_schedule_was_made_of_can_be_read_back() {
    use chrono_tz::Europe::Berlin;
    let (time, slots) = (local("2026-03-29T02:30"), "slots Europe/Berlin Mon 08:00");
    let rule: RecurrenceRule = "FREQ=DAILY".parse().unwrap();
    let (local, daily) = (LocalTime::new(time, Berlin), Recurrence::new(rule, time, Berlin).unwrap());
    assert_eq!([local.time(), daily.start()], [time; 2]);
    let zones = [local.zone(), daily.zone(), Cron::new("* * * * *", Berlin).unwrap().zone()];
    assert_eq!(zones, [Berlin; 3]);
    assert_eq!(slots.parse::<PostingSlots>().unwrap().zone(), Berlin);
    for name in ["compatible", "earlier", "later", "reject"] {
        assert_eq!(name.parse::<Disambiguation>().unwrap().to_string(), name);
    }
}

#[test]
fn a_cron_expression_that_is_wrong_says_where() {
    for (text, at, expected) in [
        ("", 0, "minute is missing"),
        ("0 8 * *", 7, "day of week is missing"),
        ("0 8 * * * *", 10, "nothing more"),
        ("60 8 * * *", 0, "a minute from 0 to 59"),
        ("0 8 0 * *", 4, "a day of month from 1 to 31"),
        ("0 8 * * 1,8", 10, "a day of week from 0 to 7"),
        ("0 18-8 * * *", 2, "a range of the hour must ascend"),
        ("*/0 8 * * *", 0, "a step of the minute"),
        ("5/10 8 * * *", 0, "a step needs a range"),
        ("@reboot", 0, "@hourly"),
        ("0 8 ? * 1", 4, "a day of month"),
        ("0 +8 * * 1", 2, "an hour"),
    ] {
        match Cron::new(text, Tz::UTC) {
            Err(ScheduleError::Text { at: found, expected: said, .. }) => {
                assert_eq!(found, at, "{text}: {said}");
                assert!(said.replace("a hour", "an hour").starts_with(expected), "{text}: {said}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    for never in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *"] {
        assert!(matches!(Cron::new(never, Tz::UTC), Err(ScheduleError::NeverFires { .. })), "{never}");
    }
    assert!(Cron::new("0 0 29 2 *", Tz::UTC).is_ok());
}

fn any_zone() -> impl Strategy<Value = Tz> {
    let zones = chrono_tz::TZ_VARIANTS.to_vec();
    let odd = vec![chrono_tz::Europe::Berlin, chrono_tz::Australia::Lord_Howe, chrono_tz::Antarctica::Troll];
    prop_oneof![proptest::sample::select(zones), proptest::sample::select(odd)]
}

fn any_disambiguation() -> impl Strategy<Value = Disambiguation> {
    use Disambiguation::{Compatible, Earlier, Later, Reject};
    proptest::sample::select(vec![Compatible, Earlier, Later, Reject])
}

prop_compose! {
    fn any_slots()(
        zone in any_zone(),
        disambiguation in any_disambiguation(),
        weekly in prop::collection::vec((0u8..7, 0u32..86_400, prop_oneof![Just(1u32), Just(900), Just(3_600)]), 1..12),
        skipped in prop::collection::vec(0i64..40_000, 0..5),
        extra in prop::collection::vec(0i64..4_000_000_000, 0..5),
    ) -> PostingSlots {
        let mut slots = PostingSlots::new(zone).disambiguation(disambiguation);
        for (day, time, grid) in weekly {
            let time = NaiveTime::from_num_seconds_from_midnight_opt(time / grid * grid, 0).unwrap();
            slots = slots.on([Weekday::try_from(day).unwrap()], [time]);
        }
        for day in skipped {
            slots = slots.skip(instant_of(day * 86_400).date_naive());
        }
        for time in extra {
            slots = slots.extra(instant_of(time).naive_utc());
        }
        slots.build().unwrap()
    }
}

fn any_cron() -> impl Strategy<Value = String> {
    let field = |min: u32, max: u32| {
        let range = (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
        let item = prop_oneof![
            (min..=max).prop_map(|value| value.to_string()),
            range.clone(),
            (range, 1..=max).prop_map(|(range, step)| format!("{range}/{step}")),
            (1..=max).prop_map(|step| format!("*/{step}")),
        ];
        prop_oneof![2 => Just("*".to_owned()), 3 => prop::collection::vec(item, 1..4).prop_map(|items| items.join(","))]
    };
    let fields = (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7));
    fields.prop_map(|(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}"))
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let once =
        (0..LAST, 0u32..1_000_000_000).prop_map(|(at, nanos)| DateTime::from_timestamp(at, nanos).unwrap().into());
    let nanos = prop_oneof![Just(0u32), 0u32..1_000_000_000];
    let local = (0..LAST, nanos, any_zone(), any_disambiguation()).prop_map(|(at, nanos, zone, disambiguation)| {
        LocalTime::new(DateTime::from_timestamp(at, nanos).unwrap().naive_utc(), zone)
            .disambiguation(disambiguation)
            .into()
    });
    let recurrence = (crate::schedule::recurrence::any_rule(), 0..LAST, any_zone())
        .prop_filter_map("never", |(rule, start, zone)| {
            Recurrence::new(rule, instant_of(start).naive_utc(), zone).ok().map(Schedule::from)
        });
    let cron = (any_cron(), any_zone())
        .prop_filter_map("never", |(text, zone)| Cron::new(&text, zone).ok().map(Schedule::from));
    prop_oneof![once, local, any_slots().prop_map(Schedule::from), recurrence, cron]
}

proptest! {
    #[test]
    fn a_schedule_comes_back_from_its_text(schedule in any_schedule()) {
        let text = schedule.to_string();
        prop_assert_eq!(text.parse::<Schedule>(), Ok(schedule), "{}", text);
    }

    #[test]
    fn between_the_instant_before_and_the_one_after_there_is_none(schedule in any_schedule(), from in 0i64..4_200_000_000) {
        let from = instant_of(from);
        let moment = TimeDelta::nanoseconds(1);
        let (before, after) = (schedule.previous_before(from), schedule.next_after(from));
        prop_assert!(before.is_none_or(|before| before < from) && after.is_none_or(|after| after > from));
        for at in [before, after].into_iter().flatten() {
            prop_assert_eq!(schedule.next_after(at - moment), Some(at));
            prop_assert_eq!(schedule.previous_before(at + moment), Some(at));
            prop_assert!(schedule.next_after(at).is_none_or(|next| next > at));
            prop_assert!(schedule.previous_before(at).is_none_or(|last| last < at));
        }
        if let Some(before) = before {
            let here = schedule.next_after(from - moment).filter(|at| *at == from);
            prop_assert_eq!(schedule.next_after(before), here.or(after));
        }
        if let Some(after) = after {
            let here = schedule.previous_before(from + moment).filter(|at| *at == from);
            prop_assert_eq!(schedule.previous_before(after), here.or(before));
        }
    }

    #[test]
    fn no_text_does_harm(text in r"(slots|cron|local|once|rrule)? ?(UTC|Europe/Berlin)?[ -~\n;:,TZ0-9]{0,60}") {
        if let Ok(schedule) = text.parse::<Schedule>() {
            prop_assert_eq!(schedule.to_string().parse::<Schedule>(), Ok(schedule));
        }
    }

    #[test]
    fn cron_comes_in_every_minute_that_fits_and_in_no_other(text in any_cron(), from in 0i64..4_000_000_000) {
        let Ok(cron) = Cron::new(&text, Tz::UTC) else { return Ok(()) };
        let from = instant_of(from / 60 * 60);
        let end = from + TimeDelta::days(3);
        let found: Vec<_> = cron.after(from).take_while(|at| *at <= end).collect();
        let fields: Vec<&str> = text.split(' ').collect();
        let fits = |field: usize, value: u32, min: u32, max: u32| fields[field].split(',').any(|item| {
            let (range, step) = item.split_once('/').unwrap_or((item, "1"));
            let (low, high) = if range == "*" { (min, max) } else {
                let (low, high) = range.split_once('-').unwrap_or((range, range));
                (low.parse().unwrap(), high.parse().unwrap())
            };
            (low..=high).contains(&value) && (value - low).is_multiple_of(step.parse().unwrap())
        });
        let star = |field: usize| fields[field].starts_with('*') && !fields[field].contains(',');
        let minutes = (1..=3 * 1_440).map(|minute| from + TimeDelta::minutes(minute)).filter(|at| {
            let of_week = at.weekday().num_days_from_sunday();
            let of_week = fits(4, of_week, 0, 7) || (of_week == 0 && fits(4, 7, 0, 7));
            let of_month = fits(2, at.day(), 1, 31);
            let day = if star(2) || star(4) { of_month && of_week } else { of_month || of_week };
            day && fits(0, at.minute(), 0, 59) && fits(1, at.hour(), 0, 23) && fits(3, at.month(), 1, 12)
        });
        prop_assert_eq!(found, minutes.collect::<Vec<_>>(), "{}", text);
    }

    #[test]
    fn slots_rise_strictly_and_the_one_before_the_next_is_the_one_before(slots in any_slots(), from in 0i64..4_200_000_000) {
        let mut last = None;
        for at in slots.after(instant_of(from)).take(40) {
            prop_assert!(at > last.unwrap_or(instant_of(from)));
            if let Some(last) = last {
                prop_assert_eq!(slots.previous_before(at), Some(last));
                prop_assert_eq!(slots.next_after(at - TimeDelta::nanoseconds(1)), Some(at));
            }
            last = Some(at);
        }
    }
}
