//! Debian's and Ubuntu's packages. Knows how to install them, not what they
//! are for.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};

use crate::{rights, step::Step, workspace};

/// Package lists older than this may name files that the mirror has replaced.
const LISTS_AGE: Duration = Duration::from_secs(24 * 3600);

/// Runs its arguments with no service started meanwhile: what is installed
/// as a tool must not begin to serve on this machine. `policy-rc.d` is
/// Debian's own means; one that is there already is left alone.
const WITHOUT_SERVICES: &str = r#"
p=/usr/sbin/policy-rc.d
if [ ! -e "$p" ]; then
    trap 'rm -f "$p"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$p" && chmod 755 "$p" || exit
fi
"$@""#;

/// Of the package that its first argument names, the files that the others match.
const DOWNLOAD_AND_UNPACK: &str = r#"
apt-get download "$1"
shift
dpkg-deb --fsys-tarfile ./*.deb | tar --extract --wildcards --transform 's|.*/||' "$@"
rm ./*.deb"#;

/// A package, and what shows that it (or another way to the same) is there.
pub(crate) struct Package {
    /// Debian's name.
    pub name: &'static str,
    /// A program's name, or a file's whole path.
    pub shown_by: &'static str,
}

impl Package {
    fn is_there(&self) -> bool {
        if self.shown_by.starts_with('/') {
            Path::new(self.shown_by).exists()
        } else {
            workspace::program(self.shown_by).is_some()
        }
    }
}

/// Installs those of `packages` that are missing, and returns their names.
///
/// # Errors
/// As [`install`].
pub(crate) fn ensure(packages: &[Package], why: &str) -> Result<Vec<&'static str>> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|package| !package.is_there())
        .map(|package| package.name)
        .collect();
    if !missing.is_empty() {
        install(&missing, why)?;
    }
    Ok(missing)
}

/// Keeps a service that came with a package from being started at boot.
/// Without systemd there is nothing to do.
///
/// # Errors
/// As systemctl says.
pub(crate) fn keep_off(service: &str) -> Result<()> {
    let (Some(_), Some(prefix)) = (workspace::program("systemctl"), rights::prefix()) else {
        return Ok(());
    };
    let arguments = ["systemctl", "disable", service];
    let step = Step {
        what: format!("keep {service} from starting at boot"),
        why: "it was installed as a tool only".into(),
        mend: format!("sudo {}", arguments.join(" ")),
    };
    step.run(as_root(prefix).args(arguments))
}

/// Installs packages, or brings them up to date, without removing another
/// and without starting a service.
///
/// # Errors
/// If this is no Debian, if nobody gives root's rights without a question,
/// or as apt-get says.
pub(crate) fn install(names: &[&str], why: &str) -> Result<()> {
    let what = format!("install {}", names.join(" "));
    let mend = format!(
        "sudo apt-get update && sudo apt-get install {}",
        names.join(" ")
    );
    if workspace::program("apt-get").is_none() {
        bail!(
            "{what}: these are Debian's names, and there is no apt-get here\n  \
             to mend it: install what this distribution calls {}",
            names.join(", ")
        );
    }
    let Some(prefix) = rights::prefix() else {
        bail!("{what}: needs root, and sudo does not give it\n  to mend it: {mend}");
    };
    update_lists(prefix);
    Step {
        what,
        why: why.into(),
        mend,
    }
    .run(
        as_root(prefix)
            .args([
                "sh",
                "-c",
                WITHOUT_SERVICES,
                "sh",
                "apt-get",
                "install",
                "--yes",
            ])
            .args(["--no-install-recommends", "--no-remove"])
            .args(["-o", "DPkg::Lock::Timeout=300"])
            .args(names),
    )
}

/// Brings a package that is not to be installed into `folder`, unpacked: of its
/// files those that `patterns` of tar name, without the folders that they were in.
///
/// # Errors
/// As apt-get, or if the package has none of them.
pub(crate) fn unpack(name: &str, why: &str, patterns: &[&str], folder: &Path) -> Result<()> {
    if let Some(prefix) = rights::prefix() {
        update_lists(prefix);
    }
    Step {
        what: format!("download {name}"),
        why: why.into(),
        mend: format!("sudo apt-get update && apt-get download {name}"),
    }
    .run(
        Command::new("sh")
            .args(["-ec", DOWNLOAD_AND_UNPACK, "sh", name])
            .args(patterns)
            .current_dir(folder),
    )
}

/// If these are older than a day and there are the rights to do so.
fn update_lists(prefix: &[&str]) {
    if lists_are_fresh() {
        return;
    }
    let update = Step {
        what: "update the package lists".into(),
        why: "they are missing or older than a day".into(),
        mend: "sudo apt-get update".into(),
    };
    // Old lists may still do; if not, the next step says so.
    if let Err(error) = update.run(as_root(prefix).args(["apt-get", "update"])) {
        eprintln!("going on with the lists that are there: {error:#}");
    }
}

/// A command that root runs and that does not ask.
fn as_root(prefix: &[&str]) -> Command {
    let mut words = prefix
        .iter()
        .copied()
        .chain(["env", "DEBIAN_FRONTEND=noninteractive"]);
    let mut command = Command::new(words.next().unwrap_or("env"));
    command.args(words);
    command
}

/// Whether apt has package lists, and fetched them not long ago. A list's own
/// time is the mirror's; the directories' are this machine's.
fn lists_are_fresh() -> bool {
    const LISTS: &str = "/var/lib/apt/lists";
    let any = fs::read_dir(LISTS).is_ok_and(|mut lists| {
        lists.any(|list| {
            list.is_ok_and(|list| list.file_name().to_string_lossy().contains("_Packages"))
        })
    });
    let fetched = [LISTS, "/var/lib/apt/lists/partial"]
        .iter()
        .filter_map(|directory| fs::metadata(directory).ok()?.modified().ok())
        .max();
    let age = fetched.and_then(|at| SystemTime::now().duration_since(at).ok());
    any && age.is_some_and(|age| age < LISTS_AGE)
}
