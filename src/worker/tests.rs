use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::*;
use crate::clock::ManualClock;
use crate::gate::Rules;
use crate::inbox::inbox;
use crate::pool::DynBroadcaster;
use crate::post::{Post, Receipt};
use crate::shard::model::{dated, number};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Keeps what it is to call, and makes no call by itself.
#[derive(Debug)]
pub struct Hands {
    calls: Mutex<Vec<Call>>,
    waiting: AtomicUsize,
    stopping: watch::Sender<bool>,
}

impl Hands {
    pub fn new() -> Self {
        Self { calls: Mutex::default(), waiting: AtomicUsize::new(0), stopping: watch::channel(false).0 }
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap()
    }
}

impl Callers for Hands {
    fn call(&self, call: Call) {
        self.calls().push(call);
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn look(&self) -> Option<Duration> {
        None
    }

    fn stop(&self) {}

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}

/// A log that cannot be written, nor taken away.
#[derive(Debug)]
struct Stuck;

impl CallLog for Stuck {
    fn calling(&self, _: &[(Seq, u32)]) -> bool {
        false
    }
}

/// A worker at its desk, with what is at the other end of everything.
struct Bed {
    desk: Desk,
    orders: Slot<Order>,
    reports: Inbox<Report>,
    hands: Arc<Hands>,
    clock: ManualClock,
    runtime: Runtime,
}

impl Bed {
    fn new(concurrency: usize, log: Option<Arc<dyn CallLog>>) -> Self {
        let (bell, hands) = (Bell::default(), Arc::new(Hands::new()));
        let (orders_in, orders) = inbox(16, &bell);
        let (reports, reports_out) = inbox(16, &Bell::default());
        let gate = Gate::new("p", Rules::default());
        let worker = Worker {
            place: 0,
            number: 0,
            shard: Shard::new(concurrency, TIMEOUT, gate.clone()),
            gate,
            concurrency,
            timeout: TIMEOUT,
            log,
            orders,
            reports,
            bell,
            callers: Arc::clone(&hands) as Arc<dyn Callers>,
        };
        let clock = ManualClock::at(Timestamp::from_millis(0).to_datetime());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { desk: Desk::new(worker), orders: orders_in, reports: reports_out, hands, clock, runtime }
    }

    /// Hands over so many posts that are due.
    fn deliver(&self, posts: u64) {
        let deliveries = (0..posts).map(|seq| dated(seq, 0, None, &Post::new("p", "x"))).collect();
        self.orders.put(Order::Deliver(deliveries)).unwrap();
    }

    fn turn(&mut self) -> Next {
        self.desk.turn(&self.clock)
    }

    fn report(&self) -> Option<Report> {
        match self.reports.take() {
            Take::Message(report) => Some(report),
            Take::Empty | Take::Deserted => None,
        }
    }

    /// Makes one of the calls; it waits once, and then it is published.
    fn make_call(&self) {
        let broadcaster = |_| async {
            tokio::task::yield_now().await;
            Ok(Receipt::default())
        };
        let broadcaster: Arc<dyn DynBroadcaster> = Arc::new(broadcaster);
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let call = self.hands.calls().pop().unwrap();
        call.make(&broadcaster, &clock, self.runtime.handle());
    }

    /// Goes on with the calls that wait, until all have ended.
    fn run_calls(&self) {
        self.runtime.block_on(async {
            while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
                tokio::task::yield_now().await;
            }
        });
    }
}

#[test]
fn what_cannot_be_noted_is_not_called_and_given_back_when_its_time_is_out() {
    let mut bed = Bed::new(8, Some(Arc::new(Stuck)));
    bed.deliver(1);
    bed.turn();
    assert!(bed.hands.calls().is_empty());
    bed.report();
    bed.clock.advance(TIMEOUT);
    bed.turn();
    let report = bed.report().unwrap();
    assert_eq!(report.returned.iter().map(|(delivery, _)| number(delivery)).collect::<Vec<_>>(), [0]);
    assert!(report.ended.is_empty());
}

#[test]
fn so_many_are_started_at_once_and_then_it_is_looked_again() {
    let mut bed = Bed::new(2 * START, None);
    bed.deliver(START as u64 + 1);
    assert!(matches!(bed.turn(), Next::Again));
    assert_eq!(bed.hands.calls().len(), START);
    assert!(matches!(bed.turn(), Next::Wait(_)));
    assert_eq!(bed.hands.calls().len(), START + 1);
}

#[test]
fn so_much_is_reported_at_once_and_then_it_is_looked_again() {
    use crate::post::Wire;
    let mut bed = Bed::new(8, None);
    (0..=REPORT).for_each(|_| bed.desk.port.beat((0, 1), None));
    assert!(matches!(bed.turn(), Next::Again));
    assert_eq!(bed.desk.said.len(), 1);
    assert!(matches!(bed.turn(), Next::Wait(_)));
}

#[test]
fn an_order_to_look_anew_is_counted_as_taken() {
    let mut bed = Bed::new(8, None);
    bed.orders.put(Order::Deliver(vec![dated(0, 5_000, None, &Post::new("p", "x"))])).unwrap();
    let taken = |bed: &mut Bed| {
        bed.turn();
        bed.report().map(|report| (report.taken, report.blocked_until))
    };
    let due = Some(Timestamp::from_millis(5_000));
    assert_eq!(taken(&mut bed), Some((1, due)));
    assert_eq!(taken(&mut bed), None, "that is no news");
    bed.orders.put(Order::Look).unwrap();
    assert_eq!(taken(&mut bed), Some((2, due)));
}

#[test]
fn a_call_that_has_waited_and_ended_leaves_nothing_behind() {
    let mut bed = Bed::new(8, None);
    bed.deliver(2);
    bed.turn();
    bed.report();
    (0..2).for_each(|_| bed.make_call());
    bed.turn();
    assert_eq!((bed.desk.waiting.len(), bed.report().is_none()), (2, true));
    bed.run_calls();
    bed.turn();
    assert_eq!((bed.desk.waiting.len(), bed.report().unwrap().ended.len()), (0, 2));
}

#[test]
fn who_has_answers_lets_others_go_first_while_many_calls_wait_for_a_thread() {
    for (waiting, ends, yields) in [(PLENTY, true, true), (PLENTY - 1, true, false), (PLENTY, false, false)] {
        let mut bed = Bed::new(8, None);
        bed.deliver(1);
        bed.turn();
        bed.make_call();
        bed.turn();
        bed.hands.waiting.store(waiting, Ordering::Relaxed);
        if ends {
            bed.run_calls();
        }
        assert_eq!(matches!(bed.turn(), Next::Yield), yields, "{waiting} wait");
    }
}
