//! The host side of Armillary as a library: the command `cargo xtask` and the tests in QEMU share it.

// Fundamentals.
pub mod failure;
pub mod progress;
pub mod size;
// A machine: its image, its VMs, its device tree, its console.
pub mod board;
pub mod build;
pub mod console;
pub mod cpio;
pub mod debian;
pub mod dts;
pub mod image;
pub mod layout;
pub mod pack;
pub mod passthrough;
pub mod qemu;
pub mod report;
pub mod setup;
pub mod spec;
pub mod vm;
// The commands.
pub mod bench;
pub mod check;
pub mod cli;
pub mod layers;
pub mod run;
pub mod test;
