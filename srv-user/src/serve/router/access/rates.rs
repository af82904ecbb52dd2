//! How many requests each client may make: a bucket for each client and route, of which one number
//! is kept, the time at which it is full again (the generic cell rate algorithm). The table is
//! bounded; the client that has made no request for longest is forgotten first, as if its bucket
//! were full. These functions know no clock.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::serve::config::sites::Rate;

/// The most clients, each about 100 bytes.
const CLIENTS_MAX: NonZeroUsize = NonZeroUsize::new(16 << 10).unwrap();

/// A client at a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    route: usize,
    network: Option<u128>,
}

impl Key {
    /// A client with an IPv6 address is its /64, since it may have any address of that. Clients
    /// whose address is unknown are one.
    pub(super) fn of(route: usize, address: Option<IpAddr>) -> Self {
        let network = address.map(|address| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits() >> 64 << 64,
        });
        Self { route, network }
    }
}

/// When each client's bucket is full again, ns.
#[derive(Debug)]
pub(super) struct Rates(LruCache<Key, u64>);

impl Default for Rates {
    fn default() -> Self {
        Self(LruCache::new(CLIENTS_MAX))
    }
}

impl Rates {
    /// How long a request has to wait, ns; 0: it need not.
    pub(super) fn wait_ns(&self, key: Key, rate: Rate, now_ns: u64) -> u64 {
        let full_ns = self.0.peek(&key).copied().unwrap_or(0);
        let interval_ns = interval_ns(rate);
        let room_ns = interval_ns * u64::from(rate.burst.saturating_sub(1));
        full_ns.saturating_sub(now_ns + room_ns)
    }

    /// Counts a request, unless it has to wait.
    ///
    /// # Errors
    /// How long it has to wait, ns.
    pub(super) fn take(&mut self, key: Key, rate: Rate, now_ns: u64) -> Result<(), u64> {
        match self.wait_ns(key, rate, now_ns) {
            0 => {
                let full_ns = self.0.get_or_insert_mut(key, || 0);
                *full_ns = (*full_ns).max(now_ns) + interval_ns(rate);
                Ok(())
            }
            wait_ns => Err(wait_ns),
        }
    }
}

fn interval_ns(rate: Rate) -> u64 {
    1_000_000_000 / u64::from(rate.per_second.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 10,
        burst: 3,
    };
    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut rates = Rates::default();
        let key = Key::of(0, None);
        let start_ns = 5 * SECOND_NS;
        for _ in 0..3 {
            rates.take(key, RATE, start_ns).unwrap();
        }
        assert_eq!(rates.take(key, RATE, start_ns), Err(SECOND_NS / 10));
        let mut taken = 0;
        for ms in 0..1000 {
            taken += usize::from(rates.take(key, RATE, start_ns + ms * 1_000_000).is_ok());
        }
        assert_eq!(taken, 9);
        let later_ns = start_ns + 60 * SECOND_NS;
        let burst = (0..9).filter(|_| rates.take(key, RATE, later_ns).is_ok());
        assert_eq!(burst.count(), 3);
    }

    #[test]
    fn each_client_and_route_has_its_own() {
        let mut rates = Rates::default();
        let one = Rate {
            per_second: 1,
            burst: 1,
        };
        let key = |route, address: &str| Key::of(route, Some(address.parse().unwrap()));
        for key in [
            key(0, "192.0.2.1"),
            key(1, "192.0.2.1"),
            key(0, "192.0.2.2"),
            key(0, "2001:db8::1"),
            key(0, "2001:db8:0:1::1"),
        ] {
            rates.take(key, one, SECOND_NS).unwrap();
            assert!(rates.take(key, one, SECOND_NS).is_err());
        }
        assert_eq!(key(0, "2001:db8::1"), key(0, "2001:db8::ffff:2"));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut rates = Rates::default();
        for nth in 0..2 * CLIENTS_MAX.get() {
            let address = IpAddr::from(u32::try_from(nth).unwrap().to_be_bytes());
            rates.take(Key::of(0, Some(address)), RATE, 1).unwrap();
        }
        assert_eq!(rates.0.len(), CLIENTS_MAX.get());
    }
}
