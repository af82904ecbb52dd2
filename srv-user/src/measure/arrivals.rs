//! The plan of a measured run: when each request is due and how long it is to
//! keep its worker. Pure and seeded: the same seed is the same plan, on any
//! machine, for every arm of a comparison. Knows no clock and no socket.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// One request of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    /// When it is due, ns from the start of the run.
    pub at_ns: u64,
    /// How long it asks the handler to work, µs.
    pub service_us: u32,
}

/// Draws the requests of a run: Poisson arrivals at `per_second` for
/// `duration`, each with a service time from `service`.
///
/// Arrivals and service times come from two streams of the same seed, so
/// another service law leaves the arrivals as they are.
pub fn poisson(seed: u64, per_second: f64, duration: Duration, service: Service) -> Vec<Draw> {
    let end_ns = duration.as_nanos() as u64;
    endless(seed, per_second, service)
        .take_while(|draw| draw.at_ns < end_ns)
        .collect()
}

/// The draws of [`poisson`] one by one and without an end, for runs too long
/// to keep in memory.
pub fn endless(seed: u64, per_second: f64, service: Service) -> impl Iterator<Item = Draw> {
    let mut arrivals = Uniform::stream(seed, 0);
    let mean_gap_ns = 1e9 / per_second;
    let mut at_ns = 0.0;
    let instants = std::iter::repeat_with(move || {
        at_ns += mean_gap_ns * arrivals.next_exponential();
        at_ns
    });
    at(instants, service.draws(seed))
}

/// Arrivals at even distances, the first at instant 0; else as [`poisson`].
pub fn constant(seed: u64, per_second: f64, duration: Duration, service: Service) -> Vec<Draw> {
    burst(seed, per_second, 1, duration, service)
}

/// Arrivals in bursts: `size` at the same instant, the first burst at instant
/// 0, the bursts at even distances such that the mean rate is `per_second`;
/// else as [`poisson`].
pub fn burst(
    seed: u64,
    per_second: f64,
    size: u32,
    duration: Duration,
    service: Service,
) -> Vec<Draw> {
    let gap_ns = f64::from(size) * 1e9 / per_second;
    // Multiplied, not summed up: no error builds up over a long run.
    let bursts = (0u64..).map(|nth| nth as f64 * gap_ns);
    let instants = bursts.flat_map(|at_ns| std::iter::repeat_n(at_ns, size as usize));
    until(duration, instants, service.draws(seed))
}

/// The draws at `instants`, ns, in order, that are within `duration`.
fn until(duration: Duration, instants: impl Iterator<Item = f64>, services: Services) -> Vec<Draw> {
    let end_ns = duration.as_nanos() as f64;
    at(instants.take_while(|at_ns| *at_ns < end_ns), services).collect()
}

fn at(instants: impl Iterator<Item = f64>, services: Services) -> impl Iterator<Item = Draw> {
    let draw = |(at_ns, service_us)| Draw {
        at_ns: at_ns as u64,
        service_us,
    };
    instants.zip(services).map(draw)
}

/// How arrivals follow one another. Written `poisson`, `constant` or `burst:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Independently of one another.
    Poisson,
    /// At even distances.
    Constant,
    /// This many at the same instant.
    Burst(u32),
}

impl Arrivals {
    /// The plan of a run; the parameters are those of [`poisson`].
    pub fn plan(
        self,
        seed: u64,
        per_second: f64,
        duration: Duration,
        service: Service,
    ) -> Vec<Draw> {
        match self {
            Self::Poisson => poisson(seed, per_second, duration, service),
            Self::Constant => constant(seed, per_second, duration, service),
            Self::Burst(size) => burst(seed, per_second, size, duration, service),
        }
    }
}

impl FromStr for Arrivals {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "poisson" => Ok(Self::Poisson),
            None if text == "constant" => Ok(Self::Constant),
            Some(("burst", size)) => match size.parse() {
                Ok(size @ 1..) => Ok(Self::Burst(size)),
                _ => bail!("expected a burst of at least one, such as burst:100"),
            },
            _ => bail!("expected poisson, constant or burst:N"),
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisson => f.write_str("poisson"),
            Self::Constant => f.write_str("constant"),
            Self::Burst(size) => write!(f, "burst:{size}"),
        }
    }
}

/// The law of the service times, all in µs. Written `fixed:N`, `two:SHORT,LONG,P`
/// (long with probability P) or `exp:MEAN`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service {
    /// Always the same.
    Fixed(u32),
    /// `long_us` with probability `p_long`, else `short_us`.
    Two {
        /// The usual service time.
        short_us: u32,
        /// The rare one.
        long_us: u32,
        /// How rare, 0 to 1.
        p_long: f64,
    },
    /// Exponential with this mean.
    Exponential(f64),
}

impl Service {
    /// Whether a request of this service time counts as short: for
    /// [`Self::Two`] the usual one, else any.
    pub fn is_short(self, service_us: u32) -> bool {
        match self {
            Self::Two { short_us, .. } => service_us <= short_us,
            Self::Fixed(_) | Self::Exponential(_) => true,
        }
    }

    /// Its mean, µs.
    pub fn mean_us(self) -> f64 {
        match self {
            Self::Fixed(us) => us.into(),
            Self::Two {
                short_us,
                long_us,
                p_long,
            } => f64::from(short_us) * (1.0 - p_long) + f64::from(long_us) * p_long,
            Self::Exponential(mean_us) => mean_us,
        }
    }

    /// The service times of a run, µs, without end.
    pub fn draws(self, seed: u64) -> Services {
        Services {
            law: self,
            uniform: Uniform::stream(seed, 1),
        }
    }

    fn draw(self, uniform: &mut Uniform) -> u32 {
        match self {
            Self::Fixed(us) => us,
            Self::Two {
                short_us,
                long_us,
                p_long,
            } => {
                if uniform.next() < p_long {
                    long_us
                } else {
                    short_us
                }
            }
            Self::Exponential(mean_us) => (mean_us * uniform.next_exponential()).round() as u32,
        }
    }
}

/// Service times drawn from a law, µs.
#[derive(Debug)]
pub struct Services {
    law: Service,
    uniform: Uniform,
}

impl Iterator for Services {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        Some(self.law.draw(&mut self.uniform))
    }
}

impl FromStr for Service {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).with_context(|| {
            format!(
                "read service law `{text}`: expected fixed:US, two:SHORT_US,LONG_US,P or exp:MEAN_US"
            )
        })
    }
}

impl Service {
    fn parse(text: &str) -> Result<Self> {
        let (law, numbers) = text.split_once(':').context("no colon")?;
        let numbers: Vec<&str> = numbers.split(',').collect();
        match (law, numbers.as_slice()) {
            ("fixed", [us]) => Ok(Self::Fixed(us.parse()?)),
            ("two", [short, long, p]) => {
                let p_long = p.parse()?;
                ensure!((0.0..=1.0).contains(&p_long), "P is not within 0 and 1");
                Ok(Self::Two {
                    short_us: short.parse()?,
                    long_us: long.parse()?,
                    p_long,
                })
            }
            ("exp", [mean]) => {
                let mean_us: f64 = mean.parse()?;
                ensure!(mean_us.is_finite() && mean_us >= 0.0, "not a mean");
                Ok(Self::Exponential(mean_us))
            }
            _ => bail!("not one of the laws, or not its number of values"),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(us) => write!(f, "fixed:{us}"),
            Self::Two {
                short_us,
                long_us,
                p_long,
            } => write!(f, "two:{short_us},{long_us},{p_long}"),
            Self::Exponential(mean_us) => write!(f, "exp:{mean_us}"),
        }
    }
}

/// A seeded stream of numbers. The generator is named, not `StdRng`, which may
/// change under us: a seed has to mean the same draws next year.
#[derive(Debug)]
pub(crate) struct Uniform(Xoshiro256PlusPlus);

impl Uniform {
    /// The `stream`th independent stream of `seed`.
    pub(crate) fn stream(seed: u64, stream: u32) -> Self {
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        for _ in 0..stream {
            generator.jump();
        }
        Self(generator)
    }

    /// Uniform over [0, 1).
    pub(crate) fn next(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1u64 << 53) as f64;
        (self.0.next_u64() >> 11) as f64 * STEP
    }

    /// Exponential with mean 1.
    fn next_exponential(&mut self) -> f64 {
        -(1.0 - self.next()).ln()
    }

    /// 32 random bits.
    pub(crate) fn bits(&mut self) -> u32 {
        (self.0.next_u64() >> 32) as u32
    }

    /// Uniform over 0..`bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() * bound as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::stats;

    const TWO: Service = Service::Two {
        short_us: 1000,
        long_us: 100_000,
        p_long: 0.005,
    };

    #[test]
    fn a_law_reads_back_as_written() {
        for text in ["fixed:1000", "two:1000,100000,0.005", "exp:1480"] {
            assert_eq!(text.parse::<Service>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_bad_law_is_refused_with_what_was_expected() {
        for text in [
            "",
            "fixed",
            "fixed:x",
            "fixed:1,2",
            "two:1,2",
            "two:1,2,1.5",
            "exp:inf",
        ] {
            let error = text.parse::<Service>().unwrap_err().to_string();
            assert!(error.contains("expected fixed:US"), "{text}: {error}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_plan() {
        let plan = |seed| poisson(seed, 1000.0, Duration::from_secs(2), TWO);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn arrivals_read_back_as_written_and_others_are_refused() {
        for text in ["poisson", "constant", "burst:32"] {
            assert_eq!(text.parse::<Arrivals>().unwrap().to_string(), text);
        }
        for text in ["", "Poisson", "burst", "burst:0", "burst:x", "constant:2"] {
            let error = text.parse::<Arrivals>().unwrap_err().to_string();
            assert!(error.contains("expected"), "{text}: {error}");
        }
    }

    #[test]
    fn constant_and_burst_keep_the_mean_rate() {
        let second = Duration::from_secs(1);
        let at_ms = |plan: Vec<Draw>| -> Vec<u64> {
            plan.iter().map(|draw| draw.at_ns / 1_000_000).collect()
        };
        let even = constant(1, 4.0, second, TWO);
        assert_eq!(at_ms(even), [0, 250, 500, 750]);
        let bursts = burst(1, 6.0, 3, second, TWO);
        assert_eq!(at_ms(bursts), [0, 0, 0, 500, 500, 500]);
        assert_eq!(constant(1, 3.0, 100 * second, TWO).len(), 300);
    }

    #[test]
    fn the_arrivals_leave_the_service_times_alone() {
        let services = |arrivals: Arrivals| -> Vec<u32> {
            let plan = arrivals.plan(7, 1000.0, Duration::from_secs(2), TWO);
            plan.iter().map(|d| d.service_us).take(1500).collect()
        };
        let expected: Vec<u32> = TWO.draws(7).take(1500).collect();
        for arrivals in [Arrivals::Poisson, Arrivals::Constant, Arrivals::Burst(9)] {
            assert_eq!(services(arrivals), expected, "{arrivals}");
        }
    }

    #[test]
    fn another_law_leaves_the_arrivals_alone() {
        let arrivals = |service| -> Vec<u64> {
            poisson(7, 1000.0, Duration::from_secs(2), service)
                .iter()
                .map(|draw| draw.at_ns)
                .collect()
        };
        assert_eq!(arrivals(TWO), arrivals(Service::Fixed(0)));
    }

    #[test]
    fn rate_gaps_and_shares_are_as_asked() {
        let plan = poisson(1, 10_000.0, Duration::from_secs(100), TWO);
        let count = plan.len() as f64;
        // A Poisson count of 10⁶ deviates by 10³; the bounds are five of that.
        assert!((count - 1e6).abs() < 5e3, "{count} arrivals");
        let long = plan.iter().filter(|d| !TWO.is_short(d.service_us)).count();
        assert!(
            (long as f64 - 5e3).abs() < 5.0 * 5e3_f64.sqrt(),
            "{long} long"
        );
        let gaps: Vec<f64> = plan
            .windows(2)
            .map(|pair| (pair[1].at_ns - pair[0].at_ns) as f64)
            .collect();
        let cv = stats::deviation(gaps.iter().copied()) / stats::mean(&gaps);
        assert!(
            (cv - 1.0).abs() < 0.01,
            "exponential gaps have CV 1, not {cv}"
        );
    }
}
