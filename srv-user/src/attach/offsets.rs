//! Where the running kernel keeps what the select program for attached servers reads. A
//! field that is not there costs the signals that need it, and is named.

use anyhow::ensure;
use srv_common::attached::Offsets;

use super::btf::Btf;

/// What the program may read of the running kernel, or why not.
pub struct Readable {
    /// With the fields of each signal that can be had.
    pub offsets: Offsets,
    /// Why queues cannot be read (then nothing can be).
    pub queues: anyhow::Result<()>,
    /// Why it cannot be read who sleeps.
    pub sleep: anyhow::Result<()>,
}

/// Bytes that the program has room for in one read.
const GROUP_MAX_BYTES: u32 = 256 - 128;
const LISTENER_MAX_BYTES: u32 = 1024;
const ENTRY_MAX_BYTES: u32 = 128;

/// Looks all fields up.
pub fn find(btf: anyhow::Result<&Btf>) -> Readable {
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

fn queues(btf: &Btf) -> anyhow::Result<Offsets> {
    let found = Offsets {
        reads_queues: 1,
        context_sk: btf.offset("sk_reuseport_kern.sk")?,
        sk_reuseport_cb: btf.offset("sock.sk_reuseport_cb")?,
        num_socks: btf.offset("sock_reuseport.num_socks")?,
        max_socks: btf.offset("sock_reuseport.max_socks")?,
        socks: btf.offset("sock_reuseport.socks")?,
        skc_cookie: btf.offset("sock.__sk_common.skc_cookie")?,
        sk_ack_backlog: btf.offset("sock.sk_ack_backlog")?,
        qlen: btf.offset("inet_connection_sock.icsk_accept_queue.qlen")?,
        ..Offsets::default()
    };
    fits("sock_reuseport.socks", 0, found.socks, GROUP_MAX_BYTES)?;
    let from = found.sk_ack_backlog;
    fits("sock.sk_ack_backlog", from, found.qlen, LISTENER_MAX_BYTES)?;
    Ok(found)
}

fn sleep(btf: &Btf, queues: Offsets) -> anyhow::Result<Offsets> {
    ensure!(queues.reads_queues == 1, "it is read after the queues");
    let found = Offsets {
        reads_sleep: 1,
        sk_wq: btf.offset("sock.sk_wq")?,
        wq_wait: btf.offset("socket_wq.wait")?,
        wait_head: btf.offset("wait_queue_head.head")?,
        entry_base: btf.offset("eppoll_entry.base")?,
        entry_link: btf.offset("eppoll_entry.wait.entry")?,
        entry_whead: btf.offset("eppoll_entry.whead")?,
        item_ep: btf.offset("epitem.ep")?,
        item_pwqlist: btf.offset("epitem.pwqlist")?,
        ep_wq_head: btf.offset("eventpoll.wq.head")?,
        ep_rbr: btf.offset("eventpoll.rbr")?,
        ..queues
    };
    let (base, whead) = (found.entry_base, found.entry_whead);
    fits("eppoll_entry.whead", base, whead, ENTRY_MAX_BYTES)?;
    let (head, root) = (found.ep_wq_head, found.ep_rbr);
    fits("eventpoll.rbr", head, root, ENTRY_MAX_BYTES)?;
    Ok(found)
}

/// The program reads from the one field to the end of the other, 8 bytes, at once.
fn fits(name: &str, from: u32, to: u32, max_bytes: u32) -> anyhow::Result<()> {
    ensure!(
        from < to && to - from + 8 <= max_bytes,
        "this kernel has {name} at a place ({to}, after {from}) that the program does not reach"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate;

    /// `pahole`'s answers would be the same; here the shape is what can be said
    /// of every kernel.
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
}
