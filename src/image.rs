//! Kernel image formats.
