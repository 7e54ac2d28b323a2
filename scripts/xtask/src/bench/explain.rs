//! `cargo xtask bench --explain NAME`: where the instructions of one operation go.
//!
//! The bench guest measures that one figure while QEMU traces every instruction ([`trace`]). The operation of the median length
//! is shown as a tree of the functions that it went through, by the ELF files' symbols and debug information ([`symbols`]).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::mem;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, bail};
use indicatif::ProgressBar;

use super::symbols::{self, Frame, Symbols};
use super::trace::{Cut, Hypervisor, Step, operations};
use super::tracer::traced;
use super::{CLOCK, PASSED, create, with_vms};
use crate::board::{self, Board};
use crate::build;
use crate::failure::unusable;
use crate::image::Images;
use crate::progress::{self, Line};
use crate::qemu::{Load, Machine};
use crate::size::Size;

/// Where the image is loaded: nowhere near the guests' own addresses.
const APART: u32 = 0x4800_0000;
/// Where it runs: what guests of tests/guests have nothing at.
const HYPERVISOR: Range<u32> = 0x20_0000..0x40_0000;
/// WFI in T16.
const WFI: u16 = 0xbf30;
/// More instructions than any figure needs.
const LIMIT: usize = 40_000_000;
/// After so many it is seen how far it is.
const STRIDE: usize = 1 << 19;
/// What all of them from reset to a guest are called.
const BOOT: &str = "boot_to_guest";
/// Where a VM begins whose kernel is a plain one.
const CREATED: u32 = 0x4001_0000;
/// From so many instructions on a way is long.
const LONG: u64 = 10_000;
/// Parts smaller than one in so many of a long way are not shown by themselves.
const SMALL: u64 = 400;

/// The guest that measures.
const BENCH: &str = "kernel=guest:bench,name=bench";

/// What runs for a figure.
#[derive(Clone, Copy)]
enum Setting {
    /// The bench guest with so many vCPUs on so many CPUs, and more of its command line.
    Bench(u32, u32, &'static str),
    /// The bench guest with the board's clock.
    Passed,
    /// The bench guest and the one that emulates a device for it.
    Forwarded,
    /// The bench guest that creates other VMs.
    Create,
    /// The bench guest in two VMs that give the CPU to each other, with this at the end of their command lines.
    Beside(&'static str),
}

/// The setting that most figures have.
const ALONE: Setting = Setting::Bench(1, 1, "");
/// The same, whose clock is Armillary's.
const EMULATED: Setting = Setting::Bench(1, 1, " emulated");
/// Two vCPUs that share a CPU.
const SHARED: Setting = Setting::Bench(2, 1, " one_cpu");

/// One VM's or vCPU's call by which another runs.
const GIVE: How = How::Call("give_armillary");

/// How an operation is cut out of the trace, in names of the guest's symbols.
#[derive(Clone, Copy)]
enum How {
    /// As this says.
    Cut(Cut),
    /// From the store of latency.s to the interrupt's vector.
    Store,
    /// What leads to the interrupt's vector.
    Interrupt,
    /// From a symbol to itself.
    Again(&'static str),
    /// From a symbol, at which the guest traps, to behind that, whoever's turn it is then.
    Call(&'static str),
    /// From the trap that starts another CPU to this symbol.
    Start(&'static str),
    /// From the call that creates a VM to its first instruction.
    Create,
}

/// By name: what runs, and how one operation is cut out.
const FIGURES: [(&str, Setting, How); 35] = {
    use How::{Again, Interrupt, Start, Store};
    let trap = How::Cut(Cut::Trap);
    [
        ("null_hypercall", ALONE, trap),
        ("psci_version", ALONE, trap),
        ("gicd_read", ALONE, trap),
        ("gicd_write", ALONE, trap),
        ("uart_read", ALONE, trap),
        ("uart_char", ALONE, How::Cut(Cut::Round)),
        ("cp15_trap", ALONE, trap),
        ("cp15_timer_read", ALONE, trap),
        ("nosyndrome_store", ALONE, trap),
        ("unmapped", ALONE, trap),
        ("forwarded", Setting::Forwarded, trap),
        ("sgi_self", ALONE, Store),
        ("vtimer_spin", ALONE, Interrupt),
        ("vtimer_spin_10us", ALONE, Interrupt),
        ("vtimer_wfi", ALONE, Interrupt),
        ("vtimer_wfi_10us", ALONE, Interrupt),
        ("vtimer_wfi_24us", ALONE, Interrupt),
        ("vtimer_wfi_1ms", ALONE, Interrupt),
        ("ptimer", ALONE, Interrupt),
        ("ptimer_wfi", ALONE, Interrupt),
        ("device_irq_spin", Setting::Passed, Store),
        ("device_irq_wfi", Setting::Passed, Interrupt),
        ("device_irq_emulated_spin", EMULATED, Store),
        ("device_irq_emulated_wfi", EMULATED, Interrupt),
        (
            "ipi_two_cpus_wfi",
            Setting::Bench(2, 2, ""),
            Again("ping_pong_send"),
        ),
        (
            "ipi_two_cpus_spin",
            Setting::Bench(2, 2, ""),
            Again("ping_pong_send"),
        ),
        ("cpu_on", Setting::Bench(2, 2, ""), Start("started_cpu")),
        ("ipi_one_cpu", SHARED, Again("ping_pong_send")),
        ("vm_create", Setting::Create, How::Create),
        ("wakeup", SHARED, Interrupt),
        ("vcpu_switch", Setting::Beside(""), GIVE),
        ("vcpu_switch_vfp", Setting::Beside(" vfp"), GIVE),
        ("vcpu_switch_own", SHARED, GIVE),
        ("vcpu_switch_vfp_own", SHARED, GIVE),
        (
            "vfp_first_use",
            Setting::Beside(" vfp"),
            How::Cut(Cut::Retried),
        ),
    ]
};

/// The names that can be explained.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FIGURES
        .iter()
        .map(|&(name, ..)| name)
        .chain(std::iter::once(BOOT))
}

/// What `name` consists of, as text. The image and the guests are built.
pub(super) fn explain(name: &str, qemu: PathBuf, images: Images) -> anyhow::Result<String> {
    let board = Board {
        memory: Size::mib(512),
        ..Board::named(board::DEFAULT)?
    };
    let machine = Machine {
        icount: true,
        load: Load::At(APART),
        more: CLOCK.map(Into::into).into(),
        ..Machine::new(qemu, board, images)
    };
    if name == BOOT {
        return boot(&machine);
    }
    let figure = FIGURES.iter().find(|&&(known, ..)| known == name);
    let Some(&(_, setting, how)) = figure else {
        let names: Vec<_> = names().collect();
        return Err(unusable(format!(
            "--explain {name}: it is not one of {}",
            names.join(", ")
        )));
    };
    operation(name, &machine, setting, how)
}

/// One operation of the median length.
fn operation(name: &str, machine: &Machine, setting: Setting, how: How) -> anyhow::Result<String> {
    let machine = set(
        machine,
        setting,
        &format!(",append=samples=1 exactly only={name}"),
    )?;
    let code = Code::of(&machine)?;
    let cut = cut(code.guest(0)?, how)?;
    let hypervisor = Hypervisor {
        code: HYPERVISOR,
        waits: symbols::find(&machine.images.elf, WFI)?,
    };

    let found = |steps: &[Step]| operations(steps, &hypervisor, cut);
    let enough = |steps: &[Step]| found(steps).len() >= cut.enough();
    let (steps, console) = progress::step(&format!("trace {name}"), Line::IfSlow, |bar| {
        traced(&machine, |steps| collect(steps, bar, enough))
    })?;
    let mut found = found(&steps);
    found.sort_by_key(Range::len);
    let Some(median) = found.get(found.len() / 2) else {
        bail!("{name} does not occur in the trace; the console:\n{console}");
    };
    let mut tree = Tree::default();
    for step in &steps[median.clone()] {
        tree.add(&code.path(*step)?, 1);
    }
    if tree.total >= LONG {
        tree.sort(tree.total / SMALL);
    }
    let mut out = format!(
        "{name}: {} instructions, {} in the hypervisor (the median of {}: {})\n",
        tree.total,
        tree.total_of(Code::HYPERVISOR),
        found.len(),
        lengths(found.iter().map(Range::len))
    );
    tree.show(&mut out)?;
    Ok(out)
}

/// Sorted `lengths`, and how often each occurs: the most frequent ones.
fn lengths(lengths: impl Iterator<Item = usize>) -> String {
    const MOST: usize = 5;
    let mut counts = Vec::<(usize, usize)>::new();
    for length in lengths {
        match counts.last_mut() {
            Some((last, count)) if *last == length => *count += 1,
            _ => counts.push((length, 1)),
        }
    }
    counts.sort_by_key(|&(length, count)| (Reverse(count), length));
    let shown = counts.iter().take(MOST);
    let mut shown: Vec<_> = shown
        .map(|(length, count)| format!("{length} ({count}x)"))
        .collect();
    if counts.len() > MOST {
        shown.push("others".into());
    }
    shown.join(", ")
}

/// The steps until there are `enough`.
fn collect(
    steps: impl Iterator<Item = Step>,
    bar: &ProgressBar,
    enough: impl Fn(&[Step]) -> bool,
) -> Vec<Step> {
    let mut all = Vec::new();
    for step in steps.take(LIMIT) {
        all.push(step);
        show_progress(bar, all.len());
        if all.len().is_multiple_of(STRIDE) && enough(&all) {
            break;
        }
    }
    all
}

/// The way from reset to the guest's first instruction, its parts by weight.
fn boot(machine: &Machine) -> anyhow::Result<String> {
    let machine = set(machine, ALONE, "")?;
    let code = Code::of(&machine)?;
    let guest = code.guest(0)?.address("_start")?;
    let (counts, console) = progress::step("trace the way to the guest", Line::IfSlow, |bar| {
        traced(&machine, |steps| {
            let steps = steps.take_while(|step| step.pc() != guest);
            counted(steps.take(LIMIT), bar)
        })
    })?;
    if counts.is_empty() {
        bail!("nothing was traced; the console:\n{console}");
    }
    let mut tree = Tree::default();
    for (step, count) in counts {
        tree.add(&code.path(step)?, count);
    }
    tree.sort(tree.total / SMALL);
    let mut out = format!("{BOOT}: {} instructions\n", tree.total);
    tree.show(&mut out)?;
    Ok(out)
}

/// How often each instruction is executed.
fn counted(steps: impl Iterator<Item = Step>, bar: &ProgressBar) -> HashMap<Step, u64> {
    let mut counts = HashMap::new();
    for (count, step) in steps.enumerate() {
        show_progress(bar, count);
        *counts.entry(step).or_default() += 1;
    }
    counts
}

/// The machine with what runs, and these `words` about the bench guest's VM.
fn set(machine: &Machine, setting: Setting, words: &str) -> anyhow::Result<Machine> {
    let (cpus, specs) = match setting {
        Setting::Bench(vcpus, cpus, more) => {
            let bench = format!("{BENCH},memory=128M,cpus={vcpus}{words}{more}");
            (cpus, vec![bench])
        }
        Setting::Passed => (1, vec![format!("{BENCH},memory=128M,{PASSED}{words}")]),
        Setting::Forwarded => {
            let bench = format!("{BENCH},memory=64M{words},with=tests/guests/forwarded.dts");
            let model = "kernel=guest:model,name=model,memory=64M";
            (2, vec![bench, model.into()])
        }
        Setting::Create => {
            let one = " samples=3 exactly only=vm_create";
            (1, vec![format!("{}{one}", create::VM)])
        }
        Setting::Beside(more) => {
            let vm = |name: &str, word: &str| {
                format!("kernel=guest:bench,name={name},memory=64M,append={word}{more}")
            };
            (1, vec![vm("bench", "beside"), vm("beside", "give")])
        }
    };
    with_vms(machine, cpus, &specs)
}

/// The cut by the addresses of `guest`.
fn cut(guest: &Symbols, how: How) -> anyhow::Result<Cut> {
    let irq = || anyhow::Ok(guest.address("bench_vectors")? + 0x18);
    Ok(match how {
        How::Cut(cut) => cut,
        How::Store => Cut::Between(guest.address("latency_store")?, irq()?),
        How::Interrupt => Cut::Before(irq()?),
        How::Again(name) => Cut::Again(guest.address(name)?),
        How::Call(name) => {
            let call = guest.address(name)?;
            Cut::Between(call, call + 4)
        }
        How::Start(name) => Cut::Start(guest.address(name)?),
        How::Create => Cut::Between(guest.address("bare::describe::Tree::create")?, CREATED),
    })
}

fn show_progress(bar: &ProgressBar, count: usize) {
    if count.is_multiple_of(1 << 16) {
        bar.set_message(format!("{count} instructions"));
    }
}

/// The code that may run: what it is called.
struct Code {
    hypervisor: Symbols,
    /// What unpacks the image.
    stub: Symbols,
    stub_size: u32,
    /// Where it unpacks it to.
    image: u32,
    /// By VM.
    guests: Vec<Symbols>,
}

impl Code {
    const HYPERVISOR: &str = "hypervisor";
    const STUB: &str = ".unpack";

    fn of(machine: &Machine) -> anyhow::Result<Self> {
        let images = &machine.images;
        let guests = machine.vms.iter().map(|vm| {
            let kernel = vm.modules.first().context("no guest")?;
            Symbols::of(&build::file(&kernel.file), None)
        });
        let size = u32::try_from(fs::metadata(&images.raw)?.len())?;
        Ok(Self {
            hypervisor: Symbols::of(&images.elf, None)?,
            stub: Symbols::of(&images.elf, Some(Self::STUB))?,
            stub_size: symbols::section_size(&images.elf, Self::STUB)?,
            image: (APART + size).next_multiple_of(0x1000),
            guests: guests.collect::<anyhow::Result<_>>()?,
        })
    }

    /// The one of the VM that has this CPU.
    fn guest(&self, cpu: usize) -> anyhow::Result<&Symbols> {
        let guest = self.guests.get(cpu).or(self.guests.first());
        guest.context("no guest")
    }

    /// Who runs there, then the functions from the outermost.
    fn path(&self, step: Step) -> anyhow::Result<Vec<Frame>> {
        let pc = step.pc();
        let (who, frames) = if HYPERVISOR.contains(&pc) {
            (Self::HYPERVISOR, self.hypervisor.frames(pc)?)
        } else if (APART..APART + self.stub_size).contains(&pc) {
            (Self::HYPERVISOR, self.stub.frames(pc - APART)?)
        } else if (self.image..self.image + HYPERVISOR.len() as u32).contains(&pc) {
            let linked = pc - self.image + HYPERVISOR.start;
            (Self::HYPERVISOR, self.hypervisor.frames(linked)?)
        } else {
            ("guest", self.guest(step.cpu())?.frames(pc)?)
        };
        let who = Frame {
            name: format!("{who} on CPU {}", step.cpu()),
            line: String::new(),
        };
        let mut path = vec![who];
        path.extend_from_slice(&frames);
        Ok(path)
    }
}

/// Functions by who called them, as far as they were inlined.
#[derive(Debug, Default)]
struct Tree {
    frame: Frame,
    /// Instructions here and below.
    total: u64,
    /// Instructions here.
    own: u64,
    parts: Vec<Tree>,
}

impl Tree {
    /// Adds so many instructions at the end of `path`.
    fn add(&mut self, path: &[Frame], count: u64) {
        self.total += count;
        let Some((first, rest)) = path.split_first() else {
            self.own += count;
            return;
        };
        let known = self
            .parts
            .iter()
            .position(|part| part.frame.name == first.name);
        let at = known.unwrap_or_else(|| {
            self.parts.push(Self {
                frame: first.clone(),
                ..Self::default()
            });
            self.parts.len() - 1
        });
        self.parts[at].add(rest, count);
    }

    /// Instructions of the parts that belong to `who`.
    fn total_of(&self, who: &str) -> u64 {
        let parts = self.parts.iter();
        let parts = parts.filter(|part| part.frame.name.starts_with(who));
        parts.map(|part| part.total).sum()
    }

    /// The heaviest parts first; those lighter than `least` become one.
    fn sort(&mut self, least: u64) {
        let parts = mem::take(&mut self.parts).into_iter();
        let (mut heavy, light): (Vec<_>, Vec<_>) = parts.partition(|part| part.total >= least);
        heavy.sort_by_key(|part| Reverse(part.total));
        for part in &mut heavy {
            part.sort(least);
        }
        self.parts = heavy;
        let total = light.iter().map(|part| part.total).sum();
        if total > 0 {
            self.parts.push(Self {
                frame: Frame {
                    name: format!("{} more", light.len()),
                    line: String::new(),
                },
                total,
                ..Self::default()
            });
        }
    }

    fn show(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "{:>9} {:>9}", "total", "own")?;
        self.parts
            .iter()
            .try_for_each(|part| part.show_below(out, 0))
    }

    fn show_below(&self, out: &mut String, depth: usize) -> fmt::Result {
        let Frame { name, line } = &self.frame;
        let own = match self.own {
            0 => String::new(),
            own => own.to_string(),
        };
        let indent = 2 * depth;
        let name = format!("{:indent$}{name}", "");
        let row = format!("{:>9} {own:>9}  {name:<48} {line}", self.total);
        writeln!(out, "{}", row.trim_end())?;
        let parts = self.parts.iter();
        parts
            .into_iter()
            .try_for_each(|part| part.show_below(out, depth + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(names: &str) -> Vec<Frame> {
        let frame = |name: &str| Frame {
            name: name.into(),
            line: format!("{name}.rs:1"),
        };
        names.split(' ').map(frame).collect()
    }

    #[test]
    fn functions_are_shown_in_the_order_of_the_way_with_what_is_below_them() {
        let mut tree = Tree::default();
        for (names, count) in [
            ("h trap", 3),
            ("h run take", 5),
            ("h run", 2),
            ("g loop", 1),
        ] {
            tree.add(&path(names), count);
        }
        let mut out = String::new();
        tree.show(&mut out).unwrap();
        let lines: Vec<Vec<_>> = out
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                &["total", "own"][..],
                &["10", "h", "h.rs:1"],
                &["3", "3", "trap", "trap.rs:1"],
                &["7", "2", "run", "run.rs:1"],
                &["5", "5", "take", "take.rs:1"],
                &["1", "g", "g.rs:1"],
                &["1", "1", "loop", "loop.rs:1"],
            ]
        );
        assert_eq!(tree.total_of("h"), 10);
    }

    #[test]
    fn the_most_frequent_lengths_come_first() {
        let all = [1, 2, 2, 3, 4, 5, 6].into_iter();
        let text = "2 (2x), 1 (1x), 3 (1x), 4 (1x), 5 (1x), others";
        assert_eq!(lengths(all), text);
    }

    #[test]
    fn small_parts_of_a_long_way_become_one() {
        let mut tree = Tree::default();
        for (names, count) in [("a", 2), ("b", 3), ("c", 50), ("d e", 90)] {
            tree.add(&path(names), count);
        }
        tree.sort(10);
        let parts = tree
            .parts
            .iter()
            .map(|part| (part.frame.name.as_str(), part.total));
        assert_eq!(
            parts.collect::<Vec<_>>(),
            [("d", 90), ("c", 50), ("2 more", 5)]
        );
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_that_are() {
        let images = Images {
            elf: "a".into(),
            raw: "b".into(),
            uimage: "c".into(),
        };
        let error = explain("speed", "qemu".into(), images)
            .unwrap_err()
            .to_string();
        assert!(error.contains("speed") && error.contains("gicd_read") && error.contains(BOOT));
    }
}
