//! The commands of docs/attach.md, run as they are written there.

use std::process::Command;

use srv_tests::nginx::{self, Nginx};

use crate::agent::{LOCALHOST, nginx, options, said, srv};

/// The first block of shell commands.
fn commands() -> String {
    let page = include_str!("../../../docs/attach.md");
    let (_, rest) = page.split_once("```sh\n").expect("a block of commands");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// `sudo` that is not needed, and the binary under test, before all others.
fn path_with(folder: &std::path::Path) -> String {
    std::os::unix::fs::symlink(srv().get_program(), folder.join("srv")).unwrap();
    let sudo = folder.join("sudo");
    std::fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&sudo, mode).unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

#[test]
fn the_two_minutes_run_as_written() {
    if nginx(2).is_none() {
        return;
    }
    let shared = nginx::Options {
        reuseport: false,
        ..options(3)
    };
    let mut nginx = Nginx::start(LOCALHOST, &shared).unwrap();
    let conf = nginx.folder().join("nginx.conf");
    // `listen ADDR;`, as most have it.
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text.replace(" backlog=4096;", ";")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = path_with(folder.path());
    let address = nginx.address().to_string();
    let mut seen = String::new();
    for line in commands().lines() {
        let mut shell = Command::new("sh");
        shell.args(["-ec", line]).env("PATH", &path);
        let output = shell
            .env("ADDR", &address)
            .env("CONF", &conf)
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {complaint}");
        seen += &String::from_utf8_lossy(&output.stdout);
        if line.contains("reload") {
            // Who types is slower than nginx.
            for _ in 0..3 {
                nginx.child().await_line("start worker process ").unwrap();
            }
            for _ in 0..3 {
                nginx.child().await_line("exited with code 0").unwrap();
            }
        }
    }
    for part in ["only observed", "nginx; no agent, policy least", "detached"] {
        assert!(seen.contains(part), "no `{part}` in:\n{seen}");
    }
    assert!(said(&format!("detach --listen {address}")).contains("nothing was attached"));
}
