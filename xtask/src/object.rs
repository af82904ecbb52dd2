//! Builds the BPF objects and puts them where the build scripts of srv-steer and srv-user look.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{step, toolchain::Toolchain, workspace};

/// The target, and the directory in which the build leaves its result.
const TARGET: &str = "bpfel-unknown-none";

/// The objects: for srv's own workers, and for other people's servers.
const OBJECTS: [&str; 2] = ["srv-ebpf", "srv-attached"];

/// Builds the objects and publishes them.
///
/// # Errors
/// As cargo says, or if an object cannot be put in its place.
pub(crate) fn build(toolchain: &Toolchain) -> Result<()> {
    let mut command = cargo(toolchain, &toolchain.compiler.tool("cargo"), "build");
    step::show("build the BPF objects", &mut command)?;
    let release = workspace::object_build().join(TARGET).join("release");
    OBJECTS.iter().try_for_each(|name| {
        let (built, object) = (release.join(name), workspace::object(name));
        publish(&built, &object)
            .with_context(|| format!("put {} at {}", built.display(), object.display()))
    })
}

/// A cargo `task` over the BPF crate, by `program`: the toolchain's cargo or
/// what stands in for it.
pub(crate) fn cargo(toolchain: &Toolchain, program: &Path, task: &str) -> Command {
    let flags = [
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        "-Ctarget-cpu=v3".into(),
        format!("-Clinker={}", toolchain.linker.display()),
    ];
    let mut command = toolchain.compiler.command(program);
    command
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args([task, "--release", "--package", "srv-ebpf"])
        .args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(workspace::object_build());
    command
}

/// Replaces the object in one step, and only if it was built anew: what
/// embeds it is built again whenever it changes.
pub(crate) fn publish(built: &Path, object: &Path) -> std::io::Result<()> {
    if is_current(built, object)? {
        return Ok(());
    }
    if let Some(directory) = object.parent() {
        fs::create_dir_all(directory)?;
    }
    let aside = object.with_extension("new");
    // Not fs::copy: the copy has to be newer than the sources.
    fs::write(&aside, fs::read(built)?)?;
    fs::rename(&aside, object)
}

/// Whether the object is the one that was built, and not older than it:
/// the build scripts take an object older than the sources for stale.
fn is_current(built: &Path, object: &Path) -> std::io::Result<bool> {
    let Ok(there) = fs::metadata(object) else {
        return Ok(false);
    };
    let is_newer = there.modified()? >= fs::metadata(built)?.modified()?;
    Ok(is_newer && fs::read(object)? == fs::read(built)?)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn modified(file: &Path) -> SystemTime {
        fs::metadata(file)
            .and_then(|about| about.modified())
            .expect("a file has a time")
    }

    fn set_modified(file: &Path, at: SystemTime) {
        fs::File::options()
            .write(true)
            .open(file)
            .and_then(|file| file.set_modified(at))
            .expect("set a file's time");
    }

    #[test]
    fn an_object_is_replaced_only_if_it_was_built_anew() {
        let root = tempfile::tempdir().expect("make a directory");
        let (built, object) = (root.path().join("built"), root.path().join("bpf/object.o"));
        let past = SystemTime::now() - Duration::from_secs(1000);
        fs::write(&built, "one").expect("write");
        publish(&built, &object).expect("publish the first");
        assert_eq!(fs::read(&object).expect("read"), b"one");

        set_modified(&built, past);
        set_modified(&object, past);
        publish(&built, &object).expect("publish the same");
        assert_eq!(modified(&object), past, "the same object was written again");

        fs::write(&built, "two").expect("write");
        set_modified(&built, past);
        publish(&built, &object).expect("publish another");
        assert_eq!(fs::read(&object).expect("read"), b"two");

        set_modified(&object, past - Duration::from_secs(1));
        publish(&built, &object).expect("publish one built anew");
        assert!(
            modified(&object) >= past,
            "the object stayed older than its build"
        );
    }

    #[test]
    fn nothing_is_left_beside_the_object() {
        let root = tempfile::tempdir().expect("make a directory");
        let (built, object) = (root.path().join("built"), root.path().join("bpf/object.o"));
        fs::write(&built, "one").expect("write");
        publish(&built, &object).expect("publish");
        let beside = fs::read_dir(root.path().join("bpf")).expect("list").count();
        assert_eq!(beside, 1);
    }
}
