//! Worker counts that go down and up again under load: srv, of whose requests none
//! may be lost, and beside it nginx with a listener for each worker, which closes
//! those of the workers that it takes away. nginx's losses are counted, not judged.

use std::net::SocketAddr;
use std::process::Command;

use srv_tests::nginx::{self, Nginx};

use crate::agent::{LOCALHOST, options};
use crate::gate;
use crate::loaded::{Counted, under_load};
use crate::probe::{endurance, in_namespace_of, until_group};
use crate::serve::serve;

const MANY: usize = 6;
const PER_SECOND: f64 = 400.0;

/// Changes the number of workers, from [`MANY`] to 1 and back in turn, under load.
fn shrink_and_grow(name: &str, target: SocketAddr, mut set_workers: impl FnMut(usize)) -> Counted {
    let changes = endurance(6, 100);
    let counted = under_load(target, PER_SECOND, || {
        for nth in 0..changes {
            set_workers(if nth % 2 == 0 { 1 } else { MANY });
        }
    });
    println!("{name}: {changes} changes of the number of workers: {counted:?}");
    counted
}

#[test]
fn srv_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    let write = |workers: usize| std::fs::write(&file, format!("workers = {workers}\n")).unwrap();
    write(MANY);
    let server = serve().synthetic().config(&file).start();
    let counted = shrink_and_grow("srv", server.address(), |workers| {
        write(workers);
        assert!(server.srv(&["reload"]).unwrap().status.success());
        until_group(&server, "the workers are as many as asked for", |group| {
            let living = group.workers.iter().filter(|worker| worker.pid != 0);
            let is_ready = |worker: &srv::control::status::WorkerStatus| worker.state == "ready";
            living.clone().count() == workers && living.clone().all(is_ready)
        });
    });
    assert_eq!(counted.lost, 0, "{counted:?}");
}

fn nginx_counted(name: &str, mut nginx: Nginx) {
    let counted = shrink_and_grow(name, nginx.address(), |workers| {
        nginx.reload(&options(workers)).unwrap();
    });
    assert!(
        counted.lost < counted.requests,
        "it has served: {counted:?}"
    );
}

#[test]
fn nginx_is_counted() {
    gate::needs!("run nginx": &nginx::require(&options(MANY)));
    let nginx = Nginx::start(LOCALHOST, &options(MANY)).unwrap();
    nginx_counted("nginx", nginx);
}

/// The kernel moves a closing listener's queue to another of the group.
#[test]
fn nginx_is_counted_where_the_kernel_migrates() {
    gate::needs!(root, "run nginx": &nginx::require(&options(MANY)));
    let apart = || {
        let script = "ip link set lo up && echo 1 >/proc/sys/net/ipv4/tcp_migrate_req && \
                      exec nginx \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", script, "sh"]);
        command
    };
    let nginx = Nginx::start_as(apart, LOCALHOST, &options(MANY)).unwrap();
    in_namespace_of(nginx.pid(), || {
        nginx_counted("nginx, tcp_migrate_req=1", nginx);
    });
}
