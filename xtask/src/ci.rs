//! `cargo xtask ci`: everything that a change has to pass. Owns which checks there are,
//! their order and the summary. It does not know how a check works: [`lint`], [`tidy`],
//! [`tasks`] and [`release`] do.
//!
//! A check that fails does not end the run, so that one run names everything that has to
//! be mended.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{apt, lint, object, release, setup, tasks, tidy, workspace};

type Check = fn() -> Result<()>;

/// The checks by name, in the order in which they run: quick ones first.
///
/// Each uses what those before it have built. The BPF objects come before everything that
/// compiles srv, since srv is compiled anew when they change; `docs` and `features` read
/// what `clippy` has made of the dependencies.
const CHECKS: [(&str, Check); 11] = [
    ("format", lint::format),
    ("tidy", || tidy::run(workspace::root(), false)),
    ("bpf", || {
        let toolchain = setup::toolchain()?;
        object::build(&toolchain)?;
        lint::bpf(&toolchain)
    }),
    ("clippy", lint::host),
    ("features", lint::features),
    ("msrv", lint::oldest_rust),
    ("docs", lint::documentation),
    ("arm64", || {
        apt::ensure(
            &lint::ARM64_TOOLS,
            "a dependency has parts in C and assembly",
        )?;
        lint::arm64(&setup::toolchain()?)
    }),
    ("deny", lint::dependencies),
    ("test", || tasks::test(&[])),
    // With the static srv that the tests have used.
    ("release", || release::run(true)),
];

/// What [`run`] can be asked for.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(name, _)| *name)
}

/// Runs the named checks, or all, and prints how long each took.
///
/// # Errors
/// If a check fails: which ones did. Each has printed why.
pub(crate) fn run(asked: &[String]) -> Result<()> {
    let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|other| other == name);
    let chosen = CHECKS.iter().filter(|(name, _)| is_asked(name));
    let outcomes: Vec<_> = chosen.map(|(name, check)| timed(name, *check)).collect();
    eprint!("{}", summary(&outcomes));
    let failed: Vec<_> = outcomes.iter().filter(|one| !one.has_passed()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    // A log of so many lines is often read from its end.
    for (name, why) in failed
        .iter()
        .filter_map(|one| Some((one.name, one.failure.as_ref()?)))
    {
        eprintln!("{name}: {why}");
    }
    let names: Vec<_> = failed.iter().map(|one| one.name).collect();
    bail!(
        "check this change: {} failed, for the reasons above; after a change, repeat by `cargo \
         xtask ci {}`",
        names.join(", "),
        names.join(" ")
    )
}

/// How a check ended.
struct Outcome {
    name: &'static str,
    /// Why it failed, if it did.
    failure: Option<String>,
    took: Duration,
}

impl Outcome {
    fn has_passed(&self) -> bool {
        self.failure.is_none()
    }
}

fn timed(name: &'static str, check: Check) -> Outcome {
    eprintln!("==> check {name}");
    let began = Instant::now();
    let failure = check().err().map(|error| format!("{error:#}"));
    if let Some(why) = &failure {
        eprintln!("error: {why}");
    }
    Outcome {
        name,
        failure,
        took: began.elapsed(),
    }
}

/// A line for each check, and one for all.
fn summary(outcomes: &[Outcome]) -> String {
    let line = |name: &str, took: Duration, end: &str| {
        format!("{name:<9} {:>6.1} s  {end}\n", took.as_secs_f64())
    };
    let word = |passed: bool| if passed { "passed" } else { "FAILED" };
    let each = outcomes
        .iter()
        .map(|one| line(one.name, one.took, word(one.has_passed())));
    let took = outcomes.iter().map(|one| one.took).sum();
    let passed = outcomes.iter().all(Outcome::has_passed);
    each.chain([line("all", took, word(passed))]).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_failure_does_not_hide_what_comes_after_it() {
        let mut outcomes = vec![
            timed("one", || Err(anyhow!("a reason"))),
            timed("other", || Ok(())),
        ];
        outcomes[0].took = Duration::from_millis(1_300);
        outcomes[1].took = Duration::from_secs(100);
        assert_eq!(
            summary(&outcomes),
            "one          1.3 s  FAILED\n\
             other      100.0 s  passed\n\
             all        101.3 s  FAILED\n"
        );
    }

    #[test]
    fn a_check_has_one_name() {
        let mut all: Vec<_> = names().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), CHECKS.len());
    }
}
