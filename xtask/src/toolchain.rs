//! What builds for BPF. Owns the type only; how one is found is known to [`crate::setup`].

use std::path::PathBuf;

use crate::compiler::Compiler;

/// A compiler with its library sources, and a linker proven with it.
#[derive(Debug, PartialEq)]
pub(crate) struct Toolchain {
    /// Compiles for BPF.
    pub compiler: Compiler,
    /// bpf-linker.
    pub linker: PathBuf,
}
