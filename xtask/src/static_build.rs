//! Programs without any shared library. Owns how cargo is told to build them, not what
//! they are for.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{step, toolchain::Toolchain, workspace};

/// The C library's static half, which Debian ships with its headers.
const STATIC: &str = "-C target-feature=+crt-static";

/// Where [`srv`] leaves it.
///
/// # Errors
/// If rustc cannot be asked for this machine's target.
pub(crate) fn srv_path(release: bool) -> Result<PathBuf> {
    let profile = if release { "release" } else { "debug" };
    let folder = workspace::static_build().join(workspace::host()?);
    Ok(folder.join(profile).join("srv"))
}

/// Builds srv without any shared library, for this machine's architecture.
///
/// # Errors
/// If the build fails.
pub(crate) fn srv(release: bool) -> Result<PathBuf> {
    let mut command = cargo("build")?;
    command.args(["--package", "srv-user", "--bin", "srv"]);
    if release {
        command.arg("--release");
    }
    step::show("build a static srv", &mut command)?;
    srv_path(release)
}

/// Builds a release srv without any shared library for another architecture, and returns
/// its path. The standard library is made from the sources that the BPF objects take, too;
/// Debian's cross compiler has the C library and links.
///
/// # Errors
/// If the build fails.
pub(crate) fn cross(toolchain: &Toolchain, arch: &str) -> Result<PathBuf> {
    let target = format!("{arch}-unknown-linux-gnu");
    let variable = target.to_uppercase().replace('-', "_");
    let compiler = &toolchain.compiler;
    let mut command = compiler.command(&compiler.tool("cargo"));
    command
        .args([
            "build",
            "--release",
            "--package",
            "srv-user",
            "--bin",
            "srv",
        ])
        .args(["--target", &target, "-Z", "build-std=std,panic_abort"])
        .arg("--target-dir")
        .arg(workspace::static_build())
        .env(
            format!("CARGO_TARGET_{variable}_LINKER"),
            format!("{arch}-linux-gnu-gcc"),
        )
        .env("CARGO_ENCODED_RUSTFLAGS", STATIC.replace(' ', "\x1f"));
    step::show(&format!("build a static srv for {arch}"), &mut command)?;
    Ok(workspace::static_build().join(target).join("release/srv"))
}

/// A cargo `task` whose programs need no shared library.
///
/// # Errors
/// If rustc cannot be asked for this machine's target.
pub(crate) fn cargo(task: &str) -> Result<Command> {
    let mut command = workspace::cargo();
    command
        // Named although it is the host, so that build scripts and macros,
        // which are loaded by the compiler, are built as ever.
        .args([task, "--target", &workspace::host()?, "--target-dir"])
        .arg(workspace::static_build())
        .env("RUSTFLAGS", STATIC);
    Ok(command)
}
