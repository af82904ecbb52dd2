//! The checks of [`crate::ci`] that run no srv: each is the call of one tool.

use std::process::Command;

use anyhow::Result;

use crate::{
    apt::{self, Package},
    compiler::Compiler,
    object, preload,
    step::{self, Step},
    toolchain::Toolchain,
    workspace,
};

/// What compiles ring, the cryptography of `srv load`, for arm64.
pub(crate) const ARM64_TOOLS: [Package; 2] = [
    Package {
        name: "gcc-aarch64-linux-gnu",
        shown_by: "aarch64-linux-gnu-gcc",
    },
    Package {
        name: "libc6-dev-arm64-cross",
        shown_by: "/usr/aarch64-linux-gnu/include/stdint.h",
    },
];

/// The combinations of srv-steer's features, as arguments of cargo, that the check of the
/// whole workspace does not compile. A feature of srv-steer that is new is added here.
const FEATURE_SETS: [&[&str]; 3] = [
    &["--no-default-features"],
    &["--no-default-features", "--features", "tracing"],
    &["--no-default-features", "--features", "serde"],
];

/// The release of cargo-deny whose settings deny.toml is written for.
const DENY: &str = "0.20.2";

/// rustfmt, the BPF crate included.
///
/// # Errors
/// If a file is not formatted.
pub(crate) fn format() -> Result<()> {
    step::show(
        "check the format",
        workspace::cargo().args(["fmt", "--all", "--check"]),
    )
}

/// clippy over everything that runs on the host.
///
/// # Errors
/// At any warning.
pub(crate) fn host() -> Result<()> {
    step::show(
        "lint the host's crates",
        workspace::cargo().args(["clippy", "--all-targets", "--", "--deny", "warnings"]),
    )?;
    preload::lint()
}

/// clippy over srv-steer with each set of its features: in the workspace, features of one
/// crate are those that all others ask for, taken together.
///
/// # Errors
/// At any warning.
pub(crate) fn features() -> Result<()> {
    if !workspace::root().join("srv-steer/Cargo.toml").exists() {
        return Ok(());
    }
    for set in FEATURE_SETS {
        let mut command = workspace::cargo();
        command.args(["clippy", "--package", "srv-steer", "--all-targets"]);
        step::show(
            &format!("lint srv-steer with {}", set.join(" ")),
            command.args(set).args(["--", "--deny", "warnings"]),
        )?;
    }
    Ok(())
}

/// srv-steer with the oldest Rust that its manifest promises. If that toolchain cannot be had,
/// this says so, and what remains is clippy's `incompatible_msrv`, which knows since when the
/// standard library has what.
///
/// # Errors
/// If it does not compile.
pub(crate) fn oldest_rust() -> Result<()> {
    const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", OLDEST, "--profile", "minimal"]);
    let title = format!("install Rust {OLDEST}");
    if let Err(error) = step::show(&title, &mut install) {
        eprintln!("skipped: srv-steer was not compiled with Rust {OLDEST}: {error:#}");
        return Ok(());
    }
    let mut check = Command::new("rustup");
    check
        .current_dir(workspace::root())
        .args(["run", OLDEST, "cargo", "check", "--package", "srv-steer"])
        .args(["--all-features", "--target-dir"])
        .arg(workspace::root().join("target/oldest-rust"));
    // Cargo names the newer compiler to its children, of which this one is.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        check.env_remove(variable);
    }
    step::show(&format!("check srv-steer with Rust {OLDEST}"), &mut check)
}

/// clippy over the BPF crate, for its own target, by the clippy of the very
/// compiler that builds it.
///
/// # Errors
/// At any warning, or if that compiler's clippy cannot be had.
pub(crate) fn bpf(toolchain: &Toolchain) -> Result<()> {
    let compiler = &toolchain.compiler;
    if !compiler.tool("cargo-clippy").exists() {
        install_clippy(compiler)?;
    }
    let mut command = object::cargo(toolchain, &compiler.tool("cargo-clippy"), "clippy");
    step::show(
        "lint the BPF crate",
        command.args(["--", "--deny", "warnings"]),
    )
}

/// srv for the other processor that its pages and system calls are listed for. No machine
/// of it is needed: nothing is linked, and its standard library is made from the sources
/// that the BPF objects take, too.
///
/// # Errors
/// If it does not compile.
pub(crate) fn arm64(toolchain: &Toolchain) -> Result<()> {
    let compiler = &toolchain.compiler;
    let mut command = compiler.command(&compiler.tool("cargo"));
    command
        .args(["check", "--package", "srv-user", "--all-targets"])
        .args(["--target", "aarch64-unknown-linux-gnu"])
        .args(["-Z", "build-std=std,panic_abort,test", "--target-dir"])
        .arg(workspace::arm64_build());
    step::show("check srv for arm64", &mut command)
}

/// The documentation, private items included since srv's readers are those
/// who change it, builds without a warning.
///
/// # Errors
/// At any warning.
pub(crate) fn documentation() -> Result<()> {
    step::show(
        "build the documentation",
        workspace::cargo()
            .args(["doc", "--no-deps", "--document-private-items"])
            .env(
                "RUSTDOCFLAGS",
                "--deny warnings --allow rustdoc::private-intra-doc-links",
            ),
    )
}

/// cargo-deny: licences, bans and sources always, advisories where their
/// database can be fetched.
///
/// # Errors
/// If a dependency is refused, or cargo-deny cannot be had.
pub(crate) fn dependencies() -> Result<()> {
    let deny = workspace::tools().join("bin/cargo-deny");
    if !deny.exists() {
        install_deny()?;
    }
    let run = |words: &[&str]| {
        let mut command = Command::new(&deny);
        command.current_dir(workspace::root()).args(words);
        command
    };
    step::show(
        "check the dependencies",
        &mut run(&[
            "check",
            "--hide-inclusion-graph",
            "licenses",
            "bans",
            "sources",
        ]),
    )?;
    if let Err(error) = step::ask(&mut run(&["fetch", "db"])) {
        let error = format!("{error:#}");
        let cause = error.lines().last().unwrap_or_default();
        eprintln!("advisories: NOT checked, their database cannot be fetched: {cause}");
        return Ok(());
    }
    step::show("check for advisories", &mut run(&["check", "advisories"]))
}

/// Gives the BPF compiler its clippy, from where the compiler came.
fn install_clippy(compiler: &Compiler) -> Result<()> {
    let why = "the BPF crate is linted by the compiler that builds it";
    let Some(name) = &compiler.rustup_name else {
        return apt::install(&["rust-web-clippy"], why);
    };
    let arguments = ["component", "add", "clippy", "--toolchain", name];
    let step = Step {
        what: format!("add clippy to {}", compiler.origin()),
        why: why.into(),
        mend: format!("rustup {}", arguments.join(" ")),
    };
    step.run(Command::new("rustup").args(arguments))
}

fn install_deny() -> Result<()> {
    let tools = workspace::tools();
    let arguments = [
        "install",
        "cargo-deny",
        "--version",
        DENY,
        "--locked",
        // Half the time to build; the check takes seconds either way.
        "--debug",
        "--root",
    ];
    let step = Step {
        what: format!("build cargo-deny {DENY}"),
        why: "it checks the dependencies; about two minutes, once".into(),
        mend: format!("cargo {} {}", arguments.join(" "), tools.display()),
    };
    step.run(
        workspace::cargo()
            .args(arguments)
            .arg(&tools)
            .env("CARGO_PROFILE_DEV_DEBUG", "none")
            .env_remove("CARGO_TARGET_DIR"),
    )
}
