//! The operator's side of the console: what is typed goes to one VM or to the shell, or is a command.
//!
//! What there is to say of the vCPUs only their own CPUs know: they are asked, and the last one to
//! have answered prints it. Nobody waits for that.

use crate::info;
use crate::machine::{self, console};
use crate::tty::{Key, Keys};
use crate::vcpu::NAMES;
use crate::vm::{self, Stop, Unassigned, Vm, request};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use spin::Mutex;

mod shell;

pub use shell::registers;

/// Answers the operator.
macro_rules! say {
    ($($text:tt)*) => { $crate::machine::console::say(format_args!($($text)*)) };
}
use say;

static KEYS: Mutex<Keys> = Mutex::new(Keys::new());
/// vCPUs that have not answered yet.
static AWAITED: AtomicUsize = AtomicUsize::new(0);
/// The VM whose vCPUs they are; [`ALL`]: every VM.
static ASKED: AtomicU32 = AtomicU32::new(ALL);
const ALL: u32 = u32::MAX;

const HELP: &str = "Ctrl-A, then
  0 to 9  type to the VM of this number
  n       type to the next VM
  h       open the shell, or leave it
  i       show the VMs and their vCPUs
  r       reset the VM that is typed to
  x       power the machine off
  Ctrl-A  type Ctrl-A
  ?       this";

/// Serves the console's interrupt.
pub fn input() {
    console::acknowledge();
    loop {
        let focused = vm::focused();
        if focused.as_ref().is_some_and(|vm| !vm.hears()) {
            return;
        }
        let Some(byte) = console::get() else { return };
        let key = KEYS.lock().key(byte);
        match key {
            None => {}
            Some(Key::Byte(byte)) if shell::is_open() => shell::typed(byte),
            Some(Key::Byte(byte)) => {
                if let Some(vm) = focused {
                    vm.type_in(byte);
                }
            }
            Some(command) => obey(command),
        }
    }
}

/// When [`tick`] has to be called, ticks; the greatest: never.
#[inline(always)]
#[must_use]
pub fn due() -> u64 {
    console::due()
}

/// Does what is due.
pub fn tick() {
    if console::tick()
        && let Some(until) = vm::focused().and_then(|vm| vm.give_up())
    {
        console::wake_at(until);
    }
}

fn obey(command: Key) {
    match command {
        Key::Select(number) => match vm::all().get(number) {
            Some(vm) => type_to(vm),
            None => say!("there is no VM {number}: Ctrl-A i shows them"),
        },
        Key::Next => {
            shell::close();
            vm::focus_next();
        }
        Key::Shell => shell::toggle(),
        Key::Info => ask(None),
        Key::Help => say!("{HELP}"),
        Key::Reset => {
            if let Some(vm) = vm::focused() {
                reset(&vm);
            }
        }
        Key::Off => {
            info!("powered off from the console");
            machine::power_off();
        }
        Key::Unknown(byte) => {
            say!(
                "no command: {}; Ctrl-A ? shows them",
                core::ascii::escape_default(byte)
            );
        }
        Key::Byte(_) => {}
    }
}

fn type_to(vm: &Vm) {
    if vm.is_up() {
        shell::close();
        vm.focus();
    } else {
        say_state(vm);
    }
}

fn say_state(vm: &Vm) {
    say!("{} is {}", vm.name(), state(vm));
}

#[inline(never)]
fn state(vm: &Vm) -> &'static str {
    match (vm.is_up(), vm.is_paused()) {
        (false, _) => "off",
        (_, true) => "paused",
        _ => "on",
    }
}

fn reset(vm: &Vm) {
    if vm.is_up() {
        info!("{}: reset from the console", vm.name());
        vm.stop(Stop::Reset);
    } else {
        say_state(vm);
    }
}

/// Asks the vCPUs of `vm`, or all, for what they have done.
fn ask(vm: Option<&Vm>) {
    ASKED.store(vm.map_or(ALL, |vm| vm.id), Ordering::Relaxed);
    let vms = vm::all();
    let links = || asked(&vms).flat_map(|(_, vm)| &vm.links);
    AWAITED.store(links().count(), Ordering::Release);
    for link in links() {
        link.request(request::REPORT);
    }
}

/// The VMs that have been asked, and their numbers.
fn asked(vms: &[Arc<Vm>]) -> impl Iterator<Item = (usize, &Arc<Vm>)> {
    let asked = ASKED.load(Ordering::Relaxed);
    let vms = vms.iter().enumerate();
    vms.filter(move |(_, vm)| asked == ALL || asked == vm.id)
}

/// A vCPU has published what it has done.
pub fn published() {
    let less = |awaited: usize| awaited.checked_sub(1);
    if AWAITED.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less) == Ok(1) {
        show();
    }
}

fn show() {
    for (number, vm) in asked(&vm::all()) {
        show_vm(number, vm);
        let Unassigned { count, first } = vm.state().unassigned;
        for address in first.iter().take(count as usize) {
            say!("    {address:#010x} is nothing, one of {count} such accesses");
        }
        for index in 0..vm.links.len() {
            say!("    {}", Line(vm, index));
        }
    }
}

/// A VM's line.
fn show_vm(number: usize, vm: &Vm) {
    let focused = vm::focused().is_some_and(|focused| focused.id == vm.id);
    let mark = if focused { "*" } else { " " };
    let (memory, vcpus) = (vm.state().memory.size() >> 20, vm.links.len());
    let (name, state) = (vm.name(), state(vm));
    say!("{mark}{number} {name}: {memory} MiB, {vcpus} vCPUs, {state}");
}

/// Ticks of the counter, shown as seconds.
struct Seconds(u64);

impl core::fmt::Display for Seconds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let ms = self.0 / u64::from(machine::wiring().frequency / 1000).max(1);
        write!(f, "{}.{:03} s", ms / 1000, ms % 1000)
    }
}

/// A vCPU's line.
struct Line<'a>(&'a Vm, usize);

impl core::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self(vm, index) = *self;
        let Some(link) = vm.links.get(index) else {
            return Ok(());
        };
        let figures = *link.figures.lock();
        let guest = Seconds(figures.ran - figures.in_hyp);
        let hyp = Seconds(figures.in_hyp);
        write!(f, "vCPU {index} on CPU {}: {}", link.cpu(), figures.doing)?;
        write!(
            f,
            ", {guest} in the guest, about {hyp} in the hypervisor; exits"
        )?;
        let mut none = true;
        for (name, count) in NAMES.iter().zip(figures.exits) {
            if count != 0 {
                none = false;
                write!(f, " {name} {count}")?;
            }
        }
        if none {
            f.write_str(" none")?;
        }
        match figures.refused {
            (count, Some(last)) => write!(f, "; not performed {count}, last {last}"),
            _ => Ok(()),
        }
    }
}
