//! Stage 1: a flat map in the short format, RAM as normal write-back memory and everything else as device.

use crate::machine::machine;
use crate::{cpu, mcr, mcrr, mrc};
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
/// SCTLR.V: vectors at 0xffff_0000.
pub const V: u32 = 1 << 13;
/// SCTLR.EE: exceptions are taken big-endian.
pub const EE: u32 = 1 << 25;
/// SCTLR.TE: exceptions are taken in Thumb state.
pub const TE: u32 = 1 << 30;

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

/// First-level table of the long format, four blocks of 1 GiB.
#[repr(align(32))]
struct LongTable(UnsafeCell<[u64; 4]>);
// SAFETY: written by tests that run on one CPU.
unsafe impl Sync for LongTable {}
static LONG_TABLE: LongTable = LongTable(UnsafeCell::new([0; 4]));

/// Writes an entry of the long format's first level: one for each GiB.
pub fn set_block(gigabyte: usize, entry: u64) {
    // SAFETY: in bounds by the mask; nobody holds a reference into the table.
    unsafe {
        LONG_TABLE
            .0
            .get()
            .cast::<u64>()
            .add(gigabyte & 3)
            .write_volatile(entry);
    };
}

/// Turns on a flat map in the long format on this CPU: the GiB of RAM as normal memory, the others as strongly-ordered.
pub fn on_long() {
    let ram = machine().memory.base >> 30;
    for n in 0..4u32 {
        // Block, access flag, inner shareable, index into MAIR; what is not RAM is never executed.
        let attributes = if n == ram {
            0x1 | 1 << 10 | 3 << 8 | 1 << 2
        } else {
            0x1 | 1 << 10 | 1 << 54
        };
        set_block(n as usize, u64::from(n << 30) | attributes);
    }
    let table = LONG_TABLE.0.get() as u32;
    mcr!(15, 0, 2, 0, 2; 1 << 31);
    mcr!(15, 0, 10, 2, 0; 0xff00);
    mcrr!(0, 2; u64::from(table));
    flush();
    set_sctlr(sctlr() | M | C | I);
}

/// Back from `on_long` to the flat map of the short format.
pub fn off_long() {
    off();
    mcr!(15, 0, 2, 0, 2; 0);
    mcrr!(0, 2; 0);
    mcr!(15, 0, 10, 2, 0; 0);
}
