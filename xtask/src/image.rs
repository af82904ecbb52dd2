//! The container image: a static srv in an otherwise empty image. Knows what
//! goes into it; dist/Dockerfile says how.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{static_build, step, workspace};

/// What a person runs it by; it has a tag with the version, too.
const NAME: &str = "srv:latest";
/// Where dist/Dockerfile looks for srv in the build context: the error of a build
/// without this task names it.
const LAID_INTO: &str = "built-by-cargo-xtask-image";
/// What srv needs to steer and to run its workers as another user.
const CAPABILITIES: [&str; 6] = ["BPF", "PERFMON", "SETUID", "SETGID", "KILL", "SETPCAP"];

/// Builds the image in the Docker engine that `docker` talks to.
///
/// # Errors
/// If there is no Docker, or what it says.
pub(crate) fn build() -> Result<()> {
    ensure!(
        workspace::program("docker").is_some(),
        "build the image {NAME}: there is no docker here; install it (Debian: sudo apt-get \
         install docker.io), or give the static srv and dist/Dockerfile to another builder"
    );
    let context = workspace::image_context();
    let folder = context.join(LAID_INTO);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let srv = folder.join("srv");
    step::show(
        "lay the static srv into the build context, without its debug information",
        Command::new("strip")
            .arg("-o")
            .arg(&srv)
            .arg(static_build::srv(true)?),
    )?;
    let version = env!("CARGO_PKG_VERSION");
    let mut command = Command::new("docker");
    command
        .args(["build", "--tag", NAME, "--tag", &format!("srv:{version}")])
        .args(["--build-arg", &format!("VERSION={version}")])
        .args(["--build-arg", &format!("REVISION={}", revision())])
        .arg("--file")
        .arg(workspace::root().join("dist/Dockerfile"))
        .arg(&context);
    step::show(&format!("build the image {NAME}"), &mut command)?;
    eprintln!("run it by: {}", run_line(knows_bpf()));
    Ok(())
}

/// The commit that srv was built from.
fn revision() -> String {
    let mut git = workspace::git();
    let output = git
        .args(["describe", "--always", "--dirty", "--abbrev=40"])
        .output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or_else(
        || "unknown".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Whether the engine can name `CAP_BPF`: one that was made before the kernel had it, such
/// as Docker 20.10 of Debian 12, refuses to create the container.
fn knows_bpf() -> bool {
    let mut create = Command::new("docker");
    create.args(["create", "--cap-add", "BPF", NAME]);
    let Ok(output) = create.output() else {
        return true;
    };
    let container = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        // It was created to ask only; if it stays, nothing runs.
        let _ = Command::new("docker").args(["rm", &container]).output();
    }
    !String::from_utf8_lossy(&output.stderr).contains("unknown capability")
}

/// How to run it with no more rights than it needs.
fn run_line(knows_bpf: bool) -> String {
    let old = ["SYS_ADMIN"]
        .into_iter()
        .chain(CAPABILITIES[2..].iter().copied());
    let names: Vec<&str> = match knows_bpf {
        true => CAPABILITIES.to_vec(),
        false => old.collect(),
    };
    let rights: String = names
        .iter()
        .map(|name| format!(" --cap-add {name}"))
        .collect();
    let why = match knows_bpf {
        true => "",
        false => "\n(this engine does not know CAP_BPF and CAP_PERFMON, which SYS_ADMIN contains)",
    };
    format!("docker run --rm --publish 8080:8080 --cap-drop ALL{rights} {NAME}{why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_does_not_know_bpf_gets_a_line_that_it_takes() {
        let line = run_line(true);
        assert!(line.contains("--cap-add BPF --cap-add PERFMON") && !line.contains("SYS_ADMIN"));
        let line = run_line(false);
        assert!(
            line.contains("--cap-drop ALL --cap-add SYS_ADMIN --cap-add SETUID"),
            "{line}"
        );
        assert!(!line.contains("--cap-add BPF"), "{line}");
    }
}
