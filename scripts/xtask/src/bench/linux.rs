//! What Linux's way to its first process, and work of several kinds, cost more under the hypervisor than on the bare machine with
//! the same device tree.
//!
//! By `-icount` virtual time counts instructions, and QEMU's real-time clock shows it in seconds. Linux's own clock begins only
//! after the kernel is unpacked: so it is read at the edge of a second, and says how long before that the first process began.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use anyhow::{Context, ensure};
use regex::Captures;

use super::xen::Xen;
use super::{CLOCK, boot_to, guest_console, typed, with_vms};
use crate::console;
use crate::debian::Item;
use crate::image::Images;
use crate::qemu::{Load, Machine};
use crate::size::Size;

/// What the first process does.
const RUN: &str = "r=/sys/class/rtc/rtc0/since_epoch; read a < $r; while read b < $r; [ $a = $b ]; do :; done; \
    echo edge $b > /dev/kmsg; dmesg | grep -e edge -e Run; echo tree; od -An -v -tx1 /sys/firmware/fdt; poweroff -f";
/// Figures, and what their command lines begin with.
const KINDS: [(&str, &str); 2] = [("linux_verbose_ppm", ""), ("linux_quiet_ppm", "quiet ")];
/// All kinds of work, one after the other.
const EACH: &str = "quiet run=\"work each; poweroff -f\"";
/// The same in two VMs at once: when each looks at the machine's clock, alone.
const BESIDE: [&str; 2] = [
    "quiet run=\"work beside 18; poweroff -f\"",
    "quiet run=\"work beside 20; poweroff -f\"",
];
/// The RAM of a Linux.
const MEMORY: Size = Size::mib(256);
/// The RAM of the board: two of them fit.
const HOST: Size = Size::mib(768);
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
        figures.push((name.into(), vec![ppm(there / here)]));
    }
    Ok(figures)
}

/// The figures on Xen, against the bare machine with the device tree that Armillary gives its guest.
pub(super) fn on_xen(machine: &Machine, xen: &Xen) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
    let mut figures = Vec::new();
    for (name, word) in KINDS {
        let arguments = format!("{word}run=\"{RUN}\"");
        let console = xen.linux(Item::Initramfs, MEMORY, &[&arguments])?;
        let there = to_init(&console)? - xen.before_linux(Item::Initramfs, MEMORY)?;
        let (_, tree) = hosted(machine, &arguments)?;
        let here = native(machine, &arguments, &tree)?;
        figures.push((name.into(), vec![ppm(there / here)]));
    }
    Ok(figures)
}

/// Nanoseconds from the guest's first instruction to its first process, and its device tree.
fn hosted(machine: &Machine, arguments: &str) -> anyhow::Result<(f64, Vec<u8>)> {
    let machine = with_linux(machine, Item::Initramfs, &[arguments])?;
    let console = guest_console(&machine)?;
    let before = boot_to(&machine, ENTRIES)? as f64;
    Ok((to_init(&console)? - before, tree(&console)?))
}

/// Nanoseconds from reset to the first process on the bare machine.
fn native(machine: &Machine, arguments: &str, tree: &[u8]) -> anyhow::Result<f64> {
    to_init(&bare(machine, Item::Initramfs, arguments, tree)?)
}

/// The machine with a Linux in a VM for each of these command lines.
fn with_linux(machine: &Machine, initramfs: Item, arguments: &[&str]) -> anyhow::Result<Machine> {
    let initramfs = initramfs.file();
    let specs = arguments.iter().enumerate().map(|(index, arguments)| {
        format!(
            "kernel=debian:linux,initrd={},name=linux{index},memory={MEMORY},append=console=ttyAMA0 {arguments}",
            initramfs.display()
        )
    });
    let specs: Vec<_> = specs.collect();
    let mut machine = Machine {
        more: CLOCK.map(Into::into).into(),
        ..machine.clone()
    };
    machine.board.memory = HOST;
    with_vms(&machine, machine.board.smp, &specs)
}

/// The console of a Linux on the bare machine with this device tree.
fn bare(
    machine: &Machine,
    initramfs: Item,
    arguments: &str,
    tree: &[u8],
) -> anyhow::Result<String> {
    let place = tempfile::tempdir()?;
    let blob = place.path().join("guest.dtb");
    fs::write(&blob, tree)?;
    let mut more: Vec<_> = CLOCK.map(Into::into).into();
    more.extend(["-initrd".into(), initramfs.path().into()]);
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
    guest_console(&machine)
}

/// The figures of a Linux that works, in the same unit.
pub(super) fn work(machine: &Machine) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
    Item::Linux.provide()?;
    Item::Work.provide()?;
    let mut figures = Vec::new();
    let console = guest_console(&with_linux(machine, Item::Work, &[EACH])?)?;
    let tree = tree(&console)?;
    let native = durations(&bare(machine, Item::Work, EACH, &tree)?)?;
    figures.extend(above(&durations(&console)?, &native)?);
    let console = guest_console(&with_linux(machine, Item::Work, &BESIDE)?)?;
    figures.push(two_vms(machine, &console, &tree)?);
    Ok(figures)
}

/// The same on Xen.
pub(super) fn work_on_xen(machine: &Machine, xen: &Xen) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
    let there = durations(&xen.linux(Item::Work, MEMORY, &[EACH])?)?;
    let (_, tree) = hosted(machine, &format!("quiet run=\"{RUN}\""))?;
    let native = durations(&bare(machine, Item::Work, EACH, &tree)?)?;
    let mut figures = above(&there, &native)?;
    let console = xen.on_board(HOST).linux(Item::Work, MEMORY, &BESIDE)?;
    figures.push(two_vms(machine, &console, &tree)?);
    Ok(figures)
}

/// What two VMs took by their `console` above twice what the first one's work takes on the bare machine.
fn two_vms(machine: &Machine, console: &str, tree: &[u8]) -> anyhow::Result<(String, Vec<f64>)> {
    let both = together(console).context("two VMs have not said when they worked")?;
    let native = durations(&bare(machine, Item::Work, BESIDE[0], tree)?)?;
    let alone = native.values().next().and_then(|all| median(all));
    let alone = 2.0 * alone.context("no work on the bare machine")?;
    let all = both.iter().map(|both| ppm(both / alone)).collect();
    Ok(("linux_two_vms_ppm".into(), all))
}

/// Figures of what each work took `there` above the median that it took `here`.
fn above(there: &Durations, here: &Durations) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
    let figure = |(name, there): (&String, &Vec<f64>)| {
        let here = here.get(name).and_then(|all| median(all));
        let here = here.with_context(|| format!("no {name} on the bare machine"))?;
        let all = there.iter().map(|there| ppm(there / here)).collect();
        Ok((format!("linux_{name}_ppm"), all))
    };
    there.iter().map(figure).collect()
}

/// What a Linux of the figure `name` left its VM for, told by the console's Ctrl-A i: before its first process, and at its end.
pub(super) fn exits(name: &str, machine: &Machine) -> anyhow::Result<String> {
    // Ctrl-A i, and what the guest waits for.
    const STATS: &str = "\x01i\n";
    let work = name
        .strip_prefix("linux_")
        .and_then(|name| name.strip_suffix("_ppm"))
        .context("it is of no Linux")?;
    let quiet = if work == "verbose" { "" } else { "quiet " };
    let (initramfs, run) = match work {
        "verbose" | "quiet" => (Item::Initramfs, String::new()),
        "two_vms" => (Item::Work, "work each; read key; ".to_owned()),
        work => (Item::Work, format!("work each {work}; read key; ")),
    };
    initramfs.provide()?;
    Item::Linux.provide()?;
    let arguments = format!("{quiet}run=\"read key; {run}poweroff -f\"");
    let machine = with_linux(machine, initramfs, &[&arguments])?;
    let place = tempfile::tempdir()?;
    let mut prepared = machine.prepare(&place.path().join("exits.dtb"))?;
    let console = typed(
        &mut prepared.command,
        &[("init: up", STATS), ("work is done", STATS)],
    )?;
    let told: Vec<_> = console
        .lines()
        .filter(|line| line.contains("; exits "))
        .map(|line| line.trim_start_matches("[info]").trim())
        .collect();
    ensure!(!told.is_empty(), "Linux has not come up:\n{console}");
    let mut text = format!(
        "{name}: no single operation; what it left the guest for, and for how long, in its first process"
    );
    if told.len() > 1 {
        text.push_str(", and when its work was done");
    }
    Ok(text + ":\n" + &told.join("\n") + "\n")
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn ppm(ratio: f64) -> f64 {
    ((ratio - 1.0) * 1e6).round()
}

/// Seconds that each work took each time, by its name.
type Durations = BTreeMap<String, Vec<f64>>;

/// Those by the lines of the kernel's log.
fn durations(console: &str) -> anyhow::Result<Durations> {
    let line = r"^\[ *([\d.]+)\] work (\w+) (begins|ends)$";
    let line = console::expression(line).map_err(anyhow::Error::msg)?;
    let mut begun = BTreeMap::new();
    let mut durations = BTreeMap::<_, Vec<_>>::new();
    for found in line.captures_iter(console) {
        let time: f64 = found[1].parse()?;
        if &found[3] == "begins" {
            begun.insert(found[2].to_owned(), time);
        } else if let Some(begun) = begun.remove(&found[2]) {
            let all = durations.entry(found[2].to_owned()).or_default();
            all.push(time - begun);
        }
    }
    ensure!(!durations.is_empty(), "no work was done:\n{console}");
    Ok(durations)
}

/// Seconds from the begin of the first VM's work to the end of the last one's, each time, by the clock that both have. Which one's
/// a line is, is in it: Armillary's console names only those in the background.
fn together(console: &str) -> Option<Vec<f64>> {
    let line = r"\[ *([\d.]+)\] work (vm\d+) (?:begins|ends|edge (\d+))$";
    let line = console::expression(line).ok()?;
    let mut spans = Vec::<(f64, f64)>::new();
    for edge in line.captures_iter(console) {
        let Some(second) = edge.get(3) else { continue };
        let second: f64 = second.as_str().parse().ok()?;
        let reset = second - edge[1].parse::<f64>().ok()?;
        let of_vm = |found: &Captures<'_>| found[2] == edge[2] && found.get(3).is_none();
        let lines = line.captures_iter(console).filter(of_vm);
        let times = lines.map(|found| Some(reset + found[1].parse::<f64>().ok()?));
        for (at, span) in times.collect::<Option<Vec<_>>>()?.chunks(2).enumerate() {
            let (&begin, &end) = (span.first()?, span.get(1)?);
            match spans.get_mut(at) {
                Some((first, last)) => (*first, *last) = (first.min(begin), last.max(end)),
                None => spans.push((begin, end)),
            }
        }
    }
    let lengths = spans.iter().map(|(first, last)| last - first);
    (!spans.is_empty()).then(|| lengths.collect())
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
fn tree(console: &str) -> anyhow::Result<Vec<u8>> {
    let (_, lines) = console
        .split_once("\ntree\n")
        .context("the guest has not shown its device tree")?;
    let lines = lines.lines().take_while(|line| line.starts_with(' '));
    let words = lines.flat_map(str::split_whitespace);
    Ok(words
        .map(|word| u8::from_str_radix(word, 16))
        .collect::<Result<_, _>>()?)
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
        assert_eq!(tree(CONSOLE).unwrap(), [0xd0, 0x0d, 0xfe]);
        assert!(tree("nothing").is_err());
    }

    #[test]
    fn each_work_lasts_from_its_begin_to_its_end() {
        let console = "[    1.25] work pipe begins\n[    1.5] work pipe ends\n[   10.0] work forks begins\n[   12.0] work forks ends\n\
                       [   13.0] work forks begins\n[   16.0] work forks ends\n[   17.0] work forks ends\n";
        let expected = [("forks", vec![2.0, 3.0]), ("pipe", vec![0.25])];
        let expected = expected.map(|(name, seconds)| (name.to_owned(), seconds));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(durations(console).unwrap(), expected.into());
        assert!(durations("nothing").is_err());
    }

    #[test]
    fn two_vms_worked_from_the_first_begin_to_the_last_end_by_one_clock() {
        let console = "a: [    8.0] work vm20 begins\n[    7.5] work vm22 begins\na: [   11.0] work vm20 ends\n[   11.5] work vm22 ends\n\
                       [   13.0] work vm22 begins\na: [   13.5] work vm20 begins\n[   14.0] work vm22 ends\na: [   14.5] work vm20 ends\n\
                       a: [   18.0] work vm20 edge 20\n[   19.75] work vm22 edge 22\n";
        // One is 2 s behind the machine's clock, the other 2.25 s: 9.75 to 13.75, and 15.25 to 16.5.
        assert_eq!(together(console), Some(vec![4.0, 1.25]));
        assert_eq!(together("[    8.0] work vm20 begins\n"), None);
        let unended = "[    8.0] work vm20 begins\n[   18.0] work vm20 edge 20\n";
        assert_eq!(together(unended), None);
    }
}
