//! The BPF object that the build embedded, prepared for the running kernel. The program calls a
//! function of the kernel. aya does not relocate such calls, so this module does.

use anyhow::ensure;
use srv_common::attached::RDONLY_CAST;

use srv_steer::btf::Btf;

/// Empty if the build had no BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/srv-attached.o"));

/// The instruction `BPF_JMP | BPF_CALL`. Its source register says what the number of the call is:
/// the number of a helper, or of the type of a function in the kernel's BTF.
const CALL: u8 = 0x85;
const OF_HELPER: u8 = 0 << 4;
const OF_KERNEL: u8 = 2 << 4;

/// The object as it was built. Its program reads the kernel's memory with a helper.
///
/// # Errors
/// This build carries no object.
pub(crate) fn built() -> anyhow::Result<&'static [u8]> {
    ensure!(
        !OBJECT.is_empty(),
        "load the BPF program: this binary was built without the BPF toolchain and carries none; build it with `cargo xtask build`"
    );
    Ok(OBJECT)
}

/// The object for a kernel that lets the program read its memory with plain loads.
///
/// # Errors
/// The kernel has no `bpf_rdonly_cast` (Linux 6.2). Whether this function takes memory of no type
/// (Linux 6.17), only the verifier tells.
pub(crate) fn reading_directly(kernel: &Btf) -> anyhow::Result<Vec<u8>> {
    let function = kernel.function("bpf_rdonly_cast")?;
    Ok(with_calls(built()?, function))
}

/// `object`, in which each call of [`RDONLY_CAST`] is a call of the kernel's `function`.
fn with_calls(object: &[u8], function: u32) -> Vec<u8> {
    let from = call(OF_HELPER, RDONLY_CAST);
    let to = call(OF_KERNEL, function);
    let mut object = object.to_vec();
    // Sections of instructions begin at multiples of eight bytes.
    for instruction in object.chunks_exact_mut(from.len()) {
        if instruction == from {
            instruction.copy_from_slice(&to);
        }
    }
    object
}

fn call(of: u8, number: u32) -> [u8; 8] {
    let [a, b, c, d] = number.to_ne_bytes();
    [CALL, of, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate;

    #[test]
    fn only_that_call_becomes_the_kernels() {
        let other = call(OF_HELPER, 113);
        let object = [other, call(OF_HELPER, RDONLY_CAST), other].concat();
        let expected = [other, [0x85, 0x20, 0, 0, 0x39, 0x30, 0, 0], other].concat();
        assert_eq!(with_calls(&object, 12345), expected);
    }

    #[test]
    fn the_built_object_has_such_calls() {
        let built = built().map_err(|error| format!("{error:#}"));
        if !gate::can("load what this build carries", built.clone().map(drop)) {
            return;
        }
        let object = built.unwrap();
        let changed = with_calls(object, 12345);
        assert_eq!(changed.len(), object.len());
        let calls = changed.chunks_exact(8).zip(object.chunks_exact(8));
        assert!(calls.filter(|(after, before)| after != before).count() > 10);
    }
}
