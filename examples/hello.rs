use punctual::{Delivery, Pool, Post, Receipt, Scheduler, SledStore};
use std::time::Duration;

#[tokio::main]
async fn main() -> punctual::Result<()> {
    let console = |post: Delivery| async move {
        println!("{}", String::from_utf8_lossy(post.payload()));
        Ok(Receipt::default())
    };
    let store = SledStore::open(std::env::temp_dir().join("punctual-hello"))?;
    let scheduler = Scheduler::builder().store(store).pool(Pool::new("console", console)).start()?;

    let due = chrono::Utc::now() + Duration::from_secs(2);
    let id = scheduler.schedule(Post::new("console", "Hello, world").at(due)).await?;
    println!("{:?}", scheduler.outcome(id).await?);
    scheduler.shutdown(Duration::from_secs(5)).await
}
