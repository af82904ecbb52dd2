//! What these tests need of a machine, looked at once.

use std::fmt::Display;
use std::sync::OnceLock;

use srv_steer::SelectProgram;

pub(crate) use srv_tests::gate::can;

/// Ends the test, as skipped, if the machine lacks something of this: `steer`, `root`, or
/// what a result says, as in `needs!(root, "run nginx": &result)`.
///
/// A test that needs to steer or to be root goes on in a network of its own.
macro_rules! needs {
    ($($need:ident),+ $(, $what:literal: $outcome:expr)?) => {
        if !($(crate::gate::$need())&&+ $(&& crate::gate::works($what, $outcome))?) {
            return;
        }
        crate::network::own_if_root();
    };
    ($what:literal: $outcome:expr) => {
        if !crate::gate::works($what, $outcome) {
            return;
        }
    };
}
pub(crate) use needs;

/// [`can`], by the result of having tried.
pub(crate) fn works<T, E: Display>(what: &str, outcome: &Result<T, E>) -> bool {
    let outcome = outcome.as_ref().map(drop);
    can(what, outcome.map_err(|error| format!("{error:#}")))
}

/// Whether the kernel takes the select program from this process.
pub(crate) fn steer() -> bool {
    static LOADS: OnceLock<Result<(), String>> = OnceLock::new();
    let load = || {
        SelectProgram::load()
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    };
    can("steer", LOADS.get_or_init(load).clone())
}

/// Whether this process is root, which some set-ups of tests need.
pub(crate) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    can(
        "be root",
        root.then_some(())
            .ok_or("another user runs the tests".into()),
    )
}
