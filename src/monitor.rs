//! The operator's side of the console: what is typed goes to one VM, or is a command.
//!
//! What there is to say of the vCPUs only their own CPUs know: they are asked, and the last one to
//! have answered prints it.

use crate::machine::{self, console};
use crate::tty::{Key, Keys};
use crate::vcpu::NAMES;
use crate::vm::{self, Stop, Vm, request};
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Mutex;

static KEYS: Mutex<Keys> = Mutex::new(Keys::new());
/// vCPUs that have not answered yet.
static AWAITED: AtomicUsize = AtomicUsize::new(0);

const HELP: &str = "Ctrl-A, then
  0 to 9  type to the VM of this number
  n       type to the next VM
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
            Some(vm) if vm.is_up() => vm.focus(),
            Some(vm) => log::info!("{} is off", vm.name()),
            None => log::info!("there is no VM {number}: Ctrl-A i shows them"),
        },
        Key::Next => vm::focus_next(),
        Key::Info => ask(),
        Key::Help => log::info!("{HELP}"),
        Key::Reset => {
            if let Some(vm) = vm::focused() {
                log::info!("{}: reset from the console", vm.name());
                vm.stop(Stop::Reset);
            }
        }
        Key::Off => {
            log::info!("powered off from the console");
            machine::power_off();
        }
        Key::Unknown(byte) => {
            log::info!(
                "no command: {}; Ctrl-A ? shows them",
                core::ascii::escape_default(byte)
            );
        }
        Key::Byte(_) => {}
    }
}

/// Asks all vCPUs for what they have done.
fn ask() {
    let vms = vm::all();
    AWAITED.store(vms.iter().map(|vm| vm.links.len()).sum(), Ordering::Relaxed);
    for link in vms.iter().flat_map(|vm| &vm.links) {
        link.request(request::REPORT);
    }
}

/// A vCPU has published what it has done.
pub fn published() {
    let less = |awaited: usize| awaited.checked_sub(1);
    if AWAITED.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less) == Ok(1) {
        show();
    }
}

fn show() {
    let focused = vm::focused().map(|vm| vm.id);
    for (number, vm) in vm::all().iter().enumerate() {
        let mark = if focused == Some(vm.id) { "*" } else { " " };
        let memory = vm.state().memory.size() >> 20;
        log::info!("{mark}{number} {}: {memory} MiB", vm.name());
        let count = vm.unassigned.count.load(Ordering::Relaxed);
        for first in vm.unassigned.first.iter().take(count as usize) {
            let address = first.load(Ordering::Relaxed);
            log::info!("    {address:#010x} is nothing, one of {count} such accesses");
        }
        for index in 0..vm.links.len() {
            log::info!("    {}", Line(vm, index));
        }
    }
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
