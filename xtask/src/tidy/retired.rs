//! Names that were given up are written nowhere, be it in code, comments or documentation,
//! except in the change log, which tells what was. Owns the tables of them.

use anyhow::Result;

use super::{Finding, tree::Tree};

/// Where names may stand that are not in use any more.
const MAY_NAME_THEM: [&str; 2] = ["CHANGELOG.md", "xtask/src/tidy/retired.rs"];

/// Names of any kind, and what is in their place. Add a line when you give one up.
const RETIRED: [(&str, &str); 12] = [
    ("SRV_BPF_FOREIGN_OBJECT", "SRV_BPF_ATTACHED_OBJECT"),
    ("attach/steering.rs", "attach/programs.rs"),
    ("attach::steering", "attach::programs"),
    ("baseline::server", "baseline::srv"),
    ("confine::", "sandbox::"),
    ("foreign::lock", "attach::lock"),
    ("log::stderr", "logging::stderr"),
    ("measure::hold", "measure::load::keep_alive"),
    ("srv-foreign", "srv-attached"),
    ("srv-user/src/cli/load", "srv-user/src/measure/load/args"),
    ("srv_common::foreign", "srv_common::attached"),
    ("steer_foreign", "steer_attached"),
];

/// How a module at the root of srv-user is written, and the files in which that means one
/// of srv-user.
const SPELLINGS: [(&str, &str); 3] = [
    ("srv-user/src/", ""),
    ("srv::", ""),
    ("crate::", "srv-user/"),
];

/// Modules that were at the root of srv-user, and where in srv-user/src each is now, or what of
/// another crate. Add a line when you move one.
const MOVED: [(&str, &str); 55] = [
    ("ab", "measure/ab"),
    ("arrivals", "measure/arrivals"),
    ("balance", "srv_steer::balance"),
    ("between_masters", "serve/master/between_masters"),
    ("binary", "serve/master/binary"),
    ("channel", "serve/channel"),
    ("closed", "measure/load/closed"),
    ("config", "serve/config"),
    ("confine", "serve/sandbox"),
    ("connection", "serve/worker/connection"),
    ("delay_line", "measure/delay_line"),
    ("dispatch", "serve/master/dispatch"),
    ("environment", "measure/environment"),
    ("exchange", "measure/load/exchange"),
    ("foreign", "attach"),
    ("generator", "measure/load/generator"),
    ("group", "srv_steer::Group"),
    ("hang", "srv_steer::Stall"),
    ("hear", "serve/master/receive"),
    ("hold", "measure/load/keep_alive"),
    ("http", "serve/worker/http"),
    ("join", "serve/master/join"),
    ("json", "output/json"),
    ("limit", "measure/bound"),
    ("listen", "srv_steer::ListenerGroup"),
    ("load", "measure/load"),
    ("log", "logging"),
    ("master", "serve/master"),
    ("open_files", "kernel/open_files"),
    ("orders", "serve/orders"),
    ("overflow", "kernel/overflow"),
    ("peer", "measure/baseline"),
    ("process", "kernel/process"),
    ("reactor", "kernel/reactor"),
    ("rehearsal", "serve/rehearsal"),
    ("report", "measure/report"),
    ("requests", "measure/load/requests"),
    ("response", "measure/load/response"),
    ("result", "measure/result"),
    ("ring", "srv_steer::Ring"),
    ("seldom", "serve/rate_limit"),
    ("simulate", "measure/simulate"),
    ("site", "serve/site"),
    ("slots", "srv_steer::SlotTable"),
    ("spawn", "serve/master/spawn"),
    ("stats", "measure/stats"),
    ("status", "control/status"),
    ("steer", "srv_steer::SelectProgram"),
    ("steering", "srv_steer"),
    ("stream", "serve/worker/stream"),
    ("systemd", "serve/systemd"),
    ("takeover", "serve/master/takeover"),
    ("turn", "serve/worker/turn"),
    ("view", "control/text"),
    ("worker", "serve/worker"),
];

/// How what is in another crate begins.
const ELSEWHERE: &str = "srv_steer";

/// The places where a name of the tables is written.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let names = RETIRED.map(|(name, _)| name);
    let begins = SPELLINGS.map(|(prefix, _)| prefix);
    for file in tree.files() {
        let text = tree.text(file)?.unwrap_or_default();
        // Few files have any, and looking at each line takes longer.
        let may_have = names.iter().chain(&begins).any(|it| text.contains(it));
        if !may_have || MAY_NAME_THEM.contains(&file.as_str()) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let names = retired(line).into_iter().chain(moved(file, line));
            findings.extend(names.map(|(name, now)| {
                let text = format!("{name} is retired: {now} is in its place");
                Finding::new(file, index + 1, text)
            }));
        }
    }
    Ok(findings)
}

/// The names of [`RETIRED`] in a line, and what is in their place.
fn retired(line: &str) -> Vec<(String, String)> {
    let is_in = |(name, _): &&(&str, &str)| {
        line.match_indices(name)
            .any(|(at, _)| begins(line, at) && ends(name, &line[at + name.len()..]))
    };
    RETIRED
        .iter()
        .filter(is_in)
        .map(|(name, now)| ((*name).to_owned(), (*now).to_owned()))
        .collect()
}

/// The modules of [`MOVED`] in a line, and what is in their place.
fn moved(file: &str, line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (prefix, _) in SPELLINGS
        .iter()
        .filter(|(_, files)| file.starts_with(files))
    {
        for (at, _) in line
            .match_indices(prefix)
            .filter(|(at, _)| begins(line, *at))
        {
            let behind = &line[at + prefix.len()..];
            let end = behind.find(|c| !is_of_name(c)).unwrap_or(behind.len());
            let name = &behind[..end];
            if let Some((_, now)) = MOVED.iter().find(|(old, _)| *old == name) {
                let now = if prefix.ends_with("::") {
                    now.replace('/', "::")
                } else {
                    (*now).to_owned()
                };
                let is_elsewhere = now.starts_with(ELSEWHERE);
                let now = match is_elsewhere {
                    true => now,
                    false => format!("{prefix}{now}"),
                };
                found.push((format!("{prefix}{name}"), now));
            }
        }
    }
    found
}

/// Whether what begins at `at` is not the rest of a longer name.
fn begins(line: &str, at: usize) -> bool {
    !line[..at].ends_with(is_of_name)
}

/// Whether `name` does not go on in what is behind it.
fn ends(name: &str, behind: &str) -> bool {
    !name.ends_with(is_of_name) || !behind.starts_with(is_of_name)
}

fn is_of_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    fn findings(file: &str, text: &str) -> Vec<String> {
        let small = tree::small(&[(file, text)]);
        let findings = check(&small.tree).expect("read the files");
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_retired_name_is_found_at_its_line() {
        for (file, name, now) in [
            ("docs/a.md", "srv-user/src/foreign", "srv-user/src/attach"),
            ("tests/a.rs", "srv::load", "srv::measure::load"),
            (
                "srv-user/src/a.rs",
                "crate::steer",
                "srv_steer::SelectProgram",
            ),
            ("dist/a", "confine::", "sandbox::"),
            ("a.toml", "log::stderr", "logging::stderr"),
        ] {
            assert_eq!(
                findings(file, &format!("\n`{name}`\n")),
                [format!(
                    "{file}:2: {name} is retired: {now} is in its place"
                )]
            );
            let more = format!("{name}::more({name}/more.rs)\n");
            assert!(!findings(file, &more).is_empty(), "{more}");
        }
    }

    #[test]
    fn other_names_and_other_places_are_not_found() {
        for (file, text) in [
            ("CHANGELOG.md", "srv-user/src/foreign and srv::load\n"),
            ("srv-common/src/a.rs", "use crate::foreign;\n"),
            ("srv-user/src/a.rs", "use crate::logging; crate::serve\n"),
            (
                "docs/a.md",
                "srv-user/src/load_test and mysrv::load, blog::stderr\n",
            ),
            ("docs/a.png", "\0 srv::load\n"),
        ] {
            assert_eq!(findings(file, text), [""; 0]);
        }
    }

    #[test]
    fn the_tables_are_sorted_and_name_nothing_twice() {
        assert!(MOVED.is_sorted_by(|a, b| a.0 < b.0));
        assert!(RETIRED.is_sorted_by(|a, b| a.0 < b.0));
    }
}
