//! Figures beside what they should be.

use std::fmt::{self, Display};

/// A table of figures and goals, printed when it is complete.
#[derive(Default)]
pub struct Goals(Vec<(String, f64, Goal)>);

#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

use Goal::{AtLeast, AtMost};

impl Goal {
    fn is_reached(self, figure: f64) -> bool {
        match self {
            AtLeast(least) => figure >= least,
            AtMost(most) => figure <= most,
        }
    }
}

impl Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtLeast(least) => write!(f, "at least {least}"),
            AtMost(most) => write!(f, "at most {most}"),
        }
    }
}

impl Goals {
    pub fn add(&mut self, what: impl Into<String>, figure: f64, goal: Goal) {
        self.0.push((what.into(), figure, goal));
    }

    pub fn print(&self) {
        println!("\n{:64} {:>10}   goal", "", "reached");
        for (what, figure, goal) in &self.0 {
            let missed = if goal.is_reached(*figure) { "" } else { "   missed" };
            println!("{what:64} {figure:10.3}   {goal}{missed}");
        }
    }
}
