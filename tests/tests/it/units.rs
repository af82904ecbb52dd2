//! The units in dist/: srv.service as a user of its own and srv-attach@ as root, side by side, each
//! with the folder that systemd makes for it; and the drop-in that starts nginx under `srv run`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rustix::process::Pid;
use srv::control::{self, Reply, Request, ask};
use srv_tests::child::Child;
use srv_tests::free_address;

use crate::agent::srv;
use crate::attach_refusals::listening;
use crate::client::get;
use crate::gate;
use crate::probe::until;
use crate::unmodified::servers::NGINX;

const SERVICE: &str = include_str!("../../../dist/srv.service");
const RUN: &str = include_str!("../../../dist/nginx-srv-run.conf");
const ATTACH: &str = include_str!("../../../dist/srv-attach@.service");

/// The value of the only line with this key.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let values: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key))
        .collect();
    let [value] = values[..] else {
        panic!("not one line `{key}`: {values:?}")
    };
    value
}

/// What systemd does for both units, then what root types; each answer after a line of
/// its own. All of it in a mount namespace that nothing else sees.
const SCRIPT: &str = r#"
mount -t tmpfs tmpfs /run
install -d -m 0755 -o 65534 -g 65534 "/run/$SERVICE"
install -d -m 0700 "/run/$ATTACH"
cp "$SRV" /run/srv-binary
setpriv --reuid 65534 --regid 65534 --clear-groups /run/srv-binary serve \
    --listen 127.0.0.1:0 --workers 1 --no-bpf --control "$CONTROL" &
SERVER=$!
trap "kill $SERVER" EXIT
for _ in $(seq 3000); do [ -S "$CONTROL" ] && break; sleep .01; done
"$SRV" attach --listen "$ADDR" --once
"$SRV" status
"$SRV" detach --listen "$ADDR"
"#;

#[test]
fn the_service_as_its_own_user_and_roots_agent_share_no_folder() {
    let service = value(SERVICE, "RuntimeDirectory=");
    let attach = value(ATTACH, "RuntimeDirectory=");
    assert_eq!(format!("/run/{service}"), control::SERVICE_FOLDER);
    assert_eq!(format!("/run/{attach}"), control::ROOT_FOLDER);
    let start = value(SERVICE, "ExecStart=");
    let mut words = start.split(' ').skip_while(|word| *word != "--control");
    let socket = words.nth(1).expect("the service names its control socket");
    assert!(socket.starts_with(&format!("/run/{service}/")), "{socket}");
    gate::needs!(steer, root);
    let (_sockets, address) = listening(2);
    let said = run(service, attach, socket, address);
    for part in [
        "srv 0.1.0, master ",
        "; no agent, policy least)",
        &format!("{address}: detached"),
    ] {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
}

fn run(service: &str, attach: &str, socket: &str, address: SocketAddr) -> String {
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-ec", SCRIPT]);
    shell.env("SERVICE", service).env("ATTACH", attach);
    shell
        .env("CONTROL", socket)
        .env("ADDR", address.to_string());
    shell.env("SRV", srv().get_program());
    let output = shell.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// nginx's configuration, with `daemon` left to the command.
fn write_configuration(folder: &Path, address: SocketAddr) {
    let folder_name = folder.display();
    let text = format!(
        "worker_processes 2;\npid {folder_name}/pid;\nerror_log stderr notice;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; server {{ listen {address}; location / {{ return 200; }} }} }}\n"
    );
    std::fs::write(folder.join("nginx.conf"), text).unwrap();
}

#[test]
fn the_drop_in_starts_nginx_steered() {
    gate::needs!(steer, root, "run nginx": &NGINX.installed());
    let mut starts = RUN
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart="));
    // The first one takes the unit's own command away.
    assert_eq!(starts.next(), Some(""));
    let start = starts.next().unwrap();
    let installed = "/usr/local/bin/srv";
    assert!(start.starts_with(installed), "{start}");
    let folder = tempfile::tempdir().unwrap();
    let address = free_address(crate::agent::LOCALHOST).unwrap();
    write_configuration(folder.path(), address);
    let binary = srv().get_program().to_str().unwrap().to_owned();
    let start = start.replacen(installed, &binary, 1);
    let mut shell = Command::new("sh");
    let configuration = folder.path().join("nginx.conf");
    shell
        .arg("-c")
        .arg(format!("exec {start} -c {}", configuration.display()));
    let mut nginx = Child::spawn(&mut shell).unwrap();
    let pid = nginx.pid().as_raw_nonzero();
    let socket = format!("{}/run-{pid}.sock", control::ROOT_FOLDER);
    let group = || match ask(Some(Path::new(&socket)), &Request::Status) {
        Ok(Reply::Status(mut status)) => status.groups.pop(),
        _ => None,
    };
    until("both workers have a slot", || {
        let group = group()?;
        let ready = group
            .workers
            .iter()
            .filter(|worker| worker.state.name() == "ready");
        (ready.count() == 2).then_some(())
    });
    let before = group().unwrap().program;
    get(address, "/");
    let after = group().unwrap().program;
    assert!(
        after.attached && after.steered > before.steered,
        "{after:?}"
    );
    let first: i32 = std::fs::read_to_string(folder.path().join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(
        Pid::from_raw(first),
        Some(nginx.pid()),
        "nginx is the service's first process"
    );
    assert!(nginx.stop().unwrap().success());
}
