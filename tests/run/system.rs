//! CP15 and CP14 registers that trap, and asynchronous aborts.

use crate::board::{Board, MIB, access, config, count, data_abort, hsr, mcr, power_on};
use crate::calls::it;
use armillary::machine::test::{self, Event, Guest};
use armillary::machine::{self, Exit};
use armillary::regs::{bank, mode, psr};

/// MCR or MRC to CP15.
fn cp15(guest: &mut Guest, iss: u32) -> Exit {
    guest.trap(hsr(0x03, iss))
}

/// What MRC of CP15's register reads into r4.
fn read(board: &mut Board, crn: u32, opc1: u32, crm: u32, opc2: u32) -> u32 {
    let after = board.run(move |guest| cp15(guest, mcr(crn, opc1, crm, opc2, 4) | 1));
    after.regs.r[4]
}

/// The guest after MCR of r4, which is `value`.
fn write(board: &mut Board, register: u32, value: u32) -> Guest {
    board.run(move |guest| {
        guest.regs.r[4] = value;
        cp15(guest, register)
    })
}

pub(crate) fn set_way_operations_clean_memory_once_and_watch_until_the_caches_turn() {
    const SCTLR: u32 = mcr(1, 0, 0, 0, 4);
    const TTBR0: u32 = mcr(2, 0, 0, 0, 4);
    let mut board = Board::one();
    let vm = board.vms[0].clone();
    let cleaned = || -> u64 {
        let sizes = test::events().into_iter().map(|event| match event {
            Event::Clean { size, .. } => size,
            _ => 0,
        });
        sizes.sum()
    };
    let all = vm.lock().memory.ram.size();
    for crm in [6, 10, 14] {
        let first = write(&mut board, mcr(7, 0, crm, 2, 4), 0);
        assert!(first.system.mmu_traps);
    }
    assert_eq!(cleaned(), all, "once for all of them");
    // Other writes to the MMU's registers reach them and change nothing else.
    let other = write(&mut board, TTBR0, 0x4000_4059);
    assert_eq!(other.system.ttbr0, 0x4000_4059);
    let other = write(&mut board, SCTLR, 0x00c5_1879);
    assert_eq!(other.system.sctlr, 0x00c5_1879);
    assert!(other.system.mmu_traps);
    assert_eq!(cleaned(), 0);
    let on = write(&mut board, SCTLR, 0x00c5_187d);
    assert_eq!(on.system.sctlr, 0x00c5_187d);
    assert!(!on.system.mmu_traps);
    assert_eq!(cleaned(), all, "once more when the caches are turned on");
    // Before they are turned off, the guest begins by set and way again.
    write(&mut board, mcr(7, 0, 14, 2, 4), 0);
    assert_eq!(cleaned(), all);
    let off = write(&mut board, SCTLR, 0x00c5_1878);
    assert!(off.system.mmu_traps, "until they are on again");
    assert_eq!(cleaned(), all);
}

pub(crate) fn jazelle_branches_as_bx_does() {
    let mut board = Board::one();
    for (target, pc, state) in [
        (0x4001_2000, 0x4001_2000, 0),
        (0x4001_2001, 0x4001_2000, psr::T),
    ] {
        let after = board.run(move |guest| {
            guest.regs.cpsr = mode::SVC | psr::T;
            guest.regs.r[6] = target;
            guest.trap(hsr(0x0a, 6))
        });
        assert_eq!((after.regs.pc, after.regs.cpsr), (pc, mode::SVC | state));
    }
}

pub(crate) fn thumbee_is_given_once_used() {
    let after = Board::one().run(|guest| {
        assert!(!guest.system.thumbee);
        guest.regs.pc = 0x4001_0600;
        guest.trap(hsr(0x05, mcr(0, 6, 0, 0, 1)))
    });
    assert!(after.system.thumbee);
    assert_eq!(after.regs.pc, 0x4001_0600, "the instruction runs again");
}

pub(crate) fn registers_that_are_not_there_are_undefined() {
    let mut board = Board::one();
    // CRn 11 is implementation-defined, ACTLR is PL1's, opc1 1 of CP14 is trace.
    let cases = [
        (mode::SVC, 0x03, mcr(11, 0, 0, 0, 1) | 1),
        (mode::SVC, 0x03, mcr(11, 0, 0, 0, 1)),
        (mode::USR, 0x03, mcr(1, 0, 0, 1, 1) | 1),
        (mode::USR, 0x03, mcr(7, 0, 6, 2, 1)),
        (mode::SVC, 0x05, mcr(1, 1, 0, 0, 1) | 1),
        (mode::SVC, 0x04, 7 << 16 | 14 << 1),
    ];
    for (mode, ec, iss) in cases {
        let after = board.run(move |guest| {
            guest.regs.cpsr = mode;
            guest.regs.r[1] = 0x77;
            guest.trap(hsr(ec, iss))
        });
        assert_eq!(after.regs.mode(), mode::UND, "{iss:#x}");
        assert_eq!(after.regs.r[1], 0x77);
    }
}

pub(crate) fn a_transfer_is_of_the_register_of_the_mode() {
    const TVAL: u32 = mcr(14, 0, 2, 0, 0);
    let mut board = Board::one();
    for mode in [mode::USR, mode::FIQ, mode::IRQ, mode::SVC, mode::SYS] {
        for rt in 0..15 {
            let value = 0x1000 * mode + rt;
            board.run(move |guest| {
                guest.regs.cpsr = mode;
                guest.regs.r = [0; 13];
                match bank(mode, rt) {
                    Some(register) => guest.set_banked(register, value),
                    None if rt == 14 => guest.regs.lr_usr = value,
                    None => guest.regs.r[rt as usize] = value,
                }
                cp15(guest, TVAL | rt << 5)
            });
            let after = board.run(move |guest| {
                guest.regs.r = [0; 13];
                guest.regs.lr_usr = 0;
                if let Some(register) = bank(mode, rt) {
                    guest.set_banked(register, 0);
                }
                cp15(guest, TVAL | rt << 5 | 1)
            });
            let found = match bank(mode, rt) {
                Some(register) => after.banked(register),
                None if rt == 14 => after.regs.lr_usr,
                None => after.regs.r[rt as usize],
            };
            assert_eq!(found, value, "{mode:#x} r{rt}");
            let others = after.regs.r.iter().filter(|&&value| value != 0).count();
            assert_eq!(others, usize::from(rt < 13 && bank(mode, rt).is_none()));
        }
    }
}

pub(crate) fn a_transfer_whose_condition_failed_does_nothing() {
    const ACTLR: u32 = mcr(1, 0, 0, 1, 4) | 1;
    const CV: u32 = 1 << 24;
    const Z: u32 = 1 << 30;
    let mut board = Board::one();
    // The condition is the syndrome's, or ITSTATE's: EQ; the instruction has 4 bytes.
    let thumb = psr::T | it(0b0000_0100);
    let cases = [
        (Z, CV, true, 0),
        (0, CV, false, 0),
        (0, CV | 0xe << 20, true, 0),
        (0, CV | 0xf << 20, true, 0),
        (0, 0, true, 0),
        (thumb | Z, 0, true, 0b0000_1000),
        (thumb, 0, false, 0b0000_1000),
        (thumb, CV | 0xe << 20, true, 0b0000_1000),
    ];
    for (cpsr, condition, executes, it_state) in cases {
        let after = board.run(move |guest| {
            guest.regs.cpsr = mode::SVC | cpsr;
            guest.regs.pc = 0x4001_0700;
            guest.regs.r[4] = 0x77;
            cp15(guest, ACTLR | condition)
        });
        let value = if executes { machine::actlr() } else { 0x77 };
        let found = (after.regs.r[4], after.regs.pc, after.regs.it_state());
        assert_eq!(
            found,
            (value, 0x4001_0704, it_state),
            "{cpsr:#x} {condition:#x}"
        );
    }
}

pub(crate) fn id_registers_are_the_machines() {
    let mut board = Board::one();
    for (crm, opc2) in [(1, 4), (2, 0), (2, 7)] {
        assert_eq!(
            read(&mut board, 0, 0, crm, opc2),
            machine::id_register(crm, opc2)
        );
    }
    assert_eq!(read(&mut board, 1, 0, 0, 1), machine::actlr());
    let after = write(&mut board, mcr(1, 0, 0, 1, 4), 0xffff_ffff);
    assert_eq!(after.regs.mode(), mode::SVC, "ACTLR takes writes");
    assert_eq!(read(&mut board, 9, 1, 0, 2), 0, "L2CTLR: one core");
    assert_eq!(read(&mut board, 15, 4, 0, 0), 0x0800_0000, "CBAR");
}

pub(crate) fn the_physical_timer_counts() {
    const TVAL: u32 = mcr(14, 0, 2, 0, 4);
    const CTL: u32 = mcr(14, 0, 2, 1, 4);
    let mut board = Board::one();
    write(&mut board, TVAL, 100);
    write(&mut board, CTL, 1);
    assert_eq!(read(&mut board, 14, 0, 2, 1), 1);
    let due = machine::now() + 100;
    let cval = board.run(|guest| guest.trap(hsr(0x04, 2 << 16 | 6 << 10 | 5 << 5 | 14 << 1 | 1)));
    assert_eq!(cval.regs.r[5], due as u32);
    assert_eq!(cval.regs.r[6], (due >> 32) as u32);
    test::advance(99);
    assert_eq!(read(&mut board, 14, 0, 2, 0), 1);
    assert_eq!(read(&mut board, 14, 0, 2, 1), 1);
    test::advance(3);
    assert_eq!(read(&mut board, 14, 0, 2, 0), -2i32 as u32);
    assert_eq!(read(&mut board, 14, 0, 2, 1), 5, "due");
    write(&mut board, CTL, 3);
    assert_eq!(read(&mut board, 14, 0, 2, 1), 7, "due, masked");
}

pub(crate) fn the_physical_timer_fires_however_little_time_it_is_given() {
    const TVAL: u32 = mcr(14, 0, 2, 0, 4);
    const CTL: u32 = mcr(14, 0, 2, 1, 4);
    const ISPENDR: u32 = 0x0800_0200;
    let mut board = Board::one();
    test::stride(1);
    for ticks in 0..40 {
        write(&mut board, CTL, 0);
        write(&mut board, TVAL, ticks);
        write(&mut board, CTL, 1);
        test::advance(40);
        let pending = |board: &mut Board| {
            let guest = board.run(|guest| data_abort(guest, ISPENDR, ISPENDR, access(2, 4)));
            guest.regs.r[4] >> 30 & 1
        };
        // A turn for the Hyp timer, if that is what it takes.
        assert_eq!(pending(&mut board), 1, "{ticks} ticks");
    }
}

pub(crate) fn an_asynchronous_abort_is_pended_in_the_guest_that_caused_it() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    board.add(config("a", 4 * MIB), &[0]);
    board.add(config("b", 4 * MIB), &[0]);
    board.settle();
    let guilty = board.run(|_| Exit::AsyncAbort);
    assert!(guilty.system.abort_pending);
    let other = board.soon().expect("the other guest");
    assert_ne!(other.vttbr, guilty.vttbr);
    assert!(!other.system.abort_pending);
    let again = board.soon().expect("the first guest");
    assert_eq!(again.vttbr, guilty.vttbr);
    assert!(again.system.abort_pending, "until it takes it");
    assert_eq!(
        count(&test::events(), |event| matches!(event, Event::Vfp { .. })),
        0
    );
}
