//! The loads and stores of 32-bit Thumb (ARM DDI 0406C, A6.3.5 to A6.3.10).

use super::Reason::{self, *};
use super::single::{BEFORE, BYTE, HALF, LOAD, REGISTER, SIGNED, UNPRIVILEGED, UP, WRITE};
use super::{Address, Bank, Block, Form, Single};
use super::{a32, bit, refuse_if, reg, vector};

pub(super) fn decode(w: u32) -> Result<Form, Reason> {
    match w >> 24 {
        0xe8 | 0xe9 if bit(w, 22) => dual_or_exclusive(w),
        0xe8 | 0xe9 => multiple(w),
        0xf9 if !bit(w, 20) => vector::structure(w),
        0xf8 | 0xf9 => single(w),
        0xec | 0xed => vector::coprocessor(w, true),
        0xfc | 0xfd if w & 0x01a0_0000 == 0 => Err(NotMemory),
        0xfc | 0xfd if w >> 9 & 7 == 5 => Err(Undefined),
        0xfc | 0xfd => Err(Coprocessor),
        _ => Err(NotMemory),
    }
}

/// Refuses sp and pc, which Thumb keeps out of most operands.
fn plain(n: u8) -> Result<(), Reason> {
    match n {
        13 => Err(Sp),
        15 => Err(Pc),
        _ => Ok(()),
    }
}

/// A6.3.5: LDM, STM, RFE, SRS.
fn multiple(w: u32) -> Result<Form, Reason> {
    let (load, n, list) = (bit(w, 20), reg(w, 16), (w & 0xffff) as u16);
    let block = Block {
        up: bit(w, 23),
        before: !bit(w, 23),
        writeback: bit(w, 21),
    };
    if bit(w, 24) == bit(w, 23) {
        return if load {
            refuse_if(w & 0xffff != 0xc000, ShouldBe)?;
            refuse_if(n == 15, Pc)?;
            Ok(Form::Return { n, block })
        } else {
            refuse_if(w & 0xf_ffe0 != 0xd_c000, ShouldBe)?;
            a32::save(w, block)
        };
    }
    refuse_if(n == 15, Pc)?;
    refuse_if(bit(w, 13) || bit(w, 15) && !load, ShouldBe)?;
    refuse_if(list & (list.wrapping_sub(1)) == 0 || list >> 14 == 3, List)?;
    refuse_if(block.writeback && list >> n & 1 != 0, Overlap)?;
    Ok(Form::Multiple {
        load,
        list,
        bank: Bank::Current,
        n,
        block,
    })
}

/// A6.3.6: LDRD, STRD, LDREX, STREX, TBB, TBH.
fn dual_or_exclusive(w: u32) -> Result<Form, Reason> {
    let (load, n, t, t2) = (bit(w, 20), reg(w, 16), reg(w, 12), reg(w, 8));
    if !bit(w, 24) && !bit(w, 21) {
        if bit(w, 23) {
            return sized_exclusive(w);
        }
        let d = if load { 15 } else { t2 };
        return exclusive(load, 4, d, t, t2, n, (w & 0xff) << 2, load);
    }
    let at = Address::new(w & (BEFORE | UP | WRITE | 0xf_0000) | (w & 0xff) << 2);
    refuse_if(n == 15 && (!load || at.writeback()), Pc)?;
    plain(t)?;
    plain(t2)?;
    refuse_if(load && t == t2, Pair)?;
    refuse_if(at.writeback() && (n == t || n == t2), Overlap)?;
    Ok(Form::Dual { load, t, t2, at })
}

/// The exclusives of other sizes than a word, TBB and TBH: bits 7:4 say which.
fn sized_exclusive(w: u32) -> Result<Form, Reason> {
    let (load, n, t, t2, low) = (bit(w, 20), reg(w, 16), reg(w, 12), reg(w, 8), reg(w, 0));
    let size = match w >> 4 & 15 {
        kind @ (0 | 1) if load => {
            refuse_if(w & 0xff00 != 0xf000, ShouldBe)?;
            refuse_if(n == 13, Sp)?;
            plain(low)?;
            let size = 1 << kind;
            return Ok(Form::TableBranch { size, n, m: low });
        }
        4 => 1,
        5 => 2,
        7 => 8,
        _ => return Err(Undefined),
    };
    refuse_if(load && low != 15, ShouldBe)?;
    exclusive(load, size, low, t, t2, n, 0, size != 8)
}

/// `single` is whether `t2` should be all ones, naming no register.
#[expect(clippy::too_many_arguments, reason = "each is a field of the encoding")]
fn exclusive(
    load: bool,
    size: u8,
    d: u8,
    t: u8,
    t2: u8,
    n: u8,
    offset: u32,
    single: bool,
) -> Result<Form, Reason> {
    refuse_if(single && t2 != 15, ShouldBe)?;
    refuse_if(n == 15, Pc)?;
    plain(t)?;
    let t2 = if size == 8 { t2 } else { 15 };
    if size == 8 {
        plain(t2)?;
        refuse_if(load && t == t2, Pair)?;
    }
    if !load {
        plain(d)?;
        refuse_if(d == n || d == t || d == t2, Overlap)?;
    }
    Ok(Form::Exclusive {
        load,
        size,
        d,
        t,
        t2,
        n,
        offset: offset as u16,
    })
}

/// A6.3.7 to A6.3.10: bytes, halfwords and words, and the hints among them.
fn single(w: u32) -> Result<Form, Reason> {
    let (load, signed, n, t) = (bit(w, 20), bit(w, 24), reg(w, 16), reg(w, 12));
    let (kind, word) = match w >> 21 & 3 {
        0 => (BYTE, false),
        1 => (HALF, false),
        2 if !signed => (0, true),
        _ => return Err(Undefined),
    };
    refuse_if(!load && n == 15, Undefined)?;
    let sign = if signed { SIGNED } else { 0 };
    let bits = kind | sign | w & (LOAD | 0xf_f000) | addressing(w, load && n == 15)?;
    let single = Single::new(bits);
    let (writeback, unprivileged) = (single.at().writeback(), single.unprivileged());
    if load && t == 15 && !word && !writeback && !unprivileged {
        // PLDW has no literal form: its bit should be zero there.
        refuse_if(n == 15 && kind == HALF && !signed, ShouldBe)?;
        return Ok(Form::Hint);
    }
    refuse_if(t == 13 && (!word || unprivileged), Sp)?;
    refuse_if(t == 15 && (!word || unprivileged || !load), Pc)?;
    refuse_if(writeback && n == t, Overlap)?;
    Ok(Form::Single(single))
}

/// The bits of [`Single`] that say how the address is formed, and whether with User mode's rights.
fn addressing(w: u32, literal: bool) -> Result<u32, Reason> {
    if literal || bit(w, 23) {
        return Ok(BEFORE | w & (UP | 0xfff));
    }
    if bit(w, 11) {
        let offset = w & 0xff | if bit(w, 9) { UP } else { 0 };
        return match w >> 8 & 7 {
            0b110 => Ok(offset | BEFORE | UNPRIVILEGED),
            0b100 => Ok(offset | BEFORE),
            0b101 | 0b111 => Ok(offset | BEFORE | WRITE),
            0b001 | 0b011 => Ok(offset),
            _ => Err(Undefined),
        };
    }
    refuse_if(w & 0xfc0 != 0, Undefined)?;
    plain(reg(w, 0))?;
    Ok(REGISTER | BEFORE | UP | (w >> 4 & 3) << 7 | w & 15)
}
