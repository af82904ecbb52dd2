//! A frame: the model laid out on a screen of any size. Knows no terminal: the same functions fill
//! the buffer of `srv top --once` and of the tests.

mod columns;
mod menus;
mod overview;

use std::collections::VecDeque;
use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Table};

use super::bars::Glyphs;
use super::model::{Condition, Group, Model};
use super::view::View;
use crate::control::interval::Basis;
use columns::Columns;
pub(super) use overview::draw as overview;

/// The smallest screen on which the figures can be read.
pub(super) const SMALLEST: (u16, u16) = (60, 12);
/// Groups that the overview has room for, on a screen of 24 lines.
const OVERVIEW: usize = 5;
/// Lines about the selected group above its workers.
const ABOUT: u16 = 5;

/// How figures are shown on this screen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) glyphs: Glyphs,
    pub(super) has_colour: bool,
}

impl Look {
    /// Of bars and lines.
    fn bars(self) -> Style {
        self.colour(Color::Cyan)
    }

    /// Of what needs attention.
    fn warning(self) -> Style {
        self.colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Of headings.
    fn heading(self) -> Style {
        self.colour(Color::Green)
    }

    fn colour(self, colour: Color) -> Style {
        match self.has_colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }
}

/// The whole screen.
pub(super) fn frame(frame: &mut Frame<'_>, model: &Model, look: Look, now: SystemTime) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let (columns, lines) = SMALLEST;
        let text = format!("srv top needs {columns} columns and {lines} lines. q quits.");
        frame.render_widget(Line::from(text), area);
        return;
    }
    let overview_lines = model
        .groups
        .len()
        .clamp(1, OVERVIEW.max(area.height as usize / 5));
    let [title, groups, about, workers, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1 + overview_lines as u16),
        Constraint::Length(ABOUT),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(self::title(model, now, title.width), title);
    overview::draw(frame, groups, model, look);
    match model.group() {
        Some(group) => {
            self::about(frame, about, group, look);
            self::workers(frame, workers, model, group, look);
        }
        None => frame.render_widget(Line::from(NO_GROUP), about),
    }
    frame.render_widget(self::foot(model, look), foot);
    menus::draw(frame, area, model, look);
}

const NO_GROUP: &str = "No server runs any more. srv top goes on looking for one; q quits.";

/// How many lines [`group`] needs.
pub(super) fn group_lines(group: &Group) -> u16 {
    let rows = u16::try_from(group.view.rows.len()).unwrap_or(u16::MAX);
    rows.saturating_add(ABOUT + 1)
}

/// The selected group alone.
pub(super) fn group(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let [about, workers] =
        Layout::vertical([Constraint::Length(ABOUT), Constraint::Fill(1)]).areas(area);
    if let Some(group) = model.group() {
        self::about(frame, about, group, look);
        self::workers(frame, workers, model, group, look);
    }
}

/// What is shown, how often, and when it was drawn.
pub(super) fn title(model: &Model, now: SystemTime, width: u16) -> Line<'static> {
    let groups = match model.groups.len() {
        1 => "1 group".to_owned(),
        count => format!("{count} groups"),
    };
    let now = humantime::format_rfc3339_seconds(now).to_string();
    let paused = if model.is_paused { "PAUSED, " } else { "" };
    let interval = humantime::format_duration(model.interval);
    let left = format!("srv top: {groups}");
    let right = format!("{paused}every {interval}, {now}");
    let gap = usize::from(width).saturating_sub(left.len() + right.len());
    Line::from(format!("{left}{:gap$}{right}", "")).style(Modifier::BOLD)
}

/// What is known of the selected group, in [`ABOUT`] lines.
fn about(frame: &mut Frame<'_>, area: Rect, group: &Group, look: Look) {
    let width = usize::from(area.width);
    let view = &group.view;
    let name = format!("{0}{0} {1} ", look.glyphs.rule(), view.listen);
    let rule = look
        .glyphs
        .rule()
        .repeat(width.saturating_sub(name.chars().count()));
    let program = match &group.condition {
        // The policy hash is asked for; anything else that is not steered was meant to be.
        Condition::Answers if view.is_steered == Some(false) && view.policy != "hash" => {
            Line::styled(server_of(view), look.warning())
        }
        Condition::Answers => Line::from(server_of(view)),
        Condition::Ended(_) => Line::styled(
            "The server has ended. These are its last figures.",
            look.warning(),
        ),
        Condition::Silent(why) => Line::styled(why.clone(), look.warning()),
    };
    let lines = [
        Line::styled(name + &rule, look.heading()),
        program,
        Line::from(shares(view)),
        Line::from(sums(view)),
        histories(group, look, width),
    ];
    for (nth, line) in lines.into_iter().enumerate() {
        let nth = nth as u16;
        if nth < area.height {
            let row = Rect::new(area.x, area.y + nth, area.width, 1);
            frame.render_widget(line, row);
        }
    }
}

fn server_of(view: &View) -> String {
    let accept = match &view.accept {
        Some(mode) => format!(", accept {mode}"),
        None => String::new(),
    };
    let agent = match (view.is_attached, view.agent) {
        (false, _) => String::new(),
        (true, Some(pid)) => format!(" attached by {pid}"),
        (true, None) => " attached, without an agent".to_owned(),
    };
    format!(
        "{}{agent}: policy {}{accept}; {}",
        view.server, view.policy, view.program
    )
}

fn shares(view: &View) -> String {
    let interval = &view.interval;
    let mut text = format!(
        "accepts {}/s, CV {}, max/mean {}",
        per_second(interval.accepts_per_s),
        decimals(interval.accepts_cv, 4),
        decimals(interval.accepts_max_over_mean, 3),
    );
    match interval.basis {
        Basis::Accepted => text += &format!("; stolen {}", percent(interval.stolen_share)),
        Basis::Steered => text += " (as the program assigned them)",
    }
    text
}

fn sums(view: &View) -> String {
    let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    let mut text = format!("active {}, waiting {}", count(view.active), view.waiting);
    if view.interval.basis == Basis::Accepted {
        let requests = per_second(view.interval.requests_per_s);
        let busy = percent(view.interval.busy_share);
        let running = count(view.running);
        text += &format!(", running {running}; busy {busy}; requests {requests}/s");
    }
    text
}

/// The group's accepts and CV since srv top was started.
fn histories(group: &Group, look: Look, width: usize) -> Line<'static> {
    const NAMES: [&str; 2] = ["accepts/s ", "  CV "];
    let room = width.saturating_sub(NAMES[0].len() + NAMES[1].len()) / 2;
    let line = |values: &VecDeque<Option<f64>>, least: f64| {
        let values: Vec<_> = values.iter().copied().collect();
        let largest = columns::largest(values.iter().copied()).max(least);
        Span::styled(look.glyphs.line(&values, largest, room), look.bars())
    };
    // A CV below 0.1 is even: it does not fill the line.
    Line::from(vec![
        NAMES[0].into(),
        line(&group.accepts, 0.0),
        NAMES[1].into(),
        line(&group.cv, 0.1),
    ])
}

fn workers(frame: &mut Frame<'_>, area: Rect, model: &Model, group: &Group, look: Look) {
    let columns = Columns::of(area.width, group, model.figure);
    let rows = model.rows();
    // The last page is full.
    let shown = usize::from(area.height.saturating_sub(1));
    let first = model.first_row.min(rows.len().saturating_sub(shown));
    let rows = rows.into_iter().skip(first).take(shown);
    let rows = rows.map(|row| columns.row(row, group, look));
    let header = columns.header(model).style(look.heading());
    let table = Table::new(rows, columns.widths()).header(header);
    frame.render_widget(table, area);
}

fn foot(model: &Model, look: Look) -> Line<'static> {
    if let Some(message) = &model.message {
        return Line::styled(message.clone(), look.warning());
    }
    let sort = model.sort.map_or("slot", |figure| figure.name());
    let figure = model.figure.name();
    Line::styled(
        format!("q quit  ? help  Tab group  p policy  s sort: {sort}  f bars: {figure}"),
        look.heading(),
    )
}

/// A cell with words, or with a number, which ends where the column ends.
fn cell(text: &str, is_number: bool) -> Cell<'static> {
    let line = Line::from(text.to_owned());
    Cell::from(match is_number {
        true => line.right_aligned(),
        false => line,
    })
}

/// A rate in few digits.
fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate >= 1e7 => format!("{:.1}M", rate / 1e6),
        Some(rate) if rate >= 99.95 || rate == 0.0 => format!("{rate:.0}"),
        Some(rate) => format!("{rate:.1}"),
    }
}

fn decimals(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share))
}

#[cfg(test)]
mod tests;
