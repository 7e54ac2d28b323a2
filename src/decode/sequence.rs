//! Transfers of more than one access, or with more to them than one.
//!
//! Nothing that would keep the instruction from starting again is written before the end: a base
//! that is written back or loaded, the register of SWP, the status of STREX.

use super::transfer::{Access, Cursor, Destination, End, Transfer, Vectors};
use super::transfer::{from_bus, get, interwork, jump_allowed, to_bus};
use super::{Bank, Block, Form, Lanes, Reason, Structure};
use crate::regs::{Banked, Banks, Gprs, Regs, bank, mode, psr};

/// What the registers say about the accesses.
struct Plan {
    address: u32,
    left: u8,
    /// What the address must be a multiple of.
    alignment: u32,
    last: Option<(u8, u32)>,
}

impl Transfer {
    /// Begins anything but a single transfer.
    #[inline(never)]
    pub(super) fn begin_many<B: Banks + Vectors>(
        &mut self,
        gprs: &Gprs<'_, B>,
    ) -> Result<(), Reason> {
        let Some(plan) = Plan::new(self.op.form, gprs)? else {
            return Ok(());
        };
        if plan.address & (plan.alignment - 1) != 0 {
            return Err(Reason::Unaligned);
        }
        self.address = plan.address;
        self.left = plan.left;
        if let Some((n, value)) = plan.last {
            self.at_the_end(n, value);
        }
        match self.op.form {
            Form::Multiple { list, bank, .. } => {
                self.list = list;
                if bank == Bank::User {
                    self.end = End::Banked;
                }
            }
            Form::Save { .. } => self.end = End::Banked,
            Form::Structure(Structure {
                lanes: Lanes::One(lane),
                ..
            }) => self.cursor.lane = lane,
            _ => {}
        }
        Ok(())
    }

    /// See [`Transfer::next`].
    #[inline(never)]
    pub(super) fn next_of_many<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> Access {
        let (load, size) = self.kind();
        Access {
            address: self.address,
            size,
            value: if load {
                None
            } else {
                Some(to_bus(self.value(gprs), size, gprs.regs))
            },
            unprivileged: false,
            exclusive: matches!(self.op.form, Form::Exclusive { .. }),
        }
    }

    /// What is stored now.
    fn value<B: Banks + Vectors>(&self, gprs: &Gprs<'_, B>) -> u32 {
        let first = self.left == 2;
        match self.op.form {
            Form::Dual { t, t2, .. } | Form::Exclusive { t, t2, size: 8, .. } => {
                get(gprs, if first { t } else { t2 })
            }
            Form::Exclusive { t, .. } => get(gprs, t),
            Form::Swap { t2, .. } => get(gprs, t2),
            Form::Multiple { .. } => get_in(gprs, self.mode(gprs.regs), self.list.trailing_zeros()),
            Form::Save { .. } if first => get(gprs, 14u32),
            Form::Save { .. } => spsr(gprs.regs.mode()).map_or(0, |spsr| gprs.banks.read(spsr)),
            Form::Vector { .. } => gprs.banks.word(self.word(gprs.regs.big_endian())),
            Form::Structure(structure) => {
                structure.read(gprs.banks, self.cursor, gprs.regs.big_endian())
            }
            Form::Hint | Form::Single(_) | Form::TableBranch { .. } | Form::Return { .. } => 0,
        }
    }

    /// See [`Transfer::complete`].
    #[inline(never)]
    pub(super) fn complete_of_many<B: Banks + Vectors>(
        &mut self,
        value: u32,
        gprs: &mut Gprs<'_, B>,
    ) {
        let (load, size) = self.kind();
        if load {
            self.loaded(from_bus(value, size, gprs.regs), gprs);
        }
        self.left -= 1;
        if !matches!(self.op.form, Form::Swap { .. }) {
            self.address = self.address.wrapping_add(u32::from(size));
        }
        self.list &= self.list.wrapping_sub(1);
        if let Form::Structure(structure) = self.op.form {
            structure.advance(&mut self.cursor);
        }
    }

    /// Ends a store-exclusive whose monitor did not pass: nothing more is stored, the status is 1.
    /// Other transfers go on.
    pub fn lose(&mut self) {
        if let Form::Exclusive { load: false, d, .. } = self.op.form {
            self.left = 0;
            self.at_the_end(d, 1);
        }
    }

    /// See [`Transfer::finish`].
    #[inline(never)]
    pub(super) fn finish_other<B: Banks>(&self, gprs: &mut Gprs<'_, B>) -> Result<(), Reason> {
        let destination = match self.end {
            End::Refused(reason) => return Err(reason),
            End::Jump => Some(self.destination(gprs)?),
            End::Banked | End::Plain => None,
        };
        if self.n != 15 {
            self.set_banked(gprs, self.n, self.last);
        }
        match destination {
            Some((pc, cpsr)) => (gprs.regs.pc, gprs.regs.cpsr) = (pc, cpsr),
            None => gprs.regs.skip(self.op.instruction.length()),
        }
        Ok(())
    }

    /// Where the guest goes on after a load of pc.
    fn destination<B: Banks>(&self, gprs: &Gprs<'_, B>) -> Result<Destination, Reason> {
        let (regs, target) = (&*gprs.regs, self.target);
        match self.op.form {
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

    /// Whether the access to come is a load, and its size.
    fn kind(&self) -> (bool, u8) {
        match self.op.form {
            Form::Hint => (false, 0),
            Form::Single(single) => (single.load(), single.size()),
            Form::Exclusive { load, size, .. } => (load, if size == 8 { 4 } else { size }),
            Form::Swap { size, .. } => (self.left == 2, size),
            Form::TableBranch { size, .. } => (true, size),
            Form::Dual { load, .. } | Form::Multiple { load, .. } | Form::Vector { load, .. } => {
                (load, 4)
            }
            Form::Return { .. } => (true, 4),
            Form::Save { .. } => (false, 4),
            Form::Structure(structure) => (structure.load, structure.width()),
        }
    }

    /// Puts what was loaded where it belongs.
    fn loaded<B: Banks + Vectors>(&mut self, value: u32, gprs: &mut Gprs<'_, B>) {
        let first = self.left == 2;
        let big_endian = gprs.regs.big_endian();
        match self.op.form {
            Form::Dual { t, t2, at, .. } => {
                self.load(gprs, if first { t } else { t2 }, at.n() as u8, value);
            }
            Form::Exclusive { t, t2, n, size, .. } => {
                let second = size == 8 && !first;
                self.load(gprs, if second { t2 } else { t }, n, value);
            }
            Form::Swap { t, .. } => self.at_the_end(t, value),
            Form::TableBranch { .. } => self.jump_to(value),
            Form::Multiple { n, .. } => {
                self.load(gprs, self.list.trailing_zeros() as u8, n, value);
            }
            Form::Return { .. } if first => self.jump_to(value),
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
            self.jump_to(value);
        } else if t == n {
            self.at_the_end(t, value);
        } else {
            self.set_banked(gprs, t, value);
        }
    }

    /// Has register `n` written at the end.
    fn at_the_end(&mut self, n: u8, value: u32) {
        (self.n, self.last) = (n, value);
    }

    /// Has the guest go on at `target`.
    pub(super) fn jump_to(&mut self, target: u32) {
        (self.target, self.end) = (target, End::Jump);
    }

    /// The mode whose registers are transferred or written back.
    fn mode(&self, regs: &Regs) -> u32 {
        match self.op.form {
            Form::Multiple {
                bank: Bank::User, ..
            } => mode::USR,
            Form::Save { mode, .. } => u32::from(mode),
            _ => regs.mode(),
        }
    }

    /// Writes register `n` of the bank that is transferred.
    fn set_banked<B: Banks>(&self, gprs: &mut Gprs<'_, B>, n: u8, value: u32) {
        let mode = self.mode(gprs.regs);
        set_in(gprs, mode, u32::from(n), value);
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
fn exception_return(regs: &Regs, target: u32, value: u32) -> Result<Destination, Reason> {
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
