//! Armillary: a Type-1 hypervisor for ARMv7-A cores with the Virtualization Extensions.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

// 1. Models: no `unsafe`, nothing of the machine.
pub mod addr;
pub mod regs;
pub mod syndrome;
pub mod decode;
pub mod walk;
pub mod stage2;
pub mod vmid;
pub mod line;
pub mod vgic;
pub mod vtimer;
pub mod pl011;
pub mod pl031;
pub mod tty;
pub mod psci;
pub mod fdt;
pub mod image;

// 2. The machine: all `unsafe`, all assembly, all device registers.
#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod driver;
#[cfg(target_os = "none")]
pub mod console;
#[cfg_attr(not(target_os = "none"), path = "arch/fake.rs")]
pub mod machine;
pub mod mem;
#[cfg(target_os = "none")]
pub mod platform;

// 3. The hypervisor: no `unsafe` again.
pub mod bus;
pub mod loader;
pub mod vm;
pub mod vcpu;
pub mod inject;
pub mod exit;
pub mod irq;
pub mod monitor;
pub mod run;
