//! What of a guest's addresses is not plain memory: its regions, and what answers in each.
//!
//! A region may have any size and alignment, and several may lie in one page. Stage 2 holds a slot
//! for each page, so that the walk that every access needs finds its region too: a page that is
//! one region's has that region's slot, one that several share has the slot of their list, which is
//! sorted and searched by halves. What an access costs does not depend on how many regions there are.
//!
//! | slot | |
//! |---|---|
//! | below [`FIRST_SLOT`] | a device of [`bus`](crate::bus) that has its pages to itself |
//! | [`FIRST_SLOT`] + 2n | region n |
//! | [`FIRST_SLOT`] + 2n + 1 | list n |
//!
//! An access that is not wholly inside one region gets an external abort: a bus decodes the address
//! of a transfer once, and what it selects answers for all of its bytes. To split it would show
//! both devices an access that nobody made.

use alloc::vec::Vec;

use crate::addr::PAGE;

/// What answers the loads of a region, or its stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Answer {
    /// Nothing: zeroes are loaded, stores are ignored.
    #[default]
    Zero,
    /// Nothing, with an external abort.
    Abort,
    /// Memory.
    Memory,
    /// A device of [`bus`](crate::bus), by its slot.
    Device(u32),
    /// Another VM, by a number that the owner gave it.
    Forward(u32),
}

/// A region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Its first address.
    pub first: u32,
    /// Its last address.
    pub last: u32,
    /// A number by which the owner knows its name.
    pub owner: u32,
    /// What answers loads.
    pub read: Answer,
    /// What answers stores.
    pub write: Answer,
}

impl Region {
    /// A region of `size` bytes at `base`; `None` where that is empty, or does not lie in 32 bits of
    /// addresses.
    #[must_use]
    pub fn new(base: u64, size: u64, owner: u32, [read, write]: [Answer; 2]) -> Option<Self> {
        let last = base.checked_add(size.checked_sub(1)?)?;
        Some(Self {
            first: u32::try_from(base).ok()?,
            last: u32::try_from(last).ok()?,
            owner,
            read,
            write,
        })
    }

    /// The slot of its whole pages if it is the `index`th.
    fn slot(&self, index: usize) -> u32 {
        match (self.read, self.write) {
            (Answer::Device(slot), Answer::Device(_)) => slot,
            _ => FIRST_SLOT + 2 * index as u32,
        }
    }
}

/// The first slot that is no device's.
pub const FIRST_SLOT: u32 = 16;
/// The most regions that a map may have, well below what slots can say.
pub const MOST: usize = 4096;
const INSIDE: u32 = PAGE as u32 - 1;

/// Regions that share a page, in the map's order.
#[derive(Clone, Copy, Debug)]
struct List {
    page: u32,
    first: u32,
    count: u32,
}

/// Some pages, and the slot that they have in stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// Their first address.
    pub first: u32,
    /// Their last address.
    pub last: u32,
    /// Their slot.
    pub slot: u32,
    /// The region that has them to itself, by its place in the map.
    pub region: Option<usize>,
}

/// The regions of a VM.
#[derive(Clone, Debug, Default)]
pub struct Map {
    regions: Vec<Region>,
    lists: Vec<List>,
}

impl Map {
    /// Adds a region; [`list`](Self::list) has to follow the last one.
    ///
    /// # Errors
    /// One that it overlaps.
    pub fn add(&mut self, region: Region) -> Result<(), Region> {
        let regions = &mut self.regions;
        let mut at = regions.len();
        // Mostly they come in order.
        while let Some(&before) = at.checked_sub(1).and_then(|before| regions.get(before)) {
            if before.first <= region.last && region.first <= before.last {
                return Err(before);
            }
            if before.last < region.first {
                break;
            }
            at -= 1;
        }
        regions.push(region);
        for last in (at + 1..regions.len()).rev() {
            regions.swap(last - 1, last);
        }
        Ok(())
    }

    /// Finds the pages that several regions share.
    pub fn list(&mut self) {
        let mut lists: Vec<List> = Vec::new();
        for (index, region) in self.regions.iter().enumerate() {
            let (head, tail) = (region.first & !INSIDE, region.last & !INSIDE);
            let whole_tail = region.last & INSIDE == INSIDE;
            let whole_head = region.first & INSIDE == 0 && (head != tail || whole_tail);
            for (page, whole) in [(head, whole_head), (tail, whole_tail || head == tail)] {
                if whole {
                    continue;
                }
                match lists.last_mut() {
                    Some(list) if list.page == page => list.count += 1,
                    _ => lists.push(List {
                        page,
                        first: index as u32,
                        count: 1,
                    }),
                }
            }
        }
        self.lists = lists;
    }

    /// The regions, in ascending order.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// All pages that have a slot: those of one region, then those of several.
    pub fn pages(&self) -> impl Iterator<Item = Pages> {
        let whole = self
            .regions
            .iter()
            .enumerate()
            .filter_map(|(index, region)| {
                let first = u64::from(region.first).next_multiple_of(PAGE);
                let end = (u64::from(region.last) + 1) & !u64::from(INSIDE);
                (first < end).then(|| Pages {
                    first: first as u32,
                    last: (end - 1) as u32,
                    slot: region.slot(index),
                    region: Some(index),
                })
            });
        let lists = self.lists.iter().enumerate().map(|(index, list)| Pages {
            first: list.page,
            last: list.page | INSIDE,
            slot: FIRST_SLOT + 2 * index as u32 + 1,
            region: None,
        });
        whole.chain(lists)
    }

    /// The region of an access of `width` bytes, 1 to 4, at `address`, whose page has `slot`; `None` where
    /// it does not lie in one region. Devices' own slots have no region here.
    #[must_use]
    pub fn find(&self, slot: u32, address: u32, width: u32) -> Option<&Region> {
        let number = slot.checked_sub(FIRST_SLOT)?;
        let mut index = (number >> 1) as usize;
        if number & 1 != 0 {
            let list = self.lists.get(index)?;
            index = list.first as usize;
            let shared = self.regions.get(index..index + list.count as usize)?;
            index += shared.partition_point(|region| region.last < address);
        }
        self.regions
            .get(index)
            .filter(|region| region.holds(address, width))
    }

    /// The same by the address alone, at a cost that grows with the number of regions.
    #[must_use]
    pub fn find_by_address(&self, address: u32, width: u32) -> Option<&Region> {
        let index = self.regions.partition_point(|region| region.last < address);
        self.regions
            .get(index)
            .filter(|region| region.holds(address, width))
    }
}

impl Region {
    fn holds(&self, address: u32, width: u32) -> bool {
        self.first <= address
            && self.last.wrapping_sub(address) >= width.wrapping_sub(1)
            && address <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(base: u64, size: u64, owner: u32) -> Region {
        Region::new(base, size, owner, [Answer::Forward(owner); 2]).unwrap()
    }

    /// Regions from gaps and sizes: what fits below 4 GiB.
    fn laid(parts: &[(u32, u32)]) -> Vec<Region> {
        let mut at = 0u64;
        let mut regions = Vec::new();
        for (owner, &(gap, size)) in parts.iter().enumerate() {
            at += u64::from(gap);
            let size = u64::from(size) + 1;
            if let Some(region) = Region::new(at, size, owner as u32, [Answer::Abort; 2]) {
                regions.push(region);
            }
            at += size;
        }
        regions
    }

    /// The map of these; the first two that overlap.
    fn map_of(regions: &[Region]) -> Result<Map, (Region, Region)> {
        let mut map = Map::default();
        for &region in regions {
            map.add(region).map_err(|other| (region, other))?;
        }
        map.list();
        Ok(map)
    }

    fn slot_of(map: &Map, address: u32) -> Option<u32> {
        let mut of = map
            .pages()
            .filter(|pages| pages.first <= address && address <= pages.last);
        let slot = of.next().map(|pages| pages.slot);
        assert!(of.next().is_none(), "{address:#x} has two slots");
        slot
    }

    #[test]
    fn a_region_at_the_end_of_all_addresses_is_whole() {
        let map = map_of(&[region(0xffff_f000, 0x1000, 1)]).unwrap();
        let slot = slot_of(&map, 0xffff_ffff).unwrap();
        assert_eq!(map.find(slot, 0xffff_fffc, 4).unwrap().owner, 1);
        assert!(map.find(slot, 0xffff_fffe, 4).is_none());
        assert!(Region::new(0xffff_f000, 0x1001, 0, [Answer::Zero; 2]).is_none());
        assert!(Region::new(5, 0, 0, [Answer::Zero; 2]).is_none());
    }

    #[test]
    fn those_that_overlap_are_named() {
        let refused = map_of(&[region(0x2000, 0x10, 7), region(0x1000, 0x1001, 8)]);
        let (a, b) = refused.unwrap_err();
        assert_eq!((a.owner, b.owner), (8, 7));
    }

    #[test]
    fn an_access_across_two_regions_is_nobodys() {
        let map = map_of(&[region(0x1002, 2, 0), region(0x1004, 2, 1)]).unwrap();
        let slot = slot_of(&map, 0x1002).unwrap();
        assert_eq!(map.find(slot, 0x1002, 2).unwrap().owner, 0);
        assert_eq!(map.find(slot, 0x1004, 2).unwrap().owner, 1);
        for (address, width) in [(0x1000, 4), (0x1003, 2), (0x1004, 4), (0x1006, 1)] {
            assert!(map.find(slot, address, width).is_none(), "{address:#x}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_slot_of_a_page_finds_what_a_search_of_all_regions_does(
            parts in prop::collection::vec((prop_oneof![0u32..9, 0u32..9000], prop_oneof![0u32..9, 0u32..9000]), 1..60),
            probes in prop::collection::vec((any::<u32>(), 0u32..3), 100),
        ) {
            let regions = laid(&parts);
            let map = map_of(&regions).unwrap();
            let end = regions.last().map_or(1, |region| region.last + 0x1000);
            for (address, width) in probes {
                let (address, width) = (address % end, 1 << width);
                let holds = |region: &&Region| region.first <= address && address + width - 1 <= region.last;
                let expected = regions.iter().find(holds);
                prop_assert_eq!(map.find_by_address(address, width), expected);
                match slot_of(&map, address) {
                    Some(slot) => prop_assert_eq!(map.find(slot, address, width), expected),
                    None => prop_assert_eq!(expected, None),
                }
            }
        }

        #[test]
        fn overlap_is_refused_whatever_the_order(
            parts in prop::collection::vec((0u32..0x4000, 0u32..0x2000), 2..12),
        ) {
            let regions: Vec<Region> = (0..).zip(&parts)
                .map(|(owner, &(base, size))| region(base.into(), u64::from(size) + 1, owner))
                .collect();
            let overlaps = |a: &Region, b: &Region| a.first <= b.last && b.first <= a.last;
            let mut any = false;
            for (n, a) in regions.iter().enumerate() {
                any |= regions[n + 1..].iter().any(|b| overlaps(a, b));
            }
            match map_of(&regions) {
                Ok(_) => prop_assert!(!any),
                Err((a, b)) => prop_assert!(overlaps(&a, &b) && a.owner != b.owner),
            }
        }
    }
}
