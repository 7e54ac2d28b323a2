//! Gives the linker script to every guest, wherever cargo is started.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-arg-bins=-T{here}/link.ld");
    println!("cargo::rerun-if-changed=link.ld");
}
