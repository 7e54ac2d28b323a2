//! One entry of a stage-2 table: what the hardware sees in it and what it ignores.
//!
//! The two low bits say what an entry is, at every level (ARM DDI 0406C, B3.6). The hardware sees
//! 0b00 and 0b10 alike as invalid and ignores the other 62 bits; 0b10 is ours: the entry carries the
//! slot of a device. So the low word alone answers for everything that is not RAM.
//!
//! | bits 1:0 | level 1 or 2 | level 3 |
//! |---|---|---|
//! | 0b00 | nothing | nothing |
//! | 0b10 | device slot, bits 21:2 | device slot, bits 21:2 |
//! | 0b01 | block of 1 GiB or 2 MiB | – |
//! | 0b11 | table | page |

use crate::addr::{Ipa, Pa};

use super::{Leaf, NOTHING_THERE, RAM_THERE, SLOTS, Table};

/// The entry of an address that has nothing.
pub(super) const NOTHING: u64 = 0;
/// Bits 1:0 of a device's slot.
const SLOT: u32 = 0b10;
/// Bits 1:0 of a block.
const BLOCK: u32 = 0b01;
/// Bits 1:0 of a table, and of a page at level 3.
const TABLE: u32 = 0b11;
/// Bits 1:0.
const KIND: u32 = 0b11;

/// The output address, bits 39:12. Blocks have the lower ones of these clear.
const ADDRESS: u64 = 0x00ff_ffff_f000;
const ACCESS_FLAG: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const HAP_READ: u64 = 1 << 6;
const HAP_WRITE: u64 = 1 << 7;
const XN: u64 = 1 << 54;
const PERMS: u64 = HAP_READ | HAP_WRITE | XN;
const MEM_ATTR_SHIFT: u32 = 2;

/// The levels of the walk; the root is level 1.
pub(super) const LAST_LEVEL: u32 = 3;
/// Entries of a table below the root.
pub(super) const ENTRIES: u32 = 512;

/// What a guest may do with a range of its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Perms {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches, which need `read` too.
    pub exec: bool,
}

impl Perms {
    /// Everything.
    pub const RWX: Self = Self::new(true, true, true);
    /// Loads and stores.
    pub const RW: Self = Self::new(true, true, false);
    /// Loads and fetches.
    pub const RX: Self = Self::new(true, false, true);
    /// Loads.
    pub const R: Self = Self::new(true, false, false);

    const fn new(read: bool, write: bool, exec: bool) -> Self {
        Self { read, write, exec }
    }

    pub(super) const fn bits(self) -> u64 {
        (if self.read { HAP_READ } else { 0 })
            | (if self.write { HAP_WRITE } else { 0 })
            | (if self.exec { 0 } else { XN })
    }
}

/// The memory type that stage 2 imposes; the weaker of it and stage 1's never wins (B3.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Memory {
    /// Strongly-ordered.
    StronglyOrdered = 0b0000,
    /// Device.
    Device = 0b0001,
    /// Normal, not cacheable.
    Uncached = 0b0101,
    /// Normal, inner and outer write-back cacheable: RAM.
    Normal = 0b1111,
}

/// What stage 2 says of a range of RAM or of a device that is passed through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attrs {
    /// What the guest may do.
    pub perms: Perms,
    /// The memory type.
    pub memory: Memory,
}

impl Attrs {
    /// RAM: normal memory, all accesses.
    pub const RAM: Self = Self {
        perms: Perms::RWX,
        memory: Memory::Normal,
    };
    /// Read-only memory that holds code.
    pub const ROM: Self = Self {
        perms: Perms::RX,
        memory: Memory::Normal,
    };
    /// A device's registers, passed through to the guest.
    pub const DEVICE: Self = Self {
        perms: Perms::RW,
        memory: Memory::Device,
    };

    pub(super) const fn bits(self) -> u64 {
        ((self.memory as u64) << MEM_ATTR_SHIFT) | INNER_SHAREABLE | ACCESS_FLAG | self.perms.bits()
    }

    const fn of(entry: u64) -> Self {
        Self {
            perms: Perms {
                read: entry & HAP_READ != 0,
                write: entry & HAP_WRITE != 0,
                exec: entry & XN == 0,
            },
            memory: match (entry >> MEM_ATTR_SHIFT) & 0xf {
                0b0000 => Memory::StronglyOrdered,
                0b0001 => Memory::Device,
                0b0101 => Memory::Uncached,
                _ => Memory::Normal,
            },
        }
    }
}

/// log2 of the bytes that one entry of `level` covers: 30, 21, 12.
pub(super) const fn shift(level: u32) -> u32 {
    39 - 9 * level
}

/// The bytes that one entry of `level` covers.
pub(super) const fn size(level: u32) -> u64 {
    1 << shift(level)
}

pub(super) const fn slot(slot: u32) -> u64 {
    ((slot << 2) | SLOT) as u64
}

pub(super) const fn table(table: Table) -> u64 {
    (table.0 | TABLE) as u64
}

/// A block or page at `pa`, with the bits of [`Attrs::bits`].
pub(super) const fn ram(level: u32, pa: u64, attrs: u64) -> u64 {
    pa | attrs | (if level == LAST_LEVEL { TABLE } else { BLOCK }) as u64
}

/// The table that `entry` points to, where it is one; only the low word is needed, since tables lie
/// below 4 GiB, and nothing else is in it ([`table`]). Not for level 3.
#[inline]
pub(super) const fn next(entry: u64) -> Option<Table> {
    let low = entry as u32;
    if low & KIND == TABLE {
        Some(Table(low ^ TABLE))
    } else {
        None
    }
}

/// Whether `entry` of `level` is a table.
pub(super) const fn is_table(level: u32, entry: u64) -> bool {
    level < LAST_LEVEL && next(entry).is_some()
}

/// Whether the hardware sees the entry.
pub(super) const fn valid(entry: u64) -> bool {
    entry & 1 != 0
}

/// The entry with other permissions, where it is RAM; an absent one stays as it is.
pub(super) const fn with_perms(entry: u64, perms: u64) -> u64 {
    if valid(entry) {
        (entry & !PERMS) | perms
    } else {
        entry
    }
}

/// Whether two valid entries of one place differ in permissions alone.
pub(super) const fn same_but_perms(a: u64, b: u64) -> bool {
    (a ^ b) & !PERMS == 0
}

/// Entry `index` of the table of `level` + 1 that says the same as `entry`, no table itself.
pub(super) const fn part(level: u32, entry: u64, index: u32) -> u64 {
    if !valid(entry) {
        return entry;
    }
    let kind = if level + 1 == LAST_LEVEL {
        TABLE
    } else {
        BLOCK
    };
    (entry & !(KIND as u64) | kind as u64) + ((index as u64) << shift(level + 1))
}

/// The reverse of [`part`]: the entry of `level` that says what a table does whose entries are
/// `part(level, e, index)` for every index, and whose first is `first`. `None` where no such entry
/// exists because RAM is not aligned to its size.
pub(super) const fn whole(level: u32, first: u64) -> Option<u64> {
    if !valid(first) {
        return Some(first);
    }
    if first & ADDRESS & (size(level) - 1) != 0 {
        return None;
    }
    Some(first & !(KIND as u64) | BLOCK as u64)
}

/// The slot in `entry`, no table, or what stands for one.
#[inline(always)]
pub(super) const fn slot_of(entry: u64) -> u32 {
    let low = entry as u32;
    if low & 1 != 0 {
        RAM_THERE
    } else if low & SLOT != 0 {
        (low >> 2) & (SLOTS - 1)
    } else {
        NOTHING_THERE
    }
}

/// What `entry` of `level`, no table, says of the address `ipa`.
#[inline]
pub(super) const fn leaf(level: u32, entry: u64, ipa: Ipa) -> Leaf {
    let low = entry as u32;
    if low & 1 != 0 {
        let inside = size(level) - 1;
        return Leaf::Ram {
            pa: Pa((entry & ADDRESS & !inside) | (ipa.0 & inside)),
            size: size(level),
            attrs: Attrs::of(entry),
        };
    }
    if low & SLOT != 0 {
        return Leaf::Slot((low >> 2) & (SLOTS - 1));
    }
    Leaf::Nothing
}
