//! A terminal for a command that draws: tmux, with a server of its own. It does not know what the
//! command draws.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;
use tempfile::TempDir;

use crate::probe::{children, until, watch};

/// A pane of tmux with a shell in it, which has run the command. Dropping it ends both.
pub(crate) struct Terminal {
    folder: TempDir,
}

/// No status line: the pane is as high as the terminal.
const CONFIGURATION: &str = "set -g status off\nset -g remain-on-exit on\n";

impl Terminal {
    /// Runs `command`, with these variables, in a terminal of `size` (columns and lines).
    ///
    /// # Panics
    /// If tmux does not start.
    pub(crate) fn run(size: (u16, u16), variables: &[(&str, &str)], command: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut script = String::new();
        for (name, value) in variables {
            let _ = writeln!(script, "export {name}='{value}'");
        }
        let before = folder.path().join("before");
        let after = folder.path().join("after");
        let words: Vec<String> = command.iter().map(|word| format!("'{word}'")).collect();
        let _ = write!(
            script,
            "stty -g >{}\necho before the command\n{}\necho \"ended with $?\"\nstty -g >{}\n\
             touch {0}.done\nexec cat\n",
            before.display(),
            words.join(" "),
            after.display(),
        );
        std::fs::write(folder.path().join("script"), script).unwrap();
        std::fs::write(folder.path().join("conf"), CONFIGURATION).unwrap();
        let terminal = Self { folder };
        let (columns, lines) = (size.0.to_string(), size.1.to_string());
        let script = terminal.path("script");
        let mut start = terminal.tmux();
        start.args([
            "-u",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &lines,
            "sh",
        ]);
        let output = start.arg(script).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        terminal
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }

    fn tmux(&self) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        tmux.arg("-S").arg(self.path("socket"));
        tmux.arg("-f").arg(self.path("conf"));
        tmux
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.tmux().args(arguments).output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is on the screen, a line for each line.
    pub(crate) fn text(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as `is_so` says, and returns it.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = watch(|| {
            last = self.text();
            is_so(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("waited in vain until {what}; last seen:\n{last}"))
    }

    /// Waits until the screen shows `part`.
    #[track_caller]
    pub(crate) fn until_shown(&self, part: &str) -> String {
        self.until(&format!("the screen shows `{part}`"), |text| {
            text.contains(part)
        })
    }

    /// Types keys, by tmux's names.
    pub(crate) fn press(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Gives the terminal another size.
    pub(crate) fn resize(&self, columns: u16, lines: u16) {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        self.ask(&["resize-window", "-x", &columns, "-y", &lines]);
    }

    /// The process of the command.
    pub(crate) fn command(&self) -> Pid {
        let shell = self.ask(&["display", "-p", "#{pane_pid}"]);
        let shell = shell.trim().parse().ok().and_then(Pid::from_raw).unwrap();
        until("the shell has started the command", || {
            children(shell).pop()
        })
    }

    /// Waits until the command has ended, and returns what the shell shows then. The terminal is as
    /// it was before the command.
    ///
    /// # Panics
    /// If the terminal was not restored.
    #[track_caller]
    pub(crate) fn ended(&self) -> String {
        let done = self.path("before.done");
        until("the command ends", || done.exists().then_some(()));
        let setting = |name| std::fs::read_to_string(self.path(name)).unwrap();
        assert_eq!(setting("before"), setting("after"), "stty -g");
        let screen = self.ask(&["display", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(screen.trim(), "0 1", "alternate screen, cursor");
        let text = self.until_shown("ended with");
        assert!(text.starts_with("before the command"), "{text}");
        text
    }

    /// Closes the terminal.
    pub(crate) fn close(&self) {
        // It may be closed already.
        let _ = self.tmux().arg("kill-server").output();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.close();
    }
}
