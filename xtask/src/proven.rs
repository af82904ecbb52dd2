//! The toolchain that was proven last, remembered in one small file so that
//! a warm start asks no tool anything. It counts only while every file that
//! it rests on is the same.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{compiler::Compiler, toolchain::Toolchain, workspace};

/// The remembered toolchain, if it is still what it was.
pub(crate) fn recall() -> Option<Toolchain> {
    parse(&fs::read_to_string(memory()).ok()?)
}

/// Remembers a toolchain whose linker has been proven.
///
/// # Errors
/// If a file of it cannot be looked at, or the memory not be written.
pub(crate) fn remember(toolchain: &Toolchain) -> Result<()> {
    let llvm = toolchain.compiler.llvm_library().ok();
    let text = describe(toolchain, llvm.as_deref())?;
    let memory = memory();
    fs::create_dir_all(workspace::tools())
        .and_then(|()| fs::write(&memory, text))
        .with_context(|| format!("write {}", memory.display()))
}

fn memory() -> PathBuf {
    workspace::tools().join("proven")
}

/// rustup's name (or nothing), rustc, the linker, then the files it all rests
/// on with their identities: a line each.
fn describe(toolchain: &Toolchain, llvm: Option<&Path>) -> Result<String> {
    let Toolchain { compiler, linker } = toolchain;
    let name = compiler.rustup_name.as_deref().unwrap_or_default();
    let mut text = format!(
        "{name}\n{}\n{}\n",
        compiler.rustc.display(),
        linker.display()
    );
    for file in [Some(compiler.rustc.as_path()), Some(linker), llvm]
        .into_iter()
        .flatten()
    {
        let identity = identity(file).with_context(|| format!("look at {}", file.display()))?;
        text += &format!("{identity} {}\n", file.display());
    }
    Ok(text)
}

fn parse(text: &str) -> Option<Toolchain> {
    let mut lines = text.lines();
    let name = lines.next()?;
    let compiler = Compiler {
        rustup_name: (!name.is_empty()).then(|| name.to_owned()),
        rustc: PathBuf::from(lines.next()?),
    };
    let linker = PathBuf::from(lines.next()?);
    let same = lines.all(|line| {
        line.split_once(' ')
            .is_some_and(|(was, file)| identity(Path::new(file)).is_some_and(|is| is == was))
    });
    (same && compiler.has_sources()).then_some(Toolchain { compiler, linker })
}

/// Changes whenever a file is replaced.
fn identity(file: &Path) -> Option<String> {
    let file = fs::metadata(file).ok()?;
    Some(format!(
        "{}-{}-{}-{}",
        file.ino(),
        file.len(),
        file.mtime(),
        file.mtime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A toolchain of empty files.
    fn toolchain(root: &Path) -> Toolchain {
        let library = root.join("lib/rustlib/src/rust/library");
        fs::create_dir_all(&library).expect("create the library");
        fs::create_dir_all(root.join("bin")).expect("create bin");
        let files = ["bin/rustc", "bin/bpf-linker", "lib/libLLVM.so"].map(|name| root.join(name));
        for file in files.iter().chain([&library.join("Cargo.lock")]) {
            fs::write(file, "").expect("write an empty file");
        }
        Toolchain {
            compiler: Compiler {
                rustup_name: Some("stable".into()),
                rustc: files[0].clone(),
            },
            linker: files[1].clone(),
        }
    }

    #[test]
    fn what_is_the_same_is_recalled() {
        let root = tempfile::tempdir().expect("make a directory");
        let toolchain = toolchain(root.path());
        let llvm = root.path().join("lib/libLLVM.so");
        let text = describe(&toolchain, Some(&llvm)).expect("describe it");
        assert_eq!(parse(&text), Some(toolchain));
    }

    #[test]
    fn what_changed_or_went_is_forgotten() {
        for name in ["bin/rustc", "bin/bpf-linker", "lib/libLLVM.so"] {
            let root = tempfile::tempdir().expect("make a directory");
            let toolchain = toolchain(root.path());
            let llvm = root.path().join("lib/libLLVM.so");
            let text = describe(&toolchain, Some(&llvm)).expect("describe it");
            fs::write(root.path().join(name), "another").expect("change a file");
            assert_eq!(parse(&text), None, "{name} changed");
            fs::remove_file(root.path().join(name)).expect("remove a file");
            assert_eq!(parse(&text), None, "{name} went");
        }
    }

    #[test]
    fn nonsense_is_no_toolchain() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("stable\n/nowhere/rustc\n"), None);
    }
}
