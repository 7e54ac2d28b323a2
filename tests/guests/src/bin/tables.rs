//! Each CPU translates by its own tables, though others use the same addresses and the same ASID.
#![no_std]
#![no_main]

use bare::machine::machine;
use bare::report::Outcome;
use bare::{armillary, check_eq, cpu, mcr, mmio, mmu, skip, smp, tests};
use core::cell::UnsafeCell;

tests! {
    cpus_with_the_same_asid_see_their_own_memory => own_memory,
}

/// The address that each CPU has elsewhere.
const SHARED: u32 = 0xe000_0000;
/// Where the first CPU has it, from the start of RAM, MiB.
const FIRST: u32 = 16;

/// First-level tables, one for each CPU.
#[repr(align(0x4000))]
struct Tables(UnsafeCell<[[u32; 4096]; cpu::MAX_CPUS]>);
// SAFETY: each CPU touches its own.
unsafe impl Sync for Tables {}
static TABLES: Tables = Tables(UnsafeCell::new([[0; 4096]; cpu::MAX_CPUS]));

fn own_memory() -> Outcome {
    let count = smp::count();
    if count < 2 {
        skip!("one CPU");
    }
    for n in 0..count as u32 {
        mmio::write(place(n), 0x1111 * (n + 1));
    }
    smp::everywhere(look)
}

/// Where CPU `n` has it.
fn place(n: u32) -> u32 {
    machine().memory.base + ((FIRST + n) << 20)
}

fn look() -> Outcome {
    let n = cpu::index() as u32;
    // SAFETY: this CPU's own table.
    let table = unsafe { &mut (&mut *TABLES.0.get())[n as usize] };
    for (section, entry) in (0..).zip(table.iter_mut()) {
        *entry = mmu::section(section);
    }
    let kind = mmu::section(machine().memory.base >> 20) & 0xf_ffff;
    table[(SHARED >> 20) as usize] = place(n) | kind;
    cpu::dsb();
    mcr!(15, 0, 13, 0, 1; 5); // CONTEXTIDR: everybody's ASID
    mcr!(15, 0, 2, 0, 0; table.as_ptr() as u32 | 0x4a);
    mmu::flush();
    let outcome = compare(n);
    mcr!(15, 0, 13, 0, 1; 0);
    mmu::on();
    outcome
}

fn compare(n: u32) -> Outcome {
    for round in 0..2000 {
        check_eq!(
            mmio::read(SHARED),
            0x1111 * (n + 1),
            "the word of CPU {n} in round {round}"
        );
        if armillary::present() {
            armillary::yield_now();
        } else {
            cpu::relax();
        }
    }
    Ok(())
}
