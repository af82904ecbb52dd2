//! What each key does to the model, and what it asks of the caller. Knows no terminal beyond the
//! names of keys.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::menu::Menu;
use super::model::Model;
use super::sources::Source;

/// The keys, for the help.
pub(super) const HELP: [(&str, &str); 10] = [
    ("Tab, Shift-Tab, right, left", "the next or previous group"),
    ("down, up, PgDn, PgUp, Home", "other workers of the group"),
    (
        "s",
        "sort the workers by the next figure, the largest first",
    ),
    ("r", "reverse the order"),
    ("f", "show the next figure in bars and lines"),
    ("Space", "pause and go on"),
    ("+, -", "a longer or shorter interval"),
    ("p", "switch the policy of the group's server"),
    ("?, h", "this help"),
    ("q, Ctrl-C", "quit"),
];

/// How many workers PgDn goes on by.
const PAGE: isize = 10;

/// What a key asks of the caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// To draw.
    Draw,
    /// To end.
    Quit,
    /// To ask at this interval.
    Pace(Duration),
    /// To have this server switch to this policy.
    Switch(Source, &'static str),
}

/// Takes up a key.
pub(super) fn press(model: &mut Model, key: KeyEvent) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::Draw;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Action::Quit,
            _ => Action::Draw,
        };
    }
    match &model.menu {
        Menu::None => press_in_figures(model, key.code),
        Menu::Help => {
            model.menu = Menu::None;
            Action::Draw
        }
        Menu::Policies(..) => press_in_policies(model, key.code),
        Menu::Confirm(target, policy) => {
            let switch = Action::Switch(target.source.clone(), policy);
            press_in_confirmation(model, key.code, switch)
        }
    }
}

fn press_in_figures(model: &mut Model, key: KeyCode) -> Action {
    model.message = None;
    match key {
        KeyCode::Char('q') => return Action::Quit,
        KeyCode::Char('?' | 'h') => model.menu = Menu::Help,
        KeyCode::Tab | KeyCode::Right => model.select(1),
        KeyCode::BackTab | KeyCode::Left => model.select(-1),
        KeyCode::Down | KeyCode::Char('j') => model.scroll(1),
        KeyCode::Up | KeyCode::Char('k') => model.scroll(-1),
        KeyCode::PageDown => model.scroll(PAGE),
        KeyCode::PageUp => model.scroll(-PAGE),
        KeyCode::Home => model.first_row = 0,
        KeyCode::Char('s') => model.sort_by_next(),
        KeyCode::Char('r') => model.is_reversed = !model.is_reversed,
        KeyCode::Char('f') => model.figure = model.figure.next(),
        KeyCode::Char(' ') => model.is_paused = !model.is_paused,
        KeyCode::Char('+' | '=') => return Action::Pace(model.change_interval(true)),
        KeyCode::Char('-') => return Action::Pace(model.change_interval(false)),
        KeyCode::Char('p') => {
            if let Some(group) = model.group() {
                model.menu = Menu::policies(&group.source, &group.view);
            }
        }
        _ => {}
    }
    Action::Draw
}

fn press_in_policies(model: &mut Model, key: KeyCode) -> Action {
    match key {
        KeyCode::Esc | KeyCode::Char('q' | 'p') => model.menu = Menu::None,
        KeyCode::Down | KeyCode::Char('j') => model.menu.mark(1),
        KeyCode::Up | KeyCode::Char('k') => model.menu.mark(-1),
        KeyCode::Enter => model.menu.choose(),
        _ => {}
    }
    Action::Draw
}

/// Only `y` confirms: a key that was pressed twice must switch nothing.
fn press_in_confirmation(model: &mut Model, key: KeyCode, switch: Action) -> Action {
    match key {
        KeyCode::Char('y') => {
            model.menu = Menu::None;
            switch
        }
        KeyCode::Esc | KeyCode::Char('n' | 'q') => {
            model.menu = Menu::None;
            model.message = Some("The policy was not switched.".to_owned());
            Action::Draw
        }
        _ => Action::Draw,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::top::fixture::{answered, attached, sample, server, source};

    fn model() -> Model {
        let start = Instant::now();
        let mut model = Model::new(Duration::from_secs(1));
        model.apply(sample(start, 0, vec![server(0, &[10, 30])]));
        model
    }

    fn type_keys(model: &mut Model, keys: &[KeyCode]) -> Action {
        let mut last = Action::Draw;
        for key in keys {
            last = press(model, KeyEvent::from(*key));
        }
        last
    }

    #[test]
    fn a_policy_is_switched_after_a_confirmation_and_not_before() {
        let mut model = model();
        // The server has `least`. The one below it is the next in the table.
        let choose = [KeyCode::Char('p'), KeyCode::Down, KeyCode::Enter];
        assert_eq!(type_keys(&mut model, &choose), Action::Draw);
        // Enter that was pressed twice is no confirmation.
        assert_eq!(type_keys(&mut model, &[KeyCode::Enter]), Action::Draw);
        assert!(matches!(model.menu, Menu::Confirm(..)));
        let switch = type_keys(&mut model, &[KeyCode::Char('y')]);
        assert_eq!(
            switch,
            Action::Switch(source("/run/srv/8080.sock"), "hermes")
        );
        assert_eq!(model.menu, Menu::None);
        type_keys(&mut model, &choose);
        let leave = type_keys(&mut model, &[KeyCode::Char('n')]);
        assert_eq!((leave, &model.menu), (Action::Draw, &Menu::None));
        assert!(model.message.is_some());
        type_keys(&mut model, &[KeyCode::Char('p'), KeyCode::Esc]);
        assert_eq!(model.menu, Menu::None);
    }

    /// Groups come and go while the menu is there.
    #[test]
    fn the_server_that_was_selected_is_switched_wherever_the_selection_is() {
        let mut model = model();
        type_keys(&mut model, &[KeyCode::Char('p'), KeyCode::Enter]);
        let start = Instant::now();
        model.apply(answered("nginx", start, 1, Ok(attached(1, &[1]))));
        model.apply(sample(start, 2, Vec::new()));
        let Action::Switch(at, _) = type_keys(&mut model, &[KeyCode::Char('y')]) else {
            panic!("y confirms");
        };
        assert_eq!(at, source("/run/srv/8080.sock"));
    }

    #[test]
    fn an_attached_group_is_offered_what_it_can_have() {
        let mut model = Model::new(Duration::from_secs(1));
        let nginx = answered("nginx", Instant::now(), 0, Ok(attached(0, &[1])));
        model.apply(nginx);
        type_keys(&mut model, &[KeyCode::Char('p')]);
        let Menu::Policies(target, names, marked) = &model.menu else {
            panic!("p opens the policies");
        };
        assert_eq!(names[*marked], "p2c");
        assert!(!names.contains(&"hash"), "{names:?}");
        assert!(target.name.contains("nginx"), "{target:?}");
    }

    #[test]
    fn q_and_ctrl_c_quit_from_the_figures_and_ctrl_c_from_everywhere() {
        let mut model = model();
        let quit = type_keys(&mut model, &[KeyCode::Char('q')]);
        assert_eq!(quit, Action::Quit);
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for keys in [&[][..], &[KeyCode::Char('p')], &[KeyCode::Enter]] {
            type_keys(&mut model, keys);
            assert_eq!(press(&mut model, ctrl_c), Action::Quit);
        }
    }

    #[test]
    fn keys_set_what_is_shown() {
        let mut model = model();
        type_keys(&mut model, &[KeyCode::Char('f'), KeyCode::Char('s')]);
        assert_ne!(model.figure.name(), "accepts/s");
        assert!(model.sort.is_some());
        type_keys(&mut model, &[KeyCode::Char(' '), KeyCode::Down]);
        assert_eq!((model.is_paused, model.first_row), (true, 1));
        type_keys(&mut model, &[KeyCode::PageDown]);
        assert_eq!(model.first_row, 1, "there are two workers");
        let pace = type_keys(&mut model, &[KeyCode::Char('-')]);
        assert_eq!(pace, Action::Pace(Duration::from_millis(500)));
        type_keys(&mut model, &[KeyCode::Char('?')]);
        assert_eq!(model.menu, Menu::Help);
        type_keys(&mut model, &[KeyCode::Char('q')]);
        assert_eq!(model.menu, Menu::None);
    }
}
