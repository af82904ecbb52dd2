//! The conclusion of a comparison, in sentences for people. The first one answers what the
//! scenario is about.

use super::doubts::advice;
use super::roles::{self, rival, rivals, subject};
use crate::measure::report::quantity::ns;
use crate::measure::result::{ArmResult, Compared, Comparison, HYPERVISOR_SHARE_MAX, Key};
use crate::measure::stats::Ratio;

/// The sentences.
pub(super) fn verdict(comparison: &Comparison) -> Vec<String> {
    let Some(subject) = subject(&comparison.arms) else {
        return vec!["Nothing was measured.".into()];
    };
    if !comparison.is_usable() {
        return vec![
            "This run is not usable: its A/A control says that the machine was too noisy to tell arms apart.".into(),
            advice(comparison),
        ];
    }
    let mut verdict = vec![imbalance(comparison, subject)];
    let mut latency: Vec<String> = effect(comparison, subject)
        .into_iter()
        .chain(beside_the_bound(comparison, subject))
        .collect();
    // If hardly any request waits, the arms differ in their imbalance alone.
    match comparison.scenario.key {
        Key::ShortP50 => verdict.append(&mut latency),
        Key::ShortP99 | Key::Deviation => verdict.splice(0..0, latency).for_each(drop),
    }
    verdict.push(shares(comparison, subject));
    let figure = comparison.scenario.key.figure();
    if let Some(control) = roles::control(&comparison.ratios, figure) {
        verdict.push(format!("A/A: {} ({}).", control.judgement, control.ratio));
    }
    let rounds = comparison.arms.iter().flat_map(|arm| &arm.rounds);
    let repeats: u32 = rounds.map(|round| round.repeats).sum();
    if repeats > 0 {
        verdict.push(format!(
            "Runs repeated because the hypervisor took more than {:.0} % of the CPUs: {repeats}.",
            HYPERVISOR_SHARE_MAX * 100.0
        ));
    }
    verdict
}

/// How unevenly the workers are used, the most uneven arm first.
fn imbalance(comparison: &Comparison, subject: &ArmResult) -> String {
    let workers = comparison.scenario.workers;
    let mut arms: Vec<&ArmResult> = rivals(&comparison.arms, subject).collect();
    let unevenness = |arm: &ArmResult| arm.median(|round| round.accepts_max_over_mean);
    arms.sort_by(|a, b| unevenness(b).total_cmp(&unevenness(a)));
    arms.push(subject);
    let counts = arms.iter().filter_map(|arm| {
        let worst = arm.rounds.iter().max_by_key(|round| round.live_gap)?;
        worst.live_gap?;
        let (most, least) = (worst.accepts.iter().max()?, worst.accepts.iter().min()?);
        Some((arm, worst.accepts.iter().sum::<u64>(), most, least))
    });
    let counts: Vec<_> = counts.collect();
    if let Some(&(_, count, ..)) = counts.first() {
        let each = counts
            .iter()
            .map(|(arm, _, most, least)| format!("{most} and {least} with {}", arm.name));
        return format!(
            "Of {count} keep-alive connections the fullest of {workers} workers has, and the emptiest, \
             in the worst round: {}.",
            each.collect::<Vec<_>>().join("; ")
        );
    }
    let even = 100.0 / workers as f64;
    let took = arms
        .iter()
        .map(|arm| format!("{:.1} % with {}", unevenness(arm) * even, arm.name));
    format!(
        "The busiest of {workers} workers took, of all connections: {} (an even share is {even:.1} %).",
        took.collect::<Vec<_>>().join("; ")
    )
}

/// The scenario's figure, of the subject and the arm that it is measured against.
fn effect(comparison: &Comparison, subject: &ArmResult) -> Option<String> {
    let key = comparison.scenario.key;
    let rival = rival(&comparison.arms, subject)?;
    let figure = key.figure();
    let Compared { ratio, .. } = roles::to_subject(&comparison.ratios, figure, rival, subject)?;
    let (name, of, title) = (&subject.name, &rival.name, key.title());
    let written = |arm: &ArmResult| ns(arm.median(|round| key.of(round)));
    let Some((low, high)) = ratio.interval() else {
        return Some(format!(
            "{title}: {} with {name}, {} with {of}; {}.",
            written(subject),
            written(rival),
            ratio.judgement()
        ));
    };
    let control = roles::control(&comparison.ratios, figure);
    let is_noise = control.is_some_and(|control| is_within(ratio, &control.ratio));
    if !ratio.matters() || is_noise {
        let why = match key {
            Key::ShortP50 => " Hardly any request waits here, so that there is little to gain.",
            Key::ShortP99 | Key::Deviation => "",
        };
        let beyond = match ratio.matters() {
            true => " beyond the control's own",
            false => "",
        };
        return Some(format!(
            "No difference{beyond} in {title} between {name} and {of}: {ratio}.{why}"
        ));
    }
    let (verb, times, low, high) = match ratio.rounds.median > 1.0 {
        true => ("cuts", ratio.rounds.median, low, high),
        false => ("raises", 1.0 / ratio.rounds.median, 1.0 / high, 1.0 / low),
    };
    Some(format!(
        "{name} {verb} {title} from {} ({of}) to {}, {times:.1} × (95 % CI {low:.1} to {high:.1}).",
        written(rival),
        written(subject)
    ))
}

fn beside_the_bound(comparison: &Comparison, subject: &ArmResult) -> Option<String> {
    let figure = comparison.scenario.key.figure();
    let Compared { ratio, .. } = roles::to_bound(&comparison.ratios, figure, subject)?;
    let percent = (ratio.rounds.median - 1.0) * 100.0;
    let beside = match percent {
        100.0.. => format!("{:.1} times", ratio.rounds.median),
        0.0.. => format!("{percent:.0} % above"),
        _ => format!("{:.0} % below", -percent),
    };
    let confidence = match ratio.interval() {
        Some((low, high)) => format!("95 % CI of the ratio {low:.2} to {high:.2}"),
        None => ratio.judgement().to_string(),
    };
    Some(format!(
        "It is {beside} the single-queue bound ({confidence})."
    ))
}

fn shares(comparison: &Comparison, subject: &ArmResult) -> String {
    let cv = |arm: &ArmResult| {
        format!(
            "{:.4} with {}",
            arm.median(|round| round.accepts_cv),
            arm.name
        )
    };
    let arms = std::iter::once(subject).chain(rivals(&comparison.arms, subject));
    let shares: Vec<String> = arms.map(cv).collect();
    format!("Shares: coefficient of variation {}.", shares.join(", "))
}

/// Whether the ratio is no further from 1 than the width of the control's interval.
fn is_within(ratio: &Ratio, control: &Ratio) -> bool {
    control.interval().is_some_and(|(low, high)| {
        let spread = high / low.max(f64::MIN_POSITIVE);
        (1.0 / spread..=spread).contains(&ratio.rounds.median)
    })
}
