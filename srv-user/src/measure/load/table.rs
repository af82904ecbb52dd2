//! A run's figures, for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::figures::{Figures, Settings};
use crate::measure::stats::{Summary, coefficient_of_variation, jain, max_over_mean};
use crate::output::table;

/// More workers than this are only summed up.
const WORKERS_SHOWN: usize = 16;

/// All of it.
pub(super) fn table(figures: &Figures) -> String {
    let mut text = asked(&figures.asked);
    if !figures.complete {
        let _ = writeln!(
            text,
            "INCOMPLETE: stopped after {:.1} s; {} requests under way are not counted",
            figures.span_s, figures.unanswered
        );
    }
    text += "\n";
    let header = [
        "latency", "requests", "mean", "p50", "p90", "p99", "p99.9", "max",
    ];
    let mut rows = vec![row("all", &figures.latency)];
    if figures.latency_short.count < figures.latency.count {
        rows.push(row("short", &figures.latency_short));
    }
    text += &table::table(&header, &["latency"], rows);
    text += "\n";
    text += &outcomes(figures);
    text += &workers(&figures.answers_per_worker);
    let _ = write!(
        text,
        "generator    {:.0} % of a CPU",
        figures.generator_busy * 100.0
    );
    if figures.asked.rate_per_s.is_some() {
        let Summary { p99_ns, max_ns, .. } = figures.lateness;
        let (p99, max) = (time(p99_ns as f64), time(max_ns as f64));
        let _ = write!(text, "; late by {p99} (p99), {max} at most");
    }
    text + "\n"
}

fn asked(asked: &Settings) -> String {
    let mut pace = match (asked.rate_per_s, asked.clients) {
        (Some(rate), _) => {
            let arrivals = asked.arrivals.as_deref().unwrap_or_default();
            format!("open loop: {arrivals} arrivals, {rate}/s")
        }
        (None, clients) => format!("closed loop: {} clients", clients.unwrap_or_default()),
    };
    if let Some(seconds) = asked.duration_s {
        let _ = write!(pace, ", for {seconds} s");
    }
    if let Some(requests) = asked.requests {
        let _ = write!(pace, ", {requests} requests at most");
    }
    let _ = write!(pace, ", seed {}", asked.seed);
    if let Some(service) = &asked.service {
        let _ = write!(pace, ", service {service}");
    }
    let connections = match asked.keep_alive {
        Some(count) => format!("{count} keep-alive connections"),
        None => "a new connection per request".into(),
    };
    let url = match asked.targets {
        1 => asked.url.clone(),
        count => format!("{count} targets, the first {}", asked.url),
    };
    format!(
        "{url} ({})\n{pace}\n{connections}; latency from the {} instant\n",
        asked.addresses.join(", "),
        asked.latency_from
    )
}

fn row(name: &str, latency: &Summary) -> Vec<String> {
    let ns = [
        latency.mean_ns,
        latency.p50_ns as f64,
        latency.p90_ns as f64,
        latency.p99_ns as f64,
        latency.p99_9_ns as f64,
        latency.max_ns as f64,
    ];
    let cells = [name.to_owned(), latency.count.to_string()].into_iter();
    cells.chain(ns.map(time)).collect()
}

fn outcomes(figures: &Figures) -> String {
    let mut text = format!(
        "answered     {} of {}, {:.1}/s\n",
        figures.answered, figures.requests, figures.answered_per_s
    );
    if let Some(resumed) = figures.resumed {
        let _ = writeln!(text, "resumed      {resumed} TLS sessions");
    }
    if figures.statuses.len() > 1 {
        let counts = figures.statuses.iter();
        let counts = counts.map(|(status, n)| format!("{n} x {status}"));
        let _ = writeln!(text, "statuses     {}", join(counts));
    }
    let first = figures.first_error.as_deref().unwrap_or("unknown");
    let named = |counts: &BTreeMap<String, usize>| {
        join(counts.iter().map(|(name, n)| format!("{n} {name}")))
    };
    if !figures.lost.is_empty() {
        let _ = writeln!(
            text,
            "lost         {} (the first: {first})",
            named(&figures.lost)
        );
    }
    if !figures.unsent.is_empty() {
        let _ = writeln!(
            text,
            "not sent     {}: limits of the generator, not of the server",
            named(&figures.unsent)
        );
    }
    text
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn workers(answers: &[u64]) -> String {
    if answers.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "workers      {}: variation {:.4}, max/mean {:.3}, Jain {:.4}\n",
        answers.len(),
        coefficient_of_variation(answers),
        max_over_mean(answers),
        jain(answers),
    );
    if answers.len() <= WORKERS_SHOWN {
        let total: u64 = answers.iter().sum();
        let shares = answers
            .iter()
            .map(|count| format!("{:.1}", 100.0 * *count as f64 / total as f64));
        let shares = shares.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "shares, %    {shares}");
    }
    text
}

/// Nanoseconds with the unit that leaves few digits.
pub(super) fn time(ns: f64) -> String {
    match ns {
        ..1e6 => format!("{:.0}us", ns / 1e3),
        ..1e10 => format!("{:.2}ms", ns / 1e6),
        _ => format!("{:.1}s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::measure::arrivals::Service;
    use crate::measure::load::{Outcome, Record, Run};

    fn figures(is_complete: bool) -> Figures {
        let record = |number: u64| Record {
            scheduled_ns: number * 1_000_000,
            sent_ns: Some(number * 1_000_000),
            finished_ns: number * 1_000_000 + 500_000,
            service_us: if number == 9 { 100 } else { 1 },
            worker: (1..10).contains(&number).then_some((number % 2) as u16),
            outcome: match number {
                0 => Outcome::Reset,
                10 => Outcome::NoPort,
                _ => Outcome::Ok,
            },
            status: match number {
                0 | 10 => None,
                1 => Some(204),
                _ => Some(200),
            },
            target: 0,
        };
        let run = Run {
            records: (0..11).map(record).collect(),
            lateness: Summary::of([1000]),
            first_error: Some("recv: reset".into()),
            is_complete,
            unanswered: usize::from(!is_complete),
            span_ns: 1_000_000_000,
            picked_up_ns: 9_000_000,
            busy: 0.25,
            put_off: 0,
            resumed: 0,
        };
        let asked = Settings {
            url: "http://h:1/{us}".into(),
            targets: 1,
            addresses: vec!["127.0.0.1:1".into()],
            success: "2xx".into(),
            latency_from: "scheduled".into(),
            arrivals: Some("poisson".into()),
            rate_per_s: Some(10.0),
            clients: None,
            requests: None,
            duration_s: Some(1.0),
            seed: 1,
            service: Some("two:1,100,0.1".into()),
            keep_alive: None,
            timeout_s: 1.0,
            resume: false,
        };
        let service = "two:1,100,0.1".parse::<Service>().unwrap();
        Figures::of(&run, SystemTime::UNIX_EPOCH, asked, service, Vec::new())
    }

    #[test]
    fn a_run_reads_like_this() {
        let expected = "\
http://h:1/{us} (127.0.0.1:1)
open loop: poisson arrivals, 10/s, for 1 s, seed 1, service two:1,100,0.1
a new connection per request; latency from the scheduled instant

latency  requests   mean    p50    p90    p99  p99.9    max
all             9  500us  500us  500us  500us  500us  500us
short           8  500us  500us  500us  500us  500us  500us

answered     9 of 11, 9.0/s
statuses     8 x 200, 1 x 204
lost         1 reset (the first: recv: reset)
not sent     1 no-port: limits of the generator, not of the server
workers      2: variation 0.1111, max/mean 1.111, Jain 0.9878
shares, %    44.4  55.6
generator    25 % of a CPU; late by 1us (p99), 1us at most
";
        assert_eq!(table(&figures(true)), expected);
    }

    #[test]
    fn a_stopped_run_says_so() {
        let text = table(&figures(false));
        assert!(
            text.contains("INCOMPLETE: stopped after 1.0 s; 1 requests"),
            "{text}"
        );
    }

    #[test]
    fn times_have_few_digits() {
        assert_eq!(time(0.0), "0us");
        assert_eq!(time(1_234_567.0), "1.23ms");
        assert_eq!(time(12e9), "12.0s");
    }
}
