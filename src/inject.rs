//! Exceptions that a guest is given, as the processor would take them (ARM DDI 0406C, B1.8, B1.9).

use crate::machine::{Context, Live, LiveBanks};
use crate::regs::{Banked, Banks, mode, psr};
use crate::syndrome::FaultStatus;
use crate::walk::{self, Format, Stage};

/// SCTLR bits that an exception entry looks at (B4.1.130).
const SCTLR_V: u32 = 1 << 13;
const SCTLR_EE: u32 = 1 << 25;
const SCTLR_TE: u32 = 1 << 30;
/// TTBCR.EAE: the long-descriptor format, also of the fault status registers.
const TTBCR_EAE: u32 = 1 << 31;

/// What a fault status register is to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Synchronous external abort: no device answers there.
    External,
    /// Alignment fault.
    Alignment,
    /// What stage 1 found.
    Stage1(walk::Fault),
}

impl Fault {
    fn described(self) -> walk::Fault {
        let status = match self {
            Self::External => FaultStatus::External,
            Self::Alignment => FaultStatus::Alignment,
            Self::Stage1(fault) => return fault,
        };
        walk::Fault {
            status,
            domain: 0,
            stage: Stage::One,
        }
    }
}

/// The format of the guest's fault status registers.
fn format() -> Format {
    if Live::ttbcr() & TTBCR_EAE == 0 {
        Format::Short
    } else {
        Format::Long
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
    Live::set_dfsr(fault.described().dfsr(format(), write));
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
    Live::set_ifsr(fault.described().ifsr(format()));
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
