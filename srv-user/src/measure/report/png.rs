//! A drawing as PNG, with the fonts of this machine.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::{Database, Family, Query};
use resvg::usvg::{Options, Tree};

use super::canvas::Drawing;

/// Pixels to the drawing's pixel: sharp on dense screens too.
const SCALE: f32 = 2.0;

/// Preferred, the first that is installed; else any.
const FAMILIES: [&str; 7] = [
    "Inter",
    "Noto Sans",
    "Open Sans",
    "DejaVu Sans",
    "Liberation Sans",
    "Arial",
    "Helvetica",
];

/// The file's content.
///
/// # Errors
/// No font is installed.
pub(super) fn render(drawing: &Drawing) -> Result<Vec<u8>> {
    let options = Options {
        fontdb: Arc::new(fonts()?),
        ..Options::default()
    };
    let tree = Tree::from_str(&drawing.on_paper(), &options).context("read the plot as SVG")?;
    let size = tree.size().to_int_size();
    let size = size.scale_by(SCALE).context("scale the plot")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).context("make room for the plot")?;
    resvg::render(
        &tree,
        Transform::from_scale(SCALE, SCALE),
        &mut pixels.as_mut(),
    );
    pixels.encode_png().context("encode the plot as PNG")
}

fn fonts() -> Result<Database> {
    let mut fonts = Database::new();
    fonts.load_system_fonts();
    let is_there = |name: &&str| {
        let families = &[Family::Name(name)];
        let query = Query {
            families,
            ..Query::default()
        };
        fonts.query(&query).is_some()
    };
    let preferred = FAMILIES.iter().copied().find(is_there).map(str::to_owned);
    let any = || {
        fonts
            .faces()
            .next()?
            .families
            .first()
            .map(|(name, _)| name.clone())
    };
    let Some(family) = preferred.or_else(any) else {
        bail!(
            "draw text in a PNG: no font is installed\n  \
             to mend it: sudo apt-get install fonts-dejavu-core (Debian's name)"
        );
    };
    fonts.set_sans_serif_family(family);
    Ok(fonts)
}
