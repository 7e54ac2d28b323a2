//! How large the image is in its parts, and by the board's RAM: what the hypervisor takes of it, and its way to the guest.

use std::ops::Range;

use anyhow::Context;

use super::symbols::section_size;
use super::{guest_console, own_ram, tracer};
use crate::build;
use crate::image;
use crate::qemu::{Load, Machine};
use crate::size::{MIB, Size};
use crate::vm::Vm;

/// The image's sections.
pub(super) const SECTIONS: [&str; 5] = [".text", ".rodata", ".data", ".bss", ".unpack"];
/// The board's RAM in MiB.
pub(super) const BOARDS: [u64; 3] = [64, 512, 2048];
/// The RAM of what runs on each: it fits the smallest.
pub(super) const GUEST: Size = Size::mib(32);
/// How far into RAM the image is loaded: inside the smallest, and not where the guest runs by its own addresses.
const OFFSET: u64 = 40 * MIB;

/// Figures by name, on a machine like `machine`.
pub(super) fn figures(machine: &Machine) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
    let mut figures = Vec::new();
    for section in SECTIONS {
        let size = section_size(&machine.images.elf, section)?;
        let name = section.trim_start_matches('.');
        figures.push((format!("section_{name}_bytes"), vec![size.into()]));
    }
    for ram in BOARDS {
        let machine = with_ram(machine, ram)?;
        let own = own_ram(&guest_console(&machine)?).context("own RAM was not said")?;
        figures.push((format!("own_ram_bytes_{ram}m"), vec![own]));
        let (boot, _) = tracer::count_to(&machine, &guest(&machine)?)?;
        figures.push((format!("boot_to_guest_{ram}m"), vec![boot as f64]));
    }
    Ok(figures)
}

/// The machine with so much RAM, in MiB, and one small VM.
fn with_ram(machine: &Machine, ram: u64) -> anyhow::Result<Machine> {
    let mut machine = machine.clone();
    machine.board.memory = Size::mib(ram);
    machine.load = Load::At(u32::try_from(machine.board.ram_base + OFFSET)?);
    let spec = format!("kernel=guest:bench,name=bench,memory={GUEST},append=only=nothing");
    let spec = spec.parse().map_err(anyhow::Error::msg)?;
    machine.vms = vec![Vm::from_spec(&spec, 0, machine.board.memory)?];
    Ok(machine)
}

/// The guest's first instruction.
fn guest(machine: &Machine) -> anyhow::Result<Range<u32>> {
    let vm = machine.vms.first().context("no VM")?;
    let kernel = vm.modules.first().context("no guest")?;
    let entry = u32::try_from(image::entry(&build::file(&kernel.file))?)?;
    Ok(entry..entry + 1)
}
