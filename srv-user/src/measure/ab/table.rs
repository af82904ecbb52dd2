//! What `srv ab` prints on the terminal.

use crate::measure::result::{ArmResult, BOUND, Comparison, Round, Served};
use crate::measure::stats::{Spread, Summary, median};
use crate::output::table;

/// Says what is about to be measured.
pub fn announce(comparison: &Comparison) {
    let scenario = &comparison.scenario;
    println!("scenario {}: {}", scenario.name, scenario.about);
    for (label, value) in scenario.parameters.iter().chain(&comparison.environment) {
        println!("  {label}: {value}");
    }
    for arm in &comparison.arms {
        match &arm.left_out {
            None => println!("  arm {}: {}", arm.label(), arm.about),
            Some(why) => println!("  arm {} is left out: {why}", arm.label()),
        }
    }
}

/// The figures, then what they come to.
pub fn conclude(comparison: &Comparison) {
    println!("\nmedians over the undisturbed rounds, latency from the scheduled instant, ms");
    let mut rows: Vec<Vec<String>> = comparison
        .arms
        .iter()
        .filter(|arm| !arm.rounds.is_empty())
        .map(row)
        .collect();
    if let Some(bound) = &comparison.bound {
        let mut row = vec![BOUND.to_owned()];
        row.extend(latencies(&bound.short, &bound.all));
        rows.push(row);
    }
    table::print(
        &[
            "arm",
            "short p99",
            "range",
            "mean",
            "deviation",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
            "wait p99",
            "shares CV",
            "max/mean",
            "live gap",
            "CPU µs",
            "lost",
            "late p99",
        ],
        rows,
    );
    if let Some(bound) = &comparison.bound {
        println!("  {BOUND}: {}", bound.about);
    }
    println!("  wait p99: until a worker accepted the connection, which only srv knows of itself");
    print_served(&comparison.arms);
    println!();
    for doubt in &comparison.doubts {
        println!("  ! {doubt}");
    }
    for line in &comparison.verdict {
        println!("  {line}");
    }
}

/// Which workers the requests over keep-alive connections went to, if there were any.
fn print_served(arms: &[ArmResult]) {
    let row = |arm: &ArmResult| {
        let rounds = arm.judged();
        let served = || rounds.iter().filter_map(|round| round.served.as_ref());
        served().next()?;
        let over = |figure: fn(&Served) -> f64| median(&served().map(figure).collect::<Vec<_>>());
        Some(vec![
            arm.label(),
            format!("{:.4}", over(|served| served.cv)),
            format!("{:.3}", over(|served| served.max_over_mean)),
        ])
    };
    let rows: Vec<_> = arms.iter().filter_map(row).collect();
    if !rows.is_empty() {
        println!("\nrequests per worker over the keep-alive connections, medians over the rounds");
        table::print(&["arm", "CV", "max/mean"], rows);
    }
}

fn row(arm: &ArmResult) -> Vec<String> {
    let rounds = arm.judged();
    let over = |figure: fn(&Round) -> f64| arm.median(figure);
    let summaries = |of: fn(&Round) -> Summary| rounds.iter().copied().map(of).collect::<Vec<_>>();
    let mut row = vec![arm.label()];
    row.extend(latencies(
        &summaries(|round| round.short),
        &summaries(|round| round.all),
    ));
    row[4] = format!("{:.2}", over(|round| round.deviation_ns) / 1e6);
    row.push(waited(&rounds));
    row.push(format!("{:.4}", over(|round| round.accepts_cv)));
    row.push(format!("{:.3}", over(|round| round.accepts_max_over_mean)));
    let gap = arm.rounds.iter().filter_map(|round| round.live_gap).max();
    row.push(gap.map_or_else(|| "-".into(), |gap| gap.to_string()));
    let cpu_us = over(|round| round.cpu_ns_per_request) / 1e3;
    row.push(match cpu_us > 0.0 {
        true => format!("{cpu_us:.0}"),
        // Simulated.
        false => "-".into(),
    });
    let lost: usize = arm.rounds.iter().map(|round| round.lost).sum();
    row.push(lost.to_string());
    row.push(format!(
        "{:.2}",
        over(|round| round.lateness.p99_ns as f64) / 1e6
    ));
    row
}

/// For how long 99 of 100 connections waited at most until a worker accepted them.
fn waited(rounds: &[&Round]) -> String {
    let known = rounds.iter().filter_map(|round| round.accept_delay_p99_ns);
    let p99: Vec<f64> = known.map(|ns| ns as f64 / 1e6).collect();
    match p99.is_empty() {
        true => "-".into(),
        false => format!("{:.2}", median(&p99)),
    }
}

/// From short p99 to the maximum.
fn latencies(short: &[Summary], all: &[Summary]) -> Vec<String> {
    let p99: Vec<f64> = short
        .iter()
        .map(|short| short.p99_ns as f64 / 1e6)
        .collect();
    let p99 = Spread::of(&p99);
    let over = |figure: fn(&Summary) -> f64| {
        let figures: Vec<f64> = all.iter().map(figure).collect();
        format!("{:.1}", median(&figures) / 1e6)
    };
    vec![
        format!("{:.2}", p99.median),
        format!("{:.2} to {:.2}", p99.min, p99.max),
        over(|all| all.mean_ns),
        "-".into(),
        over(|all| all.p50_ns as f64),
        over(|all| all.p90_ns as f64),
        over(|all| all.p99_ns as f64),
        over(|all| all.p99_9_ns as f64),
        over(|all| all.max_ns as f64),
    ]
}
