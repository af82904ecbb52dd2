//! The command line of `srv load`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::arrivals::{Arrivals, Service};
use crate::config::value::{Count, Period};

/// Largest `--clients` and `--keep-alive`: more sockets than that no process gets.
const CLIENTS_MAX: u32 = 1 << 20;

/// What `srv load` may be told.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
What counts: a request is answered if a complete response of status 200 came in \
time. Latencies are those of answered requests and of those that timed out, which \
count with the time they waited. What else was lost is counted by how it ended.

Exit codes: 0 if the run came to its end, even if requests were lost or the \
generator fell behind (it warns then). 1 if it could not run, if not one request \
was answered, or with --strict if any was lost. 130 or 143 if it was stopped by \
SIGINT (Ctrl-C) or SIGTERM: what it has is then printed and written, marked \
incomplete.

Files in --out: records.csv, a line per request (instants in ns from the start of \
the run); latency.hgrm, the distribution in ms; latency.hlog, an HdrHistogram \
interval log of 1 s intervals (values in ns); summary.json, as --json prints it.")]
pub struct LoadArgs {
    /// What to get, http://HOST:PORT/PATH; {us} in it becomes the service time in us
    #[arg(value_name = "URL")]
    pub url: String,

    /// Open loop: requests per second, whatever becomes of them
    #[arg(long, value_name = "N", value_parser = rate,
          required_unless_present = "clients", conflicts_with = "clients")]
    pub rate: Option<f64>,

    /// How requests follow one another: poisson, constant, or burst:N at once
    #[arg(long, value_name = "HOW", default_value_t = Arrivals::Poisson, conflicts_with = "clients")]
    pub arrivals: Arrivals,

    /// Closed loop: clients that each send when their former request is answered
    #[arg(long, value_name = "K")]
    pub clients: Option<Count<1, CLIENTS_MAX>>,

    /// Closed loop: end after this many requests
    #[arg(long, value_name = "N", requires = "clients", conflicts_with = "rate")]
    pub requests: Option<Count<1, { u32::MAX }>>,

    /// How long requests are sent [default: 10s, or as long as --requests takes]
    #[arg(long, value_name = "TIME")]
    pub duration: Option<Period<1>>,

    /// Seed of the arrivals and service times: the same seed, the same requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Service times for {us}: fixed:US, two:SHORT_US,LONG_US,P or exp:MEAN_US
    #[arg(long, value_name = "LAW")]
    pub service: Option<Service>,

    /// Keep N connections and use them in turn [default: a new one per request]
    #[arg(long, value_name = "N")]
    pub keep_alive: Option<Count<1, CLIENTS_MAX>>,

    /// A request not answered by then is lost
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub timeout: Period<1>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Folder for raw records and histograms; those of a former run are replaced
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Exit with 1 if a request was lost
    #[arg(long)]
    pub strict: bool,
}

fn rate(text: &str) -> Result<f64> {
    let per_second = text.parse().unwrap_or(0.0);
    ensure!(
        f64::is_finite(per_second) && per_second > 0.0,
        "expected requests per second, a number above 0"
    );
    Ok(per_second)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> Result<LoadArgs, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Load(args) => Ok(*args),
            other => panic!("{line} became {other:?}"),
        }
    }

    #[test]
    fn the_documented_command_lines_are_accepted() {
        let open = parse(
            "srv load http://h/work?sleep_us={us} --rate 0.5 --arrivals burst:8 --duration 3s \
             --seed 7 --service two:1000,25000,0.02 --timeout 2s --json --out d --strict",
        );
        let open = open.unwrap();
        assert_eq!((open.rate, open.arrivals), (Some(0.5), Arrivals::Burst(8)));
        let closed = parse("srv load http://h --clients 200 --requests 9 --keep-alive 200");
        assert_eq!(closed.unwrap().requests, Some(Count(9)));
    }

    #[test]
    fn the_loop_is_open_or_closed() {
        for (line, expected) in [
            ("srv load http://h", "--rate <N>"),
            ("srv load http://h --rate 1 --clients 1", "cannot be used"),
            ("srv load http://h --rate 1 --requests 1", "cannot be used"),
            (
                "srv load http://h --clients 1 --arrivals constant",
                "cannot be used",
            ),
            ("srv load http://h --clients 0", "from 1 to"),
            ("srv load http://h --rate 0", "a number above 0"),
            ("srv load http://h --rate -1", "'-1'"),
            ("srv load http://h --rate inf", "a number above 0"),
            ("srv load http://h --rate 1 --arrivals burst", "burst:N"),
            ("srv load http://h --rate 1 --service two:1", "fixed:US"),
            ("srv load http://h --rate 1 --timeout 5", "with its unit"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
