//! What is seen while it runs. Silent where one line of JSON is wanted; bars only on a terminal.

use std::convert::Infallible;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::ledger::{Ledger, wall_millis};
use crate::plan::Plan;

const REFRESH: Duration = Duration::from_millis(100);
const BAR: &str = "{prefix:>16} {bar:40.cyan/black} {human_pos} of {human_len}";

pub struct Screen {
    quiet: bool,
}

impl Screen {
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub fn say(&self, text: &str) {
        if !self.quiet {
            // A reader that has gone away, such as `head`, is no reason to stop.
            let _ = writeln!(io::stdout(), "{text}");
        }
    }

    /// A bar for the posts that are being stored; it goes away when dropped.
    pub fn storing(&self, posts: usize) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(posts as u64), self.target()).with_prefix("storing");
        bar.with_style(style(BAR))
    }

    /// Shows how far each pool is, until dropped.
    pub async fn follow(&self, plan: &Plan, ledger: &Ledger) -> Infallible {
        let bars = MultiProgress::with_draw_target(self.target());
        let headline = bars.add(ProgressBar::new_spinner().with_style(style("{msg}")));
        let bar = |(pool, posts): (&String, u64)| match posts {
            0 => ProgressBar::hidden(),
            _ => bars.add(ProgressBar::new(posts).with_prefix(pool.clone()).with_style(style(BAR))),
        };
        let pools: Vec<_> = plan.pools.iter().zip(plan.lived_by_pool()).map(bar).collect();
        let mut ticks = tokio::time::interval(REFRESH);
        loop {
            ticks.tick().await;
            headline.set_message(headline_now(plan, ledger));
            for (bar, sent) in pools.iter().zip(ledger.sent()) {
                bar.set_position(sent);
            }
        }
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
    }
}

fn headline_now(plan: &Plan, ledger: &Ledger) -> String {
    let (until, running) = (plan.busiest - wall_millis(), HumanCount(ledger.running().unsigned_abs()));
    match ledger.missing() {
        0 => format!("all posts of the window sent, {running} broadcasters still at work"),
        _ if until > 0 => format!("the busiest minute begins in {:.1} s", until as f64 / 1e3),
        missing => format!("{} posts of the window to come, {running} broadcasters at work", HumanCount(missing)),
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are fixed and right; a plain bar is only the fallback that the type asks for.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
