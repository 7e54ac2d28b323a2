//! Stage-2 translation tables: what a guest's physical addresses mean (ARM DDI 0406C, B3.6, B3.7).
//!
//! One walk answers what an address is: RAM, a device, or nothing. A device's registers are absent
//! for the hardware, so every access traps, but the invalid entry carries the device's slot in bits
//! that the hardware ignores. So an access costs the same with one device and with a thousand.
//!
//! **Form.** A change never leaves a table whose entries one bigger entry could say; the tables
//! that are in use follow from what is mapped, not from its history. Blocks of 2 MiB and 1 GiB come
//! and go by themselves.
//!
//! **Order.** A change is counted before it is made. The count finds what is wrong with it and how
//! many tables it needs, these are taken from [`Tables`], and then nothing can fail: a change
//! happens as a whole or not at all.
//!
//! **Break before make** (B3.10). Where a valid entry gives way to a valid one of another
//! address, type or size, it is written invalid, the TLBs are flushed, and only then the new one is
//! written. Meanwhile another vCPU can fault on an address that is RAM before and after: an abort
//! on an address for which [`Stage2::lookup`] then finds RAM that allows the access is no error,
//! the guest just goes on. Permissions alone change in place, as the architecture allows.
//! A table is flushed out of the walkers' caches before it is freed.

use core::cell::Cell;
use core::fmt;

use crate::addr::{Ipa, PAGE, PAGE_SHIFT, Pa};

mod change;
mod entry;

use change::Change;
pub use entry::{Attrs, Memory, Perms};
use entry::{ENTRIES, NOTHING};

/// Slots are below this.
pub const SLOTS: u32 = 1 << 20;
/// In place of a slot, where nothing is.
pub const NOTHING_THERE: u32 = SLOTS;
/// In place of a slot, where RAM is.
pub const RAM_THERE: u32 = SLOTS + 1;
/// The least and the greatest width of a guest's physical addresses, bits.
pub const WIDTHS: core::ops::RangeInclusive<u32> = 32..=40;
/// Physical addresses of the machine are below this.
const PA_LIMIT: u64 = 1 << 40;

/// A table by its physical address, a multiple of 4096. Tables lie below 4 GiB, where Hyp's image
/// and its heap are, so that a walk can do with the low word of each entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Table(pub u32);

/// The memory that holds the tables of one VM, and the TLBs that have cached them.
pub trait Tables {
    /// A zeroed table of `pages` pages of 4 KiB, 1 or 2, contiguous and aligned to its size; `None`
    /// where the VM's share is used up.
    fn alloc(&mut self, pages: u32) -> Option<Table>;

    /// Takes back what [`alloc`](Self::alloc) gave with the same `pages`. Its entries may be
    /// anything.
    fn free(&mut self, table: Table, pages: u32);

    /// Entry `index` of `table`; up to 511, in a root of 2 pages up to 1023.
    fn read(&self, table: Table, index: u32) -> u64;

    /// Writes an entry as one single-copy atomic access and makes it visible to the walkers: to the
    /// point of unification where they don't look into the caches, and at the latest when a guest
    /// is entered.
    fn write(&mut self, table: Table, index: u32, entry: u64);

    /// Ends every use of what was written over: DSB, TLB invalidation of this VM's VMID on all CPUs,
    /// DSB. A VM that has no VMID of the current generation has nothing in the TLBs.
    fn flush(&mut self);
}

impl<T: Tables + ?Sized> Tables for &mut T {
    fn alloc(&mut self, pages: u32) -> Option<Table> {
        (**self).alloc(pages)
    }
    fn free(&mut self, table: Table, pages: u32) {
        (**self).free(table, pages);
    }
    #[inline]
    fn read(&self, table: Table, index: u32) -> u64 {
        (**self).read(table, index)
    }
    fn write(&mut self, table: Table, index: u32, entry: u64) {
        (**self).write(table, index, entry);
    }
    fn flush(&mut self) {
        (**self).flush();
    }
}

/// What an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// Nothing is there.
    Nothing,
    /// Memory of the machine, or a device's registers passed through.
    Ram {
        /// Where the address looked up is in the machine.
        pa: Pa,
        /// The bytes that the entry covers, from the address aligned down to it: 4 KiB, 2 MiB or
        /// 1 GiB.
        size: u64,
        /// What the guest may do with it.
        attrs: Attrs,
    },
    /// A device, by its slot.
    Slot(u32),
}

impl Leaf {
    /// The slot, [`NOTHING_THERE`] or [`RAM_THERE`].
    #[must_use]
    pub const fn slot(self) -> u32 {
        match self {
            Self::Nothing => NOTHING_THERE,
            Self::Ram { .. } => RAM_THERE,
            Self::Slot(slot) => slot,
        }
    }
}

/// The TLB flush that a change owes. It must be paid, by [`Tables::flush`] or the same, before
/// another change is made to the addresses in question and before the caller relies on the old
/// entries being out of use.
#[must_use = "until it is paid the guest can still use what was changed"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Nothing is owed.
    None,
    /// The VM's VMID, on all CPUs.
    Vmid,
}

impl Flush {
    /// What both owe, paid at once.
    pub const fn and(self, other: Self) -> Self {
        match self {
            Self::None => other,
            Self::Vmid => Self::Vmid,
        }
    }
}

/// Why a change was refused; nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// An address or a length is not a multiple of 4096.
    Misaligned,
    /// The range leaves the guest's physical address space, or the machine's.
    Outside,
    /// Something is already there that the change must not replace.
    Mapped {
        /// The first such address.
        ipa: Ipa,
    },
    /// The slot is not below [`SLOTS`].
    BadSlot {
        /// The slot.
        slot: u32,
    },
    /// The width is not in [`WIDTHS`].
    BadWidth {
        /// The width, bits.
        width: u32,
    },
    /// The VM's share of tables is used up.
    OutOfTables {
        /// How many the change needs.
        needed: u32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned => f.write_str("address or length is not a multiple of 4 KiB"),
            Self::Outside => f.write_str("range outside the physical address space"),
            Self::Mapped { ipa } => write!(f, "{ipa} is already mapped"),
            Self::BadSlot { slot } => write!(f, "device slot {slot} is not below {SLOTS}"),
            Self::BadWidth { width } => {
                write!(f, "physical addresses of {width} bits; must be 32 to 40")
            }
            Self::OutOfTables { needed } => {
                write!(f, "no memory for {needed} more stage-2 tables")
            }
        }
    }
}

impl core::error::Error for Error {}

/// The stage-2 tables of one VM. Dropping them flushes and frees them: the VM must not be loaded on
/// any CPU.
#[derive(Debug)]
pub struct Stage2<T: Tables> {
    tables: T,
    root: Table,
    /// The high word of the first address beyond the guest's.
    limit_high: u32,
    width: u32,
    /// Tables in use, without the root.
    below_root: u32,
    /// Whether a flush is owed for what the current change has written.
    owed: bool,
    /// Tables out of use that the walkers may still know.
    retired: Chain,
    /// The page that was asked for last, and what [`Stage2::device`] answered.
    recent: Cell<(u32, u32)>,
}

/// The number of no page: addresses have 40 bits.
const NO_PAGE: u32 = u32::MAX;

/// Tables that are in no use, each holding the address of the next one in its first entry, where
/// the hardware sees an invalid entry.
#[derive(Clone, Copy, Default, Debug)]
struct Chain(u32);

impl Chain {
    fn push(&mut self, tables: &mut impl Tables, table: Table) {
        tables.write(table, 0, u64::from(self.0));
        self.0 = table.0;
    }

    fn pop(&mut self, tables: &mut impl Tables) -> Option<Table> {
        let table = Table(self.0);
        if table.0 == 0 {
            return None;
        }
        self.0 = tables.read(table, 0) as u32;
        tables.write(table, 0, NOTHING);
        Some(table)
    }
}

impl<T: Tables> Stage2<T> {
    /// Empty tables for guest physical addresses of `width` bits, in [`WIDTHS`].
    ///
    /// # Errors
    /// [`Error::BadWidth`], [`Error::OutOfTables`].
    pub fn new(mut tables: T, width: u32) -> Result<Self, Error> {
        if !WIDTHS.contains(&width) {
            return Err(Error::BadWidth { width });
        }
        let needed = root_pages(width);
        let root = tables.alloc(needed).ok_or(Error::OutOfTables { needed })?;
        Ok(Self {
            tables,
            root,
            limit_high: 1 << (width - 32),
            width,
            below_root: 0,
            owed: false,
            retired: Chain::default(),
            recent: Cell::new((NO_PAGE, 0)),
        })
    }

    /// The memory that holds the tables.
    pub const fn tables(&self) -> &T {
        &self.tables
    }

    /// The same, to be changed; not its entries.
    pub const fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    /// The pages of 4 KiB in use, the root's included.
    #[must_use]
    pub const fn tables_in_use(&self) -> u32 {
        root_pages(self.width) + self.below_root
    }

    /// VTCR for these tables (B4.1): 4 KiB granule, walk from level 1, tables in normal
    /// write-back write-allocate, inner-shareable memory.
    #[must_use]
    pub const fn vtcr(&self) -> u32 {
        // T0SZ is 32 - width, signed: 0 to -8; S repeats its sign.
        let t0sz = 32u32.wrapping_sub(self.width) & 0xf;
        let s = (t0sz >> 3) << 4;
        (1 << 31) | (0b11 << 12) | (0b01 << 10) | (0b01 << 8) | (0b01 << 6) | s | t0sz
    }

    /// VTTBR for these tables (B4.1).
    #[must_use]
    pub const fn vttbr(&self, vmid: u8) -> u64 {
        ((vmid as u64) << 48) | self.root.0 as u64
    }

    /// What `ipa` is. On the path of every emulated access.
    #[must_use]
    #[inline]
    pub fn lookup(&self, ipa: Ipa) -> Leaf {
        let (level, entry) = self.find(ipa);
        entry::leaf(level, entry, ipa)
    }

    /// The level, 1 to 3, at which the hardware's walk of `ipa` ends: that of a fault's status.
    #[must_use]
    pub fn level(&self, ipa: Ipa) -> u8 {
        self.find(ipa).0 as u8
    }

    /// The slot of the device on page number `page` (the address / 4096), or [`NOTHING_THERE`] or
    /// [`RAM_THERE`]: as [`lookup`](Self::lookup), but without a walk for the page that was asked for last, as
    /// it mostly was.
    #[inline(always)]
    pub fn device(&self, page: u32) -> u32 {
        let (known, slot) = self.recent.get();
        if known == page {
            return slot;
        }
        self.find_page(page)
    }

    #[cold]
    #[inline(never)]
    fn find_page(&self, page: u32) -> u32 {
        let slot = entry::slot_of(self.find(Ipa(u64::from(page) << PAGE_SHIFT)).1);
        self.recent.set((page, slot));
        slot
    }

    /// The entry that decides about `ipa`, and its level; outside of the tables a walk ends at once.
    #[inline]
    fn find(&self, ipa: Ipa) -> (u32, u64) {
        // Constant shifts, so that a 32-bit core needs no 64-bit shift.
        let low = ipa.0 as u32;
        if (ipa.0 >> 32) as u32 >= self.limit_high {
            return (1, NOTHING);
        }
        let entry = self.tables.read(self.root, (ipa.0 >> 30) as u32);
        let Some(table) = entry::next(entry) else {
            return (1, entry);
        };
        let entry = self.tables.read(table, (low >> 21) % ENTRIES);
        let Some(table) = entry::next(entry) else {
            return (2, entry);
        };
        (3, self.tables.read(table, (low >> 12) % ENTRIES))
    }

    /// Where `ipa` is in the machine, and what the guest may do there; `None` where it is no RAM.
    #[must_use]
    #[inline]
    pub fn translate(&self, ipa: Ipa) -> Option<(Pa, Attrs)> {
        match self.lookup(ipa) {
            Leaf::Ram { pa, attrs, .. } => Some((pa, attrs)),
            _ => None,
        }
    }

    /// Everything in the `len` bytes from `ipa` on that is not nothing, in ascending order: address,
    /// bytes (of one entry, clipped to the range), and what it is.
    pub fn leaves(&self, ipa: Ipa, len: u64) -> impl Iterator<Item = (Ipa, u64, Leaf)> {
        let end = ipa.0.saturating_add(len).min(1 << self.width);
        let mut at = ipa.0;
        core::iter::from_fn(move || {
            while at < end {
                let from = Ipa(at);
                let (level, entry) = self.find(from);
                at = from.align_down(entry::size(level)).0 + entry::size(level);
                if entry != NOTHING {
                    let bytes = at.min(end) - from.0;
                    return Some((from, bytes, entry::leaf(level, entry, from)));
                }
            }
            None
        })
    }

    /// Maps `len` bytes at `ipa` to the machine's memory at `pa`, in blocks where both addresses
    /// allow. Nothing may be there yet.
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::Outside`], [`Error::Mapped`], [`Error::OutOfTables`].
    pub fn map(&mut self, ipa: Ipa, pa: Pa, len: u64, attrs: Attrs) -> Result<Flush, Error> {
        if !pa.is_aligned(PAGE) {
            return Err(Error::Misaligned);
        }
        match pa.checked_add(len) {
            Some(end) if end.0 <= PA_LIMIT => {}
            _ => return Err(Error::Outside),
        }
        let offset = pa.0.wrapping_sub(ipa.0);
        let bits = attrs.bits();
        self.change(ipa, len, Change::Map { offset, bits })
    }

    /// Removes whatever is in the range: RAM and devices.
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::Outside`]; [`Error::OutOfTables`] where part of a block is
    /// removed.
    pub fn unmap(&mut self, ipa: Ipa, len: u64) -> Result<Flush, Error> {
        self.change(ipa, len, Change::Unmap)
    }

    /// Changes what the guest may do with the RAM in the range; devices and nothing stay.
    ///
    /// # Errors
    /// As for [`unmap`](Self::unmap).
    pub fn protect(&mut self, ipa: Ipa, len: u64, perms: Perms) -> Result<Flush, Error> {
        let bits = perms.bits();
        self.change(ipa, len, Change::Protect { bits })
    }

    /// Puts the device of `slot` at the range, where nothing or a device is.
    ///
    /// # Errors
    /// As for [`map`](Self::map), and [`Error::BadSlot`].
    pub fn set_slot(&mut self, ipa: Ipa, len: u64, slot: u32) -> Result<Flush, Error> {
        if slot >= SLOTS {
            return Err(Error::BadSlot { slot });
        }
        let entry = entry::slot(slot);
        self.change(ipa, len, Change::Slot { entry })
    }
}

impl<T: Tables> Drop for Stage2<T> {
    fn drop(&mut self) {
        self.retire_all();
        self.tables.flush();
        self.free_retired();
        self.tables.free(self.root, root_pages(self.width));
    }
}

/// The entries of the root: one for each GiB.
const fn root_entries(width: u32) -> u32 {
    1 << (width - 30)
}

/// The pages of 4 KiB that the root takes: above 512 entries it is two tables in a row (B3.6).
const fn root_pages(width: u32) -> u32 {
    root_entries(width).div_ceil(ENTRIES)
}

/// VTCR for tables of 32-bit guest physical addresses, what every VM has.
pub const VTCR_32: u32 = vtcr(32);

/// VTCR for tables of `width` bits.
const fn vtcr(width: u32) -> u32 {
    // T0SZ is 32 - width, signed: 0 to -8; S repeats its sign.
    let t0sz = 32u32.wrapping_sub(width) & 0xf;
    let s = (t0sz >> 3) << 4;
    (1 << 31) | (0b11 << 12) | (0b01 << 10) | (0b01 << 8) | (0b01 << 6) | s | t0sz
}
