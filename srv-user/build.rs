//! Hands the BPF object to the crate as `OUT_DIR/srv-ebpf.o`: the one that
//! `SRV_BPF_OBJECT` names, else the one that `cargo xtask build` left in the
//! workspace, else an empty file (srv then carries no program and says so).

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What the object is made of, under the workspace's root.
const SOURCES: [&str; 4] = [
    "srv-common/Cargo.toml",
    "srv-common/src",
    "srv-ebpf/Cargo.toml",
    "srv-ebpf/src",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SRV_BPF_OBJECT");
    let bytes = match env::var_os("SRV_BPF_OBJECT") {
        Some(named) => read_named(Path::new(&named)),
        None => read_built(&workspace()),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("srv-ebpf.o"), bytes).expect("write the object to OUT_DIR");
}

/// The object that the environment names: it has to be there.
fn read_named(object: &Path) -> Vec<u8> {
    println!("cargo::rerun-if-changed={}", object.display());
    fs::read(object).unwrap_or_else(|error| {
        println!(
            "cargo::error=SRV_BPF_OBJECT: read {}: {error}",
            object.display()
        );
        Vec::new()
    })
}

/// The object that xtask built, or nothing.
fn read_built(workspace: &Path) -> Vec<u8> {
    let directory = workspace.join("target/bpf");
    // Watched as a directory: cargo takes a watched file that is missing for
    // changed and would build this crate anew every time. If it cannot be
    // created, that is all that happens.
    let _ = fs::create_dir_all(&directory);
    println!("cargo::rerun-if-changed={}", directory.display());
    let sources = SOURCES.map(|source| workspace.join(source));
    for source in &sources {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    let object = directory.join("srv-ebpf.o");
    let Ok(bytes) = fs::read(&object) else {
        return Vec::new();
    };
    let newest_source = sources.iter().filter_map(|source| newest(source)).max();
    if newest(&object) < newest_source {
        println!(
            "cargo::warning=the BPF object is older than its sources; \
             `cargo xtask build` builds it anew"
        );
    }
    bytes
}

/// When the newest file at or below `path` was changed.
fn newest(path: &Path) -> Option<SystemTime> {
    if let Ok(entries) = fs::read_dir(path) {
        return entries
            .flatten()
            .filter_map(|entry| newest(&entry.path()))
            .max();
    }
    fs::metadata(path).ok()?.modified().ok()
}

fn workspace() -> PathBuf {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the crate"));
    here.parent().expect("the crate is in the workspace").into()
}
