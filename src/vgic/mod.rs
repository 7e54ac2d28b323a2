//! The virtual GICv2.
