//! The container image: a static srv in an otherwise empty image. Knows what
//! goes into it; dist/Dockerfile says how.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{step, workspace};

/// What a person runs it by.
const NAME: &str = "srv:latest";
/// The C library's static half, which Debian ships with its headers.
const STATIC: &str = "-C target-feature=+crt-static";

/// Where [`static_srv`] leaves it.
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
pub fn static_srv(release: bool) -> Result<PathBuf> {
    let mut command = static_cargo("build")?;
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
pub fn static_cargo(task: &str) -> Result<Command> {
    let mut command = workspace::cargo();
    command
        // Named although it is the host, so that build scripts and macros,
        // which are loaded by the compiler, are built as ever.
        .args([task, "--target", &workspace::host()?, "--target-dir"])
        .arg(workspace::static_build())
        .env("RUSTFLAGS", STATIC);
    Ok(command)
}

/// Builds the image in the Docker engine that `docker` talks to.
///
/// # Errors
/// If there is no Docker, or what it says.
pub fn build() -> Result<()> {
    ensure!(
        workspace::program("docker").is_some(),
        "build the image {NAME}: there is no docker here; install it (Debian: sudo apt-get \
         install docker.io), or give the static srv and dist/Dockerfile to another builder"
    );
    let context = workspace::image_context();
    fs::create_dir_all(&context).with_context(|| format!("create {}", context.display()))?;
    let srv = context.join("srv");
    step::show(
        "lay the static srv into the build context, without its debug information",
        Command::new("strip")
            .arg("-o")
            .arg(&srv)
            .arg(static_srv(true)?),
    )?;
    let mut command = Command::new("docker");
    command
        .args(["build", "--tag", NAME, "--file"])
        .arg(workspace::root().join("dist/Dockerfile"))
        .arg(&context);
    step::show(&format!("build the image {NAME}"), &mut command)?;
    eprintln!(
        "run it by: docker run --rm --publish 8080:8080 --cap-drop ALL \
         --cap-add BPF --cap-add PERFMON --cap-add SETUID --cap-add SETGID --cap-add KILL \
         --cap-add SETPCAP {NAME}"
    );
    Ok(())
}
