//! Links the library without a C library and without start files.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["-nostdlib", "-nostartfiles"] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
}
