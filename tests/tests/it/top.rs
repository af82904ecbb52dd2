//! `srv top` in a real terminal (tmux): keys, sizes, what it shows, and that the terminal is as
//! before in the end. How a frame is laid out is tested where it is drawn.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal};
use srv::measure::load::keep_alive::{KeepAlive, Opening};
use srv_tests::child::Child;
use srv_tests::server::{Server, binary};

use crate::agent::{Agent, answered_by, nginx};
use crate::client::get;
use crate::gate;
use crate::probe::{group, signal, state, status, until, until_group};
use crate::serve::serve;
use crate::support::executable;
use crate::support::terminal::Terminal;

const SMALL: (u16, u16) = (80, 24);
const UTF8: (&str, &str) = ("LC_ALL", "C.UTF-8");

/// `srv top` before this server, four times a second.
fn top(server: &Server, size: (u16, u16), variables: &[(&str, &str)]) -> Terminal {
    let (srv, control) = (binary().unwrap(), server.control());
    let command = [
        srv.to_str().unwrap(),
        "top",
        "--interval",
        "250ms",
        "--control",
        control.to_str().unwrap(),
    ];
    Terminal::run(size, variables, &command)
}

/// What `srv top` prints with these further arguments and variables, to a pipe.
fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary().unwrap());
    command.arg("top").args(arguments).stdin(Stdio::null());
    command.envs(variables.iter().copied()).output().unwrap()
}

fn two_groups() -> Server {
    let (one, other) = ("127.0.0.1:0", "[::1]:0");
    serve().workers(4).listen(one).listen(other).start()
}

#[test]
fn keys_and_sizes_change_what_is_shown_and_y_switches_the_policy() {
    gate::needs!(steer);
    let server = two_groups();
    let top = top(&server, SMALL, &[UTF8]);
    let text = top.until_shown("srv top: 2 groups");
    assert_eq!(text.lines().count(), 24, "{text}");
    assert!(text.contains("steered by the BPF program"), "{text}");
    let chosen = |address: String| format!("> {address}");
    let [v4, v6] = [0, 1].map(|nth| chosen(server.addresses()[nth].to_string()));
    assert!(text.contains(&v4), "{text}");
    top.press(&["Tab"]);
    top.until_shown(&v6);
    top.press(&["Tab"]);
    top.until_shown(&v4);
    top.press(&["s"]);
    top.until_shown("accepts*");
    top.press(&["Space"]);
    top.until_shown("PAUSED");
    top.press(&["Space", "?"]);
    top.until_shown("any key: leave this help");
    top.press(&["x"]);
    top.resize(130, 40);
    let wide = top.until_shown("req/s");
    assert!(
        wide.lines().any(|line| line.chars().count() > 100),
        "{wide}"
    );
    top.resize(40, 10);
    top.until_shown("srv top needs 60 columns");
    top.resize(80, 24);
    top.until_shown(&v4);
    // `hash` is the first of the policies.
    let choose_hash = ["p", "Up", "Up", "Up", "Up", "Up", "Up", "Up", "Enter"];
    top.press(&choose_hash);
    top.until_shown("from least to hash");
    top.press(&["n"]);
    top.until_shown("The policy was not switched.");
    assert_eq!(status(&server).policy, "least");
    top.press(&choose_hash);
    top.until_shown("from least to hash");
    top.press(&["y"]);
    top.until_shown("policy: hash (was least)");
    assert_eq!(status(&server).policy, "hash");
    assert!(!group(&server).program.attached);
    top.until_shown("policy hash, accept ring");
    top.press(&["C-c"]);
    assert!(top.ended().contains("ended with 0"));
}

#[test]
fn the_figures_at_rest_are_those_of_srv_status() {
    gate::needs!(steer);
    let server = serve().workers(3).start();
    let held = KeepAlive::open(server.address(), "/", 10, Opening::OneByOne).unwrap();
    let group = until_group(&server, "all are open", |group| group.totals.active == 10);
    let control = server.control();
    let arguments = ["--once", "--interval", "100ms", "--control"];
    let arguments = [&arguments[..], &[control.to_str().unwrap()]].concat();
    let output = printed(&arguments, &[("COLUMNS", "100"), ("LC_ALL", "C")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains('\x1b'), "{text}");
    assert!(
        text.is_ascii() && text.lines().all(|line| line.len() <= 100),
        "{text}"
    );
    for worker in &group.workers {
        let mut lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let pid = worker.pid.to_string();
        let line = lines.find(|words| words.get(1) == Some(&&*pid)).unwrap();
        let active = worker.active.to_string();
        assert_eq!(line[..4], [&*worker.slot.to_string(), &*pid, "ready", "0"]);
        assert_eq!(line[line.len() - 3..], [&*active, "0", "0"], "{text}");
    }
    assert!(text.contains("active 10, waiting 0, running 0"), "{text}");
    drop(held);
}

#[test]
fn the_terminal_is_restored_whatever_ends_it() {
    let server = two_groups();
    let ends: [&dyn Fn(&Terminal); 3] = [
        &|top| top.press(&["q"]),
        &|top| signal(top.command(), Signal::TERM),
        &|top| signal(top.command(), Signal::HUP),
    ];
    for end in ends {
        let top = top(&server, SMALL, &[UTF8, ("NO_COLOR", "1")]);
        top.until_shown("srv top: 2 groups");
        end(&top);
        assert!(top.ended().contains("ended with 0"));
    }
    // The terminal is closed, with the signal that tells it, and without it.
    let (srv, control) = (binary().unwrap(), server.control());
    let alone = [
        srv.to_str().unwrap(),
        "top",
        "--control",
        control.to_str().unwrap(),
    ];
    for command in [&alone[..], &[&["setsid"], &alone[..]].concat()] {
        let top = Terminal::run(SMALL, &[], command);
        top.until_shown("srv top: 2 groups");
        let process = top.command();
        top.close();
        until("srv top ends with its terminal", || {
            has_ended(process).then_some(())
        });
    }
    assert_eq!(
        status(&server).pid,
        server.pid().as_raw_nonzero().get() as u32
    );
}

fn has_ended(process: Pid) -> bool {
    matches!(state(process), None | Some('Z'))
}

/// Servers of a user of their own, so that no other test's server is seen.
struct Nobody {
    folder: tempfile::TempDir,
}

impl Nobody {
    const USER: &str = "65534";

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = Some(65_534);
        std::os::unix::fs::chown(folder.path(), user, user).unwrap();
        executable::copy(binary().unwrap(), folder.path().join("srv-for-all"));
        Self { folder }
    }

    fn command(&self) -> Vec<String> {
        let srv = Path::join(self.folder.path(), "srv-for-all");
        let runtime = format!("XDG_RUNTIME_DIR={}", self.folder.path().display());
        let words = ["setpriv", "--reuid", Self::USER, "--regid", Self::USER];
        let words = words.into_iter().chain(["--clear-groups", "env", &runtime]);
        let words = words.chain([srv.to_str().unwrap()]);
        words.map(str::to_owned).collect()
    }

    fn serve(&self) -> Child {
        let command = self.command();
        let mut serve = Command::new(&command[0]);
        serve.args(&command[1..]).env("NO_COLOR", "1");
        serve.args([
            "serve",
            "--no-bpf",
            "--workers",
            "2",
            "--listen",
            "127.0.0.1:0",
        ]);
        let mut child = Child::spawn(&mut serve).unwrap();
        child.await_line("listening on ").unwrap();
        child
    }

    fn top(&self, arguments: &[&str]) -> Terminal {
        let command = self.command();
        let command = command.iter().map(String::as_str);
        let command: Vec<&str> = command
            .chain(["top"])
            .chain(arguments.iter().copied())
            .collect();
        Terminal::run(SMALL, &[UTF8], &command)
    }
}

#[test]
fn servers_come_and_go_while_they_are_shown() {
    gate::needs!(root);
    let nobody = Nobody::new();
    // Without any server, there is nothing to show.
    let command = nobody.command();
    let mut refused = Command::new(&command[0]);
    let refused = refused.args(&command[1..]).args(["top", "--once"]).output();
    let refused = refused.unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("`srv serve` starts one"), "{said}");
    let (mut one, other) = (nobody.serve(), nobody.serve());
    let top = nobody.top(&["--interval", "250ms"]);
    top.until_shown("srv top: 2 groups");
    one.stop().unwrap();
    let text = top.until_shown("ENDED");
    assert!(
        text.contains("srv top: 2 groups") && text.contains(" hash "),
        "{text}"
    );
    let third = nobody.serve();
    top.until_shown("srv top: 3 groups");
    drop((other, third));
    top.until("all have ended", |text| text.matches("ENDED").count() == 3);
    top.press(&["q"]);
    assert!(top.ended().contains("ended with 0"));
}

#[test]
fn a_refusal_says_what_to_do() {
    let server = two_groups();
    let dumb = top(&server, SMALL, &[("TERM", "dumb")]);
    let text = dumb.ended();
    assert!(
        text.contains("ended with 1") && text.contains("TERM is dumb"),
        "{text}"
    );
    let control = server.control();
    let control = control.to_str().unwrap();
    for (arguments, said) in [
        (["--control", control], "`srv top --once`"),
        (["--control", "/nowhere"], "no process answers there"),
        (["--listen", "127.0.0.1:1"], "127.0.0.1:1"),
    ] {
        let output = printed(&arguments, &[]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains(said), "{complaint}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_attached_group_is_shown_with_what_the_program_assigned() {
    let Some(nginx) = nginx(2) else { return };
    let agent = Agent::attach(nginx.address(), &["--policy", "round-robin"]);
    let control = agent.control();
    let control = control.to_str().unwrap();
    agent.status();
    let arguments = ["--once", "--interval", "300ms", "--control", control];
    let output = std::thread::scope(|scope| {
        let printing = scope.spawn(|| printed(&arguments, &[("COLUMNS", "100")]));
        while !printing.is_finished() {
            answered_by(nginx.address(), 10);
        }
        printing.join().unwrap()
    });
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "nginx attached by ",
        "policy round-robin",
        "as the program assigned them",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let shares = text
        .lines()
        .find(|line| line.starts_with("accepts "))
        .unwrap();
    assert!(
        !shares.starts_with("accepts 0/s") && !shares.starts_with("accepts -"),
        "{text}"
    );
    assert!(agent.status().program.steered > Some(0));
    get(nginx.address(), "/work");
}
