//! Drivers of the devices that the hypervisor itself uses.

pub mod gic;
pub mod uart;
