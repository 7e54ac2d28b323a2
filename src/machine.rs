//! What the hypervisor asks of the machine, as safe calls; `arch/fake.rs` answers them on the host.

use crate::addr::Pa;
use crate::driver::gic::{self, Gic};
use crate::fdt::Range;
use crate::psci::Workaround;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, Ordering};

pub use crate::arch::cache::forget_instructions;
pub use crate::arch::context::{
    Context, Exit, Live, LiveBanks, actlr, enter, id_register, load, put, set_vttbr,
};
pub use crate::arch::counter::{advance_deadline, clear_deadline, now, set_deadline};
pub use crate::arch::tables::Pool;
pub use crate::arch::tlb::{flush_all_vmids, flush_own_vmid};
pub use crate::arch::{vfp, window};
pub use crate::console;
pub use crate::driver::gic::{KICK, ListRegisters, SPURIOUS};

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

/// Deactivates a virtual interrupt of the guest that is live, as by its GICC_DIR.
pub fn deactivate_virtual(value: u32) {
    if let Some(gic) = gic::gic() {
        gic.deactivate_virtual(value);
    }
}

/// Interrupts CPU number `cpu`, after everything stored before.
pub fn kick(cpu: usize) {
    if let Some(gic) = gic::gic() {
        gic.kick(cpu);
    }
}

/// Sends what the console still holds, and powers the machine off.
pub fn power_off() -> ! {
    console::drain();
    crate::arch::smc::power_off()
}

/// Sends what the console still holds, and starts the machine anew.
pub fn reset() -> ! {
    console::drain();
    crate::arch::smc::reset()
}

/// Waits for an interrupt; it stays pending.
pub fn wait() {
    aarch32_cpu::asm::dsb();
    aarch32_cpu::asm::wfi();
}

/// Where the machine's interrupts and the guests' CPU interface are.
#[derive(Clone, Copy, Debug)]
pub struct Wiring {
    /// Interrupt number of the Hyp timer.
    pub hyp_timer: u32,
    /// Interrupt number of the virtual timer.
    pub virtual_timer: u32,
    /// Interrupt number of the maintenance interrupt.
    pub maintenance: u32,
    /// Interrupt number of the console UART, if it has one.
    pub console: Option<u32>,
    /// The virtual CPU interface, GICV.
    pub gicv: Range,
    /// Counter ticks per second.
    pub frequency: u32,
    /// Seconds of the machine's clock at counter value 0; 0 where it has no clock.
    pub seconds_at_zero: u32,
}

static WIRING: AtomicPtr<Wiring> = AtomicPtr::new((&raw const QEMU).cast_mut());
static QEMU: Wiring = Wiring {
    hyp_timer: 26,
    virtual_timer: 27,
    maintenance: 25,
    console: None,
    gicv: Range {
        start: Pa(0x0804_0000),
        size: 0x2000,
    },
    frequency: 62_500_000,
    seconds_at_zero: 0,
};

/// Sets what [`wiring`] answers; once, before any vCPU runs.
pub fn set_wiring(wiring: Wiring) {
    let wiring: &Wiring = Box::leak(Box::new(wiring));
    WIRING.store((&raw const *wiring).cast_mut(), Ordering::Release);
}

/// Where the machine's interrupts are: QEMU's before [`set_wiring`].
#[inline(always)]
#[must_use]
pub fn wiring() -> &'static Wiring {
    // SAFETY: points to one that is never changed. What lies behind the address is read by way of it,
    // so that loading it needs no barrier.
    unsafe { &*WIRING.load(Ordering::Relaxed) }
}

/// This CPU's list registers; `None` before the interrupt controller is set up.
#[inline(always)]
#[must_use]
pub fn list_registers() -> Option<ListRegisters> {
    gic::gic().map(Gic::list_registers)
}

/// Makes interrupt `id`, of this CPU where it is private, active or inactive.
pub fn set_active(id: u32, on: bool) {
    if let Some(gic) = gic::gic() {
        gic.set_active(id, on);
    }
}

/// Makes the shared interrupt `id` edge-triggered, or level; one at a time.
pub fn trigger(id: u32, edge: bool) {
    if let Some(gic) = gic::gic() {
        gic.trigger(id, edge);
    }
}

/// Lets the shared interrupt `id` through to CPU number `cpu`.
pub fn wire(id: u32, cpu: usize) {
    if let Some(gic) = gic::gic() {
        gic.target(id, cpu);
        gic.enable(id, true);
    }
}

/// Sends the shared interrupt `id`, which is active on this CPU, to CPU number `cpu` instead.
pub fn forward(id: u32, edge: bool, cpu: usize) {
    if let Some(gic) = gic::gic() {
        gic.target(id, cpu);
        if edge {
            gic.set_pending(id, true);
        }
        gic.deactivate(id);
    }
}

/// Whether interrupt `id` is pending, active or not.
#[must_use]
pub fn is_pending(id: u32) -> bool {
    gic::gic().is_some_and(|gic| gic.is_pending(id))
}

/// Keeps the shared interrupt `id` back, and forgets it where it has come.
pub fn silence(id: u32) {
    if let Some(gic) = gic::gic() {
        gic.enable(id, false);
        gic.set_pending(id, false);
        gic.set_active(id, false);
    }
}

/// This CPU's number.
#[must_use]
pub fn cpu_number() -> usize {
    crate::arch::context::number().unwrap_or(0)
}

/// Forgets this CPU's branch predictions, where that mitigates Spectre (BPIALL; on a Cortex-A15
/// only ICIALLU does, and only where firmware has set ACTLR\[0\]).
pub fn forget_branches() {
    crate::arch::cache::forget_branches();
}

/// Whether guests have to mitigate branch target injection (CVE-2017-5715), and can: a Cortex-A7 has
/// nothing to be injected, the others forget their predictions on request.
#[must_use]
pub fn spectre_v2() -> Workaround {
    match crate::arch::boot::midr() >> 4 & 0xfff {
        0xc07 => Workaround::NotRequired,
        _ => Workaround::Required,
    }
}

/// The same for branch history injection (CVE-2022-23960).
#[must_use]
pub fn spectre_bhb() -> Workaround {
    spectre_v2()
}

/// Whether the syndrome of a store in Thumb state may name the wrong register (Cortex-A15 r0p4,
/// erratum 766422).
#[inline(always)]
#[must_use]
pub fn thumb_stores_mislabelled() -> bool {
    crate::arch::boot::midr() == 0x410f_c0f4
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
