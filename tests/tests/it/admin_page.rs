//! The live page in a browser: it shows what the status says, goes on when the server is started anew,
//! and switches the policy where it may.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use serde_json::Value;
use srv_tests::free_address;
use srv_tests::server::Server;

use crate::agent::LOCALHOST;
use crate::browser::{self, Browser};
use crate::gate;
use crate::probe::until;
use crate::serve::serve;
use srv::measure::load::keep_alive::{KeepAlive, Opening};

fn start(admin: SocketAddr, workers: u32) -> Server {
    let admin = admin.to_string();
    serve().workers(workers).with("--admin", admin).start()
}

/// What the page shows.
fn shown(browser: &Browser) -> Value {
    browser.run(
        "const text = id => document.getElementById(id).firstChild?.textContent ?? '';
         const rows = [...document.querySelectorAll('#workers tr')];
         return {
             title: text('title'), steering: text('steering'), open: text('connections'),
             pids: rows.map(row => Number(row.children[2].textContent)),
             opens: rows.map(row => Number(row.children[5].textContent)),
             events: document.getElementById('events').textContent,
             may_switch: !document.getElementById('policy-form').hidden,
             drawn: document.getElementById('queues').height,
         };",
    )
}

#[test]
fn the_page_shows_the_status_and_follows_a_new_server() {
    gate::needs!("drive a browser": &browser::installed());
    let admin = free_address(LOCALHOST).unwrap();
    let server = start(admin, 2);
    let kept = KeepAlive::open(server.address(), "/", 6, Opening::OneByOne).unwrap();
    let browser = Browser::start(1000, 900);
    browser.open(&format!("http://{admin}/"));
    let page = until("the page shows all connections", || {
        Some(shown(&browser)).filter(|page| page["open"] == "6")
    });
    let status = server.status().unwrap();
    let of = |figure: fn(&srv::control::status::WorkerStatus) -> u32| {
        Value::from(
            status.groups[0]
                .workers
                .iter()
                .map(figure)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(page["pids"], of(|worker| worker.pid));
    assert_eq!(page["opens"], of(|worker| worker.active));
    assert_eq!(page["title"], format!("srv on {}", server.address()));
    let steering = page["steering"].as_str().unwrap();
    assert!(steering.ends_with("accept mode ring"), "{steering}");
    assert_eq!(page["may_switch"], false, "this is no Unix socket");
    assert!(page["drawn"].as_u64() > Some(20), "{page}");
    assert_eq!(browser.console(), [] as [Value; 0]);
    drop(kept);
    server.stop().unwrap();
    let server = start(admin, 3);
    let page = until("the page shows the new server", || {
        Some(shown(&browser)).filter(|page| page["pids"].as_array().map(Vec::len) == Some(3))
    });
    let pid = server.status().unwrap().pid;
    let events = page["events"].as_str().unwrap();
    assert!(events.contains(&format!("→ {pid}")), "{events}");
}

/// The status of the answer, and its body.
fn post(server: &Server, fields: &str, order: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(server.control().with_extension("admin")).unwrap();
    let length = order.len();
    write!(
        stream,
        "POST /policy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\
         Content-Length: {length}\r\n\r\n{order}"
    )
    .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn over_the_unix_socket_the_policy_is_switched_and_not_by_other_sites() {
    gate::needs!(steer);
    let server = serve().workers(2).policy("least").start();
    let json = "Content-Type: application/json\r\n";
    let policy = || server.status().unwrap().policy;
    let foreign = format!("{json}Origin: http://evil.test\r\n");
    let order = r#"{"policy": "p2c"}"#;
    assert_eq!(post(&server, &foreign, order).0, 403);
    assert_eq!(post(&server, "Content-Type: text/plain\r\n", order).0, 415);
    assert_eq!(post(&server, json, "p2c").0, 400);
    assert_eq!(post(&server, json, &" ".repeat(2000)).0, 400);
    let (status, why) = post(&server, json, r#"{"policy": "best"}"#);
    assert_eq!(
        (status, why.contains("expected one of")),
        (409, true),
        "{why}"
    );
    assert_eq!(policy(), "least");
    assert_eq!(post(&server, json, order).0, 200);
    assert_eq!(policy(), "p2c");
    let (status, _) = post(&server, json, r#"{"policy": "hash"}"#);
    assert_eq!(status, 200);
    assert!(!server.status().unwrap().groups[0].program.attached);
}
