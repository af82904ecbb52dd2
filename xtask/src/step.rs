//! Runs tools. What is done is said with its reason, the tool's output is
//! shown as it comes, and a failure is one error that names the step, what
//! the tool said and the command that would mend it.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Command, ExitStatus, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context, Error, Result, anyhow, bail};

/// How many of a tool's last lines an error repeats.
const LAST_LINES: usize = 8;

/// Something that set-up has a tool do.
pub(crate) struct Step {
    /// What is done, as `verb object`.
    pub what: String,
    /// Why it is needed.
    pub why: String,
    /// The command that a person would run if it fails.
    pub mend: String,
}

impl Step {
    /// Says the step, runs `command` without a standard input (nothing may
    /// ask) and shows its output.
    ///
    /// # Errors
    /// With the step, the tool's last lines and the mend, if the command
    /// cannot be started or fails.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        eprintln!("==> {}: {}", self.what, self.why);
        let (outcome, said) = match show_and_keep(command) {
            Ok((status, _)) if status.success() => return Ok(()),
            Ok((status, said)) => (status.to_string(), said),
            Err(error) => (format!("cannot be run: {error}"), Vec::new()),
        };
        Err(self.failure(&words(command), &outcome, &said))
    }

    fn failure(&self, command: &str, outcome: &str, said: &[String]) -> Error {
        let said: String = said.iter().map(|line| format!("\n  | {line}")).collect();
        anyhow!(
            "{}: `{command}`: {outcome}{said}\n  to mend it: {}",
            self.what,
            self.mend
        )
    }
}

/// Runs a tool whose own messages say all there is to say, cargo for one,
/// with its output (and its colours) left alone.
///
/// # Errors
/// If the command cannot be started or fails.
pub(crate) fn show(what: &str, command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{what}: run `{}`", words(command)))?;
    if !status.success() {
        bail!(
            "{what}: `{}`: {status}; what it said is above",
            words(command)
        );
    }
    Ok(())
}

/// A tool's standard output, silently.
///
/// # Errors
/// If the command cannot be started or fails, with what it said.
pub(crate) fn ask(command: &mut Command) -> Result<String> {
    let answer = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run `{}`", words(command)))?;
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr);
        bail!("`{}`: {}: {}", words(command), answer.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
}

/// `command` as one would type it, a script within it left out.
fn words(command: &Command) -> String {
    [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .map(|word| {
            if word.contains('\n') {
                "…".into()
            } else {
                word
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `command`, copies both its outputs to standard error as they come
/// and keeps the last lines.
fn show_and_keep(command: &mut Command) -> io::Result<(ExitStatus, Vec<String>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let kept = Mutex::new(VecDeque::new());
    thread::scope(|scope| {
        scope.spawn(|| stdout.map(|pipe| copy(pipe, &kept)));
        scope.spawn(|| stderr.map(|pipe| copy(pipe, &kept)));
    });
    let status = child.wait()?;
    let kept = kept.into_inner().unwrap_or_default();
    Ok((status, kept.into()))
}

/// Copies one pipe, a line at a time so that two do not mix within a line.
fn copy(pipe: impl Read, kept: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        // A closed standard error must not end the set-up.
        let _ = writeln!(io::stderr(), "{line}");
        let Ok(mut kept) = kept.lock() else { return };
        if line.is_empty() {
            continue;
        }
        if kept.len() == LAST_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        Step {
            what: "fetch the moon".into(),
            why: "it is night".into(),
            mend: "ladder --long".into(),
        }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_names_the_step_the_tools_words_and_the_mend() {
        let error = step()
            .run(&mut shell("echo too far >&2; exit 3"))
            .expect_err("exit 3 is a failure")
            .to_string();
        for part in [
            "fetch the moon",
            "exit status: 3",
            "| too far",
            "to mend it: ladder --long",
        ] {
            assert!(error.contains(part), "{part:?} is missing in {error:?}");
        }
    }

    #[test]
    fn only_the_last_lines_are_repeated() {
        let error = step()
            .run(&mut shell("seq 11 20; exit 1"))
            .expect_err("exit 1 is a failure")
            .to_string();
        assert!(error.contains("| 20") && error.contains("| 13"), "{error}");
        assert!(!error.contains("| 12"), "{error}");
    }

    #[test]
    fn a_tool_that_is_not_there_is_said_so() {
        let error = step()
            .run(&mut Command::new("no-such-tool-anywhere"))
            .expect_err("there is no such tool")
            .to_string();
        assert!(error.contains("cannot be run"), "{error}");
    }

    #[test]
    fn a_tool_cannot_ask() {
        step()
            .run(&mut shell("! read answer"))
            .expect("read meets the end of its input at once");
    }
}
