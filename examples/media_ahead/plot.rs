//! The chart: how many of the posts were published how long after their due.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::Run;

const SIZE: (u32, u32) = (960, 480);
const INK: RGBColor = RGBColor(0x22, 0x2b, 0x36);
const FAINT: RGBColor = RGBColor(0xe3, 0xe7, 0xec);
const WITHOUT: RGBColor = RGBColor(0xd6, 0x6b, 0x27);
const WITH: RGBColor = RGBColor(0x1f, 0x77, 0xb4);

pub fn draw(path: &Path, without: &Run, with: &Run) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&INK);
    area.draw_text("When the posts of 8:00 were published", &text(24), (80, 20))?;
    let last = without.after_due.iter().chain(&with.after_due).max().copied().unwrap_or_default();
    let seconds = last as f64 / 1_000.0 + 2.0;
    let low = 80.0;
    let mut chart = ChartBuilder::on(&area)
        .margin_top(70)
        .margin_left(15)
        .margin_right(30)
        .x_label_area_size(50)
        .y_label_area_size(65)
        .build_cartesian_2d(0.0..seconds.max(70.0), low..100.5)?;
    chart
        .configure_mesh()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_desc("seconds after due")
        .y_desc("published")
        .y_label_formatter(&|percent| format!("{percent:.0} %"))
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .label_style(text(14))
        .draw()?;
    chart.draw_series(LineSeries::new([(60.0, low), (60.0, 100.5)], INK))?;
    let ways = [("media uploaded at the due", without, WITHOUT), ("media uploaded ahead", with, WITH)];
    for (name, run, colour) in ways {
        let label = format!("{name}: {} % within the minute", run.within_minute_percent());
        let line = steps(run, low, seconds.max(70.0));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(3)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(20)
        .legend_area_size(32)
        .border_style(FAINT)
        .background_style(WHITE)
        .label_font(text(15))
        .draw()?;
    area.present()?;
    Ok(())
}

/// The share of posts published up to each instant, from where it is of interest.
fn steps(run: &Run, low: f64, end: f64) -> Vec<(f64, f64)> {
    let posts = run.after_due.len().max(1) as f64;
    let share = |(number, millis): (usize, &i64)| (*millis as f64 / 1_000.0, (number + 1) as f64 * 100.0 / posts);
    let shares = run.after_due.iter().enumerate().map(share).filter(|(_, percent)| *percent >= low);
    let mut points: Vec<(f64, f64)> = shares.collect();
    points.push((end, 100.0));
    points
}
