//! What fuzzing runs: a function for each target that takes any bytes and panics if a promise is broken. The targets in
//! `fuzz/` call them, and so do the tests, with every input that is kept there.

// A broken promise is a panic here.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chrono::{DateTime, NaiveTime};

use crate::gate::{Gate, Rules};
use crate::id::PostId;
use crate::post::{Body, Notes};
use crate::quota::{Quota, RateLimit};
use crate::schedule::Schedule;
use crate::shard::model as shard_model;
use crate::sim::{self, CLASSES, Plan};
use crate::store::hostile;
use crate::time::Timestamp;
use crate::wheel::model as wheel_model;

/// What is called with the bytes of a fuzzer.
pub type Target = fn(&[u8]);

/// Every target, with the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("codec", codec),
    ("ids", ids),
    ("wheel", wheel),
    ("shard", shard),
    ("engine", engine),
    ("rrule", rrule),
    ("cron", cron),
];

/// Bytes from disk are refused or read, and what was read comes back when it is written: no panic, no loop without end,
/// no memory but for what is there. The first byte says who reads the others.
pub fn codec(data: &[u8]) {
    let decoders = [body, notes, quota, remembered].into_iter().chain(hostile::DECODERS);
    let Some((which, rest)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    decoders.cycle().nth((*which).into()).into_iter().for_each(|decode| decode(&bytes));
}

fn body(bytes: &Bytes) {
    let Some(body) = Body::decode(bytes.clone()) else { return };
    assert_eq!(body.as_bytes(), bytes);
    let said = |body: &Body| {
        let terms = (body.lead(), body.guarantee(), body.retry(), body.deadline(Timestamp::MIN));
        let names = (body.key().map(str::to_owned), body.profile().to_owned());
        (body.priority(), body.in_order(), body.fingerprint(), names, terms)
    };
    (0..body.parts().min(9)).for_each(|part| assert!(body.part(part).len() <= body.payload().len()));
    for part in [0, 1, body.parts()] {
        let edited = body.with_part(part, b"another");
        assert_eq!(Body::decode(edited.as_bytes().clone()).as_ref(), Some(&edited));
        assert_eq!(said(&edited), said(&body), "only the payload is another");
    }
}

fn notes(bytes: &Bytes) {
    let Some(notes) = Notes::decode(bytes) else { return };
    assert_eq!(Notes::decode(&notes.encode()), Some(notes));
}

/// What was counted comes back, and can be counted on.
fn quota(bytes: &Bytes) {
    let Some(mut quota) = Quota::decode(bytes) else { return };
    let encoded = quota.encode();
    assert_eq!(Quota::decode(&encoded).map(|quota| quota.encode()), Some(encoded));
    let hour = Duration::from_secs(3_600);
    let limits = [RateLimit::rolling(3, hour), RateLimit::daily(9, chrono_tz::Europe::Berlin, NaiveTime::MIN)];
    let mut now = Timestamp::from_micros(0);
    for _ in 0..4 {
        now = quota.next(&limits, now).max(now);
        quota.take(&limits, now);
    }
    quota.give_back(now);
    assert!(quota.encode().len() <= 9 + 600 * limits.len());
}

/// What is remembered of limits, under any key.
fn remembered(bytes: &Bytes) {
    let Some((len, rest)) = bytes.split_first() else { return };
    let (key, value) = rest.split_at(usize::from(*len).min(rest.len()));
    let gate = Gate::new("p", Rules::default());
    assert!(!gate.restore(key, value) || Gate::is_remembered_key(key));
    let _ = gate.changed(Timestamp::from_micros(0));
}

/// Ids are read as they were written, and every other text is refused.
pub fn ids(data: &[u8]) {
    if let Some(number) = data.first_chunk() {
        let id = PostId::from_u128(u128::from_le_bytes(*number));
        assert_eq!(id.as_u128(), u128::from_le_bytes(*number));
        assert_eq!(PostId::new(id.store(), id.seq()), id);
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    let text = String::from_utf8_lossy(data);
    let digits = text.len() == 32 && text.chars().all(|digit| digit.is_ascii_hexdigit());
    let read = text.parse::<PostId>();
    assert_eq!(read.is_ok(), digits);
    match &read {
        Ok(id) => assert_eq!(id.to_string(), text.to_lowercase()),
        Err(error) => assert!(error.to_string().len() < 1_000, "an error is no place for all that was given"),
    }
    #[cfg(feature = "serde")]
    serialized(&text, read.ok());
}

#[cfg(feature = "serde")]
fn serialized(text: &str, expected: Option<PostId>) {
    use serde::de::{Deserialize, IntoDeserializer, value};
    struct Serialized(PostId);
    impl std::fmt::Display for Serialized {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            serde::Serialize::serialize(&self.0, f)
        }
    }
    let input: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
    let read = PostId::deserialize(input).ok();
    assert_eq!(read, expected);
    assert_eq!(read.map(|id| Serialized(id).to_string()), expected.map(|id| id.to_string()));
}

/// Whatever is done to the wheel, it does what its model does.
pub fn wheel(data: &[u8]) {
    let _ = play_wheel(&mut Unstructured::new(data));
}

fn play_wheel(input: &mut Unstructured<'_>) -> Result<()> {
    const HORIZONS: [u64; 6] = [50, 5_000, 3_600_000, 20 * 86_400_000, 100 * 86_400_000, u64::MAX / 2];
    let horizon = *input.choose(&HORIZONS)?;
    // Over the edge of a level; or anywhere.
    let start = if input.arbitrary()? { 1 << input.int_in_range(0..=63u32)? } else { input.arbitrary::<u64>()? };
    let mut ops = Vec::new();
    // Thousands of changes at once take long: once at most, and seldom. The tests do it often.
    let mut may_be_large = input.ratio(1, 32)?;
    while !input.is_empty() && ops.len() < 500 {
        let (op, a, b) = input.arbitrary::<wheel_model::Op>()?;
        let op = op % 100;
        if wheel_model::is_large(op) {
            ops.extend(std::mem::take(&mut may_be_large).then_some((op, a, b % 3_000)));
        } else {
            ops.push((op, a, b));
        }
    }
    wheel_model::play(horizon, start, ops, true);
    Ok(())
}

/// Whatever happens to a shard, everything pushed ends in exactly one way, in its time and within the limits, and the
/// profiles take turns.
pub fn shard(data: &[u8]) {
    let _ = play_shard(&mut Unstructured::new(data));
}

fn play_shard(input: &mut Unstructured<'_>) -> Result<()> {
    if input.ratio(1, 4)? {
        let gap = input.arbitrary::<bool>()?.then(|| input.int_in_range(1..=40)).transpose()?;
        let mut pushes = Vec::new();
        while !input.is_empty() && pushes.len() < 400 {
            pushes.push((input.int_in_range(0..=7)?, input.int_in_range(0..=5)?, input.int_in_range(-5..=4)?));
        }
        shard_model::take_turns(gap, pushes);
        return Ok(());
    }
    let profile = input.arbitrary::<bool>()?.then(|| Ok((2, 1_000 * input.int_in_range(1..=19)?))).transpose()?;
    let all = input.arbitrary::<bool>()?.then(|| Ok((input.int_in_range(1..=8)?, 2_000))).transpose()?;
    let ends_by_recall = input.arbitrary()?;
    let mut pair = shard_model::Pair::new(input.int_in_range(1..=4)?, profile, all);
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        pair.step(shard_op(input)?);
    }
    if ends_by_recall {
        pair.recall();
    }
    pair.run_dry();
    Ok(())
}

fn shard_op(input: &mut Unstructured<'_>) -> Result<shard_model::Op> {
    use shard_model::Op;
    Ok(match input.int_in_range(0..=7u8)? {
        0 | 1 => {
            let (profile, priority) = (input.int_in_range(0..=4)?, *input.choose(&[64, 128, 192])?);
            let deadline = input.ratio(1, 5)?.then(|| input.int_in_range(0..=3_999)).transpose()?;
            Op::Push(profile, priority, input.int_in_range(-9..=8)?, deadline)
        }
        2 => Op::Start(input.int_in_range(1..=8)?),
        3 => Op::Finish(input.int_in_range(0..=8)?),
        4 => Op::Extend(input.int_in_range(0..=8)?),
        5 => Op::Withdraw(input.arbitrary::<u8>()?.into()),
        6 => Op::Pass(input.int_in_range(-500..=2_999)?),
        _ => Op::Look,
    })
}

/// iCalendar text is refused or read; see [`schedule_text`].
pub fn rrule(data: &[u8]) {
    schedule_text("rrule", data);
}

/// A zone and a cron expression are refused or read; see [`schedule_text`].
pub fn cron(data: &[u8]) {
    schedule_text("cron", data);
}

/// Whatever the text of a schedule says: it is refused, or comes back from its own text, and its instants rise strictly,
/// in both directions the same. No loop without end. The first eight bytes are an instant to begin with.
pub fn schedule_text(keyword: &str, data: &[u8]) {
    let Some((at, text)) = data.split_first_chunk() else { return };
    let Ok(schedule) = format!("{keyword} {}", String::from_utf8_lossy(text)).parse::<Schedule>() else { return };
    assert_eq!(schedule.to_string().parse().as_ref(), Ok(&schedule));
    let years = 10_000 * 366 * 86_400;
    let begin = DateTime::from_timestamp(i64::from_le_bytes(*at) % years, 0).unwrap();
    let mut last = begin;
    for at in schedule.after(begin).take(4) {
        assert!(at > last, "{schedule}: {at} after {last}");
        let before = schedule.previous_before(at);
        assert!(if last == begin { before.is_none_or(|before| before <= begin) } else { before == Some(last) });
        last = at;
    }
    if let Some(before) = schedule.previous_before(begin) {
        assert!(before < begin);
        assert!(schedule.next_after(before).is_none_or(|next| next >= begin));
    }
}

/// The world of this seed breaks no promise for some minutes. The bytes after these say what is left out of it, a bit for
/// each class.
pub fn engine(data: &[u8]) {
    let Some((seed, rest)) = data.split_first_chunk() else { return };
    let (minutes, classes) = rest.split_first().map_or((1, rest), |(minutes, classes)| (minutes % 64, classes));
    let is_left_out = |class: usize| classes.get(class / 8).is_some_and(|bits| bits >> (class % 8) & 1 == 1);
    let without = CLASSES.iter().enumerate().filter(|(class, _)| is_left_out(*class));
    let without = without.map(|(_, class)| (*class).to_owned()).collect();
    let plan = Plan { seed: u64::from_le_bytes(*seed), time: Duration::from_secs(60 * u64::from(minutes)), without };
    assert_eq!(sim::run(&plan).broken, None, "{plan:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn folder(name: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name);
        let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn no_input_that_is_kept_breaks_a_promise() {
        for (name, run) in TARGETS {
            let inputs = folder(&format!("corpus/{name}"));
            assert!(!inputs.is_empty(), "{name}");
            for input in inputs {
                // Shown if it fails.
                println!("{}", input.display());
                run(&fs::read(input).unwrap());
            }
        }
    }

    #[test]
    fn every_target_can_be_run_by_a_fuzzer_and_has_its_corpus() {
        let names = |name| folder(name).iter().map(|path| path.file_stem().unwrap().to_owned()).collect::<Vec<_>>();
        let mut targets = TARGETS.map(|(name, _)| name);
        targets.sort_unstable();
        assert_eq!(names("fuzz_targets"), targets);
        assert_eq!(names("corpus"), targets);
    }
}
