//! Armillary: a Type-1 hypervisor for ARMv7-A cores with the Virtualization Extensions.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

// 1. Models: no `unsafe`, nothing of the machine.
pub mod addr;
pub mod decode;
pub mod fdt;
pub mod image;
pub mod line;
pub mod pl011;
pub mod pl031;
pub mod psci;
pub mod regs;
pub mod stage2;
pub mod syndrome;
pub mod vgic;
pub mod vmid;
pub mod vtimer;
