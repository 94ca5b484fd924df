//! The host's handle to a campaign.

use crate::engine::{Command, SchedulePromise, Weight};
use crate::error::Error;
use crate::id::PostId;
use crate::limits;
use crate::post::{CampaignStatus, Post};
use crate::reply::Reply;

use super::Scheduler;

/// A campaign: posts that belong together, such as the letters of one issue. They are counted and cancelled as a whole; in
/// everything else each is a post as any other. To spread them over a window, see
/// [`Pacing`](crate::Pacing).
///
/// ```
/// # use punctual::{MemoryStore, Pool, Receipt, Scheduler};
/// use punctual::Post;
///
/// # let broadcaster = |_| async { Ok(Receipt::default()) };
/// # let scheduler = Scheduler::builder().store(MemoryStore::default()).pool(Pool::new("mail", broadcaster)).start()?;
/// let campaign = scheduler.campaign("digest of 2027-01-04");
/// let due = chrono::Utc::now() + chrono::TimeDelta::hours(1);
/// campaign.schedule_all((0..1_000).map(|n| Post::new("mail", format!("letter {n}")).at(due))).wait()?;
/// campaign.cancel().wait()?;
/// let status = campaign.status().wait()?.unwrap();
/// assert_eq!((status.scheduled, status.cancelled, status.left), (1_000, 1_000, 0));
/// # Ok::<(), punctual::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Campaign {
    scheduler: Scheduler,
    name: String,
}

impl Scheduler {
    /// The campaign of this name: 1 to 255 bytes. It begins with the first posts that are scheduled with it, and is
    /// remembered until nothing has been left of it for the retention.
    pub fn campaign(&self, name: &str) -> Campaign {
        Campaign { scheduler: self.clone(), name: name.to_owned() }
    }
}

impl Campaign {
    /// As [`Scheduler::schedule_all`], for posts of this campaign. Call it as often as needed for larger ones. Posts whose
    /// keys are known are not counted again.
    ///
    /// # Errors
    /// As [`Scheduler::schedule_all`]; [`Error::CampaignCancelled`], and [`Error::InvalidName`] for the campaign's name.
    pub fn schedule_all(&self, posts: impl IntoIterator<Item = Post>) -> Reply<Vec<PostId>> {
        let (bytes, max) = (self.name.len(), limits::NAME_BYTES);
        if bytes == 0 || bytes > max {
            return Reply::given(Err(Error::InvalidName { what: "campaign", bytes, max }));
        }
        let own = |mut post: Post| {
            post.campaign = Some(self.name.clone());
            post
        };
        let posts = match self.scheduler.plan_all(posts.into_iter().map(own)) {
            Ok(posts) if posts.is_empty() => return Reply::given(Ok(Vec::new())),
            Ok(posts) => posts,
            Err(error) => return Reply::given(Err(error)),
        };
        let bytes = posts.iter().map(|post| post.body.len()).sum();
        let Some(weight) = Weight::add(&self.scheduler.shared.waiting, bytes, limits::COMMANDS_BYTES) else {
            return Reply::given(Err(Error::Overloaded));
        };
        let campaign = Some(self.name.as_str().into());
        self.scheduler.send(|promise| {
            let (promise, posts) = SchedulePromise::unique(promise, posts);
            Command::Schedule { posts, campaign, promise, _weight: weight }
        })
    }

    /// Cancels whatever of the campaign has not been sent. `Ok` means that it will not be, durably, however many posts that
    /// are; what broadcasters are being called for at this moment ends as it may. What may have been published before, and
    /// nobody knows, is not sent again: it is held in doubt ([`Scheduler::in_doubt`]). The campaign takes no more posts.
    ///
    /// # Errors
    /// [`Error::NoCampaign`] and the scheduler's own troubles.
    pub fn cancel(&self) -> Reply<()> {
        let name = self.name.clone();
        self.scheduler.send(|promise| Command::CancelCampaign { name, promise })
    }

    /// How far the campaign has got; `None` if there is none of this name.
    ///
    /// # Errors
    /// The scheduler's own troubles.
    pub fn status(&self) -> Reply<Option<CampaignStatus>> {
        let name = self.name.clone();
        self.scheduler.send(|promise| Command::ShowCampaign { name, promise })
    }

    /// The campaign's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
