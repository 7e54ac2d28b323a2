//! Performing a decoded load or store, one bus access at a time.

use super::{Form, Instruction, Op, Reason, Refusal, Single, decode_form};
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
    pub(super) op: Op,
    /// Of the access to come.
    pub(super) address: u32,
    /// What register `n` gets at the end.
    pub(super) last: u32,
    /// What was loaded into pc.
    pub(super) target: u32,
    /// What was loaded into CPSR.
    pub(super) psr: u32,
    /// The register list of LDM and STM, without what is done.
    pub(super) list: u16,
    /// The register that is written at the end; 15 for none.
    pub(super) n: u8,
    /// Accesses to come.
    pub(super) left: u8,
    /// The element of VLDn and VSTn to come.
    pub(super) cursor: Cursor,
    pub(super) end: End,
}

/// A place in the registers of VLDn and VSTn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cursor {
    /// Register, from the first one of its member.
    pub(super) register: u8,
    /// Lane of the register.
    pub(super) lane: u8,
    /// Member of the structure.
    pub(super) member: u8,
}

/// Where the guest goes on and its CPSR there.
pub(super) type Destination = (u32, u32);

/// How a transfer ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Register `n` is written, the guest goes on at the next instruction.
    Plain,
    /// So, but the register is of the bank that is transferred.
    Banked,
    /// So, and pc was loaded.
    Jump,
    /// Nothing is done.
    Refused(Reason),
}

impl Transfer {
    /// Decodes an instruction and begins it with these registers, which are those of the guest
    /// that is at it.
    ///
    /// One whose condition fails makes no access. Nor does one that [`decode`](super::decode)
    /// refuses, or that the guest's mode, state, place in an IT block or address makes
    /// UNPREDICTABLE: [`finish`](Self::finish) says so.
    #[inline(never)]
    pub fn new<B: Banks + Vectors>(instruction: Instruction, gprs: &Gprs<'_, B>) -> Self {
        let mut transfer = Self::idle(Op {
            instruction,
            form: Form::Hint,
        });
        if let Err(reason) = transfer.try_begin(gprs) {
            transfer.op.form = Form::Hint;
            transfer.left = 0;
            transfer.end = End::Refused(reason);
        }
        transfer
    }

    const fn idle(op: Op) -> Self {
        Self {
            op,
            address: 0,
            last: 0,
            target: 0,
            psr: 0,
            list: 0,
            n: 15,
            left: 0,
            cursor: Cursor {
                register: 0,
                lane: 0,
                member: 0,
            },
            end: End::Plain,
        }
    }

    #[inline(always)]
    fn single<B: Banks>(self, single: Single, gprs: &Gprs<'_, B>) -> Self {
        let (address, moved) = single.at().resolve(gprs);
        let n = if single.at().writeback() {
            single.at().n() as u8
        } else {
            15
        };
        Self {
            address,
            left: 1,
            last: moved,
            n,
            ..self
        }
    }

    fn try_begin<B: Banks + Vectors>(&mut self, gprs: &Gprs<'_, B>) -> Result<(), Reason> {
        let regs = &*gprs.regs;
        if regs.cpsr & psr::J != 0 {
            return Err(Reason::State);
        }
        let form = decode_form(self.op.instruction)?;
        if !executes(self.op.instruction, regs) {
            return Ok(());
        }
        self.op.form = form;
        let Form::Single(single) = form else {
            return self.begin_many(gprs);
        };
        *self = self.single(single, gprs);
        if single.loads_pc() {
            jump_allowed(regs)?;
            if self.address & 3 != 0 {
                return Err(Reason::Target);
            }
        }
        Ok(())
    }

    /// What is performed: a hint where the condition failed and where it is refused.
    #[must_use]
    pub const fn op(&self) -> Op {
        self.op
    }

    /// The access to perform now; `None` when there is no more.
    #[inline]
    pub fn next<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Option<Access> {
        if self.left == 0 {
            return None;
        }
        let Form::Single(single) = self.op.form else {
            return Some(self.next_of_many(gprs));
        };
        Some(Access {
            address: self.address,
            size: single.size(),
            value: if single.load() {
                None
            } else {
                Some(to_bus(get(gprs, single.t()), single.size(), gprs.regs))
            },
            unprivileged: single.unprivileged(),
            exclusive: false,
        })
    }

    /// Takes the result of the access that [`next`](Self::next) gave: what was loaded, in the bus's
    /// byte order, bits above the size ignored; anything after a store.
    #[inline]
    pub fn complete<B: Banks + Vectors>(&mut self, value: u32, gprs: &mut Gprs<'_, B>) {
        if self.left == 0 {
            return;
        }
        let Form::Single(single) = self.op.form else {
            return self.complete_of_many(value, gprs);
        };
        self.left = 0;
        if single.load() {
            let value = single.extend(from_bus(value, single.size(), gprs.regs));
            if single.t() == 15 {
                self.jump_to(value);
            } else {
                set(gprs, single.t(), value);
            }
        }
    }

    /// Completes the instruction: the base is written back, pc and CPSR are set.
    ///
    /// # Errors
    /// What is refused, see [`new`](Self::new), and a jump or a return from an exception that is
    /// UNPREDICTABLE. Base, pc and CPSR are as before then.
    #[inline]
    pub fn finish<B: Banks + Vectors>(&self, gprs: &mut Gprs<'_, B>) -> Result<(), Refusal> {
        if self.end != End::Plain {
            return self.finish_other(gprs).map_err(|reason| Refusal {
                instruction: self.op.instruction,
                reason,
            });
        }
        if self.n != 15 {
            set(gprs, self.n, self.last);
        }
        gprs.regs.skip(self.op.instruction.length());
        Ok(())
    }
}

/// Whether the instruction's condition holds, that of its IT block in Thumb.
pub(super) fn executes(instruction: Instruction, regs: &Regs) -> bool {
    let condition = match (instruction, regs.it_state()) {
        (Instruction::A32(word), _) => word >> 28,
        (_, 0) => 14,
        (_, it) => u32::from(it >> 4),
    };
    condition >= 14 || regs.condition(condition)
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
pub(super) fn set<B: Banks>(gprs: &mut Gprs<'_, B>, n: impl Into<u32>, value: u32) {
    let n = n.into();
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
pub(super) fn interwork(regs: &Regs, target: u32) -> Result<Destination, Reason> {
    // A jump ends an IT block.
    let cpsr = regs.cpsr & !(psr::T | psr::IT);
    match target & 3 {
        0 => Ok((target, cpsr)),
        2 => Err(Reason::Target),
        _ => Ok((target & !1, cpsr | psr::T)),
    }
}

/// A register's value as the bus sees it.
#[inline(always)]
pub(super) const fn to_bus(value: u32, size: u8, regs: &Regs) -> u32 {
    if size == 4 && !regs.big_endian() {
        value
    } else {
        to_bus_in_order(value, size, regs.big_endian())
    }
}

#[inline(never)]
const fn to_bus_in_order(value: u32, size: u8, big_endian: bool) -> u32 {
    let narrow = value & u32::MAX >> (32 - 8 * size as u32);
    if big_endian {
        narrow.swap_bytes() >> (32 - 8 * size as u32)
    } else {
        narrow
    }
}

/// What the bus gave, zero-extended, as a register's value.
#[inline]
pub(super) const fn from_bus(value: u32, size: u8, regs: &Regs) -> u32 {
    // Reversing is its own inverse.
    to_bus(value, size, regs)
}
