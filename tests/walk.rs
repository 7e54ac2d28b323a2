//! The software walker against tables that the tests encode themselves.
#![expect(
    clippy::unusual_byte_groupings,
    reason = "fields are put together as the manual draws them"
)]

use std::collections::BTreeMap;

use armillary::addr::{Ipa, Pa};
use armillary::stage2::{Attrs, Leaf, Memory as Stage2Memory, Perms};
use armillary::syndrome::FaultStatus;
use armillary::walk::{
    Access, Attributes, Fault, Format, Kind, Memory, Refused, Rights, Shareability, Stage, Stage1,
    Translation, translate,
};
use proptest::prelude::*;
use proptest::sample::select;

const M: u32 = 1;
const I: u32 = 1 << 12;
const WXN: u32 = 1 << 19;
const UWXN: u32 = 1 << 20;
const EE: u32 = 1 << 25;
const TRE: u32 = 1 << 28;
const AFE: u32 = 1 << 29;
const EAE: u32 = 1 << 31;
/// All domains clients.
const CLIENTS: u32 = 0x5555_5555;

/// Words by address; what was never written is zero. Knows which addresses are refused.
#[derive(Default)]
struct Ram {
    words: BTreeMap<u64, u32>,
    refused: BTreeMap<u64, Refused>,
    big_endian: bool,
    reads: u32,
}

impl Ram {
    fn put32(&mut self, at: u64, entry: u32) {
        assert_eq!(at % 4, 0);
        let swapped = entry.swap_bytes();
        let word = if self.big_endian { swapped } else { entry };
        self.words.insert(at, word);
    }

    fn put64(&mut self, at: u64, entry: u64) {
        assert_eq!(at % 8, 0);
        let (first, second) = (entry as u32, (entry >> 32) as u32);
        let big = self.big_endian;
        self.put32(at, if big { second } else { first });
        self.put32(at + 4, if big { first } else { second });
    }

    fn word(&self, at: u64) -> u32 {
        self.words.get(&at).copied().unwrap_or(0)
    }
}

impl Memory for Ram {
    fn read32(&mut self, ipa: Ipa) -> Result<u32, Refused> {
        self.reads += 1;
        assert_eq!(ipa.0 % 4, 0);
        match self.refused.get(&ipa.0) {
            Some(&refused) => Err(refused),
            None => Ok(self.word(ipa.0)),
        }
    }

    fn read64(&mut self, ipa: Ipa) -> Result<u64, Refused> {
        self.reads += 1;
        assert_eq!(ipa.0 % 8, 0);
        match self.refused.get(&ipa.0) {
            Some(&refused) => Err(refused),
            None => Ok(u64::from(self.word(ipa.0 + 4)) << 32 | u64::from(self.word(ipa.0))),
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Execute];

fn access(kind: Kind, privileged: bool) -> Access {
    Access { kind, privileged }
}

const LOAD: Access = Access {
    kind: Kind::Read,
    privileged: true,
};

fn rights(r: bool, w: bool, x: bool) -> Rights {
    Rights {
        read: r,
        write: w,
        execute: x,
    }
}

fn stage_one(status: FaultStatus, domain: u8) -> Fault {
    Fault {
        status,
        domain,
        stage: Stage::One,
    }
}

/// Every access, and whether it is allowed, is what `expected` says; a refusal is `status`.
fn check_rights(
    regs: &Stage1,
    ram: &mut Ram,
    va: u32,
    (privileged, user): (Rights, Rights),
    status: FaultStatus,
) {
    for (level, rights) in [(true, privileged), (false, user)] {
        for kind in KINDS {
            let allowed = match kind {
                Kind::Read => rights.read,
                Kind::Write => rights.write,
                Kind::Execute => rights.execute,
            };
            match translate(regs, ram, va, access(kind, level)) {
                Ok(t) => {
                    assert!(allowed, "{kind:?}, privileged: {level}");
                    assert_eq!(
                        (t.permissions.privileged, t.permissions.user),
                        (privileged, user)
                    );
                }
                Err(fault) => {
                    assert!(!allowed, "{kind:?}, privileged: {level}: {fault:?}");
                    assert_eq!(fault.status, status);
                }
            }
        }
    }
}

/// AP[2:0] and who may read and write: PL1, PL0 (ARM DDI 0406C, Table B3-8).
const AP: [(u32, &str, &str); 8] = [
    (0b000, "", ""),
    (0b001, "rw", ""),
    (0b010, "rw", "r"),
    (0b011, "rw", "rw"),
    (0b100, "", ""),
    (0b101, "r", ""),
    (0b110, "r", "r"),
    (0b111, "r", "r"),
];

/// Rights at both levels, from what may be read and written and what forbids execution.
fn expected((privileged, user): (&str, &str), sctlr: u32, xn: bool, pxn: bool) -> (Rights, Rights) {
    let has = |bit| sctlr & bit != 0;
    let may = |who: &str, what| who.contains(what);
    let mut pl1 = rights(may(privileged, 'r'), may(privileged, 'w'), true);
    let mut pl0 = rights(may(user, 'r'), may(user, 'w'), true);
    for level in [&mut pl1, &mut pl0] {
        if !level.read || xn || has(WXN) && level.write {
            level.execute = false;
        }
    }
    if pxn || has(UWXN) && pl0.write {
        pl1.execute = false;
    }
    (pl1, pl0)
}

/// What a test wants mapped by short descriptors.
#[derive(Clone, Copy, Debug)]
struct Short {
    va: u32,
    base: u64,
    size: u64,
    ap: u32,
    texcb: u32,
    shared: bool,
    xn: bool,
    pxn: bool,
    domain: u32,
}

const SECTION: u64 = 1 << 20;
const SUPERSECTION: u64 = 16 << 20;
const LARGE: u64 = 64 << 10;
const SMALL: u64 = 4 << 10;

const PLAIN: Short = Short {
    va: 0x8123_4567,
    base: 0x4560_0000,
    size: SECTION,
    ap: 0b011,
    texcb: 0b00111,
    shared: true,
    xn: false,
    pxn: false,
    domain: 3,
};

const TABLE1: u32 = 0x4001_0000;
const TABLE2: u32 = 0x4002_0400;

impl Short {
    fn bits(flag: bool, n: u32) -> u32 {
        u32::from(flag) << n
    }

    /// The entries of first and second level (B3.5, the figures of the formats).
    fn entries(self) -> (u32, Option<u32>) {
        let tex = self.texcb >> 2;
        let cb = (self.texcb & 3) << 2;
        let base = self.base as u32;
        let (ap2, ap) = (self.ap >> 2, self.ap & 3);
        let section = base
            | Self::bits(self.shared, 16)
            | ap2 << 15
            | tex << 12
            | ap << 10
            | Self::bits(self.xn, 4)
            | cb
            | 0b10
            | Self::bits(self.pxn, 0);
        let table = TABLE2 | self.domain << 5 | Self::bits(self.pxn, 2) | 0b01;
        let page = Self::bits(self.shared, 10) | ap2 << 9 | ap << 4 | cb;
        match self.size {
            SECTION => (section | self.domain << 5, None),
            SUPERSECTION => {
                let high = (self.base >> 32) as u32;
                let high = (high & 15) << 20 | (high >> 4) << 5;
                (section | 1 << 18 | high, None)
            }
            LARGE => {
                let page = base | page | Self::bits(self.xn, 15) | tex << 12 | 0b01;
                (table, Some(page))
            }
            _ => {
                let page = base | page | tex << 6 | 0b10 | Self::bits(self.xn, 0);
                (table, Some(page))
            }
        }
    }

    /// Puts the entries where TTBR0 with TTBCR.N = `n` has them, or TTBR1.
    fn put(self, ram: &mut Ram) {
        let (first, second) = self.entries();
        ram.put32(u64::from(TABLE1 + (self.va >> 20 << 2)), first);
        if let Some(second) = second {
            ram.put32(u64::from(TABLE2 + (self.va >> 12 & 255) * 4), second);
        }
    }

    fn level(self) -> u8 {
        if self.size >= SECTION { 1 } else { 2 }
    }

    fn domain(self) -> u8 {
        if self.size == SUPERSECTION {
            0
        } else {
            self.domain as u8
        }
    }

    fn ipa(self) -> Ipa {
        Ipa(self.base + u64::from(self.va) % self.size)
    }
}

fn short_regs(sctlr: u32) -> Stage1 {
    Stage1 {
        sctlr: M | sctlr,
        ttbr0: u64::from(TABLE1 | 0x6a),
        dacr: CLIENTS,
        ..Stage1::default()
    }
}

fn short_mappings() -> impl Strategy<Value = Short> {
    let size = select(vec![SMALL, LARGE, SECTION, SUPERSECTION]);
    let bits = any::<(u32, u64, bool, bool, bool)>();
    (size, bits, 0..8u32, 0..32u32, 0..16u32).prop_map(
        |(size, (va, base, shared, xn, pxn), ap, texcb, domain)| Short {
            va,
            base: base & (u64::MAX >> if size == SUPERSECTION { 24 } else { 32 }) & !(size - 1),
            size,
            ap,
            texcb,
            shared,
            xn,
            pxn,
            domain,
        },
    )
}

/// What a test wants mapped by long descriptors.
#[derive(Clone, Copy, Debug)]
struct Long {
    va: u32,
    base: u64,
    level: u32,
    /// AP[2:1].
    ap: u64,
    index: u64,
    sh: u64,
    xn: bool,
    pxn: bool,
    /// APTable, XNTable, PXNTable of the tables of level 1 and 2.
    tables: [u64; 2],
}

const LEVELS: [u64; 3] = [0x41_0000_0000, 0x42_0000_1000, 0x43_0000_2000];

impl Long {
    fn put(self, ram: &mut Ram, first_level: u32, txsz: u32) {
        let mut va = u64::from(self.va & (u32::MAX >> txsz));
        for level in first_level..=self.level {
            let shift = 39 - 9 * level;
            let entry = if level < self.level {
                LEVELS[level as usize] | 0b11 | self.tables[level as usize - 1] << 59
            } else {
                self.base
                    | u64::from(self.xn) << 54
                    | u64::from(self.pxn) << 53
                    | 1 << 10
                    | self.sh << 8
                    | self.ap << 6
                    | self.index << 2
                    | if level == 3 { 0b11 } else { 0b01 }
            };
            ram.put64(LEVELS[level as usize - 1] + (va >> shift) * 8, entry);
            va &= (1 << shift) - 1;
        }
    }

    fn size(self) -> u64 {
        1 << (39 - 9 * self.level)
    }

    fn ipa(self) -> Ipa {
        Ipa(self.base + u64::from(self.va) % self.size())
    }

    /// AP[2:1] with what the tables before `first_level` to `level` take away.
    fn expected(self, first_level: u32, sctlr: u32) -> (Rights, Rights) {
        let used = &self.tables[first_level as usize - 1..self.level as usize - 1];
        let taken = used.iter().fold(0, |all, bits| all | bits);
        let write = self.ap & 2 == 0 && taken & 8 == 0;
        let user = self.ap & 1 == 1 && taken & 4 == 0;
        let privileged = if write { "rw" } else { "r" };
        let who = (privileged, if user { privileged } else { "" });
        expected(
            who,
            sctlr,
            self.xn || taken & 2 != 0,
            self.pxn || taken & 1 != 0,
        )
    }
}

fn long_regs(sctlr: u32, ttbcr: u32, table: u64) -> Stage1 {
    Stage1 {
        sctlr: M | sctlr,
        ttbcr: EAE | ttbcr,
        ttbr0: table,
        ttbr1: table,
        // Strongly-ordered, device, uncached, write-through; write-back with and without WA.
        mair0: 0xaa44_0400,
        mair1: 0xeef4_4fff,
        ..Stage1::default()
    }
}

const PAGE3: Long = Long {
    va: 0x8123_4567,
    base: 0x12_3456_7000,
    level: 3,
    ap: 0b01,
    index: 4,
    sh: 3,
    xn: false,
    pxn: false,
    tables: [0, 0],
};

fn long_mappings() -> impl Strategy<Value = Long> {
    let bits = any::<(u32, u64, bool, bool)>();
    let tables = [0..16u64, 0..16u64];
    (bits, 1..4u32, 0..4u64, 0..8u64, 0..4u64, tables).prop_map(
        |((va, base, xn, pxn), level, ap, index, sh, tables)| Long {
            va,
            base: base & 0xff_ffff_ffff & !((1 << (39 - 9 * level)) - 1),
            level,
            ap,
            index,
            sh,
            xn,
            pxn,
            tables,
        },
    )
}

fn sctlr_bits() -> impl Strategy<Value = u32> {
    select(vec![0, EE, WXN, UWXN, WXN | UWXN, EE | WXN])
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn short_descriptors_say_what_was_encoded(
        mapping in short_mappings(),
        sctlr in sctlr_bits(),
        afe: bool,
    ) {
        let sctlr = sctlr | if afe { AFE } else { 0 };
        let regs = short_regs(sctlr);
        let mut ram = Ram { big_endian: sctlr & EE != 0, ..Ram::default() };
        mapping.put(&mut ram);
        let (level, domain) = (mapping.level(), mapping.domain());
        let result = translate(&regs, &mut ram, mapping.va, LOAD);
        if afe && mapping.ap & 1 == 0 {
            prop_assert_eq!(result, Err(stage_one(FaultStatus::AccessFlag { level }, domain)));
            return Ok(());
        }
        let (_, privileged, user) = AP[mapping.ap as usize];
        let rights = expected((privileged, user), sctlr, mapping.xn, mapping.pxn);
        check_rights(&regs, &mut ram, mapping.va, rights, FaultStatus::Permission { level });
        match result {
            Ok(t) => {
                prop_assert_eq!(t.ipa, mapping.ipa());
                prop_assert_eq!((t.size, t.domain), (mapping.size, domain));
            }
            Err(fault) => prop_assert_eq!(fault.domain, domain),
        }
    }

    #[test]
    fn long_descriptors_say_what_was_encoded(
        mapping in long_mappings(),
        sctlr in sctlr_bits(),
        txsz in 0..8u32,
        upper: bool,
    ) {
        // Into the region that starts with so many zeros or ones.
        let ones = !(u32::MAX >> txsz);
        let va = mapping.va & !ones | if upper { ones } else { 0 };
        let first = if txsz < 2 { 1 } else { 2 };
        let level = mapping.level.max(first);
        let mapping = Long { va, level, ..mapping };
        let mut ram = Ram { big_endian: sctlr & EE != 0, ..Ram::default() };
        mapping.put(&mut ram, first, txsz);
        let ttbcr = if upper { txsz << 16 | 1 } else { txsz };
        let regs = long_regs(sctlr, ttbcr, LEVELS[first as usize - 1]);
        if upper && txsz == 0 && va >> 31 == 0 {
            return Ok(()); // TTBR0's.
        }
        let rights = mapping.expected(first, sctlr);
        let level = level as u8;
        check_rights(&regs, &mut ram, va, rights, FaultStatus::Permission { level });
        let t = translate(&regs, &mut ram, va, LOAD);
        prop_assert_eq!(t.map(|t| (t.ipa, t.size)), Ok((mapping.ipa(), mapping.size())));
    }

    #[test]
    fn anything_ends_after_three_reads(
        bits: [u32; 8],
        va: u32,
        memory in prop::collection::vec(any::<u64>(), 3),
    ) {
        struct Noise(Vec<u64>);
        impl Memory for Noise {
            fn read32(&mut self, ipa: Ipa) -> Result<u32, Refused> {
                self.read64(Ipa(ipa.0 & !7)).map(|v| v as u32)
            }
            fn read64(&mut self, _: Ipa) -> Result<u64, Refused> {
                self.0.pop().ok_or(Refused::External).inspect_err(|_| panic!("a fourth read"))
            }
        }
        let [sctlr, ttbcr, low0, low1, high, dacr, mair0, mair1] = bits;
        let regs = Stage1 {
            sctlr: sctlr | M,
            ttbcr,
            ttbr0: u64::from(high) << 32 | u64::from(low0),
            ttbr1: u64::from(high) << 32 | u64::from(low1),
            dacr,
            mair0,
            mair1,
        };
        for kind in KINDS {
            let result = translate(&regs, &mut Noise(memory.clone()), va, access(kind, true));
            for format in [Format::Short, Format::Long] {
                let par = match result {
                    Ok(t) => t.par(format),
                    Err(fault) => fault.par(format),
                };
                prop_assert_eq!(par & 1, u64::from(result.is_err()));
            }
        }
    }
}

#[test]
fn with_the_mmu_off_addresses_stay() {
    let mut ram = Ram::default();
    let va = 0xdead_beef;
    for (sctlr, kind, mair) in [
        (0, Kind::Read, 0x00),
        (I, Kind::Write, 0x00),
        (0, Kind::Execute, 0x44),
        (I, Kind::Execute, 0xaa),
    ] {
        let regs = Stage1 {
            sctlr,
            ..Stage1::default()
        };
        let t = translate(&regs, &mut ram, va, access(kind, false));
        let got = t.map(|t| (t.ipa, t.attributes.mair, t.attributes.shareability));
        assert_eq!(got, Ok((Ipa(va.into()), mair, Shareability::Outer)));
    }
    assert_eq!(ram.reads, 0);
}

#[test]
fn ttbcr_n_splits_the_address_space() {
    const OTHER: u32 = 0x4008_4000;
    let nothing = stage_one(FaultStatus::Translation { level: 1 }, 0);
    let entry = |va| Short { va, ..PLAIN }.entries().0;
    for n in 0..8 {
        // TTBR0's table shrinks with N; the bits below its size are ignored, TTBR1's as for N = 0.
        let size = 1 << (14 - n);
        let table = TABLE1 + size;
        let mut regs = Stage1 {
            ttbr0: u64::from(table | (size - 1)),
            ttbr1: u64::from(OTHER | 0x3fff),
            ..short_regs(0)
        };
        let boundary = 1u64 << (32 - n);
        let lower = [0, (boundary - 1) as u32].map(|va| (va, table, 1 << 4));
        let upper = u32::try_from(boundary).ok().into_iter();
        let upper = upper.flat_map(|va| [va, u32::MAX].map(|va| (va, OTHER, 1 << 5)));
        for (va, table, disable) in lower.into_iter().chain(upper) {
            let mut ram = Ram::default();
            ram.put32(u64::from(table + (va >> 20 << 2)), entry(va));
            regs.ttbcr = n | (disable ^ 0x30);
            let result = translate(&regs, &mut ram, va, LOAD);
            assert!(result.is_ok(), "N = {n}, {va:#x}: {result:?}");
            regs.ttbcr = n | disable;
            assert_eq!(translate(&regs, &mut ram, va, LOAD), Err(nothing));
        }
    }
}

#[test]
fn long_regions_are_zeros_ones_and_what_is_left() {
    const LOW: u64 = 0x10_0000_0000;
    const HIGH: u64 = 0x20_0000_0000;
    // Every first-level entry says which table it is in; tables of level 2 alike.
    let mut ram = Ram::default();
    for index in 0..512 {
        let entry = |base: u64| base | index << 30 & 0xf_c000_0000 | 1 << 10 | 0b01;
        ram.put64(LOW + index * 8, entry(LOW));
        ram.put64(HIGH + index * 8, entry(HIGH));
    }
    let which = |ttbcr: u32, va: u32, ram: &mut Ram| {
        let regs = Stage1 {
            ttbr0: LOW,
            ttbr1: HIGH,
            ..long_regs(0, ttbcr, 0)
        };
        translate(&regs, ram, va, LOAD).map(|t| t.ipa.0 & 0xf0_0000_0000)
    };
    let nothing = Err(stage_one(FaultStatus::Translation { level: 1 }, 0));
    let t = |t0: u32, t1: u32| t0 | t1 << 16;
    for (ttbcr, va, expected) in [
        (t(0, 0), 0, Ok(LOW)),
        (t(0, 0), u32::MAX, Ok(LOW)),
        (t(1, 0), 0x7fff_ffff, Ok(LOW)),
        (t(1, 0), 0x8000_0000, Ok(HIGH)),
        (t(3, 0), 0x2000_0000, Ok(HIGH)),
        (t(0, 1), 0x7fff_ffff, Ok(LOW)),
        (t(0, 1), 0x8000_0000, Ok(HIGH)),
        (t(0, 3), 0xdfff_ffff, Ok(LOW)),
        (t(0, 3), 0xe000_0000, Ok(HIGH)),
        (t(1, 1), 0x7fff_ffff, Ok(LOW)),
        (t(1, 1), 0x8000_0000, Ok(HIGH)),
        (t(2, 2), 0x3fff_ffff, Ok(LOW)),
        (t(2, 2), 0x4000_0000, nothing),
        (t(2, 2), 0xbfff_ffff, nothing),
        (t(2, 2), 0xc000_0000, Ok(HIGH)),
        (t(7, 7), 0x01ff_ffff, Ok(LOW)),
        (t(7, 7), 0x0200_0000, nothing),
        (t(7, 7), 0xfe00_0000, Ok(HIGH)),
        // EPD0, EPD1.
        (t(1, 1) | 1 << 7, 0, nothing),
        (t(1, 1) | 1 << 7, 0x8000_0000, Ok(HIGH)),
        (t(1, 1) | 1 << 23, 0x8000_0000, nothing),
        (t(1, 1) | 1 << 23, 0, Ok(LOW)),
    ] {
        assert_eq!(which(ttbcr, va, &mut ram), expected, "{ttbcr:#x} {va:#x}");
    }
}

#[test]
fn long_tables_start_where_the_size_says() {
    // Bits of TTBR below the table's size are ignored; the index uses the region's bits only.
    for (t0sz, table, address) in [
        (0, 0x1000_003f, 0x1000_0020),
        (1, 0x1000_001f, 0x1000_0010),
        (2, 0x1000_1fff, 0x1000_1000),
        (5, 0x1000_03ff, 0x1000_0200),
        (7, 0x1000_00ff, 0x1000_0080),
    ] {
        let mut ram = Ram::default();
        ram.put64(address + 8, 1 << 10 | 0b01);
        let va = if t0sz < 2 { 1 << 30 } else { 2 << 20 };
        let regs = long_regs(0, t0sz, table);
        assert!(translate(&regs, &mut ram, va, LOAD).is_ok(), "T0SZ {t0sz}");
    }
}

#[test]
fn absent_entries_fault_at_their_level() {
    let translation = |level| FaultStatus::Translation { level };
    let small = Short {
        size: SMALL,
        ..PLAIN
    };
    let mut ram = Ram::default();
    let mut regs = short_regs(0);
    let fault = |regs: &Stage1, ram: &mut Ram| translate(regs, ram, PLAIN.va, LOAD).err();
    assert_eq!(fault(&regs, &mut ram), Some(stage_one(translation(1), 0)));
    ram.put32(u64::from(TABLE1 + (PLAIN.va >> 20 << 2)), small.entries().0);
    assert_eq!(fault(&regs, &mut ram), Some(stage_one(translation(2), 3)));

    regs = long_regs(0, 0, LEVELS[0]);
    for level in 1..=3u32 {
        let mut ram = Ram::default();
        Long { level, ..PAGE3 }.put(&mut ram, 1, 0);
        let at = LEVELS[level as usize - 1] + (u64::from(PAGE3.va) >> (39 - 9 * level) & 511) * 8;
        // 0b01 is reserved at level 3; 0b10 and 0b00 are invalid anywhere.
        for bits in [0b00, 0b10, 0b01] {
            if bits != 0b01 || level == 3 {
                ram.put64(at, 0xfff_f400 | bits);
                let expected = stage_one(translation(level as u8), 0);
                assert_eq!(fault(&regs, &mut ram), Some(expected), "{level} {bits}");
            }
        }
        ram.put64(at, if level == 3 { 0b11 } else { 0b01 });
        let level = level as u8;
        let flag = stage_one(FaultStatus::AccessFlag { level }, 0);
        assert_eq!(fault(&regs, &mut ram), Some(flag));
    }
}

#[test]
fn a_domain_refuses_checks_or_allows_all() {
    for size in [SMALL, LARGE, SECTION, SUPERSECTION] {
        let mapping = Short {
            size,
            base: 0x4500_0000,
            ap: 0,
            xn: true,
            ..PLAIN
        };
        let mut ram = Ram::default();
        mapping.put(&mut ram);
        let mut regs = short_regs(0);
        let (level, domain) = (mapping.level(), mapping.domain());
        let shift = 2 * domain;
        for (field, status) in [
            (0b00, Some(FaultStatus::Domain { level })),
            (0b01, Some(FaultStatus::Permission { level })),
            (0b10, Some(FaultStatus::Domain { level })),
            (0b11, None),
        ] {
            // All other domains say the opposite.
            let others = if field == 0b11 { 0 } else { u32::MAX };
            regs.dacr = others & !(3 << shift) | field << shift;
            let result = translate(&regs, &mut ram, PLAIN.va, access(Kind::Execute, false));
            let expected = status.map(|status| stage_one(status, domain));
            assert_eq!(result.err(), expected, "{size:#x} {field}");
        }
    }
}

#[test]
fn a_refused_read_of_an_entry_is_reported_with_its_level() {
    let small = Short {
        size: SMALL,
        ..PLAIN
    };
    let mut ram = Ram::default();
    small.put(&mut ram);
    let regs = short_regs(0);
    let second = u64::from(TABLE2 + (PLAIN.va >> 12 & 255) * 4);
    let first = u64::from(TABLE1 + (PLAIN.va >> 20 << 2));
    let status = FaultStatus::Translation { level: 3 };
    for (at, level, domain) in [(second, 2, 3), (first, 1, 0)] {
        ram.refused.insert(at, Refused::External);
        let external = stage_one(FaultStatus::ExternalOnWalk { level }, domain);
        let result = translate(&regs, &mut ram, PLAIN.va, LOAD);
        assert_eq!(result, Err(external));
        ram.refused.insert(at, Refused::Stage2(status));
        let stage = Stage::Walk(Ipa(at));
        let result = translate(&regs, &mut ram, PLAIN.va, LOAD);
        assert_eq!(
            result.err().map(|f| (f.status, f.stage)),
            Some((status, stage))
        );
    }
    let mut ram = Ram::default();
    PAGE3.put(&mut ram, 1, 0);
    let at = LEVELS[1] + (u64::from(PAGE3.va) >> 21 & 511) * 8;
    ram.refused.insert(at, Refused::External);
    let external = stage_one(FaultStatus::ExternalOnWalk { level: 2 }, 0);
    let regs = long_regs(0, 0, LEVELS[0]);
    assert_eq!(translate(&regs, &mut ram, PAGE3.va, LOAD), Err(external));
}

fn short_attributes(sctlr: u32, prrr: u32, nmrr: u32, texcb: u32, shared: bool) -> Attributes {
    let mut ram = Ram::default();
    let regs = Stage1 {
        mair0: prrr,
        mair1: nmrr,
        ..short_regs(sctlr)
    };
    let mapping = Short {
        texcb,
        shared,
        ..PLAIN
    };
    mapping.put(&mut ram);
    match translate(&regs, &mut ram, PLAIN.va, LOAD) {
        Ok(t) => t.attributes,
        Err(fault) => panic!("{fault:?}"),
    }
}

#[test]
fn tex_c_and_b_are_the_memory_type() {
    // ARM DDI 0406C, Tables B3-10 and B3-11, in terms of MAIR.
    for (texcb, mair) in [
        (0b00000, 0x00),
        (0b00001, 0x04),
        (0b00010, 0xaa),
        (0b00011, 0xee),
        (0b00100, 0x44),
        (0b00111, 0xff),
        (0b01000, 0x04),
        (0b10000, 0x44),
        (0b10001, 0x4f),
        (0b10010, 0x4a),
        (0b10011, 0x4e),
        (0b10100, 0xf4),
        (0b11000, 0xa4),
        (0b11100, 0xe4),
        (0b11101, 0xef),
        (0b11111, 0xee),
    ] {
        let a = short_attributes(0, 0, 0, texcb, false);
        assert_eq!(a.mair, mair, "{texcb:#b}");
        let cached = mair >> 4 != 0 && mair != 0x44;
        let expected = if cached {
            Shareability::None
        } else {
            Shareability::Outer
        };
        assert_eq!(a.shareability, expected, "{texcb:#b}");
        let a = short_attributes(0, 0, 0, texcb, true);
        assert_eq!(a.shareability, Shareability::Outer);
    }
}

#[test]
fn tex_remap_asks_prrr_and_nmrr() {
    // What a well-known kernel writes to them.
    const PRRR: u32 = 0xff0a_81a8;
    const NMRR: u32 = 0x40e0_40e0;
    for (n, mair, shared, alone) in [
        (0, 0x00, Shareability::Outer, Shareability::Outer),
        (1, 0x44, Shareability::Outer, Shareability::Outer),
        (2, 0xaa, Shareability::Inner, Shareability::None),
        (3, 0xee, Shareability::Inner, Shareability::None),
        (4, 0x04, Shareability::Outer, Shareability::Outer),
        (7, 0xff, Shareability::Inner, Shareability::None),
    ] {
        for tex_high in [0, 0b01000, 0b11000] {
            let of = |s| short_attributes(TRE, PRRR, NMRR, n | tex_high, s);
            assert_eq!(
                of(true),
                Attributes {
                    mair,
                    shareability: shared
                }
            );
            assert_eq!(
                of(false),
                Attributes {
                    mair,
                    shareability: alone
                }
            );
        }
    }
    // Not NOS: outer. NS0 set: shared without S. Outer and inner policies apart.
    let a = short_attributes(TRE, 0b10 << 4 | 1 << 18, 0b01 << 20 | 0b10 << 4, 2, false);
    let shareability = Shareability::Outer;
    assert_eq!(
        a,
        Attributes {
            mair: 0xfa,
            shareability
        }
    );
    // A reserved type.
    assert_eq!(short_attributes(TRE, 0b11, 0, 0, true).mair, 0x00);
}

#[test]
fn mair_and_sh_are_the_memory_type_of_long_descriptors() {
    for (index, sh, mair, shareability) in [
        (0, 3, 0x00, Shareability::Outer),
        (1, 0, 0x04, Shareability::Outer),
        (2, 0, 0x44, Shareability::Outer),
        (3, 0, 0xaa, Shareability::None),
        (3, 1, 0xaa, Shareability::None),
        (4, 3, 0xff, Shareability::Inner),
        (5, 2, 0x4f, Shareability::Outer),
        (6, 3, 0xf4, Shareability::Inner),
        (7, 0, 0xee, Shareability::None),
    ] {
        let mut ram = Ram::default();
        Long { index, sh, ..PAGE3 }.put(&mut ram, 1, 0);
        let regs = long_regs(0, 0, LEVELS[0]);
        let got = translate(&regs, &mut ram, PAGE3.va, LOAD).map(|t| t.attributes);
        assert_eq!(got, Ok(Attributes { mair, shareability }), "{index}");
    }
}

#[test]
fn both_stages_give_the_stronger_type() {
    use Shareability::{Inner, None, Outer};
    for (mair, shareability, stage2, expected) in [
        (0xff, None, Stage2Memory::Normal, (0xff, Inner)),
        (0xff, Outer, Stage2Memory::Normal, (0xff, Outer)),
        (0xaa, Inner, Stage2Memory::Normal, (0xaa, Inner)),
        (0x04, Outer, Stage2Memory::Normal, (0x04, Outer)),
        (0xff, Inner, Stage2Memory::Uncached, (0x44, Outer)),
        (0x04, Outer, Stage2Memory::Uncached, (0x04, Outer)),
        (0x00, Outer, Stage2Memory::Uncached, (0x00, Outer)),
        (0xff, Inner, Stage2Memory::Device, (0x04, Outer)),
        (0x00, Outer, Stage2Memory::Device, (0x00, Outer)),
        (0x04, Outer, Stage2Memory::StronglyOrdered, (0x00, Outer)),
    ] {
        let a = Attributes { mair, shareability }.combined(stage2);
        assert_eq!((a.mair, a.shareability), expected);
    }
}

#[test]
fn par_of_a_success() {
    let of = |mair, shareability, ipa, size| Translation {
        ipa: Ipa(ipa),
        size,
        attributes: Attributes { mair, shareability },
        permissions: Default::default(),
        domain: 0,
    };
    use Shareability::{Inner, None, Outer};
    // Short: address, NOS 10, NS 9, SH 7, Inner 6:4, Outer 3:2, SS 1.
    for (mair, shareability, low) in [
        (0x00, Outer, 0b0_1_0_1_001_00_0_0),
        (0x04, Outer, 0b0_1_0_1_011_00_0_0),
        (0x44, Outer, 0b0_1_0_1_000_00_0_0),
        (0xff, Inner, 0b1_1_0_1_101_01_0_0),
        (0xee, None, 0b1_1_0_0_111_11_0_0),
        (0xaa, Outer, 0b0_1_0_1_110_10_0_0),
        (0x4f, Inner, 0b1_1_0_1_101_00_0_0),
    ] {
        let t = of(mair, shareability, 0x8765_4321, SECTION);
        assert_eq!(t.par(Format::Short), 0x8765_4000 | low, "{mair:#x}");
    }
    let t = of(0xff, Inner, 0xab_8765_4321, SUPERSECTION);
    assert_eq!(t.par(Format::Short), 0x87ab_0000 | 0b1_1_0_1_101_01_1_0);
    // Long: ATTR 63:56, address, LPAE 11, NS 9, SH 8:7.
    assert_eq!(t.par(Format::Long), 0xff00_00ab_8765_4b80);
    let t = of(0x04, Outer, 0x3000, SMALL);
    assert_eq!(t.par(Format::Long), 0x0400_0000_0000_3b00);
}

#[test]
fn par_and_fault_status_of_a_fault() {
    let permission = FaultStatus::Permission { level: 2 };
    let fault = stage_one(permission, 5);
    assert_eq!(fault.par(Format::Short), 0b0_01111_1);
    assert_eq!(fault.par(Format::Long), 1 << 11 | 0b001110 << 1 | 1);
    assert_eq!(fault.dfsr(Format::Short, true), 1 << 11 | 5 << 4 | 0b1111);
    assert_eq!(fault.dfsr(Format::Long, false), 1 << 9 | 0b001110);
    assert_eq!(fault.ifsr(Format::Short), 0b1111);
    assert_eq!(fault.ifsr(Format::Long), 1 << 9 | 0b001110);
    let conflict = stage_one(FaultStatus::TlbConflict, 0);
    assert_eq!(conflict.dfsr(Format::Short, false), 1 << 10);
    assert_eq!(conflict.par(Format::Short), 1 << 5 | 1);
    for (stage, bits) in [(Stage::Two(Ipa(0)), 0b10), (Stage::Walk(Ipa(0)), 0b11)] {
        let fault = Fault { stage, ..fault };
        assert_eq!(fault.par(Format::Long) >> 8 & 3, bits);
    }
}

#[test]
fn stage_2_takes_away_and_is_told_as_the_one_who_did() {
    let ipa = Ipa(0x1_2345_6789);
    let one = Translation {
        ipa,
        size: SECTION,
        attributes: Attributes {
            mair: 0xff,
            shareability: Shareability::None,
        },
        permissions: Default::default(),
        domain: 5,
    };
    let ram = |perms, memory, size| Leaf::Ram {
        pa: Pa(0x8765_4789),
        size,
        attrs: Attrs { perms, memory },
    };
    let kinds = [Kind::Read, Kind::Write, Kind::Execute];
    for (perms, allowed) in [
        (Perms::RWX, [true, true, true]),
        (Perms::RW, [true, true, false]),
        (Perms::RX, [true, false, true]),
        (Perms::R, [true, false, false]),
    ] {
        for (kind, allowed) in kinds.into_iter().zip(allowed) {
            let found = one.through(ram(perms, Stage2Memory::Normal, SMALL), 3, kind);
            let fault = Fault {
                status: FaultStatus::Permission { level: 3 },
                domain: 5,
                stage: Stage::Two(ipa),
            };
            match found {
                Ok(both) => {
                    assert!(allowed);
                    // The smaller of both sizes; the address is the guest's.
                    assert_eq!((both.ipa, both.size, both.domain), (ipa, SMALL, 5));
                    assert_eq!(both.attributes.mair, 0xff);
                    assert_eq!(both.par(Format::Long) >> 7 & 3, 0b11);
                }
                Err(found) => assert_eq!((found, allowed), (fault, false)),
            }
        }
    }
    let device = ram(Perms::RW, Stage2Memory::Device, 1 << 30);
    let both = one.through(device, 1, Kind::Write).unwrap();
    assert_eq!((both.size, both.attributes.mair), (SECTION, 0x04));
    for (leaf, level) in [(Leaf::Nothing, 1), (Leaf::Slot(7), 2)] {
        for kind in kinds {
            let fault = one.through(leaf, level, kind).unwrap_err();
            assert_eq!(fault.status, FaultStatus::Translation { level });
            let expected = 1 << 11 | 1 << 9 | (4 | u64::from(level)) << 1 | 1;
            assert_eq!(fault.par(Format::Long), expected);
        }
    }
}

#[test]
fn short_fault_codes_are_the_manuals() {
    use FaultStatus::*;
    // ARM DDI 0406C, Table B3-23.
    for (status, fs) in [
        (Alignment, 0b00001),
        (Debug, 0b00010),
        (AccessFlag { level: 1 }, 0b00011),
        (Translation { level: 1 }, 0b00101),
        (AccessFlag { level: 2 }, 0b00110),
        (Translation { level: 2 }, 0b00111),
        (External, 0b01000),
        (Domain { level: 1 }, 0b01001),
        (Domain { level: 2 }, 0b01011),
        (ExternalOnWalk { level: 1 }, 0b01100),
        (Permission { level: 1 }, 0b01101),
        (ExternalOnWalk { level: 2 }, 0b01110),
        (Permission { level: 2 }, 0b01111),
        (TlbConflict, 0b10000),
        (Lockdown, 0b10100),
        (AsyncExternal, 0b10110),
        (AsyncParity, 0b11000),
        (Parity, 0b11001),
        (Coprocessor, 0b11010),
        (ParityOnWalk { level: 1 }, 0b11100),
        (ParityOnWalk { level: 2 }, 0b11110),
        (Translation { level: 3 }, 0b00111),
        (Reserved(1), 0b01000),
    ] {
        assert_eq!(status.encode_short(), fs, "{status:?}");
    }
}
