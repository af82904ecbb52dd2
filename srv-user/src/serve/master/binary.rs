//! The name of this process's binary: what an upgrade starts. `/proc/self/exe` has the path that
//! the name led to, its symbolic links resolved; a deployment that switches such a link (`current`
//! to the next release) leaves another binary behind the name, and the old one behind the path.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf, absolute};

/// The name by which this process was started, absolute, if it leads to this process's binary;
/// else the binary's path.
///
/// # Errors
/// There is no `/proc`.
pub fn name() -> io::Result<PathBuf> {
    let path = env::current_exe()?;
    let typed = env::args_os().next().unwrap_or_default();
    let search = env::var_os("PATH").unwrap_or_default();
    Ok(named(&typed, &search, &fs::metadata(&path)?).unwrap_or(path))
}

/// As a shell finds a program: a name with a slash is a path, another is looked for.
fn named(typed: &OsStr, search: &OsStr, binary: &Metadata) -> Option<PathBuf> {
    let is_it = |path: &PathBuf| {
        let found = fs::metadata(path).ok();
        found.is_some_and(|found| (found.dev(), found.ino()) == (binary.dev(), binary.ino()))
    };
    if typed.as_bytes().contains(&b'/') {
        return absolute(typed).ok().filter(is_it);
    }
    let mut folders = env::split_paths(search);
    let found = folders.find_map(|folder| {
        let path = absolute(folder.join(Path::new(typed))).ok()?;
        path.is_file().then_some(path)
    });
    found.filter(is_it)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_name_keeps_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("releases/1")).unwrap();
        fs::write(at("releases/1/srv"), "").unwrap();
        fs::write(at("other"), "").unwrap();
        symlink("releases/1", at("current")).unwrap();
        let binary = fs::metadata(at("releases/1/srv")).unwrap();
        let named = |typed: &OsStr, search: &str| named(typed, OsStr::new(search), &binary);
        let link = at("current/srv");
        assert_eq!(named(link.as_os_str(), ""), Some(link.clone()));
        let search = format!("/nowhere:{}", at("current").display());
        assert_eq!(named(OsStr::new("srv"), &search), Some(link));
        // The name says something else: a program may call itself anything.
        assert_eq!(named(at("other").as_os_str(), ""), None);
        assert_eq!(named(OsStr::new("srv"), "/nowhere"), None);
        assert_eq!(named(OsStr::new(""), &search), None);
    }
}
