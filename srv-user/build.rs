//! Hands the BPF object for attached servers to the crate as `OUT_DIR/srv-attached.o`: the one
//! that `SRV_BPF_ATTACHED_OBJECT` names, else the one that `cargo xtask build` left in the
//! workspace, else an empty file (srv then carries no such program and says so). Hands it the
//! library of `srv run` likewise, as `OUT_DIR/srv-preload.so`: `SRV_PRELOAD_OBJECT` names it. Warns
//! if an object is older than its sources, also the one that srv-steer embeds. And tells the crate
//! its version, in `SRV_VERSION`: a measurement has to name the source of the binary that was
//! measured.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// What both objects are made of, under the workspace's root.
const SOURCES: [&str; 5] = [
    "srv-common/Cargo.toml",
    "srv-common/src",
    "srv-ebpf/Cargo.toml",
    "srv-ebpf/src/counter.rs",
    "srv-ebpf/src/packet.rs",
];

/// The object that this crate embeds, and the variable that may name another.
const OBJECT: &str = "target/bpf/srv-attached.o";
const VARIABLE: &str = "SRV_BPF_ATTACHED_OBJECT";

/// The library that each process of a server loads under `srv run`, likewise.
const LIBRARY: &str = "target/preload/srv-preload.so";
const LIBRARY_VARIABLE: &str = "SRV_PRELOAD_OBJECT";

/// Each object under the workspace's root, with its own sources.
const BUILT: [(&str, &str); 2] = [
    ("srv-steer/bpf/srv-ebpf.o", "srv-ebpf/src/main.rs"),
    (OBJECT, "srv-ebpf/src/attached"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let workspace = workspace();
    for (object, source) in BUILT {
        watch(&workspace, &workspace.join(object), source);
    }
    watch_folder(&workspace.join(LIBRARY));
    let embedded = [
        (VARIABLE, OBJECT, "srv-attached.o"),
        (LIBRARY_VARIABLE, LIBRARY, "srv-preload.so"),
    ];
    for (variable, built, name) in embedded {
        println!("cargo::rerun-if-env-changed={variable}");
        let bytes = match env::var_os(variable) {
            Some(named) => read_named(variable, Path::new(&named)),
            None => fs::read(workspace.join(built)).unwrap_or_default(),
        };
        fs::write(out.join(name), bytes).expect("write the object to OUT_DIR");
    }
    println!("cargo::rustc-env=SRV_VERSION={}", version());
}

/// The package's version, and what it was built from: the commit, and whether files had
/// been changed since. Of a debug build, which no figure is taken of, only that it is one:
/// else each commit would have developers compile the crate anew.
fn version() -> String {
    let package = env::var("CARGO_PKG_VERSION").expect("cargo sets the version");
    if env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return format!("{package} (debug build)");
    }
    let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"]) else {
        return format!("{package} (not built from a git checkout)");
    };
    println!("cargo::rerun-if-changed={head}");
    println!("cargo::rerun-if-changed=src");
    let commit = git(&["describe", "--always", "--dirty", "--abbrev=12"]);
    format!("{package} ({})", commit.as_deref().unwrap_or("no commit"))
}

/// What git says of this crate's checkout, if it is one.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let said = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8_lossy(&said).trim().to_owned())
}

/// The object that the environment names: it has to be there.
fn read_named(variable: &str, object: &Path) -> Vec<u8> {
    println!("cargo::rerun-if-changed={}", object.display());
    fs::read(object).unwrap_or_else(|error| {
        println!(
            "cargo::error={variable}: read {}: {error}",
            object.display()
        );
        Vec::new()
    })
}

/// Has cargo run this again if an object or one of its sources changes, and warns if the object,
/// if there is one, is older.
fn watch(workspace: &Path, object: &Path, source: &str) {
    watch_folder(object);
    let sources = SOURCES.into_iter().chain([source]);
    let sources: Vec<_> = sources.map(|source| workspace.join(source)).collect();
    for source in &sources {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    let newest_source = sources.iter().filter_map(|source| newest(source)).max();
    if newest(object).is_some_and(|built| Some(built) < newest_source) {
        println!(
            "cargo::warning=a BPF object is older than its sources; \
             `cargo xtask build` builds it anew"
        );
    }
}

/// Has cargo run this again if a file beside the object changes, or the object.
fn watch_folder(object: &Path) {
    let Some(directory) = object.parent() else {
        return;
    };
    // Watched as a directory: cargo takes a watched file that is missing for
    // changed and would build this crate anew every time. If it cannot be
    // created, that is all that happens.
    let _ = fs::create_dir_all(directory);
    println!("cargo::rerun-if-changed={}", directory.display());
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
