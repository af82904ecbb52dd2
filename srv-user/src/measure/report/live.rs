//! Live connections over time: one small plot per arm, a line per worker on
//! the band from the least to the most loaded, all on the same scale.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Area, Drawing, Width, drawing_error, line, px, text};
use super::palette::Role;
use super::panels::{self, Columns};
use super::series::Series;
use crate::measure::result::Live;

const PANEL_PX: u32 = 178;
const HEAD_PX: f64 = 30.0;
const FOOT_PX: f64 = 30.0;
const LEFT_PX: f64 = 40.0;
/// More samples than this are not to be told apart.
const SAMPLES_MAX: usize = 240;

/// The plot; `None` if no arm has them.
pub(super) fn draw(series: &[Series], width: Width) -> Result<Option<Drawing>> {
    let panels: Vec<(&Series, &Live)> = series
        .iter()
        .filter_map(|series| Some((series, series.arm.live.as_ref()?)))
        .filter(|(_, live)| live.per_worker.iter().any(|samples| samples.len() > 1))
        .collect();
    let most = panels
        .iter()
        .flat_map(|(_, live)| live.per_worker.iter().flatten());
    let most = most.copied().max().unwrap_or(0).max(1);
    let columns = Columns { wide: 4, narrow: 1 };
    panels::draw(&panels, width, &columns, PANEL_PX, |area, series, live| {
        draw_panel(area, series, live, most)
    })
}

fn draw_panel(area: &Area, series: &Series, live: &Live, most: u32) -> Result<()> {
    let (width, height) = area.dim_in_pixel();
    let (left, right) = (px(LEFT_PX), width as i32 - px(16.0));
    let (upper, floor) = (px(HEAD_PX), height as i32 - px(FOOT_PX));
    let samples = live
        .per_worker
        .iter()
        .map(Vec::len)
        .max()
        .unwrap_or(2)
        .max(2);
    let at = |sample: usize, count: u32| {
        let across = sample as f64 / (samples - 1) as f64 * f64::from(right - left);
        let up = f64::from(count) / f64::from(most) * f64::from(floor - upper);
        (left + across as i32, floor - up as i32)
    };
    draw_frame(area, (left, right), (upper, floor), most)?;
    let own = live.per_worker.iter().flatten().max().unwrap_or(&0);
    let style = text(Role::Muted, 11.0, HPos::Right, VPos::Top);
    area.draw_text(&format!("at most {own}"), &style, (right, px(6.0)))
        .map_err(drawing_error)?;

    let step = samples.div_ceil(SAMPLES_MAX);
    let shown = || (0..samples).step_by(step);
    let among = |sample: usize, pick: fn(u32, u32) -> u32| {
        let counts = live
            .per_worker
            .iter()
            .filter_map(|worker| worker.get(sample).copied());
        at(sample, counts.reduce(pick).unwrap_or(0))
    };
    let band: Vec<_> = shown()
        .map(|sample| among(sample, u32::max))
        .chain(shown().rev().map(|sample| among(sample, u32::min)))
        .collect();
    let tint = super::canvas::colour(series.role).mix(0.22).filled();
    area.draw(&Polygon::new(band, tint))
        .map_err(drawing_error)?;
    for worker in &live.per_worker {
        let path = shown().filter_map(|sample| Some(at(sample, *worker.get(sample)?)));
        let thin = super::canvas::colour(solid(series.role))
            .mix(0.75)
            .stroke_width(px(1.0) as u32);
        area.draw(&PathElement::new(path.collect::<Vec<_>>(), thin))
            .map_err(drawing_error)?;
    }
    let seconds = live.step_ns as f64 * (samples - 1) as f64 / 1e9;
    let style = text(Role::Muted, 11.0, HPos::Right, VPos::Top);
    area.draw_text(&format!("{seconds:.1} s"), &style, (right, floor + px(6.0)))
        .map_err(drawing_error)
}

/// A worker's line is thin: its dashes would be noise.
fn solid(role: Role) -> Role {
    match role {
        Role::Arm(style) => Role::Arm(style.solid()),
        other => other,
    }
}

fn draw_frame(
    area: &Area,
    (left, right): (i32, i32),
    (upper, floor): (i32, i32),
    most: u32,
) -> Result<()> {
    let label = text(Role::Muted, 11.0, HPos::Right, VPos::Center);
    for (height, count, role) in [(upper, most, Role::Grid), (floor, 0, Role::Muted)] {
        let across = vec![(left, height), (right, height)];
        area.draw(&PathElement::new(across, line(role, 1.0)))
            .map_err(drawing_error)?;
        area.draw_text(&count.to_string(), &label, (left - px(8.0), height))
            .map_err(drawing_error)?;
    }
    let style = text(Role::Muted, 11.0, HPos::Left, VPos::Top);
    area.draw_text("0", &style, (left, floor + px(6.0)))
        .map_err(drawing_error)
}
