//! Two servers on one address: `srv serve --join` adds its workers to those of
//! the server that runs, and whichever of the two goes, and however, no request is
//! lost.

use rustix::process::{Pid, Signal};
use srv::control::status::{GroupStatus, WorkerStatus};
use srv::control::{Reply, Request, Status, ask};
use srv_tests::server::Server;

use crate::client::{Client, get_many};
use crate::gate;
use crate::loaded::without_loss;
use crate::probe::{
    Stopped, asked, endurance, group, pid, signal, state, status, until, until_group, worker,
};
use crate::serve::serve;

/// Both servers have two workers: the first one's are in slots 0 and 1.
const FIRST: [u32; 2] = [0, 1];
const SECOND: [u32; 2] = [2, 3];

fn start(arguments: &[&str]) -> Server {
    serve()
        .workers(2)
        .worker_header()
        .synthetic()
        .flags(arguments)
        .start()
}

/// A server that joins `first`, whose workers accept.
fn join(first: &Server, arguments: &[&str]) -> Server {
    let always = ["--workers", "2", "--worker-header", "--synthetic"];
    let second = first.start_joined(always.iter().chain(arguments)).unwrap();
    until("the joined server's workers are ready", || {
        let status = status(first);
        let joined = status.joined.as_ref()?;
        assert_eq!(joined.pid, number(second.pid()));
        are_ready(&workers_of(&status, true)).then_some(())
    });
    second
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get() as u32
}

fn workers_of(status: &Status, joined: bool) -> Vec<WorkerStatus> {
    let workers = status.groups[0].workers.iter();
    workers
        .filter(|worker| worker.joined == joined)
        .cloned()
        .collect()
}

fn are_ready(workers: &[WorkerStatus]) -> bool {
    !workers.is_empty() && workers.iter().all(|worker| worker.state == "ready")
}

/// Waits until `server` is the one that is asked.
fn until_first(server: &Server) -> Status {
    until("it is the one that is asked", || {
        asked(server).filter(|status| status.pid == number(server.pid()))
    })
}

fn until_gone(pids: &[Pid]) {
    until("its workers have gone", || {
        let is_gone = |pid: &Pid| state(*pid).is_none_or(|state| state == 'Z');
        pids.iter().all(is_gone).then_some(())
    });
}

fn pids(workers: &[WorkerStatus]) -> Vec<Pid> {
    workers.iter().map(pid).collect()
}

fn steered(group: &GroupStatus, slots: [u32; 2]) -> u64 {
    let slots = slots.iter().map(|slot| &group.workers[*slot as usize]);
    slots.map(|worker| worker.steered).sum()
}

fn stolen(group: &GroupStatus, slots: [u32; 2]) -> u64 {
    let slots = slots.iter().map(|slot| &group.workers[*slot as usize]);
    slots.map(|worker| worker.taken_stolen).sum()
}

#[test]
fn one_program_steers_to_the_workers_of_both() {
    gate::needs!(steer);
    // Whatever the machine does meanwhile, nobody hangs and nobody steals.
    let own = ["--accept", "own", "--hang-after", "0s"];
    let first = start(&[&own[..], &["--policy", "round-robin"]].concat());
    let _second = join(&first, &own);
    let before = group(&first);
    let mut answered = get_many(first.address(), 40);
    answered.sort_unstable();
    assert_eq!(answered, [[0; 10], [1; 10], [2; 10], [3; 10]].concat());
    let after = group(&first);
    assert_eq!(steered(&after, SECOND) - steered(&before, SECOND), 20);
    crate::probe::switch(&first, "least");
    until("the least loaded was each of them", || {
        get_many(first.address(), 4);
        let now = group(&first).workers;
        let pairs = now.iter().zip(&after.workers);
        let more = pairs.map(|(now, before)| now.steered > before.steered);
        more.min().unwrap().then_some(())
    });
}

#[test]
fn each_worker_is_its_own_masters() {
    let first = start(&[]);
    let second = join(&first, &[]);
    let workers = group(&first).workers;
    let sockets = match ask(Some(&first.control()), &Request::Sockets).unwrap() {
        Reply::Sockets(sockets) => sockets,
        other => panic!("asked for sockets, got {other:?}"),
    };
    assert_eq!((workers.len(), sockets.len()), (4, 4));
    for (socket, worker) in sockets.iter().zip(&workers) {
        assert_eq!((socket.pid, worker.starts), (Some(worker.pid), 1));
        let process = procfs::process::Process::new(worker.pid as i32).unwrap();
        let parent = process.stat().unwrap().ppid as u32;
        let of = if worker.joined { &second } else { &first };
        assert_eq!(parent, number(of.pid()), "slot {}", worker.slot);
    }
}

#[test]
fn of_several_addresses_none_is_forgotten() {
    let first = start(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    let second = join(&first, &[]);
    let addresses = first.addresses();
    assert_eq!(second.addresses(), addresses);
    for (nth, address) in addresses.iter().enumerate() {
        until("the joined server has served there", || {
            get_many(*address, 4);
            let group = &status(&first).groups[nth];
            assert_eq!(group.listen, *address);
            let own = |slot: &u32| group.workers[*slot as usize].taken_own > 0;
            SECOND.iter().all(own).then_some(())
        });
    }
    assert!(first.stop().unwrap().success());
    let status = until_first(&second);
    assert_eq!(status.groups.len(), 2);
    for address in second.addresses() {
        get_many(*address, 20);
    }
}

#[test]
fn a_person_is_told_whose_workers_they_are() {
    let first = start(&[]);
    let second = join(&first, &[]);
    let output = first.srv(&["status"]).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let expected = format!(
        "joined: server {}, whose workers are in slots 2 to 3\n",
        number(second.pid())
    );
    assert!(said.contains(&expected), "{said}");
    assert!(second.stop().unwrap().success());
    until("it is forgotten", || {
        status(&first).joined.is_none().then_some(())
    });
}

/// 40 connections are dealt out in turn while the workers in `slots` stand still.
fn assert_the_others_answer_for(server: &Server, slots: [u32; 2], others: [u32; 2]) {
    let stopped = slots.map(|slot| Stopped::new(pid(&worker(server, slot))));
    let before = group(server);
    let answered = get_many(server.address(), 40);
    let is_others = |worker: &u16| others.contains(&u32::from(*worker));
    assert!(answered.iter().all(is_others), "{answered:?}");
    let after = group(server);
    assert_eq!(steered(&after, slots) - steered(&before, slots), 20);
    assert!(
        stolen(&after, others) - stolen(&before, others) >= 20,
        "{after:#?}"
    );
    drop(stopped);
}

#[test]
fn the_ring_is_one() {
    gate::needs!(steer);
    // Who stands still is to be steered to all the same.
    let first = start(&["--policy", "round-robin", "--hang-after", "0s"]);
    let _second = join(&first, &[]);
    assert_the_others_answer_for(&first, SECOND, FIRST);
    assert_the_others_answer_for(&first, FIRST, SECOND);
}

/// It is back in its ring, and first at its own listener in both servers' eyes.
#[test]
fn a_killed_worker_of_either_is_replaced_in_its_slot() {
    gate::needs!(steer);
    let first = start(&["--policy", "round-robin"]);
    let _second = join(&first, &[]);
    for slot in [0, 3] {
        signal(pid(&worker(&first, slot)), Signal::KILL);
        until_group(&first, "its replacement is ready", |group| {
            let worker = &group.workers[slot as usize];
            worker.starts == 2 && worker.state == "ready"
        });
        let own = worker(&first, slot).taken_own;
        until("it takes what comes to its listener", || {
            get_many(first.address(), 4);
            (worker(&first, slot).taken_own > own).then_some(())
        });
    }
}

#[test]
fn the_first_finds_a_hung_worker_and_its_own_master_replaces_it() {
    gate::needs!(steer);
    let first = start(&[]);
    let _second = join(&first, &["--hang-kill", "500ms"]);
    // It does not wake for what comes to its listener, either.
    signal(pid(&worker(&first, 2)), Signal::STOP);
    until("another one is in its slot", || {
        get_many(first.address(), 4);
        let worker = worker(&first, 2);
        (worker.starts == 2 && worker.state == "ready").then_some(())
    });
}

#[test]
fn joining_and_leaving_under_load_loses_nothing() {
    if gate::steer() {
        come_and_go(&["--policy", "least"], &[], true);
    }
}

#[test]
fn joining_and_leaving_under_load_loses_nothing_where_each_has_its_own() {
    if gate::steer() {
        let own = ["--accept", "own"];
        come_and_go(&["--policy", "least", "--accept", "own"], &own, true);
    }
}

#[test]
fn joining_and_leaving_under_load_loses_nothing_without_a_program() {
    come_and_go(&["--no-bpf"], &[], false);
}

fn come_and_go(firsts: &[&str], seconds: &[&str], steers: bool) {
    let first = start(firsts);
    let cycles = endurance(4, 50);
    let answered = without_loss(first.address(), 300.0, || {
        for _ in 0..cycles {
            let before = group(&first);
            let second = join(&first, seconds);
            until_group(&first, "they serve, too", |group| {
                serve_more(&before, group, steers)
            });
            assert!(second.stop().unwrap().success());
            until("its slots are free", || is_alone(&first).then_some(()));
        }
    });
    println!("{firsts:?}: joined and left {cycles} times, {answered} requests, none lost");
    until_group(&first, "nothing waits anywhere", |group| {
        group.totals.waiting == 0 && group.totals.running == 0
    });
}

/// The second server's workers have served, and been steered to.
fn serve_more(before: &GroupStatus, now: &GroupStatus, steers: bool) -> bool {
    SECOND.iter().all(|slot| {
        let now = &now.workers[*slot as usize];
        let before = before.workers.get(*slot as usize);
        let (served, steered) = before.map_or((0, 0), |at| (at.served, at.steered));
        now.served > served + 5 && (!steers || now.steered > steered + 5)
    })
}

fn is_alone(first: &Server) -> bool {
    let status = status(first);
    let workers = &status.groups[0].workers;
    let is_left = |worker: &WorkerStatus| worker.pid == 0 && worker.state == "absent";
    status.joined.is_none() && workers.iter().skip(2).all(is_left)
}

#[test]
fn a_request_in_service_is_finished_by_the_server_that_leaves() {
    gate::needs!(steer);
    let first = start(&["--policy", "round-robin"]);
    let second = join(&first, &[]);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Client::connect(first.address());
            client.get("/work?sleep_us=700000");
            client
        })
        .collect();
    until_group(&first, "each worker has one", |group| {
        group.workers.iter().all(|worker| worker.running == 1)
    });
    assert!(second.stop().unwrap().success());
    for mut client in clients {
        assert_eq!(client.response().status(), 200);
    }
}

/// Its workers leave by themselves; the first notices.
#[test]
fn a_killed_joined_master_loses_nothing() {
    gate::needs!(steer);
    for accept in ["ring", "own"] {
        let first = start(&["--accept", accept]);
        let answered = without_loss(first.address(), 300.0, || {
            for _ in 0..endurance(3, 30) {
                let before = group(&first);
                let second = join(&first, &["--accept", accept]);
                let workers = workers_of(&status(&first), true);
                until_group(&first, "they serve, too", |group| {
                    serve_more(&before, group, true)
                });
                signal(second.pid(), Signal::KILL);
                until("its slots are free", || is_alone(&first).then_some(()));
                until_gone(&pids(&workers));
            }
        });
        println!("joined master killed, {accept}: {answered} requests, none lost");
        get_many(first.address(), 20);
    }
}

#[test]
fn a_relay_of_servers_loses_nothing() {
    if gate::steer() {
        relay(&["--policy", "p2c"], &[], "p2c");
    }
}

#[test]
fn a_relay_of_servers_loses_nothing_where_each_has_its_own() {
    if gate::steer() {
        let own = ["--accept", "own"];
        relay(&["--accept", "own"], &own, "least");
    }
}

#[test]
fn a_relay_of_servers_loses_nothing_without_a_program() {
    relay(&["--no-bpf"], &[], "hash");
}

/// The first stops while another is joined, which is joined by the next: each
/// goes on with everything, the program too.
fn relay(firsts: &[&str], seconds: &[&str], policy: &str) {
    let mut now = start(firsts);
    let steers = policy != "hash";
    let stops = endurance(4, 50);
    let answered = without_loss(now.address(), 300.0, || {
        for _ in 0..stops {
            let next = join(&now, seconds);
            let before = std::mem::replace(&mut now, next);
            assert!(before.stop().unwrap().success());
            let taken = until_first(&now);
            assert_eq!(taken.policy, policy);
            until_served(&now, &taken.groups[0], steers);
        }
    });
    println!("{firsts:?}: relayed {stops} times, {answered} requests, none lost");
    let after = group(&now);
    // Two servers' at most: slots and listeners are used again.
    assert_eq!(after.workers.len(), 4);
    if steers {
        crate::probe::switch(&now, "hash");
        assert!(!group(&now).program.attached);
        crate::probe::switch(&now, "least");
        let before = group(&now).program.steered;
        get_many(now.address(), 20);
        assert_eq!(group(&now).program.steered, before + 20);
    }
}

fn until_served(server: &Server, before: &GroupStatus, steers: bool) {
    until_group(server, "it goes on serving", |group| {
        assert_eq!(group.program.attached, steers, "{:?}", group.program);
        let served = |group: &GroupStatus| group.totals.served;
        let steered = |group: &GroupStatus| group.program.steered;
        served(group) > served(before) + 20 && (!steers || steered(group) > steered(before) + 20)
    });
}

#[test]
fn a_killed_first_master_loses_nothing() {
    gate::needs!(steer);
    for accept in ["ring", "own"] {
        let mut now = start(&["--accept", accept]);
        let answered = without_loss(now.address(), 300.0, || {
            for _ in 0..endurance(3, 30) {
                let next = join(&now, &["--accept", accept]);
                let workers = workers_of(&status(&now), false);
                let workers: Vec<_> = workers.into_iter().filter(|at| at.pid != 0).collect();
                signal(now.pid(), Signal::KILL);
                now = next;
                let taken = until_first(&now);
                until_served(&now, &taken.groups[0], true);
                until_gone(&pids(&workers));
            }
        });
        println!("first master killed, {accept}: {answered} requests, none lost");
    }
}

/// Neither leaves its work to the other, which stops as well.
#[test]
fn both_stop_at_once() {
    for _ in 0..endurance(5, 50) {
        let mut first = start(&[]);
        let mut second = join(&first, &[]);
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let mut client = Client::connect(first.address());
                client.get("/work?sleep_us=100000");
                client
            })
            .collect();
        until_group(&first, "something is in service", |group| {
            group.totals.running > 0
        });
        signal(first.pid(), Signal::TERM);
        signal(second.pid(), Signal::TERM);
        for mut client in clients {
            assert_eq!(client.response().status(), 200);
        }
        for server in [&mut first, &mut second] {
            let end = server.child().await_exit().unwrap();
            assert!(end.success(), "{}", server.child().stderr());
        }
    }
}
