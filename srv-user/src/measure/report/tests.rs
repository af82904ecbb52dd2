//! The page against the comparison that it is made of.

use std::fs;
use std::sync::LazyLock;

use serde_json::Value;

use super::*;
use crate::measure::result::{Doubt, Pair, Served};

/// Made once: it is a small simulation.
fn made() -> Comparison {
    static MADE: LazyLock<Comparison> = LazyLock::new(sample::comparison);
    MADE.clone()
}

/// A figure on the page: its attributes.
struct Shown {
    path: String,
    over: Option<String>,
    value: String,
}

fn shown(html: &str) -> Vec<Shown> {
    let tags = html.split('<').filter(|tag| tag.contains(" data-path="));
    tags.map(|tag| Shown {
        path: attribute(tag, "data-path").unwrap(),
        over: attribute(tag, "data-over"),
        value: attribute(tag, "data-value").unwrap(),
    })
    .collect()
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    let value = value.replace("&lt;", "<").replace("&gt;", ">");
    Some(value.replace("&quot;", "\"").replace("&amp;", "&"))
}

/// What a path leads to, each `*` standing for all, but for rounds that the hypervisor
/// disturbed, which only sums contain.
fn resolve<'a>(json: &'a Value, path: &str, over: Option<&str>) -> Vec<&'a Value> {
    let is_taken = |element: &&Value| {
        let share = element.get("hypervisor_share").and_then(Value::as_f64);
        over == Some("sum") || share.is_none_or(|share| share <= 0.02)
    };
    path.split('.').fold(vec![json], |places, step| {
        let next = |place: &'a Value| match (place, step) {
            (Value::Array(all), "*") => all.iter().filter(is_taken).collect(),
            (Value::Array(all), index) => vec![&all[index.parse::<usize>().unwrap()]],
            (place, field) => vec![place.get(field).unwrap_or_else(|| panic!("no {path}"))],
        };
        places.into_iter().flat_map(next).collect::<Vec<_>>()
    })
}

fn page(comparison: &Comparison) -> String {
    html(comparison).unwrap()
}

#[test]
fn every_figure_is_what_its_path_leads_to() {
    let comparison = made();
    let json = serde_json::to_value(&comparison).unwrap();
    let shown = shown(&page(&comparison));
    assert!(shown.len() > 300, "only {} figures", shown.len());
    for Shown { path, over, value } in shown {
        let values = resolve(&json, &path, over.as_deref());
        let numbers = || values.iter().filter_map(|value| value.as_f64());
        let mut sorted: Vec<f64> = numbers().collect::<Vec<_>>();
        sorted.sort_by(f64::total_cmp);
        let expected = match over.as_deref() {
            None if values[0].is_string() => values[0].as_str().unwrap().to_owned(),
            None => values[0].to_string(),
            Some("median") => {
                let (lower, upper) = ((sorted.len() - 1) / 2, sorted.len() / 2);
                f64::midpoint(sorted[lower], sorted[upper]).to_string()
            }
            Some("min") => sorted[0].to_string(),
            Some("max") => sorted[sorted.len() - 1].to_string(),
            Some("sum") => numbers().sum::<f64>().to_string(),
            Some(other) => panic!("{other} of {path}"),
        };
        assert_eq!(value, expected, "{path}");
    }
}

#[test]
fn every_number_in_a_table_names_its_place() {
    let html = page(&made());
    let cells = html
        .split("<td")
        .skip(1)
        .map(|cell| cell.split("</td>").next().unwrap());
    let mut bare = Vec::new();
    for cell in cells {
        let text: String = cell
            .split('<')
            .map(|part| part.split_once('>').map_or("", |part| part.1))
            .collect();
        let has_number = text.chars().any(|letter| letter.is_ascii_digit());
        if has_number && !cell.contains("data-path") {
            bare.push(text);
        }
    }
    // The round's place in the list, and names of figures, are no measurements.
    bare.retain(|text| !["1", "2", "3", "4", "short p99"].contains(&text.as_str()));
    assert_eq!(bare, Vec::<String>::new());
}

#[test]
fn nothing_is_fetched_and_nothing_runs() {
    let html = page(&made());
    for banned in ["http://", "https://", "<script", "@import", "url(", " src="] {
        assert!(!html.contains(banned), "{banned} in the page");
    }
    assert!(html.contains("default-src 'none'"));
    let references: Vec<_> = html.split(" href=\"").skip(1).collect();
    assert!(
        references
            .iter()
            .all(|reference| reference.starts_with("data:"))
    );
}

#[test]
fn hostile_names_stay_text() {
    const HOSTILE: &str = "<script>alert(\"&'\")</script>";
    let mut comparison = made();
    comparison.arms[0].name = HOSTILE.into();
    comparison.arms[4].left_out = Some(HOSTILE.into());
    comparison.ratios[0].pair = Pair::Bound(HOSTILE.into());
    comparison.verdict[0] = HOSTILE.into();
    comparison.command = HOSTILE.into();
    comparison.environment[0].1 = HOSTILE.into();
    let html = page(&comparison);
    assert!(!html.contains("<script"));
    assert!(html.contains("&lt;script&gt;"));
}

#[test]
fn doubts_and_an_early_end_come_before_the_verdict() {
    let mut comparison = made();
    comparison.incomplete = Some("stopped by Ctrl-C in round 2".into());
    comparison.doubts = vec![Doubt::unusable("the control differs")];
    let html = page(&comparison);
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("no {text}"));
    assert!(place("stopped by Ctrl-C in round 2") < place("<h1>"));
    assert!(place("the control differs") < place("<h1>"));
    let sound = page(&made());
    assert!(!sound.contains("role=\"alert\""));
}

#[test]
fn what_was_never_measured_leaves_no_hole() {
    let mut comparison = made();
    for arm in &mut comparison.arms {
        arm.rounds.clear();
        arm.cdf.clear();
        arm.accepts.clear();
        arm.live = None;
    }
    comparison.bound = None;
    comparison.ratios.clear();
    comparison.verdict.clear();
    let html = page(&comparison);
    assert!(html.contains("nothing was compared"));
    assert!(!html.contains("NaN") && !html.contains("<figure>"));
}

#[test]
fn the_later_load_of_keep_alive_connections_has_a_table() {
    let mut comparison = made();
    assert!(!page(&comparison).contains("Later load"));
    for round in comparison.arms.iter_mut().flat_map(|arm| &mut arm.rounds) {
        round.served = Some(Served {
            per_worker: vec![1, 3],
            cv: 0.5,
            max_over_mean: 1.5,
        });
    }
    let shown = shown(&page(&comparison));
    let cv = shown
        .iter()
        .find(|shown| shown.path == "arms.0.rounds.*.served.cv");
    assert!(cv.is_some_and(|cv| cv.value == "0.5"));
}

#[test]
fn thousands_of_workers_are_sampled() {
    let mut comparison = made();
    for arm in &mut comparison.arms {
        arm.accepts = (0..4096).collect();
        for round in &mut arm.rounds {
            round.accepts = (0..4096).collect();
        }
    }
    assert!(page(&comparison).len() < 400_000);
}

#[test]
fn a_page_is_made_anew_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let missing = regenerate(folder.path()).unwrap_err();
    assert!(
        format!("{missing:#}").contains("result.json"),
        "{missing:#}"
    );

    let comparison = made();
    let file = folder.path().join("result.json");
    fs::write(&file, serde_json::to_vec(&comparison).unwrap()).unwrap();
    write(folder.path(), &Comparison::read(&file).unwrap()).unwrap();
    let written = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(written == page(&comparison), "the file's page is another");

    fs::write(&file, r#"{"schema": 99}"#).unwrap();
    let other = regenerate(folder.path()).unwrap_err();
    assert!(format!("{other:#}").contains("schema 99"), "{other:#}");
}
