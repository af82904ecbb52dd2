//! `bench shares`: how evenly workers share cheap connections after all that can have
//! made their totals unequal: every past of [`srv_tests::past`], on a server of its own
//! each time, in both accept modes. Counted are windows as well as the whole: a worker
//! that catches up is even in the long run and has every connection of a moment.

use anyhow::Result;
use clap::Parser as _;
use serde::Serialize;
use srv_tests::arguments::Arguments;
use srv_tests::past::{CV_MOST, Past, Shares, WINDOW, WINDOW_MOST, WORKERS, cheap};
use srv_tests::report::{Raw, print_table, verdict};

/// Cheap connections that are counted, and how many come per second.
const CONNECTIONS: usize = 3_000;
const PER_SECOND: f64 = 1_500.0;

#[derive(Serialize)]
struct Sample {
    past: String,
    accept: &'static str,
    round: usize,
    counts: Vec<u64>,
    cv: f64,
    window_most: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (rounds, past_connections) = if arguments.quick {
        (1, 2_000)
    } else {
        (5, 20_000)
    };
    let mut raw = Raw::create("shares")?;
    println!(
        "{WORKERS} workers; after a past of about {past_connections} connections, {CONNECTIONS} \
         cheap ones at {PER_SECOND}/s, each new; worst of {rounds} rounds, a fresh server each\n"
    );
    let mut rows = Vec::new();
    for past in Past::ALL {
        for accept in ["ring", "own"] {
            // Without a ring what waits for a stopped worker waits until it goes on.
            if past == Past::Stopped && accept == "own" {
                continue;
            }
            let mut samples = Vec::new();
            for round in 0..rounds {
                let server = past.server(accept, past_connections)?;
                let shares = Shares::of(&cheap(server.address(), CONNECTIONS, PER_SECOND)?);
                samples.push(Sample {
                    past: past.to_string(),
                    accept,
                    round,
                    counts: shares.counts,
                    cv: shares.cv,
                    window_most: shares.window_most,
                });
            }
            samples.iter().try_for_each(|sample| raw.write(sample))?;
            rows.push(row(past, accept, &samples));
        }
    }
    let header = [
        "past",
        "accept",
        "shares CV",
        &format!("≤ {CV_MOST}"),
        &format!("most of {WINDOW}"),
        &format!("≤ {WINDOW_MOST}"),
    ];
    print_table(&header, rows);
    raw.finish()
}

fn row(past: Past, accept: &str, samples: &[Sample]) -> Vec<String> {
    let cv = samples.iter().map(|sample| sample.cv).fold(0.0, f64::max);
    let window_most = samples.iter().map(|sample| sample.window_most).max();
    let window_most = window_most.unwrap_or(0);
    vec![
        past.to_string(),
        accept.to_owned(),
        format!("{cv:.4}"),
        verdict(cv <= CV_MOST).to_owned(),
        window_most.to_string(),
        verdict(window_most <= WINDOW_MOST).to_owned(),
    ]
}
