//! Reasons not to believe a comparison, and what to do about them.

use super::roles::{self, is_control, rival, subject};
use crate::measure::report::quantity::ns;
use crate::measure::result::{Compared, Comparison, Doubt, HYPERVISOR_SHARE_MAX, Others, Round};
use crate::measure::stats::{ROUNDS_MIN, Ratio};

/// If a control spreads over more than this factor, only arms that differ by more than it
/// spreads can be told apart.
const CONTROL_SPREAD_MAX: f64 = 3.0;
/// If the generator was later than this in 1 % of the requests, the latencies are also its
/// own, ns.
const LATENESS_MAX_NS: u64 = 1_000_000;
/// If other processes used more than this part of the CPUs, they are named.
const OTHERS_MAX: f64 = 0.05;
/// If an arm's interval is all below this part of the single-queue bound, the bound was
/// given too much overhead.
const BELOW_BOUND: f64 = 0.95;

/// All of them.
pub(super) fn doubts(comparison: &Comparison) -> Vec<Doubt> {
    let incomplete = comparison.incomplete.iter();
    let mut doubts: Vec<Doubt> = incomplete
        .map(|why| Doubt::caveat(format!("The run is incomplete: {why}.")))
        .collect();
    // One figure: of several, one would differ by chance too often.
    let control = roles::control(&comparison.ratios, comparison.scenario.key.figure());
    doubts.extend(control.and_then(|control| of_control(comparison, control)));
    doubts.extend(without_control(comparison));
    doubts.extend(below_the_bound(comparison));
    doubts.extend(busy_others(comparison));
    doubts.extend(of_rounds(comparison));
    doubts
}

/// What to do about a run that is not usable.
pub(super) fn advice(comparison: &Comparison) -> String {
    let rounds = comparison.arms.iter().map(|arm| arm.rounds.len()).max();
    let rounds = rounds.unwrap_or(0).max(ROUNDS_MIN);
    let stop = match &comparison.others {
        Some(others) if others.share > OTHERS_MAX => {
            format!("stop the other processes ({}), or ", named(others))
        }
        _ => "run it when the machine is less busy (no other process of this system was busy), or "
            .into(),
    };
    format!(
        "What to do: {stop}run more rounds (--rounds {}).",
        rounds * 2
    )
}

/// The hypervisor has left no round in which both the subject and its control can be judged.
fn without_control(comparison: &Comparison) -> Option<Doubt> {
    let subject = subject(&comparison.arms)?;
    let control = comparison
        .arms
        .iter()
        .find(|arm| is_control(subject, arm) && !arm.rounds.is_empty())?;
    let mut pairs = subject.rounds.iter().zip(&control.rounds);
    let is_judged = pairs.any(|(one, other)| !one.is_disturbed() && !other.is_disturbed());
    (!is_judged).then(|| {
        Doubt::unusable(format!(
            "the hypervisor disturbed {} or its control in every round, so that there is \
             nothing to judge the machine by.",
            subject.name
        ))
    })
}

fn of_control(comparison: &Comparison, control: &Compared) -> Option<Doubt> {
    let Compared { ratio, figure, .. } = control;
    let count = ratio.count;
    let Some((low, high)) = ratio.interval() else {
        let mut rounds = comparison.arms.iter().flat_map(|arm| &arm.rounds);
        return Some(match rounds.any(Round::is_disturbed) {
            true => Doubt::unusable(format!(
                "the hypervisor left {count} rounds of the A/A control undisturbed, which are \
                 too few to tell."
            )),
            false => Doubt::caveat(format!(
                "{count} of at least {ROUNDS_MIN} rounds were run: there are no confidence \
                 intervals, and the A/A control says nothing."
            )),
        });
    };
    let spread = high / low.max(f64::MIN_POSITIVE);
    if ratio.matters() {
        Some(Doubt::unusable(format!(
            "the A/A control differs from itself in {figure} ({ratio})."
        )))
    } else if spread > CONTROL_SPREAD_MAX && !is_beyond(effect(comparison), spread) {
        Some(Doubt::unusable(format!(
            "the A/A control spreads over a factor of {spread:.1} in {figure} ({ratio}): this \
             machine was too noisy."
        )))
    } else {
        None
    }
}

/// No server can be below the bound by being good: then the bound was given too much
/// overhead.
fn below_the_bound(comparison: &Comparison) -> Option<Doubt> {
    let subject = subject(&comparison.arms)?;
    let bound = comparison.bound.as_ref()?;
    let figure = comparison.scenario.key.figure();
    let found = roles::to_bound(&comparison.ratios, figure, subject)?;
    let (_, high) = found.ratio.interval()?;
    (high < BELOW_BOUND && !comparison.simulated).then(|| {
        Doubt::caveat(format!(
            "{name} is below the single-queue bound, which holds only for the overhead that it \
             was given: {} with the worker and {} of delay per request, measured of {name} before \
             the rounds. In the rounds a request cost less. Compare the arms with one another, \
             not with the bound.",
            ns(bound.overhead_ns as f64),
            ns(bound.delay_ns as f64),
            name = subject.name,
        ))
    })
}

fn busy_others(comparison: &Comparison) -> Option<Doubt> {
    let others = comparison.others.as_ref()?;
    (others.share > OTHERS_MAX).then(|| {
        Doubt::caveat(format!(
            "Other processes used {:.0} % of this machine's CPUs meanwhile: {}.",
            others.share * 100.0,
            named(others)
        ))
    })
}

fn named(others: &Others) -> String {
    let busiest = others.busiest.iter();
    let named = busiest.map(|(name, share)| format!("{name} {:.0} %", share * 100.0));
    let named: Vec<String> = named.collect();
    match named.is_empty() {
        true => "processes that did not live as long as the run".into(),
        false => named.join(", "),
    }
}

fn of_rounds(comparison: &Comparison) -> Vec<Doubt> {
    let rounds = || comparison.arms.iter().flat_map(|arm| &arm.rounds);
    let mut doubts = Vec::new();
    let late = rounds()
        .filter(|round| round.lateness.p99_ns > LATENESS_MAX_NS)
        .count();
    if late > 0 {
        doubts.push(Doubt::caveat(format!(
            "The generator was late (p99 above 1 ms) in {late} of {} runs; that shows as latency.",
            rounds().count()
        )));
    }
    let disturbed = rounds().filter(|round| round.is_disturbed()).count();
    if disturbed > 0 {
        doubts.push(Doubt::caveat(format!(
            "The hypervisor took more than {:.0} % of the CPUs in {disturbed} of {} runs, which are not judged.",
            HYPERVISOR_SHARE_MAX * 100.0,
            rounds().count()
        )));
    }
    for arm in &comparison.arms {
        let lost: usize = arm.rounds.iter().map(|round| round.lost).sum();
        if lost > 0 {
            let name = arm.label();
            doubts.push(Doubt::caveat(format!("{name} lost {lost} requests.")));
        }
    }
    doubts
}

/// The figure that the verdict is about: of the arm that the subject is
/// measured against, over the subject's.
fn effect(comparison: &Comparison) -> Option<Ratio> {
    let subject = subject(&comparison.arms)?;
    let figure = comparison.scenario.key.figure();
    let rival = rival(&comparison.arms, subject)?;
    let found = roles::to_subject(&comparison.ratios, figure, rival, subject)?;
    Some(found.ratio)
}

/// Whether all of the confidence interval is further from 1 than `factor`.
fn is_beyond(ratio: Option<Ratio>, factor: f64) -> bool {
    let interval = ratio.and_then(|ratio| ratio.interval());
    interval.is_some_and(|(low, high)| low > factor || high < 1.0 / factor)
}
