//! `cargo xtask test-kernels`: other kernels than this machine's, each booted in
//! an emulated machine ([`machine`]) from memory alone ([`initramfs`]), and what
//! srv's tests come to there. Decides which kernels and which tests.

mod initramfs;
mod machine;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{apt, static_build, step, workspace};

/// Debian 12's own kernel, 6.1, and the newer one that it offers beside it.
const PACKAGES: [&str; 2] = ["linux-image-amd64", "linux-image-6.12-amd64"];

/// The modules of tests/tests/it that run: all in which the kernel's part matters.
const MODULES: [&str; 18] = [
    "attach::",
    "attach_follow::",
    "attach_refusals::",
    "accept_delay::",
    "attached_cookies::",
    "cookies::",
    "deaths::",
    "fallbacks::",
    "attached_degraded::",
    "attached_steering::",
    "hangs::",
    "introspection::",
    "modes::",
    "policies::",
    "ring::",
    "start::",
    "unprivileged::",
    "verifier::",
];

/// Tests of these modules that cannot run there.
const LEFT_OUT: [&str; 2] = [
    // curl, which would have to bring its libraries.
    "attach_refusals::another_network_namespace",
    // Linux 6.17 and newer alone do.
    "attached_degraded::a_kernel_that_lets_programs_load_is_read_by_loads",
];

/// Of a kernel's package: the kernel, and the modules by which the kernel tells
/// of sockets, which Debian does not build in.
const KERNEL_FILES: [&str; 2] = ["./boot/vmlinuz-*", "*/net/ipv4/*_diag.ko*"];

/// Boots each kernel and runs the tests there: these, or those that `args` name.
///
/// # Errors
/// If a package is not to be had, the build fails, or a test does.
pub(crate) fn test(packages: &[String], args: Vec<String>) -> Result<()> {
    ensure!(
        env::consts::ARCH == "x86_64",
        "test on other kernels: only x86-64 is emulated, this machine is {}",
        env::consts::ARCH
    );
    let kernels = kernels(packages)?;
    let busybox = fetched("busybox-static", &["*/bin/busybox"])?.join("busybox");
    let programs = initramfs::Programs {
        busybox,
        srv: static_build::srv(false)?,
        tests: static_tests()?,
    };
    let args = if args.is_empty() { usual() } else { args };
    let mut said = Vec::new();
    for package in &kernels {
        let folder = fetched(package, &KERNEL_FILES)?;
        let initramfs = initramfs::build(&programs, &folder, &args)?;
        eprintln!("==> boot {package}: the tests run there");
        let started = Instant::now();
        let outcome = machine::run(&kernel_in(&folder)?, &initramfs)
            .and_then(|console| machine::judge(&console))
            .with_context(|| format!("test on {package}"))?;
        said.push(format!(
            "{package}: {outcome}, {} s",
            started.elapsed().as_secs()
        ));
    }
    for line in said {
        println!("{line}");
    }
    Ok(())
}

/// What libtest is to run.
fn usual() -> Vec<String> {
    let left_out = LEFT_OUT.iter().flat_map(|name| ["--skip", name]);
    MODULES
        .into_iter()
        .chain(left_out)
        .map(str::to_owned)
        .collect()
}

/// The packages that hold the kernels: those asked for, or those of the usual ones
/// that this distribution has.
fn kernels(asked: &[String]) -> Result<Vec<String>> {
    if !asked.is_empty() {
        return asked.iter().map(|name| holding(name)).collect();
    }
    let mut known = Vec::new();
    for name in PACKAGES {
        match holding(name) {
            Ok(package) if known.contains(&package) => {}
            Ok(package) => known.push(package),
            Err(error) => eprintln!("going on without {name}: {error:#}"),
        }
    }
    if known.is_empty() {
        bail!("find a kernel: apt knows none of {}", PACKAGES.join(", "));
    }
    Ok(known)
}

/// The package that holds the kernel which `name` stands for.
fn holding(name: &str) -> Result<String> {
    let depends = step::ask(Command::new("apt-cache").args(["depends", "--important", name]))?;
    Ok(kernel_among(&depends).unwrap_or(name).to_owned())
}

/// What a package without a kernel of its own depends on.
fn kernel_among(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
}

/// The folder with these files of a package, fetched unless it is there.
fn fetched(package: &str, patterns: &[&str]) -> Result<PathBuf> {
    let folder = workspace::kernels().join(package);
    if folder.exists() {
        return Ok(folder);
    }
    let aside = workspace::kernels().join("new");
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir_all(&aside).with_context(|| format!("create {}", aside.display()))?;
    apt::unpack(
        package,
        "kernels under test boot it or into it",
        patterns,
        &aside,
    )?;
    fs::rename(&aside, &folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

fn kernel_in(folder: &Path) -> Result<PathBuf> {
    fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
        .with_context(|| format!("there is no kernel in {}", folder.display()))
}

/// The test binary without any shared library.
fn static_tests() -> Result<PathBuf> {
    let mut command = static_build::cargo("test")?;
    command.args(["--no-run", "--package", "srv-tests", "--test", "it"]);
    step::show("build static tests", &mut command)?;
    // Built already: this only says where.
    let said = step::ask(command.args(["--quiet", "--message-format", "json"]))?;
    executable(&said).context("cargo does not say where it built the tests")
}

/// The last program in cargo's messages, which are one line of JSON each.
fn executable(messages: &str) -> Option<PathBuf> {
    let (_, rest) = messages.rsplit_once("\"executable\":\"")?;
    let (path, _) = rest.split_once('"')?;
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_behind_a_name_is_found() {
        let meta = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(kernel_among(meta), Some("linux-image-6.1.0-56-amd64"));
        let itself = "linux-image-6.1.0-56-amd64\n  Depends: kmod\n |Depends: initramfs-tools\n";
        assert_eq!(kernel_among(itself), None);
    }

    #[test]
    fn the_test_binary_is_found_in_cargos_messages() {
        let messages = "{\"executable\":null}\n{\"executable\":\"/x/it-1\",\"fresh\":true}\n{}\n";
        assert_eq!(executable(messages), Some("/x/it-1".into()));
        assert_eq!(executable("{\"executable\":null}"), None);
    }
}
