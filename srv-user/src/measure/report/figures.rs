//! How a number gets onto the page: by its path in `result.json`, which stands
//! beside it in the page together with the exact value. So a figure can be
//! traced, and a test can compare the page with the file.

use anyhow::{Context as _, Result};
use maud::{Markup, html};
use serde_json::Value;
use strum::IntoStaticStr;

use super::quantity::Quantity;
use crate::measure::result::{Comparison, HYPERVISOR_SHARE_MAX};
use crate::measure::stats::Spread;

/// What is shown of the values at a path with `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Over {
    /// Their median.
    Median,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// Their sum.
    Sum,
}

impl Over {
    fn of(self, values: &[f64]) -> f64 {
        let spread = Spread::of(values);
        match self {
            Self::Median => spread.median,
            Self::Min => spread.min,
            Self::Max => spread.max,
            Self::Sum => values.iter().sum(),
        }
    }
}

/// `result.json`, looked up by paths such as `arms.3.rounds.*.short.p99_ns`.
pub(super) struct Figures(Value);

impl Figures {
    /// Of one comparison.
    pub(super) fn of(comparison: &Comparison) -> Result<Self> {
        let json = serde_json::to_value(comparison).context("serialise the comparison")?;
        Ok(Self(json))
    }

    /// One number as it stands in the file; a dash where there is none.
    pub(super) fn one(&self, path: &str, quantity: Quantity) -> Result<Markup> {
        let value = self.at(path)?;
        Ok(match value.as_f64() {
            Some(number) => html! {
                data data-path=(path) data-value=(value) value=(value) { (quantity.write(number)) }
            },
            None => absent(),
        })
    }

    /// One text as it stands in the file.
    pub(super) fn text(&self, path: &str) -> Result<Markup> {
        let value = self.at(path)?;
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        Ok(html! { span data-path=(path) data-value=(text) { (text) } })
    }

    /// All values at a path with one `*`; those that are null are left out, and so
    /// are, but for a sum, those of rounds that the hypervisor disturbed (unless it
    /// disturbed each): as [`crate::measure::result::ArmResult::judged`].
    pub(super) fn all(&self, path: &str, over: Over) -> Result<Vec<f64>> {
        let (list, rest) = path.split_once(".*").unwrap_or((path, ""));
        let none = Vec::new();
        let elements = self.at(list)?.as_array().unwrap_or(&none);
        let takes_all = over == Over::Sum || elements.iter().all(is_disturbed);
        (0..elements.len())
            .filter(|&index| takes_all || !is_disturbed(&elements[index]))
            .map(|index| self.at(&format!("{list}.{index}{rest}")).map(Value::as_f64))
            .filter_map(Result::transpose)
            .collect()
    }

    /// What `over` makes of the values at `path`; a dash if there are none.
    pub(super) fn over(&self, path: &str, over: Over, quantity: Quantity) -> Result<Markup> {
        let values = self.all(path, over)?;
        if values.is_empty() {
            return Ok(absent());
        }
        let value = over.of(&values);
        Ok(html! {
            data data-path=(path) data-over=(<&str>::from(over)) data-value=(value) value=(value) {
                (quantity.write(value))
            }
        })
    }

    fn at(&self, path: &str) -> Result<&Value> {
        self.0
            .pointer(&format!("/{}", path.replace('.', "/")))
            .with_context(|| format!("find {path} in the comparison"))
    }
}

/// [`crate::measure::result::Round::is_disturbed`], of what may be no round.
fn is_disturbed(element: &Value) -> bool {
    let share = element["hypervisor_share"].as_f64();
    share.is_some_and(|share| share > HYPERVISOR_SHARE_MAX)
}

fn absent() -> Markup {
    html! { span.absent title="not measured" { "–" } }
}
