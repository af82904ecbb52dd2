//! The command line of `srv load`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::measure::arrivals::{Arrivals, Service};
use crate::measure::load::{ConnectTo, Header, Statuses};
use crate::values::{Count, Period};

/// Largest `--clients` and `--keep-alive`: more sockets than that no process gets.
const CLIENTS_MAX: u32 = 1 << 20;

/// The arguments of `srv load`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
What counts: a request is answered if a complete response came in time and its \
status is a success (--success). The latencies are those of answered requests, and of \
requests that timed out, which count with the time that they waited. A request that is \
lost in another way is counted by how it ended: connect, reset, timeout, status or \
malformed. Requests that could not be sent because of the generator's own limits are \
counted apart: no-port (no free local port), no-socket (no more files), late (picked up \
after --timeout). srv load speaks HTTP/1.1 only. It reads chunked bodies and interim \
responses (1xx), and does not follow redirections.

Addresses: if a name has several addresses, each is tried once before the run. The \
first that takes a connection is used for the whole run.

https: certificates are verified against the authorities that this machine trusts, or \
against those in the PEM file that the environment variable SSL_CERT_FILE names. Each new \
connection makes a full handshake, or, with --resume, offers the session of an earlier one. \
Keep-alive connections make it before the run.

Targets in a file: each target is a line `URL` or `METHOD URL`. After it there may be \
lines `Name: value` for header fields, and a line `@FILE` for the body. Requests take the \
targets in turn. --header, --method and --body apply to each target that does not say \
otherwise.

Exit codes: 0 if the run came to its end, even if requests were lost or the \
generator fell behind (srv load then prints a warning). 1 if it could not run, if no \
request was answered, or with --strict if a request was lost or not sent. 2 if the command \
line is wrong. 130 or 143 if it was stopped by SIGINT (Ctrl-C) or SIGTERM: the figures \
until then are printed and written, marked as incomplete.

Files in --out: records.csv, a line for each request (instants in ns from the start of \
the run); latency.hgrm, the distribution in ms; latency.hlog, an HdrHistogram \
interval log of 1 s intervals (values in ns); summary.json, as --json prints it.")]
pub struct LoadArgs {
    /// URL to get, such as https://HOST:PORT/PATH. {us} in it becomes the service time in us
    #[arg(value_name = "URL", required_unless_present = "targets")]
    pub url: Option<String>,

    /// Take the URLs from FILE, in turn (`-` is standard input). Its format is below
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub targets: Option<PathBuf>,

    /// Method [default: GET, or POST if there is a body]
    #[arg(long, short = 'X', value_name = "METHOD")]
    pub method: Option<String>,

    /// Send this header field, such as `Accept: text/html`; repeatable
    #[arg(long, short = 'H', value_name = "FIELD")]
    pub header: Vec<Header>,

    /// Send this text as the body of each request
    #[arg(long, short = 'd', value_name = "TEXT", conflicts_with = "body_file")]
    pub body: Option<String>,

    /// Send what is in FILE as the body of each request
    #[arg(long, value_name = "FILE")]
    pub body_file: Option<PathBuf>,

    /// Statuses that count as a success: codes, ranges and classes, such as 200-204,3xx
    #[arg(long, value_name = "LIST", default_value = "2xx,3xx")]
    pub success: Statuses,

    /// Connect to TO:PORT instead of HOST:PORT, as curl does. An empty HOST or PORT means
    /// any. Host and the name of the certificate remain those of the URL; repeatable
    #[arg(long, value_name = "HOST:PORT:TO:PORT", conflicts_with = "unix_socket")]
    pub connect_to: Vec<ConnectTo>,

    /// Connect to this Unix socket, whatever host the URL names
    #[arg(long, value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,

    /// Accept any certificate
    #[arg(long, short = 'k')]
    pub insecure: bool,

    /// Let new connections resume the TLS sessions of earlier ones, as a client does that comes back
    #[arg(long, conflicts_with = "keep_alive")]
    pub resume: bool,

    /// Open loop: requests per second, whether or not earlier ones are answered
    #[arg(long, value_name = "N", value_parser = rate,
          required_unless_present = "clients", conflicts_with = "clients")]
    pub rate: Option<f64>,

    /// How requests follow one another: poisson, constant, or burst:N (N at once)
    #[arg(long, value_name = "HOW", default_value_t = Arrivals::Poisson, conflicts_with = "clients")]
    pub arrivals: Arrivals,

    /// Closed loop: clients that each send when their previous request is answered
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

    /// Keep N connections to each server alive and use them in turn [default: a new
    /// connection for each request]
    #[arg(long, value_name = "N")]
    pub keep_alive: Option<Count<1, CLIENTS_MAX>>,

    /// A request that is not answered in this time is lost
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub timeout: Period<1>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Folder for raw records and histograms. Files of an earlier run are replaced
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Exit with 1 if a request was lost or not sent
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
        let long = parse(
            "srv load https://h/ --clients 1 -X PUT -H A:b --header C:d --body text --success 2xx \
             --connect-to h:443::8443 -k",
        );
        let long = long.unwrap();
        assert_eq!((long.header.len(), long.connect_to.len()), (2, 1));
        parse("srv load --targets - --clients 1 --body-file f --unix-socket s").unwrap();
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
            ("srv load --rate 1", "<URL>"),
            ("srv load http://h --targets f --rate 1", "cannot be used"),
            (
                "srv load http://h --rate 1 -d x --body-file f",
                "cannot be used",
            ),
            (
                "srv load http://h --rate 1 --connect-to ::a: --unix-socket s",
                "cannot be used",
            ),
            ("srv load http://h --rate 1 -H x", "expected a header field"),
            (
                "srv load http://h --rate 1 --success ok",
                "expected statuses",
            ),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
