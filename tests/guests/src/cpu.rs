//! The CPU: system registers, masks, barriers and what it is called.

use core::arch::asm;

/// Reads a 32-bit coprocessor register: `mrc!(15, 0, 1, 0, 0)` is SCTLR (coprocessor, opc1, CRn, CRm, opc2).
#[macro_export]
macro_rules! mrc {
    ($cp:literal, $opc1:literal, $crn:literal, $crm:literal, $opc2:literal) => {{
        let value: u32;
        // SAFETY: a register read; where it may trap or be undefined the caller expects that exception.
        unsafe {
            core::arch::asm!(
                concat!("mrc p", $cp, ", ", $opc1, ", {}, c", $crn, ", c", $crm, ", ", $opc2),
                out(reg) value, options(nostack));
        }
        value
    }};
}

/// Writes a 32-bit coprocessor register and synchronises the context: `mcr!(15, 0, 1, 0, 0; value)`.
#[macro_export]
macro_rules! mcr {
    ($cp:literal, $opc1:literal, $crn:literal, $crm:literal, $opc2:literal; $value:expr) => {{
        let value: u32 = $value;
        // SAFETY: the guest owns its whole machine; the caller answers for what this register does.
        unsafe {
            core::arch::asm!(
                concat!("mcr p", $cp, ", ", $opc1, ", {}, c", $crn, ", c", $crm, ", ", $opc2),
                "isb",
                in(reg) value, options(nostack));
        }
    }};
}

/// Reads a 64-bit CP15 register: `mrrc!(1, 14)` is CNTVCT (opc1, CRm).
#[macro_export]
macro_rules! mrrc {
    ($opc1:literal, $crm:literal) => {{
        let (low, high): (u32, u32);
        // SAFETY: a register read; where it may trap the caller expects that exception.
        unsafe {
            core::arch::asm!(
                concat!("mrrc p15, ", $opc1, ", {}, {}, c", $crm),
                out(reg) low, out(reg) high, options(nostack));
        }
        u64::from(high) << 32 | u64::from(low)
    }};
}

/// Writes a 64-bit CP15 register and synchronises the context: `mcrr!(3, 14; deadline)` is CNTV_CVAL.
#[macro_export]
macro_rules! mcrr {
    ($opc1:literal, $crm:literal; $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the guest owns its whole machine; the caller answers for what this register does.
        unsafe {
            core::arch::asm!(
                concat!("mcrr p15, ", $opc1, ", {}, {}, c", $crm),
                "isb",
                in(reg) value as u32, in(reg) (value >> 32) as u32, options(nostack));
        }
    }};
}

/// Mode bits of the CPSR (ARM DDI 0406C, B1.3.1).
pub mod mode {
    /// User.
    pub const USR: u32 = 0x10;
    /// FIQ.
    pub const FIQ: u32 = 0x11;
    /// IRQ.
    pub const IRQ: u32 = 0x12;
    /// Supervisor.
    pub const SVC: u32 = 0x13;
    /// Abort.
    pub const ABT: u32 = 0x17;
    /// Undefined.
    pub const UND: u32 = 0x1b;
    /// System.
    pub const SYS: u32 = 0x1f;
}

/// CPSR.T: Thumb state.
pub const CPSR_T: u32 = 1 << 5;
/// CPSR.F: FIQ masked.
pub const CPSR_F: u32 = 1 << 6;
/// CPSR.I: IRQ masked.
pub const CPSR_I: u32 = 1 << 7;
/// CPSR.A: asynchronous aborts masked.
pub const CPSR_A: u32 = 1 << 8;
/// CPSR.E: big-endian data.
pub const CPSR_E: u32 = 1 << 9;

/// The most CPUs that a guest can use.
pub const MAX_CPUS: usize = 8;

/// The number of this CPU, 0 to 7: affinity level 0 of MPIDR.
#[must_use]
pub fn index() -> usize {
    (mrc!(15, 0, 0, 0, 5) & 7) as usize
}

/// The CPSR as it is now.
#[must_use]
pub fn cpsr() -> u32 {
    let value: u32;
    // SAFETY: a register read.
    unsafe { asm!("mrs {}, cpsr", out(reg) value, options(nomem, nostack)) };
    value
}

/// Lets IRQs in.
pub fn unmask_irq() {
    // SAFETY: the vectors are in place from the first instruction of Rust on.
    unsafe { asm!("cpsie i", options(nostack)) };
}

/// Keeps IRQs out.
pub fn mask_irq() {
    // SAFETY: masking takes nothing from the code around it.
    unsafe { asm!("cpsid i", options(nostack)) };
}

/// Waits for an interrupt; may return without one.
pub fn wfi() {
    // SAFETY: a hint after a barrier.
    unsafe { asm!("dsb", "wfi", options(nostack)) };
}

/// Waits for an event; may return without one.
pub fn wfe() {
    // SAFETY: a hint.
    unsafe { asm!("wfe", options(nostack)) };
}

/// Sends an event to every CPU.
pub fn sev() {
    // SAFETY: a hint after a barrier.
    unsafe { asm!("dsb", "sev", options(nostack)) };
}

/// To stand in every loop that waits: lets another CPU of the emulator run.
pub fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nostack)) };
}

/// Calls `operate` with what an operation by set and way takes, for all ways of a data cache and some `sets_of` of its sets, which
/// stand for all: each may be a trap. The level is from 0, and selected in CSSELR.
pub fn each_set_and_way(level: u32, sets_of: usize, operate: impl Fn(u32)) {
    mcr!(15, 2, 0, 0, 0; level << 1);
    let geometry = mrc!(15, 1, 0, 0, 0);
    let (line, ways, sets) = (
        (geometry & 7) + 4,
        geometry >> 3 & 0x3ff,
        geometry >> 13 & 0x7fff,
    );
    for way in 0..=ways {
        let way = way.checked_shl(ways.leading_zeros()).unwrap_or(0);
        for set in (0..=sets).step_by((sets as usize / sets_of).max(1)) {
            operate(way | set << line | level << 1);
        }
    }
}

/// Waits until all memory accesses before are complete.
pub fn dsb() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb", options(nostack)) };
}

/// Makes what follows see every change of context before.
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) };
}

/// The name of a core, from MIDR.
#[must_use]
pub fn core_name(midr: u32) -> &'static str {
    match (midr >> 24, midr >> 4 & 0xfff) {
        (0x41, 0xc05) => "Cortex-A5",
        (0x41, 0xc07) => "Cortex-A7",
        (0x41, 0xc08) => "Cortex-A8",
        (0x41, 0xc09) => "Cortex-A9",
        (0x41, 0xc0d | 0xc0e) => "Cortex-A17",
        (0x41, 0xc0f) => "Cortex-A15",
        _ => "unknown core",
    }
}
