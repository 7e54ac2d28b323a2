//! The copies, fills, comparisons and divisions of the hypervisor's `src/arch/runtime.s`, against what is plain to see.
#![no_std]
#![no_main]

use bare::report::Outcome;
use bare::{check, check_eq, tests};
use core::arch::global_asm;
use core::ptr::{read_volatile, write_volatile};

global_asm!(include_str!("../../../../src/arch/runtime.s"), options(raw));

tests! {
    memory_is_copied_forwards_and_backwards => copies,
    memory_is_filled_and_nothing_beside_it => fills,
    memory_is_compared => compares,
    numbers_are_divided => divides,
}

unsafe extern "C" {
    fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
    fn __aeabi_memcpy4(to: *mut u8, from: *const u8, bytes: usize);
    fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
    fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8;
    fn __aeabi_memset(to: *mut u8, bytes: usize, byte: i32);
    fn __aeabi_memclr(to: *mut u8, bytes: usize);
    fn memcmp(one: *const u8, other: *const u8, bytes: usize) -> i32;
}

const SIZE: usize = 160;
/// The longest that is tried.
const LONGEST: usize = 70;

#[repr(align(8))]
struct Memory([u8; SIZE]);

impl Memory {
    /// No two bytes near each other are equal.
    fn new() -> Self {
        let mut memory = Self([0; SIZE]);
        for place in 0..SIZE {
            memory.set(place, (place * 7 + 1) as u8);
        }
        memory
    }

    fn at(&mut self, place: usize) -> *mut u8 {
        &raw mut self.0[place]
    }

    // Volatile: the compiler would make calls of what is tested out of loops.
    fn get(&self, place: usize) -> u8 {
        // SAFETY: a byte of ours.
        unsafe { read_volatile(&raw const self.0[place]) }
    }

    fn set(&mut self, place: usize, byte: u8) {
        // SAFETY: a byte of ours.
        unsafe { write_volatile(&raw mut self.0[place], byte) }
    }

    /// Whether each byte is what `expected` says.
    fn is(&self, expected: impl Fn(usize) -> u8) -> bool {
        (0..SIZE).all(|place| self.get(place) == expected(place))
    }
}

fn copies() -> Outcome {
    let before = Memory::new();
    for bytes in 0..LONGEST {
        for (from, to) in (0..64).map(|places| (places % 8, places / 8)) {
            // Beside each other, and over each other from both sides.
            for (from, to) in [(from, 80 + to), (8 + from, to), (from, 8 + to)] {
                let expected = |place: usize| match place.checked_sub(to) {
                    Some(inside) if inside < bytes => before.get(from + inside),
                    _ => before.get(place),
                };
                let mut memory = Memory::new();
                let (source, target) = (memory.at(from).cast_const(), memory.at(to));
                // SAFETY: both ends are in `memory`.
                let end = unsafe { memmove(target, source, bytes) };
                check_eq!(end as usize, target as usize, "what a copy returns");
                check!(memory.is(expected), "{bytes} bytes from {from} to {to}");
                if to < 80 {
                    continue;
                }
                let mut memory = Memory::new();
                let (source, target) = (memory.at(from).cast_const(), memory.at(to));
                // SAFETY: both ends are in `memory`, and apart.
                let end = unsafe { memcpy(target, source, bytes) };
                check_eq!(end as usize, target as usize, "what a copy returns");
                check!(memory.is(expected), "{bytes} bytes from {from} to {to}");
                if (from | to) % 4 == 0 {
                    let mut memory = Memory::new();
                    let (source, target) = (memory.at(from).cast_const(), memory.at(to));
                    // SAFETY: as above, and both are multiples of 4.
                    unsafe { __aeabi_memcpy4(target, source, bytes) };
                    check!(memory.is(expected), "{bytes} bytes from {from} to {to}");
                }
            }
        }
    }
    Ok(())
}

fn fills() -> Outcome {
    let before = Memory::new();
    for bytes in 0..LONGEST {
        for to in 0..8 {
            let filled = |byte: u8| {
                let before = &before;
                move |place: usize| {
                    let inside = place >= to && place - to < bytes;
                    if inside { byte } else { before.get(place) }
                }
            };
            let mut memory = Memory::new();
            // SAFETY: inside of `memory`, here and below.
            let end = unsafe { memset(memory.at(to), 0x1a5, bytes) };
            check_eq!(end as usize, memory.at(to) as usize, "what a fill returns");
            check!(memory.is(filled(0xa5)), "{bytes} bytes at {to}");
            // SAFETY: as above.
            unsafe { __aeabi_memset(memory.at(to), bytes, 0x5a) };
            check!(memory.is(filled(0x5a)), "{bytes} bytes at {to}");
            // SAFETY: as above.
            unsafe { __aeabi_memclr(memory.at(to), bytes) };
            check!(memory.is(filled(0)), "{bytes} bytes at {to}");
        }
    }
    Ok(())
}

fn compares() -> Outcome {
    let (mut one, mut other) = (Memory::new(), Memory::new());
    // SAFETY: both are longer, here and below.
    let compare = |one: &mut Memory, other: &mut Memory, bytes| unsafe {
        memcmp(one.at(1), other.at(1), bytes)
    };
    for bytes in 0..LONGEST {
        check_eq!(
            compare(&mut one, &mut other, bytes),
            0,
            "{bytes} equal bytes"
        );
        // What follows does not count.
        let next = other.get(1 + bytes);
        other.set(1 + bytes, !next);
        check_eq!(
            compare(&mut one, &mut other, bytes),
            0,
            "{bytes} equal bytes"
        );
        let order = compare(&mut one, &mut other, bytes + 2);
        check_eq!(
            order < 0,
            next < !next,
            "order {order} after {bytes} equal bytes"
        );
        check!(order != 0, "a difference after {bytes} equal bytes");
        other.set(1 + bytes, next);
    }
    Ok(())
}

fn divides() -> Outcome {
    let numbers = [
        1,
        2,
        3,
        10,
        1000,
        0xffff,
        0x1_0000,
        62_500_000,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_2345_6789,
        0x0fed_cba9_8765_4321,
        1 << 63,
        (1 << 63) + 1,
        u64::MAX - 1,
        u64::MAX,
    ];
    for dividend in numbers.into_iter().chain([0]) {
        for divisor in numbers {
            // What the compiler doesn't know it can't divide by itself.
            let (dividend, divisor) = (
                core::hint::black_box(dividend),
                core::hint::black_box(divisor),
            );
            let (quotient, rest) = (dividend / divisor, dividend % divisor);
            check!(rest < divisor, "{dividend} % {divisor} = {rest}");
            check_eq!(
                quotient.checked_mul(divisor),
                Some(dividend - rest),
                "{dividend} / {divisor} * {divisor}"
            );
            let (dividend, divisor) = (dividend as u32, divisor as u32 | 1);
            let (quotient, rest) = (dividend / divisor, dividend % divisor);
            check!(rest < divisor, "{dividend} % {divisor} = {rest}");
            check_eq!(
                quotient.checked_mul(divisor),
                Some(dividend - rest),
                "{dividend} / {divisor} * {divisor}"
            );
        }
    }
    Ok(())
}
