//! The latency distribution of every arm and of the single-queue bound. Horizontal: latency.
//! Vertical: how rare a longer latency is. Both axes are logarithmic, so that there is room
//! for the tail.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Area, Drawing, Width, drawing_error, line, px, text, text_width_px};
use super::palette::Role;
use super::quantity;
use super::series::Series;
use crate::measure::result::{BOUND, CdfPoint, Comparison};
use crate::measure::stats::median;

/// Where percentiles are marked: name and part that took at most so long.
const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// Of an axis label or a legend, px.
const TEXT_PX: f64 = 12.5;
/// Between two entries of the legend, and of its line, px.
const LEGEND_GAP_PX: f64 = 22.0;
const LEGEND_LINE_PX: f64 = 26.0;
const LEGEND_ROW_PX: f64 = 21.0;

/// One line of the plot, in the plot's coordinates.
struct Curve {
    name: String,
    role: Role,
    /// Decades of ns, and decades of "one in so many took longer".
    points: Vec<(f64, f64)>,
}

/// The plot; `None` if there is no distribution.
pub(super) fn draw(
    comparison: &Comparison,
    series: &[Series],
    width: Width,
) -> Result<Option<Drawing>> {
    let top = top_decades(comparison, series);
    let curves = curves(comparison, series, top);
    if curves.is_empty() {
        return Ok(None);
    }
    let rows = legend_rows(&curves, width);
    let legend_px = f64::from(rows.last().map_or(0, |&(row, _)| row) + 1) * LEGEND_ROW_PX + 10.0;
    let height_px = legend_px as u32 + if width.is_wide() { 430 } else { 380 };
    let drawing = Drawing::new(width, height_px, |area| {
        let (legend, plot) = area.split_vertically(px(legend_px));
        draw_legend(&legend, &curves, &rows)?;
        draw_plot(&plot, &curves, top, width)
    })?;
    Ok(Some(drawing))
}

/// One request in a power of ten: as far up as the samples of every round reach.
fn top_decades(comparison: &Comparison, series: &[Series]) -> f64 {
    let arms = series.iter().flat_map(|series| series.arm.judged());
    let bound = comparison.bound.iter().flat_map(|bound| &bound.short);
    let counts = arms
        .map(|round| round.short.count)
        .chain(bound.map(|short| short.count));
    let fewest = counts.min().unwrap_or_default();
    (fewest.max(1) as f64).log10().clamp(2.1, 4.3)
}

fn curves(comparison: &Comparison, series: &[Series], top: f64) -> Vec<Curve> {
    let arms = series.iter().map(|series| {
        let p99 = series.arm.median(|round| round.short.p99_ns as f64);
        (&series.name[..], series.role, p99, &series.arm.cdf)
    });
    let bound = comparison.bound.iter().map(|bound| {
        let rounds: Vec<f64> = bound
            .short
            .iter()
            .map(|short| short.p99_ns as f64)
            .collect();
        (BOUND, Role::Bound, median(&rounds), &bound.cdf)
    });
    let curves = arms.chain(bound).map(|(name, role, p99_ns, cdf)| Curve {
        name: format!("{name} · p99 {}", quantity::ns(p99_ns)),
        role,
        points: points(cdf, top),
    });
    curves.filter(|curve| curve.points.len() > 1).collect()
}

fn points(cdf: &[CdfPoint], top: f64) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for point in cdf {
        let x = (point.latency_ns.max(1) as f64).log10();
        let y = -(1.0 - point.at_most).max(1e-9).log10();
        if y > top {
            // Up to the edge and no further.
            if let Some(&last) = points.last() {
                points.push((at_height(last, (x, y), top), top));
            }
            break;
        }
        // Points that are closer than a pixel cannot be told apart.
        let is_far = |&(last_x, last_y): &(f64, f64)| x - last_x > 0.004 || y - last_y > 0.008;
        if points.last().is_none_or(is_far) {
            points.push((x, y));
        }
    }
    points
}

/// Where the line from `low` to `high` is at this height.
fn at_height(low: (f64, f64), high: (f64, f64), height: f64) -> f64 {
    if high.1 <= low.1 {
        return high.0;
    }
    low.0 + (high.0 - low.0) * (height - low.1) / (high.1 - low.1)
}

/// Row and left edge of each entry.
fn legend_rows(curves: &[Curve], width: Width) -> Vec<(u32, f64)> {
    let (mut row, mut left) = (0, 4.0);
    let place = |curve: &Curve| {
        let needs = LEGEND_LINE_PX + 6.0 + text_width_px(&curve.name, TEXT_PX);
        if left > 4.0 && left + needs > f64::from(width.0) {
            (row, left) = (row + 1, 4.0);
        }
        let place = (row, left);
        left += needs + LEGEND_GAP_PX;
        place
    };
    curves.iter().map(place).collect()
}

fn draw_legend(area: &Area, curves: &[Curve], rows: &[(u32, f64)]) -> Result<()> {
    for (place, (curve, &(row, left))) in curves.iter().zip(rows).enumerate() {
        let y = px((f64::from(row) + 0.5) * LEGEND_ROW_PX);
        let end = left + LEGEND_LINE_PX;
        let sample = vec![(px(left), y), (px(end), y)];
        area.draw(&PathElement::new(sample, line(curve.role, 2.6)))
            .map_err(drawing_error)?;
        draw_mark(
            area,
            place,
            curve.role,
            (px(left + LEGEND_LINE_PX / 2.0), y),
        )?;
        let style = text(Role::Ink, TEXT_PX, HPos::Left, VPos::Center);
        area.draw_text(&curve.name, &style, (px(end + 6.0), y))
            .map_err(drawing_error)?;
    }
    Ok(())
}

/// The mark of the curve at this place. The bound has none.
fn draw_mark(area: &Area, place: usize, role: Role, (x, y): (i32, i32)) -> Result<()> {
    if role == Role::Bound {
        return Ok(());
    }
    let around = |corners: &[(f64, f64)]| {
        let corners = corners.iter().map(|&(dx, dy)| (x + px(dx), y + px(dy)));
        corners.collect::<Vec<_>>()
    };
    let filled = line(role, 1.0).filled();
    let polygon = |corners: &[(f64, f64)]| area.draw(&Polygon::new(around(corners), filled));
    match place % 5 {
        0 => area.draw(&Circle::new((x, y), px(4.2), filled)),
        1 => polygon(&[(-3.8, -3.8), (3.8, -3.8), (3.8, 3.8), (-3.8, 3.8)]),
        2 => polygon(&[(0.0, -5.0), (4.8, 3.8), (-4.8, 3.8)]),
        3 => polygon(&[(0.0, -5.4), (5.4, 0.0), (0.0, 5.4), (-5.4, 0.0)]),
        _ => polygon(&[(0.0, 5.0), (4.8, -3.8), (-4.8, -3.8)]),
    }
    .map_err(drawing_error)
}

fn draw_plot(area: &Area, curves: &[Curve], top: f64, width: Width) -> Result<()> {
    let frame = Frame::around(curves, top, width);
    let chart = ChartBuilder::on(area)
        .margin_right(px(14.0))
        .margin_top(px(6.0))
        .x_label_area_size(px(44.0))
        .y_label_area_size(px(if width.is_wide() { 60.0 } else { 56.0 }))
        .build_cartesian_2d(frame.low..frame.high, 0.0..top)
        .map_err(drawing_error)?;
    let plane = chart.plotting_area();
    let at = |x: f64, y: f64| {
        // The plane's pixels are the drawing's, the area's begin below the legend.
        let (x, y) = plane.map_coordinate(&(x, y));
        let (left, upper) = area.get_base_pixel();
        (x - left, y - upper)
    };
    draw_grid(area, &frame, width, at)?;
    draw_axes(area, &frame, at)?;
    for (place, curve) in curves.iter().enumerate() {
        let path: Vec<_> = curve.points.iter().map(|&(x, y)| at(x, y)).collect();
        let stroke = if curve.role == Role::Bound { 2.4 } else { 2.0 };
        area.draw(&PathElement::new(path, line(curve.role, stroke)))
            .map_err(drawing_error)?;
        for &(_, height) in &frame.percentiles {
            if let Some(x) = crossing(&curve.points, height) {
                draw_mark(area, place, curve.role, at(x, height))?;
            }
        }
    }
    Ok(())
}

/// What of the coordinates is shown.
struct Frame {
    low: f64,
    high: f64,
    top: f64,
    /// Name and height of those within.
    percentiles: Vec<(&'static str, f64)>,
}

impl Frame {
    fn around(curves: &[Curve], top: f64, width: Width) -> Self {
        let all = || curves.iter().flat_map(|curve| &curve.points);
        let low = all().map(|point| point.0).fold(f64::INFINITY, f64::min) - 0.04;
        let high = all().map(|point| point.0);
        let heights = PERCENTILES.map(|(name, part)| (name, -(1.0 - part).log10()));
        Self {
            // A labelled line just left of the data is worth its room.
            low: ticks(low - 0.12, low, width).last().copied().unwrap_or(low),
            high: high.fold(f64::NEG_INFINITY, f64::max) + 0.06,
            top,
            percentiles: heights
                .into_iter()
                .filter(|&(_, height)| height <= top)
                .collect(),
        }
    }
}

fn draw_grid(
    area: &Area,
    frame: &Frame,
    width: Width,
    at: impl Fn(f64, f64) -> (i32, i32),
) -> Result<()> {
    let rule = |from, to| area.draw(&PathElement::new(vec![from, to], line(Role::Grid, 1.0)));
    for tick in ticks(frame.low, frame.high, width) {
        let foot = at(tick, 0.0);
        rule(foot, at(tick, frame.top)).map_err(drawing_error)?;
        let style = text(Role::Muted, TEXT_PX, HPos::Center, VPos::Top);
        area.draw_text(&tick_label(tick), &style, (foot.0, foot.1 + px(7.0)))
            .map_err(drawing_error)?;
    }
    for &(name, height) in &frame.percentiles {
        let left = at(frame.low, height);
        rule(left, at(frame.high, height)).map_err(drawing_error)?;
        let style = text(Role::Muted, TEXT_PX, HPos::Right, VPos::Center);
        area.draw_text(name, &style, (left.0 - px(8.0), left.1))
            .map_err(drawing_error)?;
    }
    Ok(())
}

fn draw_axes(area: &Area, frame: &Frame, at: impl Fn(f64, f64) -> (i32, i32)) -> Result<()> {
    let axis = vec![at(frame.low, 0.0), at(frame.high, 0.0)];
    area.draw(&PathElement::new(axis, line(Role::Muted, 1.2)))
        .map_err(drawing_error)?;
    let middle = at(f64::midpoint(frame.low, frame.high), 0.0);
    let style = text(Role::Muted, TEXT_PX, HPos::Center, VPos::Top);
    let below = (middle.0, middle.1 + px(26.0));
    area.draw_text(
        "latency from the scheduled instant (logarithmic)",
        &style,
        below,
    )
    .map_err(drawing_error)?;
    let style = text(Role::Muted, TEXT_PX, HPos::Left, VPos::Top);
    let corner = at(frame.low, frame.top);
    area.draw_text("rarer ↑", &style, (corner.0 + px(6.0), corner.1 + px(2.0)))
        .map_err(drawing_error)
}

/// Where a curve reaches this height.
fn crossing(points: &[(f64, f64)], height: f64) -> Option<f64> {
    let pair = points
        .windows(2)
        .find(|pair| pair[0].1 <= height && height <= pair[1].1)?;
    Some(at_height(pair[0], pair[1], height))
}

/// Powers of ten, and 2 and 5 of each where there is room for their labels.
fn ticks(low: f64, high: f64, width: Width) -> Vec<f64> {
    let room = f64::from(width.0) / (high - low);
    let steps: &[f64] = match room {
        room if room > 220.0 => &[1.0, 2.0, 5.0],
        room if room > 110.0 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let decades = low.floor() as i32..=high.ceil() as i32;
    let ticks = decades.flat_map(|decade| {
        steps
            .iter()
            .map(move |step| f64::from(decade) + step.log10())
    });
    ticks.filter(|tick| (low..=high).contains(tick)).collect()
}

fn tick_label(tick: f64) -> String {
    let ns = 10_f64.powf(tick).round();
    let (scale, unit) = quantity::unit(ns);
    format!("{:.0} {unit}", ns / scale)
}
