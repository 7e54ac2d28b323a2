//! Performing a decoded load or store, one bus access at a time.

use super::{
    Address, Bank, Block, Form, Index, Lanes, Offset, Op, Reason, Refusal, Shift, Structure,
};
use crate::regs::{Banked, Banks, Gprs, Regs, bank, mode, psr};

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
    op: Op,
    /// Of the access to come.
    address: u32,
    /// Accesses to come.
    left: u8,
    /// The register list of LDM and STM, without what is done.
    list: u16,
    /// The element of VLDn and VSTn to come.
    cursor: Cursor,
    /// The mode whose bank holds the registers of LDM and STM, and `last`.
    mode: u32,
    /// A register that is not written before the end: a base written back or loaded, a status.
    last: Option<(u8, u32)>,
    /// What was loaded into pc.
    target: Option<u32>,
    /// What RFE loaded into CPSR.
    psr: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Cursor {
    /// Register, from the first one of its member.
    register: u8,
    /// Lane of the register.
    lane: u8,
    /// Member of the structure.
    member: u8,
}

/// What [`Op::start`] finds out about the accesses.
struct Plan {
    address: u32,
    left: u8,
    /// What the address must be a multiple of.
    alignment: u32,
    last: Option<(u8, u32)>,
}

impl Op {
    /// Begins the instruction with these registers. One whose condition fails makes no access.
    ///
    /// # Errors
    /// What is UNPREDICTABLE in the guest's mode, state or place in an IT block, and addresses that
    /// the instruction can't have.
    pub fn start<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Result<Transfer, Refusal> {
        match self.begin(gprs) {
            Ok(transfer) => Ok(transfer),
            Err(reason) => Err(self.refuse(reason)),
        }
    }

    fn refuse(&self, reason: Reason) -> Refusal {
        Refusal {
            instruction: self.instruction,
            reason,
        }
    }

    fn begin<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Result<Transfer, Reason> {
        let regs = &*gprs.regs;
        let mut transfer = Transfer {
            op: *self,
            address: 0,
            left: 0,
            list: 0,
            cursor: Cursor::default(),
            mode: regs.mode(),
            last: None,
            target: None,
            psr: 0,
        };
        if regs.cpsr & psr::J != 0 {
            return Err(Reason::State);
        }
        if !regs.condition(self.condition(regs)) {
            transfer.op.form = Form::Hint;
            return Ok(transfer);
        }
        let plan = match self.form {
            Form::Hint => return Ok(transfer),
            Form::Single { load, t, at, .. } => {
                let plan = at.plan(gprs, 1);
                if load && t == 15 {
                    jump_allowed(regs)?;
                    if plan.address & 3 != 0 {
                        return Err(Reason::Target);
                    }
                }
                plan
            }
            Form::Dual { at, .. } => Plan {
                alignment: 4,
                ..at.plan(gprs, 2)
            },
            Form::Exclusive {
                load,
                size,
                d,
                n,
                offset,
                ..
            } => Plan {
                address: get(gprs, n).wrapping_add(u32::from(offset)),
                left: if size == 8 { 2 } else { 1 },
                alignment: u32::from(size),
                last: if load { None } else { Some((d, 0)) },
            },
            Form::Swap { size, n, .. } => Plan {
                address: get(gprs, n),
                left: 2,
                alignment: u32::from(size),
                last: None,
            },
            Form::TableBranch { size, n, m } => {
                jump_allowed(regs)?;
                Plan {
                    address: get(gprs, n).wrapping_add(get(gprs, m).wrapping_mul(u32::from(size))),
                    left: 1,
                    alignment: 1,
                    last: None,
                }
            }
            Form::Multiple {
                load,
                list,
                bank,
                n,
                block,
            } => {
                if load && list >> 15 != 0 {
                    jump_allowed(regs)?;
                }
                if bank != Bank::Current {
                    has_spsr(regs.mode())?;
                }
                if bank == Bank::User {
                    transfer.mode = mode::USR;
                }
                transfer.list = list;
                block.plan(n, get(gprs, n), list.count_ones() as u8)
            }
            Form::Return { n, block } => {
                jump_allowed(regs)?;
                if !regs.privileged() {
                    return Err(Reason::Mode);
                }
                block.plan(n, get(gprs, n), 2)
            }
            Form::Save { mode, block } => {
                has_spsr(regs.mode())?;
                transfer.mode = u32::from(mode);
                block.plan(13, get_in(gprs, transfer.mode, 13), 2)
            }
            Form::Vector {
                words,
                n,
                offset,
                step,
                ..
            } => {
                let base = aligned_base(gprs, n);
                Plan {
                    address: base.wrapping_add_signed(i32::from(offset)),
                    left: words,
                    alignment: 4,
                    last: match step {
                        0 => None,
                        _ => Some((n, base.wrapping_add_signed(i32::from(step)))),
                    },
                }
            }
            Form::Structure(structure) => {
                if let Lanes::One(lane) = structure.lanes {
                    transfer.cursor.lane = lane;
                }
                structure.plan(gprs)
            }
        };
        if plan.address & (plan.alignment - 1) != 0 {
            return Err(Reason::Unaligned);
        }
        transfer.address = plan.address;
        transfer.left = plan.left;
        transfer.last = plan.last;
        Ok(transfer)
    }

    /// The condition under which it executes.
    fn condition(&self, regs: &Regs) -> u32 {
        match self.instruction {
            super::Instruction::A32(word) => word >> 28,
            _ => match regs.it_state() {
                0 => 14,
                it => u32::from(it >> 4),
            },
        }
    }
}

impl Address {
    fn plan<B: Banks>(&self, gprs: &Gprs<'_, B>, left: u8) -> Plan {
        let base = aligned_base(gprs, self.n);
        let moved = match self.offset {
            Offset::Immediate(bytes) => base.wrapping_add_signed(i32::from(bytes)),
            Offset::Register {
                m,
                subtract,
                shift,
                amount,
            } => {
                let carry = gprs.regs.cpsr & 1 << 29 != 0;
                let offset = shift.apply(get(gprs, m), u32::from(amount), carry);
                if subtract {
                    base.wrapping_sub(offset)
                } else {
                    base.wrapping_add(offset)
                }
            }
        };
        let post = self.index == Index::Post;
        Plan {
            address: if post { base } else { moved },
            left,
            alignment: 1,
            last: if self.index.writeback() {
                Some((self.n, moved))
            } else {
                None
            },
        }
    }
}

impl Shift {
    /// A8.4.3, Shift(); `amount` is in the range that [`Offset::Register`] gives.
    fn apply(self, value: u32, amount: u32, carry: bool) -> u32 {
        match self {
            Self::Lsl => value.wrapping_shl(amount),
            Self::Lsr => value.checked_shr(amount).unwrap_or(0),
            Self::Asr => ((value as i32) >> amount.min(31)) as u32,
            Self::Ror => value.rotate_right(amount),
            Self::Rrx => u32::from(carry) << 31 | value >> 1,
        }
    }
}

impl Block {
    /// `words` words from `base`, the value of register `n`.
    fn plan(self, n: u8, base: u32, words: u8) -> Plan {
        let bytes = u32::from(words) * 4;
        let (end, lowest) = if self.up {
            (base.wrapping_add(bytes), base)
        } else {
            (base.wrapping_sub(bytes), base.wrapping_sub(bytes))
        };
        // IB leaves out the lowest word of its range, DA takes the word at the base.
        let above = self.up == self.before;
        Plan {
            address: if above {
                lowest.wrapping_add(4)
            } else {
                lowest
            },
            left: words,
            alignment: 4,
            last: if self.writeback { Some((n, end)) } else { None },
        }
    }
}

impl Structure {
    fn plan<B: Banks>(&self, gprs: &Gprs<'_, B>) -> Plan {
        let (accesses, bytes) = match self.lanes {
            Lanes::Whole(regs) => {
                let bytes = self.count * regs * 8;
                (bytes / self.width(), bytes)
            }
            Lanes::One(_) | Lanes::All(_) => (self.count, self.count * self.size),
        };
        let base = get(gprs, self.n);
        Plan {
            address: base,
            left: accesses,
            alignment: u32::from(self.alignment),
            last: match self.m {
                15 => None,
                13 => Some((self.n, base.wrapping_add(u32::from(bytes)))),
                m => Some((self.n, base.wrapping_add(get(gprs, m)))),
            },
        }
    }

    /// Size of an access: an element of 8 bytes takes two.
    const fn width(&self) -> u8 {
        if self.size == 8 { 4 } else { self.size }
    }

    /// The word, and the lowest bit in it, of a lane of a register.
    fn place(&self, register: u8, lane: u8, big_endian: bool) -> (u32, u32) {
        // The halves of a big-endian doubleword lie the other way round.
        let lane = if self.size == 8 && big_endian {
            lane ^ 1
        } else {
            lane
        };
        let byte = u32::from(lane) * u32::from(self.width());
        (u32::from(register) * 2 + byte / 4, byte % 4 * 8)
    }

    /// The register that the cursor is at.
    const fn register(&self, cursor: Cursor) -> u8 {
        self.d + cursor.register + cursor.member * self.spacing
    }

    fn read<V: Vectors>(&self, vectors: &V, cursor: Cursor, big_endian: bool) -> u32 {
        let (word, low) = self.place(self.register(cursor), cursor.lane, big_endian);
        vectors.word(word) >> low
    }

    fn write<V: Vectors>(&self, vectors: &mut V, cursor: Cursor, big_endian: bool, value: u32) {
        let mut put = |register, lane| {
            let (word, low) = self.place(register, lane, big_endian);
            let mask = mask(self.width()) << low;
            let old = vectors.word(word);
            vectors.set_word(word, old & !mask | (value << low) & mask);
        };
        let first = self.register(cursor);
        if let Lanes::All(regs) = self.lanes {
            for register in first..first + regs {
                for lane in 0..8 / self.width() {
                    put(register, lane);
                }
            }
        } else {
            put(first, cursor.lane);
        }
    }

    fn advance(&self, cursor: &mut Cursor) {
        cursor.member += 1;
        if cursor.member < self.count || !matches!(self.lanes, Lanes::Whole(_)) {
            return;
        }
        cursor.member = 0;
        cursor.lane += 1;
        if cursor.lane == 8 / self.width() {
            cursor.lane = 0;
            cursor.register += 1;
        }
    }
}

impl Transfer {
    /// The access to perform now; `None` when there is no more.
    pub fn next<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Option<Access> {
        if self.left == 0 {
            return None;
        }
        let first = self.left == 2;
        let (load, size) = self.kind()?;
        let value = match self.op.form {
            _ if load => 0,
            Form::Dual { t, t2, .. } | Form::Exclusive { t, t2, size: 8, .. } => {
                get(gprs, if first { t } else { t2 })
            }
            Form::Single { t, .. } | Form::Exclusive { t, .. } => get(gprs, t),
            Form::Swap { t2, .. } => get(gprs, t2),
            Form::Multiple { .. } => get_in(gprs, self.mode, self.list.trailing_zeros()),
            Form::Save { .. } if first => gprs.get(14),
            Form::Save { .. } => spsr(gprs.regs.mode()).map_or(0, |spsr| gprs.banks.read(spsr)),
            Form::Vector { .. } => gprs.banks.word(self.word(gprs.regs.big_endian())),
            Form::Structure(structure) => {
                structure.read(gprs.banks, self.cursor, gprs.regs.big_endian())
            }
            Form::Hint | Form::TableBranch { .. } | Form::Return { .. } => 0,
        };
        Some(Access {
            address: self.address,
            size,
            value: if load {
                None
            } else {
                Some(ordered(value & mask(size), size, gprs.regs.big_endian()))
            },
            unprivileged: matches!(
                self.op.form,
                Form::Single {
                    unprivileged: true,
                    ..
                }
            ),
            exclusive: matches!(self.op.form, Form::Exclusive { .. }),
        })
    }

    /// Takes the result of the access that [`next`](Self::next) gave: what was loaded, in the bus's
    /// byte order, bits above the size ignored; anything after a store.
    pub fn complete<B: Banks + Vectors>(&mut self, value: u32, gprs: &mut Gprs<'_, B>) {
        if self.left == 0 {
            return;
        }
        let Some((load, size)) = self.kind() else {
            return;
        };
        if load {
            let value = ordered(value & mask(size), size, gprs.regs.big_endian());
            self.loaded(value, gprs);
        }
        self.left -= 1;
        self.address = self.address.wrapping_add(match self.op.form {
            Form::Swap { .. } => 0,
            _ => u32::from(size),
        });
        self.list &= self.list.wrapping_sub(1);
        if let Form::Structure(structure) = self.op.form {
            structure.advance(&mut self.cursor);
        }
    }

    /// Ends a store-exclusive whose monitor did not pass: nothing more is stored, the status is 1. Other
    /// transfers go on.
    pub fn lose(&mut self) {
        if let Form::Exclusive { load: false, d, .. } = self.op.form {
            self.left = 0;
            self.last = Some((d, 1));
        }
    }

    /// Completes the instruction: the base is written back, pc and CPSR are set.
    ///
    /// # Errors
    /// A jump or a return from an exception that is UNPREDICTABLE. Nothing is changed then.
    pub fn finish<B: Banks + Vectors>(&self, gprs: &mut Gprs<'_, B>) -> Result<(), Refusal> {
        let (target, cpsr) = match self.destination(gprs) {
            Ok(destination) => destination,
            Err(reason) => return Err(self.op.refuse(reason)),
        };
        if let Some((n, value)) = self.last {
            set_in(gprs, self.mode, u32::from(n), value);
        }
        gprs.regs.skip(self.op.instruction.length());
        if let Some(target) = target {
            gprs.regs.pc = target;
        }
        if let Some(cpsr) = cpsr {
            gprs.regs.cpsr = cpsr;
        }
        Ok(())
    }

    /// Where the guest goes on, unless at the next instruction, and CPSR, where it is replaced.
    fn destination<B: Banks>(
        &self,
        gprs: &Gprs<'_, B>,
    ) -> Result<(Option<u32>, Option<u32>), Reason> {
        let Some(target) = self.target else {
            return Ok((None, None));
        };
        let regs = &*gprs.regs;
        match self.op.form {
            Form::TableBranch { .. } => Ok((
                Some(gprs.get(15).wrapping_add(target.wrapping_mul(2))),
                None,
            )),
            Form::Return { .. } => exception_return(regs, target, self.psr),
            Form::Multiple {
                bank: Bank::Return, ..
            } => {
                let spsr = spsr(regs.mode()).ok_or(Reason::Mode)?;
                exception_return(regs, target, gprs.banks.read(spsr))
            }
            _ => interwork(regs, target),
        }
    }

    /// Whether the access to come is a load, and its size; `None` for a hint.
    fn kind(&self) -> Option<(bool, u8)> {
        Some(match self.op.form {
            Form::Hint => return None,
            Form::Single { load, size, .. } => (load, size),
            Form::Exclusive { load, size, .. } => (load, if size == 8 { 4 } else { size }),
            Form::Swap { size, .. } => (self.left == 2, size),
            Form::TableBranch { size, .. } => (true, size),
            Form::Dual { load, .. } | Form::Multiple { load, .. } | Form::Vector { load, .. } => {
                (load, 4)
            }
            Form::Return { .. } => (true, 4),
            Form::Save { .. } => (false, 4),
            Form::Structure(structure) => (structure.load, structure.width()),
        })
    }

    /// Puts what was loaded where it belongs.
    fn loaded<B: Banks + Vectors>(&mut self, value: u32, gprs: &mut Gprs<'_, B>) {
        let first = self.left == 2;
        let big_endian = gprs.regs.big_endian();
        match self.op.form {
            Form::Single {
                size,
                signed,
                t,
                at,
                ..
            } => self.load(gprs, t, at.n, extend(value, size, signed)),
            Form::Dual { t, t2, at, .. } => {
                self.load(gprs, if first { t } else { t2 }, at.n, value);
            }
            Form::Exclusive { t, t2, n, size, .. } => {
                let second = size == 8 && !first;
                self.load(gprs, if second { t2 } else { t }, n, value);
            }
            Form::Swap { t, .. } => self.last = Some((t, value)),
            Form::TableBranch { .. } => self.target = Some(value),
            Form::Multiple { n, .. } => {
                self.load(gprs, self.list.trailing_zeros() as u8, n, value);
            }
            Form::Return { .. } if first => self.target = Some(value),
            Form::Return { .. } => self.psr = value,
            Form::Vector { .. } => gprs.banks.set_word(self.word(big_endian), value),
            Form::Structure(structure) => {
                structure.write(gprs.banks, self.cursor, big_endian, value);
            }
            Form::Save { .. } | Form::Hint => {}
        }
    }

    /// Loads register `t`; pc and the base `n` only at the end.
    fn load<B: Banks>(&mut self, gprs: &mut Gprs<'_, B>, t: u8, n: u8, value: u32) {
        if t == 15 {
            self.target = Some(value);
        } else if t == n {
            self.last = Some((t, value));
        } else {
            set_in(gprs, self.mode, u32::from(t), value);
        }
    }

    /// The word of the extension registers to transfer now.
    fn word(&self, big_endian: bool) -> u32 {
        let Form::Vector {
            double,
            first,
            words,
            ..
        } = self.op.form
        else {
            return 0;
        };
        let word = u32::from(first + (words - self.left));
        // The halves of a big-endian doubleword lie the other way round.
        if double && big_endian { word ^ 1 } else { word }
    }
}

fn get<B: Banks>(gprs: &Gprs<'_, B>, n: u8) -> u32 {
    gprs.get(u32::from(n))
}

/// A base register; pc is aligned, which it is in ARM state anyway.
fn aligned_base<B: Banks>(gprs: &Gprs<'_, B>, n: u8) -> u32 {
    let base = get(gprs, n);
    if n == 15 { base & !3 } else { base }
}

/// Register `n` as `mode` sees it.
fn get_in<B: Banks>(gprs: &Gprs<'_, B>, mode: u32, n: u32) -> u32 {
    match (n, bank(mode, n)) {
        (_, Some(banked)) => gprs.banks.read(banked),
        (14, None) => gprs.regs.lr_usr,
        (15.., None) => gprs.get(15),
        _ => gprs.regs.r.get(n as usize).copied().unwrap_or(0),
    }
}

/// Sets register `n`, below 15, as `mode` sees it.
fn set_in<B: Banks>(gprs: &mut Gprs<'_, B>, mode: u32, n: u32, value: u32) {
    match (n, bank(mode, n)) {
        (_, Some(banked)) => gprs.banks.write(banked, value),
        (14, None) => gprs.regs.lr_usr = value,
        _ => {
            if let Some(register) = gprs.regs.r.get_mut(n as usize) {
                *register = value;
            }
        }
    }
}

/// The saved program status register of `mode`, which User and System mode lack.
fn spsr(mode: u32) -> Option<Banked> {
    match mode {
        mode::FIQ => Some(Banked::SpsrFiq),
        mode::IRQ => Some(Banked::SpsrIrq),
        mode::SVC => Some(Banked::SpsrSvc),
        mode::ABT => Some(Banked::SpsrAbt),
        mode::UND => Some(Banked::SpsrUnd),
        _ => None,
    }
}

fn has_spsr(mode: u32) -> Result<(), Reason> {
    spsr(mode).map(|_| ()).ok_or(Reason::Mode)
}

/// A jump may only be the last of an IT block (ARM DDI 0406C, A8.3.1).
fn jump_allowed(regs: &Regs) -> Result<(), Reason> {
    match regs.it_state() & 15 {
        0 | 8 => Ok(()),
        _ => Err(Reason::ItBlock),
    }
}

/// A2.3.2, LoadWritePC().
fn interwork(regs: &Regs, target: u32) -> Result<(Option<u32>, Option<u32>), Reason> {
    // A jump ends an IT block.
    let cpsr = regs.cpsr & !(psr::T | psr::IT);
    match target & 3 {
        0 => Ok((Some(target), Some(cpsr))),
        2 => Err(Reason::Target),
        _ => Ok((Some(target & !1), Some(cpsr | psr::T))),
    }
}

/// B1.3.3, CPSRWriteByInstr() of a return from an exception, and BranchWritePC().
fn exception_return(
    regs: &Regs,
    target: u32,
    value: u32,
) -> Result<(Option<u32>, Option<u32>), Reason> {
    const RESERVED: u32 = 0x00f0_0000;
    let known =
        spsr(value & mode::MASK).is_some() || matches!(value & mode::MASK, mode::USR | mode::SYS);
    let thumb = value & psr::T != 0;
    if !known || value & psr::J != 0 || !thumb && value & psr::IT != 0 {
        return Err(Reason::Return);
    }
    let cpsr = regs.cpsr & RESERVED | value & !RESERVED;
    Ok((Some(target & if thumb { !1 } else { !3 }), Some(cpsr)))
}

/// The bits that `size` bytes have.
const fn mask(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

/// Between the bus's byte order and the guest's.
const fn ordered(value: u32, size: u8, big_endian: bool) -> u32 {
    match (big_endian, size) {
        (false, _) | (_, 1) => value,
        (_, 2) => value.swap_bytes() >> 16,
        _ => value.swap_bytes(),
    }
}

const fn extend(value: u32, size: u8, signed: bool) -> u32 {
    match (signed, size) {
        (true, 1) => value as u8 as i8 as u32,
        (true, 2) => value as u16 as i16 as u32,
        _ => value,
    }
}
