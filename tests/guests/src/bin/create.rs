//! A VM that makes others: out of a device tree and a program in its memory, as many times as `rounds=N` says, 20 by default.
#![no_std]
#![no_main]

use bare::armillary::{CREATE, Control, DUMP, control, state};
use bare::describe::{STRUCTURE, Tree, program};
use bare::machine::{image, machine, number};
use bare::psci::hvc;
use bare::report::Outcome;
use bare::{check_eq, cpu, println, tests};

tests! {
    what_a_description_says_has_to_be_right => wrong,
    a_vm_is_created_runs_and_is_destroyed => rounds,
}

const INVALID: u32 = -3i32 as u32;

fn wrong() -> Outcome {
    let ram = machine().memory;
    let end = ram.base.wrapping_add(ram.size);
    let at = |address, size| hvc(CREATE, address, size, 0)[0];
    check_eq!(at(0x0900_0000, 64), INVALID, "a tree in a device");
    check_eq!(at(end - 32, 64), INVALID, "a tree that ends outside of RAM");
    check_eq!(at(ram.base, u32::MAX), INVALID, "a tree of 4 GiB");
    check_eq!(at(image().base, 64), INVALID, "code for a tree");
    let (start, size) = program();
    for (module, what) in [
        ((end - 4, 64), "a program that ends outside of RAM"),
        ((0x0900_0000, 64), "a program in a device"),
        (
            (u32::MAX - 4095, u32::MAX),
            "a program beyond all addresses",
        ),
        ((ram.base, 0xf000_0000), "a program larger than the machine"),
        ((start, 0), "an empty program"),
    ] {
        check_eq!(Tree::of("wrong", module).create(), Err(INVALID), "{what}");
    }
    let mut tree = Tree::of("wrong", (start, size));
    tree.bytes[STRUCTURE + 3] = 7;
    check_eq!(tree.create(), Err(INVALID), "a damaged tree");
    Ok(())
}

fn rounds() -> Outcome {
    for round in 0..number("rounds", 20) {
        let tree = Tree::of("made", program());
        let vm = tree.create();
        let Ok(vm) = vm else {
            bare::fail!("round {round}: {vm:x?}");
        };
        check_eq!(tree.create(), Err(INVALID), "a second one of the name");
        check_eq!(control(Control::Start, vm), 0, "START");
        while state(vm) == 0 {
            cpu::relax();
        }
        check_eq!(state(vm), 1, "STATE of one that is off");
        check_eq!(hvc(DUMP, vm, 0, 0)[0], 0, "DUMP");
        check_eq!(control(Control::Destroy, vm), 0, "DESTROY");
        while state(vm) != INVALID as i32 {
            cpu::relax();
        }
    }
    println!("every one is gone");
    Ok(())
}
