//! The files that are checked: what git tracks, and what it does not ignore, so that a new
//! file is checked before its first commit. Owns reading; knows no file's format.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::step;

/// A working tree.
pub(super) struct Tree {
    root: PathBuf,
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Tree {
    /// The git working tree at `root`.
    ///
    /// # Errors
    /// If git cannot list its files.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.arg("-C").arg(root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let listed = step::ask(&mut git).with_context(|| {
            format!(
                "list the files of {}: a git checkout of srv is needed",
                root.display()
            )
        })?;
        Ok(Self::of(root, listed.split('\0').map(str::to_owned)))
    }

    fn of(root: &Path, files: impl Iterator<Item = String>) -> Self {
        // What was removed and is still in the index is no file of the tree.
        let files: BTreeSet<_> = files.filter(|file| root.join(file).is_file()).collect();
        let folders = files
            .iter()
            .flat_map(|file| Path::new(file).ancestors().skip(1))
            .filter_map(|folder| Some(folder.to_str()?.to_owned()))
            .collect();
        Self {
            root: root.to_owned(),
            files,
            folders,
        }
    }

    /// The files, relative to the root, sorted.
    pub(super) fn files(&self) -> &BTreeSet<String> {
        &self.files
    }

    /// Whether `path` is a file, or a folder with a file in it.
    pub(super) fn has(&self, path: &str) -> bool {
        self.files.contains(path) || self.folders.contains(path)
    }

    /// A file's text; `None` if it is not text.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn text(&self, file: &str) -> Result<Option<String>> {
        let bytes = fs::read(self.root.join(file)).with_context(|| format!("read {file}"))?;
        Ok(String::from_utf8(bytes)
            .ok()
            .filter(|text| !text.contains('\0')))
    }

    /// A file's text, which must be text.
    ///
    /// # Errors
    /// If it cannot be read or is not UTF-8.
    pub(super) fn utf8(&self, file: &str) -> Result<String> {
        self.text(file)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            .with_context(|| format!("read {file} as UTF-8 text"))
    }
}

/// A tree in a temporary folder, which goes with it.
#[cfg(test)]
pub(super) struct Small {
    pub tree: Tree,
    _folder: tempfile::TempDir,
}

/// A tree of these files, for tests of the checks.
#[cfg(test)]
pub(super) fn small(files: &[(&str, &str)]) -> Small {
    let folder = tempfile::tempdir().expect("make a folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("make a folder");
        fs::write(path, text).expect("write a file");
    }
    let names = files.iter().map(|(path, _)| (*path).to_owned());
    Small {
        tree: Tree::of(folder.path(), names),
        _folder: folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_their_folders_are_there_and_what_git_ignores_is_not() {
        let folder = tempfile::tempdir().expect("make a folder");
        let root = folder.path();
        for (file, text) in [
            (".gitignore", "/target\n"),
            ("a/b/c.rs", ""),
            ("target/x", ""),
            ("gone", ""),
        ] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
            fs::write(path, text).expect("write a file");
        }
        for words in [&["init", "-q"][..], &["add", "gone"]] {
            let mut git = Command::new("git");
            step::ask(git.arg("-C").arg(root).args(words)).expect("run git");
        }
        fs::remove_file(root.join("gone")).expect("remove a file");
        let tree = Tree::open(root).expect("list the files");
        assert_eq!(
            tree.files().iter().collect::<Vec<_>>(),
            [".gitignore", "a/b/c.rs"]
        );
        assert!(tree.has("a/b") && tree.has("a/b/c.rs"));
        assert!(!tree.has("target/x") && !tree.has("a/b/") && !tree.has("gone"));
    }

    #[test]
    fn bytes_are_no_text() {
        let small = small(&[("a.png", "\0"), ("b.md", "ä")]);
        assert_eq!(small.tree.text("a.png").expect("read it"), None);
        assert_eq!(small.tree.utf8("b.md").expect("read it"), "ä");
        assert!(small.tree.utf8("a.png").is_err());
    }
}
