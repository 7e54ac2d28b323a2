//! Xen's calls (HVC 0xea1, r12 = number), as far as it is measured beside.

use crate::exception;
use core::arch::asm;

/// xen_version with XENVER_version: major in 31:16, minor in 15:0.
const VERSION: (u32, u32) = (17, 0);
/// sched_op with SCHEDOP_yield.
const YIELD: (u32, u32) = (29, 0);

fn call((number, operation): (u32, u32)) -> u32 {
    let mut r0 = operation;
    // SAFETY: the call preserves every register but these.
    unsafe {
        asm!(".arch_extension virt", "hvc #0xea1", inout("r0") r0, inout("r1") 0 => _, out("r2") _, out("r3") _, inout("r12") number => _,
            options(nostack));
    }
    r0
}

/// Whether this runs under Xen: any other answer to the call is an error or an exception.
#[must_use]
pub fn present() -> bool {
    exception::catch(|| call(VERSION)).is_ok_and(|version| version as i32 > 0)
}

/// Lets another vCPU run.
pub fn yield_now() {
    call(YIELD);
}
