//! The table of workers: its columns, which of them a screen has room for, and their cells.

use ratatui::layout::Constraint;
use ratatui::text::Span;
use ratatui::widgets::{Cell, Row as TableRow};

use super::{Look, cell, per_second, percent};
use crate::top::model::{Group, Model};
use crate::top::view::{Figure, Row};

/// The columns that a screen has room for.
pub(super) struct Columns {
    shown: Vec<Column>,
    /// What bars and lines show.
    figure: Figure,
    /// The largest figure now, and of the whole history: all rows have the same scale.
    largest: f64,
    largest_ever: f64,
    bar: usize,
    line: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Slot,
    Pid,
    State,
    Of(Figure),
    Bar,
    Line,
}

impl Column {
    /// In the order of the screen.
    const ALL: [Self; 12] = [
        Self::Slot,
        Self::Pid,
        Self::State,
        Self::Of(Figure::Accepts),
        Self::Bar,
        Self::Line,
        Self::Of(Figure::Requests),
        Self::Of(Figure::Stolen),
        Self::Of(Figure::Busy),
        Self::Of(Figure::Active),
        Self::Of(Figure::Running),
        Self::Of(Figure::Waiting),
    ];

    /// Its width; `None` if it takes what the others leave.
    fn width(self) -> Option<usize> {
        match self {
            Self::Slot => Some(4),
            Self::Pid => Some(7),
            Self::State => Some(8),
            Self::Of(Figure::Accepts) => Some(9),
            Self::Of(Figure::Requests | Figure::Waiting | Figure::Running) => Some(7),
            Self::Of(Figure::Stolen | Figure::Active) => Some(6),
            Self::Of(Figure::Busy) => Some(5),
            Self::Bar | Self::Line => None,
        }
    }

    fn name(self, figure: Figure) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Pid => "pid",
            Self::State => "state",
            Self::Of(figure) => figure.name(),
            Self::Bar => figure.name(),
            Self::Line => "",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Slot | Self::Pid | Self::Of(_))
    }

    /// The narrowest screen that has it.
    fn narrowest_screen(self) -> u16 {
        match self {
            Self::Of(Figure::Requests) => 92,
            Self::State => 70,
            _ => 0,
        }
    }
}

impl Columns {
    pub(super) fn of(width: u16, group: &Group, figure: Figure) -> Self {
        let all = Column::ALL.into_iter();
        let shown: Vec<Column> = all
            .filter(|column| width >= column.narrowest_screen())
            .collect();
        let fixed: usize = shown.iter().filter_map(|column| column.width()).sum();
        // A column of space between any two.
        let rest = usize::from(width).saturating_sub(fixed + shown.len() - 1);
        let bar = (rest / 2).min(30);
        let rows = &group.view.rows;
        let histories = rows.iter().flat_map(|row| group.history(row, figure));
        Self {
            figure,
            largest: largest(rows.iter().map(|row| figure.of(row))),
            largest_ever: largest(histories),
            bar,
            line: rest - bar,
            shown,
        }
    }

    pub(super) fn widths(&self) -> Vec<Constraint> {
        let width = |column: &Column| match column {
            Column::Bar => self.bar,
            Column::Line => self.line,
            column => column.width().unwrap_or(0),
        };
        let widths = self.shown.iter().map(width);
        widths
            .map(|width| Constraint::Length(width as u16))
            .collect()
    }

    /// The names; that of the column that the table is sorted by is in brackets.
    pub(super) fn header(&self, model: &Model) -> TableRow<'static> {
        let header = self.shown.iter().map(|column| {
            let name = match column {
                Column::Bar if self.figure.name().len() > self.bar => "",
                column => column.name(self.figure),
            };
            let is_sorted = match column {
                Column::Of(figure) => model.sort == Some(*figure),
                Column::Slot => model.sort.is_none(),
                _ => false,
            };
            match is_sorted && model.sort.is_some() {
                true => cell(
                    &format!("{}*", name.trim_end_matches("/s")),
                    column.is_number(),
                ),
                false => cell(name, column.is_number()),
            }
        });
        TableRow::new(header)
    }

    pub(super) fn row(&self, row: &Row, group: &Group, look: Look) -> TableRow<'static> {
        let cells = self.shown.iter().map(|column| match column {
            Column::Bar => {
                let value = self.figure.of(row);
                let bar = look.glyphs.bar(value, self.largest, self.bar);
                Cell::from(Span::styled(bar, look.bars()))
            }
            Column::Line => {
                let values = group.history(row, self.figure);
                let line = look.glyphs.line(&values, self.largest_ever, self.line);
                Cell::from(Span::styled(line, look.bars()))
            }
            Column::State if !matches!(&*row.state, "ready" | "asleep" | "busy" | "-") => {
                Cell::from(Span::styled(row.state.clone(), look.warning()))
            }
            column => cell(&text(*column, row), column.is_number()),
        });
        TableRow::new(cells)
    }
}

fn text(column: Column, row: &Row) -> String {
    let known = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    match column {
        Column::Slot => row.slot.map_or("-".to_owned(), |slot| slot.to_string()),
        Column::Pid => match (row.pid, row.further_pids) {
            (None, _) => "-".to_owned(),
            (Some(pid), 0) => pid.to_string(),
            (Some(pid), more) => format!("{pid}+{more}"),
        },
        Column::State => row.state.clone(),
        Column::Of(figure @ (Figure::Accepts | Figure::Requests)) => per_second(figure.of(row)),
        Column::Of(figure @ (Figure::Stolen | Figure::Busy)) => percent(figure.of(row)),
        Column::Of(figure) => known(figure.of(row)),
        Column::Bar | Column::Line => String::new(),
    }
}

/// The largest of the known values.
pub(super) fn largest(values: impl IntoIterator<Item = Option<f64>>) -> f64 {
    values.into_iter().flatten().fold(0.0, f64::max)
}
