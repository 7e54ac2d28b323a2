//! What is typed, and what a full console does.

use crate::board::{Board, MIB, WRITE, access, config, data_abort, hvc, log_lines, power_on};
use armillary::machine::Exit;
use armillary::machine::test::{self, Event};
use armillary::vm::Vm;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

const UART: u32 = 0x0900_0000;
/// The console's interrupt, and the Hyp timer's.
const CONSOLE: u32 = 33;
const HYP_TIMER: u32 = 26;
const OFF: u32 = 0x8400_0008;
const HZ: u64 = 62_500_000;

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
    let mut board = Board::two();
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
        ["[INFO] input goes to b", "[INFO] input goes to a",]
    );
    assert_eq!(test::said(), ["there is no VM 5: Ctrl-A i shows them"]);
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
    let mut board = Board::two();
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
    let mut board = Board::two();
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
    let lines = test::said();
    assert_eq!(lines[0], "*0 guest: 4 MiB, 1 vCPUs, on");
    assert!(lines[1].contains("vCPU 0 on CPU 0: runs, 0.5"), "{lines:?}");
    assert!(lines[1].contains(" HVC 4"), "{lines:?}");
    assert_eq!(lines.len(), 2);
}

pub(crate) fn a_vcpu_whose_console_is_full_lets_the_other_run() {
    let mut board = Board::two();
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

/// What the shell answers to `line`, without the line itself.
fn answer(board: &mut Board, line: &str) -> Vec<String> {
    test::said();
    typed(board, format!("{line}\r").as_bytes());
    for _ in 0..4 {
        board.soon();
    }
    let mut said = test::said();
    assert_eq!(said.remove(0), format!("armillary> {line}"));
    said
}

/// Two VMs, of one and of two vCPUs, and the shell open.
fn shell() -> Board {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    board.add(config("alpha", 4 * MIB), &[0]);
    board.add(config("beta", 8 * MIB), &[0, 0]);
    board.settle();
    typed(&mut board, b"\x01h");
    assert_eq!(
        test::said(),
        ["help shows what can be typed; exit or Ctrl-A h leaves"]
    );
    assert_eq!(test::prompt(), "armillary> ");
    board
}

pub(crate) fn the_shell_has_what_is_typed_until_it_is_left() {
    let mut board = shell();
    let vms = board.vms.clone();
    typed(&mut board, b"lis");
    assert_eq!(test::prompt(), "armillary> lis");
    typed(&mut board, b"\x1b[D\x7f");
    assert_eq!(test::prompt(), "armillary> ls\x08");
    typed(&mut board, b"\x03");
    assert!(answer(&mut board, "exit").contains(&"input goes to alpha".into()));
    assert_eq!(test::prompt(), "");
    assert!(received(&vms[0]).is_empty());
    typed(&mut board, b"a\x01hb\x01hc\x01hd\x011e");
    assert_eq!(test::prompt(), "");
    assert_eq!(received(&vms[0]), b"ac");
    assert_eq!(received(&vms[1]), b"e");
    // Without a line that was not complete: it is there again.
    typed(&mut board, b"\x01h");
    assert_eq!(test::prompt(), "armillary> bd");
}

pub(crate) fn the_shell_shows_vms_and_their_vcpus() {
    let mut board = shell();
    let vms = [
        "*0 alpha: 4 MiB, 1 vCPUs, on",
        " 1 beta: 8 MiB, 2 vCPUs, on",
    ];
    assert_eq!(answer(&mut board, "list"), vms);
    for line in ["info beta", "inf 1", "info  be "] {
        let lines = answer(&mut board, line);
        assert_eq!(lines[0], vms[1]);
        assert!(lines[1].starts_with("    vCPU 0 on CPU 0: "), "{lines:?}");
        assert!(
            lines[2].starts_with("    vCPU 1 on CPU 0: off"),
            "{lines:?}"
        );
        assert_eq!(lines.len(), 3);
    }
    let lines = answer(&mut board, "stats");
    assert_eq!([&lines[0], &lines[2]], vms);
    assert_eq!(lines.len(), 5);
}

pub(crate) fn the_shell_hints_at_what_was_meant() {
    let mut board = shell();
    let cases = [
        ("lsit", "lsit: list, perhaps?"),
        ("info bata", "bata: beta, perhaps?"),
        ("i beta", "i: info or irq?"),
        ("info omikron", "omikron: no such VM: list shows them"),
        ("info 2", "2: no such VM: list shows them"),
        ("frobnicate", "frobnicate: no such word: help shows them"),
        (
            "log loud",
            "loud: no such level: off, error, warn, info, debug or trace",
        ),
        (
            "info",
            "info    VM        a VM and its vCPUs, with their exits by kind",
        ),
        ("list all", "list              the VMs"),
        ("regs alpha x", "regs    VM [VCPU] a vCPU's registers"),
        ("regs alpha 1", "alpha has 1 vCPUs"),
    ];
    for (line, hint) in cases {
        assert_eq!(answer(&mut board, line), [hint]);
    }
    assert!(answer(&mut board, "").is_empty());
    assert_eq!(answer(&mut board, "help").len(), 16);
    assert_eq!(
        answer(&mut board, "help log"),
        ["log     [LEVEL]   show or set the log's level"]
    );
}

pub(crate) fn the_shell_completes_words_and_names() {
    let mut board = shell();
    typed(&mut board, b"inf\t");
    assert_eq!(test::prompt(), "armillary> info ");
    typed(&mut board, b"\t");
    assert_eq!(test::said(), ["alpha beta "]);
    typed(&mut board, b"b\t");
    assert_eq!(test::prompt(), "armillary> info beta ");
    typed(&mut board, b"\t\x03re\t\t");
    assert_eq!(test::said(), ["resume reset regs reboot "; 2]);
    typed(&mut board, b"su\tzz\t");
    assert_eq!(test::prompt(), "armillary> resume zz");
    assert!(test::said().is_empty());
}

pub(crate) fn registers_are_shown_of_the_vcpu_that_is_loaded_and_of_another() {
    let mut board = shell();
    // One of the two vCPUs that run.
    board.run(|guest| {
        guest.regs.r[3] = 0x0123_4567;
        guest.regs.cpsr = guest.regs.cpsr & !0x1f | 0x12;
        guest.set_banked(armillary::regs::Banked::SpIrq, 0x89ab_cdef);
        guest.system.dfar = 0xdead_0000;
        guest.system.ttbr0 = 0x4000_4000;
        hvc(guest, 0x8600_0001)
    });
    let vms = board.vms.clone();
    let all: Vec<_> = ["alpha", "beta"]
        .map(|name| answer(&mut board, &format!("regs {name}")))
        .to_vec();
    let changed = usize::from(!all[0].join("\n").contains("89abcdef"));
    let name = |n: usize| vms[n].name();
    assert_eq!(
        all[changed][0],
        format!("{} vCPU 0: IRQ mode", name(changed))
    );
    assert!(
        all[changed][1].starts_with("r0-r3                  0"),
        "{all:?}"
    );
    assert!(all[changed][1].ends_with(" 01234567"), "{all:?}");
    assert_eq!(all[changed][4].split(' ').rev().nth(2), Some("89abcdef"));
    assert!(
        all[changed][6].ends_with(" 00000000 40004000 00000000 00000000"),
        "{all:?}"
    );
    assert!(
        all[changed][7].ends_with(" dead0000 00000000 00000000"),
        "{all:?}"
    );
    let other = 1 - changed;
    assert_eq!(
        all[other][0],
        format!("{} vCPU 0: Supervisor mode", name(other))
    );
    assert!(!all[1 - changed].join("\n").contains("89abcdef"));
    // They go on as if nothing had been; one that is off can be asked, too.
    assert!(answer(&mut board, "regs beta 1")[0].starts_with("beta vCPU 1"));
    assert_eq!(running(&mut board), ["alpha", "beta"]);
}

pub(crate) fn the_shell_resets_and_ends_one_vm() {
    let mut board = shell();
    let vms = board.vms.clone();
    answer(&mut board, "reset beta");
    assert_eq!(log_lines()[0], "[INFO] beta: reset from the console");
    assert!(vms[1].is_up());
    answer(&mut board, "destroy beta");
    assert!(!vms[1].is_up());
    assert!(vms[0].is_up());
    assert_eq!(answer(&mut board, "reset beta"), ["beta is off"]);
    assert_eq!(answer(&mut board, "console beta"), ["beta is off"]);
    assert_eq!(test::prompt(), "armillary> ");
    answer(&mut board, "console alpha");
    typed(&mut board, b"x");
    assert_eq!(received(&vms[0]), b"x");
}

/// The names of the VMs of which something runs in a few turns.
fn running(board: &mut Board) -> Vec<String> {
    let ran = Rc::new(RefCell::new(BTreeSet::new()));
    for _ in 0..12 {
        let ran = ran.clone();
        board.run_if(move |guest| {
            ran.borrow_mut().insert(guest.vttbr);
            test::advance(HZ / 100);
            test::interrupt(0, HYP_TIMER);
            Exit::Irq
        });
    }
    let vms = board.vms.iter();
    let runs = vms.filter(|vm| ran.borrow().contains(&vm.vttbr(0)));
    runs.map(|vm| vm.name().to_owned()).collect()
}

pub(crate) fn the_shell_pauses_resumes_and_starts_a_vm() {
    let mut board = shell();
    assert_eq!(running(&mut board), ["alpha", "beta"]);
    assert_eq!(answer(&mut board, "pause 1"), ["beta is paused"]);
    assert_eq!(running(&mut board), ["alpha"]);
    assert_eq!(answer(&mut board, "start 1"), ["beta is paused"]);
    assert!(answer(&mut board, "list")[1].ends_with(", paused"));
    assert!(answer(&mut board, "regs beta")[0].starts_with("beta vCPU 0"));
    assert_eq!(running(&mut board), ["alpha"]);
    assert_eq!(answer(&mut board, "resume beta"), ["beta is on"]);
    assert_eq!(running(&mut board), ["alpha", "beta"]);
    assert_eq!(answer(&mut board, "start beta"), ["beta is on"]);
    board.vms[1].stop(armillary::vm::Stop::Off);
    assert_eq!(running(&mut board), ["alpha"]);
    assert!(answer(&mut board, "list")[1].ends_with(", off"));
    // Off it can't be paused, or it would be so when it starts.
    assert_eq!(answer(&mut board, "pause beta"), ["beta is off"]);
    answer(&mut board, "start beta");
    assert_eq!(running(&mut board), ["alpha", "beta"]);
}

pub(crate) fn memory_and_interrupts_are_shown() {
    let mut board = shell();
    let lines = answer(&mut board, "mem");
    let free = armillary::mem::free_bytes() / 1024;
    assert_eq!(lines[0], format!("free        {free:8} KiB"));
    assert_eq!(lines[2], "alpha           4096 KiB");
    assert_eq!(lines[3], "beta            8192 KiB");
    let _ = board.vms[1].lock().gic.pulse(0, 40);
    let enable = |guest: &mut test::Guest| {
        guest.regs.r[0] = 3 << 8;
        data_abort(guest, 0x0800_0104, 0x0800_0104, access(2, 0) | WRITE)
    };
    board.run(enable);
    let lines = answer(&mut board, "irq");
    assert_eq!(
        lines[..2],
        [
            "kick 0, maintenance 25, Hyp timer 26, virtual timer 27",
            "console 33"
        ]
    );
    let shared: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("shared"))
        .collect();
    assert_eq!(shared.len(), 1, "{lines:?}");
    assert!(
        shared[0].starts_with("    shared: enabled 40-41 "),
        "{lines:?}"
    );
    assert!(lines.contains(&"    vCPU 1: enabled 0-15 pending - active -".into()));
}

pub(crate) fn the_log_has_the_level_that_is_set() {
    let mut board = shell();
    assert_eq!(answer(&mut board, "log"), ["info"]);
    assert_eq!(answer(&mut board, "log w"), ["warn"]);
    answer(&mut board, "reset alpha");
    assert!(log_lines().is_empty());
    assert_eq!(answer(&mut board, "log trace"), ["trace"]);
}

pub(crate) fn the_machine_is_reset_from_the_shell() {
    let mut board = shell();
    test::type_in(b"reboot\r");
    test::interrupt(0, CONSOLE);
    test::push(|_| Exit::Irq);
    let ends: Vec<_> = (0..4).map(|_| board.step(0)).collect();
    assert!(ends.contains(&test::End::Reset), "{ends:?}");
}
