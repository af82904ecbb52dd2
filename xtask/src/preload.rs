//! Builds the library that `srv run` preloads, and puts it where the build script of srv-user
//! looks.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{object, step, workspace};

/// The profile that the library is built by, after which cargo names the folder.
const PROFILE: &str = "library";

/// Builds the library and publishes it.
///
/// # Errors
/// As cargo says, or if the library cannot be put in its place.
pub(crate) fn build() -> Result<()> {
    step::show("build the library of srv run", &mut cargo("build"))?;
    let built = workspace::target()?.join(PROFILE).join("libsrv_preload.so");
    let library = workspace::library();
    object::publish(&built, &library)
        .with_context(|| format!("put {} at {}", built.display(), library.display()))
}

/// clippy over the library.
///
/// # Errors
/// At any warning.
pub(crate) fn lint() -> Result<()> {
    let mut command = cargo("clippy");
    step::show(
        "lint the library of srv run",
        command.args(["--", "--deny", "warnings"]),
    )
}

/// Its unit tests.
///
/// # Errors
/// If one fails.
pub(crate) fn test() -> Result<()> {
    let mut command = workspace::cargo();
    step::show(
        "run the tests of the library of srv run",
        command.args(["test", "--package", "srv-preload"]),
    )
}

/// A cargo `task` over the library. It has no standard library, without which a panic cannot be
/// unwound, so that it is compiled by a profile of its own.
fn cargo(task: &str) -> Command {
    let mut command = workspace::cargo();
    command.args([task, "--package", "srv-preload", "--profile", PROFILE]);
    command
}
