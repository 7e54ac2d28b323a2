//! Single instructions to be tried one at a time, in ARM and in Thumb state, so that an abort's registers are known exactly.

use crate::cpu::{CPSR_A, CPSR_E, CPSR_I, CPSR_T, mode};
use crate::exception::{self, Fault, Kind};
use crate::report::Outcome;
use crate::{check, check_eq, fail, mmu, mrc};

/// One instruction as code of its own: r0 = address, r1 to r3 = operands; it may change r0 to r3 and r12.
#[derive(Clone, Copy)]
pub struct Probe {
    /// The instruction.
    pub name: &'static str,
    /// In ARM state.
    pub arm: extern "C" fn(),
    /// In Thumb state.
    pub thumb: extern "C" fn(),
    /// Whether it stores.
    pub write: bool,
}

impl Probe {
    /// Address of the code as `exception::call` wants it (bit 0 set for Thumb).
    #[must_use]
    pub fn code(&self, thumb: bool) -> u32 {
        if thumb {
            self.thumb as usize as u32 | 1
        } else {
            self.arm as usize as u32 & !1
        }
    }
}

/// Where and how a probe runs.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// In Thumb state.
    pub thumb: bool,
    /// In User mode, else in SVC mode.
    pub user: bool,
}

impl Place {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self {
            thumb: false,
            user: false,
        },
        Self {
            thumb: true,
            user: false,
        },
        Self {
            thumb: false,
            user: true,
        },
        Self {
            thumb: true,
            user: true,
        },
    ];

    /// Calls the code at `address` (bit 0 is set here for Thumb) with `arguments`.
    ///
    /// # Errors
    /// The exception that ended it.
    pub fn call(self, address: u32, arguments: [u32; 4]) -> Result<[u32; 2], Fault> {
        let address = address & !1 | u32::from(self.thumb);
        if self.user {
            exception::call_user(address, arguments)
        } else {
            exception::call(address, arguments)
        }
    }
}

/// What an exception must have left in the registers.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The vector.
    pub kind: Kind,
    /// Link register.
    pub lr: u32,
    /// Fault status and address; not looked at for an undefined instruction.
    pub abort: Option<Abort>,
    /// Where it came from.
    pub from: Place,
}

/// What an abort must have left in the fault registers.
#[derive(Clone, Copy, Debug)]
pub struct Abort {
    /// Status of the short and of the long format.
    pub status: Status,
    /// Fault address.
    pub far: u32,
    /// WnR, if it must have a value.
    pub write: Option<bool>,
}

/// A fault status in the short and in the long format (ARM DDI 0406C, B3.13.3 and B3.13.4).
pub type Status = (u32, u32);

/// Synchronous external abort.
pub const EXTERNAL: Status = (0x08, 0x10);
/// Alignment fault.
pub const ALIGNMENT: Status = (0x01, 0x21);
/// Synchronous external abort on a table walk of the first level.
pub const WALK_1: Status = (0x0c, 0x15);
/// Synchronous external abort on a table walk of the second level.
pub const WALK_2: Status = (0x0e, 0x16);
/// Synchronous external abort on a table walk of the third level, which the short format does not have.
pub const WALK_3: Status = (0x0e, 0x17);

/// Checks every register of an exception that `what` had.
///
/// # Errors
/// The first that is wrong.
pub fn verify(what: &str, result: Result<[u32; 2], Fault>, expected: &Expected) -> Outcome {
    let Err(fault) = result else {
        fail!("{what} went through in {:?}", expected.from)
    };
    let from = expected.from;
    check!(
        fault.kind == expected.kind,
        "{what}: {:?} at {:#x} instead of {:?}",
        fault.kind,
        fault.lr,
        expected.kind
    );
    check_eq!(fault.lr, expected.lr, "{what}: lr, from {from:?}");
    let origin = if from.user { mode::USR } else { mode::SVC };
    check_eq!(fault.spsr & 0x1f, origin, "{what}: mode in SPSR");
    check_eq!(fault.spsr & CPSR_T != 0, from.thumb, "{what}: T in SPSR");
    check_eq!(
        fault.spsr & 0x0600_fe00 & !CPSR_E,
        0,
        "{what}: IT and GE state in SPSR"
    );
    let handler = if fault.kind == Kind::Undefined {
        mode::UND
    } else {
        mode::ABT
    };
    check_eq!(fault.mode(), handler, "{what}: mode of the handler");
    check_eq!(fault.cpsr & CPSR_I, CPSR_I, "{what}: CPSR.I in the handler");
    check_eq!(
        fault.cpsr & CPSR_T != 0,
        mmu::sctlr() & mmu::TE != 0,
        "{what}: CPSR.T in the handler"
    );
    check_eq!(
        fault.cpsr & CPSR_E != 0,
        mmu::sctlr() & mmu::EE != 0,
        "{what}: CPSR.E in the handler"
    );
    let Some(abort) = expected.abort else {
        return Ok(());
    };
    check_eq!(fault.cpsr & CPSR_A, CPSR_A, "{what}: CPSR.A in the handler");
    let long = mrc!(15, 0, 2, 0, 2) >> 31 != 0;
    check_eq!(fault.fsr >> 9 & 1 != 0, long, "{what}: format in FSR");
    check_eq!(
        fault.status(),
        if long { abort.status.1 } else { abort.status.0 },
        "{what}: fault status, from {from:?}"
    );
    check_eq!(fault.far, abort.far, "{what}: FAR, from {from:?}");
    if let Some(write) = abort.write {
        check_eq!(fault.is_write(), write, "{what}: FSR.WnR");
    }
    Ok(())
}

/// Makes a list of probes: `probes! { load "ldr r1, [r0]", store "strt r1, [r0], #0" / "strt r1, [r0]" }`, the second text for
/// Thumb where it is written in another way. The instruction stands first in each and is followed by a return, or with
/// `probes! { then "svc #1"; … }` by that.
#[macro_export]
macro_rules! probes {
    (then $end:literal; $($kind:ident $instruction:literal $(/ $thumb:literal)?),* $(,)?) => {
        &[$({
            #[unsafe(naked)]
            #[instruction_set(arm::a32)]
            extern "C" fn arm() {
                core::arch::naked_asm!(".arch_extension sec", ".arch_extension virt", ".fpu neon", $instruction, $end)
            }
            #[unsafe(naked)]
            #[instruction_set(arm::t32)]
            extern "C" fn thumb() {
                core::arch::naked_asm!(
                    ".arch_extension sec", ".arch_extension virt", ".fpu neon", $crate::probes!(@ thumb $instruction $($thumb)?), $end
                )
            }
            $crate::probe::Probe { name: $instruction, arm, thumb, write: $crate::probes!(@ $kind) }
        }),*]
    };
    (@ load) => { false };
    (@ store) => { true };
    (@ thumb $arm:literal) => { $arm };
    (@ thumb $arm:literal $thumb:literal) => { $thumb };
    ($($list:tt)*) => { $crate::probes! { then "bx lr"; $($list)* } };
}
