//! What it takes to change a long queue, and to schedule a campaign that is spread over three hours; beside the least that
//! a durable change can take. `cargo bench --bench queue`

mod common;

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use common::goals::{Goal, Goals};
use common::host::{Engine, POOL};
use common::late::Late;
use common::{is_short, median};
use punctual::{Pool, Post, PostingSlots, Queue};

const QUEUED: usize = 10_000;

/// Milliseconds that this takes, by its median.
fn millis(rounds: usize, mut step: impl FnMut(usize)) -> f64 {
    let took = |round: usize| {
        let started = Instant::now();
        step(round);
        started.elapsed().as_secs_f64() * 1_000.0
    };
    median((0..rounds).map(took).collect())
}

fn slots(text: &str) -> PostingSlots {
    text.parse().expect("these are slots")
}

fn queue(engine: &Engine, profile: &str, posts: usize) -> Queue {
    let queue = engine.scheduler.queue(POOL, profile);
    queue.set_slots(slots("slots Europe/Berlin Mon-Fri 08:00,17:30")).wait().expect("slots are taken");
    let posts = (0..posts).map(|number| Post::new(POOL, number.to_string().repeat(40)));
    queue.push_all(posts).wait().expect("posts are taken");
    queue
}

fn main() {
    let (rounds, campaign) = if is_short() { (5, 60_000) } else { (51, 600_000) };
    let engine = Engine::start([Pool::new(POOL, Late::default().broadcaster())]);
    let (long, short) = (queue(&engine, "long", QUEUED), queue(&engine, "short", 1));
    let ids: Vec<_> = long.status().wait().expect("it is there").expect("there is a queue").posts().to_vec();
    let other = ["slots America/New_York Mon-Sun 07:15,12:00", "slots Europe/Berlin Mon-Fri 08:00,17:30"].map(slots);

    // Taking turns, so that all see the same machine.
    let floor = || millis(rounds, |round| short.warn_ahead(Duration::from_secs(round as u64)).wait().expect("done"));
    let before = floor();
    let retime = millis(rounds, |round| long.set_slots(other[round % 2].clone()).wait().expect("done"));
    let shift = millis(rounds, |round| long.move_to(ids[QUEUED - 1 - round].id, 0).wait().expect("done"));
    let shuffle = millis(rounds, |round| long.shuffle(round as u64).wait().expect("done"));
    let push = millis(rounds, |_| _ = long.push(Post::new(POOL, "x")).wait().expect("done"));
    let list = millis(rounds, |_| _ = long.status().wait().expect("done"));
    let floor = before.min(floor());

    let (start, window) = (Utc::now() + TimeDelta::hours(1), TimeDelta::hours(3));
    let digest = engine.scheduler.campaign("digest");
    let started = Instant::now();
    for first in (0..campaign).step_by(100_000) {
        let due = |number: usize| start + window * number as i32 / campaign as i32;
        let letters = (first..campaign.min(first + 100_000)).map(|number| Post::new(POOL, "letter").at(due(number)));
        digest.schedule_all(letters).wait().expect("letters are taken");
    }
    let scheduled = started.elapsed().as_secs_f64();
    assert_eq!(digest.status().wait().expect("it is there").map(|status| status.left), Some(campaign as u64));
    let started = Instant::now();
    digest.cancel().wait().expect("it is cancelled");
    let cancelled = started.elapsed().as_secs_f64() * 1_000.0;
    engine.stop();

    println!("a durable change of a queue of one post: {floor:.2} ms");
    for (what, took) in
        [("re-time", retime), ("move the last to the front", shift), ("shuffle", shuffle), ("push", push)]
    {
        println!("queue of {QUEUED}: {what}: {took:.2} ms, {:.1} times that", took / floor);
    }
    println!("queue of {QUEUED}: list: {list:.2} ms");
    println!("{campaign} letters over three hours: scheduled in {scheduled:.2} s, cancelled in {cancelled:.1} ms");
    let mut goals = Goals::default();
    goals.add(format!("re-time a queue of {QUEUED}: ms"), retime, Goal::AtMost(20.0));
    goals.add("600,000 letters: s", scheduled * 600_000.0 / campaign as f64, Goal::AtMost(5.0));
    goals.print();
}
