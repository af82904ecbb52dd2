//! Programs without any shared library. Owns how cargo is told to build them, not what
//! they are for.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{step, workspace};

/// The C library's static half, which Debian ships with its headers.
const STATIC: &str = "-C target-feature=+crt-static";

/// Where [`srv`] leaves it.
///
/// # Errors
/// If rustc cannot be asked for this machine's target.
pub fn srv_path(release: bool) -> Result<PathBuf> {
    let profile = if release { "release" } else { "debug" };
    let folder = workspace::static_build().join(workspace::host()?);
    Ok(folder.join(profile).join("srv"))
}

/// Builds srv without any shared library, for this machine's architecture.
///
/// # Errors
/// If the build fails.
pub fn srv(release: bool) -> Result<PathBuf> {
    let mut command = cargo("build")?;
    command.args(["--package", "srv-user", "--bin", "srv"]);
    if release {
        command.arg("--release");
    }
    step::show("build a static srv", &mut command)?;
    srv_path(release)
}

/// A cargo `task` whose programs need no shared library.
///
/// # Errors
/// If rustc cannot be asked for this machine's target.
pub fn cargo(task: &str) -> Result<Command> {
    let mut command = workspace::cargo();
    command
        // Named although it is the host, so that build scripts and macros,
        // which are loaded by the compiler, are built as ever.
        .args([task, "--target", &workspace::host()?, "--target-dir"])
        .arg(workspace::static_build())
        .env("RUSTFLAGS", STATIC);
    Ok(command)
}
