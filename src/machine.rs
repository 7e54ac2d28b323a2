//! What the hypervisor asks of the machine, as safe calls; `arch/fake.rs` answers them on the host.

use crate::driver::gic::{self, Gic};
use core::sync::atomic::{AtomicU32, Ordering};

pub use crate::arch::cache::forget_instructions;
pub use crate::arch::context::{
    Context, Exit, Live, LiveBanks, actlr, enter, id_register, load, put,
};
pub use crate::arch::counter::{clear_deadline, now, set_deadline};
pub use crate::arch::smc::power_off;
pub use crate::arch::tables::Pool;
pub use crate::arch::tlb::flush_all_vmids;
pub use crate::arch::{vfp, window};
pub use crate::console::put as console_put;
pub use crate::driver::gic::{KICK, SPURIOUS};

/// Takes the interrupt of highest priority: its number in bits 9:0; [`SPURIOUS`] and above: none.
#[inline(always)]
#[must_use]
pub fn acknowledge() -> u32 {
    gic::gic().map_or(SPURIOUS, Gic::acknowledge)
}

/// Drops the priority of what [`acknowledge`] gave.
#[inline(always)]
pub fn end(acknowledged: u32) {
    if let Some(gic) = gic::gic() {
        gic.end(acknowledged);
    }
}

/// Deactivates what [`acknowledge`] gave.
#[inline(always)]
pub fn deactivate(acknowledged: u32) {
    if let Some(gic) = gic::gic() {
        gic.deactivate(acknowledged);
    }
}

/// Interrupts CPU number `cpu`, after everything stored before.
pub fn kick(cpu: usize) {
    if let Some(gic) = gic::gic() {
        gic.kick(cpu);
    }
}

/// Waits for an interrupt; it stays pending.
pub fn wait() {
    aarch32_cpu::asm::dsb();
    aarch32_cpu::asm::wfi();
}

static HYP_TIMER: AtomicU32 = AtomicU32::new(26);

/// Interrupt number of the Hyp timer.
#[inline(always)]
#[must_use]
pub fn hyp_timer() -> u32 {
    HYP_TIMER.load(Ordering::Relaxed)
}

/// Sets what [`hyp_timer`] answers: as the device tree says.
pub fn set_hyp_timer(id: u32) {
    HYP_TIMER.store(id, Ordering::Relaxed);
}

/// This core's `compatible` in device trees (MIDR, ARM DDI 0406C, B4.1.105).
#[must_use]
pub fn cpu_compatible() -> &'static str {
    match crate::arch::boot::midr() >> 4 & 0xfff {
        0xc07 => "arm,cortex-a7",
        0xc0d => "arm,cortex-a12",
        0xc0e => "arm,cortex-a17",
        _ => "arm,cortex-a15",
    }
}
