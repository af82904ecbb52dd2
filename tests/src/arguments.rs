//! The command lines of the benches.

use clap::Parser;

/// What every bench takes.
#[derive(Parser)]
pub struct Arguments {
    /// Few and short rounds: to see that it works, not to quote.
    #[arg(long)]
    pub quick: bool,
    /// What `cargo bench` passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a bench takes that compares arms.
#[derive(Parser)]
pub struct ArmArguments {
    /// What every bench takes.
    #[command(flatten)]
    pub common: Arguments,
    /// Only arms whose name contains this.
    #[arg(long, default_value = "")]
    pub arms: String,
}
