//! `srv top`: the figures of every server and attached group in a terminal, once in each interval.
//! [`run`] owns the order of events. What is asked is in `sources`, what is shown in `model`, how in
//! `draw`, and the terminal in `screen`.

mod bars;
mod draw;
#[cfg(test)]
mod fixture;
mod keys;
mod menu;
mod model;
mod once;
mod screen;
mod sources;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail};
use crossterm::event::KeyEvent;

use crate::control::no_server;
use bars::Glyphs;
use draw::Look;
use keys::Action;
use model::Model;
use screen::{FromTerminal, Screen};
use sources::{Lost, Pace, Sample, Source};

/// What to show, and how.
#[derive(Clone, Debug)]
pub struct TopOptions {
    /// The control socket of the only server to show; if it is `None`, all that this user may see.
    pub control: Option<PathBuf>,
    /// The time between two questions.
    pub interval: Duration,
    /// Whether to print one frame and end.
    pub once: bool,
}

/// What happens.
enum Event {
    Sample(Box<Sample>),
    Terminal(FromTerminal),
    /// A policy was switched; or why not.
    Switched(String),
}

impl From<Sample> for Event {
    fn from(sample: Sample) -> Self {
        Self::Sample(Box::new(sample))
    }
}

impl From<FromTerminal> for Event {
    fn from(event: FromTerminal) -> Self {
        Self::Terminal(event)
    }
}

/// Shows the figures until a key or a signal ends it.
///
/// # Errors
/// No server runs, the named one does not answer, or the terminal cannot be drawn on or was closed.
pub fn run(options: &TopOptions) -> anyhow::Result<()> {
    let named = options.control.clone().map(Source::Socket);
    let first = first_samples(named.as_ref())?;
    if options.once {
        return once::print(first, options.interval, look());
    }
    let (to_events, events) = channel();
    let mut screen = Screen::open(&to_events)?;
    let pace = Pace::new(options.interval);
    let mut model = Model::new(options.interval);
    for sample in first {
        model.apply(sample);
    }
    sources::watch(named, pace.clone(), to_events.clone());
    let ended = follow(&mut screen, &mut model, &pace, &events, &to_events);
    drop(screen);
    ended
}

/// The answers of all servers, of which there is at least one.
fn first_samples(named: Option<&Source>) -> anyhow::Result<Vec<Sample>> {
    let found = match named {
        Some(source) => vec![source.clone()],
        None => Source::all()?,
    };
    let samples = sources::ask_all(&found);
    if samples.iter().any(|sample| sample.outcome.is_ok()) {
        return Ok(samples);
    }
    let silent = samples.into_iter().find_map(|sample| match sample.outcome {
        Err(Lost::Silent(why)) => Some(why),
        _ => None,
    });
    Err(match (silent, named) {
        (Some(why), _) => anyhow!("show the server: {why}"),
        (None, Some(Source::Socket(path))) => anyhow!(
            "show the server at {}: no process answers there; `srv status` finds the servers that run",
            path.display()
        ),
        (None, _) => anyhow!(
            "show servers: {:#}; `srv serve` starts one, `srv run` starts one of another program, and \
             `srv attach` steers one that runs",
            no_server()
        ),
    })
}

fn follow(
    screen: &mut Screen,
    model: &mut Model,
    pace: &Arc<Pace>,
    events: &Receiver<Event>,
    to_events: &Sender<Event>,
) -> anyhow::Result<()> {
    let look = look();
    loop {
        screen.draw(|frame| draw::frame(frame, model, look, SystemTime::now()))?;
        let first = events.recv()?;
        // What has come meanwhile needs no frame of its own.
        for event in [first].into_iter().chain(events.try_iter()) {
            match event {
                Event::Sample(sample) => model.apply(*sample),
                Event::Switched(text) => model.message = Some(text),
                Event::Terminal(FromTerminal::Resized) => {}
                Event::Terminal(FromTerminal::Signal) => return Ok(()),
                Event::Terminal(FromTerminal::Gone(error)) => bail!("read the terminal: {error}"),
                Event::Terminal(FromTerminal::Key(key)) => {
                    if !pressed(model, key, pace, to_events) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Does what a key asks for. Returns whether srv top goes on.
fn pressed(model: &mut Model, key: KeyEvent, pace: &Pace, to_events: &Sender<Event>) -> bool {
    match keys::press(model, key) {
        Action::Draw => {}
        Action::Quit => return false,
        Action::Pace(interval) => pace.change(interval),
        Action::Switch(source, policy) => {
            // A server that has stopped answers late, and the keys are to go on working.
            let to_events = to_events.clone();
            std::thread::spawn(move || {
                let said = match source.switch(policy) {
                    Ok(text) => text,
                    Err(error) => format!("{error:#}"),
                };
                // The command may have ended.
                let _ = to_events.send(Event::Switched(said));
            });
        }
    }
    true
}

/// What the environment says about the terminal.
fn look() -> Look {
    let variable = |name: &str| std::env::var(name).ok();
    Look {
        glyphs: Glyphs::of_locale(variable),
        has_colour: variable("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}
