//! A made-up comparison for the tests of reports: the draws are real, the server is a
//! handful of queues.

use std::time::Duration;

use crate::measure::arrivals::{Draw, Service, Uniform, poisson};
use crate::measure::bound as single_queue;
use crate::measure::distribution::{Sorted, over_rounds};
use crate::measure::result::{
    ArmResult, ArmRole, Bound, Compared, Comparison, Figure, Key, Live, Pair, Round, SCHEMA,
    ScenarioRecord,
};
use crate::measure::stats::{
    Ratio, Summary, coefficient_of_variation, deviation, jain, max_over_mean,
};

const WORKERS: usize = 8;
const ROUNDS: u64 = 4;
const OVERHEAD_NS: u64 = 180_000;
const SERVICE: Service = Service::Two {
    short_us: 1000,
    long_us: 25_000,
    p_long: 0.02,
};

/// Five arms: hash, its control, least, least+ring, and nginx, which is left out.
pub(super) fn comparison() -> Comparison {
    let mut hash = arm("hash", Choice::Random(1));
    // No figure of an arm may contain it.
    hash.rounds[1].hypervisor_share = 0.3;
    let again = ArmResult {
        role: ArmRole::Control,
        ..arm("hash", Choice::Random(2))
    };
    let least = arm("least", Choice::Least);
    let ring = arm("least+ring", Choice::OneQueue);
    let bound = bound();
    let mut ratios = vec![
        compared(Figure::ShortP99, &again, &hash),
        compared(Figure::ShortP99, &ring, &hash),
        compared(Figure::ShortP99, &least, &hash),
        compared(Figure::AcceptsCv, &ring, &hash),
        compared(Figure::CpuPerRequest, &ring, &hash),
    ];
    ratios.push(against(&ring, &bound));
    let verdict = verdict(&ratios);
    Comparison {
        schema: SCHEMA,
        incomplete: None,
        simulated: false,
        began: "2026-01-02T03:04:05Z".into(),
        command: "srv ab bimodal --rounds 4 --arms hash,least,least+ring,nginx".into(),
        environment: text(&[
            ("kernel", "6.12.0"),
            ("CPU", "An Example CPU @ 3.0 GHz"),
            ("cores", "2"),
            ("srv", "0.1.0"),
        ]),
        scenario: ScenarioRecord {
            name: "bimodal".into(),
            about: "98 % of the requests block their worker for 1 ms, 2 % for 25 ms.".into(),
            parameters: text(&[
                ("workers", "8"),
                ("utilisation", "0.7"),
                ("arrivals", "Poisson, a new connection each"),
                ("service", "two:1000,25000,0.02"),
                ("per round", "5 s"),
            ]),
            workers: WORKERS,
            key: Key::default(),
        },
        arms: vec![hash, again, least, ring, left_out()],
        bound: Some(bound),
        others: None,
        ratios,
        verdict,
        doubts: Vec::new(),
    }
}

fn verdict(ratios: &[Compared]) -> Vec<String> {
    vec![
        format!(
            "least+ring: the short requests' p99 is {:.3} of hash's (95 % CI {:.3} to {:.3}), \
             {:.0} % above the single-queue bound.",
            ratios[1].ratio.rounds.median,
            ratios[1].ratio.low,
            ratios[1].ratio.high,
            (ratios[5].ratio.rounds.median - 1.0) * 100.0,
        ),
        format!("A/A control: {}.", ratios[0].judgement),
    ]
}

fn text(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs
        .iter()
        .map(|&(label, value)| (label.to_owned(), value.to_owned()));
    owned.collect()
}

fn left_out() -> ArmResult {
    ArmResult {
        name: "nginx".into(),
        role: ArmRole::Candidate,
        about: "nginx, one shared listener".into(),
        left_out: Some("nginx is not installed: sudo apt-get install nginx-light".into()),
        rounds: Vec::new(),
        cdf: Vec::new(),
        accepts: Vec::new(),
        live: None,
    }
}

#[derive(Clone, Copy)]
enum Choice {
    Random(u32),
    Least,
    OneQueue,
}

fn draws(round: u64) -> Vec<Draw> {
    let rate = 0.7 * WORKERS as f64 / 1.48e-3;
    poisson(round, rate, Duration::from_secs(5), SERVICE)
}

fn arm(name: &str, choice: Choice) -> ArmResult {
    let mut short: Vec<Sorted> = Vec::new();
    let mut accepts = vec![0; WORKERS];
    let mut rounds = Vec::new();
    let mut live = None;
    for seed in 1..=ROUNDS {
        let draws = draws(seed);
        let served = serve(&draws, choice, seed);
        for &(worker, _) in &served {
            accepts[worker] += 1;
        }
        let latencies: Vec<u64> = served.iter().map(|served| served.1).collect();
        short.push(Sorted::new(shorts(&draws, &latencies)));
        live.get_or_insert_with(|| samples(&draws, &served));
        rounds.push(round(seed, &draws, &served, choice));
    }
    ArmResult {
        name: name.into(),
        role: ArmRole::Candidate,
        about: format!("srv 0.1.0, {name}"),
        left_out: None,
        rounds,
        cdf: over_rounds(&short),
        accepts,
        live,
    }
}

/// Worker and latency of each draw.
fn serve(draws: &[Draw], choice: Choice, seed: u64) -> Vec<(usize, u64)> {
    let mut free_at_ns = [0_u64; WORKERS];
    let mut ends_ns = vec![Vec::<u64>::new(); WORKERS];
    let mut uniform = match choice {
        Choice::Random(stream) => Uniform::stream(seed, stream + 7),
        _ => Uniform::stream(seed, 7),
    };
    let mut serve = |draw: &Draw| {
        let first = uniform.below(WORKERS);
        let order = (0..WORKERS).map(|step| (first + step) % WORKERS);
        let worker = match choice {
            Choice::Random(_) => first,
            Choice::Least => order
                .min_by_key(|&worker| {
                    ends_ns[worker].retain(|&end_ns| end_ns > draw.at_ns);
                    ends_ns[worker].len()
                })
                .unwrap_or(first),
            Choice::OneQueue => order
                .min_by_key(|&worker| free_at_ns[worker])
                .unwrap_or(first),
        };
        let begin_ns = free_at_ns[worker].max(draw.at_ns);
        free_at_ns[worker] = begin_ns + u64::from(draw.service_us) * 1000 + OVERHEAD_NS;
        ends_ns[worker].push(free_at_ns[worker]);
        (worker, free_at_ns[worker] - draw.at_ns)
    };
    draws.iter().map(&mut serve).collect()
}

fn round(seed: u64, draws: &[Draw], served: &[(usize, u64)], choice: Choice) -> Round {
    let latencies: Vec<u64> = served.iter().map(|served| served.1).collect();
    let mut accepts = vec![0_u64; WORKERS];
    for &(worker, _) in served {
        accepts[worker] += 1;
    }
    let all = Summary::of(latencies.iter().copied());
    let squares = latencies
        .iter()
        .map(|&ns| (ns as f64 - all.mean_ns).powi(2));
    let deviation_ns = (squares.sum::<f64>() / latencies.len() as f64).sqrt();
    let extra_ns = match choice {
        Choice::OneQueue => 4000.0,
        _ => 0.0,
    };
    Round {
        seed,
        requests: draws.len(),
        lost: 0,
        short: Summary::of(shorts(draws, &latencies)),
        all,
        deviation_ns,
        accepts_cv: coefficient_of_variation(&accepts),
        accepts_max_over_mean: max_over_mean(&accepts),
        accepts_jain: jain(&accepts),
        accepts,
        live_gap: None,
        served: None,
        cpu_ns_per_request: 61_000.0 + extra_ns + 900.0 * seed as f64,
        lateness: Summary::of((0..1000).map(|part| part * 37 + seed)),
        accept_delay_p50_ns: None,
        accept_delay_p99_ns: None,
        hypervisor_share: 0.0,
        repeats: 0,
    }
}

fn shorts(draws: &[Draw], latencies: &[u64]) -> Vec<u64> {
    let pairs = draws.iter().zip(latencies);
    let short = pairs.filter(|(draw, _)| SERVICE.is_short(draw.service_us));
    short.map(|(_, &latency_ns)| latency_ns).collect()
}

/// What waits or is served, every 25 ms.
fn samples(draws: &[Draw], served: &[(usize, u64)]) -> Live {
    const STEP_NS: u64 = 25_000_000;
    let mut per_worker = vec![vec![0; 200]; WORKERS];
    for (draw, &(worker, latency_ns)) in draws.iter().zip(served) {
        let first = draw.at_ns.div_ceil(STEP_NS);
        for sample in first..=(draw.at_ns + latency_ns) / STEP_NS {
            if let Some(count) = per_worker[worker].get_mut(sample as usize) {
                *count += 1;
            }
        }
    }
    Live {
        step_ns: STEP_NS,
        per_worker,
    }
}

fn bound() -> Bound {
    let replayed = (1..=ROUNDS).map(|seed| {
        let draws = draws(seed);
        let latencies = single_queue::replay(&draws, WORKERS, OVERHEAD_NS - 30_000);
        (shorts(&draws, &latencies), latencies)
    });
    let rounds: Vec<_> = replayed.collect();
    Bound {
        about: "one queue before 8 workers, 150 µs of overhead per request".into(),
        overhead_ns: OVERHEAD_NS - 30_000,
        delay_ns: 0,
        short: rounds
            .iter()
            .map(|(short, _)| Summary::of(short.iter().copied()))
            .collect(),
        all: rounds
            .iter()
            .map(|(_, all)| Summary::of(all.iter().copied()))
            .collect(),
        deviation_ns: rounds
            .iter()
            .map(|(_, all)| deviation(all.iter().map(|&ns| ns as f64)))
            .collect(),
        cdf: {
            let short = rounds.into_iter().map(|(short, _)| Sorted::new(short));
            over_rounds(&short.collect::<Vec<_>>())
        },
    }
}

fn compared(figure: Figure, arm: &ArmResult, base: &ArmResult) -> Compared {
    let figures = |arm: &ArmResult| {
        let figures = arm.rounds.iter().map(|round| figure.of(round));
        figures.collect::<Vec<_>>()
    };
    let ratio = Ratio::paired(&figures(arm), &figures(base));
    let (pair, judgement) = match arm.role {
        ArmRole::Control => (Pair::Control(base.name.clone()), ratio.as_control()),
        ArmRole::Candidate => {
            let (arm, base) = (arm.name.clone(), base.name.clone());
            (Pair::Arms { arm, base }, ratio.judgement())
        }
    };
    Compared {
        figure,
        pair,
        ratio,
        judgement,
    }
}

fn against(arm: &ArmResult, bound: &Bound) -> Compared {
    let p99 = |summary: &Summary| summary.p99_ns as f64;
    let figures: Vec<f64> = arm.rounds.iter().map(|round| p99(&round.short)).collect();
    let base: Vec<f64> = bound.short.iter().map(p99).collect();
    let ratio = Ratio::paired(&figures, &base);
    Compared {
        figure: Figure::ShortP99,
        pair: Pair::Bound(arm.name.clone()),
        ratio,
        judgement: ratio.judgement(),
    }
}
