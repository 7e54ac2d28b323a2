//! What Linux's way to its first process costs more under the hypervisor than on the bare machine with the same device tree.
//!
//! By `-icount` virtual time counts instructions, and QEMU's real-time clock shows it in seconds. Linux's own clock begins only
//! after the kernel is unpacked: so it is read at the edge of a second, and says how long before that the first process began.

use std::fs;
use std::ops::Range;

use anyhow::Context;

use super::xen::Xen;
use super::{CLOCK, boot_to, guest_console};
use crate::console;
use crate::debian::Item;
use crate::image::Images;
use crate::qemu::{Load, Machine};
use crate::size::Size;
use crate::vm::Vm;

/// What the first process does.
const RUN: &str = "r=/sys/class/rtc/rtc0/since_epoch; read a < $r; while read b < $r; [ $a = $b ]; do :; done; \
    echo edge $b > /dev/kmsg; dmesg | grep -e edge -e Run; echo tree; od -An -v -tx1 /sys/firmware/fdt; poweroff -f";
/// Figures, and what their command lines begin with.
const KINDS: [(&str, &str); 2] = [("linux_verbose_ppm", ""), ("linux_quiet_ppm", "quiet ")];
const MEMORY: Size = Size::mib(256);
/// Where a zImage may begin: as on QEMU's `virt`, or beyond what it unpacks.
const ENTRIES: Range<u32> = 0x4001_0000..0x4800_0000;

/// The figures, in parts per million of the bare machine's instructions, on a machine like `machine`.
pub(super) fn figures(machine: &Machine) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
    Item::Linux.provide()?;
    Item::Initramfs.provide()?;
    let mut figures = Vec::new();
    for (name, word) in KINDS {
        let arguments = format!("{word}run=\"{RUN}\"");
        let (there, tree) = hosted(machine, &arguments)?;
        let here = native(machine, &arguments, &tree)?;
        figures.push((name.into(), vec![((there / here - 1.0) * 1e6).round()]));
    }
    Ok(figures)
}

/// The figures on Xen, against the bare machine with the device tree that Armillary gives its guest.
pub(super) fn on_xen(machine: &Machine, xen: &Xen) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
    let mut figures = Vec::new();
    for (name, word) in KINDS {
        let arguments = format!("{word}run=\"{RUN}\"");
        let (console, before) = xen.linux(Item::Initramfs, MEMORY, 1, &arguments)?;
        let there = to_init(&console)? - before;
        let (_, tree) = hosted(machine, &arguments)?;
        let here = native(machine, &arguments, &tree)?;
        figures.push((name.into(), vec![((there / here - 1.0) * 1e6).round()]));
    }
    Ok(figures)
}

/// Nanoseconds from the guest's first instruction to its first process, and its device tree.
fn hosted(machine: &Machine, arguments: &str) -> anyhow::Result<(f64, Vec<u8>)> {
    let spec = format!("linux,memory={MEMORY},append={arguments}");
    let machine = Machine {
        vms: vec![Vm::from_spec(
            &spec.parse().map_err(anyhow::Error::msg)?,
            0,
            machine.board.memory,
        )?],
        more: CLOCK.map(Into::into).into(),
        ..machine.clone()
    };
    let console = guest_console(&machine)?;
    let before = boot_to(&machine, ENTRIES)? as f64;
    let tree = tree(&console).context("the guest has not shown its device tree")?;
    Ok((to_init(&console)? - before, tree))
}

/// Nanoseconds from reset to the first process on the bare machine.
fn native(machine: &Machine, arguments: &str, tree: &[u8]) -> anyhow::Result<f64> {
    let place = tempfile::tempdir()?;
    let blob = place.path().join("guest.dtb");
    fs::write(&blob, tree)?;
    let mut more: Vec<_> = CLOCK.map(Into::into).into();
    more.extend(["-initrd".into(), Item::Initramfs.path().into()]);
    more.extend(["-append", &format!("console=ttyAMA0 {arguments}")].map(Into::into));
    let mut machine = Machine {
        vms: Vec::new(),
        tree: Some(blob),
        load: Load::Raw,
        images: Images {
            raw: Item::Linux.path(),
            ..machine.images.clone()
        },
        more,
        ..machine.clone()
    };
    machine.board.machine = "virt".into();
    machine.board.memory = MEMORY;
    to_init(&guest_console(&machine)?)
}

/// Nanoseconds of virtual time at which the first process began.
fn to_init(console: &str) -> anyhow::Result<f64> {
    let number = |line: &str, group: usize| -> anyhow::Result<f64> {
        let line = console::expression(line).map_err(anyhow::Error::msg)?;
        let found = line
            .captures(console)
            .context("Linux has not said when it was there")?;
        Ok(found[group].parse()?)
    };
    const EDGE: &str = r"^\[ *([\d.]+)\] edge (\d+)$";
    let begun = number(r"^\[ *([\d.]+)\] Run /init", 1)?;
    Ok((number(EDGE, 2)? - (number(EDGE, 1)? - begun)) * 1e9)
}

/// The bytes in the lines of hexadecimal digits after `tree`.
fn tree(console: &str) -> Option<Vec<u8>> {
    let lines = console.split_once("\ntree\n")?.1.lines();
    let lines = lines.take_while(|line| line.starts_with(' '));
    let words = lines.flat_map(str::split_whitespace);
    words
        .map(|word| u8::from_str_radix(word, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "[    1.250000] Run /init as init process\n[    1.875000] edge 4\ntree\n d0 0d\n fe\n[    2.0] Power down\n";

    #[test]
    fn the_time_to_init_is_counted_from_the_edge_of_a_second() {
        assert_eq!(to_init(CONSOLE).unwrap(), 3.375e9);
        assert!(to_init("[    1.250000] Run /init as init process\n").is_err());
    }

    #[test]
    fn the_tree_is_read_from_its_dump() {
        assert_eq!(tree(CONSOLE), Some(vec![0xd0, 0x0d, 0xfe]));
        assert_eq!(tree("nothing"), None);
    }
}
