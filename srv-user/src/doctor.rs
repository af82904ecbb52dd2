//! `srv doctor`: what this machine lacks, what each lack costs, and the remedy. [`run`] gathers
//! [`Facts`] and judges them. Judging is pure, so that tests can describe any machine. Changes
//! nothing.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use srv_steer::program;

pub use facts::{Facts, ProgramState};

mod cgroup;
mod facts;
mod network;
mod privilege;
mod process;
mod steering;
#[cfg(test)]
mod test_machine;

/// Examines this machine.
///
/// `try_load` loads the BPF program and drops it again. Its result decides whether srv can steer;
/// the other lines explain it. It is called only if the binary carries a program.
pub fn run(carries_program: bool, try_load: impl FnOnce() -> Result<()>) -> Report {
    let program = match carries_program.then(try_load) {
        None => ProgramState::NotBuilt,
        Some(Ok(())) => ProgramState::Loads,
        Some(Err(error)) => {
            ProgramState::Refused(program::on_one_line(error.chain().map(ToString::to_string)))
        }
    };
    Report::of(&Facts::gather(program))
}

/// The report: text for people, JSON for programs.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether `srv serve` can run on this machine, with steering or without.
    pub serves: bool,
    /// Whether `srv serve` can steer.
    pub steers: bool,
    /// The lines.
    pub checks: Vec<Check>,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was examined.
    pub name: String,
    /// Its condition.
    pub verdict: Condition,
    /// What was found.
    pub found: String,
    /// What does not work, or works less well; `None` if nothing is lost.
    pub costs: Option<String>,
    /// The remedy; `None` if nothing is lost.
    pub mend: Option<String>,
}

/// The condition of something that was examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Nothing is lost.
    Ok,
    /// It works, but less well than it could.
    Degraded,
    /// A part of srv does not work at all.
    Missing,
    /// `srv serve` does not work at all.
    #[serde(rename = "missing")]
    Prevents,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Check {
        Check {
            name: name.into(),
            verdict: Condition::Ok,
            found: found.into(),
            costs: None,
            mend: None,
        }
    }

    fn lacks(
        verdict: Condition,
        name: &str,
        found: impl Into<String>,
        costs: impl Into<String>,
        mend: impl Into<String>,
    ) -> Check {
        let (costs, mend) = (Some(costs.into()), Some(mend.into()));
        Check {
            name: name.into(),
            verdict,
            found: found.into(),
            costs,
            mend,
        }
    }
}

impl Report {
    /// The report on these facts.
    pub fn of(facts: &Facts) -> Self {
        let mut checks = steering::checks(facts);
        checks.extend(process::checks(facts));
        checks.extend(privilege::checks(facts));
        checks.extend(network::checks(facts));
        Self {
            serves: checks
                .iter()
                .all(|check| check.verdict != Condition::Prevents),
            steers: facts.program == ProgramState::Loads,
            checks,
        }
    }

    /// The exit code: 1 if `srv serve` cannot run on this machine, otherwise 0. With `is_strict` it
    /// is 2 if `srv serve` can run and a line is not ok.
    pub fn exit_code(&self, is_strict: bool) -> u8 {
        let is_well = || {
            self.checks
                .iter()
                .all(|check| check.verdict == Condition::Ok)
        };
        match self.serves {
            false => 1,
            true if is_strict && !is_well() => 2,
            true => 0,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .checks
            .iter()
            .map(|check| check.name.len())
            .max()
            .unwrap_or(0);
        for check in &self.checks {
            let verdict = match check.verdict {
                Condition::Ok => "ok",
                Condition::Degraded => "degraded",
                Condition::Missing | Condition::Prevents => "missing",
            };
            writeln!(f, "{verdict:8}  {:width$}  {}", check.name, check.found)?;
            for (label, text) in [("costs", &check.costs), ("remedy", &check.mend)] {
                if let Some(text) = text {
                    writeln!(f, "{:8}  {label:>width$}: {text}", "")?;
                }
            }
        }
        f.write_str(match (self.serves, self.steers) {
            (false, _) => "srv serve cannot run on this machine.\n",
            (true, false) => {
                "srv serve can run on this machine, but without steering: the kernel's hash chooses.\n"
            }
            (true, true) => "srv serve can run and steer on this machine.\n",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::test_machine::{healthy, lacks};
    use super::*;
    use anyhow::anyhow;
    use rustix::thread::CapabilitySet;

    #[test]
    fn this_machine_can_be_examined() {
        let report = run(false, || panic!("there is nothing to load"));
        assert!(!report.steers);
        assert!(
            report.to_string().contains("carries no BPF program"),
            "{report}"
        );
    }

    #[test]
    fn the_error_of_the_loader_is_reported() {
        let report = run(true, || Err(anyhow!("EPERM").context("load the program")));
        assert!(!report.steers);
        assert!(
            report.to_string().contains("load the program: EPERM"),
            "{report}"
        );
        assert!(run(true, || Ok(())).steers);
    }

    #[test]
    fn the_text_of_a_report() {
        let check = |verdict, name: &str, lack: Option<&str>| Check {
            name: name.into(),
            verdict,
            found: "found".into(),
            costs: lack.map(Into::into),
            mend: lack.map(|_| "do this".into()),
        };
        let report = Report {
            serves: false,
            steers: false,
            checks: vec![
                check(Condition::Ok, "kernel", None),
                check(
                    Condition::Degraded,
                    "net.core.somaxconn",
                    Some("shorter queues"),
                ),
                check(Condition::Prevents, "files", Some("everything")),
            ],
        };
        assert_eq!(
            report.to_string(),
            "\
ok        kernel              found
degraded  net.core.somaxconn  found
                       costs: shorter queues
                      remedy: do this
missing   files               found
                       costs: everything
                      remedy: do this
srv serve cannot run on this machine.
"
        );
        assert_eq!((report.exit_code(false), report.exit_code(true)), (1, 1));
    }

    #[test]
    fn a_healthy_machine_lacks_nothing() {
        let report = Report::of(&healthy());
        assert_eq!(lacks(&healthy()), []);
        assert!(report.serves && report.steers);
        assert_eq!((report.exit_code(false), report.exit_code(true)), (0, 0));
        assert!(
            report
                .checks
                .iter()
                .all(|check| check.costs.is_none() && check.mend.is_none())
        );
    }

    #[test]
    fn a_strict_examination_fails_if_any_line_is_not_ok() {
        let degraded = Facts {
            somaxconn: Some(128),
            ..healthy()
        };
        let unsteered = Facts {
            program: ProgramState::NotBuilt,
            ..healthy()
        };
        for facts in [degraded, unsteered] {
            let report = Report::of(&facts);
            assert_eq!((report.exit_code(false), report.exit_code(true)), (0, 2));
        }
    }

    #[test]
    fn every_lack_says_what_it_costs_and_has_a_remedy() {
        let facts = Facts {
            program: ProgramState::Refused("EPERM".into()),
            version: (4, 4),
            has_btf: false,
            has_pidfd_getfd: false,
            ptrace_scope: Some(3),
            capabilities: CapabilitySet::empty(),
            memlock_bytes: Some(64 << 10),
            open_files: Some(20),
            openat2_refusal: Some("EPERM".into()),
            tcp_abort_on_overflow: Some(1),
            somaxconn: Some(128),
            tcp_syncookies: Some(0),
            ip_local_port_range: Some((1024, 65535)),
            cpu_quota: Some(0.5),
            has_seccomp_filter: true,
            worker_user: Err("EPERM".into()),
            filters_system_calls: false,
            landlock_abi: 0,
            ..healthy()
        };
        for check in Report::of(&facts).checks {
            let is_ok = check.verdict == Condition::Ok;
            assert_eq!(
                (check.costs.is_none(), check.mend.is_none()),
                (is_ok, is_ok),
                "{check:?}"
            );
        }
    }

    #[test]
    fn json_names_the_verdicts_as_the_text_does() {
        let report = run(false, || Ok(()));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["steers"], false);
        assert_eq!(json["checks"][0]["verdict"], "missing");
        assert_eq!(
            serde_json::to_value(Condition::Prevents).unwrap(),
            "missing"
        );
    }
}
