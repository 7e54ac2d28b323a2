//! TLB maintenance (ARM DDI 0406C, B3.10 and B4.2.2).
//!
//! ARMv7 has no invalidation by IPA: a stage-2 change costs the VMID's whole TLB. The barriers stand
//! on both sides of each operation, since `aarch32-cpu`'s register writes are `nomem`; the operation
//! and its DSB are done twice for Cortex-A15 erratum 798181 (a broadcast TLBI may be acknowledged
//! before its last use completes).

use super::sysreg;
use aarch32_cpu::asm::{dsb, isb};

/// Forgets this CPU's translations of the hypervisor's own tables: Hyp's, or where the loader
/// entered in another mode, those of PL1.
pub fn flush_hyp() {
    dsb();
    // SAFETY: invalidation only makes walks happen again.
    unsafe {
        if super::boot::mode() == crate::regs::mode::HYP {
            sysreg::TLBIALLH::write(0);
        } else {
            sysreg::TLBIALL::write(0);
        }
    }
    dsb();
    isb();
}

/// Forgets this CPU's Hyp translation of the page at `va`, aligned to one.
#[inline(always)]
pub fn flush_hyp_page(va: usize) {
    dsb();
    // SAFETY: as above.
    unsafe { sysreg::TLBIMVAH::write(va as u32) };
    dsb();
    isb();
}

/// Forgets every translation of the VMID in VTTBR value `vttbr`, on all CPUs; the VTTBR that was
/// loaded is so again afterwards.
pub fn flush_vmid(vttbr: u64) {
    let before = sysreg::VTTBR::read();
    dsb();
    // SAFETY: no guest runs between the two writes, and no Hyp access uses stage 2.
    unsafe {
        sysreg::VTTBR::write(vttbr);
        isb();
        sysreg::TLBIALLIS::write(0);
        dsb();
        sysreg::TLBIALLIS::write(0);
        dsb();
        sysreg::VTTBR::write(before);
    }
    isb();
}

/// Forgets this CPU's translations of the VMID that is loaded, before the next entry of a guest.
pub fn flush_own_vmid() {
    isb();
    // SAFETY: as above.
    unsafe { sysreg::TLBIALL::write(0) };
    dsb();
}

/// Forgets every guest's translations and instructions, on all CPUs: VMIDs begin anew.
pub fn flush_all_vmids() {
    dsb();
    // SAFETY: as above.
    unsafe {
        sysreg::TLBIALLNSNHIS::write(0);
        dsb();
        sysreg::TLBIALLNSNHIS::write(0);
        sysreg::ICIALLUIS::write(0);
    }
    dsb();
    isb();
}
