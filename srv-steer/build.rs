//! Hands the BPF object to the crate as `OUT_DIR/srv-ebpf.o`: the one that `SRV_BPF_OBJECT`
//! names, else the one in `bpf/`, which `cargo xtask build` puts there and which the packaged
//! crate contains, else an empty file. Without an object the crate compiles all the same: the
//! kernel's hash then chooses, and `Group::state` says so.

use std::path::{Path, PathBuf};
use std::{env, fs};

const VARIABLE: &str = "SRV_BPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = match env::var_os(VARIABLE) {
        Some(named) => read_named(Path::new(&named)),
        None => read_built(),
    };
    fs::write(out.join("srv-ebpf.o"), object).expect("write the object to OUT_DIR");
}

/// The object that the environment names: it must exist.
fn read_named(object: &Path) -> Vec<u8> {
    println!("cargo::rerun-if-changed={}", object.display());
    fs::read(object).unwrap_or_else(|error| {
        println!(
            "cargo::error={VARIABLE}: read {}: {error}",
            object.display()
        );
        Vec::new()
    })
}

/// The object beside the sources, or nothing.
fn read_built() -> Vec<u8> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the crate"));
    let directory = here.join("bpf");
    // If cargo watches a file that is missing, it builds this crate anew each time, so it
    // watches the folder. In a packaged crate without one there is nothing to watch.
    if directory.is_dir() {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
    fs::read(directory.join("srv-ebpf.o")).unwrap_or_default()
}
