//! The host side of Armillary as a library: the command `cargo xtask` and the tests in QEMU share it.

pub mod board;
pub mod build;
pub mod cli;
pub mod console;
pub mod dts;
pub mod failure;
pub mod image;
pub mod layout;
pub mod progress;
pub mod qemu;
pub mod run;
pub mod setup;
pub mod size;
pub mod spec;
pub mod vm;
