//! Calls to the firmware below: PSCI by SMC, or by HVC where the device tree says so.

use crate::fdt::{Conduit, Psci};
use crate::warn;
use core::arch::asm;
use spin::Once;

static PSCI: Once<Psci> = Once::new();

const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;

/// Sets how the firmware is called.
pub fn init(psci: Psci) {
    PSCI.call_once(|| psci);
}

/// One call by the SMC Calling Convention (ARM DEN 0028, 2.3).
///
/// The crate `smccc` would do, but its 32-bit assembly saves r6 and r7 in registers that the compiler
/// may choose to be r6 and r7.
fn call(conduit: Conduit, function: u32, args: [u32; 3]) -> i32 {
    let result: u32;
    // SAFETY: firmware changes r0 to r3 alone, and no memory of ours.
    unsafe {
        match conduit {
            Conduit::Smc => asm!(".arch_extension sec", "smc #0", inout("r0") function => result,
                inout("r1") args[0] => _, inout("r2") args[1] => _, inout("r3") args[2] => _,
                out("r12") _, options(nostack)),
            Conduit::Hvc => asm!(".arch_extension virt", "hvc #0", inout("r0") function => result,
                inout("r1") args[0] => _, inout("r2") args[1] => _, inout("r3") args[2] => _,
                out("r12") _, options(nostack)),
        }
    }
    result as i32
}

/// Starts the CPU with affinity `mpidr` at physical address `entry`, `context` in its r0.
///
/// # Errors
/// What PSCI answered (ARM DEN 0022, 5.2.2); `None` where there is no PSCI.
pub fn cpu_on(mpidr: u32, entry: u32, context: u32) -> Result<(), Option<i32>> {
    let psci = PSCI.get().ok_or(None)?;
    match call(psci.conduit, psci.cpu_on, [mpidr, entry, context]) {
        0 => Ok(()),
        error => Err(Some(error)),
    }
}

/// Powers the machine off; where firmware can't, stops this CPU.
pub fn power_off() -> ! {
    if let Some(psci) = PSCI.get().filter(|psci| psci.standard) {
        call(psci.conduit, SYSTEM_OFF, [0; 3]);
    }
    warn!("the firmware has no SYSTEM_OFF: the machine stays on");
    super::boot::stop()
}

/// Starts the machine anew; where firmware can't, stops this CPU.
pub fn reset() -> ! {
    if let Some(psci) = PSCI.get().filter(|psci| psci.standard) {
        call(psci.conduit, SYSTEM_RESET, [0; 3]);
    }
    warn!("the firmware has no SYSTEM_RESET: the machine stops");
    super::boot::stop()
}
