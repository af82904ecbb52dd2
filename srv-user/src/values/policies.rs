//! The steering policies in help texts and messages: lists that are made of
//! [`Policy::TABLE`], so that a new policy is in all of them. Knows no flag and no command.

use std::fmt::Write as _;

use srv_common::{MAX_WORKERS, Policy};

/// Longest line of [`described`]: clap indents the help of a flag by 10 and breaks lines
/// that are longer than 100.
const LINE_MAX: usize = 90;
const INDENT: &str = "  ";

/// The names of all policies.
pub fn all() -> Vec<&'static str> {
    Policy::NAMED.map(|(name, _)| name).into()
}

/// The names of those that attached servers have.
pub fn of_attached() -> Vec<&'static str> {
    let attached = Policy::TABLE.iter().filter(|about| about.attached.is_ok());
    attached.map(|about| about.name).collect()
}

/// As in `a, b or c`.
pub fn alternatives(names: &[&str]) -> String {
    match names {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => names.concat(),
    }
}

/// For a help text: a line for each policy, which says what the policy chooses.
pub fn described() -> String {
    let names = Policy::TABLE.iter().map(|about| about.name.len());
    let width = names.max().unwrap_or(0);
    let mut text = String::new();
    for about in Policy::TABLE {
        let mut line = format!("{INDENT}{:width$} ", about.name);
        for word in sentence(about.policy).split(' ') {
            if line.len() + 1 + word.len() > LINE_MAX {
                let _ = writeln!(text, "{line}");
                line = format!("{INDENT}{:width$} ", "");
            }
            let _ = write!(line, " {word}");
        }
        let _ = writeln!(text, "{line}");
    }
    text
}

/// What the policy chooses, with its bound.
pub fn sentence(policy: Policy) -> String {
    let about = policy.about();
    if about.workers_max as usize == MAX_WORKERS {
        return about.chooses.to_owned();
    }
    format!("{}; {} workers at most", about.chooses, about.workers_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a reader sees it: without line breaks.
    fn flowing(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn alternatives_are_a_sentence_of_any_length() {
        let said = [&[][..], &["a"], &["a", "b"], &["a", "b", "c"]].map(alternatives);
        assert_eq!(said, ["", "a", "a or b", "a, b or c"]);
    }

    #[test]
    fn each_policy_is_described_on_lines_that_are_not_broken_again() {
        let described = described();
        for line in described.lines() {
            assert!(line.starts_with(INDENT) && line.len() <= LINE_MAX, "{line}");
        }
        let described = flowing(&described);
        for (name, policy) in Policy::NAMED {
            let line = format!("{name} {}", sentence(policy));
            assert!(described.contains(&line), "{line}");
        }
        let bounded = "hermes any that the workers' own filter lets pass (SIGCOMM 2025), \
                       for comparison; 64 workers at most";
        assert!(described.contains(bounded), "{described}");
    }

    #[test]
    fn the_page_of_srv_serve_describes_each_policy_as_the_help_does() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/serve.md");
        let page = std::fs::read_to_string(page).unwrap();
        for (name, policy) in Policy::NAMED {
            let row = format!("| `{name}` | {} |", sentence(policy));
            assert!(page.contains(&row), "docs/serve.md lacks the row {row}");
        }
    }
}
