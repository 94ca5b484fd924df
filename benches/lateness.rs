//! How late is a post? A thousand and a hundred thousand posts spread over half a minute, and a steady twenty thousand
//! a second. Beside it the floor: a thread that waits for each of these instants as the engine does, by sleeping and
//! then spinning for the end of it, and does nothing else. They take turns.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use common::goals::{Goal, Goals};
use common::host::{self, Engine, POOL};
use common::late::{self, Late};
use common::{is_short, scattered};
use punctual::Pool;

const ROUNDS: usize = 2;
/// Until the first post is due: all are stored by then.
const AHEAD: Duration = Duration::from_secs(4);
/// The end of a wait that the engine spins for.
const SPIN: Duration = Duration::from_micros(70);

/// When posts are due, from the first instant on; whole milliseconds, as dues are.
struct Load {
    name: &'static str,
    dues: Vec<Duration>,
}

impl Load {
    fn spread(name: &'static str, posts: usize, seconds: u64) -> Self {
        let mut dues: Vec<_> =
            (0..posts).map(|number| Duration::from_millis(scattered(number) % (seconds * 1_000))).collect();
        dues.sort_unstable();
        Self { name, dues }
    }

    fn steady(name: &'static str, per_second: u64, seconds: u64) -> Self {
        let due = |number| Duration::from_millis(number * 1_000 / per_second);
        Self { name, dues: (0..per_second * seconds).map(due).collect() }
    }

    /// The same load within a second or so.
    fn short(self) -> Self {
        let dues = self.dues.into_iter().step_by(10).map(|due| due / 10);
        Self { dues: dues.map(|due| Duration::from_millis(due.as_millis() as u64)).collect(), ..self }
    }

    fn floor(&self) -> Vec<i64> {
        let late = Late::with_room(self.dues.len());
        let start = host::ahead(Duration::from_millis(100));
        for due in &self.dues {
            wait(start + *due);
            late.note(start + *due);
        }
        late.take(self.dues.len())
    }

    fn punctual(&self) -> Vec<i64> {
        let late = Late::with_room(self.dues.len());
        let engine = Engine::start([Pool::new(POOL, late.broadcaster())]);
        let start = host::ahead(AHEAD);
        host::schedule(&engine.scheduler, 0..self.dues.len(), |number| start + self.dues[number]);
        assert!(Utc::now() < start, "this machine is too slow to store them in time");
        let late = late.take(self.dues.len());
        engine.stop();
        late
    }
}

/// As the engine's clock does.
fn wait(until: DateTime<Utc>) {
    let end = Instant::now() + (until - Utc::now()).to_std().unwrap_or_default();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left <= SPIN {
            break;
        }
        thread::park_timeout(left - SPIN);
    }
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

fn main() {
    let loads = [
        Load::spread("1,000 posts over 30 s", 1_000, 30),
        Load::spread("100,000 posts over 30 s", 100_000, 30),
        Load::steady("20,000 a second for 10 s", 20_000, 10),
    ];
    let loads = loads.map(|load| if is_short() { load.short() } else { load });
    let all = loads.map(|load| {
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..if is_short() { 1 } else { ROUNDS } {
            floor.extend(load.floor());
            ours.extend(load.punctual());
        }
        late::print_heading(load.name);
        late::print("floor: a thread that only waits", &floor);
        late::print("punctual", &ours);
        assert_eq!(late::early(&ours), 0, "early");
        [floor, ours].map(|late| late::histogram(&late))
    });
    let [[floor, light], _, [_, steady]] =
        all.map(|row| row.map(|late| [0.5, 0.99, 0.999].map(|quantile| late.value_at_quantile(quantile) as f64)));
    let mut goals = Goals::default();
    goals.add("light load: p50 above the floor's, µs", light[0] - floor[0], Goal::AtMost(100.0));
    goals.add("light load: p99, µs", light[1], Goal::AtMost(1_000.0));
    goals.add("20,000 a second: p99, µs", steady[1], Goal::AtMost(5_000.0));
    goals.add("20,000 a second: p99.9, µs", steady[2], Goal::AtMost(20_000.0));
    goals.print();
}
