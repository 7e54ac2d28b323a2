//! `cargo xtask`: builds, runs, tests and measures Armillary.

fn main() {}
