//! Scripts that die, hang, flood, or leave processes behind: each is bounded and answered, and nothing
//! is left of it.

use std::io::Write as _;
use std::thread;

use srv::fastcgi::client;

use super::{COMPLETE, Cgi, answer};

/// One script, and what its client gets: the status of the answer, and of its end.
struct Case {
    name: &'static str,
    text: &'static str,
    status: u16,
    /// `None`: the answer is cut, so that it has no end.
    end: Option<u32>,
}

const CASES: [Case; 12] = [
    Case {
        name: "dies",
        text: "kill -9 $$",
        status: 502,
        end: Some(0),
    },
    Case {
        name: "dies-within-its-answer",
        text: "echo; echo part; kill -SEGV $$",
        status: 200,
        end: None,
    },
    Case {
        name: "hangs",
        text: "sleep 1000",
        status: 504,
        end: Some(0),
    },
    Case {
        name: "hangs-within-its-answer",
        text: "echo; echo part; sleep 1000",
        status: 200,
        end: None,
    },
    Case {
        name: "ignores-sigterm",
        text: "trap '' TERM; sleep 1000; sleep 1000",
        status: 504,
        end: Some(0),
    },
    Case {
        name: "floods",
        text: "echo; exec yes",
        status: 200,
        end: None,
    },
    Case {
        name: "floods-the-log",
        text: "yes | head -c 100000 >&2; printf 'evil\\033[2J\\rline\\n' >&2; echo; exit 4",
        status: 200,
        end: Some(4),
    },
    Case {
        name: "leaves-children",
        text: "sleep 1000 & (sleep 1000 &); setsid sleep 1000 & echo; exit 5",
        status: 200,
        end: Some(5),
    },
    Case {
        name: "leaves-daemons",
        text:
            "for i in 1 2 3 4 5; do setsid sh -c '(sleep 1000 & sleep 1000 &) & sleep 1000' & done
               sleep 0.1; echo",
        status: 200,
        end: Some(0),
    },
    Case {
        name: "kills-its-supervisor",
        text: "setsid sleep 1000 & sleep 1000 & kill -9 $PPID; sleep 1000",
        status: 502,
        end: Some(0),
    },
    Case {
        name: "closes-its-output",
        text: "echo; echo all; exec >&-; exit 6",
        status: 200,
        end: Some(6),
    },
    Case {
        name: "closes-its-input",
        text: "exec <&-; echo; echo all",
        status: 200,
        end: Some(0),
    },
];

const OUTPUT: usize = 100_000;

#[test]
fn each_is_bounded_and_answered() {
    let scripts = CASES.map(|case| (case.name, format!("#!/bin/sh\n{}\n", case.text)));
    let scripts: Vec<_> = scripts
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let output = OUTPUT.to_string();
    let flags = [
        "--time-limit",
        "1s",
        "--output",
        &output,
        "--concurrent",
        "12",
    ];
    let mut cgi = Cgi::start(&scripts, &flags);
    let asked = CASES.map(|case| (case.name, cgi.begin(case.name)));
    let answers =
        asked.map(|(name, mut stream)| (name, thread::spawn(move || answer(&mut stream))));
    for (case, (name, said)) in CASES.iter().zip(answers) {
        let said = said.join().unwrap();
        assert!(said.head.is_some(), "{name}: {said:?}");
        assert_eq!(said.status(), case.status, "{name}: {said:?}");
        let end = case.end.map(|code| (code, COMPLETE));
        assert_eq!(said.end, end, "{name}");
        assert!(said.body.len() <= OUTPUT, "{name}");
    }
    cgi.await_none_left();
    // It serves on.
    assert_eq!(cgi.ask("closes-its-output").body, "all\n");
    assert!(cgi.child.stop().unwrap().success());
    let log = cgi.child.stderr();
    for part in [
        "/hangs was killed: it ran for 1s (--time-limit)",
        "/floods was killed: it wrote more than 100000 bytes (--output)",
        "/dies was ended by signal 9",
        "/closes-its-output ended with code 6",
        "/floods-the-log: y",
    ] {
        assert!(log.contains(part), "no `{part}` in:\n{log}");
    }
    assert!(!log.contains('\u{1b}'), "{log:?}");
    let lines = log
        .lines()
        .filter(|line| line.ends_with("/floods-the-log: y"));
    assert!(
        lines.count() <= 300,
        "100 a second, and the log has all of it"
    );
}

#[test]
fn a_body_that_is_not_read_holds_up_nothing() {
    let scripts = [
        ("ends", "#!/bin/sh\necho; echo all\n"),
        ("closes", "#!/bin/sh\nexec <&-; sleep 0.1; echo; echo all\n"),
        (
            "answers-first",
            "#!/bin/sh\necho; head -c 1000000 /dev/zero | tr '\\0' x; wc -c\n",
        ),
    ];
    let cgi = Cgi::start(&scripts, &[]);
    for (script, _) in scripts {
        let mut request = Vec::new();
        client::put_request(&mut request, &cgi.pairs(script), false);
        client::put_body(&mut request, &vec![b'x'; 2_000_000]);
        client::put_end_of_body(&mut request);
        let mut stream = cgi.connect();
        let mut sender = stream.try_clone().unwrap();
        // srv may close before it has all of it.
        let sending = thread::spawn(move || drop(sender.write_all(&request)));
        let said = answer(&mut stream);
        assert_eq!(
            (said.status(), said.end),
            (200, Some((0, COMPLETE))),
            "{script}"
        );
        match script {
            "answers-first" => assert!(said.body.trim_end().ends_with("x2000000")),
            _ => assert_eq!(said.body, "all\n", "{script}"),
        }
        drop(stream);
        sending.join().unwrap();
    }
}

#[test]
fn a_client_that_leaves_takes_its_script_with_it() {
    let cgi = Cgi::start(
        &[("hangs", "#!/bin/sh\necho; echo started; sleep 1000\n")],
        &[],
    );
    let mut stream = cgi.begin("hangs");
    std::io::Read::read_exact(&mut stream, &mut [0; 8]).unwrap();
    drop(stream);
    cgi.await_none_left();
    // The same, and the connection stays: the client says that it wants no answer.
    let mut stream = cgi.connect();
    stream.write_all(&cgi.request("hangs", true)).unwrap();
    let mut abort = Vec::new();
    client::put_abort(&mut abort);
    stream.write_all(&abort).unwrap();
    answer(&mut stream);
    cgi.await_none_left();
}
