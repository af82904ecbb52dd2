//! What is shown and how: the groups with their histories, which of them is selected, and what the
//! keys have set. Changes by samples and keys, and knows neither terminal nor sockets.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::menu::Menu;
use super::sources::{Lost, Sample, Source};
use super::view::{Answer, Figure, Row, View};

/// Samples kept for the lines.
const HISTORY: usize = 300;
/// How long a group whose server has ended stays on the screen.
const ENDED_FOR: Duration = Duration::from_secs(60);
/// Intervals that `+` and `-` choose from.
const INTERVALS_MS: [u64; 6] = [250, 500, 1000, 2000, 5000, 10_000];

/// All that a frame shows.
pub(super) struct Model {
    pub(super) groups: Vec<Group>,
    /// Which of the groups is shown whole.
    pub(super) selected: usize,
    /// The first worker that is shown.
    pub(super) first_row: usize,
    /// What the table of workers is sorted by; by slot if it is `None`.
    pub(super) sort: Option<Figure>,
    pub(super) is_reversed: bool,
    /// What bars and lines show.
    pub(super) figure: Figure,
    pub(super) is_paused: bool,
    pub(super) interval: Duration,
    pub(super) menu: Menu,
    /// What the last action came to.
    pub(super) message: Option<String>,
    answers: BTreeMap<Source, (Instant, Answer)>,
}

/// A group on the screen.
pub(super) struct Group {
    pub(super) source: Source,
    pub(super) view: View,
    pub(super) condition: Condition,
    /// Accepts per second of the whole group, and their CV.
    pub(super) accepts: VecDeque<Option<f64>>,
    pub(super) cv: VecDeque<Option<f64>>,
    /// The figures of each worker, by the key of its row.
    workers: BTreeMap<u64, VecDeque<Row>>,
}

/// Whether the figures are those of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// They are.
    Answers,
    /// The server has ended, at that moment.
    Ended(Instant),
    /// It does not answer, for this reason.
    Silent(String),
}

impl Model {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            groups: Vec::new(),
            selected: 0,
            first_row: 0,
            sort: None,
            is_reversed: false,
            figure: Figure::Accepts,
            is_paused: false,
            interval,
            menu: Menu::None,
            message: None,
            answers: BTreeMap::new(),
        }
    }

    /// The group that is shown whole.
    pub(super) fn group(&self) -> Option<&Group> {
        self.groups.get(self.selected)
    }

    /// Takes up an answer. While the display is paused, only an end changes it.
    pub(super) fn apply(&mut self, sample: Sample) {
        let Sample {
            source,
            asked_at,
            outcome,
        } = sample;
        self.forget_ended(asked_at);
        match outcome {
            Ok(_) if self.is_paused => {}
            Ok(answer) => self.answered(source, asked_at, answer),
            Err(Lost::Ended) => {
                self.answers.remove(&source);
                self.set_condition(&source, &Condition::Ended(asked_at));
            }
            Err(Lost::Silent(why)) => self.set_condition(&source, &Condition::Silent(why)),
        }
    }

    fn answered(&mut self, source: Source, asked_at: Instant, answer: Answer) {
        let earlier = self.answers.get(&source);
        let apart = earlier.map_or(Duration::ZERO, |(at, _)| asked_at.duration_since(*at));
        let views = View::of(earlier.map(|(_, answer)| answer), &answer, apart);
        let selected = self.group().map(Group::id);
        let before = self.groups.extract_if(.., |group| group.source == source);
        let mut before: Vec<Group> = before.collect();
        for view in views {
            let nth = before
                .iter()
                .position(|group| group.view.listen == view.listen);
            let group = match nth {
                Some(nth) => before.swap_remove(nth).with(view),
                None => Group::new(source.clone(), view),
            };
            self.groups.push(group);
        }
        self.groups.sort_by_key(Group::id);
        self.answers.insert(source, (asked_at, answer));
        self.select_again(selected);
    }

    fn set_condition(&mut self, source: &Source, condition: &Condition) {
        for group in self
            .groups
            .iter_mut()
            .filter(|group| group.source == *source)
        {
            // It ended when that was first seen.
            if !matches!(group.condition, Condition::Ended(_)) {
                group.condition = condition.clone();
            }
        }
    }

    fn forget_ended(&mut self, now: Instant) {
        let selected = self.group().map(Group::id);
        self.groups.retain(|group| match group.condition {
            Condition::Ended(at) => now.saturating_duration_since(at) < ENDED_FOR,
            Condition::Answers | Condition::Silent(_) => true,
        });
        self.select_again(selected);
    }

    /// Selects the same group, wherever it is now.
    fn select_again(&mut self, id: Option<(String, Source)>) {
        let nth = self.groups.iter().position(|group| Some(group.id()) == id);
        let last = self.groups.len().saturating_sub(1);
        self.selected = nth.unwrap_or(self.selected.min(last));
    }

    /// Selects the group that is `by` further; after the last comes the first.
    pub(super) fn select(&mut self, by: isize) {
        let count = self.groups.len() as isize;
        if count > 0 {
            self.selected = (self.selected as isize + by).rem_euclid(count) as usize;
            self.first_row = 0;
        }
    }

    /// Shows workers that are `by` further down.
    pub(super) fn scroll(&mut self, by: isize) {
        let last = self
            .group()
            .map_or(0, |group| group.view.rows.len().saturating_sub(1));
        self.first_row = self.first_row.saturating_add_signed(by).min(last);
    }

    /// Sorts by the next figure; after the last comes the slot.
    pub(super) fn sort_by_next(&mut self) {
        self.sort = match self.sort {
            None => Some(Figure::ALL[0]),
            Some(figure) if figure.next() == Figure::ALL[0] => None,
            Some(figure) => Some(figure.next()),
        };
        self.first_row = 0;
    }

    /// Makes the interval the next shorter or longer one. Returns it.
    pub(super) fn change_interval(&mut self, longer: bool) -> Duration {
        let now = self.interval;
        let mut all = INTERVALS_MS.into_iter().map(Duration::from_millis);
        let next = match longer {
            true => all.find(|interval| *interval > now),
            false => all.rfind(|interval| *interval < now),
        };
        self.interval = next.unwrap_or(now);
        self.interval
    }

    /// The rows of the selected group in the order that the user chose.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let group = self.group();
        let mut rows: Vec<&Row> = group.iter().flat_map(|group| &group.view.rows).collect();
        if let Some(figure) = self.sort {
            // The largest first; an unknown figure comes last.
            let value = |row: &Row| figure.of(row).unwrap_or(-1.0);
            rows.sort_by(|a, b| value(b).total_cmp(&value(a)));
        }
        if self.is_reversed {
            rows.reverse();
        }
        rows
    }
}

impl Group {
    fn new(source: Source, view: View) -> Self {
        let empty = Self {
            source,
            view: view.clone(),
            condition: Condition::Answers,
            accepts: VecDeque::new(),
            cv: VecDeque::new(),
            workers: BTreeMap::new(),
        };
        empty.with(view)
    }

    /// By what groups are sorted and found again.
    fn id(&self) -> (String, Source) {
        (self.view.listen.clone(), self.source.clone())
    }

    /// The group with the figures of a new answer.
    fn with(mut self, view: View) -> Self {
        push(&mut self.accepts, view.interval.accepts_per_s);
        push(&mut self.cv, view.interval.accepts_cv);
        let is_there = |key: &u64| view.rows.iter().any(|row| row.key == *key);
        self.workers.retain(|key, _| is_there(key));
        for row in &view.rows {
            push(self.workers.entry(row.key).or_default(), row.clone());
        }
        self.condition = Condition::Answers;
        self.view = view;
        self
    }

    /// What a worker's figure has been, the newest last.
    pub(super) fn history(&self, row: &Row, figure: Figure) -> Vec<Option<f64>> {
        let rows = self.workers.get(&row.key);
        rows.into_iter()
            .flatten()
            .map(|row| figure.of(row))
            .collect()
    }
}

fn push<T>(history: &mut VecDeque<T>, value: T) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(value);
}

#[cfg(test)]
mod tests;
