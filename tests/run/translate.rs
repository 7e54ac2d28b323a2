//! Translation as a service, and addresses that 32 bits don't hold.

use crate::board::{Board, WRITE, access, hsr, hsr16, hvc, memory};
use armillary::addr::Ipa;
use armillary::machine::Exit;
use armillary::machine::test::{self, Guest};
use armillary::regs::{Banked, mode, psr};

const TRANSLATE: u32 = 0x8600_0004;
const UART: u32 = 0x0900_0000;
const GICC: u32 = 0x0801_0000;
/// The UART, seen 4 GiB higher: nothing is there.
const ABOVE: u64 = 1 << 32 | UART as u64;
const TABLE: u32 = 0x4020_0000;
const TTBCR_EAE: u32 = 1 << 31;
/// Translation fault at level 3, no syndrome.
const PLAIN: u32 = 0b00_0111;
/// A page of normal memory (AttrIndx 1) or of device memory (0), shareable, with the access flag.
const NORMAL: u64 = 0b11 | 1 << 2 | 0b11 << 8 | 1 << 10;
const DEVICE: u64 = 0b11 | 0b10 << 8 | 1 << 10;
const READ_ONLY: u64 = 1 << 7;
const USER: u64 = 1 << 6;

fn put(board: &Board, at: u32, entries: &[u64]) {
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    let ram = &mut board.vms[0].lock().memory.ram;
    ram.write(Ipa(at.into()), &bytes).unwrap();
}

/// Long-descriptor tables: the first pages are `pages`; the second and third GiB have a table in the
/// UART and one in the CPU interface.
fn long(board: &Board, pages: &[u64]) {
    let table = |offset: u32| u64::from(TABLE + offset) | 3;
    put(
        board,
        TABLE,
        &[table(0x1000), u64::from(UART) | 3, u64::from(GICC) | 3, 0],
    );
    put(board, TABLE + 0x1000, &[table(0x2000)]);
    put(board, TABLE + 0x2000, &[0; 512]);
    put(board, TABLE + 0x2000, pages);
}

fn with_long(guest: &mut Guest) {
    guest.system.sctlr |= 1;
    guest.system.ttbcr = TTBCR_EAE;
    guest.system.ttbr0 = TABLE.into();
}

/// Sections of the short format: `entries` from 0 on.
fn short(board: &Board, entries: &[u32]) {
    let mut table = vec![0; 4096];
    table[..entries.len()].copy_from_slice(entries);
    let pairs: Vec<u64> = table
        .chunks(2)
        .map(|pair| u64::from(pair[1]) << 32 | u64::from(pair[0]))
        .collect();
    put(board, TABLE, &pairs);
}

fn with_short(guest: &mut Guest) {
    guest.system.sctlr |= 1;
    guest.system.ttbcr = 0;
    guest.system.ttbr0 = TABLE.into();
    guest.system.dacr = 0b01;
}

/// r0, and what PAR would be.
fn translate(board: &mut Board, set: fn(&mut Guest), va: u32, operation: u32) -> (u32, u64) {
    let after = board.run(move |guest| {
        set(guest);
        guest.regs.cpsr = mode::SVC;
        guest.regs.r = [0x77; 13];
        guest.regs.r[1..3].copy_from_slice(&[va, operation]);
        hvc(guest, TRANSLATE)
    });
    assert_eq!(after.regs.r[3..], [0x77; 10]);
    let [answer, low, high, ..] = after.regs.r;
    (answer, u64::from(high) << 32 | u64::from(low))
}

/// PAR of a fault in the long format: status, found by stage 2, on a walk of stage 1.
const fn fault(status: u64, stage_2: bool, walk: bool) -> u64 {
    1 << 11 | (stage_2 as u64) << 9 | (walk as u64) << 8 | status << 1 | 1
}

const NS: u64 = 1 << 9;
const LPAE: u64 = 1 << 11;

pub(crate) fn stage_1_is_translated_in_the_format_of_its_tables() {
    let mut board = Board::one();
    // A flat map: strongly-ordered, outer shareable.
    let flat = |guest: &mut Guest| guest.system.sctlr &= !1;
    let expected = 0x1234_5000 | NS | 1 << 7 | 0b001 << 4;
    assert_eq!(translate(&mut board, flat, 0x1234_5678, 0), (0, expected));
    long(
        &board,
        &[NORMAL | 0x4000_0000, NORMAL | READ_ONLY | USER | ABOVE],
    );
    let mut ask = |va, operation| translate(&mut board, with_long, va, operation);
    // MAIR is zero on this machine: every type is strongly-ordered.
    let page = |at: u64| at | LPAE | NS | 0b10 << 7;
    for operation in [0, 1] {
        assert_eq!(ask(0x123, operation), (0, page(0x4000_0000)));
    }
    for operation in [2, 3] {
        assert_eq!(ask(0x123, operation), (0, fault(0b00_1111, false, false)));
    }
    for operation in [0, 2] {
        assert_eq!(ask(0x1ffc, operation), (0, page(ABOVE)));
    }
    assert_eq!(ask(0x1ffc, 1), (0, fault(0b00_1111, false, false)));
    assert_eq!(ask(0x2000, 0), (0, fault(0b00_0111, false, false)));
    // The bus refuses a table in a device, as it would for the guest's own access.
    for va in [0x4000_0000, 0x8000_0000] {
        assert_eq!(ask(va, 0), (0, fault(0b01_0110, false, false)));
    }
    // A supersection above 4 GiB; a section of a domain without access.
    let mut entries = vec![1 << 18 | 0b1 << 20 | 0x0900_0000 | 3 << 10 | 2; 16];
    entries.push(1 << 5 | 3 << 10 | 2);
    short(&board, &entries);
    let mut ask = |va, operation| translate(&mut board, with_short, va, operation);
    let (answer, par) = ask(0x00ab_cdef, 3);
    assert_eq!(
        (answer, par & !0x7c),
        (0, 0x0901_0000 | NS | 1 << 7 | 1 << 1)
    );
    assert_eq!(ask(0x0100_0000, 0), (0, 0b01001 << 1 | 1));
    assert_eq!(ask(0x0110_0000, 0), (0, 0b00101 << 1 | 1));
}

pub(crate) fn both_stages_are_translated_in_the_long_format() {
    let mut board = Board::one();
    let pages = [
        NORMAL | 0x4000_0000,
        DEVICE | u64::from(UART),
        NORMAL | u64::from(GICC),
        NORMAL | ABOVE,
        NORMAL | 0x2000_0000,
        0,
    ];
    long(&board, &pages);
    let mut ask = |va, operation| translate(&mut board, with_long, va, operation);
    let page = |at: u64| at | LPAE | NS | 0b10 << 7;
    for operation in [4, 5] {
        assert_eq!(ask(0x123, operation), (0, page(0x4000_0000)));
        // The CPU interface is the hardware's.
        assert_eq!(ask(0x2123, operation), (0, page(GICC.into())));
        // A device of the hypervisor's, above the guest's addresses, nothing.
        assert_eq!(ask(0x1018, operation), (0, fault(0b00_0111, true, false)));
        assert_eq!(ask(0x3018, operation), (0, fault(0b00_0101, true, false)));
        assert_eq!(ask(0x4000, operation).1 & 0x301, 0x201);
        assert_eq!(ask(0x5000, operation), (0, fault(0b00_0111, false, false)));
        // Tables in the UART, which stage 2 has not got, and in the CPU interface: HCR.PTW.
        assert_eq!(
            ask(0x4000_0000, operation),
            (0, fault(0b00_0111, true, true))
        );
        assert_eq!(
            ask(0x8000_0000, operation),
            (0, fault(0b00_1111, true, true))
        );
    }
    for operation in [6, 7] {
        assert_eq!(ask(0x123, operation), (0, fault(0b00_1111, false, false)));
    }
    short(&board, &[0x4000_0000 | 3 << 10 | 2, UART | 3 << 10 | 2]);
    let mut ask = |va, operation| translate(&mut board, with_short, va, operation);
    assert_eq!(
        ask(0x2123, 7).1 & !0xff00_0000_0000_0180,
        0x4000_2000 | LPAE | NS
    );
    assert_eq!(ask(0x10_0000, 4), (0, fault(0b00_0111, true, false)));
    assert_eq!(ask(0x20_0000, 4), (0, fault(0b00_0101, false, false)));
}

pub(crate) fn a_translation_of_no_operation_is_refused() {
    let mut board = Board::one();
    for operation in [8, 0x10, u32::MAX] {
        let (answer, rest) = translate(&mut board, |_| (), 5, operation);
        assert_eq!(answer, -3i32 as u32);
        assert_eq!(rest, u64::from(operation) << 32 | 5);
    }
}

/// An abort at `va`, whose address to stage 2 is `ipa`.
fn stopped(guest: &mut Guest, va: u32, ipa: u64, hsr: u32) -> Exit {
    guest.fault.hdfar = va;
    guest.fault.hifar = va;
    guest.fault.hpfar = (ipa >> 12 << 4) as u32;
    guest.trap(hsr)
}

/// The guest has had the external abort of address `va`, and nothing of it but that.
fn is_abort(after: &Guest, va: u32) {
    assert_eq!(after.regs.mode(), mode::ABT);
    assert_eq!(after.regs.pc, 0x4100_0010);
    assert_eq!((after.system.dfar, after.system.dfsr & 0x63f), (va, 0x210));
    assert_eq!(after.banked(Banked::SpsrAbt) & mode::MASK, mode::SVC);
    assert_eq!(test::console(), []);
}

pub(crate) fn an_access_above_4_gib_does_not_wrap_to_a_device_below() {
    let mut board = Board::one();
    // The second page is the UART, the third the one above 4 GiB, the fourth RAM.
    let user = DEVICE | USER;
    long(
        &board,
        &[
            0,
            user | u64::from(UART),
            user | ABOVE,
            NORMAL | USER | 0x4002_0000,
        ],
    );
    let (at, code) = (0x2000, 0x3000);
    let begin = move |guest: &mut Guest| {
        with_long(guest);
        guest.system.vbar = 0x4100_0000;
        guest.system.dfsr = 0;
        guest.regs.pc = code;
        guest.regs.cpsr = mode::SVC;
        guest.regs.r = [at; 13];
        guest.regs.r[1] = 0x41;
    };
    let permission = |iss: u32| iss | 0b1111;
    for write in [0, WRITE] {
        // With syndrome, plain or not; a permission fault, whose address is found by translation.
        for hsr in [
            hsr(0x24, access(2, 1) | write),
            hsr(0x24, access(0, 9) | write),
            hsr16(0x24, access(0, 1) | write),
            hsr(0x24, permission(access(2, 1)) | write),
        ] {
            let after = board.run(move |guest| {
                begin(guest);
                stopped(guest, at, ABOVE, hsr)
            });
            is_abort(&after, at);
        }
    }
    // Without: str r1, [r0], #4; ldr r1, [r0], #4; from the UART on into the page above, stm r0!, {r1, r2}.
    for (word, write, base, last) in [
        (0xe480_1004, WRITE, at, at),
        (0xe490_1004, 0, at, at),
        (0xe8a0_0006, WRITE, at - 4, at),
    ] {
        put(&board, 0x4002_0000, &[word]);
        let ipa = ABOVE - if base < at { 1 << 32 } else { 0 };
        let after = board.run(move |guest| {
            begin(guest);
            guest.regs.r[0] = base;
            stopped(guest, base, ipa, hsr(0x24, PLAIN | write))
        });
        is_abort(&after, last);
        assert_eq!(after.regs.r[0], base);
    }
    // A fetch, with and without an address in HPFAR.
    for iss in [0b00_0111, 0b00_1111] {
        let after = board.run(move |guest| {
            begin(guest);
            guest.regs.pc = at;
            guest.regs.cpsr |= psr::T;
            stopped(guest, at, ABOVE, hsr(0x20, iss))
        });
        assert_eq!(after.regs.pc, 0x4100_000c);
        assert_eq!((after.system.ifar, after.system.ifsr), (at, 0x210));
    }
    assert_eq!(
        memory(&board.vms[0], Ipa(0x4002_0000), 4),
        0xe8a0_0006u32.to_le_bytes()
    );
}
