//! The Rust compilers of this machine that could compile for BPF: rustup's,
//! and one that the distribution installed. Knows nothing of linkers.
//!
//! No stable compiler ships a core library for the BPF target, so it is
//! built along (`-Z build-std`), which takes the library sources of exactly
//! that compiler. `RUSTC_BOOTSTRAP` opens the option on stable compilers.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    step::{Step, ask},
    workspace,
};

/// Variables that cargo and rustup set for what they run, and flags meant for
/// the host's build: another compiler must not inherit them.
const NOT_INHERITED: [&str; 12] = [
    "CARGO",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MANIFEST_DIR",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];

/// A compiler with its cargo.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compiler {
    /// rustup's name for it; none for the distribution's.
    pub rustup_name: Option<String>,
    /// The compiler itself, never rustup's stand-in.
    pub rustc: PathBuf,
}

impl Compiler {
    /// For people: where it comes from.
    pub(crate) fn origin(&self) -> String {
        match &self.rustup_name {
            Some(name) => format!("rustup's {name}"),
            None => format!("the distribution's {}", self.rustc.display()),
        }
    }

    /// Whether its library sources are there.
    pub(crate) fn has_sources(&self) -> bool {
        self.root()
            .join("lib/rustlib/src/rust/library/Cargo.lock")
            .exists()
    }

    /// A program that belongs to this compiler, such as its cargo.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.rustc.with_file_name(name)
    }

    /// A command that runs `program` with this compiler and nothing of the
    /// host's build.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command
            .current_dir(workspace::root())
            .env("CARGO", self.tool("cargo"))
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }

    /// The major version of its LLVM, which the linker has to match.
    ///
    /// # Errors
    /// If the compiler does not run.
    pub(crate) fn llvm_major(&self) -> Result<u32> {
        let about = self.about()?;
        field(&about, "LLVM version")
            .and_then(|version| version.split('.').next()?.parse().ok())
            .with_context(|| format!("{} does not tell its LLVM version", self.origin()))
    }

    /// The shared LLVM library that it runs with.
    ///
    /// # Errors
    /// If the dynamic loader cannot be asked or knows of none.
    pub(crate) fn llvm_library(&self) -> Result<PathBuf> {
        let libraries = ask(Command::new("ldd").arg(&self.rustc))?;
        let Some(path) = llvm_among(&libraries) else {
            bail!("{} has no shared LLVM library", self.origin());
        };
        path.canonicalize()
            .with_context(|| format!("find {}", path.display()))
    }

    /// Whether it is there with its cargo and new enough for the workspace.
    fn is_usable(&self) -> bool {
        let needed = env!("CARGO_PKG_RUST_VERSION");
        self.tool("cargo").exists()
            && self.about().is_ok_and(|about| {
                field(&about, "release").is_some_and(|has| minor(has) >= minor(needed))
            })
    }

    fn about(&self) -> Result<String> {
        ask(self.command(&self.rustc).arg("-vV"))
    }

    /// What rustc calls its sysroot.
    fn root(&self) -> &Path {
        self.rustc
            .ancestors()
            .nth(2)
            .unwrap_or_else(|| Path::new("/usr"))
    }
}

/// Every compiler that is new enough, the preferred first: the one that
/// builds the host's side, rustup's nightly, the distribution's.
pub(crate) fn all() -> Vec<Compiler> {
    let mut found: Vec<Compiler> = Vec::new();
    let rustups = ["", "nightly"].into_iter().filter_map(of_rustup);
    for compiler in rustups.chain(of_distribution()) {
        if compiler.is_usable() && !found.contains(&compiler) {
            found.push(compiler);
        }
    }
    found
}

/// Has rustup fetch the library sources of the active compiler.
///
/// # Errors
/// As rustup says; without a network at once.
pub(crate) fn add_sources(compiler: &Compiler) -> Result<()> {
    let Some(name) = &compiler.rustup_name else {
        bail!("{} is not rustup's", compiler.origin());
    };
    let arguments = ["component", "add", "rust-src", "--toolchain", name];
    let step = Step {
        what: "add rust-src to rustup's toolchain".into(),
        why: format!(
            "{} lacks the library sources that BPF code is built with",
            compiler.origin()
        ),
        mend: format!("rustup {}", arguments.join(" ")),
    };
    step.run(
        Command::new("rustup")
            .args(arguments)
            .env("RUSTUP_MAX_RETRIES", "1")
            .env("RUSTUP_DOWNLOAD_TIMEOUT", "60"),
    )
}

/// rustup's toolchain `name`, the active one for an empty name; none if
/// there is no rustup or no such toolchain.
fn of_rustup(name: &str) -> Option<Compiler> {
    let mut active = Command::new("rustup");
    active
        .args(["show", "active-toolchain"])
        .current_dir(workspace::root());
    let name = match name {
        "" => ask(&mut active).ok()?.split_whitespace().next()?.to_owned(),
        name => name.to_owned(),
    };
    let rustc = ask(Command::new("rustup").args(["which", "--toolchain", &name, "rustc"])).ok()?;
    Some(Compiler {
        rustup_name: Some(name),
        rustc: PathBuf::from(rustc.trim()),
    })
}

/// The first rustc on PATH, or in /usr/bin, that is not rustup's stand-in.
fn of_distribution() -> Option<Compiler> {
    let path = env::var_os("PATH").unwrap_or_default();
    let rustc = env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin")])
        .filter(|directory| !directory.join("rustup").exists())
        .map(|directory| directory.join("rustc"))
        // rustup's own bin directories are toolchains already looked at.
        .filter(|rustc| !rustc.ancestors().any(|above| above.ends_with("toolchains")))
        .find(|rustc| rustc.is_file())?;
    Some(Compiler {
        rustup_name: None,
        rustc,
    })
}

/// The value of `name: value` in what `rustc -vV` prints.
fn field<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// `(1, 96)` for `1.96.0-nightly`.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The path of libLLVM in what ldd prints.
fn llvm_among(libraries: &str) -> Option<PathBuf> {
    let line = libraries
        .lines()
        .find(|line| line.trim_start().starts_with("libLLVM"))?;
    let path = line.split("=> ").nth(1)?.split(" (").next()?;
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: &str =
        "rustc 1.96.0 (ac68faa20 2026-05-25)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn reads_what_rustc_says_of_itself() {
        assert_eq!(field(ABOUT, "release"), Some("1.96.0"));
        assert_eq!(field(ABOUT, "LLVM version"), Some("22.1.8"));
        assert_eq!(field(ABOUT, "colour"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(minor("1.100.0") > minor("1.88"));
        assert!(minor("1.97.0-nightly") >= minor("1.97"));
        assert!(minor("1.63.0") < minor("1.88"));
        assert_eq!(minor("strange"), None);
    }

    #[test]
    fn finds_llvm_among_the_libraries() {
        let libraries = "\tlibc.so.6 => /lib/libc.so.6 (0x01)\n\
                         \tlibLLVM.so.22.1-rust => /r s/bin/../lib/libLLVM.so.22.1-rust (0x02)\n";
        let expected = PathBuf::from("/r s/bin/../lib/libLLVM.so.22.1-rust");
        assert_eq!(llvm_among(libraries), Some(expected));
        assert_eq!(llvm_among("\tstatically linked\n"), None);
    }

    #[test]
    fn the_compiler_that_runs_the_tests_is_found() {
        let found = all();
        assert!(!found.is_empty(), "some rustc has compiled this test");
        for compiler in found {
            assert!(compiler.llvm_major().is_ok(), "{}", compiler.origin());
        }
    }
}
