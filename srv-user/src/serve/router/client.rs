//! What sites know of a client beside its request.

/// A client, for as long as its connection lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The listener that it connected to, by its number in the order of the addresses.
    pub listener: usize,
}
