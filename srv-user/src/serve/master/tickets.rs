//! The keys of TLS session tickets: the master draws them, and a successor continues with its
//! predecessor's, so that clients resume their sessions at every worker and across an upgrade.

use srv_steer::monotonic_ns;

use super::Master;
use super::takeover::ToSuccessor;
use crate::serve::tickets::TicketKeys;

impl Master {
    fn speaks_tls(&self) -> bool {
        self.settings.serving.https.contains(&true)
    }

    /// Draws a new key if it is time. The workers get it with their next orders.
    pub(super) fn renew_tickets(&mut self) {
        if !self.speaks_tls() {
            return;
        }
        if let Err(error) = self.tickets.renew(monotonic_ns()) {
            tracing::warn!(
                "draw a key for TLS session tickets: {error}; clients resume with the keys that \
                 there are"
            );
        }
    }

    /// For a successor. An older binary does not know this message, but then it speaks no TLS, either.
    pub(super) fn hand_over_tickets(&self) -> Option<ToSuccessor> {
        let is_any = self.speaks_tls() && !self.tickets.list().is_empty();
        is_any.then(|| ToSuccessor::Tickets(self.tickets.clone()))
    }

    /// Continues with the keys of the old master.
    pub(super) fn take_tickets(&mut self, keys: TicketKeys) {
        self.tickets = keys;
    }
}
