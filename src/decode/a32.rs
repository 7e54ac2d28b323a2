//! The loads and stores of A32 (ARM DDI 0406C, A5.2.8 to A5.7).

use super::Reason::{self, *};
use super::single::{
    BEFORE, BYTE, HALF, LOAD, OPERANDS, REGISTER, SIGNED, UNPRIVILEGED, UP, WRITE,
};
use super::{Address, Bank, Block, Form, Single};
use super::{bit, refuse_if, reg, vector};
use crate::regs::mode;

pub(super) fn decode(w: u32) -> Result<Form, Reason> {
    if w >> 28 == 15 {
        return unconditional(w);
    }
    match w >> 25 & 7 {
        2 | 3 => single(w).map(Form::Single),
        4 => multiple(w),
        0 if w & 0x90 == 0x90 => extra(w),
        6 => vector::coprocessor(w, false),
        _ => Err(NotMemory),
    }
}

/// A5.3: whether it is LDR, STR, LDRB, STRB or an unprivileged form of theirs; or a media
/// instruction, which [`single`] tells apart.
#[inline]
pub(super) const fn is_single(w: u32) -> bool {
    w & 0x0c00_0000 == 0x0400_0000 && w < 0xf000_0000
}

/// Decodes one.
pub(super) fn single(w: u32) -> Result<Single, Reason> {
    single_of(w, true)
}

/// The same; `pc` says whether the register transferred can be pc.
#[inline(always)]
pub(super) fn single_of(w: u32, pc: bool) -> Result<Single, Reason> {
    let bits = w & (REGISTER | BEFORE | UP | BYTE | WRITE | LOAD | OPERANDS);
    let (t, n) = (w >> 12 & 15, w >> 16 & 15);
    let mut single = Single::new(bits);
    if w & REGISTER != 0 {
        refuse_if(bit(w, 4), NotMemory)?;
        refuse_if(w & 15 == 15, Pc)?;
    }
    if single.at().writeback() {
        refuse_if(n == 15, Pc)?;
        refuse_if(n == t, Overlap)?;
        if w & BEFORE == 0 && w & WRITE != 0 {
            refuse_if(pc && t == 15 && single.load(), Pc)?;
            single = Single::new(bits | UNPRIVILEGED);
        }
    }
    refuse_if(pc && t == 15 && w & BYTE != 0, Pc)?;
    Ok(single)
}

/// A5.2.8 and A5.2.9: halfwords, signed loads, LDRD and STRD; A5.2.10 in the rest of that space.
fn extra(w: u32) -> Result<Form, Reason> {
    let sh = w >> 5 & 3;
    if sh == 0 {
        return if bit(w, 24) {
            synchronization(w)
        } else {
            Err(NotMemory)
        };
    }
    let (t, n, m) = (reg(w, 12), reg(w, 16), reg(w, 0));
    let (immediate, unprivileged) = (bit(w, 22), w & (BEFORE | WRITE) == WRITE);
    let dual = sh != 1 && w & LOAD == 0;
    if dual {
        refuse_if(t & 1 != 0 || t == 14, Pair)?;
        refuse_if(unprivileged, Unpredictable)?;
    }
    let offset = if immediate {
        w >> 4 & 0xf0 | w & 15
    } else {
        refuse_if(w & 0xf00 != 0, ShouldBe)?;
        refuse_if(m == 15, Pc)?;
        REGISTER | w & 15
    };
    let bits = w & (BEFORE | UP | WRITE | LOAD | OPERANDS & !0xfff) | offset;
    let at = Address::new(bits);
    refuse_if(at.writeback() && n == 15, Pc)?;
    refuse_if(at.writeback() && n == t, Overlap)?;
    if dual {
        let (load, t2) = (sh == 2, t | 1);
        refuse_if(load && !immediate && (m == t || m == t2), Overlap)?;
        refuse_if(at.writeback() && n == t2, Overlap)?;
        return Ok(Form::Dual { load, t, t2, at });
    }
    refuse_if(t == 15, Pc)?;
    let kind = match sh {
        1 => HALF,
        2 => SIGNED | BYTE,
        _ => SIGNED | HALF,
    };
    let rights = if unprivileged { UNPRIVILEGED } else { 0 };
    Ok(Form::Single(Single::new(bits | kind | rights)))
}

/// A5.2.10: SWP, LDREX, STREX.
fn synchronization(w: u32) -> Result<Form, Reason> {
    let (n, d, low) = (reg(w, 16), reg(w, 12), reg(w, 0));
    if !bit(w, 23) {
        refuse_if(w & 0x30_0000 != 0, Undefined)?;
        refuse_if(w & 0xf00 != 0, ShouldBe)?;
        refuse_if(d == 15 || low == 15 || n == 15, Pc)?;
        refuse_if(n == d || n == low, Overlap)?;
        return Ok(Form::Swap {
            size: if bit(w, 22) { 1 } else { 4 },
            t: d,
            t2: low,
            n,
        });
    }
    let load = bit(w, 20);
    let size = [4, 8, 1, 2][(w >> 21 & 3) as usize];
    refuse_if(w & 0xf00 != 0xf00 || load && low != 15, ShouldBe)?;
    let (d, t) = if load { (15, d) } else { (d, low) };
    refuse_if(n == 15 || t == 15 || !load && d == 15, Pc)?;
    let t2 = if size == 8 { t | 1 } else { 15 };
    refuse_if(size == 8 && (t & 1 != 0 || t2 == 15), Pair)?;
    refuse_if(!load && (d == n || d == t || d == t2), Overlap)?;
    Ok(Form::Exclusive {
        load,
        size,
        d,
        t,
        t2,
        n,
        offset: 0,
    })
}

/// A5.5: LDM, STM.
fn multiple(w: u32) -> Result<Form, Reason> {
    let (load, list, n, block) = (bit(w, 20), (w & 0xffff) as u16, reg(w, 16), block(w));
    let bank = match bit(w, 22) {
        false => Bank::Current,
        true if load && bit(w, 15) => Bank::Return,
        true => Bank::User,
    };
    refuse_if(n == 15, Pc)?;
    refuse_if(list == 0, List)?;
    refuse_if(bank == Bank::User && block.writeback, ShouldBe)?;
    refuse_if(load && block.writeback && list >> n & 1 != 0, Overlap)?;
    Ok(Form::Multiple {
        load,
        list,
        bank,
        n,
        block,
    })
}

/// A5.7: RFE, SRS, the hints and the structures.
fn unconditional(w: u32) -> Result<Form, Reason> {
    match w >> 25 & 7 {
        2 | 3 if bit(w, 24) || bit(w, 20) => hint(w),
        2 => vector::structure(w),
        4 if w & (1 << 22 | 1 << 20) == 1 << 20 => {
            refuse_if(w & 0xffff != 0x0a00, ShouldBe)?;
            refuse_if(reg(w, 16) == 15, Pc)?;
            Ok(Form::Return {
                n: reg(w, 16),
                block: block(w),
            })
        }
        4 if w & (1 << 22 | 1 << 20) == 1 << 22 => {
            refuse_if(w & 0xf_ffe0 != 0xd_0500, ShouldBe)?;
            save(w, block(w))
        }
        4 => Err(Undefined),
        6 if w & 0x01a0_0000 == 0 => Err(NotMemory),
        6 if w >> 9 & 7 == 5 => Err(Undefined),
        6 => Err(Coprocessor),
        _ => Err(NotMemory),
    }
}

/// SRS on the stack of the mode in bits 4:0, which is one that a guest can be in.
pub(super) fn save(w: u32, block: Block) -> Result<Form, Reason> {
    match w & mode::MASK {
        mode::USR | mode::FIQ | mode::IRQ | mode::SVC | mode::ABT | mode::UND | mode::SYS => {
            Ok(Form::Save {
                mode: (w & mode::MASK) as u8,
                block,
            })
        }
        _ => Err(Mode),
    }
}

/// A5.7.1: PLD, PLDW, PLI, the unallocated hints and what lies between them.
fn hint(w: u32) -> Result<Form, Reason> {
    let by_register = bit(w, 25);
    if by_register && bit(w, 4) || !bit(w, 20) {
        return Err(NotMemory);
    }
    if bit(w, 21) {
        let barrier = w & 0x0ff0_0000 == 0x0570_0000;
        return Err(if barrier { NotMemory } else { Unpredictable });
    }
    let (data, read) = (bit(w, 24), bit(w, 22));
    if data || read {
        refuse_if(reg(w, 12) != 15, ShouldBe)?;
        refuse_if(by_register && reg(w, 0) == 15, Pc)?;
        refuse_if(data && !read && reg(w, 16) == 15, Pc)?;
    }
    Ok(Form::Hint)
}

/// Bits P, U and W of the forms that transfer a block.
fn block(w: u32) -> Block {
    Block {
        up: bit(w, 23),
        before: bit(w, 24),
        writeback: bit(w, 21),
    }
}
