//! apalis with SQLite: `peer-apalis-sqlite --posts N [--batch N]`
//!
//! Its own setup turns syncing off; here every commit is synced, as that of the others. With the index on the worker SQLite
//! chooses a plan for its acknowledgements that takes quadratic time; so that index is dropped.

#[path = "../../witness.rs"]
mod witness;

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePoolOptions, SqliteStorage};
use futures_util::Stream;
use tokio::time::MissedTickBehavior;
use witness::{Directory, Witness, argument, payload};

/// How often it looks for what is due.
const LOOK: Duration = Duration::from_millis(5);
/// Posts in one transaction while they are stored.
const STORE: usize = 10_000;

async fn broadcast(payload: String, witness: Data<Arc<Witness>>) -> Result<(), BoxDynError> {
    witness.call(payload.as_bytes());
    Ok(())
}

/// A beat that always leaves its waker behind. Its own interval, as its source reads, does not when a fetch takes longer
/// than that, and then waits for the heartbeat.
fn looks() -> impl Stream<Item = ()> + Unpin + Send + 'static {
    let mut beat = tokio::time::interval(LOOK);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    futures_util::stream::poll_fn(move |context| {
        let mut look = Poll::Pending;
        while beat.poll_tick(context).is_ready() {
            look = Poll::Ready(Some(()));
        }
        look
    })
}

fn main() -> Result<(), BoxDynError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), BoxDynError> {
    let posts = argument("--posts").unwrap_or(10_000);
    let batch = argument("--batch").unwrap_or(1_000);
    let witness = Witness::new(posts, 5_000);
    let directory = Directory::new("apalis-sqlite");
    let options = SqliteConnectOptions::new()
        .filename(directory.0.join("jobs.db"))
        .create_if_missing(true)
        .pragma("journal_mode", "WAL")
        .pragma("synchronous", "FULL")
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", "64000");
    let pool = SqlitePoolOptions::new().connect_with(options).await?;
    SqliteStorage::migrations().run(&pool).await?;
    sqlx::query("DROP INDEX LIdx").execute(&pool).await?;
    // What is fetched is marked as queued, durably; to lock it once more would add nothing.
    let config = Config::default().queue("posts").batch_size(batch).lock_tasks(false);
    let mut storage = SqliteStorage::<String>::new(&pool).with_config(config);
    for first in (0..posts).step_by(STORE) {
        let task = |number| TaskBuilder::new(payload(number)).run_at_time(witness.due()).build();
        let mut tasks = futures_util::stream::iter((first..posts.min(first + STORE)).map(task));
        storage.push_all(&mut tasks).await?;
    }
    witness.stored();
    let worker = WorkerBuilder::new("spike")
        .backend(storage.poll_with_stream(looks()))
        .data(Arc::clone(&witness))
        .build(broadcast);
    tokio::spawn(worker.run());

    let seen = Arc::clone(&witness);
    tokio::task::spawn_blocking(move || seen.wait_called()).await?;
    let count = "SELECT count(*) FROM Jobs WHERE status = 'Done'";
    while sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await? < posts as i64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    witness.finish("apalis-sqlite");
    Ok(())
}
