//! srv against a real kernel, through the real binary: one module per topic.
//! One test binary for all of them, so that it is linked once.

mod support;

// So that a test names them as it does the modules beside it.
use support::{
    agent, attached_server, beside, browser, client, configured, frozen, gate, loaded, manager,
    network, probe, serve, unmodified, upgradable,
    agent, attached_server, beside, client, configured, frozen, gate, loaded, manager, network,
    php, probe, serve, unmodified, upgradable,
};

mod ab;
mod ab_spoiled;
mod access_log;
mod admin;
mod admin_page;
mod attach;
mod attach_docs;
mod attach_errors;
mod attach_follow;
mod attach_lock;
mod attach_refusals;
mod attach_servers;
mod attach_stress;
mod attached_cookies;
mod attached_degraded;
mod attached_steering;
mod cgi;
mod closing;
mod connections;
mod container;
mod control_socket;
mod cookies;
mod deaths;
mod delay_line;
mod descriptors;
mod differential;
mod dokuwiki;
mod fallbacks;
mod fastcgi;
mod faulty_workers;
mod fd_store;
mod flood;
mod framing;
mod hangs;
mod hostile_worker;
mod inspection;
mod introspection;
mod join;
mod join_backlog;
mod join_hostile;
mod join_refusals;
mod lateness;
mod library;
mod limits;
mod load;
mod load_limits;
mod load_requests;
mod load_shapes;
mod load_tls;
mod malformed;
mod modes;
mod observe;
mod old_kernels;
mod orders;
mod patience;
mod policies;
mod privilege;
mod rehearsal;
mod reload;
mod report;
mod request_rules;
mod requests_ended;
mod ring;
mod root_moves;
mod run_capacity;
mod run_command;
mod run_coordinator;
mod run_library;
mod run_processes;
mod run_servers;
mod run_shares;
mod sandbox;
mod shares;
mod shrink;
mod signals;
mod simulation;
mod sites;
mod slowloris;
mod start;
mod stderr;
mod stop;
mod storm;
mod switch;
mod system_calls;
mod systemd;
mod tls;
mod top;
mod turns;
mod units;
mod unprivileged;
mod upgrade;
mod upgrade_failures;
mod upgrade_reload;
mod verifier;
mod waiting;
mod walk;
