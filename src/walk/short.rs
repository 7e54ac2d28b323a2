//! Short descriptors (ARM DDI 0406C, B3.5).

use crate::addr::Ipa;
use crate::syndrome::FaultStatus;

use super::{
    Access, Attributes, Fault, Memory, Permissions, Shareability, Stage1, Translation, sctlr,
};

/// Bytes that a supersection maps.
pub(super) const SUPERSECTION: u64 = 16 << 20;
const SECTION: u64 = 1 << 20;
const LARGE_PAGE: u64 = 64 << 10;
const SMALL_PAGE: u64 = 4 << 10;

/// What the last entry of a walk says, each format's fields put in one order.
struct Entry {
    level: u8,
    domain: u8,
    /// Where the memory is; a multiple of `size`.
    base: u64,
    size: u64,
    /// TEX, C, B.
    texcb: u32,
    shared: bool,
    /// `AP[2:0]`.
    ap: u32,
    xn: bool,
    pxn: bool,
}

const fn field(value: u32, low: u32, width: u32) -> u32 {
    (value >> low) & ((1 << width) - 1)
}

const fn bit(value: u32, n: u32) -> bool {
    value & (1 << n) != 0
}

pub(super) fn translate(
    regs: &Stage1,
    memory: &mut impl Memory,
    va: u32,
    access: Access,
) -> Result<Translation, Fault> {
    let entry = walk(regs, memory, va)?;
    let (level, domain) = (entry.level, entry.domain);
    if regs.has(sctlr::AFE) && entry.ap & 1 == 0 {
        return Err(Fault::new(FaultStatus::AccessFlag { level }, domain));
    }
    let permissions = match field(regs.dacr, 2 * u32::from(domain), 2) {
        0b01 => permissions(regs, &entry),
        0b11 => Permissions::ALL,
        // No access; 0b10 is UNPREDICTABLE.
        _ => return Err(Fault::new(FaultStatus::Domain { level }, domain)),
    };
    if !permissions.allow(access) {
        return Err(Fault::new(FaultStatus::Permission { level }, domain));
    }
    Ok(Translation {
        ipa: Ipa(entry.base | (u64::from(va) & (entry.size - 1))),
        size: entry.size,
        attributes: attributes(regs, entry.texcb, entry.shared),
        permissions,
        domain,
    })
}

/// See [`super::instruction`].
#[inline(always)]
pub(super) fn instruction(
    regs: &Stage1,
    memory: &mut impl Memory,
    va: u32,
    privileged: bool,
) -> Option<Ipa> {
    const SECTION_KIND: u32 = 1 << 18 | 2;
    const SECTION_NEVER: u32 = 1 << 4 | 1;
    const TABLE_PXN: u32 = 1 << 2;
    const PAGE_KIND: u32 = 2;
    const PAGE_NEVER: u32 = 1;
    let table = regs.ttbr0 as u32 & !0x3fff;
    let first = memory.read32(Ipa((table | va >> 20 << 2).into())).ok()?;
    let (address, ap) = if first & (SECTION_KIND | SECTION_NEVER) == 2 {
        (first & 0xfff0_0000 | va & 0xf_ffff, first >> 10)
    } else if first & (3 | TABLE_PXN) == 1 {
        let at = (first & !0x3ff) | field(va, 12, 8) << 2;
        let page = memory.read32(Ipa(at.into())).ok()?;
        if page & (PAGE_KIND | PAGE_NEVER) != PAGE_KIND {
            return None;
        }
        (page & 0xffff_f000 | va & 0xfff, page >> 4)
    } else {
        return None;
    };
    // Clients and managers. AP[1:0] but 0 lets PL1 read, AP[1] lets PL0 (Table B3-8).
    let domain = regs.dacr >> (first >> 4 & 0x1e);
    let readers = 0b10 | u32::from(privileged);
    (domain & 1 != 0 && ap & readers != 0).then_some(Ipa(address.into()))
}

/// The entry that maps `va` (B3.5).
#[inline(always)]
fn walk(regs: &Stage1, memory: &mut impl Memory, va: u32) -> Result<Entry, Fault> {
    let table = root(regs, va).ok_or(Fault::new(FaultStatus::Translation { level: 1 }, 0))?;
    let first = read(regs, memory, table, 1, 0)?;
    match first & 3 {
        0b00 => Err(Fault::new(FaultStatus::Translation { level: 1 }, 0)),
        0b01 => second(regs, memory, va, first),
        _ => Ok(section(first)),
    }
}

/// Where the first-level entry of `va` is; `None` where the walk is disabled (B3.5).
const fn root(regs: &Stage1, va: u32) -> Option<u32> {
    const PD0: u32 = 1 << 4;
    const PD1: u32 = 1 << 5;
    let n = regs.ttbcr & 7;
    let (ttbr, n, disabled) = if n == 0 || va >> (32 - n) == 0 {
        (regs.ttbr0, n, PD0)
    } else {
        (regs.ttbr1, 0, PD1)
    };
    if regs.ttbcr & disabled != 0 {
        return None;
    }
    let base = ttbr as u32 & !((1 << (14 - n)) - 1);
    // The bits above the table's size are 0 already where TTBR0 is used.
    Some(base | (va >> 20) << 2)
}

fn read(
    regs: &Stage1,
    memory: &mut impl Memory,
    address: u32,
    level: u8,
    domain: u8,
) -> Result<u32, Fault> {
    let ipa = Ipa(address.into());
    match memory.read32(ipa) {
        Ok(entry) if regs.has(sctlr::EE) => Ok(entry.swap_bytes()),
        Ok(entry) => Ok(entry),
        Err(refused) => Err(Fault::on_walk(refused, level, domain, ipa)),
    }
}

/// A section or supersection.
#[inline(always)]
const fn section(entry: u32) -> Entry {
    let supersection = bit(entry, 18);
    let (domain, base, size) = if supersection {
        let high = ((field(entry, 5, 4) as u64) << 36) | ((field(entry, 20, 4) as u64) << 32);
        (0, high | (entry & 0xff00_0000) as u64, SUPERSECTION)
    } else {
        let domain = field(entry, 5, 4) as u8;
        (domain, (entry & 0xfff0_0000) as u64, SECTION)
    };
    Entry {
        level: 1,
        domain,
        base,
        size,
        texcb: field(entry, 12, 3) << 2 | field(entry, 2, 2),
        shared: bit(entry, 16),
        ap: field(entry, 15, 1) << 2 | field(entry, 10, 2),
        xn: bit(entry, 4),
        pxn: bit(entry, 0),
    }
}

/// The page in the second-level table that `first` points to.
fn second(regs: &Stage1, memory: &mut impl Memory, va: u32, first: u32) -> Result<Entry, Fault> {
    let domain = field(first, 5, 4) as u8;
    let address = (first & !0x3ff) | field(va, 12, 8) << 2;
    let entry = read(regs, memory, address, 2, domain)?;
    if entry & 3 == 0 {
        return Err(Fault::new(FaultStatus::Translation { level: 2 }, domain));
    }
    let large = !bit(entry, 1);
    let (size, tex, xn) = if large {
        (LARGE_PAGE, field(entry, 12, 3), bit(entry, 15))
    } else {
        (SMALL_PAGE, field(entry, 6, 3), bit(entry, 0))
    };
    Ok(Entry {
        level: 2,
        domain,
        base: u64::from(entry) & !(size - 1),
        size,
        texcb: tex << 2 | field(entry, 2, 2),
        shared: bit(entry, 10),
        ap: field(entry, 9, 1) << 2 | field(entry, 4, 2),
        xn,
        pxn: bit(first, 2),
    })
}

/// `AP[2:0]` (Table B3-8). Where `AP[0]` is the access flag it is set here, and the rows for that are
/// those of the two-bit model.
const fn permissions(regs: &Stage1, entry: &Entry) -> Permissions {
    const NO: (bool, bool) = (false, false);
    const R: (bool, bool) = (true, false);
    const RW: (bool, bool) = (true, true);
    let (privileged, user) = match entry.ap {
        0b001 => (RW, NO),
        0b010 => (RW, R),
        0b011 => (RW, RW),
        0b101 => (R, NO),
        0b110 | 0b111 => (R, R),
        // 0b100 is reserved.
        _ => (NO, NO),
    };
    Permissions::new(regs, privileged, user, entry.xn, entry.pxn)
}

/// A cache policy of two bits, as a nibble of MAIR (Table B3-11).
const fn policy(code: u32) -> u8 {
    match code & 3 {
        0b00 => 0b0100,
        0b01 => 0b1111,
        0b10 => 0b1010,
        _ => 0b1110,
    }
}

const fn attributes(regs: &Stage1, texcb: u32, shared: bool) -> Attributes {
    if regs.has(sctlr::TRE) {
        return remapped(regs, texcb & 7, shared);
    }
    let shareability = if shared {
        Shareability::Outer
    } else {
        Shareability::None
    };
    // Table B3-10.
    let mair = match texcb {
        0b00010 => 0xaa,
        0b00011 => 0xee,
        0b00100 => Attributes::UNCACHED,
        0b00111 => 0xff,
        0b00001 | 0b01000 => Attributes::DEVICE,
        0b10000.. => policy(texcb >> 2) << 4 | policy(texcb),
        // Strongly-ordered, and what is reserved.
        _ => Attributes::STRONGLY_ORDERED,
    };
    Attributes::new(mair, shareability)
}

/// TEX remap: region `n` of PRRR and NMRR (B3.8).
const fn remapped(regs: &Stage1, n: u32, shared: bool) -> Attributes {
    let (prrr, nmrr) = (regs.mair0, regs.mair1);
    let mair = match field(prrr, 2 * n, 2) {
        0b01 => Attributes::DEVICE,
        0b10 => policy(nmrr >> (2 * n + 16)) << 4 | policy(nmrr >> (2 * n)),
        // Strongly-ordered, and what is reserved.
        _ => Attributes::STRONGLY_ORDERED,
    };
    // NS1 and NS0 say what the S bit means.
    let shareability = match (bit(prrr, if shared { 19 } else { 18 }), bit(prrr, 24 + n)) {
        (false, _) => Shareability::None,
        (true, true) => Shareability::Inner,
        (true, false) => Shareability::Outer,
    };
    Attributes::new(mair, shareability)
}
