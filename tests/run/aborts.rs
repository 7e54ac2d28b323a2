//! Loads, stores and fetches that stage 2 stopped, and the exceptions that guests are given.

use crate::board::{
    Board, SIGNED, WRITE, access, config, data_abort, hsr, hsr16, power_on, prefetch_abort,
};
use crate::board::{MIB, kernel};
use crate::calls::it;
use armillary::machine::test::{self, Guest};
use armillary::regs::{Banked, bank, mode, psr};

const UART: u32 = 0x0900_0000;
/// A register of the UART that keeps 16 bits, one that reads as 0xf0.
const IBRD: u32 = UART + 0x24;
const ID_F0: u32 = UART + 0xff4;
const NOWHERE: u32 = 0x2000_0000;
const TTBCR_EAE: u32 = 1 << 31;

/// A store of `value` from r1, `1 << sas` bytes.
fn store(board: &mut Board, at: u32, sas: u32, value: u32) -> Guest {
    board.run(move |guest| {
        guest.regs.r[1] = value;
        data_abort(guest, at, at, access(sas, 1) | WRITE)
    })
}

/// A load into r1: what it got.
fn load(board: &mut Board, at: u32, sas: u32, more: u32) -> u32 {
    let after = board.run(move |guest| {
        guest.regs.r[1] = 0xdead_beef;
        data_abort(guest, at, at, access(sas, 1) | more)
    });
    after.regs.r[1]
}

/// The bytes on the console.
fn console() -> Vec<u8> {
    test::console().into_iter().map(|(.., byte)| byte).collect()
}

pub(crate) fn a_store_reaches_the_uart_in_its_width() {
    let mut board = Board::one();
    let before = board.run(|guest| {
        guest.regs.pc = 0x4001_0100;
        guest.trap(hsr(0x12, 0))
    });
    let after = store(&mut board, UART, 0, 0x1234_5641);
    assert_eq!(after.regs.pc, before.regs.pc + 4);
    assert_eq!(console(), b"A");
    store(&mut board, IBRD, 2, 0x1234_5678);
    assert_eq!(load(&mut board, IBRD, 2, 0), 0x5678);
    store(&mut board, IBRD, 1, 0x9abc_def0);
    assert_eq!(load(&mut board, IBRD, 2, 0), 0xdef0);
    store(&mut board, IBRD, 0, 0xffff_ff77);
    assert_eq!(load(&mut board, IBRD, 2, 0), 0x77);
}

pub(crate) fn a_load_gets_the_register_in_its_width() {
    let mut board = Board::one();
    store(&mut board, IBRD, 1, 0x8181);
    assert_eq!(load(&mut board, IBRD, 0, 0), 0x81);
    assert_eq!(load(&mut board, IBRD, 1, 0), 0x8181);
    assert_eq!(load(&mut board, IBRD, 2, 0), 0x8181);
    assert_eq!(load(&mut board, IBRD + 1, 0, 0), 0x81);
}

pub(crate) fn a_load_extends_the_sign_where_it_says() {
    let mut board = Board::one();
    store(&mut board, IBRD, 1, 0x8101);
    assert_eq!(load(&mut board, ID_F0, 0, SIGNED), 0xffff_fff0);
    assert_eq!(load(&mut board, ID_F0, 0, 0), 0xf0);
    assert_eq!(load(&mut board, IBRD, 1, SIGNED), 0xffff_8101);
    assert_eq!(load(&mut board, IBRD, 0, SIGNED), 1);
}

pub(crate) fn big_endian_guests_see_bytes_swapped() {
    let mut board = Board::one();
    board.run(|guest| {
        guest.regs.cpsr |= psr::E;
        guest.trap(hsr(0x12, 0))
    });
    store(&mut board, IBRD, 1, 0xffff_1281);
    assert_eq!(load(&mut board, IBRD, 2, 0), 0x1281_0000);
    assert_eq!(load(&mut board, IBRD, 1, 0), 0x1281);
    assert_eq!(load(&mut board, IBRD, 1, SIGNED), 0x1281);
    store(&mut board, IBRD, 2, 0xf134_0000);
    assert_eq!(load(&mut board, IBRD, 1, SIGNED), 0xffff_f134);
    store(&mut board, UART, 0, 0x42);
    assert_eq!(console(), b"B");
}

pub(crate) fn the_banked_register_is_that_of_the_mode() {
    let mut board = Board::one();
    store(&mut board, IBRD, 1, 0x4321);
    let modes = [
        mode::USR,
        mode::SYS,
        mode::FIQ,
        mode::IRQ,
        mode::SVC,
        mode::ABT,
        mode::UND,
    ];
    for mode in modes {
        for rt in 0..15 {
            let after = board.run(move |guest| {
                guest.regs.cpsr = mode;
                guest.regs.r = [0; 13];
                guest.regs.lr_usr = 0;
                for register in BANKED {
                    guest.set_banked(register, 0);
                }
                data_abort(guest, IBRD, IBRD, access(1, rt))
            });
            let mut found = BANKED
                .iter()
                .filter(|&&register| after.banked(register) != 0);
            let expected = bank(mode, rt);
            assert_eq!(found.next(), expected.as_ref(), "{mode:#x} r{rt}");
            assert_eq!(found.next(), None);
            let general = |n| {
                let is_it = n == rt as usize && expected.is_none();
                if is_it { 0x4321 } else { 0 }
            };
            assert_eq!(after.regs.r, std::array::from_fn(general));
            assert_eq!(after.regs.lr_usr != 0, rt == 14 && expected.is_none());
            // And back from there: the value that was loaded is stored.
            let store =
                board.run(move |guest| data_abort(guest, UART, UART, access(0, rt) | WRITE));
            assert_eq!(store.regs.cpsr, mode);
            assert_eq!(console(), b"!", "{mode:#x} r{rt}");
        }
    }
}

const BANKED: [Banked; 21] = {
    use Banked::*;
    [
        SpUsr, R8Fiq, R9Fiq, R10Fiq, R11Fiq, R12Fiq, SpFiq, LrFiq, SpsrFiq, SpIrq, LrIrq, SpsrIrq,
        SpSvc, LrSvc, SpsrSvc, SpAbt, LrAbt, SpsrAbt, SpUnd, LrUnd, SpsrUnd,
    ]
};

pub(crate) fn an_access_in_thumb_state_is_skipped_by_its_length_and_advances_itstate() {
    let mut board = Board::one();
    for (hsr, length) in [(hsr16(0x24, access(0, 1)), 2), (hsr(0x24, access(0, 1)), 4)] {
        let after = board.run(move |guest| {
            guest.regs.cpsr = mode::SVC | psr::T | it(0b1110_0100);
            guest.regs.pc = 0x4001_0200;
            data_abort(guest, ID_F0, ID_F0, 0);
            guest.trap(hsr)
        });
        assert_eq!(after.regs.pc, 0x4001_0200 + length);
        assert_eq!(after.regs.it_state(), 0b1110_1000);
    }
}

/// ISS of a permission fault.
const fn permission(sas: u32, rt: u32) -> u32 {
    access(sas, rt) | 0b1111
}

pub(crate) fn a_permission_fault_takes_the_address_by_translation() {
    let mut board = Board::one();
    map(&board);
    let mut load = |at: u32| {
        board.run(move |guest| {
            translated(guest);
            guest.regs.cpsr = mode::SVC;
            data_abort(guest, at, 0xffff_f000, permission(0, 3))
        })
    };
    assert_eq!(load(0xc000_0ff4).regs.r[3], 0xf0);
    let nothing = load(0xc010_0ff4);
    assert_eq!(nothing.regs.mode(), mode::ABT);
    assert_eq!(nothing.system.dfar, 0xc010_0ff4);
}

/// First-level entries at 0x4020_3000: the UART at 0xc000_0000, nothing at the MiB above it, and no
/// translation above that.
fn map(board: &Board) {
    let entries = [UART | 0xc02, NOWHERE | 0xc02];
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    let ram = &mut board.vms[0].lock().memory.ram;
    ram.write(armillary::addr::Ipa(0x4020_3000), &bytes)
        .unwrap();
    ram.write(armillary::addr::Ipa(0x4020_3008), &[0; 0xff8])
        .unwrap();
}

/// The guest's MMU is on with the tables of [`map`].
fn translated(guest: &mut Guest) {
    guest.system.sctlr |= 1;
    guest.system.ttbr0 = 0x4020_0000;
    guest.system.dacr = 1;
}

pub(crate) fn a_permission_fault_that_translates_no_more_is_tried_again() {
    let mut board = Board::one();
    map(&board);
    let step = |fetch: bool| {
        move |guest: &mut Guest| {
            translated(guest);
            guest.regs.pc = 0xc020_0300;
            guest.regs.cpsr = mode::SVC;
            if fetch {
                prefetch_abort(guest, 0xc020_0300, NOWHERE, 0b1111)
            } else {
                data_abort(guest, 0xc020_0000, NOWHERE, permission(2, 3))
            }
        }
    };
    for fetch in [false, true] {
        let after = board.run(step(fetch));
        assert_eq!((after.regs.pc, after.regs.cpsr), (0xc020_0300, mode::SVC));
        assert_eq!((after.system.dfsr, after.system.ifsr), (0, 0));
    }
}

pub(crate) fn a_store_to_firmware_does_nothing() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let mut firmware = config("firmware", 4 * MIB);
    firmware.firmware = firmware.kernel.take();
    board.add(firmware, &[0]);
    let before = board.soon().expect("the guest");
    assert_eq!((before.regs.pc, before.regs.r[2]), (0, 0));
    let after = board.run(|guest| {
        guest.regs.pc = 0x80;
        data_abort(guest, 0x104, 0xffff_f000, permission(2, 3) | WRITE)
    });
    assert_eq!((after.regs.pc, after.regs.mode()), (0x84, mode::SVC));
    assert_eq!(
        crate::board::memory(&board.vms[0], armillary::addr::Ipa(0), 0x1800),
        kernel()
    );
}

pub(crate) fn an_access_to_ram_that_is_there_by_now_is_tried_again() {
    let after = Board::one().run(|guest| {
        guest.regs.pc = 0x4001_0300;
        data_abort(guest, 0x4000_0000, 0x4000_0000, access(2, 1) | WRITE)
    });
    assert_eq!(after.regs.pc, 0x4001_0300);
    assert_eq!(after.regs.mode(), mode::SVC);
}

/// A guest in user mode, flags and Thumb state as `more` says, at 0x4001_0400.
fn user(guest: &mut Guest, more: u32) {
    guest.regs.cpsr = 0xf000_0000 | mode::USR | more;
    guest.regs.pc = 0x4001_0400;
    guest.system.vbar = 0x4100_0000;
}

pub(crate) fn an_access_where_nothing_is_aborts_as_the_processor_would() {
    let mut board = Board::one();
    for (more, iss) in [(0, access(2, 1)), (psr::T, access(0, 1)), (0, 0b00_0111)] {
        let after = board.run(move |guest| {
            user(guest, more);
            guest.regs.r = [7; 13];
            data_abort(guest, 0xd000_0124, NOWHERE, iss)
        });
        assert_eq!(after.regs.pc, 0x4100_0010);
        assert_eq!(after.regs.r, [7; 13]);
        assert_eq!(after.regs.cpsr, 0xf000_0000 | mode::ABT | psr::I | psr::A);
        assert_eq!(after.banked(Banked::LrAbt), 0x4001_0408);
        assert_eq!(
            after.banked(Banked::SpsrAbt),
            0xf000_0000 | mode::USR | more
        );
        assert_eq!(after.system.dfar, 0xd000_0124);
        assert_eq!(after.system.dfsr, 0x008);
    }
}

pub(crate) fn a_data_abort_says_what_it_was_in_both_formats() {
    let mut board = Board::one();
    // Where nothing is; a store; an alignment fault; cache maintenance.
    let cases = [
        (access(2, 1), 0x008, 0x210),
        (access(2, 1) | WRITE, 0x808, 0xa10),
        (0b10_0001, 0x001, 0x221),
        (1 << 8 | 0b00_0111 | WRITE, 0x2808, 0x2a10),
    ];
    for (iss, short, long) in cases {
        for (ttbcr, expected) in [(0, short), (TTBCR_EAE, long)] {
            let after = board.run(move |guest| {
                user(guest, 0);
                guest.system.ttbcr = ttbcr;
                data_abort(guest, NOWHERE, NOWHERE, iss)
            });
            assert_eq!(after.system.dfsr, expected, "{iss:#x} {ttbcr:#x}");
        }
    }
}

pub(crate) fn an_exception_is_taken_in_the_state_that_sctlr_says() {
    let mut board = Board::one();
    for sctlr in [0, 1 << 30, 1 << 25, 1 << 30 | 1 << 25] {
        for old in [0, psr::T | psr::E | it(0b1110_0100)] {
            let after = board.run(move |guest| {
                user(guest, old);
                guest.system.sctlr = sctlr;
                data_abort(guest, NOWHERE, NOWHERE, access(2, 1))
            });
            let thumb = if sctlr & 1 << 30 != 0 { psr::T } else { 0 };
            let big = if sctlr & 1 << 25 != 0 { psr::E } else { 0 };
            assert_eq!(
                after.regs.cpsr,
                0xf000_0000 | mode::ABT | psr::I | psr::A | thumb | big
            );
        }
    }
}

pub(crate) fn high_vectors_go_before_vbar() {
    let after = Board::one().run(|guest| {
        user(guest, 0);
        guest.system.sctlr |= 1 << 13;
        data_abort(guest, NOWHERE, NOWHERE, access(2, 1))
    });
    assert_eq!(after.regs.pc, 0xffff_0010);
}

pub(crate) fn an_abort_in_an_it_block_begins_outside_of_it() {
    let after = Board::one().run(|guest| {
        user(guest, psr::T | it(0b1110_0100));
        data_abort(guest, NOWHERE, NOWHERE, access(2, 1))
    });
    assert_eq!(after.regs.it_state(), 0);
    assert_eq!(
        after.banked(Banked::SpsrAbt),
        0xf000_0000 | mode::USR | psr::T | it(0b1110_0100)
    );
}

pub(crate) fn an_undefined_instruction_returns_behind_it() {
    let mut board = Board::one();
    for (state, lr) in [(0, 0x4001_0404), (psr::T, 0x4001_0402)] {
        let after = board.run(move |guest| {
            user(guest, state | psr::A | psr::F);
            // MRC p7.
            guest.trap(hsr(0x07, 7))
        });
        assert_eq!(after.regs.pc, 0x4100_0004);
        assert_eq!(
            after.regs.cpsr,
            0xf000_0000 | mode::UND | psr::I | psr::A | psr::F
        );
        assert_eq!(after.banked(Banked::LrUnd), lr);
        assert_eq!(
            after.banked(Banked::SpsrUnd),
            0xf000_0000 | mode::USR | state | psr::A | psr::F
        );
    }
    // What does not mask asynchronous aborts, leaves them as they are.
    let after = board.run(|guest| {
        user(guest, 0);
        guest.trap(hsr(0x07, 7))
    });
    assert_eq!(after.regs.cpsr & psr::A, 0);
}

pub(crate) fn a_fetch_where_nothing_is_aborts() {
    let mut board = Board::one();
    for (at, ttbcr, ifsr) in [
        (NOWHERE, 0, 0x008),
        (UART, 0, 0x008),
        (NOWHERE, TTBCR_EAE, 0x210),
    ] {
        let after = board.run(move |guest| {
            user(guest, psr::T);
            guest.regs.pc = at;
            guest.system.ttbcr = ttbcr;
            prefetch_abort(guest, at, at, 0b00_0111)
        });
        assert_eq!(after.regs.pc, 0x4100_000c);
        assert_eq!(after.regs.cpsr, 0xf000_0000 | mode::ABT | psr::I | psr::A);
        assert_eq!(after.banked(Banked::LrAbt), at + 4);
        assert_eq!(after.system.ifar, at);
        assert_eq!(after.system.ifsr, ifsr);
        assert_eq!(after.system.dfsr, 0);
    }
    let again = board.run(|guest| {
        user(guest, 0);
        prefetch_abort(guest, 0x4001_0400, 0x4001_0000, 0b00_0111)
    });
    assert_eq!(again.regs.pc, 0x4001_0400);
}

pub(crate) fn an_abort_whose_handler_is_nowhere_stops_the_vm() {
    let mut board = Board::two();
    for (vbar, ends) in [(NOWHERE, false), (NOWHERE - 0x0c, true)] {
        let after = board.run_if(move |guest| {
            user(guest, 0);
            guest.system.vbar = vbar;
            guest.regs.pc = NOWHERE;
            prefetch_abort(guest, NOWHERE, NOWHERE, 0b00_0111)
        });
        assert_eq!(after.is_none(), ends);
        assert_eq!(board.vms.iter().any(|vm| vm.lock().power.all_off()), ends);
    }
}

const WALK: u32 = 1 << 7;

pub(crate) fn a_walk_through_a_device_is_an_external_abort_on_the_walk() {
    let mut board = Board::one();
    map(&board);
    // A first-level table in the UART, a second-level one, and so in the long format.
    let second = (UART | 1).to_le_bytes();
    let ram = |at, bytes: &[u8]| {
        let ram = &mut board.vms[0].lock().memory.ram;
        ram.write(armillary::addr::Ipa(at), bytes).unwrap();
    };
    ram(0x4020_3400, &second);
    ram(0x4020_4018, &u64::from(UART | 3).to_le_bytes());
    for (ttbcr, ttbr0, status) in [
        (0, UART, 0x00c),
        (0, 0x4020_0000, 0x00e),
        (TTBCR_EAE, UART, 0x215),
        (TTBCR_EAE, 0x4020_4000, 0x216),
    ] {
        let set = move |guest: &mut Guest| {
            user(guest, 0);
            translated(guest);
            guest.system.ttbcr = ttbcr;
            guest.system.ttbr0 = ttbr0.into();
        };
        let data = board.run(move |guest| {
            set(guest);
            data_abort(guest, 0xd000_0000, UART, 0b00_0111 | WALK)
        });
        assert_eq!((data.regs.pc, data.system.dfsr), (0x4100_0010, status));
        assert_eq!(data.system.dfar, 0xd000_0000);
        let fetch = board.run(move |guest| {
            set(guest);
            prefetch_abort(guest, 0xd000_0000, UART, 0b00_0111 | WALK)
        });
        assert_eq!((fetch.regs.pc, fetch.system.ifsr), (0x4100_000c, status));
    }
}

pub(crate) fn a_walk_through_ram_that_is_there_by_now_is_tried_again() {
    let after = Board::one().run(|guest| {
        user(guest, 0);
        data_abort(guest, 0xd000_0000, 0x4000_4000, 0b00_0111 | WALK)
    });
    assert_eq!(after.regs.pc, 0x4001_0400);
    assert_eq!(after.regs.mode(), mode::USR);
}
