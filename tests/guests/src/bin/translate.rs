//! The hypervisor's translation of a guest's addresses against the core's own: ATS1C** of random tables, PAR left alone by
//! exits, addresses above 4 GiB.
//!
//! Command line: `seed=N`, `tables=N` (tables of each format, 200 by default; each is asked for 256 translations).
#![no_std]
#![no_main]

use bare::armillary::{self, translate};
use bare::exception::{Fault, Kind, catch};
use bare::gic;
use bare::machine::{image, machine, number};
use bare::probe::{EXTERNAL, Place, Probe};
use bare::random::Random;
use bare::report::Outcome;
use bare::{check, check_eq, cpu, fail, mcr, mcrr, mmio, mmu, mrc, mrrc, probes, skip, tests};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

tests! {
    random_short_tables_translate_as_on_the_core => || compare(short, &SHORT),
    random_long_tables_translate_as_on_the_core => || compare(long, &LONG),
    both_stages_tell_what_stage_2_refuses => both_stages,
    no_operation_of_that_number => no_operation,
    par_is_kept_through_exits => par_is_kept,
    accesses_above_4_gib_do_not_wrap => above_4_gib,
}

/// Translation, access flag, domain and permission faults of both levels, and the external abort of a second-level table (ARM DDI
/// 0406C, Table B3-23); of three levels, and of the second's and third's tables (Table B3-24).
const SHORT: [u32; 9] = [5, 7, 3, 6, 9, 11, 13, 15, 14];
const LONG: [u32; 11] = [5, 6, 7, 9, 10, 11, 13, 14, 15, 0x16, 0x17];

/// Translations asked for of each set of tables: addresses, by four operations.
const ADDRESSES: u32 = 64;

/// SCTLR: both kinds of execute-never for what is writable, TEX remap, `AP[0]` as access flag.
const WXN: u32 = 1 << 19;
const UWXN: u32 = 1 << 20;
const TRE: u32 = 1 << 28;
const AFE: u32 = 1 << 29;

/// Where nothing is, on the bare machine neither.
const NOWHERE: u32 = 0x0c00_0000;

/// Pages for tables: a first level of the short format has four.
const PAGES: usize = 40;
const PAGE_WORDS: usize = 1024;
/// Pages of it that tables point to; both formats' first levels are before them.
const POOL: core::ops::Range<usize> = 8..PAGES;
#[repr(align(0x4000))]
struct Tables(UnsafeCell<[[u32; PAGE_WORDS]; PAGES]>);
// SAFETY: used by one CPU.
unsafe impl Sync for Tables {}
static TABLES: Tables = Tables(UnsafeCell::new([[0; PAGE_WORDS]; PAGES]));

fn page(n: usize) -> u32 {
    TABLES.0.get() as u32 + 0x1000 * n as u32
}

fn word(n: usize, index: u32) -> *mut u32 {
    // SAFETY: in bounds, as page and index are those of a table.
    unsafe {
        TABLES
            .0
            .get()
            .cast::<u32>()
            .add(PAGE_WORDS * n + index as usize)
    }
}

/// Reads a word of page `n` on.
fn get(n: usize, index: u32) -> u32 {
    // SAFETY: see `word`; no reference into the tables is held.
    unsafe { word(n, index).read_volatile() }
}

fn put(n: usize, index: u32, value: u32) {
    // SAFETY: see `get`.
    unsafe { word(n, index).write_volatile(value) };
}

/// The registers that decide about a translation, beside SCTLR's other bits.
#[derive(Clone, Copy, Debug)]
struct Registers {
    sctlr: u32,
    ttbcr: u32,
    ttbr: [u64; 2],
    dacr: u32,
    mair: [u32; 2],
}

/// Runs `f` with these registers; the image stays where it is.
fn with<R>(registers: &Registers, f: impl FnOnce() -> R) -> R {
    let old = mmu::sctlr();
    mmu::off();
    mcr!(15, 0, 2, 0, 2; registers.ttbcr);
    mcrr!(0, 2; registers.ttbr[0]);
    mcrr!(1, 2; registers.ttbr[1]);
    mcr!(15, 0, 3, 0, 0; registers.dacr);
    mcr!(15, 0, 10, 2, 0; registers.mair[0]);
    mcr!(15, 0, 10, 2, 1; registers.mair[1]);
    mmu::flush();
    mmu::set_sctlr(old | registers.sctlr | mmu::M);
    let result = f();
    mmu::set_sctlr(old & !mmu::M);
    mcrr!(0, 2; 0);
    mcrr!(1, 2; 0);
    mmu::on();
    result
}

/// The core's own: PAR after ATS1CPR (0), ATS1CPW, ATS1CUR or ATS1CUW (3).
fn core(va: u32, operation: u32, long: bool) -> Result<u64, Fault> {
    catch(|| {
        match operation {
            0 => mcr!(15, 0, 7, 8, 0; va),
            1 => mcr!(15, 0, 7, 8, 1; va),
            2 => mcr!(15, 0, 7, 8, 2; va),
            _ => mcr!(15, 0, 7, 8, 3; va),
        }
        if long {
            mrrc!(0, 7)
        } else {
            mrc!(15, 0, 7, 4, 0).into()
        }
    })
}

type Maker = fn(&mut Random) -> Registers;

/// What translations have come to, a bit for each fault status, bit 0 for none.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Compares translations of random addresses by random tables. `statuses` must all come, or the tables are not what they should be.
fn compare(make: Maker, statuses: &[u32]) -> Outcome {
    if !armillary::present() {
        skip!("there is nobody to compare with");
    }
    SEEN.store(0, Ordering::Relaxed);
    let mut random = Random::new(number("seed", 1));
    for set in 0..number("tables", 200) {
        let registers = make(&mut random);
        with(&registers, || {
            for _ in 0..ADDRESSES {
                let va = random.next();
                for operation in 0..4 {
                    same(&registers, va, operation).map_err(|why| {
                        bare::report::Reason::Failed(bare::report::text(format_args!(
                            "tables {set}: {why:?}"
                        )))
                    })?;
                }
            }
            Ok(())
        })?;
    }
    let expected = statuses.iter().fold(1, |seen, status| seen | 1 << status);
    check_eq!(SEEN.load(Ordering::Relaxed), expected, "statuses that came");
    Ok(())
}

/// Whether the hypervisor says what the core does.
fn same(registers: &Registers, va: u32, operation: u32) -> Outcome {
    let long = registers.ttbcr >> 31 != 0;
    let Some(ours) = translate(va, operation) else {
        fail!("no translation of {va:#x}");
    };
    let status = if ours & 1 != 0 { ours >> 1 & 0x3f } else { 0 };
    SEEN.fetch_or(1 << status, Ordering::Relaxed);
    let cores = match core(va, operation, long) {
        Ok(par) => par,
        Err(fault) => {
            check_eq!(fault.kind, Kind::Data, "kind of the exception");
            check_eq!(fault.far, va, "FAR");
            check!(
                ours & 1 != 0 && ours as u32 >> 1 & 0x3f == fault.status(),
                "{va:#x} by {operation}: {ours:#x}, aborted with {:#x}",
                fault.fsr
            );
            return Ok(());
        }
    };
    if long {
        let same = translate(va, operation | 8);
        check_eq!(same, Some(cores), "what the core says for the hypervisor");
    }
    let type_of = cores >> 56;
    let mask = match (long, cores & 1, ours & 2) {
        // QEMU leaves the entry's shareability to what is always shareable.
        (true, 0, _) if type_of & 0xf0 == 0 || type_of == 0x44 => !(3 << 7),
        (true, ..) | (false, 1, _) => u64::MAX,
        // QEMU gives no attributes in the short format, nor the bits of a supersection's address above 32.
        (false, _, 2) => 0xff00_0203,
        (false, ..) => 0xffff_f203,
    };
    if (ours ^ cores) & mask != 0 && (long || !domain_first(registers, va, ours, cores)) {
        fail!("{va:#x} by {operation}: {ours:#x} instead of {cores:#x}");
    }
    Ok(())
}

/// QEMU asks the domain before it reads the entry of a second level, and before the access flag, which a manager escapes; the
/// manual's order is translation, access flag, domain, for managers too (ARM DDI 0406C, B3.12, TranslationTableWalkSD). Whether
/// that is why the two differ.
fn domain_first(registers: &Registers, va: u32, ours: u64, cores: u64) -> bool {
    const DOMAIN: [u64; 2] = [0b01001 << 1 | 1, 0b01011 << 1 | 1];
    const FLAG: [u64; 2] = [0b00011 << 1 | 1, 0b00110 << 1 | 1];
    const SECOND: u64 = 0b00111 << 1 | 1;
    const ON_WALK: u64 = 0b01110 << 1 | 1;
    let first = first_level(registers, va);
    let supersection = first & 3 != 1 && first & 1 << 18 != 0;
    let domain = if supersection { 0 } else { first >> 5 & 15 };
    let level = usize::from(first & 3 == 1);
    match registers.dacr >> (2 * domain) & 3 {
        0 | 2 => {
            cores == DOMAIN[level]
                && (ours == FLAG[level] || level == 1 && (ours == SECOND || ours == ON_WALK))
        }
        3 => cores & 1 == 0 && ours == FLAG[level],
        _ => false,
    }
}

/// The first-level entry of `va` in the short format.
fn first_level(registers: &Registers, va: u32) -> u32 {
    let n = registers.ttbcr & 7;
    let upper = n != 0 && va >> (32 - n) != 0;
    let base = registers.ttbr[usize::from(upper)] as u32;
    let size = if upper { 14 } else { 14 - n };
    let table = base & !((1 << size) - 1);
    let entry = get(0, (table - page(0)) / 4 + (va >> 20));
    if registers.sctlr & mmu::EE != 0 {
        entry.swap_bytes()
    } else {
        entry
    }
}

fn either(random: &mut Random, bits: u32) -> u32 {
    random.next() & bits
}

/// Where a table is that is in no RAM: the UART, the CPU interface, nowhere, above RAM.
fn outside(random: &mut Random) -> u32 {
    let machine = machine();
    [machine.uart, machine.gicc, 0x2000_0000, 0xf000_0000][random.below(4) as usize]
}

/// Random tables of the short format.
fn short(random: &mut Random) -> Registers {
    /// Small enough a share not to hide all others.
    const OUTSIDE: u32 = 24;
    let n = random.below(8);
    let sctlr = either(random, AFE | TRE | mmu::EE | WXN | UWXN);
    let order = |entry: u32| {
        if sctlr & mmu::EE != 0 {
            entry.swap_bytes()
        } else {
            entry
        }
    };
    for table in [0, 4] {
        for index in 0..4096 {
            let mut entry = random.next();
            if random.below(2) == 0 {
                entry = entry & !3 | 1;
            }
            if entry & 3 == 1 {
                let at = if random.below(OUTSIDE) == 0 {
                    outside(random)
                } else {
                    page(POOL.start) + 0x400 * random.below(4 * POOL.len() as u32)
                };
                entry = at & !0x3ff | entry & 0x3ff;
            }
            put(table, index, order(entry));
        }
    }
    for table in POOL {
        for index in 0..PAGE_WORDS as u32 {
            put(table, index, order(random.next()));
        }
    }
    // The image: a section for PL1 in domain 15, normal memory with and without TEX remap.
    let pages = image();
    for section in pages.base >> 20..=(pages.base + pages.size) >> 20 {
        let entry = section << 20 | 1 << 12 | 1 << 10 | 15 << 5 | 0b1110;
        put(4, section, order(entry));
        if n < 2 {
            put(0, section, order(entry));
        }
    }
    let dacr = random.next() | 3 << 30;
    // The lower table is smaller by n, and may begin wherever that allows.
    let step = 0x4000 >> n;
    let lower = page(0) + step * if n < 2 { 0 } else { random.below(1 << n) };
    let walks = if n < 2 { 1 << 5 } else { 1 << 4 };
    // Bits of how a table is walked.
    let how = random.next() & 0x7b;
    let enabled = either(random, walks) & if random.below(4) == 0 { u32::MAX } else { 0 };
    Registers {
        sctlr,
        ttbcr: n | enabled,
        ttbr: [(lower | how).into(), (page(4) | how).into()],
        // Half of them without a domain that refuses.
        dacr: if random.below(2) == 0 {
            dacr
        } else {
            dacr | 0x5555_5555
        },
        mair: [random.next() & !(3 << 14) | 2 << 14, random.next()],
    }
}

/// An entry of the long format at `level`, to another table or of memory, as it comes.
fn long_entry(random: &mut Random, level: u32) -> u64 {
    const OUTSIDE: u32 = 40;
    let mut entry = u64::from(random.next()) << 32 | u64::from(random.next());
    if random.below(4) != 0 {
        entry |= 3;
    }
    if random.below(4) != 0 {
        entry |= 1 << 10;
    }
    // Shareability 0b01 is reserved.
    if entry >> 8 & 3 == 1 {
        entry |= 2 << 8;
    }
    if entry & 3 == 3 && level < 3 {
        let at = if random.below(OUTSIDE) == 0 {
            outside(random)
        } else {
            page(POOL.start + 2 * random.below(POOL.len() as u32 / 2) as usize + level as usize - 1)
        };
        return entry & !0xff_ffff_f000 | u64::from(at);
    }
    entry
}

fn put_long(n: usize, index: u32, entry: u64, big: bool) {
    let entry = if big { entry.swap_bytes() } else { entry };
    put(n, 2 * index, entry as u32);
    put(n, 2 * index + 1, (entry >> 32) as u32);
}

/// Random tables of the long format.
fn long(random: &mut Random) -> Registers {
    /// The table of the GiB where the image is.
    const HOME: usize = 4;
    /// What MAIR may hold: device and strongly-ordered, uncached, write-through and write-back of several kinds.
    const TYPES: [u32; 8] = [0x00, 0x04, 0x44, 0xaa, 0xff, 0xee, 0x4f, 0xb4];
    let sctlr = either(random, mmu::EE | UWXN);
    let big = sctlr & mmu::EE != 0;
    // The image is in the region of TTBR0, or in what a small one of that leaves to TTBR1.
    let upper = random.below(2) == 0;
    let (t0, t1) = if upper {
        (2 + random.below(6), 0)
    } else {
        (random.below(2), random.below(8))
    };
    for table in [0, 1, HOME] {
        let level = if table == HOME || [t0, t1][table] > 1 {
            2
        } else {
            1
        };
        for index in 0..512 {
            put_long(table, index, long_entry(random, level), big);
        }
    }
    // Those of the second level and of the third take turns. QEMU 7.2 has no tables above 4 GiB: it keeps 32 bits of their addresses.
    for table in POOL {
        for index in 0..512 {
            put_long(
                table,
                index,
                long_entry(random, 2 + (table & 1) as u32),
                big,
            );
        }
    }
    let pages = image();
    let root = usize::from(upper);
    put_long(root, pages.base >> 30, u64::from(page(HOME)) | 3, big);
    for block in pages.base >> 21..=(pages.base + pages.size) >> 21 {
        // For PL1, inner shareable, of type 7.
        let entry = u64::from(block << 21) | 1 << 10 | 3 << 8 | 7 << 2 | 1;
        put_long(HOME, block & 511, entry, big);
    }
    let mut mair =
        [0, 0].map(|_: u32| (0..4).fold(0, |mair, _| mair << 8 | TYPES[random.below(8) as usize]));
    mair[1] |= 0xff << 24;
    let disable = if random.below(4) == 0 {
        if upper { 1 << 7 } else { 1 << 23 }
    } else {
        0
    };
    // ASIDs, and which of them counts.
    let asid = |random: &mut Random| u64::from(random.below(256)) << 48;
    Registers {
        sctlr,
        ttbcr: 1 << 31 | t0 | t1 << 16 | disable | either(random, 1 << 22),
        ttbr: [
            u64::from(page(0)) | asid(random),
            u64::from(page(1)) | asid(random),
        ],
        dacr: random.next(),
        mair,
    }
}

/// The ATS12NSO operations: what stage 2 has, and who refuses.
fn both_stages() -> Outcome {
    if !armillary::present() {
        skip!("there is no stage 2");
    }
    let machine = machine();
    let ask = |va, operation| translate(va, operation).unwrap_or_default();
    for operation in 4..8 {
        let ram = image().base;
        let par = ask(ram + 0x123, operation);
        check_eq!(par & 0xff_ffff_f001, u64::from(ram), "address of RAM");
        check_eq!(par >> 56, 0xff, "type of RAM");
        // Bits 9 and 8: stage 2, on a walk.
        let uart = ask(machine.uart, operation);
        check_eq!(uart & 0xb01, 0xa01, "PAR of an emulated device");
        check!((5..8).contains(&(uart >> 1 & 0x3f)), "status {uart:#x}");
        let gicc = ask(machine.gicc, operation);
        check_eq!(
            gicc & 0xff_ffff_f001,
            machine.gicc.into(),
            "the CPU interface's address"
        );
        // Device memory of both stages.
        check_eq!(gicc >> 56, 4, "the CPU interface's type");
        let nothing = ask(0x2000_0000, operation);
        check_eq!(nothing & 0xb01, 0xa01, "PAR of nothing");
    }
    // A second-level table in the UART.
    let old = mmu::section(0x300);
    mmu::set_section(0x300, machine.uart | 1);
    mmu::flush();
    let both = ask(0x3000_0000, 4);
    let one = ask(0x3000_0000, 0);
    mmu::set_section(0x300, old);
    mmu::flush();
    check_eq!(
        both & 0xb01,
        0xb01,
        "PAR of a table in a device, by stage 2"
    );
    check_eq!(
        one,
        0b01110 << 1 | 1,
        "PAR of a table in a device, by stage 1"
    );
    Ok(())
}

fn no_operation() -> Outcome {
    if !armillary::present() {
        skip!("there is nobody to ask");
    }
    for operation in [8, 9, 0xff, 0x8000_0000] {
        check!(
            translate(0x4020_0000, operation).is_none(),
            "operation {operation:#x}"
        );
    }
    Ok(())
}

static WITHOUT_SYNDROME: &[Probe] = probes! {
    store "str r1, [r0], #4", load "ldr r1, [r0], #4", load "ldrd r2, r3, [r0]", load "ldm r0, {{r1, r2}}", store "stm r0, {{r1, r2}}",
    load "ldrb r1, [r0, #1]!",
};

/// A distributor register that may be read and written.
fn register() -> u32 {
    machine().gicd + gic::gicd::IPRIORITYR + 96
}

/// PAR after exits of every kind is what the guest's own operation has left there.
fn par_is_kept() -> Outcome {
    for long in [false, true] {
        if long {
            mmu::off();
            mmu::on_long();
        }
        let outcome = par_is_kept_in(long);
        if long {
            mmu::off_long();
            mmu::on();
        }
        outcome?;
    }
    Ok(())
}

fn par_is_kept_in(long: bool) -> Outcome {
    let read = || {
        if long {
            mrrc!(0, 7)
        } else {
            mrc!(15, 0, 7, 4, 0).into()
        }
    };
    gic::init();
    for va in [image().base, 0xfff0_0000] {
        let Ok(expected) = core(va, 0, long) else {
            fail!("ATS1CPR of {va:#x} aborted");
        };
        for place in [
            Place {
                thumb: false,
                user: false,
            },
            Place {
                thumb: true,
                user: false,
            },
        ] {
            for probe in WITHOUT_SYNDROME {
                let result = place.call(probe.code(place.thumb), [register(), 0, 0, 0]);
                check!(result.is_ok(), "{} aborted", probe.name);
                check_eq!(read(), expected, "PAR after {}", probe.name);
                // And where nothing is.
                let result = place.call(probe.code(place.thumb), [NOWHERE, 0, 0, 0]);
                check!(result.is_err(), "{} went through", probe.name);
                check_eq!(read(), expected, "PAR after the abort of {}", probe.name);
            }
        }
        mmio::write(register(), mmio::read(register()));
        check_eq!(read(), expected, "PAR after plain accesses");
        let _ = mrc!(15, 0, 1, 0, 1);
        check_eq!(read(), expected, "PAR after a trapped register");
        if armillary::present() {
            for operation in 0..12 {
                let _ = translate(machine().uart, operation);
                check_eq!(read(), expected, "PAR after a translation by {operation}");
            }
            armillary::yield_now();
            check_eq!(read(), expected, "PAR after another VM");
        }
    }
    cpu::isb();
    Ok(())
}

static TWO_WORDS: &[Probe] = probes! {
    load "ldm r0, {{r1, r2}}", store "stm r0, {{r1, r2}}", load "ldrd r2, r3, [r0]", store "strd r2, r3, [r0]",
};

/// A device seen 4 GiB above its place is not there. The access begins on a page that is the device: QEMU 7.2 keeps 32 bits of
/// the address of a stage-2 fault, so that only what the hypervisor translates itself can be seen to be right.
fn above_4_gib() -> Outcome {
    const LAST: u32 = 0xc000_0ffc;
    let gicd = u64::from(machine().gicd);
    let entries = [
        (
            0,
            image().base >> 30,
            u64::from(image().base & 3 << 30) | 1 << 10 | 3 << 8 | 1 << 2 | 1,
        ),
        (0, 3, u64::from(page(1)) | 3),
        (1, 0, u64::from(page(2)) | 3),
        (2, 0, gicd | 1 << 54 | 1 << 10 | 3),
        (2, 1, 1 << 32 | gicd | 1 << 54 | 1 << 10 | 3),
    ];
    for (table, index, entry) in entries {
        put_long(table, index, entry, false);
    }
    let registers = Registers {
        sctlr: 0,
        ttbcr: 1 << 31,
        ttbr: [page(0).into(), 0],
        dacr: 0,
        mair: [0xff00, 0],
    };
    with(&registers, || {
        for (probe, thumb) in TWO_WORDS
            .iter()
            .flat_map(|probe| [(probe, false), (probe, true)])
        {
            let place = Place { thumb, user: false };
            let Err(fault) = place.call(probe.code(thumb), [LAST, 0, 0, 0]) else {
                fail!("{} went through", probe.name);
            };
            check_eq!(fault.kind, Kind::Data, "kind of the exception");
            check_eq!(fault.status(), EXTERNAL.1, "status after {}", probe.name);
            check_eq!(fault.far, LAST + 4, "FAR after {}", probe.name);
        }
        if let (Some(one), Some(both)) = (translate(LAST + 4, 0), translate(LAST + 4, 4)) {
            check_eq!(one & 0xff_ffff_f001, 1 << 32 | gicd, "address");
            check_eq!(
                both,
                1 << 11 | 1 << 9 | 0b000101 << 1 | 1,
                "PAR by both stages"
            );
        }
        Ok(())
    })
}
