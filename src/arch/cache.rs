//! Cache maintenance (ARM DDI 0406C, B4.2.1).
//!
//! Each operation stands between two DSBs: `aarch32-cpu`'s register writes are `nomem`, and the DSB
//! is a compiler barrier too.

use super::sysreg::*;
use aarch32_cpu::asm::{dsb, isb};

/// Bytes in the smallest data cache line (CTR.DminLine).
fn line() -> usize {
    4 << ((CTR::read() >> 16) & 0xf)
}

/// Cleans and invalidates `size` bytes from `va` to the point of coherency; four lines to a round, since there may be
/// many.
pub fn clean_invalidate(va: usize, size: usize) {
    let step = line();
    // SAFETY: writing back and dropping a clean line changes no memory.
    let drop = |at: usize| unsafe { DCCIMVAC::write(at as u32) };
    dsb();
    let (mut at, end) = (va & !(step - 1), va + size);
    while at + 3 * step < end {
        drop(at);
        drop(at + step);
        drop(at + 2 * step);
        drop(at + 3 * step);
        at += 4 * step;
    }
    while at < end {
        drop(at);
        at += step;
    }
    dsb();
}

/// Cleans `size` bytes from `va` to the point of coherency.
pub fn clean(va: usize, size: usize) {
    let step = line();
    dsb();
    let mut at = va & !(step - 1);
    while at < va + size {
        // SAFETY: writing back a line changes no memory.
        unsafe { DCCMVAC::write(at as u32) };
        at += step;
    }
    dsb();
}

/// Cleans the line of `va` to the point of coherency.
#[inline(always)]
pub fn clean_line(va: usize) {
    dsb();
    // SAFETY: writing back a line changes no memory.
    unsafe { DCCMVAC::write(va as u32) };
    dsb();
}

/// Forgets every CPU's instructions and branch predictions.
pub fn forget_instructions() {
    dsb();
    // SAFETY: instructions are fetched anew.
    unsafe { ICIALLUIS::write(0) };
    dsb();
    isb();
}

/// Forgets this CPU's branch predictions: BPIALL, which is ICIALLU's business on a Cortex-A15.
pub fn forget_branches() {
    dsb();
    // SAFETY: predictions and instructions are fetched anew.
    unsafe {
        BPIALL::write(0);
        ICIALLU::write(0);
    }
    dsb();
    isb();
}
