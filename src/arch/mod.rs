//! The processor: system registers, tables, caches, and the way into a guest and back.

#[cfg(target_os = "none")]
mod sysreg;
