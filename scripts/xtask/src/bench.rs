//! `cargo xtask bench`: instructions of each operation, exact by `-icount`, and sizes.
//!
//! The bench guest prints `BENCH name count`, once or several times a figure. The hypervisor's own figures come from
//! its image and its log, and the way from reset to the guest's first instruction is counted in QEMU's execution trace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use regex::Regex;
use serde::Serialize;

use crate::board::{self, Board};
use crate::build;
use crate::cli::Bench;
use crate::console::{self, Ending, Input, Session};
use crate::debian;
use crate::image::{self, Images};
use crate::progress::{self, Line};
use crate::qemu::{Load, Machine};
use crate::setup;
use crate::size::Size;
use crate::vm::Vm;

mod linux;

/// The real-time clock begins at 0 and counts virtual time, as everything else.
const CLOCK: [&str; 2] = ["-rtc", "base=1970-01-01T00:00:00,clock=vm"];
/// The longest that the bench guest may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the bench guest measures with two vCPUs: on how many CPUs, and its command line.
const TWO_VCPUS: [(u32, &str); 5] = [
    (2, "only=ipi"),
    (2, "only=cpu_on"),
    (1, "one_cpu only=ipi"),
    (1, "one_cpu only=vcpu_switch"),
    (1, "one_cpu only=wakeup"),
];
/// Where the image is loaded to count its way to the guest: nowhere near the guest's own addresses.
const APART: u32 = 0x4800_0000;
/// More instructions than any boot takes.
const BOOT_LIMIT: u64 = 100_000_000;

/// One figure: the spread of its values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    #[serde(serialize_with = "number")]
    min: f64,
    #[serde(serialize_with = "number")]
    median: f64,
    #[serde(serialize_with = "number")]
    max: f64,
    n: usize,
}

/// A whole number without a fraction.
fn number<S: serde::Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 {
        out.serialize_i64(*value as i64)
    } else {
        out.serialize_f64(*value)
    }
}

/// Samples by the figure's name.
type Values = BTreeMap<String, Vec<f64>>;

/// Figures by name.
pub type Figures = BTreeMap<String, Figure>;

impl Figure {
    /// The figure of these values, of which there is at least one.
    fn of(mut values: Vec<f64>) -> Option<Self> {
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

/// Measures and prints.
pub fn bench(options: &Bench) -> anyhow::Result<u8> {
    setup::target()?;
    let qemu = setup::qemu(options.qemu.as_deref())?;
    let images = image::build(build::Profile::Release, image::DEFAULT_LOAD, Line::IfSlow)?;
    build::guests(Line::IfSlow)?;
    let figures = measure(qemu, images)?;
    let print = if options.json {
        print_json
    } else {
        print_table
    };
    print(&mut std::io::stdout().lock(), &figures)?;
    Ok(0)
}

/// Measures with this QEMU and these images; the guests are built.
pub fn measure(qemu: PathBuf, images: Images) -> anyhow::Result<Figures> {
    let board = Board {
        memory: Size::mib(512),
        smp: 1,
        ..Board::named(board::DEFAULT)?
    };
    let spec = "kernel=guest:bench,name=bench,memory=128M"
        .parse()
        .map_err(anyhow::Error::msg)?;
    let machine = Machine {
        vms: vec![Vm::from_spec(&spec, 0, board.memory)?],
        icount: true,
        more: CLOCK.map(Into::into).into(),
        ..Machine::new(qemu, board, images)
    };
    let console = progress::step("run the bench guest", Line::IfSlow, |_| {
        guest_console(&machine)
    })?;
    let mut values = values(&console);
    for (cpus, words) in TWO_VCPUS {
        let more = progress::step("run it with two vCPUs", Line::IfSlow, |_| {
            two_vcpus(&machine, cpus, words)
        })?;
        values.extend(more);
    }
    let more = progress::step("measure with 1,000 regions", Line::IfSlow, |_| {
        thousand_regions(&machine)
    })?;
    values.extend(more);
    let more = progress::step("forward accesses between two VMs", Line::IfSlow, |_| {
        forwarded(&machine)
    })?;
    values.extend(more);
    values
        .entry("own_ram_bytes".into())
        .or_default()
        .extend(own_ram(&console));
    values.insert(
        "image_bytes".into(),
        vec![fs::metadata(&machine.images.raw)?.len() as f64],
    );
    let boot = progress::step("count the way to the guest", Line::IfSlow, |_| {
        boot_to_guest(&machine)
    })?;
    values.insert("boot_to_guest".into(), vec![boot as f64]);
    if debian::available() {
        let more = progress::step("boot Linux here and there", Line::IfSlow, |_| {
            linux::figures(&machine)
        })?;
        values.extend(more);
    }
    Ok(figures(values))
}

/// Where `figures` exceed the board's `budget.toml`, or lack one of its figures: a line for each.
pub fn over_budget(figures: &Figures, board: &Board) -> anyhow::Result<Vec<String>> {
    let path = board.budget();
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut budget: BTreeMap<String, f64> =
        toml::from_str(&text).with_context(|| path.display().to_string())?;
    budget.retain(|name, _| !name.starts_with("linux_") || debian::available());
    Ok(excesses(figures, &budget))
}

fn excesses(figures: &Figures, budget: &BTreeMap<String, f64>) -> Vec<String> {
    let excess = |(name, &most): (&String, &f64)| match figures.get(name) {
        Some(figure) if figure.median <= most => None,
        Some(figure) => Some(format!("{name} is {}, its budget {most}", figure.median)),
        None => Some(format!("{name} was not measured, its budget {most}")),
    };
    budget.iter().filter_map(excess).collect()
}

/// What loads cost in a VM with so many more regions, a page each.
fn with_regions(machine: &Machine, count: u32) -> anyhow::Result<Values> {
    const FIRST: u32 = 0x0c20_0000;
    let place = tempfile::tempdir()?;
    let source = place.path().join("regions.dts");
    let pages = (0..count).map(|n| format!("0 {:#x} 0 0x1000 ", FIRST + 0x1000 * n));
    let pages: String = pages.collect();
    let node = format!("regions {{ compatible = \"armillary,region\"; reg = <{pages}>; }};");
    fs::write(&source, format!("/dts-v1/; / {{ {node} }};"))?;
    let address = FIRST + 0x1000 * (count / 2);
    let words = format!("only=_read region={address}");
    let spec = format!(
        "kernel=guest:bench,name=bench,memory=64M,append={words},with={}",
        source.display()
    );
    let spec = spec.parse().map_err(anyhow::Error::msg)?;
    let machine = Machine {
        vms: vec![Vm::from_spec(&spec, 0, machine.board.memory)?],
        ..machine.clone()
    };
    Ok(values(&guest_console(&machine)?))
}

/// What a load of each kind costs more in a VM with 1,000 regions than in one with one.
fn thousand_regions(machine: &Machine) -> anyhow::Result<Values> {
    let (one, many) = (with_regions(machine, 1)?, with_regions(machine, 1000)?);
    let mut more = Values::new();
    for name in ["gicd_read", "uart_read", "region_read"] {
        let (Some(one), Some(many)) = (one.get(name), many.get(name)) else {
            bail!("{name} was not measured");
        };
        let differences = many.iter().zip(one).map(|(many, one)| many - one);
        more.insert(format!("{name}_1000_more"), differences.collect());
    }
    more.extend(one.into_iter().filter(|(name, _)| name == "region_read"));
    Ok(more)
}

/// The figures of two vCPUs on so many CPUs.
fn two_vcpus(machine: &Machine, cpus: u32, words: &str) -> anyhow::Result<Values> {
    let spec = format!("kernel=guest:bench,name=bench,memory=128M,cpus=2,append={words}");
    let spec = spec.parse().map_err(anyhow::Error::msg)?;
    let mut machine = Machine {
        vms: vec![Vm::from_spec(&spec, 0, machine.board.memory)?],
        ..machine.clone()
    };
    machine.board.smp = cpus;
    Ok(values(&guest_console(&machine)?))
}

/// The figure of accesses that a VM on another CPU makes.
fn forwarded(machine: &Machine) -> anyhow::Result<Values> {
    let specs = [
        "kernel=guest:bench,name=bench,memory=64M,append=only=forwarded,with=tests/guests/forwarded.dts",
        "kernel=guest:model,name=model,memory=64M",
    ];
    let vms = specs.iter().zip(0..).map(|(spec, index)| {
        let spec = spec.parse().map_err(anyhow::Error::msg)?;
        Vm::from_spec(&spec, index, machine.board.memory)
    });
    let mut machine = Machine {
        vms: vms.collect::<anyhow::Result<_>>()?,
        ..machine.clone()
    };
    machine.board.smp = 2;
    Ok(values(&guest_console(&machine)?))
}

fn guest_console(machine: &Machine) -> anyhow::Result<String> {
    let place = tempfile::tempdir()?;
    let mut prepared = machine.prepare(&place.path().join("bench.dtb"))?;
    let session = Session {
        until: None,
        timeout: Some(PATIENCE),
        // A device model does not end by itself.
        input: Input::Script(vec![(Regex::new("bench: done")?, "\x01x".into())]),
        show: false,
    };
    let outcome = console::run(&mut prepared.command, session)?;
    match outcome.ending {
        Ending::Exited(status) if status.success() => Ok(outcome.text),
        ending => bail!(
            "the bench guest did not end well ({ending:?}):\n{}",
            outcome.text
        ),
    }
}

/// The values of the lines `BENCH name count`, behind whatever prefix.
fn values(console: &str) -> Values {
    let mut values = Values::new();
    for line in console.lines() {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word != "BENCH")
            .skip(1);
        if let (Some(name), Some(Ok(count))) = (words.next(), words.next().map(str::parse::<f64>)) {
            values.entry(name.into()).or_default().push(count);
        }
    }
    values
}

/// The hypervisor's own RAM by its log line `own RAM: N bytes`.
fn own_ram(console: &str) -> Option<f64> {
    let text = console.split_once("own RAM: ")?.1;
    text.split_whitespace().next()?.parse().ok()
}

fn figures(values: Values) -> Figures {
    values
        .into_iter()
        .filter_map(|(name, values)| Some((name, Figure::of(values)?)))
        .collect()
}

/// Counts the instructions from reset to the guest's first one: with one instruction a block, QEMU's trace has one line for
/// each.
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
    let place = tempfile::tempdir()?;
    let machine = Machine {
        load: Load::At(APART),
        ..machine.clone()
    };
    let mut command = machine.prepare(&place.path().join("boot.dtb"))?.command;
    command.args(["-singlestep", "-d", "exec,nochain"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut qemu = command.spawn().with_context(|| progress::shown(&command))?;
    let trace = qemu.stderr.take().map(BufReader::new);
    let count = trace
        .context("no trace")
        .and_then(|trace| count_until(trace, entries));
    qemu.kill()?;
    qemu.wait()?;
    count
}

/// The number of lines `Trace 0: host [flags/pc/…]` before the first one in `entries`.
fn count_until(mut trace: impl BufRead, entries: Range<u32>) -> anyhow::Result<u64> {
    let mut line = Vec::new();
    let mut count = 0;
    while count < BOOT_LIMIT && trace.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if text.starts_with("Trace ") {
            let pc = text.split('/').nth(1).map(|pc| u32::from_str_radix(pc, 16));
            if matches!(pc, Some(Ok(pc)) if entries.contains(&pc)) {
                return Ok(count);
            }
            count += 1;
        }
        line.clear();
    }
    bail!("the guest's entry {entries:#010x?} was not reached in {count} instructions")
}

/// `{"figures": {NAME: {"armillary": {"min": …, "median": …, "max": …, "n": …}}}}`
fn print_json(out: &mut dyn Write, figures: &Figures) -> anyhow::Result<()> {
    let figures: BTreeMap<_, _> = figures
        .iter()
        .map(|(name, figure)| (name, BTreeMap::from([("armillary", figure)])))
        .collect();
    writeln!(
        out,
        "{}",
        serde_json::to_string_pretty(&BTreeMap::from([("figures", figures)]))?
    )?;
    Ok(())
}

fn print_table(out: &mut dyn Write, figures: &Figures) -> anyhow::Result<()> {
    writeln!(
        out,
        "{:<24} {:>12} {:>12} {:>12} {:>6}",
        "figure", "min", "median", "max", "n"
    )?;
    for (
        name,
        Figure {
            min,
            median,
            max,
            n,
        },
    ) in figures
    {
        writeln!(out, "{name:<24} {min:>12} {median:>12} {max:>12} {n:>6}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_lines_of_a_figure_become_its_spread() {
        let console = "[INFO] own RAM: 8192 bytes\nBENCH a 3.5\n[bench] BENCH a 9\nbench: BENCH a 5\nBENCH b 1\nBENCH c\nBENCH c x\n";
        let figures = figures(values(console));
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
        assert_eq!(own_ram(console), Some(8192.0));
    }

    #[test]
    fn a_figure_over_its_budget_or_without_a_value_is_named() {
        let figures = figures(values("BENCH a 3\nBENCH b 4\n"));
        let budget = [("a", 3.0), ("b", 3.5), ("c", 1.0)]
            .map(|(name, most)| (name.to_owned(), most))
            .into();
        assert_eq!(
            excesses(&figures, &budget),
            ["b is 4, its budget 3.5", "c was not measured, its budget 1"]
        );
    }

    #[test]
    fn instructions_are_counted_up_to_the_entry() {
        let trace = "Trace 0: 0x7f01 [00000400/48000000/0000/ff] \nStopped execution\nTrace 0: 0x7f02 [00000400/48000004/0000/ff] \n\
                     Trace 0: 0x7f03 [00000400/40010000/0000/ff] \n";
        assert_eq!(
            count_until(trace.as_bytes(), 0x4001_0000..0x4001_0001).unwrap(),
            2
        );
        assert!(count_until(trace.as_bytes(), 0x4002_0000..0x4003_0000).is_err());
    }
}
