//! What a comparison comes to: ratios with their confidence, whether they can
//! be believed, and sentences for people. Only reads figures.

use crate::result::{Arm, Compared, Comparison, Limit, Round};
use crate::stats::{CONTROL_TOLERANCE, Ratio, median};

/// A control that spreads over more than this factor tells nothing apart.
const CONTROL_SPREAD_MAX: f64 = 3.0;
/// A generator later than this in 1 % of the requests measured itself, ns.
const LATENESS_MAX_NS: u64 = 1_000_000;

/// A figure of a round: its name, and how to get it.
type Figure = (&'static str, fn(&Round) -> f64);

/// The figure that the verdict is about.
const SHORT_P99: Figure = ("short p99", |round| round.short.p99_ns as f64);

/// What is compared between arms.
const FIGURES: [Figure; 6] = [
    SHORT_P99,
    ("mean", |round| round.all.mean_ns),
    ("p99", |round| round.all.p99_ns as f64),
    ("deviation", |round| round.deviation_ns),
    ("accepts CV", |round| round.accepts_cv),
    ("CPU per request", |round| round.cpu_ns_per_request),
];

/// Fills in `ratios`, `verdict` and `doubts` from the rest.
pub fn judge(comparison: &mut Comparison) {
    comparison.ratios = ratios(&comparison.arms, comparison.limit.as_ref());
    comparison.doubts = doubts(comparison);
    comparison.verdict = verdict(comparison);
}

/// The arm that the others are compared with.
pub fn subject(arms: &[Arm]) -> Option<&Arm> {
    arms.iter().find(|arm| !arm.rounds.is_empty())
}

fn others<'a>(arms: &'a [Arm], subject: &'a Arm) -> impl Iterator<Item = &'a Arm> {
    arms.iter().filter(|arm| arm.name != subject.name)
}

fn is_control(subject: &Arm, arm: &Arm) -> bool {
    arm.name == format!("{} again", subject.name)
}

fn ratios(arms: &[Arm], limit: Option<&Limit>) -> Vec<Compared> {
    let Some(subject) = subject(arms) else {
        return Vec::new();
    };
    let mut ratios = Vec::new();
    for arm in others(arms, subject) {
        let control = is_control(subject, arm);
        for (figure, of) in FIGURES {
            let Some(ratio) = paired(&series(arm, of), &series(subject, of)) else {
                continue;
            };
            let judgement = match (control, ratio.differs()) {
                (true, _) => ratio.as_control(),
                (false, true) => "differs",
                (false, false) => "no difference",
            };
            ratios.push(Compared {
                figure: figure.into(),
                arm: arm.name.clone(),
                base: subject.name.clone(),
                ratio,
                judgement: judgement.into(),
                control,
            });
        }
    }
    let limits = limit.map(|limit| {
        let p99 = limit.short.iter().map(|short| short.p99_ns as f64);
        p99.collect::<Vec<f64>>()
    });
    let to_limit = limits.and_then(|limits| paired(&series(subject, SHORT_P99.1), &limits));
    ratios.extend(to_limit.map(|ratio| {
        Compared {
            figure: SHORT_P99.0.into(),
            arm: subject.name.clone(),
            base: "limit".into(),
            ratio,
            judgement: if ratio.differs() {
                "differs"
            } else {
                "no difference"
            }
            .into(),
            control: false,
        }
    }));
    ratios
}

fn series(arm: &Arm, figure: fn(&Round) -> f64) -> Vec<f64> {
    arm.rounds.iter().map(figure).collect()
}

/// Round by round, as far as both have them; `None` where that makes no sense.
pub fn paired(arm: &[f64], base: &[f64]) -> Option<Ratio> {
    let rounds = arm.len().min(base.len());
    let (arm, base) = (&arm[..rounds], &base[..rounds]);
    let sensible = rounds > 0 && base.iter().all(|&figure| figure > 0.0);
    sensible.then(|| Ratio::paired(arm, base))
}

fn find<'a>(ratios: &'a [Compared], figure: &str, arm: &str, base: &str) -> Option<&'a Compared> {
    let mut ratios = ratios.iter();
    ratios.find(|ratio| ratio.figure == figure && ratio.arm == arm && ratio.base == base)
}

fn doubts(comparison: &Comparison) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(why) = &comparison.incomplete {
        doubts.push(format!("The run is incomplete: {why}."));
    }
    // One figure: of several, one would differ by chance too often.
    let controls = comparison.ratios.iter().filter(|ratio| ratio.control);
    for control in controls.filter(|ratio| ratio.figure == SHORT_P99.0) {
        let Ratio {
            rounds, low, high, ..
        } = control.ratio;
        let off = control.ratio.differs() && (rounds.median - 1.0).abs() > CONTROL_TOLERANCE;
        if off {
            doubts.push(format!(
                "Unusable: the A/A control differs from itself in {} ({}).",
                control.figure, control.ratio
            ));
        } else if high / low.max(f64::MIN_POSITIVE) > CONTROL_SPREAD_MAX {
            doubts.push(format!(
                "Unusable: the A/A control spreads over a factor of {:.1} in {} ({}): this machine was too noisy.",
                high / low,
                control.figure,
                control.ratio
            ));
        }
    }
    let rounds = || comparison.arms.iter().flat_map(|arm| &arm.rounds);
    let late = rounds()
        .filter(|round| round.lateness.p99_ns > LATENESS_MAX_NS)
        .count();
    if late > 0 {
        doubts.push(format!(
            "The generator was late (p99 above 1 ms) in {late} of {} runs; it shows as latency.",
            rounds().count()
        ));
    }
    for arm in &comparison.arms {
        let lost: usize = arm.rounds.iter().map(|round| round.lost).sum();
        if lost > 0 {
            doubts.push(format!("{} lost {lost} requests.", arm.name));
        }
    }
    doubts
}

/// Whether the control says that nothing can be concluded.
pub fn is_unusable(comparison: &Comparison) -> bool {
    comparison
        .doubts
        .iter()
        .any(|doubt| doubt.starts_with("Unusable"))
}

fn verdict(comparison: &Comparison) -> Vec<String> {
    let Some(subject) = subject(&comparison.arms) else {
        return vec!["Nothing was measured.".into()];
    };
    if is_unusable(comparison) {
        return vec!["This run is not usable: its A/A control says that the machine was too noisy to tell arms apart.".into()];
    }
    let mut verdict = Vec::new();
    let other = others(&comparison.arms, subject)
        .filter(|arm| !is_control(subject, arm) && !arm.rounds.is_empty())
        .collect::<Vec<_>>();
    let rival = other
        .iter()
        .find(|arm| arm.name == "hash")
        .or(other.first())
        .copied();
    let ms = |arm: &Arm| median(&series(arm, SHORT_P99.1)) / 1e6;
    if let Some(rival) = rival
        && let Some(Compared { ratio, .. }) =
            find(&comparison.ratios, SHORT_P99.0, &rival.name, &subject.name)
    {
        let (name, of) = (&subject.name, &rival.name);
        verdict.push(if !ratio.differs() {
            format!("No difference in short-request p99 between {name} and {of}: {ratio}.")
        } else {
            let (verb, times) = if ratio.rounds.median > 1.0 {
                ("cuts", ratio.rounds.median)
            } else {
                ("raises", 1.0 / ratio.rounds.median)
            };
            let (low, high) = if ratio.rounds.median > 1.0 {
                (ratio.low, ratio.high)
            } else {
                (1.0 / ratio.high, 1.0 / ratio.low)
            };
            format!(
                "{name} {verb} short-request p99 from {:.1} ms ({of}) to {:.1} ms, {times:.1} × (95 % CI {low:.1} to {high:.1}).",
                ms(rival),
                ms(subject)
            )
        });
    }
    if let Some(Compared { ratio, .. }) =
        find(&comparison.ratios, SHORT_P99.0, &subject.name, "limit")
    {
        let percent = (ratio.rounds.median - 1.0) * 100.0;
        let side = if percent >= 0.0 { "above" } else { "below" };
        verdict.push(format!(
            "It is {:.0} % {side} the limit of one queue (95 % CI of the ratio {:.2} to {:.2}).",
            percent.abs(),
            ratio.low,
            ratio.high
        ));
    }
    let cv = |arm: &Arm| median(&series(arm, |round| round.accepts_cv));
    let mut shares = format!(
        "Shares: coefficient of variation {:.4} with {}",
        cv(subject),
        subject.name
    );
    for arm in &other {
        shares += &format!(", {:.4} with {}", cv(arm), arm.name);
    }
    verdict.push(shares + ".");
    let gaps = std::iter::once(subject).chain(other.iter().copied());
    let gaps: Vec<String> = gaps
        .filter_map(|arm| {
            let gap = arm.rounds.iter().filter_map(|round| round.live_gap).max()?;
            Some(format!("{gap} with {}", arm.name))
        })
        .collect();
    if !gaps.is_empty() {
        verdict.push(format!(
            "Kept connections, fullest less emptiest worker: {}.",
            gaps.join(", ")
        ));
    }
    let control = comparison
        .ratios
        .iter()
        .find(|ratio| ratio.control && ratio.figure == SHORT_P99.0);
    if let Some(control) = control {
        verdict.push(format!("A/A: {} ({}).", control.judgement, control.ratio));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{SCHEMA, Scenario};
    use crate::stats::Summary;

    fn arm(name: &str, p99_ms: [u64; 5]) -> Arm {
        let round = |p99_ms: u64| Round {
            seed: 1,
            requests: 100,
            lost: 0,
            short: Summary {
                p99_ns: p99_ms * 1_000_000,
                ..Summary::default()
            },
            all: Summary {
                mean_ns: p99_ms as f64,
                ..Summary::default()
            },
            deviation_ns: 1.0,
            accepts: vec![1, 1],
            accepts_cv: 0.01,
            accepts_max_over_mean: 1.0,
            accepts_jain: 1.0,
            live_gap: None,
            cpu_ns_per_request: 1.0,
            lateness: Summary::default(),
        };
        Arm {
            name: name.into(),
            about: String::new(),
            left_out: None,
            rounds: p99_ms.map(round).to_vec(),
            cdf: vec![],
            accepts: vec![],
            live: None,
        }
    }

    fn judged(arms: Vec<Arm>) -> Comparison {
        let mut comparison = Comparison {
            schema: SCHEMA,
            incomplete: None,
            began: String::new(),
            command: String::new(),
            environment: vec![],
            scenario: Scenario {
                name: String::new(),
                about: String::new(),
                parameters: vec![],
                workers: 2,
            },
            arms,
            limit: None,
            ratios: vec![],
            verdict: vec![],
            doubts: vec![],
        };
        judge(&mut comparison);
        comparison
    }

    #[test]
    fn a_clear_difference_is_said_with_its_confidence() {
        let comparison = judged(vec![
            arm("least+ring", [40, 41, 39, 40, 42]),
            arm("least+ring again", [41, 40, 40, 39, 42]),
            arm("hash", [280, 300, 290, 270, 310]),
        ]);
        assert_eq!(comparison.doubts, [""; 0]);
        let first = &comparison.verdict[0];
        assert!(
            first.contains("cuts short-request p99 from 290.0 ms (hash) to 40.0 ms, 7."),
            "{first}"
        );
        assert!(
            comparison
                .verdict
                .iter()
                .any(|line| line.contains("A/A: no difference"))
        );
    }

    #[test]
    fn a_control_that_differs_or_spreads_condemns_the_run() {
        for control in [[80, 82, 79, 85, 90], [10, 200, 40, 15, 180]] {
            let comparison = judged(vec![
                arm("least+ring", [40, 41, 39, 40, 42]),
                arm("least+ring again", control),
                arm("hash", [280, 300, 290, 270, 310]),
            ]);
            assert!(is_unusable(&comparison), "{:?}", comparison.doubts);
            assert_eq!(comparison.verdict.len(), 1);
            assert!(comparison.verdict[0].contains("not usable"));
        }
    }

    #[test]
    fn no_difference_is_said_to_be_none() {
        let comparison = judged(vec![
            arm("least+ring", [40, 41, 39, 40, 42]),
            arm("least+ring again", [41, 40, 40, 39, 42]),
            arm("shared", [41, 40, 39, 41, 41]),
        ]);
        assert!(
            comparison.verdict[0].contains("No difference"),
            "{:?}",
            comparison.verdict
        );
        assert_eq!(judged(vec![]).verdict, ["Nothing was measured."]);
    }
}
