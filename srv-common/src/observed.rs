//! What the program that counts closes is told at load. Constants of that program.

/// Which connections count, and where the running kernel keeps what tells them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Local port, in host byte order.
    pub port: u32,
    /// Offset of `sock.__sk_common.skc_num` in bytes: that port, a u16.
    pub skc_num: u32,
}

impl Observed {
    /// Number of fields.
    pub const COUNT: usize = 2;

    /// All fields in order.
    pub fn words(&self) -> [u32; Self::COUNT] {
        [self.port, self.skc_num]
    }
}

const _: () = assert!(size_of::<Observed>() == 4 * Observed::COUNT);

/// Most threads that closes are counted of; what further ones close is not counted.
pub const MAX_CLOSERS: u32 = 4096;
