//! Descriptions of VMs, of which a VM with control makes them.

use crate::armillary::CREATE;
use crate::psci::hvc;
use core::arch::global_asm;

// What the VM runs: it says so, and turns itself off; or it waits.
global_asm!(
    ".section .rodata.program, \"a\"",
    ".balign 4",
    ".arch_extension virt",
    "described_program:",
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
    "described_program_end:",
    "described_waiter:",
    "wfi",
    "b described_waiter",
    "described_waiter_end:",
);

unsafe extern "C" {
    static described_program: u8;
    static described_program_end: u8;
    static described_waiter: u8;
    static described_waiter_end: u8;
}

/// Address and bytes of a program: it says that it is there, and turns its machine off.
#[must_use]
pub fn program() -> (u32, u32) {
    let start = &raw const described_program as u32;
    let end = &raw const described_program_end as u32;
    (start, end - start)
}

/// The same of one that waits for ever.
#[must_use]
pub fn waiter() -> (u32, u32) {
    let start = &raw const described_waiter as u32;
    let end = &raw const described_waiter_end as u32;
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
pub struct Tree {
    /// The tree, and what follows it.
    pub bytes: [u8; 1024],
    size: usize,
}

const HEADER: usize = 40;
/// The empty list of reservations lies behind the header.
pub const STRUCTURE: usize = HEADER + 16;

impl Tree {
    /// Of a VM called `name` with 4 MiB of RAM that runs `size` bytes at `start`.
    #[must_use]
    pub fn of(name: &str, (start, size): (u32, u32)) -> Self {
        Self::with_memory(name, 4096, (start, size))
    }

    /// The same with so many KiB.
    #[must_use]
    pub fn with_memory(name: &str, kib: u32, (start, size): (u32, u32)) -> Self {
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
        tree.cells(MEMORY, [0, kib, 0, 0], 2);
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

    /// CREATE: the VM's number. Not inlined: a trace is cut here.
    ///
    /// # Errors
    /// What the call answers.
    #[inline(never)]
    pub fn create(&self) -> Result<u32, u32> {
        let [r0, r1, ..] = hvc(CREATE, self.bytes.as_ptr() as u32, self.size as u32, 0);
        if r0 == 0 { Ok(r1) } else { Err(r0) }
    }
}
