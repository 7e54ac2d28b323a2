//! The board's devices in VMs: mapped, wired, one VM's alone, quiet when it is off; and RAM mapped one to one.

#[path = "../fdt_dts/mod.rs"]
mod fdt_dts;

use crate::board::{Board, MIB, access, config, data_abort, hvc, log_lines, power_on};
use armillary::addr::{Ipa, Pa};
use armillary::assign;
use armillary::fdt::{Interrupt, Module, Range, Spare, VmConfig};
use armillary::machine::test;
use armillary::mem;
use armillary::stage2::Attrs;
use armillary::vm::Vm;

/// The device, where the guest sees it, and its interrupts on the board and for the guest.
const DEVICE: Pa = Pa(0x0b00_0000);
const SEEN: Ipa = Ipa(0x0c00_0000);
const IRQ: u32 = 48;
const PARTIAL: &str = r#"/dts-v1/; / {
    #address-cells = <2>; #size-cells = <2>;
    passthrough { #address-cells = <2>; #size-cells = <2>;
        disk { xen,path = "/disk"; interrupts = <0 40 4>; xen,reg = <0 0xb000000 0 0x1000 0 0xc000000>;
            xen,force-assign-without-iommu; };
    };
};"#;
const GICD: u32 = 0x0800_0000;
const SYSTEM_OFF: u32 = 0x8400_0008;

/// The description of a VM with a partial tree.
fn with_tree(name: &str, partial: &str) -> VmConfig {
    let tree = fdt_dts::compile(partial);
    let range = Range {
        start: Pa(0x7800_0000),
        size: tree.len() as u64,
    };
    test::store(range.start, &tree);
    // SAFETY: the range is in no RAM that is given out.
    unsafe { mem::reserve_module(range) };
    VmConfig {
        device_tree: Some(Module {
            node: format!("/chosen/{name}/dtb"),
            range,
            shared: false,
        }),
        ..config(name, 4 * MIB)
    }
}

/// A board that has a device to give.
fn board(cpus: usize) -> Board {
    power_on(64 * MIB);
    assign::offer(&[Spare {
        node: "/disk".into(),
        registers: vec![Range {
            start: DEVICE,
            size: 0x200,
        }],
        interrupts: vec![Interrupt {
            id: IRQ,
            edge: false,
        }],
        ..Spare::default()
    }]);
    Board::of(cpus)
}

pub(crate) fn a_device_is_mapped_and_its_interrupt_is_the_guests_to_end() {
    let mut board = board(1);
    let vm = board.add(with_tree("a", PARTIAL), &[0]);
    board.settle();
    let seen = vm.lock().memory.space.translate(SEEN);
    assert_eq!(seen, Some((DEVICE, Attrs::DEVICE)));
    assert_eq!(test::wired(), [(IRQ, false, 0)]);
    test::set_line(IRQ, true);
    test::interrupt(0, IRQ);
    board.step(0);
    assert_eq!(test::active(0), [IRQ]);
    assert!(vm.lock().gic.is_out(72));
    // A line that falls unheard is not waited for.
    test::set_line(IRQ, false);
    let pending = GICD + 0x208;
    let guest = board.run(move |guest| data_abort(guest, pending, pending, access(2, 3)));
    assert_eq!(guest.regs.r[3], 0);
    assert!(!vm.lock().gic.is_out(72));
    assert_eq!(test::active(0), [0u32; 0]);
}

pub(crate) fn a_device_is_one_vms_until_that_is_gone() {
    let mut board = board(1);
    let vm = board.add(with_tree("a", PARTIAL), &[0]);
    let other = board.add(config("other", 4 * MIB), &[0]);
    board.settle();
    let refused = Vm::build(with_tree("b", PARTIAL), &[0]).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "/chosen/b/dtb /passthrough/disk: xen,path is /disk, which /chosen/a has; give the VM another device"
    );
    vm.destroy();
    drop(vm);
    board.vms = vec![other];
    for _ in 0..4 {
        board.step(0);
    }
    assert_eq!(test::wired(), []);
    assert!(Vm::build(with_tree("b", PARTIAL), &[0]).is_ok());
}

pub(crate) fn a_device_is_quiet_while_its_vm_is_off() {
    let mut board = board(1);
    let vm = board.add(with_tree("a", PARTIAL), &[0]);
    board.add(config("other", 4 * MIB), &[0]);
    board.settle();
    test::interrupt(0, IRQ);
    board.step(0);
    vm.stop(armillary::vm::Stop::Off);
    for _ in 0..4 {
        board.step(0);
    }
    assert_eq!((test::wired(), test::active(0)), (vec![], vec![]));
    assert!(vm.start_again());
    assert_eq!(test::wired(), [(IRQ, false, 0)]);
    assert!(!vm.lock().gic.is_out(72));
}

pub(crate) fn an_interrupt_comes_to_the_cpu_that_its_guest_is_on() {
    let mut board = board(2);
    let vm = board.add(with_tree("a", PARTIAL), &[1]);
    board.settle();
    assert_eq!(test::wired(), [(IRQ, false, 1)]);
    test::interrupt(0, IRQ);
    board.step(0);
    assert_eq!(test::active(0), [0u32; 0]);
    assert!(!vm.lock().gic.is_out(72));
    board.step(1);
    board.step(1);
    assert_eq!(test::active(1), [IRQ]);
    assert!(vm.lock().gic.is_out(72));
}

pub(crate) fn a_device_in_the_way_of_another_is_refused() {
    let mut board = board(1);
    for (from, to, why) in [
        ("0 0xc000000>", "0 0x9000000>", "which overlaps"),
        (
            "<0 40 4>",
            "<0 1 4>",
            "interrupts is shared interrupt 1, which another device of the VM has",
        ),
        ("<0 40 4>", "<0 2 4>", "shared interrupt 2"),
    ] {
        let partial = PARTIAL.replace(from, to);
        let refused = Vm::build(with_tree("a", &partial), &[0]).err().unwrap();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    // In the place of the emulated clock its interrupt may have that one's number.
    let clock = PARTIAL
        .replace("0 0xc000000>", "0 0x9010000>")
        .replace("<0 40 4>", "<0 2 4>");
    let vm = board.add(with_tree("a", &clock), &[0]);
    let seen = vm.lock().memory.space.translate(Ipa(0x901_0000));
    assert_eq!(seen, Some((DEVICE, Attrs::DEVICE)));
}

pub(crate) fn ram_that_is_mapped_one_to_one_is_where_the_guest_sees_it() {
    let mut board = board(1);
    let free = mem::free_bytes();
    let partial = PARTIAL.replace("xen,force-assign-without-iommu;", "");
    let direct = VmConfig {
        direct_map: true,
        memory: Some(6 * MIB),
        ..with_tree("a", &partial)
    };
    let vm = board.add(direct, &[0]);
    assert_eq!(mem::free_bytes(), free - 6 * MIB);
    let guest = board.next(0).unwrap();
    let base = Pa(u64::from(guest.regs.pc) - 0x1_0000);
    assert!(base.is_aligned(2 * MIB));
    assert!(guest.regs.r[2] > guest.regs.pc);
    let state = vm.lock();
    for offset in [0, 4 * MIB, 6 * MIB - 0x1000] {
        let seen = state.memory.space.translate(Ipa(base.0 + offset));
        assert_eq!(seen, Some((Pa(base.0 + offset), Attrs::RAM)));
    }
    assert_eq!(state.memory.space.translate(Ipa(0x4000_0000)), None);
    drop(state);
    let large = VmConfig {
        direct_map: true,
        ..config("b", 62 * MIB)
    };
    let refused = Vm::build(large, &[0]).err().unwrap();
    assert!(refused.to_string().contains("direct-map"), "{refused}");
    log_lines();
    board.run_if(|guest| hvc(guest, SYSTEM_OFF));
}
