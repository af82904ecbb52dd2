use super::*;
use crate::top::fixture::{answered, attached, sample, server, source};

fn model() -> (Model, Instant) {
    let start = Instant::now();
    let mut model = Model::new(Duration::from_secs(1));
    for second in 0..3 {
        model.apply(sample(start, second, vec![server(second, &[10, 30, 20])]));
    }
    (model, start)
}

fn slots(model: &Model) -> Vec<Option<u32>> {
    model.rows().iter().map(|row| row.slot).collect()
}

#[test]
fn the_figures_are_those_of_the_last_interval() {
    let (model, _) = model();
    let group = model.group().unwrap();
    assert_eq!(group.view.interval.accepts_per_s, Some(60.0));
    let row = &group.view.rows[1];
    assert_eq!(row.interval.requests_per_s, Some(60.0));
    let history = group.history(row, Figure::Accepts);
    assert_eq!(history, [None, Some(30.0), Some(30.0)]);
}

#[test]
fn the_history_is_bounded() {
    let (mut model, start) = model();
    for second in 3..400 {
        model.apply(sample(start, second, vec![server(second, &[10, 30, 20])]));
    }
    let group = model.group().unwrap();
    let history = group.history(&group.view.rows[0], Figure::Waiting);
    assert_eq!((history.len(), group.cv.len()), (HISTORY, HISTORY));
}

#[test]
fn workers_are_sorted_by_the_chosen_figure() {
    let (mut model, _) = model();
    assert_eq!(slots(&model), [Some(0), Some(1), Some(2)]);
    model.sort_by_next();
    assert_eq!(slots(&model), [Some(1), Some(2), Some(0)]);
    model.is_reversed = true;
    assert_eq!(slots(&model), [Some(0), Some(2), Some(1)]);
    for _ in 1..Figure::ALL.len() {
        model.sort_by_next();
    }
    assert_eq!(model.sort, Some(Figure::Waiting));
    model.sort_by_next();
    assert_eq!(model.sort, None);
}

#[test]
fn the_same_group_stays_selected_wherever_it_is() {
    let (mut model, start) = model();
    let nginx = answered("nginx", start, 3, Ok(attached(3, &[5])));
    model.apply(nginx);
    // It comes first by address, and what was selected is selected.
    assert_eq!((model.groups.len(), model.selected), (2, 1));
    model.select(1);
    assert_eq!(model.selected, 0);
    model.select(-1);
    assert_eq!(model.group().unwrap().view.listen, "127.0.0.1:8080");
    // A reload took the address away.
    model.apply(sample(start, 4, Vec::new()));
    assert_eq!(model.group().unwrap().view.listen, "10.0.0.1:80");
}

#[test]
fn a_server_that_has_ended_is_shown_for_a_minute() {
    let (mut model, start) = model();
    let name = "/run/srv/8080.sock";
    model.apply(answered(name, start, 3, Err(Lost::Ended)));
    model.apply(answered(name, start, 5, Err(Lost::Ended)));
    let ended = Condition::Ended(start + Duration::from_secs(3));
    assert_eq!(model.group().unwrap().condition, ended);
    model.apply(answered("other", start, 62, Err(Lost::Ended)));
    assert_eq!(model.groups.len(), 1);
    model.apply(answered("other", start, 64, Err(Lost::Ended)));
    assert!(model.group().is_none());
    model.select(1);
    model.scroll(1);
    assert!(model.rows().is_empty());
}

#[test]
fn a_server_that_is_started_again_begins_a_new_interval() {
    let (mut model, start) = model();
    let name = "/run/srv/8080.sock";
    model.apply(answered(name, start, 3, Err(Lost::Ended)));
    model.apply(sample(start, 9, vec![server(9, &[10, 30, 20])]));
    let group = model.group().unwrap();
    assert_eq!(group.condition, Condition::Answers);
    assert_eq!(group.view.interval.accepts, None);
}

#[test]
fn a_pause_keeps_the_figures_and_not_the_news_of_an_end() {
    let (mut model, start) = model();
    model.is_paused = true;
    model.apply(sample(start, 3, vec![server(3, &[90, 30, 20])]));
    let rate = |model: &Model| model.group().unwrap().view.interval.accepts_per_s;
    assert_eq!(rate(&model), Some(60.0));
    model.is_paused = false;
    // The interval is the whole time since the last figures: 60/s twice, of 2 s.
    model.apply(sample(start, 4, vec![server(4, &[10, 30, 20])]));
    assert_eq!(rate(&model), Some(60.0));
    assert_eq!(model.group().unwrap().view.interval.seconds, 2.0);
    model.is_paused = true;
    model.apply(answered("/run/srv/8080.sock", start, 5, Err(Lost::Ended)));
    assert_ne!(model.group().unwrap().condition, Condition::Answers);
}

#[test]
fn a_server_that_does_not_answer_says_why_and_comes_back() {
    let (mut model, start) = model();
    let name = "/run/srv/8080.sock";
    let why = "it has not answered within 5 s".to_owned();
    model.apply(answered(name, start, 8, Err(Lost::Silent(why.clone()))));
    assert_eq!(model.group().unwrap().condition, Condition::Silent(why));
    model.apply(sample(start, 9, vec![server(9, &[10, 30, 20])]));
    assert_eq!(model.group().unwrap().condition, Condition::Answers);
    assert_eq!(model.group().unwrap().source, source(name));
}

#[test]
fn intervals_become_longer_and_shorter_within_bounds() {
    let mut model = Model::new(Duration::from_millis(700));
    assert_eq!(model.change_interval(true), Duration::from_secs(1));
    assert_eq!(model.change_interval(false), Duration::from_millis(500));
    for _ in 0..9 {
        model.change_interval(false);
    }
    assert_eq!(model.interval, Duration::from_millis(250));
    for _ in 0..9 {
        model.change_interval(true);
    }
    assert_eq!(model.interval, Duration::from_secs(10));
}
