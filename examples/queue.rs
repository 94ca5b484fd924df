//! A queue in the terminal, as social media managers know it: posts wait in line, each takes the profile's next slot.
//!
//! ```text
//! queue slots 'Mon-Fri 08:00,17:30' --zone Europe/Berlin
//! queue push 'Fresh bread' 'Fresh rolls'
//! queue list
//! queue move 2 1      queue swap 1 2     queue shuffle     queue remove 1     queue pause     queue resume
//! queue run           publishes to the terminal until it is interrupted
//! queue demo          a week in a moment
//! ```

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};
use punctual::{
    Delivery, ManualClock, MemoryStore, Pool, Post, PostId, PostingSlots, Queue, Receipt, Scheduler, SledStore,
};

const POOL: &str = "terminal";

/// A queue of posts, kept on disk between calls.
#[derive(Parser)]
#[command(name = "queue")]
struct Args {
    /// Where the queue is kept
    #[arg(long, global = true, default_value_os_t = std::env::temp_dir().join("punctual-queue"))]
    store: PathBuf,
    /// Whose queue
    #[arg(long, global = true, default_value = "bakery")]
    profile: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Sets the slots, as in 'Mon-Fri 08:00,17:30; Sat 10:00; skip 2027-12-25'
    Slots {
        slots: String,
        #[arg(long, default_value = "UTC")]
        zone: String,
    },
    /// Puts posts at the end
    Push {
        #[arg(required = true)]
        posts: Vec<String>,
    },
    /// Puts a post at the front
    Front { post: String },
    /// Shows the posts and their slots
    List,
    /// Moves a post, by its position in the list, to another one
    Move { from: usize, to: usize },
    /// Lets two posts change places
    Swap { one: usize, other: usize },
    /// Mixes the posts
    Shuffle {
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Takes a post back
    Remove { position: usize },
    /// Lets slots pass without a post
    Pause,
    /// Goes on with the next slot
    Resume,
    /// Publishes until it is interrupted, or for so many seconds
    Run {
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Lives through a week in a moment
    Demo,
}

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn pool(zone: chrono_tz::Tz) -> Pool {
    Pool::new(POOL, move |delivery: Delivery| async move {
        let at = delivery.due().with_timezone(&zone).format("%a %d %b %H:%M");
        println!("{at}  published: {}", String::from_utf8_lossy(delivery.payload()));
        Ok(Receipt::default())
    })
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run(Args { store, profile, action }: Args) -> Outcome {
    if matches!(action, Action::Demo) {
        return demo();
    }
    let scheduler = Scheduler::builder().store(SledStore::open(store)?).pool(pool(chrono_tz::UTC)).start()?;
    let queue = scheduler.queue(POOL, &profile);
    act(&scheduler, &queue, action)?;
    Ok(scheduler.shutdown(Duration::from_secs(5)).wait()?)
}

fn act(scheduler: &Scheduler, queue: &Queue, action: Action) -> Outcome {
    match action {
        Action::Slots { slots, zone } => {
            queue.set_slots(format!("slots {zone} {slots}").parse::<PostingSlots>()?).wait()?;
        }
        Action::Push { posts } => {
            queue.push_all(posts.into_iter().map(|post| Post::new(POOL, post))).wait()?;
        }
        Action::Front { post } => {
            queue.push_front(Post::new(POOL, post)).wait()?;
        }
        Action::List | Action::Demo => {}
        Action::Move { from, to } => {
            let position = to.checked_sub(1).ok_or("positions count from 1")?;
            queue.move_to(post(queue, from)?, position).wait()?;
        }
        Action::Swap { one, other } => queue.swap(post(queue, one)?, post(queue, other)?).wait()?,
        Action::Shuffle { seed } => queue.shuffle(seed).wait()?,
        Action::Remove { position } => queue.remove(post(queue, position)?).wait()?,
        Action::Pause => queue.pause().wait()?,
        Action::Resume => queue.resume().wait()?,
        Action::Run { seconds } => {
            std::thread::sleep(seconds.map_or(Duration::MAX, Duration::from_secs));
            return Ok(());
        }
    }
    list(scheduler, queue)
}

/// The post at this position of the list, which counts from 1.
fn post(queue: &Queue, position: usize) -> Outcome<PostId> {
    let status = queue.status().wait()?.ok_or("there is no queue yet: set its slots first")?;
    let post = position.checked_sub(1).and_then(|at| status.posts().get(at));
    Ok(post.ok_or_else(|| format!("there is no position {position} among {} posts", status.posts().len()))?.id)
}

fn list(scheduler: &Scheduler, queue: &Queue) -> Outcome {
    let Some(status) = queue.status().wait()? else {
        println!("no queue yet: set its slots first");
        return Ok(());
    };
    let zone = status.slots().zone();
    println!("{}{}", status.slots(), if status.is_paused() { ", paused" } else { "" });
    for (at, post) in (1..).zip(status.posts()) {
        let text = scheduler.get(post.id).wait()?;
        let text = text.as_ref().map(|post| String::from_utf8_lossy(post.payload()).into_owned()).unwrap_or_default();
        let due = post.due.map_or("waits".to_owned(), |due| local(due, zone));
        println!("{at:>3}  {due:<17}  {text}");
    }
    Ok(())
}

fn local(at: DateTime<Utc>, zone: chrono_tz::Tz) -> String {
    at.with_timezone(&zone).format("%a %d %b %H:%M").to_string()
}

/// A week around the night in which the clocks go forward.
fn demo() -> Outcome {
    let zone = punctual::zone("Europe/Berlin")?;
    let clock = ManualClock::at("2027-03-26T12:00:00Z".parse()?);
    let scheduler = Scheduler::builder().store(MemoryStore::default()).clock(clock.clone()).pool(pool(zone)).start()?;
    let queue = scheduler.queue(POOL, "bakery");
    let slots = "Mon-Sat 07:00; Sun 02:30".to_owned();
    act(&scheduler, &queue, Action::Slots { slots, zone: zone.name().to_owned() })?;
    let posts = ["bread", "rolls", "cake", "pretzels", "cookies"].map(str::to_owned);
    act(&scheduler, &queue, Action::Push { posts: posts.to_vec() })?;
    println!("\nCake first, then shuffled; on Monday the shop is closed:");
    act(&scheduler, &queue, Action::Move { from: 3, to: 1 })?;
    act(&scheduler, &queue, Action::Shuffle { seed: 7 })?;
    let slots = "Mon-Sat 07:00; Sun 02:30; skip 2027-03-29".to_owned();
    act(&scheduler, &queue, Action::Slots { slots, zone: zone.name().to_owned() })?;
    println!();
    let listed = queue.status().wait()?.map(|status| status.posts().to_vec()).unwrap_or_default();
    for _ in 0..7 * 24 * 2 {
        clock.advance(Duration::from_secs(1_800));
        scheduler.settle().wait()?;
    }
    let left = queue.status().wait()?.map_or(0, |status| status.posts().len());
    println!("{} published, each in its slot; {left} left", listed.len());
    if left > 0 {
        return Err("posts are left although their slots have come".into());
    }
    Ok(scheduler.shutdown(Duration::from_secs(5)).wait()?)
}
