//! Xen: the bench guest as a dom0less domU of Debian's package.
//!
//! Its settings are its own but for the scrubbing of free memory at boot, which is off. The real-time clock is passed through to
//! the guest, as the interrupt of a device that is no part of Xen.

use std::fs;
use std::io::{Read, Write};
use std::iter;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dtoolkit::Property;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use regex::Regex;

use super::{
    GUEST, PATIENCE, Run, Samples, Source, Wanted, ZIMAGE_END, guest, linux, size, with_vms, zimage,
};
use crate::cli::Against;
use crate::console::{self, Ending, Input, Session};
use crate::debian::Item;
use crate::dts;
use crate::image::{self, Images};
use crate::progress::{self, Line};
use crate::qemu::{Load, Machine};
use crate::size::{KIB, MIB, Size};

/// What Xen is told whatever is measured.
pub(super) const ARGUMENTS: &str = "console=dtuart noreboot bootscrub=0";
/// The device tree of what is passed through.
const CLOCK: &str = include_str!("clock.dts");
/// What the bench guest prints last.
const DONE: &str = "bench: done";
/// What Xen prints last of its free memory.
const FREE: &str = r"Dom heap: \d+kB free";
/// What its heap's room begins at a multiple of, and has to be as large as: the RAM of a board that has but two of these is laid
/// out for it.
const SLOT: u64 = 32 * MIB;
/// What it is told on such a board, in place of a heap that takes all of such a room.
pub(super) const SMALL: &str = "xenheap_megabytes=8";
/// Switches the console's input from nobody to the domain and on to Xen, then asks for the free memory.
const ASK_MEMORY: &str = "\x01\x01\x01\x01\x01\x01m";

/// Xen in one of its ways.
#[derive(Clone, Debug)]
pub(super) struct Xen {
    /// Its column's name.
    pub(super) key: &'static str,
    /// What it is told besides.
    arguments: &'static str,
    /// The machine of the board, with this tool's options.
    machine: Machine,
    /// Why it can't be had.
    absent: Option<String>,
}

/// What is measured beside, if that is asked for or can be had.
pub(super) fn systems(against: Option<Against>, machine: &Machine) -> anyhow::Result<Vec<Xen>> {
    if against == Some(Against::None) {
        return Ok(Vec::new());
    }
    let absent = match Item::Xen.provide() {
        Err(error) if against == Some(Against::Xen) => return Err(error),
        Err(error) => {
            let why = error.to_string();
            Some(
                why.lines()
                    .last()
                    .unwrap_or("it can't be had here")
                    .to_owned(),
            )
        }
        Ok(()) => None,
    };
    let ways = [("xen", ""), ("xen_vwfi_native", " vwfi=native")];
    Ok(ways
        .map(|(key, arguments)| Xen {
            key,
            arguments,
            machine: on_xen(machine, arguments),
            absent: absent.clone(),
        })
        .into())
}

/// `machine` with Xen in place of Armillary.
fn on_xen(machine: &Machine, arguments: &str) -> Machine {
    let mut machine = Machine {
        vms: Vec::new(),
        load: Load::Raw,
        images: Images {
            raw: Item::Xen.path(),
            ..machine.images.clone()
        },
        bootargs: Some(format!("{ARGUMENTS}{arguments}")),
        edit: Some(for_xen),
        ..machine.clone()
    };
    machine.board.machine += ",gic-version=2";
    machine
}

/// Marks the real-time clock as one that a domain gets, and names the command line as Xen's: it takes `bootargs` for a dom0's.
fn for_xen(tree: &mut DeviceTree) {
    let name = |name: &str, value: &[u8]| DeviceTreeProperty::new(name, value.to_vec());
    if let (Some(clock), Ok(mark)) = (
        tree.find_node_mut("/pl031@9010000"),
        name("xen,passthrough", &[]),
    ) {
        clock.add_property(mark);
    }
    if let Some(chosen) = tree.find_node_mut("/chosen")
        && let Some(bootargs) = chosen.remove_property("bootargs")
        && let Ok(renamed) = name("xen,xen-bootargs", (&bootargs).value())
    {
        chosen.add_property(renamed);
    }
}

impl Xen {
    /// What is wanted of it.
    pub(super) fn measure(&self, machine: &Machine, wanted: Wanted<'_>) -> anyhow::Result<Samples> {
        if let Some(why) = &self.absent {
            return Ok(Samples::absent(why));
        }
        let place = tempfile::tempdir()?;
        let kernel = zimage(place.path(), 0)?;
        let name = format!("Xen{}", self.arguments);
        let mut samples = guest(
            &name,
            wanted,
            &[Source::Boot, Source::OwnRam],
            |run, words| {
                let text = self.console(&kernel, run, words)?;
                let mut samples = Samples::read(&text);
                samples.version = version(&text);
                samples.add(
                    "own_ram_bytes",
                    own_ram(&text, self.machine.board.memory, GUEST),
                );
                Ok(samples)
            },
        )?;
        if wanted.source(Source::Image) {
            samples.add(
                "image_bytes",
                [fs::metadata(Item::Xen.path())?.len() as f64],
            );
        }
        if wanted.source(Source::Linux) && self.arguments.is_empty() {
            let more = progress::step("boot Linux on Xen", Line::IfSlow, |_| {
                linux::on_xen(machine, self)
            })?;
            samples.add_all(more);
        }
        if wanted.source(Source::Sizes) && self.arguments.is_empty() {
            let more =
                progress::step("measure Xen on boards of other sizes", Line::IfSlow, |_| {
                    self.sizes(&kernel)
                })?;
            samples.take(Source::Sizes, &more);
        }
        if wanted.source(Source::Work) && self.arguments.is_empty() {
            let more = progress::step("work in Linux on Xen", Line::IfSlow, |_| {
                linux::work_on_xen(machine, self)
            })?;
            samples.add_all(more);
        }
        for (source, why) in [
            (Source::Emulated, "it emulates no clock"),
            (Source::Regions, "no regions"),
            (Source::Create, "no VM but a dom0 may create another"),
            (
                Source::Forwarded,
                "no other VM may emulate a device without a dom0",
            ),
            (Source::Sizes, "as without vwfi=native"),
            (Source::Linux, "as without vwfi=native"),
            (Source::Work, "as without vwfi=native"),
        ] {
            samples.lacks_all(source, why);
        }
        Ok(samples)
    }

    /// What it takes of boards with other RAM, and its way to the guest there.
    fn sizes(&self, kernel: &Path) -> anyhow::Result<Samples> {
        let place = tempfile::tempdir()?;
        let mut samples = Samples::default();
        for ram in size::BOARDS {
            let xen = self.on_board(Size::mib(ram)).laid_out(place.path())?;
            let spec = format!(
                "kernel={},name=bench,memory={},append=only=boot_to_guest",
                quoted(kernel),
                size::GUEST
            );
            let (boot, own) = (
                format!("boot_to_guest_{ram}m"),
                format!("own_ram_bytes_{ram}m"),
            );
            let text = xen.boot(&[spec], 1, FREE)?;
            let read = Samples::read(&text);
            let before = read.get("boot_to_guest").unwrap_or_default().to_vec();
            samples.add(&boot, before);
            samples.add(&own, own_ram(&text, xen.machine.board.memory, size::GUEST));
        }
        for section in size::SECTIONS {
            let name = section.trim_start_matches('.');
            samples.lacks(
                &format!("section_{name}_bytes"),
                "its package has no symbols",
            );
        }
        Ok(samples)
    }

    /// It on a board whose RAM is two slots, with one of them left for its heap.
    ///
    /// QEMU puts the device tree into the middle of so small a RAM, and what it takes for Linux to its start, so that neither is free:
    /// Xen then panics with "Not enough space for xenheap" before it has a console. As an image with an address of its own all of it lies
    /// in the second, the device tree right behind it: so the image has its whole length, with what Xen takes for variables.
    fn laid_out(self, place: &Path) -> anyhow::Result<Self> {
        let board = &self.machine.board;
        if board.memory.bytes() > 2 * SLOT {
            return Ok(self);
        }
        let load = u32::try_from(board.ram_base + SLOT)?;
        let mut xen = fs::read(Item::Xen.path())?;
        let end = xen.get(ZIMAGE_END).context("no header in Xen's image")?;
        xen.resize(u32::from_le_bytes(end.try_into()?) as usize, 0);
        let uimage = place.join("xen.uimage");
        fs::write(&uimage, image::uimage(&xen, load))?;
        let mut machine = Machine {
            load: Load::Uimage(load),
            clear: SLOT,
            bootargs: Some(format!("{ARGUMENTS}{} {SMALL}", self.arguments)),
            ..self.machine
        };
        machine.images.uimage = uimage;
        Ok(Self { machine, ..self })
    }

    /// What is printed while the bench guest runs, and where it runs alone the free memory after that.
    fn console(&self, kernel: &Path, run: &Run, words: &str) -> anyhow::Result<String> {
        let until = if run.source == Source::Alone {
            FREE
        } else {
            DONE
        };
        self.boot(&run.specs(&quoted(kernel), words), run.cpus, until)
    }

    /// What is printed until `until` matches, with domains as of `--vm` on so many CPUs. All get the machine's real-time clock, whose
    /// interrupt is the first one's; once the bench guest has done its work, Xen is asked for its free memory.
    fn boot(&self, specs: &[String], cpus: u32, until: &str) -> anyhow::Result<String> {
        let place = tempfile::tempdir()?;
        let mut machine = with_vms(&self.machine, cpus, specs)?;
        for (vm, interrupts) in machine
            .vms
            .iter_mut()
            .zip(iter::once(true).chain(iter::repeat(false)))
        {
            let file = place.path().join(format!("clock-{}.dtb", vm.name()));
            fs::write(&file, clock(interrupts)?.to_dtb())?;
            vm.add_tree(&file);
        }
        let monitor = place.path().join("monitor");
        if cpus > 1 {
            let socket = format!("unix:{},server=on,wait=off", quoted(&monitor));
            machine.more.extend(["-monitor".into(), socket.into()]);
        }
        let mut prepared = machine.prepare(&place.path().join("xen.dtb"))?;
        let _nudge = (cpus > 1).then(|| Nudge::begin(monitor));
        let session = Session {
            until: Some(console::expression(until).map_err(anyhow::Error::msg)?),
            timeout: Some(PATIENCE),
            input: Input::Script(vec![(Regex::new(DONE)?, ASK_MEMORY.into())]),
            show: false,
        };
        let outcome = console::run(&mut prepared.command, session)?;
        match outcome.ending {
            Ending::Matched => Ok(outcome.text),
            ending => bail!(
                "the guest did not end well on Xen ({ending:?}):\n{}",
                outcome.text
            ),
        }
    }

    /// It on a board with so much RAM.
    pub(super) fn on_board(&self, memory: Size) -> Self {
        let mut xen = self.clone();
        xen.machine.board.memory = memory;
        xen
    }

    /// What Debian's Linux prints with this initramfs until it has powered off, in a domain for each of these command lines.
    pub(super) fn linux(
        &self,
        initramfs: Item,
        memory: Size,
        arguments: &[&str],
    ) -> anyhow::Result<String> {
        let specs = arguments.iter().enumerate().map(|(index, arguments)| {
            let rest = rest(initramfs, memory, index);
            format!("kernel=debian:linux,{rest}console=ttyAMA0 {arguments}")
        });
        let specs: Vec<_> = specs.collect();
        let until = vec!["reboot: Power down"; specs.len()].join(r"[\s\S]*");
        Ok(of_guests(&self.boot(&specs, 1, &until)?))
    }

    /// The nanoseconds before its first instruction, which are those before the bench guest's, made as large.
    pub(super) fn before_linux(&self, initramfs: Item, memory: Size) -> anyhow::Result<f64> {
        let place = tempfile::tempdir()?;
        let size = fs::metadata(Item::Linux.path())?.len();
        let kernel = zimage(place.path(), usize::try_from(size)?)?;
        let rest = rest(initramfs, memory, 0);
        let spec = format!("kernel={},{rest}only=boot_to_guest", quoted(&kernel));
        let before = Samples::read(&self.boot(&[spec], 1, DONE)?);
        match before.get("boot_to_guest") {
            Some(&[before]) => Ok(before),
            _ => bail!("the way to the guest was not measured on Xen"),
        }
    }
}

/// All of a Linux's VM but its kernel and the rest of its command line.
fn rest(initramfs: Item, memory: Size, index: usize) -> String {
    let initramfs = initramfs.file();
    format!(
        "initrd={},name=linux{index},memory={memory},append=",
        initramfs.display()
    )
}

/// The real-time clock as a domain gets it: its registers, and with `interrupts` those.
fn clock(interrupts: bool) -> anyhow::Result<DeviceTree> {
    let mut tree = dts::parse(CLOCK).map_err(anyhow::Error::msg)?;
    if let Some(clock) = tree.find_node_mut("/passthrough/pl031@9010000")
        && !interrupts
    {
        // Xen takes the interrupt from the node of this path: each is one domain's.
        clock.remove_property("interrupts");
        clock.remove_property("xen,path");
    }
    Ok(tree)
}

/// The lines of the domains, without what Xen puts before them.
fn of_guests(console: &str) -> String {
    let lines = console.lines().filter_map(|line| {
        let (_, line) = line.split_once("DOM")?;
        let (_, line) = line.split_once(": ")?;
        Some(line.to_owned() + "\n")
    });
    lines.collect()
}

/// A file's name in a `--vm`, or in an option of QEMU's.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The RAM that is neither the guest's nor free, of a host with so much, by Xen's `m` key.
fn own_ram(console: &str, host: Size, guest: Size) -> Option<f64> {
    let free = |name: &str| -> Option<u64> {
        let text = console.split_once(name)?.1.split_once("kB free")?.0;
        Some(text.trim().parse::<u64>().ok()? * KIB)
    };
    let free = free("Xen heap:")? + free("Dom heap:")?;
    Some(host.bytes().checked_sub(free + guest.bytes())? as f64)
}

/// Xen's version by its first line.
fn version(console: &str) -> Option<String> {
    let text = console.split_once("(XEN) Xen version ")?.1;
    Some(text.split_whitespace().next()?.to_owned())
}

/// Stops and continues QEMU every few milliseconds until a guest runs.
///
/// Xen's CPUs wait for each other in plain loops while it boots. QEMU 7.2 with -icount gives the CPU to another one only when a
/// virtual timer is due, and no instructions to that one as the timer is due; each stop passes the CPU on. The wait's length is
/// in no figure: once the guest runs nothing is stopped any more.
struct Nudge {
    end: Arc<AtomicBool>,
}

impl Nudge {
    fn begin(socket: PathBuf) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        thread::spawn(move || {
            // Without the monitor the run comes to its time-out, which says what is to be said.
            let _ = nudge(&socket, &ended);
        });
        Self { end }
    }
}

impl Drop for Nudge {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
    }
}

fn nudge(socket: &Path, ended: &AtomicBool) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_millis(5);
    let begun = Instant::now();
    let mut monitor = loop {
        match UnixStream::connect(socket) {
            Ok(monitor) => break monitor,
            Err(_) if begun.elapsed() < PATIENCE && !ended.load(Ordering::Acquire) => {
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error).context("QEMU's monitor"),
        }
    };
    monitor.set_read_timeout(Some(PAUSE))?;
    let mut seen = String::new();
    while !ended.load(Ordering::Acquire) && !in_guest(&seen) {
        monitor.write_all(b"stop\ninfo registers -a\ncont\n")?;
        let mut bytes = [0; MIB as usize / 16];
        if let Ok(count) = monitor.read(&mut bytes) {
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        thread::sleep(PAUSE);
    }
    // QEMU drops what it has not read yet of a socket that closes: its last command would be `stop`, and the guest stand still.
    while !ended.load(Ordering::Acquire) {
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether a CPU was in SVC mode by QEMU's `info registers`: Xen itself is in Hyp mode.
fn in_guest(registers: &str) -> bool {
    registers
        .lines()
        .any(|line| line.starts_with("PSR=") && line.contains(" svc32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_ram_is_what_is_neither_free_nor_the_guests() {
        let console = "(XEN)     Xen heap: 32536kB free\n(XEN)     heap[19]: 353484kB free\n(XEN)     Dom heap: 353484kB free\n";
        let own = |console, host| own_ram(console, Size::mib(host), Size::mib(128));
        assert_eq!(own(console, 512), Some(7_368_704.0));
        assert_eq!(own(console, 256), None);
        assert_eq!(own("(XEN) Xen heap: 1kB free", 512), None);
    }

    #[test]
    fn the_guests_lines_are_told_from_xens() {
        let console = "(XEN) Freed 324kB init memory.\n(XEN) DOM1: [    0.1] a\n(XEN) d1v0: b\n(XEN) DOM1: DOM1: c\n";
        assert_eq!(of_guests(console), "[    0.1] a\nDOM1: c\n");
    }

    #[test]
    fn the_version_is_read_from_the_first_line() {
        assert_eq!(
            version("(XEN) Xen version 4.17.5 (Debian 4.17.5+72) (x@y) (gcc"),
            Some("4.17.5".into())
        );
        assert_eq!(version("no Xen"), None);
    }

    #[test]
    fn a_guest_is_told_from_xen_by_the_mode() {
        assert!(!in_guest(
            "PSR=2000005a --C- A hyp32\r\nPSR=600000da -ZC- A hyp32\r\n"
        ));
        assert!(in_guest(
            "PSR=2000005a --C- A hyp32\r\nPSR=600001d3 -ZC- A svc32\r\n"
        ));
    }

    #[test]
    fn the_clock_is_marked_and_described_at_one_address() {
        let source = "/dts-v1/;\n/ { chosen { bootargs = \"x\"; }; pl031@9010000 { compatible = \"arm,pl031\"; }; };";
        let mut tree = dts::parse(source).unwrap();
        for_xen(&mut tree);
        let printed = dts::print(&tree);
        assert!(
            printed.contains("xen,passthrough;") && printed.contains("\txen,xen-bootargs = \"x\";"),
            "{printed}"
        );
        assert!(!printed.contains("\tbootargs"), "{printed}");
        let partial = dts::print(&dts::parse(CLOCK).unwrap());
        assert!(
            partial.contains("xen,path = \"/pl031@9010000\";"),
            "{partial}"
        );
    }
}
