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
    /// The fault status register that says so, as for a fetch.
    #[inline(always)]
    fn status(self) -> u32 {
        const fn of(status: FaultStatus) -> (u32, u32) {
            let fault = walk::Fault {
                status,
                domain: 0,
                stage: Stage::One,
            };
            (fault.ifsr(Format::Short), fault.ifsr(Format::Long))
        }
        let (short, long) = match self {
            Self::External => const { of(FaultStatus::External) },
            Self::Alignment => const { of(FaultStatus::Alignment) },
            Self::Stage1(fault) => return fault.ifsr(format()),
        };
        match format() {
            Format::Short => short,
            Format::Long => long,
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
    let regs = context.regs();
    let after = if regs.thumb() { 2 } else { 4 };
    LiveBanks.write(Banked::LrUnd, regs.pc.wrapping_add(after));
    LiveBanks.write(Banked::SpsrUnd, regs.cpsr);
    enter(context, mode::UND, 0x04);
}

/// Gives the guest a data abort for an access to `address`.
pub fn data_abort(context: &mut Context, fault: Fault, address: u32, write: bool) {
    let status = match fault {
        Fault::Stage1(fault) => fault.dfsr(format(), write),
        simple => simple.status() | u32::from(write) << 11,
    };
    take_data_abort(context, status, address);
}

/// The same with [`Fault::External`], which most are.
#[inline(always)]
pub fn external_abort(context: &mut Context, address: u32, write: bool) {
    let status = Fault::External.status() | u32::from(write) << 11;
    take_data_abort(context, status, address);
}

#[inline(always)]
fn take_data_abort(context: &mut Context, status: u32, address: u32) {
    Live::set_dfsr(status);
    Live::set_dfar(address);
    abort(context, 0x10, 8);
}

/// Gives the guest a prefetch abort for the instruction at `address`.
pub fn prefetch_abort(context: &mut Context, fault: Fault, address: u32) {
    Live::set_ifsr(fault.status());
    Live::set_ifar(address);
    abort(context, 0x0c, 4);
}

/// Takes an abort at `vector`, to return to `after` bytes before the link register.
#[inline(always)]
fn abort(context: &mut Context, vector: u32, after: u32) {
    let regs = context.regs();
    LiveBanks.write(Banked::LrAbt, regs.pc.wrapping_add(after));
    LiveBanks.write(Banked::SpsrAbt, regs.cpsr);
    enter(context, mode::ABT | psr::A, vector);
}

/// Goes to `vector`, `set` in CPSR: the mode and what it masks beside IRQs. The state is as SCTLR
/// says.
#[inline(always)]
fn enter(context: &mut Context, set: u32, vector: u32) {
    let sctlr = Live::sctlr();
    let regs = context.regs_mut();
    let cleared = mode::MASK | psr::T | psr::E | psr::J | psr::IT;
    let thumb = if sctlr & SCTLR_TE != 0 { psr::T } else { 0 };
    let big = if sctlr & SCTLR_EE != 0 { psr::E } else { 0 };
    regs.cpsr = (regs.cpsr & !cleared) | set | psr::I | thumb | big;
    let base = if sctlr & SCTLR_V != 0 {
        0xffff_0000
    } else {
        Live::vbar()
    };
    regs.pc = base.wrapping_add(vector);
}
