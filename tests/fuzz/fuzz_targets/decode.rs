//! A guest that executes anything, anywhere, in any state, on a bus that answers anything and
//! aborts at any time: no panic, an end in bounds, and base, pc and CPSR kept by an abort.
#![no_main]

use armillary::decode::{Form, Instruction, Transfer, Vectors};
use armillary::regs::{Banked, Banks, Gprs, Regs};
use libfuzzer_sys::fuzz_target;

/// What comes from the fuzzer, zero when it has run out.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

struct Live {
    banked: [u32; 21],
    words: [u32; 64],
}

impl Banks for Live {
    fn read(&self, register: Banked) -> u32 {
        self.banked[register as usize]
    }
    fn write(&mut self, register: Banked, value: u32) {
        self.banked[register as usize] = value;
    }
}

impl Vectors for Live {
    fn word(&self, n: u32) -> u32 {
        self.words[n as usize]
    }
    fn set_word(&mut self, n: u32, value: u32) {
        self.words[n as usize] = value;
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (set, word, abort) = (input.byte(), input.word(), input.byte() & 63);
    let instruction = match set % 3 {
        0 => Instruction::A32(word),
        1 => Instruction::T32(word),
        _ => Instruction::T16(word as u16),
    };
    let mut regs = Regs {
        cpsr: input.word(),
        pc: input.word(),
        r: std::array::from_fn(|_| input.word()),
        lr_usr: input.word(),
    };
    let mut live = Live {
        banked: std::array::from_fn(|_| input.word()),
        words: [0x5555_aaaa; 64],
    };
    let before = regs;
    let mut gprs = Gprs {
        regs: &mut regs,
        banks: &mut live,
    };
    let mut transfer = Transfer::new(instruction, &gprs);
    let base = match transfer.op().form {
        Form::Single(single) => single.at().n(),
        Form::Dual { at, .. } => at.n(),
        Form::Multiple { n, .. } | Form::Return { n, .. } | Form::Vector { n, .. } => n.into(),
        Form::Structure(structure) => structure.n.into(),
        Form::Exclusive { n, .. } | Form::Swap { n, .. } => n.into(),
        Form::TableBranch { n, .. } => n.into(),
        Form::Save { .. } | Form::Hint => 0,
    };
    let kept = gprs.get(base);
    let mut accesses = 0;
    while let Some(access) = transfer.next(&gprs) {
        assert!(matches!(access.size, 1 | 2 | 4));
        assert!(access.size == 4 || access.value.unwrap_or(0) >> (8 * access.size) == 0);
        assert!(accesses < 32);
        if accesses == abort {
            assert_eq!(gprs.get(base), kept);
            assert_eq!((gprs.regs.pc, gprs.regs.cpsr), (before.pc, before.cpsr));
            return;
        }
        accesses += 1;
        if input.byte() == 0xff {
            transfer.lose();
        }
        transfer.complete(input.word(), &mut gprs);
    }
    if transfer.finish(&mut gprs).is_err() {
        assert_eq!((gprs.regs.pc, gprs.regs.cpsr), (before.pc, before.cpsr));
    }
});
