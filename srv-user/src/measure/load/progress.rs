//! How far a run is, on a terminal; nothing where standard error is none. On a
//! thread of its own, since a slow terminal must not make the generator late.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Watch;

const REFRESH: Duration = Duration::from_millis(200);

/// A bar on the terminal.
#[derive(Debug)]
pub(super) struct Progress {
    /// Closed by dropping it.
    end: Option<Sender<()>>,
    thread: JoinHandle<()>,
}

impl Progress {
    /// Shows a run of `requests`, or if those are not known of `duration`.
    pub(super) fn show(
        watch: &Arc<Watch>,
        requests: Option<usize>,
        duration: Option<Duration>,
    ) -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let watch = Arc::clone(watch);
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let length = requests.map(|count| count as u64);
            let length_ms = duration.unwrap_or_default().as_millis() as u64;
            let bar = ProgressBar::new(length.unwrap_or(length_ms));
            let style = ProgressStyle::with_template("{bar:40} {percent}%, {msg}, {eta} left");
            bar.set_style(style.expect("a valid template"));
            while ended.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                let finished = watch.finished() as u64;
                let elapsed_ms = began.elapsed().as_millis() as u64;
                bar.set_position(length.map_or(elapsed_ms.min(length_ms), |_| finished));
                bar.set_message(format!("{finished} requests"));
            }
            bar.finish_and_clear();
        });
        Some(Self {
            end: Some(end),
            thread,
        })
    }

    /// Removes it.
    pub(super) fn clear(mut self) {
        self.end = None;
        // If it panicked, that has been said.
        let _ = self.thread.join();
    }
}
