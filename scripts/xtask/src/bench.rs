//! `cargo xtask bench`: instructions of each operation, exact by `-icount`, and sizes: of the bare machine, of Armillary, of Xen.
//!
//! One guest measures on all three: it prints `BENCH name count`, once or several times a figure, or `SKIP name why`. The
//! hypervisor's own figures come from its image and its log, and the way from reset to the guest's first instruction is
//! counted in QEMU's execution trace.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use regex::Regex;

use crate::board::{self, Board};
use crate::build;
use crate::cli::Bench;
use crate::console::{self, Ending, Input, Session};
use crate::debian;
use crate::failure::unusable;
use crate::image::{self, Images};
use crate::progress::{self, Line};
use crate::qemu::{Load, Machine};
use crate::setup;
use crate::size::Size;
use crate::vm::Vm;

pub use figures::{Figure, Figures};
use figures::{KINDS, Samples, Source, Wanted, differences, known};

mod chart;
mod create;
mod explain;
mod figures;
mod linux;
mod native;
mod report;
mod size;
mod symbols;
mod targets;
mod trace;
mod tracer;
mod xen;

/// The real-time clock begins at 0 and counts virtual time, as everything else.
const CLOCK: [&str; 2] = ["-rtc", "base=1970-01-01T00:00:00,clock=vm"];
/// The board's real-time clock, whose interrupt is measured.
const PASSED: &str = "passthrough=/pl031@9010000";
/// The longest that a guest may take: the longest takes a minute and a half where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(600);
/// The host's RAM.
const HOST: Size = Size::mib(512);
/// The guest's.
const GUEST: Size = Size::mib(128);
/// Where the image is loaded to count its way to the guest: nowhere near the guest's own addresses.
const APART: u32 = 0x4800_0000;

/// Where a zImage's header has where it begins, and where it ends.
const ZIMAGE_BEGIN: Range<usize> = 0x28..0x2c;
const ZIMAGE_END: Range<usize> = 0x2c..0x30;

/// A run of the bench guest.
#[derive(Clone, Copy)]
struct Run {
    source: Source,
    cpus: u32,
    vcpus: u32,
    /// The guest's command line.
    words: &'static str,
    /// That of the same guest in another VM on its CPU, if there is one.
    beside: Option<&'static str>,
}

const RUNS: [Run; 8] = [
    Run {
        source: Source::Alone,
        ..ONE
    },
    Run {
        source: Source::TwoCpus,
        cpus: 2,
        vcpus: 2,
        words: "only=ipi",
        ..ONE
    },
    Run {
        source: Source::CpuOn,
        cpus: 2,
        vcpus: 2,
        words: "only=cpu_on",
        ..ONE
    },
    Run {
        source: Source::OneCpu,
        vcpus: 2,
        words: "one_cpu only=ipi",
        ..ONE
    },
    Run {
        source: Source::Switch,
        words: "beside",
        beside: Some("give"),
        ..ONE
    },
    Run {
        source: Source::Switch,
        words: "beside vfp",
        beside: Some("give vfp"),
        ..ONE
    },
    Run {
        source: Source::SwitchOwn,
        vcpus: 2,
        words: "one_cpu only=vcpu_switch",
        ..ONE
    },
    Run {
        source: Source::Wakeup,
        vcpus: 2,
        words: "one_cpu only=wakeup",
        ..ONE
    },
];

/// One vCPU that has one CPU for itself.
const ONE: Run = Run {
    source: Source::Alone,
    cpus: 1,
    vcpus: 1,
    words: "",
    beside: None,
};

impl Run {
    /// The guest's command line for what is wanted.
    fn words(&self, wanted: Wanted<'_>) -> String {
        match (wanted.0, self.source) {
            (Some(word), Source::Alone) => format!("only={word}"),
            _ => self.words.into(),
        }
    }

    /// The VMs, as of `--vm`, that run `kernel` with this command line.
    fn specs(&self, kernel: &str, words: &str) -> Vec<String> {
        let vm = |name: &str, vcpus: u32, words: &str| {
            format!("kernel={kernel},name={name},memory={GUEST},cpus={vcpus},append={words}")
        };
        let mut specs = vec![vm("bench", self.vcpus, words)];
        specs.extend(self.beside.map(|words| vm("beside", 1, words)));
        specs
    }

    /// What is run, for people.
    fn title(&self, system: &str) -> String {
        match self {
            Self {
                beside: Some(_), ..
            } => format!("run it in two VMs on one CPU, {system}"),
            Self { vcpus: 1, .. } => format!("run the bench guest on {system}"),
            Self { cpus: 1, .. } => format!("run it with two vCPUs on one CPU, {system}"),
            _ => format!("run it with two vCPUs on two CPUs, {system}"),
        }
    }
}

/// The runs of the bench guest that are wanted, on a system called `system`; the one alone gives figures of the sources `also`, too.
fn guest(
    system: &str,
    wanted: Wanted<'_>,
    also: &[Source],
    measure: impl Fn(&Run, &str) -> anyhow::Result<Samples>,
) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for run in &RUNS {
        let mut sources = vec![run.source];
        if run.source == Source::Alone {
            sources.extend(also);
        }
        if !sources.iter().any(|source| wanted.source(*source)) {
            continue;
        }
        let more = progress::step(&run.title(system), Line::IfSlow, |_| {
            measure(run, &run.words(wanted))
        })?;
        for source in sources {
            samples.take(source, &more);
        }
    }
    samples.difference("vfp_first_use", "vcpu_switch_vfp", "vcpu_switch");
    samples.difference(
        "vfp_first_use_own",
        "vcpu_switch_vfp_own",
        "vcpu_switch_own",
    );
    Ok(samples)
}

/// The bench guest as a zImage of at least `size` bytes.
fn zimage(place: &Path, size: usize) -> anyhow::Result<PathBuf> {
    let elf = fs::read(build::file(Path::new("guest:bench")))?;
    let mut image = image::flatten(&elf)?.0;
    image.resize(size.max(image.len()).next_multiple_of(4), 0);
    let begin = image.get(ZIMAGE_BEGIN).context("no header in the guest")?;
    let begin = u32::from_le_bytes(begin.try_into()?);
    let end = begin + u32::try_from(image.len())?;
    image[ZIMAGE_END].copy_from_slice(&end.to_le_bytes());
    let file = place.join("bench.zimage");
    fs::write(&file, image)?;
    Ok(file)
}

/// Measures and prints.
pub fn bench(options: &Bench) -> anyhow::Result<u8> {
    let wanted = Wanted(options.only.as_deref());
    if !KINDS.iter().any(|kind| wanted.figure(kind.name)) {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        let word = options.only.as_deref().unwrap_or_default();
        return Err(unusable(format!(
            "--only {word}: no figure has that in its name; there are: {}",
            names.join(", ")
        )));
    }
    setup::target()?;
    let qemu = setup::qemu(options.qemu.as_deref())?;
    let images = image::build(build::Profile::Release, image::DEFAULT_LOAD, Line::IfSlow)?;
    build::guests(Line::IfSlow)?;
    if let Some(name) = &options.explain {
        print!("{}", explain::explain(name, &machine(qemu, images)?)?);
        return Ok(0);
    }
    let machine = machine(qemu, images)?;
    let xen = xen::systems(options.against, &machine)?;
    let native = native::measure(&machine, wanted)?;
    let ours = armillary(&machine, wanted)?;
    let mut columns = vec![
        report::Column::new("native", native, wanted),
        report::Column::new("armillary", ours.clone(), wanted),
    ];
    for system in &xen {
        let samples = match system.measure(&machine, wanted) {
            // What nobody asked for by name may fail.
            Err(error) if options.against.is_none() => {
                eprintln!("{error:#}");
                Samples::absent(&format!("it failed: {error}"))
            }
            samples => samples?,
        };
        columns.push(report::Column::new(system.key, samples, wanted));
    }
    let figures = ours.figures(wanted);
    judge(&figures, &machine.board)?;
    let targets = targets::targets(&machine.board)?;
    let mut missed = targets::missed(&figures, &targets);
    if options.only.is_none() {
        for one in &mut missed {
            one.trace = Some(explain::brief(one.name, &machine)?);
        }
    }
    report::finish(options, &machine, &columns, &missed)
}

/// The figures of Armillary by this QEMU with these images; the guests are built.
pub fn measure(qemu: PathBuf, images: Images) -> anyhow::Result<Figures> {
    let all = Wanted(None);
    Ok(armillary(&machine(qemu, images)?, all)?.figures(all))
}

/// The machine that is measured.
fn machine(qemu: PathBuf, images: Images) -> anyhow::Result<Machine> {
    let board = Board {
        memory: HOST,
        smp: 1,
        ..Board::named(board::DEFAULT)?
    };
    let spec = format!("kernel=guest:bench,name=bench,memory={GUEST}");
    Ok(Machine {
        vms: vec![Vm::from_spec(
            &spec.parse().map_err(anyhow::Error::msg)?,
            0,
            board.memory,
        )?],
        icount: true,
        more: CLOCK.map(Into::into).into(),
        ..Machine::new(qemu, board, images)
    })
}

/// What is wanted of Armillary.
fn armillary(machine: &Machine, wanted: Wanted<'_>) -> anyhow::Result<Samples> {
    let mut samples = guest("Armillary", wanted, &[Source::OwnRam], |run, words| {
        let text = guest_console(&with_bench(machine, run, words)?)?;
        let mut samples = Samples::read(&text);
        samples.add("own_ram_bytes", own_ram(&text));
        Ok(samples)
    })?;
    if wanted.source(Source::Emulated) {
        let run = Run {
            source: Source::Emulated,
            ..ONE
        };
        let more = progress::step("measure an emulated clock", Line::IfSlow, |_| {
            let machine = with_bench(machine, &run, "emulated only=device_irq")?;
            Ok(Samples::read(&guest_console(&machine)?))
        })?;
        samples.take(Source::Emulated, &more);
    }
    if wanted.source(Source::Regions) {
        let more = progress::step("measure with 1,000 regions", Line::IfSlow, |_| {
            thousand_regions(machine)
        })?;
        samples.take(Source::Regions, &more);
    }
    if wanted.source(Source::Create) {
        let more = progress::step("create VMs", Line::IfSlow, |_| create::figures(machine))?;
        samples.take(Source::Create, &more);
    }
    if wanted.source(Source::Forwarded) {
        let more = progress::step("forward accesses between two VMs", Line::IfSlow, |_| {
            forwarded(machine)
        })?;
        samples.take(Source::Forwarded, &more);
    }
    if wanted.source(Source::Image) {
        samples.add(
            "image_bytes",
            [fs::metadata(&machine.images.raw)?.len() as f64],
        );
    }
    if wanted.source(Source::Boot) {
        let boot = progress::step("count the way to the guest", Line::IfSlow, |_| {
            boot_to_guest(machine)
        })?;
        samples.add("boot_to_guest", [boot as f64]);
    }
    if wanted.source(Source::Sizes) {
        let more = progress::step("measure on boards of other sizes", Line::IfSlow, |_| {
            size::figures(machine)
        })?;
        samples.add_all(more);
    }
    if wanted.source(Source::Linux) && debian::available() {
        let more = progress::step("boot Linux here and there", Line::IfSlow, |_| {
            linux::figures(machine)
        })?;
        samples.add_all(more);
    } else {
        samples.lacks_all(Source::Linux, "Debian's kernel can't be had here");
    }
    if wanted.source(Source::Work) && debian::available() {
        let more = progress::step("work in Linux here and there", Line::IfSlow, |_| {
            linux::work(machine)
        })?;
        samples.add_all(more);
    } else {
        samples.lacks_all(Source::Work, "Debian's kernel can't be had here");
    }
    Ok(samples)
}

/// The most that each figure may be, by the board's `budget.toml`.
type Budget = BTreeMap<String, f64>;

fn budget(board: &Board) -> anyhow::Result<Budget> {
    let path = board.budget();
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut budget: Budget = toml::from_str(&text).with_context(|| path.display().to_string())?;
    budget.retain(|name, _| !name.starts_with("linux_") || debian::available());
    Ok(budget)
}

/// Where `figures` exceed the board's `budget.toml`, or lack one of its figures: a line for each.
pub fn over_budget(figures: &Figures, board: &Board) -> anyhow::Result<Vec<String>> {
    Ok(excesses(figures, &budget(board)?))
}

fn excesses(figures: &Figures, budget: &Budget) -> Vec<String> {
    let excess = |(name, &most): (&String, &f64)| match figures.get(name) {
        Some(figure) if figure.median <= most => None,
        Some(figure) => Some(format!(
            "{name} is {}, its budget {most}: {}; 'cargo xtask bench --explain {name}' shows by function what grew",
            figure.median,
            known(name).map_or("", |kind| kind.what)
        )),
        None => Some(format!("{name} was not measured, its budget {most}")),
    };
    budget.iter().filter_map(excess).collect()
}

/// Which budgets are wide: more than 3 % above what was measured, and more than one.
fn wide(figures: &Figures, budget: &Budget) -> Vec<String> {
    let line = |(name, &most): (&String, &f64)| {
        let measured = figures.get(name)?.median;
        let fit = (measured * 1.03).floor().max(0.0);
        (most > fit + 1.0)
            .then(|| format!("{name} = {fit} would do: it is {measured}, its budget {most}"))
    };
    budget.iter().filter_map(line).collect()
}

/// Says where Armillary's figures and their budget are apart.
fn judge(figures: &Figures, board: &Board) -> anyhow::Result<()> {
    let mut budget = budget(board)?;
    budget.retain(|name, _| figures.contains_key(name));
    for line in excesses(figures, &budget) {
        eprintln!("over budget: {line}");
    }
    for line in wide(figures, &budget) {
        eprintln!("wide budget: {line}");
    }
    Ok(())
}

/// `machine` with the bench guest in a VM with so many regions, a page each, and these `words` on its command line.
fn with_regions(machine: &Machine, count: u32, words: &str) -> anyhow::Result<Machine> {
    const FIRST: u32 = 0x0c20_0000;
    let place = tempfile::tempdir()?;
    let source = place.path().join("regions.dts");
    let pages = (0..count).map(|n| format!("0 {:#x} 0 0x1000 ", FIRST + 0x1000 * n));
    let pages: String = pages.collect();
    let node = format!("regions {{ compatible = \"armillary,region\"; reg = <{pages}>; }};");
    fs::write(&source, format!("/dts-v1/; / {{ {node} }};"))?;
    let address = FIRST + 0x1000 * (count / 2);
    let spec = format!(
        "kernel=guest:bench,name=bench,memory=64M,append=region={address} {words},with={}",
        source.display()
    );
    with_vms(machine, 1, &[spec])
}

/// What a load of each kind costs more in a VM with 1,000 regions than in one with one.
fn thousand_regions(machine: &Machine) -> anyhow::Result<Samples> {
    let loads = |count| {
        let machine = with_regions(machine, count, "only=_read")?;
        anyhow::Ok(Samples::read(&guest_console(&machine)?))
    };
    let (one, many) = (loads(1)?, loads(1000)?);
    let mut more = Samples::default();
    for name in ["gicd_read", "uart_read", "region_read"] {
        let (Some(one), Some(many)) = (one.get(name), many.get(name)) else {
            bail!("{name} was not measured");
        };
        more.add(&format!("{name}_1000_more"), differences(many, one));
    }
    more.take(Source::Regions, &one);
    Ok(more)
}

/// `machine` with the bench guest as `run` wants it.
fn with_bench(machine: &Machine, run: &Run, words: &str) -> anyhow::Result<Machine> {
    let mut specs = run.specs("guest:bench", words);
    if run.source == Source::Alone {
        specs[0] = format!("{PASSED},{}", specs[0]);
    }
    with_vms(machine, run.cpus, &specs)
}

/// `machine` with so many CPUs and the VMs of `specs`, as of `--vm`.
fn with_vms(machine: &Machine, cpus: u32, specs: &[String]) -> anyhow::Result<Machine> {
    let vms = specs.iter().zip(0..).map(|(spec, index)| {
        let spec = spec.parse().map_err(anyhow::Error::msg)?;
        Vm::from_spec(&spec, index, machine.board.memory)
    });
    let mut machine = Machine {
        vms: vms.collect::<anyhow::Result<_>>()?,
        ..machine.clone()
    };
    machine.board.smp = cpus;
    Ok(machine)
}

/// The figure of accesses that a VM on another CPU makes.
fn forwarded(machine: &Machine) -> anyhow::Result<Samples> {
    let specs = [
        "kernel=guest:bench,name=bench,memory=64M,append=only=forwarded,with=tests/guests/forwarded.dts",
        "kernel=guest:model,name=model,memory=64M",
    ];
    let machine = with_vms(machine, 2, &specs.map(Into::into))?;
    Ok(Samples::read(&guest_console(&machine)?))
}

fn guest_console(machine: &Machine) -> anyhow::Result<String> {
    let place = tempfile::tempdir()?;
    to_its_end(&mut machine.prepare(&place.path().join("bench.dtb"))?.command)
}

/// What is printed until QEMU ends. A device model does not end by itself.
fn to_its_end(command: &mut Command) -> anyhow::Result<String> {
    typed(command, &[("bench: done", "\x01x")])
}

/// What is printed until QEMU ends, where at each of these words some keys are typed.
fn typed(command: &mut Command, keys: &[(&str, &str)]) -> anyhow::Result<String> {
    let script = keys
        .iter()
        .map(|(word, keys)| anyhow::Ok((Regex::new(word)?, (*keys).into())));
    let session = Session {
        until: None,
        timeout: Some(PATIENCE),
        input: Input::Script(script.collect::<anyhow::Result<_>>()?),
        show: false,
    };
    let outcome = console::run(command, session)?;
    match outcome.ending {
        Ending::Exited(status) if status.success() => Ok(outcome.text),
        ending => bail!(
            "the bench guest did not end well ({ending:?}):\n{}",
            outcome.text
        ),
    }
}

/// The hypervisor's own RAM by its log line `own RAM: N bytes`.
fn own_ram(console: &str) -> Option<f64> {
    let text = console.split_once("own RAM: ")?.1;
    text.split_whitespace().next()?.parse().ok()
}

/// Counts the instructions from reset to the guest's first one.
fn boot_to_guest(machine: &Machine) -> anyhow::Result<u64> {
    let guest = machine
        .vms
        .first()
        .and_then(|vm| vm.modules.first())
        .context("no guest")?;
    let entry = image::entry(&build::file(&guest.file))?;
    let entry = u32::try_from(entry)?;
    boot_to(machine, entry..entry + 1)
}

/// Counts the instructions from reset to the first one in `entries`.
fn boot_to(machine: &Machine, entries: Range<u32>) -> anyhow::Result<u64> {
    let machine = Machine {
        load: Load::At(APART),
        ..machine.clone()
    };
    Ok(tracer::count_to(&machine, &entries)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_ram_is_read_from_the_log() {
        assert_eq!(
            own_ram("x\n[info] own RAM: 8192 bytes, of them 4096 heap\n"),
            Some(8192.0)
        );
        assert_eq!(own_ram("nothing"), None);
    }

    #[test]
    fn a_figure_over_its_budget_or_without_a_value_is_named() {
        let samples = Samples::read("BENCH a 3\nBENCH gicd_read 4\n");
        let budget = [("a", 3.0), ("gicd_read", 3.5), ("c", 1.0)]
            .map(|(name, most)| (name.to_owned(), most))
            .into();
        let [absent, over] = &excesses(&samples.figures(Wanted(None)), &budget)[..] else {
            panic!("not two");
        };
        assert_eq!(absent, "c was not measured, its budget 1");
        assert!(
            over.starts_with(
                "gicd_read is 4, its budget 3.5: load from a register of the interrupt distributor;"
            ),
            "{over}"
        );
    }

    #[test]
    fn a_budget_far_above_its_figure_is_named() {
        let samples = Samples::read("BENCH a 100\nBENCH b 100\nBENCH c -5\nBENCH d 5\n");
        let budget = [
            ("a", 104.0),
            ("b", 105.0),
            ("c", 1.0),
            ("d", 7.0),
            ("e", 9.0),
        ]
        .map(|(name, most)| (name.to_owned(), most))
        .into();
        let lines = wide(&samples.figures(Wanted(None)), &budget);
        assert_eq!(
            lines,
            [
                "b = 103 would do: it is 100, its budget 105",
                "d = 5 would do: it is 5, its budget 7"
            ]
        );
    }

    #[test]
    fn every_budget_is_of_a_figure() {
        let budget = budget(&Board::named(board::DEFAULT).unwrap()).unwrap();
        for name in budget.keys() {
            assert!(known(name).is_some(), "{name}");
        }
    }
}
