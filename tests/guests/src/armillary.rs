//! The hypervisor's own calls (SMCCC vendor hypervisor service, fast, SMC32, by HVC #0).

use crate::exception;
use crate::psci::{NOT_SUPPORTED, hvc};

/// CALL_UID.
pub const UID: u32 = 0x8600_ff01;
/// REVISION.
pub const REVISION: u32 = 0x8600_ff03;
/// FEATURES: a bit for each function present.
pub const FEATURES: u32 = 0x8600_0000;
/// NULL: does nothing.
pub const NULL: u32 = 0x8600_0001;
/// YIELD: gives up the rest of the time slice.
pub const YIELD: u32 = 0x8600_0002;
/// EXITS: how often this vCPU left for the hypervisor, by reason.
pub const EXITS: u32 = 0x8600_0003;
/// TRANSLATE: what PAR would be after an address translation operation.
pub const TRANSLATE: u32 = 0x8600_0004;
/// ANSWER: answers a request of a ring.
pub const ANSWER: u32 = 0x8600_0010;
/// REFUSE: answers it by an external abort.
pub const REFUSE: u32 = 0x8600_0011;
/// SET_LINE: sets the interrupt line of a ring's device.
pub const SET_LINE: u32 = 0x8600_0012;

/// What a VM with control does to another, whose number it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Control {
    /// START: starts one that is held or off.
    Start = 0x8600_0014,
    /// PAUSE: lets none of its vCPUs run.
    Pause,
    /// RESUME: lets them go on.
    Resume,
    /// RESET: resets it.
    Reset,
    /// STOP: turns it off.
    Stop,
    /// DESTROY: turns it off for good.
    Destroy,
}
/// STATE: what another VM is doing.
pub const STATE: u32 = 0x8600_001a;
/// DUMP: shows another VM's registers on the console.
pub const DUMP: u32 = 0x8600_001b;
/// CREATE: builds another VM from a description in memory.
pub const CREATE: u32 = 0x8600_001c;

/// Why a vCPU left for the hypervisor.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Reason {
    /// All of them.
    Total,
    /// HVC.
    Hvc,
    /// SMC.
    Smc,
    /// CP15 or CP14.
    Coprocessor,
    /// First use of VFP.
    Vfp,
    /// Data abort.
    Data,
    /// Prefetch abort.
    Prefetch,
    /// WFI or WFE.
    Wait,
    /// An interrupt.
    Irq,
    /// Anything else.
    Other,
}

/// The hypervisor's UID; none on a machine without one (HVC undefined, or a firmware that does not know the call).
pub fn uid() -> Option<[u32; 4]> {
    exception::catch(|| hvc(UID, 0, 0, 0))
        .ok()
        .filter(|r| r[0] != NOT_SUPPORTED)
}

/// Whether this runs under the hypervisor.
#[must_use]
pub fn present() -> bool {
    uid().is_some()
}

/// Major and minor number of the hypervisor's interface.
#[must_use]
pub fn revision() -> (u32, u32) {
    let r = hvc(REVISION, 0, 0, 0);
    (r[0], r[1])
}

/// How often this vCPU left for `reason`.
#[must_use]
pub fn exits(reason: Reason) -> u64 {
    let r = hvc(EXITS, reason as u32, 0, 0);
    u64::from(r[2]) << 32 | u64::from(r[1])
}

/// Lets another vCPU run.
pub fn yield_now() {
    hvc(YIELD, 0, 0, 0);
}

/// What PAR would be after the operation of this number, 0 to 3 ATS1CPR, PW, UR, UW, 4 to 7 ATS12NSO likewise; `None` for another, and
/// where there is no hypervisor.
#[must_use]
pub fn translate(va: u32, operation: u32) -> Option<u64> {
    let r = exception::catch(|| hvc(TRANSLATE, va, operation, 0)).ok()?;
    (r[0] == 0).then(|| u64::from(r[2]) << 32 | u64::from(r[1]))
}

/// Does `what` to VM number `vm`; 0, or why not.
#[must_use]
pub fn control(what: Control, vm: u32) -> i32 {
    hvc(what as u32, vm, 0, 0)[0] as i32
}

/// What VM number `vm` is doing: 0 it is up, 1 off, 2 paused, or negative.
#[must_use]
pub fn state(vm: u32) -> i32 {
    hvc(STATE, vm, 0, 0)[0] as i32
}
