//! Where the figures come from: finds the servers and attached groups that this user may see, and
//! asks each in a thread of its own, so that one that does not answer delays no other. Knows
//! nothing of what is shown.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::view::Answer;
use crate::attach::{lock, report};
use crate::control::{self, Reply, Request, ask};

/// How often srv looks for servers and groups that were started meanwhile.
const FIND_EVERY: Duration = Duration::from_secs(2);

/// A server, or a group to which `srv attach` has attached a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The server or agent that answers at this control socket.
    Socket(PathBuf),
    /// The attached group of this network namespace and address. Its agent may have left.
    Group(u64, SocketAddr),
}

/// One answer, or why there is none.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) source: Source,
    /// When it was asked.
    pub(super) asked_at: Instant,
    pub(super) outcome: Result<Answer, Lost>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// The server has ended, or the group is gone.
    Ended,
    /// It does not answer, or not what was asked.
    Silent(String),
}

impl Source {
    /// The servers and groups that this user may ask.
    ///
    /// # Errors
    /// There is no runtime directory.
    pub(super) fn all() -> anyhow::Result<Vec<Self>> {
        let servers = control::servers()?.into_iter().map(Self::Socket);
        // If a record cannot be read, `srv status` says so.
        let (records, _) = lock::records()?;
        let groups = records
            .into_iter()
            .map(|record| Self::Group(record.namespace, record.address));
        Ok(servers.chain(groups).collect())
    }

    /// Asks for the status.
    pub(super) fn sample(&self) -> Sample {
        let asked_at = Instant::now();
        let outcome = match self {
            Self::Socket(path) => match ask(Some(path), &Request::Status) {
                Ok(Reply::Status(status)) => Ok(Answer::Server(status)),
                Ok(Reply::Attached(status)) => Ok(Answer::Attached(status)),
                Ok(other) => Err(Lost::Silent(format!("asked for status, got {other:?}"))),
                Err(error) if has_ended(&error) => Err(Lost::Ended),
                Err(error) => Err(Lost::Silent(format!("{error:#}"))),
            },
            Self::Group(..) => self.group().ok_or(Lost::Ended),
        };
        Sample {
            source: self.clone(),
            asked_at,
            outcome,
        }
    }

    fn group(&self) -> Option<Answer> {
        let record = self.record()?;
        report::of_record(&record).map(Answer::Attached)
    }

    fn record(&self) -> Option<lock::Record> {
        let Self::Group(namespace, address) = self else {
            return None;
        };
        let (records, _) = lock::records().ok()?;
        let mut records = records.into_iter();
        records.find(|record| (record.namespace, record.address) == (*namespace, *address))
    }

    /// Has it steer by that policy. Returns what the server or agent says.
    ///
    /// # Errors
    /// It refuses, does not answer, or has no agent that could switch.
    pub(super) fn switch(&self, policy: &str) -> anyhow::Result<String> {
        let path = match self {
            Self::Socket(path) => path.clone(),
            Self::Group(_, address) => {
                self.record()
                    .and_then(|record| record.control)
                    .ok_or_else(|| {
                        anyhow!(
                            "switch the policy of {address}: no agent steers it; \
                         `srv attach --listen {address} --policy {policy}` starts one"
                        )
                    })?
            }
        };
        match ask(Some(&path), &Request::Policy(policy.into()))? {
            Reply::Done(text) => Ok(text),
            other => Err(anyhow!("switch the policy: the server answered {other:?}")),
        }
    }
}

/// Asks all of them at once.
pub(super) fn ask_all(sources: &[Source]) -> Vec<Sample> {
    std::thread::scope(|scope| {
        let asking = sources.iter().map(|source| scope.spawn(|| source.sample()));
        let asking: Vec<_> = asking.collect();
        let samples = asking.into_iter().filter_map(|each| each.join().ok());
        samples.collect()
    })
}

/// Whether no process has the socket any more.
fn has_ended(error: &anyhow::Error) -> bool {
    let kinds = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    let mut kinds = kinds.filter(|kind| {
        matches!(
            kind,
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        )
    });
    kinds.next().is_some()
}

/// The time from one question to the next, which the user may change meanwhile.
pub(super) struct Pace {
    interval: Mutex<Duration>,
    changed: Condvar,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            interval: Mutex::new(interval),
            changed: Condvar::new(),
        })
    }

    /// Makes it `interval` from now on, also for threads that wait.
    pub(super) fn change(&self, interval: Duration) {
        *self.interval.lock().unwrap_or_else(PoisonError::into_inner) = interval;
        self.changed.notify_all();
    }

    /// Waits until an interval has passed since `start`.
    fn wait(&self, start: Instant) {
        let mut interval = self.interval.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(rest) = interval
            .checked_sub(start.elapsed())
            .filter(|rest| !rest.is_zero())
        {
            let waited = self.changed.wait_timeout(interval, rest);
            (interval, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Asks `named`, or everything that is found, once in each interval, and sends the answers. Looks
/// for more from time to time. Ends with the process.
pub(super) fn watch<E: From<Sample> + Send + 'static>(
    named: Option<Source>,
    pace: Arc<Pace>,
    events: Sender<E>,
) {
    let watched: Watched = Arc::default();
    std::thread::spawn(move || {
        loop {
            let found = match &named {
                Some(source) => vec![source.clone()],
                // If the folder cannot be listed now, the next attempt may succeed.
                None => Source::all().unwrap_or_default(),
            };
            for source in found {
                ask_repeatedly(source, &watched, &pace, &events);
            }
            std::thread::sleep(FIND_EVERY);
        }
    });
}

/// The sources that a thread asks.
type Watched = Arc<Mutex<BTreeSet<Source>>>;

fn ask_repeatedly<E: From<Sample> + Send + 'static>(
    source: Source,
    watched: &Watched,
    pace: &Arc<Pace>,
    events: &Sender<E>,
) {
    let mut all = watched.lock().unwrap_or_else(PoisonError::into_inner);
    if !all.insert(source.clone()) {
        return;
    }
    let (watched, pace, events) = (watched.clone(), pace.clone(), events.clone());
    std::thread::spawn(move || {
        loop {
            let sample = source.sample();
            let (asked_at, has_ended) =
                (sample.asked_at, matches!(sample.outcome, Err(Lost::Ended)));
            let is_read = events.send(sample.into()).is_ok();
            if has_ended || !is_read {
                break;
            }
            pace.wait(asked_at);
        }
        let mut all = watched.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&source);
    });
}
