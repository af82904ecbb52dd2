//! Which files are scripts: those beneath the roots, as the kernel resolves their names, and those that
//! were named one by one.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::kernel::openat2::openat2_refusal;

/// How often srv calls `openat2` for one name: it fails with `EAGAIN` if a rename anywhere on the
/// machine races with a `..` in a symbolic link.
const ATTEMPTS: u32 = 16;

/// A folder of scripts.
#[derive(Debug)]
struct Root {
    folder: OwnedFd,
    /// As the operator names it, and without symbolic links.
    names: [PathBuf; 2],
}

/// All scripts.
#[derive(Debug)]
pub(super) struct Scripts {
    roots: Vec<Root>,
    files: Vec<PathBuf>,
}

/// A file that may be executed.
#[derive(Debug)]
pub(super) struct Script {
    /// It cannot be read by this.
    pub file: OwnedFd,
    /// Its name without symbolic links.
    pub path: PathBuf,
}

/// Why there is no script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such file beneath a root.
    NotFound,
    /// It is no regular file, or its permissions do not allow anyone to execute it.
    NotExecutable,
    /// It would write HTTP itself.
    NonParsed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such file is beneath a --root or is a --script",
            Self::NotExecutable => "it is not an executable regular file (chmod +x makes it one)",
            Self::NonParsed => {
                "nph- scripts are not supported: rename it, and have it write a CGI header"
            }
        })
    }
}

impl Scripts {
    /// Opens the roots.
    ///
    /// # Errors
    /// A root is no folder, a file has a relative path that leads nowhere, or the kernel has no
    /// `openat2`.
    pub(super) fn open(roots: &[PathBuf], files: &[PathBuf]) -> anyhow::Result<Self> {
        let refusal = openat2_refusal();
        ensure!(
            refusal.is_none() || roots.is_empty(),
            "resolve names beneath --root: openat2 is refused ({}): Linux 5.6 or later is needed; \
             --script does without",
            refusal.map_or_else(String::new, |error| error.to_string())
        );
        let open = |root: &PathBuf| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = openat(CWD, root, flags, Mode::empty());
            let name = std::path::absolute(root);
            let folder = folder.map_err(Into::into).and_then(|folder| {
                Ok::<_, std::io::Error>(Root {
                    folder,
                    names: [name?, root.canonicalize()?],
                })
            });
            folder.with_context(|| format!("open --root {}", root.display()))
        };
        let absolute = |file: &PathBuf| {
            std::path::absolute(file).with_context(|| format!("find --script {}", file.display()))
        };
        Ok(Self {
            roots: roots.iter().map(open).collect::<Result<_, _>>()?,
            files: files.iter().map(absolute).collect::<Result<_, _>>()?,
        })
    }

    /// The script that the client means.
    pub(super) fn find(&self, file_name: &[u8]) -> Result<Script, Refusal> {
        let path = Path::new(OsStr::from_bytes(file_name));
        let file = self.open_script(path).map_err(|_| Refusal::NotFound)?;
        let stat = rustix::fs::fstat(&file).map_err(|_| Refusal::NotFound)?;
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_regular || stat.st_mode & 0o111 == 0 {
            return Err(Refusal::NotExecutable);
        }
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        // Without /proc, its name is what the client says.
        let real = std::fs::read_link(link).unwrap_or_else(|_| path.to_owned());
        match is_non_parsed(path) || is_non_parsed(&real) {
            true => Err(Refusal::NonParsed),
            false => Ok(Script { file, path: real }),
        }
    }

    fn open_script(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        if self
            .files
            .iter()
            .any(|file| file.as_os_str() == path.as_os_str())
        {
            return openat(CWD, path, flags, Mode::empty());
        }
        for root in &self.roots {
            let names = root.names.iter();
            let Some(inner) = names.filter_map(|name| path.strip_prefix(name).ok()).next() else {
                continue;
            };
            let opened = open_beneath(&root.folder, inner, flags);
            if !matches!(opened, Err(Errno::NOENT)) {
                return opened;
            }
        }
        Err(Errno::NOENT)
    }
}

fn open_beneath(root: &OwnedFd, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        match openat2(root, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempts > 0 => {}
            opened => return opened,
        }
    }
}

fn is_non_parsed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_bytes().starts_with(b"nph-")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn scripts_are_executable_files_beneath_a_root() {
        let outer = tempfile::tempdir().unwrap();
        let at = |name: &str| outer.path().join(name);
        fs::create_dir_all(at("root/folder")).unwrap();
        for (name, mode) in [
            ("root/a.cgi", 0o755),
            ("root/data", 0o644),
            ("root/nph-a", 0o755),
            ("single", 0o711),
            ("other", 0o755),
        ] {
            fs::write(at(name), "").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        for (target, name) in [("../other", "out"), ("a.cgi", "in"), ("nph-a", "disguised")] {
            symlink(target, at("root").join(name)).unwrap();
        }
        symlink("root", at("alias")).unwrap();
        let scripts = Scripts::open(&[at("alias")], &[at("single")]).unwrap();
        let find = |name: &str| {
            scripts
                .find(at(name).as_os_str().as_bytes())
                .map(|it| it.path)
        };
        let real = outer.path().canonicalize().unwrap();
        for (name, path) in [
            ("root/a.cgi", "root/a.cgi"),
            ("alias/a.cgi", "root/a.cgi"),
            ("root/in", "root/a.cgi"),
            ("root/folder/../a.cgi", "root/a.cgi"),
            ("single", "single"),
        ] {
            assert_eq!(find(name), Ok(real.join(path)), "{name}");
        }
        for (name, refusal) in [
            ("root/data", Refusal::NotExecutable),
            ("root/folder", Refusal::NotExecutable),
            ("root", Refusal::NotFound),
            ("root/nph-a", Refusal::NonParsed),
            ("root/disguised", Refusal::NonParsed),
            ("root/out", Refusal::NotFound),
            ("root/../other", Refusal::NotFound),
            ("root/a.cgi/x", Refusal::NotFound),
            ("root/none", Refusal::NotFound),
            ("other", Refusal::NotFound),
            ("root-2/a.cgi", Refusal::NotFound),
            ("single/x", Refusal::NotFound),
        ] {
            assert_eq!(find(name), Err(refusal), "{name}");
        }
        for name in ["a.cgi", "", "/", "/bin/sh"] {
            let refused = scripts.find(name.as_bytes()).map(drop);
            assert_eq!(refused, Err(Refusal::NotFound), "{name}");
        }
    }
}
