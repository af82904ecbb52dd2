//! `cargo xtask`: everything between a fresh clone and a running, tested or
//! measured srv. This file owns the command line only.
//!
//! Reading order: [`tasks`] is what a person asks for, [`setup`] finds or
//! makes the BPF [`toolchain`] ([`compiler`] + [`linker`], remembered by
//! [`proven`]), [`object`] builds the BPF object with it, [`image`] the
//! container image, [`release`] what is published, [`kernels`] tests on other kernels, [`ci`] runs the checks of [`lint`]
//! and [`tidy`], [`apt`] and [`rights`] deal with the distribution, [`step`] runs every tool.

mod apt;
mod ci;
mod compiler;
mod demo;
mod failures;
mod image;
mod kernels;
mod linker;
mod lint;
mod object;
mod preload;
mod proven;
mod python;
mod release;
mod rights;
mod setup;
mod static_build;
mod step;
mod tasks;
mod tidy;
mod toolchain;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, builder::PossibleValuesParser};

/// Sets up, builds, runs, tests and measures srv.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find a BPF toolchain that works, or install what it lacks
    Setup,
    /// Build the BPF object, then srv with the object inside
    Build {
        /// Optimised, as it is meant to be run
        #[arg(long)]
        release: bool,
    },
    /// Set up, build --release, then `srv serve ARGS`
    Run {
        /// No BPF toolchain and no root: srv then leaves the choice to the kernel's hash
        #[arg(long)]
        no_bpf: bool,
        /// For `srv serve`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Set up, build --release, then show what steering does: a server, a load, and the live page
    Demo(demo::Choice),
    /// Set up, then every test
    Test {
        /// For `cargo test`, such as a test's name
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Set up, peers included, then the benches (all of them by default)
    Bench {
        /// Which benches
        #[arg(value_parser = tasks::BENCHES)]
        names: Vec<String>,
    },
    /// Set up, peers included, then `srv ab ARGS`: steering against hashing, so
    /// that a sceptic can judge (default: longlived, bimodal, cheap)
    Ab {
        /// For `srv ab`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build the container image srv:latest: a static srv and nothing else
    Image,
    /// Make what is published, in target/artefacts: static binaries, Debian packages, man
    /// pages, completions, SHA256SUMS
    Release {
        /// Of this machine's debug build: to check the packing, not to be published
        #[arg(long)]
        debug: bool,
    },
    /// Boot Debian's kernels under qemu (emulated: no rights are needed, minutes
    /// are) and run there the tests of all that srv has of the kernel
    TestKernels {
        /// Packages of kernels (default: linux-image-amd64 and linux-image-6.12-amd64,
        /// as far as apt knows them)
        packages: Vec<String>,
        /// For the test binary, instead of the usual choice: `attach:: --nocapture`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Check the structure: which folder imports which, circles of modules, the length of
    /// files and functions, what the documentation points at, names that were given up
    Tidy {
        /// Another checkout of srv than this one
        #[arg(long, value_name = "FOLDER")]
        root: Option<PathBuf>,
        /// Write down the public API of srv-steer, instead of comparing it with what is written
        #[arg(long)]
        write_api: bool,
    },
    /// Everything that a change has to pass; `.ci/run` runs all of it but arm64
    Ci {
        /// Which checks (default: all)
        #[arg(value_parser = PossibleValuesParser::new(ci::names()))]
        checks: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Setup => tasks::setup(),
        Task::Build { release } => tasks::build(release),
        Task::Run { no_bpf, args } => tasks::run(no_bpf, &args),
        Task::Demo(choice) => tasks::build(true).and_then(|()| demo::run(&choice)),
        Task::Test { args } => tasks::test(&args),
        Task::Bench { names } => tasks::bench(&names),
        Task::Ab { args } => tasks::ab(&args),
        Task::Image => tasks::image(),
        Task::Release { debug } => release::run(debug),
        Task::TestKernels { packages, args } => tasks::test_kernels(&packages, args),
        Task::Tidy { root, write_api } => {
            tidy::run(root.as_deref().unwrap_or(workspace::root()), write_api)
        }
        Task::Ci { checks } => ci::run(&checks),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
