//! GICv2 (ARM IHI 0048B): distributor and CPU interface.

use crate::exception::Frame;
use crate::machine::machine;
use crate::{cpu, mmio};

/// Distributor registers, as offsets.
pub mod gicd {
    /// GICD_CTLR.
    pub const CTLR: u32 = 0x000;
    /// GICD_TYPER.
    pub const TYPER: u32 = 0x004;
    /// GICD_IIDR.
    pub const IIDR: u32 = 0x008;
    /// GICD_IGROUPR0.
    pub const IGROUPR: u32 = 0x080;
    /// GICD_ISENABLER0.
    pub const ISENABLER: u32 = 0x100;
    /// GICD_ICENABLER0.
    pub const ICENABLER: u32 = 0x180;
    /// GICD_ISPENDR0.
    pub const ISPENDR: u32 = 0x200;
    /// GICD_ICPENDR0.
    pub const ICPENDR: u32 = 0x280;
    /// GICD_ISACTIVER0.
    pub const ISACTIVER: u32 = 0x300;
    /// GICD_ICACTIVER0.
    pub const ICACTIVER: u32 = 0x380;
    /// GICD_IPRIORITYR0.
    pub const IPRIORITYR: u32 = 0x400;
    /// GICD_ITARGETSR0.
    pub const ITARGETSR: u32 = 0x800;
    /// GICD_ICFGR0.
    pub const ICFGR: u32 = 0xc00;
    /// GICD_SGIR.
    pub const SGIR: u32 = 0xf00;
    /// GICD_CPENDSGIR0.
    pub const CPENDSGIR: u32 = 0xf10;
    /// GICD_SPENDSGIR0.
    pub const SPENDSGIR: u32 = 0xf20;
}

/// CPU interface registers, as offsets.
pub mod gicc {
    /// GICC_CTLR.
    pub const CTLR: u32 = 0x00;
    /// GICC_PMR.
    pub const PMR: u32 = 0x04;
    /// GICC_BPR.
    pub const BPR: u32 = 0x08;
    /// GICC_IAR.
    pub const IAR: u32 = 0x0c;
    /// GICC_EOIR.
    pub const EOIR: u32 = 0x10;
    /// GICC_RPR.
    pub const RPR: u32 = 0x14;
    /// GICC_HPPIR.
    pub const HPPIR: u32 = 0x18;
    /// GICC_APR0; the four for non-secure interrupts follow at 0xe0.
    pub const APR: u32 = 0xd0;
    /// GICC_DIR.
    pub const DIR: u32 = 0x1000;
}

/// IAR's answer when nothing is pending.
pub const SPURIOUS: u32 = 1023;

/// Reads a distributor register.
#[must_use]
pub fn read(offset: u32) -> u32 {
    mmio::read(machine().gicd + offset)
}

/// Writes a distributor register.
pub fn write(offset: u32, value: u32) {
    mmio::write(machine().gicd + offset, value);
}

/// Reads a register of this CPU's interface.
#[must_use]
pub fn read_cpu(offset: u32) -> u32 {
    mmio::read(machine().gicc + offset)
}

/// Writes a register of this CPU's interface.
pub fn write_cpu(offset: u32, value: u32) {
    mmio::write(machine().gicc + offset, value);
}

/// Whether the bit of interrupt `n` is set in the bit array at `offset`.
#[must_use]
pub fn bit(offset: u32, n: u32) -> bool {
    read(offset + n / 32 * 4) >> (n % 32) & 1 != 0
}

/// Writes a one to the bit of interrupt `n` in the bit array at `offset`, zeroes elsewhere.
pub fn set_bit(offset: u32, n: u32) {
    write(offset + n / 32 * 4, 1 << (n % 32));
}

/// Number of interrupts that the distributor says it has.
#[must_use]
pub fn lines() -> u32 {
    ((read(gicd::TYPER) & 0x1f) + 1) * 32
}

/// Turns the distributor on with every SPI disabled, level, to CPU 0 and at priority 0xa0, then this CPU's interface.
pub fn init() {
    write(gicd::CTLR, 0);
    for n in (32..lines().min(1020)).step_by(32) {
        write(gicd::ICENABLER + n / 8, !0);
        write(gicd::ICPENDR + n / 8, !0);
        write(gicd::ICACTIVER + n / 8, !0);
        write(gicd::IGROUPR + n / 8, 0);
    }
    for n in (32..lines().min(1020)).step_by(4) {
        write(gicd::IPRIORITYR + n, 0xa0a0_a0a0);
        write(gicd::ITARGETSR + n, 0x0101_0101);
    }
    for n in (32..lines().min(1020)).step_by(16) {
        write(gicd::ICFGR + n / 4, 0);
    }
    write(gicd::CTLR, 1);
    init_cpu();
}

/// Makes this CPU's interface ready: its own interrupts idle and disabled but for SGIs, all priorities let through.
pub fn init_cpu() {
    write_cpu(gicc::CTLR, 0);
    write(gicd::ICENABLER, 0xffff_0000);
    write(gicd::ICPENDR, 0xffff_0000);
    write(gicd::ICACTIVER, !0);
    write(gicd::IGROUPR, 0);
    // A distributor without these registers for writing (Xen's) reads them as zeroes.
    for n in (0..16).step_by(4) {
        if read(gicd::CPENDSGIR + n) != 0 {
            write(gicd::CPENDSGIR + n, !0);
        }
    }
    write(gicd::ISENABLER, 0xffff);
    for n in (0..32).step_by(4) {
        write(gicd::IPRIORITYR + n, 0xa0a0_a0a0);
    }
    for offset in (gicc::APR..gicc::APR + 0x20).step_by(4) {
        write_cpu(offset, 0);
    }
    write_cpu(gicc::PMR, 0xff);
    write_cpu(gicc::BPR, 0);
    write_cpu(gicc::CTLR, 1);
}

/// Enables interrupt `n`.
pub fn enable(n: u32) {
    set_bit(gicd::ISENABLER, n);
}

/// Disables interrupt `n`.
pub fn disable(n: u32) {
    set_bit(gicd::ICENABLER, n);
}

/// Sets the priority of interrupt `n`.
pub fn set_priority(n: u32, priority: u8) {
    mmio::write8(machine().gicd + gicd::IPRIORITYR + n, priority);
}

/// Sets the CPUs that SPI `n` goes to, a bit each.
pub fn set_targets(n: u32, cpus: u8) {
    mmio::write8(machine().gicd + gicd::ITARGETSR + n, cpus);
}

/// Sends SGI `n` to the CPUs of the mask.
pub fn send(n: u32, cpus: u32) {
    cpu::dsb();
    write(gicd::SGIR, cpus << 16 | n);
}

/// Acknowledges: IAR.
#[must_use]
pub fn acknowledge() -> u32 {
    read_cpu(gicc::IAR)
}

/// Ends what `acknowledge` returned.
pub fn end(iar: u32) {
    write_cpu(gicc::EOIR, iar);
}

/// Which interrupt is acknowledged next, without doing it.
#[must_use]
pub fn next() -> u32 {
    read_cpu(gicc::HPPIR) & 0x3ff
}

/// An IRQ handler that only acknowledges and ends: to be woken by an interrupt is all that is wanted.
pub fn dismiss(_: &mut Frame) {
    dismiss_one();
}

/// Acknowledges and ends what is pending, if anything is.
pub fn dismiss_one() {
    let iar = acknowledge();
    if iar & 0x3ff != SPURIOUS {
        end(iar);
    }
}
