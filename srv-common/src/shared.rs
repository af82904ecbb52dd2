//! An integer in memory that other processes and the kernel read and write.

use core::cell::UnsafeCell;
use core::fmt;

/// An integer that another process or the kernel may change at any time. Reads and writes are
/// single plain instructions and unordered, since each field means something on its own.
///
/// On BPF this is not a standard atomic, because the target has only `AtomicU64`, and its LLVM
/// backend selects no relaxed load even of that. A volatile access is the same instruction.
#[repr(transparent)]
#[derive(Default)]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: all access is by single instructions on aligned integers.
unsafe impl<T: Copy> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// An integer that begins with `value`.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The address of the integer, for read-modify-write instructions.
    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }
}

macro_rules! shared {
    ($($integer:ident $atomic:ident),*) => {$(
        impl Shared<$integer> {
            /// Reads the current value.
            #[inline(always)]
            pub fn get(&self) -> $integer {
                #[cfg(target_arch = "bpf")]
                // SAFETY: the pointer comes from a reference.
                return unsafe { self.as_ptr().read_volatile() };
                #[cfg(not(target_arch = "bpf"))]
                self.atomic().load(core::sync::atomic::Ordering::Relaxed)
            }

            /// Writes a value. Only the field's one writer may call this.
            #[inline(always)]
            pub fn set(&self, value: $integer) {
                #[cfg(target_arch = "bpf")]
                // SAFETY: the pointer comes from a reference.
                unsafe { self.as_ptr().write_volatile(value) };
                #[cfg(not(target_arch = "bpf"))]
                self.atomic().store(value, core::sync::atomic::Ordering::Relaxed);
            }

            /// Adds by a load and a store. Only the field's one writer may call this.
            #[inline(always)]
            pub fn bump(&self, by: $integer) {
                self.set(self.get().wrapping_add(by));
            }

            /// The same integer as an atomic, for fields with many writers.
            #[cfg(not(target_arch = "bpf"))]
            #[inline(always)]
            pub fn atomic(&self) -> &core::sync::atomic::$atomic {
                // SAFETY: aligned, valid for `self`'s life, and never accessed
                // other than atomically.
                unsafe { core::sync::atomic::$atomic::from_ptr(self.as_ptr()) }
            }
        }

        impl fmt::Debug for Shared<$integer> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.get().fmt(f)
            }
        }
    )*};
}

shared!(u8 AtomicU8, u16 AtomicU16, u32 AtomicU32, u64 AtomicU64);
