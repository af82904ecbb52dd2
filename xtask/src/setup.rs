//! Finds a BPF toolchain or makes one: the order of the routes is decided
//! here, and nothing is installed that is not missing.
//!
//! 1. A compiler that has its library sources and a linker that works.
//! 2. One that has its sources: bpf-linker is built for it.
//! 3. rustup's compiler: rustup fetches the sources, then as 2.
//! 4. Debian's compiler with its sources (many closed networks have a mirror
//!    of Debian and none of rustup's server), then as 2.

use anyhow::{Error, Result, anyhow, bail};

use crate::{
    apt,
    compiler::{self, Compiler},
    linker, proven,
    toolchain::Toolchain,
};

/// Debian's compiler, its cargo and its library sources.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A BPF toolchain that works: the one remembered, or one found or made now.
///
/// # Errors
/// If no route leads to one: every route with its own failure and mend.
pub(crate) fn toolchain() -> Result<Toolchain> {
    if let Some(toolchain) = proven::recall() {
        return Ok(toolchain);
    }
    eprintln!("==> look for a BPF toolchain: none is known to work yet");
    let toolchain = find_or_make()?;
    proven::remember(&toolchain)?;
    Ok(toolchain)
}

fn find_or_make() -> Result<Toolchain> {
    let compilers = compiler::all();
    for compiler in &compilers {
        eprintln!("    {}", describe(compiler));
    }
    let with_sources = || compilers.iter().filter(|compiler| compiler.has_sources());
    let ready = |compiler: &Compiler| {
        let linker = linker::find(compiler)?;
        Some(Toolchain {
            compiler: compiler.clone(),
            linker,
        })
    };
    if let Some(toolchain) = with_sources().find_map(ready) {
        return Ok(toolchain);
    }
    let mut failures = Vec::new();
    for compiler in with_sources() {
        match with_linker(compiler) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => failures.push(error),
        }
    }
    // A route that would lead to a compiler that was just tried is left out.
    let rustups = compilers.iter().find(|found| found.rustup_name.is_some());
    if rustups.is_none_or(|active| !active.has_sources()) {
        match by_rustup(rustups) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => failures.push(error),
        }
    }
    if !with_sources().any(|tried| tried.rustup_name.is_none()) {
        match by_debian() {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => failures.push(error),
        }
    }
    Err(no_route(&failures))
}

/// One line on what there is.
fn describe(compiler: &Compiler) -> String {
    let sources = if compiler.has_sources() {
        "with"
    } else {
        "without"
    };
    format!("{}, {sources} library sources", compiler.origin())
}

/// `compiler` with a linker, built if none there works.
fn with_linker(compiler: &Compiler) -> Result<Toolchain> {
    let linker = match linker::find(compiler) {
        Some(linker) => linker,
        None => linker::build(compiler)?,
    };
    Ok(Toolchain {
        compiler: compiler.clone(),
        linker,
    })
}

/// Route 3. Only the active toolchain: others are their owner's business.
fn by_rustup(active: Option<&Compiler>) -> Result<Toolchain> {
    let Some(active) = active else {
        bail!("rustup: not here, or its compiler is too old\n  to mend it: rustup update stable");
    };
    compiler::add_sources(active)?;
    with_linker(active)
}

/// Route 4.
fn by_debian() -> Result<Toolchain> {
    apt::install(
        &PACKAGES,
        "a compiler with exactly its library sources, to build BPF code with",
    )?;
    let Some(compiler) = compiler::all()
        .into_iter()
        .find(|compiler| compiler.rustup_name.is_none() && compiler.has_sources())
    else {
        bail!(
            "use Debian's compiler: {} are installed, but not as Rust {} or newer with its sources\n  \
             to mend it: sudo apt-get update && sudo apt-get install {}",
            PACKAGES.join(", "),
            env!("CARGO_PKG_RUST_VERSION"),
            PACKAGES.join(" ")
        );
    };
    with_linker(&compiler)
}

/// The one error for people, whatever was tried.
fn no_route(failures: &[Error]) -> Error {
    let tried: String = failures
        .iter()
        .map(|failure| format!("\n- {failure:#}"))
        .collect();
    anyhow!(
        "set up a BPF toolchain: no way worked; any one of these mended is enough{tried}\n\
         Without BPF, `cargo xtask run --no-bpf` serves with the kernel's own hash."
    )
}
