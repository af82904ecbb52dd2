//! srv under the sandbox of somebody else: a filter that refuses `openat2`, as some container
//! runtimes and units do, and few open files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{SeccompAction, SeccompFilter};
use srv_tests::server::binary;
use tempfile::TempDir;

use crate::client::get;
use crate::probe::group;
use crate::serve::serve;

/// srv, to whom `openat2` fails with this error.
fn without_openat2(errno: i32) -> Command {
    let rules = [(libc::SYS_openat2, Vec::new())].into();
    let refused = SeccompAction::Errno(errno as u32);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture).unwrap();
    let filter: seccompiler::BpfProgram = filter.try_into().unwrap();
    let mut command = Command::new(binary().unwrap());
    // SAFETY: between fork and exec it only makes system calls.
    unsafe {
        command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other))
    };
    command
}

#[test]
fn files_are_served_and_confined_where_openat2_is_refused() {
    let outer = tempfile::tempdir().unwrap();
    fs::set_permissions(outer.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let at = |name: &str| outer.path().join(name);
    fs::create_dir_all(at("root/folder")).unwrap();
    fs::write(at("secret"), "secret").unwrap();
    fs::write(at("root/index.html"), "index").unwrap();
    fs::write(at("root/folder/file"), "file").unwrap();
    fs::write(at("root/large"), vec![b'x'; 200_000]).unwrap();
    symlink("folder/file", at("root/relative")).unwrap();
    symlink(at("root/folder"), at("root/absolute")).unwrap();
    symlink("../secret", at("root/out")).unwrap();
    symlink(at("secret"), at("root/far")).unwrap();
    symlink("..", at("root/up")).unwrap();
    for errno in [libc::EPERM, libc::ENOSYS] {
        let root = at("root");
        let folder = TempDir::new().unwrap();
        let server = serve()
            .workers(1)
            .root(&root)
            .start_as(without_openat2(errno), folder);
        for (path, status, body) in [
            ("/", 200, "index"),
            ("/folder/file", 200, "file"),
            ("/relative", 200, "file"),
            ("/absolute/file", 200, "file"),
            ("/out", 404, ""),
            ("/far", 404, ""),
            ("/up/secret", 404, ""),
            ("/up/root/index.html", 404, ""),
        ] {
            let answer = get(server.address(), path);
            assert_eq!(answer.status(), status, "{path}");
            if status == 200 {
                assert_eq!(answer.body, body.as_bytes(), "{path}");
            }
        }
        assert_eq!(get(server.address(), "/large").body.len(), 200_000);
        let confinement = server.status().unwrap().workers_run_as.unwrap();
        assert!(confinement.seccomp, "{confinement}");
    }
}

#[test]
fn doctor_tries_openat2() {
    let said = |mut command: Command, arguments: &[&str]| {
        let output = command.arg("doctor").args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (text, output.status.code())
    };
    let line = |text: &str| {
        let mut lines = text.lines();
        lines
            .find(|line| line.contains("  openat2 "))
            .unwrap()
            .to_owned()
    };
    let (text, _) = said(Command::new(binary().unwrap()), &[]);
    assert!(line(&text).starts_with("ok "), "{text}");
    for (errno, name) in [
        (libc::EPERM, "Operation not permitted"),
        (libc::ENOSYS, "Function not implemented"),
    ] {
        let (text, code) = said(without_openat2(errno), &[]);
        let line = line(&text);
        assert!(
            line.starts_with("degraded ") && line.contains(name),
            "{line}"
        );
        assert_eq!(code, Some(0), "srv serve runs here: {text}");
        let (_, strict) = said(without_openat2(errno), &["--strict"]);
        assert_eq!(strict, Some(2));
    }
}

/// srv with these limits of open files.
fn with_open_files(soft: u64, hard: u64) -> Command {
    let mut command = Command::new(binary().unwrap());
    let limit = Rlimit {
        current: Some(soft),
        maximum: Some(hard),
    };
    // SAFETY: it is one system call.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?)) };
    command
}

/// What most systems start a process with is for programs that call `select`.
#[test]
fn many_workers_start_under_the_usual_soft_limit() {
    let command = with_open_files(64, 4096);
    let server = serve()
        .workers(32)
        .no_bpf()
        .start_as(command, TempDir::new().unwrap());
    assert_eq!(group(&server).workers.len(), 32);
    assert_eq!(get(server.address(), "/").status(), 200);
}

#[test]
fn a_hard_limit_that_is_too_low_is_named() {
    let mut command = with_open_files(64, 64);
    command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "32"]);
    let output = command.arg("--no-bpf").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "32 workers on 1 addresses need 194 open files",
        "is 64",
        "LimitNOFILE=",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
