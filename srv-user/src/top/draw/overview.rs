//! The overview: a line for each group.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Modifier;
use ratatui::widgets::{Row as TableRow, Table};

use super::{Look, cell, decimals, per_second};
use crate::top::model::{Condition, Group, Model};

/// A column.
struct Column {
    name: &'static str,
    /// Its width; 0 if it has a part of what the others leave.
    width: u16,
    is_number: bool,
    /// The narrowest screen that has it.
    from_width: u16,
    text: fn(&Group) -> String,
}

#[rustfmt::skip]
const COLUMNS: [Column; 7] = [
    Column { name: "address", width: 0, is_number: false, from_width: 0, text: |group| group.view.listen.clone() },
    Column { name: "server", width: 0, is_number: false, from_width: 0, text: |group| group.view.server.clone() },
    Column { name: "policy", width: 11, is_number: false, from_width: 0, text: policy },
    Column { name: "accepts/s", width: 9, is_number: true, from_width: 0,
        text: |group| if_it_answers(group, per_second(group.view.interval.accepts_per_s)) },
    Column { name: "CV", width: 6, is_number: true, from_width: 80,
        text: |group| if_it_answers(group, decimals(group.view.interval.accepts_cv, 3)) },
    Column { name: "max/mean", width: 8, is_number: true, from_width: 80,
        text: |group| if_it_answers(group, decimals(group.view.interval.accepts_max_over_mean, 2)) },
    Column { name: "waiting", width: 7, is_number: true, from_width: 0,
        text: |group| if_it_answers(group, group.view.waiting.to_string()) },
];

/// As wide as `srv` with the longest process id.
const SERVER: u16 = 11;
/// As wide as the longest IPv6 address with its port.
const ADDRESS_MAX: u16 = 47;

fn policy(group: &Group) -> String {
    match &group.condition {
        Condition::Answers => group.view.policy.clone(),
        Condition::Ended(_) => "ENDED".to_owned(),
        Condition::Silent(_) => "NO ANSWER".to_owned(),
    }
}

/// The last figures of a server that has ended are below, and say so. Here they would be taken for
/// those of now.
fn if_it_answers(group: &Group, text: String) -> String {
    match group.condition {
        Condition::Answers => text,
        Condition::Ended(_) | Condition::Silent(_) => "-".to_owned(),
    }
}

/// Draws it. The selected group is visible, however many there are.
pub(in crate::top) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let columns: Vec<&Column> = COLUMNS
        .iter()
        .filter(|column| area.width >= column.from_width)
        .collect();
    let names = columns
        .iter()
        .map(|column| cell(column.name, column.is_number));
    let header = TableRow::new([cell("", false)].into_iter().chain(names));
    let shown = usize::from(area.height.saturating_sub(1));
    let first = (model.selected + 1).saturating_sub(shown);
    let rows = model.groups.iter().enumerate().skip(first);
    let rows = rows.map(|(nth, group)| {
        let mark = if nth == model.selected { ">" } else { "" };
        let cells = columns
            .iter()
            .map(|column| cell(&(column.text)(group), column.is_number));
        let row = TableRow::new([cell(mark, false)].into_iter().chain(cells));
        match (&group.condition, nth == model.selected) {
            (Condition::Ended(_) | Condition::Silent(_), _) => row.style(look.warning()),
            (Condition::Answers, true) => row.style(Modifier::BOLD),
            (Condition::Answers, false) => row,
        }
    });
    let widths = widths(area.width, &columns);
    let table = Table::new(rows, widths).header(header.style(look.heading()));
    frame.render_widget(table, area);
}

/// The mark, then each column. The address has what the others leave, and the server the rest.
fn widths(width: u16, columns: &[&Column]) -> Vec<Constraint> {
    let fixed: u16 = columns.iter().map(|column| column.width).sum();
    let spaces = columns.len() as u16;
    let rest = width.saturating_sub(1 + fixed + spaces);
    let address = rest.saturating_sub(SERVER).min(ADDRESS_MAX);
    let server = rest - address;
    let of_columns = columns
        .iter()
        .map(|column| match (column.name, column.width) {
            ("address", _) => address,
            (_, 0) => server,
            (_, width) => width,
        });
    let all = [1].into_iter().chain(of_columns);
    all.map(Constraint::Length).collect()
}
