//! What the words of the shell do.

use super::{ask, reset, say, say_state, show_vm, type_to};
use crate::bus::interrupt;
use crate::info;
use crate::machine::{self, Live, console};
use crate::mem;
use crate::regs::mode;
use crate::shell::{self, Command, Editor, Event, Hint, Kind, LEVELS, PROMPT, Verb};
use crate::vcpu::Vcpu;
use crate::vm::{self, Vm, request};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use log::LevelFilter;
use spin::{Mutex, MutexGuard};

static EDITOR: Mutex<Editor> = Mutex::new(Editor::new());
/// Whether what is typed goes to the shell.
static OPEN: AtomicBool = AtomicBool::new(false);

#[inline(never)]
fn editor() -> MutexGuard<'static, Editor> {
    EDITOR.lock()
}

/// Whether what is typed goes to the shell.
pub(super) fn is_open() -> bool {
    OPEN.load(Ordering::Relaxed)
}

/// Opens the shell, or leaves it.
pub(super) fn toggle() {
    if is_open() {
        return leave();
    }
    OPEN.store(true, Ordering::Relaxed);
    say!("help shows what can be typed; exit or Ctrl-A h leaves");
    prompt();
}

/// Leaves the shell for the VM that was typed to before.
fn leave() {
    close();
    if let Some(vm) = vm::focused() {
        say!("input goes to {}", vm.name());
    }
}

/// What is typed goes to a VM again.
pub(super) fn close() {
    OPEN.store(false, Ordering::Relaxed);
    prompt();
}

/// Shows the line that is being typed.
fn prompt() {
    console::prompt(if is_open() {
        editor().shown()
    } else {
        String::new()
    });
}

/// `byte` has been typed.
pub(super) fn typed(byte: u8) {
    let event = editor().key(byte);
    match event {
        Event::Edited => {}
        Event::Line(line) => {
            // Not shown again between the lines of the answer.
            console::prompt(String::new());
            say!("{PROMPT}{line}");
            let vms = vm::all();
            if let Err(hint) = obey(&line, &vms) {
                say!("{hint}");
            }
        }
        Event::Complete => complete(),
        Event::Clear => say!("\x1b[2J\x1b[H"),
    }
    prompt();
}

fn names(vms: &[Arc<Vm>]) -> Vec<&str> {
    vms.iter().map(|vm| vm.name()).collect()
}

fn complete() {
    let vms = vm::all();
    let names = names(&vms);
    let mut editor = editor();
    let (line, cursor) = editor.line();
    let mut all = String::new();
    let before = line.get(..cursor).unwrap_or_default();
    let (more, whole) = shell::complete(before, &names, |name| {
        all.push_str(name);
        all.push(' ');
    });
    if more.is_empty() && !all.is_empty() {
        say!("{all}");
    }
    more.bytes().for_each(|byte| editor.insert(byte));
    if whole {
        editor.insert(b' ');
    }
}

/// The VM that is called `typed`, by its number or name.
fn find<'a>(typed: &'a str, vms: &'a [Arc<Vm>]) -> Result<&'a Arc<Vm>, Hint<'a>> {
    let number = match shell::number(typed) {
        Some(number) => number,
        None => shell::choose(Kind::Vm, typed, &names(vms))?,
    };
    vms.get(number).ok_or(Hint::Unknown(Kind::Vm, typed, None))
}

fn obey<'a>(line: &'a str, vms: &'a [Arc<Vm>]) -> Result<(), Hint<'a>> {
    match shell::parse(line)? {
        None => {}
        Some(Command::Help(None)) => (0..)
            .map_while(shell::usage)
            .for_each(|usage| say!("{usage}")),
        Some(Command::Help(Some(word))) => say!("{}", shell::usage(word).unwrap_or_default()),
        Some(Command::List) => (0..).zip(vms).for_each(|(number, vm)| show_vm(number, vm)),
        Some(Command::Stats) => ask(None),
        Some(Command::Vm(verb, vm)) => act(verb, find(vm, vms)?),
        Some(Command::Registers(vm, vcpu)) => {
            let vm = find(vm, vms)?;
            match vm.links.get(vcpu) {
                Some(link) => link.request(request::REGISTERS),
                None => say!("{} has {} vCPUs", vm.name(), vm.links.len()),
            }
        }
        Some(Command::Memory) => memory(vms),
        Some(Command::Interrupts) => interrupts(vms),
        Some(Command::Log(level)) => log_level(level),
        Some(Command::Reboot) => {
            info!("reset from the console");
            machine::reset();
        }
        Some(Command::Exit) => leave(),
    }
    Ok(())
}

fn log_level(level: Option<usize>) {
    if let Some(level) = level.and_then(|place| LevelFilter::iter().nth(place)) {
        log::set_max_level(level);
    }
    say!("{}", LEVELS[log::max_level() as usize % LEVELS.len()]);
}

/// Does to `vm` what `verb` says.
fn act(verb: Verb, vm: &Arc<Vm>) {
    match verb {
        Verb::Info => ask(Some(vm)),
        Verb::Console => type_to(vm),
        Verb::Reset => reset(vm),
        Verb::Pause | Verb::Resume => {
            match (vm.is_up(), verb) {
                (true, Verb::Pause) => vm.pause(),
                (true, _) => vm.resume(),
                _ => {}
            }
            say_state(vm);
        }
        Verb::Start if vm.is_up() => say_state(vm),
        Verb::Start => {
            // If it can't, the log says why.
            vm.start_again();
        }
        Verb::Destroy => {
            info!("{}: destroyed from the console", vm.name());
            vm.destroy();
        }
    }
}

/// Says whose the RAM is.
fn memory(vms: &[Arc<Vm>]) {
    let (heap, free) = mem::heap();
    let own = mem::own_bytes() >> 10;
    say!("free        {:8} KiB", mem::free_bytes() >> 10);
    say!(
        "hypervisor  {own:8} KiB, of them heap {} KiB, {} KiB of it free",
        heap >> 10,
        free >> 10
    );
    for vm in vms {
        say!("{:11} {:8} KiB", vm.name(), vm.state().memory.size() >> 10);
    }
}

/// Names the machine's interrupts, and the state of the VMs'.
fn interrupts(vms: &[Arc<Vm>]) {
    let wiring = machine::wiring();
    let (hyp, virt) = (wiring.hyp_timer, wiring.virtual_timer);
    let (maintenance, kick) = (wiring.maintenance, machine::KICK);
    say!("kick {kick}, maintenance {maintenance}, Hyp timer {hyp}, virtual timer {virt}");
    if let Some(console) = wiring.console {
        say!("console {console}");
    }
    for vm in vms {
        say!("{}", vm.name());
        for vcpu in 0..vm.links.len() {
            say!("    vCPU {vcpu}: {}", Interrupts::of(vm, vcpu, 0));
        }
        let words = 1..=interrupt::SHARED.div_ceil(32) as u32;
        let shared = words.map(|word| Interrupts::of(vm, 0, word));
        for shared in shared.filter(|shared| shared.words != [0; 3]) {
            say!("    shared: {shared}");
        }
    }
}

/// The state of 32 interrupts as the distributor shows it, but without a look at list registers of
/// other CPUs.
struct Interrupts {
    first: u32,
    /// Enabled, pending, active.
    words: [u32; 3],
}

impl Interrupts {
    /// Word `word` of GICD_ISENABLER, ISPENDR and ISACTIVER (ARM IHI 0048B, 4.3.5 to 4.3.9).
    fn of(vm: &Vm, vcpu: usize, word: u32) -> Self {
        let state = vm.state();
        let words = [0x100, 0x200, 0x300].map(|at| state.gic.peek(vcpu, at + 4 * word, 4));
        Self {
            first: 32 * word,
            words,
        }
    }
}

impl fmt::Display for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bits) in ["enabled", " pending", " active"].iter().zip(self.words) {
            f.write_str(name)?;
            if bits == 0 {
                f.write_str(" -")?;
            }
            let mut left = bits;
            while left != 0 {
                let start = left.trailing_zeros();
                let count = (left >> start).trailing_ones();
                let first = self.first + start;
                match count {
                    1 => write!(f, " {first}")?,
                    _ => write!(f, " {first}-{}", first + count - 1)?,
                }
                left &= u32::MAX.checked_shl(start + count).unwrap_or(0);
            }
        }
        Ok(())
    }
}

/// Shows the registers of `vcpu`, which is loaded here.
pub fn registers(vcpu: &Vcpu) {
    let regs = vcpu.context.regs();
    let mode = mode::name(regs.mode());
    say!("{} vCPU {}: {mode} mode", vcpu.vm.name(), vcpu.index);
    let four = |first: u32| [0, 1, 2, 3].map(|n| vcpu.gpr(first + n));
    let stage1 = Live::stage1();
    let halves = |wide: u64| [(wide >> 32) as u32, wide as u32];
    let ([high0, low0], [high1, low1]) = (halves(stage1.ttbr0), halves(stage1.ttbr1));
    let [r12, sp, lr, _] = four(12);
    let rows = [
        ("r0-r3", four(0)),
        ("r4-r7", four(4)),
        ("r8-r11", four(8)),
        ("r12 sp lr pc", [r12, sp, lr, regs.pc]),
        (
            "cpsr sctlr ttbcr dacr",
            [regs.cpsr, stage1.sctlr, stage1.ttbcr, stage1.dacr],
        ),
        ("ttbr0 ttbr1", [high0, low0, high1, low1]),
        (
            "dfsr dfar ifsr ifar",
            [Live::dfsr(), Live::dfar(), Live::ifsr(), Live::ifar()],
        ),
    ];
    for (names, [a, b, c, d]) in rows {
        say!("{names:22} {a:08x} {b:08x} {c:08x} {d:08x}");
    }
}
