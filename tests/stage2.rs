//! Stage-2 tables against a naive model, with a memory that watches every write.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use armillary::addr::{Ipa, Pa};
use armillary::stage2::{
    Attrs, Error, Flush, Leaf, Memory, Perms, SLOTS, Stage2, Table, Tables, WIDTHS,
};
use proptest::prelude::*;
use proptest::sample::select;

const PAGE: u64 = 4 << 10;
const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// Where the tables are; nothing is ever mapped to these addresses.
const POOL: u32 = 0xf000_0000;
/// Permission bits of an entry, which may change in place.
const PERMS: u64 = 3 << 6 | 1 << 54;

/// Memory for tables that knows the rules of B3.10 and that nothing may leak.
struct Memory4K {
    limit: u32,
    tables: BTreeMap<u32, (u32, Vec<u64>)>,
    root: Option<(u32, u32)>,
    /// Valid entries written over since the last flush, which a TLB can still hold.
    stale: BTreeMap<(u32, u32), BTreeSet<u64>>,
    flushes: u32,
}

impl Memory4K {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            tables: BTreeMap::new(),
            root: None,
            stale: BTreeMap::new(),
            flushes: 0,
        }
    }

    fn pages(&self) -> u32 {
        self.tables.values().map(|(pages, _)| pages).sum()
    }

    /// The tables that a walker can reach, through an entry that is there or, if `cached`, one that
    /// it still holds.
    fn reachable(&self, cached: bool) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        let mut queue: Vec<_> = self.root.iter().map(|&(root, _)| (1, root)).collect();
        while let Some((level, table)) = queue.pop() {
            if level > 3 || !found.insert(table) {
                continue;
            }
            let now = self.tables[&table].1.iter().copied();
            let before = self
                .stale
                .range((table, 0)..=(table, u32::MAX))
                .flat_map(|(_, old)| old.iter().copied())
                .filter(|_| cached);
            let below = now.chain(before).filter(|e| e & 3 == 3 && level < 3);
            queue.extend(below.map(|e| (level + 1, (e & 0xffff_f000) as u32)));
        }
        found
    }
}

impl Tables for Memory4K {
    fn alloc(&mut self, pages: u32) -> Option<Table> {
        if self.pages() + pages > self.limit {
            return None;
        }
        let size = pages * 4096;
        let address = (POOL..)
            .step_by(size as usize)
            .find(|a| (*a..a + size).step_by(4096).all(|a| !self.used(a)))?;
        let entries = vec![0; pages as usize * 512];
        self.tables.insert(address, (pages, entries));
        self.root.get_or_insert((address, pages));
        Some(Table(address))
    }

    fn free(&mut self, table: Table, pages: u32) {
        if self.root == Some((table.0, pages)) {
            assert!(self.stale.is_empty(), "freed under a walker's feet");
        } else {
            let reachable = self.reachable(true);
            assert!(!reachable.contains(&table.0), "freed but reachable");
        }
        let freed = self.tables.remove(&table.0);
        assert_eq!(freed.map(|f| f.0), Some(pages), "freed twice");
        self.stale.retain(|(t, _), _| *t != table.0);
    }

    fn read(&self, table: Table, index: u32) -> u64 {
        self.tables[&table.0].1[index as usize]
    }

    fn write(&mut self, table: Table, index: u32, entry: u64) {
        let at = (table.0, index);
        let old = self.read(table, index);
        let differs = |was: u64| (was ^ entry) & !PERMS != 0;
        if entry & 1 != 0 {
            assert!(old & 1 == 0 || !differs(old), "made without a break");
            if let Some(cached) = self.stale.get(&at) {
                assert!(!cached.iter().any(|&c| differs(c)), "made without a flush");
            }
        }
        if entry & 3 == 0 && entry != 0 {
            let linked = self.reachable(false).contains(&table.0);
            assert!(!linked, "garbage in a table in use");
        }
        if old & 1 != 0 && old != entry {
            self.stale.entry(at).or_default().insert(old);
        }
        if let Some((_, entries)) = self.tables.get_mut(&table.0) {
            entries[index as usize] = entry;
        }
    }

    fn flush(&mut self) {
        self.stale.clear();
        self.flushes += 1;
    }
}

impl Memory4K {
    fn used(&self, page: u32) -> bool {
        self.tables
            .range(..=page)
            .next_back()
            .is_some_and(|(&at, (pages, _))| page < at + pages * 4096)
    }
}

/// What a range became, in the model.
#[derive(Clone, Copy, Debug)]
enum Op {
    Map(u64, Attrs),
    Unmap,
    Protect(Perms),
    Slot(u32),
}

/// What an address is, in the model: RAM as the machine's address minus the guest's.
#[derive(Clone, Copy, PartialEq, Debug)]
enum What {
    Nothing,
    Ram(u64, Attrs),
    Slot(u32),
}

/// Every change that was made, in order: an address is what they make of it one after the other.
struct Naive {
    top: u64,
    history: Vec<(u64, u64, Op)>,
    edges: BTreeSet<u64>,
}

impl Naive {
    fn at(&self, ipa: u64) -> What {
        let mut what = What::Nothing;
        for &(from, to, op) in &self.history {
            if from <= ipa && ipa < to {
                what = match (op, what) {
                    (Op::Map(offset, attrs), _) => What::Ram(offset, attrs),
                    (Op::Unmap, _) => What::Nothing,
                    (Op::Slot(slot), _) => What::Slot(slot),
                    (Op::Protect(perms), What::Ram(offset, attrs)) => {
                        What::Ram(offset, Attrs { perms, ..attrs })
                    }
                    (Op::Protect(_), other) => other,
                };
            }
        }
        what
    }

    /// The pieces of a range that are alike inside.
    fn pieces(&self, from: u64, to: u64) -> Vec<(u64, u64, What)> {
        let mut bounds = vec![from];
        bounds.extend(self.edges.range(from + 1..to));
        bounds.push(to);
        bounds
            .windows(2)
            .map(|w| (w[0], w[1], self.at(w[0])))
            .collect()
    }

    /// Whether one entry can say all of a range.
    fn one_entry(&self, from: u64, size: u64) -> bool {
        let pieces = self.pieces(from, from + size);
        let first = pieces[0].2;
        let aligned =
            !matches!(first, What::Ram(offset, _) if from.wrapping_add(offset) % size != 0);
        aligned && pieces.iter().all(|p| p.2 == first)
    }

    /// The tables below the root that the mapping takes at least.
    fn tables(&self) -> u32 {
        let mut tables = 0;
        for gib in (0..self.top).step_by(GIB as usize) {
            if !self.one_entry(gib, GIB) {
                let blocks = (gib..gib + GIB).step_by(MIB2 as usize);
                tables += 1 + blocks.filter(|&b| !self.one_entry(b, MIB2)).count() as u32;
            }
        }
        tables
    }

    fn expected(&self, ipa: u64, len: u64, op: Op) -> Result<(), Error> {
        if ipa + len > self.top {
            return Err(Error::Outside);
        }
        if let Op::Map(offset, _) = op
            && ipa.wrapping_add(offset).saturating_add(len) > 1 << 40
        {
            return Err(Error::Outside);
        }
        let refused = |what| match op {
            Op::Map(..) => what != What::Nothing,
            Op::Slot(_) => matches!(what, What::Ram(..)),
            _ => false,
        };
        match self
            .pieces(ipa, ipa + len)
            .iter()
            .find(|piece| refused(piece.2))
        {
            Some(&(at, ..)) => Err(Error::Mapped { ipa: Ipa(at) }),
            None => Ok(()),
        }
    }
}

/// The walk as the manual's pseudocode has it, from VTCR and VTTBR (B3.6): address and entry.
fn hardware(stage2: &Stage2<Memory4K>, ipa: u64) -> Option<(u64, u64)> {
    let (vtcr, vttbr) = (stage2.vtcr(), stage2.vttbr(1));
    let t0sz = ((vtcr as i32) << 28) >> 28;
    let input = (32 - t0sz) as u32;
    assert_eq!((vtcr >> 4) & 1 != 0, t0sz < 0, "S repeats the sign of T0SZ");
    assert_eq!((vtcr >> 6) & 3, 1, "walk from level 1");
    if ipa >> input != 0 {
        return None;
    }
    let base = vttbr & 0xff_ffff_ffff;
    let root_bytes = 8u64 << (input - 30);
    assert_eq!(base % root_bytes, 0, "root not aligned to its size");
    let mut table = base as u32;
    for level in 1..=3 {
        let low = 39 - 9 * level;
        let index = if level == 1 {
            ipa >> low
        } else {
            (ipa >> low) & 511
        };
        let entry = stage2.tables().read(Table(table), index as u32);
        match (entry & 3, level) {
            (3, 1 | 2) => table = (entry & 0xffff_f000) as u32,
            (1, 1 | 2) | (3, 3) => {
                let inside = (1u64 << low) - 1;
                return Some(((entry & 0xff_ffff_f000 & !inside) | (ipa & inside), entry));
            }
            _ => return None,
        }
    }
    None
}

fn attrs_of(entry: u64) -> Attrs {
    assert_eq!(entry >> 10 & 1, 1, "access flag");
    assert_eq!(entry >> 8 & 3, 3, "inner shareable");
    Attrs {
        perms: Perms {
            read: entry >> 6 & 1 != 0,
            write: entry >> 7 & 1 != 0,
            exec: entry >> 54 & 1 == 0,
        },
        memory: match entry >> 2 & 15 {
            0 => Memory::StronglyOrdered,
            1 => Memory::Device,
            5 => Memory::Uncached,
            15 => Memory::Normal,
            other => panic!("memory attributes {other:#x}"),
        },
    }
}

fn same(stage2: &Stage2<Memory4K>, naive: &Naive, ipa: u64) {
    let leaf = stage2.lookup(Ipa(ipa));
    // By a walk, then as what was asked for last.
    let page = (ipa >> 12) as u32;
    assert_eq!([stage2.device(page), stage2.device(page)], [leaf.slot(); 2]);
    let walked = hardware(stage2, ipa);
    match (naive.at(ipa), leaf) {
        (What::Nothing, Leaf::Nothing) => assert_eq!(walked, None),
        (What::Slot(slot), Leaf::Slot(found)) => assert_eq!((walked, slot), (None, found)),
        (What::Ram(offset, expected), Leaf::Ram { pa, size, attrs }) => {
            let wanted = ipa.wrapping_add(offset);
            let (hw_pa, hw_entry) = walked.expect("the hardware finds what lookup does");
            assert_eq!((pa, attrs), (Pa(wanted), expected));
            assert_eq!((hw_pa, attrs_of(hw_entry)), (wanted, expected));
            assert!(naive.one_entry(ipa & !(size - 1), size));
        }
        (model, leaf) => panic!("{ipa:#x}: {leaf:?}, not {model:?}"),
    }
}

fn all_same(stage2: &Stage2<Memory4K>, naive: &Naive) {
    for &edge in &naive.edges {
        for ipa in [edge.saturating_sub(1), edge, edge + 0xabc] {
            same(stage2, naive, ipa.min(naive.top - 1));
        }
    }
    // The iterator: ascending, what lookup says, and as many bytes as the model has.
    let (mut bytes, mut end) = (0, 0);
    for (ipa, len, leaf) in stage2.leaves(Ipa(0), u64::MAX) {
        assert!(ipa.0 >= end && len > 0);
        assert_eq!(leaf, stage2.lookup(ipa));
        (bytes, end) = (bytes + len, ipa.0 + len);
    }
    let pieces = naive.pieces(0, naive.top).into_iter();
    let modelled = pieces.filter(|p| p.2 != What::Nothing).map(|p| p.1 - p.0);
    assert_eq!(bytes, modelled.sum::<u64>());
    // And the form: no table whose content one entry could hold.
    let root = stage2.tables().root.expect("a root").1;
    assert_eq!(stage2.tables_in_use(), root + naive.tables());
    assert_eq!(stage2.tables_in_use(), stage2.tables().pages());
}

fn make(stage2: &mut Stage2<Memory4K>, ipa: u64, len: u64, op: Op) -> Result<Flush, Error> {
    match op {
        Op::Map(offset, attrs) => stage2.map(Ipa(ipa), Pa(ipa.wrapping_add(offset)), len, attrs),
        Op::Unmap => stage2.unmap(Ipa(ipa), len),
        Op::Protect(perms) => stage2.protect(Ipa(ipa), len, perms),
        Op::Slot(slot) => stage2.set_slot(Ipa(ipa), len, slot),
    }
}

fn step(stage2: &mut Stage2<Memory4K>, naive: &mut Naive, (ipa, len, op): (u64, u64, Op)) {
    let before = stage2.tables().tables.clone();
    let result = make(stage2, ipa, len, op);
    match (result, naive.expected(ipa, len, op)) {
        (Ok(flush), Ok(())) => {
            assert_eq!(
                flush == Flush::Vmid,
                !stage2.tables().stale.is_empty(),
                "owed is what a TLB can still hold"
            );
            if flush == Flush::Vmid {
                stage2.tables_mut().flush();
            }
            naive.history.push((ipa, ipa + len, op));
            naive.edges.extend([ipa, ipa + len]);
            naive.edges.remove(&naive.top);
        }
        (Err(Error::OutOfTables { needed }), Ok(())) => {
            let memory = stage2.tables();
            assert!(
                needed > memory.limit - memory.pages(),
                "there were {needed}"
            );
            assert_eq!(before, memory.tables, "changed nothing");
        }
        (Err(error), Err(expected)) => {
            assert_eq!(error, expected);
            assert_eq!(before, stage2.tables().tables, "changed nothing");
        }
        (result, expected) => panic!("{result:?}, not {expected:?}"),
    }
}

fn ops(width: u32) -> impl Strategy<Value = (u64, u64, Op)> {
    let top = 1u64 << width;
    let start = (
        select(vec![0, GIB, top - 2 * GIB, top - GIB]),
        select(vec![0, 1, 2, 3, 511]),
        select(vec![0, 1, 2, 255, 256, 511]),
    )
        .prop_map(|(base, block, page)| base + block * MIB2 + page * PAGE);
    let len = select(vec![
        PAGE,
        2 * PAGE,
        255 * PAGE,
        256 * PAGE,
        511 * PAGE,
        MIB2,
        MIB2 + PAGE,
        3 * MIB2,
        511 * MIB2,
        GIB - PAGE,
        GIB,
        2 * GIB,
    ]);
    let attrs = select(vec![
        Attrs::RAM,
        Attrs::ROM,
        Attrs::DEVICE,
        Attrs {
            memory: Memory::Uncached,
            ..Attrs::RAM
        },
        Attrs {
            memory: Memory::StronglyOrdered,
            ..Attrs::DEVICE
        },
    ]);
    // One likely offset, so that neighbours join into blocks.
    let likely = (1 << 40) - top;
    let offset = prop_oneof![
        6 => Just(likely),
        1 => Just(likely.wrapping_sub(MIB2)),
        1 => Just(likely.wrapping_add(PAGE)),
    ];
    let perms = select(vec![Perms::RWX, Perms::RW, Perms::RX, Perms::R]);
    let op = prop_oneof![
        5 => (offset, attrs).prop_map(|(o, a)| Op::Map(o, a)),
        3 => Just(Op::Unmap),
        3 => perms.prop_map(Op::Protect),
        3 => select(vec![0, 1, 7, SLOTS - 1]).prop_map(Op::Slot),
    ];
    // Maps that fit around what is there come from ranges aligned alike.
    (start, len, op, any::<bool>()).prop_map(|(start, len, op, aligned)| {
        let unit = len.next_power_of_two().min(GIB);
        (if aligned { start & !(unit - 1) } else { start }, len, op)
    })
}

fn run(width: u32, pool: u32, ops: Vec<(u64, u64, Op)>) {
    let mut stage2 = Stage2::new(Memory4K::new(pool), width).expect("room for the root");
    let mut naive = Naive {
        top: 1 << width,
        history: Vec::new(),
        edges: BTreeSet::from([0]),
    };
    for op in ops {
        step(&mut stage2, &mut naive, op);
    }
    all_same(&stage2, &naive);
    let flush = stage2.unmap(Ipa(0), 1 << width).expect("needs no table");
    if flush == Flush::Vmid {
        stage2.tables_mut().flush();
    }
    let root = stage2.tables().root.expect("a root").1;
    assert_eq!(stage2.tables().pages(), root, "only the root is left");
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn agrees_with_the_model_for_32_bits(ops in prop::collection::vec(ops(32), 1..24)) {
        run(32, 2000, ops);
    }

    #[test]
    fn agrees_with_the_model_when_tables_are_few(
        ops in prop::collection::vec(ops(32), 1..40),
        pool in 1..8u32,
    ) {
        run(32, pool, ops);
    }
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn agrees_with_the_model_for_40_bits(ops in prop::collection::vec(ops(40), 1..16)) {
        run(40, 2000, ops);
    }
}

fn empty(width: u32) -> Stage2<Memory4K> {
    Stage2::new(Memory4K::new(600), width).expect("room for the root")
}

fn entry_at(stage2: &Stage2<Memory4K>, ipa: u64) -> u64 {
    hardware(stage2, ipa).expect("mapped").1
}

#[test]
fn entries_have_the_architectures_bits() {
    let mut stage2 = empty(32);
    let mut map = |ipa, pa, len, attrs| stage2.map(Ipa(ipa), Pa(pa), len, attrs);
    assert_eq!(
        map(0x1000, 0xab_cdef_1000, PAGE, Attrs::RAM),
        Ok(Flush::None)
    );
    assert_eq!(map(0x2000, 0x2000, PAGE, Attrs::DEVICE), Ok(Flush::None));
    assert_eq!(map(MIB2, 0x12_3460_0000, MIB2, Attrs::ROM), Ok(Flush::None));
    assert_eq!(map(GIB, 0xff_c000_0000, GIB, Attrs::RAM), Ok(Flush::None));
    assert_eq!(entry_at(&stage2, 0x1000), 0xab_cdef_17ff);
    assert_eq!(entry_at(&stage2, 0x2000), 0x0040_0000_0000_27c7);
    assert_eq!(entry_at(&stage2, MIB2), 0x12_3460_077d);
    assert_eq!(entry_at(&stage2, GIB), 0xff_c000_07fd);
}

#[test]
fn a_page_a_block_and_a_gib_take_the_tables_they_need() {
    let mut stage2 = empty(32);
    let in_use = |s: &Stage2<_>| s.tables_in_use();
    assert_eq!(in_use(&stage2), 1);
    assert_eq!(
        stage2.map(Ipa(GIB), Pa(0), GIB, Attrs::RAM),
        Ok(Flush::None)
    );
    assert_eq!(in_use(&stage2), 1);
    assert_eq!(stage2.map(Ipa(0), Pa(0), MIB2, Attrs::RAM), Ok(Flush::None));
    assert_eq!(in_use(&stage2), 2);
    assert_eq!(
        stage2.map(Ipa(MIB2), Pa(0), PAGE, Attrs::RAM),
        Ok(Flush::None)
    );
    assert_eq!(in_use(&stage2), 3);
    // A block whose machine address is not aligned is 512 pages.
    let three = Ipa(3 * GIB);
    assert_eq!(
        stage2.map(three, Pa(PAGE), MIB2, Attrs::RAM),
        Ok(Flush::None)
    );
    assert_eq!(in_use(&stage2), 5);
    // A device of 16 MiB at its place is eight entries and no table of pages.
    let device = Ipa(3 * GIB + 0x0100_0000);
    assert_eq!(stage2.set_slot(device, 16 << 20, 9), Ok(Flush::None));
    assert_eq!(in_use(&stage2), 5);
    // Where a walk of each ends; above the addresses of 32 bits at once.
    for (ipa, level) in [
        (GIB, 1),
        (2 * GIB, 1),
        (0, 2),
        (device.0, 2),
        (3 * GIB + 0x0200_0000, 2),
        (MIB2, 3),
        (MIB2 + PAGE, 3),
        (4 * GIB, 1),
        (1 << 39, 1),
    ] {
        assert_eq!(stage2.level(Ipa(ipa)), level, "{ipa:#x}");
    }
}

#[test]
fn pages_that_fill_a_block_become_it_and_a_hole_splits_it_again() {
    let mut stage2 = empty(32);
    for page in (0..512).rev() {
        let at = 0x4000_0000 + page * PAGE;
        assert!(stage2.map(Ipa(at), Pa(at), PAGE, Attrs::RAM).is_ok());
    }
    assert_eq!(stage2.tables_in_use(), 2);
    assert_eq!(entry_at(&stage2, 0x4000_0000), 0x4000_07fd);
    let flushes = stage2.tables().flushes;
    assert_eq!(stage2.unmap(Ipa(0x4000_1000), PAGE), Ok(Flush::None));
    assert_eq!(stage2.tables().flushes, flushes + 1, "broken before made");
    assert_eq!(stage2.lookup(Ipa(0x4000_1000)), Leaf::Nothing);
    assert_eq!(entry_at(&stage2, 0x4000_2000), 0x4000_27ff);
    assert_eq!(stage2.tables_in_use(), 3);
}

#[test]
fn what_is_there_is_not_mapped_over() {
    let mut stage2 = empty(32);
    assert_eq!(
        stage2.map(Ipa(0x3000), Pa(0), PAGE, Attrs::RAM),
        Ok(Flush::None)
    );
    assert_eq!(stage2.set_slot(Ipa(0x5000), PAGE, 3), Ok(Flush::None));
    let mapped = |ipa| Err(Error::Mapped { ipa: Ipa(ipa) });
    assert_eq!(stage2.map(Ipa(0), Pa(0), MIB2, Attrs::RAM), mapped(0x3000));
    assert_eq!(
        stage2.map(Ipa(0x4000), Pa(0), MIB2, Attrs::RAM),
        mapped(0x5000)
    );
    assert_eq!(stage2.set_slot(Ipa(0), GIB, 4), mapped(0x3000));
    assert_eq!(stage2.set_slot(Ipa(0x4000), 0x2000, 4), Ok(Flush::None));
    assert_eq!(stage2.lookup(Ipa(0x5fff)), Leaf::Slot(4));
}

#[test]
fn bad_arguments_are_refused() {
    let mut stage2 = empty(32);
    let top = 1u64 << 32;
    for (ipa, pa, len, error) in [
        (1, 0, PAGE, Error::Misaligned),
        (0, 1, PAGE, Error::Misaligned),
        (0, 0, PAGE + 1, Error::Misaligned),
        (top, 0, PAGE, Error::Outside),
        (top - PAGE, 0, 2 * PAGE, Error::Outside),
        (0, 1 << 40, PAGE, Error::Outside),
        (0, (1 << 40) - PAGE, 2 * PAGE, Error::Outside),
        (!0xfff, 0, PAGE, Error::Outside),
        (0, !0xfff, PAGE, Error::Outside),
        (PAGE, 0, !0xfff, Error::Outside),
    ] {
        let result = stage2.map(Ipa(ipa), Pa(pa), len, Attrs::RAM);
        assert_eq!(result, Err(error), "{ipa:#x} {pa:#x} {len:#x}");
    }
    let bad = Err(Error::BadSlot { slot: SLOTS });
    assert_eq!(stage2.set_slot(Ipa(0), PAGE, SLOTS), bad);
    assert_eq!(stage2.unmap(Ipa(0), 0), Ok(Flush::None));
    assert_eq!(stage2.lookup(Ipa(top)), Leaf::Nothing);
    assert_eq!(stage2.lookup(Ipa(u64::MAX)), Leaf::Nothing);
    for width in [0, 31, 41, u32::MAX] {
        let refused = Stage2::new(Memory4K::new(9), width).map(|_| ());
        assert_eq!(refused, Err(Error::BadWidth { width }));
    }
    let none = Stage2::new(Memory4K::new(1), 40).map(|_| ());
    assert_eq!(none, Err(Error::OutOfTables { needed: 2 }));
}

#[test]
fn the_registers_fit_the_width() {
    assert_eq!(empty(32).vtcr(), 0x8000_3540);
    assert_eq!(empty(33).vtcr(), 0x8000_355f);
    assert_eq!(empty(40).vtcr(), 0x8000_3558);
    assert_eq!(empty(32).vttbr(0xa5), 0x00a5_0000_f000_0000);
    for width in WIDTHS {
        let mut stage2 = empty(width);
        let last = Ipa((1 << width) - PAGE);
        assert_eq!(
            stage2.map(last, Pa(PAGE), PAGE, Attrs::RAM),
            Ok(Flush::None)
        );
        let (pa, _) = hardware(&stage2, last.0 + 5).expect("mapped");
        assert_eq!(pa, PAGE + 5);
        assert_eq!(stage2.lookup(Ipa(1 << width)), Leaf::Nothing);
    }
}

#[test]
fn dropping_frees_everything() {
    let mut memory = Memory4K::new(20);
    for width in [32, 40] {
        memory.root = None;
        let mut stage2 = Stage2::new(&mut memory, width).expect("room for the root");
        for ipa in [0, MIB2 + PAGE, 3 * GIB] {
            assert_eq!(
                stage2.map(Ipa(ipa), Pa(0), PAGE, Attrs::RAM),
                Ok(Flush::None)
            );
        }
        drop(stage2);
        assert_eq!(memory.pages(), 0);
    }
}

#[test]
fn leaves_are_clipped_to_the_range() {
    let mut stage2 = empty(32);
    assert_eq!(
        stage2.map(Ipa(0), Pa(GIB), GIB, Attrs::RAM),
        Ok(Flush::None)
    );
    assert_eq!(stage2.set_slot(Ipa(2 * GIB), PAGE, 5), Ok(Flush::None));
    let size = GIB;
    let attrs = Attrs::RAM;
    let pa = Pa(GIB + MIB2);
    let found: Vec<_> = stage2.leaves(Ipa(MIB2), 2 * GIB).collect();
    let ram = (Ipa(MIB2), GIB - MIB2, Leaf::Ram { pa, size, attrs });
    assert_eq!(found, [ram, (Ipa(2 * GIB), PAGE, Leaf::Slot(5))]);
    assert_eq!(
        stage2.leaves(Ipa(MIB2), PAGE).next().map(|l| l.1),
        Some(PAGE)
    );
}
