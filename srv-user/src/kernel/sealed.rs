//! Bytes in a sealed file without a name (`memfd_create`): a process can hand over the descriptor,
//! and no process can change the bytes any more.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// A sealed file with these bytes. It is read from offset 0 on.
///
/// # Errors
/// What the kernel says.
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("srv", flags)?);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, all)?;
    Ok(file.into())
}

/// The bytes of such a file, of which there may be `most`.
///
/// # Errors
/// There are more, or what the kernel says.
pub fn read(file: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let file = File::from(file);
    let length = file.metadata()?.len();
    if length > most {
        let error = format!("a message has {length} bytes, and {most} at most are read");
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_and_not_changed() {
        let file = sealed(b"text").unwrap();
        let mut writer = File::from(file.try_clone().unwrap());
        assert!(writer.write_all(b"other").is_err());
        assert!(writer.set_len(0).is_err());
        assert_eq!(read(file.try_clone().unwrap(), 4).unwrap(), b"text");
        let error = read(file, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
