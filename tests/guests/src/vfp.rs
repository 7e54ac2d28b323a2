//! VFP and NEON, which the compiled code never uses: on and off, and all their registers at once.

use crate::{mcr, mrc};
use core::arch::global_asm;

/// d0 to d31 as words, then FPSCR.
pub type Registers = [u32; 65];

/// The bits of FPSCR that hold a value: flags, AHP, DN, FZ, RMode and the cumulative exceptions (ARM DDI 0406C, B4.1.58).
pub const FPSCR_MASK: u32 = 0xffc0_009f;
/// FPEXC.EN.
pub const EN: u32 = 1 << 30;
/// CPACR: cp10 and cp11 for every mode.
pub const CPACR_FULL: u32 = 0xf << 20;

global_asm!(
    ".syntax unified",
    ".fpu neon",
    ".arm",
    ".global vfp_load, vfp_store, vfp_fpexc, vfp_set_fpexc",
    "vfp_load: vldmia r0!, {{d0-d15}}",
    "vldmia r0!, {{d16-d31}}",
    "ldr r1, [r0]",
    "vmsr fpscr, r1",
    "bx lr",
    "vfp_store: vstmia r0!, {{d0-d15}}",
    "vstmia r0!, {{d16-d31}}",
    "vmrs r1, fpscr",
    "str r1, [r0]",
    "bx lr",
    "vfp_fpexc: vmrs r0, fpexc",
    "bx lr",
    "vfp_set_fpexc: vmsr fpexc, r0",
    "isb",
    "bx lr",
);

unsafe extern "C" {
    fn vfp_load(from: &Registers);
    fn vfp_store(to: &mut Registers);
    /// Reads FPEXC; undefined while CPACR denies.
    #[link_name = "vfp_fpexc"]
    pub safe fn fpexc() -> u32;
    /// Writes FPEXC; undefined while CPACR denies.
    #[link_name = "vfp_set_fpexc"]
    pub safe fn set_fpexc(value: u32);
}

/// Reads CPACR.
#[must_use]
pub fn cpacr() -> u32 {
    mrc!(15, 0, 1, 0, 2)
}

/// Writes CPACR.
pub fn set_cpacr(value: u32) {
    mcr!(15, 0, 1, 0, 2; value);
}

/// Turns it on for every mode.
pub fn on() {
    set_cpacr(CPACR_FULL);
    set_fpexc(EN);
}

/// Turns it off.
pub fn off() {
    set_cpacr(CPACR_FULL);
    set_fpexc(0);
    set_cpacr(0);
}

/// Loads every register; VFP must be on.
pub fn load(from: &Registers) {
    // SAFETY: the compiled code holds nothing in VFP registers.
    unsafe { vfp_load(from) };
}

/// What every register holds; VFP must be on.
#[must_use]
pub fn store() -> Registers {
    let mut registers = [0; 65];
    // SAFETY: writes the 65 words of the array.
    unsafe { vfp_store(&mut registers) };
    registers
}
