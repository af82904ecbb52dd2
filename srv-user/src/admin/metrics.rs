//! `/metrics`: the server's figures in the formats that Prometheus reads. A format is chosen as the
//! client asks for it. What there is to say is in [`server`] and [`attached`]; [`text`] and
//! [`protobuf`] say it.

mod attached;
mod balance;
mod families;
mod format;
mod protobuf;
mod server;
mod text;

use std::fmt;

pub(super) use balance::Balance;
use families::Family;
pub(super) use format::Format;

use super::health::readiness;
use super::source::Snapshot;
use crate::control::interval::GroupInterval;

/// The metrics of a server, in a format. `intervals` say how evenly connections were shared of late.
///
/// # Errors
/// The library cannot write a name or a figure.
pub(super) fn encode(
    snapshot: &Snapshot,
    intervals: &[GroupInterval],
    format: Format,
) -> Result<Vec<u8>, fmt::Error> {
    let mut families = match snapshot {
        Snapshot::Server(status) => server::families(status),
        Snapshot::Attached(status) => attached::families(status),
    };
    let ready = u64::from(readiness(snapshot).is_ok());
    families.push(
        Family::gauge(
            "srv_ready",
            "Whether /readyz says that the server is ready.",
        )
        .with([], ready),
    );
    families.extend(balance::families(intervals));
    families.retain(|family| !family.samples.is_empty());
    match format {
        Format::Prometheus => text::prometheus(families),
        Format::OpenMetrics => text::open_metrics(families),
        Format::Protobuf => Ok(protobuf::delimited(&families)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{group_for_tests, worker_for_tests};
    use crate::control::status_for_tests;

    fn snapshot() -> Snapshot {
        let mut worker = worker_for_tests(0);
        (worker.taken_own, worker.taken_stolen, worker.active) = (7, 2, 3);
        let group = group_for_tests(vec![worker, worker_for_tests(1)]);
        Snapshot::Server(status_for_tests(vec![group]))
    }

    fn text(format: Format) -> String {
        String::from_utf8(encode(&snapshot(), &[], format).unwrap()).unwrap()
    }

    #[test]
    fn the_same_figures_are_in_both_text_formats() {
        let (prometheus, open_metrics) = (text(Format::Prometheus), text(Format::OpenMetrics));
        let worker = "listen=\"127.0.0.1:8080\",worker=\"0\"";
        for line in [
            format!("srv_accepted_total{{{worker},from=\"own\"}} 7"),
            format!("srv_accepted_total{{{worker},from=\"stolen\"}} 2"),
            format!("srv_connections{{{worker}}} 3"),
            "srv_build_info{version=\"0.1.0\"} 1".to_owned(),
            "srv_fallbacks_total{listen=\"127.0.0.1:8080\",reason=\"not_syn\"} 3".to_owned(),
            "srv_ready 1".to_owned(),
        ] {
            for text in [&prometheus, &open_metrics] {
                assert!(
                    text.lines().any(|said| said == line),
                    "no `{line}` in {text}"
                );
            }
        }
        assert!(prometheus.contains("# TYPE srv_accepted_total counter\n"));
        assert!(open_metrics.contains("# TYPE srv_accepted counter\n"));
        assert!(open_metrics.ends_with("# EOF\n") && !prometheus.contains("EOF"));
    }
}
