//! What `bench tail` prints: a table per phase, then each target with what was
//! reached. Only reads samples.

use srv::measure::ab::arm::Arm;
use srv::measure::ab::measure::Plan;
use srv::measure::ab::overhead::Overhead;
use srv::measure::ab::scenario::Scenario;
use srv::measure::bound;
use srv::measure::stats::{Spread, Summary};
use srv_tests::report::{print_table, ratio, verdict};

use crate::measure::{Homes, Sample};
use crate::{CONTROL, HASH, KEEP_ALIVE, NGINX_REUSEPORT, NGINX_SHARED, Overheads, SUBJECT};

/// Short-request p99, the subject's to the single-queue bound's.
const BOUND_TARGET: f64 = 1.05;
/// Coefficient of variation of accepts with the cheap handler.
const SHARES_TARGET: f64 = 0.005;
/// Live connections, largest less smallest.
const GAP_TARGET: u64 = 1;
/// A generator later than this in 1 % of the requests measured itself, ns.
const LATENESS_MAX_NS: u64 = 1_000_000;

pub(crate) fn print_setup(scenario: &Scenario, seeds: [u64; 2]) {
    println!(
        "{} workers each, one connection per request, Poisson arrivals, latency from the \
         scheduled instant; {} seeds ({} for the cheap handler), the same draws for every arm, \
         interleaved, fresh processes each; accepts are deferred until the request is there, in srv and nginx alike; nginx's \
         handler blocks in Lua\n",
        scenario.workers, seeds[0], seeds[1]
    );
}

pub(crate) fn print_tail(
    scenario: &Scenario,
    arms: &[Arm],
    samples: &[Sample],
    plans: &[Plan],
    overheads: &Overheads,
) {
    let per_second = scenario.per_second().unwrap_or_default();
    println!(
        "{} µs, blocking, at {per_second}/s; means over the seeds, ms",
        scenario.service
    );
    let mut rows: Vec<Vec<String>> = arms.iter().map(|arm| tail_row(arm, samples)).collect();
    let bounds = [
        ("bound", Overhead::default()),
        ("bound + srv's overhead", overheads.srv),
        ("bound + nginx's overhead", overheads.nginx),
    ];
    rows.extend(bounds.map(|(name, overhead)| bound_row(name, scenario, plans, overhead)));
    let header = [
        "arm",
        "short p99",
        "range",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "shares CV",
        "CPU µs",
        "lost",
        "late p99",
    ];
    print_table(&header, rows);
    for (name, overhead) in [("srv", overheads.srv), ("nginx", overheads.nginx)] {
        let [occupies, delays] =
            [overhead.occupies_ns, overhead.delays_ns].map(|ns| ns as f64 / 1e3);
        println!(
            "  overhead of a request in {name}: keeps its worker {occupies:.0} µs longer \
             (saturated), delays the answer {delays:.0} µs more (alone)"
        );
    }
    let subject = series(samples, SUBJECT, short_p99);
    let bound = bound_p99(scenario, plans, overheads.srv);
    print_target("bound + srv's overhead", &subject, &bound, BOUND_TARGET);
    if let Some(ratio) = ratio(&subject, &bound_p99(scenario, plans, Overhead::default())) {
        println!("  {SUBJECT} / bound: {ratio}");
    }
    let nginx = series(samples, NGINX_SHARED, short_p99);
    print_target(NGINX_SHARED, &subject, &nginx, 1.0);
    let times = if per_second > 3000.0 { 5.0 } else { 10.0 };
    let hash = series(samples, HASH, short_p99);
    if let Some(ratio) = ratio(&hash, &subject) {
        let met = verdict(ratio.rounds.median >= times);
        println!("  {HASH} / {SUBJECT}: {ratio}  ≥ {times}: {met}");
    }
    print_soundness(samples, short_p99);
}

pub(crate) fn print_cheap(scenario: &Scenario, arms: &[Arm], samples: &[Sample]) {
    println!(
        "{} µs at {}/s; means over the seeds",
        scenario.service,
        scenario.per_second().unwrap_or_default()
    );
    let row = |arm: &Arm| {
        let cv = Spread::of(&series(samples, &arm.label(), |s| s.round.accepts_cv));
        let mean = Spread::of(&series(samples, &arm.label(), mean_us));
        let p99 = Spread::of(&series(samples, &arm.label(), |s| {
            s.round.all.p99_ns as f64 / 1e3
        }));
        vec![
            arm.label(),
            format!("{:.4}", cv.mean),
            format!("{:.4} to {:.4}", cv.min, cv.max),
            format!("{:.1}", mean.mean),
            format!("{:.1} to {:.1}", mean.min, mean.max),
            format!("{:.0}", p99.mean),
            cpu_us(samples, &arm.label()),
            lost(samples, &arm.label()),
        ]
    };
    let header = [
        "arm",
        "shares CV",
        "range",
        "mean µs",
        "range",
        "p99 µs",
        "CPU µs",
        "lost",
    ];
    print_table(&header, arms.iter().map(row));
    let shares = series(samples, SUBJECT, |s| s.round.accepts_cv);
    if !shares.is_empty() {
        let cv = Spread::of(&shares).mean;
        let met = verdict(cv <= SHARES_TARGET);
        println!("  shares CV of {SUBJECT}: {cv:.4}  ≤ {SHARES_TARGET}: {met}");
    }
    let subject = series(samples, SUBJECT, mean_us);
    for base in [HASH, NGINX_SHARED, NGINX_REUSEPORT] {
        print_no_worse(base, &subject, &series(samples, base, mean_us));
    }
    print_soundness(samples, mean_us);
}

pub(crate) fn print_homes(arms: &[Arm], homes: &[Homes]) {
    println!("keep-alive connections: live ones per worker, largest less smallest, worst round");
    let settings: Vec<(usize, bool)> = KEEP_ALIVE
        .iter()
        .flat_map(|&connections| [(connections, false), (connections, true)])
        .collect();
    let worst = |arm: &str, (connections, burst)| {
        let is_of = |home: &&Homes| {
            home.arm == arm && home.connections == connections && home.burst == burst
        };
        homes
            .iter()
            .filter(is_of)
            .map(Homes::gap)
            .max()
            .unwrap_or(0)
    };
    let row = |arm: &Arm| {
        let cells = settings
            .iter()
            .map(|&setting| worst(&arm.label(), setting).to_string());
        std::iter::once(arm.label()).chain(cells).collect()
    };
    let header = [
        "arm",
        "256 one by one",
        "256 burst",
        "32 one by one",
        "32 burst",
    ];
    print_table(&header, arms.iter().map(row));
    if homes.iter().any(|home| home.arm == SUBJECT) {
        let worst = settings.iter().map(|&setting| worst(SUBJECT, setting));
        let worst = worst.max().unwrap_or(0);
        println!(
            "  {SUBJECT}: {worst}  ≤ {GAP_TARGET}: {}",
            verdict(worst <= GAP_TARGET)
        );
    }
}

fn tail_row(arm: &Arm, samples: &[Sample]) -> Vec<String> {
    let ms = |figure: fn(&Sample) -> f64| Spread::of(&series(samples, &arm.label(), figure));
    let short = ms(short_p99);
    let mut row = vec![
        arm.label(),
        format!("{:.2}", short.mean),
        format!("{:.2} to {:.2}", short.min, short.max),
    ];
    let summaries = samples
        .iter()
        .filter(|s| s.arm == arm.label())
        .map(|s| s.round.all);
    row.extend(percentiles(&summaries.collect::<Vec<_>>()));
    row.push(format!("{:.3}", ms(|s| s.round.accepts_cv).mean));
    row.push(cpu_us(samples, &arm.label()));
    row.push(lost(samples, &arm.label()));
    row.push(format!(
        "{:.3}",
        ms(|s| s.round.lateness.p99_ns as f64 / 1e6).max
    ));
    row
}

fn bound_row(name: &str, scenario: &Scenario, plans: &[Plan], overhead: Overhead) -> Vec<String> {
    let short = Spread::of(&bound_p99(scenario, plans, overhead));
    let mut row = vec![
        name.to_owned(),
        format!("{:.2}", short.mean),
        format!("{:.2} to {:.2}", short.min, short.max),
    ];
    let all = |plan: &Plan| Summary::of(bound_latencies(scenario, plan, overhead));
    row.extend(percentiles(&plans.iter().map(all).collect::<Vec<_>>()));
    row
}

/// p50, p90, p99, p99.9 and max, each the mean over the rounds, ms.
fn percentiles(rounds: &[Summary]) -> [String; 5] {
    let figures: [fn(&Summary) -> u64; 5] = [
        |s| s.p50_ns,
        |s| s.p90_ns,
        |s| s.p99_ns,
        |s| s.p99_9_ns,
        |s| s.max_ns,
    ];
    figures.map(|figure| {
        let values: Vec<f64> = rounds.iter().map(|s| figure(s) as f64 / 1e6).collect();
        format!("{:.1}", srv::measure::stats::mean(&values))
    })
}

/// Short-request p99 of the single queue, ms, plan by plan.
fn bound_p99(scenario: &Scenario, plans: &[Plan], overhead: Overhead) -> Vec<f64> {
    let p99 = |plan: &Plan| {
        let latencies = bound_latencies(scenario, plan, overhead);
        let both = plan.draws.iter().zip(latencies);
        let short = both.filter(|(draw, _)| scenario.service.is_short(draw.service_us));
        Summary::of(short.map(|(_, latency_ns)| latency_ns)).p99_ns as f64 / 1e6
    };
    plans.iter().map(p99).collect()
}

/// Latency of each request in the single queue, ns.
fn bound_latencies(
    scenario: &Scenario,
    plan: &Plan,
    overhead: Overhead,
) -> impl Iterator<Item = u64> {
    let latencies = bound::replay(&plan.draws, scenario.workers, overhead.occupies_ns);
    latencies.into_iter().map(move |ns| ns + overhead.delays_ns)
}

fn short_p99(sample: &Sample) -> f64 {
    sample.round.short.p99_ns as f64 / 1e6
}

fn mean_us(sample: &Sample) -> f64 {
    sample.round.all.mean_ns / 1e3
}

/// Of the server's processes per request, mean over the rounds, µs.
fn cpu_us(samples: &[Sample], arm: &str) -> String {
    let mean = Spread::of(&series(samples, arm, |s| s.round.cpu_ns_per_request / 1e3)).mean;
    format!("{mean:.0}")
}

fn lost(samples: &[Sample], arm: &str) -> String {
    let of_arm = samples.iter().filter(|sample| sample.arm == arm);
    of_arm
        .map(|sample| sample.round.lost)
        .sum::<usize>()
        .to_string()
}

/// One figure of one arm, seed by seed.
fn series(samples: &[Sample], arm: &str, figure: fn(&Sample) -> f64) -> Vec<f64> {
    let mut of_arm: Vec<&Sample> = samples.iter().filter(|s| s.arm == arm).collect();
    of_arm.sort_by_key(|sample| sample.round.seed);
    of_arm.into_iter().map(figure).collect()
}

fn print_target(base: &str, subject: &[f64], figures: &[f64], bound: f64) {
    if let Some(ratio) = ratio(subject, figures) {
        let met = verdict(ratio.rounds.median <= bound);
        println!("  {SUBJECT} / {base}: {ratio}  ≤ {bound}: {met}");
    }
}

/// What is alike cannot be told by a median of rounds, half of which it is above 1: the
/// subject is worse where the rounds tell the arms apart, by more than matters.
fn print_no_worse(base: &str, subject: &[f64], figures: &[f64]) {
    if let Some(ratio) = ratio(subject, figures) {
        let is_worse = ratio.matters() && ratio.low > 1.0;
        println!(
            "  {SUBJECT} / {base}: {ratio}  no worse: {}",
            verdict(!is_worse)
        );
    }
}

/// Whether the phase can be believed: no loss, a punctual generator, a control that agrees.
fn print_soundness(samples: &[Sample], figure: fn(&Sample) -> f64) {
    let lost: usize = samples.iter().map(|sample| sample.round.lost).sum();
    println!("  no arm loses a request: {}", verdict(lost == 0));
    for sample in samples {
        if let Some(error) = &sample.first_error {
            let Sample { arm, round, .. } = sample;
            let (seed, lost) = (round.seed, round.lost);
            println!("  {arm}, seed {seed}: {lost} lost; first: {error}");
        }
    }
    let late = samples
        .iter()
        .filter(|s| s.round.lateness.p99_ns > LATENESS_MAX_NS)
        .count();
    if late > 0 {
        println!(
            "  THE GENERATOR WAS LATE in {late} runs (p99 above 1 ms): they measured this machine"
        );
    }
    let control = series(samples, CONTROL, figure);
    if let Some(ratio) = ratio(&control, &series(samples, SUBJECT, figure)) {
        println!(
            "  A/A, {CONTROL} / {SUBJECT}: {ratio}: {}",
            ratio.as_control()
        );
    }
    println!();
}
