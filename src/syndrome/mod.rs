//! The Hyp Syndrome Register, decoded (ARM DDI 0406C, B3.13.6).
//!
//! Decoding is one `match` on the exception class. Each class's payload is the register itself
//! behind a type that names its fields, so a field costs one instruction, where it is used, and an
//! exit that needs two fields doesn't pay for ten. Every 32-bit value decodes.

use crate::regs::Regs;

mod fault;
mod words;

pub use fault::FaultStatus;

/// The Hyp Syndrome Register as the hardware gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hsr(pub u32);

/// Why the guest (or Hyp itself) was trapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syndrome {
    /// EC 0x00: an undefined instruction, or a reason that has no class.
    Unknown,
    /// EC 0x01: WFI or WFE.
    Wait(Wait),
    /// EC 0x03: MCR or MRC to CP15.
    Cp15(Transfer),
    /// EC 0x04: MCRR or MRRC to CP15.
    Cp15Double(TransferDouble),
    /// EC 0x05: MCR or MRC to CP14.
    Cp14(Transfer),
    /// EC 0x06: LDC or STC to CP14.
    Cp14Memory(TransferMemory),
    /// EC 0x07: coprocessors 0 to 13, which include VFP and Advanced SIMD, trapped by HCPTR.
    Coprocessor(Coprocessor),
    /// EC 0x08: VMRS of an ID register, trapped by HCR.TID0 or TID3; the register's number is in
    /// [`Transfer::crn`].
    VfpId(Transfer),
    /// EC 0x0a: BXJ.
    Bxj(Bxj),
    /// EC 0x0c: MRRC to CP14.
    Cp14Double(TransferDouble),
    /// EC 0x11: SVC that was taken to Hyp, with its immediate.
    Svc {
        /// The immediate; its low 8 bits only for a Thumb instruction.
        imm16: u16,
    },
    /// EC 0x12: HVC, with its immediate. The return address is that of the next instruction.
    Hvc {
        /// The immediate.
        imm16: u16,
    },
    /// EC 0x13: SMC. The return address is that of the SMC itself.
    Smc,
    /// EC 0x20: prefetch abort of the guest.
    PrefetchAbort(PrefetchAbort),
    /// EC 0x21: prefetch abort in Hyp: our own bug.
    HypPrefetchAbort(PrefetchAbort),
    /// EC 0x22: pc not aligned. ARMv7 reserves the class, ARMv8's AArch32 state uses it.
    PcAlignment,
    /// EC 0x24: data abort of the guest.
    DataAbort(DataAbort),
    /// EC 0x25: data abort in Hyp: our own bug.
    HypDataAbort(DataAbort),
    /// A class that the architecture reserves.
    Reserved {
        /// The exception class.
        ec: u8,
    },
}

/// Takes the `width` bits from bit `low` on.
const fn field(value: u32, low: u32, width: u32) -> u32 {
    (value >> low) & ((1 << width) - 1)
}

/// Whether bit `n` is set.
const fn bit(value: u32, n: u32) -> bool {
    value & (1 << n) != 0
}

impl Hsr {
    /// The exception class, HSR.EC.
    #[must_use]
    pub const fn ec(self) -> u8 {
        (self.0 >> 26) as u8
    }

    /// The instruction-specific syndrome, HSR.ISS.
    #[must_use]
    pub const fn iss(self) -> u32 {
        field(self.0, 0, 25)
    }

    /// What happened.
    #[must_use]
    #[inline]
    pub const fn decode(self) -> Syndrome {
        let hsr = self.0;
        match self.ec() {
            0x00 => Syndrome::Unknown,
            0x01 => Syndrome::Wait(Wait(hsr)),
            0x03 => Syndrome::Cp15(Transfer(hsr)),
            0x04 => Syndrome::Cp15Double(TransferDouble(hsr)),
            0x05 => Syndrome::Cp14(Transfer(hsr)),
            0x06 => Syndrome::Cp14Memory(TransferMemory(hsr)),
            0x07 => Syndrome::Coprocessor(Coprocessor(hsr)),
            0x08 => Syndrome::VfpId(Transfer(hsr)),
            0x0a => Syndrome::Bxj(Bxj(hsr)),
            0x0c => Syndrome::Cp14Double(TransferDouble(hsr)),
            0x11 => Syndrome::Svc { imm16: hsr as u16 },
            0x12 => Syndrome::Hvc { imm16: hsr as u16 },
            0x13 => Syndrome::Smc,
            0x20 => Syndrome::PrefetchAbort(PrefetchAbort(hsr)),
            0x21 => Syndrome::HypPrefetchAbort(PrefetchAbort(hsr)),
            0x22 => Syndrome::PcAlignment,
            0x24 => Syndrome::DataAbort(DataAbort(hsr)),
            0x25 => Syndrome::HypDataAbort(DataAbort(hsr)),
            ec => Syndrome::Reserved { ec },
        }
    }

    /// The condition that the syndrome holds (4 bits), where HSR.CV says that it holds one. Only
    /// classes 0x01 to 0x0f have the field.
    #[must_use]
    pub const fn condition(self) -> Option<u32> {
        if matches!(self.ec(), 0x01..=0x0f) && bit(self.0, 24) {
            Some(field(self.0, 20, 4))
        } else {
            None
        }
    }

    /// Whether it is an abort, of the guest or of Hyp: classes 0x20 and above.
    #[must_use]
    #[inline]
    pub const fn is_abort(self) -> bool {
        bit(self.0, 31)
    }

    /// A data abort by what drivers do, found by one comparison: [`described`](DataAbort::described), and
    /// a load or store that extends no sign.
    #[must_use]
    #[inline]
    pub const fn plain_access(self) -> Option<DataAbort> {
        if self.0 & 0xfd20_03bc == 0x9100_0004 {
            Some(DataAbort(self.0))
        } else {
            None
        }
    }

    /// Any data abort.
    #[must_use]
    #[inline]
    pub const fn data_abort(self) -> Option<DataAbort> {
        if self.ec() == 0x24 {
            Some(DataAbort(self.0))
        } else {
            None
        }
    }

    /// Whether the trapped instruction would have executed. A core may trap one that fails its
    /// condition; such a one must be skipped and nothing else (B1.14). `regs` are the guest's at
    /// the trap: its flags, and ITSTATE where the syndrome holds no condition, as it may for Thumb.
    #[must_use]
    #[inline(always)]
    pub fn executes(self, regs: &Regs) -> bool {
        // CV, and always: the same in every class.
        self.0 & 0x01f0_0000 == 0x01e0_0000 || self.holds(regs)
    }

    /// The same by any condition.
    #[cold]
    #[inline(never)]
    fn holds(self, regs: &Regs) -> bool {
        match self.condition() {
            Some(cond) => cond >= 0xe || regs.condition(cond),
            None if !matches!(self.ec(), 0x01..=0x0f) => true,
            None => match regs.it_state() {
                0 => true,
                it => regs.condition(u32::from(it >> 4)),
            },
        }
    }

    /// The length of the trapped instruction, bytes, where that is known without its opcode.
    ///
    /// In ARM state it is 4. In Thumb state HSR.IL says, but not for an unknown reason, a prefetch
    /// abort or a data abort without syndrome: there the bit is 0 for 4-byte instructions too, and
    /// the first halfword has to be fetched: [`thumb_length`].
    #[must_use]
    pub const fn length(self, regs: &Regs) -> Option<u32> {
        if !regs.thumb() {
            return Some(4);
        }
        match self.ec() {
            0x00 | 0x20 | 0x21 => None,
            0x24 | 0x25 if !bit(self.0, 24) => None,
            _ if bit(self.0, 25) => Some(4),
            _ => Some(2),
        }
    }
}

/// The length, bytes, of the Thumb instruction that begins with `halfword` (A6.1).
#[must_use]
pub const fn thumb_length(halfword: u16) -> u32 {
    if halfword >= 0xe800 { 4 } else { 2 }
}

/// A trapped WFI or WFE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait(u32);

impl Wait {
    /// Whether it was WFE, otherwise WFI.
    #[must_use]
    pub const fn wfe(self) -> bool {
        bit(self.0, 0)
    }
}

/// A trapped MCR or MRC (also VMRS and VMSR).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer(u32);

impl Transfer {
    /// The opc1 operand.
    #[must_use]
    pub const fn opc1(self) -> u32 {
        field(self.0, 14, 3)
    }

    /// The opc2 operand.
    #[must_use]
    pub const fn opc2(self) -> u32 {
        field(self.0, 17, 3)
    }

    /// The CRn operand.
    #[must_use]
    pub const fn crn(self) -> u32 {
        field(self.0, 10, 4)
    }

    /// The CRm operand.
    #[must_use]
    pub const fn crm(self) -> u32 {
        field(self.0, 1, 4)
    }

    /// The number of the core's register.
    #[must_use]
    pub const fn rt(self) -> u32 {
        field(self.0, 5, 4)
    }

    /// Whether it reads the coprocessor (MRC).
    #[must_use]
    pub const fn read(self) -> bool {
        bit(self.0, 0)
    }

    /// The coprocessor's register as one number, made to be compared with that of [`register`].
    #[must_use]
    pub const fn register(self) -> u32 {
        // opc2, opc1 and CRn lie in a row.
        field(self.0, 10, 10) << 4 | self.crm()
    }
}

/// What [`Transfer::register`] gives for these operands; a `const` of it can be a `match` pattern.
#[must_use]
pub const fn register(crn: u32, opc1: u32, crm: u32, opc2: u32) -> u32 {
    (opc2 & 7) << 11 | (opc1 & 7) << 8 | (crn & 15) << 4 | crm & 15
}

/// A trapped MCRR or MRRC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransferDouble(u32);

impl TransferDouble {
    /// The opc1 operand.
    #[must_use]
    pub const fn opc1(self) -> u32 {
        field(self.0, 16, 4)
    }

    /// The CRm operand.
    #[must_use]
    pub const fn crm(self) -> u32 {
        field(self.0, 1, 4)
    }

    /// The number of the core's register for bits 31:0.
    #[must_use]
    pub const fn rt(self) -> u32 {
        field(self.0, 5, 4)
    }

    /// The number of the core's register for bits 63:32.
    #[must_use]
    pub const fn rt2(self) -> u32 {
        field(self.0, 10, 4)
    }

    /// Whether it reads the coprocessor (MRRC).
    #[must_use]
    pub const fn read(self) -> bool {
        bit(self.0, 0)
    }
}

/// A trapped LDC or STC of CP14 (DBGDTRTXint, DBGDTRRXint).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransferMemory(u32);

impl TransferMemory {
    /// The immediate, as encoded: in words.
    #[must_use]
    pub const fn imm8(self) -> u32 {
        field(self.0, 12, 8)
    }

    /// The number of the base register; not known where [`literal`](Self::literal) holds.
    #[must_use]
    pub const fn rn(self) -> u32 {
        field(self.0, 5, 4)
    }

    /// Whether the offset is added, otherwise subtracted.
    #[must_use]
    pub const fn add(self) -> bool {
        bit(self.0, 4)
    }

    /// Whether the base is the pc.
    #[must_use]
    pub const fn literal(self) -> bool {
        bit(self.0, 3)
    }

    /// The addressing mode without [`literal`](Self::literal): 0 unindexed, 1 post-indexed, 2
    /// offset, 3 pre-indexed.
    #[must_use]
    pub const fn mode(self) -> u32 {
        field(self.0, 1, 2)
    }

    /// Whether it reads the coprocessor (STC), otherwise it is LDC.
    #[must_use]
    pub const fn read(self) -> bool {
        bit(self.0, 0)
    }
}

/// A trapped use of coprocessors 0 to 13.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coprocessor(u32);

impl Coprocessor {
    /// Whether an Advanced SIMD instruction was trapped by HCPTR.TASE; the coprocessor's number is
    /// not known then.
    #[must_use]
    pub const fn simd(self) -> bool {
        bit(self.0, 5)
    }

    /// The coprocessor's number; 10 and 11 are VFP and Advanced SIMD.
    #[must_use]
    pub const fn number(self) -> u32 {
        field(self.0, 0, 4)
    }

    /// Whether the vCPU wants VFP or Advanced SIMD: what a lazy switch has to answer.
    #[must_use]
    pub const fn vfp(self) -> bool {
        self.simd() || self.number() & !1 == 10
    }
}

/// A trapped BXJ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bxj(u32);

impl Bxj {
    /// The number of the register that holds the target.
    #[must_use]
    pub const fn rm(self) -> u32 {
        field(self.0, 0, 4)
    }
}

/// An instruction fetch that aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefetchAbort(u32);

impl PrefetchAbort {
    /// The external abort's type, IMPLEMENTATION DEFINED.
    #[must_use]
    pub const fn ea(self) -> bool {
        bit(self.0, 9)
    }

    /// Whether a stage-1 table walk faulted at stage 2.
    #[must_use]
    pub const fn s1ptw(self) -> bool {
        bit(self.0, 7)
    }

    /// What went wrong.
    #[must_use]
    #[inline]
    pub const fn status(self) -> FaultStatus {
        FaultStatus::decode(self.0)
    }
}

/// A load or store that aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataAbort(u32);

impl DataAbort {
    /// Whether the syndrome describes the access: [`bytes`](Self::bytes),
    /// [`sign_extend`](Self::sign_extend) and [`rt`](Self::rt).
    #[must_use]
    pub const fn isv(self) -> bool {
        bit(self.0, 24)
    }

    /// The size as encoded: log2 of the bytes, 3 reserved.
    #[must_use]
    pub const fn sas(self) -> u32 {
        field(self.0, 22, 2)
    }

    /// The size in bytes: 1, 2, 4; 8 where the size's encoding is reserved.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1 << self.sas()
    }

    /// Whether a load extends the sign.
    #[must_use]
    pub const fn sign_extend(self) -> bool {
        bit(self.0, 21)
    }

    /// The number of the register loaded or stored.
    #[must_use]
    pub const fn rt(self) -> u32 {
        field(self.0, 16, 4)
    }

    /// The length of the instruction, bytes, where [`isv`](Self::isv) holds.
    #[must_use]
    pub const fn length(self) -> u32 {
        2 + (self.0 >> 24 & 2)
    }

    /// The external abort's type, IMPLEMENTATION DEFINED.
    #[must_use]
    pub const fn ea(self) -> bool {
        bit(self.0, 9)
    }

    /// Whether a cache maintenance or address translation operation faulted.
    #[must_use]
    pub const fn cm(self) -> bool {
        bit(self.0, 8)
    }

    /// Whether a stage-1 table walk faulted at stage 2.
    #[must_use]
    pub const fn s1ptw(self) -> bool {
        bit(self.0, 7)
    }

    /// Whether it writes.
    #[must_use]
    pub const fn write(self) -> bool {
        bit(self.0, 6)
    }

    /// What went wrong.
    #[must_use]
    #[inline]
    pub const fn status(self) -> FaultStatus {
        FaultStatus::decode(self.0)
    }

    /// Whether it is [`mmio`](Self::mmio) with [`isv`](Self::isv), and no permission fault: HPFAR
    /// holds the address.
    #[must_use]
    #[inline]
    pub const fn described(self) -> bool {
        self.0 & 0x0100_03bc == 0x0100_0004
    }

    /// Whether it is [`mmio`](Self::mmio), no permission fault, and without [`isv`](Self::isv).
    #[must_use]
    #[inline]
    pub const fn undescribed(self) -> bool {
        self.0 & 0x0100_03bc == 0x0000_0004
    }

    /// Whether this can be an access to an emulated device: a translation or permission fault of
    /// the access itself, by a load or store and not by a table walk or cache maintenance.
    #[must_use]
    #[inline]
    pub const fn mmio(self) -> bool {
        // Status 0001LL or 0011LL; EA, CM and S1PTW clear.
        self.0 & 0x0000_03b4 == 0x04
    }
}
