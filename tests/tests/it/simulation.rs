//! The simulation beside a real run of eight workers: the same draws, and the
//! same ways of handing them to workers. The handler sleeps for tens of
//! milliseconds, so what a request waits is decided by queues; what this
//! machine adds is a few milliseconds, and allowed for.

use std::thread;
use std::time::Duration;

use rustix::process::setpriority_process;
use srv::measure::ab::arm::Arm;
use srv::measure::ab::measure::{Plan, measure};
use srv::measure::ab::scenario::{Arrivals, Scenario, by_name};
use srv::measure::arrivals::Service;
use srv::measure::simulate::{self, Model};
use srv::measure::stats::{Summary, deviation, mean};

use crate::gate;

const SERVICE: Service = Service::Exponential(45_000.0);
const UTILISATION: f64 = 0.7;
const ROUNDS: u64 = 3;
/// Simulated runs of which the real one could be any: hash goes by ports, which
/// are random.
const CHANCES: u64 = 20;
/// Between one of those runs and the real one, in standard deviations.
const DEVIATIONS: f64 = 4.0;
/// What waking up may add to a wait or take from it, ms.
const NOISE_MS: f64 = 12.0;
/// What a busy machine may take from waits or add to them, as parts of the
/// simulated ones: it keeps workers longer, and what they publish is older.
const NOISE_PARTS: [f64; 2] = [0.4, 1.0];
/// The same of two arms' ratio: what ran at the same time had the same machine.
const RATIO_PARTS: [f64; 2] = [0.65, 1.55];

/// Mean over the rounds of a run's waits, ms.
#[derive(Debug)]
struct Waits {
    p50_ms: f64,
    p90_ms: f64,
}

impl Waits {
    fn of(rounds: &[Summary]) -> Self {
        let over = |figure: fn(&Summary) -> u64| {
            let rounds: Vec<f64> = rounds.iter().map(|round| figure(round) as f64).collect();
            mean(&rounds) / 1e6
        };
        Self {
            p50_ms: over(|round| round.p50_ns),
            p90_ms: over(|round| round.p90_ns),
        }
    }
}

fn scenario() -> Scenario {
    let mut scenario = by_name("bimodal").unwrap();
    scenario.workers = 8;
    scenario.service = SERVICE;
    scenario.duration = Duration::from_millis(3500);
    let rate = UTILISATION * scenario.workers as f64 / SERVICE.mean_us() * 1e6;
    scenario.arrivals = Arrivals::Poisson(rate);
    scenario
}

/// Round by round: what each request took beyond its service time, ns.
fn real(arm: &Arm, plans: &[Plan]) -> Vec<Vec<u64>> {
    // This thread's, which its servers inherit: other tests must not delay
    // them. Where that is not allowed, they may.
    let _ = setpriority_process(None, -20);
    let scenario = scenario();
    let excess = |plan| {
        let run = measure(arm, &scenario, plan, None).unwrap().run;
        assert_eq!(run.lost(), 0, "{}: {:?}", arm.name, run.first_error);
        let excess = run.records.iter().map(|record| {
            let service_ns = u64::from(record.service_us) * 1000;
            record.latency_ns().saturating_sub(service_ns)
        });
        excess.collect()
    };
    plans.iter().map(excess).collect()
}

/// The same by simulation, once for each of many seeds.
fn simulated(arm: &Arm, plans: &[Plan], overhead_ns: u64) -> Vec<Waits> {
    let one = |seed| {
        let model = Model {
            workers: scenario().workers,
            service: SERVICE,
            overhead_ns,
            rtt_ns: 0,
            seed,
        };
        let arm = arm.simulated().unwrap();
        let wait = |(nth, plan): (usize, &Plan)| {
            let seed = model.seed * ROUNDS + nth as u64;
            let draws = plan.draws.iter().copied();
            simulate::run(&Model { seed, ..model }, arm, draws)
                .unwrap()
                .wait
        };
        Waits::of(&plans.iter().enumerate().map(wait).collect::<Vec<_>>())
    };
    (0..CHANCES).map(one).collect()
}

#[track_caller]
fn assert_agrees(what: &str, measured: f64, simulated: &[f64]) {
    let expected = mean(simulated);
    let chance = DEVIATIONS * deviation(simulated.iter().copied());
    let [less, more] = NOISE_PARTS.map(|part| chance.max(part * expected) + NOISE_MS);
    let range = expected - less..=expected + more;
    println!("{what}: {measured:.1} ms, simulated {expected:.1}, allowed {range:.1?}");
    assert!(
        range.contains(&measured),
        "{what}: {measured:.1} ms, simulated {expected:.1} ms, allowed {range:.1?}"
    );
}

#[test]
fn it_predicts_what_a_real_run_finds() {
    gate::needs!(steer);
    let plans: Vec<Plan> = (1..=ROUNDS)
        .map(|seed| Plan::of(&scenario(), seed))
        .collect();
    let arms = ["hash", "least", "least+ring"].map(|name| Arm::by_name(name).unwrap());
    // Beside each other: they sleep.
    let measured = thread::scope(|scope| {
        let run = |arm| {
            let plans = &plans;
            scope.spawn(move || real(arm, plans))
        };
        let running = arms.each_ref().map(run);
        running.map(|run| run.join().unwrap())
    });
    // Behind least+ring most requests do not wait: what a quarter of them takes
    // at most is the overhead, on this machine, as busy as it is now.
    let mut excess_ns = measured[2].concat();
    excess_ns.sort_unstable();
    let overhead_ns = excess_ns[excess_ns.len() / 4];
    let p90_ms = arms.iter().zip(measured).map(|(arm, excess)| {
        let wait =
            |round: Vec<u64>| Summary::of(round.iter().map(|ns| ns.saturating_sub(overhead_ns)));
        let measured = Waits::of(&excess.into_iter().map(wait).collect::<Vec<_>>());
        let simulated = simulated(arm, &plans, overhead_ns);
        let each = |figure: fn(&Waits) -> f64| simulated.iter().map(figure).collect::<Vec<_>>();
        let (p50_ms, p90_ms) = (each(|waits| waits.p50_ms), each(|waits| waits.p90_ms));
        assert_agrees(&format!("{}, p50", arm.name), measured.p50_ms, &p50_ms);
        assert_agrees(&format!("{}, p90", arm.name), measured.p90_ms, &p90_ms);
        [measured.p90_ms, mean(&p90_ms)]
    });
    let [_, own, ring] = p90_ms.collect::<Vec<_>>().try_into().unwrap();
    // What the ring is for: half of the wait.
    let [measured, simulated] = [own[0] / ring[0], own[1] / ring[1]];
    let range = RATIO_PARTS[0] * simulated..=RATIO_PARTS[1] * simulated;
    println!("least / least+ring: {measured:.2}, simulated {simulated:.2}");
    assert!(
        range.contains(&measured),
        "least / least+ring, p90: {measured:.2}, simulated {simulated:.2}, allowed {range:.2?}"
    );
}
