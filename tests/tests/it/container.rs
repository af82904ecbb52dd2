//! srv in a container: the image that dist/Dockerfile describes, in the Docker
//! engine that is reachable or in one that the test starts for itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::{Pid, Signal};
use srv::measure::result::Comparison;
use srv_tests::child::Child;
use srv_tests::server::{Server, profile_folder};
use tempfile::TempDir;

use crate::client::get_many;
use crate::gate;
use crate::probe::{self, group, signal, until, until_group};

/// An engine with the image in it.
struct Engine {
    host: Option<String>,
    image: String,
    /// Ends before its folder goes.
    daemon: Option<Child>,
    folder: TempDir,
}

impl Engine {
    /// `None`: not here, which has been said.
    fn with_image() -> Option<Self> {
        let there = static_srv().and_then(|srv| Ok((srv, Self::start()?)));
        let outcome = there.as_ref().map(drop).map_err(String::clone);
        if !gate::steer() || !gate::can("run containers", outcome) {
            return None;
        }
        let (srv, engine) = there.ok()?;
        engine.build(&srv);
        Some(engine)
    }

    fn start() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut engine = Self {
            host: None,
            image: format!("srv-test-{}", std::process::id()),
            daemon: None,
            folder,
        };
        if engine.answers()? {
            return Ok(engine);
        }
        engine.host = Some(format!("unix://{}", engine.path("socket")));
        let mut daemon = Command::new("dockerd");
        daemon.args(["--host", engine.host.as_deref().unwrap_or_default()]);
        for (flag, name) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            daemon.args([flag, &engine.path(name)]);
        }
        // Nothing of this machine's network is changed.
        daemon.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        let daemon = Child::spawn(&mut daemon).map_err(|error| format!("{error:#}"))?;
        engine.daemon = Some(daemon);
        until("the Docker engine answers", || {
            engine.answers().unwrap().then_some(())
        });
        Ok(engine)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.envs(self.host.iter().map(|host| ("DOCKER_HOST", host)));
        command
    }

    fn answers(&self) -> Result<bool, String> {
        let output = self.docker().arg("info").output();
        output
            .map(|output| output.status.success())
            .map_err(|error| format!("run docker info: {error}"))
    }

    fn ask<const N: usize>(&self, arguments: [&str; N]) -> Output {
        self.docker().args(arguments).output().unwrap()
    }

    /// What steering needs, as this engine can name it.
    fn least_rights(&self) -> &'static [&'static str] {
        let least = &[
            "--cap-drop=ALL",
            "--cap-add=BPF",
            "--cap-add=PERFMON",
            "--cap-add=SETUID",
            "--cap-add=SETGID",
            "--cap-add=KILL",
            "--cap-add=SETPCAP",
        ];
        let probe = self.ask(["create", least[1], least[2], &self.image]);
        if String::from_utf8_lossy(&probe.stderr).contains("unknown capability") {
            return &[
                "--cap-drop=ALL",
                "--cap-add=SYS_ADMIN",
                "--cap-add=SETUID",
                "--cap-add=SETGID",
                "--cap-add=KILL",
                "--cap-add=SETPCAP",
            ];
        }
        let container = String::from_utf8(probe.stdout).unwrap();
        self.ask(["rm", container.trim()]);
        least
    }

    fn build(&self, srv: &Path) {
        let context = tempfile::tempdir().unwrap();
        let laid_into = context.path().join("built-by-cargo-xtask-image");
        fs::create_dir(&laid_into).unwrap();
        let stripped = Command::new("strip")
            .arg("-o")
            .arg(laid_into.join("srv"))
            .arg(srv)
            .status();
        assert!(stripped.unwrap().success());
        let output = self
            .docker()
            .args(["build", "--tag", &self.image])
            .args([
                "--build-arg",
                "VERSION=1.2.3",
                "--build-arg",
                "REVISION=abc",
            ])
            .arg("--file")
            .args([&dist("Dockerfile"), context.path()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// `docker run` in the foreground, on this machine's network, with `folder`
    /// at the same place inside.
    fn run(&self, name: &str, rights: &[&str], folder: &Path) -> Command {
        let mut command = self.docker();
        let folder = folder.display();
        command
            .args(["run", "--rm", "--network", "host", "--name", name])
            .args(["--volume", &format!("{folder}:{folder}")])
            .args(rights)
            .arg(&self.image);
        command
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.ask(["rmi", "--force", &self.image]);
    }
}

/// `cargo xtask test` builds it.
fn static_srv() -> Result<PathBuf, String> {
    let path = std::env::var_os("SRV_STATIC_BIN").map(PathBuf::from);
    path.filter(|path| path.is_file())
        .ok_or_else(|| "there is no static srv: `cargo xtask test`, all of it, builds one".into())
}

/// `--privileged`, or as near as the machine lets its own root come.
fn privileged() -> &'static [&'static str] {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let bounds = procfs::process::Process::myself()
        .unwrap()
        .status()
        .unwrap();
    if bounds.capbnd.is_none_or(|all| all & CAP_SYS_RESOURCE != 0) {
        return &["--privileged"];
    }
    &[
        "--cap-add=ALL",
        "--cap-drop=SYS_RESOURCE",
        "--security-opt=seccomp=unconfined",
    ]
}

/// Serves steered with these rights, as PID 1, and stops when told to.
fn assert_serves(engine: &Engine, name: &str, rights: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let command = engine.run(name, rights, folder.path());
    let serve = [
        "--workers",
        "2",
        "--policy",
        "round-robin",
        "--worker-header",
        // A busy machine may keep a worker from running for longer than hangs take, or
        // than its siblings' patience.
        "--hang-after",
        "0s",
        "--accept",
        "own",
    ];
    let mut server = Server::start_as(command, folder, serve).unwrap();
    let answered = get_many(server.address(), 20);
    assert_eq!(answered.iter().filter(|&&worker| worker == 1).count(), 10);
    let program = group(&server).program;
    assert!(program.attached && program.steered >= 20, "{program:?}");
    // The image has no /etc/passwd: nobody is a number.
    let confinement = server.status().unwrap().workers_run_as.unwrap();
    assert_eq!((confinement.uid, confinement.gid), (65_534, 65_534));
    assert!(confinement.seccomp, "{confinement:?}");
    assert_reaps(engine, name, &server);
    let control = server.control().display().to_string();
    let asked = engine.ask(["exec", name, "srv", "status", "--control", &control]);
    assert!(asked.status.success(), "{asked:?}");
    let stopped = engine.ask(["stop", name]);
    assert!(stopped.status.success(), "{stopped:?}");
    let status = server.child().await_exit().unwrap();
    assert_eq!(status.code(), Some(0), "{}", server.child().stderr());
}

/// PID 1 buries its dead and replaces them.
fn assert_reaps(engine: &Engine, name: &str, server: &Server) {
    assert_eq!(server.status().unwrap().pid, 1);
    let init = engine.ask(["inspect", "--format", "{{.State.Pid}}", name]);
    let init = String::from_utf8(init.stdout).unwrap();
    let init: i32 = init.trim().parse().unwrap();
    let children = || {
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
        pids.filter_map(Pid::from_raw).collect::<Vec<Pid>>()
    };
    signal(children()[0], Signal::KILL);
    until_group(server, "the killed worker is replaced", |group| {
        group.workers.iter().any(|worker| worker.starts == 2)
            && group.workers.iter().all(|worker| worker.state == "ready")
    });
    let states: Vec<_> = children().into_iter().map(probe::state).collect();
    assert_eq!(states.len(), 2, "{states:?}");
    assert!(!states.contains(&Some('Z')), "{states:?}");
}

#[test]
fn it_serves_in_a_container() {
    let Some(engine) = Engine::with_image() else {
        return;
    };
    let name = format!("srv-privileged-{}", std::process::id());
    assert_serves(&engine, &name, privileged());
    let name = format!("srv-least-{}", std::process::id());
    assert_serves(&engine, &name, engine.least_rights());
}

#[test]
fn a_container_without_rights_serves_unsteered() {
    let Some(engine) = Engine::with_image() else {
        return;
    };
    let name = format!("srv-no-rights-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let command = engine.run(&name, &["--cap-drop", "ALL"], folder.path());
    let server = Server::start_as(command, folder, ["--workers", "2", "--worker-header"]).unwrap();
    get_many(server.address(), 20);
    let confinement = server.status().unwrap().workers_run_as.unwrap();
    assert!(
        confinement.uid == 0 && confinement.seccomp,
        "{confinement:?}"
    );
    let program = group(&server).program;
    assert!(!program.attached, "{program:?}");
    assert!(program.why_not.is_some_and(|why| why.contains("CAP_BPF")));
}

/// A container that runs as the image says, with nothing that it can write to but what
/// the documentation names; it ends with this.
struct Detached<'a> {
    engine: &'a Engine,
    name: String,
}

impl<'a> Detached<'a> {
    fn start(engine: &'a Engine, name: &str, arguments: &[&str]) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let mut command = engine.docker();
        command
            .args(["run", "--detach", "--network", "none", "--name", &name])
            .args(["--health-interval=1s", "--cap-drop=ALL", "--read-only"])
            .args(["--tmpfs", "/run", "--tmpfs", "/tmp"])
            .arg(&engine.image)
            .args(arguments);
        let output = command.output().unwrap();
        let started = Self { engine, name };
        assert!(output.status.success(), "{output:?}");
        started
    }

    fn inspect(&self, what: &str) -> String {
        let output = self.engine.ask(["inspect", "--format", what, &self.name]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        self.engine.ask(["rm", "--force", &self.name]);
    }
}

#[test]
fn the_image_says_what_it_is_and_whether_it_is_healthy() {
    let Some(engine) = Engine::with_image() else {
        return;
    };
    let container = Detached::start(&engine, "srv-healthy", &[]);
    for (label, value) in [("version", "1.2.3"), ("revision", "abc"), ("title", "srv")] {
        let what = format!("{{{{index .Config.Labels \"org.opencontainers.image.{label}\"}}}}");
        assert_eq!(container.inspect(&what), value, "{label}");
    }
    until("the engine finds the container healthy", || {
        let health = container.inspect("{{.State.Health.Status}}");
        (health == "healthy").then_some(())
    });
    // An agent that is not there, in the place of a server.
    let idle = Detached::start(
        &engine,
        "srv-unhealthy",
        &["attach", "--observe", "--listen", "127.0.0.1:1"],
    );
    until("the engine finds the container not to be healthy", || {
        let health = idle.inspect("{{.State.Status}} {{.State.Health.Status}}");
        (health.starts_with("exited") || health.ends_with("unhealthy")).then_some(())
    });
}

#[test]
fn a_clone_is_no_build_context_and_the_error_says_what_makes_one() {
    let Some(engine) = Engine::with_image() else {
        return;
    };
    let clone = dist("..");
    let mut build = engine.docker();
    build.arg("build").arg("--file").arg(dist("Dockerfile"));
    let output = build.arg(&clone).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("built-by-cargo-xtask-image"), "{said}");
}

#[test]
fn a_comparison_runs_in_a_container() {
    let Some(engine) = Engine::with_image() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("ab");
    let name = format!("srv-ab-{}", std::process::id());
    let output = engine
        .run(&name, privileged(), folder.path())
        .args([
            "ab",
            "bimodal",
            "--arms",
            "least+ring,hash",
            "--rounds",
            "1",
        ])
        .args(["--duration", "500ms", "--rate", "500", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    let comparison = Comparison::read(&out).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(comparison.incomplete, None);
    let measured = comparison.arms.iter().map(|arm| arm.rounds.len());
    assert_eq!(measured.collect::<Vec<_>>(), [1, 1, 1], "{output:?}");
    assert!(out.join("report.html").is_file());
}

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dist")
        .join(name)
}

/// What a checker says of a file; `None`: it is not here, which has been said.
fn check(checker: &mut Command) -> Option<Output> {
    let output = checker.output();
    let name = checker.get_program().to_string_lossy().into_owned();
    let missing = output.as_ref().map(drop).map_err(ToString::to_string);
    gate::can(&format!("run {name}"), missing).then(|| output.unwrap())
}

#[test]
fn the_compose_file_serves_the_folder_that_it_is_given() {
    let mut compose = Command::new("docker-compose");
    let file = dist("compose.yaml");
    compose.arg("--file").arg(&file).arg("config");
    let Some(output) = check(compose.env("SITE", "/a/site")) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.contains("/a/site") && said.contains("cap_drop"),
        "{said}"
    );
    let output = compose.env_remove("SITE").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("must name the folder to serve"), "{said}");
}

#[test]
fn the_kubernetes_files_are_what_kubernetes_takes() {
    let target = profile_folder().unwrap();
    let validate = target.join("../python/bin/kubernetes-validate");
    for name in [
        "daemonset.yaml",
        "attach-sidecar.yaml",
        "attach-ingress-nginx.yaml",
    ] {
        let mut validate = Command::new(&validate);
        let Some(output) = check(validate.arg("--strict").arg(dist(name))) else {
            return;
        };
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let passed = output.status.success() && said.contains("passed");
        assert!(passed, "{name}: {said}");
    }
}

/// The lines of a block literal, `KEY: |`, without their indentation.
fn literal(file: &str, key: &str) -> String {
    let text = fs::read_to_string(dist(file)).unwrap();
    let head = format!("{key}: |");
    let lines = text.lines().skip_while(|line| line.trim() != head).skip(1);
    let lines = lines.take_while(|line| line.starts_with("    "));
    let content: String = lines.map(|line| format!("{}\n", &line[4..])).collect();
    assert!(!content.is_empty(), "{file} has no {key}");
    content
}

#[test]
fn the_config_maps_hold_what_srv_and_nginx_take() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("srv.toml");
    fs::write(&config, literal("daemonset.yaml", "srv.toml")).unwrap();
    let config = config.display().to_string();
    // The harness names another address, which wins over the file's.
    let server = Server::start(["--config", &config, "--workers", "1", "--worker-header"]).unwrap();
    get_many(server.address(), 1);

    let conf = folder.path().join("nginx.conf");
    fs::write(&conf, literal("attach-sidecar.yaml", "nginx.conf")).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.arg("-t").arg("-c").arg(&conf);
    let Some(output) = check(&mut nginx) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("syntax is ok"), "{said}");
}
