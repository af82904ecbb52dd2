//! The constants of the program that counts closed connections, which user space sets at load.

/// Which connections count, and where the running kernel keeps the field that identifies them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The local port, in host byte order.
    pub port: u32,
    /// The offset in bytes of `sock.__sk_common.skc_num`, which is the local port as a u16.
    pub skc_num: u32,
}

impl Observed {
    /// The number of fields.
    pub const COUNT: usize = 2;

    /// All fields, in their order.
    pub fn words(&self) -> [u32; Self::COUNT] {
        [self.port, self.skc_num]
    }
}

const _: () = assert!(size_of::<Observed>() == 4 * Observed::COUNT);

/// The most threads that the program counts for. The closes of further threads are not counted.
pub const MAX_CLOSERS: u32 = 4096;
