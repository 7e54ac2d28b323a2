//! Hypercalls and what is skipped.

use crate::board::{Board, access, data_abort, hsr, hsr16, hvc};
use armillary::regs::{mode, psr};

const NOT_SUPPORTED: u32 = -1i32 as u32;
const NULL: u32 = 0x8600_0001;
const EXITS: u32 = 0x8600_0003;

pub(crate) fn a_null_hypercall_answers_zero_and_leaves_the_pc() {
    let mut board = Board::one();
    let after = board.run(|guest| {
        guest.regs.r = std::array::from_fn(|n| 0x100 + n as u32);
        guest.regs.pc = 0x4001_0124;
        hvc(guest, NULL)
    });
    assert_eq!(after.regs.r[0], 0);
    assert_eq!(
        after.regs.r[1..],
        std::array::from_fn::<u32, 12, _>(|n| 0x101 + n as u32)
    );
    assert_eq!(after.regs.pc, 0x4001_0124);
}

pub(crate) fn an_unknown_hypercall_is_not_supported_and_keeps_all_other_registers() {
    let mut board = Board::one();
    for function in [0x8600_7777, 0, 0xffff_fff0, 0x8400_0f00] {
        let after = board.run(move |guest| {
            guest.regs.r = std::array::from_fn(|n| 0x200 + n as u32);
            guest.regs.pc = 0x4001_0200;
            hvc(guest, function)
        });
        assert_eq!(after.regs.r[0], NOT_SUPPORTED, "{function:#x}");
        assert_eq!(
            after.regs.r[1..],
            std::array::from_fn::<u32, 12, _>(|n| 0x201 + n as u32)
        );
        assert_eq!(after.regs.pc, 0x4001_0200);
    }
}

pub(crate) fn a_hypercall_with_an_immediate_is_not_supported() {
    let after = Board::one().run(|guest| {
        guest.regs.r[0] = NULL;
        guest.trap(hsr(0x12, 5))
    });
    assert_eq!(after.regs.r[0], NOT_SUPPORTED);
}

pub(crate) fn an_smc_is_skipped_in_arm_and_thumb_state() {
    let mut board = Board::one();
    for state in [0, psr::T] {
        let after = board.run(move |guest| {
            guest.regs.cpsr = mode::SVC | state;
            guest.regs.pc = 0x4001_0300;
            guest.regs.r[0] = NULL;
            guest.trap(hsr(0x13, 0))
        });
        assert_eq!(after.regs.pc, 0x4001_0304);
        assert_eq!(after.regs.r[0], 0);
        assert_eq!(after.regs.cpsr, mode::SVC | state);
    }
}

pub(crate) fn an_smc_from_user_mode_is_undefined() {
    let after = Board::one().run(|guest| {
        guest.regs.cpsr = mode::USR;
        guest.regs.pc = 0x4001_0300;
        guest.system.vbar = 0x4100_0000;
        guest.trap(hsr(0x13, 0))
    });
    assert_eq!(after.regs.pc, 0x4100_0004);
    assert_eq!(after.regs.mode(), mode::UND);
}

pub(crate) fn exits_are_counted_by_reason() {
    let mut board = Board::one();
    let mut ask = |reason| {
        board.run(move |guest| {
            guest.regs.r[1] = reason;
            hvc(guest, EXITS)
        })
    };
    let [all, hvcs, smcs] = [0, 1, 2].map(|reason| ask(reason).regs.r[1]);
    let again = ask(1);
    assert_eq!(again.regs.r[..3], [0, hvcs + 2, 0]);
    assert_eq!(ask(0).regs.r[1], all + 4);
    assert_eq!(smcs, 0);
    assert_eq!(ask(10).regs.r[0], -3i32 as u32);
}

pub(crate) fn an_instruction_whose_condition_failed_is_skipped_and_itstate_advances() {
    let mut board = Board::one();
    // WFI in the third place of ITTTE EQ, of which Z is clear: skipped, and the next is the last.
    let after = board.run(|guest| {
        guest.regs.cpsr = mode::SVC | psr::T | it(0b0000_1100);
        guest.regs.pc = 0x4001_0400;
        guest.trap(hsr16(0x01, 1 << 24))
    });
    assert_eq!(after.regs.pc, 0x4001_0402);
    assert_eq!(after.regs.it_state(), 0b0001_1000);
    // In ARM state, MCR to nowhere would be undefined, MCRNE with Z set is nothing.
    let after = board.run(|guest| {
        guest.regs.cpsr = mode::SVC | 1 << 30;
        guest.regs.pc = 0x4001_0500;
        guest.trap(hsr(0x03, 1 << 24 | 1 << 20 | 0xf << 10))
    });
    assert_eq!((after.regs.pc, after.regs.mode()), (0x4001_0504, mode::SVC));
    // The last of an IT block leaves it.
    let after = board.run(|guest| {
        guest.regs.cpsr = mode::SVC | psr::T | it(0b0000_1000);
        data_abort(guest, 0x0900_0018, 0x0900_0018, access(2, 1))
    });
    assert_eq!(after.regs.it_state(), 0);
}

/// ITSTATE in CPSR.
pub(crate) fn it(state: u32) -> u32 {
    (state & 0xfc) << 8 | (state & 3) << 25
}
