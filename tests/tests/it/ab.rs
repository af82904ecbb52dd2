//! `srv ab` through the binary: what it leaves, and what it refuses before
//! anything starts.

use std::path::Path;
use std::process::{Command, Output};

use srv::measure::result::{ArmResult, Comparison};
use srv_tests::server::binary;

use crate::gate;

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
    let labels: Vec<String> = result.arms.iter().map(ArmResult::label).collect();
    assert_eq!(labels, ["hash", "ring", "hash (control)", "haproxy"]);
    let haproxy = &result.arms[3];
    let why = haproxy.left_out.as_deref().expect("it cannot sleep");
    assert!(why.contains("no handler"), "{why}");
    let bound = result.bound.as_ref().expect("an open loop has one");
    for (nth, arm) in result.arms[..3].iter().enumerate() {
        assert_eq!(arm.rounds.len(), 2, "{}", arm.name);
        for (round, short) in arm.rounds.iter().zip(&bound.short) {
            assert_eq!(round.lost, 0);
            // The same draws for every arm, and for the bound.
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
    // If the hypervisor disturbs all rounds, the run is not usable, and says so.
    let is_controlled = result.ratios.iter().any(|ratio| ratio.pair.is_control());
    assert_eq!(
        is_controlled,
        !result.doubts.iter().any(|doubt| doubt
            .sentence
            .contains("hypervisor disturbed hash or its control"))
    );
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
    if !compared.status.success() {
        // If the hypervisor disturbed every run, there is nothing to compare.
        assert!(!is_controlled, "{compared:?}");
        assert!(said(&compared).contains("no arm in common that both measured"));
        return;
    }
    let table = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(
        table.contains("too few rounds to tell") && !table.contains("  differs"),
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
        (&["--simulate", "longlived"], "keep-alive connections"),
        (&["--simulate", "cloudflare"], "wait for answers"),
        (&["--simulate", "hung"], "a stopped worker"),
        (&["--simulate", "--arms", "nginx"], "cannot be simulated"),
        (&["--simulate", "--arms", "hermes"], "cannot be simulated"),
        (&["--simulate", "--workers", "5000"], "from 1 to 4096"),
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
fn a_simulation_leaves_the_same_kind_of_result() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = ["bimodal", "burst", "--simulate", "--duration", "300ms"];
    let output = ab(&arguments, &out);
    assert!(output.status.success(), "{output:?}");
    let result = Comparison::read(&out.join("bimodal")).unwrap();
    assert!(result.simulated && result.incomplete.is_none());
    let names: Vec<&str> = result.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(names, ["least+ring", "hash", "shared", "least"]);
    assert!(result.ratios.iter().all(|ratio| !ratio.pair.is_control()));
    let bound = result.bound.unwrap();
    for arm in &result.arms {
        assert_eq!(arm.rounds.len(), 5);
        for (round, bound) in arm.rounds.iter().zip(&bound.all) {
            assert_eq!(round.requests, bound.count, "the same draws");
            let expected = if arm.name == "hash" { 2.0 } else { 0.9 };
            assert!(round.all.mean_ns > expected * bound.mean_ns, "{}", arm.name);
        }
    }
    let page = std::fs::read_to_string(out.join("bimodal/report.html")).unwrap();
    assert!(page.contains("Simulated, not measured") && page.contains("srv ab · simulated"));
    assert!(!page.contains("Cost and health"));
    let burst = Comparison::read(&out.join("burst")).unwrap();
    assert!(burst.arms[0].rounds[0].requests > 500);
}

/// Where they are installed.
#[test]
fn baseline_servers_are_behind_the_delayed_path_too() {
    gate::needs!(root);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arms = ["cheap", "--rtt", "20ms", "--arms", "hash,nginx,haproxy"];
    let output = ab(&[&arms, &SHORT[..]].concat(), &out);
    assert!(matches!(output.status.code(), Some(0 | 2)), "{output:?}");
    for arm in Comparison::read(&out).unwrap().arms {
        if let Some(why) = &arm.left_out {
            assert!(why.contains("not installed"), "{}: {why}", arm.name);
            continue;
        }
        for round in &arm.rounds {
            assert_eq!(round.lost, 0, "{}", arm.name);
            assert!(round.all.p50_ns >= 40_000_000, "{}: {round:?}", arm.name);
        }
    }
}

/// What keep-alive connections meant for later requests is told, if there are any.
#[test]
fn the_later_load_of_keep_alive_connections_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = [&["longlived", "--arms", "ring"], &SHORT[..]].concat();
    let output = ab(&arguments, &out);
    assert!(matches!(output.status.code(), Some(0 | 2)), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("requests per worker over the keep-alive"),
        "{table}"
    );
    let result = Comparison::read(&out).unwrap();
    for round in result.arms.iter().flat_map(|arm| &arm.rounds) {
        assert_eq!(round.accepts.iter().sum::<u64>(), 32, "live connections");
        let served = round.served.as_ref().unwrap();
        assert_eq!(served.per_worker.iter().sum::<u64>(), round.requests as u64);
        assert!(served.max_over_mean >= 1.0 && served.cv >= 0.0);
    }
}
