//! effectum: `peer-effectum --posts N [--concurrency N]`
//!
//! It opens its database with synchronous = NORMAL, so a loss of power may lose what it has answered for; and by a
//! misspelt pragma without a write-ahead log, which is set here before.

#[path = "../../witness.rs"]
mod witness;

use std::sync::Arc;
use std::time::Duration;

use effectum::{Error, Job, JobRunner, Queue, RunningJob, Worker};
use time::OffsetDateTime;
use witness::{Directory, Witness, argument, payload};

/// Posts in one call while they are stored.
const STORE: usize = 10_000;

/// What the job is called with; effectum wants to print it.
#[derive(Clone)]
struct Context(Arc<Witness>);

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context")
    }
}

async fn broadcast(job: RunningJob, Context(witness): Context) -> Result<(), Error> {
    witness.call(&job.payload);
    Ok(())
}

fn main() -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(run())
}

async fn run() -> Result<(), Error> {
    let posts = argument("--posts").unwrap_or(10_000);
    let concurrency = argument("--concurrency").unwrap_or(1_000) as u16;
    let witness = Witness::new(posts, 20_000);
    let directory = Directory::new("effectum");
    let path = directory.0.join("jobs.db");
    let database = rusqlite::Connection::open(&path).expect("a database");
    let mode = database.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
    assert_eq!(mode.as_deref(), Ok("wal"));
    drop(database);

    let queue = Queue::new(&path).await?;
    let due = OffsetDateTime::from(witness.due());
    for first in (0..posts).step_by(STORE) {
        let job = |number| Job::builder("post").payload(payload(number).into_bytes()).run_at(due).build();
        queue.add_jobs((first..posts.min(first + STORE)).map(job).collect()).await?;
    }
    witness.stored();
    let worker = Worker::builder(&queue, Context(Arc::clone(&witness)))
        .max_concurrency(concurrency)
        .min_concurrency(concurrency / 2)
        .jobs([JobRunner::builder("post", broadcast).build()])
        .build()
        .await?;
    // It counts a job as finished when that is written.
    while worker.counts().finished < posts as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    witness.wait_called();
    witness.finish("effectum");
    Ok(())
}
