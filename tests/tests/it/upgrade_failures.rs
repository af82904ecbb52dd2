//! Successors that fail in ways that leave something behind.

use std::io;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::gate;
use crate::probe::{group, signal, state, until};
use crate::upgradable::Upgradable;

/// A process that does nothing, with a number that was chosen.
struct Bystander(Pid);

impl Bystander {
    /// Its number must be free.
    fn numbered(pid: Pid) -> io::Result<Self> {
        let number = pid.as_raw_nonzero().get();
        // SAFETY: all zero is a valid value of each field.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.set_tid = std::ptr::from_ref(&number) as u64;
        arguments.set_tid_size = 1;
        let size = size_of_val(&arguments);
        // SAFETY: the arguments live until the call returns. The child makes nothing but
        // system calls, as a child of a process with threads must.
        unsafe {
            match libc::syscall(libc::SYS_clone3, &raw mut arguments, size) {
                0 => {
                    libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
                    loop {
                        libc::pause();
                    }
                }
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(Self(pid)),
            }
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // Not reaped yet, so that the number is its own.
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}

fn pids(upgradable: &Upgradable) -> Vec<u32> {
    let workers = group(&upgradable.server).workers;
    workers.iter().map(|worker| worker.pid).collect()
}

/// The successor ends, and a process that it started keeps its channel open.
#[test]
fn a_process_that_has_the_number_of_a_dead_successor_lives() {
    // Numbers are root's to choose.
    gate::needs!(root);
    let arguments = [
        "--workers",
        "2",
        "--worker-header",
        "--upgrade-within",
        "3s",
    ];
    let mut upgradable = Upgradable::start(&arguments);
    let before = pids(&upgradable);
    let said = upgradable.binary.with_extension("pids");
    upgradable.replace(&format!(
        "#!/bin/sh\nsleep 1000 >/dev/null 2>&1 &\necho $$ $! >{0}.new\nmv {0}.new {0}\n",
        said.display()
    ));
    signal(upgradable.server.pid(), Signal::USR2);
    let numbers = until("the successor has said its number", || {
        std::fs::read_to_string(&said).ok()
    });
    let numbers = numbers.split_whitespace().map(|number| {
        let number = number.parse().ok().and_then(Pid::from_raw);
        number.unwrap()
    });
    let [successor, sleeper] = numbers.collect::<Vec<_>>().try_into().unwrap();
    until("the successor has been reaped", || {
        state(successor).is_none().then_some(())
    });
    let bystander = Bystander::numbered(successor).unwrap();
    let line = upgradable.server.child().await_line("did not come up");
    kill_process(sleeper, Signal::KILL).unwrap();
    assert_ne!(state(bystander.0), Some('Z'), "it was killed");
    assert!(line.as_ref().unwrap().contains("it ended"), "{line:?}");
    upgradable.assert_unchanged(&before);
}
