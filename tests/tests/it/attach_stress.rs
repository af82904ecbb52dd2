//! Attach and detach, kills of the agent, and reloads, again and again under load, without a failed
//! request: a few times by default, and as often as the project promises with `SRV_STRESS=1`.

use std::time::Duration;

use rustix::process::Signal;
use srv_tests::child::Child;

use crate::agent::{Agent, nginx, options, said, srv};
use crate::loaded::without_loss;
use crate::probe::stress;

const PER_SECOND: f64 = 300.0;

#[test]
fn attach_and_detach() {
    let Some(nginx) = nginx(4) else { return };
    let address = nginx.address();
    let mut steered = 0;
    let cycles = stress(3, 100);
    let answered = without_loss(address, PER_SECOND, || {
        for _ in 0..cycles {
            let mut agent = Agent::attach(address, &["--policy", "least"]);
            let status = agent.until("it steers", |status| status.program.steered > Some(5));
            steered += status.program.steered.unwrap_or(0);
            assert_eq!(agent.stop().code(), Some(0));
        }
    });
    println!("{cycles} cycles, {answered} requests, at least {steered} steered, none failed");
    assert!(said(&format!("detach --listen {address}")).contains("nothing was attached"));
}

#[test]
fn kills_of_the_agent() {
    let Some(nginx) = nginx(4) else { return };
    let address = nginx.address();
    // Any instants will do; these are the same each time.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let kills = stress(4, 20);
    let answered = without_loss(address, PER_SECOND, || {
        for _ in 0..kills {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let attach = ["attach", "--listen", &address.to_string()];
            let mut agent = Child::spawn(srv().args(attach)).unwrap();
            // From its start to well after it has attached.
            std::thread::sleep(Duration::from_millis(random % 3_000));
            agent.signal(Signal::KILL).unwrap();
            agent.await_exit().unwrap();
        }
        let mut last = Agent::attach(address, &[]);
        last.until("the last one steers", |status| {
            status.program.steered > Some(5)
        });
        assert_eq!(last.stop().code(), Some(0));
    });
    println!("{kills} kills, {answered} requests, none failed");
}

#[test]
fn reloads() {
    let Some(mut nginx) = nginx(4) else { return };
    let address = nginx.address();
    let agent = Agent::attach(address, &[]);
    let count = stress(4, 50);
    let answered = without_loss(address, PER_SECOND, || {
        (0..count).for_each(|_| nginx.reload(&options(4)).unwrap());
    });
    let program = agent.status().program;
    let steered = program.steered.expect("the agent tells");
    println!("{count} reloads, {answered} requests, {steered} steered, none failed");
    assert!(steered as usize > answered / 2, "{program:?}");
}
