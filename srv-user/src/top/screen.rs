//! The terminal: what it has to be, and that it is as before whenever `srv top` ends: by a key, an
//! error, a signal or a panic. Also the threads that wait for keys and signals. Knows nothing of
//! what is shown.

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use crossterm::event::{self, Event as Input, KeyEvent};
use ratatui::{DefaultTerminal, Frame};
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

/// What comes from the terminal.
#[derive(Debug)]
pub(super) enum FromTerminal {
    /// A key was pressed.
    Key(KeyEvent),
    /// It has another size.
    Resized,
    /// Another process or the kernel asks srv top to end.
    Signal,
    /// It was closed, or cannot be read.
    Gone(io::Error),
}

/// The terminal while frames are drawn on it. Dropping it restores the terminal.
pub(super) struct Screen {
    terminal: DefaultTerminal,
}

/// What `srv top` says if it cannot draw.
const REMEDY: &str = "`srv top --once` prints one frame as text";

impl Screen {
    /// Takes the terminal and sends its keys and this process's signals to `events`.
    ///
    /// # Errors
    /// There is no terminal, or frames cannot be drawn on it.
    pub(super) fn open<E>(events: &Sender<E>) -> anyhow::Result<Self>
    where
        E: From<FromTerminal> + Send + 'static,
    {
        check(
            io::stdin().is_terminal() && io::stdout().is_terminal(),
            std::env::var("TERM").ok().as_deref(),
        )?;
        let caught = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH];
        let signals = Signals::new(caught).context("catch signals")?;
        let terminal = ratatui::try_init().inspect_err(|_| drop(ratatui::try_restore()));
        let terminal = terminal.with_context(|| format!("draw on the terminal; {REMEDY}"))?;
        let to_signals = events.clone();
        std::thread::spawn(move || wait_for_signals(signals, &to_signals));
        let to_keys = events.clone();
        std::thread::spawn(move || read_keys(&to_keys));
        Ok(Self { terminal })
    }

    /// Draws a frame.
    ///
    /// # Errors
    /// The terminal was closed.
    pub(super) fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<()> {
        let drawn = self.terminal.draw(frame);
        drawn.context("draw on the terminal")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that was closed cannot be restored, and needs not be.
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}

fn check(is_terminal: bool, term: Option<&str>) -> anyhow::Result<()> {
    ensure!(
        is_terminal,
        "draw on the terminal: standard input or output is none; {REMEDY}"
    );
    match term {
        None | Some("" | "dumb") => bail!(
            "draw on the terminal: TERM is {}, so srv top does not know how to move its cursor; \
             set TERM to the terminal's name (such as xterm-256color); {REMEDY}",
            term.filter(|name| !name.is_empty()).unwrap_or("not set")
        ),
        Some(_) => Ok(()),
    }
}

fn wait_for_signals<E: From<FromTerminal>>(mut signals: Signals, events: &Sender<E>) {
    for signal in signals.forever() {
        let event = match signal {
            SIGWINCH => FromTerminal::Resized,
            _ => FromTerminal::Signal,
        };
        if events.send(event.into()).is_err() {
            return;
        }
    }
}

fn read_keys<E: From<FromTerminal>>(events: &Sender<E>) {
    loop {
        let came = match wait_for_input() {
            Ok(()) => pending_keys(),
            Err(error) => Err(error),
        };
        let (keys, gone) = match came {
            Ok(keys) => (keys, None),
            Err(error) => (Vec::new(), Some(FromTerminal::Gone(error))),
        };
        let is_gone = gone.is_some();
        let came = keys.into_iter().map(FromTerminal::Key).chain(gone);
        for event in came {
            if events.send(event.into()).is_err() {
                return;
            }
        }
        if is_gone {
            return;
        }
    }
}

/// Waits until there is something to read. crossterm reads a closed terminal again and again, and
/// never reports it.
fn wait_for_input() -> io::Result<()> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    while let Err(error) = poll(&mut fds, None) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    let closed = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    match fds[0].revents().intersects(closed) {
        true => Err(io::Error::new(io::ErrorKind::BrokenPipe, "it was closed")),
        false => Ok(()),
    }
}

/// The keys that have come. Of those that came together, crossterm keeps all but the first; it gives
/// them to a caller that would wait, and to no other.
fn pending_keys() -> io::Result<Vec<KeyEvent>> {
    const WOULD_WAIT: Duration = Duration::from_millis(1);
    let mut keys = Vec::new();
    while event::poll(WOULD_WAIT)? {
        if let Input::Key(key) = event::read()? {
            keys.push(key);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_prints_instead() {
        for (is_terminal, term, said) in [
            (false, Some("xterm"), "standard input or output is none"),
            (true, Some("dumb"), "TERM is dumb"),
            (true, Some(""), "TERM is not set"),
            (true, None, "TERM is not set"),
        ] {
            let error = check(is_terminal, term).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(error.contains("srv top --once"), "{error}");
        }
        check(true, Some("linux")).unwrap();
    }
}
