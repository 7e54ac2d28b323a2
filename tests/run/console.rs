//! What is typed, and what a full console does.

use crate::board::{Board, MIB, WRITE, access, config, data_abort, hvc, log_lines, power_on};
use armillary::machine::Exit;
use armillary::machine::test::{self, Event};
use armillary::vm::Vm;
use std::collections::BTreeSet;

const UART: u32 = 0x0900_0000;
/// The console's interrupt, and the Hyp timer's.
const CONSOLE: u32 = 33;
const HYP_TIMER: u32 = 26;
const OFF: u32 = 0x8400_0008;
const HZ: u64 = 62_500_000;

fn two() -> Board {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    board.add(config("a", 4 * MIB), &[0]);
    board.add(config("b", 4 * MIB), &[0]);
    board.settle();
    board
}

fn interrupt(board: &mut Board, id: u32) {
    test::interrupt(0, id);
    board.run_if(|_| Exit::Irq);
}

fn typed(board: &mut Board, text: &[u8]) {
    test::type_in(text);
    interrupt(board, CONSOLE);
}

/// What a VM's UART has received, as its guest would read it.
fn received(vm: &Vm) -> Vec<u8> {
    let mut state = vm.lock();
    let mut bytes = Vec::new();
    while state.uart.read(0x18, 4).0 & 0x10 == 0 {
        bytes.push(state.uart.read(0, 4).0 as u8);
        if state.typed {
            state.refill();
        }
    }
    bytes
}

pub(crate) fn what_is_typed_goes_to_one_vm_until_another_is_selected() {
    let mut board = two();
    let vms = board.vms.clone();
    typed(&mut board, b"abc");
    assert_eq!(
        [received(&vms[0]), received(&vms[1])],
        [b"abc".to_vec(), vec![]]
    );
    typed(&mut board, b"\x011de");
    assert_eq!(
        [received(&vms[0]), received(&vms[1])],
        [vec![], b"de".to_vec()]
    );
    typed(&mut board, b"\x01nf\x01\x01");
    assert_eq!(
        [received(&vms[0]), received(&vms[1])],
        [b"f\x01".to_vec(), vec![]]
    );
    typed(&mut board, b"\x015");
    assert_eq!(
        log_lines(),
        [
            "[INFO] input goes to b",
            "[INFO] input goes to a",
            "[INFO] there is no VM 5: Ctrl-A i shows them"
        ]
    );
}

pub(crate) fn a_paste_waits_at_the_keyboard_and_arrives_whole() {
    let mut board = Board::one();
    let vm = board.vms[0].clone();
    let text: Vec<u8> = (0..65536u32).map(|n| (n * 7 % 251) as u8 | 2).collect();
    test::type_in(&text);
    let mut bytes = Vec::new();
    let mut rounds = 0;
    while bytes.len() < text.len() {
        interrupt(&mut board, CONSOLE);
        assert!(!vm.hears() || bytes.len() + 2048 > text.len());
        bytes.extend(received(&vm));
        assert!(vm.hears());
        rounds += 1;
        assert!(rounds < 100);
    }
    assert_eq!(bytes, text);
    let events = test::events();
    let listened: Vec<bool> = events
        .iter()
        .filter_map(|event| match event {
            Event::Listen(on) => Some(*on),
            _ => None,
        })
        .collect();
    assert!(listened.len() > 2);
    assert!(listened.chunks(2).all(|pair| pair == [false, true]));
}

pub(crate) fn a_guest_that_reads_nothing_does_not_keep_commands_from_being_heard() {
    let mut board = two();
    let vms = board.vms.clone();
    typed(&mut board, &[b'x'; 4000]);
    assert!(!vms[0].hears());
    test::advance(4 * HZ);
    interrupt(&mut board, HYP_TIMER);
    assert!(!vms[0].hears(), "it may still be about to read");
    test::advance(2 * HZ);
    interrupt(&mut board, HYP_TIMER);
    assert_eq!(
        log_lines(),
        ["[WARN] a reads nothing: what is typed is lost"]
    );
    typed(&mut board, b"\x011y");
    assert_eq!(received(&vms[1]), b"y");
    // What it was sent before is still there.
    assert!(received(&vms[0]).len() >= 1024);
}

pub(crate) fn input_goes_to_the_next_vm_when_one_is_off() {
    let mut board = two();
    let vms = board.vms.clone();
    // Whichever comes first.
    board.run_if(|guest| hvc(guest, OFF));
    board.soon();
    let left = vms.iter().find(|vm| vm.is_up()).unwrap().clone();
    typed(&mut board, b"x");
    assert_eq!(received(&left), b"x");
    let moved = log_lines()
        .iter()
        .any(|line| line.contains("input goes to b"));
    assert_eq!(moved, left.name() == "b");
}

pub(crate) fn a_vm_is_reset_from_the_console() {
    let mut board = Board::one();
    typed(&mut board, b"\x01r");
    board.soon();
    let lines = log_lines();
    assert_eq!(lines[0], "[INFO] guest: reset from the console");
    assert!(lines[1].starts_with("[INFO] guest: reset"), "{lines:?}");
    assert!(board.vms[0].is_up());
}

pub(crate) fn vcpus_are_shown_with_what_they_have_done() {
    let mut board = Board::one();
    for _ in 0..3 {
        board.run(|guest| hvc(guest, 0x8600_0001));
    }
    test::type_in(b"\x01i");
    board.run_if(|guest| {
        test::advance(HZ / 2);
        test::interrupt(0, CONSOLE);
        hvc(guest, 0x8600_0001)
    });
    board.soon();
    let lines = log_lines();
    assert_eq!(lines[0], "[INFO] *0 guest: 4 MiB");
    assert!(lines[1].contains("vCPU 0 on CPU 0: runs, 0.5"), "{lines:?}");
    assert!(lines[1].contains(" HVC 4"), "{lines:?}");
    assert_eq!(lines.len(), 2);
}

pub(crate) fn a_vcpu_whose_console_is_full_lets_the_other_run() {
    let mut board = two();
    let put = |guest: &mut test::Guest| data_abort(guest, UART, UART, access(0, 1) | WRITE);
    let turns = |board: &mut Board| {
        let guests = (0..4).filter_map(|_| board.soon());
        guests.map(|guest| guest.vttbr).collect::<BTreeSet<_>>()
    };
    assert_eq!(turns(&mut board).len(), 2);
    test::fill_console(true);
    board.run_if(put);
    test::fill_console(false);
    assert_eq!(turns(&mut board).len(), 1);
    // It goes on by itself.
    test::advance(HZ / 50);
    interrupt(&mut board, HYP_TIMER);
    assert_eq!(turns(&mut board).len(), 2);
    assert_eq!(test::console().len(), 1);
}
