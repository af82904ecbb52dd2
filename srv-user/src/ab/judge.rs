//! What a comparison comes to: ratios with their confidence, whether they can
//! be believed, and sentences for people. Only reads figures.

use crate::report::quantity::ns;
use crate::result::{Arm, Compared, Comparison, Key, Limit, Round, STOLEN_MAX};
use crate::stats::{ROUNDS_MIN, Ratio, median};

/// A control that spreads over more than this factor tells nothing apart but
/// what differs by more than it spreads.
const CONTROL_SPREAD_MAX: f64 = 3.0;
/// A generator later than this in 1 % of the requests measured itself, ns.
const LATENESS_MAX_NS: u64 = 1_000_000;

/// A figure of a round: its name, and how to get it.
type Figure = (&'static str, fn(&Round) -> f64);

/// What is compared between arms.
const FIGURES: [Figure; 7] = [
    ("short p99", |round| Key::ShortP99.of(round)),
    ("short p50", |round| Key::ShortP50.of(round)),
    ("mean", |round| round.all.mean_ns),
    ("p99", |round| round.all.p99_ns as f64),
    ("deviation", |round| Key::Deviation.of(round)),
    ("accepts CV", |round| round.accepts_cv),
    ("CPU per request", |round| round.cpu_ns_per_request),
];

/// Fills in `ratios`, `verdict` and `doubts` from the rest.
pub fn judge(comparison: &mut Comparison) {
    let key = comparison.scenario.key;
    comparison.ratios = ratios(&comparison.arms, comparison.limit.as_ref(), key);
    comparison.doubts = doubts(comparison);
    comparison.verdict = verdict(comparison);
}

/// The arm that the others are compared with.
pub fn subject(arms: &[Arm]) -> Option<&Arm> {
    arms.iter().find(|arm| !arm.rounds.is_empty())
}

fn others<'a>(arms: &'a [Arm], subject: &'a Arm) -> impl Iterator<Item = &'a Arm> + Clone {
    arms.iter().filter(|arm| arm.name != subject.name)
}

fn is_control(subject: &Arm, arm: &Arm) -> bool {
    arm.name == format!("{} again", subject.name)
}

fn ratios(arms: &[Arm], limit: Option<&Limit>, key: Key) -> Vec<Compared> {
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
    // Where nobody queues, the limit is nothing but the overhead that it is given.
    let limit = limit.filter(|_| key != Key::ShortP50);
    let limits = limit.map(|limit| key.of_limit(limit).into_iter().map(Some).collect());
    let to_limit =
        limits.and_then(|limits: Vec<_>| paired(&series(subject, |round| key.of(round)), &limits));
    ratios.extend(to_limit.map(|ratio| {
        Compared {
            figure: key.name().into(),
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

/// Round by round; `None` where the hypervisor disturbed it.
fn series(arm: &Arm, figure: impl Fn(&Round) -> f64) -> Vec<Option<f64>> {
    let rounds = arm.rounds.iter();
    rounds
        .map(|round| (!round.is_disturbed()).then(|| figure(round)))
        .collect()
}

/// Over the rounds that nobody disturbed.
fn typical(arm: &Arm, figure: impl Fn(&Round) -> f64) -> f64 {
    let rounds: Vec<f64> = series(arm, figure).into_iter().flatten().collect();
    median(&rounds)
}

/// Round by round, as far as both have them; `None` where that makes no sense.
pub fn paired(arm: &[Option<f64>], base: &[Option<f64>]) -> Option<Ratio> {
    let both = arm.iter().zip(base);
    let (arm, base): (Vec<f64>, Vec<f64>) = both.filter_map(|(arm, base)| arm.zip(*base)).unzip();
    let sensible = !base.is_empty() && base.iter().all(|&figure| figure > 0.0);
    sensible.then(|| Ratio::paired(&arm, &base))
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
    let key = comparison.scenario.key;
    for control in controls.filter(|ratio| ratio.figure == key.name()) {
        let Ratio { low, high, .. } = control.ratio;
        let mut left_out = comparison.arms.iter().flat_map(|arm| &arm.rounds);
        if control.ratio.count < ROUNDS_MIN && left_out.any(Round::is_disturbed) {
            doubts.push(format!(
                "Unusable: the hypervisor left {} rounds of the A/A control undisturbed, too few to tell.",
                control.ratio.count
            ));
            continue;
        }
        if control.ratio.matters() {
            doubts.push(format!(
                "Unusable: the A/A control differs from itself in {} ({}).",
                control.figure, control.ratio
            ));
        } else if high / low.max(f64::MIN_POSITIVE) > CONTROL_SPREAD_MAX
            && !is_beyond(effect(comparison), high / low)
        {
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
    let disturbed = rounds().filter(|round| round.is_disturbed()).count();
    if disturbed > 0 {
        doubts.push(format!(
            "The hypervisor took more than {:.0} % of the CPUs in {disturbed} of {} runs, which are not judged.",
            STOLEN_MAX * 100.0,
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

/// The figure that the verdict begins with: of the arm that the subject is
/// measured against, over the subject's.
fn effect(comparison: &Comparison) -> Option<Ratio> {
    let subject = subject(&comparison.arms)?;
    let key = comparison.scenario.key.name();
    let rival = rival(&comparison.arms, subject)?;
    find(&comparison.ratios, key, &rival.name, &subject.name).map(|found| found.ratio)
}

/// Whether all of the confidence interval is further from 1 than `factor`.
fn is_beyond(ratio: Option<Ratio>, factor: f64) -> bool {
    ratio.is_some_and(|ratio| ratio.low > factor || ratio.high < 1.0 / factor)
}

/// Whether the ratio is no further from 1 than the control's interval is wide.
fn is_within(ratio: &Ratio, control: &Ratio) -> bool {
    let spread = control.high / control.low.max(f64::MIN_POSITIVE);
    (1.0 / spread..=spread).contains(&ratio.rounds.median)
}

/// The kernel's hash, or else the first that is neither the subject nor its control.
fn rival<'a>(arms: &'a [Arm], subject: &'a Arm) -> Option<&'a Arm> {
    let mut rivals =
        others(arms, subject).filter(|arm| !is_control(subject, arm) && !arm.rounds.is_empty());
    let first = rivals.clone().next();
    rivals.find(|arm| arm.name == "hash").or(first)
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
    let rival = rival(&comparison.arms, subject);
    let key = comparison.scenario.key;
    let written = |arm: &Arm| ns(typical(arm, |round| key.of(round)));
    let controls = comparison.ratios.iter();
    let control = controls
        .filter(|ratio| ratio.control)
        .find(|ratio| ratio.figure == key.name());
    if let Some(rival) = rival
        && let Some(Compared { ratio, .. }) =
            find(&comparison.ratios, key.name(), &rival.name, &subject.name)
    {
        let (name, of) = (&subject.name, &rival.name);
        let is_noise = control.is_some_and(|control| is_within(ratio, &control.ratio));
        verdict.push(if !ratio.matters() || is_noise {
            let why = match key {
                Key::ShortP50 => " Hardly any request waits here, so that there is little to gain.",
                Key::ShortP99 | Key::Deviation => "",
            };
            let beyond = match ratio.matters() {
                true => " beyond the control's own",
                false => "",
            };
            format!(
                "No difference{beyond} in {} between {name} and {of}: {ratio}.{why}",
                key.title()
            )
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
                "{name} {verb} {} from {} ({of}) to {}, {times:.1} × (95 % CI {low:.1} to {high:.1}).",
                key.title(),
                written(rival),
                written(subject)
            )
        });
    }
    if let Some(Compared { ratio, .. }) =
        find(&comparison.ratios, key.name(), &subject.name, "limit")
    {
        verdict.push(format!(
            "It is {} the limit of one queue (95 % CI of the ratio {:.2} to {:.2}).",
            beside(ratio.rounds.median),
            ratio.low,
            ratio.high
        ));
    }
    let cv = |arm: &Arm| typical(arm, |round| round.accepts_cv);
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
    if let Some(control) = control {
        verdict.push(format!("A/A: {} ({}).", control.judgement, control.ratio));
    }
    let rounds = comparison.arms.iter().flat_map(|arm| &arm.rounds);
    let repeats: u32 = rounds.map(|round| round.repeats).sum();
    if repeats > 0 {
        verdict.push(format!(
            "Runs repeated because the hypervisor took more than {:.0} % of the CPUs: {repeats}.",
            STOLEN_MAX * 100.0
        ));
    }
    verdict
}

/// How a ratio is said of a limit.
fn beside(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    match percent {
        100.0.. => format!("{ratio:.1} times"),
        0.0.. => format!("{percent:.0} % above"),
        _ => format!("{:.0} % below", -percent),
    }
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
            served: None,
            cpu_ns_per_request: 1.0,
            lateness: Summary::default(),
            stolen: 0.0,
            repeats: 0,
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
            simulated: false,
            began: String::new(),
            command: String::new(),
            environment: vec![],
            scenario: Scenario {
                name: String::new(),
                about: String::new(),
                parameters: vec![],
                workers: 2,
                key: Key::default(),
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
    fn what_differs_by_more_than_the_control_spreads_is_believed() {
        let spread = [
            arm("least+ring", [40, 41, 39, 40, 42]),
            arm("least+ring again", [25, 100, 38, 42, 90]),
        ];
        let with = |p99_ms| {
            let mut arms = spread.to_vec();
            arms.push(arm("hash", p99_ms));
            is_unusable(&judged(arms))
        };
        assert!(with([120, 130, 110, 140, 120]));
        assert!(!with([900, 950, 890, 1000, 930]));
    }

    #[test]
    fn what_the_hypervisor_disturbed_is_not_judged() {
        let mut arms = vec![
            arm("least+ring", [40, 41, 39, 40, 42]),
            arm("least+ring again", [41, 900, 40, 39, 42]),
            arm("hash", [280, 300, 290, 270, 310]),
        ];
        arms[1].rounds[1].stolen = 0.3;
        let comparison = judged(arms.clone());
        assert!(!is_unusable(&comparison), "{:?}", comparison.doubts);
        let control = find(
            &comparison.ratios,
            "short p99",
            "least+ring again",
            "least+ring",
        );
        assert_eq!(control.map(|control| control.ratio.count), Some(4));
        for round in &mut arms[1].rounds[..3] {
            round.stolen = 0.3;
        }
        assert!(is_unusable(&judged(arms)));
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

    #[test]
    fn what_is_less_than_the_control_spreads_is_no_difference() {
        let verdict = |control| {
            let comparison = judged(vec![
                arm("least+ring", [40, 41, 39, 40, 42]),
                arm("least+ring again", control),
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
}
