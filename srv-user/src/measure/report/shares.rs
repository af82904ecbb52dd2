//! How evenly each arm shares the connections out: one small plot per arm, a
//! bar per worker, all on the same scale, so that the eye compares heights.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Area, Drawing, Width, drawing_error, line, px, text};
use super::palette::Role;
use super::panels::{self, Columns};
use super::series::Series;

/// More bars than this would be narrower than the gaps between them.
const BARS_MAX: usize = 64;
const PANEL_PX: u32 = 168;
/// Above the bars: the arm's name and its figures.
const HEAD_PX: f64 = 44.0;
const FOOT_PX: f64 = 22.0;
const LEFT_PX: f64 = 34.0;

/// One worker's share, in fair shares.
struct Bar {
    share: f64,
    /// Smallest and largest of the rounds.
    range: (f64, f64),
}

/// The plot; `None` if no connection was accepted.
pub(super) fn draw(series: &[Series], width: Width) -> Result<Option<Drawing>> {
    let panels: Vec<(&Series, Vec<Bar>)> = series
        .iter()
        .map(|series| (series, bars(series)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let all = panels.iter().flat_map(|(_, bars)| bars);
    let top = all
        .map(|bar| bar.range.1.max(bar.share))
        .fold(1.0, f64::max)
        * 1.04;
    let columns = Columns { wide: 4, narrow: 2 };
    panels::draw(&panels, width, &columns, PANEL_PX, |area, series, bars| {
        draw_panel(area, series, bars, top)
    })
}

fn bars(series: &Series) -> Vec<Bar> {
    let total: Vec<f64> = fair(&series.arm.accepts);
    let rounds: Vec<Vec<f64>> = series
        .arm
        .rounds
        .iter()
        .map(|round| fair(&round.accepts))
        .collect();
    let mut bars: Vec<Bar> = total
        .into_iter()
        .enumerate()
        .map(|(worker, share)| {
            let of_rounds = rounds.iter().filter_map(|round| round.get(worker).copied());
            let (low, high) = of_rounds.fold((share, share), |(low, high), share| {
                (low.min(share), high.max(share))
            });
            Bar {
                share,
                range: (low, high),
            }
        })
        .collect();
    if bars.len() > BARS_MAX {
        // Evenly spaced among the sorted: the outermost are always shown.
        bars.sort_by(|one, other| other.share.total_cmp(&one.share));
        let last = bars.len() - 1;
        let mut place = 0;
        bars.retain(|_| {
            place += 1;
            ((place - 1) * (BARS_MAX - 1)) % last < BARS_MAX - 1
        });
    }
    bars
}

/// In units of an even share.
fn fair(accepts: &[u64]) -> Vec<f64> {
    let sum: u64 = accepts.iter().sum();
    if sum == 0 {
        return Vec::new();
    }
    let even = sum as f64 / accepts.len() as f64;
    accepts
        .iter()
        .map(|&accepts| accepts as f64 / even)
        .collect()
}

fn draw_panel(area: &Area, series: &Series, bars: &[Bar], top: f64) -> Result<()> {
    let (width, height) = area.dim_in_pixel();
    let (left, right) = (px(LEFT_PX), width as i32 - px(12.0));
    let (upper, floor) = (px(HEAD_PX), height as i32 - px(FOOT_PX));
    let at = |share: f64| floor - (share / top * f64::from(floor - upper)) as i32;
    draw_head(area, series)?;

    let pitch = f64::from(right - left) / bars.len() as f64;
    for (worker, bar) in bars.iter().enumerate() {
        let begin = f64::from(left) + pitch * (worker as f64 + 0.12);
        let end = begin + pitch * 0.76;
        let corners = [(begin as i32, at(bar.share)), (end as i32, floor)];
        area.draw(&Rectangle::new(corners, line(series.role, 1.0).filled()))
            .map_err(drawing_error)?;
        let middle = f64::midpoint(begin, end) as i32;
        let range = vec![(middle, at(bar.range.0)), (middle, at(bar.range.1))];
        area.draw(&PathElement::new(range, line(Role::Ink, 1.4)))
            .map_err(drawing_error)?;
    }
    let fair = vec![(left - px(4.0), at(1.0)), (right, at(1.0))];
    area.draw(&PathElement::new(fair, line(Role::Bound, 1.2)))
        .map_err(drawing_error)?;
    let base = vec![(left, floor), (right, floor)];
    area.draw(&PathElement::new(base, line(Role::Muted, 1.0)))
        .map_err(drawing_error)?;
    let style = text(Role::Muted, 11.0, HPos::Right, VPos::Center);
    for (share, label) in [(0.0, "0"), (1.0, "1×")] {
        area.draw_text(label, &style, (left - px(8.0), at(share)))
            .map_err(drawing_error)?;
    }
    Ok(())
}

fn draw_head(area: &Area, series: &Series) -> Result<()> {
    let figures = format!(
        "CV {:.4} · max/mean {:.3}",
        series.arm.median(|round| round.accepts_cv),
        series.arm.median(|round| round.accepts_max_over_mean)
    );
    let style = text(Role::Muted, 11.0, HPos::Left, VPos::Top);
    area.draw_text(&figures, &style, (px(4.0), px(22.0)))
        .map_err(drawing_error)
}
