//! The command line of `srv ab`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::arm;

/// The arguments of `srv ab`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AbArgs {
    /// What to do instead of a run.
    #[command(subcommand)]
    pub other: Option<AbCommand>,

    /// Scenarios to run: bimodal, half, cheap, cloudflare, hermes-1 to hermes-4,
    /// longlived, burst, hung, rtt
    /// [default: longlived bimodal cheap; with --simulate bimodal]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,

    /// Arms to compare: policies (each also with +ring), ring, shared, shared-herd,
    /// blocking; the baseline servers nginx, nginx-reuseport, haproxy, gunicorn,
    /// gunicorn-shared, uvicorn, granian, node, node-none, each also with +run (started
    /// under `srv run`), +run-hash (`srv run --no-bpf`) and +run-capacity (`srv run
    /// --capacity 1`), and nginx, haproxy, gunicorn and granian with +attach. The first arm that can run is also run a second time, as
    /// the A/A control
    #[arg(long, value_name = "ARM,ARM", default_value = arm::DEFAULT)]
    pub arms: String,

    /// How often each arm runs. With 3 rounds the control seems to differ in one sound
    /// comparison of four, with 5 rounds in one of sixteen
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// How often a run is repeated if the hypervisor took more than 2 % of the CPUs
    /// during it. Repeats come after all other runs. A run that is disturbed to the
    /// last repeat is not judged
    #[arg(long, default_value_t = 2)]
    pub repeats: usize,

    /// Seed of the first round's draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Requests per second [default: the scenario's]
    #[arg(long)]
    pub rate: Option<f64>,

    /// Length of a round, such as 5s [default: the scenario's]
    #[arg(long)]
    pub duration: Option<humantime::Duration>,

    /// Worker processes of each arm [default: the scenario's]
    #[arg(long)]
    pub workers: Option<usize>,

    /// Put the client behind a path with this delay, such as 50ms
    #[arg(long)]
    pub rtt: Option<humantime::Duration>,

    /// Number of keep-alive connections, in scenarios that have them [default: the
    /// scenario's]
    #[arg(long, value_name = "COUNT")]
    pub kept: Option<usize>,

    /// Let the handler burn CPU instead of sleeping
    #[arg(long)]
    pub spin: bool,

    /// If this process cannot steer, leave out the arms that need it, instead of
    /// refusing to start
    #[arg(long)]
    pub unsteered: bool,

    /// Allow a rate that is more than the workers can do
    #[arg(long)]
    pub overload: bool,

    /// Simulate instead of running: the same policies with up to 4096 workers, for
    /// --duration of simulated time, each round with another seed. Only srv's own
    /// arms can be simulated
    #[arg(long)]
    pub simulate: bool,

    /// Folder for the result [default: ab-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What `srv ab` does instead of a run.
#[derive(Debug, Subcommand)]
pub enum AbCommand {
    /// Compare two runs, before and after a change
    Compare {
        /// result.json, or its folder
        before: PathBuf,
        /// result.json, or its folder
        after: PathBuf,
    },
    /// Make report.html and the plots again from result.json
    Report {
        /// The folder that a run left
        folder: PathBuf,
    },
}
