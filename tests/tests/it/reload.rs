//! The configuration is read again while the server works: nothing is lost,
//! what is new holds, and a bad file changes nothing.

use rustix::process::Signal;
use srv::control::status::GroupStatus;
use srv::control::{Request, ask};

use crate::client::{Client, get};
use crate::configured::Configured;
use crate::gate;
use crate::loaded::without_loss;
use crate::probe::{endurance, group, signal, state, status, until, until_group};
use crate::serve::serve;

/// Everything stands as it should with so many workers.
fn is_settled(group: &GroupStatus, workers: usize) -> bool {
    let (first, rest) = group.workers.split_at(workers.min(group.workers.len()));
    first.len() == workers
        && first.iter().all(|worker| worker.state == "ready")
        && rest
            .iter()
            .all(|worker| worker.pid == 0 && worker.state == "absent")
}

#[test]
fn reloads_under_load_lose_nothing() {
    if gate::steer() {
        reload_under_load("ring", &["least", "round-robin"]);
    }
}

#[test]
fn reloads_under_load_lose_nothing_where_the_kernel_hashes() {
    reload_under_load("ring", &["hash"]);
}

#[test]
fn reloads_under_load_lose_nothing_where_each_has_its_own() {
    if gate::steer() {
        reload_under_load("own", &["least", "hash"]);
    }
}

#[test]
fn reloads_under_load_lose_nothing_where_all_share_a_listener() {
    reload_under_load("shared", &["hash"]);
}

fn reload_under_load(accept: &str, policies: &[&str]) {
    let roots = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let text = |workers: usize, nth: usize| {
        let policy = policies[nth % policies.len()];
        // Every other time workers are replaced, too.
        let root = roots[nth / 2 % 2].path().display();
        format!(
            "workers = {workers}\npolicy = \"{policy}\"\nroot = \"{root}\"\n[limits]\nbody-bytes = {}\n",
            1_000 + nth
        )
    };
    let configured = Configured::start(&text(4, 0), &["--synthetic", "--accept", accept]);
    let server = &configured.server;
    let reloads = endurance(6, 50);
    let answered = without_loss(server.address(), 400.0, || {
        for nth in 1..=reloads {
            let workers = [2, 6, 3, 5, 1, 4][nth % 6];
            let served = group(server).totals.served;
            configured.rewrite(&text(workers, nth));
            let (said, succeeded) = configured.reload();
            assert!(succeeded && said.contains("workers"), "{said}");
            until_group(server, "the workers are as many as asked for", |group| {
                is_settled(group, workers) && group.totals.served > served + 20
            });
        }
    });
    println!("{accept}: {reloads} reloads, {answered} requests, none lost");
    until_group(server, "nothing waits anywhere", |group| {
        group.totals.waiting == 0 && group.totals.running == 0
    });
}

#[test]
fn what_is_new_holds_for_workers_that_stay_and_for_open_connections() {
    let configured = Configured::start("workers = 2\n", &[]);
    let server = &configured.server;
    let before = group(server);
    let mut client = Client::connect(server.address());
    client.get("/");
    assert_eq!(client.response().header("X-Worker"), None);
    configured.rewrite("workers = 2\nworker-header = true\n");
    signal(server.pid(), Signal::HUP);
    until("the response names its worker", || {
        client.get("/");
        client.response().header("X-Worker").map(drop)
    });
    assert_eq!(pids(&group(server)), pids(&before));
}

fn pids(group: &GroupStatus) -> Vec<u32> {
    group.workers.iter().map(|worker| worker.pid).collect()
}

/// What they may read was settled when they started.
#[test]
fn a_new_root_is_served_by_new_workers_in_the_same_slots() {
    let folder = tempfile::tempdir().unwrap();
    let root = |name: &str| {
        let root = folder.path().join(name);
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("index.html"), name).unwrap();
        format!("workers = 2\nroot = \"{}\"\n", root.display())
    };
    let (one, two) = (root("one"), root("two"));
    let configured = Configured::start(&one, &[]);
    let server = &configured.server;
    let before = group(server);
    assert_eq!(get(server.address(), "/").body, b"one");
    configured.rewrite(&two);
    signal(server.pid(), Signal::HUP);
    let after = until_group(server, "both have been replaced", |group| {
        let replaced = |(old, new): (&u32, &u32)| old != new;
        pids(&before).iter().zip(&pids(group)).all(replaced)
    });
    assert!(after.workers.iter().all(|worker| worker.starts == 2));
    for old in pids(&before) {
        let old = rustix::process::Pid::from_raw(old as i32).unwrap();
        until("the old one has left", || {
            state(old).is_none().then_some(())
        });
    }
    for _ in 0..20 {
        assert_eq!(get(server.address(), "/").body, b"two");
    }
    assert!(is_settled(&group(server), 2));
}

#[test]
fn a_bad_file_is_refused_at_its_line_and_nothing_changes() {
    let mut configured = Configured::start("workers = 2\nhang-after = \"50ms\"\n", &[]);
    let before = group(&configured.server);
    configured.rewrite("workers = 4\npolicy = \"lest\"\n");
    let (said, succeeded) = configured.reload();
    assert!(
        !succeeded && said.contains("srv.toml:2:10: found `lest`"),
        "{said}"
    );
    configured.rewrite("workers = 4\nroot = \"nowhere\"\n");
    signal(configured.server.pid(), Signal::HUP);
    let line = configured.server.child().await_line("reload: ").unwrap();
    assert!(line.contains("lest"), "{line}");
    let line = configured.server.child().await_line("reload: ").unwrap();
    let expected = [
        "srv.toml:2:1: root",
        "No such file",
        "the old configuration stays in force",
    ];
    assert!(expected.iter().all(|part| line.contains(part)), "{line}");
    configured.rewrite("workers = 4\naccept = \"own\"\n");
    let (said, succeeded) = configured.reload();
    assert!(
        !succeeded && said.contains("srv.toml:2:1: accept: a running server cannot"),
        "{said}"
    );
    let after = group(&configured.server);
    assert_eq!(after.workers.len(), 2);
    for (before, after) in before.workers.iter().zip(&after.workers) {
        assert_eq!((before.pid, "ready"), (after.pid, after.state.name()));
    }
    assert_eq!(get(configured.server.address(), "/").status(), 200);
}

#[test]
fn without_a_file_there_is_nothing_to_read_again() {
    let server = serve().workers(1).start();
    let refusal = ask(Some(&server.control()), &Request::Reload).unwrap_err();
    assert!(refusal.to_string().contains("--config"), "{refusal}");
}

#[test]
fn flags_still_win() {
    let configured = Configured::start("workers = 2\npolicy = \"hash\"\n", &["--workers", "1"]);
    configured.rewrite("workers = 3\npolicy = \"hash\"\n");
    let (said, _) = configured.reload();
    assert_eq!(said, "reloaded: nothing has changed\n");
    assert_eq!(group(&configured.server).workers.len(), 1);
}

#[test]
fn a_policy_switched_by_hand_stays_until_the_file_names_another() {
    gate::needs!(steer);
    let configured = Configured::start("workers = 1\npolicy = \"least\"\n", &[]);
    crate::probe::switch(&configured.server, "p2c");
    configured.rewrite("workers = 2\npolicy = \"least\"\n");
    let (said, succeeded) = configured.reload();
    assert!(
        succeeded && said.starts_with("reloaded: workers 1 to 2"),
        "{said}"
    );
    assert_eq!(status(&configured.server).policy, "p2c");
    configured.rewrite("workers = 2\npolicy = \"random\"\n");
    assert_eq!(
        configured.reload(),
        ("reloaded: policy p2c to random\n".into(), true)
    );
    assert_eq!(status(&configured.server).policy, "random");
}

#[test]
fn each_setting_that_has_changed_is_named() {
    let configured = Configured::start("workers = 1\n", &[]);
    configured.rewrite("workers = 1\nupgrade-within = \"7s\"\ngrace = \"3s\"\n");
    assert_eq!(
        configured.reload(),
        ("reloaded: grace, upgrade-within\n".into(), true)
    );
}
