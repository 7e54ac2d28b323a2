//! A VM from its description to its end.

use crate::board::{
    Board, ENTRY, MIB, RAM, WRITE, access, build, config, data_abort, hsr, hvc, kernel, log_lines,
    memory, power_on,
};
use armillary::addr::{Ipa, Pa};
use armillary::fdt::Range;
use armillary::machine::Exit;
use armillary::machine::test::{self, End, Event, Guest};
use armillary::mem;
use armillary::psci;
use armillary::regs::{mode, psr};
use armillary::vm::Vm;
use std::collections::BTreeMap;

const UART: u32 = 0x0900_0000;
const IBRD: u32 = UART + 0x24;
const CPU_OFF: u32 = 0x8400_0002;
const OFF: u32 = 0x8400_0008;
const RESET: u32 = 0x8400_0009;
/// Where guests' RAM begins.
const START: Ipa = Ipa(0x4000_0000);

fn is_off(vm: &Vm) -> bool {
    vm.lock().power.all_off()
}

/// Whether the guest is as its kernel wants it at the start.
fn assert_started(vm: &Vm, guest: &Guest) {
    assert_eq!(u64::from(guest.regs.pc), ENTRY.0);
    assert_eq!(guest.regs.cpsr, mode::SVC | psr::A | psr::I | psr::F);
    assert_eq!(guest.regs.r[..2], [0, u32::MAX]);
    assert_eq!(guest.regs.r[3..], [0; 10]);
    assert_eq!(guest.system.sctlr & 5, 0, "MMU and caches are off");
    let tree = memory(vm, Ipa(guest.regs.r[2].into()), 4);
    assert_eq!(tree, [0xd0, 0x0d, 0xfe, 0xed]);
    assert_eq!(memory(vm, ENTRY, kernel().len()), kernel());
}

fn extents(vm: &Vm) -> Vec<(Pa, u64)> {
    let state = vm.lock();
    let pieces = state.memory.ram.extents().iter();
    pieces.map(|piece| (piece.pa, piece.size)).collect()
}

fn all_zero(pieces: &[(Pa, u64)]) -> bool {
    pieces.iter().all(|&(pa, size)| {
        let mut bytes = vec![1; size as usize];
        test::read(pa, &mut bytes);
        bytes.iter().all(|&byte| byte == 0)
    })
}

fn nothing_cached(vm: &Vm) -> bool {
    extents(vm)
        .iter()
        .all(|&(pa, size)| !test::is_cached(pa, size))
}

pub(crate) fn a_vm_starts_as_its_kernel_wants() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let vm = board.add(config("guest", 4 * MIB), &[0]);
    let guest = board.soon().expect("the guest");
    assert_started(&vm, &guest);
}

pub(crate) fn a_new_vm_finds_nothing_of_what_memory_held() {
    power_on(64 * MIB);
    let before = Vm::build(config("before", 4 * MIB), &[0]).unwrap();
    for at in (START.0..START.0 + 4 * MIB).step_by(0x1000) {
        before
            .lock()
            .memory
            .ram
            .write(Ipa(at), &[0x5a; 0x1000])
            .unwrap();
    }
    drop(before);
    let vm = Vm::build(config("guest", 4 * MIB), &[0]).unwrap();
    assert!(nothing_cached(&vm));
    let end = ENTRY.0 + kernel().len() as u64;
    let last = START.0 + 4 * MIB - 0x1000;
    for (at, size) in [(START.0, 0x1_0000), (end, 0x1000), (last, 0x1000)] {
        let bytes = memory(&vm, Ipa(at), size);
        assert!(bytes.iter().all(|&byte| byte == 0), "{at:#x}");
    }
}

pub(crate) fn what_is_loaded_can_be_seen_with_caches_off() {
    let mut board = Board::one();
    assert!(nothing_cached(&board.vms[0]));
    board.run_if(|guest| hvc(guest, RESET));
    board.soon().expect("the guest, anew");
    assert!(nothing_cached(&board.vms[0]));
}

/// A zImage that unpacks to 1 MiB, in whole pages and a bit: where its kernel's size says.
fn zimage() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..0x2_1234).map(|n| (n >> 8 | 1) as u8).collect();
    let words = [
        (0x24, 0x016f_2818),
        (0x28, 0),
        (0x2c, 0x2_1234),
        (0x34, 0x4545_4545),
        (0x38, 0x40),
        (0x40, 4),
        (0x44, 0x5a53_4c4b),
        (0x48, 0x80),
        (0x4c, 0),
        (0x80, 0x10_0000),
    ];
    for (at, word) in words {
        let word: u32 = word;
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

pub(crate) fn a_kernel_is_used_where_it_lies_until_the_guest_writes_to_it() {
    const MODULE: Pa = Pa(0x7100_0000);
    const AT: u32 = 0x4031_0000;
    power_on(64 * MIB);
    let range = Range {
        start: MODULE,
        size: zimage().len() as u64,
    };
    test::store(MODULE, &zimage());
    // SAFETY: the range is in no RAM that is given out.
    unsafe { mem::reserve_module(range) };
    let mut config = config("guest", 16 * MIB);
    config.kernel.as_mut().unwrap().range = range;
    let mut board = Board::of(1);
    let vm = board.add(config, &[0]);
    let guest = board.soon().expect("the guest");
    assert_eq!(guest.regs.pc, AT);
    let pa = |at: u32| {
        let found = vm.lock().memory.space.translate(Ipa(at.into()));
        let (pa, attrs) = found.expect("RAM");
        (pa, attrs.perms.write)
    };
    let lent = |at: u32| (Pa(MODULE.0 + u64::from(at - AT)), false);
    let all = zimage();
    for life in 0..2 {
        assert!(memory(&vm, Ipa(AT.into()), all.len()) == all, "{life}");
        for at in [AT, AT + 0x1_0000, AT + 0x2_0000] {
            assert_eq!(pa(at), lent(at));
        }
        // The bit behind the last whole page lies beside what is not the kernel's.
        assert!(pa(AT + 0x2_1000).1);

        // A store there, which is a permission fault; by stage 1 as it is with the MMU off.
        let at = AT + 0x1_2344;
        let guest =
            board.run(move |guest| data_abort(guest, at, 0, access(2, 1) & !0xf | 0xf | WRITE));
        assert_eq!(guest.regs.pc, AT, "tried again");
        assert_eq!(pa(AT), lent(AT));
        let (own, writable) = pa(at);
        assert!(writable && own != lent(at).0);
        assert!(memory(&vm, Ipa(AT.into()), all.len()) == all);
        vm.lock().memory.ram.write(Ipa(at.into()), b"own").unwrap();
        assert!(vm.lock().memory.ram.write(Ipa(AT.into()), b"own").is_err());
        board.run_if(|guest| hvc(guest, RESET));
        board.soon().expect("the guest, anew");
    }
    let mut module = vec![0; all.len()];
    test::read(MODULE, &mut module);
    assert!(module == all);
}

pub(crate) fn a_vm_that_resets_begins_anew() {
    let mut board = Board::one();
    let vm = board.vms[0].clone();
    board.run(|guest| {
        guest.system.sctlr |= 5;
        guest.system.vbar = 0x4100_0000;
        guest.system.abort_pending = true;
        guest.regs.r = [9; 13];
        data_abort(guest, IBRD, IBRD, access(1, 1) | WRITE)
    });
    let at = Ipa(START.0 + 3 * MIB + 0x123);
    vm.lock().memory.ram.write(at, b"secret").unwrap();
    vm.lock().memory.ram.write(ENTRY, b"gone").unwrap();
    assert!(board.run_if(|guest| hvc(guest, RESET)).is_none());
    let guest = board.soon().expect("the guest, anew");
    assert_started(&vm, &guest);
    assert_eq!(guest.system.vbar, 0);
    assert!(!guest.system.abort_pending);
    assert_eq!(memory(&vm, at, 6), [0; 6]);
    let divisor = board.run(|guest| data_abort(guest, IBRD, IBRD, access(1, 1)));
    assert_eq!(divisor.regs.r[1], 0, "the UART is new too");
    let lines = log_lines();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("[INFO] guest: reset ("), "{lines:?}");
}

pub(crate) fn a_vm_that_resets_has_a_new_interrupt_controller() {
    const GICD_ISENABLER1: u32 = 0x0800_0104;
    let mut board = Board::one();
    let mut enabled = |value: u32| {
        let after = board.run(move |guest| {
            guest.regs.r[1] = value;
            let write = if value != 0 { WRITE } else { 0 };
            let at = GICD_ISENABLER1;
            data_abort(guest, at, at, access(2, 1) | write)
        });
        after.regs.r[1]
    };
    enabled(0b110);
    assert_eq!(enabled(0), 0b110);
    board.run_if(|guest| hvc(guest, RESET));
    board.soon().expect("the guest, anew");
    let after =
        board.run(|guest| data_abort(guest, GICD_ISENABLER1, GICD_ISENABLER1, access(2, 1)));
    assert_eq!(after.regs.r[1], 0);
}

pub(crate) fn a_vcpu_starts_by_cpu_on_and_stops_by_cpu_off() {
    const CPU_ON: u32 = 0x8400_0003;
    const ALREADY_ON: u32 = -4i32 as u32;
    power_on(64 * MIB);
    let mut board = Board::of(2);
    board.add(config("guest", 4 * MIB), &[0, 1]);
    board.settle();
    let cpu_on = |board: &mut Board| {
        let after = board.run(|guest| {
            guest.regs.r[1..4].copy_from_slice(&[1, 0x4001_0101, 0x77]);
            hvc(guest, CPU_ON)
        });
        after.regs.r[0]
    };
    assert_eq!(cpu_on(&mut board), 0);
    let second = board.next(1).expect("the second vCPU");
    assert_eq!((second.regs.pc, second.regs.r[0]), (0x4001_0100, 0x77));
    assert!(second.regs.thumb());
    assert_eq!(cpu_on(&mut board), ALREADY_ON);
    test::push(|guest| hvc(guest, CPU_OFF));
    assert_eq!(board.step(1), End::Returned);
    assert!(board.next(1).is_none());
    assert!(board.next(0).is_some(), "the first goes on");
    assert_eq!(cpu_on(&mut board), 0);
    assert!(board.next(1).is_some());
}

/// A machine of which nothing is asked but whether a vCPU may start somewhere.
struct AllRam;

impl psci::Platform for AllRam {
    fn is_memory(&self, _: u32) -> bool {
        true
    }

    fn workaround_1(&self) -> psci::Workaround {
        psci::Workaround::NotSupported
    }

    fn workaround_3(&self) -> psci::Workaround {
        psci::Workaround::NotSupported
    }
}

pub(crate) fn a_vcpu_that_starts_while_its_vm_resets_stops() {
    const CPU_ON: u32 = 0x8400_0003;
    power_on(64 * MIB);
    let mut board = Board::of(2);
    let vm = board.add(config("guest", 4 * MIB), &[0, 1]);
    board.settle();
    // CPU_ON has been answered, and the vCPU is asked to stop before it is asked to start.
    psci::call(CPU_ON, [1, 0, 0], 0, &mut vm.lock().power, &mut AllRam);
    vm.stop(armillary::vm::Stop::Reset);
    assert!(board.next(1).is_none());
    vm.start_vcpu(1, armillary::loader::Start::default());
    assert!(board.next(1).is_none());
    for _ in 0..4 {
        board.step(0);
        board.step(1);
    }
    let lines = log_lines();
    assert!(lines[0].starts_with("[INFO] guest: reset ("), "{lines:?}");
}

/// Whether CPU 0 powers the machine off within a few turns.
fn powers_off(board: &mut Board) -> bool {
    (0..4).any(|_| board.step(0) == End::PoweredOff)
}

pub(crate) fn the_last_vm_off_powers_the_machine_off() {
    let mut board = Board::two();
    let vms = board.vms.clone();
    test::push(|guest| hvc(guest, OFF));
    while test::steps_left() > 0 {
        assert_ne!(board.step(0), End::PoweredOff);
    }
    let off: Vec<bool> = vms.iter().map(|vm| is_off(vm)).collect();
    assert_eq!(off.iter().filter(|&&off| off).count(), 1);
    let left = board.soon().expect("the VM that is left");
    assert!(
        vms.iter()
            .any(|vm| !is_off(vm) && vm.vttbr(0) == left.vttbr)
    );
    test::push(|guest| hvc(guest, OFF));
    assert!(powers_off(&mut board));
    assert!(vms.iter().all(|vm| all_zero(&extents(vm))), "scrubbed");
    let lines = log_lines();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2], "[INFO] every VM is off");
}

pub(crate) fn cpu_off_of_the_only_vcpu_ends_the_vm() {
    let mut board = Board::one();
    test::push(|guest| hvc(guest, CPU_OFF));
    assert!(powers_off(&mut board));
    let lines = log_lines();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("[INFO] guest: off ("), "{lines:?}");
    assert_eq!(lines[1], "[INFO] every VM is off");
}

pub(crate) fn a_vm_that_crashes_leaves_the_others_running() {
    let mut board = Board::two();
    let crashed = board.soon().expect("a guest");
    board.soon().expect("the other guest");
    assert!(
        board
            .run_if(|guest| {
                guest.regs.pc = 0x4001_0770;
                // A class that is reserved.
                guest.trap(hsr(0x3e, 0))
            })
            .is_none()
    );
    for _ in 0..4 {
        let next = board.soon().expect("the other guest");
        assert_ne!(next.vttbr, crashed.vttbr);
        let answer = board.run(|guest| hvc(guest, 0x8600_0001));
        assert_eq!(answer.regs.r[0], 0);
    }
    let lines = log_lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("vCPU 0 stopped at 0x40010770: reserved exception class 0x3e"));
    assert!(lines[1].contains(": off ("), "{lines:?}");
    let gone = board.vms.iter().filter(|vm| is_off(vm)).count();
    assert_eq!(gone, 1);
}

pub(crate) fn console_lines_carry_the_name_while_there_are_several_vms() {
    let mut board = Board::two();
    let put = |guest: &mut Guest| -> Exit {
        guest.regs.r[1] = u32::from(b'x');
        data_abort(guest, UART, UART, access(0, 1) | WRITE)
    };
    board.run(put);
    board.run(put);
    let written = test::console();
    let ids: Vec<usize> = board.vms.iter().map(|vm| vm.writer).collect();
    for (writer, prefix, byte) in &written {
        let place = ids.iter().position(|id| id == writer).unwrap();
        assert!(prefix.contains(["a:", "b:"][place]), "{prefix:?}");
        assert_eq!(*byte, b'x');
    }
    assert_eq!(written.len(), 2);
    assert_ne!(written[0].0, written[1].0);
    // With one of them off, the other has the console to itself.
    board.run_if(|guest| hvc(guest, OFF));
    board.soon();
    board.run(put);
    assert_eq!(test::console()[0].1, "");
}

pub(crate) fn vmids_that_run_out_begin_anew_with_one_flush() {
    power_on(256 * MIB);
    let mut board = Board::of(1);
    for n in 0..300 {
        board.add(config(&format!("vm{n}"), 256 << 10), &[0]);
    }
    test::events();
    for _ in 0..700 {
        board.step(0);
    }
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut loads, mut flushes) = (0, 0);
    for event in test::events() {
        match event {
            Event::FlushAll => {
                flushes += 1;
                known.clear();
            }
            Event::Load { vttbr, .. } => {
                loads += 1;
                let (vmid, root) = (vttbr >> 48, vttbr & 0xffff_ffff);
                assert_ne!(vmid, 0);
                assert_eq!(*known.entry(vmid).or_insert(root), root, "VMID {vmid}");
            }
            _ => {}
        }
    }
    assert!(loads >= 600);
    // 255 at first, then 254 at a time: one stays with the VM that was loaded.
    assert_eq!(flushes, (loads - 255usize).div_ceil(254));
}

pub(crate) fn a_vm_that_wants_too_much_memory_is_refused_by_name_and_nothing_is_lost() {
    power_on(64 * MIB);
    let free = mem::free_bytes();
    assert_eq!(free, 64 * MIB);
    let refused = |config| match Vm::build(config, &[0]) {
        Ok(_) => panic!("there is no such memory"),
        Err(why) => why.to_string(),
    };
    let why = refused(config("big", 65 * MIB));
    assert_eq!(
        why,
        "/chosen/big: memory is 66560 KiB, of which the board has only 65536 KiB left; \
         give this VM or one before it less"
    );
    assert_eq!(mem::free_bytes(), free);
    let why = refused(config("huge", 4096 * MIB));
    assert!(
        why.starts_with("/chosen/huge: memory is 4194304 KiB"),
        "{why}"
    );
    // There is room for RAM, but not for what lies beside it.
    let mut firmware = config("firmware", 64 * MIB);
    firmware.firmware = firmware.kernel.take();
    let why = refused(firmware);
    assert!(
        why.starts_with("/chosen/firmware: memory is 65544 KiB"),
        "{why}"
    );
    assert_eq!(mem::free_bytes(), free);
    // And for a kernel that is none.
    let mut absent = config("absent", 4 * MIB);
    absent.kernel.as_mut().unwrap().range = Range {
        start: Pa(0x7100_0000),
        size: 0x1000,
    };
    let why = refused(absent);
    assert!(why.starts_with("/chosen/absent/kernel: kernel is"), "{why}");
    assert_eq!(mem::free_bytes(), free);
    // All of it is still in one piece.
    let all = Vm::build(config("all", 64 * MIB), &[0]).unwrap();
    assert_eq!(extents(&all), [(RAM, 64 * MIB)]);
}

pub(crate) fn what_cant_be_built_is_logged_and_the_others_start() {
    power_on(64 * MIB);
    let configs = vec![
        config("first", 4 * MIB),
        config("big", 1024 * MIB),
        config("second", 4 * MIB),
    ];
    let (mut board, built) = build(configs, 2);
    assert_eq!(built, 2);
    let lines = log_lines();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("[ERROR] /chosen/big: memory is 1048576 KiB"));
    let kicks = test::events();
    for cpu in 0..2 {
        assert!(kicks.contains(&Event::Kick(cpu)));
        board.step(cpu);
        let guest = board.next(cpu).expect("a VM on each CPU");
        assert_eq!(u64::from(guest.regs.pc), ENTRY.0);
    }
}

pub(crate) fn a_vm_that_is_dropped_scrubs_its_memory_and_gives_it_back() {
    power_on(64 * MIB);
    let vm = Vm::build(config("guest", 5 * MIB), &[0]).unwrap();
    let pieces = extents(&vm);
    assert_eq!(pieces.iter().map(|(_, size)| size).sum::<u64>(), 5 * MIB);
    assert_eq!(mem::free_bytes(), 59 * MIB);
    assert!(!all_zero(&pieces));
    test::events();
    drop(vm);
    assert!(all_zero(&pieces));
    assert_eq!(mem::free_bytes(), 64 * MIB);
    let events = test::events();
    let zeroed = events.iter().filter_map(|event| match event {
        Event::Zero { size, .. } => Some(*size),
        _ => None,
    });
    assert_eq!(zeroed.sum::<u64>(), 5 * MIB, "each byte once");
}

pub(crate) fn a_vm_that_is_destroyed_leaves_nothing() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let stays = board.add(config("stays", 4 * MIB), &[0]);
    board.settle();
    board.soon();
    let before = mem::free_bytes();
    // Many more lives than there are VMIDs.
    for life in 0..10_000 {
        let vm = board.add(config("goes", 256 << 10), &[0]);
        board.vms.pop();
        for _ in 0..4 {
            board.step(0);
        }
        assert!(mem::free_bytes() < before);
        vm.destroy();
        drop(vm);
        for _ in 0..6 {
            board.step(0);
        }
        assert_eq!(mem::free_bytes(), before, "life {life}");
        assert_eq!(armillary::vm::all().len(), 1);
    }
    assert!(stays.is_up());
    let guest = board.soon().expect("the VM that stays");
    assert_eq!(guest.vttbr, stays.vttbr(0));
}

pub(crate) fn a_vm_that_is_off_starts_again() {
    let mut board = Board::two();
    let vms = board.vms.clone();
    assert!(!vms[0].start_again(), "it is up");
    vms[0].stop(armillary::vm::Stop::Off);
    for _ in 0..4 {
        board.step(0);
    }
    assert!(is_off(&vms[0]));
    assert!(vms[0].start_again());
    let started = (0..6)
        .filter_map(|_| board.next(0))
        .any(|guest| guest.vttbr == vms[0].vttbr(0));
    assert!(started && !is_off(&vms[0]));
    assert!(
        log_lines()
            .iter()
            .any(|line| line.starts_with("[INFO] a: started"))
    );
}

pub(crate) fn a_vm_that_crashes_begins_anew_a_few_times() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let mut again = config("again", 4 * MIB);
    again.policy.on_crash = armillary::fdt::OnCrash::Restart;
    let vm = board.add(again, &[0]);
    board.add(config("other", 4 * MIB), &[0]);
    board.settle();
    // An exit that has no meaning; then it begins anew, but not for ever.
    let mut lives = 0;
    while !is_off(&vm) {
        lives += 1;
        assert!(lives < 20, "it goes on for ever");
        vm.stop(armillary::vm::Stop::Crash);
        for _ in 0..6 {
            board.step(0);
        }
    }
    assert_eq!(lives, 6, "the first, and five more");
}

pub(crate) fn a_vm_that_crashes_shows_its_registers_where_that_is_wanted() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let mut shown = config("shown", 4 * MIB);
    shown.policy.on_crash = armillary::fdt::OnCrash::Dump;
    board.add(shown, &[0]);
    board.add(config("other", 4 * MIB), &[0]);
    board.settle();
    let crash = |guest: &mut Guest| {
        guest.regs.pc = 0x4001_0770;
        guest.regs.r[11] = 0x1234_abcd;
        guest.trap(hsr(0x3e, 0))
    };
    for _ in 0..2 {
        test::push(crash);
        board.step(0);
    }
    let lines = test::said();
    let has = |wanted: &str| lines.iter().any(|line| line.contains(wanted));
    assert!(
        has("shown vCPU 0: ") && has(" 40010770") && has(" 1234abcd"),
        "{lines:?}"
    );
    assert!(!has("other vCPU"));
}

pub(crate) fn a_vm_with_control_manages_another() {
    const START: u32 = 0x8600_0014;
    const PAUSE: u32 = 0x8600_0015;
    const RESUME: u32 = 0x8600_0016;
    const RESET: u32 = 0x8600_0017;
    const STOP: u32 = 0x8600_0018;
    const DESTROY: u32 = 0x8600_0019;
    const STATE: u32 = 0x8600_001a;
    power_on(64 * MIB);
    let mut board = Board::of(2);
    let mut own = config("own", 4 * MIB);
    own.control = true;
    board.add(own, &[0]);
    let other = board.add(config("other", 4 * MIB), &[1]);
    let id = other.id;
    board.settle();
    let call = |board: &mut Board, function: u32, vm: u32| {
        let guest = board.run(move |guest| {
            guest.regs.r[1] = vm;
            hvc(guest, function)
        });
        guest.regs.r[0] as i32
    };
    let settle = |board: &mut Board| (0..4).filter_map(|_| board.next(1)).last();
    assert_eq!(call(&mut board, STATE, id), 0);
    assert_eq!(call(&mut board, STATE, 99), -3);
    assert_eq!(call(&mut board, PAUSE, id), 0);
    assert_eq!(call(&mut board, STATE, id), 2);
    assert!(settle(&mut board).is_none());
    assert_eq!(call(&mut board, RESUME, id), 0);
    assert!(settle(&mut board).is_some());
    assert_eq!(call(&mut board, START, id), -3, "it is up");
    assert_eq!(call(&mut board, RESET, id), 0);
    assert!(settle(&mut board).is_some());
    assert_eq!(call(&mut board, STOP, id), 0);
    assert!(settle(&mut board).is_none());
    assert_eq!(call(&mut board, STATE, id), 1);
    assert_eq!(call(&mut board, RESET, id), -3, "it is off");
    assert_eq!(call(&mut board, START, id), 0);
    assert!(settle(&mut board).is_some());
    assert_eq!(call(&mut board, DESTROY, id), 0);
    drop(other);
    board.vms.pop();
    assert!(settle(&mut board).is_none());
    assert_eq!(call(&mut board, STATE, id), -3, "there is none");
}

pub(crate) fn a_vm_without_control_manages_nobody() {
    let mut board = Board::two();
    for function in 0x8600_0013..=0x8600_001a {
        let guest = board.run(move |guest| {
            guest.regs.r[1] = 0;
            hvc(guest, function)
        });
        assert_eq!(guest.regs.r[0] as i32, -1);
    }
}

pub(crate) fn a_vm_that_is_paused_while_it_begins_anew_waits() {
    use armillary::vm::Stop;
    let mut board = Board::two();
    let vms = board.vms.clone();
    vms[0].pause();
    assert!(vms[0].stop(Stop::Reset));
    assert!(!vms[0].is_paused());
    vms[0].pause();
    for _ in 0..8 {
        let guest = board.next(0);
        assert!(guest.is_none_or(|guest| guest.vttbr == vms[1].vttbr(0)));
    }
    assert!(vms[0].is_paused());
    vms[0].resume();
    let mut guests = (0..8).filter_map(|_| board.next(0));
    let begun = guests.find(|guest| guest.vttbr == vms[0].vttbr(0));
    assert_started(&vms[0], &begun.expect("the guest, anew"));
}

pub(crate) fn a_vm_that_is_stopped_while_it_begins_anew_stops() {
    use armillary::vm::Stop;
    let mut board = Board::two();
    let vm = board.vms[0].clone();
    // It has left, is scrubbed, has begun anew, runs: whenever it is asked to.
    for steps in 0..6 {
        assert!(vm.stop(Stop::Reset));
        for _ in 0..steps {
            board.step(0);
            assert!(vm.is_up(), "it is on its way");
            assert!(!vm.start_again());
        }
        assert!(vm.stop(Stop::Off));
        let steps = (0..20).take_while(|_| vm.is_up()).map(|_| board.step(0));
        assert!(steps.count() < 20, "it is off");
        assert!(is_off(&vm));
        assert!(vm.start_again());
        for _ in 0..8 {
            board.step(0);
        }
    }
    assert!(vm.stop(Stop::Off));
    for _ in 0..8 {
        board.step(0);
    }
    assert!(!vm.stop(Stop::Reset), "it is off");
    // Nothing of that is left for its next life.
    assert!(vm.start_again());
    for _ in 0..6 {
        board.step(0);
    }
    assert!(vm.is_up() && !is_off(&vm));
    vm.destroy();
    vm.destroy();
    assert!(!vm.start_again(), "it is destroyed");
    for _ in 0..4 {
        board.step(0);
    }
    assert!(!vm.is_up() && board.vms[1].is_up());
}
