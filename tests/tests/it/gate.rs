//! What this machine lets the tests do. A test that cannot run here says so,
//! is counted, and fails where the environment promised that it could.

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use srv::steer::Steering;

/// Whether the kernel takes the select program from this process.
pub fn can_steer() -> bool {
    static LOADS: OnceLock<Result<(), String>> = OnceLock::new();
    let load = || {
        Steering::load()
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    };
    can("steer", LOADS.get_or_init(load).clone())
}

/// Whether this process is root, which some set-ups of tests need.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    can(
        "be root",
        root.then_some(())
            .ok_or("another user runs the tests".into()),
    )
}

/// Whether `outcome` allows the test; if not, the test is to return.
///
/// # Panics
/// If `SRV_REQUIRE_BPF=1` promised that all tests can run.
pub fn can(what: &str, outcome: Result<(), String>) -> bool {
    static SKIPPED: AtomicU32 = AtomicU32::new(0);
    let Err(why) = outcome else { return true };
    let promised = std::env::var_os("SRV_REQUIRE_BPF").is_some_and(|value| value == "1");
    assert!(
        !promised,
        "SRV_REQUIRE_BPF=1, but this machine cannot {what}: {why}"
    );
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Past libtest, which keeps what a passing test prints to itself.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {test}: cannot {what}: {why} ({count} so far)"
    );
    false
}
