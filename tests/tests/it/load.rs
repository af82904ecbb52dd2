//! `srv load` as a command: what it says, writes and exits with.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use srv::measure::load::Figures;
use srv_tests::child::Child;
use srv_tests::server::{Server, binary};

use crate::serve::serve;

/// `srv load` with these arguments, to its end.
pub(crate) fn load<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(binary().unwrap());
    command.arg("load").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// What it printed with `--json`.
pub(crate) fn figures(output: &Output) -> Figures {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What it says when it refuses to run: one line.
pub(crate) fn refusal<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = load(arguments);
    let said = stderr(&output).to_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    assert!(said.starts_with("srv: "), "{said}");
    assert!(output.stdout.is_empty());
    said
}

fn server() -> Server {
    serve().workers(2).synthetic().worker_header().start()
}

fn work(server: &Server) -> String {
    format!("http://{}/work?sleep_us={{us}}", server.address())
}

#[test]
fn an_open_loop_is_printed_for_people() {
    let server = server();
    let url = work(&server);
    let arguments = "--rate 200 --duration 1s --service two:100,5000,0.1 --strict";
    let output = load([url.as_str()].into_iter().chain(arguments.split(' ')));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = stdout(&output);
    for part in [
        "open loop: poisson arrivals, 200/s, for 1 s, seed 1, service two:100,5000,0.1\n",
        "a new connection per request; latency from the scheduled instant\n",
        "p99.9",
        "\nall ",
        "\nshort ",
        "\nanswered ",
        "\nworkers      2: ",
        "\nshares, % ",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    assert!(
        !said.contains("INCOMPLETE") && !said.contains("lost "),
        "{said}"
    );
}

#[test]
fn json_counts_what_the_server_counted() {
    let server = server();
    let url = work(&server);
    let arguments = "--rate 100 --arrivals burst:10 --duration 1s --service fixed:500 --json";
    let output = load([url.as_str()].into_iter().chain(arguments.split(' ')));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let figures = figures(&output);
    assert!(figures.complete && figures.lost.is_empty() && figures.unsent.is_empty());
    assert_eq!(figures.statuses, [(200, 100)].into());
    let began = humantime::parse_rfc3339(&figures.began).unwrap();
    assert!(
        began.elapsed().unwrap() < Duration::from_secs(3600),
        "{figures:?}"
    );
    assert_eq!((figures.requests, figures.answered), (100, 100));
    assert_eq!(figures.latency.count, 100);
    assert!(figures.latency.p50_ns >= 500_000, "{figures:?}");
    assert_eq!(figures.asked.latency_from, "scheduled");
    assert_eq!(figures.answers_per_worker.iter().sum::<u64>(), 100);
    let totals = &crate::probe::group(&server).totals;
    assert_eq!((totals.accepted, totals.served), (100, 100));
}

#[test]
fn a_closed_loop_keeps_its_connections() {
    let server = server();
    let url = work(&server);
    let arguments = "--clients 4 --keep-alive 4 --requests 80 --service fixed:100 --json";
    let output = load([url.as_str()].into_iter().chain(arguments.split(' ')));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let figures = figures(&output);
    assert_eq!((figures.requests, figures.answered), (80, 80));
    assert_eq!(figures.asked.latency_from, "sent");
    assert_eq!(
        (figures.asked.clients, figures.asked.duration_s),
        (Some(4), None)
    );
    assert_eq!(crate::probe::group(&server).totals.accepted, 4);
}

#[test]
fn a_name_is_looked_up() {
    let server = serve().workers(1).start();
    let port = server.address().port();
    // Either family may come first; the server listens on IPv4.
    let url = format!("http://localhost:{port}/");
    let output = load([&url, "--clients", "1", "--requests", "1", "--json"]);
    let figures = figures(&output);
    assert!(
        figures.asked.addresses[0].ends_with(&format!(":{port}")),
        "{figures:?}"
    );
}

#[test]
fn urls_that_cannot_be_are_refused_with_the_mend() {
    for (url, mend) in [
        (
            "127.0.0.1:8080",
            "there is no scheme; write http://127.0.0.1:8080",
        ),
        ("ftp://127.0.0.1/", "http and https are"),
        ("http://", "write http://HOST:PORT/PATH"),
        (
            "http://127.0.0.1:80000/",
            "port `80000` is not a number from 1 to 65535",
        ),
        ("http://127.0.0.1/a b", "percent-encoded"),
        ("http://no-such-host.invalid/", "check the name"),
        ("http://127.0.0.1/{us}", "--service fixed:1000"),
    ] {
        let said = refusal([url, "--rate", "100", "--duration", "1s"]);
        assert!(
            said.contains(url) || said.contains("no-such-host"),
            "{said}"
        );
        assert!(said.contains(mend), "{url}: {said}");
    }
    let url = "http://127.0.0.1/work";
    let said = refusal([url, "--rate", "1", "--service", "fixed:1"]);
    assert!(
        said.contains(url) && said.contains("put {us} into"),
        "{said}"
    );
    let said = refusal([url, "--rate", "1e9", "--duration", "1h"]);
    assert!(said.contains("lower --rate"), "{said}");
    let said = refusal([url, "--clients", "2", "--keep-alive", "1"]);
    assert!(said.contains("at least 2"), "{said}");
}

#[test]
fn nobody_there_is_said_and_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/");
    let output = load([&url, "--rate", "50", "--duration", "1s", "--seed", "2"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("not one request was answered"), "{said}");
    assert!(
        said.contains("refused") && said.contains(&address.to_string()),
        "{said}"
    );
    assert!(stdout(&output).contains("lost "), "{output:?}");
}

/// Answers with something else than 200 are lost; only `--strict` minds, if there were others.
#[test]
fn strict_minds_a_loss() {
    let server = serve().workers(1).synthetic().start();
    // Service times beyond what the handler takes are refused with a 400.
    let url = format!("http://{}/work?sleep_us={{us}}", server.address());
    let service = "two:0,4000000000,0.5";
    let arguments = ["--clients", "1", "--requests", "20", "--service", service];
    let all: Vec<&str> = [url.as_str()].into_iter().chain(arguments).collect();
    let output = load(&all);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        stdout(&output).contains(" status (the first: status 4"),
        "{output:?}"
    );
    let strict = load(all.iter().copied().chain(["--strict"]));
    assert_eq!(strict.status.code(), Some(1), "{strict:?}");
}

#[test]
fn the_files_hold_what_was_printed() {
    let server = server();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folder");
    let url = work(&server);
    let arguments = "--rate 300 --duration 2s --service two:100,3000,0.1 --json --out";
    let mut arguments: Vec<&OsStr> = arguments.split(' ').map(OsStr::new).collect();
    arguments.extend([out.as_os_str(), OsStr::new(&url)]);
    let output = load(arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let figures = figures(&output);

    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "latency.hgrm",
            "latency.hlog",
            "records.csv",
            "summary.json"
        ]
    );

    let summary = fs::read(out.join("summary.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<Figures>(&summary).unwrap(),
        figures
    );

    let latencies_ns = latencies_ns(&fs::read_to_string(out.join("records.csv")).unwrap());
    assert_eq!(
        srv::measure::stats::Summary::of(latencies_ns),
        figures.latency
    );
    assert_histograms(&out, &figures);
}

/// Of each record in `records.csv`.
fn latencies_ns(records: &str) -> Vec<u64> {
    let mut lines = records.lines();
    assert_eq!(
        lines.next(),
        Some("scheduled_ns,sent_ns,finished_ns,service_us,worker,outcome,status,target")
    );
    let mut latencies_ns = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        let ns = |nth: usize| fields[nth].parse::<u64>().unwrap();
        assert!(ns(0) <= ns(1) && ns(1) <= ns(2), "{line}");
        assert!(matches!(fields[3], "100" | "3000"), "{line}");
        assert!(
            matches!(fields[4], "0" | "1") && fields[5..] == ["ok", "200", "0"],
            "{line}"
        );
        latencies_ns.push(ns(2) - ns(0));
    }
    latencies_ns
}

fn assert_histograms(out: &Path, figures: &Figures) {
    let distribution = fs::read_to_string(out.join("latency.hgrm")).unwrap();
    let last = distribution
        .lines()
        .rfind(|line| !line.starts_with('#'))
        .unwrap();
    let fields: Vec<f64> = last
        .split_whitespace()
        .map(|f| f.parse().unwrap())
        .collect();
    assert_eq!(fields[1..], [1.0, figures.requests as f64]);
    let max_ms = figures.latency.max_ns as f64 / 1e6;
    assert!(
        (fields[0] / max_ms - 1.0).abs() < 0.01,
        "{last}, not {max_ms} ms"
    );

    let log = fs::read_to_string(out.join("latency.hlog")).unwrap();
    assert!(log.starts_with("#[Histogram log format"), "{log}");
    let intervals = log.lines().filter(|line| line.contains(",HISTFAAA"));
    assert!(intervals.count() >= 2, "{log}");
}

#[test]
fn a_folder_that_cannot_be_written_is_known_before_anything_is_sent() {
    let said = refusal(out_of("/proc/self/no/folder"));
    assert!(
        said.contains("create folder /proc/self/no/folder"),
        "{said}"
    );
    assert!(said.contains("name another"), "{said}");
}

fn out_of(folder: &str) -> Vec<String> {
    let line = format!("http://127.0.0.1:1/ --rate 10 --duration 1s --out {folder}");
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_full_disk_costs_the_files_and_not_the_figures() {
    let server = serve().workers(1).start();
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("records.csv.part");
    std::os::unix::fs::symlink("/dev/full", full).unwrap();
    let url = format!("http://{}/", server.address());
    let arguments = [&*url, "--clients", "1", "--requests", "5", "--out"].map(OsStr::new);
    let output = load(arguments.into_iter().chain([folder.path().as_os_str()]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stdout(&output).contains("answered     5 of 5"),
        "{output:?}"
    );
    let said = stderr(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("records.csv") && said.contains("make room"),
        "{said}"
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "left something"
    );
}

#[test]
fn ctrl_c_leaves_what_there_is_marked_incomplete() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let server = server();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut command = Command::new(binary().unwrap());
        command
            .args([
                "load",
                &work(&server),
                "--rate",
                "200",
                "--duration",
                "10min",
            ])
            .args(["--service", "fixed:100", "--out"])
            .arg(&out)
            .stdout(fs::File::create(folder.path().join("stdout")).unwrap());
        let mut child = Child::spawn(&mut command).unwrap();
        crate::probe::until_group(&server, "requests were served", |group| {
            group.totals.served >= 50
        });
        child.signal(signal).unwrap();
        let status = child.await_exit().unwrap();
        assert_eq!(status.code(), Some(code), "{}", child.stderr());
        let said = fs::read_to_string(folder.path().join("stdout")).unwrap();
        assert!(said.contains("INCOMPLETE: stopped after"), "{said}");
        let figures = written_figures(&out);
        assert!(!figures.complete && figures.answered >= 1, "{figures:?}");
        let records = fs::read_to_string(out.join("records.csv")).unwrap();
        assert_eq!(records.lines().count() - 1, figures.requests);
        for name in ["latency.hgrm", "latency.hlog"] {
            let text = fs::read_to_string(out.join(name)).unwrap();
            assert!(text.contains("[Incomplete"), "{name}: {text}");
        }
    }
}

fn written_figures(out: &Path) -> Figures {
    serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap()
}

/// A process that may have few files open makes requests wait, and says so.
#[test]
fn too_few_files_make_requests_wait() {
    let server = server();
    let script = "ulimit -n 40; exec \"$0\" load \"$1\" --rate 100 --arrivals burst:100 \
                  --duration 1s --service fixed:1000 --json";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(binary().unwrap())
        .arg(work(&server));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let figures = figures(&output);
    assert_eq!(figures.answered, 100, "{figures:?}");
    assert!(
        figures
            .doubts
            .iter()
            .any(|doubt| doubt.contains("ulimit -Hn")),
        "{figures:?}"
    );
    assert!(stderr(&output).contains("srv: warning: "), "{output:?}");
}
