//! Regions of any places: a map that finds by a page's slot what a search of all regions does, and refuses overlap.
#![no_main]

use armillary::region::{Answer, Map, Region};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut map = Map::default();
    let mut regions: Vec<Region> = Vec::new();
    let (parts, probes) = data.split_at(data.len() / 2);
    for part in parts.chunks_exact(6) {
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        // Few pages, so that many share one; now and then the end of all addresses.
        let base = number(&part[..3]) % 0x8000 + if part[0] == 0xff { 0xffff_8000 } else { 0 };
        let size = number(&part[3..]) % 0x3000;
        let Some(region) = Region::new(base, size, part[5].into(), [Answer::Zero; 2]) else {
            continue;
        };
        let overlaps = |other: &&Region| other.first <= region.last && region.first <= other.last;
        match map.add(region) {
            Ok(()) => {
                assert!(!regions.iter().any(|other| overlaps(&other)));
                regions.push(region);
            }
            Err(other) => assert!(overlaps(&&other) && regions.contains(&other)),
        }
    }
    map.list();
    for probe in probes.chunks_exact(4) {
        let offset = u32::from_le_bytes([probe[0], probe[1], 0, 0]) % 0xb000;
        let address = if probe[3] & 1 != 0 {
            offset.wrapping_sub(0x8000)
        } else {
            offset
        };
        let width = 1 << (probe[2] % 3);
        let inside = |region: &&Region| {
            let end = u64::from(address) + u64::from(width) - 1;
            region.first <= address && end <= u64::from(region.last)
        };
        let expected = regions.iter().find(inside);
        assert_eq!(map.find_by_address(address, width), expected);
        let mut pages = map
            .pages()
            .filter(|pages| (pages.first..=pages.last).contains(&address));
        let found = pages
            .next()
            .and_then(|pages| map.find(pages.slot, address, width));
        assert_eq!(found, expected);
        assert!(pages.next().is_none(), "two slots");
    }
});
