//! Colours, dashes and marks of the plots. Hues after Okabe and Ito, who chose
//! them to stay apart for the colour-blind; dash and mark say the same without
//! colour. Each hue is there twice, for light and for dark ground.

use std::fmt::Write as _;

/// On light and on dark ground.
const HUES: [(&str, &str); 8] = [
    ("#c2410c", "#fb8b4b"),
    ("#0b6fb8", "#5db4f5"),
    ("#00835f", "#34cfa0"),
    ("#9c3d8f", "#e592d6"),
    ("#9a6b00", "#e6bd45"),
    ("#00788a", "#4dd4e6"),
    ("#6b4bc4", "#b09cf8"),
    ("#9b1c31", "#f4808f"),
];

/// In pixels; empty is solid.
const DASHES: [&[u32]; 4] = [&[], &[8, 3], &[2, 3], &[9, 3, 2, 3]];

const INK: (&str, &str) = ("#16202a", "#e8edf2");
const MUTED: (&str, &str) = ("#5a6673", "#9aa7b4");
const GRID: (&str, &str) = ("#e3e7eb", "#2c353f");

/// What something drawn stands for; its colour depends on where it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Text.
    Ink,
    /// Labels and axes.
    Muted,
    /// Behind the data.
    Grid,
    /// The single-queue bound.
    Bound,
    /// An arm.
    Arm(Style),
}

/// How an arm is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    hue: usize,
    dash: usize,
}

impl Style {
    /// Of the arm at this place; those after the eighth differ by dash.
    pub(super) fn at(place: usize) -> Self {
        Self {
            hue: place % HUES.len(),
            dash: place / HUES.len() % DASHES.len(),
        }
    }

    /// Without dashes.
    pub(super) fn solid(self) -> Self {
        Self { dash: 0, ..self }
    }

    /// The control of the same arm: its hue, another dash.
    pub(super) fn of_control(self) -> Self {
        Self {
            dash: (self.dash + 1) % DASHES.len(),
            ..self
        }
    }
}

impl Role {
    /// Every role.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let hues = 0..HUES.len();
        let arms = hues.flat_map(|hue| (0..DASHES.len()).map(move |dash| Style { hue, dash }));
        [Self::Ink, Self::Muted, Self::Grid, Self::Bound]
            .into_iter()
            .chain(arms.map(Self::Arm))
    }

    /// What the charting library is told; [`super::canvas`] replaces it later.
    pub(super) fn token(self) -> (u8, u8, u8) {
        match self {
            Self::Ink => (1, 0, 0),
            Self::Muted => (1, 0, 1),
            Self::Grid => (1, 0, 2),
            Self::Bound => (1, 0, 3),
            Self::Arm(style) => (2, style.dash as u8, style.hue as u8),
        }
    }

    /// The colour on paper.
    pub(super) fn on_light(self) -> &'static str {
        self.colours().0
    }

    /// `stroke-dasharray` in units of `unit` to the pixel; `None`: solid.
    pub(super) fn dashes(self, unit: u32) -> Option<String> {
        let dash: &[u32] = match self {
            Self::Bound => &[5, 4],
            Self::Arm(style) => DASHES[style.dash],
            _ => &[],
        };
        let lengths = dash.iter().map(|length| (length * unit).to_string());
        (!dash.is_empty()).then(|| lengths.collect::<Vec<_>>().join(" "))
    }

    /// The class of elements whose fill (`f`) or stroke (`s`) has this role.
    pub(super) fn class(self, prefix: char) -> String {
        match self {
            Self::Ink => format!("{prefix}-ink"),
            Self::Muted => format!("{prefix}-muted"),
            Self::Grid => format!("{prefix}-grid"),
            Self::Bound => format!("{prefix}-bound"),
            Self::Arm(Style { hue, dash }) if prefix == 's' => format!("s{hue} d{dash}"),
            Self::Arm(Style { hue, .. }) => format!("{prefix}{hue}"),
        }
    }

    fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::Ink | Self::Bound => INK,
            Self::Muted => MUTED,
            Self::Grid => GRID,
            Self::Arm(style) => HUES[style.hue],
        }
    }
}

/// The rules that give the classes their colours, light and dark.
pub(super) fn css(unit: u32) -> String {
    let fixed = [("ink", INK), ("muted", MUTED), ("grid", GRID)];
    let variables = |pick: fn((&'static str, &'static str)) -> &'static str| {
        let mut css = String::new();
        for (name, pair) in fixed {
            let _ = write!(css, "--{name}:{};", pick(pair));
        }
        for (hue, pair) in HUES.into_iter().enumerate() {
            let _ = write!(css, "--c{hue}:{};", pick(pair));
        }
        css
    };
    let mut css = format!(
        ":root{{{}}}\n@media(prefers-color-scheme:dark){{:root{{{}}}}}\n",
        variables(|pair| pair.0),
        variables(|pair| pair.1)
    );
    for name in ["ink", "muted", "grid"] {
        let _ = writeln!(
            css,
            ".f-{name}{{fill:var(--{name})}}.s-{name}{{stroke:var(--{name})}}"
        );
    }
    css += ".f-ink{fill:currentColor}.f-bound{fill:var(--ink)}.s-bound{stroke:var(--ink)}\n";
    for hue in 0..HUES.len() {
        let _ = writeln!(
            css,
            ".f{hue}{{fill:var(--c{hue})}}.s{hue}{{stroke:var(--c{hue})}}"
        );
    }
    let bound = Role::Bound.dashes(unit).unwrap_or_default();
    let _ = writeln!(css, ".s-bound{{stroke-dasharray:{bound}}}");
    for dash in 0..DASHES.len() {
        if let Some(lengths) = Role::Arm(Style { hue: 0, dash }).dashes(unit) {
            let _ = writeln!(css, ".d{dash}{{stroke-dasharray:{lengths}}}");
        }
    }
    css
}
