//! bpf-linker: found, built if need be, and proven. Knows one compiler at a
//! time and nothing of where that came from.
//!
//! bpf-linker reads the compiler's LLVM bitcode, so it must carry the same
//! major version of LLVM. Compilers come with LLVM as a shared library; built
//! against that very file, bpf-linker always matches, and no LLVM development
//! package is needed.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    compiler::Compiler,
    step::{Step, ask},
    workspace,
};

/// The release that is known to work.
const VERSION: &str = "0.13.0";

/// The LLVM versions that this release can be built for.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// A function for the proof, in a crate that needs no core library built.
const PROOF: &str = "#![no_std]\n\
    #[unsafe(no_mangle)] pub extern \"C\" fn proof(x: u64) -> u64 { x.rotate_left(3) }\n";

/// A bpf-linker that is there already and links what `compiler` makes: the
/// project's own, or else one on PATH.
pub(crate) fn find(compiler: &Compiler) -> Option<PathBuf> {
    [Some(own()), workspace::program("bpf-linker")]
        .into_iter()
        .flatten()
        .find(|linker| has_version(linker) && prove(compiler, linker).is_ok())
}

/// Builds the project's own bpf-linker for `compiler`, proves it and returns
/// its path.
///
/// # Errors
/// If this compiler's LLVM is not supported, if cargo fails, or if the result
/// does not link.
pub(crate) fn build(compiler: &Compiler) -> Result<PathBuf> {
    let major = compiler.llvm_major()?;
    if !LLVM_MAJORS.contains(&major) {
        bail!(
            "bpf-linker {VERSION} knows LLVM {} to {}, and {} has {major}",
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end(),
            compiler.origin()
        );
    }
    let llvm = match env::var_os("LLVM_PREFIX") {
        Some(chosen) => PathBuf::from(chosen),
        None => llvm_prefix(compiler)?,
    };
    install(compiler, &llvm, &format!("llvm-{major}"))?;
    let linker = own();
    prove(compiler, &linker)
        .with_context(|| format!("prove the new {} on one function", linker.display()))?;
    Ok(linker)
}

/// Links one function, compiled by `compiler`, for BPF.
///
/// # Errors
/// If either tool fails, with what it said.
pub(crate) fn prove(compiler: &Compiler, linker: &Path) -> Result<()> {
    let here = workspace::tools().join("proof");
    fs::create_dir_all(&here).with_context(|| format!("create {}", here.display()))?;
    let at = |name: &str| here.join(name);
    fs::write(at("proof.rs"), PROOF).context("write the proof")?;
    ask(compiler
        .command(&compiler.rustc)
        .args([
            "--edition=2024",
            "--crate-type=lib",
            "--emit=llvm-bc",
            "-O",
            "-o",
        ])
        .args([at("proof.bc"), at("proof.rs")]))?;
    ask(compiler
        .command(linker)
        .args([
            "--target=bpfel-unknown-none",
            "--cpu=v3",
            "--btf",
            "--export=proof",
            "-o",
        ])
        .args([at("proof.o"), at("proof.bc")]))?;
    Ok(())
}

/// Where the project's own bpf-linker is, or would be.
fn own() -> PathBuf {
    workspace::tools().join("bin/bpf-linker")
}

/// Patch releases of the known version will do.
fn has_version(linker: &Path) -> bool {
    let wanted = VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor);
    ask(Command::new(linker).arg("--version"))
        .is_ok_and(|said| said.contains(&format!(" {wanted}.")))
}

fn install(compiler: &Compiler, llvm: &Path, feature: &str) -> Result<()> {
    let tools = workspace::tools();
    let step = Step {
        what: format!("build bpf-linker {VERSION}"),
        why: format!(
            "none here links for {}; it goes to {}, about a minute",
            compiler.origin(),
            tools.display()
        ),
        mend: format!(
            "LLVM_PREFIX={} cargo install bpf-linker --version {VERSION} --locked --force --debug \
             --no-default-features --features {feature} --root {}",
            llvm.display(),
            tools.display()
        ),
    };
    step.run(
        workspace::cargo()
            .args([
                "install",
                "bpf-linker",
                "--version",
                VERSION,
                "--locked",
                "--force",
                // Half the time to build, and LLVM does the work anyway.
                "--debug",
            ])
            .args(["--no-default-features", "--features", feature, "--root"])
            .arg(&tools)
            .env("LLVM_PREFIX", llvm)
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS"),
    )
}

/// A directory laid out as bpf-linker's build expects LLVM's, that holds only
/// the compiler's own shared library, under its own name (by which it is
/// loaded) and under the one that is linked.
fn llvm_prefix(compiler: &Compiler) -> Result<PathBuf> {
    let library = compiler.llvm_library()?;
    let name = library.file_name().context("LLVM's library has no name")?;
    let prefix = workspace::tools().join("llvm");
    let lay_out = || {
        if prefix.exists() {
            fs::remove_dir_all(&prefix)?;
        }
        fs::create_dir_all(prefix.join("lib"))?;
        symlink(&library, prefix.join("lib").join(name))?;
        symlink(&library, prefix.join("lib/libLLVM.so"))
    };
    lay_out().with_context(|| format!("link LLVM's library into {}", prefix.display()))?;
    Ok(prefix)
}
