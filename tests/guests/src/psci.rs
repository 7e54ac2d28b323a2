//! Calls to firmware and hypervisor: SMCCC by HVC and SMC, and PSCI by the conduit that the device tree names.

use crate::cpu;
use crate::machine::{Conduit, machine};
use core::arch::asm;

/// SMCCC's answer to an unknown function: -1.
pub const NOT_SUPPORTED: u32 = -1i32 as u32;
/// PSCI: a parameter is wrong.
pub const INVALID_PARAMETERS: u32 = -2i32 as u32;
/// PSCI: that CPU is on.
pub const ALREADY_ON: u32 = -4i32 as u32;
/// PSCI: that CPU is being turned on.
pub const ON_PENDING: u32 = -5i32 as u32;
/// PSCI: the entry address is not one.
pub const INVALID_ADDRESS: u32 = -9i32 as u32;

/// PSCI function numbers (ARM DEN 0022, 5.1).
pub mod function {
    /// PSCI_VERSION.
    pub const VERSION: u32 = 0x8400_0000;
    /// CPU_SUSPEND.
    pub const CPU_SUSPEND: u32 = 0x8400_0001;
    /// CPU_OFF.
    pub const CPU_OFF: u32 = 0x8400_0002;
    /// CPU_ON.
    pub const CPU_ON: u32 = 0x8400_0003;
    /// AFFINITY_INFO.
    pub const AFFINITY_INFO: u32 = 0x8400_0004;
    /// MIGRATE_INFO_TYPE.
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    /// SYSTEM_OFF.
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    /// SYSTEM_RESET.
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    /// PSCI_FEATURES.
    pub const FEATURES: u32 = 0x8400_000a;
    /// SMCCC_VERSION.
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    /// SMCCC_ARCH_FEATURES.
    pub const ARCH_FEATURES: u32 = 0x8000_0001;
}

macro_rules! conduit {
    ($name:ident, $instruction:literal) => {
        /// A call of SMCCC 1.0: r0 = function, r1 to r3 = arguments; returns r0 to r3.
        pub fn $name(r0: u32, r1: u32, r2: u32, r3: u32) -> [u32; 4] {
            let (mut a, mut b, mut c, mut d) = (r0, r1, r2, r3);
            // SAFETY: SMCCC preserves every register but these.
            unsafe {
                asm!(".arch_extension virt", ".arch_extension sec", $instruction,
                    inout("r0") a, inout("r1") b, inout("r2") c, inout("r3") d, options(nostack));
            }
            [a, b, c, d]
        }
    };
}

conduit!(hvc, "hvc #0");
conduit!(smc, "smc #0");

/// A PSCI call; NOT_SUPPORTED where the device tree names no conduit.
pub fn call(function: u32, a: u32, b: u32, c: u32) -> u32 {
    match machine().psci {
        Some(Conduit::Hvc) => hvc(function, a, b, c)[0],
        Some(Conduit::Smc) => smc(function, a, b, c)[0],
        None => NOT_SUPPORTED,
    }
}

/// PSCI_VERSION: major in 31:16, minor in 15:0.
#[must_use]
pub fn version() -> u32 {
    call(function::VERSION, 0, 0, 0)
}

/// CPU_ON: starts the CPU of this affinity at `entry` (bit 0: Thumb) with `context` in r0.
#[must_use]
pub fn cpu_on(affinity: u32, entry: u32, context: u32) -> u32 {
    call(function::CPU_ON, affinity, entry, context)
}

/// AFFINITY_INFO: 0 on, 1 off, 2 being turned on.
#[must_use]
pub fn affinity_info(affinity: u32) -> u32 {
    call(function::AFFINITY_INFO, affinity, 0, 0)
}

/// Turns this CPU off.
pub fn cpu_off() -> ! {
    call(function::CPU_OFF, 0, 0, 0);
    loop {
        cpu::wfe();
    }
}

/// Turns the machine off.
pub fn system_off() -> ! {
    call(function::SYSTEM_OFF, 0, 0, 0);
    loop {
        cpu::wfe();
    }
}

/// Starts the machine anew.
pub fn system_reset() -> ! {
    call(function::SYSTEM_RESET, 0, 0, 0);
    loop {
        cpu::wfe();
    }
}
