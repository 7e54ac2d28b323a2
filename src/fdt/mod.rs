//! Device trees: the check, the board, the VMs, and the tree that a guest is given.
//!
//! ```text
//! bytes -> check -> Checked -> Tree -> Board::read -> Board
//!                                   -> vms         -> VmConfigs, and an error for each VM refused
//! Guest -> tree -> bytes
//! ```
//! The bytes come from firmware and are walked by the `fdt` crate, but only after [`check`] has seen all of
//! them. The tree is never copied, and its padding (QEMU's is a mebibyte) never read.

mod board;
mod check;
mod error;
mod guest;
mod passed;
mod policy;
mod region;
mod tree;
mod vms;

pub use board::{Board, Conduit, Cpu, CpuStart, Gic, Interrupt, Psci, Timer, Uart, UartKind};
pub use check::{Checked, FdtError, MAX_DEPTH, MAX_NODES, MAX_SIZE, check};
pub use error::ConfigError;
pub use guest::Guest;
pub use passed::{Passed, Spare, Wire, passed};
pub use policy::{OnCrash, Policy};
pub use region::{RegionConfig, Served};
pub use tree::{Id, Range, Tree};
pub use vms::{MAX_VCPUS, Module, Taken, VmConfig, vms};
