//! A drawing: plotters' SVG, in tenths of a pixel since plotters knows whole
//! ones only, with its colours made to follow the page's or to stand on paper.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::palette::{Role, Style};

/// Units of a drawing to the pixel.
pub(super) const UNIT: u32 = 10;

/// How wide a drawing is, px.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width(pub u32);

/// For a desk.
pub(super) const WIDE: Width = Width(880);
/// For a phone, where a wide one would shrink its text beyond reading.
pub(super) const NARROW: Width = Width(360);

impl Width {
    /// Whether there is room beside things.
    pub(super) fn is_wide(self) -> bool {
        self.0 > 600
    }
}

/// Something to draw on, in units.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// `px` in units.
pub(super) fn px(pixels: f64) -> i32 {
    (pixels * f64::from(UNIT)).round() as i32
}

/// A drawing that is done.
pub(super) struct Drawing {
    size_px: (u32, u32),
    /// Elements only, coloured with [`Role::token`].
    elements: String,
}

impl Drawing {
    /// Has `paint` draw on an empty area of so many pixels.
    pub(super) fn new(
        width: Width,
        height_px: u32,
        paint: impl FnOnce(&Area) -> Result<()>,
    ) -> Result<Self> {
        let size_px = (width.0, height_px);
        let mut svg = String::new();
        {
            let backend = SVGBackend::with_string(&mut svg, (size_px.0 * UNIT, size_px.1 * UNIT));
            let area = backend.into_drawing_area();
            paint(&area)?;
            area.present().map_err(drawing_error)?;
        }
        let body = svg.split_once('>').map_or("", |(_, body)| body);
        let body = body.trim_end().trim_end_matches("</svg>");
        // What is so anyway.
        let elements = body
            .replace(" opacity=\"1\"", "")
            .replace(" stroke=\"none\"", "");
        Ok(Self { size_px, elements })
    }

    /// Inline, in the colours of the page; `about` is its description for screen readers.
    pub(super) fn inline(&self, about: &str) -> Markup {
        let mut elements = self.elements.replace(" font-family=\"sans-serif\"", "");
        for role in Role::all() {
            for (attribute, prefix) in [("fill", 'f'), ("stroke", 's')] {
                let class = format!("class=\"{}\"", role.class(prefix));
                elements = elements.replace(&coloured(attribute, role), &class);
            }
        }
        let (width, height) = self.size_px;
        let view = format!("0 0 {} {}", width * UNIT, height * UNIT);
        html! {
            svg.wide[width == WIDE.0].narrow[width == NARROW.0]
                viewBox=(view) role="img" aria-label=(about) { (PreEscaped(elements)) }
        }
    }

    /// A whole SVG document on white ground.
    pub(super) fn on_paper(&self) -> String {
        let mut elements = self.elements.clone();
        for role in Role::all() {
            let colour = role.on_light();
            let fill = format!("fill=\"{colour}\"");
            let mut stroke = format!("stroke=\"{colour}\"");
            if let Some(dashes) = role.dashes(UNIT) {
                let _ = write!(stroke, " stroke-dasharray=\"{dashes}\"");
            }
            elements = elements
                .replace(&coloured("fill", role), &fill)
                .replace(&coloured("stroke", role), &stroke);
        }
        let (width, height) = self.size_px;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {} {}\" stroke-linejoin=\"round\">\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>{elements}</svg>",
            width * UNIT,
            height * UNIT
        )
    }
}

fn coloured(attribute: &str, role: Role) -> String {
    let (red, green, blue) = role.token();
    format!("{attribute}=\"#{red:02X}{green:02X}{blue:02X}\"")
}

/// The token of a role as plotters' colour.
pub(super) fn colour(role: Role) -> RGBColor {
    let (red, green, blue) = role.token();
    RGBColor(red, green, blue)
}

/// A line of so many pixels.
pub(super) fn line(role: Role, width_px: f64) -> ShapeStyle {
    colour(role).stroke_width(px(width_px) as u32)
}

/// Text of so many pixels, anchored so.
pub(super) fn text(
    role: Role,
    size_px: f64,
    horizontal: HPos,
    vertical: VPos,
) -> TextStyle<'static> {
    // plotters divides by 1.24 to come from its size to the font's.
    ("sans-serif", f64::from(px(size_px)) * 1.24)
        .into_font()
        .color(&colour(role))
        .pos(Pos::new(horizontal, vertical))
}

/// As [`text`], bold.
pub(super) fn bold(
    role: Role,
    size_px: f64,
    horizontal: HPos,
    vertical: VPos,
) -> TextStyle<'static> {
    let size = f64::from(px(size_px)) * 1.24;
    ("sans-serif", size, FontStyle::Bold)
        .into_font()
        .color(&colour(role))
        .pos(Pos::new(horizontal, vertical))
}

/// Roughly how wide a text is, px; no font is at hand where the page is made.
pub(super) fn text_width_px(text: &str, size_px: f64) -> f64 {
    text.chars().count() as f64 * size_px * 0.57
}

/// The sample of a style's line, for tables.
pub(super) fn swatch(role: Role) -> Markup {
    html! {
        svg.swatch viewBox="0 0 260 100" aria-hidden="true" {
            line class=(role.class('s')) x1="0" x2="260" y1="50" y2="50" stroke-width="26" {}
        }
    }
}

/// The role of an arm's style.
impl From<Style> for Role {
    fn from(style: Style) -> Self {
        Self::Arm(style)
    }
}

/// plotters' errors are not `Sync`.
pub(super) fn drawing_error(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw: {error}")
}
