//! `srv load`: what was asked for, checked before anything is sent; the run;
//! what is said and written about it.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::figures::{Figures, Settings};
use super::files::Files;
use super::progress::Progress;
use super::targets::{self, Targets};
use super::{Closed, Connections, Load, Pace, Run, Watch, doubts, table};
use crate::measure::arrivals::{Draw, Service};
use crate::measure::load::args::LoadArgs;
use crate::values::Period;

/// What `--duration` is if nothing else ends the run.
const DURATION: Duration = Duration::from_secs(10);
/// Requests that are planned and recorded in memory, 100 bytes each.
const REQUESTS_MAX: f64 = 20e6;

/// Runs `srv load`; the exit code is as `srv load --help` says.
///
/// # Errors
/// It cannot run, or what it found cannot be written.
pub fn run(args: &LoadArgs) -> Result<ExitCode> {
    let ready = Ready::from(args)?;
    let files = args.out.as_deref().map(Files::create).transpose()?;
    allow_open_files();
    let watch = Arc::new(Watch::new()?);
    let signal = stop_on_signal(&watch)?;
    let pace = ready.paced.pace();
    let (requests, duration) = match pace {
        Pace::Open(draws) => (Some(draws.len()), None),
        Pace::Closed(closed) => (closed.requests, closed.duration),
    };
    let progress = Progress::show(&watch, requests, duration);
    let began = SystemTime::now();
    let run = ready.load.run_watched(pace, &watch);
    if let Some(progress) = progress {
        progress.clear();
    }
    let run = run?;
    let doubts = doubts::doubts(&run, ready.paced.scheduled_ns());
    let figures = Figures::of(&run, began, ready.asked, ready.service, doubts);
    // A reader that went away costs what it would have read, and not the files.
    let shown = show(&figures, args.json);
    if let Some(files) = files {
        files.write(&run, &figures, began)?;
    }
    shown?;
    let signal = signal.load(Ordering::Relaxed);
    Ok(exit_code(&run, &figures, args.strict, signal))
}

/// A run that can begin.
struct Ready {
    load: Load,
    paced: Paced,
    service: Service,
    asked: Settings,
}

enum Paced {
    Open {
        draws: Vec<Draw>,
        duration: Duration,
    },
    Closed(Closed),
}

impl Paced {
    fn pace(&self) -> Pace<'_> {
        match self {
            Self::Open { draws, .. } => Pace::Open(draws),
            Self::Closed(closed) => Pace::Closed(closed),
        }
    }

    fn scheduled_ns(&self) -> Option<u64> {
        match self {
            Self::Open { duration, .. } => Some(duration.as_nanos() as u64),
            Self::Closed(_) => None,
        }
    }
}

impl Ready {
    fn from(args: &LoadArgs) -> Result<Self> {
        let targets = Targets::from(args)?;
        let service = service(args, &targets)?;
        let duration = args.duration.map(|Period(duration)| duration);
        let paced = match (args.rate, args.clients) {
            (Some(rate), _) => open(args, rate, duration.unwrap_or(DURATION), service)?,
            (None, clients) => {
                let requests = args.requests.map(|count| count.0 as usize);
                let duration = duration.or(requests.is_none().then_some(DURATION));
                Paced::Closed(Closed {
                    clients: clients.map_or(0, |count| count.0 as usize),
                    service,
                    seed: args.seed,
                    duration,
                    requests,
                })
            }
        };
        let load = Load {
            targets: targets.targets,
            connections: match args.keep_alive {
                Some(count) => Connections::Pool(count.0 as usize),
                None => Connections::PerRequest,
            },
            timeout: args.timeout.0,
            success: args.success.clone(),
        };
        if let Paced::Closed(closed) = &paced {
            load.check(closed)?;
        }
        let asked = asked(args, targets.url, &load, &paced);
        Ok(Self {
            load,
            paced,
            service,
            asked,
        })
    }
}

/// The law of the service times, which has to have a place in the URL.
fn service(args: &LoadArgs, targets: &Targets) -> Result<Service> {
    let has_place = targets.has_place();
    ensure!(
        has_place || args.service.is_none(),
        "send service times to `{}`: it has no place for them; put {{us}} into its path or \
         query, as in http://HOST:PORT/work?sleep_us={{us}}, or leave --service away",
        targets.url
    );
    ensure!(
        !has_place || args.service.is_some(),
        "fill in {{us}} in `{}`: say with which service times, as in --service fixed:1000",
        targets.url
    );
    Ok(args.service.unwrap_or(Service::Fixed(0)))
}

fn open(args: &LoadArgs, rate: f64, duration: Duration, service: Service) -> Result<Paced> {
    let count = rate * duration.as_secs_f64();
    ensure!(
        count <= REQUESTS_MAX,
        "plan {count:.0} requests: a record of each is kept in memory, {REQUESTS_MAX:.0} at most; \
         lower --rate or --duration"
    );
    let draws = args.arrivals.plan(args.seed, rate, duration, service);
    ensure!(
        !draws.is_empty(),
        "send {rate} requests per second for {duration:?}: no request is due in that time; \
         raise --rate or --duration"
    );
    Ok(Paced::Open { draws, duration })
}

fn asked(args: &LoadArgs, url: String, load: &Load, paced: &Paced) -> Settings {
    let (closed, duration) = match paced {
        Paced::Open { duration, .. } => (None, Some(*duration)),
        Paced::Closed(closed) => (Some(closed), closed.duration),
    };
    Settings {
        url,
        targets: load.targets.len(),
        addresses: targets::addresses(&load.targets),
        success: load.success.to_string(),
        latency_from: if closed.is_some() {
            "sent"
        } else {
            "scheduled"
        }
        .into(),
        arrivals: closed.is_none().then(|| args.arrivals.to_string()),
        rate_per_s: args.rate,
        clients: closed.map(|closed| closed.clients),
        requests: closed.and_then(|closed| closed.requests),
        duration_s: duration.map(|duration| duration.as_secs_f64()),
        seed: args.seed,
        service: args.service.map(|service| service.to_string()),
        keep_alive: args.keep_alive.map(|count| count.0 as usize),
        timeout_s: load.timeout.as_secs_f64(),
        resume: args.resume,
    }
}

/// Connections in flight are files; more than the soft limit may be needed.
fn allow_open_files() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: hard,
        maximum: hard,
    };
    // Where it may not be raised, a run that needs more says so.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// On SIGINT or SIGTERM the run ends and is reported; on the second the process
/// does. The number of the signal that came, or 0.
fn stop_on_signal(watch: &Arc<Watch>) -> Result<Arc<AtomicI32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("catch signals")?;
    let came = Arc::new(AtomicI32::new(0));
    let (watch, seen) = (Arc::clone(watch), Arc::clone(&came));
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if seen.swap(signal, Ordering::Relaxed) != 0 {
                std::process::exit(128 + signal);
            }
            watch.stop();
        }
    });
    Ok(came)
}

fn show(figures: &Figures, json: bool) -> Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(figures)? + "\n",
        false => table::table(figures),
    };
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("print the figures")?;
    for doubt in &figures.doubts {
        eprintln!("srv: warning: {doubt}");
    }
    if figures.answered == 0 && figures.requests > 0 {
        eprintln!("srv: load {}: {}", figures.asked.url, nothing(figures));
    }
    Ok(())
}

/// Why there is no answer at all, and what to look at.
fn nothing(figures: &Figures) -> String {
    let first = figures.first_error.as_deref().unwrap_or("unknown");
    if figures.lost.is_empty() {
        return format!("not one request was sent, the first error: {first}");
    }
    let Settings {
        success, addresses, ..
    } = &figures.asked;
    if !figures.statuses.is_empty() {
        return format!(
            "no status was one of {success}, the first error: {first}; does the server know \
             this path, or is another status a success (--success)?"
        );
    }
    let addresses = addresses.join(", ");
    let question = match figures.lost.keys().all(|kind| kind == "connect") {
        true => format!("does a server listen on {addresses}?"),
        false => format!("does what listens on {addresses} speak HTTP/1.1?"),
    };
    format!("not one request was answered, the first error: {first}; {question}")
}

fn exit_code(run: &Run, figures: &Figures, strict: bool, signal: i32) -> ExitCode {
    if !run.is_complete {
        return u8::try_from(128 + signal).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    let is_lost = figures.answered == 0 || strict && run.lost() > 0;
    if is_lost {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
