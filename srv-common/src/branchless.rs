//! Comparisons without a branch and indices without a check, for code that the BPF
//! verifier has to follow: it takes both ways of every branch, and wants to see the
//! bound of every index.
//!
//! The compiler must not see through them, or it would put the branch back and drop
//! the bound. `core::hint::black_box` would do, but on BPF sends the value through
//! the stack, always by the same place: eight scores were then compared one after
//! another, which cost more than computing them. So each is one instruction of
//! which the compiler knows nothing; elsewhere it may know.

/// All bits if `x` is negative, else none.
#[inline(always)]
pub fn sign(x: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut x = x;
        // SAFETY: an arithmetic shift of a register.
        unsafe { core::arch::asm!("{0} s>>= 63", inout(reg) x, options(pure, nomem, nostack)) };
        x
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (x as i64 >> 63) as u64
    }
}

/// 1 if `x` is negative, else 0.
#[inline(always)]
pub fn is_negative(x: i64) -> u64 {
    sign(x as u64) & 1
}

/// The lower of two numbers that differ by less than 2^63.
#[inline(always)]
pub fn lower(a: u64, b: u64) -> u64 {
    let difference = b.wrapping_sub(a);
    a.wrapping_add(difference & sign(difference))
}

/// `index` modulo a power of two.
#[inline(always)]
pub fn bounded(index: u32, power_of_two: usize) -> usize {
    let mask = power_of_two - 1;
    #[cfg(target_arch = "bpf")]
    {
        let mut index = index as usize;
        // SAFETY: a bitwise and of two registers, and what comes of it.
        unsafe {
            core::arch::asm!(
                "{0} &= {1}", inout(reg) index, in(reg) mask, options(pure, nomem, nostack)
            );
            core::hint::assert_unchecked(index <= mask);
        };
        index
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        index as usize & mask
    }
}
