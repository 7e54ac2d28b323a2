//! A guest's stage-1 translation in software (ARM DDI 0406C, B3.3, B3.5, B3.6).
//!
//! For where the hardware's own translation operations can't be asked: a vCPU that is not loaded,
//! an operation that an emulated guest hypervisor performs, a fault that has to be reported as the
//! architecture would. The answer is the manual's, in the order in which the manual checks:
//! translation, access flag, domain, permission. A walk reads at most three entries.
//!
//! The tables belong to a guest, which may write anything into them and change them meanwhile. What
//! the manual calls UNPREDICTABLE faults here, or ignores the bits in question, as noted there.
//! Modelled are the cores that have the Virtualization Extensions: PXN and 40-bit addresses are
//! there, the Fast Context Switch Extension and hardware management of the access flag are not.

use crate::addr::Ipa;
use crate::stage2::{self, Leaf};
use crate::syndrome::FaultStatus;

mod long;
mod short;

/// The registers that decide about a translation, of one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stage1 {
    /// SCTLR.
    pub sctlr: u32,
    /// TTBCR.
    pub ttbcr: u32,
    /// TTBR0, zero-extended if it was read as 32 bits.
    pub ttbr0: u64,
    /// TTBR1, likewise.
    pub ttbr1: u64,
    /// DACR.
    pub dacr: u32,
    /// PRRR, which is MAIR0 in the long-descriptor format.
    pub mair0: u32,
    /// NMRR, which is MAIR1 in the long-descriptor format.
    pub mair1: u32,
}

/// Bits of SCTLR (B4.1).
mod sctlr {
    /// The MMU is on.
    pub(super) const M: u32 = 1 << 0;
    /// Data caches are on.
    pub(super) const C: u32 = 1 << 2;
    /// Instruction caches are on.
    pub(super) const I: u32 = 1 << 12;
    /// What is writable at a privilege level can't be executed there.
    pub(super) const WXN: u32 = 1 << 19;
    /// What is writable at PL0 can't be executed at PL1.
    pub(super) const UWXN: u32 = 1 << 20;
    /// Tables are big-endian.
    pub(super) const EE: u32 = 1 << 25;
    /// TEX remap.
    pub(super) const TRE: u32 = 1 << 28;
    /// `AP[0]` is the access flag.
    pub(super) const AFE: u32 = 1 << 29;
}

/// The two formats of tables, of PAR and of the fault status registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Short descriptors.
    Short,
    /// Long descriptors (LPAE).
    Long,
}

impl Stage1 {
    /// The format that TTBCR.EAE selects.
    #[must_use]
    pub const fn format(&self) -> Format {
        if self.ttbcr & (1 << 31) != 0 {
            Format::Long
        } else {
            Format::Short
        }
    }

    const fn has(&self, bit: u32) -> bool {
        self.sctlr & bit != 0
    }
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// An access to be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What it does.
    pub kind: Kind,
    /// Whether it is made with PL1's rights, not with PL0's.
    pub privileged: bool,
}

/// Why an entry could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no memory at that address: a synchronous external abort.
    External,
    /// Stage 2 refused, with this status.
    Stage2(FaultStatus),
}

/// A guest's memory, by intermediate physical address, which is aligned to the size read.
pub trait Memory {
    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// Why there are none.
    fn read32(&mut self, ipa: Ipa) -> Result<u32, Refused>;

    /// Eight bytes, little-endian, single-copy atomic as seen by the guest.
    ///
    /// # Errors
    /// Why there are none.
    fn read64(&mut self, ipa: Ipa) -> Result<u64, Refused>;
}

/// What is allowed at one privilege level.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rights {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Rights {
    const ALL: Self = Self {
        read: true,
        write: true,
        execute: true,
    };

    const fn allow(self, kind: Kind) -> bool {
        match kind {
            Kind::Read => self.read,
            Kind::Write => self.write,
            Kind::Execute => self.execute,
        }
    }
}

/// What is allowed at both privilege levels. In words, or else every copy is a call.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(align(4))]
pub struct Permissions {
    /// At PL1.
    pub privileged: Rights,
    /// At PL0.
    pub user: Rights,
}

impl Permissions {
    const ALL: Self = Self {
        privileged: Rights::ALL,
        user: Rights::ALL,
    };

    /// From who may read and write (PL1, then PL0) and what forbids execution (B3.7).
    const fn new(
        regs: &Stage1,
        (read, write): (bool, bool),
        (user_read, user_write): (bool, bool),
        xn: bool,
        pxn: bool,
    ) -> Self {
        let wxn = regs.has(sctlr::WXN);
        let never = xn || pxn || (wxn && write) || (regs.has(sctlr::UWXN) && user_write);
        let user_never = xn || (wxn && user_write);
        Self {
            privileged: Rights {
                read,
                write,
                execute: read && !never,
            },
            user: Rights {
                read: user_read,
                write: user_write,
                execute: user_read && !user_never,
            },
        }
    }

    const fn allow(self, access: Access) -> bool {
        if access.privileged {
            self.privileged.allow(access.kind)
        } else {
            self.user.allow(access.kind)
        }
    }
}

/// Who shares memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shareability {
    /// Nobody.
    None = 0b00,
    /// The outer shareable domain.
    Outer = 0b10,
    /// The inner shareable domain.
    Inner = 0b11,
}

/// The memory type, as one byte of MAIR holds it (B4.1), and who shares it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Bits 7:4 outer, 3:0 inner cacheability; 0x00 strongly-ordered, 0x04 device.
    pub mair: u8,
    /// Who shares it.
    pub shareability: Shareability,
}

impl Attributes {
    const STRONGLY_ORDERED: u8 = 0x00;
    const DEVICE: u8 = 0x04;
    const UNCACHED: u8 = 0x44;

    /// Device and uncached memory is outer shareable, whatever its entry says.
    const fn new(mair: u8, shareability: Shareability) -> Self {
        let shareability = if mair & 0xf0 == 0 || mair == Self::UNCACHED {
            Shareability::Outer
        } else {
            shareability
        };
        Self { mair, shareability }
    }

    /// Whether it is strongly-ordered or device memory.
    #[must_use]
    pub const fn is_device(self) -> bool {
        self.mair & 0xf0 == 0
    }

    /// What results from this stage-1 type and the stage-2 type: the stronger of both, shared as
    /// widely as either says; stage 2 says inner shareable (B3.8).
    #[must_use]
    pub const fn combined(self, stage2: stage2::Memory) -> Self {
        use stage2::Memory;
        let device = self.mair & 0xf0 == 0;
        let mair = match stage2 {
            Memory::StronglyOrdered => Self::STRONGLY_ORDERED,
            Memory::Device if self.mair == Self::STRONGLY_ORDERED => Self::STRONGLY_ORDERED,
            Memory::Device => Self::DEVICE,
            Memory::Uncached if !device => Self::UNCACHED,
            Memory::Uncached | Memory::Normal => self.mair,
        };
        let shareability = match self.shareability {
            Shareability::Outer => Shareability::Outer,
            _ => Shareability::Inner,
        };
        Self::new(mair, shareability)
    }

    /// PAR's Outer and Inner fields of the short format, bits 6:2 (B4.1).
    const fn par(self) -> u32 {
        const fn cache(nibble: u8) -> u32 {
            match nibble {
                0b0100 => 0b000,
                // Write-through, transient or not.
                0b0001..=0b0011 | 0b1000..=0b1011 => 0b110,
                // Write-back; bit 0 allocates on writes.
                _ if nibble & 1 != 0 => 0b101,
                _ => 0b111,
            }
        }
        match self.mair {
            Self::STRONGLY_ORDERED => 0b001 << 4,
            0x01..=0x0f => 0b011 << 4,
            mair => (cache(mair & 0xf) << 4) | ((cache(mair >> 4) & 0b011) << 2),
        }
    }
}

/// What an address was translated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The intermediate physical address.
    pub ipa: Ipa,
    /// The bytes that the entry maps, a power of two from 4 KiB to 4 GiB (MMU off).
    pub size: u64,
    /// The memory type.
    pub attributes: Attributes,
    /// What is allowed, domains considered.
    pub permissions: Permissions,
    /// The domain; 0 in the long-descriptor format.
    pub domain: u8,
}

/// Who found the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The guest's own tables.
    One,
    /// Stage 2, of the address that stage 1 gave.
    Two(Ipa),
    /// Stage 2, of the address of an entry of the guest's tables.
    Walk(Ipa),
}

/// Why an address was not translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What went wrong, at which level.
    pub status: FaultStatus,
    /// The domain, where the walk got to know it, else 0.
    pub domain: u8,
    /// Who found it.
    pub stage: Stage,
}

impl Fault {
    const fn new(status: FaultStatus, domain: u8) -> Self {
        Self {
            status,
            domain,
            stage: Stage::One,
        }
    }

    /// The read of a level's entry at `ipa` was refused.
    const fn on_walk(refused: Refused, level: u8, domain: u8, ipa: Ipa) -> Self {
        match refused {
            Refused::External => Self::new(FaultStatus::ExternalOnWalk { level }, domain),
            Refused::Stage2(status) => Self {
                status,
                domain,
                stage: Stage::Walk(ipa),
            },
        }
    }

    /// DFSR for a data abort (B4.1).
    #[must_use]
    pub const fn dfsr(self, format: Format, write: bool) -> u32 {
        let wnr = (write as u32) << 11;
        match format {
            Format::Short => self.ifsr(format) | wnr | ((self.domain as u32) << 4),
            Format::Long => self.ifsr(format) | wnr,
        }
    }

    /// IFSR for a prefetch abort (B4.1).
    #[must_use]
    pub const fn ifsr(self, format: Format) -> u32 {
        match format {
            Format::Short => {
                let fs = self.status.encode_short();
                (fs & 0xf) | ((fs >> 4) << 10)
            }
            Format::Long => self.status.encode() | 1 << 9,
        }
    }

    /// PAR for a translation operation that failed (B4.1); bits 31:0 in the short format, which
    /// can't tell who found the fault.
    #[must_use]
    pub const fn par(self, format: Format) -> u64 {
        match format {
            Format::Short => ((self.status.encode_short() << 1) | 1) as u64,
            Format::Long => {
                let stage = match self.stage {
                    Stage::One => 0,
                    Stage::Two(_) => 1 << 9,
                    Stage::Walk(_) => 1 << 9 | 1 << 8,
                };
                (1 << 11 | stage | (self.status.encode() << 1) | 1) as u64
            }
        }
    }
}

impl Translation {
    /// The same after stage 2, which has `leaf` at its address, found at `level`, for an access of
    /// `kind`: the stronger of both memory types.
    ///
    /// # Errors
    /// Stage 2's fault. What it does not map for the hardware, a device that is emulated among that,
    /// is a translation fault.
    pub fn through(self, leaf: Leaf, level: u8, kind: Kind) -> Result<Self, Fault> {
        let status = match leaf {
            Leaf::Ram { size, attrs, .. } => {
                let stage2::Perms { read, write, exec } = attrs.perms;
                let rights = Rights {
                    read,
                    write,
                    execute: read && exec,
                };
                if rights.allow(kind) {
                    return Ok(Self {
                        size: self.size.min(size),
                        attributes: self.attributes.combined(attrs.memory),
                        ..self
                    });
                }
                FaultStatus::Permission { level }
            }
            Leaf::Slot(_) | Leaf::Nothing => FaultStatus::Translation { level },
        };
        Err(Fault {
            status,
            domain: self.domain,
            stage: Stage::Two(self.ipa),
        })
    }

    /// PAR for a translation operation that succeeded (B4.1); bits 31:0 in the short format.
    /// NS, which is UNKNOWN to a Non-secure reader, is set.
    #[must_use]
    pub const fn par(self, format: Format) -> u64 {
        const NS: u64 = 1 << 9;
        let attributes = self.attributes;
        match format {
            Format::Short => {
                let address = if self.size == short::SUPERSECTION {
                    // SS, and PA[39:32] in bits 23:16.
                    (self.ipa.0 & 0xff00_0000) | (self.ipa.0 >> 32 & 0xff) << 16 | 1 << 1
                } else {
                    self.ipa.0 & 0xffff_f000
                };
                let shared = match attributes.shareability {
                    Shareability::None => 1 << 10,
                    Shareability::Outer => 1 << 7,
                    Shareability::Inner => 1 << 10 | 1 << 7,
                };
                address | NS | shared | attributes.par() as u64
            }
            Format::Long => {
                let address = self.ipa.0 & 0x00ff_ffff_f000;
                let shared = (attributes.shareability as u64) << 7;
                (attributes.mair as u64) << 56 | address | 1 << 11 | NS | shared
            }
        }
    }
}

/// Translates `va` as the vCPU with `regs` would.
///
/// # Errors
/// The fault that it would take.
pub fn translate(
    regs: &Stage1,
    memory: &mut impl Memory,
    va: u32,
    access: Access,
) -> Result<Translation, Fault> {
    if !regs.has(sctlr::M) {
        return Ok(flat(regs, va, access));
    }
    match regs.format() {
        Format::Short => short::translate(regs, memory, va, access),
        Format::Long => long::translate(regs, memory, va, access),
    }
}

/// Where the instruction at `va` is, by the way that most go: a section or a small page of TTBR0's
/// table, with the data cache on, which may hold the table. `None` where [`translate`] must say, whatever is refused among that.
#[inline(always)]
pub fn instruction(
    regs: &Stage1,
    memory: &mut impl Memory,
    va: u32,
    privileged: bool,
) -> Option<Ipa> {
    const RARE: u32 = sctlr::EE | sctlr::AFE | sctlr::WXN | sctlr::UWXN;
    const USUAL: u32 = sctlr::M | sctlr::C;
    if regs.ttbcr != 0 || regs.sctlr & (RARE | USUAL) != USUAL {
        return None;
    }
    short::instruction(regs, memory, va, privileged)
}

/// The MMU is off: addresses are the same and everything is allowed (B3.2; HCR.DC is not used).
const fn flat(regs: &Stage1, va: u32, access: Access) -> Translation {
    let mair = match access.kind {
        // Write-through.
        Kind::Execute if regs.has(sctlr::I) => 0xaa,
        Kind::Execute => Attributes::UNCACHED,
        _ => Attributes::STRONGLY_ORDERED,
    };
    Translation {
        ipa: Ipa(va as u64),
        size: 1 << 32,
        attributes: Attributes::new(mair, Shareability::Outer),
        permissions: Permissions::ALL,
        domain: 0,
    }
}
