//! report.html in a real browser: it shows what result.json says, fetches
//! nothing, complains about nothing, and fits a phone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use srv::measure::report::regenerate;

use crate::gate::can;

/// Pages of which Chromium makes nothing in this time, s, it never will.
const PATIENCE_S: &str = "60";

/// What this Chromium must not do by itself, and can do without.
const FLAGS: [&str; 11] = [
    "--headless",
    // Root, as which these tests run, cannot have the sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
];

/// A result in the form that srv 0.1.0 writes: it stays readable.
const RESULT: &[u8] = include_bytes!("../../data/result.json");

/// What Chromium made of a page.
struct Rendered {
    dom: String,
    /// Its log, the page's console included.
    log: String,
    /// What the page asked the network for.
    requests: Vec<String>,
}

/// A folder with a comparison, and its page in it; `None`: the test is to skip.
fn reported() -> Option<tempfile::TempDir> {
    let there = Command::new("chromium").arg("--version").output();
    if !can(
        "show a page in Chromium",
        there.map(drop).map_err(|error| error.to_string()),
    ) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("result.json"), RESULT).unwrap();
    let done = regenerate(folder.path()).map_err(|error| format!("{error:#}"));
    match done {
        Err(why) if why.contains("no font is installed") => {
            can("draw text in a PNG", Err(why)).then_some(folder)
        }
        done => {
            done.unwrap();
            Some(folder)
        }
    }
}

fn chromium(page: &Path, flags: &[&str]) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args([PATIENCE_S, "chromium"])
        .args(FLAGS)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(flags)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "chromium: {}:\n{log}",
        output.status
    );
    (String::from_utf8(output.stdout).unwrap(), log)
}

fn render(page: &Path) -> Rendered {
    let net = page.with_extension("net.json");
    let net_flag = format!("--log-net-log={}", net.display());
    let (dom, log) = chromium(page, &["--dump-dom", &net_flag]);
    let net: Value = serde_json::from_slice(&fs::read(net).unwrap()).unwrap();
    // Chromium asks for things of its own; only what a page asks for is of file://.
    let of_page = |event: &&Value| {
        let key = event["params"]["network_isolation_key"].as_str();
        key.is_some_and(|key| key.contains("file://"))
    };
    let events = net["events"].as_array().unwrap().iter().filter(of_page);
    let urls = events.filter_map(|event| event["params"]["url"].as_str());
    let requests = urls.filter(|url| !url.starts_with("file:") && !url.starts_with("data:"));
    Rendered {
        requests: requests.map(str::to_owned).collect(),
        dom,
        log,
    }
}

#[test]
fn a_browser_shows_what_result_json_says() {
    let Some(folder) = reported() else { return };
    let page = render(&folder.path().join("report.html"));
    assert_eq!(page.requests, Vec::<String>::new());
    assert!(!page.log.contains("CONSOLE"), "{}", page.log);

    let json = fs::read(folder.path().join("result.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let mut compared = 0;
    for element in page.dom.split("<data ").skip(1) {
        let (tag, rest) = element.split_once('>').unwrap();
        let text = rest.split_once('<').unwrap().0;
        let path = attribute(tag, "data-path").unwrap();
        let expected = figure(&json, path, attribute(tag, "data-over"));
        let exact: f64 = attribute(tag, "data-value").unwrap().parse().unwrap();
        assert_eq!(exact, expected, "{path}");
        let (written, precision) = number(text);
        assert!(
            (written - expected).abs() <= precision / 2.0 * 1.000_001,
            "{path} is {expected}, the page says {text}"
        );
        compared += 1;
    }
    assert!(compared > 300, "only {compared} figures");
    let sentence = json["verdict"][0]
        .as_str()
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    assert!(page.dom.contains(sentence));
    assert!(page.dom.matches("<polyline").count() > 50, "no plots");
}

#[test]
fn the_check_would_see_a_request_and_an_error() {
    let Some(folder) = reported() else { return };
    let path = folder.path().join("bad.html");
    let bad = "<img src='http://probe.test/x.png'><script>console.error('boom')</script>";
    fs::write(&path, bad).unwrap();
    let page = render(&path);
    let is_seen = page.requests.iter().any(|url| url.contains("probe.test"));
    assert!(is_seen, "{:?}", page.requests);
    assert!(page.log.contains("CONSOLE"), "{}", page.log);
}

#[test]
fn light_and_dark_and_the_plots_are_pictures() {
    let Some(folder) = reported() else { return };
    let shoot = |scheme: &str| {
        let file = folder.path().join(format!("{scheme}.png"));
        let screenshot = format!("--screenshot={}", file.display());
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        let page = folder.path().join("report.html");
        chromium(&page, &[&screenshot, &scheme, "--window-size=1100,900"]);
        picture(file)
    };
    let (dark, light) = (shoot("0"), shoot("1"));
    assert_eq!((dark.0, light.0), (1100, 1100));
    assert!(dark.1 != light.1, "dark looks like light");
    for plot in ["cdf.png", "shares.png"] {
        assert_eq!(picture(folder.path().join(plot)).0, 1760, "{plot}");
    }
}

#[test]
fn nothing_sticks_out_of_a_phone() {
    let Some(folder) = reported() else { return };
    // The page allows no script, so a copy tells its width to a frame's owner.
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    let tell = "<script>parent.postMessage(document.documentElement.scrollWidth,'*')</script>";
    let copy = page.replace("default-src 'none'", "script-src 'unsafe-inline'") + tell;
    fs::write(folder.path().join("copy.html"), copy).unwrap();
    let frame = folder.path().join("phone.html");
    let owner = "<script>onmessage=e=>document.title='width '+e.data</script>\
                 <iframe src=copy.html style='border:0;width:375px;height:800px'></iframe>";
    fs::write(&frame, owner).unwrap();
    let (dom, _) = chromium(&frame, &["--dump-dom", "--virtual-time-budget=3000"]);
    assert!(dom.contains("<title>width 375</title>"), "{dom}");
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0)
}

/// What the file says: the value at a path, or what is made of those at `*`.
fn figure(json: &Value, path: &str, over: Option<&str>) -> f64 {
    let at = |path: &str| json.pointer(&format!("/{}", path.replace('.', "/")));
    let Some(over) = over else {
        return at(path).unwrap().as_f64().unwrap();
    };
    let (list, _) = path.split_once(".*").unwrap();
    // One round of the sample was disturbed by the hypervisor: only sums contain it.
    let is_taken = |index: &usize| {
        let share = at(&format!("{list}.{index}.hypervisor_share"));
        over == "sum" || share.is_none_or(|share| share.as_f64().unwrap() <= 0.02)
    };
    let rounds = (0..at(list).unwrap().as_array().unwrap().len()).filter(is_taken);
    let values = rounds.map(|index| at(&path.replace('*', &index.to_string())));
    let mut values: Vec<f64> = values.flatten().filter_map(Value::as_f64).collect();
    values.sort_by(f64::total_cmp);
    let (lower, upper) = ((values.len() - 1) / 2, values.len() / 2);
    match over {
        "median" => f64::midpoint(values[lower], values[upper]),
        "min" => values[0],
        "max" => values[values.len() - 1],
        "sum" => values.iter().sum(),
        other => panic!("{other} of {path}"),
    }
}

/// A number as it is written, in ns if it has a unit, and its last digit's weight.
fn number(text: &str) -> (f64, f64) {
    let text = text.replace("&nbsp;", "\u{a0}").replace('\u{202f}', "");
    let (digits, unit) = text.split_once('\u{a0}').unwrap_or((&text, ""));
    let scale = match unit {
        "s" => 1e9,
        "ms" => 1e6,
        "µs" => 1e3,
        _ => 1.0,
    };
    let decimals = digits.split_once('.').map_or(0, |(_, behind)| behind.len());
    let written: f64 = digits
        .parse()
        .unwrap_or_else(|_| panic!("a number: {text}"));
    (written * scale, scale / 10_f64.powi(decimals as i32))
}

/// Width in pixels, and content.
fn picture(path: PathBuf) -> (u32, Vec<u8>) {
    let content = fs::read(path).unwrap();
    assert!(content.starts_with(b"\x89PNG"));
    let width = content[16..20].try_into().unwrap();
    (u32::from_be_bytes(width), content)
}
