//! A grid of small plots, one for each arm, all of the same size.

use anyhow::Result;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Area, Drawing, Width, bold, drawing_error, px};
use super::palette::Role;
use super::series::Series;

/// How many plots stand beside one another.
pub(super) struct Columns {
    /// At the most, where there is room.
    pub wide: usize,
    /// At the most, on a phone.
    pub narrow: usize,
}

/// A plot for each of `panels`, which `paint` fills below its arm's name; `None` if there
/// is none.
pub(super) fn draw<T>(
    panels: &[(&Series, T)],
    width: Width,
    columns: &Columns,
    height_px: u32,
    paint: impl Fn(&Area, &Series, &T) -> Result<()>,
) -> Result<Option<Drawing>> {
    if panels.is_empty() {
        return Ok(None);
    }
    let columns_max = match width.is_wide() {
        true => columns.wide,
        false => columns.narrow,
    };
    let rows = panels.len().div_ceil(columns_max);
    let columns = panels.len().div_ceil(rows);
    let drawing = Drawing::new(width, rows as u32 * height_px, |area| {
        let areas = area.split_evenly((rows, columns));
        for (area, (series, data)) in areas.iter().zip(panels) {
            let style = bold(Role::Ink, 13.0, HPos::Left, VPos::Top);
            area.draw_text(&series.name, &style, (px(4.0), px(4.0)))
                .map_err(drawing_error)?;
            paint(area, series, data)?;
        }
        Ok(())
    })?;
    Ok(Some(drawing))
}
