//! The judge of all that is done to processes (`tests/kill.rs`): each rule is broken once and seen to be.

#[path = "../examples/ledger/mod.rs"]
mod ledger;

use std::collections::HashMap;

use punctual::{PostId, State};

use ledger::check::{RULES, judge};
use ledger::draft::Draft;
use ledger::host::End;
use ledger::journal::{Answer, Called, Entry, Part, Wish};

const SECOND: i64 = 1_000_000;

fn id(number: u128) -> PostId {
    PostId::from_u128(number)
}

fn draft() -> Draft {
    Draft {
        pool: "wide".into(),
        profile: "line-0".into(),
        key: None,
        due: 10 * SECOND,
        in_order: true,
        parts: 1,
        expires: None,
        priority: 128,
        place: 0,
        version: 7,
    }
}

fn ack(number: u128, draft: Draft) -> Entry {
    Entry::Ack { id: id(number), at: SECOND, draft }
}

/// The call of this number for this post, at 11 seconds.
fn called(number: u128, call: u64) -> Called {
    Called {
        call: (0, call),
        of: Part { id: id(number), part: 0 },
        attempt: 1,
        redelivery: false,
        key: id(number).to_string(),
        due: 10 * SECOND,
        at: 11 * SECOND,
        line: None,
        timeout: SECOND,
        version: 7,
        prepared: None,
        checkpoint: None,
    }
}

/// What follows a call that is published and answered.
fn published(called: &Called) -> [Entry; 3] {
    let Called { call, of, .. } = *called;
    [Entry::Call(called.clone()), Entry::Sent { call, of }, Entry::Ended { call, of, answer: Answer::Published }]
}

fn ended(called: &Called, answer: Answer) -> [Entry; 2] {
    let Called { call, of, .. } = *called;
    [Entry::Call(called.clone()), Entry::Ended { call, of, answer }]
}

fn end(state: State) -> End {
    let is_held = state == State::InDoubt;
    End { state, reason: "because".into(), is_held }
}

fn delivered(numbers: impl IntoIterator<Item = u128>) -> HashMap<PostId, End> {
    numbers.into_iter().map(|number| (id(number), end(State::Delivered))).collect()
}

/// Which rules are violated, in either mode.
fn violated(entries: Vec<Entry>, ends: &HashMap<PostId, End>, at_most_once: bool) -> Vec<&'static str> {
    let verdict = judge(|| entries.clone().into_iter(), ends, at_most_once);
    let violations = verdict.violations.into_iter().filter(|(_, count)| *count > 0);
    violations.map(|(rule, _)| rule).collect()
}

fn wish(number: u128, wish: Wish) -> [Entry; 2] {
    [Entry::Wish { id: id(number), wish }, Entry::Granted { id: id(number), wish, at: 2 * SECOND }]
}

#[test]
fn a_good_story_violates_nothing() {
    let mut entries = vec![Entry::Born { round: 0 }, ack(1, draft())];
    entries.extend(published(&called(1, 0)));
    for at_most_once in [false, true] {
        assert_eq!(violated(entries.clone(), &delivered([1]), at_most_once), [""; 0]);
    }
}

/// A story for each rule that breaks it and no other.
#[test]
fn each_rule_is_broken_by_its_own_story() {
    let once = |called: Called| {
        let mut entries = vec![ack(1, draft())];
        entries.extend(published(&called));
        entries
    };
    let twice = |first: Vec<Entry>, again: Called| {
        let mut entries = vec![ack(1, draft())];
        entries.extend(first);
        entries.extend(published(&again));
        entries
    };
    let unknown = || ended(&called(1, 0), Answer::Unknown).to_vec();
    let wished = |asked: [Entry; 2], called: Called| {
        let mut entries = vec![ack(1, draft())];
        entries.extend(asked);
        entries.extend(published(&called));
        entries
    };
    let line = || Some("wide/line-0".to_owned());
    let of = Part { id: id(1), part: 0 };
    let sent = Entry::Sent { call: (0, 0), of };
    let keep = [Entry::Keep { call: (0, 0), of }, Entry::Kept { call: (0, 0), of }];
    let refused = ended(&called(1, 0), Answer::NotPublished).to_vec();

    let stories: Vec<(&str, bool, Vec<Entry>)> = vec![
        ("lost", false, vec![ack(1, draft()), ack(2, draft()), sent.clone()]),
        ("unsent", false, vec![ack(1, draft()), Entry::Call(called(1, 0))]),
        ("twice", true, [once(called(1, 0)), vec![sent]].concat()),
        ("doubtful", true, twice(unknown(), called(1, 1))),
        ("unmarked", false, twice(unknown(), called(1, 1))),
        ("key", false, twice(refused.clone(), Called { key: "x".into(), ..called(1, 1) })),
        (
            "parts",
            false,
            [
                once(called(1, 0)),
                published(&Called { of: Part { id: id(3), part: 1 }, key: "y".into(), ..called(3, 1) }).to_vec(),
            ]
            .concat(),
        ),
        ("overtaken", false, {
            let later = Called { line: line(), due: 11 * SECOND, at: 12 * SECOND, ..called(2, 0) };
            let mut entries = vec![ack(1, draft()), ack(2, Draft { due: 11 * SECOND, ..draft() })];
            entries.extend(published(&later));
            entries.extend(published(&Called { line: line(), at: 13 * SECOND, ..called(1, 1) }));
            entries
        }),
        ("beside", false, {
            let mut entries = vec![ack(1, draft()), ack(2, draft())];
            let both = [called(1, 0), called(2, 1)].map(|called| Called { line: line(), ..called });
            let [mut one, other] = both.map(|called| published(&called).to_vec());
            let ends = one.pop();
            entries.extend([one, other].concat());
            entries.extend(ends);
            entries
        }),
        ("early", false, once(Called { at: 9 * SECOND, ..called(1, 0) })),
        ("due", false, wished(wish(1, Wish::Move(20 * SECOND)), called(1, 0))),
        ("payload", false, wished(wish(1, Wish::Edit(0, 8)), called(1, 0))),
        ("cancelled", false, wished(wish(1, Wish::Cancel), called(1, 0))),
        ("prepared", false, once(Called { prepared: Some(format!("{}/6", id(1))), ..called(1, 0) })),
        ("checkpoint", false, twice([refused, keep.to_vec()].concat(), called(1, 1))),
        ("identity", false, {
            let named = Draft { key: Some("k".into()), ..draft() };
            let mut entries = vec![ack(1, named.clone()), ack(2, named)];
            entries.extend(published(&called(1, 0)));
            entries.extend(published(&called(2, 1)));
            entries
        }),
    ];
    let told: Vec<&str> = stories.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(told, RULES.map(|(rule, _)| rule), "each rule has its story");
    for (rule, at_most_once, entries) in stories {
        let ends = match rule {
            "lost" => delivered([1]),
            "cancelled" => HashMap::from([(id(1), end(State::Cancelled))]),
            _ => delivered([1, 2]),
        };
        assert_eq!(violated(entries, &ends, at_most_once), [rule]);
    }
}

#[test]
fn what_cannot_have_been_published_may_be_sent_again() {
    let cleared = Entry::Reconciled { of: Part { id: id(1), part: 0 }, answer: Answer::NotPublished };
    let unknown = ended(&called(1, 0), Answer::Unknown).to_vec();
    let refused = ended(&called(1, 0), Answer::NotPublished).to_vec();
    for first in [[unknown, vec![cleared]].concat(), refused] {
        for at_most_once in [false, true] {
            let entries = [vec![ack(1, draft())], first.clone(), published(&called(1, 1)).to_vec()].concat();
            assert_eq!(violated(entries, &delivered([1]), at_most_once), [""; 0]);
        }
    }
}

#[test]
fn what_was_under_way_at_a_kill_is_in_doubt() {
    let again = Called { call: (1, 0), ..called(1, 0) };
    let before = vec![ack(1, draft()), Entry::Call(called(1, 0)), Entry::Born { round: 1 }];
    let story = |again: Called| [before.clone(), published(&again).to_vec()].concat();
    assert_eq!(violated(story(again.clone()), &delivered([1]), true), ["doubtful"]);
    assert_eq!(violated(story(again.clone()), &delivered([1]), false), ["unmarked"]);
    assert_eq!(violated(story(Called { redelivery: true, ..again }), &delivered([1]), false), [""; 0]);
}
