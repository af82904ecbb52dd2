//! What a machine lets tests do. A test that cannot run says so, is counted, and fails
//! where the environment promised that all tests can run. srv's unit tests have this file
//! as a module, too.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Whether `outcome` allows the test. If it does not, the test is to return.
///
/// libtest counts such a test as passed. So `cargo xtask test` names a file in
/// `SRV_SKIPPED`, to which each skip adds a line, and says at the end how many there were.
///
/// # Panics
/// If `SRV_REQUIRE_BPF=1` promised that all tests can run.
#[allow(
    unreachable_pub,
    reason = "srv's unit tests have this file as a private module"
)]
pub fn can(what: &str, outcome: Result<(), String>) -> bool {
    let Err(why) = outcome else { return true };
    let promised = std::env::var_os("SRV_REQUIRE_BPF").is_some_and(|value| value == "1");
    assert!(
        !promised,
        "SRV_REQUIRE_BPF=1, but this machine cannot {what}: {why}"
    );
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("skipped: {test}: cannot {what}: {why}\n");
    // Past libtest, which keeps what a passing test prints to itself.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("SRV_SKIPPED") {
        let list = OpenOptions::new().append(true).create(true).open(list);
        // One write: tests run at once.
        let listed = list.and_then(|mut list| list.write_all(line.as_bytes()));
        listed.expect("add to the list of skipped tests, which SRV_SKIPPED names");
    }
    false
}
