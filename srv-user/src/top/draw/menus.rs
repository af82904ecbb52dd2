//! The menus over the figures.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};

use super::Look;
use crate::top::bars::Glyphs;
use crate::top::keys;
use crate::top::menu::Menu;
use crate::top::model::Model;

/// Draws the menu of the model, if it has one.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let (title, lines): (&str, Vec<Line<'static>>) = match &model.menu {
        Menu::None => return,
        Menu::Help => (" keys ", help()),
        Menu::Policies(target, names, marked) => {
            let mut lines = vec![
                Line::from(format!("{} has {}.", target.name, target.policy)),
                Line::from("up, down: choose; Enter: go on; Esc: leave"),
            ];
            lines.extend(
                names
                    .iter()
                    .enumerate()
                    .map(|(nth, name)| match nth == *marked {
                        true => Line::from(format!("> {name}")).style(Modifier::REVERSED),
                        false => Line::from(format!("  {name}")),
                    }),
            );
            (" policy ", lines)
        }
        Menu::Confirm(target, policy) => (
            " switch the policy? ",
            vec![
                Line::from(target.name.clone()),
                Line::from(format!("from {} to {policy}", target.policy)),
                Line::from("All addresses of the server change; no connection is lost."),
                Line::from("y: switch; n or Esc: leave it"),
            ],
        ),
    };
    let width = lines
        .iter()
        .map(Line::width)
        .max()
        .unwrap_or(0)
        .max(title.len()) as u16
        + 4;
    let height = lines.len() as u16 + 2;
    let inside = centred(area, width, height);
    let block = match look.glyphs {
        Glyphs::Blocks => Block::bordered(),
        Glyphs::Ascii => Block::bordered().border_set(ASCII_BORDER),
    };
    let block = block.title(title).style(look.heading());
    frame.render_widget(Clear, inside);
    frame.render_widget(Paragraph::new(lines).block(block), inside);
}

const ASCII_BORDER: ratatui::symbols::border::Set<'static> = ratatui::symbols::border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

fn help() -> Vec<Line<'static>> {
    let lines = keys::HELP.iter();
    let lines = lines.map(|(keys, meaning)| Line::from(format!("{keys:28} {meaning}")));
    lines
        .chain([Line::from("any key: leave this help")])
        .collect()
}

/// The middle of `area`, at most as large as it.
fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect::new(
        area.x + (area.width - width) / 2,
        area.y + (area.height - height) / 2,
        width,
        height,
    )
}
