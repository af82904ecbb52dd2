//! Which arms are drawn, and how each looks in every plot.

use super::palette::{Role, Style};
use crate::measure::result::{ArmResult, ArmRole, Comparison};

/// An arm that ran.
pub(super) struct Series<'a> {
    /// Its place in [`Comparison::arms`].
    pub index: usize,
    /// The arm.
    pub arm: &'a ArmResult,
    /// What it is called on the page.
    pub name: String,
    /// How it looks.
    pub role: Role,
}

impl<'a> Series<'a> {
    /// The arms that have at least one round, in their order. A control looks
    /// like the arm that it repeats, dashed.
    pub(super) fn of(comparison: &'a Comparison) -> Vec<Self> {
        let mut places = 0;
        let mut series: Vec<(Self, Style)> = Vec::new();
        for (index, arm) in comparison.arms.iter().enumerate() {
            if arm.rounds.is_empty() {
                continue;
            }
            let repeats = |other: &&(Self, Style)| other.0.arm.name == arm.name;
            let twin = series
                .iter()
                .find(repeats)
                .filter(|_| arm.role == ArmRole::Control);
            let style = twin.map_or_else(
                || {
                    places += 1;
                    Style::at(places - 1)
                },
                |(_, style)| style.of_control(),
            );
            let role = style.into();
            let name = arm.label();
            series.push((
                Self {
                    index,
                    arm,
                    name,
                    role,
                },
                style,
            ));
        }
        series.into_iter().map(|(series, _)| series).collect()
    }
}
