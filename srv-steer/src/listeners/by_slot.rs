//! The sockets of a group, each in its slot. If a server opens and closes its listeners itself, a
//! slot can be without one. Knows nothing of what a socket is for.

use std::ops::Index;

use socket2::Socket;

/// The sockets of a group by slot. (If all workers share one socket, it is in slot 0.)
#[derive(Default)]
pub struct Sockets(Vec<Option<Socket>>);

impl Sockets {
    /// How many slots there are up to the last one with a socket. If no slot is without a socket,
    /// that is the number of sockets.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no socket.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The socket in `slot`, if there is one.
    pub fn get(&self, slot: usize) -> Option<&Socket> {
        self.0.get(slot)?.as_ref()
    }

    /// The socket in the lowest slot that has one.
    pub fn first(&self) -> Option<&Socket> {
        self.iter().next()
    }

    /// The sockets, in order of slot.
    pub fn iter(&self) -> std::iter::Flatten<std::slice::Iter<'_, Option<Socket>>> {
        self.0.iter().flatten()
    }

    /// The sockets, each with its slot, in order.
    pub fn by_slot(&self) -> impl Iterator<Item = (u32, &Socket)> + Clone {
        let slots = (0..).zip(&self.0);
        slots.filter_map(|(slot, socket)| Some((slot, socket.as_ref()?)))
    }

    /// Adds a socket in the slot after the last one.
    pub fn push(&mut self, socket: Socket) {
        self.0.push(Some(socket));
    }

    /// Puts a socket into `slot`. Returns the one that was there.
    pub fn put(&mut self, slot: u32, socket: Socket) -> Option<Socket> {
        let needed = slot as usize + 1;
        if self.0.len() < needed {
            self.0.resize_with(needed, || None);
        }
        self.0[slot as usize].replace(socket)
    }

    /// Takes the socket out of `slot`.
    pub fn take(&mut self, slot: u32) -> Option<Socket> {
        let taken = self.0.get_mut(slot as usize)?.take();
        let used = self.0.iter().rposition(Option::is_some);
        self.0.truncate(used.map_or(0, |last| last + 1));
        taken
    }
}

impl FromIterator<Socket> for Sockets {
    fn from_iter<I: IntoIterator<Item = Socket>>(sockets: I) -> Self {
        Self(sockets.into_iter().map(Some).collect())
    }
}

impl<'a> IntoIterator for &'a Sockets {
    type Item = &'a Socket;
    type IntoIter = std::iter::Flatten<std::slice::Iter<'a, Option<Socket>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Index<usize> for Sockets {
    type Output = Socket;

    /// # Panics
    /// If the slot has no socket.
    fn index(&self, slot: usize) -> &Socket {
        self.get(slot).expect("a socket in that slot")
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    fn socket() -> Socket {
        Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
    }

    #[test]
    fn a_slot_can_be_without_a_socket() {
        let mut sockets = Sockets::default();
        assert!(sockets.put(2, socket()).is_none());
        assert!(sockets.put(0, socket()).is_none());
        let slots = |sockets: &Sockets| sockets.by_slot().map(|(slot, _)| slot).collect::<Vec<_>>();
        assert_eq!((slots(&sockets), sockets.len()), (vec![0, 2], 3));
        assert!(sockets.get(1).is_none() && sockets.get(2).is_some());
        assert!(sockets.take(1).is_none() && sockets.take(2).is_some());
        assert_eq!((slots(&sockets), sockets.len()), (vec![0], 1));
        assert!(sockets.put(0, socket()).is_some());
        assert!(sockets.take(0).is_some() && sockets.is_empty());
        assert!(sockets.take(7).is_none());
    }
}
