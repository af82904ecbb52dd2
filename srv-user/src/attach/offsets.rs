//! Where the running kernel keeps the fields that the select program for attached servers
//! reads. If a field does not exist, the signals that need it are missing, and the reason names
//! the field.

use anyhow::ensure;
use srv_common::attached::Offsets;

use srv_steer::btf::Btf;

/// What the program can read of the running kernel.
pub(crate) struct Readable {
    /// The offsets of the fields of each signal that can be read.
    pub(crate) offsets: Offsets,
    /// Whether the program can read queues, or the reason why not. Without queues it reads
    /// nothing.
    pub(crate) queues: anyhow::Result<()>,
    /// Whether the program can read which workers sleep, or the reason why not.
    pub(crate) sleep: anyhow::Result<()>,
}

/// Bytes that the program has room for in one read (`Room` in `srv-ebpf`).
const GROUP_MAX_BYTES: u32 = 256 - 128;
const LISTENER_MAX_BYTES: u32 = 1024;
const ENTRY_MAX_BYTES: u32 = 128;

/// Looks all fields up.
pub(crate) fn find(btf: anyhow::Result<&Btf>) -> Readable {
    let mut offsets = Offsets::default();
    let (queues, sleep) = match btf {
        Ok(btf) => {
            let queues = queues(btf).map(|found| offsets = found);
            let sleep = sleep(btf, offsets).map(|found| offsets = found);
            (queues, sleep)
        }
        Err(error) => {
            let why = format!("{error:#}");
            (Err(error), Err(anyhow::anyhow!(why)))
        }
    };
    Readable {
        offsets,
        queues,
        sleep,
    }
}

/// A field of [`Offsets`], and the path of the kernel's field that it is the offset of.
type Field = (fn(&mut Offsets) -> &mut u32, &'static str);

const QUEUES: [Field; 8] = [
    (|to| &mut to.context_sk, "sk_reuseport_kern.sk"),
    (|to| &mut to.sk_reuseport_cb, "sock.sk_reuseport_cb"),
    (|to| &mut to.num_socks, "sock_reuseport.num_socks"),
    (|to| &mut to.max_socks, "sock_reuseport.max_socks"),
    (|to| &mut to.socks, "sock_reuseport.socks"),
    (|to| &mut to.skc_cookie, "sock.__sk_common.skc_cookie"),
    (|to| &mut to.sk_ack_backlog, "sock.sk_ack_backlog"),
    (
        |to| &mut to.qlen,
        "inet_connection_sock.icsk_accept_queue.qlen",
    ),
];

const SLEEP: [Field; 10] = [
    (|to| &mut to.sk_wq, "sock.sk_wq"),
    (|to| &mut to.wq_wait, "socket_wq.wait"),
    (|to| &mut to.wait_head, "wait_queue_head.head"),
    (|to| &mut to.entry_base, "eppoll_entry.base"),
    (|to| &mut to.entry_link, "eppoll_entry.wait.entry"),
    (|to| &mut to.entry_whead, "eppoll_entry.whead"),
    (|to| &mut to.item_ep, "epitem.ep"),
    (|to| &mut to.item_pwqlist, "epitem.pwqlist"),
    (|to| &mut to.ep_wq_head, "eventpoll.wq.head"),
    (|to| &mut to.ep_rbr, "eventpoll.rbr"),
];

fn look_up(btf: &Btf, fields: &[Field], offsets: &mut Offsets) -> anyhow::Result<()> {
    for (field, path) in fields {
        *field(offsets) = btf.offset(path)?;
    }
    Ok(())
}

fn queues(btf: &Btf) -> anyhow::Result<Offsets> {
    let mut found = Offsets {
        reads_queues: 1,
        ..Offsets::default()
    };
    look_up(btf, &QUEUES, &mut found)?;
    fits("sock_reuseport.socks", 0, found.socks, GROUP_MAX_BYTES)?;
    let from = found.sk_ack_backlog;
    fits("sock.sk_ack_backlog", from, found.qlen, LISTENER_MAX_BYTES)?;
    Ok(found)
}

fn sleep(btf: &Btf, queues: Offsets) -> anyhow::Result<Offsets> {
    ensure!(
        queues.reads_queues == 1,
        "the program reads this signal only together with the signal queues, which is missing"
    );
    let mut found = Offsets {
        reads_sleep: 1,
        ..queues
    };
    look_up(btf, &SLEEP, &mut found)?;
    let (base, whead) = (found.entry_base, found.entry_whead);
    fits("eppoll_entry.whead", base, whead, ENTRY_MAX_BYTES)?;
    let (head, root) = (found.ep_wq_head, found.ep_rbr);
    fits("eventpoll.rbr", head, root, ENTRY_MAX_BYTES)?;
    Ok(found)
}

/// Checks that the program can read from the field at `from` to the end of the field at `to`,
/// which has 8 bytes, in one read.
fn fits(name: &str, from: u32, to: u32, max_bytes: u32) -> anyhow::Result<()> {
    ensure!(
        from < to && to - from + 8 <= max_bytes,
        "read {name}: this kernel has it at offset {to}, too far behind offset {from} for one read of \
         {max_bytes} bytes"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use srv_steer::btf;

    use super::*;
    use crate::gate;
    use crate::mutation::{config, mutated};

    /// Offsets differ between kernels. The test checks what holds on every kernel.
    #[test]
    fn the_running_kernels_fields_are_found_and_make_sense() {
        let btf = Btf::of_kernel().map_err(|error| format!("{error:#}"));
        if !gate::can(
            "read the kernel's BTF",
            btf.as_ref().map(drop).map_err(Clone::clone),
        ) {
            return;
        }
        let btf = btf.unwrap();
        let Readable {
            offsets,
            queues,
            sleep,
        } = find(Ok(&btf));
        queues.unwrap();
        sleep.unwrap();
        let pointer = size_of::<usize>() as u32;
        assert_eq!(offsets.context_sk, pointer, "{offsets:?}");
        assert_eq!(offsets.num_socks, offsets.max_socks + 2, "{offsets:?}");
        assert_eq!(offsets.entry_base, pointer, "{offsets:?}");
        assert_eq!(offsets.wq_wait, 0, "{offsets:?}");
        assert!(
            offsets.qlen
                > btf
                    .offset("inet_connection_sock.icsk_accept_queue")
                    .unwrap()
        );
    }

    #[test]
    fn without_type_information_nothing_is_read() {
        let readable = find(Err(anyhow::anyhow!("there is none")));
        assert_eq!(readable.offsets, Offsets::default());
        assert!(readable.queues.is_err() && readable.sleep.is_err());
    }

    /// The beginning of the running kernel's: all of it is too much for a test
    /// that parses it hundreds of times.
    fn excerpt() -> Option<Vec<u8>> {
        const TYPES_BYTES: usize = 8 << 10;
        const STRINGS_BYTES: usize = 8 << 10;
        let whole = std::fs::read(btf::KERNEL).ok()?;
        let of_header =
            |at: usize| u32::from_ne_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
        let (header, strings) = (of_header(4), of_header(4) + of_header(16));
        let mut bytes = whole[..header].to_vec();
        for (at, value) in [(12, TYPES_BYTES), (16, TYPES_BYTES), (20, STRINGS_BYTES)] {
            bytes[at..at + 4].copy_from_slice(&(value as u32).to_ne_bytes());
        }
        bytes.extend(&whole[header..header + TYPES_BYTES]);
        bytes.extend(&whole[strings..strings + STRINGS_BYTES]);
        Some(bytes)
    }

    #[test]
    fn hostile_type_information_is_refused_or_answers() {
        // Without the kernel's, what begins like type information and is none.
        let seeds = [Some(vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0]), excerpt()]
            .into_iter()
            .flatten();
        proptest!(config(), |(bytes in mutated(seeds))| {
            let btf = Btf::parse(bytes.to_vec());
            if let Ok(btf) = &btf {
                for path in ["", ".", "outer.a", "outer.b.x", "outer.c.e", "inner.e", "list_head.next"] {
                    let _ = btf.offset(path);
                }
            }
            let readable = find(btf.as_ref().map_err(|error| anyhow::anyhow!("{error}")));
            prop_assert!(readable.queues.is_err(), "it is not in there");
        });
    }
}
