//! Loads and stores that the syndrome does not describe: fetched through the guest's own tables and
//! performed.

use crate::board::{Board, WRITE, access, data_abort, hvc, log_lines, memory};
use armillary::addr::Ipa;
use armillary::machine::Exit;
use armillary::machine::test::{self, Guest};
use armillary::mem::free_bytes;
use armillary::regs::{Banked, mode, psr};

const RESET: u32 = 0x8400_0009;
const UART: u32 = 0x0900_0000;
/// A register of the UART that keeps 16 bits, and the one after it that keeps 6.
const IBRD: u32 = UART + 0x24;
const CODE: u32 = 0x4002_0000;
const DATA: u32 = 0x4003_0000;
/// First-level table; a second-level one after it.
const TABLE: u32 = 0x4020_0000;
/// Translation fault at level 3, no syndrome.
const PLAIN: u32 = 0b00_0111;
const NOWHERE: u32 = 0x2000_0000;
/// The console's interrupt.
const CONSOLE: u32 = 33;
const STATUS_EXTERNAL: u32 = 0x008;

fn write(board: &Board, ipa: u32, words: &[u32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let ram = &mut board.vms[0].lock().memory.ram;
    ram.write(Ipa(ipa.into()), &bytes).unwrap();
}

fn word(board: &Board, ipa: u32) -> u32 {
    let bytes = memory(&board.vms[0], Ipa(ipa.into()), 4);
    u32::from_le_bytes(bytes.try_into().unwrap())
}

/// The guest executes `code` at [`CODE`], prepared by `set`, and is stopped at `at`.
fn execute(
    board: &mut Board,
    code: &[u32],
    at: u32,
    iss: u32,
    set: impl FnOnce(&mut Guest) + 'static,
) -> Guest {
    write(board, CODE, code);
    board.run(move |guest| {
        guest.regs.pc = CODE;
        guest.regs.cpsr = mode::SVC;
        guest.system = test::System {
            dfsr: 0,
            dfar: 0,
            ..guest.system
        };
        set(guest);
        data_abort(guest, at, at, iss)
    })
}

/// Turns the MMU on with sections that are flat, each open to both privilege levels, but those of
/// `entries`: virtual MiB and first-level entry.
fn mmu_on(board: &Board, entries: &[(u32, u32)]) {
    let mut table: Vec<u32> = (0..4096).map(|n| n << 20 | 0xc02).collect();
    for &(n, entry) in entries {
        table[n as usize] = entry;
    }
    write(board, TABLE, &table);
}

fn with_mmu(guest: &mut Guest) {
    guest.system.sctlr |= 5;
    guest.system.ttbr0 = TABLE.into();
    guest.system.dacr = 1;
}

pub(crate) fn a_store_with_writeback_reaches_the_device_and_moves_its_base() {
    let mut board = Board::one();
    // str r1, [r0], #4
    let after = execute(&mut board, &[0xe480_1004], IBRD, PLAIN | WRITE, |guest| {
        guest.regs.r[0] = IBRD;
        guest.regs.r[1] = 0x1234;
    });
    assert_eq!((after.regs.r[0], after.regs.pc), (IBRD + 4, CODE + 4));
    // ldrh r2, [r0, #-4]!
    let after = execute(&mut board, &[0xe170_20b4], IBRD, PLAIN, |guest| {
        guest.regs.r[0] = IBRD + 4;
    });
    assert_eq!((after.regs.r[2], after.regs.r[0]), (0x1234, IBRD));
}

pub(crate) fn flash_keeps_what_is_stored_with_writeback_and_across_a_reset() {
    /// In the second bank, beyond its first page.
    const AT: u32 = 0x0400_3008;
    let mut board = Board::one();
    let store = |board: &mut Board, value: u32| {
        // str r1, [r0], #4
        execute(board, &[0xe480_1004], AT, PLAIN | WRITE, move |guest| {
            guest.regs.r[0] = AT;
            guest.regs.r[1] = value;
        });
    };
    for value in [0x40, 0x1234_5678, 0xff] {
        store(&mut board, value);
    }
    let load = |board: &mut Board, at: u32| {
        let described = board.run(move |guest| data_abort(guest, at, at, access(2, 4)));
        // ldr r2, [r0], #4
        let plain = execute(board, &[0xe490_2004], at, PLAIN, move |guest| {
            guest.regs.r[0] = at;
        });
        assert_eq!(plain.regs.r[2], described.regs.r[4]);
        described.regs.r[4]
    };
    // Zeroes are programmed to what had none.
    assert_eq!([AT, AT & 0xfff].map(|at| load(&mut board, at)), [0, 0]);
    for value in [0x20, 0xd0, 0x40, 0x1234_5678, 0xff] {
        store(&mut board, value);
    }
    let places = [AT, AT + 4, 0x0403_fffc, 0x0404_0000, AT & 0xfff];
    let wanted = [0x1234_5678, !0, !0, 0, 0];
    assert_eq!(places.map(|at| load(&mut board, at)), wanted);
    assert!(board.run_if(|guest| hvc(guest, RESET)).is_none());
    assert!(board.soon().is_some());
    assert_eq!(places.map(|at| load(&mut board, at)), wanted);
}

pub(crate) fn flash_takes_no_more_than_a_mib_of_the_machines_memory() {
    let mut board = Board::one();
    let free = free_bytes();
    let store = |board: &mut Board, at: u32, value: u32| {
        execute(board, &[0xe480_1004], at, PLAIN | WRITE, move |guest| {
            guest.regs.r[0] = at;
            guest.regs.r[1] = value;
        });
    };
    for n in 0..32 {
        let at = 0x0400_0000 + n * 0x1_0000;
        store(&mut board, at, 0x40);
        store(&mut board, at, 0);
        let status = board.run(move |guest| data_abort(guest, at, at, access(2, 4)));
        let wanted = if n < 16 { 0x0080_0080 } else { 0x0090_0090 };
        assert_eq!(status.regs.r[4], wanted, "piece {n}");
    }
    assert_eq!(free - free_bytes(), 1 << 20);
}

pub(crate) fn a_thumb_instruction_is_fetched_by_halves_across_pages() {
    let mut board = Board::one();
    // Pages that are not neighbours: 0xc000_0ffe is at DATA + 0xffe, 0xc000_1000 at CODE + 0x2000.
    mmu_on(&board, &[(0xc00, (TABLE + 0x4000) | 1)]);
    write(
        &board,
        TABLE + 0x4000,
        &[DATA | 0x32, (CODE + 0x2000) | 0x32],
    );
    // ldr.w r2, [r0], #4: f850 2b04
    write(&board, DATA + 0xffc, &[0xf850_0000]);
    write(&board, CODE + 0x2000, &[0x2b04]);
    execute(&mut board, &[0xe480_1004], IBRD, PLAIN | WRITE, |guest| {
        guest.regs.r[0] = IBRD;
        guest.regs.r[1] = 0x4321;
    });
    let after = execute(&mut board, &[], IBRD, PLAIN, |guest| {
        with_mmu(guest);
        guest.regs.pc = 0xc000_0ffe;
        guest.regs.cpsr = mode::USR | psr::T;
        guest.regs.r[0] = IBRD;
    });
    assert_eq!((after.regs.r[2], after.regs.r[0]), (0x4321, IBRD + 4));
    assert_eq!(after.regs.pc, 0xc000_1002);
}

pub(crate) fn many_words_may_straddle_ram_and_device() {
    let mut board = Board::one();
    // The page before is RAM, the one after the UART's.
    mmu_on(&board, &[(0xc00, (TABLE + 0x4000) | 1)]);
    write(&board, TABLE + 0x4000, &[DATA | 0x32, UART | 0x32]);
    write(&board, DATA + 0xff8, &[0x1111_1111, 0x2222_2222]);
    // ldmia r0!, {r1, r2, r3}: the last is the UART's data register, which is empty.
    let at = 0xc000_0ff8;
    write(&board, CODE, &[0xe8b0_000e]);
    let after = board.run(move |guest| {
        with_mmu(guest);
        guest.regs.pc = CODE;
        guest.regs.cpsr = mode::SVC;
        guest.regs.r[0] = at;
        data_abort(guest, at + 8, UART, PLAIN)
    });
    assert_eq!(after.regs.r[..4], [at + 12, 0x1111_1111, 0x2222_2222, 0]);
    // stmia r0!, {r1, r2, r3}
    write(&board, CODE, &[0xe8a0_000e]);
    let after = board.run(move |guest| {
        guest.regs.pc = CODE;
        guest.regs.r[..4].copy_from_slice(&[at, 3, 4, 0x58]);
        data_abort(guest, at + 8, UART, PLAIN | WRITE)
    });
    assert_eq!((after.regs.r[0], after.regs.pc), (at + 12, CODE + 4));
    assert_eq!(
        (word(&board, DATA + 0xff8), word(&board, DATA + 0xffc)),
        (3, 4)
    );
    let console: Vec<u8> = test::console().into_iter().map(|(.., byte)| byte).collect();
    assert_eq!(console, b"X");
}

pub(crate) fn an_abort_half_way_names_its_own_address_and_restores_the_base() {
    let mut board = Board::one();
    let at = 0xc000_0ffc;
    // Nothing at all, and a page that stage 1 does not map.
    for (second, dfsr) in [(NOWHERE | 0x32, STATUS_EXTERNAL), (0, 0x007)] {
        mmu_on(&board, &[(0xc00, (TABLE + 0x4000) | 1)]);
        write(&board, TABLE + 0x4000, &[UART | 0x32, second]);
        for (code, write) in [(0xe8b0_0006, 0), (0xe8a0_0006, WRITE)] {
            self::write(&board, CODE, &[code]);
            let after = board.run(move |guest| {
                with_mmu(guest);
                guest.system.vbar = 0x4100_0000;
                guest.regs.pc = CODE;
                guest.regs.cpsr = mode::SVC;
                guest.regs.r[..3].copy_from_slice(&[at, 5, 6]);
                data_abort(guest, at, UART, PLAIN | write)
            });
            assert_eq!(after.regs.pc, 0x4100_0010, "{code:#x}");
            assert_eq!(after.system.dfar, at + 4);
            assert_eq!(after.system.dfsr, dfsr | write << 5);
            assert_eq!(after.banked(Banked::LrAbt), CODE + 8);
            assert_eq!((after.regs.r[0], after.regs.r[2]), (at, 6));
        }
    }
}

pub(crate) fn an_unprivileged_access_has_user_modes_rights() {
    let mut board = Board::one();
    // The UART, for PL1 alone, after a page that everybody may use.
    mmu_on(
        &board,
        &[(0x090, 0x0900_0412), (0xc00, (TABLE + 0x4000) | 1)],
    );
    let before = [IBRD, 0x55];
    // ldrt r1, [r0], #0: the hardware would have refused it at stage 1, so its tables have moved.
    let again = execute(&mut board, &[0xe4b0_1000], IBRD, PLAIN, move |guest| {
        with_mmu(guest);
        guest.regs.r[..2].copy_from_slice(&before);
    });
    assert_eq!(again.regs.pc, CODE);
    assert_eq!(again.system.dfsr, 0);
    // ldr r1, [r0], #4 may.
    let after = execute(&mut board, &[0xe490_1004], IBRD, PLAIN, move |guest| {
        guest.regs.r[..2].copy_from_slice(&before);
    });
    assert_eq!((after.regs.pc, after.regs.r[1]), (CODE + 4, 0));
}

pub(crate) fn an_instruction_that_cant_be_fetched_any_more_is_tried_again() {
    let mut board = Board::one();
    mmu_on(&board, &[(CODE >> 20, 0)]);
    let after = execute(&mut board, &[0xe480_1004], IBRD, PLAIN | WRITE, |guest| {
        with_mmu(guest);
        guest.regs.r[0] = IBRD;
    });
    assert_eq!((after.regs.pc, after.regs.r[0]), (CODE, IBRD));
    assert_eq!((after.regs.mode(), after.system.dfsr), (mode::SVC, 0));
}

pub(crate) fn exclusives_of_a_device_abort_and_of_ram_are_tried_again() {
    let mut board = Board::one();
    // ldrex r1, [r0]; strex r2, r1, [r0]
    for (code, iss) in [(0xe190_1f9f, PLAIN), (0xe180_2f91, PLAIN | WRITE)] {
        let after = execute(&mut board, &[code], IBRD, iss, |guest| {
            guest.regs.r[0] = IBRD;
        });
        assert_eq!(after.regs.mode(), mode::ABT);
        assert_eq!(after.system.dfar, IBRD);
        assert_eq!(after.system.dfsr & 0x40f, STATUS_EXTERNAL);
        let after = execute(&mut board, &[code], DATA, iss, |guest| {
            guest.regs.r[0] = DATA;
        });
        assert_eq!((after.regs.mode(), after.regs.pc), (mode::SVC, CODE));
    }
    assert_eq!(log_lines(), [""; 0]);
}

pub(crate) fn a_swap_of_a_device_loads_and_stores() {
    let mut board = Board::one();
    execute(&mut board, &[0xe480_1004], IBRD, PLAIN | WRITE, |guest| {
        guest.regs.r[..2].copy_from_slice(&[IBRD, 0x77]);
    });
    // swp r2, r1, [r0]
    let after = execute(&mut board, &[0xe100_2091], IBRD, PLAIN, |guest| {
        guest.regs.r[..2].copy_from_slice(&[IBRD, 0x99]);
    });
    assert_eq!(after.regs.r[2], 0x77);
    let after = execute(&mut board, &[0xe490_1000], IBRD, PLAIN, |guest| {
        guest.regs.r[0] = IBRD;
    });
    assert_eq!(after.regs.r[1], 0x99);
}

pub(crate) fn big_endian_data_is_swapped_and_instructions_are_not() {
    let mut board = Board::one();
    execute(&mut board, &[0xe480_1004], IBRD, PLAIN | WRITE, |guest| {
        guest.regs.cpsr |= psr::E;
        guest.regs.r[..2].copy_from_slice(&[IBRD, 0x3412_0000]);
    });
    let after = execute(&mut board, &[0xe490_1004], IBRD, PLAIN, |guest| {
        guest.regs.r[0] = IBRD;
    });
    assert_eq!(after.regs.r[1], 0x1234);
}

pub(crate) fn what_is_unpredictable_aborts_and_is_logged_now_and_then() {
    let mut board = Board::one();
    // str r0, [r0], #4
    for _ in 0..9 {
        let after = execute(&mut board, &[0xe480_0004], IBRD, PLAIN | WRITE, |guest| {
            guest.regs.r[0] = IBRD;
        });
        assert_eq!(after.regs.mode(), mode::ABT);
        assert_eq!(after.system.dfsr, 0x808);
        assert_eq!(after.regs.r[0], IBRD);
    }
    let lines = log_lines();
    assert_eq!(lines.len(), 4, "the 1st, 2nd, 4th and 8th: {lines:?}");
    assert!(lines[0].contains("A32 e4800004"), "{}", lines[0]);
    test::type_in(b"\x01i");
    test::interrupt(0, CONSOLE);
    board.run_if(|_| Exit::Irq);
    board.soon();
    let lines = test::said();
    let shown = "; not performed 9, last A32 e4800004";
    assert!(lines[1].ends_with(shown), "{lines:?}");
}

pub(crate) fn an_unaligned_access_to_device_memory_is_an_alignment_fault() {
    let mut board = Board::one();
    // With the MMU off everything is strongly-ordered; sections of device and of normal memory.
    for (section, device) in [
        (None, true),
        (Some(0x0900_0c16), true),
        (Some(0x0900_1c12), false),
    ] {
        if let Some(section) = section {
            mmu_on(&board, &[(0x090, section)]);
        }
        // ldr r1, [r0], #4, of RIS and what is behind its lowest byte
        let after = execute(&mut board, &[0xe490_1004], IBRD + 2, PLAIN, move |guest| {
            if section.is_some() {
                with_mmu(guest);
            }
            guest.regs.r[..2].copy_from_slice(&[IBRD + 2, 0xffff_ffff]);
        });
        if device {
            assert_eq!((after.regs.mode(), after.system.dfsr), (mode::ABT, 0x001));
            assert_eq!(after.system.dfar, IBRD + 2);
        } else {
            assert_eq!((after.regs.r[1], after.regs.r[0]), (0, IBRD + 6));
        }
    }
}

pub(crate) fn vfp_registers_are_the_guests_own() {
    let mut board = Board::one();
    let vfp = |guest: &mut Guest| guest.trap(crate::board::hsr(0x07, 0xa));
    board.run(vfp);
    // vstr d0, [r0]; vldr d0, [r0]
    let after = execute(&mut board, &[0xed80_0b00], IBRD, PLAIN | WRITE, |guest| {
        guest.vfp = Some(0x0000_0015_0000_4567);
        guest.regs.r[0] = IBRD;
    });
    assert_eq!(after.regs.pc, CODE + 4);
    let after = execute(&mut board, &[0xed90_0b00], IBRD, PLAIN, |guest| {
        guest.vfp = Some(0);
        guest.regs.r[0] = IBRD;
    });
    assert_eq!(after.vfp, Some(0x0000_0015_0000_4567));
}

pub(crate) fn a_load_into_pc_from_a_device_is_a_prefetch_abort() {
    let mut board = Board::one();
    let after = board.run(|guest| {
        guest.system.vbar = 0x4100_0000;
        guest.regs.pc = CODE;
        data_abort(guest, IBRD, IBRD, access(2, 15))
    });
    assert_eq!(after.regs.pc, 0x4100_000c);
    assert_eq!(
        (after.system.ifar, after.system.ifsr),
        (IBRD, STATUS_EXTERNAL)
    );
}

pub(crate) fn a_core_that_names_the_wrong_register_for_thumb_stores_is_not_believed() {
    let mut board = Board::one();
    test::mislabel_thumb_stores();
    // str r1, [r0] in Thumb, as a store of r2.
    let after = execute(&mut board, &[0x6001], IBRD, access(2, 2) | WRITE, |guest| {
        guest.regs.cpsr |= psr::T;
        guest.regs.r[..3].copy_from_slice(&[IBRD, 0x11, 0x22]);
    });
    assert_eq!(after.regs.pc, CODE + 2);
    let after = execute(&mut board, &[0], IBRD, access(2, 3), |_| {});
    assert_eq!(after.regs.r[3], 0x11);
}
