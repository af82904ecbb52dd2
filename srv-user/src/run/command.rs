//! COMMAND: where it is, and whether a library can be loaded into it. Reads files, starts nothing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rustix::fs::Access;

use crate::kernel::elf::{Linkage, linkage};

/// Interpreters that name interpreters (`BINPRM` in fs/exec.c ends at about as many).
const INTERPRETERS_MAX: usize = 5;
/// As much of a script's first line as the kernel reads (BINPRM_BUF_SIZE).
const FIRST_LINE_BYTES: u64 = 256;
/// Where the kernel looks if there is no PATH (execvp(3)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Where the program of that name is, as execvp(3) finds it.
///
/// # Errors
/// `NotFound`, or `PermissionDenied` if there is one that this user may not execute.
pub(super) fn find(name: &OsStr) -> io::Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return executable(Path::new(name)).map(|()| name.into());
    }
    let folders = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut refusal = io::ErrorKind::NotFound;
    for folder in std::env::split_paths(&folders) {
        let path = match folder.as_os_str().is_empty() {
            true => Path::new(".").join(name),
            false => folder.join(name),
        };
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                refusal = io::ErrorKind::PermissionDenied;
            }
            Err(_) => {}
        }
    }
    Err(refusal.into())
}

fn executable(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_dir() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(rustix::fs::access(path, Access::EXEC_OK)?)
}

/// Whether a library can be loaded into the program, which is a script or binary.
///
/// # Errors
/// The reason why not, and what else can be done.
pub(super) fn ensure_loads_libraries(program: &Path, arguments: &[OsString]) -> anyhow::Result<()> {
    let binary = interpreter(program, arguments)?;
    let name = binary.display();
    let file = File::open(&binary).with_context(|| {
        format!("cannot read {name}, and so cannot say whether a library can be loaded into it")
    })?;
    let own = std::fs::metadata("/proc/self/exe").context("examine srv itself")?;
    let its = file.metadata().with_context(|| format!("stat {name}"))?;
    ensure!(
        (own.dev(), own.ino()) != (its.dev(), its.ino()),
        "{name} is srv itself: `srv serve` steers its own workers"
    );
    ensure_is_dynamic(&file, &binary)?;
    ensure_is_not_secure(&file, &binary)
}

/// What the kernel executes in the end: a script names an interpreter.
fn interpreter(program: &Path, arguments: &[OsString]) -> anyhow::Result<PathBuf> {
    let mut binary = program.to_owned();
    for _ in 0..INTERPRETERS_MAX {
        let mut line = Vec::new();
        let file = File::open(&binary);
        let file = file.with_context(|| format!("open {}", binary.display()))?;
        file.take(FIRST_LINE_BYTES)
            .read_to_end(&mut line)
            .with_context(|| format!("read {}", binary.display()))?;
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let next = match line.strip_prefix(b"#!") {
            Some(line) => words(line),
            // `env` executes what follows.
            None if is_env(&binary) && binary == program => arguments.to_vec(),
            None => return Ok(binary),
        };
        let Some(named) = executed(&next) else {
            return Ok(binary);
        };
        binary = find(&named).with_context(|| {
            let (named, by) = (named.display(), binary.display());
            format!("find the interpreter {named} of {by}")
        })?;
    }
    bail!("{} has too many interpreters", program.display())
}

fn words(line: &[u8]) -> Vec<OsString> {
    let words = line.split(u8::is_ascii_whitespace);
    let words = words.filter(|word| !word.is_empty());
    words
        .map(|word| OsStr::from_bytes(word).to_owned())
        .collect()
}

/// The program that a line executes: its first word, or, if that is `env`, what `env` executes.
fn executed(words: &[OsString]) -> Option<OsString> {
    let is_program = |word: &&OsString| {
        let bytes = word.as_bytes();
        !bytes.starts_with(b"-") && !bytes.contains(&b'=') && !is_env(Path::new(word))
    };
    words.iter().find(is_program).or(words.first()).cloned()
}

fn is_env(path: &Path) -> bool {
    path.file_name() == Some(OsStr::new("env"))
}

fn ensure_is_dynamic(file: &File, path: &Path) -> anyhow::Result<()> {
    let name = path.display();
    let linkage = linkage(file)
        .with_context(|| format!("{name} is no 64-bit ELF binary, for which srv has a library"))?;
    match linkage {
        Linkage::Dynamic => Ok(()),
        Linkage::OtherProcessor => bail!(
            "{name} is a binary for another processor: srv has a library for {} alone",
            std::env::consts::ARCH
        ),
        Linkage::Static => bail!(
            "{name} is linked statically, so no library can be loaded into it: link it dynamically, \
             or give each worker a socket of its own (SO_REUSEPORT) and use `srv attach`"
        ),
        Linkage::Go => bail!(
            "{name} is a Go binary, whose runtime calls the kernel past every library: start \
             several processes, each with a socket of its own (SO_REUSEPORT), and use `srv attach`"
        ),
    }
}

/// The dynamic loader ignores LD_PRELOAD if the kernel sets AT_SECURE, which it does if the
/// binary changes the user, the group or the capabilities (security/commoncap.c).
fn ensure_is_not_secure(file: &File, path: &Path) -> anyhow::Result<()> {
    const SETUID: u32 = 0o4000;
    /// The bit counts if the group may execute.
    const SETGID: u32 = 0o2010;
    let name = path.display();
    let is_ignored = rustix::thread::no_new_privs().unwrap_or(false)
        || rustix::fs::fstatvfs(file)
            .is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
    if is_ignored {
        return Ok(());
    }
    let its = file.metadata().with_context(|| format!("stat {name}"))?;
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let changes_user = its.mode() & SETUID != 0 && its.uid() != uid.as_raw();
    let changes_group = its.mode() & SETGID == SETGID && its.gid() != gid.as_raw();
    let remedy = "the dynamic loader then ignores LD_PRELOAD: start it as the user, or from a \
                  service manager with the capabilities (AmbientCapabilities=), that it needs";
    ensure!(
        !changes_user && !changes_group,
        "{name} changes its user or group when it starts (setuid or setgid), and {remedy}"
    );
    let mut value = [0u8; 64];
    let capabilities = rustix::fs::fgetxattr(file, c"security.capability", &mut value[..]);
    ensure!(
        uid.is_root() || !capabilities.is_ok_and(|bytes| bytes > 0),
        "{name} has file capabilities, and {remedy}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn written(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        assert!(find(OsStr::new("sh")).unwrap().ends_with("sh"));
        let none = find(OsStr::new("no-such-program")).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        let folder = find(OsStr::new("/")).unwrap_err();
        assert_eq!(folder.kind(), io::ErrorKind::PermissionDenied);
        let none = find(OsStr::new("./no-such-program")).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_script_is_judged_by_its_interpreter() {
        let folder = tempfile::tempdir().unwrap();
        let sh = find(OsStr::new("sh")).unwrap();
        for (nth, first) in ["#!/usr/bin/env -S sh", "#! /bin/sh -e", "#!/bin/sh"]
            .iter()
            .enumerate()
        {
            let script = format!("{first}\nexit\n");
            let script = written(folder.path(), &format!("script{nth}"), &script, 0o755);
            let binary = interpreter(&script, &[]).unwrap();
            assert_eq!(binary.file_name(), sh.file_name(), "{first}");
            ensure_loads_libraries(&script, &[]).unwrap();
        }
        let env = find(OsStr::new("env")).unwrap();
        let arguments = ["A=1".into(), "sh".into(), "-c".into()];
        assert_eq!(interpreter(&env, &arguments).unwrap(), sh);
        let itself = written(folder.path(), "text", "no binary", 0o755);
        let refusal = ensure_loads_libraries(&itself, &[]).unwrap_err();
        assert!(format!("{refusal:#}").contains("ELF"), "{refusal:#}");
    }

    #[test]
    fn what_ignores_a_library_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let setgid = folder.path().join("setgid");
        std::fs::copy(find(OsStr::new("sh")).unwrap(), &setgid).unwrap();
        ensure_loads_libraries(&setgid, &[]).unwrap();
        let gid = rustix::process::getgid().as_raw();
        let root = rustix::process::geteuid().is_root();
        if !crate::gate::can(
            "be root",
            root.then_some(()).ok_or("another user runs it".into()),
        ) {
            return;
        }
        std::os::unix::fs::chown(&setgid, None, Some(gid + 1)).unwrap();
        std::fs::set_permissions(&setgid, std::fs::Permissions::from_mode(0o2755)).unwrap();
        let outcome = ensure_loads_libraries(&setgid, &[]);
        let nosuid = rustix::fs::statvfs(&setgid).unwrap().f_flag;
        match nosuid.contains(rustix::fs::StatVfsMountFlags::NOSUID) {
            true => outcome.unwrap(),
            false => assert!(outcome.unwrap_err().to_string().contains("setgid")),
        }
        let own = ensure_loads_libraries(Path::new("/proc/self/exe"), &[]).unwrap_err();
        assert!(own.to_string().contains("srv itself"), "{own}");
    }
}
