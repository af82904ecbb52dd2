fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    let o = format!("{}/../target/bpf/srv-ebpf.o", env!("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed={o}");
    let b = std::fs::read(&o).unwrap_or_default();
    std::fs::write(format!("{out}/srv-ebpf.o"), b).unwrap();
}
