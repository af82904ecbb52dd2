//! Logs that are renamed while they are written: `srv reopen`, and the real logrotate with the file of
//! the package.

use std::fs;
use std::process::Command;

use super::{in_folder, lines, logging_to, until_settled};
use crate::gate;
use crate::loaded::without_loss;
use crate::probe::until;
use crate::serve::serve;

#[test]
fn a_log_that_was_renamed_is_made_anew_and_loses_nothing() {
    let (folder, log) = in_folder();
    let server = logging_to(&log, &[]);
    let mut parts = Vec::new();
    let requests = without_loss(server.address(), 300.0, || {
        for nth in 0..3 {
            until("it has a line", || (!lines(&log).is_empty()).then_some(()));
            let part = folder.path().join(format!("part{nth}"));
            fs::rename(&log, &part).unwrap();
            let output = server.srv(&["reopen"]).unwrap();
            assert!(output.status.success(), "{output:?}");
            // It is complete: nothing writes there any more.
            parts.push((lines(&part).len(), part));
        }
    });
    assert_eq!(until_settled(&server), (requests as u64, 0));
    for (length, part) in &parts {
        assert_eq!(lines(part).len(), *length);
    }
    let sum: usize = parts.iter().map(|(length, _)| length).sum();
    assert_eq!(sum + lines(&log).len(), requests);
}

#[test]
fn a_server_without_a_log_says_so() {
    let server = serve().workers(1).no_bpf().start();
    let output = server.srv(&["reopen"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("--access-log"),
        "{said}"
    );
}

#[test]
fn logrotate_rotates_by_the_file_of_the_package() {
    let (folder, log) = in_folder();
    let found = Command::new("logrotate").arg("--version").output();
    if !gate::can(
        "run logrotate",
        found.map(drop).map_err(|error| error.to_string()),
    ) {
        return;
    }
    let server = logging_to(&log, &[]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/logrotate/srv");
    let text = fs::read_to_string(file).unwrap();
    assert!(text.starts_with("/var/log/srv/*.log {"), "{text}");
    let binary = srv_tests::server::binary().unwrap();
    let reopen = format!(
        "{} reopen --control {}",
        binary.display(),
        server.control().display()
    );
    let text = text
        .replace("/var/log/srv/*.log", &log.display().to_string())
        .replace("srv reopen", &reopen);
    let config = folder.path().join("logrotate.conf");
    fs::write(&config, text).unwrap();
    let requests = without_loss(server.address(), 300.0, || {
        until("there is something to rotate", || {
            (!lines(&log).is_empty()).then_some(())
        });
        let mut logrotate = Command::new("logrotate");
        logrotate
            .arg("--force")
            .arg("--state")
            .arg(folder.path().join("state"));
        let output = logrotate.arg(&config).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    });
    assert_eq!(until_settled(&server), (requests as u64, 0));
    let rotated = lines(&folder.path().join("access.log.1"));
    assert!(!rotated.is_empty());
    assert_eq!(rotated.len() + lines(&log).len(), requests);
}
