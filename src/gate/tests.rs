//! The promises of gates, by name.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn rolling(max: u32, secs: u64) -> Vec<RateLimit> {
    vec![RateLimit::rolling(max, Duration::from_secs(secs))]
}

fn wait(scope: Scope, ms: i64) -> Entry {
    Entry::Wait { scope, until: at(ms) }
}

/// A later process: gates of these rules that were given all that was remembered.
fn restarted(pool: &str, rules: Rules, remembered: &BTreeMap<Bytes, Bytes>) -> Gate {
    let gate = Gate::new(pool, rules);
    remembered.iter().for_each(|(key, value)| {
        gate.restore(key, value);
    });
    gate
}

fn remember(remembered: &mut BTreeMap<Bytes, Bytes>, changed: Vec<(Bytes, Bytes)>) {
    for (key, value) in changed {
        assert!(Gate::is_remembered_key(&key));
        if value.is_empty() {
            remembered.remove(&key)
        } else {
            remembered.insert(key, value)
        };
    }
}

#[test]
fn a_gate_without_rules_lets_everything_through_and_remembers_nothing() {
    let gate = Gate::new("p", Rules::default());
    assert!(gate.is_open());
    assert_eq!(gate.enter("a", at(0)), Entry::Go);
    gate.count("a", at(0));
    assert_eq!(gate.leave("a", at(0), at(1), Some(false)), None);
    assert_eq!(gate.changed(at(1)), []);
}

#[test]
fn one_scope_that_is_full_takes_from_none() {
    let account = Account::new("app").limit(RateLimit::rolling(3, 10 * SECOND));
    let rules = Rules { profile: rolling(1, 5), pool: rolling(2, 7), accounts: vec![account], ..Rules::default() };
    let gate = Gate::new("p", rules);
    assert_eq!(gate.enter("a", at(0)), Entry::Go);
    assert_eq!(gate.enter("a", at(0)), wait(Scope::Profile, 5_000));
    assert_eq!(gate.enter("", at(0)), Entry::Go);
    assert_eq!(gate.enter("b", at(0)), wait(Scope::Pool, 7_000));
    assert_eq!(gate.enter("b", at(7_000)), Entry::Go);
    assert_eq!(gate.enter("c", at(7_000)), wait(Scope::Account, 10_000));
    assert_eq!(gate.enter("c", at(10_000)), Entry::Go);
}

#[test]
fn every_account_of_a_pool_has_limits_of_its_own() {
    let account = |name: &str, most| Account::new(name).limit(RateLimit::rolling(most, 10 * SECOND));
    let accounts = vec![account("a", 3), account("b", 1), account("b", 9)];
    let gate = Gate::new("p", Rules { accounts, ..Rules::default() });
    assert_eq!(gate.enter("", at(0)), Entry::Go);
    assert_eq!(gate.enter("", at(0)), wait(Scope::Account, 10_000), "of two of one name the first counts");
    assert!(gate.set_limits(Scope::Account, Some("b"), Vec::new()));
    assert_eq!([gate.enter("", at(1)), gate.enter("", at(2))], [Entry::Go, Entry::Go]);
    assert_eq!(gate.enter("", at(3)), wait(Scope::Account, 10_000));
}

#[test]
fn what_each_scope_has_counted_is_remembered_also_where_it_is_the_only_one() {
    let account = Account::new("app").limit(RateLimit::rolling(1, 10 * SECOND));
    let rules = [
        Rules { profile: rolling(1, 10), ..Rules::default() },
        Rules { pool: rolling(1, 10), ..Rules::default() },
        Rules { accounts: vec![account], ..Rules::default() },
    ];
    for (rules, scope) in rules.into_iter().zip([Scope::Profile, Scope::Pool, Scope::Account]) {
        let gate = Gate::new("p", rules);
        assert_eq!(gate.enter("a", at(0)), Entry::Go);
        assert_eq!(gate.enter("a", at(1)), wait(scope, 10_000));
        assert_eq!(gate.changed(at(2)).len(), 1, "{scope:?}");
        assert_eq!(gate.changed(at(3)), [], "once");
    }
}

#[test]
fn a_start_that_was_not_made_is_given_back_to_every_scope() {
    let account = Account::new("app").limit(RateLimit::rolling(1, SECOND));
    let rules = Rules { profile: rolling(1, 1), pool: rolling(1, 1), accounts: vec![account], ..Rules::default() };
    let gate = Gate::new("p", rules);
    assert_eq!(gate.enter("a", at(0)), Entry::Go);
    assert_eq!(gate.leave("a", at(0), at(1), None), None);
    assert_eq!(gate.enter("a", at(2)), Entry::Go);
    gate.leave("a", at(2), at(3), Some(true));
    assert!(matches!(gate.enter("a", at(4)), Entry::Wait { .. }));
}

#[test]
fn what_the_network_throttles_waits_in_its_scope_and_the_gate_opens_again() {
    let gate = Gate::new("p", Rules::default());
    gate.throttle(Scope::Profile, "a", at(1_000));
    assert_eq!(gate.enter("a", at(0)), wait(Scope::Profile, 1_000));
    assert_eq!(gate.enter("b", at(0)), Entry::Go);
    gate.throttle(Scope::Profile, "", at(500));
    gate.throttle(Scope::Account, "b", at(700));
    assert_eq!(gate.enter("b", at(0)), wait(Scope::Pool, 700));
    let mut remembered = BTreeMap::new();
    remember(&mut remembered, gate.changed(at(10)));
    assert_eq!(remembered.len(), 2);
    for ms in 2_000..2_200 {
        assert_eq!(gate.enter("a", at(ms)), Entry::Go);
        remember(&mut remembered, gate.changed(at(ms)));
    }
    assert!(gate.is_open());
    assert_eq!(remembered, BTreeMap::new(), "what is over is forgotten");
}

#[test]
fn an_account_waits_as_a_whole() {
    let account = Account::new("app");
    let rules = || Rules { accounts: vec![account.clone()], ..Rules::default() };
    let (first, second) = (Gate::new("first", rules()), Gate::new("second", rules()));
    first.throttle(Scope::Account, "a", at(1_000));
    assert_eq!(second.enter("b", at(0)), wait(Scope::Account, 1_000));
    assert!(second.set_limits(Scope::Account, Some("app"), rolling(1, 1)));
    assert!(!second.set_limits(Scope::Account, Some("other"), Vec::new()));
    assert!(!second.set_limits(Scope::Account, None, Vec::new()));
    assert_eq!(first.enter("", at(1_000)), Entry::Go);
    assert_eq!(second.enter("", at(1_000)), wait(Scope::Account, 2_000));
    let [(key, _)] = &first.changed(at(1_000))[..] else { panic!("one key") };
    assert_eq!(second.changed(at(1_000)), [], "it is the same one");
    assert!(second.restore(key, b"?") && !second.restore(&super::key(Scope::Account, &["other"]), b""));
}

#[test]
fn an_account_that_is_restored_through_one_gate_is_not_restored_again_through_another() {
    let rules = |account: &Account| Rules { accounts: vec![account.clone()], ..Rules::default() };
    let limit = RateLimit::rolling(3, SECOND);
    let before = Gate::new("first", rules(&Account::new("app").limit(limit.clone())));
    assert_eq!(before.enter("", at(0)), Entry::Go);
    let remembered = before.changed(at(0)).into_iter().collect();
    let account = Account::new("app").limit(limit);
    let first = restarted("first", rules(&account), &remembered);
    first.count("", at(0));
    let second = restarted("second", rules(&account), &remembered);
    assert_eq!(second.enter("", at(1)), Entry::Go);
    assert_eq!(second.enter("", at(1)), wait(Scope::Account, 1_000));
}

#[test]
fn a_key_belongs_to_one_gate_alone() {
    let gate = Gate::new("p", Rules { profile: rolling(1, 60), pool: rolling(9, 60), ..Rules::default() });
    gate.enter("a", at(0));
    let (twin, other) = (Gate::new("p", Rules::default()), Gate::new("pa", Rules::default()));
    for (key, value) in gate.changed(at(1)) {
        assert!(Gate::is_remembered_key(&key) && twin.restore(&key, &value) && !other.restore(&key, &value));
    }
    assert!(!gate.restore(b"", b"") && !gate.restore(b"L", b"") && !gate.restore(b"L\x01\x05\x00p", b""));
    assert!(!Gate::is_remembered_key(b"") && !Gate::is_remembered_key(b"M"));
}

#[test]
fn profiles_that_are_idle_take_no_memory() {
    let gate = Gate::new("p", Rules { profile: rolling(1, 1), ..Rules::default() });
    let mut remembered = BTreeMap::new();
    for ms in 0..100_000 {
        assert_eq!(gate.enter(&ms.to_string(), at(ms)), Entry::Go);
        if ms % 10 == 0 {
            remember(&mut remembered, gate.changed(at(ms)));
        }
    }
    assert!(gate.0.state.lock().unwrap().profiles.len() < 5_000);
    assert!(remembered.len() < 5_000);
}

#[test]
fn what_is_over_is_forgotten_although_nobody_starts() {
    let gate = Gate::new("p", Rules { profile: rolling(1, 1), ..Rules::default() });
    assert_eq!((gate.enter("a", at(0)), gate.enter("b", at(500))), (Entry::Go, Entry::Go));
    assert_eq!(gate.changed(at(600)).len(), 2);
    for _ in 0..300 {
        assert_eq!(gate.enter("b", at(1_200)), wait(Scope::Profile, 1_500));
    }
    let changed = gate.changed(at(1_200));
    let [(_, value)] = &changed[..] else { panic!("{changed:?}") };
    assert!(value.is_empty(), "the store is to forget it");
}

#[test]
fn profiles_are_looked_through_when_twice_as_many_have_entered_as_are_busy() {
    let gate = Gate::new("p", Rules { profile: rolling(1, 60), ..Rules::default() });
    let left = || gate.0.state.lock().unwrap().entries_to_sweep;
    let (mut looks, mut before) = (Vec::new(), 0);
    for profile in 0..1_000 {
        assert_eq!(gate.enter(&profile.to_string(), at(0)), Entry::Go);
        if left() >= before {
            looks.push((profile, left()));
        }
        before = left();
    }
    assert_eq!(looks, [(0, 64), (65, 194), (260, 584), (845, 1_754)]);
}

fn breaker() -> Gate {
    let breaker = Breaker::new(2).pause(10 * SECOND).max_pause(15 * SECOND);
    Gate::new("p", Rules { breaker: Some(breaker), ..Rules::default() })
}

/// One that enters and ends at once.
fn pass(gate: &Gate, ms: i64, healthy: bool) -> Option<Turned> {
    assert_eq!(gate.enter("a", at(ms)), Entry::Go);
    gate.leave("a", at(ms), at(ms), Some(healthy))
}

#[test]
fn a_breaker_opens_after_failures_in_a_row_and_closes_after_a_healthy_probe() {
    let gate = breaker();
    for (ms, healthy) in [(0, false), (1, true), (2, false)] {
        assert_eq!(pass(&gate, ms, healthy), None);
    }
    assert_eq!(pass(&gate, 1_000, false), Some(Turned::Opened { probe_at: at(11_000) }));
    assert_eq!(gate.enter("", at(1_000)), wait(Scope::Pool, 11_000));
    assert_eq!(gate.enter("a", at(11_000)), Entry::Go);
    assert_eq!(gate.enter("b", at(11_000)), wait(Scope::Pool, 12_000), "one probe only");
    // One from before the breaker opened tells nothing.
    assert_eq!(gate.leave("b", at(999), at(11_500), Some(true)), None);
    assert_eq!(gate.leave("b", at(999), at(11_500), Some(false)), None);
    let reopened = gate.leave("a", at(11_000), at(12_000), Some(false));
    assert_eq!(reopened, Some(Turned::Opened { probe_at: at(27_000) }), "twice as long, but not over the longest");
    assert_eq!(pass(&gate, 27_000, true), Some(Turned::Closed));
    assert_eq!(pass(&gate, 27_001, false), None);
    assert_eq!(pass(&gate, 27_002, false), Some(Turned::Opened { probe_at: at(37_002) }), "as short as at first");
}

#[test]
fn a_probe_that_was_not_made_leaves_its_place_to_another() {
    let gate = breaker();
    pass(&gate, 0, false);
    pass(&gate, 0, false);
    assert_eq!(gate.enter("a", at(10_000)), Entry::Go);
    assert_eq!(gate.leave("a", at(10_000), at(10_001), None), None);
    assert_eq!(pass(&gate, 10_002, true), Some(Turned::Closed));
}

#[test]
fn an_open_breaker_does_not_outlast_its_pause_when_the_clock_steps_back() {
    let gate = breaker();
    pass(&gate, 1_000_000, false);
    pass(&gate, 1_000_000, false);
    assert_eq!(gate.enter("a", at(0)), wait(Scope::Pool, 10_000));
    assert_eq!(gate.enter("a", at(10_000)), Entry::Go);
}

/// What happens to the gates of two pools that share an account.
#[derive(Clone, Debug)]
enum Op {
    Enter(usize, u8),
    /// The one that entered so many ago leaves, called or not.
    Leave(usize, bool),
    Wait(i64),
    Throttle(usize, Scope, u8, i64),
    Remember(usize),
    Restart,
    /// The process dies: what entered since was remembered or is counted.
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let scope = prop::sample::select(vec![Scope::Profile, Scope::Pool, Scope::Account]);
    prop_oneof![
        20 => (0usize..2, 0u8..4).prop_map(|(gate, profile)| Op::Enter(gate, profile)),
        6 => (0usize..9, any::<bool>()).prop_map(|(index, called)| Op::Leave(index, called)),
        6 => (0i64..4_000).prop_map(Op::Wait),
        1 => (0usize..2, scope, 0u8..4, 0i64..5_000).prop_map(|(g, s, p, t)| Op::Throttle(g, s, p, t)),
        2 => (0usize..2).prop_map(Op::Remember),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ]
}

/// A start that counts.
#[derive(Clone, Debug)]
struct Start {
    gate: usize,
    profile: String,
    at: Timestamp,
    is_running: bool,
}

proptest! {
    /// Whatever two pools with a common account do: no limit of any scope is exceeded, over restarts and crashes
    /// too, and whoever waits until he is told may enter then.
    #[test]
    fn no_scope_is_ever_exceeded_and_nobody_waits_for_ever(
        ops in prop::collection::vec(op(), 1..150), max in (1usize..4, 2usize..6, 3usize..9), secs in (1u64..6, 1u64..6, 1u64..6),
    ) {
        let build = |remembered: &BTreeMap<Bytes, Bytes>| {
            let account = Account::new("app").limit(RateLimit::rolling(max.2 as u32, SECOND * secs.2 as u32));
            [0, 1].map(|gate| {
                let rules = Rules {
                    profile: rolling(max.0 as u32, secs.0),
                    pool: rolling(max.1 as u32, secs.1),
                    breaker: None,
                    accounts: vec![account.clone()],
                };
                restarted(["first", "second"][gate], rules, remembered)
            })
        };
        let name = |profile: u8| if profile == 0 { String::new() } else { profile.to_string() };
        let mut remembered = BTreeMap::new();
        let mut gates = build(&remembered);
        let (mut now, mut starts, mut since) = (at(1_000_000), Vec::<Start>::new(), 0);
        for op in ops {
            match op {
                Op::Enter(gate, profile) => {
                    let profile = name(profile);
                    if let Entry::Wait { until, .. } = gates[gate].enter(&profile, now) {
                        prop_assert!(until > now);
                        now = until;
                        prop_assert_eq!(gates[gate].enter(&profile, now), Entry::Go);
                    }
                    let counts = |secs: u64, is_in: &dyn Fn(&Start) -> bool| {
                        starts.iter().filter(|start| start.at.after(SECOND * secs as u32) > now && is_in(start)).count()
                    };
                    let in_pool = counts(secs.1, &|start| start.gate == gate);
                    let in_profile = counts(secs.0, &|start| start.gate == gate && start.profile == profile);
                    prop_assert!(profile.is_empty() || in_profile < max.0);
                    prop_assert!(in_pool < max.1);
                    prop_assert!(counts(secs.2, &|_| true) < max.2);
                    starts.push(Start { gate, profile, at: now, is_running: true });
                }
                Op::Leave(index, called) => {
                    let Some(index) = starts.len().checked_sub(index + 1).filter(|index| starts[*index].is_running) else { continue };
                    let Start { gate, profile, at, is_running } = &mut starts[index];
                    *is_running = false;
                    gates[*gate].leave(profile, *at, now, called.then_some(true));
                    if !called {
                        starts.remove(index);
                        since = since.min(starts.len());
                    }
                }
                Op::Wait(ms) => now = now.after(Duration::from_millis(ms as u64)),
                Op::Throttle(gate, scope, profile, ms) => {
                    let until = now.after(Duration::from_millis(ms as u64));
                    gates[gate].throttle(scope, &name(profile), until);
                    let told = gates[gate].enter(&name(profile), now);
                    prop_assert_eq!(matches!(told, Entry::Wait { until: told, .. } if told >= until), ms > 0 || told != Entry::Go);
                    if told == Entry::Go {
                        gates[gate].leave(&name(profile), now, now, None);
                    }
                }
                Op::Remember(gate) => remember(&mut remembered, gates[gate].changed(now)),
                Op::Restart => {
                    gates.iter().for_each(|gate| remember(&mut remembered, gate.changed(now)));
                    (gates, since) = (build(&remembered), starts.len());
                    starts.iter_mut().for_each(|start| start.is_running = false);
                }
                Op::Crash => {
                    gates = build(&remembered);
                    for start in &mut starts[since..] {
                        gates[start.gate].count(&start.profile, start.at);
                    }
                    starts.iter_mut().for_each(|start| start.is_running = false);
                }
            }
        }
    }

    /// A breaker never stops a pool for good.
    #[test]
    fn a_breaker_always_asks_again(ops in prop::collection::vec((0u8..4, 0i64..20_000), 1..100)) {
        let gate = breaker();
        let (mut now, mut running) = (at(0), Vec::new());
        for (op, ms) in ops {
            match op {
                0 => now = now.after(Duration::from_millis(ms as u64)),
                1 if !running.is_empty() => {
                    let entered = running.swap_remove(ms as usize % running.len());
                    gate.leave("", entered, now, [None, Some(true), Some(false)][ms as usize % 3]);
                }
                _ => match gate.enter("", now) {
                    Entry::Go => running.push(now),
                    Entry::Wait { until, .. } => prop_assert!(until > now && until <= now.after(15 * SECOND)),
                },
            }
        }
        for entered in running {
            gate.leave("", entered, now, Some(false));
        }
        let until = match gate.enter("", now) { Entry::Go => now, Entry::Wait { until, .. } => until };
        prop_assert_eq!(if until > now { gate.enter("", until) } else { Entry::Go }, Entry::Go);
    }
}
