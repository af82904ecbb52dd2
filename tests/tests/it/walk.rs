//! A random walk through everything that changes which slots have workers, and whose
//! they are. After each step the server that answers must give its status, and that
//! must come to show what the step asked for.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, Signal};
use srv::control::status::{GroupStatus, WorkerStatus};
use srv::control::{Request, Status, ask};
use srv_tests::server::Server;

use crate::client::get_many;
use crate::configured::Configured;
use crate::probe::{asked, endurance, pid, signal, state, until, until_group};

/// What the walk may do next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Reload(u32),
    Join(u32),
    LeaveSecond,
    KillSecond,
    StopFirst,
    KillFirst,
    KillWorker(u32),
    Upgrade,
}

/// The servers on one address as the walk expects them to be.
struct Walk {
    configured: Configured,
    accept: &'static str,
    /// Workers of the server that is asked.
    workers: u32,
    /// The server that has joined that one, and its workers.
    second: Option<(Server, u32)>,
    /// Servers that joined once and now are the one that is asked.
    promoted: Vec<Server>,
    random: Xoshiro256PlusPlus,
}

impl Walk {
    fn start(workers: u32, accept: &'static str, seed: u64) -> Self {
        let file = format!("workers = {workers}\n");
        Self {
            configured: Configured::start(&file, &["--worker-header", "--accept", accept]),
            accept,
            workers,
            second: None,
            promoted: Vec::new(),
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    fn server(&self) -> &Server {
        &self.configured.server
    }

    fn any_below(&mut self, end: u32) -> u32 {
        self.random.next_u32() % end
    }

    fn next_step(&mut self) -> Step {
        let some_workers = 1 + self.any_below(6);
        match (self.any_below(6), self.second.is_some()) {
            (0, _) => Step::KillWorker(some_workers),
            (1, _) => Step::Reload(some_workers),
            (2, false) => Step::Upgrade,
            (_, false) if self.any_below(2) == 0 => Step::Reload(some_workers),
            (_, false) => Step::Join(some_workers),
            (2, true) => Step::StopFirst,
            (3, true) => Step::KillFirst,
            (4, true) => Step::KillSecond,
            (_, true) => Step::LeaveSecond,
        }
    }

    /// Takes a step and waits until the status shows what it asked for.
    fn take(&mut self, step: Step) {
        match step {
            Step::Reload(workers) => self.reload(workers),
            Step::Join(workers) => self.join(workers),
            Step::LeaveSecond => {
                let (second, _) = self.second.take().unwrap();
                assert!(second.stop().unwrap().success(), "{step:?}");
            }
            Step::KillSecond => {
                let (second, _) = self.second.take().unwrap();
                signal(second.pid(), Signal::KILL);
            }
            Step::StopFirst => self.promote(Signal::TERM),
            Step::KillFirst => self.promote(Signal::KILL),
            Step::KillWorker(nth) => self.kill_worker(nth),
            Step::Upgrade => {
                self.write_workers(self.workers);
                let before = self.status().pid;
                ask(Some(&self.server().control()), &Request::Upgrade).unwrap();
                assert_ne!(self.status().pid, before, "{step:?}");
            }
        }
        self.await_settled(step);
        get_many(self.server().address(), 4);
    }

    fn status(&self) -> Status {
        until("the server answers", || asked(self.server()))
    }

    fn write_workers(&self, workers: u32) {
        self.configured.rewrite(&format!("workers = {workers}\n"));
    }

    /// A server that has a part in another's groups keeps its number of workers.
    fn reload(&mut self, workers: u32) {
        self.write_workers(workers);
        let (said, succeeded) = self.configured.reload();
        let may_change = self.second.is_none() || workers == self.workers;
        assert_eq!(succeeded, may_change, "{said}");
        if succeeded {
            self.workers = workers;
        }
    }

    fn join(&mut self, workers: u32) {
        self.write_workers(workers);
        let file = self.configured.file.to_str().unwrap();
        let arguments = ["--config", file, "--worker-header", "--accept", self.accept];
        let second = self.server().start_joined(arguments).unwrap();
        self.second = Some((second, workers));
    }

    /// The first server goes, and the one that had joined goes on.
    fn promote(&mut self, how: Signal) {
        let (second, workers) = self.second.take().unwrap();
        let before = self.status().pid;
        signal(Pid::from_raw(before as i32).unwrap(), how);
        let now = second.pid().as_raw_nonzero().get() as u32;
        until("the other server is the one that is asked", || {
            asked(self.server()).filter(|status| status.pid == now)
        });
        self.workers = workers;
        self.promoted.push(second);
    }

    fn kill_worker(&self, nth: u32) {
        let workers = self.status().groups.remove(0).workers;
        let living: Vec<_> = workers.iter().filter(|worker| worker.pid != 0).collect();
        signal(pid(living[nth as usize % living.len()]), Signal::KILL);
    }

    fn await_settled(&self, step: Step) {
        let expected = (self.workers as usize, self.seconds_workers() as usize);
        let what = format!("after {step:?} the workers are {expected:?}");
        until_group(self.server(), &what, |group| {
            let workers = group.workers.iter();
            let mut others = workers.filter(|worker| worker.state != "ready");
            let ready = (count_ready(group, false), count_ready(group, true));
            ready == expected && others.all(|worker| worker.state == "absent")
        });
    }

    fn seconds_workers(&self) -> u32 {
        self.second.as_ref().map_or(0, |(_, workers)| *workers)
    }
}

fn count_ready(group: &GroupStatus, joined: bool) -> usize {
    let is_ready = |worker: &&WorkerStatus| worker.joined == joined && worker.state == "ready";
    group.workers.iter().filter(is_ready).count()
}

/// The master that serves at the end may be nobody's child here.
impl Drop for Walk {
    fn drop(&mut self) {
        self.second = None;
        let Some(status) = asked(self.server()) else {
            return;
        };
        let master = Pid::from_raw(status.pid as i32).unwrap();
        // It may be gone again if the test fails.
        let _ = rustix::process::kill_process(master, Signal::TERM);
        if !std::thread::panicking() {
            until("the last server has ended", || {
                state(master).is_none_or(|state| state == 'Z').then_some(())
            });
        }
    }
}

fn walk(accept: &'static str, seed: u64) {
    let mut walk = Walk::start(6, accept, seed);
    for _ in 0..endurance(20, 400) {
        let step = walk.next_step();
        println!("{seed}: {step:?}");
        walk.take(step);
    }
}

#[test]
fn every_step_is_followed_by_a_status() {
    walk("ring", 1);
}

#[test]
fn every_step_is_followed_by_a_status_where_each_has_its_own() {
    walk("own", 2);
}

/// Slots that had workers once stay in the status, also if a server joins in fewer of them.
#[test]
fn a_server_joins_one_that_had_more_workers() {
    let mut walk = Walk::start(6, "ring", 0);
    walk.take(Step::Reload(1));
    walk.take(Step::Join(1));
    assert_eq!(walk.status().groups[0].workers.len(), 6);
}
