use std::time::{Duration, Instant, UNIX_EPOCH};

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::top::fixture::{answered, attached, sample, server};
use crate::top::menu::Menu;
use crate::top::once;
use crate::top::sources::Lost;
use crate::top::view::Figure;

const BLOCKS: Look = Look {
    glyphs: Glyphs::Blocks,
    has_colour: true,
};
const ASCII: Look = Look {
    glyphs: Glyphs::Ascii,
    has_colour: false,
};

/// An srv with these rates of accepts, and an attached nginx.
fn model(rates: &[u64]) -> (Model, Instant) {
    let start = Instant::now();
    let mut model = Model::new(Duration::from_secs(1));
    for second in 0..3 {
        model.apply(sample(start, second, vec![server(second, rates)]));
        let nginx = attached(second, &[100, 300]);
        model.apply(answered("nginx", start, second, Ok(nginx)));
    }
    let own = model
        .groups
        .iter()
        .position(|group| !group.view.is_attached);
    model.selected = own.unwrap();
    (model, start)
}

fn screen(model: &Model, look: Look, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    terminal
        .draw(|frame| self::frame(frame, model, look, now))
        .unwrap();
    terminal
}

fn shown(model: &Model, look: Look, width: u16, height: u16) -> String {
    once::plain(screen(model, look, width, height).backend().buffer())
}

#[test]
fn eighty_columns_and_24_lines_are_enough() {
    let (model, _) = model(&[100, 50, 25, 0]);
    assert_eq!(
        shown(&model, ASCII, 80, 24).trim_end(),
        "\
srv top: 2 groups                                 every 1s, 2001-09-09T01:46:40Z
  address              server      policy      accepts/s     CV max/mean waiting
  10.0.0.1:80          nginx       p2c               400  0.500     1.50       4
> 127.0.0.1:8080       srv 4711    least             175  0.845     2.29       6
-- 127.0.0.1:8080 --------------------------------------------------------------
srv 4711: policy least, accept ring; steered by the BPF program
accepts 175/s, CV 0.8452, max/mean 2.286; stolen 25 %
active 6, waiting 6, running 4; busy 22 %; requests 350/s
accepts/s                               ##  CV                               ##
slot     pid state    accepts/s              stolen  busy active running waiting
   0    4000 ready          100 #####     ##   25 %  50 %      0       1       0
   1    4001 ready         50.0 ###       ==   26 %  25 %      1       1       1
   2    4002 ready         25.0 #         ::   24 %  12 %      2       1       2
   3    4003 ready            0           __      -   0 %      3       1       3









q quit  ? help  Tab group  p policy  s sort: slot  f bars: accepts/s"
    );
}

#[test]
fn a_frame_without_colour_has_no_colour() {
    let (mut model, _) = model(&[100, 50]);
    model.menu = Menu::Help;
    for (look, has_colour) in [(BLOCKS, true), (ASCII, false)] {
        let terminal = screen(&model, look, 100, 30);
        let mut cells = terminal.backend().buffer().content().iter();
        let is_coloured = cells.any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(is_coloured, has_colour);
    }
    let text = shown(&model, ASCII, 100, 30);
    assert!(text.is_ascii(), "{text}");
}

#[test]
fn a_larger_screen_has_more_columns_and_longer_bars() {
    let (model, _) = model(&[100, 50]);
    let bar = |width| {
        let text = shown(&model, BLOCKS, width, 30);
        let line = text.lines().find(|line| line.contains(" 4000 ")).unwrap();
        line.matches('█').count()
    };
    assert!(bar(160) > bar(80), "{} {}", bar(160), bar(80));
    assert!(shown(&model, BLOCKS, 100, 30).contains("req/s"));
    assert!(!shown(&model, BLOCKS, 80, 24).contains("req/s"));
}

#[test]
fn no_line_is_wider_than_the_screen_and_no_screen_is_too_small() {
    let (mut model, _) = model(&[u64::MAX / 100; 64]);
    for (width, height) in [(1, 1), (20, 5), (59, 40), (60, 12), (80, 24), (300, 100)] {
        for menu in [Menu::None, Menu::Help] {
            model.menu = menu;
            let text = shown(&model, BLOCKS, width, height);
            assert_eq!(text.lines().count(), usize::from(height));
        }
    }
    model.menu = Menu::None;
    assert!(shown(&model, BLOCKS, 59, 40).contains("srv top needs 60 columns"));
}

#[test]
fn workers_that_have_no_room_are_scrolled_to() {
    let (mut model, _) = model(&[10; 64]);
    let has = |model: &Model, pid: &str| shown(model, ASCII, 80, 24).contains(pid);
    assert!(has(&model, "4000") && !has(&model, "4063"));
    for _ in 0..9 {
        model.scroll(10);
    }
    assert!(has(&model, "4063") && !has(&model, "4000"));
    // The last page is full.
    assert!(has(&model, "4051"));
}

#[test]
fn bars_show_the_chosen_figure() {
    let (mut model, _) = model(&[100, 50]);
    model.figure = Figure::Waiting;
    let text = shown(&model, ASCII, 100, 30);
    let bars = |pid: &str| {
        let line = text.lines().find(|line| line.contains(pid)).unwrap();
        line.matches('#').count()
    };
    // Slot 0 has none that waits, and slot 1 has one.
    assert_eq!(bars(" 4000 "), 0, "{text}");
    assert!(bars(" 4001 ") > 3, "{text}");
}

#[test]
fn a_server_that_has_ended_is_named() {
    let (mut model, start) = model(&[100, 50]);
    model.apply(answered("/run/srv/8080.sock", start, 3, Err(Lost::Ended)));
    let text = shown(&model, ASCII, 80, 24);
    assert!(text.contains("ENDED"), "{text}");
    assert!(text.contains("The server has ended."), "{text}");
    // The other goes on.
    assert!(text.contains("p2c"), "{text}");
    for second in [70, 71] {
        model.apply(answered("nginx", start, second, Err(Lost::Ended)));
    }
    model.apply(answered("nginx", start, 200, Err(Lost::Ended)));
    let text = shown(&model, ASCII, 80, 24);
    assert!(text.contains("No server runs any more"), "{text}");
}

#[test]
fn an_attached_group_shows_what_is_known() {
    let (mut model, _) = model(&[100, 50]);
    model.selected = 1 - model.selected;
    let text = shown(&model, ASCII, 80, 24);
    assert!(text.contains("accepts 400/s"), "{text}");
    assert!(text.contains("900+1"), "{text}");
    assert!(!text.contains("stolen 0"), "{text}");
}

#[test]
fn menus_name_the_server_and_the_policy() {
    let (mut model, _) = model(&[100, 50]);
    let group = model.group().unwrap();
    model.menu = Menu::policies(&group.source, &group.view);
    let text = shown(&model, ASCII, 80, 24);
    assert!(
        text.contains("> least") && text.contains("  hash"),
        "{text}"
    );
    model.menu.mark(-100);
    model.menu.choose();
    let text = shown(&model, ASCII, 80, 24);
    assert!(text.contains("from least to hash"), "{text}");
    assert!(text.contains("127.0.0.1:8080"), "{text}");
}

#[test]
fn one_frame_as_text_has_every_group_whole() {
    let (mut model, _) = model(&[10; 64]);
    let text = once::text(&mut model, ASCII, 100, UNIX_EPOCH).unwrap();
    for part in ["4000", "4063", "900+1", "accepts 640/s"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(
        text.lines()
            .all(|line| line.len() <= 100 && line == line.trim_end())
    );
}

#[test]
fn rates_have_few_digits() {
    for (rate, text) in [
        (None, "-"),
        (Some(0.0), "0"),
        (Some(0.52), "0.5"),
        (Some(99.9), "99.9"),
        (Some(99.96), "100"),
        (Some(123_456.7), "123457"),
        (Some(12_345_678.0), "12.3M"),
    ] {
        assert_eq!(per_second(rate), text);
    }
}
