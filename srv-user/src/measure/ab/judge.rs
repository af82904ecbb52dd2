//! The conclusion of a comparison: ratios with their confidence, reasons not to believe them
//! ([`doubts`]), and sentences for people ([`verdict`]). Only reads figures.

use super::roles::{is_control, others, subject};
use super::{doubts, verdict};
use strum::VariantArray as _;

use crate::measure::result::{ArmResult, Bound, Compared, Comparison, Figure, Key, Pair};
use crate::measure::stats::Ratio;

/// Fills in `ratios`, `doubts` and `verdict` from the rest.
pub fn judge(comparison: &mut Comparison) {
    let key = comparison.scenario.key;
    comparison.ratios = ratios(&comparison.arms, comparison.bound.as_ref(), key);
    comparison.doubts = doubts::doubts(comparison);
    comparison.verdict = verdict::verdict(comparison);
}

fn ratios(arms: &[ArmResult], bound: Option<&Bound>, key: Key) -> Vec<Compared> {
    let Some(subject) = subject(arms) else {
        return Vec::new();
    };
    let mut ratios = Vec::new();
    for arm in others(arms, subject) {
        for &figure in Figure::VARIANTS {
            let Some(ratio) = paired(&series(arm, figure), &series(subject, figure)) else {
                continue;
            };
            let (pair, judgement) = match is_control(subject, arm) {
                true => (Pair::Control(subject.name.clone()), ratio.as_control()),
                false => {
                    let (arm, base) = (arm.name.clone(), subject.name.clone());
                    (Pair::Arms { arm, base }, ratio.judgement())
                }
            };
            ratios.push(Compared {
                figure,
                pair,
                ratio,
                judgement,
            });
        }
    }
    ratios.extend(to_bound(subject, bound, key));
    ratios
}

/// The subject's figure over the bound's.
fn to_bound(subject: &ArmResult, bound: Option<&Bound>, key: Key) -> Option<Compared> {
    // Where no request queues, the bound is nothing but the overhead that it is given.
    let bound = bound.filter(|_| key != Key::ShortP50)?;
    let of_bound: Vec<_> = key.of_bound(bound).into_iter().map(Some).collect();
    let ratio = paired(&series(subject, key.figure()), &of_bound)?;
    Some(Compared {
        figure: key.figure(),
        pair: Pair::Bound(subject.name.clone()),
        ratio,
        judgement: ratio.judgement(),
    })
}

/// Round by round; `None` where the hypervisor disturbed it.
pub fn series(arm: &ArmResult, figure: Figure) -> Vec<Option<f64>> {
    let rounds = arm.rounds.iter();
    rounds
        .map(|round| (!round.is_disturbed()).then(|| figure.of(round)))
        .collect()
}

/// Round by round, where both have the figure; `None` if there is no such round or a base is 0.
pub fn paired(arm: &[Option<f64>], base: &[Option<f64>]) -> Option<Ratio> {
    let both = arm.iter().zip(base);
    let (arm, base): (Vec<f64>, Vec<f64>) = both.filter_map(|(arm, base)| arm.zip(*base)).unzip();
    let sensible = !base.is_empty() && base.iter().all(|&figure| figure > 0.0);
    sensible.then(|| Ratio::paired(&arm, &base))
}

#[cfg(test)]
mod tests {
    use super::super::roles::control as control_of;
    use super::*;
    use crate::measure::result::{ArmRole, Doubt, Gravity, Others, Round, SCHEMA, ScenarioRecord};
    use crate::measure::stats::Summary;

    fn arm(name: &str, p99_ms: [u64; 5]) -> ArmResult {
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
            served: None,
            cpu_ns_per_request: 1.0,
            lateness: Summary::default(),
            accept_delay_p50_ns: None,
            accept_delay_p99_ns: None,
            hypervisor_share: 0.0,
            repeats: 0,
        };
        ArmResult {
            name: name.into(),
            role: ArmRole::Candidate,
            about: String::new(),
            left_out: None,
            rounds: p99_ms.map(round).to_vec(),
            cdf: vec![],
            accepts: vec![],
            live: None,
        }
    }

    /// The subject once more.
    fn control(p99_ms: [u64; 5]) -> ArmResult {
        ArmResult {
            role: ArmRole::Control,
            ..arm("least+ring", p99_ms)
        }
    }

    fn judged(arms: Vec<ArmResult>) -> Comparison {
        let mut comparison = Comparison {
            schema: SCHEMA,
            incomplete: None,
            simulated: false,
            began: String::new(),
            command: String::new(),
            environment: vec![],
            scenario: ScenarioRecord {
                name: String::new(),
                about: String::new(),
                parameters: vec![],
                workers: 2,
                key: Key::default(),
            },
            arms,
            bound: None,
            others: None,
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
            control([41, 40, 40, 39, 42]),
            arm("hash", [280, 300, 290, 270, 310]),
        ]);
        assert_eq!(comparison.doubts, []);
        let first = &comparison.verdict[0];
        let first = first.replace('\u{a0}', " ");
        assert!(
            first.contains("cuts short-request p99 from 290 ms (hash) to 40.0 ms, 7."),
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
        for p99_ms in [[80, 82, 79, 85, 90], [10, 200, 40, 15, 180]] {
            let comparison = judged(vec![
                arm("least+ring", [40, 41, 39, 40, 42]),
                control(p99_ms),
                arm("hash", [280, 300, 290, 270, 310]),
            ]);
            assert!(!comparison.is_usable(), "{:?}", comparison.doubts);
            let [verdict, advice] = &comparison.verdict[..] else {
                panic!("{:?}", comparison.verdict)
            };
            assert!(verdict.contains("not usable"), "{verdict}");
            assert!(advice.contains("--rounds 10"), "{advice}");
        }
    }

    #[test]
    fn what_differs_by_more_than_the_control_spreads_is_believed() {
        let spread = [
            arm("least+ring", [40, 41, 39, 40, 42]),
            control([25, 100, 38, 42, 90]),
        ];
        let with = |p99_ms| {
            let mut arms = spread.to_vec();
            arms.push(arm("hash", p99_ms));
            !judged(arms).is_usable()
        };
        assert!(with([120, 130, 110, 140, 120]));
        assert!(!with([900, 950, 890, 1000, 930]));
    }

    #[test]
    fn what_the_hypervisor_disturbed_is_not_judged() {
        let mut arms = vec![
            arm("least+ring", [40, 41, 39, 40, 42]),
            control([41, 900, 40, 39, 42]),
            arm("hash", [280, 300, 290, 270, 310]),
        ];
        arms[1].rounds[1].hypervisor_share = 0.3;
        let comparison = judged(arms.clone());
        assert!(comparison.is_usable(), "{:?}", comparison.doubts);
        let control = control_of(&comparison.ratios, Figure::ShortP99);
        assert_eq!(control.map(|control| control.ratio.count), Some(4));
        for round in &mut arms[1].rounds[..3] {
            round.hypervisor_share = 0.3;
        }
        assert!(!judged(arms).is_usable());
    }

    #[test]
    fn no_difference_is_said_to_be_none() {
        let comparison = judged(vec![
            arm("least+ring", [40, 41, 39, 40, 42]),
            control([41, 40, 40, 39, 42]),
            arm("shared", [41, 40, 39, 41, 41]),
        ]);
        assert!(
            comparison.verdict[0].contains("No difference"),
            "{:?}",
            comparison.verdict
        );
        assert_eq!(judged(vec![]).verdict, ["Nothing was measured."]);
    }

    #[test]
    fn what_is_less_than_the_control_spreads_is_no_difference() {
        let verdict = |p99_ms| {
            let comparison = judged(vec![
                arm("least+ring", [40, 41, 39, 40, 42]),
                control(p99_ms),
                arm("shared", [42, 43, 41, 42, 44]),
            ]);
            comparison.verdict[0].clone()
        };
        let spread = verdict([38, 44, 40, 39, 44]);
        assert!(
            spread.starts_with("No difference beyond the control's own"),
            "{spread}"
        );
        let close = verdict([40, 41, 39, 40, 42]);
        assert!(close.contains("cuts"), "{close}");
    }

    #[test]
    fn an_unusable_run_names_what_else_ran() {
        let mut comparison = judged(vec![
            arm("least+ring", [40, 41, 39, 40, 42]),
            control([80, 82, 79, 85, 90]),
        ]);
        comparison.others = Some(Others {
            share: 0.34,
            busiest: vec![("rustc".into(), 0.2)],
        });
        judge(&mut comparison);
        assert!(
            comparison.verdict[1].contains("rustc 20 %"),
            "{:?}",
            comparison.verdict
        );
        let doubts: Vec<String> = comparison.doubts.iter().map(Doubt::to_string).collect();
        let doubts = doubts.join("\n");
        assert!(doubts.contains("34 % of this machine's CPUs"), "{doubts}");
    }

    #[test]
    fn one_round_has_no_interval_and_condemns_nothing() {
        let mut arms = vec![
            arm("least+ring", [40; 5]),
            control([50; 5]),
            arm("hash", [290; 5]),
        ];
        arms.iter_mut().for_each(|arm| arm.rounds.truncate(1));
        let comparison = judged(arms);
        assert!(comparison.is_usable(), "{:?}", comparison.doubts);
        let doubts = comparison.doubts.iter().map(Doubt::to_string);
        let said: Vec<String> = comparison.verdict.iter().cloned().chain(doubts).collect();
        assert!(said.iter().all(|line| !line.contains("95 %")), "{said:?}");
        let first = comparison.verdict[0].replace('\u{a0}', " ");
        assert!(
            first.contains("290 ms") && first.contains("too few rounds"),
            "{first}"
        );
    }

    #[test]
    fn what_is_below_the_bound_is_explained() {
        let mut comparison = judged(vec![
            arm("least+ring", [40, 41, 39, 40, 42]),
            control([41, 40, 40, 39, 42]),
        ]);
        let bound = |p99_ms: u64| {
            let summary = Summary {
                p99_ns: p99_ms * 1_000_000,
                ..Summary::default()
            };
            Some(Bound {
                about: String::new(),
                overhead_ns: 50_000,
                delay_ns: 300_000,
                short: vec![summary; 5],
                all: vec![],
                deviation_ns: vec![],
                cdf: vec![],
            })
        };
        comparison.bound = bound(39);
        judge(&mut comparison);
        assert_eq!(comparison.doubts, []);
        comparison.bound = bound(74);
        judge(&mut comparison);
        let doubt = &comparison.doubts[0];
        assert_eq!(doubt.gravity, Gravity::Caveat);
        assert!(
            doubt.sentence.contains("is below the single-queue bound")
                && doubt.sentence.contains("not with the bound"),
            "{doubt}"
        );
    }

    #[test]
    fn where_hardly_anything_waits_the_imbalance_is_said_first() {
        let mut arms = vec![
            arm("least+ring", [40, 41, 39, 40, 42]),
            control([41, 40, 40, 39, 42]),
            arm("hash", [40, 41, 40, 39, 42]),
            arm("shared", [41, 40, 39, 41, 41]),
        ];
        let held = |arm: &mut ArmResult, accepts: [u64; 2]| {
            for round in &mut arm.rounds {
                round.accepts = accepts.to_vec();
                round.live_gap = Some(accepts[0] - accepts[1]);
                round.accepts_max_over_mean = accepts[0] as f64 / 16.0;
            }
        };
        held(&mut arms[0], [16, 16]);
        held(&mut arms[2], [19, 13]);
        held(&mut arms[3], [31, 1]);
        let rounds = arms.iter_mut().flat_map(|arm| &mut arm.rounds);
        rounds.for_each(|round| round.short.p50_ns = 90_000);
        let mut comparison = judged(arms);
        comparison.scenario.key = Key::ShortP50;
        judge(&mut comparison);
        assert!(
            comparison.verdict[0]
                .ends_with("31 and 1 with shared; 19 and 13 with hash; 16 and 16 with least+ring."),
            "{:?}",
            comparison.verdict
        );
        assert!(comparison.verdict[1].starts_with("No difference"));
    }
}
