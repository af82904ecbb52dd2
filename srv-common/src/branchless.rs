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

/// The numbers from 0 on: as many as `count`, at most `MAX`. For a loop whose bound only the
/// running program knows.
///
/// The verifier must see that the loop ends. Before Linux 6.4 it sees nothing if the condition
/// compares the counter, which it knows, with the bound, of which it knows the range: it goes on
/// with both answers, although one is impossible, until an access is out of bounds (6.4 has
/// 953d9f5beaf7, "Improve handling of pattern `<const> <cond_op> <non_const>`"). The compiler
/// makes such a condition even of a loop with a constant bound beside the other, since it
/// removes the constant one. So this counts what is left: a range, compared with a constant.
#[inline(always)]
pub fn up_to<const MAX: u32>(count: u32) -> UpTo<MAX> {
    UpTo {
        next: 0,
        left: count.min(MAX).into(),
    }
}

/// See [`up_to`].
pub struct UpTo<const MAX: u32> {
    next: u32,
    /// With `next`, at most `MAX`.
    left: u64,
}

impl<const MAX: u32> Iterator for UpTo<MAX> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        // Signed: an unsigned comparison would become "is not zero", from which the verifier
        // concludes nothing about the range.
        if self.left as i64 <= 0 {
            return None;
        }
        self.left = one_less(self.left);
        let next = self.next;
        // SAFETY: `left` was at least one, and the sum of both is at most `MAX`.
        unsafe { core::hint::assert_unchecked(next < MAX) };
        self.next = next + 1;
        Some(next)
    }
}

/// One less, of which the compiler knows nothing.
#[inline(always)]
fn one_less(x: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut x = x;
        // SAFETY: an addition to a register.
        unsafe { core::arch::asm!("{0} += -1", inout(reg) x, options(pure, nomem, nostack)) };
        x
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        x.wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_up_to_the_count_or_the_bound() {
        for count in [0, 1, 15, 16, 17, u32::MAX] {
            assert!(up_to::<16>(count).eq(0..count.min(16)), "{count}");
        }
    }
}
