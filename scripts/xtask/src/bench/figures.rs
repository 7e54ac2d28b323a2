//! Figures: what is measured, in what unit, by which run; and what a console or a log says of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Instructions of one operation.
    Instructions,
    /// Bytes.
    Bytes,
    /// Millionths of the instructions that the bare machine takes.
    Ppm,
}

/// Which run gives a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The bench guest alone on one CPU.
    Alone,
    /// Two vCPUs on two CPUs that interrupt each other.
    TwoCpus,
    /// Two vCPUs on two CPUs, of which one starts the other.
    CpuOn,
    /// Two vCPUs on one CPU that interrupt each other.
    OneCpu,
    /// Two VMs on one CPU that give it to each other.
    Switch,
    /// Two vCPUs of one VM on one CPU that give it to each other.
    SwitchOwn,
    /// Two vCPUs on one CPU, both in WFI.
    Wakeup,
    /// The bench guest alone, whose clock is emulated.
    Emulated,
    /// A VM that creates others.
    Create,
    /// A VM with regions.
    Regions,
    /// A VM whose device another one emulates.
    Forwarded,
    /// The way from reset to the guest.
    Boot,
    /// The image.
    Image,
    /// What the hypervisor says of its own RAM.
    OwnRam,
    /// The image's sections, and boards with more or less RAM.
    Sizes,
    /// Linux to its first process.
    Linux,
    /// A Linux that works.
    Work,
}

/// One line of what is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// The name in JSON, budgets and on the guest's console.
    pub(super) name: &'static str,
    /// What it is, for people.
    pub(super) what: &'static str,
    /// What it counts.
    pub(super) unit: Unit,
    /// What measures it.
    pub(super) source: Source,
}

impl Unit {
    /// Its name in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Bytes => "bytes",
            Self::Ppm => "ppm",
        }
    }

    /// What follows a figure's description where it is not instructions.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Instructions => "",
            Self::Bytes => ", bytes",
            Self::Ppm => ", ppm above the bare machine",
        }
    }
}

impl Kind {
    /// Whether it is one of many of a kind that a guest does, on every system.
    pub(super) fn is_operation(&self) -> bool {
        ![
            Source::Boot,
            Source::Create,
            Source::Regions,
            Source::Forwarded,
            Source::Sizes,
        ]
        .contains(&self.source)
    }
}

const fn kind(name: &'static str, source: Source, what: &'static str) -> Kind {
    Kind {
        name,
        what,
        unit: Unit::Instructions,
        source,
    }
}

const fn other(name: &'static str, unit: Unit, source: Source, what: &'static str) -> Kind {
    Kind {
        name,
        what,
        unit,
        source,
    }
}

const fn size(name: &'static str, what: &'static str) -> Kind {
    other(name, Unit::Bytes, Source::Sizes, what)
}

const fn work(name: &'static str, what: &'static str) -> Kind {
    other(name, Unit::Ppm, Source::Work, what)
}

/// All that is measured, in the order in which it is shown.
pub(super) const KINDS: &[Kind] = &[
    kind("null_hypercall", Source::Alone, "null hypercall"),
    kind("psci_version", Source::Alone, "PSCI_VERSION by HVC"),
    kind(
        "cp15_trap",
        Source::Alone,
        "read of a trapped CP15 register: ACTLR",
    ),
    kind(
        "cp15_timer_read",
        Source::Alone,
        "read of the physical timer's control register",
    ),
    kind(
        "gicd_read",
        Source::Alone,
        "load from a register of the interrupt distributor",
    ),
    kind(
        "gicd_write",
        Source::Alone,
        "store to a register of the interrupt distributor",
    ),
    kind(
        "uart_read",
        Source::Alone,
        "load from a register of the UART",
    ),
    kind(
        "uart_char",
        Source::Alone,
        "a character to the console, driver included",
    ),
    kind(
        "nosyndrome_store",
        Source::Alone,
        "store without syndrome (writeback) to a register of the UART",
    ),
    kind(
        "unmapped",
        Source::Alone,
        "load from where nothing is, to behind the handler of its abort",
    ),
    kind(
        "first_touch",
        Source::Alone,
        "first store to a page, above any later one",
    ),
    kind(
        "region_read",
        Source::Regions,
        "load from a region of zeroes",
    ),
    kind(
        "gicd_read_1000_more",
        Source::Regions,
        "load from the distributor: what 1,000 regions add",
    ),
    kind(
        "uart_read_1000_more",
        Source::Regions,
        "load from the UART: what 1,000 regions add",
    ),
    kind(
        "region_read_1000_more",
        Source::Regions,
        "load from a region: what 1,000 regions add",
    ),
    kind(
        "forwarded",
        Source::Forwarded,
        "load from a device that a VM on another CPU, in WFI until then, emulates; both CPUs",
    ),
    kind(
        "sgi_self",
        Source::Alone,
        "interrupt to itself (SGI), store to handler",
    ),
    kind(
        "vtimer_spin",
        Source::Alone,
        "virtual timer, deadline to handler, spinning",
    ),
    kind(
        "vtimer_wfi",
        Source::Alone,
        "virtual timer, deadline to handler, in WFI",
    ),
    kind(
        "vtimer_spin_10us",
        Source::Alone,
        "virtual timer, spinning, 10 µs instead of 100 µs ahead",
    ),
    kind(
        "vtimer_wfi_10us",
        Source::Alone,
        "virtual timer, in WFI, 10 µs ahead",
    ),
    kind(
        "vtimer_wfi_24us",
        Source::Alone,
        "virtual timer, in WFI, 24 µs ahead",
    ),
    kind(
        "vtimer_wfi_1ms",
        Source::Alone,
        "virtual timer, in WFI, 1 ms ahead",
    ),
    kind(
        "wakeup",
        Source::Wakeup,
        "virtual timer, in WFI on a CPU that two waiting vCPUs share",
    ),
    kind(
        "ptimer",
        Source::Alone,
        "physical timer, deadline to handler, spinning",
    ),
    kind(
        "ptimer_wfi",
        Source::Alone,
        "physical timer, deadline to handler, in WFI",
    ),
    kind(
        "device_irq_spin",
        Source::Alone,
        "interrupt of a passed-through device, the real-time clock, to handler, spinning",
    ),
    kind(
        "device_irq_wfi",
        Source::Alone,
        "interrupt of a passed-through device, the real-time clock, to handler, in WFI",
    ),
    kind(
        "device_irq_emulated_spin",
        Source::Emulated,
        "interrupt of an emulated real-time clock to handler, spinning",
    ),
    kind(
        "device_irq_emulated_wfi",
        Source::Emulated,
        "interrupt of an emulated real-time clock to handler, in WFI",
    ),
    kind(
        "ipi_two_cpus_wfi",
        Source::TwoCpus,
        "interrupt to the other CPU's vCPU and back (IPI), in WFI; both CPUs",
    ),
    kind(
        "ipi_two_cpus_spin",
        Source::TwoCpus,
        "interrupt to the other CPU's vCPU and back (IPI), spinning; both CPUs",
    ),
    kind(
        "ipi_one_cpu",
        Source::OneCpu,
        "interrupt to the other vCPU on the same CPU and back (IPI), in WFI",
    ),
    kind(
        "cpu_on",
        Source::CpuOn,
        "CPU_ON, call to the other CPU's first instruction; both CPUs",
    ),
    kind(
        "vcpu_switch",
        Source::Switch,
        "switch to another VM's vCPU on the same CPU, by yielding",
    ),
    kind(
        "vcpu_switch_vfp",
        Source::Switch,
        "the same, where both use VFP after each",
    ),
    kind(
        "vfp_first_use",
        Source::Switch,
        "use of VFP after a switch, above the switch",
    ),
    kind(
        "vcpu_switch_own",
        Source::SwitchOwn,
        "switch to the VM's other vCPU on the same CPU, by yielding",
    ),
    kind(
        "vcpu_switch_vfp_own",
        Source::SwitchOwn,
        "the same, where both use VFP after each",
    ),
    kind(
        "vfp_first_use_own",
        Source::SwitchOwn,
        "use of VFP after a switch within a VM, above the switch",
    ),
    other(
        "plain_ppm",
        Unit::Ppm,
        Source::Alone,
        "200 million plain instructions",
    ),
    other(
        "linux_quiet_ppm",
        Unit::Ppm,
        Source::Linux,
        "Debian's Linux to its first process, `quiet`",
    ),
    other(
        "linux_verbose_ppm",
        Unit::Ppm,
        Source::Linux,
        "Debian's Linux to its first process, with its messages on the console",
    ),
    work(
        "linux_syscalls_ppm",
        "Linux: 100,000 reads and writes of one byte",
    ),
    work(
        "linux_switches_ppm",
        "Linux: a byte 5,000 times round between two processes",
    ),
    work("linux_forks_ppm", "Linux: 100 programs started, one by one"),
    work("linux_pipe_ppm", "Linux: 62 MiB through a pipe"),
    work(
        "linux_hackbench_ppm",
        "Linux: hackbench, 8 senders to 8 receivers, 1,000 messages each to each",
    ),
    work(
        "linux_hackbench_other_ppm",
        "Linux: the same, in turns by its default scheduler",
    ),
    work(
        "linux_two_vms_ppm",
        "two Linux VMs at once on one CPU with all of these, against two one after the other",
    ),
    kind(
        "vm_create",
        Source::Create,
        "creation of a VM of 4 MiB by another one, call to the new one's first instruction",
    ),
    kind(
        "vm_create_mib",
        Source::Create,
        "the same, what another MiB adds",
    ),
    kind(
        "boot_to_guest",
        Source::Boot,
        "reset to the guest's first instruction",
    ),
    other("image_bytes", Unit::Bytes, Source::Image, "image"),
    other(
        "own_ram_bytes",
        Unit::Bytes,
        Source::OwnRam,
        "RAM of its own",
    ),
    size("section_text_bytes", "code, in whole pages"),
    size("section_rodata_bytes", "constants, in whole pages"),
    size("section_data_bytes", "initialised variables"),
    size("section_bss_bytes", "other variables, tables, stacks"),
    size("section_unpack_bytes", "what unpacks the image"),
    size("own_ram_bytes_64m", "RAM of its own on a board with 64 MiB"),
    size("own_ram_bytes_512m", "the same with 512 MiB"),
    size("own_ram_bytes_2048m", "the same with 2 GiB"),
    kind(
        "boot_to_guest_64m",
        Source::Sizes,
        "reset to the first instruction of a guest of 32 MiB, on a board with 64 MiB",
    ),
    kind("boot_to_guest_512m", Source::Sizes, "the same with 512 MiB"),
    kind("boot_to_guest_2048m", Source::Sizes, "the same with 2 GiB"),
];

/// What a name stands for.
pub(super) fn known(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Which figures are wanted: all, the one of this name, or those with this in their names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a>(pub(super) Option<&'a str>);

impl Wanted<'_> {
    /// Whether this one is.
    pub(super) fn figure(self, name: &str) -> bool {
        self.0.is_none_or(|word| match known(word) {
            Some(kind) => kind.name == name,
            None => name.contains(word),
        })
    }

    /// Whether one of this source's is.
    pub(super) fn source(self, source: Source) -> bool {
        KINDS
            .iter()
            .any(|kind| kind.source == source && self.figure(kind.name))
    }
}

/// One figure: the spread of its values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    #[serde(serialize_with = "number")]
    pub(super) min: f64,
    #[serde(serialize_with = "number")]
    pub(super) median: f64,
    #[serde(serialize_with = "number")]
    pub(super) max: f64,
    pub(super) n: usize,
}

/// A whole number without a fraction.
fn number<S: serde::Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 {
        out.serialize_i64(*value as i64)
    } else {
        out.serialize_f64(*value)
    }
}

/// Figures by name.
pub type Figures = BTreeMap<String, Figure>;

impl Figure {
    /// The figure of these values, of which there is at least one.
    fn of(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        values.sort_unstable_by(f64::total_cmp);
        let median = *values.get(values.len() / 2)?;
        Some(Self {
            min: *values.first()?,
            median,
            max: *values.last()?,
            n: values.len(),
        })
    }
}

/// What was measured on one system: samples by the figure's name, and for others why there are none.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    values: BTreeMap<String, Vec<f64>>,
    absent: BTreeMap<String, String>,
    /// The system's version, where it says one.
    pub(super) version: Option<String>,
}

impl Samples {
    /// Those of the console's lines `BENCH name value` and `SKIP name why`, behind whatever prefix.
    pub(super) fn read(console: &str) -> Self {
        let mut this = Self::default();
        for line in console.lines() {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| !["BENCH", "SKIP"].contains(word));
            match (words.next(), words.next(), words.next()) {
                (Some("BENCH"), Some(name), Some(value)) => {
                    if let Ok(value) = value.parse() {
                        this.add(name, [value]);
                    }
                }
                (Some("SKIP"), Some(name), Some(first)) => {
                    let why = words.fold(first.to_owned(), |why, word| why + " " + word);
                    this.lacks(name, why);
                }
                _ => {}
            }
        }
        this
    }

    /// None at all, and why.
    pub(super) fn absent(why: &str) -> Self {
        let mut this = Self::default();
        for kind in KINDS {
            this.lacks(kind.name, why.lines().next().unwrap_or_default());
        }
        this
    }

    /// More samples of a figure.
    pub(super) fn add(&mut self, name: &str, values: impl IntoIterator<Item = f64>) {
        self.values.entry(name.into()).or_default().extend(values);
    }

    /// More samples of figures, by name.
    pub(super) fn add_all<V: IntoIterator<Item = f64>>(
        &mut self,
        figures: impl IntoIterator<Item = (String, V)>,
    ) {
        for (name, values) in figures {
            self.add(&name, values);
        }
    }

    /// Adds a figure that says how much more `of` is than `from`, sample by sample; or why one of them is absent.
    pub(super) fn difference(&mut self, name: &str, of: &str, from: &str) {
        if let (Some(of), Some(from)) = (self.get(of), self.get(from)) {
            let more = differences(of, from);
            self.add(name, more);
        } else if let Some(why) = [of, from].iter().find_map(|name| self.absent.get(*name)) {
            self.lacks(name, why.clone());
        }
    }

    /// Why a figure can't be had.
    pub(super) fn lacks(&mut self, name: &str, why: impl Into<String>) {
        self.absent.insert(name.into(), why.into());
    }

    /// Why all figures of a source can't be had.
    pub(super) fn lacks_all(&mut self, source: Source, why: &str) {
        for kind in KINDS.iter().filter(|kind| kind.source == source) {
            self.lacks(kind.name, why);
        }
    }

    /// The samples of a figure.
    pub(super) fn get(&self, name: &str) -> Option<&[f64]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// Takes those of `other` that are of `source`, and its version.
    pub(super) fn take(&mut self, source: Source, other: &Self) {
        if let Some(version) = &other.version {
            self.version = Some(version.clone());
        }
        let of = |name: &String| known(name).is_some_and(|kind| kind.source == source);
        for (name, values) in other.values.iter().filter(|(name, _)| of(name)) {
            self.add(name, values.iter().copied());
        }
        let absent = other.absent.iter().filter(|(name, _)| of(name));
        self.absent
            .extend(absent.map(|(name, why)| (name.clone(), why.clone())));
    }

    /// The wanted figures.
    pub(super) fn figures(&self, wanted: Wanted<'_>) -> Figures {
        let values = self.values.iter().filter(|(name, _)| wanted.figure(name));
        values
            .filter_map(|(name, values)| Some((name.clone(), Figure::of(values)?)))
            .collect()
    }

    /// Why figures are absent, by their names.
    pub(super) fn into_absent(self) -> BTreeMap<String, String> {
        self.absent
    }
}

/// What those of `more` are above those of `less`, to the tenth that samples have.
pub(super) fn differences(more: &[f64], less: &[f64]) -> Vec<f64> {
    let pairs = more.iter().zip(less);
    pairs
        .map(|(more, less)| ((more - less) * 10.0).round() / 10.0)
        .collect()
}

/// As for tables: thousands apart, one digit of a fraction at most.
impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&grouped(self.median))
    }
}

/// A number with its thousands apart, and one digit of a fraction unless that is 0.
pub(super) fn grouped(value: f64) -> String {
    let text = format!("{:.1}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    let mut shown = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    if fraction != "0" {
        shown.push('.');
        shown.push_str(fraction);
    }
    let negative = value < 0.0 && shown != "0";
    if negative {
        format!("−{shown}")
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_lines_of_a_figure_become_its_spread() {
        let console = "BENCH a 3.5\n[bench] BENCH a 9\n(XEN) DOM1: BENCH a 5\nBENCH b 1\nBENCH c\nBENCH c x\nSKIP d no such thing\n";
        let samples = Samples::read(console);
        let figures = samples.figures(Wanted(None));
        assert_eq!(
            figures["a"],
            Figure {
                min: 3.5,
                median: 5.0,
                max: 9.0,
                n: 3
            }
        );
        assert_eq!(figures.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(samples.into_absent()["d"], "no such thing");
    }

    #[test]
    fn a_name_is_wanted_exactly_and_a_part_of_names_by_all_that_have_it() {
        assert!(Wanted(Some("vtimer_wfi")).figure("vtimer_wfi"));
        assert!(!Wanted(Some("vtimer_wfi")).figure("vtimer_wfi_1ms"));
        assert!(Wanted(Some("ipi")).figure("ipi_one_cpu"));
        assert!(Wanted(Some("ipi")).source(Source::TwoCpus));
        assert!(!Wanted(Some("ipi")).source(Source::Alone));
        assert!(!Wanted(Some("nonsense")).source(Source::Alone));
    }

    #[test]
    fn samples_of_another_source_are_left() {
        let mut samples = Samples::default();
        let more = Samples::read(
            "BENCH vcpu_switch 5\nBENCH gicd_read 6\nSKIP vfp_first_use why\nSKIP uart_read why\n",
        );
        samples.take(Source::Switch, &more);
        assert_eq!(samples.get("vcpu_switch"), Some(&[5.0][..]));
        assert_eq!(samples.get("gicd_read"), None);
        let absent = samples.into_absent();
        assert_eq!(absent.keys().collect::<Vec<_>>(), ["vfp_first_use"]);
    }

    #[test]
    fn a_difference_is_taken_sample_by_sample_or_is_absent_as_its_parts_are() {
        let mut samples =
            Samples::read("BENCH a 5.3\nBENCH b 2.1\nBENCH a 7\nBENCH b 4\nSKIP c why\n");
        samples.difference("d", "a", "b");
        samples.difference("e", "a", "c");
        samples.difference("f", "a", "nothing");
        assert_eq!(samples.get("d"), Some(&[3.2, 3.0][..]));
        assert_eq!(samples.get("e"), None);
        let absent = samples.into_absent();
        assert_eq!(
            (absent.get("e").map(|why| &**why), absent.get("f")),
            (Some("why"), None)
        );
    }

    #[test]
    fn every_figure_has_a_name_of_its_own() {
        for (at, kind) in KINDS.iter().enumerate() {
            assert!(
                KINDS[..at].iter().all(|other| other.name != kind.name),
                "{}",
                kind.name
            );
        }
    }

    #[test]
    fn numbers_are_shown_with_their_thousands_apart() {
        for (value, shown) in [
            (0.0, "0"),
            (-0.04, "0"),
            (7.25, "7.2"),
            (999.96, "1,000"),
            (-97.0, "−97"),
            (1234567.0, "1,234,567"),
        ] {
            assert_eq!(grouped(value), shown);
        }
    }
}
