//! Single transfers, LDR, STR and kin: how they are kept, and where they go.
//!
//! They are what traps most often, so they are kept as A32 encodes a word or byte, which costs
//! A32 nothing; Thumb and the halfwords are translated into it. Above the offset, in bits 11:0, lie
//! the registers and the bits L, W, B, U, P and I of ARM DDI 0406C, A5.3; what A32 encodes elsewhere
//! has bits of its own.

use super::transfer::{executes, from_bus, get, set, to_bus};
use super::{Form, Instruction, a32, bit, decode_form};
use crate::regs::{Banks, Gprs, Regs, psr};

/// The address of a single or dual transfer: a base, what is added to it and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address(u32);

/// A load or store of one register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Single(u32);

/// Bit 20: it loads.
pub(super) const LOAD: u32 = 1 << 20;
/// Bit 21, W: the base is written, before the access.
pub(super) const WRITE: u32 = 1 << 21;
/// Bit 22, B: a byte.
pub(super) const BYTE: u32 = 1 << 22;
/// Bit 23, U: the offset is added.
pub(super) const UP: u32 = 1 << 23;
/// Bit 24, P: the offset counts for the access.
pub(super) const BEFORE: u32 = 1 << 24;
/// Bit 25, I: the offset is a register.
pub(super) const REGISTER: u32 = 1 << 25;
/// Bit 26: a halfword.
pub(super) const HALF: u32 = 1 << 26;
/// Bit 27: a load extends the sign.
pub(super) const SIGNED: u32 = 1 << 27;
/// Bit 28: with User mode's rights.
pub(super) const UNPRIVILEGED: u32 = 1 << 28;
/// Base, transferred register and offset.
pub(super) const OPERANDS: u32 = 0xf_ffff;

/// What is added to a base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offset {
    /// So many bytes, -4095 to 4095.
    Immediate(i16),
    /// A register, shifted.
    Register {
        /// Which.
        m: u8,
        /// Whether it is subtracted.
        subtract: bool,
        /// How it is shifted.
        shift: Shift,
        /// By how much: 0 to 31 for LSL, 1 to 32 for LSR and ASR, 1 to 31 for ROR, 1 for RRX.
        amount: u8,
    },
}

/// How an index register is shifted (ARM DDI 0406C, A8.4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the architecture's own")]
pub enum Shift {
    Lsl,
    Lsr,
    Asr,
    Ror,
    Rrx,
}

/// When an offset is added to the base (ARM DDI 0406C, A4.6.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Index {
    /// Before the access; the base stays.
    Offset,
    /// Before the access; the base keeps it.
    Pre,
    /// After the access; the base keeps it.
    Post,
}

impl Address {
    /// From the bits named above; others do not count.
    pub(super) const fn new(bits: u32) -> Self {
        Self(bits & !(LOAD | BYTE | HALF | SIGNED | UNPRIVILEGED | 0xf000))
    }

    /// The base; 15 is the pc of the instruction, aligned to a word.
    #[must_use]
    pub const fn n(self) -> u32 {
        self.0 >> 16 & 15
    }

    /// Whether the base is written.
    #[must_use]
    pub const fn writeback(self) -> bool {
        self.0 & (BEFORE | WRITE) != BEFORE
    }

    /// When the offset is added.
    #[must_use]
    pub const fn index(self) -> Index {
        if self.0 & BEFORE == 0 {
            Index::Post
        } else if self.0 & WRITE != 0 {
            Index::Pre
        } else {
            Index::Offset
        }
    }

    /// What is added.
    #[must_use]
    pub const fn offset(self) -> Offset {
        if self.0 & REGISTER == 0 {
            let bytes = (self.0 & 0xfff) as i16;
            return Offset::Immediate(if self.0 & UP != 0 { bytes } else { -bytes });
        }
        // A8.4.3, DecodeImmShift().
        let amount = (self.0 >> 7 & 31) as u8;
        let (shift, amount) = match (self.0 >> 5 & 3, amount) {
            (0, _) => (Shift::Lsl, amount),
            (1, 0) => (Shift::Lsr, 32),
            (1, _) => (Shift::Lsr, amount),
            (2, 0) => (Shift::Asr, 32),
            (2, _) => (Shift::Asr, amount),
            (_, 0) => (Shift::Rrx, 1),
            _ => (Shift::Ror, amount),
        };
        Offset::Register {
            m: (self.0 & 15) as u8,
            subtract: self.0 & UP == 0,
            shift,
            amount,
        }
    }

    /// The address of the access, and the base with the offset added.
    #[inline(always)]
    pub(super) fn resolve<B: Banks>(self, gprs: &Gprs<'_, B>) -> (u32, u32) {
        let mut base = get(gprs, self.n());
        if self.n() == 15 {
            base &= !3;
        }
        let offset = if self.0 & REGISTER == 0 {
            self.0 & 0xfff
        } else {
            self.shifted(gprs)
        };
        let moved = if self.0 & UP != 0 {
            base.wrapping_add(offset)
        } else {
            base.wrapping_sub(offset)
        };
        let address = if self.0 & BEFORE != 0 { moved } else { base };
        (address, moved)
    }

    fn shifted<B: Banks>(self, gprs: &Gprs<'_, B>) -> u32 {
        let Offset::Register {
            m, shift, amount, ..
        } = self.offset()
        else {
            return 0;
        };
        let carry = bit(gprs.regs.cpsr, 29);
        shift.apply(get(gprs, m), u32::from(amount), carry)
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

impl Single {
    /// The load or store of one register that `instruction` is for a guest with these registers;
    /// `None` where it is something else, does nothing, is of pc or is refused, which is for
    /// [`Transfer`](super::Transfer) to tell.
    #[inline(never)]
    #[must_use]
    pub fn of(instruction: Instruction, regs: &Regs) -> Option<Self> {
        match decode_form(instruction) {
            Ok(Form::Single(single))
                if single.t() != 15 && regs.cpsr & psr::J == 0 && executes(instruction, regs) =>
            {
                Some(single)
            }
            _ => None,
        }
    }

    /// The same of A32, without a detour over memory for what a driver's accessors compile to.
    #[inline(always)]
    #[must_use]
    pub fn of_word(word: u32, regs: &Regs) -> Option<Self> {
        if !a32::is_single(word) || word >> 28 != 14 || regs.cpsr & psr::J != 0 {
            return Self::of(Instruction::A32(word), regs);
        }
        if word >> 12 & 15 == 15 {
            return None;
        }
        a32::single_of(word, false).ok()
    }

    /// The address of its access, and what its base gets in the end, if anything.
    #[inline(always)]
    pub fn resolve<B: Banks>(self, gprs: &Gprs<'_, B>) -> (u32, u32) {
        self.at().resolve(gprs)
    }

    /// What a store puts on the bus, in its byte order.
    #[inline(always)]
    pub fn stored<B: Banks>(self, gprs: &Gprs<'_, B>) -> u32 {
        to_bus(get(gprs, self.t()), self.size(), gprs.regs)
    }

    /// Completes it, of `length` bytes, with `moved` for the base, and what the bus gave for a load: `None` for a store.
    #[inline(always)]
    pub fn finish<B: Banks>(
        self,
        length: u32,
        moved: u32,
        loaded: Option<u32>,
        gprs: &mut Gprs<'_, B>,
    ) {
        if let Some(value) = loaded {
            let value = self.extend(from_bus(value, self.size(), gprs.regs));
            set(gprs, self.t(), value);
        }
        if self.at().writeback() {
            set(gprs, self.at().n(), moved);
        }
        if gprs.regs.thumb() {
            gprs.regs.skip(length);
        } else {
            gprs.regs.pc = gprs.regs.pc.wrapping_add(4);
        }
    }

    /// From the bits named above.
    pub(super) const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// Whether it loads.
    #[must_use]
    pub const fn load(self) -> bool {
        self.0 & LOAD != 0
    }

    /// Size of the access in bytes: 1, 2 or 4.
    #[must_use]
    pub const fn size(self) -> u8 {
        4 >> ((self.0 >> BYTE.trailing_zeros() & 1) << 1 | self.0 >> HALF.trailing_zeros() & 1)
    }

    /// Whether a load extends the sign.
    #[must_use]
    pub const fn signed(self) -> bool {
        self.0 & SIGNED != 0
    }

    /// Whether the access has User mode's rights (LDRT and kin).
    #[must_use]
    pub const fn unprivileged(self) -> bool {
        self.0 & UNPRIVILEGED != 0
    }

    /// The register loaded or stored.
    #[must_use]
    pub const fn t(self) -> u32 {
        self.0 >> 12 & 15
    }

    /// Whether it is a jump.
    pub(super) const fn loads_pc(self) -> bool {
        self.t() == 15 && self.load()
    }

    /// Where.
    #[must_use]
    pub const fn at(self) -> Address {
        Address::new(self.0)
    }

    /// What is loaded, of a value of its size.
    #[inline]
    pub(super) const fn extend(self, value: u32) -> u32 {
        if !self.signed() {
            value
        } else if self.0 & BYTE != 0 {
            value as u8 as i8 as u32
        } else {
            value as u16 as i16 as u32
        }
    }
}
