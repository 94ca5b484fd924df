use super::*;
use crate::post::{Body, Facts, Post, Stage};
use proptest::prelude::*;

const TIMEOUT: Duration = Duration::from_secs(10);

fn now(ms: i64) -> Now {
    let mono = Duration::from_millis(ms as u64);
    Now { wall: Timestamp::from_millis(ms), mono, machine: mono }
}

fn delivery(seq: u64, at_ms: i64, post: &Post) -> Delivery {
    Delivery::new(Facts {
        id: PostId::new(1, Seq(seq)),
        slot: seq as u32,
        pool: "p".into(),
        due: Timestamp::from_millis(at_ms),
        at: Timestamp::from_millis(at_ms),
        attempt: 1,
        maybe_sent: false,
        body: Body::encode(post),
        stage: Stage::default(),
    })
}

fn plain(seq: u64, at_ms: i64) -> Delivery {
    delivery(seq, at_ms, &Post::new("p", ""))
}

fn start_all(shard: &mut Shard, now: Now) -> Vec<u64> {
    std::iter::from_fn(|| shard.poll_start(now)).map(|(_, d)| d.id().seq().0).collect()
}

#[test]
fn higher_priority_goes_first_then_earlier_due_then_earlier_arrival() {
    let mut shard = Shard::new(9, TIMEOUT);
    shard.push(plain(3, 10));
    shard.push(plain(2, 10));
    shard.push(plain(4, 5));
    shard.push(delivery(9, 20, &Post::new("p", "").priority(Priority::HIGH)));
    shard.push(delivery(1, 1, &Post::new("p", "").priority(Priority::LOW)));
    assert_eq!(start_all(&mut shard, now(100)), [9, 4, 2, 3, 1]);
}

#[test]
fn no_more_run_than_the_concurrency_allows() {
    let mut shard = Shard::new(2, TIMEOUT);
    (0..5).for_each(|seq| shard.push(plain(seq, 0)));
    let (first, _) = shard.poll_start(now(1)).unwrap();
    assert_eq!(start_all(&mut shard, now(1)), [1]);
    assert_eq!(shard.finish(first).unwrap().delivery.id().seq(), Seq(0));
    assert_eq!(start_all(&mut shard, now(1)), [2]);
}

#[test]
fn a_delivery_waits_if_the_wall_clock_has_stepped_back_before_its_due() {
    let mut shard = Shard::new(9, TIMEOUT);
    shard.push(plain(1, 50));
    assert!(shard.poll_start(now(49)).is_none());
    assert_eq!(shard.poll_timeout().wall, Some(Timestamp::from_millis(50)));
    assert_eq!(start_all(&mut shard, now(50)), [1]);
}

#[test]
fn a_delivery_out_of_time_is_given_up_and_its_late_end_is_ignored() {
    let mut shard = Shard::new(1, TIMEOUT);
    shard.push(plain(1, 0));
    shard.push(plain(2, 0));
    let (token, _) = shard.poll_start(now(0)).unwrap();
    assert_eq!(shard.poll_timeout().mono, Some(TIMEOUT));
    assert!(shard.poll_expired(now(9_999)).is_none());
    assert_eq!(shard.poll_expired(now(10_000)).unwrap().delivery.id().seq(), Seq(1));
    assert_eq!(start_all(&mut shard, now(10_000)), [2], "its place is free");
    assert!(shard.finish(token).is_none(), "the place belongs to another by now");
    assert_eq!(shard.running(), 1);
}

#[test]
fn a_recalled_delivery_never_starts_and_a_started_one_is_not_recalled() {
    let mut shard = Shard::new(1, TIMEOUT);
    let ordered = Post::new("p", "").profile("a").in_order();
    (1..=3).for_each(|seq| shard.push(delivery(seq, 0, &ordered)));
    shard.push(plain(4, 500));
    let (token, _) = shard.poll_start(now(1)).unwrap();
    assert_eq!(shard.recall(PostId::new(1, Seq(1))), None);
    assert_eq!(shard.recall(PostId::new(1, Seq(2))), Some(2));
    assert_eq!(shard.recall(PostId::new(1, Seq(4))), Some(4));
    shard.finish(token);
    assert_eq!(start_all(&mut shard, now(1_000)), [3]);
    assert_eq!(shard.recall_all(), []);
}

proptest! {
    /// Random pushes, starts, ends, timeouts and recalls: at most one of a profile in order in flight, never
    /// over the concurrency, never early, everything pushed ends in exactly one way.
    #[test]
    fn everything_pushed_is_started_once_or_recalled(
        ops in proptest::collection::vec((0u8..6, 0u64..4, 0i64..30), 1..300), concurrency in 1usize..5,
    ) {
        let mut shard = Shard::new(concurrency, TIMEOUT);
        let mut time = 0i64;
        let mut pushed = 0u64;
        let mut running: Vec<(Token, Delivery)> = Vec::new();
        let (mut started, mut recalled) = (Vec::new(), Vec::new());
        let start = |shard: &mut Shard, time: i64, running: &mut Vec<(Token, Delivery)>, started: &mut Vec<u64>| {
            while let Some((token, delivery)) = shard.poll_start(now(time)) {
                assert!(delivery.facts().at <= now(time).wall, "early");
                if delivery.facts().body.in_order() {
                    assert!(!running.iter().any(|(_, d)| d.facts().body.in_order() && d.profile() == delivery.profile()));
                }
                started.push(delivery.id().seq().0);
                running.push((token, delivery));
                assert!(running.len() <= concurrency);
            }
        };
        for (op, profile, n) in ops {
            match op {
                0..=1 => {
                    let mut post = Post::new("p", "").profile(profile.to_string()).priority(Priority::new(n as u8));
                    post.in_order = op == 0;
                    shard.push(delivery(pushed, time + n - 10, &post));
                    pushed += 1;
                }
                2 => start(&mut shard, time, &mut running, &mut started),
                3 if !running.is_empty() => {
                    let (token, delivery) = running.swap_remove(n as usize % running.len());
                    prop_assert_eq!(shard.finish(token).unwrap().delivery.id(), delivery.id());
                }
                4 => {
                    time += n * 300;
                    while let Some(ended) = shard.poll_expired(now(time)) {
                        running.retain(|(token, _)| *token != ended.token);
                    }
                }
                _ if pushed > 0 => {
                    let seq = n as u64 % pushed;
                    let gone = started.contains(&seq) || recalled.contains(&seq);
                    prop_assert_eq!(shard.recall(PostId::new(1, Seq(seq))).is_some(), !gone);
                    if !gone {
                        recalled.push(seq);
                    }
                }
                _ => {}
            }
            prop_assert_eq!(shard.running(), running.len());
        }
        time += 1_000_000;
        while let Some(ended) = shard.poll_expired(now(time)) {
            running.retain(|(token, _)| *token != ended.token);
        }
        loop {
            start(&mut shard, time, &mut running, &mut started);
            let Some((token, _)) = running.pop() else { break };
            shard.finish(token);
        }
        let mut all: Vec<u64> = started.into_iter().chain(recalled).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..pushed).collect::<Vec<_>>());
    }
}
