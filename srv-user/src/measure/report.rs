//! What people see of a comparison: `report.html`, one file that asks nothing
//! of the network, and the two main plots as PNG. Reads a
//! [`Comparison`] and judges nothing; a figure that is not in `result.json` is
//! not on the page either.
//!
//! `page` is the order of things and `tables` the figures; `cdf`, `shares`, `live` (both in
//! `panels`) and `cpu` draw on a `canvas`, in the colours of `palette`; `figures` is how a
//! number gets onto the page.

mod canvas;
mod cdf;
mod cpu;
pub mod figures;
mod live;
mod page;
mod palette;
mod panels;
mod png;
pub(crate) mod quantity;
#[cfg(test)]
mod sample;
mod series;
mod shares;
mod tables;

#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::measure::result::Comparison;
use crate::output::whole_file::{Readers, WholeFile};
use series::Series;

/// The page, complete.
///
/// # Errors
/// The comparison contradicts itself: more workers or rounds in one place than
/// in another.
pub fn html(comparison: &Comparison) -> Result<String> {
    page::page(comparison).map(maud::Markup::into_string)
}

/// Writes `report.html` into `dir`.
///
/// # Errors
/// As [`html`], or the file cannot be written.
pub fn write(dir: &Path, comparison: &Comparison) -> Result<()> {
    put(dir, "report.html", html(comparison)?.as_bytes())
}

/// Writes `cdf.png` and `shares.png` into `dir`, for pages that show no HTML.
///
/// # Errors
/// No font is installed, or a file cannot be written.
pub fn write_pngs(dir: &Path, comparison: &Comparison) -> Result<()> {
    let series = Series::of(comparison);
    if let Some(drawing) = cdf::draw(comparison, &series, canvas::WIDE)? {
        put(dir, "cdf.png", &png::render(&drawing)?)?;
    }
    if let Some(drawing) = shares::draw(&series, canvas::WIDE)? {
        put(dir, "shares.png", &png::render(&drawing)?)?;
    }
    Ok(())
}

/// Writes the page and the PNGs anew from the `result.json` in `dir`.
///
/// # Errors
/// There is no `result.json`, it is none, it has another schema, or as
/// [`write()`] and [`write_pngs`]. The page is written before the PNGs are tried.
pub fn regenerate(dir: &Path) -> Result<()> {
    let comparison = Comparison::read(dir)?;
    write(dir, &comparison)?;
    write_pngs(dir, &comparison)
}

/// Writes a file that a reader sees only when it is complete.
fn put(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let write = || {
        let mut whole = WholeFile::beside(&path, Readers::Umask)?;
        whole.file().write_all(content)?;
        whole.replace()
    };
    write().with_context(|| format!("write {}", path.display()))?;
    Ok(())
}
