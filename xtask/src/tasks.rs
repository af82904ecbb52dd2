//! What a person asks `cargo xtask` for: each task is its few steps in order.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

use crate::{
    apt::{self, Package},
    failures, image, kernels, object, preload, python, rights, setup as toolchains, static_build,
    step,
    toolchain::Toolchain,
    workspace,
};

/// The benches, in the order in which they run.
pub(crate) const BENCHES: [&str; 11] = [
    "select",
    "accept_delay",
    "foreign",
    "http",
    "fair",
    "memory",
    "run_storms",
    "shares",
    "sites",
    "slowloris",
    "tail",
];

/// What the tests use beside cargo.
const TEST_TOOLS: [Package; 29] = [
    HAPROXY,
    NODE,
    PYTHON_VENV,
    NGINX,
    NGINX_LUA,
    BINUTILS,
    Package {
        name: "apache2-bin",
        shown_by: "apache2",
    },
    Package {
        name: "chromium",
        shown_by: "chromium",
    },
    Package {
        name: "chromium-driver",
        shown_by: "chromedriver",
    },
    Package {
        name: "curl",
        shown_by: "curl",
    },
    Package {
        name: "docker.io",
        shown_by: "dockerd",
    },
    Package {
        name: "docker-compose",
        shown_by: "docker-compose",
    },
    Package {
        name: "dokuwiki",
        shown_by: "/usr/share/dokuwiki/doku.php",
    },
    Package {
        name: "fonts-dejavu-core",
        shown_by: "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    },
    Package {
        name: "git",
        shown_by: "/usr/lib/git-core/git-http-backend",
    },
    Package {
        name: "gitweb",
        shown_by: "/usr/share/perl5/CGI.pm",
    },
    Package {
        name: "iproute2",
        shown_by: "ip",
    },
    Package {
        name: "lighttpd",
        shown_by: "lighttpd",
    },
    Package {
        name: "logrotate",
        shown_by: "/usr/sbin/logrotate",
    },
    Package {
        name: "musl-tools",
        shown_by: "musl-gcc",
    },
    NGHTTP2,
    Package {
        name: "openssl",
        shown_by: "openssl",
    },
    Package {
        name: "php-cli",
        shown_by: "php",
    },
    PHP_FPM,
    Package {
        name: "prometheus",
        shown_by: "promtool",
    },
    Package {
        name: "puma",
        shown_by: "puma",
    },
    Package {
        name: "strace",
        shown_by: "strace",
    },
    Package {
        name: "tmux",
        shown_by: "tmux",
    },
    Package {
        name: "unicorn",
        shown_by: "unicorn",
    },
];

const HAPROXY: Package = Package {
    name: "haproxy",
    shown_by: "haproxy",
};

const PHP_FPM: Package = Package {
    name: "php-fpm",
    shown_by: "/usr/sbin/php-fpm8.2",
};

const NODE: Package = Package {
    name: "nodejs",
    shown_by: "node",
};

const PYTHON_VENV: Package = Package {
    name: "python3-venv",
    shown_by: "/usr/share/doc/python3-venv",
};

const NGINX: Package = Package {
    name: "nginx-light",
    shown_by: "nginx",
};

const NGINX_LUA: Package = Package {
    name: "libnginx-mod-http-lua",
    shown_by: "/usr/lib/nginx/modules/ngx_http_lua_module.so",
};

/// What the tests on other kernels use; more is downloaded, but not installed.
const KERNEL_TEST_TOOLS: [Package; 4] = [
    NGINX,
    NGINX_LUA,
    BINUTILS,
    Package {
        name: "qemu-system-x86",
        shown_by: "qemu-system-x86_64",
    },
];

const BINUTILS: Package = Package {
    name: "binutils",
    shown_by: "strip",
};

const NGHTTP2: Package = Package {
    name: "nghttp2-client",
    shown_by: "h2load",
};

/// What the benches measure srv against, and with.
const BENCH_PEERS: [Package; 5] = [
    NGINX,
    NGINX_LUA,
    NGHTTP2,
    PHP_FPM,
    Package {
        name: "wrk",
        shown_by: "wrk",
    },
];

/// What `srv ab` compares srv with.
const AB_PEERS: [Package; 3] = [NGINX, NGINX_LUA, HAPROXY];

/// Finds or makes the BPF toolchain and says which it is.
///
/// # Errors
/// If there is none to be had.
pub(crate) fn setup() -> Result<()> {
    let Toolchain { compiler, linker } = toolchains::toolchain()?;
    eprintln!(
        "BPF toolchain: {} with {}; ready",
        compiler.origin(),
        linker.display()
    );
    Ok(())
}

/// Builds the BPF object and srv with it.
///
/// # Errors
/// If set-up or a build fails.
pub(crate) fn build(release: bool) -> Result<()> {
    object::build(&toolchains::toolchain()?)?;
    build_srv(release)
}

/// Builds, then becomes `srv serve`.
///
/// # Errors
/// If set-up or a build fails, or srv cannot be started.
pub(crate) fn run(no_bpf: bool, args: &[String]) -> Result<()> {
    if no_bpf {
        build_srv(true)?;
    } else {
        build(true)?;
    }
    let prefix = if no_bpf {
        Some(&[][..])
    } else {
        rights::prefix()
    };
    if prefix.is_none() {
        eprintln!("neither root nor sudo without a password: srv runs unsteered");
    }
    let mut command = prefixed(prefix.unwrap_or_default(), &workspace::srv(true)?);
    command.arg("serve");
    if no_bpf {
        command.arg("--no-bpf");
    }
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("run {:?}", command.get_program()))
}

/// Every test, with a debug srv that carries the program.
///
/// # Errors
/// If set-up, the build or a test fails.
pub(crate) fn test(args: &[String]) -> Result<()> {
    let installed = apt::ensure(
        &TEST_TOOLS,
        "the tests look at srv and its reports with them, and steer servers of others",
    )?;
    keep_off(&installed)?;
    if let Err(error) = python::ensure() {
        eprintln!("going on without the servers from PyPI: {error:#}");
    }
    build(false)?;
    let mut command = tests(args)?;
    // Who asks for some tests should not wait for a second build.
    if args.is_empty() {
        static_build::srv(false)?;
    }
    // There is none unless a run before this one has left it.
    let _ = fs::remove_file(workspace::skipped());
    if args.is_empty() {
        failures::show_and_repeat("run the tests", &mut command, |names| {
            let mut command = tests(&[])?;
            command
                .args(["--", "--exact", "--test-threads=1"])
                .args(names);
            Ok(command)
        })?;
        preload::test()?;
    } else {
        failures::show("run the tests", &mut command)?;
    }
    // Without a skip there is no list.
    let skipped = fs::read_to_string(workspace::skipped()).unwrap_or_default();
    judge_skips(&skipped, env::var_os("SRV_ALLOW_SKIPS").is_some())
}

/// `cargo test` with these arguments.
fn tests(args: &[String]) -> Result<Command> {
    let mut command = workspace::cargo();
    command
        // A failure of the integration tests says nothing of the unit tests.
        .args(["test", "--no-fail-fast"])
        .args(args)
        .env("SRV_BIN", workspace::srv(false)?)
        .env("SRV_STATIC_BIN", static_build::srv_path(false)?)
        .env("SRV_SKIPPED", workspace::skipped());
    run_binaries_as_root(&mut command)?;
    Ok(command)
}

/// A skip is no pass, although libtest, which has no third outcome, counts it as one.
fn judge_skips(skipped: &str, allowed: bool) -> Result<()> {
    let count = skipped.lines().count();
    if count == 0 {
        eprintln!("No test was skipped.");
        return Ok(());
    }
    eprint!("{skipped}");
    ensure!(
        allowed,
        "run the tests: every test that ran has passed, but {count} could not run here and are \
         counted as passed above; mend what the lines above name, or set SRV_ALLOW_SKIPS=1 to \
         accept this"
    );
    eprintln!("{count} skips, which are counted as passed above.");
    Ok(())
}

/// Builds the container image.
///
/// # Errors
/// If set-up or a build fails, or there is no Docker.
pub(crate) fn image() -> Result<()> {
    object::build(&toolchains::toolchain()?)?;
    image::build()
}

/// What uses the kernel's BPF, tested on other kernels, each of which is booted.
///
/// # Errors
/// If something cannot be installed or built, or a test fails.
pub(crate) fn test_kernels(packages: &[String], args: Vec<String>) -> Result<()> {
    let installed = apt::ensure(&KERNEL_TEST_TOOLS, "other kernels are booted in qemu")?;
    keep_off(&installed)?;
    object::build(&toolchains::toolchain()?)?;
    kernels::test(packages, args)
}

/// The named benches, or all, with a release srv.
///
/// # Errors
/// If set-up, the build or a bench fails.
pub(crate) fn bench(names: &[String]) -> Result<()> {
    let installed = apt::ensure(&BENCH_PEERS, "srv is measured against nginx, with wrk")?;
    if installed.contains(&NGINX.name) {
        apt::keep_off("nginx")?;
    }
    build(true)?;
    let all = BENCHES.map(String::from);
    for name in if names.is_empty() { &all[..] } else { names } {
        let mut command = workspace::cargo();
        command
            .args(["bench", "--package", "srv-tests", "--bench", name])
            .env("SRV_BIN", workspace::srv(true)?);
        run_binaries_as_root(&mut command)?;
        step::show(&format!("run the bench {name}"), &mut command)?;
    }
    Ok(())
}

/// Installs the peers if it may, builds, then becomes `srv ab`.
///
/// # Errors
/// If the build fails, or srv cannot be started.
pub(crate) fn ab(args: &[String]) -> Result<()> {
    match apt::ensure(&AB_PEERS, "srv is compared with them") {
        Ok(installed) => keep_off(&installed)?,
        Err(error) => eprintln!("going on without the peers that are missing: {error:#}"),
    }
    if python::is_named_in(args)
        && let Err(error) = apt::ensure(&[PYTHON_VENV], "servers from PyPI are compared")
            .and_then(|_| python::ensure())
    {
        eprintln!("going on without the servers from PyPI: {error:#}");
    }
    if args.iter().any(|arg| arg.contains("node"))
        && let Err(error) = apt::ensure(&[NODE], "srv is compared with it")
    {
        eprintln!("going on without Node.js: {error:#}");
    }
    build(true)?;
    let prefix = rights::prefix();
    if prefix.is_none() {
        eprintln!("neither root nor sudo: arms that steer cannot run");
    }
    let mut command = prefixed(prefix.unwrap_or_default(), &workspace::srv(true)?);
    command.arg("ab");
    if args.is_empty() {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        command.arg(format!("--out=target/ab-{seconds}"));
    } else {
        command.args(args);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("run {:?}", command.get_program()))
}

/// What was installed to be started by tests is not to run by itself.
fn keep_off(installed: &[&str]) -> Result<()> {
    for service in ["nginx", "haproxy", "lighttpd", "prometheus", "unicorn"] {
        if installed.iter().any(|name| name.starts_with(service)) {
            apt::keep_off(service)?;
        }
    }
    if installed.contains(&PHP_FPM.name) {
        apt::keep_off("php8.2-fpm")?;
    }
    Ok(())
}

fn build_srv(release: bool) -> Result<()> {
    preload::build()?;
    let mut command = workspace::cargo();
    command.args(["build", "--bin", "srv"]);
    if release {
        command.arg("--release");
    }
    step::show("build srv", &mut command)
}

/// `program` after the words that give it root's rights.
fn prefixed(prefix: &[&str], program: &Path) -> Command {
    let mut words = prefix.iter().map(OsString::from).chain([program.into()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Has cargo run what it builds as root, if that can be had. cargo itself
/// stays this user's, so that root owns nothing in the target directory.
fn run_binaries_as_root(cargo: &mut Command) -> Result<()> {
    match rights::prefix() {
        Some([]) => {}
        Some(prefix) => {
            cargo.env(runner_variable()?, prefix.join(" "));
        }
        None => eprintln!("neither root nor sudo without a password: what needs root will skip"),
    }
    Ok(())
}

/// The variable that tells cargo what to run test binaries with.
fn runner_variable() -> Result<String> {
    Ok(runner_variable_for(&workspace::host()?))
}

fn runner_variable_for(host: &str) -> String {
    let host = host.to_uppercase().replace(['-', '.'], "_");
    format!("CARGO_TARGET_{host}_RUNNER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_is_named_after_the_host() {
        assert_eq!(
            runner_variable_for("x86_64-unknown-linux-gnu"),
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
        );
    }

    #[test]
    fn a_skip_fails_unless_it_is_accepted() {
        assert!(judge_skips("", false).is_ok());
        let skipped = "skipped: a: cannot steer: EPERM\nskipped: b: cannot be root: no\n";
        let error = judge_skips(skipped, false).expect_err("two tests did not run");
        assert!(error.to_string().contains("2 could not run"), "{error}");
        assert!(judge_skips(skipped, true).is_ok());
    }

    #[test]
    fn a_prefix_comes_before_the_program() {
        let command = prefixed(&["sudo", "-n"], Path::new("/x/srv"));
        assert_eq!(command.get_program(), "sudo");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["-n", "/x/srv"]);
        let command = prefixed(&[], Path::new("/x/srv"));
        assert_eq!(command.get_program(), "/x/srv");
    }
}
