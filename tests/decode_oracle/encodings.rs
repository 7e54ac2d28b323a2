//! The loads and stores of ARM DDI 0406C, one line per encoding of chapters A8 and B9, in the order
//! in which one is to be looked up ("SEE").
//!
//! Written from the pages of the instructions, while the decoder follows the tables of A5 to A7,
//! so that they have no line in common. A pattern has one character per bit: `0` and `1` select
//! the encoding, `z` and `o` should be zero and one, other letters are fields. The rule says when
//! the page calls the encoding UNDEFINED or UNPREDICTABLE.

use Class::*;

/// What an encoding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// A load or a store.
    Transfer,
    /// A memory hint.
    Hint,
    /// Among the loads and stores, but never performed.
    Refused,
}

/// One encoding.
pub(crate) struct Encoding {
    /// The page's title.
    pub name: &'static str,
    /// What it is.
    pub class: Class,
    /// The bits that select it.
    pub mask: u32,
    /// Their values.
    pub value: u32,
    /// The bits that should be zero or one.
    pub should_mask: u32,
    /// Their values.
    pub should_value: u32,
    /// Whether it is UNDEFINED or UNPREDICTABLE.
    pub refused: fn(u32) -> bool,
}

type Line = (Class, &'static str, &'static str, fn(u32) -> bool);

fn encoding(prefix: &str, &(class, name, pattern, refused): &Line) -> Encoding {
    let bits: String = (prefix.to_owned() + pattern).split_whitespace().collect();
    assert_eq!(bits.len() % 16, 0, "{name}");
    let of = |set: &str| {
        bits.chars()
            .fold(0, |word, c| word << 1 | u32::from(set.contains(c)))
    };
    Encoding {
        name,
        class,
        mask: of("01"),
        value: of("1"),
        should_mask: of("zo"),
        should_value: of("o"),
        refused,
    }
}

/// Encodings that can be looked up by word.
pub(crate) struct Table {
    encodings: Vec<Encoding>,
    /// By bits 31:20 and 7:4, the encodings that can match.
    buckets: Vec<Vec<u16>>,
}

impl Table {
    fn new(encodings: Vec<Encoding>) -> Self {
        const SELECT: u32 = 0xfff0_00f0;
        let buckets = (0..1u32 << 16)
            .map(|bucket| {
                let word = (bucket & 0xfff0) << 16 | (bucket & 15) << 4;
                (0..encodings.len() as u16)
                    .filter(|&i| {
                        let e = &encodings[usize::from(i)];
                        (word ^ e.value) & e.mask & SELECT == 0
                    })
                    .collect()
            })
            .collect();
        Self { encodings, buckets }
    }

    /// The encoding of a word, and whether it is performed.
    pub(crate) fn find(&self, word: u32) -> Option<(&Encoding, bool)> {
        let bucket = (word >> 16 & 0xfff0 | word >> 4 & 15) as usize;
        let encoding = self.buckets[bucket]
            .iter()
            .map(|&i| &self.encodings[usize::from(i)])
            .find(|e| word & e.mask == e.value)?;
        let performed = encoding.class != Refused
            && word & encoding.should_mask == encoding.should_value
            && !(encoding.refused)(word);
        Some((encoding, performed))
    }

    /// All of them.
    pub(crate) fn encodings(&self) -> &[Encoding] {
        &self.encodings
    }
}

/// A32.
pub(crate) fn a32() -> Table {
    let mut all: Vec<_> = A32.iter().map(|line| encoding("", line)).collect();
    // "cond" is any but 1111, which has lines of its own, and those come first.
    all.extend(STRUCTURE.iter().map(|line| encoding("1111 0100", line)));
    all.extend(UNCONDITIONAL.iter().map(|line| encoding("1111", line)));
    all.rotate_left(A32.len());
    all.extend(VECTOR.iter().map(|line| encoding("cccc 110", line)));
    Table::new(all)
}

/// T32, the first halfword in bits 31:16.
pub(crate) fn t32() -> Table {
    let mut all: Vec<_> = T32.iter().map(|line| encoding("", line)).collect();
    all.extend(STRUCTURE.iter().map(|line| encoding("1111 1001", line)));
    all.extend(THUMB_VECTOR.iter().map(|line| encoding("1110 110", line)));
    all.extend(VECTOR.iter().map(|line| encoding("1110 110", line)));
    Table::new(all)
}

/// T16, in bits 15:0.
pub(crate) fn t16() -> Table {
    Table::new(
        T16.iter()
            .map(|line| encoding("0000 0000 0000 0000", line))
            .collect(),
    )
}

const fn field(w: u32, low: u32, bits: u32) -> u32 {
    w >> low & ((1 << bits) - 1)
}
/// Bits 19:16.
const fn n(w: u32) -> u32 {
    field(w, 16, 4)
}
/// Bits 15:12.
const fn t(w: u32) -> u32 {
    field(w, 12, 4)
}
/// Bits 11:8.
const fn t2(w: u32) -> u32 {
    field(w, 8, 4)
}
/// Bits 3:0.
const fn m(w: u32) -> u32 {
    field(w, 0, 4)
}
const fn p(w: u32) -> bool {
    field(w, 24, 1) == 1
}
const fn wbit(w: u32) -> bool {
    field(w, 21, 1) == 1
}
/// Writeback of A32's and of LDRD's forms.
const fn wb(w: u32) -> bool {
    !p(w) || wbit(w)
}
const fn listed(w: u32, n: u32) -> bool {
    w & 0xffff & (1 << n) != 0
}
const fn count(w: u32) -> u32 {
    (w & 0xffff).count_ones()
}
const fn never(_: u32) -> bool {
    false
}
const fn odd(r: u32) -> bool {
    r & 1 == 1
}
/// sp or pc.
const fn bad(r: u32) -> bool {
    r == 13 || r == 15
}
/// A mode that SRS can't name: not one of the architecture, Monitor or Hyp.
fn no_stack(w: u32) -> bool {
    ![0x10, 0x11, 0x12, 0x13, 0x17, 0x1b, 0x1f].contains(&(w & 31))
}

fn dual(w: u32) -> bool {
    let (n, t) = (n(w), t(w));
    odd(t) || t + 1 == 15 || !p(w) && wbit(w) || wb(w) && (n == t || n == t + 1)
}
fn exclusive_store(w: u32) -> bool {
    t(w) == 15 || m(w) == 15 || n(w) == 15 || t(w) == n(w) || t(w) == m(w)
}

#[rustfmt::skip]
const A32: &[Line] = &[
    (Transfer, "STRT A1", "cccc 0100 u010 nnnn tttt iiii iiii iiii", |w| n(w) == 15 || n(w) == t(w)),
    (Transfer, "STRT A2", "cccc 0110 u010 nnnn tttt iiii iss0 mmmm", |w| n(w) == 15 || n(w) == t(w) || m(w) == 15),
    (Transfer, "LDRT A1", "cccc 0100 u011 nnnn tttt iiii iiii iiii", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w)),
    (Transfer, "LDRT A2", "cccc 0110 u011 nnnn tttt iiii iss0 mmmm", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w) || m(w) == 15),
    (Transfer, "STRBT A1", "cccc 0100 u110 nnnn tttt iiii iiii iiii", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w)),
    (Transfer, "STRBT A2", "cccc 0110 u110 nnnn tttt iiii iss0 mmmm", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w) || m(w) == 15),
    (Transfer, "LDRBT A1", "cccc 0100 u111 nnnn tttt iiii iiii iiii", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w)),
    (Transfer, "LDRBT A2", "cccc 0110 u111 nnnn tttt iiii iss0 mmmm", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w) || m(w) == 15),
    (Transfer, "STR (immediate) A1", "cccc 010p u0w0 nnnn tttt iiii iiii iiii", |w| wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "STR (register) A1", "cccc 011p u0w0 nnnn tttt iiii iss0 mmmm", |w| m(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "LDR (literal) A1", "cccc 010o u0z1 1111 tttt iiii iiii iiii", never),
    (Transfer, "LDR (immediate) A1", "cccc 010p u0w1 nnnn tttt iiii iiii iiii", |w| wb(w) && n(w) == t(w)),
    (Transfer, "LDR (register) A1", "cccc 011p u0w1 nnnn tttt iiii iss0 mmmm", |w| m(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "STRB (immediate) A1", "cccc 010p u1w0 nnnn tttt iiii iiii iiii", |w| t(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "STRB (register) A1", "cccc 011p u1w0 nnnn tttt iiii iss0 mmmm", |w| t(w) == 15 || m(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "LDRB (literal) A1", "cccc 010o u1z1 1111 tttt iiii iiii iiii", |w| t(w) == 15),
    (Transfer, "LDRB (immediate) A1", "cccc 010p u1w1 nnnn tttt iiii iiii iiii", |w| t(w) == 15 || wb(w) && n(w) == t(w)),
    (Transfer, "LDRB (register) A1", "cccc 011p u1w1 nnnn tttt iiii iss0 mmmm", |w| t(w) == 15 || m(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "STRHT A1", "cccc 0000 u110 nnnn tttt iiii 1011 iiii", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w)),
    (Transfer, "STRHT A2", "cccc 0000 u010 nnnn tttt zzzz 1011 mmmm", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w) || m(w) == 15),
    (Transfer, "LDRHT A1", "cccc 0000 u111 nnnn tttt iiii 1011 iiii", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w)),
    (Transfer, "LDRHT A2", "cccc 0000 u011 nnnn tttt zzzz 1011 mmmm", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w) || m(w) == 15),
    (Transfer, "LDRSBT A1", "cccc 0000 u111 nnnn tttt iiii 1101 iiii", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w)),
    (Transfer, "LDRSBT A2", "cccc 0000 u011 nnnn tttt zzzz 1101 mmmm", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w) || m(w) == 15),
    (Transfer, "LDRSHT A1", "cccc 0000 u111 nnnn tttt iiii 1111 iiii", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w)),
    (Transfer, "LDRSHT A2", "cccc 0000 u011 nnnn tttt zzzz 1111 mmmm", |w| t(w) == 15 || n(w) == 15 || n(w) == t(w) || m(w) == 15),
    (Transfer, "STRH (immediate) A1", "cccc 000p u1w0 nnnn tttt iiii 1011 iiii", |w| t(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "STRH (register) A1", "cccc 000p u0w0 nnnn tttt zzzz 1011 mmmm", |w| t(w) == 15 || m(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "LDRH (literal) A1", "cccc 000o u1z1 1111 tttt iiii 1011 iiii", |w| t(w) == 15),
    (Transfer, "LDRH (immediate) A1", "cccc 000p u1w1 nnnn tttt iiii 1011 iiii", |w| t(w) == 15 || wb(w) && n(w) == t(w)),
    (Transfer, "LDRH (register) A1", "cccc 000p u0w1 nnnn tttt zzzz 1011 mmmm", |w| t(w) == 15 || m(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "LDRSB (literal) A1", "cccc 000o u1z1 1111 tttt iiii 1101 iiii", |w| t(w) == 15),
    (Transfer, "LDRSB (immediate) A1", "cccc 000p u1w1 nnnn tttt iiii 1101 iiii", |w| t(w) == 15 || wb(w) && n(w) == t(w)),
    (Transfer, "LDRSB (register) A1", "cccc 000p u0w1 nnnn tttt zzzz 1101 mmmm", |w| t(w) == 15 || m(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "LDRSH (literal) A1", "cccc 000o u1z1 1111 tttt iiii 1111 iiii", |w| t(w) == 15),
    (Transfer, "LDRSH (immediate) A1", "cccc 000p u1w1 nnnn tttt iiii 1111 iiii", |w| t(w) == 15 || wb(w) && n(w) == t(w)),
    (Transfer, "LDRSH (register) A1", "cccc 000p u0w1 nnnn tttt zzzz 1111 mmmm", |w| t(w) == 15 || m(w) == 15 || wb(w) && (n(w) == 15 || n(w) == t(w))),
    (Transfer, "LDRD (literal) A1", "cccc 000o u1z0 1111 tttt iiii 1101 iiii", |w| odd(t(w)) || t(w) == 14),
    (Transfer, "LDRD (immediate) A1", "cccc 000p u1w0 nnnn tttt iiii 1101 iiii", dual),
    (Transfer, "LDRD (register) A1", "cccc 000p u0w0 nnnn tttt zzzz 1101 mmmm", |w| dual(w) || m(w) == 15 || m(w) == t(w) || m(w) == t(w) + 1 || wb(w) && n(w) == 15),
    (Transfer, "STRD (immediate) A1", "cccc 000p u1w0 nnnn tttt iiii 1111 iiii", |w| dual(w) || wb(w) && n(w) == 15),
    (Transfer, "STRD (register) A1", "cccc 000p u0w0 nnnn tttt zzzz 1111 mmmm", |w| dual(w) || m(w) == 15 || wb(w) && n(w) == 15),
    (Transfer, "SWP, SWPB A1", "cccc 0001 0b00 nnnn tttt zzzz 1001 mmmm", |w| t(w) == 15 || m(w) == 15 || n(w) == 15 || n(w) == t(w) || n(w) == m(w)),
    (Transfer, "STREX A1", "cccc 0001 1000 nnnn dddd oooo 1001 tttt", exclusive_store),
    (Transfer, "LDREX A1", "cccc 0001 1001 nnnn tttt oooo 1001 oooo", |w| t(w) == 15 || n(w) == 15),
    (Transfer, "STREXD A1", "cccc 0001 1010 nnnn dddd oooo 1001 tttt", |w| t(w) == 15 || odd(m(w)) || m(w) == 14 || n(w) == 15 || t(w) == n(w) || t(w) == m(w) || t(w) == m(w) + 1),
    (Transfer, "LDREXD A1", "cccc 0001 1011 nnnn tttt oooo 1001 oooo", |w| odd(t(w)) || t(w) == 14 || n(w) == 15),
    (Transfer, "STREXB A1", "cccc 0001 1100 nnnn dddd oooo 1001 tttt", exclusive_store),
    (Transfer, "LDREXB A1", "cccc 0001 1101 nnnn tttt oooo 1001 oooo", |w| t(w) == 15 || n(w) == 15),
    (Transfer, "STREXH A1", "cccc 0001 1110 nnnn dddd oooo 1001 tttt", exclusive_store),
    (Transfer, "LDREXH A1", "cccc 0001 1111 nnnn tttt oooo 1001 oooo", |w| t(w) == 15 || n(w) == 15),
    (Transfer, "STM, STMDA, STMDB, STMIB A1", "cccc 100p u0w0 nnnn rrrr rrrr rrrr rrrr", |w| n(w) == 15 || count(w) < 1),
    (Transfer, "LDM, LDMDA, LDMDB, LDMIB A1", "cccc 100p u0w1 nnnn rrrr rrrr rrrr rrrr", |w| n(w) == 15 || count(w) < 1 || wbit(w) && listed(w, n(w))),
    (Transfer, "STM (User registers) A1", "cccc 100p u1z0 nnnn rrrr rrrr rrrr rrrr", |w| n(w) == 15 || count(w) < 1),
    (Transfer, "LDM (User registers) A1", "cccc 100p u1z1 nnnn 0rrr rrrr rrrr rrrr", |w| n(w) == 15 || count(w) < 1),
    (Transfer, "LDM (exception return) A1", "cccc 100p u1w1 nnnn 1rrr rrrr rrrr rrrr", |w| n(w) == 15 || wbit(w) && listed(w, n(w))),
];

#[rustfmt::skip]
const UNCONDITIONAL: &[Line] = &[
    (Transfer, "RFE A1", "100p u0w1 nnnn zzzz ozoz zzzz zzzz", |w| n(w) == 15),
    (Transfer, "SRS A1", "100p u1w0 oozo zzzz zozo zzzm mmmm", no_stack),
    (Hint, "PLD (literal) A1", "0101 uo01 1111 oooo iiii iiii iiii", never),
    (Hint, "PLD, PLDW (immediate) A1", "0101 ur01 nnnn oooo iiii iiii iiii", never),
    (Hint, "PLD, PLDW (register) A1", "0111 ur01 nnnn oooo iiii iss0 mmmm", |w| m(w) == 15 || n(w) == 15 && w & 1 << 22 == 0),
    (Hint, "PLI (immediate, literal) A1", "0100 u101 nnnn oooo iiii iiii iiii", never),
    (Hint, "PLI (register) A1", "0110 u101 nnnn oooo iiii iss0 mmmm", |w| m(w) == 15),
    (Hint, "Unallocated memory hint, table A5-23", "0100 u001 xxxx xxxx xxxx xxxx xxxx", never),
    (Hint, "Unallocated memory hint, table A5-23", "0110 u001 xxxx xxxx xxxx xxx0 xxxx", never),
    (Refused, "CLREX and the barriers are none", "0101 0111 xxxx xxxx xxxx xxxx xxxx", never),
    (Refused, "UNPREDICTABLE, table A5-23", "010x xx11 xxxx xxxx xxxx xxxx xxxx", never),
    (Refused, "UNPREDICTABLE, table A5-23", "011x xx11 xxxx xxxx xxxx xxx0 xxxx", never),
    // What follows keeps cond = 1111 off the lines for the other conditions.
    (Refused, "none", "xxxx xxxx xxxx xxxx xxxx xxxx xxxx", never),
];

const fn d_double(w: u32) -> u32 {
    field(w, 22, 1) << 4 | field(w, 12, 4)
}
const fn d_single(w: u32) -> u32 {
    field(w, 12, 4) << 1 | field(w, 22, 1)
}
/// VLDM and VSTM A1, T1.
fn doubles(w: u32) -> bool {
    let regs = field(w, 0, 8) / 2;
    // FLDMX and FSTMX, imm8 odd, name d0 to d15.
    let limit = if odd(w) { 16 } else { 32 };
    n(w) == 15 && wbit(w) || regs == 0 || regs > 16 || d_double(w) + regs > limit
}
/// VLDM and VSTM A2, T2.
fn singles(w: u32) -> bool {
    let regs = field(w, 0, 8);
    n(w) == 15 && wbit(w) || regs == 0 || d_single(w) + regs > 32
}

/// After the first seven bits, which differ between A32 and T32.
#[rustfmt::skip]
const VECTOR: &[Line] = &[
    (Transfer, "VSTR A1", "1 ud00 nnnn dddd 1011 iiii iiii", never),
    (Transfer, "VSTR A2", "1 ud00 nnnn dddd 1010 iiii iiii", never),
    (Transfer, "VLDR A1", "1 ud01 nnnn dddd 1011 iiii iiii", never),
    (Transfer, "VLDR A2", "1 ud01 nnnn dddd 1010 iiii iiii", never),
    (Transfer, "VSTMIA A1", "0 1dw0 nnnn dddd 1011 iiii iiii", doubles),
    (Transfer, "VSTMDB A1", "1 0d10 nnnn dddd 1011 iiii iiii", doubles),
    (Transfer, "VSTMIA A2", "0 1dw0 nnnn dddd 1010 iiii iiii", singles),
    (Transfer, "VSTMDB A2", "1 0d10 nnnn dddd 1010 iiii iiii", singles),
    (Transfer, "VLDMIA A1", "0 1dw1 nnnn dddd 1011 iiii iiii", doubles),
    (Transfer, "VLDMDB A1", "1 0d11 nnnn dddd 1011 iiii iiii", doubles),
    (Transfer, "VLDMIA A2", "0 1dw1 nnnn dddd 1010 iiii iiii", singles),
    (Transfer, "VLDMDB A2", "1 0d11 nnnn dddd 1010 iiii iiii", singles),
];

/// What T32 forbids beyond that: pc as a base, but for VLDR.
#[rustfmt::skip]
const THUMB_VECTOR: &[Line] = &[
    (Refused, "VSTR T1, T2", "1 ux00 1111 xxxx 101x xxxx xxxx", never),
    (Refused, "VLDM, VSTM T1, T2", "0 1xxx 1111 xxxx 101x xxxx xxxx", never),
    (Refused, "VLDM, VSTM T1, T2", "1 0x1x 1111 xxxx 101x xxxx xxxx", never),
];

const fn size(w: u32) -> u32 {
    field(w, 6, 2)
}
const fn align(w: u32) -> u32 {
    field(w, 4, 2)
}
/// Whether the last of the registers, `beyond` after the first, is not one; or the base is pc.
const fn past(w: u32, beyond: u32) -> bool {
    d_double(w) + beyond > 31 || n(w) == 15
}
/// `index_align`.
const fn ia(w: u32) -> u32 {
    field(w, 4, 4)
}
const fn ia_bit(w: u32, bit: u32) -> u32 {
    field(w, 4 + bit, 1)
}
/// Register spacing of the forms for all lanes.
const fn all_inc(w: u32) -> u32 {
    1 + field(w, 5, 1)
}

/// VLDn and VSTn, after the first eight bits, which differ between A32 and T32.
#[rustfmt::skip]
const STRUCTURE: &[Line] = &[
    (Transfer, "VLD1, VST1 (multiple) one", "0dl0 nnnn dddd 0111 ssaa mmmm", |w| align(w) > 1 || past(w, 0)),
    (Transfer, "VLD1, VST1 (multiple) two", "0dl0 nnnn dddd 1010 ssaa mmmm", |w| align(w) == 3 || past(w, 1)),
    (Transfer, "VLD1, VST1 (multiple) three", "0dl0 nnnn dddd 0110 ssaa mmmm", |w| align(w) > 1 || past(w, 2)),
    (Transfer, "VLD1, VST1 (multiple) four", "0dl0 nnnn dddd 0010 ssaa mmmm", |w| past(w, 3)),
    (Transfer, "VLD2, VST2 (multiple) 1000", "0dl0 nnnn dddd 1000 ssaa mmmm", |w| size(w) == 3 || align(w) == 3 || past(w, 1)),
    (Transfer, "VLD2, VST2 (multiple) 1001", "0dl0 nnnn dddd 1001 ssaa mmmm", |w| size(w) == 3 || align(w) == 3 || past(w, 2)),
    (Transfer, "VLD2, VST2 (multiple) 0011", "0dl0 nnnn dddd 0011 ssaa mmmm", |w| size(w) == 3 || past(w, 3)),
    (Transfer, "VLD3, VST3 (multiple) 0100", "0dl0 nnnn dddd 0100 ssaa mmmm", |w| size(w) == 3 || align(w) > 1 || past(w, 2)),
    (Transfer, "VLD3, VST3 (multiple) 0101", "0dl0 nnnn dddd 0101 ssaa mmmm", |w| size(w) == 3 || align(w) > 1 || past(w, 4)),
    (Transfer, "VLD4, VST4 (multiple) 0000", "0dl0 nnnn dddd 0000 ssaa mmmm", |w| size(w) == 3 || past(w, 3)),
    (Transfer, "VLD4, VST4 (multiple) 0001", "0dl0 nnnn dddd 0001 ssaa mmmm", |w| size(w) == 3 || past(w, 6)),
    (Transfer, "VLD1, VST1 (one lane) .8", "1dl0 nnnn dddd 0000 aaaa mmmm", |w| ia_bit(w, 0) != 0 || past(w, 0)),
    (Transfer, "VLD1, VST1 (one lane) .16", "1dl0 nnnn dddd 0100 aaaa mmmm", |w| ia_bit(w, 1) != 0 || past(w, 0)),
    (Transfer, "VLD1, VST1 (one lane) .32", "1dl0 nnnn dddd 1000 aaaa mmmm", |w| ia_bit(w, 2) != 0 || ![0, 3].contains(&(ia(w) & 3)) || past(w, 0)),
    (Transfer, "VLD2, VST2 (one lane) .8", "1dl0 nnnn dddd 0001 aaaa mmmm", |w| past(w, 1)),
    (Transfer, "VLD2, VST2 (one lane) .16", "1dl0 nnnn dddd 0101 aaaa mmmm", |w| past(w, 1 + ia_bit(w, 1))),
    (Transfer, "VLD2, VST2 (one lane) .32", "1dl0 nnnn dddd 1001 aaaa mmmm", |w| ia_bit(w, 1) != 0 || past(w, 1 + ia_bit(w, 2))),
    (Transfer, "VLD3, VST3 (one lane) .8", "1dl0 nnnn dddd 0010 aaaa mmmm", |w| ia_bit(w, 0) != 0 || past(w, 2)),
    (Transfer, "VLD3, VST3 (one lane) .16", "1dl0 nnnn dddd 0110 aaaa mmmm", |w| ia_bit(w, 0) != 0 || past(w, 2 * (1 + ia_bit(w, 1)))),
    (Transfer, "VLD3, VST3 (one lane) .32", "1dl0 nnnn dddd 1010 aaaa mmmm", |w| ia(w) & 3 != 0 || past(w, 2 * (1 + ia_bit(w, 2)))),
    (Transfer, "VLD4, VST4 (one lane) .8", "1dl0 nnnn dddd 0011 aaaa mmmm", |w| past(w, 3)),
    (Transfer, "VLD4, VST4 (one lane) .16", "1dl0 nnnn dddd 0111 aaaa mmmm", |w| past(w, 3 * (1 + ia_bit(w, 1)))),
    (Transfer, "VLD4, VST4 (one lane) .32", "1dl0 nnnn dddd 1011 aaaa mmmm", |w| ia(w) & 3 == 3 || past(w, 3 * (1 + ia_bit(w, 2)))),
    (Transfer, "VLD1 (all lanes)", "1d10 nnnn dddd 1100 ssta mmmm", |w| size(w) == 3 || size(w) == 0 && ia_bit(w, 0) == 1 || past(w, ia_bit(w, 1))),
    (Transfer, "VLD2 (all lanes)", "1d10 nnnn dddd 1101 ssta mmmm", |w| size(w) == 3 || past(w, all_inc(w))),
    (Transfer, "VLD3 (all lanes)", "1d10 nnnn dddd 1110 ssta mmmm", |w| size(w) == 3 || ia_bit(w, 0) == 1 || past(w, 2 * all_inc(w))),
    (Transfer, "VLD4 (all lanes)", "1d10 nnnn dddd 1111 ssta mmmm", |w| size(w) == 3 && ia_bit(w, 0) == 0 || past(w, 3 * all_inc(w))),
];

/// The registers that a Thumb single transfer of less than a word, or unprivileged, can't have.
const fn bad_t(w: u32) -> bool {
    bad(t(w))
}
fn thumb_exclusive_load(w: u32) -> bool {
    bad(t(w)) || n(w) == 15
}
fn thumb_exclusive_store(w: u32) -> bool {
    bad(m(w)) || bad(t(w)) || n(w) == 15 || m(w) == n(w) || m(w) == t(w)
}
fn thumb_dual(w: u32) -> bool {
    wbit(w) && (n(w) == t(w) || n(w) == t2(w)) || bad(t(w)) || bad(t2(w))
}
/// Writeback of Thumb's immediate forms, and what P = 0 with W = 0 makes UNDEFINED.
const fn wb8(w: u32) -> bool {
    field(w, 8, 1) == 1
}
const fn no_index(w: u32) -> bool {
    field(w, 8, 1) == 0 && field(w, 10, 1) == 0
}
/// Immediate forms of bytes and halfwords.
fn thumb_small(w: u32) -> bool {
    no_index(w) || bad(t(w)) || wb8(w) && n(w) == t(w)
}

#[rustfmt::skip]
const T32: &[Line] = &[
    (Transfer, "SRS T1", "1110 1000 00w0 oozo oozz zzzz zzzm mmmm", no_stack),
    (Transfer, "SRS T2", "1110 1001 10w0 oozo oozz zzzz zzzm mmmm", no_stack),
    (Transfer, "RFE T1", "1110 1000 00w1 nnnn oozz zzzz zzzz zzzz", |w| n(w) == 15),
    (Transfer, "RFE T2", "1110 1001 10w1 nnnn oozz zzzz zzzz zzzz", |w| n(w) == 15),
    (Transfer, "STM T2", "1110 1000 10w0 nnnn zrzr rrrr rrrr rrrr", |w| n(w) == 15 || count(w) < 2 || wbit(w) && listed(w, n(w))),
    (Transfer, "STMDB T1", "1110 1001 00w0 nnnn zrzr rrrr rrrr rrrr", |w| n(w) == 15 || count(w) < 2 || wbit(w) && listed(w, n(w))),
    (Transfer, "LDM T2", "1110 1000 10w1 nnnn rrzr rrrr rrrr rrrr", |w| n(w) == 15 || count(w) < 2 || listed(w, 15) && listed(w, 14) || wbit(w) && listed(w, n(w))),
    (Transfer, "LDMDB T1", "1110 1001 00w1 nnnn rrzr rrrr rrrr rrrr", |w| n(w) == 15 || count(w) < 2 || listed(w, 15) && listed(w, 14) || wbit(w) && listed(w, n(w))),
    (Transfer, "STREX T1", "1110 1000 0100 nnnn tttt dddd iiii iiii", |w| bad(t2(w)) || bad(t(w)) || n(w) == 15 || t2(w) == n(w) || t2(w) == t(w)),
    (Transfer, "LDREX T1", "1110 1000 0101 nnnn tttt oooo iiii iiii", thumb_exclusive_load),
    (Transfer, "STREXB T1", "1110 1000 1100 nnnn tttt oooo 0100 dddd", thumb_exclusive_store),
    (Transfer, "STREXH T1", "1110 1000 1100 nnnn tttt oooo 0101 dddd", thumb_exclusive_store),
    (Transfer, "STREXD T1", "1110 1000 1100 nnnn tttt uuuu 0111 dddd", |w| thumb_exclusive_store(w) || bad(t2(w)) || m(w) == t2(w)),
    (Transfer, "TBB T1", "1110 1000 1101 nnnn oooo zzzz 0000 mmmm", |w| n(w) == 13 || bad(m(w))),
    (Transfer, "TBH T1", "1110 1000 1101 nnnn oooo zzzz 0001 mmmm", |w| n(w) == 13 || bad(m(w))),
    (Transfer, "LDREXB T1", "1110 1000 1101 nnnn tttt oooo 0100 oooo", thumb_exclusive_load),
    (Transfer, "LDREXH T1", "1110 1000 1101 nnnn tttt oooo 0101 oooo", thumb_exclusive_load),
    (Transfer, "LDREXD T1", "1110 1000 1101 nnnn tttt uuuu 0111 oooo", |w| thumb_exclusive_load(w) || bad(t2(w)) || t(w) == t2(w)),
    (Refused, "UNDEFINED, table A6-17", "1110 1000 110x xxxx xxxx xxxx xxxx xxxx", never),
    (Transfer, "STRD (immediate) T1", "1110 100p u1w0 nnnn tttt uuuu iiii iiii", |w| n(w) == 15 || thumb_dual(w)),
    (Transfer, "LDRD (literal) T1", "1110 100p u1z1 1111 tttt uuuu iiii iiii", |w| bad(t(w)) || bad(t2(w)) || t(w) == t2(w)),
    (Transfer, "LDRD (immediate) T1", "1110 100p u1w1 nnnn tttt uuuu iiii iiii", |w| thumb_dual(w) || t(w) == t2(w)),
    (Refused, "UNDEFINED, Rn of a store is pc", "1111 1000 xxx0 1111 xxxx xxxx xxxx xxxx", never),
    (Transfer, "STRB (immediate) T2", "1111 1000 1000 nnnn tttt iiii iiii iiii", bad_t),
    (Transfer, "STRH (immediate) T2", "1111 1000 1010 nnnn tttt iiii iiii iiii", bad_t),
    (Transfer, "STR (immediate) T3", "1111 1000 1100 nnnn tttt iiii iiii iiii", |w| t(w) == 15),
    (Transfer, "STRBT T1", "1111 1000 0000 nnnn tttt 1110 iiii iiii", bad_t),
    (Transfer, "STRHT T1", "1111 1000 0010 nnnn tttt 1110 iiii iiii", bad_t),
    (Transfer, "STRT T1", "1111 1000 0100 nnnn tttt 1110 iiii iiii", bad_t),
    (Transfer, "STRB (immediate) T3", "1111 1000 0000 nnnn tttt 1puw iiii iiii", thumb_small),
    (Transfer, "STRH (immediate) T3", "1111 1000 0010 nnnn tttt 1puw iiii iiii", thumb_small),
    (Transfer, "STR (immediate) T4", "1111 1000 0100 nnnn tttt 1puw iiii iiii", |w| no_index(w) || t(w) == 15 || wb8(w) && n(w) == t(w)),
    (Transfer, "STRB (register) T2", "1111 1000 0000 nnnn tttt 0000 00ii mmmm", |w| bad(t(w)) || bad(m(w))),
    (Transfer, "STRH (register) T2", "1111 1000 0010 nnnn tttt 0000 00ii mmmm", |w| bad(t(w)) || bad(m(w))),
    (Transfer, "STR (register) T2", "1111 1000 0100 nnnn tttt 0000 00ii mmmm", |w| t(w) == 15 || bad(m(w))),
    (Hint, "PLD (literal) T1", "1111 1000 u0z1 1111 1111 iiii iiii iiii", never),
    (Hint, "PLI (literal) T3", "1111 1001 u001 1111 1111 iiii iiii iiii", never),
    (Hint, "Unallocated memory hint, table A6-19", "1111 1001 x011 1111 1111 xxxx xxxx xxxx", never),
    (Transfer, "LDRB (literal) T1", "1111 1000 u001 1111 tttt iiii iiii iiii", |w| t(w) == 13),
    (Transfer, "LDRH (literal) T1", "1111 1000 u011 1111 tttt iiii iiii iiii", |w| t(w) == 13),
    (Transfer, "LDR (literal) T2", "1111 1000 u101 1111 tttt iiii iiii iiii", never),
    (Transfer, "LDRSB (literal) T1", "1111 1001 u001 1111 tttt iiii iiii iiii", |w| t(w) == 13),
    (Transfer, "LDRSH (literal) T1", "1111 1001 u011 1111 tttt iiii iiii iiii", |w| t(w) == 13),
    (Hint, "PLD, PLDW (immediate) T1", "1111 1000 10w1 nnnn 1111 iiii iiii iiii", never),
    (Hint, "PLD, PLDW (immediate) T2", "1111 1000 00w1 nnnn 1111 1100 iiii iiii", never),
    (Hint, "PLD, PLDW (register) T1", "1111 1000 00w1 nnnn 1111 0000 00ii mmmm", |w| bad(m(w))),
    (Hint, "PLI (immediate) T1", "1111 1001 1001 nnnn 1111 iiii iiii iiii", never),
    (Hint, "PLI (immediate) T2", "1111 1001 0001 nnnn 1111 1100 iiii iiii", never),
    (Hint, "PLI (register) T1", "1111 1001 0001 nnnn 1111 0000 00ii mmmm", |w| bad(m(w))),
    (Hint, "Unallocated memory hint, table A6-19", "1111 1001 1011 nnnn 1111 xxxx xxxx xxxx", never),
    (Hint, "Unallocated memory hint, table A6-19", "1111 1001 0011 nnnn 1111 1100 xxxx xxxx", never),
    (Hint, "Unallocated memory hint, table A6-19", "1111 1001 0011 nnnn 1111 0000 00xx xxxx", |w| bad(m(w))),
    (Transfer, "LDRB (immediate) T2", "1111 1000 1001 nnnn tttt iiii iiii iiii", bad_t),
    (Transfer, "LDRH (immediate) T2", "1111 1000 1011 nnnn tttt iiii iiii iiii", bad_t),
    (Transfer, "LDR (immediate) T3", "1111 1000 1101 nnnn tttt iiii iiii iiii", never),
    (Transfer, "LDRSB (immediate) T1", "1111 1001 1001 nnnn tttt iiii iiii iiii", bad_t),
    (Transfer, "LDRSH (immediate) T1", "1111 1001 1011 nnnn tttt iiii iiii iiii", bad_t),
    (Transfer, "LDRBT T1", "1111 1000 0001 nnnn tttt 1110 iiii iiii", bad_t),
    (Transfer, "LDRHT T1", "1111 1000 0011 nnnn tttt 1110 iiii iiii", bad_t),
    (Transfer, "LDRT T1", "1111 1000 0101 nnnn tttt 1110 iiii iiii", bad_t),
    (Transfer, "LDRSBT T1", "1111 1001 0001 nnnn tttt 1110 iiii iiii", bad_t),
    (Transfer, "LDRSHT T1", "1111 1001 0011 nnnn tttt 1110 iiii iiii", bad_t),
    (Transfer, "LDRB (immediate) T3", "1111 1000 0001 nnnn tttt 1puw iiii iiii", thumb_small),
    (Transfer, "LDRH (immediate) T3", "1111 1000 0011 nnnn tttt 1puw iiii iiii", thumb_small),
    (Transfer, "LDR (immediate) T4", "1111 1000 0101 nnnn tttt 1puw iiii iiii", |w| no_index(w) || wb8(w) && n(w) == t(w)),
    (Transfer, "LDRSB (immediate) T2", "1111 1001 0001 nnnn tttt 1puw iiii iiii", thumb_small),
    (Transfer, "LDRSH (immediate) T2", "1111 1001 0011 nnnn tttt 1puw iiii iiii", thumb_small),
    (Transfer, "LDRB (register) T2", "1111 1000 0001 nnnn tttt 0000 00ii mmmm", |w| bad(t(w)) || bad(m(w))),
    (Transfer, "LDRH (register) T2", "1111 1000 0011 nnnn tttt 0000 00ii mmmm", |w| bad(t(w)) || bad(m(w))),
    (Transfer, "LDR (register) T2", "1111 1000 0101 nnnn tttt 0000 00ii mmmm", |w| bad(m(w))),
    (Transfer, "LDRSB (register) T2", "1111 1001 0001 nnnn tttt 0000 00ii mmmm", |w| bad(t(w)) || bad(m(w))),
    (Transfer, "LDRSH (register) T2", "1111 1001 0011 nnnn tttt 0000 00ii mmmm", |w| bad(t(w)) || bad(m(w))),
];

#[rustfmt::skip]
const T16: &[Line] = &[
    (Transfer, "LDR (literal) T1", "0100 1ttt iiii iiii", never),
    (Transfer, "STR (register) T1", "0101 000m mmnn nttt", never),
    (Transfer, "STRH (register) T1", "0101 001m mmnn nttt", never),
    (Transfer, "STRB (register) T1", "0101 010m mmnn nttt", never),
    (Transfer, "LDRSB (register) T1", "0101 011m mmnn nttt", never),
    (Transfer, "LDR (register) T1", "0101 100m mmnn nttt", never),
    (Transfer, "LDRH (register) T1", "0101 101m mmnn nttt", never),
    (Transfer, "LDRB (register) T1", "0101 110m mmnn nttt", never),
    (Transfer, "LDRSH (register) T1", "0101 111m mmnn nttt", never),
    (Transfer, "STR (immediate) T1", "0110 0iii iinn nttt", never),
    (Transfer, "LDR (immediate) T1", "0110 1iii iinn nttt", never),
    (Transfer, "STRB (immediate) T1", "0111 0iii iinn nttt", never),
    (Transfer, "LDRB (immediate) T1", "0111 1iii iinn nttt", never),
    (Transfer, "STRH (immediate) T1", "1000 0iii iinn nttt", never),
    (Transfer, "LDRH (immediate) T1", "1000 1iii iinn nttt", never),
    (Transfer, "STR (immediate) T2", "1001 0ttt iiii iiii", never),
    (Transfer, "LDR (immediate) T2", "1001 1ttt iiii iiii", never),
    (Transfer, "PUSH T1", "1011 010m rrrr rrrr", |w| w & 0x1ff == 0),
    (Transfer, "POP T1", "1011 110p rrrr rrrr", |w| w & 0x1ff == 0),
    (Transfer, "STM T1", "1100 0nnn rrrr rrrr", |w| w & 0xff == 0),
    (Transfer, "LDM T1", "1100 1nnn rrrr rrrr", |w| w & 0xff == 0),
];
