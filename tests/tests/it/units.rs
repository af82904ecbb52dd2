//! The two units in dist/ side by side: srv.service as a user of its own, srv-attach@ as
//! root, each with the folder that systemd makes for it.

use std::net::SocketAddr;
use std::process::Command;

use srv::control;

use crate::agent::srv;
use crate::attach_refusals::listening;
use crate::gate;

const SERVICE: &str = include_str!("../../../dist/srv.service");
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
