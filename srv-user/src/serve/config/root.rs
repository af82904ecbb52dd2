//! The folder to serve: the name that was asked for, and the folder that the name meant when it
//! was last looked up. A name can come to mean another folder (a deploy removes the folder and
//! makes it anew, or changes a symbolic link), so srv identifies the folder by device and inode.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A folder to serve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Root {
    /// The name that was asked for, absolute, its symbolic links not resolved.
    pub asked: PathBuf,
    /// The canonical path that the name led to.
    pub path: PathBuf,
    /// `st_dev` and `st_ino` of the folder there.
    id: (u64, u64),
}

impl Root {
    /// Looks up which folder `asked` means now.
    ///
    /// # Errors
    /// There is no folder by that name, or this process may not read it.
    pub fn find(asked: &Path) -> Result<Self> {
        let path = asked.canonicalize().context("look up this path")?;
        fs::read_dir(&path).context("read this path as a folder")?;
        let metadata = fs::metadata(&path).context("read device and inode of this folder")?;
        Ok(Self {
            asked: std::path::absolute(asked).context("make this path absolute")?,
            path,
            id: id(&metadata),
        })
    }

    /// Whether `metadata` describes this folder and no other.
    pub fn is(&self, metadata: &Metadata) -> bool {
        id(metadata) == self.id
    }

    /// Whether the name still means this folder.
    ///
    /// # Errors
    /// The name leads to nothing now.
    pub fn is_still_there(&self) -> io::Result<bool> {
        Ok(self.is(&fs::metadata(&self.asked)?))
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_made_anew_is_another() {
        let outer = tempfile::tempdir().unwrap();
        let [name, aside] = ["dist", "aside"].map(|name| outer.path().join(name));
        fs::create_dir(&name).unwrap();
        let root = Root::find(&name).unwrap();
        assert!(root.is_still_there().unwrap());
        // The old folder stays, so that the file system cannot give its inode to the next one.
        fs::rename(&name, aside).unwrap();
        root.is_still_there().unwrap_err();
        fs::create_dir(&name).unwrap();
        assert!(!root.is_still_there().unwrap());
        let next = Root::find(&name).unwrap();
        assert_eq!(next.path, root.path);
        assert_ne!(next, root);
    }

    #[test]
    fn a_link_that_is_switched_means_another_folder() {
        let outer = tempfile::tempdir().unwrap();
        let [one, two, current] = ["1", "2", "current"].map(|name| outer.path().join(name));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        symlink(&one, &current).unwrap();
        let root = Root::find(&current).unwrap();
        assert_eq!(
            (&root.asked, root.path.file_name()),
            (&current, one.file_name())
        );
        fs::remove_file(&current).unwrap();
        symlink(&two, &current).unwrap();
        assert!(!root.is_still_there().unwrap());
    }
}
