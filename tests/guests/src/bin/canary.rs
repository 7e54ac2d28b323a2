//! A VM's memory is its own: it holds what was written, and at the start nothing of another VM or of an earlier life.
//!
//! Fills all RAM outside the image with marks of this VM's seed. Command line: `seed=N`, `rounds=N`, `stride=BYTES` (the
//! distance of marks, 4 by default), `key`: goes on until a key is typed, in place of so many rounds, `resets`: prints `boot`, looks for marks, leaves its own and resets, for ever.
#![no_std]
#![no_main]

use bare::machine::{Range, has, image, machine, number};
use bare::report::{Outcome, Test, run};
use bare::{armillary, check, check_eq, console, gic, mmio, println, psci, skip};
use core::ptr;

const TESTS: &[Test] = &[
    ("ram_at_the_start_holds_nothing_of_another_life", no_marks),
    ("ram_keeps_what_was_written_while_others_run", marks_stay),
    ("ram_answers_at_its_first_and_last_word", ends),
];

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    if has("resets") {
        println!("boot");
        match no_marks() {
            Err(why) if armillary::present() => {
                println!("FAIL ram_after_a_reset_holds_nothing_of_the_life_before {why:?}");
            }
            _ => {}
        }
        // Filling cannot fail.
        let _ = fill();
        psci::system_reset();
    }
    run(TESTS)
}

/// What marks of every seed have in common; no code or data has it at random in the numbers that are looked for.
const MARK: u32 = 0xa51c_0000;
/// So many marks are no accident.
const ACCIDENT: u32 = 8;

/// RAM without the image and the device tree.
fn free() -> [core::ops::Range<u32>; 3] {
    let (machine, image) = (machine(), image());
    let page = |range: Range| range.base & !0xfff..(range.base + range.size + 0xfff) & !0xfff;
    let (mut first, mut second) = (page(image), page(machine.dtb));
    if second.start < first.start {
        (first, second) = (second, first);
    }
    let Range { base, size } = machine.memory;
    [
        base..first.start,
        first.end..second.start,
        second.end..base + size,
    ]
}

/// Calls `visit` with the address of each mark until it fails.
fn each_mark(mut visit: impl FnMut(*mut u32) -> Outcome) -> Outcome {
    let stride = (number("stride", 4) & !3).max(4);
    for range in free() {
        let mut address = range.start;
        while address < range.end {
            visit(address as *mut u32)?;
            address += stride;
        }
    }
    Ok(())
}

/// The mark at an address: the common part, and what seed and address make of the rest.
fn mark(place: *mut u32, seed: u32) -> u32 {
    MARK | (place as u32 >> 2 ^ place as u32 >> 14).wrapping_add(seed.wrapping_mul(0x3d4d)) & 0xffff
}

fn fill() -> Outcome {
    let seed = number("seed", 1);
    each_mark(|place| {
        // SAFETY: RAM that nothing else uses.
        unsafe { place.write_volatile(mark(place, seed)) };
        Ok(())
    })
}

fn no_marks() -> Outcome {
    let mut found = 0;
    let mut first = ptr::null_mut();
    each_mark(|place| {
        // SAFETY: RAM that nothing else uses.
        if unsafe { place.read_volatile() } & 0xffff_0000 == MARK {
            found += 1;
            first = if found == 1 { place } else { first };
        }
        Ok(())
    })?;
    check!(
        found < ACCIDENT,
        "{found} marks of another life, the first at {first:?}"
    );
    Ok(())
}

/// Registers of devices that keep what is written, and of what size.
fn registers() -> [(u32, u32); 4] {
    let machine = machine();
    [
        (machine.uart + 0x24, 0xffff),
        (machine.uart + 0x28, 0x3f),
        (machine.gicd + gic::gicd::IPRIORITYR + 96, 0xf8f8_f8f8),
        (machine.gicc + gic::gicc::PMR, 0xf8),
    ]
}

fn mark_devices(seed: u32) {
    for (register, mask) in registers() {
        mmio::write(
            register,
            mark(register as *mut u32, seed).wrapping_mul(0x0101_0101) & mask,
        );
    }
}

fn devices(seed: u32, round: u32) -> Outcome {
    for (register, mask) in registers() {
        let expected = mark(register as *mut u32, seed).wrapping_mul(0x0101_0101) & mask;
        let found = mmio::read(register) & mask;
        check_eq!(found, expected, "at {register:#x} in round {round}");
    }
    Ok(())
}

fn marks_stay() -> Outcome {
    let seed = number("seed", 1);
    fill()?;
    mark_devices(seed);
    for round in 0.. {
        let over = if has("key") {
            console::get().is_some()
        } else {
            round == number("rounds", 3)
        };
        if over {
            break;
        }
        devices(seed, round)?;
        if armillary::present() {
            armillary::yield_now();
        }
        each_mark(|place| {
            // SAFETY: RAM that nothing else uses.
            let found = unsafe { place.read_volatile() };
            check_eq!(found, mark(place, seed), "at {place:?} in round {round}");
            Ok(())
        })?;
    }
    Ok(())
}

fn ends() -> Outcome {
    let Range { base, size } = machine().memory;
    if size == 0 {
        skip!("the tree has no memory");
    }
    let last = (base + size - 4) as *mut u32;
    for value in [0x1234_5678, 0x8765_4321] {
        // SAFETY: the last word of RAM, which nothing else uses.
        unsafe { last.write_volatile(value) };
        // SAFETY: as above.
        check_eq!(unsafe { last.read_volatile() }, value, "the last word");
    }
    // SAFETY: the first word of RAM; reading does no harm.
    let _ = unsafe { (base as *const u32).read_volatile() };
    Ok(())
}
