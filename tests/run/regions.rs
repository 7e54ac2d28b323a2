//! Regions: who answers in them, where nothing is, where devices are, and accesses that another VM makes.

use crate::board::{
    Board, MIB, SIGNED, WRITE, access, build, config, data_abort, hvc, log_lines, memory, power_on,
};
use armillary::addr::{Ipa, Pa};
use armillary::fdt::{Module, Range, RegionConfig, Served, VmConfig};
use armillary::machine::test::{self, Event, Guest};
use armillary::machine::{self, Exit};
use armillary::mem;
use armillary::region::Answer;
use armillary::regs::mode;
use armillary::vm::{self, Stop, Unassigned, Vm};
use std::sync::Arc;

const REGION: u32 = 0x0c10_0000;
const RING: Ipa = Ipa(0x0b00_0000);
const ANSWER: u32 = 0x8600_0010;
const REFUSE: u32 = 0x8600_0011;
const SET_LINE: u32 = 0x8600_0012;
const SET_DEVICE_ADDR: u32 = 0x8600_0013;
const START: u32 = 0x8600_0014;
const INVALID: u32 = -3i32 as u32;
const TIMEOUT_US: u32 = 1000;

fn region(name: &str, base: u64, size: u64, [read, write]: [Answer; 2]) -> RegionConfig {
    RegionConfig {
        node: format!("/chosen/a/{name}"),
        name: name.into(),
        ranges: vec![Range {
            start: Pa(base),
            size,
        }],
        read,
        write,
        timeout_us: TIMEOUT_US,
        ..RegionConfig::default()
    }
}

/// A VM on CPU 0 with a region that the VM on CPU 1 is the device model for.
fn pair(posted: bool) -> Board {
    power_on(64 * MIB);
    let mut board = Board::of(2);
    let forwarded = RegionConfig {
        backend: Some("b".into()),
        ring: Some(0),
        posted,
        interrupt: Some(40),
        ..region("device", REGION.into(), 0x100, [Answer::Forward(0); 2])
    };
    let a = VmConfig {
        regions: vec![forwarded],
        ..config("a", 4 * MIB)
    };
    let served = Served {
        region: "a/device".into(),
        size: 0x100,
    };
    let b = VmConfig {
        serves: vec![served],
        ..config("b", 4 * MIB)
    };
    board.add(a, &[0]);
    board.add(b, &[1]);
    vm::connect(&board.vms);
    board.settle();
    board
}

/// One that is alone, with these changes to its description.
fn alone(change: impl FnOnce(&mut VmConfig)) -> Board {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let mut vm = config("a", 4 * MIB);
    change(&mut vm);
    board.add(vm, &[0]);
    vm::connect(&board.vms);
    board.settle();
    board
}

/// Words of the ring.
fn ring(board: &Board, from: u64, count: usize) -> Vec<u32> {
    let bytes = memory(&board.vms[1], Ipa(RING.0 + from), 4 * count);
    let words = bytes.chunks(4);
    words
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

/// A hypercall of the device model: what it answers.
fn call(board: &mut Board, function: u32, arguments: [u32; 3]) -> u32 {
    test::push(move |guest| {
        guest.regs.r[1..4].copy_from_slice(&arguments);
        hvc(guest, function)
    });
    for _ in 0..3 {
        if let Some(guest) = board.next(1) {
            return guest.regs.r[0];
        }
    }
    panic!("the device model does not run");
}

/// An access of the VM on CPU 0, which has to wait.
fn begin(board: &mut Board, step: impl FnOnce(&mut Guest) -> Exit + 'static) {
    test::push(step);
    board.step(0);
    assert_eq!(test::steps_left(), 0);
    assert!(board.next(0).is_none(), "it does not wait");
}

fn load(guest: &mut Guest, at: u32, sas: u32, more: u32) -> Exit {
    guest.regs.r[1] = 0xdead_beef;
    data_abort(guest, at, at, access(sas, 1) | more)
}

fn store(guest: &mut Guest, at: u32, sas: u32, value: u32) -> Exit {
    guest.regs.r[1] = value;
    data_abort(guest, at, at, access(sas, 1) | WRITE)
}

/// How many accesses there were where nothing is, and the first of them.
fn unassigned(board: &Board) -> (u32, Vec<u32>) {
    let Unassigned { count, first } = board.vms[0].lock().unassigned;
    (count, first.into_iter().take(count as usize).collect())
}

fn aborted(guest: &Guest) -> bool {
    guest.regs.cpsr & mode::MASK == mode::ABT
}

pub(crate) fn a_load_is_made_by_the_device_model_and_completed_in_its_width() {
    let mut board = pair(false);
    assert_eq!(ring(&board, 0, 4), [u32::from_le_bytes(*b"ring"), 1, 0, 0]);
    begin(&mut board, |guest| {
        guest.regs.pc = 0x4001_0100;
        load(guest, REGION + 0x42, 1, SIGNED)
    });
    let [kind, tag, offset, value] = ring(&board, 0x40, 4)[..] else {
        panic!("four words")
    };
    assert_eq!((kind, offset, value), (0x200, 0x42, 0));
    assert_eq!(ring(&board, 8, 1), [1]);
    assert_eq!(call(&mut board, ANSWER, [0, tag, 0x1_8001]), 0);
    let guest = board.next(0).expect("it goes on");
    assert_eq!((guest.regs.r[1], guest.regs.pc), (0xffff_8001, 0x4001_0104));
    assert_eq!(
        call(&mut board, ANSWER, [0, tag, 7]),
        INVALID,
        "answered once"
    );
}

pub(crate) fn a_store_waits_for_its_answer_unless_it_is_posted() {
    let mut board = pair(false);
    begin(&mut board, |guest| store(guest, REGION + 4, 0, 0x1ff));
    assert_eq!(ring(&board, 0x40, 1), [0x101]);
    assert_eq!(ring(&board, 0x48, 2), [4, 0xff]);
    let tag = ring(&board, 0x44, 1)[0];
    assert_eq!(call(&mut board, ANSWER, [0, tag, 0]), 0);
    assert!(board.next(0).is_some());
    begin(&mut board, |guest| load(guest, REGION + 4, 0, 0));
    let tag = ring(&board, 0x54, 1)[0];
    assert_eq!(call(&mut board, ANSWER, [0, tag, 0x1ff]), 0);
    assert_eq!(board.next(0).unwrap().regs.r[1], 0xff, "a byte");
}

pub(crate) fn a_posted_store_runs_on_and_asks_for_one_interrupt() {
    let mut board = pair(true);
    test::events();
    for n in 0..3 {
        let guest = board.run(move |guest| store(guest, REGION + 8 * n, 2, n));
        assert!(!aborted(&guest));
    }
    assert_eq!(ring(&board, 8, 1), [3]);
    assert_eq!(
        ring(&board, 0x50, 4),
        [0x402, ring(&board, 0x54, 1)[0], 8, 1]
    );
    let kicks = test::events()
        .into_iter()
        .filter(|event| *event == Event::Kick(1));
    assert!(kicks.count() <= 1);
}

pub(crate) fn interrupts_do_not_end_the_wait_for_a_device_model() {
    let mut board = pair(false);
    begin(&mut board, |guest| load(guest, REGION, 2, 0));
    board.vms[0].wake(1);
    board.vms[0].answer(0x7777, Some(1));
    assert!(board.next(0).is_none() && board.next(0).is_none());
    let tag = ring(&board, 0x44, 1)[0];
    board.vms[0].answer(tag, Some(5));
    assert_eq!(board.next(0).unwrap().regs.r[1], 5);
}

pub(crate) fn an_access_without_an_answer_aborts_in_time() {
    let mut board = pair(false);
    begin(&mut board, |guest| load(guest, REGION, 2, 0));
    let tag = ring(&board, 0x44, 1)[0];
    let frequency = u64::from(machine::wiring().frequency);
    let patience = frequency * u64::from(TIMEOUT_US) / 1_000_000;
    test::advance(patience - 1);
    assert!(board.next(0).is_none());
    test::advance(1);
    let over = (0..3).find_map(|_| board.next(0));
    let guest = over.expect("its time is over");
    assert!(aborted(&guest));
    assert_eq!((guest.regs.r[1], guest.system.dfar), (0xdead_beef, REGION));
    // The answer comes too late, while the next access waits.
    begin(&mut board, |guest| load(guest, REGION + 4, 2, 0));
    assert_eq!(call(&mut board, ANSWER, [0, tag, 1]), INVALID);
    assert!(board.next(0).is_none());
}

pub(crate) fn a_device_model_that_refuses_or_goes_ends_in_an_abort() {
    let mut board = pair(false);
    begin(&mut board, |guest| load(guest, REGION, 2, 0));
    let tag = ring(&board, 0x44, 1)[0];
    assert_eq!(call(&mut board, REFUSE, [0, tag, 0]), 0);
    assert!(aborted(&board.next(0).unwrap()));
    begin(&mut board, |guest| {
        guest.regs.cpsr = mode::SVC;
        load(guest, REGION, 2, 0)
    });
    board.vms[1].stop(Stop::Off);
    board.step(1);
    assert!(aborted(&board.next(0).unwrap()));
    let guest = board.run(|guest| {
        guest.regs.cpsr = mode::SVC;
        load(guest, REGION, 2, 0)
    });
    assert!(aborted(&guest), "nobody is asked any more");
}

pub(crate) fn a_device_model_that_resets_begins_with_an_empty_ring() {
    let mut board = pair(false);
    begin(&mut board, |guest| load(guest, REGION, 2, 0));
    board.vms[1].stop(Stop::Reset);
    for _ in 0..3 {
        board.step(1);
    }
    assert!(aborted(&board.next(0).unwrap()));
    assert_eq!(ring(&board, 8, 2), [0, 0]);
    begin(&mut board, |guest| {
        guest.regs.cpsr = mode::SVC;
        load(guest, REGION + 8, 2, 0)
    });
    assert_eq!(ring(&board, 8, 1), [1]);
    let tag = ring(&board, 0x44, 1)[0];
    assert_eq!(call(&mut board, ANSWER, [0, tag, 9]), 0);
    assert_eq!(board.next(0).unwrap().regs.r[1], 9);
}

pub(crate) fn a_device_model_whose_count_cant_be_is_a_full_ring() {
    let mut board = pair(false);
    let lie = 0xffff_0000u32.to_le_bytes();
    let written = board.vms[1].lock().memory.ram.write(Ipa(RING.0 + 12), &lie);
    written.unwrap();
    let guest = board.run(|guest| load(guest, REGION, 2, 0));
    assert!(aborted(&guest));
}

pub(crate) fn a_device_model_sets_the_line_of_its_device_alone() {
    let mut board = pair(false);
    let pending = |board: &mut Board| {
        let guest = board.run(|guest| load(guest, 0x0800_0204, 2, 0));
        guest.regs.r[1] >> 8 & 1
    };
    assert_eq!(pending(&mut board), 0);
    assert_eq!(call(&mut board, SET_LINE, [0, 1, 0]), 0);
    assert_eq!(pending(&mut board), 1, "interrupt 40 in GICD_ISPENDR1");
    assert_eq!(call(&mut board, SET_LINE, [0, 0, 0]), 0);
    assert_eq!(pending(&mut board), 0);
    assert_eq!(call(&mut board, SET_LINE, [1, 1, 0]), INVALID);
    assert_eq!(call(&mut board, ANSWER, [7, 8, 0]), INVALID);
}

pub(crate) fn an_instruction_of_two_words_is_made_by_two_requests() {
    let mut board = pair(false);
    // LDR r1, [r0], with the MMU's memory type unknown to the device model: off, all is device memory.
    let code = 0xe590_1000u32.to_le_bytes();
    let written = board.vms[0]
        .lock()
        .memory
        .ram
        .write(Ipa(0x4002_0000), &code);
    written.unwrap();
    let guest = board.run(|guest| {
        guest.regs.pc = 0x4002_0000;
        guest.regs.r[0] = REGION + 1;
        data_abort(guest, REGION + 1, REGION + 1, access(2, 1))
    });
    assert!(aborted(&guest), "an alignment fault");
    // LDRD r2, r3, [r0]: two accesses of the device model's.
    let code = 0xe1c0_20d0u32.to_le_bytes();
    let written = board.vms[0]
        .lock()
        .memory
        .ram
        .write(Ipa(0x4002_0000), &code);
    written.unwrap();
    begin(&mut board, |guest| {
        guest.regs.cpsr = mode::SVC;
        guest.regs.pc = 0x4002_0000;
        guest.regs.r[0] = REGION + 8;
        data_abort(guest, REGION + 8, REGION + 8, 7)
    });
    for (n, value) in [(0, 11), (1, 12)] {
        let tag = ring(&board, 0x44 + 16 * n, 1)[0];
        assert_eq!(ring(&board, 0x48 + 16 * n, 1), [8 + 4 * n as u32]);
        assert_eq!(call(&mut board, ANSWER, [0, tag, value]), 0);
        let next = board.next(0);
        if n == 1 {
            let regs = next.expect("it is done").regs;
            assert_eq!((regs.r[2], regs.r[3], regs.pc), (11, 12, 0x4002_0004));
        }
    }
}

pub(crate) fn an_address_where_nothing_is_reads_as_zero_where_the_description_says() {
    let mut board = alone(|vm| vm.unassigned_zero = true);
    let guest = board.run(|guest| load(guest, 0x2000_0004, 2, 0));
    assert_eq!((guest.regs.r[1], aborted(&guest)), (0, false));
    let guest = board.run(|guest| store(guest, 0x2000_0008, 0, 1));
    assert!(!aborted(&guest));
    assert_eq!(unassigned(&board), (2, vec![0x2000_0004, 0x2000_0008]));
}

pub(crate) fn where_nothing_is_aborts_and_is_counted_with_the_first_addresses() {
    let mut board = alone(|_| {});
    for n in 0..10 {
        let guest = board.run(move |guest| {
            guest.regs.cpsr = mode::SVC;
            load(guest, 0x2000_0000 + 4 * n, 2, 0)
        });
        assert!(aborted(&guest));
    }
    let (count, first) = unassigned(&board);
    assert_eq!((count, first.len(), first[7]), (10, 8, 0x2000_001c));
}

pub(crate) fn regions_that_share_a_page_answer_each_for_itself() {
    const IMAGE: Range = Range {
        start: Pa(0x7100_0000),
        size: 0x10,
    };
    test::store(IMAGE.start, &[0x5a; 0x10]);
    // SAFETY: the range is in no RAM that is given out.
    unsafe { mem::reserve_module(IMAGE) };
    let mut board = alone(|vm| {
        let image = Module {
            node: "/chosen/a/rom".into(),
            range: IMAGE,
            shared: false,
        };
        let rom = |name, base, size, write| RegionConfig {
            image: Some(image.clone()),
            ..region(name, base, size, [Answer::Memory, write])
        };
        vm.regions = vec![
            rom("rom", 0x0c20_0010, 0x20, Answer::Abort),
            region("zero", 0x0c20_0030, 0x10, [Answer::Zero; 2]),
            region("abort", 0x0c20_0040, 0x10, [Answer::Abort; 2]),
            rom("whole", 0x0c20_1000, 0x1000, Answer::Zero),
        ];
    });
    let mut get = |at, sas| {
        let guest = board.run(move |guest| {
            guest.regs.cpsr = mode::SVC;
            load(guest, at, sas, 0)
        });
        (!aborted(&guest)).then_some(guest.regs.r[1])
    };
    assert_eq!(get(0x0c20_0010, 2), Some(0x5a5a_5a5a));
    assert_eq!(get(0x0c20_0020, 0), Some(0), "behind the image");
    assert_eq!(get(0x0c20_0030, 2), Some(0));
    assert_eq!(get(0x0c20_0040, 2), None);
    assert_eq!(get(0x0c20_000c, 2), None, "nothing is there");
    assert_eq!(get(0x0c20_0050, 1), None);
    let mut put = |at| {
        let guest = board.run(move |guest| {
            guest.regs.cpsr = mode::SVC;
            store(guest, at, 2, 1)
        });
        !aborted(&guest)
    };
    assert!(!put(0x0c20_0010) && put(0x0c20_0034) && !put(0x0c20_0044));
    assert_eq!(memory(&board.vms[0], Ipa(0x0c20_0010), 4), [0x5a; 4]);
    assert_eq!(memory(&board.vms[0], Ipa(0x0c20_1000), 1), [0x5a]);
}

pub(crate) fn regions_that_overlap_are_refused_with_both_names() {
    power_on(64 * MIB);
    let mut vm = config("a", 4 * MIB);
    vm.regions = vec![region("wrong", 0x0900_0ffc, 8, [Answer::Zero; 2])];
    let why = Vm::build(vm, &[0]).err().expect("refused").to_string();
    assert_eq!(
        why,
        "/chosen/a: a region is /chosen/a/wrong at 0x9000ffc, which overlaps the UART at 0x9000000; \
         put one of them elsewhere"
    );
}

pub(crate) fn a_backend_that_there_is_not_is_said_and_aborts() {
    power_on(64 * MIB);
    let mut vm = config("a", 4 * MIB);
    vm.regions = vec![RegionConfig {
        backend: Some("nobody".into()),
        ..region("device", REGION.into(), 0x100, [Answer::Forward(0); 2])
    }];
    log_lines();
    let (mut board, built) = build(vec![vm], 1);
    assert_eq!(built, 1);
    let said = "[ERROR] /chosen/a/device: armillary,backend is nobody, which is no VM with a ring left: it aborts";
    assert!(log_lines().iter().any(|line| line == said));
    board.settle();
    assert!(aborted(&board.run(|guest| load(guest, REGION, 2, 0))));
}

/// A VM with control on CPU 0 and one that is held, built as the image does.
fn held(control: bool) -> (Board, Arc<Vm>) {
    power_on(64 * MIB);
    let a = VmConfig {
        control,
        ..config("a", 4 * MIB)
    };
    let b = VmConfig {
        hold: true,
        ..config("b", 4 * MIB)
    };
    let (mut board, built) = build(vec![a, b], 2);
    assert_eq!(built, 2);
    board.settle();
    let held = vm::all().into_iter().find(|vm| vm.name() == "b").unwrap();
    (board, held)
}

/// SET_DEVICE_ADDR of the VM on CPU 0 for VM `vm`.
fn place(board: &mut Board, vm: u32, id: u32, address: u64) -> i32 {
    let guest = board.run(move |guest| {
        guest.regs.r[1..5].copy_from_slice(&[vm, id, address as u32, (address >> 32) as u32]);
        hvc(guest, SET_DEVICE_ADDR)
    });
    guest.regs.r[0] as i32
}

pub(crate) fn a_vm_with_control_places_devices_of_one_that_is_held() {
    let (mut board, held) = held(true);
    assert!(board.next(1).is_none(), "it is held");
    for (vm, id, address, expected) in [
        (held.id, 9 << 16, 0x1000, -19),
        (held.id, 1 << 16 | 1, 0x1000, -6),
        (held.id, 0, 1 << 32, -7),
        (held.id, 0, 0x1004, -22),
        (held.id, 0, 0x4000_0000, -22),
        (held.id, 0, 0x0d00_0000, 0),
        (held.id, 0, 0x0d00_0000, -17),
        (held.id, 1 << 16, 0x0d00_1000, 0),
        (77, 0, 0x0d00_0000, -3),
        (0, 0, 0x0d00_0000, -16),
    ] {
        assert_eq!(
            place(&mut board, vm, id, address),
            expected,
            "{id:#x} at {address:#x}"
        );
    }
    let guest = board.run(move |guest| {
        guest.regs.r[1] = 1;
        hvc(guest, START)
    });
    assert_eq!(guest.regs.r[0], 0);
    let begun = (0..3).find_map(|_| board.next(1)).expect("it begins");
    assert_eq!(place(&mut board, held.id, 2 << 16, 0x0d00_2000), -16);
    // Its tree says where things are, and they are there.
    let tree = memory(&held, Ipa(begun.regs.r[2].into()), 8192);
    let says = |text: &[u8]| tree.windows(text.len()).any(|bytes| bytes == text);
    assert!(says(b"intc@d000000\0") && says(b"pl011@d001000\0") && says(b"/pl011@d001000\0"));
    test::push(|guest| load(guest, 0x0d00_1018, 2, 0));
    let guest = board.next(1).unwrap();
    assert_eq!(guest.regs.r[1] & 0x90, 0x90, "the UART's flags");
    test::push(|guest| load(guest, 0x0900_0018, 2, 0));
    assert!(aborted(&board.next(1).unwrap()));
}

pub(crate) fn a_vm_without_control_places_nothing() {
    let (mut board, held) = held(false);
    assert_eq!(place(&mut board, held.id, 0, 0x0d00_0000), -1);
}
