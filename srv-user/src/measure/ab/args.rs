//! The command line of `srv ab`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::arm;

/// What `srv ab` may be told.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AbArgs {
    /// Something else than a run.
    #[command(subcommand)]
    pub other: Option<AbCommand>,

    /// Which: bimodal, half, cheap, cloudflare, hermes-1 to hermes-4,
    /// longlived, burst, hung, rtt
    /// [default: longlived bimodal cheap; with --simulate bimodal]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,

    /// Policies (each also with +ring), ring, shared, shared-herd, blocking,
    /// nginx, nginx-reuseport, haproxy, gunicorn, granian; nginx, haproxy, gunicorn
    /// and granian also with +attach; the first that can run does so twice, as the control
    #[arg(long, value_name = "ARM,ARM", default_value = arm::DEFAULT)]
    pub arms: String,

    /// How often each arm runs; with 3, one sound run in four has a control
    /// that seems to differ, with 5 one in sixteen
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// How often a run is repeated, after all others, during which the
    /// hypervisor took more than 2 % of the CPUs; what it disturbed to the end
    /// is not judged
    #[arg(long, default_value_t = 2)]
    pub repeats: usize,

    /// Seed of the first round's draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Requests per second [default: the scenario's]
    #[arg(long)]
    pub rate: Option<f64>,

    /// Of a round, such as 5s [default: the scenario's]
    #[arg(long)]
    pub duration: Option<humantime::Duration>,

    /// Worker processes of each arm [default: the scenario's]
    #[arg(long)]
    pub workers: Option<usize>,

    /// Put the client behind a path with this delay, such as 50ms
    #[arg(long)]
    pub rtt: Option<humantime::Duration>,

    /// How many connections are kept, in scenarios that keep them [default: the
    /// scenario's]
    #[arg(long, value_name = "COUNT")]
    pub kept: Option<usize>,

    /// The handler burns CPU instead of sleeping
    #[arg(long)]
    pub spin: bool,

    /// Leave out the arms that steer if this process cannot steer, instead of
    /// stopping before anything starts
    #[arg(long)]
    pub unsteered: bool,

    /// Ask for more than the workers can do
    #[arg(long)]
    pub overload: bool,

    /// Simulate instead of running: the same policies before up to 4096
    /// workers, for --duration of simulated time, each round another seed;
    /// srv's own arms only
    #[arg(long)]
    pub simulate: bool,

    /// Where the result goes [default: ab-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What `srv ab` does beside running.
#[derive(Debug, Subcommand)]
pub enum AbCommand {
    /// Compare two runs, before and after a change
    Compare {
        /// result.json, or its folder
        before: PathBuf,
        /// result.json, or its folder
        after: PathBuf,
    },
    /// Make report.html and the plots anew from result.json
    Report {
        /// The folder that a run left
        folder: PathBuf,
    },
}
