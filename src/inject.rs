//! Exceptions that a guest is given, as the processor would take them (ARM DDI 0406C, B1.8, B1.9).

use crate::machine::{Context, Live, LiveBanks};
use crate::regs::{Banked, Banks, mode, psr};

/// SCTLR bits that an exception entry looks at (B4.1.130).
const SCTLR_V: u32 = 1 << 13;
const SCTLR_EE: u32 = 1 << 25;
const SCTLR_TE: u32 = 1 << 30;
/// TTBCR.EAE: the long-descriptor format, also of the fault status registers.
const TTBCR_EAE: u32 = 1 << 31;
/// DFSR.WnR: the access was a write.
const DFSR_WRITE: u32 = 1 << 11;

/// What a fault status register says, in both formats (B3.13.4, B3.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Synchronous external abort: no device answers there.
    External,
    /// Synchronous external abort on a stage-1 table walk at this level, 1 to 3.
    ExternalOnWalk(u32),
    /// Alignment fault.
    Alignment,
}

impl Fault {
    fn status(self) -> u32 {
        let long = Live::ttbcr() & TTBCR_EAE != 0;
        match (self, long) {
            (Self::External, false) => 0x008,
            (Self::External, true) => 0x210,
            (Self::ExternalOnWalk(1), false) => 0x00c,
            (Self::ExternalOnWalk(_), false) => 0x00e,
            (Self::ExternalOnWalk(level), true) => 0x214 | (level & 3),
            (Self::Alignment, false) => 0x001,
            (Self::Alignment, true) => 0x221,
        }
    }
}

/// Gives the guest an undefined instruction exception for the instruction it is at.
pub fn undefined(context: &mut Context) {
    let after = if context.regs().thumb() { 2 } else { 4 };
    let lr = context.regs().pc.wrapping_add(after);
    enter(
        context,
        mode::UND,
        0x04,
        (Banked::LrUnd, Banked::SpsrUnd),
        lr,
        0,
    );
}

/// Gives the guest a data abort for an access to `address`.
pub fn data_abort(context: &mut Context, fault: Fault, address: u32, write: bool) {
    Live::set_dfsr(fault.status() | if write { DFSR_WRITE } else { 0 });
    Live::set_dfar(address);
    let lr = context.regs().pc.wrapping_add(8);
    enter(
        context,
        mode::ABT,
        0x10,
        (Banked::LrAbt, Banked::SpsrAbt),
        lr,
        psr::A,
    );
}

/// Gives the guest a prefetch abort for the instruction at `address`.
pub fn prefetch_abort(context: &mut Context, fault: Fault, address: u32) {
    Live::set_ifsr(fault.status());
    Live::set_ifar(address);
    let lr = context.regs().pc.wrapping_add(4);
    enter(
        context,
        mode::ABT,
        0x0c,
        (Banked::LrAbt, Banked::SpsrAbt),
        lr,
        psr::A,
    );
}

/// Takes the exception to `mode` at `vector`: the old CPSR and `lr` are banked, IRQs and `mask`
/// masked, the state as SCTLR says.
fn enter(
    context: &mut Context,
    mode: u32,
    vector: u32,
    banked: (Banked, Banked),
    lr: u32,
    mask: u32,
) {
    let sctlr = Live::sctlr();
    let regs = context.regs_mut();
    LiveBanks.write(banked.0, lr);
    LiveBanks.write(banked.1, regs.cpsr);
    let cleared = mode::MASK | psr::T | psr::E | psr::J | psr::IT;
    let thumb = if sctlr & SCTLR_TE != 0 { psr::T } else { 0 };
    let big = if sctlr & SCTLR_EE != 0 { psr::E } else { 0 };
    regs.cpsr = (regs.cpsr & !cleared) | mode | psr::I | mask | thumb | big;
    let base = if sctlr & SCTLR_V != 0 {
        0xffff_0000
    } else {
        Live::vbar()
    };
    regs.pc = base.wrapping_add(vector);
}
