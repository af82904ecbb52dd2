//! `/metrics` before those that read it: promtool, a real Prometheus with and without native
//! histograms, and the dashboard and the alert rules of `dist/observe`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use srv_tests::child::Child;
use srv_tests::free_address;
use tempfile::TempDir;

use super::{exchange, get, serve_with_address, tcp};
use crate::agent::LOCALHOST;
use crate::gate;
use crate::probe::until;
use crate::unmodified::in_path;

fn in_repository(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    assert!(!said.contains("FAILED"), "{said}");
}

#[test]
fn promtool_finds_no_fault_and_the_page_has_each_metric() {
    gate::needs!("run promtool": &in_path("promtool"));
    let (server, _) = serve_with_address(&[]);
    get_some(server.address());
    let metrics = get(&server, "/metrics");
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    promtool(&["check", "metrics"], &metrics.body);
    let rules = in_repository("dist/observe/alerts.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let page = std::fs::read_to_string(in_repository("docs/observe.md")).unwrap();
    let types = metrics
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<_> = types.map(|line| line.split(' ').next().unwrap()).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/observe.md lacks {name}"
        );
    }
}

/// A running Prometheus that scrapes one address, several times a second.
struct Prometheus {
    _child: Child,
    _folder: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    fn start(target: SocketAddr, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = in_repository("dist/observe/alerts.yml")
            .canonicalize()
            .unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}\n\
             rule_files: [{}]\n\
             scrape_configs: [{{job_name: srv, scrape_timeout: 250ms, static_configs: \
             [{{targets: [\"{target}\"]}}]}}]\n",
            rules.display()
        );
        std::fs::write(&config, text).unwrap();
        let address = free_address(LOCALHOST).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(flags);
        let mut child = Child::spawn(&mut command).unwrap();
        child.await_line("Server is ready").unwrap();
        Self {
            _child: child,
            _folder: folder,
            address,
        }
    }

    fn ask(&self, path: &str) -> Value {
        let answer = exchange(tcp(self.address).unwrap(), &format!("GET {path}")).unwrap();
        // Prometheus may send the answer in chunks.
        let begin = answer.body.find('{').unwrap();
        let end = answer.body.rfind('}').unwrap();
        serde_json::from_str(&answer.body[begin..=end]).unwrap()
    }

    /// The values that a query has now.
    fn query(&self, query: &str) -> Vec<f64> {
        let bytes = query.bytes().map(|byte| format!("%{byte:02x}"));
        let encoded: String = bytes.collect();
        let answer = self.ask(&format!("/api/v1/query?query={encoded}"));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array().unwrap();
        let values = result.iter().map(|one| one["value"][1].as_str().unwrap());
        values.map(|value| value.parse().unwrap()).collect()
    }
}

/// All queries of the dashboard, as Grafana sends them.
fn dashboard() -> BTreeSet<String> {
    let text = std::fs::read_to_string(in_repository("dist/observe/grafana-dashboard.json"));
    let dashboard: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries = targets.map(|target| {
        let query = target["expr"].as_str().unwrap();
        query
            .replace("$__rate_interval", "5s")
            .replace("$listen", ".*")
    });
    queries.collect()
}

/// Each query has data, and each rule can be evaluated. Prometheus asks for OpenMetrics, and for
/// protocol buffers if it is to have native histograms.
#[test]
fn prometheus_answers_each_query_of_the_dashboard_and_evaluates_each_rule() {
    gate::needs!("run prometheus": &in_path("prometheus"));
    let (server, address) = serve_with_address(&[]);
    let plain = Prometheus::start(address, &[]);
    let native = Prometheus::start(address, &["--enable-feature=native-histograms"]);
    let mut open = dashboard();
    assert!(open.len() > 20, "{open:?}");
    until("each query of the dashboard has data", || {
        get_some(server.address());
        open.retain(|query| {
            let values = plain.query(query);
            values.is_empty() || values.iter().any(|value| value.is_nan())
        });
        open.is_empty().then_some(())
    });
    until("the native histogram has data", || {
        get_some(server.address());
        let query = "histogram_quantile(0.99, rate(http_server_request_duration_seconds[5s]))";
        let values = native.query(query);
        values
            .into_iter()
            .find(|seconds| *seconds > 0.0 && *seconds < 60.0)
    });
    let rules = until("each rule was evaluated", || {
        let rules = plain.ask("/api/v1/rules")["data"]["groups"][0]["rules"].clone();
        let all = rules.as_array().unwrap();
        all.iter()
            .all(|rule| rule["health"] != "unknown")
            .then_some(rules)
    });
    for rule in rules.as_array().unwrap() {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

/// Some requests, over a connection each.
fn get_some(address: SocketAddr) {
    for _ in 0..5 {
        assert_eq!(crate::client::get(address, "/").status(), 200);
    }
}
