//! What a request costs each arm: a bar for the median of the rounds, a line
//! for their range.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Area, Drawing, Width, drawing_error, line, px, text, text_width_px};
use super::palette::Role;
use super::quantity;
use super::series::Series;
use crate::measure::stats::Spread;

const ROW_PX: u32 = 30;
const TEXT_PX: f64 = 12.5;
/// Room for the figure behind the bar.
const FIGURE_PX: f64 = 70.0;

/// The plot; `None` if no CPU time was measured.
pub(super) fn draw(series: &[Series], width: Width) -> Result<Option<Drawing>> {
    let rows: Vec<(&Series, Spread)> = series
        .iter()
        .map(|series| {
            let costs = series
                .arm
                .judged()
                .into_iter()
                .map(|round| round.cpu_ns_per_request);
            (series, Spread::of(&costs.collect::<Vec<_>>()))
        })
        .collect();
    let most = rows.iter().map(|(_, cost)| cost.max).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(None);
    }
    let names = rows
        .iter()
        .map(|(series, _)| text_width_px(&series.name, TEXT_PX));
    let left = names.fold(40.0, f64::max).min(f64::from(width.0) * 0.4) + 10.0;
    let drawing = Drawing::new(width, rows.len() as u32 * ROW_PX, |area| {
        let per_ns = (f64::from(width.0) - left - FIGURE_PX) / most;
        for (place, row) in rows.iter().enumerate() {
            draw_row(area, place, row, |ns| px(left + ns * per_ns))?;
        }
        Ok(())
    })?;
    Ok(Some(drawing))
}

fn draw_row(
    area: &Area,
    place: usize,
    (series, cost): &(&Series, Spread),
    at: impl Fn(f64) -> i32,
) -> Result<()> {
    let middle = px((place as f64 + 0.5) * f64::from(ROW_PX));
    let name = text(Role::Ink, TEXT_PX, HPos::Right, VPos::Center);
    area.draw_text(&series.name, &name, (at(0.0) - px(10.0), middle))
        .map_err(drawing_error)?;
    let corners = [
        (at(0.0), middle - px(8.0)),
        (at(cost.median), middle + px(8.0)),
    ];
    area.draw(&Rectangle::new(corners, line(series.role, 1.0).filled()))
        .map_err(drawing_error)?;
    let range = vec![(at(cost.min), middle), (at(cost.max), middle)];
    area.draw(&PathElement::new(range, line(Role::Ink, 1.6)))
        .map_err(drawing_error)?;
    let figure = text(Role::Muted, TEXT_PX, HPos::Left, VPos::Center);
    area.draw_text(
        &quantity::ns(cost.median),
        &figure,
        (at(cost.max) + px(8.0), middle),
    )
    .map_err(drawing_error)
}
