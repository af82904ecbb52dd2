//! `cargo xtask release`: makes everything that is published. Owns which artefacts there
//! are and what they are called; [`package`] owns what is in the Debian package.

mod package;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    apt, lint, object, setup,
    static_build::{self, cross},
    step, workspace,
};
use package::Package;

/// A kind of machine that srv is published for.
pub(crate) struct Machine {
    /// What Rust calls it.
    arch: &'static str,
    /// What Debian calls it.
    debian: &'static str,
    /// The program that removes symbols from its binaries.
    strip: &'static str,
}

impl Machine {
    const ALL: [Self; 2] = [
        Self {
            arch: "x86_64",
            debian: "amd64",
            strip: "x86_64-linux-gnu-strip",
        },
        Self {
            arch: "aarch64",
            debian: "arm64",
            strip: "aarch64-linux-gnu-strip",
        },
    ];

    fn is_this(&self) -> bool {
        self.arch == env::consts::ARCH
    }
}

/// Makes the artefacts in [`workspace::artefacts`]: of release builds for every machine, or
/// of this machine's debug build, which shows that the packing works.
///
/// # Errors
/// If a build or a tool fails, or a package does not list what it should.
pub(crate) fn run(debug: bool) -> Result<()> {
    let folder = workspace::artefacts();
    // There is none unless a run before this one has left it.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let epoch = step::ask(workspace::git().args(["log", "-1", "--format=%ct"]))?;
    let epoch = epoch.trim();
    let version = env!("CARGO_PKG_VERSION");
    let changes = workspace::root().join("CHANGELOG.md");
    let changes = fs::read_to_string(&changes).context("read CHANGELOG.md")?;
    if !debug && !dates(&changes, version) {
        eprintln!("CHANGELOG.md has no date for {version}: do not publish what is made now");
    }
    object::build(&setup::toolchain()?)?;
    let pages = pages()?;
    let wanted = |machine: &&Machine| machine.is_this() || !debug;
    for machine in Machine::ALL.iter().filter(wanted) {
        let binary = binary(machine, debug, &folder)?;
        let package = Package {
            machine,
            binary: &binary,
            pages: &pages,
            epoch,
        };
        package.build(&folder)?;
    }
    for kind in ["man", "completions"] {
        archive(&pages, kind, epoch, &folder)?;
    }
    sum_up(&folder)
}

/// Whether the list of changes has a section for this version that says when it came out.
fn dates(changes: &str, version: &str) -> bool {
    let heading = format!("## [{version}] - ");
    let dates = changes
        .lines()
        .filter_map(|line| line.strip_prefix(&heading));
    let mut dates = dates.map(|date| date.split('-').map(str::parse::<u16>));
    dates.any(|mut date| date.clone().count() == 3 && date.all(|number| number.is_ok()))
}

/// The man pages and completions, made from the definition of the command line.
fn pages() -> Result<PathBuf> {
    let folder = workspace::root().join("target/pages");
    // A page of a command that was removed must not stay.
    let _ = fs::remove_dir_all(&folder);
    let mut command = workspace::cargo();
    command
        .args(["run", "--package", "srv-user", "--example", "pages", "--"])
        .arg(&folder);
    step::show("make the man pages and completions", &mut command)?;
    Ok(folder)
}

/// The static srv of a machine, without symbols.
fn binary(machine: &Machine, debug: bool, folder: &Path) -> Result<PathBuf> {
    let (built, strip) = if machine.is_this() {
        (static_build::srv(!debug)?, "strip")
    } else {
        apt::ensure(&lint::ARM64_TOOLS, "srv is linked for another machine")?;
        (cross(&setup::toolchain()?, machine.arch)?, machine.strip)
    };
    let name = format!("srv-{}-linux-{}", env!("CARGO_PKG_VERSION"), machine.arch);
    let binary = folder.join(name);
    let mut command = Command::new(strip);
    step::ask(command.arg("-o").arg(&binary).arg(built))?;
    Ok(binary)
}

/// Packs the pages of one kind so that the same pages give the same archive.
fn archive(pages: &Path, kind: &str, epoch: &str, folder: &Path) -> Result<()> {
    let name = format!("srv-{}-{kind}.tar.gz", env!("CARGO_PKG_VERSION"));
    let mut command = Command::new("tar");
    command
        .args(["--create", "--sort=name", "--owner=0", "--group=0"])
        .args(["--numeric-owner", "--mode=u=rwX,go=rX"])
        .arg(format!("--mtime=@{epoch}"))
        .args(["--use-compress-program", "gzip -9 --no-name", "--file"])
        .arg(folder.join(name))
        .arg("--directory")
        .arg(pages)
        .arg(kind);
    step::ask(&mut command)?;
    Ok(())
}

/// Writes SHA256SUMS and prints it.
fn sum_up(folder: &Path) -> Result<()> {
    let files = files(folder)?;
    let names = files.iter().filter_map(|file| file.file_name());
    let mut command = Command::new("sha256sum");
    let sums = step::ask(command.current_dir(folder).args(names))?;
    let file = folder.join("SHA256SUMS");
    fs::write(&file, &sums).with_context(|| format!("write {}", file.display()))?;
    eprint!("in {}:\n{sums}", folder.display());
    Ok(())
}

/// The files of a folder, sorted by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    let mut files = list().with_context(|| format!("list {}", folder.display()))?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_without_a_date_is_noticed() {
        let changes = "# Changelog\n\n## [0.2.0] - not released yet\n\n## [0.1.0] - 2026-11-27\n";
        assert!(dates(changes, "0.1.0"));
        assert!(!dates(changes, "0.2.0"));
        assert!(!dates(changes, "0.3.0"));
    }
}
