//! A storm: random accesses by random instructions to everywhere, from PL0 and PL1, in ARM and Thumb state, with the MMU on
//! and off, while another CPU changes the tables; whatever comes of it comes to this guest alone.
//!
//! Code is a row of slots. Each takes four registers from a list, two addresses and two offsets, then loads or stores. An
//! exception goes on to the next slot. With the MMU on the code is reached through a page that comes and goes and has two
//! faces, so that what aborted is another instruction, or none, when a hypervisor looks at it.
//!
//! Command line: `seed=N`, `thousands=N` (of accesses, 200 by default).
#![no_std]
#![no_main]

mod code;

use bare::cpu::{CPSR_A, CPSR_E, CPSR_F, CPSR_I, CPSR_T, mode};
use bare::exception::vectors;
use bare::machine::{image, machine, number};
use bare::random::Random;
use bare::report::Outcome;
use bare::{armillary, check, check_eq, cpu, gic, mcr, mmio, mmu, println, skip, smp, tests, vfp};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

global_asm!(include_str!("storm.s"), options(raw));

tests! {
    random_accesses_come_to_their_end => storm,
    what_they_could_not_reach_is_as_it_was => constants,
    interrupts_work_after_all_this => interrupts,
}

/// Slots of a row, and rows in a page of code.
const SLOTS: usize = 256;
/// How often a row is run before another is made.
const RUNS: u32 = 64;
/// Where the code is seen with the MMU on.
const CODE: u32 = 0xd000_0000;
/// Sections that the other CPU changes.
const WINDOWS: core::ops::Range<u32> = 0xc00..0xc10;
/// RAM that may be written, above what the image and the tree take.
const SCRATCH: u32 = 0x4300_0000;
const MIB: u32 = 1 << 20;

/// Two rows of code, each in a page.
#[repr(align(0x1000))]
struct Rows(UnsafeCell<[[u32; 1024]; 2]>);
/// What the slots pop.
#[repr(align(16))]
struct Popped(UnsafeCell<[u32; 4 * SLOTS]>);
/// Second-level tables: that of the code's MiB, and of windows.
#[repr(align(0x400))]
struct Second(UnsafeCell<[u32; 256 * TABLES]>);
const TABLES: usize = 5;
/// Second-level table of the long format for the GiB of the windows: blocks of 2 MiB.
#[repr(align(0x1000))]
struct Blocks(UnsafeCell<[[u32; 2]; 512]>);
/// A spare word, data aborts, undefined instructions, prefetch aborts.
struct Counters(UnsafeCell<[u32; 4]>);
// SAFETY: of each, words are written by one CPU at a time; the table's by the other CPU alone once that runs.
unsafe impl Sync for Rows {}
// SAFETY: as above.
unsafe impl Sync for Popped {}
// SAFETY: as above.
unsafe impl Sync for Second {}
// SAFETY: as above.
unsafe impl Sync for Blocks {}
// SAFETY: as above.
unsafe impl Sync for Counters {}
static ROWS: Rows = Rows(UnsafeCell::new([[0; 1024]; 2]));
static POPPED: Popped = Popped(UnsafeCell::new([0; 4 * SLOTS]));
static SECOND: Second = Second(UnsafeCell::new([0; 256 * TABLES]));
static BLOCKS: Blocks = Blocks(UnsafeCell::new([[0; 2]; 512]));
static COUNTERS: Counters = Counters(UnsafeCell::new([0; 4]));
static OVER: AtomicBool = AtomicBool::new(false);
static CHANGES: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    fn storm_run(code: u32, popped: *mut u32, cpsr: u32, counters: *mut u32) -> u32;
    static storm_vectors: u8;
}

/// Stores a word of a table or of code.
fn put(array: *mut u32, index: usize, value: u32) {
    // SAFETY: callers' indices are within their arrays.
    unsafe { array.add(index).write_volatile(value) };
}

fn row(n: usize) -> *mut u32 {
    // SAFETY: n is 0 or 1.
    unsafe { ROWS.0.get().cast::<u32>().add(1024 * n) }
}

/// Makes both rows: a slot is POP {r0-r3}, the access, and in Thumb state a NOP. Thumb's are the same twice: halves of
/// both would make instructions of their own.
fn make(random: &mut Random, thumb: bool) {
    let end = if thumb { 0xdf00_df00 } else { 0xef00_0000 };
    for slot in 0..SLOTS {
        let halves = code::thumb(random);
        for n in 0..2 {
            let (first, second) = if thumb {
                (
                    halves & 0xffff_0000 | 0xbc0f,
                    0xbf00 << 16 | halves & 0xffff,
                )
            } else {
                (0xe8bd_000f, code::arm(random))
            };
            put(row(n), 2 * slot, first);
            put(row(n), 2 * slot + 1, second);
        }
    }
    for n in 0..2 {
        put(row(n), 2 * SLOTS, end);
    }
    cpu::dsb();
    mcr!(15, 0, 7, 5, 0; 0);
    cpu::dsb();
    cpu::isb();
}

/// Where an access begins: a device, flash, nothing, RAM, a window, above RAM.
fn address(random: &mut Random) -> u32 {
    let machine = machine();
    let at = match random.below(16) {
        0..=2 => machine.gicd + random.below(0x1000),
        3 => machine.gicc + random.below(0x2000),
        // Seldom the data register, to keep the console readable.
        4 => machine.uart + 0x800 + random.below(0x800),
        5 | 6 => machine.rtc.unwrap_or(machine.uart) + random.below(0x1000),
        7 => random.below(0x0800_0000),
        8 => 0x0a00_0000 + random.below(0x35f0_0000),
        9 | 10 => SCRATCH + 0x1_0000 + random.below(MIB - 0x2_0000),
        11..=14 => WINDOWS.start * MIB + random.below(WINDOWS.len() as u32 * MIB),
        _ => 0x4800_0000 + random.below(0xb800_0000),
    };
    if random.below(4) == 0 { at } else { at & !3 }
}

/// What a run pops, in the byte order that it pops in.
fn fill(random: &mut Random, big: bool) {
    let mut index = 0;
    let mut add = |value: u32| {
        put(
            POPPED.0.get().cast(),
            index,
            if big { value.swap_bytes() } else { value },
        );
        index += 1;
    };
    for _ in 0..SLOTS {
        add(address(random));
        add(address(random));
        let both = random.next();
        add(both & 0xff);
        add(both >> 8 & 0xfc);
    }
}

fn code_page(n: usize) -> u32 {
    // Small page, full access, normal write-back, shareable.
    row(n) as u32 | 1 << 10 | 1 << 6 | 3 << 4 | 0b1110
}

fn set_code_page(entry: u32) {
    put(SECOND.0.get().cast(), 0, entry);
    cpu::dsb();
}

/// Where a page or section of a window is: RAM, devices, flash, nothing.
fn place(random: &mut Random) -> u32 {
    let machine = machine();
    let devices = [machine.gicd, machine.uart, machine.gicc, 0x0c00_0000];
    match random.below(8) {
        0..=2 => SCRATCH + random.below(MIB),
        3 => random.below(0x0800_0000),
        4 => 0x8000_0000 + random.below(0x8000_0000),
        _ => devices[random.below(4) as usize],
    }
}

/// The other CPU: changes windows, and takes the code's page away and brings it again.
fn change() {
    let mut random = Random::new(number("seed", 1) ^ 0x5a5a_0000);
    let machine = machine();
    let second = SECOND.0.get() as u32;
    while !OVER.load(Ordering::Acquire) {
        for section in WINDOWS {
            let entry = match random.below(8) {
                0 => 0,
                1..=3 => (second + 0x400 * (1 + random.below(TABLES as u32 - 1))) | 1,
                4 => machine.uart | 1,
                // A section, of domain 0 or one without access.
                _ => place(&mut random) & 0xfff0_0000 | random.next() & 0x0001_fc3c | 2,
            };
            mmu::set_section(section, entry);
        }
        for _ in 0..64 {
            // Large and small pages.
            let index = 256 + random.below(256 * (TABLES as u32 - 1));
            let entry = place(&mut random) & 0xffff_0000 | random.next() & 0xffe | 2;
            let entry = if random.below(4) == 0 {
                entry & !2 | 1
            } else {
                entry
            };
            put(SECOND.0.get().cast(), index as usize, entry);
        }
        change_long(&mut random);
        let page = match random.below(8) {
            0 => 0,
            1 => code_page(0) | 1,
            2 => machine.uart | 3 << 4 | 2,
            3 => code_page(0) & !(3 << 4) | 1 << 4,
            n => code_page(n as usize & 1),
        };
        set_code_page(page);
        mcr!(15, 0, 8, 3, 0; 0); // TLBIALLIS
        for _ in 0..random.below(0x200) {
            cpu::relax();
        }
        set_code_page(code_page(random.below(2) as usize));
        mcr!(15, 0, 8, 3, 0; 0);
        CHANGES.fetch_add(1, Ordering::Relaxed);
        for _ in 0..random.below(0x4000) {
            cpu::relax();
        }
    }
}

/// The same for the map of the long format: a block of its last GiB, a table of blocks, or one in a device.
fn change_long(random: &mut Random) {
    let attributes = |random: &mut Random| {
        let bits = u64::from(random.next());
        bits << 32 & 0x0070_0000_0000_0000 | bits & 0x7dc
    };
    for index in 0..WINDOWS.len() / 2 {
        let above = u64::from(random.below(4) == 0) << 32;
        let at = u64::from(place(random) & 0xffe0_0000) | above;
        let entry = at | attributes(random) | u64::from(random.below(4) != 0);
        put(BLOCKS.0.get().cast(), 2 * index, entry as u32);
        put(BLOCKS.0.get().cast(), 2 * index + 1, (entry >> 32) as u32);
    }
    let entry = match random.below(8) {
        0 => 0,
        1 => u64::from(machine().uart) | 3,
        // Not the GiB of RAM.
        2 => [0u64, 2, 3, 4][random.below(4) as usize] << 30 | attributes(random) | 1,
        _ => u64::from(BLOCKS.0.get() as u32) | 3,
    };
    mmu::set_block(3, entry);
}

/// How addresses are mapped in a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Map {
    /// Not at all.
    Off,
    Short,
    /// By the long format, in which the image is PL1's.
    Long,
}

fn storm() -> Outcome {
    if !armillary::present() {
        skip!("QEMU's other devices could be started");
    }
    let begin = checksum();
    let before = exits();
    let accesses = number("thousands", 200) * 1000;
    let mut random = Random::new(number("seed", 1));
    let second = SECOND.0.get() as u32;
    set_code_page(code_page(0));
    mmu::set_section(CODE / MIB, second | 1);
    mmu::flush();
    let others = smp::count() > 1;
    if others {
        check_eq!(smp::start(1, change), 0, "CPU_ON");
    }
    vfp::on();
    let mut done = 0;
    let mut wild = 0;
    while done < accesses && wild == 0 {
        let thumb = random.below(2) == 1;
        make(&mut random, thumb);
        for _ in 0..RUNS {
            wild = run(&mut random, thumb);
            done += SLOTS as u32;
            if wild != 0 || done >= accesses {
                break;
            }
        }
    }
    mmu::on();
    vfp::off();
    OVER.store(true, Ordering::Release);
    let exits = exits().wrapping_sub(before);
    let ended = !others || smp::wait_off(1);
    calm();
    // SAFETY: only this CPU counts.
    let [_, data, undefined, prefetch] = unsafe { COUNTERS.0.get().read_volatile() };
    println!(
        "\nstorm: {done} instructions, {exits} exits by data aborts, {data} data aborts, {undefined} undefined, {prefetch} prefetch aborts, {} changes",
        CHANGES.load(Ordering::Relaxed)
    );
    check_eq!(wild, 0, "an address to be executed");
    check!(ended, "the other CPU did not end");
    check!(data > done / 16 && data < done, "{data} data aborts");
    check_eq!(checksum(), begin, "sum of code and constants");
    Ok(())
}

/// One run of a row: from PL0 or PL1, with the MMU off or on in either format, in either byte order.
fn run(random: &mut Random, thumb: bool) -> u32 {
    let choice = random.next();
    let map = match choice & 7 {
        0 | 1 => Map::Off,
        2 => Map::Long,
        _ => Map::Short,
    };
    let user = map != Map::Long && choice & 8 != 0;
    let big = choice & 0x70 == 0;
    fill(random, big);
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    let cpsr = bit(thumb, CPSR_T) | bit(big, CPSR_E) | if user { mode::USR } else { mode::SYS };
    mmu::off();
    match map {
        Map::Off => {}
        Map::Short => mmu::on(),
        Map::Long => mmu::on_long(),
    }
    let code = if map == Map::Short {
        CODE
    } else {
        row(0) as u32
    };
    mcr!(15, 0, 12, 0, 0; &raw const storm_vectors as u32);
    // SAFETY: the row ends with an SVC, and neither it nor what it pops reaches what is used here.
    let wild = unsafe {
        storm_run(
            code,
            POPPED.0.get().cast(),
            cpsr | CPSR_A | CPSR_F | CPSR_I,
            COUNTERS.0.get().cast(),
        )
    };
    mcr!(15, 0, 12, 0, 0; vectors().0);
    if map == Map::Long {
        mmu::off_long();
    }
    wild
}

/// How often a load or store has left for the hypervisor, if there is one.
fn exits() -> u32 {
    if armillary::present() {
        armillary::exits(armillary::Reason::Data) as u32
    } else {
        0
    }
}

/// Puts the devices back into order.
fn calm() {
    let uart = machine().uart;
    mmio::write(uart + 0x38, 0);
    mmio::write(uart + 0x44, 0x7ff);
    mmio::write(uart + 0x2c, 0x70);
    mmio::write(uart + 0x30, 0x301);
    gic::init();
    gic::end(0);
}

/// Of the image up to its data.
fn checksum() -> u32 {
    unsafe extern "C" {
        static __image_start: u32;
        static __data_start: u32;
    }
    let (mut at, end) = (&raw const __image_start, &raw const __data_start);
    let mut sum = 0u32;
    while at < end {
        // SAFETY: the image is RAM that is mapped.
        sum = sum
            .rotate_left(1)
            .wrapping_add(unsafe { at.read_volatile() });
        // SAFETY: within the image or at its end.
        at = unsafe { at.add(1) };
    }
    sum
}

fn constants() -> Outcome {
    check!(image().size > 0, "an image");
    check_eq!(
        mmu::section(SCRATCH / MIB) >> 20,
        SCRATCH / MIB,
        "the flat map"
    );
    Ok(())
}

fn interrupts() -> Outcome {
    gic::init();
    for n in 0..16 {
        gic::send(n, 1);
        let iar = gic::acknowledge();
        gic::end(iar);
        check_eq!(iar, n, "IAR");
    }
    Ok(())
}
