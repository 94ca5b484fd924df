//! The host's handle to a series.

use crate::engine::{Command, SeriesWish};
use crate::error::{Error, Result};
use crate::limits;
use crate::post::{Misfire, Post, SeriesStatus};
use crate::reply::Reply;
use crate::schedule::Schedule;

use super::Scheduler;

/// A series: a post that is due again and again, by a [`Schedule`]. Each occurrence is a post of its own, with its own id,
/// attempts and outcome.
///
/// Occurrences are planned a minute before their due (earlier where they are prepared ahead), each in the commit that
/// remembers that it is: none twice and none left out, whatever dies in between.
///
/// ```
/// # use punctual::{MemoryStore, Pool, Receipt, Scheduler};
/// use punctual::{Misfire, Post, Schedule};
///
/// # let broadcaster = |_| async { Ok(Receipt::default()) };
/// # let scheduler = Scheduler::builder().store(MemoryStore::default()).pool(Pool::new("mail", broadcaster)).start()?;
/// let schedule: Schedule = "slots Europe/Berlin Mon 08:00".parse()?;
/// let series = scheduler.series("weekly letter");
/// series.set(schedule, Post::new("mail", "letter"), Misfire::Latest).wait()?;
/// assert!(series.status().wait()?.unwrap().next().is_some());
/// series.end().wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Series {
    scheduler: Scheduler,
    key: String,
}

impl Scheduler {
    /// The series that the host knows by this key: 1 to 255 bytes.
    pub fn series(&self, key: &str) -> Series {
        Series { scheduler: self.clone(), key: key.to_owned() }
    }

    /// The keys of all series that there are, in alphabetical order.
    ///
    /// # Errors
    /// The scheduler's own troubles.
    pub fn all_series(&self) -> Reply<Vec<String>> {
        self.send(|promise| Command::AllSeries { promise })
    }
}

impl Series {
    /// Lets a post like this one be due whenever the schedule says, from now on. Makes the series, or changes it: what is
    /// claimed already (by default in the last two seconds before its due) goes out as it is, and so does what is late; what
    /// is still to come and not claimed is cancelled and planned anew.
    ///
    /// # Errors
    /// As [`Scheduler::schedule`]; [`Error::NotForSeries`] for a post with a due or a key of its own, or a schedule that
    /// never comes again; [`Error::InvalidName`] for the series' key.
    pub fn set(&self, schedule: impl Into<Schedule>, post: Post, misfire: Misfire) -> Reply<()> {
        let schedule = Box::new(schedule.into());
        match self.check(&schedule, &post).and_then(|()| self.scheduler.plan(&post)) {
            Ok(post) => self.wish(|promise| SeriesWish::Set { schedule, misfire, post: Box::new(post), promise }),
            Err(error) => Reply::given(Err(error)),
        }
    }

    fn check(&self, schedule: &Schedule, post: &Post) -> Result<()> {
        let bytes = self.key.len();
        if bytes == 0 || bytes > limits::NAME_BYTES {
            return Err(Error::InvalidName { what: "series", bytes, max: limits::NAME_BYTES });
        }
        let what = if post.due.is_some() {
            "post has a due: leave that out"
        } else if post.key.is_some() {
            "post has a key, which one post alone can have: leave that out"
        } else if schedule.next_after(self.scheduler.shared.clock.wall().to_datetime()).is_none() {
            "schedule never comes again: give it one that does"
        } else {
            return Ok(());
        };
        Err(Error::NotForSeries { key: self.key.clone(), what })
    }

    /// Ends the series: nothing more is planned. What is claimed already goes out, what is planned and not claimed is
    /// cancelled: what is still to come, and of what is late and waits for a limit or a paused pool the last 1,000. What is
    /// on the shelf of a held profile stays there.
    ///
    /// # Errors
    /// [`Error::NoSeries`] and the scheduler's own troubles.
    pub fn end(&self) -> Reply<()> {
        self.wish(|promise| SeriesWish::End { promise })
    }

    /// What is known of the series; `None` if there is none, or if it has come to its end.
    ///
    /// # Errors
    /// The scheduler's own troubles.
    pub fn status(&self) -> Reply<Option<SeriesStatus>> {
        let key = self.key.clone();
        self.scheduler.send(|promise| Command::ShowSeries { key, promise })
    }

    fn wish(&self, wish: impl FnOnce(crate::reply::Promise<()>) -> SeriesWish) -> Reply<()> {
        let key = self.key.clone();
        self.scheduler.send(|promise| Command::Series { key, wish: wish(promise) })
    }
}
