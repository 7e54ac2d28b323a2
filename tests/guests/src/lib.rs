//! What a bare-metal guest on ARMv7-A needs to test the machine that it runs on.
//!
//! A guest is one file in `src/bin`, with either a `main` or a list of `tests!`. It starts on the first CPU in SVC mode
//! with a flat map and caches on, IRQs masked, no interrupt controller set up and VFP off.
#![no_std]

use core::arch::global_asm;

pub mod armillary;
pub mod console;
pub mod cpu;
pub mod describe;
pub mod exception;
pub mod gic;
pub mod machine;
pub mod mmio;
pub mod mmu;
pub mod probe;
pub mod psci;
pub mod random;
pub mod report;
pub mod ring;
pub mod smp;
pub mod text;
pub mod timer;
pub mod vfp;
pub mod xen;

global_asm!(include_str!("boot.s"), options(raw));
global_asm!(include_str!("vectors.s"), options(raw));

unsafe extern "C" {
    /// The guest.
    safe fn main() -> !;
}

#[unsafe(no_mangle)]
extern "C" fn main_entry(dtb: u32) -> ! {
    machine::discover(dtb);
    mmu::build();
    mmu::on();
    main()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::print_now(format_args!("FAIL panic {info}\n"));
    psci::system_off();
}
