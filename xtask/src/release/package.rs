//! The Debian package: what it contains, and where that goes. It does not know how srv and
//! its pages are built.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::Machine;
use crate::{step, workspace};

/// Where a unit in `dist` looks for srv, and where the package has it.
const BINARY: (&str, &str) = ("/usr/local/bin/srv", "/usr/bin/srv");

const UNITS: [&str; 4] = [
    "srv.service",
    "srv.socket",
    "srv-attach@.service",
    "srv-cgi.service",
];

/// Where the shells look for completions: what clap calls them, and what they look for.
const COMPLETIONS: [(&str, &str); 3] = [
    ("srv.bash", "usr/share/bash-completion/completions/srv"),
    ("_srv", "usr/share/zsh/vendor-completions/_srv"),
    ("srv.fish", "usr/share/fish/vendor_completions.d/srv.fish"),
];

/// Files of the workspace that are packed as they are.
const AS_THEY_ARE: [(&str, &str); 7] = [
    ("dist/srv.toml", "etc/srv.toml"),
    ("dist/logrotate/srv", "etc/logrotate.d/srv"),
    ("dist/debian/sysusers.conf", "usr/lib/sysusers.d/srv.conf"),
    ("dist/debian/copyright", "usr/share/doc/srv/copyright"),
    ("LICENSE-APACHE", "usr/share/doc/srv/LICENSE-APACHE"),
    ("LICENSE-GPL2", "usr/share/doc/srv/LICENSE-GPL2"),
    ("LICENSE-MIT", "usr/share/doc/srv/LICENSE-MIT"),
];

/// What is packed for one machine.
pub(super) struct Package<'a> {
    pub machine: &'a Machine,
    /// The static srv.
    pub binary: &'a Path,
    /// The folder that the example `pages` has filled.
    pub pages: &'a Path,
    /// When the sources were committed, in seconds since 1970: no file is newer.
    pub epoch: &'a str,
}

/// A file of the package: `path` is without the leading slash.
struct Entry {
    path: String,
    mode: u32,
    bytes: Vec<u8>,
}

impl Package<'_> {
    /// Builds the package in `folder`, checks what it lists, and returns its path.
    ///
    /// # Errors
    /// If a file is missing, or dpkg-deb cannot be had or fails.
    pub(super) fn build(&self, folder: &Path) -> Result<PathBuf> {
        let entries = self.entries()?;
        let version = env!("CARGO_PKG_VERSION");
        let name = format!("srv_{version}_{}.deb", self.machine.debian);
        let tree = folder.join("tree");
        lay_out(&tree, &entries)?;
        lay_out(&tree.join("DEBIAN"), &self.control(&entries)?)?;
        let package = folder.join(name);
        let mut command = Command::new("dpkg-deb");
        command
            .args(["--build", "--root-owner-group", "-Zxz"])
            .args([&tree, &package])
            .env("SOURCE_DATE_EPOCH", self.epoch);
        step::ask(&mut command).context("pack srv for Debian; dpkg-deb is in the package dpkg")?;
        fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
        let mut wanted: Vec<_> = entries.iter().map(line).collect();
        wanted.sort();
        let listed = listed(&package)?;
        ensure!(
            listed == wanted,
            "check {}: it lists {listed:#?}, expected {wanted:#?}",
            package.display()
        );
        Ok(package)
    }

    /// What is installed.
    fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = vec![Entry {
            path: BINARY.1.trim_start_matches('/').into(),
            mode: 0o755,
            bytes: read(self.binary)?,
        }];
        let root = workspace::root();
        for unit in UNITS {
            let text = read(&root.join("dist").join(unit))?;
            let text = String::from_utf8(text).context("read a unit")?;
            entries.push(Entry {
                path: format!("usr/lib/systemd/system/{unit}"),
                mode: 0o644,
                bytes: text.replace(BINARY.0, BINARY.1).into_bytes(),
            });
        }
        let completions = self.pages.join("completions");
        let files = COMPLETIONS.map(|(from, to)| (completions.join(from), to));
        let others = AS_THEY_ARE.map(|(from, to)| (root.join(from), to));
        for (from, to) in files.into_iter().chain(others) {
            entries.push(Entry {
                path: to.into(),
                mode: 0o644,
                bytes: read(&from)?,
            });
        }
        let changes = root.join("CHANGELOG.md");
        entries.push(compressed(&changes, "usr/share/doc/srv/changelog.gz")?);
        for page in super::files(&self.pages.join("man"))? {
            let name = page.file_name().unwrap_or_default().to_string_lossy();
            let path = format!("usr/share/man/man1/{name}.gz");
            entries.push(compressed(&page, &path)?);
        }
        Ok(entries)
    }

    /// What dpkg itself reads.
    fn control(&self, entries: &[Entry]) -> Result<Vec<Entry>> {
        let debian = workspace::root().join("dist/debian");
        let control = String::from_utf8(read(&debian.join("control"))?)?;
        let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        let control = control
            .replace("INSTALLED_SIZE", &bytes.div_ceil(1024).to_string())
            .replace("ARCHITECTURE", self.machine.debian)
            .replace("VERSION", env!("CARGO_PKG_VERSION"));
        let entry = |path: &str, mode, bytes| Entry {
            path: path.into(),
            mode,
            bytes,
        };
        Ok(vec![
            entry("control", 0o644, control.into_bytes()),
            entry(
                "conffiles",
                0o644,
                b"/etc/srv.toml\n/etc/logrotate.d/srv\n".to_vec(),
            ),
            entry("postinst", 0o755, read(&debian.join("postinst"))?),
        ])
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// The file as gzip packs it, without its name and time.
fn compressed(file: &Path, path: &str) -> Result<Entry> {
    let mut command = Command::new("gzip");
    command.args(["-9", "--no-name", "--stdout"]).arg(file);
    let output = command.output().context("run gzip")?;
    ensure!(
        output.status.success(),
        "compress {}: {}",
        file.display(),
        output.status
    );
    Ok(Entry {
        path: path.into(),
        mode: 0o644,
        bytes: output.stdout,
    })
}

/// Writes the files under `folder`, which is made. Folders get the mode that dpkg expects,
/// whatever this user's umask is.
fn lay_out(folder: &Path, entries: &[Entry]) -> Result<()> {
    for entry in entries {
        let file = folder.join(&entry.path);
        let write = || {
            for above in file
                .ancestors()
                .skip(1)
                .take_while(|f| f.starts_with(folder))
            {
                fs::create_dir_all(above)?;
                fs::set_permissions(above, fs::Permissions::from_mode(0o755))?;
            }
            fs::write(&file, &entry.bytes)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(entry.mode))
        };
        write().with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// An entry as [`listed`] shows it.
fn line(entry: &Entry) -> String {
    let mode = if entry.mode == 0o755 {
        "-rwxr-xr-x"
    } else {
        "-rw-r--r--"
    };
    format!("/{} {mode} root/root {}", entry.path, entry.bytes.len())
}

/// The regular files of a package: path, mode, owner, size.
fn listed(package: &Path) -> Result<Vec<String>> {
    let said = step::ask(Command::new("dpkg-deb").arg("--contents").arg(package))?;
    let mut lines: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [mode, owner, size, .., path] = words[..] else {
                return None;
            };
            let path = path.trim_start_matches('.');
            Some(format!("{path} {mode} {owner} {size}"))
        })
        .collect();
    lines.sort();
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package of a srv and of pages that are none.
    fn packed() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("make a folder");
        let at = |path: &str| folder.path().join(path);
        for path in ["pages/man", "pages/completions"] {
            fs::create_dir_all(at(path)).expect("make a folder");
        }
        fs::write(at("srv"), "a binary").expect("write");
        for page in ["srv.1", "srv-serve.1"] {
            fs::write(at("pages/man").join(page), ".TH srv 1").expect("write");
        }
        for (name, _) in COMPLETIONS {
            fs::write(at("pages/completions").join(name), "complete").expect("write");
        }
        let package = Package {
            machine: &Machine::ALL[1],
            binary: &at("srv"),
            pages: &at("pages"),
            epoch: "1000000000",
        };
        let package = package.build(folder.path()).expect("pack");
        (folder, package)
    }

    #[test]
    fn a_package_has_srv_its_units_pages_and_completions() {
        let (_folder, package) = packed();
        let name = package.file_name().expect("a package has a name");
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(name.to_string_lossy(), format!("srv_{version}_arm64.deb"));
        let listed = listed(&package).expect("list the package");
        let paths: Vec<_> = listed
            .iter()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(
            paths,
            [
                "/etc/logrotate.d/srv",
                "/etc/srv.toml",
                "/usr/bin/srv",
                "/usr/lib/systemd/system/srv-attach@.service",
                "/usr/lib/systemd/system/srv-cgi.service",
                "/usr/lib/systemd/system/srv.service",
                "/usr/lib/systemd/system/srv.socket",
                "/usr/lib/sysusers.d/srv.conf",
                "/usr/share/bash-completion/completions/srv",
                "/usr/share/doc/srv/LICENSE-APACHE",
                "/usr/share/doc/srv/LICENSE-GPL2",
                "/usr/share/doc/srv/LICENSE-MIT",
                "/usr/share/doc/srv/changelog.gz",
                "/usr/share/doc/srv/copyright",
                "/usr/share/fish/vendor_completions.d/srv.fish",
                "/usr/share/man/man1/srv-serve.1.gz",
                "/usr/share/man/man1/srv.1.gz",
                "/usr/share/zsh/vendor-completions/_srv",
            ]
        );
        assert_eq!(listed[2], "/usr/bin/srv -rwxr-xr-x root/root 8");
        let mut unit = Command::new("dpkg-deb");
        unit.arg("--fsys-tarfile").arg(&package);
        let tar = step::ask(&mut unit).expect("unpack");
        assert!(tar.contains("ExecStart=/usr/bin/srv serve") && !tar.contains(BINARY.0));
    }

    #[test]
    fn the_same_sources_give_the_same_package() {
        let ((_one, first), (_other, second)) = (packed(), packed());
        let read = |package| fs::read(package).expect("read a package");
        assert!(read(first) == read(second));
    }
}
