//! `srv ab compare`: two runs, before and after a change, arm by arm.

use anyhow::{Result, bail, ensure};

use super::judge::{paired, series};
use crate::measure::result::{Comparison, Round};
use crate::output::table;

type Figure = (&'static str, fn(&Round) -> f64);

const FIGURES: [Figure; 5] = [
    ("short p99", |round| round.short.p99_ns as f64),
    ("mean", |round| round.all.mean_ns),
    ("deviation", |round| round.deviation_ns),
    ("accepts CV", |round| round.accepts_cv),
    ("CPU per request", |round| round.cpu_ns_per_request),
];

/// Prints `after` over `before` for every arm that both have.
///
/// # Errors
/// They are of different scenarios, or have no arm in common.
pub fn compare(before: &Comparison, after: &Comparison) -> Result<()> {
    for run in [before, after] {
        for doubt in &run.doubts {
            println!("doubt about {}: {doubt}", run.began);
        }
    }
    ensure!(
        before.scenario == after.scenario,
        "the runs asked different things: {} {:?} and {} {:?}",
        before.scenario.name,
        before.scenario.parameters,
        after.scenario.name,
        after.scenario.parameters
    );
    let mut rows = Vec::new();
    for old in &before.arms {
        let Some(new) = after.arms.iter().find(|arm| arm.name == old.name) else {
            continue;
        };
        for (name, figure) in FIGURES {
            let Some(ratio) = paired(&series(new, figure), &series(old, figure)) else {
                continue;
            };
            rows.push(vec![
                old.name.clone(),
                name.into(),
                ratio.to_string(),
                ratio.judgement().into(),
            ]);
        }
    }
    if rows.is_empty() {
        bail!("the runs have no arm in common that both measured");
    }
    println!("after / before, paired by round; below 1 is less");
    table::print(&["arm", "figure", "ratio", "judgement"], rows);
    Ok(())
}
