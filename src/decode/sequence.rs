//! Transfers of more than one access, or with more to them than one.
//!
//! Nothing that would keep the instruction from starting again is written before the end: a base
//! that is written back or loaded, the register of SWP, the status of STREX.

use super::transfer::{Access, Jump, Vectors, from_bus, get, interwork, jump_allowed, to_bus};
use super::{Bank, Block, Form, Lanes, Reason, Structure};
use crate::regs::{Banked, Banks, Gprs, Regs, bank, mode, psr};

/// Such a transfer under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sequence {
    form: Form,
    /// Of the access to come.
    address: u32,
    /// Accesses to come.
    left: u8,
    /// The element of VLDn and VSTn to come.
    cursor: Cursor,
    /// The register list of LDM and STM, without what is done.
    list: u16,
    /// The mode whose bank holds the registers of LDM and STM, and `last`.
    mode: u32,
    /// A register that is not written before the end.
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

/// What [`Sequence::start`] finds out about the accesses.
struct Plan {
    address: u32,
    left: u8,
    /// What the address must be a multiple of.
    alignment: u32,
    last: Option<(u8, u32)>,
}

impl Sequence {
    /// Begins; `None` for what makes no access.
    #[inline(never)]
    pub(super) fn start<B: Banks + Vectors>(
        form: Form,
        gprs: &Gprs<'_, B>,
    ) -> Result<Option<Self>, Reason> {
        let Some(plan) = Plan::new(form, gprs)? else {
            return Ok(None);
        };
        if plan.address & (plan.alignment - 1) != 0 {
            return Err(Reason::Unaligned);
        }
        let mut sequence = Self {
            form,
            address: plan.address,
            left: plan.left,
            cursor: Cursor::default(),
            list: 0,
            mode: gprs.regs.mode(),
            last: plan.last,
            target: None,
            psr: 0,
        };
        match form {
            Form::Multiple { list, bank, .. } => {
                sequence.list = list;
                if bank == Bank::User {
                    sequence.mode = mode::USR;
                }
            }
            Form::Save { mode, .. } => sequence.mode = u32::from(mode),
            Form::Structure(Structure {
                lanes: Lanes::One(lane),
                ..
            }) => sequence.cursor.lane = lane,
            _ => {}
        }
        Ok(Some(sequence))
    }

    /// See [`Transfer::next`](super::Transfer::next).
    #[inline(never)]
    pub(super) fn next<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Option<Access> {
        if self.left == 0 {
            return None;
        }
        let (load, size) = self.kind()?;
        Some(Access {
            address: self.address,
            size,
            value: if load {
                None
            } else {
                Some(to_bus(self.value(gprs), size, gprs.regs))
            },
            unprivileged: false,
            exclusive: matches!(self.form, Form::Exclusive { .. }),
        })
    }

    /// What is stored now.
    fn value<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> u32 {
        let first = self.left == 2;
        match self.form {
            Form::Dual { t, t2, .. } | Form::Exclusive { t, t2, size: 8, .. } => {
                get(gprs, if first { t } else { t2 })
            }
            Form::Exclusive { t, .. } => get(gprs, t),
            Form::Swap { t2, .. } => get(gprs, t2),
            Form::Multiple { .. } => get_in(gprs, self.mode, self.list.trailing_zeros()),
            Form::Save { .. } if first => get(gprs, 14u32),
            Form::Save { .. } => spsr(gprs.regs.mode()).map_or(0, |spsr| gprs.banks.read(spsr)),
            Form::Vector { .. } => gprs.banks.word(self.word(gprs.regs.big_endian())),
            Form::Structure(structure) => {
                structure.read(gprs.banks, self.cursor, gprs.regs.big_endian())
            }
            Form::Hint | Form::Single(_) | Form::TableBranch { .. } | Form::Return { .. } => 0,
        }
    }

    /// See [`Transfer::complete`](super::Transfer::complete).
    #[inline(never)]
    pub(super) fn complete<B: Banks + Vectors>(&mut self, value: u32, gprs: &mut Gprs<'_, B>) {
        let Some((load, size)) = self.kind() else {
            return;
        };
        if self.left == 0 {
            return;
        }
        if load {
            self.loaded(from_bus(value, size, gprs.regs), gprs);
        }
        self.left -= 1;
        if !matches!(self.form, Form::Swap { .. }) {
            self.address = self.address.wrapping_add(u32::from(size));
        }
        self.list &= self.list.wrapping_sub(1);
        if let Form::Structure(structure) = self.form {
            structure.advance(&mut self.cursor);
        }
    }

    /// See [`Transfer::lose`](super::Transfer::lose).
    pub(super) fn lose(&mut self) {
        if let Form::Exclusive { load: false, d, .. } = self.form {
            self.left = 0;
            self.last = Some((d, 1));
        }
    }

    /// Writes what is left to write, and says where the guest goes on.
    #[inline(never)]
    pub(super) fn finish<B: Banks>(&self, gprs: &mut Gprs<'_, B>) -> Result<Jump, Reason> {
        let jump = match self.target {
            Some(target) => Some(self.jump(gprs, target)?),
            None => None,
        };
        if let Some((n, value)) = self.last {
            set_in(gprs, self.mode, u32::from(n), value);
        }
        Ok(jump)
    }

    fn jump<B: Banks>(&self, gprs: &Gprs<'_, B>, target: u32) -> Result<(u32, u32), Reason> {
        let regs = &*gprs.regs;
        match self.form {
            Form::TableBranch { .. } => {
                let target = gprs.get(15).wrapping_add(target.wrapping_mul(2));
                Ok((target, regs.cpsr & !psr::IT))
            }
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

    /// Whether the access to come is a load, and its size; `None` where there is none.
    fn kind(&self) -> Option<(bool, u8)> {
        Some(match self.form {
            Form::Hint | Form::Single(_) => return None,
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
        match self.form {
            Form::Dual { t, t2, at, .. } => {
                self.load(gprs, if first { t } else { t2 }, at.n() as u8, value);
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
            Form::Save { .. } | Form::Single(_) | Form::Hint => {}
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
        } = self.form
        else {
            return 0;
        };
        let word = u32::from(first + (words - self.left));
        // The halves of a big-endian doubleword lie the other way round.
        if double && big_endian { word ^ 1 } else { word }
    }
}

impl Plan {
    fn new<B: Banks>(form: Form, gprs: &Gprs<'_, B>) -> Result<Option<Self>, Reason> {
        let regs = &*gprs.regs;
        Ok(Some(match form {
            Form::Hint | Form::Single(_) => return Ok(None),
            Form::Dual { at, .. } => {
                let (address, moved) = at.resolve(gprs);
                Self {
                    address,
                    left: 2,
                    alignment: 4,
                    last: at.writeback().then_some((at.n() as u8, moved)),
                }
            }
            Form::Exclusive {
                load,
                size,
                d,
                n,
                offset,
                ..
            } => Self {
                address: get(gprs, n).wrapping_add(u32::from(offset)),
                left: if size == 8 { 2 } else { 1 },
                alignment: u32::from(size),
                last: if load { None } else { Some((d, 0)) },
            },
            Form::Swap { size, n, .. } => Self {
                address: get(gprs, n),
                left: 2,
                alignment: u32::from(size),
                last: None,
            },
            Form::TableBranch { size, n, m } => {
                jump_allowed(regs)?;
                let index = get(gprs, m).wrapping_mul(u32::from(size));
                Self {
                    address: get(gprs, n).wrapping_add(index),
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
                block.plan(13, get_in(gprs, u32::from(mode), 13), 2)
            }
            Form::Vector {
                words,
                n,
                offset,
                step,
                ..
            } => {
                let base = get(gprs, n);
                let base = if n == 15 { base & !3 } else { base };
                let end = base.wrapping_add_signed(i32::from(step));
                Self {
                    address: base.wrapping_add_signed(i32::from(offset)),
                    left: words,
                    alignment: 4,
                    last: if step == 0 { None } else { Some((n, end)) },
                }
            }
            Form::Structure(structure) => structure.plan(gprs),
        }))
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

/// B1.3.3, CPSRWriteByInstr() of a return from an exception, and BranchWritePC().
fn exception_return(regs: &Regs, target: u32, value: u32) -> Result<(u32, u32), Reason> {
    const RESERVED: u32 = 0x00f0_0000;
    let known =
        spsr(value & mode::MASK).is_some() || matches!(value & mode::MASK, mode::USR | mode::SYS);
    let thumb = value & psr::T != 0;
    if !known || value & psr::J != 0 || !thumb && value & psr::IT != 0 {
        return Err(Reason::Return);
    }
    let cpsr = regs.cpsr & RESERVED | value & !RESERVED;
    Ok((target & if thumb { !1 } else { !3 }, cpsr))
}

/// The bits that `size` bytes have.
const fn mask(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}
