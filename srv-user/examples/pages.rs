//! Writes srv's man pages and shell completions, as clap makes them from the definition of
//! the command line. `cargo xtask release` packs them: the binary itself has no need of them.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;
use srv::cli::Cli;

fn main() -> Result<()> {
    let folder = env::args_os().nth(1);
    let folder = folder.context("write man pages and completions: usage: pages FOLDER")?;
    let folder = PathBuf::from(folder);
    let mut command = shown();
    let man = folder.join("man");
    fs::create_dir_all(&man).with_context(|| format!("create {}", man.display()))?;
    clap_mangen::generate_to(command.clone(), &man)
        .with_context(|| format!("write man pages to {}", man.display()))?;
    let completions = folder.join("completions");
    fs::create_dir_all(&completions)
        .with_context(|| format!("create {}", completions.display()))?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut command, "srv", &completions)
            .with_context(|| format!("write the completions for {shell}"))?;
    }
    Ok(())
}

/// The command line without what srv starts itself by (the completions name hidden commands,
/// too), and without the commit in the version, by which each build's pages would differ.
fn shown() -> Command {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|one| !one.is_hide_set());
    Command::new("srv")
        .about(all.get_about().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .subcommands(shown.cloned())
}
