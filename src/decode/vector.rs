//! The loads and stores of the extension registers, the same bits in A32 and T32 but for those that
//! select the space (ARM DDI 0406C, A7.6 and A7.7).

use super::Reason::{self, *};
use super::{Form, Lanes, Structure};
use super::{bit, refuse_if, reg};

/// A7.6: VLDR, VSTR, VLDM, VSTM; LDC and STC in the same space.
pub(super) fn coprocessor(w: u32, thumb: bool) -> Result<Form, Reason> {
    let (p, u, writeback, load) = (bit(w, 24), bit(w, 23), bit(w, 21), bit(w, 20));
    refuse_if(!p && !u && !writeback, NotMemory)?;
    refuse_if(w >> 9 & 7 != 5, Coprocessor)?;
    refuse_if(p == u && writeback, Undefined)?;
    let (double, n, imm8) = (bit(w, 8), reg(w, 16), (w & 0xff) as u8);
    let one = p && !writeback;
    let first = if double {
        w >> 17 & 0x20 | w >> 11 & 0x1e
    } else {
        w >> 11 & 0x1e | w >> 22 & 1
    } as u8;
    let words = match (one, double) {
        (true, true) => 2,
        (true, false) => 1,
        (false, true) => imm8 & !1,
        (false, false) => imm8,
    };
    // Only VLDR has a literal form; A32 still has the others where nothing is written back.
    refuse_if(n == 15 && (writeback || thumb && !(one && load)), Pc)?;
    refuse_if(words == 0 || words > 32, List)?;
    // FLDMX and FSTMX, of an odd number of words, know sixteen registers.
    let end = if double && (one || imm8 & 1 == 0) {
        64
    } else {
        32
    };
    refuse_if(first + words > end, Range)?;
    let bytes = i16::from(imm8) << 2;
    let bytes = if u { bytes } else { -bytes };
    Ok(Form::Vector {
        load,
        double,
        first,
        words,
        n,
        offset: if one || !u { bytes } else { 0 },
        step: if writeback { bytes } else { 0 },
    })
}

/// A7.7: VLD1 to VLD4, VST1 to VST4.
pub(super) fn structure(w: u32) -> Result<Form, Reason> {
    let shape = match (bit(w, 23), w >> 10 & 3) {
        (false, _) => multiple(w)?,
        (true, 3) => all_lanes(w)?,
        (true, _) => one_lane(w)?,
    };
    let structure = Structure {
        load: bit(w, 21),
        d: reg(w, 12) | (w >> 18 & 16) as u8,
        n: reg(w, 16),
        m: reg(w, 0),
        ..shape
    };
    let (Lanes::Whole(regs) | Lanes::All(regs)) = structure.lanes else {
        return in_range(structure, 1);
    };
    in_range(structure, regs)
}

fn in_range(structure: Structure, regs: u8) -> Result<Form, Reason> {
    refuse_if(structure.n == 15, Pc)?;
    let last = structure.d + (structure.count - 1) * structure.spacing + regs - 1;
    refuse_if(last > 31, Range)?;
    Ok(Form::Structure(structure))
}

/// A shape still without its registers.
fn shape(size: u8, count: u8, spacing: u8, lanes: Lanes, alignment: u8) -> Structure {
    Structure {
        load: false,
        size,
        count,
        spacing,
        lanes,
        d: 0,
        n: 0,
        m: 0,
        alignment,
    }
}

/// Table A7-20: all lanes of one to four registers, or of pairs.
fn multiple(w: u32) -> Result<Structure, Reason> {
    let (size, align) = (w >> 6 & 3, w >> 4 & 3);
    let (count, spacing, regs, widest) = match w >> 8 & 15 {
        0b0111 => (1, 1, 1, 1),
        0b1010 => (1, 1, 2, 2),
        0b0110 => (1, 1, 3, 1),
        0b0010 => (1, 1, 4, 3),
        0b1000 => (2, 1, 1, 2),
        0b1001 => (2, 2, 1, 2),
        0b0011 => (2, 2, 2, 3),
        0b0100 => (3, 1, 1, 1),
        0b0101 => (3, 2, 1, 1),
        0b0000 => (4, 1, 1, 3),
        0b0001 => (4, 2, 1, 3),
        _ => return Err(Undefined),
    };
    refuse_if(align > widest || count > 1 && size == 3, Undefined)?;
    let alignment = if align == 0 { 1 } else { 4 << align };
    Ok(shape(
        1 << size,
        count,
        spacing,
        Lanes::Whole(regs),
        alignment,
    ))
}

/// Table A7-21: one lane. Bits 7:4 hold its number, the spacing and the alignment.
fn one_lane(w: u32) -> Result<Structure, Reason> {
    let (size, count, low) = (w >> 10 & 3, (w >> 8 & 3) as u8 + 1, w >> 4 & 15);
    let lane = (low >> (size + 1)) as u8;
    let spacing = if size > 0 && low >> size & 1 != 0 {
        2
    } else {
        1
    };
    let bytes = 1u8 << size;
    // What is left below the spacing bit selects the alignment.
    let hint = low & ((1 << size.max(1)) - 1);
    let alignment = match (count, size, hint) {
        (_, _, 0) => 1,
        (1, 1, 1) => 2,
        (1, 2, 3) => 4,
        (2, _, 1) => bytes * 2,
        (4, 2, 2) => 16,
        (4, _, 1) => {
            if size == 2 {
                8
            } else {
                bytes * 4
            }
        }
        _ => return Err(Undefined),
    };
    refuse_if(count == 1 && spacing == 2, Undefined)?;
    Ok(shape(bytes, count, spacing, Lanes::One(lane), alignment))
}

/// Table A7-21: one structure to all lanes, loads only.
fn all_lanes(w: u32) -> Result<Structure, Reason> {
    let (size, count, aligned, t) = (w >> 6 & 3, (w >> 8 & 3) as u8 + 1, bit(w, 4), bit(w, 5));
    refuse_if(!bit(w, 21), Undefined)?;
    refuse_if(size == 3 && !(count == 4 && aligned), Undefined)?;
    refuse_if(
        aligned && (count == 3 || count == 1 && size == 0),
        Undefined,
    )?;
    let bytes = if size == 3 { 4 } else { 1u8 << size };
    let alignment = match (aligned, count, size) {
        (false, _, _) => 1,
        (true, 4, 3) => 16,
        (true, 4, 2) => 8,
        (true, _, _) => bytes * count,
    };
    let wide = if t { 2 } else { 1 };
    let (spacing, regs) = if count == 1 { (1, wide) } else { (wide, 1) };
    Ok(shape(bytes, count, spacing, Lanes::All(regs), alignment))
}
