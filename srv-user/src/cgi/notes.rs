//! What scripts write to standard error, as lines of the log: escaped, cut, and no more a second than a
//! log can take.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest line, bytes; what follows is cut.
const LINE_BYTES: usize = 1024;

/// How many lines a second, those of all scripts together.
const LINES: u32 = 100;

/// The lines of the current second.
#[derive(Debug)]
pub(super) struct Budget {
    began: Cell<Instant>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            began: Cell::new(Instant::now()),
            lines: Cell::new(0),
            left_out: Cell::new(0),
        }
    }
}

impl Budget {
    /// Whether a line may be written at `now`; and how many were left out before it.
    fn take(&self, now: Instant) -> Option<u64> {
        if now - self.began.get() >= Duration::from_secs(1) {
            self.began.set(now);
            self.lines.set(0);
        }
        if self.lines.get() == LINES {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.lines.set(self.lines.get() + 1);
        Some(self.left_out.take())
    }
}

/// One script's standard error.
pub(super) struct Notes<'a> {
    script: &'a Path,
    budget: &'a Budget,
    line: Vec<u8>,
    is_cut: bool,
}

impl<'a> Notes<'a> {
    pub(super) const fn new(script: &'a Path, budget: &'a Budget) -> Self {
        Self {
            script,
            budget,
            line: Vec::new(),
            is_cut: false,
        }
    }

    /// Takes what the script writes.
    pub(super) fn write(&mut self, mut text: &[u8]) {
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            self.add(&text[..end]);
            self.end_line();
            text = &text[end + 1..];
        }
        self.add(text);
    }

    fn add(&mut self, text: &[u8]) {
        let room = LINE_BYTES - self.line.len();
        self.line.extend_from_slice(&text[..text.len().min(room)]);
        self.is_cut |= text.len() > room;
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let is_cut = std::mem::take(&mut self.is_cut);
        if line.is_empty() {
            return;
        }
        let Some(left_out) = self.budget.take(Instant::now()) else {
            return;
        };
        let script = self.script.display();
        if left_out > 0 {
            tracing::warn!(
                "{left_out} lines of scripts were left out: more than {LINES} in a second"
            );
        }
        let cut = if is_cut { " (cut)" } else { "" };
        tracing::warn!("{script}: {}{cut}", escaped(&line));
    }
}

impl Drop for Notes<'_> {
    fn drop(&mut self) {
        self.end_line();
    }
}

/// Without what a terminal or a reader of the log would take for something else.
fn escaped(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    for chunk in line.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\t' => text.push(' '),
                letter if letter.is_control() => text.extend(letter.escape_default()),
                letter => text.push(letter),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_script_writes_what_the_log_is_not() {
        assert_eq!(escaped(b"a\tb\r"), "a b");
        assert_eq!(
            escaped("é \u{1b}[31m\0\r!".as_bytes()),
            "é \\u{1b}[31m\\u{0}\\r!"
        );
        assert_eq!(escaped(b"\xff\xc3"), "\\xff\\xc3");
        assert_eq!(escaped("\u{9b}31m".as_bytes()), "\\u{9b}31m");
    }

    #[test]
    fn a_second_has_so_many_lines() {
        let budget = Budget::default();
        let start = budget.began.get();
        assert!((0..LINES).all(|_| budget.take(start) == Some(0)));
        assert_eq!((budget.take(start), budget.take(start)), (None, None));
        assert_eq!(budget.take(start + Duration::from_secs(1)), Some(2));
        assert_eq!(budget.take(start + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn a_line_is_cut_and_kept_together() {
        let budget = Budget::default();
        let mut notes = Notes::new(Path::new("/a"), &budget);
        notes.write(&[b'x'; 600]);
        notes.write(&[b'x'; 600]);
        assert_eq!((notes.line.len(), notes.is_cut), (LINE_BYTES, true));
        notes.write(b"\n\n");
        assert_eq!(
            (notes.line.len(), budget.lines.get()),
            (0, 1),
            "an empty line is none"
        );
    }
}
