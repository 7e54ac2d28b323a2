//! The processor: system registers, tables, caches, and the way into a guest and back.

pub mod boot;
pub mod cache;
pub mod context;
pub mod counter;
pub mod fault;
pub mod mmu;
pub mod smc;
mod sysreg;
pub mod tables;
pub mod tlb;
pub mod vfp;
pub mod window;

// Copies, fills, divisions: what compiled code calls.
core::arch::global_asm!(include_str!("runtime.s"), options(raw));

pub use fault::{at_death, die, faulted, trace};
