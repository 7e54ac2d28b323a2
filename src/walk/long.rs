//! Long descriptors (ARM DDI 0406C, B3.6).

use crate::addr::Ipa;
use crate::syndrome::FaultStatus;

use super::{
    Access, Attributes, Fault, Memory, Permissions, Shareability, Stage1, Translation, sctlr,
};

/// The output address, bits 39:12.
const ADDRESS: u64 = 0x00ff_ffff_f000;

/// What the tables on the way take away (B3.6).
#[derive(Clone, Copy, Default)]
struct Taken {
    write: bool,
    user: bool,
    xn: bool,
    pxn: bool,
}

const fn bit(value: u64, n: u32) -> bool {
    value & (1 << n) != 0
}

/// log2 of the bytes that an entry of `level` maps.
const fn shift(level: u8) -> u32 {
    39 - 9 * level as u32
}

pub(super) fn translate(
    regs: &Stage1,
    memory: &mut impl Memory,
    va: u32,
    access: Access,
) -> Result<Translation, Fault> {
    let (level, entry, taken) = walk(regs, memory, va)?;
    if !bit(entry, 10) {
        return Err(Fault::new(FaultStatus::AccessFlag { level }, 0));
    }
    let permissions = permissions(regs, entry, taken);
    if !permissions.allow(access) {
        return Err(Fault::new(FaultStatus::Permission { level }, 0));
    }
    let size = 1 << shift(level);
    let inside = size - 1;
    Ok(Translation {
        ipa: Ipa((entry & ADDRESS & !inside) | (u64::from(va) & inside)),
        size,
        attributes: attributes(regs, entry),
        permissions,
        domain: 0,
    })
}

/// Where a walk begins.
struct Root {
    table: u64,
    level: u8,
    /// The bits of the address that are left to translate.
    va: u32,
}

/// The root for `va`; `None` where it is in neither region or its walk is disabled (B3.6).
const fn root(regs: &Stage1, va: u32) -> Option<Root> {
    const EPD0: u32 = 1 << 7;
    const EPD1: u32 = 1 << 23;
    let t0sz = regs.ttbcr & 7;
    let t1sz = (regs.ttbcr >> 16) & 7;
    // Each region is the addresses that begin with so many zeros or ones. TTBR1 goes first, and
    // without a size it has what TTBR0's leaves.
    let zeros = t0sz == 0 || va >> (32 - t0sz) == 0;
    let ones = t1sz > 0 && !va >> (32 - t1sz) == 0;
    let (ttbr, size, disabled) = if ones || (t1sz == 0 && !zeros) {
        (regs.ttbr1, t1sz, EPD1)
    } else if zeros {
        (regs.ttbr0, t0sz, EPD0)
    } else {
        return None;
    };
    if regs.ttbcr & disabled != 0 {
        return None;
    }
    // A region of at most 1 GiB would have one entry at level 1, and begins at level 2.
    let (level, low) = if size < 2 {
        (1, 5 - size)
    } else {
        (2, 14 - size)
    };
    Some(Root {
        table: ttbr & 0x00ff_ffff_ffff & !((1 << low) - 1),
        level,
        va: va & (u32::MAX >> size),
    })
}

/// The entry that maps `va`, and its level (B3.6).
fn walk(regs: &Stage1, memory: &mut impl Memory, va: u32) -> Result<(u8, u64, Taken), Fault> {
    let fault = |level| Fault::new(FaultStatus::Translation { level }, 0);
    let root = root(regs, va).ok_or(fault(1))?;
    let (mut table, mut va) = (root.table, root.va);
    let mut taken = Taken::default();
    for level in root.level..=3 {
        let index = va >> shift(level);
        va &= (1 << shift(level)) - 1;
        let entry = read(regs, memory, Ipa(table | u64::from(index) << 3), level)?;
        match (entry & 3, level) {
            (0b11, 3) | (0b01, 1 | 2) => return Ok((level, entry, taken)),
            (0b11, _) => {
                table = entry & ADDRESS;
                taken.write |= bit(entry, 62);
                taken.user |= bit(entry, 61);
                taken.xn |= bit(entry, 60);
                taken.pxn |= bit(entry, 59);
            }
            _ => return Err(fault(level)),
        }
    }
    // Level 3 has no tables.
    Err(fault(3))
}

fn read(regs: &Stage1, memory: &mut impl Memory, ipa: Ipa, level: u8) -> Result<u64, Fault> {
    match memory.read64(ipa) {
        Ok(entry) if regs.has(sctlr::EE) => Ok(entry.swap_bytes()),
        Ok(entry) => Ok(entry),
        Err(refused) => Err(Fault::on_walk(refused, level, 0, ipa)),
    }
}

/// `AP[2:1]` (Table B3-8): bit 7 forbids writes, bit 6 admits PL0.
const fn permissions(regs: &Stage1, entry: u64, taken: Taken) -> Permissions {
    let write = !bit(entry, 7) && !taken.write;
    let user = bit(entry, 6) && !taken.user;
    let xn = bit(entry, 54) || taken.xn;
    let pxn = bit(entry, 53) || taken.pxn;
    Permissions::new(regs, (true, write), (user, user && write), xn, pxn)
}

const fn attributes(regs: &Stage1, entry: u64) -> Attributes {
    let index = (entry >> 2) & 7;
    let mair = (regs.mair1 as u64) << 32 | regs.mair0 as u64;
    let shareability = match (entry >> 8) & 3 {
        0b10 => Shareability::Outer,
        0b11 => Shareability::Inner,
        // 0b01 is reserved.
        _ => Shareability::None,
    };
    Attributes::new((mair >> (8 * index)) as u8, shareability)
}
