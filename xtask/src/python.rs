//! What the tests and `srv ab` need of PyPI: servers to steer, with the versions
//! that docs/attach.md names, and Kubernetes' schemas. A virtual environment under
//! `target/python`, made once.

use std::process::Command;

use anyhow::Result;

use crate::{step, workspace};

const PACKAGES: [(&str, &str); 3] = [
    ("gunicorn", "27.0.1"),
    ("granian", "2.8.7"),
    ("kubernetes-validate", "1.37.0"),
];

/// Whether arguments of `srv ab` name an arm that is one of the servers.
pub(crate) fn is_named_in(args: &[String]) -> bool {
    let is_server = |arg: &String| arg.contains("gunicorn") || arg.contains("granian");
    args.iter().any(is_server)
}

/// Installs them, if they are not there yet.
///
/// # Errors
/// There is no venv module, or no package index to be had.
pub(crate) fn ensure() -> Result<()> {
    let folder = workspace::root().join("target/python");
    let is_there = |name| folder.join("bin").join(name).exists();
    if PACKAGES.iter().all(|(name, _)| is_there(name)) {
        return Ok(());
    }
    let mut make = Command::new("python3");
    step::show("make target/python", make.args(["-m", "venv"]).arg(&folder))?;
    let packages = PACKAGES.map(|(name, version)| format!("{name}=={version}"));
    let mut install = Command::new(folder.join("bin/pip"));
    step::show(
        "install what is needed of PyPI in it",
        install.args(["install", "--quiet"]).args(packages),
    )
}
