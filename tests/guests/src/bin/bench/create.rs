//! How long it takes from the call that creates a VM to that VM's first instruction.
//!
//! The VM prints when that was, this one when it called: `began TICKS`, then `called NAME TICKS`, of the physical count that is
//! common to both, in hexadecimal digits.

use bare::armillary::{self, Control, control, state};
use bare::cpu;
use bare::describe::Tree;
use bare::machine::number;
use bare::println;
use bare::timer::physical_now;
use core::arch::global_asm;

use crate::{skip, wanted};

global_asm!(include_str!("create.s"), options(raw));

unsafe extern "C" {
    static created_program: u8;
    static created_program_end: u8;
}

/// Figures: name, and the VM's RAM in MiB.
const SIZES: [(&str, u32); 2] = [("vm_create", 4), ("vm_create_20m", 20)];

/// Creates, starts and destroys VMs.
pub(super) fn all() {
    let start = &raw const created_program as u32;
    let program = (start, &raw const created_program_end as u32 - start);
    for (name, mib) in SIZES.into_iter().filter(|(name, _)| wanted(name)) {
        let tree = Tree::with_memory("made", mib << 10, program);
        for _ in 0..number("samples", 5) {
            let called = physical_now() as u32;
            let vm = match tree.create() {
                Ok(vm) => vm,
                Err(error) => return skip(name, why(error)),
            };
            let _ = control(Control::Start, vm);
            armillary::yield_now();
            while state(vm) == 0 {
                armillary::yield_now();
            }
            println!("called {name} {called:08x}");
            let _ = control(Control::Destroy, vm);
            while state(vm) >= 0 {
                cpu::relax();
            }
        }
    }
}

/// Why there is no VM.
fn why(error: u32) -> &'static str {
    match error as i32 {
        -1 => "no control over other VMs",
        _ => "no other VM can be made",
    }
}
