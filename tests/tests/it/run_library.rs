//! What the library of `srv run` does beside accepting connections: what a program executes keeps
//! it, and what it has mapped for a listener goes with the listener. The programs are of Python,
//! which can call any function of the C library.

use std::process::Command;

use srv::measure::baseline::launch::NO_BPF;
use srv_tests::python::executable;
use srv_tests::server::binary;

use crate::gate;
use crate::unmodified::in_path;

const PYTHON: &str = "python3";

/// What a program of Python writes under `srv run`.
fn python(program: &str) -> String {
    let mut command = Command::new(binary().unwrap());
    command.args(["run", NO_BPF, "--"]);
    command.arg(executable(PYTHON)).args(["-c", program]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// The arguments of `execl` and its relatives are listed in the call: some of them come in registers
/// and some on the stack.
#[test]
fn what_a_listed_call_executes_keeps_the_library() {
    const CALLS: [&str; 3] = [
        "library.execl(b'/bin/sh', *words, None)",
        "library.execlp(b'sh', *words, None)",
        "library.execle(b'/bin/sh', *words, None, (ctypes.c_char_p * 2)(b'A=1', None))",
    ];
    gate::needs!("run Python": &in_path(executable(PYTHON)));
    for call in CALLS {
        let said = python(&format!(
            "import ctypes, os
os.environ['A'] = '1'
library = ctypes.CDLL(None)
shown = b'echo $A $# $9 ${{LD_PRELOAD:+library}} ${{SRV_RUN:+coordinator}}'
words = [b'sh', b'-c', shown] + [b'%d' % nth for nth in range(10)]
{call}"
        ));
        assert_eq!(said, "1 9 9 library coordinator", "{call}");
    }
}

#[test]
fn the_memory_of_a_listener_is_unmapped_with_it() {
    const LISTENERS: usize = 8;
    gate::needs!(root, "run Python": &in_path(executable(PYTHON)));
    let said = python(&format!(
        "import select, socket
def mapped():
    return sum('/memfd:srv-group' in line for line in open('/proc/self/maps'))
def listen():
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    select.select([listener], [], [], 0)
    return listener
for nth in range({LISTENERS}):
    listener = listen()
    while_open = mapped()
    listener.close()
    print(while_open > 0, mapped())"
    ));
    assert_eq!(said, ["True 0"; LISTENERS].join("\n"));
}
