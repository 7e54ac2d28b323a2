//! Decoding of loads and stores that the syndrome does not describe.
//!
//! A data abort at stage 2 carries a syndrome only for the plainest single loads and stores
//! (ARM DDI 0406C, B3.13.6). For all others the hypervisor fetches the instruction and asks this
//! module, in two steps. [`decode`] is a pure function of the instruction: what it transfers, how
//! its address is formed, or why it is refused. [`Transfer::new`] adds the registers and gives what
//! the hypervisor steps through one bus access at a time, so that it may wait between two of them
//! for a device that another VM models.
//!
//! What the architecture leaves UNPREDICTABLE is refused with its [`Reason`], never guessed. A
//! [`Transfer`] does what the pseudocode of A8.8 and B9.3 does, in ascending order of addresses,
//! and keeps the rules for an abort half-way (B1.9.8): see [`Transfer`].
//!
//! # Big-endian data
//!
//! Accesses are as the bus sees them: bit 7:0 of a value belongs to the lowest address. Where
//! CPSR.E is set, a [`Transfer`] reverses the bytes of each access (A3.3, BE-8 is byte-invariant),
//! so a model never knows of it.
//!
//! # Exclusives
//!
//! A device has no monitor. The architecture lets LDREX and STREX reach Normal memory alone and
//! calls anything else UNPREDICTABLE (ARM DDI 0406C, A3.4.5); the Cortex-A15 sends them to the bus,
//! where the interconnect must provide a monitor (ARM DDI 0438G, 6.4.5), and its successors abort
//! where there is none. So the policy is the caller's: such an access is marked
//! [`Access::exclusive`], and the caller aborts it (external abort), performs it (the status of
//! STREX is then 0), or calls [`Transfer::lose`] (nothing is stored, the status is 1). To abort LDREX
//! is what tells a guest the truth: one that is emulated can't set the core's own local monitor, so
//! the STREX that follows may fail without a trap, for ever.

mod a32;
mod sequence;
mod single;
mod t16;
mod t32;
mod transfer;
mod vector;

use core::fmt;
pub use single::{Address, Index, Offset, Shift, Single};
pub use transfer::{Access, Transfer, Vectors};

/// An instruction by its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// ARM.
    A32(u32),
    /// Thumb, 16 bits.
    T16(u16),
    /// Thumb, 32 bits: the halfword of the lower address is in bits 31:16.
    T32(u32),
}

impl Instruction {
    /// Its length in bytes, 2 or 4.
    #[must_use]
    pub const fn length(self) -> u32 {
        match self {
            Self::T16(_) => 2,
            Self::A32(_) | Self::T32(_) => 4,
        }
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::A32(w) => write!(f, "A32 {w:08x}"),
            Self::T16(w) => write!(f, "T16 {w:04x}"),
            Self::T32(w) => write!(f, "T32 {w:08x}"),
        }
    }
}

/// An instruction that is not performed, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Which.
    pub instruction: Instruction,
    /// Why.
    pub reason: Reason,
}

/// Why an instruction is refused. All but the first three and [`Reason::Unaligned`] are
/// UNPREDICTABLE in the architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No load, no store, no memory hint.
    NotMemory,
    /// UNDEFINED, or unallocated, among the loads and stores.
    Undefined,
    /// LDC or STC: the only ones there are reach the debug registers, not memory-mapped devices.
    Coprocessor,
    /// pc as a base, index, operand or with writeback where it may not be.
    Pc,
    /// sp where Thumb forbids it.
    Sp,
    /// A register in two roles that exclude each other, as a base written back and loaded.
    Overlap,
    /// A pair of registers that does not start at an even one below r14.
    Pair,
    /// A register list that is empty, or too short, or too long.
    List,
    /// Bits that should be zero, or one, are not.
    ShouldBe,
    /// Registers beyond the last one of the extension register file.
    Range,
    /// An encoding that the tables of A5 and A6 call UNPREDICTABLE as a whole.
    Unpredictable,
    /// Not in the mode that the guest is in, or for a mode that it can't have.
    Mode,
    /// A jump inside an IT block, not at its end.
    ItBlock,
    /// Not in ARM or Thumb state: ThumbEE changes the meaning of loads and stores.
    State,
    /// The instruction demands an alignment that the address lacks: an alignment fault, always.
    Unaligned,
    /// A jump to a target that is neither ARM's nor Thumb's, or loaded from an unaligned address.
    Target,
    /// A return from an exception to a mode or state that the guest can't have.
    Return,
}

/// A load, a store or a memory hint, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// What it was decoded from.
    pub instruction: Instruction,
    /// What it does.
    pub form: Form,
}

/// What an instruction transfers, by the kinds that behave alike. Registers are numbers 0 to 15.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// PLD, PLDW, PLI and the unallocated hints: nothing.
    Hint,
    /// LDR, STR and their byte, halfword, signed and unprivileged kin.
    Single(Single),
    /// LDRD, STRD: two words.
    Dual {
        /// Whether it loads.
        load: bool,
        /// The register of the lower word.
        t: u8,
        /// The register of the higher word.
        t2: u8,
        /// Where.
        at: Address,
    },
    /// LDREX, STREX and their sizes.
    Exclusive {
        /// Whether it loads.
        load: bool,
        /// Size in bytes: 1, 2, 4 or 8.
        size: u8,
        /// The register that gets a store's status; 15 for loads.
        d: u8,
        /// The register loaded or stored, or of the lower word.
        t: u8,
        /// The register of the higher word where `size` is 8, else 15.
        t2: u8,
        /// The base.
        n: u8,
        /// Added to the base, bytes, 0 to 1020.
        offset: u16,
    },
    /// SWP, SWPB: a load, then a store to the same address.
    Swap {
        /// 1 or 4 bytes.
        size: u8,
        /// The register loaded.
        t: u8,
        /// The register stored.
        t2: u8,
        /// The base.
        n: u8,
    },
    /// TBB, TBH: a load of an offset that is jumped by.
    TableBranch {
        /// 1 or 2 bytes.
        size: u8,
        /// The base.
        n: u8,
        /// The index, scaled by the size.
        m: u8,
    },
    /// LDM, STM, PUSH, POP.
    Multiple {
        /// Whether it loads.
        load: bool,
        /// Which registers: bit n for register n.
        list: u16,
        /// Which bank they are in, and what a pc in the list does.
        bank: Bank,
        /// The base.
        n: u8,
        /// In which way from it.
        block: Block,
    },
    /// RFE: loads pc and CPSR.
    Return {
        /// The base.
        n: u8,
        /// In which way from it.
        block: Block,
    },
    /// SRS: stores lr and SPSR on the stack of a mode.
    Save {
        /// The mode whose sp is the base.
        mode: u8,
        /// In which way from it.
        block: Block,
    },
    /// VLDR, VSTR, VLDM, VSTM, VPUSH, VPOP.
    Vector {
        /// Whether it loads.
        load: bool,
        /// Whether the registers are doubleword registers.
        double: bool,
        /// The first word of the extension register file, see [`Vectors`].
        first: u8,
        /// How many words, 1 to 32.
        words: u8,
        /// The base.
        n: u8,
        /// Address of the first word from the base, bytes.
        offset: i16,
        /// What is added to the base at the end, bytes; zero for no writeback.
        step: i16,
    },
    /// VLD1 to VLD4 and VST1 to VST4.
    Structure(Structure),
}

/// How a block of words lies to its base: IA, IB, DA or DB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Whether the block goes up from the base.
    pub up: bool,
    /// Whether the word at the base is left out.
    pub before: bool,
    /// Whether the base is moved past the block.
    pub writeback: bool,
}

/// The bank of the registers that LDM and STM transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bank {
    /// The current mode's; a load of pc is a jump.
    Current,
    /// User mode's (`^`).
    User,
    /// The current mode's, and CPSR is restored from SPSR (`^` with pc).
    Return,
}

/// VLDn or VSTn: `count` elements form a structure, element i is in register `d + i * spacing`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Structure {
    /// Whether it loads.
    pub load: bool,
    /// Size of an element in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// Elements of one structure, 1 to 4.
    pub count: u8,
    /// Distance between the registers of a structure's elements, 1 or 2.
    pub spacing: u8,
    /// Which structures.
    pub lanes: Lanes,
    /// The first doubleword register.
    pub d: u8,
    /// The base.
    pub n: u8,
    /// What is added to the base at the end: 15 nothing, 13 the size of the transfer, else that register.
    pub m: u8,
    /// The alignment that the address must have, bytes, a power of two; 1 for none.
    pub alignment: u8,
}

/// Which lanes of the registers VLDn and VSTn transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lanes {
    /// Every lane of so many consecutive registers, for each element of a structure.
    Whole(u8),
    /// One lane.
    One(u8),
    /// One structure, copied into every lane of so many consecutive registers.
    All(u8),
}

/// Decodes an instruction.
///
/// # Errors
/// What is not a load, a store or a memory hint, and what is UNDEFINED or UNPREDICTABLE whatever
/// the registers hold.
pub fn decode(instruction: Instruction) -> Result<Op, Refusal> {
    match decode_form(instruction) {
        Ok(form) => Ok(Op { instruction, form }),
        Err(reason) => Err(Refusal {
            instruction,
            reason,
        }),
    }
}

#[inline(never)]
fn decode_form(instruction: Instruction) -> Result<Form, Reason> {
    match instruction {
        Instruction::A32(word) => a32::decode(word),
        Instruction::T16(half) => t16::decode(u32::from(half)),
        Instruction::T32(word) => t32::decode(word),
    }
}

impl Op {
    /// Whether vector registers take part. The caller must then have the guest's own at hand, and
    /// must have checked that the guest may use them (CPACR, HCPTR, FPEXC.EN): the instruction may
    /// have been rewritten since it trapped.
    #[must_use]
    pub const fn uses_vectors(&self) -> bool {
        matches!(self.form, Form::Vector { .. } | Form::Structure(_))
    }
}

const fn bit(word: u32, n: u32) -> bool {
    word & (1 << n) != 0
}

/// The register number in the four bits from `low` on.
const fn reg(word: u32, low: u32) -> u8 {
    (word >> low & 15) as u8
}

/// Refuses with `reason` where `bad` holds.
const fn refuse_if(bad: bool, reason: Reason) -> Result<(), Reason> {
    if bad { Err(reason) } else { Ok(()) }
}
