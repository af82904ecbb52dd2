//! What an ELF file is: whether the dynamic loader starts it, and for which processor it was
//! compiled. Reads the file and executes nothing.

use std::fs::File;

use anyhow::Context as _;
use object::Endianness;
use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_INTERP};
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// How a binary is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// By the dynamic loader, which can load further libraries into it.
    Dynamic,
    /// By the dynamic loader, but the runtime of Go calls the kernel past every library.
    Go,
    /// By the kernel alone: no library can be loaded into it.
    Static,
    /// Not by this processor.
    OtherProcessor,
}

/// How the binary in `file` is started.
///
/// # Errors
/// It is no 64-bit ELF binary, or it cannot be read.
pub fn linkage(file: &File) -> anyhow::Result<Linkage> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => EM_X86_64,
        _ => EM_AARCH64,
    };
    let data = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&data).context("read the ELF header")?;
    let endian = header.endian().context("read the byte order")?;
    if header.e_machine(endian) != machine {
        return Ok(Linkage::OtherProcessor);
    }
    let segments = header.program_headers(endian, &data);
    let segments = segments.context("read the program headers")?;
    let mut types = segments.iter().map(|segment| segment.p_type(endian));
    if !types.any(|kind| kind == PT_INTERP) {
        return Ok(Linkage::Static);
    }
    let is_go = segments.iter().any(|segment| {
        let notes = segment.notes(endian, &data).ok().flatten();
        let mut notes = notes.into_iter().flat_map(|mut notes| {
            std::iter::from_fn(move || notes.next().ok().flatten().map(|note| note.name() == b"Go"))
        });
        notes.any(|is_go| is_go)
    });
    Ok(if is_go { Linkage::Go } else { Linkage::Dynamic })
}
