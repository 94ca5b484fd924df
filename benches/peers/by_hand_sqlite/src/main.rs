//! The table that a good engineer writes by hand: one process, WAL, every commit synced, claims and outcomes in large
//! batches. `by-hand-sqlite --posts N [--batch N]`

#[path = "../../witness.rs"]
mod witness;

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use rusqlite::types::Value;
use rusqlite::vtab::array;
use rusqlite::{Connection, Result, params};
use witness::{Directory, Witness, argument, payload};

const WORKERS: usize = 2;
/// Posts that one worker gets at once.
const CHUNK: usize = 500;
/// Batches under way, so that the workers have one while the next is claimed.
const AHEAD: usize = 2;
/// Posts in one transaction while they are stored.
const STORE: usize = 20_000;

/// What changes lies apart from the payloads, so that a claim and an outcome write few pages; the index holds only what
/// waits. The log is written back when it has reached 256 MiB.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA cache_size = -262144;
    PRAGMA wal_autocheckpoint = 65536;
    CREATE TABLE payloads (id INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
    CREATE TABLE posts (id INTEGER PRIMARY KEY, due INTEGER NOT NULL, state INTEGER NOT NULL) STRICT;
    CREATE INDEX due ON posts (due) WHERE state = 0;";
const STORE_PAYLOAD: &str = "INSERT INTO payloads (id, payload) VALUES (?1, ?2)";
const STORE_POST: &str = "INSERT INTO posts (id, due, state) VALUES (?1, ?2, 0)";
const CLAIM: &str = "
    UPDATE posts SET state = 1
    WHERE id IN (SELECT id FROM posts WHERE state = 0 AND due <= ?1 ORDER BY due LIMIT ?2)
    RETURNING id, (SELECT payload FROM payloads WHERE payloads.id = posts.id)";
const RECORD: &str = "UPDATE posts SET state = 2 WHERE id IN rarray(?1)";

/// Posts for one worker; their payloads lie one after the other.
#[derive(Default)]
struct Chunk {
    ids: Vec<i64>,
    ends: Vec<usize>,
    payloads: Vec<u8>,
}

fn main() -> Result<()> {
    let posts = argument("--posts").unwrap_or(100_000);
    let batch = argument("--batch").unwrap_or(20_000);
    let witness = Witness::new(posts, 250_000);
    let directory = Directory::new("by-hand-sqlite");
    let mut table = open(&directory.0.join("posts.db"))?;
    let due = seconds(&witness);
    store(&mut table, posts, due)?;
    witness.stored();

    let (work, taken) = crossbeam_channel::unbounded();
    let (done, ended) = crossbeam_channel::unbounded();
    for _ in 0..WORKERS {
        let (witness, taken, done) = (Arc::clone(&witness), taken.clone(), done.clone());
        thread::spawn(move || broadcast(&witness, &taken, &done));
    }
    witness.sleep();
    dispatch(&mut table, due, batch, &work, &ended)?;
    witness.wait_called();
    witness.finish("by-hand SQLite");
    let recorded: i64 = table.query_row("SELECT count(*) FROM posts WHERE state = 2", [], |row| row.get(0))?;
    assert_eq!(recorded, posts as i64);
    Ok(())
}

fn seconds(witness: &Witness) -> i64 {
    witness.due().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}

fn open(path: &Path) -> Result<Connection> {
    let table = Connection::open(path)?;
    array::load_module(&table)?;
    table.execute_batch(SCHEMA)?;
    Ok(table)
}

fn store(table: &mut Connection, posts: usize, due: i64) -> Result<()> {
    for first in (0..posts).step_by(STORE) {
        let transaction = table.transaction()?;
        {
            let mut store_payload = transaction.prepare_cached(STORE_PAYLOAD)?;
            let mut store_post = transaction.prepare_cached(STORE_POST)?;
            for number in first..posts.min(first + STORE) {
                store_payload.execute(params![number as i64, payload(number).as_bytes()])?;
                store_post.execute(params![number as i64, due])?;
            }
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Claims, hands over and records until nothing is left. One transaction records what has ended and claims what is
/// next, so that they share its sync.
fn dispatch(
    table: &mut Connection,
    now: i64,
    batch: usize,
    work: &Sender<Chunk>,
    ended: &Receiver<Vec<i64>>,
) -> Result<()> {
    let (mut under_way, mut more) = (VecDeque::new(), true);
    while more || !under_way.is_empty() {
        let mut done = Vec::new();
        if !more || under_way.len() == AHEAD {
            let first = under_way.pop_front().unwrap_or_default();
            while done.len() < first {
                done.extend(ended.recv().expect("the workers are there").into_iter().map(Value::from));
            }
        }
        let transaction = table.transaction()?;
        if !done.is_empty() {
            transaction.prepare_cached(RECORD)?.execute([Rc::new(done)])?;
        }
        let claimed = if more { claim(&transaction, now, batch)? } else { Vec::new() };
        transaction.commit()?;
        let posts: usize = claimed.iter().map(|chunk| chunk.ids.len()).sum();
        more = posts == batch;
        if posts > 0 {
            under_way.push_back(posts);
        }
        claimed.into_iter().for_each(|chunk| work.send(chunk).expect("the workers are there"));
    }
    Ok(())
}

fn claim(table: &Connection, now: i64, batch: usize) -> Result<Vec<Chunk>> {
    let mut claim = table.prepare_cached(CLAIM)?;
    let mut rows = claim.query(params![now, batch as i64])?;
    let mut chunks: Vec<Chunk> = Vec::new();
    while let Some(row) = rows.next()? {
        if chunks.last().is_none_or(|chunk| chunk.ids.len() == CHUNK) {
            chunks.push(Chunk::default());
        }
        if let Some(chunk) = chunks.last_mut() {
            chunk.ids.push(row.get(0)?);
            chunk.payloads.extend_from_slice(row.get_ref(1)?.as_blob()?);
            chunk.ends.push(chunk.payloads.len());
        }
    }
    Ok(chunks)
}

fn broadcast(witness: &Witness, taken: &Receiver<Chunk>, done: &Sender<Vec<i64>>) {
    for Chunk { ids, ends, payloads } in taken {
        let mut start = 0;
        for end in ends {
            witness.call(&payloads[start..end]);
            start = end;
        }
        if done.send(ids).is_err() {
            return;
        }
    }
}
