//! A VM that makes others: out of a device tree and a program in its memory, as many times as `rounds=N` says, 20 by default.
#![no_std]
#![no_main]

use bare::machine::{image, machine, number};
use bare::psci::hvc;
use bare::report::Outcome;
use bare::{check_eq, cpu, println, tests};
use core::arch::global_asm;

tests! {
    what_a_description_says_has_to_be_right => wrong,
    a_vm_is_created_runs_and_is_destroyed => rounds,
}

const START: u32 = 0x8600_0014;
const DESTROY: u32 = 0x8600_0019;
const STATE: u32 = 0x8600_001a;
const DUMP: u32 = 0x8600_001b;
const CREATE: u32 = 0x8600_001c;
const INVALID: u32 = -3i32 as u32;

// What the VM runs: it says so, and turns itself off.
global_asm!(
    ".section .rodata.program, \"a\"",
    ".balign 4",
    "program:",
    "mov r4, #0x09000000",
    "adr r5, 2f",
    "1: ldrb r0, [r5], #1",
    "cmp r0, #0",
    "strne r0, [r4]",
    "bne 1b",
    "movw r0, #8",
    "movt r0, #0x8400",
    "hvc #0",
    "b .",
    "2: .asciz \"Created.\\n\"",
    ".balign 4",
    "program_end:",
);

unsafe extern "C" {
    static program: u8;
    static program_end: u8;
}

/// Address and bytes of the program.
fn module() -> (u32, u32) {
    let (start, end) = (&raw const program as u32, &raw const program_end as u32);
    (start, end - start)
}

const NAMES: &[u8] = b"#address-cells\0#size-cells\0compatible\0memory\0reg\0";
const ADDRESS_CELLS: u32 = 0;
const SIZE_CELLS: u32 = 15;
const COMPATIBLE: u32 = 27;
const MEMORY: u32 = 38;
const REG: u32 = 45;

/// A flattened device tree (Devicetree Specification 0.4, 5).
#[repr(align(8))]
struct Tree {
    bytes: [u8; 1024],
    size: usize,
}

const HEADER: usize = 40;
/// The empty list of reservations lies behind the header.
const STRUCTURE: usize = HEADER + 16;

impl Tree {
    /// Of a VM called `name` that runs `size` bytes at `start`.
    fn of(name: &str, (start, size): (u32, u32)) -> Self {
        let mut tree = Self {
            bytes: [0; 1024],
            size: STRUCTURE,
        };
        let two = 2u32.to_be_bytes();
        tree.begin("");
        tree.begin("chosen");
        tree.begin(name);
        tree.property(ADDRESS_CELLS, &two);
        tree.property(SIZE_CELLS, &two);
        tree.property(COMPATIBLE, b"xen,domain\0");
        tree.cells(MEMORY, [0, 4096, 0, 0], 2);
        tree.begin("module");
        tree.property(COMPATIBLE, b"multiboot,kernel\0multiboot,module\0");
        tree.cells(REG, [0, start, 0, size], 4);
        for token in [2, 2, 2, 2, 9] {
            tree.word(token);
        }
        let strings = tree.size;
        tree.put(NAMES);
        let (size, structure) = (tree.size as u32, (strings - STRUCTURE) as u32);
        let header = [
            0xd00d_feed,
            size,
            STRUCTURE as u32,
            strings as u32,
            HEADER as u32,
            17,
            16,
            0,
            NAMES.len() as u32,
            structure,
        ];
        tree.size = 0;
        for field in header {
            tree.word(field);
        }
        tree.size = size as usize;
        tree
    }

    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.bytes[self.size] = byte;
            self.size += 1;
        }
    }

    fn word(&mut self, word: u32) {
        self.put(&word.to_be_bytes());
    }

    fn pad(&mut self) {
        self.size = self.size.next_multiple_of(4);
    }

    fn begin(&mut self, name: &str) {
        self.word(1);
        self.put(name.as_bytes());
        self.put(&[0]);
        self.pad();
    }

    fn property(&mut self, name: u32, value: &[u8]) {
        self.word(3);
        self.word(value.len() as u32);
        self.word(name);
        self.put(value);
        self.pad();
    }

    fn cells(&mut self, name: u32, cells: [u32; 4], count: usize) {
        let mut value = [0; 16];
        for (to, from) in value.chunks_exact_mut(4).zip(cells) {
            to.copy_from_slice(&from.to_be_bytes());
        }
        self.property(name, &value[..4 * count]);
    }

    /// CREATE: the VM's number.
    fn create(&self) -> Result<u32, u32> {
        let [r0, r1, ..] = hvc(CREATE, self.bytes.as_ptr() as u32, self.size as u32, 0);
        if r0 == 0 { Ok(r1) } else { Err(r0) }
    }
}

fn call(function: u32, vm: u32) -> u32 {
    hvc(function, vm, 0, 0)[0]
}

fn wrong() -> Outcome {
    let ram = machine().memory;
    let end = ram.base.wrapping_add(ram.size);
    let at = |address, size| hvc(CREATE, address, size, 0)[0];
    check_eq!(at(0x0900_0000, 64), INVALID, "a tree in a device");
    check_eq!(at(end - 32, 64), INVALID, "a tree that ends outside of RAM");
    check_eq!(at(ram.base, u32::MAX), INVALID, "a tree of 4 GiB");
    check_eq!(at(image().base, 64), INVALID, "code for a tree");
    let (start, size) = module();
    for (module, what) in [
        ((end - 4, 64), "a program that ends outside of RAM"),
        ((0x0900_0000, 64), "a program in a device"),
        (
            (u32::MAX - 4095, u32::MAX),
            "a program beyond all addresses",
        ),
        ((ram.base, 0xf000_0000), "a program larger than the machine"),
        ((start, 0), "an empty program"),
    ] {
        check_eq!(Tree::of("wrong", module).create(), Err(INVALID), "{what}");
    }
    let mut tree = Tree::of("wrong", (start, size));
    tree.bytes[STRUCTURE + 3] = 7;
    check_eq!(tree.create(), Err(INVALID), "a damaged tree");
    Ok(())
}

fn rounds() -> Outcome {
    for round in 0..number("rounds", 20) {
        let tree = Tree::of("made", module());
        let vm = tree.create();
        let Ok(vm) = vm else {
            bare::fail!("round {round}: {vm:x?}");
        };
        check_eq!(tree.create(), Err(INVALID), "a second one of the name");
        check_eq!(call(START, vm), 0, "START");
        while call(STATE, vm) == 0 {
            cpu::relax();
        }
        check_eq!(call(STATE, vm), 1, "STATE of one that is off");
        check_eq!(call(DUMP, vm), 0, "DUMP");
        check_eq!(call(DESTROY, vm), 0, "DESTROY");
        while call(STATE, vm) != INVALID {
            cpu::relax();
        }
    }
    println!("every one is gone");
    Ok(())
}
