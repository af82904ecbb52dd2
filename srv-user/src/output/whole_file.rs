//! A file that other processes see only when it is complete: it is written under another name in
//! the same folder, and then renamed. Knows nothing of what is written.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file that is not visible under its name yet. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: NamedTempFile,
    path: PathBuf,
}

/// Which users may read the file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Readers {
    /// Only the user of this process.
    Owner,
    /// Those that the umask of this process allows.
    Umask,
}

impl WholeFile {
    /// A new file in the folder of `path`.
    ///
    /// # Errors
    /// The kernel does not create it.
    pub(crate) fn beside(path: &Path, readers: Readers) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mode = match readers {
            Readers::Owner => 0o600,
            Readers::Umask => 0o666,
        };
        let file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder)?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// The file, to write to.
    pub(crate) fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Makes the file visible under its name. If there is a file of that name, this replaces it.
    ///
    /// # Errors
    /// The kernel does not rename it.
    pub(crate) fn replace(self) -> io::Result<File> {
        Ok(self.file.persist(&self.path)?)
    }

    /// Makes the file visible under its name.
    ///
    /// # Errors
    /// `AlreadyExists` if there is a file of that name, or the kernel does not rename it.
    pub(crate) fn create(self) -> io::Result<File> {
        Ok(self.file.persist_noclobber(&self.path)?)
    }
}
