//! Where things are: the one place that knows the workspace's paths.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::step;

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member.parent().unwrap_or(member)
}

/// Where the build scripts look for the finished BPF objects: the one for a server's own workers
/// beside the sources of srv-steer, whose package contains it. Nothing else may be in these
/// folders, since the build scripts watch them.
pub(crate) fn object(name: &str) -> PathBuf {
    let folder = match name {
        "srv-ebpf" => "srv-steer/bpf",
        _ => "target/bpf",
    };
    root().join(folder).join(name).with_extension("o")
}

/// Where the build script of srv-user looks for the library of `srv run`. Nothing else may be in
/// this folder, since the build script watches it.
pub(crate) fn library() -> PathBuf {
    root().join("target/preload/srv-preload.so")
}

/// The target directory of the BPF build, apart from the host's: another
/// compiler builds there.
pub(crate) fn object_build() -> PathBuf {
    root().join("target/bpf-build")
}

/// The target directory of the static srv.
pub(crate) fn static_build() -> PathBuf {
    root().join("target/static")
}

/// What is checked for arm64.
pub(crate) fn arm64_build() -> PathBuf {
    root().join("target/arm64")
}

/// Kernels to test on, and what they boot into.
pub(crate) fn kernels() -> PathBuf {
    root().join("target/kernels")
}

/// What the image is built from.
pub(crate) fn image_context() -> PathBuf {
    root().join("target/image")
}

/// What `cargo xtask release` makes.
pub(crate) fn artefacts() -> PathBuf {
    root().join("target/artefacts")
}

/// The list of the tests that were skipped, a line each.
pub(crate) fn skipped() -> PathBuf {
    root().join("target/skipped.txt")
}

/// Tools of this project's own, so that nobody's installed ones are touched.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The host's `srv`, in the target directory that xtask itself was built in
/// (which may be anywhere: `CARGO_TARGET_DIR`, a cargo setting).
///
/// # Errors
/// If the system does not tell where this program is.
pub(crate) fn srv(release: bool) -> Result<PathBuf> {
    Ok(target()?
        .join(if release { "release" } else { "debug" })
        .join("srv"))
}

/// The target directory that xtask itself was built in.
///
/// # Errors
/// If the system does not tell where this program is.
pub(crate) fn target() -> Result<PathBuf> {
    let this = env::current_exe().context("find xtask's own path")?;
    let target = this.ancestors().nth(2);
    target
        .map(Path::to_owned)
        .context("find the target directory above xtask")
}

/// The cargo that runs xtask, at the workspace's root.
pub(crate) fn cargo() -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

/// git, at the workspace's root.
pub(crate) fn git() -> Command {
    let mut command = Command::new("git");
    command.current_dir(root());
    command
}

/// The target triple of this machine.
///
/// # Errors
/// If rustc cannot be asked.
pub(crate) fn host() -> Result<String> {
    let about = step::ask(Command::new("rustc").arg("-vV"))?;
    about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not tell its host")
}

/// The program `name` on PATH or, since a person's PATH often lacks them, in
/// the administrator's directories.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
