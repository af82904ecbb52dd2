//! The `Date` line, which is the end of an answer's header. It is rendered once a second.

use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

const FIXED: &[u8; 6] = b"date: ";
const DATE_BYTES: usize = 29;
const BYTES: usize = FIXED.len() + DATE_BYTES + 4;

/// The line, with the empty line after it.
#[derive(Debug)]
pub(super) struct DateLine {
    second: Cell<u64>,
    line: Cell<[u8; BYTES]>,
}

impl Default for DateLine {
    fn default() -> Self {
        Self {
            second: Cell::new(0),
            line: Cell::new(rendered(0)),
        }
    }
}

impl DateLine {
    /// The line for now. The clock is the kernel's coarse one, which is a timer tick (some ms) late
    /// at most.
    pub(super) fn now(&self) -> [u8; BYTES] {
        self.at(clock_gettime(ClockId::RealtimeCoarse).tv_sec as u64)
    }

    fn at(&self, second: u64) -> [u8; BYTES] {
        if self.second.replace(second) != second {
            self.line.set(rendered(second));
        }
        self.line.get()
    }
}

fn rendered(second: u64) -> [u8; BYTES] {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    let mut line = [0; BYTES];
    let (fixed, rest) = line.split_at_mut(FIXED.len());
    fixed.copy_from_slice(FIXED);
    let (text, end) = rest.split_at_mut(DATE_BYTES);
    text.copy_from_slice(date.as_bytes());
    end.copy_from_slice(b"\r\n\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_line() {
        let date = DateLine::default();
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778, "Sun, 06 Nov 1994 08:49:38 GMT"),
        ] {
            let line = format!("date: {text}\r\n\r\n");
            assert_eq!(date.at(second), line.as_bytes());
            assert_eq!(date.at(second), line.as_bytes());
        }
    }
}
