//! Changing the tables: count what it takes, then do it.

use core::ops::Range;

use crate::addr::{Ipa, PAGE};

use super::entry::{self, ENTRIES, LAST_LEVEL, NOTHING};
use super::{Chain, Error, Flush, NO_PAGE, Stage2, Table, Tables, root_entries};

/// A change of a range.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// RAM at the address plus `offset` (wrapping), with these attribute bits.
    Map { offset: u64, bits: u64 },
    /// Nothing.
    Unmap,
    /// Other permission bits.
    Protect { bits: u64 },
    /// A device.
    Slot { entry: u64 },
}

impl Change {
    /// Whether `old`, no table, must not be replaced.
    const fn refuses(self, old: u64) -> bool {
        match self {
            Self::Map { .. } => old != NOTHING,
            Self::Slot { .. } => entry::valid(old),
            Self::Unmap | Self::Protect { .. } => false,
        }
    }

    /// What the entry of `level` at `ipa` that was `old`, no table, becomes; `None` where one entry
    /// can't say it.
    const fn apply(self, level: u32, ipa: u64, old: u64) -> Option<u64> {
        match self {
            Self::Map { offset, bits } => {
                let pa = ipa.wrapping_add(offset);
                if pa & (entry::size(level) - 1) != 0 {
                    return None;
                }
                Some(entry::ram(level, pa, bits))
            }
            Self::Unmap => Some(NOTHING),
            Self::Protect { bits } => Some(entry::with_perms(old, bits)),
            Self::Slot { entry } => Some(entry),
        }
    }

    /// Whether one entry of `level` can say it: [`apply`](Self::apply) has an answer.
    const fn fits(self, level: u32) -> bool {
        match self {
            Self::Map { offset, .. } => offset & (entry::size(level) - 1) == 0,
            Self::Unmap | Self::Protect { .. } | Self::Slot { .. } => true,
        }
    }

    /// Whether every part of `old`, no table, stays as it is.
    const fn keeps(self, old: u64) -> bool {
        match self {
            Self::Map { .. } => false,
            Self::Unmap => old == NOTHING,
            Self::Protect { bits } => entry::with_perms(old, bits) == old,
            Self::Slot { entry } => entry == old,
        }
    }

    /// Whether a table that the range covers as a whole gives way to one entry.
    const fn drops_tables(self) -> bool {
        matches!(self, Self::Unmap | Self::Slot { .. })
    }
}

/// Where the count reads its entries.
#[derive(Clone, Copy)]
enum Source {
    /// A table that exists.
    Table(Table),
    /// The table that an entry of the level above would be split into.
    Split(u64),
}

/// The entries of a table of `level` for addresses from `base` on that touch `range`: index,
/// address, and the part of `range` inside.
fn touched(
    level: u32,
    base: u64,
    entries: u32,
    range: Range<u64>,
) -> impl Iterator<Item = (u32, u64, Range<u64>)> {
    let (shift, size) = (entry::shift(level), entry::size(level));
    let first = ((range.start - base) >> shift) as u32;
    let last = ((range.end - 1 - base) >> shift) as u32;
    let mut next = base + (u64::from(first) << shift);
    (first..entries.min(last + 1)).map(move |index| {
        let ipa = next;
        next += size;
        (index, ipa, range.start.max(ipa)..range.end.min(next))
    })
}

/// Whether `part` is all that the entry of `level` covers.
const fn is_whole(level: u32, part: &Range<u64>) -> bool {
    part.end - part.start == entry::size(level)
}

impl<T: Tables> Stage2<T> {
    /// Makes `change` for `len` bytes from `ipa` on.
    pub(super) fn change(&mut self, ipa: Ipa, len: u64, change: Change) -> Result<Flush, Error> {
        let range = self.checked(ipa, len)?;
        if range.is_empty() {
            return Ok(Flush::None);
        }
        self.recent.set((NO_PAGE, 0));
        let needed = self.count(1, Source::Table(self.root), 0, range.clone(), change)?;
        let mut spare = self.reserve(needed)?;
        self.commit(1, self.root, 0, range, change, &mut spare);
        debug_assert_eq!(spare.0, 0, "counted more tables than were needed");
        if self.retired.0 != 0 {
            // What was put out of use was flushed out already where a later entry needed that.
            if self.owed {
                self.flush();
            }
            self.free_retired();
        }
        let owed = if self.owed { Flush::Vmid } else { Flush::None };
        self.owed = false;
        Ok(owed)
    }

    fn checked(&self, ipa: Ipa, len: u64) -> Result<Range<u64>, Error> {
        if !ipa.is_aligned(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(Error::Misaligned);
        }
        match ipa.checked_add(len) {
            Some(end) if end.0 <= 1 << self.width => Ok(ipa.0..end.0),
            _ => Err(Error::Outside),
        }
    }

    fn entries(&self, level: u32) -> u32 {
        if level == 1 {
            root_entries(self.width)
        } else {
            ENTRIES
        }
    }

    /// How many tables `change` needs.
    fn count(
        &self,
        level: u32,
        source: Source,
        base: u64,
        range: Range<u64>,
        change: Change,
    ) -> Result<u32, Error> {
        let mut needed = 0;
        for (index, ipa, part) in touched(level, base, self.entries(level), range) {
            let old = match source {
                Source::Table(table) => self.tables.read(table, index),
                Source::Split(entry) => entry::part(level - 1, entry, index),
            };
            let below = if entry::is_table(level, old) {
                match entry::next(old) {
                    Some(table) => Source::Table(table),
                    None => continue,
                }
            } else if change.refuses(old) {
                return Err(Error::Mapped {
                    ipa: Ipa(part.start),
                });
            } else if is_whole(level, &part) && change.fits(level) || change.keeps(old) {
                continue;
            } else {
                needed += 1;
                if level + 1 == LAST_LEVEL {
                    // Pages need no tables, and what refuses the entry has been asked.
                    continue;
                }
                Source::Split(old)
            };
            needed += self.count(level + 1, below, ipa, part, change)?;
        }
        Ok(needed)
    }

    /// Takes `needed` tables, or none.
    fn reserve(&mut self, needed: u32) -> Result<Chain, Error> {
        let mut spare = Chain::default();
        for _ in 0..needed {
            let Some(table) = self.tables.alloc(1) else {
                while let Some(table) = spare.pop(&mut self.tables) {
                    self.tables.free(table, 1);
                }
                return Err(Error::OutOfTables { needed });
            };
            spare.push(&mut self.tables, table);
        }
        self.below_root += needed;
        Ok(spare)
    }

    /// Makes `change` in `table`, with the tables in `spare`: as many as were counted.
    fn commit(
        &mut self,
        level: u32,
        table: Table,
        base: u64,
        range: Range<u64>,
        change: Change,
        spare: &mut Chain,
    ) {
        for (index, ipa, part) in touched(level, base, self.entries(level), range) {
            let old = self.tables.read(table, index);
            let whole = is_whole(level, &part);
            if entry::is_table(level, old) {
                if whole && change.drops_tables() {
                    let new = change.apply(level, ipa, NOTHING).unwrap_or(NOTHING);
                    self.replace(table, index, old, new);
                    self.retire(level, old);
                } else if let Some(below) = entry::next(old) {
                    self.commit(level + 1, below, ipa, part, change, spare);
                    self.merge(level, table, index, old, below);
                }
                continue;
            }
            if change.keeps(old) {
                continue;
            }
            match change.apply(level, ipa, old) {
                Some(new) if whole => self.replace(table, index, old, new),
                _ => {
                    // Changed before it is linked, so that a guest sees all of it or nothing.
                    let Some(below) = self.split(level, old, spare) else {
                        return;
                    };
                    self.commit(level + 1, below, ipa, part, change, spare);
                    self.replace(table, index, old, entry::table(below));
                }
            }
        }
    }

    /// A table out of `spare` that says what `entry` of `level` does.
    fn split(&mut self, level: u32, entry: u64, spare: &mut Chain) -> Option<Table> {
        let table = spare.pop(&mut self.tables)?;
        if entry != NOTHING {
            for index in 0..ENTRIES {
                let part = entry::part(level, entry, index);
                self.tables.write(table, index, part);
            }
        }
        Some(table)
    }

    /// Replaces the table `below`, which entry `index` of `table` points to, by one entry, where
    /// one can say the same.
    fn merge(&mut self, level: u32, table: Table, index: u32, old: u64, below: Table) {
        let first = self.tables.read(below, 0);
        if entry::is_table(level + 1, first) {
            return;
        }
        let Some(new) = entry::whole(level, first) else {
            return;
        };
        if (1..ENTRIES).all(|i| self.tables.read(below, i) == entry::part(level, new, i)) {
            self.replace(table, index, old, new);
            self.retire(level, old);
        }
    }

    /// Writes `new` where `old` is, broken before it is made where that must be.
    fn replace(&mut self, table: Table, index: u32, old: u64, new: u64) {
        if old == new {
            return;
        }
        if entry::valid(old) && entry::valid(new) && !entry::same_but_perms(old, new) {
            self.tables.write(table, index, NOTHING);
            self.flush();
            self.tables.write(table, index, new);
        } else {
            self.tables.write(table, index, new);
            self.owed |= entry::valid(old);
        }
    }

    /// Pays for all that was written so far.
    fn flush(&mut self) {
        self.tables.flush();
        self.owed = false;
    }

    /// Puts the table that `entry` of `level` points to out of use, and all below it.
    fn retire(&mut self, level: u32, entry: u64) {
        let Some(table) = entry::next(entry).filter(|_| level < LAST_LEVEL) else {
            return;
        };
        for index in 0..ENTRIES {
            let below = self.tables.read(table, index);
            self.retire(level + 1, below);
        }
        self.retired.push(&mut self.tables, table);
        self.below_root -= 1;
    }

    /// Puts every table but the root out of use.
    pub(super) fn retire_all(&mut self) {
        for index in 0..root_entries(self.width) {
            let entry = self.tables.read(self.root, index);
            self.tables.write(self.root, index, NOTHING);
            self.retire(1, entry);
        }
    }

    /// Frees what was retired; the TLBs have been flushed since.
    pub(super) fn free_retired(&mut self) {
        while let Some(table) = self.retired.pop(&mut self.tables) {
            self.tables.free(table, 1);
        }
    }
}
