//! The physical counter and the Hyp timer (ARM DDI 0406C, B8).

use super::sysreg::*;
use aarch32_cpu::asm::isb;

/// Ticks since the counter started.
#[inline(always)]
#[must_use]
pub fn now() -> u64 {
    isb();
    CNTPCT::read()
}

/// What CNTFRQ says, Hz; firmware may have left it 0.
#[must_use]
pub fn frequency() -> u32 {
    CNTFRQ::read()
}

/// Makes the Hyp timer interrupt this CPU at `deadline`, ticks.
pub fn set_deadline(deadline: u64) {
    // SAFETY: the Hyp timer is the hypervisor's own.
    unsafe {
        CNTHP_CVAL::write(deadline);
        CNTHP_CTL::write(1);
    }
}

/// Makes the Hyp timer interrupt this CPU at `deadline`, ticks, or earlier if it is set so.
pub fn advance_deadline(deadline: u64) {
    if CNTHP_CTL::read() & 1 == 0 || CNTHP_CVAL::read() > deadline {
        set_deadline(deadline);
    }
}

/// Stops this CPU's Hyp timer.
pub fn clear_deadline() {
    // SAFETY: the Hyp timer is the hypervisor's own.
    unsafe { CNTHP_CTL::write(0) };
}
