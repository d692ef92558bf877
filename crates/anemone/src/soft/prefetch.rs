//! Telling the caches what will be read.

use super::floats::LINE;

/// Has the numbers fetched while other work goes on; on x86-64 only.
#[inline(always)]
pub(super) fn prefetch(x: &[f32]) {
    let mut at = 0;
    while at < x.len() {
        line(&raw const x[at]);
        at += LINE;
    }
}

/// Has the line of the caches fetched in which the number lies that is so many after the first, if there is one.
#[inline(always)]
pub(super) fn prefetch_after(x: &[f32], n: usize) {
    line(x.as_ptr().wrapping_add(n));
}

/// Has the line of the caches fetched in which a number would lie.
#[inline(always)]
#[allow(unsafe_code)]
fn line(x: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, which reads nothing and fails for no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}
