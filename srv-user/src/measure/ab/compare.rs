//! `srv ab compare`: two runs, before and after a change, arm by arm.

use anyhow::{Result, bail, ensure};

use super::judge::{paired, series};
use crate::measure::result::{ArmResult, Comparison, Figure};
use crate::output::table;

const FIGURES: [Figure; 5] = [
    Figure::ShortP99,
    Figure::Mean,
    Figure::Deviation,
    Figure::AcceptsCv,
    Figure::CpuPerRequest,
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
        before.is_like(after),
        "the runs asked different things: {} {:?} and {} {:?}",
        before.scenario.name,
        before.scenario.parameters,
        after.scenario.name,
        after.scenario.parameters
    );
    let mut rows = Vec::new();
    for old in &before.arms {
        let Some(new) = after.arms.iter().find(|new| is_same(old, new)) else {
            continue;
        };
        for figure in FIGURES {
            let Some(ratio) = paired(&series(new, figure), &series(old, figure)) else {
                continue;
            };
            rows.push(vec![
                old.label(),
                figure.to_string(),
                ratio.to_string(),
                ratio.judgement().to_string(),
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

fn is_same(one: &ArmResult, other: &ArmResult) -> bool {
    (&one.name, one.role) == (&other.name, other.role)
}
