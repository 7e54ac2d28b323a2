//! A guest that leaves for the hypervisor with anything in its syndrome, fault addresses, registers, tables and code: no
//! panic, and it goes on in a mode of its own, in its own or in an exception's.
#![no_main]

#[path = "../../run/board.rs"]
#[expect(dead_code, reason = "it is the tests', which use more of it")]
mod board;

use armillary::addr::Ipa;
use armillary::machine::test::{self, Guest};
use armillary::regs::{Banked, mode};
use board::{Board, MIB, config, log_lines};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

const CODE: u32 = 0x4010_0000;
const TABLE: u32 = 0x4020_0000;
/// HVC #0.
const HVC: u32 = 0x12 << 26;
const TRANSLATE: u32 = 0x8600_0004;
/// Where entries are put that tables may point to, and what they may point to.
const PLACES: [u32; 8] = [
    TABLE,
    TABLE + 0x1000,
    CODE,
    0x0800_0000,
    0x0801_0000,
    0x0900_0000,
    0,
    0x2000_0000,
];
const MODES: [u32; 7] = [
    mode::USR,
    mode::FIQ,
    mode::IRQ,
    mode::SVC,
    mode::ABT,
    mode::UND,
    mode::SYS,
];

thread_local! {
    static BOARD: RefCell<Board> = RefCell::new(Board::one());
}

/// What comes from the fuzzer, zero when it has run out.
#[derive(Clone)]
struct Input(Vec<u8>);

impl Input {
    fn byte(&mut self) -> u8 {
        self.0.pop().unwrap_or(0)
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// An address of interest, or any.
    fn address(&mut self) -> u32 {
        match self.byte() {
            n @ 0..=0xbf => PLACES[usize::from(n & 7)] | self.word() & 0x1fff,
            _ => self.word(),
        }
    }

    /// Data and prefetch aborts mostly; trapped coprocessor instructions, translations asked for.
    fn hsr(&mut self) -> u32 {
        const CLASSES: [u32; 16] = [
            0x24,
            0x24,
            0x24,
            0x24,
            0x24,
            0x24,
            0x24,
            0x20,
            0x20,
            0x03,
            0x04,
            0x05,
            0x06,
            0x07,
            0x0c,
            HVC >> 26,
        ];
        let class = CLASSES[usize::from(self.byte() & 15)];
        if class == HVC >> 26 {
            return HVC;
        }
        class << 26 | self.word() & 0x03ff_ffff
    }

    fn guest(&mut self, guest: &mut Guest) {
        let regs = &mut guest.regs;
        regs.r = std::array::from_fn(|_| self.address());
        regs.lr_usr = self.address();
        regs.pc = if self.byte() & 7 == 0 {
            self.address()
        } else {
            CODE
        };
        regs.cpsr = self.word() & !0x1f | MODES[usize::from(self.byte()) % MODES.len()];
        let system = &mut guest.system;
        system.sctlr = self.word();
        system.ttbcr = self.word() & 0x80b7_00b7;
        system.ttbr0 = u64::from(if self.byte() & 7 == 0 {
            self.address()
        } else {
            TABLE
        });
        system.ttbr1 = self.address().into();
        system.dacr = self.word();
        system.vbar = self.word();
        system.mmu_traps = self.byte() & 1 != 0;
        guest.set_banked(Banked::SpUsr, self.address());
        guest.set_banked(Banked::SpSvc, self.address());
        guest.fault.hdfar = self.address();
        guest.fault.hifar = self.address();
        guest.fault.hpfar = if self.byte() & 15 == 0 {
            self.word()
        } else {
            self.address() >> 12 << 4
        };
    }
}

fuzz_target!(|data: &[u8]| BOARD.with_borrow_mut(|board| one(board, Input(data.to_vec()))));

fn one(board: &mut Board, mut input: Input) {
    put(board, CODE, input.word());
    put(board, CODE + 4, input.word());
    let mut written = Vec::new();
    for _ in 0..input.byte() & 15 {
        let at = (PLACES[usize::from(input.byte() & 1)] | input.word() & 0xffc) & !3;
        let entry = input.address();
        put(board, at, entry);
        written.push(at);
    }
    let hsr = input.hsr();
    let before = board.run_if(move |guest| {
        input.guest(guest);
        if hsr == HVC {
            guest.regs.r[0] = TRANSLATE;
            guest.regs.r[2] &= 15;
        }
        guest.trap(hsr)
    });
    match before {
        Some(after) => assert!(MODES.contains(&after.regs.mode()), "{:#x}", after.regs.cpsr),
        // It was stopped: another one.
        None => {
            board.vms.clear();
            board.add(config("guest", 4 * MIB), &[0]);
            board.settle();
        }
    }
    for at in written {
        put(board, at, 0);
    }
    test::events();
    test::console();
    log_lines();
}

fn put(board: &Board, at: u32, word: u32) {
    let ram = &mut board.vms[0].lock().memory.ram;
    assert!(ram.write(Ipa(at.into()), &word.to_le_bytes()).is_ok());
}
