//! What these tests need of a machine, looked at once.

use std::sync::OnceLock;

use srv_steer::SelectProgram;

pub use srv_tests::gate::can;

/// Ends the test, as skipped, where the machine lacks something of this: `steer`, `root`.
macro_rules! needs {
    ($($need:ident),+) => {
        if !($(crate::gate::$need())&&+) {
            return;
        }
    };
}
pub(crate) use needs;

/// Whether the kernel takes the select program from this process.
pub fn steer() -> bool {
    static LOADS: OnceLock<Result<(), String>> = OnceLock::new();
    let load = || {
        SelectProgram::load()
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    };
    can("steer", LOADS.get_or_init(load).clone())
}

/// Whether this process is root, which some set-ups of tests need.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    can(
        "be root",
        root.then_some(())
            .ok_or("another user runs the tests".into()),
    )
}
