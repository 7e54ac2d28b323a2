//! Performing a decoded load or store, one bus access at a time.

use super::sequence::Sequence;
use super::{Form, Instruction, Op, Reason, Refusal, Single};
use crate::regs::{Banks, Gprs, Regs, psr};

/// The extension register file of the vCPU that is loaded, as 64 words: doubleword register n is
/// words 2n (bits 31:0) and 2n + 1, single register n is word n.
pub trait Vectors {
    /// Reads word `n`, 0 to 63.
    fn word(&self, n: u32) -> u32;
    /// Writes word `n`, 0 to 63.
    fn set_word(&mut self, n: u32, value: u32);
}

/// One access to the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The guest's virtual address. It may be unaligned where the instruction allows that.
    pub address: u32,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// What is stored, zero-extended, in the bus's byte order; `None` for a load.
    pub value: Option<u32>,
    /// Whether the access has User mode's rights, in any mode.
    pub unprivileged: bool,
    /// Whether the access is exclusive, see the module's page.
    pub exclusive: bool,
}

/// A load or store under way.
///
/// While [`next`](Self::next) gives an access, perform it and hand the result to
/// [`complete`](Self::complete); then call [`finish`](Self::finish), once. Between the calls the
/// transfer may be kept, and the vCPU unloaded.
///
/// After an abort, drop it. The base register and pc are then as they were, whatever was loaded
/// (the Base Restored Abort Model), and so is a register that SWP or STREX writes; other
/// registers of a multiple load may have changed: ARM DDI 0406C, B1.9.8 allows both, so that the
/// guest may start the instruction again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    instruction: Instruction,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A hint, or the condition failed.
    Nothing,
    Single {
        single: Single,
        address: u32,
        /// The base with the offset added.
        moved: u32,
        /// What was loaded, for pc.
        loaded: u32,
        pending: bool,
    },
    Sequence(Sequence),
}

/// Where the guest goes on, unless at the next instruction, and its CPSR there.
pub(super) type Jump = Option<(u32, u32)>;

impl Op {
    /// Begins the instruction with these registers. One whose condition fails makes no access.
    ///
    /// # Errors
    /// What is UNPREDICTABLE in the guest's mode, state or place in an IT block, and addresses that
    /// the instruction can't have.
    #[inline]
    pub fn start<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Result<Transfer, Refusal> {
        match self.begin(gprs) {
            Ok(state) => Ok(Transfer {
                instruction: self.instruction,
                state,
            }),
            Err(reason) => Err(Refusal {
                instruction: self.instruction,
                reason,
            }),
        }
    }

    #[inline]
    fn begin<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Result<State, Reason> {
        let regs = &*gprs.regs;
        if regs.cpsr & psr::J != 0 {
            return Err(Reason::State);
        }
        let condition = self.condition(regs);
        if condition < 14 && !regs.condition(condition) {
            return Ok(State::Nothing);
        }
        let Form::Single(single) = self.form else {
            return Ok(match Sequence::start(self.form, gprs)? {
                Some(sequence) => State::Sequence(sequence),
                None => State::Nothing,
            });
        };
        let (address, moved) = single.at().resolve(gprs);
        if single.load() && single.t() == 15 {
            jump_allowed(regs)?;
            if address & 3 != 0 {
                return Err(Reason::Target);
            }
        }
        Ok(State::Single {
            single,
            address,
            moved,
            loaded: 0,
            pending: true,
        })
    }

    /// The condition under which it executes.
    #[inline]
    fn condition(&self, regs: &Regs) -> u32 {
        match self.instruction {
            Instruction::A32(word) => word >> 28,
            _ => match regs.it_state() {
                0 => 14,
                it => u32::from(it >> 4),
            },
        }
    }
}

impl Transfer {
    /// The access to perform now; `None` when there is no more.
    #[inline]
    pub fn next<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Option<Access> {
        let (single, address) = match &self.state {
            State::Single {
                single,
                address,
                pending: true,
                ..
            } => (single, *address),
            State::Sequence(sequence) => return sequence.next(gprs),
            _ => return None,
        };
        let value = if single.load() {
            None
        } else {
            Some(to_bus(get(gprs, single.t()), single.size(), gprs.regs))
        };
        Some(Access {
            address,
            size: single.size(),
            value,
            unprivileged: single.unprivileged(),
            exclusive: false,
        })
    }

    /// Takes the result of the access that [`next`](Self::next) gave: what was loaded, in the bus's
    /// byte order, bits above the size ignored; anything after a store.
    #[inline]
    pub fn complete<B: Banks + Vectors>(&mut self, value: u32, gprs: &mut Gprs<'_, B>) {
        match &mut self.state {
            State::Nothing => {}
            State::Single {
                single,
                loaded,
                pending,
                ..
            } => {
                *pending = false;
                if single.load() {
                    *loaded = single.extend(from_bus(value, single.size(), gprs.regs));
                    set(gprs, single.t(), *loaded);
                }
            }
            State::Sequence(sequence) => sequence.complete(value, gprs),
        }
    }

    /// Ends a store-exclusive whose monitor did not pass: nothing more is stored, the status is 1. Other
    /// transfers go on.
    pub fn lose(&mut self) {
        if let State::Sequence(sequence) = &mut self.state {
            sequence.lose();
        }
    }

    /// Completes the instruction: the base is written back, pc and CPSR are set.
    ///
    /// # Errors
    /// A jump or a return from an exception that is UNPREDICTABLE. Nothing is changed then.
    #[inline]
    pub fn finish<B: Banks + Vectors>(&self, gprs: &mut Gprs<'_, B>) -> Result<(), Refusal> {
        let jump = match &self.state {
            State::Nothing => Ok(None),
            State::Single {
                single,
                moved,
                loaded,
                ..
            } => finish_single(*single, *moved, *loaded, gprs),
            State::Sequence(sequence) => sequence.finish(gprs),
        };
        match jump {
            Ok(None) => gprs.regs.skip(self.instruction.length()),
            Ok(Some((pc, cpsr))) => (gprs.regs.pc, gprs.regs.cpsr) = (pc, cpsr),
            Err(reason) => {
                return Err(Refusal {
                    instruction: self.instruction,
                    reason,
                });
            }
        }
        Ok(())
    }
}

#[inline]
fn finish_single<B: Banks>(
    single: Single,
    moved: u32,
    loaded: u32,
    gprs: &mut Gprs<'_, B>,
) -> Result<Jump, Reason> {
    let mut jump = None;
    if single.load() && single.t() == 15 {
        jump = Some(interwork(gprs.regs, loaded)?);
    }
    if single.at().writeback() {
        set(gprs, single.at().n(), moved);
    }
    Ok(jump)
}

/// Reads register `n`. Those that no mode banks are most of them, and need no lookup.
#[inline]
pub(super) fn get<B: Banks>(gprs: &Gprs<'_, B>, n: impl Into<u32>) -> u32 {
    let n = n.into();
    if n < 8 {
        gprs.regs.r[(n & 7) as usize]
    } else {
        gprs.get(n)
    }
}

/// Writes register `n`; 15 is ignored.
#[inline]
pub(super) fn set<B: Banks>(gprs: &mut Gprs<'_, B>, n: u32, value: u32) {
    if n < 8 {
        gprs.regs.r[(n & 7) as usize] = value;
    } else {
        gprs.set(n, value);
    }
}

/// A jump may only be the last of an IT block (ARM DDI 0406C, A8.3.1).
pub(super) fn jump_allowed(regs: &Regs) -> Result<(), Reason> {
    match regs.it_state() & 15 {
        0 | 8 => Ok(()),
        _ => Err(Reason::ItBlock),
    }
}

/// A2.3.2, LoadWritePC().
pub(super) fn interwork(regs: &Regs, target: u32) -> Result<(u32, u32), Reason> {
    // A jump ends an IT block.
    let cpsr = regs.cpsr & !(psr::T | psr::IT);
    match target & 3 {
        0 => Ok((target, cpsr)),
        2 => Err(Reason::Target),
        _ => Ok((target & !1, cpsr | psr::T)),
    }
}

/// A register's value as the bus sees it.
#[inline]
pub(super) const fn to_bus(value: u32, size: u8, regs: &Regs) -> u32 {
    let value = match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        _ => value,
    };
    if regs.big_endian() {
        reversed(value, size)
    } else {
        value
    }
}

/// What the bus gave, zero-extended, as a register's value.
#[inline]
pub(super) const fn from_bus(value: u32, size: u8, regs: &Regs) -> u32 {
    // Reversing is its own inverse.
    to_bus(value, size, regs)
}

const fn reversed(value: u32, size: u8) -> u32 {
    match size {
        1 => value,
        2 => value.swap_bytes() >> 16,
        _ => value.swap_bytes(),
    }
}
