//! What failed tests said. libtest prints it once, between thousands of lines of other tests, and
//! in a log that is cut in the middle it would be lost. So it is kept, and is part of the error.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write, stdout},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// How many lines of each failed test are kept: its first ones, which have the panic in most
/// cases, and its last ones.
const FIRST_LINES: usize = 12;
const LAST_LINES: usize = 12;

/// If more tests than this fail, the machine is not the reason.
const UNSTEADY_MAX: usize = 6;

/// Runs `command`, which is `cargo test`, and shows its output. If few tests fail, `alone` makes the
/// command that runs these alone: what a busy machine did to them is told, and is no error.
///
/// # Errors
/// If the command cannot be started, or tests fail, also alone, with what they said.
pub(crate) fn show_and_repeat(
    what: &str,
    command: &mut Command,
    alone: impl FnOnce(&[&str]) -> Result<Command>,
) -> Result<()> {
    repeat(what, command, alone, &mut stdout())
}

fn repeat(
    what: &str,
    command: &mut Command,
    alone: impl FnOnce(&[&str]) -> Result<Command>,
    shown: &mut impl Write,
) -> Result<()> {
    let failures = run(what, command, shown)?;
    let names: Vec<_> = failures.of_tests.iter().map(|test| &*test.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let said = failures.text();
    if names.len() > UNSTEADY_MAX {
        bail!("{what}: {} tests failed{said}", names.len());
    }
    eprintln!("{what}: failed, and run again alone: {}", names.join(", "));
    let again = run(what, &mut alone(&names)?, shown)?;
    if !again.of_tests.is_empty() {
        bail!("{what}: tests failed twice{}", again.text());
    }
    eprintln!(
        "{} UNSTEADY: they failed beside other tests and passed alone{said}",
        names.len()
    );
    Ok(())
}

/// Runs `command`, which is `cargo test`, and shows its output.
///
/// # Errors
/// If the command cannot be started or fails, with what the failed tests said.
pub(crate) fn show(what: &str, command: &mut Command) -> Result<()> {
    once(what, command, &mut stdout())
}

fn once(what: &str, command: &mut Command, shown: &mut impl Write) -> Result<()> {
    let failures = run(what, command, shown)?;
    if !failures.of_tests.is_empty() {
        bail!("{what}: tests failed{}", failures.text());
    }
    Ok(())
}

/// Runs `command`, copies its output to `shown`, and returns which tests failed.
fn run(what: &str, command: &mut Command, shown: &mut impl Write) -> Result<Failures> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: run {:?}", command.get_program()))?;
    let mut failures = Failures::default();
    if let Some(output) = child.stdout.take() {
        failures.read(output, shown);
    }
    let status = child.wait().with_context(|| format!("{what}: wait"))?;
    if status.success() {
        // What looks like a failure is what a test printed that passed.
        return Ok(Failures::default());
    }
    if failures.of_tests.is_empty() {
        bail!("{what}: {status}");
    }
    Ok(failures)
}

/// What was kept of each failed test.
#[derive(Default)]
struct Failures {
    of_tests: Vec<Failure>,
    place: Place,
}

/// What the next line belongs to.
#[derive(Default, PartialEq)]
enum Place {
    /// Tests run. What they print says nothing about failures, whatever it looks like.
    #[default]
    Running,
    /// Between the two lines `failures:`, where libtest repeats what failed tests said.
    Failures,
    /// In the names of the tests that failed.
    Names,
}

#[derive(Default)]
struct Failure {
    name: String,
    first: Vec<String>,
    last: VecDeque<String>,
    left_out: usize,
}

impl Failures {
    /// Takes what failed tests said out of the output of all, which it copies to `shown`.
    fn read(&mut self, output: impl Read, shown: &mut impl Write) {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            // A closed standard output must not end the tests.
            let _ = writeln!(shown, "{line}");
            self.take(&line);
        }
    }

    /// libtest writes `failures:` behind the last test that ran, and again in front of the names;
    /// between them, it writes `---- NAME stdout ----` above what each failed test said. Each
    /// program of tests ends by `test result: `.
    fn take(&mut self, line: &str) {
        let name = line
            .strip_prefix("---- ")
            .and_then(|line| line.strip_suffix(" stdout ----"));
        if line.starts_with("test result: ") {
            self.place = Place::Running;
        } else if line == "failures:" {
            self.place = match self.place {
                Place::Running => Place::Failures,
                Place::Failures | Place::Names => Place::Names,
            };
        } else if self.place != Place::Failures {
        } else if let Some(name) = name {
            self.of_tests.push(Failure {
                name: name.to_owned(),
                ..Failure::default()
            });
        } else if let Some(failure) = self.of_tests.last_mut() {
            failure.take(line);
        }
    }

    fn text(&self) -> String {
        self.of_tests.iter().map(Failure::text).collect()
    }
}

impl Failure {
    fn take(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if self.first.len() < FIRST_LINES {
            self.first.push(line.to_owned());
            return;
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
            self.left_out += 1;
        }
        self.last.push_back(line.to_owned());
    }

    fn text(&self) -> String {
        let mut text = format!("\n  {} said:", self.name);
        let gap = (self.left_out > 0).then(|| format!("({} lines are left out)", self.left_out));
        for line in self.first.iter().chain(&gap).chain(&self.last) {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::io::sink;

    use super::*;

    #[test]
    fn what_failed_tests_said_is_kept() {
        let numbers: String = (1..=30).map(|number| format!("{number}\n")).collect();
        let output = format!(
            "---- none stdout ----\nonly printed\ntest one ... FAILED\n\nfailures:\n\n\
             ---- one stdout ----\none panicked\n\n---- two::three stdout ----\n{numbers}\n\
             failures:\n    one\n    two::three\n\ntest result: FAILED. 2 failed\n\
             ---- none stdout ----\nonly printed\n"
        );
        let (mut failures, mut shown) = (Failures::default(), Vec::new());
        failures.read(output.as_bytes(), &mut shown);
        assert_eq!(String::from_utf8_lossy(&shown), output);
        let kept = failures.text();
        for part in [
            "one said:\n  | one panicked\n",
            "two::three said:\n  | 1\n",
            "| 12\n  | (6 lines are left out)\n  | 19\n",
            "| 30",
        ] {
            assert!(kept.contains(part), "{part:?} is missing in {kept}");
        }
        for absent in ["    one", "none", "only printed", "test result"] {
            assert!(!kept.contains(absent), "{kept}");
        }
    }

    #[test]
    fn a_failure_is_an_error_with_its_status() {
        let error = once(
            "run the tests",
            Command::new("sh").args(["-c", "exit 101"]),
            &mut sink(),
        );
        let error = error.expect_err("the command fails").to_string();
        assert_eq!(error, "run the tests: exit status: 101");
    }

    /// A run in which these tests fail.
    fn failing(names: &[&str]) -> Command {
        let told: String = names
            .iter()
            .map(|name| format!("---- {name} stdout ----\nwhy {name}\n"))
            .collect();
        let mut shell = Command::new("sh");
        let output = format!("failures:\n{told}failures:\n");
        shell.args(["-c", "printf %s \"$1\"; exit 101", "sh", &output]);
        shell
    }

    #[test]
    fn few_tests_that_fail_are_run_again_alone() {
        let passes = || Command::new("true");
        let mut asked = Vec::new();
        let alone = |names: &[&str]| {
            asked.extend(names.iter().map(|name| (*name).to_owned()));
            Ok(passes())
        };
        repeat("run", &mut failing(&["one", "two"]), alone, &mut sink()).expect("it passes alone");
        assert_eq!(asked, ["one", "two"]);
        let twice = repeat(
            "run",
            &mut failing(&["one"]),
            |_| Ok(failing(&["one"])),
            &mut sink(),
        );
        let twice = twice.expect_err("it fails twice").to_string();
        assert_eq!(twice, "run: tests failed twice\n  one said:\n  | why one");
        let many = ["1", "2", "3", "4", "5", "6", "7"];
        let many = repeat("run", &mut failing(&many), |_| Ok(passes()), &mut sink());
        assert!(
            many.expect_err("too many")
                .to_string()
                .contains("7 tests failed")
        );
        let broken = repeat(
            "run",
            &mut Command::new("false"),
            |_| Ok(passes()),
            &mut sink(),
        );
        broken.expect_err("no test failed, the command did");
    }

    #[test]
    fn tests_that_pass_are_no_error() {
        once(
            "run the tests",
            Command::new("sh").args(["-c", "exit 0"]),
            &mut sink(),
        )
        .expect("all passed");
        let printed = "failures:\n---- one stdout ----\nonly printed\n";
        let mut prints = Command::new("sh");
        prints.args(["-c", "printf %s \"$1\"", "sh", printed]);
        once("run the tests", &mut prints, &mut sink()).expect("its status says that all passed");
    }
}
