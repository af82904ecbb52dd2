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

/// Runs `command`, which is `cargo test`, and shows its output.
///
/// # Errors
/// If the command cannot be started or fails, with what the failed tests said.
pub(crate) fn show(what: &str, command: &mut Command) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: run {:?}", command.get_program()))?;
    let mut failures = Failures::default();
    if let Some(output) = child.stdout.take() {
        failures.read(output);
    }
    let status = child.wait().with_context(|| format!("{what}: wait"))?;
    if !status.success() {
        bail!("{what}: {status}{}", failures.text());
    }
    Ok(())
}

/// What was kept of each failed test.
#[derive(Default)]
struct Failures {
    of_tests: Vec<Failure>,
    is_within: bool,
}

#[derive(Default)]
struct Failure {
    name: String,
    first: Vec<String>,
    last: VecDeque<String>,
    left_out: usize,
}

impl Failures {
    fn read(&mut self, output: impl Read) {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            // A closed standard output must not end the tests.
            let _ = writeln!(stdout(), "{line}");
            self.take(&line);
        }
    }

    /// libtest writes `---- NAME stdout ----` above what a failed test said, and `failures:` before
    /// the first and behind the last of them.
    fn take(&mut self, line: &str) {
        let name = line.strip_prefix("---- ");
        if let Some(name) = name.and_then(|line| line.strip_suffix(" stdout ----")) {
            self.is_within = true;
            self.of_tests.push(Failure {
                name: name.to_owned(),
                ..Failure::default()
            });
        } else if line == "failures:" {
            self.is_within = false;
        } else if let (true, Some(failure)) = (self.is_within, self.of_tests.last_mut()) {
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
    use super::*;

    #[test]
    fn what_failed_tests_said_is_in_the_error() {
        let script = "echo test one ... FAILED; echo failures:; echo; \
             echo ---- one stdout ----; echo one panicked; \
             echo ---- two::three stdout ----; seq 1 30; echo; echo failures:; echo '    one'; exit 101";
        let error = show("run the tests", Command::new("sh").args(["-c", script]))
            .expect_err("the command fails")
            .to_string();
        for part in [
            "run the tests: exit status: 101",
            "one said:\n  | one panicked\n",
            "two::three said:\n  | 1\n",
            "| 12\n  | (6 lines are left out)\n  | 19\n",
            "| 30",
        ] {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
        assert!(!error.contains("    one"), "{error}");
    }

    #[test]
    fn tests_that_pass_are_no_error() {
        show("run the tests", Command::new("sh").args(["-c", "exit 0"])).expect("all passed");
    }
}
