//! The commands of docs/attach.md, run as they are written there.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use srv_tests::nginx::{self, Nginx};

use crate::agent::{LOCALHOST, nginx, options, said, srv};
use crate::support::executable;

/// The blocks of shell commands below the heading that begins with `heading`.
fn blocks(heading: &str) -> Vec<String> {
    let page = include_str!("../../../docs/attach.md");
    let (_, section) = page.split_once(heading).expect("the heading");
    let section = section.split("\n## ").next().expect("its text");
    let blocks = section.split("```sh\n").skip(1);
    let block = |text: &str| text.split_once("```").expect("a block's end").0.to_owned();
    blocks.map(block).collect()
}

/// The commands that give each worker a socket of its own, and the commands that steer.
fn commands() -> [String; 2] {
    let blocks = blocks("## Fix my nginx in two minutes");
    let [edit, steer, _unit] = &blocks[..] else {
        panic!("three blocks: {blocks:?}")
    };
    [edit.clone(), steer.clone()]
}

/// A `PATH` that begins with a `sudo` that only runs its command, and with the binary under test.
fn path_with(folder: &Path) -> String {
    std::os::unix::fs::symlink(srv().get_program(), folder.join("srv")).unwrap();
    let sudo = folder.join("sudo");
    executable::write(&sudo, "#!/bin/sh\nexec \"$@\"\n");
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

/// Runs commands as a reader does after setting these variables.
fn typed(commands: &str, folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut shell = Command::new("sh");
    let path = fs::read_to_string(folder.join("path")).unwrap();
    shell.args(["-ec", commands]).env("PATH", path);
    shell.envs(variables.iter().copied()).output().unwrap()
}

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = path_with(folder.path());
    fs::write(folder.path().join("path"), path).unwrap();
    folder
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
    let conf = conf.to_str().unwrap();
    // `listen ADDR;`, as most have it.
    let text = fs::read_to_string(conf).unwrap();
    fs::write(conf, text.replace(" backlog=4096;", ";")).unwrap();
    let folder = prepared();
    let (address, port) = (
        nginx.address().to_string(),
        nginx.address().port().to_string(),
    );
    let [edit, steer] = commands();
    let output = typed(&edit, folder.path(), &[("CONF", conf), ("PORT", &port)]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    // A reader types slower than nginx reloads.
    for _ in 0..3 {
        nginx.child().await_line("start worker process ").unwrap();
    }
    for _ in 0..3 {
        nginx.child().await_line("exited with code 0").unwrap();
    }
    let mut seen = String::new();
    for line in steer.lines() {
        let output = typed(line, folder.path(), &[("ADDR", &address)]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        // An idle server gives no verdict.
        let codes: &[i32] = match line.contains("srv observe") {
            true => &[4],
            false => &[0],
        };
        let code = output.status.code().unwrap();
        assert!(codes.contains(&code), "{line}: {code}: {complaint}");
        seen += &String::from_utf8_lossy(&output.stdout);
    }
    for part in ["verdict: ", "nginx; no agent, policy least", "detached"] {
        assert!(seen.contains(part), "no `{part}` in:\n{seen}");
    }
    assert!(said(&format!("detach --listen {address}")).contains("nothing was attached"));
}

const FORMS: &str = "daemon off;
pid nginx.pid;
events { }
http {
  access_log off;
  server {
    listen 80 default_server;
    listen [::]:80 default_server ipv6only=on;
  }
  server {
    listen 80;
    listen 127.0.0.1:80 backlog=64; # listen 80;
    server_name other;
  }
  server {
    listen 8080;
    listen 180;
  }
}
";

/// `nginx -t` accepts what the commands make of each form of `listen`, and nothing else changes.
#[test]
fn every_form_of_listen_is_understood() {
    if nginx(2).is_none() {
        return;
    }
    let folder = prepared();
    let conf = folder.path().join("nginx.conf");
    fs::write(&conf, FORMS).unwrap();
    let [edit, _] = commands();
    let (until_test, reload) = edit.trim_end().rsplit_once('\n').unwrap();
    assert!(reload.contains("-s reload"), "{reload}");
    // In a network namespace port 80 is free.
    let apart = format!(
        "unshare --net sh -ec '\n{}'",
        until_test.replace('\'', "'\\''")
    );
    for port in ["80", "8080"] {
        let conf = conf.to_str().unwrap();
        let output = typed(&apart, folder.path(), &[("CONF", conf), ("PORT", port)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("test is successful"), "{said}");
    }
    let expected = FORMS
        .replacen(
            "listen 80 default_server",
            "listen 80 reuseport default_server",
            1,
        )
        .replace("listen [::]:80", "listen [::]:80 reuseport")
        .replace("listen 127.0.0.1:80", "listen 127.0.0.1:80 reuseport")
        .replace("listen 8080", "listen 8080 reuseport");
    assert_eq!(fs::read_to_string(&conf).unwrap(), expected);
}
