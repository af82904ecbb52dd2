//! A child process. Its standard error is kept and can be awaited. When its owner is
//! dropped, it is stopped by its own pid: with SIGTERM, and if that has no effect, with
//! SIGKILL. Knows nothing of what the process is.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};

/// A running child process.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    lines: Receiver<String>,
    /// Lines of standard error that were received so far.
    seen: Vec<String>,
}

/// If a process does not do what is awaited in this time, it is taken to have failed.
const TIMEOUT: Duration = Duration::from_secs(20);

impl Child {
    /// Starts `command`; its standard error goes to [`Self::await_line`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut process = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let stderr = process.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                // If no receiver is left, go on reading: a full pipe would stop the child.
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Ok(Self {
            name,
            process,
            lines,
            seen: Vec::new(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Waits for a line of standard error that contains `part`, among those not yet awaited.
    ///
    /// # Errors
    /// The process ended first, or 20 s passed; the message carries what it said.
    pub fn await_line(&mut self, part: &str) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line);
                    let line = self.seen.last().expect("just pushed");
                    if line.contains(part) {
                        return Ok(line.clone());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.process.wait()?;
                    let said = self.seen.join("\n");
                    bail!(
                        "{} ended before `{part}`: {status}; it said:\n{said}",
                        self.name
                    );
                }
                Err(RecvTimeoutError::Timeout) => {
                    let said = self.seen.join("\n");
                    bail!(
                        "await `{part}` from {}: nothing in {TIMEOUT:?}; it said:\n{said}",
                        self.name
                    );
                }
            }
        }
    }

    /// Waits until `check` finds what it looks for: looks every few milliseconds.
    ///
    /// # Errors
    /// The process ended first, 20 s passed, or `check` fails; the message carries what
    /// the process said.
    pub fn await_ready<T>(
        &mut self,
        what: &str,
        mut check: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        const STEP: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let ended = self.process.try_wait()?;
            let found = check().with_context(|| format!("await `{what}` from {}", self.name))?;
            if let Some(found) = found {
                return Ok(found);
            }
            if let Some(status) = ended {
                let said = self.all_said();
                bail!(
                    "{} ended before `{what}`: {status}; it said:\n{said}",
                    self.name
                );
            }
            if Instant::now() >= deadline {
                let said = self.stderr();
                bail!(
                    "await `{what}` from {}: it is not so after {TIMEOUT:?}; it said:\n{said}",
                    self.name
                );
            }
            std::thread::sleep(STEP);
        }
    }

    /// What it said until its standard error was closed, which it is soon after its end.
    fn all_said(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(1);
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(line);
        }
        self.seen.join("\n")
    }

    /// What it said on standard error so far.
    pub fn stderr(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(self.pid(), signal)
            .with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Waits until it ends, which something else brings about.
    ///
    /// # Errors
    /// 20 s passed.
    pub fn await_exit(&mut self) -> Result<ExitStatus> {
        // Its standard error closes when it and all processes that inherited it have ended.
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => {
                    return self
                        .process
                        .wait()
                        .with_context(|| format!("wait for {}", self.name));
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} did not end in {TIMEOUT:?}", self.name)
                }
            }
        }
    }

    /// Stops it with SIGTERM and returns how it ended.
    ///
    /// # Errors
    /// It did not end in 20 s.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.await_exit()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}; killing it");
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Child::spawn(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_line_is_awaited_and_the_end_is_by_sigterm() {
        let mut child = shell("echo one >&2; echo now two >&2; exec sleep 1000");
        assert_eq!(child.await_line("two").unwrap(), "now two");
        assert_eq!(child.stderr(), "one\nnow two");
        let status = child.stop().unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn an_early_end_says_what_the_process_said() {
        let error = shell("echo no luck >&2; exit 3")
            .await_line("ready")
            .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("no luck") && error.contains("exit status: 3"),
            "{error}"
        );
    }

    #[test]
    fn readiness_is_looked_for_until_it_is_found_or_the_process_ends() {
        let mut looks = 0;
        let mut look = || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        };
        let mut child = shell("exec sleep 1000");
        assert_eq!(child.await_ready("third time", &mut look).unwrap(), 3);
        let never = || Ok(None::<()>);
        let error = shell("echo no luck >&2; exit 3").await_ready("never", never);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("no luck") && error.contains("exit status: 3"),
            "{error}"
        );
    }
}
