//! Stage 1: a flat map in the short format, RAM as normal write-back memory and everything else as device.

use crate::machine::machine;
use crate::{cpu, mcr, mrc};
use core::cell::UnsafeCell;

/// Section, full access, domain 0, normal write-back write-allocate, shareable (ARM DDI 0406C, B3.5.1).
const NORMAL: u32 = 0x2 | 3 << 10 | 1 << 12 | 1 << 16 | 1 << 3 | 1 << 2;
/// Section, full access, shareable device, never executed.
const DEVICE: u32 = 0x2 | 3 << 10 | 1 << 2 | 1 << 4;

/// A first-level table.
#[repr(align(0x4000))]
struct Table(UnsafeCell<[u32; 4096]>);
// SAFETY: written by the first CPU before others start, then by tests that run on one CPU.
unsafe impl Sync for Table {}
static TABLE: Table = Table(UnsafeCell::new([0; 4096]));

/// SCTLR.M.
pub const M: u32 = 1;
/// SCTLR.A: alignment checked.
pub const A: u32 = 1 << 1;
/// SCTLR.C.
pub const C: u32 = 1 << 2;
/// SCTLR.I.
pub const I: u32 = 1 << 12;

/// Reads SCTLR.
#[must_use]
pub fn sctlr() -> u32 {
    mrc!(15, 0, 1, 0, 0)
}

/// Writes SCTLR.
pub fn set_sctlr(value: u32) {
    cpu::dsb();
    mcr!(15, 0, 1, 0, 0; value);
}

/// Fills the flat table; once, by the first CPU.
pub(crate) fn build() {
    let ram = machine().memory;
    for section in 0..4096u32 {
        let address = section << 20;
        let kind = if address.wrapping_sub(ram.base) < ram.size {
            NORMAL
        } else {
            DEVICE
        };
        set_section(section, address | kind);
    }
}

/// Writes one first-level entry.
pub fn set_section(section: u32, entry: u32) {
    // SAFETY: in bounds by the mask; nobody holds a reference into the table.
    unsafe {
        TABLE
            .0
            .get()
            .cast::<u32>()
            .add((section & 0xfff) as usize)
            .write_volatile(entry);
    };
}

/// Reads one first-level entry.
#[must_use]
pub fn section(section: u32) -> u32 {
    // SAFETY: in bounds by the mask.
    unsafe {
        TABLE
            .0
            .get()
            .cast::<u32>()
            .add((section & 0xfff) as usize)
            .read_volatile()
    }
}

/// Drops what the TLB, the branch predictor and the instruction cache remember of this CPU.
pub fn flush() {
    cpu::dsb();
    mcr!(15, 0, 8, 7, 0; 0);
    mcr!(15, 0, 7, 5, 0; 0);
    mcr!(15, 0, 7, 5, 6; 0);
    cpu::dsb();
    cpu::isb();
}

/// Turns on the flat map and the caches on this CPU.
pub fn on() {
    let table = TABLE.0.get() as u32;
    mcr!(15, 0, 2, 0, 2; 0);
    mcr!(15, 0, 2, 0, 0; table | 0x4a);
    mcr!(15, 0, 3, 0, 0; 1);
    flush();
    set_sctlr(sctlr() | M | C | I);
}

/// Turns map and caches off on this CPU; what the caches hold stays coherent under QEMU, on silicon it must be cleaned first.
pub fn off() {
    set_sctlr(sctlr() & !(M | C | I));
    flush();
}

/// Runs `f` without the map.
pub fn without<R>(f: impl FnOnce() -> R) -> R {
    off();
    let result = f();
    on();
    result
}
