//! The emulated machine: starts it, reads its serial console for a bounded time,
//! and says what the tests that ran there came to. Knows no srv.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// Several times what the tests take.
const WITHIN: Duration = Duration::from_secs(1200);
/// A test takes less, and so does a boot.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// How many of the console's lines an error repeats.
const LAST_LINES: usize = 30;

/// Warnings of the kernel are shown, a panic ends the machine. That the emulation is
/// slow is no lock-up. Its defences stay on: without them the verifier lets more pass.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=5 panic=-1 nosoftlockup rdinit=/init";

/// What the tests came to.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    release: String,
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl fmt::Display for Outcome {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            release,
            passed,
            failed,
            skipped,
        } = self;
        write!(
            to,
            "Linux {release}: {passed} passed, {failed} failed, {skipped} skipped"
        )
    }
}

/// Boots `kernel` and returns what the console said until the machine went off.
///
/// # Errors
/// If qemu cannot be started or fails, or the machine does not go off in time: with
/// the console's last lines.
pub(super) fn run(kernel: &Path, initramfs: &Path) -> Result<Vec<String>> {
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2G"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", KERNEL_ARGUMENTS])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let lines = lines(qemu.stdout.take().context("qemu has no output")?);
    let read = read_all(&lines, SILENCE_MAX);
    if read.is_err() {
        // It may have ended by itself.
        let _ = qemu.kill();
    }
    let ended = wait(&mut qemu);
    let console = read?;
    ended?;
    Ok(console)
}

fn wait(qemu: &mut Child) -> Result<()> {
    let status = qemu.wait().context("wait for qemu")?;
    ensure!(status.success(), "qemu: {status}; what it said is above");
    Ok(())
}

/// The console's lines as they come.
fn lines(console: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let console = BufReader::new(console).split(b'\n');
        for line in console.map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            eprintln!("    | {line}");
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn read_all(lines: &Receiver<String>, silence_max: Duration) -> Result<Vec<String>> {
    let deadline = Instant::now() + WITHIN;
    let mut console = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left.min(silence_max)) {
            Ok(line) => console.push(line),
            Err(RecvTimeoutError::Disconnected) => return Ok(console),
            Err(RecvTimeoutError::Timeout) => bail!(
                "the machine hangs: silent for {silence_max:?}, or at work for {WITHIN:?}; \
                 its last lines:{}",
                last(&console)
            ),
        }
    }
}

fn last(console: &[String]) -> String {
    let from = console.len().saturating_sub(LAST_LINES);
    console[from..]
        .iter()
        .map(|line| format!("\n  | {line}"))
        .collect()
}

/// What the tests on a console came to.
///
/// # Errors
/// If one failed, none ran, they did not come to their end, or the kernel
/// complained of something.
pub(super) fn judge(console: &[String]) -> Result<Outcome> {
    let find = |start: &str| console.iter().find_map(|line| line.strip_prefix(start));
    let (Some(release), Some(code), Some(result)) = (
        find("on-kernel: release "),
        find("on-kernel: exit code "),
        find("test result: "),
    ) else {
        bail!(
            "the tests did not come to their end; the console's last lines:{}",
            last(console)
        );
    };
    let outcome = Outcome {
        release: release.to_owned(),
        passed: count(result, "passed"),
        failed: count(result, "failed"),
        skipped: console
            .iter()
            .filter(|line| line.contains("skipped: "))
            .count() as u32,
    };
    ensure!(
        code == "0" && outcome.failed == 0,
        "{outcome} (exit code {code}); what failed is above"
    );
    ensure!(outcome.passed > 0, "{outcome}: no test has such a name");
    if let Some(line) = console.iter().find(|line| is_complaint(line)) {
        bail!("{outcome}, but the kernel complained, see above: {line}");
    }
    Ok(outcome)
}

/// Of a fault in the kernel, such as our programs must not bring about.
fn is_complaint(line: &str) -> bool {
    ["BUG: ", "Oops: ", "WARNING: CPU", "Kernel panic"]
        .iter()
        .any(|sign| line.contains(sign))
}

/// The number before `what` in libtest's last line.
fn count(result: &str, what: &str) -> u32 {
    result
        .split(&[' ', ';'])
        .collect::<Vec<_>>()
        .windows(2)
        .find(|pair| pair[1] == what)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(result: &str, more: &[&str]) -> Vec<String> {
        let lines = [
            "on-kernel: release 6.1.0-56-amd64",
            "running 3 tests",
            result,
        ];
        let lines = lines.iter().chain(more);
        lines.map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_machine_that_hangs_is_given_up_with_its_last_lines() {
        let (sender, lines) = channel();
        for line in 0..=LAST_LINES {
            sender
                .send(format!("line {line};"))
                .expect("it is listened to");
        }
        let error = read_all(&lines, Duration::from_millis(1))
            .expect_err("nothing more comes")
            .to_string();
        assert!(
            error.contains("hangs") && error.contains("line 30;"),
            "{error}"
        );
        assert!(!error.contains("line 0;"), "{error}");
        drop(sender);
    }

    const OK: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
    const FAILED: &str = "test result: FAILED. 2 passed; 1 failed; 0 ignored";

    #[test]
    fn tests_that_pass_are_counted() {
        let outcome = judge(&console(OK, &["on-kernel: exit code 0"])).expect("all passed");
        assert_eq!(
            outcome.to_string(),
            "Linux 6.1.0-56-amd64: 3 passed, 0 failed, 0 skipped"
        );
    }

    #[test]
    fn everything_else_is_an_error() {
        let none = "test result: ok. 0 passed; 0 failed;";
        let oops = "[   9.1] BUG: kernel NULL pointer dereference";
        for (result, more, part) in [
            (FAILED, &["on-kernel: exit code 101"][..], "1 failed"),
            (OK, &["on-kernel: exit code 1"][..], "exit code 1"),
            (OK, &["Kernel panic - not syncing"][..], "not syncing"),
            (OK, &[oops, "on-kernel: exit code 0"][..], "complained"),
            (none, &["on-kernel: exit code 0"][..], "no test"),
        ] {
            let error = judge(&console(result, more)).expect_err(part).to_string();
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
}
