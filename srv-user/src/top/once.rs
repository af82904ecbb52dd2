//! `srv top --once`: one frame as text, of all groups, as high as they are.

use std::time::{Duration, SystemTime};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Rect;
use ratatui::{Frame, buffer::Buffer};

use super::draw::{self, Look};
use super::model::Model;
use super::sources::{self, Sample, Source};

/// Columns if neither the environment nor a terminal says otherwise.
const WIDTH: u16 = 100;

/// Asks the servers once more after the interval, and prints what happened in it.
///
/// # Errors
/// The frame cannot be made.
pub(super) fn print(first: Vec<Sample>, interval: Duration, look: Look) -> anyhow::Result<()> {
    let found: Vec<Source> = first.iter().map(|sample| sample.source.clone()).collect();
    let mut model = Model::new(interval);
    for sample in first {
        model.apply(sample);
    }
    std::thread::sleep(interval);
    for sample in sources::ask_all(&found) {
        model.apply(sample);
    }
    let look = Look {
        has_colour: false,
        ..look
    };
    crate::print!("{}", text(&mut model, look, width(), SystemTime::now())?);
    Ok(())
}

/// The overview, then each group whole.
pub(super) fn text(
    model: &mut Model,
    look: Look,
    width: u16,
    now: SystemTime,
) -> anyhow::Result<String> {
    let groups = u16::try_from(model.groups.len()).unwrap_or(u16::MAX);
    let mut text = lines(width, groups.saturating_add(2), |frame, area| {
        frame.render_widget(draw::title(model, now, width), Rect { height: 1, ..area });
        let below = Rect::new(0, 1, width, area.height - 1);
        draw::overview(frame, below, model, look);
    })?;
    for nth in 0..model.groups.len() {
        model.selected = nth;
        let height = draw::group_lines(&model.groups[nth]);
        text += "\n";
        text += &lines(width, height, |frame, area| {
            draw::group(frame, area, model, look);
        })?;
    }
    Ok(text)
}

/// What `draw` draws on a screen of that size.
fn lines(
    width: u16,
    height: u16,
    draw: impl FnOnce(&mut Frame<'_>, Rect),
) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| draw(frame, frame.area()))?;
    Ok(plain(terminal.backend().buffer()))
}

/// The characters of a screen, without the space at the end of each line.
pub(super) fn plain(buffer: &Buffer) -> String {
    let rows = buffer.content().chunks(buffer.area.width.into());
    let mut text = String::new();
    for row in rows {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text += line.trim_end();
        text += "\n";
    }
    text
}

/// As wide as `COLUMNS` or the terminal says.
fn width() -> u16 {
    let columns = std::env::var("COLUMNS").ok();
    let columns = columns.and_then(|columns| columns.parse().ok());
    let of_terminal = || {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        Some(size.ws_col)
    };
    let width = columns.or_else(of_terminal).filter(|width| *width > 0);
    width.unwrap_or(WIDTH).max(draw::SMALLEST.0)
}
