//! The scenarios of `srv ab`: what is asked of each arm. Plain data and its
//! names; knows no server.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::measure::arrivals::Service;
use crate::measure::load::{Closed, Connections};
use crate::measure::result::{FAULT, Key};

/// What runs if no scenario is named: how uneven the workers' shares are, what that does to
/// the tail of the latency, and cheap traffic, which steering must not make worse.
pub const DEFAULT: [&str; 3] = ["longlived", "bimodal", "cheap"];
/// The same for a simulation, in which each request has a new connection.
pub const DEFAULT_SIMULATED: &str = "bimodal";

/// What is asked of each arm.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// Worker processes of each arm.
    pub workers: usize,
    /// How long requests keep a worker.
    pub service: Service,
    /// Whether the handler burns CPU instead of sleeping.
    pub spins: bool,
    /// How requests arrive.
    pub arrivals: Arrivals,
    /// How long a round lasts.
    pub duration: Duration,
    /// How requests come by connections.
    pub connections: Connections,
    /// What is injected meanwhile.
    pub fault: Option<Fault>,
    /// The delay of the client's path, both ways together.
    pub rtt: Option<Duration>,
    /// What the verdict is about.
    pub key: Key,
}

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// Open loop, Poisson: on average so many per second.
    Poisson(f64),
    /// Open loop: so many at the same instant, on average so many per second.
    Burst(u32, f64),
    /// Closed loop: so many clients, each sends when it has its answer.
    Closed(usize),
}

/// The fault that is injected during a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One worker is stopped for so long, a second after the start.
    Stopped(Duration),
}

impl Scenario {
    /// Requests per second, on average; `None` in a closed loop.
    pub fn per_second(&self) -> Option<f64> {
        match self.arrivals {
            Arrivals::Poisson(rate) | Arrivals::Burst(_, rate) => Some(rate),
            Arrivals::Closed(_) => None,
        }
    }

    /// The clients of a closed loop, with `seed` for their service times.
    pub fn closed(&self, seed: u64) -> Option<Closed> {
        let Arrivals::Closed(clients) = self.arrivals else {
            return None;
        };
        Some(Closed {
            clients,
            service: self.service,
            seed,
            duration: Some(self.duration),
            requests: None,
        })
    }

    /// The part of the workers' time that the requests need, overhead not counted.
    pub fn utilisation(&self) -> Option<f64> {
        Some(self.per_second()? * self.service.mean_us() / 1e6 / self.workers as f64)
    }

    /// Label and value, in the order in which to print them.
    pub fn parameters(&self) -> Vec<(String, String)> {
        let handler = if self.spins { "burns CPU" } else { "sleeps" };
        let mut parameters = vec![
            ("workers", self.workers.to_string()),
            (
                "service time",
                format!("{} µs, the handler {handler}", self.service),
            ),
            ("arrivals", self.arrivals.to_string()),
            ("connections", self.connections.to_string()),
            (
                "round",
                humantime::format_duration(self.duration).to_string(),
            ),
        ];
        if let Some(utilisation) = self.utilisation() {
            let text = format!("{:.0} %, overhead not counted", utilisation * 100.0);
            parameters.push(("utilisation", text));
        }
        if let Some(Fault::Stopped(period)) = self.fault {
            let period = humantime::format_duration(period);
            parameters.push((FAULT, format!("one worker is stopped for {period}")));
        }
        if let Some(rtt) = self.rtt {
            let rtt = humantime::format_duration(rtt).to_string();
            parameters.push(("round-trip time", rtt));
        }
        let owned = |(label, value): (&str, String)| (label.to_owned(), value);
        parameters.into_iter().map(owned).collect()
    }

    /// Whether it can be run here at all.
    ///
    /// # Errors
    /// There is more work than the workers can do and not `overload`, or workers that burn
    /// CPU would have to share cores.
    pub fn check(&self, overload: bool) -> Result<()> {
        let name = self.name;
        if let Some(utilisation) = self.utilisation() {
            ensure!(
                utilisation < 1.0 || overload,
                "scenario {name}: {} µs at {} per second is {:.0} % of what {} workers can do, so that \
                 every queue would grow without end: lower --rate, or allow it with --overload",
                self.service,
                self.per_second().unwrap_or_default(),
                utilisation * 100.0,
                self.workers
            );
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ensure!(
            !self.spins || self.workers <= cores,
            "scenario {name}: {} workers that burn CPU would share {cores} cores, so that the \
             scheduler would be measured: use --workers {cores} at most",
            self.workers
        );
        Ok(())
    }
}

impl std::fmt::Display for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Poisson(rate) => write!(f, "open loop, Poisson, {rate} per second"),
            Self::Burst(size, rate) => {
                write!(f, "open loop, {size} at once, {rate} per second on average")
            }
            Self::Closed(clients) => write!(f, "closed loop, {clients} clients"),
        }
    }
}

const BIMODAL: Service = Service::Two {
    short_us: 1000,
    long_us: 100_000,
    p_long: 0.005,
};

const BASE: Scenario = Scenario {
    name: "bimodal",
    about: "short requests among rare long ones, near saturation",
    workers: 8,
    service: BIMODAL,
    spins: false,
    arrivals: Arrivals::Poisson(3700.0),
    duration: Duration::from_millis(2500),
    connections: Connections::PerRequest,
    fault: None,
    rtt: None,
    key: Key::ShortP99,
};

/// All of them.
pub const ALL: [Scenario; 12] = [
    BASE,
    Scenario {
        name: "half",
        about: "bimodal at half its load",
        arrivals: Arrivals::Poisson(1850.0),
        duration: Duration::from_millis(1500),
        ..BASE
    },
    Scenario {
        name: "cheap",
        about: "a handler that does nothing: steering must cost nothing, and share evenly",
        service: Service::Fixed(0),
        duration: Duration::from_millis(600),
        key: Key::ShortP50,
        ..BASE
    },
    Scenario {
        name: "cloudflare",
        about: "Cloudflare's experiment of 2017: 200 clients in a closed loop, equal requests",
        workers: 12,
        service: Service::Fixed(1820),
        arrivals: Arrivals::Closed(200),
        key: Key::Deviation,
        ..BASE
    },
    Scenario {
        name: "hermes-1",
        about: "many cheap connections",
        service: Service::Fixed(0),
        arrivals: Arrivals::Poisson(5000.0),
        key: Key::ShortP50,
        ..BASE
    },
    Scenario {
        name: "hermes-2",
        about: "many costly connections",
        service: Service::Exponential(5000.0),
        arrivals: Arrivals::Poisson(1100.0),
        ..BASE
    },
    Scenario {
        name: "hermes-3",
        about: "few cheap connections that live long",
        service: Service::Fixed(0),
        arrivals: Arrivals::Poisson(10_000.0),
        connections: Connections::Pool(32),
        key: Key::ShortP50,
        ..BASE
    },
    Scenario {
        name: "hermes-4",
        about: "few costly connections that live long",
        service: Service::Exponential(3000.0),
        arrivals: Arrivals::Poisson(1300.0),
        connections: Connections::Pool(32),
        ..BASE
    },
    Scenario {
        name: "longlived",
        about: "keep-alive connections: how many of them each worker has, and what that does to \
                    later requests; why one worker may have nearly all is explained at \
                    https://blog.cloudflare.com/the-sad-state-of-linux-socket-balancing/",
        service: Service::Fixed(1000),
        arrivals: Arrivals::Poisson(2000.0),
        connections: Connections::Pool(32),
        key: Key::ShortP50,
        ..BASE
    },
    Scenario {
        name: "burst",
        about: "arrivals in bursts of 64",
        service: Service::Fixed(1000),
        arrivals: Arrivals::Burst(64, 2500.0),
        ..BASE
    },
    Scenario {
        name: "hung",
        about: "one worker is stopped for five seconds",
        service: Service::Fixed(1000),
        arrivals: Arrivals::Poisson(2000.0),
        duration: Duration::from_secs(7),
        fault: Some(Fault::Stopped(Duration::from_secs(5))),
        ..BASE
    },
    Scenario {
        name: "rtt",
        about: "rare blocks far longer than the path, which is so long that the choice at the SYN is stale",
        service: Service::Two {
            short_us: 1000,
            long_us: 500_000,
            p_long: 0.001,
        },
        arrivals: Arrivals::Poisson(2400.0),
        duration: Duration::from_secs(4),
        rtt: Some(Duration::from_millis(50)),
        ..BASE
    },
];

/// The scenario of that name.
///
/// # Errors
/// There is none; the message lists those that there are.
pub fn by_name(name: &str) -> Result<Scenario> {
    if let Some(found) = ALL.into_iter().find(|scenario| scenario.name == name) {
        return Ok(found);
    }
    let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
    bail!(
        "no scenario is called `{name}`; there are: {}",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_within_what_its_workers_can_do() {
        for scenario in ALL {
            scenario.check(false).unwrap();
            assert_eq!(by_name(scenario.name).unwrap().about, scenario.about);
            assert!(!scenario.parameters().is_empty());
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused_by_name() {
        let mut scenario = by_name("bimodal").unwrap();
        scenario.arrivals = Arrivals::Poisson(6000.0);
        let error = scenario.check(false).unwrap_err().to_string();
        assert!(
            error.contains("112 %") && error.contains("--overload"),
            "{error}"
        );
        scenario.check(true).unwrap();
        scenario.spins = true;
        scenario.workers = 10_000;
        let error = scenario.check(true).unwrap_err().to_string();
        assert!(error.contains("--workers"), "{error}");
        let error = by_name("bimodl").unwrap_err().to_string();
        assert!(error.contains("cloudflare"), "{error}");
    }
}
