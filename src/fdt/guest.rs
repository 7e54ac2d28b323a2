//! The device tree that a guest is given: of QEMU's own (7.2, `-M virt,virtualization=off,gic-version=2`)
//! what is there.
//!
//! Nodes, names, properties and phandles are QEMU's, in QEMU's order; left out is what a VM has not:
//! PCI, GPIO, fw-cfg, the platform bus, message-signalled interrupts, PMU. It is written straight into
//! the flattened format: by way of a model of the tree it takes ten times the instructions.

use alloc::format;
use alloc::vec::Vec;

use super::tree::{cell, is_named};
use super::{Id, Range, RegionConfig, Served, Tree};
use crate::bus::{Places, RINGS, interrupt};

/// What there is to tell a guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guest<'a> {
    /// Where its RAM starts.
    pub ram: u32,
    /// Size of its RAM, bytes.
    pub memory: u64,
    /// Its CPUs, 1 to 8, whose affinity is their number.
    pub cpus: u32,
    /// Their `compatible`: "arm,cortex-a15".
    pub cpu: &'a str,
    /// Its command line.
    pub bootargs: &'a str,
    /// Where its initrd lies in its memory, below 4 GiB.
    pub initrd: Option<Range>,
    /// Random bytes: a seed for its generator, and one for its address space layout.
    pub seed: Option<&'a [u8; 40]>,
    /// Whether it has the two flash banks at 0.
    pub flash: bool,
    /// Whether it has the PL031.
    pub rtc: bool,
    /// Which of the 32 virtio-mmio slots are there, by bit.
    pub virtio: u32,
    /// Where its devices are.
    pub places: Places,
    /// Its regions.
    pub regions: &'a [RegionConfig],
    /// What it is the device model for, a ring each.
    pub serves: &'a [Served],
}

/// Phandle of the clock; those of the CPUs, the last one first, and of the interrupt controller follow.
const CLOCK: u32 = 0x8000;
/// Phandle of the interrupt controller in partial trees that are written for Xen.
const XEN_GIC: u32 = 0xfde8;
/// Kinds of interrupts in the GIC's binding, and their triggers.
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE: u32 = 1;
const LEVEL: u32 = 4;

impl Guest<'_> {
    /// The flattened tree.
    #[must_use]
    pub fn tree(&self) -> Vec<u8> {
        self.tree_with(None)
    }

    /// The flattened tree, with the devices that a partial tree describes below `/passthrough`.
    #[must_use]
    pub fn tree_with(&self, partial: Option<&Tree<'_, '_>>) -> Vec<u8> {
        let mut w = Writer::new(4096 + self.bootargs.len(), &[]);
        w.begin("");
        w.cells("interrupt-parent", &[self.intc()]);
        w.text("model", "linux,dummy-virt");
        w.cells("#size-cells", &[2]);
        w.cells("#address-cells", &[2]);
        w.text("compatible", "linux,dummy-virt");
        self.psci(&mut w);
        self.memory(&mut w, (2, 2));
        self.virtio(&mut w);
        self.devices(&mut w);
        self.regions(&mut w);
        self.rings(&mut w);
        self.intc_node(&mut w);
        self.flash(&mut w);
        self.cpus(&mut w);
        self.timer(&mut w);
        self.clock(&mut w);
        self.chosen(&mut w);
        if let Some(partial) = partial {
            for part in ["/aliases", "/passthrough"] {
                if let Some(id) = partial.find(part) {
                    self.copy(&mut w, partial, id);
                }
            }
        }
        w.end();
        w.finish()
    }

    /// A node of a partial tree, without what is Xen's. Where it has no `reg`, it gets that of `xen,reg`.
    #[cold]
    fn copy(&self, w: &mut Writer, partial: &Tree<'_, '_>, id: Id) {
        w.begin(partial.name(id));
        for property in partial.properties(id) {
            match property.name {
                "xen,reg" if partial.property(id, "reg").is_none() => {
                    let (address, size) = partial.cells(partial.parent(id));
                    let (at, whole) = (4 * (address + size), 4 * (2 * address + size));
                    let mut reg = Vec::new();
                    for triple in property.value.chunks_exact(whole.max(1)) {
                        reg.extend_from_slice(&triple[at..]);
                        reg.extend_from_slice(&triple[4 * address..at]);
                    }
                    w.value("reg", &reg);
                }
                "interrupt-parent" if cell(property.value) == Some(XEN_GIC) => {
                    w.cells("interrupt-parent", &[self.intc()]);
                }
                name if name.starts_with("xen,") => {}
                name => w.value(name, property.value),
            }
        }
        for child in partial.children(id) {
            self.copy(w, partial, child);
        }
        w.end();
    }

    /// A tree of the user's own, with what QEMU puts into a tree that it is given (`-dtb`): the RAM and
    /// the PSCI conduit that there are, the command line if there is one, and the initrd.
    #[must_use]
    pub fn adopt(&self, user: &Tree<'_, '_>) -> Vec<u8> {
        let mut w = Writer::new(4096 + self.bootargs.len(), user.reservations());
        let mut open: Vec<Id> = Vec::new();
        let replaced = |id| match user.place(id) {
            (name, None) => id != 0 && (name == "psci" || is_named(name, "memory")),
            _ => false,
        };
        for id in user.ids() {
            if replaced(id) || user.ancestors(id).any(replaced) {
                continue;
            }
            while open.last().is_some_and(|&last| last != user.parent(id)) {
                open.pop();
                w.end();
            }
            open.push(id);
            w.begin(if id == 0 { "" } else { user.name(id) });
            let is_chosen = user.place(id) == ("chosen", None);
            for property in user
                .properties(id)
                .filter(|p| !(is_chosen && self.says(p.name)))
            {
                w.value(property.name, property.value);
            }
            if is_chosen {
                self.boot(&mut w);
            }
            if id == 0 {
                self.psci(&mut w);
                self.memory(&mut w, user.cells(0));
            }
            if id == 0 && user.find("/chosen").is_none() {
                w.begin("chosen");
                self.boot(&mut w);
                w.end();
            }
        }
        for _ in open {
            w.end();
        }
        w.finish()
    }

    /// Whether `boot` says this.
    fn says(&self, property: &str) -> bool {
        match property {
            "bootargs" => !self.bootargs.is_empty(),
            "linux,initrd-start" | "linux,initrd-end" => true,
            _ => false,
        }
    }

    /// Phandle of the interrupt controller.
    fn intc(&self) -> u32 {
        CLOCK + self.cpus + 1
    }

    fn psci(&self, w: &mut Writer) {
        w.begin("psci");
        w.cells("migrate", &[0x8400_0005]);
        w.cells("cpu_on", &[0x8400_0003]);
        w.cells("cpu_off", &[0x8400_0002]);
        w.cells("cpu_suspend", &[0x8400_0001]);
        w.text("method", "hvc");
        w.text("compatible", "arm,psci-1.0\0arm,psci-0.2\0arm,psci");
        w.end();
    }

    fn memory(&self, w: &mut Writer, (address_cells, size_cells): (usize, usize)) {
        w.begin(&format!("memory@{:x}", self.ram));
        let (start, size) = (
            [0, self.ram],
            [(self.memory >> 32) as u32, self.memory as u32],
        );
        w.cells(
            "reg",
            &[
                &start[2 - address_cells.min(2)..],
                &size[2 - size_cells.min(2)..],
            ]
            .concat(),
        );
        w.text("device_type", "memory");
        w.end();
    }

    fn virtio(&self, w: &mut Writer) {
        for slot in (0..32).filter(|slot| self.virtio >> slot & 1 != 0) {
            let start = 0x0a00_0000 + 0x200 * slot;
            w.begin(&format!("virtio_mmio@{start:x}"));
            w.value("dma-coherent", &[]);
            w.cells("interrupts", &[SPI, 16 + slot, EDGE]);
            w.cells("reg", &[0, start, 0, 0x200]);
            w.text("compatible", "virtio,mmio");
            w.end();
        }
    }

    fn devices(&self, w: &mut Writer) {
        let Places { uart, rtc, .. } = self.places;
        if self.rtc {
            w.begin(&format!("pl031@{rtc:x}"));
            w.text("clock-names", "apb_pclk");
            w.cells("clocks", &[CLOCK]);
            w.cells("interrupts", &[SPI, 2, LEVEL]);
            w.cells("reg", &[0, rtc, 0, 0x1000]);
            w.text("compatible", "arm,pl031\0arm,primecell");
            w.end();
        }
        w.begin(&format!("pl011@{uart:x}"));
        w.text("clock-names", "uartclk\0apb_pclk");
        w.cells("clocks", &[CLOCK, CLOCK]);
        w.cells("interrupts", &[SPI, 1, LEVEL]);
        w.cells("reg", &[0, uart, 0, 0x1000]);
        w.text("compatible", "arm,pl011\0arm,primecell");
        w.end();
    }

    /// What the description says of regions that the guest has drivers for.
    fn regions(&self, w: &mut Writer) {
        for region in self
            .regions
            .iter()
            .filter(|region| !region.properties.is_empty())
        {
            w.begin(&region.name);
            for (name, value) in &region.properties {
                w.value(name, value);
            }
            w.end();
        }
    }

    fn rings(&self, w: &mut Writer) {
        for (number, served) in (0..).zip(self.serves) {
            let page = RINGS + 0x1000 * number;
            w.begin(&format!("device-model@{page:x}"));
            w.cells("armillary,size", &[served.size]);
            w.text("armillary,region", &served.region);
            w.cells("armillary,ring", &[number]);
            w.cells("interrupts", &[SPI, interrupt::RINGS - 32 + number, EDGE]);
            w.cells("reg", &[0, page, 0, 0x1000]);
            w.text("compatible", "armillary,device-model");
            w.end();
        }
    }

    fn intc_node(&self, w: &mut Writer) {
        let Places { gicd, gicc, .. } = self.places;
        // QEMU's are larger than what is there.
        let sizes = if (gicd, gicc) == (Places::QEMU.gicd, Places::QEMU.gicc) {
            [0x1_0000; 2]
        } else {
            [0x1000, 0x2000]
        };
        w.begin(&format!("intc@{gicd:x}"));
        w.cells("phandle", &[self.intc()]);
        w.cells("reg", &[0, gicd, 0, sizes[0], 0, gicc, 0, sizes[1]]);
        w.text("compatible", "arm,cortex-a15-gic");
        w.value("ranges", &[]);
        w.cells("#size-cells", &[2]);
        w.cells("#address-cells", &[2]);
        w.value("interrupt-controller", &[]);
        w.cells("#interrupt-cells", &[3]);
        w.end();
    }

    fn flash(&self, w: &mut Writer) {
        if self.flash {
            w.begin("flash@0");
            w.cells("bank-width", &[4]);
            w.cells(
                "reg",
                &[0, 0, 0, 0x0400_0000, 0, 0x0400_0000, 0, 0x0400_0000],
            );
            w.text("compatible", "cfi-flash");
            w.end();
        }
    }

    fn cpus(&self, w: &mut Writer) {
        let phandle = |cpu| CLOCK + self.cpus - cpu;
        w.begin("cpus");
        w.cells("#size-cells", &[0]);
        w.cells("#address-cells", &[1]);
        w.begin("cpu-map");
        w.begin("socket0");
        w.begin("cluster0");
        for cpu in 0..self.cpus {
            w.begin(&format!("core{cpu}"));
            w.cells("cpu", &[phandle(cpu)]);
            w.end();
        }
        w.end();
        w.end();
        w.end();
        for cpu in 0..self.cpus {
            w.begin(&format!("cpu@{cpu:x}"));
            w.cells("phandle", &[phandle(cpu)]);
            w.cells("reg", &[cpu]);
            if self.cpus > 1 {
                w.text("enable-method", "psci");
            }
            w.text("compatible", self.cpu);
            w.text("device_type", "cpu");
            w.end();
        }
        w.end();
    }

    fn timer(&self, w: &mut Writer) {
        let trigger = ((1 << self.cpus) - 1) << 8 | LEVEL;
        w.begin("timer");
        w.cells(
            "interrupts",
            &[
                PPI, 13, trigger, PPI, 14, trigger, PPI, 11, trigger, PPI, 10, trigger,
            ],
        );
        w.value("always-on", &[]);
        w.text("compatible", "arm,armv7-timer");
        w.end();
    }

    fn clock(&self, w: &mut Writer) {
        w.begin("apb-pclk");
        w.cells("phandle", &[CLOCK]);
        w.text("clock-output-names", "clk24mhz");
        w.cells("clock-frequency", &[24_000_000]);
        w.cells("#clock-cells", &[0]);
        w.text("compatible", "fixed-clock");
        w.end();
    }

    fn chosen(&self, w: &mut Writer) {
        w.begin("chosen");
        self.boot(w);
        w.text("stdout-path", &format!("/pl011@{:x}", self.places.uart));
        if let Some((rng, kaslr)) = self.seed.map(|seed| seed.split_at(32)) {
            w.value("rng-seed", rng);
            w.value("kaslr-seed", kaslr);
        }
        w.end();
    }

    /// What is the boot loader's to say in `/chosen`.
    fn boot(&self, w: &mut Writer) {
        if let Some(initrd) = self.initrd {
            w.cells("linux,initrd-end", &[initrd.end().0 as u32]);
            w.cells("linux,initrd-start", &[initrd.start.0 as u32]);
        }
        if !self.bootargs.is_empty() {
            w.text("bootargs", self.bootargs);
        }
    }
}

/// Writes a tree in the flattened format, version 17: header, memory reservations, structure, strings.
struct Writer {
    /// The words of the first three.
    tree: Vec<[u8; 4]>,
    /// Where the structure block starts, words.
    structure: usize,
    /// The strings block. A name is written as often as it is used: to look for it costs more than
    /// its bytes.
    strings: Vec<u8>,
}

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const END: u32 = 9;
/// Where the memory reservations start, bytes.
const RESERVATIONS: usize = 40;

impl Writer {
    /// A writer for a tree of some `capacity` bytes.
    fn new(capacity: usize, reservations: &[Range]) -> Self {
        let mut writer = Self {
            tree: Vec::with_capacity(capacity / 4),
            structure: 0,
            strings: Vec::with_capacity(1024),
        };
        writer.tree.resize(RESERVATIONS / 4, [0; 4]);
        for range in reservations.iter().chain([&Range::default()]) {
            for number in [range.start.0, range.size] {
                writer.word((number >> 32) as u32);
                writer.word(number as u32);
            }
        }
        writer.structure = writer.tree.len();
        writer
    }

    fn word(&mut self, word: u32) {
        self.tree.push(word.to_be_bytes());
    }

    /// Bytes with zeroes up to a whole word, at least one where they are `text`.
    fn bytes(&mut self, bytes: &[u8], text: bool) {
        let (words, rest) = bytes.as_chunks();
        self.tree.extend_from_slice(words);
        if text || !rest.is_empty() {
            let mut last = [0; 4];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            self.tree.push(last);
        }
    }

    fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.bytes(name.as_bytes(), true);
    }

    fn end(&mut self) {
        self.word(END_NODE);
    }

    fn property(&mut self, name: &str, size: usize) {
        self.word(PROP);
        self.word(size as u32);
        self.word(self.strings.len() as u32);
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
    }

    fn value(&mut self, name: &str, value: &[u8]) {
        self.property(name, value.len());
        self.bytes(value, false);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.property(name, text.len() + 1);
        self.bytes(text.as_bytes(), true);
    }

    fn cells(&mut self, name: &str, cells: &[u32]) {
        self.property(name, 4 * cells.len());
        for &cell in cells {
            self.word(cell);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.word(END);
        let (structure, strings, size) =
            (4 * self.structure, 4 * self.tree.len(), self.strings.len());
        let header = [
            0xd00d_feed,
            strings + size,
            structure,
            strings,
            RESERVATIONS,
            17,
            16,
            0,
            size,
            strings - structure,
        ];
        for (field, value) in self.tree.iter_mut().zip(header) {
            *field = (value as u32).to_be_bytes();
        }
        let mut tree = self.tree.into_flattened();
        tree.append(&mut self.strings);
        tree
    }
}
