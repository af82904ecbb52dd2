//! Whether an observed server would gain by `srv run`, and the command that helps it. Pure.

use serde::{Deserialize, Serialize};

use super::started::Started;
use super::verdict::Finding;
use crate::kernel::elf::Linkage;

/// What the user can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Whether the server is known to gain by `srv run`.
    pub run: bool,
    /// The command that helps, or would if the reason holds; `None` if none does.
    pub command: Option<String>,
    /// One line for people.
    pub reason: String,
}

/// The part of srv that has the sockets already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Under {
    /// `srv run`; why the kernel's hash chooses, or `None` if the program does.
    Run(Option<String>),
    /// `srv run`, whose coordinator does not tell more.
    SilentRun,
    /// `srv serve`.
    Serve,
}

/// What is known of the server.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    /// The part of srv that has its sockets.
    pub under: Option<Under>,
    /// How many listening sockets it has.
    pub sockets: usize,
    /// How many of its processes accept.
    pub workers: usize,
    /// The verdict on their shares.
    pub finding: Finding,
    /// How it was started.
    pub started: &'a Started,
    /// `srv attach` for this server; `None` if it is attached.
    pub attach: Option<String>,
}

impl Facts<'_> {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Hint {
        if let Some(under) = &self.under {
            return no(under.reason());
        }
        match self.started.linkage {
            Some(Linkage::Static) => self.attach_alone("its program is linked statically"),
            Some(Linkage::Go) => self.attach_alone("its program is a Go binary"),
            _ if self.sockets > 1 => self.own_sockets(),
            _ => match self.workers {
                0 => no("it is unknown which of its processes accept".into()),
                1 => self.one_acceptor(),
                _ => self.shared_socket(),
            },
        }
    }

    fn attach_alone(&self, why: &str) -> Hint {
        let reason = format!("{why}, so `srv run` cannot load its library into it");
        match &self.attach {
            Some(attach) if self.sockets > 1 => Hint {
                run: false,
                command: Some(attach.clone()),
                reason: format!("{reason}; `srv attach` steers it"),
            },
            _ => no(reason),
        }
    }

    fn one_acceptor(&self) -> Hint {
        let reason = "one process accepts for all, so `srv run` alone gives nothing";
        match self.started.has_master {
            true => no(format!("{reason}: have the server accept in several")),
            false => Hint {
                run: false,
                command: Some(self.run("--copies N ")),
                reason: format!("{reason}; several copies on one port share the load"),
            },
        }
    }

    fn shared_socket(&self) -> Hint {
        let (run, reason) = match self.finding {
            Finding::Uneven | Finding::Waiting => (
                true,
                "its workers share one socket, and not evenly: `srv run` gives each a socket, the \
                 ring and steering",
            ),
            Finding::Even => {
                return no(
                    "its workers share one socket, and evenly: little is to be gained".into(),
                );
            }
            Finding::Few | Finding::OneWorker | Finding::Unknown => (
                false,
                "its workers share one socket: if the shares are uneven, which is not known, \
                 `srv run` makes them even",
            ),
        };
        Hint {
            run,
            command: Some(self.run("")),
            reason: reason.to_owned(),
        }
    }

    fn own_sockets(&self) -> Hint {
        let reason = match &self.attach {
            Some(attach) => format!(
                "the kernel's hash chooses between its sockets: `srv run` gives the ring and \
                 steering, `{attach}` steers without a restart"
            ),
            None => "it is attached: `srv run` would give the ring, too, by which an idle worker \
                     takes what waits for a busy one"
                .to_owned(),
        };
        Hint {
            run: true,
            command: Some(self.run("")),
            reason,
        }
    }

    fn run(&self, flags: &str) -> String {
        let copies = match flags {
            "" if self.started.starts > 1 => format!("--copies {} ", self.started.starts),
            flags => flags.to_owned(),
        };
        let command = self.started.command.as_deref().unwrap_or("COMMAND");
        format!("srv run {copies}-- {command}")
    }
}

impl Under {
    fn reason(&self) -> String {
        match self {
            Self::Run(None) => "under srv run, steered".to_owned(),
            Self::Run(Some(why)) => format!("under srv run, hashed ({why}); the ring corrects it"),
            Self::SilentRun => "under srv run; its coordinator does not answer".to_owned(),
            Self::Serve => "this is `srv serve`, which steers its own workers".to_owned(),
        }
    }
}

fn no(reason: String) -> Hint {
    Hint {
        run: false,
        command: None,
        reason,
    }
}

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)?;
        match &self.command {
            Some(command) => write!(f, "; use: `{command}`"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(started: &Started, sockets: usize, workers: usize, finding: Finding) -> Facts<'_> {
        Facts {
            under: None,
            sockets,
            workers,
            finding,
            started,
            attach: Some("srv attach --listen 127.0.0.1:80".into()),
        }
    }

    fn started(linkage: Linkage, has_master: bool) -> Started {
        Started {
            command: Some("node server.js".into()),
            linkage: Some(linkage),
            has_master,
            starts: 1,
        }
    }

    #[test]
    fn run_is_advised_to_those_that_gain() {
        let several = started(Linkage::Dynamic, true);
        for (sockets, finding, run, command) in [
            (4, Finding::Even, true, Some("srv run -- node server.js")),
            (1, Finding::Uneven, true, Some("srv run -- node server.js")),
            (1, Finding::Few, false, Some("srv run -- node server.js")),
            (1, Finding::Even, false, None),
        ] {
            let hint = facts(&several, sockets, 4, finding).hint();
            assert_eq!(
                (hint.run, hint.command.as_deref()),
                (run, command),
                "{hint}"
            );
        }
        let hidden = Started {
            command: None,
            starts: 3,
            ..several
        };
        let hint = facts(&hidden, 3, 3, Finding::Even).hint();
        assert_eq!(
            hint.command.as_deref(),
            Some("srv run --copies 3 -- COMMAND")
        );
    }

    #[test]
    fn run_is_not_advised_where_it_gives_nothing() {
        let alone = started(Linkage::Dynamic, false);
        let hint = facts(&alone, 1, 1, Finding::OneWorker).hint();
        let copies = "srv run --copies N -- node server.js";
        assert_eq!((hint.run, hint.command.as_deref()), (false, Some(copies)));
        let with_master = started(Linkage::Dynamic, true);
        let hint = facts(&with_master, 1, 1, Finding::OneWorker).hint();
        assert_eq!((hint.run, hint.command), (false, None));
        for linkage in [Linkage::Static, Linkage::Go] {
            let fixed = started(linkage, true);
            let hint = facts(&fixed, 4, 4, Finding::Uneven).hint();
            let attach = "srv attach --listen 127.0.0.1:80";
            assert_eq!((hint.run, hint.command.as_deref()), (false, Some(attach)));
            let hint = facts(&fixed, 1, 4, Finding::Uneven).hint();
            assert_eq!((hint.run, hint.command), (false, None));
        }
    }

    #[test]
    fn what_srv_has_already_is_named_and_nothing_is_advised() {
        let several = started(Linkage::Dynamic, true);
        for (under, reason) in [
            (Under::Run(None), "under srv run, steered"),
            (
                Under::Run(Some("no CAP_BPF".into())),
                "under srv run, hashed (no CAP_BPF)",
            ),
            (Under::SilentRun, "under srv run"),
            (Under::Serve, "srv serve"),
        ] {
            let mut facts = facts(&several, 4, 4, Finding::Uneven);
            facts.under = Some(under);
            let hint = facts.hint();
            assert_eq!((hint.run, &hint.command), (false, &None));
            assert!(hint.reason.contains(reason), "{hint}");
        }
    }
}
