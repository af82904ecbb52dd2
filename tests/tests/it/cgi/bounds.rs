//! How many scripts run and wait, and the kernel's limits for each.

use std::io::Read as _;
use std::process::Command;
use std::thread;

use srv::fastcgi::ProtocolStatus;

use super::{COMPLETE, Cgi, answer};

/// Waits for a line in the named pipe beside it.
const WAITS: &str = "#!/bin/sh\necho; echo started\nread line < fifo\necho \"$line\"\n";

/// Makes the pipe that [`WAITS`] reads.
fn make_fifo(cgi: &Cgi) {
    let status = Command::new("mkfifo")
        .args(["-m", "666"])
        .arg(cgi.script("fifo"))
        .status();
    assert!(status.unwrap().success());
}

fn release(cgi: &Cgi) {
    // It waits for a reader.
    std::fs::write(cgi.script("fifo"), "released\n").unwrap();
}

#[test]
fn requests_wait_in_a_bounded_line() {
    let flags = ["--concurrent", "1", "--waiting", "1"];
    let cgi = Cgi::start(&[("waits", WAITS)], &flags);
    make_fifo(&cgi);
    let mut first = cgi.begin("waits");
    // The header of a record, and an empty line: it runs.
    first.read_exact(&mut [0; 9]).unwrap();
    // One of these two waits, and the other one finds the line full.
    let others = [cgi.begin("waits"), cgi.begin("waits")];
    let answers = others.map(|mut stream| thread::spawn(move || answer(&mut stream)));
    let is_finished = |it: &thread::JoinHandle<_>| it.is_finished();
    crate::probe::until("one is refused", || {
        answers.iter().any(is_finished).then_some(())
    });
    release(&cgi);
    let mut rest = String::new();
    first.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("released"), "{rest:?}");
    release(&cgi);
    let mut ends = answers.map(|answer| answer.join().unwrap());
    ends.sort_by_key(|answer| answer.head.is_some());
    let [refused, waited] = ends;
    assert_eq!(refused.end, Some((0, ProtocolStatus::Overloaded)));
    assert_eq!(
        (waited.body.as_str(), waited.end),
        ("started\nreleased\n", Some((0, COMPLETE)))
    );
}

#[test]
fn the_kernel_keeps_the_other_bounds() {
    let limits = "#!/bin/sh\necho; ulimit -Ht; ulimit -Hv; ulimit -Hf; ulimit -Hc; \
                  grep '^Max processes' /proc/self/limits\n";
    let fills = "#!/bin/sh\necho; head -c 1000000 /dev/zero > \"$(mktemp)\"; echo $?\n";
    let spins = "#!/bin/sh\necho; while :; do :; done\n";
    let flags = [
        "--cpu-time",
        "1s",
        "--memory",
        "256MiB",
        "--file-size",
        "512KiB",
        "--processes",
        "4000",
    ];
    let cgi = Cgi::start(
        &[("limits", limits), ("fills", fills), ("spins", spins)],
        &flags,
    );
    let said = cgi.ask("limits").body;
    let lines: Vec<&str> = said.lines().collect();
    // dash counts files in blocks of 512 bytes, and other shells in those of 1024.
    assert!(
        matches!(lines[..3], ["1", "262144", "1024" | "512"]),
        "{said}"
    );
    assert_eq!(lines[3], "0");
    assert!(lines[4].split_whitespace().nth(2) == Some("4000"), "{said}");
    let file_size_exceeded = (128 + libc::SIGXFSZ).to_string();
    assert_eq!(cgi.ask("fills").body.trim(), file_size_exceeded);
    assert_eq!(cgi.ask("spins").end, None, "killed within its answer");
}
