//! The delay chart: how many posts went out how late.

use std::error::Error;
use std::path::Path;

use indicatif::HumanCount;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{Line, duration};

/// The delay classes: each goes up to so many milliseconds; one more takes the rest.
const CLASSES: [(i64, &str); 12] = [
    (1, "≤ 1 ms"),
    (3, "≤ 3 ms"),
    (10, "≤ 10 ms"),
    (30, "≤ 30 ms"),
    (100, "≤ 100 ms"),
    (300, "≤ 300 ms"),
    (1_000, "≤ 1 s"),
    (3_000, "≤ 3 s"),
    (10_000, "≤ 10 s"),
    (30_000, "≤ 30 s"),
    (60_000, "≤ 60 s"),
    (90_000, "≤ 90 s"),
];
const REST: &str = "more";
const NANOS_PER_MILLI: i64 = 1_000_000;

const SIZE: (u32, u32) = (960, 520);
const INK: RGBColor = RGBColor(0x22, 0x2b, 0x36);
const FAINT: RGBColor = RGBColor(0xe3, 0xe7, 0xec);
const BAR: RGBColor = RGBColor(0x1f, 0x77, 0xb4);

/// Draws the chart; `when` says which posts these are.
pub fn draw(path: &Path, line: &Line, when: &str) -> Result<(), Box<dyn Error>> {
    let counts = counts(line);
    let top = counts.iter().copied().max().unwrap_or(0).max(10) as f64 * 3.0;
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&INK);
    area.draw_text("How late the posts went out", &text(24), (80, 20))?;
    let figures = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)];
    let figures = figures.map(|(name, share)| format!("{name} {}", duration(line.quantile_ms(share)))).join(", ");
    area.draw_text(&format!("{} posts {when}: {figures}", HumanCount(line.sent() as u64)), &text(15), (80, 54))?;

    let columns = 0.0..counts.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .margin_top(90)
        .margin_left(15)
        .margin_right(30)
        .x_label_area_size(60)
        .y_label_area_size(65)
        .build_cartesian_2d(columns, (0.5..top).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .y_desc("posts (log scale)")
        .y_label_formatter(&|posts| HumanCount(*posts as u64).to_string())
        .label_style(text(14))
        .draw()?;

    let centred = |vertical| text(14).pos(Pos::new(HPos::Center, vertical));
    let labels = CLASSES.iter().map(|(_, label)| *label).chain([REST]);
    for ((column, label), count) in labels.enumerate().zip(counts) {
        let (left, middle) = (column as f64, column as f64 + 0.5);
        if count > 0 {
            let bar = [(left + 0.12, 0.5), (left + 0.88, count as f64)];
            chart.draw_series([Rectangle::new(bar, BAR.filled())])?;
        }
        let (x, y) = chart.backend_coord(&(middle, (count as f64).max(0.5)));
        area.draw_text(&HumanCount(count as u64).to_string(), &centred(VPos::Bottom), (x, y - 5))?;
        let (x, y) = chart.backend_coord(&(middle, 0.5));
        area.draw_text(label, &centred(VPos::Top), (x, y + 8))?;
    }
    let (x, y) = chart.backend_coord(&(counts.len() as f64 / 2.0, 0.5));
    area.draw_text("lateness", &centred(VPos::Top), (x, y + 34))?;
    area.present()?;
    Ok(())
}

/// Posts in each class.
fn counts(line: &Line) -> [usize; CLASSES.len() + 1] {
    let bounds = CLASSES.iter().map(|(millis, _)| line.sent_within(millis * NANOS_PER_MILLI)).chain([line.sent()]);
    let mut counts = [0; CLASSES.len() + 1];
    let mut below = 0;
    for (count, within) in counts.iter_mut().zip(bounds) {
        *count = within - below;
        below = within;
    }
    counts
}
