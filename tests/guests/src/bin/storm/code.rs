//! Random loads and stores in ARM and Thumb state, as words of code.
//!
//! What keeps a storm from carrying its own house away: bases are r0 and r1, indices r2 and r3, which are small and shifted
//! by little, and what is loaded goes to r4 up. Nothing else is chosen: every form, defined or not, may come.

use bare::random::Random;

/// One of r4 to r11.
fn target(random: &mut Random) -> u32 {
    4 + random.below(8)
}

/// Several of r4 to r12 and lr.
fn list(random: &mut Random) -> u32 {
    random.next() & 0x5ff0 | 0x30 << random.below(6)
}

/// A base in bits 19:16 and a target in 15:12.
fn registers(random: &mut Random) -> u32 {
    random.below(2) << 16 | target(random) << 12
}

/// A random word with `fixed` where `mask` is.
fn with(random: &mut Random, mask: u32, fixed: u32) -> u32 {
    random.next() & !mask | fixed
}

/// A load or store in ARM state.
pub(crate) fn arm(random: &mut Random) -> u32 {
    let condition = if random.below(4) == 0 {
        random.below(14)
    } else {
        14
    } << 28;
    let registers = registers(random);
    let index = 2 + random.below(2);
    match random.below(16) {
        // LDR, STR, their bytes and unprivileged forms: by an immediate, by a register.
        0..=3 => condition | registers | with(random, 0xfe0f_f000, 0x0400_0000),
        4 | 5 => condition | registers | index | with(random, 0xfe0f_fcdf, 0x0600_0000),
        // Halfwords, signed ones, LDRD and STRD.
        6..=8 => {
            let word = with(random, 0xfe0f_f090, 0x0000_0090) | 0x20 << random.below(2);
            let offset = if word & 1 << 22 == 0 {
                index
            } else {
                random.below(16)
            };
            condition | registers | word & !0xf | offset
        }
        9 | 10 => {
            condition | registers & 0xf_0000 | with(random, 0xfe0f_ffff, 0x0800_0000) | list(random)
        }
        // SWP and the exclusives, as they should be or not.
        11 => {
            let word = with(random, 0xff0f_ffff, 0x0100_0090);
            let spare = if random.below(8) == 0 {
                random.below(16)
            } else {
                15 * (word >> 23 & 1)
            } << 8;
            let last = if word & 0x0090_0000 == 0x0090_0000 {
                15
            } else {
                target(random)
            };
            condition | registers | word | spare | last
        }
        12 | 13 => condition | registers & 0xf_0000 | vfp(random, 0x0c00_0000),
        // NEON's structures; r13 and r15 as index mean others.
        14 => {
            let index = [2, 3, 13, 15][random.below(4) as usize];
            registers & 0xf_0000
                | with(random, 0xff1f_000f, 0xf400_0000)
                | index
                | (random.below(2) << 21)
        }
        // Preloads, and maintenance of the cache line.
        _ if random.below(2) == 0 => {
            0xf550_f000 | registers & 0xf_0000 | random.next() & 0x0080_0fff
        }
        _ => {
            let line = [0x0f35, 0x0f36, 0x0f3a, 0x0f3b, 0x0f3e][random.below(5) as usize];
            let rt = (registers >> 16 & 1) << 12;
            0xee07_0010 & !0xfff | rt | line & 0xf00 | (1 << 5) | 1 << 4 | line & 0xf
        }
    }
}

/// The same in Thumb state: two halfwords, the first in bits 31:16; one of 16 bits is followed by a NOP.
pub(crate) fn thumb(random: &mut Random) -> u32 {
    const NOP: u32 = 0xbf00;
    let registers = registers(random);
    let base = registers & 0xf_0000;
    let index = 2 + random.below(2);
    match random.below(16) {
        0..=4 => narrow(random) << 16 | NOP,
        // By an immediate of 12 bits, of 8 with writeback and unprivileged, by a register.
        5 | 6 => registers | with(random, 0xfe8f_f000, 0xf880_0000),
        7..=9 => registers | with(random, 0xfe8f_f800, 0xf800_0800),
        10 => registers | index | with(random, 0xfe8f_ffcf, 0xf800_0000),
        11 | 12 => dual(random) | registers,
        13 => {
            let direction = if random.below(2) == 0 { 0x80 } else { 0x100 } << 16;
            base | 0xe800_0000 | direction | random.next() & 0x0030_0000 | list(random)
        }
        14 => base | vfp(random, 0xec00_0000),
        _ => {
            base | [2, 3, 13, 15][random.below(4) as usize] | with(random, 0xff1f_000f, 0xf900_0000)
        }
    }
}

/// LDRD, STRD, exclusives; table branches are made exclusives too.
fn dual(random: &mut Random) -> u32 {
    let target = target(random);
    let word = target << 8 | with(random, 0xfe4f_ff00, 0xe840_0000);
    match (word >> 20 & 0xff, random.below(4)) {
        // STREXD, STREXB, STREXH, with a status in bits 3:0, and their loads.
        (0x8c, 0) => word & !0xff | 0x70 | target,
        (0x8c, n) => word & !0xfff | 0xf40 | (n & 1) << 4 | target,
        (0x8d, 0) => word & !0xff | 0x7f,
        (0x8d, n) => word & !0xfff | 0xf4f | (n & 1) << 4,
        _ => word,
    }
}

/// A word of VFP's loads and stores, but for the moves to two core registers among them.
fn vfp(random: &mut Random, space: u32) -> u32 {
    let word = with(random, 0xfe0f_0f00, space | 0x0a00) | random.below(2) << 8;
    if word & 3 << 23 == 0 {
        word | 1 << 23
    } else {
        word
    }
}

/// 16 bits, of low registers only.
fn narrow(random: &mut Random) -> u32 {
    let (base, target) = (random.below(2) << 3, 4 + random.below(4));
    match random.below(4) {
        0 => 0x5000 | random.next() & 0x0e00 | (2 + random.below(2)) << 6 | base | target,
        1 => 0x6000 | random.next() & 0x1fc0 | base | target,
        2 => 0x8000 | random.next() & 0x0fc0 | base | target,
        _ => 0xc000 | random.next() & 0x08f0 | 0x10 | base << 5,
    }
}
