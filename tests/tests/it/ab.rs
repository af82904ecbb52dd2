//! `srv ab` through the binary: what it leaves, and what it refuses before
//! anything starts.

use std::path::Path;
use std::process::{Command, Output};

use srv::result::Comparison;
use srv_tests::child::Child;
use srv_tests::server::binary;

fn ab(arguments: &[&str], out: &Path) -> Output {
    let mut command = Command::new(binary().unwrap());
    command.arg("ab").args(arguments).arg("--out").arg(out);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Few requests at a low rate: the figures do not matter here.
const SHORT: [&str; 6] = ["--rounds", "2", "--rate", "300", "--duration", "300ms"];

#[test]
fn a_run_leaves_result_report_and_samples() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = [&["bimodal", "--arms", "hash,ring,haproxy"], &SHORT[..]].concat();
    let output = ab(&arguments, &out);
    // 2: measured, but such a short run tells nothing apart.
    assert!(matches!(output.status.code(), Some(0 | 2)), "{output:?}");

    let result = Comparison::read(&out).unwrap();
    assert_eq!(result.incomplete, None);
    let names: Vec<&str> = result.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(names, ["hash", "ring", "hash again", "haproxy"]);
    let haproxy = &result.arms[3];
    let why = haproxy.left_out.as_deref().expect("it cannot sleep");
    assert!(why.contains("no handler"), "{why}");
    let limit = result.limit.as_ref().expect("an open loop has one");
    for (nth, arm) in result.arms[..3].iter().enumerate() {
        assert_eq!(arm.rounds.len(), 2, "{}", arm.name);
        for (round, short) in arm.rounds.iter().zip(&limit.short) {
            assert_eq!(round.lost, 0);
            // The same draws for every arm, and for the limit.
            assert_eq!(round.short.count, short.count);
            assert_eq!(round.accepts.iter().sum::<u64>(), round.requests as u64);
        }
        assert!(arm.cdf.last().is_some_and(|last| last.at_most == 1.0));
        let stem = ["hash", "ring", "hash-again"][nth];
        for round in 1..=2 {
            let samples = out.join("samples");
            let csv = std::fs::read_to_string(samples.join(format!("{stem}-{round}.csv"))).unwrap();
            let requests = arm.rounds[round - 1].requests;
            assert_eq!(csv.lines().count(), requests + 1, "a header, then one each");
            assert!(samples.join(format!("{stem}-{round}.hgrm")).exists());
        }
    }
    assert!(result.ratios.iter().any(|ratio| ratio.control));
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains(&result.verdict[0]), "verdict first");

    let again = ab(&arguments, &out);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("--out"), "{}", said(&again));

    let compared = Command::new(binary().unwrap())
        .args(["ab", "compare"])
        .args([&out, &out])
        .output()
        .unwrap();
    assert!(compared.status.success(), "{compared:?}");
    let table = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(
        table.contains("no difference") && !table.contains("  differs"),
        "{table}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (arguments, part) in [
        (&["bimodl"][..], "no scenario is called `bimodl`"),
        (&["--arms", "leest"], "no arm is called `leest`"),
        (&["--rate", "6000"], "--overload"),
        (&["--rate", "0"], "--rate 0"),
        (&["cloudflare", "--rate", "5"], "closed loop"),
        (&["--spin", "--workers", "200"], "cores"),
        (&["--rounds", "0"], "--rounds 0"),
        (&["--rate", "900000", "--overload"], "this machine"),
    ] {
        let output = ab(arguments, &out);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(
            said(&output).contains(part),
            "{arguments:?}: {}",
            said(&output)
        );
        assert_eq!(said(&output).lines().count(), 1, "{}", said(&output));
        assert!(!out.exists(), "{arguments:?}");
    }
}

#[test]
fn an_interrupted_run_leaves_what_it_measured() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut command = Command::new(binary().unwrap());
    command.args(["ab", "cheap", "--arms", "hash,ring", "--rounds", "100"]);
    command.args(["--rate", "200", "--duration", "200ms", "--out"]);
    command.arg(&out).stdout(std::process::Stdio::null());
    let mut child = Child::spawn(&mut command).unwrap();
    // The first round's samples show that it is under way.
    let sample = out.join("samples").join("hash-1.csv");
    while !sample.exists() {
        std::thread::yield_now();
    }
    child.signal(rustix::process::Signal::INT).unwrap();
    let status = child.await_exit().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(child.stderr().contains("interrupted"), "{}", child.stderr());
    let result = Comparison::read(&out).unwrap();
    assert!(
        result
            .incomplete
            .is_some_and(|why| why.contains("interrupted"))
    );
    assert!(!result.arms[0].rounds.is_empty());
    assert!(out.join("report.html").exists());
}
